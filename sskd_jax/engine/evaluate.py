"""Sums and counts over a whole split, in one dispatch where it is resident; divided once, at the end."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine.devices import Mapped, first, mine
from sskd_jax.engine.step import Frozen, Task, at, forward, gather, gather_outputs, look_up, teach
from sskd_jax.types import Array, Batch, Outputs, Params, Streamed, Terms

Variables = tuple[Params, Params]  # params {"student", "method"} and batch_stats, as in TrainState


def classification_scores(logits: Array, label: Array) -> Terms:
    """Per row [N]: whether the label is the largest of the logits [N, K], or among the five largest, and the loss."""
    hits = lax.top_k(logits, min(5, logits.shape[1]))[1] == label[:, None]
    return {
        "top1": hits[:, 0].astype(jnp.float32),
        "top5": hits.any(1).astype(jnp.float32),
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, label),
    }


def batch_scores(
    task: Task, variables: Variables, frozen: Frozen, rows: Array | Streamed, mask: Array
) -> Terms:
    """{name: [sum, count]} over one global batch, of which this device holds the images `rows` [n]."""
    params, batch_stats = variables
    image, label, index = look_up(frozen, rows)
    image = jax.vmap(task.plain)(image)
    batch: Batch = gather({"label": label, "index": index, "mask": mask})
    student: Outputs | None = None
    scores: Terms = {}
    if task.student:
        network = {"params": params["student"], "batch_stats": batch_stats}
        student = gather_outputs(forward(task.student, network, image))
    if task.student and "ce" in task.method.terms:
        scores |= classification_scores(student.logits[:: image.shape[1]], batch["label"])
    if task.method.evaluate:
        scores |= task.method.evaluate(params["method"], student, teach(task, frozen, image), batch)
    return {name: masked_sum(score, batch["mask"]) for name, score in scores.items()}


def masked_sum(score: Array, mask: Array) -> Array:
    """[sum, count] of score [N * r] over the images that mask [N] admits."""
    rows = jnp.repeat(mask, score.size // mask.size)
    return jnp.stack([jnp.sum(jnp.where(rows, score, 0)), jnp.sum(rows)])


def split_scores(
    task: Task, variables: Variables, frozen: Frozen, batches: tuple[Any, Array]
) -> Terms:
    """The sums and counts of `batches`, (rows [b, n], mask [b, n]), which all hold on every device."""
    score = partial(batch_scores, task, variables, frozen)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(score, *at(batches, 0))
    )
    return lax.fori_loop(
        0,
        batches[1].shape[0],
        lambda i, sums: jax.tree.map(jnp.add, sums, score(*at(batches, i))),
        zeros,
    )


def padded_batches(size: int, batch_size: int, devices: int) -> tuple[np.ndarray, np.ndarray]:
    """(index, mask) [devices, batches, n] of `size` images in order, the last batch filled up with masked ones."""
    count = -(-size // batch_size)
    index = np.arange(count * batch_size, dtype=np.int32).reshape(count, devices, -1).swapaxes(0, 1)
    return np.minimum(index, size - 1), index < size


def add(totals: Terms | None, sums: Terms | None) -> Terms | None:
    """The totals with the sums that are on the devices, once they are there."""
    if totals is None or sums is None:
        return totals if sums is None else first(sums)
    return jax.tree.map(np.add, totals, first(sums))


def evaluation(
    task: Task, devices: Sequence[jax.Device], batch_size: int
) -> Callable[[Variables, Frozen, Split | Stream], dict[str, float]]:
    """(stacked variables, stacked frozen, split) -> mean of every score over all images of the split.

    What of the split is resident must lie in `frozen`.
    """
    program = Mapped(partial(split_scores, task), devices)

    def evaluate(variables: Variables, frozen: Frozen, split: Split | Stream) -> dict[str, float]:
        size, totals, queued = split.size, None, None
        for batches in split.in_order(
            *(array[mine(devices)] for array in padded_batches(size, batch_size, len(devices)))
        ):
            queued, done = program(variables, frozen, batches), queued
            totals = add(totals, done)
        totals = add(totals, queued)
        missed = {name: count for name, (_, count) in totals.items() if count % size}
        assert not missed, f"evaluated {missed} rows of {size} images"
        return {name: float(total / count) for name, (total, count) in totals.items()}

    return evaluate
