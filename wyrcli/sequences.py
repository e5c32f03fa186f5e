"""FASTA and FASTQ files as records, and their letters.

The stages, in order:

    paths -> bytes -> decompressed bytes -> clean text -> records (dnaio)

dnaio parses.  What stands around it here makes it strict about where a stream ends, tolerant of a byte
order mark and of blank lines at both ends, and able to say which record of which file is wrong.  No
stage seeks, asks for a size or opens twice, so pipes and process substitution work.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import sys
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol, cast, runtime_checkable

import dnaio
import numpy as np
from dnaio.readers import FastqReader

from wyrcli.errors import InputError, printable

__all__ = [
    "BLOCK",
    "FAULTS",
    "CleanText",
    "DamagedError",
    "Fault",
    "Located",
    "Read",
    "RecordReader",
    "check_letters",
    "decompress",
    "describe_content",
    "encode",
    "encode_protein",
    "encode_text",
    "misplaced_sign",
    "normalise",
    "open_binary",
    "read_records",
    "record_name",
    "split_fasta",
    "translate",
    "unknown_format",
]

_READ_BYTES = 128 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = ord("\n")


# ---------------------------------------------------------------- decompression


class DamagedError(Exception):
    """A stream that is not what it should be; who knows path and record turns it into an InputError.

    ``record`` and ``line`` count from 1, where they are known.
    """

    def __init__(self, message: str, *, record: int | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.record = record
        self.line = line


class _Decompressor(Protocol):
    """What bz2, lzma and zstd have in common: one object per compressed stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecompressor:
    """One member of a gzip file, with the interface of :class:`_Decompressor`.

    zlib and isal check the member's CRC and length before they set ``eof``.
    """

    def __init__(self) -> None:
        self._zlib = _new_inflater(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._zlib.eof)

    @property
    def needs_input(self) -> bool:
        return not (self._full or self._zlib.unconsumed_tail)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._zlib.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        text: bytes = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._full = len(text) == max_length
        return text


