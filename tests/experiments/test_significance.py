"""Means, errors and the order of methods, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from experiments import significance
from experiments.plans import Claim
from experiments.significance import NOT_RUN, NOT_SEEN, ONE_SEED, OPPOSITE, SEEN


def test_a_summary_and_its_error():
    found = significance.summary([70.0, 72.0, 74.0])
    assert (found.mean, found.spread, found.n) == (72.0, 2.0, 3)
    assert found.error == pytest.approx(2 / math.sqrt(3)) and str(found) == "72.00 ± 2.00"
    one = significance.summary([70.0])
    assert str(one) == "70.00" and one.error == math.inf
    assert significance.summary([]) is None


def test_distances_are_in_standard_errors():
    ours, theirs = (significance.summary(scores) for scores in ([70.0, 72.0, 74.0], [66.0, 70.0]))
    assert significance.distance(ours, 71.0) == pytest.approx(1 / ours.error)
    both = math.hypot(ours.error, theirs.error)
    assert significance.distance(ours, theirs) == pytest.approx(4 / both)
    one, alike = significance.summary([70.0]), significance.summary([70.0, 70.0])
    for pair in ((one, 71.0), (ours, one), (alike, 70.0), (None, 70.0), (ours, None)):
        assert significance.distance(*pair) is None


def test_the_probability_of_improvement_is_that_of_pairs_of_runs():
    scores = {
        ("a", "x"): [3.0, 1.0],
        ("a", "y"): [2.0, 1.0],  # above in 3 > 2, 3 > 1; 1 = 1 is a half
        ("b", "x"): [5.0, 6.0],
        ("b", "y"): [1.0, 2.0, 3.0],
        ("c", "x"): [9.0],  # one seed does not count
        ("c", "y"): [1.0, 2.0],
        ("d", "x"): [1.0, 2.0],
    }
    found = significance.improvement(scores, "x", "y")
    assert found.probability == pytest.approx((2.5 / 4 + 1) / 2)
    assert (found.rows, found.n) == (2, 2)
    assert 0.5 <= found.low <= found.probability <= found.high == 1.0
    back = significance.improvement(scores, "y", "x")
    assert back.probability == pytest.approx(1 - found.probability)
    assert significance.improvement({("c", "x"): [1.0], ("c", "y"): [2.0, 3.0]}, "x", "y") is None


def test_equal_methods_beat_each_other_half_of_the_time():
    runs = np.random.default_rng(0).normal(70, 1, (2, 40))
    found = significance.improvement({("a", "x"): runs[0], ("a", "y"): runs[1]}, "x", "y")
    assert found.low < 0.5 < found.high and found.high - found.low < 0.3


ABOVE = Claim("x is above y", "x", "y")
BY_MORE = Claim("by more in a than in b", "x", "y", "a", "b")


def test_claims_that_are_seen_and_that_are_not():
    scores = {
        ("a", "x"): [75.0, 76.0, 77.0],
        ("a", "y"): [70.0, 71.0, 72.0],
        ("b", "x"): [80.0, 81.0, 82.0],
        ("b", "y"): [79.0, 80.0, 81.0],
    }
    found = significance.finding(scores, ABOVE)
    assert found.verdict == SEEN and found.difference == pytest.approx(3.0)
    assert found.error == pytest.approx(math.sqrt(4 / 3) / 2) and (found.n, found.rows) == (3, 2)
    assert significance.finding(scores, Claim("", "y", "x")).verdict == OPPOSITE
    more = significance.finding(scores, BY_MORE)
    assert more.verdict == SEEN and more.difference == pytest.approx(4.0)
    assert more.error == pytest.approx(math.sqrt(4 / 3)) and more.improvement is None
    assert significance.finding(scores, Claim("", "x", "y", "b", "a")).verdict == OPPOSITE
    close = scores | {("a", "y"): [75.0, 75.5, 77.0]}
    assert significance.finding(close, Claim("", "x", "y", "a")).verdict == NOT_SEEN


@pytest.mark.parametrize(("seeds", "one", "either"), [(3, 0.06, 0.11), (2, 0.09, 0.18)])
def test_how_often_one_of_two_equal_methods_is_seen_above_the_other(
    seeds, one, either, monkeypatch
):
    """The shares that docs/evidence.md names, within two standard errors of 1,000 cases."""
    monkeypatch.setattr(significance, "DRAWS", 500)
    scores = np.random.default_rng(0).normal(size=(1000, 2, seeds)).tolist()
    cases = [{("a", "x"): ours, ("a", "y"): theirs} for ours, theirs in scores]
    above, below = (
        np.array([significance.finding(case, claim).verdict == SEEN for case in cases])
        for claim in (ABOVE, Claim("", "y", "x"))
    )
    for seen, share in ((above, one), (above | below, either)):
        assert seen.mean() == pytest.approx(share, abs=2 * math.sqrt(share * (1 - share) / 1000))


def test_one_seed_is_no_result():
    scores = {("a", "x"): [75.0], ("a", "y"): [70.0], ("b", "x"): [75.0, 76.0]}
    assert significance.finding(scores, ABOVE) == significance.Finding(ONE_SEED)
    assert significance.finding(scores, BY_MORE) == significance.Finding(NOT_RUN)
    assert significance.finding(scores, Claim("", "x", "z")) == significance.Finding(NOT_RUN)
    scores |= {("a", "x"): [75.0, 76.0], ("a", "y"): [70.0, 71.0]}
    assert significance.finding(scores, ABOVE).verdict == SEEN
    assert significance.finding(scores, BY_MORE).verdict == NOT_RUN
    assert significance.finding(scores | {("b", "y"): [70.0]}, BY_MORE).verdict == ONE_SEED


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([51.4, 52.4, 53.4], NOT_SEEN),  # a lead of 1.7 standard errors
        ([52.2, 53.2, 54.2], SEEN),  # of 2.7
        ([50.0, 60.0, 70.0], NOT_SEEN),  # of 1.6, and some seeds are below
    ],
)
def test_how_far_a_lead_must_go(ours, verdict):
    scores = {("a", "x"): ours, ("a", "y"): [50.0, 51.0, 52.0]}
    assert significance.finding(scores, Claim("", "x", "y")).verdict == verdict


def test_a_lead_in_one_row_of_two_does_not_suffice():
    """It is above two standard errors, but a run of x is above one of y in half of the cases."""
    scores = {
        ("a", "x"): [80.0, 81.0, 82.0],
        ("a", "y"): [60.0, 61.0, 62.0],
        ("b", "x"): [70.0, 71.0, 72.0],
        ("b", "y"): [75.0, 76.0, 77.0],
    }
    found = significance.finding(scores, ABOVE)
    assert found.difference > 2 * found.error and found.improvement.probability == 0.5
    assert found.verdict == NOT_SEEN


@pytest.mark.parametrize(("lead", "verdict"), [(2.2, NOT_SEEN), (3.0, SEEN)])
def test_how_much_larger_a_lead_must_be(lead, verdict):
    """The standard error of the difference is 1.15."""
    usual = [50.0, 51.0, 52.0]
    scores = {(row, column): usual for row in "ab" for column in "xy"}
    scores["a", "x"] = [lead + score for score in usual]
    assert significance.finding(scores, Claim("", "x", "y", "a", "b")).verdict == verdict
