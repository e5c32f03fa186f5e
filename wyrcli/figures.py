"""Pictures of masks and of how they were tested, and the numbers behind those of masks.

Every ``draw_`` function gives a matplotlib ``Figure`` that belongs to no window and no pyplot state;
:func:`save_figure` and :func:`figure_bytes` write the same bytes for the same numbers.  Methods keep their
colour by their order: the first is the one that the reader cares about.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wyrcli.errors import WyrError
from wyrcli.explanation import find_runs
from wyrcli.result_tables import Cell, clean, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wyrcli.examination import Examined

__all__ = [
    "QUANTILES",
    "MaskStatistics",
    "draw_bars",
    "draw_chunks",
    "draw_constant_masks",
    "draw_folds",
    "draw_mask_values",
    "draw_masks_by_position",
    "draw_perturbation",
    "draw_read",
    "figure_bytes",
    "legend_below",
    "letter_panels",
    "line_look",
    "mask_statistics",
    "new_figure",
    "save_figure",
    "styled",
    "thresholded",
]

Doubles = NDArray[np.float64]
_Given = ParamSpec("_Given")

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of the mask at a position, and of the lengths of chunks."""


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True, eq=False)
class MaskStatistics:
    """What the masks of N windows look like (paper, figures 6 and 7).

    Parameters
    ----------
    values: all mask values of all windows, (M,).
    shares: share of tokens above one half by window, (N,); NaN for a window without tokens.
    position_windows: how many windows are so long, by token position, (P,).
    position_mean: mean mask by token position, (P,).
    position_quantiles: :data:`QUANTILES` of the mask by token position, (P, 7).
    chunks_per_window: runs of tokens above one half, (N,).
    chunk_tokens: length of every such run in tokens, (K,), in the order of the windows.
    chunk_letters: the same in letters (base pairs, residues, characters).
    """

    values: Doubles
    shares: Doubles
    position_windows: NDArray[np.int64]
    position_mean: Doubles
    position_quantiles: Doubles
    chunks_per_window: NDArray[np.int64]
    chunk_tokens: NDArray[np.int64]
    chunk_letters: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Of all mask values; NaN if there are none."""
        return _mean(self.values)

    @property
    def share_relevant(self) -> float:
        """Share of mask values above one half."""
        return _mean(self.values > 0.5)

    @property
    def share_undecided(self) -> float:
        """Share of mask values between 0.1 and 0.9, both excluded."""
        return _mean((self.values > 0.1) & (self.values < 0.9))

    @property
    def mean_chunks(self) -> float:
        """Chunks per window."""
        return _mean(self.chunks_per_window)

    @property
    def chunk_token_quantiles(self) -> Doubles:
        """:data:`QUANTILES` of the length of a chunk in tokens, (7,); NaN without a chunk."""
        return _quantiles(self.chunk_tokens)

    @property
    def chunk_letter_quantiles(self) -> Doubles:
        """The same in letters."""
        return _quantiles(self.chunk_letters)


def mask_statistics(examined: Examined) -> MaskStatistics:
    """Statistics of the target masks; windows may differ in length.

    A position is a token's number within its window.  Positions that few windows have rest on few values:
    see ``position_windows``.
    """
    masks = [np.asarray(mask, dtype=np.float64) for mask in examined.masks]
    values = np.concatenate([np.empty(0), *masks])
    at = _by_position(values, list(map(len, masks)))
    runs = [_relevant_runs(mask) for mask in masks]
    letters = [
        int(spans[end - 1, 1] - spans[first, 0])
        for own, spans in zip(runs, examined.spans, strict=True)
        for first, end in own
    ]
    return MaskStatistics(
        values=values,
        shares=np.array([_mean(mask > 0.5) for mask in masks], dtype=np.float64),
        position_windows=np.array([len(own) for own in at], dtype=np.int64),
        position_mean=np.array([own.mean() for own in at], dtype=np.float64),
        position_quantiles=np.array([_quantiles(own) for own in at]).reshape(-1, len(QUANTILES)),
        chunks_per_window=np.array([len(own) for own in runs], dtype=np.int64),
        chunk_tokens=np.array([end - first for own in runs for first, end in own], dtype=np.int64),
        chunk_letters=np.array(letters, dtype=np.int64),
    )


def _by_position(values: Doubles, lengths: Sequence[int]) -> list[Doubles]:
    """The values of all windows, one after another, as those of the first tokens, of the second tokens..."""
    if len(values) == 0:
        return []
    position = np.concatenate([np.arange(length) for length in lengths])
    ends = np.cumsum(np.bincount(position))[:-1]
    return np.split(values[np.argsort(position, kind="stable")], ends)


def _relevant_runs(mask: Doubles) -> list[tuple[int, int]]:
    relevant = mask > 0.5
    return [(first, end) for first, end in find_runs(relevant) if relevant[first]]


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _quantiles(values: NDArray[Any]) -> Doubles:
    if len(values) == 0:
        return np.full(len(QUANTILES), np.nan)
    return np.asarray(np.quantile(values, QUANTILES), dtype=np.float64)


def thresholded(name: str, scores: ArrayLike) -> dict[str, Doubles]:
    """Scores (T,) scaled to at most 1 in size, and the same with lower bounds 0 and 0.5 (paper, figure 8).

    >>> {name: found.tolist() for name, found in thresholded("LIME", [2, 1, -4]).items()}
    {'LIME': [0.5, 0.25, -1.0], 'LIME ≥ 0': [0.5, 0.25, 0.0], 'LIME ≥ 0.5': [0.5, 0.0, 0.0]}
    """
    raw = np.asarray(scores, dtype=np.float64)
    scaled = raw / (float(np.abs(raw).max(initial=0.0)) or 1.0)
    found = {name: scaled}
    for bound in (0, 0.5):
        found[f"{name} ≥ {bound}"] = np.where(scaled >= bound, scaled, 0.0)
    return found


# ---------------------------------------------------------------- the look

_WIDTH = 9.0  # inches; at 100 CSS pixels an inch a letter of 10 points is 14 pixels high
_GREY = "#5F6368"
_PALE = "#BFC3C7"
_PLANTED = "#E69F00"
# Okabe and Ito (2008) without their yellow, which is too pale for lines on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": "#202124",
    "axes.edgecolor": _GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "#202124",
    "ytick.labelcolor": "#202124",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": "#E8EAED",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 3,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a $ in a name is a $
    "svg.fonttype": "path",
    "svg.hashsalt": "wyr",
}


@contextmanager
def _look() -> Iterator[None]:
    try:
        from matplotlib import style
    except ImportError:
        raise WyrError("a picture needs matplotlib: pip install 'wyrcli[plots]'") from None
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box: a name in Chinese is no reason for a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def styled(draw: Callable[_Given, Figure]) -> Callable[_Given, Figure]:
    """Draw in this module's look, whatever the user's.  Raises WyrError without matplotlib."""

    @wraps(draw)
    def drawn(*args: _Given.args, **options: _Given.kwargs) -> Figure:
        with _look():
            figure = draw(*args, **options)
            # Laid out once and for all: every later drawing would move the panels a little further.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure

    return drawn


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A Figure of ``height`` inches and its panels, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def figure_bytes(figure: Figure, form: Literal["svg", "png"] = "svg") -> bytes:
    """The picture as a file, without a date or a version: the same numbers give the same bytes."""
    nameless = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with _look():
        figure.savefig(buffer, format=form, dpi=200, metadata=nameless)
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``.svg`` or ``.png``.  Raises ValueError for another ending."""
    match path.suffix.lower():
        case ".svg":
            path.write_bytes(figure_bytes(figure, "svg"))
        case ".png":
            path.write_bytes(figure_bytes(figure, "png"))
        case ending:
            raise ValueError(f"a figure is written as .svg or .png, not as '{ending}'")


