"""Encoders of transformers: what a mask does to them, held against their own forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import pytest
import tokenizers
import torch
from encoders import ESM, KINDS, PROTEINS, TEXTS, word_pieces
from torch import Tensor
from toy import MIXED, TOKENIZER, backbone, explainer, explanandum, randomise

from wyrcli.errors import CheckpointError, InputError
from wyrcli.model.encoder_tokens import ResidueTokenizer, TextTokenizer, read_tokenizer
from wyrcli.model.encoders import EncoderExplanandum
from wyrcli.model.explainer import build_explainer
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.masking import OPERATORS, gate, get_operator, scale
from wyrcli.model.proof import prove
from wyrcli.model.tokens import KmerTokenizer, TokenBatch, Tokenizer

F64 = torch.float64
every_kind = pytest.mark.parametrize("kind", KINDS)


def tokenizer_of(kind: str) -> Tokenizer:
    """Words, or residues for ESM."""
    if kind.startswith("esm"):
        return ResidueTokenizer(ESM, max_tokens=62)
    return TextTokenizer(word_pieces(), pad_id=0, vocab_size=encoders.N_PIECES, max_tokens=64)


@cache
def _built(kind: str) -> Any:
    return encoders.build(kind)


def model_of(kind: str, dtype: torch.dtype = F64) -> EncoderExplanandum:
    """The classifier, frozen."""
    network = copy.deepcopy(_built(kind)).to(dtype)
    empty = [0, 2] if kind.startswith("esm") else [2, 3]
    return EncoderExplanandum(network, [3], empty).freeze()


def batch_of(kind: str) -> TokenBatch:
    """Sequences of many lengths, one of them empty."""
    return tokenizer_of(kind).batch(PROTEINS if kind.startswith("esm") else TEXTS)


def soft_mask(batch: TokenBatch) -> Tensor:
    """Random values in (0.1, 0.9)."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 + 0.8 * torch.rand(batch.ids.shape, generator=generator, dtype=F64)


def row(batch: TokenBatch, i: int) -> TokenBatch:
    """One window without its padding."""
    n = int(batch.attention[i].sum())
    ids, attention, valid = (t[i : i + 1, :n] for t in (batch.ids, batch.attention, batch.valid))
    return TokenBatch(ids, attention, valid, batch.spans[i : i + 1, :n], padded=False)


def near(actual: Tensor, expected: Tensor, atol: float = 1e-9) -> None:
    """Equal within an absolute limit; the tests compute in float64."""
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


# ---------------------------------------------------------------- masks


@every_kind
@pytest.mark.parametrize("operator", [None, *OPERATORS])
def test_ones_are_the_plain_forward_pass(kind: str, operator: str | None) -> None:
    """Of transformers' own class, with its own padding mask."""
    model, batch = model_of(kind), batch_of(kind)
    plain = model.network(input_ids=batch.ids, attention_mask=batch.attention.long()).logits
    assert plain.std() > 0.1, "the test would show nothing"
    if operator is None:
        found = model(batch)
    else:
        found = model(batch, torch.ones(batch.ids.shape, dtype=F64), get_operator(operator))
    # ESM's rotary embedding computes in float32 whatever the network does.
    near(found, plain, 1e-6 if kind == "esm" else 1e-9)
    near(model.plain(batch), plain, 0)


@every_kind
def test_batch_and_padding_change_nothing(kind: str) -> None:
    """Each window alone answers as in the batch, with a mask and without."""
    model, batch = model_of(kind), batch_of(kind)
    mask = soft_mask(batch)
    assert batch.padded
    for operator in (gate, scale):
        together, masked = model.classify(batch), model.classify(batch, mask, operator)
        for i in range(len(batch)):
            alone = row(batch, i)
            n = alone.ids.shape[1]
            near(together.logits[i : i + 1], model(alone))
            one = model.classify(alone, mask[i : i + 1, :n], operator)
            near(masked.logits[i : i + 1], one.logits)
            near(masked.states[-1][i : i + 1, :n], one.states[-1])


