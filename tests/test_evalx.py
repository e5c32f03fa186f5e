"""Random masks, evaluators and the probe: laws, known answers, and what they must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import TOKENIZER, explanandum, labelled

from wyrcli.evalx import (
    Evaluator,
    FittingOptions,
    draw_mask,
    fit_evaluator,
    probe_masks,
    read_masks,
    resample,
    run_lengths,
    scatter_runs,
)
from wyrcli.examination import Floats, Subject

CPU = torch.device("cpu")
MASKS = st.lists(st.booleans(), max_size=40).map(lambda bits: np.array(bits, dtype=np.float32))


def runs(mask: Floats) -> list[int]:
    """Lengths of the kept runs, by splitting a string."""
    return [len(part) for part in "".join("#" if m else " " for m in mask).split()]


@given(mask=MASKS, seed=st.integers(0, 99))
def test_scattered_runs_are_the_same_runs(mask: Floats, seed: int) -> None:
    """Same length, same runs; none joins another, so the area is the same too."""
    found = scatter_runs(mask, np.random.default_rng(seed))
    assert found.shape == mask.shape and set(found.tolist()) <= {0.0, 1.0}
    assert sorted(runs(found)) == sorted(runs(mask))
    assert run_lengths([mask, found]).tolist() == runs(mask) + runs(found)


def test_scattered_runs_go_everywhere() -> None:
    """A run of two and one of one in five tokens have six placements in which they part; all come alike."""
    mask = np.array([1, 1, 0, 1, 0], dtype=np.float32)
    rng = np.random.default_rng(0)
    counts: dict[str, int] = {}
    for _ in range(3000):
        key = "".join("01"[int(m)] for m in scatter_runs(mask, rng))
        counts[key] = counts.get(key, 0) + 1
    assert set(counts) == {"11010", "11001", "01101", "10110", "10011", "01011"}
    assert min(counts.values()) > 400  # of 500


def test_drawn_masks_have_all_areas() -> None:
    """The mean area is one half, small and large ones are common, and half have long runs."""
    rng = np.random.default_rng(0)
    law = np.array([8, 8, 8])
    masks = [draw_mask(200, law, rng) for _ in range(600)]
    areas = np.array([m.mean() for m in masks])
    assert abs(areas.mean() - 0.5) < 0.05
    assert min((areas < 0.2).mean(), (areas > 0.8).mean()) > 0.13
    inner = [r for m in masks if 0.05 < m.mean() < 0.3 for r in [np.mean(runs(m))] if r > 4]
    assert 50 < len(inner) < 100  # half of a quarter of 600
    assert draw_mask(5, np.zeros(0, dtype=np.int64), rng).shape == (5,)
    assert len(draw_mask(0, law, rng)) == 0


@given(mask=MASKS, bins=st.integers(1, 9))
def test_resample_keeps_the_area(mask: Floats, bins: int) -> None:
    """The mean of the bins is the mean of the mask; a multiple of the length is an exact stretch."""
    assert resample(mask, bins).mean() == pytest.approx(mask.mean() if len(mask) else 0, abs=1e-5)
    if len(mask):
        assert resample(mask, 2 * len(mask)) == pytest.approx(np.repeat(mask, 2), abs=1e-5)


def subject(batch_size: int = 64) -> Subject:
    """The toy classifier."""
    return Subject(explanandum(), TOKENIZER, CPU, batch_size)


def fitted(steps: int, batch_size: int = 64) -> tuple[Evaluator, Floats]:
    """An evaluator of masks that keep only the first of two tokens, and what it says of some windows."""
    about = subject(batch_size)
    windows = labelled(40)
    counts = [len(TOKENIZER.encode(s)) - 1 for s in windows.sequences]
    masks = [(np.arange(n) % 2 == 0).astype(np.float32) for n in counts]
    targets = about.log_probabilities(windows.sequences)
    evaluator = Evaluator(about.explanandum, "gate")
    options = FittingOptions(steps, 8, 1e-2)
    fit_evaluator(about, evaluator, windows.sequences, targets, lambda i, rng: masks[i], options)
    return evaluator, evaluator.log_probabilities(about, windows.sequences, masks)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_evaluator_begins_as_the_classifier(pooling: str) -> None:
    """Untrained it answers as the classifier does, and the frozen one stays frozen and unchanged."""
    about = subject()._replace(explanandum=explanandum(pooling=pooling))
    windows = labelled(9)
    counts = [len(TOKENIZER.encode(s)) - 1 for s in windows.sequences]
    masks = [np.random.default_rng(i).integers(0, 2, n).astype(np.float32) for i, n in enumerate(counts)]
    evaluator = Evaluator(about.explanandum, "gate")
    assert all(p.requires_grad for p in evaluator.parameters())
    expected = about.log_probabilities(windows.sequences, masks, "gate")
    assert evaluator.log_probabilities(about, windows.sequences, masks) == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        for weight in evaluator.parameters():
            weight.add_(1.0)
    assert about.log_probabilities(windows.sequences, masks, "gate") == pytest.approx(expected, abs=0)
    assert not any(p.requires_grad for p in about.explanandum.parameters())


def test_fitting_learns_and_is_deterministic() -> None:
    """It comes nearer to the classifier's own answers, the same way each time, whatever the batch size."""
    targets = np.exp(subject().log_probabilities(labelled(40).sequences))
    before, after = (-(targets * fitted(steps)[1]).sum(1).mean() for steps in (0, 60))
    entropy = -(targets * np.log(targets)).sum(1).mean()
    assert after - entropy < 0.5 * (before - entropy)
    assert fitted(5)[1] == pytest.approx(fitted(5, batch_size=3)[1], abs=1e-5)


