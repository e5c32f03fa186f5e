"""Records on disk, and the windows that are cut out of them, as columns of numbers.

``wyr prepare`` has to know all windows before it can say which to keep (duplicates, shares of a split),
and they do not fit into memory.  So the sequences of the records go to a file in one pass, bases packed
and other characters as they are (:class:`RecordSpool`), and of a window only some 50 bytes of numbers stay
in memory: where it lies, what it is made of, and a digest that tells equal windows.  Wherever "bp" stands
here, it is residues of proteins and characters of texts, too.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from wyrcli.alphabets import DNA, Alphabet
from wyrcli.packing import REVERSE_COMPLEMENT, ByteWriter, Characters, PackedBases, PackedWriter, cut
from wyrcli.splitting import key_of, mix, places_within

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Block",
    "Content",
    "Pieces",
    "RecordSpool",
    "Records",
    "Windows",
    "cut_texts",
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
    ``groups``: Arrow arrays of strings; a group that is not known yet is ''.  ``group_keys``, ``name_keys``:
    uint64 (N,), equal for equal ones.  ``files``: int32 (N,), number of the input.  ``labels``: int32 (N,),
    number of the label.  ``splits``: int8 (N,), the split that the input tells, or -1.  ``kinds``: int8 (N,),
    what the caller makes of it.  ``numbers``: int64 (N,), place in its file.
    """

    bases: PackedBases | Characters
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    names: pa.Array
    groups: pa.Array
    group_keys: NDArray[np.uint64]
    files: NDArray[np.int32]
    labels: NDArray[np.int32]
    splits: NDArray[np.int8]
    name_keys: NDArray[np.uint64]
    kinds: NDArray[np.int8]
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


