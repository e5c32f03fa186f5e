"""Tables of results in every format, with text that means no good."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from wyrcli.cli.tables import to_rich
from wyrcli.result_tables import FORMATS, Cell, Column, Style, Table, render

COLUMNS = (
    Column("method", "method"),
    Column("accuracy", "balanced accuracy", "percent"),
    Column("auprc", "AUPRC", "number"),
    Column("reads", "reads", "count"),
    Column("time", "time per read", "seconds"),
)
TABLE = Table(
    "peers",
    "Peers beside our masks",
    COLUMNS,
    [
        ["ours", Cell(0.973, 0.961, 0.982, best=True), Cell(0.8333, best=True), 1234567, 0.0005],
        ["lime", Cell(0.05, 0.041, 0.062), None, 9, 26.0],
        ["random", 0.0, float("nan"), 0, 7500],
    ],
    groups=["Explainers", "peers", "peers"],
    notes=["Chance is 6.25 %."],
)
DASH = "\N{EN DASH}"
HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e|a\tb\nc\\`*_&\"$%#{}~^\ud800\x00 [link](http://e.vil)"


def words(table: Table, width: int = 200) -> list[list[str]]:
    """Plain text by line, split where two blanks are."""
    return [re.split(r" {2,}", line.strip()) for line in table.to_text(width).splitlines()]


def test_text() -> None:
    """Rounded for people; a unit beside every number, an en dash for what was not measured."""
    lines = words(TABLE)
    assert lines[0] == ["Peers beside our masks"]
    assert lines[5:] == [
        ["Explainers:"],
        ["ours", "97.3 % (96.1 to 98.2)", "0.833", "1,234,567", "0.5 ms"],
        [""],
        ["peers:"],
        ["lime", "5.0 % (4.1 to 6.2)", DASH, "9", "26 s"],
        ["random", "0.0 %", DASH, "0", "2 h 05 min"],
        [""],
        ["Chance is 6.25 %."],
    ]


def test_columns_are_aligned() -> None:
    """Percent signs stand below each other, whatever the intervals; so do the ends of the numbers."""
    rows = [line for line in TABLE.to_text().splitlines() if line.startswith(("ours", "lime", "random"))]
    assert len({row.index("%") for row in rows}) == 1
    assert len({row.index("(") for row in rows if "(" in row}) == 1
    ends = [re.search(r"(1,234,567|9|0)  +[\d.]+ (ms|s|h)", row) for row in rows]
    assert len({found.end(1) for found in ends if found}) == 1 and all(ends)


@pytest.mark.parametrize("width", [200, 80, 68, 62, 50, 30])
def test_width_is_kept(width: int) -> None:
    """Intervals are shortened, then left out and that is said, then columns are folded; no number is lost."""
    text = TABLE.to_text(width)
    assert max(map(len, text.splitlines())) <= width
    for value in ("97.3 %", "5.0 %", "0.833", "1,234,567", "2 h 05 min"):
        assert value in text
    shown = [form for form in ("(96.1 to 98.2)", "[96.1,98.2]") if form in text]
    assert len(shown) + text.count("95 % intervals do not fit") == len(shown or [1])


def test_narrower_means_less_detail() -> None:
    """Each step is taken at some width, in the order of what is lost."""
    steps = []
    for width in range(120, 20, -1):
        text = TABLE.to_text(width)
        step = 0 if "to 98.2" in text else 1 if "[96.1" in text else 2 if text.count("ours") == 1 else 3
        steps.append(step)
    assert steps == sorted(steps) and set(steps) == {0, 1, 2, 3}


def test_words_are_wrapped() -> None:
    """A sentence takes several lines, all of it; a word that is too long is broken."""
    sentence = "A mask of 0.25 on every token hides nothing at all " + "x" * 70
    table = Table("t", "t", [Column("a", "check"), Column("b", "meaning")], [["constant", sentence]])
    text = table.to_text(50)
    assert max(map(len, text.splitlines())) <= 50
    body = text.split("-\n", 1)[1].replace("constant", "")
    assert "".join(body.split()) == "".join(sentence.split())


def test_wide_letters_take_two_columns() -> None:
    """Names in Chinese do not push the next column out of its place."""
    table = Table("t", "t", [Column("a", "a"), Column("b", "b", "count")], [["病毒", 1], ["abcd", 2]])
    first, second = table.to_text().splitlines()[-2:]
    assert first == "病毒  1" and second == "abcd  2"


def test_tsv_is_read_back() -> None:
    """Unrounded values with intervals beside them; NA where nothing was measured."""
    rows = list(csv.DictReader(io.StringIO(TABLE.to_tsv()), delimiter="\t"))
    assert list(rows[0]) == (
        ["group", "method", "accuracy", "accuracy_low", "accuracy_high", "auprc", "reads", "time"]
    )
    assert list(rows[0].values()) == [
        "Explainers", "ours", "0.973", "0.961", "0.982", "0.8333", "1234567", "0.0005"
    ]  # fmt: skip
    assert list(rows[2].values())[2:] == ["0", "NA", "NA", "NA", "0", "7500"]


@given(value=st.floats(-1e12, 1e12))
def test_tsv_keeps_six_digits(value: float) -> None:
    """Of any number."""
    field = Table("t", "t", [Column("a", "a", "number")], [[value]]).to_tsv().splitlines()[1]
    assert float(field) == pytest.approx(value, rel=1e-5)


def test_several_tables_in_one_tsv() -> None:
    """A title before each and a blank line between; a table alone is a plain TSV."""
    assert render([TABLE], "tsv") == TABLE.to_tsv()
    first, second = render([TABLE, TABLE], "tsv").split("\n\n")
    assert first.split("\n", 1) == ["# Peers beside our masks", TABLE.to_tsv().rstrip("\n")]
    assert second == first + "\n"


def test_markdown() -> None:
    """Rows of as many cells, numbers to the right, the best bold, groups in a row of their own."""
    lines = TABLE.to_markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert rows[2] == "| *Explainers* |  |  |  |  |"
    assert rows[3] == "| ours | **97.3 %** (96.1 to 98.2) | **0.833** | 1,234,567 | 0.5 ms |"
    assert lines[0] == "### Peers beside our masks" and lines[-1] == "- Chance is 6.25 %."


def test_latex() -> None:
    """Booktabs; five cells a row; minus signs; per cent escaped."""
    table = Table("a b", "T", [Column("a", "a_b"), Column("b", "b", "number")], [["[1]", Cell(-0.5, -1, 2)]])
    text = table.to_latex()
    assert r"\label{tab:a-b}" in text and r"a\_b & b \\" in text
    assert r"{[}1{]} & $-$0.500 ($-$1 to 2) \\" in text
    text = TABLE.to_latex()
    assert r"ours & \textbf{97.3\,\%} (96.1 to 98.2) & \textbf{0.833} & 1,234,567 & 0.5 ms \\" in text
    assert r"\multicolumn{5}{l}{\emph{peers}} \\" in text and "Chance is 6.25\\,\\%." in text
    assert all(text.count(rule) == 1 for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


class Reader(HTMLParser):
    """Elements with their attributes, and the text by row and cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def test_html() -> None:
    """A table of headings with scopes and cells with their raw values; every element is closed."""
    found = Reader(TABLE.to_html())
    assert not found.open and {tag for tag, _ in found.elements} <= {
        "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "strong", "ul", "li"
    }  # fmt: skip
    assert found.rows[0] == [column.heading for column in COLUMNS]
    assert found.rows[2][:2] == ["ours", "97.3 % (96.1 to 98.2)"]
    assert found.rows[4][1].startswith("5.0 % (4.1 to 6.2)")
    scopes = [attributes.get("scope") for tag, attributes in found.elements if tag == "th"]
    assert scopes == ["col"] * 5 + ["rowgroup", "row", "rowgroup", "row", "row"]
    values = [attributes["data-value"] for tag, attributes in found.elements if tag == "td"]
    assert values == ["0.973", "0.8333", "1234567", "0.0005", "0.05", "", "9", "26", "0", "", "0", "7500"]


