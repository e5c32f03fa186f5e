"""Tables good and bad, in pieces of every size, as columns of text."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import wyrcli.tables
from wyrcli.errors import InputError
from wyrcli.tables import open_table

# Cells that a reader which guesses types would change.
UNTOUCHED = ["NA", "007", "1e5", "", "nan", "True", "2020-01-01", " padded ", "None", "0x1F", "µ"]


class Trickle(io.BytesIO):
    """A stream that hands out a few bytes at a time, like a slow pipe."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self._size)


def read(source: bytes | Path | str, *names: str, file: BinaryIO | None = None) -> list[list[str]]:
    """Columns by name, the blocks joined."""
    if isinstance(source, bytes):
        source, file = "table", io.BytesIO(source)
    with open_table(str(source), file) as table:
        columns: list[list[str]] = [[] for _ in names]
        for block in table.rows(names):
            assert len(block) == len(names) and len(set(map(len, block))) == 1 and block[0]
            for column, cells in zip(columns, block, strict=True):
                column += cells
    return columns


def header(data: bytes) -> tuple[str, ...]:
    with open_table("table", io.BytesIO(data)) as table:
        return table.columns


def write_csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
TSV_CELL = st.text(st.characters(exclude_characters="\0\t\r\n", exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.tuples(CELL, CELL), max_size=8), st.integers(1, 30))
@example([('"', "\n"), ("a\r\nb", ","), ("\u2028", "\x0b"), ("##", "#")], 1)
def test_csv_round_trip(rows: list[tuple[str, str]], size: int) -> None:
    data = write_csv([("a", "b"), *rows])
    expected = [[row[0] for row in rows], [row[1] for row in rows]]
    assert read("table", "a", "b", file=Trickle(data, size)) == expected


@given(
    st.lists(st.tuples(TSV_CELL, TSV_CELL), max_size=8), st.integers(1, 30), st.sampled_from(["\n", "\r\n"])
)
@example([('"', ""), ("", '"x'), ("\u2028", "\x0b"), ("", "")], 1, "\n")
def test_tsv_round_trip(rows: list[tuple[str, str]], size: int, line_end: str) -> None:
    text = line_end.join("\t".join(row) for row in [("a", "b"), *rows]) + line_end
    expected = [[row[1] for row in rows], [row[0] for row in rows]]
    assert read("table", "b", "a", file=Trickle(text.encode(), size)) == expected


@given(st.lists(st.tuples(CELL, st.none() | st.integers(-(2**63), 2**63 - 1)), max_size=8))
def test_parquet_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, Any]]) -> None:
    path = tmp_path_factory.getbasetemp() / "t.parquet"
    columns = {
        "text": pa.array([a for a, _ in rows], pa.string()),
        "n": pa.array([b for _, b in rows], pa.int64()),
    }
    pq.write_table(pa.table(columns), path)
    expected = [["" if b is None else str(b) for _, b in rows], [a for a, _ in rows]]
    assert read(path, "n", "text") == expected


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_no_cell_is_guessed(delimiter: str) -> None:
    text = "".join(f"{cell}{delimiter}x\n" for cell in ["a", *UNTOUCHED])
    assert read(text.encode(), "a") == [UNTOUCHED]


def test_headers() -> None:
    assert header(b"a,b\n") == ("a", "b")
    assert header(b"\xef\xbb\xbf#a\t b \tc#\r\n") == ("a", "b", "c#")
    assert header(b"# a\tb") == ("a", "b")
    assert header(b'"a, b",c\n') == ("a, b", "c")
    assert header(b'"a\nb",c\n') == ("a\nb", "c")
    assert header(b'"a"\tb\n') == ('"a"', "b")
    assert header(b"\n \r\n##  See\tftp://x\n##\n#assembly_accession\ttaxid\n") == (
        "assembly_accession",
        "taxid",
    )


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_stands_before_a_header_comes_in_pieces(size: int) -> None:
    data = b"\xef\xbb\xbf## one\n\n##two\n#a,b\n##c,1\n"
    assert read("table", "a", "b", file=Trickle(data, size)) == [["##c"], ["1"]]