def _find_inflater() -> Callable[..., Any]:
    """isal's drop-in for zlib, 3 times faster, where it is installed: not on every platform is there one."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj
    return isal_zlib.decompressobj


_new_inflater = _find_inflater()


@dataclass(frozen=True)
class _Codec:
    """How a compressed file is known and read; ``padded``: zero bytes may follow a stream."""

    name: str
    magic: re.Pattern[bytes]
    start: Callable[[], _Decompressor]
    padded: bool = False


def _start_zstd() -> _Decompressor:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise DamagedError("a zstd file, but the package 'backports.zstd' is not installed") from None
    return zstd.ZstdDecompressor()


_CODECS = (
    _Codec("gzip", re.compile(rb"\x1f\x8b"), _GzipDecompressor, padded=True),
    _Codec("bzip2", re.compile(rb"BZh"), bz2.BZ2Decompressor),
    _Codec("xz", re.compile(rb"\xfd7zXZ\x00"), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), padded=True),
    _Codec("zstd", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _start_zstd),
)
_MAGIC_BYTES = 6


def decompress(file: BinaryIO) -> Iterator[bytes]:
    """The file's content in pieces; the compression is known by its first bytes, never by a name.

    Parameters
    ----------
    file: anything with ``read(n)`` and ``read1(n)``; it is read to its end.

    Raises DamagedError where a compressed stream is damaged or lacks its end.
    """
    head = file.read(_MAGIC_BYTES)
    for codec in _CODECS:
        if codec.magic.match(head):
            yield from _decompress_streams(codec, head, file)
            return
    text = head + _read_some(file)
    while text:
        yield text
        text = _read_some(file)


def _decompress_streams(codec: _Codec, data: bytes, file: BinaryIO) -> Iterator[bytes]:
    """All streams (gzip: members) of a compressed file, each to its end marker.

    The file classes of bz2, lzma and gzip are not used: the first two end in silence at whatever follows
    a stream if that is not a stream, so a damaged second stream would be lost without a word.
    """
    decompressor = codec.start()
    fresh = True  # nothing was given to this decompressor: the file may end here
    is_first = True
    while True:
        if decompressor.eof:
            data = decompressor.unused_data
            decompressor, fresh, is_first = codec.start(), True, False
        if fresh and codec.padded:
            data = data.lstrip(b"\0")
        if fresh and data and not is_first:
            while len(data) < _MAGIC_BYTES and (more := _read_some(file)):
                data += more
            if not codec.magic.match(data):
                raise DamagedError(f"bytes follow the end of the {codec.name} stream")
        if not data and decompressor.needs_input:
            data = _read_some(file)
            if data:
                continue
            if fresh:
                return
            raise DamagedError(f"the {codec.name} stream is cut off; expected its end marker")
        fresh = False
        try:
            text = decompressor.decompress(data, 8 * _READ_BYTES)
        except MemoryError:
            raise
        # Each library has an exception of its own, and decompress() meets no other kind of failure.
        except Exception as error:
            raise DamagedError(f"the {codec.name} stream is damaged: {error}") from None
        data = b""
        if text:
            yield text


def _read_some(file: BinaryIO) -> bytes:
    """The next bytes, without waiting for more than a pipe has; empty at the end."""
    return cast(io.BufferedReader, file).read1(_READ_BYTES)


def open_binary(path: str) -> AbstractContextManager[BinaryIO]:
    """A file to be read as bytes; ``-`` is standard input, which stays open afterwards.  Raises OSError."""
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise InputError("there is no standard input", path=path)
    try:
        # A handle of our own: the interpreter must not find sys.stdin locked by a reading thread at its end.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError):  # something else stands in for it, as in tests
        return nullcontext(sys.stdin.buffer)


# ---------------------------------------------------------------- text


def _count_line_ends(text: bytes) -> int:
    """As ``text.count``, which is slow for what is frequent."""
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == _LINE_END))


def _find_headers(text: bytes) -> Iterator[int]:
    """Where lines begin with ``>``, but for the first one."""
    at = 0
    while (at := text.find(b">", at + 1)) > 0:
        if text[at - 1] == _LINE_END:
            yield at


class CleanText(io.RawIOBase):
    """Clean text for dnaio: what it would trip over is taken away, what it would miss is refused.

    Taken away: a UTF-8 byte order mark, blank lines before the first and after the last record.
    Refused (DamagedError): bytes outside ASCII, and in FASTA '#' lines, which dnaio drops in silence.
    ``first`` is the first character (empty: no content), ``blank_lines`` how many lines came before it.
    Without ``strict`` nothing is refused: that is left to whoever reads the text.
    """

    def __init__(self, pieces: Iterator[bytes], *, strict: bool = True) -> None:
        super().__init__()
        self._pieces = pieces
        self._strict = strict
        self.blank_lines = 0
        self._held = self._skip_to_content()
        self.first = self._held[:1]
        self._is_fasta = self.first == b">"
        self._headers = int(self._is_fasta)
        self._lines = 0  # line ends delivered
        self._ready = memoryview(b"")
        self._ended = not self.first
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=3)  # (number of its first line, piece)

    def _skip_to_content(self) -> bytes:
        start = b""
        for piece in self._pieces:
            start += piece
            if len(start) >= len(_BYTE_ORDER_MARK):
                break
        start = start.removeprefix(_BYTE_ORDER_MARK) or next(self._pieces, b"")
        while start:
            content = start.lstrip(b"\r\n")
            self.blank_lines += start.count(b"\n", 0, len(start) - len(content))
            if content:
                return content
            start = next(self._pieces, b"")
        return b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            if self._ended:
                return 0
            self._ready = memoryview(self._next_text())
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _next_text(self) -> bytes:
        """The next text that ends inside a line: line ends are held until something follows them."""
        if self._lines or self._recent:
            piece = next(self._pieces, b"")
            if not piece:
                self._ended = True
                return self._last_line_ends()
        else:
            piece = b""  # the first text is what was read to find the first character
        piece = self._held + piece
        text = piece.rstrip(b"\r\n")
        self._held = piece[len(text) :]
        if text:
            if self._strict:
                self._check(text)
            self._recent.append((self._lines, text))
            self._lines += _count_line_ends(text)
        return text

    def _last_line_ends(self) -> bytes:
        """One line end, or in FASTQ as many as an empty last record needs for its empty lines."""
        wanted = 1 if self._is_fasta else 1 + -(self._lines + 1) % 4
        return b"".join(self._held.splitlines(keepends=True)[:wanted])

    def _check(self, text: bytes) -> None:
        if not text.isascii():
            at = re.search(rb"[\x80-\xff]", text)
            assert at is not None
            self._refuse(text, at.start(), f"found byte 0x{at[0].hex()}; expected ASCII text")
        if self._is_fasta:
            # Single characters that are rare are found much faster than pairs with a frequent one.
            at_comment = text.find(b"\n#") if b"#" in text else -1
            if at_comment >= 0:
                self._refuse(text, at_comment + 1, "found a line that starts with '#'; expected a sequence")
            self._headers += sum(1 for _ in _find_headers(text))

    def _refuse(self, text: bytes, at: int, message: str) -> None:
        line = self._lines + text.count(b"\n", 0, at)  # from 0, blank lines at the start left out
        record = self._headers + sum(1 for _ in _find_headers(text[:at])) if self._is_fasta else line // 4 + 1
        raise DamagedError(message, record=record, line=line + 1 + self.blank_lines)

    def pieces(self) -> Iterator[bytes]:
        """The text, in pieces that end inside a line; instead of reading it as a file."""
        while not self._ended:
            yield self._next_text()

    def peek_start(self) -> bytes:
        """The first bytes of the content, at most one piece; only before anything was read."""
        return self._held

    def name_at(self, line: int) -> str | None:
        """Record name in a FASTQ header line that was read lately; ``line`` counts from 0."""
        if not self._recent:
            return None
        index = line - self._recent[0][0]
        lines = b"".join(text for _, text in self._recent).split(b"\n")
        if not 0 <= index < len(lines) or not lines[index].startswith(b"@"):
            return None
        words = lines[index][1:].decode("ascii").split(maxsplit=1)
        return words[0] if words else None


# ---------------------------------------------------------------- records


def split_fasta(text: CleanText) -> Iterator[tuple[bytes, bytes | bytearray]]:
    """Header line and sequence of each record.

    Genomes come in wrapped lines.  This takes whole pieces of text instead of line after line, as dnaio's
    reader does, and so is several times faster and holds a chromosome fewer times.
    """
    parts: list[bytes] = []
    for piece in text.pieces():
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        start = 0
        for at in _find_headers(piece):
            parts.append(piece[start : at - 1])
            yield _join_fasta(parts)
            parts = []
            start = at
        parts.append(piece[start:])
    yield _join_fasta(parts)


def _join_fasta(parts: list[bytes]) -> tuple[bytes, bytes | bytearray]:
    """One record; ``parts`` is emptied while it is put together, so that a chromosome is held once."""
    parts.reverse()
    start = parts.pop()
    while parts and b"\n" not in start:
        start += parts.pop()
    header, _, lines = start.partition(b"\n")
    parts.append(lines)
    if any(b" " in part or b"\t" in part for part in parts):  # only at the ends of lines do they mean nothing
        lines = b"".join(reversed(parts))
        return header[1:].rstrip(), b"".join(map(bytes.strip, lines.split(b"\n")))
    sequence = bytearray()
    while parts:
        sequence += parts.pop().replace(b"\n", b"")
    return header[1:].rstrip(), sequence


# What people hand over by mistake, by its first bytes.
_OTHER_FORMATS = {
    b"BAM\x01": "a BAM file; convert it with 'samtools fastq'",
    b"CRAM": "a CRAM file; convert it with 'samtools fastq'",
    b"LOCUS ": "a GenBank flat file; convert it to FASTA",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x1f\x8b": "a gzip file inside a compressed file; decompress it once",
}


def describe_content(start: bytes) -> str:
    """What an error message says was found in a file that is none of the formats expected.

    >>> describe_content(b"hello, world\\n")
    "found 'hello, world'"
    """
    for magic, what in _OTHER_FORMATS.items():
        if start.startswith(magic):
            return f"this is {what}"
    found = printable(start.split(b"\n")[0].rstrip().decode("ascii", "replace"), limit=30)
    return f"found '{found}'"


def misplaced_sign(sequence: str) -> str:
    """What is wrong with a FASTA sequence that holds the sign of a header; else nothing.

    >>> misplaced_sign("ACGT")
    ''
    """
    for sign in (">", "@"):
        if sign in sequence:
            return f"found '{sign}' inside the sequence; expected '>' only where a line starts"
    return ""


class RecordReader(Iterator[dnaio.SequenceRecord]):
    """The records of several files, one file after the other; it knows where it is.

    ``path`` is the file being read and ``number`` the ordinal, **from 1**, of the last record given out
    of that file, so that whoever finds fault with that record can say where it stands: :meth:`error`.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        if list(paths).count("-") > 1:
            raise InputError("standard input can be read only once", path="-")
        self.path: str | None = None
        self.number = 0
        self._records = self._read(paths)

    @classmethod
    def from_pieces(cls, path: str, pieces: Iterator[bytes]) -> RecordReader:
        """A reader of one FASTA or FASTQ text that somebody else opened.

        Parameters
        ----------
        path: what to call it in errors.
        pieces: decompressed text, as :func:`decompress` gives it out.
        """
        reader = cls([])
        reader._records = reader._read_pieces(path, pieces)
        return reader

    def __next__(self) -> dnaio.SequenceRecord:
        return next(self._records)

    def close(self) -> None:
        """Close the file that is open, if reading stops early."""
        self._records.close()

    def error(self, message: str, name: str | None = None) -> InputError:
        """An InputError about the last record given out."""
        return InputError(message, path=self.path, record=self.number, name=name)

    def _read(self, paths: Sequence[str]) -> Generator[dnaio.SequenceRecord, None, None]:
        for path in paths:
            with open_binary(path) as file:
                yield from self._read_pieces(path, decompress(file))
        self.path = None

    def _read_pieces(self, path: str, pieces: Iterator[bytes]) -> Generator[dnaio.SequenceRecord, None, None]:
        self.path, self.number = path, 0
        try:
            yield from self._read_text(CleanText(pieces))
        except DamagedError as error:
            record = error.record or self.number + 1
            raise InputError(str(error), path=path, record=record, line=error.line) from None

    def _read_text(self, text: CleanText) -> Iterator[dnaio.SequenceRecord]:
        if text.first == b">":
            yield from self._read_fasta(text)
        elif text.first == b"@":
            yield from self._read_fastq(text)
        elif text.first:
            raise unknown_format(text)

    def _read_fasta(self, text: CleanText) -> Iterator[dnaio.SequenceRecord]:
        for header, letters in split_fasta(text):
            self.number += 1
            record = dnaio.SequenceRecord(header.decode("ascii"), letters.decode("ascii"))
            del letters
            if fault := misplaced_sign(record.sequence):
                raise self.error(fault, record.id)
            yield record
            del record  # while the next one is read: it may be a chromosome

    def _read_fastq(self, text: CleanText) -> Iterator[dnaio.SequenceRecord]:
        try:
            for record in FastqReader(cast(BinaryIO, text)):
                self.number += 1
                yield record
        except dnaio.FileFormatError as error:
            raise self._fastq_error(error, text) from None

    def _fastq_error(self, error: dnaio.FileFormatError, text: CleanText) -> InputError:
        message = printable(" ".join(error.message.split()), limit=300)
        if "start with '+'" in message:
            message += "; a record has exactly four lines, wrapped FASTQ is not read"
        if error.line is None:
            return InputError(message, path=self.path, record=self.number + 1)
        first_line = error.line - error.line % 4
        return InputError(
            message,
            path=self.path,
            record=first_line // 4 + 1,
            name=text.name_at(first_line),
            line=error.line + 1 + text.blank_lines,
        )


