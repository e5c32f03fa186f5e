"""Records as windows that a model can read: where they are cut, which are left out, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NoReturn, Protocol

import dnaio

from wyrcli.errors import InputError
from wyrcli.explanation import Window
from wyrcli.sequences import BLOCK, FAULTS, Fault, Located, Read, check_letters, translate

__all__ = [
    "RecordCounts",
    "Stretches",
    "check_overlap",
    "count_read",
    "find_fault",
    "is_duplicate",
    "overlapping_windows",
    "refuse",
    "skip_record",
    "split_windows",
    "window_borders",
]

KMER_BP = 6  # the tokenizer's k: a border between two windows must not cut a k-mer
DUPLICATE_SEARCH_LIMIT = 250_000  # names remembered, some 90 bytes each: memory stays bounded


@dataclass
class RecordCounts:
    """What became of the records: each one read is windowed or skipped.

    ``bases`` counts every record read, skipped ones too.  ``duplicate_names`` counts records whose name
    came before (by 64-bit hash, among the first DUPLICATE_SEARCH_LIMIT different names).
    ``windows_without_acgt`` counts windows left out of records that were windowed: N throughout.
    ``left_out`` counts what is no record of its own: secondary and supplementary alignments.  ``regions``
    says what became of the regions that were asked for.  ``renamed`` counts repeated names that were made
    different.  ``first_fault``: what was wrong with the first
    malformed record that was skipped.  ``warnings``: what else the user should know.
    """

    records: int = 0
    bases: int = 0
    windows: int = 0
    windowed: int = 0
    skipped: dict[str, int] = field(default_factory=lambda: {"empty": 0, "short": 0, "no_acgt": 0})
    windows_without_acgt: int = 0
    duplicate_names: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    regions: dict[str, int] = field(default_factory=dict)
    renamed: int = 0
    first_fault: str = ""
    warnings: list[str] = field(default_factory=list)

    def malformed(self) -> int:
        """How many records were skipped because something is wrong with them."""
        return sum(self.skipped.get(reason, 0) for reason in FAULTS)

    def accounted(self) -> bool:
        """Whether no record was lost: records == windowed + skipped."""
        return self.records == self.windowed + sum(self.skipped.values())

    def as_dict(self) -> dict[str, Any]:
        """The counts for a JSON report."""
        return {
            "records": self.records,
            "bases": self.bases,
            "records_windowed": self.windowed,
            "records_skipped": dict(self.skipped),
            "windows": self.windows,
            "windows_without_acgt": self.windows_without_acgt,
            "duplicate_names": self.duplicate_names,
            **({"alignments_left_out": dict(self.left_out)} if self.left_out else {}),
            **({"regions": dict(self.regions)} if self.regions else {}),
            **({"renamed": self.renamed} if self.renamed else {}),
            **({"first_fault": self.first_fault} if self.first_fault else {}),
        }


def window_borders(length: int, window_bp: int) -> list[int]:
    """Where to cut ``length`` bp: the fewest windows of at most ``window_bp`` that are nearly equal.

    The result starts with 0, ends with ``length``, and holds multiples of 6 between, so that no k-mer of
    the record's frame is cut.  Lengths differ by at most 6 bp, except for what is left over at the end.

    >>> window_borders(13, 12)
    [0, 6, 13]
    """
    if window_bp < KMER_BP:
        raise ValueError(f"a window needs at least {KMER_BP} bp, not {window_bp}")
    # All but the last window are whole k-mers, so they may be shorter than window_bp allows.
    whole_bp = window_bp - window_bp % KMER_BP
    n_windows = 1 + max(0, -(-(length - window_bp) // whole_bp))
    n_kmers = -(-length // KMER_BP)
    # Rounding down gives the last window the odd k-mer: only that one may be cut off or exceed whole_bp.
    return [i * n_kmers // n_windows * KMER_BP for i in range(n_windows)] + [length]


class Stretches(Protocol):
    """Which parts of a record are to be cut into windows."""

    def take(self, name: str, length: int, min_bp: int) -> list[tuple[int, int]] | None:
        """Half-open places in bp, in order, each at least ``min_bp``; None if none was asked for."""
        ...


def overlapping_windows(length: int, window_bp: int, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Half-open places of the fewest windows that cover ``length`` bp, each ``overlap`` bp on the next one.

    Cut as :func:`window_borders` does; without an overlap they tile.  No window reaches beyond the next.

    Raises ValueError: ``overlap`` is no multiple of 6 from 0 to a third of ``window_bp``.

    >>> list(overlapping_windows(30, 18, 6))
    [(0, 18), (12, 30)]
    """
    check_overlap(window_bp, overlap)
    if length <= window_bp:
        return iter([(0, length)])
    borders = window_borders(length - overlap, window_bp - overlap)
    return ((start, stop + overlap) for start, stop in pairwise(borders))


