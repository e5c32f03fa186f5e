"""A folder that genome browsers open: sequences, chunks, scores, their indexes, and how to look.

Windows are written as they come.  Of a record only what a later, overlapping window may still change is held.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wyrcli.browser_files import Contents, write_descriptions
from wyrcli.errors import WyrError, printable
from wyrcli.explanation import Explanation, Window
from wyrcli.outputs import TextOutput, check_new_directory, new_directory, open_output
from wyrcli.result_tables import clean
from wyrcli.score_tracks import ScoreSpool, read_spool, write_bedgraph, write_bigwig
from wyrcli.writers import BedWriter, rank_columns, safe_text

__all__ = ["BundleWriter", "SafeNames", "block_index", "check_bundle", "open_bundle"]

MOST_BIGWIG = 10_000
"""Sequences up to which scores become a bigWig: pyBigWig's time for each grows with their number."""

_MOST_LISTED = 2_000  # windows on the page
_MOST_NAMES = 250_000  # that are remembered
_LINE = 60  # letters per line of FASTA
_TBI_BP = 1 << 29  # a .tbi index holds no position beyond
_SPOOL = "scores.tmp"
_STEP = 1 << 16  # letters of N at a time


# ---------------------------------------------------------------- names


class SafeNames:
    """Gives records names of letters, digits and ``_`` that no browser takes for a position, no two the same.

    The first names are remembered; after so many that memory would grow, each gets its ordinal.

    >>> names = SafeNames()
    >>> names.new("a:1", 0), names.new("a/1", 1), names.new("a_1_2", 2)
    ('a_1', 'a_1_2', 'a_1_2_3')
    """

    def __init__(self, most: int = _MOST_NAMES) -> None:
        self._taken: set[str] = set()
        self._most = most

    def new(self, name: str, ordinal: int) -> str:
        """The name of the record ``ordinal``, which counts from 0 and is never given twice."""
        safe = re.sub(r"[^A-Za-z0-9_]", "_", name)[:200] or "unnamed"
        if re.match("(?i)(track|browser|visibility|chrom$)", safe):
            safe = f"_{safe}"  # bedtools takes such rows for headers
        is_full = len(self._taken) >= self._most
        if is_full or safe in self._taken:
            # Of two names that end in different ordinals no two are the same; only a remembered one can be.
            safe = f"{safe}_{ordinal + 1}"
            while safe in self._taken:
                safe = f"{safe}_{ordinal + 1}"
        if not is_full:
            self._taken.add(safe)
        return safe


# ---------------------------------------------------------------- pieces of a record


class _FastaWriter:
    """Sequences in lines of one length, given piece by piece; what no piece covers is N, to the very end."""

    def __init__(self, handle: TextOutput) -> None:
        self._handle = handle
        self._line = ""
        self._end = self._length = 0

    def begin(self, name: str, length: int) -> None:
        """``length``: of the whole record, 0 where it is not known."""
        self.finish()
        self._handle.write(f">{name}\n")
        self._end, self._length = 0, length

    def add(self, start: int, sequence: str) -> None:
        self._fill(start)
        fresh = sequence[self._end - start :]
        self._append(fresh)
        self._end += len(fresh)

    def _fill(self, stop: int) -> None:
        while self._end < stop:
            step = min(stop - self._end, _STEP)
            self._append("N" * step)
            self._end += step

    def _append(self, letters: str) -> None:
        text = self._line + letters
        whole = len(text) // _LINE * _LINE
        if whole:
            self._handle.write("".join(f"{text[i : i + _LINE]}\n" for i in range(0, whole, _LINE)))
        self._line = text[whole:]

    def finish(self) -> None:
        self._fill(self._length)
        if self._line:
            self._handle.write(f"{self._line}\n")
        self._line = ""


