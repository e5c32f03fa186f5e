"""Scores against their definitions, written out slowly."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.metrics import average_precision, balanced_accuracy

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)
SCORED = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=40)


@given(pairs=PAIRS)
def test_balanced_accuracy(pairs: list[tuple[int, int]]) -> None:
    """Mean recall of the classes that are there."""
    recalls = []
    for c in {t for t, _ in pairs}:
        own = [p for t, p in pairs if t == c]
        recalls.append(sum(p == c for p in own) / len(own))
    truth, predicted = np.array(pairs).T
    assert balanced_accuracy(truth, predicted) == pytest.approx(sum(recalls) / len(recalls))


def slow_average_precision(pairs: list[tuple[bool, int]]) -> float:
    """Σ (R_i - R_{i-1}) P_i over the distinct thresholds, from the highest downwards."""
    total, before = 0.0, 0.0
    n_true = sum(t for t, _ in pairs)
    for threshold in sorted({s for _, s in pairs}, reverse=True):
        called = [t for t, s in pairs if s >= threshold]
        recall = sum(called) / n_true
        total += (recall - before) * sum(called) / len(called)
        before = recall
    return total


@given(pairs=SCORED)
def test_average_precision(pairs: list[tuple[bool, int]]) -> None:
    """The step sum, with ties as one step whatever their order."""
    if not any(t for t, _ in pairs):
        return
    for seed in range(2):
        random.Random(seed).shuffle(pairs)
        truth = np.array([t for t, _ in pairs])
        score = np.array([s for _, s in pairs], dtype=np.float64)
        assert average_precision(truth, score) == pytest.approx(slow_average_precision(pairs))


def test_average_precision_of_extremes() -> None:
    """A perfect score gives 1, a constant one the prevalence."""
    truth = np.array([True, False, False, True])
    assert average_precision(truth, truth.astype(np.float64)) == 1
    assert average_precision(truth, np.zeros(4)) == 0.5


def test_nothing_to_score() -> None:
    """No window and no positive are not a number, and not a warning."""
    empty = np.zeros(0, dtype=np.int64)
    assert math.isnan(balanced_accuracy(empty, empty))
    assert math.isnan(average_precision(np.zeros(3, dtype=np.bool_), np.ones(3)))
