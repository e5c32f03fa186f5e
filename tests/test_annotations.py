"""The same features from GenBank, GFF3 and BED, and files that are none of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from Bio.Seq import Seq
from Bio.SeqFeature import BeforePosition, CompoundLocation, ExactPosition, SeqFeature, SimpleLocation
from Bio.SeqIO import write
from Bio.SeqRecord import SeqRecord
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.annotations import Annotations, describe_unknown, merge_intervals, read_annotations
from wyrcli.errors import InputError

GFF = """##gff-version 3
##sequence-region A.1 1 100
A.1\tx\tregion\t1\t100\t.\t+\t.\tIs_circular=true
A.1\tx\tCDS\t11\t20\t.\t-\t0\tID=c1
A.1\tx\tCDS\t31\t40\t.\t+\t0\tID=c2
A.1\tx\trRNA\t1\t5\t.\t+\t.\tID=r
A.1\tx\ttRNA\t91\t108\t.\t+\t.\tID=t
B.1\tx\tCDS\t2\t2\t.\t+\t0\tID=d
##FASTA
>A.1
ACGT
"""
BED = """track name=x
A.1\t10\t20\tCDS\t0\t-
A.1\t30\t40\tCDS\t0\t+
A.1\t0\t5\trRNA
A.1\t90\t100\ttRNA
A.1\t0\t8\ttRNA
B.1\t1\t2\tCDS
"""


@pytest.fixture
def genbank(tmp_path: Path) -> Path:
    """The features of GFF, a joined one and one over the end of a circle among them."""
    a = SeqRecord(Seq("ACGTA" * 20), id="A.1", name="A", annotations={"molecule_type": "DNA"})
    wraps = CompoundLocation([SimpleLocation(90, 100, 1), SimpleLocation(0, 8, 1)])
    joined = CompoundLocation([SimpleLocation(10, 20, -1), SimpleLocation(30, 40, -1)])
    a.features = [
        SeqFeature(SimpleLocation(0, 100, 1), "source"),
        SeqFeature(joined, "CDS"),
        SeqFeature(SimpleLocation(BeforePosition(0), ExactPosition(5), 1), "rRNA"),
        SeqFeature(wraps, "tRNA"),
    ]
    b = SeqRecord(Seq("ACGT"), id="B.1", name="B", annotations={"molecule_type": "DNA"})
    b.features = [SeqFeature(SimpleLocation(1, 2, 1), "CDS")]
    path = tmp_path / "a.gbff"
    write([a, b], path, "genbank")
    return path


def saved(folder: Path, text: str, name: str = "x.txt") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def covered(found: Annotations) -> dict[str, list[str]]:
    """Bases of A.1 by type, as text."""
    kinds = zip(found.types, found.cover("A.1", 0, 100), strict=True)
    return {kind: np.flatnonzero(row).tolist() for kind, row in kinds}


def test_three_formats_agree(genbank: Path, tmp_path: Path) -> None:
    packed = tmp_path / "a.gbff.gz"
    packed.write_bytes(gzip.compress(genbank.read_bytes()))
    paths = [str(genbank), str(packed), saved(tmp_path, GFF), saved(tmp_path, BED, "x.bed")]
    first, *others = [read_annotations([path]) for path in paths]
    expected = {
        "CDS": [*range(10, 20), *range(30, 40)],
        "rRNA": list(range(5)),
        "tRNA": [*range(8), *range(90, 100)],
    }
    assert covered(first) == expected
    for other in others:
        assert covered(other) == expected and other.records == {"A.1", "B.1"}
        assert other.counts == {"CDS": 3, "rRNA": 1, "tRNA": 2}
    assert covered(read_annotations(paths)) == expected, "the union of equal ones"


def test_windows_are_pieces_of_records(tmp_path: Path) -> None:
    """Places of a window are counted from its start."""
    found = read_annotations([saved(tmp_path, BED)], ["CDS"])
    assert found.types == ("CDS",)
    assert np.flatnonzero(found.cover("A.1", 15, 35)[0]).tolist() == [0, 1, 2, 3, 4, *range(15, 20)]
    assert not found.cover("A.1", 20, 30).any() and found.cover("A.1", 12, 14).all()
    assert found.cover("nobody", 0, 7).shape == (1, 7) and not found.cover("nobody", 0, 7).any()


def test_bed_without_types_is_called_like_its_file(tmp_path: Path) -> None:
    found = read_annotations([saved(tmp_path, "#chrom\nA.1 3 5\n\n", "islands.v1.bed")])
    assert found.types == ("islands",)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=12))
def test_merged_intervals_cover_the_same(pairs: list[tuple[int, int]]) -> None:
    intervals = np.array([(a, a + n) for a, n in pairs], np.int64).reshape(-1, 2)
    merged = merge_intervals(intervals)
    assert (merged[1:, 0] > merged[:-1, 1]).all()
    bases = [{b for a, z in own.tolist() for b in range(a, z)} for own in (intervals, merged)]
    assert bases[0] == bases[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A.1\tx\tCDS\t0\t5\t.\t+\t.\t\n", "line 1: found a feature -1 to 5; expected 1 <= start <= end"),
        ("##gff-version 3\nA.1\tx\tCDS\tone\t5\n", r"line 2: found 'A.1.*expected GFF3"),
        ("A.1\t9\t5\n", "line 1: found a feature 9 to 5"),
        ("hello\n", "line 1: found 'hello'; expected GenBank, GFF3, or BED"),
        ("# nothing\n", "there is no feature"),
        ("", "there is no feature"),
        ("LOCUS       A  4 bp  DNA\nFEATURES\n", "the record is cut off"),
        ("".join(f"A 1 2 gene{i}\n" for i in range(300)), "more than 200 types"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_annotations([saved(tmp_path, text)])


def test_type_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no feature has the type 'cds'; the most frequent: CDS, tRNA, rRNA"):
        read_annotations([saved(tmp_path, BED)], ["CDS", "cds"])


def test_odd_location_costs_one_feature(genbank: Path) -> None:
    text = genbank.read_text().replace("<1..5", "(oddly)")
    assert "(oddly)" in text
    genbank.write_text(text)
    found = read_annotations([str(genbank)])
    assert found.unplaced == 1 and found.types == ("CDS", "tRNA")


def test_unknown_records(tmp_path: Path) -> None:
    found = read_annotations([saved(tmp_path, BED)])
    assert describe_unknown(["A.1", "B.1", "A.1"], found) == ""
    told = describe_unknown(["A.1", "C", "C", "D\x1b"], found)
    assert told.startswith("2 of 3 records of the windows, such as 'C', are not")
    with pytest.raises(InputError, match=r"none of the 1 record of the windows: 'A\.1' there, 'A' here"):
        describe_unknown(["A", "A"], found)
