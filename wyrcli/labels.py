"""What tables, header lines and names say of a record: its taxid or taxa, its genome, its split.

One row speaks of one record, known by its name, or of all records of one file, known by the end of its path
(``genomic.fna``, ``GCF_1/genomic.fna``) or by the assembly accession with which its base name starts.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import compress, count
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wyrcli.errors import InputError, printable
from wyrcli.tables import Table, open_table
from wyrcli.taxonomy import canonical_rank

__all__ = [
    "SPLIT_NAMES",
    "Columns",
    "Entry",
    "Label",
    "Labels",
    "find_columns",
    "genome_in_name",
    "parse_entry",
    "read_labels",
    "split_in_name",
    "taxid_in_header",
]

Label = int | tuple[str, ...]
"""A taxid; or, where a table names the taxa itself, one name per asked rank ('' where it has none)."""

SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""The project's word for a split by what a table may call it, in lower case."""

_TAXID_COLUMNS = ("taxid", "tax_id", "taxon_id")
_VERSIONED = "accession.version"  # NCBI's accession2taxid has the accession without version beside it
_NAME_COLUMNS = ("name", "id", _VERSIONED, "accession", "read_id", "sequence_id", "seqid")
_FILE_COLUMNS = ("file", "filename", "path")
_ASSEMBLY = "assembly_accession"
_GENOME_COLUMNS = ("genome", "assembly", _ASSEMBLY, "group")

_NO_TAXON = frozenset({"", "unknown", "na", "n/a", "nan", "none", "null"})

# 18 digits: longer ones are no taxids, and would not fit into 64 bits.
_TAXID = re.compile(r"[0-9]{1,18}")
_KRAKEN = re.compile(r"(?:^|[|\s])kraken:taxid\|([0-9]{1,18})(?=\||\s|$)")
_BERTAX = re.compile(r"([0-9]{1,18})\s+[0-9]+")
_KRAKEN_PART = re.compile(r"\|?kraken:taxid\|[0-9]+\|?")
_WGS_CONTIG = re.compile(r"((?:NZ_)?(?:[A-Z]{4}|[A-Z]{6})[0-9]{2})[0-9]{6,}(?:\.[0-9]+)?")
_VERSION = re.compile(r"\.[0-9]+\Z")
_ASSEMBLY_ACCESSION = re.compile(r"GC[AF]_[0-9]+\.[0-9]+")


class Entry(NamedTuple):
    """What a table says of a record or a file.

    ``label`` is None in a row without taxid or without any rank: that counts as no label.
    ``genome`` names what the sequence is a part of, ``split`` is a value of SPLIT_NAMES; None: not told.
    """

    label: Label | None
    genome: str | None
    split: str | None


@dataclass
class Labels:
    """Entries by record name, and by file: the end of its path, or its assembly accession.

    ``is_whole``: no row was left out, and each should speak of something that is there.
    """

    by_name: Mapping[str, Entry]
    by_file: Mapping[str, Entry]
    is_whole: bool = True
    _used: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def find(self, name: str, file: str) -> tuple[Entry | None, bool]:
        """The entry of a record (None: there is none), and whether it was found by the file.

        Looked up in this order: the name; the name without a version such as ``.1`` at its end; the file by
        as much of the end of its path as a row tells; the assembly accession with which its name starts.

        >>> labels = Labels({"NC_1": Entry(562, None, None)}, {"GCF_1.2": Entry(None, "g", "test")})
        >>> labels.find("NC_1.3", "a.fna")
        (Entry(label=562, genome=None, split=None), False)
        >>> labels.find("read", "some/where/GCF_1.2_x.fna.gz")
        (Entry(label=None, genome='g', split='test'), True)
        """
        key = name if name in self.by_name else _without_version(name)
        if (entry := self.by_name.get(key)) is not None:
            if self.is_whole:
                self._used.add(key)
            return entry, False
        for key in _file_keys(file):
            if (entry := self.by_file.get(key)) is not None:
                if self.is_whole:
                    self._used.add(f"/{key}")  # apart from the names
                return entry, True
        return None, False

    def __len__(self) -> int:
        return len(self.by_name) + len(self.by_file)

    def count_unused(self) -> int:
        """Of how many names and files nothing was found so far; 0 if that is no wonder."""
        return len(self) - len(self._used) if self.is_whole else 0


