"""``wyr explain --show``: the first reads on standard output, coloured where that is a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from wyrcli.terminal_view import PALETTES, Line, Palette, Piece, render_legend, render_read

if TYPE_CHECKING:
    from wyrcli.explanation import Explanation

__all__ = ["TerminalView", "choose_palette", "draw_lines"]

# Sixteen colours are what the user made of them: few steps, and inks that go with them, for levels 0 to 9.
_SIXTEEN = {
    "towards": ("default",) * 3
    + ("white on blue",) * 3
    + ("black on cyan",) * 2
    + ("black on bright_cyan",) * 2,
    "against": ("default",) * 3
    + ("white on red",) * 3
    + ("black on yellow",) * 2
    + ("black on bright_yellow",) * 2,
}


class TerminalView:
    """Prints explanations as they come, at most ``limit``, and at the end how many more there were.

    Colours are left out where standard output is no terminal (FORCE_COLOR overrules), with NO_COLOR and
    with TERM=dumb: digits and marks below the letters take their place.  A reader who closes the pipe ends
    the view and not the work.
    """

    def __init__(
        self,
        ranks: Sequence[str],
        *,
        limit: int,
        threshold: float,
        min_length: int,
        rank: int | None = None,
        alphabet: str = "dna",
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self.coloured = self.console.color_system is not None and not self.console.no_color
        self._ranks = ranks
        self._limit = limit
        self._options = {"threshold": threshold, "min_length": min_length}
        self._alphabet = alphabet
        self._rank = rank
        self._seen = 0
        self._is_open = True

    @property
    def is_full(self) -> bool:
        """Whether no more explanations are to be printed."""
        return self._seen >= self._limit or not self._is_open

    def write(self, explanation: Explanation) -> None:
        """Print a window, if there is room for it."""
        self._seen += 1
        if self._seen > self._limit or not self._is_open:
            return
        if self._seen == 1:
            target = explanation.target
            self._print(
                render_legend(
                    width=self.console.width,
                    coloured=self.coloured,
                    signed=target is not None and bool(target.against),
                    threshold=self._options["threshold"],
                    target="" if target is None else target.name,
                    against="" if target is None else target.against,
                )
            )
        lines = render_read(
            explanation,
            self._ranks,
            width=self.console.width,
            coloured=self.coloured,
            threshold=self._options["threshold"],
            min_length=int(self._options["min_length"]),
            rank=self._rank,
            alphabet=self._alphabet,
        )
        self._print([(), *lines])

    def close(self) -> None:
        """Say how many windows are not shown."""
        left = self._seen - self._limit
        if left > 0:
            more = f"... and {left:,} more window{'' if left == 1 else 's'}; --show-limit shows more"
            self._print([(), (Piece(more, "soft"),)])

    def _print(self, lines: Iterable[Line]) -> None:
        text = draw_lines(lines, self.console if self.coloured else None, choose_palette(os.environ))
        with self.console.capture() as captured:
            self.console.print(text, soft_wrap=True, end="")
        stream = self.console.file
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            stream.write(captured.get().encode(encoding, "replace").decode(encoding))
            stream.flush()
        except BrokenPipeError:
            self._is_open = False
            # What is still in the buffer goes nowhere, and not into an error at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def choose_palette(environment: os._Environ[str] | dict[str, str]) -> Palette:
    """The light one where the terminal says that its background is light (COLORFGBG), else the dark one."""
    background = environment.get("COLORFGBG", "").rpartition(";")[2]
    return PALETTES["light" if background in ("7", "15") else "dark"]


def draw_lines(lines: Iterable[Line], console: Console | None, palette: Palette) -> Text:
    """Lines as rich's text: coloured as the console can, or plain without one."""
    text = Text(end="")
    sixteen = console is not None and console.color_system == "standard"
    for line in lines:
        for piece in line:
            text.append(piece.text, "" if console is None else _style(piece, palette, sixteen))
        text.append("\n")
    return text


def _style(piece: Piece, palette: Palette, sixteen: bool) -> Style:
    if piece.kind == "strong":
        return Style(bold=True)
    if piece.kind == "soft":
        return Style(dim=True)
    if piece.kind != "score" or piece.level is None:
        return Style()
    marks = Style(bold=piece.chunk or None, underline=piece.chunk or None)
    if sixteen:
        names = _SIXTEEN["towards" if piece.level >= 0 else "against"]
        return Style.parse(names[abs(piece.level)]) + marks
    ink, background = (
        Color.from_rgb(*colour) for colour in (palette.ink(piece.level), palette.background(piece.level))
    )
    return Style(color=ink, bgcolor=background) + marks
