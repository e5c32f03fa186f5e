"""The matrix of malformed inputs: the right records, or one error that says where and what was expected.

Each row is read three times: strictly, leniently (``--on-error skip``), and by the command itself.
"""

from __future__ import annotations

import bz2
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import TAXONOMY, TOKENIZER, explanandum
from toy import explainer as toy_explainer

from wyrcli.checkpoint import save_checkpoint, save_explainer
from wyrcli.cli import main
from wyrcli.errors import InputError
from wyrcli.inputs import InputOptions, open_windows
from wyrcli.salvage import salvage
from wyrcli.sequences import Read, RecordReader
from wyrcli.windows import RecordCounts

SEQUENCE = "ACGTTGCAAC"
A, B, C = (f"@{name} x\n{SEQUENCE}\n+\n{'I' * 10}\n".encode() for name in "abc")
FASTA = b"".join(b">%c x\nACGTT\nGCAAC\n" % name for name in b"abc")
MANY = b"".join(b"@r%d\n%s\n+\n%s\n" % (i, b"ACGTTGCAGT" * 10, b"I" * 100) for i in range(500))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of toy networks with windows of 60 bp."""
    path = tmp_path_factory.mktemp("toy") / "model"
    save_checkpoint(path, explanandum(), TOKENIZER, TAXONOMY, window_bp=60, training={})
    save_explainer(path, toy_explainer("state"), "gate", training={})
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], str]:
    """A function that puts bytes into a file as Galaxy names it."""

    def write_file(data: bytes) -> str:
        path = tmp_path / "dataset_7.dat"
        path.write_bytes(data)
        return str(path)

    return write_file


class Row(NamedTuple):
    """A row of the matrix.

    ``wanted``: names that are explained; or what the error says, and where: record, name, line.
    ``lenient``: names that are explained where malformed records are skipped, and the reasons of those
    skipped; None if it is an error all the same.
    """

    data: bytes
    wanted: str | tuple[str, int, str | None, int | None]
    lenient: tuple[str, str] | None = None


def bgzf(data: bytes, folder: Path) -> bytes:
    """As bgzip writes it."""
    with pysam.BGZFile(str(folder / "x.gz"), "w") as file:
        file.write(data)
    return (folder / "x.gz").read_bytes()


def flipped(data: bytes) -> bytes:
    """With a byte of the trailer's checksum changed."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


