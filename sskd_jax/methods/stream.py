"""What methods for streams of tasks share: the order, scores, terms, and a buffer of images.

A task consists of some consecutive classes; the tasks are trained one after the other, each for
some epochs. Shapes: N images, K classes, R images that are drawn from the buffer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sskd_jax.axis import everywhere, share
from sskd_jax.methods.common import Scores, classification_scores
from sskd_jax.types import Array, Batch, Facts, Losses, Method, Net, Nets, Stage, UserError
from sskd_jax.views import once

Memory = dict[str, Array]


class TaskByTask(NamedTuple):
    """The order in which an epoch visits the images of its task alone.

    Every epoch has as many images as the smallest task; of larger tasks, it takes a random part.
    """

    task_classes: int
    task_epochs: int

    def __call__(self, rng: np.random.Generator, images: Any, epoch: int) -> np.ndarray:
        task_of = images.label // self.task_classes
        of_the_task = np.flatnonzero(task_of == epoch // self.task_epochs)
        return rng.permutation(of_the_task)[: np.bincount(task_of).min()]

    def check(self, images: Any, epochs: int) -> None:
        """Raises a `UserError` if there are not as many epochs as all tasks have."""
        tasks = images.label.max() // self.task_classes + 1
        wanted = tasks * self.task_epochs
        if epochs != wanted:
            raise UserError(
                f"student.epochs is {epochs}, and {tasks} tasks of {self.task_epochs} epochs each "
                f"have {wanted}: use --config.student.epochs={wanted}, or "
                "configs/continual.py:epochs=N for N of each task"
            )


def among(logits: Array, columns: Array) -> Array:
    """Logits [N, K], with -inf outside the columns bool[N, K] or bool[1, K]."""
    return jnp.where(columns, logits, -jnp.inf)


def own_columns(label: Array, num_classes: int, task_classes: int) -> Array:
    """The columns bool[N, K] of the classes of each label's task."""
    columns = jnp.arange(num_classes)[None] // task_classes
    return columns == label[:, None] // task_classes


