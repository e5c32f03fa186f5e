"""Cases for what is written of aligned reads: lifted chunks, coverage, depth, BAM that keeps its records.

The oracle is a pile-up, base by base, from the pairs of places that pysam gives.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyBigWig
import pysam
from fuzz_writers import WINDOW, make_scores, make_sites, slow_scores, table

from wyrcli.explanation import Explanation, Target, Window
from wyrcli.formats import Settings
from wyrcli.results import Requests, open_results
from wyrcli.stitching import join_chunks
from wyrcli.taxonomy import Taxonomy

CHROMOSOMES = ("chr2", "HLA-A*01:01", "chr1")
TAXONOMY = Taxonomy(("genus",), (("A", "B; c"),), ((11, 12),))
Place = tuple[str, int]


def make_alignments(rng: random.Random) -> list[pysam.AlignedSegment]:
    """Sorted by coordinate, with clips, gaps, splices and insertions, in both directions; unaligned last."""
    header = pysam.AlignmentHeader.from_dict({"SQ": [{"SN": name, "LN": 100_000} for name in CHROMOSOMES]})
    places = [
        (rng.randrange(3), rng.choice([0, rng.randrange(300), rng.randrange(90_000)]))
        for _ in range(rng.choice([1, 2, 5, 12]))
    ]
    segments = []
    for number, (chrom, start) in enumerate([*sorted(places), *[(-1, -1)] * rng.choice([0, 0, 1])]):
        segment = pysam.AlignedSegment(header)
        segment.query_name = rng.choice([f"r{number}", "twice", "#x", "track"])
        inner = [f"{rng.randint(1, 40)}{rng.choice('MMMIDN=X')}" for _ in range(rng.randint(0, 5))]
        ends = [rng.choice(["", "4H", "5S", "3H2S"]), rng.choice(["", "4H", "5S", "2S3H"])]
        if chrom >= 0:
            segment.cigarstring = "".join([ends[0], "6M", *inner, "3M", ends[1]])
        length = segment.infer_query_length() if chrom >= 0 else 30
        segment.flag = 16 * rng.randrange(2) if chrom >= 0 else 4
        segment.reference_id, segment.reference_start = chrom, start
        segment.query_sequence = "".join(rng.choices("ACGT", k=length))
        segments.append(segment)
    return segments


def pair_bases(segment: pysam.AlignedSegment) -> dict[int, int]:
    """Of each aligned base of a read, by its place as sequenced, the place on the reference."""
    if segment.reference_id < 0:
        return {}
    pairs = dict(segment.get_aligned_pairs(matches_only=True))
    length = segment.query_length
    return {length - 1 - own: place for own, place in pairs.items()} if segment.is_reverse else pairs


def explain_reads(rng: random.Random, threshold: float, contrast: bool) -> list[Explanation]:
    """One or two windows of each read."""
    target = Target("A", 0, 0.5, "B; c") if contrast else None
    groups = []
    for record, segment in enumerate(make_alignments(rng)):
        sequence = segment.get_forward_sequence()
        length = len(sequence)
        border = rng.choice([length, length // 2])
        style = rng.choice(["tokens", "bases", "gaps"])
        for start, stop in [(0, border), (border, length)]:
            if start == stop:
                continue
            window = Window(
                record, segment.query_name, start, stop, sequence[start:stop], segment, "", length
            )
            spans = np.array(make_sites(rng, window, style), dtype=np.int64).reshape(-1, 2)
            mask = make_scores(rng, len(spans))
            if contrast:
                mask = (mask - make_scores(rng, len(spans))).astype(np.float32)
            groups.append([Explanation(window, ("A",), (0.75,), mask, mask[None], spans, target)])
    return [explanation for (explanation,) in join_chunks(groups, threshold)]


def check_aligned(rng: random.Random, folder: Path) -> None:
    """Lifted chunks, coverage and depth are those of the pile-up."""
    threshold, contrast = rng.choice([0.5, 0.2]), rng.random() < 0.3
    explanations = explain_reads(rng, threshold, contrast)
    settings = Settings(TAXONOMY, WINDOW, threshold=threshold, with_target=contrast)
    requests = Requests(
        [str(folder / "x.bam"), str(folder / "x.bed")],
        lift=str(folder / "lift.bed"),
        coverage=str(folder / "mean.bedgraph"),
        depth=str(folder / "depth.bw"),
    )
    with open_results(requests, settings) as results:
        for explanation in explanations:
            results.write(explanation)
    check_lifted(explanations, threshold, (folder / "lift.bed").read_text("utf-8"))
    check_coverage(explanations, folder)
    with pysam.AlignmentFile(str(folder / "x.bam"), "rb") as file:
        written = [segment.query_name for segment in file.fetch(until_eof=True)]
    windows = [explanation.window for explanation in explanations]
    assert written == [name for _, name in dict.fromkeys((w.record, w.name) for w in windows)]


def check_lifted(explanations: list[Explanation], threshold: float, text: str) -> None:
    """Each chunk with an aligned base is a row, whose blocks are these bases; rows are sorted."""
    lifted = [lift_row(row) for row in table(text, 12)]
    wanted: Counter[tuple[str, frozenset[int], str]] = Counter()
    for explanation in explanations:
        segment = explanation.window.source
        pairs = pair_bases(segment)
        for chunk in explanation.joined_chunks(threshold):
            if places := frozenset(pairs[i] for i in range(chunk.start, chunk.stop) if i in pairs):
                wanted[segment.reference_name, places, "-" if segment.is_reverse else "+"] += 1
    assert Counter(lifted) == wanted, "lifted chunks are not those of the pile-up"
    order = [(CHROMOSOMES.index(chrom), min(places)) for chrom, places, _ in lifted]
    assert order == sorted(order), "lifted rows are not sorted"


def lift_row(row: list[str]) -> tuple[str, frozenset[int], str]:
    """Chromosome, bases and strand of a row of BED12, whose columns must agree with each other."""
    start, stop = int(row[1]), int(row[2])
    sizes, offsets = ([int(n) for n in row[i].rstrip(",").split(",")] for i in (10, 11))
    assert len(sizes) == len(offsets) == int(row[9])
    assert offsets[0] == 0 and start + offsets[-1] + sizes[-1] == stop
    assert all(a + size < b for a, size, b in zip(offsets, sizes, offsets[1:], strict=False))
    assert 0 <= int(row[4]) <= 1000 and row[6:8] == row[1:3]
    places = {start + a + i for a, size in zip(offsets, sizes, strict=True) for i in range(size)}
    return row[0], frozenset(places), row[5]


def check_coverage(explanations: list[Explanation], folder: Path) -> None:
    """Mean and depth at each base of the reference."""
    sums: dict[Place, float] = {}
    depths: Counter[Place] = Counter()
    for explanation in explanations:
        segment = explanation.window.source
        pairs = pair_bases(segment)
        for own, score in slow_scores(explanation).items():
            if own in pairs:
                place = segment.reference_name, pairs[own]
                sums[place] = sums.get(place, 0.0) + score
                depths[place] += 1
    found: dict[Place, float] = {}
    for chrom, start, stop, value in table((folder / "mean.bedgraph").read_text("utf-8"), 4):
        for i in range(int(start), int(stop)):
            assert (chrom, i) not in found, "rows overlap"
            found[chrom, i] = float(value)
    assert found.keys() == sums.keys()
    assert all(abs(found[place] - sums[place] / depths[place]) <= 0.52e-4 for place in sums)
    with pyBigWig.open(str(folder / "depth.bw")) as file:
        assert file.header()["nBasesCovered"] == len(depths)
        for chrom in file.chroms() if depths else ():
            for start, stop, value in file.intervals(chrom) or ():
                assert all(depths[chrom, i] == value for i in range(start, stop))
