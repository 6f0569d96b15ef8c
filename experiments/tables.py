r"""The paper's tables 3 and 4: every pair of networks with the methods asked for, in one command.

    python -m experiments.tables --config=configs/cifar.py:method=scratch,kd,sskd --workdir=DIR
    python -m experiments.tables --config=configs/cifar.py:method=kd,sskd \
        --pair=vgg13,vgg8 --pair=vgg13,MobileNetV2

Every pair has a workdir of its own below --workdir; a teacher that several share is trained in the
first of them, with its head. What comes out stands in tables.json and, beside the paper's numbers,
in tables.png. As with main, exit code 75 says that it goes on with the next call.
"""

import pathlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from configs import cifar
from configs.paper import TABLES
from sskd_jax import main as cli
from sskd_jax import train
from sskd_jax.engine.devices import chief
from sskd_jax.system.console import console, table
from sskd_jax.system.paths import locate
from sskd_jax.types import UserError
from sskd_jax.workdir.logbook import write_json
from sskd_jax.workdir.report import percent

PAIR = flags.DEFINE_multi_string(
    "pair", [",".join(pair) for pair in TABLES], "Teacher and student."
)

Row = dict[str, Any]
SHARED = ("teacher", "head")  # stages that are the same for all students of a teacher


def pair_config(pair: str) -> ConfigDict:
    """The config on the command line for another pair of networks.

    Raises:
      UserError: it is not CIFAR's, or the pair is none.
    """
    flag = flags.FLAGS["config"]
    path, _, arguments = config_flags.get_config_filename(flag).partition(":")
    if pathlib.Path(path).name != "cifar.py":
        raise UserError(f"--config={path}: the tables are those of configs/cifar.py")
    if pair.count(",") != 1:
        raise UserError(f"--pair={pair}: give a teacher and a student, such as wrn_40_2,wrn_16_2")
    teacher, student = pair.split(",")
    config = cifar.get_config(f"{arguments},teacher={teacher},student={student}")
    config.update_from_flattened_dict(config_flags.get_override_values(flag))
    return config


def share_teacher(config: ConfigDict, folder: pathlib.Path) -> None:
    """Has teacher and head come from the pair that trained them.

    They are trained here if that is this very pair, or if nobody has yet.
    """
    teachers = folder.parent.glob(f"{config.teacher.model}-*/teacher/stage.json")
    homes = sorted(path.parent.parent for path in teachers)
    if not homes or folder in homes or config.teacher.checkpoint:
        return
    for stage in SHARED:
        if stage in config:
            config[stage].checkpoint = str(homes[0])


def run_pair(
    config: ConfigDict, workdir: pathlib.Path, devices: Sequence[jax.Device] | None = None
) -> list[Row]:
    """Trains one pair, or goes on; returns its rows of the final table."""
    teacher, student = config.teacher.model, config.student.model
    folder = workdir / f"{teacher}-{student}"
    share_teacher(config, folder)
    console.print(f"\n{teacher} -> {student}")
    return [
        {"teacher": teacher, "student": student, **row}
        for row in train.run(config, str(folder), devices)
    ]


def run_pairs(
    configs: Sequence[ConfigDict], workdir: str, devices: Sequence[jax.Device] | None = None
) -> list[Row]:
    """All pairs in turn, within the time limit of them together.

    What is done is reported even where the time runs out.
    """
    began, rows, folder = time.monotonic(), [], locate(workdir)
    try:
        for config in configs:
            if config.time_limit:
                config.time_limit = max(1.0, config.time_limit - (time.monotonic() - began))
            rows += run_pair(config, folder, devices)
    finally:
        if rows and chief():
            report(rows, folder)
    return rows


def report(rows: list[Row], folder: pathlib.Path) -> None:
    """The table on the screen, tables.json and tables.png."""
    write_json(folder / "tables.json", rows)
    columns = ["pair", "network", "top-1 last", "top-1 best", "paper, best"]
    table("CIFAR-100, %", columns, list(map(cells, rows)))
    console.print(f"tables   {folder / 'tables.json'}, {plot_accuracies(rows, folder)}")


def cells(row: Row) -> list[str]:
    """A network's row of the table."""
    return [
        f"{row['teacher']} -> {row['student']}",
        row["stage"],
        percent(row.get("top1")),
        percent(row.get("best_top1")),
        str(row.get("paper") or "-"),
    ]


def plot_accuracies(rows: list[Row], folder: pathlib.Path) -> pathlib.Path:
    """Every network's last epoch against the paper's best, a colour per method.

    On the line, they are equal.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 6), layout="constrained")
    methods: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("paper") and "top1" in row:
            methods.setdefault(row["stage"].split("/")[0], []).append(row)
    for name, known in methods.items():
        points = [(row["paper"], 100 * row["top1"]) for row in known]
        axis.plot(*zip(*points, strict=True), "o", label=name)
        for row, point in zip(known, points, strict=True):
            axis.annotate(
                row["network"], point, fontsize=6, xytext=(4, 0), textcoords="offset points"
            )
    axis.axline((75, 75), slope=1, color="grey", linewidth=0.5)
    axis.set(xlabel="paper, best epoch, %", ylabel="here, last epoch, %", title="CIFAR-100, top-1")
    axis.legend()
    path = folder / "tables.png"
    with path.open("wb") as file:
        figure.savefig(file, dpi=120, format="png")
    plt.close(figure)
    return path


def work(config: ConfigDict, workdir: str) -> None:
    """All pairs that are asked for, with the methods and numbers of the command line."""
    run_pairs([pair_config(pair) for pair in PAIR.value], workdir)


if __name__ == "__main__":
    app.run(partial(cli.main, work=work), flags_parser=cli.parse)
