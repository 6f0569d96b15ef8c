r"""Fills a table: runs what is missing of it, and keeps what came out under experiments/results.

    python -m experiments.launch quarter --weights=DIR --config.data.data_dir=DIR
    python -m experiments.launch similar --only kd sskd --seeds 0 --shard 1/4 --time_limit=3600
    python -m experiments.launch similar cross --dry_run

The tables are those of experiments/plans.py. Every cell and seed has a workdir of its own, which
`python -m sskd_jax.main` trains in, so that one that fails stops no other. A teacher is trained
once for all students, and its head once for all students of a seed. A signal or the time limit
ends it with code 75, and the same command goes on. Code 1 says that a run failed: its record says
why, and `--retry` runs it again. Several processes may work at one table, on one machine or, with
--shard, on several that share the disk.
"""

import argparse
import contextlib
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from experiments import plans, protocol, record, records
from experiments.runs import (
    DONE,
    FAILED,
    LEFT,
    RUNNING,
    Place,
    Row,
    Run,
    chosen,
    hours,
    runs_of,
    shard,
    states_of,
    typed_changes,
)
from sskd_jax.system.console import complain, console, fail, table
from sskd_jax.system.early import GO_ON
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Stopped, UserError

LOG = "log.txt"  # in the workdir: what the run printed
WAIT = 20.0  # seconds between two looks at a run that another process is at
LOOK = 1.0  # seconds between two looks at a run of our own
BUSY = "another process trains in"  # what a run says whose workdir is in use


class Failure(Exception):
    """A run ended with an error; its text is the reason."""


def execute(run: Run, place: Place, interruption: Interruption) -> None:
    """Trains a run to its end, in a process of its own.

    Raises:
      Stopped: a stop was due, and the run is saved.
      Failure: it failed.
    """
    workdir = place.workdirs / run.name
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *run.command(), f"--workdir={workdir}"]
    with open(workdir / LOG, "ab") as log:
        # A session of its own, so that Ctrl-C reaches it once: through us.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None and not interruption.due():
                wait_for(process, LOOK)
            if process.poll() is None:
                process.terminate()
            code = process.wait()
        finally:
            if process.poll() is None:  # a second signal came
                process.kill()
    if code == GO_ON or code and interruption.due():
        reason = interruption.reason or f"{run.name} was stopped"
        raise Stopped(f"{reason}: the same command goes on")
    if code:
        *_, line = ["no output", *(workdir / LOG).read_text(errors="replace").splitlines()]
        raise Failure(line.removeprefix("error: ") if code == 2 else f"exit code {code}: {line}")


