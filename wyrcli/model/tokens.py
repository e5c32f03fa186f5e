"""Sequences to tokens, with the letters that each token covers; k-mers of bases.

The Nucleotide Transformer reads a sequence greedily from left to right: six consecutive A, C, G or T
make one k-mer token; near the end of such a run, and for every N, single nucleotides do.  Hence an N
shifts the k-mer frame of what follows it.  A ``<cls>`` token is put first.

Original tokenizers collapse a run of lower-case or ambiguous letters into one ``<unk>``, and with it
the correspondence of tokens to bases is lost.  Here such letters are upper-cased or read as N first, so
that the spans of the nucleotide tokens always tile the sequence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wyrcli.errors import CheckpointError

__all__ = ["FlatTokens", "KmerTokenizer", "TokenBatch", "Tokenizer", "pad_tokens"]

_N, _BREAK = 4, 5  # codes beside 0..3 for the bases; _BREAK separates sequences and is never a token


class FlatTokens(NamedTuple):
    """The nucleotide tokens of several sequences, one after the other, without ``<cls>``.

    ``ids`` int64 (T,); ``spans`` int64 (T, 2), bases of the own sequence, 0-based half-open;
    ``counts`` int64 (number of sequences,), tokens of each.
    """

    ids: NDArray[np.int64]
    spans: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids of B windows, padded on the right to L, and what is real in them.

    ``ids`` int64 (B, L); ``attention`` bool (B, L): tokens of the sequence and special ones, not padding;
    ``valid`` bool (B, L): tokens of the sequence only; ``spans`` int64 numpy (B, L, 2): letters on the
    window, (0, 0) for special tokens and padding; ``padded``: whether any position is padding (known here
    without asking the device).

    One special token (``<cls>``, ``<s>``) comes first.  Others, where a model has them, come behind the
    last valid token, so that the n valid tokens of a row are ``1 : 1 + n``.
    """

    ids: Tensor
    attention: Tensor
    valid: Tensor
    spans: NDArray[np.int64]
    padded: bool

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def attention_mask(self) -> Tensor | None:
        """``attention``, or None where nothing is padded: the model is faster without a mask."""
        return self.attention if self.padded else None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device.  It moves, it never casts."""
        return TokenBatch(
            self.ids.to(device, non_blocking=True),
            self.attention.to(device, non_blocking=True),
            self.valid.to(device, non_blocking=True),
            self.spans,
            self.padded,
        )

    def rows(self, start: int, stop: int) -> TokenBatch:
        """Some of the windows, as wide as before."""
        own = slice(start, stop)
        return TokenBatch(self.ids[own], self.attention[own], self.valid[own], self.spans[own], self.padded)

    def pin_memory(self) -> TokenBatch:
        """The same batch in page-locked memory, so that a copy to a GPU runs beside its work."""
        return TokenBatch(
            self.ids.pin_memory(),
            self.attention.pin_memory(),
            self.valid.pin_memory(),
            self.spans,
            self.padded,
        )


class Tokenizer(Protocol):
    """What everything else asks of a tokenizer; see :class:`TokenBatch` for the order of the tokens."""

    @property
    def alphabet(self) -> str:
        """What its sequences are made of: ``dna``, ``protein`` or ``text``."""

    @property
    def pad_id(self) -> int:
        """The token behind the end of a shorter window."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""

    @property
    def max_tokens(self) -> int:
        """The most tokens of a window, special ones included, that the model can read."""

    def batch(self, sequences: Sequence[str]) -> TokenBatch:
        """Tokens of B sequences on the CPU.  Raises InputError where one is longer than the model reads."""

    def count_tokens(self, sequence: str) -> int:
        """Upper bound of the tokens of a sequence, special ones included."""

    def usual_tokens(self, length: int) -> int:
        """Tokens of an ordinary sequence of ``length`` letters, special ones included: sizes batches."""

    def sample(self, n: int, seed: int = 0) -> str:
        """A made-up sequence of about ``n`` tokens, for tests of a model."""

    def save(self, directory: Path) -> None:
        """Write the files from which it can be read again."""


def pad_tokens(
    ids: Sequence[NDArray[np.int64]], spans: Sequence[NDArray[np.int64]], n_behind: int, pad_id: int
) -> TokenBatch:
    """Rows of tokens as one batch, on the CPU.

    Parameters
    ----------
    ids: of each row, with one special token in front and ``n_behind`` at the end.
    spans: int64 (number of valid tokens, 2) of each row.
    """
    longest = max(map(len, ids), default=1)
    batch_ids = np.full((len(ids), longest), pad_id, dtype=np.int64)
    batch_spans = np.zeros((len(ids), longest, 2), dtype=np.int64)
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    place = np.arange(longest)
    for i, (row, own) in enumerate(zip(ids, spans, strict=True)):
        batch_ids[i, : len(row)] = row
        batch_spans[i, 1 : len(row) - n_behind] = own
    attention = place < lengths[:, None]
    valid = (place > 0) & (place < lengths[:, None] - n_behind)
    return TokenBatch(
        torch.from_numpy(batch_ids),
        torch.from_numpy(attention),
        torch.from_numpy(valid),
        batch_spans,
        padded=not bool(attention.all()),
    )


