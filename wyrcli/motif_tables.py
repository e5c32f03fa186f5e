"""Motifs of classes as a table for people and programs, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from wyrcli.class_motifs import Motif
from wyrcli.motif_effects import Effect, MotifEffects
from wyrcli.result_tables import Cell, Column, Table

__all__ = ["ClassMotifs", "motif_json", "motif_table"]

_LEFT_OUT = ("class", "rank", "columns", "p", "mask_elsewhere", "p_planted", "p_ablated", "kept")

Row = list[Cell | str | float | int | None]


class ClassMotifs(NamedTuple):
    """The motifs of one class.

    ``name``: of the class, as it is to be read.  ``effects``: of each motif, None where none was measured.
    """

    rank: str
    name: str
    motifs: Sequence[Motif]
    effects: Sequence[MotifEffects | None]


def motif_table(
    key: str,
    title: str,
    classes: Sequence[ClassMotifs],
    fdr: float = 0.05,
    fold: float = 2.0,
    *,
    compact: bool = False,
) -> Table:
    """A row per class and motif, those that were not kept last, with the reason.

    ``planted`` and ``ablated``: what it does to the log-odds of the class, with 95 % intervals; see
    :mod:`wyrcli.motif_effects`.  ``compact``: of one class, and what fits a page.
    """
    backgrounds = list(
        dict.fromkeys(name for own in classes for motif in own.motifs for name in motif.background_shares)
    )
    columns: tuple[Column, ...] = (
        Column("class", "class"),
        Column("rank", "rank"),
        Column("motif", "motif"),
        Column("consensus", "consensus"),
        Column("columns", "columns", "count"),
        Column("bits", "bits", "number"),
        Column("sites", "sites", "count"),
        Column("share", "of reads", "percent"),
        *(Column(f"in_{name}", f"of {name}", "percent") for name in backgrounds),
        Column("p", "p", "number"),
        Column("q", "q", "number"),
        Column("mask", "mask on it", "number"),
        Column("mask_elsewhere", "mask elsewhere", "number"),
        Column("faint", "faint"),
        Column("planted", "planted", "number"),
        Column("p_planted", "p planted", "number"),
        Column("ablated", "ablated", "number"),
        Column("p_ablated", "p ablated", "number"),
        Column("effect", "effect"),
        Column("kept", "kept"),
        Column("reason", "why not"),
    )
    rows: list[Row] = []
    for own in classes:
        pairs = zip(own.motifs, own.effects, strict=True)
        for motif, effects in sorted(pairs, key=lambda pair: not pair[0].is_kept(fdr, fold)):
            reason = motif.why_not(fdr, fold)
            rows.append(
                [
                    own.name,
                    own.rank,
                    motif.name,
                    motif.consensus,
                    len(motif),
                    motif.bits,
                    motif.n_sites,
                    motif.share,
                    *(motif.background_shares.get(name) for name in backgrounds),
                    motif.p,
                    motif.q,
                    motif.mask,
                    motif.mask_elsewhere,
                    "yes" if motif.is_faint else "no",
                    *_cells(None if effects is None else effects.planted),
                    *_cells(None if effects is None else effects.ablated),
                    "" if effects is None else effects.verdict(),
                    "no" if reason else "yes",
                    reason,
                ]
            )
    notes = [
        "of reads: share with a site, of the half of the reads in which motifs were not looked for; p: that "
        "it is no higher than in a background; q: adjusted over all classes.  faint: the mask only hints at "
        "it.",
        "planted, ablated: change of the class's log-odds (nats) beyond that of the control, with its 95 % "
        "interval.",
    ]
    if compact:
        shown = [i for i, column in enumerate(columns) if column.key not in _LEFT_OUT]
        columns, rows = tuple(columns[i] for i in shown), [[row[i] for i in shown] for row in rows]
    return Table(key, title, columns, rows, notes=notes)


def _cells(effect: Effect | None) -> tuple[Cell, Cell]:
    """The effect with its interval, and its p."""
    if effect is None:
        return Cell(None), Cell(None)
    return Cell(effect.mean, effect.low, effect.high), Cell(effect.p)


def motif_json(
    motif: Motif, effects: MotifEffects | None, fdr: float = 0.05, fold: float = 2.0
) -> dict[str, Any]:
    """All of a motif; null where nothing was measured."""
    reason = motif.why_not(fdr, fold)
    return {
        "name": motif.name,
        "consensus": motif.consensus,
        "counts": motif.counts.tolist(),
        "background": motif.background.tolist(),
        "bits": motif.bits,
        "threshold_bits": _finite(motif.threshold),
        "sites": motif.n_sites,
        "reads": motif.n_reads,
        "share": _finite(motif.share),
        "background_shares": dict(motif.background_shares),
        "members": dict(motif.members),
        "mask": _finite(motif.mask),
        "mask_elsewhere": _finite(motif.mask_elsewhere),
        "faint": motif.is_faint,
        "keywords": list(motif.keywords),
        "p": _finite(motif.p),
        "q": _finite(motif.q),
        "kept": not reason,
        "reason": reason or None,
        "effects": None
        if effects is None
        else {
            "copies": effects.copies,
            "verdict": effects.verdict(),
            "planted": _plain(effects.planted),
            "ablated": _plain(effects.ablated),
        },
    }


def _plain(effect: Effect) -> dict[str, float | int | None]:
    return {name: _finite(value) for name, value in effect._asdict().items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
