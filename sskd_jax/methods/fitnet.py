"""FitNets: Hints for Thin Deep Nets (Romero et al., ICLR 2015).

In one stage, as RepDistiller trains it.
"""

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.heads import Regressor
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Index, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, UserError, learns


def hint_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the regressor's output and the hint."""
    return jnp.mean(jnp.square(student - teacher))


def fitnet(*, layer: Index, kd_temperature: Positive) -> Method:
    """The term `hint`; the hint is the teacher's map number `layer`, where the stem's is 0."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        if layer >= min(len(student.maps), len(teacher.maps)):
            raise UserError(
                f"fitnet's layer is {layer}, but the networks have {len(student.maps)} and "
                f"{len(teacher.maps)} maps: choose a smaller one, or networks with more"
            )
        hint = teacher.maps[layer].astype(jnp.float32)
        regressed = nets["regressor"](student.maps[layer], hint)
        return Losses({"hint": hint_loss(nn.relu(regressed), hint)})

    nets = {"regressor": learns(Regressor())}
    return with_kd(("hint",), own, kd_temperature=kd_temperature, nets=nets)
