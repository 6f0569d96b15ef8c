"""From the name of an architecture to its module, and to the shapes of what that gives."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.models import MODELS
from sskd_jax.models.network import Network
from sskd_jax.types import Outputs, Params, UserError, choose


def architecture(name: str, what: str = "architecture") -> Callable[..., nn.Module]:
    """The maker (num_classes, dtype) -> module of an architecture.

    Raises:
      UserError: there is no such `what`; it lists those that there are.
    """
    return choose(MODELS, name, what)


def build(
    net: str, models: Mapping[str, str], num_classes: int, dtype: Any = jnp.float32
) -> nn.Module:
    """The module of a net "student", "teacher" or, with its branches alone, "teacher.branches".

    Args:
      net: a section of the config, with ".branches" or without.
      models: the architecture's name in every such section.
      num_classes: K.
      dtype: what convolutions compute in.

    Raises:
      UserError: there is no such section, architecture or part of it.
    """
    section, _, part = net.partition(".")
    name = choose(models, section, "network")
    make = architecture(name, f"{section} architecture")
    module = make(num_classes=num_classes, dtype=dtype)
    if not part:
        return module
    if not isinstance(module, Network):
        raise UserError(f"the {section} architecture {name!r} has no stages to branch")
    return choose({"branches": module.branches}, part, f"part of the {section} architecture")


def shapes(module: nn.Module, image_shape: tuple[int, ...]) -> tuple[Outputs, Params]:
    """Outputs for two images [H, W, C], and variables; shapes only, nothing is computed."""
    try:
        hash(module)
    except TypeError:  # an attribute is a list, say
        return trace(module, image_shape)
    return cached_trace(module, image_shape)


def trace(module: nn.Module, image_shape: tuple[int, ...]) -> tuple[Outputs, Params]:
    image = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), image)


cached_trace = cache(trace)
