"""The layers between a student's map and a teacher's: their shapes, and batch norm after them."""

import jax
import numpy as np
import pytest
from pairs import arrays

from sskd_jax.layers.heads import Convolution, Doubling, Linear, Regressor, nearest
from sskd_jax.types import UserError


@pytest.mark.parametrize("size", [8, 4, 16])
def test_the_regressor_brings_maps_to_the_teachers_shape_and_normalises_them(size):
    features, target = 5 * arrays(7, 8, 8, 3) + 2, arrays(7, size, size, 6)
    variables = Regressor().init(jax.random.key(0), features[:2], target[:2])
    args = variables, features, target
    found, moved = Regressor().apply(*args, train=True, mutable=["batch_stats"])
    assert found.shape == target.shape
    np.testing.assert_allclose(found.mean((0, 1, 2)), np.zeros(6), atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), np.ones(6), rtol=1e-3)
    before, after = (tree["batch_stats"]["norm"] for tree in (variables, moved))
    assert (after["mean"] != before["mean"]).all() and (after["var"] != before["var"]).all()


def test_outside_of_training_the_regressor_normalises_by_its_running_statistics():
    features, target = arrays(4, 8, 8, 3), arrays(4, 8, 8, 6)
    variables = Regressor().init(jax.random.key(0), features, target)
    whole = Regressor().apply(variables, features, target)
    np.testing.assert_allclose(
        Regressor().apply(variables, features[:1], target[:1]), whole[:1], rtol=1e-5, atol=1e-6
    )
    layer = Convolution(6, 1).apply({"params": variables["params"]["layer"]}, features)
    np.testing.assert_allclose(whole, layer / np.sqrt(1 + 1e-5), rtol=1e-5, atol=1e-6)


def test_sizes_that_no_layer_joins_are_told():
    told = "map of 9x9 is neither as large as the teacher's of 4x4, nor twice or half"
    with pytest.raises(UserError, match=told):
        Regressor().init(jax.random.key(0), arrays(2, 9, 9, 3), arrays(2, 4, 4, 6))


def test_doubling_is_the_transpose_of_a_convolution_by_two():
    """<doubled(x), y> = <x, halved(y)> for the 4x4 convolution of stride 2 and padding 1."""
    x, y, kernel = arrays(1, 3, 3, 2), arrays(1, 6, 6, 5, seed=1), arrays(4, 4, 2, 5, seed=2)
    params = {"kernel": kernel, "bias": np.zeros((1, 1, 1, 5), np.float32)}
    doubled = Doubling(5).apply({"params": params}, x)
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
