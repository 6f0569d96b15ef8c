"""FitNets' hints against the reference's values."""

import jax
import numpy as np
import pytest
from pairs import arrays, check_at_ties, check_blind, check_golden, given_losses, outputs

from sskd_jax.layers.heads import Regressor
from sskd_jax.methods.fitnet import fitnet, hint_loss
from sskd_jax.types import UserError

STUDENT, TEACHER = arrays(3, 4, 4, 5), arrays(3, 4, 4, 5, seed=1)


def test_the_references_values(shared):
    check_golden(shared, "fitnet", hint_loss)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(5)
    check_blind(
        hint_loss,
        STUDENT,
        TEACHER,
        (STUDENT[..., order], TEACHER[..., order]),
        (STUDENT[::-1], TEACHER[::-1]),
        (STUDENT + 1, TEACHER + 1),
        (STUDENT[:, ::-1], TEACHER[:, ::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(hint_loss, STUDENT, TEACHER)


def hint(student: list[np.ndarray], teacher: list[np.ndarray], regressor, layer: int = 1):
    """The term of a stage whose networks give these maps."""
    stage = fitnet(layer=layer, kd_temperature=4.0)["student"]
    pair = {"student": outputs(None, None, *student), "teacher": outputs(None, None, *teacher)}
    return given_losses(stage, np.zeros(3, int), **pair, regressor=regressor).terms["hint"]


def test_the_hint_is_the_map_of_the_layer():
    """The stem's map is number 0."""
    stem, deep = arrays(3, 8, 8, 5, seed=2), arrays(3, 2, 2, 5, seed=3)

    def regressor(features, target):
        assert features is STUDENT
        np.testing.assert_array_equal(target, TEACHER)
        return features

    found = hint([stem, STUDENT, deep], [stem, TEACHER, deep], regressor)
    np.testing.assert_allclose(found, hint_loss(np.maximum(STUDENT, 0), TEACHER), rtol=1e-6)


def test_the_regressed_map_is_behind_a_relu():
    module, teacher = Regressor(), -np.abs(TEACHER)
    variables = module.init(jax.random.key(0), STUDENT, teacher)
    variables["params"]["norm"]["bias"] -= 100

    def regressor(features, target):
        return module.apply(variables, features, target, train=True, mutable=["batch_stats"])[0]

    found = hint([STUDENT], [teacher], regressor, layer=0)
    np.testing.assert_allclose(found, np.mean(TEACHER**2), rtol=1e-5)


def test_a_layer_that_a_network_does_not_have_is_told():
    with pytest.raises(UserError, match="layer is 2, but the networks have 3 and 2 maps: choose a"):
        hint([STUDENT] * 3, [TEACHER] * 2, None, layer=2)
