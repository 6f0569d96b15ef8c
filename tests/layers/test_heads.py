"""The layers between a student's map and a teacher's: their shapes, and batch norm by the batch."""

import jax
import numpy as np
import pytest
from pairs import arrays

from sskd_jax.layers.heads import (
    BatchNorm,
    Convolution,
    Doubling,
    Linear,
    Regressor,
    init_all,
    nearest,
)
from sskd_jax.types import UserError


@pytest.mark.parametrize("size", [8, 4, 16])
def test_the_regressor_brings_maps_to_the_teachers_shape_and_normalises_them(size):
    regressor = Regressor(6, size)
    variables = regressor.init(jax.random.key(0), arrays(2, 8, 8, 3))
    found = regressor.apply(variables, 5 * arrays(7, 8, 8, 3) + 2)
    assert found.shape == (7, size, size, 6)
    np.testing.assert_allclose(found.mean((0, 1, 2)), np.zeros(6), atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), np.ones(6), rtol=1e-3)


def test_sizes_that_no_layer_joins_are_told():
    with pytest.raises(
        UserError, match="map of 9x9 is neither as large as the teacher's of 4x4, nor twice or half"
    ):
        Regressor(6, 4).init(jax.random.key(0), arrays(2, 9, 9, 3))


def test_batch_norm_in_numpy():
    x, params = (
        arrays(5, 4, 4, 3),
        {"scale": arrays(1, 1, 1, 3), "bias": arrays(1, 1, 1, 3, seed=1)},
    )
    flat = x.reshape(-1, 3)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(
        BatchNorm().apply({"params": params}, x), expected, rtol=1e-4, atol=1e-6
    )


def test_doubling_is_the_transpose_of_a_convolution_by_two():
    """<doubled(x), y> = <x, halved(y)> for the 4x4 convolution of stride 2 and padding 1."""
    x, y, kernel = arrays(1, 3, 3, 2), arrays(1, 6, 6, 5, seed=1), arrays(4, 4, 2, 5, seed=2)
    doubled = Doubling(5).apply(
        {"params": {"kernel": kernel, "bias": np.zeros((1, 1, 1, 5), np.float32)}}, x
    )
    padded, halved = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), np.zeros_like(x)
    for i in range(3):
        for j in range(3):
            window = padded[0, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            halved[0, i, j] = np.einsum("hwo,hwco->c", window, kernel[::-1, ::-1])
    np.testing.assert_allclose(np.sum(doubled * y), np.sum(x * halved), rtol=1e-4)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(Linear(32), 3), (Convolution(32), 27), (Convolution(32, 1), 3), (Doubling(32), 512)],
)
def test_weights_start_as_pytorchs(layer, fan_in):
    for leaf in jax.tree.leaves(layer.init(jax.random.key(0), arrays(2, 4, 4, 3))):
        assert 0.85 * fan_in**-0.5 < np.abs(leaf).max() <= fan_in**-0.5


def test_the_nearest_pixel():
    x = arrays(2, 3, 4, 1)
    np.testing.assert_array_equal(nearest(x, 6, 8), x.repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(nearest(x, 3, 2), x[:, :, ::2])
    np.testing.assert_array_equal(nearest(x, 5, 4), x[:, [0, 0, 1, 1, 2]])


def test_modules_of_one_kind_start_from_different_weights():
    params = init_all(
        jax.random.key(0), {"a": (Linear(4), arrays(2, 3)), "b": (Linear(4), arrays(2, 3))}
    )
    assert (params["a"]["linear"]["kernel"] != params["b"]["linear"]["kernel"]).all()
