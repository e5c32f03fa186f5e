"""What wyr writes: BED of relevant chunks, a row per token, a row per window.

Every writer takes a text handle from ``outputs.open_output``, writes its one header line at once (an empty
input gives a header-only file, not a missing one), and then one block per Explanation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from wyrcli import letters
from wyrcli.explanation import Chunk, Explanation
from wyrcli.finding import Finding
from wyrcli.ordering import Row, RowQueue
from wyrcli.outputs import TextOutput
from wyrcli.taxonomy import find_rank

__all__ = [
    "BED_COLUMNS",
    "BedCounts",
    "BedWriter",
    "PredictionsWriter",
    "TokensWriter",
    "bed_text",
    "bed_unsafe",
    "choose_shade",
    "rank_columns",
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


def bed_text(text: str) -> str:
    """A field of a BED row: without spaces too, for IGV splits rows at spaces as well as at tabs.

    >>> bed_text("Tobacco mosaic virus")
    'Tobacco_mosaic_virus'
    """
    return safe_text(text).replace(" ", "_")


def rank_columns(ranks: Sequence[str], taken: Collection[str]) -> list[str]:
    """What the columns of ranks are called: ``rank_<rank>`` where a table has a column of that name.

    Datasets name their ranks as they like: ``label`` is usual.  With ``taken`` go names that are made of a
    rank's: ``<rank>_probability`` and ``score_<rank>``.

    >>> rank_columns(["genus", "label", "a\\tb"], {"label"})
    ['genus', 'rank_label', 'a_b']
    """
    names: list[str] = []
    used = set(taken)
    for rank in ranks:
        name = safe_text(rank)
        while used & {name, f"{name}_probability", f"score_{name}"}:
            name = f"rank_{name}"
        used |= {name, f"{name}_probability", f"score_{name}"}
        names.append(name)
    return names


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
# Of a contrast: every second blue for the one class and, from the "Reds", for the other: eight together.
_OTHER_SHADES = ("252,187,161", "251,106,74", "203,24,29", "103,0,13")


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
    rank: whose taxon is the row's name; None is the narrowest that the Explanandum is sure of.
    threshold, min_length: what a relevant chunk is, see :meth:`Explanation.chunks`.

    Spaces in names and taxa become ``_``, semicolons inside a taxon too; ``lineage`` joins the taxa of all
    ranks with ``;``.  ``score`` is 1000 times the mean mask.  Names are written as they are even where
    :func:`bed_unsafe`, because they are what joins the row to its record; ``counts`` says how often.

    A window whose Explanandum is not sure has no rows.  A chunk of a contrast that speaks for the other
    class has that one's name, a ``mean_mask`` below 0, and as ``score`` 1000 times its size.
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
        self._queue = RowQueue(handle)
        self._rank = None if rank is None else find_rank(ranks, rank)
        self._threshold = threshold
        self._min_length = min_length
        handle.write("#" + _join(BED_COLUMNS))

    def write(self, explanation: Explanation) -> int:
        """Write the rows of one window and return their number, which may be 0."""
        return self.write_group([Finding(explanation, self._threshold, self._min_length, self._rank)])

    def write_group(self, findings: Sequence[Finding]) -> int:
        """Take the rows of one window for all targets it was explained for; of several, see
        :meth:`finish`.

        Returns their number.
        """
        rows = [row for finding in findings for row in self._rows(finding)]
        self._queue.add(findings, rows)
        if not rows:
            return 0
        self.counts.chunks += len(rows)
        self.counts.bases += sum(stop - start for start, stop, _ in rows)
        self.counts.unsafe_windows += bed_unsafe(findings[0].window.name)
        return len(rows)

    def finish(self) -> None:
        """Write what is held back, of several targets, so that rows are sorted by start."""
        self._queue.finish()

    @staticmethod
    def _rows(finding: Finding) -> list[Row]:
        if not finding.named_chunks:
            return []
        explanation = finding.explanation
        chrom = bed_text(explanation.window.name)
        lineage = ";".join([bed_text(taxon).replace(";", "_") for taxon in explanation.lineage])
        contrast = explanation.target is not None and bool(explanation.target.against)
        return [
            (
                chunk.start,
                chunk.stop,
                _bed_row(chrom, chunk, bed_text(name).replace(";", "_"), lineage, contrast),
            )
            for chunk, name in finding.named_chunks
        ]


def choose_shade(mean_mask: float, contrast: bool = False) -> str:
    """The colour of a chunk as ``r,g,b``: the darker the further its mean mask from 0.

    >>> choose_shade(1.0), choose_shade(-1.0, contrast=True)
    ('8,48,107', '103,0,13')
    """
    size = min(abs(mean_mask), 1.0) if contrast else min(max(mean_mask, 0.0), 1.0)
    if contrast and mean_mask < 0:
        return _OTHER_SHADES[min(int(size * len(_OTHER_SHADES)), len(_OTHER_SHADES) - 1)]
    shade = min(int(size * len(_SHADES)), len(_SHADES) - 1)
    return _SHADES[shade | 1 if contrast else shade]


def _bed_row(chrom: str, chunk: Chunk, name: str, lineage: str, contrast: bool) -> str:
    size = min(abs(chunk.mean_mask) if contrast else max(chunk.mean_mask, 0.0), 1.0)
    return (
        f"{chrom}\t{chunk.start}\t{chunk.stop}\t{name}\t{round(1000 * size)}\t.\t"
        f"{chunk.start}\t{chunk.stop}\t{choose_shade(chunk.mean_mask, contrast)}\t"
        f"{chunk.mean_mask:.4f}\t{lineage}\n"
    )


# ---------------------------------------------------------------- tables


class TokensWriter:
    """One row per token: its bases, its mask, and its mask for each rank's predicted taxon.

    The first three columns are BED's, so tabix and bedtools read the table.  Where scores were asked for at
    single bases, a row is a base.

    Parameters
    ----------
    handle: where to write; the header line is written at once.
    ranks: as in :class:`BedWriter`; each gives a column ``score_<rank>``.
    with_target: whether a last column ``target`` says whose score ``score`` is.
    """

    def __init__(self, handle: TextOutput, ranks: Sequence[str], *, with_target: bool = False) -> None:
        self._handle = handle
        self._with_target = with_target
        names = rank_columns(ranks, ())
        columns = ["#chrom", "start", "end", "token", "score", *(f"score_{name}" for name in names)]
        # The percent operator: twice as fast as joining formatted fields, for what numpy cannot write.
        self._row = "%s\t%d\t%d\t%s" + "\t%.4f" * (1 + len(ranks)) + "%s\n"
        handle.write(_join([*columns, "target"] if with_target else columns))

    def write(self, explanation: Explanation) -> int:
        """Write the rows of one window and return their number."""
        text = self._rows(explanation)
        self._handle.write(text)
        return len(explanation.mask)

    def write_group(self, findings: Sequence[Finding]) -> None:
        """Write the rows of one window for all targets it was explained for, sorted by start."""
        texts = [self._rows(finding.explanation) for finding in findings]
        if len(texts) == 1:
            self._handle.write(texts[0])
        else:
            rows = [text.splitlines(keepends=True) for text in texts]
            self._handle.write("".join([row for site in zip(*rows, strict=True) for row in site]))

    def _rows(self, explanation: Explanation) -> str:
        window = explanation.window
        # Cleaned as a whole, letter by letter, so that places stay: a text may hold tabs.
        chrom, origin, sequence = bed_text(window.name), window.start, safe_text(window.sequence)
        scores = np.vstack([explanation.mask[None], explanation.rank_masks])  # (1 + R, T)
        last = f"\t{bed_text(_target_name(explanation))}" if self._with_target else ""
        starts, stops = explanation.spans[:, 0], explanation.spans[:, 1]
        if not len(starts):
            return ""
        if not (sequence.isascii() and letters.fits(scores) and (stops - starts).max() <= 16):
            row = self._row
            rows = [
                row % (chrom, start, stop, sequence[start - origin : stop - origin], *site_scores, last)
                for (start, stop), site_scores in zip(
                    explanation.spans.tolist(), scores.T.tolist(), strict=True
                )
            ]
            return "".join(rows)
        return letters.join(
            [
                chrom.encode() + b"\t",
                letters.integers(starts),
                b"\t",
                letters.integers(stops),
                b"\t",
                letters.pieces(sequence.encode(), starts - origin, stops - origin),
                letters.decimals(scores.T),
                last.encode() + b"\n",
            ]
        )


def _target_name(explanation: Explanation) -> str:
    """Whose mask an explanation holds; ``.`` where it is that of the predicted classes."""
    target = explanation.target
    if target is None:
        return "."
    return f"{target.name}-{target.against}" if target.against else target.name


class PredictionsWriter:
    """One row per window, and one per record that was skipped: no record read is without a row.

    Parameters
    ----------
    handle: where to write; the header line is written at once.
    ranks: as in :class:`BedWriter`; each gives columns ``<rank>`` and ``<rank>_probability``, see
        :func:`rank_columns`.
    threshold, min_length: what a relevant chunk is, for ``relevant_share``: the share of the window's bases
        that lie in relevant chunks.
    with_target: whether three more columns say what was asked for: ``target``, ``target_against`` (the other
        class of a contrast) and ``target_probability``.  A window then has a row per target.

    ``status`` is ``unsure`` where the Explanandum is not sure enough of any taxon to name it (of one rank,
    where that alone is asked for); what it leans to, with which probability, stands in the row nevertheless.
    """

    def __init__(
        self,
        handle: TextOutput,
        ranks: Sequence[str],
        *,
        threshold: float = 0.5,
        min_length: int = 1,
        with_target: bool = False,
    ) -> None:
        self._handle = handle
        self._threshold = threshold
        self._min_length = min_length
        self._with_target = with_target
        taken = {"name", "start", "end", "status", "relevant_share"}
        taken |= {"target", "target_against", "target_probability"}
        names = rank_columns(ranks, taken)
        columns = [column for name in names for column in (name, f"{name}_probability")]
        columns.append("relevant_share")
        if with_target:
            columns += ["target", "target_against", "target_probability"]
        self._n_blank = len(columns)
        handle.write(_join(["#name", "start", "end", "status", *columns]))

    def write(self, explanation: Explanation) -> None:
        """Write the row of one window, with status ``ok`` or ``unsure``."""
        self.write_group([Finding(explanation, self._threshold, self._min_length)])

    def write_group(self, findings: Sequence[Finding]) -> None:
        """Write a row for each target that one window was explained for."""
        self._handle.write("".join([self._row(finding) for finding in findings]))

    def _row(self, finding: Finding) -> str:
        explanation, window = finding.explanation, finding.window
        status = "unsure" if finding.label is None else "ok"
        fields = [bed_text(window.name), str(window.start), str(window.stop), status]
        for taxon, probability in zip(explanation.lineage, explanation.probabilities, strict=True):
            fields += [safe_text(taxon), f"{probability:.6f}"]
        relevant_bp = explanation.relevant_bp(finding.threshold, finding.min_length)
        fields.append(f"{relevant_bp / (window.stop - window.start):.4f}")
        if self._with_target:
            target = explanation.target
            fields += (
                [".", ".", "."]
                if target is None
                else [safe_text(target.name), safe_text(target.against), f"{target.probability:.6f}"]
            )
        return _join(fields)

    def write_skipped(self, name: str, length: int, reason: str) -> None:
        """Write the row of a record without a window, with status ``skipped:<reason>``."""
        fields = [bed_text(name), "0", str(length), f"skipped:{safe_text(reason)}"]
        self._handle.write(_join([*fields, *["."] * self._n_blank]))
