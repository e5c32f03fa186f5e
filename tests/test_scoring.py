"""What is asked of every window, and scores of single bases: the whole chain with toy models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from toy import MIXED, TAXONOMY, TOKENIZER, ConstantExplainer, as_windows, explainer, explanandum, sequences

from wyrcli import scoring
from wyrcli.batching import turn_round
from wyrcli.explanation import Explanation, Window
from wyrcli.inference import explain
from wyrcli.model.explainer import Explainer
from wyrcli.model.frames import average_frames, average_strands, correlate, read_frames, sharpen
from wyrcli.model.tokens import TokenBatch
from wyrcli.targets import Question, ask, same_subject
from wyrcli.windows import overlapping_windows

CPU = torch.device("cpu")
BASE, BOTH = scoring.BaseResolution(), scoring.BaseResolution(both_strands=True)
TEXTS = [*MIXED, *sequences(12, 31), *sequences(6, 17, seed=1, letters="ACGTN")]


def run(
    windows: Sequence[Window],
    question: Question | None = None,
    per_base: scoring.BaseResolution | None = None,
    *,
    masks: Explainer | None = None,
    batch_tokens: int = 64,
    device: torch.device = CPU,
    rank: str | None = None,
    threshold: float | None = None,
) -> list[Explanation]:
    """Explain windows with the toy models."""
    return list(
        explain(
            iter(windows),
            explanandum().to(device),
            (masks or explainer("state")).to(device),
            TOKENIZER,
            TAXONOMY,
            batch_tokens=batch_tokens,
            device=device,
            rank=rank,
            question=question,
            per_base=per_base,
            threshold=threshold,
        )
    )


def close(first: Explanation, second: Explanation) -> None:
    """The same but for rounding."""
    assert (first.window, first.lineage) == (second.window, second.lineage)
    assert same_subject(first, second)
    assert first.spans.tolist() == second.spans.tolist()
    np.testing.assert_allclose(first.mask, second.mask, atol=1e-5)
    np.testing.assert_allclose(first.rank_masks, second.rank_masks, atol=1e-5)


# ---------------------------------------------------------------- what to explain


@pytest.mark.parametrize("per_base", [None, BASE, BOTH])
def test_the_target_that_is_predicted_is_its_ranks_mask(per_base: scoring.BaseResolution | None) -> None:
    """Asking for the taxon that a window is called is asking for that rank."""
    for r, rank in enumerate(TAXONOMY.ranks):
        by_rank = run(as_windows(TEXTS), ask(TAXONOMY, rank=rank), per_base)
        for taxon in TAXONOMY.taxa[r]:
            named = run(as_windows(TEXTS), ask(TAXONOMY, targets=[taxon.upper()]), per_base)
            for one, other in zip(by_rank, named, strict=True):
                assert other.target is not None and other.target.name == other.label() == taxon
                assert other.target.rank == r and other.lineage == one.lineage
                np.testing.assert_allclose(other.rank_masks, one.rank_masks, atol=1e-6)
                if one.lineage[r] == taxon:
                    np.testing.assert_allclose(other.mask, one.mask, atol=1e-6)
                    assert other.target.probability == pytest.approx(one.probabilities[r], abs=1e-6)


@pytest.mark.parametrize("per_base", [None, BASE])
def test_contrast(per_base: scoring.BaseResolution | None) -> None:
    """The difference of both masks; the other way round its negative."""
    first, second, forth, back = (
        run(as_windows(TEXTS), question, per_base)
        for question in (
            ask(TAXONOMY, targets=["One"]),
            ask(TAXONOMY, targets=["Left"]),
            ask(TAXONOMY, contrast=("One", "Left")),
            ask(TAXONOMY, contrast=("Left", "One")),
        )
    )
    for a, b, c, d in zip(first, second, forth, back, strict=True):
        np.testing.assert_allclose(c.mask, a.mask - b.mask, atol=1e-6)
        np.testing.assert_allclose(c.mask, -d.mask, atol=1e-7)
        assert c.target is not None and (c.target.name, c.target.against) == ("One", "Left")
    assert any((c.mask < 0).any() for c in forth) and any((c.mask > 0).any() for c in forth)


def test_several_explanations_in_order() -> None:
    """Targets, contrast, top k, window by window; whatever the size of the batches."""
    question = ask(TAXONOMY, targets=["Two", "Right"], contrast=("Two", "One"), top_k=3)
    one, many = (run(as_windows(TEXTS), question, batch_tokens=n) for n in (1, 500))
    assert len(one) == 6 * len(TEXTS)
    for i, (a, b) in enumerate(zip(one, many, strict=True)):
        close(a, b)
        assert a.target is not None
        if i % 6 < 3:
            assert (a.target.name, a.target.against) == (("Two", ""), ("Right", ""), ("Two", "One"))[i % 6]
    for i in range(0, len(one), 6):
        best = [e.target for e in one[i + 3 : i + 6]]
        assert {t.name for t in best if t} == set(TAXONOMY.taxa[1])
        probabilities = [t.probability for t in best if t]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert best[0] is not None and best[0].name == one[i].lineage[1]
        assert probabilities[0] == pytest.approx(one[i].probabilities[1])
        asked = next(e.target.probability for e in (one[i],) if e.target)
        assert asked == pytest.approx(next(t.probability for t in best if t and t.name == "Two"))


def test_top_k_of_a_wider_rank() -> None:
    """``rank`` says which."""
    found = run(as_windows(TEXTS), ask(TAXONOMY, rank="superkingdom", top_k=2))
    names = [e.target.name for e in found if e.target]
    assert {frozenset(names[i : i + 2]) for i in range(0, len(names), 2)} == {frozenset(TAXONOMY.taxa[0])}
    assert all(e.target and e.target.rank == 0 for e in found)


class Spy(ConstantExplainer):
    """Remembers how many classes it was asked for."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.rows: list[int] = []

    def forward(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        assert classes is not None
        self.rows.append(classes.shape[1])
        return super().forward(batch, states, classes)


@pytest.mark.parametrize(
    ("question", "rows"),
    [
        (ask(TAXONOMY), 2),
        (ask(TAXONOMY, targets=["One"]), 3),
        (ask(TAXONOMY, contrast=("One", "Two"), top_k=1), 5),
    ],
)
def test_only_the_rows_that_are_needed(question: Question, rows: int) -> None:
    """Of the Explainer's last layer."""
    spy = Spy()
    run(as_windows(TEXTS), question, masks=spy)
    assert set(spy.rows) == {rows}


def test_sure() -> None:
    """A rank is sure if its probability is high enough, and so are those of all wider ranks."""
    plain = run(as_windows(TEXTS))
    assert all(e.sure == () and e.answers(1) for e in plain)
    levels = tuple(float(np.median([e.probabilities[r] for e in plain])) for r in (0, 1))
    found = run(as_windows(TEXTS), ask(TAXONOMY, thresholds=levels))
    for e in found:
        first, second = (p >= t for p, t in zip(e.probabilities, levels, strict=True))
        assert e.sure == (first, first and second)
        assert e.label() == (e.lineage[1] if first and second else e.lineage[0] if first else None)
    assert {e.sure for e in found} == {(True, True), (True, False), (False, False)}
    named = run(as_windows(TEXTS), ask(TAXONOMY, targets=["One"], thresholds=levels))
    assert all(e.label() == "One" for e in named)


# ---------------------------------------------------------------- bases


def oracle(text: str, numbers: list[int]) -> NDArray[np.float64]:
    """Mean over frames of the masks of some classes, (bases, K), one reading after the other, by loops."""
    model, masks = explanandum(), explainer("state")
    total, count = np.zeros((len(text), len(numbers))), np.zeros((len(text), 1))
    for offset in range(TOKENIZER.k):
        batch = TOKENIZER.batch([text[offset:]])
        dense = masks(batch, model.classify(batch).states).sigmoid()[0, :, numbers].detach().numpy()
        for token, (start, stop) in enumerate(batch.spans[0].tolist()):
            for base in range(start + offset, stop + offset):
                total[base] += dense[token]
                count[base] += 1
    return total / np.maximum(count, 1)


@pytest.mark.parametrize("batch_tokens", [1, 64, 2000])
def test_bases_are_the_mean_over_frames(batch_tokens: int, device: torch.device) -> None:
    """Of the classes that the plain reading predicts; calls and probabilities are those of that reading."""
    plain = run(as_windows(TEXTS), device=device)
    found = run(as_windows(TEXTS), None, BASE, batch_tokens=batch_tokens, device=device)
    for e, tokens in zip(found, plain, strict=True):
        text = e.window.sequence
        assert e.spans.tolist() == [[i, i + 1] for i in range(len(text))]
        assert e.lineage == tokens.lineage and e.agreement is None
        assert e.probabilities == pytest.approx(tokens.probabilities, abs=1e-5)
        left, right = TAXONOMY.encode(e.lineage)
        expected = oracle(text, [left, 2 + right])
        np.testing.assert_allclose(e.rank_masks.T, expected, atol=1e-4)
        np.testing.assert_allclose(e.mask, expected.max(1, initial=0), atol=1e-4)
        assert e.mask.dtype == np.float32


def test_both_strands_are_averaged() -> None:
    """Each over its frames; the agreement is their correlation."""
    for e in run(as_windows(TEXTS), None, BOTH):
        numbers = [TAXONOMY.encode(e.lineage)[0], 2 + TAXONOMY.encode(e.lineage)[1]]
        text = e.window.sequence
        pair = [oracle(text, numbers), oracle(turn_round(text), numbers)[::-1]]
        np.testing.assert_allclose(e.rank_masks.T, (pair[0] + pair[1]) / 2, atol=1e-5)
        first, second = (scores.max(1, initial=0) for scores in pair)
        assert e.agreement is not None
        if len(text) < 2:
            assert math.isnan(e.agreement)
        else:
            assert e.agreement == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-4)


