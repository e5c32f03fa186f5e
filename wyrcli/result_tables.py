"""Tables of results, and what they look like as text, TSV, markdown, LaTeX, HTML and JSON.

A :class:`Table` holds values, not text: every format rounds for itself.  Names of reads, taxa and models come
from files and may hold anything, so each format cleans and escapes all text on its way out.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np

from wyrcli.writers import safe_text

__all__ = [
    "FORMATS",
    "Block",
    "Cell",
    "Column",
    "Layout",
    "Style",
    "Table",
    "clean",
    "number_text",
    "render",
    "slug",
]

Style = Literal["text", "verdict", "percent", "number", "count", "seconds"]
"""How values are shown.  ``percent``: shares from 0 to 1; ``verdict``: pass, warn, fail, not run."""

Detail = Literal["full", "compact", "plain"]
"""How much is shown of an interval: ``(96.1 to 98.2)``, ``[96.1,98.2]``, nothing."""

_TEXT_STYLES = ("text", "verdict")
_DETAILS: tuple[Detail, ...] = ("full", "compact", "plain")
_NOT_MEASURED = "–"  # noqa: RUF001
_DIGIT_SPACE = "\u2007"  # a blank as wide as a digit
_GAP = 2  # spaces between the columns of plain text
_NARROWEST_TEXT = 20  # a column of words is wrapped down to this many letters, not further


def clean(text: str) -> str:
    """Text from a file on one line, without control characters, escape sequences or marks of direction.

    >>> clean("a\\x1b[31m\\nb")
    'a_[31m_b'
    """
    return safe_text(text) if text else ""


def slug(text: str) -> str:
    """Text as an identifier in HTML and LaTeX.

    >>> slug("Table 1: masks & chunks")
    'table-1-masks-chunks'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


@dataclass(frozen=True)
class Cell:
    """One value, its 95 % interval where one is known, and whether it is the best of its column.

    ``value`` None, or NaN, means "not measured".
    """

    value: str | float | int | None
    low: float | None = None
    high: float | None = None
    best: bool = False

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            number = number.item() if isinstance(number, np.generic) else number
            is_nan = isinstance(number, float) and math.isnan(number)
            object.__setattr__(self, name, None if is_nan else number)

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are known."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Column:
    """``key`` names the column for programs (TSV, JSON), ``heading`` for people."""

    key: str
    heading: str
    style: Style = "text"

    @property
    def is_text(self) -> bool:
        """Words, which may be wrapped and stand on the left, rather than numbers."""
        return self.style in _TEXT_STYLES


class Block(NamedTuple):
    """Columns that stand side by side; ``widths`` are in letters."""

    columns: list[int]
    widths: list[int]


class Layout(NamedTuple):
    """What fits a width: ``texts`` by row and column, and more than one block if the columns must be folded.

    ``hides_intervals``: there are intervals, but no room for them.
    """

    texts: list[list[str]]
    blocks: list[Block]
    hides_intervals: bool


