"""Hinton's distillation against the reference's values."""

import numpy as np
import pytest
from golden import Golden
from pairs import arrays, check_at_ties, check_blind

from sskd_jax.losses import accuracy, cross_entropy, standardized
from sskd_jax.methods import METHODS
from sskd_jax.methods.kd import kd
from sskd_jax.types import Outputs

LABELS = np.array([0, 4, 2, 2, 1, 3, 9, 0])


@pytest.fixture(scope="module")
def gold(shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").under("losses.npz", "kd_T4")


def outputs(logits: np.ndarray) -> Outputs:
    return Outputs(logits, np.zeros((len(logits), 3), np.float32))


def test_terms_and_figures(gold):
    student, teacher = outputs(gold["in/student"]), outputs(gold["in/teacher"])
    terms, figures = kd(temperature=4.0, standardize=False).loss(
        {}, {}, student, teacher, {"label": LABELS}
    )
    np.testing.assert_allclose(terms["kd"], gold["loss"], rtol=1e-5)
    np.testing.assert_allclose(terms["ce"], cross_entropy(student.logits, LABELS), rtol=1e-6)
    assert figures == {"accuracy": accuracy(student.logits, LABELS)}


def test_the_temperature_matters(gold):
    student, teacher = outputs(gold["in/student"]), outputs(gold["in/teacher"])
    terms, _ = kd(temperature=1.0, standardize=False).loss(
        {}, {}, student, teacher, {"label": LABELS}
    )
    assert abs(terms["kd"] - gold["loss"]) > 0.1


def test_one_view_a_teacher_and_no_parameters():
    method = kd(temperature=4.0, standardize=False)
    assert (method.views, method.teacher, method.pretrain, method.init(None, None, None)) == (
        1,
        True,
        {},
        {},
    )


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_standardized_logits_are_blind_to_shift_and_scale(name):
    numbers = {"warmup_epochs": 1} if name == "dkd" else {}
    method = METHODS[name](temperature=2.0, standardize=True, **numbers)
    student, teacher = arrays(8, 10), arrays(8, 10, seed=1)

    def distance(student, teacher):
        terms, _ = method.loss(
            {}, {}, outputs(student), outputs(teacher), {"label": LABELS, "epoch": 0}
        )
        return sum(value for term, value in terms.items() if term != "ce")

    check_blind(
        distance, student, teacher, (3 * student + 1, teacher), (student, 0.2 * teacher - 5)
    )
    check_at_ties(distance, student, teacher)


def test_standardized_rows():
    rows = arrays(4, 6)
    rows[2] = 3.0
    expected = (rows - rows.mean(1, keepdims=True)) / np.where(
        rows.std(1, ddof=1) > 0, rows.std(1, ddof=1), 1
    )[:, None]
    np.testing.assert_allclose(standardized(rows), expected, rtol=1e-4, atol=1e-6)