def unknown_format(text: CleanText) -> DamagedError:
    """What to raise about a text that is neither FASTA nor FASTQ."""
    what = describe_content(text.peek_start())
    line = text.blank_lines + 1
    return DamagedError(f"{what}; expected '>' (FASTA) or '@' (FASTQ)", record=1, line=line)


def read_records(paths: Sequence[str]) -> RecordReader:
    """Records of FASTA and FASTQ files, in order.

    Parameters
    ----------
    paths: files; ``-`` is standard input.  gzip, BGZF, bzip2, xz and zstd, FASTA and FASTQ are told apart
        by content, file by file; an empty file holds no record.

    The alphabet is left to :func:`normalise`.

    Raises
    ------
    InputError: at the first record that is malformed, or where a compressed stream is cut off or damaged;
        the records before it were given out.  Wrapped FASTQ and bytes outside ASCII count as malformed.
    OSError: a file cannot be opened or read.
    """
    return RecordReader(paths)


# ---------------------------------------------------------------- normalisation

_AMBIGUOUS = "RYSWKMBDHVN"
_LETTERS = "ACGTU" + _AMBIGUOUS
_ALLOWED = (_LETTERS + _LETTERS.lower()).encode()
_NOT_ALLOWED = 255  # nothing that ASCII has
_READ_AS = dict(zip(_ALLOWED, 2 * ("ACGTT" + "N" * len(_AMBIGUOUS)).encode(), strict=True))
_NORMAL = bytes(_READ_AS.get(letter, _NOT_ALLOWED) for letter in range(256))
_MASKED = bytes(  # soft-masked is N
    ord("N") if letter in _READ_AS and chr(letter).islower() else _NORMAL[letter] for letter in range(256)
)
BLOCK = 1 << 20  # letters that are looked at together: a chromosome is not copied as a whole

