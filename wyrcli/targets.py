"""What is to be explained: the predicted classes, taxa that somebody names, or the most probable ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from wyrcli.errors import TaxonomyError, printable
from wyrcli.explanation import Explanation
from wyrcli.taxonomy import Taxonomy, canonical_rank

__all__ = ["Goal", "Place", "Question", "ask", "find_taxon", "parse_thresholds", "same_subject"]


class Place(NamedTuple):
    """A taxon: its rank, its class within that rank, and its number on the class axis."""

    rank: int
    within: int
    number: int


class Goal(NamedTuple):
    """A class whose mask is asked for in every window; with ``against``, minus the mask of that class."""

    name: str
    place: Place
    against: str = ""
    against_place: Place | None = None


@dataclass(frozen=True)
class Question:
    """What is asked of every window.

    Parameters
    ----------
    rank: number of the rank whose mask counts where the predicted classes are explained, None for all
        together.
    goals: classes that are explained instead, whether or not they are predicted.
    top_k: so many of the most probable classes of ``top_rank`` are explained as well, from the first on.
    thresholds: per rank, the probability below which the Explanandum is not sure; empty if it always is.
    """

    rank: int | None = None
    goals: tuple[Goal, ...] = ()
    top_k: int = 0
    top_rank: int = -1
    thresholds: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Explanations per window: one for each goal, then one for each of the top k; or one of what is
        predicted."""
        return max(1, len(self.goals) + self.top_k)


def ask(
    taxonomy: Taxonomy,
    *,
    rank: str | None = None,
    targets: Sequence[str] = (),
    contrast: tuple[str, str] | None = None,
    top_k: int = 0,
    thresholds: Sequence[float] = (),
) -> Question:
    """A Question in the user's words.  Goals come in the order targets, contrast, top k.

    Parameters
    ----------
    rank: of the predicted classes to explain; with ``top_k`` the rank that these are of (default: the
        narrowest).
    targets, contrast: names of taxa, see :func:`find_taxon`.

    Raises
    ------
    TaxonomyError: an unknown or ambiguous name, a contrast of a taxon with itself, more classes than
        the rank has.
    """
    number = None if rank is None else taxonomy.rank_index(rank)
    places = dict.fromkeys(find_taxon(taxonomy, target) for target in targets)  # each once
    goals = [Goal(_name(taxonomy, place), place) for place in places]
    if contrast is not None:
        first, second = (find_taxon(taxonomy, name) for name in contrast)
        if first == second:
            raise TaxonomyError(f"a contrast of '{_name(taxonomy, first)}' with itself; expected two taxa")
        goals.append(Goal(_name(taxonomy, first), first, _name(taxonomy, second), second))
    top_rank = len(taxonomy.ranks) - 1 if number is None else number
    if top_k > taxonomy.sizes[top_rank]:
        raise TaxonomyError(
            f"the {top_k} most probable taxa of rank {taxonomy.ranks[top_rank]} were asked for; "
            f"this model has {taxonomy.sizes[top_rank]}"
        )
    above = tuple(thresholds) if any(t > 0 for t in thresholds) else ()
    return Question(number, tuple(goals), top_k, top_rank, above)


def _name(taxonomy: Taxonomy, place: Place) -> str:
    return taxonomy.taxa[place.rank][place.within]


def find_taxon(taxonomy: Taxonomy, text: str) -> Place:
    """The taxon that a user names, in any case of letters; ``RANK:NAME`` where several ranks have the name.

    Raises TaxonomyError: none has it (the message names some that look like it), or several do.
    """
    found = _matches(taxonomy, text, None)
    rank, colon, name = text.partition(":")
    if not found and colon and canonical_rank(rank.strip().lower()) in taxonomy.ranks:
        found = _matches(taxonomy, name.strip(), canonical_rank(rank.strip().lower()))
    if len(found) == 1:
        return found[0]
    shown = printable(text)
    if found:
        ways = " or ".join(f"'{taxonomy.ranks[p.rank]}:{_name(taxonomy, p)}'" for p in found)
        raise TaxonomyError(f"'{shown}' may be any of {len(found)} taxa; say {ways}")
    known = {taxon.casefold(): taxon for names in taxonomy.taxa for taxon in names}
    near = get_close_matches((name or text).strip().casefold(), known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(known[n] for n in near)}?" if near else ""
    raise TaxonomyError(f"this model knows no taxon '{shown}'{hint}")


def _matches(taxonomy: Taxonomy, name: str, rank: str | None) -> list[Place]:
    """Taxa of that name: those that are written exactly so, if there are any."""
    exact, alike = [], []
    for r, (own, taxa, numbers) in enumerate(
        zip(taxonomy.ranks, taxonomy.taxa, taxonomy.slices, strict=True)
    ):
        if rank is not None and own != rank:
            continue
        for within, taxon in enumerate(taxa):
            if taxon.casefold() == name.casefold():
                place = Place(r, within, numbers.start + within)
                alike.append(place)
                if taxon == name:
                    exact.append(place)
    return exact or alike


def parse_thresholds(
    text: str | None, ranks: Sequence[str], stored: Mapping[str, float] | None = None
) -> tuple[float, ...]:
    """The probability per rank below which the Explanandum is not sure.

    Parameters
    ----------
    text: one number for all ranks (``0.8``), or one for each that is named (``genus=0.8,phylum=0.5``);
        None leaves what is ``stored``, 0 switches everything off.
    stored: what the checkpoint says, which ranks that are not named keep.

    Raises
    ------
    ValueError: what is no probability, or names a rank twice.
    TaxonomyError: an unknown rank.

    >>> parse_thresholds("genus=0.8", ["phylum", "genus"], {"phylum": 0.5})
    (0.5, 0.8)
    """
    found = [float((stored or {}).get(rank, 0.0)) for rank in ranks]
    if text is None:
        return tuple(found)
    if "=" not in text:
        return (_probability(text),) * len(ranks)
    seen = set()
    for part in text.split(","):
        rank, _, value = part.partition("=")
        rank = canonical_rank(rank.strip())
        if rank in seen:
            raise ValueError(f"rank {printable(rank)} is named twice")
        seen.add(rank)
        if rank not in ranks:
            raise TaxonomyError(f"unknown rank '{printable(rank)}'; this model has {', '.join(ranks)}")
        found[list(ranks).index(rank)] = _probability(value)
    return tuple(found)


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"'{printable(text)}'; expected a probability from 0 to 1, or RANK=PROBABILITY,...")
    return value


def same_subject(first: Explanation, second: Explanation) -> bool:
    """Whether both answer the same question: the predicted classes, or the same class or contrast."""
    a, b = first.target, second.target
    if a is None or b is None:
        return a is b
    return (a.name, a.rank, a.against) == (b.name, b.rank, b.against)
