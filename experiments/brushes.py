"""The shapes in the README's picture: cards, digits, arrows, networks, bars and matrices."""

from typing import Any

import matplotlib
import numpy as np

from experiments.scene import TURNS

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, GREY, PALE, PAPER = "#22303c", "#7b8794", "#d5dbe1", "#f6f8fa"
TEACHER, STUDENT, HEAD, LABEL = "#2f6690", "#2a9d6f", "#e08e2b", "#b5394a"
FROZEN = "#a9c3d8"
FROZEN_HEAD = "#f0cfa4"


def write(axes: Axes, x: float, y: float, text: str, size: float = 8, **style: Any) -> None:
    """Writes text with its upper left corner at (x, y); `ha` and `va` choose another corner."""
    axes.text(x, y, text, fontsize=size, **{"va": "top", "color": INK, **style})


def card(
    axes: Axes, x: float, y: float, width: float, height: float, act: int, title: str, text: str
) -> None:
    """Draws the frame of an act, with its number, title and explanation."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=9",
            facecolor=PAPER,
            edgecolor=PALE,
            linewidth=0.8,
        )
    )
    axes.add_patch(plt.Circle((x + 21, y + 21), 11, facecolor=INK, edgecolor="none"))
    write(
        axes,
        x + 21,
        y + 21,
        str(act),
        9.5,
        color="white",
        weight="bold",
        ha="center",
        va="center_baseline",
    )
    write(axes, x + 40, y + 21, title, 9.5, weight="bold", va="center_baseline")
    write(axes, x + 14, y + height - 12, text, 7.6, va="bottom", linespacing=1.4)


def picture(axes: Axes, x: float, y: float, size: float, image: np.ndarray) -> None:
    """Draws a digit, black on white, in a thin frame."""
    axes.imshow(
        1 - image,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(x, x + size, y + size, y),
        interpolation="nearest",
        zorder=2,
    )
    axes.add_patch(
        Rectangle((x, y), size, size, fill=False, edgecolor=PALE, linewidth=0.7, zorder=3)
    )


def arrow(
    axes: Axes,
    start: tuple[float, float],
    stop: tuple[float, float],
    color: str = GREY,
    **style: Any,
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            stop,
            arrowstyle="-|>",
            mutation_scale=8,
            linewidth=1.2,
            color=color,
            shrinkA=0,
            shrinkB=0,
            **style,
        )
    )


def network(
    axes: Axes, x: float, y: float, layers: int, color: str, name: str = "", **style: Any
) -> float:
    """Draws layers as bars of decreasing height, centred on y; returns the x where they end."""
    for layer in range(layers):
        height = 62 - 34 * layer / (layers - 1)
        bar = FancyBboxPatch(
            (x + 11 * layer, y - height / 2),
            7.5,
            height,
            boxstyle="round,pad=0,rounding_size=2.5",
            **{"facecolor": color, "edgecolor": "none", **style},
        )
        axes.add_patch(bar)
    end = x + 11 * layers - 3.5
    write(axes, (x + end) / 2, y + 36, name, 7.4, ha="center", color=INK)
    return end


def head_box(axes: Axes, x: float, y: float, color: str, name: str = "head") -> float:
    """Draws a head as two short bars; returns the x where they end."""
    for layer in range(2):
        axes.add_patch(
            FancyBboxPatch(
                (x + 10 * layer, y - 12),
                7,
                24,
                facecolor=color,
                edgecolor="none",
                boxstyle="round,pad=0,rounding_size=2.5",
            )
        )
    write(axes, x + 8.5, y + 16, name, 7.4, ha="center")
    return x + 17


def bars(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    chances: np.ndarray,
    color: str,
    digits: bool = True,
    label: int | None = None,
) -> None:
    """Draws the predicted probabilities of the ten classes as bars that stand on height y."""
    step = width / len(chances)
    axes.plot([x, x + width], [y, y], color=GREY, linewidth=0.7)
    for digit, chance in enumerate(chances):
        left = x + step * (digit + 0.14)
        axes.add_patch(
            Rectangle(
                (left, y - height * chance),
                0.72 * step,
                height * chance,
                facecolor=color,
                edgecolor="none",
            )
        )
        if digits:
            right = digit == label
            write(
                axes,
                x + step * (digit + 0.5),
                y + 3,
                str(digit),
                6.6,
                ha="center",
                color=LABEL if right else GREY,
                weight="bold" if right else "normal",
            )


def matrix(
    axes: Axes,
    x: float,
    y: float,
    cell: tuple[float, float],
    similarity: np.ndarray,
    image: np.ndarray,
    kept: np.ndarray | None = None,
    color: str = "Blues",
) -> float:
    """Draws similarities as coloured fields, with the images above and beside them.

    In every row, a frame marks the image that the row was made from. Rows that are not `kept` are
    crossed out. Returns the y where the matrix ends.
    """
    width, height = cell
    thumb = height - 1.6
    shades = plt.get_cmap(color)
    for column in range(similarity.shape[1]):
        side = min(width, 17)
        picture(axes, x + width * (column + 0.5) - side / 2, y - side - 3, side, image[column, 0])
    for row, values in enumerate(similarity):
        top = y + height * row + 3 * (row // (TURNS - 1))
        first, turn = divmod(row, TURNS - 1)
        picture(axes, x - thumb - 4, top + 0.8, thumb, image[first, turn + 1])
        for column, value in enumerate(values):
            axes.add_patch(
                Rectangle(
                    (x + width * column + 0.6, top + 0.6),
                    width - 1.2,
                    height - 1.2,
                    facecolor=shades(0.06 + 0.42 * (value + 1)),
                    edgecolor="none",
                )
            )
            if column == first:
                axes.add_patch(
                    Rectangle(
                        (x + width * column + 0.9, top + 0.9),
                        width - 1.8,
                        height - 1.8,
                        fill=False,
                        edgecolor=LABEL,
                        linewidth=1,
                    )
                )
        if kept is not None and not kept[row]:
            strike_out(axes, x - 1, top, width * len(image) + 2, height)
    return y + height * len(similarity) + 3 * (len(image) - 1)


def strike_out(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    """Fades a row, and draws a line through it."""
    axes.add_patch(
        Rectangle((x, y), width, height, facecolor=PAPER, alpha=0.8, edgecolor="none", zorder=4)
    )
    middle = y + height / 2
    axes.plot([x, x + width], [middle, middle], color=INK, linewidth=1.1, zorder=5)
