"""Dynamic temperature distillation against values from its equations."""

from functools import partial

import jax
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import arrays, check_at_ties, given_losses, outputs

from sskd_jax.losses import soft_divergence
from sskd_jax.methods.ka_dtd import confidence_weights, dtd, focal_weights, temperatures
from sskd_jax.types import UserError

KEYS = [f"flsw_gamma{gamma}_beta{beta}" for gamma in (0.5, 1, 2) for beta in (2, 10)]
KEYS += ["cwsm_beta0.5", "cwsm_beta4"]


@pytest.fixture(scope="module")
def gold(shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").arrays("ka_dtd.npz")


def numbers_of(key: str) -> tuple[str, float, float]:
    """(weighting, gamma, beta) of a recording."""
    weighting, *parts = key.split("_")
    found = {part.rstrip(".0123456789"): float(part.lstrip("abgemt")) for part in parts}
    return weighting, found.get("gamma", 1.0), found["beta"]


@pytest.mark.parametrize("key", KEYS)
def test_recorded_values(gold, key):
    """There is no gradient through the temperatures."""
    weighting, gamma, beta = numbers_of(key)
    stage = dtd(temperature=8.0, weighting=weighting, gamma=gamma, beta=beta)["student"]

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(student):
        nets = {"student": outputs(student), "teacher": outputs(gold["in/teacher"])}
        losses = given_losses(stage, gold["in/label"], **nets)
        return losses.terms["kd"], losses.figures["cut_off"]

    (value, cut_off), gradient = loss(gold["in/student"])
    assert_near(value, gold[f"{key}/kd"], 1e-4)
    assert_near(gradient, gold[f"{key}/grad/student"], 1e-4)
    assert cut_off * 16 == gold[f"{key}/clipped_rows"]


@pytest.mark.parametrize("key", KEYS)
def test_recorded_temperatures(gold, key):
    weighting, gamma, beta = numbers_of(key)
    weigh = {"flsw": partial(focal_weights, gamma=gamma), "cwsm": confidence_weights}[weighting]
    weights = weigh(gold["in/student"], gold["in/teacher"])
    assert_near(weights, gold[f"{key}/w"], 1e-5)
    found = temperatures(weights, 8.0, beta)
    assert_near(found, gold[f"{key}/tau"], 1e-5)
    np.testing.assert_allclose(found.mean(), 8.0, rtol=1e-5)


def test_it_is_kd_where_all_images_weigh_the_same():
    student, teacher = arrays(5, 7), arrays(5, 7, seed=1)
    stage = dtd(temperature=4.0, weighting="cwsm", gamma=1.0, beta=0.0)["student"]
    nets = {"student": outputs(student), "teacher": outputs(teacher)}
    found = given_losses(stage, np.zeros(5, int), **nets)
    expected = soft_divergence(student, teacher, temperature=4.0)
    np.testing.assert_allclose(found.terms["kd"], expected, rtol=1e-5)


@pytest.mark.parametrize(("weighting", "gamma"), [("flsw", 0.5), ("flsw", 2.0), ("cwsm", 1.0)])
def test_ties_and_zeros(weighting, gamma):
    """Where both networks agree, the cosine may be above 1 by rounding."""
    stage = dtd(temperature=8.0, weighting=weighting, gamma=gamma, beta=10.0)["student"]

    def loss(student, teacher):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        return given_losses(stage, np.zeros(5, int), **nets).terms["kd"]

    check_at_ties(loss, arrays(5, 7), arrays(5, 7, seed=1))


def test_a_weighting_that_is_not_known_is_told():
    with pytest.raises(UserError, match="unknown weighting 'flws': did you mean 'flsw'"):
        dtd(temperature=8.0, weighting="flws", gamma=1.0, beta=1.0)
