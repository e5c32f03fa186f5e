"""Labelled sequences of any format, from files, folders, archives and pipes, as one stream of records.

    paths -> files -> bytes -> decompressed bytes -> format by content -> records with label and genome

What a file holds is told by its content: FASTA, FASTQ, GenBank flat file, BERTax's JSON, a table with a
column of sequences, a manifest (a table with a column of files), or a zip archive of these.  No stage
seeks or opens twice, so pipes work, except for zip and Parquet: both keep their index at the end.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol, cast

from wyrcli.alphabets import AlphabetName
from wyrcli.bertax import find_companion, is_companion, read_fragments, read_taxids, without_companions
from wyrcli.errors import InputError, printable
from wyrcli.genbank import read_genbank
from wyrcli.labels import (
    Columns,
    Entry,
    Label,
    Labels,
    find_columns,
    genome_in_name,
    parse_entry,
    read_labels,
    split_in_name,
    taxid_in_header,
)
from wyrcli.prefetching import prefetch
from wyrcli.sequences import DamagedError, RecordReader, decompress, describe_content, open_binary
from wyrcli.streams import BUFFER_BYTES, COMPRESSED, Stream, Watched, ZipMember, peek, zip_errors
from wyrcli.tables import Table, open_table

__all__ = ["RecordKind", "SourceFile", "SourceReader", "SourceRecord", "read_sources"]

_LARGE_LABELS_BYTES = 64 * 1024**2  # on disk; tables up to this size are kept as a whole
_PIECES_AHEAD = 4  # of at most 1 MB

_ENDINGS = "fa|fasta|fas|fsa|seq|gb|gbk|genbank|json|tsv|csv|parquet|zip"
_NUCLEOTIDE_FILE = re.compile(rf".*\.(?:{_ENDINGS}|fna|ffn|frn|dna|fq|fastq|gbff){COMPRESSED}", re.I)
# Most letters of nucleotides are amino acids, too: genomes beside proteins would be taken for such.
_PROTEIN_FILE = re.compile(rf".*\.(?:{_ENDINGS}|faa|mpfa){COMPRESSED}", re.I)
# What lies beside sequences in archives, and in the packages of NCBI datasets.
_DOCUMENTATION = re.compile(
    r"(?:readme|license|licence|citation|changelog)(?:\..*)?|dataset_catalog\.json"
    rf"|.*\.(?:md|txt|rst|jsonl|html|pdf|md5|sha256){COMPRESSED}",
    re.I,
)
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_PARQUET_MAGIC = b"PAR1"
_CONTROL_CODE = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_EXPECTED = (
    "FASTA ('>'), FASTQ ('@'), GenBank ('LOCUS'), BERTax's JSON list ('['), a table (CSV, TSV, Parquet) with "
    "a column of sequences or of files, or a zip archive of these"
)

_NOT_TOLD = Entry(None, None, None)


# ---------------------------------------------------------------- what is given out


RecordKind = Literal["record", "row", "nameless row"]
"""Of a file of sequences; of a table, or of BERTax's JSON."""


class SourceRecord(NamedTuple):
    """One sequence and what its source tells of it.

    ``name``: of FASTA and FASTQ up to the first white space, of GenBank accession and version, of tables
    the cell of the name column or else ``row12``, of BERTax's JSON ``fragment12``; **counted from 1**.
    ``sequence``: letters as in the file; alphabet and case are left to the caller.
    ``label``: None if nothing tells it.
    ``genome``: records with the same one belong together; ``''``: nothing but the name tells.
    ``file``: as the user named it; of a member of an archive ``data.zip/inner/name.fa``.
    ``split``: ``train``, ``validation`` or ``test`` where the source tells it.
    ``is_listed``: False if a table of labels was asked, and speaks neither of the record nor of the file.
    """

    name: str
    sequence: str
    label: Label | None
    genome: str
    file: str
    split: str | None
    kind: RecordKind = "record"
    is_listed: bool = True


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


