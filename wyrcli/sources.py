"""Labelled sequences of any format, from files, folders, archives and pipes, as one stream of records.

    paths -> files -> bytes -> decompressed bytes -> format by content -> records with label and genome

What a file holds is told by its content: FASTA, FASTQ, GenBank flat file, BERTax's JSON, a table with a
column of sequences, a manifest (a table with a column of files), or a zip archive of these.  No stage
seeks or opens twice, so pipes work, except for zip and Parquet: both keep their index at the end.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import stat
import warnings
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TextIO, cast

from wyrcli.errors import InputError, printable
from wyrcli.labels import (
    SPLIT_NAMES,
    Columns,
    Entry,
    Label,
    find_columns,
    parse_entry,
    read_labels,
    taxid_in_header,
)
from wyrcli.prefetching import prefetch
from wyrcli.sequences import DamagedError, RecordReader, decompress, describe_content, open_binary
from wyrcli.tables import Table, open_table

__all__ = ["SourceFile", "SourceReader", "SourceRecord", "read_sources"]

_LARGE_LABELS_BYTES = 64 * 1024**2  # on disk; tables up to this size are kept as a whole
_BUFFER_BYTES = 128 * 1024
_PIECES_AHEAD = 4  # of at most 1 MB
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_MAGIC = 6

_COMPRESSED = r"(?:\.(?:gz|bgz|bz2|xz|zst))?"
_COMPRESSED_ENDINGS = ("", ".gz", ".bgz", ".bz2", ".xz", ".zst")
_SEQUENCE_FILE = re.compile(
    r".*\.(?:fa|fna|fasta|ffn|fas|fq|fastq|gb|gbk|gbff|genbank|json|tsv|csv|parquet|zip)" + _COMPRESSED, re.I
)
_FRAGMENTS = re.compile(r"(.*)_fragments\.json" + _COMPRESSED, re.S)
_COMPANION = re.compile(r"(.*)_species_picked\.txt" + _COMPRESSED, re.S)
# What lies beside sequences in archives, and in the packages of NCBI datasets.
_DOCUMENTATION = re.compile(
    r"(?:readme|license|licence|citation|changelog)(?:\..*)?|dataset_catalog\.json"
    rf"|.*\.(?:md|txt|rst|jsonl|html|pdf|md5|sha256){_COMPRESSED}",
    re.I,
)
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_PARQUET_MAGIC = b"PAR1"
_CONTROL_CODE = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_EXPECTED = (
    "FASTA ('>'), FASTQ ('@'), GenBank ('LOCUS'), BERTax's JSON list ('['), a table (CSV, TSV, Parquet) with "
    "a column of sequences or of files, or a zip archive of these"
)

_JSON_KINDS = {"start_map": "an object", "start_array": "a list", "null": "null"}
_KRAKEN_PART = re.compile(r"\|?kraken:taxid\|[0-9]+\|?")
_WGS_CONTIG = re.compile(r"((?:NZ_)?(?:[A-Z]{4}|[A-Z]{6})[0-9]{2})[0-9]{6,}(?:\.[0-9]+)?")
_NOT_TOLD = Entry(None, None, None)


# ---------------------------------------------------------------- what is given out


class SourceRecord(NamedTuple):
    """One sequence and what its source tells of it.

    ``name``: of FASTA and FASTQ up to the first white space, of GenBank accession and version, of tables
    the cell of the name column or else ``row12``, of BERTax's JSON ``fragment12``; **counted from 1**.
    ``sequence``: letters as in the file; alphabet and case are left to the caller.
    ``label``: None if nothing tells it.
    ``genome``: records with the same one belong together; ``''``: nothing is known, each is on its own.
    ``file``: as the user named it; of a member of an archive ``data.zip/inner/name.fa``.
    ``split``: ``train``, ``validation`` or ``test`` where the source tells it.
    """

    name: str
    sequence: str
    label: Label | None
    genome: str
    file: str
    split: str | None


@dataclass
class SourceFile:
    """Where records came from: a file that was read to its end.

    ``bytes`` and ``sha256`` are of the file as it lies on disk.  ``records``: how many of it were given
    out, all members together for an archive, 0 for a manifest and for the taxids beside a JSON.
    """

    path: str
    format: str
    bytes: int
    sha256: str
    records: int


# ---------------------------------------------------------------- streams


class _Watched:
    """A file on disk or a pipe that counts and hashes what is read of it.

    ``start``: its first bytes, once they were read.
    """

    def __init__(self, raw: BinaryIO, on_read: Callable[[int], None] = lambda n: None) -> None:
        self._raw = cast(io.BufferedReader, raw)
        self._on_read = on_read
        self._digest = hashlib.sha256()
        self._size = 0
        self.start = b""

    def read(self, size: int) -> bytes:
        return self._note(self._raw.read(size))

    def read1(self, size: int) -> bytes:
        return self._note(self._raw.read1(size))

    def _note(self, data: bytes) -> bytes:
        self.start = self.start or data
        self._digest.update(data)
        self._size += len(data)
        self._on_read(len(data))
        return data

    def about(self, path: str, kind: str, records: int) -> SourceFile:
        return SourceFile(path, kind, self._size, self._digest.hexdigest(), records)


class _Member:
    """A member of a zip archive whose failures are DamagedErrors."""

    def __init__(self, raw: BinaryIO, on_read: Callable[[], None] = lambda: None) -> None:
        self._raw = cast(io.BufferedReader, raw)
        self._on_read = on_read

    def read(self, size: int) -> bytes:
        with _zip_errors():
            data = self._raw.read(size)
        self._on_read()
        return data

    def read1(self, size: int) -> bytes:
        with _zip_errors():
            data = self._raw.read1(size)
        self._on_read()
        return data


@contextmanager
def _zip_errors() -> Iterator[None]:
    """zipfile lets through what its decompressors raise; all of it becomes DamagedError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise DamagedError(f"the zip archive is damaged or cut off: {error}") from None
    except (NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"the zip archive cannot be unpacked here: {error}") from None
    except OSError as error:
        if error.errno is not None:  # of the disk, not of bz2
            raise
        raise DamagedError(f"the zip archive is damaged: {error}") from None


