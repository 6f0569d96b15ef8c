"""Converts PyTorch's weights to Flax variables and back; only this and `torch_file` know PyTorch.

Modules here have the same names as in the reference's networks. So the path of a parameter, joined
by dots, is its name in PyTorch except for the last part; and the axes are in another order.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from sskd_jax.exchange import torch_file
from sskd_jax.models import MODELS
from sskd_jax.models.build import architecture
from sskd_jax.system import safe_pickle
from sskd_jax.types import Array, UserError

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

# The permutation of the axes by their number: [in, out] is [out, in] in PyTorch, and HWIO is OIHW.
# Other arrays stay as they are.
TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}
TO_FLAX = {2: (1, 0), 4: (2, 3, 1, 0)}

SIDE = 32  # of images in pixels, on which the shapes of our architectures do not depend

# Prefixes of the names in HSAKD's and in SSKD's files.
BACKBONE, BRANCHES, HEAD = "backbone.", "auxiliary_classifier.", "proj_head."

# HSAKD's MobileNetV2 and SSKD's have the same names and shapes, but stems of different strides.
# The other prefixes in a file tell whose network it is.
MOBILENETS = {BRANCHES: "MobileNetV2s1", HEAD: "MobileNetV2"}

WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # of DataParallel, and of torch.compile

PART = ".branches"  # the suffix of a name that means the branches of an architecture

# Both names of MobileNetV2's classifier are in use.
ALIASES = {f"classifier.0.{leaf}": f"classifier.{leaf}" for leaf in ("weight", "bias")}


SAFE_DTYPES = {  # of safetensors
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": jnp.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


class Place(NamedTuple):
    """The place of a state_dict's entry: its path in the variables, and its shape in PyTorch."""

    path: Path
    shape: tuple[int, ...]