class RecordSpool:
    """Takes records, and keeps their sequences in files that begin with ``stem``."""

    def __init__(self, stem: Path, alphabet: Alphabet = DNA) -> None:
        self._stem = stem
        self._alphabet = alphabet
        self._writer = ByteWriter(stem, alphabet.width) if alphabet.codec else PackedWriter(stem)
        self._starts, self._lengths = array("q"), array("q")
        self._names, self._groups = _StringBuilder(), _StringBuilder()
        self._group_keys, self._name_keys = array("Q"), array("Q")
        self._files, self._labels, self._splits = array("i"), array("i"), array("b")
        self._kinds, self._numbers = array("b"), array("q")
        self._bases: PackedBases | Characters | None = None

    def add(
        self,
        name: str,
        codes: bytes,
        *,
        group: str,
        file: int,
        label: int,
        split: int,
        kind: int = 0,
        number: int = 0,
    ) -> None:
        """Add a record; ``codes`` are those of :func:`wyrcli.sequences.encode`, or of its like."""
        self._starts.append(self._writer.n)
        self._lengths.append(len(codes) // self._alphabet.width)
        self._writer.append(codes)
        self._names.append(name)
        self._groups.append(group)
        self._group_keys.append(key_of(group) if group else 0)
        self._name_keys.append(key_of(name))
        self._files.append(file)
        self._labels.append(label)
        self._splits.append(split)
        self._kinds.append(kind)
        self._numbers.append(number)

    def finish(self) -> Records:
        """All records; nothing can be added any more."""
        self._writer.close()
        if self._alphabet.codec:
            self._bases = Characters(self._stem, self._alphabet)
        else:
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
            np.frombuffer(self._name_keys, np.uint64),
            np.frombuffer(self._kinds, np.int8),
            np.frombuffer(self._numbers, np.int64),
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


def cut_texts(records: Records, window_bp: int) -> Windows:
    """Windows of texts: all words of a record, one window after the other, each as long as can be.

    A window ends before the last white space that allows it, which is in no window; only a word longer
    than a window is cut.
    """
    assert isinstance(records.bases, Characters), "bases have no words"
    # Up to the end of a word; or else, as the word is too long, up to the end of the window.
    window = re.compile(rf"(?=\S).{{1,{window_bp}}}(?<=\S)(?!\S)|\S{{1,{window_bp}}}", re.DOTALL)
    of_record, starts, sizes = array("i"), array("q"), array("i")
    for i, (first, length) in enumerate(zip(records.starts.tolist(), records.lengths.tolist(), strict=True)):
        places = [(0, length)]
        if length > window_bp:
            text = str(records.bases.read(first, first + length), records.bases.codec)
            places = [match.span() for match in window.finditer(text)]
        for start, stop in places:
            of_record.append(i)
            starts.append(first + start)
            sizes.append(stop - start)
    return Windows(
        np.frombuffer(of_record, np.int32), np.frombuffer(starts, np.int64), np.frombuffer(sizes, np.int32)
    )


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


class Pieces(NamedTuple):
    """Sequences of some windows, one after the other, as a dataset takes them.

    ``packed``, ``gaps``: for ``PackedWriter.append_packed``; or, where ``sizes`` are given, ``packed`` is
    UTF-8, and ``sizes``, int64 (n,), are the bytes of each.
    """

    packed: bytes
    gaps: NDArray[np.int64]
    sizes: NDArray[np.int64] | None = None


class Block:
    """The windows [first, last) of some, which lie close enough together to be read at once."""

    def __init__(self, windows: Windows, first: int, last: int) -> None:
        self.first, self.last = first, last
        self._starts = windows.starts[first:last]
        self._sizes = windows.lengths[first:last]
        self._origin = int(self._starts[0]) // 4 * 4  # where a byte begins
        self._end = int((self._starts + self._sizes).max())
        self.places: list[tuple[int, int]] = list(
            zip((self._starts - self._origin).tolist(), self._sizes.tolist(), strict=True)
        )

    @abstractmethod
    def keys(self, n_count: list[int]) -> Iterator[tuple[bytes, int, bool]]:
        """Of each window, bytes that only equal windows have, how many G and C, and whether it was turned.

        ``n_count``: how many N each has.
        """

    @abstractmethod
    def text(self, i: int) -> bytes:
        """The letters of window ``first + i``, as UTF-8."""

    @abstractmethod
    def pack(self, rows: NDArray[np.int64], with_gaps: NDArray[np.bool_]) -> Pieces:
        """Windows ``first + rows``; ``with_gaps``: bool (len(rows),), which of them have an N."""


class _BaseBlock(Block):
    """Windows of nucleotides."""

    def __init__(self, bases: PackedBases, windows: Windows, first: int, last: int) -> None:
        super().__init__(windows, first, last)
        self._bases = bases
        self._packed = bases.packed(self._origin, self._end).tobytes()

    def keys(self, n_count: list[int]) -> Iterator[tuple[bytes, int, bool]]:
        from_bytes = int.from_bytes
        packed = self._packed
        turned = packed.translate(REVERSE_COMPLEMENT)[::-1]
        end = 4 * len(packed)
        for i, (start, size) in enumerate(self.places):
            forward = cut(packed, start, size)
            if n_count[i]:
                # Packed, an N looks like an A; and letters are never equal to packed bases.
                text = self.text(i)
                reverse = text.translate(_COMPLEMENT)[::-1]
                is_turned = reverse < text
                strand = b"N" + (reverse if is_turned else text)
            else:
                reverse = cut(turned, end - start - size, size)
                is_turned = reverse < forward
                strand = reverse if is_turned else forward
            if size % 4:
                strand += bytes([size % 4])  # A and AA are the same byte
            # Of the two bits of a base, one is set in C (01) and G (10), and none or both in A and T.
            bits = from_bytes(forward, "little")
            yield strand, ((bits ^ bits >> 1) & _low_bits(len(forward))).bit_count(), is_turned

    def text(self, i: int) -> bytes:
        start = int(self._starts[i])
        return self._bases.text(start, start + int(self._sizes[i]))

    def pack(self, rows: NDArray[np.int64], with_gaps: NDArray[np.bool_]) -> Pieces:
        pieces = [cut(self._packed, *self.places[i]) for i in rows.tolist()]
        before = 4 * (np.cumsum([0, *map(len, pieces)]))
        gaps = [np.empty((0, 2), np.int64)]
        for row, place in zip(rows[with_gaps].tolist(), before[:-1][with_gaps].tolist(), strict=True):
            start = int(self._starts[row])
            gaps.append(self._bases.gaps(start, start + int(self._sizes[row])) - start + place)
        return Pieces(b"".join(pieces), np.concatenate(gaps))


class _CharacterBlock(Block):
    """Windows of proteins or of texts: letters have no other strand, and none is missing."""

    def __init__(self, characters: Characters, windows: Windows, first: int, last: int) -> None:
        super().__init__(windows, first, last)
        self._codec, self._width = characters.codec, characters.width
        self._read = characters.read(self._origin, self._end)

    def _at(self, i: int) -> bytes:
        start, size = self.places[i]
        return self._read[self._width * start : self._width * (start + size)]

    def keys(self, n_count: list[int]) -> Iterator[tuple[bytes, int, bool]]:
        for i in range(len(self.places)):
            yield self._at(i), 0, False

    def text(self, i: int) -> bytes:
        return str(self._at(i), self._codec).encode()

    def pack(self, rows: NDArray[np.int64], with_gaps: NDArray[np.bool_]) -> Pieces:
        pieces = [self.text(i) for i in rows.tolist()]
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
        return Pieces(b"".join(pieces), np.empty((0, 2), np.int64), sizes)


def read_blocks(records: Records, windows: Windows) -> Iterator[Block]:
    """All windows, in blocks."""
    first = 0
    while first < len(windows):
        last = int(windows.starts.searchsorted(windows.starts[first] + _BLOCK_BP))
        if isinstance(records.bases, Characters):
            yield _CharacterBlock(records.bases, windows, first, last)
        else:
            yield _BaseBlock(records.bases, windows, first, last)
        first = last


@dataclass(frozen=True, eq=False)
class Content:
    """What W windows are made of.

    ``digests``: uint64 (W, 2), equal for equal sequences **and for their reverse complements**, and for no
    others but by an accident of 2**-128.  ``turned``: bool (W,), different for a sequence and its reverse
    complement.  ``acgt``: int32 (W,), bases that are not N.  ``gc``: int32 (W,), bases that are G or C.  Of
    proteins and texts, ``acgt`` is all characters and ``gc`` None.
    """

    digests: NDArray[np.uint64]
    turned: NDArray[np.bool_]
    acgt: NDArray[np.int32]
    gc: NDArray[np.int32] | None

    def take(self, chosen: NDArray[np.int64]) -> Content:
        """That of some of the windows."""
        gc = None if self.gc is None else self.gc[chosen]
        return Content(self.digests[chosen], self.turned[chosen], self.acgt[chosen], gc)


@lru_cache
def _low_bits(n_bytes: int) -> int:
    """A number with the lower bit of each base set."""
    return int.from_bytes(b"\x55" * n_bytes, "little")


def examine(records: Records, windows: Windows, report: Callable[[int], None]) -> Content:
    """Read every window once; ``report`` is told how many have been read."""
    if isinstance(records.bases, Characters):
        n_count = np.zeros(len(windows), np.int32)
    else:
        stops = windows.starts + windows.lengths
        n_count = records.bases.count_n(windows.starts, stops).astype(np.int32)
    digests, turned = bytearray(), bytearray()
    gc = array("i")
    blake2b = hashlib.blake2b
    for block in read_blocks(records, windows):
        for key, n_gc, is_turned in block.keys(n_count[block.first : block.last].tolist()):
            digests += blake2b(key, digest_size=16).digest()
            turned.append(is_turned)
            gc.append(n_gc)
        report(block.last)
    return Content(
        np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2),
        np.frombuffer(turned, dtype=bool),
        windows.lengths - n_count,
        None if isinstance(records.bases, Characters) else np.frombuffer(gc, np.int32),
    )
