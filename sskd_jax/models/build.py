"""From the name of an architecture, or of a net, to its module."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.models import MODELS
from sskd_jax.models.network import Network
from sskd_jax.types import UserError, choose, find


def architecture(name: str, what: str = "architecture") -> Callable[..., nn.Module]:
    """The maker (num_classes, dtype) -> module of an architecture, or of one's own: "my_code:Net".

    Raises:
      UserError: there is no such `what`; it lists those that there are.
    """
    return find(MODELS, name, what)


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