def line_look(number: int) -> dict[str, Any]:
    """Colour and dashes of the line of that number; the first is the thickest and on top."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "ls": _DASHES[number // len(_COLOURS) % len(_DASHES)],
        "lw": 2.2 if number == 0 else 1.4,
        "zorder": 3 - number / 100,
    }


def letter_panels(panels: Sequence[Axes]) -> None:
    """Mark panels a, b, c..., before their titles."""
    for letter, axes in zip("abcdefgh", panels, strict=False):
        axes.set_title(f"{letter}   {axes.get_title('left')}", loc="left")


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), columns))


# ---------------------------------------------------------------- masks


class _Histogram(NamedTuple):
    """One column of panels; ``values`` and ``labels`` by row."""

    values: list[Doubles]
    labels: list[str]
    edges: Doubles
    x: str
    y: str


def _draw_histograms(names: Iterable[str], columns: Sequence[_Histogram]) -> Figure:
    """A row of filled histograms for each name, with the same axes down each column."""
    rows = [clean(name) for name in names]
    figure, panels = new_figure(0.75 + 1.55 * len(rows), len(rows), len(columns), sharex="col", sharey="col")
    for column, found in enumerate(columns):
        heights = [_percent(values, found.edges) for values in found.values]
        highest = max((float(own.max()) for own in heights), default=0.0)
        own_panels = panels[column :: len(columns)]
        for row, axes in enumerate(own_panels):
            axes.stairs(heights[row], found.edges, fill=True, color=_COLOURS[0])
            axes.set(
                ylabel=found.y, xlim=(min(found.edges[0], 0), found.edges[-1]), ylim=(0, 1.05 * highest or 1)
            )
            axes.set_title(found.labels[row], loc="right", fontweight="normal", fontsize=9)
            axes.locator_params(axis="y", nbins=4, integer=True)
            axes.grid(axis="y")
            if column == 0:
                axes.set_title(rows[row], loc="left")
        own_panels[-1].set_xlabel(found.x)
    return figure


def _percent(values: Doubles, edges: Doubles) -> Doubles:
    """What percent of the values lies between each two edges; zeros if there is no value."""
    counts = np.histogram(values, edges)[0]
    return np.asarray(100 * counts / max(len(values), 1), dtype=np.float64)


@styled
def draw_mask_values(statistics: Mapping[str, MaskStatistics]) -> Figure:
    """How often each mask value is (paper, figure 6a) and how much of a window is above 0.5, by Explainer."""
    found = list(statistics.values())
    shares = [100 * own.shares[np.isfinite(own.shares)] for own in found]
    columns = [
        _Histogram(
            [own.values for own in found],
            [f"mean {own.mean:.2f}" for own in found],
            np.linspace(0, 1, 41),
            "mask value of a token",
            "tokens (%)",
        ),
        _Histogram(
            shares,
            [f"{100 * own.share_relevant:.1f} % of all tokens" for own in found],
            np.linspace(0, 100, 41),
            "tokens with a mask above 0.5 (% of the window)",
            "windows (%)",
        ),
    ]
    return _draw_histograms(statistics, columns)


@styled
def draw_masks_by_position(statistics: Mapping[str, MaskStatistics]) -> Figure:
    """Mean, quartiles, 5 to 95 % and range of the mask by position (paper, figure 6b), a panel per Explainer.

    Positions that fewer than a tenth of the windows have are left out.
    """
    n = len(statistics)
    figure, panels = new_figure(0.9 + 1.9 * n, n, sharex=True, sharey=True)
    for axes, (name, found) in zip(panels, statistics.items(), strict=True):
        shown = found.position_windows >= 0.1 * len(found.shares)
        position = np.flatnonzero(shown) + 1
        low, five, lower, _, upper, most, high = found.position_quantiles[shown].T
        for bottom, top, colour, label in (
            (low, high, "#E3EEF6", "minimum to maximum"),
            (five, most, "#B5D3E7", "5 to 95 % of windows"),
            (lower, upper, "#6BAAD0", "quartiles"),
        ):
            axes.fill_between(position, bottom, top, color=colour, lw=0, label=label)
        axes.plot(position, found.position_mean[shown], color="#08305C", lw=1.6, label="mean")
        axes.set(title=clean(name), ylabel="mask value", ylim=(0, 1), yticks=(0, 0.5, 1))
        axes.margins(x=0)
    panels[-1].set_xlabel("position of the token in its window")
    legend_below(figure, panels[0])
    return figure


@styled
def draw_chunks(statistics: Mapping[str, MaskStatistics], unit: str = "bp") -> Figure:
    """Chunks per window and their lengths in ``unit`` (paper, figure 7), a row per Explainer."""
    found = list(statistics.values())
    counts = [own.chunks_per_window.astype(np.float64) for own in found]
    most = int(max((own.max(initial=0) for own in counts), default=0))
    wide = 1 + most // 40
    lengths = [own.chunk_letters.astype(np.float64) for own in found]
    edges = _length_edges(found)
    columns = [
        _Histogram(
            counts,
            [f"mean {own.mean_chunks:.1f}" for own in found],
            np.arange(-0.5, most + wide, wide),
            "relevant chunks in a window",
            "windows (%)",
        ),
        _Histogram(
            [np.minimum(own, (edges[-1] + edges[-2]) / 2) for own in lengths],
            [f"mean {_mean(own):.0f} {unit}" for own in lengths],
            edges,
            f"length of a chunk ({unit}; last bar: {np.ceil(edges[-2]):.0f} and more)",
            "chunks (%)",
        ),
    ]
    return _draw_histograms(statistics, columns)


def _length_edges(found: Sequence[MaskStatistics]) -> Doubles:
    """At most 41 edges, whole tokens apart: in others the lengths of runs of k-mers would draw a comb.

    The longest in a hundred would leave no room for all others: they belong to the last bin.
    """
    lengths = np.concatenate([np.ones(1), *(own.chunk_letters for own in found)])
    tokens = np.concatenate([np.ones(1), *(own.chunk_tokens for own in found)])
    step = max(round(float(np.median(lengths / tokens))), 1)
    longest = float(np.quantile(lengths, 0.99))
    step *= max(int(np.ceil(longest / step / 40)), 1)
    n_bins = max(int(np.ceil(longest / step)), 1)
    return np.linspace(0.5, n_bins + 0.5, n_bins + 1) * step


# ---------------------------------------------------------------- tests of masks


@styled
def draw_perturbation(
    deletion: Mapping[str, tuple[ArrayLike, ArrayLike]], insertion: Mapping[str, tuple[ArrayLike, ArrayLike]]
) -> Figure:
    """Deletion and insertion curves (Petsiuk et al. 2018) of several methods.

    Each curve is (shares of tokens from 0 to 1, mean probability of the predicted classes); both mappings
    have the same methods in the same order.
    """
    figure, panels = new_figure(4.2 + 0.2 * (len(deletion) // 4), 1, 2, sharey=True)
    for axes, curves in zip(panels, (deletion, insertion), strict=True):
        for number, (name, (shares, values)) in enumerate(curves.items()):
            share = 100 * np.asarray(shares, dtype=np.float64)
            axes.plot(share, np.asarray(values), label=clean(name), marker="o", ms=3, **line_look(number))
        axes.set(xlim=(0, 100), ylim=(0, 1.02))
        axes.grid(axis="y")
    panels[0].set(title="Deletion (lower is better)", xlabel="most important tokens removed (%)")
    panels[0].set_ylabel("mean probability of the predicted classes")
    panels[1].set(title="Insertion (higher is better)", xlabel="most important tokens kept (%)")
    letter_panels(panels)
    legend_below(figure, panels[0], 5)
    return figure


@styled
def draw_constant_masks(
    levels: Sequence[float],
    responses: Mapping[str, ArrayLike],
    label: str = "mean probability of the predicted classes",
) -> Figure:
    """What the classifier says if every token has the same mask value, by removal operator.

    ``levels`` from 1 to 0 stand at equal distances, because what happens just above 0 matters; each of
    ``responses`` has one value per level.
    """
    figure, (axes,) = new_figure(3.8)
    place = np.arange(len(levels))
    for number, (name, values) in enumerate(responses.items()):
        axes.plot(place, np.asarray(values), marker="o", ms=5, label=clean(name), **line_look(number))
    axes.set_xticks(place, [f"{level:g}" for level in levels])
    axes.set(xlabel="constant mask value (axis not to scale)", ylabel=label, ylim=(0, 1.02))
    axes.grid(axis="y")
    legend_below(figure, axes, 6)
    return figure


@styled
def draw_bars(scores: Mapping[str, Mapping[str, Cell]]) -> Figure:
    """Bars with 95 % intervals: a panel per score, a row per method; the first method stands out.

    ``scores`` by title of the panel, then by method.  A method that a panel lacks, or that was not measured,
    has no bar there.  Raises ValueError for a value that is text.
    """
    methods = list(dict.fromkeys(method for panel in scores.values() for method in panel))
    figure, panels = new_figure(0.9 + 0.3 * len(methods), 1, len(scores), sharey=True)
    figure.set_layout_engine("constrained", wspace=0.08)
    for axes, (title, cells) in zip(panels, scores.items(), strict=True):
        for row, method in enumerate(methods):
            cell = cells.get(method, Cell(None))
            if isinstance(cell.value, str):
                raise ValueError(f"'{method}' has a text for a score")
            _bar(axes, row, cell)
        axes.set(title=clean(title), yticks=range(len(methods)), ylim=(len(methods) - 0.4, -0.6))
        axes.set_yticklabels([clean(method) for method in methods])
        axes.axvline(0, color=_GREY, lw=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.22)  # for the numbers
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x")
    return figure


@styled
def draw_folds(folds: Mapping[str, Mapping[str, Cell]]) -> Figure:
    """Ratios with 95 % intervals as log2, about 0: a panel per title, a row per name.

    What is 0, infinite or not measured has a dash for a dot; of an interval from 0, the part above 1/64 of
    the ratio is drawn.  Raises ValueError for a value that is text.
    """
    names = list(dict.fromkeys(name for panel in folds.values() for name in panel))
    n_columns = min(len(folds), 3)
    n_rows = -(-len(folds) // n_columns)
    shared: dict[str, Any] = {"sharey": True, "sharex": True}
    figure, panels = new_figure(0.5 + n_rows * (0.6 + 0.24 * len(names)), n_rows, n_columns, **shared)
    for axes in panels[len(folds) :]:
        axes.set_visible(False)
    for axes, (title, cells) in zip(panels, folds.items(), strict=False):
        for row, name in enumerate(names):
            value, low, high = (own := cells.get(name, Cell(None))).value, own.low, own.high
            if isinstance(value, str):
                raise ValueError(f"'{name}' has a text for a ratio")
            if value is None or not 0 < value < math.inf:
                place = axes.get_yaxis_transform()
                axes.text(0.02, row, "–", transform=place, va="center", color=_GREY)  # noqa: RUF001
                continue
            if low is not None and high is not None:
                ends = [math.log2(max(low, value / 64)), math.log2(high)]
                axes.plot(ends, [row, row], color=_COLOURS[0], lw=1.4)
            axes.plot(math.log2(value), row, "o", ms=4.5, color=_COLOURS[0])
        axes.axvline(0, color=_GREY, lw=0.8)
        axes.set(title=clean(title), yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6))
        axes.set_yticklabels([clean(name) for name in names])
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelbottom=True)  # of the upper row too: below it may be nothing
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x")
    figure.supxlabel("log2 of the fold over shifted masks", fontsize=9)
    return figure


def _bar(axes: Axes, row: int, cell: Cell) -> None:
    if cell.value is None or isinstance(cell.value, str):
        axes.text(0, row, " not measured", va="center", fontsize=8, color=_GREY)
        return
    value = cell.value
    axes.barh(row, value, height=0.62, color=_COLOURS[0] if row == 0 else _PALE)
    low, high = (value, value) if cell.low is None or cell.high is None else (cell.low, cell.high)
    if cell.has_interval:
        axes.plot([low, high], [row, row], color="#202124", lw=1.2, solid_capstyle="butt")
    end, offset, side = (max(high, value), 4, "left") if value >= 0 else (min(low, value), -4, "right")
    axes.annotate(
        number_text(value).replace("-", "−"),  # noqa: RUF001
        (end, row),
        (offset, 0),
        textcoords="offset points",
        va="center",
        ha=side,
        fontsize=8.5,
        fontweight="bold" if cell.best else "normal",
    )


@styled
def draw_read(
    scores: Mapping[str, ArrayLike],
    spans: NDArray[np.int64],
    planted: Iterable[tuple[int, int]] = (),
    decoys: Iterable[tuple[int, int]] = (),
    unit: str = "bp",
    *,
    marked: str = "planted motif",
) -> Figure:
    """Scores of the tokens of one window, a panel per method (paper, figure 8; see :func:`thresholded`).

    Parameters
    ----------
    scores: by method, one value per token; each panel has its own scale, 0 to 1 where the scores lie in it.
    spans: (T, 2), letters of each token on the window.
    planted, decoys: where the truth lies, in the same letters.
    marked: what ``planted`` is called.
    """
    n = len(scores)
    figure, panels = new_figure(1.0 + 0.95 * n, n, sharex=True)
    edges = spans.ravel()
    truths = ((marked, list(planted), {"color": _PLANTED, "alpha": 0.35}),)
    decoy_look = {"facecolor": "none", "edgecolor": "#9AA0A6", "hatch": "/////"}
    truths += (("decoy", list(decoys), decoy_look),)  # type: ignore[assignment]
    for axes, (name, values) in zip(panels, scores.items(), strict=True):
        for label, intervals, look in truths:
            for start, stop in intervals:
                axes.axvspan(start, stop, lw=0, label=label, zorder=0, **look)  # type: ignore[arg-type]
        heights = np.repeat(np.asarray(values, dtype=np.float64), 2)
        axes.fill_between(edges, heights, color=_COLOURS[0], alpha=0.25, lw=0)
        axes.plot(edges, heights, color=_COLOURS[0], lw=1)
        axes.axhline(0, color=_GREY, lw=0.8)
        _scale_track(axes, heights)
        axes.set(title=clean(name), xlim=(edges.min(initial=0), edges.max(initial=1)))
        axes.tick_params(axis="x", length=3.5 if axes is panels[-1] else 0)
    panels[-1].set_xlabel(f"position in the window ({unit})")
    figure.supylabel("score of the token", fontsize=10)
    _legend_of_truth(figure, panels[0])
    return figure


def _scale_track(axes: Axes, heights: Doubles) -> None:
    low, high = float(heights.min(initial=0)), float(heights.max(initial=0))
    if low >= 0 and high <= 1 and high > 0.1:
        low, high = 0.0, 1.0
    elif low >= -1 and high <= 1 and max(-low, high) > 0.9:
        low, high = -1.0, 1.0
    room = 0.04 * (high - low or 1)
    axes.set_ylim(low - (room if low < 0 else 0), high + room)
    axes.set_yticks(sorted({low, 0.0, high}))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")


def _legend_of_truth(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        figure.legend(list(once.values()), list(once), loc="outside upper right", ncols=len(once))
