"""What a whole record is called, from what its windows are called."""

from __future__ import annotations

from typing import NamedTuple

from wyrcli.explanation import Explanation
from wyrcli.taxonomy import Taxonomy

__all__ = ["Ballot", "Call", "known_taxids"]


class Call(NamedTuple):
    """What a record is called.

    ``taxa``: per rank, the taxon, None where the Explanandum is not sure.  ``probabilities``: per rank, the
    mean over the record's windows, weighted by length, of the probability of that taxon in windows that
    name it, 0 in others.
    """

    taxa: tuple[str | None, ...]
    probabilities: tuple[float, ...]

    @property
    def rank(self) -> int | None:
        """The narrowest rank with an answer."""
        return next((r for r in reversed(range(len(self.taxa))) if self.taxa[r] is not None), None)


class Ballot:
    """The windows of one record vote, rank by rank, each with its length times its probability.

    Windows know the probability of the one taxon they name, so neither log-probabilities nor probabilities
    of all taxa could be summed; for records of one window the call is the window's.  The first of equals
    wins.  Memory holds a number per taxon that was named, whatever the length of the record.
    """

    def __init__(self, n_ranks: int) -> None:
        self._votes: list[dict[str, float]] = [{} for _ in range(n_ranks)]
        self._bases = 0
        self._only: Explanation | None = None
        self._windows = 0

    def add(self, explanation: Explanation) -> None:
        """The vote of one window.  At ranks at which it is not sure it casts none."""
        self._windows += 1
        if self._windows == 1:
            self._only = explanation
            return
        if self._only is not None:
            self._count(self._only)
            self._only = None
        self._count(explanation)

    def _count(self, explanation: Explanation) -> None:
        bases = explanation.window.stop - explanation.window.start
        self._bases += bases
        for rank, (taxon, probability) in enumerate(
            zip(explanation.lineage, explanation.probabilities, strict=True)
        ):
            if explanation.answers(rank):
                votes = self._votes[rank]
                votes[taxon] = votes.get(taxon, 0.0) + bases * probability

    def call(self) -> Call:
        """The result.  Raises ValueError without a window."""
        only = self._only
        if only is not None:  # most records: no sums, and the probabilities as they are
            taxa = [taxon if only.answers(rank) else None for rank, taxon in enumerate(only.lineage)]
            return Call(tuple(taxa), tuple(only.probabilities))
        if not self._windows:
            raise ValueError("a record without a window has no call")
        winners: list[str | None] = []
        probabilities = []
        for votes in self._votes:
            winner = max(votes, key=lambda taxon: votes[taxon]) if votes else None
            winners.append(winner)
            probabilities.append(votes[winner] / self._bases if winner is not None else 0.0)
        return Call(tuple(winners), tuple(probabilities))


def known_taxids(taxonomy: Taxonomy) -> list[dict[str, int]]:
    """Per rank, the NCBI taxid of each taxon that has one."""
    if not taxonomy.taxids:
        return [{} for _ in taxonomy.ranks]
    return [
        {name: taxid for name, taxid in zip(names, ids, strict=True) if taxid > 0}
        for names, ids in zip(taxonomy.taxa, taxonomy.taxids, strict=True)
    ]
