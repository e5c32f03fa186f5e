"""Outputs that appear whole or not at all, and rows that other tools read."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.errors import TaxonomyError, WyrError
from wyrcli.explanation import Explanation, Window
from wyrcli.outputs import check_outputs, open_output, write_json
from wyrcli.writers import BED_COLUMNS, BedWriter, PredictionsWriter, TokensWriter, bed_unsafe, safe_text

RANKS = ("superkingdom", "genus")
LINEAGE = ("Viruses", "Tobacco mosaic; virus")

needs_bedtools = pytest.mark.skipif(shutil.which("bedtools") is None, reason="bedtools is not installed")


def explain(name: str, masks: list[float], start: int = 0, record: int = 0) -> Explanation:
    """An Explanation of 6-mers; the rank masks are the mask and its inverse."""
    mask = np.array(masks, dtype=np.float32)
    starts = start + 6 * np.arange(len(masks), dtype=np.int64)
    window = Window(record, name, start, start + 6 * len(masks), ("ACGTTN" * len(masks)))
    spans = np.stack([starts, starts + 6], axis=1)
    return Explanation(window, LINEAGE, (0.75, 0.5), mask, np.stack([mask, 1 - mask]), spans)


def rows_of(text: str) -> list[list[str]]:
    """Fields of all lines after the header."""
    return [line.split("\t") for line in text.splitlines()[1:]]


def leftovers(directory: Path) -> list[str]:
    """Temporary files that were forgotten."""
    return [path.name for path in directory.iterdir() if ".tmp." in path.name]


# ---------------------------------------------------------------- open_output


@pytest.mark.parametrize("name", ["out.tsv", "out.bed.gz", "out.bgz"])
def test_output_appears_only_when_whole(tmp_path, name):
    """While it is written, the old content stays."""
    path = tmp_path / name
    path.write_bytes(b"old")
    with open_output(str(path)) as handle:
        handle.write("new\n")
        assert path.read_bytes() == b"old"
    data = path.read_bytes()
    assert (data if name == "out.tsv" else pysam.BGZFile(str(path)).read()) == b"new\n"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("name", ["out.tsv", "out.bed.gz"])
@pytest.mark.parametrize(
    "failure", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, BrokenPipeError]
)
@pytest.mark.parametrize("existing", [True, False])
def test_failure_leaves_everything_as_it_was(tmp_path, name, failure, existing):
    """Any exception: no output, no temporary file, and the old file untouched."""
    path = tmp_path / name
    if existing:
        path.write_bytes(b"old")
    with pytest.raises(failure), open_output(str(path)) as handle:
        handle.write("half" * 100_000)
        raise failure
    assert [p.name for p in tmp_path.iterdir()] == [name] * existing
    assert not existing or path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["out.bed", "out.bed.gz"])
@pytest.mark.parametrize("use", [lambda handle: BedWriter(handle, RANKS), lambda handle: None])
def test_nothing_to_write_still_makes_a_file(tmp_path, name, use):
    """An output that was asked for exists."""
    path = tmp_path / name
    with open_output(str(path)) as handle:
        use(handle)
    assert path.exists()


def test_standard_output_is_flushed_and_left_open(capsys):
    """More may follow."""
    with open_output("-") as handle:
        handle.write("a\n")
    print("b")
    assert capsys.readouterr().out == "a\nb\n"


def test_links_and_modes_survive(tmp_path):
    """A replaced file keeps its permissions, and a link stays a link."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    with open_output(str(link)) as handle:
        handle.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_relative_and_very_long_names(tmp_path, monkeypatch):
    """A name without a directory, and one with no room for a suffix."""
    monkeypatch.chdir(tmp_path)
    for name in ("out", "x" * 255):
        with open_output(name) as handle:
            handle.write("new")
        assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fifos_are_written_directly(tmp_path, suffix):
    """A rename would take the FIFO away from its reader."""
    path = tmp_path / f"fifo{suffix}"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    with open_output(str(path)) as handle:
        handle.write("text\n")
    reader.join(timeout=20)
    assert path.is_fifo()
    data = received[0]
    if suffix:
        copy = tmp_path / "copy.gz"
        copy.write_bytes(data)
        data = pysam.BGZFile(str(copy)).read()
    assert data == b"text\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk():
    """The failure of a buffered write is not lost."""
    with pytest.raises(OSError) as caught, open_output("/dev/full") as handle:
        handle.write("text")
    assert caught.value.errno == errno.ENOSPC


