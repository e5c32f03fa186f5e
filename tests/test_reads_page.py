"""The page of reads: what it holds comes back, hostile text does nothing, and a browser can use it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Dom, load, needs_chromium, with_driver
from hypothesis import given
from hypothesis import strategies as st
from test_pages import Reader
from test_terminal_view import explain

from wyrcli.explanation import Explanation, Target
from wyrcli.reads_page import ReadsPage, data_block, encode_scores, encode_spans

RANKS = ("superkingdom", "genus")
HOSTILE = [
    "</script><script>document.title='OWNED'</script>",
    "<img src=x onerror=\"document.title='OWNED'\">",
    "\"'><svg onload=document.title='OWNED'>",
    "\u202egnp.exe\u2066",
    "<!--<script>",
    "x" * 10_000,
    "javascript:document.title='OWNED'",
    "a\x00\x1b[2J\nb",
    "{{constructor}}&lt;b&gt;",
]


def make(*found: Explanation, limit: int = 500, **options: Any) -> str:
    """The page of these."""
    page = ReadsPage(RANKS, limit=limit, **options)
    for explanation in found:
        page.add(explanation)
    return page.text(model="m", notice="beware", about=[("a", "b")], records=len(found), skipped={"short": 1})


def data_of(page: str) -> dict[str, Any]:
    """The JSON in its block, as a browser finds it."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    content: dict[str, Any] = json.loads(block)
    return content


def reads(n: int = 12) -> list[Explanation]:
    """Reads of two taxa with shares and probabilities of their own."""
    return [
        replace(
            explain([0.9] * i + [0.1] * (n - i), name=f"read{i}"),
            lineage=("Viruses", f"Taxon{i % 2}"),
            probabilities=(0.99, round(0.5 + i / 100, 3)),
        )
        for i in range(n)
    ]


# ---------------------------------------------------------------- encoding


@given(st.lists(st.floats(-1, 1, width=32)))
def test_scores_come_back(masks: list[float]) -> None:
    """To half a step of 1/127, in order; NaN has a byte of its own."""
    scores = np.array([*masks, np.nan], dtype=np.float32)
    steps = np.frombuffer(base64.b64decode(encode_scores(scores)), dtype=np.uint8)
    assert steps[-1] == 255 and (steps[:-1] < 255).all()
    found = (steps[:-1].astype(float) - 127) / 127
    assert np.abs(found - scores[:-1]).max(initial=0) <= 0.5 / 127 + 1e-6
    order = np.argsort(scores[:-1])
    assert (np.diff(found[order]) >= 0).all()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=30).map(lambda p: p * 2),
    st.integers(0, 10**9),
)
def test_spans_come_back(pairs: list[tuple[int, int]], start: int) -> None:
    """As the page's script reads them."""
    spans, at = [], start
    for gap, length in pairs:
        spans.append([at + gap, at + gap + length])
        at += gap + length
    code = encode_spans(np.array(spans, dtype=np.int64).reshape(-1, 2), start)
    found, at = [], start
    for gap, length, count in zip(code[::3], code[1::3], code[2::3], strict=True):
        for _ in range(count):
            found.append([at + gap, at + gap + length])
            at += gap + length
    assert found == spans


def test_spans_of_tokens_are_short() -> None:
    """A read of 6-mers is three numbers; sites that overlap are refused."""
    assert encode_spans(explain([0.1] * 250, start=7).spans, 7) == [0, 6, 250]
    with pytest.raises(ValueError, match="overlap"):
        encode_spans(np.array([[0, 6], [3, 9]]), 0)


@given(
    st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9)
)
def test_data_block(content: object) -> None:
    """Any text comes back, and the block ends where it should."""
    text = data_block({"x": content})
    assert not set(text) & set("<>&\n\u2028\u2029") and text.isascii()
    assert json.loads(text) == {"x": content}


# ---------------------------------------------------------------- the page


