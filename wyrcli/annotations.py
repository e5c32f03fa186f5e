"""What is known of records: the features of GenBank flat files, GFF3 and BED, as intervals by type.

Intervals are 0-based half-open bp on the record, whichever way round the file counts.  Strands are not
looked at: a read may come from either, and so may a gene.
"""

from __future__ import annotations

import io
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import InputError, counted, printable
from wyrcli.genbank import read_features
from wyrcli.sequences import DamagedError, decompress, open_binary
from wyrcli.streams import buffered, peek

__all__ = ["WHOLE_RECORD", "Annotations", "describe_unknown", "merge_intervals", "read_annotations"]

WHOLE_RECORD = frozenset(("source", "region", "chromosome", "contig", "scaffold", "supercontig"))
"""Types that say what a record is, and cover all of it: they are left out."""

_MOST_TYPES = 200
_LISTED = 12  # types that a message names
_GFF_PLACE = re.compile(rb"(?:[^\t\n]*\t){3}\d+\t\d+\t[^\t\n]*\t[-+.?]\t")


class _Feature(NamedTuple):
    record: str
    type: str
    start: int
    stop: int


class Annotations:
    """Features of records by type.

    Parameters
    ----------
    types: in the order of their names; the rows of :meth:`cover`.
    records: names of all records that the files tell of, those without any feature included.
    counts: by type, the features (of a joined one: its parts) that were read.
    unplaced: features whose location could not be used.
    """

    def __init__(
        self,
        intervals: dict[str, dict[str, NDArray[np.int64]]],
        records: set[str],
        counts: Counter[str],
        unplaced: int = 0,
    ) -> None:
        self._intervals = intervals  # by type, then by record; merged
        self.types = tuple(sorted(intervals))
        self.records = records
        self.counts = counts
        self.unplaced = unplaced

    def cover(self, record: str, start: int, stop: int) -> NDArray[np.bool_]:
        """Which bases of a window, [start, stop) of a record, are in features: bool (types, stop - start)."""
        inside = np.zeros((len(self.types), stop - start), np.bool_)
        for row, kind in enumerate(self.types):
            own = self._intervals[kind].get(record)
            if own is not None:
                first = int(np.searchsorted(own[:, 1], start, side="right"))
                last = int(np.searchsorted(own[:, 0], stop, side="left"))
                for a, b in own[first:last].tolist():
                    inside[row, max(a - start, 0) : b - start] = True
        return inside


