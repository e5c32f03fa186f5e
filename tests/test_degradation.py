"""Shorter, longer and erroneous reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.dataset import LabelledWindows, _Places
from wyrcli.degradation import ErrorMix, add_errors, cut_piece, find_neighbours, parse_mix

LONG = "".join(np.random.default_rng(0).choice(list("ACGT"), 20_000))
ONLY = {name: ErrorMix(*(float(i == k) for i in range(3))) for k, name in enumerate(ErrorMix._fields)}


def test_substitutions_are_as_many_as_asked_for() -> None:
    """The length stays, a tenth of the bases changes, and each into any of the three others."""
    found = add_errors(LONG, 0.1, ONLY["substitutions"], (0,))
    pairs = [(a, b) for a, b in zip(LONG, found, strict=True) if a != b]
    assert len(pairs) / len(LONG) == pytest.approx(0.1, abs=0.01)
    assert len(set(pairs)) == 12


def test_insertions_and_deletions() -> None:
    """Deletions shorten; insertions leave the old read as a subsequence, cut to the old length."""
    shorter = add_errors(LONG, 0.1, ONLY["deletions"], (0,))
    assert len(shorter) / len(LONG) == pytest.approx(0.9, abs=0.01)
    letters = iter(LONG)
    assert all(letter in letters for letter in shorter)
    longer = add_errors(LONG, 0.1, ONLY["insertions"], (0,))
    assert len(longer) == len(LONG)
    letters = iter(longer)
    assert sum(1 for letter in LONG if letter in letters) / len(LONG) == pytest.approx(1 / 1.1, abs=0.02)


def test_all_bases_can_be_wrong() -> None:
    """At a rate of one nothing stays; N is never substituted."""
    assert add_errors("ACGT" * 50, 1.0, ONLY["deletions"], (1,)) == ""
    assert all(a != b for a, b in zip(LONG, add_errors(LONG, 1.0, ONLY["substitutions"], (1,)), strict=True))
    assert add_errors("NNNN", 1.0, ONLY["substitutions"], (1,)) == "NNNN"
    assert add_errors("", 0.5, ONLY["insertions"], (1,)) == ""


def test_errors_are_nested_and_seeded() -> None:
    """The same seed gives the same read; the errors of a lower rate are among those of a higher."""
    mix = ONLY["substitutions"]
    few, many = (add_errors(LONG, rate, mix, (7, 3)) for rate in (0.02, 0.1))
    assert few == add_errors(LONG, 0.02, mix, (7, 3)) != add_errors(LONG, 0.02, mix, (7, 4))
    assert all(b == c for a, b, c in zip(LONG, few, many, strict=True) if a != b)
    assert add_errors(LONG, 0.0, ErrorMix(0.4, 0.3, 0.3), (0,)) == LONG


@given(text=st.text("ACGTN", max_size=50), length=st.integers(1, 60), seed=st.integers(0, 99))
def test_pieces(text: str, length: int, seed: int) -> None:
    """A piece is as long as asked for, and lies in the sequence."""
    piece = cut_piece(text, length, (seed,))
    assert len(piece) == min(length, len(text)) and piece in text


def test_mixes() -> None:
    """Proportions are shares after reading; what is none is refused."""
    assert parse_mix("40,30,30") == pytest.approx((0.4, 0.3, 0.3))
    assert str(parse_mix("1,0,1")) == "50 % substitutions, 50 % deletions"
    for text in ("", "1,2", "a,b,c", "1,-1,1", "0,0,0", "nan,1,1", "inf,1,1"):
        with pytest.raises(ValueError, match="three numbers"):
            parse_mix(text)


def test_neighbours() -> None:
    """Windows side by side on one record; a gap, another record or another genome ends the run."""
    places = _Places(
        ["a", "a", "a", "b", "a", "a"],
        np.array([0, 10, 20, 30, 40, 50]),
        np.array([10, 20, 30, 40, 50, 60]),
        ["g", "g", "g", "g", "g", "other"],
    )
    labels = np.zeros((6, 1), dtype=np.int32)
    whole = LabelledWindows(["x"] * 6, labels, lambda: places)
    drawn = whole.select(np.array([0, 2, 4]))
    assert find_neighbours(whole, drawn, 5) == [[1, 2], [], []]
    assert find_neighbours(whole, drawn, 1) == [[1], [], []]
