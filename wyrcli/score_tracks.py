"""Scores by base, first into a file that is quick to write, then as a bigWig or bedGraph.

A bigWig begins with the lengths of all sequences, which nobody knows before the last window; hence the first
file, which has four bytes for every base.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wyrcli.explanation import Explanation, find_runs
from wyrcli.finding import Finding
from wyrcli.outputs import TextOutput

__all__ = ["ScoreSpool", "read_spool", "write_bedgraph", "write_bigwig"]

Stretch = tuple[str, int, NDArray[np.float32]]
"""Name of a sequence, first position, and the score of each base from there, NaN where there is none."""

_HEADER = struct.Struct("<Hqq")  # bytes of the name, start, bases
_DECIMALS = 4


class ScoreSpool:
    """The masks of windows by letter; where windows of a record overlap, their mean.

    The windows of a record come in the order of their starts, after :meth:`begin`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._name = b""
        self._start = 0
        self._sums: NDArray[np.float64] = np.zeros(0)
        self._counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def begin(self, name: str) -> None:
        """What follows belongs to a sequence of this name."""
        self.flush(np.inf)
        self._name = name.encode("ascii")

    def add(self, explanation: Explanation) -> None:
        """Take one window, and write what lies before it."""
        start, stop = explanation.window.start, explanation.window.stop
        self.flush(before=start)
        if len(self._sums) == 0:
            self._start = start
        grown = stop - self._start - len(self._sums)
        if grown > 0:
            self._sums = np.concatenate([self._sums, np.zeros(grown)])
            self._counts = np.concatenate([self._counts, np.zeros(grown, dtype=np.int64)])
        scores = Finding(explanation).base_scores
        place = slice(start - self._start, stop - self._start)
        self._sums[place] += np.nan_to_num(scores)
        self._counts[place] += ~np.isnan(scores)

    def flush(self, before: float) -> None:
        """Write the scores before a position, which no later window covers."""
        n = int(min(max(before - self._start, 0), len(self._sums)))
        if n == 0:
            return
        counts = self._counts[:n]
        means = np.where(counts > 0, np.round(self._sums[:n] / np.maximum(counts, 1), _DECIMALS), np.nan)
        self._file.write(_HEADER.pack(len(self._name), self._start, n) + self._name)
        self._file.write(means.astype("<f4").tobytes())
        self._sums, self._counts = self._sums[n:], self._counts[n:]
        self._start += n


def read_spool(path: Path) -> Iterator[Stretch]:
    """What a ScoreSpool wrote, in its order."""
    with open(path, "rb") as file:
        while header := file.read(_HEADER.size):
            length, start, n = _HEADER.unpack(header)
            name = file.read(length).decode("ascii")
            yield name, start, np.frombuffer(file.read(4 * n), dtype="<f4")


def write_bigwig(stretches: Iterable[Stretch], output: Path, lengths: list[tuple[str, int]]) -> None:
    """A value for every base that has one, as tracks of letters want it.

    ``lengths``: of all sequences, in their order; there must be one at least.  NaN never reaches pyBigWig,
    which would end the process with a segmentation fault (0.3.29).
    """
    import pyBigWig

    handle: Any = pyBigWig.open(str(output), "w")
    try:
        handle.addHeader(lengths)
        for name, start, values in stretches:
            missing = np.isnan(values)
            for first, end in find_runs(missing):
                if not missing[first]:
                    piece = values[first:end].astype(np.float64)
                    handle.addEntries(name, start + first, values=piece, span=1, step=1)
    finally:
        handle.close()


def write_bedgraph(stretches: Iterable[Stretch], handle: TextOutput) -> None:
    """A row for each run of equal scores."""
    handle.write("#chrom\tstart\tend\tscore\n")
    for name, start, values in stretches:
        filled = np.where(np.isnan(values), np.inf, values)  # NaN equals nothing, not even itself
        edges = [0, *(np.flatnonzero(filled[1:] != filled[:-1]) + 1).tolist(), len(filled)]
        handle.write(
            "".join(
                f"{name}\t{start + first}\t{start + end}\t{filled[first]:.4g}\n"
                for first, end in pairwise(edges)
                if filled[first] != np.inf
            )
        )
