"""Are the tokens that a method calls important those that the classifier needs?

Any method is judged by its scores alone: float arrays (T_i,), one per window, higher = more important.  Its
top tokens are kept or dropped by one removal of :mod:`wyrcli.examination`, and the classifier is asked again.
All probabilities are those of one class per rank (the predicted ones) and are averaged over the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.examination import Floats, Subject
from wyrcli.metrics import area_under_roc, average_precision, intersection_over_union

__all__ = [
    "FRACTIONS",
    "SHARES",
    "Faithfulness",
    "Localised",
    "Scores",
    "localise",
    "lower_is_better",
    "measure",
    "top_tokens",
]

Scores = Sequence[NDArray[np.floating[Any]]]
"""Of each window (T_i,), higher = more important."""

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of tokens of comprehensiveness and sufficiency, as in ERASER (DeYoung et al. 2020)."""

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Shares of tokens at which the deletion and insertion curves are taken."""

_LOG_ODDS_SHARE = 0.2
_SMALLEST_AREA = 0.05
_WINDOWS_AT_A_TIME = 64  # bounds what the masks and the answers to them need in memory
_LOWER = frozenset({"sufficiency", "log_odds", "deletion_area", "saliency", "dropped_agreement"})


def lower_is_better(name: str) -> bool:
    """Of a measure of :meth:`Faithfulness.by_window`."""
    return name.partition("_at_")[0] in _LOWER


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What :func:`measure` found, window by window, so that methods can be compared in pairs.

    p is the mean over ranks of the probability of ``classes``.

    Parameters
    ----------
    classes: (N, R).
    shares: S shares of tokens, those of the next two.
    comprehensiveness: (N, S), p before minus p after the top tokens are dropped; higher is better.
    sufficiency: (N, S), p before minus p with the top tokens alone; lower is better.  Both are of DeYoung et
        al. 2020.
    log_odds: (N,), mean over ranks of log p after minus before the top 20 % are dropped; lower is better
        (Shrikumar et al. 2017).
    fractions: F shares of tokens, those of the next two.
    deletion: (N, F), p while the top tokens are dropped (Petsiuk et al. 2018).
    insertion: (N, F), p while the top tokens are put back into nothing.
    saliency: (N,), log max(area, 0.05) minus the mean over ranks of log p with the top tokens of the own area
        alone; lower is better (Dabkowski and Gal 2017).
    kept_predicted, dropped_predicted: (N, R), the answer to the top tokens of the own area alone, and to
        all others.
    """

    classes: NDArray[np.int64]
    shares: tuple[float, ...]
    comprehensiveness: NDArray[np.float64]
    sufficiency: NDArray[np.float64]
    log_odds: NDArray[np.float64]
    fractions: tuple[float, ...]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]
    saliency: NDArray[np.float64]
    kept_predicted: NDArray[np.int64]
    dropped_predicted: NDArray[np.int64]

    def by_window(self) -> dict[str, NDArray[np.float64]]:
        """Every measure as one number per window, (N,); the first two are AOPC, means over the shares.

        The areas under the curves are trapezoids over the fraction; agreement is the share of ranks whose
        answer is still that of ``classes``.
        """
        found = {
            "comprehensiveness": self.comprehensiveness.mean(1),
            "sufficiency": self.sufficiency.mean(1),
        }
        for i, share in enumerate(self.shares):
            found[f"comprehensiveness_at_{100 * share:g}"] = self.comprehensiveness[:, i]
            found[f"sufficiency_at_{100 * share:g}"] = self.sufficiency[:, i]
        return found | {
            "log_odds": self.log_odds,
            "deletion_area": np.trapezoid(self.deletion, self.fractions, axis=1),
            "insertion_area": np.trapezoid(self.insertion, self.fractions, axis=1),
            "saliency": self.saliency,
            "kept_agreement": (self.kept_predicted == self.classes).mean(1),
            "dropped_agreement": (self.dropped_predicted == self.classes).mean(1),
        }

    def means(self) -> dict[str, float]:
        """The same, averaged over the windows."""
        return {name: float(values.mean()) for name, values in self.by_window().items()}


def measure(
    subject: Subject,
    sequences: Sequence[str],
    classes: NDArray[np.int64],
    log_probabilities: Floats,
    scores: Scores,
    n_kept: NDArray[np.int64],
    removal: str = "gate",
    *,
    shares: tuple[float, ...] = SHARES,
    fractions: tuple[float, ...] = FRACTIONS,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Faithfulness:
    """Drop and keep the top tokens of N windows, at least one, and see what the classifier says.

    A share of tokens is rounded up; ties are broken at random, whatever their position.  With the defaults
    the classifier is asked at most 19 times per window, and never twice for the same tokens.

    Parameters
    ----------
    classes: (N, R), the class of each rank whose probability counts.
    log_probabilities: (N, C), of the windows as they are.
    n_kept: (N,), tokens of each window's own area, at which all methods are compared.
    seed: of the ties.
    on_batch: called with the number of windows done.

    Raises ValueError for an unknown removal, or scores that are not one per valid token.
    """
    n_tokens = np.array([len(score) for score in scores], dtype=np.int64)
    wanted = (*fractions, *shares, _LOG_ODDS_SHARE)
    counts = np.stack([*(_count(share, n_tokens) for share in wanted), n_kept], axis=1)
    orders = _orders(scores, seed)
    parts = []
    for first in range(0, len(scores), _WINDOWS_AT_A_TIME):
        rows = slice(first, first + _WINDOWS_AT_A_TIME)
        parts.append(
            _ask(
                subject,
                sequences[rows],
                classes[rows],
                log_probabilities[rows],
                orders[rows],
                counts[rows],
                removal,
            )
        )
        on_batch(len(orders[rows]))
    log = np.concatenate([part.log_probabilities for part in parts], axis=1)
    predicted = np.concatenate([part.predicted for part in parts], axis=1)
    log_before = subject.of_classes(log_probabilities, classes).astype(np.float64)
    before = np.exp(log_before).mean(-1)[:, None]
    kept, dropped = np.exp(log).mean(-1)
    curve, at_shares, log_odds, own = slice(len(fractions)), slice(len(fractions), -2), -2, -1
    area = n_kept / np.maximum(n_tokens, 1)
    return Faithfulness(
        classes,
        shares,
        before - dropped[:, at_shares],
        before - kept[:, at_shares],
        (log[1, :, log_odds] - log_before).mean(-1),
        fractions,
        dropped[:, curve],
        kept[:, curve],
        np.log(np.maximum(area, _SMALLEST_AREA)) - log[0, :, own].mean(-1),
        *predicted,
    )


class _Answers(NamedTuple):
    """To the top tokens of n windows alone (first) and to all others (second), for K counts of tokens.

    ``log_probabilities`` (2, n, K, R) of the classes asked for; ``predicted`` (2, n, R) at the last count.
    """

    log_probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64]


