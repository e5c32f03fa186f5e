"""Ranks, taxa and lineages: the names behind the class axis of a model.

The model package knows only class numbers. A :class:`Taxonomy` is what gives them names: its taxa of
all ranks, one rank after the other, are the concatenated class axis of length C.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from wyrcli.errors import TaxonomyError, printable

__all__ = ["Lineage", "Taxonomy", "canonical_rank", "find_rank"]

Lineage = tuple[str, ...]
"""One taxon name per rank, in the order of ``Taxonomy.ranks``."""

# NCBI renamed the top rank in March 2025; one word for it keeps old and new dumps comparable.
_SAME_RANK = {"domain": "superkingdom", "acellular root": "superkingdom"}


def canonical_rank(rank: str) -> str:
    """The project's word for a rank.

    >>> canonical_rank("domain")
    'superkingdom'
    """
    return _SAME_RANK.get(rank, rank)


def find_rank(ranks: Sequence[str], rank: str) -> int:
    """Position of a rank among ``ranks``.  Raises TaxonomyError, naming the known ones."""
    try:
        return list(ranks).index(canonical_rank(rank))
    except ValueError:
        known = ", ".join(ranks)
        raise TaxonomyError(f"unknown rank '{printable(rank)}'; this model has {known}") from None


@dataclass(frozen=True)
class Taxonomy:
    """The taxa a classifier can answer with, ordered, per rank.

    Parameters
    ----------
    ranks: from the widest to the narrowest, e.g. ``("superkingdom", "phylum", "genus")``.
    taxa: per rank, the taxon names; their order is the order of the classes.
    taxids: per rank, the NCBI taxid of each taxon (0 where there is none).
    source: where the names came from (file, checksum, date); free text for the model card.
    """

    ranks: tuple[str, ...]
    taxa: tuple[tuple[str, ...], ...]
    taxids: tuple[tuple[int, ...], ...] = ()
    source: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ranks or len(self.ranks) != len(self.taxa):
            raise TaxonomyError(f"{len(self.ranks)} ranks but {len(self.taxa)} lists of taxa")
        if len(set(self.ranks)) != len(self.ranks):
            raise TaxonomyError(f"a rank is named twice in {', '.join(self.ranks)}")
        for rank, names in zip(self.ranks, self.taxa, strict=True):
            if not names:
                raise TaxonomyError(f"rank {rank} has no taxon")
            if len(set(names)) != len(names):
                raise TaxonomyError(f"rank {rank} names a taxon twice")
        if self.taxids and [len(t) for t in self.taxids] != [len(t) for t in self.taxa]:
            raise TaxonomyError("taxids and taxa differ in number")

    @property
    def n_classes(self) -> int:
        """C, the length of the class axis: the taxa of all ranks together."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of taxa per rank."""
        return tuple(len(names) for names in self.taxa)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each rank's taxa lie on the class axis.

        >>> Taxonomy(("a", "b"), (("x", "y"), ("z",))).slices
        (slice(0, 2, None), slice(2, 3, None))
        """
        slices, start = [], 0
        for size in self.sizes:
            slices.append(slice(start, start + size))
            start += size
        return tuple(slices)

    @cached_property
    def _index(self) -> tuple[dict[str, int], ...]:
        return tuple({name: i for i, name in enumerate(names)} for names in self.taxa)

    def rank_index(self, rank: str) -> int:
        """Position of a rank.  Raises TaxonomyError, naming the known ones."""
        return find_rank(self.ranks, rank)

    def encode(self, lineage: Sequence[str]) -> list[int]:
        """Class number **within its rank** of each taxon of a lineage."""
        if len(lineage) != len(self.ranks):
            raise TaxonomyError(f"a lineage needs {len(self.ranks)} taxa, not {len(lineage)}")
        classes = []
        for rank, index, name in zip(self.ranks, self._index, lineage, strict=True):
            if name not in index:
                raise TaxonomyError(f"unknown {rank} '{name}'")
            classes.append(index[name])
        return classes

    def decode(self, classes: Sequence[int]) -> Lineage:
        """The reverse of :meth:`encode`."""
        return tuple(names[int(c)] for names, c in zip(self.taxa, classes, strict=True))

    def to_json(self) -> str:
        """The taxonomy as a JSON text; :meth:`from_json` reads it."""
        taxids = self.taxids or tuple((0,) * n for n in self.sizes)
        content = {
            "format": 1,
            "source": self.source,
            "ranks": [
                {"rank": rank, "taxa": list(names), "taxids": list(ids)}
                for rank, names, ids in zip(self.ranks, self.taxa, taxids, strict=True)
            ],
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Taxonomy:
        """Read what :meth:`to_json` wrote.  Raises TaxonomyError on anything else."""
        try:
            content = json.loads(text)
            if content["format"] != 1:
                raise TaxonomyError(f"taxonomy format {content['format']}; this wyr reads format 1")
            ranks = content["ranks"]
            return cls(
                ranks=tuple(str(r["rank"]) for r in ranks),
                taxa=tuple(tuple(str(t) for t in r["taxa"]) for r in ranks),
                taxids=tuple(tuple(int(t) for t in r["taxids"]) for r in ranks),
                source={str(k): str(v) for k, v in content.get("source", {}).items()},
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TaxonomyError(f"not a taxonomy file: {error!r}") from None

    @classmethod
    def load(cls, path: Path) -> Taxonomy:
        """Read ``taxonomy.json``."""
        return cls.from_json(path.read_text(encoding="utf-8"))
