import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import sskd_frozen, sskd_start, sskd_task

from sskd_jax.engine.devices import first, replicated
from sskd_jax.engine.step import train_program

ORDER = np.random.default_rng(0).permutation(48).reshape(3, 16).astype(np.int32)
TASK = sskd_task(steps_per_epoch=2)


@functools.cache
def program(devices: int):
    return train_program(TASK, jax.devices()[:devices])


@functools.cache
def beginning():
    frozen = sskd_frozen(TASK)
    return sskd_start(TASK, frozen), frozen


def train(devices: int, *cuts: int, step: int = 0):
    """Steps of 16 images on so many devices, dispatched from cut to cut: (state, its sums after every dispatch)."""
    state, frozen = (replicated(tree, jax.devices()[:devices]) for tree in beginning())
    state = state._replace(step=state.step + step)
    order, sums = ORDER.reshape(3, devices, -1).swapaxes(0, 1), []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        state, _ = program(devices)(state, frozen, order, start, stop)
        sums.append(first(state.sums))
    return jax.device_get((state, sums))


@pytest.fixture(scope="module")
def on_one_device():
    return train(1, 0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_same_numbers_on_any_number_of_devices(devices, on_one_device):
    state = train(devices, 0, 3)[0]
    for one, many in zip(jax.tree.leaves(on_one_device[0]), jax.tree.leaves(state), strict=True):
        for device in range(devices):
            np.testing.assert_allclose(many[device], one[0], rtol=2e-4, atol=2e-6)


def test_dispatches_may_be_cut_anywhere(on_one_device):
    whole, cut = on_one_device[0], train(1, 0, 1, 3)[0]
    jax.tree.map(np.testing.assert_array_equal, cut, whole)


def test_everything_that_learns_moves(on_one_device):
    state = on_one_device[0]
    for before, after in zip(
        jax.tree.leaves(beginning()[0].params), jax.tree.leaves(state.params), strict=True
    ):
        assert np.abs(before - after[0]).max() > 0
    assert state.step[0] == 3


def test_sums_are_named_and_weighted():
    (sums,) = train(1, 0, 2)[1]
    assert {"loss", "ce", "kd", "tf", "ss", "accuracy", "contrastive"} == set(sums)
    weighted = sum(TASK.weights[name] * sums[name] for name in TASK.weights)
    np.testing.assert_allclose(sums["loss"], weighted, rtol=1e-5)


def test_sums_begin_anew_with_an_epoch_of_two_steps():
    one, two, three = (sums["ce"] for sums in train(1, 0, 1, 2, 3)[1])
    assert two > 1.5 * one and three < 0.75 * two


def test_views_differ_from_step_to_step():
    assert train(1, 0, 1, step=0)[1][0]["ce"] != train(1, 0, 1, step=2)[1][0]["ce"]


def test_bfloat16_networks_keep_float32_parameters_statistics_and_losses(on_one_device):
    task, device = sskd_task(steps_per_epoch=2, dtype=jnp.bfloat16), jax.devices()[:1]
    state, frozen = (replicated(tree, device) for tree in beginning())
    state, _ = train_program(task, device)(state, frozen, ORDER[:, None].swapaxes(0, 1), 0, 1)
    sums = first(state.sums)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, sums))} == {
        jnp.dtype("float32")
    }
    for name, value in train(1, 0, 1)[1][0].items():
        if name in task.weights:
            np.testing.assert_allclose(sums[name], value, rtol=0.05)
            assert sums[name] != value
