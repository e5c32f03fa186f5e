"""CSV, TSV and Parquet tables as columns of text, block by block.

    path or stream -> decompressed bytes -> blocks of whole lines -> rows of cells -> columns asked for

Cells are text and stay as they are: ``NA``, ``007`` and ``1e5`` mean nothing here.  Neither the rows nor
the text of a table are ever held as a whole, so a table may be larger than memory.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wyrcli.errors import InputError, printable
from wyrcli.sequences import DamagedError, decompress, open_binary

__all__ = ["Table", "open_table"]

# Text comes in blocks of about the size of the pieces that the decompression gives (at most 1 MiB).
_PARQUET_BLOCK_BYTES = 4 * 1024 * 1024
_PARQUET_BLOCK_ROWS = 8192
_LONGEST_CELL = 2**30  # letters in a CSV: longer than a chromosome; what one open quotation mark can swallow
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARQUET_MAGIC = b"PAR1"
# Before the header: lines that start with '##', as in NCBI's assembly_summary.txt, and blank ones.
_PREAMBLE = re.compile(r"(?:##[^\n]*(?:\n|\Z)|[ \r]*\n)*")

_Rows = list[list[str]]
"""Cells by row."""
_Block = list[list[str]]
"""Cells by column."""


class Table:
    """A table that is open; made by :func:`open_table`.

    ``path`` is shown in errors.  ``columns`` are the header's cells, stripped, without a leading '#'.
    """

    def __init__(
        self, path: str, columns: Sequence[str], read: Callable[[list[int]], Iterator[_Block]]
    ) -> None:
        """``read`` gives the blocks of the columns with these indices."""
        self.path = path
        self.columns = tuple(columns)
        self._read = read
        self._is_read = False

    def rows(self, names: Sequence[str]) -> Iterator[list[list[str]]]:
        """The rows, once, in blocks: per block one list of cells for each of ``names``, all equally long.

        An empty cell is ''.  Blank lines are no rows.  Other columns are not looked at.

        Raises
        ------
        InputError: a name that no column has, or more than one; while reading, a row with more or fewer cells
            than the header (``record``: its number **from 1**), NUL, bytes that are not UTF-8, a damaged or
            cut off file, or in a Parquet file a column that holds neither text nor whole numbers.
        """
        if self._is_read:
            raise ValueError("the rows of a table can be read only once")
        indices = [self._find(name) for name in names]
        self._is_read = True
        return self._read(indices)

    def _find(self, name: str) -> int:
        n_columns = self.columns.count(name)
        if n_columns != 1:
            found = printable(", ".join(self.columns), limit=300)
            message = f"found the columns {found}; expected '{printable(name)}' once, not {n_columns} times"
            raise InputError(message, path=self.path)
        return self.columns.index(name)


@contextmanager
def open_table(path: str, file: BinaryIO | None = None) -> Iterator[Table]:
    """Open a table for the time of a ``with`` statement.

    Parameters
    ----------
    path: CSV, TSV or Parquet, told apart by content; ``-`` is standard input.  Text may be compressed.  It is
        a TSV if its header line has a tab, and then quotation marks mean nothing; else a CSV.
    file: an open binary stream to read instead, such as a member of a zip archive; it stays open.

    Raises
    ------
    InputError: there is no header, or something of which :meth:`Table.rows` tells, met in the first block.
    OSError: the file cannot be opened or read.
    """
    if file is None and _is_parquet(path):
        with _open_parquet(path) as table:
            yield table
    else:
        with open_binary(path) if file is None else nullcontext(file) as stream:
            yield _open_text(path, stream)


def _clean(names: Iterable[str]) -> list[str]:
    """Column names stripped, without the '#' that may lead a header."""
    columns = [name.strip() for name in names]
    columns[:1] = [name.removeprefix("#").strip() for name in columns[:1]]
    return columns


# ---------------------------------------------------------------- text


# Not pandas: with a choice of columns its parser takes rows with too many cells, and it counts a block in
# rows, whatever their length.  What stands here is as fast.
def _open_text(path: str, file: BinaryIO) -> Table:
    blocks = _decode(path, file)
    start = ""
    for block in blocks:
        # A block holds whole lines, so none of the lines to skip is cut in two.
        start = _PREAMBLE.sub("", block, count=1)
        if start:
            break
    is_tsv = "\t" in start.partition("\n")[0]
    blocks = chain([start], blocks)
    parsed = _split_tsv(blocks) if is_tsv else _parse_csv(path, blocks)
    first = next(parsed)
    if not first:
        raise InputError("found no header; expected a line of column names", path=path)
    columns = _clean(first[0])

    def read(indices: list[int]) -> Iterator[_Block]:
        n_rows = 0
        for rows in chain([first[1:]], parsed):
            if set(map(len, rows)) - {len(columns)}:
                raise _uneven(path, rows, len(columns), n_rows)
            n_rows += len(rows)
            if rows:
                yield [list(map(itemgetter(index), rows)) for index in indices]

    return Table(path, columns, read)


def _decode(path: str, file: BinaryIO) -> Iterator[str]:
    """The decompressed text in blocks of whole lines."""
    n_lines = 0
    try:
        for block in _whole_lines(decompress(file)):
            if not n_lines:
                block = block.removeprefix(_BYTE_ORDER_MARK)
                if block.startswith(_PARQUET_MAGIC):
                    message = "this is a Parquet file inside an archive or stream; unpack it"
                    raise InputError(message, path=path)
            at = block.find(b"\0")
            if at < 0:
                try:
                    text = block.decode("utf-8")
                except UnicodeDecodeError as error:
                    at = error.start
            if at >= 0:
                line = n_lines + block.count(b"\n", 0, at) + 1
                message = f"found byte 0x{block[at]:02x}; expected UTF-8 text"
                raise InputError(message, path=path, line=line)
            yield text
            n_lines += block.count(b"\n")
    except DamagedError as error:
        raise InputError(str(error), path=path, line=n_lines + 1) from None


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes cut after line ends; only the last may end elsewhere."""
    held: list[bytes] = []  # of one line, which may be a genome: joined once, not once per piece
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if end:
            yield b"".join([*held, piece[:end]])
            held.clear()
        held.append(piece[end:])
    rest = b"".join(held)
    if rest:
        yield rest


