"""Has the mask itself told the answer?  Evaluators that are not the classifier the masks were made for.

A mask can please the frozen classifier, or give a class away by its shape, without keeping what a reader
would call evidence.  Three instruments see that:

EVAL-X (Jethani et al. 2021, arXiv 2103.01890)
    a copy of the classifier, fine-tuned to give the classifier's own answers from what random masks leave.
    It has met every kind of mask, and no Explainer was ever trained against it.
Encode-meter (after Puli et al. 2024, arXiv 2411.02664)
    EVAL-X with a second input that sees nothing but the mask, fitted on the Explainer's own masks.  What it
    gains, and does not gain from random masks, is told by the selection and not by the bases selected.
Mask-only probe
    kernel ridge regression from the shape of the mask to the class, without a single base.

All masks here are hard: float32 arrays (T,) of 0 and 1 over the valid tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.examination import Floats, Subject, pad_masks, windows_by_length
from wyrcli.explanation import find_runs
from wyrcli.metrics import balanced_accuracy
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.masking import get_operator

__all__ = [
    "Evaluator",
    "FittingOptions",
    "Probe",
    "draw_mask",
    "fit_evaluator",
    "probe_masks",
    "read_masks",
    "resample",
    "run_lengths",
    "scatter_runs",
]

Draw = Callable[[int, np.random.Generator], Floats]
"""From the number of a window to a hard mask of it, which may be another one each time."""

_BINS = 32  # to which masks of all lengths are brought: fine enough for 16 classes side by side
_FOLDS = 5


# ---------------------------------------------------------------- random masks


def run_lengths(masks: Sequence[Floats]) -> NDArray[np.int64]:
    """Lengths in tokens of all kept runs of all masks: the Explainer's run-length law."""
    return np.array(
        [end - first for mask in masks for first, end in find_runs(mask > 0.5) if mask[first] > 0.5],
        dtype=np.int64,
    )


def scatter_runs(mask: Floats, rng: np.random.Generator) -> Floats:
    """A mask with the same kept runs, and so the same area, in random order and at random places.

    All placements in which no two runs touch are equally likely.  A permutation of the gaps would not do: a
    single run would come back to its own place, or the mirrored one.

    >>> scatter_runs(np.array([1, 1, 0], dtype=np.float32), np.random.default_rng(0)).sum()
    np.float32(2.0)
    """
    lengths = rng.permutation(run_lengths([mask]))
    n, k = len(mask), len(lengths)
    free = n - int(lengths.sum()) - max(k - 1, 0)  # what is left when one token parts neighbours
    before = np.sort(rng.choice(free + k, k, replace=False)) - np.arange(k)
    starts = before + np.cumsum(lengths) - lengths + np.arange(k)
    found = np.zeros(n, dtype=np.float32)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        found[start : start + length] = 1
    return found


