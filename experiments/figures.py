"""The picture of the README: what SSKD does, in five acts.

    python -m experiments.figures            # draws docs/sskd.png
    python -m experiments.figures PATH

Nothing in the picture is made up: teacher, heads and student are perceptrons with one hidden layer,
trained for it on scikit-learn's digits by SSKD's own losses. The teacher's head and the student are
shown before they are fully trained, so that the head still makes mistakes, and the student still
differs from its teacher.
"""

import argparse
import io
import pathlib
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from experiments.brushes import (
    FROZEN,
    FROZEN_HEAD,
    GREY,
    HEAD,
    INK,
    LABEL,
    PALE,
    STUDENT,
    TEACHER,
    arrow,
    bars,
    card,
    head_box,
    matrix,
    network,
    picture,
    write,
)
from experiments.scene import TURNS, Scene, perform
from sskd_jax.system.console import fail

PICTURE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "sskd.png"
SIZE = 900, 588  # of the canvas, in pixels of the README's page; the file is twice as wide and high


def teacher_learns(axes: Axes, scene: Scene) -> None:
    card(axes, 8, 8, 240, 272, 1, "The teacher learns", "Cross-entropy (ce) with the labels.")
    for place, image in enumerate(scene.image):
        picture(axes, 24, 56 + 41 * place, 35, image[0])
    arrow(axes, (66, 136), (81, 136))
    end = network(axes, 87, 136, 5, TEACHER, "teacher")
    arrow(axes, (end + 5, 136), (end + 20, 136))
    bars(axes, end + 25, 156, 80, 56, scene.certain, TEACHER, label=scene.label[0])
    write(
        axes,
        end + 65,
        174,
        f"label: {scene.label[0]}",
        7.6,
        color=LABEL,
        weight="bold",
        ha="center",
    )