def test_holds_what_was_found() -> None:
    """Sequences, places, answers and chunks of each window; counts of all."""
    found = reads()
    content = data_of(make(*found))
    assert content["counts"] == {"windows": 12, "shown": 12}
    assert [w["name"] for w in content["windows"]] == [e.window.name for e in found]
    for window, explanation in zip(content["windows"], found, strict=True):
        assert window["sequence"] == explanation.window.sequence
        assert [content["taxa"][r][i] for r, i in enumerate(window["taxa"])] == list(explanation.lineage)
        assert [c[:2] for c in window["chunks"]] == [[c.start, c.stop] for c in explanation.chunks()]
        assert len(window["masks"]) == 3
    assert content["summary"][1] == [
        ["Taxon0", 6, pytest.approx(0.55), pytest.approx(sum(range(0, 12, 2)) / 72, abs=1e-5), 0],
        ["Taxon1", 6, pytest.approx(0.56), pytest.approx(sum(range(1, 12, 2)) / 72, abs=1e-5), 1],
    ]
    assert (
        sum(content["histogram"]) == 144 and content["histogram"][18] == 66 and content["histogram"][2] == 78
    )
    assert make(*found) == make(*found)


def test_limits() -> None:
    """The first windows stay, by number and by letters; the summary counts all."""
    content = data_of(make(*reads(), limit=3))
    assert content["counts"] == {"windows": 12, "shown": 3}
    assert sum(row[1] for row in content["summary"][1]) == 12 and sum(content["histogram"]) == 144
    assert data_of(make(*reads(), most_letters=100))["counts"]["shown"] == 1
    assert data_of(make(*reads(), most_letters=150))["counts"]["shown"] == 2
    assert data_of(make(*reads(), limit=0))["windows"] == []
    assert data_of(make(explain([0.5] * 100), most_letters=1))["counts"]["shown"] == 1


def test_who_is_not_sure_is_counted_apart() -> None:
    """And marked in its row."""
    unsure = replace(explain([0.9]), sure=(True, False))
    content = data_of(make(explain([0.9]), unsure))
    assert [row[0] for row in content["summary"][1]] == ["Nyavirus", "not sure"]
    assert content["windows"][1]["sure"] == [True, False]
    for options, rows in (({}, 1), ({"rank": "genus"}, 0)):
        (window,) = data_of(make(unsure, **options))["windows"]
        assert len(window["chunks"]) == rows  # as many as the BED file has


def test_contrast() -> None:
    """Signed scores have a histogram from -1 to 1 and their target."""
    content = data_of(make(explain([0.9, -0.9], target=Target("A", 1, 0.25, "B"))))
    assert content["signed"] and len(content["histogram"]) == 40
    assert content["windows"][0]["target"] == ["A", "B", 0.25]
    assert content["windows"][0]["chunks"][1][2] == pytest.approx(-0.9)


