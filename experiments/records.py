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
PROBES = "probes.json"  # of runs that experiments/probe.py has measured
SIMILARITY = "similarity.json"  # of runs that experiments/similarity.py has measured
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
    """A network of a recorded run, or the one that a failed run should have produced.

    Attributes:
      run: the name of the record's folder.
      stage: that produces it.
      seed: of the run.
      status: `DONE` or `FAILED`.
      reason: why the run failed, or "".
      protocol: how it is trained; see experiments/protocol.py.
      result: its row of the results; empty if the run failed.
      minutes: of training, for each of the method's own stages, then for the network's stage.
      environments: the machines and versions with which the network's stage was trained.
      similarity: to its teacher, by measure, and the data of pictures; empty if not measured.
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
    similarity: Row = {}
    probes: dict[str, float] = {}

    @property
    def experiment(self) -> str:
        """The identifier that is the same for networks which differ only in their seed."""
        return self.protocol["experiment"]

    @property
    def what(self) -> str:
        """The method, with those of its settings that differ from the defaults."""
        return f"{self.protocol['method']} {self.protocol['changes']}".strip()

    @property
    def last(self) -> float | None:
        """Top-1 accuracy on the test images after the last epoch; None if unknown."""
        return self.result.get("top1")

    @property
    def best(self) -> float | None:
        """Top-1 accuracy after the best epoch, if that was picked on the test images; else None."""
        return None if self.protocol["selection"] != "test images" else self.result.get("best_top1")

    @property
    def held_out(self) -> float | None:
        """Top-1 accuracy after the best epoch, if that was picked on held-out images; else None."""
        return None if self.protocol["selection"] == "test images" else self.result.get("best_top1")


def networks(folder: pathlib.Path) -> Iterator[Network]:
    """Yields the networks of a recorded run, in the order of its results.

    Raises:
      UserError: the folder does not hold the complete record of a run.
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
        # Of two networks that taught each other, only the one that the stage is named after.
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
    """The stages that were trained for the network of `stage`, in order; the last is `stage`."""
    found = list(dict.fromkeys(row["stage"] for row in times if belongs(row["stage"], stage)))
    return found[: found.index(stage) + 1] if stage in found else found


def belongs(stage: str, network: str) -> bool:
    """Whether a stage is that of a network, or another of the same method, such as sskd/head.

    The stages of teachers count only for the teachers themselves.
    """
    is_of_the_method = stage.split("/")[:-1] == network.split("/")[:-1]
    is_teacher = "teacher" in map(kind_of, (stage, network))
    return stage == network or is_of_the_method and not is_teacher


def recorded(results: pathlib.Path) -> list[Network]:
    """The networks of all recorded runs; prints the incomplete records that it leaves out."""
    found: list[Network] = []
    for folder in sorted(results.iterdir()) if results.is_dir() else ():
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            found += networks(folder)
        except UserError as error:
            console.print(f"left out {error}; record its workdir again, or delete {folder}")
    return found


def by_experiment(networks: Iterable[Network]) -> dict[str, dict[int, Network]]:
    """Networks by experiment and then by seed, in order; a finished one replaces a failed one."""
    found: dict[str, dict[int, Network]] = {}
    for network in sorted(networks, key=lambda one: one.status == DONE):
        found.setdefault(network.experiment, {})[network.seed] = network
    return {experiment: dict(sorted(seeds.items())) for experiment, seeds in found.items()}


def device(environment: Row) -> str:
    """The number and the name of an environment's devices; of its cores if it is a CPU."""
    if environment["platform"] == "cpu":
        return f"{environment['cores']} cores of {environment['processor']}"
    return f"{len(environment['devices'])} x {environment['devices'][0]}"


def listed(texts: Iterable[Any]) -> str:
    """The distinct texts, joined by commas."""
    return ", ".join(map(str, dict.fromkeys(texts)))


def index_row(network: Network) -> Row:
    """The values of a network's line in index.csv, by column."""
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
    """The content of index.csv: a line for every network of all recorded runs, even failed ones."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(index_row, recorded(results)))
    return file.getvalue()