ABC = A + B + C
GZ = gzip.compress(ABC, mtime=0)
WHOLE: dict[str, bytes] = {
    "plain": ABC,
    "gz": GZ,
    "bz2": bz2.compress(ABC),
    "several members": gzip.compress(A) + gzip.compress(B + C),
    "gz and zero padding": GZ + b"\0" * 512,
    "trailing blank line": ABC + b"\n",
    "Windows line ends": ABC.replace(b"\n", b"\r\n"),
    "no last line end": ABC[:-1],
    "half of the last Windows line end": ABC.replace(b"\n", b"\r\n")[:-1],
    "control characters behind the name": A + B.replace(b"@b x", b"@b\x1cx") + C.replace(b"@c x", b"@c\x0cx"),
    "byte order mark": b"\xef\xbb\xbf" + ABC,
    "byte order mark in gz": gzip.compress(b"\xef\xbb\xbf" + ABC),
    "blank lines before": b"\r\n\n" + ABC,
    "quality that starts with @": A + B.replace(b"+\nI", b"+\n@") + C,
    "quality that is a header's twin": A + B.replace(b"+\nIIIIIIIIII", b"+\n@b xIIIIII") + C,
    "name repeated on the + line": A + B.replace(b"+", b"+b x") + C,
    "FASTA": FASTA,
    "FASTA, Windows line ends": FASTA.replace(b"\n", b"\r\n"),
    "FASTA, old Mac line ends": FASTA.replace(b"\n", b"\r"),
    "FASTA, blank lines": FASTA.replace(b"\n", b"\n\n"),
    "FASTA, lower case and U": FASTA.replace(b"ACGTT", b"acguu"),
    "FASTA, spaces at line ends": FASTA.replace(b"T\n", b"T \t\n"),
}
ROWS: dict[str, Row] = {
    **{name: Row(data, "abc", ("abc", "")) for name, data in WHOLE.items()},
    "empty": Row(b"", "", ("", "")),
    "empty gz": Row(gzip.compress(b""), "", ("", "")),
    "truncated gz": Row(gzip.compress(MANY)[:-200], ("gzip stream is cut off", 0, None, None)),
    "gz without 4 bytes": Row(GZ[:-4], ("gzip stream is cut off", 0, None, None)),
    "gz without 9 bytes": Row(GZ[:-9], ("gzip stream is cut off", 0, None, None)),
    "bad checksum": Row(flipped(GZ), ("gzip stream is damaged", 0, None, None)),
    "garbage after gz": Row(GZ + b"garbage", ("bytes follow the end", 0, None, None)),
    "second member cut": Row(GZ + GZ[:-5], ("gzip stream is cut off", 0, None, None)),
    "short quality": Row(A + B[:-2] + b"\n" + C, ("qualities differ", 2, "b", 8), ("ac", "malformed")),
    "long quality": Row(A + B[:-1] + b"I\n" + C, ("qualities differ", 2, "b", 8), ("ac", "malformed")),
    "two in a row": Row(
        A + (B[:-2] + b"\n") + (C[:-2] + b"\n") + A,
        ("qualities differ", 2, "b", 8),
        ("aa", "malformed malformed"),
    ),
    "no + line": Row(A + B.replace(b"+\n", b"") + C, ("'+'", 2, "b", 7), ("ac", "malformed")),
    "no + line, twice": Row(
        A + B.replace(b"+\n", b"") + C.replace(b"+\n", b"") + A,
        ("'+'", 2, "b", 7),
        ("aa", "malformed malformed"),
    ),
    "other name on the + line": Row(A + B.replace(b"+", b"+q") + C, ("", 2, "b", 7), ("ac", "malformed")),
    "ends after the sequence": Row(A + B[:15], ("", 2, "b", None)),
    "ends after the header": Row(A + b"@b x\n", ("", 2, "b", None)),
    "ends inside the quality": Row(A + B[:-4], ("", 2, "b", None)),
    "no @": Row(A + B[1:] + C, ("'@'", 2, None, 5), ("ac", "malformed")),
    "junk line": Row(A + b"junk\n" + B + C, ("'@'", 2, None, 5), ("abc", "malformed")),
    "junk after all": Row(ABC + b"junk\n", ("", 4, None, None)),
    "blank line between records": Row(A + b"\n" + B, ("'@'", 2, None, 5), ("ab", "malformed")),
    "wrapped FASTQ": Row(
        A + b"@b x\nACGTT\nGCAAC\n+\nIIIII\nIIIII\n" + C,
        ("wrapped FASTQ is not read", 2, "b", 7),
        ("ac", "malformed"),
    ),
    "FASTA after FASTQ": Row(A + b">b\nACGTAC\n" + C, ("", 2, None, None), ("ac", "malformed")),
    "FASTQ after FASTA": Row(b">a\nACGTAC\n" + B, ("found '@'", 1, "a", None), ("", "malformed")),
    "text": Row(b"hello, world\n", ("expected '>' (FASTA) or '@' (FASTQ)", 1, None, 1)),
    "SAM": Row(b"@HD\tVN:1.6\n@SQ\tSN:a\tLN:9\n", ("SAM file", 0, None, None)),
    "sequence before '>'": Row(b"ACGT\n" + FASTA, ("expected '>'", 1, None, 1)),
    "comment with ;": Row(b"; c\n" + FASTA, ("expected '>'", 1, None, 1)),
    "line with ; inside": Row(
        FASTA.replace(b">b", b";c\n>b"), ("found ';' at position 11", 1, "a", None), ("bc", "bad_letters")
    ),
    "line with #": Row(
        FASTA.replace(b">c", b"#c\n>c"), ("starts with '#'", 2, None, 7), ("ac", "bad_letters")
    ),
    "old Mac FASTQ": Row(ABC.replace(b"\n", b"\r"), ("", 1, None, None)),
    "byte outside ASCII in a name": Row(
        A + B.replace(b"@b", b"@b\xe9") + C, ("0xe9", 2, None, 5), ("ac", "not_ascii")
    ),
    "UTF-8 in a FASTA name": Row(
        FASTA.replace(b">b x", ">b \u00fc".encode()), ("0xc3", 2, None, None), ("ac", "not_ascii")
    ),
    "'>' inside a line": Row(FASTA.replace(b"\n>c", b">c"), ("found '>'", 2, "b", None), ("a", "malformed")),
    "space inside a sequence": Row(
        FASTA.replace(b">b x\nACG", b">b x\nA G"), ("found ' '", 2, "b", None), ("ac", "bad_letters")
    ),
    "-": Row(FASTA.replace(b">b x\nACG", b">b x\nA-G"), ("found '-'", 2, "b", None), ("ac", "bad_letters")),
    "*": Row(ABC.replace(B, B.replace(b"TT", b"T*")), ("'*'", 2, "b", None), ("ac", "bad_letters")),
    "no name": Row(FASTA.replace(b">b x", b">"), ("no name", 2, None, None), ("ac", "no_name")),
    "form feed before the name": Row(
        A + B.replace(b"@b", b"@\x0cb") + C, ("no name", 2, None, None), ("ac", "no_name")
    ),
    "no name in FASTQ": Row(A + B.replace(b"@b x", b"@") + C, ("no name", 2, None, None), ("ac", "no_name")),
    "space before the name": Row(
        FASTA.replace(b">b x", b"> b"), ("no name", 2, None, None), ("ac", "no_name")
    ),
    "empty read": Row(A + b"@b\n\n+\n\n" + C, "ac", ("ac", "empty")),
    "empty FASTA record": Row(FASTA.replace(b">b x\nACGTT\nGCAAC\n", b">b\n"), "ac", ("ac", "empty")),
}  # fmt: skip


