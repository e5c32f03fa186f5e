"""Reads of files of any kind, one file after the other, or two files of mates side by side.

    paths -> bytes -> FASTA, FASTQ, BAM or CRAM, by content -> reads -> [mates] -> [names made different]
          -> [some of them]

What is common to all of these iterators: ``error(message, name)`` says where the last read stood, and
``close()`` closes what is open.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence

import dnaio

from wyrcli.alignments import read_alignments, sniff
from wyrcli.errors import InputError, printable
from wyrcli.salvage import salvage
from wyrcli.sequences import Located, Read, RecordReader, decompress, open_binary
from wyrcli.streams import peek
from wyrcli.windows import RecordCounts

__all__ = ["PairedReads", "ReadStream", "Reads", "RenamedReads", "SomeReads", "open_reads"]

_SAM_HEADERS = (b"@HD\tVN:", b"@SQ\tSN:")


class ReadStream(Located, Iterator[Read]):
    """Reads that know where they stand."""


class Reads(ReadStream):
    """The reads of several files, one file after the other.

    ``path`` is the file being read and ``number`` the ordinal, **from 1**, of the last read given out of it.

    Parameters
    ----------
    paths: FASTA, FASTQ, BAM or CRAM, told apart by content; ``-`` is standard input.
    counts: told of alignments that are left out.
    lenient: give out malformed records with their fault instead of raising at the first.
    reference: FASTA file to decode CRAM with.
    aligned: whether BAM and CRAM are wanted.
    paired: whether these are mates of another file's reads; BAM and CRAM hold both.
    """

    def __init__(
        self,
        paths: Sequence[str],
        counts: RecordCounts,
        *,
        lenient: bool = False,
        reference: str | None = None,
        aligned: bool = True,
        paired: bool = False,
    ) -> None:
        self.path: str | None = None
        self.number = 0
        self._counts = counts
        self._lenient = lenient
        self._reference = reference
        self._aligned = aligned
        self._paired = paired
        self._reads = self._read(paths)

    def __next__(self) -> Read:
        return next(self._reads)

    def close(self) -> None:
        """Close the file that is open, if reading stops early."""
        self._reads.close()

    def error(self, message: str, name: str | None = None) -> InputError:
        """An InputError about the last read given out."""
        return InputError(message, path=self.path, record=self.number, name=name)

    def _read(self, paths: Sequence[str]) -> Generator[Read, None, None]:
        for path in paths:
            self.path, self.number = path, 0
            with open_binary(path) as file:
                kind, whole = sniff(file)
                if kind and self._aligned and self._paired:
                    message = f"a {kind} file has both mates; expected it without --paired"
                    raise InputError(message, path=path)
                if kind and self._aligned:
                    reads = read_alignments(path, kind, whole, self._reference, self._counts.left_out)
                else:
                    reads = self._read_text(path, decompress(whole))
                for read in reads:
                    self.number += 1
                    yield read
                    del read  # while the next one is read: it may be a chromosome

    def _read_text(self, path: str, pieces: Iterator[bytes]) -> Iterator[Read]:
        if self._lenient:
            yield from salvage(path, _refuse_sam(path, pieces))
            return
        reader = RecordReader.from_pieces(path, _refuse_sam(path, pieces))
        for record in reader:
            yield Read.of(record)
            del record


def _refuse_sam(path: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces; a SAM file looks like FASTQ, and people wonder what is wrong with it."""
    head, pieces = peek(pieces)
    if head.startswith(_SAM_HEADERS):
        message = "this is a SAM file; expected FASTA, FASTQ, BAM (samtools view -b) or CRAM"
        raise InputError(message, path=path)
    yield from pieces


# ---------------------------------------------------------------- mates


class PairedReads(ReadStream):
    """Pairs of files of mates: first mate, second mate, first mate, ...

    The ids of mates must be equal, but for a last ``1``, ``2`` or ``3`` (the rule of dnaio and cutadapt);
    where they are equal altogether, ``/1`` and ``/2`` are added.  Raises InputError at mates of different
    names, and where one file has more reads.
    """

    def __init__(self, pairs: Sequence[tuple[Reads, Reads]]) -> None:
        self._pairs = pairs
        self._last: Reads | None = None
        self._reads = self._read()

    def __next__(self) -> Read:
        return next(self._reads)

    def close(self) -> None:
        """Close the files that are open."""
        self._reads.close()
        for pair in self._pairs:
            for reads in pair:
                reads.close()

    def error(self, message: str, name: str | None = None) -> InputError:
        """An InputError about the last mate given out."""
        return self._last.error(message, name) if self._last is not None else InputError(message, name=name)

    def _read(self) -> Generator[Read, None, None]:
        for first, second in self._pairs:
            try:
                while (mates := _next_pair(first, second)) is not None:
                    for self._last, mate in zip((first, second), mates, strict=True):
                        yield mate
            finally:
                first.close()
                second.close()


