"""What evaluations stand on: a classifier asked about masked windows, against slow and plain ways to ask."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import encoders
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy import MIXED, TAXONOMY, TOKENIZER, Labelled, explainer, explanandum, labelled

from wyrcli.examination import (
    REMOVALS,
    Examined,
    Floats,
    Subject,
    dinucleotide_shuffle,
    examine,
    windows_by_length,
)
from wyrcli.model.encoder_tokens import ResidueTokenizer, TextTokenizer
from wyrcli.model.masking import OPERATORS
from wyrcli.model.tokens import TokenBatch

CPU = torch.device("cpu")
DNA_REMOVALS = [name for name in REMOVALS if name != "scale-embedding"]


class Recorder:
    """A tokenizer that remembers what it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def batch(self, sequences: Sequence[str]) -> TokenBatch:
        """As the tokenizer itself."""
        self.seen += sequences
        found: TokenBatch = self.tokenizer.batch(sequences)
        return found


def subject(batch_size: int = 3, pooling: str = "mean", device: torch.device = CPU, seed: int = 0) -> Subject:
    """The toy classifier."""
    return Subject(explanandum(pooling=pooling).to(device), TOKENIZER, device, batch_size, seed)


def spans_of(text: str) -> list[tuple[int, int]]:
    """Letters of each token."""
    return TOKENIZER.spans(text)[1:]


