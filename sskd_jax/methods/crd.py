"""Contrastive Representation Distillation (Tian, Krishnan, Isola, ICLR 2020).

Both networks' embeddings of every training image are stored in memory banks; those of images of
other classes are the negatives. Shapes: N images of the batch, M training images, D width of the
common space, K negatives.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from sskd_jax.axis import everywhere, share
from sskd_jax.layers.heads import Linear
from sskd_jax.losses import normalized, product
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import POSITIVE, BelowOne, Count, Positive
from sskd_jax.types import Array, Batch, Facts, Losses, Method, Nets, Outputs, learns

Memory = dict[str, Array]

EPSILON = 1e-7
NETWORKS = ("student", "teacher")
# So that exp(1 / temperature), summed over a batch with its negatives, is a 32-bit number.
Temperature = Annotated[float, POSITIVE._replace(least=0.015)]


def draw_negatives(key: Array, memory: Memory, label: Array, count: int) -> Array:
    """`count` images of other classes for each of label [N], with replacement: int[N, count]."""
    first, size = (memory[name][label][:, None] for name in ("first", "size"))
    place = jax.random.randint(key, (label.size, count), 0, memory["by_class"].size - size)
    return memory["by_class"][place + jnp.where(place >= first, size, 0)]


def scores(anchor: Array, bank: Array, chosen: Array, temperature: float) -> Array:
    """exp(cosine / temperature) of each anchor [N, D] with rows of the bank [M, D].

    `chosen` [N, 1 + K] are the indices of these rows.
    """
    similarity = jnp.take_along_axis(product(anchor, bank.T), chosen, 1)
    return jnp.exp(similarity / temperature)


def contrast(probability: Array, images: int) -> Array:
    """Noise-contrastive loss of scores [N, 1 + K]: the positive is column 0, the others are noise.

    It is -log of the probability of telling them apart, when the noise is uniform over `images`;
    the mean over the rows.
    """
    negatives = probability.shape[1] - 1
    noise = negatives / images
    positive = jnp.log(probability[:, 0] / (probability[:, 0] + noise + EPSILON))
    negative = jnp.log(noise / (probability[:, 1:] + noise + EPSILON))
    return -(positive.sum() + negative.sum()) / probability.shape[0]


def all_scores(
    anchors: dict[str, Array], memory: Memory, chosen: Array, temperature: float
) -> dict[str, Array]:
    """The `scores` of each network's anchors [N, D] with the bank of the other network."""
    return {
        name: scores(anchors[name], memory[other], chosen, temperature)
        for name, other in zip(NETWORKS, reversed(NETWORKS), strict=True)
    }


def normaliser(found: dict[str, Array], memory: Memory) -> Array:
    """[2]: M times the mean of the first batch's scores, with each network as the anchor."""
    means = jnp.stack([lax.stop_gradient(found[name]).mean() for name in NETWORKS])
    now = memory["student"].shape[0] * everywhere(means[None]).mean(0)
    return jnp.where(memory["normaliser"] > 0, memory["normaliser"], now)


def contrastive_loss(found: dict[str, Array], memory: Memory) -> Array:
    """The sum of `contrast` with each network as the anchor."""
    z = dict(zip(NETWORKS, normaliser(found, memory), strict=True))
    images = memory["student"].shape[0]
    return sum(contrast(found[name] / z[name], images) for name in NETWORKS)


def momentum_update(bank: Array, index: Array, anchors: Array, momentum: float) -> Array:
    """bank[index] = normalized(momentum * bank[index] + (1 - momentum) * anchors)."""
    moved = momentum * bank[index] + (1 - momentum) * anchors
    return bank.at[index].set(normalized(moved))


def first_memory(key: Array, label: Array, classes: int, width: int) -> Memory:
    """Random banks, a normaliser of 0 (not yet known), and the images sorted by class.

    `first` is the position at which each class begins in that order, `size` its number of images.
    """
    bound = (width / 3) ** -0.5
    banks = jax.random.uniform(key, (2, label.size, width), minval=-bound, maxval=bound)
    edges = jnp.searchsorted(jnp.sort(label), jnp.arange(classes + 1)).astype(jnp.int32)
    return {
        **dict(zip(NETWORKS, banks, strict=True)),
        "normaliser": jnp.zeros(2),
        "by_class": jnp.argsort(label, stable=True).astype(jnp.int32),
        "first": edges[:-1],
        "size": jnp.diff(edges),
    }


def crd(
    *,
    width: Count,
    negative_count: Count,
    temperature: Temperature,
    momentum: BelowOne,
    kd_temperature: Positive,
) -> Method:
    """The term `crd`, on embeddings in a common space of `width`.

    `momentum` is that of the memory banks.
    """

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        memory = batch.memory
        embeds = {
            "student": nets["student_embed"](student.embed),
            "teacher": nets["teacher_embed"](teacher.embed),
        }
        anchors = {name: normalized(rows) for name, rows in embeds.items()}
        negatives = draw_negatives(batch.key, memory, batch.label, negative_count)
        chosen = jnp.concatenate([batch.index[:, None], negatives], 1)
        # Every device compares its own anchors with all stored images.
        found = all_scores(anchors, memory, share(chosen), temperature)
        banks = {
            name: momentum_update(memory[name], batch.index, rows, momentum)
            for name, rows in everywhere(anchors).items()
        }
        remembered = memory | banks | {"normaliser": normaliser(found, memory)}
        return Losses({"crd": contrastive_loss(found, memory)}, memory=remembered)

    def memory(key: Array, facts: Facts) -> Memory:
        return first_memory(key, facts.label, facts.num_classes, width)

    spaces = {"student_embed": learns(Linear(width)), "teacher_embed": learns(Linear(width))}
    return with_kd(("crd",), own, kd_temperature=kd_temperature, nets=spaces, memory=memory)
