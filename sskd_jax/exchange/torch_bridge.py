"""PyTorch's weights to Flax and back; the only place, with `torch_file`, that knows PyTorch.

Modules here carry the names that they have there, so the path of a parameter joined by dots is its PyTorch name; what
is left to translate is the last part of the name, and the order of the axes.
"""

import os
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sskd_jax.exchange import torch_file
from sskd_jax.models import MODELS
from sskd_jax.types import UserError

StateDict = Mapping[str, np.ndarray]
Path = tuple[
    str, ...
]  # collection, modules, leaf; a module's name may hold dots, so paths are joined but never split

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
TO_TORCH = {
    1: (0,),
    2: (1, 0),
    4: (3, 2, 0, 1),
}  # by number of axes: a vector, [in, out] -> [out, in], HWIO -> OIHW
TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
ALIASES = {
    f"classifier.0.{leaf}": f"classifier.{leaf}" for leaf in ("weight", "bias")
}  # MobileNetV2 has both in use


def load_pth(path: str | os.PathLike, name: str) -> tuple[dict[str, Any], int]:
    """(variables, number of classes) of architecture `name` from a PyTorch checkpoint."""
    state = read_pth(path)
    try:
        return from_state_dict(name, state), _num_classes(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state_dict in a PyTorch checkpoint of any layout in use, by the names of the bare network."""
    return _bare(torch_file.read_tensors(path))


def from_state_dict(name: str, state_dict: StateDict) -> dict[str, Any]:
    """{"params", "batch_stats"} of architecture `name` as nested dictionaries of float32 arrays.

    Raises:
      UserError: an entry is missing, unknown, of the wrong shape or type, or not finite.
    """
    state = {ALIASES.get(key, key): array for key, array in _bare(state_dict).items()}
    places = _fitting_places(name, state)
    return unflatten_dict({path: _to_flax(key, state[key]) for key, (path, _) in places.items()})


def to_state_dict(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse: {"params", "batch_stats"} -> PyTorch's names and order of axes."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}
    state = {
        _torch_name(path): leaf.transpose(TO_TORCH[leaf.ndim]) for path, leaf in leaves.items()
    }
    _fitting_places(name, state)
    return {key: np.ascontiguousarray(array) for key, array in state.items()}


@cache
def template(name: str, num_classes: int) -> dict[str, Any]:
    """The variables of an architecture, shapes only."""
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    init = partial(MODELS[name](num_classes=num_classes).init, train=False)
    return jax.eval_shape(
        init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )


@cache
def _places(name: str, num_classes: int) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """PyTorch's name -> (path in the variables, shape in PyTorch)."""
    leaves = flatten_dict(template(name, num_classes))
    return {
        _torch_name(path): (path, tuple(leaf.shape[axis] for axis in TO_TORCH[leaf.ndim]))
        for path, leaf in leaves.items()
    }


def _torch_name(path: Path) -> str:
    _, *modules, leaf = path
    return ".".join([*modules, LEAVES[leaf]])


def _bare(state_dict: StateDict) -> StateDict:
    """A state_dict without what wraps a network: DataParallel, SSKD's `backbone` beside `proj_head`, step counts."""
    state = {
        key.removeprefix("module."): array
        for key, array in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }
    wrapped = {
        key.removeprefix("backbone."): x for key, x in state.items() if key.startswith("backbone.")
    }
    return wrapped or state


def _to_flax(key: str, array: np.ndarray) -> np.ndarray:
    """A float32 copy of an array with its axes in Flax's order."""
    if not jnp.issubdtype(array.dtype, jnp.floating):  # numpy's does not know bfloat16
        raise UserError(f"{key!r} holds {array.dtype}, not floating point numbers")
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what does not fit becomes infinite, and is reported below
        copy = np.array(array.transpose(TO_FLAX[array.ndim]), np.float32, order="C")
    if not np.isfinite(copy).all():
        raise UserError(f"{key!r} holds numbers that are not finite")
    return copy


def _num_classes(state: StateDict) -> int:
    """As the classifier's weight [K, D] says, the last matrix of every architecture."""
    rows = [
        array.shape[0] for key, array in state.items() if key.endswith("weight") and array.ndim == 2
    ]
    if not rows or rows[-1] < 1:
        raise UserError("no classifier in it: no weight is a matrix")
    return rows[-1]


def _fitting_places(name: str, state: StateDict) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """The places of `name`'s entries, after a check that `state` has just these entries."""
    num_classes = _num_classes(state)
    places = _places(name, num_classes)
    if misfit := _misfit(places, state):
        fits = (other for other in MODELS if _misfit(_places(other, num_classes), state) is None)
        hint = [
            f"; this file holds a {other}: use --config.teacher.model={other}" for other in fits
        ]
        raise UserError(f"this is not a {name}: {misfit}{''.join(hint[:1])}")
    return places


def _misfit(places: Mapping[str, tuple[Path, tuple[int, ...]]], state: StateDict) -> str | None:
    """The first entry that is missing, of another shape or too many."""
    for key, (_, shape) in places.items():
        if key not in state:
            return f"{key!r} is missing"
        if state[key].shape != shape:
            return f"{key!r} has shape {list(state[key].shape)}, not {list(shape)}"
    return next((f"it has no {key[:100]!r}" for key in state if key not in places), None)
