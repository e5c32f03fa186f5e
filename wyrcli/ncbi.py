"""NCBI taxonomy: from a taxid to the taxa of its lineage.

ete3 answers; it is imported here and nowhere else, because it has to be fenced in.  Building its
database prints thousands of lines to stdout and writes files into the current directory, so that is done
in a process of its own in a private directory.  It would download a taxonomy when it misses its
database, so it is never called without one.  It does not know deleted taxids, and its rank queries are
silent about merged ones, so both are settled here before it is asked.
"""

from __future__ import annotations

import errno
import hashlib
import io
import lzma
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple

from wyrcli.errors import InputError, TaxonomyError, printable
from wyrcli.taxonomy import canonical_rank

__all__ = ["NcbiTaxonomy", "TaxidStatus", "Taxon", "default_cache_dir"]

TaxidStatus = Literal["current", "merged", "deleted", "unknown"]

_PARTS = ("nodes.dmp", "names.dmp", "merged.dmp", "delnodes.dmp")
_NEEDED = _PARTS[:2]
_CACHE_FORMAT = 1
_ETE3_FORMAT = 2  # ete3's DB_VERSION
_EXPECTED = "expected a taxdump.tar.gz, a taxdmp.zip or a folder with nodes.dmp and names.dmp"
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OverflowError,  # a time of change that is no time
    RuntimeError,  # of zipfile: encrypted, or (NotImplementedError) packed in a way that it does not know
)
_ZIP = (b"PK\3\4", b"PK\5\6")  # of a zip, and of one without a file in it

# NCBI moved the top of the viruses in March 2025.  The realms were clades before, and Viruses itself, a
# superkingdom before and an acellular root since, had no rank for some weeks.
_RANKS_OF_2025 = {
    10239: "superkingdom",  # Viruses
    2559587: "realm",  # Riboviria
    2731341: "realm",  # Duplodnaviria
    2731342: "realm",  # Monodnaviria
    2732004: "realm",  # Varidnaviria
    2840022: "realm",  # Adnaviria
    2842242: "realm",  # Ribozyviria
    3412574: "realm",  # Singelaviria
}

# From the widest to the narrowest; others that NCBI has (clade, strain, ...) have no certain place.
_USUAL_ORDER = """
    superkingdom realm kingdom subkingdom superphylum phylum subphylum infraphylum superclass class subclass
    infraclass cohort subcohort superorder order suborder infraorder parvorder superfamily family subfamily
    tribe subtribe genus subgenus section subsection series species subspecies
""".split()

# Run with the working directory of the build; stdout and stderr are caught.
_BUILD = """
import sys, warnings
warnings.simplefilter("ignore")
from ete3.ncbi_taxonomy.ncbiquery import NCBITaxa
NCBITaxa(dbfile=sys.argv[1], taxdump_file=sys.argv[2]).db.close()
"""


class Taxon(NamedTuple):
    """A node of the taxonomy: its taxid and its scientific name."""

    taxid: int
    name: str