def test_json_is_everything() -> None:
    """As plain JSON, without rounding; not measured is null, and so is infinity."""
    content = json.loads(json.dumps(TABLE.as_json(), allow_nan=False))
    assert content["columns"][1] == {"key": "accuracy", "heading": "balanced accuracy", "style": "percent"}
    assert [row["group"] for row in content["rows"]] == list(TABLE.groups)
    cells = content["rows"][0]["cells"]
    assert cells["accuracy"] == {"value": 0.973, "low": 0.961, "high": 0.982, "best": True}
    assert content["rows"][2]["cells"]["auprc"] == {"value": None}
    endless = Table("t", "t", [Column("a", "a", "number")], [[float("inf")]])
    assert endless.as_json()["rows"] == [{"cells": {"a": {"value": None}}}]
    assert "∞" in endless.to_text() and endless.to_tsv() == "a\ninf\n"


def hostile_table(text: str) -> Table:
    """The text wherever text may stand."""
    styles: tuple[Style, ...] = ("text", "verdict", "number")
    columns = [Column(f"{text}{style}", text, style) for style in styles]
    return Table(text, text, columns, [[text, text, text]], groups=[text], notes=[text])


def test_hostile_text_stays_text() -> None:
    """No control character in any format; no element, command, column or row that is not the table's own."""
    table = hostile_table(HOSTILE)
    for form in FORMATS:
        document = render([table, table], form)
        document.encode("utf-8")
        assert not [c for c in document if not c.isprintable() and c not in "\n\t\u2007"], form
        assert "\u202e" not in document
    assert len({line.count("\t") for line in table.to_tsv().splitlines()}) == 1
    found = Reader(table.to_html())
    assert not found.open and "script" not in {tag for tag, _ in found.elements}
    rows = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {4}
    assert not re.search(r"(?<!\\)[<`$]", table.to_markdown()) and "](http:" not in table.to_markdown()
    body = re.search(r"\\midrule\n.*?\n(.*)\\\\", table.to_latex())
    assert body and len(re.findall(r"(?<!\\)&", body[1])) == 2
    assert not re.search(r"(?<!\\)[%#_~^](?!-)", table.to_latex().replace(r"\,\%", ""))