def check_overlap(window_bp: int, overlap: int) -> None:
    """Raise ValueError for windows that cannot be, or cannot have this overlap."""
    window_borders(0, window_bp)
    if overlap % KMER_BP or not 0 <= overlap <= window_bp // 3:
        raise ValueError(
            f"an overlap of {overlap} bp; expected a multiple of {KMER_BP} from 0 to "
            f"{window_bp // 3 // KMER_BP * KMER_BP}, a third of the window"
        )


def split_windows(
    records: Iterable[dnaio.SequenceRecord | Read],
    window_bp: int,
    counts: RecordCounts,
    *,
    min_bp: int = KMER_BP,
    on_skip: Callable[[int, str, int, str], None] | None = None,
    lenient: bool = False,
    mask_lower: bool = False,
    stretches: Stretches | None = None,
    overlap: int = 0,
    first: int = 0,
) -> Iterator[Window]:
    """Normalised windows that cover each record, in input order; without ``overlap`` they tile it.

    A window's letters are normalised when it is taken, so a chromosome is held once.

    Parameters
    ----------
    records: from :func:`read_records`, whose path and record number then go into errors; or any others.
    window_bp: longest window, at least 6.
    counts: updated while the windows are taken.
    min_bp: records shorter than this are skipped.
    on_skip: called as ``on_skip(record, name, length, reason)`` for each record without a window, with
        its ordinal in the whole input from 0, its length in bp, and the reason: empty, short, no_acgt,
        no_sequence, no_region, or one of :data:`FAULTS`.
    lenient: skip malformed records, instead of raising at the first.
    mask_lower: see :func:`normalise`.
    stretches: cut these parts of the records alone.
    overlap: bp of a window of a longer stretch that are the next one's too; see :func:`overlapping_windows`.
    first: ordinal of the first record.

    Raises
    ------
    InputError: a record is malformed: no name, or a character that is no nucleotide code.
    ValueError: ``window_bp`` is below 6, or ``overlap`` does not suit it.
    """
    check_overlap(window_bp, overlap)  # even where there is no record
    names: set[int] = set()
    ordinal = first - 1
    for record in records:
        ordinal += 1
        read = record if isinstance(record, Read) else Read.of(record)
        del record
        length = len(read.sequence)
        # Of most inputs most records are whole windows: their letters are looked at once.
        whole = _take_whole(read, mask_lower) if length <= window_bp and stretches is None else None
        fault = find_fault(records, ordinal, read, check_letters) if whole is None else None
        if fault is not None and not lenient:
            refuse(records, fault)
        count_read(counts, read, fault, names)
        parts: list[tuple[int, int]] = []
        reason: str | None
        if fault is not None:
            reason = fault.reason
        else:
            parts, reason = _choose_parts(read, whole, stretches, min_bp, mask_lower)
        if reason is not None:
            skip_record(counts, reason, on_skip, ordinal, read.name, length)
            continue
        counts.windowed += 1
        if whole is not None:
            counts.windows += 1
            yield Window(ordinal, read.name, 0, length, whole, read.source, read.qualities, length)
            continue
        for first, end in parts:
            for start, stop in overlapping_windows(end - first, window_bp, overlap):
                piece = translate(read.sequence[first + start : first + stop], mask_lower)
                if piece.strip("N"):
                    counts.windows += 1
                    place = first + start, first + stop
                    qualities = read.qualities[slice(*place)]
                    yield Window(ordinal, read.name, *place, piece, read.source, qualities, length)
                else:
                    counts.windows_without_acgt += 1
        del read  # while the next one is read: it may be a chromosome


