"""Positions on reads to positions on the reference, against pysam's own pairs."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pysam
import pytest
from findings import align, explain, find, find_aligned, random_reads
from hypothesis import given
from hypothesis import strategies as st

from wyrcli import coverage as coverage_module
from wyrcli.coverage import open_coverage
from wyrcli.errors import WyrError
from wyrcli.explanation import Target
from wyrcli.finding import Finding
from wyrcli.indexing import tabix
from wyrcli.lifting import LiftWriter, find_blocks, reference_positions

needs_bedtools = pytest.mark.skipif(shutil.which("bedtools") is None, reason="bedtools is not installed")


@st.composite
def cigars(draw) -> str:
    """Any CIGAR of a read with an aligned base: clips outside, everything else inside."""
    inner = draw(st.lists(st.tuples(st.integers(1, 9), st.sampled_from("MIDN=X")), min_size=1, max_size=9))
    inner.append((draw(st.integers(1, 5)), "M"))
    clips = [draw(st.sampled_from(["", "3H", "2S", "4H1S"])), draw(st.sampled_from(["", "2H", "3S", "1S2H"]))]
    return clips[0] + "".join(f"{n}{code}" for n, code in inner) + clips[1]


@given(cigars(), st.booleans(), st.integers(0, 1000))
def test_positions_are_those_of_pysam(cigar, reverse, start):
    """For every base of the read as sequenced."""
    segment = align(cigar, start, reverse=reverse)
    n = len(segment.query_sequence)
    expected = np.full(n, -1)
    for query, reference in segment.get_aligned_pairs(matches_only=True):
        expected[n - 1 - query if reverse else query] = reference
    assert reference_positions(segment).tolist() == expected.tolist()


def test_padding_moves_nothing():
    """Which pysam's pairs do not know."""
    plain, padded = align("3M2I4M"), align("3M1P2I3P4M")
    assert reference_positions(padded).tolist() == reference_positions(plain).tolist()


@given(cigars(), st.booleans(), st.data())
def test_blocks_are_runs_of_aligned_bases(cigar, reverse, data):
    """Of any part of a read; against a set of positions."""
    segment = align(cigar, reverse=reverse)
    n = len(segment.query_sequence)
    first = data.draw(st.integers(0, n))
    part = slice(first, data.draw(st.integers(first, n)))
    places = {
        reference
        for query, reference in segment.get_aligned_pairs(matches_only=True)
        if part.start <= (n - 1 - query if reverse else query) < part.stop
    }
    blocks = find_blocks(reference_positions(segment)[part])
    assert {i for a, b in blocks for i in range(a, b)} == places
    assert all(a < b for a, b in blocks) and all(x[1] < y[0] for x, y in pairwise(blocks))


@pytest.mark.parametrize(("reverse", "blocks"), [(False, [(65, 70), (73, 86)]), (True, [(56, 70), (73, 79)])])
def test_lift_over_a_deletion_and_an_insertion(reverse, blocks):
    """Read [20, 40) through 5S, 3D and 2I, on both strands (the facts' example)."""
    segment = align("5S20M3D10M2I14M", 50, reverse=reverse)
    assert len(segment.query_sequence) == 51
    assert find_blocks(reference_positions(segment)[20:40]) == blocks


# ---------------------------------------------------------------- rows


def lift(*findings: Finding) -> tuple[list[list[str]], LiftWriter]:
    """The rows that are written."""
    handle = io.StringIO()
    writer = LiftWriter(handle)
    for finding in findings:
        writer.write_group([finding])
    writer.finish()
    header, *rows = handle.getvalue().splitlines()
    assert header.startswith("#chrom\tchromStart") and header.count("\t") == 11
    return [row.split("\t") for row in rows], writer


def test_row_by_hand():
    """A chunk over a splice, on the other strand."""
    segment = align("4M100N4M2S", 50, reverse=True, name="a b")
    rows, writer = lift(find_aligned(segment, [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1]))
    assert rows == [
        ["chr2", "53", "158", "Nyavirus;a_b", "900", "-", "53", "158", "8,48,107", "2", "1,4", "0,101"]
    ]
    assert (writer.counts.chunks, writer.counts.without_place, writer.counts.unaligned) == (1, 0, 0)


