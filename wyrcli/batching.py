"""Which windows make up each step of a training, and everything random about them.

Every draw follows from the seed and from its place (epoch, step, window in the step), and from nothing
else.  So a step can be made again without the steps before it, which is what resuming needs; and it is
the same step whether one process makes it or eight, in one piece or accumulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wyrcli.errors import InputError
from wyrcli.model.tokens import TokenBatch, Tokenizer

__all__ = ["Piece", "Plan", "Windows", "balance", "cut_at_random", "cut_pieces", "turn_round"]

_LENGTHS = 8  # different ones of windows that are cut at random
_SHIFTS = 5  # bases that may be left out to change the reading frame
_POOL = 64  # batches whose windows are sorted by length together
_COMPLEMENT = str.maketrans("ACGT", "TGCA")

# What a random number is for; part of what it is drawn from.
_ORDER, _STRAND, _NOISE, _CUT = range(4)


class Windows(Protocol):
    """Labelled windows, as ``dataset.LabelledWindows`` gives them."""

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """Class within each rank, (N, R)."""

    @property
    def sequences(self) -> Sequence[str]:
        """N sequences."""

    def __len__(self) -> int: ...


class Piece(NamedTuple):
    """What a process computes at once of a step.

    ``frames``: the same windows without their first base, without their first two, and so on.
    ``labels`` int64 (B, R).  ``noise`` float32 (B, L, 2), uniform in (0, 1), two draws per token: the same
    for a window wherever it is computed.  ``share``: windows of it among all windows of the step.
    ``step``: number, from 0.
    """

    batch: TokenBatch
    labels: Tensor
    noise: Tensor
    share: float
    step: int
    frames: tuple[TokenBatch, ...] = ()

    def to(self, device: torch.device) -> Piece:
        """The same on another device."""
        labels = self.labels.to(device, non_blocking=True)
        noise = self.noise.to(device, non_blocking=True)
        frames = tuple(frame.to(device) for frame in self.frames)
        return self._replace(batch=self.batch.to(device), labels=labels, noise=noise, frames=frames)

    def pin_memory(self) -> Piece:
        """The same in page-locked memory, so that a copy to a GPU runs beside its work."""
        labels, noise = self.labels.pin_memory(), self.noise.pin_memory()
        frames = tuple(frame.pin_memory() for frame in self.frames)
        return self._replace(batch=self.batch.pin_memory(), labels=labels, noise=noise, frames=frames)


class Plan:
    """The windows of each step.

    An epoch takes every window once, in an order of its own; its last step may be smaller.  Where
    lengths differ, the windows of a step are of like length, so that little is padded: pools of many
    batches are sorted by length before they are cut, and the batches shuffled.

    Parameters
    ----------
    n: number of windows.
    batch_size: of a step, all processes together.
    lengths: (n,), where they differ; None if they are not known or shall not matter.
    weights: (n,), how often each window is drawn relative to the others; an epoch then draws n windows with
        replacement.  None takes each once.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        lengths: NDArray[np.integer[Any]] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        if n == 0:
            raise InputError("the training split is empty")
        self.n, self.batch_size, self.seed = n, min(batch_size, n), seed
        self._lengths = None if lengths is None or (lengths == lengths[0]).all() else lengths
        self._shares = None if weights is None else np.cumsum(weights) / weights.sum()
        self._epoch, self._batches = -1, list[NDArray[np.int64]]()

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n // self.batch_size)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Numbers of the windows of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[place]

    def _draw(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self.seed, _ORDER, epoch])
        if self._shares is None:
            order = rng.permutation(self.n)
        else:
            # The last share may be a little below 1, by rounding.
            order = np.minimum(np.searchsorted(self._shares, rng.random(self.n), side="right"), self.n - 1)
        if self._lengths is not None:
            pool = _POOL * self.batch_size
            for first in range(0, self.n, pool):
                part = order[first : first + pool]
                order[first : first + pool] = part[np.argsort(self._lengths[part], kind="stable")]
        cuts = range(self.batch_size, self.n, self.batch_size)
        batches = np.split(order, cuts)
        if self._lengths is not None:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches


