"""Labelled sequences to a dataset: taxids become lineages, records become windows, windows are split.

The stages, in order:

    records -> labelled records -> windows -> without N and duplicates -> at most N per taxon -> splits

Whatever is left out on the way is counted by reason.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from wyrcli.dataset import SPLITS, DatasetWriter, LabelledWindow
from wyrcli.errors import InputError, TaxonomyError, WyrError, printable
from wyrcli.ncbi import NcbiTaxonomy, Taxon
from wyrcli.outputs import check_new_directory
from wyrcli.sequences import normalise, read_records
from wyrcli.taxonomy import Taxonomy, canonical_rank

__all__ = ["Labels", "PreparationCounts", "prepare", "read_labels", "taxid_in_header"]

_KRAKEN = re.compile(r"(?:^|[|\s])kraken:taxid\|(\d+)(?=\||\s|$)")
_BERTAX = re.compile(r"(\d+)\s+\d+")
_UNRANKED = Taxon(0, "unknown")


@dataclass
class PreparationCounts:
    """What became of the input.

    ``records_read == records_kept + sum(records_dropped.values())``; a kept record gave at least one
    window before ``max_per_taxon`` was applied.  ``windows``: per split.  ``classes``: per rank.
    ``untrained``: per rank, classes without a window in the training split, which nobody can learn.
    """

    records_read: int = 0
    records_kept: int = 0
    records_dropped: Counter[str] = field(default_factory=Counter)
    merged_taxids: int = 0
    windows_dropped: Counter[str] = field(default_factory=Counter)
    windows: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    untrained: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For dataset.json."""
        return {
            "records": {
                "read": self.records_read,
                "kept": self.records_kept,
                "dropped": dict(sorted(self.records_dropped.items())),
                "with_merged_taxid": self.merged_taxids,
            },
            "windows_dropped": dict(sorted(self.windows_dropped.items())),
            "classes": self.classes,
            "classes_without_training_window": self.untrained,
        }


class Labels(NamedTuple):
    """Taxids by record name and by the base name of the file."""

    by_name: Mapping[str, int]
    by_file: Mapping[str, int]

    def find(self, name: str, file: str) -> int | None:
        """The taxid of a record: that of its name, else that of its file."""
        return self.by_name.get(name, self.by_file.get(file))


class _Candidate(NamedTuple):
    """A window that may be kept; ``number`` is its place in the order of reading."""

    number: int
    name: str
    start: int
    stop: int
    group: str
    sequence: str
    lineage: tuple[Taxon, ...]


