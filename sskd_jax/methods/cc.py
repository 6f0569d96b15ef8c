"""Correlation Congruence for Knowledge Distillation (Peng et al., ICCV 2019), as RepDistiller has it."""
import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.beside import beside
from sskd_jax.initializers import bias_uniform, fan_in_uniform
from sskd_jax.losses import normalized
from sskd_jax.types import Array, Method, Outputs, Params


class Embed(nn.Module):
    """A linear layer to unit vectors [N, width]."""

    width: int

    @nn.compact
    def __call__(self, embed: Array) -> Array:
        bias = bias_uniform(embed.shape[-1])
        return normalized(nn.Dense(self.width, kernel_init=fan_in_uniform, bias_init=bias, name="linear")(embed))


def correlation_loss(student: Array, teacher: Array) -> Array:
    """Products of how far each row [N, D] and the next one are from the teacher's, the mean over the pairs."""
    delta = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(delta[:-1] * delta[1:], 1))


def init_embeds(key: Array, student: Outputs, teacher: Outputs, width: int) -> Params:
    """An `Embed` for the embeddings of either network, of which there may be only shapes."""
    keys = dict(zip(("student", "teacher"), jax.random.split(key), strict=True))
    return {name: Embed(width).init(keys[name], jnp.zeros(outputs.embed.shape))["params"]
            for name, outputs in (("student", student), ("teacher", teacher))}


def cc(*, width: int, kd_temperature: float) -> Method:
    """On embeddings of both networks, of the global batch, in a common space."""

    def congruence(params, student, teacher, batch) -> Array:  # noqa: ANN001
        return correlation_loss(*(Embed(width).apply({"params": params[name]}, outputs.embed)
                                  for name, outputs in (("student", student), ("teacher", teacher))))

    return beside("cc", congruence, kd_temperature=kd_temperature,
                  init=lambda key, student, teacher: init_embeds(key, student, teacher, width))
