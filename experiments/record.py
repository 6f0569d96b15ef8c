r"""Writes records of runs to experiments/results: small files with their protocol and results.

    python -m experiments.record runs/sskd
    python -m experiments.record runs/table/*/

A record holds a workdir's config, environments, rows per epoch and per checkpoint, and results, and
the protocol of each network. In a workdir of several seeds, every seed is a run of its own.
`results/index.csv` has a line for every network of all runs. Afterwards,
`python -m experiments.report` writes the pages.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence

from sskd_jax.system import early

if __name__ == "__main__":  # before the imports that take seconds
    early.catch_signals(early.ANEW)

from etils import epath

from experiments import protocol
from experiments.records import DONE, FAILED, INDEX, PROBES, PROTOCOL, RECORDS, SIMILARITY, index
from sskd_jax.engine.devices import leave_accelerators
from sskd_jax.system.console import console, fail, mistakes
from sskd_jax.system.paths import locate, on_disk, write_bytes
from sskd_jax.types import UserError
from sskd_jax.workdir import seeds
from sskd_jax.workdir.files import (
    CONFIG,
    ENVIRONMENTS,
    METRICS,
    RESULTS,
    TIMES,
    Row,
    read_json,
    read_rows,
    write_json,
)
from sskd_jax.workdir.logbook import differences
from sskd_jax.workdir.stages import kind_of

FILES = (CONFIG, ENVIRONMENTS, METRICS, TIMES, RESULTS)


def places(
    workdirs: Iterable[str | os.PathLike[str]], results: pathlib.Path
) -> dict[pathlib.Path, epath.Path]:
    """The workdirs by the folders of their records, after a check that all can be recorded.

    Raises:
      UserError: a workdir is no finished run, or its record would replace that of another run.
    """
    found: dict[pathlib.Path, epath.Path] = {}
    given = map(locate, workdirs)
    for workdir in dict.fromkeys(run for path in given for run in seeds.folders(path) or [path]):
        missing = [name for name in FILES if not (workdir / name).is_file()]
        if missing:
            raise UserError(
                f"{workdir} has no {missing[0]}: give the workdir of a run that came to its end"
            )
        found_protocol(workdir)
        folder = results / workdir.name
        if workdir.name.startswith(seeds.PREFIX):  # quickstart-0 for quickstart/seed-0
            folder = results / f"{workdir.parent.name}-{workdir.name.removeprefix(seeds.PREFIX)}"
        if folder in found:
            raise UserError(
                f"{found[folder]} and {workdir} would share the record {folder}: rename one of them"
            )
        if not goes_on(folder, workdir):
            raise UserError(
                f"{folder} is there already, from another run than {workdir}: rename the workdir, "
                f"or delete {folder} to replace it"
            )
        found[folder] = workdir
    return found


def goes_on(kept: pathlib.Path, workdir: epath.Path) -> bool:
    """Whether the record in `kept` is of the run in `workdir`, in its present or an earlier state.

    Also true if there is no record, or only that of a failed run, which may be replaced.
    """
    if (kept / PROTOCOL).exists() and read_json(kept / PROTOCOL)["status"] == FAILED:
        return True
    for name in (METRICS, TIMES):
        if (kept / name).exists():
            if not (workdir / name).read_bytes().startswith((kept / name).read_bytes()):
                return False
    if (kept / CONFIG).exists():
        now = json.loads(content_of(workdir / CONFIG))
        if differences(read_json(kept / CONFIG), now):
            return False
    if (kept / RESULTS).exists():
        # Figures may differ: a finished stage is measured again at every start, by whatever device.
        before, now = (
            {(row["stage"], row.get("net"), row.get("best_epoch")) for row in read_json(file)}
            for file in (kept / RESULTS, workdir / RESULTS)
        )
        return before <= now
    return True


def found_protocol(workdir: epath.Path) -> Row:
    """The content of protocol.json for a finished run.

    Raises:
      UserError: the folder does not hold a run of this version.
    """
    try:
        config, results = (read_json(workdir / name) for name in (CONFIG, RESULTS))
        stages = [row["stage"] for row in results if not is_elsewhere(config, row["stage"])]
        networks = {stage: protocol.describe(config, stage) for stage in stages}
        return {"status": DONE, "reason": "", "seed": config["seed"], "networks": networks}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{workdir} holds no record of a run of this version ({type(error).__name__}: {error})"
        ) from error


def is_elsewhere(config: Row, stage: str) -> bool:
    """Whether a stage's network was loaded from another workdir, whose record then describes it."""
    section = config[kind_of(stage)]
    return bool(section.get("checkpoint")) and not protocol.is_given(section)


