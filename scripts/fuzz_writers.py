"""Cases for the writers: made-up Explanations through all output formats at once, and through the views.

Names, taxa and ranks are any text; sites are tokens, single bases, some with gaps between them, or none;
scores lie anywhere in [0, 1], for contrasts in [-1, 1], often on borders.  Oracles:

* a WyrError (one printable line, no file left) where a format cannot hold the names, and only there;
* each file is read by a parser that is not ours (json, pyarrow, pyBigWig, pysam, numpy, tabix, an XML
  parser), has the rows that a slow calculation here expects, and agrees with the others;
* no text leaves its field: numbers of columns and lines, the page outside its data, escape codes.
"""

from __future__ import annotations

import io
import json
import math
import random
import re
import shutil
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet
import pyBigWig
import pysam
from numpy.typing import NDArray
from rich.console import Console

from wyrcli.bundles import open_bundle
from wyrcli.cli.show import TerminalView
from wyrcli.errors import WyrError
from wyrcli.explanation import Explanation, Target, Window
from wyrcli.formats import Settings
from wyrcli.reads_page import ReadsPage
from wyrcli.results import Requests, Results, open_results
from wyrcli.stitching import join_chunks
from wyrcli.taxonomy import Taxonomy
from wyrcli.terminal_view import render_read
from wyrcli.writers import bed_text, safe_text

WINDOW = 120
RANKS = (
    ("superkingdom", "phylum", "genus"), ("superkingdom", "realm", "genus", "species"), ("label",),
    ("genus",), ("name", "target"), ("start", "score"), ("a b", "x\ty"), ("<b>", "é"), ("chunks", "record"),
)  # fmt: skip
HOSTILE = (
    "", " ", ".", "-", "*", "#", "#x", "##gff-version 3", ">", ">x", "!", "track", "track name=x", "TRACK1",
    "browser x", "visibility", "chrom", "Chrom", "a\tb", "a\nb", "a\rb", "a\r\nb", "a\x00b",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "\u202egnp.exe", "\u2066x", "\u200b", "\ufeff",
    "\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "é", "e\u0301", "日本語", "😀", "\U000e0041",
    "\ufffd", "\uffff", "<script>alert(1)</script>", "</script>", "<!--", "-->", "]]>", "&amp;", "&", "%",
    "%s%d", "%3B", "a;b=c,d&e", "a:1-2", "chr1:5", "'", '"', "\\", "\\n", "{}", "{0}", "[bold]", "[/]",
    "=1+1", "@SUM(1)", "NaN", "null", "None", "true", "0", "1e5", "../../x", "C:\\x", "javascript:alert(1)",
    "x" * 254, "x" * 255, "y" * 5000, "日" * 300, "r1", "r2", "a_b", "a b", "U+202E",
)  # fmt: skip
_ALPHABETS = ("abc", "ab \t\n", "<>&'\"", "#>!@;=,%:", "\u0300\u0301a", "\u202a\u202b\u202c\u05d0a")
_SGR = re.compile(r"\x1b\[[0-9;]*m")


