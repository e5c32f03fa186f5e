"""The stages of ``explain``: prefetch, pools, order, and the whole chain."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import MIXED, TAXONOMY, TOKENIZER, as_windows, explainer, explanandum, sequences

from wyrcli import inference
from wyrcli.errors import DeviceError, TaxonomyError
from wyrcli.explanation import Explanation, Window
from wyrcli.inference import (
    choose_device,
    choose_precision,
    explain,
    infer,
    pool_windows,
    restore_order,
    tokenize_pools,
    unpack,
)
from wyrcli.prefetching import prefetch
from wyrcli.targets import Question

CPU = torch.device("cpu")


def alive() -> list[threading.Thread]:
    """Prefetching threads that still run."""
    return [t for t in threading.enumerate() if t.name == "wyr-prefetch"]


# prefetch


@pytest.mark.timeout(10)
@pytest.mark.parametrize("n", [0, 1, 2, 50])
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_prefetch_gives_all(n: int, depth: int) -> None:
    """The same items in the same order, and no thread stays."""
    items = prefetch(iter(range(n)), depth)
    assert list(items) == list(range(n))
    with pytest.raises(StopIteration):
        next(items)
    assert not alive()


@pytest.mark.timeout(10)
@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("good", [0, 1, 9])
def test_prefetch_raises_in_the_caller(error: BaseException, good: int) -> None:
    """What the thread dies of is raised in the caller, behind the items that came before it."""

    def failing() -> Iterator[int]:
        yield from range(good)
        raise error

    items, seen = prefetch(failing()), []
    with pytest.raises(type(error)) as caught:
        for item in items:
            seen.append(item)
    assert caught.value is error and seen == list(range(good))
    assert list(items) == [] and not alive()


@pytest.mark.timeout(10)
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_prefetch_closed_early(taken: int) -> None:
    """Closing ends the thread although its queue is full; it never runs far ahead."""
    made = []

    def endless() -> Iterator[int]:
        while True:
            made.append(None)
            yield len(made)

    items = prefetch(endless(), depth=2)
    for _ in range(taken):
        next(items)
    time.sleep(0.05)
    assert len(made) <= taken + 2 + 1
    items.close()
    assert not alive() and list(items) == []


# restore_order and pool_windows


@given(order=st.permutations(range(12)))
def test_restore_order(order: list[int]) -> None:
    """Any order in, the right one out; each item comes as soon as it may."""
    assert list(restore_order((i, str(i)) for i in order)) == [str(i) for i in range(12)]


def test_restore_order_misses_one() -> None:
    """A lost item is never passed over in silence."""
    with pytest.raises(RuntimeError, match="item 1 never came"):
        list(restore_order([(0, "a"), (2, "c")]))


@settings(max_examples=30)
@given(texts=st.lists(st.text("ACGTN", max_size=40), max_size=60), budget=st.sampled_from([1, 16, 60, 400]))
def test_pools(texts: list[str], budget: int) -> None:
    """Every window once, no batch empty, none over the token budget unless it is one window."""
    batches = list(pool_windows(as_windows(texts), TOKENIZER, budget))
    assert sorted(w.ordinal for batch in batches for w in batch) == list(range(len(texts)))
    for batch in batches:
        assert batch
        ids = TOKENIZER.batch([w.window.sequence for w in batch]).ids
        assert len(batch) == 1 or ids.numel() <= budget
        assert all(w.window.sequence == texts[w.ordinal] for w in batch)


def test_pools_are_bounded() -> None:
    """The reader is never more than a pool ahead: memory does not grow with the input."""
    taken = []

    def endless() -> Iterator[Window]:
        while True:
            taken.append(None)
            yield Window(len(taken), "r", 0, 4, "ACGT")

    next(pool_windows(endless(), TOKENIZER, 30))
    assert len(taken) == 8 * 30 // 3 + 1  # the first window of the next pool shows that a record ends


def test_one_length_keeps_its_order() -> None:
    """Reads of one length come in the order of the input."""
    batches = pool_windows(as_windows(sequences(50, 10)), TOKENIZER, 20)
    assert [w.ordinal for batch in batches for w in batch] == list(range(50))


# explain


def run(
    windows: list[Window],
    kind: str = "state",
    batch_tokens: int = 64,
    rank: str | None = None,
    device: torch.device = CPU,
) -> list[Explanation]:
    """Explain windows with the toy models."""
    return list(
        explain(
            iter(windows),
            explanandum().to(device),
            explainer(kind).to(device),
            TOKENIZER,
            TAXONOMY,
            batch_tokens=batch_tokens,
            device=device,
            rank=rank,
        )
    )


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_explain_end_to_end(kind: str, device: torch.device) -> None:
    """Every window once, in input order, although names repeat; masks are those of the predicted classes."""
    windows = [
        Window(i // 2, "same", 30 * (i % 2), 30 * (i % 2) + len(t), t) for i, t in enumerate(MIXED * 3)
    ]
    found = run(windows, kind, device=device)
    assert [e.window for e in found] == windows
    model, masks = explanandum(), explainer(kind)
    for explanation in found:
        text = explanation.window.sequence
        batch = TOKENIZER.batch([text])
        logits, states = model.classify(batch)
        classes, probabilities = model.predict(logits)
        assert explanation.lineage == TAXONOMY.decode(classes[0].tolist())
        assert explanation.probabilities == pytest.approx(tuple(probabilities[0].tolist()), abs=1e-4)
        dense = masks(batch, states).sigmoid()[0, 1:]
        on_axis = [int(classes[0, 0]), 2 + int(classes[0, 1])]
        expected = dense[:, on_axis].T.detach().numpy()
        np.testing.assert_allclose(explanation.rank_masks, expected, atol=1e-4)
        np.testing.assert_allclose(explanation.mask, expected.max(0), atol=1e-4)
        spans = np.array(TOKENIZER.spans(text)[1:]).reshape(-1, 2) + explanation.window.start
        assert explanation.spans.tolist() == spans.tolist()
        assert explanation.mask.dtype == np.float32


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_batch_size_changes_nothing(kind: str) -> None:
    """One, eight or sixty-four windows a batch: the same masks."""
    texts = [*sequences(40, 30), *MIXED, *sequences(24, 11, seed=1, letters="ACGTN")]
    one, eight, many = (run(as_windows(texts), kind, tokens) for tokens in (1, 8 * 31, 64 * 31))
    for a, b, c in zip(one, eight, many, strict=True):
        assert a.window == b.window == c.window and a.lineage == b.lineage == c.lineage
        np.testing.assert_allclose(a.rank_masks, b.rank_masks, atol=1e-5)
        np.testing.assert_allclose(a.rank_masks, c.rank_masks, atol=1e-5)


@pytest.mark.parametrize(("rank", "index"), [("superkingdom", 0), ("domain", 0), ("phylum", 1)])
def test_rank(rank: str, index: int) -> None:
    """``rank`` chooses whose mask counts; all of them stay at hand."""
    for explanation in run(as_windows(MIXED), rank=rank):
        assert np.array_equal(explanation.mask, explanation.rank_masks[index])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_models_in_a_thread_of_their_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a GPU: the same explanations, in order, and no thread stays."""
    windows = as_windows([*sequences(40, 30), *MIXED])
    expected = run(windows, kind)
    threads: set[str] = set()
    usual = inference.infer

    def watched(*arguments: Any, **options: Any) -> Iterator[inference.Output]:
        for output in usual(*arguments, **options):
            threads.add(threading.current_thread().name)
            yield output

    monkeypatch.setattr(inference, "infer", watched)
    monkeypatch.setattr(inference, "_computes_beside", lambda device: True)
    for a, b in zip(expected, run(windows, kind), strict=True):
        assert a.window == b.window and a.lineage == b.lineage and np.array_equal(a.rank_masks, b.rank_masks)
    assert threads == {"wyr-prefetch"} and not alive()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("beside", [False, True])
