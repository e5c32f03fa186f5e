"""What is written of the keywords of classes: tables for people and programs, and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wyrcli.class_explanation import Findings
from wyrcli.class_quality import Quality
from wyrcli.keywords import Asked, Keyword
from wyrcli.result_tables import Column, Table
from wyrcli.taxonomy import Taxonomy

__all__ = [
    "classes_table",
    "compact_table",
    "keyword_json",
    "keyword_table",
    "name_class",
    "quality_json",
    "quality_table",
]

_SHOWN = 6  # keywords of a class on the terminal

Row = list[str | float | int | None]

_COLUMNS = (
    Column("class", "class"),
    Column("rank", "rank"),
    Column("against", "against"),
    Column("term", "term"),
    Column("reverse_complement", "reverse complement"),
    Column("reads", "reads", "count"),
    Column("share", "share of reads", "percent"),
    Column("mean", "mean score", "number"),
    Column("sd", "sd", "number"),
    Column("runs", "runs", "count"),
    Column("run_share", "of runs", "percent"),
    Column("having", "recognised reads with it", "percent"),
    Column("in_class", "in class", "percent"),
    Column("in_others", "in others", "percent"),
    Column("in_siblings", "in siblings", "percent"),
    Column("p_scored", "p scored", "number"),
    Column("p_others", "p others", "number"),
    Column("p_siblings", "p siblings", "number"),
    Column("p_children", "p children", "number"),
    Column("q", "q", "number"),
    Column("stable", "stable"),
    Column("kept", "kept"),
    Column("reason", "why not"),
)


def name_class(taxonomy: Taxonomy, own: Asked) -> str:
    """
    >>> name_class(Taxonomy(("genus",), (("A", "B"),)), Asked(0, 1, 0))
    'B against A'
    """
    taxa = taxonomy.taxa[own.rank]
    return taxa[own.number] + ("" if own.against is None else f" against {taxa[own.against]}")


def keyword_table(key: str, title: str, keywords: Sequence[Keyword], notes: Sequence[str] = ()) -> Table:
    """A row per class and term, with all that is known of it."""
    rows: list[Row] = [
        [
            own.name,
            own.rank,
            own.against,
            own.term,
            own.partner,
            own.reads,
            own.share,
            own.mean,
            own.deviation,
            own.runs,
            own.run_share,
            own.having,
            own.in_class,
            own.in_others,
            own.in_siblings,
            *own.p.values(),
            own.q,
            "yes" if own.stable else "no",
            "yes" if own.kept else "no",
            own.reason,
        ]
        for own in keywords
    ]
    return Table(key, title, _COLUMNS, rows, notes=notes)


_COMPACT = ("term", "reverse_complement", "share", "mean", "sd", "run_share", "in_class", "in_others", "q")


def compact_table(title: str, keywords: Sequence[Keyword]) -> Table:
    """The keywords of one class with what fits a page."""
    whole = keyword_table("keywords", title, keywords)
    shown = [i for i, column in enumerate(_COLUMNS) if column.key in _COMPACT]
    return Table(
        whole.key,
        title,
        [_COLUMNS[i] for i in shown],
        [[row[i] for i in shown] for row in whole.rows],
    )


def classes_table(
    found: Findings,
    notes: Sequence[str],
) -> Table:
    """A row per class: how many reads, and what was found."""
    columns = (
        Column("class", "class"),
        Column("reads", "reads", "count"),
        Column("recognised", "recognised", "percent"),
        Column("keywords", "keywords", "count"),
        Column("unstable", "unstable", "count"),
        Column("rejected", "rejected", "count"),
        Column("best", "best of them"),
    )
    rows: list[Row] = []
    for i, own in enumerate(found.asked):
        kept = found.kept(i)
        unstable = sum(word.is_unstable for word in found.keywords[i])
        labelled = int(found.scored.labelled[i])
        rows.append(
            [
                name_class(found.taxonomy, own),
                labelled,
                int(found.scored.scores.reads[i]) / labelled if labelled else None,
                len(kept),
                unstable,
                len(found.keywords[i]) - len(kept) - unstable,
                " ".join(word.term for word in kept[:_SHOWN]),
            ]
        )
    groups = [found.taxonomy.ranks[own.rank] for own in found.asked]
    return Table("classes", "What classes are told by", columns, rows, groups, notes)


def quality_table(results: Sequence[Quality], taxonomy: Taxonomy) -> Table:
    """A row per rank and method."""
    columns = (
        Column("method", "scores"),
        Column("classes", "classes", "count"),
        Column("with_keywords", "with keywords", "count"),
        Column("keywords", "keywords", "count"),
        Column("distinctiveness", "distinctive", "percent"),
        Column("coverage", "coverage", "percent"),
        Column("cross_coverage", "cross-coverage", "percent"),
        Column("delta", "delta", "number"),
        Column("normalised", "normalised", "number"),
    )
    ordered = sorted(results, key=lambda own: own.rank)
    rows: list[Row] = [
        [
            own.method,
            own.classes,
            own.with_keywords,
            own.keywords,
            own.distinctiveness,
            own.coverage,
            own.cross_coverage,
            own.delta,
            own.normalised,
        ]
        for own in ordered
    ]
    notes = [
        "distinctive: share of a class's keywords that no other class has; coverage: share of them in a "
        "recognised read of the class; cross-coverage: in a read of other classes; means over classes that "
        "have keywords.  delta: coverage less cross-coverage; normalised: divided by their sum."
    ]
    groups = [taxonomy.ranks[own.rank] for own in ordered]
    return Table("quality", "Quality of the keywords", columns, rows, groups, notes)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keyword_json(keyword: Keyword) -> dict[str, Any]:
    """All of a keyword; null where nothing was measured."""
    fields: Mapping[str, Any] = {
        "term": keyword.term,
        "reverse_complement": keyword.partner or None,
        "reads": keyword.reads,
        "share": keyword.share,
        "mean": keyword.mean,
        "sd": keyword.deviation,
        "runs": keyword.runs,
        "run_share": keyword.run_share,
        "having": keyword.having,
        "in_class": keyword.in_class,
        "in_others": keyword.in_others,
        "in_siblings": keyword.in_siblings,
        "q": keyword.q,
        "stable": keyword.stable,
        "kept": keyword.kept,
        "reason": keyword.reason or None,
    }
    found = {name: _plain(value) for name, value in fields.items()}
    return found | {"p": {name: _plain(value) for name, value in keyword.p.items()}}


def quality_json(results: Sequence[Quality], taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {name: _plain(value) for name, value in own._asdict().items()}
        | {
            "rank": taxonomy.ranks[own.rank],
            "delta": _plain(own.delta),
            "normalised": _plain(own.normalised),
        }
        for own in results
    ]