def make_text(rng: random.Random) -> str:
    """Any text."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(HOSTILE)
    if kind < 0.45:
        return rng.choice(HOSTILE) + rng.choice(HOSTILE)
    if kind < 0.6:
        return "".join(rng.choices(rng.choice(_ALPHABETS), k=rng.randint(0, 40)))
    if kind < 0.75:
        letters = (
            chr(rng.choice([rng.randrange(0x250), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
            for _ in range(rng.randint(1, 30))
        )
        return "".join(letters)
    return f"r{rng.randrange(1000)}"


# ---------------------------------------------------------------- what is written


class Case:
    """Everything that one case writes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.taxonomy = make_taxonomy(rng)
        self.n_ranks = len(self.taxonomy.ranks)
        self.rank = rng.choice([None, None, *self.taxonomy.ranks])
        self.rank_index = None if self.rank is None else self.taxonomy.ranks.index(self.rank)
        self.threshold = rng.choice([0.5, 0.5, 0.25, 0.0, 1.0, round(rng.random(), 3)])
        self.min_length = rng.choice([1, 1, 1, 7, 30])
        self.asks = rng.choices(["classes", "target", "contrast", "several"], [60, 15, 15, 10])[0]
        self.tame = rng.random() < 0.4  # names that all formats can hold
        self.safe_names = not self.tame and rng.random() < 0.5
        self.has_gaps = False  # bases without a site
        self.groups: list[list[Explanation]] = []
        self.skipped: list[tuple[int, str, int, str]] = []
        self.records = rng.choice([0, 1, 1, 2, 3, 6])
        for record in range(self.records):
            name = f"r{record}_{rng.choice('abc')}" if self.tame else make_text(rng)
            if rng.random() < 0.15:
                reason = rng.choice(["empty", "short", "no_acgt", "bad_letters"])
                self.skipped.append((record, name, rng.choice([0, 5, 700]), reason))
            else:
                self._add_record(record, name)
        self.groups = [list(g) for g in join_chunks(self.groups, self.threshold, self.rank_index)]

    def _add_record(self, record: int, name: str) -> None:
        rng = self.rng
        at = rng.choice([0, 0, 0, 6, 600])
        places = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            size = rng.choice([6, 7, 12, 60, rng.randint(6, 400), rng.randint(6, 400)])
            if rng.random() < 0.02:
                size = 5000
            places.append((at, at + size))
            at += size + rng.choice([0, 0, 0, 6, 300])
        length = places[-1][1] + rng.choice([0, 0, 50])
        has_qualities = rng.random() < 0.3
        n_targets = {"classes": 1, "target": 1, "contrast": 1, "several": 3}[self.asks]
        targets = [self._target() for _ in range(n_targets)]
        style = rng.choice(["tokens", "tokens", "bases", "gaps", "none"])
        self.has_gaps |= style == "gaps"
        for start, stop in places:
            letters = rng.choice(["ACGT", "ACGTN", "ACGTNNNN"])
            sequence = "".join(rng.choices(letters, k=stop - start))
            qualities = (
                "".join(chr(rng.randint(33, 126)) for _ in range(stop - start)) if has_qualities else ""
            )
            window = Window(record, name, start, stop, sequence, None, qualities, length)
            spans = np.array(make_sites(rng, window, style), dtype=np.int64).reshape(-1, 2)
            self.groups.append([self._explain(window, spans, target) for target in targets])

    def _target(self) -> Target | None:
        if self.asks == "classes":
            return None
        rng, taxa = self.rng, self.taxonomy.taxa
        rank = rng.randrange(self.n_ranks)
        against = rng.choice(taxa[rank]) if self.asks == "contrast" else ""
        return Target(rng.choice(taxa[rank]), rank, rng.random(), against)

    def _explain(self, window: Window, spans: NDArray[np.int64], target: Target | None) -> Explanation:
        rng = self.rng
        rank_masks = np.stack([make_scores(rng, len(spans)) for _ in range(self.n_ranks)])
        if target is None:
            mask = rank_masks.max(0) if self.rank_index is None else rank_masks[self.rank_index]
        else:
            mask = make_scores(rng, len(spans))
            if target.against:
                mask = (mask - make_scores(rng, len(spans))).astype(np.float32)
        lineage = tuple(rng.choice(taxa) for taxa in self.taxonomy.taxa)
        probabilities = tuple(rng.choice([0.0, 1.0, 1e-7, rng.random()]) for _ in lineage)
        sure = tuple(rng.random() < 0.6 for _ in lineage) if rng.random() < 0.3 else ()
        return Explanation(window, lineage, probabilities, mask, rank_masks, spans, target, sure)

    @property
    def explanations(self) -> list[Explanation]:
        """All, in order."""
        return [explanation for group in self.groups for explanation in group]

    def fits(self) -> bool:
        """Whether every format can hold the names: bigWig has each once, BAM has short ones in ASCII."""
        if self.safe_names:
            return True
        names = [safe_text(name) for _, name in self.windowed()]
        good = all(name.isascii() and len(name) <= 254 for name in names)
        return good and len(set(names)) == len(names)

    def windowed(self) -> list[tuple[int, str]]:
        """Ordinal and name of each record with windows."""
        return [key for key, _ in groupby((g[0].window.record, g[0].window.name) for g in self.groups)]

    def written_name(self, window: Window) -> str:
        """What a record is called in outputs."""
        return f"r{window.record + 1}" if self.safe_names else window.name


def make_taxonomy(rng: random.Random) -> Taxonomy:
    """Taxa of any name, with taxids, some, or none."""
    ranks = rng.choice(RANKS)
    taxa, taxids = [], []
    for _ in ranks:
        names = list(dict.fromkeys(make_text(rng) for _ in range(rng.randint(2, 5))))
        taxa.append(tuple(name or "empty" for name in dict.fromkeys(n or "empty" for n in names)))
        taxids.append(tuple(rng.choice([0, rng.randint(2, 3_000_000)]) for _ in taxa[-1]))
    return Taxonomy(ranks, tuple(taxa), tuple(taxids) if rng.random() < 0.8 else ())


def make_sites(rng: random.Random, window: Window, style: str) -> list[tuple[int, int]]:
    """Spans as tokenizers make them: 6-mers, single bases where an N is and at the end."""
    if style == "none":
        return []
    if style == "bases":
        return [(i, i + 1) for i in range(window.start, window.stop)]
    spans, i = [], 0
    while i < len(window.sequence):
        size = 6 if len(window.sequence) - i >= 6 and "N" not in window.sequence[i : i + 6] else 1
        spans.append((window.start + i, window.start + i + size))
        i += size
    return [s for s in spans if style == "tokens" or rng.random() < 0.8]


def make_scores(rng: random.Random, n: int) -> NDArray[np.float32]:
    """In [0, 1], often on a border."""
    style = rng.randrange(4)
    if style == 0:
        values = [rng.random() for _ in range(n)]
    elif style == 1:
        values = [rng.choice([0.0, 1.0, 0.5, 0.25, 1e-30, 1e-5, 0.99995, 0.49999, 0.00005]) for _ in range(n)]
    elif style == 2:
        values = [rng.choice([0.0, 1.0])] * n
    else:
        values = [min(1.0, max(0.0, 0.5 + 0.5 * math.sin(i / 9 + style))) for i in range(n)]
    return np.array(values, dtype=np.float32)


# ---------------------------------------------------------------- slow calculations


def slow_scores(explanation: Explanation) -> dict[int, float]:
    """The score of each base that has one, by its place on the record."""
    found: dict[int, float] = {}
    for (start, stop), score in zip(explanation.spans.tolist(), explanation.mask.tolist(), strict=True):
        for place in range(start, stop):
            assert place not in found
            found[place] = score
    return found


def slow_chunks(explanation: Explanation, threshold: float, min_length: int) -> list[tuple[int, int]]:
    """Relevant chunks of a window that stands alone."""
    chunks: list[tuple[int, int, int]] = []
    last = 0
    for (start, stop), score in zip(explanation.spans.tolist(), explanation.mask.tolist(), strict=True):
        # numpy compares float32 with a Python number as float32
        limit = float(np.float32(threshold))
        side = 1 if score > limit else -1 if score < -limit else 0
        if side and side == last:
            chunks[-1] = (chunks[-1][0], stop, side)
        elif side:
            chunks.append((start, stop, side))
        last = side
    return [(a, b) for a, b, _ in chunks if b - a >= min_length]


def table(text: str, columns: int, *, comment: str = "#") -> list[list[str]]:
    """Rows behind the header, each of so many columns and without control characters."""
    lines = text.split("\n")
    assert lines.pop() == "" and (not comment or lines[0].startswith(comment))
    rows = [line.split("\t") for line in (lines[1:] if comment else lines)]
    assert text.splitlines() == lines, "a line ends where it should not"
    for row in rows:
        assert len(row) == columns, f"{len(row)} columns instead of {columns}: {row}"
        assert all(field.isprintable() for field in row), row
    return rows


# ---------------------------------------------------------------- the check

NAMES = (
    "a.bed", "b.bed.gz", "c.bedgraph", "d.bw", "e.gff3", "f.tsv", "g.parquet", "h.jsonl", "i.npz", "j.bam",
    "k.gff3.gz", "l.tsv.gz", "m.bedgraph.gz",
)  # fmt: skip
ONE_SCORE = ("c.bedgraph", "d.bw", "i.npz", "j.bam", "m.bedgraph.gz")


