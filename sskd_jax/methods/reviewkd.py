"""Distilling Knowledge via Knowledge Review (Chen, Liu, Zhao, Jia, CVPR 2021).

Every map of the teacher is compared with a fusion of the student's map at that depth and all
deeper ones.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.heads import Convolution, nearest
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.losses import map_pairs, pooled
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Flag, Index, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, learns

review_uniform = nn.initializers.lecun_uniform()  # PyTorch's kaiming_uniform(a=1)
MOST_CHANNELS = 512  # of the maps that a fusion passes on to the next shallower one


class Fusion(nn.Module):
    """Attention-based fusion (ABF) of a map [n, H, W, C] with the fusion of the deeper maps.

    Returns a map of the target's shape [n, H', W', C'], and the map [n, H', W', middle] that is
    passed on to the next shallower fusion.
    """

    middle: int

    @nn.compact
    def __call__(
        self, features: Array, deeper: Array | None, target: Array, train: bool
    ) -> tuple[Array, Array]:
        reduce = Conv(self.middle, 1, kernel_init=review_uniform, name="conv1")
        features = BatchNorm(train, name="norm1")(reduce(features.astype(jnp.float32)))
        if deeper is not None:
            deeper = nearest(deeper, *features.shape[1:3])
            attend = Convolution(2, 1, name="attention")
            share = nn.sigmoid(attend(jnp.concatenate([features, deeper], -1)))
            features = features * share[..., :1] + deeper * share[..., 1:]
        features = nearest(features, *target.shape[1:3])
        widen = Conv(target.shape[-1], kernel_init=review_uniform, name="conv2")
        return BatchNorm(train, name="norm2")(widen(features)), features


class Review(nn.Module):
    """Fuses maps (shallow to deep) into maps of the targets' shapes, starting with the deepest."""

    @nn.compact
    def __call__(
        self, maps: Sequence[Array], targets: Sequence[Array], train: bool = False
    ) -> list[Array]:
        middle = min(MOST_CHANNELS, maps[-1].shape[-1])
        found, deeper = [], None
        for i in reversed(range(len(maps))):
            fuse = Fusion(middle, name=str(i))
            fused, deeper = fuse(maps[i], deeper, targets[i], train)
            found.insert(0, fused)
        return found


def context_loss(student: Array, teacher: Array) -> Array:
    """Hierarchical context loss (HCL) of two maps [n, H, W, C]: mean squared differences.

    The whole maps have the weight 1, and the maps pooled to the sizes 4, 2 and 1, as far as these
    are smaller, the next of 1/2, 1/4 and 1/8. The sum is divided by the sum of the weights.
    """
    losses = [jnp.mean(jnp.square(student - teacher))]
    for level in (4, 2, 1):
        if level < student.shape[1]:
            difference = pooled(student, level, level) - pooled(teacher, level, level)
            losses.append(jnp.mean(jnp.square(difference)))
    weights = [0.5**i for i in range(len(losses))]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


def knowledge(maps: Sequence[Array], embed: Array) -> list[Array]:
    """The maps after the stem, then the embedding as a map of size 1x1; all in float32."""
    return [features.astype(jnp.float32) for features in (*maps[1:], embed[:, None, None])]


def risen(epoch: Array, warmup_epochs: int) -> Array:
    """The factor of the term in an epoch; during the warm-up it rises from 0 to 1 in equal steps.

    Without a warm-up it is 1 from the start.
    """
    return jnp.minimum(epoch / warmup_epochs, 1) if warmup_epochs else jnp.ones(())


def reviewkd(*, warmup_epochs: Index, student_preacts: Flag, kd_temperature: Positive) -> Method:
    """The term `review`: the student's fused maps against the teacher's pre-activations.

    `student_preacts` takes the student's pre-activations, too, as mdistiller does on ImageNet.
    """

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        maps = student.preacts if student_preacts else student.maps
        map_pairs(maps, teacher.preacts)  # checks that both have as many
        ours = knowledge(maps, student.embed)
        theirs = knowledge(teacher.preacts, teacher.embed)
        fused = nets["review"](ours, theirs)
        loss = sum(context_loss(*pair) for pair in zip(fused, theirs, strict=True))
        return Losses({"review": loss * risen(batch.epoch, warmup_epochs)})

    nets = {"review": learns(Review())}
    return with_kd(("review",), own, kd_temperature=kd_temperature, nets=nets)
