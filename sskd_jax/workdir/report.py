"""The first and the last thing that a run shows: its plan; its results as a table and a picture."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from etils import epath

from sskd_jax.data.sources import Dataset
from sskd_jax.system.console import console, table
from sskd_jax.system.paths import write_bytes
from sskd_jax.types import UserError
from sskd_jax.workdir.files import METRICS, TIMES, existing_rows, read_json, write_json
from sskd_jax.workdir.logbook import Logbook, headline, minutes

Row = dict[str, Any]

PLAN_COLUMNS = ["stage", "network", "parameters", "images", "work"]
RESULT_COLUMNS = [
    "stage",
    "network",
    "top-1\nlast",
    "top-5\nlast",
    "top-1\nbest",
    "best\nepoch",
    "minutes",
    "paper,\nbest",
]


def announce(
    devices: Sequence[jax.Device], data: Dataset, images: int, stages: Iterable[Row]
) -> None:
    """Prints what a run is going to do.

    Args:
      devices: of all processes.
      data: the dataset.
      images: how many of its training images are trained on.
      stages: a row per stage: stage, network, parameters, images and work.
    """
    size = "x".join(str(n) for n in data.test.shape[:2])
    console.print(f"devices  {len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    console.print(
        f"data     {images} training and {data.test.size} test images of {size} pixels, "
        f"{data.num_classes} classes"
    )
    table("Stages", PLAN_COLUMNS, [plan_cells(row) for row in stages])


def plan_cells(row: Row) -> list[str]:
    """The cells of a stage's row, by `PLAN_COLUMNS`."""
    parameters, images = f"{row['parameters']:,}", f"{row['images']:,}"
    return [row["stage"], row["network"], parameters, images, row["work"]]


def percent(value: float | None) -> str:
    """12.34 for .1234; nothing for None."""
    return "" if value is None else f"{100 * value:.2f}"


def finish(book: Logbook, rows: list[Row]) -> None:
    """Prints the results of a run, writes results.json and draws curves.png.

    Methods that the workdir has from an earlier start, and this one left out, stay in all three.

    Args:
      book: of the run.
      rows: one per network that was trained: stage, network, parameters and, where there are any,
        net (of a network that the stage is not called after), top1, top5, best_top1 in [0, 1],
        best_epoch and paper, the published accuracy in per cent.
    """
    book.check_owner()
    file = book.workdir / "results.json"
    write_json(file, with_earlier(file, rows))
    show(book.workdir)


def show(workdir: epath.Path) -> None:
    """Prints the results that a workdir holds, and draws its curves.png.

    Raises:
      UserError: there are none yet, or a file of them is damaged.
    """
    file = workdir / "results.json"
    if not file.exists():
        raise UserError(f"{workdir} has no results.json: give the workdir of a run that is done")
    times = existing_rows(workdir / TIMES)
    cells = [result_cells(row, minutes(times, row["stage"])) for row in read_json(file)]
    table("Accuracy on the test images, %", RESULT_COLUMNS, cells)
    picture = plot_curves(workdir)
    console.print(f"curves   {picture}" if picture else "curves   none: nothing was trained")
    console.print(f"results  {file}")


def with_earlier(file: epath.Path, rows: list[Row]) -> list[Row]:
    """The rows of a results.json, where it exists, these in place of those of their networks."""
    earlier = read_json(file) if file.exists() else []
    return list({(row["stage"], row.get("net")): row for row in [*earlier, *rows]}.values())


def result_cells(row: Row, spent: float) -> list[str]:
    """The cells of a network's row, by `RESULT_COLUMNS`; `spent` minutes of training."""
    stage = f"{row['stage']}, {row['net']}" if "net" in row else row["stage"]
    return [
        stage,
        row["network"],
        percent(row.get("top1")),
        percent(row.get("top5")),
        percent(row.get("best_top1")),
        str(row.get("best_epoch", "")),
        f"{spent:.1f}",
        str(row.get("paper", "")),
    ]


def kind_of(stage: str) -> str:
    """The last part of a stage's name: student for sskd/student."""
    return stage.rsplit("/")[-1]


def is_student(kind: str) -> bool:
    return kind == "student"


def plot_curves(workdir: epath.Path) -> str | None:
    """Draws a workdir's curves.png and returns its path; None where nothing was trained.

    There is a column per kind of stage and a line per method: the held-out score above, the
    training loss below.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    papers = {row["stage"]: row.get("paper") for row in read_json(workdir / "results.json")}
    stages: dict[str, list[Row]] = {}
    for row in existing_rows(workdir / METRICS):
        stages.setdefault(row["stage"], []).append(row)
    if not stages:
        return None
    kinds = sorted(dict.fromkeys(map(kind_of, stages)), key=is_student)  # students last
    size = (4.5 * len(kinds), 6)  # inches
    figure, axes = plt.subplots(
        2, len(kinds), figsize=size, sharex="col", squeeze=False, layout="constrained"
    )
    for name, rows in stages.items():
        above, below = axes[:, kinds.index(kind_of(name))]
        above.set(title=kind_of(name))
        plot_stage(above, below, name, rows, papers.get(name))
    for above, below in axes.T:
        above.axison = bool(above.lines)  # a stage without scores has no curve above
        below.legend()
        if any(line.get_linestyle() == "--" for line in above.lines):
            above.legend()
    path, picture = workdir / "curves.png", io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    plt.close(figure)
    write_bytes(path, picture.getvalue())
    return str(path)


def plot_stage(above: Any, below: Any, name: str, rows: list[Row], paper: float | None) -> None:
    """Draws a stage's held-out score and its training loss, each into axes of matplotlib's.

    A dot marks the best epoch, a dashed line the published accuracy in per cent, if there is one.
    """
    from matplotlib import ticker

    epochs = [row["epoch"] for row in rows]
    if score := headline(rows[0]):
        values = [100 * row[score] for row in rows]
        (line,) = above.plot(epochs, values, label=name)
        best = max(values)
        above.plot(epochs[values.index(best)], best, "o", color=line.get_color(), markersize=4)
        above.set(ylabel=f"{score}, %")
        if paper:
            label = f"{name}, paper, best"
            above.axhline(paper, linestyle="--", linewidth=1, color=line.get_color(), label=label)
    below.plot(epochs, [row["train/loss"] for row in rows], label=name)
    below.set(xlabel="epoch", ylabel="train/loss", yscale="log")
    below.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    below.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    below.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    below.yaxis.set_minor_formatter(ticker.NullFormatter())
