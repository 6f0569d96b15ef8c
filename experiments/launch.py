r"""Fills tables of results: trains the runs that are missing, and records their results.

    python -m experiments.launch quarter --weights=DIR --config.data.data_dir=DIR
    python -m experiments.launch similar --only kd sskd --seeds 0 --shard 1/4 --time_limit=3600
    python -m experiments.launch similar cross --dry_run

The tables are those of experiments/plans.py; records go to experiments/results. Every cell and seed
has a workdir of its own, in which `python -m sskd_jax.main` trains, so that a failed run stops only
those that need it. A teacher is trained once for all students, and its head once for all students
of a seed. A signal or the time limit ends the launcher with code 75; the same command resumes. Code
1 means that a run failed: its record says why, and `--retry` runs it again. Several processes may
fill one table, on one machine or, with --shard, on several that share the disk.
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
    Run,
    check_typed,
    chosen,
    hours,
    runs_of,
    shard,
    states_of,
    typed_changes,
)
from sskd_jax.engine.devices import leave_accelerators
from sskd_jax.system.console import complain, console, fail, mistakes, table
from sskd_jax.system.early import GO_ON
from sskd_jax.system.interruption import Interruption
from sskd_jax.system.paths import on_disk
from sskd_jax.types import Stopped, UserError
from sskd_jax.workdir.files import Row

LOG = "log.txt"  # in the workdir: what the run printed
WAIT = 20.0  # seconds between two checks of the runs that other processes train
LOOK = 1.0  # seconds between two checks of the run that this process trains
BUSY = "another process trains in"  # in the error of a run whose workdir is in use


class Failure(Exception):
    """A run ended with an error; its text is the reason."""


def execute(run: Run, place: Place, interruption: Interruption) -> None:
    """Trains a run until it finishes, in a process of its own.

    Raises:
      Stopped: the run was stopped before its end; the same command resumes it.
      Failure: the run failed.
    """
    workdir = place.workdirs / run.name
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *run.command(), f"--workdir={workdir}"]
    with open(workdir / LOG, "ab") as log:
        begin = log.tell()
        # A session of its own, so that Ctrl-C reaches the run once: through this process.
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
        told = (workdir / LOG).read_bytes()[begin:].decode(errors="replace").splitlines()
        # The process that trains in this workdir writes to the same file, also after that line.
        *_, line = ["no output", *told, *(line for line in told if BUSY in line)]
        raise Failure(line.removeprefix("error: ") if code == 2 else f"exit code {code}: {line}")


def wait_for(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def wait(interruption: Interruption) -> None:
    """Waits `WAIT` seconds for other processes; raises `Stopped` as soon as a stop is due."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if interruption.due():
            raise Stopped(f"{interruption.reason}: the same command goes on")
        time.sleep(LOOK)


def keep(run: Run, place: Place, reason: str = "") -> None:
    """Records the results of a teacher or a student, or why the run failed; not those of a head."""
    if not run.told:
        return
    folder, workdir = place.results / run.name, place.workdirs / run.name
    if reason:
        config = protocol.as_json(protocol.load(run.config, run.changes))
        record.keep_failed(workdir, folder, config, run.stage, reason)
    else:
        record.keep(workdir, folder)
    record.write_index(place.results)


