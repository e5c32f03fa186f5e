"""BAM and CRAM: which reads, in which direction, under which names, and what is not whole."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pysam
import pytest
from toy import TAXONOMY, TOKENIZER, explanandum
from toy import explainer as toy_explainer

from wyrcli.alignments import Rejoined, sniff
from wyrcli.checkpoint import save_checkpoint, save_explainer
from wyrcli.cli import main
from wyrcli.errors import InputError
from wyrcli.inputs import InputOptions, open_windows
from wyrcli.prefetching import prefetch
from wyrcli.reads import open_reads
from wyrcli.sequences import open_binary
from wyrcli.windows import RecordCounts

COMPLEMENT = str.maketrans("ACGT", "TGCA")
REFERENCE = "".join(random.Random(5).choices("ACGT", k=2000))
N_MANY = 2000


def turned(sequence: str) -> str:
    """The other strand."""
    return sequence.translate(COMPLEMENT)[::-1]


def segment(
    header: pysam.AlignmentHeader, name: str, sequence: str | None, flag: int, at: int = 10, cigar: str = ""
) -> pysam.AlignedSegment:
    """A record; ``sequence`` as SEQ stands in the file."""
    record = pysam.AlignedSegment(header)
    record.query_name, record.flag = name, flag
    record.query_sequence = sequence
    if not flag & 4:
        record.reference_id, record.reference_start, record.mapping_quality = 0, at, 60
        record.cigarstring = cigar or f"{len(sequence or '')}M"
    if sequence:
        record.query_qualities = pysam.qualitystring_to_array("I" * len(sequence))
    return record


HEADER = pysam.AlignmentHeader.from_dict(
    {"HD": {"VN": "1.6", "SO": "unsorted"}, "SQ": [{"SN": "chr1", "LN": len(REFERENCE)}]}
)
ALIGNED = REFERENCE[10:60]
RECORDS: list[tuple[str, str | None, int, str]] = [  # name, SEQ, FLAG, CIGAR
    ("plain", ALIGNED, 0, ""),
    ("turned", ALIGNED, 16, ""),
    ("clipped", "GG" + ALIGNED, 16, "2S50M"),
    ("hard", ALIGNED, 0, "7H50M"),
    ("plain", ALIGNED, 256, ""),
    ("plain", ALIGNED[:20], 2048, "30H20M"),
    ("unaligned", "ACGTTGCA", 4, ""),
    ("failed", ALIGNED, 512, ""),
    ("duplicate", ALIGNED, 1024, ""),
    ("pair", ALIGNED, 1 | 64, ""),
    ("pair", ALIGNED, 1 | 128 | 16, ""),
    ("named/1", ALIGNED, 1 | 64, ""),
    ("neither", ALIGNED, 1, ""),
    ("starred", None, 4, ""),
    ("*", "ACGTACGT", 4, ""),
]
EXPECTED = [
    ("plain", ALIGNED),
    ("turned", turned(ALIGNED)),
    ("clipped", turned("GG" + ALIGNED)),
    ("hard", ALIGNED),
    ("unaligned", "ACGTTGCA"),
    ("failed", ALIGNED),
    ("duplicate", ALIGNED),
    ("pair/1", ALIGNED),
    ("pair/2", turned(ALIGNED)),
    ("named/1", ALIGNED),
    ("neither", ALIGNED),
    ("starred", ""),
]


@pytest.fixture
def reference(tmp_path: Path) -> str:
    """The reference as FASTA."""
    path = tmp_path / "reference.fa"
    path.write_text(">chr1\n" + REFERENCE + "\n")
    return str(path)


def write_file(path: Path, records: list[tuple[str, str | None, int, str]], reference: str = "") -> str:
    """A BAM file, or CRAM where there is a reference."""
    options = {"reference_filename": reference} if reference else {}
    with pysam.AlignmentFile(str(path), "wc" if reference else "wb", header=HEADER, **options) as file:
        for name, sequence, flag, cigar in records:
            file.write(segment(HEADER, name, sequence, flag, cigar=cigar))
    return str(path)


def many(path: Path, reference: str = "") -> bytes:
    """The bytes of a file of many reads, in several blocks."""
    rng = random.Random(1)
    starts = sorted(rng.randrange(1800) for _ in range(N_MANY))
    options = {"reference_filename": reference} if reference else {}
    # Small slices, so that CRAM too has many parts to be cut between.
    with pysam.AlignmentFile(
        str(path), "wc" if reference else "wb", header=HEADER, **options,
        format_options=[b"seqs_per_slice=100"] if reference else None,
    ) as file:  # fmt: skip
        for i, at in enumerate(starts):
            file.write(segment(HEADER, f"r{i}", REFERENCE[at : at + 150], 0, at))
    return path.read_bytes()


def read(path: str, reference: str | None = None) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Names and sequences, and what was left out."""
    counts = RecordCounts()
    return [(r.name, r.sequence) for r in open_reads([path], counts, reference=reference)], counts.left_out


