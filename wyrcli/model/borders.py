"""A Nucleotide Transformer that reads the k-mers across the borders of its tokens, trained on counts.

A window of 1,500 bp has 1,495 6-mers, and 250 of them are tokens.  What a genome uses is seen with less
noise in all of them: with equal training they gave five points more at genus (``docs/experiments.md``).  A
layer that looks one token back can know the others, since a k-mer across a border is the end of one token
and the start of the next:

    embedding of a token = [its starts | its ends | the whole | nothing]        blocks, each normalised
    attention            : copies the ends of the token before into the last part
    feed-forward, gated  : act(a(ends of the token before)) * b(starts of this one), and so a factorised table
                           of all k-mers that could stand across the border

Then a second layer attends evenly, as the one layer of :mod:`wyrcli.model.counting` does.  Its mean over
tokens follows from how often each k-mer stands at each distance from a border, so that this network, too, is
trained on counts alone, and written into a transformer at the end.

It starts from a network that was trained on the counts of all frames (``every_frame``): the tables are
fitted to that network's one table, and its answers are a second target of the training, since six
factorised tables learn more slowly than one.

The attention that looks back has no content: its queries and keys are biases, whose phases under rotary
positions fit at a distance of one token.  ``<cls>`` draws more of it than the token before does, so that
under a mask (``gate``) what comes from there is nearly in proportion to m, and is nothing at m = 0 (see
``masking.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.model.backbone import NucleotideTransformer
from wyrcli.model.counting import KmerCounter, answer_brought, answer_counts, bring, find_parts
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.tokens import TokenBatch

__all__ = ["BorderNetwork", "block_sizes", "look_back"]

_SIDE = 0.266  # share of the hidden size that the starts of a token take; as much its ends, and those copied
_SIZE = 0.5  # of each feature of a token's embedding
_BROUGHT = 8.0  # size of what the second layer's attention adds beside the states that it reads
_GAP = 16.0  # by which the token before is ahead of every other token in the attention logits
_SINK = 2.0  # by which <cls> is ahead of it


def block_sizes(k: int, hidden_size: int) -> list[int]:
    """How many features the first j letters of a token get, for j = 1 to k - 1: evenly, but at most 4^j.

    >>> block_sizes(6, 256)
    [4, 16, 16, 16, 16]
    """
    left = int(_SIDE * hidden_size)
    sizes = []
    for j in range(1, k):
        sizes.append(min(4**j, left // (k - j)))
        left -= sizes[-1]
    return sizes


def look_back(size: int, positions: int) -> tuple[Tensor, Tensor, float]:
    """Query and key (d,) of an attention head that looks one token back whatever the tokens are.

    With rotary positions their product over a distance is a sum of cosines, here with its maximum at one.

    ``size``: d of the head; ``positions``: tokens that a window may have.  Returns query, key, and the
    attention logit at a distance of one, which is at least 16 ahead of all others.
    """
    half = size // 2
    frequencies = 10000.0 ** (-2 * torch.arange(half, dtype=torch.float64) / size)
    # The fastest frequency tells neighbours apart, and it alone repeats itself soon.
    weights = torch.zeros(half, dtype=torch.float64)
    used = max(min(half - 1, 12), 1)
    weights[:used] = 0.5 / used
    weights[0] += 0.5
    distances = torch.arange(-positions, positions + 1, dtype=torch.float64)
    distances = distances[distances != 1]
    gaps = (1 - torch.cos((distances[:, None] - 1) * frequencies)) @ weights
    weights *= _GAP / gaps.min()
    length = (weights * math.sqrt(size)).sqrt()
    query = torch.cat([length * torch.cos(-frequencies), length * torch.sin(-frequencies)])
    key = torch.cat([length, torch.zeros(half, dtype=torch.float64)])
    return query.float(), key.float(), float(weights.sum())


class BorderNetwork(nn.Module):
    """Both layers, final norm and heads of an Explanandum over k-mer counts by frame.

    Parameters
    ----------
    counted: trained by a :class:`CountingNetwork` with ``every_frame``, and finished; one layer.
    kmers: token ids to letters.
    dropout: share of the features of the second feed-forward layer that are dropped in training.
    seed: of the random start of the factors.
    """

    teacher: Tensor
    written: Tensor
    weights: Tensor
    parts: Tensor

    def __init__(
        self, counted: Explanandum, kmers: Mapping[int, str], dropout: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        config = counted.backbone.config
        if counted.pooling != "mean" or not config.gated or config.add_bias_fnn:
            raise ValueError("borders are read by a network of rotary positions whose heads read a mean")
        if config.num_hidden_layers != 1:
            raise ValueError(f"borders go below a network of one layer; this has {config.num_hidden_layers}")
        self.dropout = dropout
        self.counter = KmerCounter(kmers, counted.vocab_size)
        self.counted = deepcopy(counted).requires_grad_(False)
        k, hidden = self.counter.k, config.hidden_size
        self.sizes = block_sizes(k, hidden)
        side = sum(self.sizes)
        own = hidden - 3 * side - 2
        inner = config.intermediate_size // k
        if min(*self.sizes, own, inner) < 1:
            raise ValueError(
                f"hidden size {hidden} and intermediate size {config.intermediate_size}: too small"
            )

        shape = replace(config, num_hidden_layers=2)
        self.explanandum = Explanandum(NucleotideTransformer(shape), counted.sizes, counted.pooling)
        self.explanandum.heads = deepcopy(counted.heads)
        new, old = self.explanandum.backbone.encoder, counted.backbone.encoder
        new.layer[1] = deepcopy(old.layer[0])
        new.emb_layer_norm_after = deepcopy(old.emb_layer_norm_after)
        self.explanandum.requires_grad_(True)
        self.explanandum.backbone.embeddings.requires_grad_(False)
        new.layer[0].requires_grad_(False)
        attention = new.layer[1].get_submodule("attention")
        norm = attention.get_submodule("LayerNorm")
        for name in ("self.query", "self.key"):
            attention.get_submodule(name).requires_grad_(False)
        # All the tables have one length here, and so there is nothing for this norm to do.
        nn.init.ones_(norm.get_parameter("weight"))
        nn.init.zeros_(norm.get_parameter("bias"))
        norm.requires_grad_(False)

        parts, weights, n_parts = find_parts([kmers[int(i)] for i in self.counter.ids])
        self.register_buffer("parts", parts, persistent=False)
        self.register_buffer("weights", weights / math.sqrt(k), persistent=False)
        random = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=random))

        # Number d reads d letters of this token and k - d of the one before; number 0 reads this one's whole.
        ends = [own, *reversed(self.sizes)]
        starts = [own, *self.sizes]
        self.starts = nn.ParameterList(draw(4**j, n) for j, n in enumerate(self.sizes, 1))
        self.ends = nn.ParameterList(draw(4**j, n) for j, n in enumerate(self.sizes, 1))
        self.vectors = draw(n_parts, own)
        self.gates = nn.ParameterList(draw(n, inner) for n in ends)
        self.values = nn.ParameterList(draw(n, inner) for n in starts)
        self.outputs = draw(k, inner, hidden)
        with torch.no_grad():
            for matrix in (*self.gates, *self.values, *self.outputs):
                matrix.mul_(len(matrix) ** -0.5)
        written = torch.ones(hidden)
        written[2 * side + own : 2 * side + own + 2] = 0  # the features of <cls>
        self.register_buffer("written", written, persistent=False)
        own_norm = counted.backbone.encoder.layer[0].get_submodule("attention.LayerNorm")
        words = counted.backbone.embeddings.word_embeddings.weight
        with torch.no_grad():
            # (4^k, H), what the network that counted reads of each k-mer
            self.register_buffer("teacher", own_norm(words[self.counter.ids]).float(), persistent=False)

    # ------------------------------------------------------------------ tables

    def _blocks(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Features of the starts and ends of j letters, each (4^j, n_j), and of whole k-mers (4^k, own)."""

        def norm(x: Tensor) -> Tensor:
            return F.layer_norm(x, x.shape[-1:])

        own = F.embedding_bag(self.parts, self.vectors, per_sample_weights=self.weights, mode="sum")
        return [norm(x) for x in self.starts], [norm(x) for x in self.ends], norm(own)

    def _embed(self, starts: list[Tensor], ends: list[Tensor], own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The blocks of each k-mer: its starts (4^k, side), its ends (4^k, side), the whole (4^k, own)."""
        size = len(own)
        first = torch.cat([x.repeat_interleave(size // len(x), 0) for x in starts], -1)
        last = torch.cat([x.repeat(size // len(x), 1) for x in ends], -1)
        return first, last, own

    def tables(self) -> Tensor:
        """What a k-mer adds to the states of the second layer: (k, 4^k, H), as a token and by ``d``."""
        starts, ends, own = self._blocks()
        first, last, _ = self._embed(starts, ends, own)
        outputs = self.outputs * self.written
        # Every token but the last is also one that is looked back to: its ends count twice.
        tables = [
            torch.cat([first, last, own, own.new_zeros(len(own), 2), last], -1)
            + (F.silu(own @ self.gates[0]) * (own @ self.values[0])) @ outputs[0]
        ]
        for d in range(1, self.counter.k):
            gate = F.silu(ends[self.counter.k - d - 1] @ self.gates[d])
            value = starts[d - 1] @ self.values[d]
            tables.append((gate[:, None] * value).flatten(0, 1) @ outputs[d])
        return torch.stack(tables)

    # ------------------------------------------------------------------ training

    def forward(self, batch: TokenBatch) -> Tensor:
        """Logits (B, C)."""
        return self._classify(self.counter.frames(batch.ids), batch)

    def answer(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Logits (B, C), and those of the network that counted, without a gradient."""
        counts = self.counter.frames(batch.ids)
        with torch.no_grad():
            every = counts.sum(1)  # (B, 4^k)
            other = self._n_attended(batch) - counts[:, 0].sum(-1, keepdim=True)
            mean = every @ self.teacher / (every.sum(-1, keepdim=True) + other)
            taught = answer_counts(self.counted, 0, mean)
        return self._classify(counts, batch), taught

    def _classify(self, counts: Tensor, batch: TokenBatch) -> Tensor:
        return answer_counts(
            self.explanandum, 1, self._mean(counts, batch), self.dropout if self.training else 0.0
        )

    def _mean(self, counts: Tensor, batch: TokenBatch) -> Tensor:
        """(B, H), over all tokens that are attended to."""
        return counts.flatten(1) @ self.tables().flatten(0, 1) / self._n_attended(batch)

    def _n_attended(self, batch: TokenBatch) -> Tensor:
        """(B, 1)."""
        return batch.attention.sum(-1, keepdim=True).float()

    def imitate(self, batches: list[TokenBatch], steps: int = 600, learning_rate: float = 1e-2) -> float:
        """Fit the tables to the one of the network that counted; returns the share of variance missed.

        What a difference matters is asked of that network: directions of its values in which its log
        probabilities change with the windows of ``batches`` weigh more.
        """
        value = self.counted.backbone.encoder.layer[0].get_submodule("attention.self.value")
        weight, bias = value.get_parameter("weight"), value.get_parameter("bias")
        counts = torch.cat([self.counter.frames(b.ids).sum(1) for b in batches])
        with torch.no_grad():
            target = self.teacher @ weight.T / self.counter.k  # (4^k, H)
            frequency = counts.sum(0) / counts.sum()
            means = counts @ self.teacher / counts.sum(-1, keepdim=True)
        metric = self._weigh(means @ weight.T + bias)
        with torch.no_grad():
            goal = target @ metric
            spread = (frequency[:, None] * (goal - frequency @ goal) ** 2).sum() * self.counter.k
        projection = nn.Parameter(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        with torch.no_grad():
            projection.mul_(weight.shape[0] ** -0.5)
        offsets = nn.Parameter(torch.zeros(self.counter.k, 1, len(weight)))
        factors = [*self.starts, *self.ends, self.vectors, *self.gates, *self.values, self.outputs]
        optimiser = torch.optim.Adam([*factors, projection, offsets], betas=(0.9, 0.98))
        missed = math.inf
        for step in range(steps):
            rate = min((step + 1) / 30, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimiser.param_groups[0]["lr"] = learning_rate * rate
            errors = (self.tables() @ projection.T + offsets - target) @ metric
            loss = (frequency[:, None] * errors**2).sum() / spread
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            missed = loss.item()
        own = self.explanandum.backbone.encoder.layer[1].get_submodule("attention.self.value")
        with torch.no_grad():
            own.get_parameter("weight").copy_(projection)
            own.get_parameter("bias").copy_(bias + offsets.sum((0, 1)))
        return missed

    def _weigh(self, values: Tensor) -> Tensor:
        """(H, H): the fourth root of the mean outer product of the gradients of the log probabilities.

        The fourth root of what the Fisher information would be, so that what hardly matters is not forgotten
        altogether.  ``values`` (N, H): what the network's attention reads in some windows.
        """
        values = values.detach().requires_grad_()
        output = self.counted.backbone.encoder.layer[0].get_submodule("attention.output")
        logits = answer_brought(self.counted, 0, output(values))
        random = torch.Generator().manual_seed(2)
        logs = [x.log_softmax(-1) for x in self.counted.split(logits)]
        gradients = []
        for _ in range(6):
            total = sum(
                (x * torch.randn(x.shape, generator=random) * x.shape[-1] ** -0.5).sum() for x in logs
            )
            gradients.append(torch.autograd.grad(total, values, retain_graph=True)[0])
        found = torch.cat(gradients).double()
        sizes, directions = torch.linalg.eigh(found.T @ found / len(found))
        roots = (sizes.clamp_min(0) / sizes.max()) ** 0.25 + 0.05
        metric: Tensor = (directions * roots).float()
        return metric

    # ------------------------------------------------------------------ the transformer

    @torch.no_grad()
    def finish(self, batch: TokenBatch) -> Explanandum:
        """The Explanandum as a transformer, with all its weights free to be trained.

        ``batch``: some windows, on which is measured how large the states are.
        """
        backbone = self.explanandum.backbone
        second = backbone.encoder.layer[1]
        self._write_embeddings(int(batch.ids[0, 0]))
        self._write_first_layer()
        states = backbone.encode(backbone.embed(batch.ids, batch.attention_mask), batch.attention_mask)[1]
        is_kmer = self.counter.numbers[batch.ids] >= 0  # single letters have no features, and no length
        lengths = states[is_kmer].var(-1, correction=0).sqrt()
        # What the second layer's attention brings was alone in the counts; now it is large beside the states.
        counts = self._mean(self.counter.frames(batch.ids), batch)
        brought = bring(self.explanandum, 1, counts)
        grown = _BROUGHT * lengths.mean() / brought.square().mean().sqrt()
        for name, parameter in second.named_parameters():
            if name.startswith(("attention.output.", "output.")):
                parameter.mul_(grown)
        # Its norm divides each state by its length; the counts knew no norm.  Lengths differ, if not by much,
        # and so the mean over windows must be put right.
        value = second.get_submodule("attention.self.value")
        expected = value(counts).mean(0)
        value.get_parameter("weight").div_(_SIZE * lengths.reciprocal().mean())
        weights = (batch.attention / batch.attention.sum(-1, keepdim=True))[:, None, :]
        found = value(torch.bmm(weights, second.get_submodule("attention.LayerNorm")(states))[:, 0]).mean(0)
        value.get_parameter("bias").add_(expected - found)
        # Even attention, which is free to learn otherwise.
        nn.init.zeros_(second.get_parameter("attention.self.query.weight"))
        nn.init.zeros_(second.get_parameter("attention.self.query.bias"))
        return self.explanandum.requires_grad_(True)

    def _write_embeddings(self, cls_id: int) -> None:
        """Starts, ends, whole, two features of ``<cls>`` alone, and room for the ends that are copied."""
        words = self.explanandum.backbone.embeddings.word_embeddings.weight
        words.zero_()
        blocks = torch.cat(self._embed(*self._blocks()), -1)
        words[self.counter.ids, : blocks.shape[1]] = _SIZE * blocks
        words[cls_id, blocks.shape[1] : blocks.shape[1] + 2] = torch.tensor([_SIZE, -_SIZE])

    def _write_first_layer(self) -> None:
        layer = self.explanandum.backbone.encoder.layer[0]
        config = self.explanandum.backbone.config
        hidden, side = config.hidden_size, sum(self.sizes)
        filled = hidden - side - 2  # features that the embedding of a k-mer has
        for name, parameter in layer.named_parameters():
            (nn.init.ones_ if name.endswith("LayerNorm.weight") else nn.init.zeros_)(parameter)

        # All heads look back; what they see is the ends of the token before, cut among them.
        attention = layer.get_submodule("attention.self")
        heads = config.num_attention_heads
        size = hidden // heads
        query, key, logit = look_back(size, config.max_position_embeddings)
        sink = torch.zeros(size)
        sink[size // 2 - 1] = math.sqrt(logit + _SINK) * size**0.25  # the slowest frequency, all but still
        attention.get_parameter("query.bias").copy_((query + sink).repeat(heads))
        attention.get_parameter("key.bias").copy_(key.repeat(heads))
        # Its own two features are +- sqrt(H / 2) behind the norm; they replace the key that all have.
        only = (sink - key).repeat(heads) / math.sqrt(2 * hidden)
        attention.get_parameter("key.weight")[:, filled : filled + 2] = torch.stack([only, -only], 1)
        places = torch.arange(side)
        attention.get_parameter("value.weight")[places, side + places] = math.sqrt(filled / hidden)
        share = 1 / (1 + math.exp(_SINK))
        layer.get_parameter("attention.output.dense.weight")[hidden - side + places, places] = _SIZE / share

        # The norm sees features of length one, but for the two that are nothing.
        unit = math.sqrt((hidden - 2) / hidden)
        inner = self.outputs.shape[1]
        gates, values = layer.get_parameter("intermediate.dense.weight").chunk(2)
        outputs = layer.get_parameter("output.dense.weight")
        edges = [0, *accumulate(self.sizes)]
        for d in range(self.counter.k):
            rows = slice(d * inner, (d + 1) * inner)
            read_gate = read_value = slice(2 * side, filled)
            if d:
                j = self.counter.k - d
                read_gate = slice(hidden - side + edges[j - 1], hidden - side + edges[j])
                read_value = slice(edges[d - 1], edges[d])
            gates[rows, read_gate] = unit * self.gates[d].T
            values[rows, read_value] = unit * self.values[d].T
            outputs[:, rows] = _SIZE * (self.outputs[d] * self.written).T