def _expand(
    paths: Iterable[str], labels: Path | None, alphabet: AlphabetName
) -> tuple[list[_Input], list[str]]:
    """Folders as the files in them, without the table of labels; and the files that are left out."""
    table = None if labels is None else os.path.realpath(labels)
    pattern = _PROTEIN_FILE if alphabet == "protein" else _NUCLEOTIDE_FILE
    inputs: list[_Input] = []
    left_out: list[str] = []
    for path in paths:
        if path == "-" or not os.path.isdir(path):
            inputs.append(_Input(path))
            continue
        found = [name for name in _walk(path) if os.path.realpath(name) != table]
        files = [name for name in found if pattern.fullmatch(name) or is_companion(name)]
        if not files:
            such = "a.faa, b.fasta.gz, c.tsv" if alphabet == "protein" else "a.fna, b.gb.gz, c.tsv"
            raise InputError(
                f"found no file of sequences in this folder; expected names such as {such}", path=path
            )
        inputs += [_Input(name, is_named=False) for name in files]
        left_out += sorted(set(found).difference(files))
    return inputs, left_out


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
        self.split = split_in_name(os.path.basename(self.shown))
        # A table may know a file by folders above the one that the user is in.
        self.paths = {file: os.path.abspath(file) for file in self.files}


_Records = Generator[SourceRecord, None, str]
"""Records of one text; the return value is the name of its format."""


