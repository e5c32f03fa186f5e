"""Logos of motifs: how often each letter stands in each column, as high as the column says something.

Schneider and Stephens (1990): a column is as high as its information, in bits against the background, and
each letter has its share of that, the most frequent one on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wyrcli.class_motifs import LETTERS, Motif
from wyrcli.figures import new_figure, styled
from wyrcli.result_tables import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_logos"]

# Okabe and Ito (2008), which every kind of colour vision tells apart; light and dark alternate.
_COLOURS = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00"}
_LEAST = 0.01  # bits below which a letter could not be seen
_COLUMNS = 30  # that have room at least: letters of short motifs are no wider than those of longer ones


@styled
def draw_logos(motifs: Mapping[str, Motif]) -> Figure:
    """A logo for each motif, one below the other, with letters of the same width and on the same scale.

    ``motifs``: by what stands above each.  Raises ValueError if there is none.
    """
    if not motifs:
        raise ValueError("there is no motif to draw")
    figure, panels = new_figure(0.35 + 1.25 * len(motifs), len(motifs))
    columns = max(_COLUMNS, *map(len, motifs.values()))
    top = max(2.0, *(float(motif.information.max(initial=0.0)) for motif in motifs.values()))
    for axes, (title, motif) in zip(panels, motifs.items(), strict=True):
        heights = motif.probabilities * motif.information.clip(min=0)[:, None]
        for column, own in enumerate(heights):
            bottom = 0.0
            for letter in np.argsort(own, kind="stable").tolist():
                if own[letter] >= _LEAST:
                    _draw_letter(axes, LETTERS[letter], column + 0.5, bottom, float(own[letter]))
                    bottom += float(own[letter])
        axes.set(xlim=(0.5, columns + 0.5), ylim=(0, top), yticks=(0, 1, 2), ylabel="bits")
        axes.set_title(clean(title), fontweight="normal", fontsize=9)
        last = len(motif)
        axes.set_xticks(sorted({1, *range(5, last + 1, 5), last} - ({last - 1} if last % 5 == 1 else set())))
        axes.spines["bottom"].set_bounds(0.5, last + 0.5)
    return figure


def _draw_letter(axes: Axes, letter: str, left: float, bottom: float, height: float) -> None:
    """A letter that fills a box one column wide."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    path = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    box = path.get_extents()
    fit = (
        Affine2D()
        .translate(-box.x0, -box.y0)
        .scale(0.94 / box.width, height / box.height)
        .translate(left + 0.03, bottom)
    )
    axes.add_patch(PathPatch(fit.transform_path(path), facecolor=_COLOURS[letter], linewidth=0))
