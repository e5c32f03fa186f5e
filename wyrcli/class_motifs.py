"""Motifs of a class: what its keywords, each a k-mer, are pieces of.

    keywords -> seeds -> aligned in the passages that the masks keep -> expectation maximisation
             -> cut to the columns that say something -> tested on reads that took no part -> counted anew

A k-mer of a keyword is an anchor: the passages that hold it, on either strand, are laid over each other, and
what stands beside the anchor in all of them belongs to the motif.  So keywords that overlap end in one motif,
longer than a token.  It is refined as MEME does (Bailey and Elkan 1994: zero or one site in a passage, either
strand), with the mask as the prior of where in a passage the site is.  Sites are then taken out of the
passages, and the next keyword begins; after the keywords, k-mers that are frequent in the passages, and at
last those of stretches at which the mask only hints (faint motifs).

Half of the reads (of their groups, where they have some) never takes part in that.  On them a motif is tested
as STREME does (Bailey 2021): in how many reads of the class, and in how many of each background, does it
occur?  Whole reads are counted, masked or not, because a mask may point at what all classes have.  The
p-value is the largest over the backgrounds: a motif of the class must be more frequent than in *each* of
them.  Give the sister classes of the same parent as one: what the parent's other children have too is the
parent's motif.  What only one child of the class has is the child's: see :attr:`Motif.is_narrow`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.metrics import adjust_p, fisher

__all__ = [
    "LETTERS",
    "ClassRead",
    "Comparison",
    "Motif",
    "MotifOptions",
    "Site",
    "adjust_motifs",
    "best_scores",
    "compare",
    "cut_chunks",
    "encode",
    "find_motifs",
    "find_sites",
    "trim",
]

Doubles = NDArray[np.float64]
Codes = NDArray[np.uint8]

LETTERS = "ACGT"
"""The order of the columns of every matrix."""

_NONE = 4  # the code of N, and of what lies beyond the end
_CODES = np.full(256, _NONE, dtype=np.uint8)
for _base in (b"ACGT", b"acgt"):
    _CODES[np.frombuffer(_base, dtype=np.uint8)] = np.arange(4)
_FORBIDDEN = -100.0  # bits: no site has an N in it
_USUAL_K = 6  # letters of a word where no keyword says how many
_REACH = 20  # columns on each side of an anchor, and of padding around passages
_SOFT = 1.0  # pseudocount of a column, shared out by the background
_PIECE, _OVERLAP = 300, 60  # bp of a passage at most, and by which its pieces overlap
_LONGER = 5  # letters that an anchor may gain
_AGREED = 0.45  # of the windows must have a letter for it to be one of the anchor's
_LEFT = 0.3  # of a keyword's passages must be left for it to be an anchor
_ROUNDS = 30  # of expectation maximisation
_WEAK = 0.3  # of what a perfect site has, a weak one has
_UNEXPECTED = 5.0  # deviations by which a k-mer is too frequent to be one of chance
_MOST_WORDS = 40  # of these that are looked at
_PRIOR = 0.02  # of a place that the mask does not keep at all, so that no place is impossible


class ClassRead(NamedTuple):
    """A read of the class that was recognised as one.

    ``sequence``: A, C, G, T and N.  ``scores``: (its length,), the mask of the class at each base.
    ``group``: what is not independent, as the reads of one genome; none: each read is its own.  ``member``:
    its taxon at a lower rank, the lowest if there are several; none at the lowest rank.  ``name`` and
    ``start``: of the record, and where on it the read begins.
    """

    sequence: str
    scores: NDArray[np.floating]
    group: str = ""
    member: str = ""
    name: str = ""
    start: int = 0


class Site(NamedTuple):
    """A place of a motif: number of the sequence, 0-based half-open bases on it, strand, log-odds in bits."""

    sequence: int
    start: int
    stop: int
    reverse: bool
    bits: float


@dataclass(frozen=True)
class MotifOptions:
    """How motifs are looked for.

    Parameters
    ----------
    threshold: bases with a score above it are kept: passages are made of them.
    join: runs of kept bases are one passage if no more than so many bases lie between them, bp.
    flank: of what surrounds a run, so many bases belong to the passage, bp.
    most_bases: of all passages; of more, some passages are drawn.
    most_motifs: looked for in one class.
    least_sites: passages that an anchor must have.
    least_fold: a motif is in so many times more of the class's reads than of those of any background.
    least_bits: a column at a motif's end must say more than that.
    longest: columns of a motif.
    faint_share: where nothing more is found, this share of the remaining bases is searched too, those with
        the highest scores, however low; what is found there is faint.  0: none.
    alike: two motifs that correlate at least so much are one.
    """

    threshold: float = 0.5
    join: int = 6
    flank: int = 15
    most_bases: int = 200_000
    most_motifs: int = 12
    least_sites: int = 8
    least_fold: float = 2.0
    least_bits: float = 0.25
    longest: int = 60
    faint_share: float = 0.05
    alike: float = 0.85


@dataclass(frozen=True, eq=False)
class Motif:
    """A position weight matrix of L columns, with what is known of it.

    Parameters
    ----------
    name: within its class.
    counts: float64 (L, 4), letters at its sites, in the order of :data:`LETTERS`.
    background: float64 (4,), frequencies of the letters in the backgrounds.
    threshold: log-odds, bits, from which on a place is a site.
    n_sites: sites in the reads of the class that the mask keeps (of a faint one: all): ``counts`` are theirs.
    n_reads: reads of the class it was looked for in.
    share: of the reads of the class that took no part in the search, those with a site.
    background_shares: the same in each background.
    is_faint: the mask only hints at it: it was found where ``MotifOptions.faint_share`` says, or fewer than
        ``least_sites`` of its sites are kept.
    mask: mean score of all its sites, kept or not.
    mask_elsewhere: mean score of all bases that are no site of a motif found so far.
    members: share of reads with a site by :attr:`ClassRead.member`, over all reads.
    keywords: those whose k-mer, on either strand, is in the consensus, in the order of their weights.
    p: that it is no more frequent than in a background, the largest over these (hypergeometric); NaN if it
        was not tested.
    q: p adjusted, see :func:`adjust_motifs`.
    """

    name: str
    counts: Doubles
    background: Doubles = field(default_factory=lambda: np.full(4, 0.25))
    threshold: float = 0.0
    n_sites: int = 0
    n_reads: int = 0
    share: float = math.nan
    background_shares: Mapping[str, float] = field(default_factory=dict)
    is_faint: bool = False
    mask: float = math.nan
    mask_elsewhere: float = math.nan
    members: Mapping[str, float] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()
    p: float = math.nan
    q: float = math.nan

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def probabilities(self) -> Doubles:
        """(L, 4), with a pseudocount, so that none is 0; rows sum to one."""
        return _shares(self.counts, self.background)

    @cached_property
    def log_odds(self) -> Doubles:
        """(L, 4), bits."""
        return np.log2(self.probabilities / self.background)

    @cached_property
    def information(self) -> Doubles:
        """(L,), bits by which each column differs from the background (Kullback and Leibler 1951)."""
        return np.asarray((self.probabilities * self.log_odds).sum(1), dtype=np.float64)

    @property
    def bits(self) -> float:
        """Information of the whole motif."""
        return float(self.information.sum())

    @property
    def consensus(self) -> str:
        """The most frequent letter of each column.

        >>> Motif("m", np.array([[9, 0, 0, 1], [0, 0, 5, 4.0]])).consensus
        'AG'
        """
        return "".join(LETTERS[i] for i in self.counts.argmax(1))

    def why_not(self, fdr: float = 0.05, fold: float = 2.0) -> str:
        """Why it is not said to speak for the class; nothing if it is.

        It must have a ``q`` of at most ``fdr``, be in ``fold`` times as many reads as in any background, and
        not be of one member only.
        """
        common = [name for name, share in self.background_shares.items() if self.share < fold * share]
        if math.isnan(self.q):
            return "not tested"
        if self.q > fdr:
            return f"q above {fdr:g}"
        if common:
            return f"frequent in {' and '.join(common)} too"
        if self.is_narrow:
            best = max(self.members, key=lambda name: self.members[name])
            return f"of few members: {best} most"
        return ""

    def is_kept(self, fdr: float = 0.05, fold: float = 2.0) -> bool:
        """Whether it speaks for the class; see :meth:`why_not`."""
        return not self.why_not(fdr, fold)

    @property
    def is_narrow(self) -> bool:
        """Whether it is rather a motif of one member of the class than of the class.

        So if no more than half of the members have it at least half as often as the reads of all members do.
        """
        shares = np.array(list(self.members.values()))
        return len(shares) > 1 and float((shares >= shares.mean() / 2).mean()) <= 0.5

    def reverse_complement(self) -> Motif:
        """The same on the other strand."""
        return replace(self, counts=self.counts[::-1, ::-1].copy(), background=self.background[::-1].copy())


def _shares(counts: Doubles, background: Doubles) -> Doubles:
    """Counts (L, 4) with a pseudocount, each row as shares of its sum."""
    found = counts + _SOFT * background
    return np.asarray(found / found.sum(1, keepdims=True), dtype=np.float64)


# ---------------------------------------------------------------- letters


def encode(sequences: Sequence[str], pad: int = 0) -> Codes:
    """Sequences as uint8 (N, pad + longest + pad): 0 to 3 for A, C, G, T, 4 for all else and for no base.

    >>> encode(["ACG", "TN"])
    array([[0, 1, 2],
           [3, 4, 4]], dtype=uint8)
    """
    found = np.full((len(sequences), 2 * pad + max(map(len, sequences), default=0)), _NONE, dtype=np.uint8)
    for row, sequence in zip(found, sequences, strict=True):
        row[pad : pad + len(sequence)] = _CODES[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    return found


def _turned(matrix: Doubles) -> Doubles:
    """Columns of the other strand, in the order in which they stand on this one."""
    return matrix[::-1, ::-1]


def _scan(codes: Codes, log_odds: Doubles) -> NDArray[np.float32]:
    """Log-odds of every place, float32 (2, N, places): of the strand as it stands, then of the other.

    Three letters are looked up at a time, which takes a third of the time.
    """
    length = len(log_odds)
    n_places = codes.shape[1] - length + 1
    if n_places < 1:
        return np.zeros((2, len(codes), 0), dtype=np.float32)
    found = np.zeros((2, len(codes), n_places), dtype=np.float32)
    triples = codes[:, :-2] * 25 + codes[:, 1:-1] * 5 + codes[:, 2:]
    for strand, matrix in enumerate((log_odds, _turned(log_odds))):
        table = np.concatenate([matrix, np.full((length, 1), _FORBIDDEN)], axis=1).astype(np.float32)
        whole = length - length % 3
        for column in range(0, whole, 3):
            a, b, c = table[column : column + 3]
            sums = (a[:, None, None] + b[:, None] + c).ravel()
            found[strand] += sums[triples[:, column : column + n_places]]
        for column in range(whole, length):
            found[strand] += table[column][codes[:, column : column + n_places]]
    return found


def best_scores(motif: Motif, codes: Codes) -> NDArray[np.float32]:
    """The highest log-odds of each sequence on either strand, bits (N,); see :func:`encode`."""
    found = _scan(codes, motif.log_odds)
    worst = np.float32(_FORBIDDEN * len(motif))  # of a sequence that has no place for it
    return np.asarray(found.max((0, 2), initial=worst), dtype=np.float32)


def find_sites(motif: Motif, sequences: Sequence[str]) -> list[Site]:
    """Places from the motif's threshold on, none overlapping a better one, by sequence and place."""
    return _sites_in(encode(sequences), motif.log_odds, motif.threshold)


