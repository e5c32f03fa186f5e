"""GenBank flat files, read with Biopython: the sequence of each record and what its features tell of it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

from wyrcli.errors import InputError, printable
from wyrcli.labels import genome_in_name
from wyrcli.sequences import DamagedError
from wyrcli.streams import buffered

__all__ = ["AnnotatedRecord", "GenBankRecord", "read_features", "read_genbank"]

_MALFORMED_LOCUS = "(?:Attempting to parse )?malformed locus line"  # upper and lower case are the same
_NO_LENGTH = re.compile(r"(LOCUS +\S+) (?:bp|aa) ")


class GenBankRecord(NamedTuple):
    """What is used of a record.

    ``name``: accession and version.  ``sequence``: ``''`` where the record only says of which others it is
    made.  ``genome``: what it is a part of; ``''``: nothing tells.
    """

    name: str
    sequence: str
    taxid: int | None
    genome: str


def read_genbank(path: str, pieces: Iterator[bytes], *, asks_taxids: bool) -> Iterator[GenBankRecord]:
    """The records of a text; ``path`` is for errors.

    ``asks_taxids``: whether anybody looks at the taxids; else what is wrong with them is no error.

    Raises InputError for what is no GenBank record, and where taxid or sequence cannot be told.
    """
    from Bio import BiopythonWarning, SeqIO

    # Names of authors may be in any encoding; nothing that is used here has letters beyond ASCII.
    lines = _Lines(path, io.TextIOWrapper(buffered(pieces), encoding="latin-1"))
    parse: Any = SeqIO.parse
    records = parse(lines, "genbank")
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", BiopythonWarning)
                # Prokka's long names push the columns of LOCUS out of place; sequence and features are whole.
                warnings.filterwarnings("ignore", _MALFORMED_LOCUS, BiopythonWarning)
                record = next(records, None)
        except (InputError, DamagedError, OSError, MemoryError):
            raise
        # Biopython meets a malformed record with whatever its code happens to run into.
        except Exception as error:
            what = printable(" ".join(str(error).split()), limit=200)
            raise lines.error(f"not a GenBank record: {what}") from None
        if record is None:
            return
        try:
            taxid = _taxid_of(record) if asks_taxids else None
            sequence = _sequence_of(record)
        except ValueError as error:
            raise InputError(str(error), path=path, record=lines.number, name=record.id) from None
        yield GenBankRecord(record.id, sequence, taxid, _genome_of(record))


class AnnotatedRecord(NamedTuple):
    """A record's name (accession and version) and its features: type, start and stop, 0-based half-open.

    The parts of a joined location (exons) are features of their own.  ``unplaced``: features that have no
    part on this record, or a location that Biopython cannot read.
    """

    name: str
    features: list[tuple[str, int, int]]
    unplaced: int


def read_features(path: str, pieces: Iterator[bytes]) -> Iterator[AnnotatedRecord]:
    """The features of each record of a text, all types; ``path`` is for errors.

    Raises InputError for what is no GenBank record.  An odd location costs that feature alone.
    """
    from Bio import BiopythonWarning, SeqIO

    lines = _Lines(path, io.TextIOWrapper(buffered(pieces), encoding="latin-1"), all_features=True)
    parse: Any = SeqIO.parse
    records = parse(lines, "genbank")
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BiopythonWarning)
                record = next(records, None)
        except (InputError, DamagedError, OSError, MemoryError):
            raise
        except Exception as error:
            what = printable(" ".join(str(error).split()), limit=200)
            raise lines.error(f"not a GenBank record: {what}") from None
        if record is None:
            return
        features, unplaced = [], 0
        for feature in record.features:
            parts = [] if feature.location is None else feature.location.parts
            places = [(int(part.start), int(part.end)) for part in parts if part.ref is None]
            unplaced += not places
            features += [(feature.type, start, stop) for start, stop in places]
        yield AnnotatedRecord(record.id, features, unplaced)


def _taxid_of(record: Any) -> int | None:
    """The taxid in the source features of a Biopython record.  Raises ValueError if there are several."""
    xrefs = (x for f in record.features if f.type == "source" for x in f.qualifiers.get("db_xref", ()))
    taxids = {int(x[6:]) for x in xrefs if x.startswith("taxon:") and x[6:].isdecimal()}
    if len(taxids) > 1:
        raise ValueError(f"found the taxids {', '.join(map(str, sorted(taxids)))}; expected one")
    return next(iter(taxids), None)


def _sequence_of(record: Any) -> str:
    """Raises ValueError if there is none, and no word of where it is."""
    if record.seq.defined:
        return str(record.seq)
    if record.annotations.keys() & {"contig", "wgs", "wgs_scafld", "tsa", "tls"}:
        return ""
    raise ValueError(f"found no sequence; expected {len(record.seq)} letters, as LOCUS tells")


def _genome_of(record: Any) -> str:
    """Its assembly, or else its BioSample, or else what its name tells."""
    links = (x for kind in ("Assembly:", "BioSample:") for x in record.dbxrefs if x.startswith(kind))
    return next(links, None) or genome_in_name(record.id)


class _Lines:
    """The lines of a GenBank file for Biopython; what it would pass over in silence is refused.

    Refused (InputError): text between records, a record without ``//`` at its end.
    Taken away, unless ``all_features``: features other than ``source``.  Who wants sequences does not ask for
    them, and a gene with an odd location is no reason to refuse a genome.
    ``number`` and ``name`` are those of the record that began last; the number counts **from 1**.
    """

    def __init__(self, path: str, text: TextIO, *, all_features: bool = False) -> None:
        self._path = path
        self._all_features = all_features
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
                # A name so long that the length runs into it: of neither is anything known then.
                line = f"{match[1]}\n" if (match := _NO_LENGTH.match(line)) else line
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
            self._keep = self._all_features or line[5:21].strip() == "source"
