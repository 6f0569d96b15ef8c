"""Adjusted logits at dynamic temperatures against values from the equations."""

import jax
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import arrays, given_losses, outputs

from sskd_jax.methods.ka_dtd import ka_dtd


@pytest.mark.parametrize(
    ("key", "weighting", "beta"),
    [("ps_flsw_gamma1_beta10", "flsw", 10.0), ("ps_cwsm_beta0.5", "cwsm", 0.5)],
)
def test_recorded_values(shared, key, weighting, beta):
    """FLSW sees the shifted logits."""
    gold = Golden(shared / "golden").arrays("ka_dtd.npz")
    stage = ka_dtd(
        temperature=8.0,
        adjustment="shift",
        smoothing=0.1,
        weighting=weighting,
        beta=beta,
        gamma=1.0,
    )["student"]

    @jax.jit
    @jax.value_and_grad
    def loss(student):
        nets = {"student": outputs(student), "teacher": outputs(gold["in/teacher"])}
        return given_losses(stage, gold["in/label"], **nets).terms["kd"]

    value, gradient = loss(gold["in/student"])
    assert_near(value, gold[f"{key}/kd"], 1e-4)
    assert_near(gradient, gold[f"{key}/grad/student"], 1e-4)


def test_no_temperature_acts_on_a_smoothed_label():
    """The gradient of an image on which the teacher errs is T (softmax(s / T) - target)."""
    student, teacher = arrays(2, 5), arrays(2, 5, seed=1)
    label = (teacher.argmax(1) + 1) % 5
    numbers = {"weighting": "cwsm", "beta": 0.0, "gamma": 1.0}
    stage = ka_dtd(temperature=3.0, adjustment="smooth", smoothing=0.2, **numbers)["student"]

    def loss(student):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        return given_losses(stage, label, **nets).terms["kd"]

    target = 0.8 * np.eye(5)[label] + 0.2 / 5
    expected = 3 * (np.asarray(jax.nn.softmax(student / 3)) - target) / 2
    assert_near(jax.grad(loss)(student), expected, 1e-4)