def draw_mask(n: int, law: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """A random mask of ``n`` tokens whose expected area u is uniform on (0, 1).

    Half of them keep each token by itself with probability u.  The others keep runs whose lengths come from
    ``law``, parted by gaps of geometric length with the mean that leaves u.
    """
    share = rng.uniform(0.0, 1.0)
    if rng.random() < 0.5 or len(law) == 0:
        return (rng.random(n) < share).astype(np.float32)
    found = np.zeros(n, dtype=np.float32)
    mean_gap = float(law.mean()) * (1 - share) / max(share, 1e-3)
    # Begin somewhere inside of the pattern, not always with a gap.
    place = -int(rng.integers(0, int(law.mean() + mean_gap) + 1))
    while place < n:
        place += int(rng.geometric(1 / (1 + mean_gap))) - 1
        length = int(rng.choice(law))
        found[max(place, 0) : max(place + length, 0)] = 1
        place += length
    return found


# ---------------------------------------------------------------- EVAL-X and the encode-meter


class FittingOptions(NamedTuple):
    """How an evaluator is fitted: AdamW, a short warm-up and a linear decay.

    ``steps`` of ``batch_size`` windows; ``learning_rate`` at the peak.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 3e-4


class Evaluator(nn.Module):
    """A classifier of masked windows that begins as a copy of ``network`` and shares nothing with it."""

    def __init__(self, network: BaseExplanandum, operator: str) -> None:
        super().__init__()
        device = next(network.parameters()).device
        # A frozen one cannot be thawed; one with new heads is not frozen, and then gets the old heads.
        self.network = deepcopy(network).with_classes(network.sizes)
        self.network.load_state_dict(network.state_dict())
        self.network.to(device, torch.float32).eval()
        self.operator = get_operator(operator)

    def answer(self, subject: Subject, sequences: list[str], masks: list[Floats]) -> Tensor:
        """Log-probabilities (B, C) of a batch of masked windows, on the device; with gradients if enabled."""
        batch = subject.tokenizer.batch(sequences)
        mask = pad_masks(masks, batch).to(subject.device)
        return subject.normalise(self.network(batch.to(subject.device), mask, self.operator))

    @torch.inference_mode()
    def log_probabilities(
        self, subject: Subject, sequences: Sequence[str], masks: Sequence[Floats]
    ) -> Floats:
        """As ``Subject.log_probabilities``: (N, C) of N masked windows."""
        found = np.empty((len(sequences), sum(subject.explanandum.sizes)), dtype=np.float32)
        for rows in windows_by_length(sequences, subject.batch_size):
            answer = self.answer(subject, [sequences[i] for i in rows], [masks[i] for i in rows])
            found[rows] = answer.cpu().numpy()
        return found


def fit_evaluator(
    subject: Subject,
    evaluator: Evaluator,
    sequences: Sequence[str],
    targets: Floats,
    draw: Draw,
    options: FittingOptions,
    seed: int = 0,
) -> Evaluator:
    """Train an evaluator, in place, to give ``targets`` from what the masks leave; returns it.

    The loss is the divergence KL(target || answer), summed over ranks: the soft answers of the frozen
    classifier are what is to be told, not the true labels.  No more windows at a time than the subject reads:
    gradients of a larger batch are added up.

    Parameters
    ----------
    targets: (N, C), the classifier's log-probabilities of the whole windows.
    draw: the mask of window i at a step.
    seed: of the order of the windows and of what is drawn.
    """
    rng = np.random.default_rng(seed)
    size = min(options.batch_size, len(sequences))
    optimizer = torch.optim.AdamW(evaluator.parameters(), lr=options.learning_rate, weight_decay=0.01)
    warmup = max(options.steps // 10, 1)

    def pace(step: int) -> float:
        return min((step + 1) / warmup, (options.steps - step) / max(options.steps - warmup, 1))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    order = np.zeros(0, dtype=np.int64)
    for _ in range(options.steps):
        if len(order) < size:
            order = rng.permutation(len(sequences))
        rows, order = order[:size].tolist(), order[size:]
        own, masks = [sequences[i] for i in rows], [draw(i, rng) for i in rows]
        optimizer.zero_grad(set_to_none=True)
        for part in windows_by_length(own, subject.batch_size):
            answer = evaluator.answer(subject, [own[i] for i in part], [masks[i] for i in part])
            target = torch.from_numpy(targets[[rows[i] for i in part]]).to(subject.device)
            loss = F.kl_div(answer, target, reduction="sum", log_target=True) / size
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(evaluator.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return evaluator.requires_grad_(False)


def read_masks(
    sizes: Sequence[int],
    taught: tuple[Floats, Sequence[Floats], Floats],
    tested: tuple[Floats, Sequence[Floats]],
    steps: int = 200,
) -> tuple[Floats, Floats]:
    """Log-probabilities (M, C) without and with the masks, by corrections fitted on other windows.

    The first are calibrated answers: one factor per rank, one number per class.  The second are these, moved
    by a linear map of the mask in bins: what they are better by was read from the masks.  A third of the
    windows for fitting chooses the step to stop at, so that what does not hold there is not learned.

    Parameters
    ----------
    sizes: classes per rank.
    taught: an evaluator's answers (N, C) to masked windows, the masks, and what it should have said (N, C),
        all log-probabilities.
    tested: answers (M, C) and masks of the windows that are asked about.
    """
    answers, masks, targets = taught
    n = len(answers)
    both = torch.from_numpy(np.concatenate([answers, tested[0]]))
    shapes = torch.from_numpy(np.stack([resample(mask, _BINS) for mask in [*masks, *tested[1]]]))
    target = torch.from_numpy(targets)

    trust = torch.zeros(len(sizes), requires_grad=True)
    favour = torch.zeros(sum(sizes), requires_grad=True)
    ranks = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    calibrated = _correct(lambda: both * trust.exp()[ranks] + favour, [trust, favour], sizes, target, steps)
    weights = torch.zeros(_BINS, sum(sizes), requires_grad=True)
    moved = _correct(lambda: calibrated + shapes @ weights, [weights], sizes, target, steps)
    return calibrated[n:].numpy(), moved[n:].numpy()


def _correct(
    answer: Callable[[], Tensor], weights: list[Tensor], sizes: Sequence[int], target: Tensor, steps: int
) -> Tensor:
    """Log-probabilities of all windows, of which the first have a target, at the best step of a descent."""
    chooses = torch.arange(len(target)) % 3 == 0
    optimizer = torch.optim.AdamW(weights, lr=0.02, weight_decay=0.1)
    best, found = float("inf"), torch.empty(0)
    for _ in range(steps + 1):
        told = torch.cat([rank.log_softmax(-1) for rank in torch.split(answer(), list(sizes), -1)], -1)
        each = F.kl_div(told[: len(target)], target, reduction="none", log_target=True).sum(-1)
        score = each.detach()[chooses].mean().item()
        if score < best:
            best, found = score, told.detach()
        optimizer.zero_grad(set_to_none=True)
        each[~chooses].mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found


# ---------------------------------------------------------------- the probe


class Probe(NamedTuple):
    """What the shape of the masks tells of the classes.

    ``skill``: per rank, cross-validated balanced accuracy, 0 as with permuted classes and 1 if all is right.
    ``p_value``: share of permutations of the classes whose best rank does as well.
    """

    skill: list[float]
    p_value: float


def resample(mask: Floats, bins: int) -> Floats:
    """Mean of a mask in each of ``bins`` equal parts of its window; float32 (bins,).

    >>> resample(np.array([1, 0, 0], dtype=np.float32), 2)
    array([0.6666667, 0.       ], dtype=float32)
    """
    if len(mask) == 0:
        return np.zeros(bins, dtype=np.float32)
    total = np.concatenate([[0.0], np.cumsum(mask, dtype=np.float64)])
    edges = np.linspace(0, len(mask), bins + 1)
    parts = np.diff(np.interp(edges, np.arange(len(mask) + 1), total))
    return np.asarray(parts * bins / len(mask), dtype=np.float32)


def probe_masks(
    masks: Sequence[Floats],
    classes: NDArray[np.int64],
    groups: NDArray[np.int64],
    seed: int = 0,
    permutations: int = 200,
) -> Probe:
    """Guess the classes (N, R) from the masks alone: where they lie, how much they keep, in how many runs.

    Kernel ridge regression on the one-hot classes, with a linear and a Gaussian kernel added; five folds.
    Its predictions are linear in the classes, so permuted ones cost next to nothing.

    Only one window of each of the ``groups`` (N,) is taken, drawn at random: others of the same genome would
    give its class away by its place, and permuting them as if they were independent would call that a code.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(masks))
    one_each = drawn[np.unique(groups[drawn], return_index=True)[1]]
    masks, classes = [masks[i] for i in one_each], classes[one_each]
    n = len(masks)
    kernel = _kernel(_describe(masks))
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(permutations))])  # (P + 1, N)
    fold = rng.permutation(n) % _FOLDS
    accuracy = np.empty((len(orders), classes.shape[1]))
    for r in range(classes.shape[1]):
        truth = classes[:, r][orders]  # (P + 1, N)
        hot = np.eye(int(classes[:, r].max()) + 1)[truth]  # (P + 1, N, C)
        guess = np.empty_like(truth)
        for f in range(_FOLDS):
            test, train = fold == f, fold != f
            smooth = kernel[np.ix_(train, train)] + np.eye(int(train.sum()))
            weights = np.linalg.solve(smooth, kernel[np.ix_(train, test)]).T  # (tests, trains)
            prior = hot[:, train].mean(1, keepdims=True)
            rise = weights @ (hot[:, train] - prior)
            # Relative to how common a class is: balanced accuracy asks for all classes alike.
            guess[:, test] = np.where(prior > 0, rise / np.maximum(prior, 1e-9), -np.inf).argmax(-1)
        accuracy[:, r] = [balanced_accuracy(t, g) for t, g in zip(truth, guess, strict=True)]
    chance = accuracy[1:].mean(0)
    skill = (accuracy - chance) / np.maximum(1 - chance, 1e-9)
    best = skill.max(1)
    p_value = (1 + (best[1:] >= best[0]).sum()) / len(orders)
    return Probe(skill[0].tolist(), float(p_value))


def _describe(masks: Sequence[Floats]) -> NDArray[np.float64]:
    """(N, features): the mask in bins, its area, number of runs and their mean length."""
    rows = []
    for mask in masks:
        lengths = run_lengths([mask])
        kept, runs = float(lengths.sum()), len(lengths)
        rows.append([*resample(mask, _BINS).tolist(), kept / max(len(mask), 1), runs, kept / max(runs, 1)])
    return np.array(rows, dtype=np.float64)


def _kernel(features: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = features.std(0)
    x = (features - features.mean(0)) / np.where(spread > 1e-9, spread, np.inf)
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    usual = float(np.median(squares)) or 1.0
    return np.asarray(np.exp(-squares / usual) + x @ x.T / x.shape[1])
