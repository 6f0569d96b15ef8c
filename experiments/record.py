r"""Keeps finished runs under experiments/results, and writes the page that compares all of them.

    python -m experiments.record runs/sskd
    python -m experiments.record runs/tables/*/

Of a workdir it keeps the config, the environments, a row per epoch and per checkpoint, and the results, and adds a
picture of the accuracy against the minutes. Runs that differ in their seed alone share a row of the page.
"""

import argparse
import itertools
import json
import pathlib
import shutil
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from configs import common
from sskd_jax.main import fail
from sskd_jax.system.console import console
from sskd_jax.types import UserError
from sskd_jax.workdir.logbook import (
    HARMLESS,
    METRICS,
    TIMES,
    flatten,
    minutes,
    read_json,
    read_rows,
)

RESULTS = pathlib.Path(__file__).parent / "results"
FILES = ("config.json", "environments.json", METRICS, TIMES, "results.json")
COLUMNS = (
    "data",
    "networks",
    "method",
    "epochs",
    "top-1, last",
    "top-1, best (epoch)",
    "paper, best",
    "minutes",
    "seeds",
    "device",
    "JAX",
    "log",
)
INTRODUCTION = """# Results

What was run, a row per experiment: top-1 accuracy on the test images in per cent, with the standard deviation over the
seeds where there are several. The last epoch is the result; the best one, picked on the test images, stands beside it
because the paper's numbers are such. Minutes are those of the method's own stages + those of the network, with
compilation and evaluations. `python -m experiments.record WORKDIR` adds a run and writes this page.

"""

Row = dict[str, Any]


class Network(NamedTuple):
    """One network of one run: its row of the results, how long it was trained, and where."""

    run: str
    config: Row
    result: Row
    minutes: list[float]  # of the method's own stages, then of the network's
    environments: list[Row]  # that the network's stage was in

    @property
    def method(self) -> str:
        """As it is typed: its folder in a comparison; alone, "+kd" shows in the weights."""
        folder, name = self.result["stage"].rpartition("/")[0], self.result.get("method", "labels")
        beside = f"{name}+kd" in common.NAMES and not folder and self.config["weights"]["kd"]
        return folder or name + "+kd" * bool(beside)

    @property
    def experiment(self) -> str:
        """What networks have in common that differ in their seed alone."""
        setting = self.config.get("settings", {}).get(self.method)
        alike = {
            key: value
            for key, value in flatten(self.config).items()
            if not key.startswith((*HARMLESS, "seed", "settings."))
        }
        return json.dumps([self.result["stage"], setting, alike], sort_keys=True)


def keep(workdir: pathlib.Path, results: pathlib.Path) -> pathlib.Path:
    """Copies the record of a finished run; returns its folder.

    Raises:
      UserError: it is none.
    """
    missing = [name for name in FILES if not (workdir / name).exists()]
    if missing:
        raise UserError(
            f"{workdir} has no {missing[0]}: give the workdir of a run that came to its end"
        )
    folder = results / workdir.resolve().name
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(workdir / name, folder / name)
    draw(folder)
    return folder


def draw(folder: pathlib.Path) -> None:
    """The held-out accuracy of every network against the minutes that its stage took, as accuracy.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    times = read_rows(folder / TIMES)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for stage, rows in itertools.groupby(read_rows(folder / METRICS), lambda row: row["stage"]):
        points = [
            (minutes(times, stage, row["step"]), 100 * score)
            for row in rows
            for name, score in row.items()
            if name in ("test/top1", "validation/top1")
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker=".", label=stage)
    axis.set(xlabel="minutes of the stage", ylabel="top-1, %", title=folder.name, xlim=(0, None))
    axis.legend()
    figure.savefig(folder / "accuracy.png", dpi=100)
    plt.close(figure)


def networks(folder: pathlib.Path) -> Iterator[Network]:
    """Those of a kept run, in the order of its results."""
    config, environments, results = (
        read_json(folder / name) for name in ("config.json", "environments.json", "results.json")
    )
    times = read_rows(folder / TIMES)
    for result in results:
        used = {row["environment"]: None for row in times if row["stage"] == result["stage"]}
        stages = dict.fromkeys(
            row["stage"] for row in times if belongs(row["stage"], result["stage"])
        )
        yield Network(
            folder.name,
            config,
            result,
            [minutes(times, stage) for stage in stages],
            [environments[place] for place in used or [-1]],
        )


def belongs(stage: str, network: str) -> bool:
    """Whether a stage was trained for the network of another, or is it: sskd/head for sskd/student."""
    return (
        stage == network
        or "teacher" not in (stage, network)
        and stage.split("/")[:-1] == network.split("/")[:-1]
    )


def percent(scores: Sequence[float | None]) -> str:
    """The mean in per cent, and the standard deviation where there are several."""
    if None in scores:
        return ""
    spread = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.2f}{spread}"


def device(environment: Row) -> str:
    if environment["platform"] == "cpu":
        return f"{environment['cores']} cores of {environment['processor']}"
    return f"{len(environment['devices'])} x {environment['devices'][0]}"


def different(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def cells(group: Sequence[Network]) -> list[str]:
    """The row of the page for networks that differ in their seed alone."""
    one, results = group[0], [network.result for network in group]
    teacher, student = one.config["teacher"], one.config["student"]
    section = teacher if one.result["stage"] == "teacher" else student
    epochs = [str(result["best_epoch"]) for result in results if "best_epoch" in result]
    environments = [environment for network in group for environment in network.environments]
    return [
        one.config["data"]["name"],
        one.result["network"]
        if section is teacher
        else f"{teacher['model']} -> {student['model']}",
        one.method,
        "given" if section.get("checkpoint") else str(section["epochs"]),
        percent([result["top1"] for result in results]),
        percent([result.get("best_top1") for result in results])
        + (f" ({', '.join(epochs)})" if epochs else ""),
        str(one.result.get("paper") or "-"),
        ", ".join(" + ".join(f"{part:.1f}" for part in network.minutes) for network in group),
        ", ".join(str(network.config["seed"]) for network in group),
        different(map(device, environments)),
        different(place["versions"]["jax"] for place in environments),
        ", ".join(f"[{network.run}]({network.run}/{METRICS})" for network in group),
    ]


def page(results: pathlib.Path) -> str:
    """All kept networks as a table in Markdown."""
    found = [
        network
        for folder in sorted(results.iterdir())
        if folder.is_dir()
        for network in networks(folder)
    ]
    groups: dict[str, list[Network]] = {}
    for network in found:
        groups.setdefault(network.experiment, []).append(network)
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, groups.values())]
    return INTRODUCTION + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(argv: Sequence[str] | None = None, results: pathlib.Path = RESULTS) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.record", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", nargs="+", type=pathlib.Path, help="of a finished run")
    try:
        for workdir in parser.parse_args(argv).workdir:
            console.print(f"kept     {keep(workdir, results)}")
        (results / "README.md").write_text(page(results))
    except UserError as error:
        fail(str(error))
    console.print(f"page     {results / 'README.md'}")


if __name__ == "__main__":
    main()
