"""Shares and wholes: a batch is spread over the devices along one mapped axis.

Outside of a mapped program there is one device, whose share is the whole.
"""

from typing import Any

import jax
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
    """Which of them this is."""
    return lax.axis_index(AXIS) if device_count() > 1 else 0


def everywhere(tree: Any) -> Any:
    """The whole [N, ...] of every leaf of which this device has the share [n, ...].

    Gather two shares one by one and then join them: joined first, they come back sorted by
    device.
    """
    if device_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), tree)


def share(tree: Any) -> Any:
    """This device's share [n, ...] of every leaf that all devices have whole, [N, ...]."""
    devices = device_count()
    if devices == 1:
        return tree

    def cut(leaf: Array) -> Array:
        size = leaf.shape[0] // devices
        return lax.dynamic_slice_in_dim(leaf, lax.axis_index(AXIS) * size, size)

    return jax.tree.map(cut, tree)


def mean_over_devices(tree: Any) -> Any:
    """The mean of what the devices have."""
    return tree if device_count() == 1 else lax.pmean(tree, AXIS)
