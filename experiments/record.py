r"""Keeps runs under experiments/results: small files that say what was done and what came out.

    python -m experiments.record runs/sskd
    python -m experiments.record runs/table/*/

Of a workdir it keeps the config, the environments, a row per epoch and per checkpoint, and the
results, and adds the protocol; of a workdir of several seeds, each of them is a run of its own.
`results/index.csv` has a line for every network of all runs. Then `python -m experiments.report`
writes the pages.
"""

import argparse
import csv
import io
import json
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sskd_jax.system import early

if __name__ == "__main__":  # before the imports that take seconds
    early.catch_signals(early.ANEW)

from experiments import protocol
from sskd_jax.system.console import console, fail
from sskd_jax.system.paths import locate, write_bytes
from sskd_jax.types import UserError
from sskd_jax.workdir import seeds
from sskd_jax.workdir.files import METRICS, TIMES, Row, read_json, read_rows, write_json
from sskd_jax.workdir.logbook import differences, minutes
from sskd_jax.workdir.stages import kind_of

RESULTS = pathlib.Path(__file__).parent / "results"
FILES = ("config.json", "environments.json", METRICS, TIMES, "results.json")
PROTOCOL = "protocol.json"
PROBES = "probes.json"  # of those that experiments/probe.py has looked at
SIMILARITY = "similarity.json"  # of those runs that experiments/similarity.py has looked at
INDEX = "index.csv"
DONE, FAILED = "done", "failed"
PROTOCOL_COLUMNS = (
    "data",
    "teacher",
    "network",
    "method",
    "changes",
    "epochs",
    "batch_size",
    "views",
    "share",
    "noise",
    "imbalance",
    "before",
    "selection",
    "teraflop",
    "experiment",
)
COLUMNS = (
    "run",
    "stage",
    "status",
    "seed",
    *PROTOCOL_COLUMNS,
    "last",
    "best",
    "held_out",
    "best_epoch",
    "minutes_before",
    "minutes",
    "device",
    "jax",
    "revision",
    "reason",
)


class Network(NamedTuple):
    """A network of a kept run, or one that a failed run was to make.

    Attributes:
      run: the name of its folder.
      stage: that makes it.
      seed: of the run.
      status: `DONE` or `FAILED`.
      reason: why it failed, or "".
      protocol: what was done; see experiments/protocol.py.
      result: its row of the results; empty where there is none.
      minutes: how long it was trained: the method's own stages, then the network's.
      environments: those that the network's stage was in.
      similarity: to its teacher, by measure; empty where it was not looked at.
      probes: accuracies of linear probes, in [0, 1], by dataset.
    """

    run: str
    stage: str
    seed: int
    status: str
    reason: str
    protocol: Row
    result: Row
    minutes: list[float]
    environments: list[Row]
    similarity: dict[str, float] = {}
    probes: dict[str, float] = {}

    @property
    def experiment(self) -> str:
        """What networks share that differ in their seed alone."""
        return self.protocol["experiment"]

    @property
    def what(self) -> str:
        """The method, with what differs from how it is by default."""
        return f"{self.protocol['method']} {self.protocol['changes']}".strip()

    @property
    def last(self) -> float | None:
        """Top-1 accuracy of the last epoch on the test images."""
        return self.result.get("top1")

    @property
    def best(self) -> float | None:
        """That of the best epoch, where it was picked on the test images."""
        return None if self.protocol["selection"] != "test images" else self.result.get("best_top1")

    @property
    def held_out(self) -> float | None:
        """That of the best epoch, where it was picked on training images that were held out."""
        return None if self.protocol["selection"] == "test images" else self.result.get("best_top1")