# ---------------------------------------------------------------- whole files


def test_which_reads_and_in_which_direction(tmp_path: Path) -> None:
    """Each read once, as it was sequenced; mates have names of their own."""
    found, left_out = read(write_file(tmp_path / "dataset_1.dat", RECORDS[:-1]))
    assert found == EXPECTED
    assert left_out == {"secondary": 1, "supplementary": 1}


@pytest.mark.skipif(shutil.which("samtools") is None, reason="needs samtools")
def test_samtools_agrees(tmp_path: Path) -> None:
    """samtools fasta, which leaves out secondary and supplementary alignments too."""
    path = write_file(tmp_path / "x.bam", RECORDS[:-2])
    done = subprocess.run(
        ["samtools", "fasta", "-F", "0x900", path], capture_output=True, text=True, check=True
    )
    lines = done.stdout.split()
    names = [name.removeprefix(">") for name in lines[::2]]
    expected = [(n.replace("named/1", "named/1/1"), s) for n, s in EXPECTED[:-1]]
    assert list(zip(names, lines[1::2], strict=True)) == expected


def test_windows_have_their_record(tmp_path: Path) -> None:
    """After the file was closed, and over a thread."""
    path = write_file(tmp_path / "x.bam", RECORDS[:-1])
    counts, skipped = RecordCounts(), []
    windows = list(
        prefetch(open_windows([path], TOKENIZER, 30, counts, on_skip=lambda *record: skipped.append(record)))
    )
    assert skipped == [(11, "starred", 0, "no_sequence")]
    assert counts.accounted() and counts.as_dict()["alignments_left_out"] == {
        "secondary": 1,
        "supplementary": 1,
    }
    for window in windows:
        assert isinstance(window.source, pysam.AlignedSegment)
        assert window.name.split("/")[0] == window.source.query_name.split("/")[0]
        assert window.source.get_forward_sequence()[window.start : window.stop] == window.sequence
    assert {w.source.reference_start for w in windows if w.name == "turned"} == {10}


def test_a_read_without_a_name(tmp_path: Path) -> None:
    """``*`` in SAM."""
    path = write_file(tmp_path / "x.bam", RECORDS)
    with pytest.raises(InputError, match="no name") as caught:
        list(open_windows([path], TOKENIZER, 60, RecordCounts()))
    assert (caught.value.path, caught.value.record) == (path, 13)
    counts = RecordCounts()
    list(open_windows([path], TOKENIZER, 60, counts, InputOptions(lenient=True)))
    assert counts.skipped["no_name"] == 1 and counts.accounted()


def test_cram(tmp_path: Path, reference: str) -> None:
    """With its reference it is as BAM; without one, or with another, it is an error that says so."""
    path = write_file(tmp_path / "dataset_2.dat", RECORDS[:-1], reference)
    assert read(path, reference)[0] == EXPECTED
    other = tmp_path / "other.fa"
    other.write_text(">chr1\n" + turned(REFERENCE) + "\n")
    with pytest.raises(InputError, match="another reference"):
        read(path, str(other))
    for name in ("reference.fa", "reference.fa.fai"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="--reference") as caught:
        read(path)
    assert caught.value.path == path
    packed = tmp_path / "reference.fa.gz"
    packed.write_bytes(gzip.compress(b">chr1\nACGT\n"))
    for name in (str(packed), str(tmp_path / "missing.fa")):
        with pytest.raises(InputError, match="cannot be used as a reference") as caught:
            read(path, name)
        assert caught.value.path == name


