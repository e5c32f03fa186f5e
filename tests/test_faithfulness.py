"""Measures of faithfulness on a classifier that adds up, where all is known, and against a slow loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from toy import MIXED, TOKENIZER, explanandum, sequences

from wyrcli.examination import Floats, Subject
from wyrcli.faithfulness import (
    FRACTIONS,
    SHARES,
    Faithfulness,
    localise,
    lower_is_better,
    measure,
    top_tokens,
)
from wyrcli.metrics import area_under_roc, average_precision
from wyrcli.model.explanandum import BaseExplanandum, Classified
from wyrcli.model.masking import Operator, gate
from wyrcli.model.tokens import TokenBatch

CPU = torch.device("cpu")


class Adding(BaseExplanandum):
    """Two ranks of two classes; the first logits are s and s / 2, the sum of what the kept tokens are worth.

    It remembers every question.
    """

    architecture = "adding"

    def __init__(self, worth: Tensor) -> None:
        super().__init__((2, 2), "mean", hidden_size=1, n_states=1, vocab_size=len(worth))
        self.worth = worth
        self.asked: list[tuple[Any, ...]] = []

    def classify(
        self, batch: TokenBatch, mask: Tensor | None = None, operator: Operator = gate
    ) -> Classified:
        weight = batch.valid if mask is None else operator(mask, batch.valid).pool_weight
        assert weight is not None
        for ids, valid, own in zip(batch.ids, batch.valid, weight, strict=True):
            self.asked.append((*ids[valid].tolist(), *own[valid].tolist()))
        total = (self.worth[batch.ids] * weight).sum(-1)
        nothing = torch.zeros_like(total)
        return Classified(torch.stack([total, nothing, total / 2, nothing], -1), [])

    def bias(self) -> Tensor:
        return torch.zeros(4)

    def with_classes(self, sizes: Sequence[int]) -> BaseExplanandum:
        raise NotImplementedError

    def stored_tensors(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def stored_config(self) -> str:
        raise NotImplementedError


WORTH = torch.zeros(len(TOKENIZER.vocabulary), dtype=torch.float64)
WORTH[6:] = torch.linspace(0.1, 1.5, len(WORTH) - 6, dtype=torch.float64)


def adding(batch_size: int = 64) -> Subject:
    """A fresh classifier that adds up; special tokens are worth nothing."""
    return Subject(Adding(WORTH), TOKENIZER, CPU, batch_size)


def worth_of(text: str) -> NDArray[np.float64]:
    """What each token adds."""
    return WORTH[TOKENIZER.encode(text)[1:]].numpy()


def p_of(total: float | NDArray[np.float64]) -> Any:
    """Mean over the ranks of the first class's probability."""
    return (1 / (1 + np.exp(-total)) + 1 / (1 + np.exp(-total / 2))) / 2


def log_p_of(total: float) -> float:
    """Mean over the ranks of its logarithm."""
    return -(math.log1p(math.exp(-total)) + math.log1p(math.exp(-total / 2))) / 2


def judge(
    subject: Subject,
    texts: Sequence[str],
    scores: Sequence[NDArray[np.floating[Any]]],
    share: float = 0.25,
    classes: NDArray[np.int64] | None = None,
    **options: Any,
) -> Faithfulness:
    """Measure at equal area ``share``, for the predicted classes."""
    before = subject.log_probabilities(texts)
    n_kept = np.array([round(share * len(score)) for score in scores], dtype=np.int64)
    classes = subject.best(before) if classes is None else classes
    return measure(subject, texts, classes, before, scores, n_kept, **options)


# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize("removal", ["gate", "scale", "mask-token", "cut"])
def test_closed_form(removal: str) -> None:
    """Twenty tokens: 1 of them is 1 % (rounded up) and 5 %, 2 are 10 %, 4 are 20 %, 10 are 50 %."""
    (text,) = sequences(1, 40)
    worth = worth_of(text)
    scores = np.random.default_rng(0).permutation(20).astype(np.float64)
    order = np.argsort(-scores)
    found = judge(adding(), [text], [scores], 0.25, removal=removal)
    total = worth.sum()
    for i, n in enumerate((1, 1, 2, 4, 10)):
        top = worth[order[:n]].sum()
        assert found.comprehensiveness[0, i] == pytest.approx(p_of(total) - p_of(total - top), abs=1e-6)
        assert found.sufficiency[0, i] == pytest.approx(p_of(total) - p_of(top), abs=1e-6)
    tops = np.array([worth[order[:n]].sum() for n in (0, 1, 1, 2, 4, 6, 10, 15, 20)])
    assert found.insertion[0] == pytest.approx(p_of(tops), abs=1e-6)
    assert found.deletion[0] == pytest.approx(p_of(total - tops), abs=1e-6)
    assert found.log_odds[0] == pytest.approx(
        log_p_of(total - worth[order[:4]].sum()) - log_p_of(total), abs=1e-5
    )
    assert found.saliency[0] == pytest.approx(math.log(0.25) - log_p_of(worth[order[:5]].sum()), abs=1e-5)
    by_window = found.by_window()
    steps = np.diff(FRACTIONS)
    for name, curve in (("deletion_area", p_of(total - tops)), ("insertion_area", p_of(tops))):
        assert by_window[name][0] == pytest.approx(((curve[1:] + curve[:-1]) / 2 * steps).sum(), abs=1e-6)
    assert by_window["comprehensiveness"][0] == pytest.approx(found.comprehensiveness[0].mean())
    assert by_window["sufficiency_at_10"][0] == found.sufficiency[0, 2]


def test_small_areas_are_five_percent() -> None:
    """The saliency metric gives nothing for being smaller; nothing kept is the answer to nothing."""
    (text,) = sequences(1, 80)
    for share, kept in ((0.0, 0), (0.025, 1), (0.05, 2)):
        scores = worth_of(text)
        found = judge(adding(), [text], [scores], share)
        expected = math.log(0.05) - log_p_of(np.sort(scores)[40 - kept :].sum())
        assert found.saliency[0] == pytest.approx(expected, abs=1e-5)


def test_round_up() -> None:
    """Seven percent of 100 tokens are seven, though .07 times 100 is a little more; of 99 tokens too."""
    for n in (100, 99):
        text = "AC" * n
        worth = worth_of(text) / 10
        own = Subject(Adding(WORTH / 10), TOKENIZER, CPU)
        found = judge(own, [text], [np.arange(float(n))], shares=(0.07,))
        expected = p_of(worth.sum()) - p_of(worth[:7].sum())
        assert found.sufficiency[0, 0] == pytest.approx(expected, abs=1e-6)


def test_all_tokens() -> None:
    """Sufficiency at 100 % is exactly 0, and comprehensiveness all that there is above the bias."""
    own = Subject(explanandum(), TOKENIZER, CPU)
    scores = [np.arange(float(len(TOKENIZER.encode(text)) - 1)) for text in MIXED]
    found = judge(own, MIXED, scores, 1.0, shares=(1.0,))
    before = np.exp(own.of_classes(own.log_probabilities(MIXED), found.classes)).mean(1)
    nothing = np.exp(own.of_classes(own.log_probabilities([""] * len(MIXED)), found.classes)).mean(1)
    assert (found.sufficiency == 0).all()
    assert found.comprehensiveness[:, 0] == pytest.approx(before - nothing, abs=1e-5)
    assert (found.kept_predicted == found.classes).all()
    assert found.insertion[:, -1] == pytest.approx(before) and found.deletion[:, 0] == pytest.approx(before)
    assert (found.insertion[:, 0] == found.deletion[:, -1]).all()


# ---------------------------------------------------------------- against a loop


