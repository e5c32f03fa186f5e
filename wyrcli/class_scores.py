"""One pass over labelled reads: which terms does an Explainer, or a gradient, score highly for their classes?

Reads come in blocks of a few hundred, and what is kept of them does not grow with their number: tallies
(:mod:`wyrcli.keywords`), and samples of reads, of fixed size, for motifs and pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, NamedTuple, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from wyrcli.examination import EvaluatedWindows, Examined, Floats, Subject, examine
from wyrcli.keywords import Asked, Frequencies, Scores
from wyrcli.model.explainer import Explainer
from wyrcli.peers import PEERS, Options
from wyrcli.terms import Terms

__all__ = ["GRADIENTS", "PassOptions", "Reservoir", "SampledRead", "ScoredReads", "score_classes", "spread"]

T = TypeVar("T")

GRADIENTS = "integrated-gradients"
"""The peer that stands for SACX's attribution."""

_FEW_GROUPS = 5  # a class of fewer genomes is drawn read by read: there is nothing to draw from


class SampledRead(NamedTuple):
    """A recognised read of a class, as it is kept for motifs and pictures.

    ``start``: on the record.  ``scores``: float32 (letters,), one per letter.  ``lineage``: its class within
    each rank.
    """

    name: str
    start: int
    group: str
    sequence: str
    scores: Floats
    lineage: tuple[int, ...]


class Reservoir(Generic[T]):
    """At most ``size`` of what was offered, each by the same chance (algorithm R, Vitter 1985)."""

    def __init__(self, size: int, seed: int) -> None:
        self.items: list[T] = []
        self.offered = 0
        self._size = size
        self._rng = np.random.default_rng(seed)

    def offer(self, make: Callable[[], T]) -> None:
        """Take an item, or not; it is made only if it is taken."""
        self.offered += 1
        place = self.offered - 1
        if place >= self._size:
            place = int(self._rng.integers(self.offered))
        if place >= self._size:
            return
        if place < len(self.items):
            self.items[place] = make()
        else:
            self.items.append(make())


@dataclass(frozen=True)
class PassOptions:
    """How reads are scored.

    Parameters
    ----------
    source: ``mask`` of an Explainer, or ``gradients``: integrated, as in SACX, divided by their norm.
    top: terms of a read that count.
    runs: draws of the reads (Poisson bootstrap); 1 if there is no ``bootstrap``, and all reads count.
    sample: reads that are kept of each class.
    steps: of integrated gradients.
    seed: of the draws and the samples.
    block: reads that are held at once.
    """

    source: Literal["mask", "gradients"] = "mask"
    top: int = 20
    runs: int = 20
    bootstrap: bool = True
    sample: int = 200
    steps: int = 30
    seed: int = 0
    block: int = 256


class ScoredReads(NamedTuple):
    """What a pass found.

    ``scores``: rows are those of the classes asked about.  ``samples``: of each of them, recognised reads.
    ``labelled``: how many reads each class has; of how many it is predicted, ``scores.reads`` says.
    """

    scores: Scores
    samples: list[Reservoir[SampledRead]]
    labelled: NDArray[np.int64]


def spread(values: NDArray[np.floating], spans: NDArray[np.int64], length: int) -> Floats:
    """Values (T,) of tokens as one per letter, float32 (length,); 0 where no token is, the largest of two.

    >>> spread(np.array([0.25, 0.5]), np.array([[0, 2], [2, 3]]), 4).tolist()
    [0.25, 0.25, 0.5, 0.0]
    """
    sizes = spans[:, 1] - spans[:, 0]
    place = np.repeat(spans[:, 0] - np.cumsum(sizes) + sizes, sizes) + np.arange(int(sizes.sum()))
    found = np.full(length, -np.inf, np.float32)
    np.maximum.at(found, place, np.repeat(values, sizes).astype(np.float32))
    found[np.isinf(found)] = 0
    return found