def _sites_in(codes: Codes, log_odds: Doubles, threshold: float) -> list[Site]:
    length = len(log_odds)
    strands = _scan(codes, log_odds)
    reverse = strands[1] > strands[0]
    best = strands.max(0)
    rows, places = np.nonzero(best >= threshold)
    bits = best[rows, places]
    sites: list[Site] = []
    taken: dict[int, list[int]] = {}
    for i in np.argsort(-bits, kind="stable").tolist():
        row, place = int(rows[i]), int(places[i])
        own = taken.setdefault(row, [])
        if all(abs(place - other) >= length for other in own):
            own.append(place)
            sites.append(Site(row, place, place + length, bool(reverse[row, place]), float(bits[i])))
    return sorted(sites)


# ---------------------------------------------------------------- passages


class _Passages:
    """Kept stretches of reads: codes (N, W), padded by _REACH on each side, and their scores (N, W)."""

    def __init__(self, reads: Sequence[ClassRead], options: MotifOptions, rng: np.random.Generator) -> None:
        span = options.threshold, options.join, options.flank
        cuts = [
            (read, *piece) for read in reads for cut in cut_chunks(read, *span) for piece in _pieces(*cut)
        ]
        sizes = np.array([stop - start for _, start, stop in cuts], dtype=np.int64)
        if sizes.sum() > options.most_bases:
            order = rng.permutation(len(cuts))
            drawn = order[sizes[order].cumsum() <= options.most_bases]
            cuts = [cuts[i] for i in np.sort(drawn).tolist()]
        self.codes = encode([read.sequence[start:stop] for read, start, stop in cuts], _REACH)
        self.scores = np.zeros(self.codes.shape, dtype=np.float64)
        for row, (read, start, stop) in zip(self.scores, cuts, strict=True):
            row[_REACH : _REACH + stop - start] = read.scores[start:stop]

    def __len__(self) -> int:
        return len(self.codes)

    def prior(self, length: int) -> Doubles:
        """Of a site at each place, (N, places): its mean score; rows sum to one."""
        sums = np.concatenate([np.zeros((len(self), 1)), self.scores.cumsum(1)], axis=1)
        found = (sums[:, length:] - sums[:, :-length]) / length + _PRIOR
        return np.asarray(found / found.sum(1, keepdims=True), dtype=np.float64)

    def letters(
        self, rows: NDArray[np.int64], starts: NDArray[np.int64], reverse: NDArray[np.bool_], length: int
    ) -> Codes:
        """Codes (n, length) of windows, which may begin before their row and end behind it."""
        places = starts[:, None] + np.arange(length)
        inside = (places >= 0) & (places < self.codes.shape[1])
        found = np.where(inside, self.codes[rows[:, None], places.clip(0, self.codes.shape[1] - 1)], _NONE)
        return np.where(reverse[:, None], _complement(found)[:, ::-1], found)

    def anchors(self, words: Iterable[str]) -> dict[str, NDArray[np.int64]]:
        """The passages that have each k-mer, on either strand."""
        by_size: dict[int, NDArray[np.int64]] = {}
        found = {}
        for word in words:
            k = len(word)
            if k not in by_size:
                by_size[k] = _words(self.codes, k)
            found[word] = np.unique(np.nonzero(np.isin(by_size[k], _numbers(word)))[0])
        return found