def soft_scores(texts: Sequence[str] = MIXED, seed: int = 0) -> list[Floats]:
    """All different, so that there is one order."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(TOKENIZER.encode(t)) - 1).astype(np.float32) / 7 for t in texts]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_loop(pooling: str, device: torch.device) -> None:
    """Windows of many lengths, other classes than the predicted ones, one question at a time."""
    model = explanandum(pooling=pooling)
    scores = soft_scores()
    rng = np.random.default_rng(1)
    classes = np.stack([rng.integers(size, size=len(MIXED)) for size in model.sizes], 1)
    own = Subject(explanandum(pooling=pooling).to(device), TOKENIZER, device, 5)
    found = judge(own, MIXED, scores, 0.3, classes)

    def ask(text: str, kept: set[int]) -> tuple[list[float], list[int]]:
        mask = [0.0, *(float(t in kept) for t in range(len(TOKENIZER.encode(text)) - 1))]
        ranks = model.split(model(TOKENIZER.batch([text]), torch.tensor([mask])).double())
        p = [float(rank[0].softmax(0)[c]) for rank, c in zip(ranks, wanted, strict=True)]
        return p, [int(rank.argmax()) for rank in ranks]

    for i, (text, score) in enumerate(zip(MIXED, scores, strict=True)):
        wanted, n = classes[i].tolist(), len(score)
        order = sorted(range(n), key=lambda t, score=score: -score[t])
        before = ask(text, set(order))[0]
        for column, share in enumerate(SHARES):
            k = math.ceil(round(share * n, 6))
            kept, dropped = ask(text, set(order[:k]))[0], ask(text, set(order[k:]))[0]
            expected = (sum(before) - sum(dropped)) / 2
            assert found.comprehensiveness[i, column] == pytest.approx(expected, abs=1e-5)
            assert found.sufficiency[i, column] == pytest.approx((sum(before) - sum(kept)) / 2, abs=1e-5)
            if share == 0.2:
                ratios = [math.log(b / a) for a, b in zip(before, dropped, strict=True)]
                assert found.log_odds[i] == pytest.approx(sum(ratios) / 2, abs=1e-4)
        for column, fraction in enumerate(FRACTIONS):
            k = math.ceil(round(fraction * n, 6))
            assert found.deletion[i, column] == pytest.approx(sum(ask(text, set(order[k:]))[0]) / 2, abs=1e-5)
            assert found.insertion[i, column] == pytest.approx(
                sum(ask(text, set(order[:k]))[0]) / 2, abs=1e-5
            )
        k = round(0.3 * n)
        kept, predicted = ask(text, set(order[:k]))
        assert found.kept_predicted[i].tolist() == predicted
        assert found.dropped_predicted[i].tolist() == ask(text, set(order[k:]))[1]
        area = max(k / max(n, 1), 0.05)
        assert found.saliency[i] == pytest.approx(math.log(area) - sum(map(math.log, kept)) / 2, abs=1e-4)


def test_by_itself_and_among_many() -> None:
    """A window's figures have nothing to do with its neighbours, nor with the batch size."""
    texts = sequences(67, 20) + list(MIXED)
    scores = soft_scores(texts)
    done: list[int] = []
    found = judge(Subject(explanandum(), TOKENIZER, CPU, 50), texts, scores, on_batch=done.append).by_window()
    assert sum(done) == len(texts)
    for i in (0, 63, 64, len(texts) - 2):
        alone = judge(Subject(explanandum(), TOKENIZER, CPU, 1), texts[i : i + 1], scores[i : i + 1])
        for name, value in alone.by_window().items():
            assert found[name][i] == pytest.approx(value[0], abs=1e-5), name


