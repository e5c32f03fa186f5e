"""Records on disk, and the windows that are cut out of them, as columns of numbers.

``wyr prepare`` has to know all windows before it can say which to keep (duplicates, shares of a split),
and they do not fit into memory.  So the sequences of the records go to a packed file in one pass
(:class:`RecordSpool`), and of a window only some 50 bytes of numbers stay in memory: where it lies, what
it is made of, and a digest that tells equal windows.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from wyrcli.packing import REVERSE_COMPLEMENT, PackedBases, PackedWriter, cut
from wyrcli.splitting import key_of, mix, places_within

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Block",
    "Content",
    "RecordSpool",
    "Records",
    "Windows",
    "cut_windows",
    "draw_windows",
    "examine",
    "read_blocks",
]

_BLOCK_BP = 2_000_000  # read at once
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


# ---------------------------------------------------------------- records


class _StringBuilder:
    """Strings that become an Arrow array."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._offsets = array("q", [0])

    def append(self, text: str) -> None:
        self._data += text.encode()
        self._offsets.append(len(self._data))

    def build(self) -> pa.Array:
        import pyarrow as pa

        buffers = pa.py_buffer(self._offsets), pa.py_buffer(self._data)
        return pa.LargeStringArray.from_buffers(len(self._offsets) - 1, *buffers)


@dataclass(frozen=True, eq=False)
class Records:
    """N records: their sequences in ``bases``, one after the other, and their columns.

    ``starts``: int64 (N,), where each begins in ``bases``; ``lengths``: int64 (N,), in bp.  ``names``,
    ``groups``: Arrow arrays of strings.  ``group_keys``: uint64 (N,), equal for equal groups.  ``files``:
    int32 (N,), number of the input.  ``labels``: int32 (N,), number of the label.  ``splits``: int8 (N,),
    the split that the input tells, or -1.
    """

    bases: PackedBases
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    names: pa.Array
    groups: pa.Array
    group_keys: NDArray[np.uint64]
    files: NDArray[np.int32]
    labels: NDArray[np.int32]
    splits: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.labels)


