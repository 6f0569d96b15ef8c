"""Makes the module of an architecture, or of a net, from its name."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.models import MODELS
from sskd_jax.models.network import Network
from sskd_jax.types import Array, Params, UserError, choose, find
from sskd_jax.views import Optics


def architecture(name: str, what: str = "architecture") -> Callable[..., nn.Module]:
    """The factory (num_classes, dtype) -> module of an architecture or a user's "my_code:Net".

    Raises:
      UserError: there is no such architecture, which the message calls `what`; it lists all.
    """
    return find(MODELS, name, what)


def build(
    section: str, part: str, name: str, num_classes: int, dtype: Any = jnp.float32
) -> nn.Module:
    """The module of a network, or of its part "branches" alone.

    Args:
      section: of the config, such as "student", for error messages.
      part: "branches", or "" for the whole network.
      name: of the architecture.
      num_classes: K.
      dtype: in which convolutions compute.

    Raises:
      UserError: there is no such architecture, or part of it.
    """
    make = architecture(name, f"{section} architecture")
    check_own(name, make)
    module = make(num_classes=num_classes, dtype=dtype)
    if not part:
        return module
    if not isinstance(module, Network):
        raise UserError(f"the {section} architecture {name!r} has no stages to branch")
    return choose({"branches": module.branches}, part, f"part of the {section} architecture")


def check_own(name: str, make: Callable[..., nn.Module]) -> None:
    """Raises a `UserError` if a user's network, such as "my_code:Net", lacks an argument."""
    if ":" not in name:
        return
    wanted = [(make, ("num_classes", "dtype"))]
    if isinstance(make, type):
        wanted.append((make.__call__, ("train",)))
    for function, arguments in wanted:
        takes = inspect.signature(function).parameters
        any_keyword = any(own.kind is own.VAR_KEYWORD for own in takes.values())
        missing = [argument for argument in arguments if argument not in takes]
        if missing and not any_keyword:
            where = "is made" if function is make else "is called"
            raise UserError(
                f"the architecture {name!r} {where} without {missing[0]}=: a linen module with "
                "num_classes and dtype, whose __call__ takes train=False, is wanted"
            )


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A network that first brings the dataset's pixels to its own normalisation and size.

    It has those attributes and methods of a linen module that its callers use.

    Attributes:
      module: the network.
      scale: per channel; pixels are multiplied by it.
      shift: per channel; it is added then.
      size: the side to which images are resized, in pixels; 0 leaves them as they are.
    """

    module: nn.Module
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    size: int = 0

    @property
    def dtype(self) -> Any:
        return self.module.dtype

    def init(self, key: Array, pixels: Array, **options: Any) -> Params:
        return self.module.init(key, self.own(pixels), **options)

    def apply(self, variables: Params, pixels: Array, **options: Any) -> Any:
        return self.module.apply(variables, self.own(pixels), **options)

    def own(self, pixels: Array) -> Array:
        """The pixels [B, H, W, C] in the network's own normalisation and size, bilinear."""
        scale, shift = (
            jnp.asarray(part, jnp.float32).reshape(1, 1, 1, -1) for part in (self.scale, self.shift)
        )
        if self.size:
            count, _, _, channels = pixels.shape
            shape = (count, self.size, self.size, channels)
            pixels = jax.image.resize(pixels, shape, "bilinear")
        return pixels * scale + shift


def adapted(module: nn.Module, data: Optics, section: Mapping[str, Any]) -> nn.Module | Adapted:
    """The module for pixels as in `data`, adapted if the network was trained on different ones.

    The config's `section` of the network has the mean, std and size of those, as far as they
    differ. If none does, the result is the module itself.
    """
    own, size = data.own(section), section.get("size", 0)
    if (data.mean, data.std, size) == (own.mean, own.std, 0):
        return module
    # (level - mean) / std becomes (level - own mean) / own std.
    triples = zip(data.mean, own.mean, own.std, strict=True)
    shift = tuple((mean - own_mean) / own_std for mean, own_mean, own_std in triples)
    scale = tuple(std / own_std for std, own_std in zip(data.std, own.std, strict=True))
    return Adapted(module, scale, shift, size)
