"""Tokens against the original tokenizer's golden cases, and the fast path against the plain one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import MIXED, TOKENIZER

from wyrcli.errors import CheckpointError
from wyrcli.model.tokens import KmerTokenizer

V2 = KmerTokenizer.nucleotide_transformer_v2()
TEXT = st.text("ACGTACGTACGTNacgtnRYUux-. Å☃", max_size=60)
TEXTS = st.lists(TEXT, max_size=6)


def vocabulary_v1() -> list[str]:
    """The v1 vocabulary: four special tokens before the k-mers, two behind the single bases."""
    v2 = list(V2.vocabulary)
    return [*v2[:4], *v2[6:], "<eos>", "<bos>"]


def golden(shared: Path) -> dict[str, Any]:
    """The golden cases of the original tokenizer."""
    content: dict[str, Any] = json.loads((shared / "goldens/tokenizer_goldens.json").read_text("utf-8"))
    assert len(content["cases"]) == 124
    return content


def mapped(text: str) -> str:
    """What wyr reads instead of letters that the original collapses."""
    return re.sub("[^ACGTN]", "N", text.replace("u", "T").replace("U", "T").upper())


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_golden_ids(shared: Path, version: str) -> None:
    """Every golden case: equal where the original keeps alignment, else equal to the mapped sequence."""
    name = f"nt_{version}_tiny"
    tokenizer = KmerTokenizer.from_pretrained(shared / "goldens" / name)
    key = "input_ids" if version == "v2" else "input_ids_v1"
    aligned = 0
    for case in golden(shared)["cases"]:
        text = case["sequence"]
        ids = tokenizer.encode(text)
        if re.fullmatch("[ACGTN]*", text):
            aligned += 1
            assert ids == case[key], text
        assert ids == tokenizer.encode(mapped(text)), text
        if "\n" not in text:
            assert tokenizer.batch([text]).ids[0].tolist() == ids, text
        spans = tokenizer.spans(text)
        assert len(spans) == len(ids) and spans[0] == (0, 0)
        assert [a for a, _ in spans[1:]] + [len(text)] == [0] + [b for _, b in spans[1:]]
    assert aligned > 60


def test_golden_padded_batch(shared: Path) -> None:
    """Padding on the right, with the original's ids and attention mask."""
    extra = golden(shared)["extra"]["pad_batch"]
    batch = V2.batch(["ACGTAC", "ACGTACACGTACN"])
    assert batch.ids.tolist() == extra["input_ids"]
    assert batch.attention.int().tolist() == extra["attention_mask"]
    assert batch.padded and batch.attention_mask is batch.attention


def test_vocabularies_of_the_goldens(shared: Path) -> None:
    """The v2 vocabulary that wyr makes is the published one; v1 differs in its first ids."""
    assert KmerTokenizer.from_pretrained(shared / "goldens/nt_v2_tiny").vocabulary == V2.vocabulary
    assert list(KmerTokenizer.from_pretrained(shared / "goldens/nt_v1_tiny").vocabulary) == vocabulary_v1()


@pytest.mark.parametrize("n", range(20))
def test_number_of_tokens(n: int) -> None:
    """n bases make n // 6 k-mers and n % 6 single tokens, and N breaks the frame of what follows."""
    text = ("ACGTTGCA" * 3)[:n]
    assert len(V2.encode(text)) == 1 + n // 6 + n % 6 == V2.count_tokens(text)
    assert len(V2.encode("N" + text)) == 2 + n // 6 + n % 6
    assert V2.encode("N" + text)[2:] == V2.encode(text)[1:]


@pytest.mark.parametrize("tokenizer", [V2, TOKENIZER, KmerTokenizer(vocabulary_v1())], ids=["v2", "k2", "v1"])
@given(texts=TEXTS)
def test_batch_equals_encode(tokenizer: KmerTokenizer, texts: list[str]) -> None:
    """The vectorised path gives the ids and spans of the plain one, for several sequences at once."""
    flat, batch = tokenizer.tokenize(texts), tokenizer.batch(texts)
    assert len(batch) == len(flat.counts) == len(texts)
    assert batch.padded == (len(set(flat.counts.tolist())) > 1)
    first = 0
    for i, text in enumerate(texts):
        ids, spans = tokenizer.encode(text), np.array(tokenizer.spans(text))
        n = len(ids)
        own = slice(first, first + n - 1)
        assert flat.ids[own].tolist() == ids[1:]
        assert flat.spans[own].tolist() == spans[1:].tolist()
        assert batch.ids[i].tolist() == ids + [tokenizer.pad_id] * (batch.ids.shape[1] - n)
        assert batch.attention[i].tolist() == [True] * n + [False] * (batch.ids.shape[1] - n)
        assert batch.valid[i].tolist() == [False, *batch.attention[i].tolist()[1:]]
        assert (batch.spans[i, :n] == spans).all() and (batch.spans[i, n:] == 0).all()
        first += n - 1
    assert first == len(flat.ids) == len(flat.spans)


