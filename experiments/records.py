"""Reads the records under experiments/results, which experiments/record.py writes."""

import csv
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sskd_jax.system.console import console
from sskd_jax.types import UserError
from sskd_jax.workdir.files import (
    ENVIRONMENTS,
    METRICS,
    RESULTS,
    TIMES,
    Row,
    read_json,
    read_rows,
)
from sskd_jax.workdir.logbook import minutes
from sskd_jax.workdir.stages import kind_of

RECORDS = pathlib.Path(__file__).parent / "results"
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
            results = read_json(folder / RESULTS)
            environments = read_json(folder / ENVIRONMENTS)
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


def recorded(results: pathlib.Path = RECORDS) -> list[Network]:
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


def index(results: pathlib.Path = RECORDS) -> str:
    """index.csv: a line for every network of all kept runs, failed ones as well."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(index_row, recorded(results)))
    return file.getvalue()