def places(
    workdirs: Iterable[pathlib.Path], results: pathlib.Path
) -> dict[pathlib.Path, pathlib.Path]:
    """The workdir by the folder of its record, once it is sure that all of them can be kept.

    Raises:
      UserError: one is no finished run, or its record would take the place of another run's.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    given = (path.resolve() for path in workdirs)
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


def goes_on(kept: pathlib.Path, workdir: pathlib.Path) -> bool:
    """Whether a record is of this run, as it is or as it was earlier; true where there is none.

    A failed run is no record that could be lost.
    """
    if (kept / PROTOCOL).exists() and read_json(kept / PROTOCOL)["status"] == FAILED:
        return True
    for name in (METRICS, TIMES):
        if (kept / name).exists():
            if not (workdir / name).read_bytes().startswith((kept / name).read_bytes()):
                return False
    if (kept / "config.json").exists():
        now = json.loads(content_of(workdir / "config.json"))
        if differences(read_json(kept / "config.json"), now):
            return False
    if (kept / "results.json").exists():
        before, now = (read_json(folder / "results.json") for folder in (kept, workdir))
        return all(row in now for row in before)
    return True


def found_protocol(workdir: pathlib.Path) -> Row:
    """What protocol.json of a finished run says.

    Raises:
      UserError: the folder does not hold a run of this version.
    """
    try:
        config, results = (read_json(workdir / name) for name in ("config.json", "results.json"))
        stages = [row["stage"] for row in results if not is_elsewhere(config, row["stage"])]
        networks = {stage: protocol.describe(config, stage) for stage in stages}
        return {"status": DONE, "reason": "", "seed": config["seed"], "networks": networks}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{workdir} holds no record of a run of this version ({type(error).__name__}: {error})"
        ) from error


def is_elsewhere(config: Row, stage: str) -> bool:
    """Whether a network comes from another run of ours, whose record it is in."""
    section = config[kind_of(stage)]
    return bool(section.get("checkpoint")) and not protocol.is_given(section)


def keep(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the record of a finished run to its folder, where a file is seen once it is whole."""
    for name in (METRICS, TIMES):  # damage is told before anything is kept
        read_rows(workdir / name)
    names = [*FILES, *(name for name in (SIMILARITY, PROBES) if (workdir / name).is_file())]
    put(workdir, names, folder, found_protocol(workdir))


def keep_failed(
    workdir: pathlib.Path, folder: pathlib.Path, config: Row, stage: str, reason: str
) -> None:
    """Keeps what there is of a run that failed: at least the network that was to be, and why not.

    Args:
      workdir: of the run; it may be empty.
      folder: of the record.
      config: of the run, as it reads in config.json.
      stage: that was to make the network.
      reason: a line.
    """
    networks = {stage: protocol.describe(config, stage)}
    told = {"status": FAILED, "reason": reason, "seed": config["seed"], "networks": networks}
    names = [name for name in FILES if (workdir / name).is_file()]
    put(workdir, names, folder, told)


def content_of(file: pathlib.Path) -> bytes:
    """What is kept of a file: all but the folders of this machine, as in /data/weights/a.pth."""
    content = file.read_bytes()
    if file.suffix != ".json":
        return content
    return re.sub(rb"(?<![\w.:/])/(?:[^/\s\"',]+/)*", b"", content)


