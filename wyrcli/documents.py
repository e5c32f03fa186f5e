"""Proteins and texts as windows: what :mod:`wyrcli.sequences` does for nucleotides.

    protein FASTA -> records (sequences) -> windows
    lines, or a table's column -> documents -> windows

Positions are 0-based half-open, in residues of the record or in characters (code points) of the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import dnaio

from wyrcli.errors import InputError
from wyrcli.explanation import Window
from wyrcli.sequences import DamagedError, Located, Read, decompress, encode_protein, open_binary
from wyrcli.tables import open_table
from wyrcli.windows import RecordCounts, count_read, find_fault, is_duplicate, refuse, skip_record

__all__ = ["Document", "cut_document", "new_counts", "read_documents", "split_documents", "split_proteins"]

_TABLE = re.compile(r"\.(csv|tsv|parquet)(\.(gz|bgz|bz2|xz|zst))?$", re.IGNORECASE)
_TEXT_COLUMNS = ("text", "sequence")
_BYTE_ORDER_MARK = "\ufeff"

OnSkip = Callable[[int, str, int, str], None]
"""Called with the ordinal of a record from 0, its name, its length, and why it has no window."""


class Document(NamedTuple):
    """A text to classify; ``name``: its column ``name``, or ``lineN`` or ``rowN``, counted from 1."""

    name: str
    text: str


def new_counts() -> RecordCounts:
    """Counts of what is no nucleotide sequence: it is skipped only if it is empty."""
    return RecordCounts(skipped={"empty": 0})


# ---------------------------------------------------------------- proteins


def split_proteins(
    records: Iterable[dnaio.SequenceRecord | Read],
    window: int,
    counts: RecordCounts,
    *,
    on_skip: OnSkip | None = None,
    lenient: bool = False,
    first: int = 0,
) -> Iterator[Window]:
    """Windows of at most ``window`` residues that tile each protein, nearly equal in length, in upper case.

    Raises InputError where there is FASTQ, and at a record without a name or with anything but letters and
    ``*``; the latter are skipped if ``lenient``.  ``first``: ordinal of the first record.
    """
    names: set[int] = set()
    for ordinal, record in enumerate(records, first):
        read = record if isinstance(record, Read) else Read.of(record)
        if read.is_fastq:
            message = "found FASTQ; expected FASTA, because the model reads proteins"
            raise _error(records, message, ordinal, read.name)
        fault = find_fault(records, ordinal, read, encode_protein, "'>'")
        if fault is not None and not lenient:
            refuse(records, fault)
        count_read(counts, read, fault, names)
        name = read.name
        if fault is not None or not read.sequence:
            reason = fault.reason if fault is not None else "empty"
            skip_record(counts, reason, on_skip, ordinal, name, len(read.sequence))
            continue
        sequence = encode_protein(read.sequence).decode("ascii")
        counts.windowed += 1
        n_windows = -(-len(sequence) // window)
        borders = [i * len(sequence) // n_windows for i in range(n_windows + 1)]
        for start, stop in pairwise(borders):
            counts.windows += 1
            yield Window(ordinal, name, start, stop, sequence[start:stop], length=len(sequence))


def _error(records: object, message: str, ordinal: int, name: str) -> InputError:
    if isinstance(records, Located):
        return records.error(message, name)
    return InputError(message, record=ordinal + 1, name=name)


# ---------------------------------------------------------------- documents


def read_documents(paths: Sequence[str]) -> Generator[Document, None, None]:
    """Documents of several files, in order.

    A name that ends in ``.csv``, ``.tsv`` or ``.parquet`` (and ``.gz`` and the like) is that of a table with
    a column ``text`` or ``sequence``, and maybe ``name``.  Any other file, and ``-``, which is standard
    input, holds one document in each line, in UTF-8, plain or compressed; a blank line is an empty one.

    Raises InputError where a file is damaged or holds something else, and OSError.
    """
    for path in paths:
        yield from _read_table(path) if _TABLE.search(path) else _read_lines(path)


def _read_lines(path: str) -> Iterator[Document]:
    number = 0
    rest = b""
    try:
        with open_binary(path) as file:
            for piece in decompress(file):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    number += 1
                    yield _document(path, number, line)
            if rest:
                number += 1
                yield _document(path, number, rest)
    except DamagedError as error:
        raise InputError(str(error), path=path, line=number + 1) from None


def _document(path: str, number: int, line: bytes) -> Document:
    try:
        text = line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"found byte 0x{line[error.start]:02x}; expected UTF-8 text, one document in each line"
        raise InputError(message, path=path, line=number) from None
    if number == 1:
        text = text.removeprefix(_BYTE_ORDER_MARK)
    return Document(f"line{number}", text)


def _read_table(path: str) -> Iterator[Document]:
    with open_table(path) as table:
        column = next((name for name in _TEXT_COLUMNS if name in table.columns), _TEXT_COLUMNS[0])
        named = "name" in table.columns
        number = 0
        for cells in table.rows([column, "name"] if named else [column]):
            for row in zip(*cells, strict=True):
                number += 1
                yield Document((named and row[1]) or f"row{number}", row[0])


def split_documents(
    documents: Iterable[Document],
    window: int,
    counts: RecordCounts,
    *,
    count_tokens: Callable[[str], int],
    max_tokens: int,
    on_skip: OnSkip | None = None,
    first: int = 0,
) -> Iterator[Window]:
    """Windows that hold all of each document but the white space around them.

    Parameters
    ----------
    window: most characters of a window.
    count_tokens, max_tokens: the tokens of a text, and the most that the model reads.
    first: ordinal of the first document.
    """
    names: set[int] = set()
    for ordinal, (name, text) in enumerate(documents, first):
        counts.records += 1
        counts.bases += len(text)
        counts.duplicate_names += is_duplicate(name, names)
        if not text.strip():
            skip_record(counts, "empty", on_skip, ordinal, name, len(text))
            continue
        counts.windowed += 1
        for start, stop in cut_document(text, window, count_tokens, max_tokens):
            counts.windows += 1
            yield Window(ordinal, name, start, stop, text[start:stop], length=len(text))


def cut_document(
    text: str, window: int, count_tokens: Callable[[str], int], max_tokens: int
) -> Iterator[tuple[int, int]]:
    """Where the windows of a text lie: as long as may be, between words where there are any.

    Raises InputError if a single character has more tokens than the model reads.

    >>> list(cut_document(" to be or not", 8, len, 6))
    [(1, 6), (7, 13)]
    """
    start = _skip_space(text, 0)
    while start < len(text):
        stop = _between_words(text, start, start + window)
        while (n := count_tokens(text[start:stop])) > max_tokens:
            if stop - start == 1:
                raise InputError(f"a single character has {n} tokens; the model reads {max_tokens}")
            # About as much as fits, and at least one character less.
            stop = _between_words(text, start, start + max((stop - start) * max_tokens // n, 1))
        yield start, start + len(text[start:stop].rstrip())
        start = _skip_space(text, stop)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _between_words(text: str, start: int, stop: int) -> int:
    """The last place up to ``stop``, but in the second half, where a word ends; else ``stop``."""
    if stop >= len(text):
        return len(text)
    for at in range(stop, start + (stop - start) // 2, -1):
        if text[at].isspace():
            return at
    return stop