class Columns(NamedTuple):
    """The columns of a table by what they mean, spelled as in the table; None: there is none.

    ``ranks``: the column of each asked rank, in order; empty if none was asked.
    """

    sequence: str | None
    taxid: str | None
    name: str | None
    file: str | None
    genome: str | None
    split: str | None
    ranks: tuple[str, ...]


def find_columns(
    columns: Sequence[str], ranks: tuple[str, ...] | None, path: str, *, is_text: bool = False
) -> Columns:
    """Which column means what; upper and lower case are the same.

    Parameters
    ----------
    columns: of a :class:`~wyrcli.tables.Table`.
    ranks: ranks that need a column; ``domain`` and ``superkingdom`` are one rank.  None: no rank is asked.
    path: shown in errors.
    is_text: the sequences are texts, and their column may be called so.

    Raises InputError: a rank has no column, or two columns mean the same.
    """
    lower = [column.lower() for column in columns]

    def first(*names: str) -> str | None:
        name = next((name for name in names if name in lower), None)
        if name is None:
            return None
        if lower.count(name) > 1:
            raise InputError(f"{lower.count(name)} columns are named '{name}'; expected one", path=path)
        return columns[lower.index(name)]

    def of_rank(rank: str) -> str:
        same = [name for name in lower if canonical_rank(name) == canonical_rank(rank.lower())]
        column = first(rank.lower(), *same[:1])
        if column is None:
            raise InputError(
                f"found the columns {_listed(columns)}; expected one for each of the ranks "
                f"{_listed(ranks or ())}, and '{printable(rank)}' has none",
                path=path,
            )
        if rank.lower() not in lower and len(same) > 1:
            raise InputError(f"the columns {_listed(same)} are one rank; expected one of them", path=path)
        return column

    return Columns(
        sequence=first(
            *(["text"] if is_text else []), "sequence", "seq", *(["x"] if "tax_id" in lower else [])
        ),
        taxid=first(*_TAXID_COLUMNS),
        name=first(*_NAME_COLUMNS),
        file=first(*_FILE_COLUMNS),
        genome=first(*_GENOME_COLUMNS),
        split=first("split"),
        ranks=tuple(map(of_rank, ranks or ())),
    )


def read_labels(
    path: Path, *, ranks: tuple[str, ...] | None = None, wanted: Collection[str] | None = None
) -> Labels:
    """Read a table of labels: CSV, TSV or Parquet with a header (see :mod:`wyrcli.tables`).

    The key of a row is its name, if it has one: beside it, a file says where the record lies.  Else it is
    its file, with the folders that are told, or in a table like NCBI's assembly_summary.txt its assembly
    accession.  In a table without files an accession is a name; in NCBI's accession2taxid tables each row
    has two keys, the accession with and without its version.

    Parameters
    ----------
    path: the table; see :func:`find_columns` for its columns, of which others than these are not read.
    ranks: None: the label is the taxid.  Else the label is the names in the columns of these ranks, where
        words such as ``unknown`` and ``NA`` stand for none.
    wanted: names that will be looked up; rows with other names are left out, so that a table of any size
        can be read.  None: all rows are kept.  Rows that speak of files are always kept.

    Raises
    ------
    InputError: columns are missing; a taxid that is no number; an unknown split; two rows with one key that
        differ; whatever :meth:`Table.rows <wyrcli.tables.Table.rows>` refuses.
    OSError: the file cannot be opened or read.
    """
    by_name: dict[str, Entry] = {}
    by_file: dict[str, Entry] = {}
    with open_table(str(path)) as table:
        columns = find_columns(table.columns, ranks, table.path)
        names, file = _key_columns(table, columns)
        told = columns.ranks if ranks else tuple(filter(None, [columns.taxid]))
        if not told or not (names or file):
            label = "" if ranks else "'taxid', and "
            raise InputError(
                f"found the columns {_listed(table.columns)}; expected {label}'name' or 'file'",
                path=table.path,
            )
        for record, row in _read_rows(table, names, file, told, columns, wanted):
            try:
                entry = parse_entry(row.label, row.genome, row.split, not ranks)
                if any(row.names):
                    for column, key in zip(names, row.names, strict=True):
                        if key:
                            _put(by_name, column, key, entry)
                elif row.file:
                    _put(by_file, file, _file_key(row.file), entry)
            except ValueError as error:
                raise InputError(str(error), path=table.path, record=record) from None
        # NCBI's tables speak of everything there is.
        is_whole = wanted is None and not any(
            column.lower() in (_VERSIONED, "accession", _ASSEMBLY) for column in (*names, file or "")
        )
    return Labels(by_name, by_file, is_whole)


