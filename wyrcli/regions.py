"""Which parts of the records are to be explained, from a BED file."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from wyrcli.errors import InputError, counted, printable
from wyrcli.sequences import DamagedError, decompress, open_binary

__all__ = ["Regions", "read_regions"]

_MOST_NAMES = 3  # that a message lists


class Regions:
    """Intervals by the name of a record.

    They are held in memory, 24 bytes each; the sequences are not, and need no index.  Of each region the
    counts tell what became of it: ``given`` = ``taken`` + ``merged`` + ``short`` + ``beyond_end`` +
    ``unknown_name``.

    Parameters
    ----------
    path: where they are from, for errors.
    lenient: leave out regions that end beyond their record, instead of raising.
    """

    def __init__(self, path: str, *, lenient: bool = False) -> None:
        self._path = path
        self._lenient = lenient
        self._places: dict[str, array[int]] = {}  # start, stop, line, start, ...
        self._seen: set[str] = set()
        self.counts = dict.fromkeys(("given", "taken", "merged", "short", "beyond_end", "unknown_name"), 0)

    def add(self, name: str, start: int, stop: int, line: int) -> None:
        """One more region; ``line`` of the file, from 1."""
        self.counts["given"] += 1
        self._places.setdefault(name, array("q")).extend((start, stop, line))

    def take(self, name: str, length: int, min_bp: int) -> list[tuple[int, int]] | None:
        """The regions of a record, in order; overlapping ones become one, touching ones do not.

        Those shorter than ``min_bp`` are left out; None if there is none of this name inside the record.  A
        name that comes again has the same regions, and is not counted again.  Raises InputError if a region
        ends beyond the record, unless lenient.
        """
        numbers = self._places.get(name)
        if numbers is None:
            return None
        counts = dict.fromkeys(self.counts, 0)
        regions: list[tuple[int, int]] = []
        for start, stop, line in sorted(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)):
            if stop > length:
                if not self._lenient:
                    place = f"'{printable(name)}', which has {length} letters"
                    message = f"the region {start}-{stop} ends beyond {place}"
                    raise InputError(message, path=self._path, line=line)
                counts["beyond_end"] += 1
            elif stop - start < min_bp:
                counts["short"] += 1
            elif regions and start < regions[-1][1]:
                counts["merged"] += 1
                regions[-1] = (regions[-1][0], max(stop, regions[-1][1]))
            else:
                counts["taken"] += 1
                regions.append((start, stop))
        if name not in self._seen:
            self._seen.add(name)
            for what, n in counts.items():
                self.counts[what] += n
        return regions if regions or counts["short"] else None

    def finish(self, n_records: int) -> str:
        """What to warn of when all records were read; nothing if all is well.

        Raises InputError if there were records and regions, but none of one name: then the two do not
        belong together.
        """
        unknown = [name for name in self._places if name not in self._seen]
        shown = ", ".join(f"'{printable(name)}'" for name in unknown[:_MOST_NAMES])
        shown += ", ..." if len(unknown) > _MOST_NAMES else ""
        if n_records and unknown and not self._seen:
            message = f"no record has a name of the regions ({shown}); expected the names of the sequences"
            raise InputError(message, path=self._path)
        self.counts["unknown_name"] = sum(len(self._places[name]) // 3 for name in unknown)
        told = [
            (self.counts["unknown_name"], f"on names that no usable record has ({shown})"),
            (self.counts["beyond_end"], "end beyond their record"),
            (self.counts["short"], "too short"),
        ]
        parts = [f"{n:,} {what}" for n, what in told if n]
        if not parts:
            return ""
        return f"of {counted(self.counts['given'], 'region')}, some were left out: {', '.join(parts)}"


def read_regions(path: str, *, lenient: bool = False) -> Regions:
    """The regions of a BED file, plain or compressed; ``-`` is standard input.

    Columns after the third mean nothing here.  Comments, blank lines, and ``track`` and ``browser`` lines
    are passed over.  Raises InputError at a line that is no interval, or if there is none at all.
    """
    regions = Regions(path, lenient=lenient)
    number = 0
    try:
        with open_binary(path) as file:
            for number, line in enumerate(_lines(decompress(file)), 1):
                if place := _parse(path, number, line):
                    regions.add(*place, number)
    except DamagedError as error:
        raise InputError(str(error), path=path, line=number + 1) from None
    if not regions.counts["given"]:
        raise InputError("there is no region; expected BED: name, start and end in each line", path=path)
    return regions


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _parse(path: str, number: int, line: bytes) -> tuple[str, int, int] | None:
    try:
        text = line.decode("utf-8").removeprefix("\ufeff").rstrip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"found byte 0x{line[error.start]:02x}; expected text", path=path, line=number
        ) from None
    fields = text.split("\t") if "\t" in text else text.split()
    if not fields or text.startswith("#"):
        return None
    try:
        name, start, stop = fields[0].strip(), int(fields[1]), int(fields[2])
    except (ValueError, IndexError):
        if text.startswith(("track", "browser")):
            return None
        message = f"found '{printable(text, limit=40)}'; expected BED: name, start and end, whole numbers"
        raise InputError(message, path=path, line=number) from None
    if not 0 <= start <= stop:
        raise InputError(
            f"found a region {start} to {stop}; expected 0 <= start <= end", path=path, line=number
        )
    return name, start, stop
