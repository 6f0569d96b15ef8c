"""Shares and wholes on 1, 2 and 8 devices, and where nothing is mapped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sskd_jax.axis import (
    AXIS,
    device_count,
    device_index,
    differs,
    everywhere,
    mean_over_devices,
    share,
)

WHOLE = {
    "embed": np.arange(48, dtype=np.float32).reshape(16, 3),
    "label": np.arange(16, dtype=np.int32),
}
DEVICES = pytest.mark.parametrize("devices", [1, 2, 8])


def shares(tree: Any, devices: int) -> Any:
    """[N, ...] as [devices, n, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), tree)


def on_devices(function: Callable[..., Any], devices: int, *shares: Any) -> Any:
    """What each device makes of its share: leaves [devices, ...]."""
    program = jax.pmap(function, AXIS, devices=jax.devices()[:devices])
    return jax.device_get(program(*shares))


def assert_equal(actual: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@DEVICES
def test_everywhere_and_share_are_each_others_inverse(devices):
    def program(own: Any) -> Any:
        whole = everywhere(own)
        return whole, share(whole), device_count(), device_index()

    own = shares(WHOLE, devices)
    whole, again, count, index = on_devices(program, devices, own)
    for device in range(devices):
        assert_equal(jax.tree.map(lambda leaf, i=device: leaf[i], whole), WHOLE)
    assert_equal(again, own)
    np.testing.assert_array_equal(count, np.full(devices, devices))
    np.testing.assert_array_equal(index, np.arange(devices))


def test_where_nothing_is_mapped_one_device_has_all():
    for run in (lambda function: function(WHOLE), lambda function: jax.jit(function)(WHOLE)):
        for function in (everywhere, share, mean_over_devices):
            assert_equal(run(function), WHOLE)
    assert everywhere(WHOLE) is share(WHOLE) is WHOLE
    assert device_count() == 1 and device_index() == 0


def test_another_axis_than_the_batchs_is_none():
    rows = WHOLE["embed"]
    for function in (everywhere, share, mean_over_devices):
        assert_equal(jax.vmap(function, axis_name="views")(rows), rows)
        assert_equal(jax.vmap(function)(rows), rows)


@DEVICES
def test_views_of_all_images_keep_their_order_if_gathered_one_by_one(devices):
    """Joined first, they come back sorted by device, from two devices on."""
    first, second = WHOLE["label"], WHOLE["label"] + 100

    def program(first: Any, second: Any) -> Any:
        one_by_one = jnp.concatenate([everywhere(first), everywhere(second)])
        joined_first = everywhere(jnp.concatenate([first, second]))
        return one_by_one, joined_first

    found = on_devices(program, devices, shares(first, devices), shares(second, devices))
    one_by_one, joined_first = (leaf[0] for leaf in found)
    np.testing.assert_array_equal(one_by_one, np.concatenate([first, second]))
    assert np.array_equal(joined_first, one_by_one) == (devices == 1)
    np.testing.assert_array_equal(np.sort(joined_first), np.sort(one_by_one))


@DEVICES
def test_the_mean_over_devices(devices):
    found = on_devices(mean_over_devices, devices, shares(WHOLE["embed"], devices))
    expected = shares(WHOLE["embed"], devices).mean(0)
    for of_device in found:
        np.testing.assert_allclose(of_device, expected, rtol=1e-6)


@DEVICES
def test_the_mean_of_the_devices_gradients_is_that_of_a_loss_of_the_whole(devices):
    """A loss may have a part that compares all images, and one that is a mean over a share."""
    rows, weights = WHOLE["embed"] / 10, np.float32([1, -2, 0.5])

    def loss(weights: jax.Array, own: jax.Array) -> jax.Array:
        scores = everywhere(jnp.tanh(own @ weights))
        own_part = jnp.mean(share(jnp.outer(scores, scores)) ** 2)
        return jnp.sum(scores[:-1] * scores[1:]) + own_part

    def gradient(weights: jax.Array, own: jax.Array) -> jax.Array:
        return mean_over_devices(jax.grad(loss)(weights, own))

    chosen = jax.devices()[:devices]
    program = jax.pmap(gradient, AXIS, in_axes=(None, 0), devices=chosen)
    expected = jax.grad(loss)(weights, rows)
    for of_device in program(weights, shares(rows, devices)):
        np.testing.assert_allclose(of_device, expected, rtol=1e-4)


def test_a_compiled_function_is_traced_again_where_the_batch_is_mapped():
    """What it was outside of a mapped program is not remembered inside, nor the other way round."""
    function = jax.jit(everywhere)
    label = WHOLE["label"]
    own = shares(label, 2)
    np.testing.assert_array_equal(function(own[0]), own[0])
    for _ in range(2):
        whole = jax.vmap(function, axis_name=AXIS, out_axes=None)(own)
        np.testing.assert_array_equal(whole, label)
        np.testing.assert_array_equal(function(own[0]), own[0])


@DEVICES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "bool"])
def test_one_other_number_on_one_device_is_noticed(devices, dtype):
    alike = np.ones((devices, 5), dtype)
    other = alike.copy()
    other[-1, 2] = 0
    trees = {"a": alike, "none": alike[:, :0]}, {"a": alike, "b": other}
    found = on_devices(lambda *own: [differs(tree) for tree in own], devices, *trees)
    assert [value.tolist() for value in found] == [[False] * devices, [devices > 1] * devices]


@pytest.mark.parametrize("distance, expected", [(1e-4, False), (1e-3, True)])
def test_rounding_makes_no_device_differ(distance, expected):
    """Relative to the largest number, 1; the other one differs by much of its own size."""
    numbers = np.float32([[1e-9, 1], [1e-9 + distance, 1]])
    assert on_devices(differs, 2, numbers).tolist() == [expected] * 2
