"""Transformed teacher matching against its authors' values."""

import jax
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import arrays, check_at_ties, check_blind, check_recent, given_losses, outputs

from sskd_jax.methods.ttm import matching, power_sum, ttm

KEYS = ["ttm/gamma0.1", "ttm/gamma0.2", "ttm/gamma1", "ttm_k100/gamma0.1"]


@pytest.mark.parametrize("key", KEYS)
def test_the_authors_values(shared, key):
    stage = ttm(temperature=1 / float(key.split("gamma")[1]), shift=False)["student"]

    def loss(student, teacher, label):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        return given_losses(stage, label, **nets).terms["ttm"]

    check_recent(shared, key, "ttm", loss)


@pytest.mark.parametrize("gamma", ["0.1", "0.2"])
def test_the_power_of_the_teachers_probabilities(shared, gamma):
    gold = Golden(shared / "golden").arrays("losses_recent.npz")
    teacher, temperature = gold["in/teacher"], 1 / float(gamma)
    assert_near(power_sum(teacher, temperature), gold[f"wttm/gamma{gamma}/norm"], 1e-5)
    powers = np.asarray(jax.nn.softmax(teacher)) ** float(gamma)
    target = powers / powers.sum(1, keepdims=True)
    assert_near(target, gold[f"wttm/gamma{gamma}/target"], 1e-4)
    assert_near(jax.nn.softmax(teacher / temperature), target, 1e-4)


def test_what_it_is_blind_to_and_ties():
    student, teacher = arrays(5, 7), arrays(5, 7, seed=1)

    def loss(student, teacher):
        return matching(student, teacher, 10.0).mean()

    check_blind(loss, student, teacher, (student + 3, teacher - 1), (student[::-1], teacher[::-1]))
    check_at_ties(loss, student, teacher)
