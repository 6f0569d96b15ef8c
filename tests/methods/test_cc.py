import jax
import numpy as np
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.cc import Embed, correlation_loss, init_embeds
from sskd_jax.types import Outputs

STUDENT, TEACHER = arrays(5, 6), arrays(5, 6, seed=1)


def test_the_references_values(shared):
    check_golden(shared, "cc", correlation_loss)


def test_products_of_neighbours():
    delta = np.abs(STUDENT - TEACHER)
    expected = np.mean([delta[i] @ delta[i + 1] for i in range(4)])
    np.testing.assert_allclose(correlation_loss(STUDENT, TEACHER), expected, rtol=1e-5)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(6)
    check_blind(correlation_loss, STUDENT, TEACHER, (STUDENT[:, order], TEACHER[:, order]), (TEACHER, STUDENT),
                (STUDENT + 1, TEACHER + 1), (STUDENT[::-1], TEACHER[::-1]))


def test_ties_and_zeros():
    check_at_ties(correlation_loss, STUDENT, TEACHER)


def test_embeddings_are_unit_vectors_of_one_width():
    outputs = [Outputs(np.zeros((5, 3)), arrays(5, width)) for width in (6, 9)]
    params = init_embeds(jax.random.key(0), *outputs, width=8)
    for name, one in zip(("student", "teacher"), outputs, strict=True):
        rows = Embed(8).apply({"params": params[name]}, one.embed)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.ones(5), rtol=1e-5)
        assert rows.shape == (5, 8)
