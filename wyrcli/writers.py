"""What wyr writes: BED of relevant chunks, a row per token, a row per window.

Every writer takes a text handle from ``outputs.open_output``, writes its one header line at once (an empty
input gives a header-only file, not a missing one), and then one block per Explanation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wyrcli.explanation import Chunk, Explanation
from wyrcli.outputs import TextOutput
from wyrcli.taxonomy import find_rank

__all__ = [
    "BED_COLUMNS",
    "BedCounts",
    "BedWriter",
    "PredictionsWriter",
    "TokensWriter",
    "bed_unsafe",
    "safe_text",
]


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
        self._rank = len(ranks) - 1 if rank is None else find_rank(ranks, rank)
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
        # Cleaned as a whole, letter by letter, so that places stay: a text may hold tabs.
        chrom, origin, sequence = _bed_text(window.name), window.start, safe_text(window.sequence)
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
