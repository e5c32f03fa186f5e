"""The seven conditions of Table 1 on toy models whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy import (
    MIXED,
    TAXONOMY,
    TOKENIZER,
    ConstantExplainer,
    Labelled,
    RuleExplainer,
    explainer,
    explanandum,
    labelled,
)

from wyrcli.errors import InputError
from wyrcli.evaluation import (
    CONDITIONS,
    Evaluation,
    Truth,
    classify_chunks,
    covered,
    cut_chunks,
    evaluate,
    read_truth,
)
from wyrcli.examination import Subject
from wyrcli.model.explainer import Explainer
from wyrcli.model.masking import OPERATORS

CPU = torch.device("cpu")
WINDOWS = labelled(20)


def run(
    model: Explainer,
    operator: str = "gate",
    windows: Labelled = WINDOWS,
    truth: Truth | None = None,
    batch_size: int = 7,
    device: torch.device = CPU,
) -> Evaluation:
    """Evaluate an Explainer of the toy classifier."""
    subject = Subject(explanandum().to(device), TOKENIZER, device, batch_size)
    return evaluate(subject, model.to(device), operator, windows, truth=truth)


def test_names_of_the_conditions() -> None:
    """The seven rows of Table 1, in the paper's order, each with the paper's numbers."""
    assert len(CONDITIONS) == 7 and CONDITIONS[0] == "unmasked"
    assert all(
        name == f"inverted {CONDITIONS[i - 1]}" for i, name in enumerate(CONDITIONS) if "inverted" in name
    )
    result = run(ConstantExplainer(0.0))
    assert tuple(result.accuracy) == CONDITIONS == tuple(result.tokens_kept)
    assert all(len(scores) == len(TAXONOMY.ranks) for scores in result.accuracy.values())


def bias_scores() -> list[float]:
    """Balanced accuracy of the answer to nothing at all."""
    best = [int(head.bias.argmax()) for head in explanandum().heads]
    scores = []
    for r, answer in enumerate(best):
        truth = WINDOWS.labels[:, r]
        scores.append(float((answer in truth) / len(set(truth.tolist()))))
    return scores


@pytest.mark.parametrize("operator", ["gate", "scale"])
def test_all_kept_is_unmasked(operator: str, device: torch.device) -> None:
    """A mask of ones: masks and chunks score as unmasked, their inverses as the biases."""
    result = run(ConstantExplainer(50.0), operator, device=device)
    for name in ("masks", "rounded masks", "relevant chunks"):
        assert result.accuracy[name] == result.accuracy["unmasked"]
        assert result.tokens_kept[name] == 1
    for name in ("inverted masks", "inverted rounded masks", "not-relevant chunks"):
        assert result.accuracy[name] == pytest.approx(bias_scores())
        assert result.tokens_kept[name] == 0


def test_nothing_kept_is_the_bias() -> None:
    """A mask of zeros: the other way round; no window has a relevant chunk."""
    result = run(ConstantExplainer(-200.0))
    for name in ("inverted masks", "inverted rounded masks", "not-relevant chunks"):
        assert result.accuracy[name] == result.accuracy["unmasked"]
    for name in ("masks", "rounded masks", "relevant chunks"):
        assert result.accuracy[name] == pytest.approx(bias_scores())


def test_a_half_rounds_to_zero() -> None:
    """A mask value of exactly the threshold is not kept."""
    result = run(ConstantExplainer(0.0))
    assert result.tokens_kept["masks"] == 0.5
    assert result.tokens_kept["rounded masks"] == 0 and result.tokens_kept["inverted rounded masks"] == 1


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_batch_size_changes_nothing(kind: str, operator: str) -> None:
    """One window at a time scores as all together."""
    results = [run(explainer(kind), operator, batch_size=size) for size in (1, 64)]
    assert results[0].accuracy == results[1].accuracy
    assert results[0].tokens_kept == pytest.approx(results[1].tokens_kept)
    assert results[0].n_windows == 20
    for name, share in results[0].tokens_kept.items():
        other = {"masks": "inverted masks", "rounded masks": "inverted rounded masks"}.get(name)
        if other is not None:
            assert share + results[0].tokens_kept[other] == pytest.approx(1)


def test_ragged_windows_and_one_empty() -> None:
    """Windows of many lengths, one of none, are all scored."""
    n = len(MIXED)
    windows = Labelled(MIXED, np.zeros((n, 2), dtype=np.int64), ["r"] * n, np.zeros(n, dtype=np.int64))
    result = run(explainer("state"), windows=windows)
    assert result.n_windows == n and all(np.isfinite(s).all() for s in result.accuracy.values())


def test_no_window() -> None:
    """Nothing to evaluate is an error of the input."""
    empty = Labelled([], np.zeros((0, 2), dtype=np.int64), [])
    with pytest.raises(InputError, match="no window"):
        run(explainer("state"), windows=empty)


@given(text=st.text("ACGTN", max_size=60), seed=st.integers(0, 99))
def test_cut_chunks_is_a_string_split(text: str, seed: int) -> None:
    """Mark the other tokens, split at the marks: that leaves the chunks."""
    spans = np.array(TOKENIZER.spans(text)[1:], dtype=np.int64).reshape(-1, 2)
    relevant = np.random.default_rng(seed).random(len(spans)) < 0.5
    for wanted in (True, False):
        marked = "".join(
            text[a:b] if keep == wanted else "|" for (a, b), keep in zip(spans, relevant, strict=True)
        )
        assert cut_chunks(text, relevant, spans, wanted) == [part for part in marked.split("|") if part]


def test_classify_chunks_by_loop() -> None:
    """Mean of the probabilities of each window's pieces; without a piece, the biases."""
    model = explanandum()
    pieces = [["ACGT", "T"], [], ["GGNCAAC"], ["A"] * 5 + ["GATTACA"]]
    found = classify_chunks(Subject(model, TOKENIZER, CPU, 2), pieces)
    for own, row in zip(pieces, found.tolist(), strict=True):
        for r, rank in enumerate(model.heads):
            if own:
                answers = [model.split(model(TOKENIZER.batch([p])))[r].softmax(-1)[0] for p in own]
                expected: Tensor = torch.stack(answers).mean(0)
            else:
                expected = rank.bias
            assert row[r] == int(expected.argmax())