_CODES = bytes(
    _NOT_ALLOWED if letter not in _ALLOWED else "ACGTN".index(chr(_NORMAL[letter])) for letter in range(256)
)
_RESIDUES = bytes(
    letter if letter in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ*" else _NOT_ALLOWED
    for letter in bytes(range(256)).upper()
)


def normalise(sequence: str, *, mask_lower: bool = False) -> str:
    """The sequence in the model's alphabet: upper case, U as T, every IUPAC ambiguity code as N.

    With ``mask_lower``, lower-case (soft-masked) letters become N too.

    Raises ValueError, naming the first other character and its position, **counted from 1**.

    >>> normalise("acguRn-"[:6]), normalise("acgTRA", mask_lower=True)
    ('ACGTNN', 'NNNTNA')
    """
    check_letters(sequence)
    return translate(sequence, mask_lower)


def check_letters(sequence: str) -> None:
    """Raise ValueError, as :func:`normalise` does, at the first letter that is no nucleotide code."""
    for start in range(0, len(sequence), BLOCK):
        # '?' is no nucleotide code either.
        codes = sequence[start : start + BLOCK].encode("ascii", "replace")
        if codes.translate(None, _ALLOWED):
            position = next(i for i, code in enumerate(codes) if code not in _ALLOWED)
            raise _unknown_letter(sequence, start + position)