@pytest.mark.parametrize("sharpened", [False, True])
def test_the_other_strand_gives_the_mirror_image(sharpened: bool) -> None:
    """For the same classes, exactly but for rounding."""
    question = ask(TAXONOMY, targets=["One"], contrast=("Left", "Three"))
    resolution = scoring.BaseResolution(True, sharpened)
    forward = run(as_windows(TEXTS), question, resolution)
    reverse = run(as_windows([turn_round(text) for text in TEXTS]), question, resolution)
    for a, b in zip(forward, reverse, strict=True):
        np.testing.assert_allclose(a.mask, b.mask[::-1], atol=1e-5)
        assert a.agreement == pytest.approx(b.agreement, abs=1e-5, nan_ok=True)
    one_strand = [run(as_windows(t), question, BASE) for t in (TEXTS, [turn_round(t) for t in TEXTS])]
    assert any(not np.allclose(a.mask, b.mask[::-1], atol=1e-3) for a, b in zip(*one_strand, strict=True))


@pytest.mark.parametrize("per_base", [BASE, BOTH, scoring.BaseResolution(True, True)])
def test_batch_size_changes_no_base(per_base: scoring.BaseResolution) -> None:
    """Nor the order, nor windows of one name."""
    question = ask(TAXONOMY, targets=["Two"], top_k=2)
    one, many = (run(as_windows(TEXTS), question, per_base, batch_tokens=n) for n in (1, 8 * 31))
    assert [e.window for e in one] == [w for w in as_windows(TEXTS) for _ in range(3)]
    for a, b in zip(one, many, strict=True):
        close(a, b)
        assert a.agreement == pytest.approx(b.agreement, abs=1e-3, nan_ok=True)


