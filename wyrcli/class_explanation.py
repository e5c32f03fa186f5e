"""From labelled reads to what a model reads as each class: the steps of ``wyr explain-classes``.

reads -> frequencies by label, and scores of recognised reads -> runs -> keywords -> quality
      -> samples of reads -> motifs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wyrcli.class_motifs import ClassRead, Motif, MotifOptions, adjust_motifs, find_motifs
from wyrcli.class_quality import Quality, measure_quality
from wyrcli.class_scores import PassOptions, Reservoir, SampledRead, ScoredReads, score_classes
from wyrcli.errors import InputError, TaxonomyError, counted
from wyrcli.examination import EvaluatedWindows, Floats, Subject
from wyrcli.keywords import Asked, Criteria, Frequencies, Keyword, Scores, select_keywords
from wyrcli.model.explainer import Explainer
from wyrcli.motif_effects import MotifEffects, ask_log_odds, measure_effects
from wyrcli.targets import find_taxon
from wyrcli.taxonomy import Taxonomy
from wyrcli.terms import KmerTerms, Terms
from wyrcli.tfmodisco import run_modisco

__all__ = [
    "Findings",
    "ask_modisco",
    "choose_classes",
    "class_reads",
    "explain_classes",
    "find_class_motifs",
    "sample_others",
]

_FEW_GROUPS = 5
_MOST_OTHERS = 1000  # reads of a background
_MOST_PER_LINEAGE = 60
_MOST_CHECKED = 3  # motifs of a class
_MOTIF_OPTIONS = MotifOptions()


@dataclass
class Findings:
    """What was found of the classes ``asked`` about.

    ``keywords``: of each class, all that its scores single out, best first, kept or not.  ``source``: of its
    scores.  ``motifs``: of each class, all that were tested; empty where they were not looked for.
    ``effects``: of each motif what it does to the classifier, None where that was not asked.  ``modisco``: of
    each class the motifs of TF-MoDISco; empty where it was not asked.
    """

    taxonomy: Taxonomy
    asked: list[Asked]
    terms: Terms
    frequencies: Frequencies
    scored: ScoredReads
    keywords: list[list[Keyword]]
    quality: list[Quality]
    others: dict[tuple[int, ...], Reservoir[str]]
    source: str = "mask"
    motifs: list[list[Motif]] = field(default_factory=list)
    effects: list[list[MotifEffects | None]] = field(default_factory=list)
    modisco: list[list[Motif]] = field(default_factory=list)

    def kept(self, row: int) -> list[Keyword]:
        """The keywords of a class."""
        return [own for own in self.keywords[row] if own.kept]


def choose_classes(
    taxonomy: Taxonomy,
    labels: NDArray[np.integer],
    *,
    rank: str | None = None,
    names: Sequence[str] = (),
    contrast: tuple[str, str] | None = None,
    min_reads: int = 10,
) -> tuple[list[Asked], int]:
    """The classes to ask about, rank by rank, and how many others have reads, but too few.

    Parameters
    ----------
    labels: (N, R), of the reads.
    rank, names, contrast: in the user's words; by default all classes of all ranks.

    Raises
    ------
    TaxonomyError: an unknown or ambiguous name, or a contrast of what cannot be contrasted.
    InputError: a class that was named has too few reads, or all have.
    """
    reads = [np.bincount(labels[:, r], minlength=size) for r, size in enumerate(taxonomy.sizes)]
    wanted = None if rank is None else taxonomy.rank_index(rank)
    if contrast is not None:
        first, second = (find_taxon(taxonomy, name) for name in contrast)
        if first == second or first.rank != second.rank:
            raise TaxonomyError("a contrast is of two different taxa of one rank")
        asked = [
            Asked(first.rank, first.within, second.within),
            Asked(first.rank, second.within, first.within),
        ]
    elif names:
        places = sorted(dict.fromkeys(find_taxon(taxonomy, name) for name in names))
        asked = [Asked(place.rank, place.within) for place in places]
        for own in asked:
            if wanted is not None and own.rank != wanted:
                taxon = taxonomy.taxa[own.rank][own.number]
                raise TaxonomyError(f"'{taxon}' is a {taxonomy.ranks[own.rank]}; expected a {rank}")
    else:
        asked = [
            Asked(r, number)
            for r, counts in enumerate(reads)
            if wanted in (None, r)
            for number in np.flatnonzero(counts).tolist()
        ]
    few = [own for own in asked if reads[own.rank][own.number] < min_reads]
    if few and (names or contrast is not None):
        own, least = few[0], f"expected {min_reads} or more (--min-reads)"
        n = int(reads[own.rank][own.number])
        raise InputError(f"{taxonomy.taxa[own.rank][own.number]} has {counted(n, 'read')}; {least}")
    kept = [own for own in asked if own not in few]
    if not kept:
        raise InputError(f"no class has {min_reads} reads or more (--min-reads)")
    return kept, len(few)


def explain_classes(
    subject: Subject,
    explainer: Explainer,
    windows: EvaluatedWindows,
    taxonomy: Taxonomy,
    asked: list[Asked],
    terms: Terms,
    options: PassOptions,
    criteria: Criteria,
    further: Callable[[Scores], list[Scores]] | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Findings:
    """Keywords and their quality.

    ``further``: makes of the tally of this pass those of all runs; without, the draws of this pass are them.
    """
    frequencies = Frequencies(terms)
    scored = score_classes(subject, explainer, windows, asked, terms, options, frequencies, on_batch)
    others = _sample_lineages(windows, options.seed) if isinstance(terms, KmerTerms) else {}
    passes = [scored.scores] if further is None else further(scored.scores)
    keywords = select_keywords(asked, taxonomy, terms, frequencies, passes, criteria)
    chosen = {i: [own.number for own in words if own.kept] for i, words in enumerate(keywords)}
    quality = measure_quality(options.source, asked, chosen, scored.scores, frequencies)
    return Findings(taxonomy, asked, terms, frequencies, scored, keywords, quality, others, options.source)


def _sample_lineages(windows: EvaluatedWindows, seed: int) -> dict[tuple[int, ...], Reservoir[str]]:
    """Some reads of each lineage, by label: what other classes are like."""
    found: dict[tuple[int, ...], Reservoir[str]] = {}
    for i in range(len(windows)):
        labels = np.asarray(windows.labels[i]).tolist()
        own = found.setdefault(tuple(labels), Reservoir(_MOST_PER_LINEAGE, seed + len(found)))
        own.offer(partial(windows.sequences.__getitem__, i))
    return found


def sample_others(found: Findings, row: int, seed: int = 0) -> dict[str, list[str]]:
    """Reads of all other classes, and of those of the same parent: backgrounds of a class's motifs."""
    own = found.asked[row]
    r = own.rank
    parents = {lineage[:r] for lineage in found.others if lineage[r] == own.number}
    groups: dict[str, list[str]] = {"others": [], "siblings": []}
    for lineage, reads in found.others.items():
        if lineage[r] == own.number or (own.against is not None and lineage[r] != own.against):
            continue
        groups["others"] += reads.items
        if r and own.against is None and lineage[:r] in parents:
            groups["siblings"] += reads.items
    rng = np.random.default_rng([seed, row])
    for name, texts in groups.items():
        if len(texts) > _MOST_OTHERS:
            groups[name] = [texts[i] for i in np.sort(rng.permutation(len(texts))[:_MOST_OTHERS]).tolist()]
    return groups


