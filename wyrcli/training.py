"""The two things that are trained: an Explanandum and an Explainer for it.

Each is a :class:`wyrcli.engine.Task`: a function from windows to a loss, and the scores by which the best
weights are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.batching import Piece, Plan, Windows, cut_pieces
from wyrcli.distribution import World
from wyrcli.engine import Report, Result, Task, TrainingOptions, fit
from wyrcli.metrics import balanced_accuracy
from wyrcli.model.borders import BorderNetwork
from wyrcli.model.counting import CountingNetwork
from wyrcli.model.evidence import calibrate_share, find_evidence, mark_share, smooth, start_from_evidence
from wyrcli.model.explainer import Explainer, StateExplainer, select_masks
from wyrcli.model.explanandum import BaseExplanandum, Explanandum
from wyrcli.model.frames import average_frames, match_area
from wyrcli.model.loss import LossOptions, area, drop, explainer_loss, per_token_kept, relax
from wyrcli.model.masking import get_operator
from wyrcli.model.tokens import KmerTokenizer, TokenBatch, Tokenizer
from wyrcli.runs import RunFolder, State

__all__ = [
    "classify_windows",
    "count",
    "find_degenerate",
    "finetune",
    "read_borders",
    "train_explainer",
    "validate",
    "weigh_classes",
]

# What the mean over frames gives is spread over more tokens: with the area of a single frame, the inverse of
# the rounded mask shows more than before (docs/experiments.md).
_WIDER = 1.2
_TO_WHITEN = 8192  # windows
_TO_IMITATE = 4096
_TAUGHT = 0.5  # weight of the answers of the network that counted, beside the labels
_TO_START = 3000  # windows whose evidence an Explainer starts from, and
_TO_CALIBRATE = 512  # on which it is seen how much it marks
_OTHERS = 0.3  # weight of the masks of other classes, which have no teacher
_MOST_EXAMINED = 512  # validation windows that an Explainer is scored on


# ---------------------------------------------------------------- Explanandum


def finetune(
    explanandum: BaseExplanandum,
    tokenizer: Tokenizer,
    train: Windows,
    options: TrainingOptions,
    world: World,
    report: Report,
    *,
    validation: Windows | None = None,
    ranks: Sequence[str] = (),
    metric: str = "",
    class_weights: Sequence[Tensor] | None = None,
    run: RunFolder | None = None,
    state: State | None = None,
    save_every_s: float = 300.0,
) -> Result:
    """Train a classifier: sum over ranks of the cross-entropies (paper, section 3.2).

    Parameters
    ----------
    validation, ranks: windows to choose the best weights by, and what to call the scores on them.
    metric: ``loss`` or ``balanced_accuracy_RANK``; by default that of the last rank.
    class_weights: of each rank, float32 (C_r,); their mean over the windows should be 1.
    run, state, save_every_s: for :func:`wyrcli.engine.fit`.
    """
    names, metric = _name_scores(explanandum, ranks, metric)
    task = _Finetuning(explanandum, tokenizer, options, names, metric, validation, class_weights)
    return fit(
        task, train, tokenizer, options, world, report, run=run, state=state, save_every_s=save_every_s
    )


def count(
    explanandum: Explanandum,
    tokenizer: KmerTokenizer,
    train: Windows,
    options: TrainingOptions,
    world: World,
    report: Report,
    *,
    validation: Windows | None = None,
    ranks: Sequence[str] = (),
    metric: str = "",
    dropout: float = 0.1,
    every_frame: bool = False,
    run: RunFolder | None = None,
    state: State | None = None,
    save_every_s: float = 300.0,
) -> Result:
    """Train a classifier of random weights on k-mer counts alone; see :mod:`wyrcli.model.counting`.

    Parameters as in :func:`finetune`, which goes on from here.  ``dropout``: share of features, in training.
    ``every_frame``: count k-mers across the borders of tokens too; :func:`read_borders` goes on from there.
    """
    names, metric = _name_scores(explanandum, ranks, metric)
    network = CountingNetwork(explanandum, tokenizer.kmers(), dropout, every_frame=every_frame)
    if state is None:
        network.whiten(_first_batches(train, tokenizer, options, _TO_WHITEN))
    task = _Counting(network, tokenizer, options, names, metric, validation)
    result = fit(
        task, train, tokenizer, options, world, report, run=run, state=state, save_every_s=save_every_s
    )
    network.finish()
    return result


def read_borders(
    counted: Explanandum,
    tokenizer: KmerTokenizer,
    train: Windows,
    options: TrainingOptions,
    world: World,
    report: Report,
    *,
    validation: Windows | None = None,
    ranks: Sequence[str] = (),
    metric: str = "",
    dropout: float = 0.1,
    run: RunFolder | None = None,
    state: State | None = None,
    save_every_s: float = 300.0,
) -> tuple[Explanandum, Result]:
    """A classifier that reads the k-mers across the borders of tokens, from one that has counted them.

    See :mod:`wyrcli.model.borders`.  ``counted``: from :func:`count` with ``every_frame``; other parameters
    as there.
    """
    names, metric = _name_scores(counted, ranks, metric)
    network = BorderNetwork(counted, tokenizer.kmers(), dropout, options.seed)
    if state is None:
        network.imitate(list(_first_batches(train, tokenizer, options, _TO_IMITATE)))
    task = _ReadingBorders(network, tokenizer, options, names, metric, validation)
    result = fit(
        task, train, tokenizer, options, world, report, run=run, state=state, save_every_s=save_every_s
    )
    network.cpu()
    return network.finish(next(_first_batches(train, tokenizer, options, 1))), result


def _name_scores(explanandum: BaseExplanandum, ranks: Sequence[str], metric: str) -> tuple[list[str], str]:
    """What the ranks are called, by number where nobody says, and the score that chooses the weights."""
    names = list(ranks) or [str(r) for r in range(len(explanandum.sizes))]
    return names, metric or f"balanced_accuracy_{names[-1]}"


def _first_batches(
    train: Windows, tokenizer: Tokenizer, options: TrainingOptions, n_windows: int
) -> Iterator[TokenBatch]:
    """The first windows as training will see them: at least so many, if there are."""
    plan = Plan(len(train), options.batch_size, options.seed, None, options.weigh(train))
    steps = range(min(-(-n_windows // plan.batch_size), plan.steps_per_epoch))
    for pieces in cut_pieces(train, tokenizer, plan, steps=steps, shortest=options.shortest):
        yield from (piece.batch for piece in pieces)


class _Finetuning(Task):
    def __init__(
        self,
        explanandum: BaseExplanandum,
        tokenizer: Tokenizer,
        options: TrainingOptions,
        names: Sequence[str],
        metric: str,
        validation: Windows | None,
        class_weights: Sequence[Tensor] | None,
    ) -> None:
        super().__init__()
        self.trained = explanandum
        self.metric = metric
        self._explanandum = explanandum
        self._classify: nn.Module = explanandum
        self._tokenizer, self._options, self._names = tokenizer, options, names
        self._validation = validation
        self._weighted = class_weights is not None
        for r, weights in enumerate(class_weights or ()):
            self.register_buffer(f"weights_{r}", weights)

    def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        return self._judge(self._classify(piece.batch), piece)

    def _judge(self, all_logits: Tensor, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        per_rank = self._explanandum.split(all_logits)
        losses, values = [], {}
        for r, (name, logits) in enumerate(zip(self._names, per_rank, strict=True)):
            labels = piece.labels[:, r]
            weights = self.get_buffer(f"weights_{r}") if self._weighted else None
            # Weighted windows are divided by their number, not by their weights: else a window would
            # count for more in a small piece than in a large one.
            smoothing = self._options.label_smoothing if self.training else 0.0
            each = F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)
            losses.append(each.mean())
            values[f"accuracy_{name}"] = (logits.argmax(-1) == labels).float().mean()
        return torch.stack(losses).sum(), values

    def validate(self, world: World) -> dict[str, float]:
        if self._validation is None or len(self._validation) == 0:
            return {}
        precision = self._options.precision
        predicted, loss = _classify(
            self._explanandum, self._tokenizer, self._validation, world, precision, self._classify
        )
        return {"loss": loss} | {
            f"balanced_accuracy_{name}": balanced_accuracy(self._validation.labels[:, r], predicted[:, r])
            for r, name in enumerate(self._names)
        }


class _Counting(_Finetuning):
    def __init__(
        self,
        network: CountingNetwork | BorderNetwork,
        tokenizer: Tokenizer,
        options: TrainingOptions,
        names: Sequence[str],
        metric: str,
        validation: Windows | None,
    ) -> None:
        super().__init__(network.explanandum, tokenizer, options, names, metric, validation, None)
        self.trained = network
        self._classify = network


class _ReadingBorders(_Counting):
    """The labels, and the answers of the network that counted, which knows them from all frames already."""

    trained: BorderNetwork

    def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        logits, taught = self.trained.answer(piece.batch)
        loss, values = self._judge(logits, piece)
        pairs = zip(self._explanandum.split(logits), self._explanandum.split(taught), strict=True)
        imitation = torch.stack([F.cross_entropy(own, other.softmax(-1)) for own, other in pairs]).sum()
        return (1 - _TAUGHT) * loss + _TAUGHT * imitation, values


@torch.inference_mode()
def _classify(
    explanandum: BaseExplanandum,
    tokenizer: Tokenizer,
    windows: Windows,
    world: World,
    precision: str = "fp32",
    network: nn.Module | None = None,
) -> tuple[NDArray[np.int64], float]:
    """Predicted class within each rank, (N, R), and the mean loss; all processes share the work.

    ``network``: what gives the logits, if not the Explanandum itself.
    """
    explanandum.eval()
    network = explanandum if network is None else network
    device = world.device
    predicted = torch.zeros(len(windows), len(explanandum.sizes), dtype=torch.int64)
    loss = 0.0
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    for rows, batch, labels in _batches(windows, tokenizer, world):
        with autocast:
            logits = network(batch.to(device))
        predicted[rows] = explanandum.predict(logits)[0].cpu()
        for r, own in enumerate(explanandum.split(logits)):
            loss += F.cross_entropy(own, labels[:, r].to(device), reduction="sum").item()
    world.sum(whole := predicted.to(device))
    mean = world.sum(torch.tensor(loss, dtype=torch.float64, device=device)).item() / max(len(windows), 1)
    return whole.cpu().numpy(), mean


def _batches(
    windows: Windows, tokenizer: Tokenizer, world: World, size: int = 128
) -> Iterator[tuple[NDArray[np.int64], TokenBatch, Tensor]]:
    """This process's part of some windows: their numbers, tokens and labels (B, R)."""
    own = np.arange(world.number, len(windows), world.size)
    for first in range(0, len(own), size):
        rows = own[first : first + size]
        labels = torch.from_numpy(windows.labels[rows].astype(np.int64))
        yield rows, tokenizer.batch([windows.sequences[int(i)] for i in rows]), labels


