"""Nucleotides at two bits each, in files that are read in place.

A packed text is a row of sequences, in two NumPy files:

    X.bases.npy   uint8 (bytes,): base i of the text is in bits 2 * (i % 4) and up of byte i // 4;
                  A, C, G, T are 0, 1, 2, 3, and N, which has no place there, is stored as A
    X.gaps.npy    int64 (gaps, 2): the runs of N, [start, stop) in bases of the text, ascending

Every sequence begins with a byte, so up to three bases between two sequences mean nothing.  7.8 Gbp take
2 GB, any window is read without reading the others, and all processes of a machine share what the
operating system keeps of the file in memory.

What is made of other characters than bases is kept as it is:

    X.bytes.npy   uint8 (bytes,): the characters, all of the same number of bytes or as UTF-8
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, overload

import numpy as np
from numpy.typing import NDArray

from wyrcli.alphabets import Alphabet

__all__ = [
    "REVERSE_COMPLEMENT",
    "ArrayWriter",
    "ByteSequences",
    "ByteWriter",
    "Characters",
    "LazyStrings",
    "PackedBases",
    "PackedSequences",
    "PackedWriter",
    "cut",
    "pack",
    "packed_size",
    "unpack",
]

_LETTERS = b"ACGT"
_N = 4  # in codes; see sequences.encode

# The four letters of each byte, as one number that lies in memory as they do.
_FOUR_LETTERS = np.frombuffer(
    bytes(_LETTERS[byte >> 2 * i & 3] for byte in range(256) for i in range(4)), dtype=np.uint32
)

REVERSE_COMPLEMENT = bytes(
    sum((3 - (byte >> 2 * i & 3)) << 6 - 2 * i for i in range(4)) for byte in range(256)
)
"""For bytes.translate: the reverse complement of the four bases of a byte.  Turn the bytes round, too."""


def packed_size(bases: Any) -> Any:
    """Bytes that a sequence takes; a number, or an array of them."""
    return (bases + 3) // 4


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Four codes 0 to 3 a byte, uint8 (ceil(n / 4),), what is missing in the last one filled up with 0."""
    if rest := -len(codes) % 4:
        codes = np.concatenate([codes, np.zeros(rest, np.uint8)])
    # The product adds up the four codes, each shifted to its place, in the highest byte.
    return (codes.view("<u4") * np.uint32(0x01041040) >> np.uint32(24)).astype(np.uint8)


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The letters A, C, G, T, uint8 (4 * bytes,)."""
    letters: NDArray[np.uint8] = _FOUR_LETTERS.take(packed).view(np.uint8)
    return letters


def cut(packed: bytes, start: int, size: int) -> bytes:
    """Bases [start, start + size) of packed ones, in ``packed_size(size)`` bytes filled up with 0."""
    first = start // 4
    if start % 4 == 0 == size % 4:
        return packed[first : first + size // 4]
    bits = int.from_bytes(packed[first : (start + size + 3) // 4], "little") >> 2 * (start % 4)
    return (bits & (1 << 2 * size) - 1).to_bytes((size + 3) // 4, "little")


class ArrayWriter:
    """An .npy file that grows along its first axis.

    Parameters
    ----------
    path: the file, which must not be used before :meth:`close`.
    dtype: of the elements.
    tail: shape of one element, ``()`` for a one-dimensional array.
    """

    def __init__(self, path: Path, dtype: Any, tail: tuple[int, ...] = ()) -> None:
        self.n = 0
        self._dtype = np.dtype(dtype)
        self._tail = tail
        self._file = open(path, "w+b")
        self._header_bytes = self._write_header()

    def _write_header(self) -> int:
        # NumPy leaves room for the first axis to grow, so the header's size does not depend on it.
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.n, *self._tail),
        }
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows, (any number, \\*tail)."""
        array = np.ascontiguousarray(rows, dtype=self._dtype).reshape(-1, *self._tail)
        self._file.write(array.data)
        self.n += len(array)

    def close(self) -> None:
        """Complete the file."""
        if self._file.closed:
            return
        if self._write_header() != self._header_bytes:  # never seen; the data would be overwritten
            raise AssertionError("the .npy header has outgrown its place")
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


