"""What is written of the keywords of classes: tables for people and programs, and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wyrcli.class_explanation import Findings
from wyrcli.class_quality import Quality
from wyrcli.keywords import Asked, Keyword
from wyrcli.outputs import json_text
from wyrcli.result_tables import Column, Table, slug
from wyrcli.taxonomy import Taxonomy

__all__ = [
    "OUTPUTS",
    "classes_table",
    "keyword_table",
    "name_class",
    "quality_table",
    "write_findings",
]

OUTPUTS = ("keywords.tsv", "unstable.tsv", "rejected.tsv", "quality.tsv", "classes.json", "classes")
"""What :func:`write_findings` writes into its directory."""


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


def _keyword_json(keyword: Keyword) -> dict[str, Any]:
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


def _quality_json(results: Sequence[Quality], taxonomy: Taxonomy) -> list[dict[str, Any]]:
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


# ---------------------------------------------------------------- files


def write_findings(folder: Path, found: Findings, about: Mapping[str, Any]) -> None:
    """All tables of :data:`OUTPUTS`, and ``about`` with all numbers as JSON, into a new directory."""
    every = [word for words in found.keywords for word in words]
    parts = {
        "keywords": [word for word in every if word.kept],
        "unstable": [word for word in every if word.is_unstable],
        "rejected": [word for word in every if not word.kept and not word.is_unstable],
    }
    for name, part in parts.items():
        _write(folder / f"{name}.tsv", keyword_table(name, name, part).to_tsv())
    _write(folder / "quality.tsv", quality_table(found.quality, found.taxonomy).to_tsv())
    (folder / "classes").mkdir()
    classes = []
    for i, own in enumerate(found.asked):
        table = f"classes/{_file_name(found.taxonomy, own)}.tsv"
        _write(folder / table, keyword_table("class", table, found.keywords[i]).to_tsv())
        taxa = found.taxonomy.taxa[own.rank]
        classes.append(
            {
                "rank": found.taxonomy.ranks[own.rank],
                "class": taxa[own.number],
                "against": None if own.against is None else taxa[own.against],
                "reads": int(found.scored.labelled[i]),
                "recognised": int(found.scored.scores.reads[i]),
                "table": table,
                "keywords": [_keyword_json(word) for word in found.keywords[i]],
            }
        )
    content = {**about, "quality": _quality_json(found.quality, found.taxonomy), "classes": classes}
    _write(folder / "classes.json", json_text(content))


def _file_name(taxonomy: Taxonomy, own: Asked) -> str:
    """A name that any file system takes, and that no two classes share."""
    return (
        f"{slug(taxonomy.ranks[own.rank])}-{own.number:04d}-{slug(taxonomy.taxa[own.rank][own.number])[:60]}"
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
