"""Logit adjustment against numpy written from its paper."""

import numpy as np
from pairs import arrays, given_batch, given_nets, outputs

from sskd_jax.methods import METHODS
from sskd_jax.methods.logit_adjustment import adjusted

COUNTS = np.array([500, 100, 20, 5])
LABEL = np.array([0, 1, 2, 3, 0, 3], np.int32)


def loss(strength: float, logits: np.ndarray) -> float:
    stage = METHODS["logit_adjustment"](strength=strength)["student"]
    nets = given_nets(student=outputs(logits))
    return stage.loss(nets, given_batch(LABEL, counts=lambda: COUNTS)).terms["ce"]


def test_it_is_balanced_softmax():
    """There a class's exponential is weighted by its count (Ren et al., eq. 3)."""
    logits = arrays(6, 4).astype(np.float64)
    weighted = COUNTS * np.exp(logits)
    expected = -np.log(weighted[np.arange(6), LABEL] / weighted.sum(1)).mean()
    np.testing.assert_allclose(loss(1.0, np.float32(logits)), expected, rtol=1e-5)


def test_at_strength_zero_it_is_cross_entropy():
    logits = arrays(6, 4)
    plain = -np.log(np.exp(logits)[np.arange(6), LABEL] / np.exp(logits).sum(1)).mean()
    np.testing.assert_allclose(loss(0.0, logits), plain, rtol=1e-5)
    np.testing.assert_array_equal(adjusted(logits, COUNTS, 0.0), logits)


def test_a_class_without_images_counts_as_one_of_one_image():
    raised = adjusted(np.zeros((6, 4), np.float32), np.array([3, 0, 1, 0]), 1.0)
    np.testing.assert_allclose(raised, np.log([[3 / 4, 1 / 4, 1 / 4, 1 / 4]] * 6), rtol=1e-6)


def test_rare_classes_gain():
    logits = np.zeros((6, 4), np.float32)
    raised = np.asarray(adjusted(logits, COUNTS, 1.0))
    assert (np.diff(raised, axis=1) < 0).all()
    scores = METHODS["logit_adjustment"](strength=1.0)["student"].scores
    batch = given_batch(LABEL, counts=lambda: COUNTS, mask=np.ones(6, bool))
    found = scores(given_nets(student=outputs(np.eye(4, dtype=np.float32)[LABEL])), batch)
    assert np.asarray(found["top1"]).all()  # of the logits as they are
