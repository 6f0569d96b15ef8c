"""LDAM-DRW against numpy written from its paper."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairs import arrays, given_batch, given_nets, outputs

from sskd_jax.methods import METHODS
from sskd_jax.methods.ldam import (
    Cosines,
    class_weights,
    margin_loss,
    margins,
    unit_vectors,
    with_cosines,
)
from sskd_jax.types import UserError

COUNTS = np.array([500, 100, 20, 5])
LABEL = np.array([0, 1, 2, 3, 0, 3], np.int32)
NUMBERS = {"largest_margin": 0.5, "scale": 30.0, "beta": 0.9999, "deferred_epochs": 2}


def expected_loss(cosine: np.ndarray, weight: np.ndarray) -> float:
    margin = 0.5 * (COUNTS / 5.0) ** -0.25  # the rarest class has the largest
    logits = cosine.astype(np.float64).copy()
    logits[np.arange(6), LABEL] -= margin[LABEL]
    logits *= 30
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    rows = -np.log(shifted[np.arange(6), LABEL] / shifted.sum(1))
    return np.average(rows, weights=weight[LABEL])


def test_margins():
    found = margins(COUNTS, 0.5)
    assert found.max() == found[3] == 0.5
    np.testing.assert_allclose(found[0] / found[3], (500 / 5) ** -0.25)


def test_weights_are_by_effective_numbers():
    effective = (1 - 0.9999**COUNTS) / (1 - 0.9999)
    expected = 1 / effective
    np.testing.assert_allclose(class_weights(COUNTS, 0.9999), 4 * expected / expected.sum())
    np.testing.assert_allclose(class_weights(COUNTS, 0.0), 1)


def test_a_class_without_images_counts_as_one_of_one_image():
    for numbers in (partial(margins, largest=0.5), partial(class_weights, beta=0.99)):
        np.testing.assert_array_equal(numbers(np.array([9, 0])), numbers(np.array([9, 1])))


def test_weights_come_later():
    cosine = np.tanh(arrays(6, 4))
    stage = METHODS["ldam"](**NUMBERS)["student"]
    nets = given_nets(student=outputs(arrays(6, 4)), cosines=cosine)
    weights = {1: np.ones(4), 2: class_weights(COUNTS, 0.9999)}
    for epoch, weight in weights.items():
        batch = given_batch(LABEL, epoch=jnp.int32(epoch), counts=lambda: COUNTS)
        found = stage.loss(nets, batch).terms["ldam"]
        np.testing.assert_allclose(found, expected_loss(cosine, weight), rtol=1e-4)


def test_vectors_begin_with_length_1():
    vectors = unit_vectors(jax.random.key(1), (200, 8))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert np.abs(vectors.mean(0)).max() < 0.1  # no direction is preferred


def test_gradients_are_finite_where_embeddings_are_zero():
    embed, logits = np.zeros((6, 3), np.float32), arrays(6, 4)
    module = Cosines()
    variables = module.init(jax.random.key(0), embed, logits)
    weight = jnp.ones(4)

    def loss(embed: jax.Array) -> jax.Array:
        cosine = module.apply(variables, embed, logits)
        return margin_loss(cosine, LABEL, margins(COUNTS, 0.5), weight, 30.0)

    assert np.isfinite(jax.grad(loss)(embed)).all()
    cosine = module.apply(variables, 5 * arrays(6, 3), logits)
    assert cosine.shape == (6, 4) and np.abs(cosine).max() <= 1 + 1e-6


def test_cosines_in_numpy():
    embed, vectors = arrays(5, 3), 3 * arrays(4, 3, seed=1)
    found = Cosines().apply({"params": {"kernel": vectors}}, embed, arrays(5, 4))
    lengths = np.linalg.norm(embed, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(found, embed @ vectors.T / lengths, rtol=1e-4, atol=1e-6)


def test_scores_are_those_of_the_cosines():
    right = np.eye(4, dtype=np.float32)
    nets = given_nets(student=outputs(np.roll(right, 1, 1)), cosines=right)
    batch = given_batch(np.arange(4, dtype=np.int32), counts=lambda: COUNTS)
    assert METHODS["ldam"](**NUMBERS)["student"].scores(nets, batch)["top1"].all()


def test_the_students_classifier_gets_the_class_vectors():
    student = {"conv": {"kernel": arrays(3, 3)}, "fc": {"kernel": arrays(3, 4), "bias": arrays(4)}}
    vectors = 3 * arrays(4, 3, seed=1)
    found = with_cosines({"student": student, "cosines": {"kernel": vectors}})
    layer = found["student"].pop("fc")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(layer["kernel"], (vectors / lengths).T, rtol=1e-5)
    assert not layer["bias"].any()
    assert found == {
        "student": {"conv": student["conv"]},
        "cosines": {"kernel": vectors},
    }


@pytest.mark.parametrize("layers", ((), ("fc", "bottleneck")))
def test_which_layer_is_the_classifier_is_not_guessed(layers):
    student = {name: {"kernel": arrays(3, 4)} for name in layers}
    with pytest.raises(UserError, match=rf"kernel \[3, 4\].* has {len(layers)} of them"):
        with_cosines({"student": student, "cosines": {"kernel": arrays(4, 3)}})