def head_learns(axes: Axes, scene: Scene) -> None:
    card(
        axes,
        258,
        8,
        328,
        272,
        2,
        "The frozen teacher gets a head",
        "The head learns which rotated image was made from\n"
        "which image: cross-entropy of every row, temperature 1.",
    )
    for turn in range(TURNS):
        picture(axes, 272 + 27 * (turn % 2), 110 + 27 * (turn // 2), 24, scene.image[0, turn])
    arrow(axes, (329, 136), (342, 136))
    end = network(axes, 348, 136, 5, FROZEN, "teacher ❄")
    arrow(axes, (end + 5, 136), (end + 18, 136))
    end = head_box(axes, end + 23, 136, HEAD)
    arrow(axes, (end + 5, 136), (end + 18, 136))
    matrix(axes, 490, 80, (21, 11.6), scene.teacher_similarity, scene.image)
    write(axes, 532, 58, "normal", 6.8, color=GREY, ha="center", va="bottom")
    write(axes, 471, 80, "rotated", 6.8, color=GREY, rotation=90, ha="right")
    write(axes, 272, 212, "dark: similar, red: its own image", 6.8, color=GREY)


def both_see(axes: Axes, scene: Scene) -> None:
    card(
        axes,
        596,
        8,
        296,
        272,
        3,
        "Both see every image 4 times",
        "As it is (normal) and in three rotations.\n"
        "Only the student and its head learn: ❄ is frozen.",
    )
    for row, views in enumerate(scene.image):
        for turn, image in enumerate(views):
            picture(axes, 610 + 33 * turn + 4 * (turn > 0), 76 + 33 * row, 29, image)
    write(axes, 624.5, 72, "normal", 6.8, ha="center", va="bottom", color=GREY)
    write(axes, 694, 72, "rotated", 6.8, ha="center", va="bottom", color=GREY)
    for y, layers, color, head, name in (
        (88, 5, FROZEN, FROZEN_HEAD, "teacher ❄"),
        (178, 3, STUDENT, HEAD, "student"),
    ):
        arrow(axes, (752, 141), (773, y + (9 if y < 141 else -9)))
        end = network(axes, 779 if layers == 5 else 790, y, layers, color, name)
        arrow(axes, (end + 5, y), (847, y))
        head_box(axes, 853, y, head, "head ❄" if layers == 5 else "head")


def student_imitates(axes: Axes, scene: Scene) -> None:
    loss = " + ".join(f"{scene.weights[term]:g} {term}" for term in ("ce", "kd", "tf", "ss"))
    seen = scene.teacher[0, 2].argmax()
    card(
        axes,
        8,
        290,
        676,
        290,
        4,
        "The student imitates",
        f"loss = {loss}.  The teacher's mistakes teach, too: upside down, a {scene.label[0]} is "
        f"rather a {seen}.\nOf the rows in which it picks a wrong image, the least wrong "
        f"{scene.ratio:.0%} are kept; the others are crossed out.",
    )
    for x, turn, term, title in (
        (22, 0, "kd", "predictions, normal view"),
        (206, 2, "tf", "predictions, rotated views"),
    ):
        write(axes, x, 332, title, 7.8, weight="bold")
        picture(axes, x, 380, 42, scene.image[0, turn])
        for y, chances, color, name in (
            (408, scene.teacher, TEACHER, "teacher ❄"),
            (494, scene.student, STUDENT, "student"),
        ):
            label = scene.label[0] if (turn, color) == (0, STUDENT) else None
            bars(axes, x + 62, y, 96, 105, chances[0, turn], color, color == STUDENT, label)
            write(axes, x + 62, y - 46, name, 7, color=color)
        pull(axes, (x + 128, 413), (x + 128, 440), term)
    write(axes, 33, 484, f"label: {scene.label[0]}", 7.4, color=LABEL, weight="bold", va="bottom")
    pull(axes, (28, 494), (80, 494), "ce")
    write(axes, 398, 332, "similarities of rotated to normal images", 7.8, weight="bold")
    for x, similarity, color, name in (
        (424, scene.teacher_similarity, "Blues", "teacher ❄"),
        (582, scene.student_similarity, "Greens", "student"),
    ):
        bottom = matrix(axes, x, 371, (21, 11.6), similarity, scene.image, scene.kept, color)
        write(
            axes,
            x + 42,
            bottom + 3,
            name,
            7,
            ha="center",
            color=TEACHER if color == "Blues" else STUDENT,
        )
    pull(axes, (514, 445), (560, 445), "ss")


def student_leaves(axes: Axes, scene: Scene) -> None:
    card(
        axes,
        694,
        290,
        198,
        290,
        5,
        "The student leaves",
        "Alone: its head and\nthe teacher stay behind.",
    )
    picture(axes, 710, 370, 42, scene.image[0, 0])
    arrow(axes, (758, 391), (773, 391))
    end = network(axes, 781, 391, 3, STUDENT, "student")
    arrow(axes, (end + 6, 391), (end + 24, 391))
    network(axes, 742, 494, 5, PALE)
    for x in (806, 834):
        head_box(axes, x, 494, PALE, "")
    write(
        axes,
        end + 38,
        391,
        str(scene.label[0]),
        22,
        weight="bold",
        ha="center",
        va="center_baseline",
        color=STUDENT,
    )


def pull(axes: Axes, start: tuple[float, float], stop: tuple[float, float], term: str) -> None:
    """Draws an arrow towards the part that learns, with the name of the loss term on it."""
    arrow(axes, start, stop, INK)
    x, y = (0.55 * start[k] + 0.45 * stop[k] for k in range(2))
    write(
        axes,
        x,
        y,
        term,
        8.2,
        weight="bold",
        color="white",
        ha="center",
        va="center_baseline",
        zorder=6,
        bbox=dict(boxstyle="round,pad=0.22", facecolor=INK, edgecolor="none"),
    )


def draw(path: pathlib.Path, scene: Scene) -> None:
    """Draws the five acts as a PNG of twice SIZE pixels, in 224 colours to keep the file small."""
    figure = plt.figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=200)
    axes = figure.add_axes((0, 0, 1, 1))
    for act in (teacher_learns, head_learns, both_see, student_imitates, student_leaves):
        act(axes, scene)
    axes.set(xlim=(0, SIZE[0]), ylim=(SIZE[1], 0), aspect="equal")
    axes.axis("off")
    file = io.BytesIO()
    figure.savefig(file)
    plt.close(figure)
    image = Image.open(file).convert("RGB").quantize(224, dither=Image.Dither.NONE)
    image.save(path, "PNG", optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=PICTURE)
    path = parser.parse_args(argv).path
    try:
        draw(path, perform())
    except OSError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