@given(text=st.text(min_size=1))
def test_any_text_stays_text(text: str) -> None:
    """Braces of LaTeX stay balanced, HTML stays whole, and a TSV has its two lines."""
    table = hostile_table(text)
    assert not Reader(table.to_html()).open
    latex = re.sub(r"\\[{}]", "", table.to_latex())
    assert latex.count("{") == latex.count("}")
    assert len(table.to_tsv().splitlines()) == 2
    assert all(c.isprintable() for c in table.to_text().replace("\n", ""))


def test_numpy_numbers_are_numbers() -> None:
    """Also float32, which knows no more digits than it has."""
    cell = Cell(np.float32(0.5), np.float64(0.25), np.int64(1))  # type: ignore[arg-type]
    assert (cell.value, cell.low, cell.high) == (0.5, 0.25, 1) and type(cell.value) is float
    assert Cell(float("nan")).value is None and Cell(np.float32("nan")).value is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [["a"]]}, "has not 2 cells"),
        ({"groups": ["a", "b"]}, "2 groups for 1 rows"),
        ({"columns": [Column("a", "a"), Column("a", "b")]}, "one key"),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    """Rows, groups and keys are checked at once."""
    fine: dict[str, Any] = {"columns": [Column("a", "a"), Column("b", "b")], "rows": [["x", 1]]}
    Table("t", "t", **fine)
    with pytest.raises(ValueError, match=message):
        Table("t", "t", **(fine | changes))
    with pytest.raises(ValueError, match="unknown format"):
        render([TABLE], "docx")


@pytest.mark.parametrize("form", FORMATS)
def test_no_row_and_no_table(form: str) -> None:
    """An empty table has its header; no table is an empty document."""
    assert "method" in render([Table("t", "t", COLUMNS, [])], form)
    assert render([], form) == ""


# ---------------------------------------------------------------- on a terminal


def on_terminal(table: Table, width: int) -> str:
    """What a colour terminal of that width is sent."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system="standard")
    console.print(to_rich(table, width))
    return file.getvalue()


@pytest.mark.parametrize("width", [120, 80, 62, 40])
def test_terminal_shows_what_text_shows(width: int) -> None:
    """Each row on one line, with the same cells."""
    shown = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(TABLE, width))
    assert max(map(len, shown.splitlines())) <= width
    body = [line.split() for line in shown.splitlines() if line.startswith(("ours", "lime", "random"))]
    text = TABLE.to_text(width).splitlines()
    assert body == [line.split() for line in text if line.startswith(("ours", "lime", "random"))]
    assert ("do not fit" in shown) == ("do not fit" in TABLE.to_text(width))


def test_colours_of_a_terminal() -> None:
    """Verdicts and best values have one; nothing else, and no escape sequence or markup comes from a name."""
    columns = [Column("a", "a"), Column("b", "b", "verdict"), Column("c", "c", "number")]
    rows = [["[red]x", v, 1] for v in ("pass", "warn", "fail", "not run")]
    shown = on_terminal(Table("t", "t", columns, rows), 60)
    colours = {v: re.search(rf"\x1b\[([\d;]+)m{v}", shown) for v in ("pass", "warn", "fail", "not run")}
    codes = {v: found[1] if found else "" for v, found in colours.items()}
    assert codes == {"pass": "32", "warn": "33", "fail": "1;31", "not run": ""}
    assert shown.count("[red]x") == 4
    hostile = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(hostile_table(HOSTILE), 400))
    assert "\x1b" not in hostile and "_[31m_|a_b_c" in hostile