class Table:
    """Results by row and column.

    Parameters
    ----------
    key: name for programs.
    title: for people.
    columns: see :class:`Column`; keys differ.
    rows: one Cell, or plain value, per column.
    groups: none, or a heading for each row; neighbours of one heading stand under it together.
    notes: sentences below.

    Raises ValueError for rows or groups that do not fit, and for keys that are used twice.
    """

    def __init__(
        self,
        key: str,
        title: str,
        columns: Sequence[Column],
        rows: Sequence[Sequence[Cell | str | float | int | None]],
        groups: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.key = key
        self.title = title
        self.columns = tuple(columns)
        self.rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        self.groups = tuple(groups)
        self.notes = tuple(notes)
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {key}: a row has not {len(self.columns)} cells")
        if self.groups and len(self.groups) != len(self.rows):
            raise ValueError(f"table {key}: {len(self.groups)} groups for {len(self.rows)} rows")
        if len({column.key for column in self.columns}) != len(self.columns):
            raise ValueError(f"table {key}: two columns have one key")

    def with_intervals(self, column: int) -> bool:
        """Whether any cell of that column has an interval."""
        return any(row[column].has_interval for row in self.rows)

    def blocks_of_rows(self) -> Iterator[tuple[str, list[int]]]:
        """Each group's heading with the numbers of its rows; one group of '' if there are none."""
        groups = self.groups or [""] * len(self.rows)
        for heading, numbers in groupby(range(len(self.rows)), groups.__getitem__):
            yield heading, list(numbers)

    # ------------------------------------------------------------ plain text

    def texts(self, detail: Detail) -> list[list[str]]:
        """Cells as text by row and column; values and intervals of a column are aligned one by one."""
        columns = []
        for c, column in enumerate(self.columns):
            values = [_value_text(row[c].value, column.style) for row in self.rows]
            intervals = [_interval_text(row[c], column.style, detail) for row in self.rows]
            if any(intervals):
                value_width, interval_width = max(map(_width, values)), max(map(_width, intervals))
                values = [
                    _pad(v, value_width, right=True) + " " + _pad(i, interval_width)
                    for v, i in zip(values, intervals, strict=True)
                ]
            columns.append(values)
        return [list(row) for row in zip(*columns, strict=True)]

    def layout(self, width: int, gap: int = _GAP) -> Layout:
        """Fit the table into ``width`` letters, ``gap`` between columns.

        First words are wrapped, then intervals shortened, then left out; what is still too wide is folded
        into blocks of columns, each with the first column again.
        """
        some = any(self.with_intervals(c) for c in range(len(self.columns)))
        for detail in _DETAILS:
            texts = self.texts(detail)
            natural = [self._natural_width(c, texts) for c in range(len(self.columns))]
            least = [
                min(n, _NARROWEST_TEXT) if column.is_text else n
                for n, column in zip(natural, self.columns, strict=True)
            ]
            if sum(least) + gap * (len(least) - 1) <= width:
                room = width - gap * (len(least) - 1)
                block = Block(list(range(len(least))), _shrink(natural, least, room))
                return Layout(texts, [block], some and detail == "plain")
        return Layout(texts, _fold(least, width, gap), some)

    def to_text(self, width: int = 100) -> str:
        """Aligned plain text without colour, of lines of at most ``width`` where words allow it."""
        found = self.layout(width)
        lines = [*_wrap(clean(self.title), width), ""]
        for number, block in enumerate(found.blocks):
            lines += ([""] if number else []) + self._block_lines(found.texts, block)
        notes = [clean(note) for note in self.notes]
        if found.hides_intervals:
            notes.append("95 % intervals do not fit this width and are left out.")
        for note in notes:
            lines += ["", *_wrap(note, width)]
        return "\n".join(lines) + "\n"

    def _block_lines(self, texts: list[list[str]], block: Block) -> list[str]:
        headings = [clean(self.columns[c].heading) for c in block.columns]
        lines = self._row_lines(headings, block, bottom=True)
        lines.append((" " * _GAP).join("-" * width for width in block.widths))
        for number, (heading, numbers) in enumerate(self.blocks_of_rows()):
            if heading:
                lines += ([""] if number else []) + [f"{clean(heading)}:"]
            for r in numbers:
                lines += self._row_lines([texts[r][c] for c in block.columns], block)
        return lines

    def _row_lines(self, texts: Sequence[str], block: Block, bottom: bool = False) -> list[str]:
        """A row as one line, or more where words are wrapped."""
        parts = [
            _wrap(text, width) if _width(text) > width else [text]
            for text, width in zip(texts, block.widths, strict=True)
        ]
        height = max(map(len, parts))
        padded = []
        for c, own, width in zip(block.columns, parts, block.widths, strict=True):
            blank = [""] * (height - len(own))
            own = blank + own if bottom else own + blank
            padded.append([_pad(text, width, right=not self.columns[c].is_text) for text in own])
        return [(" " * _GAP).join(line).rstrip() for line in zip(*padded, strict=True)]

    def _natural_width(self, column: int, texts: list[list[str]]) -> int:
        words = clean(self.columns[column].heading).split() or [""]
        return max([1, *map(_width, words), *(_width(row[column]) for row in texts)])

    # ------------------------------------------------------------ files

    def to_tsv(self) -> str:
        """A header and a line per row, numbers unrounded for people (shares from 0 to 1); NA = not measured.

        Columns with intervals are followed by ``<key>_low`` and ``<key>_high``; groups are the first column.
        """
        header = ["group"] if self.groups else []
        for c, column in enumerate(self.columns):
            key = safe_text(column.key)
            header += [key, f"{key}_low", f"{key}_high"] if self.with_intervals(c) else [key]
        lines = ["\t".join(header)]
        for r, row in enumerate(self.rows):
            fields = [safe_text(self.groups[r])] if self.groups else []
            for c, cell in enumerate(row):
                bounds = [cell.low, cell.high] if self.with_intervals(c) else []
                fields += [_raw(value) for value in (cell.value, *bounds)]
            lines.append("\t".join(fields))
        return "\n".join(lines) + "\n"

    def to_markdown(self) -> str:
        """A heading and a table as GitHub reads them; the best values are bold."""
        blank = [""] * (len(self.columns) - 1)
        lines = [f"### {_markdown(self.title)}", ""]
        lines.append(_pipes(_markdown(column.heading) for column in self.columns))
        lines.append(_pipes("---" if column.is_text else "---:" for column in self.columns))
        for heading, numbers in self.blocks_of_rows():
            if heading:
                lines.append(_pipes([f"*{_markdown(heading)}*", *blank]))
            for r in numbers:
                lines.append(_pipes(self._escaped(r, _markdown, "**{}**")))
        if self.notes:
            lines += ["", *(f"- {_markdown_line(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def to_latex(self) -> str:
        """A ``table`` for the package booktabs; the best values are bold."""
        n = len(self.columns)
        rows = [" & ".join(_latex(column.heading) for column in self.columns) + r" \\", r"\midrule"]
        for number, (heading, numbers) in enumerate(self.blocks_of_rows()):
            if heading:
                rows += [r"\addlinespace"] if number else []
                rows.append(rf"\multicolumn{{{n}}}{{l}}{{\emph{{{_latex(heading)}}}}} \\")
            rows += [" & ".join(self._escaped(r, _latex, r"\textbf{{{}}}")) + r" \\" for r in numbers]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title)}}}",
            rf"\label{{tab:{slug(self.key)}}}",
            rf"\begin{{tabular}}{{{''.join('l' if column.is_text else 'r' for column in self.columns)}}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip{{\footnotesize {_latex(note)}\par}}" for note in self.notes),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _escaped(self, row: int, escape: Callable[[str], str], bold: str) -> list[str]:
        texts = []
        for column, cell in zip(self.columns, self.rows[row], strict=True):
            value = escape(_value_text(cell.value, column.style))
            value = bold.format(value) if cell.best else value
            interval = escape(_interval_text(cell, column.style, "full"))
            texts.append(f"{value} {interval}".rstrip())
        return texts

    def to_html(self, name: str = "") -> str:
        """A ``table`` with a caption, scoped headings and a ``tbody`` per group; notes in a list below.

        ``name``: identifier of the element, by default from the key.  ``data-value`` of a cell is the
        unrounded number, for programs that sort.  Style sheets should hide ``.interval.none``, which only
        keeps room.
        """
        lines = [
            f'<table id="{name or slug(self.key)}">',
            f"<caption>{_html(self.title)}</caption>",
            "<thead><tr>",
        ]
        for column in self.columns:
            kind = "" if column.is_text else ' class="number"'
            lines.append(f'<th scope="col"{kind}>{_html(column.heading)}</th>')
        lines.append("</tr></thead>")
        intervals = [
            max((_interval_text(row[c], column.style, "full") for row in self.rows), key=len, default="")
            for c, column in enumerate(self.columns)
        ]
        for heading, numbers in self.blocks_of_rows():
            lines.append("<tbody>")
            if heading:
                n = len(self.columns)
                lines.append(
                    f'<tr class="group"><th scope="rowgroup" colspan="{n}">{_html(heading)}</th></tr>'
                )
            lines += [self._html_row(self.rows[r], intervals) for r in numbers]
            lines.append("</tbody>")
        lines.append("</table>")
        if self.notes:
            lines += [
                '<ul class="notes">',
                *(f"<li>{_html(note)}</li>" for note in self.notes),
                "</ul>",
            ]
        return "\n".join(lines) + "\n"

    def _html_row(self, row: Sequence[Cell], intervals: Sequence[str]) -> str:
        """``intervals``: the longest of each column, which makes room where a cell has none."""
        fields = []
        for c, (column, cell, longest) in enumerate(zip(self.columns, row, intervals, strict=True)):
            text = _html(_value_text(cell.value, column.style))
            if cell.value is None:
                text = f'<span class="missing" title="not measured">{text}</span>'
            if cell.best:
                text = f"<strong>{text}</strong>"
            if interval := _interval_text(cell, column.style, "full"):
                text += f' <span class="interval">{interval.ljust(len(longest), _DIGIT_SPACE)}</span>'
            elif longest:
                text += f' <span class="interval none" aria-hidden="true">{longest}</span>'
            if column.style == "verdict":
                text = f'<span class="badge {slug(str(cell.value))}">{text}</span>'
            start = "th" if c == 0 else "td"
            attributes = ' scope="row"' if c == 0 else ""
            if not column.is_text:
                value = "" if cell.value is None else _raw(cell.value)
                attributes += f' class="number" data-value="{_html(value)}"'
            fields.append(f"<{start}{attributes}>{text}</{start}>")
        return f"<tr>{''.join(fields)}</tr>"

    def as_json(self) -> dict[str, Any]:
        """Everything as plain lists and dicts; text is as it came, what was not measured is None.

        JSON has no infinity: it is None too.
        """
        rows = []
        for r, row in enumerate(self.rows):
            cells = {}
            for column, cell in zip(self.columns, row, strict=True):
                content: dict[str, Any] = {"value": _finite(cell.value)}
                if cell.has_interval:
                    content |= {"low": _finite(cell.low), "high": _finite(cell.high)}
                if cell.best:
                    content["best"] = True
                cells[column.key] = content
            rows.append(({"group": self.groups[r]} if self.groups else {}) | {"cells": cells})
        columns = [{"key": c.key, "heading": c.heading, "style": c.style} for c in self.columns]
        return {
            "key": self.key,
            "title": self.title,
            "columns": columns,
            "rows": rows,
            "notes": list(self.notes),
        }


FORMATS = ("text", "tsv", "markdown", "latex", "html")
"""What :func:`render` knows."""


def render(tables: Sequence[Table], form: str, width: int = 100) -> str:
    """Several tables as one document in one of :data:`FORMATS`; ``width`` is that of text.

    TSV of more than one table has a line ``# title`` before each, and a blank line between two.
    Raises ValueError for an unknown format.
    """
    match form:
        case "text":
            parts = [table.to_text(width) for table in tables]
        case "tsv" if len(tables) == 1:
            parts = [tables[0].to_tsv()]
        case "tsv":
            parts = [f"# {clean(table.title)}\n{table.to_tsv()}" for table in tables]
        case "markdown":
            parts = [table.to_markdown() for table in tables]
        case "latex":
            parts = [table.to_latex() for table in tables]
        case "html":
            parts = [table.to_html() for table in tables]
        case _:
            raise ValueError(f"unknown format '{form}'; known: {', '.join(FORMATS)}")
    return "\n".join(parts)


# ---------------------------------------------------------------- values


def _value_text(value: str | float | int | None, style: Style) -> str:
    if value is None:
        return _NOT_MEASURED
    if isinstance(value, str):
        return clean(value)
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    match style:
        case "percent":
            return f"{100 * value:.1f} %"
        case "count":
            return f"{round(value):,}"
        case "seconds":
            return _duration(value)
        case _:
            return number_text(value)