def balance(labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """How often to draw each window so that no class crowds out the others: float64 (N,), for :class:`Plan`.

    A class of the first rank is drawn in proportion to the square root of the number of classes of the last
    rank in it: between equally often, at the cost of every genus of a large superkingdom, and at the cost of
    the small ones.  Within it the classes of the last rank come equally often, and within these the windows.
    ``labels``: class within each rank, (N, R).

    >>> balance(np.array([[0, 0], [0, 0], [1, 1], [1, 2], [1, 3], [1, 4]])).round(3)
    array([0.167, 0.167, 0.167, 0.167, 0.167, 0.167])
    """
    pairs, of_pair, n_windows = np.unique(labels[:, [0, -1]], axis=0, return_inverse=True, return_counts=True)
    _, of_first, n_pairs = np.unique(pairs[:, 0], return_inverse=True, return_counts=True)
    weights = (n_pairs[of_first] ** -0.5 / n_windows)[of_pair.ravel()]
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def cut_pieces(
    windows: Windows,
    tokenizer: Tokenizer,
    plan: Plan,
    *,
    steps: range,
    both_strands: bool = False,
    shortest: int = 0,
    accumulate: int = 1,
    n_frames: int = 1,
    number: int = 0,
    size: int = 1,
) -> Iterator[list[Piece]]:
    """For each step, the pieces of process ``number`` of ``size``: ``accumulate`` of them, or fewer.

    All processes have equally many, so that none waits for one that has nothing to do: at the end of an
    epoch, where a step has few windows, a piece may have a ``share`` of 0.

    ``n_frames``: reading frames in which each window is tokenised.  ``both_strands``: a window is turned
    round with probability one half.  ``shortest``: see :func:`cut_at_random`; 0 leaves windows whole.
    """
    for step in steps:
        rows = plan.rows(step)
        if shortest:
            cuts = np.random.default_rng([plan.seed, _CUT, step]).random(1 + len(rows))
        own = np.arange(number, len(rows), size)
        n_pieces = min(accumulate, -(-len(rows) // size))
        turned = np.random.default_rng([plan.seed, _STRAND, step]).random(len(rows)) < 0.5
        pieces = []
        for part in (own[i::n_pieces] for i in range(n_pieces)):
            places = part if len(part) else np.zeros(1, np.int64)
            sequences = [windows.sequences[int(i)] for i in rows[places]]
            if shortest:
                sequences = [
                    cut_at_random(s, shortest, cuts[0], at)
                    for s, at in zip(sequences, cuts[1 + places], strict=True)
                ]
            if both_strands:
                sequences = [
                    turn_round(s) if t else s for s, t in zip(sequences, turned[places], strict=True)
                ]
            batch = tokenizer.batch(sequences)
            pieces.append(
                Piece(
                    batch,
                    torch.from_numpy(windows.labels[rows[places]].astype(np.int64)),
                    _draw_noise(plan.seed, step, places, batch.ids.shape[1]),
                    len(part) / len(rows),
                    step,
                    tuple(tokenizer.batch([s[f:] for s in sequences]) for f in range(1, n_frames)),
                )
            )
        yield pieces


def _draw_noise(seed: int, step: int, places: NDArray[np.int64], length: int) -> Tensor:
    noise = np.empty((len(places), length, 2), dtype=np.float32)
    for row, place in zip(noise, places.tolist(), strict=True):
        # A generator for each window: how far its neighbours are padded must not matter.
        np.random.default_rng([seed, _NOISE, step, place]).random(out=row, dtype=np.float32)
    return torch.from_numpy(noise)


def cut_at_random(sequence: str, shortest: int, size: float, place: float) -> str:
    """A piece of a window: training on such pieces makes a classifier of short reads, in any reading frame.

    Parameters
    ----------
    shortest: length of the shortest pieces; a window that is not longer stays whole.
    size: in [0, 1), which of some lengths, whose logarithms lie equally far apart, from ``shortest`` to that
        of the window without a few bases, which are left out so that its frame changes too.  One number for
        a whole step leaves nothing to be padded.
    place: in [0, 1), where the piece begins.
    """
    if len(sequence) <= shortest:
        return sequence
    longest = max(len(sequence) - _SHIFTS, shortest)
    # Few lengths: libraries of matrix products prepare themselves for each shape anew.
    length = round(shortest * (longest / shortest) ** (int(size * _LENGTHS) / (_LENGTHS - 1)))
    start = int(place * (len(sequence) - length + 1))
    return sequence[start : start + length]


def turn_round(sequence: str) -> str:
    """The reverse complement; N stays N."""
    return sequence[::-1].translate(_COMPLEMENT)
