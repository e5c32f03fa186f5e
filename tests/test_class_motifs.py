"""Motifs of classes: what was planted is found, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wyrcli.class_motifs import (
    LETTERS,
    ClassRead,
    Motif,
    MotifOptions,
    adjust_motifs,
    best_scores,
    compare,
    cut_chunks,
    encode,
    find_motifs,
    find_sites,
)

COMPLEMENT = str.maketrans("ACGT", "TGCA")
PLANTED = "TCTGCAGCAATTCTCCGATA"
OTHER = "GGACGTTAACCAGTTGCATG"


def turned(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]


def letters(rng: np.random.Generator, n: int) -> str:
    return "".join(LETTERS[i] for i in rng.integers(4, size=n))


def mutated(rng: np.random.Generator, motif: str, rate: float = 0.05) -> str:
    return "".join(LETTERS[rng.integers(4)] if rng.random() < rate else base for base in motif)


def make_read(
    rng: np.random.Generator,
    motif: str | None,
    *,
    n: int = 300,
    strand: str = "+",
    kept: float = 0.9,
    **more: str,
) -> ClassRead:
    """A random read with one copy of a motif, over which the mask is ``kept``; 0.1 elsewhere."""
    text, scores = letters(rng, n), np.full(n, 0.1, dtype=np.float32)
    place = int(rng.integers(20, n - 60))
    if motif is not None:
        copy = mutated(rng, motif)
        copy = turned(copy) if strand == "-" or (strand == "?" and rng.random() < 0.5) else copy
        text = text[:place] + copy + text[place + len(copy) :]
    scores[place - 3 : place + 26] = kept
    return ClassRead(text, scores, **more)


def words(*motifs: str) -> dict[str, float]:
    """The 6-mers of motifs, as canonical k-mers."""
    found = [motif[i : i + 6] for motif in motifs for i in range(len(motif) - 5)]
    return {min(word, turned(word)): 1.0 for word in found}


def one_hot(motif: str) -> NDArray[np.float64]:
    return np.eye(4)[[LETTERS.index(base) for base in motif]]


@pytest.fixture(scope="module")
def background() -> Mapping[str, Sequence[str]]:
    rng = np.random.default_rng(99)
    return {"others": [letters(rng, 300) for _ in range(120)]}


@pytest.mark.parametrize("strand", ["+", "?"])
def test_a_planted_motif_is_found_whole(background: Mapping[str, Sequence[str]], strand: str) -> None:
    """From 6-mers to all its 20 columns, on either strand, mutated; nothing else is kept."""
    rng = np.random.default_rng(1)
    reads = [make_read(rng, PLANTED, strand=strand) for _ in range(80)]
    found = adjust_motifs({"x": find_motifs(words(PLANTED), reads, background)})["x"]
    kept = [motif for motif in found if motif.is_kept()]
    assert len(kept) == 1
    (motif,) = kept
    likeness = compare(one_hot(PLANTED), motif.probabilities, 20)
    assert likeness.correlation > 0.97 and likeness.overlap == 20
    assert abs(len(motif) - len(PLANTED)) <= 2
    assert motif.share > 0.9 and motif.background_shares["others"] < 0.05
    assert motif.n_reads == 80 and 70 <= motif.n_sites <= 90
    assert motif.mask > 0.85 and motif.mask_elsewhere < 0.2 and not motif.is_faint
    assert 25 < motif.bits < 40 and set(words(PLANTED)) == set(motif.keywords)
    assert motif.name == "motif_1"


def test_the_other_strand_gives_the_motif_turned_round(background: Mapping[str, Sequence[str]]) -> None:
    rng = np.random.default_rng(2)
    reads = [make_read(rng, PLANTED) for _ in range(60)]
    back = [ClassRead(turned(read.sequence), read.scores[::-1]) for read in reads]
    one = find_motifs(words(PLANTED), reads, background)[0]
    two = find_motifs(words(PLANTED), back, background)[0]
    assert one.consensus in PLANTED or PLANTED in one.consensus
    likeness = compare(one.probabilities, two.reverse_complement().probabilities, len(PLANTED))
    assert likeness.correlation > 0.999 and not likeness.reverse
    assert turned(PLANTED[2:-2]) in two.consensus


def test_noise_gives_no_motif() -> None:
    """Keywords, masks and reads by chance: nothing passes at a false discovery rate of 5 %."""
    rng = np.random.default_rng(3)
    found = {}
    for name in "abcde":
        reads = [ClassRead(letters(rng, 200), np.full(200, 0.9)) for _ in range(100)]
        others = {"others": [letters(rng, 200) for _ in range(100)]}
        keywords = {word: 1.0 for word in words(letters(rng, 40))}
        found[name] = find_motifs(keywords, reads, others, MotifOptions(least_sites=3, least_fold=1.2))
    every = [motif for own in adjust_motifs(found).values() for motif in own]
    assert len(every) >= 8, "little was tested"
    assert not [motif for motif in every if motif.is_kept(fold=1.2)]
    assert 0.3 < np.mean([motif.p for motif in every]) < 0.9


def test_what_siblings_have_is_not_reported() -> None:
    """A motif of the parent: no other class has it, but the sister classes do."""
    rng = np.random.default_rng(4)
    reads = [make_read(rng, OTHER) for _ in range(60)]
    others = [letters(rng, 300) for _ in range(100)]
    siblings = [make_read(rng, OTHER).sequence for _ in range(60)]
    alone = adjust_motifs({"x": find_motifs(words(OTHER), reads, {"others": others})})["x"]
    assert [motif.is_kept() for motif in alone] == [True]
    both = adjust_motifs({"x": find_motifs(words(OTHER), reads, {"others": others, "siblings": siblings})})[
        "x"
    ]
    assert not [motif for motif in both if motif.is_kept()]


def test_what_one_member_has_is_narrow(background: Mapping[str, Sequence[str]]) -> None:
    """A genus's motif among those of its superkingdom is told from that which all its genera have."""
    rng = np.random.default_rng(5)
    reads = [make_read(rng, PLANTED, member=f"genus{i % 4}") for i in range(100)]
    second = [make_read(rng, OTHER) for _ in range(100)]
    joined = [
        ClassRead(a.sequence + b.sequence, np.concatenate([a.scores, b.scores]), member=a.member)
        if a.member == "genus1"
        else a
        for a, b in zip(reads, second, strict=True)
    ]
    found = adjust_motifs({"x": find_motifs(words(PLANTED, OTHER), joined, background)})["x"]
    broad = [motif for motif in found if compare(one_hot(PLANTED), motif.probabilities).correlation > 0.9]
    narrow = [motif for motif in found if compare(one_hot(OTHER), motif.probabilities).correlation > 0.9]
    assert len(broad) == len(narrow) == 1
    assert broad[0].is_kept() and not broad[0].is_narrow
    assert narrow[0].is_narrow and not narrow[0].is_kept()
    assert narrow[0].members["genus1"] > 0.9 and narrow[0].members["genus2"] < 0.1