@given(text=TEXT)
def test_spans_tile_and_count_is_a_bound(text: str) -> None:
    """Spans leave no gap and do not overlap; count_tokens never says too little."""
    spans = TOKENIZER.spans(text)[1:]
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a < b for a, b in spans)
    for tokenizer in (TOKENIZER, V2):
        assert tokenizer.count_tokens(text) >= len(tokenizer.encode(text))


@given(text=st.text("ACGT", max_size=60))
def test_count_is_exact_without_breaks(text: str) -> None:
    """Where every letter is a base, the bound is the number itself."""
    assert V2.count_tokens(text) == len(V2.encode(text))


def test_special_tokens_in_the_text_are_letters() -> None:
    """A literal <cls> in a sequence is five unknown letters, never a token."""
    assert V2.encode("<cls>") == V2.encode("NCNNN")
    assert V2.mask_id not in V2.encode("<mask>")


@pytest.mark.parametrize("texts", [["AC\nGT"], ["A", "\n"], ["\n"]])
def test_line_break_is_refused(texts: list[str]) -> None:
    """The fast path separates sequences by line breaks, so none may be inside of one."""
    with pytest.raises(ValueError, match="line break"):
        TOKENIZER.tokenize(texts)


def test_empty_batch() -> None:
    """No sequences make a batch of no rows; an empty sequence makes <cls> alone."""
    assert TOKENIZER.batch([]).ids.shape == (0, 1)
    batch = TOKENIZER.batch([""])
    assert batch.ids.tolist() == [[TOKENIZER.cls_id]] and not batch.valid.any() and not batch.padded


def test_batch_moves(device: torch.device) -> None:
    """A batch on another device has the same content and stays integral."""
    batch = TOKENIZER.batch(MIXED)
    moved = batch.to(device)
    assert moved.ids.device.type == device.type and moved.ids.dtype == torch.int64
    assert torch.equal(moved.ids.cpu(), batch.ids) and torch.equal(moved.valid.cpu(), batch.valid)


def test_vocabulary_roundtrip(tmp_path: Path) -> None:
    """What is saved is read again, without a trailing newline, as in the official file."""
    V2.save(tmp_path)
    text = (tmp_path / "vocab.txt").read_text("utf-8")
    assert text.endswith("\nN") and len(text.split("\n")) == 4107
    assert KmerTokenizer.from_pretrained(tmp_path).vocabulary == V2.vocabulary


def test_order_of_kmers_is_free() -> None:
    """Ids follow the vocabulary, whatever the order of its k-mers."""
    turned = KmerTokenizer([*TOKENIZER.vocabulary[:6], *reversed(TOKENIZER.vocabulary[6:])])
    text = MIXED[3]
    letters = [[t.vocabulary[i] for i in t.encode(text)] for t in (TOKENIZER, turned)]
    assert letters[0] == letters[1]
    assert turned.batch([text]).ids[0].tolist() == turned.encode(text)


def test_trailing_newline_changes_nothing(tmp_path: Path) -> None:
    """An editor's newline at the end of vocab.txt adds no token."""
    TOKENIZER.save(tmp_path)
    with (tmp_path / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert KmerTokenizer.from_pretrained(tmp_path).vocabulary == TOKENIZER.vocabulary


BROKEN = {
    "empty": b"",
    "no special tokens": "\n".join(TOKENIZER.vocabulary[6:]).encode(),
    "no k-mers": b"<cls>\n<pad>\nA\nC\nG\nT\nN",
    "a k-mer lacks": "\n".join(t for t in TOKENIZER.vocabulary if t != "AC").encode(),
    "two lengths": "\n".join([*TOKENIZER.vocabulary, "ACG"]).encode(),
    "a token twice": "\n".join([*TOKENIZER.vocabulary, "AC"]).encode(),
    "an empty line": "\n".join([*TOKENIZER.vocabulary[:9], "", *TOKENIZER.vocabulary[9:]]).encode(),
    "not text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_vocabulary(tmp_path: Path, content: bytes) -> None:
    """A vocabulary that cannot be right is refused with a CheckpointError."""
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vocab\.txt"):
        KmerTokenizer.from_pretrained(tmp_path)


def test_no_vocabulary(tmp_path: Path) -> None:
    """A directory without vocab.txt is named."""
    with pytest.raises(CheckpointError, match="not found"):
        KmerTokenizer.from_pretrained(tmp_path)
