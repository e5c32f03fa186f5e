"""The paper's Table 1: is what the mask keeps enough, and is what it hides needed?

Seven conditions by rank, each scored by balanced accuracy against the true labels.  The masks are those
of the **predicted** classes, because a deployed Explainer knows no others.  With a planted truth, also
how well the mask finds the planted bases, and whether decoys fool it.

Beside the paper's conditions there can be *controls*, masks that know nothing of what they mask
(:mod:`wyrcli.controls`), and the *oracle*, masks of the true classes, which the paper's own table shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.controls import CONTROLS
from wyrcli.errors import InputError
from wyrcli.examination import EvaluatedWindows, Examined, Floats, Subject, examine
from wyrcli.explanation import find_runs
from wyrcli.metrics import average_precision, balanced_accuracy, interval, weighted_balanced_accuracy
from wyrcli.model.explainer import Explainer

__all__ = [
    "CONDITIONS",
    "ORACLE",
    "PUBLISHED",
    "Evaluation",
    "Localisation",
    "Truth",
    "classify_chunks",
    "count_passes",
    "covered",
    "cut_chunks",
    "evaluate",
    "locate",
    "read_truth",
]

CONDITIONS = (
    "unmasked",
    "masks",
    "inverted masks",
    "rounded masks",
    "inverted rounded masks",
    "relevant chunks",
    "not-relevant chunks",
)
"""The rows of Table 1, in the paper's order."""

ORACLE = ("oracle masks", "oracle rounded masks", "oracle inverted rounded masks")
"""The same with the masks of the true classes."""

PUBLISHED = {
    "unmasked": (0.9905, 0.9739, 0.7167),
    "masks": (0.9839, 0.9551, 0.6988),
    "inverted masks": (0.4670, 0.2821, 0.0571),
    "rounded masks": (0.7642, 0.5260, 0.4086),
    "inverted rounded masks": (0.4485, 0.2620, 0.0492),
    "relevant chunks": (0.6998, 0.4992, 0.3632),
    "not-relevant chunks": (0.4713, 0.3168, 0.0958),
}
"""The paper's Table 1: superkingdom, phylum, genus; masks of the true classes, operator ``scale``."""


_WINDOWS_AT_ONCE = 512  # whose chunks are classified together: bounds the memory of their answers


@dataclass
class Truth:
    """Planted intervals by read name, 0-based half-open bp on the record: (N, 2) arrays."""

    planted: dict[str, NDArray[np.int64]]
    decoys: dict[str, NDArray[np.int64]] = field(default_factory=dict)


class Localisation(NamedTuple):
    """How the mask agrees with the planted truth, over all valid tokens of all reads.

    A token counts as planted (or decoy) when at least half of its bases are.  ``prevalence`` is what a
    random score's ``auprc`` would be.  ``*_called`` are shares of tokens whose mask is above 0.5.
    """

    auprc: float
    prevalence: float
    planted_called: float
    decoys_called: float
    background_called: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one Explainer with one operator makes of N windows.

    ``predicted[condition]``: (N, R), the class of each rank;  ``kept[condition]``: (N,), the mean mask value
    (share of valid tokens) that the condition leaves.
    """

    explainer: str
    operator: str
    examined: Examined
    predicted: dict[str, NDArray[np.int64]]
    kept: dict[str, NDArray[np.float64]]
    localisation: Localisation | None = None

    @property
    def n_windows(self) -> int:
        """N."""
        return len(self.examined)

    @cached_property
    def accuracy(self) -> dict[str, list[float]]:
        """Balanced accuracy per rank of each condition."""
        labels = self.examined.labels
        return {
            name: [balanced_accuracy(labels[:, r], found[:, r]) for r in range(labels.shape[1])]
            for name, found in self.predicted.items()
        }

    @cached_property
    def tokens_kept(self) -> dict[str, float]:
        """Mean over windows of what each condition leaves."""
        return {name: float(shares.mean()) for name, shares in self.kept.items()}

    def intervals(self, weights: NDArray[np.float32]) -> dict[str, list[tuple[float, float]]]:
        """95 % intervals of :attr:`accuracy`; ``weights`` (draws, N), see ``metrics.draw_weights``."""
        labels = self.examined.labels
        return {
            name: [
                interval(weighted_balanced_accuracy(labels[:, r], found[:, r], weights))
                for r in range(labels.shape[1])
            ]
            for name, found in self.predicted.items()
        }


def count_passes(*, controls: bool, oracle: bool) -> int:
    """How often :func:`evaluate` asks of each window: what ``on_batch`` adds up to, per window."""
    return len(CONDITIONS) + len(CONTROLS) * controls + (1 + len(ORACLE)) * oracle


def evaluate(
    subject: Subject,
    explainer: Explainer,
    operator: str,
    windows: EvaluatedWindows,
    *,
    truth: Truth | None = None,
    controls: bool = False,
    oracle: bool = False,
    explainer_name: str = "",
    on_batch: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Score the seven conditions (paper, section 3.4), and the localisation where there is a truth.

    The paper leaves open, and here is decided: a mask value of exactly one half rounds to 0; chunks are cut
    out as sequences of their own, classified one by one, and their probabilities averaged per rank; a
    window without any such chunk gets the classifier's answer to nothing at all (its bias).

    Controls keep as many tokens as the rounded masks; they are conditions called "control: NAME".
    """
    if len(windows) == 0:
        raise InputError("there is no window to evaluate")
    examined = examine(subject, explainer, windows, on_batch=on_batch, with_answers=False)
    sequences = examined.sequences
    conditions: dict[str, list[Floats]] = {
        "masks": examined.masks,
        "inverted masks": _invert(examined.masks),
        "rounded masks": examined.rounded,
        "inverted rounded masks": _invert(examined.rounded),
    }
    if oracle:
        labels = examined.labels
        true = examine(subject, explainer, windows, labels, on_batch=on_batch, with_answers=False)
        masks = (true.masks, true.rounded, _invert(true.rounded))
        conditions |= dict(zip(ORACLE, masks, strict=True))
    if controls:
        conditions |= {
            f"control: {name}": control(examined.masks, examined.predicted, subject.seed)
            for name, control in CONTROLS.items()
        }
    predicted = {"unmasked": examined.predicted}
    kept = {"unmasked": np.ones(len(examined))}
    for name, masks_of_windows in conditions.items():
        predicted[name] = subject.predict(sequences, masks_of_windows, operator, on_batch)
        kept[name] = np.array([mask.mean() if len(mask) else 0.0 for mask in masks_of_windows])
    for name, wanted in (("relevant chunks", True), ("not-relevant chunks", False)):
        pieces = [
            cut_chunks(sequence, mask > 0, spans, wanted)
            for sequence, mask, spans in zip(sequences, examined.rounded, examined.spans, strict=True)
        ]
        predicted[name] = classify_chunks(subject, pieces)
        kept[name] = kept["rounded masks" if wanted else "inverted rounded masks"]
        on_batch(len(examined))
    order = sorted(predicted, key=lambda name: CONDITIONS.index(name) if name in CONDITIONS else 99)
    return Evaluation(
        explainer_name,
        operator,
        examined,
        {name: predicted[name] for name in order},
        {name: kept[name] for name in order},
        None if truth is None else _localise(examined, truth),
    )


