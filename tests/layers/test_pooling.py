"""Pooling, and its gradient, against windows of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sskd_jax.layers.pooling import halved, halved_by_convolution, halved_by_windows


def windows(x: np.ndarray) -> np.ndarray:
    """The means of 3x3 pixels, two apart, of x padded by zeros."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    images, height, width, channels = x.shape
    means = np.zeros((images, (height + 1) // 2, (width + 1) // 2, channels), x.dtype)
    for i, j in np.ndindex(means.shape[1:3]):
        means[:, i, j] = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].mean((1, 2))
    return means


@pytest.mark.parametrize("form", [halved_by_windows, halved_by_convolution])
@pytest.mark.parametrize("shape", [(2, 8, 8, 6), (1, 5, 4, 2)], ids=str)
def test_means_of_windows_and_their_gradient(shape, form):
    """The means are linear in x, so their gradient along dy has the product <dy, means(x)>."""
    rng = np.random.default_rng(0)
    x, other = rng.standard_normal((2, *shape)).astype(np.float32)
    expected = windows(x)
    dy = rng.standard_normal(expected.shape).astype(np.float32)
    found, pull = jax.vjp(form, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    (dx,) = pull(jnp.asarray(dy))
    np.testing.assert_allclose(np.sum(dx * other), np.sum(dy * windows(other)), rtol=1e-4)


def test_means_in_bfloat16_are_not_biased():
    x = np.random.default_rng(0).standard_normal((4, 16, 16, 8)).astype(np.float32)
    found = np.asarray(halved(jnp.asarray(x, jnp.bfloat16)), np.float32)
    expected = windows(x)
    slope = (found * expected).sum() / np.square(expected).sum()
    assert abs(slope - 1) < 5e-4


def test_other_platforms_take_windows():
    def loss(x: jax.Array) -> jax.Array:
        return halved(x).sum()

    image = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    lowered = jax.jit(loss).trace(image).lower(lowering_platforms=("cuda",)).as_text()
    assert "reduce_window" in lowered and "convolution" not in lowered