def test_fitting_reads_no_more_windows_than_the_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight windows per step, three at a time."""
    sizes: list[int] = []
    usual = Evaluator.answer

    def spy(self: Evaluator, about: Subject, sequences: list[str], masks: list[Floats]) -> torch.Tensor:
        sizes.append(len(sequences))
        return usual(self, about, sequences, masks)

    monkeypatch.setattr(Evaluator, "answer", spy)
    fitted(2, batch_size=3)
    assert max(sizes) == 3 and sum(sizes) == 2 * 8 + 40


def test_mask_reader_reads_a_code() -> None:
    """Where the answers say nothing and the mask says it all, it learns all; random masks teach nothing."""
    masks, classes = codes(200)
    silent = np.log(np.concatenate([np.full((200, n), 1 / n) for n in (2, 5)], 1)).astype(np.float32)
    wanted = silent.copy()
    wanted[:, 2:] = np.log(np.where(np.eye(5)[classes[:, 1]] == 1, 0.96, 0.01))
    rng = np.random.default_rng(0)
    gains = {}
    for name, shown in (("code", masks), ("random", [scatter_runs(m, rng) for m in masks])):
        blind, told = read_masks(
            (2, 5), (silent[:120], shown[:120], wanted[:120]), (silent[120:], shown[120:])
        )
        assert np.exp(told[:, :2]).sum(1) == pytest.approx(1, abs=1e-5)
        gains[name] = (np.exp(wanted[120:]) * (told - blind)).sum(1).mean()
    assert gains["code"] > 0.7 * np.log(5) and abs(gains["random"]) < 0.1


def test_mask_reader_calibrates_without_masks() -> None:
    """Answers that are right but too timid are corrected by the blind reader: that is no code."""
    masks, classes = codes(200)
    right = np.where(np.eye(5)[classes[:, 1]] == 1, 2.0, 0.0)
    right -= np.log(np.exp(right).sum(1, keepdims=True))
    timid, wanted = ((k * right - np.log(np.exp(k * right).sum(1, keepdims=True))) for k in (1, 3))
    timid, wanted = timid.astype(np.float32), wanted.astype(np.float32)
    blind, told = read_masks((5,), (timid[:120], masks[:120], wanted[:120]), (timid[120:], masks[120:]))
    gains = [(np.exp(wanted[120:]) * (a - timid[120:])).sum(1).mean() for a in (blind, told)]
    assert gains[0] > 0.3 and abs(gains[1] - gains[0]) < 0.05


def test_mask_reader_without_steps_changes_nothing() -> None:
    """Unfitted, answers come back as they were."""
    masks, _ = codes(4)
    rng = np.random.default_rng(0)
    answers = [rng.normal(size=(4, n)) for n in (2, 5)]
    given = np.concatenate([a - np.log(np.exp(a).sum(1, keepdims=True)) for a in answers], 1)
    given = given.astype(np.float32)
    for told in read_masks((2, 5), (given, masks, given), (given, masks), steps=0):
        assert told == pytest.approx(given, abs=1e-5)


def codes(n: int, seed: int = 0) -> tuple[list[Floats], np.ndarray]:
    """Masks of 60 tokens with one run whose place is that of the class, and classes on two ranks."""
    rng = np.random.default_rng(seed)
    classes = np.stack([rng.integers(0, 2, n), rng.integers(0, 5, n)], axis=1)
    masks = []
    for own in classes[:, 1].tolist():
        mask = np.zeros(60, dtype=np.float32)
        mask[own * 11 : own * 11 + 9] = 1
        masks.append(mask)
    return masks, classes


def test_probe_reads_a_code() -> None:
    """The rank that is coded is read off completely; the other one, drawn by itself, is not."""
    masks, classes = codes(100)
    found = probe_masks(masks, classes, np.arange(100))
    assert found.skill[1] == 1 and abs(found.skill[0]) < 0.4
    assert found.p_value == 1 / 201


def test_probe_without_a_code() -> None:
    """Runs at random places tell nothing: p values spread over their range."""
    p_values = []
    for seed in range(8):
        masks, classes = codes(60, seed)
        rng = np.random.default_rng(1000 + seed)  # not that of the classes
        masks = [scatter_runs(m, rng) for m in masks]
        p_values.append(probe_masks(masks, classes, np.arange(60), seed, 60).p_value)
    assert min(p_values) > 1 / 61 and 0.2 < np.mean(p_values) < 0.8


def test_probe_takes_one_window_of_a_group() -> None:
    """Fifty masks that tell nothing, four times each, tell nothing; as if independent, they would."""
    masks, classes = codes(50)
    rng = np.random.default_rng(1000)
    masks = [scatter_runs(m, rng) for m in masks] * 4
    classes, groups = np.tile(classes, (4, 1)), np.tile(np.arange(50), 4)
    found = [probe_masks(masks, classes, groups, seed) for seed in range(4)]
    assert min(probe.p_value for probe in found) > 0.01
    alone = probe_masks(masks, classes, np.arange(200))
    assert alone.p_value < 0.01 and alone.skill[1] > 0.5


def test_probe_reads_areas() -> None:
    """A class that is told by how much is kept, wherever it lies, is found as well."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (90, 1))
    masks = [(rng.permutation(60) < 10 + 15 * c).astype(np.float32) for c in classes[:, 0]]
    assert probe_masks(masks, classes, np.arange(90), permutations=50).skill[0] > 0.9


def test_probe_of_windows_of_any_length() -> None:
    """Empty windows, constant masks and single classes have a skill too: none."""
    masks = [np.ones(n, dtype=np.float32) for n in (0, 1, 30, 7, 2)] * 5
    found = probe_masks(masks, np.zeros((25, 1), dtype=np.int64), np.arange(25), permutations=20)
    assert found.skill == [0.0] and found.p_value == 1.0