def _pieces(start: int, stop: int) -> list[tuple[int, int]]:
    """A stretch in pieces that overlap by the longest motif, so that rows are of like length."""
    return [
        (i, min(i + _PIECE, stop)) for i in range(start, max(stop - _OVERLAP, start + 1), _PIECE - _OVERLAP)
    ]


def _erase(codes: Codes, motif: Motif) -> None:
    """Take the sites of a motif out, weak ones too: else what mutated would be found again."""
    weak = _WEAK * float(motif.log_odds.max(1).sum())
    for site in _sites_in(codes, motif.log_odds, min(motif.threshold, weak)):
        codes[site.sequence, site.start : site.stop] = _NONE


def _words(codes: Codes, k: int) -> NDArray[np.int64]:
    """The number of the k-mer at each place, (N, W - k + 1); -1 with an N in it."""
    n_places = max(codes.shape[1] - k + 1, 0)
    found = np.zeros((len(codes), n_places), dtype=np.int64)
    bad = np.zeros(found.shape, dtype=bool)
    for i in range(k):
        own = codes[:, i : i + n_places]
        found = 4 * found + own
        bad |= own == _NONE
    return np.where(bad, -1, found)


def _numbers(word: str) -> tuple[int, int]:
    """The number of a k-mer, and of its reverse complement; see :func:`_words`."""
    letters = _CODES[np.frombuffer(word.encode("ascii"), np.uint8)].astype(np.int64)
    powers = 4 ** np.arange(len(word) - 1, -1, -1)
    return int(letters @ powers), int((3 - letters[::-1]) @ powers)