def test_files_without_reads(tmp_path: Path, reference: str) -> None:
    """A header alone is whole."""
    assert read(write_file(tmp_path / "x.bam", [])) == ([], {})
    assert read(write_file(tmp_path / "x.cram", [], reference), reference) == ([], {})


def test_mixed_with_fastq(tmp_path: Path) -> None:
    """Each file is what it is."""
    fastq = tmp_path / "x"
    fastq.write_text("@a\nACGT\n+\nIIII\n")
    bam = write_file(tmp_path / "y", RECORDS[:1])
    counts = RecordCounts()
    assert [r.name for r in open_reads([bam, str(fastq), bam], counts)] == ["plain", "a", "plain"]


# ---------------------------------------------------------------- files that are not whole


def damages(data: bytes, blocks: list[int]) -> dict[str, bytes]:
    """What happens to files."""
    middle = len(data) // 2
    return {
        "no end": data[: blocks[-1]],
        "cut by one byte": data[:-1],
        "cut between blocks": data[: blocks[len(blocks) // 2]],
        "cut inside a block": data[: blocks[len(blocks) // 2] + 99],
        "flipped byte": data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :],
        "garbage after": data + b"garbage",
    }


def bgzf_blocks(data: bytes) -> list[int]:
    """Where they begin."""
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        at += int.from_bytes(data[at + 16 : at + 18], "little") + 1
    return starts


@pytest.mark.parametrize("lenient", [False, True], ids=["fail", "skip"])
@pytest.mark.parametrize("through", ["a file", "a FIFO"])
@pytest.mark.parametrize("damage", damages(b"x" * 300, [0, 100, 200]))
@pytest.mark.parametrize("kind", ["BAM", "CRAM"])
def test_damaged_files(
    tmp_path: Path,
    reference: str,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    damage: str,
    through: str,
    lenient: bool,
) -> None:
    """Never taken for whole, and htslib prints nothing."""
    whole = many(tmp_path / "whole", reference if kind == "CRAM" else "")
    if kind == "BAM":
        blocks = bgzf_blocks(whole)
        assert len(blocks) > 4
    else:
        # Containers are not looked for: any place is inside one, but for the one that ends the file.
        blocks = [*range(0, len(whole) - 38, 100), len(whole) - 38]
    data = damages(whole, blocks)[damage]
    path = tmp_path / "dataset_3.dat"
    writer = None
    if through == "a file":
        path.write_bytes(data)
    else:
        os.mkfifo(path)
        writer = threading.Thread(target=feed, args=(path, data))
        writer.start()
    counts = RecordCounts()
    with pytest.raises(InputError) as caught:
        for _ in open_reads([str(path)], counts, lenient=lenient, reference=reference):
            pass
    assert caught.value.path == str(path) and caught.value.record is not None
    assert ("cut off" in str(caught.value)) or kind == "CRAM"
    if writer is not None:
        writer.join()
    assert capfd.readouterr() == ("", "")


def feed(path: Path, data: bytes) -> None:
    """Write into a FIFO until nobody reads any more."""
    try:
        path.write_bytes(data)
    except BrokenPipeError:
        pass


def test_bam_cut_at_every_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same for a small file, byte by byte; a part of the magic bytes is an error as well."""
    whole = Path(write_file(tmp_path / "whole", RECORDS[:4])).read_bytes()
    path = tmp_path / "x"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read(str(path))
    assert capfd.readouterr() == ("", "")


def test_closing_early(tmp_path: Path) -> None:
    """The pipe and its thread end; nothing is printed, and no descriptor is left."""
    many(tmp_path / "x")
    before = threading.active_count(), len(os.listdir("/dev/fd"))
    for _ in range(3):
        reads = open_reads([str(tmp_path / "x")], RecordCounts())
        next(reads)
        reads.close()
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == before


# ---------------------------------------------------------------- by content


@pytest.mark.parametrize("size", [1, 3, 20])
def test_what_was_looked_at_is_put_back(tmp_path: Path, size: int) -> None:
    """Whatever comes at once, nothing is lost."""
    bam = Path(write_file(tmp_path / "x", RECORDS[:2])).read_bytes()
    for data, kind in [
        (bam, "BAM"),
        (b"CRAM\x03\0", "CRAM"),
        (gzip.compress(b"@a\n"), ""),
        (b"@", ""),
        (b"", ""),
    ]:
        (tmp_path / "y").write_bytes(data)
        with open_binary(str(tmp_path / "y")) as file:
            found, whole = sniff(file)
            assert found == kind
            pieces = [whole.read(2)]
            while piece := whole.read1(size):  # type: ignore[attr-defined]
                pieces.append(piece)
            assert b"".join(pieces) == data
    assert Rejoined(b"ab", None).read(1) == b"a"  # type: ignore[arg-type]


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of toy networks with windows of 60 bp."""
    path = tmp_path_factory.mktemp("toy") / "model"
    save_checkpoint(path, explanandum(), TOKENIZER, TAXONOMY, window_bp=60, training={})
    save_explainer(path, toy_explainer("state"), "gate", training={})
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash for process substitution")
@pytest.mark.parametrize("how", ["{0} - < {1}", "{0} <(cat {1})", "cat {1} | {0} -"])
def test_from_standard_input(tmp_path: Path, model: Path, how: str) -> None:
    """A pipe gives what the file gives."""
    path = write_file(tmp_path / "x", RECORDS[:-1])
    calls, report = tmp_path / "calls.tsv", tmp_path / "report.json"
    options = f"--model {model} -o {tmp_path}/x.bed --predictions {calls} --json {report}"
    command = how.format(f"{sys.executable} -m wyrcli explain {options}", path)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in calls.read_text().splitlines()[1:]]
    assert [(row[0], row[3]) for row in rows] == [
        (name, "ok" if sequence else "skipped:no_sequence") for name, sequence in EXPECTED
    ]
    assert json.loads(report.read_text())["read"]["alignments_left_out"] == {
        "secondary": 1,
        "supplementary": 1,
    }
    assert "1 secondary, 1 supplementary" in done.stderr


def test_bad_files_are_one_line(
    tmp_path: Path, model: Path, reference: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And exit 1, without an output."""
    (tmp_path / "cut.bam").write_bytes(many(tmp_path / "whole")[:-40])
    write_file(tmp_path / "x.cram", RECORDS[:-1], reference)
    os.rename(reference, tmp_path / "elsewhere.fa")
    for arguments, wanted in [
        (["cut.bam"], "cut off"),
        (["x.cram"], "--reference"),
        (["x.cram", "--reference", "missing.fa"], "missing.fa: No such file"),
        (["whole", "whole", "--paired"], "named for both mates"),
    ]:
        files = [str(tmp_path / a) if "." in a or a == "whole" else a for a in arguments]
        assert main(["explain", *files, "--model", str(model), "-o", str(tmp_path / "x.bed"), "-q"]) == 1
        out, err = capfd.readouterr()
        lines = err.splitlines()
        assert out == "" and lines[-1].startswith("wyr: error: ") and wanted in lines[-1]
        # htslib itself says which file the CRAM's header names as its reference.
        assert len(lines) == 1 or lines[:-1] == [f"{reference}: No such file or directory"]
        assert not (tmp_path / "x.bed").exists()
    assert main(["explain", str(tmp_path / "x.cram"), "--model", str(model), "-o", str(tmp_path / "x.bed"),
                 "-q", "--reference", str(tmp_path / "elsewhere.fa")]) == 0  # fmt: skip


def batches(path: str, n: int) -> Callable[[], list[str]]:
    """The first names, by a reader of its own."""
    return lambda: [r.name for r, _ in zip(open_reads([path], RecordCounts()), range(n), strict=False)]


def test_readers_in_several_threads(tmp_path: Path) -> None:
    """Each has a pipe of its own."""
    many(tmp_path / "x")
    results: list[list[str]] = []
    work = batches(str(tmp_path / "x"), N_MANY)
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[f"r{i}" for i in range(N_MANY)]] * 4