def _invert(masks: Sequence[Floats]) -> list[Floats]:
    return [1 - mask for mask in masks]


def cut_chunks(
    sequence: str, relevant: NDArray[np.bool_], spans: NDArray[np.int64], wanted: bool
) -> list[str]:
    """The relevant (or the other) chunks of a window as sequences; ``spans`` are on the window."""
    return [
        sequence[spans[first, 0] : spans[end - 1, 1]]
        for first, end in find_runs(relevant)
        # A token of a text may cover no character.
        if relevant[first] == wanted and spans[first, 0] < spans[end - 1, 1]
    ]


def classify_chunks(subject: Subject, pieces: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Class per rank (N, R) from the mean of the probabilities of each window's pieces."""
    found = np.empty((len(pieces), len(subject.explanandum.sizes)), dtype=np.int64)
    for first in range(0, len(pieces), _WINDOWS_AT_ONCE):
        few = pieces[first : first + _WINDOWS_AT_ONCE]
        owners = np.array([i for i, own in enumerate(few) for _ in own], dtype=np.int64)
        answers = subject.log_probabilities([piece for own in few for piece in own])
        sums = np.zeros((len(few), answers.shape[1]), dtype=np.float32)
        np.add.at(sums, owners, np.exp(answers))
        nothing = np.array([not own for own in few], dtype=np.bool_)
        sums[nothing] = subject.explanandum.bias().cpu().numpy()
        found[first : first + len(few)] = subject.best(sums)
    return found


# ---------------------------------------------------------------- planted truth


def locate(examined: Examined, truth: Truth) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """Of each window (T_i,): which tokens are planted, and which are decoys."""
    planted, decoys = [], []
    for i, spans in enumerate(examined.spans):
        name, own = examined.windows.names[i], examined.windows.starts[i] + spans
        planted.append(covered(own, truth.planted.get(name)))
        decoys.append(covered(own, truth.decoys.get(name)))
    return planted, decoys


def _localise(examined: Examined, truth: Truth) -> Localisation:
    planted, decoy = map(np.concatenate, locate(examined, truth))
    scores = np.concatenate(examined.masks).astype(np.float64)
    called = scores > 0.5

    def share(of: NDArray[np.bool_]) -> float:
        return float(called[of].mean()) if of.any() else float("nan")

    return Localisation(
        average_precision(planted, scores),
        float(planted.mean()),
        share(planted),
        share(decoy & ~planted),
        share(~planted & ~decoy),
    )


def covered(spans: NDArray[np.int64], intervals: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Which tokens have at least half of their bases inside any of the intervals; both on the record.

    >>> covered(np.array([[0, 6], [6, 12]]), np.array([[3, 8]]))
    array([ True, False])
    """
    if intervals is None or len(spans) == 0:
        return np.zeros(len(spans), dtype=np.bool_)
    origin = int(spans[0, 0])
    inside = np.zeros(int(spans[:, 1].max()) - origin + 1, dtype=np.int64)
    for start, stop in intervals:
        start, stop = max(int(start) - origin, 0), min(int(stop) - origin, len(inside) - 1)
        if start < stop:
            inside[start:stop] = 1
    total = np.concatenate([[0], np.cumsum(inside)])
    bases = total[spans[:, 1] - origin] - total[spans[:, 0] - origin]
    sizes = spans[:, 1] - spans[:, 0]
    return np.asarray((2 * bases >= sizes) & (sizes > 0))


def read_truth(planted: Path, decoys: Path | None = None) -> Truth:
    """BED files of planted and decoy intervals, as ``wyr simulate`` writes them."""
    return Truth(_read_intervals(planted), {} if decoys is None else _read_intervals(decoys))


def _read_intervals(path: Path) -> dict[str, NDArray[np.int64]]:
    intervals: dict[str, list[tuple[int, int]]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.rstrip("\n").split("\t")
            try:
                start, stop = int(fields[1]), int(fields[2])
            except (IndexError, ValueError):
                raise InputError(
                    "expected BED: chrom, start, end, separated by tabs", path=str(path), line=number
                ) from None
            intervals.setdefault(fields[0], []).append((start, stop))
    return {name: np.array(pairs, dtype=np.int64) for name, pairs in intervals.items()}