def read(paths: list[str], **options: Any) -> tuple[list[str], list[str], RecordCounts]:
    """Names explained, reasons of what is skipped, and the counts."""
    counts, skipped = RecordCounts(), []
    windows = open_windows(
        paths, TOKENIZER, 60, counts, InputOptions(**options), lambda *record: skipped.append(record)
    )
    names = [window.name for window in windows if window.start == 0]
    ordinals = [record[0] for record in skipped]
    assert ordinals == sorted(ordinals) and all(ordinal < counts.records for ordinal in ordinals)
    assert counts.accounted() and counts.records == len(names) + len(skipped)
    return names, [record[3] for record in skipped], counts


@pytest.mark.parametrize("name", ROWS)
def test_strictly(write: Callable[[bytes], str], name: str) -> None:
    """The right records, or an error with file, record, name and line where they can be known."""
    row = ROWS[name]
    path = write(row.data)
    if isinstance(row.wanted, str):
        assert "".join(read([path])[0]) == row.wanted
        return
    message, record, record_name, line = row.wanted
    with pytest.raises(InputError) as caught:
        read([path])
    error = caught.value
    assert message in str(error) and str(error).isprintable()
    assert error.path == path
    assert not record or error.record == record
    assert record_name is None or error.name == record_name
    assert line is None or error.line == line


@pytest.mark.parametrize("name", ROWS)
def test_leniently(write: Callable[[bytes], str], name: str) -> None:
    """Single malformed records are left out and counted; what is cut off or damaged is an error."""
    row = ROWS[name]
    path = write(row.data)
    if row.lenient is None:
        with pytest.raises(InputError) as caught:
            read([path], lenient=True)
        assert caught.value.path == path and str(caught.value).isprintable()
        return
    names, reasons, counts = read([path], lenient=True)
    assert ("".join(names), " ".join(reasons)) == row.lenient
    malformed = [reason for reason in reasons if reason != "empty"]
    assert counts.malformed() == len(malformed)
    assert bool(malformed) == (path in counts.first_fault)
    if not isinstance(row.wanted, str) and malformed and row.wanted[3] is not None:
        assert f"record {row.wanted[1]}" in counts.first_fault  # the same place as the strict reader's


@pytest.mark.parametrize("name", ROWS)
def test_by_the_command(
    model: Path, write: Callable[[bytes], str], tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Exit 0 and every read in the table of predictions; or exit 1, one line, and no file."""
    row = ROWS[name]
    bed, calls, report = (str(tmp_path / n) for n in ("x.bed", "x.tsv", "x.json"))
    command = ["explain", write(row.data), "--model", str(model), "-q", "-o", bed]
    command += ["--predictions", calls, "--json", report, "--on-error", "skip" if row.lenient else "fail"]
    code = main(command)
    out, err = capfd.readouterr()
    assert out == ""
    if row.lenient is None:
        assert code == 1
        assert err.count("\n") == 1 and err.startswith("wyr: error: ") and "dataset_7.dat" in err
        assert [p.name for p in tmp_path.iterdir()] == ["dataset_7.dat"]
        return
    assert code == 0
    rows = [line.split("\t") for line in Path(calls).read_text().splitlines()[1:]]
    names, reasons = row.lenient
    assert "".join(r[0] for r in rows if r[3] == "ok") == names
    assert [r[3] for r in rows if r[3] != "ok"] == [f"skipped:{reason}" for reason in reasons.split()]
    counts = json.loads(Path(report).read_text())["read"]
    assert counts["records"] == len(rows)
    assert {k: v for k, v in counts["records_skipped"].items() if v} == {
        reason: reasons.split().count(reason) for reason in reasons.split()
    }
    malformed = len(reasons.split()) - reasons.split().count("empty")
    assert err.count("malformed read") == bool(malformed) == ("the first: " in err)


def test_bgzf_cut_or_without_its_end(write: Callable[[bytes], str], tmp_path: Path) -> None:
    """The empty block at the end may be missing, as it says nothing; a block that is cut is an error."""
    data = bgzf(MANY, tmp_path)
    assert len(read([write(data[:-28])])[0]) == 500
    for options in ({}, {"lenient": True}):
        with pytest.raises(InputError, match="cut off"):
            read([write(data[:-40])], **options)


def test_what_is_no_fastq_any_more_is_not_skipped(write: Callable[[bytes], str]) -> None:
    """A count of one for the rest of a file would be a lie."""
    with pytest.raises(InputError, match="too much is malformed"):
        read([write(A + b"junk\n" * 200 + B)], lenient=True)


def test_the_command_fails_by_default(
    model: Path, write: Callable[[bytes], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Skipping is asked for, never a surprise."""
    assert main(["explain", write(ROWS["-"].data), "--model", str(model), "-q"]) == 1
    assert "record 2 ('b'): found '-' at position 2" in capfd.readouterr().err


# ---------------------------------------------------------------- properties

DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda r: r[:-2] + b"\n",
    lambda r: r.replace(b"\n+\n", b"\n"),
    lambda r: r[1:],
    lambda r: r.replace(b"\n+\n", b"\n+other\n"),
    lambda r: r.replace(b"@", b"@\xff", 1),
    lambda r: b"stray\n" + r,
]
NO_SIGN, STRAY_LINE = 2, 5
QUALITY = st.text(alphabet=[chr(i) for i in range(33, 127)], min_size=1, max_size=30)


