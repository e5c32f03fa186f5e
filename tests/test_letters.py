"""What numpy writes is what Python writes, letter by letter."""

from __future__ import annotations

import io

import numpy as np
import pytest
from findings import RANKS, explain
from hypothesis import given
from hypothesis import strategies as st

from wyrcli import letters
from wyrcli.finding import score_bases
from wyrcli.writers import TokensWriter


@given(st.lists(st.one_of(st.integers(0, 2**60), st.integers(0, 30_000)), min_size=0, max_size=20))
def test_integers(values):
    """As %d, also beyond 32 bits."""
    column = letters.integers(np.array(values, dtype=np.int64))
    assert letters.join([column, b"\n"]) == "".join(f"{v}\n" for v in values)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_decimals(values):
    """As %.4f: rounding, ties and the sign of what rounds to 0."""
    scores = np.array(values, dtype=np.float32)
    assert letters.fits(scores)
    expected = "".join(f"\t{v:.4f}\n" for v in scores.tolist())
    assert letters.join([letters.decimals(scores), b"\n"]) == expected
    two = letters.join([letters.decimals(np.stack([scores, -scores], axis=1)), b"\n"])
    assert two == "".join(f"\t{v:.4f}\t{-v:.4f}\n" for v in scores.tolist())


def test_every_printed_score_comes_back():
    """All numbers of four decimals in [-1, 1], and the ties between them that binary fractions have."""
    scores = np.concatenate([np.arange(-10_000, 10_001) / 10_000, np.arange(-1024, 1025) / 1024 / 16])
    scores = scores.astype(np.float32)
    expected = "".join(f"\t{v:.4f}\n" for v in scores.tolist())
    assert letters.join([letters.decimals(scores), b"\n"]) == expected


def test_what_does_not_fit():
    """Numbers too large, and what is no number, are left to Python."""
    assert not letters.fits(np.array([1.0001], dtype=np.float32))
    assert not letters.fits(np.array([np.nan], dtype=np.float32))
    assert letters.fits(np.empty(0, dtype=np.float32))


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=0, max_size=40),
    st.integers(1, 20),
    st.integers(0, 10**7),
    st.sampled_from(["read", "été", "a b", ""]),
    st.booleans(),
)
def test_token_rows_are_those_of_the_percent_operator(masks, width, start, name, with_target):
    """The quick way and the plain one write the same bytes, for tokens of any width."""
    explanation = explain(name, masks, width=width, start=start)
    handle = io.StringIO()
    TokensWriter(handle, RANKS, with_target=with_target).write(explanation)
    window = explanation.window
    shown = {"": ".", "a b": "a_b"}.get(name, name)
    expected = [
        f"{shown}\t{a}\t{b}\t{window.sequence[a - start : b - start]}"
        + "".join(f"\t{score:.4f}" for score in [mask, *ranks])
        + ("\t." if with_target else "")
        for (a, b), mask, ranks in zip(
            explanation.spans.tolist(),
            explanation.mask.tolist(),
            explanation.rank_masks.T.tolist(),
            strict=True,
        )
    ]
    assert handle.getvalue().splitlines()[1:] == expected


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 7), st.floats(-1, 1, width=32)), max_size=12),
    st.integers(0, 100),
)
def test_scores_of_bases(sites, origin):
    """Overlapping sites are averaged, bases without one have no score; against a loop."""
    sites = sorted((a, min(a + n, 20), v) for a, n, v in sites if a < 20)
    spans = np.array([(a + origin, b + origin) for a, b, _ in sites], dtype=np.int64).reshape(-1, 2)
    mask = np.array([v for *_, v in sites], dtype=np.float32)
    found = score_bases(mask, spans, origin, origin + 20)
    for base in range(20):
        values = [float(np.float32(v)) for a, b, v in sites if a <= base < b]
        if values:
            assert found[base] == pytest.approx(np.mean(values), abs=1e-6)
        else:
            assert np.isnan(found[base])