class _Row(NamedTuple):
    """The cells of a row that are read; '' where there is no such column."""

    names: tuple[str, ...]
    file: str
    label: tuple[str, ...]
    genome: str
    split: str


def _key_columns(table: Table, columns: Columns) -> tuple[list[str], str | None]:
    """The columns with names of records, and the column that tells the file."""
    names = [columns.name] if columns.name else []
    file = columns.file
    if names and names[0].lower() in (_VERSIONED, "accession"):
        # Beside a file, an accession is one of many in it; in NCBI's accession2taxid there are two.
        names = [] if file else [c for c in table.columns if c.lower() in (_VERSIONED, "accession")]
    if not (names or file) and columns.genome and columns.genome.lower() == _ASSEMBLY:
        file = columns.genome
    return names, file


def _read_rows(
    table: Table,
    names: Sequence[str],
    file: str | None,
    label: Sequence[str],
    columns: Columns,
    wanted: Collection[str] | None,
) -> Iterator[tuple[int, _Row]]:
    """Rows that may be kept, each with its number, **from 1**.  Cells are stripped."""
    asked = [column for column in (*names, file, *label, columns.genome, columns.split) if column]
    # The empty name belongs to rows that speak of a file.
    bare = {"", *(bare for name in wanted or () if (bare := _without_version(name)) != name)}
    n_rows = 0
    for block in table.rows(asked):
        cells = dict(zip(asked, block, strict=True))
        length = len(block[0])
        nothing = [""] * length
        by_column = [list(map(str.strip, cells[column])) for column in names] or [nothing]
        flags = [True] * length
        if wanted is not None:
            flags = [name in wanted or name in bare for name in by_column[0]]
            for other in by_column[1:]:
                flags = list(map(operator.or_, flags, (name in wanted or name in bare for name in other)))
        rows = zip(
            count(n_rows + 1),
            zip(*by_column, strict=True),
            cells[file] if file else nothing,
            zip(*(cells[column] for column in label), strict=True),
            cells[columns.genome] if columns.genome else nothing,
            cells[columns.split] if columns.split else nothing,
            strict=False,
        )
        for record, keys, in_file, told, genome, split in compress(rows, flags):
            yield record, _Row(keys, in_file.strip(), told, genome, split)
        n_rows += length


