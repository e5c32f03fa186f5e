"""The methods behind :mod:`wyrcli.peers`: from windows as games over their tokens to a score per token.

All of them explain one number, the *value*: the sum over ranks of the log-probability of one class per rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from math import comb
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wyrcli.errors import WyrError
from wyrcli.examination import Subject
from wyrcli.model.encoders import EncoderExplanandum
from wyrcli.model.explanandum import BaseExplanandum, Explanandum
from wyrcli.model.masking import Operator, gate, scale_embedding
from wyrcli.model.tokens import TokenBatch

__all__ = [
    "Game",
    "Options",
    "Scores",
    "attention",
    "fit_lime",
    "fit_shapley",
    "gate_gradient",
    "gate_integrated_gradients",
    "grad_cam",
    "gradient_norm",
    "gradient_x_input",
    "integrated_gradients",
    "kernel_shap",
    "lime",
    "neighbour_tree",
    "occlusion",
    "partition_shap",
    "random_scores",
]

Scores = NDArray[np.float64]
"""Of one window (T,): a score per valid token, higher for more important."""

Coalitions = NDArray[np.bool_]
"""Of one window (S, T): which of its valid tokens stay."""


class Options(NamedTuple):
    """What a peer may spend on a window.

    ``seed``: of all that is drawn.  ``lime_samples``: masks that LIME tries.  ``shap_samples``: masks that
    KernelSHAP tries beside two for each token.  ``steps``: points on the path of integrated gradients.
    ``evaluations``: of Partition SHAP.  ``removal``: the operator of :data:`~wyrcli.model.masking.OPERATORS`
    by which occlusion, LIME and both SHAP take tokens away; any other removal stands for ``gate``, since
    those that write another window leave no tokens to share the value among.  ``rank``: the value is of this
    rank's class alone; None: of all ranks.
    """

    seed: int = 0
    lime_samples: int = 500
    shap_samples: int = 2048
    steps: int = 50
    evaluations: int = 500
    removal: str = "gate"
    rank: int | None = None


class Game:
    """N windows as games: their valid tokens are the players, and what a coalition earns is the value.

    Parameters
    ----------
    subject: the classifier.
    sequences: N windows.
    classes: int64 (N, R), the class of each rank whose log-probabilities are summed.
    capacity: most variants of windows in one forward pass.
    removal: how the tokens outside a coalition are taken away.
    rank: the only one whose log-probability counts; None: all.
    """

    def __init__(
        self,
        subject: Subject,
        sequences: Sequence[str],
        classes: NDArray[np.int64],
        capacity: int,
        removal: Operator = gate,
        rank: int | None = None,
    ) -> None:
        batch = subject.tokenizer.batch(sequences)
        self.subject = subject
        self.counts: list[int] = batch.valid.sum(-1).tolist()
        self.keys = [crc32(sequence.encode()) for sequence in sequences]
        self.capacity = capacity
        self.removal = removal
        self._lengths = batch.attention.sum(-1).numpy()
        self._batch = batch.to(subject.device)
        wanted = torch.from_numpy(np.asarray(classes, dtype=np.int64)).to(subject.device)
        columns = subject.explanandum.class_numbers(wanted)
        self._columns = columns if rank is None else columns[:, rank : rank + 1]

    def draws(self, seed: int) -> Iterator[np.random.Generator]:
        """A random generator for each window, which depends on the window and on no other."""
        return (np.random.default_rng([seed, key]) for key in self.keys)

    def values(self, coalitions: Sequence[Coalitions]) -> list[NDArray[np.float64]]:
        """Value of each coalition: of each window bool (S_i, T_i), true for what stays, to (S_i,)."""
        sizes = [len(own) for own in coalitions]
        owners = np.repeat(np.arange(len(sizes)), sizes)
        padded = np.zeros((len(owners), self._batch.ids.shape[1]), dtype=np.bool_)
        for own, end in zip(coalitions, np.cumsum(sizes), strict=True):
            padded[end - len(own) : end, 1 : 1 + own.shape[1]] = own
        found = np.empty(len(owners))
        with torch.inference_mode():
            for rows in self._chunks(len(owners)):
                batch = self._rows(owners[rows])
                mask = torch.from_numpy(padded[rows, : batch.ids.shape[1]]).to(self.subject.device).float()
                value, _ = self._value(batch, owners[rows], mask, self.removal)
                found[rows] = value.double().cpu().numpy()
        return np.split(found, np.cumsum(sizes)[:-1])

    def slopes(
        self,
        levels: NDArray[np.float64],
        choose: Callable[[Tensor, list[Tensor]], Tensor],
        operator: Operator = scale_embedding,
    ) -> Iterator[tuple[TokenBatch, Tensor, Tensor]]:
        """Gradients of the value under masks that have one of ``levels`` (S,) for all tokens.

        ``choose`` picks what they are with respect to from the mask (B, L) and the hidden states; what a
        mask does is up to ``operator``: by default it multiplies embeddings.  Yields tokens, what was chosen
        and its gradient, in batches of all levels of the first window, of the second, and so on.
        """
        owners = np.repeat(np.arange(len(self.counts)), len(levels))
        tiled = torch.from_numpy(np.tile(levels, len(self.counts))).float().to(self.subject.device)
        for rows in self._chunks(len(owners)):
            with torch.inference_mode(False), torch.enable_grad():
                batch = self._rows(owners[rows])
                mask = tiled[rows, None].repeat(1, batch.ids.shape[1]).requires_grad_()
                value, states = self._value(batch, owners[rows], mask, operator)
                chosen = choose(mask, states)
                (gradient,) = torch.autograd.grad(value.sum(), chosen)
            yield batch, chosen.detach(), gradient

    def batches(self) -> Iterator[TokenBatch]:
        """All windows once, on the device."""
        return (self._rows(np.arange(len(self.counts))[rows]) for rows in self._chunks(len(self.counts)))

    def _chunks(self, n: int) -> Iterator[slice]:
        return (slice(first, first + self.capacity) for first in range(0, n, self.capacity))

    def _rows(self, owners: NDArray[np.int64]) -> TokenBatch:
        """Windows by number, any number of times, padded to the longest of them."""
        lengths = self._lengths[owners]
        longest = int(lengths.max())
        index = torch.from_numpy(owners).to(self.subject.device)
        own = self._batch
        return TokenBatch(
            own.ids[index, :longest],
            own.attention[index, :longest],
            own.valid[index, :longest],
            own.spans[owners, :longest],
            padded=bool((lengths < longest).any()),
        )

    def _value(
        self, batch: TokenBatch, owners: NDArray[np.int64], mask: Tensor, operator: Operator
    ) -> tuple[Tensor, list[Tensor]]:
        logits, states = self.subject.explanandum.classify(batch, mask, operator)
        columns = self._columns[torch.from_numpy(owners).to(self.subject.device)]
        return self.subject.normalise(logits).gather(1, columns).sum(1), states


# ---------------------------------------------------------------- without gradients


def random_scores(game: Game, options: Options) -> list[Scores]:
    """Uniform noise."""
    return [rng.random(n) for rng, n in zip(game.draws(options.seed), game.counts, strict=True)]


def occlusion(game: Game, options: Options) -> list[Scores]:
    """How far the value falls when one token is taken away."""
    masks = [np.concatenate([np.ones((1, n), np.bool_), ~np.eye(n, dtype=np.bool_)]) for n in game.counts]
    return [own[0] - own[1:] for own in game.values(masks)]


def attention(game: Game, options: Options) -> list[Scores]:
    """The share of the last layer's attention that a token receives, mean over heads and queries.

    The queries are those that the heads of the classifier read: all valid tokens where it takes their mean,
    else the first token alone.  Raises WyrError for an architecture whose attention is not known here.
    """
    scores: list[Scores] = []
    explanandum = game.subject.explanandum
    for batch in game.batches():
        first = torch.zeros_like(batch.valid)
        first[:, 0] = True
        queries = batch.valid if explanandum.pooling == "mean" else first
        shares = _received(explanandum, batch, queries / queries.sum(-1, keepdim=True).clamp_min(1))
        scores += _unpad(shares, batch)
    return scores


def _received(explanandum: BaseExplanandum, batch: TokenBatch, queries: Tensor) -> Tensor:
    """Attention (B, L) that each key receives in the last layer from queries (B, L) that sum to 1."""
    if isinstance(explanandum, Explanandum):
        return _received_by_slope(explanandum, batch, queries)
    if isinstance(explanandum, EncoderExplanandum):
        network: Any = explanandum.network
        with _eager(network.config), torch.inference_mode():
            out = network.base_model(
                input_ids=batch.ids, attention_mask=batch.attention_mask, output_attentions=True
            )
            shares: Tensor = out.attentions[-1].float().mean(1)  # (B, L, L)
            return torch.bmm(queries[:, None], shares)[:, 0]
    raise WyrError(f"attention: not available for this architecture ({explanandum.architecture})")


@contextmanager
def _eager(config: Any) -> Iterator[None]:
    """For a while, the plain formula of attention: fused kernels do not give their shares."""
    usual = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = usual


def _received_by_slope(explanandum: Explanandum, batch: TokenBatch, queries: Tensor) -> Tensor:
    """The same without a matrix (L, L): attention is linear in its values, and its slope is the share."""
    layer: Any = explanandum.backbone.encoder.layer[-1]
    kept: dict[str, Tensor] = {}

    def cut(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept["values"] = output.detach().requires_grad_()
        return kept["values"]

    def keep(_: nn.Module, args: Any, output: Tensor) -> None:
        kept["out"] = output

    with ExitStack() as stack, torch.inference_mode(False), torch.enable_grad():
        stack.callback(layer.attention.self.value.register_forward_hook(cut).remove)
        stack.callback(layer.attention.self.register_forward_hook(keep).remove)
        explanandum(batch)
        weights = queries[..., None].to(kept["out"].dtype).expand_as(kept["out"])
        (slope,) = torch.autograd.grad(kept["out"], kept["values"], weights)
    return slope.float().mean(-1)


# ---------------------------------------------------------------- by gradients


def gradient_norm(game: Game, options: Options) -> list[Scores]:
    """Euclidean norm of the gradient with respect to the token's embedding (ELECTRA's: to its projection)."""
    scores: list[Scores] = []
    for batch, _, gradient in game.slopes(np.ones(1), lambda mask, states: states[0]):
        scores += _unpad(gradient.float().norm(dim=-1), batch)
    return scores


def gradient_x_input(game: Game, options: Options) -> list[Scores]:
    """Product of embedding and gradient: the slope of the value in a factor on the embedding."""
    return _mask_slopes(game, np.ones(1), scale_embedding)


def gate_gradient(game: Game, options: Options) -> list[Scores]:
    """Slope of the value in the gate of a token that is wide open: gradient times input of the mask.

    A network that normalises its inputs hardly feels the length of an embedding; this asks it about what
    our Explainers change.
    """
    return _mask_slopes(game, np.ones(1), gate)


def integrated_gradients(game: Game, options: Options) -> list[Scores]:
    """Gradient times input, averaged on the straight path from embeddings of zero (Gauss-Legendre points).

    Special tokens keep their embeddings.  A network that normalises its embeddings first (the Nucleotide
    Transformer) jumps right at the baseline, closer to it than any point of the path: scores then sum to
    the rise of the value from just beside the baseline, not from the baseline itself.
    """
    return _integrate(game, options.steps, scale_embedding)


def gate_integrated_gradients(game: Game, options: Options) -> list[Scores]:
    """Slopes of the value in the gates of all tokens, averaged while they open together from 0 to 1.

    No point is at 0, where the gate's logarithm ends, but they crowd towards it: there the value rises most
    steeply, and equally spaced midpoints come less near to the whole rise.
    """
    return _integrate(game, options.steps, gate)


def _integrate(game: Game, steps: int, operator: Operator) -> list[Scores]:
    """Means of mask slopes over the levels from 0 to 1, by Gauss-Legendre points."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    found = _mask_slopes(game, (points + 1) / 2, operator)
    paths = [found[i * steps : (i + 1) * steps] for i in range(len(game.counts))]
    return [np.average(path, axis=0, weights=weights) for path in paths]