def test_two_motifs_that_share_a_word_stay_two(background: Mapping[str, Sequence[str]]) -> None:
    rng = np.random.default_rng(6)
    first, second = "ACGTTGCA" + "CCGGAT" + "TTACGGA", "GGTACATT" + "CCGGAT" + "CAATTCC"
    reads = [make_read(rng, first if i % 2 else second) for i in range(140)]
    keywords = words(first, second) | {"ATCCGG": 5.0}  # the word they share is looked at first
    found = adjust_motifs({"x": find_motifs(keywords, reads, background)})["x"]
    for planted in (first, second):
        assert max(compare(one_hot(planted), motif.probabilities, 20).correlation for motif in found) > 0.95


@pytest.mark.parametrize("some", [True, False])
def test_a_faint_motif(background: Mapping[str, Sequence[str]], some: bool) -> None:
    """The mask is low, but nowhere else so high, and no keyword is of it: found, and called faint."""
    rng = np.random.default_rng(7)
    reads = []
    for _ in range(80):
        read = make_read(rng, PLANTED, kept=0.3)
        reads.append(read._replace(scores=read.scores * rng.uniform(0.9, 1.0, size=300).astype(np.float32)))
    keywords = words(OTHER) if some else {}
    found = adjust_motifs({"x": find_motifs(keywords, reads, background)})["x"]
    assert [motif.is_faint for motif in found if motif.is_kept()] == [True]
    assert compare(one_hot(PLANTED), found[0].probabilities, 18).correlation > 0.95
    assert found[0].mask < 0.4 and found[0].keywords == ()
    assert not find_motifs(keywords, reads, background, MotifOptions(faint_share=0))


