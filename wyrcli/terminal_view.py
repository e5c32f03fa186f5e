"""A read as it looks in a terminal: its letters coloured by their scores (paper, figure 5).

Nothing here knows escape codes.  A read becomes lines of :class:`Piece`, each a text with what it means, and
``cli/show.py`` gives them colours.  Without colours, digits and marks below the letters say the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import counted, printable
from wyrcli.explanation import Explanation
from wyrcli.finding import Finding
from wyrcli.writers import safe_text

__all__ = [
    "LEVELS",
    "PALETTES",
    "Line",
    "Palette",
    "Piece",
    "level_of",
    "render_legend",
    "render_read",
]

LEVELS = 10  # tenths, so that colours and digits say the same
_BLOCK = 10  # letters: rows hold a multiple, so that the positions in the margin are easy to add to
_UNITS = {"dna": "bp", "protein": "residues", "text": "characters"}

Kind = Literal["plain", "strong", "soft", "score", "strip"]
"""What a piece is: words of three weights, letters of the sequence, or a strip below them."""


class Piece(NamedTuple):
    """A text that looks the same throughout.

    ``level``: of letters, tenths of their score, -9 to 9, None where there is no score; ``chunk``: whether
    they lie in a relevant chunk.
    """

    text: str
    kind: Kind = "plain"
    level: int | None = None
    chunk: bool = False


Line = tuple[Piece, ...]
Colour = tuple[int, int, int]


class Palette(NamedTuple):
    """Colours behind letters by level, 0 to 9, for scores above and below 0, which share the first."""

    towards: tuple[Colour, ...]
    against: tuple[Colour, ...]

    def background(self, level: int) -> Colour:
        """The colour of a level from -9 to 9."""
        return self.towards[level] if level >= 0 else self.against[-level]

    def ink(self, level: int) -> Colour:
        """For the letters: black, white, or a grey where the score is near 0; contrast at least 4.5 to 1."""
        is_dark = luminance(self.background(level)) < 0.179
        if level == 0:
            return (156, 164, 175) if is_dark else (89, 97, 110)
        return (255, 255, 255) if is_dark else (0, 0, 0)


# Even steps in OKLab from a neutral to a blue and to an orange, the pair that all colour-blind readers tell
# apart; in either hue the lightness alone tells the order.  Letters have an ink of their own on each, so that
# they can be read whatever the terminal's background is; the palette only decides which end stands out.
PALETTES = {
    "dark": Palette(
        (
            *((30, 34, 40), (32, 47, 65), (33, 59, 91), (31, 72, 118), (27, 85, 146)),
            *((35, 104, 170), (55, 127, 191), (75, 151, 212), (95, 175, 233), (116, 200, 255)),
        ),
        (
            *((30, 34, 40), (56, 44, 40), (82, 53, 38), (108, 61, 33), (136, 68, 22)),
            *((162, 85, 22), (185, 110, 41), (208, 136, 60), (231, 163, 78), (255, 190, 96)),
        ),
    ),
    "light": Palette(
        (
            *((246, 247, 249), (217, 231, 244), (187, 216, 238), (158, 200, 232), (128, 184, 225)),
            *((100, 163, 212), (77, 138, 191), (55, 114, 170), (32, 90, 150), (6, 66, 130)),
        ),
        (
            *((246, 247, 249), (245, 229, 214), (244, 210, 179), (241, 191, 143), (238, 172, 105)),
            *((225, 150, 75), (204, 126, 58), (182, 102, 41), (161, 79, 23), (140, 56, 0)),
        ),
    ),
}


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1 (WCAG 2)."""
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


# ---------------------------------------------------------------- scores


def level_of(score: float) -> int | None:
    """The tenth that a score lies in, with its sign: 0 to 9, or -9 to 0; None for NaN.

    >>> level_of(0.87), level_of(1.0), level_of(-0.25)
    (8, 9, -2)
    """
    if score != score:
        return None
    tenth = min(int(abs(score) * LEVELS + 1e-6), LEVELS - 1)  # 0.7 is no exact float
    return tenth if score >= 0 else -tenth


# ---------------------------------------------------------------- lines


def render_legend(
    *, width: int, coloured: bool, signed: bool, threshold: float, target: str = "", against: str = ""
) -> list[Line]:
    """What the colours or strips mean; ``signed`` for a contrast of ``target`` and ``against``."""
    towards, other = printable(target, 30), printable(against, 30)
    places = Piece("positions from 0, end not included", "soft")
    if coloured:
        levels = range(1 - LEVELS, LEVELS) if signed else range(LEVELS)
        swatches = tuple(
            Piece(f" {abs(level)} ", "score", level, (abs(level) + 1) / LEVELS > threshold)
            for level in levels
        )
        lines: list[Line] = [(Piece("tenths of the score ", "soft"),), swatches]
        if sum(len(piece.text) for line in lines for piece in line) <= width:
            lines = [tuple(piece for line in lines for piece in line)]
        if signed:
            sides = [Piece(f"blue: for {towards}", "soft"), Piece(f"orange: for {other}", "soft")]
            lines += _wrap(sides, width)
        chunk = Piece(f"underlined: relevant chunk, beyond {threshold:g}", "soft")
        return [*lines, *_wrap([chunk, places], width)]
    words = [Piece("digits: tenths of the score", "soft")]
    if signed:
        words.append(Piece(f"for {towards}", "soft"))
        words.append(Piece(f"letters: a to i, -0.1 to -0.9, for {other}", "soft"))
    marks = "= and -" if signed else "="
    words.append(Piece(f"{marks}: relevant chunk, beyond {threshold:g}", "soft"))
    return list(_wrap([*words, places], width))


