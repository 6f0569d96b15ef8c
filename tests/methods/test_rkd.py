"""Relational distillation against the reference's values and numpy."""

import numpy as np
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.rkd import angles, distances, huber

STUDENT, TEACHER = arrays(5, 6), arrays(5, 4, seed=1)


def loss(student, teacher):
    return 25 * huber(distances(student), distances(teacher)) + 50 * huber(
        angles(student, student), angles(teacher, teacher)
    )


def test_the_references_values(shared):
    check_golden(shared, "rkd", loss)


def test_the_papers_relations():
    between = STUDENT[None] - STUDENT[:, None]
    lengths = np.linalg.norm(between, axis=-1)
    np.testing.assert_allclose(
        distances(STUDENT), lengths / lengths[lengths > 0].mean(), rtol=1e-4, atol=1e-6
    )
    unit = between / np.maximum(lengths, 1e-12)[..., None]
    expected = np.einsum("ijd,ikd->ijk", unit, unit)
    np.testing.assert_allclose(angles(STUDENT, STUDENT), expected, atol=1e-5)
    np.testing.assert_allclose(angles(STUDENT[1:3], STUDENT), expected[1:3], atol=1e-5)


def test_what_it_is_blind_to():
    turn = np.linalg.qr(arrays(6, 6, seed=2))[0]
    check_blind(
        loss,
        STUDENT,
        TEACHER,
        (3 * STUDENT, 0.1 * TEACHER),
        (STUDENT + 1, TEACHER),
        (STUDENT @ turn, TEACHER),
        (STUDENT[::-1], TEACHER[::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(loss, STUDENT, TEACHER)
