"""Reads in a terminal: no letter is lost, and colours, digits and marks say what the scores are."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from wyrcli.cli.show import TerminalView, choose_palette, draw_lines
from wyrcli.explanation import Explanation, Target, Window
from wyrcli.finding import Finding
from wyrcli.terminal_view import (
    PALETTES,
    Line,
    level_of,
    luminance,
    render_legend,
    render_read,
)

RANKS = ("superkingdom", "genus")
HOSTILE = "r\x1b[31m\x07\u202e<b>[red]\n\t\x9b2J"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def explain(
    masks: list[float],
    *,
    name: str = "read",
    start: int = 0,
    sequence: str = "",
    length: int = 6,
    target: Target | None = None,
) -> Explanation:
    """Sites of ``length`` letters with these scores."""
    mask = np.array(masks, dtype=np.float32)
    starts = start + length * np.arange(len(masks), dtype=np.int64)
    sequence = sequence or ("ACGTTNGGCA" * len(masks))[: length * len(masks)]
    window = Window(0, name, start, start + len(sequence), sequence)
    spans = np.stack([starts, starts + length], axis=1)
    return Explanation(
        window, ("Viruses", "Nyavirus"), (0.75, 0.5), mask, np.stack([mask, mask]), spans, target
    )


def letters(lines: list[Line]) -> str:
    """The sequence, with all markup taken away."""
    return "".join(piece.text for line in lines for piece in line if piece.kind == "score")


def text(lines: list[Line]) -> str:
    return "\n".join("".join(piece.text for piece in line) for line in lines)


scores = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60)


@given(masks=scores, width=st.integers(1, 200), coloured=st.booleans(), length=st.integers(1, 9))
def test_sequence_comes_back(masks: list[float], width: int, coloured: bool, length: int) -> None:
    """Whatever the width; each letter with the level of its own score, and marked where a chunk is."""
    found = explain(masks, start=990, length=length, target=Target("a", 1, 0.5, "b"))
    lines = render_read(found, RANKS, width=width, coloured=coloured)
    assert letters(lines) == found.window.sequence
    cells = [p for line in lines for p in line if p.kind == "score" for _ in p.text]
    assert [c.level for c in cells] == [level_of(m) for m in masks for _ in range(length)]
    inside = {i for chunk in found.chunks() for i in range(chunk.start, chunk.stop)}
    assert [i for i, c in enumerate(cells, 990) if c.chunk] == sorted(inside)


@given(masks=scores, width=st.integers(40, 200))
def test_rows_fit_and_say_where_they_are(masks: list[float], width: int) -> None:
    """No line is wider than the terminal; margins count every letter."""
    found = explain(masks, start=12_345)
    lines = render_read(found, RANKS, width=width, coloured=False)
    assert all(len("".join(p.text for p in line)) <= width for line in lines)
    place = 12_345
    for line in lines:
        row = "".join(p.text for p in line if p.kind == "score")
        if row:
            numbers = [int(p.text.strip().replace(",", "")) for p in (line[0], line[-1])]
            assert numbers == [place, place + len(row)]
            place += len(row)
            assert len(row) % 10 == 0 or place == found.window.stop
    assert place == found.window.stop


@given(masks=scores)
def test_strips_say_the_same_as_colours(masks: list[float]) -> None:
    """Read back from digits and marks: the level of every letter, and every chunk."""
    found = explain(masks, target=Target("a", 1, 0.5, "b"))
    lines = render_read(found, RANKS, width=10_000, coloured=False)
    (row,) = [i for i, line in enumerate(lines) if any(p.kind == "score" for p in line)]
    digits = lines[row + 1][1].text.ljust(len(found.window.sequence))
    levels = [0 if d == "." else int(d) if d.isdigit() else -(ord(d) - ord("a") + 1) for d in digits]
    assert levels == [level_of(m) for m in masks for _ in range(6)]
    marks = lines[row + 2][1].text if len(lines) > row + 2 else ""
    expected = [" "] * len(found.window.sequence)
    for chunk in found.chunks():
        expected[chunk.start : chunk.stop] = ["=" if chunk.mean_mask > 0 else "-"] * (
            chunk.stop - chunk.start
        )
    assert marks == "".join(expected).rstrip()


@given(first=st.floats(-1, 1), second=st.floats(-1, 1))
def test_levels_are_monotone(first: float, second: float) -> None:
    """A higher score is never a lower level."""
    low, high = sorted((first, second))
    assert (level_of(low) or 0) <= (level_of(high) or 0)


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("side", [1, -1])
def test_palettes(name: str, side: int) -> None:
    """Lightness alone tells the order, in either hue; letters are readable on every step (WCAG AA)."""
    palette = PALETTES[name]
    light = [luminance(palette.background(side * level)) for level in range(10)]
    assert light == sorted(light, reverse=name == "light")
    assert len({round(value, 3) for value in light}) == 10
    for level in range(10):
        pair = sorted((luminance(palette.ink(side * level)), light[level]))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


def test_hues_differ_for_the_colour_blind() -> None:
    """Blue against orange differ in the blue-yellow direction, which red-green blindness leaves."""
    for palette in PALETTES.values():
        for level in range(2, 10):
            towards, against = palette.background(level), palette.background(-level)
            assert (towards[2] - towards[0]) - (against[2] - against[0]) > 50


def test_uncovered_letters_have_no_score() -> None:
    """Blanks between words belong to no token."""
    found = replace(explain([0.9, 0.2], sequence="one two", length=3), spans=np.array([[0, 3], [4, 7]]))
    assert np.isnan(Finding(found).base_scores).tolist() == [False] * 3 + [True] + [False] * 3
    lines = render_read(found, RANKS, width=80, coloured=False, alphabet="text")
    assert "999 222" in text(lines) and "7 characters" in text(lines)


def test_wide_letters_wrap_by_cells() -> None:
    """A letter that takes two cells, and one that takes none."""
    found = explain([0.7] * 30, sequence="日本e\u0301" * 30, length=4)
    lines = render_read(found, RANKS, width=40, coloured=False, alphabet="text")
    assert letters(lines) == found.window.sequence
    assert all(cell_len("".join(p.text for p in line)) <= 40 for line in lines)
    strips = [line[1].text for line in lines if len(line) == 2 and "7" in line[1].text]
    rows = ["".join(p.text for p in line if p.kind == "score") for line in lines]
    assert [len(strip) for strip in strips] == [cell_len(row) for row in rows if row]


def test_answers() -> None:
    """Taxa and probabilities by rank, who is not sure, and the target."""
    found = replace(explain([0.1], target=Target("Ebolavirus", 1, 0.02, "Nyavirus")), sure=(True, False))
    shown = text(render_read(found, RANKS, width=80, coloured=True))
    assert re.search(r"superkingdom +Viruses +75\.00%$", shown, re.MULTILINE)
    assert re.search(r"genus +Nyavirus +50\.00%  not sure$", shown, re.MULTILINE)
    unsure = replace(explain([0.9]), sure=(True, False))
    for rank, chunks in ((None, "1 chunk"), (0, "1 chunk"), (1, "0 chunks")):
        lines = render_read(unsure, RANKS, width=80, coloured=True, rank=rank)
        assert chunks in text(lines) and any(p.chunk for line in lines for p in line) == (chunks == "1 chunk")
    assert re.search(r"target +Ebolavirus against Nyavirus +2\.00%$", shown, re.MULTILINE)


def test_empty_window() -> None:
    """No letters: only what was predicted."""
    lines = render_read(explain([]), RANKS, width=80, coloured=False)
    assert letters(lines) == "" and len(lines) == 3


# ---------------------------------------------------------------- escape codes


def show(*found: Explanation, environment: dict[str, str], limit: int = 20, width: int = 80) -> str:
    """What ``--show`` writes in a terminal with this environment."""
    handle = io.StringIO()
    terminal = "TERM" in environment
    console = Console(
        file=handle, force_terminal=terminal, width=width, _environ=environment, highlight=False, markup=False
    )
    view = TerminalView(RANKS, limit=limit, threshold=0.5, min_length=1, console=console)
    for explanation in found:
        view.write(explanation)
    view.close()
    return handle.getvalue()


TRUE = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


@pytest.mark.parametrize(
    "environment",
    [{}, {"TERM": "dumb"}, {**TRUE, "NO_COLOR": "1"}],
    ids=["no terminal", "dumb", "NO_COLOR"],
)
def test_without_colour(environment: dict[str, str]) -> None:
    """Not one escape code; digits instead."""
    shown = show(explain([0.9, 0.2], name=HOSTILE), environment=environment)
    assert "\x1b" not in shown and "999999222222" in shown and "======" in shown


@pytest.mark.parametrize(
    "environment",
    [TRUE, {"TERM": "xterm-256color"}, {"TERM": "xterm"}, {**TRUE, "COLORFGBG": "0;15"}],
    ids=["truecolor", "256", "16", "light"],
)
def test_hostile_text_sends_no_codes(environment: dict[str, str]) -> None:
    """All codes that reach the terminal are colours of ours; names, taxa and targets stay text."""
    plain = explain([0.9, 0.2], target=Target("x", 1, 0.5, "y"))
    hostile = replace(
        explain([0.9, 0.2], name=HOSTILE, target=Target(HOSTILE, 1, 0.5, HOSTILE)),
        lineage=(HOSTILE, HOSTILE),
    )
    shown = show(hostile, environment=environment)
    assert ESCAPE.findall(shown) == ESCAPE.findall(show(plain, environment=environment))
    rest = ESCAPE.sub("", shown)
    assert not [c for c in rest if not c.isprintable() and c != "\n"]
    assert "<b>[red]" in rest  # no markup is read out of names


def test_colours_by_score() -> None:
    """Two scores, two backgrounds; chunks are underlined; the sequence is there when codes are gone."""
    shown = show(explain([0.95, 0.05]), environment=TRUE)
    row = next(line for line in shown.splitlines() if "ACGTTN" in line)
    assert "1;4;38;2;0;0;0;48;2;116;200;255mACGTTN" in row and "48;2;30;34;40mGGCAAC" in row
    assert "ACGTTNGGCAAC" in ESCAPE.sub("", row)
    light = choose_palette({"COLORFGBG": "0;default;15"})
    assert light == PALETTES["light"] and choose_palette({}) == PALETTES["dark"]
    drawn = draw_lines(render_read(explain([0.95]), RANKS, width=80, coloured=True), None, light)
    assert not drawn.spans


def test_legend() -> None:
    """Names both sides of a contrast, and never more than one line too wide."""
    for coloured in (True, False):
        for width in (60, 80, 200):
            lines = render_legend(
                width=width, coloured=coloured, signed=True, threshold=0.7, target="Aa" * 40, against="Bb"
            )
            shown = text(lines)
            assert "AaAa" in shown and "Bb" in shown and "0.7" in shown
            assert max(map(len, shown.splitlines())) <= width
    swatches = render_legend(width=80, coloured=True, signed=False, threshold=0.7)[0]
    assert [p.chunk for p in swatches if p.kind == "score"] == [False] * 7 + [True] * 3


def test_limit() -> None:
    """Says how many more there were, and prints no more than was asked for."""
    found = [explain([0.9], name=f"read{i}") for i in range(5)]
    shown = show(*found, environment={}, limit=2)
    assert shown.count("ACGTTN") == 2 and "read1" in shown and "read2" not in shown
    assert "and 3 more windows" in shown
    assert "more" not in show(*found, environment={}, limit=5)
    assert show(environment={}) == ""


def test_palette_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The view asks the environment for the background."""
    monkeypatch.setitem(os.environ, "COLORFGBG", "0;15")
    assert "48;2;246;247;249" in show(explain([0.0]), environment=TRUE)