def put(workdir: pathlib.Path, names: Iterable[str], folder: pathlib.Path, told: Row) -> None:
    """Writes a record beside its folder, and then moves it there file by file."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in names:
        (part / name).write_bytes(content_of(workdir / name))
    write_json(part / PROTOCOL, told)
    folder.mkdir(exist_ok=True)
    for file in part.iterdir():
        file.replace(folder / file.name)
    part.rmdir()


def networks(folder: pathlib.Path) -> Iterator[Network]:
    """The networks of a kept run, in the order of its results.

    Raises:
      UserError: the folder does not hold the whole record of a run.
    """
    try:
        told = read_json(folder / PROTOCOL)
        failed = told["status"] == FAILED
        results, times, environments = [], [], []
        if not failed:
            results = read_json(folder / "results.json")
            environments = read_json(folder / "environments.json")
            times = read_rows(folder / TIMES)
            read_rows(folder / METRICS)
        # Of two networks that taught each other, the one that the stage is called after.
        by_stage = {row["stage"]: row for row in results if "net" not in row}
        similarity, probes = (
            read_json(folder / name) if (folder / name).exists() else {}
            for name in (SIMILARITY, PROBES)
        )
        for stage, found in told["networks"].items():
            used = dict.fromkeys(row["environment"] for row in times if row["stage"] == stage)
            yield Network(
                run=folder.name,
                stage=stage,
                seed=told["seed"],
                status=told["status"],
                reason=told["reason"],
                protocol={name: found[name] for name in PROTOCOL_COLUMNS},
                result={} if failed else by_stage[stage],
                minutes=[minutes(times, name) for name in trained_for(times, stage)],
                environments=[] if failed else [environments[place] for place in used or [-1]],
                similarity=similarity.get(stage, {}),
                probes=probes.get(stage, {}),
            )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} holds no record of a run of this version ({type(error).__name__}: {error})"
        ) from error


def trained_for(times: Iterable[Row], stage: str) -> list[str]:
    """The stages that were trained for the network of one, which is the last of them."""
    found = list(dict.fromkeys(row["stage"] for row in times if belongs(row["stage"], stage)))
    return found[: found.index(stage) + 1] if stage in found else found


def belongs(stage: str, network: str) -> bool:
    """Whether a stage was trained for that of a network: sskd/head for sskd/student, or itself."""
    is_of_the_method = stage.split("/")[:-1] == network.split("/")[:-1]
    is_teacher = "teacher" in map(kind_of, (stage, network))
    return stage == network or is_of_the_method and not is_teacher


def recorded(results: pathlib.Path = RESULTS) -> list[Network]:
    """The networks of all kept runs; a folder that is no whole record is named on the screen."""
    found: list[Network] = []
    for folder in sorted(results.iterdir()) if results.is_dir() else ():
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            found += networks(folder)
        except UserError as error:
            console.print(f"left out {error}; record its workdir again, or delete {folder}")
    return found


def device(environment: Row) -> str:
    """The name of what a stage was trained on, and how many of it."""
    if environment["platform"] == "cpu":
        return f"{environment['cores']} cores of {environment['processor']}"
    return f"{len(environment['devices'])} x {environment['devices'][0]}"


def listed(texts: Iterable[Any]) -> str:
    """Different texts, with commas between."""
    return ", ".join(map(str, dict.fromkeys(texts)))


def index_row(network: Network) -> Row:
    """A network's line of index.csv, by its columns."""
    *before, own = network.minutes or [None]
    places = network.environments
    found = {
        "last": network.last,
        "best": network.best,
        "held_out": network.held_out,
        "best_epoch": network.result.get("best_epoch"),
        "minutes_before": round(sum(before), 2),
        "minutes": own and round(own, 2),
        "device": listed(map(device, places)),
        "jax": listed(place["versions"]["jax"] for place in places),
        "revision": listed(place.get("git_revision") for place in places),
    }
    return network._asdict() | network.protocol | found


def index(results: pathlib.Path = RESULTS) -> str:
    """index.csv: a line for every network of all kept runs, failed ones as well."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(index_row, recorded(results)))
    return file.getvalue()


def write_index(results: pathlib.Path) -> None:
    write_bytes(locate(results / INDEX), index(results).encode())


def keep_runs(workdirs: Sequence[pathlib.Path], results: pathlib.Path) -> None:
    """Keeps finished runs under `results`, and writes the index.

    Raises:
      UserError: a run is not finished, or another is kept under its name.
    """
    for folder, workdir in places(workdirs, results).items():
        keep(workdir, folder)
        console.print(f"kept     {folder}")
    write_index(results)
    console.print(f"index    {results / INDEX}")


def main(argv: Sequence[str] | None = None) -> None:
    """Keeps the runs that are named, and writes the index."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.record", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", nargs="+", type=pathlib.Path, help="of a finished run")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="where it is kept")
    args = parser.parse_args(argv)
    protocol.leave_accelerators()
    try:
        keep_runs(args.workdir, args.results)
    except (UserError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
