"""Windows of one record put together again: scores where they overlap, chunks that go on across a border.

Both stages take the Explanations of one window after the other (one for each target), in the order of the
input, and hold back those of one window: a contig may have any length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from wyrcli.explanation import Explanation, Part, Window, find_runs, side_of
from wyrcli.targets import same_subject

__all__ = ["group", "join_chunks", "stitch"]

Group = Sequence[Explanation]
"""The Explanations of one window."""

_GRID = 6  # bp; zones begin where a k-mer of the window's own frame does


def group(explanations: Iterable[Explanation], size: int) -> Iterator[Group]:
    """Explanations window by window; each has ``size`` of them."""
    iterator = iter(explanations)
    while members := list(islice(iterator, size)):
        yield members


# ---------------------------------------------------------------- overlaps


def stitch(groups: Iterable[Group], rank: int | None = None) -> Iterator[Group]:
    """Windows that overlap become zones that tile their record, with scores blended where they overlapped.

    Of two windows, each owns its half of the overlap (to 6 bp), and what is there is called what its owner
    says.  The weights of both scores fall linearly to the windows' ends, base by base: a token has the mean
    over its bases, and one that lies across a border is cut.  Masks of different classes are never blended:
    of each rank, and of each target, only if both windows name the same one; each window else keeps its own
    scores.  Windows that do not overlap pass unchanged.

    Parameters
    ----------
    groups: no window may overlap another than the next one.
    rank: whose mask counts where the predicted classes are explained; None for the maximum over ranks.
    """
    held: Group = ()
    for following in groups:
        if held:
            first, second = held[0].window, following[0].window
            if first.record == second.record and first.start <= second.start < first.stop:
                held, following = _blend(held, following, rank)
            yield held
        held = following
    if held:
        yield held


def _blend(left: Group, right: Group, rank: int | None) -> tuple[Group, Group]:
    start, stop = right[0].window.start, left[0].window.stop
    border = start + (stop - start) // (2 * _GRID) * _GRID
    share = ((np.arange(stop - start) + 0.5) / (stop - start)).astype(np.float32)  # of the right window
    lefts, rights = [], list(right)
    for place, one in enumerate(left):
        i = _partner(one, right, place)
        a = _score_bases(one, start, stop)
        b = None if i is None else _score_bases(right[i], start, stop)
        if b is None or i is None:
            lefts.append(_keep(one, one.window.start, border, start, a, rank))
            continue
        mixed = a + (b - a) * share  # where both are equal, exactly that
        same = [x == y for x, y in zip(one.lineage, right[i].lineage, strict=True)]
        alike = np.array([one.target is not None, *same])[:, None]
        lefts.append(_keep(one, one.window.start, border, start, np.where(alike, mixed, a), rank))
        # The overlap of the left window is read, the rest of the right one is still its own.
        rights[i] = _keep(right[i], border, right[i].window.stop, start, np.where(alike, mixed, b), rank)
    for i, other in enumerate(rights):
        if other is right[i]:
            scores = _score_bases(other, start, stop)
            rights[i] = _keep(other, border, other.window.stop, start, scores, rank)
    return lefts, rights


def _score_bases(explanation: Explanation, start: int, stop: int) -> NDArray[np.float32]:
    """The mask and those of the ranks, float32 (1 + R, stop - start), of bases that the window tiles."""
    scores = np.vstack([explanation.mask[None], explanation.rank_masks])
    spans = explanation.spans
    origin = int(spans[0, 0])
    bases = np.repeat(scores, spans[:, 1] - spans[:, 0], axis=1)
    return bases[:, start - origin : stop - origin]


def _keep(
    explanation: Explanation,
    start: int,
    stop: int,
    place: int,
    scores: NDArray[np.float32],
    rank: int | None,
) -> Explanation:
    """The part [start, stop) of an Explanation; bases from ``place`` on have new ``scores`` (1 + R, n)."""
    spans = np.clip(explanation.spans, start, stop)
    kept = spans[:, 0] < spans[:, 1]
    spans = spans[kept]
    own = np.vstack([explanation.mask[None], explanation.rank_masks])[:, kept]
    (touched,) = np.nonzero((spans[:, 0] < place + scores.shape[1]) & (spans[:, 1] > place))
    if len(touched):
        first, last = touched[0], touched[-1] + 1
        origin = int(spans[first, 0])
        sizes = spans[first:last, 1] - spans[first:last, 0]
        bases = np.repeat(own[:, first:last].astype(np.float64), sizes, axis=1)
        low, high = max(place, origin), min(place + scores.shape[1], int(spans[last - 1, 1]))
        bases[:, low - origin : high - origin] = scores[:, low - place : high - place]
        sums = np.add.reduceat(bases, spans[first:last, 0] - origin, axis=1)
        own[:, first:last] = sums / sizes
    rank_masks = own[1:]
    mask = own[0]
    if explanation.target is None:
        mask = rank_masks.max(0) if rank is None else rank_masks[rank]
    window = explanation.window.cut(start, stop)
    return replace(explanation, window=window, mask=mask, rank_masks=rank_masks, spans=spans)


# ---------------------------------------------------------------- chunks across borders


def join_chunks(groups: Iterable[Group], threshold: float = 0.5, rank: int | None = None) -> Iterator[Group]:
    """Notes which chunks go on in the next window of the record, so that they become one row.

    A chunk goes on where the windows touch, both are called the same (see :meth:`Explanation.label`, with
    ``rank``), and the sites on both sides of the border are above ``threshold``, on the same side of a
    contrast.  It is written with the window in which it ends: see :meth:`Explanation.joined_chunks`.
    """
    held: Group = ()
    for following in groups:
        if held:
            if _touch(held[0].window, following[0].window):
                held, following = _link(held, following, threshold, rank)
            yield held
        held = following
    if held:
        yield held


def _touch(first: Window, second: Window) -> bool:
    return first.record == second.record and first.stop == second.start


def _link(left: Group, right: Group, threshold: float, rank: int | None) -> tuple[Group, Group]:
    lefts, rights = list(left), list(right)
    for i, one in enumerate(left):
        j = _partner(one, right, i)
        if j is None or not len(one.mask) or not len(right[j].mask):
            continue
        other, label = right[j], one.label(rank)
        side, head = side_of(one.mask, threshold), side_of(other.mask, threshold)
        if label is not None and label == other.label(rank) and side[-1] and side[-1] == head[0]:
            rights[j] = replace(other, before=_last_part(one, side))
            _, end = find_runs(head)[0]
            lefts[i] = replace(one, after=int(other.spans[end - 1, 1] - other.spans[0, 0]))
    return lefts, rights


def _partner(explanation: Explanation, others: Group, place: int) -> int | None:
    """Which of the next window's Explanations is about the same; that at the same place, if it is."""
    alike = [i for i, other in enumerate(others) if same_subject(explanation, other)]
    return place if place in alike else next(iter(alike), None)


def _last_part(explanation: Explanation, side: NDArray[np.int8]) -> Part:
    """The chunk that an Explanation ends with, and what windows before it hold of it."""
    first, end = find_runs(side)[-1]
    part = Part(int(explanation.spans[first, 0]), end - first, float(explanation.mask[first:end].sum()))
    if first == 0 and explanation.before is not None:
        earlier = explanation.before
        return Part(earlier.start, earlier.sites + part.sites, earlier.total + part.total)
    return part