def by_task(task_classes: int) -> Scores:
    """The student's accuracy over all images and over those of every task.

    `class_il` chooses among all classes, as top1 does, and `task_il` among those of the image's
    task.
    """

    def scores(nets: Nets, batch: Batch) -> Mapping[str, Any]:
        logits, label = everywhere(nets["student"](batch.see(once)).logits), batch.label
        found = classification_scores(logits, label)
        count = logits.shape[1]
        told = among(logits, own_columns(label, count, task_classes)).argmax(1) == label
        found["task_il"] = told.astype(jnp.float32)
        for task in range(-(-count // task_classes)):
            rows = label // task_classes == task
            found[f"class_il_{task}"] = found["top1"], rows
            found[f"task_il_{task}"] = found["task_il"], rows
        return found

    return scores


def empty_buffer(facts: Facts, size: int) -> Memory:
    """A buffer of `size` slots for images, their labels, and their logits when they are stored."""
    return {
        "image": jnp.zeros((size, *facts.shape), jnp.uint8),
        "label": jnp.zeros(size, jnp.int32),
        "logits": jnp.zeros((size, facts.num_classes)),
        "seen": jnp.zeros((), jnp.int32),
    }


def reservoir(key: Array, buffer: Memory, logits: Array, batch: Batch) -> Memory:
    """The buffer after some of the batch's unaugmented images and logits [N, K] are stored.

    Every image seen so far is in it with the same probability (Vitter's algorithm R); an image
    that is seen again in a later epoch counts again.
    """
    number = buffer["seen"] + jnp.arange(batch.label.size)
    drawn = jax.random.randint(key, number.shape, 0, number + 1)
    slot = reservoir_slots(number, drawn, buffer["label"].size)
    rows = {"image": everywhere(batch.image), "label": batch.label, "logits": logits}
    # Items whose slot is `size`, which does not exist, are dropped.
    kept = {name: buffer[name].at[slot].set(row, mode="drop") for name, row in rows.items()}
    return lax.stop_gradient(kept | {"seen": buffer["seen"] + slot.size})


def reservoir_slots(number: Array, drawn: Array, size: int) -> Array:
    """The slot i32[N] of every item, or `size` for one that no slot keeps.

    Args:
      number: how many items came before each.
      drawn: a random number from 0 to `number`.
      size: of the buffer, which the first items fill one by one.
    """
    slot = jnp.where(number < size, number, jnp.minimum(drawn, size))
    # Of several items for one slot the last one stays: which write wins is not defined.
    later = jnp.arange(slot.size)[None] > jnp.arange(slot.size)[:, None]
    is_replaced = jnp.any(later & (slot[:, None] == slot[None]), 1)
    return jnp.where(is_replaced, size, slot)


def random_slots(key: Array, filled: Array, size: int, count: int) -> Array:
    """`count` different random slots; those among the first `filled` slots come first."""
    chance = jnp.where(jnp.arange(size) < filled, jax.random.uniform(key, (size,)), -1)
    return lax.top_k(chance, count)[1]


class Drawn(NamedTuple):
    """Images that were drawn from a buffer, in a new random view.

    Attributes:
      pixels: f32[r, H, W, C], this device's share.
      label: i32[R].
      logits: f32[R, K], as they were stored.
      counts: bool[R], whether they are from the buffer.
    """

    pixels: Array
    label: Array
    logits: Array
    counts: Array


def draw(key: Array, batch: Batch, count: int) -> Drawn:
    """`count` images from the buffer, which is the batch's memory, without replacement.

    While it holds fewer, images of the batch fill their places and do not count.

    Raises:
      UserError: the buffer can never hold as many.
    """
    buffer = batch.memory
    size = buffer["label"].size
    if count > size:
        raise UserError(
            f"replay_size={count} is more than the buffer holds: make buffer_size={size} larger"
        )
    filled = jnp.minimum(buffer["seen"], size)
    slot = random_slots(key, filled, size, count)
    counts = jnp.arange(count) < filled
    other = np.arange(count) % batch.label.size
    new, stored = everywhere(batch.image)[other], buffer["image"][slot]
    image = jnp.where(counts[:, None, None, None], stored, new)
    return Drawn(
        pixels=batch.see(once, share(image)),
        label=jnp.where(counts, buffer["label"][slot], batch.label[other]),
        logits=buffer["logits"][slot],
        counts=counts,
    )


def recall(batch: Batch, number: int, count: int, net: Callable[[Array], Any]) -> tuple[Drawn, Any]:
    """`count` images from the buffer, and what a net says of them now, on all devices: [R, ...].

    Draws with different numbers in one step are independent.

    Raises:
      UserError: the number of devices does not divide R.
    """
    drawn = draw(jax.random.fold_in(batch.key, number), batch, count)
    now = everywhere(net(drawn.pixels))
    if any(leaf.shape[0] != count for leaf in jax.tree.leaves(now)):
        raise UserError(f"the devices do not divide replay_size={count}: use a multiple")
    return drawn, now


def mean_of(rows: Array, counts: Array) -> Array:
    """The mean over those rows [R] that count bool[R]; 0 if none does."""
    return jnp.sum(jnp.where(counts, rows, 0)) / jnp.maximum(counts.sum(), 1)


def logit_distance(logits: Array, target: Array, counts: Array) -> Array:
    """Mean squared difference of logits [R, K] from `target`, over the rows that count bool[R]."""
    return mean_of(jnp.mean(jnp.square(logits - target), 1), counts)


def cross_entropy_over(logits: Array, label: Array, counts: Array) -> Array:
    """Cross-entropy of logits [R, K] with labels [R], over the rows that count bool[R]."""
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return mean_of(rows, counts)


def stream_method(
    terms: Sequence[str],
    nets: Mapping[str, Net],
    loss: Callable[[Nets, Batch], Losses],
    order: TaskByTask,
    buffer_size: int,
) -> Method:
    """A student that learns task by task, beside a buffer of `buffer_size` images; 0 for none."""

    def memory(key: Array, facts: Facts) -> Memory:
        return empty_buffer(facts, buffer_size)

    scores = by_task(order.task_classes)
    stage = Stage(tuple(terms), nets, loss, scores, memory if buffer_size else None, order)
    return {"student": stage}
