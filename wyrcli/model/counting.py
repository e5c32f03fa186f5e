"""A Nucleotide Transformer that only counts k-mers: a start for the real one at a fiftieth of the cost.

Much of what tells genomes apart is how often they use which k-mers.  A transformer from scratch must find
that out through its attention, one window after the other.  Here its first layer is computed under two
assumptions: attention is uniform, and a token's own embedding is small beside what attention brings.  Then
every token of a window has the same hidden state, which follows from the k-mer counts alone, and one state
is computed instead of hundreds.  LayerNorm makes the second assumption cheap to fulfil: it does not see the
size of an embedding, so that :meth:`CountingNetwork.finish` shrinks the embeddings and the network answers
as it did while it was counting.

The embedding of a k-mer is a sum of vectors of the shorter k-mers inside it, of all lengths, and those of
reverse complements are one: what is learned of one k-mer is learned of its relatives, on both strands.

Genomes differ most in a few directions (GC); what tells genera apart lies in those of small variance, which a
gradient finds last.  :meth:`CountingNetwork.whiten` makes all directions equally large at the start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.model.backbone import silence, strandless_key
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.tokens import TokenBatch

__all__ = ["CountingNetwork", "KmerCounter", "answer_brought", "answer_counts", "bring", "find_parts"]

_OWN_SHARE = 0.125  # size of a token's own embedding beside what attention brings
_BROUGHT = 4.0  # that size itself: large against the steps of an optimiser


def find_parts(kmers: Sequence[str]) -> tuple[Tensor, Tensor, int]:
    """The j-mers inside each k-mer, for all j up to k.

    Returns
    -------
    int64 (N, P), number of each j-mer, that of a reverse complement being the same; float32 (N, P), one over
    the square root of how many j-mers of that length there are; and the number of different ones.

    >>> find_parts(["AC", "GT"])[0].tolist()
    [[0, 1, 2], [1, 0, 2]]
    """
    numbers: dict[str, int] = {}
    parts, weights = [], []
    for kmer in kmers:
        pieces = [kmer[i : i + j] for j in range(1, len(kmer) + 1) for i in range(len(kmer) - j + 1)]
        keys = [strandless_key(piece) for piece in pieces]
        parts.append([numbers.setdefault(key, len(numbers)) for key in keys])
        weights.append([(len(kmer) - len(piece) + 1) ** -0.5 for piece in pieces])
    return torch.tensor(parts), torch.tensor(weights), len(numbers)


class KmerCounter(nn.Module):
    """Counts the k-mers of tokens, and those across the borders of tokens.

    A k-mer's number has base 4, A, C, G, T being 0 to 3.  Across a border, k-mer ``d`` has ``d`` letters of
    the token behind it, 1 to k - 1.

    Parameters
    ----------
    kmers: token ids to letters.
    vocab_size: token ids are below this.
    """

    numbers: Tensor
    ids: Tensor

    def __init__(self, kmers: Mapping[int, str], vocab_size: int) -> None:
        super().__init__()
        self.k = len(next(iter(kmers.values())))
        numbers = torch.full((vocab_size,), -1)
        for token, letters in kmers.items():
            numbers[token] = sum("ACGT".index(x) * 4**i for i, x in enumerate(reversed(letters)))
        ids = torch.zeros(4**self.k, dtype=torch.int64)
        ids[numbers[list(kmers)]] = torch.tensor(list(kmers))
        self.register_buffer("numbers", numbers, persistent=False)  # (V,), -1: no k-mer
        self.register_buffer("ids", ids, persistent=False)  # (4^k,), the token of each number

    def across(self, ids: Tensor) -> Tensor:
        """int64 (B, k - 1, L - 1): the k-mers across each border; -1 where a side is no k-mer.

        >>> counter = KmerCounter({5 + i: a + b for i, (a, b) in enumerate(["CA", "GT"])}, 7)
        >>> counter.across(torch.tensor([[5, 6, 0]])).tolist()  # AG is number 2
        [[[2, -1]]]
        """
        numbers = self.numbers[ids]
        before, behind = numbers[:, :-1], numbers[:, 1:]
        found = [
            before % 4 ** (self.k - d) * 4**d + behind.div(4 ** (self.k - d), rounding_mode="floor")
            for d in range(1, self.k)
        ]
        known = (before >= 0) & (behind >= 0)
        return torch.where(known[:, None], torch.stack(found, 1), -1)

    def frames(self, ids: Tensor) -> Tensor:
        """float32 (B, k, 4^k): how often each k-mer stands as a token, and across borders by ``d``."""
        size = 4**self.k
        counts = torch.zeros(len(ids), self.k, size + 1, device=ids.device)
        for d, numbers in enumerate([self.numbers[ids], *self.across(ids).unbind(1)]):
            numbers = torch.where(numbers < 0, size, numbers)
            counts[:, d].scatter_add_(1, numbers, torch.ones_like(numbers, dtype=counts.dtype))
        return counts[..., :size]


def answer_counts(explanandum: Explanandum, number: int, mean: Tensor, dropout: float = 0.0) -> Tensor:
    """Logits (B, C) from the mean (B, H) of what layer ``number``, the last that acts, attends to evenly.

    ``dropout``: share of the features of its feed-forward network that are dropped.
    """
    return answer_brought(explanandum, number, bring(explanandum, number, mean), dropout)


def bring(explanandum: Explanandum, number: int, mean: Tensor) -> Tensor:
    """What the attention of a layer adds to every state, (B, H), where it attends evenly."""
    attention = explanandum.backbone.encoder.layer[number].get_submodule("attention")
    out: Tensor = attention.get_submodule("output")(attention.get_submodule("self.value")(mean))
    return out


def answer_brought(explanandum: Explanandum, number: int, brought: Tensor, dropout: float = 0.0) -> Tensor:
    """Logits (B, C) from what the attention of layer ``number`` brings, (B, H); see :func:`answer_counts`."""
    layer = explanandum.backbone.encoder.layer[number]
    normed = F.dropout(layer.get_submodule("LayerNorm")(brought), dropout)
    gate, value = layer.get_submodule("intermediate")(normed).chunk(2, dim=-1)
    inner = F.dropout(F.silu(gate) * value, dropout)
    state = explanandum.backbone.encoder.emb_layer_norm_after(brought + layer.get_submodule("output")(inner))
    with torch.autocast(state.device.type, enabled=False):
        return torch.cat([head(state.float()) for head in explanandum.heads], dim=-1)


class CountingNetwork(nn.Module):
    """The first layer, final norm and heads of an Explanandum over k-mer counts; trains them in place.

    Parameters
    ----------
    explanandum: with ``mean`` pooling and random weights.  Its other layers are made to do nothing at first.
    kmers: token ids to letters; other tokens keep vectors of their own.
    dropout: share of the features of the feed-forward layer that are dropped in training.
    every_frame: count the k-mers across the borders of tokens, too.  The transformer that comes of it reads
        one frame and is noisier; :mod:`wyrcli.model.borders` gives it the others.
    """

    parts: Tensor
    weights: Tensor
    ids: Tensor
    brought: Tensor

    def __init__(
        self,
        explanandum: Explanandum,
        kmers: Mapping[int, str],
        dropout: float = 0.1,
        *,
        every_frame: bool = False,
    ) -> None:
        super().__init__()
        if explanandum.pooling != "mean" or not explanandum.backbone.config.gated:
            raise ValueError("counting starts a network of rotary positions whose heads read a mean")
        self.explanandum = explanandum
        self.dropout = dropout
        self.counter = KmerCounter(kmers, explanandum.vocab_size) if every_frame else None
        parts, weights, n_parts = find_parts(list(kmers.values()))
        size = explanandum.hidden_size
        scale = 1 / math.sqrt(len(next(iter(kmers.values()))))
        self.vectors = nn.Parameter(torch.randn(n_parts, size) * scale)
        self.register_buffer("parts", parts, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("ids", torch.tensor(list(kmers)), persistent=False)
        self.register_buffer("brought", torch.zeros(()))  # mean square of what attention brings
        for layer in explanandum.backbone.encoder.layer[1:]:
            silence(layer)
            layer.requires_grad_(False)
        first = explanandum.backbone.encoder.layer[0].get_submodule("attention.self")
        for name in ("query", "key"):
            first.get_submodule(name).requires_grad_(False)

    def table(self) -> Tensor:
        """The embeddings (V, H) of all tokens."""
        words = self.explanandum.backbone.embeddings.word_embeddings.weight
        kmers = F.embedding_bag(self.parts, self.vectors, per_sample_weights=self.weights, mode="sum")
        return words.index_copy(0, self.ids, kmers.to(words.dtype))

    def forward(self, batch: TokenBatch) -> Tensor:
        """Logits (B, C)."""
        brought = bring(self.explanandum, 0, self._mean(batch, self.table()))
        if self.training:
            with torch.no_grad():
                self.brought.lerp_(brought.float().square().mean(), 0.02)
        return answer_brought(self.explanandum, 0, brought, self.dropout if self.training else 0.0)

    @torch.no_grad()
    def whiten(self, batches: Iterable[TokenBatch]) -> None:
        """Set the value and output matrices so that what attention brings varies equally in all directions.

        ``batches``: windows as training will see them; some thousands are enough.
        """
        attention = self.explanandum.backbone.encoder.layer[0].get_submodule("attention")
        means = torch.cat([self._mean(batch, self.table()) for batch in batches]).double()
        values, vectors = torch.linalg.eigh(torch.cov(means.T))
        values = values.clamp_min(0)
        # A tenth of the median: directions that hold nothing but rounding are not blown up.
        floor = (0.1 * values.median()).clamp_min(1e-12)
        whitening = vectors @ torch.diag((values + floor) ** -0.5) @ vectors.T
        value, output = attention.get_submodule("self.value"), attention.get_submodule("output.dense")
        value.get_parameter("weight").copy_(whitening)
        value.get_parameter("bias").copy_(-whitening @ means.mean(0))
        nn.init.eye_(output.get_parameter("weight"))
        nn.init.zeros_(output.get_parameter("bias"))

    def _mean(self, batch: TokenBatch, table: Tensor) -> Tensor:
        """The mean (B, H) over a window's tokens of their normalised embeddings."""
        norm = self.explanandum.backbone.encoder.layer[0].get_submodule("attention.LayerNorm")
        normed: Tensor = norm(table)
        seen = torch.ones_like(batch.ids) if batch.attention_mask is None else batch.attention_mask
        counts = torch.zeros(len(batch), len(table), device=table.device)
        counts.scatter_add_(1, batch.ids, seen.to(counts.dtype))
        if self.counter is not None:
            numbers = self.counter.across(batch.ids).flatten(1)
            counts.scatter_add_(1, self.counter.ids[numbers.clamp_min(0)], (numbers >= 0).to(counts.dtype))
        return counts @ normed.float() / counts.sum(-1, keepdim=True)

    @torch.no_grad()
    def finish(self) -> Explanandum:
        """The Explanandum as a transformer again, with all its weights free to be trained."""
        self.explanandum.requires_grad_(True)
        backbone = self.explanandum.backbone
        layer = backbone.encoder.layer[0]
        table = self.table()
        words = backbone.embeddings.word_embeddings.weight
        words.copy_(table * (_OWN_SHARE * _BROUGHT / table[self.ids].square().mean().sqrt()))
        grown = _BROUGHT / self.brought.clamp_min(1e-12).sqrt()
        for name, parameter in layer.named_parameters():
            if name.startswith(("attention.output.", "output.")):
                parameter.mul_(grown)
        return self.explanandum