class _SortedRows:
    """Rows of a table of one record, written in the order of their starts."""

    def __init__(self, handle: TextOutput) -> None:
        self._handle = handle
        self._rows: list[tuple[int, int, str]] = []

    def write(self, text: str, /) -> None:
        for row in text.splitlines(keepends=True):
            if row.startswith("#"):
                self._handle.write(row)
                continue
            _, start, stop, _ = row.split("\t", 3)
            self._rows.append((int(start), int(stop), row))

    def flush(self, before: float) -> None:
        """Write the rows that start before a position; none with a smaller start may follow."""
        self._rows.sort(key=lambda row: row[:2])
        ready = [row for row in self._rows if row[0] < before]
        self._handle.write("".join(row for _, _, row in ready))
        self._rows = self._rows[len(ready) :]


# ---------------------------------------------------------------- the folder


def check_bundle(path: Path, igv_js: Path | None) -> None:
    """Raise WyrError where :func:`open_bundle` would: worth doing before models are loaded."""
    check_new_directory(path)
    if igv_js is not None:
        try:
            text = igv_js.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise WyrError(f"cannot read {printable(str(igv_js), 300)}: {reason}") from None
        if "createBrowser" not in text or re.search(r"export\s*(\{|default\b)", text[-2000:]):
            raise WyrError(
                f"{printable(str(igv_js), 300)} is not the igv.js that a page loads; expected "
                "dist/igv.min.js of the npm package igv"
            )


@contextmanager
def open_bundle(
    path: Path,
    ranks: Sequence[str],
    *,
    rank: str | None = None,
    threshold: float = 0.5,
    min_length: int = 1,
    model: str = "",
    notice: str = "",
    igv_js: Path | None = None,
) -> Iterator[BundleWriter]:
    """A writer of explanations of DNA; the folder appears whole when the block ends, or not at all.

    Parameters
    ----------
    path: a folder that is new or empty.
    ranks, rank, threshold, min_length: as in :class:`wyrcli.writers.BedWriter`.
    model, notice: what the pages say of the model.
    igv_js: ``dist/igv.min.js`` of the npm package igv, which is copied; None: the page says how to place it.

    Raises WyrError as :func:`check_bundle` does.
    """
    check_bundle(path, igv_js)
    with new_directory(path) as folder:
        with ExitStack() as stack:

            def open_file(name: str) -> TextOutput:
                return stack.enter_context(open_output(str(folder / name)))

            spool = stack.enter_context(open(folder / _SPOOL, "wb"))
            writer = BundleWriter(
                open_file, spool, ranks, rank=rank, threshold=threshold, min_length=min_length
            )
            yield writer
            writer.finish()
        _index(folder, writer)
        contents = Contents(
            writer.windows,
            writer.listed,
            scores="scores.bw" if (folder / "scores.bw").exists() else "scores.bedgraph.gz",
            index="csi" if writer.longest > _TBI_BP else "tbi",
            is_signed=writer.is_signed,
            model=model,
            notice=notice,
            has_igv=igv_js is not None,
        )
        write_descriptions(folder, contents)
        if igv_js is not None:
            shutil.copyfile(igv_js, folder / "igv.min.js")


