"""Weighted transformed teacher matching against its authors' values."""

import numpy as np
import pytest
from pairs import arrays, check_at_ties, check_recent, given_losses, outputs

from sskd_jax.methods.ttm import power_sum, wttm

KEYS = ["wttm/gamma0.1", "wttm/gamma0.2", "wttm/gamma1", "wttm_k100/gamma0.1"]


def loss_at(temperature):
    stage = wttm(temperature=temperature, shift=False)["student"]

    def loss(student, teacher, label):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        return given_losses(stage, label, **nets).terms["wttm"]

    return loss


@pytest.mark.parametrize("key", KEYS)
def test_the_authors_values(shared, key):
    check_recent(shared, key, "wttm", loss_at(1 / float(key.split("gamma")[1])))


def test_an_image_counts_the_more_the_less_certain_the_teacher_is():
    certain, uniform = np.eye(7, dtype=np.float32)[:1] * 100, np.zeros((1, 7), np.float32)
    np.testing.assert_allclose(power_sum(certain, 5.0), 1, rtol=1e-4)
    np.testing.assert_allclose(power_sum(uniform, 5.0), 7**0.8, rtol=1e-4)


def test_ties_and_certainty():
    for scale in (1, 300):
        student, teacher = scale * arrays(5, 7), scale * arrays(5, 7, seed=1)
        check_at_ties(lambda s, t: loss_at(5.0)(s, t, np.zeros(5, int)), student, teacher)
