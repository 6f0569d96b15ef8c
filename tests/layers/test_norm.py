"""Batch norm against numpy: by the whole batch wherever it runs, and by running statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_near
from pairs import arrays

from sskd_jax.axis import AXIS, everywhere
from sskd_jax.layers.norm import EPSILON, BatchNorm, folded

X = 2 * arrays(16, 3, 3, 5) + arrays(5, seed=1)
PARAMS = {"scale": arrays(5, seed=2), "bias": arrays(5, seed=3)}
STATS = {"mean": arrays(5, seed=4), "var": np.square(arrays(5, seed=5)) + 0.1}
VARIABLES = {"params": PARAMS, "batch_stats": STATS}
WEIGHT = arrays(*X.shape, seed=6)


def by(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Normalised by these statistics, in float64."""
    gain = PARAMS["scale"] / np.sqrt(np.float64(var) + EPSILON)
    return (x - np.float64(mean)) * gain + PARAMS["bias"]


def train(x: Any, variables: Any = VARIABLES, **attributes: Any) -> tuple[Any, Any]:
    """(what the layer gives of x in training, its statistics afterwards)."""
    y, moved = BatchNorm(train=True, **attributes).apply(variables, x, mutable=["batch_stats"])
    return y, moved["batch_stats"]


def objective(x: Any) -> tuple[jax.Array, tuple[Any, Any]]:
    """A loss of the whole, with what else the layer gives of a share x."""
    y, stats = train(x)
    whole = everywhere(y)
    return jnp.sum(whole * WEIGHT), (y, stats)


gradient = jax.grad(objective, has_aux=True)


def test_training_normalises_by_the_batch_and_moves_the_running_statistics():
    flat = X.reshape(-1, 5)
    y, stats = train(X)
    assert_near(y, by(X, flat.mean(0), flat.var(0)), 1e-6)
    assert_near(stats["mean"], 0.9 * STATS["mean"] + 0.1 * flat.mean(0), 1e-6)
    # PyTorch's running variance is the unbiased one.
    assert_near(stats["var"], 0.9 * STATS["var"] + 0.1 * flat.var(0, ddof=1), 1e-6)


@pytest.mark.parametrize("is_training", [True, False])
def test_no_digits_are_lost_where_the_mean_is_a_thousand_deviations_from_0(is_training):
    far = np.float32(X + 2000)
    y, stats = train(far, momentum=0.0)  # so these are the statistics of the batch
    if not is_training:
        y = BatchNorm().apply({"params": PARAMS, "batch_stats": stats}, far)
    ddof = 0 if is_training else 1  # the running variance is the unbiased one
    var = np.float64(far).reshape(-1, 5).var(0, ddof=ddof)
    assert_near(y, by(far, stats["mean"], var), 1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_momentum_is_what_stays_of_the_running_statistics(momentum):
    stats = train(X, momentum=momentum)[1]
    mean = X.reshape(-1, 5).mean(0)
    assert_near(stats["mean"], momentum * STATS["mean"] + (1 - momentum) * mean, 1e-6)


def test_evaluation_normalises_by_the_running_statistics():
    assert_near(BatchNorm().apply(VARIABLES, X), by(X, STATS["mean"], STATS["var"]), 1e-6)
    y, moved = BatchNorm().apply(VARIABLES, X, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], STATS)


@pytest.mark.parametrize("is_training", [True, False])
def test_it_starts_as_if_it_had_seen_nothing(is_training):
    y, variables = BatchNorm(train=is_training).init_with_output(jax.random.key(0), X)
    assert_near(y, X / np.sqrt(1 + EPSILON), 1e-6)
    assert jax.tree.map(lambda leaf: leaf.tolist(), variables) == {
        "params": {"scale": [1] * 5, "bias": [0] * 5},
        "batch_stats": {"mean": [0] * 5, "var": [1] * 5},
    }


def test_rows_are_normalised_like_maps():
    y, stats = train(X)
    rows, stats_of_rows = train(X.reshape(-1, 5))
    assert_near(rows.reshape(X.shape), y, 1e-6)
    jax.tree.map(lambda a, b: assert_near(a, b, 1e-6), stats_of_rows, stats)


def test_bfloat16_is_of_the_result_alone():
    x = jnp.asarray(X, jnp.bfloat16)
    y, stats = train(x, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    expected, stats_of_float32 = train(x.astype(jnp.float32))
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, stats, stats_of_float32)


def test_the_gradient_passes_through_the_statistics():
    """Against differences of the layer in float64."""
    direction = arrays(*X.shape, seed=7)

    def value(step: float) -> float:
        x = X + step * np.float64(direction)
        flat = x.reshape(-1, 5)
        return np.sum(by(x, flat.mean(0), flat.var(0)) * WEIGHT)

    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(np.sum(gradient(X)[0] * direction), expected, rtol=1e-4)


# The shares of several devices.


def mapped(kind: str, devices: int) -> Any:
    """`gradient` over the axis of the batch: on as many devices, or on one in their place."""
    if kind == "vmap":
        return jax.jit(jax.vmap(gradient, axis_name=AXIS))
    return jax.pmap(gradient, AXIS, devices=jax.devices()[:devices])


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("kind", ["vmap", "pmap"])
def test_the_statistics_are_those_of_the_whole_batch(kind, devices):
    shares = X.reshape(devices, -1, *X.shape[1:])
    by_shares, (y, stats) = jax.device_get(mapped(kind, devices)(shares))
    whole, (expected, expected_stats) = gradient(X)
    assert_near(y.reshape(X.shape), expected, 1e-6)
    for name, running in expected_stats.items():
        for of_device in stats[name]:
            assert_near(of_device, running, 1e-6)
    # Every device computes the loss, so its gradient is as many times that of one.
    assert_near(by_shares.reshape(X.shape) / devices, whole, 1e-5)


def test_in_evaluation_shares_are_nothing_special():
    evaluate = jax.vmap(lambda x: BatchNorm().apply(VARIABLES, x), axis_name=AXIS)
    y = evaluate(X.reshape(2, 8, *X.shape[1:]))
    assert_near(y.reshape(X.shape), BatchNorm().apply(VARIABLES, X), 1e-6)


# What a frozen network computes from its weights alone.


@pytest.mark.parametrize("is_nested", [True, False])
def test_folded_statistics_leave_a_gain_and_a_shift(is_nested):
    def nest(tree: Any) -> Any:
        return {"block": {"norm": tree}} if is_nested else tree

    found = folded(nest(PARAMS), nest(STATS), jnp.float32)
    found = found["block"]["norm"] if is_nested else found
    assert set(found) == {"scale", "bias"}
    assert_near(X * found["scale"] + found["bias"], by(X, STATS["mean"], STATS["var"]), 1e-6)
    assert_near(BatchNorm().apply({"params": found}, X), BatchNorm().apply(VARIABLES, X), 1e-6)


def test_kernels_of_convolutions_alone_get_the_type_that_they_compute_in():
    params = {"conv": {"kernel": arrays(3, 3, 2, 4), "bias": arrays(4)}, "fc": {"kernel": X[0, 0]}}
    found = folded(params, {}, jnp.bfloat16)
    assert found["conv"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["conv"]["bias"], params["conv"]["bias"])
    np.testing.assert_array_equal(found["fc"]["kernel"], params["fc"]["kernel"])
    assert found["fc"]["kernel"].dtype == found["conv"]["bias"].dtype == np.float32
