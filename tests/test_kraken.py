"""Calls of reads in Kraken's formats, read by strict readers written from its manual."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from findings import LINEAGE, RANKS, TAXONOMY, explain, find
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.calls import Ballot
from wyrcli.errors import WyrError
from wyrcli.finding import Finding
from wyrcli.kraken import KrakenWriter, _RunList, open_kraken, rank_codes
from wyrcli.outputs import open_output
from wyrcli.taxonomy import Taxonomy

# MultiQC 1.2x: search_patterns.yaml (in the first two lines), and the row pattern of its Kraken module
MULTIQC_FILE = (
    r"^\s{0,2}(\d{1,3}\.\d{1,2})\t(\d+)\t(\d+)\t((\d+)\t(\d+)\t)?([URDKPCOFGS-]\d{0,2})\t(\d+)(\s+)"
    r"[root|unclassified]"
)
MULTIQC_ROW = r"^\s{0,2}(\d{1,3}\.\d{1,2})\t(\d+)\t(\d+)\t([URDKPCOFGS-]\d{0,2})\t(\d+)(\s+)(.+)"


def read_report(text: str) -> list[dict[str, object]]:
    """The six columns of "Sample Report Output Format", with all that must hold between rows."""
    rows: list[dict[str, object]] = []
    path: list[dict[str, object]] = []
    for line in text.splitlines():
        percent, clade, direct, code, taxid, name = line.split("\t")
        assert re.match(MULTIQC_ROW, line)
        indent = len(name) - len(name.lstrip(" "))
        assert indent % 2 == 0
        row = {
            "percent": float(percent), "clade": int(clade), "direct": int(direct), "code": code,
            "taxid": int(taxid), "name": name.strip(), "depth": indent // 2, "below": 0,
        }  # fmt: skip
        assert re.fullmatch(r"U|R|[DKPCOFGS]\d?|R\d", code)
        while path and path[-1]["depth"] >= row["depth"]:
            path.pop()
        if code in "UR":
            assert row["depth"] == 0
        else:
            assert path and path[-1]["depth"] == row["depth"] - 1, "a row without its parent"
            path[-1]["below"] += row["clade"]
        if code != "U":
            path.append(row)
        rows.append(row)
    assert re.match(MULTIQC_FILE, text) or re.match(MULTIQC_FILE, text.split("\n")[1])
    total = sum(row["clade"] for row in rows if row["code"] in "UR")
    for row in rows:
        assert row["clade"] == row["direct"] + row["below"], row
        assert row["percent"] == pytest.approx(100 * row["clade"] / total if total else 0, abs=0.0051)
    assert len({row["taxid"] for row in rows}) == len(rows)
    return rows


def read_output(text: str) -> list[tuple[str, str, int, int, list[tuple[str, int]]]]:
    """The five columns of "Standard Kraken Output Format"."""
    rows = []
    for line in text.splitlines():
        sign, name, taxid, length, runs = line.split("\t")
        assert sign in "CU" and len(sign) == 1
        assert (sign == "C") == (int(taxid) > 0)
        pairs = [pair.split(":") for pair in runs.split(" ")]
        assert all(key == "A" or key.isdigit() for key, _ in pairs)
        rows.append((sign, name, int(taxid), int(length), [(key, int(n)) for key, n in pairs]))
    return rows


def write(*items: Finding | tuple[str, int], taxonomy: Taxonomy = TAXONOMY):
    """Output and report of windows, and of (name, length) of reads that were skipped."""
    output, report = io.StringIO(), io.StringIO()
    writer = KrakenWriter(taxonomy, output, report)
    for item in items:
        writer.write(item) if isinstance(item, Finding) else writer.skip(*item)
    writer.finish()
    return read_output(output.getvalue()), read_report(report.getvalue())


def test_one_read_by_hand():
    """The narrowest rank that speaks at a base is what the base counts for."""
    rank_masks = [[0.9, 0.9, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.9, 0.9, 0.5]]
    rows, report = write(find("r1", [0.9, 0.9, 0.9, 0.5], rank_masks=rank_masks))
    assert rows == [("C", "r1", 1513294, 24, [("10239", 6), ("1513294", 12), ("0", 6)])]
    shown = [(r["depth"], r["code"], r["taxid"], r["clade"], r["direct"]) for r in report]
    assert shown == [
        (0, "R", 1, 1, 0),
        (1, "D", 10239, 1, 0),
        (2, "P", 2559587, 1, 0),
        (3, "G", 1513294, 1, 1),
    ]


def test_reads_that_are_not_called():
    """Skipped reads and unsure ones are U; a rank without an answer is no call and no run."""
    rows, report = write(
        ("empty", 0),
        find("unsure", [0.9], sure=(False, False, False)),
        find("half", [0.9, 0.1], record=2, sure=(True, False, False)),
        ("short", 4),
    )
    assert rows == [
        ("U", "empty", 0, 0, [("0", 0)]),
        ("U", "unsure", 0, 6, [("0", 6)]),
        ("C", "half", 10239, 12, [("10239", 6), ("0", 6)]),
        ("U", "short", 0, 4, [("A", 4)]),
    ]
    assert [(r["code"], r["clade"]) for r in report] == [("U", 3), ("R", 1), ("D", 1)]


def test_long_reads_have_gaps_and_one_row():
    """Windows that were left out are ambiguous; runs go on over borders; lengths add up."""
    windows = [
        find("r", [0.1, 0.9], start=0, length=60),
        find("r", [0.9, 0.1], start=12, length=60),
        find("r", [0.1], start=36, length=60),
    ]
    rows, _ = write(*windows, find("s", [0.1], record=1))
    taxid = str(1513294)
    assert rows[0][3:] == (60, [("0", 6), (taxid, 12), ("0", 6), ("A", 12), ("0", 6), ("A", 18)])
    assert rows[1][1] == "s"


def test_the_windows_of_a_read_vote():
    """By length times probability, rank by rank."""
    ballot = Ballot(3)
    other = ("Bacteria", "Firmicutes", "Bacillus")
    ballot.add(explain("r", [0.9] * 3, lineage=other, probabilities=(0.5, 0.5, 0.5)))
    ballot.add(explain("r", [0.9], start=18, probabilities=(1.0, 1.0, 1.0)))
    call = ballot.call()
    assert call.taxa == other and call.probabilities == pytest.approx((0.375,) * 3)
    ballot.add(explain("r", [0.9], start=24, probabilities=(1.0, 0.25, 1.0), sure=(True, False, True)))
    call = ballot.call()
    assert call.taxa == ("Viruses", "Firmicutes", "Nyavirus") and call.rank == 2
    assert call.probabilities == pytest.approx((0.4, 0.3, 0.4))
    with pytest.raises(ValueError, match="without a window"):
        Ballot(3).call()
    unsure = Ballot(3)
    for start in (0, 6):
        unsure.add(explain("r", [0.9], start=start, sure=(False,) * 3))
    assert unsure.call().rank is None


lineages = st.tuples(*(st.sampled_from(taxa) for taxa in TAXONOMY.taxa))


@given(
    st.lists(
        st.tuples(
            lineages,
            st.tuples(*[st.booleans()] * 3),
            st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9),
        ),
        max_size=12,
    ),
    st.integers(0, 3),
)
def test_any_reads_make_a_whole_report(reads, n_skipped):
    """Whatever the ranks say together, rows add up, each taxid has one place, and both outputs agree."""
    findings = [
        find(f"r{i}", masks, record=i, lineage=lineage, sure=sure)
        for i, (lineage, sure, masks) in enumerate(reads)
    ]
    rows, report = write(*findings, *[("skipped", 3)] * n_skipped)
    assert len(rows) == len(reads) + n_skipped == sum(r["clade"] for r in report if r["code"] in "UR")
    for row, finding in zip(rows, findings, strict=False):
        assert sum(n for _, n in row[4]) == row[3] == finding.window.stop
        label = finding.label
        assert (row[0] == "U") == (label is None)
    direct = {r["taxid"]: r["direct"] for r in report if r["code"] != "U"}
    called = [row[2] for row in rows if row[0] == "C"]
    assert {taxid: called.count(taxid) for taxid in called} == {t: n for t, n in direct.items() if n}


def test_blanks_before_a_name_are_not_its_depth():
    """Readers tell a taxon's place in the tree by them."""
    taxonomy = Taxonomy(("phylum", "genus"), (("  a", " "), ("   b", "c")), ((11, 12), (21, 22)))
    handle = io.StringIO()
    writer = KrakenWriter(taxonomy, None, handle)
    for record, lineage in enumerate([("  a", "   b"), (" ", "c")]):
        explanation = explain("r", [0.9], record=record, lineage=lineage, probabilities=(0.9, 0.9))
        writer.write(Finding(explanation))
    writer.finish()
    assert [(row["name"], row["depth"]) for row in read_report(handle.getvalue())] == [
        ("root", 0), ("a", 1), ("b", 2), (".", 1), ("c", 2),
    ]  # fmt: skip


