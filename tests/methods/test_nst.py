"""Neuron selectivity transfer against the reference's values and numpy."""

import numpy as np
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.nst import discrepancy

STUDENT, TEACHER = arrays(3, 4, 4, 5), arrays(3, 4, 4, 7, seed=1)


def test_the_references_values(shared):
    check_golden(shared, "nst", discrepancy)


def test_the_papers_equations():
    ours, theirs = (
        x.reshape(3, 16, -1) / np.linalg.norm(x.reshape(3, 16, -1), axis=1, keepdims=True)
        for x in (STUDENT, TEACHER)
    )
    kernels = [
        np.mean(np.einsum("npc,npd->ncd", *pair) ** 2)
        for pair in ((theirs, theirs), (ours, ours), (ours, theirs))
    ]
    np.testing.assert_allclose(
        discrepancy(STUDENT, TEACHER), kernels[0] + kernels[1] - 2 * kernels[2], rtol=1e-4
    )


def test_what_it_is_blind_to():
    check_blind(
        discrepancy,
        STUDENT,
        TEACHER,
        (3 * STUDENT, 0.1 * TEACHER),
        (STUDENT[..., ::-1], TEACHER),
        (STUDENT, TEACHER[..., ::-1]),
        (STUDENT[::-1], TEACHER[::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(discrepancy, STUDENT, TEACHER)
