"""Records from files good and bad, the alphabet, and windows that tile a record."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import dnaio
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wyrcli.sequences
from wyrcli.errors import InputError
from wyrcli.explanation import Window
from wyrcli.sequences import CleanText, RecordReader, normalise, read_records
from wyrcli.windows import RecordCounts, split_windows, window_borders

N_RECORDS = 3000
FASTQ = b"".join(b"@r%d x\n%s\n+\n%s\n" % (i, b"ACGTTGCA" * 4, b"I" * 32) for i in range(N_RECORDS))
FASTA = b"".join(b">r%d x\n%s\n%s\n" % (i, b"ACGTTGCA" * 2, b"TTGA") for i in range(N_RECORDS))
ONE = b"@a 1\nACGT\n+\nIIII\n"


def compress_zstd(data: bytes) -> bytes:
    """One zstd frame with a checksum, as the zstd command writes it."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": compress_zstd,
}


try:
    from isal import isal_zlib

    INFLATERS: dict[str, Callable[..., Any]] = {
        "zlib": zlib.decompressobj,
        "isal": isal_zlib.decompressobj,
    }
except ImportError:
    INFLATERS = {"zlib": zlib.decompressobj}


@pytest.fixture(params=INFLATERS)
def inflater(request, monkeypatch):
    """The test runs with each library that can read gzip."""
    monkeypatch.setattr(wyrcli.sequences, "_new_inflater", INFLATERS[request.param])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], str]:
    """A function that puts bytes into a file whose name says nothing."""

    def write_file(data: bytes, name: str = "dataset_1.dat") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write_file


@pytest.fixture
def bgzf(tmp_path: Path) -> bytes:
    """The FASTQ text as BGZF, in several blocks and with the EOF block."""
    path = str(tmp_path / "blocks.gz")
    with pysam.BGZFile(path, "w") as file:
        file.write(FASTQ)
    return Path(path).read_bytes()


def names(path: str) -> list[str]:
    """Record ids in a file."""
    return [record.id for record in read_records([path])]


ALL_NAMES = [f"r{i}" for i in range(N_RECORDS)]


# ---------------------------------------------------------------- good files


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("text", [FASTQ, FASTA], ids=["fastq", "fasta"])
@pytest.mark.parametrize("kind", COMPRESS)
def test_compression_and_format_are_known_by_content(write, kind, text):
    """No extension helps, and a wrong one does no harm."""
    assert names(write(COMPRESS[kind](text))) == ALL_NAMES
    assert names(write(COMPRESS[kind](text), "wrong.fa.gz")) == ALL_NAMES


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("kind", COMPRESS)
def test_streams_one_after_the_other_are_one_file(write, kind):
    """Multi-member gzip, multi-stream bzip2 and xz, several zstd frames."""
    half = FASTQ.index(b"@r1500 ")
    compress = COMPRESS[kind]
    assert names(write(compress(FASTQ[:half]) + compress(FASTQ[half:]))) == ALL_NAMES


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("kind", COMPRESS)
def test_empty_files_hold_no_record(write, kind):
    """Neither zero bytes nor a compressed nothing is an error."""
    assert names(write(b"")) == []
    assert names(write(COMPRESS[kind](b""))) == []
    assert names(write(COMPRESS[kind](b"\n\r\n"))) == []


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_zero_padding_after_a_stream_is_allowed(write, kind):
    """Tapes and some archives leave it; both formats allow it."""
    assert names(write(COMPRESS[kind](FASTQ) + b"\0" * 512)) == ALL_NAMES
    assert names(write(COMPRESS[kind](FASTQ) + b"\0" * 512 + COMPRESS[kind](ONE))) == [*ALL_NAMES, "a"]


def test_zstd_skippable_frames(write):
    """pzstd starts its files with one."""
    assert names(write(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + compress_zstd(ONE))) == ["a"]


