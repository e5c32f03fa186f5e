"""What every evaluation stands on: a classifier that can be asked about masked windows, and their masks.

A mask here is a numpy array (T,) over the T valid tokens of a window, in [0, 1]: 1 keeps.  How the rest is
taken away is a *removal*: an operator of :mod:`wyrcli.model.masking`, or one that changes what is read:

``mask-token``  the token becomes ``<mask>``;
``n``           its letters become N, as many as they were (so there are more tokens: N is one of its own);
``shuffle``     the letters of each removed run are shuffled so that their dinucleotides stay the same;
``cut``         its letters are left out, and what is kept is joined to one shorter sequence.

Those know only yes and no: a token stays if its mask is above one half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wyrcli.explanation import find_runs
from wyrcli.model.explainer import Explainer
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.masking import OPERATORS
from wyrcli.model.tokens import TokenBatch, Tokenizer

__all__ = [
    "REMOVALS",
    "EvaluatedWindows",
    "Examined",
    "Floats",
    "Subject",
    "dinucleotide_shuffle",
    "examine",
    "windows_by_length",
]

Floats = NDArray[np.float32]
"""Float32 numpy array; its shape is said where it is used."""

REMOVALS = (*OPERATORS, "mask-token", "n", "shuffle", "cut")
"""All ways to remove; see the top of this module."""


class EvaluatedWindows(Protocol):
    """Labelled windows with their names, places and groups (of what is not independent, as the windows of one
    genome), as ``dataset.LabelledWindows`` gives them."""

    @property
    def labels(self) -> NDArray[np.integer[Any]]: ...
    @property
    def sequences(self) -> Sequence[str]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def starts(self) -> NDArray[np.int64]: ...
    @property
    def groups(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...


class Subject(NamedTuple):
    """A frozen Explanandum on its device, ready to be asked.

    ``batch_size``: windows of ordinary length per forward pass.  ``seed``: of the ``shuffle`` removal.
    """

    explanandum: BaseExplanandum
    tokenizer: Tokenizer
    device: torch.device
    batch_size: int = 64
    seed: int = 0

    @property
    def removals(self) -> tuple[str, ...]:
        """Those of :data:`REMOVALS` that this classifier and its alphabet allow."""
        explanandum, tokenizer = self.explanandum, self.tokenizer
        allowed = ["gate", "scale"]
        if explanandum.pooling == "cls":
            allowed.append("scale-embedding")
        if getattr(tokenizer, "mask_id", None) is not None:
            allowed.append("mask-token")
        if tokenizer.alphabet == "dna":
            allowed += ["n", "shuffle"]
        return (*allowed, "cut")

    def log_probabilities(
        self,
        sequences: Sequence[str],
        masks: Sequence[Floats] | None = None,
        removal: str = "gate",
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> Floats:
        """Log-probabilities (N, C) of N windows, each rank's summing to one by itself; all kept if no masks.

        Raises ValueError for an unknown removal, for one that writes what this classifier's alphabet or
        vocabulary does not have, or for a mask that has not one value per valid token.
        """
        found = np.empty((len(sequences), sum(self.explanandum.sizes)), dtype=np.float32)
        for rows, answers in self._batches(sequences, masks, removal):
            found[rows] = answers
            on_batch(len(rows))
        return found

    def predict(
        self,
        sequences: Sequence[str],
        masks: Sequence[Floats] | None = None,
        removal: str = "gate",
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> NDArray[np.int64]:
        """The most probable class within each rank, (N, R); see :meth:`log_probabilities`."""
        found = np.empty((len(sequences), len(self.explanandum.sizes)), dtype=np.int64)
        for rows, answers in self._batches(sequences, masks, removal):
            found[rows] = self.best(answers)
            on_batch(len(rows))
        return found

    def _batches(
        self, sequences: Sequence[str], masks: Sequence[Floats] | None, removal: str
    ) -> Iterator[tuple[list[int], Floats]]:
        """Numbers of windows and their log-probabilities, batch by batch."""
        if removal not in REMOVALS:
            raise ValueError(f"unknown removal '{removal}'; known: {', '.join(REMOVALS)}")
        if removal not in (*OPERATORS, *self.removals):
            raise ValueError(f"removal '{removal}' has no meaning here; allowed: {', '.join(self.removals)}")
        for rows in windows_by_length(sequences, self.batch_size):
            own = [sequences[i] for i in rows]
            kept = None if masks is None else [masks[i] for i in rows]
            with torch.inference_mode():
                answers = self.normalise(self._answer(own, kept, removal)).cpu().numpy()
            yield rows, answers

    def normalise(self, logits: Tensor) -> Tensor:
        """Logits (B, C) to log-probabilities: a log-softmax over each rank."""
        return torch.cat([rank.log_softmax(-1) for rank in self.explanandum.split(logits)], -1)

    def of_classes(self, log_probabilities: Floats, classes: NDArray[np.int64]) -> Floats:
        """Log-probabilities (N, R) of ``classes`` (N, R), one within each rank, from all (N, C)."""
        first = np.concatenate([[0], np.cumsum(self.explanandum.sizes)[:-1]])
        return np.take_along_axis(log_probabilities, classes + first, axis=1)

    def best(self, log_probabilities: Floats) -> NDArray[np.int64]:
        """The most probable class within each rank, (N, R), from (N, C)."""
        parts = np.split(log_probabilities, np.cumsum(self.explanandum.sizes)[:-1], axis=1)
        return np.stack([part.argmax(1) for part in parts], axis=1)

    def _answer(self, sequences: list[str], masks: list[Floats] | None, removal: str) -> Tensor:
        tokenizer = self.tokenizer
        ask: Callable[..., Tensor] = self.explanandum
        batch = tokenizer.batch(sequences)
        if masks is None:
            return ask(batch.to(self.device))
        mask = pad_masks(masks, batch)
        if removal in OPERATORS:
            return ask(batch.to(self.device), mask.to(self.device), OPERATORS[removal])
        kept = (mask > 0.5) | ~batch.valid
        if removal == "mask-token":
            batch = replace(batch, ids=torch.where(kept, batch.ids, tokenizer.mask_id))  # type: ignore[attr-defined]
            return ask(batch.to(self.device))
        changed = []
        for row, sequence in enumerate(sequences):
            n = len(masks[row])
            changed.append(
                _rewrite(sequence, masks[row] > 0.5, batch.spans[row, 1 : 1 + n], removal, self.seed)
            )
        return ask(tokenizer.batch(changed).to(self.device))


def pad_masks(masks: Sequence[Floats], batch: TokenBatch) -> Tensor:
    """Masks (T_i,) of a batch's windows as one float32 (B, L), 0 where not valid, on the CPU."""
    padded = np.zeros(tuple(batch.ids.shape), dtype=np.float32)
    for row, (mask, n) in enumerate(zip(masks, batch.valid.sum(-1).tolist(), strict=True)):
        if len(mask) != n:
            raise ValueError(f"a mask of {len(mask)} values for a window of {n} tokens")
        padded[row, 1 : 1 + n] = mask
    return torch.from_numpy(padded)


