"""What a run shows at its start and its end: its plan; its results as a table and a picture."""

import io
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from etils import epath

from sskd_jax.data.sources import Dataset
from sskd_jax.system.console import console, table
from sskd_jax.system.paths import write_bytes
from sskd_jax.types import UserError
from sskd_jax.views import Optics
from sskd_jax.workdir import seeds
from sskd_jax.workdir.files import (
    METRICS,
    RESULTS,
    TIMES,
    Row,
    existing_rows,
    read_json,
    write_json,
)
from sskd_jax.workdir.logbook import Logbook, first_score, minutes
from sskd_jax.workdir.stages import kind_of

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
FEW = 6  # lines whose legend has room within the axes
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3), "ncols": 2, "fontsize": "small"}
OTHER_SCORES = ("many", "medium", "few", "ece", "task_il")  # for long tails and streams of tasks


def announce(
    devices: Sequence[jax.Device],
    data: Dataset,
    images: int,
    optics: Optics,
    stages: Iterable[Row],
) -> None:
    """Prints what a run is going to do.

    Args:
      devices: of all processes.
      data: the dataset.
      images: how many of its training images are trained on.
      optics: how the images are augmented and normalised.
      stages: a row per stage: stage, network, parameters, images and work.
    """
    size = "x".join(str(n) for n in data.test.shape[:2])
    console.print(f"devices  {len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    console.print(
        f"data     {images} training and {data.test.size} test images of {size} pixels, "
        f"{data.num_classes} classes"
    )
    console.print(
        f"views    flip {optics.flip}, pad {optics.pad}, mean {optics.mean}, std {optics.std}"
    )
    table("Stages", PLAN_COLUMNS, [plan_cells(row) for row in stages])


def plan_cells(row: Row) -> list[str]:
    """The cells of a stage's row, by `PLAN_COLUMNS`."""
    parameters, images = f"{row['parameters']:,}", f"{row['images']:,}"
    return [row["stage"], row["network"], parameters, images, row["work"]]


def percent(values: Sequence[float | None]) -> str:
    """12.34 for .1234; for several, mean ± standard deviation; "" if one of them is None."""
    if None in values:
        return ""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def finish(book: Logbook, rows: list[Row]) -> None:
    """Prints the results of a run, writes results.json and draws curves.png.

    Methods of an earlier start in this workdir that this start left out remain in all three.

    Args:
      book: of the run.
      rows: one per network that was trained: stage, network, parameters and, if there are any,
        net (for a network other than the one with the stage's name), top1, top5, best_top1 in
        [0, 1], best_epoch, start_from (from whose weights it started) and paper, the published
        accuracy in per cent.
    """
    book.check_owner()
    file = book.workdir / RESULTS
    write_json(file, with_earlier(file, rows))
    show(book.workdir)


def show(workdir: epath.Path) -> None:
    """Prints the results that a workdir holds, and draws its curves.png.

    Of several seeds, those that are finished are combined.

    Raises:
      UserError: there are none yet, or a file of them is damaged.
    """
    folders = seeds.folders(workdir) or [workdir]
    files = [file for folder in folders if (file := folder / RESULTS).exists()]
    if not files:
        raise UserError(f"{workdir} has no results.json: give the workdir of a run that is done")
    networks: dict[tuple[str, str | None], list[Row]] = {}
    for file in files:
        times = existing_rows(file.parent / TIMES)
        for row in read_json(file):
            row["minutes"] = minutes(times, row["stage"])
            networks.setdefault((row["stage"], row.get("net")), []).append(row)
    several = f", mean ± standard deviation of {len(files)} seeds" * (len(files) > 1)
    cells = [result_cells(rows, len(files)) for rows in networks.values()]
    table(f"Accuracy on the test images, %{several}", RESULT_COLUMNS, cells)
    others = [other_cells(rows) for rows in networks.values()]
    if others := [cells for cells in others if any(cells[1:])]:
        table("Other scores after the last epoch, %", ["stage", *OTHER_SCORES], others)
    for (stage, _), rows in networks.items():
        if "start_from" in rows[0]:
            console.print(f"start    {stage} began with the weights of {rows[0]['start_from']}")
    picture = plot_curves(workdir, [file.parent for file in files])
    console.print(f"curves   {picture}" if picture else f"curves   none: {METRICS} has no rows")
    for file in files:
        console.print(f"results  {file}")


def with_earlier(file: epath.Path, rows: list[Row]) -> list[Row]:
    """The rows of a results.json, if it exists, in which `rows` replace those of their networks."""
    earlier = read_json(file) if file.exists() else []
    return list({(row["stage"], row.get("net")): row for row in [*earlier, *rows]}.values())


def row_name(row: Row) -> str:
    """The stage of a network, followed by its net if the row has one."""
    return f"{row['stage']}, {row['net']}" if "net" in row else row["stage"]