def render_read(
    explanation: Explanation,
    ranks: Sequence[str],
    *,
    width: int,
    coloured: bool,
    threshold: float = 0.5,
    min_length: int = 1,
    rank: int | None = None,
    alphabet: str = "dna",
) -> list[Line]:
    """The name, the answer by rank and the letters of one window, in lines of at most ``width`` cells.

    ``rank``: whose masks are explained; None is all together.  Where the model is not sure of it, there are
    no relevant chunks, as there are no rows in tables.  Widths below some 30 cells are exceeded: names of
    ranks and positions need room.
    """
    window = explanation.window
    answered = explanation.label(rank) is not None
    chunks = explanation.chunks(threshold, min_length) if answered else []
    in_chunk = np.zeros(window.stop - window.start, dtype=bool)
    for chunk in chunks:
        in_chunk[chunk.start - window.start : chunk.stop - window.start] = True
    share = float(in_chunk.mean()) if len(in_chunk) else 0.0
    place = f"{window.start:,}-{window.stop:,}"
    held = f"{counted(len(chunks), 'chunk')}, {share:.1%} of {len(in_chunk):,} {_UNITS[alphabet]}"
    name = Piece(printable(window.name, max(16, width)), "strong")
    return [
        *_wrap([name, Piece(place), Piece(held, "soft")], width),
        *_render_answers(explanation, ranks, width),
        *_render_letters(explanation, in_chunk, width, coloured),
    ]


def _wrap(pieces: Sequence[Piece], width: int) -> Iterator[Line]:
    """Pieces beside each other, or below where the line is full."""
    line: list[Piece] = []
    for piece in pieces:
        if line and sum(_cells(p.text) for p in line) + 2 + _cells(piece.text) > width:
            yield tuple(line)
            line = []
        line += [Piece("  "), piece] if line else [piece]
    yield tuple(line)


def _render_answers(explanation: Explanation, ranks: Sequence[str], width: int) -> Iterator[Line]:
    names = [printable(rank, 24) for rank in ranks]
    wide = max([len(name) for name in names], default=0)
    room = max(16, width - wide - 14)
    taxa = [printable(taxon, room) for taxon in explanation.lineage]
    taxa_wide = max([_cells(taxon) for taxon in taxa], default=0)
    for i, (name, taxon, probability) in enumerate(zip(names, taxa, explanation.probabilities, strict=True)):
        gap = " " * (taxa_wide - _cells(taxon))
        sure = explanation.answers(i)
        yield (
            Piece(f"  {name:<{wide}}  ", "soft"),
            Piece(taxon, "plain" if sure else "soft"),
            Piece(f"{gap}  {probability:7.2%}" + ("" if sure else "  not sure"), "soft"),
        )
    target = explanation.target
    if target is not None:
        against = f" against {printable(target.against, room)}" if target.against else ""
        yield (
            Piece(f"  {'target':<{wide}}  ", "soft"),
            Piece(printable(target.name, room) + against),
            Piece(f"  {target.probability:7.2%}", "soft"),
        )


def _render_letters(
    explanation: Explanation, in_chunk: NDArray[np.bool_], width: int, coloured: bool
) -> Iterator[Line]:
    window = explanation.window
    letters = safe_text(window.sequence) if window.sequence else ""
    levels = [level_of(score) for score in Finding(explanation).base_scores.tolist()]
    margin = len(f"{window.stop:,}")
    for first, last in _rows(letters, max(_BLOCK, width - 2 * margin - 4)):
        cells = [Piece(letters[i], "score", levels[i], bool(in_chunk[i])) for i in range(first, last)]
        merged = [
            Piece("".join(cell.text for cell in same), "score", level, chunk)
            for (level, chunk), same in groupby(cells, key=lambda cell: (cell.level, cell.chunk))
        ]
        start, stop = f"{window.start + first:,}", f"{window.start + last:,}"
        yield (Piece(f"  {start:>{margin}} ", "soft"), *merged, Piece(f" {stop}", "soft"))
        if not coloured:
            blank = " " * (margin + 3)
            yield (Piece(blank), Piece("".join(map(_digit, cells)).rstrip(), "strip"))
            if in_chunk[first:last].any():
                yield (Piece(blank), Piece("".join(map(_mark, cells)).rstrip(), "strip"))


def _digit(cell: Piece) -> str:
    """Below a letter: its tenth, as a letter where the score is below 0."""
    if cell.level is None:
        sign = " "
    elif cell.level >= 0:
        sign = ".123456789"[cell.level]
    else:
        sign = ".abcdefghi"[-cell.level]
    return sign.ljust(_cells(cell.text))[: _cells(cell.text)]


def _mark(cell: Piece) -> str:
    """Below a letter in a chunk: a line."""
    sign = " " if not cell.chunk else "-" if (cell.level or 0) < 0 else "="
    return sign * _cells(cell.text)


def _rows(letters: str, width: int) -> Iterator[tuple[int, int]]:
    """Where to break letters into rows of at most ``width`` cells, after tens where all are narrow."""
    if letters.isascii():
        step = width // _BLOCK * _BLOCK
        yield from ((i, min(i + step, len(letters))) for i in range(0, len(letters), step))
        return
    first, used = 0, 0
    for i, letter in enumerate(letters):
        size = _cells(letter)
        if used + size > width and i > first:
            yield first, i
            first, used = i, 0
        used += size
    if first < len(letters):
        yield first, len(letters)


def _cells(text: str) -> int:
    """How many cells of a terminal a text takes: two for a wide letter, none for a mark on another one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )
