"""A batch is divided among the devices along one mapped axis; each device has a share of it.

Outside of a mapped program there is one device, whose share is the whole batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sskd_jax.types import Array

AXIS = "batch"


def device_count() -> int:
    """How many devices share the batch."""
    try:
        return lax.axis_size(AXIS)
    except NameError:  # no such axis is mapped
        return 1


def device_index() -> Array | int:
    """The position of this device on the axis."""
    return lax.axis_index(AXIS) if device_count() > 1 else 0


def everywhere(tree: Any) -> Any:
    """The whole array [N, ...] of every leaf, of which this device has its share [n, ...].

    To join two batches, gather each and concatenate the results. The gather of concatenated
    shares would be sorted by device.
    """
    if device_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), tree)


def share(tree: Any) -> Any:
    """This device's share [n, ...] of every leaf [N, ...], which all devices have as a whole."""
    devices = device_count()
    if devices == 1:
        return tree

    def cut(leaf: Array) -> Array:
        size = leaf.shape[0] // devices
        return lax.dynamic_slice_in_dim(leaf, lax.axis_index(AXIS) * size, size)

    return jax.tree.map(cut, tree)


def mean_over_devices(tree: Any) -> Any:
    """The mean over the devices of every leaf."""
    return tree if device_count() == 1 else lax.pmean(tree, AXIS)


def differs(tree: Any) -> Array:
    """bool[]: whether devices hold different numbers in a tree.

    Floats may differ by half of their digits, relative to the largest number of their leaf:
    processes compile the same program each for itself, and it may round differently.
    """
    found = jnp.asarray(False)
    for leaf in jax.tree.leaves(tree) if device_count() > 1 else ():
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        tolerance = jnp.finfo(leaf.dtype).eps ** 0.5 if is_float else 0
        leaf = leaf if is_float else leaf.astype(jnp.int32)
        high, low = lax.pmax(leaf, AXIS), lax.pmin(leaf, AXIS)
        largest = jnp.max(jnp.maximum(jnp.abs(high), jnp.abs(low)), initial=0)
        found |= jnp.any(high - low > tolerance * largest)
    return found
