"""The picture of the README: what SSKD does, in five acts.

    python -m experiments.figures            # draws docs/sskd.png
    python -m experiments.figures PATH

Nothing in it is made up: teacher, heads and student are perceptrons with one hidden layer, trained
for this picture on scikit-learn's digits by SSKD's own losses. Head and student are shown before
they are done, so that the one still errs and the other still differs from its teacher.
"""

import argparse
import io
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import linen as nn
from PIL import Image
from sklearn.datasets import load_digits

from configs import quickstart
from sskd_jax.losses import cross_entropy
from sskd_jax.methods.sskd import (
    ProjectionHead,
    distillation_terms,
    error_level,
    positives,
    similarity_matrix,
    transferred,
)
from sskd_jax.types import Array, Params

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle  # noqa: E402

PICTURE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "sskd.png"
SIZE = 900, 588  # of the canvas; a unit is a pixel of the README's page, and of the file two by two
# The images that the picture shows: upside down, the teacher takes the first one for a 9, and it
# finds three rotations of the others more similar to a wrong image, one of which is left out.
CHOSEN = 1183, 69, 370, 1113
TURNS = 4
CLASSES = 10

INK, GREY, PALE, PAPER = "#22303c", "#7b8794", "#d5dbe1", "#f6f8fa"
TEACHER, STUDENT, HEAD, LABEL = "#2f6690", "#2a9d6f", "#e08e2b", "#b5394a"
FROZEN = "#a9c3d8"
FROZEN_HEAD = "#f0cfa4"


# ------------------------------------------------------------ what is shown


class Perceptron(nn.Module):
    """Stands for a network: its logits, and the feature in front of its classifier."""

    width: int

    @nn.compact
    def __call__(self, pixels: Array) -> tuple[Array, Array]:
        embed = nn.relu(nn.Dense(self.width)(pixels))
        return nn.Dense(CLASSES)(embed), embed


# Pixels [4N, 64] -> logits [4N, K] and what the head makes of the features, [4N, D].
Answers = Callable[[Array], tuple[Array, Array]]


class Scene(NamedTuple):
    """What the networks say about M images in four rotations, image-major; K classes.

    Attributes:
      image: [M, 4, 8, 8], view 0 as it is.
      label: [M].
      certain: the teacher's prediction for the first image, [K].
      teacher: its softened predictions, [M, 4, K].
      student: the same of the student.
      teacher_similarity: of every rotated image with every normal one, [3 * M, M].
      student_similarity: the same of the student.
      kept: bool[3 * M], the rows that the student imitates.
      weights: of the four terms.
      ratio: the share of the rows in which the teacher is wrong that are kept.
    """

    image: np.ndarray
    label: np.ndarray
    certain: np.ndarray
    teacher: np.ndarray
    student: np.ndarray
    teacher_similarity: np.ndarray
    student_similarity: np.ndarray
    kept: np.ndarray
    weights: dict[str, float]
    ratio: float


