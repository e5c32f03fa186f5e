"""The causal check of motifs: hand-built classifiers whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from wyrcli.class_motifs import LETTERS, ClassRead, Motif
from wyrcli.examination import Subject
from wyrcli.motif_effects import Ask, ask_log_odds, measure_effects, paired_effect

TEXT, OTHER = "TCTGCAGCAATTCTCC", "GGACGTTAACCAGTTG"
MOTIF = Motif("m", 50.0 * np.eye(4)[[LETTERS.index(base) for base in TEXT]], threshold=20.0)


def letters(rng: np.random.Generator, n: int) -> str:
    return "".join(LETTERS[i] for i in rng.integers(4, size=n))


def make_reads(seed: int, n: int = 20, pieces: Sequence[str] = (TEXT,), group: str = "") -> list[ClassRead]:
    """Reads of 200 bp with the pieces, 30 bp apart."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        text = letters(rng, 200)
        for i, piece in enumerate(pieces):
            text = text[: 20 + 30 * i] + piece + text[20 + 30 * i + len(piece) :]
        found.append(ClassRead(text, np.ones(200), group))
    return found


OTHERS = [read.sequence for read in make_reads(99, pieces=())]


def counting(*pieces: str) -> Ask:
    """A classifier that adds 4 for every copy of any of the pieces."""

    def ask(sequences: Sequence[str]) -> NDArray[np.float64]:
        return np.array([-2.0 + 4 * sum(text.count(piece) for piece in pieces) for text in sequences])

    return ask


def needing_all(*pieces: str) -> Ask:
    def ask(sequences: Sequence[str]) -> NDArray[np.float64]:
        return np.array([3.0 if all(piece in text for piece in pieces) else -3.0 for text in sequences])

    return ask


def needing_any(*pieces: str) -> Ask:
    def ask(sequences: Sequence[str]) -> NDArray[np.float64]:
        return np.array([3.0 if any(piece in text for piece in pieces) else -3.0 for text in sequences])

    return ask


def test_what_is_counted_raises_and_is_needed() -> None:
    """Two copies are planted, as reads have two: the log-odds rise, and fall, by just 8."""
    found = measure_effects(counting(TEXT), MOTIF, make_reads(0, pieces=(TEXT, TEXT)), OTHERS)
    assert found.copies == 2 and found.verdict() == "raises and is needed"
    assert found.planted.n == found.ablated.n == 20
    assert found.planted[4:7] == (8, 8, 8) and found.ablated[4:7] == (-8, -8, -8)
    assert found.planted.p == found.ablated.p == pytest.approx(1e-4, rel=0.2)
    before, after = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-6))
    assert found.planted[1:4] == pytest.approx((before, after, before))
    assert found.ablated[1:4] == pytest.approx((after, before, after))


@pytest.mark.parametrize(
    ("ask", "pieces", "verdict"),
    [
        (counting(OTHER), (TEXT, OTHER), "no effect"),
        (needing_any(TEXT, OTHER), (TEXT, OTHER), "raises, not needed"),
        (needing_all(TEXT, OTHER), (TEXT, OTHER), "needed, raises nothing alone"),
    ],
    ids=["ignored", "redundant", "together"],
)
def test_verdicts(ask: Ask, pieces: Sequence[str], verdict: str) -> None:
    found = measure_effects(ask, MOTIF, make_reads(1, pieces=pieces), OTHERS, seed=1)
    assert found.verdict() == verdict


def test_a_composition_is_no_motif() -> None:
    """A classifier of letters, not of their order: the control has the same letters, so nothing is left."""

    def ask(sequences: Sequence[str]) -> NDArray[np.float64]:
        return np.array([0.5 * text.count("C") - 20 for text in sequences])

    found = measure_effects(ask, MOTIF, make_reads(2), OTHERS)
    assert found.planted.mean == pytest.approx(0) and found.planted.p > 0.5