def _split_tsv(blocks: Iterable[str]) -> Iterator[_Rows]:
    for block in blocks:
        yield [line.rstrip("\r").split("\t") for line in block.split("\n") if line.strip(" \r")]


def _parse_csv(path: str, blocks: Iterable[str]) -> Iterator[_Rows]:
    """The rows, a block of them for each block of text."""
    csv.field_size_limit(_LONGEST_CELL)  # a setting of the whole process; the default is 128 KiB
    n_blocks = 0

    def lines() -> Iterator[str]:
        nonlocal n_blocks
        for block in blocks:
            n_blocks += 1
            yield from io.StringIO(block, newline="\n")

    rows: _Rows = []
    n_rows = current = 0
    try:
        # One parser for all blocks: a quoted cell may hold a line end, and so the end of a block.
        for cells in csv.reader(lines(), strict=True):
            if rows and n_blocks != current:
                yield rows
                n_rows += len(rows)
                rows = []
            current = n_blocks
            if len(cells) > 1 or any(map(str.strip, cells)):
                rows.append(cells)
    except csv.Error as error:
        # The header counts as a row here, but has no number.
        record = n_rows + len(rows) or None
        what = str(error).partition(" - ")[0]  # what follows is advice to programmers
        raise InputError(f"not a CSV table: {what}", path=path, record=record) from None
    yield rows


def _uneven(path: str, rows: _Rows, width: int, n_before: int) -> InputError:
    """The error of the first row that has not ``width`` cells."""
    number, n_cells = next((n, len(row)) for n, row in enumerate(rows, n_before + 1) if len(row) != width)
    cells = "1 cell" if n_cells == 1 else f"{n_cells} cells"
    return InputError(f"found {cells}; expected {width}, as in the header", path=path, record=number)


# ---------------------------------------------------------------- Parquet


def _is_parquet(path: str) -> bool:
    # Only of a regular file: a pipe cannot be opened twice.
    if path == "-" or not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


@contextmanager
def _open_parquet(path: str) -> Iterator[Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def damaged(error: Exception) -> InputError:
        what = printable(" ".join(str(error).split()), limit=200)
        return InputError(f"the Parquet file is damaged: {what}", path=path)

    def read(indices: list[int]) -> Iterator[_Block]:
        names = [schema.names[index] for index in indices]
        for index, name in zip(indices, names, strict=True):
            if not _holds_text(schema.types[index]):
                message = f"column '{printable(name)}' holds {schema.types[index]}; expected text or integers"
                raise InputError(message, path=path)
        n_rows = 0
        try:
            batches = file.iter_batches(_batch_rows(file.metadata, set(names)), columns=list(set(names)))
            for batch in batches:
                cells = {}
                for name in set(names):
                    column = batch.column(name)
                    if (at := _find_fraction(column)) is not None:
                        found = f"column '{printable(name)}' holds {column[at].as_py()}"
                        message = f"{found}; expected text or whole numbers"
                        raise InputError(message, path=path, record=n_rows + at + 1)
                    cells[name] = _as_text(column)
                n_rows += batch.num_rows
                if batch.num_rows:
                    yield [cells[name] for name in names]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(error) from None

    try:
        # Without pre-buffering, and with a buffer, a row group is not read as a whole.
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BLOCK_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise damaged(error) from None
    with file:
        schema = file.schema_arrow
        yield Table(path, _clean(schema.names), read)


def _holds_text(kind: Any) -> bool:
    """Whether values of a pyarrow type become text without a question of format."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    checks = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_null)
    return any(check(kind) for check in checks) or _is_float(kind)


def _is_float(kind: Any) -> bool:
    """Whether numbers of a pyarrow type may be whole: pandas makes 562.0 of integers beside empty cells."""
    from pyarrow import types

    return bool(types.is_float32(kind) or types.is_float64(kind))


def _find_fraction(column: Any) -> int | None:
    """The place of the first number that is not whole, or is beyond 64 bits."""
    if not _is_float(column.type):
        return None
    values = column.to_numpy(zero_copy_only=False)  # NaN for null
    odd = ~np.isnan(values) & ~((np.trunc(values) == values) & (np.abs(values) < 2**63))
    return int(odd.argmax()) if odd.any() else None


def _as_text(column: Any) -> list[str]:
    """The values of a pyarrow array; '' for null, and for NaN."""
    import pyarrow as pa

    if _is_float(column.type):
        numbers = column.to_numpy(zero_copy_only=False).tolist()
        return ["" if number != number else str(int(number)) for number in numbers]
    values: list[str | None] = column.cast(pa.large_string()).to_pylist()
    return [value or "" for value in values]


def _batch_rows(metadata: Any, names: set[str]) -> int:
    """How many rows of these columns make a block, by the row group with the longest rows."""
    bytes_per_row = 1
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        columns = (group.column(c) for c in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in names)
        bytes_per_row = max(bytes_per_row, size // max(group.num_rows, 1))
    return max(1, min(_PARQUET_BLOCK_ROWS, _PARQUET_BLOCK_BYTES // bytes_per_row))