def _rewrite(
    sequence: str, kept: NDArray[np.bool_], spans: NDArray[np.int64], removal: str, seed: int
) -> str:
    pieces = []
    written = 0
    for first, end in find_runs(kept):
        # Tokens of a text may share a letter: it is written once.
        piece = sequence[max(spans[first, 0], written) : spans[end - 1, 1]]
        if kept[first]:
            pieces.append(piece)
            written = spans[end - 1, 1]
        elif removal == "n":
            pieces.append("N" * len(piece))
        elif removal == "shuffle":
            pieces.append(dinucleotide_shuffle(piece, np.random.default_rng([seed, first, len(sequence)])))
        elif 0 < first and end < len(kept) and (spans[first : end + 1, 0] > spans[first - 1 : end, 1]).any():
            pieces.append(" ")  # no token has the white space of a text; without it two words became one
    return "".join(pieces)


def dinucleotide_shuffle(sequence: str, rng: np.random.Generator) -> str:
    """The same letters in another order, with the same number of each pair of neighbours.

    A random Eulerian path from the first letter to the last (Altschul and Erickson 1985): letters are the
    nodes, neighbours the edges; the last edge out of each node must lead towards the last letter.

    >>> dinucleotide_shuffle("ACGT", np.random.default_rng(0))
    'ACGT'
    """
    if len(sequence) < 3:
        return sequence
    followers: dict[str, list[str]] = {}
    for a, b in pairwise(sequence):
        followers.setdefault(a, []).append(b)
    end = sequence[-1]
    while True:  # a draw in which every last edge leads to the end
        lasts = {a: nexts[rng.integers(len(nexts))] for a, nexts in followers.items() if a != end}
        if all(_leads(a, lasts, end) for a in lasts):
            break
    order: dict[str, Iterator[str]] = {}
    for a, nexts in followers.items():
        rest = list(nexts)
        if a in lasts:
            rest.remove(lasts[a])
        shuffled = [rest[i] for i in rng.permutation(len(rest))]
        order[a] = iter([*shuffled, lasts[a]] if a in lasts else shuffled)
    path = [sequence[0]]
    for _ in range(len(sequence) - 1):
        path.append(next(order[path[-1]]))
    return "".join(path)