INTERVALS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12)), max_size=4)


@given(text=st.text("ACGTN", max_size=30), start=st.integers(0, 20), intervals=INTERVALS)
def test_covered_by_base(text: str, start: int, intervals: list[tuple[int, int]]) -> None:
    """At least half of a token's bases inside of any interval, counted base by base."""
    spans = np.array(TOKENIZER.spans(text)[1:], dtype=np.int64).reshape(-1, 2) + start
    planted = {base for a, length in intervals for base in range(a, a + length)}
    pairs = np.array([(a, a + length) for a, length in intervals], dtype=np.int64).reshape(-1, 2)
    expected = [2 * sum(base in planted for base in range(a, b)) >= b - a for a, b in spans.tolist()]
    assert covered(spans, pairs).tolist() == expected
    assert not covered(spans, None).any()


def test_localisation() -> None:
    """A mask that is the truth finds all of it; decoys that are planted too are not counted as decoys."""
    kmer = TOKENIZER.encode("GG")[1]
    texts = ["AAGGAACC", "GGAAAACC"]
    windows = Labelled(texts, np.zeros((2, 2), dtype=np.int64), ["a", "b"], np.array([0, 100]))
    truth = Truth(
        {"a": np.array([[2, 4]]), "b": np.array([[100, 102]])},
        {"a": np.array([[2, 4], [6, 8]]), "c": np.array([[0, 8]])},
    )
    perfect = RuleExplainer(lambda ids: torch.where(ids == kmer, 4.0, -4.0))
    found = run(perfect, windows=windows, truth=truth).localisation
    assert found is not None
    assert (found.auprc, found.prevalence, found.planted_called) == (1, 0.25, 1)
    assert (found.decoys_called, found.background_called) == (0, 0)
    blind = run(ConstantExplainer(1.0), windows=windows, truth=truth).localisation
    assert blind is not None and blind.auprc == blind.prevalence and blind.decoys_called == 1


def test_read_truth(tmp_path: Path) -> None:
    """BED files, with comments and several intervals of one read; a bad line is named."""
    file = tmp_path / "truth.bed"
    file.write_text("#chrom\tstart\tend\tname\nr1\t3\t9\tgenus\n\nr1\t20\t26\nr2\t0\t6\n", encoding="utf-8")
    truth = read_truth(file, file)
    assert truth.planted["r1"].tolist() == [[3, 9], [20, 26]] and truth.decoys["r2"].tolist() == [[0, 6]]
    file.write_text("r1\t3\t9\nr1 4 9\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_truth(file)