@pytest.mark.usefixtures("inflater")
def test_bgzf_with_and_without_eof_block(write, bgzf):
    """Its last, empty block may be missing."""
    assert names(write(bgzf)) == ALL_NAMES
    assert names(write(bgzf[:-28])) == ALL_NAMES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xef\xbb\xbf" + ONE, [("a", "ACGT")]),
        (b"\xef\xbb\xbf\r\n\n" + ONE, [("a", "ACGT")]),
        (b"\n\n>a\nAC\nGT\n", [("a", "ACGT")]),
        (ONE + b"\n", [("a", "ACGT")]),
        (ONE + b"\r\n\n\n", [("a", "ACGT")]),
        (ONE[:-1], [("a", "ACGT")]),
        (ONE.replace(b"\n", b"\r\n"), [("a", "ACGT")]),
        (b">a\r\nAC\r\nGT\r\n\r\n", [("a", "ACGT")]),
        (b">a\rAC\rGT\r", [("a", "ACGT")]),
        (b">a\n\nAC\n\nGT\n", [("a", "ACGT")]),
        (b">a\n>b\nAC\n", [("a", ""), ("b", "AC")]),
        (b"@a\n\n+\n\n", [("a", "")]),
        (b"@a\n\n+\n\n\n\n", [("a", "")]),
        (b"@a\r\n\r\n+\r\n\r\n", [("a", "")]),
        (b"@a\n\n+\n\n" + ONE, [("a", ""), ("a", "ACGT")]),
        (b"@a\nACGT\n+\n@III\n" + ONE, [("a", "ACGT"), ("a", "ACGT")]),
        (b"@a\nACGT\n+\n#III\n" + ONE, [("a", "ACGT"), ("a", "ACGT")]),
        (b"@a\nACGT\n+a\nIIII\n", [("a", "ACGT")]),
        (b"@a\tb c\nACGT\n+\nIIII\n", [("a", "ACGT")]),
        (b">" + b"n" * 300_000 + b"\nACGT\n", [("n" * 300_000, "ACGT")]),
    ],
)
def test_unusual_files_that_are_right(write, text, expected):
    """Byte order marks, blank lines at the ends, line ends, empty reads."""
    assert [(r.id, r.sequence) for r in read_records([write(text)])] == expected


def test_several_files_of_several_kinds(write):
    """Format and compression are found out file by file, and the reader says where it is."""
    paths = [write(ONE, "1"), write(b"", "2"), write(gzip.compress(b">b\nAC\n>c\nGT\n"), "3")]
    reader = read_records(paths)
    seen = [(record.id, reader.path, reader.number) for record in reader]
    assert seen == [("a", paths[0], 1), ("b", paths[2], 1), ("c", paths[2], 2)]


@pytest.mark.usefixtures("inflater")
def test_long_records_across_many_reads(write):
    """A record far longer than a read from the file."""
    sequence = b"ACGTTGCATT" * 100_000
    text = b"@long\n%s\n+\n%s\n" % (sequence, b"I" * len(sequence)) + ONE
    assert [len(r) for r in read_records([write(gzip.compress(text))])] == [len(sequence), 4]


def test_text_that_somebody_else_opened():
    """Format, number and the path of errors are as for a file of its own."""
    reader = RecordReader.from_pieces("a.zip/b.fa", iter([b"\n>a x\nAC", b"GT\n>b\nA>C\n"]))
    record = next(reader)
    assert (record.id, record.sequence, reader.path, reader.number) == ("a", "ACGT", "a.zip/b.fa", 1)
    with pytest.raises(InputError) as caught:
        next(reader)
    assert (caught.value.path, caught.value.record) == ("a.zip/b.fa", 2)


# ---------------------------------------------------------------- pipes


def run_from_pipe(data: bytes, argument: str = "-") -> subprocess.CompletedProcess[str]:
    """Count records of a stream that can neither seek nor be opened twice."""
    code = (
        "import sys; from wyrcli.sequences import read_records; print(len(list(read_records([sys.argv[1]]))))"
    )
    done = subprocess.run([sys.executable, "-c", code, argument], input=data, capture_output=True)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("kind", COMPRESS)