def test_reads_of_one_group_are_never_on_both_sides() -> None:
    """A motif of one genome only is searched in or tested on, so that it never passes."""
    rng = np.random.default_rng(8)
    reads = [make_read(rng, PLANTED if i % 5 == 0 else None, group=f"genome{i % 5}") for i in range(200)]
    others = {"others": [letters(rng, 300) for _ in range(100)]}
    for seed in range(4):
        found = adjust_motifs({"x": find_motifs(words(PLANTED), reads, others, seed=seed)})["x"]
        assert not [motif for motif in found if motif.is_kept()]


def test_without_backgrounds_nothing_is_tested() -> None:
    rng = np.random.default_rng(9)
    reads = [make_read(rng, PLANTED) for _ in range(60)]
    (motif,) = find_motifs(words(PLANTED), reads, {"others": []})
    assert math.isnan(motif.p) and not motif.is_kept()
    assert compare(one_hot(PLANTED), motif.probabilities, 20).correlation > 0.95
    (again,) = adjust_motifs({"x": [motif]})["x"]
    assert math.isnan(again.q)


@pytest.mark.parametrize(
    "reads",
    [
        [],
        [ClassRead("", np.empty(0))] * 9,
        [ClassRead("ACG", np.ones(3))] * 20,
        [ClassRead("N" * 50, np.ones(50))] * 20,
        [ClassRead("ACGT" * 9, np.zeros(36))] * 20,
    ],
    ids=["none", "empty", "short", "N", "nothing kept"],
)
def test_nothing_to_find(reads: list[ClassRead], background: Mapping[str, Sequence[str]]) -> None:
    assert find_motifs(words(PLANTED), reads, background) == []
    assert find_motifs({}, reads, background) == []


def test_the_same_again(background: Mapping[str, Sequence[str]]) -> None:
    rng = np.random.default_rng(10)
    reads = [make_read(rng, PLANTED) for _ in range(50)]
    one, two = (find_motifs(words(PLANTED), reads, background, seed=3) for _ in range(2))
    assert [m.counts.tolist() for m in one] == [m.counts.tolist() for m in two]


# ---------------------------------------------------------------- parts


def slow_sites(motif: Motif, text: str) -> Iterator[tuple[float, int, bool]]:
    for start in range(len(text) - len(motif) + 1):
        for reverse in (False, True):
            piece = text[start : start + len(motif)]
            piece = turned(piece) if reverse else piece
            if "N" not in piece:
                bits = sum(motif.log_odds[i, LETTERS.index(base)] for i, base in enumerate(piece))
                yield float(bits), start, reverse


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 11))
def test_scan_is_a_sum_over_letters(seed: int, length: int) -> None:
    """Every place, both strands, N excluded, against a loop; no two sites overlap, and none is missed."""
    rng = np.random.default_rng(seed)
    motif = Motif("m", rng.integers(0, 9, size=(length, 4)).astype(np.float64))
    texts = ["".join("ACGTN"[i] for i in rng.choice(5, p=[0.24] * 4 + [0.04], size=n)) for n in (30, 12, 0)]
    scores = [dict(((s, r), b) for b, s, r in slow_sites(motif, text)) for text in texts]
    best = best_scores(motif, encode(texts))
    for own, value in zip(scores, best.tolist(), strict=True):
        if own:
            assert value == pytest.approx(max(own.values()), abs=1e-4)
        else:
            assert value < -90
    motif = Motif("m", motif.counts, threshold=1.0)
    sites = find_sites(motif, texts)
    for i, own in enumerate(scores):
        mine = [site for site in sites if site.sequence == i]
        for site in mine:
            assert site.bits == pytest.approx(own[site.start, site.reverse], abs=1e-4)
            assert site.bits >= 1 - 1e-4
        assert all(b.start - a.start >= length for a, b in pairwise(mine))
        for (start, _), bits in own.items():
            near = [site.bits for site in mine if abs(site.start - start) < length]
            assert bits < 1 + 1e-4 or max(near, default=-9) >= bits - 1e-4


