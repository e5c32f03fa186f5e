"""Records that were skipped, until their place among the windows comes."""

from __future__ import annotations

import json
import tempfile
from collections import deque
from itertools import islice
from threading import Lock
from typing import IO, NamedTuple

__all__ = ["Skipped", "WaitingRecords"]


class Skipped(NamedTuple):
    """A record without a window; see ``on_skip`` of :func:`wyrcli.windows.split_windows`."""

    record: int
    name: str
    length: int
    reason: str


class WaitingRecords:
    """First in, first out, for one thread that adds and one that takes.

    Of an input without a window all records wait for its end: beyond ``most`` they do so in a temporary file.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._lock = Lock()
        self._ready: deque[Skipped] = deque()
        self._file: IO[str] | None = None  # what came after those that are ready
        self._in_file = 0
        self._place = 0  # where it is to be read on

    def add(self, skipped: Skipped) -> None:
        """The next record."""
        with self._lock:
            if not self._in_file and len(self._ready) < self._most:
                self._ready.append(skipped)
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile("w+", prefix="wyr-", encoding="ascii")
            self._file.write(json.dumps(skipped) + "\n")
            self._in_file += 1

    def take(self, before: float) -> Skipped | None:
        """The next record, if its number is below ``before``."""
        with self._lock:
            if not self._ready and self._in_file:
                self._read()
            if not self._ready or self._ready[0].record >= before:
                return None
            return self._ready.popleft()

    def close(self) -> None:
        """Forget what still waits."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file, self._in_file, self._place = None, 0, 0
            self._ready.clear()

    def _read(self) -> None:
        assert self._file is not None
        self._file.seek(self._place)
        lines = list(islice(iter(self._file.readline, ""), self._most))
        self._ready.extend(Skipped(*json.loads(line)) for line in lines)
        self._in_file -= len(lines)
        self._place = self._file.tell() if self._in_file else 0
        if self._in_file:
            self._file.seek(0, 2)
        else:
            self._file.seek(0)
            self._file.truncate()
