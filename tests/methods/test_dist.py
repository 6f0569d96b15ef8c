"""DIST against the paper's equations."""

import jax
import numpy as np
import pytest
from golden import assert_near
from pairs import arrays, check_at_ties, check_blind, check_recent

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


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize(("which", "term"), [(0, "inter"), (1, "intra")])
def test_the_authors_values(shared, temperature, which, term):
    def loss(student, teacher, label):
        return relations(student, teacher, temperature)[which]

    check_recent(shared, f"dist/T{temperature}", term, loss, f"grad_{term}")


def test_certain_predictions_have_the_gradient_of_the_equations():
    """The columns of most classes are nearly zero then; the gradient is by differences."""
    student, teacher = 25 * arrays(64, 100), 25 * arrays(64, 100, seed=1)

    def intra(student):
        prediction, target = (
            np.exp(x - x.max(1, keepdims=True)) for x in (student, teacher.astype(float))
        )
        prediction, target = ((x / x.sum(1, keepdims=True)).T for x in (prediction, target))
        ours, theirs = (x - x.mean(1, keepdims=True) for x in (prediction, target))
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return 1 - np.mean((ours * theirs).sum(1) / (lengths + 1e-8))

    gradient = jax.grad(lambda student: relations(student, teacher, 1.0)[1])(student)
    rows, columns = np.unravel_index(np.argsort(-np.abs(gradient), None)[:20], gradient.shape)
    expected = []
    for place in zip(rows, columns, strict=True):
        step = np.zeros(student.shape)
        step[place] = 1e-5
        expected.append((intra(student + step) - intra(student - step)) / 2e-5)
    assert_near(gradient[rows, columns], expected, 1e-3)


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
