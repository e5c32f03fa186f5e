"""Scores against their definitions, written out slowly."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.metrics import (
    area_under_roc,
    average_precision,
    balanced_accuracy,
    draw_weights,
    intersection_over_union,
    interval,
    weighted_average_precision,
    weighted_balanced_accuracy,
    weighted_mean,
)

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
    assert math.isnan(average_precision(np.zeros(0, dtype=np.bool_), np.ones(0)))
    for truth in (np.zeros(3, dtype=np.bool_), np.ones(3, dtype=np.bool_)):
        assert math.isnan(area_under_roc(truth, np.arange(3.0)))
    assert math.isnan(intersection_over_union(np.zeros(3, dtype=np.bool_), np.zeros(3, dtype=np.bool_)))
    weights = draw_weights(0, draws=3)
    assert weights.shape == (3, 0)
    assert np.isnan(weighted_balanced_accuracy(empty, empty, weights)).all()
    assert np.isnan(weighted_mean(np.zeros(0), weights)).all()
    assert all(math.isnan(end) for end in interval(np.full(3, np.nan)))


@given(pairs=SCORED)
def test_area_under_roc(pairs: list[tuple[bool, int]]) -> None:
    """Each true token against each false one."""
    wins = [
        (high > low) + (high == low) / 2 for true, high in pairs for other, low in pairs if true and not other
    ]
    truth = np.array([t for t, _ in pairs])
    found = area_under_roc(truth, np.array([s for _, s in pairs], dtype=np.float64))
    assert found == pytest.approx(sum(wins) / len(wins)) if wins else math.isnan(found)


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
def test_intersection_over_union(pairs: list[tuple[bool, bool]]) -> None:
    """By sets."""
    both = np.array(pairs, dtype=np.bool_).reshape(-1, 2).T
    truth, called = (set(np.flatnonzero(side).tolist()) for side in both)
    if truth | called:
        assert intersection_over_union(*both) == len(truth & called) / len(truth | called)


# ---------------------------------------------------------------- bootstrap


@given(
    names=st.lists(st.sampled_from("abcde"), min_size=1, max_size=12),
    draws=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_groups_are_drawn_whole(names: list[str], draws: int, seed: int) -> None:
    """Windows of a group share its weight; weights of the groups are whole and sum to their number."""
    weights = draw_weights(len(names), np.array(names), draws, seed)
    assert weights.shape == (draws, len(names))
    assert (weights == draw_weights(len(names), np.array(names), draws, seed)).all()
    for weight in weights:
        of_group = {}
        for name, own in zip(names, weight.tolist(), strict=True):
            assert of_group.setdefault(name, own) == own == int(own)
        assert sum(of_group.values()) == len(set(names))


def test_each_window_is_its_own_group() -> None:
    """Without groups all windows are drawn for themselves, each once on average."""
    weights = draw_weights(30, draws=2000, seed=1)
    assert (weights == draw_weights(30, np.arange(30), 2000, 1)).all()
    assert (weights.sum(1) == 30).all()
    # The count of a window is binomial(30, 1/30); this is six standard errors of its mean over 2,000 draws.
    assert weights.mean(0) == pytest.approx(np.ones(30), abs=6 * math.sqrt((1 - 1 / 30) / 2000))
    assert weights.var() == pytest.approx(1 - 1 / 30, rel=0.05)


@given(pairs=PAIRS, seed=st.integers(0, 9))
def test_weights_are_repetitions(pairs: list[tuple[int, int]], seed: int) -> None:
    """A weighted score is the plain one of windows written down that many times."""
    weights = draw_weights(len(pairs), draws=4, seed=seed)
    truth, predicted = np.array(pairs).T
    values = np.where(truth == 4, np.nan, truth * 0.7)
    accuracy = weighted_balanced_accuracy(truth, predicted, weights)
    means = weighted_mean(values, weights)
    for weight, found, mean in zip(weights, accuracy, means, strict=True):
        rows = np.repeat(np.arange(len(pairs)), weight.astype(int))
        assert found == pytest.approx(balanced_accuracy(truth[rows], predicted[rows]))
        known = values[rows][~np.isnan(values[rows])]
        assert mean == pytest.approx(known.mean()) if len(known) else math.isnan(mean)


@given(pairs=SCORED, seed=st.integers(0, 9))
def test_weighted_average_precision(pairs: list[tuple[bool, int]], seed: int) -> None:
    """The same of tokens: those of a window drawn twice occur twice, those of one not drawn not at all."""
    truth = np.array([t for t, _ in pairs])
    score = np.array([s for _, s in pairs], dtype=np.float64)
    owner = np.random.default_rng(seed).integers(3, size=len(pairs))
    weights = draw_weights(3, draws=5, seed=seed)
    for weight, found in zip(weights, weighted_average_precision(truth, score, owner, weights), strict=True):
        rows = np.repeat(np.arange(len(pairs)), weight[owner].astype(int))
        expected = average_precision(truth[rows], score[rows])
        assert found == pytest.approx(expected, nan_ok=True)


def test_interval_covers() -> None:
    """Of 200 samples whose mean is known, the intervals of about 95 % hold it; those of groups are wider."""
    rng = np.random.default_rng(0)
    genomes = np.repeat(np.arange(40), 5)
    covered, wider = 0, 0
    for seed in range(200):
        values = rng.normal(size=40)[genomes] + 0.1 * rng.normal(size=200)  # windows of a genome are alike
        low, high = interval(weighted_mean(values, draw_weights(200, genomes, 300, seed)))
        naive = interval(weighted_mean(values, draw_weights(200, None, 300, seed)))
        covered += low < 0 < high
        wider += high - low > naive[1] - naive[0]
    assert 0.88 < covered / 200 < 0.99 and wider == 200


def test_interval_is_of_quantiles() -> None:
    """The middle 95 of 100 parts, whatever is not a number."""
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert interval(np.append(values, np.nan)) == pytest.approx((25, 975))
    assert interval(values, 0.5) == pytest.approx((250, 750))


def test_pairs() -> None:
    """A method that is always better by the same is better by that in every draw, however noisy both are."""
    noisy = np.random.default_rng(0).normal(size=50) * 100
    weights = draw_weights(50)
    assert interval(weighted_mean(noisy + 1, weights) - weighted_mean(noisy, weights)) == pytest.approx(
        (1, 1)
    )