def test_standard_input_through_a_pipe(kind):
    """Compressed or not, and the same damage is seen there."""
    data = COMPRESS[kind](FASTQ)
    assert run_from_pipe(data).stdout.split() == [str(N_RECORDS)]
    broken = run_from_pipe(data[:-20])
    assert broken.returncode == 1
    assert "InputError: -, record" in broken.stderr


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="no /dev/stdin on this system")
def test_dev_stdin():
    """What process substitution looks like."""
    assert run_from_pipe(gzip.compress(FASTQ), "/dev/stdin").stdout.split() == [str(N_RECORDS)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_fifo_that_drips(tmp_path):
    """A writer that gives one byte at a time hides neither the magic bytes nor the byte order mark."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def drip() -> None:
        with open(path, "wb", buffering=0) as file:
            for byte in gzip.compress(b"\xef\xbb\xbf\n" + ONE):
                file.write(bytes([byte]))

    writer = threading.Thread(target=drip)
    writer.start()
    assert names(str(path)) == ["a"]
    writer.join()


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize(
    "body", [ONE, ONE + b"@b\n\n+\n\n", b">a\r\nAC\r\n\r\nGT\r\n", ONE.replace(b"\n", b"\r\n")]
)
def test_text_is_the_same_however_it_arrives(body, size):
    """Where the pieces of a stream are cut has no influence."""
    data = b"\xef\xbb\xbf\n\r\n" + body + b"\n\r\n\n"
    text = CleanText(data[i : i + size] for i in range(0, len(data), size))
    assert (text.first, text.blank_lines) == (body[:1], 2)
    assert text.readall() == body


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize("kind", COMPRESS)
def test_streams_are_the_same_however_they_arrive(write, monkeypatch, kind, size):
    """The same for compressed bytes, and for text that a decompressor gives out a little at a time."""
    monkeypatch.setattr(wyrcli.sequences, "_READ_BYTES", size)
    compress = COMPRESS[kind]
    text = b"\xef\xbb\xbf\n" + b"".join(b"@r%d\nACGT\n+\nIIII\n" % i for i in range(50))
    path = write(compress(text) + compress(ONE + b"\n\n"))
    assert names(path) == [*(f"r{i}" for i in range(50)), "a"]


def test_standard_input_only_once():
    """Two dashes would read the second half of a pipe, or nothing."""
    with pytest.raises(InputError, match="only once"):
        read_records(["-", "-"])


# ---------------------------------------------------------------- damaged streams


def damaged(data: bytes, kind: str) -> bytes:
    """Compressed data, hurt in one of the ways that happen."""
    middle = len(data) // 2
    return {
        "cut in the middle": data[:middle],
        "cut by 1": data[:-1],
        "trailer cut by 4": data[:-4],
        "trailer cut by 9": data[:-9],
        "flipped byte": data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :],
        "garbage after": data + b"garbage",
        "one byte after": data + b"x",
        "second stream cut": data + data[:-5],
        "second stream cut in its magic": data + data[:2],
        "text after": data + FASTQ,
    }[kind]


DAMAGES = [
    "cut in the middle",
    "cut by 1",
    "trailer cut by 4",
    "trailer cut by 9",
    "flipped byte",
    "garbage after",
    "one byte after",
    "second stream cut",
    "second stream cut in its magic",
    "text after",
]


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("text", [FASTQ, FASTA], ids=["fastq", "fasta"])
@pytest.mark.parametrize("kind", [kind for kind in COMPRESS if kind != "plain"])
def test_damaged_streams_are_never_taken_for_whole(write, kind, text, damage):
    """Whatever the damage, an error names file and record."""
    path = write(damaged(COMPRESS[kind](text), damage))
    with pytest.raises(InputError) as caught:
        names(path)
    # A flipped byte may spell a malformed record before the checksum is reached.
    assert (
        damage == "flipped byte" or "stream is " in str(caught.value) or "bytes follow" in str(caught.value)
    )
    if damage in ("garbage after", "one byte after", "text after"):
        assert f"bytes follow the end of the {kind} stream" in str(caught.value)
    assert caught.value.path == path
    assert caught.value.record is not None


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("at", [-8, -4], ids=["CRC", "length"])
def test_bad_checksum(write, at):
    """The data inflates, but its CRC or its length is not that of the trailer."""
    data = bytearray(gzip.compress(FASTQ))
    data[at] ^= 1
    with pytest.raises(InputError, match="gzip stream is damaged"):
        names(write(bytes(data)))


@pytest.mark.usefixtures("inflater")
def test_bgzf_cut_inside_a_block(write, bgzf):
    """Whole blocks before it do not hide the cut one."""
    with pytest.raises(InputError, match="cut off"):
        names(write(bgzf[:-40]))


@pytest.mark.usefixtures("inflater")
def test_records_before_the_damage_are_given_out(write):
    """The number in the error is that of the first record that is not there."""
    reader = read_records([write(damaged(gzip.compress(FASTQ, mtime=0), "cut in the middle"))])
    count = 0
    with pytest.raises(InputError) as caught:
        for _ in reader:
            count += 1
    assert 0 < count < N_RECORDS
    assert caught.value.record == count + 1


# ---------------------------------------------------------------- malformed text

GOOD = ONE.replace(b"@a", b"@good")
MALFORMED_FASTQ = {
    "short quality": (b"@b\nACGT\n+\nIII\n", 2, "b", 8),
    "long quality": (b"@b\nACGT\n+\nIIIII\n", 2, "b", 8),
    "missing plus": (b"@b\nACGT\nIIII\n" + ONE, 2, "b", 7),
    "ends after sequence": (b"@b\nACGT\n", 2, "b", None),
    "ends inside sequence": (b"@b\nAC", 2, "b", None),
    "ends after header": (b"@b 1\n", 2, "b", None),
    "ends after plus": (b"@b\nACGT\n+\n", 2, "b", None),
    "missing at sign": (b"b\nACGT\n+\nIIII\n", 2, None, 5),
    "junk line": (b"junk\n" + ONE, 2, None, 5),
    "wrapped": (b"@b\nAC\nGT\n+\nII\nII\n", 2, "b", 7),
    "blank line between records": (b"\n" + ONE, 2, None, 5),
    "other name on plus line": (b"@b\nACGT\n+c\nIIII\n", 2, "b", 7),
    "FASTA after FASTQ": (b">x\nACGT\nAC\n", 2, None, None),
    "byte outside ASCII in a name": (b"@b\xe9\nACGT\n+\nIIII\n", 2, None, 5),
    "UTF-8 in a name": ("@bé\nACGT\n+\nIIII\n".encode(), 2, None, 5),
    "byte outside ASCII in the quality": (ONE + b"@b\nACGT\n+\nII\xffI\n", 3, None, 12),
}


@pytest.mark.parametrize("blank", [b"", b"\n\r\n"], ids=["", "after blank lines"])
@pytest.mark.parametrize("case", MALFORMED_FASTQ)
def test_malformed_fastq(write, case, blank):
    """Each error names file, record, and the line and name where they can be known."""
    text, record, name, line = MALFORMED_FASTQ[case]
    path = write(blank + GOOD + text)
    with pytest.raises(InputError) as caught:
        names(path)
    error = caught.value
    assert (error.path, error.record, error.name) == (path, record, name)
    assert line is None or error.line == line + blank.count(b"\n")
    assert "\n" not in str(error)


def test_malformed_fastq_far_into_the_file(write):
    """Name and line are right beyond the first buffers, too."""
    with pytest.raises(InputError) as caught:
        names(write(gzip.compress(FASTQ + b"@bad one\nACGT\n+\nI\n" + FASTQ)))
    error = caught.value
    assert (error.record, error.name, error.line) == (N_RECORDS + 1, "bad", 4 * N_RECORDS + 4)


def test_wrapped_fastq_is_called_so(write):
    """The hint is what a user needs."""
    with pytest.raises(InputError, match="wrapped FASTQ is not read"):
        names(write(b"@b\nAC\nGT\n+\nII\nII\n"))


def test_old_mac_line_ends_in_fastq(write):
    """dnaio does not read them; the error is clean."""
    with pytest.raises(InputError, match="record 1 "):
        names(write(ONE.replace(b"\n", b"\r")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"hello, world\n", "found 'hello, world'"),
        (b"ACGT\n>a\nACGT\n", "found 'ACGT'"),
        (b"; comment\n>a\nACGT\n", "found '; comment'"),
        (b"# comment\n>a\nACGT\n", "found '# comment'"),
        (b"\x00\x01\x02", "expected '>'"),
        (b"\xff\xfe>\x00a\x00", "expected '>'"),
        (b"BAM\x01rest", "BAM file"),
        (b"PK\x03\x04rest", "zip archive"),
        (gzip.compress(gzip.compress(ONE)), "gzip file inside"),
    ],
)
def test_other_formats(write, text, message):
    """What is neither FASTA nor FASTQ is said to be so, in printable letters."""
    with pytest.raises(InputError, match=message) as caught:
        names(write(text))
    assert str(caught.value).isprintable()


MALFORMED_FASTA = {
    "'>' inside a line": (b">b\nAC>c\nACGT\n", 2),
    "FASTQ after FASTA": (b">b\nACGT\n" + ONE, 2),
    "'#' line": (b">b\nACGT\n#c\nACGT\n", 2),
    "byte outside ASCII in a name": (b">b\nAC\n>c\xe9\nACGT\n", 3),
    "UTF-8 in a description": (">b ü\nACGT\n".encode(), 2),
}


@pytest.mark.parametrize("case", MALFORMED_FASTA)
def test_malformed_fasta(write, case):
    """What dnaio would glue, drop or fail at without a number."""
    text, record = MALFORMED_FASTA[case]
    path = write(b">a\nACGT\n" + text)
    with pytest.raises(InputError) as caught:
        names(path)
    assert (caught.value.path, caught.value.record) == (path, record)


@pytest.mark.parametrize(
    "letters", [b"AC GT", b"AC-GT", b"ACGT*", b"AC\n;GT", b"AC1GT", b"AC\x00GT", b"MEEPQ"]
)
def test_letters_that_are_no_nucleotides(write, letters):
    """These pass every parser; the window stage refuses them with path, record and name."""
    path = write(b">a\nACGTAC\n>b x\n" + letters + b"\n")
    with pytest.raises(InputError, match="expected IUPAC") as caught:
        list(split_windows(read_records([path]), 60, RecordCounts()))
    assert (caught.value.path, caught.value.record, caught.value.name) == (path, 2, "b")


def test_missing_file_and_directory(tmp_path):
    """The operating system's own errors are left to the caller."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError):
            names(str(path))


def test_closing_early_closes_the_file(write):
    """A reader that is not read to its end can be closed."""
    reader = read_records([write(FASTQ)])
    next(reader)
    reader.close()
    assert list(reader) == []


# ---------------------------------------------------------------- normalise


def test_normalise_by_letter():
    """Against the definition, letter by letter."""
    for letter in map(chr, range(256)):
        if letter.isascii() and letter.upper() in "ACGTURYSWKMBDHVN":
            base = letter.upper().replace("U", "T")
            assert normalise(letter) == (base if base in "ACGT" else "N")
        else:
            with pytest.raises(ValueError, match="position 3 "):
                normalise("AC" + letter)


@given(st.text(alphabet="ACGTacgtUuRYNn", max_size=50))
def test_normalise_keeps_length_and_is_idempotent(sequence):
    """Positions must stay what they were in the file."""
    normal = normalise(sequence)
    assert len(normal) == len(sequence)
    assert set(normal) <= set("ACGTN")
    assert normalise(normal) == normal


# ---------------------------------------------------------------- windows


def windows_of(sequences: list[str], window_bp: int, **options) -> tuple[list[Window], RecordCounts]:
    """Windows of records named r0, r1, ..."""
    counts = RecordCounts()
    records = [dnaio.SequenceRecord(f"r{i} x", s) for i, s in enumerate(sequences)]
    return list(split_windows(records, window_bp, counts, **options)), counts


@given(length=st.integers(0, 3000), window_bp=st.integers(6, 700))
def test_borders_tile_the_record_with_the_fewest_windows(length, window_bp):
    """No gap, no overlap, none too long, inner borders in the k-mer frame, and one fewer would not do."""
    borders = window_borders(length, window_bp)
    sizes = [stop - start for start, stop in pairwise(borders)]
    assert borders[0] == 0 and borders[-1] == length
    assert all(border % 6 == 0 for border in borders[:-1])
    assert all(0 < size <= window_bp for size in sizes) or (length == 0 and sizes == [0])
    longest_with_one_fewer = (len(sizes) - 2) * (window_bp // 6 * 6) + window_bp
    assert len(sizes) == 1 or longest_with_one_fewer < length
    if window_bp % 6 == 0:
        assert len(sizes) == max(1, -(-length // window_bp))
    assert len(sizes) < 3 or max(sizes[:-1]) - min(sizes[:-1]) <= 6


@given(st.lists(st.text(alphabet="ACGTN", max_size=80), max_size=6), st.integers(6, 40), st.integers(0, 20))
def test_windows_tile_each_record(sequences, window_bp, min_bp):
    """Windows and what is counted as left out make up every record, in order."""
    skips: list[tuple[int, str, int, str]] = []
    windows, counts = windows_of(
        sequences, window_bp, min_bp=min_bp, on_skip=lambda *skip: skips.append(skip)
    )
    assert counts.accounted()
    assert counts.records == len(sequences)
    assert counts.bases == sum(map(len, sequences))
    assert counts.windows == len(windows)
    assert counts.windowed == len({window.record for window in windows})
    assert sorted({w.record for w in windows} | {skip[0] for skip in skips}) == list(range(len(sequences)))
    assert sum(counts.skipped.values()) == len(skips)
    left_out = 0
    for i, sequence in enumerate(sequences):
        own = [window for window in windows if window.record == i]
        if not own:
            continue
        borders = window_borders(len(sequence), window_bp)
        tiles = list(pairwise(borders))
        kept = [(a, b) for a, b in tiles if set(sequence[a:b]) != {"N"}]
        assert [(w.start, w.stop) for w in own] == kept
        assert all(w.sequence == sequence[w.start : w.stop] and w.name == f"r{i}" for w in own)
        left_out += len(tiles) - len(kept)
    assert counts.windows_without_acgt == left_out


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [("", "empty"), ("ACGTA", "short"), ("NNNNNNN", "no_acgt"), ("rrrrrrnn", "no_acgt")],
)
def test_skipped_records_are_announced(sequence, reason):
    """Ordinal, name, length and reason of each."""
    skips: list[tuple[int, str, int, str]] = []
    windows, counts = windows_of(["ACGTAC", sequence], 60, on_skip=lambda *skip: skips.append(skip))
    assert [window.record for window in windows] == [0]
    assert skips == [(1, "r1", len(sequence), reason)]
    assert counts.skipped[reason] == 1
    assert counts.as_dict()["records_skipped"] == counts.skipped


def test_ordinals_run_on_over_files(write):
    """Window.record counts in the whole input, errors count in the file."""
    paths = [write(b">a\nACGTAC\n>b\nACGTAC\n", "1"), write(b">a\nACGTAC\n>c\nAC-TAC\n", "2")]
    records: list[int] = []
    with pytest.raises(InputError) as caught:
        for window in split_windows(read_records(paths), 60, RecordCounts()):
            records.append(window.record)
    assert records == [0, 1, 2]
    assert (caught.value.path, caught.value.record) == (paths[1], 2)


def test_duplicate_names_are_counted():
    """Every repetition counts; the description does not make a name different."""
    counts = RecordCounts()
    records = [dnaio.SequenceRecord(name, "ACGTAC") for name in ("a", "b", "a x", "a y", "c")]
    assert len(list(split_windows(records, 60, counts))) == len(records)
    assert counts.duplicate_names == 2


@pytest.mark.parametrize("text", [b">\nACGTAC\n", b"> a\nACGTAC\n", b"@\nACGTAC\n+\nIIIIII\n"])
def test_records_without_a_name(write, text):
    """A window must be found again by its name."""
    with pytest.raises(InputError, match="no name"):
        list(split_windows(read_records([write(text)]), 60, RecordCounts()))


def test_plain_lists_of_records_have_ordinals_in_errors():
    """Without a reader there is no path, but still a number."""
    with pytest.raises(InputError, match=r"^record 1 \('r0'\): found '\*' at position 2 "):
        windows_of(["A*"], 60)


def test_window_too_small_for_a_token():
    """Six bases are the least."""
    with pytest.raises(ValueError, match="at least 6"):
        windows_of([], 5)


def test_records_are_streamed():
    """A window comes before the second record is asked for."""

    def records():
        yield dnaio.SequenceRecord("a", "ACGTAC")
        raise AssertionError("read too far")

    assert next(split_windows(records(), 60, RecordCounts())).name == "a"


def test_reader_is_an_iterator_of_records(write):
    """It can be handed to anything that takes records."""
    reader = read_records([write(ONE)])
    assert isinstance(reader, RecordReader)
    assert iter(reader) is reader


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash for process substitution")
def test_process_substitution(write):
    """wyr explain <(zcat reads.fq.gz)."""
    path = write(gzip.compress(FASTQ))
    code = (
        "import sys; from wyrcli.sequences import read_records; print(len(list(read_records([sys.argv[1]]))))"
    )
    command = f'"{sys.executable}" -c "{code}" <(gzip -dc "{path}")'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.split() == [str(N_RECORDS)], done.stderr
