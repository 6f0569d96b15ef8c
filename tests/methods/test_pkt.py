"""Probabilistic knowledge transfer against the reference's values and numpy."""

import numpy as np
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.pkt import transfer_loss

STUDENT, TEACHER = arrays(5, 6), arrays(5, 4, seed=1)


def test_the_references_values(shared):
    check_golden(
        shared, "pkt", transfer_loss, rtol=1e-3
    )  # a difference of nearly equal probabilities


def test_the_papers_equations():
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (STUDENT, TEACHER)]
    ours, theirs = ((unit @ unit.T + 1) / 2 for unit in units)
    ours, theirs = (x / x.sum(1, keepdims=True) for x in (ours, theirs))
    np.testing.assert_allclose(
        transfer_loss(STUDENT, TEACHER), (theirs * np.log(theirs / ours)).sum() / 25, rtol=1e-3
    )


def test_what_it_is_blind_to():
    turn = np.linalg.qr(arrays(6, 6, seed=2))[0]
    check_blind(
        transfer_loss,
        STUDENT,
        TEACHER,
        (3 * STUDENT, 0.1 * TEACHER),
        (STUDENT @ turn, TEACHER),
        (STUDENT[::-1], TEACHER[::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(transfer_loss, STUDENT, TEACHER)