def _turned_words(k: int) -> NDArray[np.int64]:
    """Of each k-mer, by its number, that of its reverse complement, (4^k,)."""
    numbers = np.arange(4**k)
    found = np.zeros_like(numbers)
    for i in range(k):
        found = 4 * found + 3 - (numbers >> 2 * i & 3)
    return found


def _count_words(codes: Codes, k: int) -> Doubles:
    """How often each k-mer occurs on either strand, (4^k,); 0 for those that are not canonical."""
    words = _words(codes, k)
    counts = np.bincount(words[words >= 0], minlength=4**k).astype(np.float64)
    numbers, turned = np.arange(4**k), _turned_words(k)
    return np.where(numbers < turned, counts + counts[turned], np.where(numbers == turned, counts, 0.0))


def _outstanding(passages: _Passages, k: int, rates: Doubles) -> dict[str, float]:
    """The k-mers that stand out most from their ``rates``, (4^k,), and by how many deviations (Poisson)."""
    observed = _count_words(passages.codes, k)
    if not observed.any():
        return {}
    expected = observed.sum() * rates
    deviations = (observed - expected) / np.sqrt(expected)
    best = np.argsort(-deviations, kind="stable")[:_MOST_WORDS]
    return {
        "".join(LETTERS[number >> 2 * (k - 1 - i) & 3] for i in range(k)): float(deviations[number])
        for number in best.tolist()
        if deviations[number] > _UNEXPECTED
    }


