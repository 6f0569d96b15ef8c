r"""Keeps finished runs under experiments/results, and writes the page that compares all of them.

    python -m experiments.record runs/sskd
    python -m experiments.record runs/tables/*/

Of a workdir it keeps the config, the environments, a row per epoch and per checkpoint, and the
results, and adds a picture of the accuracy against the minutes. Runs that differ in their seed
alone share a row of the page.
"""

import argparse
import itertools
import json
import pathlib
import shutil
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sskd_jax.system import early

if __name__ == "__main__":  # before the imports that take seconds
    early.catch_signals(early.ANEW)

from configs.methods import NAMES
from sskd_jax.main import fail
from sskd_jax.system.console import console
from sskd_jax.system.paths import locate, write_bytes
from sskd_jax.types import UserError
from sskd_jax.workdir.files import METRICS, TIMES, read_json, read_rows
from sskd_jax.workdir.logbook import HARMLESS, differences, flatten, minutes
from sskd_jax.workdir.report import kind_of

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
WIDTH = 120  # of the page
TITLE = "# Results"
INTRODUCTION = """What was run, a row per experiment: top-1 accuracy on the test images in per cent,
with the standard deviation over the seeds where there are several. The last epoch is the result;
the best one, picked on the test images, stands beside it because the paper's numbers are such.
Minutes are those of the method's own stages + those of the network, with compilation and
evaluations. `python -m experiments.record WORKDIR` adds a run and writes this page."""

Row = dict[str, Any]


class Network(NamedTuple):
    """A network of a kept run.

    Attributes:
      run: the name of its folder.
      config: of the run.
      result: its row of the results.
      minutes: how long it was trained: the method's own stages, then the network's.
      environments: those that the network's stage was in.
    """

    run: str
    config: Row
    result: Row
    minutes: list[float]
    environments: list[Row]

    @property
    def method(self) -> str:
        """As it is typed: its folder in a comparison; alone, "+kd" shows in the weights."""
        folder, name = self.result["stage"].rpartition("/")[0], self.result.get("method", "labels")
        beside = f"{name}+kd" in NAMES and not folder and self.config["weights"]["kd"]
        return folder or name + "+kd" * bool(beside)

    @property
    def experiment(self) -> str:
        """What networks have in common that differ in their seed alone."""
        setting = self.config.get("settings", {}).get(self.method)
        others = (*HARMLESS, "seed", "settings.")
        config = flatten(self.config).items()
        alike = {key: value for key, value in config if not key.startswith(others)}
        place = self.result["stage"], self.result.get("net")
        return json.dumps([*place, setting, alike], sort_keys=True)