@pytest.mark.parametrize("delimiter", ["\t", ","])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_missing_cells_and_blank_lines(delimiter: str, line_end: str) -> None:
    lines = ["a,b,c", "", "1,2,3", "4,,", " ", "5,6,", "", "7,8,9", "", ""]
    data = line_end.join(lines).replace(",", delimiter).encode()
    expected = [["1", "4", "5", "7"], ["3", "", "", "9"]]
    assert read(data, "a", "c") == expected
    assert read(data.rstrip(), "a", "c") == expected  # no line end at the end
    for row, found in (("5,6", "2 cells"), ("5", "1 cell"), ("5,6,7,8", "4 cells")):
        lines[5] = row
        with pytest.raises(InputError, match=f"record 3: found {found}; expected 3, as in the header"):
            read(line_end.join(lines).replace(",", delimiter).encode(), "a")


def test_no_rows_and_one_column() -> None:
    assert read(b"a,b\n", "b") == [[]]
    assert read(b"a\n1\n\n2", "a") == [["1", "2"]]


def test_the_same_column_twice_and_none(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["1", "2"], "b": ["x", "y"]}), path)
    assert read(path, "a", "b", "a") == [["1", "2"], ["x", "y"], ["1", "2"]]
    assert read(b"a,b\n1,x\n2,y\n", "a", "b", "a") == [["1", "2"], ["x", "y"], ["1", "2"]]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("codec", COMPRESS)
def test_compressed(tmp_path: Path, codec: str) -> None:
    rows = [(f"r{i}", str(i)) for i in range(100_000)]  # several blocks
    path = tmp_path / "t.any"
    path.write_bytes(
        COMPRESS[codec](b"name\ttaxid\n" + b"".join(b"%s\t%s\n" % (a.encode(), b.encode()) for a, b in rows))
    )
    assert read(path, "name", "taxid") == [[a for a, _ in rows], [b for _, b in rows]]


def test_standard_input_and_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"a,b\n1,2\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read("-", "b") == [["2"]]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    try:
        assert read(pipe, "b") == [["2"]]
    finally:
        writer.join()


