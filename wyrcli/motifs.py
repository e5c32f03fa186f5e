"""Sequences and scores as arrays for motif discovery (tfmodisco-lite, tangermeme).

``modisco motifs -s NAME.onehot.npz -a NAME.npz`` reads member ``arr_0`` of two files, each (N, 4, L), and
crops both to ``-w`` columns around the middle.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wyrcli.errors import WyrError
from wyrcli.finding import Finding
from wyrcli.outputs import open_path

__all__ = ["MotifCounts", "MotifSpool", "onehot_path", "open_motifs"]

_BLOCK = 256  # rows expanded at a time
_BUFFER = 1 << 18  # bytes
_CODES = np.full(256, 4, dtype=np.uint8)
_CODES[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)


def onehot_path(path: str) -> str:
    """The file beside the scores that holds the sequences.

    >>> onehot_path("reads.npz")
    'reads.onehot.npz'
    """
    return path.removesuffix(".npz") + ".onehot.npz"


@dataclass
class MotifCounts:
    """``rows``: N; ``padded``: how many of them are shorter than L."""

    rows: int = 0
    padded: int = 0


class MotifSpool:
    """Windows on their way into two .npz files, whose arrays begin with their number.

    They wait in temporary files, 5 bytes per base; memory holds none.  A window shorter than L is followed by
    columns of zeros in both arrays; one longer than L is cut into several rows.

    Parameters
    ----------
    length: L, bp: the window of the model.
    """

    def __init__(self, length: int) -> None:
        self.counts = MotifCounts()
        self._length = length
        self._codes: IO[bytes] = tempfile.TemporaryFile(prefix="wyr-", buffering=_BUFFER)
        self._scores: IO[bytes] = tempfile.TemporaryFile(prefix="wyr-", buffering=_BUFFER)
        self._names: IO[bytes] = tempfile.TemporaryFile(prefix="wyr-", buffering=_BUFFER)
        self._places: IO[bytes] = tempfile.TemporaryFile(prefix="wyr-", buffering=_BUFFER)
        self._longest_name = 1

    def write(self, finding: Finding) -> None:
        """Take one window."""
        window = finding.window
        codes = _CODES[np.frombuffer(window.sequence.encode("ascii", "replace"), dtype=np.uint8)]
        scores = finding.filled_scores
        name = window.name.encode("utf-8").replace(b"\n", b"_")
        self._longest_name = max(self._longest_name, len(name))
        for first in range(0, len(codes), self._length):
            size = min(self._length, len(codes) - first)
            row_codes = np.full(self._length, 4, dtype=np.uint8)
            row_scores = np.zeros(self._length, dtype=np.float32)
            row_codes[:size] = codes[first : first + size]
            row_scores[:size] = scores[first : first + size]
            self._codes.write(row_codes.tobytes())
            self._scores.write(row_scores.tobytes())
            self._names.write(name + b"\n")
            start = window.start + first
            self._places.write(np.array([start, start + size], dtype=np.int64).tobytes())
            self.counts.rows += 1
            self.counts.padded += size < self._length

    def _blocks(self) -> Iterator[tuple[NDArray[np.int8], NDArray[np.float32]]]:
        """One-hot sequences int8 (n, 4, L) and scores float32 (n, L), some rows at a time."""
        self._codes.seek(0)
        self._scores.seek(0)
        while data := self._codes.read(_BLOCK * self._length):
            codes = np.frombuffer(data, dtype=np.uint8).reshape(-1, self._length)
            scores = np.frombuffer(self._scores.read(4 * codes.size), dtype=np.float32)
            onehot = (codes[:, None] == np.arange(4, dtype=np.uint8)[:, None]).astype(np.int8)
            yield onehot, scores.reshape(codes.shape)

    def finish(self, scores_path: str, onehot: str) -> None:
        """Write both archives, uncompressed as ``numpy.savez`` does: 20 bytes per base.

        Each has ``arr_0``: in the one float32 (N, 4, L), the score of a base in the channel of that base, 0
        in the others; in the other int8 (N, 4, L), one-hot in the order A, C, G, T, zeros for N.  The one of
        the scores also has ``names`` (N,) bytes and ``places`` int64 (N, 2): start, stop, bp on the record.
        """
        n, shape = self.counts.rows, (self.counts.rows, 4, self._length)
        with _archive(onehot) as archive, _member(archive, "arr_0", np.dtype(np.int8), shape) as sink:
            for block, _ in self._blocks():
                sink.write(block.tobytes())
        with _archive(scores_path) as archive:
            with _member(archive, "arr_0", np.dtype(np.float32), shape) as sink:
                for block, scores in self._blocks():
                    sink.write((block * scores[:, None]).astype(np.float32, copy=False).tobytes())
            width = self._longest_name
            with _member(archive, "names", np.dtype(f"S{width}"), (n,)) as sink:
                self._names.seek(0)
                for name in self._names:
                    sink.write(name[:-1].ljust(width, b"\0"))
            with _member(archive, "places", np.dtype(np.int64), (n, 2)) as sink:
                self._places.seek(0)
                while data := self._places.read(1 << 20):
                    sink.write(data)

    def close(self) -> None:
        """Let the temporary files go."""
        for file in (self._codes, self._scores, self._names, self._places):
            file.close()


def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)


@contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """A member of an .npz archive as numpy reads it; its bytes are written by the block."""
    # Without a time: the same explanations make the same bytes.
    member = zipfile.ZipInfo(f"{name}.npy")
    with archive.open(member, "w", force_zip64=True) as sink:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(sink, header)
        yield sink


@contextmanager
def open_motifs(path: str, length: int) -> Iterator[MotifSpool]:
    """A spool that becomes two archives when the block ends: ``path`` and :func:`onehot_path`.

    Raises WyrError where there is no second file beside the first: on standard output and devices.
    """
    if path == "-" or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)):
        raise WyrError("an .npz output is two files; name a file whose name ends in .npz")
    with ExitStack() as stack:
        onehot = stack.enter_context(open_path(onehot_path(path)))
        scores = stack.enter_context(open_path(path))
        spool = MotifSpool(length)
        stack.callback(spool.close)
        yield spool
        spool.finish(scores, onehot)
