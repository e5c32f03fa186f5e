"""The HTML page of ``wyr explain-classes``: what the classifier reads as each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.class_motifs import ClassRead, Motif, find_sites
from wyrcli.errors import counted
from wyrcli.figures import draw_bars, draw_read
from wyrcli.logos import draw_logos
from wyrcli.motif_effects import MotifEffects
from wyrcli.motif_tables import ClassMotifs, motif_table
from wyrcli.pages import Picture, Section
from wyrcli.result_tables import Cell, Table

__all__ = ["ClassResult", "Example", "build_sections", "show_read"]

_LOGOS = 8  # of a class
_BARS = 20  # words of a class in its picture

Part = str | Table | Picture


class Example(NamedTuple):
    """A read or text of a class that is drawn.

    ``spans`` (T, 2) and ``scores`` (T,): letters of each piece, and its mask.  ``sites``: those of motifs or
    words, in letters.
    """

    name: str
    spans: NDArray[np.int64]
    scores: NDArray[np.floating]
    sites: Sequence[tuple[int, int]] = ()


class ClassResult(NamedTuple):
    """What is shown of one class.

    ``keywords``: their table, or None if there is none.  ``words``: mean score of each keyword of a text
    classifier, the highest first, in place of logos; none of DNA.
    """

    motifs: ClassMotifs
    keywords: Table | None = None
    examples: Sequence[Example] = ()
    words: Mapping[str, Cell] = {}


def show_read(read: ClassRead, motifs: Sequence[Motif]) -> Example:
    """A read of a class with the sites of motifs; neighbours of equal score are one piece."""
    rounded = np.round(np.asarray(read.scores, dtype=np.float64), 3)
    firsts = np.flatnonzero(np.diff(rounded, prepend=np.nan) != 0)
    spans = np.stack([firsts, np.append(firsts[1:], len(rounded))[: len(firsts)]], axis=1)
    sites = [(site.start, site.stop) for motif in motifs for site in find_sites(motif, [read.sequence])]
    return Example(read.name, spans, rounded[firsts], sorted(sites))


def build_sections(
    introduction: Sequence[str],
    tables: Sequence[Table],
    classes: Sequence[ClassResult],
    *,
    unit: str = "bp",
    fdr: float = 0.05,
    most: int = 60,
) -> list[Section]:
    """Sections for :func:`wyrcli.pages.write_page`.

    Parameters
    ----------
    introduction: what was explained, on what.
    tables: of all classes together, as the quality of the keywords.
    classes: neighbours of one rank.
    unit: of lengths.
    fdr: largest q of a motif that is kept.
    most: classes that are drawn; of more, the page says so, and the tables beside it have them.
    """
    sections = [Section("What this is", list(introduction))]
    if tables:
        sections.append(Section("All classes", list(tables)))
    for rank, group in groupby(classes[:most], key=lambda own: own.motifs.rank):
        sections += [Section(f"{rank}: {own.motifs.name}", _parts(own, unit, fdr)) for own in group]
    if len(classes) > most:
        rest = counted(len(classes) - most, "more class", "more classes")
        sections.append(Section("Not drawn", [f"{rest}: see the tables beside this page."]))
    return sections


def _parts(found: ClassResult, unit: str, fdr: float) -> list[Part]:
    name = found.motifs.name
    pairs = zip(found.motifs.motifs, found.motifs.effects, strict=True)
    kept = [(motif, effects) for motif, effects in pairs if motif.is_kept(fdr)]
    parts: list[Part] = []
    if kept:
        logos = {
            f"{motif.name}: {counted(motif.n_sites, 'site')}, {motif.bits:.0f} bits, "
            f"in {motif.share:.0%} of reads"
            + (", faint" if motif.is_faint else "")
            + (f"; {effects.verdict()}" if effects else ""): motif
            for motif, effects in kept[:_LOGOS]
        }
        text = "; ".join(f"{motif.name} {motif.consensus}" for motif, _ in kept[:_LOGOS])
        caption = f"Motifs that speak for {name}; letters as high as their column says something (bits)."
        parts.append(Picture(draw_logos(logos), caption, f"Consensus: {text}."))
        parts += [_sentence(motif.name, name, effects) for motif, effects in kept if effects is not None]
    elif found.words:
        words = dict(list(found.words.items())[:_BARS])
        caption = f"Keywords of {name}: mean score over the texts in which they count."
        parts.append(Picture(draw_bars({"mean score": words}), caption, f"{', '.join(words)}."))
    else:
        parts.append("No motif was kept." if found.motifs.motifs else "No motif was found.")
    if found.motifs.motifs:
        parts.append(motif_table("motifs", f"Motifs of {name}", [found.motifs], fdr, compact=True))
    if found.keywords is not None:
        parts.append(found.keywords)
    for example in found.examples:
        label, where = (
            ("keyword", "its keywords") if found.words else ("site of a motif", "sites of its motifs")
        )
        figure = draw_read({"mask": example.scores}, example.spans, example.sites, unit=unit, marked=label)
        caption = f"'{example.name}', recognised as {name}: mask of the class, and where {where} lie."
        parts.append(Picture(figure, caption, caption))
    return parts


def _sentence(motif: str, name: str, effects: MotifEffects) -> str:
    """The causal check in words, as probabilities."""
    planted, ablated = effects.planted, effects.ablated
    parts = []
    if planted.n:
        copies = counted(effects.copies, "copy", "copies")
        parts.append(
            f"planted into {counted(planted.n, 'neutral read')} ({copies} each), the probability of {name} "
            f"goes from {planted.before:.1%} to {planted.after:.1%} (its letters in another order: "
            f"{planted.control:.1%})"
        )
    if ablated.n:
        parts.append(
            f"taken out of {counted(ablated.n, 'read')} of {name}, from {ablated.before:.1%} to "
            f"{ablated.after:.1%} (as much taken out elsewhere: {ablated.control:.1%})"
        )
    return f"{motif}: {'; '.join(parts) or 'not checked, for want of reads'}."