class _Stream(io.RawIOBase):
    """Pieces as a file; ``damaged``: it ended in a DamagedError."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._ready = memoryview(b"")
        self.damaged = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            try:
                piece = next(self._pieces, None)
            except DamagedError:
                self.damaged = True
                raise
            if piece is None:
                return 0
            self._ready = memoryview(piece)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def _buffered(pieces: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Stream(pieces), _BUFFER_BYTES)


def _peek(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, enough to tell a format by, and all pieces; without a byte order mark."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head.removeprefix(_BYTE_ORDER_MARK).lstrip()) >= _LONGEST_MAGIC:
            break
    head = head.removeprefix(_BYTE_ORDER_MARK)
    return head, chain([head], pieces)


# ---------------------------------------------------------------- paths


class _Input(NamedTuple):
    """A file to be read.

    ``is_named``: by the user or a manifest; else it was found in a folder.  ``is_listed``: by a manifest,
    which has ``labels`` for it.
    """

    path: str
    is_named: bool = True
    is_listed: bool = False
    labels: _Finder | None = None


class _Finder(Protocol):
    """What is used of :class:`wyrcli.labels.Labels`."""

    def find(self, name: str, file: str) -> tuple[Entry | None, bool]: ...


class _NoLabels:
    """Labels that nobody asks for, while names are collected."""

    def find(self, name: str, file: str) -> tuple[Entry | None, bool]:
        return None, False


def _expand(paths: Iterable[str], labels: Path | None) -> list[_Input]:
    """Folders as the files in them, without the table of labels; see :func:`read_sources`."""
    table = None if labels is None else os.path.realpath(labels)
    inputs: list[_Input] = []
    for path in paths:
        if path == "-" or not os.path.isdir(path):
            inputs.append(_Input(path))
            continue
        found = [name for name in _walk(path) if os.path.realpath(name) != table]
        files = [name for name in found if _SEQUENCE_FILE.fullmatch(name) or _COMPANION.fullmatch(name)]
        if not files:
            message = (
                "found no file of sequences in this folder; expected names such as a.fna, b.gb.gz, c.tsv"
            )
            raise InputError(message, path=path)
        inputs += [_Input(name, is_named=False) for name in files]
    return inputs


def _walk(folder: str) -> list[str]:
    """All files below a folder that are not hidden, sorted; links to folders are followed, once."""

    def refuse(error: OSError) -> None:
        raise error

    files: list[str] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        files += [os.path.join(where, name) for name in names if not _is_hidden(name)]
    return sorted(files)


def _is_hidden(path: str) -> bool:
    """Whether a file is left out of folders and archives: dot files, and what macOS adds to archives."""
    return any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in path.split("/"))


def _without_companions(names: Sequence[str], shown: Callable[[str], str] = str) -> list[str]:
    """The names without those of BERTax's lists of taxids, each of which must have its JSON among them."""
    stems = {os.path.normpath(match[1]) for name in names if (match := _FRAGMENTS.fullmatch(name))}
    kept = []
    for name in names:
        match = _COMPANION.fullmatch(name)
        if match is None:
            kept.append(name)
        elif os.path.normpath(match[1]) not in stems:
            expected = printable(f"{os.path.basename(match[1])}_fragments.json")
            raise InputError(
                f"taxids without their sequences; expected '{expected}' among the inputs", path=shown(name)
            )
    return kept


