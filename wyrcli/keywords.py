"""Which terms speak for a class: tallies over reads, tests, and what is kept.

Two tallies, each of which grows with the vocabulary and the classes and not with the reads:

:class:`Frequencies`   of all reads by their **label**: how many have a term, and how often it stands there
                       beyond what the read's own composition explains.  No model has a say in it.
:class:`Scores`        of the reads whose class was **recognised**: which terms were among the highest scored
                       of their read, and how high.

A term is a keyword of a class if four things are true of it at once, so that the largest of their p counts
(an intersection-union test, Berger 1982), adjusted over all terms of all classes of a rank (Benjamini and
Hochberg 1995):

*scored*    it is among the highest of its read more often than a random choice of that read's terms;
*others*    it is more frequent in reads of the class than in all other reads;
*siblings*  and than in reads of the other classes of the same parent: what a genus shares with its whole
            phylum is the phylum's;
*children*  it is still more frequent than in others whichever of its child classes is left out: what one
            genus brings along is the genus's, not the phylum's.

More frequent is said by the Mann-Whitney test over reads, of how often the term stands there beyond the
read's composition, and of terms that fewer than half of the reads have by Fisher's exact test as well, where
the former is only approximate.  Reads of one genome are no independent witnesses, and these p do not know it;
the runs do, which draw genomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wyrcli.metrics import adjust_p, fisher
from wyrcli.taxonomy import Taxonomy
from wyrcli.terms import Terms

__all__ = [
    "Asked",
    "ClassScores",
    "Criteria",
    "Frequencies",
    "Keyword",
    "Scores",
    "Support",
    "mann_whitney",
    "more_frequent",
    "poisson_tail",
    "pool_scores",
    "select_keywords",
]

Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]

_BIN, _LOWEST, _BINS = 0.5, -2.0, 16  # of how far a count lies beyond what was expected
_FEW = 5  # reads of a class below which nothing is tested on them


def _bins(counts: NDArray[np.integer], expected: Doubles) -> NDArray[np.int64]:
    """Bin of each count: the difference of its and the expectation's variance-stabilised values.

    2 (sqrt(n + 3/8) - sqrt(e + 3/8)) of a Poisson number has a variance near 1 (Anscombe 1948).
    """
    beyond = 2 * (np.sqrt(counts + 0.375) - np.sqrt(expected + 0.375))
    return np.asarray(np.clip(np.floor((beyond - _LOWEST) / _BIN), 0, _BINS - 1), np.int64)


# ---------------------------------------------------------------- tallies


def _grown(array: NDArray[np.generic], size: int, axis: int) -> NDArray[np.generic]:
    """The array with zeros behind it, so that the axis has room for ``size``."""
    if array.shape[axis] >= size:
        return array
    room = list(array.shape)
    room[axis] = max(size, 2 * array.shape[axis]) - array.shape[axis]
    return np.concatenate([array, np.zeros(room, array.dtype)], axis=axis)


class Support(NamedTuple):
    """Of some reads: ``n`` of them; how many have each term, (V,); how many are in each bin, (V, bins)."""

    n: int
    having: Counts
    binned: Counts

    def __add__(self, other: object) -> Support:
        assert isinstance(other, Support)
        return Support(self.n + other.n, self.having + other.having, self.binned + other.binned)

    def __sub__(self, other: Support) -> Support:
        return Support(self.n - other.n, self.having - other.having, self.binned - other.binned)


class Frequencies:
    """Terms in reads, by label.  Memory: lineages times terms, 68 bytes each.

    Parameters
    ----------
    terms: the vocabulary; it may grow.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._rows: dict[tuple[int, ...], int] = {}
        self._n = np.zeros(0, np.int64)
        self._having = np.zeros((0, len(terms)), np.int32)
        self._binned = np.zeros((0, len(terms), _BINS), np.int32)

    def add(self, labels: NDArray[np.integer], texts: Sequence[str]) -> None:
        """Add reads with their classes within the ranks, (B, R)."""
        found = [self._terms.find(text).numbers for text in texts]
        expected = self._terms.expect(texts)
        self._make_room([tuple(own) for own in labels.tolist()])
        for i, numbers in enumerate(found):
            row = self._rows[tuple(labels[i].tolist())]
            self._n[row] += 1
            present, counts = np.unique(numbers, return_counts=True)
            self._having[row, present] += 1
            if expected is None:  # terms that are not there are counted in the end
                self._binned[row, present, _bins(counts, np.zeros(len(counts)))] += 1
            else:
                every = np.zeros(expected.shape[1], np.int64)
                every[present] = counts
                self._binned[row, np.arange(len(every)), _bins(every, expected[i])] += 1

    def _make_room(self, lineages: Sequence[tuple[int, ...]]) -> None:
        for lineage in lineages:
            self._rows.setdefault(lineage, len(self._rows))
        for axis, size in enumerate((len(self._rows), len(self._terms))):
            self._having = _grown(self._having, size, axis)  # type: ignore[assignment]
            self._binned = _grown(self._binned, size, axis)  # type: ignore[assignment]
        self._n = _grown(self._n, len(self._rows), 0)  # type: ignore[assignment]

    def lineages(self) -> list[tuple[int, ...]]:
        """The lineages that have reads."""
        return list(self._rows)

    def sum(self, lineages: Sequence[tuple[int, ...]]) -> Support:
        """Of all reads of some lineages."""
        rows = [self._rows[own] for own in lineages]
        v = len(self._terms)
        self._make_room([])
        n = int(self._n[rows].sum())
        having = self._having[rows, :v].sum(0, dtype=np.int64)
        binned = self._binned[rows, :v].sum(0, dtype=np.int64)
        zero = int(_bins(np.zeros(1, np.int64), np.zeros(1))[0])
        binned[:, zero] += n - binned.sum(1)  # nothing where all terms of a read were counted
        return Support(n, having, binned)