def test_frames_agree_with_those_of_training() -> None:
    """``average_strands`` in the pipeline, ``average_frames`` where an Explainer is refined."""
    readings = read_frames(TOKENIZER, TEXTS)
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(*batch.ids.shape, 2, generator=generator) for batch in readings.batches]
    (found,) = average_strands(masks, readings)
    assert torch.allclose(found, average_frames(masks, readings.batches)[0], atol=1e-6)


def test_only_kmers_have_frames() -> None:
    """Other tokenizers are refused before anything is computed."""

    class Words:
        alphabet = "text"

        def count_tokens(self, sequence: str) -> int:
            return len(sequence)

    with pytest.raises(ValueError, match="only k-mer tokens"):
        list(
            explain(
                as_windows(TEXTS),
                explanandum(),
                explainer("state"),
                Words(),  # type: ignore[arg-type]
                TAXONOMY,
                batch_tokens=9,
                device=CPU,
                per_base=BASE,
            )
        )


def test_correlation() -> None:
    """As numpy has it, for what lies inside each window; not defined where nothing varies."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(4, 30, 2, generator=generator), torch.rand(4, 30, 2, generator=generator)
    lengths = torch.tensor([30, 12, 1, 0])
    first[1, :12, 1] = 0.7
    found = correlate(first, second, lengths)
    for i, n in enumerate(lengths.tolist()):
        for g in range(2):
            if n < 2 or (i, g) == (1, 1):
                assert math.isnan(found[i, g])
            else:
                expected = np.corrcoef(first[i, :n, g], second[i, :n, g])[0, 1]
                assert float(found[i, g]) == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(correlate(first, first, lengths)[0], torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("width", [1, 5, 61])
def test_sharpen(width: int) -> None:
    """Twice the logit minus the mean around it, window by window; what is even stays even."""
    masks = torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(0)).clamp(0.01, 0.99)
    lengths = torch.tensor([40, 7, 1])
    found = sharpen(masks, lengths, width)
    for i, n in enumerate(lengths.tolist()):
        logits = masks[i, :n].double().logit()
        for base in range(n):
            around = logits[max(0, base - width // 2) : base + width // 2 + 1].mean(0)
            expected = (2 * logits[base] - around).sigmoid()
            assert torch.allclose(found[i, base].double(), expected, atol=1e-6)
    even = torch.full((2, 20, 1), 0.3)
    assert torch.allclose(sharpen(even, torch.tensor([20, 9]), width)[1, :9], even[1, :9], atol=1e-6)


# ---------------------------------------------------------------- long records


def cut(texts: Sequence[str], window: int, overlap: int) -> list[Window]:
    """Windows of records, all of one name."""
    return [
        Window(i, "same", start, stop, text[start:stop])
        for i, text in enumerate(texts)
        for start, stop in overlapping_windows(len(text), window, overlap)
    ]


@pytest.mark.parametrize("overlap", [0, 6, 12])
@pytest.mark.parametrize("per_base", [None, BASE])
def test_constant_masks_of_long_records(overlap: int, per_base: scoring.BaseResolution | None) -> None:
    """Are one chunk from end to end, N or not, and the sites tile each record."""
    texts = [*sequences(3, 200), *sequences(3, 131, letters="ACGTN"), "ACGT"]
    question = ask(TAXONOMY, targets=["One"])
    windows = cut(texts, 36, overlap)
    found = run(windows, question, per_base, masks=ConstantExplainer(2.0), threshold=0.5)
    assert len(found) == len(windows)
    for i, text in enumerate(texts):
        own = [e for e in found if e.window.record == i]
        spans = np.concatenate([e.spans for e in own])
        assert spans[0, 0] == 0 and spans[-1, 1] == len(text) and (spans[1:, 0] == spans[:-1, 1]).all()
        assert len({float(m) for e in own for m in e.mask}) == 1
        assert [c[:2] for e in own for c in e.joined_chunks()] == [(0, len(text))]
        assert sum(e.relevant_bp() for e in own) == len(text)


@pytest.mark.parametrize("per_base", [None, BASE])
def test_an_overlap_changes_nothing_for_single_windows(per_base: scoring.BaseResolution | None) -> None:
    """And batches change nothing for stitched ones."""
    texts = sequences(6, 100)
    one, many = (run(cut(texts, 36, 12), None, per_base, batch_tokens=n, threshold=0.5) for n in (1, 400))
    for a, b in zip(one, many, strict=True):
        close(a, b)
        assert [c[:2] for c in a.joined_chunks()] == [c[:2] for c in b.joined_chunks()]
    alone, threshold = (run(as_windows(TEXTS), None, per_base, threshold=t) for t in (None, 0.5))
    for a, b in zip(alone, threshold, strict=True):
        assert np.array_equal(a.mask, b.mask) and a.chunks() == b.joined_chunks()


def test_bases_of_the_papers_explainer() -> None:
    """``lstm``, whose readings hold windows of nothing but a special token."""
    texts = ["A", "", *TEXTS]
    one, many = (
        run(as_windows(texts), None, BOTH, masks=explainer("lstm"), batch_tokens=n) for n in (1, 300)
    )
    for a, b in zip(one, many, strict=True):
        close(a, b)
        assert len(a.mask) == len(a.window.sequence) and np.isfinite(a.mask).all()


def test_bf16(device: torch.device) -> None:
    """Scores come as float32, near those of full precision."""
    half = list(
        explain(
            as_windows(TEXTS),
            explanandum(dtype=torch.bfloat16).to(device),
            explainer("state", dtype=torch.bfloat16).to(device),
            TOKENIZER,
            TAXONOMY,
            batch_tokens=64,
            device=device,
            question=ask(TAXONOMY, contrast=("One", "Two"), top_k=1),
            per_base=scoring.BaseResolution(True, True),
        )
    )
    assert len(half) == 2 * len(TEXTS)
    assert all(e.mask.dtype == np.float32 and len(e.mask) == len(e.window.sequence) for e in half)
