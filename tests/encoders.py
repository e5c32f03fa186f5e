"""Encoders of ``transformers`` so small that a test takes milliseconds, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from toy import randomise

from wyrcli.model.encoders import FAMILIES

WORDS = "good bad fine poor film play cast plot long short great dull".split()
PIECES = [*WORDS, "##ly", "##er", "a", "the", "not", ".", ","]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ESM = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO", ".", "-", "<null_1>", "<mask>"]
N_PIECES = len(SPECIAL) + len(PIECES)
LABELS = ("negative", "neutral", "positive")
TEXTS = (
    "good film",
    "the plot not greatly fine.",
    "bad",
    "",
    "a long dull play, poor cast and unknown words",
)
PROTEINS = ("MKTAYIAKQR", "GAV", "M", "", "MSTNPKPQRKTKRNTNRRPQ")
KINDS = [*FAMILIES, "modernbert-mean", "esm-absolute"]
"""Every family, and the forms of it that are computed in another way."""

_SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}


def word_pieces(path: Path | None = None) -> Tokenizer:
    """A WordPiece tokenizer as BERT has it, with ``[CLS] x [SEP]``; saved where there is a path."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *PIECES])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    # As in files that save_pretrained wrote after a training: they must not cut windows in silence.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    if path is not None:
        tokenizer.save(str(path))
    return tokenizer


def build(kind: str, **changes: Any) -> Any:
    """A random network; ``changes`` are fields of its configuration."""
    import transformers

    model_type, _, form = kind.partition("-") if not kind.startswith("xlm") else (kind, "", "")
    classes = FAMILIES[model_type].classes
    options: dict[str, Any] = {**_SHAPE, "vocab_size": N_PIECES, "pad_token_id": 0}
    options |= {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    if model_type == "distilbert":
        options |= {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24}
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            del options[name]
    elif model_type == "electra":
        options["embedding_size"] = 8
    elif model_type == "modernbert":
        # Local layers see two tokens to either side, so that the sequences here are longer.
        options |= {
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            "classifier_pooling": form or "cls",
        }
        options |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    elif model_type == "esm":
        options |= {
            "vocab_size": len(ESM),
            "pad_token_id": 1,
            "mask_token_id": 32,
            "token_dropout": True,
            "position_embedding_type": form or "rotary",
        }
    config = getattr(transformers, f"{classes}Config")(**(options | changes))
    torch.manual_seed(0)
    network = getattr(transformers, f"{classes}ForSequenceClassification")(config)
    randomise(network)
    return network.eval()


def save(directory: Path, kind: str, **changes: Any) -> Path:
    """The network as ``save_pretrained`` leaves it, with its tokenizer's files."""
    network = build(kind, **changes)
    network.save_pretrained(directory)
    if kind.startswith("esm"):
        (directory / "vocab.txt").write_text("\n".join(ESM), encoding="utf-8")
    else:
        word_pieces(directory / "tokenizer.json")
    return directory
