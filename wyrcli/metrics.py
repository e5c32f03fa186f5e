"""Scores of classes and of tokens, and how sure they are.  numpy only.

Intervals come from the bootstrap.  :func:`draw_weights` says how often each window occurs in each draw;
every ``weighted_*`` score is then computed for all draws at once, and :func:`interval` is what lies between.
The same weights for two methods give paired draws: the interval of their difference is that of the
difference of their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "adjust_p",
    "area_under_roc",
    "average_precision",
    "balanced_accuracy",
    "draw_weights",
    "fisher",
    "intersection_over_union",
    "interval",
    "number_groups",
    "weighted_average_precision",
    "weighted_balanced_accuracy",
    "weighted_mean",
]

Numbers = NDArray[np.float64]


def balanced_accuracy(truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]) -> float:
    """Mean over the classes present in the truth of the share of their members that was recognised.

    >>> balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    0.8333333333333333
    """
    once = np.ones((1, len(truth)), dtype=np.float32)
    return float(weighted_balanced_accuracy(truth, predicted, once)[0])


def average_precision(truth: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> float:
    """Area under the precision-recall curve, as the step sum Σ (R_i - R_{i-1}) P_i; ties count as one step.

    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    0.8333333333333333
    """
    owner = np.zeros(len(truth), dtype=np.int64)
    return float(weighted_average_precision(truth, score, owner, np.ones((1, 1), dtype=np.float32))[0])


def area_under_roc(truth: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> float:
    """How often a true token scores above a false one, ties counted as half (Mann and Whitney 1947).

    NaN where all are true or none is.

    >>> area_under_roc(np.array([True, False, True]), np.array([0.9, 0.8, 0.8]))
    0.75
    """
    n_true = int(truth.sum())
    n_pairs = n_true * (len(truth) - n_true)
    if n_pairs == 0:
        return float("nan")
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # from 1, the mean over ties
    return float((ranks[place][truth].sum() - n_true * (n_true + 1) / 2) / n_pairs)


def intersection_over_union(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
    """Tokens in both over tokens in either (Jaccard 1901); NaN where there are none.

    >>> intersection_over_union(np.array([True, True, False]), np.array([False, True, True]))
    0.3333333333333333
    """
    union = int((truth | called).sum())
    return float((truth & called).sum() / union) if union else float("nan")


def adjust_p(p: Numbers) -> Numbers:
    """p adjusted over all tests that are not NaN (Benjamini and Hochberg 1995); NaN stays.

    >>> adjust_p(np.array([0.01, 0.04, np.nan, 0.03])).round(3).tolist()
    [0.03, 0.04, nan, 0.04]
    """
    q = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q


def fisher(having: NDArray[np.int64], n: int, others_having: NDArray[np.int64], m: int) -> Numbers:
    """One-sided p of Fisher's exact test, (V,): terms are in ``having`` of ``n`` and in so many of ``m``."""
    logs = np.zeros(n + m + 1)
    np.cumsum(np.log(np.arange(1, n + m + 1)), out=logs[1:])

    def choose(a: NDArray[np.int64], b: NDArray[np.int64]) -> Numbers:
        return np.asarray(logs[a] - logs[b] - logs[a - b], np.float64)

    found = np.ones(len(having))
    for v in np.flatnonzero(having > 0).tolist():
        total = int(having[v] + others_having[v])
        x = np.arange(int(having[v]), min(n, total) + 1)
        ways = choose(np.full_like(x, n), x) + choose(np.full_like(x, m), total - x)
        found[v] = min(np.exp(ways - choose(np.array(n + m), np.array(total))).sum(), 1.0)
    return found


# ---------------------------------------------------------------- bootstrap


def number_groups(groups: Sequence[str]) -> NDArray[np.int64]:
    """Number of each window's group, (N,), in the order in which they come.

    >>> number_groups(["b", "a", "b"])
    array([0, 1, 0])
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in groups], dtype=np.int64)


def draw_weights(
    n_windows: int, groups: NDArray[Any] | None = None, draws: int = 1000, seed: int = 0
) -> NDArray[np.float32]:
    """How often each window occurs in each draw of a bootstrap, float32 whole numbers (draws, N).

    As many groups as there are are drawn with replacement, each with all of its windows: windows of one
    genome are no independent witnesses (Field and Welsh 2007).

    Parameters
    ----------
    groups: (N,), numbers or names of the group (genome) of each window; by default each is its own.
    """
    if groups is None:
        number, n_groups = np.arange(n_windows), n_windows
    else:
        names, number = np.unique(groups, return_inverse=True)
        n_groups = len(names)
    rng = np.random.default_rng(seed)
    weights = np.empty((draws, n_windows), dtype=np.float32)
    for draw in weights:
        draw[:] = np.bincount(rng.integers(max(n_groups, 1), size=n_groups), minlength=n_groups)[number]
    return weights


def weighted_balanced_accuracy(
    truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], weights: NDArray[np.float32]
) -> Numbers:
    """:func:`balanced_accuracy` of each draw, (draws,), from weights (draws, N).

    The mean is over the classes that the draw has; NaN where it has none.
    """
    found = np.full(len(weights), np.nan)
    right = (truth == predicted).astype(np.float64)
    # Draw by draw everything stays in the cache; the whole matrix at once takes ten times as long.
    for draw, weight in enumerate(weights):
        members = np.bincount(truth, weights=weight)
        hits = np.bincount(truth, weights=weight * right)
        present = members > 0
        if present.any():
            found[draw] = (hits[present] / members[present]).mean()
    return found


def weighted_mean(values: NDArray[np.floating[Any]], weights: NDArray[np.float32]) -> Numbers:
    """Mean of ``values`` (N,) in each draw, (draws,), from weights (draws, N).

    A window whose value is NaN does not count; NaN where a draw has no other.
    """
    counted = ~np.isnan(values)
    both = np.stack([np.where(counted, values, 0), counted], axis=1).astype(np.float64)
    total, members = np.array([weight @ both for weight in weights]).reshape(-1, 2).T
    found = np.full(len(weights), np.nan)
    np.divide(total, members, out=found, where=members > 0)
    return found


def weighted_average_precision(
    truth: NDArray[np.bool_],
    score: NDArray[np.floating[Any]],
    owner: NDArray[np.integer[Any]],
    weights: NDArray[np.float32],
) -> Numbers:
    """:func:`average_precision` of the tokens of each draw of windows, (draws,).

    Parameters
    ----------
    truth, score, owner: (T,), of the tokens of all windows; ``owner`` is the number of a token's window.
    weights: (draws, N).

    NaN where a draw has no true token.
    """
    found = np.full(len(weights), np.nan)
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)  # last index of each run of ties
    true = np.flatnonzero(truth[order])
    reached = ends[np.searchsorted(ends, true)]  # how far down the list each true token is found
    above = np.searchsorted(true, reached, side="right") - 1  # the last of the true tokens found by then
    owner = owner[order]
    for draw, weight in enumerate(weights):
        times = weight[owner]
        hits = np.cumsum(times[true], dtype=np.float64)
        if len(hits) and hits[-1] > 0:
            called = np.cumsum(times, dtype=np.float64)[reached]
            # Where nothing was called yet, there is no hit either.
            precision = hits[above] / np.maximum(called, 1)
            found[draw] = times[true] @ precision / hits[-1]
    return found


def interval(values: Numbers, level: float = 0.95) -> tuple[float, float]:
    """What the middle ``level`` of the draws lies between (percentile bootstrap, Efron 1979).

    Draws that are NaN do not count; both ends are NaN where there is no other.
    """
    counted = values[~np.isnan(values)]
    if len(counted) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(counted, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