def _ask(
    subject: Subject,
    sequences: Sequence[str],
    classes: NDArray[np.int64],
    log_probabilities: Floats,
    orders: list[NDArray[np.int64]],
    counts: NDArray[np.int64],
    removal: str,
) -> _Answers:
    masks: list[Floats] = []
    owners = list(range(len(orders)))  # of each answer; the first are those to the whole windows
    places = np.empty((2, *counts.shape), dtype=np.int64)  # which answer it is
    for i, (order, own) in enumerate(zip(orders, counts.tolist(), strict=True)):
        known = {np.ones(len(order), dtype=np.float32).tobytes(): i}
        for column, count in enumerate(own):
            top = _top(order, count)
            for side, mask in enumerate((top, 1 - top)):
                place = known.setdefault(mask.tobytes(), len(owners))
                if place == len(owners):
                    masks.append(mask)
                    owners.append(i)
                places[side, i, column] = place
    changed = [sequences[i] for i in owners[len(orders) :]]
    answers = np.concatenate([log_probabilities, subject.log_probabilities(changed, masks, removal)])
    of_classes = subject.of_classes(answers, classes[owners]).astype(np.float64)
    return _Answers(of_classes[places], subject.best(answers)[places[:, :, -1]])


def top_tokens(scores: Scores, counts: NDArray[np.int64], seed: int = 0) -> list[Floats]:
    """Masks that keep the ``counts`` (N,) highest tokens of each window; ties broken at random.

    >>> top_tokens([np.array([0.1, 0.7, 0.2])], np.array([2]))
    [array([0., 1., 1.], dtype=float32)]
    """
    return [_top(order, count) for order, count in zip(_orders(scores, seed), counts.tolist(), strict=True)]


def _orders(scores: Scores, seed: int) -> list[NDArray[np.int64]]:
    """Tokens of each window, the most important first."""
    ties = (np.random.default_rng([seed, i]).permutation(len(score)) for i, score in enumerate(scores))
    return [np.lexsort((tie, -score)) for tie, score in zip(ties, scores, strict=True)]


def _top(order: NDArray[np.int64], count: int) -> Floats:
    mask = np.zeros(len(order), dtype=np.float32)
    mask[order[:count]] = 1
    return mask


def _count(share: float, n_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    # 0.07 * 100 is a little more than 7.
    counts: NDArray[np.int64] = np.ceil(share * n_tokens - 1e-9).astype(np.int64)
    return counts


# ---------------------------------------------------------------- planted truth


@dataclass(frozen=True, eq=False)
class Localised:
    """How the scores of N windows agree with planted tokens; NaN where a window has nothing to say.

    Parameters
    ----------
    auprc, auroc: over the tokens of all windows together; ``prevalence`` is a random score's ``auprc``.
    window_auprc, window_auroc: (N,), of each window by itself, which asks for no common scale of the scores.
    overlap: (N,), intersection over union of the planted tokens and the top tokens at the own area.
    precision: (N,), share of those top tokens that are planted.
    decoys: (N,), share of them that are decoys, and not planted.
    """

    auprc: float
    auroc: float
    prevalence: float
    window_auprc: NDArray[np.float64]
    window_auroc: NDArray[np.float64]
    overlap: NDArray[np.float64]
    precision: NDArray[np.float64]
    decoys: NDArray[np.float64]


def localise(
    scores: Scores,
    planted: Sequence[NDArray[np.bool_]],
    decoys: Sequence[NDArray[np.bool_]],
    n_kept: NDArray[np.int64],
    seed: int = 0,
) -> Localised:
    """Compare the scores of N windows, at least one, with a planted truth.

    Parameters
    ----------
    planted, decoys: of each window (T_i,), which tokens they cover (:func:`wyrcli.evaluation.covered`).
    n_kept: (N,), tokens of each window's own area.
    seed: of the ties.
    """
    rows = []
    for score, true, decoy, top in zip(
        scores, planted, decoys, top_tokens(scores, n_kept, seed), strict=True
    ):
        called = top > 0
        rows.append(
            (
                average_precision(true, score),
                area_under_roc(true, score),
                intersection_over_union(true, called),
                _share(true, called),
                _share(decoy & ~true, called),
            )
        )
    all_scores, all_planted = np.concatenate(scores), np.concatenate(planted)
    return Localised(
        average_precision(all_planted, all_scores),
        area_under_roc(all_planted, all_scores),
        _share(all_planted, np.ones_like(all_planted)),
        *np.array(rows).T,
    )


def _share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(of[among].mean()) if among.any() else math.nan
