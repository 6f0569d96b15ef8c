"""The base that all networks share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.initializers import bias_uniform, fan_in_uniform, fan_out_normal
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.types import Array, Outputs

Layer = Callable[..., Any]


class Network(nn.Module):
    """What every architecture has: classes, a compute dtype, and the axis that batch norm reduces over.

    Modules are named as in PyTorch, so a parameter's path joined by dots is its name in the reference's state_dict.
    """

    num_classes: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def layers(self, train: bool, kernel_init: Initializer = fan_out_normal) -> tuple[Layer, Layer]:
        """(convolution, batch norm) for the blocks of this network."""
        return (
            partial(Conv, dtype=self.dtype, kernel_init=kernel_init),
            partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype),
        )

    def outputs(
        self,
        x: Array,
        maps: list[Array],
        preacts: list[Array],
        name: str,
        kernel_init: Initializer = fan_in_uniform,
        bias_init: Initializer | None = None,
    ) -> Outputs:
        """Global average pooling and the classifier `name`, in float32, whatever the dtype of the last map `x`."""
        embed = x.astype(jnp.float32).mean((1, 2))
        classifier = nn.Dense(
            self.num_classes,
            name=name,
            kernel_init=kernel_init,
            bias_init=bias_init or bias_uniform(embed.shape[-1]),
        )
        return Outputs(classifier(embed), embed, tuple(maps), tuple(preacts))
