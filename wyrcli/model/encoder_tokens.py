"""The tokenizers that come with encoders of ``transformers``: words and their pieces, and residues.

A checkpoint of wyr holds ``tokenizer.json``, which the package ``tokenizers`` reads as plain data, or
``vocab.txt`` where a token is one residue or a k-mer.  No class is looked up by a name from a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import CheckpointError, InputError
from wyrcli.model.tokens import KmerTokenizer, TokenBatch, Tokenizer, pad_tokens

if TYPE_CHECKING:
    import tokenizers

__all__ = ["ResidueTokenizer", "TextTokenizer", "read_tokenizer"]

_WORD_STARTS = ("##", "\u0120", "\u2581")  # marks of WordPiece, byte-level BPE and SentencePiece
_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


class TextTokenizer:
    """A fast tokenizer of the package ``tokenizers``, with the special tokens that its model expects.

    Spans are what that tokenizer says: in characters of the sequence given, not always side by side
    (white space has no token of its own), and shared by the tokens of a character that has several.

    Parameters
    ----------
    tokenizer: it is changed: truncation and padding are switched off.
    pad_id: padding; which token is of no account, because none is attended.
    vocab_size: rows of the model's embedding.
    max_tokens: the most tokens of a window, special ones included, that the model can read.

    Raises CheckpointError if a token has no embedding, or where special tokens are not one in front and the
    others behind.
    """

    alphabet = "text"

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, pad_id: int, vocab_size: int, max_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.pad_id, self.vocab_size, self.max_tokens = pad_id, vocab_size, max_tokens
        n_needed = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if max(n_needed, pad_id + 1) > vocab_size:
            raise CheckpointError(
                f"the tokenizer needs {max(n_needed, pad_id + 1)} embeddings, but vocab_size is {vocab_size}"
            )
        empty = tokenizer.encode("")
        self.empty_ids = tuple(empty.ids)
        self._n_behind = len(empty.ids) - 1
        if (
            not empty.ids
            or max_tokens <= len(empty.ids)
            or not self._in_order(tokenizer.encode(self.sample(3)))
        ):
            raise CheckpointError(
                "the tokenizer's special tokens are not one in front of a text and the others behind it; "
                "the classifier would not read them where it was trained to"
            )

    def _in_order(self, encoding: tokenizers.Encoding) -> bool:
        """Whether special tokens stand where :class:`TokenBatch` says."""
        n_valid = len(encoding.ids) - 1 - self._n_behind
        expected = [1] + [0] * n_valid + [1] * self._n_behind
        return n_valid >= 0 and list(encoding.special_tokens_mask) == expected

    def batch(self, sequences: Sequence[str]) -> TokenBatch:
        """Tokens of B texts.  Raises InputError where one is longer than the model reads."""
        ids, spans = [], []
        for encoding in self._tokenizer.encode_batch(list(sequences)):
            _check_length(len(encoding.ids), self.max_tokens)
            if not self._in_order(encoding):
                raise ValueError("a special token inside the text")
            ids.append(np.array(encoding.ids, dtype=np.int64))
            own = encoding.offsets[1 : len(encoding.ids) - self._n_behind]
            spans.append(np.array(own, dtype=np.int64).reshape(-1, 2))
        return pad_tokens(ids, spans, self._n_behind, self.pad_id)

    def count_tokens(self, sequence: str) -> int:
        """Tokens of a text, special ones included; the exact number, because no bound would be near it."""
        return len(self._tokenizer.encode(sequence).ids)

    def usual_tokens(self, length: int) -> int:
        """As many as the model reads: how many letters a token has depends on the language."""
        return min(self.max_tokens, length + len(self.empty_ids))

    def sample(self, n: int, seed: int = 0) -> str:
        """``n`` words of the vocabulary, drawn at random; some may have several tokens."""
        rng = np.random.default_rng(seed)
        words: list[str] = []
        size = self._tokenizer.get_vocab_size()
        for number in rng.integers(size, size=20 * n + 100).tolist():
            word = self._tokenizer.id_to_token(number) or ""
            for mark in _WORD_STARTS:
                word = word.removeprefix(mark)
            if len(words) < n and word.isalpha():
                words.append(word)
        return " ".join(words)

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json``, and what ``transformers`` needs to read it."""
        (directory / "tokenizer.json").write_text(self._tokenizer.to_str(pretty=False), encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_tokens,
            "pad_token": self._tokenizer.id_to_token(self.pad_id),
        }
        _write_config(directory, config)


