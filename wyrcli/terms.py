"""What a class is told by, counted: k-mers of DNA or of proteins, words of texts.

The k-mers of DNA are those of every reading frame, and a k-mer is one term with its reverse complement; one
with an N is none.  Terms have numbers from 0 on.  Those of DNA are fixed; words, and k-mers of residues, are
numbered as they come, so that memory grows with the vocabulary (not with the number of texts).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import WyrError
from wyrcli.features import encode

__all__ = ["KmerTerms", "Occurrences", "ResidueTerms", "Terms", "WordTerms", "choose_terms", "turn_kmer"]

MAX_K = 8
"""Of DNA: 32,896 different k-mers, of each of which there is a row per class."""

_TURN = str.maketrans("ACGT", "TGCA")
_TINY = 1e-30  # stands for 0 where a logarithm is taken


class Occurrences(NamedTuple):
    """The terms of one text in the order of their places: ``numbers``, ``starts``, ``stops``, int64 (n,)."""

    numbers: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


class Terms(ABC):
    """A vocabulary.  ``noun``: what a term is called."""

    noun: str

    @abstractmethod
    def __len__(self) -> int:
        """V, how many terms are known by now."""

    @abstractmethod
    def find(self, text: str) -> Occurrences:
        """All terms of a text."""

    @abstractmethod
    def letters(self, number: int) -> str:
        """A term as it is written."""

    def partner(self, number: int) -> str:
        """The reverse complement, or nothing."""
        return ""

    def score(self, found: Occurrences, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Score of each occurrence, (n,), from one value per letter of the text: their mean."""
        sums = np.append(0.0, np.cumsum(values, dtype=np.float64))
        sizes = np.maximum(found.stops - found.starts, 1)
        means: NDArray[np.float64] = (sums[found.stops] - sums[found.starts]) / sizes
        return means

    def expect(self, texts: Sequence[str]) -> NDArray[np.float64] | None:
        """How often each term would stand in texts of the same composition, (B, V); None: nobody knows."""
        return None


def turn_kmer(kmer: str) -> str:
    """
    >>> turn_kmer("AACG")
    'CGTT'
    """
    return kmer.translate(_TURN)[::-1]


class KmerTerms(Terms):
    """The k-mers of DNA, each with its reverse complement; of the two, the first by alphabet is written.

    >>> terms = KmerTerms(2)
    >>> [terms.letters(n) for n in terms.find("TTNAC").numbers], len(terms)
    (['AA', 'AC'], 10)
    """

    noun = "k-mer"

    def __init__(self, k: int) -> None:
        if not 2 <= k <= MAX_K:
            raise WyrError(f"k is {k}; expected 2 to {MAX_K} for DNA")
        self.k = k
        every = np.arange(4**k)
        turned = np.zeros_like(every)
        for i in range(k):
            turned += (3 - (every >> 2 * i & 3)) << 2 * (k - 1 - i)
        first = np.minimum(every, turned)
        self._codes, self._numbers = np.unique(first, return_inverse=True)
        self._turned = turned[self._codes]

    def __len__(self) -> int:
        return len(self._codes)

    def find(self, text: str) -> Occurrences:
        codes = encode(text).astype(np.int64)
        n = max(len(codes) - self.k + 1, 0)
        numbers, known = np.zeros(n, np.int64), np.ones(n, np.bool_)
        for i in range(self.k):
            own = codes[i : i + n]
            numbers = 4 * numbers + own
            known &= own < 4
        starts = np.flatnonzero(known)
        return Occurrences(self._numbers[numbers[starts]], starts, starts + self.k)

    def letters(self, number: int) -> str:
        code = int(self._codes[number])
        return "".join("ACGT"[code >> 2 * (self.k - 1 - i) & 3] for i in range(self.k))

    def partner(self, number: int) -> str:
        return turn_kmer(self.letters(number))

    @cached_property
    def _parts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How often each pair of bases is in each k-mer, (16, 4^k), and each base inside it, (4, 4^k)."""
        every = np.arange(4**self.k)
        digits = np.stack([every >> 2 * (self.k - 1 - i) & 3 for i in range(self.k)])  # (k, 4^k)
        pairs = 4 * digits[:-1] + digits[1:]
        inner = digits[1:-1]
        return (
            np.stack([(pairs == p).sum(0) for p in range(16)]).astype(np.float64),
            np.stack([(inner == b).sum(0) for b in range(4)]).astype(np.float64),
        )

    def expect(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Expected in a read with the same pairs of neighbours, (B, V): what a dinucleotide shuffle holds.

        For the k-mer abc..., N(ab) N(bc) ... / (N(b) ...), the estimate of a Markov chain of order 1
        (Prum, Rodolphe and de Turckheim 1995), of both strands together.
        """
        pairs, bases = np.zeros((len(texts), 16)), np.zeros((len(texts), 4))
        for i, text in enumerate(texts):
            codes = encode(text).astype(np.int64)
            known = (codes[:-1] < 4) & (codes[1:] < 4)
            pairs[i] = np.bincount((4 * codes[:-1] + codes[1:])[known], minlength=16)
            bases[i] = np.bincount(codes[:-1][known], minlength=4)
        of_pairs, of_bases = self._parts
        logs = np.log(np.maximum(pairs, _TINY)) @ of_pairs - np.log(np.maximum(bases, _TINY)) @ of_bases
        values = np.exp(logs)
        both = values[:, self._codes] + values[:, self._turned]
        both[:, self._codes == self._turned] /= 2  # a palindrome is its own partner
        return np.asarray(both, np.float64)


