"""What the numbers of a config may be."""

import numpy as np
import pytest

from sskd_jax import rules

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rule", "fitting", "others"),
    [
        (rules.POSITIVE, (1, 1e-9, 0.5, np.float32(2)), (0, -1, NAN, INFINITY, True, "1", None)),
        (rules.NOT_NEGATIVE, (0, 0.0, 3), (-1e-9, NAN, INFINITY, False, "0", (1,))),
        (rules.SHARE, (0, 0.5, 1), (-0.1, 1.1, NAN, True, "0.5")),
        (rules.BELOW_ONE, (0, 0.999), (1, 1.0, -0.1, NAN, False)),
        (rules.whole(0), (0, 7, np.int64(3)), (-1, 0.0, 1.5, True, "1", 2**31)),
        (rules.whole(1), (1, 2**31 - 1), (0, 1.0, True, None)),
        (rules.FLAG, (True, False), (0, 1, "True", None)),
        (rules.TEXT, ("", "kd"), (1, None, ("kd",), b"kd")),
    ],
)
def test_what_fits_and_what_does_not(rule, fitting, others):
    assert all(rule.fits(value) for value in fitting)
    assert not any(rule.fits(value) for value in others)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (rules.POSITIVE, "a number above 0"),
        (rules.NOT_NEGATIVE, "a number, 0 or more"),
        (rules.SHARE, "a number from 0 to 1"),
        (rules.BELOW_ONE, "a number from 0, but below 1"),
        (rules.whole(2), "a whole number from 2 on"),
        (rules.FLAG, "True or False"),
    ],
)
def test_a_rule_says_what_would_fit(rule, text):
    assert rule.text == text


def test_sequences_are_no_texts():
    assert rules.is_sequence((1, 2)) and rules.is_sequence([])
    assert not rules.is_sequence("12") and not rules.is_sequence(12)
