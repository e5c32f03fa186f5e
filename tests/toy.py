"""Models so small that a test takes milliseconds: 2-mer tokens, 5 taxa on 2 ranks, random weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wyrcli.explanation import Window
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer
from wyrcli.model.explainer import Explainer, LstmExplainer, StateExplainer
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.tokens import KmerTokenizer, TokenBatch
from wyrcli.taxonomy import Taxonomy

HIDDEN = 8
LAYERS = 2
TOKENIZER = KmerTokenizer.nucleotide_transformer_v2(k=2)
TAXONOMY = Taxonomy(
    ("superkingdom", "phylum"),
    (("Left", "Right"), ("One", "Two", "Three")),
    ((1, 2), (11, 12, 13)),
    {"from": "toy"},
)
MIXED = ("ACGTACGTAC", "GGNCA", "T", "ACGTTGCAACGNNTTGACCA", "", "NNNN", "CATTAG", "ACGTACGTA")
"""Sequences of many lengths, with N, and one that is empty."""


def randomise(module: nn.Module, seed: int = 0, size: float = 0.4) -> None:
    """Weights large enough that every part of the network matters; no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64) * size
            p.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)


def backbone(seed: int = 0, **changes: object) -> NucleotideTransformer:
    """A random network; ``changes`` are fields of its configuration."""
    values: dict[str, object] = {
        "vocab_size": len(TOKENIZER.vocabulary),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 64,
    }
    model = NucleotideTransformer(BackboneConfig(**(values | changes)))  # type: ignore[arg-type]
    randomise(model, seed)
    return model


def explanandum(seed: int = 0, pooling: str = "mean", dtype: torch.dtype = torch.float32) -> Explanandum:
    """A random classifier of the toy taxonomy, frozen."""
    model = Explanandum(backbone(seed), TAXONOMY.sizes, pooling)
    randomise(model.heads, seed + 1)
    return model.to(dtype).freeze()


def explainer(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Explainer:
    """A random Explainer of the toy classifier, in eval mode."""
    model: Explainer
    if kind == "state":
        model = StateExplainer(HIDDEN, 2, TAXONOMY.n_classes, width=6, kernel=3)
    else:
        model = LstmExplainer(len(TOKENIZER.vocabulary), TAXONOMY.n_classes, embedding=5, hidden=4)
        generator = torch.Generator().manual_seed(seed)
        model.norm.running_mean = torch.rand(8, generator=generator)
        model.norm.running_var = 0.5 + torch.rand(8, generator=generator)
    randomise(model, seed)
    return model.to(dtype).eval()


class ConstantExplainer(Explainer):
    """The same mask logit for every token and class."""

    kind = "constant"

    def __init__(self, logit: float) -> None:
        super().__init__({})
        self.logit = logit

    def forward(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        n = TAXONOMY.n_classes if classes is None else classes.shape[1]
        return torch.full((*batch.ids.shape, n), self.logit, device=batch.ids.device)


class RuleExplainer(ConstantExplainer):
    """Mask logits from a rule on the token ids, the same for every class."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__(0.0)
        self.rule = rule

    def forward(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        return super().forward(batch, states, classes) + self.rule(batch.ids)[..., None]


def sequences(n: int, length: int = 30, seed: int = 0, letters: str = "ACGT") -> list[str]:
    """Random sequences of one length."""
    rng = random.Random(seed)
    return ["".join(rng.choices(letters, k=length)) for _ in range(n)]


def as_windows(texts: Sequence[str], name: str = "read") -> list[Window]:
    """Each text as the only window of its record; all of one name."""
    return [Window(i, name, 0, len(text), text) for i, text in enumerate(texts)]


@dataclass
class Labelled:
    """Labelled windows in memory, as training and evaluation want them."""

    sequences: Sequence[str]
    labels: NDArray[np.int64]
    names: Sequence[str] = ()
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def groups(self) -> Sequence[str]:
        """Each record is on its own."""
        return self.names

    def __len__(self) -> int:
        return len(self.sequences)


def labelled(n: int, length: int = 24, seed: int = 0) -> Labelled:
    """Sequences whose letters tell their classes: A and C left, G and T right; the phylum by A or C, G, T."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(n):
        letter = rng.choice("ACGT")
        texts.append("".join(rng.choices("ACGT", [8 if c == letter else 1 for c in "ACGT"], k=length)))
        labels.append([int(letter in "GT"), {"A": 0, "C": 0, "G": 1, "T": 2}[letter]])
    return Labelled(
        texts,
        np.array(labels, dtype=np.int64),
        [f"read{i}" for i in range(n)],
        np.zeros(n, dtype=np.int64),
    )
