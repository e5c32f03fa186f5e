"""Explanations as tags of BAM records."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pysam
import pytest
from findings import TAXONOMY, find

from wyrcli.bam_writer import Program, add_program, open_bam, scale_scores
from wyrcli.errors import WyrError
from wyrcli.explanation import Target
from wyrcli.finding import Finding

needs_samtools = pytest.mark.skipif(shutil.which("samtools") is None, reason="samtools is not installed")
PROGRAM = Program("1.2", "wyr explain x\ty", "model demo")
HEADER = {
    "HD": {"VN": "1.6", "SO": "coordinate"},
    "SQ": [{"SN": "chr1", "LN": 1000}],
    "RG": [{"ID": "a", "SM": "s"}],
    "PG": [{"ID": "bwa", "PN": "bwa"}, {"ID": "wyr", "PN": "wyr", "PP": "bwa"}],
}


def write(path: Path, *findings: Finding) -> Path:
    """A BAM file of these."""
    with open_bam(str(path), TAXONOMY, PROGRAM) as writer:
        for finding in findings:
            writer.write(finding)
    return path


def read(path: Path) -> list[pysam.AlignedSegment]:
    """All its records."""
    with pysam.AlignmentFile(str(path), "rb", check_sq=False) as file:
        return list(file.fetch(until_eof=True))


def aligned(
    name: str, cigar: str, *, flag: int = 0, header: dict = HEADER, **tags: object
) -> pysam.AlignedSegment:
    """An alignment to chr1 from position 100 on."""
    segment = pysam.AlignedSegment(pysam.AlignmentHeader.from_dict(header))
    segment.query_name, segment.flag, segment.cigarstring = name, flag, cigar
    segment.reference_id, segment.reference_start, segment.mapping_quality = 0, 100, 60
    n = segment.infer_query_length()
    segment.query_sequence = ("ACGTTG" * n)[:n]
    segment.query_qualities = pysam.qualitystring_to_array("I" * n)
    for tag, value in tags.items():
        segment.set_tag(tag, value)
    return segment


@needs_samtools
def test_fastq_becomes_unaligned_bam(tmp_path):
    """Sequence, qualities and tags; windows that were left out are N; samtools is content."""
    path = write(
        tmp_path / "x.bam",
        find("r1", [0.0, 0.5], qualities="ABCDEFGHIJKL", length=30),
        find("r1", [1.0], start=18, qualities="MNOPQR", length=30),
        find("r2", [0.25], record=1, sure=(False,) * 3),
    )
    subprocess.run(["samtools", "quickcheck", "-u", path], check=True)
    shown = subprocess.run(["samtools", "view", "-h", path], capture_output=True, text=True, check=True)
    assert not shown.stderr
    assert "@HD\tVN:1.6\tSO:unsorted\tGO:query" in shown.stdout
    assert "@PG\tID:wyr\tPN:wyr\tVN:1.2\tCL:wyr explain x_y\tDS:model demo" in shown.stdout
    first, second = read(path)
    assert first.query_name == "r1" and first.flag == 4
    assert first.query_sequence == "ACGTTNACGTTN" + "N" * 6 + "ACGTTN" + "N" * 6
    assert (
        pysam.qualities_to_qualitystring(first.query_qualities)
        == "ABCDEFGHIJKL" + "!" * 6 + "MNOPQR" + "!" * 6
    )
    tags = dict(first.get_tags())
    assert (tags["wl"], tags["wr"], tags["wt"], tags["wn"]) == ("Nyavirus", "genus", 1513294, 30)
    assert tags["wp"] == pytest.approx(0.5)
    assert tags["ws"].tolist() == [0] * 6 + [128] * 6 + [0] * 6 + [255] * 6 + [0] * 6
    assert {t for t, _ in second.get_tags()} == {"ws", "wn"}
    assert second.query_qualities is None
    fastq = subprocess.run(
        ["samtools", "fastq", "-n", path], capture_output=True, text=True, check=True
    ).stdout
    assert fastq.splitlines()[1] == first.query_sequence


@needs_samtools
def test_bam_records_keep_what_they_have(tmp_path):
    """Tags go as sequenced, whichever way the read is aligned; tags of an earlier run go."""
    forward = aligned("f", "12M", RG="a", MM="C+m,0;", wl="old", wt=3)
    backward = aligned("b", "3S9M", flag=16, NM=1)
    path = write(
        tmp_path / "x.bam",
        find("f", [0.0, 1.0], source=forward),
        find("b", [0.0], record=1, source=backward),
        find("b", [1.0], start=6, record=1, source=backward),
        find("u", [1.0], record=2, source=aligned("u", "6M"), sure=(False,) * 3),
    )
    subprocess.run(["samtools", "quickcheck", path], check=True)
    subprocess.run(["samtools", "index", path], check=True)
    first, second, third = read(path)
    assert first.get_tag("MM") == "C+m,0;" and first.get_tag("RG") == "a" and first.get_tag("wt") == 1513294
    assert second.cigarstring == "3S9M" and second.is_reverse and second.get_tag("NM") == 1
    for segment in (first, second):
        assert segment.get_tag("ws").tolist() == [0] * 6 + [255] * 6
        assert segment.get_tag("wn") == len(segment.query_sequence) == 12
        assert segment.query_qualities.tolist() == [40] * 12
    assert not third.has_tag("wl")
    header = pysam.AlignmentFile(str(path)).header.to_dict()
    assert header["HD"] == HEADER["HD"] and header["RG"] == HEADER["RG"]
    assert [(line["ID"], line.get("PP")) for line in header["PG"]] == [
        ("bwa", None), ("wyr", "bwa"), ("wyr.1", "wyr"),
    ]  # fmt: skip


def test_program_lines_chain():
    """After the end of the chain; names never clash."""
    assert add_program("", Program()) == "@PG\tID:wyr\tPN:wyr\n"
    ids = [("b", "a"), ("a", ""), ("wyr.1", "wyr"), ("wyr", "b")]
    header = "".join(
        f"@PG\tID:{name}\t" + (f"PP:{before}" if before else "PN:x") + "\n" for name, before in ids
    )
    assert add_program(header, Program()) == f"{header}@PG\tID:wyr.2\tPN:wyr\tPP:wyr.1\n"


def test_targets_and_contrasts(tmp_path):
    """The target is what is named; signed scores have a signed array."""
    target = Target("T4", 2, 0.25, against="Nyavirus")
    (segment,) = read(write(tmp_path / "x.bam", find("r", [-1.0, 0.5], target=target)))
    assert (segment.get_tag("wl"), segment.get_tag("wt"), segment.get_tag("wp")) == ("T4", 10663, 0.25)
    assert segment.get_tag("ws").tolist() == [-127] * 6 + [64] * 6
    assert segment.get_tag("ws").typecode == "b"
    assert scale_scores(np.linspace(0, 1, 257, dtype=np.float32)).tolist() == [*range(256), 255]


def test_headers_that_differ(tmp_path):
    """One BAM file has one header: the same one twice is fine, another is refused."""
    other = {**HEADER, "SQ": [{"SN": "chr2", "LN": 1000}]}
    again = find("b", [1.0], record=1, source=aligned("b", "6M", header=dict(HEADER)))
    first = find("a", [1.0], source=aligned("a", "6M"))
    assert len(read(write(tmp_path / "x.bam", first, again))) == 2
    for second in (aligned("c", "6M", header=other), None):
        with pytest.raises(WyrError, match="differ in reference sequences or read groups"):
            write(tmp_path / "y.bam", first, find("c", [1.0], record=1, source=second))
    assert [p.name for p in tmp_path.iterdir()] == ["x.bam"]


def test_names_that_bam_cannot_hold(tmp_path):
    """254 letters are a name, 255 are none."""
    (segment,) = read(write(tmp_path / "x.bam", find("x" * 254, [1.0])))
    assert segment.query_name == "x" * 254
    for name in ("x" * 255, "été"):
        with pytest.raises(WyrError, match=r"cannot be the name of a BAM record.*--safe-names"):
            write(tmp_path / "y.bam", find(name, [1.0]))


def test_qualities_that_bam_cannot_hold(tmp_path):
    """An error that names the record; dnaio reads them."""
    for letter, shown in ((" ", "' '"), ("\x1f", r"'\\x1f'"), ("\x7f", r"'\\x7f'")):
        finding = find("a", [1.0], record=4, qualities="II" + letter + "III")
        with pytest.raises(WyrError, match=rf"x.bam: record 5 \('a'\) has the quality {shown}; expected"):
            write(tmp_path / "x.bam", finding)
    (segment,) = read(write(tmp_path / "y.bam", find("a", [1.0], qualities="!~IIII")))
    assert segment.query_qualities.tolist() == [0, 93, 40, 40, 40, 40]
    assert [p.name for p in tmp_path.iterdir()] == ["y.bam"]


@needs_samtools
def test_empty_bam_has_a_header(tmp_path):
    """samtools takes it."""
    path = write(tmp_path / "x.bam")
    subprocess.run(["samtools", "quickcheck", "-u", path], check=True)
    assert read(path) == []
