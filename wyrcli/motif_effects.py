"""The causal check of a motif: what the classifier says when it is planted, and when it is taken out.

*Planted*: the motif's consensus stands in reads of other classes whose letters were shuffled (their pairs of
neighbours kept), so that they say nothing; the control is the same read with the consensus's letters in
another order at the same places.

*Ablated*: the letters of its sites in recognised reads of the class are drawn anew from the read's own
composition; the control is the same read with as many letters, in as many pieces, drawn anew elsewhere.

What is measured is the log-odds of the class against all others of its rank, in nats, and the difference to
the control, read by read.  A motif that the classifier goes by raises it when planted, and lowers it when
ablated; one that others can stand in for only does the former.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.class_motifs import LETTERS, ClassRead, Motif, Site, find_sites
from wyrcli.examination import Floats, Subject, dinucleotide_shuffle
from wyrcli.metrics import draw_weights, interval, number_groups, weighted_mean

__all__ = ["Effect", "MotifEffects", "ask_log_odds", "measure_effects", "paired_effect"]

_DRAWS = 9_999  # of signs; the least p is 1 / 10,000
_TRIES = 50  # to find a free place at random before giving a read up


class Effect(NamedTuple):
    """What a change of N reads does to the log-odds of a class, beyond what its control does.

    ``before``, ``after``, ``control``: mean probability of the class in the reads as they were, changed, and
    changed as the control.  ``mean``: of the difference between changed and control, nats; ``low`` and
    ``high``: its 95 % interval (bootstrap over groups).  ``p``: one-sided, that it is no rise (planted) or no
    fall (ablated), from random signs of the groups.  NaN without reads; ``p`` and the interval are coarse
    with few groups.
    """

    n: int
    before: float
    after: float
    control: float
    mean: float
    low: float
    high: float
    p: float


class MotifEffects(NamedTuple):
    """``copies``: of the motif that were planted into each read."""

    planted: Effect
    ablated: Effect
    copies: int

    def verdict(self, level: float = 0.01) -> str:
        """What both say together, in words.  ``level``: of each p."""
        raises = self.planted.mean > 0 and self.planted.p <= level
        lowers = self.ablated.mean < 0 and self.ablated.p <= level
        return {
            (True, True): "raises and is needed",
            (True, False): "raises, not needed",
            (False, True): "needed, raises nothing alone",
            (False, False): "no effect",
        }[raises, lowers]


Ask = Callable[[Sequence[str]], NDArray[np.float64]]
"""From N reads to the log-odds of one class, (N,)."""


def ask_log_odds(subject: Subject, rank: int, number: int, against: int | None = None) -> Ask:
    """A question to the classifier: the log-odds of class ``number`` within ``rank`` against all others of
    the rank, or against one of them.

    Raises ValueError where the rank has no other class.
    """
    sizes = subject.explanandum.sizes
    if sizes[rank] < 2:
        raise ValueError("the only class of its rank has no odds")
    first = sum(sizes[:rank])

    def ask(sequences: Sequence[str]) -> NDArray[np.float64]:
        found: Floats = subject.log_probabilities(sequences)[:, first : first + sizes[rank]]
        own = found.astype(np.float64)
        others = np.delete(own, number, axis=1) if against is None else own[:, [against]]
        # Not log(1 - p), which is lost in rounding where the classifier is sure.
        return np.asarray(own[:, number] - np.logaddexp.reduce(others, axis=1), dtype=np.float64)

    return ask


def measure_effects(
    ask: Ask,
    motif: Motif,
    reads: Sequence[ClassRead],
    others: Sequence[str],
    *,
    most: int = 50,
    seed: int = 0,
) -> MotifEffects:
    """Plant a motif into reads of other classes, and ablate it in reads of its own.

    Parameters
    ----------
    ask: the classifier's log-odds of the class; see :func:`ask_log_odds`.
    reads: recognised reads of the class; those without a site are passed over.
    others: reads of other classes, for the neutral ones.
    most: reads of each kind that are used, drawn at random.

    As many copies are planted as a read with a site has in the median.  Every read is asked about three
    times for each of both.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(reads)).tolist()
    sites: dict[int, list[Site]] = {}
    for site in find_sites(motif, [reads[i].sequence for i in order]):
        sites.setdefault(order[site.sequence], []).append(site)
    copies = max(round(float(np.median([len(own) for own in sites.values()]))) if sites else 1, 1)
    chosen = [i for i in order if i in sites][:most]
    neutral = [dinucleotide_shuffle(others[i], rng) for i in rng.permutation(len(others))[:most].tolist()]
    return MotifEffects(
        _plant(ask, motif, neutral, copies, rng),
        _ablate(ask, [reads[i] for i in chosen], [sites[i] for i in chosen], rng),
        copies,
    )