# Rows of one taxon mostly stand together: they then share one entry, which saves memory as well.
@lru_cache(maxsize=1 << 16)
def parse_entry(label: tuple[str, ...], genome: str, split: str, is_taxid: bool) -> Entry:
    """An entry from its cells.  Raises ValueError."""
    known: Label | None
    label = tuple(map(str.strip, label))
    if not is_taxid:
        taxa = tuple("" if name.lower() in _NO_TAXON else name for name in label)
        known = taxa if any(taxa) else None
    elif not label[0]:
        known = None
    elif _TAXID.fullmatch(label[0]):
        known = int(label[0])
    else:
        raise ValueError(f"taxid is '{printable(label[0])}'; expected a number")
    split = split.strip()
    if split and split.lower() not in SPLIT_NAMES:
        raise ValueError(f"split is '{printable(split)}'; expected one of {', '.join(SPLIT_NAMES)}")
    return Entry(known, genome.strip() or None, SPLIT_NAMES.get(split.lower()))


def _put(entries: dict[str, Entry], column: str | None, key: str, entry: Entry) -> None:
    """Note an entry.  Raises ValueError if there is another for this key."""
    before = entries.setdefault(key, entry)
    if before != entry:
        raise ValueError(
            f"{printable(column or '')} '{printable(key)}' has {_describe(entry)} here "
            f"and {_describe(before)} above"
        )


def _describe(entry: Entry) -> str:
    if entry.label is None:
        parts = ["no label"]
    elif isinstance(entry.label, int):
        parts = [f"taxid {entry.label}"]
    else:
        parts = [f"taxa {printable(';'.join(entry.label))}"]
    parts += [f"genome {printable(entry.genome)}"] if entry.genome else []
    parts += [f"split {entry.split}"] if entry.split else []
    return ", ".join(parts)


def _without_version(name: str) -> str:
    """
    >>> _without_version("NC_000913.3"), _without_version("NC_000913")
    ('NC_000913', 'NC_000913')
    """
    return _VERSION.sub("", name)


def _file_key(cell: str) -> str:
    """What a table calls a file, without what says nothing of the file's own place.

    >>> _file_key("./GCF_1//genomic.fna"), _file_key("../a.fna"), _file_key("/data/a.fna")
    ('GCF_1/genomic.fna', 'a.fna', 'data/a.fna')
    """
    parts = PurePosixPath(os.path.normpath(cell)).parts
    return "/".join(part for part in parts if part not in ("/", "//", "..", "."))


# All records of a file ask for it.
@lru_cache(maxsize=64)
def _file_keys(file: str) -> tuple[str, ...]:
    """The keys under which a table may know a file, the one that tells most first.

    >>> _file_keys("x/GCF_1.2_y.fna")
    ('x/GCF_1.2_y.fna', 'GCF_1.2_y.fna', 'GCF_1.2')
    """
    parts = _file_key(file).split("/")
    accession = _ASSEMBLY_ACCESSION.match(parts[-1])
    endings = ("/".join(parts[i:]) for i in range(len(parts)))
    return (*endings, *([accession[0]] if accession else []))


def _listed(columns: Iterable[str]) -> str:
    return printable(", ".join(columns), limit=300)


def taxid_in_header(header: str) -> int | None:
    """The taxid that a header line tells: ``kraken:taxid|N``, or BERTax's ``TAXID INDEX``.

    >>> taxid_in_header("contig1|kraken:taxid|562 E. coli"), taxid_in_header("562 7"), taxid_in_header("562")
    (562, 562, None)
    """
    match = _KRAKEN.search(header) or _BERTAX.fullmatch(header.strip())
    return int(match[1]) if match else None


def split_in_name(base: str) -> str | None:
    """The split that a file's name tells: one of its words does, and no other tells another.

    >>> split_in_name("bertax_test.tsv"), split_in_name("latest.fa"), split_in_name("train_test.csv")
    ('test', None, None)
    """
    words = re.split(r"[_.-]", base.lower())
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def genome_in_name(name: str) -> str:
    """The WGS project that a record named so is a part of; '' if the name tells none.

    >>> genome_in_name("NZ_ABCD01000012.1|kraken:taxid|562"), genome_in_name("NC_000913.3")
    ('NZ_ABCD01', '')
    """
    match = _WGS_CONTIG.fullmatch(_KRAKEN_PART.sub("", name))
    return match[1] if match else ""