def classify_windows(
    explanandum: BaseExplanandum, tokenizer: Tokenizer, windows: Windows, world: World
) -> NDArray[np.int64]:
    """Predicted class within each rank, (N, R)."""
    return _classify(explanandum, tokenizer, windows, world)[0]


def validate(
    explanandum: BaseExplanandum, tokenizer: Tokenizer, windows: Windows, world: World
) -> list[float]:
    """Balanced accuracy per rank."""
    predicted = classify_windows(explanandum, tokenizer, windows, world)
    return [balanced_accuracy(windows.labels[:, r], predicted[:, r]) for r in range(len(explanandum.sizes))]


def weigh_classes(labels: NDArray[np.integer[Any]], sizes: Sequence[int]) -> list[Tensor]:
    """Of each rank, float32 (C_r,): weights that make all classes with windows count the same.

    Their mean over the windows is 1; classes without windows have 0.
    """
    weights = []
    for r, size in enumerate(sizes):
        members = np.bincount(labels[:, r], minlength=size)
        present = members > 0
        share = np.where(present, len(labels) / (present.sum() * np.maximum(members, 1)), 0.0)
        weights.append(torch.from_numpy(share.astype(np.float32)))
    return weights


# ---------------------------------------------------------------- Explainer


def train_explainer(
    explainer: Explainer,
    explanandum: BaseExplanandum,
    tokenizer: Tokenizer,
    train: Windows,
    operator: str,
    loss_options: LossOptions,
    options: TrainingOptions,
    world: World,
    report: Report,
    *,
    refine: bool = False,
    evidence: float = 0.0,
    smoothed: int = 1,
    continued: bool = False,
    validation: Windows | None = None,
    run: RunFolder | None = None,
    state: State | None = None,
    save_every_s: float = 300.0,
) -> Result:
    """Train an Explainer for a frozen Explanandum (paper, section 2.2).

    Every step costs one plain forward pass of the Explanandum, and one forward and backward pass under
    m and under 1 - m.  The best weights are those with the lowest loss on (512 of) ``validation``.

    With ``refine``, for k-mers, the Explainer learns the mean of its own masks over all reading frames
    instead, and ``loss_options`` are not used.  What a token says of the bases at the edge of a motif, or
    around a mutation, depends on where its frame cuts them; the mean over frames does not.  The teacher is
    the Explainer as it is before.  Every step costs k plain forward passes.

    With ``evidence``, a share of the tokens, it learns instead which tokens speak most for a class: those by
    whose mask values its log probability falls fastest when all are whole, ``smoothed`` over an odd number of
    tokens, since a network that reads across the borders of tokens needs their neighbours too.
    ``loss_options`` are not used.  A ``state`` Explainer starts from what is linear in it
    (:func:`wyrcli.model.evidence.start_from_evidence`), unless it is ``continued``, and in the end a class
    marks that share.  A step costs a forward pass, and a backward pass for each rank.
    """
    explanandum.freeze()
    arguments = (explainer, explanandum, tokenizer, operator, loss_options, options, validation)
    task: _Explaining
    if refine:
        task = _Refining(*arguments)
    elif evidence:
        explanandum.to(world.device)
        explainer.to(world.device)
        if state is None and isinstance(explainer, StateExplainer) and not continued:
            first = (batch.to(world.device) for batch in _first_batches(train, tokenizer, options, _TO_START))
            start_from_evidence(explainer, explanandum, first, get_operator(operator))
        task = _Evidence(*arguments, share=evidence, smoothed=smoothed)
    else:
        task = _Explaining(*arguments)
    result = fit(
        task, train, tokenizer, options, world, report, run=run, state=state, save_every_s=save_every_s
    )
    if evidence:
        first = (batch.to(world.device) for batch in _first_batches(train, tokenizer, options, _TO_CALIBRATE))
        calibrate_share(explainer, explanandum, first, evidence)
    return result