def _plant(ask: Ask, motif: Motif, neutral: Sequence[str], copies: int, rng: np.random.Generator) -> Effect:
    before, planted, control = [], [], []
    for text in neutral:
        places = _free_places(len(text), [len(motif)] * copies, [], rng)
        if places is None:
            continue
        shuffled = "".join(rng.permutation(list(motif.consensus)))
        before.append(text)
        planted.append(_write(text, [(place, motif.consensus) for place in places]))
        control.append(_write(text, [(place, shuffled) for place in places]))
    return paired_effect(ask(before), ask(planted), ask(control), [""] * len(before), 1, rng)


def _ablate(
    ask: Ask, reads: Sequence[ClassRead], sites: Sequence[Sequence[Site]], rng: np.random.Generator
) -> Effect:
    kept, changed, control = [], [], []
    for read, own in zip(reads, sites, strict=True):
        taken = [(site.start, site.stop) for site in own]
        sizes = [stop - start for start, stop in taken]
        places = _free_places(len(read.sequence), sizes, taken, rng)
        if places is None:
            continue
        kept.append(read)
        changed.append(_redraw(read.sequence, [start for start, _ in taken], sizes, rng))
        control.append(_redraw(read.sequence, places, sizes, rng))
    before = ask([read.sequence for read in kept])
    groups = [read.group or f"\0{number}" for number, read in enumerate(kept)]
    return paired_effect(before, ask(changed), ask(control), groups, -1, rng)


def _free_places(
    length: int, sizes: Sequence[int], taken: Sequence[tuple[int, int]], rng: np.random.Generator
) -> list[int] | None:
    """Random starts of pieces that overlap neither each other nor what is taken; None if there is no room."""
    spans = list(taken)
    starts = []
    for size in sizes:
        for _ in range(_TRIES):
            start = int(rng.integers(max(length - size + 1, 1)))
            if start + size <= length and all(start + size <= a or start >= b for a, b in spans):
                break
        else:
            return None
        spans.append((start, start + size))
        starts.append(start)
    return starts


def _write(text: str, pieces: Sequence[tuple[int, str]]) -> str:
    for start, piece in pieces:
        text = text[:start] + piece + text[start + len(piece) :]
    return text


def _redraw(text: str, starts: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> str:
    """With the letters of some pieces drawn from the composition of the whole text."""
    counts = np.array([text.count(letter) for letter in LETTERS], dtype=np.float64) + 1e-9
    drawn = [
        (start, "".join(rng.choice(list(LETTERS), size=size, p=counts / counts.sum())))
        for start, size in zip(starts, sizes, strict=True)
    ]
    return _write(text, drawn)


def paired_effect(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    control: NDArray[np.float64],
    groups: Sequence[str],
    sign: int,
    rng: np.random.Generator,
) -> Effect:
    """The effect from log-odds (N,) of the same reads in three states.

    ``groups``: of reads that are not independent; '' is its own.  ``sign``: 1 if a rise is expected, -1 if a
    fall is.
    """
    n = len(before)
    if n == 0:
        nan = math.nan
        return Effect(0, nan, nan, nan, nan, nan, nan, nan)
    difference = after - control
    number = number_groups([group or f"\0{i}" for i, group in enumerate(groups)])
    weights = draw_weights(n, number, seed=int(rng.integers(2**31)))
    low, high = interval(weighted_mean(difference, weights))
    sums = np.bincount(number, weights=difference)
    signs = rng.integers(0, 2, size=(_DRAWS, len(sums)), dtype=np.int8) * 2 - 1
    as_large = int((sign * (signs @ sums) >= sign * sums.sum() - 1e-9).sum())
    shares = [float((1 / (1 + np.exp(-values))).mean()) for values in (before, after, control)]
    p = (1 + as_large) / (1 + _DRAWS)
    return Effect(n, shares[0], shares[1], shares[2], float(difference.mean()), low, high, p)
