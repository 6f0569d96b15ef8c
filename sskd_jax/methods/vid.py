"""Variational Information Distillation for Knowledge Transfer (Ahn et al., CVPR 2019)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.initializers import fan_in_uniform
from sskd_jax.losses import map_pairs, same_size
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params

EPSILON = 1e-5  # the least variance


class Prediction(nn.Module):
    """A teacher's map, given the student's: mean [N, H, W, width], by three 1x1 convolutions, and variance."""

    width: int
    first_variance: float

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        for i in (0, 2, 4):  # the places of the convolutions in the reference's sequence
            layer = Conv(self.width, 1, kernel_init=fan_in_uniform, name=f"regressor.{i}")
            features = layer(nn.relu(features) if i else features)
        start = np.log(np.expm1(self.first_variance - EPSILON))
        log_scale = self.param("log_scale", nn.initializers.constant(start), (self.width,))
        return features, nn.softplus(log_scale).reshape(1, 1, 1, -1) + EPSILON


def information_loss(mean: Array, variance: Array, teacher: Array) -> Array:
    """-log of the teacher's map under that Gaussian, without its constant: the mean over all elements."""
    return jnp.mean(jnp.square(mean - teacher) / variance + jnp.log(variance)) / 2


def vid(*, first_variance: float, kd_temperature: float) -> Method:
    """The sum over all maps behind the stem, each with a `Prediction` of its own."""

    def init(key: Array, student: Outputs, teacher: Outputs) -> Params:
        return {
            str(i): Prediction(theirs.shape[-1], first_variance).init(
                jax.random.fold_in(key, i), jnp.zeros((1, 1, 1, ours.shape[-1]))
            )["params"]
            for i, (ours, theirs) in enumerate(map_pairs(student.maps, teacher.maps))
        }

    def information(params: Params, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        total = jnp.zeros(())
        for i, pair in enumerate(map_pairs(student.maps, teacher.maps)):
            ours, theirs = same_size(*pair)
            predict = Prediction(theirs.shape[-1], first_variance)
            total += information_loss(*predict.apply({"params": params[str(i)]}, ours), theirs)
        return total

    return beside({"vid": information}, kd_temperature=kd_temperature, init=init)