class PackedWriter:
    """Writes a packed text; close it before it is read.

    ``n``: bases so far, with those that mean nothing: where the next sequence begins.
    """

    def __init__(self, stem: Path) -> None:
        self._bases = ArrayWriter(_bases_path(stem), np.uint8)
        self._gaps = ArrayWriter(_gaps_path(stem), np.int64, (2,))

    @property
    def n(self) -> int:
        return 4 * self._bases.n

    def append(self, codes: bytes) -> None:
        """Add one sequence, in the codes of :func:`wyrcli.sequences.encode`: 0 to 3, and 4 for N."""
        array = np.frombuffer(codes, dtype=np.uint8)
        if _N in codes:
            places = np.flatnonzero(array == _N)
            first = np.flatnonzero(np.diff(places, prepend=-2) > 1)  # of each run
            last = np.append(first[1:], len(places)) - 1
            self._gaps.append(np.stack([places[first], places[last] + 1], axis=1) + self.n)
            array = (array & 3).astype(np.uint8)
        self._bases.append(pack(array))

    def append_packed(self, packed: bytes, gaps: NDArray[np.int64]) -> None:
        """Add sequences that are packed, each from a byte on; ``gaps`` (K, 2) count from the first one."""
        self._gaps.append(gaps + self.n)
        self._bases.append(np.frombuffer(packed, dtype=np.uint8))

    def close(self) -> None:
        """Complete both files."""
        self._bases.close()
        self._gaps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ByteWriter:
    """Writes characters as they are; close it before they are read.

    ``n``: characters of ``width`` bytes so far.
    """

    def __init__(self, stem: Path, width: int = 1) -> None:
        self._bytes = ArrayWriter(_bytes_path(stem), np.uint8)
        self._width = width

    @property
    def n(self) -> int:
        return self._bytes.n // self._width

    def append(self, characters: bytes) -> None:
        """Add one sequence, or several."""
        self._bytes.append(np.frombuffer(characters, dtype=np.uint8))

    def close(self) -> None:
        """Complete the file."""
        self._bytes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _bytes_path(stem: Path) -> Path:
    return stem.with_name(stem.name + ".bytes.npy")


def _bases_path(stem: Path) -> Path:
    return stem.with_name(stem.name + ".bases.npy")


def _gaps_path(stem: Path) -> Path:
    return stem.with_name(stem.name + ".gaps.npy")


class _Bytes(Protocol):
    """Bytes that can be sliced: an array, a map of a file, or :class:`_ReadBytes`."""

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]: ...


class _ReadBytes:
    """The content of a one-dimensional uint8 .npy file, read where it is sliced.

    Pages of a map count as memory of this process for as long as the system does not need them; what is
    passed through once is better read.
    """

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self._start, self._size = int(mapped.offset), len(mapped)
        self._file = open(path, "rb")

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        start, stop, _ = part.indices(self._size)
        size = max(stop - start, 0)
        return np.frombuffer(os.pread(self._file.fileno(), size, self._start + start), dtype=np.uint8)

    def close(self) -> None:
        self._file.close()


class PackedBases:
    """A packed text, given out in pieces; made by :meth:`open`.

    ``n``: bases that the file has room for.
    """

    def __init__(self, packed: _Bytes, n_bytes: int, gaps: NDArray[np.int64]) -> None:
        self._packed = packed
        self.n = 4 * n_bytes
        self._gaps = gaps
        self._gap_starts = np.ascontiguousarray(gaps[:, 0])
        self._gap_stops = np.ascontiguousarray(gaps[:, 1])
        self._gap_sums = np.append(0, np.cumsum(self._gap_stops - self._gap_starts))

    @classmethod
    def open(cls, stem: Path, *, mapped: bool = True) -> PackedBases:
        """Open what a :class:`PackedWriter` of that stem wrote; ``mapped=False`` for one pass through it.

        Raises OSError, or ValueError for files that are no such arrays.
        """
        gaps = np.load(_gaps_path(stem))
        bases = np.load(_bases_path(stem), mmap_mode="r")
        if bases.dtype != np.uint8 or bases.ndim != 1 or gaps.dtype != np.int64 or gaps.shape[1:] != (2,):
            raise ValueError("not packed bases")
        # The view of a map as a plain array is sliced several times faster.
        return cls(np.asarray(bases) if mapped else _ReadBytes(_bases_path(stem)), len(bases), gaps)

    def packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes that hold bases [start, stop)."""
        return self._packed[start // 4 : -(-stop // 4)]

    def text(self, start: int, stop: int) -> bytes:
        """Letters [start, stop), which must lie within the text."""
        skipped = start % 4
        letters = unpack(self.packed(start, stop))[skipped : skipped + stop - start]
        for low, high in self.gaps(start, stop).tolist():
            letters[low - start : high - start] = ord("N")
        return letters.tobytes()

    def gaps(self, start: int, stop: int) -> NDArray[np.int64]:
        """The runs of N in [start, stop), cut at its ends, int64 (K, 2)."""
        low = self._gap_stops.searchsorted(start, "right")
        high = self._gap_starts.searchsorted(stop, "left")
        found: NDArray[np.int64] = np.clip(self._gaps[low:high], start, stop)
        return found

    def count_n(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many N each of some intervals [start, stop) has."""

        def before(places: NDArray[np.int64]) -> NDArray[np.int64]:
            begun = self._gap_starts.searchsorted(places)
            # The last of them may go on behind the place.
            behind = np.append(0, self._gap_stops)[begun] - places
            counts: NDArray[np.int64] = self._gap_sums[begun] - np.maximum(behind, 0)
            return counts

        return before(stops) - before(starts)

    def close(self) -> None:
        """Close the file, where it was opened with ``mapped=False``."""
        if isinstance(self._packed, _ReadBytes):
            self._packed.close()