def _complement(codes: Codes) -> Codes:
    return np.where(codes < _NONE, 3 - codes, _NONE).astype(np.uint8)


def _count(letters: Codes, weights: Doubles | None = None) -> Doubles:
    """How often each letter stands in each column, (length, 4), from codes (n, length)."""
    length = letters.shape[1]
    columns = np.broadcast_to(np.arange(length) * 5, letters.shape)
    repeated = None if weights is None else np.repeat(weights, length)
    counts = np.bincount((columns + letters).ravel(), repeated, minlength=5 * length).reshape(length, 5)
    return np.asarray(counts[:, :4], dtype=np.float64)


def cut_chunks(
    read: ClassRead, threshold: float = 0.5, join: int = 0, flank: int = 0
) -> list[tuple[int, int]]:
    """Start and stop of the runs of bases whose score is above ``threshold``, on the read.

    Runs are joined if no more than ``join`` bases lie between them, and get ``flank`` bases on each side.

    >>> cut_chunks(ClassRead("ACGTACG", np.array([0, 1, 1, 0, 1, 0, 1])), flank=1)
    [(0, 4), (3, 6), (5, 7)]
    """
    kept = np.flatnonzero(read.scores > threshold)
    if not len(kept):
        return []
    breaks = np.flatnonzero(np.diff(kept) > join + 1)
    starts = kept[np.concatenate([[0], breaks + 1])] - flank
    stops = kept[np.concatenate([breaks, [len(kept) - 1]])] + 1 + flank
    ends = stops.clip(max=len(read.sequence))
    return list(zip(starts.clip(0).tolist(), ends.tolist(), strict=True))


# ---------------------------------------------------------------- search


def find_motifs(
    keywords: Mapping[str, float],
    reads: Sequence[ClassRead],
    backgrounds: Mapping[str, Sequence[str]],
    options: MotifOptions = MotifOptions(),
    *,
    seed: int = 0,
) -> list[Motif]:
    """Motifs of one class, those of the smallest p first; all that were tested.

    Parameters
    ----------
    keywords: k-mers (canonical or not) of one length, and their weights; the heaviest are looked at first.
    reads: true positives of the class.
    backgrounds: reads of others by what they are, say "others" and "siblings", best as long as ``reads`` and
        of their composition; an empty one does not count.
    seed: of the halves, and of the draw if passages have too many bases.

    Every motif that comes back is one test: adjust for all classes together, see :func:`adjust_motifs`.
    Without backgrounds, nothing is tested, and p is NaN.
    """
    search = _Search(keywords, reads, backgrounds, options, np.random.default_rng(seed))
    sizes = {len(word) for word in keywords} or {_USUAL_K}
    passages = _Passages(search.reads_to_search(), options, search.rng)
    search.follow(passages, keywords)
    # What else is frequent in the passages may be the parent's, and would hide what is faint.
    search.follow(passages, search.frequent(passages, sizes))
    if options.faint_share and any(map(len, backgrounds.values())):
        passages = _Passages(search.faint_reads(), options, search.rng)
        search.follow(passages, search.unexpected(passages, sizes), faint=True)
    found = sorted(search.motifs, key=lambda motif: (motif.p, -motif.bits))
    return [replace(motif, name=f"motif_{number}") for number, motif in enumerate(found, 1)]