def _interval_text(cell: Cell, style: Style, detail: Detail) -> str:
    if cell.low is None or cell.high is None or detail == "plain":
        return ""
    low, high = (_value_text(bound, style).removesuffix(" %") for bound in (cell.low, cell.high))
    return f"({low} to {high})" if detail == "full" else f"[{low},{high}]"


def number_text(value: float) -> str:
    """A number of no unit in about three digits.

    >>> number_text(0.8333), number_text(12.345), number_text(4567.8), number_text(-0.0001), number_text(0)
    ('0.833', '12.35', '4,568', '0.000', '0')
    """
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if size < 0.0005:
        return "0.000"
    digits = 3 if size < 9.9995 else 2 if size < 99.995 else 1 if size < 999.95 else 0
    return f"{value:,.{digits}f}"


def _duration(seconds: float) -> str:
    """
    >>> _duration(0.00123), _duration(0.25), _duration(12.34), _duration(125), _duration(7500)
    ('1.23 ms', '250 ms', '12.3 s', '2 min 05 s', '2 h 05 min')
    """
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _raw(value: str | float | int | None) -> str:
    """A value for a TSV: six digits of what is not whole."""
    if value is None:
        return "NA"
    if isinstance(value, str):
        return safe_text(value)
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _finite(value: str | float | int | None) -> str | float | int | None:
    return None if isinstance(value, float) and math.isinf(value) else value


