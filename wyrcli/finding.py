"""An Explanation with what several writers need of it, found once: its chunks and a score per base."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wyrcli.explanation import Chunk, Explanation, Window

__all__ = ["Finding", "score_bases"]


class Finding:
    """What one Explanation says, in the forms that are written.

    Parameters
    ----------
    explanation: of one window, for one target.
    threshold, min_length: what a relevant chunk is, see :meth:`Explanation.chunks`.
    rank: whose taxon names rows; None for the narrowest that the Explanandum is sure of.
    """

    def __init__(
        self, explanation: Explanation, threshold: float = 0.5, min_length: int = 1, rank: int | None = None
    ) -> None:
        self.explanation = explanation
        self.threshold = threshold
        self.min_length = min_length
        self.rank = rank

    @property
    def window(self) -> Window:
        """The window that was explained."""
        return self.explanation.window

    @cached_property
    def label(self) -> str | None:
        """What rows are called; None where the Explanandum is not sure enough of any taxon."""
        return self.explanation.label(self.rank)

    @cached_property
    def chunks(self) -> list[Chunk]:
        """The relevant chunks inside the window, whether or not there is a label for them."""
        return self.explanation.chunks(self.threshold, self.min_length)

    @cached_property
    def named_chunks(self) -> list[tuple[Chunk, str]]:
        """The chunks that rows are written of, with what they speak for; they may begin in earlier windows.

        None without a label.  A chunk of a contrast with a mean mask below 0 speaks for the other class.
        """
        if self.label is None:
            return []
        chunks = self.explanation.joined_chunks(self.threshold, self.min_length)
        return [(chunk, self.name_chunk(chunk) or self.label) for chunk in chunks]

    @property
    def relevant_parts(self) -> list[tuple[int, int]]:
        """Half-open bp on the record: what lies inside the window of the relevant chunks."""
        return self.explanation.relevant_parts(self.threshold, self.min_length)

    @cached_property
    def open_start(self) -> int | None:
        """Where the chunk begins that goes on beyond the window, bp on the record; None if none does."""
        return self.explanation.open_start(self.threshold)

    def name_chunk(self, chunk: Chunk) -> str | None:
        """What a chunk speaks for: the label, or the other class of a contrast."""
        target = self.explanation.target
        if target is not None and target.against and chunk.mean_mask < 0:
            return target.against
        return self.label

    @cached_property
    def base_scores(self) -> NDArray[np.float32]:
        """float32 (stop - start,): the mask of each base of the window; NaN where no site covers it."""
        window = self.window
        return score_bases(self.explanation.mask, self.explanation.spans, window.start, window.stop)

    @property
    def filled_scores(self) -> NDArray[np.float32]:
        """As ``base_scores``, with 0 where no site is."""
        missing = np.isnan(self.base_scores)
        return np.where(missing, np.float32(0), self.base_scores) if missing.any() else self.base_scores

    def scored_stretches(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Start (bp on the record) and scores of each stretch of bases that have a score: usually one."""
        scores = self.base_scores
        if not len(scores):
            return
        covered = np.isfinite(scores)
        if covered.all():
            yield self.window.start, scores
            return
        edges = np.flatnonzero(np.diff(np.concatenate([[False], covered, [False]]).astype(np.int8)))
        for first, end in edges.reshape(-1, 2).tolist():
            yield self.window.start + first, scores[first:end]


def score_bases(
    mask: NDArray[np.float32], spans: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.float32]:
    """A score per base from a score per site.

    Parameters
    ----------
    mask: (T,).  spans: (T, 2), bp, sorted by start.  start, stop: of the window, bp.

    Returns float32 (stop - start,): the score of the site that covers a base, the mean of several, NaN
    where there is none.
    """
    if len(mask) and spans[0, 0] == start and spans[-1, 1] == stop and (spans[1:, 0] == spans[:-1, 1]).all():
        if len(mask) == stop - start:
            return mask
        return np.repeat(mask, spans[:, 1] - spans[:, 0])
    first = np.clip(spans[:, 0] - start, 0, stop - start)
    end = np.clip(spans[:, 1] - start, 0, stop - start)
    scores, sites = np.zeros(stop - start), np.zeros(stop - start)
    # A site is a few bases wide: one pass per place inside a site sums exactly, unlike running totals.
    for offset in range(int((end - first).max(initial=0))):
        inside = first + offset < end
        np.add.at(scores, first[inside] + offset, mask[inside].astype(np.float64))
        np.add.at(sites, first[inside] + offset, 1)
    with np.errstate(invalid="ignore"):
        return (scores / sites).astype(np.float32)
