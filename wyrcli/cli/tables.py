"""Tables of results on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from wyrcli.result_tables import Block, Cell, Column, Layout, Table, clean

__all__ = ["to_rich"]

_GAP = 2
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_BEST = "bold cyan"


def to_rich(table: Table, width: int) -> Group:
    """A table for a terminal of ``width`` columns; only verdicts and the best values have a colour.

    All text goes in as ``rich.text.Text``, so that square brackets in names are no markup.
    """
    found = table.layout(width, _GAP)
    parts: list[RichTable | Text | Padding] = [Text(clean(table.title), style="bold")]
    parts += [_rich_block(table, found, block) for block in found.blocks]
    notes = [*table.notes]
    if found.hides_intervals:
        notes.append("95 % intervals do not fit this terminal and are left out.")
    parts += [Text(clean(note), style="dim") for note in notes]
    return Group(*parts)


def _rich_block(table: Table, found: Layout, block: Block) -> RichTable:
    # The box puts a blank of its own between columns.
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), show_edge=False)
    for c, width in zip(block.columns, block.widths, strict=True):
        column = table.columns[c]
        drawn.add_column(
            Text(clean(column.heading)),
            justify="left" if column.is_text else "right",
            vertical="top",
            width=width,
            overflow="fold",
        )
    for heading, numbers in table.blocks_of_rows():
        if heading:
            drawn.add_section()
            drawn.add_row(Text(clean(heading), style="italic"))
        for r in numbers:
            cells = zip(block.columns, block.widths, strict=True)
            drawn.add_row(*(_rich_cell(table, found, r, c, width) for c, width in cells))
    return drawn


def _rich_cell(table: Table, found: Layout, row: int, column: int, width: int) -> Text:
    text = found.texts[row][column]
    if not table.columns[column].is_text:
        text = text.rjust(width)  # rich would strip the blanks that align the intervals
    return Text(text, style=_style(table.columns[column], table.rows[row][column]), justify="left")


def _style(column: Column, cell: Cell) -> str:
    if column.style == "verdict":
        return _COLOURS.get(str(cell.value), "")
    return _BEST if cell.best else ""