def _leads(letter: str, lasts: dict[str, str], end: str) -> bool:
    for _ in range(len(lasts) + 1):
        if letter == end:
            return True
        letter = lasts[letter]
    return letter == end


def windows_by_length(sequences: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Numbers of windows, in batches of like length: little is padded, and long ones come in small batches.

    ``batch_size``: of windows of the greatest length; there are more of shorter ones in a batch.
    """
    lengths = [len(s) for s in sequences]
    if not lengths:
        return
    budget = batch_size * max(lengths)
    batch: list[int] = []
    for i in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[i] > budget:
            yield batch
            batch = []
        batch.append(i)
    yield batch


@dataclass(frozen=True, eq=False)
class Examined:
    """N windows with what the Explanandum says of them and the masks of one class per rank.

    Parameters
    ----------
    windows: sequences, labels, names and starts.
    log_probabilities: (N, C), unmasked; (0, C) where they were not asked for.
    predicted: (N, R), the most probable class within each rank.
    classes: (N, R), whose masks they are; ``predicted`` unless others were asked for.
    rank_masks: of each window (T_i, R), the soft mask of each of its classes.
    spans: of each window int64 (T_i, 2), letters of each token on the window.
    """

    windows: EvaluatedWindows
    log_probabilities: Floats
    predicted: NDArray[np.int64]
    classes: NDArray[np.int64]
    rank_masks: list[Floats]
    spans: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.rank_masks)

    @cached_property
    def sequences(self) -> list[str]:
        """Of all windows, as a list."""
        return [self.windows.sequences[i] for i in range(len(self))]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """True class within each rank, (N, R)."""
        return np.asarray(self.windows.labels, dtype=np.int64)

    @cached_property
    def masks(self) -> list[Floats]:
        """The target mask of each window, (T_i,): the maximum over ranks."""
        return [mask.max(-1) for mask in self.rank_masks]

    @cached_property
    def rounded(self) -> list[Floats]:
        """The same, 1 above one half and 0 elsewhere."""
        return [(mask > 0.5).astype(np.float32) for mask in self.masks]


def examine(
    subject: Subject,
    explainer: Explainer,
    windows: EvaluatedWindows,
    classes: NDArray[np.int64] | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
    *,
    with_answers: bool = True,
) -> Examined:
    """Classify windows and take their masks, of the predicted classes or of ``classes`` (N, R).

    ``with_answers``: whether to keep the log-probabilities of all C classes.
    """
    explanandum = subject.explanandum
    sequences = [windows.sequences[i] for i in range(len(windows))]
    n_ranks = len(explanandum.sizes)
    n_kept = len(sequences) if with_answers else 0
    found = np.empty((n_kept, sum(explanandum.sizes)), dtype=np.float32)
    predicted = np.empty((len(sequences), n_ranks), dtype=np.int64)
    masks: list[Floats] = [np.empty((0, n_ranks), np.float32)] * len(sequences)
    spans = [np.empty((0, 2), np.int64)] * len(sequences)
    for rows in windows_by_length(sequences, subject.batch_size):
        cpu_batch = subject.tokenizer.batch([sequences[i] for i in rows])
        batch = cpu_batch.to(subject.device)
        with torch.inference_mode():
            logits, states = explanandum.classify(batch)
            best = explanandum.predict(logits)[0]
            wanted = best if classes is None else torch.from_numpy(classes[rows]).to(best)
            own = explainer(batch, states, explanandum.class_numbers(wanted)).float().sigmoid().cpu().numpy()
            if with_answers:
                found[rows] = subject.normalise(logits).cpu().numpy()
            predicted[rows] = best.cpu().numpy()
        for i, row, n in zip(rows, range(len(rows)), cpu_batch.valid.sum(-1).tolist(), strict=True):
            masks[i] = own[row, 1 : 1 + n]
            spans[i] = cpu_batch.spans[row, 1 : 1 + n]
        on_batch(len(rows))
    return Examined(windows, found, predicted, predicted if classes is None else classes, masks, spans)