def test_null_device():
    """Devices are written directly."""
    with open_output(os.devnull) as handle:
        handle.write("text")
    assert not os.path.isfile(os.devnull)


@pytest.mark.parametrize("name", ["missing/out.bed", "missing/out.bed.gz", "directory", "file/out", ""])
def test_impossible_outputs_are_refused_before_work(tmp_path, monkeypatch, name):
    """On entry, and as a WyrError that names the output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(WyrError, match=f"cannot write (an output|{name})"), open_output(name):
        pytest.fail("the block was entered")
    assert not leftovers(tmp_path)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_protected_outputs_are_refused_before_work(tmp_path, name):
    """A directory without write permission, and a write-protected file."""
    (tmp_path / name).touch(mode=0o444)
    with pytest.raises(WyrError, match="write-protected"), open_output(str(tmp_path / name)):
        pytest.fail("the block was entered")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(WyrError, match="cannot write"), open_output(str(locked / name)):
        pytest.fail("the block was entered")


def test_closed_pipe_reaches_the_caller():
    """wyr ... | head must be able to stop."""
    code = (
        "from wyrcli.outputs import open_output\n"
        "try:\n"
        "    with open_output('-') as handle:\n"
        "        while True: handle.write('x' * 10000)\n"
        "except BrokenPipeError:\n"
        "    import os, sys; os.dup2(os.open(os.devnull, os.O_WRONLY), 1); sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=60) == 7


# ---------------------------------------------------------------- check_outputs


def test_outputs_must_differ(tmp_path, monkeypatch):
    """By file, not by spelling."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fa").touch()
    (tmp_path / "link.fa").symlink_to("in.fa")
    os.link("in.fa", "hard.fa")
    check_outputs(["a", None, "b", "-", None], ["in.fa", "-"])
    check_outputs([os.devnull, os.devnull], [os.devnull])
    for outputs in (["a", "./a"], ["-", "-"], ["a", "b", str(tmp_path / "a")]):
        with pytest.raises(WyrError, match="two outputs"):
            check_outputs(outputs, [])
    for output in ("in.fa", "link.fa", "hard.fa", f"../{tmp_path.name}/in.fa"):
        with pytest.raises(WyrError, match="is an input"):
            check_outputs(["a", output], ["in.fa"])


# ---------------------------------------------------------------- text fields


@given(st.text())
def test_safe_text_is_one_field_of_one_line(name):
    """Whatever the name, no tab, no line end, no control character, not empty."""
    text = safe_text(name)
    assert text and text.isprintable()
    assert text.split("\t") == [text] and text.splitlines() == [text]
    assert len(text) == len(name) or text == "."


