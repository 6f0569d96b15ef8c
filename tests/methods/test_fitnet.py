import jax
import numpy as np
import pytest
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.fitnet import Regressor, hint_loss

STUDENT, TEACHER = arrays(3, 4, 4, 5), arrays(3, 4, 4, 5, seed=1)


def test_the_references_values(shared):
    check_golden(shared, "fitnet", hint_loss)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(5)
    check_blind(hint_loss, STUDENT, TEACHER, (STUDENT[..., order], TEACHER[..., order]), (STUDENT[::-1], TEACHER[::-1]),
                (STUDENT + 1, TEACHER + 1), (STUDENT[:, ::-1], TEACHER[:, ::-1]))


def test_ties_and_zeros():
    check_at_ties(hint_loss, STUDENT, TEACHER)


@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 4)])
def test_the_regressor_brings_maps_to_the_hints_shape_and_normalises_them(stride, size):
    regressor = Regressor(6, stride)
    variables = regressor.init(jax.random.key(0), arrays(2, 8, 8, 3))
    variables["params"]["bias"] += 100  # far from the ReLU's kink
    found = regressor.apply(variables, 5 * arrays(7, 8, 8, 3) + 2)
    assert found.shape == (7, size, size, 6)
    np.testing.assert_allclose(found.mean((0, 1, 2)), np.full(6, 100), rtol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), np.ones(6), rtol=1e-3)
