"""Correlation congruence against the reference's values and numpy."""

import numpy as np
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.cc import correlation_loss

STUDENT, TEACHER = arrays(5, 6), arrays(5, 6, seed=1)


def test_the_references_values(shared):
    check_golden(shared, "cc", correlation_loss)


def test_products_of_neighbours():
    delta = np.abs(STUDENT - TEACHER)
    expected = np.mean([delta[i] @ delta[i + 1] for i in range(4)])
    np.testing.assert_allclose(correlation_loss(STUDENT, TEACHER), expected, rtol=1e-5)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(6)
    check_blind(
        correlation_loss,
        STUDENT,
        TEACHER,
        (STUDENT[:, order], TEACHER[:, order]),
        (TEACHER, STUDENT),
        (STUDENT + 1, TEACHER + 1),
        (STUDENT[::-1], TEACHER[::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(correlation_loss, STUDENT, TEACHER)