class KmerTokenizer:
    """Greedy k-mer tokenizer of the Nucleotide Transformer, v1 and v2 vocabularies alike.

    Parameters
    ----------
    vocabulary: the tokens in the order of their ids, as in ``vocab.txt``.
    max_tokens: most tokens that the model reads; that of v2 by default.  Not enforced here: a window's length
        in bp is what bounds them.

    >>> tokenizer = KmerTokenizer.nucleotide_transformer_v2()
    >>> tokenizer.encode("ACGTACG")
    [3, 728, 4105]
    >>> tokenizer.spans("ACGTACG")
    [(0, 0), (0, 6), (6, 7)]
    """

    alphabet = "dna"

    def __init__(self, vocabulary: Sequence[str], max_tokens: int = 2048) -> None:
        self.vocabulary = tuple(vocabulary)
        self.max_tokens = max_tokens
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        if len(ids) != len(self.vocabulary):
            raise CheckpointError("vocab.txt names a token twice")
        if "" in ids:
            raise CheckpointError(f"vocab.txt: line {ids[''] + 1} is empty; expected one token per line")
        kmers = [t for t in self.vocabulary if len(t) > 1 and set(t) <= set("ACGT")]
        required = ["<cls>", "<pad>", "A", "C", "G", "T", "N"]
        missing = [t for t in required if t not in ids]
        if missing or not kmers:
            raise CheckpointError(f"vocab.txt lacks {', '.join(missing) or 'k-mers'}")
        self.k = len(kmers[0])
        self.cls_id, self.pad_id = ids["<cls>"], ids["<pad>"]
        self.mask_id = ids.get("<mask>")
        # Published v1 vocabularies name special tokens behind the end of the embedding; they are never used.
        self.vocab_size = 1 + max(i for i, token in enumerate(self.vocabulary) if not token.startswith("<"))
        self._bases = "ATCG"
        # Any order of the k-mers is accepted: this table goes from a base-4 number to the token's id.
        numbers = [sum("ATCG".index(c) * 4 ** (self.k - 1 - i) for i, c in enumerate(t)) for t in kmers]
        if len(kmers) != 4**self.k or any(len(t) != self.k for t in kmers):
            raise CheckpointError(
                f"vocab.txt has {len(kmers)} k-mers; expected all {4**self.k} of one length"
            )
        self._kmer_ids = np.empty(4**self.k, dtype=np.int64)
        self._kmer_ids[numbers] = [ids[t] for t in kmers]
        self._single_ids = np.array([*(ids[b] for b in self._bases), ids["N"]], dtype=np.int64)
        self._codes = np.full(256, _N, dtype=np.int8)
        for code, base in enumerate(self._bases):
            self._codes[[ord(base), ord(base.lower())]] = code
        self._codes[[ord("U"), ord("u")]] = self._bases.index("T")
        self._codes[ord("\n")] = _BREAK
        self._powers = 4 ** np.arange(self.k - 1, -1, -1, dtype=np.int64)

    @classmethod
    def from_pretrained(cls, directory: str | Path, max_tokens: int = 2048) -> KmerTokenizer:
        """Read ``vocab.txt`` of an official checkpoint or of one of ours."""
        path = Path(directory) / "vocab.txt"
        if not path.is_file():
            raise CheckpointError(f"{path}: not found; a checkpoint holds its vocabulary there")
        try:
            # The official file ends without a newline; one that an editor added names no token.
            return cls(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), max_tokens)
        except UnicodeDecodeError:
            raise CheckpointError(f"{path}: not a text file; expected one token per line") from None

    @classmethod
    def nucleotide_transformer_v2(cls, k: int = 6) -> KmerTokenizer:
        """The v2 vocabulary: six special tokens, k-mers over ATCG in product order, single bases."""
        from itertools import product

        special = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"]
        return cls([*special, *("".join(p) for p in product("ATCG", repeat=k)), *"ATCGN"])

    def save(self, directory: Path) -> None:
        """Write ``vocab.txt`` (no trailing newline, as the official file) and ``tokenizer_config.json``."""
        (directory / "vocab.txt").write_text("\n".join(self.vocabulary), encoding="utf-8")
        config = {"tokenizer_class": "EsmTokenizer", "model_max_length": self.max_tokens}
        (directory / "tokenizer_config.json").write_text(
            json.dumps(config, indent=1) + "\n", encoding="utf-8"
        )

    def kmers(self) -> dict[int, str]:
        """The k-mer tokens: id to letters."""
        return {i: t for i, t in enumerate(self.vocabulary) if len(t) == self.k and set(t) <= set("ACGT")}

    def encode(self, sequence: str) -> list[int]:
        """Ids of one sequence, ``<cls>`` first.  The plain form that :meth:`tokenize` must equal."""
        return [self.cls_id, *(self._token_id(sequence[a:b]) for a, b in self._walk(sequence))]

    def spans(self, sequence: str) -> list[tuple[int, int]]:
        """Bases of each token of :meth:`encode`; (0, 0) for ``<cls>``.  The others tile the sequence."""
        return [(0, 0), *self._walk(sequence)]

    def _walk(self, sequence: str) -> list[tuple[int, int]]:
        spans, start = [], 0
        while start < len(sequence):
            piece = sequence[start : start + self.k]
            whole = len(piece) == self.k and all(self._code(c) < _N for c in piece)
            stop = start + (self.k if whole else 1)
            spans.append((start, stop))
            start = stop
        return spans

    def _code(self, letter: str) -> int:
        code = int(self._codes[ord(letter)]) if ord(letter) < 256 else _N
        return min(code, _N)

    def _token_id(self, piece: str) -> int:
        codes = [self._code(c) for c in piece]
        if len(codes) == 1:
            return int(self._single_ids[codes[0]])
        return int(self._kmer_ids[sum(c * int(p) for c, p in zip(codes, self._powers, strict=True))])

    def tokenize(self, sequences: Sequence[str]) -> FlatTokens:
        """Tokens of many sequences at once, without a Python loop per token.

        Letters outside ACGTU count as N.  A sequence must not hold a line break.
        """
        k = self.k
        text = "\n".join(sequences).encode("latin-1", "replace")
        codes = self._codes[np.frombuffer(text, dtype=np.uint8)]
        lengths = np.array([len(s) for s in sequences], dtype=np.int64)
        if len(codes) != lengths.sum() + max(len(sequences) - 1, 0) or int((codes == _BREAK).sum()) > max(
            len(sequences) - 1, 0
        ):
            raise ValueError("a sequence holds a line break")
        position = np.arange(len(codes), dtype=np.int64)
        is_base = codes < _N
        # Offset of each base inside its run of bases, and the length of that run.
        last_other = np.maximum.accumulate(np.where(is_base, -1, position))
        next_other = np.minimum.accumulate(np.where(is_base, len(codes), position)[::-1])[::-1]
        offset = position - last_other - 1
        in_kmers = is_base & (offset < (next_other - last_other - 1) // k * k)
        starts_kmer = in_kmers & (offset % k == 0)
        is_start = starts_kmer | ((codes != _BREAK) & ~in_kmers)

        starts = np.flatnonzero(is_start)
        of_kmer = starts_kmer[starts]
        ids = self._single_ids[np.minimum(codes[starts], _N)]
        kmer_starts = starts[of_kmer]
        if len(kmer_starts):
            numbers = np.zeros(len(kmer_starts), dtype=np.int64)
            for i in range(k):
                numbers = numbers * 4 + codes[kmer_starts + i]
            ids[of_kmer] = self._kmer_ids[numbers]
        # Back to positions on the own sequence.
        begins = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]]) if len(lengths) else np.zeros(0, np.int64)
        owner = np.searchsorted(begins, starts, side="right") - 1
        own = starts - begins[owner]
        spans = np.stack([own, own + np.where(of_kmer, k, 1)], axis=1)
        counts = np.bincount(owner, minlength=len(lengths)).astype(np.int64)
        return FlatTokens(ids, spans, counts)

    def count_tokens(self, sequence: str) -> int:
        """Upper bound of the tokens of a sequence, ``<cls>`` included, without tokenising it."""
        n = len(sequence)
        others = n - sum(sequence.count(b) for b in "ACGT")
        if others == 0:
            return n // self.k + n % self.k + 1
        # Each break costs at most k - 1 single bases beside itself.
        return min(n, n // self.k + others * self.k + self.k) + 1

    def usual_tokens(self, length: int) -> int:
        """Tokens of ``length`` bp without N, ``<cls>`` included, but for odd ones at the end."""
        return length // self.k + 1

    def sample(self, n: int, seed: int = 0) -> str:
        """``n`` random k-mers."""
        letters = np.random.default_rng(seed).choice(list("ACGT"), n * self.k)
        return "".join(letters.tolist())

    def batch(self, sequences: Sequence[str]) -> TokenBatch:
        """Tokens of B sequences as one padded :class:`TokenBatch` on the CPU."""
        flat = self.tokenize(sequences)
        n, longest = len(sequences), int(flat.counts.max(initial=0)) + 1
        valid = np.arange(longest) - 1 < flat.counts[:, None]
        valid[:, 0] = False
        attention = valid.copy()
        attention[:, 0] = True
        ids = np.full((n, longest), self.pad_id, dtype=np.int64)
        ids[:, 0] = self.cls_id
        ids[valid] = flat.ids
        spans = np.zeros((n, longest, 2), dtype=np.int64)
        spans[valid] = flat.spans
        return TokenBatch(
            torch.from_numpy(ids),
            torch.from_numpy(attention),
            torch.from_numpy(valid),
            spans,
            padded=not bool(attention.all()),
        )