def _mask_slopes(game: Game, levels: NDArray[np.float64], operator: Operator) -> list[Scores]:
    """Slope of the value in each token's mask, at all levels of the first window, of the second, ..."""
    scores: list[Scores] = []
    for batch, _, gradient in game.slopes(levels, lambda mask, states: mask, operator):
        scores += _unpad(gradient, batch)
    return scores


def grad_cam(game: Game, options: Options) -> list[Scores]:
    """Positive part of the last states' channels, each weighted by its gradient's mean over all tokens."""
    scores: list[Scores] = []
    for batch, states, gradient in game.slopes(np.ones(1), lambda mask, states: states[-1]):
        real = batch.attention[..., None]
        weights = (gradient.float() * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)  # (B, 1, H)
        scores += _unpad((states.float() * weights).sum(-1).relu(), batch)
    return scores


def _unpad(values: Tensor, batch: TokenBatch) -> list[Scores]:
    """Rows (B, L) as one array (T_i,) each."""
    wide = values.double().cpu().numpy()
    return [row[1 : 1 + n] for row, n in zip(wide, batch.valid.sum(-1).tolist(), strict=True)]


# ---------------------------------------------------------------- by sampled masks


def lime(game: Game, options: Options) -> list[Scores]:
    """Coefficients of a linear model of the value around the whole window; see :func:`fit_lime`.

    The first sample is the whole window.  In the others each token stays by chance of one half, as in
    captum.  In our measurements that found planted signal better than lime_text's way, which draws how many
    tokens to remove uniformly from 1 to T.
    """
    masks = [
        rng.random((options.lime_samples, n)) < 0.5
        for rng, n in zip(game.draws(options.seed), game.counts, strict=True)
    ]
    for own in masks:
        own[:1] = True
    return [fit_lime(own, values) for own, values in zip(masks, game.values(masks), strict=True)]