def attempt(run: Run, failed: Mapping[str, str], place: Place, interruption: Interruption) -> str:
    """Trains and records a run; returns why it failed, or "" if it did not.

    Args:
      run: a run; those that it needs are done, or failed.
      failed: the reasons of failed runs, by name.
      place: the folders of workdirs, records and weights.
      interruption: the requests to stop this process.
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
        if BUSY in reason:  # another process began this run meanwhile
            wait(interruption)
            return ""
    if reason:
        keep(run, place, reason)
    console.print(f"failed   {run.name}: {reason}" if reason else f"done     {run.name}")
    return reason


def work(
    runs: Mapping[str, Run], place: Place, interruption: Interruption, retry: bool = False
) -> None:
    """Trains the runs that are left, one after another; with `retry`, also those that failed.

    Raises:
      Stopped: a stop was due; the same call resumes.
    """
    states, failed = states_of(runs, place), {}
    again = {name for name, state in states.items() if retry and state == FAILED}
    while True:
        states = states_of(runs, place, again) | dict.fromkeys(failed, FAILED)
        left = [run for name, run in runs.items() if states[name] == LEFT]
        ready = [run for run in left if all(states[name] in (DONE, FAILED) for name in run.needs)]
        if not left:
            return  # the rest is done, failed, or being trained by other processes
        if ready:
            run = ready[0]
            again.discard(run.name)
            if reason := attempt(run, failed, place, interruption):
                failed[run.name] = reason
        else:
            console.print("waits    for runs of other processes")
            wait(interruption)


def show(runs: Mapping[str, Run], states: Mapping[str, str], place: Place) -> None:
    """Prints the runs' states and seeds as a table, with an estimate of the hours left."""
    networks = records.recorded(place.results)
    told: dict[str, list[str]] = {}
    left: dict[str, list[float | None]] = {}
    for name, run in runs.items():
        told.setdefault(run.label, []).append(f"{states[name]} {run.changes['seed']}")
        own = left.setdefault(run.label, [])
        # The cost of a head is a part of the cost of its students.
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
    """The sum of the known estimates in hours, and how many are unknown, as text."""
    known = [estimate for estimate in estimates if estimate is not None]
    unknown = len(estimates) - len(known)
    text = f"{sum(known):.1f}" if known or not unknown else ""
    return ", ".join(filter(None, [text, f"{unknown} unknown" * bool(unknown)]))


# ------------------------------------------------------------ the command


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Row]:
    """The arguments of the command, and the values of --config.KEY=VALUE by key."""
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
    if arguments.time_limit < 0:
        raise UserError(f"--time_limit={arguments.time_limit:g}: give seconds, 0 for no limit")
    return arguments, typed_changes(typed)


def check_weights(runs: Iterable[Run]) -> None:
    """Raises a `UserError` if the weights file of a run's teacher does not exist."""
    for run in runs:
        path = run.changes.get("teacher.checkpoint", "")
        if path.endswith(protocol.GIVEN) and not pathlib.Path(path).exists():
            raise UserError(f"there is no {path}: give --weights=DIR, the folder that it lies in")


def main(argv: Sequence[str] | None = None) -> None:
    """Fills the tables that are named on the command line."""
    leave_accelerators()
    try:
        arguments, typed = parse(argv)
        folders = (arguments.workdirs, arguments.results, arguments.weights)
        place = Place(*(on_disk(folder).resolve() for folder in folders))
        runs: dict[str, Run] = {}
        tables = {name: plans.table(name) for name in arguments.table}
        wanted = chosen([cell for found in tables.values() for cell in found.cells], arguments.only)
        check_typed(typed, wanted)
        for name, found in tables.items():
            cells = [cell for cell in found.cells if cell in wanted]
            # A run that several tables share is labelled with the first of them.
            own = runs_of(cells, arguments.seeds or found.seeds, typed, place)
            runs |= {
                key: run._replace(label=f"{name}: {run.label}")
                for key, run in own.items()
                if key not in runs
            }
        runs = shard(runs, arguments.shard)
        if not arguments.dry_run:
            states = states_of(runs, place)
            begin = {LEFT, FAILED} if arguments.retry else {LEFT}
            check_weights(run for name, run in runs.items() if states[name] in begin)
            with Interruption(arguments.time_limit, deferring=True) as interruption:
                work(runs, place, interruption, arguments.retry)
        states = states_of(runs, place)
        show(runs, states, place)
    except mistakes() as error:
        fail(str(error))
    except Stopped as stop:
        show(runs, states_of(runs, place), place)
        complain(f"stopped: {stop}")
        sys.exit(GO_ON)
    sys.exit(FAILED in states.values())


if __name__ == "__main__":
    main()