def random_masks(seed: int = 0, texts: Sequence[str] = MIXED) -> list[Floats]:
    """Values in (0, 1) for every token."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.01, 0.99, len(spans_of(text))).astype(np.float32) for text in texts]


def normalised(logits: Tensor) -> np.ndarray[Any, Any]:
    """Log-probabilities of one answer (1, C), rank by rank."""
    first, parts = 0, []
    for size in TAXONOMY.sizes:
        parts.append(logits[0, first : first + size].double().softmax(0).log())
        first += size
    return torch.cat(parts).numpy()


# ---------------------------------------------------------------- asking


def test_unmasked(device: torch.device) -> None:
    """One window after the other, in the order given."""
    model = explanandum()
    found = subject(device=device).log_probabilities(MIXED)
    for text, row in zip(MIXED, found, strict=True):
        assert row == pytest.approx(normalised(model(TOKENIZER.batch([text]))), abs=1e-5)
    assert subject().log_probabilities([]).shape == (0, TAXONOMY.n_classes)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_operators(operator: str, pooling: str) -> None:
    """Soft masks reach the classifier as they are."""
    model, masks = explanandum(pooling=pooling), random_masks()
    found = subject(pooling=pooling).log_probabilities(MIXED, masks, operator)
    for text, mask, row in zip(MIXED, masks, found, strict=True):
        padded = torch.tensor([[0.0, *mask.tolist()]])
        answer = model(TOKENIZER.batch([text]), padded, OPERATORS[operator])
        assert row == pytest.approx(normalised(answer), abs=1e-5)


def test_mask_token() -> None:
    """The ids of removed tokens are replaced, one half included."""
    model, masks = explanandum(), random_masks()
    masks[0][1] = 0.5
    found = subject().log_probabilities(MIXED, masks, "mask-token")
    for text, mask, row in zip(MIXED, masks, found, strict=True):
        batch = TOKENIZER.batch([text])
        for place, value in enumerate(mask.tolist(), start=1):
            if value <= 0.5:
                batch.ids[0, place] = TOKENIZER.vocabulary.index("<mask>")
        assert row == pytest.approx(normalised(model(batch)), abs=1e-5)


@pytest.mark.parametrize("removal", ["n", "cut"])
def test_letters_are_replaced_or_left_out(removal: str) -> None:
    """Token by token; one half is not kept."""
    model, masks = explanandum(), random_masks()
    masks[0][1] = 0.5
    found = subject().log_probabilities(MIXED, masks, removal)
    for text, mask, row in zip(MIXED, masks, found, strict=True):
        changed = ""
        for (start, stop), value in zip(spans_of(text), mask.tolist(), strict=True):
            if value > 0.5:
                changed += text[start:stop]
            elif removal == "n":
                changed += "N" * (stop - start)
        assert row == pytest.approx(normalised(model(TOKENIZER.batch([changed]))), abs=1e-5)


def pairs_of(text: str) -> Counter[str]:
    """How often each two letters stand side by side."""
    return Counter(a + b for a, b in itertools.pairwise(text))


def test_shuffle_moves_letters_of_removed_runs_only() -> None:
    """What is kept stays in place, what is removed keeps its dinucleotides; the answer is to that text."""
    texts = ["ACGTTGCAACGTAAGTTGACCAGTACCATGACAGTTACATGAC" * 3, *MIXED]
    recorder = Recorder(TOKENIZER)
    own = subject()._replace(tokenizer=recorder, batch_size=1000)
    (rows,) = windows_by_length(texts, 1000)
    masks = random_masks(texts=texts)
    masks[0][5:40] = 0
    found = own.log_probabilities(texts, masks, "shuffle")
    changed = dict(zip(rows, recorder.seen[len(texts) :], strict=True))
    assert changed[0] != texts[0]
    for i, (text, mask) in enumerate(zip(texts, masks, strict=True)):
        kept = mask > 0.5
        for value, run in itertools.groupby(range(len(kept)), lambda t, kept=kept: kept[t]):
            tokens = list(run)
            start, stop = spans_of(text)[tokens[0]][0], spans_of(text)[tokens[-1]][1]
            before, after = text[start:stop], changed[i][start:stop]
            assert before == after if value else pairs_of(before) == pairs_of(after)
        answer = normalised(explanandum()(TOKENIZER.batch([changed[i]])))
        assert found[i] == pytest.approx(answer, abs=1e-5)
    again = subject(seed=1).log_probabilities(texts[:1], masks[:1], "shuffle")
    assert not np.allclose(again, found[:1])


@pytest.mark.parametrize("removal", DNA_REMOVALS)
def test_all_and_batches(removal: str) -> None:
    """A mask of ones takes nothing away, and how many windows are asked about at once is of no account."""
    own = subject()
    ones = [np.ones_like(mask) for mask in random_masks()]
    assert own.log_probabilities(MIXED, ones, removal) == pytest.approx(
        own.log_probabilities(MIXED), abs=1e-5
    )
    masks, done = random_masks(), []
    found = own.log_probabilities(MIXED, masks, removal, done.append)
    assert sum(done) == len(MIXED)
    for size in (1, 100):
        assert subject(size).log_probabilities(MIXED, masks, removal) == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("removal", ["gate", "scale", "cut"])
def test_nothing_left_is_the_bias(removal: str) -> None:
    """Zeros: the answer to nothing."""
    zeros = [np.zeros_like(mask) for mask in random_masks()]
    bias = normalised(explanandum().bias()[None])
    found = subject().log_probabilities(MIXED, zeros, removal)
    assert found == pytest.approx(np.tile(bias, (len(MIXED), 1)), abs=1e-5)


def test_words_stay_apart_when_others_are_cut() -> None:
    """White space has no token, but is kept once where it was between two tokens that are."""
    tokenizer = TextTokenizer(encoders.word_pieces(), pad_id=0, vocab_size=encoders.N_PIECES, max_tokens=64)
    recorder = Recorder(tokenizer)
    own = Subject(explanandum(), recorder, CPU)
    tokens = ["good", "film", ",", "not", "great", "ly", "dull"]
    text = "good  film, not greatly dull"
    joined = [False, True, False, False, True, False]  # to the next one, without a space
    for kept in itertools.product((False, True), repeat=len(tokens)):
        own.log_probabilities([text], [np.array(kept, dtype=np.float32)], "cut")
        expected, last = "", None
        for i in np.flatnonzero(kept).tolist():
            expected += "" if last is None or all(joined[last:i]) else " "
            expected, last = expected + tokens[i], i
        assert recorder.seen[-1].split() == expected.split()


def test_letters_of_two_tokens_are_written_once() -> None:
    """A byte-level tokenizer has several tokens for a letter beyond ASCII."""
    vocabulary = {token: i for i, token in enumerate("!ab\u00e2\u0124\u00ac")}  # the last three for \u20ac
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.post_processor = tokenizers.processors.TemplateProcessing(single="! $A !", special_tokens=[("!", 0)])
    recorder = Recorder(TextTokenizer(fast, pad_id=0, vocab_size=len(vocabulary), max_tokens=64))
    own = Subject(explanandum(), recorder, CPU)
    for kept in itertools.product((0, 1), repeat=5):
        recorder.seen.clear()
        own.log_probabilities(["a\u20acb"], [np.array(kept, dtype=np.float32)], "cut")
        expected = "a" * kept[0] + "\u20ac" * any(kept[1:4]) + "b" * kept[4]
        assert recorder.seen[-1] == expected


def test_what_is_allowed() -> None:
    """N and shuffles are for DNA, a mask token for who has one, and a third operator for cls heads."""
    assert set(subject().removals) == set(REMOVALS) - {"scale-embedding"}
    assert set(subject(pooling="cls").removals) == set(REMOVALS)
    protein = Subject(explanandum(), ResidueTokenizer(encoders.ESM, max_tokens=62), CPU)
    assert set(protein.removals) == {"gate", "scale", "cut"}
    for removal in ("n", "shuffle", "mask-token"):
        with pytest.raises(ValueError, match="no meaning"):
            protein.log_probabilities(["MKV"], [np.zeros(3, dtype=np.float32)], removal)


@pytest.mark.parametrize("removal", DNA_REMOVALS)
def test_bad_masks(removal: str) -> None:
    """A mask that is too short, and a removal that does not exist."""
    with pytest.raises(ValueError, match="a mask of 2 values for a window of 3 tokens"):
        subject().log_probabilities(["ACGTAC"], [np.ones(2, dtype=np.float32)], removal)
    with pytest.raises(ValueError, match="unknown removal 'erase'"):
        subject().log_probabilities(["ACGTAC"], None, "erase")


def test_classes() -> None:
    """By hand: two classes of the first rank, three of the second."""
    log = np.log(np.array([[0.9, 0.1, 0.2, 0.3, 0.5], [0.4, 0.6, 0.7, 0.1, 0.2]], dtype=np.float32))
    assert subject().best(log).tolist() == [[0, 2], [1, 0]]
    chosen = subject().of_classes(log, np.array([[1, 0], [1, 2]]))
    assert np.exp(chosen) == pytest.approx(np.array([[0.1, 0.2], [0.6, 0.2]]))


# ---------------------------------------------------------------- helpers


@given(lengths=st.lists(st.integers(0, 30), max_size=30), batch_size=st.integers(1, 9))
def test_windows_by_length(lengths: list[int], batch_size: int) -> None:
    """Each window once; no batch is padded to more than the budget, unless it is one window."""
    batches = list(windows_by_length(["A" * n for n in lengths], batch_size))
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    budget = batch_size * max(lengths, default=0)
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)


@given(text=st.text("ACGTN", max_size=40), seed=st.integers(0, 99))
def test_dinucleotides_stay(text: str, seed: int) -> None:
    """The same pairs of neighbours and the same ends."""
    found = dinucleotide_shuffle(text, np.random.default_rng(seed))
    assert pairs_of(found) == pairs_of(text) and len(found) == len(text)
    assert found[:1] == text[:1] and found[-1:] == text[-1:]


def test_every_order_is_as_likely() -> None:
    """All orders with the same dinucleotides, found by trying all; chi-squared below its .999999 quantile."""
    text = "AACATCAGA"
    orders = {
        "".join(order) for order in itertools.permutations(text) if pairs_of("".join(order)) == pairs_of(text)
    }
    n = 200 * len(orders)
    rng = np.random.default_rng(0)
    counts = Counter(dinucleotide_shuffle(text, rng) for _ in range(n))
    assert set(counts) == orders and len(orders) > 10
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    freedom = len(orders) - 1
    # Wilson and Hilferty's cube-root approximation of the quantile.
    assert chi_squared < freedom * (1 - 2 / (9 * freedom) + 4.75 * (2 / (9 * freedom)) ** 0.5) ** 3


# ---------------------------------------------------------------- masks


def examined(kind: str, batch_size: int = 3, classes: Any = None, texts: Sequence[str] = MIXED) -> Examined:
    """Windows of many lengths with the masks of a random Explainer."""
    n = len(texts)
    windows = Labelled(texts, np.zeros((n, 2), dtype=np.int64), ["r"] * n, np.zeros(n, dtype=np.int64))
    return examine(subject(batch_size), explainer(kind), windows, classes)


@pytest.mark.parametrize("given_classes", [False, True])
@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_examine(kind: str, given_classes: bool) -> None:
    """One window after the other by hand: predictions, and a mask for each class asked for."""
    rng = np.random.default_rng(0)
    classes = np.stack([rng.integers(size, size=len(MIXED)) for size in TAXONOMY.sizes], 1)
    found = examined(kind, classes=classes if given_classes else None)
    model, masker = explanandum(), explainer(kind)
    assert len(found) == len(MIXED) and found.sequences == list(MIXED)
    for i, text in enumerate(MIXED):
        batch = TOKENIZER.batch([text])
        with torch.inference_mode():
            logits, states = model.classify(batch)
            masks = masker(batch, states).sigmoid()[0, 1 : 1 + len(spans_of(text))].numpy()
        best = [int(rank.argmax()) for rank in model.split(logits[0])]
        assert found.predicted[i].tolist() == best
        assert found.log_probabilities[i] == pytest.approx(normalised(logits), abs=1e-5)
        wanted = classes[i].tolist() if given_classes else best
        assert found.classes[i].tolist() == wanted
        columns = [wanted[0], TAXONOMY.sizes[0] + wanted[1]]
        assert found.rank_masks[i] == pytest.approx(masks[:, columns], abs=1e-5)
        assert found.masks[i] == pytest.approx(masks[:, columns].max(1), abs=1e-5)
        assert found.rounded[i].tolist() == [float(value > 0.5) for value in found.masks[i]]
        assert found.spans[i].tolist() == [list(span) for span in spans_of(text)]


def test_examine_in_any_batches() -> None:
    """Masks and answers of a window have nothing to do with its neighbours."""
    one, all_at_once = examined("lstm", 1), examined("lstm", 100)
    assert one.log_probabilities == pytest.approx(all_at_once.log_probabilities, abs=1e-5)
    for a, b in zip(one.rank_masks, all_at_once.rank_masks, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_labels_and_progress() -> None:
    """Labels come with the windows; the callback hears of each window once; no window at all is allowed."""
    windows, done = labelled(10), []
    found = examine(subject(), explainer("state"), windows, on_batch=done.append)
    assert (found.labels == windows.labels).all() and sum(done) == 10
    assert len(examined("state", texts=[])) == 0
