"""Paraphrasing Complex Network: Network Compression via Factor Transfer (Kim et al., NeurIPS 2018).

As in RepDistiller, on the last map before the pooling.
"""

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.heads import Convolution
from sskd_jax.layers.initializers import bias_uniform
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.losses import attention, last_map, same_size
from sskd_jax.methods.common import unscored, with_kd
from sskd_jax.rules import Positive, Share
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, Stage, frozen, learns
from sskd_jax.views import once

SLOPE = 0.1  # of the leaky ReLUs


class Paraphraser(nn.Module):
    """Three 3x3 convolutions, a map [n, H, W, C] -> its factors [n, H, W, ratio * C]."""

    ratio: float

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> Array:
        features = features.astype(jnp.float32)
        channels = features.shape[-1]
        factors = max(1, int(self.ratio * channels))
        for width in (channels, factors, factors):
            features = nn.leaky_relu(Convolution(width)(features), SLOPE)
        return features


class Decoder(nn.Module):
    """Three 3x3 convolutions from factors [n, H, W, F] back to a map as wide as `target`."""

    @nn.compact
    def __call__(self, factors: Array, target: Array, train: bool = False) -> Array:
        for width in (factors.shape[-1], target.shape[-1], target.shape[-1]):
            # Scaled by the number of outputs, as PyTorch does for transposed convolutions, which
            # the reference has here.
            init = bias_uniform(9 * width)
            factors = nn.leaky_relu(Conv(width, kernel_init=init, bias_init=init)(factors), SLOPE)
        return factors


class Translator(nn.Module):
    """Three 3x3 convolutions with batch norm, from a map to factors as wide as `target`."""

    @nn.compact
    def __call__(self, features: Array, target: Array, train: bool = False) -> Array:
        features = features.astype(jnp.float32)
        for width in (features.shape[-1], target.shape[-1], target.shape[-1]):
            features = nn.leaky_relu(BatchNorm(train)(Convolution(width)(features)), SLOPE)
        return features


def factor_loss(student: Array, teacher: Array) -> Array:
    """Mean absolute difference of two maps' factors [n, H, W, F].

    The factors are first reduced to `attention` maps.
    """
    student, teacher = same_size(student, teacher)
    return jnp.mean(jnp.abs(attention(student) - attention(teacher)))


def paraphraser(ratio: float) -> Stage:
    """The stage that trains paraphraser and decoder as an autoencoder of the teacher's map."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        features = last_map(nets["teacher"](batch.see(once)).maps)
        reconstructed = nets["decoder"](nets["paraphraser"](features), features)
        return Losses({"reconstruction": jnp.mean(jnp.square(reconstructed - features))})

    nets = {
        "teacher": frozen("teacher"),
        "paraphraser": learns(Paraphraser(ratio)),
        "decoder": learns(Decoder()),
    }
    return Stage(("reconstruction",), nets, loss, unscored)


def ft(*, factor_ratio: Share, kd_temperature: Positive) -> Method:
    """The student's translator imitates the factors of the teacher's paraphraser."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        theirs = nets["paraphraser"](last_map(teacher.maps))
        ours = nets["translator"](last_map(student.maps), theirs)
        return Losses({"ft": factor_loss(ours, theirs)})

    nets = {
        "paraphraser": frozen(Paraphraser(factor_ratio), "paraphraser/paraphraser"),
        "translator": learns(Translator()),
    }
    before = {"paraphraser": paraphraser(factor_ratio)}
    return with_kd(("ft",), own, kd_temperature=kd_temperature, nets=nets, before=before)
