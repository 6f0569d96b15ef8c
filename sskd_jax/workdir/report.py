"""The first and the last thing that a run shows: its plan; its results as a table and as a picture."""

from collections.abc import Sequence
from typing import Any

import jax

from sskd_jax.data.sources import Dataset
from sskd_jax.system.console import console, table
from sskd_jax.workdir.logbook import TIMES, Logbook, minutes, write_json

Row = dict[str, Any]


def announce(devices: Sequence[jax.Device], data: Dataset, images: int, stages: list[Row]) -> None:
    """Devices, data, and the stages with their networks and steps."""
    size = "x".join(str(n) for n in data.test.shape[:2])
    console.print(f"devices  {len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    console.print(
        f"data     {images} training and {data.test.size} test images of {size} pixels, "
        f"{data.num_classes} classes"
    )
    shown = [
        [row["stage"], row["network"], f"{row['parameters']:,}", f"{row['images']:,}", row["work"]]
        for row in stages
    ]
    table("Stages", ["stage", "network", "parameters", "images", "work"], shown)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def finish(book: Logbook, rows: list[Row]) -> None:
    """Prints the results, writes results.json and draws curves.png."""
    write_json(book.workdir / "results.json", rows)
    times = book.rows(TIMES)
    shown = [
        [
            row["stage"],
            row["network"],
            f"{row['parameters']:,}",
            percent(row["top1"]),
            percent(row["top5"]),
            percent(row.get("best_top1")),
            str(row.get("best_epoch", "")),
            f"{minutes(times, row['stage']):.1f}",
            str(row.get("paper") or "-"),
        ]
        for row in rows
    ]
    table(
        "Accuracy on the test images, %",
        [
            "stage",
            "network",
            "parameters",
            "top-1 last",
            "top-5 last",
            "top-1 best",
            "best epoch",
            "minutes",
            "paper, best",
        ],
        shown,
    )
    picture = draw(book)
    console.print(f"curves   {picture}" if picture else "curves   none: nothing was trained")
    console.print(f"results  {book.workdir / 'results.json'}")


def held_out_score(row: Row) -> str | None:
    """The name of a row's accuracy on images that its stage was not trained on, if it has one; top-1 before others."""
    names = [name for name in row if not name.startswith("train/")]
    return next(
        (name for kind in ("/top1", "/contrastive") for name in names if name.endswith(kind)), None
    )


def draw(book: Logbook) -> str | None:
    """One column per kind of stage: the held-out accuracy above, the training loss below, a line per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = {}
    for row in book.rows():
        stages.setdefault(row["stage"], []).append(row)
    if not stages:
        return None
    kinds = sorted(
        dict.fromkeys(name.rsplit("/")[-1] for name in stages), key="student".__eq__
    )  # students last
    figure, axes = plt.subplots(
        2,
        len(kinds),
        figsize=(4.5 * len(kinds), 6),
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    for name, rows in stages.items():
        accuracy, loss = axes[:, kinds.index(name.rsplit("/")[-1])]
        epochs = [row["epoch"] for row in rows]
        accuracy.set(title=name.rsplit("/")[-1])
        if score := held_out_score(rows[0]):
            accuracy.plot(epochs, [100 * row[score] for row in rows], label=name)
            accuracy.set(ylabel=f"{score}, %")
        loss.plot(epochs, [row["train/loss"] for row in rows], label=name)
        loss.set(xlabel="epoch", ylabel="train/loss", yscale="log")
    for accuracy, loss in axes.T:
        accuracy.axison = bool(accuracy.lines)  # a paraphraser learns no class
        loss.legend()
    path = book.workdir / "curves.png"
    with path.open("wb") as file:
        figure.savefig(file, dpi=120, format="png")
    plt.close(figure)
    return str(path)
