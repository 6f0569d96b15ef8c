"""Similarity-preserving distillation against the reference's values and numpy."""

import numpy as np
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.sp import similarity_loss

STUDENT, TEACHER = arrays(5, 4, 4, 3), arrays(5, 2, 2, 6, seed=1)


def test_the_references_values(shared):
    check_golden(shared, "sp", similarity_loss)


def test_the_papers_equations():
    grams = [x.reshape(5, -1) @ x.reshape(5, -1).T for x in (STUDENT, TEACHER)]
    ours, theirs = (gram / np.linalg.norm(gram, axis=1, keepdims=True) for gram in grams)
    np.testing.assert_allclose(
        similarity_loss(STUDENT, TEACHER), ((ours - theirs) ** 2).sum() / 25, rtol=1e-5
    )


def test_what_it_is_blind_to():
    check_blind(
        similarity_loss,
        STUDENT,
        TEACHER,
        (3 * STUDENT, 0.1 * TEACHER),
        (STUDENT[::-1], TEACHER[::-1]),
        (STUDENT[..., ::-1], TEACHER),
        (STUDENT[:, ::-1], TEACHER),
    )


def test_ties_and_zeros():
    check_at_ties(similarity_loss, STUDENT, TEACHER)