HOSTILE = [
    "a\tb",
    "a\nb",
    "a\rb",
    "a\x1b[31mb",
    "a\u2028b",
    "a b",
    "a\x00b",
    "=cmd()",
    "A:1-2",
    "a%sb",
    "é",
    '"a"',
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_do_not_break_rows(name):
    """Every row of every table has the header's number of fields."""
    for writer_class in (BedWriter, TokensWriter, PredictionsWriter):
        handle = io.StringIO()
        writer = writer_class(handle, RANKS)
        writer.write(explain(name, [0.9, 0.1]))
        if isinstance(writer, PredictionsWriter):
            writer.write_skipped(name, 3, "short")
        lines = handle.getvalue().split("\n")
        assert lines.pop() == ""
        assert len({line.count("\t") for line in lines}) == 1
        assert all(len(line.splitlines()) == 1 for line in lines)
        assert not any(" " in line for line in lines) or writer_class is PredictionsWriter


SUSPECTS = """track track1 Track_2 browser browserX BROWSER visibility visibility_a !a >b #c chrom CHROM
    chrom7 chromosome chr chr1 1 ok "q" read/1 A:1-2""".split()


@needs_bedtools
def test_bed_unsafe_is_what_bedtools_drops(tmp_path):
    """Each suspect name goes through two bedtools commands that read headers differently."""
    for name in SUSPECTS:
        path = tmp_path / "one.bed"
        path.write_text(f"{name}\t1\t2\nplain\t1\t2\n")
        survivors = []
        for command in (["sort", "-i", path], ["intersect", "-u", "-a", path, "-b", path]):
            done = subprocess.run(["bedtools", *map(str, command)], capture_output=True, text=True)
            survivors.append(f"{name}\t1\t2" in done.stdout.splitlines())
        assert bed_unsafe(name) == (not all(survivors)), name


# ---------------------------------------------------------------- BED


def bed_text(explanations: list[Explanation], **options) -> tuple[str, BedWriter]:
    """What a BedWriter writes."""
    handle = io.StringIO()
    writer = BedWriter(handle, RANKS, **options)
    for explanation in explanations:
        writer.write(explanation)
    return handle.getvalue(), writer


def test_bed_header_is_one_hashed_line():
    """Present even without a row."""
    text, _ = bed_text([])
    assert text == "#" + "\t".join(BED_COLUMNS) + "\n"
    assert len(BED_COLUMNS) == 11


def test_bed_rows_by_hand():
    """Two chunks of one window that starts at 12."""
    text, writer = bed_text([explain("r1", [0.75, 1.0, 0.25, 0.5, 0.625], start=12)])
    lineage = "Viruses;Tobacco_mosaic__virus"
    first, second = rows_of(text)
    assert first[:8] == ["r1", "12", "24", "Tobacco_mosaic__virus", "875", ".", "12", "24"]
    assert first[9:] == ["0.8750", lineage]
    assert second[1:3] == ["36", "42"]
    assert second[4] == str(round(1000 * 0.625))
    assert (writer.counts.chunks, writer.counts.bases, writer.counts.unsafe_windows) == (2, 18, 0)


def test_bed_rank_threshold_and_length():
    """The asked rank names the row; threshold and length choose the chunks."""
    explanation = explain("r", [0.75, 0.125, 0.75, 0.75])
    assert [row[3] for row in rows_of(bed_text([explanation], rank="domain")[0])] == ["Viruses"] * 2
    assert len(rows_of(bed_text([explanation], threshold=0.1)[0])) == 1
    assert [row[1:3] for row in rows_of(bed_text([explanation], min_length=7)[0])] == [["12", "24"]]
    assert rows_of(bed_text([explanation], threshold=0.75)[0]) == []
    with pytest.raises(TaxonomyError, match="unknown rank 'species'"):
        bed_text([], rank="species")


def test_unsafe_names_are_written_and_counted():
    """Not lost here, and said to be lost elsewhere; a window without a row does not count."""
    text, writer = bed_text([explain("track1", [0.9]), explain("#2", [0.9]), explain("#3", [0.1])])
    assert [row[0] for row in rows_of(text)] == ["track1", "#2"]
    assert writer.counts.unsafe_windows == 2


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30), st.floats(0, 1), st.integers(0, 1000))
def test_bed_rows_are_the_chunks(masks, threshold, start):
    """Rows, return value and counts agree with Explanation.chunks, and every field is legal."""
    explanation = explain("r", masks, start=start)
    handle = io.StringIO()
    writer = BedWriter(handle, RANKS, threshold=threshold)
    n_rows = writer.write(explanation)
    rows = rows_of(handle.getvalue())
    chunks = explanation.chunks(threshold)
    assert [(int(row[1]), int(row[2])) for row in rows] == [(c.start, c.stop) for c in chunks]
    assert n_rows == writer.counts.chunks == len(chunks)
    assert writer.counts.bases == sum(c.stop - c.start for c in chunks)
    for row, chunk in zip(rows, chunks, strict=True):
        assert row[6:8] == row[1:3]
        assert 0 <= int(row[4]) <= 1000
        assert abs(int(row[4]) / 1000 - chunk.mean_mask) <= 0.0005 + 1e-9
        assert all(0 <= int(part) <= 255 for part in row[8].split(","))


def test_shades_get_darker_with_the_mean_mask():
    """At most eight, one for each eighth, and 1.0 has one too."""
    shades = [rows_of(bed_text([explain("r", [m])], threshold=-1.0)[0])[0][8] for m in np.linspace(0, 1, 101)]
    brightness = [sum(map(int, shade.split(","))) for shade in shades]
    assert len(set(shades)) == 8
    assert brightness == sorted(brightness, reverse=True)


