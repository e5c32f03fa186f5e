"""Terms of reads, and how often they are to be expected."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrcli.errors import WyrError
from wyrcli.examination import dinucleotide_shuffle
from wyrcli.terms import KmerTerms, ResidueTerms, Terms, WordTerms, choose_terms, turn_kmer

DNA = st.text("ACGTN", max_size=40)


def listed(terms: Terms, text: str) -> list[str]:
    """The terms of a text as they are written."""
    return [terms.letters(number) for number in terms.find(text).numbers.tolist()]


@given(DNA, st.integers(2, 5))
def test_kmers_are_those_of_a_plain_loop(text: str, k: int) -> None:
    """Every frame; the first of both strands by alphabet; none with an N."""
    terms = KmerTerms(k)
    pieces = [text[i : i + k] for i in range(len(text) - k + 1)]
    assert listed(terms, text) == [min(p, turn_kmer(p)) for p in pieces if "N" not in p]
    found = terms.find(text)
    assert all(
        terms.letters(n) in (text[a:b], turn_kmer(text[a:b]))
        for n, a, b in zip(found.numbers.tolist(), found.starts, found.stops, strict=True)
    )


@given(DNA)
def test_strands_have_the_same_kmers(text: str) -> None:
    """The reverse complement holds the same terms equally often."""
    terms = KmerTerms(4)
    turned = text.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    assert Counter(listed(terms, text)) == Counter(listed(terms, turned))


def test_number_of_kmers() -> None:
    """Half of all, but that palindromes are their own partners."""
    for k in (2, 3, 6):
        every = map("".join, itertools.product("ACGT", repeat=k))
        assert len(KmerTerms(k)) == len({min(kmer, turn_kmer(kmer)) for kmer in every})


def test_expected_counts_are_those_of_shuffled_reads() -> None:
    """The mean over dinucleotide shuffles, of a read with a strong bias."""
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ACGT"), 1200, p=[0.45, 0.1, 0.2, 0.25])) + "AT" * 60
    terms = KmerTerms(4)
    expected = terms.expect([text, "", "NNNN"])
    shuffled = np.mean(
        [
            np.bincount(
                terms.find(dinucleotide_shuffle(text, np.random.default_rng(i))).numbers, minlength=len(terms)
            )
            for i in range(150)
        ],
        axis=0,
    )
    # Means of 150 counts of standard deviation near sqrt(mean): four standard errors, and a little.
    assert (np.abs(expected[0] - shuffled) < 4 * np.sqrt((shuffled + 0.1) / 150) + 0.15).all()
    assert expected[1:].max() < 1e-6


def test_words() -> None:
    """Lower case, without punctuation around, with a letter; places are those of the bare word."""
    terms, text = WordTerms(), "The (U.S.) film -- isn't 90 min; THE film!"
    assert listed(terms, text) == ["the", "u.s", "film", "isn't", "min", "the", "film"]
    found = terms.find(text)
    assert [text[a:b].lower() for a, b in zip(found.starts, found.stops, strict=True)] == listed(terms, text)
    values = np.arange(len(text), dtype=float)
    assert terms.score(found, values).tolist() == [stop - 1 for stop in found.stops.tolist()]


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_words_of_any_text(text: str) -> None:
    """Nothing breaks, and every piece with a letter in it is one word."""
    words = listed(WordTerms(), text)
    assert len(words) == sum(any(c.isalpha() for c in piece) for piece in re.findall(r"\S+", text))
    assert all(word == word.lower() and word for word in words)


def test_scores_of_kmers_are_means() -> None:
    """Of the values of their letters."""
    terms, values = KmerTerms(3), np.array([0.0, 0.25, 1.0, 0.5, 0.75])
    assert terms.score(terms.find("ACGTA"), values).tolist() == pytest.approx([1.25 / 3, 1.75 / 3, 2.25 / 3])


def test_residues() -> None:
    """No strands, any letters."""
    assert listed(ResidueTerms(2), "MKXMK") == ["MK", "KX", "XM", "MK"]


def test_choice() -> None:
    """By alphabet; a k without meaning is refused."""
    assert isinstance(choose_terms("text", None), WordTerms)
    assert len(choose_terms("dna", None)) == 2080
    for alphabet, k in (("text", 3), ("dna", 9), ("dna", 1), ("protein", 0)):
        with pytest.raises(WyrError):
            choose_terms(alphabet, k)
