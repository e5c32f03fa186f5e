"""Scores of tokens or of bases: from the masks of one reading of a window or of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wyrcli.model.frames import Readings, average_strands, correlate, sharpen
from wyrcli.targets import Question

__all__ = ["BaseResolution", "Scores", "number_asked", "score_sites"]

_SURROUNDINGS = 61  # bp around a base that it is sharpened against; docs/experiments.md


class BaseResolution(NamedTuple):
    """Scores for single bases: the mean over all k reading frames of a k-mer tokenizer.

    All frames are asked for the same classes.  These, and the probabilities, are those of the plain reading:
    the first frame of the sequence as it is given.

    ``both_strands``: the mean of both strands, each over its k frames.  ``sharpened``: see
    :func:`wyrcli.model.frames.sharpen`.
    """

    both_strands: bool = False
    sharpened: bool = False


class Scores(NamedTuple):
    """Mask values of one batch, on the CPU.  S: tokens with the special ones, or bases if ``per_base``.

    ``rank_masks`` float32 (B, S, R): of the predicted taxa;  ``masks`` float32 (B, S, G): of the G
    Explanations of each window;  ``agreement`` float64 (B, G): correlation of both strands, None if one was
    read.
    """

    rank_masks: NDArray[np.float32]
    masks: NDArray[np.float32]
    agreement: NDArray[np.float64] | None
    per_base: bool


def number_asked(question: Question, probabilities: Tensor, sizes: Sequence[int]) -> Tensor:
    """Class numbers int64 (B, A): of the goals, each followed by what it is held against, and the top k.

    ``probabilities``: float (B, C).
    """
    fixed = [
        place.number
        for goal in question.goals
        for place in (goal.place, goal.against_place)
        if place is not None
    ]
    numbers = torch.tensor(fixed, dtype=torch.int64, device=probabilities.device)
    numbers = numbers.expand(len(probabilities), -1)
    if not question.top_k:
        return numbers
    first = sum(sizes[: question.top_rank])
    own = probabilities[:, first : first + sizes[question.top_rank]]
    # Stable, so that of equals the first comes first, as in the prediction.
    best = torch.sort(own, dim=-1, descending=True, stable=True).indices[:, : question.top_k]
    return torch.cat([numbers, first + best], -1)


def score_sites(
    masks: Iterator[Tensor],
    readings: Readings,
    question: Question,
    n_ranks: int,
    per_base: BaseResolution | None,
) -> Scores:
    """Scores of tokens, or of bases, from the masks of each reading.

    Parameters
    ----------
    masks: of each of ``readings``, float (B, L, R + A), in [0, 1]: of the predicted classes of the
        ``n_ranks`` ranks, then of those asked for.
    """

    agreement = None
    if per_base is None:
        scores = next(masks)
    else:
        assert readings.lengths is not None
        strands = average_strands(masks, readings)
        scores = strands[0]
        if per_base.both_strands:
            # A sum of two: the same whichever strand is called the first.
            scores = (strands[0] + strands[1]) / 2
            pair = [_choose(strand, question, n_ranks) for strand in strands]
            agreement = correlate(pair[0], pair[1], readings.lengths).cpu().numpy()
        if per_base.sharpened:
            scores = sharpen(scores, readings.lengths, _SURROUNDINGS)
    return Scores(
        scores[..., :n_ranks].cpu().numpy(),
        _choose(scores, question, n_ranks).cpu().numpy(),
        agreement,
        per_base is not None,
    )


def _choose(masks: Tensor, question: Question, n_ranks: int) -> Tensor:
    """Masks of each Explanation, (B, S, G), from those of the predicted and of the asked classes."""
    if not question.goals and not question.top_k:
        own = masks[..., :n_ranks]
        rank = question.rank
        return own.amax(-1, keepdim=True) if rank is None else own[..., rank : rank + 1]
    columns, place = [], n_ranks
    for goal in question.goals:
        column = masks[..., place]
        place += 1
        if goal.against_place is not None:
            column = column - masks[..., place]
            place += 1
        columns.append(column)
    columns += [masks[..., place + i] for i in range(question.top_k)]
    return torch.stack(columns, -1)
