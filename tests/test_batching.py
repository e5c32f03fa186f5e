"""Which windows make up each step, whoever computes it and wherever one begins."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from toy import MIXED, TOKENIZER, Labelled, labelled

from wyrcli.batching import Piece, Plan, balance, cut_at_random, cut_pieces, turn_round
from wyrcli.errors import InputError
from wyrcli.packing import LazyStrings

Lengths = NDArray[np.int64]


def draw_lengths(n: int, seed: int = 0) -> Lengths:
    """Lengths between 200 and 1,500, as windows of short contigs have."""
    return np.random.default_rng(seed).integers(200, 1501, n)


def mixed(n: int) -> Labelled:
    """Windows of many lengths, each known by its label; there are N in them, and empty ones."""
    texts = [MIXED[i % len(MIXED)] for i in range(n)]
    return Labelled(texts, np.stack([np.arange(n), np.arange(n) % 3], axis=1))


def texts_of(piece: Piece) -> list[str]:
    """Sequences back from token ids."""
    words = TOKENIZER.vocabulary
    rows = piece.batch.ids.tolist()
    return ["".join(words[i] for i in row if not words[i].startswith("<")) for row in rows]


# ---------------------------------------------------------------- plans


@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 3),
    bucketed=st.booleans(),
)
def test_every_window_once_an_epoch(n: int, batch_size: int, seed: int, bucketed: bool) -> None:
    """All steps are full but one, which takes the rest."""
    plan = Plan(n, batch_size, seed, draw_lengths(n) if bucketed else None)
    assert plan.steps_per_epoch == -(-n // batch_size)
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [plan.rows(step) for step in steps]
        assert sorted(np.concatenate(batches).tolist()) == list(range(n))
        sizes = sorted(map(len, batches))
        assert sizes[0] == n - min(batch_size, n) * (len(batches) - 1)
        assert set(sizes[1:]) <= {batch_size}


@given(n=st.integers(1, 40), batch_size=st.integers(1, 9), bucketed=st.booleans())
def test_a_step_needs_no_steps_before_it(n: int, batch_size: int, bucketed: bool) -> None:
    """Whoever begins at step 7 gets the step 7 of whoever began at 0."""
    lengths = draw_lengths(n) if bucketed else None
    plan = Plan(n, batch_size, 5, lengths)
    in_order = [plan.rows(step).tolist() for step in range(20)]
    for step in (19, 0, 7, 8, 3):
        assert plan.rows(step).tolist() == in_order[step]
        assert Plan(n, batch_size, 5, lengths).rows(step).tolist() == in_order[step]


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    """Or the network would learn the order."""
    plan, other = Plan(50, 50, 0), Plan(50, 50, 1)
    orders = [tuple(p.rows(step).tolist()) for p in (plan, other) for step in range(3)]
    assert len(set(orders)) == len(orders)


def test_a_step_has_windows_of_like_length() -> None:
    """Within a pool no two steps overlap in length, and next to nothing is padded; their order is random."""
    lengths = draw_lengths(600)
    plan = Plan(600, 10, 0, lengths)
    steps = [lengths[plan.rows(step)] for step in range(plan.steps_per_epoch)]
    ordered = sorted(steps, key=lambda step: (step.min(), step.max()))
    assert all(a.max() <= b.min() for a, b in pairwise(ordered))
    assert [s.min() for s in steps] != [s.min() for s in ordered]
    padded = sum(len(step) * step.max() for step in steps)
    assert padded < 1.02 * lengths.sum()
    plain = Plan(600, 10, 0)
    by_chance = [lengths[plain.rows(step)] for step in range(plain.steps_per_epoch)]
    assert sum(len(step) * step.max() for step in by_chance) > 1.3 * lengths.sum()


def test_equal_lengths_do_not_matter() -> None:
    """A dataset whose windows are all of one length has the plan of one whose lengths nobody knows."""
    known, unknown = Plan(30, 4, 2, np.full(30, 1500)), Plan(30, 4, 2)
    assert all(known.rows(i).tolist() == unknown.rows(i).tolist() for i in range(16))


@pytest.mark.parametrize("lengths", [None, np.zeros(0, np.int64)])
def test_nothing_to_learn_from(lengths: Lengths | None) -> None:
    """An empty training split is an error of the input."""
    with pytest.raises(InputError, match="the training split is empty"):
        Plan(0, 4, 0, lengths)


# ---------------------------------------------------------------- pieces


def by_window(pieces: list[Piece]) -> Counter[tuple[str, tuple[int, ...], bytes]]:
    """What a step knows of each of its windows: letters, labels, and the noise on its own tokens."""
    found = Counter[tuple[str, tuple[int, ...], bytes]]()
    for piece in pieces:
        own = piece.batch.attention.sum(-1).tolist()
        for text, label, noise, n in zip(
            texts_of(piece), piece.labels.tolist(), piece.noise, own, strict=True
        ):
            found[text, tuple(label), noise[:n].numpy().tobytes()] += 1
    return found


@given(
    n=st.integers(1, 21),
    batch_size=st.integers(1, 21),
    size=st.integers(1, 5),
    accumulate=st.integers(1, 5),
    both_strands=st.booleans(),
)
def test_parts_of_a_step_are_the_step(
    n: int, batch_size: int, size: int, accumulate: int, both_strands: bool
) -> None:
    """However it is divided: each window is there once, as it is, whatever stands beside it."""
    data, plan = mixed(n), Plan(n, batch_size, 1)
    steps = range(plan.steps_per_epoch + 1)
    whole = list(cut_pieces(data, TOKENIZER, plan, steps=steps, both_strands=both_strands))
    parts = [
        list(
            cut_pieces(
                data,
                TOKENIZER,
                plan,
                steps=steps,
                both_strands=both_strands,
                accumulate=accumulate,
                number=number,
                size=size,
            )
        )
        for number in range(size)
    ]
    for step in steps:
        own = [parts[number][step] for number in range(size)]
        assert all(1 <= len(pieces) <= accumulate for pieces in own)
        pieces = [piece for pieces in own for piece in pieces]
        assert all(piece.step == step for piece in pieces)
        assert sum(piece.share for piece in pieces) == pytest.approx(1)
        n_windows = len(plan.rows(step))
        assert all(round(piece.share * n_windows) in (0, len(piece.batch)) for piece in pieces)
        assert by_window([p for p in pieces if p.share]) == by_window(whole[step])
        # Nobody waits for a process that has nothing to do: it computes something that does not count.
        idle = [pieces for pieces in own if not pieces[0].share]
        assert len(idle) == max(size - n_windows, 0)
        assert all(len(pieces) == 1 and len(pieces[0].batch) == 1 for pieces in idle)


def test_pieces_are_the_windows_of_the_plan() -> None:
    """In its order, with their labels; and the same from any step on."""
    data, plan = mixed(11), Plan(11, 4, 3)
    steps = list(cut_pieces(data, TOKENIZER, plan, steps=range(6)))
    for step, (piece,) in enumerate(steps):
        rows = plan.rows(step)
        assert texts_of(piece) == [data.sequences[i] for i in rows]
        assert piece.labels.tolist() == data.labels[rows].tolist() and piece.labels.dtype == torch.int64
        assert piece.noise.shape == (*piece.batch.ids.shape, 2)
    later = list(cut_pieces(data, TOKENIZER, plan, steps=range(4, 6)))
    assert [by_window(step) for step in later] == [by_window(step) for step in steps[4:]]


def test_noise_is_uniform_and_never_the_same() -> None:
    """Each token of each window of each step has its own."""
    data = labelled(40, length=120)
    pieces = [p for (p,) in cut_pieces(data, TOKENIZER, Plan(40, 20, 0), steps=range(4))]
    noise = torch.cat([piece.noise.flatten() for piece in pieces]).numpy()
    assert noise.min() >= 0 and noise.max() < 1
    deciles = np.histogram(noise, bins=10, range=(0, 1))[0] / len(noise)
    assert deciles == pytest.approx(np.full(10, 0.1), abs=0.02)
    assert len(np.unique(noise)) > 0.99 * len(noise)


# ---------------------------------------------------------------- strands


@given(st.text("ACGTN", max_size=40))
def test_turn_round(sequence: str) -> None:
    """The other strand, read in its own direction; turned twice it is the first again."""
    other = turn_round(sequence)
    assert turn_round(other) == sequence
    pairs = dict(zip("ACGTN", "TGCAN", strict=True))
    assert other == "".join(pairs[letter] for letter in reversed(sequence))


def test_about_half_of_the_windows_are_turned() -> None:
    """None is without being asked for."""
    text = "AACCGTNACGGA"
    data = Labelled([text] * 64, np.zeros((64, 2), dtype=np.int64))
    plan = Plan(64, 64, 0)
    ((piece,),) = cut_pieces(data, TOKENIZER, plan, steps=range(1), both_strands=True)
    found = texts_of(piece)
    assert set(found) == {text, turn_round(text)} and 16 < found.count(text) < 48
    ((piece,),) = cut_pieces(data, TOKENIZER, plan, steps=range(1))
    assert set(texts_of(piece)) == {text}


def test_windows_are_read_one_by_one() -> None:
    """A dataset larger than memory: only the windows of a step are asked for."""

    class Counted(LazyStrings):
        asked = 0

        def __len__(self) -> int:
            return 10**9

        def _at(self, i: int) -> str:
            Counted.asked += 1
            return "ACGT"

    class Few(Plan):
        def rows(self, step: int) -> NDArray[np.int64]:
            return np.array([7, 10**9 - 1])

    data = Labelled(Counted(), np.broadcast_to(np.zeros(1, np.int64), (10**9, 2)))
    ((piece,),) = cut_pieces(data, TOKENIZER, Few(10, 2, 0), steps=range(1))
    assert len(piece.batch) == 2 and Counted.asked == 2


# ---------------------------------------------------------------- balance and cuts


def test_balanced_draws() -> None:
    """By the square root of the classes within, and each of these equally often; the same for a seed."""
    labels = np.array([[0, 0]] * 90 + [[0, 1]] * 9 + [[1, 2]] * 1)
    first = 2**0.5 / (2**0.5 + 1)
    weights = balance(labels)
    assert weights.sum() == pytest.approx(1)
    plan, again = (Plan(100, 10, 3, weights=weights) for _ in range(2))
    rows = np.concatenate([plan.rows(step) for step in range(400)])
    assert (rows == np.concatenate([again.rows(step) for step in range(400)])).all()
    shares = np.bincount(labels[rows, 1]) / len(rows)
    np.testing.assert_allclose(shares, [first / 2, first / 2, 1 - first], atol=0.04)
    within = np.bincount(rows, minlength=100)[:90]
    assert (within > 0).all() and within.std() < 2 * within.mean() ** 0.5


@given(
    length=st.integers(0, 200),
    shortest=st.integers(1, 120),
    size=st.floats(0, 1, exclude_max=True),
    place=st.floats(0, 1, exclude_max=True),
)
def test_a_cut_is_a_piece(length: int, shortest: int, size: float, place: float) -> None:
    """Of the window, as long as asked for, but for the few bases by which the frame is shifted."""
    text = "".join(np.random.default_rng(length).choice(list("ACGT"), length))
    piece = cut_at_random(text, shortest, size, place)
    assert piece in text
    if length <= shortest:
        assert piece == text
    else:
        assert shortest <= len(piece) <= length


def test_cuts_reach_all_lengths_and_frames() -> None:
    """Lengths from the shortest to the window's, short ones as often as long ones; all places modulo k."""
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 1500))
    draws = np.random.default_rng(1).random((4000, 2))
    pieces = [cut_at_random(text, 150, size, place) for size, place in draws]
    lengths = np.array([len(piece) for piece in pieces])
    assert len(set(lengths.tolist())) == 8 and lengths.min() == 150 and lengths.max() == 1495
    assert 0.45 < (lengths < (150 * 1500) ** 0.5).mean() < 0.55
    starts = {text.find(piece) % 6 for piece in pieces if len(piece) > 1400}
    assert starts == set(range(6))


def test_windows_of_a_step_are_cut_to_one_length() -> None:
    """Nothing is padded, and a step is the same in one piece and in three."""
    data = Labelled(["ACGTAC" * 40] * 12, np.zeros((12, 2), dtype=np.int64))
    plan = Plan(12, 12, 0)
    for step in range(5):
        (whole,), parts = (
            next(cut_pieces(data, TOKENIZER, plan, steps=range(step, step + 1), shortest=30, accumulate=n))
            for n in (1, 3)
        )
        texts = texts_of(whole)
        assert len({len(text) for text in texts}) == 1
        assert sorted(texts) == sorted(text for part in parts for text in texts_of(part))
