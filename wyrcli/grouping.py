"""What counts as one genome, where nothing but the names of records, or not even those, tell.

Names repeat: ``contig_1`` is in every assembly.  So a record is known by its file and its name, and where
that is not enough by its number in the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os.path import basename
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from wyrcli.sources import RecordKind, SourceRecord
from wyrcli.splitting import key_of
from wyrcli.windowing import Records

__all__ = ["CROWDED", "KINDS", "UNITS", "GroupBy", "Groups", "complete_groups", "group_of"]

GroupBy = Literal["genome", "record", "file", "taxid"]

KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
"""In the order of the numbers in :class:`wyrcli.windowing.Records`."""
_RECORD, _, _NAMELESS = range(len(KINDS))

UNITS = ("genome", "file", "record", "record")
"""What a group is, by its number in :class:`Groups`: known as a genome, a whole file, one record."""
_FILE, _SINGLE = 1, 2
CROWDED = 3
"""The number of one record of several in its file."""


class Groups(NamedTuple):
    """Records with their groups, and what each one's group is: int8 (N,), a number of :data:`UNITS`."""

    records: Records
    units: NDArray[np.int8]


def group_of(record: SourceRecord, group: GroupBy) -> str:
    """What a record is a part of; '' for :func:`complete_groups`, if only its name can tell."""
    if group == "file":
        return record.file
    if group == "taxid":
        return str(record.label) if isinstance(record.label, int) else " / ".join(record.label or ())
    return record.genome if group == "genome" else ""


def complete_groups(records: Records, files: Sequence[str], group: GroupBy) -> Groups:
    """Give a group to all records that have none; ``files`` are what ``records.files`` stands for.

    For ``genome``: the file, if there are several files, and all records of this one, more than one, have
    the same label and no group; else the records of one name in the file, but nameless rows one by one.
    For ``record``: the record.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    units = np.zeros(len(records), np.int8)
    alone = records.group_keys == 0
    if not alone.any():
        return Groups(records, units)
    n_in_file = np.bincount(records.files, minlength=len(files))
    units[alone] = _SINGLE
    units[alone & (records.kinds == _RECORD) & (n_in_file[records.files] > 1)] = CROWDED
    if group == "genome":
        units[_are_genomes(records, alone, n_in_file)[records.files]] = _FILE

    shared = Counter(map(basename, files))
    shown = np.array([file if shared[basename(file)] > 1 else basename(file) for file in files], object)
    own = np.full(len(records), "", object)  # of groups that are not called like the record
    is_file = units == _FILE
    own[is_file] = shown[records.files[is_file]]
    rest = np.flatnonzero(alone & ~is_file)
    is_nameless = records.kinds[rest] == _NAMELESS
    _name(own, records, rest[is_nameless], np.array(files, object))
    named = rest[~is_nameless]
    repeated = named[_repeat(records, named, across_files=group == "genome")]
    _name(own, records, repeated, shown)
    if group == "record":
        own[repeated] += np.array([f" ({number})" for number in records.numbers[repeated]], object)

    is_own = own != ""
    keys = np.where(alone, records.name_keys, records.group_keys)
    keys[is_own] = [key_of(name) for name in own[is_own]]
    groups = pc.if_else(pa.array(alone), records.names, records.groups)
    groups = pc.if_else(pa.array(is_own), pa.array(own, pa.large_string()), groups)
    return Groups(replace(records, groups=groups, group_keys=keys), units)


def _name(
    own: NDArray[np.object_], records: Records, rows: NDArray[np.int64], files: NDArray[np.object_]
) -> None:
    names = records.names.take(rows).to_pylist()
    own[rows] = [f"{file}: {name}" for file, name in zip(files[records.files[rows]], names, strict=True)]


def _are_genomes(
    records: Records, alone: NDArray[np.bool_], n_in_file: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """bool (files,): of which files all records are parts of one genome."""
    of_genome = alone & (records.kinds == _RECORD)
    n_such = np.bincount(records.files, weights=of_genome, minlength=len(n_in_file))
    lowest = np.full(len(n_in_file), np.iinfo(np.int32).max)
    highest = np.full(len(n_in_file), -1)
    np.minimum.at(lowest, records.files, records.labels)
    np.maximum.at(highest, records.files, records.labels)
    several = np.count_nonzero(n_in_file) > 1
    found: NDArray[np.bool_] = several & (n_in_file > 1) & (n_such == n_in_file) & (lowest == highest)
    return found


def _repeat(records: Records, rows: NDArray[np.int64], *, across_files: bool) -> NDArray[np.bool_]:
    """Which of these records share their name with another one, or with one in another file."""
    _, name, n = np.unique(records.name_keys[rows], return_inverse=True, return_counts=True)
    if not across_files:
        repeats: NDArray[np.bool_] = n[name] > 1
        return repeats
    in_files = np.unique(np.stack([name, records.files[rows]], axis=1), axis=0)
    repeats = np.bincount(in_files[:, 0], minlength=len(n))[name] > 1
    return repeats