class Scores:
    """Of some classes, the terms that were scored highest in their recognised reads.

    Means and spreads are Welford's (1962).  Memory: classes times terms times (runs + 10) times 4 bytes.

    Parameters
    ----------
    n_classes, n_runs: what is tallied, and how many draws of the reads.
    terms: the vocabulary; it may grow.
    top: so many terms of a read count, and no more than a fifth of those it has.
    """

    _TERMS = ("_having", "_hits", "_expected", "_means", "_squares", "_runs")
    _FIELDS = ("reads", "drawn", *_TERMS)

    def __init__(self, n_classes: int, n_runs: int, terms: Terms, top: int) -> None:
        self.top = top
        self.reads = np.zeros(n_classes, np.int64)
        self.drawn = np.zeros((n_classes, n_runs), np.int64)
        self._terms = terms
        v = len(terms)
        self._having = np.zeros((n_classes, v), np.int32)
        self._hits = np.zeros((n_classes, v), np.int32)
        self._expected = np.zeros((n_classes, v))
        self._means = np.zeros((n_classes, v))
        self._squares = np.zeros((n_classes, v))
        self._runs = np.zeros((n_classes, v, n_runs), np.int32)

    def choose(self, numbers: NDArray[np.int64], scores: Doubles) -> tuple[Counts, Counts, Doubles]:
        """The different terms of a read; which of them score highest, and how high.

        A term's score is that of its best occurrence.  Of equals the first one in the read goes first, and
        scores are equal if their first four decimals are: the rest is rounding, which batches change.
        """
        # By score, then by place; np.unique then keeps the first of each term.
        order = np.argsort(-np.round(scores, 4), kind="stable")
        own, first = np.unique(numbers[order], return_index=True)
        n_top = min(self.top, max(len(own) // 5, 1))
        best = np.argsort(first, kind="stable")[:n_top]
        best = best[scores[order][first[best]] > 0]
        return own, own[best], scores[order][first[best]]

    def add(self, row: int, numbers: NDArray[np.int64], scores: Doubles, weights: Counts) -> None:
        """Add a read of class ``row``: its terms with their scores, and how often each run drew it."""
        self._make_room()
        self.reads[row] += 1
        self.drawn[row] += weights
        if len(numbers) == 0:
            return
        own, best, values = self.choose(numbers, scores)
        self._having[row, own] += 1
        self._expected[row, own] += len(best) / len(own)
        self._hits[row, best] += 1
        step = values - self._means[row, best]
        self._means[row, best] += step / self._hits[row, best]
        self._squares[row, best] += step * (values - self._means[row, best])
        self._runs[row, best] += weights.astype(np.int32)

    def of_class(self, row: int) -> ClassScores:
        """What is known of one class."""
        self._make_room()
        v = len(self._terms)
        hits = self._hits[row, :v].astype(np.int64)
        return ClassScores(
            int(self.reads[row]),
            self._having[row, :v].astype(np.int64),
            hits,
            self._expected[row, :v],
            self._means[row, :v],
            np.sqrt(self._squares[row, :v] / np.maximum(hits, 1)),
            self.drawn[row],
            self._runs[row, :v].astype(np.int64),
        )

    def pack(self) -> list[Doubles]:
        """All of it as arrays of one dimension; :meth:`unpack` takes them back."""
        return [np.asarray(getattr(self, name), np.float64).ravel() for name in self._FIELDS]

    def unpack(self, arrays: Sequence[Doubles]) -> None:
        """Replace what this tally of the same classes, runs and terms holds."""
        self._make_room()
        for name, values in zip(self._FIELDS, arrays, strict=True):
            own = getattr(self, name)
            setattr(self, name, values.reshape(own.shape).astype(own.dtype))

    def _make_room(self) -> None:
        for name in self._TERMS:
            setattr(self, name, _grown(getattr(self, name), len(self._terms), 1))


class ClassScores(NamedTuple):
    """Of the recognised reads of one class, by term (V,).

    ``n``: reads;  ``having``: those that have the term;  ``hits``: those in which it is among the highest;
    ``expected``: hits of a random choice;  ``means``, ``deviations``: of its score where it hits;
    ``drawn`` (runs,): reads that each run drew;  ``run_hits`` (V, runs).
    """

    n: int
    having: Counts
    hits: Counts
    expected: Doubles
    means: Doubles
    deviations: Doubles
    drawn: Counts
    run_hits: Counts

    def p_scored(self) -> Doubles:
        """p that each term hits more often than by chance, (V,)."""
        return poisson_tail(self.hits, self.expected)

    def selected(self, fdr: float) -> NDArray[np.bool_]:
        """Which terms each run selects by the same test on the reads that it drew, (V, runs)."""
        found = np.zeros(self.run_hits.shape, np.bool_)
        rows = np.flatnonzero(self.having > 0)
        for run, drawn in enumerate(self.drawn.tolist()):
            p = poisson_tail(self.run_hits[rows, run], self.expected[rows] * (drawn / max(self.n, 1)))
            found[rows, run] = adjust_p(p) <= fdr
        return found


def pool_scores(parts: Sequence[ClassScores]) -> ClassScores:
    """Several passes as one: their reads, hits and runs together."""
    hits = np.stack([own.hits for own in parts])
    total = np.maximum(hits.sum(0), 1)
    means = (hits * np.stack([own.means for own in parts])).sum(0) / total
    squares = sum(own.hits * (own.deviations**2 + (own.means - means) ** 2) for own in parts)
    return ClassScores(
        sum(own.n for own in parts),
        np.sum([own.having for own in parts], axis=0),
        hits.sum(0),
        np.sum([own.expected for own in parts], axis=0),
        means,
        np.sqrt(squares / total),
        np.concatenate([own.drawn for own in parts]),
        np.concatenate([own.run_hits for own in parts], axis=1),
    )


# ---------------------------------------------------------------- tests


def poisson_tail(hits: Counts, expected: Doubles) -> Doubles:
    """Probability of so many hits or more.

    That of a sum of independent hits with different chances is no larger, beyond the expectation
    (Hoeffding 1956).

    >>> poisson_tail(np.array([0, 1]), np.array([0.5, 0.5])).round(4).tolist()
    [1.0, 0.3935]
    """
    a = torch.from_numpy(np.maximum(hits, 1).astype(np.float64))
    tail = torch.special.gammainc(a, torch.from_numpy(np.asarray(expected, np.float64))).numpy()
    return np.where(hits > 0, tail, 1.0)


def mann_whitney(ours: Counts, theirs: Counts) -> Doubles:
    """One-sided p that ours are larger, (V,), from counts by bin, (V, bins) each; ties are heeded.

    By the normal approximation with the correction for continuity (Mann and Whitney 1947).
    """
    n, m = ours.sum(1).astype(np.float64), theirs.sum(1).astype(np.float64)
    below = np.cumsum(theirs, 1) - theirs
    u = (ours * (below + theirs / 2.0)).sum(1)  # pairs in which ours is larger, ties as half
    together = (ours + theirs).astype(np.float64)
    total = n + m
    with np.errstate(divide="ignore", invalid="ignore"):
        ties = (together**3 - together).sum(1) / (total * (total - 1))
        variance = n * m / 12 * (total + 1 - ties)
        z = (u - n * m / 2 - 0.5) / np.sqrt(variance)
    z = np.where(variance > 1e-9, z, 0.0)
    tail = torch.special.ndtr(torch.from_numpy(-z)).numpy()
    return np.where(variance > 1e-9, tail, 1.0)


def more_frequent(ours: Support, theirs: Support) -> Doubles:
    """p that terms are more frequent in our reads, (V,); see the top of this module."""
    p = mann_whitney(ours.binned, theirs.binned)
    rare = 2 * (ours.having + theirs.having) < ours.n + theirs.n
    exact = fisher(np.where(rare, ours.having, 0), ours.n, theirs.having, theirs.n)
    return np.where(rare, np.maximum(p, exact), p)


# ---------------------------------------------------------------- keywords


@dataclass(frozen=True)
class Criteria:
    """What a keyword must fulfil.

    ``fdr``: largest adjusted p.  ``selection``: least share of the runs that select it.
    """

    fdr: float = 0.05
    selection: float = 0.6


@dataclass(frozen=True)
class Keyword:
    """One term and one class.

    Parameters
    ----------
    rank, name: the class.  ``against``: the class it is held against, or nothing.
    term, partner: letters, and those of the reverse complement.
    reads: recognised reads in which it is among the highest; ``share``: of all that are recognised.
    mean, deviation: of its score there.
    runs, run_share: how many there were, and the share that selected it.
    having: share of recognised reads that have it.
    in_class, in_others, in_siblings: share of the reads with these labels that have it; NaN where none are.
    p: by test, ``scored``, ``others``, ``siblings``, ``children``; NaN where it could not be made.
    q: the largest of them, adjusted.
    stable, kept: selected in enough runs; and q small enough.
    reason: why it is not kept.
    """

    rank: str
    name: str
    against: str
    term: str
    partner: str
    reads: int
    share: float
    mean: float
    deviation: float
    runs: int
    run_share: float
    having: float
    in_class: float
    in_others: float
    in_siblings: float
    p: Mapping[str, float]
    q: float
    stable: bool
    kept: bool
    reason: str
    number: int = -1

    @property
    def is_unstable(self) -> bool:
        """Whether nothing but the runs speaks against it."""
        return self.reason.startswith(_UNSTABLE)

    @property
    def weight(self) -> float:
        """Mean score over all recognised reads, 0 where it is not among the highest: sorts keywords."""
        return self.mean * self.share


class Asked(NamedTuple):
    """A class within a rank that is asked about; ``against``: the only class it is held against, or None."""

    rank: int
    number: int
    against: int | None = None


def select_keywords(
    asked: Sequence[Asked],
    taxonomy: Taxonomy,
    terms: Terms,
    frequencies: Frequencies,
    passes: Sequence[Scores],
    criteria: Criteria,
) -> list[list[Keyword]]:
    """Of each class all terms that its scores single out, best first, with what became of each.

    ``passes``: one tally per Explainer, whose rows are those of ``asked``.  Of several, the median p counts.
    """
    lines = [
        _test_class(own, [scores.of_class(row) for scores in passes], frequencies, criteria)
        for row, own in enumerate(asked)
    ]
    # Adjusted within a rank: what is asked at one must not change what is found at another.
    found: list[list[Keyword]] = [[] for _ in asked]
    for rank in dict.fromkeys(own.rank for own in asked):
        group = {row: line for row, line in enumerate(lines) if line is not None and line.asked.rank == rank}
        q = adjust_p(np.concatenate([np.zeros(0), *(line.p for line in group.values())]))
        ends = np.cumsum([0, *(len(line.p) for line in group.values())])
        for (row, line), first, end in zip(group.items(), ends[:-1], ends[1:], strict=True):
            found[row] = _write_class(line, q[first:end], taxonomy, terms, criteria)
    return found


class _Line(NamedTuple):
    """A class with its tests: ``tested`` are the terms, ``p`` the largest of ``tests`` (of terms that are not
    scored often enough, 1: they can be no keyword)."""

    asked: Asked
    scores: ClassScores
    supports: tuple[Support, Support, Support | None]
    run_share: Doubles
    tested: Counts
    p: Doubles
    tests: dict[str, Doubles]


def _test_class(
    own: Asked, parts: Sequence[ClassScores], frequencies: Frequencies, criteria: Criteria
) -> _Line | None:
    """All tests of one class; None where there are no reads to test."""
    r = own.rank
    every = frequencies.lineages()
    mine = [lineage for lineage in every if lineage[r] == own.number]
    others = [lineage for lineage in every if lineage[r] != own.number]
    if own.against is not None:
        others = [lineage for lineage in every if lineage[r] == own.against]
    scores = pool_scores(parts)
    if not mine or not others or scores.n == 0:
        return None
    parents = {lineage[:r] for lineage in mine}
    siblings = [lineage for lineage in others if lineage[:r] in parents]
    ours, theirs = frequencies.sum(mine), frequencies.sum(others)
    near = frequencies.sum(siblings) if r and own.against is None and siblings else None
    tested = np.flatnonzero(scores.having > 0)
    scored = np.median([part.p_scored()[tested] for part in parts], axis=0)
    tests = {name: np.full(len(tested), np.nan) for name in ("others", "siblings", "children")}
    # What fails here cannot pass by the others: they are spared.
    passing = np.flatnonzero(scored <= criteria.fdr)
    chosen = tested[passing]
    tests["others"][passing] = more_frequent(_of_terms(ours, chosen), _of_terms(theirs, chosen))
    if near is not None and near.n >= _FEW:
        tests["siblings"][passing] = more_frequent(_of_terms(ours, chosen), _of_terms(near, chosen))
    if own.against is None and len(every) and r + 1 < len(every[0]):
        by_child: dict[int, list[tuple[int, ...]]] = {}
        for lineage in mine:
            by_child.setdefault(lineage[r + 1], []).append(lineage)
        rests = [ours - frequencies.sum(lineages) for lineages in by_child.values()]
        rests = [rest for rest in rests if _FEW <= rest.n <= ours.n - _FEW]
        if rests:
            outside = _of_terms(theirs, chosen)
            each = [more_frequent(_of_terms(rest, chosen), outside) for rest in rests]
            tests["children"][passing] = np.max(each, axis=0)
    tests = {"scored": scored, **tests}
    p = np.ones(len(tested))
    p[passing] = np.nanmax(np.stack([own[passing] for own in tests.values()]), axis=0)
    run_share = np.mean(np.concatenate([part.selected(criteria.fdr) for part in parts], axis=1), axis=1)
    return _Line(own, scores, (ours, theirs, near), run_share, tested, p, tests)


def _of_terms(support: Support, numbers: Counts) -> Support:
    return Support(support.n, support.having[numbers], support.binned[numbers])


_UNSTABLE = "selected by"
_FAILURES = {
    "scored": "scored highly too rarely",
    "others": "not more frequent than in other classes",
    "siblings": "as frequent in sibling classes",
    "children": "in one child class only",
}


def _write_class(
    line: _Line, q: Doubles, taxonomy: Taxonomy, terms: Terms, criteria: Criteria
) -> list[Keyword]:
    own, scores = line.asked, line.scores
    ours, theirs, near = line.supports
    taxa = taxonomy.taxa[own.rank]
    n_runs = len(scores.drawn)
    candidates = adjust_p(line.tests["scored"]) <= criteria.fdr
    candidates |= line.run_share[line.tested] >= criteria.selection
    found = []
    for i in np.flatnonzero(candidates).tolist():
        v = int(line.tested[i])
        p = {name: float(values[i]) for name, values in line.tests.items()}
        stable = bool(line.run_share[v] >= criteria.selection)
        reason = ""
        if not q[i] <= criteria.fdr:
            # The first test that fails by itself; if none does but for the adjustment, the weakest.
            failed = [name for name in p if p[name] > criteria.fdr]
            weakest = max(p, key=lambda name: -1.0 if np.isnan(p[name]) else p[name])
            reason = _FAILURES[failed[0] if failed else weakest]
        elif not stable:
            reason = f"{_UNSTABLE} {line.run_share[v]:.0%} of the runs"
        found.append(
            Keyword(
                rank=taxonomy.ranks[own.rank],
                name=taxa[own.number],
                against="" if own.against is None else taxa[own.against],
                term=terms.letters(v),
                partner=terms.partner(v),
                reads=int(scores.hits[v]),
                share=float(scores.hits[v] / scores.n),
                mean=float(scores.means[v]),
                deviation=float(scores.deviations[v]),
                runs=n_runs,
                run_share=float(line.run_share[v]),
                having=float(scores.having[v] / scores.n),
                in_class=float(ours.having[v] / ours.n),
                in_others=float(theirs.having[v] / theirs.n),
                in_siblings=float(near.having[v] / near.n) if near is not None else float("nan"),
                p=p,
                q=float(q[i]),
                stable=stable,
                kept=not reason,
                reason=reason,
                number=v,
            )
        )
    return sorted(found, key=lambda keyword: (-round(keyword.weight, 9), keyword.term))
