"""The directory that ``wyr explain-classes`` writes.

keywords.tsv, unstable.tsv, rejected.tsv    terms of all classes: kept; selected by too few runs; others
classes/RANK-NUMBER-NAME.tsv                all of one class
quality.tsv                                 of the keywords, by rank and method
motifs.tsv, motifs.meme, chunks/*.fasta     of DNA: motifs, those that are kept, and what they are made of
classes.json                                everything, with the settings
index.html                                  to look at; needs matplotlib
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wyrcli.class_explanation import Findings, class_reads
from wyrcli.class_motifs import ClassRead
from wyrcli.class_tables import (
    classes_table,
    compact_table,
    keyword_json,
    keyword_table,
    name_class,
    quality_json,
    quality_table,
)
from wyrcli.keywords import Asked
from wyrcli.motif_files import chunk_fasta, render_meme
from wyrcli.motif_tables import ClassMotifs, motif_json, motif_table
from wyrcli.outputs import json_text
from wyrcli.result_tables import Cell, Column, Table, slug
from wyrcli.taxonomy import Taxonomy

__all__ = ["OUTPUTS", "list_motifs", "shown_motifs", "write_findings"]

OUTPUTS = (
    *("keywords.tsv", "unstable.tsv", "rejected.tsv", "quality.tsv", "classes", "classes.json"),
    *("motifs.tsv", "motifs.meme", "modisco.meme", "chunks", "index.html"),
)
"""All that may lie in such a directory."""

_NOT_SHOWN = ("motif", "bits", "q", "mask", "faint", "reason")
_EXAMPLES = 2  # reads of a class that are drawn


def list_motifs(found: Findings) -> list[ClassMotifs]:
    """The motifs of each class with their effects."""
    names = [name_class(found.taxonomy, own) for own in found.asked]
    return [
        ClassMotifs(found.taxonomy.ranks[own.rank], name, motifs, effects)
        for own, name, motifs, effects in zip(found.asked, names, found.motifs, found.effects, strict=True)
    ]


def shown_motifs(found: Findings, fdr: float) -> Table:
    """The motifs that are kept, class by class, with what fits a terminal."""
    kept = []
    for own in list_motifs(found):
        rows = [i for i, motif in enumerate(own.motifs) if motif.is_kept(fdr)]
        motifs, effects = [own.motifs[i] for i in rows], [own.effects[i] for i in rows]
        kept.append(own._replace(motifs=motifs, effects=effects))
    table = motif_table("motifs", "Motifs", kept, fdr, compact=True)
    shown = [i for i, column in enumerate(table.columns) if column.key not in _NOT_SHOWN]
    names = [f"{own.rank} {own.name}" for own in kept for _ in own.motifs]
    columns = [Column("class", "class"), *(table.columns[i] for i in shown)]
    rows_shown: list[list[Cell | str]] = [
        [name, *(row[i] for i in shown)] for name, row in zip(names, table.rows, strict=True)
    ]
    return Table(table.key, table.title, columns, rows_shown, notes=table.notes)


def write_findings(
    folder: Path,
    found: Findings,
    about: Mapping[str, Any],
    notes: Sequence[str],
    fdr: float,
    *,
    with_page: bool = True,
) -> None:
    """Everything into a new directory.

    ``about``: settings, for the JSON; ``notes``: what people should know; ``fdr``: largest q of a motif.
    """
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
    taxonomy, classes = found.taxonomy, []
    for i, own in enumerate(found.asked):
        table = f"classes/{_file_name(taxonomy, own)}.tsv"
        _write(folder / table, keyword_table("class", table, found.keywords[i]).to_tsv())
        taxa = taxonomy.taxa[own.rank]
        pairs = zip(found.motifs[i], found.effects[i], strict=True) if found.motifs else ()
        classes.append(
            {
                "rank": taxonomy.ranks[own.rank],
                "class": taxa[own.number],
                "against": None if own.against is None else taxa[own.against],
                "reads": int(found.scored.labelled[i]),
                "recognised": int(found.scored.scores.reads[i]),
                "table": table,
                "keywords": [keyword_json(word) for word in found.keywords[i]],
                "motifs": [motif_json(motif, effects, fdr) for motif, effects in pairs],
            }
        )
    if found.motifs:
        _write_motifs(folder, found, fdr)
    content = {**about, "quality": quality_json(found.quality, taxonomy), "classes": classes}
    _write(folder / "classes.json", json_text(content))
    if with_page:
        _write_page(folder / "index.html", found, notes, fdr)


def _write_motifs(folder: Path, found: Findings, fdr: float) -> None:
    listed = list_motifs(found)
    _write(folder / "motifs.tsv", motif_table("motifs", "Motifs", listed, fdr).to_tsv())
    kept = {f"{own.rank} {own.name}": [motif for motif in own.motifs if motif.is_kept(fdr)] for own in listed}
    _write(folder / "motifs.meme", render_meme(kept))
    if found.modisco:
        theirs = {f"{own.rank} {own.name}": motifs for own, motifs in zip(listed, found.modisco, strict=True)}
        _write(folder / "modisco.meme", render_meme(theirs))
    (folder / "chunks").mkdir()
    for i, own in enumerate(found.asked):
        text = chunk_fasta(name_class(found.taxonomy, own), class_reads(found, i))
        _write(folder / "chunks" / f"{_file_name(found.taxonomy, own)}.fasta", text)


def _write_page(path: Path, found: Findings, notes: Sequence[str], fdr: float) -> None:
    from wyrcli.class_page import ClassResult, build_sections, show_read
    from wyrcli.pages import page_text

    is_dna = bool(found.motifs)
    listed = list_motifs(found) if is_dna else []
    results = []
    for i, own in enumerate(found.asked):
        name, kept = name_class(found.taxonomy, own), found.kept(i)
        motifs = listed[i] if is_dna else ClassMotifs(found.taxonomy.ranks[own.rank], name, [], [])
        shown = [motif for motif in motifs.motifs if motif.is_kept(fdr)]
        examples = [show_read(read, shown) for read in class_reads(found, i)[:_EXAMPLES]]
        if not is_dna:
            examples = [
                example._replace(sites=_places(found, read, {word.number for word in kept}))
                for example, read in zip(examples, class_reads(found, i), strict=False)
            ]
        words = {} if is_dna else {word.term: Cell(word.mean) for word in kept}
        table = compact_table(f"Keywords of {name}", kept) if kept else None
        results.append(ClassResult(motifs, table, examples, words))
    tables = [classes_table(found, notes), quality_table(found.quality, found.taxonomy)]
    unit = "bp" if is_dna else "characters"
    sections = build_sections(notes, tables, results, unit=unit, fdr=fdr)
    _write(path, page_text("What classes are told by", sections))


def _places(found: Findings, read: ClassRead, numbers: set[int]) -> list[tuple[int, int]]:
    """Where in a text these terms are."""
    terms = found.terms.find(read.sequence)
    chosen = np.isin(terms.numbers, list(numbers))
    return list(zip(terms.starts[chosen].tolist(), terms.stops[chosen].tolist(), strict=True))


def _file_name(taxonomy: Taxonomy, own: Asked) -> str:
    """A name that any file system takes, and that no two classes share."""
    rank, name = (slug(text) for text in (taxonomy.ranks[own.rank], taxonomy.taxa[own.rank][own.number]))
    return f"{rank}-{own.number:04d}-{name[:60]}"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