def _find_companion(name: str, exists: Callable[[str], bool]) -> str | None:
    """The name of the taxids beside a ``X_fragments.json``."""
    match = _FRAGMENTS.fullmatch(name)
    if match is None:
        return None
    candidates = (f"{match[1]}_species_picked.txt{ending}" for ending in _COMPRESSED_ENDINGS)
    return next(filter(exists, candidates), None)


def _split_in_name(base: str) -> str | None:
    """The split that a file's name tells: one of its words does, and no other tells another.

    >>> _split_in_name("bertax_test.tsv"), _split_in_name("latest.fa"), _split_in_name("train_test.csv")
    ('test', None, None)
    """
    words = re.split(r"[_.-]", base.lower())
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _genome_in_name(name: str) -> str:
    """What a record named so is a part of: of its WGS project, or of nothing but itself.

    >>> _genome_in_name("NZ_ABCD01000012.1|kraken:taxid|562"), _genome_in_name("NC_000913.3")
    ('NZ_ABCD01', 'NC_000913.3')
    """
    match = _WGS_CONTIG.fullmatch(_KRAKEN_PART.sub("", name))
    return match[1] if match else name


# ---------------------------------------------------------------- GenBank


class _GenBankLines:
    """The lines of a GenBank file for Biopython; what it would pass over in silence is refused.

    Refused (InputError): text between records, a record without ``//`` at its end.
    Taken away: features other than ``source``.  Nobody asks for them, and a gene with an odd location is
    no reason to refuse a genome.
    ``number`` and ``name`` are those of the record that began last; the number counts **from 1**.
    """

    def __init__(self, path: str, text: TextIO) -> None:
        self._path = path
        self._lines = iter(text)
        self._line = 0
        self._in_record = False
        self._in_features = False
        self._keep = True
        self.number = 0
        self.name: str | None = None

    def error(self, message: str, *, line: int | None = None) -> InputError:
        return InputError(message, path=self._path, record=max(self.number, 1), name=self.name, line=line)

    def read(self, size: int) -> str:
        """Biopython reads 0 characters to see whether they are text."""
        return ""

    def readline(self) -> str:
        """The next line that Biopython shall see; '' at the end."""
        while True:
            line = next(self._lines, "")
            self._line += 1
            if self._in_record:
                self._follow(line)
            elif line.startswith("LOCUS "):
                self._begin(line)
            elif line.strip():
                found = printable(line.strip(), limit=30)
                raise self.error(f"found '{found}' after the record; expected 'LOCUS'", line=self._line)
            elif not line:
                return ""
            if self._keep:
                return line

    def _begin(self, line: str) -> None:
        words = line.split()
        self.number += 1
        self.name = words[1] if len(words) > 1 else None
        self._in_record, self._in_features, self._keep = True, False, True

    def _follow(self, line: str) -> None:
        if not line:
            raise self.error("the record is cut off; expected '//' at its end")
        if line.startswith("LOCUS "):
            raise self.error("found another 'LOCUS'; expected '//' before it", line=self._line)
        if line.rstrip() == "//":
            self._in_record, self._keep = False, True
        elif not line[0].isspace():
            self._in_features, self._keep = line.startswith("FEATURES "), True
            if line.startswith("VERSION "):
                self.name = line.split()[1] if len(line.split()) > 1 else self.name
        elif self._in_features and line[5:6].strip():
            self._keep = line[5:21].strip() == "source"


def _taxids_of(record: Any) -> set[int]:
    """All taxids in the source features of a Biopython record."""
    xrefs = (x for f in record.features if f.type == "source" for x in f.qualifiers.get("db_xref", ()))
    return {int(x[6:]) for x in xrefs if x.startswith("taxon:") and x[6:].isdecimal()}


# ---------------------------------------------------------------- the reader


