"""Controls: as many tokens, in as many runs, and nothing else in common with the masks."""

from __future__ import annotations

import math
from collections import Counter
from itertools import groupby, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wyrcli.controls import CONTROLS, constant, everything, position_mean, random_spans, shifted, swapped
from wyrcli.examination import Floats

VALUES = st.floats(0, 1, width=32)
MASKS = st.lists(st.lists(VALUES, max_size=25), min_size=1, max_size=6)
EQUAL_AREA = sorted(set(CONTROLS) - {"constant", "everything"})


def as_masks(values: list[list[float]]) -> list[Floats]:
    """Lists as masks."""
    return [np.array(own, dtype=np.float32) for own in values]


def classes(n: int, seed: int = 0) -> NDArray[np.int64]:
    """Predictions at two ranks."""
    return np.random.default_rng(seed).integers(3, size=(n, 2))


def runs(mask: Floats, of: float = 1) -> list[int]:
    """Lengths of the runs of a value, in their order."""
    return [len(list(run)) for value, run in groupby(mask.tolist()) if value == of]


def rounded(mask: Floats) -> Floats:
    """What a mask keeps."""
    return (mask > 0.5).astype(np.float32)


@pytest.mark.parametrize("name", CONTROLS)
@given(values=MASKS, seed=st.integers(0, 99))
def test_shapes_and_seeds(name: str, values: list[list[float]], seed: int) -> None:
    """One mask per window, one value per token, the same for a seed; what was given is left alone."""
    masks, given_masks = as_masks(values), as_masks(values)
    found = CONTROLS[name](masks, classes(len(masks)), seed)
    assert [len(m) for m in found] == [len(m) for m in masks]
    assert all(m.dtype == np.float32 for m in found)
    again = CONTROLS[name](masks, classes(len(masks)), seed)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))
    assert all((a == b).all() for a, b in zip(masks, given_masks, strict=True))


@pytest.mark.parametrize("name", EQUAL_AREA)
@given(values=MASKS, seed=st.integers(0, 99))
def test_equal_area(name: str, values: list[list[float]], seed: int) -> None:
    """Yes and no only, and as many yes as the own mask has above one half."""
    masks = as_masks(values)
    for own, other in zip(masks, CONTROLS[name](masks, classes(len(masks)), seed), strict=True):
        assert set(other.tolist()) <= {0, 1}
        assert other.sum() == (own > 0.5).sum()


@given(values=MASKS, seed=st.integers(0, 99))
def test_random_spans_keep_the_runs(values: list[list[float]], seed: int) -> None:
    """The same lengths of runs, and of the gaps between any two runs of which none was or is at an end."""
    masks = as_masks(values)
    for own, other in zip(masks, random_spans(masks, classes(len(masks)), seed), strict=True):
        own = rounded(own)
        assert sorted(runs(own)) == sorted(runs(other))
        if own.any():
            where = np.flatnonzero(other)
            inner = Counter(runs(other[where[0] : where[-1] + 1], 0))
            assert not inner - Counter(runs(own, 0))


def test_random_spans_go_everywhere() -> None:
    """One run of three has eight places in ten tokens; two of different lengths come in both orders."""
    one = np.zeros(10, dtype=np.float32)
    one[4:7] = 1
    found = random_spans([one] * 2000, classes(2000), 0)
    starts = Counter(int(mask.argmax()) for mask in found)
    assert sorted(starts) == list(range(8))
    assert all(abs(n - 250) < 6 * math.sqrt(2000 / 8 * 7 / 8) for n in starts.values())
    several = np.array([0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0], dtype=np.float32)
    orders = Counter(tuple(runs(mask)) for mask in random_spans([several] * 600, classes(600), 0))
    assert set(orders) == set(permutations([1, 2, 3]))


@given(values=st.lists(VALUES, min_size=1, max_size=30), seed=st.integers(0, 99))
def test_shifted(values: list[float], seed: int) -> None:
    """A roll of the own mask by at least a quarter of its length, either way."""
    (mask,) = as_masks([values])
    (found,) = shifted([mask], classes(1), seed)
    n = len(mask)
    amounts = [k for k in range(n) if (np.roll(rounded(mask), k) == found).all()]
    assert amounts and (n == 1 or any(min(k, n - k) >= n / 4 for k in amounts))


def test_shifted_by_any_amount() -> None:
    """All from a quarter to three quarters."""
    mask = np.eye(1, 12, dtype=np.float32)[0]
    places = {int(m.argmax()) for m in shifted([mask] * 300, classes(300), 0)}
    assert places == set(range(3, 10))


def test_swapped_comes_from_another_class() -> None:
    """Windows of two classes with their own halves: each gets a mask of the other class's half."""
    n = 20
    left = np.linspace(1, 0.2, 8, dtype=np.float32)
    predicted = np.stack([np.zeros(n, dtype=np.int64), np.arange(n) % 2], 1)
    masks = [left if c == 0 else left[::-1].copy() for c in predicted[:, 1]]
    for c, found in zip(predicted[:, 1], swapped(masks, predicted, 0), strict=True):
        assert found.tolist() == rounded(left[::-1] if c == 0 else left).tolist()


def test_swapped_fits() -> None:
    """Areas and lengths are the window's own, the order of the tokens is the donor's."""
    short = np.array([0.9, 0.1, 0.8], dtype=np.float32)
    long = np.array([0.1, 0.2, 0.9, 0.3, 0.7, 0.6, 0.4], dtype=np.float32)
    found = swapped([short, long], np.array([[0], [1]]), 0)
    assert found[0].tolist() == [0, 1, 1]  # the best two of .1 .2 .9
    assert found[1].tolist() == [1, 0, 0, 1, 0, 0, 1]  # the best three of .9 .1 .8 .9 .1 .8 .9
    same = [np.eye(3, dtype=np.float32)[i] for i in range(3)]
    for i, mask in enumerate(swapped(same, np.zeros((3, 1), dtype=np.int64), 0)):
        assert mask[i] == 0  # another window, though all were predicted alike
    assert swapped([short], np.zeros((1, 1), dtype=np.int64), 0)[0].tolist() == rounded(short).tolist()


def test_position_mean() -> None:
    """By hand: the mean of the other windows that are long enough, its best tokens as many as the own."""
    masks = as_masks([[0.9, 0.9, 0.1, 0.1], [0.1, 0.2, 0.9, 0.0], [0.3, 0.2, 0.6]])
    found = position_mean(masks, classes(3), 0)
    # The others' means are .2 .2 .75 0, then .6 .55 .35 .1, then .5 .55 .5.
    assert found[0].tolist() in ([1, 0, 1, 0], [0, 1, 1, 0])
    assert found[1].tolist() == [1, 0, 0, 0]
    assert found[2].tolist() == [0, 1, 0]


@given(values=MASKS, seed=st.integers(0, 9))
def test_constant_and_everything(values: list[list[float]], seed: int) -> None:
    """The same mass in equal parts, and ones."""
    masks = as_masks(values)
    for own, flat, ones in zip(
        masks, constant(masks, classes(1), seed), everything(masks, classes(1), seed), strict=True
    ):
        assert ones.tolist() == [1] * len(own)
        assert len(set(flat.tolist())) <= 1 and flat.sum() == pytest.approx(own.sum(), rel=1e-5)
