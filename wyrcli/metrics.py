"""Scores: balanced accuracy, and precision-recall against a planted truth.  numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_precision", "balanced_accuracy"]


def balanced_accuracy(truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]) -> float:
    """Mean over the classes present in the truth of the share of their members that was recognised.

    >>> balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    0.8333333333333333
    """
    if len(truth) == 0:
        return float("nan")
    right = (truth == predicted).astype(np.float64)
    members = np.bincount(truth)
    hits = np.bincount(truth, weights=right)
    present = members > 0
    return float((hits[present] / members[present]).mean())


def average_precision(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Area under the precision-recall curve, as the step sum Σ (R_i - R_{i-1}) P_i; ties count as one step.

    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    0.8333333333333333
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hit = truth[order].astype(np.float64)
    ends = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)  # last index of each run of ties
    hits = np.cumsum(hit)[ends]
    precision = hits / (ends + 1)
    recall = hits / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())