@dataclass
class _Place:
    """A text of records, and what is known before it is read.

    ``shown``: what to call it.  ``files``: under which names labels may know it.  ``is_optional``: it may
    as well hold no sequences.  ``companion``: name of the taxids beside it, which ``open_other`` opens.
    """

    shown: str
    files: tuple[str, ...]
    labels: _Finder | None
    companion: str | None
    open_other: Callable[[str], AbstractContextManager[Iterator[bytes]]]
    source: _Input
    is_optional: bool = False
    in_archive: bool = False

    def __post_init__(self) -> None:
        self.split = _split_in_name(os.path.basename(self.shown))


_Records = Generator[SourceRecord, None, str]
"""Records of one text; the return value is the name of its format."""


class SourceReader(Iterator[SourceRecord]):
    """The records of all inputs, one input after the other; made by :func:`read_sources`.

    ``files``: the files that were read to their end.  ``bytes_read`` and ``total_bytes``: of the files as
    they lie on disk; the total is None if an input has no size, and grows where a manifest names files.
    """

    def __init__(
        self, inputs: Sequence[_Input], *, labels: _Finder | None, ranks: tuple[str, ...] | None
    ) -> None:
        self.files: list[SourceFile] = []
        self.bytes_read = 0
        self.total_bytes: int | None = 0
        self._labels = labels
        self._ranks = ranks
        self._path: str | None = None
        self._number = 0
        self._n_records = 0
        self._seen: set[str] = set()
        self._base_names: Counter[str] = Counter()
        self._waiting: deque[_Input] = deque()
        self._add(inputs)
        self._records = self._read()

    def __next__(self) -> SourceRecord:
        record = next(self._records)
        self._n_records += 1
        return record

    def close(self) -> None:
        """Close the file that is open, if reading stops early."""
        self._records.close()

    def error(self, message: str, name: str | None = None) -> InputError:
        """An InputError about the last record given out."""
        return InputError(message, path=self._path, record=self._number, name=name)

    # ------------------------------------------------ files

    def _add(self, inputs: Sequence[_Input]) -> None:
        """Put inputs before those that wait.  Raises InputError where one is named again."""
        kept = set(_without_companions([item.path for item in inputs]))
        inputs = [item for item in inputs if item.path in kept]
        for path in (item.path for item in inputs):
            size: int | None = None
            key = path
            if path != "-":
                key = os.path.realpath(path)
                status = os.stat(path)
                size = status.st_size if stat.S_ISREG(status.st_mode) else None
            if key in self._seen:
                raise InputError("the same input is named twice", path=path)
            self._seen.add(key)
            self._base_names[os.path.basename(path)] += 1
            self.total_bytes = None if self.total_bytes is None or size is None else self.total_bytes + size
        self._waiting.extendleft(reversed(inputs))

    def _read(self) -> Generator[SourceRecord, None, None]:
        while self._waiting:
            item = self._waiting.popleft()
            self._path, self._number = item.path, 0
            try:
                yield from self._read_file(item)
            except DamagedError as error:
                record = error.record or self._number + 1
                raise InputError(str(error), path=self._path, record=record, line=error.line) from None
        self._path = None

    def _read_file(self, item: _Input) -> Generator[SourceRecord, None, None]:
        path = item.path
        records_before, bytes_before = self._n_records, self.bytes_read
        with open_binary(path) as raw:
            watched = _Watched(raw, self._count_bytes)
            pieces = decompress(cast(BinaryIO, watched))
            head, pieces = _peek(pieces)
            place = self._place(item)
            if not watched.start.startswith((*_ZIP_MAGIC, _PARQUET_MAGIC)):
                # Decompression and checksums let other threads run.
                with closing(prefetch(pieces, _PIECES_AHEAD)) as ahead:
                    kind = yield from self._read_text(place, head, ahead)
                    # Parsers read to the end, but documentation was only looked into: the hash is of the
                    # whole.
                    for _ in ahead:
                        pass
                about = watched.about(path, kind, self._n_records - records_before)
            elif not raw.seekable() or path == "-":
                what = "a Parquet file" if head.startswith(_PARQUET_MAGIC) else "a zip archive"
                raise InputError(
                    f"this is {what}, which cannot be read from a pipe; give it as a file", path=path
                )
            else:
                self.bytes_read = bytes_before  # what was read to know the format will be read again
                if head.startswith(_PARQUET_MAGIC):
                    kind = yield from self._read_table(place, head, None)
                else:
                    kind = yield from self._read_zip(item, raw)
                raw.seek(0)
                digest = hashlib.file_digest(cast(io.BufferedReader, raw), "sha256").hexdigest()
                about = SourceFile(path, kind, raw.tell(), digest, self._n_records - records_before)
                self.bytes_read = bytes_before + about.bytes
        self.files.append(about)

    def _count_bytes(self, n: int) -> None:
        self.bytes_read += n

    def _place(self, item: _Input) -> _Place:
        @contextmanager
        def open_companion(path: str) -> Iterator[Iterator[bytes]]:
            with open_binary(path) as raw:
                watched = _Watched(raw)
                pieces = decompress(cast(BinaryIO, watched))
                yield pieces
            self.files.append(watched.about(path, "BERTax taxids", 0))

        return _Place(
            shown=item.path,
            files=(item.path,),
            labels=item.labels or self._labels,
            companion=_find_companion(item.path, os.path.exists),
            open_other=open_companion,
            source=item,
            is_optional=not item.is_named and bool(_DOCUMENTATION.fullmatch(os.path.basename(item.path))),
        )

    def _read_zip(self, item: _Input, raw: BinaryIO) -> _Records:
        bytes_before = self.bytes_read

        def report() -> None:
            self.bytes_read = max(self.bytes_read, bytes_before + raw.tell())

        raw.seek(0)
        with ExitStack() as stack:
            with _zip_errors():
                archive = stack.enter_context(zipfile.ZipFile(raw))
                members = [m for m in archive.infolist() if not (m.is_dir() or _is_hidden(m.filename))]
                # zipfile finds the last index there is: if the archive is cut, that of an archive inside it.
                if min((m.header_offset for m in archive.infolist()), default=0) != 0:
                    raise zipfile.BadZipFile("its index does not begin with its first member")
            by_name = {member.filename: member for member in members}
            if len(by_name) < len(members):
                raise DamagedError("the zip archive holds two members with one name; unpack it")
            self._base_names.update(map(os.path.basename, by_name))

            @contextmanager
            def open_member(name: str) -> Iterator[Iterator[bytes]]:
                with _zip_errors():
                    file = archive.open(by_name[name])
                with file:
                    yield decompress(cast(BinaryIO, _Member(cast(BinaryIO, file), report)))

            for name in _without_companions(list(by_name), lambda name: f"{item.path}/{name}"):
                shown = f"{item.path}/{name}"
                self._path, self._number = shown, 0
                place = _Place(
                    shown=shown,
                    files=(shown, item.path),
                    labels=item.labels or self._labels,
                    companion=_find_companion(name, by_name.__contains__),
                    open_other=open_member,
                    source=item,
                    is_optional=bool(_DOCUMENTATION.fullmatch(os.path.basename(name))),
                    in_archive=True,
                )
                with open_member(name) as pieces:
                    head, pieces = _peek(pieces)
                    yield from self._read_text(place, head, pieces)
                    for _ in pieces:  # of documentation, too, the checksum must be right
                        pass
        self._path, self._number = item.path, 0
        return "zip"

    # ------------------------------------------------ formats

    def _read_text(self, place: _Place, head: bytes, pieces: Iterator[bytes]) -> _Records:
        """The records of a decompressed text that begins with ``head``."""
        start = head.lstrip()
        if not start:
            return "empty"
        if start.startswith((b">", b"@")):
            return (yield from self._read_fastx(place, pieces, "FASTA" if start[:1] == b">" else "FASTQ"))
        if start.startswith(b"LOCUS "):
            return (yield from self._read_genbank(place, pieces))
        if start.startswith(b"["):
            return (yield from self._read_bertax(place, pieces))
        if start.startswith((*_ZIP_MAGIC, _PARQUET_MAGIC)):
            what = "a Parquet file" if start.startswith(_PARQUET_MAGIC) else "a zip archive"
            message = f"this is {what} inside an archive or a compressed file; unpack it"
            raise InputError(message, path=place.shown)
        if not start.startswith(b"{") and not _CONTROL_CODE.search(start[:512]):
            return (yield from self._read_table(place, start, pieces))
        return self._refuse(place, start)

    def _refuse(self, place: _Place, start: bytes) -> str:
        """For content of no known format; documentation is passed over."""
        if place.is_optional:
            return "documentation"
        raise InputError(f"{describe_content(start)}; expected {_EXPECTED}", path=place.shown)

    def _check_labels(self, place: _Place, kind: str, where: str) -> None:
        if self._ranks is not None and place.labels is None:
            raise InputError(
                f"{where} of {kind} tell only taxids, and the ranks {', '.join(self._ranks)} are asked for; "
                "give a taxonomy, or a table of labels with one column for each rank",
                path=place.shown,
            )

    def _make(
        self, place: _Place, name: str, sequence: str, label: Label | None, genome: str
    ) -> SourceRecord:
        """A record; ``label`` and ``genome`` are what it tells itself, for where no table does."""
        if place.labels is None:
            return SourceRecord(name, sequence, label, genome, place.shown, place.split)
        entry, own = self._look_up(place, name)
        return SourceRecord(
            name,
            sequence,
            entry.label,
            entry.genome or own or genome,
            place.shown,
            entry.split or place.split,
        )

    def _look_up(self, place: _Place, name: str) -> tuple[Entry, str]:
        """What the labels tell of a record, and the genome it belongs to if they know it by its file."""
        assert place.labels is not None
        for file in place.files:
            entry, by_file = place.labels.find(name, file)
            if entry is not None:
                base = os.path.basename(file)
                return entry, "" if not by_file else base if self._base_names[base] == 1 else file
        return _NOT_TOLD, ""

    def _read_fastx(self, place: _Place, pieces: Iterator[bytes], kind: str) -> _Records:
        self._check_labels(place, kind, "the headers")
        reader = RecordReader.from_pieces(place.shown, pieces)
        asks_headers = place.labels is None
        for record in reader:
            self._number = reader.number
            name = record.id
            if not name:
                raise self.error("the record has no name; expected one right after '>' or '@'")
            label = taxid_in_header(record.name) if asks_headers else None
            yield self._make(place, name, record.sequence, label, _genome_in_name(name))
        return kind

    def _read_genbank(self, place: _Place, pieces: Iterator[bytes]) -> _Records:
        from Bio import BiopythonWarning, SeqIO

        self._check_labels(place, "GenBank files", "the features")
        # Names of authors may be in any encoding; nothing that is used here has letters beyond ASCII.
        lines = _GenBankLines(place.shown, io.TextIOWrapper(_buffered(pieces), encoding="latin-1"))
        parse: Any = SeqIO.parse
        records = parse(lines, "genbank")
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", BiopythonWarning)
                    record = next(records, None)
            except (InputError, DamagedError, OSError, MemoryError):
                raise
            # Biopython meets a malformed record with whatever its code happens to run into.
            except Exception as error:
                what = printable(" ".join(str(error).split()), limit=200)
                raise lines.error(f"not a GenBank record: {what}") from None
            if record is None:
                return "GenBank"
            self._number = lines.number
            yield self._make_from_genbank(place, record)

    def _make_from_genbank(self, place: _Place, record: Any) -> SourceRecord:
        name = record.id
        taxids = _taxids_of(record) if place.labels is None else set()
        if len(taxids) > 1:
            raise self.error(f"found the taxids {', '.join(map(str, sorted(taxids)))}; expected one", name)
        if record.seq.defined:
            sequence = str(record.seq)
        elif record.annotations.keys() & {"contig", "wgs", "wgs_scafld", "tsa", "tls"}:
            sequence = ""  # the record only says of which others it is made
        else:
            raise self.error(f"found no sequence; expected {len(record.seq)} letters, as LOCUS tells", name)
        parts = [x for kind in ("Assembly:", "BioSample:") for x in record.dbxrefs if x.startswith(kind)]
        genome = parts[0] if parts else _genome_in_name(name)
        return self._make(place, name, sequence, next(iter(taxids), None), genome)

    def _read_bertax(self, place: _Place, pieces: Iterator[bytes]) -> _Records:
        import ijson

        self._check_labels(place, "BERTax's JSON", "the taxids")
        if place.labels is None and place.companion is None:
            raise InputError(
                "a list of sequences without their taxids; expected a name such as 'X_fragments.json' and "
                "beside it 'X_species_picked.txt' with one taxid per line, or a table of labels",
                path=place.shown,
            )
        with ExitStack() as stack:
            taxids: Iterator[int | None] = repeat(None)
            if place.labels is None:
                assert place.companion is not None
                taxids = self._read_taxids(place, stack.enter_context(place.open_other(place.companion)))
            events = ijson.basic_parse(_buffered(pieces), buf_size=_BUFFER_BYTES)
            try:
                next(events)  # the '[' by which the format was known
                for event, value in events:
                    if event == "end_array":
                        continue  # the last event, unless something follows that does not belong there
                    self._number += 1
                    if event != "string":
                        what = _JSON_KINDS.get(event, f"a {event}")
                        raise self.error(f"the element is {what}; expected a string")
                    taxid = next(taxids, -1)
                    if taxid == -1:
                        n = self._number + sum(event == "string" for event, _ in events)
                        raise self._unequal(place, n, self._number - 1)
                    record = self._make(place, f"fragment{self._number}", value, taxid, "")
                    if not record.genome and isinstance(record.label, int):
                        record = record._replace(genome=f"taxid {record.label}")
                    yield record
            except ijson.JSONError as error:
                what = error.args[0] if error.args else ""
                what = what.decode("utf-8", "replace") if isinstance(what, bytes) else str(what)
                what = printable(what.split("\n")[0])
                raise DamagedError(f"the JSON text is damaged or cut off: {what}") from None
            if place.labels is None and (n_more := sum(1 for _ in taxids)):
                raise self._unequal(place, self._number, self._number + n_more)
        return "BERTax JSON"

    @staticmethod
    def _read_taxids(place: _Place, pieces: Iterator[bytes]) -> Iterator[int]:
        """One taxid per line; blank lines may follow the last."""
        assert place.companion is not None
        path = f"{place.source.path}/{place.companion}" if place.in_archive else place.companion
        is_blank = False
        number = 0
        try:
            _, pieces = _peek(pieces)
            for number, line in enumerate(_buffered(pieces), 1):
                text = line.strip()
                if text and (is_blank or not text.isdigit() or len(text) > 18):
                    found = printable(text.decode("utf-8", "replace"), limit=30)
                    message = "a blank line before it" if is_blank else f"'{found}'"
                    raise InputError(f"found {message}; expected one taxid per line", path=path, line=number)
                is_blank = not text
                if text:
                    yield int(text)
        except DamagedError as error:
            raise InputError(str(error), path=path, line=number + 1) from None

    @staticmethod
    def _unequal(place: _Place, fragments: int, taxids: int) -> InputError:
        companion = printable(place.companion or "")
        return InputError(
            f"holds {fragments} sequences, but {companion} holds {taxids} taxids; expected one for each",
            path=place.shown,
        )

    # ------------------------------------------------ tables

    def _read_table(self, place: _Place, start: bytes, pieces: Iterator[bytes] | None) -> _Records:
        """The rows of a table, or no record of a manifest, whose files then are the next to be read.

        Parameters
        ----------
        start: first bytes, for errors.
        pieces: its text; None: a Parquet file, to be opened by its path.
        """
        stream = None if pieces is None else _Stream(pieces)
        with ExitStack() as stack:
            try:
                file = None if stream is None else io.BufferedReader(stream, _BUFFER_BYTES)
                table = stack.enter_context(open_table(place.shown, cast(BinaryIO | None, file)))
                columns = find_columns(table.columns, None, place.shown)
            except InputError:
                if place.is_optional and stream is not None and not stream.damaged:
                    return "documentation"
                raise
            if columns.sequence is not None:
                yield from self._read_rows(place, table)
                return "Parquet" if pieces is None else "table"
            if columns.file is None or place.is_optional:
                return self._refuse_table(place, table, start)
            files = self._read_manifest(place, table, columns.file)
        labels = read_labels(Path(place.shown), ranks=self._ranks)
        self._add([_Input(file, is_listed=True, labels=labels) for file in files])
        return "manifest"

    def _refuse_table(self, place: _Place, table: Table, start: bytes) -> str:
        if place.is_optional or len(table.columns) < 2:
            return self._refuse(place, start)
        found = printable(", ".join(table.columns), limit=200)
        message = f"found a table with the columns {found}; expected a column 'sequence'"
        if not place.source.is_named:
            message += "; give a table of labels with --labels, or take it out of the folder"
        else:
            message += ", or 'file' for a list of files"
        raise InputError(message, path=place.shown)

    def _find_columns(self, place: _Place, table: Table) -> Columns:
        try:
            columns = find_columns(table.columns, self._ranks, place.shown)
        except InputError:
            if place.labels is None:
                raise
            columns = find_columns(table.columns, None, place.shown)  # then the labels tell
        if not (columns.ranks or columns.taxid or place.labels):
            found = printable(", ".join(table.columns), limit=200)
            message = f"found the columns {found}; expected 'taxid' too, or a table of labels"
            raise InputError(message, path=place.shown)
        return columns

    def _read_rows(self, place: _Place, table: Table) -> Iterator[SourceRecord]:
        columns = self._find_columns(place, table)
        assert columns.sequence is not None
        of_label = columns.ranks or ((columns.taxid,) if columns.taxid and self._ranks is None else ())
        others = (columns.name, columns.genome, columns.split)
        wanted = [columns.sequence, *of_label, *(column for column in others if column)]
        is_taxid = not columns.ranks
        for block in table.rows(wanted):
            cells = dict(zip(wanted, block, strict=True))
            nothing = [""] * len(block[0])
            rows = zip(
                cells[columns.sequence],
                zip(*(cells[column] for column in of_label), strict=True) if of_label else repeat(("",)),
                *(cells[column] if column else nothing for column in others),
                strict=False,
            )
            for sequence, label, name, genome, split in rows:
                self._number += 1
                sequence, name = sequence.strip(), name.strip()
                try:
                    told = parse_entry(label, genome, split, is_taxid)
                except ValueError as error:
                    raise self.error(str(error), name) from None
                genome = told.genome or name
                name = name or f"row{self._number}"
                if of_label:
                    record = SourceRecord(name, sequence, told.label, genome, place.shown, place.split)
                else:
                    record = self._make(place, name, sequence, None, genome)
                yield record._replace(split=told.split) if told.split else record

    def _read_manifest(self, place: _Place, table: Table, column: str) -> list[str]:
        """The files that a manifest names, each once, in its order."""
        problem = ""
        if place.in_archive:
            problem = "inside an archive; unpack it"
        elif not place.source.is_named:
            problem = "inside a folder; name it instead of the folder, or give it with --labels"
        elif place.source.is_listed:
            problem = "that another list names; expected files of sequences"
        elif place.shown == "-" or not os.path.isfile(place.shown):
            problem = "from a pipe; give it as a file"  # its labels need another reading
        if problem:
            raise InputError(f"this is a list of files {problem}", path=place.shown)
        folder = os.path.dirname(place.shown)
        files: dict[str, None] = {}
        cells = chain.from_iterable(block[0] for block in table.rows([column]))
        for number, cell in enumerate(cells, 1):
            file = os.path.join(folder, cell.strip())
            if file not in files and not os.path.isfile(file):
                found = printable(cell.strip())
                message = f"found '{found}'; expected a file, relative to the folder of this table"
                raise InputError(message, path=place.shown, record=number)
            files[file] = None
        return list(files)