def fit_lime(masks: Coalitions, values: NDArray[np.float64]) -> Scores:
    """Weighted ridge regression of values (S,) on masks (S, T), with lime_text's defaults.

    A mask that keeps k of T tokens weighs exp(-(100 d / 25)^2 / 2), where d = 1 - sqrt(k / T) is its cosine
    distance to the whole window; the penalty is 1, and the intercept is free of it.
    """
    n = masks.shape[1]
    distance = 1 - np.sqrt(masks.sum(1) / max(n, 1))
    weights = torch.from_numpy(np.exp(-((4 * distance) ** 2) / 2))[:, None]
    x, y = torch.from_numpy(masks.astype(np.float64)), torch.from_numpy(values)[:, None]
    x = x - (weights * x).sum(0) / weights.sum()
    y = y - (weights * y).sum(0) / weights.sum()
    gram = x.T @ (weights * x) + torch.eye(n, dtype=x.dtype)
    return _array(torch.linalg.solve(gram, x.T @ (weights * y)))


def _array(column: Tensor) -> Scores:
    return np.asarray(column[:, 0].numpy(), dtype=np.float64)


def kernel_shap(game: Game, options: Options) -> list[Scores]:
    """Shapley values by the regression that has them as its solution; see :func:`fit_shapley`.

    Coalitions come in pairs with their complements, sizes drawn by the Shapley kernel (Covert and Lee 2021).
    Two for each token are not counted, as in shap's default of 2 T + 2048: about as many equations as
    unknowns would give the worst of all fits.  A window with so few tokens that all its coalitions are
    affordable gets them all: then it is exact.
    """
    drawn = [
        _pairs(rng, n, n + options.shap_samples // 2)
        for rng, n in zip(game.draws(options.seed), game.counts, strict=True)
    ]
    ends = [np.stack([np.zeros(n, np.bool_), np.ones(n, np.bool_)]) for n in game.counts]
    masks = [np.concatenate([end, half, ~half]) for end, (half, _) in zip(ends, drawn, strict=True)]
    scores = []
    for (half, weights), values in zip(drawn, game.values(masks), strict=True):
        own, others = np.split(values[2:], 2)
        scores.append(fit_shapley(half, own, others, weights, values[1] - values[0]))
    return scores


def _pairs(rng: np.random.Generator, n: int, n_pairs: int) -> tuple[Coalitions, NDArray[np.float64]]:
    """One coalition (T,) of each pair with its complement, and the weight of the pair in the regression."""
    if n < 2:
        return np.zeros((0, n), np.bool_), np.zeros(0)
    sizes = np.arange(1, n)
    kernel = (n - 1) / (sizes * (n - sizes))  # of all coalitions of a size together
    if 2 ** (n - 1) - 1 <= n_pairs:
        every = np.arange(1, 2 ** (n - 1))[:, None] >> np.arange(n) & 1 > 0
        return every, np.array([kernel[k - 1] / comb(n, k) for k in every.sum(1).tolist()])
    drawn = rng.choice(sizes, n_pairs, p=kernel / kernel.sum())
    places = rng.random((n_pairs, n)).argsort(1).argsort(1)
    return places < drawn[:, None], np.ones(n_pairs)


def fit_shapley(
    masks: Coalitions,
    values: NDArray[np.float64],
    others: NDArray[np.float64],
    weights: NDArray[np.float64],
    total: float,
) -> Scores:
    """Least squares of values on masks where the coefficients must sum to ``total``, of paired coalitions.

    Parameters
    ----------
    masks: (S, T), one coalition of each pair.
    values, others: (S,), its value and that of its complement.
    weights: (S,), of each pair.
    total: value of all tokens less that of none.
    """
    n = masks.shape[1]
    if len(masks) == 0:
        return np.full(n, total)
    # With total / n taken from each coefficient they sum to 0, and rows without their mean see no other
    # solution: the one of least norm.  The value of no token falls out of the difference of a pair.
    rows = masks - masks.mean(1, keepdims=True)
    rest = (values - others) / 2 - total * (masks.mean(1) - 0.5)
    root = torch.from_numpy(np.sqrt(weights))[:, None]
    solved = torch.linalg.lstsq(
        root * torch.from_numpy(rows), root * torch.from_numpy(rest)[:, None], driver="gelsd"
    )
    return _array(solved.solution + total / n)


def partition_shap(game: Game, options: Options) -> list[Scores]:
    """Owen values over a balanced binary tree of neighbouring tokens, by shap's own code.

    It splits the groups of tokens that matter most until its evaluations are spent, and shares evenly what
    a group has that was not split.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shap's own, about matplotlib
        shap = import_module("shap.explainers")
    scores: list[Scores] = []
    for number, (rng, n) in enumerate(zip(game.draws(options.seed), game.counts, strict=True)):
        value = _value_of(game, number)
        if n < 2:
            scores.append(np.diff(value(np.array([[False] * n, [True] * n])))[:n])
            continue
        explainer = shap.PartitionExplainer(value, _TokenMasker(n))
        with _numpy_seed(int(rng.integers(2**32))):
            row = explainer.explain_row(
                np.ones(n, np.bool_),
                max_evals=options.evaluations,
                main_effects=False,
                error_bounds=False,
                outputs=None,
                silent=True,
                batch_size=_SPLIT_AT_ONCE,
            )
        scores.append(row["values"])
    return scores


_SPLIT_AT_ONCE = 50  # evaluations between two looks at what matters most; the answer depends on it


def _value_of(game: Game, number: int) -> Callable[[Coalitions], NDArray[np.float64]]:
    """The value of coalitions (S, T) of one window of the game."""

    def value(masks: Coalitions) -> NDArray[np.float64]:
        none = np.zeros((0, 0), np.bool_)
        return game.values([masks if i == number else none for i in range(len(game.counts))])[number]

    return value


class _TokenMasker:
    """Gives shap's model function the mask itself; the groups are pairs of neighbours, pairs of pairs, ..."""

    def __init__(self, n: int) -> None:
        self.shape = (1, n)
        self.clustering = neighbour_tree(n)

    def __call__(self, mask: NDArray[np.bool_], window: NDArray[np.bool_]) -> Coalitions:
        return mask[None]


def neighbour_tree(n: int) -> NDArray[np.float64]:
    """A balanced binary tree over n >= 2 tokens in their order, as scipy writes one: float64 (n - 1, 4).

    Each row: two children (tokens are 0 to n - 1, row i is n + i), a height, number of tokens.

    >>> neighbour_tree(3).tolist()
    [[0.0, 1.0, 1.0, 2.0], [3.0, 2.0, 2.0, 3.0]]
    """
    rows: list[tuple[int, int, int, int]] = []
    level = [(token, 1) for token in range(n)]
    height = 0
    while len(level) > 1:
        height += 1
        above = []
        for (left, left_size), (right, right_size) in zip(level[::2], level[1::2], strict=False):
            rows.append((left, right, height, left_size + right_size))
            above.append((n + len(rows) - 1, left_size + right_size))
        level = above + level[2 * len(above) :]
    return np.array(rows, dtype=np.float64)


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """For a while, numpy's global generator as of ``seed``: shap breaks ties by it."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