def many_explanations() -> list[Explanation]:
    """Windows of three records, in order."""
    return [
        explain(f"r{r}", [0.9, 0.1, 0.8, 0.8, 0.2, 0.6], start=36 * w, record=r)
        for r in range(3)
        for w in range(4)
    ]


def test_bgzf_bed_can_be_indexed_and_queried(tmp_path):
    """tabix takes the file as it comes."""
    path = str(tmp_path / "out.bed.gz")
    with open_output(path) as handle:
        writer = BedWriter(handle, RANKS)
        for explanation in many_explanations():
            writer.write(explanation)
    pysam.tabix_index(path, preset="bed", force=True)
    with pysam.TabixFile(path) as file:
        assert file.contigs == ["r0", "r1", "r2"]
        assert sum(len(list(file.fetch(name))) for name in file.contigs) == writer.counts.chunks
        assert list(file.header) == ["#" + "\t".join(BED_COLUMNS)]
        assert [row.split("\t")[1] for row in file.fetch("r1", 36, 48)] == ["36"]


@needs_bedtools
@pytest.mark.parametrize("command", ["sort", "merge", "intersect"])
def test_bedtools_reads_the_bed(tmp_path, command):
    """No row is lost on the way, and a header-only file is fine."""
    path = tmp_path / "out.bed"
    for explanations in (many_explanations(), []):
        text, writer = bed_text(explanations)
        path.write_text(text)
        arguments = ["-u", "-a", path, "-b", path] if command == "intersect" else ["-i", path]
        done = subprocess.run(
            ["bedtools", command, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        assert not done.stderr
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert sum(int(row[2]) - int(row[1]) for row in rows) == writer.counts.bases


# ---------------------------------------------------------------- tables


def test_token_rows_tile_the_window():
    """One row per token, with its bases and its masks."""
    handle = io.StringIO()
    explanation = explain("r1", [0.25, 0.5, 1.0], start=6)
    assert TokensWriter(handle, RANKS).write(explanation) == 3
    header = handle.getvalue().splitlines()[0].split("\t")
    assert header == ["#chrom", "start", "end", "token", "score", "score_superkingdom", "score_genus"]
    rows = rows_of(handle.getvalue())
    assert [row[:3] for row in rows] == [["r1", str(6 * i), str(6 * i + 6)] for i in (1, 2, 3)]
    assert "".join(row[3] for row in rows) == explanation.window.sequence
    scores = np.array([row[4:] for row in rows], dtype=np.float32).T
    assert np.array_equal(scores[0], explanation.mask)
    assert np.array_equal(scores[1:], explanation.rank_masks)


def test_window_without_tokens():
    """No row, no failure."""
    handle = io.StringIO()
    assert TokensWriter(handle, RANKS).write(explain("r", [])) == 0
    assert rows_of(handle.getvalue()) == []


def test_token_table_is_tabix_indexable(tmp_path):
    """Its first columns are BED's."""
    path = str(tmp_path / "tokens.tsv.gz")
    with open_output(path) as handle:
        writer = TokensWriter(handle, RANKS)
        n_rows = sum(writer.write(explanation) for explanation in many_explanations())
    pysam.tabix_index(path, preset="bed", force=True)
    with pysam.TabixFile(path) as file:
        assert sum(1 for _ in file.fetch()) == n_rows


def test_predictions_have_a_row_for_every_record():
    """Windows and skipped records side by side."""
    handle = io.StringIO()
    writer = PredictionsWriter(handle, RANKS)
    writer.write(explain("r1", [0.75, 0.25, 0.25, 1.0], start=6))
    writer.write_skipped("r2", 0, "empty")
    ranks = ["superkingdom", "superkingdom_probability", "genus", "genus_probability"]
    header = handle.getvalue().splitlines()[0].split("\t")
    assert header == ["#name", "start", "end", "status", *ranks, "relevant_share"]
    window, skipped = (dict(zip(header, row, strict=True)) for row in rows_of(handle.getvalue()))
    assert (window["#name"], window["start"], window["end"], window["status"]) == ("r1", "6", "30", "ok")
    assert (window["superkingdom"], window["genus"]) == LINEAGE
    assert [float(window[f"{rank}_probability"]) for rank in RANKS] == [0.75, 0.5]
    assert float(window["relevant_share"]) == 12 / 24
    assert list(skipped.values()) == ["r2", "0", "0", "skipped:empty", ".", ".", ".", ".", "."]


@pytest.mark.parametrize("options", [{"threshold": 0.1}, {"threshold": 0.9}, {"min_length": 7}])
def test_relevant_share_is_that_of_the_bed(options):
    """The same threshold and length give the same bases in both outputs."""
    explanation = explain("r", [0.75, 0.125, 0.75, 0.75, 0.0])
    handle = io.StringIO()
    PredictionsWriter(handle, RANKS, **options).write(explanation)
    share = float(rows_of(handle.getvalue())[0][-1])
    assert share * 30 == pytest.approx(bed_text([explanation], **options)[1].counts.bases)


@pytest.mark.parametrize("ranks", [("target", "name"), ("x\ty", "x_y"), ("a\nb", "status")])
def test_headers_of_ranks_of_any_name(ranks):
    """As many columns as rows have, and no two of one name."""
    explanation = explain("r1", [0.75, 0.25])
    for writer in (TokensWriter, PredictionsWriter):
        handle = io.StringIO()
        writer(handle, ranks, with_target=True).write(explanation)
        header, *rows = [line.split("\t") for line in handle.getvalue().splitlines()]
        assert {len(row) for row in rows} == {len(header)} and len(set(header)) == len(header)
        assert header[0].startswith("#") and all(name.isprintable() for name in header)


# ---------------------------------------------------------------- report


def test_json_report_round_trip(tmp_path):
    """numpy's numbers become plain ones."""
    path = tmp_path / "run.wyr.json"
    content = {"n": np.int64(3), "x": np.float32(0.5), "list": np.arange(3), "name": "é", "none": None}
    write_json(str(path), content)
    assert json.loads(path.read_text()) == {"n": 3, "x": 0.5, "list": [0, 1, 2], "name": "é", "none": None}
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), np.array([np.nan])])
def test_json_report_refuses_what_json_lacks(tmp_path, value):
    """Before a file is touched."""
    with pytest.raises((ValueError, TypeError)):
        write_json(str(tmp_path / "run.json"), {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_of_one_file_is_refused(tmp_path: Path) -> None:
    """In one line and at once, whatever the first one does then; what a killed run left is removed."""
    target = tmp_path / "x.bed"
    stale = tmp_path / ".x.bed.tmp.4242.0123abcd"
    other = tmp_path / ".y.bed.tmp.4242.0123abcd"
    for path in (stale, other):
        path.write_text("half a")
    with open_output(str(target)) as first:
        assert not stale.exists() and other.exists()
        first.write("first\n")
        with (
            pytest.raises(WyrError, match=r"x\.bed: another run is writing it now"),
            open_output(str(target)),
        ):
            raise AssertionError("a second writer")
        assert len(leftovers(tmp_path)) == 2  # the first one's, and that of y.bed
    assert target.read_text() == "first\n"
    with open_output(str(target)) as later:
        later.write("later\n")
    assert target.read_text() == "later\n" and leftovers(tmp_path) == [other.name]


def test_of_many_that_begin_at_once_one_writes(tmp_path: Path) -> None:
    """Each either has the file for itself or is refused; nobody's text is mixed with another's."""
    target, written, refused = tmp_path / "x.bed", [], []

    def write(number: int) -> None:
        try:
            with open_output(str(target)) as handle:
                written.append(number)
                handle.write(f"{number}\n")
                time.sleep(1)
        except WyrError:
            refused.append(number)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) <= 1 and sorted(written + refused) == list(range(4))
    assert not leftovers(tmp_path) and target.exists() == bool(written)


@pytest.mark.parametrize("name", ["x.bed", "x.bed.gz"])
def test_a_full_disk_is_named(tmp_path: Path, name: str) -> None:
    """One line that says which file; nothing of it stays, and htslib says nothing of its own."""
    code = f"""
import os, random, resource
from wyrcli.outputs import open_output
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rng = random.Random(0)
try:
    with open_output({str(tmp_path / name)!r}) as handle:
        for _ in range(10_000):
            handle.write(rng.randbytes(100).hex() + "\\n")
except OSError as error:
    print(error.filename, error.strerror, sep=": ")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path / name}: ") and done.stdout.count("\n") == 1
    assert done.stderr == "" and not list(tmp_path.iterdir())
