"""Scores along sequences as genome browsers draw them: bedGraph and bigWig, and chunks as GFF3.

bedGraph and bigWig hold one value per base and so one target; values keep their sign.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wyrcli import letters
from wyrcli.errors import WyrError, printable
from wyrcli.finding import Finding
from wyrcli.ordering import Row, RowQueue
from wyrcli.outputs import TextOutput, open_path
from wyrcli.writers import bed_text, safe_text

__all__ = [
    "MAX_BIGWIG_SEQUENCES",
    "BedGraphWriter",
    "BigWigSpool",
    "Gff3Writer",
    "escape_gff3",
    "import_bigwig",
    "open_bigwig",
    "open_spool",
    "write_stretch",
]

# ---------------------------------------------------------------- bedGraph


def write_stretch(handle: TextOutput, chrom: str, start: int, scores: NDArray[np.float32]) -> int:
    """Rows of a stretch of bases, one per run of equal values as they are printed; returns their number.

    Parameters
    ----------
    chrom: the first column, as it shall stand there.
    start: of the stretch, bp.
    scores: float32 (bases,), finite.
    """
    if not len(scores):
        return 0
    quick = letters.fits(scores)
    printed = np.rint(scores.astype(np.float64) * 10_000) if quick else scores
    first = np.flatnonzero(np.concatenate([[True], printed[1:] != printed[:-1]]))
    starts = start + first
    stops = np.append(starts[1:], start + len(scores))
    values = scores[first]
    if quick:
        handle.write(
            letters.join(
                [
                    chrom.encode() + b"\t",
                    letters.integers(starts),
                    b"\t",
                    letters.integers(stops),
                    letters.decimals(values),
                    b"\n",
                ]
            )
        )
    else:
        rows = zip(starts.tolist(), stops.tolist(), values.tolist(), strict=True)
        handle.write("".join([f"{chrom}\t{a}\t{b}\t{value:.4f}\n" for a, b, value in rows]))
    return len(first)


class BedGraphWriter:
    """The score of every base as bedGraph: chrom, start, end, score; runs of one score are one row.

    Parameters
    ----------
    handle: where to write; one header line that starts with ``#`` is written at once.
    """

    def __init__(self, handle: TextOutput) -> None:
        self._handle = handle
        handle.write("#chrom\tstart\tend\tscore\n")

    def write(self, finding: Finding) -> None:
        """Write the rows of one window."""
        chrom = bed_text(finding.window.name)
        for start, scores in finding.scored_stretches():
            write_stretch(self._handle, chrom, start, scores)


# ---------------------------------------------------------------- bigWig

MAX_BIGWIG_SEQUENCES = 10_000
"""With more, libBigWig looks for each in a list that takes longer and longer, and IGV stumbles."""

_BLOCK = 1 << 18  # bases handed to libBigWig at a time


def import_bigwig() -> Any:
    """pyBigWig.  Raises WyrError, naming the extra, where it is not installed."""
    try:
        import pyBigWig
    except ImportError:
        raise WyrError(
            "bigWig files need pyBigWig, which is not installed: pip install 'wyrcli[bigwig]'"
        ) from None
    return pyBigWig


class BigWigSpool:
    """Scores on their way into a bigWig file, which must know all sequences and their lengths first.

    They wait in a temporary file of 4 bytes per base; memory holds a line per stretch without a gap.

    Parameters
    ----------
    shown: the output, as the user named it.
    noun: what has names here, for errors.
    """

    def __init__(self, shown: str, noun: str = "record") -> None:
        self._module = import_bigwig()
        self._shown = printable(shown, limit=300)
        self._noun = noun
        self._file = tempfile.TemporaryFile(prefix="wyr-", buffering=4 * _BLOCK)
        self._lengths: dict[str, int] = {}
        self._stretches: dict[str, list[list[int]]] = {}  # name: [start, bases, place in the file]
        self._places = 0

    def declare(self, name: str, length: int) -> None:
        """A sequence, whether or not it has scores.

        Raises WyrError if its name came before, or if there are too many sequences.
        """
        if name in self._lengths:
            raise WyrError(
                f"{self._shown}: two {self._noun}s are called '{printable(name)}', and a bigWig file has one "
                "track per name; rename them, use --safe-names, or write bedGraph"
            )
        if len(self._lengths) >= MAX_BIGWIG_SEQUENCES:
            raise WyrError(
                f"{self._shown}: more than {MAX_BIGWIG_SEQUENCES:,} {self._noun}s are too many for a bigWig "
                "file; write .bedgraph.gz or .tsv.gz, which have an index too"
            )
        self._lengths[name] = length
        self._stretches[name] = []

    def add(self, name: str, start: int, scores: NDArray[np.float32]) -> None:
        """Scores of the bases from ``start`` on, behind all that the sequence has so far."""
        if not np.isfinite(scores).all():
            raise ValueError("a score is not a number")  # libBigWig takes it and then crashes
        self._lengths[name] = max(self._lengths[name], start + len(scores))
        stretches = self._stretches[name]
        last = stretches[-1] if stretches else None
        if last is not None and last[0] + last[1] == start and last[2] + last[1] == self._places:
            last[1] += len(scores)
        else:
            stretches.append([start, len(scores), self._places])
        self._file.write(scores.astype(np.float32, copy=False).tobytes())
        self._places += len(scores)

    def finish(self, path: str) -> None:
        """Write the bigWig file.  Sequences are sorted by name, as readers search them.

        Where there is none, the file has one without scores that is called ``none``: the format needs one.
        Raises WyrError if the file is not whole in the end.
        """
        # libBigWig meets a full disk with an error that has no cause, or with none: its file is checked.
        try:
            self._write(path)
            with self._module.open(path) as file:
                whole = file.isBigWig() and file.header()["nBasesCovered"] == self._places
        except (RuntimeError, SystemError):
            whole = False
        if not whole:
            raise WyrError(f"{self._shown} could not be written whole; is the disk full?")

    def _write(self, path: str) -> None:
        names = sorted(self._lengths, key=str.encode)
        file = self._module.open(path, "w")
        try:
            file.addHeader([(name, max(self._lengths[name], 1)) for name in names] or [("none", 1)])
            for name in names:
                for start, n_bases, place in self._stretches[name]:
                    for offset in range(0, n_bases, _BLOCK):
                        size = min(_BLOCK, n_bases - offset)
                        self._file.seek(4 * (place + offset))
                        values = np.frombuffer(self._file.read(4 * size), dtype=np.float32)
                        file.addEntries(name, start + offset, values=values, span=1, step=1)
        finally:
            file.close()

    def close(self) -> None:
        """Let the temporary file go."""
        self._file.close()


@contextmanager
def open_spool(path: str, noun: str = "record") -> Iterator[BigWigSpool]:
    """A spool whose bigWig file appears when the block ends, whole or not at all."""
    with open_path(path) as temporary:
        spool = BigWigSpool(path, noun)
        try:
            yield spool
            spool.finish(temporary)
        finally:
            spool.close()


class _BigWigWriter:
    """The score of every base of each record."""

    def __init__(self, spool: BigWigSpool) -> None:
        self._spool = spool
        self._record = -1
        self._name = ""

    def write(self, finding: Finding) -> None:
        window = finding.window
        if window.record != self._record:
            self._record, self._name = window.record, safe_text(window.name)
            self._spool.declare(self._name, window.length)
        for start, scores in finding.scored_stretches():
            self._spool.add(self._name, start, scores)


@contextmanager
def open_bigwig(path: str) -> Iterator[_BigWigWriter]:
    """A writer of the score of every base, in record coordinates, signed.

    Raises WyrError: pyBigWig is missing, two records have one name, or there are more than
    ``MAX_BIGWIG_SEQUENCES``.
    """
    with open_spool(path) as spool:
        yield _BigWigWriter(spool)


# ---------------------------------------------------------------- GFF3

# https://github.com/The-Sequence-Ontology/Specifications/blob/master/gff3.md, version 1.26
_NOT_IN_SEQID = re.compile(r"[^a-zA-Z0-9.:^*$@!+_?|-]")
_NOT_IN_FIELD = re.compile(r"[\x00-\x1f\x7f%;=&,]")


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8"))


def escape_gff3(text: str, *, seqid: bool = False) -> str:
    """Text for a GFF3 file: percent signs and hexadecimal numbers for letters that mean something there.

    >>> escape_gff3("a b;c=1"), escape_gff3(">read 1", seqid=True)
    ('a b%3Bc%3D1', '%3Eread%201')
    """
    return (_NOT_IN_SEQID if seqid else _NOT_IN_FIELD).sub(_percent, text)


class Gff3Writer:
    """The relevant chunks as GFF3: 1-based closed positions, type ``sequence_feature`` (SO:0000110).

    The score is the mean mask, below 0 where a contrast speaks for the other class.  Attributes: ``Name``
    (what the chunk speaks for), ``lineage`` (a list, from the widest rank on), ``probability`` (of the
    taxon or target) and, if known, ``taxid``.

    Parameters
    ----------
    handle: where to write; the version line is written at once.
    taxids: NCBI taxid of each taxon, by rank and name; see :func:`wyrcli.calls.known_taxids`.
    """

    def __init__(self, handle: TextOutput, taxids: Sequence[dict[str, int]] = ()) -> None:
        self._queue = RowQueue(handle)
        self._taxids = taxids
        handle.write("##gff-version 3\n")

    def write_group(self, findings: Sequence[Finding]) -> None:
        """Take the rows of one window for all targets it was explained for; of several, see
        :meth:`finish`."""
        self._queue.add(findings, [row for finding in findings for row in self._rows(finding)])

    def finish(self) -> None:
        """Write what is held back, of several targets, so that rows are sorted by start."""
        self._queue.finish()

    def _rows(self, finding: Finding) -> Iterator[Row]:
        if not finding.named_chunks:
            return
        explanation = finding.explanation
        seqid = escape_gff3(explanation.window.name, seqid=True) or "."
        lineage = ",".join([escape_gff3(taxon) for taxon in explanation.lineage])
        for chunk, name in finding.named_chunks:
            attributes = f"Name={escape_gff3(name)};lineage={lineage}{self._more(finding, name)}"
            yield (
                chunk.start,
                chunk.stop,
                f"{seqid}\twyr\tsequence_feature\t{chunk.start + 1}\t{chunk.stop}\t{chunk.mean_mask:.4f}\t"
                f".\t.\t{attributes}\n",
            )

    def _more(self, finding: Finding, name: str) -> str:
        explanation = finding.explanation
        target = explanation.target
        if target is not None:
            rank, probability = target.rank, target.probability if name == target.name else None
        else:
            ranks = [r for r, taxon in enumerate(explanation.lineage) if taxon == name]
            rank = ranks[-1] if finding.rank is None else finding.rank
            probability = explanation.probabilities[rank]
        more = "" if probability is None else f";probability={probability:.4f}"
        taxid = self._taxids[rank].get(name, 0) if rank < len(self._taxids) else 0
        return f"{more};taxid={taxid}" if taxid else more