def check(rng: random.Random, folder: Path, kinds: list[str]) -> None:
    """One case: aligned reads, or tables always, and views and the bundle in some."""
    if rng.random() < 0.15:
        from fuzz_aligned import check_aligned

        kinds.append("aligned")
        check_aligned(rng, folder)
        return
    case = Case(rng)
    kinds.append(case.asks)
    out = folder / "out"
    out.mkdir()
    several = case.asks == "several"
    names = [n for n in NAMES if not (several and n in ONE_SCORE)]
    has_taxids = any(any(ids) for ids in case.taxonomy.taxids)
    try:
        results = write_all(case, out, names, has_taxids)
    except WyrError as error:
        kinds.append("refused")
        assert str(error).isprintable() and len(str(error)) < 3000, repr(str(error))
        assert not several and not case.fits(), f"refused what can be written: {error}"
        assert not list(out.iterdir()), "files were left"
        case.safe_names = True
        results = write_all(case, out, names, has_taxids)
    else:
        kinds.append("written")
        assert several or case.fits(), "written though names do not fit"
    assert not [p.name for p in out.iterdir() if ".tmp." in p.name]
    chunks = check_chunks(case, out)
    assert results.counts.windows == len(case.groups) and results.counts.chunks == len(chunks)
    check_tokens(case, out)
    check_objects(case, out)
    check_predictions(case, out)
    check_indexes(out)
    if not several:
        check_tracks(case, out)
        check_arrays(case, out)
        check_bam(case, out)
    if has_taxids:
        check_kraken(case, out)
    if rng.random() < 0.3:
        kinds.append("page")
        check_page(case)
    if rng.random() < 0.3:
        kinds.append("terminal")
        check_terminal(case)
    if rng.random() < 0.3:
        kinds.append("bundle")
        check_bundle(case, folder / "bundle")


def write_all(case: Case, out: Path, names: list[str], has_taxids: bool) -> Results:
    """All outputs at once."""
    said: list[str] = []
    settings = Settings(
        case.taxonomy,
        window_bp=WINDOW,
        rank=case.rank,
        threshold=case.threshold,
        min_length=case.min_length,
        with_target=case.asks != "classes",
        with_scores=True,
        warn=said.append,
    )
    requests = Requests(
        [str(out / name) for name in names],
        tokens=str(out / "tokens.tsv"),
        predictions=str(out / "predictions.tsv"),
        kraken_output=str(out / "kraken.txt") if has_taxids else None,
        kraken_report=str(out / "report.txt") if has_taxids else None,
        safe_names=str(out / "names.tsv") if case.safe_names else None,
    )
    with open_results(requests, settings) as results:
        left = list(case.skipped)
        for group in case.groups:
            while left and left[0][0] < group[0].window.record:
                results.skip(*left.pop(0))
            for explanation in group:
                results.write(explanation)
        for told in left:
            results.skip(*told)
    assert all(text.isprintable() for text in said), said
    if case.safe_names:
        rows = table((out / "names.tsv").read_text("utf-8"), 2)
        known = {record: name for record, name, *_ in case.skipped} | dict(case.windowed())
        assert rows == [[f"r{record + 1}", safe_text(known[record])] for record in sorted(known)]
    return results