@given(st.lists(st.tuples(QUALITY, st.sampled_from([None, *range(len(DAMAGES))])), min_size=1, max_size=12))
@settings(max_examples=300)
def test_good_records_among_bad_ones(records: list[tuple[str, int | None]]) -> None:
    """Whatever is between them, and whatever their quality lines look like, good records are found."""
    rng = random.Random(len(records))
    text, good, sure = b"", [], set()
    # The first tells the format.
    damages = [None, *(damage for _, damage in records[1:]), None, None]
    for i, quality in enumerate([*(quality for quality, _ in records), "I"]):
        damage = damages[i]
        sequence = "".join(rng.choices("ACGT", k=len(quality)))
        record = f"@r{i}\n{sequence}\n+\n{quality}\n".encode()
        text += record if damage is None else DAMAGES[damage](record)
        if damage in (None, STRAY_LINE):
            good.append((f"r{i}", sequence))
            unclear_before = damage == STRAY_LINE or (i and damages[i - 1] in (1, NO_SIGN, STRAY_LINE))
            if not (unclear_before and damages[i + 1] in (NO_SIGN, STRAY_LINE)):
                sure.add(f"r{i}")
    reads = list(salvage("x", iter([text])))
    found = {read.name: read.sequence for read in reads if read.fault is None}
    assert list(found.items()) == [(name, sequence) for name, sequence in good if name in found]
    assert sure <= found.keys()
    assert any(read.fault is not None for read in reads) == any(damage is not None for damage in damages)


@given(st.binary(max_size=300), st.integers(1, 60))
@settings(max_examples=300)
def test_any_bytes(data: bytes, size: int) -> None:
    """Records or an InputError, whatever comes and however it is cut into pieces."""
    results = []
    for pieces in ([data], [data[i : i + size] for i in range(0, len(data), size)]):
        try:
            results.append(
                [(r.name, r.sequence, r.fault and r.fault.reason) for r in salvage("x", iter(pieces))]
            )
        except InputError as error:
            results.append((error.record, error.line))  # the message shows as much as has come
    assert results[0] == results[1]


@given(st.lists(st.sampled_from(list(b"@>+\nACI \r\t#\xff")), max_size=120).map(bytes))
@settings(max_examples=500)
def test_any_lines(data: bytes) -> None:
    """The same for what looks like FASTA and FASTQ; what is given out as good is whole."""
    try:
        reads = list(salvage("x", iter([data])))
    except InputError:
        return
    assert all(
        r.fault is not None or (r.sequence.isascii() and "@" not in r.sequence)
        for r in reads
        if not r.is_fastq
    )


LINES = ["@a", ">a", "+", "ACGT", "II+@", "@III", "AC", "", "+a", "@b c"]


@given(st.lists(st.sampled_from(LINES), max_size=14), st.booleans())
@settings(max_examples=1000)
def test_what_is_right_is_read_as_ever(lines: list[str], ended: bool) -> None:
    """Where the strict reader finds no fault, the lenient one gives out the same; else it tells of one."""
    data = ("\n".join(lines) + "\n" * ended).encode()
    try:
        strict = [Read.of(record) for record in RecordReader.from_pieces("x", iter([data]))]
    except InputError:
        strict = None
    try:
        reads = list(salvage("x", iter([data])))
    except InputError:
        assert strict is None
        return
    if strict is None:
        assert any(read.fault is not None for read in reads)
    else:
        assert reads == strict, "names, sequences and qualities, and no faults"
