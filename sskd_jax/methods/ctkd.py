"""Curriculum Temperature for Knowledge Distillation (Li et al., AAAI 2023).

KD's temperature is a learned number. It is adversarial: it moves to where the divergence grows.

    T = lowest + span * sigmoid(theta)
    kd = T^2 KL(softmax(t / T) || softmax(s / T))
    the gradient that the optimizer gets for theta = lambda * d kd / d theta
    lambda = (cos(pi min(e, L) / L) + 1) / 2 - 1 in epoch e, counted from 1

So lambda is negative and falls to -1 over the first L epochs. As in the released code, theta is
one of the student's parameters, and decays like them.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sskd_jax.losses import compared_logits, soft_divergence
from sskd_jax.methods.common import taught
from sskd_jax.rules import Count, Flag, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, learns

START = 1.0  # of theta


def scaled_gradient(x: Array, factor: Array) -> Array:
    """x, whose gradient is multiplied by `factor`."""
    fixed, factor = lax.stop_gradient((x, factor))
    return fixed + factor * (x - fixed)


class Temperature(nn.Module):
    """A number [] from `lowest` to `lowest + span`, whose gradient is multiplied by `factor` []."""

    lowest: float
    span: float

    @nn.compact
    def __call__(self, factor: Array, train: bool = False) -> Array:
        theta = self.param("theta", nn.initializers.constant(START), ())
        return self.lowest + self.span * nn.sigmoid(scaled_gradient(theta, factor))


def reversal(epoch: Array, ramp_epochs: int) -> Array:
    """lambda in an epoch, counted from 0."""
    passed = jnp.minimum(epoch + 1, ramp_epochs) / ramp_epochs
    return (jnp.cos(jnp.pi * passed) + 1) / 2 - 1


def ctkd(*, lowest: Positive, span: Positive, ramp_epochs: Count, standardize: Flag) -> Method:
    """The divergence `kd` at the learned temperature.

    `standardize` compares standardized logits instead of the logits themselves.
    """

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        temperature = nets["temperature"](reversal(batch.epoch, ramp_epochs))
        logits = compared_logits(student, teacher, standardize)
        kd = soft_divergence(*logits, temperature=temperature)
        return Losses({"kd": kd}, {"temperature": temperature})

    return taught(("kd",), own, nets={"temperature": learns(Temperature(lowest, span))})