class Characters:
    """Characters of ``alphabet.width`` bytes each, given out in pieces, for one pass through them.

    Parameters
    ----------
    stem: that of a :class:`ByteWriter` of the same width.
    """

    def __init__(self, stem: Path, alphabet: Alphabet) -> None:
        self._bytes = _ReadBytes(_bytes_path(stem))
        self.codec = alphabet.codec
        self.width = alphabet.width

    def read(self, start: int, stop: int) -> bytes:
        """Characters [start, stop)."""
        return self._bytes[self.width * start : self.width * stop].tobytes()

    def close(self) -> None:
        """Close the file."""
        self._bytes.close()


class LazyStrings(Sequence[str]):
    """Strings of which each is made only when it is asked for, by ``_at``."""

    _noun = "string"  # for errors

    @abstractmethod
    def _at(self, i: int) -> str:
        """String i, 0 <= i < N."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            raise IndexError(f"{self._noun} {index} of {len(self)}")
        return self._at(i)


class PackedSequences(LazyStrings):
    """N sequences of a packed text.

    ``offsets``: int64 (N,), the byte with which each sequence begins.  ``lengths``: int32 (N,), in bases.
    """

    _noun = "sequence"

    def __init__(self, bases: PackedBases, offsets: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
        self._bases = bases
        self.offsets = offsets
        self.lengths = lengths

    def is_whole(self) -> bool:
        """Whether the text holds the last sequence to its end; only where there is one."""
        return bool(4 * self.offsets[-1] + self.lengths[-1] <= self._bases.n)

    def __len__(self) -> int:
        return len(self.lengths)

    def _at(self, i: int) -> str:
        start = 4 * int(self.offsets[i])
        return self._bases.text(start, start + int(self.lengths[i])).decode("ascii")


class ByteSequences(LazyStrings):
    """N strings in one row of bytes.

    ``data``: uint8, UTF-8.  ``offsets``: int64 (N,), the byte with which each begins.  ``lengths``: int32
    (N,), in bytes.
    """

    _noun = "sequence"

    def __init__(
        self, data: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int32]
    ) -> None:
        self._data = data
        self.offsets = offsets
        self.lengths = lengths

    @classmethod
    def open(cls, stem: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int32]) -> ByteSequences:
        """Strings of what a :class:`ByteWriter` of that stem wrote, read in place.

        Raises OSError, or ValueError for a file that is no such array.
        """
        data = np.load(_bytes_path(stem), mmap_mode="r")
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ValueError("not bytes")
        return cls(np.asarray(data), offsets, lengths)

    def is_whole(self) -> bool:
        """Whether the bytes hold the last string to its end; only where there is one."""
        return bool(self.offsets[-1] + self.lengths[-1] <= len(self._data))

    def __len__(self) -> int:
        return len(self.lengths)

    def _at(self, i: int) -> str:
        start = int(self.offsets[i])
        return str(self._data[start : start + int(self.lengths[i])].tobytes(), "utf-8")