@every_kind
def test_gate_removes_as_the_padding_mask_does(kind: str) -> None:
    """A token at m = 0 is one that transformers was told not to attend to, wherever it is."""
    model, batch = model_of(kind), batch_of(kind)
    kept = soft_mask(batch) < 0.5
    attended = batch.attention & (kept | ~batch.valid)
    assert (batch.valid & ~kept).any()
    found = model.classify(batch, kept.to(F64), gate)
    expected = model.network(input_ids=batch.ids, attention_mask=attended.long(), output_hidden_states=True)
    near(found.states[-1][attended], expected.hidden_states[-1][attended], 1e-6)
    assert not torch.allclose(found.logits, model(batch), atol=1e-3)
    if model.pooling == "cls":
        near(found.logits, expected.logits, 1e-6)


@every_kind
@pytest.mark.parametrize("n_kept", [1, 3])
def test_gate_on_the_last_tokens_is_the_shorter_sequence(kind: str, n_kept: int) -> None:
    """Without the special token at the end, which would stand elsewhere."""
    model, batch = model_of(kind), row(batch_of(kind), 0 if kind.startswith("esm") else 4)
    whole, shorter = cut(batch, int(batch.valid.sum())), cut(batch, n_kept)
    mask = torch.zeros(whole.ids.shape, dtype=F64)
    mask[:, 1 : 1 + n_kept] = 1
    found, expected = model.classify(whole, mask, gate), model.classify(shorter)
    near(found.states[-1][:, : 1 + n_kept], expected.states[-1])
    if model.pooling == "cls":
        near(found.logits, expected.logits)


def cut(batch: TokenBatch, n: int) -> TokenBatch:
    """The first special token and the first ``n`` valid ones."""
    ids, attention, valid = (t[:, : 1 + n] for t in (batch.ids, batch.attention, batch.valid))
    return TokenBatch(ids, attention, valid, batch.spans[:, : 1 + n], padded=False)