def other_cells(rows: Sequence[Row]) -> list[str]:
    """A network's name and its `OTHER_SCORES`, from its rows of all seeds."""
    scores = (percent([row.get(score) for row in rows]) for score in OTHER_SCORES)
    return [row_name(rows[0]), *scores]


def result_cells(rows: Sequence[Row], count: int) -> list[str]:
    """The cells of a network's row, by `RESULT_COLUMNS`, from its rows of some of `count` seeds."""
    first, several = rows[0], len(rows) > 1
    # Of a given network they are 0, as they are not known.
    trained = statistics.mean(row["minutes"] for row in rows)
    last, top5, best = (
        percent([row.get(score) for row in rows]) for score in ("top1", "top5", "best_top1")
    )
    return [
        row_name(first) + f" (n = {len(rows)})" * (len(rows) < count),
        first["network"],
        last,
        "" if several else top5,  # so that a line has at most 80 characters
        best,
        "" if several else str(first.get("best_epoch", "")),
        f"{trained:.1f}" if trained else "",
        str(first.get("paper", "")),
    ]


def is_student(kind: str) -> bool:
    return kind == "student"


def plot_curves(workdir: epath.Path, runs: Sequence[epath.Path]) -> str | None:
    """Draws a workdir's curves.png and returns its path; None if the runs have no rows of epochs.

    There is a column per kind of stage and a line per method: the held-out score above, the
    training loss below. For several runs, which differ in their seed, the line is their mean, and
    a band shows their range.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from cycler import cycler

    papers = {row["stage"]: row.get("paper") for row in read_json(runs[0] / RESULTS)}
    stages: dict[str, dict[int, list[Row]]] = {}  # rows by stage and epoch
    for run in runs:
        for row in existing_rows(run / METRICS):
            stages.setdefault(row["stage"], {}).setdefault(row["epoch"], []).append(row)
    if not stages:
        return None
    kinds = sorted(dict.fromkeys(map(kind_of, stages)), key=is_student)  # students last
    size = (4.5 * len(kinds), 6)  # inches
    figure, axes = plt.subplots(
        2, len(kinds), figsize=size, sharex="col", squeeze=False, layout="constrained"
    )
    # From the eleventh line on, colours repeat.
    styles = cycler(linestyle=["-", ":", "-."]) * plt.rcParams["axes.prop_cycle"]
    for axis in axes.flat:
        axis.set_prop_cycle(styles)
    for name, epochs in stages.items():
        above, below = axes[:, kinds.index(kind_of(name))]
        above.set(title=kind_of(name))
        plot_stage(above, below, name, epochs, papers.get(name))
    for above, below in axes.T:
        above.axison = bool(above.lines)  # a stage without scores has no curve above
        if any(min(line.get_ydata()) <= 0 for line in below.lines):  # as losses of ITRD and VID are
            below.set_yscale("linear")
        below.legend(**(BELOW if len(below.lines) > FEW else {}))
        if published := [line for line in above.lines if line.get_linestyle() == "--"]:
            above.legend(handles=published)
    path, picture = workdir / "curves.png", io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    plt.close(figure)
    write_bytes(path, picture.getvalue())
    return str(path)


def plot_stage(
    above: Any, below: Any, name: str, epochs: dict[int, list[Row]], paper: float | None
) -> None:
    """Draws a stage's held-out score and its training loss, each into matplotlib axes.

    A dot marks the best epoch (of equal ones the last, as among checkpoints), a dashed line the
    published accuracy in per cent, if there is one. `epochs` are its rows, one per seed, by epoch.
    """
    from matplotlib import ticker

    if score := first_score(next(iter(epochs.values()))[0]):
        line, values = plot_mean(above, name, epochs, score, 100)
        best = max(values)
        place = max(epoch for epoch, value in zip(epochs, values, strict=True) if value == best)
        above.plot(place, best, "o", color=line.get_color(), markersize=4)
        above.set(ylabel=f"{score}, %")
        if paper:
            label = f"{name}, paper, best"
            above.axhline(paper, linestyle="--", linewidth=1, color=line.get_color(), label=label)
    plot_mean(below, name, epochs, "train/loss")
    below.set(xlabel="epoch", ylabel="train/loss", yscale="log")
    below.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    below.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    below.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    below.yaxis.set_minor_formatter(ticker.NullFormatter())


def plot_mean(
    axes: Any, name: str, epochs: dict[int, list[Row]], figure: str, scale: float = 1.0
) -> tuple[Any, list[float]]:
    """Draws the mean of a figure over the seeds, and, if there are several, their range as a band.

    Returns the line and its values by epoch.
    """
    values = [[scale * row[figure] for row in rows] for rows in epochs.values()]
    means = list(map(statistics.mean, values))
    marker = "." if len(means) == 1 else None  # the line of a single point would be invisible
    (line,) = axes.plot(list(epochs), means, marker=marker, label=name)
    if max(map(len, values)) > 1:
        low, high = (list(map(end, values)) for end in (min, max))
        axes.fill_between(list(epochs), low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return line, means