def test_empty_input_has_a_report():
    """Nothing was read: two lines that say so."""
    rows, report = write()
    assert rows == [] and [(r["code"], r["clade"], r["percent"]) for r in report] == [
        ("U", 0, 0),
        ("R", 0, 0),
    ]


def test_taxonomies_without_taxids(tmp_path):
    """None at all is an error before any file; where one is missing, the next wider rank is called."""
    bare = Taxonomy(RANKS, TAXONOMY.taxa)
    with pytest.raises(WyrError, match=r"has no taxids.*--predictions"):
        with open_kraken(bare, None, str(tmp_path / "k")):
            pytest.fail("the block was entered")
    assert not list(tmp_path.iterdir())
    partly = Taxonomy(RANKS, TAXONOMY.taxa, (*TAXONOMY.taxids[:2], (0, 0, 10663)))
    rows, report = write(find("r", [0.9]), taxonomy=partly)
    assert rows == [("C", "r", 2559587, 6, [("2559587", 6)])] and report[-1]["code"] == "P"


def test_rank_codes():
    """Letters where Kraken has them, numbers below the last one elsewhere."""
    assert rank_codes(["realm", "superkingdom", "kingdom", "clade", "subclade", "species"]) == [
        "R1", "D", "K", "K1", "K2", "S",
    ]  # fmt: skip


