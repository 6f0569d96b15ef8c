"""Dark Experience for General Continual Learning (Buzzega et al., NeurIPS 2020): DER and DER++.

With the labels of stored images alone it is experience replay; with their logits alone, DER; with
both, DER++; with neither, fine-tuning. Shapes: N images, K classes, R images of the buffer.
"""

import jax
import jax.numpy as jnp
import optax

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import accuracy, cross_entropy
from sskd_jax.methods.stream import (
    Drawn,
    Memory,
    TaskByTask,
    by_task,
    draw,
    empty_buffer,
    everywhere_drawn,
    mean_of,
    reservoir,
)
from sskd_jax.rules import Count, Flag
from sskd_jax.types import Array, Batch, Facts, Losses, Method, Nets, Stage, learns
from sskd_jax.views import once


def kept_logits(logits: Array, target: Array, counts: Array) -> Array:
    """Mean squared difference of logits [R, K] from `target`, over the rows that count bool[R]."""
    return mean_of(jnp.mean(jnp.square(logits - target), 1), counts)


def cross_entropy_of(logits: Array, label: Array, counts: Array) -> Array:
    """Cross-entropy of logits [R, K] with labels [R], over the rows that count bool[R]."""
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return mean_of(rows, counts)


def der(
    *,
    task_classes: Count,
    task_epochs: Count,
    buffer_size: Count,
    replay_size: Count,
    keep_logits: Flag,
    replay_labels: Flag,
) -> Method:
    """A network that learns task by task, and replays stored images of earlier tasks.

    Args:
      task_classes: how many classes a task has.
      task_epochs: for how many epochs each task is trained.
      buffer_size: how many images are stored.
      replay_size: how many of them are drawn for each of the two replay terms, in every step.
      keep_logits: whether the logits of stored images should stay those that were stored (distil).
      replay_labels: whether stored images are learned with their labels again (replay).
    """

    def again(nets: Nets, batch: Batch, number: int) -> tuple[Drawn, Array]:
        """Images drawn from the buffer, and their current logits [R, K]."""
        drawn = draw(jax.random.fold_in(batch.key, number), batch, replay_size)
        return drawn, everywhere_drawn(nets["student"](drawn.pixels).logits, drawn)

    def loss(nets: Nets, batch: Batch) -> Losses:
        logits, label = nets["student"](batch.see(once)).logits, share(batch.label)
        terms = {"ce": cross_entropy(logits, label)}
        if keep_logits:
            drawn, today = again(nets, batch, 1)
            terms["distil"] = kept_logits(today, drawn.logits, drawn.counts)
        if replay_labels:
            drawn, today = again(nets, batch, 2)
            terms["replay"] = cross_entropy_of(today, drawn.label, drawn.counts)
        memory = {}
        if memorises:
            key = jax.random.fold_in(batch.key, 3)
            memory = reservoir(key, batch.memory, everywhere(logits), batch)
        return Losses(terms, {"accuracy": accuracy(logits, label)}, memory)

    def memory(key: Array, facts: Facts) -> Memory:
        return empty_buffer(facts, buffer_size)

    memorises = keep_logits or replay_labels
    asked = {"ce": True, "distil": keep_logits, "replay": replay_labels}
    stage = Stage(
        tuple(name for name, is_asked in asked.items() if is_asked),
        {"student": learns("student")},
        loss,
        by_task("student", task_classes),
        memory if memorises else None,
        TaskByTask(task_classes, task_epochs),
    )
    return {"student": stage}
