"""Statistics over seeds: means with standard errors, and how certain an order of methods is."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.plans import Claim

DRAWS = 2000  # of the bootstrap
SEEN, OPPOSITE, NOT_SEEN = "seen here", "opposite seen", "not seen"
ONE_SEED, NOT_RUN = "of one seed", "not run"

Scores = Mapping[tuple[str, str], Sequence[float]]  # per cent by row and column, one per seed


class Summary(NamedTuple):
    """The mean and the standard deviation, 0 for one seed, of the scores of n seeds."""

    mean: float
    spread: float
    n: int

    @property
    def error(self) -> float:
        """The standard error of the mean; infinite, as it is unknown, for one seed."""
        return self.spread / math.sqrt(self.n) if self.n > 1 else math.inf

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.spread:.2f}" if self.n > 1 else f"{self.mean:.2f}"


def summary(scores: Sequence[float]) -> Summary | None:
    """The summary of some scores; None if there are none."""
    if not scores:
        return None
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return Summary(statistics.mean(scores), spread, len(scores))


def told(found: Summary | None) -> str:
    """Mean, standard deviation and number of seeds as text; "" if there are no scores."""
    return "" if found is None else f"{found} ({found.n})"


def distance(ours: Summary | None, other: Summary | float | None) -> float | None:
    """How many standard errors the mean of `ours` is above another mean, or a published number.

    None if a mean is missing, or if the standard error is infinite (one seed) or 0 (equal scores).
    """
    if ours is None or other is None:
        return None
    mean, error = (other.mean, other.error) if isinstance(other, Summary) else (other, 0.0)
    error = math.hypot(ours.error, error)
    return (ours.mean - mean) / error if 0 < error < math.inf else None


class Improvement(NamedTuple):
    """The probability that a run of one method beats a run of another, and its 95 % interval.

    Attributes:
      probability: in [0, 1]; a tie counts a half.
      low, high: the ends of the interval.
      rows: the number of rows that were compared.
      n: the least number of seeds that a method has in any of these rows.
    """

    probability: float
    low: float
    high: float
    rows: int
    n: int


def improvement(scores: Scores, better: str, worse: str) -> Improvement | None:
    """The improvement over all rows in which both methods have several seeds; None without any.

    Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS
    2021: the probability is the mean over rows of the share of all pairs of runs in which the
    better method is above the worse one, ties counting a half; the interval is that of the
    bootstrap over the seeds, stratified by row and method.
    """
    pairs = [
        (np.asarray(scores[row, better]), np.asarray(scores[row, worse]))
        for row in rows_of(scores)
        if min(len(scores.get((row, name), ())) for name in (better, worse)) > 1
    ]
    if not pairs:
        return None
    random = np.random.RandomState(0)
    draws = np.zeros(DRAWS)
    for ours, theirs in pairs:
        drawn = (random.choice(runs, (DRAWS, len(runs))) for runs in (ours, theirs))
        draws += share_above(*drawn)
    low, high = np.percentile(draws / len(pairs), [2.5, 97.5])
    found = np.mean([share_above(*pair) for pair in pairs])
    n = min(len(runs) for pair in pairs for runs in pair)
    return Improvement(float(found), float(low), float(high), len(pairs), n)


def rows_of(scores: Scores) -> dict[str, None]:
    return {row: None for row, _ in scores}


def share_above(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The share of pairs of [..., n] and [..., m] in which the first is larger; a tie is a half."""
    difference = ours[..., :, None] - theirs[..., None, :]
    return ((np.sign(difference) + 1) / 2).mean((-2, -1))


class Finding(NamedTuple):
    """What the scores say of a claim.

    Attributes:
      verdict: `SEEN`, `OPPOSITE`, `NOT_SEEN`, `ONE_SEED` if a column has no more, or `NOT_RUN`.
      difference: the lead of the better column in points, or the difference between two leads.
      error: the standard error of the difference.
      improvement: of the better column over the worse; None if the claim compares two leads.
      n: the least number of seeds that a column has in any of the rows.
      rows: the number of rows that were compared.
    """

    verdict: str
    difference: float | None = None
    error: float | None = None
    improvement: Improvement | None = None
    n: int = 0
    rows: int = 0


def finding(scores: Scores, claim: Claim) -> Finding:
    """Tests a claim with the scores of a table.

    That a column is better is seen if it leads by more than two standard errors, and the interval
    of the probability of improvement lies above one half; that a lead is larger, if it exceeds the
    other by more than two standard errors. The opposite is seen if the claim with its columns, or
    its rows, exchanged would be.
    """
    names = [claim.row, claim.than] if claim.than else [claim.row] if claim.row else rows_of(scores)
    leads = [lead for row in names if (lead := lead_in(scores, row, claim))]
    needed = 2 if claim.than else 1
    if len(leads) < needed:
        pair = claim.better, claim.worse
        ran = [row for row in names if all(scores.get((row, name)) for name in pair)]
        return Finding(ONE_SEED if len(ran) >= needed else NOT_RUN)
    n = min(lead.n for lead in leads)
    error = math.hypot(*(lead.error for lead in leads))
    if claim.than:
        wide, narrow = leads
        difference = wide.mean - narrow.mean
        verdict = verdict_of(difference > 2 * error, difference < -2 * error)
        return Finding(verdict, difference, error, None, n, 2)
    chosen = {key: own for key, own in scores.items() if key[0] in names}
    likely = improvement(chosen, claim.better, claim.worse)
    difference = statistics.mean(lead.mean for lead in leads)
    error /= len(leads)
    verdict = verdict_of(
        likely.low > 0.5 and difference > 2 * error, likely.high < 0.5 and difference < -2 * error
    )
    return Finding(verdict, difference, error, likely, n, len(leads))


def verdict_of(is_seen: bool, is_opposite: bool) -> str:
    return SEEN if is_seen else OPPOSITE if is_opposite else NOT_SEEN


class Lead(NamedTuple):
    """By how many points one method leads another in a row, with the standard error."""

    mean: float
    error: float
    n: int


def lead_in(scores: Scores, row: str, claim: Claim) -> Lead | None:
    """The lead that a claim is about in a row; None if a column has fewer than two seeds there."""
    found = [summary(scores.get((row, name), ())) for name in (claim.better, claim.worse)]
    if None in found or min(one.n for one in found) < 2:
        return None
    ours, theirs = found
    error = math.hypot(ours.error, theirs.error)
    return Lead(ours.mean - theirs.mean, error, min(ours.n, theirs.n))
