"""Variational information distillation against the reference's values and numpy."""

from functools import partial

import jax
import numpy as np
import pytest
from golden import Golden
from pairs import arrays, given_losses, outputs

from sskd_jax import settings
from sskd_jax.methods.vid import Prediction, information_loss, vid


def test_the_references_values(shared):
    gold = Golden(shared / "golden").under("losses.npz", "vid")
    params = {
        name: {"kernel": gold[f"param/{name}.weight"].transpose(2, 3, 1, 0)}
        for name in ("regressor.0", "regressor.2", "regressor.4")
    }
    params["log_scale"] = gold["param/log_scale"]

    def loss(student):
        return information_loss(
            *Prediction(16, 5.0).apply({"params": params}, student), gold["in/teacher"]
        )

    value, gradient = jax.jit(jax.value_and_grad(loss))(gold["in/student"])
    np.testing.assert_allclose(value, gold["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, gold["grad/student"], rtol=1e-3, atol=1e-7)


def test_the_first_variance_is_the_one_given(shared):
    variables = Prediction(16, 5.0).init(jax.random.key(0), arrays(1, 1, 1, 12))
    gold = Golden(shared / "golden").under("losses.npz", "vid")
    np.testing.assert_allclose(variables["params"]["log_scale"], gold["param/log_scale"], rtol=1e-6)
    mean, variance = Prediction(16, 5.0).apply(variables, arrays(2, 4, 4, 12))
    assert mean.shape == (2, 4, 4, 16)
    np.testing.assert_allclose(variance, np.full((1, 1, 1, 16), 5.0), rtol=1e-5)


def test_the_gaussians_likelihood():
    mean, teacher, variance = (
        arrays(2, 3, 3, 4),
        arrays(2, 3, 3, 4, seed=1),
        np.abs(arrays(1, 1, 1, 4, seed=2)) + 0.1,
    )
    density = np.exp(-((mean - teacher) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    expected = -np.log(density).mean() - np.log(2 * np.pi) / 2
    np.testing.assert_allclose(information_loss(mean, variance, teacher), expected, rtol=1e-4)


def test_every_map_behind_the_stem_is_predicted():
    """By a network of its own, from the student's map pooled to the teacher's size."""
    students = [arrays(2, 8, 8, 3), arrays(2, 8, 8, 3, seed=1), arrays(2, 4, 4, 5, seed=2)]
    teachers = [arrays(2, 8, 8, 4), arrays(2, 4, 4, 4, seed=3), arrays(2, 4, 4, 6, seed=4)]
    stage = vid(first_variance=5.0, kd_temperature=4.0)["student"]
    module = stage.nets["predictions"].module
    variables = jax.jit(module.init)(jax.random.key(0), students, teachers)
    nets = {
        "student": outputs(None, None, *students),
        "teacher": outputs(None, None, *teachers),
        "predictions": partial(module.apply, variables),
    }
    found = given_losses(stage, np.zeros(2, int), **nets).terms["vid"]
    pooled = students[1].reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
    expected = 0.0
    for i, features in enumerate((pooled, students[2])):
        theirs = teachers[i + 1]
        own = {"params": variables["params"][str(i)]}
        mean, variance = Prediction(theirs.shape[-1], 5.0).apply(own, features)
        expected += information_loss(mean, variance, theirs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("variance", [2e-5, 5.0, 1000.0])
def test_the_first_variance_is_the_one_that_is_asked_for(variance):
    module = Prediction(2, variance)
    (_, found), _ = module.init_with_output(jax.random.key(0), arrays(1, 2, 2, 3))
    np.testing.assert_allclose(found, variance, rtol=1e-4)
    assert not settings.numbers_of(vid)["first_variance"].advice(variance)


def test_a_first_variance_that_cannot_be():
    advice = settings.numbers_of(vid)["first_variance"].advice(1e-5)
    assert advice == "a number above 1e-05"
