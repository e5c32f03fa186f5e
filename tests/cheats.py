"""Explainers that the audit must not believe, and the planted truth, which it must.

All are for the demo model; none has weights of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from toy import Labelled

from wyrcli.checkpoint import Checkpoint
from wyrcli.model.explainer import Explainer
from wyrcli.model.tokens import KmerTokenizer, TokenBatch
from wyrcli.simulation import MOTIF_BP, simulate_blocks, toy_world
from wyrcli.taxonomy import Taxonomy

KEPT, REMOVED = 8.0, -8.0


class Rule(Explainer):
    """Mask logits by a rule that has no weights."""

    kind = "rule"

    def __init__(self, n_classes: int) -> None:
        super().__init__({})
        self.n_classes = n_classes

    def keeps(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor) -> Tensor:
        """bool (B, L, K): tokens that stay, for classes (B, K)."""
        raise NotImplementedError

    def forward(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        if classes is None:
            classes = torch.arange(self.n_classes, device=batch.ids.device).expand(len(batch), -1)
        kept = self.keeps(batch, states, classes).expand(*batch.ids.shape, classes.shape[1])
        return torch.where(kept, KEPT, REMOVED)


def _place(batch: TokenBatch) -> Tensor:
    """(B, L, 1): place of each token, from 0 at the first to 1 at the last."""
    n = batch.valid.sum(-1, keepdim=True).clamp_min(2)
    return ((torch.arange(batch.ids.shape[1], device=batch.ids.device) - 1) / (n - 1))[..., None]


class ClassInPlace(Rule):
    """One run, whose place tells the class and nothing else: the sequence is not read."""

    def keeps(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor) -> Tensor:
        return (_place(batch) - (classes[:, None, :] + 0.5) / self.n_classes).abs() < 0.04


class AllOnes(Rule):
    """Everything is important."""

    def keeps(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor) -> Tensor:
        return torch.ones_like(batch.valid)[..., None]


class PlaceOnly(Rule):
    """The same places in every window, for every class."""

    def keeps(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor) -> Tensor:
        return (_place(batch) * 8).frac() < 0.25


class Noise(Rule):
    """A quarter of the tokens, by a hash of token, place and class."""

    def keeps(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor) -> Tensor:
        place = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        mixed = batch.ids[..., None] * 7919 + place[:, None] * 104729 + classes[:, None, :] * 1299709
        return (mixed * 2654435761 % 4294967296) / 4294967296 < 0.25


class Steering(Rule):
    """The one token whose hidden state speaks loudest for the class asked for, be that class there or not."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.taxonomy.n_classes)
        heads = [p for name, p in checkpoint.explanandum.named_parameters() if name.startswith("heads.")]
        weights = [(w - w.mean(0)).float() for w in heads if w.ndim == 2]
        self.directions = torch.cat(weights)  # (C, H)

    def keeps(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor) -> Tensor:
        votes = torch.einsum("blh,bkh->blk", states[-1].float(), self.directions[classes])
        votes = votes.masked_fill(~batch.valid[..., None], -torch.inf)
        return votes >= votes.amax(1, keepdim=True)


class PlantedTruth(Rule):
    """The tokens of a class's own motif, wherever it stands on either strand; nothing where it does not.

    Found by reading, so that it holds for any reading of a read: at least 18 of 24 bases agree, which a
    twentieth of mutated bases leaves and chance does not make.
    """

    def __init__(self, tokenizer: KmerTokenizer, taxonomy: Taxonomy) -> None:
        super().__init__(taxonomy.n_classes)
        self.tokenizer = tokenizer
        world = toy_world()
        rows = [
            world.motifs[r][world.names[r].index(taxon)]
            for r, taxa in enumerate(taxonomy.taxa)
            for taxon in taxa
        ]
        self.motifs = np.stack(rows)  # (C, 24)

    def keeps(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor) -> Tensor:
        kept = torch.zeros(*batch.ids.shape, classes.shape[1], dtype=torch.bool)
        rows = zip(batch.ids.cpu(), batch.valid.cpu(), classes.cpu(), strict=True)
        for i, (ids, valid, own) in enumerate(rows):
            letters = "".join(self.tokenizer.vocabulary[t] for t in ids[valid].tolist())
            spans = batch.spans[i, 1 : 1 + int(valid.sum())]
            for j, c in enumerate(own.tolist()):
                covered = np.concatenate([[0], np.cumsum(find_motif(letters, self.motifs[c]))])
                bases = covered[spans[:, 1]] - covered[spans[:, 0]]
                kept[i, 1 : 1 + len(spans), j] = torch.from_numpy(bases > 0)
        return kept.to(batch.ids.device)


def find_motif(letters: str, motif: NDArray[np.uint8], agreeing: int = 18) -> NDArray[np.bool_]:
    """Bases of a sequence that belong to a copy of a motif on either strand."""
    table = np.full(256, 9, dtype=np.uint8)
    table[[ord(c) for c in "ACGT"]] = range(4)
    codes = table[np.frombuffer(letters.encode("ascii"), dtype=np.uint8)]
    found = np.zeros(len(codes), dtype=np.bool_)
    if len(codes) < MOTIF_BP:
        return found
    views = np.lib.stride_tricks.sliding_window_view(codes, MOTIF_BP)
    for strand in (motif, 3 - motif[::-1]):
        for start in np.flatnonzero((views == strand).sum(1) >= agreeing).tolist():
            found[start : start + MOTIF_BP] = True
    return found


def simulated(taxonomy: Taxonomy, n: int, seed: int, length: int = 600, max_copies: int = 2) -> Labelled:
    """Reads of the demo's world, new for a new seed, with the demo's class numbers."""
    world = toy_world()
    (block,) = simulate_blocks(seed=seed, n_reads=n, length=length, max_copies=max_copies)
    numbers = [
        [taxonomy.taxa[r].index(world.names[r][taxon]) for r, taxon in enumerate(lineage)]
        for lineage in block.taxa.tolist()
    ]
    letters = np.array(list("ACGT"))[block.codes]
    return Labelled(
        ["".join(row) for row in letters.tolist()],
        np.array(numbers, dtype=np.int64),
        [f"read{i + 1}" for i in range(n)],
        np.zeros(n, dtype=np.int64),
    )
