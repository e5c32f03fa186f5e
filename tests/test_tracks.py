"""bedGraph, bigWig and GFF3: what browsers and bedtools read back is what was explained."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import urllib.parse

import numpy as np
import pysam
import pytest
from findings import HOSTILE, TAXONOMY, explain, find
from hypothesis import given
from hypothesis import strategies as st

from wyrcli import tracks
from wyrcli.calls import known_taxids
from wyrcli.errors import WyrError
from wyrcli.explanation import Target
from wyrcli.finding import Finding
from wyrcli.indexing import tabix
from wyrcli.outputs import open_output
from wyrcli.tracks import BedGraphWriter, Gff3Writer, escape_gff3, open_bigwig
from wyrcli.writers import BED_COLUMNS, BedWriter

needs_bedtools = pytest.mark.skipif(shutil.which("bedtools") is None, reason="bedtools is not installed")


# ---------------------------------------------------------------- bedGraph


def bedgraph(*findings: Finding) -> list[tuple[str, int, int, float]]:
    """The rows that are written."""
    handle = io.StringIO()
    writer = BedGraphWriter(handle)
    for finding in findings:
        writer.write(finding)
    header, *rows = handle.getvalue().splitlines()
    assert header == "#chrom\tstart\tend\tscore"
    fields = [row.split("\t") for row in rows]
    return [(name, int(a), int(b), float(v)) for name, a, b, v in fields]


def test_bedgraph_by_hand():
    """Runs of one value are one row; signs stay; positions are those of the record."""
    rows = bedgraph(find("r1", [0.5, 0.5, -0.25], start=12), find("r 2", [1.0], width=1, record=1))
    assert rows == [("r1", 12, 24, 0.5), ("r1", 24, 30, -0.25), ("r_2", 0, 1, 1.0)]


@given(st.lists(st.floats(-20, 20, width=32), max_size=60), st.integers(1, 7), st.integers(0, 1000))
def test_bedgraph_says_what_the_bases_say(masks, width, start):
    """Rows tile the window without overlap, and each base has its score, to four decimals."""
    finding = find("r", masks, width=width, start=start)
    at = start
    scores: list[float] = []
    for _, first, stop, value in bedgraph(finding):
        assert first == at and stop > first
        scores += [value] * (stop - first)
        at = stop
    assert at == finding.window.stop
    assert np.allclose(scores, finding.base_scores, atol=0.51e-4)


@needs_bedtools
def test_bedtools_and_tabix_read_the_bedgraph(tmp_path):
    """sort, merge and intersect lose no base, and tabix finds rows."""
    path = tmp_path / "x.bedgraph.gz"
    with open_output(str(path), lambda p: tabix(p, "bed")) as handle:
        writer = BedGraphWriter(handle)
        for record in range(3):
            for window in range(3):
                writer.write(find(f"r{record}", [0.1, 0.9, 0.9], record=record, start=18 * window))
    assert (tmp_path / "x.bedgraph.gz.tbi").exists()
    for command in (["sort", "-i", path], ["merge", "-i", path], ["intersect", "-a", path, "-b", path, "-u"]):
        done = subprocess.run(["bedtools", *map(str, command)], capture_output=True, text=True, check=True)
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert sum(int(row[2]) - int(row[1]) for row in rows) == 3 * 3 * 18 and not done.stderr
    with pysam.TabixFile(str(path)) as file:
        assert [row.split("\t")[1:] for row in file.fetch("r1", 18, 24)] == [["18", "24", "0.1000"]]


# ---------------------------------------------------------------- bigWig


def bigwig(path, *findings: Finding):
    """An open bigWig file of these."""
    module = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    with open_bigwig(str(path)) as writer:
        for finding in findings:
            writer.write(finding)
    file = module.open(str(path))
    assert file.isBigWig()
    return file


@given(
    records=st.lists(
        st.tuples(
            st.lists(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9), max_size=3), st.booleans()
        ),
        max_size=4,
    )
)
def test_bigwig_says_what_the_bases_say(tmp_path_factory, records):
    """Signed, per base, in windows with gaps between them, whatever the order of names."""
    path = tmp_path_factory.mktemp("bw") / "x.bw"
    findings, expected = [], {}
    for number, (windows, gap) in enumerate(records):
        name = f"r{9 - number}"
        at, scores = 0, []
        for masks in windows:
            finding = find(name, masks, start=at, record=number, length=100)
            scores += [float("nan")] * (at - len(scores)) + finding.base_scores.tolist()
            findings.append(finding)
            at = finding.window.stop + 6 * gap
        if windows:
            expected[name] = scores
    file = bigwig(path, *findings)
    assert file.chroms() == ({name: max(100, len(v)) for name, v in expected.items()} or {"none": 1})
    assert list(file.chroms()) == sorted(file.chroms())
    for name, scores in expected.items():
        assert np.array_equal(
            file.values(name, 0, len(scores), numpy=True), np.float32(scores), equal_nan=True
        )
    file.close()


def test_bigwig_of_long_records_is_written_in_blocks(tmp_path, monkeypatch):
    """Blocks leave no seam, and memory holds one line for windows that meet."""
    monkeypatch.setattr(tracks, "_BLOCK", 7)
    masks = np.random.default_rng(0).random((20, 10)).astype(np.float32)
    findings = [find("chr", row, start=60 * i, length=1200) for i, row in enumerate(masks)]
    file = bigwig(tmp_path / "x.bw", *findings)
    assert np.array_equal(file.values("chr", 0, 1200, numpy=True), np.repeat(masks.ravel(), 6))
    spool = tracks.BigWigSpool("x")
    spool.declare("chr", 1200)
    for finding in findings:
        spool.add("chr", finding.window.start, finding.base_scores)
    assert spool._stretches == {"chr": [[0, 1200, 0]]}
    spool.close()


def test_bigwig_refusals(tmp_path, monkeypatch):
    """Two records of one name, and too many records: one line, and no file."""
    path = tmp_path / "x.bw"
    with pytest.raises(WyrError, match=r"two records are called 'a'.*--safe-names"):
        bigwig(path, find("a", [1.0]), find("a", [1.0], record=1))
    monkeypatch.setattr(tracks, "MAX_BIGWIG_SEQUENCES", 2)
    with pytest.raises(WyrError, match="more than 2 records are too many"):
        bigwig(path, *[find(f"r{i}", [1.0], record=i) for i in range(3)])
    assert not list(tmp_path.iterdir())
    spool = tracks.BigWigSpool("x")
    spool.declare("a", 10)
    with pytest.raises(ValueError, match="not a number"):
        spool.add("a", 0, np.array([np.nan], dtype=np.float32))
    spool.close()


@pytest.mark.parametrize("failure", [RuntimeError, SystemError, None])
def test_bigwig_on_a_full_disk(tmp_path, monkeypatch, failure):
    """Errors without a cause, and a file that is short without any, are one line."""
    pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")

    original = tracks.BigWigSpool._write

    def write(self, path):
        if failure is not None:
            raise failure("returned NULL without setting an exception")
        self._stretches["a"][0][1] -= 1  # the last value gets lost
        original(self, path)

    monkeypatch.setattr(tracks.BigWigSpool, "_write", write)
    with pytest.raises(WyrError, match=r"x.bw could not be written whole; is the disk full\?"):
        bigwig(tmp_path / "x.bw", find("a", [1.0]))
    assert not list(tmp_path.iterdir())


def test_bigwig_without_pybigwig(tmp_path, monkeypatch):
    """One line that names the extra."""
    monkeypatch.setitem(sys.modules, "pyBigWig", None)
    with pytest.raises(WyrError, match=r"wyrcli\[bigwig\]"), open_bigwig(str(tmp_path / "x.bw")):
        pytest.fail("the block was entered")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- GFF3


def read_gff3(text: str) -> list[dict[str, object]]:
    """A strict reader, from the specification, version 1.26."""
    version, *lines = text.split("\n")
    assert version == "##gff-version 3" and lines.pop() == ""
    rows = []
    for line in lines:
        fields = line.split("\t")
        assert len(fields) == 9
        seqid, source, type_, start, end, score, strand, phase, attributes = fields
        assert re.fullmatch(r"([a-zA-Z0-9.:^*$@!+_?|-]|%[0-9A-F]{2})+", seqid), seqid
        assert type_ == "sequence_feature" and source == "wyr" and (strand, phase) == (".", ".")
        assert 1 <= int(start) <= int(end)
        pairs = [pair.split("=") for pair in attributes.split(";")]
        assert all(len(pair) == 2 for pair in pairs)
        assert all(key == "Name" or key[0].islower() for key, _ in pairs)
        values = {key: [urllib.parse.unquote(v) for v in value.split(",")] for key, value in pairs}
        rows.append(
            {
                "seqid": urllib.parse.unquote(seqid),
                "start": int(start),
                "end": int(end),
                "score": float(score),
                **values,
            }
        )
    return rows


def gff3(*findings: Finding) -> list[dict[str, object]]:
    """What is written, read back."""
    handle = io.StringIO()
    writer = Gff3Writer(handle, known_taxids(TAXONOMY))
    for finding in findings:
        writer.write_group([finding])
    return read_gff3(handle.getvalue())


def test_gff3_by_hand():
    """1-based closed positions, and attributes."""
    (row,) = gff3(find("r1", [0.25, 0.75, 1.0], start=6))
    assert row == {
        "seqid": "r1",
        "start": 13,
        "end": 24,
        "score": 0.875,
        "Name": ["Nyavirus"],
        "lineage": ["Viruses", "Riboviria x", "Nyavirus"],
        "probability": ["0.5000"],
        "taxid": ["1513294"],
    }
    assert gff3() == [] == gff3(find("r1", [0.9], sure=(False, False, False)))


@pytest.mark.parametrize("name", HOSTILE)
def test_gff3_holds_any_name(name):
    """Whatever a name or a taxon holds comes back from percent signs, and breaks no row."""
    (row,) = gff3(find(name, [0.9], lineage=("Viruses", "Riboviria x", f"T{name}")))
    assert row["seqid"] == name and row["Name"] == [f"T{name}"]
    assert escape_gff3(name, seqid=True).isascii()


def test_gff3_of_a_contrast():
    """What speaks for the other class is called so, below 0."""
    target = Target("Nyavirus", 2, 0.5, against="T4")
    first, second = gff3(find("r", [0.9, 0.1, -0.75], target=target))
    assert (first["Name"], first["score"], first["probability"]) == (["Nyavirus"], 0.9, ["0.5000"])
    assert (second["Name"], second["score"], second["taxid"]) == (["T4"], -0.75, ["10663"])
    assert "probability" not in second


@needs_bedtools
def test_bedtools_and_tabix_read_the_gff3(tmp_path):
    """The same bases as the BED."""
    path = tmp_path / "x.gff3.gz"
    findings = [find(f"r{r}", [0.9, 0.1, 0.8], start=18 * w, record=r) for r in range(2) for w in range(2)]
    with open_output(str(path), lambda p: tabix(p, "gff")) as handle:
        writer = Gff3Writer(handle)
        for finding in findings:
            writer.write_group([finding])
    done = subprocess.run(["bedtools", "merge", "-i", path], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert sum(int(row[2]) - int(row[1]) for row in rows) == 4 * 12 and not done.stderr
    with pysam.TabixFile(str(path)) as file:
        assert [row.split("\t")[3:5] for row in file.fetch("r1", 30, 36)] == [["31", "36"]]


# ---------------------------------------------------------------- BED, as IGV reads it


def read_as_igv(line: str) -> dict[str, object] | None:
    """The rules of IGV desktop's IGVBEDCodec: white space parts fields, columns 7 to 9 are parsed."""
    if line.startswith(("#", "track", "browser")) or not line.strip():
        return None
    fields = re.split(r"\t| +", line)
    assert len(fields) < 12, "columns 10 to 12 are taken for exons"
    row: dict[str, object] = {"chrom": fields[0], "start": int(fields[1]), "end": int(fields[2])}
    row |= {"name": fields[3], "score": float(fields[4]), "thick": (int(fields[6]), int(fields[7]))}
    row["colour"] = tuple(int(part) for part in fields[8].split(","))
    return row


@pytest.mark.parametrize("contrast", [False, True])
def test_igv_reads_the_bed(contrast):
    """Every row, whatever the names hold; colours are colours."""
    target = Target("a b\tc", 2, 0.5, against="d e") if contrast else None
    for name in ("a b", "x\ty", "q;r", "plain"):
        handle = io.StringIO()
        writer = BedWriter(handle, TAXONOMY.ranks)
        writer.write(explain(name, [0.9, 0.0, -0.9 * contrast, 0.0, 0.55], target=target))
        rows = [row for line in handle.getvalue().splitlines() if (row := read_as_igv(line))]
        assert len(rows) == (3 if contrast else 2)
        assert all(len(row["colour"]) == 3 and 0 <= row["score"] <= 1000 for row in rows)
        assert {line.count("\t") for line in handle.getvalue().splitlines()} == {len(BED_COLUMNS) - 1}
        if contrast:
            assert [row["name"] for row in rows] == ["a_b_c", "d_e", "a_b_c"]
            assert rows[1]["score"] == 900
            assert rows[1]["colour"][0] > rows[1]["colour"][2]  # reddish, where the others are blue
            assert rows[0]["colour"][0] < rows[0]["colour"][2]
