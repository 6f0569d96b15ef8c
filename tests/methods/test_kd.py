"""Hinton's distillation against the reference's values."""
import numpy as np
import pytest
from golden import Golden

from sskd_jax.losses import accuracy, cross_entropy
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
    terms, figures = kd(temperature=4.0).loss({}, {}, student, teacher, {"label": LABELS})
    np.testing.assert_allclose(terms["kd"], gold["loss"], rtol=1e-5)
    np.testing.assert_allclose(terms["ce"], cross_entropy(student.logits, LABELS), rtol=1e-6)
    assert figures == {"accuracy": accuracy(student.logits, LABELS)}


def test_the_temperature_matters(gold):
    student, teacher = outputs(gold["in/student"]), outputs(gold["in/teacher"])
    terms, _ = kd(temperature=1.0).loss({}, {}, student, teacher, {"label": LABELS})
    assert abs(terms["kd"] - gold["loss"]) > 0.1


def test_one_view_a_teacher_and_no_parameters():
    method = kd(temperature=4.0)
    assert (method.views, method.teacher, method.pretrain, method.init(None, None, None)) == (1, True, {}, {})