def read_labels(path: Path) -> Labels:
    """Read a table of taxids: TSV or CSV with a header, a column ``taxid``, and ``name`` or ``file``.

    Other columns are ignored, rows without a taxid skipped.  Files are known by their base name.

    Raises InputError: no such columns, a taxid that is no number, or two taxids for one name.
    """
    by_name: dict[str, int] = {}
    by_file: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = "\t" if "\t" in header else ","
            # A quotation mark means nothing in a TSV, where names may hold one.
            quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            parsed = next(csv.reader([header], delimiter=delimiter, quoting=quoting), [])
            columns = [column.strip().lstrip("#") for column in parsed]
            if "taxid" not in columns or not {"name", "file"} & set(columns):
                found = printable(", ".join(columns))
                raise InputError(
                    f"found the columns {found}; expected 'taxid', and 'name' or 'file'",
                    path=str(path),
                    line=1,
                )
            rows = csv.reader(file, delimiter=delimiter, quoting=quoting)
            for cells in rows:
                row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
                line = rows.line_num + 1
                text = row.get("taxid", "")
                if not text:
                    continue
                if not (text.isascii() and text.isdigit()):
                    message = f"taxid is '{printable(text)}'; expected a number"
                    raise InputError(message, path=str(path), line=line)
                # Beside a name, a file says where the record lies, not what the whole file is.
                if name := row.get("name", ""):
                    column, key, known = "name", name, by_name
                else:
                    column, key, known = "file", Path(row.get("file", "")).name, by_file
                if key and known.setdefault(key, int(text)) != int(text):
                    raise InputError(
                        f"{column} '{printable(key)}' has taxid {text} here and {known[key]} above",
                        path=str(path),
                        line=line,
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a table: {error}", path=str(path)) from None
    return Labels(by_name, by_file)


def taxid_in_header(header: str) -> int | None:
    """The taxid that a header line tells: ``kraken:taxid|N``, or BERTax's ``TAXID INDEX``.

    >>> taxid_in_header("contig1|kraken:taxid|562 E. coli"), taxid_in_header("562 7"), taxid_in_header("562")
    (562, 562, None)
    """
    match = _KRAKEN.search(header) or _BERTAX.fullmatch(header.strip())
    return int(match[1]) if match else None


def prepare(
    inputs: Sequence[str],
    *,
    taxdump: Path,
    output: Path,
    labels: Path | None = None,
    ranks: Sequence[str] = ("superkingdom", "phylum", "genus"),
    window_bp: int = 1500,
    stride: int | None = None,
    min_bp: int = 200,
    max_per_taxon: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    split_by: Literal["record", "file"] = "record",
    seed: int = 0,
    drop_unranked: bool = True,
    cache_dir: Path | None = None,
) -> PreparationCounts:
    """Write the dataset directory ``output`` (see :mod:`wyrcli.dataset`), whole or not at all.

    Parameters
    ----------
    inputs: FASTA and FASTQ files; ``-`` is standard input.
    taxdump: NCBI taxonomy, a folder with \\*.dmp files or a taxdump.tar.gz.
    labels: table for :func:`read_labels`.  With it the headers are not looked at; without it each header
        must tell the taxid (:func:`taxid_in_header`).
    ranks: from the widest to the narrowest.
    window_bp: longest window.  Windows start every ``stride`` bp (default: window_bp) until one reaches
        the end of the record; shorter ones, at the end or of short records, are kept from ``min_bp`` on.
    max_per_taxon: at most this many windows per taxon of the narrowest rank, drawn at random among all
        of them, so that the splits keep their shares on average.
    validation, test: share of the groups, drawn by a hash of ``seed`` and the group's name.
    split_by: what is never divided between splits: a ``record`` (known by its name, or by name and
        ordinal where a name repeats) or a ``file``.
    drop_unranked: leave out records whose lineage lacks one of the ranks; otherwise the class there is
        "unknown", with taxid 0.
    cache_dir: for :meth:`wyrcli.ncbi.NcbiTaxonomy.open`.

    Windows that are N by more than half, and windows equal to an earlier one, are left out.  Memory grows
    with the windows kept.

    Raises
    ------
    InputError: a file cannot be read as what it should be.
    WyrError: an option is out of range, ``output`` has content, or no window is left.
    """
    ranks = tuple(canonical_rank(rank) for rank in ranks)
    stride = window_bp if stride is None else stride
    _check_options(inputs, ranks, window_bp, stride, min_bp, max_per_taxon, validation, test, seed)
    check_new_directory(output)
    table = None if labels is None else read_labels(labels)
    counts = PreparationCounts()
    with NcbiTaxonomy.open(taxdump, cache_dir) as ncbi:
        source = ncbi.source
        lineages = _Lineages(ncbi, ranks, drop_unranked, counts)
        candidates = _read_windows(
            inputs,
            table,
            lineages,
            counts,
            window_bp=window_bp,
            stride=stride,
            min_bp=min_bp,
            split_by=split_by,
        )
        kept = _draw(candidates, max_per_taxon, seed, counts)
    if not kept:
        reasons = counts.records_dropped or counts.windows_dropped
        told = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
        raise WyrError(f"no window is left of {counts.records_read:,} records ({told or 'none was read'})")

    taxonomy, class_of = _build_taxonomy(kept, ranks, source)
    seen: dict[str, set[tuple[int, int]]] = {split: set() for split in SPLITS}
    with DatasetWriter.create(output, taxonomy, window_bp=window_bp) as writer:
        for candidate in kept:
            split = _choose_split(candidate.group, seed, validation, test)
            classes = tuple(class_of[r][taxon] for r, taxon in enumerate(candidate.lineage))
            seen[split].update(enumerate(classes))
            writer.write(split, LabelledWindow(*candidate[1:6], classes))
        counts.windows = dict(writer.sizes)
        counts.classes = dict(zip(ranks, taxonomy.sizes, strict=True))
        counts.untrained = {
            rank: sum((r, c) not in seen["train"] for c in range(taxonomy.sizes[r]))
            for r, rank in enumerate(ranks)
        }
        writer.info = {
            "seed": seed,
            "stride": stride,
            "min_bp": min_bp,
            "max_per_taxon": max_per_taxon,
            "validation": validation,
            "test": test,
            "split_by": split_by,
            "drop_unranked": drop_unranked,
            "inputs": list(inputs),
            "labels": None if labels is None else str(labels),
            **counts.as_dict(),
        }
    return counts


def _check_options(
    inputs: Sequence[str],
    ranks: Sequence[str],
    window_bp: int,
    stride: int,
    min_bp: int,
    max_per_taxon: int | None,
    validation: float,
    test: float,
    seed: int,
) -> None:
    if not inputs:
        raise WyrError("no input file")
    for path, n in Counter(inputs).items():
        if n > 1:
            raise WyrError(f"{printable(path)} is named {n} times")
    if not ranks or len(set(ranks)) != len(ranks):
        raise TaxonomyError(f"ranks are '{', '.join(ranks)}'; expected at least one, each once")
    if window_bp < 1 or stride < 1 or min_bp < 1:
        raise WyrError("window, stride and shortest window must be at least 1 bp")
    if min_bp > window_bp:
        raise WyrError(f"the shortest window ({min_bp} bp) is longer than the window ({window_bp} bp)")
    if max_per_taxon is not None and max_per_taxon < 1:
        raise WyrError(f"{max_per_taxon} windows per taxon were asked for; at least 1 is needed")
    if not (0 <= validation and 0 <= test and validation + test <= 1):
        # Nothing left for training is fine: a set that only examines a model that exists already.
        raise WyrError(f"shares of validation ({validation}) and test ({test}) add up to more than 1")
    if seed < 0:
        raise WyrError(f"seed is {seed}; it must not be negative")


class _Lineages:
    """Lineages by taxid; counts the records that get none by reason."""

    def __init__(
        self, ncbi: NcbiTaxonomy, ranks: Sequence[str], drop_unranked: bool, counts: PreparationCounts
    ) -> None:
        self._ncbi = ncbi
        self._ranks = ranks
        self._drop_unranked = drop_unranked
        self._counts = counts
        self._known: dict[int, tuple[str, tuple[Taxon, ...]]] = {}  # (reason or "", lineage)
        self._merged: set[int] = set()

    def find(self, taxid: int | None) -> tuple[Taxon, ...] | None:
        if taxid is None:
            self._counts.records_dropped["without taxid"] += 1
            return None
        if taxid not in self._known:
            self._known[taxid] = self._look_up(taxid)
        reason, lineage = self._known[taxid]
        if reason:
            self._counts.records_dropped[reason] += 1
            return None
        self._counts.merged_taxids += taxid in self._merged
        return lineage

    def _look_up(self, taxid: int) -> tuple[str, tuple[Taxon, ...]]:
        status = self._ncbi.status(taxid)
        if status == "merged":
            self._merged.add(taxid)
        found = self._ncbi.lineage(taxid, self._ranks)
        if found is None:
            return f"with {status} taxid", ()
        lineage = []
        for rank, taxon in zip(self._ranks, found, strict=True):
            if taxon is None and self._drop_unranked:
                return f"without {rank}", ()
            lineage.append(taxon or _UNRANKED)
        return "", tuple(lineage)


def _read_windows(
    inputs: Sequence[str],
    table: Labels | None,
    lineages: _Lineages,
    counts: PreparationCounts,
    *,
    window_bp: int,
    stride: int,
    min_bp: int,
    split_by: str,
) -> Iterator[_Candidate]:
    """All usable windows, in the order of reading."""
    base_names = Counter(Path(path).name for path in inputs)
    repeats: Counter[str] = Counter()
    seen: set[bytes] = set()
    number = 0
    for path in inputs:
        file = Path(path).name
        file_group = file if base_names[file] == 1 else path
        records = read_records([path])
        for record in records:
            counts.records_read += 1
            name = record.id
            if not name:
                raise records.error("the record has no name; expected one right after '>' or '@'")
            repeats[name] += 1
            taxid = taxid_in_header(record.name) if table is None else table.find(name, file)
            lineage = lineages.find(taxid)
            if lineage is None:
                continue
            try:
                sequence = normalise(record.sequence)
            except ValueError as error:
                raise records.error(str(error), name) from None
            if len(sequence) < min_bp:
                counts.records_dropped["too short"] += 1
                continue
            record_group = name if repeats[name] == 1 else f"{name}#{repeats[name]}"
            n_before = number
            for start, stop in _tile(len(sequence), window_bp, stride):
                piece = sequence[start:stop]
                if len(piece) < min_bp:
                    counts.windows_dropped["too short"] += 1
                    continue
                if 2 * piece.count("N") > len(piece):
                    counts.windows_dropped["more than half N"] += 1
                    continue
                digest = hashlib.blake2b(piece.encode(), digest_size=16).digest()
                if digest in seen:
                    counts.windows_dropped["duplicate"] += 1
                    continue
                seen.add(digest)
                group = file_group if split_by == "file" else record_group
                yield _Candidate(number, name, start, stop, group, piece, lineage)
                number += 1
            if number > n_before:
                counts.records_kept += 1
            else:
                counts.records_dropped["without usable window"] += 1


def _tile(length: int, window_bp: int, stride: int) -> Iterator[tuple[int, int]]:
    """Windows from the start on, until one reaches the end.

    >>> list(_tile(10, 4, 3)), list(_tile(3, 4, 4))
    ([(0, 4), (3, 7), (6, 10)], [(0, 3)])
    """
    for start in range(0, max(length - window_bp, 0) + stride, stride):
        if start < length:
            yield start, min(start + window_bp, length)


def _draw(
    candidates: Iterator[_Candidate], limit: int | None, seed: int, counts: PreparationCounts
) -> list[_Candidate]:
    """At most ``limit`` windows of each taxon of the narrowest rank, in the order of reading."""
    if limit is None:
        return list(candidates)
    # Reservoir sampling, with a generator for each taxon: what is drawn of one taxon does not depend on
    # what else is in the input.
    kept: dict[Taxon, list[_Candidate]] = {}
    offered: Counter[Taxon] = Counter()
    generators: dict[Taxon, np.random.Generator] = {}
    for candidate in candidates:
        taxon = candidate.lineage[-1]
        offered[taxon] += 1
        reservoir = kept.setdefault(taxon, [])
        if len(reservoir) < limit:
            reservoir.append(candidate)
            continue
        counts.windows_dropped["over the limit per taxon"] += 1
        if taxon not in generators:
            generators[taxon] = np.random.default_rng((seed, taxon.taxid))
        place = int(generators[taxon].integers(offered[taxon]))
        if place < limit:
            reservoir[place] = candidate
    return sorted((c for reservoir in kept.values() for c in reservoir), key=lambda c: c.number)


def _choose_split(group: str, seed: int, validation: float, test: float) -> str:
    """A split for a group; the same group always gets the same one."""
    digest = hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < test:
        return "test"
    return "validation" if share < test + validation else "train"


def _build_taxonomy(
    kept: Sequence[_Candidate], ranks: Sequence[str], source: dict[str, str]
) -> tuple[Taxonomy, list[dict[Taxon, int]]]:
    """The taxonomy of the windows, taxa sorted by name, and per rank the class of each taxon."""
    names: list[tuple[str, ...]] = []
    taxids: list[tuple[int, ...]] = []
    class_of: list[dict[Taxon, int]] = []
    for taxa in zip(*{candidate.lineage for candidate in kept}, strict=True):
        shared = {name for name, n in Counter(taxon.name for taxon in set(taxa)).items() if n > 1}

        # Two taxa may have one name: Bacillus is a bacterium and a stick insect.
        named = {t: f"{t.name} ({t.taxid})" if t.name in shared else t.name for t in set(taxa)}
        ordered = sorted(named, key=named.__getitem__)
        names.append(tuple(named[taxon] for taxon in ordered))
        taxids.append(tuple(taxon.taxid for taxon in ordered))
        class_of.append({taxon: i for i, taxon in enumerate(ordered)})
    return Taxonomy(tuple(ranks), tuple(names), tuple(taxids), dict(source)), class_of