class _Search:
    """The search in one class, whose ``motifs`` grow; see :func:`find_motifs`."""

    def __init__(
        self,
        keywords: Mapping[str, float],
        reads: Sequence[ClassRead],
        backgrounds: Mapping[str, Sequence[str]],
        options: MotifOptions,
        rng: np.random.Generator,
    ) -> None:
        self.rng = rng
        self.motifs: list[Motif] = []
        self._keywords, self._reads, self._options = keywords, reads, options
        self._left = encode([read.sequence for read in reads])  # without sites of the motifs found so far
        self._scores = np.zeros(self._left.shape, dtype=np.float32)
        for row, read in zip(self._scores, reads, strict=True):
            row[: len(read.sequence)] = read.scores
        self._search, self._test = _halves([read.group for read in reads], rng)
        others = {name: encode(own) for name, own in backgrounds.items() if len(own)}
        halves = {name: _halves([""] * len(own), rng) for name, own in others.items()}
        self._others_search = {name: others[name][half[0]] for name, half in halves.items()}
        self._others_test = {name: others[name][half[1]] for name, half in halves.items()}
        self._letters = _frequencies(list(others.values()) or [self._left])

    def reads_to_search(self) -> list[ClassRead]:
        """The half of the reads that motifs are looked for in."""
        return [self._reads[i] for i in self._search]

    def follow(self, passages: _Passages, keywords: Mapping[str, float], *, faint: bool = False) -> None:
        """Grow motifs from keywords, the heaviest first, and test them."""
        options, found = self._options, 0
        anchors = passages.anchors(keywords)
        full = {word: len(own) for word, own in anchors.items()}
        while anchors and found < options.most_motifs:
            # What is left of a keyword, when the motifs found so far have had their share of its places.
            left = {word: keywords[word] * len(own) / max(full[word], 1) for word, own in anchors.items()}
            keyword = min(anchors, key=lambda word: (-left[word], word))
            if len(anchors.pop(keyword)) < max(options.least_sites, _LEFT * full[keyword]):
                continue
            counts = _grow(passages, keyword, self._letters, options)
            if counts is None:
                continue
            own = Motif("", counts, self._letters, is_faint=faint)
            # Sites of earlier motifs do not count again: a piece of one is no other motif.
            own = _set_threshold(own, self._left[self._search], self._others_search, options.least_fold)
            if math.isfinite(own.threshold) and not any(
                _is_same(own, other, options) for other in self.motifs
            ):
                own = self._describe(_test(own, self._left[self._test], self._others_test))
                self.motifs.append(own)
                found += 1
            _erase(passages.codes, own)
            _erase(self._left, own)
            anchors = passages.anchors(anchors)

    def faint_reads(self) -> list[ClassRead]:
        """The reads to search without what was found, scores scaled up so that the highest share is kept.

        What stands beside a site shares in its score, and is left out too.
        """
        left, scores = self._left[self._search], self._scores[self._search].copy()
        taken = left == _NONE
        for _ in range(self._options.flank):
            taken[:, 1:] |= taken[:, :-1].copy()
            taken[:, :-1] |= taken[:, 1:].copy()
        scores[taken] = 0
        least = float(np.quantile(scores[~taken], 1 - self._options.faint_share)) if (~taken).any() else 0.0
        scores = (scores * (self._options.threshold / max(least, 1e-6))).clip(max=1)
        alphabet = np.frombuffer((LETTERS + "N").encode(), dtype=np.uint8)
        return [
            read._replace(
                sequence=alphabet[row[: len(read.sequence)]].tobytes().decode("ascii"),
                scores=score[: len(read.sequence)],
            )
            for read, row, score in zip(self.reads_to_search(), left, scores, strict=True)
        ]

    def frequent(self, passages: _Passages, sizes: Iterable[int]) -> dict[str, float]:
        """k-mers much more frequent in passages than letters in any order would have them."""
        found: dict[str, float] = {}
        for k in sizes:
            rates = self._letters
            for _ in range(k - 1):
                rates = np.outer(rates, self._letters).ravel()
            found |= _outstanding(passages, k, rates + rates[_turned_words(k)])
        return found

    def unexpected(self, passages: _Passages, sizes: Iterable[int]) -> dict[str, float]:
        """k-mers much more frequent in passages than in any background."""
        found: dict[str, float] = {}
        for k in sizes:
            counts = [_count_words(codes, k) + 1.0 for codes in self._others_search.values()]
            found |= _outstanding(passages, k, np.max([own / own.sum() for own in counts], axis=0))
        return found

    def _describe(self, motif: Motif) -> Motif:
        """With its letters counted over all reads, the strand on which it mostly stands, and its members."""
        reads, codes, threshold = self._reads, self._left, self._options.threshold
        sites = _sites_in(codes, motif.log_odds, motif.threshold)
        means = np.array([float(self._scores[s.sequence, s.start : s.stop].mean()) for s in sites])
        kept = [site for site, mean in zip(sites, means, strict=True) if mean > threshold]
        faint = motif.is_faint or len(kept) < self._options.least_sites
        counted = sites if faint else kept
        counts = np.zeros((len(motif), 4))
        for site in counted:
            letters = codes[site.sequence, site.start : site.stop]
            counts[np.arange(len(motif)), 3 - letters[::-1] if site.reverse else letters] += 1
        if 2 * sum(site.reverse for site in counted) > len(counted):
            counts = _turned(counts).copy()
        has = {site.sequence for site in sites}
        members: dict[str, list[bool]] = {}
        for i, read in enumerate(reads):
            if read.member:
                members.setdefault(read.member, []).append(i in has)
        free = codes != _NONE
        for site in sites:
            free[site.sequence, site.start : site.stop] = False
        found = replace(
            motif,
            counts=counts,
            n_sites=len(counted),
            is_faint=faint,
            n_reads=len(reads),
            mask=float(means.mean()) if len(means) else math.nan,
            mask_elsewhere=float(self._scores[free].mean()) if free.any() else math.nan,
            members={name: sum(own) / len(own) for name, own in sorted(members.items())},
        )
        both = (found.consensus, found.reverse_complement().consensus)
        inside = [word for word in self._keywords if any(word in text for text in both)]
        return replace(found, keywords=tuple(sorted(inside, key=lambda word: (-self._keywords[word], word))))