def test_stands_alone_with_hostile_text() -> None:
    """The elements are those of a page of plain text, but for the data block."""
    hostile = [
        replace(explain([0.9], name=text, target=Target(text, 1, 0.5, text)), lineage=(text, text))
        for text in HOSTILE
    ]
    pages = [make(*hostile), make(explain([0.9]))]
    found, plain = (Reader(page) for page in pages)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert len(pages[0]) - len(pages[1]) < 40_000  # names of any length are cut
    for tag, attributes in found.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "href")]
    code = "".join(t for t, (_, a) in zip(found.texts["script"], scripts(found), strict=True) if not a)
    code += "".join(found.texts["style"])
    assert not re.search(r"url\(|@import|fetch|eval|innerHTML|document\.write|insertAdjacent", code)
    assert re.findall(r"https?://[^\"]*", code) == ["http://www.w3.org/2000/svg"]
    (policy,) = [a["content"] for a in found.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", pages[0], flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def scripts(page: Reader) -> list[tuple[str, dict[str, str]]]:
    """The script elements."""
    return [element for element in page.elements if element[0] == "script"]


@given(st.text())
def test_any_name(name: str) -> None:
    """Can be written, and comes back clean."""
    page = make(explain([0.9], name=name))
    page.encode("utf-8")
    shown = data_of(page)["windows"][0]["name"]
    assert shown.isprintable() and len(shown) <= 200


# ---------------------------------------------------------------- in a browser


def in_browser(page: str, tmp_path: Path, driver: str = "", **options: Any) -> Dom:
    """The page after its script, and then the driver's, have run."""
    file = tmp_path / "page.html"
    file.write_text(with_driver(page, driver) if driver else page, "utf-8")
    return Dom(load(file.as_uri(), tmp_path / "profile", **options))


@needs_chromium
def test_browser_draws_every_letter(tmp_path: Path) -> None:
    """The first read is open: its letters, and nothing but its letters, in lines of known positions."""
    found = explain([0.9, 0.1, 0.5, 0.0] * 30, name="first", start=600)
    dom = in_browser(make(found, *reads()), tmp_path)
    assert "".join(dom.classes("letters")) == found.window.sequence
    assert dom.classes("at")[0] == "600"
    assert dom.classes("name") == ["first", *(f"read{i}" for i in range(12))]
    assert "".join(t for t in dom.tags("b") if set(t) <= set("ACGTN")) == "".join(
        found.window.sequence[c.start - 600 : c.stop - 600] for c in found.chunks()
    )
    assert dom.by_id("shown") == "13 windows" and dom.by_id("notice") == "beware"


@needs_chromium
def test_browser_runs_nothing_of_hostile_text(tmp_path: Path) -> None:
    """Names, taxa and targets are shown as text; no element is made of them, and no script of theirs runs."""
    hostile = [
        replace(explain([0.9], name=text, target=Target(text, 1, 0.5, text)), lineage=(text, text))
        for text in HOSTILE
    ]
    dom = in_browser(make(*hostile), tmp_path)
    kinds = {tag for tag, _, _ in dom.elements}
    assert dom.tags("title")[:1] == ["What made the model call 9 reads what it called them"]
    assert not kinds & {"img", "iframe", "object"} and len(dom.tags("script")) == 2
    assert len(dom.tags("svg")) == 1  # the histogram
    assert not [a for _, a, _ in dom.elements if any(name.startswith("on") for name in a)]
    names = dom.classes("name")
    assert names[0] == HOSTILE[0] and names[3] == "_gnp.exe_" and len(names[5]) == 200


DRIVER = """
const say = (key, value) => { document.body.dataset[key] = value; };
const set = (id, value) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
};
const names = () => [...document.querySelectorAll(".name")].map((e) => e.textContent).join(" ");
set("find", "READ1"); say("name", names());
set("find", "taxon1"); say("taxon", names());
set("find", ""); set("probability", "60"); say("probability", names());
set("probability", ""); set("share-low", "50"); set("share-high", "70"); say("share", names());
document.getElementById("filters").reset();
setTimeout(() => {
  set("order", "3"); say("order", names());
  set("find", "nobody"); say("none", String(document.getElementById("nothing").hidden));
  set("find", "");
  set("order", "0");
  [...document.querySelectorAll("#taxa tbody button")][1].click(); say("click", names());
  document.getElementById("open-all").click();
  setTimeout(() => say("open", document.querySelectorAll(".sequence").length), 500);
  const first = document.querySelector("h3 button");
  first.focus();
  first.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
  say("focus", document.activeElement.textContent);
}, 50);
"""


@needs_chromium
def test_browser_filters_and_sorts(tmp_path: Path) -> None:
    """By name, taxon, probability and share; orders; opens all; keys go from read to read."""
    dom = in_browser(make(*reads()), tmp_path, DRIVER)
    (found,) = [attributes for tag, attributes, _ in dom.elements if tag == "body"]
    assert found["data-name"] == "read1 read10 read11"
    assert found["data-taxon"] == "read1 read3 read5 read7 read9 read11"
    assert found["data-probability"] == "read10 read11"
    assert found["data-share"] == "read6 read7 read8"
    assert found["data-order"].split() == [f"read{i}" for i in reversed(range(12))]
    assert found["data-none"] == "false"
    assert found["data-click"] == "read1 read3 read5 read7 read9 read11"
    assert found["data-open"] == "6" and found["data-focus"] == "read3"


@needs_chromium
def test_browser_draws_some_of_many(tmp_path: Path) -> None:
    """Of three thousand reads, those near the window; the rest when they come into sight."""
    found = reads(12) * 250
    dom = in_browser(make(*found, limit=5000), tmp_path)
    assert dom.by_id("shown") == "3,000 windows"
    assert 40 <= len(dom.classes("read")) <= 400


@needs_chromium
def test_browser_shows_empty_and_text(tmp_path: Path) -> None:
    """Nothing was read; and letters beyond ASCII, with tokens that leave blanks out."""
    assert in_browser(make(), tmp_path).by_id("shown") == "0 windows"
    text = "ein 日本 \U0001f9ec Wort"
    spans = np.array([[0, 3], [4, 6], [7, 8], [9, 13]])
    found = replace(explain([0.9, 0.1, 0.8, 0.0], sequence=text), spans=spans)
    dom = in_browser(make(found, alphabet="text"), tmp_path)
    assert "".join(dom.classes("letters")) == text
    assert [t for t in dom.tags("b") if t in ("ein", "\U0001f9ec")] == ["ein", "\U0001f9ec"]
