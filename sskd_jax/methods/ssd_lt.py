"""Self Supervision to Distillation for Long-Tailed Visual Recognition (Li, Wang, Wu, ICCV 2021).

As released for ImageNet-LT. Stage I learns features by supervision and contrast; stage II rescales
their classifier, which makes the teacher; stage III trains a student with two classifiers, one for
labels and one for the teacher.
Shapes: N images, D width of the projections, Q length of the queue, K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sskd_jax.axis import everywhere, share
from sskd_jax.layers.heads import Linear, Projector
from sskd_jax.losses import accuracy, cross_entropy, normalized, product, soft_divergence
from sskd_jax.methods.common import labelled
from sskd_jax.methods.long_tail import Scales, balanced, by_frequency, frequency_scores
from sskd_jax.rules import Count, Flag, NotNegative, Positive, Share
from sskd_jax.types import (
    Array,
    Batch,
    Facts,
    Losses,
    Method,
    Net,
    Nets,
    Stage,
    UserError,
    View,
    follows,
    frozen,
    learns,
)
from sskd_jax.views import coloured, distorted, once

Memory = dict[str, Array]

EMPTY = -1  # the label of a place in the queue that holds no key yet


class Projection(nn.Module):
    """Two linear layers [n, E] -> [n, width] with a ReLU between; the first is E wide."""

    width: int

    @nn.compact
    def __call__(self, embed: Array, train: bool = False) -> Array:
        hidden = nn.relu(Linear(embed.shape[-1], name="0")(embed))
        return Linear(self.width, name="2")(hidden)


def contrastive_loss(
    query: Array, key: Array, label: Array, queue: Memory, temperature: float
) -> Array:
    """InfoNCE: -log of the probability that each query [N, D] picks its own key [N, D].

    It chooses among that and the keys in the queue of other classes than its label [N]. All are
    unit vectors. The result is the mean over the rows.
    """
    theirs = queue["label"][None]
    is_negative = (theirs != label[:, None]) & (theirs != EMPTY)
    negative = jnp.where(is_negative, product(query, queue["keys"].T), -jnp.inf)
    positive = jnp.sum(query * key, 1, keepdims=True)
    similarity = jnp.concatenate([positive, negative], 1) / temperature
    return cross_entropy(similarity, jnp.zeros_like(label))


def enqueued(queue: Memory, key: Array, label: Array) -> Memory:
    """The queue in which keys [N, D] and labels [N] replace the oldest ones.

    Raises:
      UserError: the queue is shorter than the batch.
    """
    length, count = queue["label"].size, label.size
    if count > length:
        raise UserError(
            f"the queue holds {length} keys, fewer than the {count} images of a batch: use a "
            "longer queue or a smaller features.batch_size"
        )
    place = (queue["place"] + jnp.arange(count)) % length
    return {
        "keys": queue["keys"].at[place].set(key),
        "label": queue["label"].at[place].set(label),
        "place": (queue["place"] + count) % length,
    }


def empty_queue(key: Array, length: int, width: int) -> Memory:
    """A queue of random unit vectors that are marked as empty."""
    return {
        "keys": normalized(jax.random.normal(key, (length, width))),
        "label": jnp.full(length, EMPTY, jnp.int32),
        "place": jnp.zeros((), jnp.int32),
    }


def features(
    view: View, width: int, queue_length: int, key_momentum: float, temperature: float
) -> Stage:
    """Stage I: cross-entropy, and the contrast of each image's own key with those of other classes.

    The keys come from moving averages of student and projector, and from a more distorted view.
    """

    def loss(nets: Nets, batch: Batch) -> Losses:
        student, follower = nets["student"](batch.see(view)), nets["key"](batch.see(distorted))
        query = normalized(everywhere(nets["projector"](student.embed)))
        key = normalized(everywhere(nets["key_projector"](follower.embed)))
        key, label = lax.stop_gradient(key), share(batch.label)
        terms = {
            "ce": cross_entropy(student.logits, label),
            "con": contrastive_loss(query, key, batch.label, batch.memory, temperature),
        }
        figures = {"accuracy": accuracy(student.logits, label)}
        return Losses(terms, figures, enqueued(batch.memory, key, batch.label))

    def memory(key: Array, facts: Facts) -> Memory:
        return empty_queue(key, queue_length, width)

    nets = {
        "student": learns("student"),
        "projector": learns(Projection(width)),
        "key": follows("student", "student", key_momentum),
        "key_projector": follows("projector", Projection(width), key_momentum),
    }
    return Stage(("ce", "con"), nets, loss, frequency_scores("student"), memory)


def scales(view: View, teacher: Net) -> Stage:
    """Stage II: learns a factor for every class, on class-balanced images."""

    def scaled(nets: Nets, pixels: Array) -> Array:
        return nets["scales"](lax.stop_gradient(nets["student"](pixels).logits))

    def loss(nets: Nets, batch: Batch) -> Losses:
        return labelled(scaled(nets, batch.see(view)), batch)

    def scores(nets: Nets, batch: Batch) -> Mapping[str, Any]:
        return by_frequency(everywhere(scaled(nets, batch.see(once))), batch)

    nets = {"student": teacher, "scales": learns(Scales())}
    return Stage(("ce",), nets, loss, scores, order=balanced)


def imitation(view: View, kd_temperature: float, teacher: Net) -> Stage:
    """Stage III: a new student, whose own classifier imitates the teacher.

    Another one, `hard`, learns the labels from the same features.
    """

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels, label = batch.see(view), share(batch.label)
        student, taught = nets["student"](pixels), nets["teacher"](pixels)
        target = lax.stop_gradient(nets["scales"](taught.logits))
        hard = nets["hard"](student.embed, student.logits)
        terms = {
            "ce": cross_entropy(hard, label),
            "kd": soft_divergence(student.logits, target, temperature=kd_temperature),
        }
        figures = {
            "accuracy": accuracy(student.logits, label),
            "hard_accuracy": accuracy(hard, label),
        }
        return Losses(terms, figures)

    def scores(nets: Nets, batch: Batch) -> Mapping[str, Any]:
        student = nets["student"](batch.see(once))
        hard = nets["hard"](student.embed, student.logits)
        soft, hard = (by_frequency(logits, batch) for logits in everywhere((student.logits, hard)))
        return soft | {f"hard_{name}": score for name, score in hard.items()}

    nets = {
        "student": learns("student"),
        "hard": learns(Projector()),
        "teacher": teacher,
        "scales": frozen(Scales(), "scales/scales"),
    }
    return Stage(("ce", "kd"), nets, loss, scores)


def ssd_lt(
    *,
    width: Count,
    queue_length: Count,
    key_momentum: Share,
    contrast_temperature: Positive,
    kd_temperature: Positive,
    jitter: NotNegative,
    teacher_trains: Flag,
) -> Method:
    """The three stages.

    Args:
      width: of the projections that stage I contrasts.
      queue_length: how many keys of earlier images the queue holds, at least a batch of them.
      key_momentum: of the moving averages that make the keys.
      contrast_temperature: by which similarities are divided in the contrast.
      kd_temperature: of student and teacher in stage III.
      jitter: how strongly the colours of the students' and teachers' views change; 0: not at all.
      teacher_trains: whether batch norms of the frozen networks normalise by the batch, as in the
        released code, instead of by their running statistics.
    """
    view = partial(coloured, jitter) if jitter else once
    teacher = (learns if teacher_trains else frozen)("student", "features/student")
    return {
        "features": features(view, width, queue_length, key_momentum, contrast_temperature),
        "scales": scales(view, teacher),
        "student": imitation(view, kd_temperature, teacher),
    }
