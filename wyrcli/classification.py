"""How good is the classifier itself?  Its answers on reads of taxa that it knows, and of others.

Everything here is about the Explanandum alone; no Explainer takes part.  A label of -1 stands for a taxon
that the classifier has no class for: at that rank no answer could be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.calibration import (
    Fit,
    Threshold,
    choose_thresholds,
    fit_temperature,
    give_answers,
    negative_log_likelihood,
)
from wyrcli.dataset import LabelledWindows
from wyrcli.degradation import ErrorMix, add_errors, cut_piece, find_neighbours
from wyrcli.errors import InputError
from wyrcli.examination import Floats, Subject
from wyrcli.metrics import (
    balanced_accuracy,
    draw_weights,
    interval,
    number_groups,
    weighted_balanced_accuracy,
    weighted_mean,
)

__all__ = [
    "Answers",
    "Assessment",
    "Calibration",
    "Condition",
    "Degradation",
    "Score",
    "ask",
    "assess",
    "calibrate",
    "confusion",
    "score",
]

_AT_ONCE = 512  # windows whose answers over all classes are held together

_MIX = ErrorMix(0.4, 0.3, 0.3)

OnBatch = Callable[[int], None]
Read = Callable[[int], Sequence[str]]
"""The windows of the read of a number."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What the classifier says of N reads, at R ranks.

    Parameters
    ----------
    labels: int64 (N, R), the true class within each rank; -1 = the classifier has none for it.
    predicted: int64 (N, R), the most probable class.
    raw, confidence: float32 (N, R), its probability as the network gives it, and after the temperature.
    raw_loss, loss: float64 (N, R), minus the log-probability of the true class, likewise; NaN without one.
    groups: int64 (N,), number of the genome (or record) of each.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    raw: Floats
    confidence: Floats
    raw_loss: NDArray[np.float64]
    loss: NDArray[np.float64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N, R), whether there is a class that would be right."""
        return self.labels >= 0

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N, R), whether the most probable class is the true one."""
        return np.asarray(self.labels == self.predicted)

    def select(self, rows: NDArray[Any]) -> Answers:
        """Those of some reads."""
        return Answers(
            self.labels[rows],
            self.predicted[rows],
            self.raw[rows],
            self.confidence[rows],
            self.raw_loss[rows],
            self.loss[rows],
            self.groups[rows],
        )


def ask(
    subject: Subject,
    read: Read,
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.int64],
    temperatures: Sequence[float],
    on_batch: OnBatch = lambda done: None,
) -> Answers:
    """Classify as many reads as there are ``labels``, (N, R).

    ``read``: the windows of the read of that number; the log-probabilities of several are averaged.
    """
    true = np.asarray(labels, dtype=np.int64)
    parts = [
        _reduce(subject, own, true[first : first + len(own)], temperatures)
        for first, own in _ask_in_parts(subject, read, len(true), on_batch)
    ]
    if not parts:
        nothing = np.zeros((0, sum(subject.explanandum.sizes)), dtype=np.float32)
        parts = [_reduce(subject, nothing, true, temperatures)]
    predicted, raw, confidence, raw_loss, loss = (np.concatenate(own) for own in zip(*parts, strict=True))
    return Answers(true, predicted, raw, confidence, raw_loss, loss, groups)


def _ask_in_parts(subject: Subject, read: Read, n: int, on_batch: OnBatch) -> Iterator[tuple[int, Floats]]:
    """Number of the first of some reads, and log-probabilities (n, C) of these reads."""
    first = 0
    windows: list[str] = []
    counts: list[int] = []
    for i in range(n):
        own = read(i)
        windows += own
        counts.append(len(own))
        if len(windows) >= _AT_ONCE or i == n - 1:
            answers = subject.log_probabilities(windows, on_batch=on_batch)
            if len(windows) > len(counts):
                sums = np.add.reduceat(answers, np.cumsum([0, *counts[:-1]]), axis=0)
                answers = (sums / np.array(counts)[:, None]).astype(np.float32)
            yield first, answers
            first, windows, counts = i + 1, [], []


