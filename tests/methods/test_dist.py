"""DIST against the paper's equations."""

import jax
import numpy as np
import pytest
from pairs import arrays, check_at_ties, check_blind

from sskd_jax.methods.dist import relations

STUDENT, TEACHER = arrays(5, 7), arrays(5, 7, seed=1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_papers_equations(temperature):
    ours, theirs = (np.asarray(jax.nn.softmax(x / temperature)) for x in (STUDENT, TEACHER))
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(ours, theirs, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True)])
    np.testing.assert_allclose(
        relations(STUDENT, TEACHER, temperature),
        np.array([inter, intra]) * temperature**2,
        rtol=1e-4,
    )


@pytest.mark.parametrize("which", [0, 1])
def test_what_it_is_blind_to(which):
    order = np.random.default_rng(0).permutation(7)
    check_blind(
        lambda s, t: relations(s, t, 4.0)[which],
        STUDENT,
        TEACHER,
        (STUDENT + 3, TEACHER - 1),
        (STUDENT[:, order], TEACHER[:, order]),
        (STUDENT[::-1], TEACHER[::-1]),
    )


@pytest.mark.parametrize("which", [0, 1])
def test_ties_and_zeros(which):
    check_at_ties(lambda s, t: relations(s, t, 4.0)[which], STUDENT, TEACHER)