def _halves(groups: Sequence[str], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the reads to search in and to test on.  Groups stay together, if there are four or more."""
    names, number = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < 4:
        number = np.arange(len(groups))
    side = rng.permutation(int(number.max(initial=-1)) + 1) % 2
    return np.flatnonzero(side[number] == 0), np.flatnonzero(side[number] == 1)


def _frequencies(sequences: Sequence[Codes]) -> Doubles:
    """Of the letters, (4,), the same on both strands; none is 0."""
    counts = np.sum([np.bincount(own.ravel(), minlength=5)[:4] for own in sequences], axis=0) + 1.0
    counts = counts + counts[::-1]
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _grow(passages: _Passages, keyword: str, background: Doubles, options: MotifOptions) -> Doubles | None:
    """Counts (L, 4) of the motif around a keyword, or None if it was lost on the way to another motif."""
    k = len(keyword)
    forward, backward = _numbers(keyword)
    words = _words(passages.codes, k)
    rows, places = np.nonzero((words == forward) | (words == backward))
    reverse = words[rows, places] != forward
    windows = passages.letters(rows, places - _REACH, reverse, k + 2 * _REACH)
    counts = _count(_extend(windows, k, options))
    first, end = trim(counts, background, options)
    counts = counts[first:end]
    for _ in range(3):
        counts, (first, end) = _refine(passages, counts, background, options)
        if end - first == len(counts) - 2 * _REACH and first == _REACH:
            break
        counts = counts[first:end]
    counts = counts[first:end]
    consensus = "".join(LETTERS[i] for i in counts.argmax(1))
    return counts if keyword in consensus else None


def _extend(windows: Codes, k: int, options: MotifOptions) -> Codes:
    """Those of the windows around an anchor that agree in some more letters beside it.

    Two motifs may share a k-mer: each letter that most windows agree on makes the anchor longer, and windows
    that have another one are left out.
    """
    first, end = _REACH, _REACH + k
    while end - first < k + _LONGER:
        counts = _count(windows[:, [first - 1, end]])
        side, letter = divmod(int(counts.argmax()), 4)
        most = counts[side, letter]
        if most < max(options.least_sites, _AGREED * counts[side].sum()):
            break
        windows = windows[windows[:, (first - 1, end)[side]] == letter]
        first, end = (first - 1, end) if side == 0 else (first, end + 1)
    return windows


def trim(counts: Doubles, background: Doubles, options: MotifOptions) -> tuple[int, int]:
    """First column and end of the stretch that says most above ``least_bits`` a column.

    What so few sites say by chance is taken off first (Schneider et al. 1986).
    """
    shares = _shares(counts, background)
    by_chance = 1.5 / math.log(2) / np.maximum(counts.sum(1), 1)
    bits = (shares * np.log2(shares / background)).sum(1) - by_chance
    best, span, running, start = -math.inf, (0, 1), 0.0, 0
    for column, value in enumerate((bits - options.least_bits).tolist()):
        if running <= 0:
            running, start = 0.0, column
        running += value
        if running > best and column - start < options.longest:
            best, span = running, (start, column + 1)
    return span


def _refine(
    passages: _Passages, counts: Doubles, background: Doubles, options: MotifOptions
) -> tuple[Doubles, tuple[int, int]]:
    """Expectation maximisation; the letters of the sites with ``_REACH`` columns on each side, and which say
    something."""
    length = len(counts)
    prior = passages.prior(length)
    share = 0.5
    for _ in range(_ROUNDS):
        log_odds = np.log2(_shares(counts, background) / background)
        odds = np.exp2(_scan(passages.codes, log_odds).clip(-60, 200).astype(np.float64))
        odds *= prior / 2 * share
        odds /= odds.sum((0, 2), keepdims=True) + (1 - share)
        share = min(max(float(odds.sum()) / len(passages), 0.01), 0.99)
        strand, rows, places = np.nonzero(odds > 0.01)
        wide = _count(
            passages.letters(rows, places - _REACH, strand == 1, length + 2 * _REACH),
            odds[strand, rows, places],
        )
        before, counts = counts, wide[_REACH : _REACH + length]
        if np.abs(counts - before).max(initial=0.0) < 0.01 * max(float(counts.sum(1).max(initial=0.0)), 1.0):
            break
    return wide, trim(wide, background, options)


# ---------------------------------------------------------------- tests


def _set_threshold(motif: Motif, own: Codes, others: Mapping[str, Codes], fold: float) -> Motif:
    """With the threshold that tells reads of the class best from those of every background.

    Best: by the difference of the shares of reads with a site.  Infinite if nowhere one is ``fold`` times
    the other.
    Without backgrounds: half of what a perfect site has.
    """
    if not others:
        return replace(motif, threshold=float(motif.log_odds.max(1).sum()) / 2)
    scores = np.sort(best_scores(motif, own))
    shares = np.arange(len(scores), 0, -1) / max(len(scores), 1)
    rest = [np.sort(best_scores(motif, codes)) for codes in others.values()]
    against = np.zeros(len(scores))
    for other in rest:
        above = len(other) - np.searchsorted(other, scores, side="left")
        against = np.maximum(against, above / max(len(other), 1))
    gain = np.where((scores > 0) & (shares >= fold * against), shares - against, -1.0)
    if not len(gain) or gain.max() <= 0:
        return replace(motif, threshold=math.inf)
    least = float(scores[gain.argmax()])
    # Half way to the next best read, of whatever class: new reads of the class may score a little lower.
    below = max(float(own[own < least].max(initial=0.0)) for own in (scores, *rest))
    return replace(motif, threshold=(least + below) / 2)


def _test(motif: Motif, own: Codes, others: Mapping[str, Codes]) -> Motif:
    """With shares of reads that have a site, and p."""
    hits = int((best_scores(motif, own) >= motif.threshold).sum())
    shares, p = {}, math.nan if not others else 0.0
    for name, codes in others.items():
        against = int((best_scores(motif, codes) >= motif.threshold).sum())
        shares[name] = against / max(len(codes), 1)
        p = max(p, float(fisher(np.array([hits]), len(own), np.array([against]), len(codes))[0]))
    return replace(motif, share=hits / max(len(own), 1), background_shares=shares, p=p)


def adjust_motifs(motifs: Mapping[str, Sequence[Motif]]) -> dict[str, list[Motif]]:
    """The same with ``q``: p adjusted over the motifs of all classes (Benjamini and Hochberg 1995)."""
    q = adjust_p(np.array([motif.p for own in motifs.values() for motif in own], dtype=np.float64))
    values = iter(q.tolist())
    return {name: [replace(motif, q=next(values)) for motif in own] for name, own in motifs.items()}


# ---------------------------------------------------------------- likeness


class Comparison(NamedTuple):
    """How the second motif lies best on the first.

    ``correlation``: Pearson's, over the letters of the columns in which both stand.  ``shift``: the column of
    the first at which the second begins, which may be negative.  ``reverse``: the second turned round.
    ``overlap``: columns in which both stand.
    """

    correlation: float
    shift: int
    reverse: bool
    overlap: int


def compare(first: Doubles, second: Doubles, min_overlap: int | None = None) -> Comparison:
    """The best alignment of two matrices of probabilities (or counts), (L1, 4) and (L2, 4).

    Every shift on both strands in which at least ``min_overlap`` columns (default: three quarters of the
    shorter one) stand over each other.  Of equals the first.

    Raises ValueError if no shift has so many.
    """
    a = first / first.sum(1, keepdims=True)
    b = second / second.sum(1, keepdims=True)
    shorter = min(len(a), len(b))
    least = max(-(-3 * shorter // 4), 1) if min_overlap is None else min_overlap
    if not 1 <= least <= shorter:
        raise ValueError(f"an overlap of {least} columns was asked for; the shorter motif has {shorter}")
    best = Comparison(-2.0, 0, False, 0)
    for reverse, other in ((False, b), (True, _turned(b))):
        for shift in range(least - len(b), len(a) - least + 1):
            start, stop = max(shift, 0), min(shift + len(b), len(a))
            x = a[start:stop].ravel() - 0.25
            y = other[start - shift : stop - shift].ravel() - 0.25
            norm = math.sqrt(float((x @ x) * (y @ y)))
            correlation = float(x @ y) / norm if norm > 0 else 0.0
            if correlation > best.correlation + 1e-12:
                best = Comparison(correlation, shift, reverse, stop - start)
    return best


def _is_same(first: Motif, second: Motif, options: MotifOptions) -> bool:
    return compare(first.probabilities, second.probabilities).correlation >= options.alike