def _next_pair(first: Reads, second: Reads) -> tuple[Read, Read] | None:
    one, two = next(first, None), next(second, None)
    if one is None and two is None:
        return None
    if one is None or two is None:
        ended, longer = (first, second) if one is None else (second, first)
        extra = one or two
        assert extra is not None
        raise longer.error(
            f"this read has no mate: {_shown(ended)} ends after {ended.number} reads", extra.name
        )
    # No name, or one that is not ASCII, which dnaio refuses: a fault of one of them, dealt with as any other.
    if not one.name or not two.name or not (one.name.isascii() and two.name.isascii()):
        return one, two
    if not dnaio.records_are_mates(dnaio.SequenceRecord(one.name, ""), dnaio.SequenceRecord(two.name, "")):
        message = (
            f"the read at the same place of {_shown(first)} is '{printable(one.name)}'; expected its mate"
        )
        raise second.error(message, two.name)
    if one.name == two.name:
        if one.name.endswith(("/1", "/2")):
            raise second.error(
                f"both files have this same mate; expected /1 in {_shown(first)}, /2 here", two.name
            )
        one, two = one._replace(name=one.name + "/1"), two._replace(name=two.name + "/2")
    return one, two


def _shown(reads: Reads) -> str:
    return printable(reads.path or "", limit=300)


# ---------------------------------------------------------------- names


class RenamedReads(ReadStream):
    """The same reads, no two of one name: a second ``a`` becomes ``a_2``, a third ``a_3``.

    As ``seqkit rename``, but a name that is taken already is passed over, whether it was made or read.  All
    names are remembered, by 64-bit hash: some 100 bytes each.
    """

    def __init__(self, reads: ReadStream, counts: RecordCounts) -> None:
        self._reads = reads
        self._counts = counts
        self._taken: set[int] = set()
        self._next: dict[int, int] = {}  # of names that were repeated: the next number to try

    def __next__(self) -> Read:
        read = next(self._reads)
        if not read.name:
            return read
        code = hash(read.name)
        if code not in self._taken:
            self._taken.add(code)
            return read
        number = self._next.get(code, 2)
        while hash(f"{read.name}_{number}") in self._taken:
            number += 1
        self._next[code] = number + 1
        name = f"{read.name}_{number}"
        self._taken.add(hash(name))
        self._counts.renamed += 1
        return read._replace(name=name)

    def close(self) -> None:
        """Close the file that is open."""
        self._reads.close()

    def error(self, message: str, name: str | None = None) -> InputError:
        """An InputError about the last read given out."""
        return self._reads.error(message, name)


class SomeReads(ReadStream):
    """The reads ``first`` to ``stop`` (half-open; None is the end) of others.  Counts are of these alone."""

    def __init__(self, reads: ReadStream, counts: RecordCounts, first: int, stop: int | None) -> None:
        self._reads = reads
        self._counts = counts
        self._first, self._left = first, None if stop is None else stop - first

    def __next__(self) -> Read:
        if self._left == 0:
            self.close()
            raise StopIteration
        if self._first:
            while self._first and next(self._reads, None) is not None:
                self._first -= 1
            self._first = 0
            self._counts.left_out.clear()
            self._counts.renamed = 0
        if self._left is not None:
            self._left -= 1
        return next(self._reads)

    def close(self) -> None:
        """Close the file that is open."""
        self._reads.close()

    def error(self, message: str, name: str | None = None) -> InputError:
        """An InputError about the last read given out."""
        return self._reads.error(message, name)


def open_reads(
    paths: Sequence[str],
    counts: RecordCounts,
    *,
    paired: bool = False,
    lenient: bool = False,
    reference: str | None = None,
    rename: bool = False,
    aligned: bool = True,
    records: tuple[int, int | None] | None = None,
) -> ReadStream:
    """Reads of files, in order; see :class:`Reads`, :class:`PairedReads` and :class:`RenamedReads`.

    ``records``: only these, see :class:`SomeReads`; names are made different as among all.
    ``paired``: paths come in twos, first and second mates.  Raises InputError if they do not, if the two are
    one file, or if standard input is asked for twice.
    """
    if list(paths).count("-") > 1:
        raise InputError("standard input can be read only once", path="-")

    def read(some: Sequence[str]) -> Reads:
        return Reads(some, counts, lenient=lenient, reference=reference, aligned=aligned, paired=paired)

    reads: ReadStream = (
        PairedReads([(read([a]), read([b])) for a, b in _pair_up(paths)]) if paired else read(paths)
    )
    if rename:
        reads = RenamedReads(reads, counts)
    return reads if records is None else SomeReads(reads, counts, *records)


def _pair_up(paths: Sequence[str]) -> list[tuple[str, str]]:
    if len(paths) % 2:
        raise InputError(f"paired files come in twos, first and second mates; found {len(paths)}")
    pairs = list(zip(paths[::2], paths[1::2], strict=True))
    for first, second in pairs:
        if "-" not in (first, second) and os.path.exists(first) and os.path.exists(second):
            if os.path.samefile(first, second):
                raise InputError("this file is named for both mates; expected two files", path=first)
    return pairs