def translate(sequence: str, mask_lower: bool = False) -> str:
    """What :func:`normalise` gives, in a single pass; its ValueError does not name what is wrong."""
    return sequence.encode("ascii").translate(_MASKED if mask_lower else _NORMAL).decode("ascii")


def encode(sequence: str) -> bytes:
    """What :func:`normalise` gives, as numbers: 0 to 4 for A, C, G, T, N.  Raises ValueError, as that does.

    >>> list(encode("acguRn"))
    [0, 1, 2, 3, 4, 4]
    """
    codes = sequence.encode("ascii", "replace").translate(_CODES)
    if (position := codes.find(_NOT_ALLOWED)) >= 0:
        raise _unknown_letter(sequence, position)
    return codes


def encode_protein(sequence: str) -> bytes:
    """Amino-acid letters and ``*`` in upper case, one byte each.

    Raises ValueError, naming the first other character (gaps too) and its position, **counted from 1**.

    >>> encode_protein("mkV*")
    b'MKV*'
    """
    letters = sequence.encode("ascii", "replace").translate(_RESIDUES)
    if (position := letters.find(_NOT_ALLOWED)) >= 0:
        raise _unknown_letter(sequence, position, "amino-acid letters or '*'")
    return letters


def encode_text(text: str) -> bytes:
    """A text without the white space around it, four bytes (UTF-32) for each character.

    Raises ValueError for what is no character: halves of surrogate pairs, as broken JSON has them.
    """
    text = text.strip()
    try:
        return text.encode("utf-32-le")
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise ValueError(f"found {found} in the text, half a character; expected Unicode text") from None


def _unknown_letter(sequence: str, position: int, expected: str = "IUPAC nucleotide codes") -> ValueError:
    found = printable(sequence[position])
    return ValueError(f"found '{found}' at position {position + 1} of the sequence; expected {expected}")


# ---------------------------------------------------------------- reads


def record_name(header: str) -> str:
    """A record's name, from its header line without the sign: up to white space, of any kind.

    (dnaio's ``id`` ends at a space or tab alone, but may begin with a form feed.)

    >>> record_name("r1\\x0cx y"), record_name(" r1")
    ('r1', '')
    """
    if header[:1].isspace():
        return ""
    words = header.split(maxsplit=1)
    return words[0] if words else ""


FAULTS = ("malformed", "not_ascii", "bad_letters", "no_name")
"""Why a single record cannot be used: its lines, its bytes, its sequence, its name."""


class Fault(NamedTuple):
    """What is wrong with one record: ``reason`` is one of :data:`FAULTS`."""

    reason: str
    error: InputError


class Read(NamedTuple):
    """A record as it stands in a file, wherever it came from.

    ``name``: up to the first white space.  ``sequence``: as sequenced, letters not checked.  ``source``:
    see :class:`Window`.  ``fault``: why it cannot be used, if its reader found it so and went on; name and
    sequence are then what can be told.  ``qualities``: of FASTQ, its letters.
    """

    name: str
    sequence: str
    is_fastq: bool = False
    source: Any = None
    fault: Fault | None = None
    qualities: str = ""

    @classmethod
    def of(cls, record: dnaio.SequenceRecord) -> Read:
        """A record of FASTA or FASTQ."""
        qualities = record.qualities
        return cls(
            record_name(record.name), record.sequence, qualities is not None, None, None, qualities or ""
        )


@runtime_checkable
class Located(Protocol):
    """Records that know where they stand: :class:`RecordReader` and its like."""

    def error(self, message: str, name: str | None = None) -> InputError:
        """An InputError about the last record given out."""
        ...

    def close(self) -> None:
        """Close the file that is open, if reading stops early."""
        ...
