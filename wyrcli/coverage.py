"""Scores of aligned reads along the reference: their mean at every base, and how many reads there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wyrcli import letters
from wyrcli.errors import WyrError, printable
from wyrcli.finding import Finding
from wyrcli.lifting import reference_positions, require_alignment
from wyrcli.outputs import MakeIndex, TextOutput, open_output
from wyrcli.tracks import open_spool, write_stretch
from wyrcli.writers import bed_text, safe_text

__all__ = ["Coverage", "Track", "open_coverage"]

_LUMP = 1 << 14  # bp that are gathered before they are written

Track = Callable[[Any, int, NDArray[np.float32]], None]
"""Takes a stretch: the header of the alignment, and see :class:`Coverage`."""


class Coverage:
    """Sums over the reads that overlap at one place of the reference; memory holds no more.

    Parameters
    ----------
    mean, depth: called as ``(segment, start, values)`` for each stretch of the reference that is covered, in
        order; ``segment`` is any alignment to that sequence.  None for none.
    shown: the outputs, for errors.

    Reads must come sorted by coordinate.
    """

    def __init__(self, mean: Track | None, depth: Track | None, shown: str) -> None:
        self._mean, self._depth = mean, depth
        self._shown = printable(shown, limit=300)
        self._record = -1
        self._segment: Any = None
        self._positions: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._start = 0  # place of the first sum on the reference
        self._sums = np.zeros(4 * _LUMP)
        self._counts = np.zeros(4 * _LUMP, dtype=np.int64)
        self._end = 0  # places used

    def write(self, finding: Finding) -> None:
        """Take one window.  Raises WyrError at a read that lies before an earlier one."""
        segment = require_alignment(finding, "--coverage")
        if segment is None:
            return
        window = finding.window
        if window.record != self._record:
            self._record = window.record
            self._begin(segment)
        positions = self._positions[window.start : window.stop]
        scores = finding.base_scores
        chosen = (positions >= 0) & np.isfinite(scores)
        places = positions[chosen] - self._start
        if not len(places):
            return
        self._reserve(int(places.max()) + 1)
        self._sums[places] += scores[chosen]  # a read covers no place twice
        self._counts[places] += 1

    def _begin(self, segment: Any) -> None:
        before = self._segment
        place = (segment.reference_id, segment.reference_start)
        if before is not None and place < (before.reference_id, before.reference_start):
            raise WyrError(
                f"{self._shown}: read '{printable(segment.query_name)}' lies before the one ahead of it; "
                "coverage needs reads sorted by coordinate: samtools sort"
            )
        if before is not None and segment.reference_id != before.reference_id:
            self._release(self._end)
            self._start, self._end = segment.reference_start, 0
        elif before is None:
            self._start = segment.reference_start
        elif segment.reference_start - self._start >= _LUMP:
            self._release(min(segment.reference_start - self._start, self._end))
            self._start = segment.reference_start if self._end == 0 else self._start
        self._segment, self._positions = segment, reference_positions(segment)

    def _reserve(self, n: int) -> None:
        if n > len(self._sums):
            more = max(n, 2 * len(self._sums)) - len(self._sums)
            self._sums = np.concatenate([self._sums, np.zeros(more)])
            self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.int64)])
        self._end = max(self._end, n)

    def _release(self, n: int) -> None:
        """Hand out the first ``n`` places, and move the others to the front."""
        counts, sums = self._counts[:n], self._sums[:n]
        covered = counts > 0
        edges = np.flatnonzero(np.diff(np.concatenate([[False], covered, [False]]).astype(np.int8)))
        for first, end in edges.reshape(-1, 2).tolist():
            if self._mean is not None:
                means = (sums[first:end] / counts[first:end]).astype(np.float32)
                self._mean(self._segment, self._start + first, means)
            if self._depth is not None:
                self._depth(self._segment, self._start + first, counts[first:end].astype(np.float32))
        rest = self._end - n
        self._sums[:rest], self._counts[:rest] = self._sums[n : self._end], self._counts[n : self._end]
        self._sums[rest : self._end], self._counts[rest : self._end] = 0, 0
        self._start, self._end = self._start + n, rest

    def finish(self) -> None:
        """Hand out what is left."""
        if self._segment is not None:
            self._release(self._end)


def _write_counts(handle: TextOutput, chrom: str, start: int, counts: NDArray[np.float32]) -> None:
    first = np.flatnonzero(np.concatenate([[True], counts[1:] != counts[:-1]]))
    starts = start + first
    stops = np.append(starts[1:], start + len(counts))
    numbers = (letters.integers(starts), letters.integers(stops), letters.integers(counts[first].astype(int)))
    handle.write(
        letters.join([chrom.encode() + b"\t", numbers[0], b"\t", numbers[1], b"\t", numbers[2], b"\n"])
    )


@contextmanager
def _open_track(
    path: str | None, whole_numbers: bool, bigwig: bool, make_index: MakeIndex | None
) -> Iterator[Track | None]:
    if path is None:
        yield None
    elif bigwig:
        with open_spool(path, "reference sequence") as spool:
            known: set[str] = set()

            def add(segment: Any, start: int, values: NDArray[np.float32]) -> None:
                if not known:
                    header = segment.header
                    for name, length in zip(header.references, header.lengths, strict=True):
                        spool.declare(safe_text(name), length)
                        known.add(name)
                spool.add(safe_text(segment.reference_name), start, values)

            yield add
    else:
        with open_output(path, make_index) as handle:
            handle.write(f"#chrom\tstart\tend\t{'depth' if whole_numbers else 'mean_score'}\n")

            def write(segment: Any, start: int, values: NDArray[np.float32]) -> None:
                chrom = bed_text(segment.reference_name)
                if whole_numbers:
                    _write_counts(handle, chrom, start, values)
                else:
                    write_stretch(handle, chrom, start, values)

            yield write


@contextmanager
def open_coverage(
    mean: str | None,
    depth: str | None,
    *,
    bigwig: tuple[bool, bool] = (False, False),
    make_index: tuple[MakeIndex | None, MakeIndex | None] = (None, None),
) -> Iterator[Coverage]:
    """Tracks over the reference, each as bedGraph or bigWig.

    Parameters
    ----------
    mean: file of the mean score of each base.  depth: file of the number of reads that cover it.
    bigwig, make_index: of the one and of the other.
    """
    with ExitStack() as stack:
        tracks = [
            stack.enter_context(_open_track(path, number == 1, bigwig[number], make_index[number]))
            for number, path in enumerate((mean, depth))
        ]
        coverage = Coverage(tracks[0], tracks[1], " and ".join(path for path in (mean, depth) if path))
        yield coverage
        coverage.finish()