def keep(workdir: epath.Path, folder: pathlib.Path) -> None:
    """Writes the record of a finished run to a folder, in which only complete files appear."""
    for name in (METRICS, TIMES):  # damage is reported before anything is copied
        read_rows(workdir / name)
    names = [*FILES, *(name for name in (SIMILARITY, PROBES) if (workdir / name).is_file())]
    put(workdir, names, folder, found_protocol(workdir))


def keep_failed(
    workdir: epath.Path, folder: pathlib.Path, config: Row, stage: str, reason: str
) -> None:
    """Writes the record of a failed run: its protocol, why it failed, and the files that it has.

    Args:
      workdir: of the run; it may be empty.
      folder: of the record.
      config: of the run, as it is stored in config.json.
      stage: that should have produced the network.
      reason: why the run failed, in one line.
    """
    networks = {stage: protocol.describe(config, stage)}
    reason = without_folders(reason)
    told = {"status": FAILED, "reason": reason, "seed": config["seed"], "networks": networks}
    names = [name for name in FILES if (workdir / name).is_file()]
    put(workdir, names, folder, told)


def content_of(file: epath.Path) -> bytes:
    """A file's content for a record, without folders if it is JSON."""
    content = file.read_bytes()
    if file.suffix != ".json":
        return content
    # A string that is a path, or a flag's value that is one, may have spaces in its folders.
    text = re.sub(r'(?<=["=])[/~][^"=,:|]*/', "", content.decode())
    return without_folders(text).encode()


def without_folders(text: str) -> str:
    """A text in which a path such as /data/weights/a.pth has become a.pth."""
    return re.sub(r"(?<![\w.:/~])~?/(?!\s)(?:[^/\s\"',]+/)*", "", text)


def put(workdir: epath.Path, names: Iterable[str], folder: pathlib.Path, told: Row) -> None:
    """Writes a record to a temporary folder, and then moves it file by file to its own."""
    part = folder.with_name(f".{folder.name}.part")
    with alone_in(folder.parent):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in names:
            (part / name).write_bytes(content_of(workdir / name))
        write_json(part / PROTOCOL, told)
        folder.mkdir(exist_ok=True)
        for file in part.iterdir():
            file.replace(folder / file.name)
        part.rmdir()


def write_index(results: pathlib.Path) -> None:
    with alone_in(results):
        write_bytes(locate(results / INDEX), index(results).encode())


@contextlib.contextmanager
def alone_in(results: pathlib.Path) -> Iterator[None]:
    """Waits until no other process writes records to a folder, and lets none do so meanwhile."""
    results.mkdir(parents=True, exist_ok=True)
    lock = os.open(results, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def keep_runs(workdirs: Iterable[str | os.PathLike[str]], results: pathlib.Path) -> None:
    """Records finished runs in the folder `results`, and writes the index.

    Raises:
      UserError: a run is not finished, or another run has a record of the same name.
    """
    for folder, workdir in places(workdirs, results).items():
        keep(workdir, folder)
        console.print(f"kept     {folder}")
    write_index(results)
    console.print(f"index    {results / INDEX}")


def main(argv: Sequence[str] | None = None) -> None:
    """Records the runs that are named on the command line, and writes the index."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.record", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", nargs="+", help="of a finished run")
    parser.add_argument("--results", default=RECORDS, help="where it is kept")
    args = parser.parse_args(argv)
    leave_accelerators()
    try:
        keep_runs(args.workdir, on_disk(args.results))
    except mistakes() as error:
        fail(str(error))


if __name__ == "__main__":
    main()