def load_weights(
    path: str | os.PathLike, name: str, section: str | None = None, side: int = SIDE
) -> tuple[dict[str, Any], int]:
    """({"params", "batch_stats"}, number of classes) of an architecture, from a PyTorch file.

    Args:
      path: of the file.
      name: of the architecture, one of `MODELS`; followed by ".branches" for its branches.
      section: the config section that names the architecture, for error messages; "" if the flag
        --network names it; None if the caller does.
      side: of its images in pixels, on which the shapes of a user's network may depend.

    Raises:
      UserError: the file can't be read, or holds another network.
    """
    tensors = read_state_dict(path)
    try:
        state = _own_entries(name, tensors, section)
        return _variables(name, state, section, side)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state_dict in a PyTorch checkpoint of any layout, or in a file called *.safetensors.

    The prefixes of DataParallel and of torch.compile are removed.

    Raises:
      UserError: the file can't be read, would run code, or holds no named tensors.
    """
    if str(path).endswith((".stablehlo", ".onnx")):
        raise UserError(f"{path} is a program: give the .pth or .safetensors file of the network")
    if str(path).endswith(".safetensors"):
        return _unwrapped(_read_safetensors(path))
    return _unwrapped(torch_file.read_tensors(path))


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    if safe_pickle.is_endless(path):
        raise UserError(f"{path} is no file, but a pipe or a device: give a file")
    try:
        parts = deserialize(epath.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error
    tensors = {}
    for name, part in parts:
        if part["dtype"] not in SAFE_DTYPES:
            raise UserError(f"{path}: {name!r} holds {part['dtype']}: save it as F32")
        dtype = np.dtype(SAFE_DTYPES[part["dtype"]])
        tensors[name] = np.ndarray(part["shape"], dtype, buffer=part["data"])
    return tensors


def identified(state_dict: StateDict) -> str:
    """The name in `MODELS` of the architecture that a state_dict holds.

    Raises:
      UserError: it is none of them.
    """
    name = _fitting_model(_own_entries("", state_dict))
    if name is None:
        raise UserError(
            "it is none of our architectures: name a network of yours, network=MODULE:CLASS "
            "(--network=MODULE:CLASS)"
        )
    prefix = _telling_prefix(_unwrapped(state_dict))
    return MOBILENETS[prefix] if prefix and name in MOBILENETS.values() else name


def _fitting_model(state: StateDict, part: str = "") -> str | None:
    """The first architecture that these entries fit; for `part` ".branches", its branches."""
    num_classes = _counts(part, state)[0]
    return next(
        (name for name in MODELS if not _misfit(_places(name + part, num_classes), state)), None
    )


def from_state_dict(name: str, state_dict: StateDict) -> dict[str, Any]:
    """{"params", "batch_stats"} of an architecture, nested dictionaries of float32 arrays.

    Args:
      name: of the architecture, one of `MODELS`; followed by ".branches" for its branches.
      state_dict: arrays by PyTorch's names.

    Raises:
      UserError: an entry is missing, unknown, of the wrong shape or type, or not finite.
    """
    variables, _ = _variables(name, _own_entries(name, state_dict))
    return variables


def to_state_dict(
    name: str, variables: Mapping[str, Any], side: int = SIDE
) -> dict[str, np.ndarray]:
    """Contiguous arrays by PyTorch's names, in its order of axes; the inverse of `from_state_dict`.

    Args:
      name: of the architecture, one of `MODELS`; followed by ".branches" for its branches.
      variables: {"params", "batch_stats"}.
      side: as in `load_weights`.

    Raises:
      UserError: the variables are those of another architecture, or two would have one name.
    """
    state = {}
    for path, leaf in flatten_dict(variables).items():
        if (key := _torch_name(path)) in state:
            raise UserError(
                f"two parameters would be called {key!r}: give another --format, or rename one"
            )
        state[key] = _reordered(np.asarray(leaf), TO_TORCH)
    _fitting_places(name, state, side=side)
    return {key: np.asarray(array, order="C") for key, array in state.items()}


def template(name: str, num_classes: int, side: int = SIDE) -> dict[str, Any]:
    """The shapes of the variables of an architecture or its branches, {"params", "batch_stats"}.

    Raises:
      UserError: there is no such architecture.
    """
    return _template(architecture(model_of(name)), _is_part(name), num_classes, side)


@cache  # by the architecture itself, as a user may load its module again with other code
def _template(
    make: Callable[..., nn.Module], branches: bool, num_classes: int, side: int
) -> dict[str, Any]:
    network = make(num_classes=num_classes, dtype=jnp.float32)

    def init(key: Array, image: Array) -> dict[str, Any]:
        outputs, variables = network.init_with_output(key, image)
        return network.branches.init(key, outputs.maps) if branches else variables

    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(init, jax.random.key(0), image)


def _places(name: str, num_classes: int, side: int = SIDE) -> dict[str, Place]:
    """The places of an architecture's variables, by their names in PyTorch."""
    places = {}
    for path, leaf in flatten_dict(template(name, num_classes, side)).items():
        shape = _reordered(np.broadcast_to(0, leaf.shape), TO_TORCH).shape
        places[_torch_name(path)] = Place(path, shape)
    return places


def model_of(name: str) -> str:
    """resnet8 for "resnet8.branches"."""
    return name.removesuffix(PART)


def _is_part(name: str) -> bool:
    return name.endswith(PART)


def _torch_name(path: Path) -> str:
    _, *modules, leaf = path
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def _reordered(array: np.ndarray, orders: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    """The array with its axes in the order that `orders` has for their number, if it has one."""
    return array.transpose(orders.get(array.ndim, range(array.ndim)))


def _variables(
    name: str, state: StateDict, section: str | None = None, side: int = SIDE
) -> tuple[dict[str, Any], int]:
    """As `load_weights`, from entries without prefixes."""
    places, num_classes = _fitting_places(name, state, section, side)
    leaves = {place.path: _to_flax(key, state[key]) for key, place in places.items()}
    return unflatten_dict(leaves), num_classes


def _advice(section: str | None, model: str) -> str:
    """What to give to get another architecture; `section` is as in `load_weights`."""
    if section is None:
        return f"name {model}"
    return f"use --config.{section}.model={model}" if section else f"use --network={model}"


def _own_entries(name: str, state_dict: StateDict, section: str | None = None) -> StateDict:
    """The entries of an architecture, or of its branches, by their names without prefixes.

    Raises:
      UserError: they are those of another MobileNetV2, or there are no branches.
    """
    state = _unwrapped(state_dict)
    model = model_of(name)
    if ":" in model:  # a user's network may have modules of any names
        return state
    prefix = _telling_prefix(state)
    if prefix and model in MOBILENETS.values() and model != MOBILENETS[prefix]:
        raise UserError(
            f"the {prefix[:-1]} in it tells that its stem has another stride than that of "
            f"{model}: {_advice(section, MOBILENETS[prefix])}"
        )
    if _is_part(name):
        if branches := _under(BRANCHES, state):
            return branches
        raise UserError(f"no branches in it: no name begins with {BRANCHES!r}")
    network = _under(BACKBONE, state) or state
    return {ALIASES.get(key, key): array for key, array in network.items()}


def _telling_prefix(state: StateDict) -> str | None:
    """The prefix in `MOBILENETS` with which a name begins; None if none does."""
    return next((one for one in MOBILENETS if any(name.startswith(one) for name in state)), None)


def _under(prefix: str, state: StateDict) -> dict[str, np.ndarray]:
    """The entries whose names begin with a prefix, by the names without it."""
    return {
        key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)
    }