def places(
    workdirs: Iterable[pathlib.Path], results: pathlib.Path
) -> dict[pathlib.Path, pathlib.Path]:
    """The workdir by the folder of its record, once it is sure that all of them can be kept.

    Raises:
      UserError: one is no finished run, or its record would take the place of another run's.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for workdir in dict.fromkeys(path.resolve() for path in workdirs):
        missing = [name for name in FILES if not (workdir / name).is_file()]
        if missing:
            raise UserError(
                f"{workdir} has no {missing[0]}: give the workdir of a run that came to its end"
            )
        rows(workdir)
        folder = results / workdir.name
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
    """Whether a record is of this run, as it is or as it was earlier; true where there is none."""
    for name in (METRICS, TIMES):
        if (kept / name).exists():
            if not (workdir / name).read_bytes().startswith((kept / name).read_bytes()):
                return False
    if (kept / "config.json").exists():
        before, now = (read_json(folder / "config.json") for folder in (kept, workdir))
        if differences(before, now):
            return False
    if (kept / "results.json").exists():
        before, now = (read_json(folder / "results.json") for folder in (kept, workdir))
        return all(row in now for row in before)
    return True


def keep(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the record of a finished run to its folder, where a file is seen once it is whole."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(workdir / name, part / name)
    plot_accuracy(part, folder.name)
    folder.mkdir(exist_ok=True)
    for file in part.iterdir():
        file.replace(folder / file.name)
    part.rmdir()


def rows(folder: pathlib.Path) -> list[tuple[Network, list[str]]]:
    """The networks of a run, each with its row of the page were it there alone.

    Raises:
      UserError: the folder does not hold the whole record of a run.
    """
    read_rows(folder / METRICS)
    try:
        return [(network, cells([network])) for network in networks(folder)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} holds no record of a run of this version ({type(error).__name__}: {error})"
        ) from error


def plot_accuracy(folder: pathlib.Path, title: str) -> None:
    """The held-out accuracy of every network against the minutes of its stage, as accuracy.png."""
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
    axis.set(xlabel="minutes of the stage", ylabel="top-1, %", xlim=(0, None))
    axis.set_title(title, parse_math=False)
    axis.legend()
    figure.savefig(folder / "accuracy.png", dpi=100)
    plt.close(figure)


def networks(folder: pathlib.Path) -> Iterator[Network]:
    """The networks of a kept run, in the order of its results."""
    config, environments, results = (
        read_json(folder / name) for name in ("config.json", "environments.json", "results.json")
    )
    times = read_rows(folder / TIMES)
    for result in results:
        name = result["stage"]
        used = dict.fromkeys(row["environment"] for row in times if row["stage"] == name)
        own = dict.fromkeys(row["stage"] for row in times if belongs(row["stage"], name))
        yield Network(
            run=folder.name,
            config=config,
            result=result,
            minutes=[minutes(times, stage) for stage in own],
            environments=[environments[place] for place in used or [-1]],
        )


def belongs(stage: str, network: str) -> bool:
    """Whether a stage was trained for that of a network: sskd/head for sskd/student, or itself."""
    is_of_the_method = stage.split("/")[:-1] == network.split("/")[:-1]
    is_teacher = "teacher" in map(kind_of, (stage, network))
    return stage == network or is_of_the_method and not is_teacher


def percent(scores: Sequence[float | None]) -> str:
    """The mean in per cent, and the standard deviation where there are several."""
    if None in scores:
        return ""
    spread = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.2f}{spread}"


def device(environment: Row) -> str:
    """The name of what a stage was trained on, and how many of it."""
    if environment["platform"] == "cpu":
        return f"{environment['cores']} cores of {environment['processor']}"
    return f"{len(environment['devices'])} x {environment['devices'][0]}"


def listed(texts: Iterable[Any]) -> str:
    return ", ".join(map(str, texts))


def cells(group: Sequence[Network]) -> list[str]:
    """The row of the page for networks that differ in their seed alone."""
    one, results = group[0], [network.result for network in group]
    section = one.config[kind_of(one.result["stage"])]
    best = percent([result.get("best_top1") for result in results])
    epochs = [result["best_epoch"] for result in results if "best_epoch" in result]
    places = [environment for network in group for environment in network.environments]
    found = {
        "data": one.config["data"]["name"],
        "networks": told_networks(one),
        "method": one.method,
        "epochs": "given" if section.get("checkpoint") else str(section["epochs"]),
        "top-1, last": percent([result["top1"] for result in results]),
        "top-1, best (epoch)": f"{best} ({listed(epochs)})" if epochs else best,
        "paper, best": str(one.result.get("paper") or "-"),
        "minutes": listed(map(told_minutes, group)),
        "seeds": listed(network.config["seed"] for network in group),
        "device": listed(dict.fromkeys(map(device, places))),
        "JAX": listed(dict.fromkeys(place["versions"]["jax"] for place in places)),
        "log": listed(f"[{network.run}]({network.run}/{METRICS})" for network in group),
    }
    return [found[column] for column in COLUMNS]


def told_networks(network: Network) -> str:
    """What it is, and whom it learns from: of two that learn from each other, the other one."""
    config, result = network.config, network.result
    if kind_of(result["stage"]) == "teacher":
        return result["network"]
    pair = [config["teacher"]["model"], config["student"]["model"]]
    return " -> ".join(reversed(pair) if "net" in result else pair)


def told_minutes(network: Network) -> str:
    return " + ".join(f"{part:.1f}" for part in network.minutes)


def page(results: pathlib.Path) -> str:
    """All kept networks as a table in Markdown; a folder that is no whole record is named."""
    groups: dict[str, list[Network]] = {}
    for folder in sorted(results.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            for network, _ in rows(folder):
                groups.setdefault(network.experiment, []).append(network)
        except UserError as error:
            console.print(f"left out {error}; record its workdir again, or delete {folder}")
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, groups.values())]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return "\n\n".join([TITLE, textwrap.fill(INTRODUCTION, WIDTH), table])


def main(argv: Sequence[str] | None = None, results: pathlib.Path = RESULTS) -> None:
    """Keeps the runs that are named, and writes the page."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.record", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", nargs="+", type=pathlib.Path, help="of a finished run")
    try:
        for folder, workdir in places(parser.parse_args(argv).workdir, results).items():
            keep(workdir, folder)
            console.print(f"kept     {folder}")
        write_bytes(locate(results / "README.md"), page(results).encode())
    except (UserError, OSError) as error:
        fail(str(error))
    console.print(f"page     {results / 'README.md'}")


if __name__ == "__main__":
    main()
