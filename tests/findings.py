"""Explanations made by hand, for the tests of what is written about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pysam

from wyrcli.explanation import Explanation, Target, Window
from wyrcli.finding import Finding
from wyrcli.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    ("superkingdom", "phylum", "genus"),
    (("Bacteria", "Viruses"), ("Firmicutes", "Riboviria x", "Uro;viricota"), ("Bacillus", "Nyavirus", "T4")),
    ((2, 10239), (1239, 2559587, 2731618), (1386, 1513294, 10663)),
)
RANKS = TAXONOMY.ranks
LINEAGE = ("Viruses", "Riboviria x", "Nyavirus")

HOSTILE = [
    "plain",
    "a b",
    "tab\tbed",
    "new\nline",
    "track1",
    "#hash",
    ">arrow",
    "semi;colon=1,2&3%",
    "A00:1:2/1",
    "<script>alert(1)</script>",
    "\x1b[31mred",
    "a%sb",
    '"quoted"',
    "été",
    "@at",
]


def explain(
    name: str,
    masks: Any,
    *,
    start: int = 0,
    record: int = 0,
    width: int = 6,
    lineage: tuple[str, ...] = LINEAGE,
    probabilities: tuple[float, ...] = (0.875, 0.75, 0.5),
    rank_masks: Any = None,
    target: Target | None = None,
    sure: tuple[bool, ...] = (),
    source: Any = None,
    qualities: str = "",
    length: int = 0,
    sequence: str | None = None,
) -> Explanation:
    """An Explanation whose sites are ``width`` bp wide; by default all ranks have the mask itself."""
    mask = np.array(masks, dtype=np.float32)
    starts = start + width * np.arange(len(mask), dtype=np.int64)
    if sequence is None:
        sequence = ("ACGTTN" * (width * len(mask)))[: width * len(mask)]
    window = Window(record, name, start, start + width * len(mask), sequence, source, qualities, length)
    by_rank = np.tile(mask, (len(lineage), 1)) if rank_masks is None else np.array(rank_masks, np.float32)
    spans = np.stack([starts, starts + width], axis=1)
    return Explanation(window, lineage, probabilities, mask, by_rank, spans, target, sure)


def find(*arguments: Any, **options: Any) -> Finding:
    """A Finding of such an Explanation."""
    return Finding(explain(*arguments, **options))


# ---------------------------------------------------------------- aligned reads

HEADER = pysam.AlignmentHeader.from_dict(
    {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": n, "LN": 2_000_000} for n in ("chr2", "chr1")]}
)


def align(
    cigar: str, start: int = 50, *, reverse: bool = False, name: str = "r", chrom: int = 0
) -> pysam.AlignedSegment:
    """A read of that CIGAR."""
    segment = pysam.AlignedSegment(HEADER)
    segment.query_name, segment.flag, segment.reference_id = name, 16 * reverse, chrom
    segment.reference_start, segment.cigarstring = start, cigar
    segment.query_sequence = "A" * segment.infer_query_length()
    return segment


def find_aligned(
    segment: pysam.AlignedSegment, masks: Sequence[float], record: int = 0, **options
) -> Finding:
    """What was found in a read, base by base."""
    return find(segment.query_name, masks, width=1, source=segment, record=record, **options)


def random_reads(n: int, seed: int = 0, chroms: int = 2) -> list[Finding]:
    """Aligned reads sorted by coordinate, with splices, gaps and clips."""
    generator = np.random.default_rng(seed)
    places = sorted(
        (int(c), int(p))
        for c, p in zip(generator.integers(0, chroms, n), generator.integers(0, 900, n), strict=True)
    )
    findings = []
    for record, (chrom, start) in enumerate(places):
        cigar = generator.choice(["30M", "5S20M200N10M", "10M2D10M3I10M", "2H12M1I12M4S"])
        segment = align(
            str(cigar), start, reverse=bool(generator.integers(2)), name=f"r{record}", chrom=chrom
        )
        masks = generator.random(len(segment.query_sequence)).round(2)
        findings.append(find_aligned(segment, masks, record))
    return findings