# ---------------------------------------------------------------- widths


def _width(text: str) -> int:
    """Columns that a text takes on a terminal: letters of East Asia take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _pad(text: str, width: int, right: bool = False) -> str:
    blank = " " * (width - _width(text))
    return blank + text if right else text + blank


def _wrap(text: str, width: int) -> list[str]:
    """Lines of whole words; a word that is longer than a line is broken."""
    lines = [""]
    for word in text.split():
        if lines[-1] and _width(lines[-1]) + 1 + _width(word) <= width:
            lines[-1] += " " + word
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and _width(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _shrink(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Take from the widest column that may be narrower until all fit into ``room``, which ``least`` does."""
    widths = list(natural)
    while sum(widths) > room:
        free = [c for c in range(len(widths)) if widths[c] > least[c]]
        widths[max(free, key=widths.__getitem__)] -= 1
    return widths


def _fold(widths: Sequence[int], width: int, gap: int) -> list[Block]:
    """Blocks of columns no wider than ``width`` where one column allows it; each starts with the first."""
    blocks = [Block([0], [widths[0]])]
    for c in range(1, len(widths)):
        block = blocks[-1]
        if len(block.columns) > 1 and sum(block.widths) + gap * len(block.widths) + widths[c] > width:
            block = Block([0], [widths[0]])
            blocks.append(block)
        block.columns.append(c)
        block.widths.append(widths[c])
    return blocks


# ---------------------------------------------------------------- escapes


def _html(text: str) -> str:
    return html.escape(clean(text), quote=True)


def _markdown(text: str) -> str:
    """
    >>> print(_markdown("a|b *c* <i> http://x"))
    a\\|b \\*c\\* \\<i\\> http\\://x
    """
    text = re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", clean(text))
    return text.replace("://", r"\://").replace("www.", r"www\.")


def _markdown_line(text: str) -> str:
    """A text that begins a line, where it must start no list and no heading.

    >>> print(_markdown_line("# a"), _markdown_line("1. b"), _markdown_line("10 % c"))
    \\# a 1\\. b 10 % c
    """
    return re.sub(r"^(\d*)([#+\-=]|(?<=\d)[.)])", r"\1\\\2", _markdown(text))


def _pipes(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"\textasciigrave{}",
    # An option of the \\ before them, if they come first in a row.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "∞": r"$\infty$",
    "×": r"$\times$",  # noqa: RUF001
    "–": "--",  # noqa: RUF001
}


def _latex(text: str) -> str:
    """
    >>> print(_latex("50 % of a_b"))
    50\\,\\% of a\\_b
    """
    text = clean(text).replace("--", "-\0-")  # two hyphens of a name are no dash
    text = "".join(_LATEX.get(letter, letter) for letter in text).replace("\0", "{}")
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text).replace(r" \%", r"\,\%")