class SourceReader(Iterator[SourceRecord]):
    """The records of all inputs, one input after the other; made by :func:`read_sources`.

    ``files``: the files that were read to their end.  ``left_out``: files in folders that are not read, for
    their names.  ``bytes_read`` and ``total_bytes``: of the files as they lie on disk; the total is None if
    an input has no size, and grows where a manifest names files.  ``number``: that of the last record in
    its file, **from 1**.
    """

    def __init__(
        self,
        inputs: Sequence[_Input],
        *,
        labels: _Finder | None,
        ranks: tuple[str, ...] | None,
        is_text: bool = False,
        left_out: Sequence[str] = (),
    ) -> None:
        self.files: list[SourceFile] = []
        self.left_out = left_out
        self.bytes_read = 0
        self.total_bytes: int | None = 0
        self._labels = labels
        self._ranks = ranks
        self._is_text = is_text
        self._path: str | None = None
        self.number = 0
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
        return InputError(message, path=self._path, record=self.number, name=name)

    def count_unused_labels(self) -> tuple[int, int]:
        """Of how many names and files in the table of labels nothing was found, and how many there are."""
        if not isinstance(self._labels, Labels):
            return 0, 0
        return self._labels.count_unused(), len(self._labels)

    # ------------------------------------------------ files

    def _add(self, inputs: Sequence[_Input]) -> None:
        """Put inputs before those that wait.  Raises InputError where one is named again."""
        kept = set(without_companions([item.path for item in inputs]))
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
            self._path, self.number = item.path, 0
            try:
                yield from self._read_file(item)
            except DamagedError as error:
                record = error.record or self.number + 1
                raise InputError(str(error), path=self._path, record=record, line=error.line) from None
        self._path = None

    def _read_file(self, item: _Input) -> Generator[SourceRecord, None, None]:
        path = item.path
        records_before, bytes_before = self._n_records, self.bytes_read
        with open_binary(path) as raw:
            watched = Watched(raw, self._count_bytes)
            pieces = decompress(cast(BinaryIO, watched))
            head, pieces = peek(pieces)
            place = self._place(item)
            if not watched.start.startswith((*_ZIP_MAGIC, _PARQUET_MAGIC)):
                # Decompression and checksums let other threads run.
                with closing(prefetch(pieces, _PIECES_AHEAD)) as ahead:
                    kind = yield from self._read_text(place, head, ahead)
                    # Parsers read to the end, but documentation was only looked into: the hash is of the
                    # whole.
                    for _ in ahead:
                        pass
                size, digest = watched.size, watched.sha256()
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
                size = raw.tell()
                self.bytes_read = bytes_before + size
        self.files.append(SourceFile(path, kind, size, digest, self._n_records - records_before))

    def _count_bytes(self, n: int) -> None:
        self.bytes_read += n

    def _place(self, item: _Input) -> _Place:
        @contextmanager
        def open_companion(path: str) -> Iterator[Iterator[bytes]]:
            with open_binary(path) as raw:
                watched = Watched(raw)
                pieces = decompress(cast(BinaryIO, watched))
                yield pieces
            self.files.append(SourceFile(path, "BERTax taxids", watched.size, watched.sha256(), 0))

        return _Place(
            shown=item.path,
            files=(item.path,),
            labels=item.labels or self._labels,
            companion=find_companion(item.path, os.path.exists),
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
            with zip_errors():
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
                with zip_errors():
                    file = archive.open(by_name[name])
                with file:
                    yield decompress(cast(BinaryIO, ZipMember(cast(BinaryIO, file), report)))

            for name in without_companions(list(by_name), lambda name: f"{item.path}/{name}"):
                shown = f"{item.path}/{name}"
                self._path, self.number = shown, 0
                place = _Place(
                    shown=shown,
                    files=(shown, item.path),
                    labels=item.labels or self._labels,
                    companion=find_companion(name, by_name.__contains__),
                    open_other=open_member,
                    source=item,
                    is_optional=bool(_DOCUMENTATION.fullmatch(os.path.basename(name))),
                    in_archive=True,
                )
                with open_member(name) as pieces:
                    head, pieces = peek(pieces)
                    yield from self._read_text(place, head, pieces)
                    for _ in pieces:  # of documentation, too, the checksum must be right
                        pass
        self._path, self.number = item.path, 0
        return "zip"

    # ------------------------------------------------ formats

    def _read_text(self, place: _Place, head: bytes, pieces: Iterator[bytes]) -> _Records:
        """The records of a decompressed text that begins with ``head``."""
        start = head.lstrip()
        if not start:
            return "empty"
        if self._is_text and start.startswith((b">", b"@", b"LOCUS ")):
            # Their lines are joined without white space, and so the words would be.
            message = "FASTA, FASTQ and GenBank hold no texts; expected a table with a column 'text'"
            raise InputError(message, path=place.shown)
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
        self,
        place: _Place,
        name: str,
        sequence: str,
        label: Label | None,
        genome: str,
        kind: RecordKind = "record",
    ) -> SourceRecord:
        """A record; ``label`` and ``genome`` are what it tells itself, for where no table does."""
        if place.labels is None:
            return SourceRecord(name, sequence, label, genome, place.shown, place.split, kind)
        entry, own = self._look_up(place, name)
        return SourceRecord(
            name,
            sequence,
            entry.label,
            entry.genome or own or genome,
            place.shown,
            entry.split or place.split,
            kind,
            is_listed=entry is not _NOT_TOLD,
        )

    def _look_up(self, place: _Place, name: str) -> tuple[Entry, str]:
        """What the labels tell of a record, and the genome it belongs to if they know it by its file."""
        assert place.labels is not None
        for file in place.files:
            entry, by_file = place.labels.find(name, place.paths[file])
            if entry is not None:
                base = os.path.basename(file)
                return entry, "" if not by_file else base if self._base_names[base] == 1 else file
        return _NOT_TOLD, ""

    def _read_fastx(self, place: _Place, pieces: Iterator[bytes], kind: str) -> _Records:
        self._check_labels(place, kind, "the headers")
        reader = RecordReader.from_pieces(place.shown, pieces)
        asks_headers = place.labels is None
        for record in reader:
            self.number = reader.number
            name = record.id
            if not name:
                raise self.error("the record has no name; expected one right after '>' or '@'")
            label = taxid_in_header(record.name) if asks_headers else None
            # BERTax's headers have the taxid for a name: all that they tell of a genome, as in its JSON.
            genome = name if name == str(label) else genome_in_name(name)
            yield self._make(place, name, record.sequence, label, genome)
        return kind

    def _read_genbank(self, place: _Place, pieces: Iterator[bytes]) -> _Records:
        self._check_labels(place, "GenBank files", "the features")
        records = read_genbank(place.shown, pieces, asks_taxids=place.labels is None)
        for self.number, record in enumerate(records, 1):
            yield self._make(place, *record)
        return "GenBank"

    def _read_bertax(self, place: _Place, pieces: Iterator[bytes]) -> _Records:
        self._check_labels(place, "BERTax's JSON", "the taxids")
        taxids = None
        with ExitStack() as stack:
            if place.labels is None:
                if place.companion is None:
                    raise InputError(
                        "a list of sequences without their taxids; expected a name such as "
                        "'X_fragments.json' and beside it 'X_species_picked.txt' with one taxid per line, or "
                        "a table of labels",
                        path=place.shown,
                    )
                shown = f"{place.source.path}/{place.companion}" if place.in_archive else place.companion
                taxids = read_taxids(shown, stack.enter_context(place.open_other(place.companion)))
            fragments = read_fragments(place.shown, pieces, taxids, place.companion)
            for self.number, (sequence, taxid) in enumerate(fragments, 1):
                record = self._make(place, f"fragment{self.number}", sequence, taxid, "", "row")
                if not record.genome and isinstance(record.label, int):
                    record = record._replace(genome=f"taxid {record.label}")
                yield record
        return "BERTax JSON"

    # ------------------------------------------------ tables

    def _read_table(self, place: _Place, start: bytes, pieces: Iterator[bytes] | None) -> _Records:
        """The rows of a table, or no record of a manifest, whose files then are the next to be read.

        Parameters
        ----------
        start: first bytes, for errors.
        pieces: its text; None: a Parquet file, to be opened by its path.
        """
        stream = None if pieces is None else Stream(pieces)
        with ExitStack() as stack:
            try:
                file = None if stream is None else io.BufferedReader(stream, BUFFER_BYTES)
                table = stack.enter_context(open_table(place.shown, cast(BinaryIO | None, file)))
                columns = find_columns(table.columns, None, place.shown, is_text=self._is_text)
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
        wanted = "'text' or 'sequence'" if self._is_text else "'sequence'"
        message = f"found a table with the columns {found}; expected a column {wanted}"
        if not place.source.is_named:
            message += "; give a table of labels with --labels, or take it out of the folder"
        else:
            message += ", or 'file' for a list of files"
        raise InputError(message, path=place.shown)

    def _find_columns(self, place: _Place, table: Table) -> Columns:
        try:
            columns = find_columns(table.columns, self._ranks, place.shown, is_text=self._is_text)
        except InputError:
            if place.labels is None:
                raise
            # Then the labels tell.
            columns = find_columns(table.columns, None, place.shown, is_text=self._is_text)
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
                self.number += 1
                sequence, name = sequence.strip(), name.strip()
                try:
                    told = parse_entry(label, genome, split, is_taxid)
                except ValueError as error:
                    raise self.error(str(error), name) from None
                genome = told.genome or ""
                kind: RecordKind = "row" if name else "nameless row"
                name = name or f"row{self.number}"
                if of_label:
                    record = SourceRecord(name, sequence, told.label, genome, place.shown, place.split, kind)
                else:
                    record = self._make(place, name, sequence, None, genome, kind)
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
    paths: Sequence[str],
    *,
    labels: Path | None = None,
    ranks: tuple[str, ...] | None = None,
    alphabet: AlphabetName = "dna",
) -> SourceReader:
    """Labelled records of files in any of the formats that training data come in.

    Parameters
    ----------
    paths: files and folders; ``-`` is standard input.  Format and compression (gzip, BGZF, bzip2, xz, zstd)
        are told by content, file by file.  Of a folder all files below it are read, in the order of their
        paths, whose names have the ending of a format that holds the alphabet.  A table with a column of
        files but none of sequences stands for these files (relative to its folder), and tells their labels.
        Members of zip archives are read in the order of the archive.
    labels: table for :func:`wyrcli.labels.read_labels`, by record or by file.  With it, what headers,
        features and companion files tell of labels is not looked at; tables of sequences keep their own
        columns.  None: labels are told by headers (:func:`wyrcli.labels.taxid_in_header`), by ``db_xref``
        in GenBank files, by ``X_species_picked.txt`` beside BERTax's ``X_fragments.json``, or by columns.
    ranks: None: labels are taxids.  Else they are taxon names, from one column per rank.
    alphabet: which endings count in folders; and tables of texts may call their column ``text``.

    A table of labels beyond 64 MB is not kept as a whole: the inputs are then read once for their names
    before, unless one of them is a pipe.

    Raises
    ------
    InputError: at once for inputs named twice or missing their other half; else while reading, at the first
        thing that is not as it should be; the records before it were given out.
    OSError: a file cannot be opened or read.
    """
    inputs, left_out = _expand(paths, labels, alphabet)
    is_text = alphabet == "text"
    if labels is None:
        return SourceReader(inputs, labels=None, ranks=ranks, is_text=is_text, left_out=left_out)
    wanted: Collection[str] | None = None
    if os.path.isfile(labels) and os.path.getsize(labels) > _LARGE_LABELS_BYTES:
        first_reading = SourceReader(inputs, labels=_NoLabels(), ranks=ranks, is_text=is_text)
        if first_reading.total_bytes is not None:
            wanted = {record.name for record in first_reading}
    told = read_labels(labels, ranks=ranks, wanted=wanted)
    return SourceReader(inputs, labels=told, ranks=ranks, is_text=is_text, left_out=left_out)
