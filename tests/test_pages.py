"""One page of everything, read by a parser: it is whole, stands alone and shows text as text."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.pages import Picture, Section, Verdict, Verdicts, page_text, write_page
from wyrcli.result_tables import Cell, Column, Table

HOSTILE = (
    "</title></style></script><script>alert(1)</script>\"'><img src=http://e.vil onerror=x>\x1b\u202e\x00&lt;"
)
VOID = {"meta", "img", "br", "input"}


class Reader(HTMLParser):
    """Elements with attributes in their order, and the text within each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def table(text: str = "ours") -> Table:
    """Two columns, one row."""
    columns = [Column("method", text), Column("auprc", "AUPRC", "number")]
    return Table("peers", text, columns, [[text, Cell(0.5, 0.25, 0.75, best=True)]], [text], [text])


def verdicts(text: str = "x") -> Verdicts:
    """One of each."""
    checks = [Verdict(text, v, text, text, text) for v in ("pass", "warn", "fail", "fail", "not run")]
    return Verdicts(text, checks)


def picture(text: str = "x") -> Picture:
    """An empty figure."""
    figure = pytest.importorskip("matplotlib.figure").Figure((4, 2))
    return Picture(figure, text, text)


def sections(text: str = "Results") -> list[Section]:
    """Of all kinds of content, twice."""
    return [Section(text, [text, verdicts(text), table(text), picture(text)])] * 2


def test_a_page_of_everything() -> None:
    """Every part is there, in its order, under a title and contents that lead to it."""
    page = [
        Section("Results", ["One & two.", verdicts(), table()]),
        Section("Pictures", [picture("Masks by position")]),
    ]
    found = Reader(page_text("My report", page))
    assert found.texts["title"] == found.texts["h1"] == ["My report"]
    assert found.texts["h2"] == ["Results", "Pictures"]
    assert "One & two." in found.texts["p"]
    assert [a["href"] for a in found.all("a")] == [f"#{s['id']}" for s in found.all("section")]
    assert found.texts["a"] == ["Results", "Pictures"]
    assert found.texts["caption"] == ["ours"] and len(found.all("table")) == 1
    assert found.texts["figcaption"] == ["Masks by position"]
    (image,) = found.all("img")
    assert (image["alt"], image["width"], image["height"]) == ("Masks by position", "400", "200")
    start, data = image["src"].split(",")
    assert start == "data:image/svg+xml;base64" and base64.b64decode(data).startswith(b"<?xml")
    tags = [tag for tag, _ in found.elements]
    assert tags.index("p") < tags.index("table") < tags.index("img")


def test_verdicts() -> None:
    """A badge for each check, and how many came out how at the top, the worst first."""
    found = Reader(page_text("x", [Section("Audit", [verdicts(), Verdicts("", [])])]))
    badges = [a["class"] for a in found.all("span") if a.get("class", "").startswith("badge")]
    assert badges[:4] == ["badge fail", "badge warn", "badge pass", "badge not-run"]
    assert badges[4:] == ["badge pass", "badge warn", "badge fail", "badge fail", "badge not-run"]
    assert found.texts["p"] == ["2 fail 1 warn 1 pass 1 not run"]
    assert found.texts["h3"] == ["x"]
    without = Reader(page_text("x", [Section("Text", ["y"])]))
    assert without.texts["p"] == ["y"]


def test_identifiers_are_unique() -> None:
    """Also of sections and tables of one name, and of a section named as a table."""
    page = page_text("x", [*sections(), Section("Table peers", [table()]), Section("!?", [])])
    ids = [attributes["id"] for _, attributes in Reader(page).elements if "id" in attributes]
    assert len(ids) == len(set(ids)) == 7


def assert_stands_alone(page: str) -> None:
    """No address but places of the page and data; nothing is loaded, and no element has code of its own."""
    found = Reader(page)
    for tag, attributes in found.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/svg+xml;base64,"))
    assert len(found.all("script")) == len(found.all("style")) == 1
    for text in (*found.texts["script"], *found.texts["style"]):
        assert not re.search(r"url\(|@import|https?:|fetch|eval|innerHTML|document\.write", text)


def test_policy_allows_our_script_and_style_only() -> None:
    """By the hashes of what stands in the page, as the browser computes them."""
    page = page_text("x", sections())
    (policy,) = [a["content"] for a in Reader(page).all("meta") if "http-equiv" in a]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert set(rules) == {"default-src", "img-src", "script-src", "style-src", "base-uri", "form-action"}
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert_stands_alone(page)


def test_hostile_text_stays_text() -> None:
    """Wherever text may stand: title, headings, paragraphs, verdicts, tables, captions."""
    page = page_text(HOSTILE, sections(HOSTILE))
    assert_stands_alone(page)
    plain = Reader(page_text("t", sections()))
    found = Reader(page)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    shown = HOSTILE.replace("\x1b", "_").replace("\u202e", "_").replace("\x00", "_")
    for tag in ("title", "h1", "h2", "figcaption", "caption"):
        assert set(found.texts[tag]) == {shown}
    assert {image["alt"] for image in found.all("img")} == {shown}
    assert not [c for c in page if not c.isprintable() and c not in "\n\u2007"]


@given(text=st.text())
def test_any_text_stays_text(text: str) -> None:
    """The elements are those of a page of plain text, and the page can be written."""
    parts = [Section(text, [text, verdicts(text), table(text or "x")])]
    page = page_text(text, parts)
    page.encode("utf-8")
    plain = page_text("t", [Section("t", ["t", verdicts("t"), table("t")])])
    if text:
        assert [tag for tag, _ in Reader(page).elements] == [tag for tag, _ in Reader(plain).elements]
    assert_stands_alone(page)


def test_write(tmp_path: Path) -> None:
    """To a file, the same bytes each time."""
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for path in pages:
        write_page(str(path), "x", sections())
    first, second = (path.read_bytes() for path in pages)
    assert first == second and first.startswith(b"<!DOCTYPE html>")
