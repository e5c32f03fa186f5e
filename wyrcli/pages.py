"""One HTML page of text, verdicts, tables and figures that stands alone: it asks no network for anything.

All text is cleaned and escaped.  Should some slip through nevertheless, a Content-Security-Policy lets the
browser run and apply nothing but this module's own script and style, known by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from wyrcli.figures import figure_bytes
from wyrcli.outputs import open_output
from wyrcli.result_tables import Table, clean, slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "STYLE",
    "Picture",
    "Section",
    "Verdict",
    "Verdicts",
    "content_policy",
    "page_text",
    "write_page",
]


class Verdict(NamedTuple):
    """The outcome of one check.  ``number`` and ``threshold`` are text, as they are to be read."""

    name: str
    verdict: Literal["pass", "warn", "fail", "not run"]
    number: str
    threshold: str
    sentence: str


class Verdicts(NamedTuple):
    """A list of checks under a heading, which may be empty."""

    heading: str
    checks: Sequence[Verdict]


@dataclass(frozen=True)
class Picture:
    """A figure with what it shows: ``caption`` for all, ``alternative`` for who cannot see it."""

    figure: Figure
    caption: str
    alternative: str


class Section(NamedTuple):
    """A heading, and below it paragraphs (plain text), verdicts, tables and pictures."""

    heading: str
    parts: Sequence[str | Verdicts | Table | Picture]


def write_page(output: str, title: str, sections: Sequence[Section]) -> None:
    """Write the page to a file, ``-`` for standard output; see :func:`page_text`."""
    text = page_text(title, sections)
    with open_output(output) as handle:
        handle.write(text)


def page_text(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML; the same content gives the same text.

    Sections and tables get unique identifiers; tables can be sorted where scripts are allowed.
    """
    names = _Names()
    places = [names.new(section.heading) for section in sections]
    contents = "\n".join(
        f'<li><a href="#{place}">{_safe(section.heading)}</a></li>'
        for place, section in zip(places, sections, strict=True)
    )
    body = "\n".join(_section(section, place, names) for place, section in zip(places, sections, strict=True))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{content_policy(_SCRIPT, STYLE)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{_safe(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{_safe(title)}</h1>
{_summary(sections)}</header>
<nav aria-label="Contents"><ol>
{contents}
</ol></nav>
<main>
{body}
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


class _Names:
    """Identifiers of the page, no two the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, text: str) -> str:
        wanted = slug(text)
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}-{number}"
        self._taken.add(name)
        return name


def _safe(text: str) -> str:
    return html.escape(clean(text), quote=True)


def _section(section: Section, place: str, names: _Names) -> str:
    parts = [f'<section id="{place}">', f"<h2>{_safe(section.heading)}</h2>"]
    for part in section.parts:
        match part:
            case str():
                parts.append(f"<p>{_safe(part)}</p>")
            case Table():
                parts.append(_table(part, names))
            case Verdicts():
                parts.append(_verdicts(part))
            case Picture():
                parts.append(_picture(part))
    return "\n".join([*parts, "</section>"])


def _table(table: Table, names: _Names) -> str:
    name = names.new(f"table-{table.key}")
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{_safe(table.title)}">\n'
        f"{table.to_html(name)}</div>"
    )


def _verdicts(found: Verdicts) -> str:
    lines = [f"<h3>{_safe(found.heading)}</h3>"] if found.heading else []
    lines.append('<ul class="verdicts">')
    for check in found.checks:
        threshold = f' <span class="threshold">({_safe(check.threshold)})</span>' if check.threshold else ""
        lines.append(
            f'<li class="{slug(check.verdict)}">{_badge(check.verdict)}'
            f'<div><strong>{_safe(check.name)}</strong> <span class="found">{_safe(check.number)}</span>'
            f"{threshold}<br>{_safe(check.sentence)}</div></li>"
        )
    return "\n".join([*lines, "</ul>"])


def _badge(verdict: str, count: str = "") -> str:
    return f'<span class="badge {slug(verdict)}">{count}{_safe(verdict)}</span>'


def _summary(sections: Sequence[Section]) -> str:
    """How many checks came out how, the worst first; nothing if there are none."""
    checks = [
        check.verdict
        for section in sections
        for part in section.parts
        if isinstance(part, Verdicts)
        for check in part.checks
    ]
    counts = Counter(checks)
    badges = [_badge(v, f"{counts[v]} ") for v in ("fail", "warn", "pass", "not run") if counts[v]]
    return f'<p class="summary">{" ".join(badges)}</p>\n' if badges else ""


def _picture(picture: Picture) -> str:
    # As an image rather than inline, so that the identifiers inside of two figures do not meet.
    data = base64.b64encode(figure_bytes(picture.figure, "svg")).decode("ascii")
    width, height = (round(100 * side) for side in picture.figure.get_size_inches())
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" width="{width}" height="{height}" '
        f'alt="{_safe(picture.alternative)}">\n<figcaption>{_safe(picture.caption)}</figcaption></figure>'
    )


def content_policy(script: str, style: str) -> str:
    """A Content-Security-Policy under which nothing but this script and this style runs or is applied."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    return (
        f"default-src 'none'; img-src data:; script-src 'sha256-{digest(script)}'; "
        f"style-src 'sha256-{digest(style)}'; base-uri 'none'; form-action 'none'"
    )


STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #202124; --soft: #5f6368; --line: #dadce0; --wash: #f6f7f9; --link: #0b57a4;
  --pass: #0f6b3f; --pass-wash: #e2f3ea; --warn: #7a4b00; --warn-wash: #fdf0d5;
  --fail: #a3180f; --fail-wash: #fce4e1; --idle: #4f5560; --idle-wash: #eceef1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #17191c; --ink: #e6e8eb; --soft: #a5abb3; --line: #3a3f46; --wash: #202327; --link: #8ab8f0;
    --pass: #7fd6a6; --pass-wash: #173526; --warn: #f2c568; --warn-wash: #3b2e12;
    --fail: #f6a49c; --fail-wash: #44201d; --idle: #b3b9c2; --idle-wash: #2c3036;
  }
}
* { box-sizing: border-box; }
body {
  max-width: 68rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 0.5rem; }
p { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ol {
  margin: 1rem 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem;
}
.table { overflow-x: auto; margin: 1.25rem 0; }
table { border-spacing: 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 0.5rem; }
th, td { padding: 0.3rem 1.1rem 0.3rem 0; text-align: left; vertical-align: top; }
th:last-child, td:last-child { padding-right: 0.25rem; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--ink); line-height: 1.25; }
tbody th { font-weight: 400; min-width: 9rem; max-width: 20rem; overflow-wrap: anywhere; }
.table tr:not(.group) > :first-child { position: sticky; left: 0; background: var(--paper); }
td:last-child:not(.number) { min-width: 14rem; }
tbody tr > * { border-bottom: 1px solid var(--line); }
tbody tr:not(.group):hover > * { background: var(--wash); }
.group th { padding-top: 0.9rem; font-style: italic; color: var(--soft); }
.number { text-align: right; }
td.number { white-space: nowrap; }
.interval, .threshold { color: var(--soft); font-size: 0.87em; }
.interval.none { visibility: hidden; }
.missing { color: var(--soft); }
.notes { color: var(--soft); font-size: 0.87rem; margin: 0.5rem 0 0; padding-left: 1.1rem; max-width: 46rem; }
th button {
  all: unset; cursor: pointer; font: inherit; text-align: inherit;
  text-decoration: underline dotted var(--soft); text-underline-offset: 0.2em;
}
th button:focus-visible, .table:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
.badge {
  display: inline-block; padding: 0 0.55rem; border-radius: 0.7rem; font-size: 0.8rem; font-weight: 600;
  line-height: 1.5rem; white-space: nowrap; text-align: center;
  color: var(--idle); background: var(--idle-wash);
}
.badge.pass { color: var(--pass); background: var(--pass-wash); }
.badge.warn { color: var(--warn); background: var(--warn-wash); }
.badge.fail { color: var(--fail); background: var(--fail-wash); }
.badge.pass::before { content: "\\2713\\a0"; }
.badge.warn::before { content: "!\\a0"; }
.badge.fail::before { content: "\\2717\\a0"; }
.verdicts { list-style: none; padding: 0; margin: 0.75rem 0; }
.verdicts li {
  display: grid; grid-template-columns: 5.2rem 1fr; gap: 0.9rem; align-items: start;
  padding: 0.55rem 0; border-bottom: 1px solid var(--line);
}
.verdicts div { overflow-wrap: anywhere; }
.found { font-variant-numeric: tabular-nums; padding-left: 0.35rem; }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; padding: 6px; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.5rem; max-width: 46rem; }
@media print {
  :root { --paper: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --link: #000000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .table { overflow: visible; }
  .table tr > :first-child { position: static; }
  h2, h3, caption { break-after: avoid; }
  figure, .verdicts li, tr { break-inside: avoid; }
  thead { display: table-header-group; }
  .badge { border: 1px solid; }
}
"""

_SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table")) {
  table.tHead.querySelectorAll("th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const isNumber = heading.classList.contains("number");
      const first = isNumber ? "descending" : "ascending";
      const second = isNumber ? "ascending" : "descending";
      const order = heading.getAttribute("aria-sort") === first ? second : first;
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const value = (row) => {
        const cell = row.cells[column];
        if (!isNumber) return cell.textContent;
        return cell.dataset.value === "" ? NaN : Number(cell.dataset.value.replace("inf", "Infinity"));
      };
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (isNumber && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y);
        const found = isNumber ? x - y : x.localeCompare(y, "en", { numeric: true });
        return order === "ascending" ? found : -found;
      };
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
        body.append(...rows.sort(compare));
      }
    });
  });
}
"""