class RecordSpool:
    """Takes records, and keeps their sequences in files that begin with ``stem``."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._writer = PackedWriter(stem)
        self._starts, self._lengths = array("q"), array("q")
        self._names, self._groups = _StringBuilder(), _StringBuilder()
        self._group_keys = array("Q")
        self._files, self._labels, self._splits = array("i"), array("i"), array("b")
        self._bases: PackedBases | None = None

    def add(self, name: str, codes: bytes, *, group: str, file: int, label: int, split: int) -> None:
        """Add a record; ``codes`` are those of :func:`wyrcli.sequences.encode`."""
        self._starts.append(self._writer.n)
        self._lengths.append(len(codes))
        self._writer.append(codes)
        self._names.append(name)
        self._groups.append(group)
        self._group_keys.append(key_of(group))
        self._files.append(file)
        self._labels.append(label)
        self._splits.append(split)

    def finish(self) -> Records:
        """All records; nothing can be added any more."""
        self._writer.close()
        self._bases = PackedBases.open(self._stem, mapped=False)
        return Records(
            self._bases,
            np.frombuffer(self._starts, np.int64),
            np.frombuffer(self._lengths, np.int64),
            self._names.build(),
            self._groups.build(),
            np.frombuffer(self._group_keys, np.uint64),
            np.frombuffer(self._files, np.int32),
            np.frombuffer(self._labels, np.int32),
            np.frombuffer(self._splits, np.int8),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if self._bases is not None:
            self._bases.close()


# ---------------------------------------------------------------- windows


@dataclass(frozen=True, eq=False)
class Windows:
    """W windows, in the order in which they lie on the records.

    ``records``: int32 (W,), number of the record.  ``starts``: int64 (W,), in bp **in the text of all
    records**.  ``lengths``: int32 (W,), in bp.
    """

    records: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.records)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Windows:
        """Some of the windows."""
        return Windows(self.records[chosen], self.starts[chosen], self.lengths[chosen])


def cut_windows(records: Records, window_bp: int, stride: int) -> Windows:
    """Windows every ``stride`` bp from the start of each record, until one reaches its end.

    The last one of a record may be shorter than ``window_bp``.
    """
    lengths = records.lengths
    # One more for as long as the windows before do not reach the end, but none that begins behind it.
    counts = -(-np.minimum(np.maximum(lengths - window_bp, 0) + stride, lengths) // stride)
    of_record = np.repeat(np.arange(len(records), dtype=np.int32), counts)
    own_starts = places_within(counts) * stride
    sizes = np.minimum(window_bp, lengths[of_record] - own_starts).astype(np.int32)
    return Windows(of_record, records.starts[of_record] + own_starts, sizes)


def draw_windows(
    records: Records, taxa: NDArray[np.int64], keys: NDArray[np.uint64], n: int, window_bp: int, seed: int
) -> Windows:
    """About ``n`` windows of each taxon at random places, no two at the same one.

    Every place of a taxon's records where a window fits is drawn with equal probability; a record that is
    shorter than a window has one place.  A taxon with fewer than ``n`` places gives them all.

    Parameters
    ----------
    taxa: int64 (N,), number of each record's taxon.
    keys: uint64 (number of taxa,), what each taxon is known by: the same key draws the same places.
    """
    chosen_records, chosen_starts = [], []
    by_taxon = np.argsort(taxa, kind="stable")
    bounds = np.searchsorted(taxa[by_taxon], np.arange(len(keys) + 1))
    places = np.maximum(records.lengths - window_bp, 0) + 1
    for taxon, key in enumerate(keys):
        own = by_taxon[bounds[taxon] : bounds[taxon + 1]]
        ends = np.cumsum(places[own])
        total = int(ends[-1]) if len(ends) else 0
        if total <= n:
            drawn = np.arange(total)
        else:
            # Places drawn twice count once: this many draws leave n on average.
            n_draws = math.ceil(-total * math.log1p(-n / total))
            counter = np.arange(n_draws, dtype=np.uint64)
            counter += mix(np.array([key], dtype=np.uint64), seed)
            drawn = np.unique(mix(counter, seed) % np.uint64(total)).astype(np.int64)
        index = np.searchsorted(ends, drawn, side="right")
        chosen_records.append(own[index])
        chosen_starts.append(records.starts[own[index]] + drawn - (ends - places[own])[index])
    of_record = np.concatenate([np.empty(0, np.int64), *chosen_records])
    starts = np.concatenate([np.empty(0, np.int64), *chosen_starts])
    order = np.argsort(starts, kind="stable")
    of_record = of_record[order]
    sizes = np.minimum(window_bp, records.lengths[of_record])
    return Windows(of_record.astype(np.int32), starts[order], sizes.astype(np.int32))


class Block:
    """The windows [first, last) of some, which lie close enough together to be read at once."""

    def __init__(self, records: Records, windows: Windows, first: int, last: int) -> None:
        self.first, self.last = first, last
        self._bases = records.bases
        self._starts = windows.starts[first:last]
        self._sizes = windows.lengths[first:last]
        origin = int(self._starts[0]) // 4 * 4
        self._packed = self._bases.packed(origin, int((self._starts + self._sizes).max())).tobytes()
        self.places: list[tuple[int, int]] = list(
            zip((self._starts - origin).tolist(), self._sizes.tolist(), strict=True)
        )

    def strands(self) -> Iterator[tuple[bytes, bytes]]:
        """Each window and its reverse complement, packed."""
        packed = self._packed
        turned = packed.translate(REVERSE_COMPLEMENT)[::-1]
        end = 4 * len(packed)
        for start, size in self.places:
            yield cut(packed, start, size), cut(turned, end - start - size, size)

    def text(self, i: int) -> bytes:
        """The letters of window ``first + i``."""
        start = int(self._starts[i])
        return self._bases.text(start, start + int(self._sizes[i]))

    def pack(self, rows: NDArray[np.int64], with_gaps: NDArray[np.bool_]) -> tuple[bytes, NDArray[np.int64]]:
        """Windows ``first + rows``, one after the other, for ``PackedWriter.append_packed``.

        ``with_gaps``: bool (len(rows),), which of them have an N.
        """
        pieces = [cut(self._packed, *self.places[i]) for i in rows.tolist()]
        before = 4 * (np.cumsum([0, *map(len, pieces)]))
        gaps = [np.empty((0, 2), np.int64)]
        for row, place in zip(rows[with_gaps].tolist(), before[:-1][with_gaps].tolist(), strict=True):
            start = int(self._starts[row])
            gaps.append(self._bases.gaps(start, start + int(self._sizes[row])) - start + place)
        return b"".join(pieces), np.concatenate(gaps)


def read_blocks(records: Records, windows: Windows) -> Iterator[Block]:
    """All windows, in blocks."""
    first = 0
    while first < len(windows):
        last = int(windows.starts.searchsorted(windows.starts[first] + _BLOCK_BP))
        yield Block(records, windows, first, last)
        first = last


@dataclass(frozen=True, eq=False)
class Content:
    """What W windows are made of.

    ``digests``: uint64 (W, 2), equal for equal sequences **and for their reverse complements**, and for no
    others but by an accident of 2**-128.  ``acgt``: int32 (W,), bases that are not N.  ``gc``: int32 (W,),
    bases that are G or C.
    """

    digests: NDArray[np.uint64]
    acgt: NDArray[np.int32]
    gc: NDArray[np.int32]

    def take(self, chosen: NDArray[np.int64]) -> Content:
        """That of some of the windows."""
        return Content(self.digests[chosen], self.acgt[chosen], self.gc[chosen])


@lru_cache
def _low_bits(n_bytes: int) -> int:
    """A number with the lower bit of each base set."""
    return int.from_bytes(b"\x55" * n_bytes, "little")


def examine(records: Records, windows: Windows, report: Callable[[int], None]) -> Content:
    """Read every window once; ``report`` is told how many have been read."""
    n_count = records.bases.count_n(windows.starts, windows.starts + windows.lengths).astype(np.int32)
    digests = bytearray()
    gc = array("i")
    blake2b, from_bytes = hashlib.blake2b, int.from_bytes
    for block in read_blocks(records, windows):
        gaps = n_count[block.first : block.last].tolist()
        for i, (forward, reverse) in enumerate(block.strands()):
            if gaps[i]:
                # Packed, an N looks like an A; and letters are never equal to packed bases.
                text = block.text(i)
                strand = b"N" + min(text, text.translate(_COMPLEMENT)[::-1])
            else:
                strand = forward if forward < reverse else reverse
            size = block.places[i][1]
            if size % 4:
                strand += bytes([size % 4])  # A and AA are the same byte
            digests += blake2b(strand, digest_size=16).digest()
            # Of the two bits of a base, one is set in C (01) and G (10), and none or both in A and T.
            bits = from_bytes(forward, "little")
            gc.append(((bits ^ bits >> 1) & _low_bits(len(forward))).bit_count())
        report(block.last)
    pairs = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    return Content(pairs, windows.lengths - n_count, np.frombuffer(gc, np.int32))
