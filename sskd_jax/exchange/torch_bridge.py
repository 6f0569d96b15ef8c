"""PyTorch's weights to Flax variables and back; with `torch_file` all that knows PyTorch.

Modules here carry the names that they have in the reference's networks. So the path of a parameter,
joined by dots, is its name in PyTorch but for the last part; and the axes are in another order.
"""

import contextlib
import os
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from sskd_jax.exchange import torch_file
from sskd_jax.models import MODELS
from sskd_jax.models.build import architecture
from sskd_jax.types import UserError

StateDict = Mapping[str, np.ndarray]

# (collection, modules..., leaf). A module's name may hold dots, so paths are joined, never split.
Path = tuple[str, ...]

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# The order of axes by their number: vectors stay; [in, out] is [out, in] in PyTorch, and back;
# HWIO is OIHW there, and back.
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}

# Both names of MobileNetV2's classifier are in use.
ALIASES = {f"classifier.0.{leaf}": f"classifier.{leaf}" for leaf in ("weight", "bias")}


class Place(NamedTuple):
    """Where an entry of a state_dict goes: its path in the variables; its shape in PyTorch."""

    path: Path
    shape: tuple[int, ...]


def load_weights(path: str | os.PathLike, name: str) -> tuple[dict[str, Any], int]:
    """({"params", "batch_stats"}, number of classes) of an architecture from a file of PyTorch's.

    Args:
      path: of the file.
      name: of the architecture, one of `MODELS`.

    Raises:
      UserError: the file can't be read, or holds another network.
    """
    state = read_state_dict(path)
    try:
        return from_state_dict(name, state), _num_classes(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state_dict in a PyTorch checkpoint of any layout, or in a file called *.safetensors.

    Wrappers' prefixes are gone.

    Raises:
      UserError: the file can't be read, asks for code to be run, or holds no named tensors.
    """
    if str(path).endswith(".safetensors"):
        return _unwrapped(_read_safetensors(path))
    return _unwrapped(torch_file.read_tensors(path))


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(epath.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError) as error:  # KeyError: a type that numpy has not
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error


def identified(state_dict: StateDict) -> str:
    """The name in `MODELS` of the architecture that a state_dict holds.

    Raises:
      UserError: it is none of them.
    """
    state = {ALIASES.get(key, key): array for key, array in _unwrapped(state_dict).items()}
    num_classes = _num_classes(state)
    for name in MODELS:
        if _misfit(_places(name, num_classes), state) is None:
            return name
    raise UserError("this is none of our architectures: name the one that it is")


def from_state_dict(name: str, state_dict: StateDict) -> dict[str, Any]:
    """{"params", "batch_stats"} of an architecture, nested dictionaries of float32 arrays.

    Args:
      name: of the architecture, one of `MODELS`.
      state_dict: arrays by PyTorch's names, as `read_state_dict` gives them.

    Raises:
      UserError: an entry is missing, unknown, of the wrong shape or type, or not finite.
    """
    state = {ALIASES.get(key, key): array for key, array in _unwrapped(state_dict).items()}
    places = _fitting_places(name, state)
    return unflatten_dict({place.path: _to_flax(key, state[key]) for key, place in places.items()})


def to_state_dict(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Contiguous arrays by PyTorch's names, with its order of axes; undoes `from_state_dict`.

    Args:
      name: of the architecture, one of `MODELS`.
      variables: {"params", "batch_stats"}.

    Raises:
      UserError: the variables are those of another architecture.
    """
    state = {}
    for path, leaf in flatten_dict(variables).items():
        array = np.asarray(leaf)
        state[_torch_name(path)] = array.transpose(TO_TORCH[array.ndim])
    _fitting_places(name, state)
    return {key: np.ascontiguousarray(array) for key, array in state.items()}


@cache
def template(name: str, num_classes: int) -> dict[str, Any]:
    """The shapes of an architecture's variables, {"params", "batch_stats"}.

    Raises:
      UserError: there is no such architecture.
    """
    init = partial(architecture(name)(num_classes=num_classes).init, train=False)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(init, jax.random.key(0), image)


@cache
def _places(name: str, num_classes: int) -> dict[str, Place]:
    """The places of an architecture's variables, by their names in PyTorch."""
    places = {}
    for path, leaf in flatten_dict(template(name, num_classes)).items():
        shape = tuple(leaf.shape[axis] for axis in TO_TORCH[leaf.ndim])
        places[_torch_name(path)] = Place(path, shape)
    return places


def _torch_name(path: Path) -> str:
    _, *modules, leaf = path
    if leaf not in LEAVES:
        raise UserError(f"PyTorch has no name for the parameter {'/'.join(path)}")
    return ".".join([*modules, LEAVES[leaf]])


def _unwrapped(state_dict: StateDict) -> StateDict:
    """A network's own entries, by its own names.

    What goes: the prefix of DataParallel; batch norm's counts of steps; in files of SSKD, the
    prefix `backbone.` and the projection head beside it.
    """
    state = {
        key.removeprefix("module."): array
        for key, array in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }
    backbone = {
        key.removeprefix("backbone."): array
        for key, array in state.items()
        if key.startswith("backbone.")
    }
    return backbone or state


def _to_flax(key: str, array: np.ndarray) -> np.ndarray:
    """A float32 copy with the axes in Flax's order; a `UserError` if not all of it is finite."""
    if not jnp.issubdtype(array.dtype, jnp.floating):  # numpy's does not know bfloat16
        raise UserError(f"{key!r} holds {array.dtype}, not floating point numbers")
    # A float64 that float32 can't hold becomes infinite here, without numpy's warning.
    with np.errstate(over="ignore", invalid="ignore"):
        copy = np.array(array.transpose(TO_FLAX[array.ndim]), np.float32, order="C")
    if not np.isfinite(copy).all():
        raise UserError(f"{key!r} holds numbers that are not finite")
    return copy


def _num_classes(state: StateDict) -> int:
    """K of the classifier's weight [K, D], which is the last matrix of every architecture."""
    matrices = [array for key, array in state.items() if key.endswith("weight") and array.ndim == 2]
    if not matrices or len(matrices[-1]) < 1:
        raise UserError("no classifier in it: no weight is a matrix")
    return len(matrices[-1])


def _fitting_places(name: str, state: StateDict) -> dict[str, Place]:
    """The places of an architecture's variables, by their names in PyTorch.

    Raises:
      UserError: `state` has other entries than these.
    """
    num_classes = _num_classes(state)
    places = _places(name, num_classes)
    if misfit := _misfit(places, state):
        hint = ""
        with contextlib.suppress(UserError):
            other = identified(state)
            hint = f"; this file holds a {other}: use --config.teacher.model={other}"
        raise UserError(f"this is not a {name}: {misfit}{hint}")
    return places


def _misfit(places: Mapping[str, Place], state: StateDict) -> str | None:
    """The first entry that is missing, of another shape or too many, in words; None if all fit."""
    for key, place in places.items():
        if key not in state:
            return f"{key!r} is missing"
        if state[key].shape != place.shape:
            return f"{key!r} has shape {list(state[key].shape)}, not {list(place.shape)}"
    return next((f"it has no {key[:100]!r}" for key in state if key not in places), None)
