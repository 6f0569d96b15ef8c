"""FitNets: Hints for Thin Deep Nets (Romero et al., ICLR 2015), in one stage as RepDistiller trains it."""

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.heads import Regressor, init_all
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params, UserError


def hint_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the regressor's output and the hint."""
    return jnp.mean(jnp.square(student - teacher))


def fitnet(*, layer: int, kd_temperature: float) -> Method:
    """The hint is the teacher's map number `layer`, counted from the stem's 0; the maps are of the global batch."""

    def regressor(teacher: Outputs) -> Regressor:
        return Regressor(teacher.maps[layer].shape[-1], teacher.maps[layer].shape[1])

    def init(key: Array, student: Outputs, teacher: Outputs) -> Params:
        if layer >= min(len(student.maps), len(teacher.maps)):
            raise UserError(
                f"fitnet's layer is {layer}, but the networks have {len(student.maps)} and "
                f"{len(teacher.maps)} maps: choose a smaller one"
            )
        return init_all(key, {"regressor": (regressor(teacher), student.maps[layer])})

    def imitation(params: Params, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        regressed = regressor(teacher).apply({"params": params["regressor"]}, student.maps[layer])
        return hint_loss(nn.relu(regressed), teacher.maps[layer].astype(jnp.float32))

    return beside(
        {"hint": imitation},
        kd_temperature=kd_temperature,
        gathered=slice(layer, layer + 1),
        init=init,
    )
