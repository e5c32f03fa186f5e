"""Motifs as files: Biopython reads what we write, and we read it back."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO, motifs

from wyrcli.class_motifs import ClassRead, Motif
from wyrcli.errors import InputError
from wyrcli.motif_files import chunk_fasta, motif_ids, parse_meme, read_meme, render_meme, safe_id

HEADER = "MEME version 5\n\nALPHABET= ACGT\n\nBackground letter frequencies\nA 0.3 C 0.2 G 0.2 T 0.3\n\n"
HOSTILE = 'Bad\tname\n>x <script>"\x1b[31m'


def make_motif(seed: int, length: int = 7, sites: int = 40, q: float = 0.001) -> Motif:
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.multinomial(sites, rng.dirichlet([0.5] * 4)) for _ in range(length)])
    return Motif(f"motif_{seed}", counts.astype(np.float64), np.array([0.3, 0.2, 0.2, 0.3]), q=q)


def test_biopython_reads_it() -> None:
    """Names, widths, sites, background, and every count."""
    classes = {"Toyvibrio": [make_motif(1), make_motif(2, 12)], HOSTILE: [make_motif(1)]}
    text = render_meme(classes)
    record = motifs.parse(io.StringIO(text), "minimal")
    every = [motif for own in classes.values() for motif in own]
    assert [motif.name for motif in record] == [name for own in motif_ids(classes).values() for name in own]
    assert len(set(motif.name for motif in record)) == 3
    for theirs, ours in zip(record, every, strict=True):
        assert theirs.num_occurrences == 40 and theirs.evalue == pytest.approx(0.001)
        assert theirs.background == pytest.approx({"A": 0.3, "C": 0.2, "G": 0.2, "T": 0.3})
        for column, letter in enumerate("ACGT"):
            assert list(theirs.counts[letter]) == ours.counts[:, column].tolist()
        assert str(theirs.consensus) == ours.consensus
    assert "\x1b" not in text and text.isprintable() is False and text.count("MOTIF") == 3


def test_round_trip(tmp_path: Path) -> None:
    classes = {"A b": [make_motif(1), make_motif(2, 3)], "C": [make_motif(3, q=float("nan"))]}
    (tmp_path / "x.meme").write_text(render_meme(classes))
    back = read_meme(str(tmp_path / "x.meme"))
    assert [motif.name for motif in back] == ["A_b.motif_1", "A_b.motif_2", "C.motif_3"]
    for ours, theirs in zip([*classes["A b"], *classes["C"]], back, strict=True):
        assert np.allclose(ours.counts, theirs.counts, atol=1e-3)
        assert np.allclose(ours.background, theirs.background)
        assert theirs.q == pytest.approx(ours.q, nan_ok=True)
    assert parse_meme(io.StringIO(render_meme({}))) == []


def test_reads_what_biopython_writes() -> None:
    """MEME 4 as another program writes it: other spaces, no sites, URLs, a comment between motifs."""
    other = (
        "MEME version 4.4\nALPHABET= ACGT\nstrands: + -\n\nMOTIF MA0001.1 AGL3\nletter-probability matrix: "
        "alength= 4 w= 2 nsites= 97 E= 0\n  0.5  0.5  0.0  0.0\n  0.25 0.25 0.25 0.25\nURL http://x\n\n"
        "MOTIF second\nletter-probability matrix:\n1 0 0 0\n0 0 0 1\n\n# end\n"
    )
    first, second = parse_meme(other.splitlines())
    assert first.name == "MA0001.1" and first.counts[0].tolist() == [48.5, 48.5, 0, 0]
    assert second.consensus == "AT" and second.counts.sum() == 40
    assert np.allclose(first.background, 0.25)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 1, "MEME version 4"),
        (">read\nACGT\n", 1, "MEME version 4"),
        ("MEME version 3\n", 1, "MEME version 4"),
        ("MEME version 5\nALPHABET= ACDEFGHIKLMNPQRSTVWY\n", 2, "motifs of DNA"),
        ("MEME version 5\nBackground letter frequencies\nA 0.9 C 0.9 G 0.1 T 0.1\n", 3, "sum to 1"),
        (HEADER + "MOTIF\n", 8, "a motif's name"),
        (HEADER + "MOTIF a\nMOTIF b\n", 9, "letter-probability matrix"),
        (HEADER + "MOTIF a\n", 8, "letter-probability matrix"),
        (HEADER + "MOTIF a\nletter-probability matrix: w= x\n", 9, "numbers behind"),
        (HEADER + "MOTIF a\nletter-probability matrix:\n0.5 0.5 0.5 0.5\n", 10, "sum to 1"),
        (HEADER + "MOTIF a\nletter-probability matrix:\n0.5 0.5\n", 10, "sum to 1"),
        (HEADER + "MOTIF a\nletter-probability matrix:\n1 0 0 nan\n", 10, "sum to 1"),
        (HEADER + "MOTIF a\nletter-probability matrix: w= 2\n1 0 0 0\n\n", 11, "2 rows"),
        (HEADER + "MOTIF a\nletter-probability matrix: w= 2\n", 9, "2 rows"),
    ],
)
def test_what_is_no_meme(text: str, line: int, expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)) as error:
        parse_meme(text.splitlines(), "x.meme")
    assert error.value.line == line and "x.meme" in str(error.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="directory"):
        read_meme(str(tmp_path))


def test_names_are_one_word_and_differ() -> None:
    names = motif_ids({"a b": [make_motif(1)], "a_b": [make_motif(1)], "": [make_motif(1)], "é/..": []})
    assert names == {"a b": ["a_b.motif_1"], "a_b": ["a_b.motif_1-2"], "": ["unnamed.motif_1"], "é/..": []}
    assert safe_id("../../etc") == "etc" and safe_id(HOSTILE).isascii() and " " not in safe_id(HOSTILE)


def test_fasta_of_chunks() -> None:
    """Biopython finds every chunk, at its place on the record, under a name that hurts no tool."""
    scores = np.array([0.9] * 4 + [0.1] * 4 + [0.8] * 2)
    reads = [ClassRead("ACGTNNNNGG", scores, name=HOSTILE, start=100), ClassRead("ACGTNNNNGG", scores)]
    text = chunk_fasta(HOSTILE, reads)
    records = list(SeqIO.parse(io.StringIO(text), "fasta"))
    assert [str(record.seq) for record in records] == ["ACGT", "GG", "ACGT", "GG"]
    assert [record.id.rpartition(":")[2] for record in records] == ["100-104", "108-110", "0-4", "8-10"]
    assert records[2].id == "read2:0-4" and "mean_mask=0.90" in records[0].description
    assert all(line.isprintable() for line in text.split("\n"))
    assert chunk_fasta("x", []) == ""
