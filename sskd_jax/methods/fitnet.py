"""FitNets: Hints for Thin Deep Nets (Romero et al., ICLR 2015), in one stage as RepDistiller trains it."""
import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.initializers import bias_uniform, fan_in_uniform
from sskd_jax.losses import same_size
from sskd_jax.methods.beside import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params


class Regressor(nn.Module):
    """Brings a student's map to the teacher's width: a convolution, batch norm over the global batch, ReLU.

    1x1 where the maps have one size; 3x3 with stride 2 where the student's is twice as large.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        kernel = 3 if self.stride == 2 else 1
        bias = bias_uniform(kernel**2 * features.shape[-1])
        features = nn.Conv(self.width, (kernel,) * 2, self.stride, kernel // 2, kernel_init=fan_in_uniform,
                           bias_init=bias, name="conv")(features)
        mean, variance = features.mean((0, 1, 2)), features.var((0, 1, 2))
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        shift = self.param("bias", nn.initializers.zeros, (self.width,))
        return nn.relu((features - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift)


def hint_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the regressor's output and the hint (eq. 3)."""
    return jnp.mean(jnp.square(student - teacher))
