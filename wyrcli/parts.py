"""Outputs of which a run writes a part: put behind one another, the parts are the bytes of the whole.

That holds for text with rows of its own: only the first part has the header, and BGZF begins a new block
with each section in every run (see :mod:`wyrcli.sections`), so that the blocks are the same whoever writes
them; only the last part ends with BGZF's mark.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from wyrcli.errors import WyrError, printable
from wyrcli.outputs import BgzfText, MakeIndex, TextOutput, is_regular, open_output

__all__ = ["Part", "Rows"]


class Part(NamedTuple):
    """Which part of its outputs a run writes; by default all."""

    is_first: bool = True
    is_last: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing comes before or behind it."""
        return self.is_first and self.is_last


class _Headless:
    """Lets nothing through until rows come."""

    def __init__(self, handle: TextOutput) -> None:
        self._handle = handle
        self.has_begun = False

    def write(self, text: str, /) -> None:
        if self.has_begun:
            self._handle.write(text)


class Rows:
    """The text outputs of a run that may be one of several parts."""

    def __init__(self, part: Part | None = None) -> None:
        self.part = part or Part()
        self._blocks: list[BgzfText] = []
        self._headless: list[_Headless] = []
        self._endings: list[Callable[[], object]] = []
        self._borders: deque[int] = deque()

    def open(self, stack: ExitStack, path: str, make_index: MakeIndex | None = None) -> TextOutput:
        """An output that lasts as long as the stack; what is written before :meth:`begin` is its header.

        A part has no index.  Raises as :func:`wyrcli.outputs.open_output`.
        """
        packed = path.endswith((".gz", ".bgz"))
        if packed and not self.part.is_last and not is_regular(path):
            raise WyrError(f"cannot write a part to {printable(path, limit=300)}; expected a file")
        index = make_index if self.part.is_whole else None
        handle = stack.enter_context(open_output(path, index, is_last=self.part.is_last))
        if isinstance(handle, BgzfText):
            self._blocks.append(handle)
        if self.part.is_first:
            return handle
        headless = _Headless(handle)
        self._headless.append(headless)
        return headless

    def at_border(self, write: Callable[[], object]) -> None:
        """Have a writer that holds rows back asked for them where a section ends."""
        self._endings.append(write)

    def begin(self) -> None:
        """All headers are written."""
        for handle in self._headless:
            handle.has_begun = True

    def add_border(self, record: int) -> None:
        """A section begins with this record; another thread than that of :meth:`next_border` may say so."""
        self._borders.append(record)

    def next_border(self, before: float = math.inf) -> int | None:
        """The first border that was not given yet, if it is not behind the record ``before``."""
        if self._borders and self._borders[0] <= before:
            return self._borders.popleft()
        return None

    def cut(self) -> None:
        """A section ends here: write what is held back, and begin new blocks."""
        for write in self._endings:
            write()
        for blocks in self._blocks:
            blocks.cut()
