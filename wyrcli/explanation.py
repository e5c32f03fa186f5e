"""What an Explainer says of one window, and the chunks that its mask falls into."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.taxonomy import Lineage

__all__ = ["Chunk", "Explanation", "Window", "find_runs"]


class Window(NamedTuple):
    """A piece of a record that is given to the model.

    ``record`` is the ordinal of the record in the whole input, from 0: names may repeat, ordinals
    never do.  ``start`` and ``stop`` are 0-based half-open positions on the record, in bp.
    ``sequence`` is already normalised: upper case, only A, C, G, T and N.
    """

    record: int
    name: str
    start: int
    stop: int
    sequence: str


class Chunk(NamedTuple):
    """A maximal run of relevant (or of irrelevant) tokens of the rounded mask.

    Positions are 0-based half-open bp on the record; ``mean_mask`` is the mean of the soft mask over
    the run's tokens.
    """

    start: int
    stop: int
    relevant: bool
    mean_mask: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """The masks of one window for the classes that the Explanandum predicted.

    Parameters
    ----------
    window: the piece of the record that was classified.
    lineage: predicted taxon per rank.
    probabilities: of those taxa, per rank.
    mask: float32 (T,), the target mask m: maximum over ranks, or that of one rank if one was asked for.
    rank_masks: float32 (R, T), the mask of the predicted taxon of each rank.
    spans: int64 (T, 2), the bases each token covers, 0-based half-open **on the record**.
    """

    window: Window
    lineage: Lineage
    probabilities: tuple[float, ...]
    mask: NDArray[np.float32]
    rank_masks: NDArray[np.float32]
    spans: NDArray[np.int64]

    def chunks(self, threshold: float = 0.5, min_length: int = 1) -> list[Chunk]:
        """The relevant chunks: runs of tokens with a mask above ``threshold``, at least ``min_length`` bp."""
        chunks = []
        relevant = self.mask > threshold
        for first, end in find_runs(relevant):
            if relevant[first]:
                start, stop = int(self.spans[first, 0]), int(self.spans[end - 1, 1])
                if stop - start >= min_length:
                    chunks.append(Chunk(start, stop, True, float(self.mask[first:end].mean())))
        return chunks


def find_runs(values: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Maximal runs of equal values, as half-open index pairs that tile the array.

    >>> find_runs(np.array([True, True, False]))
    [(0, 2), (2, 3)]
    """
    if len(values) == 0:
        return []
    borders = np.flatnonzero(np.diff(values)) + 1
    edges = [0, *borders.tolist(), len(values)]
    return list(pairwise(edges))