def default_cache_dir() -> Path | None:
    """Where built taxonomies are kept: ``$WYR_CACHE``, else ``wyr`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    None for a user without a home.
    """
    if own := os.environ.get("WYR_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "wyr"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "wyr" if os.path.isabs(home) else None


class NcbiTaxonomy:
    """Lineages from an NCBI taxonomy dump; made by :meth:`open`.

    It belongs to the thread and the process that opened it (SQLite's rule), and is a context manager.

    ``source`` says where it came from: ``path`` (the name alone), ``sha256`` (that of the output of
    ``sha256sum nodes.dmp names.dmp merged.dmp delnodes.dmp``) and ``date`` of nodes.dmp.
    """

    def __init__(self, database: Path, source: dict[str, str], temporary: Path | None = None) -> None:
        self.source = source
        self._temporary = temporary
        self._taxa = _open_ete3(database)
        self._db: sqlite3.Connection = self._taxa.db
        self._cached_lineage = lru_cache(maxsize=100_000)(self._find_lineage)

    @classmethod
    def open(cls, taxdump: Path, cache_dir: Path | None = None) -> NcbiTaxonomy:
        """Open a folder with nodes.dmp and names.dmp (merged.dmp, delnodes.dmp), or an archive of them.

        The archive is NCBI's taxdump.tar.gz, taxdmp.zip or one of their new_taxdump, or another tar in a
        compression that Python knows; it is known by its content, not by its name.

        The first time, a database is built (seconds; a minute and a half and 3 GB of memory for all of
        NCBI) and kept in ``cache_dir`` under the checksum of the dump.  Where that cannot be written it
        is built in a temporary directory, every time.  Several runs may do so at once.

        Raises
        ------
        InputError: ``taxdump`` is absent, or not a taxonomy dump.
        """
        source, checksum = _describe(taxdump)
        cache = cache_dir if cache_dir is not None else default_cache_dir()
        if cache is not None:
            database = cache / f"taxonomy-{_CACHE_FORMAT}-{checksum[:32]}.sqlite"
            if _is_complete(database):
                return cls(database, source)
            with suppress(OSError):
                cache.mkdir(parents=True, exist_ok=True)
                private = Path(tempfile.mkdtemp(prefix=".build-", dir=cache))
                return cls(_build_into(database, taxdump, private), source)
        private = Path(tempfile.mkdtemp(prefix="wyr-taxonomy-"))
        try:
            return cls(_build(taxdump, private), source, temporary=private)
        except BaseException:
            shutil.rmtree(private, ignore_errors=True)
            raise

    def close(self) -> None:
        """Close the database, and remove it if no cache could keep it."""
        self._db.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> NcbiTaxonomy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_ranks(self, ranks: Sequence[str]) -> None:
        """Raise TaxonomyError for a rank that no taxon has, and unless they go from wide to narrow."""
        for rank in ranks:
            if not self._has_rank(rank):
                rows = self._db.execute("SELECT DISTINCT rank FROM species").fetchall()
                found = {canonical_rank(own) for (own,) in rows}
                found.update(filter(self._has_rank, ["realm"]))  # of old dumps, where it is a clade
                known = [own for own in _USUAL_ORDER if own in found]
                listed = ", ".join([*known, *sorted(found.difference(known, ["no rank"]))])
                raise TaxonomyError(f"the taxonomy has no rank '{printable(rank)}'; it has {listed}")
        usual = [rank for rank in map(canonical_rank, ranks) if rank in _USUAL_ORDER]
        ordered = sorted(usual, key=_USUAL_ORDER.index)
        if usual != ordered:
            found_order, expected = ", ".join(usual), ", ".join(ordered)
            raise TaxonomyError(f"the ranks are {found_order}; expected the widest first: {expected}")

    def _has_rank(self, rank: str) -> bool:
        """Whether any taxon has it; a rank that is in use is found at once."""
        rank = canonical_rank(rank)
        names = [
            own for own in {rank, "domain", "acellular root"} if canonical_rank(own) == rank != "no rank"
        ]
        taxids = [taxid for taxid, own in _RANKS_OF_2025.items() if own == rank]
        places = (", ".join("?" * len(values)) for values in (names, taxids))
        query = "SELECT 1 FROM species WHERE rank IN ({}) OR taxid IN ({}) LIMIT 1".format(*places)
        return self._db.execute(query, [*names, *taxids]).fetchone() is not None

    def resolve(self, taxid: int) -> tuple[int | None, TaxidStatus]:
        """The taxid in use today for ``taxid`` (None if there is none), and what became of ``taxid``."""
        if self._find("SELECT taxid FROM species WHERE taxid = ?", taxid) is not None:
            return taxid, "current"
        new = self._find("SELECT taxid_new FROM merged WHERE taxid_old = ?", taxid)
        if new is not None and self._find("SELECT taxid FROM species WHERE taxid = ?", new) is not None:
            return new, "merged"
        if self._find("SELECT taxid FROM delnodes WHERE taxid = ?", taxid) is not None:
            return None, "deleted"
        return None, "unknown"

    def status(self, taxid: int) -> TaxidStatus:
        """Whether a taxid is current, merged into another one, deleted, or not known at all."""
        return self.resolve(taxid)[1]

    def lineage(self, taxid: int, ranks: Sequence[str]) -> tuple[Taxon | None, ...] | None:
        """The taxon at each of ``ranks`` above or at ``taxid``, None where it has none.

        None altogether if the taxid is deleted or unknown: :meth:`status` says which.  A merged taxid is
        followed.  Ranks are compared by :func:`wyrcli.taxonomy.canonical_rank`, so a dump with domains
        gives what one with superkingdoms gives; the realms of viruses are realms in older dumps, too.
        """
        return self._cached_lineage(taxid, tuple(ranks))

    def _find_lineage(self, taxid: int, ranks: tuple[str, ...]) -> tuple[Taxon | None, ...] | None:
        current, _ = self.resolve(taxid)
        if current is None:
            return None
        track = self._taxa.get_lineage(current)
        rank_of = self._taxa.get_rank(track)
        at_rank: dict[str, int] = {}
        for node in track:
            rank = canonical_rank(rank_of[node])
            if rank in ("clade", "no rank"):
                rank = _RANKS_OF_2025.get(node, rank)
            at_rank.setdefault(rank, node)
        found = [at_rank.get(canonical_rank(rank)) for rank in ranks]
        names = self._taxa.get_taxid_translator([node for node in found if node is not None])
        return tuple(None if node is None else Taxon(node, str(names[node])) for node in found)

    def _find(self, query: str, taxid: int) -> int | None:
        if not 0 < taxid < 2**63:  # beyond SQLite's integers
            return None
        row = self._db.execute(query, (taxid,)).fetchone()
        return None if row is None else int(row[0])


def _open_ete3(database: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it imports cgi
            from ete3.ncbi_taxonomy.ncbiquery import NCBITaxa
    except ModuleNotFoundError as error:
        hint = "; on Python 3.13 and later it needs the package 'legacy-cgi'" if error.name == "cgi" else ""
        raise TaxonomyError(f"ete3, which reads the taxonomy, cannot be imported: {error}{hint}") from None
    return NCBITaxa(dbfile=str(database), update=False)


# ---------------------------------------------------------------- building


class _Part(NamedTuple):
    """One file of a dump; ``stream`` is to be read before the next part is asked for."""

    name: str
    size: int
    date: str
    stream: IO[bytes]


def _read_parts(taxdump: Path) -> Iterator[_Part]:
    """Those of the dump's four files that are there, in no certain order."""
    if taxdump.is_dir():
        for name in _PARTS:
            if (taxdump / name).is_file():
                with open(taxdump / name, "rb") as file:
                    stat = os.fstat(file.fileno())
                    yield _Part(name, stat.st_size, _date(stat.st_mtime), file)
        return
    with open(taxdump, "rb") as file:
        is_zip = file.read(4) in _ZIP
    if is_zip:
        with zipfile.ZipFile(taxdump) as archive:
            for info in archive.infolist():
                name = info.filename.removeprefix("./")
                if name in _PARTS:
                    with archive.open(info) as stream:
                        yield _Part(name, info.file_size, "{:04}-{:02}-{:02}".format(*info.date_time), stream)
        return
    with tarfile.open(taxdump) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            content = tar.extractfile(member) if name in _PARTS else None
            if content is not None:
                yield _Part(name, member.size, _date(member.mtime), content)
        # The checksum of a compressed stream is at its end, which tarfile has no reason to read.
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):
            pass


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _describe(taxdump: Path) -> tuple[dict[str, str], str]:
    """Source of the dump, and its checksum: the same for a folder and for an archive of it."""
    if not taxdump.exists():
        raise InputError(f"not found; {_EXPECTED}", path=str(taxdump))
    digests = {name: hashlib.sha256() for name in _PARTS}
    dates: dict[str, str] = {}
    try:
        for part in _read_parts(taxdump):
            dates[part.name] = part.date
            while block := part.stream.read(1 << 20):
                digests[part.name].update(block)
    except _DAMAGED as error:
        what = printable(str(error))
        if what.startswith("file could not be opened"):  # and then tarfile lists what it tried
            what = "not a taxdump (folder, tar, zip)"
        raise InputError(f"{what}; {_EXPECTED}", path=str(taxdump)) from None
    except OSError as error:
        # bz2 and gzip call damage so, without a number; a zip may ask for bytes before its beginning, and
        # a time of change may be more than the calendar of the system holds.
        if error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
            raise
        raise InputError(f"a damaged archive; {_EXPECTED}", path=str(taxdump)) from None
    for name in _NEEDED:
        if name not in dates:
            raise InputError(f"no {name} in it; expected an NCBI taxonomy dump", path=str(taxdump))
    listing = "".join(f"{digests[name].hexdigest()}  {name}\n" for name in _PARTS)
    checksum = hashlib.sha256(listing.encode()).hexdigest()
    name = Path(os.path.abspath(taxdump)).name
    return {"path": name, "sha256": checksum, "date": dates["nodes.dmp"]}, checksum


def _build_into(database: Path, taxdump: Path, private: Path) -> Path:
    """Build in ``private``, which is removed, and put the result in its place."""
    try:
        # Whoever comes second replaces the first one's file by an equal one; open readers keep theirs.
        os.replace(_build(taxdump, private), database)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return database


def _build(taxdump: Path, private: Path) -> Path:
    """ete3's database of the dump, with a table of the deleted taxids, made in the directory ``private``."""
    deleted: list[tuple[int]] = []
    with tarfile.open(private / "taxdump.tar", "w") as tar:
        missing = set(_PARTS)
        for part in _read_parts(taxdump):
            missing.discard(part.name)
            stream = part.stream
            if part.name == "delnodes.dmp":
                content = stream.read()
                stream = io.BytesIO(content)
                deleted = [(taxid,) for taxid in _read_deleted(content, taxdump)]
            entry = tarfile.TarInfo(part.name)
            entry.size = part.size
            tar.addfile(entry, stream)
        for name in missing:  # ete3 fails without merged.dmp
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    # UTF-8 mode: ete3 passes names through text files in the encoding of the locale.
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", _BUILD, "taxa.sqlite", "taxdump.tar"],
        cwd=private,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    database = private / "taxa.sqlite"
    if done.returncode != 0 or not database.exists():
        lines = done.stderr.decode(errors="replace").replace("\r", "\n").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        raise InputError(f"not an NCBI taxonomy dump: ete3 says {printable(last)}", path=str(taxdump))
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("CREATE TABLE delnodes (taxid INTEGER PRIMARY KEY)")
        db.executemany("INSERT OR IGNORE INTO delnodes VALUES (?)", deleted)
        # ete3 leaves this one out; without it each look-up reads the whole table.
        db.execute("CREATE INDEX merged_old ON merged (taxid_old)")
        db.execute("CREATE TABLE wyr (format INTEGER)")
        db.execute("INSERT INTO wyr VALUES (?)", (_CACHE_FORMAT,))
    return database


def _read_deleted(content: bytes, taxdump: Path) -> Iterator[int]:
    for number, line in enumerate(content.splitlines(), 1):
        field = line.split(b"|")[0].strip()
        if not field.isdigit():
            raise InputError("expected a taxid", path=str(taxdump / "delnodes.dmp"), line=number)
        yield int(field)


def _read_only(database: Path) -> str:
    return database.absolute().as_uri() + "?mode=ro"


def _is_complete(database: Path) -> bool:
    """Whether a finished database is there: the mark in it is what a build writes last."""
    if not database.is_file():
        return False
    with suppress(sqlite3.Error), closing(sqlite3.connect(_read_only(database), uri=True)) as db:
        formats = db.execute("SELECT wyr.format, stats.version FROM wyr, stats").fetchall()
        return formats == [(_CACHE_FORMAT, _ETE3_FORMAT)]
    return False