def _take_whole(read: Read, mask_lower: bool) -> str | None:
    """The letters of a read that is one window, as the model reads them; None if it has a fault."""
    if read.fault is not None or not read.name:
        return None
    try:
        return translate(read.sequence, mask_lower)
    except ValueError:
        return None


def _choose_parts(
    read: Read, whole: str | None, stretches: Stretches | None, min_bp: int, mask_lower: bool
) -> tuple[list[tuple[int, int]], str | None]:
    """What of a read without a fault is cut into windows, and the reason if it is nothing.

    ``whole``: its letters as the model reads them, if they were looked at.
    """
    length = len(read.sequence)
    parts = [(0, length)]
    reason = None
    if not length:
        reason = "empty" if read.source is None else "no_sequence"
    elif length < min_bp:
        reason = "short"
    elif not (whole.strip("N") if whole is not None else _has_acgt(read.sequence, parts, mask_lower)):
        reason = "no_acgt"
    if stretches is not None:
        taken = stretches.take(read.name, length, min_bp)
        if reason is None and not taken:
            reason = "no_region" if taken is None else "short"
        elif reason is None and taken and not _has_acgt(read.sequence, taken, mask_lower):
            reason = "no_acgt"
        parts = taken or []
    return parts, reason


def skip_record(
    counts: RecordCounts,
    reason: str,
    on_skip: Callable[[int, str, int, str], None] | None,
    ordinal: int,
    name: str,
    length: int,
) -> None:
    """Count a record that has no window, and tell of it; see :func:`split_windows`."""
    counts.skipped[reason] = counts.skipped.get(reason, 0) + 1
    if on_skip is not None:
        on_skip(ordinal, name, length, reason)


def find_fault(
    records: object, ordinal: int, read: Read, check: Callable[[str], object], expected: str = "'>' or '@'"
) -> Fault | None:
    """What is wrong with a record, if anything.

    Parameters
    ----------
    records: where it came from; tells the place if it is :class:`Located`.
    ordinal: of the record, from 0, if the place is not known.
    check: raises ValueError at a letter that does not belong into the sequence.
    expected: what stands before a name.
    """
    if read.fault is not None:
        return read.fault
    if not read.name:
        reason = "no_name"
        message = f"the record has no name; expected one right after {expected}"
    else:
        try:
            check(read.sequence)
            return None
        except ValueError as error:
            reason, message = "bad_letters", str(error)
    if isinstance(records, Located):
        return Fault(reason, records.error(message, read.name))
    return Fault(reason, InputError(message, record=ordinal + 1, name=read.name))


def refuse(records: object, fault: Fault) -> NoReturn:
    """Close the file that the record is from, and raise its error."""
    if isinstance(records, Located):
        records.close()
    try:
        raise fault.error
    finally:
        del fault  # or the error would hold itself in a circle


def count_read(counts: RecordCounts, read: Read, fault: Fault | None, names: set[int]) -> None:
    """Count one more record; ``names`` are those that came before, see :func:`is_duplicate`."""
    counts.records += 1
    counts.bases += len(read.sequence)
    counts.duplicate_names += bool(read.name) and is_duplicate(read.name, names)
    if fault is not None and not counts.first_fault:
        counts.first_fault = str(fault.error)


def _has_acgt(sequence: str, parts: Iterable[tuple[int, int]], mask_lower: bool) -> bool:
    """Whether some part of a sequence is not N throughout."""
    blocks = (
        sequence[start : min(start + BLOCK, stop)]
        for first, stop in parts
        for start in range(first, stop, BLOCK)
    )
    return any(translate(block, mask_lower).strip("N") for block in blocks)


def is_duplicate(name: str, seen: set[int]) -> bool:
    """Whether a name was among the first so many that ``seen`` remembers; it is remembered too."""
    code = hash(name)
    if code in seen:
        return True
    if len(seen) < DUPLICATE_SEARCH_LIMIT:
        seen.add(code)
    return False