class _Explaining(Task):
    def __init__(
        self,
        explainer: Explainer,
        explanandum: BaseExplanandum,
        tokenizer: Tokenizer,
        operator: str,
        loss: LossOptions,
        options: TrainingOptions,
        validation: Windows | None,
    ) -> None:
        super().__init__()
        self.trained = explainer
        self._explainer, self._explanandum, self._tokenizer = explainer, explanandum, tokenizer
        self._remove = get_operator(operator)
        self._loss, self._options = loss, options
        self._validation = validation

    def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        ranks = range(len(self._explanandum.sizes))
        if self._loss.single_rank and self.training:
            rng = np.random.default_rng([self._options.seed, piece.step])
            if rng.random() < self._loss.single_rank:
                # One rank's mask has to do alone, for that rank: or only their maximum would mean anything.
                one = int(rng.integers(len(ranks)))
                ranks = range(one, one + 1)
        explanandum = self._explanandum
        batch, labels = piece.batch, piece.labels
        with torch.no_grad():
            logits, states = explanandum.classify(batch)
            if self._loss.target_labels == "predicted":
                labels = explanandum.predict(logits)[0]
        class_logits = self._explainer(batch, states).float()
        chosen = select_masks(class_logits, explanandum.class_numbers(labels))
        target, by_class = chosen.target, chosen.by_class
        if len(ranks) < by_class.shape[-1]:
            target, by_class = by_class[..., ranks[0]], by_class[..., list(ranks)]
        mask = relax(target, self._loss.concrete_temperature, piece.noise[..., 0])
        shown = drop(mask, self._loss.dropping, piece.noise[..., 1]) if self._loss.dropping else mask
        # One pass of twice the batch for m and 1 - m.
        answers = explanandum(_twice(batch), torch.cat([shown, 1 - mask]), self._remove)
        answer, rest = answers.chunk(2)
        if self._loss.normalised:
            answer = per_token_kept(answer, explanandum.bias(), shown, batch.valid)
        kept, removed = explanandum.split(answer), explanandum.split(rest)
        with torch.autocast(labels.device.type, enabled=False):
            terms = explainer_loss(
                [kept[r] for r in ranks],
                [removed[r] for r in ranks],
                labels[:, list(ranks)],
                target.sigmoid(),
                chosen.non_target.sigmoid(),
                by_class.sigmoid(),
                batch.valid,
                self._loss,
            )
        # Sums over ranks weigh the same whether there is one or all.
        share = len(explanandum.sizes) / len(ranks)
        terms = terms._replace(classification=share * terms.classification, entropy=share * terms.entropy)
        return terms.total(self._loss), dict(zip(terms._fields, terms, strict=True))

    @torch.no_grad()
    def validate(self, world: World) -> dict[str, float]:
        """The loss and its terms, and what the rounded masks of the predicted classes are like.

        ``kept``: share of tokens above 0.5.  ``same_class`` and ``inverse_same_class``: share of windows that
        the rounded mask, and its inverse, leave in their class, mean over ranks.  ``by_position``: share of
        the mask's variance that its position alone explains.
        """
        if self._validation is None or len(self._validation) == 0:
            return {}
        n = min(len(self._validation), _MOST_EXAMINED)
        plan = Plan(len(self._validation), min(self._options.batch_size, n), self._options.seed)
        sums: dict[str, float] = {}
        windows = 0
        positions = _Positions()
        device = world.device
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self._options.precision == "bf16")
        pieces = cut_pieces(
            self._validation,
            self._tokenizer,
            plan,
            steps=range(min(-(-n // plan.batch_size), plan.steps_per_epoch)),
            accumulate=self._options.accumulate,
            n_frames=self.n_frames,
            number=world.number,
            size=world.size,
        )
        for piece in chain.from_iterable(pieces):
            own = piece.to(device)
            # A process that has nothing to do must know the names of the scores all the same.
            members = len(own.batch) if own.share else 0
            with autocast:
                loss, terms = self(own)
                values = {"loss": loss, **terms} | self._examine(own, positions if members else _Positions())
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value) * members
            windows += members
        names = sorted(sums)
        totals = torch.tensor([*(sums[x] for x in names), windows], dtype=torch.float64, device=device)
        *means, windows = world.sum(totals).tolist()
        scores = {name: value / windows for name, value in zip(names, means, strict=True)}
        return {"loss": scores.pop("loss"), **scores, "by_position": positions.share(world)}

    def _examine(self, piece: Piece, positions: _Positions) -> dict[str, Tensor]:
        explanandum, batch = self._explanandum, piece.batch
        logits, states = explanandum.classify(batch)
        classes = explanandum.predict(logits)[0]
        mask = self._explainer(batch, states, explanandum.class_numbers(classes)).float().amax(-1).sigmoid()
        positions.add(mask, batch.valid)
        rounded = (mask > 0.5).float()
        answers = explanandum(_twice(batch), torch.cat([rounded, 1 - rounded]), self._remove)
        same = [(explanandum.predict(part)[0] == classes).float().mean() for part in answers.chunk(2)]
        kept = (rounded * batch.valid).sum(-1) / batch.valid.sum(-1).clamp_min(1)
        return {"kept": kept.mean(), "same_class": same[0], "inverse_same_class": same[1]}


class _Refining(_Explaining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert isinstance(self._tokenizer, KmerTokenizer), "other tokens have no reading frames"
        self.n_frames = self._tokenizer.k
        # It stays as it is: masks that follow themselves may end anywhere.
        self._teacher = deepcopy(self._explainer).requires_grad_(False)

    def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        explanandum, teacher = self._explanandum, self._teacher.eval()
        valid = piece.batch.valid
        with torch.no_grad():
            logits, states = explanandum.classify(piece.batch)
            numbers = explanandum.class_numbers(explanandum.predict(logits)[0])
            masks = [teacher(piece.batch, states, numbers).sigmoid()]
            for frame in piece.frames:
                masks.append(teacher(frame, explanandum.classify(frame).states, numbers).sigmoid())
            batches = [piece.batch, *piece.frames]
            _, wanted = average_frames(masks, batches)
            kept = [
                area((own > 0.5).float().transpose(1, 2), batch.valid[:, None])
                for own, batch in zip(masks, batches, strict=True)
            ]
            wanted = match_area(wanted, _WIDER * torch.stack(kept).mean(0), valid)
        chosen = select_masks(self._explainer(piece.batch, states).float(), numbers)
        with torch.autocast(valid.device.type, enabled=False):
            each = F.binary_cross_entropy_with_logits(chosen.by_class, wanted, reduction="none")
            difference = area(each.mean(-1), valid).mean()
            others = area(chosen.non_target.sigmoid(), valid).mean()
        return difference + _OTHERS * others, {"difference": difference, "non_target_area": others}


class _Evidence(_Explaining):
    def __init__(self, *arguments: Any, share: float, smoothed: int) -> None:
        super().__init__(*arguments)
        self._share, self._smoothed = share, smoothed

    def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        batch = piece.batch
        evidence, states, classes = find_evidence(self._explanandum, batch, self._remove)
        wanted = torch.stack(
            [mark_share(smooth(own, self._smoothed), batch.valid, self._share) for own in evidence], -1
        )
        own = self._explainer(batch, states, classes).float()
        with torch.autocast(own.device.type, enabled=False):
            each = F.binary_cross_entropy_with_logits(own, wanted, reduction="none").mean(-1)
            difference = area(each, batch.valid).mean()
            marked = area((own > 0).float().mean(-1), batch.valid).mean()
        return difference, {"difference": difference, "marked": marked}


class _Positions:
    """How much of the variance of masks their position explains; it should be next to nothing."""

    def __init__(self) -> None:
        self._sums = torch.zeros(3, 0, dtype=torch.float64)  # per position: tokens, masks, squares

    def add(self, mask: Tensor, valid: Tensor) -> None:
        mask = (mask * valid).double().cpu()
        own = torch.stack([valid.double().cpu().sum(0), mask.sum(0), (mask * mask).sum(0)])
        longer = max(own.shape[1], self._sums.shape[1])
        self._sums = F.pad(self._sums, (0, longer - self._sums.shape[1]))
        self._sums += F.pad(own, (0, longer - own.shape[1]))

    def share(self, world: World) -> float:
        longest = torch.zeros(world.size, dtype=torch.int64, device=world.device)
        longest[world.number] = self._sums.shape[1]
        length = int(world.sum(longest).max())
        sums = F.pad(self._sums, (0, length - self._sums.shape[1])).to(world.device)
        n, total, squares = world.sum(sums).cpu()
        several = n > 1
        n, total, squares = n[several], total[several], squares[several]
        if not len(n):
            return 0.0
        mean = total.sum() / n.sum()
        variance = squares.sum() - n.sum() * mean**2
        between = (n * (total / n - mean) ** 2).sum()
        return float(between / variance) if variance > 1e-9 * n.sum() else 0.0


def find_degenerate(scores: dict[str, float]) -> str | None:
    """What is wrong with the masks of an Explainer, by its validation scores; None if nothing is seen."""
    if not scores or "kept" not in scores:
        return None
    if scores["kept"] > 0.95:
        return "the rounded masks keep nearly everything; more weight on the area may help"
    if scores["kept"] < 0.002:
        return "the rounded masks hide nearly everything; less weight on the area may help"
    if scores["by_position"] > 0.8:
        return "the masks depend on the position more than on the sequence"
    return None


def _twice(batch: TokenBatch) -> TokenBatch:
    # No model reads the spans.
    return replace(
        batch,
        ids=torch.cat([batch.ids, batch.ids]),
        attention=torch.cat([batch.attention, batch.attention]),
        valid=torch.cat([batch.valid, batch.valid]),
    )
