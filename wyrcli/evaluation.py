"""The paper's Table 1: is what the mask keeps enough, and is what it hides needed?

Seven conditions by rank, each scored by balanced accuracy against the true labels.  The masks are those
of the **predicted** classes, because a deployed Explainer knows no others.  With a planted truth, also
how well the mask finds the planted bases, and whether decoys fool it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wyrcli.errors import InputError
from wyrcli.explanation import find_runs
from wyrcli.metrics import average_precision, balanced_accuracy
from wyrcli.model.explainer import Explainer
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.masking import get_operator
from wyrcli.model.tokens import Tokenizer

__all__ = ["CONDITIONS", "Evaluation", "Truth", "evaluate", "read_truth"]

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


class EvaluatedWindows(Protocol):
    """Labelled windows with their names and places, as ``dataset.LabelledWindows`` gives them."""

    @property
    def labels(self) -> NDArray[np.integer[Any]]: ...
    @property
    def sequences(self) -> Sequence[str]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def starts(self) -> NDArray[np.int64]: ...
    def __len__(self) -> int: ...


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


@dataclass
class Evaluation:
    """Scores of one Explainer with one operator on one set of windows.

    ``accuracy[condition]``: balanced accuracy per rank;  ``tokens_kept[condition]``: mean over windows of
    the mean mask value (share of valid tokens) that the condition leaves.
    """

    explainer: str
    operator: str
    n_windows: int
    accuracy: dict[str, list[float]]
    tokens_kept: dict[str, float]
    localisation: Localisation | None = None


def evaluate(
    explanandum: BaseExplanandum,
    explainer: Explainer,
    operator: str,
    tokenizer: Tokenizer,
    windows: EvaluatedWindows,
    *,
    device: torch.device,
    batch_size: int = 64,
    truth: Truth | None = None,
    threshold: float = 0.5,
    explainer_name: str = "",
    on_batch: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Score the seven conditions (paper, section 3.4), and the localisation where there is a truth.

    The paper leaves open, and here is decided: a mask value of exactly ``threshold`` rounds to 0; chunks
    are cut out as sequences of their own, classified one by one, and their probabilities averaged per
    rank; a window without any such chunk gets the classifier's answer to nothing at all (its bias).
    """
    if len(windows) == 0:
        raise InputError("there is no window to evaluate")
    remove = get_operator(operator)
    predicted: dict[str, list[NDArray[np.int64]]] = {name: [] for name in CONDITIONS}
    kept: dict[str, list[NDArray[np.float64]]] = {name: [] for name in CONDITIONS}
    tally = _Tally() if truth is not None else None
    with torch.inference_mode():
        for first in range(0, len(windows), batch_size):
            rows = range(first, min(first + batch_size, len(windows)))
            sequences = [windows.sequences[i] for i in rows]
            cpu_batch = tokenizer.batch(sequences)
            batch = cpu_batch.to(device)
            logits, states = explanandum.classify(batch)
            classes = explanandum.predict(logits)[0]
            class_masks = explainer(batch, states, explanandum.class_numbers(classes))
            mask = class_masks.float().amax(-1).sigmoid() * batch.valid
            rounded = (mask > threshold).float()
            predicted["unmasked"].append(classes.cpu().numpy())
            kept["unmasked"].append(np.ones(len(rows)))
            for name, kept_mask in {
                "masks": mask,
                "inverted masks": 1 - mask,
                "rounded masks": rounded,
                "inverted rounded masks": 1 - rounded,
            }.items():
                answer = explanandum(batch, kept_mask, remove)
                predicted[name].append(explanandum.predict(answer)[0].cpu().numpy())
                kept[name].append(_share(kept_mask, batch.valid))
            counts = cpu_batch.valid.sum(-1).tolist()
            relevant = [(rounded[i, 1 : 1 + n] > 0).cpu().numpy() for i, n in enumerate(counts)]
            spans = [cpu_batch.spans[i, 1 : 1 + n] for i, n in enumerate(counts)]
            for name, wanted in (("relevant chunks", True), ("not-relevant chunks", False)):
                pieces = [
                    cut_chunks(s, r, sp, wanted) for s, r, sp in zip(sequences, relevant, spans, strict=True)
                ]
                predicted[name].append(
                    classify_chunks(explanandum, tokenizer, pieces, device, batch_size).cpu().numpy()
                )
                kept[name].append(kept["rounded masks" if wanted else "inverted rounded masks"][-1])
            if tally is not None and truth is not None:
                for i, row in enumerate(rows):
                    own = windows.starts[row] + spans[i]
                    tally.add(
                        windows.names[row], own, mask[i, 1 : 1 + counts[i]].cpu().numpy(), truth, threshold
                    )
            on_batch(len(rows))
    ranks = range(len(explanandum.sizes))
    scores = {
        name: [balanced_accuracy(windows.labels[:, r], np.concatenate(parts)[:, r]) for r in ranks]
        for name, parts in predicted.items()
    }
    shares = {name: float(np.concatenate(parts).mean()) for name, parts in kept.items()}
    return Evaluation(
        explainer_name, operator, len(windows), scores, shares, None if tally is None else tally.result()
    )


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


