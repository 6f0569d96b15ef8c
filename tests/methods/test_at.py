"""Attention transfer against the reference's values and numpy."""

import numpy as np
import pytest
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.at import attention_loss

STUDENT, TEACHER = arrays(3, 8, 8, 5), arrays(3, 4, 4, 7, seed=1)


@pytest.mark.parametrize("name", ["at", "at_upside"])
def test_the_references_values(shared, name):
    check_golden(shared, name, attention_loss)


def test_the_papers_equations():
    student, teacher = arrays(3, 4, 4, 5), TEACHER
    maps = [(np.square(x).mean(-1)).reshape(3, -1) for x in (student, teacher)]
    ours, theirs = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in maps)
    np.testing.assert_allclose(
        attention_loss(student, teacher), np.mean((ours - theirs) ** 2), rtol=1e-5
    )


def test_what_it_is_blind_to():
    check_blind(
        attention_loss,
        STUDENT,
        TEACHER,
        (3 * STUDENT, TEACHER),
        (STUDENT, -0.5 * TEACHER),
        (STUDENT[..., ::-1], TEACHER),
        (STUDENT[::-1], TEACHER[::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(attention_loss, STUDENT, TEACHER)
