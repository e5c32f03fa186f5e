"""Calls of whole reads in the two formats of Kraken 2, which Krona, Pavian, Bracken and MultiQC read.

https://github.com/DerrickWood/kraken2/blob/master/docs/MANUAL.markdown, "Output Formats".
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import IO

import numpy as np

from wyrcli.calls import Ballot, known_taxids
from wyrcli.errors import WyrError
from wyrcli.finding import Finding
from wyrcli.outputs import TextOutput, open_output
from wyrcli.taxonomy import Taxonomy
from wyrcli.writers import bed_text, safe_text

__all__ = ["KrakenWriter", "Report", "open_kraken"]

UNCLASSIFIED, ROOT = 0, 1
# A rank that is none of these has the code of the next one above it and a number, as in Kraken 2.
_CODES = {
    "superkingdom": "D",
    "kingdom": "K",
    "phylum": "P",
    "class": "C",
    "order": "O",
    "family": "F",
    "genus": "G",
    "species": "S",
}


def check_taxids(taxonomy: Taxonomy) -> list[dict[str, int]]:
    """The taxids of a taxonomy.  Raises WyrError where no taxon has one: Kraken's formats are of taxids."""
    taxids = known_taxids(taxonomy)
    if not any(taxids):
        raise WyrError(
            "this model's taxonomy.json has no taxids, and Kraken's formats know taxa by nothing else; "
            "use --predictions"
        )
    return taxids


def rank_codes(ranks: Sequence[str]) -> list[str]:
    """Kraken's code of each rank, from the widest on.

    >>> rank_codes(["superkingdom", "realm", "phylum"])
    ['D', 'D1', 'P']
    """
    codes = []
    above, number = "R", 0
    for rank in ranks:
        if rank in _CODES:
            above, number = _CODES[rank], 0
            codes.append(above)
        else:
            number += 1
            codes.append(f"{above}{number}")
    return codes


class _RunList:
    """The fifth column of a read: runs of bases by what they speak for, as ``taxid:bases``.

    In memory for a read, on the disk for a chromosome.
    """

    LIMIT = 100_000  # runs held in memory

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._file: IO[str] | None = None
        self._open: tuple[str, int] | None = None  # the run that may go on

    def add(self, key: str, bases: int) -> None:
        """More bases behind the last ones; ``A`` is Kraken's key of ambiguous ones."""
        if bases <= 0:
            return
        if self._open is not None and self._open[0] == key:
            self._open = (key, self._open[1] + bases)
            return
        self._shut()
        self._open = (key, bases)

    def _shut(self) -> None:
        if self._open is None:
            return
        self._parts.append(f"{self._open[0]}:{self._open[1]}")
        if len(self._parts) >= self.LIMIT:
            if self._file is None:
                self._file = tempfile.TemporaryFile("w+", prefix="wyr-", encoding="ascii")
            self._file.write(" ".join(self._parts) + " ")
            self._parts = []

    def write(self, handle: TextOutput, before: str) -> None:
        """Write a line: ``before`` and all runs.  A read without any has ``0:0``, as in Kraken 2."""
        self._shut()
        if self._file is None:
            handle.write(f"{before}{' '.join(self._parts) or '0:0'}\n")
            return
        handle.write(before)
        self._file.seek(0)
        while text := self._file.read(1 << 20):
            handle.write(text)
        self._file.close()
        handle.write(" ".join(self._parts) + "\n")


class Report:
    """Numbers of reads per taxon, and the tree they are printed as.

    The taxonomy of a model names taxa per rank but not their parents; the parent of a taxon is the one of
    the next wider rank that reads called so have most often (of equals, the smaller taxid).  So each taxid
    has one place, and numbers add up, whatever single reads combine.
    """

    def __init__(self, taxonomy: Taxonomy, taxids: Sequence[dict[str, int]]) -> None:
        self._ranks = taxonomy.ranks
        self._taxids = taxids
        self._reads = 0
        self._unclassified = 0
        self._direct: dict[tuple[int, str], int] = {}
        self._parents: dict[tuple[int, str], dict[tuple[int, str], int]] = {}

    def add(self, path: Sequence[tuple[int, str]]) -> None:
        """One read, by its (rank, taxon) pairs from the widest on; none for an unclassified one."""
        self._reads += 1
        if not path:
            self._unclassified += 1
            return
        self._direct[path[-1]] = self._direct.get(path[-1], 0) + 1
        for parent, node in pairwise(path):
            parents = self._parents.setdefault(node, {})
            parents[parent] = parents.get(parent, 0) + 1

    def write(self, handle: TextOutput) -> None:
        """Write the report: depth first, the larger clade first, then by taxid."""
        children: dict[tuple[int, str] | None, list[tuple[int, str]]] = {}
        nodes = set(self._direct) | {parent for votes in self._parents.values() for parent in votes}
        for node in nodes:
            votes = self._parents.get(node)
            parent = max(votes, key=lambda other: (votes[other], -self._taxid(other))) if votes else None
            children.setdefault(parent, []).append(node)
        clades: dict[tuple[int, str] | None, int] = {}

        def count(node: tuple[int, str] | None) -> int:
            own = self._direct.get(node, 0) if node is not None else 0
            clades[node] = own + sum(count(child) for child in children.get(node, []))
            return clades[node]

        classified = count(None)
        if self._unclassified or not classified:
            self._line(handle, self._unclassified, self._unclassified, "U", UNCLASSIFIED, "unclassified")
        self._line(handle, classified, 0, "R", ROOT, "root")

        def show(node: tuple[int, str] | None, depth: int, codes: list[str]) -> None:
            for child in sorted(children.get(node, []), key=lambda c: (-clades[c], self._taxid(c))):
                if not clades[child]:
                    continue
                rank, name = child
                # Blanks before a name are its depth, and must not be the name's own.
                shown = "  " * depth + (safe_text(name).strip(" ") or ".")
                number = self._direct.get(child, 0)
                self._line(handle, clades[child], number, codes[rank], self._taxid(child), shown)
                show(child, depth + 1, codes)

        show(None, 1, rank_codes(self._ranks))

    def _taxid(self, node: tuple[int, str]) -> int:
        return self._taxids[node[0]][node[1]]

    def _line(self, handle: TextOutput, clade: int, direct: int, code: str, taxid: int, name: str) -> None:
        percent = 100 * clade / self._reads if self._reads else 0.0
        handle.write(f"{percent:6.2f}\t{clade}\t{direct}\t{code}\t{taxid}\t{name}\n")