def class_reads(found: Findings, row: int) -> list[ClassRead]:
    """The sampled recognised reads of a class, as motifs are looked for in them."""
    own, taxonomy = found.asked[row], found.taxonomy
    samples: list[SampledRead] = found.scored.samples[row].items
    # Halves of few genomes would be too unlike each other.
    grouped = len({read.group for read in samples}) >= _FEW_GROUPS
    return [
        ClassRead(
            sequence=read.sequence,
            scores=read.scores if found.source == "mask" else _scaled(read.scores),
            group=read.group if grouped else "",
            member=taxonomy.taxa[-1][read.lineage[-1]] if own.rank + 1 < len(taxonomy.ranks) else "",
            name=read.name,
            start=read.start,
        )
        for read in samples
    ]


def _scaled(scores: Floats) -> Floats:
    """Attributions of a read as shares of its highest, none below 0: what a mask would be like."""
    highest = float(scores.max(initial=0.0))
    return np.clip(scores / highest, 0, 1).astype(np.float32) if highest > 0 else scores * 0


def find_class_motifs(
    found: Findings,
    options: MotifOptions = _MOTIF_OPTIONS,
    seed: int = 0,
    on_class: Callable[[int], None] = lambda done: None,
) -> None:
    """Look for motifs in the sampled reads of each class, and adjust their p within each rank."""
    motifs: list[list[Motif]] = []
    for row in range(len(found.asked)):
        words = {own.term: own.weight for own in found.kept(row)}
        reads = class_reads(found, row)
        motifs.append(find_motifs(words, reads, sample_others(found, row, seed), options, seed=seed))
        on_class(1)
    for rank in {own.rank for own in found.asked}:
        rows = [i for i, own in enumerate(found.asked) if own.rank == rank]
        adjusted = adjust_motifs({str(i): motifs[i] for i in rows})
        for i in rows:
            motifs[i] = list(adjusted[str(i)])
    found.motifs = motifs
    found.effects = [[None] * len(own) for own in motifs]


def ask_modisco(found: Findings, on_class: Callable[[int], None] = lambda done: None) -> None:
    """What TF-MoDISco finds in the same samples.  Raises WyrError where it is not installed."""
    found.modisco = []
    for row in range(len(found.asked)):
        found.modisco.append(run_modisco(class_reads(found, row)))
        on_class(1)


def check_motifs(
    found: Findings,
    subject: Subject,
    reads: int,
    fdr: float = 0.05,
    seed: int = 0,
    on_class: Callable[[int], None] = lambda done: None,
) -> None:
    """Ask the classifier about the first motifs of each class that are kept: does it go by them?

    ``reads``: of its own and of other classes, into which each is planted, or from which it is taken.
    """
    for row, own in enumerate(found.asked):
        kept = [i for i, motif in enumerate(found.motifs[row]) if motif.is_kept(fdr)][:_MOST_CHECKED]
        if kept and found.taxonomy.sizes[own.rank] > 1:
            ask = ask_log_odds(subject, own.rank, own.number, own.against)
            mine, others = class_reads(found, row), sample_others(found, row, seed)["others"]
            for i in kept:
                found.effects[row][i] = measure_effects(
                    ask, found.motifs[row][i], mine, others, most=reads, seed=seed
                )
        on_class(1)
