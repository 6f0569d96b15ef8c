"""SSKD with another self-supervised task than the contrastive one (Xu et al., ECCV 2020, Table 2).

The paper says what the heads classify: four rotations, 24 arrangements of the image's quarters,
or all training images. That a head is one linear layer and that no row is left out is our choice.
Shapes: n images of this device's share, rows [4n, ...] image-major, the first of an image normal.
"""

import itertools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sskd_jax.axis import everywhere, share
from sskd_jax.layers.heads import Linear
from sskd_jax.losses import accuracy, cross_entropy, soft_divergence
from sskd_jax.methods.common import TEACHER, top, unscored
from sskd_jax.methods.sskd import VIEWS, prediction_terms
from sskd_jax.rules import Count, Positive, one_of
from sskd_jax.types import (
    Array,
    Batch,
    Losses,
    Method,
    Nets,
    Stage,
    Terms,
    UserError,
    frozen,
    learns,
)
from sskd_jax.views import exemplar, repeated, rotated

ARRANGEMENTS = np.array(list(itertools.permutations(range(4))))  # of quarters; the first is normal


class Task(NamedTuple):
    """What a head classifies.

    Attributes:
      see: batch -> (pixels f32[4n, H, W, C], target i32[4n]).
      classes: how many there are.
      held_out: whether it can be evaluated on images on which it was not trained.
    """

    see: Callable[[Batch], tuple[Array, Array]]
    classes: int
    held_out: bool = True


def rotation(batch: Batch) -> tuple[Array, Array]:
    """The task of the rotation by which each row was turned."""
    pixels = batch.see(rotated)
    return pixels, jnp.arange(pixels.shape[0]) % VIEWS


def jigsaw(batch: Batch) -> tuple[Array, Array]:
    """The task of how each row's quarters were arranged; evaluation cycles through all ways."""
    pixels, rows = batch.see(repeated), (batch.label.size, VIEWS - 1)
    count = len(ARRANGEMENTS)
    if batch.key is None:
        drawn = jnp.arange(rows[0] * rows[1]).reshape(rows) % count
    else:
        drawn = jax.random.randint(batch.key, rows, 0, count)
    target = share(jnp.pad(drawn, ((0, 0), (1, 0)))).ravel()
    return arranged(pixels, jnp.asarray(ARRANGEMENTS)[target]), target


def arranged(pixels: Array, order: Array) -> Array:
    """Pixels [B, H, W, C] with their quarters rearranged: quarter i of a row is order[i] of it.

    order is i32[B, 4]. If the number of rows or columns is odd, the last one becomes 0.
    """
    rows, height, width, channels = pixels.shape
    half, across = height // 2, width // 2
    even = pixels[:, : 2 * half, : 2 * across]
    quarters = even.reshape(rows, 2, half, 2, across, channels).swapaxes(2, 3)
    quarters = quarters.reshape(rows, 4, half, across, channels)
    moved = jnp.take_along_axis(quarters, order[:, :, None, None, None], 1)
    whole = moved.reshape(rows, 2, 2, half, across, channels).swapaxes(2, 3).reshape(even.shape)
    return jnp.pad(whole, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))


def exemplar_task(count: int) -> Task:
    """The task of which of `count` training images each row is a distorted view of."""

    def see(batch: Batch) -> tuple[Array, Array]:
        if batch.counts is not None and (size := batch.counts().sum()) > count:
            raise UserError(f"there are {size} training images: give as many as method.exemplars")
        return batch.see(exemplar), jnp.repeat(share(batch.index), VIEWS)

    return Task(see, count, held_out=False)


def head(task: Task) -> Stage:
    """The stage in which a head on the frozen teacher learns the task."""

    def told(nets: Nets, batch: Batch) -> tuple[Array, Array]:
        pixels, target = task.see(batch)
        return nets["head"](nets["teacher"](pixels).embed), target

    def loss(nets: Nets, batch: Batch) -> Losses:
        guess, target = told(nets, batch)
        return Losses({"ss": cross_entropy(guess, target)}, {"accuracy": accuracy(guess, target)})

    def scores(nets: Nets, batch: Batch) -> Terms:
        guess, target = everywhere(told(nets, batch))
        return {"pretext": (guess.argmax(-1) == target).astype(jnp.float32)}

    nets = {"teacher": frozen("teacher"), "head": learns(Linear(task.classes))}
    return Stage(("ss",), nets, loss, scores if task.held_out else unscored)


def pretext(
    *,
    task: Annotated[str, one_of("rotation", "jigsaw", "exemplar")],
    exemplars: Count,
    kd_temperature: Positive,
    tf_temperature: Positive,
    ss_temperature: Positive,
) -> Method:
    """SSKD's four terms, of which `ss` makes the student's head imitate the teacher's predictions.

    `exemplars` is the number of training images that the task `exemplar` can distinguish.
    """
    tasks = {
        "rotation": Task(rotation, VIEWS),
        "jigsaw": Task(jigsaw, len(ARRANGEMENTS)),
        "exemplar": exemplar_task(exemplars),
    }
    chosen = tasks[task]

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels, _ = chosen.see(batch)
        label = share(batch.label)
        student, teacher = nets["student"](pixels), nets["teacher"](pixels)
        ours, theirs = nets["head"](student.embed), nets["teacher_head"](teacher.embed)
        terms = prediction_terms(
            student.logits,
            teacher.logits,
            label,
            kd_temperature=kd_temperature,
            tf_temperature=tf_temperature,
        )
        terms["ss"] = soft_divergence(ours, theirs, temperature=ss_temperature)
        return Losses(terms, {"accuracy": accuracy(student.logits[::VIEWS], label)})

    nets = {
        "student": learns("student"),
        "head": learns(Linear(chosen.classes)),
        "teacher": frozen("teacher"),
        "teacher_head": frozen(Linear(chosen.classes), "head/head"),
    }
    student = Stage(("ce", "kd", "tf", "ss"), nets, loss, top("student"))
    return {"teacher": TEACHER, "head": head(chosen), "student": student}
