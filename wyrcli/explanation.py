"""What an Explainer says of one window, and the chunks that its mask falls into."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.taxonomy import Lineage

__all__ = ["Chunk", "Explanation", "Part", "Target", "Window", "find_runs", "side_of"]


class Window(NamedTuple):
    """A piece of a record that is given to the model.

    ``record`` is the ordinal of the record in the whole input, from 0: names may repeat, ordinals
    never do.  ``start`` and ``stop`` are 0-based half-open positions on the record, in bp.
    ``sequence`` is already normalised: upper case, only A, C, G, T and N.  ``source`` is the record as it
    stood in a BAM or CRAM file (``pysam.AlignedSegment``), None for others; positions are on the read **as
    sequenced**, whichever way it is aligned.  ``qualities`` are those of a FASTQ file, its letters, one per
    base of ``sequence``; ``length`` is that of the whole record (0 where it is not known).
    """

    record: int
    name: str
    start: int
    stop: int
    sequence: str
    source: Any = None
    qualities: str = ""
    length: int = 0

    def cut(self, start: int, stop: int) -> Window:
        """A part of it, by positions on the record."""
        first, end = start - self.start, stop - self.start
        return self._replace(
            start=start, stop=stop, sequence=self.sequence[first:end], qualities=self.qualities[first:end]
        )


class Target(NamedTuple):
    """The class that a mask was asked for, where it is not the predicted ones.

    ``rank`` is the number of its rank and ``probability`` what the Explanandum gives it.  With ``against``,
    the mask is that of ``name`` minus that of ``against``, in [-1, 1].
    """

    name: str
    rank: int
    probability: float
    against: str = ""


class Chunk(NamedTuple):
    """A maximal run of relevant (or of irrelevant) tokens of the rounded mask.

    Positions are 0-based half-open bp on the record; ``mean_mask`` is the mean of the soft mask over
    the run's tokens, below 0 where a contrast speaks for the other class.
    """

    start: int
    stop: int
    relevant: bool
    mean_mask: float


class Part(NamedTuple):
    """What windows before hold of a chunk: its start (bp), its sites there, the sum of their masks."""

    start: int
    sites: int
    total: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """The masks of one window, for the classes that the Explanandum predicted or for a target.

    T is the number of sites: tokens, or single bases where scores were asked for at that resolution.

    Parameters
    ----------
    window: the piece of the record that was classified.
    lineage: predicted taxon per rank.
    probabilities: of those taxa, per rank.
    mask: float32 (T,), the target mask m: maximum over ranks, or that of one rank or class if one was asked
        for; in [-1, 1] for a contrast.
    rank_masks: float32 (R, T), the mask of the predicted taxon of each rank.
    spans: int64 (T, 2), the bases each site covers, 0-based half-open **on the record**.
    target: whose mask ``mask`` is, if not that of the predicted classes.
    sure: per rank, whether its probability is high enough to answer; empty if that was not asked.
    agreement: Pearson correlation of the scores of both strands, base by base; None if one was read, NaN
        where the scores of one are all the same.
    before: of the chunk at the window's start, what earlier windows hold of it, if it began there.
    after: how many bp of the chunk at the window's end lie in the next window; 0 if it ends here.
    """

    window: Window
    lineage: Lineage
    probabilities: tuple[float, ...]
    mask: NDArray[np.float32]
    rank_masks: NDArray[np.float32]
    spans: NDArray[np.int64]
    target: Target | None = None
    sure: tuple[bool, ...] = ()
    agreement: float | None = None
    before: Part | None = None
    after: int = 0

    def answers(self, rank: int) -> bool:
        """Whether the Explanandum is sure enough to name a taxon at this rank."""
        return not self.sure or self.sure[rank]

    def label(self, rank: int | None = None) -> str | None:
        """What a row about this window is called.

        The target, if there is one; else the predicted taxon of ``rank``, by default of the narrowest rank
        at which the Explanandum is sure; None if it is not.
        """
        if self.target is not None:
            return self.target.name
        ranks = reversed(range(len(self.lineage))) if rank is None else [rank]
        return next((self.lineage[r] for r in ranks if self.answers(r)), None)

    def chunks(self, threshold: float = 0.5, min_length: int = 1) -> list[Chunk]:
        """The relevant chunks: runs of sites with a mask above ``threshold``, at least ``min_length`` bp.

        Of a contrast, runs below ``-threshold`` too, which speak for the other class.  They end where the
        window does: see :meth:`joined_chunks`.
        """
        chunks = []
        for first, end in self._relevant_runs(threshold):
            start, stop = int(self.spans[first, 0]), int(self.spans[end - 1, 1])
            if stop - start >= min_length:
                chunks.append(Chunk(start, stop, True, _mean(self.mask[first:end])))
        return chunks

    def joined_chunks(self, threshold: float = 0.5, min_length: int = 1) -> list[Chunk]:
        """The relevant chunks that **end** in this window, wherever they began: each of a record once.

        The same as :meth:`chunks` for a window that is alone; ``start`` may lie before the window's.
        ``threshold`` must be the one with which ``before`` and ``after`` were found.
        """
        chunks = []
        for first, end in self._relevant_runs(threshold):
            if end == len(self.mask) and self.after:
                continue
            start, stop = int(self.spans[first, 0]), int(self.spans[end - 1, 1])
            mean = _mean(self.mask[first:end])
            if first == 0 and self.before is not None:
                start, sites, total = self.before
                mean = (total + float(self.mask[:end].sum())) / (sites + end)
            if stop - start >= min_length:
                chunks.append(Chunk(start, stop, True, mean))
        return chunks

    def relevant_bp(self, threshold: float = 0.5, min_length: int = 1) -> int:
        """Bases of the window that lie in relevant chunks, also in those that go on beyond it.

        Of what comes behind the window, only the next one counts towards ``min_length``.
        """
        return sum(stop - start for start, stop in self.relevant_parts(threshold, min_length))

    def relevant_parts(self, threshold: float = 0.5, min_length: int = 1) -> list[tuple[int, int]]:
        """What lies inside the window of the relevant chunks, as half-open bp on the record; see
        :meth:`relevant_bp`."""
        parts = []
        for first, end in self._relevant_runs(threshold):
            start, stop = int(self.spans[first, 0]), int(self.spans[end - 1, 1])
            whole = stop - start
            if first == 0 and self.before is not None:
                whole += start - self.before.start
            if end == len(self.mask):
                whole += self.after
            if whole >= min_length:
                parts.append((start, stop))
        return parts

    def open_start(self, threshold: float = 0.5) -> int | None:
        """Where the chunk begins that goes on beyond the window, bp on the record; None if none does."""
        if not self.after:
            return None
        first, _ = self._relevant_runs(threshold)[-1]
        return self.before.start if first == 0 and self.before is not None else int(self.spans[first, 0])

    def _relevant_runs(self, threshold: float) -> list[tuple[int, int]]:
        side = side_of(self.mask, threshold)
        return [(first, end) for first, end in find_runs(side) if side[first]]


def _mean(values: NDArray[np.float32]) -> float:
    """The bits of ``values.mean()``, in a third of its time: chunks are many and short."""
    return float(np.add.reduce(values) / np.float32(len(values)))


def side_of(mask: NDArray[np.float32], threshold: float) -> NDArray[np.int8]:
    """1 where a mask is above ``threshold``, -1 where that of a contrast is below ``-threshold``, else 0."""
    above = (mask > threshold).astype(np.int8)
    return above - (mask < -abs(threshold)).astype(np.int8)


def find_runs(values: NDArray[np.generic]) -> list[tuple[int, int]]:
    """Maximal runs of equal values, as half-open index pairs that tile the array.

    >>> find_runs(np.array([True, True, False]))
    [(0, 2), (2, 3)]
    """
    if len(values) == 0:
        return []
    borders = np.flatnonzero(np.diff(values)) + 1
    edges = [0, *borders.tolist(), len(values)]
    return list(pairwise(edges))
