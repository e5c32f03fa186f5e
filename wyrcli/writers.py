"""What wyr writes: BED of relevant chunks, a row per token, a row per window, a JSON report.

Every writer takes a text handle, writes its one header line at once (an empty input gives a header-only
file, not a missing one), and then one block per Explanation.  :func:`open_output` makes such a handle,
and makes sure that a file appears at its final name whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from wyrcli.errors import TaxonomyError, WyrError, printable
from wyrcli.explanation import Chunk, Explanation
from wyrcli.taxonomy import canonical_rank

__all__ = [
    "BED_COLUMNS",
    "BedCounts",
    "BedWriter",
    "PredictionsWriter",
    "TextOutput",
    "TokensWriter",
    "bed_unsafe",
    "check_outputs",
    "open_output",
    "safe_text",
    "write_json",
]


# ---------------------------------------------------------------- output files


class TextOutput(Protocol):
    """Anything that text can be written to."""

    def write(self, text: str, /) -> object: ...


class _BgzfText:
    """Text into a BGZF file (gzip in blocks, so that tabix can index it)."""

    def __init__(self, path: str) -> None:
        import pysam

        # pysam 0.24.1 ends the process with a segmentation fault if the file cannot be opened: let Python
        # meet the error first.  A FIFO must be opened only once, or its reader sees an end too early.
        if not _is_special(path):
            open(path, "ab").close()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._file: Any = pysam.BGZFile(path, "w")  # type: ignore[call-arg]

    def write(self, text: str, /) -> int:
        return int(self._file.write(text.encode("utf-8")))

    def close(self) -> None:
        self._file.close()


@contextmanager
def open_output(path: str) -> Iterator[TextOutput]:
    """A text handle on an output; a regular file appears whole at the end, or not at all.

    Parameters
    ----------
    path: ``-`` is standard output (flushed, left open).  A name that ends in ``.gz`` or ``.bgz`` is
        written as BGZF.  Devices, FIFOs and other existing non-regular files are written directly.
        Anything else is written beside the target under a temporary name, which takes the target's place
        (through symbolic links, with the old file's mode) when the block ends, and is removed if the block
        ends with an exception of any kind.

    Raises
    ------
    WyrError: on entry, if the directory is missing or the file cannot be written.
    """
    if path == "-":
        yield sys.stdout
        sys.stdout.flush()
    elif _is_special(path):
        with _open_text(path, path) as handle:
            yield handle
    else:
        target = os.path.realpath(path)
        _check_target(path, target)
        directory, name = os.path.split(target)
        # The name is cut so that with what is added it stays within the usual 255 bytes.
        temporary = os.path.join(directory, f".{name[:100]}.tmp.{os.getpid()}")
        try:
            with _open_text(temporary, path) as handle:
                yield handle
            _publish(temporary, target)
        except BaseException:  # KeyboardInterrupt and GeneratorExit too
            _remove(temporary)
            raise


def _is_special(path: str) -> bool:
    """Whether the path exists and is neither a regular file nor a directory (both are checked later)."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _check_target(path: str, target: str) -> None:
    shown = printable(path, limit=300)
    directory = os.path.dirname(target)
    if not path:
        raise WyrError("cannot write an output without a name")
    if os.path.isdir(target):
        raise WyrError(f"cannot write {shown}: it is a directory")
    if not os.path.isdir(directory):
        raise WyrError(f"cannot write {shown}: there is no directory {printable(directory, limit=300)}")
    # A rename would replace a write-protected file; a shell's '>' would not.
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise WyrError(f"cannot write {shown}: the file is write-protected")


@contextmanager
def _open_text(path: str, shown: str) -> Iterator[TextOutput]:
    """Open ``path`` for writing; errors name ``shown``, the output as the user named it."""
    handle: Any
    try:
        if shown.endswith((".gz", ".bgz")):
            handle = _BgzfText(path)
        else:
            handle = open(path, "w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise WyrError(f"cannot write {printable(shown, limit=300)}: {error.strerror or error}") from None
    try:
        yield handle
    except BaseException:
        try:
            handle.close()
        except OSError:
            pass  # what went wrong first matters more (a full disk fails here again)
        raise
    handle.close()


def _publish(temporary: str, target: str) -> None:
    """Give a finished file its name, once its content is on the disk."""
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if os.path.exists(target):
        os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
    os.replace(temporary, target)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def check_outputs(outputs: Sequence[str | None], inputs: Sequence[str]) -> None:
    """Raise WyrError if two outputs are the same file, or an output is an input.

    None stands for an output that was not asked for.  Devices and FIFOs may be named twice; standard
    output may not.  ``-`` among inputs is standard input, and never clashes.
    """
    seen: list[str] = []
    for output in outputs:
        if output is None:
            continue
        shown = "standard output" if output == "-" else printable(output, limit=300)
        if any(_same_file(output, other) for other in seen):
            raise WyrError(f"two outputs would be written to {shown}; name a file for each")
        if output != "-" and any(_same_file(output, path) for path in inputs if path != "-"):
            raise WyrError(f"{shown} is an input; name another file for the output")
        seen.append(output)


def _same_file(first: str, second: str) -> bool:
    if "-" in (first, second):
        return first == second
    if _is_special(first) or _is_special(second):
        return False
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:  # hard links, and file systems that do not tell upper from lower case
        return os.path.samefile(first, second)
    except OSError:
        return False


# ---------------------------------------------------------------- text fields


def safe_text(name: str) -> str:
    """A name as one field of a table: every unprintable character becomes ``_``, nothing becomes ``.``.

    >>> safe_text("a\\tb")
    'a_b'
    """
    if not name:
        return "."
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else "_" for c in name)


def bed_unsafe(name: str) -> bool:
    """Whether BED readers drop rows with this chrom, or take them for a header, without a word.

    bedtools treats rows that start so as headers, most of its commands in any case of letters, and skips
    a chrom that is just ``chrom``; ``#`` starts a comment for everybody.

    >>> bed_unsafe("track_7"), bed_unsafe("read_7")
    (True, False)
    """
    lower = name.lower()
    return lower == "chrom" or lower.startswith(("#", ">", "!", "track", "browser", "visibility"))


def _bed_text(text: str) -> str:
    """A field of a BED row: without spaces too, for IGV splits rows at spaces as well as at tabs."""
    return safe_text(text).replace(" ", "_")


def _join(fields: Sequence[str]) -> str:
    return "\t".join(fields) + "\n"


# ---------------------------------------------------------------- chunks as BED

BED_COLUMNS = (
    "chrom",
    "chromStart",
    "chromEnd",
    "name",
    "score",
    "strand",
    "thickStart",
    "thickEnd",
    "itemRgb",
    "mean_mask",
    "lineage",
)
"""BED9+2.  Not 12 columns: bedtools reads columns 10 to 12 of twelve as exons."""

# ColorBrewer's nine "Blues" without the palest, for mean masks from 0 to 1.  One hue, ordered by
# lightness, is told apart by colour-blind readers too, and GA4GH BED asks for at most eight colours.
_SHADES = (
    "222,235,247",
    "198,219,239",
    "158,202,225",
    "107,174,214",
    "66,146,198",
    "33,113,181",
    "8,81,156",
    "8,48,107",
)


@dataclass
class BedCounts:
    """What a BedWriter wrote; ``unsafe_windows`` had rows under a name that is :func:`bed_unsafe`."""

    chunks: int = 0
    bases: int = 0
    unsafe_windows: int = 0


class BedWriter:
    """The relevant chunks as BED9+2, one row each, in record coordinates.

    Parameters
    ----------
    handle: where to write; the header line is written at once.
    ranks: of the lineages to come, from the widest to the narrowest.
    rank: whose taxon is the row's name; None is the narrowest.
    threshold, min_length: what a relevant chunk is, see :meth:`Explanation.chunks`.

    Spaces in names and taxa become ``_``, semicolons inside a taxon too; ``lineage`` joins the taxa of all
    ranks with ``;``.  ``score`` is 1000 times the mean mask.  Names are written as they are even where
    :func:`bed_unsafe`, because they are what joins the row to its record; ``counts`` says how often.
    """

    def __init__(
        self,
        handle: TextOutput,
        ranks: Sequence[str],
        *,
        rank: str | None = None,
        threshold: float = 0.5,
        min_length: int = 1,
    ) -> None:
        self.counts = BedCounts()
        self._handle = handle
        self._rank = _rank_index(ranks, rank)
        self._threshold = threshold
        self._min_length = min_length
        handle.write("#" + _join(BED_COLUMNS))

    def write(self, explanation: Explanation) -> int:
        """Write the rows of one window and return their number, which may be 0."""
        chunks = explanation.chunks(self._threshold, self._min_length)
        if not chunks:
            return 0
        chrom = _bed_text(explanation.window.name)
        taxa = [_bed_text(taxon).replace(";", "_") for taxon in explanation.lineage]
        name, lineage = taxa[self._rank], ";".join(taxa)
        self._handle.write("".join([_bed_row(chrom, chunk, name, lineage) for chunk in chunks]))
        self.counts.chunks += len(chunks)
        self.counts.bases += sum(chunk.stop - chunk.start for chunk in chunks)
        self.counts.unsafe_windows += bed_unsafe(chrom)
        return len(chunks)


def _bed_row(chrom: str, chunk: Chunk, name: str, lineage: str) -> str:
    mean = min(max(chunk.mean_mask, 0.0), 1.0)
    shade = _SHADES[min(int(mean * len(_SHADES)), len(_SHADES) - 1)]
    return (
        f"{chrom}\t{chunk.start}\t{chunk.stop}\t{name}\t{round(1000 * mean)}\t.\t"
        f"{chunk.start}\t{chunk.stop}\t{shade}\t{chunk.mean_mask:.4f}\t{lineage}\n"
    )


def _rank_index(ranks: Sequence[str], rank: str | None) -> int:
    """Position of a rank, of the narrowest for None.  Raises TaxonomyError."""
    if rank is None:
        return len(ranks) - 1
    try:
        return list(ranks).index(canonical_rank(rank))
    except ValueError:
        known = ", ".join(ranks)
        raise TaxonomyError(f"unknown rank '{printable(rank)}'; this model has {known}") from None


# ---------------------------------------------------------------- tables


class TokensWriter:
    """One row per token: its bases, its mask, and its mask for each rank's predicted taxon.

    The first three columns are BED's, so tabix and bedtools read the table.

    Parameters
    ----------
    handle: where to write; the header line is written at once.
    ranks: as in :class:`BedWriter`; each gives a column ``score_<rank>``.
    """

    def __init__(self, handle: TextOutput, ranks: Sequence[str]) -> None:
        self._handle = handle
        columns = ["#chrom", "start", "end", "token", "score", *(f"score_{rank}" for rank in ranks)]
        # The percent operator: twice as fast as joining formatted fields, and there may be 10^9 rows.
        self._row = "%s\t%d\t%d\t%s" + "\t%.4f" * (1 + len(ranks)) + "\n"
        handle.write(_join(columns))

    def write(self, explanation: Explanation) -> int:
        """Write the rows of one window and return their number."""
        window = explanation.window
        chrom, origin, sequence = _bed_text(window.name), window.start, window.sequence
        spans = explanation.spans.tolist()
        scores = np.vstack([explanation.mask[None], explanation.rank_masks]).T.tolist()  # (T, 1 + R)
        row = self._row
        rows = [
            row % (chrom, start, stop, sequence[start - origin : stop - origin], *token_scores)
            for (start, stop), token_scores in zip(spans, scores, strict=True)
        ]
        self._handle.write("".join(rows))
        return len(rows)


class PredictionsWriter:
    """One row per window, and one per record that was skipped: no record read is without a row.

    Parameters
    ----------
    handle: where to write; the header line is written at once.
    ranks: as in :class:`BedWriter`; each gives columns ``<rank>`` and ``<rank>_probability``.
    threshold, min_length: what a relevant chunk is, for ``relevant_share``: the share of the window's bases
        that lie in relevant chunks.
    """

    def __init__(
        self, handle: TextOutput, ranks: Sequence[str], *, threshold: float = 0.5, min_length: int = 1
    ) -> None:
        self._handle = handle
        self._threshold = threshold
        self._min_length = min_length
        taxa_columns = [column for rank in ranks for column in (rank, f"{rank}_probability")]
        self._n_blank = len(taxa_columns) + 1
        handle.write(_join(["#name", "start", "end", "status", *taxa_columns, "relevant_share"]))

    def write(self, explanation: Explanation) -> None:
        """Write the row of one window, with status ``ok``."""
        window = explanation.window
        fields = [_bed_text(window.name), str(window.start), str(window.stop), "ok"]
        for taxon, probability in zip(explanation.lineage, explanation.probabilities, strict=True):
            fields += [safe_text(taxon), f"{probability:.6f}"]
        chunks = explanation.chunks(self._threshold, self._min_length)
        relevant_bp = sum(chunk.stop - chunk.start for chunk in chunks)
        fields.append(f"{relevant_bp / (window.stop - window.start):.4f}")
        self._handle.write(_join(fields))

    def write_skipped(self, name: str, length: int, reason: str) -> None:
        """Write the row of a record without a window, with status ``skipped:<reason>``."""
        fields = [_bed_text(name), "0", str(length), f"skipped:{safe_text(reason)}"]
        self._handle.write(_join([*fields, *["."] * self._n_blank]))


# ---------------------------------------------------------------- report


def write_json(path: str, content: Mapping[str, object]) -> None:
    """Write a report, whole or not at all; see :func:`open_output`.

    numpy's numbers and arrays are written as JSON's.  Raises ValueError for NaN and infinities, which JSON
    lacks, and TypeError for anything else that is no JSON, both before a file is touched.
    """
    text = json.dumps(content, indent=1, allow_nan=False, default=_plain) + "\n"
    with open_output(path) as handle:
        handle.write(text)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a report cannot hold {type(value).__name__}")
