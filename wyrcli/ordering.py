"""Rows of chunks in the order of their places, although a chunk is known only where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wyrcli.finding import Finding
from wyrcli.outputs import TextOutput

__all__ = ["Row", "RowQueue"]

Row = tuple[int, int, str]
"""Start and end of a chunk, bp, and its row as it is written."""


class RowQueue:
    """Writes rows sorted by start within each record, whatever the number of targets.

    Of one target chunks end in the order in which they begin.  Of several, a chunk that goes on beyond its
    window has to be waited for: rows behind its start are held until it ends.  Rows of one place keep the
    order of the targets.
    """

    def __init__(self, handle: TextOutput) -> None:
        self._handle = handle
        self._record = -1
        self._rows: list[Row] = []

    def add(self, findings: Sequence[Finding], rows: Sequence[Row]) -> None:
        """Take the rows of one window, for all targets it was explained for."""
        if findings[0].window.record != self._record:
            self.finish()
            self._record = findings[0].window.record
        if len(findings) == 1 and not self._rows:
            self._handle.write("".join([row for _, _, row in rows]))
            return
        self._rows = sorted([*self._rows, *rows], key=lambda row: row[:2])  # stable
        starts = [finding.open_start for finding in findings]
        self._write(min((start for start in starts if start is not None), default=math.inf))

    def _write(self, last: float) -> None:
        """Write the rows that start at ``last`` or before."""
        n = sum(row[0] <= last for row in self._rows)
        self._handle.write("".join([row for _, _, row in self._rows[:n]]))
        del self._rows[:n]

    def finish(self) -> None:
        """Write what is held back."""
        self._write(math.inf)