def _reduce(
    subject: Subject, answers: Floats, labels: NDArray[np.int64], temperatures: Sequence[float]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """predicted, raw, confidence, raw_loss, loss: (n, R) each, from log-probabilities (n, C)."""
    shape = labels.shape
    predicted = np.empty(shape, dtype=np.int64)
    sure = np.empty((2, *shape), dtype=np.float32)
    losses = np.empty((2, *shape))
    for r, own in enumerate(_split(subject, answers)):
        predicted[:, r] = own.argmax(1)
        known = labels[:, r] >= 0
        for i, temperature in enumerate((1.0, temperatures[r])):
            sure[i, :, r] = np.exp(-negative_log_likelihood(own, predicted[:, r], temperature))
            loss = negative_log_likelihood(own, np.where(known, labels[:, r], 0), temperature)
            losses[i, :, r] = np.where(known, loss, np.nan)
    return predicted, sure[0], sure[1], losses[0], losses[1]


def _split(subject: Subject, answers: Floats) -> list[Floats]:
    """(N, C) to one (N, C_r) per rank."""
    return np.split(answers, np.cumsum(subject.explanandum.sizes)[:-1], axis=1)


# ---------------------------------------------------------------- scores


class Score(NamedTuple):
    """How often answers at one rank are right, with 95 % intervals over genomes.

    ``windows``, ``groups``, ``classes``: what was scored; ``unknown``: windows of taxa without a class,
    which were not.  Scores are NaN where there is no window.
    """

    balanced: float
    low: float
    high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    windows: int
    groups: int
    classes: int
    unknown: int


def score(answers: Answers, seed: int = 0, draws: int = 1000) -> list[Score]:
    """Per rank, balanced accuracy (mean over the classes that the truth has) and accuracy."""
    found = []
    for r in range(answers.labels.shape[1]):
        rows = np.flatnonzero(answers.known[:, r])
        truth, predicted = answers.labels[rows, r], answers.predicted[rows, r]
        groups = answers.groups[rows]
        if len(rows):
            weights = draw_weights(len(rows), groups, draws, seed)
            balanced = balanced_accuracy(truth, predicted)
            between = interval(weighted_balanced_accuracy(truth, predicted, weights))
            right = (truth == predicted).astype(np.float64)
            accuracy, around = float(right.mean()), interval(weighted_mean(right, weights))
        else:
            balanced = accuracy = math.nan
            between = around = (math.nan, math.nan)
        found.append(
            Score(
                balanced,
                *between,
                accuracy,
                *around,
                len(rows),
                len(np.unique(groups)),
                len(np.unique(truth)),
                len(answers) - len(rows),
            )
        )
    return found


def confusion(answers: Answers, rank: int, size: int) -> NDArray[np.int64]:
    """How many windows of each true class (row) are called what (column), int64 (size, size)."""
    rows = answers.known[:, rank]
    pairs = answers.labels[rows, rank] * size + answers.predicted[rows, rank]
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Calibration:
    """Per rank, the temperature and from which probability on to answer.

    ``source``: where they come from, in words;  ``fits``, ``chosen``: of the temperatures, and how the
    thresholds did where they were chosen; empty if that was not now.  ``windows``, ``groups``: what they
    rest on.
    """

    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    source: str
    fits: tuple[Fit, ...] = ()
    chosen: tuple[Threshold, ...] = ()
    windows: int = 0
    groups: int = 0


def calibrate(
    subject: Subject,
    windows: LabelledWindows,
    target: float,
    on_batch: OnBatch = lambda done: None,
) -> tuple[Calibration, Answers]:
    """Temperatures and thresholds from validation windows, and the answers to these.

    Thresholds are those of :func:`wyrcli.calibration.choose_thresholds` for a precision of ``target``.
    Raises InputError without windows of known taxa.
    """
    labels = np.asarray(windows.labels, dtype=np.int64)
    if not (labels >= 0).any():
        raise InputError("the validation split has no window of a taxon that the model knows")
    parts = _ask_in_parts(subject, _one_by_one(windows), len(windows), on_batch)
    answers = np.concatenate([own for _, own in parts])
    fits = []
    groups = number_groups(windows.groups)
    for r, own in enumerate(_split(subject, answers)):
        known = labels[:, r] >= 0
        weights = draw_weights(int(known.sum()), groups[known], seed=subject.seed)
        fits.append(fit_temperature(own[known], labels[known, r], weights))
    temperatures = tuple(fit.used for fit in fits)
    found = Answers(labels, *_reduce(subject, answers, labels, temperatures), groups)
    chosen = choose_thresholds(found.confidence, found.right, found.known, target)
    calibration = Calibration(
        temperatures,
        tuple(own.value for own in chosen),
        "from the validation split",
        tuple(fits),
        tuple(chosen),
        len(labels),
        len(np.unique(groups)),
    )
    return calibration, found


def _one_by_one(windows: LabelledWindows) -> Read:
    return lambda i: (windows.sequences[i],)


# ---------------------------------------------------------------- assessment


@dataclass(frozen=True)
class Degradation:
    """What is done to reads.

    ``lengths``: in letters; those above the model's window are rounded to whole windows.  ``rates``: of
    sequencing errors.  ``mix``: of what kinds they are.
    """

    lengths: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    mix: ErrorMix = _MIX


_NO_CHANGE = Degradation()


class Condition(NamedTuple):
    """Answers to reads of one length or error rate; ``name`` is for people, ``value`` the number."""

    name: str
    value: float
    answers: Answers


@dataclass(frozen=True, eq=False)
class Assessment:
    """All that is known of a classifier.

    ``tested``: answers to the windows that it is judged by;  ``others``: to datasets whose taxa it need not
    know, by name;  ``lengths``, ``errors``: to shortened, longer and erroneous reads;  ``validation``: to
    the windows that calibration rests on;  ``degradation``: what was done to reads;  ``name``:
    of the windows that it is judged by.
    """

    calibration: Calibration
    tested: Answers
    others: Mapping[str, Answers] = field(default_factory=dict)
    lengths: Sequence[Condition] = ()
    errors: Sequence[Condition] = ()
    validation: Answers | None = None
    degradation: Degradation = _NO_CHANGE
    name: str = "test"

    def answered(self, answers: Answers) -> NDArray[np.bool_]:
        """(N, R), whether the classifier is sure enough to name a taxon."""
        return give_answers(answers.confidence, self.calibration.thresholds)


def assess(
    subject: Subject,
    windows: LabelledWindows,
    calibration: Calibration,
    *,
    whole: LabelledWindows | None = None,
    others: Mapping[str, LabelledWindows] | None = None,
    degradation: Degradation = Degradation(),
    window_bp: int = 0,
    validation: Answers | None = None,
    unit: str = "bp",
    name: str = "test",
    on_batch: OnBatch = lambda done: None,
) -> Assessment:
    """Ask the classifier everything.

    Parameters
    ----------
    windows: what it is judged by; labels of -1 are taxa that it does not know.
    whole: the split that they were drawn from, where the windows beside them are looked for.
    window_bp: the model's window; 0 for the longest of ``windows``.
    """
    if len(windows) == 0:
        raise InputError("there is no window to evaluate")
    temperatures = calibration.temperatures

    def put(read: Read, own: LabelledWindows, rows: NDArray[np.int64]) -> Answers:
        groups = number_groups(own.groups)
        return ask(subject, read, own.labels[rows], groups[rows], temperatures, on_batch)

    every = np.arange(len(windows))
    tested = put(_one_by_one(windows), windows, every)
    found = {
        name: put(_one_by_one(own), own, np.arange(len(own)))
        for name, own in (others or {}).items()
        if len(own)
    }
    window_bp = window_bp or max(len(windows.sequences[i]) for i in range(len(windows)))
    lengths = [
        Condition(name, length, tested.select(rows) if read is None else put(read, windows, rows))
        for name, length, rows, read in _change_lengths(
            windows, whole or windows, degradation.lengths, window_bp, unit, subject.seed
        )
    ]
    errors = []
    for rate in degradation.rates:

        def err(i: int, rate: float = rate) -> Sequence[str]:
            return (add_errors(windows.sequences[i], rate, degradation.mix, (subject.seed, i)),)

        errors.append(Condition(f"{100 * rate:g} %", rate, put(err, windows, every) if rate else tested))
    return Assessment(calibration, tested, found, lengths, errors, validation, degradation, name)


def _change_lengths(
    windows: LabelledWindows,
    whole: LabelledWindows,
    lengths: Sequence[int],
    window_bp: int,
    unit: str,
    seed: int,
) -> Iterator[tuple[str, int, NDArray[np.int64], Read | None]]:
    """Name, length, numbers of windows, and reads made from them; None for the windows as they are.

    All lengths up to a window are cut from the same windows, which are as long as the greatest of them.
    Longer reads go on through the windows beside them, and are preceded by the first window of each alone.
    """
    sizes = np.array([len(windows.sequences[i]) for i in range(len(windows))], dtype=np.int64)
    short = sorted({n for n in lengths if n <= window_bp})
    for length in short:
        rows = np.flatnonzero(sizes >= short[-1])

        def cut(i: int, length: int = length, rows: NDArray[np.int64] = rows) -> Sequence[str]:
            return (cut_piece(windows.sequences[rows[i]], length, (seed, int(rows[i]))),)

        if len(rows):
            yield f"{length:,} {unit}", length, rows, None if (sizes[rows] == length).all() else cut
    numbers = sorted({max(round(n / window_bp), 2) for n in lengths if n > window_bp})
    runs = find_neighbours(whole, windows, numbers[-1] - 1) if numbers else []
    for number in numbers:
        following = [[j for j in run[: number - 1] if len(whole.sequences[j]) == window_bp] for run in runs]
        rows = np.flatnonzero(
            [size == window_bp and len(run) == number - 1 for size, run in zip(sizes, following, strict=True)]
        )
        if len(rows) == 0:
            continue

        def join(
            i: int, rows: NDArray[np.int64] = rows, following: list[list[int]] = following
        ) -> Sequence[str]:
            return [windows.sequences[rows[i]], *(whole.sequences[j] for j in following[rows[i]])]

        yield f"{window_bp:,} {unit}, of the next", window_bp, rows, None
        yield f"{number * window_bp:,} {unit} ({number} windows)", number * window_bp, rows, join