def read_sources(
    paths: Sequence[str], *, labels: Path | None = None, ranks: tuple[str, ...] | None = None
) -> SourceReader:
    """Labelled records of files in any of the formats that training data come in.

    Parameters
    ----------
    paths: files and folders; ``-`` is standard input.  Format and compression (gzip, BGZF, bzip2, xz, zstd)
        are told by content, file by file.  Of a folder all files below it are read, in the order of their
        paths, whose names have the ending of a format.  A table with a column of files but none of sequences
        stands for these files (relative to its folder), and tells their labels.  Members of zip archives
        are read in the order of the archive.
    labels: table for :func:`wyrcli.labels.read_labels`, by record or by file.  With it, what headers,
        features and companion files tell of labels is not looked at; tables of sequences keep their own
        columns.  None: labels are told by headers (:func:`wyrcli.labels.taxid_in_header`), by ``db_xref``
        in GenBank files, by ``X_species_picked.txt`` beside BERTax's ``X_fragments.json``, or by columns.
    ranks: None: labels are taxids.  Else they are taxon names, from one column per rank.

    A table of labels beyond 64 MB is not kept as a whole: the inputs are then read once for their names
    before, unless one of them is a pipe.

    Raises
    ------
    InputError: at once for inputs named twice or missing their other half; else while reading, at the first
        thing that is not as it should be; the records before it were given out.
    OSError: a file cannot be opened or read.
    """
    inputs = _expand(paths, labels)
    if labels is None:
        return SourceReader(inputs, labels=None, ranks=ranks)
    wanted: Collection[str] | None = None
    if os.path.isfile(labels) and os.path.getsize(labels) > _LARGE_LABELS_BYTES:
        first_reading = SourceReader(inputs, labels=_NoLabels(), ranks=ranks)
        if first_reading.total_bytes is not None:
            wanted = {record.name for record in first_reading}
    return SourceReader(inputs, labels=read_labels(labels, ranks=ranks, wanted=wanted), ranks=ranks)
