"""Hinton's distillation against the reference's values."""

import jax
import numpy as np
import pytest
from golden import Golden
from pairs import arrays, check_at_ties, check_blind, check_recent, given_losses, outputs

from sskd_jax.losses import accuracy, cross_entropy, standardized
from sskd_jax.methods import METHODS
from sskd_jax.methods.kd import kd
from sskd_jax.types import Losses
from sskd_jax.views import once

LABELS = np.array([0, 4, 2, 2, 1, 3, 9, 0])


@pytest.fixture(scope="module")
def gold(shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").under("losses.npz", "kd_T4")


def losses(gold: dict[str, np.ndarray], temperature: float) -> Losses:
    """Of the recorded logits."""
    stage = kd(temperature=temperature, standardize=False)["student"]
    student, teacher = outputs(gold["in/student"]), outputs(gold["in/teacher"])
    return given_losses(stage, LABELS, student=student, teacher=teacher)


def test_terms_and_figures(gold):
    terms, figures, _ = losses(gold, 4.0)
    np.testing.assert_allclose(terms["kd"], gold["loss"], rtol=1e-5)
    np.testing.assert_allclose(terms["ce"], cross_entropy(gold["in/student"], LABELS), rtol=1e-6)
    assert figures == {"accuracy": accuracy(gold["in/student"], LABELS)}


def test_the_temperature_matters(gold):
    assert abs(losses(gold, 1.0).terms["kd"] - gold["loss"]) > 0.1


def test_two_networks_see_the_same_single_view():
    method, seen = kd(temperature=4.0, standardize=False), []
    assert list(method) == ["teacher", "student"] and method["student"].memory is None

    def net(pixels):
        seen.append(pixels)
        return outputs(arrays(8, 10))

    jax.eval_shape(lambda: given_losses(method["student"], LABELS, student=net, teacher=net))
    assert seen == [once, once]


@pytest.mark.parametrize("key", ["kd_ls/T2", "kd_ls/T3", "kd_ls/T4", "kd_ls_k100/T2"])
def test_values_of_the_authors_of_standardization(shared, key):
    stage = kd(temperature=float(key[-1]), standardize=True)["student"]

    def loss(student, teacher, label):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        return given_losses(stage, label, **nets).terms["kd"]

    check_recent(shared, key, "kd", loss)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("kd", {}), ("dkd", {"warmup_epochs": 1, "shift": False}), ("dist", {"shift": False})],
)
def test_standardized_logits_are_blind_to_shift_and_scale(name, numbers):
    stage = METHODS[name](temperature=2.0, standardize=True, **numbers)["student"]
    student, teacher = arrays(8, 10), arrays(8, 10, seed=1)

    def distance(student, teacher):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        terms = given_losses(stage, LABELS, **nets).terms
        return sum(value for term, value in terms.items() if term != "ce")

    check_blind(
        distance, student, teacher, (3 * student + 1, teacher), (student, 0.2 * teacher - 5)
    )
    check_at_ties(distance, student, teacher)


def test_standardized_rows():
    rows = arrays(4, 6)
    rows[2] = 3.0
    deviation = rows.std(1, ddof=1, keepdims=True)
    expected = (rows - rows.mean(1, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    np.testing.assert_allclose(standardized(rows), expected, rtol=1e-4, atol=1e-6)
