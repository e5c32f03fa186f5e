"""From positions on a read to positions on the reference that it is aligned to, through the CIGAR.

Positions on a read count along the read **as sequenced**, over the bases that its record holds: soft-clipped
ones count, hard-clipped ones, which the record and so the model lack, do not.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import WyrError
from wyrcli.finding import Finding
from wyrcli.outputs import TextOutput
from wyrcli.writers import bed_text, choose_shade

__all__ = ["LiftCounts", "LiftWriter", "find_blocks", "reference_positions", "require_alignment"]

_CONSUMES_READ = np.array([1, 1, 0, 0, 1, 0, 0, 1, 1, 0], dtype=bool)  # MIDNSHP=XB
_CONSUMES_REFERENCE = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
_ALIGNS = _CONSUMES_READ & _CONSUMES_REFERENCE


def reference_positions(segment: Any) -> NDArray[np.int64]:
    """int64 (bases,): where each base of the read as sequenced lies on the reference; -1 for nowhere.

    ``segment`` is a mapped pysam.AlignedSegment.  Bases that are inserted or clipped lie nowhere.
    """
    operations = np.array(segment.cigartuples or [], dtype=np.int64).reshape(-1, 2)
    codes, lengths = operations[:, 0], operations[:, 1]
    on_read = np.where(_CONSUMES_READ[codes], lengths, 0)
    on_reference = np.where(_CONSUMES_REFERENCE[codes], lengths, 0)
    read_starts = np.cumsum(on_read) - on_read
    reference_starts = segment.reference_start + np.cumsum(on_reference) - on_reference
    n_bases = int(on_read.sum())
    positions = np.repeat(reference_starts - read_starts, on_read) + np.arange(n_bases)
    positions[~np.repeat(_ALIGNS[codes], on_read)] = -1
    return positions[::-1] if segment.is_reverse else positions


def find_blocks(positions: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The stretches of the reference that positions make up, sorted, 0-based half-open.

    >>> find_blocks(np.array([9, 8, -1, 7, 5, 4]))
    [(4, 6), (7, 10)]
    """
    aligned = np.sort(positions[positions >= 0])
    if not len(aligned):
        return []
    breaks = np.flatnonzero(np.diff(aligned) != 1)
    starts = aligned[np.concatenate([[0], breaks + 1])]
    stops = aligned[np.concatenate([breaks, [len(aligned) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def require_alignment(finding: Finding, option: str) -> Any:
    """The alignment of a window's read; None where it is not aligned.

    Raises WyrError where the read was in no BAM or CRAM file.
    """
    segment = finding.window.source
    if segment is None:
        raise WyrError(
            f"{option} needs aligned reads, but '{finding.window.name}' comes from no BAM or CRAM file"
        )
    return None if segment.is_unmapped or segment.reference_id < 0 or not segment.cigartuples else segment


class LiftCounts:
    """``chunks``: lifted; ``without_place``: of aligned reads, but all clipped or inserted; ``unaligned``: of
    reads that are not aligned."""

    def __init__(self) -> None:
        self.chunks = 0
        self.without_place = 0
        self.unaligned = 0


class LiftWriter:
    """The relevant chunks in reference coordinates as BED12, one row each.

    Blocks are the aligned stretches of the reference: deletions and splices part them, insertions do not.
    ``name`` is what the chunk speaks for and the read, joined by ``;``; ``score`` 1000 times the mean mask
    (for a contrast, its size); the strand is that of the alignment.  Chunks without an aligned base have no
    row.

    Reads sorted by coordinate make sorted rows; memory then holds the rows of reads that overlap.  Otherwise
    rows come in the order of the reads.
    """

    def __init__(self, handle: TextOutput) -> None:
        self.counts = LiftCounts()
        self._handle = handle
        self._waiting: list[tuple[int, int, int, int, str]] = []  # a heap by place, then order
        self._number = 0
        self._place = (-1, -1)
        self._sorted = True
        self._record = -1
        self._positions: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        handle.write(
            "#chrom\tchromStart\tchromEnd\tname\tscore\tstrand\tthickStart\tthickEnd\titemRgb\t"
            "blockCount\tblockSizes\tblockStarts\n"
        )

    def write_group(self, findings: Sequence[Finding]) -> None:
        """Take one window, for all targets it was explained for."""
        for finding in findings:
            segment = require_alignment(finding, "--lift")
            if segment is None:
                self.counts.unaligned += len(finding.named_chunks)
                continue
            if finding.window.record != self._record:
                self._record, self._positions = finding.window.record, reference_positions(segment)
                self._advance((segment.reference_id, segment.reference_start))
            self._lift(finding, segment)

    def _advance(self, place: tuple[int, int]) -> None:
        """Let go of rows that no later read can come before."""
        if place < self._place and self._sorted:
            self._sorted = False
            self._flush()
        self._place = place
        while self._waiting and self._waiting[0][:2] < place:
            self._handle.write(heapq.heappop(self._waiting)[-1])

    def _lift(self, finding: Finding, segment: Any) -> None:
        target = finding.explanation.target
        contrast = target is not None and bool(target.against)
        for chunk, label in finding.named_chunks:
            blocks = find_blocks(self._positions[chunk.start : chunk.stop])
            if not blocks:
                self.counts.without_place += 1
                continue
            self.counts.chunks += 1
            start, stop = blocks[0][0], blocks[-1][1]
            size = min(abs(chunk.mean_mask) if contrast else max(chunk.mean_mask, 0.0), 1.0)
            name = f"{bed_text(label).replace(';', '_')};{bed_text(finding.window.name)}"
            sizes = ",".join([str(b - a) for a, b in blocks])
            offsets = ",".join([str(a - start) for a, _ in blocks])
            row = (
                f"{bed_text(segment.reference_name)}\t{start}\t{stop}\t{name}\t{round(1000 * size)}\t"
                f"{'-' if segment.is_reverse else '+'}\t{start}\t{stop}\t"
                f"{choose_shade(chunk.mean_mask, contrast)}\t{len(blocks)}\t{sizes}\t{offsets}\n"
            )
            if self._sorted:
                self._number += 1
                heapq.heappush(self._waiting, (segment.reference_id, start, stop, self._number, row))
            else:
                self._handle.write(row)

    def _flush(self) -> None:
        while self._waiting:
            self._handle.write(heapq.heappop(self._waiting)[-1])

    def finish(self) -> None:
        """Write the rows that still wait."""
        self._flush()
