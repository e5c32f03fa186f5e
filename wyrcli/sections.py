"""Where the stream of windows is cut: into pools for the model, and into sections of whole records.

A pool is what is sorted by length and batched together.  A section is what a shard is made of, and at
whose end every pool ends: so the batches of a section, and with them the last digit of its scores, are the
same whether it is read alone or with others.  Both follow from the windows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

__all__ = ["Border", "OnSection", "Sectioner"]

OnSection = Callable[[int], None]
"""Told the ordinal of the first record of each section but the first one."""


class Border(Enum):
    """What ends before a window."""

    NONE = 0
    POOL = 1
    SECTION = 2


class Sectioner:
    """Asked of each window in turn.

    A section ends at the first new record once it holds ``tokens`` tokens, a pool with it; inside of a
    longer record pools end once they hold twice as many.

    Parameters
    ----------
    tokens: at least 1.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._pool = self._section = 0
        self._record = -1

    def place(self, record: int, size: int) -> Border:
        """What ends before the next window, one of ``size`` tokens of the record with this ordinal."""
        border = Border.NONE
        if self._section >= self._tokens and record != self._record:
            border = Border.SECTION
            self._pool = self._section = 0
        elif self._pool >= 2 * self._tokens:
            border = Border.POOL
            self._pool = 0
        self._pool += size
        self._section += size
        self._record = record
        return border