def test_what_is_changed() -> None:
    """Ablated: only the sites. Its control: as many letters, nowhere in the sites. The lengths stay."""
    asked: list[list[str]] = []

    def ask(sequences: Sequence[str]) -> NDArray[np.float64]:
        asked.append(list(sequences))
        return np.zeros(len(sequences))

    measure_effects(ask, MOTIF, make_reads(3, 12, (TEXT, TEXT)), OTHERS, most=7)
    neutral, planted, shuffled, own, ablated, control = asked
    assert [len(texts) for texts in asked] == [7] * 6
    assert all(text.count(TEXT) == 2 for text in planted) and not any(TEXT in text for text in neutral)
    for text, other in zip(planted, shuffled, strict=True):
        assert sorted(text) == sorted(other) and TEXT not in other
    sites = {*range(20, 36), *range(50, 66)}
    n_control = 0
    for before, after, elsewhere in zip(own, ablated, control, strict=True):
        assert len(before) == len(after) == len(elsewhere) == 200
        assert {i for i in range(200) if before[i] != after[i]} <= sites
        changed = {i for i in range(200) if before[i] != elsewhere[i]}
        assert not changed & sites and len(changed) <= 32
        n_control += len(changed)
        assert TEXT not in after and elsewhere.count(TEXT) == 2
    assert n_control > 7 * 16  # of 32 letters, three of four change


def test_reads_of_one_genome_are_one_witness() -> None:
    one = measure_effects(counting(TEXT), MOTIF, make_reads(4, group="genome"), OTHERS)
    assert one.ablated.mean == -4 and one.ablated.p > 0.3
    assert one.verdict() == "raises, not needed"


@pytest.mark.parametrize(
    ("reads", "others"),
    [([], []), (make_reads(5, pieces=()), ["ACGT"]), ([ClassRead(TEXT, np.ones(16))], [""])],
    ids=["nothing", "no site", "no room"],
)
def test_nothing_to_measure(reads: list[ClassRead], others: list[str]) -> None:
    found = measure_effects(counting(TEXT), MOTIF, reads, others)
    assert found.planted.n == found.ablated.n == 0
    assert math.isnan(found.planted.mean) and math.isnan(found.ablated.p)
    assert found.verdict() == "no effect"


def test_p_is_uniform_where_there_is_no_effect() -> None:
    rng = np.random.default_rng(6)
    p = []
    for _ in range(60):
        before, after, control = rng.normal(size=(3, 15))
        p.append(paired_effect(before, after, control, [""] * 15, 1, rng).p)
    assert 0.35 < np.mean(p) < 0.65 and 0.03 < np.mean(np.array(p) < 0.1) < 0.2


def test_log_odds_of_one_rank() -> None:
    """Against the definition, within its rank; sure answers are not lost in rounding."""
    rng = np.random.default_rng(7)
    first, second = rng.dirichlet(np.ones(3), size=4), rng.dirichlet(np.ones(2), size=4)
    second[0] = (1 - 1e-20, 1e-20)
    table = np.log(np.concatenate([first, second], axis=1))
    table[0, 3] = 0.0
    stub = SimpleNamespace(
        explanandum=SimpleNamespace(sizes=(3, 2, 1)), log_probabilities=lambda texts: table[: len(texts)]
    )
    subject = cast(Subject, cast(Any, stub))
    found = ask_log_odds(subject, 0, 1)(["A"] * 4)
    assert found == pytest.approx(np.log(first[:, 1] / (1 - first[:, 1])))
    assert ask_log_odds(subject, 0, 1, against=2)(["A"] * 4) == pytest.approx(
        np.log(first[:, 1] / first[:, 2])
    )
    assert ask_log_odds(subject, 1, 0)(["A"])[0] == pytest.approx(20 * math.log(10))
    with pytest.raises(ValueError, match="only class"):
        ask_log_odds(subject, 2, 0)