def turned_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits in four rotations, f32[N, 4, 8, 8] from 0 to 1, and their classes."""
    digits = load_digits()
    views = [np.rot90(digits.images, k, axes=(1, 2)) for k in range(TURNS)]
    return np.stack(views, 1).astype(np.float32) / 16, digits.target


def descend(
    loss: Callable[[Params, Array, Array], Array],
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
) -> Params:
    """Parameters after `steps` of Adam; loss(params, pixels [4 * 64, 64], label [64])."""
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(params, state, pixels, label):
        gradient = jax.grad(loss)(params, pixels, label)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    random, state = np.random.default_rng(0), optimizer.init(params)
    for _ in range(steps):
        index = random.choice(len(labels), 64, replace=False)
        params, state = step(params, state, flat(images[index]), labels[index])
    return params


def flat(images: np.ndarray) -> np.ndarray:
    """[N, 4, 8, 8] as rows [4N, 64], image-major."""
    return images.reshape(-1, images.shape[-1] ** 2)


def train(
    steps: int, numbers: dict[str, float], weights: dict[str, float], head_temperature: float
) -> tuple[Answers, Answers]:
    """Teacher and student behind their heads: the teacher learns for `steps`, the others for less.

    Args:
      steps: of the teacher; its head takes a quarter of them, and the student half of them.
      numbers: of SSKD's four terms.
      weights: of the terms.
      head_temperature: of the contrastive task.
    """
    images, labels = turned_digits()
    teacher, student, head = Perceptron(96), Perceptron(24), ProjectionHead()
    keys = jax.random.split(jax.random.key(0), 4)
    pixels = flat(images[:1])

    def answers(net: nn.Module, params: Params, pixels: Array) -> tuple[Array, Array]:
        logits, embed = net.apply(params["net"], pixels)
        return logits, head.apply(params["head"], embed)

    def classify(params: Params, pixels: Array, label: Array) -> Array:
        return cross_entropy(teacher.apply(params, pixels[::TURNS])[0], label)

    taught = descend(classify, teacher.init(keys[0], pixels), images, labels, steps)

    def tell_apart(params: Params, pixels: Array, label: Array) -> Array:
        similarity = similarity_matrix(answers(teacher, {"net": taught, "head": params}, pixels)[1])
        return cross_entropy(similarity / head_temperature, positives(similarity))

    random_head = head.init(keys[1], jnp.zeros((1, teacher.width)))
    taught_head = descend(tell_apart, random_head, images, labels, steps // 4)
    theirs = partial(answers, teacher, {"net": taught, "head": taught_head})

    def imitate(params: Params, pixels: Array, label: Array) -> Array:
        ours = answers(student, params, pixels)
        terms = distillation_terms(ours, theirs(pixels), label, **numbers)
        return sum(weights[name] * term for name, term in terms.items())

    random_student = {
        "net": student.init(keys[2], pixels),
        "head": head.init(keys[3], jnp.zeros((1, student.width))),
    }
    imitated = descend(imitate, random_student, images, labels, steps // 2)
    return theirs, partial(answers, student, imitated)


def perform(steps: int = 400) -> Scene:
    """Trains the networks with the quickstart's numbers, and shows them the chosen images."""
    setting = quickstart.get_config().settings.sskd
    numbers, weights = setting.method.to_dict(), setting.weights.to_dict()
    del numbers["name"], numbers["transformation"]
    teacher, student = train(
        steps, weights=weights, head_temperature=numbers.pop("head_temperature"), numbers=numbers
    )
    images, labels = turned_digits()
    image, label = images[list(CHOSEN)], labels[list(CHOSEN)]
    (logits, projected), (own_logits, own_projected) = teacher(flat(image)), student(flat(image))
    similarity = similarity_matrix(projected)
    ratio = numbers["ss_ratio"]
    kept = transferred(error_level(similarity, positives(similarity)), ratio)
    soft, own_soft = (
        jax.nn.softmax(found / numbers["kd_temperature"]) for found in (logits, own_logits)
    )
    shape = len(CHOSEN), TURNS, CLASSES
    return Scene(
        image,
        label,
        jax.nn.softmax(logits[0]),
        soft.reshape(shape),
        own_soft.reshape(shape),
        similarity,
        similarity_matrix(own_projected),
        kept,
        weights,
        ratio,
    )


# ------------------------------------------------------------ brushes


def write(axes: Axes, x: float, y: float, text: str, size: float = 8, **style: Any) -> None:
    """Text whose upper left corner, or another one by `ha` and `va`, is at (x, y)."""
    axes.text(x, y, text, fontsize=size, **{"va": "top", "color": INK, **style})


def card(
    axes: Axes, x: float, y: float, width: float, height: float, act: int, title: str, text: str
) -> None:
    """The frame of an act with its number, its title and what it says."""
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


def picture(
    axes: Axes, x: float, y: float, size: float, image: np.ndarray, edge: str = PALE
) -> None:
    """A digit, black on white, in a thin frame."""
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
        Rectangle((x, y), size, size, fill=False, edgecolor=edge, linewidth=0.7, zorder=3)
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
    """Layers as bars that become lower, centred on height y; returns where they end."""
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
    """Two short bars; returns where they end."""
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
    """Predicted probabilities of the ten classes, standing on height y."""
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
    """Similarities as fields, the images above and beside them; returns the height they end at.

    A frame marks the image that a row was made from, a line the rows that are not kept.
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
            axes.add_patch(
                Rectangle(
                    (x - 1, top),
                    width * len(image) + 2,
                    height,
                    facecolor=PAPER,
                    alpha=0.8,
                    edgecolor="none",
                    zorder=4,
                )
            )
            axes.plot(
                [x - 1, x + width * len(image) + 1],
                [top + height / 2] * 2,
                color=INK,
                linewidth=1.1,
                zorder=5,
            )
    return y + height * len(similarity) + 3 * (len(image) - 1)


# ------------------------------------------------------------ the five acts


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
    """An arrow towards what learns, with the name of the term on it."""
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
    """The five acts as a PNG of twice SIZE pixels and 224 colours, which make a small file."""
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
    image.save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=PICTURE)
    draw(parser.parse_args(argv).path, perform())


if __name__ == "__main__":
    main()