class BundleWriter:
    """Writes the tables of a bundle, window by window; see :func:`open_bundle`.

    The windows of a record come one after another, in the order of their starts; they may overlap.
    """

    def __init__(
        self,
        open_file: Callable[[str], TextOutput],
        spool: BinaryIO,
        ranks: Sequence[str],
        *,
        rank: str | None,
        threshold: float,
        min_length: int,
    ) -> None:
        self.windows = 0
        self.longest = 0
        self.is_signed = False
        self.listed: list[tuple[str, int, int, str, str]] = []
        self._safe_names = SafeNames()
        self._record = -1
        self._name = ""
        self._rank = None if rank is None else list(ranks).index(rank)
        self._fasta = _FastaWriter(open_file("sequences.fa.gz"))
        self._rows = _SortedRows(open_file("important.bed.gz"))
        self._bed = BedWriter(self._rows, ranks, rank=rank, threshold=threshold, min_length=min_length)
        self._scores = ScoreSpool(spool)
        self._names = open_file("names.tsv")
        names = rank_columns(ranks, ("name", "start", "end", "original_name"))
        columns = [column for name in names for column in (name, f"{name}_probability")]
        self._names.write("\t".join(["#name", "start", "end", "original_name", *columns]) + "\n")

    def write(self, explanation: Explanation) -> None:
        """Write one window under its safe name."""
        window = explanation.window
        if window.record != self._record:
            self._flush(np.inf)
            self._record = window.record
            self._name = self._safe_names.new(window.name, window.record)
            self._fasta.begin(self._name, window.length)
            self._scores.begin(self._name)
        self._flush(window.start)
        self._fasta.add(window.start, window.sequence)
        self._bed.write(replace(explanation, window=window._replace(name=self._name)))
        self._scores.add(explanation)
        self._write_name(explanation)
        target = explanation.target
        self.is_signed |= target is not None and bool(target.against)
        self.longest = max(self.longest, window.stop, window.length)
        self.windows += 1

    def finish(self) -> None:
        """Write what was held back."""
        self._flush(np.inf)
        self._fasta.finish()

    def _flush(self, before: float) -> None:
        self._rows.flush(before)
        self._scores.flush(before)

    def _write_name(self, explanation: Explanation) -> None:
        window: Window = explanation.window
        fields = [self._name, str(window.start), str(window.stop), safe_text(window.name)]
        for taxon, probability in zip(explanation.lineage, explanation.probabilities, strict=True):
            fields += [safe_text(taxon), f"{probability:.4f}"]
        self._names.write("\t".join(fields) + "\n")
        if len(self.listed) < _MOST_LISTED:
            label = printable(explanation.label(self._rank) or "not sure", 80)
            original = printable(clean(window.name), 200)
            self.listed.append((self._name, window.start, window.stop, original, label))


# ---------------------------------------------------------------- indexes


def _index(folder: Path, writer: BundleWriter) -> None:
    """Index the sequences and tables; scores become a bigWig where that can be."""
    import pysam

    fasta = folder / "sequences.fa.gz"
    if writer.windows:
        pysam.faidx(str(fasta))
    else:  # samtools refuses to index an empty file
        fasta.with_name("sequences.fa.gz.fai").touch()
    fasta.with_name("sequences.fa.gz.gzi").write_bytes(block_index(fasta))
    lengths = _read_lengths(folder)
    stretches = read_spool(folder / _SPOOL)
    names = ["important.bed.gz"]
    if 0 < len(lengths) <= MOST_BIGWIG and find_spec("pyBigWig") is not None:
        write_bigwig(stretches, folder / "scores.bw", lengths)
    else:
        names.append("scores.bedgraph.gz")
        with open_output(str(folder / "scores.bedgraph.gz")) as handle:
            write_bedgraph(stretches, handle)
    (folder / _SPOOL).unlink()
    for name in names:
        pysam.tabix_index(str(folder / name), preset="bed", force=True, csi=writer.longest > _TBI_BP)


def block_index(path: Path) -> bytes:
    """The .gzi index of a BGZF file: where its blocks begin, the last, empty one included.

    samtools leaves the empty block out.  igv.js (3.8.10) finds no sequence in the last block that the index
    names, so that it has to be one without any; samtools and IGV read the longer index as well.
    """
    entries = []
    with open(path, "rb") as file:
        place, letters = 0, 0
        # A block: 18 bytes of header, its size less 1 at 16; data; in the last 4 the size of its content.
        while header := file.read(18):
            if place:
                entries.append(struct.pack("<QQ", place, letters))
            size = struct.unpack_from("<H", header, 16)[0] + 1
            file.seek(place + size - 4)
            letters += struct.unpack("<I", file.read(4))[0]
            place += size
    return struct.pack("<Q", len(entries)) + b"".join(entries)


def _read_lengths(folder: Path) -> list[tuple[str, int]]:
    text = (folder / "sequences.fa.gz.fai").read_text("utf-8")
    return [(row.split("\t")[0], int(row.split("\t")[1])) for row in text.splitlines()]