def wait_for(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def wait(interruption: Interruption) -> None:
    """Waits a while for what other processes do; raises `Stopped` where a stop is due."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if interruption.due():
            raise Stopped(f"{interruption.reason}: the same command goes on")
        time.sleep(LOOK)


def keep(run: Run, place: Place, reason: str = "") -> None:
    """Records what came out of a run of a teacher or a student, or why it failed; no head is."""
    if not run.told:
        return
    folder, workdir = place.results / run.name, place.workdirs / run.name
    if reason:
        config = protocol.as_json(protocol.load(run.config, run.changes))
        record.keep_failed(workdir, folder, config, run.stage or "teacher", reason)
    else:
        record.keep(workdir, folder)
    record.write_index(place.results)


def attempt(run: Run, failed: Mapping[str, str], place: Place, interruption: Interruption) -> str:
    """Trains and records a run; returns why it failed, or "".

    Args:
      run: what it needs is done, or failed.
      failed: reasons by run.
      place: where.
      interruption: of this process.
    """
    console.print(f"begins   {run.name}  ({run.label})")
    broken = [name for name in run.needs if name in failed]
    reason = f"needs {broken[0]}, which failed: {failed[broken[0]]}" if broken else ""
    try:
        if not reason:
            execute(run, place, interruption)
            keep(run, place)
    except (Failure, UserError) as failure:
        reason = str(failure)
        if BUSY in reason:  # it began there while we looked elsewhere
            wait(interruption)
            return ""
    if reason:
        keep(run, place, reason)
    console.print(f"failed   {run.name}: {reason}" if reason else f"done     {run.name}")
    return reason


def work(
    runs: Mapping[str, Run], place: Place, interruption: Interruption, retry: bool = False
) -> None:
    """Does all runs that are left, one after another, with `retry` those as well that failed.

    Raises:
      Stopped: a stop was due; the same call goes on.
    """
    states, failed = states_of(runs, place), {}
    again = {name for name, state in states.items() if retry and state == FAILED}
    while True:
        states = states_of(runs, place, again) | dict.fromkeys(failed, FAILED)
        left = [run for name, run in runs.items() if states[name] == LEFT]
        ready = [run for run in left if all(states[name] in (DONE, FAILED) for name in run.needs)]
        if not left:
            return  # or other processes are at the rest
        if ready:
            run = ready[0]
            again.discard(run.name)
            if reason := attempt(run, failed, place, interruption):
                failed[run.name] = reason
        else:
            console.print("waits    for runs of other processes")
            wait(interruption)


def show(runs: Mapping[str, Run], states: Mapping[str, str], place: Place) -> None:
    """The table of what is done, running and left, with the hours that are left."""
    networks = records.recorded(place.results)
    told: dict[str, list[str]] = {}
    left: dict[str, list[float | None]] = {}
    for name, run in runs.items():
        told.setdefault(run.label, []).append(f"{states[name]} {run.changes['seed']}")
        own = left.setdefault(run.label, [])
        # What a head takes is a part of what its students take.
        if states[name] in (LEFT, RUNNING) and run.told:
            own.append(hours(run, networks, place.workdirs / name))
    rows = [
        [label, ", ".join(told[label]), told_hours(left[label]) if left[label] else ""]
        for label in told
    ]
    table("Runs", ["what", "states and seeds", "hours left"], rows)
    counts = {state: list(states.values()).count(state) for state in (DONE, RUNNING, LEFT, FAILED)}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    total = told_hours(sum(left.values(), []))
    console.print(f"runs     {summary}; hours left, at the pace of what is recorded: {total}")


def told_hours(estimates: Sequence[float | None]) -> str:
    """The sum of estimates, and how many are not known."""
    known = [estimate for estimate in estimates if estimate is not None]
    unknown = len(estimates) - len(known)
    text = f"{sum(known):.1f}" if known or not unknown else ""
    return ", ".join(filter(None, [text, f"{unknown} unknown" * bool(unknown)]))


# ------------------------------------------------------------ the command


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Row]:
    """The arguments, and the values of those that are keys of the config."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch",
        description=__doc__.splitlines()[0],
        epilog="--config.KEY=VALUE goes to every run.",
    )
    parser.add_argument("table", nargs="+", help=", ".join(plans.TABLES))
    parser.add_argument("--only", nargs="+", default=[], help="rows and columns, such as kd")
    parser.add_argument("--seeds", nargs="+", type=int, help="in place of the table's")
    parser.add_argument("--shard", default="1/1", help="i/n: the i-th of n parts")
    parser.add_argument("--dry_run", action="store_true", help="only tell what is left")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--time_limit", type=float, default=0.0, help="in seconds")
    parser.add_argument("--weights", default="weights", help="folder of given teachers")
    parser.add_argument("--workdirs", default="runs", help="folder of the workdirs")
    parser.add_argument("--results", default=records.RECORDS, help="folder of the records")
    arguments, typed = parser.parse_known_args(argv)
    return arguments, typed_changes(typed)


def check_weights(runs: Iterable[Run]) -> None:
    """Raises a `UserError` where the file of a given teacher is not there."""
    for run in runs:
        path = run.changes.get("teacher.checkpoint", "")
        if path.endswith(protocol.GIVEN) and not pathlib.Path(path).exists():
            raise UserError(f"there is no {path}: give --weights=DIR, the folder that it lies in")


def main(argv: Sequence[str] | None = None) -> None:
    """Fills the tables that are named."""
    protocol.leave_accelerators()
    try:
        arguments, typed = parse(argv)
        folders = (arguments.workdirs, arguments.results, arguments.weights)
        place = Place(*(pathlib.Path(folder).resolve() for folder in folders))
        runs: dict[str, Run] = {}
        tables = {name: plans.table(name) for name in arguments.table}
        wanted = chosen([cell for found in tables.values() for cell in found.cells], arguments.only)
        for name, found in tables.items():
            cells = [cell for cell in found.cells if cell in wanted]
            # What several tables have in common is called as in the first one.
            own = runs_of(cells, arguments.seeds or found.seeds, typed, place)
            runs |= {
                key: run._replace(label=f"{name}: {run.label}")
                for key, run in own.items()
                if key not in runs
            }
        runs = shard(runs, arguments.shard)
        if not arguments.dry_run:
            states = states_of(runs, place)
            check_weights(run for name, run in runs.items() if states[name] == LEFT)
            with Interruption(arguments.time_limit, deferring=True) as interruption:
                work(runs, place, interruption, arguments.retry)
        states = states_of(runs, place)
        show(runs, states, place)
    except (UserError, OSError) as error:
        fail(str(error))
    except Stopped as stop:
        show(runs, states_of(runs, place), place)
        complain(f"stopped: {stop}")
        sys.exit(GO_ON)
    sys.exit(FAILED in states.values())


if __name__ == "__main__":
    main()