@every_kind
@pytest.mark.parametrize("operator", ["gate", "scale"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_gradient_reaches_the_mask(kind: str, operator: str, value: float) -> None:
    """It is finite, and zero for special tokens and padding."""
    model, batch = model_of(kind), batch_of(kind)
    mask = torch.full(batch.ids.shape, value, dtype=F64, requires_grad=True)
    model(batch, mask, get_operator(operator)).square().sum().backward()
    assert mask.grad is not None and bool(mask.grad.isfinite().all())
    assert not mask.grad[~batch.valid].any()
    if value:
        assert mask.grad[batch.valid].abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert-mean", "electra"])
@pytest.mark.parametrize("operator", ["gate", "scale"])
def test_gradcheck(kind: str, operator: str) -> None:
    """Gradients equal finite differences; and with or without a gradient the answer is the same."""
    model, batch = model_of(kind), row(batch_of(kind), 0)
    mask = soft_mask(batch).requires_grad_()
    answer = lambda m: model(batch, m, get_operator(operator))  # noqa: E731
    # Some attention in transformers computes in float32, so that steps must not be too small.
    assert torch.autograd.gradcheck(answer, (mask,), eps=1e-3, atol=1e-3)
    near(answer(mask), answer(mask.detach()), 1e-6)


@every_kind
def test_scale_multiplies_embeddings(kind: str) -> None:
    """All else is left as it was, and so is the network afterwards."""
    model, batch = model_of(kind), batch_of(kind)
    mask = soft_mask(batch)
    plain, scaled = model.classify(batch), model.classify(batch, mask, scale)
    if kind != "electra":  # which projects its embeddings, with a bias
        factor = torch.where(batch.valid, mask, torch.ones_like(mask))
        near(scaled.states[0], plain.states[0] * factor[..., None])
    assert not torch.allclose(scaled.logits, plain.logits, atol=1e-3)
    near(model(batch), plain.logits, 0)
    embeddings = model.network.base_model.embeddings
    assert not embeddings._forward_hooks and not embeddings._forward_pre_hooks
    assert model.network.config._attn_implementation == "sdpa"


@every_kind
def test_sizes_and_states(kind: str) -> None:
    """What Explainers rely on: the number and size of states, and that both kinds work."""
    model, batch = model_of(kind, torch.float32), batch_of(kind)
    logits, states = model.classify(batch)
    assert len(states) == model.n_states == 4 and logits.dtype == torch.float32
    assert {tuple(s.shape) for s in states} == {(*batch.ids.shape, model.hidden_size)}
    assert int(batch.ids.max()) < model.vocab_size == tokenizer_of(kind).vocab_size
    for name, config in (
        ("state", {"hidden_size": model.hidden_size, "n_states": model.n_states}),
        ("lstm", {"vocab_size": model.vocab_size}),
    ):
        masks = build_explainer(name, {**config, "n_classes": 3}).eval()(batch, states)
        assert masks.shape == (*batch.ids.shape, 3)


@every_kind
def test_bias_is_the_answer_to_nothing(kind: str) -> None:
    """Special tokens alone."""
    model = model_of(kind)
    near(model.bias(), model(tokenizer_of(kind).batch([""]))[0].float(), 1e-6)


@every_kind
@pytest.mark.parametrize("autocast", [False, True])
def test_bf16(kind: str, autocast: bool) -> None:
    """Logits are float32, and about the same; also with a mask and its gradient."""
    exact, batch = model_of(kind), batch_of(kind)
    model = model_of(kind, torch.float32 if autocast else torch.bfloat16)
    mask = soft_mask(batch).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        answers = model(batch), model(batch, mask), model(batch, mask.detach(), scale)
    expected = exact(batch), exact(batch, mask.detach().double()), exact(batch, mask.detach().double(), scale)
    answers[1].sum().backward()
    assert mask.grad is not None and bool(mask.grad.isfinite().all())
    for found, wanted in zip(answers, expected, strict=True):
        assert found.dtype == torch.float32
        both = torch.stack([found.detach().double().flatten(), wanted.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.98


def test_frozen_and_new_classes() -> None:
    """Frozen means frozen; new heads come with the old encoder, for as many ranks as asked for."""
    model = model_of("distilbert", torch.float32)
    assert not model.train().network.training and not any(p.requires_grad for p in model.parameters())
    other = model.with_classes([2, 4])
    assert other.sizes == (2, 4) and all(p.requires_grad for p in other.parameters())
    assert other.train().network.training
    batch = batch_of("distilbert")
    other.eval()
    assert torch.equal(other.classify(batch).states[-1], model.classify(batch).states[-1])
    assert [part.shape[1] for part in other.split(other(batch))] == [2, 4]
    assert other.predict(other(batch))[0].shape == (len(batch), 2)
    with pytest.raises(ValueError, match="3 labels"):
        EncoderExplanandum(model.network, [2], [2, 3])


# ---------------------------------------------------------------- proof


@every_kind
def test_proof_passes(kind: str) -> None:
    """For every family, frozen or not; and the model is left as it was."""
    model = model_of(kind, torch.float32)
    prove(model, tokenizer_of(kind))
    trained = model.with_classes([3]).train()
    randomise(trained)
    prove(trained, tokenizer_of(kind))
    assert trained.training and not any(p.grad is not None for p in trained.parameters())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("version", [1, 2])
def test_proof_passes_for_the_nucleotide_transformer(pooling: str, version: int) -> None:
    """Both versions of it, by our own code."""
    v1 = {"position_embedding_type": "absolute", "token_dropout": True, "add_bias_fnn": True}
    model = Explanandum(backbone(**(v1 if version == 1 else {})), (2, 3), pooling)
    randomise(model.heads, 1)
    prove(model, TOKENIZER)
    prove(explanandum(pooling=pooling), TOKENIZER)


class Sabotaged(EncoderExplanandum):
    """An encoder with one fault."""

    fault = ""

    def classify(self, batch: TokenBatch, mask: Tensor | None = None, operator: Any = gate) -> Any:
        if mask is not None and self.fault == "ignores masks":
            mask = None
        if mask is not None and self.fault == "no gradient":
            mask = mask.detach()
        if mask is not None and self.fault == "gate leaks":
            mask = mask.clamp_min(0.01)
        if mask is not None and self.fault == "ones are not one":
            mask = 0.99 * mask
        found = super().classify(batch, mask, operator)
        if self.fault == "reads its neighbours":
            found = found._replace(logits=found.logits + found.logits.mean(0))
        return found

    def _attention(self, batch: TokenBatch, key_bias: Tensor) -> Any:
        given = super()._attention(batch, key_bias)
        if self.fault == "no window":
            return {name: given["full_attention"] for name in given}
        if self.fault == "sees padding":
            return key_bias[:, None, None, :].expand(-1, 1, batch.ids.shape[1], -1)
        return given

    @contextmanager
    def _altered(self, batch: TokenBatch, factor: Any, bias: Any) -> Iterator[None]:
        with super()._altered(batch, None if self.fault == "no factor" else factor, bias):
            yield


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("ignores masks", "bert", "removed tokens leave something behind"),
        ("no gradient", "roberta", "no gradient in the mask"),
        ("gate leaks", "esm", "removed tokens leave something behind"),
        ("ones are not one", "distilbert", "a mask of ones changes its answer"),
        ("reads its neighbours", "electra", "its answer is not that of its own forward pass"),
        ("no window", "modernbert", "a mask of ones changes its answer"),
        ("sees padding", "bert", "a mask of ones changes its answer"),
    ],
)
def test_proof_refuses(fault: str, kind: str, message: str) -> None:
    """Each fault is named, with a number."""
    good = model_of(kind, torch.float32)
    bad = Sabotaged(good.network, good.sizes, good.empty_ids)
    bad.fault = fault
    with pytest.raises(CheckpointError, match=message) as caught:
        prove(bad.freeze(), tokenizer_of(kind))
    assert "gradient" in message or "it differs by" in str(caught.value)


def test_proof_refuses_tokens_out_of_order() -> None:
    """The rest of wyr takes the valid tokens from index 1 on."""

    class Reversed(KmerTokenizer):
        def batch(self, sequences: Any) -> TokenBatch:
            b = super().batch(sequences)
            return TokenBatch(b.ids.flip(1), b.attention.flip(1), b.valid.flip(1), b.spans, b.padded)

    with pytest.raises(CheckpointError, match="side by side"):
        prove(explanandum(), Reversed(TOKENIZER.vocabulary))


# ---------------------------------------------------------------- tokens


def test_text_tokens() -> None:
    """Spans are characters of the text given, also where it is normalised; special tokens have none."""
    tokenizer = tokenizer_of("bert")
    texts = ["Ba\u0301d  filmly!", "", "good [SEP] film"]
    batch = tokenizer.batch(texts)
    assert batch.ids[0].tolist() == [2, 6, 9, 17, 1, 3] and batch.ids[1].tolist() == [2, 3, 0, 0, 0, 0]
    assert batch.valid.sum(-1).tolist() == [4, 0, 3] and batch.attention.sum(-1).tolist() == [6, 2, 5]
    assert batch.valid[0].tolist() == [False, True, True, True, True, False]
    pieces = [texts[0][a:b] for a, b in batch.spans[0, 1:5].tolist()]
    assert pieces == ["Ba\u0301d", "film", "ly", "!"] and not batch.spans[0, [0, 5]].any()
    assert [texts[2][a:b] for a, b in batch.spans[2, 1:4].tolist()] == ["good", "[SEP]", "film"]
    assert [tokenizer.count_tokens(t) for t in texts] == [6, 2, 5]
    assert (tokenizer.alphabet, tokenizer.pad_id, tokenizer.max_tokens) == ("text", 0, 64)


def test_text_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    """Also after a round trip, which its own class can read."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = tokenizer_of("bert")
    theirs = PreTrainedTokenizerFast(tokenizer_object=word_pieces(), pad_token="[PAD]")
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path, "bert", pad_id=0, vocab_size=encoders.N_PIECES, max_tokens=64)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = theirs(text, truncation=False, padding=False)["input_ids"]
        assert tokenizer.batch([text]).ids[0].tolist() == ids == again.batch([text]).ids[0].tolist()
        assert auto(text)["input_ids"] == ids


def test_residue_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    """One per residue between <cls> and <eos>; unknown letters are <unk>, one each."""
    from transformers import EsmTokenizer

    tokenizer = tokenizer_of("esm")
    tokenizer.save(tmp_path)
    theirs = EsmTokenizer(str(tmp_path / "vocab.txt"))
    again = read_tokenizer(tmp_path, "esm", pad_id=1, vocab_size=len(ESM), max_tokens=62)
    for protein in [*PROTEINS, "MXBZJK"]:
        ids = theirs(protein)["input_ids"]
        assert tokenizer.batch([protein]).ids[0].tolist() == ids == again.batch([protein]).ids[0].tolist()
        assert tokenizer.count_tokens(protein) == len(ids)
    batch = tokenizer.batch(["mJ*K", "A"])
    unknown = ESM.index("<unk>")
    assert batch.ids[0].tolist() == [0, ESM.index("M"), unknown, unknown, ESM.index("K"), 2]
    assert batch.spans[0].tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [0, 0]]
    assert batch.ids[1].tolist() == [0, ESM.index("A"), 2, 1, 1, 1]


@pytest.mark.parametrize(("kind", "letters"), [("bert", "good " * 62), ("esm", "M" * 60)])
def test_too_long_is_refused(kind: str, letters: str) -> None:
    """Nothing is cut off in silence."""
    tokenizer = tokenizer_of(kind)
    tokenizer.batch([letters])
    with pytest.raises(InputError, match=f"the model reads at most {tokenizer.max_tokens}"):
        tokenizer.batch([letters + letters])


def test_older_files(tmp_path: Path) -> None:
    """vocab.txt of WordPiece, and vocab.json with merges.txt of byte-level BPE."""
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "##ly"])
    )
    found = read_tokenizer(tmp_path, "bert", pad_id=0, vocab_size=9, max_tokens=8)
    assert found.batch(["Goodly x"]).ids[0].tolist() == [2, 5, 6, 1, 3]
    roberta = tmp_path / "roberta"
    roberta.mkdir()
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "g", "o", "\u0120", "go", "\u0120go"]
    (roberta / "vocab.json").write_text(str({t: i for i, t in enumerate(vocabulary)}).replace("'", '"'))
    (roberta / "merges.txt").write_text("#version: 0.2\ng o\n\u0120 go\n", encoding="utf-8")
    found = read_tokenizer(roberta, "roberta", pad_id=1, vocab_size=10, max_tokens=8)
    assert found.batch(["go go"]).ids[0].tolist() == [0, 8, 9, 2]
    assert found.batch(["go go"]).spans[0].tolist() == [[0, 0], [0, 2], [3, 5], [0, 0]]


def test_tokenizers_that_do_not_fit(tmp_path: Path) -> None:
    """Each is a CheckpointError that says why."""

    def read(model_type: str = "bert", vocab_size: int = encoders.N_PIECES) -> Tokenizer:
        return read_tokenizer(tmp_path, model_type, pad_id=0, vocab_size=vocab_size, max_tokens=64)

    for model_type in ("bert", "roberta", "modernbert", "esm"):
        with pytest.raises(CheckpointError, match="no tokenizer"):
            read(model_type)
    word_pieces(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="needs 24 embeddings, but vocab_size is 9"):
        read(vocab_size=9)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(CheckpointError, match="do_lower_case False"):
        read()
    (tmp_path / "tokenizer_config.json").unlink()
    bare = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    bare.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", 3)]
    )
    bare.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="special tokens"):
        read()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read()
    (tmp_path / "vocab.txt").write_text("<cls>\n<pad>")
    with pytest.raises(CheckpointError, match=r"vocab\.txt lacks <eos>"):
        read("esm")


@pytest.mark.parametrize("kind", ["bert", "esm", "kmers"])
def test_samples(kind: str) -> None:
    """Made-up sequences have about as many tokens as asked for, and a seed gives the same again."""
    tokenizer = TOKENIZER if kind == "kmers" else tokenizer_of(kind)
    for n in (0, 1, 12):
        text = tokenizer.sample(n, seed=3)
        assert text == tokenizer.sample(n, seed=3)
        assert int(tokenizer.batch([text]).valid.sum()) == n
    assert tokenizer.sample(12, 1) != tokenizer.sample(12, 2)


def test_pads_like_the_kmer_tokenizer() -> None:
    """The two ways to make a batch agree."""
    from wyrcli.model.tokens import pad_tokens

    flat = [TOKENIZER.tokenize([text]) for text in MIXED]
    rows = [np.concatenate([[TOKENIZER.cls_id], f.ids]) for f in flat]
    found = pad_tokens(rows, [f.spans for f in flat], 0, TOKENIZER.pad_id)
    expected = TOKENIZER.batch(MIXED)
    for name in ("ids", "attention", "valid"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert np.array_equal(found.spans, expected.spans) and found.padded == expected.padded
    assert explainer("lstm")(found, []).shape == (*found.ids.shape, 5)
