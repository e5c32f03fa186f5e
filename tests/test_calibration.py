"""Temperatures, reliability and thresholds, against hand-made cases and other people's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wyrcli.calibration import (
    BINS,
    Fit,
    choose_threshold,
    choose_thresholds,
    fit_temperature,
    give_answers,
    negative_log_likelihood,
    reliability,
)
from wyrcli.metrics import draw_weights


def overconfident(n: int, factor: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of 5 classes and labels drawn from their softmax; then the logits are multiplied."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 5))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=p) for p in share])
    return logits * factor, labels


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    """Logits that were multiplied are divided by the same number again."""
    logits, labels = overconfident(4000, factor)
    found = fit_temperature(logits, labels).best
    assert found == pytest.approx(factor, rel=0.08)
    around = [negative_log_likelihood(logits, labels, found * f).mean() for f in (0.98, 1.0, 1.02)]
    assert around[1] == min(around)


def test_the_loss_is_that_of_scikit_learn() -> None:
    """Whether logits or log-probabilities come in; at any temperature."""
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = overconfident(200, 2.0)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for temperature in (0.5, 1.0, 4.0):
        share = np.exp(logits / temperature)
        share /= share.sum(1, keepdims=True)
        expected = metrics.log_loss(labels, share)
        for own in (logits, log_p):
            assert negative_log_likelihood(own, labels, temperature).mean() == pytest.approx(expected)


def test_a_temperature_is_used_if_it_is_not_chance() -> None:
    """Many genomes tell 1.3 from 1; a few do not, and leave things as they are."""
    logits, labels = overconfident(3000, 1.3)
    many = fit_temperature(logits, labels, draw_weights(3000, None, 200))
    assert 1 < many.low <= many.best <= many.high and many.used == many.best
    logits, labels = overconfident(60, 1.1, seed=3)
    few = fit_temperature(logits, labels, draw_weights(60, np.arange(60) // 2, 200))
    assert few.low <= 1 <= few.high and few.used == 1.0 and few.best != 1.0
    assert fit_temperature(logits[:0], labels[:0]) == pytest.approx(Fit(1.0), nan_ok=True)
    assert Fit(2.0).used == 2.0


def test_temperatures_stay_within_bounds() -> None:
    """Answers that are all right, or all wrong, end at the bounds and not beyond."""
    logits = np.eye(4) * 3
    assert fit_temperature(logits, np.arange(4)).best == pytest.approx(0.1, rel=1e-3)
    assert fit_temperature(logits, (np.arange(4) + 1) % 4).best == pytest.approx(10, rel=1e-3)


def test_reliability_by_hand() -> None:
    """Four answers in two bins; the error weighs bins by their answers."""
    confidence = np.array([0.95, 0.99, 0.97, 0.41])
    found = reliability(confidence, np.array([True, True, False, False]))
    assert found.counts.sum() == 4 and found.counts[-1] == 3 and found.counts[6] == 1
    assert found.confidence[-1] == pytest.approx(0.97) and found.accuracy[-1] == pytest.approx(2 / 3)
    assert found.error == pytest.approx(0.75 * (0.97 - 2 / 3) + 0.25 * 0.41)
    assert np.isnan(found.accuracy[0]) and math.isnan(reliability(confidence[:0], np.zeros(0, bool)).error)


def test_reliability_agrees_with_scikit_learn() -> None:
    """The curve of calibration_curve, with its bins."""
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(0)
    confidence = rng.random(1000)
    right = rng.random(1000) < confidence**2
    accuracy, mean = calibration.calibration_curve(right, confidence, n_bins=BINS)
    found = reliability(confidence, right)
    assert found.accuracy[found.counts > 0] == pytest.approx(accuracy)
    assert found.confidence[found.counts > 0] == pytest.approx(mean)


def test_borders_of_bins() -> None:
    """0 belongs to the first bin, 1 to the last, a border to the bin below it."""
    found = reliability(np.array([0.0, 1.0, 1 / 15]), np.ones(3, bool))
    assert found.counts[0] == 2 and found.counts[-1] == 1


def test_threshold_by_hand() -> None:
    """Right down to 0.6, then wrong: halfway to the first answer that would spoil the precision."""
    confidence = np.concatenate([np.linspace(0.99, 0.6, 40), np.linspace(0.5, 0.2, 60)])
    right = np.arange(100) < 40
    found = choose_threshold(confidence, right, 1.0)
    assert found == pytest.approx((0.55, 1.0, 0.4, True))
    relaxed = choose_threshold(confidence, right, 0.8)  # 40 of 50
    assert relaxed.share == 0.5 and relaxed.precision == 0.8 and relaxed.reached
    assert choose_threshold(confidence, right, 0.3).value == 0.0


def test_a_target_out_of_reach() -> None:
    """The nearest is told, and a lucky few answers on top do not count."""
    confidence = np.linspace(0.99, 0.01, 200)
    right = np.arange(200) % 2 == 0
    right[:10] = True
    found = choose_threshold(confidence, right, 0.95)
    assert not found.reached and found.precision == pytest.approx(16 / 21) and found.share == 21 / 200
    nothing = choose_threshold(confidence[:0], right[:0], 0.9)
    assert nothing.value == 0 and not nothing.reached


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=80),
       st.sampled_from([0.3, 0.6, 0.9]))  # fmt: skip
def test_threshold_keeps_its_word(answers: list[tuple[float, bool]], target: float) -> None:
    """What it says of its answers is so; ties are answered together; no lower one would do as well."""
    confidence, right = np.array([a for a, _ in answers]), np.array([b for _, b in answers])
    found = choose_threshold(confidence, right, target)
    answered = confidence >= found.value
    assert answered.mean() == pytest.approx(found.share)
    assert right[answered].mean() == pytest.approx(found.precision)
    assert found.reached == (found.precision >= target)
    if found.reached:
        lower = [
            v for v in (0.0, 0.3, 0.6, 0.8) if v < found.value and (confidence >= v).sum() > answered.sum()
        ]
        assert all(right[confidence >= v].mean() < target for v in lower)


def test_narrow_ranks_follow_wide_ones() -> None:
    """Thresholds of the second rank are chosen among what the first answers; unknown taxa do not count."""
    rng = np.random.default_rng(1)
    confidence = rng.random((400, 2))
    right = rng.random((400, 2)) < confidence
    known = np.ones((400, 2), dtype=bool)
    known[:100, 1] = False
    right[:100, 1] = False
    first, second = choose_thresholds(confidence, right, known, 0.8)
    sure = give_answers(confidence, [first.value, second.value])
    assert not (sure[:, 1] & ~sure[:, 0]).any()
    own = known[:, 1] & sure[:, 1]
    assert right[own, 1].mean() == pytest.approx(second.precision) and second.precision >= 0.8
    assert own.sum() / 300 == pytest.approx(second.share)
