"""KDSVD against the reference's values."""

from functools import partial

import jax
import numpy as np
import pytest
from golden import Golden
from pairs import arrays, check_at_ties, check_blind, given_losses, outputs

from sskd_jax.methods.kdsvd import kdsvd, svd_loss
from sskd_jax.types import UserError

FIRST, SECOND = (arrays(3, 4, 4, 6, seed=seed) for seed in (2, 3))
STUDENT, TEACHER = arrays(3, 4, 4, 5), arrays(3, 4, 4, 5, seed=1)


@jax.jit
def loss(student, teacher):
    """Of a second map, after fixed first ones."""
    return svd_loss([FIRST, student], [SECOND, teacher], 2)


def test_the_references_values(shared):
    gold = Golden(shared / "golden").under("losses.npz", "kdsvd")
    students, teachers = (
        [gold[f"in/{name}{i}"] for i in range(3)] for name in ("student", "teacher")
    )
    found = jax.jit(jax.value_and_grad(partial(svd_loss, count=1)))
    value, gradients = found(students, teachers)
    np.testing.assert_allclose(value, gold["loss"], rtol=1e-4)
    for i, gradient in enumerate(gradients):
        expected = gold[f"grad/student{i}"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_what_it_is_blind_to():
    check_blind(
        loss,
        STUDENT,
        TEACHER,
        (3 * STUDENT, 0.1 * TEACHER),
        (-STUDENT, TEACHER),
        (STUDENT[:, ::-1], TEACHER),
    )
    turned = svd_loss([FIRST[::-1], STUDENT[::-1]], [SECOND[::-1], TEACHER[::-1]], 2)
    np.testing.assert_allclose(turned, loss(STUDENT, TEACHER), rtol=1e-5)


def test_ties_and_zeros():
    check_at_ties(loss, STUDENT, TEACHER)
    equal_values = np.tile(np.eye(5, dtype=np.float32)[:4, None], (3, 1, 1, 4, 1))
    check_at_ties(loss, equal_values.reshape(STUDENT.shape), TEACHER)


def test_widths_must_agree():
    student, teacher = (outputs(None, None, *(arrays(2, 4, 4, width),) * 3) for width in (4, 8))
    stage = kdsvd(count=1, kd_temperature=4.0)["student"]
    told = r"student's have \[4, 4\] channels and the teacher's \[8, 8\]"
    with pytest.raises(UserError, match=told):
        given_losses(stage, np.zeros(2, int), student=student, teacher=teacher)
