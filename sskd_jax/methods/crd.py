"""Contrastive Representation Distillation (Tian, Krishnan, Isola, ICLR 2020).

Both networks' embeddings of every training image are remembered; those of other classes' images are the negatives.
Shapes: N images, M of the whole training set, D width of the common space, K negatives.
"""

from functools import partial

import jax
import jax.numpy as jnp

from sskd_jax.layers.heads import embeds, init_embeds
from sskd_jax.losses import normalized, product
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params

EPSILON = 1e-7
NETWORKS = ("student", "teacher")


def draw_negatives(key: Array, memory: Params, label: Array, count: int) -> Array:
    """`count` images of other classes for each of label [N], with replacement: int[N, count]."""
    first, size = (memory[name][label][:, None] for name in ("first", "size"))
    place = jax.random.randint(key, (label.size, count), 0, memory["by_class"].size - size)
    return memory["by_class"][place + jnp.where(place >= first, size, 0)]


def scores(anchor: Array, bank: Array, chosen: Array, temperature: float) -> Array:
    """exp(cosine / temperature) of each anchor [N, D] with its `chosen` [N, 1 + K] rows of the bank [M, D]."""
    similarity = jnp.take_along_axis(product(anchor, bank.T), chosen, 1)
    return jnp.exp(similarity / temperature)


def contrast(probability: Array, images: int) -> Array:
    """-log of telling the positive, column 0 of [N, 1 + K], from K draws of noise 1 / images: the mean over rows."""
    negatives = probability.shape[1] - 1
    noise = negatives / images
    positive = jnp.log(probability[:, 0] / (probability[:, 0] + noise + EPSILON))
    negative = jnp.log(noise / (probability[:, 1:] + noise + EPSILON))
    return -(positive.sum() + negative.sum()) / probability.shape[0]


def all_scores(
    anchors: dict[str, Array], memory: Params, chosen: Array, temperature: float
) -> dict[str, Array]:
    """Of each network's anchors [N, D] with what is remembered of the other."""
    return {
        name: scores(anchors[name], memory[other], chosen, temperature)
        for name, other in zip(NETWORKS, reversed(NETWORKS), strict=True)
    }


def normaliser(found: dict[str, Array], memory: Params) -> Array:
    """[2]: M times the mean of the scores of the very first batch."""
    images = memory["student"].shape[0]
    now = images * jnp.stack([jax.lax.stop_gradient(found[name]).mean() for name in NETWORKS])
    return jnp.where(memory["normaliser"] > 0, memory["normaliser"], now)


def contrastive_loss(found: dict[str, Array], memory: Params) -> Array:
    """The sum over both networks as anchors."""
    z = dict(zip(NETWORKS, normaliser(found, memory), strict=True))
    return sum(contrast(found[name] / z[name], memory["student"].shape[0]) for name in NETWORKS)


def moved(bank: Array, index: Array, anchors: Array, momentum: float) -> Array:
    """The bank [M, D] with the rows `index` [N] a step nearer to the anchors [N, D], as unit vectors."""
    return bank.at[index].set(normalized(momentum * bank[index] + (1 - momentum) * anchors))


def first_memory(key: Array, label: Array, classes: int, width: int) -> Params:
    """Random banks, no normaliser yet, and the images sorted by class: where each class begins and how many it has."""
    bound = (width / 3) ** -0.5
    banks = jax.random.uniform(key, (2, label.size, width), minval=-bound, maxval=bound)
    by_class = jnp.argsort(label, stable=True).astype(jnp.int32)
    edges = jnp.searchsorted(jnp.sort(label), jnp.arange(classes + 1)).astype(jnp.int32)
    return {
        **dict(zip(NETWORKS, banks, strict=True)),
        "normaliser": jnp.zeros(2),
        "by_class": by_class,
        "first": edges[:-1],
        "size": jnp.diff(edges),
    }


def crd(
    *, width: int, negative_count: int, temperature: float, momentum: float, kd_temperature: float
) -> Method:
    """On embeddings of the global batch, in a common space of `width`; `momentum` is that of the memory."""

    def unit_embeds(params: Params, student: Outputs, teacher: Outputs) -> dict[str, Array]:
        return dict(
            zip(NETWORKS, map(normalized, embeds(params, student, teacher, width)), strict=True)
        )

    def compare(
        params: Params, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Array]:
        negatives = draw_negatives(batch["key"], batch["memory"], batch["label"], negative_count)
        chosen = jnp.concatenate([batch["index"][:, None], negatives], 1)
        return all_scores(
            unit_embeds(params, student, teacher), batch["memory"], chosen, temperature
        )

    def remember(params: Params, student: Outputs, teacher: Outputs, batch: Batch) -> Params:
        memory, anchors = batch["memory"], unit_embeds(params, student, teacher)
        return (
            memory
            | {
                name: moved(memory[name], batch["index"], anchors[name], momentum)
                for name in NETWORKS
            }
            | {"normaliser": normaliser(compare(params, student, teacher, batch), memory)}
        )

    return beside(
        {
            "crd": lambda params, student, teacher, batch: contrastive_loss(
                compare(params, student, teacher, batch), batch["memory"]
            )
        },
        kd_temperature=kd_temperature,
        init=partial(init_embeds, width=width),
        remember=remember,
        memory=lambda key, student, teacher, label: first_memory(
            key, label, student.logits.shape[-1], width
        ),
    )
