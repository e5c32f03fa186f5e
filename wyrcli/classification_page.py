"""What :mod:`wyrcli.classification` found, as pictures and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wyrcli.calibration import Reliability, reliability
from wyrcli.classification import Assessment, Condition, confusion, score
from wyrcli.classification_tables import confused_rank
from wyrcli.figures import legend_below, letter_panels, line_look, new_figure, styled
from wyrcli.pages import Picture, Section
from wyrcli.result_tables import Table, clean
from wyrcli.taxonomy import Taxonomy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["build_sections", "draw_conditions", "draw_confusion", "draw_reliability"]


def build_sections(
    introduction: Sequence[str],
    tables: Mapping[str, Table],
    found: Assessment,
    taxonomy: Taxonomy,
    unit: str,
    seed: int = 0,
) -> list[Section]:
    """Sections for :func:`wyrcli.pages.write_page`."""
    ranks = taxonomy.ranks
    rank = confused_rank(taxonomy)
    matrix = confusion(found.tested, rank, taxonomy.sizes[rank])
    true, called = np.flatnonzero(matrix.sum(1)), np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    sections = [
        Section("What this is", list(introduction)),
        Section("How often is it right?", [tables[k] for k in ("accuracy", "parts") if k in tables]),
    ]
    caption = f"Windows by true {ranks[rank]} (rows) and by what they were called (columns), % of a row."
    picture = Picture(
        draw_confusion(
            matrix[np.ix_(true, called)],
            [taxonomy.taxa[rank][i] for i in true],
            [taxonomy.taxa[rank][i] for i in called],
        ),
        caption,
        "A matrix of shares; the tables have the numbers.",
    )
    sections.append(
        Section("What does it mistake for what?", [picture, tables["confusions"], tables["taxa"]])
    )
    curves = {}
    for r, name in enumerate(ranks):
        known = found.tested.known[:, r]
        right = found.tested.right[known, r]
        curves[name] = [
            reliability(own[known, r], right) for own in (found.tested.raw, found.tested.confidence)
        ]
    caption = (
        "Share of right answers by their probability; on the diagonal, probabilities mean what they say."
    )
    sections.append(
        Section(
            "Do its probabilities mean what they say?",
            [
                Picture(draw_reliability(curves), caption, "Curves; the table has calibration errors."),
                tables["calibration"],
            ],
        )
    )
    sections.append(Section("When is it sure enough to answer?", [tables["answers"]]))
    for key, heading, conditions, label in (
        ("lengths", "How long must a read be?", found.lengths, f"length of the read ({unit})"),
        ("errors", "How many errors does it bear?", found.errors, "sequencing errors (% of bases)"),
    ):
        if key in tables:
            figure = draw_conditions(conditions, ranks, label, as_percent=key == "errors", seed=seed)
            caption = "Balanced accuracy by rank, with 95 % intervals over genomes."
            sections.append(
                Section(
                    heading,
                    [
                        Picture(figure, caption, "Curves; the table below."),
                        tables[key],
                        tables[f"{key}_answers"],
                    ],
                )
            )
    return sections


@styled
def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str], called: Sequence[str]) -> Figure:
    """Shares of each true class (row) by what it was called (column); ``matrix`` holds counts."""
    n = max(matrix.shape)
    figure, (axes,) = new_figure(min(2.4 + 0.24 * len(names), 16.0))
    members = matrix.sum(1, keepdims=True)
    shares = np.where(members > 0, 100 * matrix / np.maximum(members, 1), np.nan)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    size = 8 if n <= 40 else 5
    labels = [f"{clean(name)} ({count:,})" for name, count in zip(names, members[:, 0], strict=True)]
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.set_xticks(range(len(called)), [clean(name) for name in called], rotation=90, fontsize=size)
    axes.set(ylabel="truth (windows)", xlabel="called")
    if n <= 20:
        for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
            value = shares[row, column]
            colour = "white" if value > 55 else "#202124"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, label="% of the true taxon", shrink=0.8, pad=0.01)
    return figure


@styled
def draw_reliability(curves: Mapping[str, Sequence[Reliability]]) -> Figure:
    """A panel per rank: share that is right by probability, before and after the temperature."""
    figure, panels = new_figure(3.9, 1, len(curves), sharey=True)
    for axes, (rank, pair) in zip(panels, curves.items(), strict=True):
        axes.plot([0, 100], [0, 100], color="#9AA0A6", lw=1)
        for number, (name, own) in enumerate(
            zip(("after the temperature", "before"), reversed(pair), strict=True)
        ):
            there = own.counts > 0
            label = name if axes is panels[0] else None
            axes.plot(
                100 * own.confidence[there],
                100 * own.accuracy[there],
                marker="o",
                ms=4,
                label=label,
                **line_look(number),
            )
        errors = f"error {pair[0].error:.3f}\nafter {pair[1].error:.3f}"
        axes.text(96, 4, errors, ha="right", va="bottom", fontsize=9, color="#5F6368")
        axes.set(title=clean(rank), xlabel="mean probability (%)", xlim=(0, 100), ylim=(0, 102))
        axes.grid(axis="y")
    panels[0].set_ylabel("right (%)")
    letter_panels(panels)
    legend_below(figure, panels[0])
    return figure


@styled
def draw_conditions(
    conditions: Sequence[Condition], ranks: Sequence[str], label: str, *, as_percent: bool, seed: int = 0
) -> Figure:
    """Balanced accuracy of each rank by length (on a scale of ratios) or error rate, with intervals."""
    figure, (axes,) = new_figure(4.0)
    last = {condition.value: condition for condition in reversed(conditions)}  # the first of each value
    values = sorted(last)
    scores = [score(last[value].answers, seed) for value in values]
    places = np.array(values) * (100 if as_percent else 1)
    for r, rank in enumerate(ranks):
        own = [found[r] for found in scores]
        look = line_look(r)
        axes.plot(places, [100 * s.balanced for s in own], marker="o", ms=5, label=clean(rank), **look)
        low, high = [100 * s.low for s in own], [100 * s.high for s in own]
        axes.fill_between(places, low, high, color=look["color"], alpha=0.12, lw=0)
    if not as_percent:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(places, [f"{place:,g}" for place in places])
    axes.set(xlabel=label, ylabel="balanced accuracy (%)", ylim=(0, 102))
    axes.grid(axis="y")
    legend_below(figure, axes)
    return figure