def test_never_asked_twice() -> None:
    """At most 19 questions a window, all different, none of them about the whole window."""
    for length in (200, 30, 6, 2, 0):
        own = adding()
        (text,) = sequences(1, length)
        scores = [np.arange(float(length // 2))]
        before = own.log_probabilities([text])
        whole = own.explanandum.asked.pop()
        measure(own, [text], own.best(before), before, scores, np.array([length // 9]))
        asked = own.explanandum.asked
        assert len(asked) == len(set(asked)) <= 19 and whole not in asked
        assert len(asked) == 19 or length < 200


# ---------------------------------------------------------------- properties


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    area=st.sampled_from([0.1, 0.3, 0.8]),
)
def test_ideal_random_reversed(seed: int, lengths: list[int], area: float) -> None:
    """No order beats that of the worth, window by window, and none is beaten by its reverse."""
    texts = [sequences(1, length, seed + length)[0] for length in lengths]
    ideal = [worth_of(text) for text in texts]
    rng = np.random.default_rng(seed)
    random = [rng.random(len(score)) for score in ideal]
    found = [
        judge(adding(), texts, scores, area).by_window()
        for scores in (ideal, random, [-score for score in ideal])
    ]
    for name, best in found[0].items():
        sign = -1 if lower_is_better(name) else 1
        assert (sign * best >= sign * found[1][name] - 1e-6).all(), name
        assert (sign * found[1][name] >= sign * found[2][name] - 1e-6).all(), name


def test_every_measure_tells_them_apart() -> None:
    """On average all measures prefer the worth to a random order, and that to the reverse.

    Two thirds of the tokens speak against the class, so that its probability is far from 0 and from 1.
    """
    texts = sequences(12, 60)
    worth = WORTH * (torch.arange(len(WORTH)) % 3 == 0) - 0.1
    own = Subject(Adding(worth), TOKENIZER, CPU)
    ideal = [worth[TOKENIZER.encode(text)[1:]].numpy() for text in texts]
    classes = np.zeros((12, 2), dtype=np.int64)
    random = [np.random.default_rng(i).random(30) for i in range(12)]
    means = [
        judge(own, texts, scores, 0.3, classes).means()
        for scores in (ideal, random, [-score for score in ideal])
    ]
    assert set(means[0]) >= {"comprehensiveness", "sufficiency", "log_odds", "deletion_area", "saliency"}
    for name in means[0]:
        values = [found[name] * (-1 if lower_is_better(name) else 1) for found in means]
        assert values[0] > values[1] > values[2], name


def test_errors() -> None:
    """Scores that are not one per token, and a removal that is none."""
    with pytest.raises(ValueError, match="a mask of 2 values for a window of 3 tokens"):
        judge(adding(), ["ACGTAC"], [np.arange(2.0)])
    with pytest.raises(ValueError, match="unknown removal"):
        judge(adding(), ["ACGTAC"], [np.arange(3.0)], removal="erase")


# ---------------------------------------------------------------- top tokens


@given(scores=st.lists(st.integers(0, 3), max_size=12), count=st.integers(0, 12), seed=st.integers(0, 9))
def test_top_tokens(scores: list[int], count: int, seed: int) -> None:
    """As many as asked for, and none of the others is higher than any of them."""
    score = np.array(scores, dtype=np.float64)
    (top,) = top_tokens([score], np.array([min(count, len(scores))]), seed)
    assert top.sum() == min(count, len(scores)) and set(top.tolist()) <= {0, 1}
    if 0 < top.sum() < len(scores):
        assert score[top == 1].min() >= score[top == 0].max()
    assert (top == top_tokens([score], np.array([min(count, len(scores))]), seed)[0]).all()


def test_ties_know_no_position() -> None:
    """Of equal tokens each is as likely, in each window anew; six standard errors of 2,000 windows."""
    tops = np.array(top_tokens([np.zeros(10)] * 2000, np.full(2000, 3)))
    assert (tops.sum(1) == 3).all()
    assert tops.mean(0) == pytest.approx(np.full(10, 0.3), abs=6 * math.sqrt(0.21 / 2000))
    assert (tops != np.array(top_tokens([np.zeros(10)] * 2000, np.full(2000, 3), seed=1))).any()


# ---------------------------------------------------------------- planted truth


def test_localise_by_hand() -> None:
    """Two windows; a planted decoy counts as planted."""
    scores = [np.array([0.9, 0.8, 0.1, 0.2]), np.array([0.3, 0.4, 0.5])]
    planted = [np.array([True, False, False, True]), np.array([False, True, False])]
    decoys = [np.array([True, True, False, False]), np.array([False, False, True])]
    found = localise(scores, planted, decoys, np.array([2, 1]))
    assert found.window_auprc == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])
    assert found.window_auroc == pytest.approx([3 / 4, 1 / 2])
    assert found.overlap == pytest.approx([1 / 3, 0])
    assert found.precision.tolist() == [0.5, 0] and found.decoys.tolist() == [0.5, 1]
    all_scores, all_planted = np.concatenate(scores), np.concatenate(planted)
    assert found.auprc == average_precision(all_planted, all_scores)
    assert found.auroc == area_under_roc(all_planted, all_scores)
    assert found.prevalence == pytest.approx(3 / 7)


def test_localise_the_truth() -> None:
    """The truth as scores is perfect at its own area; a window without any says nothing."""
    rng = np.random.default_rng(0)
    planted = [rng.random(n) < 0.3 for n in (20, 40, 0)] + [np.zeros(5, dtype=np.bool_)]
    scores = [own.astype(np.float64) for own in planted]
    none = [np.zeros_like(own) for own in planted]
    found = localise(scores, planted, none, np.array([int(own.sum()) for own in planted]))
    assert found.auprc == found.auroc == 1
    for values in (found.window_auprc, found.window_auroc, found.overlap, found.precision):
        assert values[:2].tolist() == [1, 1] and np.isnan(values[2:]).all()
    assert found.decoys[:2].tolist() == [0, 0]
