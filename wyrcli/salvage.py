"""FASTA and FASTQ with malformed records among good ones, as ``--on-error skip`` reads them.

dnaio stops at the first malformed record, and rightly: who goes on must know where the next one begins.  Here
that is a line with ``@`` before a line of letters, and after anything unclear only a whole, valid record that
is followed by another header, or by the end, is believed.  What lies between is told record by record.  A
text that ends inside a record is always an error, for nobody knows what else is missing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from wyrcli.errors import InputError, printable
from wyrcli.sequences import (
    CleanText,
    DamagedError,
    Fault,
    Read,
    misplaced_sign,
    record_name,
    split_fasta,
    unknown_format,
)

__all__ = ["salvage"]

_LETTERS = re.compile(rb"[A-Za-z*.-]+")
_MAX_STRAY_LINES = 100  # without anything that looks like a record: then the rest of the file is not FASTQ


def salvage(path: str, pieces: Iterator[bytes]) -> Iterator[Read]:
    """Every record of a text, those that are malformed with their :class:`Fault`.

    Parameters
    ----------
    path: what to call it in errors.
    pieces: decompressed text, as :func:`wyrcli.sequences.decompress` gives it out.

    Raises InputError where the stream is damaged or cut off, is neither FASTA nor FASTQ, or ends inside a
    record; and where no next record can be found.
    """
    number = 0
    try:
        text = CleanText(pieces, strict=False)
        if text.first == b">":
            reads = _salvage_fasta(path, text)
        elif text.first == b"@":
            reads = _salvage_fastq(path, text)
        elif text.first:
            raise unknown_format(text)
        else:
            return
        for read in reads:
            number += 1
            yield read
            del read  # while the next one is read: it may be a chromosome
    except DamagedError as error:
        record = error.record or number + 1
        raise InputError(str(error), path=path, record=record, line=error.line) from None


def _text(data: bytes | bytearray) -> str:
    """Bytes as a text for messages and names."""
    return data.decode("ascii", "replace")


def _name(header: bytes | bytearray) -> str:
    """A record's name, from its header line without the sign."""
    return record_name(_text(header))


def _foreign_byte(*parts: bytes | bytearray) -> str:
    for part in parts:
        if not part.isascii():
            at = re.search(rb"[\x80-\xff]", part)
            assert at is not None
            return f"found byte 0x{at[0].hex()}; expected ASCII text"
    return ""


# ---------------------------------------------------------------- FASTA


def _salvage_fasta(path: str, text: CleanText) -> Iterator[Read]:
    """Records begin where a line begins with ``>``, whatever is wrong with the one before."""
    for number, (header, letters) in enumerate(split_fasta(text), 1):
        name, sequence = _name(header), _text(letters)
        reason, message = "not_ascii", _foreign_byte(header, letters)
        if not message:
            reason, message = "malformed", misplaced_sign(sequence)
        del letters
        fault = None
        if message:
            fault = Fault(reason, InputError(message, path=path, record=number, name=name))
        yield Read(name, sequence, fault=fault)
        del sequence


# ---------------------------------------------------------------- FASTQ