def test_errors_reach_the_caller(beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in reading, an unknown rank, and an early end: no hang and no thread left."""
    monkeypatch.setattr(inference, "_computes_beside", lambda device: beside)

    def failing() -> Iterator[Window]:
        yield from as_windows(sequences(100, 10))
        raise OSError("disk gone")

    models = (explanandum(), explainer("state"), TOKENIZER, TAXONOMY)
    with pytest.raises(OSError, match="disk gone"):
        list(explain(failing(), *models, batch_tokens=20, device=CPU))
    with pytest.raises(TaxonomyError, match="unknown rank"):
        list(explain(failing(), *models, batch_tokens=20, device=CPU, rank="kingdom"))
    stream = explain(failing(), *models, batch_tokens=20, device=CPU)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not alive()


def test_no_windows() -> None:
    """Nothing in, nothing out."""
    assert run([]) == []


def test_without_explainer() -> None:
    """The bare classifier has predictions and no masks to unpack."""
    batches = tokenize_pools(pool_windows(as_windows(MIXED), TOKENIZER, 64), TOKENIZER, CPU)
    outputs = list(infer(batches, explanandum(), None, CPU))
    assert sum(len(o.windows) for o in outputs) == len(MIXED)
    assert all(o.answer.scores is None and o.answer.classes.shape == (len(o.windows), 2) for o in outputs)
    with pytest.raises(ValueError, match="without an Explainer"):
        list(unpack(outputs, TAXONOMY, Question()))


@pytest.mark.parametrize("name", ["tpu", "meta", "cuda:99", "cuda 1"])
def test_unknown_device(name: str) -> None:
    """A device that is not there is a DeviceError."""
    with pytest.raises(DeviceError, match="device"):
        choose_device(name)


def test_device_and_precision() -> None:
    """``auto`` is always something that works."""
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    assert choose_precision("auto", CPU) in (torch.bfloat16, torch.float32)
    assert choose_precision("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_bf16_end_to_end(kind: str, device: torch.device) -> None:
    """The whole chain with both models in bf16."""
    found = list(
        explain(
            iter(as_windows(MIXED)),
            explanandum(dtype=torch.bfloat16).to(device),
            explainer(kind, dtype=torch.bfloat16).to(device),
            TOKENIZER,
            TAXONOMY,
            batch_tokens=64,
            device=device,
        )
    )
    assert len(found) == len(MIXED)
    for half, exact in zip(found, run(as_windows(MIXED), kind), strict=True):
        assert half.mask.dtype == np.float32 and len(half.mask) == len(exact.mask)