def classify_chunks(
    explanandum: BaseExplanandum,
    tokenizer: Tokenizer,
    pieces: Sequence[Sequence[str]],
    device: torch.device,
    batch_size: int,
) -> Tensor:
    """Class per rank (N, R) from the mean of the probabilities of each window's pieces."""
    owners = torch.tensor([i for i, own in enumerate(pieces) for _ in own], dtype=torch.long, device=device)
    flat = [piece for own in pieces for piece in own]
    n_classes = sum(explanandum.sizes)
    sums = torch.zeros(len(pieces), n_classes, device=device)
    # By length, so that short chunks are not padded to long ones; a fixed count of tokens a batch.
    order = sorted(range(len(flat)), key=lambda i: len(flat[i]))
    longest = max((len(piece) for piece in flat), default=0)
    for batch_rows in _by_tokens(order, [len(p) for p in flat], batch_size * max(longest, 1)):
        answers = explanandum(tokenizer.batch([flat[i] for i in batch_rows]).to(device))
        probabilities = torch.cat([rank.softmax(-1) for rank in explanandum.split(answers)], -1)
        sums.index_add_(0, owners[torch.tensor(batch_rows, device=device)], probabilities)
    nothing = torch.tensor([not own for own in pieces], device=device)
    bias = explanandum.bias()
    sums = torch.where(nothing[:, None], bias, sums)
    return torch.stack([rank.argmax(-1) for rank in explanandum.split(sums)], -1)


def _by_tokens(order: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[i] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _share(mask: Tensor, valid: Tensor) -> NDArray[np.float64]:
    share = (mask * valid).sum(-1) / valid.sum(-1).clamp_min(1)
    return share.double().cpu().numpy()


class _Tally:
    """Gathers the tokens of all windows beside their truth."""

    def __init__(self) -> None:
        self.scores: list[NDArray[np.float64]] = []
        self.planted: list[NDArray[np.bool_]] = []
        self.decoy: list[NDArray[np.bool_]] = []
        self.threshold = 0.5

    def add(
        self,
        name: str,
        spans: NDArray[np.int64],
        mask: NDArray[np.float32],
        truth: Truth,
        threshold: float,
    ) -> None:
        self.threshold = threshold
        self.scores.append(mask.astype(np.float64))
        self.planted.append(covered(spans, truth.planted.get(name)))
        self.decoy.append(covered(spans, truth.decoys.get(name)))

    def result(self) -> Localisation:
        scores, planted, decoy = (
            np.concatenate(self.scores),
            np.concatenate(self.planted),
            np.concatenate(self.decoy),
        )
        called = scores > self.threshold

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
