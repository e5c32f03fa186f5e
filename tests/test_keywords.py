"""Tallies of terms, their tests, and what is kept: against plain loops and scipy, and on made-up reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from wyrcli.keywords import (
    Asked,
    Criteria,
    Frequencies,
    Keyword,
    Scores,
    mann_whitney,
    poisson_tail,
    pool_scores,
    select_keywords,
)
from wyrcli.metrics import fisher
from wyrcli.taxonomy import Taxonomy
from wyrcli.terms import KmerTerms, Terms, WordTerms, turn_kmer

TAXONOMY = Taxonomy(("phylum", "genus"), (("P", "Q"), ("p1", "p2", "q1", "q2")))
LINEAGES = ((0, 0), (0, 1), (1, 2), (1, 3))
GENUS = {"p1": "ACGTTA", "p2": "CCATGA", "q1": "GATTCC", "q2": "TACCGG"}
PHYLUM = {"P": "GGACTC", "Q": "TGTCAA"}
DECOY = "CTCGTT"


def canonical(kmer: str) -> str:
    """As terms are written."""
    terms = KmerTerms(len(kmer))
    return terms.letters(int(terms.find(kmer).numbers[0]))


def make_reads(n: int, seed: int, length: int = 300) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Reads with one k-mer of their genus, one of their phylum and a decoy; their lineages; places of these.

    The bias of the letters differs from class to class, so that many k-mers are frequent for no other reason.
    """
    rng = np.random.default_rng(seed)
    texts, labels, places = [], [], []
    for i in range(n):
        lineage = LINEAGES[i % 4]
        at = 0.4 + 0.07 * lineage[1] + rng.uniform(-0.05, 0.05)
        text = rng.choice(list("ACGT"), length, p=[at / 2, (1 - at) / 2, (1 - at) / 2, at / 2])
        genus, phylum = TAXONOMY.taxa[1][lineage[1]], TAXONOMY.taxa[0][lineage[0]]
        starts = rng.permutation(length // 10 - 1)[:6] * 10
        for start, kmer in zip(starts, [GENUS[genus]] * 2 + [PHYLUM[phylum]] * 2 + [DECOY] * 2, strict=True):
            text[start : start + 6] = list(kmer)
        texts.append("".join(text))
        labels.append(lineage)
        places.append(starts)
    return texts, np.array(labels), places


def tally(
    texts: Sequence[str],
    labels: np.ndarray,
    places: Sequence[np.ndarray],
    runs: int = 10,
    order: Sequence[int] | None = None,
    terms: Terms | None = None,
) -> tuple[list[Asked], Terms, Frequencies, Scores]:
    """Every class, scored highly where its own, its relatives' and the decoy's k-mers are planted."""
    terms = terms or KmerTerms(6)
    asked = [Asked(r, n) for r, taxa in enumerate(TAXONOMY.taxa) for n in range(len(taxa))]
    frequencies, scores = Frequencies(terms), Scores(len(asked), runs, terms, 10)
    for i in order if order is not None else range(len(texts)):
        frequencies.add(labels[i : i + 1], [texts[i]])
        values = np.random.default_rng([i, 1]).uniform(0, 0.3, len(texts[i]))
        for start in places[i]:
            values[start : start + 6] = 0.9
        found = terms.find(texts[i])
        weights = np.random.default_rng([i, 2]).poisson(1, runs)
        for row, own in enumerate(asked):
            if labels[i, own.rank] == own.number:
                scores.add(row, found.numbers, terms.score(found, values), weights)
    return asked, terms, frequencies, scores


def beside(term: str, planted: str) -> bool:
    """Whether a k-mer is what was planted, or lies one base beside it."""
    both = (planted, turn_kmer(planted))
    return any(term in (one, one[1:] + c, c + one[:-1]) for one in both for c in "ACGT")


def kept(words: Sequence[Keyword]) -> set[str]:
    """The keywords."""
    return {own.term for own in words if own.kept}


# ---------------------------------------------------------------- tests against other code


def test_poisson_tail_is_scipys() -> None:
    """Also of no hit at all."""
    hits, expected = np.array([0, 1, 5, 40]), np.array([2.0, 0.01, 3.0, 20.0])
    assert poisson_tail(hits, expected) == pytest.approx(stats.poisson.sf(hits - 1, expected), rel=1e-9)


def test_fisher_is_scipys() -> None:
    """One-sided, over many tables."""
    rng = np.random.default_rng(0)
    having, others = rng.integers(0, 13, 40), rng.integers(0, 30, 40)
    wanted = [
        stats.fisher_exact([[a, 12 - a], [b, 29 - b]], "greater").pvalue
        for a, b in zip(having, others, strict=True)
    ]
    assert fisher(having, 12, others, 29) == pytest.approx(wanted, rel=1e-9)


def test_mann_whitney_is_scipys() -> None:
    """With ties, from counts by bin; and 1 where all is one tie."""
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(0, 6, (20, 25)), rng.integers(0, 5, (20, 60))
    binned = [np.array([np.bincount(row, minlength=6) for row in part]) for part in (ours, theirs)]
    wanted = [
        stats.mannwhitneyu(a, b, alternative="greater", method="asymptotic").pvalue
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert mann_whitney(*binned) == pytest.approx(wanted, rel=1e-9)
    assert mann_whitney(np.array([[5, 0]]), np.array([[7, 0]])).tolist() == [1.0]


# ---------------------------------------------------------------- tallies


def test_frequencies_are_those_of_a_plain_count() -> None:
    """Reads that have a term, by lineage; all reads are in some bin of every term."""
    texts, labels, _ = make_reads(24, 0)
    for terms in (KmerTerms(3), WordTerms()):
        own = [" ".join(text[i : i + 2] for i in range(0, 20, 2)) for text in texts]
        own = texts if isinstance(terms, KmerTerms) else own
        frequencies = Frequencies(terms)
        frequencies.add(labels[:10], own[:10])
        frequencies.add(labels[10:], own[10:])
        support = frequencies.sum(LINEAGES[:2])
        chosen = [text for text, lineage in zip(own, labels, strict=True) if lineage[0] == 0]
        wanted = np.zeros(len(terms), np.int64)
        for text in chosen:
            wanted[np.unique(terms.find(text).numbers)] += 1
        assert support.n == len(chosen)
        assert support.having.tolist() == wanted.tolist()
        assert (support.binned.sum(1) == support.n).all()


def test_scores_are_those_of_a_plain_count() -> None:
    """Hits, means and spreads of the best occurrence, by Welford as by numpy; words come as they come."""
    rng = np.random.default_rng(0)
    terms = WordTerms()
    scores = Scores(1, 2, terms, 3)
    seen: dict[str, list[float]] = {}
    for _ in range(30):
        words = [f"w{rng.integers(25)}" for _ in range(20)]
        values = rng.random(20).round(4)
        found = terms.find(" ".join(words))
        scores.add(0, found.numbers, values, np.array([1, 2]))
        best: dict[str, float] = {}
        for word, value in zip(words, values.tolist(), strict=True):
            best[word] = max(best.get(word, 0.0), value)
        for word in sorted(best, key=lambda word: -best[word])[: min(3, max(len(best) // 5, 1))]:
            seen.setdefault(word, []).append(best[word])
    mine = scores.of_class(0)
    for number in range(len(terms)):
        values = seen.get(terms.letters(number), [])
        assert mine.hits[number] == len(values)
        assert mine.run_hits[number].tolist() == [len(values), 2 * len(values)]
        if values:
            assert mine.means[number] == pytest.approx(np.mean(values))
            assert mine.deviations[number] == pytest.approx(np.std(values), abs=1e-9)
    assert mine.expected.sum() == pytest.approx(mine.hits.sum())


def test_equal_scores_go_by_place() -> None:
    """Not by the number of the term, which for k-mers is their alphabet."""
    terms = WordTerms()
    terms.find("a b c d e f g h i j")
    scores = Scores(1, 0, terms, 2)
    found = terms.find("j i h g f e d c b a")
    _, best, _ = scores.choose(found.numbers, np.full(10, 0.5) + np.linspace(0, 1e-6, 10))
    assert [terms.letters(number) for number in best.tolist()] == ["j", "i"]


def test_passes_are_pooled() -> None:
    """Two tallies of halves are one of the whole."""
    texts, labels, places = make_reads(40, 3)
    _, terms, _, whole = tally(texts, labels, places)
    halves = [tally(texts[a:b], labels[a:b], places[a:b])[3] for a, b in ((0, 20), (20, 40))]
    pooled = pool_scores([half.of_class(0) for half in halves])
    mine = whole.of_class(0)
    # Scores differ, as their noise goes by the number of the read: what is planted is the same.
    assert pooled.n == mine.n and pooled.having.tolist() == mine.having.tolist()
    both = np.concatenate([half.of_class(0).means for half in halves])
    assert pooled.means.max() <= both.max()
    again = Scores(6, 10, terms, 10)
    again.unpack(whole.pack())
    for old, new in zip(mine, again.of_class(0), strict=True):
        assert np.array_equal(old, new)


# ---------------------------------------------------------------- keywords


@pytest.fixture(scope="module")
def planted() -> tuple[list[Asked], Terms, Frequencies, Scores]:
    """240 reads with planted k-mers."""
    return tally(*make_reads(240, 5))


def test_planted_kmers_are_found_at_their_own_rank(
    planted: tuple[list[Asked], Terms, Frequencies, Scores],
) -> None:
    """All scores point at the k-mers of genus, phylum and decoy alike; the filter tells them apart."""
    asked, terms, frequencies, scores = planted
    found = select_keywords(asked, TAXONOMY, terms, frequencies, [scores], Criteria())
    decoy = canonical(DECOY)
    for own, words in zip(asked, found, strict=True):
        name = TAXONOMY.taxa[own.rank][own.number]
        wanted = canonical((PHYLUM, GENUS)[own.rank][name])
        assert wanted in kept(words) and all(beside(word, wanted) for word in kept(words)), name
        (best,) = [word for word in words if word.term == wanted]
        assert (best.reads, best.share) == (scores.reads[asked.index(own)], 1.0)
        assert best.in_class == 1.0 > best.in_others and best.stable and best.reason == ""
        (rejected,) = [word for word in words if word.term == decoy]
        assert "more frequent" in rejected.reason or "sibling" in rejected.reason
    reasons = {word.term: word.reason for word in found[2]}  # genus p1
    assert reasons[canonical(PHYLUM["P"])] == "as frequent in sibling classes"
    reasons = {word.term: word.reason for word in found[0]}  # phylum P
    assert reasons[canonical(GENUS["p1"])] == "in one child class only"


def test_shuffled_labels_have_no_keywords() -> None:
    """Over 8 shuffles with scores that point at what is planted: false ones are rare, not only few."""
    texts, labels, places = make_reads(240, 6)
    n_false = 0
    for seed in range(8):
        shuffled = labels[np.random.default_rng(seed).permutation(len(labels))]
        asked, terms, frequencies, scores = tally(texts, shuffled, places, runs=3)
        found = select_keywords(asked, TAXONOMY, terms, frequencies, [scores], Criteria(selection=0.0))
        n_false += any(kept(words) for words in found)
    assert n_false <= 2  # with an FDR of 5 %, more than 2 of 8 have a chance of 0.6 %


def test_order_of_reads_does_not_matter(planted: tuple[list[Asked], Terms, Frequencies, Scores]) -> None:
    """Nor how they are split into blocks."""
    texts, labels, places = make_reads(240, 5)
    order = np.random.default_rng(0).permutation(240).tolist()
    turned = tally(texts, labels, places, order=order)
    first, second = (
        [
            (word.name, word.term, word.reads, word.run_share, round(word.q, 9), word.reason)
            for words in select_keywords(own[0], TAXONOMY, *own[1:3], [own[3]], Criteria())
            for word in words
        ]
        for own in (planted, turned)
    )
    assert first == second


def test_unstable_terms_are_told_apart(planted: tuple[list[Asked], Terms, Frequencies, Scores]) -> None:
    """A share that no run can reach leaves all keywords unstable, and nothing else changes."""
    asked, terms, frequencies, scores = planted
    strict = select_keywords(asked, TAXONOMY, terms, frequencies, [scores], Criteria(selection=1.1))
    usual = select_keywords(asked, TAXONOMY, terms, frequencies, [scores], Criteria())
    for ours, theirs in zip(strict, usual, strict=True):
        assert {word.term for word in ours if word.is_unstable} == kept(theirs)
        assert not kept(ours)


def test_contrast_is_against_one_class(planted: tuple[list[Asked], Terms, Frequencies, Scores]) -> None:
    """What the phylum has is no matter between its genera; against another phylum's genus it is."""
    texts, labels, places = make_reads(240, 5)
    terms = KmerTerms(6)
    asked = [Asked(1, 0, 1), Asked(1, 0, 2)]
    _, _, frequencies, full = tally(texts, labels, places, terms=terms)
    scores = Scores(2, 10, terms, 10)
    part = [values.reshape(6, -1)[2] for values in full.pack()]
    scores.unpack([np.concatenate([values, values]) for values in part])
    near, far = select_keywords(asked, TAXONOMY, terms, frequencies, [scores], Criteria())
    assert canonical(GENUS["p1"]) in kept(near)
    assert all(beside(word, GENUS["p1"]) for word in kept(near))
    assert {canonical(GENUS["p1"]), canonical(PHYLUM["P"])} <= kept(far)
    assert all(word.against == "p2" for word in near)


def test_memory_does_not_grow_with_reads() -> None:
    """Ten times the reads, the same arrays."""

    def size(n: int) -> int:
        _, _, frequencies, scores = tally(*make_reads(n, 0))
        arrays = [*vars(frequencies).values(), *vars(scores).values()]
        return sum(own.nbytes for own in arrays if isinstance(own, np.ndarray))

    assert size(400) == size(40)