def score_classes(
    subject: Subject,
    explainer: Explainer,
    windows: EvaluatedWindows,
    asked: Sequence[Asked],
    terms: Terms,
    options: PassOptions,
    frequencies: Frequencies | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> ScoredReads:
    """Score the terms of all reads that are recognised as a class that is asked about.

    ``frequencies``: to which all reads are added as well, or None where that was done.  Reads of classes that
    nobody asks about are not put to the model.
    """
    rows: dict[tuple[int, int], list[int]] = {}
    for row, own in enumerate(asked):
        rows.setdefault((own.rank, own.number), []).append(row)
    found = ScoredReads(
        Scores(len(asked), options.runs, terms, options.top),
        [
            Reservoir(options.sample, crc32(f"{options.seed} {own.rank} {own.number}".encode()))
            for own in asked
        ],
        np.zeros(len(asked), np.int64),
    )
    draws = _Draws(options, windows)
    for at in range(0, len(windows), options.block):
        block = _Block(windows, range(at, min(at + options.block, len(windows))))
        if frequencies is not None:
            frequencies.add(block.labels, block.sequences)
        wanted = [
            i
            for i, labels in enumerate(block.labels.tolist())
            if any(own in rows for own in enumerate(labels))
        ]
        if wanted:
            chosen = _Block(windows, [at + i for i in wanted])
            for row, i, values in _score_block(subject, explainer, chosen, asked, rows, options, found):
                text = chosen.sequences[i]
                occurrences = terms.find(text)
                weights = draws.weights(asked[row], chosen.rows[i])
                found.scores.add(row, occurrences.numbers, terms.score(occurrences, values), weights)
                found.samples[row].offer(partial(chosen.sample, i, values))
        on_batch(len(block))
    return found


class _Block:
    """Some windows, in memory."""

    def __init__(self, windows: EvaluatedWindows, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self.labels: NDArray[np.int64] = np.asarray(windows.labels[self.rows], np.int64)
        self.sequences = [windows.sequences[i] for i in self.rows]
        self._windows = windows

    @property
    def names(self) -> list[str]:
        return [self._windows.names[i] for i in self.rows]

    @property
    def groups(self) -> list[str]:
        return [self._windows.groups[i] for i in self.rows]

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.asarray(self._windows.starts[self.rows], np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, i: int, scores: Floats) -> SampledRead:
        """Window ``i`` of the block with its scores."""
        windows, row = self._windows, self.rows[i]
        return SampledRead(
            windows.names[row],
            int(windows.starts[row]),
            windows.groups[row],
            self.sequences[i],
            scores,
            tuple(self.labels[i].tolist()),
        )


def _score_block(
    subject: Subject,
    explainer: Explainer,
    block: _Block,
    asked: Sequence[Asked],
    rows: dict[tuple[int, int], list[int]],
    options: PassOptions,
    found: ScoredReads,
) -> Iterator[tuple[int, int, Floats]]:
    """Number of the class asked about, of the window in the block, and one score per letter."""
    examined = examine(subject, explainer, block, block.labels, with_answers=False)
    cache: dict[tuple[int, int | None], list[Floats]] = {}
    for i, labels in enumerate(block.labels.tolist()):
        for rank, number in enumerate(labels):
            for row in rows.get((rank, number), ()):
                found.labelled[row] += 1
                if examined.predicted[i, rank] != number:
                    continue
                own = asked[row]
                key = (rank, own.against)
                if key not in cache:
                    cache[key] = _token_scores(subject, explainer, block, examined, own, options)
                yield row, i, spread(cache[key][i], examined.spans[i], len(block.sequences[i]))


def _token_scores(
    subject: Subject,
    explainer: Explainer,
    block: _Block,
    examined: Examined,
    own: Asked,
    options: PassOptions,
) -> list[Floats]:
    """Scores (T_i,) for each window's own class at a rank, less those for another class where it has one."""
    scores = _of_classes(subject, explainer, block, examined, block.labels, own.rank, options)
    if own.against is None:
        return scores
    other = block.labels.copy()
    other[:, own.rank] = own.against
    against = _of_classes(subject, explainer, block, None, other, own.rank, options)
    return [mine - theirs for mine, theirs in zip(scores, against, strict=True)]


def _of_classes(
    subject: Subject,
    explainer: Explainer,
    block: _Block,
    examined: Examined | None,
    classes: NDArray[np.int64],
    rank: int,
    options: PassOptions,
) -> list[Floats]:
    if options.source == "gradients":
        settings = Options(seed=options.seed, steps=options.steps, rank=rank)
        raw = PEERS[GRADIENTS].explain(subject, block.sequences, classes, settings)
        return [(own / max(float(np.linalg.norm(own)), 1e-12)).astype(np.float32) for own in raw]
    if examined is None:
        examined = examine(subject, explainer, block, classes, with_answers=False)
    return [masks[:, rank] for masks in examined.rank_masks]


class _Draws:
    """How often each run draws a read: Poisson numbers of mean 1 (Hanley and MacGibbon 2006).

    They come from the name of the read's group, so that a genome is drawn with all its windows; from the
    read itself where its class has fewer than five groups.
    """

    def __init__(self, options: PassOptions, windows: EvaluatedWindows) -> None:
        self._options = options
        self._windows = windows
        self._groups: dict[tuple[int, int], set[str]] = {}
        for i in range(len(windows) if options.bootstrap else 0):
            for own in enumerate(np.asarray(windows.labels[i]).tolist()):
                known = self._groups.setdefault(own, set())
                if len(known) < _FEW_GROUPS:
                    known.add(windows.groups[i])

    def by_group(self, own: Asked) -> bool:
        """Whether groups are drawn, not reads."""
        return len(self._groups.get((own.rank, own.number), ())) >= _FEW_GROUPS

    def weights(self, own: Asked, read: int) -> NDArray[np.int64]:
        """Of one read, (runs,)."""
        if not self._options.bootstrap:
            return np.ones(self._options.runs, np.int64)
        if self.by_group(own):
            key = [0, crc32(self._windows.groups[read].encode())]
        else:
            # Not its place: the order of reads must not matter.
            about = f"{self._windows.names[read]} {self._windows.starts[read]}"
            key = [1, crc32(about.encode()), crc32(self._windows.sequences[read].encode())]
        rng = np.random.default_rng([self._options.seed, *key])
        return rng.poisson(1.0, self._options.runs)