def test_member_of_an_archive_stays_open(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.tsv", "a\tb\n" + "1\t2\n" * 100_000)
    with zipfile.ZipFile(tmp_path / "t.zip") as archive, archive.open("t.tsv") as member:
        assert read("t.zip/t.tsv", "b", file=member) == [["2"] * 100_000]
        assert not member.closed


SEQUENCE = "ACGTTGCAGT" * 150


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_blocks_are_small(tmp_path: Path, kind: str) -> None:
    n_rows = 20_000
    path = tmp_path / "t"
    sequences = [f"{SEQUENCE}{i:010d}" for i in range(n_rows)]
    if kind == "parquet":
        pq.write_table(pa.table({"id": list(range(n_rows)), "sequence": sequences}), path)
    else:
        delimiter = "," if kind == "csv" else "\t"
        path.write_text(
            "".join(f"{i}{delimiter}{s}\n" for i, s in [("id", "sequence"), *enumerate(sequences)])
        )
    seen: list[str] = []
    with open_table(str(path)) as table:
        for _, block in table.rows(["id", "sequence"]):
            assert sum(map(len, block)) < 5_000_000
            seen += block
    assert seen == sequences


def test_blocks_of_genomes_are_small(tmp_path: Path) -> None:
    genomes = [f"{i:02d}" + "ACGT" * 500_000 for i in range(12)]
    pq.write_table(pa.table({"g": genomes}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("".join(f"{g}\n" for g in ["g", *genomes]))
    for name in ("t.parquet", "t.csv"):
        with open_table(str(tmp_path / name)) as table:
            blocks = [block for (block,) in table.rows(["g"])]
        assert max(map(len, blocks)) <= 2
        assert [g for block in blocks for g in block] == genomes


def test_columns_that_are_not_asked_do_not_shorten_blocks(tmp_path: Path) -> None:
    columns = {"g": [f"{i:02d}" + "ACGT" * 500_000 for i in range(12)], "id": list(range(12))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with open_table(str(tmp_path / "t.parquet")) as table:
        assert list(table.rows(["id"])) == [[[str(i) for i in range(12)]]]


def test_a_cell_may_be_long() -> None:
    assert read(b'a,b\n1,"' + b"A" * 5_000_000 + b'"\n', "b") == [["A" * 5_000_000]]


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "table: found no header; expected a line of column names"),
        (b"\xef\xbb\xbf", "found no header"),
        (b"##x\n\n", "found no header"),
        (b'""\n', "found no header"),
        (b"a,b,a\n1,2,3\n", "found the columns a, b, a; expected 'a' once, not 2 times"),
        (b"b\tc\n", "found the columns b, c; expected 'a' once, not 0 times"),
        (b"a,b\n\n1,2\n3,4,5\n", "table, record 2: found 3 cells; expected 2, as in the header"),
        (b"a\tb\n1\t2\n3\t4\t\n", "table, record 2: found 3 cells; expected 2"),
        (b"a\tb\n\n1\t2\n3\t\x004\n", "table, line 4: found byte 0x00; expected UTF-8 text"),
        (b"a,b\n1,\xb5\n", "table, line 2: found byte 0xb5; expected UTF-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), "table, line 1: found byte 0x"),
        (b'a,b\n1,2\n\n3,"4\n5,6\n', "table, record 2: not a CSV table: unexpected end of data"),
        (b'a,b\n"1"x,2\n', "table, record 1: not a CSV table: ',' expected after"),
        (b'"a"x,b\n1,2\n', "table: not a CSV table: ',' expected after"),
        (b"a,b\r1,2\r", "table: not a CSV table: new-line character seen in unquoted field"),
        (b"a\x1b[31m,b\n", "found the columns a?[31m, b; expected"),
    ],
)
def test_bad_text(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(data, "a")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_open_quotation_mark_does_not_swallow_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit()
    monkeypatch.setattr(wyrcli.tables, "_LONGEST_CELL", 1000)
    try:
        with pytest.raises(
            InputError, match=r"table, record 2: not a CSV table: field larger than field limit"
        ):
            read(b'a,b\n1,2\n3,"4\n' + b"1,2\n" * 1000, "a")
    finally:
        csv.field_size_limit(before)


def test_columns_that_are_not_asked_may_be_named_twice() -> None:
    assert read(b"a,b,b\n1,2,3\n", "a") == [["1"]]


@pytest.mark.parametrize("size", [1, 20, 1000])
def test_the_bad_row_is_counted_over_blocks(size: int) -> None:
    for delimiter in (b",", b"\t"):
        rows = [b"a,b", *[b"%d,x" % i for i in range(50)], b"1,2,3", b"4,5"]
        data = b"\n".join(rows).replace(b",", delimiter)
        with pytest.raises(InputError) as caught:
            read("table", "a", file=Trickle(data, size))
        assert (caught.value.record, caught.value.path) == (51, "table")
    for bad, line in ((b"\0", 51), (b"\xff", 51)):
        data = b"a,b\n" + b"1,2\n" * 49 + b"1," + bad + b"\n3,4\n"
        with pytest.raises(InputError) as caught:
            read("table", "a", file=Trickle(data, size))
        assert caught.value.line == line
    data = b"a,b\n" + b"1,2\n" * 49 + b'"3"4,5\n' + b"1,2\n" * 9
    with pytest.raises(InputError) as caught:
        read("table", "a", file=Trickle(data, size))
    assert caught.value.record == 50


def test_cut_off_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    whole = gzip.compress(b"a\tb\n" + b"".join(b"%d\t2\n" % i for i in range(300_000)), mtime=0)
    path.write_bytes(whole[:-9])
    n_rows = 0
    with (
        pytest.raises(InputError, match=r"t\.gz, line \d+: the gzip stream is cut off"),
        open_table(str(path)) as table,
    ):
        for (cells,) in table.rows(["a"]):
            n_rows += len(cells)
    assert 250_000 < n_rows < 300_000  # what came before was given out, but not what was cut
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    with pytest.raises(InputError, match="damaged"):
        read(path, "a")


def test_rows_are_read_once() -> None:
    with open_table("table", io.BytesIO(b"a\n1\n")) as table:
        assert list(table.rows(["a"])) == [[["1"]]]
        with pytest.raises(ValueError, match="only once"):
            table.rows(["a"])


# ---------------------------------------------------------------- Parquet


def test_parquet_types(tmp_path: Path) -> None:
    columns = {
        "#string": pa.array(["NA", None, ""]),
        "large": pa.array(["a", None, "c"], pa.large_string()),
        "view": pa.array(["a", None, "c"], pa.string_view()),
        "codes": pa.array(["x", None, "x"]).dictionary_encode(),
        "numbers": pa.array([7, None, 8]).dictionary_encode(),
        "accession.version": pa.array(["A.1", None, "C.1"]),
        "accession": pa.array([0, None, 2**64 - 1], pa.uint64()),
        "null": pa.nulls(3),
    }
    path = tmp_path / "t.table"  # the name tells nothing
    pq.write_table(pa.table(columns), path)
    names = ["string", *list(columns)[1:]]
    with open_table(str(path)) as table:
        assert list(table.columns) == names
    assert read(path, *names) == [
        ["NA", "", ""],
        ["a", "", "c"],
        ["a", "", "c"],
        ["x", "", "x"],
        ["7", "", "8"],
        ["A.1", "", "C.1"],
        ["0", "", "18446744073709551615"],
        ["", "", ""],
    ]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1.0, None], pa.float16()), "halffloat"),
        (pa.array([True]), "bool"),
        (pa.array([b"ACGT"]), "binary"),
        (pa.array([["a"]]), "list"),
        (pa.array([b"ACGT"]).dictionary_encode(), "dictionary"),
        (pa.array([{"a": "b"}]), "struct"),
    ],
)
def test_other_parquet_types_are_refused_if_asked_for(tmp_path: Path, values: Any, kind: str) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": values, "n": list(range(len(values)))}), path)
    assert read(path, "n") == [[str(i) for i in range(len(values))]]
    with pytest.raises(InputError, match=f"column 'x' holds {kind}.*; expected text or integers"):
        read(path, "x")


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_parquet_floats_are_read_where_they_are_whole(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": pa.array([562.0, None, float("nan"), -0.0], kind)}), path)
    assert read(path, "x") == [["562", "", "", "0"]]
    for value in (1.5, float("inf"), 2.0**63):
        pq.write_table(pa.table({"x": pa.array([1.0, None, value], kind)}), path)
        with pytest.raises(
            InputError, match=r"record 3: column 'x' holds .*; expected text or whole numbers"
        ):
            read(path, "x")


def test_parquet_columns_are_named_once(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["1"])] * 3, ["a", "b", "a"]), path)
    assert read(path, "b") == [["1"]]
    with pytest.raises(InputError, match="expected 'a' once, not 2 times"):
        read(path, "a")


def test_parquet_in_a_stream_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": ["1"]}), buffer)
    (tmp_path / "t.gz").write_bytes(gzip.compress(buffer.getvalue()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    for path, file in ((tmp_path / "t.gz", None), ("-", None), ("t.zip/t", io.BytesIO(buffer.getvalue()))):
        with pytest.raises(InputError, match="a Parquet file inside an archive or stream; unpack it"):
            read(path, "a", file=file)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [str(i) for i in range(10_000)]}), path, compression="zstd")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"PAR1", whole[:100] + bytes(5000) + whole[5100:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="the Parquet file is damaged: ") as caught:
            read(path, "a")
        assert "\n" not in str(caught.value)
    # Text that is none: Parquet promises UTF-8 and nobody holds it to that.
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    pq.write_table(pa.table({"a": bad}), path)
    with pytest.raises(InputError, match="damaged"):
        read(path, "a")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.csv", "a")