def test_runs_of_a_chromosome_go_to_the_disk(monkeypatch):
    """And come back in order."""
    monkeypatch.setattr(_RunList, "LIMIT", 10)
    runs = _RunList()
    for i in range(95):
        runs.add(str(i % 2), 1 + i)
    assert len(runs._parts) < 10
    handle = io.StringIO()
    runs.write(handle, "r\t")
    expected = " ".join(f"{i % 2}:{1 + i}" for i in range(95))
    assert handle.getvalue() == f"r\t{expected}\n"


def test_krona_reads_columns_two_and_three(tmp_path):
    """ktImportTaxonomy -q 2 -t 3; and both files appear, whole or not at all."""
    paths = [tmp_path / "k.tsv", tmp_path / "r.txt"]
    output, report = map(str, paths)
    with open_output(output) as handle, open_kraken(TAXONOMY, handle, report) as writer:
        writer.write(find("a b", [0.9]))
        assert not any(path.exists() for path in paths)
    queries = [line.split("\t")[1:3] for line in paths[0].read_text().splitlines()]
    assert queries == [["a_b", "1513294"]]
    with pytest.raises(KeyboardInterrupt), open_output(output) as handle:
        with open_kraken(TAXONOMY, handle, report):
            raise KeyboardInterrupt
    assert len(read_report(paths[1].read_text())) == 4 and len(list(tmp_path.iterdir())) == 2


def test_masks_at_the_threshold_are_not_above_it():
    """As chunks have it."""
    assert LINEAGE == find("r", [0.5]).explanation.lineage
    rows, _ = write(find("r", np.float32([0.5, 0.5001])))
    assert rows[0][4] == [("0", 6), ("1513294", 6)]
