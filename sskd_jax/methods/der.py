"""Dark Experience for General Continual Learning (Buzzega et al., NeurIPS 2020): DER and DER++.

With the labels of stored images alone it is experience replay; with their logits alone, DER; with
both, DER++; with neither, fine-tuning. Shapes: N images, K classes, R images of the buffer.
"""

import jax

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import accuracy, cross_entropy
from sskd_jax.methods.stream import (
    TaskByTask,
    cross_entropy_over,
    logit_distance,
    recall,
    reservoir,
    stream_method,
)
from sskd_jax.rules import Count, Flag
from sskd_jax.types import Array, Batch, Losses, Method, Nets, learns
from sskd_jax.views import once


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

    def loss(nets: Nets, batch: Batch) -> Losses:
        def logits_of(pixels: Array) -> Array:
            return nets["student"](pixels).logits

        logits, label = logits_of(batch.see(once)), share(batch.label)
        terms = {"ce": cross_entropy(logits, label)}
        if keep_logits:
            drawn, now = recall(batch, 1, replay_size, logits_of)
            terms["distil"] = logit_distance(now, drawn.logits, drawn.counts)
        if replay_labels:
            drawn, now = recall(batch, 2, replay_size, logits_of)
            terms["replay"] = cross_entropy_over(now, drawn.label, drawn.counts)
        memory = {}
        if memorises:
            key = jax.random.fold_in(batch.key, 3)
            memory = reservoir(key, batch.memory, everywhere(logits), batch)
        return Losses(terms, {"accuracy": accuracy(logits, label)}, memory)

    memorises = keep_logits or replay_labels
    asked = {"ce": True, "distil": keep_logits, "replay": replay_labels}
    return stream_method(
        [name for name, is_asked in asked.items() if is_asked],
        {"student": learns("student")},
        loss,
        TaskByTask(task_classes, task_epochs),
        buffer_size if memorises else 0,
    )