def _unwrapped(state_dict: StateDict) -> dict[str, np.ndarray]:
    """All entries without the prefixes of wrappers, and without batch norm's counts of steps."""
    return {
        WRAPPERS.sub("", key): array
        for key, array in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }


def _to_flax(key: str, array: np.ndarray) -> np.ndarray:
    """A float32 copy with Flax's order of axes; a `UserError` if a value is not a finite float."""
    if not jnp.issubdtype(array.dtype, jnp.floating):  # numpy's does not know bfloat16
        raise UserError(f"{key!r} holds {array.dtype}, not floating point numbers")
    # A float64 that float32 can't hold becomes infinite here, without numpy's warning.
    with np.errstate(over="ignore", invalid="ignore"):
        copy = np.array(_reordered(array, TO_FLAX), np.float32, order="C")
    if not np.isfinite(copy).all():
        raise UserError(f"{key!r} holds numbers that are not finite")
    return copy


def _counts(name: str, state: StateDict) -> list[int]:
    """What K may be, from a classifier's weight [K, D]; those of branches are [4K, D].

    It is the last matrix of our architectures, and any one of a user's.
    """
    matrices = [array for key, array in state.items() if key.endswith("weight") and array.ndim == 2]
    counts = (len(matrix) // (4 if _is_part(name) else 1) for matrix in reversed(matrices))
    found = list(dict.fromkeys(count for count in counts if count))
    if not found:
        raise UserError("no classifier in it: no weight is a matrix")
    return found


def _fitting_places(
    name: str, state: StateDict, section: str | None = None, side: int = SIDE
) -> tuple[dict[str, Place], int]:
    """(the places of an architecture's variables by their names in PyTorch, K).

    Raises:
      UserError: `state` has other entries than these.
    """
    counts = _counts(name, state)
    for num_classes in counts:
        places = _places(name, num_classes, side)
        if not _misfit(places, state):
            return places, num_classes
    hint, part = "", name.removeprefix(model_of(name))
    if other := _fitting_model(state, part):
        hint = f"; these are weights of a {other}: {_advice(section, other)}"
    places = _places(name, counts[0], side)
    if prefix := _prefix(places, state):
        hint = f"; all of its names are there, prefixed with {prefix[:100]!r}: save that part alone"
    raise UserError(f"this is not a {name}: {_misfit(places, state)}{hint}")


def _prefix(places: Mapping[str, Place], state: StateDict) -> str | None:
    """The prefix with which `state` has an entry for every place; None if there is none."""
    first = next(iter(places))
    prefixes = (key.removesuffix(first) for key in state if key.endswith(f".{first}"))
    return next(
        (prefix for prefix in prefixes if all(prefix + key in state for key in places)), None
    )


def _misfit(places: Mapping[str, Place], state: StateDict) -> str | None:
    """The first entry that is missing, unknown or of another shape, in words; None if all fit."""
    for key, place in places.items():
        if key not in state:
            return f"{key!r} is missing"
        if state[key].shape != place.shape:
            return f"{key!r} has shape {list(state[key].shape)}, not {list(place.shape)}"
    return next((f"it has no {key[:100]!r}" for key in state if key not in places), None)