def test_chunks_without_a_place_are_counted():
    """All clipped or inserted; of unaligned reads; of unsure ones there is no row."""
    unmapped = align("6M")
    unmapped.flag = 4
    rows, writer = lift(
        find_aligned(align("3S4M"), [0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]),
        find_aligned(unmapped, [0.9] * 6, record=1),
        find_aligned(align("6M"), [0.9] * 6, record=2, sure=(False,) * 3),
    )
    assert rows == []
    assert (writer.counts.chunks, writer.counts.without_place, writer.counts.unaligned) == (0, 1, 1)
    with pytest.raises(WyrError, match=r"--lift needs aligned reads, but 'r' comes from no BAM"):
        lift(find("r", [0.9]))


def test_contrasts_are_lifted():
    """With the other class's name and colour."""
    target = Target("T4", 2, 0.5, against="Bacillus")
    rows, _ = lift(find_aligned(align("6M"), [0.9, 0.9, 0, 0, -0.8, -0.8], target=target))
    assert [(row[3], row[4]) for row in rows] == [("T4;r", "900"), ("Bacillus;r", "800")]


@needs_bedtools
def test_sorted_reads_make_sorted_rows(tmp_path):
    """bedtools and tabix take them, blocks and all; few rows wait at a time."""
    path = tmp_path / "x.bed.gz"
    with pysam.BGZFile(str(path), "w") as file:

        class Handle:
            def write(self, text: str) -> int:
                return file.write(text.encode())

        writer = LiftWriter(Handle())
        most = 0
        for finding in random_reads(400):
            writer.write_group([finding])
            most = max(most, len(writer._waiting))
        writer.finish()
    assert writer.counts.chunks > 1000 > most
    rows = [line.split("\t") for line in pysam.BGZFile(str(path)).read().decode().splitlines()[1:]]
    assert len(rows) == writer.counts.chunks
    assert [row[0] for row in rows] == sorted(
        (row[0] for row in rows), reverse=True
    )  # chr2 is first in the header
    keys = [(row[0] == "chr1", int(row[1])) for row in rows]
    assert keys == sorted(keys)
    assert tabix(str(path), "bed") == f"{path}.tbi"
    bed6 = subprocess.run(["bedtools", "bed12tobed6", "-i", path], capture_output=True, text=True, check=True)
    assert not bed6.stderr
    lengths = sum(int(line.split("\t")[2]) - int(line.split("\t")[1]) for line in bed6.stdout.splitlines())
    assert lengths == sum(int(size) for row in rows for size in row[10].split(","))
    split = subprocess.run(
        ["bedtools", "intersect", "-split", "-u", "-a", path, "-b", path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(split.stdout.splitlines()) == len(rows)


def test_unsorted_reads_keep_their_order():
    """And lose no row; the index then is missing, which tabix says."""
    findings = random_reads(50)[::-1]
    rows, writer = lift(*findings)
    assert len(rows) == writer.counts.chunks == sum(1 for f in findings for c in f.chunks if find_blocks(
        reference_positions(f.window.source)[c.start : c.stop]
    ))  # fmt: skip
    names = list(dict.fromkeys(row[3].split(";")[1] for row in rows[5:]))
    expected = [f.window.name for f in findings if f.window.name in names]
    assert names[1:] == [name for name in expected if name in names][-len(names) + 1 :]


# ---------------------------------------------------------------- coverage


def brute(findings: Sequence[Finding]) -> dict[tuple[str, int], list[float]]:
    """Scores at each place of the reference, through pysam's pairs."""
    places: dict[tuple[str, int], list[float]] = {}
    for finding in findings:
        segment, scores = finding.window.source, finding.explanation.mask
        n = len(segment.query_sequence)
        for query, reference in segment.get_aligned_pairs(matches_only=True):
            base = n - 1 - query if segment.is_reverse else query
            if finding.window.start <= base < finding.window.stop:
                score = float(scores[base - finding.window.start])
                places.setdefault((segment.reference_name, reference), []).append(score)
    return places


def expand(path: Path) -> dict[tuple[str, int], float]:
    """A bedGraph base by base; rows must not overlap."""
    values: dict[tuple[str, int], float] = {}
    for line in path.read_text().splitlines()[1:]:
        chrom, start, stop, value = line.split("\t")
        for place in range(int(start), int(stop)):
            assert (chrom, place) not in values
            values[chrom, place] = float(value)
    return values


@pytest.mark.parametrize("lump", [1, 40, 10_000])
def test_coverage_is_the_mean_at_each_base(tmp_path, monkeypatch, lump):
    """And depth the number of reads; against a dictionary; however it is cut."""
    monkeypatch.setattr(coverage_module, "_LUMP", lump)
    findings = random_reads(150, seed=lump)
    mean, depth = tmp_path / "m.bedgraph", tmp_path / "d.bedgraph"
    with open_coverage(str(mean), str(depth)) as coverage:
        for finding in findings:
            coverage.write(finding)
    expected = brute(findings)
    assert expand(depth) == {place: len(values) for place, values in expected.items()}
    means = expand(mean)
    assert means.keys() == expected.keys()
    assert all(abs(means[place] - np.mean(values)) < 1e-4 for place, values in expected.items())


def test_windows_of_one_read_add_up(tmp_path):
    """A long read in pieces, reverse, over a splice."""
    segment = align("10M50N10M", 5, reverse=True)
    pieces = [find_aligned(segment, [0.25] * 8), find_aligned(segment, [0.75] * 12, start=8)]
    mean = tmp_path / "m.bedgraph"
    with open_coverage(str(mean), None) as coverage:
        for finding in pieces:
            coverage.write(finding)
    assert mean.read_text().splitlines()[1:] == [
        "chr2\t5\t15\t0.7500", "chr2\t65\t67\t0.7500", "chr2\t67\t75\t0.2500",
    ]  # fmt: skip


def test_coverage_as_bigwig(tmp_path):
    """All sequences of the header with their lengths, sorted by name."""
    module = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    findings = random_reads(60)
    path, depth = tmp_path / "m.bw", tmp_path / "d.bw"
    with open_coverage(str(path), str(depth), bigwig=(True, True)) as coverage:
        for finding in findings:
            coverage.write(finding)
    expected = brute(findings)
    with module.open(str(path)) as file, module.open(str(depth)) as counts:
        assert file.chroms() == {"chr1": 2_000_000, "chr2": 2_000_000}
        for chrom in ("chr1", "chr2"):
            for place, value in enumerate(file.values(chrom, 0, 1200)):
                values = expected.get((chrom, place))
                assert (values is None) == np.isnan(value)
                if values:
                    assert value == pytest.approx(np.mean(values), abs=1e-6)
                    assert counts.values(chrom, place, place + 1) == [len(values)]


def test_coverage_needs_sorted_aligned_reads(tmp_path):
    """One line each, and no file."""
    path = str(tmp_path / "m.bedgraph")
    findings = [
        find_aligned(align("6M", 90), [0.5] * 6),
        find_aligned(align("6M", 80, name="b"), [0.5] * 6, 1),
    ]
    with pytest.raises(WyrError, match=r"m.bedgraph: read 'b' lies before.*samtools sort"):
        with open_coverage(path, None) as coverage:
            for finding in findings:
                coverage.write(finding)
    with pytest.raises(WyrError, match="--coverage needs aligned reads"):
        with open_coverage(path, None) as coverage:
            coverage.write(Finding(explain("r", [0.5])))
    assert not list(tmp_path.iterdir())
    with open_coverage(path, None):
        pass
    assert Path(path).read_text() == "#chrom\tstart\tend\tmean_score\n"


def test_coverage_memory_is_bounded_by_overlap(tmp_path):
    """Ten thousand reads along a chromosome: the sums stay as long as a lump and a read."""
    path = str(tmp_path / "m.bedgraph")
    with open_coverage(path, None) as coverage:
        for record in range(2000):
            coverage.write(find_aligned(align("20M", 500 * record), [0.5] * 20, record))
            assert len(coverage._sums) <= 4 * coverage_module._LUMP
