"""FitNets: Hints for Thin Deep Nets (Romero et al., ICLR 2015), in one stage as RepDistiller trains it."""
import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.beside import beside
from sskd_jax.initializers import bias_uniform, fan_in_uniform
from sskd_jax.losses import same_size
from sskd_jax.types import Array, Batch, Method, Outputs, Params, UserError


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
        mean, variance = (statistic((0, 1, 2), keepdims=True) for statistic in (features.mean, features.var))
        scale = self.param("scale", nn.initializers.ones, mean.shape)
        shift = self.param("bias", nn.initializers.zeros, mean.shape)
        return nn.relu((features - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift)


def hint_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the regressor's output and the hint."""
    return jnp.mean(jnp.square(student - teacher))


def fitnet(*, layer: int, kd_temperature: float) -> Method:
    """The hint is the teacher's map number `layer`, counted from the stem's 0; the maps are of the global batch."""

    def regressor(student: Outputs, teacher: Outputs) -> Regressor:
        twice = student.maps[layer].shape[1] == 2 * teacher.maps[layer].shape[1]
        return Regressor(teacher.maps[layer].shape[-1], 2 if twice else 1)

    def init(key: Array, student: Outputs, teacher: Outputs) -> Params:
        if layer >= min(len(student.maps), len(teacher.maps)):
            raise UserError(f"fitnet's layer is {layer}, but the networks have {len(student.maps)} and "
                            f"{len(teacher.maps)} maps: choose a smaller one")
        return regressor(student, teacher).init(key, jnp.zeros((1, 2, 2, student.maps[layer].shape[-1])))["params"]

    def imitation(params: Params, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        module, pair = regressor(student, teacher), (student.maps[layer], teacher.maps[layer])
        ours, hint = pair if module.stride == 2 else same_size(*pair)
        return hint_loss(module.apply({"params": params}, ours.astype(jnp.float32)), hint.astype(jnp.float32))

    return beside("hint", imitation, kd_temperature=kd_temperature, gathered=(layer,), init=init)
