"""The HTML report of ``wyr evaluate --full``: what was found, in the order in which one would ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wyrcli.audit import CONSTANTS, GROUPS, Check
from wyrcli.evaluation import Evaluation, Truth
from wyrcli.figures import (
    MaskStatistics,
    draw_bars,
    draw_chunks,
    draw_constant_masks,
    draw_mask_values,
    draw_masks_by_position,
    draw_perturbation,
    draw_read,
    thresholded,
)
from wyrcli.pages import Picture, Section, Verdict, Verdicts
from wyrcli.peers import PEERS
from wyrcli.result_tables import Cell, Table, number_text
from wyrcli.study import Method, Study, statistics_table

__all__ = ["build_sections"]

_TRACKS = ("integrated-gradients", "occlusion", "attention")  # beside our masks and LIME's three views


def build_sections(
    introduction: Sequence[str],
    tables: Mapping[str, Table],
    results: Sequence[Evaluation],
    statistics: Mapping[str, MaskStatistics],
    found: Study | None,
    truth: Truth | None,
    unit: str,
) -> list[Section]:
    """Sections for :func:`wyrcli.pages.write_page`; what was not asked for is left out.

    Parameters
    ----------
    introduction: what was evaluated, on what.
    tables: by key.
    found: the study, where there was one.
    unit: of lengths, as ``bp``.
    """
    sections = [Section("What this is", list(introduction))]
    audits = {} if found is None else found.audits
    if audits:
        parts = [
            Verdicts(f"{name}: {group}", [_verdict(c) for c in checks if c.group == group])
            for name, checks in audits.items()
            for group in GROUPS
            if any(c.group == group for c in checks)
        ]
        sections.append(Section("Audit: can these masks be believed?", parts))
    sections.append(
        Section(
            "Is what the masks keep enough?",
            [tables[k] for k in ("conditions", "localisation") if k in tables],
        )
    )
    if found is not None:
        sections.append(Section("Other methods on the same reads", _methods(found.methods, tables)))
        sections.append(_one_read(results[0], found, truth, unit))
    sections.append(Section("What the masks look like", _masks(statistics, unit)))
    responses = {
        name: [check.details[f"{level:g}: probability"] for level in CONSTANTS]
        for name, checks in audits.items()
        for check in checks
        if check.name == "constant mask" and check.details
    }
    if responses:
        figure = draw_constant_masks(CONSTANTS, responses)
        caption = "What the classifier says if every token has the same mask value, by Explainer's operator."
        sections.append(Section("Does a mask value hide anything?", [Picture(figure, caption, caption)]))
    if "classes" in tables:
        sections.append(Section("Class against class", [tables["classes"]]))
    return sections


def _verdict(check: Check) -> Verdict:
    number = "" if math.isnan(check.value) else number_text(check.value)
    if not math.isnan(check.low):
        number += f" ({number_text(check.low)} to {number_text(check.high)})"
    limits = [
        f"{word} at {number_text(limit)}"
        for word, limit in (("warn", check.warn), ("fail", check.fail))
        if not math.isnan(limit)
    ]
    return Verdict(check.name, check.verdict, number, ", ".join(limits), check.meaning)


def _methods(methods: Sequence[Method], tables: Mapping[str, Table]) -> list[str | Table | Picture]:
    faith = {method.name: method.faithfulness for method in methods}
    deletion = {name: (own.fractions, own.deletion.mean(0)) for name, own in faith.items()}
    insertion = {name: (own.fractions, own.insertion.mean(0)) for name, own in faith.items()}
    panels = {}
    for key, title in (
        ("auprc", "token AUPRC"),
        ("comprehensiveness", "comprehensiveness"),
        ("sufficiency", "sufficiency (lower is better)"),
    ):
        for table in (tables[name] for name in ("truth", "methods") if name in tables):
            places = [i for i, column in enumerate(table.columns) if column.key == key]
            if places:
                panels[title] = {str(row[0].value): row[places[0]] for row in table.rows}
    bars: dict[str, dict[str, Cell]] = panels
    return [
        Picture(
            draw_bars(bars),
            "Quality of all methods, with 95 % intervals.",
            "Bars; the table has the numbers.",
        ),
        Picture(
            draw_perturbation(deletion, insertion),
            "Deletion and insertion: the most important tokens first.",
            "Curves; areas under them are in the table.",
        ),
        *(tables[key] for key in ("truth", "methods", "shares", "differences", "cost") if key in tables),
        *(f"{m.name}: {PEERS[m.name].description}" for m in methods if m.name in PEERS),
    ]


def _one_read(result: Evaluation, found: Study, truth: Truth | None, unit: str) -> Section:
    examined, i = result.examined, found.compared[0]
    spans, windows = examined.spans[i], examined.windows
    tracks: dict[str, NDArray[np.floating]] = {}
    for method in found.methods:
        if method.is_ours or method.name in _TRACKS:
            tracks[method.name] = method.scores[0]
        elif method.name == "lime":
            tracks |= thresholded("LIME", method.scores[0])
    start, name = int(windows.starts[i]), windows.names[i]
    planted, decoys = ({}, {}) if truth is None else (truth.planted, truth.decoys)
    places = [
        [(int(a) - start, int(b) - start) for a, b in known.get(name, ())] for known in (planted, decoys)
    ]
    figure = draw_read(tracks, spans, places[0], places[1], unit)
    caption = f"Scores of each token of '{name}' (paper, figure 8), as each method gives them."
    return Section("One read, all methods", [Picture(figure, caption, caption)])


def _masks(statistics: Mapping[str, MaskStatistics], unit: str) -> list[Table | Picture]:
    pictures = (
        (draw_mask_values(statistics), "Mask values of all tokens, and share of each window above 0.5."),
        (
            draw_masks_by_position(statistics),
            "Mask by position: a mask that follows the position explains nothing.",
        ),
        (draw_chunks(statistics, unit), "Relevant chunks per window, and their lengths."),
    )
    return [
        statistics_table(statistics),
        *(Picture(figure, caption, caption) for figure, caption in pictures),
    ]
