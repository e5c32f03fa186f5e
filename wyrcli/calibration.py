"""Probabilities that mean what they say, and from which on a taxon should be named.  numpy only.

A temperature divides the logits of a rank (Guo et al. 2017): it changes how sure a classifier says it is,
never what it says.  A threshold is the probability from which on an answer counts; below it, the classifier
is "not sure", at this rank and at all narrower ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.metrics import interval

__all__ = [
    "BINS",
    "Fit",
    "Reliability",
    "Threshold",
    "choose_threshold",
    "choose_thresholds",
    "fit_temperature",
    "give_answers",
    "negative_log_likelihood",
    "reliability",
]

Numbers = NDArray[np.float64]

BINS = 15
"""Of the reliability curve, of equal width (Guo et al. 2017)."""

_COLDEST, _HOTTEST = 0.1, 10.0
_GRID = 93  # temperatures between them, each 5 % above the one before, for intervals
_GOLDEN = (math.sqrt(5) - 1) / 2
_FEWEST_ANSWERS, _LEAST_SHARE = 20, 0.01


def negative_log_likelihood(
    log_probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], temperature: float = 1.0
) -> Numbers:
    """Minus the log-probability of the true class, (N,), from log-probabilities (or logits) (N, C) of a rank.

    >>> negative_log_likelihood(np.log(np.array([[0.8, 0.2]])), np.array([0]), 2.0).round(3).tolist()
    [0.405]
    """
    scaled = np.asarray(log_probabilities, dtype=np.float64) / temperature
    highest = scaled.max(axis=1, keepdims=True)
    total = highest[:, 0] + np.log(np.exp(scaled - highest).sum(axis=1))
    return np.asarray(total - scaled[np.arange(len(labels)), labels], dtype=np.float64)


class Fit(NamedTuple):
    """The temperature that fits best, and its 95 % interval over genomes (NaN where it was not asked for)."""

    best: float
    low: float = math.nan
    high: float = math.nan

    @property
    def used(self) -> float:
        """The best one, or 1 where the interval holds 1: chance is no reason to change anything."""
        return 1.0 if self.low <= 1 <= self.high else self.best


def fit_temperature(
    log_probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    weights: NDArray[np.float32] | None = None,
) -> Fit:
    """The temperature from 0.1 to 10 at which the true classes (N,) are most probable; 1 without windows.

    The loss is convex in one over the temperature, hence has one valley, which a golden-section search finds.
    ``weights``: (draws, N) of a bootstrap, see ``metrics.draw_weights``, for the interval.
    """
    if len(labels) == 0:
        return Fit(1.0)

    def loss(place: float) -> float:
        return float(negative_log_likelihood(log_probabilities, labels, math.exp(place)).mean())

    best = math.exp(_lowest(loss, math.log(_COLDEST), math.log(_HOTTEST)))
    if weights is None:
        return Fit(best)
    grid = np.geomspace(_COLDEST, _HOTTEST, _GRID)
    losses = np.stack([negative_log_likelihood(log_probabilities, labels, t) for t in grid], axis=1)
    low, high = interval(grid[(weights @ losses).argmin(axis=1)])
    return Fit(best, min(low, best), max(high, best))


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley between two places is lowest."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    of_left, of_right = function(left), function(right)
    while high - low > 1e-4:
        if of_left <= of_right:
            high, right, of_right = right, left, of_left
            left = high - _GOLDEN * (high - low)
            of_left = function(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + _GOLDEN * (high - low)
            of_right = function(right)
    return (low + high) / 2


class Reliability(NamedTuple):
    """Answers by how sure they are, in :data:`BINS` bins from 0 to 1: (b - 1)/15 < p <= b/15.

    ``counts`` int64 (BINS,); ``confidence`` and ``accuracy``: mean probability and share that is right, NaN
    where a bin is empty.
    """

    counts: NDArray[np.int64]
    confidence: Numbers
    accuracy: Numbers

    @property
    def error(self) -> float:
        """Expected calibration error: mean over answers of how far the two lie apart; NaN without answers."""
        if self.counts.sum() == 0:
            return math.nan
        apart = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float((self.counts * apart).sum() / self.counts.sum())


def reliability(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> Reliability:
    """Reliability of N answers from their probability and whether they are right."""
    own = np.asarray(confidence, dtype=np.float64)
    which = np.clip(np.ceil(own * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(which, minlength=BINS)
    empty = np.where(counts > 0, 1.0, np.nan)
    sums = [np.bincount(which, weights=w, minlength=BINS) for w in (own, right.astype(np.float64))]
    means = [total / np.maximum(counts, 1) * empty for total in sums]
    return Reliability(counts, means[0], means[1])


class Threshold(NamedTuple):
    """From which probability on to answer.

    ``precision``: share of those answers that are right, NaN if there are none;  ``share``: of windows that
    are answered;  ``reached``: whether the precision is what was asked for.
    """

    value: float
    precision: float
    share: float
    reached: bool


def choose_threshold(
    confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_], target: float
) -> Threshold:
    """The smallest threshold whose answers are right in a share ``target`` of cases, or as near as it gets.

    It lies halfway between the last answer that counts and the first that does not, and is 0 where all
    count.  As chance makes a few answers right, at least 20 and one in a hundred must remain.
    """
    n = len(confidence)
    if n == 0:
        return Threshold(0.0, math.nan, math.nan, False)
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sorted_ = np.asarray(confidence, dtype=np.float64)[order]
    numbers = np.arange(1, n + 1)
    precision = np.cumsum(right[order]) / numbers
    whole = np.append(sorted_[1:] < sorted_[:-1], True)  # equal ones are answered together
    allowed = np.flatnonzero(whole & (numbers >= min(max(_FEWEST_ANSWERS, _LEAST_SHARE * n), n)))
    good = allowed[precision[allowed] >= target]
    last = int(good[-1]) if len(good) else int(allowed[np.argmax(precision[allowed])])
    value = float((sorted_[last] + sorted_[last + 1]) / 2) if last + 1 < n else 0.0
    return Threshold(value, float(precision[last]), (last + 1) / n, len(good) > 0)


def choose_thresholds(
    confidence: NDArray[np.floating[Any]],
    right: NDArray[np.bool_],
    known: NDArray[np.bool_],
    target: float,
) -> list[Threshold]:
    """:func:`choose_threshold` of each rank, from (N, R) each, among windows that wider ranks answer.

    ``known``: whether there is a truth; windows without one do not count at that rank.
    """
    still = np.ones(len(confidence), dtype=np.bool_)
    found = []
    for r in range(confidence.shape[1]):
        own = still & known[:, r]
        chosen = choose_threshold(confidence[own, r], right[own, r], target)
        if known[:, r].any():
            chosen = chosen._replace(share=chosen.share * own.sum() / known[:, r].sum())
        found.append(chosen)
        still &= confidence[:, r] >= chosen.value
    return found


def give_answers(confidence: NDArray[np.floating[Any]], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Whether each window is answered at each rank, (N, R): sure there, and at all wider ranks.

    >>> give_answers(np.array([[0.9, 0.4], [0.3, 0.9]]), [0.5, 0.5]).tolist()
    [[True, False], [False, False]]
    """
    return np.asarray(np.logical_and.accumulate(confidence >= np.asarray(thresholds), axis=1))