class _Lines:
    """Lines that can be looked at before they are taken; ``number`` counts those taken."""

    def __init__(self, text: CleanText) -> None:
        self._source = self._split(text)
        self._held: deque[bytes] = deque()
        self.number = text.blank_lines
        self.unended = False  # the last line has no line end

    def _split(self, text: CleanText) -> Iterator[bytes]:
        parts: list[bytes] = []
        for piece in text.pieces():
            first, *others = piece.split(b"\n")
            parts.append(first)
            for line in others:
                yield b"".join(parts).removesuffix(b"\r")
                parts = [line]
        rest = b"".join(parts)
        if rest:
            self.unended = True
            yield rest.removesuffix(b"\r")

    def peek(self, i: int) -> bytes | None:
        """The line after ``i`` others, or None at the end."""
        while len(self._held) <= i:
            line = next(self._source, None)
            if line is None:
                return None
            self._held.append(line)
        return self._held[i]

    def drop(self, n: int) -> None:
        """Take ``n`` lines."""
        for _ in range(n):
            self._held.popleft()
        self.number += n

    def record_follows(self, i: int) -> bool:
        """Whether after ``i`` lines there is a header, or nothing more."""
        line = self.peek(i)
        return line is None or line.startswith(b"@")

    def looks_like_header(self) -> bool:
        """Whether a record seems to begin here; no quality line can: a header would be its sequence."""
        line, letters = self.peek(0), self.peek(1)
        if line is None or not line.startswith(b"@") or letters is None:
            return False
        return bool(_LETTERS.fullmatch(letters)) or (not letters and (self.peek(2) or b"").startswith(b"+"))


def _salvage_fastq(path: str, text: CleanText) -> Iterator[Read]:
    lines = _Lines(text)
    in_step = True  # the lines before this one were a record
    number = 0
    while (header := lines.peek(0)) is not None:
        number += 1
        name = _name(header[1:]) if header.startswith(b"@") else ""
        letters, plus, quality = (lines.peek(i) for i in (1, 2, 3))
        if letters is None or plus is None or quality is None:
            raise _cut_off(path, number, name, lines)
        framed = header.startswith(b"@") and plus.startswith(b"+")
        is_last = lines.peek(4) is None
        if framed and is_last and lines.unended and len(quality) < len(letters):
            raise _cut_off(path, number, name, lines)
        reason, message, place = _examine(header, letters, plus, quality)
        if not message and not in_step and not lines.record_follows(4):
            reason, message, place = "malformed", "found a record among lines that are none", 0
        if not message:
            yield Read(name, letters.decode("ascii"), is_fastq=True, qualities=quality.decode("ascii"))
            lines.drop(4)
            in_step = True
            continue
        line = lines.number + 1 + place
        error = InputError(message, path=path, record=number, name=name, line=line)
        in_step = framed and lines.record_follows(4)
        sequence = _text(letters) if framed else ""
        if in_step:
            lines.drop(4)
        else:
            _find_next(path, number, lines)
        yield Read(name, sequence, is_fastq=True, fault=Fault(reason, error))


def _examine(header: bytes, letters: bytes, plus: bytes, quality: bytes) -> tuple[str, str, int]:
    """Reason and message of what is wrong with four lines, if anything, and in which of them, from 0."""
    if not header.startswith(b"@"):
        return "malformed", f"found {_shown(header)}; expected a header that starts with '@'", 0
    if not plus.startswith(b"+"):
        return "malformed", f"found {_shown(plus)}; expected a line that starts with '+'", 2
    if foreign := _foreign_byte(header, letters, plus, quality):
        return "not_ascii", foreign, 0
    if len(plus) > 1 and plus[1:] != header[1:]:
        return "malformed", "the name on the '+' line is not that of the record", 2
    if len(letters) != len(quality):
        return "malformed", f"found {len(quality)} quality values for {len(letters)} bases", 3
    return "", "", 0


def _shown(line: bytes) -> str:
    return f"'{printable(_text(line), limit=30)}'"


def _find_next(path: str, number: int, lines: _Lines) -> None:
    """Go on to where a record seems to begin, at least one line further."""
    for _ in range(_MAX_STRAY_LINES):
        lines.drop(1)
        if lines.peek(0) is None or lines.looks_like_header():
            return
    message = f"no record begins in the next {_MAX_STRAY_LINES} lines; too much is malformed to be skipped"
    raise InputError(message, path=path, record=number, line=lines.number + 1)


def _cut_off(path: str, number: int, name: str, lines: _Lines) -> InputError:
    message = "the file ends inside this record; expected four lines"
    return InputError(message, path=path, record=number, name=name, line=lines.number + 1)