class _OpenTerms(Terms):
    """Terms that are numbered as they come."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._letters: list[str] = []

    def __len__(self) -> int:
        return len(self._letters)

    def letters(self, number: int) -> str:
        return self._letters[number]

    def _number(self, term: str) -> int:
        number = self._known.setdefault(term, len(self._letters))
        if number == len(self._letters):
            self._letters.append(term)
        return number


class WordTerms(_OpenTerms):
    """Words between white space, in lower case, without the punctuation around them; each has a letter.

    >>> terms = WordTerms()
    >>> [terms.letters(n) for n in terms.find('"Well," it\\'s 5 - WELL').numbers]
    ['well', "it's", 'well']
    """

    noun = "word"

    def find(self, text: str) -> Occurrences:
        numbers, starts, stops = [], [], []
        for match in re.finditer(r"\S+", text):
            word = match.group()
            inner = [i for i, letter in enumerate(word) if letter.isalnum()]
            if not inner or not any(letter.isalpha() for letter in word):
                continue
            numbers.append(self._number(word[inner[0] : inner[-1] + 1].lower()))
            starts.append(match.start() + inner[0])
            stops.append(match.start() + inner[-1] + 1)
        return Occurrences(*(np.array(own, np.int64) for own in (numbers, starts, stops)))

    def score(self, found: Occurrences, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """The largest value of each word: a word is as telling as the most telling of its pieces."""
        pairs = zip(found.starts.tolist(), found.stops.tolist(), strict=True)
        return np.array([values[start:stop].max(initial=-np.inf) for start, stop in pairs], np.float64)


class ResidueTerms(_OpenTerms):
    """The k-mers of a protein; ``*`` and gaps of it are letters like others."""

    noun = "k-mer"

    def __init__(self, k: int) -> None:
        super().__init__()
        if not 1 <= k <= MAX_K:
            raise WyrError(f"k is {k}; expected 1 to {MAX_K} for proteins")
        self.k = k

    def find(self, text: str) -> Occurrences:
        starts = np.arange(max(len(text) - self.k + 1, 0), dtype=np.int64)
        numbers = [self._number(text[start : start + self.k]) for start in starts.tolist()]
        return Occurrences(np.array(numbers, np.int64), starts, starts + self.k)


def choose_terms(alphabet: str, k: int | None) -> Terms:
    """Terms of ``dna`` (k 6), ``protein`` (k 3) or ``text``.  Raises WyrError for a k that has no meaning."""
    if alphabet == "text":
        if k is not None:
            raise WyrError("k is for k-mers; this model reads texts, whose terms are words")
        return WordTerms()
    return KmerTerms(6 if k is None else k) if alphabet == "dna" else ResidueTerms(3 if k is None else k)