class KrakenWriter:
    """A row per read, and a report of all.

    Parameters
    ----------
    output: rows ``C|U``, name, taxid, length in bp, runs; None for none.
    report: where :meth:`finish` writes; None for none.
    taxonomy: of the model.

    A read is called by :class:`wyrcli.calls.Ballot`: the taxid is that of the narrowest rank with an answer
    (with one that has a taxid; 0 and ``U`` if there is none).  The runs say what its bases speak for: the
    taxid of the narrowest rank whose mask is above the threshold there and at which the window is sure, 0
    where there is none, ``A`` where no window is (N throughout).  Their numbers are of bases and add up to
    the length.
    """

    def __init__(
        self, taxonomy: Taxonomy, output: TextOutput | None = None, report: TextOutput | None = None
    ) -> None:
        self._taxids = check_taxids(taxonomy)
        self._n_ranks = len(taxonomy.ranks)
        self._output = output
        self._report_to = report
        self._report = Report(taxonomy, self._taxids)
        self._record = -1
        self._name = ""
        self._stop = self._length = 0
        self._ballot = Ballot(self._n_ranks)
        self._runs = _RunList()

    def write(self, finding: Finding) -> None:
        """One window of the read at hand, or the first one of the next."""
        window = finding.window
        if window.record != self._record:
            self.end_read()
            self._record, self._name, self._stop = window.record, window.name, 0
        self._length = max(window.length, window.stop)
        self._ballot.add(finding.explanation)
        if self._output is not None:
            self._runs.add("A", window.start - self._stop)
            self._add_runs(finding)
        self._stop = window.stop

    def _add_runs(self, finding: Finding) -> None:
        explanation, window = finding.explanation, finding.window
        keys = ["0"]
        above = np.zeros(len(explanation.mask), dtype=np.int64)
        for rank, taxon in enumerate(explanation.lineage):
            taxid = self._taxids[rank].get(taxon, 0)
            keys.append(str(taxid))
            if taxid and explanation.answers(rank):
                above[explanation.rank_masks[rank] > finding.threshold] = rank + 1
        if not len(above):
            self._runs.add("0", window.stop - window.start)
            return
        borders = np.flatnonzero(np.diff(above)) + 1
        first = np.concatenate([[0], borders])
        edges = [window.start, *explanation.spans[borders, 0].tolist(), window.stop]
        for i, site in enumerate(first.tolist()):
            self._runs.add(keys[above[site]], edges[i + 1] - edges[i])

    def skip(self, name: str, length: int) -> None:
        """A read without a window: unclassified."""
        self.end_read()
        self._report.add([])
        if self._output is not None:
            runs = f"A:{length}" if length else "0:0"
            self._output.write(f"U\t{bed_text(name)}\t{UNCLASSIFIED}\t{length}\t{runs}\n")

    def end_read(self) -> None:
        """Write the read whose windows were given, if there is one."""
        if self._record < 0:
            return
        call = self._ballot.call()
        path = [
            (rank, taxon)
            for rank, taxon in enumerate(call.taxa)
            if taxon is not None and taxon in self._taxids[rank]
        ]
        self._report.add(path)
        if self._output is not None:
            taxid = self._taxids[path[-1][0]][path[-1][1]] if path else UNCLASSIFIED
            sign = "C" if path else "U"
            self._runs.add("A", self._length - self._stop)
            self._runs.write(self._output, f"{sign}\t{bed_text(self._name)}\t{taxid}\t{self._length}\t")
        self._record = -1
        self._ballot, self._runs = Ballot(self._n_ranks), _RunList()

    def finish(self) -> None:
        """Write the last read and the report."""
        self.end_read()
        if self._report_to is not None:
            self._report.write(self._report_to)


@contextmanager
def open_kraken(taxonomy: Taxonomy, output: TextOutput | None, report: str | None) -> Iterator[KrakenWriter]:
    """A writer to an output that is open, and to a report that appears whole or not at all.

    Raises WyrError where the taxonomy has no taxids.
    """
    check_taxids(taxonomy)
    with ExitStack() as stack:
        handle = None if report is None else stack.enter_context(open_output(report))
        writer = KrakenWriter(taxonomy, output, handle)
        yield writer
        writer.finish()
