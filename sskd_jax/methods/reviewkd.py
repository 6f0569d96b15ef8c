"""Distilling Knowledge via Knowledge Review (Chen, Liu, Zhao, Jia, CVPR 2021).

Every map of the teacher is compared with the student's map of that depth fused with all deeper ones.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.heads import BatchNorm, Convolution, init_all, nearest
from sskd_jax.losses import map_pairs, pooled
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params

review_uniform = nn.initializers.lecun_uniform()  # PyTorch's kaiming_uniform(a=1)


class Fusion(nn.Module):
    """Attention-based fusion (ABF) of a map [N, H, W, C] with what the deeper ones were fused to.

    Returns a map of the teacher's shape [N, size, size, width], and what is passed on [N, size, size, middle].
    """

    middle: int
    width: int
    size: int

    @nn.compact
    def __call__(self, features: Array, deeper: Array | None) -> tuple[Array, Array]:
        features = Conv(self.middle, 1, kernel_init=review_uniform, name="conv1")(
            features.astype(jnp.float32)
        )
        features = BatchNorm(name="norm1")(features)
        if deeper is not None:
            deeper = nearest(deeper, *features.shape[1:3])
            share = nn.sigmoid(
                Convolution(2, 1, name="attention")(jnp.concatenate([features, deeper], -1))
            )
            features = features * share[..., :1] + deeper * share[..., 1:]
        features = nearest(features, self.size, self.size)
        return BatchNorm(name="norm2")(
            Conv(self.width, kernel_init=review_uniform, name="conv2")(features)
        ), features


class Review(nn.Module):
    """Fuses maps (shallow to deep) into ones of `shapes`, from the deepest on."""

    middle: int
    shapes: Sequence[tuple[int, int]]

    @nn.compact
    def __call__(self, maps: Sequence[Array]) -> list[Array]:
        found, deeper = [], None
        for i, (features, (size, width)) in reversed(
            list(enumerate(zip(maps, self.shapes, strict=True)))
        ):
            fused, deeper = Fusion(self.middle, width, size, name=str(i))(features, deeper)
            found.insert(0, fused)
        return found


def context_loss(student: Array, teacher: Array) -> Array:
    """Hierarchical context loss (HCL) of two maps [N, H, W, C]: mean squared differences, whole and pooled.

    The maps pooled to 4, 2 and 1, where that is smaller, count 1/2, 1/4 and 1/8; divided by the sum of the weights.
    """
    levels = [level for level in (4, 2, 1) if level < student.shape[1]]
    weights = [0.5**i for i in range(len(levels) + 1)]
    losses = [jnp.mean(jnp.square(student - teacher))] + [
        jnp.mean(jnp.square(pooled(student, level, level) - pooled(teacher, level, level)))
        for level in levels
    ]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


def knowledge(maps: Sequence[Array], embed: Array) -> list[Array]:
    """The maps behind the stem and the embedding, as a map of one place."""
    return [*maps[1:], embed[:, None, None]]


def reviewkd(*, warmup_epochs: int, kd_temperature: float) -> Method:
    """The student's maps against the teacher's pre-activations, of the global batch; the term rises with the epochs."""

    def review(student: Outputs, teacher: Outputs) -> tuple[Review, list[Array], list[Array]]:
        """The module, the maps that it fuses, and those that they are compared with."""
        map_pairs(student.maps, teacher.preacts)  # tells where the numbers differ
        ours, theirs = (
            knowledge(student.maps, student.embed),
            knowledge(teacher.preacts, teacher.embed),
        )
        shapes = tuple((features.shape[1], features.shape[-1]) for features in theirs)
        return Review(min(512, student.embed.shape[-1]), shapes), ours, theirs

    def init(key: Array, student: Outputs, teacher: Outputs) -> Params:
        module, maps, _ = review(
            *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), (student, teacher))
        )
        return init_all(key, {"review": (module, maps)})

    def imitation(params: Params, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        module, maps, theirs = review(student, teacher)
        fused = module.apply({"params": params["review"]}, maps)
        loss = sum(
            context_loss(*pair)
            for pair in zip(fused, [x.astype(jnp.float32) for x in theirs], strict=True)
        )
        return loss * jnp.minimum(batch["epoch"] / max(1, warmup_epochs), 1)

    return beside(
        {"review": imitation}, kd_temperature=kd_temperature, gathered=slice(1, None), init=init
    )