def merge_intervals(intervals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Intervals (n, 2) in order, overlapping and touching ones joined.

    >>> merge_intervals(np.array([[5, 9], [0, 3], [2, 4]])).tolist()
    [[0, 4], [5, 9]]
    """
    if len(intervals) == 0:
        return intervals.reshape(0, 2)
    ordered = intervals[np.lexsort((intervals[:, 1], intervals[:, 0]))]
    reach = np.maximum.accumulate(ordered[:, 1])
    first = np.flatnonzero(np.append(True, ordered[1:, 0] > reach[:-1]))
    return np.stack([ordered[first, 0], reach[np.append(first[1:], len(ordered)) - 1]], axis=1)


def read_annotations(paths: Sequence[str], types: Sequence[str] = ()) -> Annotations:
    """The features of some files, plain or compressed; each format is known by its content.

    ``types``: keep only these (upper and lower case are different); all but :data:`WHOLE_RECORD` if empty.

    Raises InputError for what is none of the formats, for a place that is no interval, for a type that no
    file has, and for so many types that they must be names.
    """
    places: dict[tuple[str, str], array[int]] = {}
    records: set[str] = set()
    counts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    unplaced = 0
    for path in paths:
        n_before = len(records)
        for found in _read_file(path):
            if isinstance(found, int):
                unplaced += found
            elif isinstance(found, str):
                records.add(found)
            else:
                records.add(found.record)
                seen[found.type] += 1
                if found.type in types or (not types and found.type not in WHOLE_RECORD):
                    counts[found.type] += 1
                    places.setdefault((found.type, found.record), array("q")).extend(found[2:])
                    if len(counts) > _MOST_TYPES:
                        message = (
                            f"more than {_MOST_TYPES} types of features; names? Choose some with --types"
                        )
                        raise InputError(message, path=path)
        if len(records) == n_before and len(paths) == 1:
            raise InputError("there is no feature; expected GenBank, GFF3 or BED", path=path)
    missing = [kind for kind in types if kind not in counts]
    if missing:
        listed = ", ".join(printable(kind, limit=30) for kind, _ in seen.most_common(_LISTED))
        raise InputError(f"no feature has the type '{printable(missing[0])}'; the most frequent: {listed}")
    intervals: dict[str, dict[str, NDArray[np.int64]]] = {}
    for (kind, record), numbers in places.items():
        own = np.frombuffer(numbers, np.int64).reshape(-1, 2)
        intervals.setdefault(kind, {})[record] = merge_intervals(own)
    return Annotations(intervals, records, counts, unplaced)


def _read_file(path: str) -> Iterator[_Feature | str | int]:
    """Features, names of records, and numbers of features that have no place."""
    try:
        with open_binary(path) as file:
            start, pieces = peek(decompress(file))
            head = start.lstrip(b"\xef\xbb\xbf \t\r\n")
            if head.startswith(b"LOCUS "):
                for record in read_features(path, pieces):
                    yield record.name
                    yield record.unplaced
                    for kind, begin, stop in record.features:
                        yield _Feature(record.name, kind, begin, stop)
                return
            lines = io.TextIOWrapper(buffered(pieces), encoding="utf-8-sig", errors="replace")
            rows = (line for line in head.split(b"\n") if line.strip() and not line.startswith(b"#"))
            if head.startswith(b"##gff-version") or _GFF_PLACE.match(next(rows, b"")):
                yield from _read_gff(path, lines)
            else:
                yield from _read_bed(path, lines)
    except DamagedError as error:
        raise InputError(str(error), path=path) from None


def _read_gff(path: str, lines: Iterator[str]) -> Iterator[_Feature | str]:
    """Features count from 1 and include their ends.  One that passes the end of a circle begins again at 0,
    if ``##sequence-region`` tells where that is."""
    ends: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.startswith(("##FASTA", ">")):
            return
        if line.startswith("##sequence-region"):
            words = line.split()
            if len(words) == 4 and words[3].isdecimal():
                ends[unquote(words[1])] = int(words[3])
                yield unquote(words[1])
            continue
        if line.startswith("#") or not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        try:
            record, kind, start, stop = unquote(fields[0]), fields[2], int(fields[3]) - 1, int(fields[4])
        except (IndexError, ValueError):
            found = printable(line.strip(), limit=40)
            raise InputError(
                f"found '{found}'; expected GFF3: 9 columns, start and end in the fourth and fifth",
                path=path,
                line=number,
            ) from None
        _check(path, number, start, stop, "1 <= start <= end")
        end = ends.get(record, stop)
        if kind not in WHOLE_RECORD and stop > end:
            if start < end:
                yield _Feature(record, kind, start, end)
            start, stop = max(start - end, 0), stop - end
        yield _Feature(record, kind, start, stop)


def _read_bed(path: str, lines: Iterator[str]) -> Iterator[_Feature]:
    """The type is in the fourth column; without one, all are called like the file."""
    name = PurePath(path).name.split(".")[0] or "feature"
    for number, line in enumerate(lines, 1):
        text = line.rstrip()
        fields = text.split("\t") if "\t" in text else text.split()
        if not fields or text.startswith("#"):
            continue
        try:
            start, stop = int(fields[1]), int(fields[2])
        except (IndexError, ValueError):
            if text.startswith(("track", "browser")):
                continue
            found = printable(text, limit=40)
            raise InputError(
                f"found '{found}'; expected GenBank, GFF3, or BED: name, start and end, whole numbers",
                path=path,
                line=number,
            ) from None
        _check(path, number, start, stop, "0 <= start <= end")
        kind = fields[3].strip() if len(fields) > 3 else ""
        yield _Feature(fields[0], kind or name, start, stop)


def _check(path: str, line: int, start: int, stop: int, expected: str) -> None:
    if not 0 <= start <= stop:
        raise InputError(f"found a feature {start} to {stop}; expected {expected}", path=path, line=line)


def describe_unknown(windows: Sequence[str], annotations: Annotations) -> str:
    """One sentence on records of windows that the annotation does not know; '' if it knows all.

    Raises InputError if it knows none: then the names are not the same names.
    """
    names = dict.fromkeys(windows)
    unknown = [name for name in names if name not in annotations.records]
    if not unknown:
        return ""
    if len(unknown) == len(names):
        theirs = printable(min(annotations.records, default=""), limit=40)
        raise InputError(
            f"the features are of none of the {counted(len(names), 'record')} of the windows: "
            f"'{theirs}' there, '{printable(unknown[0], limit=40)}' here"
        )
    return (
        f"{len(unknown):,} of {counted(len(names), 'record')} of the windows, such as "
        f"'{printable(unknown[0], limit=40)}', are not in the files of features; left out there"
    )
