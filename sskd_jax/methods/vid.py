"""Variational Information Distillation for Knowledge Transfer (Ahn et al., CVPR 2019)."""

from collections.abc import Sequence
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.initializers import fan_in_uniform
from sskd_jax.losses import map_pairs, same_size
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Positive, number
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, learns

EPSILON = 1e-5  # the least variance
Variance = Annotated[float, number(lambda value: value > EPSILON, f"a number above {EPSILON}")]


class Prediction(nn.Module):
    """A Gaussian of the teacher's map, given the student's [n, H, W, C].

    Returns its mean [n, H, W, width], from three 1x1 convolutions, and its variance per channel.
    """

    width: int
    first_variance: float

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        for i in (0, 2, 4):  # the places of the convolutions in the reference's sequence
            layer = Conv(self.width, 1, kernel_init=fan_in_uniform, name=f"regressor.{i}")
            features = layer(nn.relu(features) if i else features)
        # The inverse of softplus at first_variance - EPSILON, without an overflow.
        wanted = self.first_variance - EPSILON
        start = wanted + np.log(-np.expm1(-wanted))
        log_scale = self.param("log_scale", nn.initializers.constant(start), (self.width,))
        return features, nn.softplus(log_scale).reshape(1, 1, 1, -1) + EPSILON


class Predictions(nn.Module):
    """A `Prediction` for every one of the teacher's maps after the stem.

    Returns the sum of their `information_loss`.
    """

    first_variance: float

    @nn.compact
    def __call__(
        self, students: Sequence[Array], teachers: Sequence[Array], train: bool = False
    ) -> Array:
        losses = []
        for i, pair in enumerate(map_pairs(students, teachers)):
            ours, theirs = same_size(*pair)
            predict = Prediction(theirs.shape[-1], self.first_variance, name=str(i))
            losses.append(information_loss(*predict(ours), theirs))
        return sum(losses)


def information_loss(mean: Array, variance: Array, teacher: Array) -> Array:
    """-log density of the teacher's map under a Gaussian, without its constant; elements' mean."""
    return jnp.mean(jnp.square(mean - teacher) / variance + jnp.log(variance)) / 2


def vid(*, first_variance: Variance, kd_temperature: Positive) -> Method:
    """The term `vid`: the sum over all maps after the stem."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        return Losses({"vid": nets["predictions"](student.maps, teacher.maps)})

    nets = {"predictions": learns(Predictions(first_variance))}
    return with_kd(("vid",), own, kd_temperature=kd_temperature, nets=nets)