class ResidueTokenizer:
    """One token per residue between ``<cls>`` and ``<eos>``, as ESM-2 reads a protein.

    Letters that the vocabulary lacks (``J``, ``*``) become one ``<unk>`` each.

    Parameters
    ----------
    vocabulary: the tokens in the order of their ids, as in ``vocab.txt``.
    max_tokens: the most tokens of a window, special ones included, that the model can read.
    """

    alphabet = "protein"

    def __init__(self, vocabulary: Sequence[str], *, max_tokens: int) -> None:
        self.vocabulary = tuple(vocabulary)
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        missing = [t for t in ("<cls>", "<pad>", "<eos>", "<unk>", *_RESIDUES) if t not in ids]
        if missing or len(ids) != len(self.vocabulary):
            raise CheckpointError(
                f"vocab.txt lacks {', '.join(missing)}" if missing else "vocab.txt names a token twice"
            )
        self.pad_id, self.vocab_size, self.max_tokens = ids["<pad>"], len(ids), max_tokens
        self.empty_ids = (ids["<cls>"], ids["<eos>"])
        self._ids = np.full(256, ids["<unk>"], dtype=np.int64)
        for token, i in ids.items():
            if len(token) == 1 and ord(token) < 256:
                self._ids[[ord(token), ord(token.lower())]] = i

    def batch(self, sequences: Sequence[str]) -> TokenBatch:
        """Tokens of B proteins.  Raises InputError where one is longer than the model reads."""
        ids, spans = [], []
        cls, eos = self.empty_ids
        for sequence in sequences:
            _check_length(len(sequence) + 2, self.max_tokens)
            letters = np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)
            ids.append(np.concatenate([[cls], self._ids[letters], [eos]]))
            place = np.arange(len(sequence), dtype=np.int64)
            spans.append(np.stack([place, place + 1], axis=1))
        return pad_tokens(ids, spans, 1, self.pad_id)

    def count_tokens(self, sequence: str) -> int:
        """Tokens of a protein, special ones included."""
        return len(sequence) + 2

    def usual_tokens(self, length: int) -> int:
        """Tokens of ``length`` residues, special ones included."""
        return length + 2

    def sample(self, n: int, seed: int = 0) -> str:
        """``n`` random residues."""
        letters: NDArray[np.str_] = np.random.default_rng(seed).choice(list(_RESIDUES), n)
        return "".join(letters.tolist())

    def save(self, directory: Path) -> None:
        """Write ``vocab.txt`` (no trailing newline, as the official file) and ``tokenizer_config.json``."""
        (directory / "vocab.txt").write_text("\n".join(self.vocabulary), encoding="utf-8")
        special = {f"{name}_token": f"<{name}>" for name in ("cls", "pad", "eos", "unk")}
        _write_config(
            directory, {"tokenizer_class": "EsmTokenizer", "model_max_length": self.max_tokens, **special}
        )


def _check_length(n_tokens: int, max_tokens: int) -> None:
    if n_tokens > max_tokens:
        raise InputError(
            f"a window has {n_tokens:,} tokens, special ones included; "
            f"the model reads at most {max_tokens:,}: cut shorter windows"
        )


def _write_config(directory: Path, config: dict[str, Any]) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- reading


def read_tokenizer(
    directory: Path, model_type: str, *, pad_id: int, vocab_size: int, max_tokens: int
) -> Tokenizer:
    """The tokenizer in the directory of a ``transformers`` checkpoint or of one of ours.

    ``model_type`` esm: residues, or k-mers where the vocabulary holds them.  All others: ``tokenizer.json``,
    or what older checkpoints have instead (``vocab.txt`` of WordPiece, ``vocab.json`` and ``merges.txt``).

    Raises CheckpointError if there is none, or if it does not fit the model.
    """
    try:
        if model_type == "esm":
            found = _read_vocabulary(directory, max_tokens)
            if found.vocab_size > vocab_size:
                raise CheckpointError(
                    f"vocab.txt needs {found.vocab_size} embeddings, but vocab_size is {vocab_size}"
                )
            found.vocab_size = vocab_size  # there may be embeddings that no token has
            return found
        fast = _read_fast(directory, model_type)
        return TextTokenizer(fast, pad_id=pad_id, vocab_size=vocab_size, max_tokens=max_tokens)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from None


def _read_vocabulary(directory: Path, max_tokens: int) -> KmerTokenizer | ResidueTokenizer:
    path = directory / "vocab.txt"
    if not path.is_file():
        raise CheckpointError("no tokenizer: vocab.txt not found")
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise CheckpointError("vocab.txt is not a text file; expected one token per line") from None
    if any(len(token) > 1 and set(token) <= set("ACGT") for token in tokens):
        return KmerTokenizer(tokens, max_tokens)
    return ResidueTokenizer(tokens, max_tokens=max_tokens)


def _read_fast(directory: Path, model_type: str) -> tokenizers.Tokenizer:
    import tokenizers

    path = directory / "tokenizer.json"
    try:
        if path.is_file():
            fast = tokenizers.Tokenizer.from_file(str(path))
            _check_case(directory, path)
            return fast
        if (directory / "vocab.txt").is_file() and model_type in ("bert", "distilbert", "electra"):
            from transformers import BertTokenizer

            words: Any = BertTokenizer
        elif (directory / "merges.txt").is_file() and model_type == "roberta":
            from transformers import RobertaTokenizer

            words = RobertaTokenizer
        else:
            raise CheckpointError(
                "no tokenizer: tokenizer.json not found (save_pretrained of its tokenizer writes one)"
            )
        # from_pretrained() of a class that is named here reads files of this directory alone.
        found: tokenizers.Tokenizer = words.from_pretrained(
            directory, local_files_only=True
        ).backend_tokenizer
    except CheckpointError:
        raise
    # The package raises bare Exceptions about the content of a file.
    except Exception as error:
        raise CheckpointError(f"the tokenizer cannot be read: {_first_line(error)}") from None
    return found


def _check_case(directory: Path, path: Path) -> None:
    """Refuse a WordPiece tokenizer whose two files disagree: ``transformers`` versions follow either."""
    settings = directory / "tokenizer_config.json"
    if not settings.is_file():
        return
    normalizer = json.loads(path.read_text(encoding="utf-8")).get("normalizer") or {}
    lower = json.loads(settings.read_text(encoding="utf-8")).get("do_lower_case")
    if normalizer.get("type") == "BertNormalizer" and lower not in (None, normalizer.get("lowercase")):
        raise CheckpointError(
            f"tokenizer.json has lowercase {normalizer.get('lowercase')}, "
            f"tokenizer_config.json do_lower_case {lower}"
        )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