def check_chunks(case: Case, out: Path) -> list[tuple[str, int, int]]:
    """BED, GFF3 and JSON lines have the same chunks: those of a slow calculation."""
    text = (out / "a.bed").read_bytes().decode("utf-8")
    rows = table(text, 11)
    bed = [(row[0], int(row[1]), int(row[2])) for row in rows]
    for row in rows:
        assert row[1] == row[6] and row[2] == row[7] and 0 <= int(row[4]) <= 1000 and row[5] == "."
        assert re.fullmatch(r"\d+,\d+,\d+", row[8]) and -1 <= float(row[9]) <= 1
        assert len(row[10].split(";")) == case.n_ranks and " " not in "".join(row)
        assert int(row[2]) - int(row[1]) >= case.min_length
    lines = (out / "e.gff3").read_bytes().decode("utf-8").split("\n")
    assert lines[0] == "##gff-version 3" and lines.pop() == ""
    gff = [line.split("\t") for line in lines[1:]]
    assert len(gff) == len(rows)
    for row, (line, fields) in zip(rows, zip(lines[1:], gff, strict=True), strict=True):
        assert len(fields) == 9 and not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line)
        assert not fields[0].startswith((">", "#")) and (int(fields[3]) - 1, int(fields[4])) == (
            int(row[1]),
            int(row[2]),
        )
        assert fields[5] == row[9]
        attributes = dict(part.split("=") for part in fields[8].split(";"))
        assert bed_text(unquote(attributes["Name"])).replace(";", "_") == row[3]
        taxa = [unquote(taxon) for taxon in attributes["lineage"].split(",")]
        assert ";".join(bed_text(taxon).replace(";", "_") for taxon in taxa) == row[10]
        assert bed_text(unquote(fields[0]) if fields[0] != "." else "") == row[0]
    objects = [json.loads(line) for line in (out / "h.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert len(objects) == len(case.explanations)
    inside = []
    for found, explanation in zip(objects, case.explanations, strict=True):
        slow = slow_chunks(explanation, case.threshold, case.min_length)
        assert [(c["start"], c["stop"]) for c in found["chunks"]] == slow, (
            "not the chunks of the slow calculation"
        )
        if explanation.label(case.rank_index) is not None:
            inside += [(bed_text(found["name"]), *place) for place in slow]
        else:
            assert all(c["label"] is None for c in found["chunks"])
    alone = all(e.before is None and not e.after for e in case.explanations)
    if alone:
        assert Counter(bed) == Counter(inside), "BED and JSON lines have different chunks"
    elif case.min_length == 1 and not case.has_gaps:  # a chunk goes on over a gap at a window's end
        assert bases(bed) == bases(inside), "BED and JSON lines have different bases in chunks"
    return bed


def bases(chunks: list[tuple[str, int, int]]) -> Counter[tuple[str, int]]:
    """How many chunks each base lies in."""
    return Counter((name, place) for name, start, stop in chunks for place in range(start, stop))


def check_tokens(case: Case, out: Path) -> None:
    """A row per site and target, and the same table in BGZF."""
    text = (out / "f.tsv").read_bytes().decode("utf-8")
    assert text == (out / "tokens.tsv").read_bytes().decode("utf-8")
    for plain, packed in (("a.bed", "b.bed.gz"), ("e.gff3", "k.gff3.gz"), ("f.tsv", "l.tsv.gz")):
        with pysam.BGZFile(str(out / packed)) as file:
            assert file.read() == (out / plain).read_bytes()
    with_target = case.asks != "classes"
    rows = table(text, 5 + case.n_ranks + with_target)
    expected = []
    for group in case.groups:
        for site in range(len(group[0].spans)):
            expected += [(explanation, site) for explanation in group]
    assert len(rows) == len(expected)
    for row, (explanation, site) in zip(rows, expected, strict=True):
        start, stop = explanation.spans[site].tolist()
        window = explanation.window
        assert row[0] == bed_text(case.written_name(window)) and row[1:3] == [str(start), str(stop)]
        assert row[3] == window.sequence[start - window.start : stop - window.start]
        for value, score in zip(
            row[4:], [explanation.mask[site], *explanation.rank_masks[:, site]], strict=False
        ):
            assert abs(float(value) - float(score)) <= 0.51e-4 and re.fullmatch(r"-?\d\.\d{4}", value)


def check_objects(case: Case, out: Path) -> None:
    """JSON lines and Parquet hold every name to the letter, and every score."""
    objects = [json.loads(line) for line in (out / "h.jsonl").read_text("utf-8").split("\n")[:-1]]
    parquet = pyarrow.parquet.read_table(out / "g.parquet")
    columns = parquet.column_names
    assert len(set(columns)) == len(columns), f"two columns of one name: {columns}"
    rows = parquet.to_pylist()
    assert len(rows) == len(objects) == len(case.explanations)
    for found, row, explanation in zip(objects, rows, case.explanations, strict=True):
        window, target = explanation.window, explanation.target
        for content in (found, row):
            assert content["name"] == case.written_name(window) and content["record"] == window.record
            assert (content["start"], content["stop"]) == (window.start, window.stop)
            assert content["label"] == explanation.label(case.rank_index)
        assert tuple(found["lineage"]) == explanation.lineage
        assert found["spans"] == explanation.spans.tolist()
        assert np.allclose(found["scores"], explanation.mask, atol=0.51e-4)
        assert row["score"] == explanation.mask.tolist() and row["starts"] == explanation.spans[:, 0].tolist()
        assert [(c["start"], c["stop"]) for c in row["chunks"]] == [
            (c["start"], c["stop"]) for c in found["chunks"]
        ]
        assert row["target"] == (None if target is None else target.name)
        assert (found["target"] or {}).get("name") == row["target"]
        own = [c for c in columns if c.endswith("_probability") and c != "target_probability"]
        assert np.allclose([row[c] for c in own], explanation.probabilities, atol=1e-6)
        assert [row[c.removesuffix("_probability")] for c in own] == list(explanation.lineage)


def check_predictions(case: Case, out: Path) -> None:
    """A row per window and target and per skipped record."""
    text = (out / "predictions.tsv").read_bytes().decode("utf-8")
    rows = table(text, 5 + 2 * case.n_ranks + 3 * (case.asks != "classes"))
    header = text.split("\n")[0].split("\t")
    assert len(set(header)) == len(header), f"two columns of one name: {header}"
    assert len(rows) == len(case.explanations) + len(case.skipped)
    assert sum(row[3].startswith("skipped:") for row in rows) == len(case.skipped)
    assert all(0 <= float(row[4 + 2 * case.n_ranks]) <= 1 for row in rows if not row[3].startswith("skipped"))


def check_indexes(out: Path) -> None:
    """What an index finds of a name is what the table has of it."""
    for name in ("b.bed.gz", "l.tsv.gz", "k.gff3.gz", "m.bedgraph.gz"):
        if not (out / f"{name}.tbi").exists():
            continue
        with pysam.BGZFile(str(out / name)) as file:
            lines = [line for line in file.read().decode("utf-8").split("\n") if line and line[0] != "#"]
        own: dict[str, list[str]] = {}
        for line in lines:
            own.setdefault(line.split("\t")[0], []).append(line)
        with pysam.TabixFile(str(out / name), encoding="utf-8") as file:
            assert set(file.contigs) == set(own), "the index knows other names"
            # To htslib "." is everything, "*" what has no place, and "{" begins a name in quotes.
            for chrom in (c for c in own if c not in (".", "*") and c[0] != "{"):
                assert list(file.fetch(chrom)) == own[chrom]


def by_record(case: Case) -> dict[int, dict[int, float]]:
    """Scores of all bases of each record, of its first target."""
    found: dict[int, dict[int, float]] = {}
    for group in case.groups:
        found.setdefault(group[0].window.record, {}).update(slow_scores(group[0]))
    return found


def check_tracks(case: Case, out: Path) -> None:
    """bedGraph and bigWig have the score of each base that has one, and of no other."""
    scores = by_record(case)
    records = {
        record: (bed_text(case.written_name(w)), w.length)
        for w in (g[0].window for g in case.groups)
        for record in [w.record]
    }
    counted = Counter(name for name, _ in records.values())
    graph = table((out / "c.bedgraph").read_bytes().decode("utf-8"), 4)
    found: dict[str, dict[int, float]] = {}
    for chrom, start, stop, value in graph:
        for place in range(int(start), int(stop)):
            # Names that differ may be one once they are cleaned.
            assert counted[chrom] > 1 or place not in found.get(chrom, {}), "rows overlap"
            found.setdefault(chrom, {})[place] = float(value)
    for record, (name, _) in records.items():
        if counted[name] == 1:
            got, wanted = found.pop(name, {}), scores[record]
            assert got.keys() == wanted.keys()
            assert all(abs(got[i] - wanted[i]) <= 0.51e-4 for i in wanted)
    with pyBigWig.open(str(out / "d.bw")) as file:
        assert file.isBigWig()
        chroms = file.chroms()
        if not records:
            assert chroms == {"none": 1}
            return
        names = {safe_text(case.written_name(g[0].window)): g[0].window for g in case.groups}
        assert chroms == {name: window.length for name, window in names.items()}
        for name, window in names.items():
            values = np.array(file.values(name, 0, window.length))
            wanted = np.full(window.length, np.nan)
            for place, score in scores[window.record].items():
                wanted[place] = score
            if scores[window.record]:  # else there are no values to ask for, or NaN alone
                assert np.array_equal(values, wanted, equal_nan=True)


def check_arrays(case: Case, out: Path) -> None:
    """Sequences one-hot, scores in the channel of their base."""
    with np.load(out / "i.npz") as one, np.load(out / "i.onehot.npz") as two:
        scores, onehot, places, names = one["arr_0"], two["arr_0"], one["places"], one["names"]
    rows = [(g[0], a) for g in case.groups for a in range(g[0].window.start, g[0].window.stop, WINDOW)]
    assert scores.shape == onehot.shape == (len(rows), 4, WINDOW) and len(names) == len(places) == len(rows)
    for i, (explanation, start) in enumerate(rows):
        window = explanation.window
        stop = min(start + WINDOW, window.stop)
        assert places[i].tolist() == [start, stop]
        own = slow_scores(explanation)
        sequence = window.sequence[start - window.start : stop - window.start]
        wanted = np.zeros((4, WINDOW), dtype=np.float32)
        for j, letter in enumerate(sequence):
            if letter != "N":
                wanted["ACGT".index(letter), j] = 1
        assert np.array_equal(onehot[i], wanted)
        factors = np.array(
            [own.get(start + j, 0.0) for j in range(stop - start)] + [0.0] * (WINDOW - stop + start)
        )
        assert np.array_equal(scores[i], (wanted * factors).astype(np.float32))


def check_bam(case: Case, out: Path) -> None:
    """A record per read, its sequence, and a score per base."""
    before = pysam.set_verbosity(0)
    try:
        with pysam.AlignmentFile(str(out / "j.bam"), "rb", check_sq=False) as file:
            segments = list(file.fetch(until_eof=True))
    finally:
        pysam.set_verbosity(before)
    records: dict[int, list[Explanation]] = {}
    for group in case.groups:
        records.setdefault(group[0].window.record, []).append(group[0])
    assert len(segments) == len(records)
    scores = by_record(case)
    for segment, (record, own) in zip(segments, records.items(), strict=True):
        name = safe_text(case.written_name(own[0].window))
        assert (segment.query_name or "*") == name, (segment.query_name, name)
        sequence = ["N"] * max(own[0].window.length, own[-1].window.stop)
        for explanation in own:
            sequence[explanation.window.start : explanation.window.stop] = explanation.window.sequence
        assert segment.query_sequence == "".join(sequence) and segment.get_tag("wn") == len(sequence)
        tags = segment.get_tag("ws")
        signed = case.asks == "contrast"
        assert len(tags) == len(sequence)
        for place, step in enumerate(tags):
            score = scores[record].get(place, 0.0)
            if signed:
                assert abs(step / 127 - score) <= 0.51 / 127
            else:
                assert step / 256 - 1e-6 <= score <= (step + 1) / 256 + 1e-6
        assert "\t" not in str(segment.get_tag("wl") if segment.has_tag("wl") else "")


def check_kraken(case: Case, out: Path) -> None:
    """Runs add up to lengths, clades to reads."""
    rows = table((out / "kraken.txt").read_bytes().decode("utf-8"), 5, comment="")
    n_records = len(case.windowed()) + len(case.skipped)
    assert len(rows) == n_records
    lengths = {s[0]: s[2] for s in case.skipped}
    lengths |= {g[0].window.record: g[0].window.length for g in case.groups}
    for row, record in zip(rows, sorted(lengths), strict=True):
        assert int(row[3]) == lengths[record] and (row[0] == "U") == (row[2] == "0")
        assert sum(int(run.split(":")[1]) for run in row[4].split(" ")) == lengths[record]
    report = table((out / "report.txt").read_bytes().decode("utf-8"), 6, comment="")
    assert sum(int(row[2]) for row in report) == n_records
    counts = {row[3]: int(row[1]) for row in report if row[3] in ("U", "R")}
    assert counts.get("U", 0) + counts["R"] == n_records
    stack: list[list[int]] = []  # depth, clade, sum so far
    for row in report:
        depth = len(row[5]) - len(row[5].lstrip(" ")) if row[3] not in ("U", "R") else -2 * (row[3] == "U")
        while stack and stack[-1][0] >= depth:
            done = stack.pop()
            assert done[1] == done[2], "clades do not add up"
        if stack:
            stack[-1][2] += int(row[1])
        stack.append([depth, int(row[1]), int(row[2])])


# ---------------------------------------------------------------- views


def make_page(case: Case, explanations: list[Explanation]) -> tuple[str, str]:
    """The page without its data, and the data."""
    page = ReadsPage(
        case.taxonomy.ranks, limit=500, rank=case.rank, threshold=case.threshold, min_length=case.min_length
    )
    for explanation in explanations:
        page.add(explanation)
    name = explanations[0].window.name if explanations else ""
    text = page.text(
        model=name, notice=name, about=[("inputs", name)], records=case.records, skipped={"short": 1}
    )
    text.encode("utf-8")
    found = re.search(r'<script type="application/json" id="data">([^<>&]*)</script>', text)
    assert found is not None, "the data cannot be told from the page"
    return text[: found.start(1)] + text[found.end(1) :], found[1]


def check_page(case: Case) -> None:
    """No name reaches the page's markup; all are in its data, on one line."""
    frame, data = make_page(case, case.explanations)
    assert frame == make_page(case, [])[0], "a name is in the markup"
    content = json.loads(data)
    assert len(content["windows"]) == len(case.explanations)
    for window, explanation in zip(content["windows"], case.explanations, strict=True):
        assert window["name"].isprintable() and len(window["name"]) <= 200
        assert window["sequence"] == explanation.window.sequence
        if explanation.label(case.rank_index) is not None:
            slow = slow_chunks(explanation, case.threshold, case.min_length)
            assert [tuple(c[:2]) for c in window["chunks"]] == slow
    for row in (row for rank in content["summary"] for row in rank):
        assert row[0].isprintable() and row[1] > 0


def check_terminal(case: Case) -> None:
    """Nothing but colours reaches a terminal, and every letter is there."""
    width = case.rng.choice([20, 40, 80, 200])
    for coloured in (True, False):
        stream = io.StringIO()
        console = Console(
            file=stream, force_terminal=coloured, width=width, color_system="truecolor" if coloured else None,
            highlight=False, markup=False, emoji=False, legacy_windows=False,
        )  # fmt: skip
        view = TerminalView(
            case.taxonomy.ranks, limit=10, threshold=case.threshold, min_length=case.min_length,
            rank=case.rank_index, console=console,
        )  # fmt: skip
        for explanation in case.explanations:
            view.write(explanation)
        view.close()
        text = _SGR.sub("", stream.getvalue())
        assert all(line.isprintable() for line in text.split("\n")), "an escape code or control character"
    for explanation in case.explanations[:3]:
        lines = render_read(
            explanation, case.taxonomy.ranks, width=width, coloured=False, threshold=case.threshold,
            min_length=case.min_length, rank=case.rank_index,
        )  # fmt: skip
        letters = "".join(piece.text for line in lines for piece in line if piece.kind == "score")
        assert letters == explanation.window.sequence


def check_bundle(case: Case, folder: Path) -> None:
    """samtools, tabix and pyBigWig find letters, chunks and scores at their places."""
    explanations = [group[0] for group in case.groups]
    with open_bundle(
        folder, case.taxonomy.ranks, rank=case.rank, threshold=case.threshold, min_length=case.min_length,
        model=explanations[0].window.name if explanations else "", notice=case.taxonomy.taxa[0][0],
    ) as writer:  # fmt: skip
        for explanation in explanations:
            writer.write(explanation)
    rows = table((folder / "names.tsv").read_bytes().decode("utf-8"), 4 + 2 * case.n_ranks)
    assert len(rows) == len(explanations)
    ElementTree.parse(folder / "session.xml")
    json.loads((folder / "config.json").read_text("utf-8"))
    page = (folder / "index.html").read_text("utf-8")
    assert "<script>alert(1)" not in page
    with pysam.BGZFile(str(folder / "important.bed.gz")) as file:
        bed = table(file.read().decode("utf-8"), 11)
    assert all(re.fullmatch(r"\w{1,255}", row[0], flags=re.ASCII) for row in bed)
    assert all((a[0] != b[0]) or int(a[1]) <= int(b[1]) for a, b in pairwise(bed))
    if not explanations:
        return
    scores: dict[str, dict[int, float]] = {}
    with pysam.FastaFile(str(folder / "sequences.fa.gz")) as fasta:
        for row, explanation in zip(rows, explanations, strict=True):
            window = explanation.window
            assert fasta.fetch(row[0], window.start, window.stop) == window.sequence
            assert row[3] == safe_text(window.name)
            scores.setdefault(row[0], {}).update(slow_scores(explanation))
        assert len(set(fasta.references)) == len(case.windowed())
    with pyBigWig.open(str(folder / "scores.bw")) as file:
        for name, own in scores.items():
            values = file.values(name, 0, file.chroms(name))
            for place, value in enumerate(values):
                assert math.isnan(value) == (place not in own)
                assert place not in own or abs(value - own[place]) <= 0.51e-4
    shutil.rmtree(folder)