@given(st.integers(0, 10_000))
def test_compare_finds_the_shift_and_the_strand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.dirichlet([0.3] * 4, size=14)
    part = matrix[3:12]
    assert compare(matrix, part)[:3] == (pytest.approx(1.0), 3, False)
    assert compare(matrix, part[::-1, ::-1])[:3] == (pytest.approx(1.0), 3, True)
    assert compare(part, matrix)[1:] == (-3, False, 9)
    other = rng.dirichlet([0.3] * 4, size=10)
    there, back = compare(matrix, other), compare(other, matrix)
    assert there.correlation == pytest.approx(back.correlation) and there.overlap == back.overlap


def test_compare_is_pearson() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet([1] * 4, size=8), rng.dirichlet([1] * 4, size=8)
    found = compare(a, b, 8)
    either = [np.corrcoef(a.ravel(), other.ravel())[0, 1] for other in (b, b[::-1, ::-1])]
    assert found.correlation == pytest.approx(max(either))
    with pytest.raises(ValueError, match="overlap of 9"):
        compare(a, b, 9)


def test_adjusted_over_all_classes() -> None:
    """Against the definition: the smallest over larger p of p times tests over rank."""
    rng = np.random.default_rng(0)
    p = rng.uniform(size=12) ** 3
    motifs = {
        name: [Motif("m", np.ones((2, 4)), p=float(v)) for v in p[i : i + 4]]
        for i, name in [(0, "a"), (4, "b"), (8, "c")]
    }
    q = [motif.q for own in adjust_motifs(motifs).values() for motif in own]
    ranks = p.argsort().argsort() + 1
    for value, found in zip(p, q, strict=True):
        assert found == pytest.approx(
            min(min(1, x * 12 / r) for x, r in zip(p, ranks, strict=True) if x >= value)
        )


def test_matrix_numbers() -> None:
    motif = Motif("m", np.array([[8.0, 0, 0, 0], [4, 4, 0, 0], [2, 2, 2, 2]]))
    assert motif.consensus == "AAA" and len(motif) == 3
    assert np.allclose(motif.probabilities.sum(1), 1)
    assert motif.information[2] == pytest.approx(0) and 0.6 < motif.information[1] < 1
    assert motif.bits == pytest.approx(motif.information.sum())
    assert motif.reverse_complement().consensus[-1] == "T"
    back = motif.reverse_complement().reverse_complement()
    assert np.array_equal(back.counts, motif.counts)


def test_chunks() -> None:
    scores = np.array([0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.6])
    read = ClassRead("ACGTACGT", scores)
    assert cut_chunks(read) == [(0, 2), (3, 4), (7, 8)]
    assert cut_chunks(read, join=1) == [(0, 4), (7, 8)]
    assert cut_chunks(read, 0.7, join=1, flank=3) == [(0, 7)]
    assert cut_chunks(read, 0.95) == []


def test_a_mask_that_keeps_everything(background: Mapping[str, Sequence[str]]) -> None:
    """Long passages go in pieces, and some are drawn where there are too many; the motif is found."""
    rng = np.random.default_rng(11)
    reads = [make_read(rng, PLANTED, n=900, kept=1.0)._replace(scores=np.ones(900)) for _ in range(80)]
    found = adjust_motifs(
        {"x": find_motifs(words(PLANTED), reads, background, MotifOptions(most_bases=20_000))}
    )["x"]
    kept = [motif for motif in found if motif.is_kept()]
    assert len(kept) == 1 and compare(one_hot(PLANTED), kept[0].probabilities, 20).correlation > 0.95
