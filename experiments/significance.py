"""What accuracies of several seeds say: means with errors, and how sure an order of methods is."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.plans import Claim

DRAWS = 2000  # of the bootstrap
SEEN, NOT_SEEN, NOT_RUN = "seen here", "not seen", "not run"

Scores = Mapping[tuple[str, str], Sequence[float]]  # per cent by row and column, one per seed


class Summary(NamedTuple):
    """Scores of n seeds: their mean and standard deviation, 0 for one seed."""

    mean: float
    spread: float
    n: int

    @property
    def error(self) -> float:
        """The standard error of the mean; infinite for one seed, which tells nothing."""
        return self.spread / math.sqrt(self.n) if self.n > 1 else math.inf

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.spread:.2f}" if self.n > 1 else f"{self.mean:.2f}"


def summary(scores: Sequence[float]) -> Summary | None:
    """The summary of some scores; None of no scores."""
    if not scores:
        return None
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return Summary(statistics.mean(scores), spread, len(scores))


def told(found: Summary | None) -> str:
    """Mean, deviation and number of seeds; "" of no scores."""
    return "" if found is None else f"{found} ({found.n})"


def distance(ours: Summary | None, other: Summary | float | None) -> float | None:
    """How many standard errors ours lies above another mean, or a published number.

    None where that can't be told: with one seed, or if all seeds agree to the last digit.
    """
    if ours is None or other is None:
        return None
    mean, error = (other.mean, other.error) if isinstance(other, Summary) else (other, 0.0)
    error = math.hypot(ours.error, error)
    return (ours.mean - mean) / error if 0 < error < math.inf else None


class Improvement(NamedTuple):
    """How likely a run of one method beats a run of another, with a 95 % interval.

    rows: how many rows were compared; n: the least number of seeds in any of them.
    """

    probability: float
    low: float
    high: float
    rows: int
    n: int


def improvement(scores: Scores, better: str, worse: str) -> Improvement | None:
    """The probability of improvement over all rows in which both methods have several seeds.

    Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS
    2021: the mean over rows of the share of all pairs of runs in which the first is above the
    second, ties counting a half; the interval is that of the bootstrap over the seeds, stratified
    by row and method.
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
    """The share of pairs of [..., n] and [..., m] in which the first is larger; ties are a half."""
    difference = ours[..., :, None] - theirs[..., None, :]
    return ((np.sign(difference) + 1) / 2).mean((-2, -1))


class Finding(NamedTuple):
    """What became of a claim.

    Attributes:
      verdict: `SEEN`, `NOT_SEEN` or `NOT_RUN`.
      difference: by how much the better one leads, in points; or how much larger a lead is.
      error: its standard error.
      improvement: of the better one over the other, where the claim is about that alone.
      n: the least number of seeds.
      rows: how many rows it was found in.
    """

    verdict: str
    difference: float | None = None
    error: float | None = None
    improvement: Improvement | None = None
    n: int = 0
    rows: int = 0


def finding(scores: Scores, claim: Claim) -> Finding:
    """Whether a claim is seen in the scores of a table.

    That one is better is seen where it leads by two standard errors, and the interval of the
    probability of improvement lies above one half; that a lead is larger, where it is so by two
    standard errors.
    """
    names = [claim.row, claim.than] if claim.than else [claim.row] if claim.row else rows_of(scores)
    leads = [lead for row in names if (lead := lead_in(scores, row, claim))]
    if not leads or claim.than and len(leads) < 2:
        return Finding(NOT_RUN)
    n = min(lead.n for lead in leads)
    error = math.hypot(*(lead.error for lead in leads))
    if claim.than:
        wide, narrow = leads
        difference = wide.mean - narrow.mean
        verdict = SEEN if difference > 2 * error else NOT_SEEN
        return Finding(verdict, difference, error, None, n, 2)
    chosen = {key: own for key, own in scores.items() if key[0] in names}
    likely = improvement(chosen, claim.better, claim.worse)
    difference = statistics.mean(lead.mean for lead in leads)
    error /= len(leads)
    verdict = SEEN if likely.low > 0.5 and difference > 2 * error else NOT_SEEN
    return Finding(verdict, difference, error, likely, n, len(leads))


class Lead(NamedTuple):
    """By how much one method leads another in a row."""

    mean: float
    error: float
    n: int


def lead_in(scores: Scores, row: str, claim: Claim) -> Lead | None:
    """The lead in a row; None where one of the two has less than two seeds."""
    found = [summary(scores.get((row, name), ())) for name in (claim.better, claim.worse)]
    if None in found or min(one.n for one in found) < 2:
        return None
    ours, theirs = found
    error = math.hypot(ours.error, theirs.error)
    return Lead(ours.mean - theirs.mean, error, min(ours.n, theirs.n))
