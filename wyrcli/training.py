"""One loop that trains, and the two things it trains: an Explanandum and an Explainer.

:func:`fit` draws batches, steps an optimiser and reports; :func:`finetune` and :func:`train_explainer`
give it a function from a batch to a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.errors import InputError
from wyrcli.metrics import balanced_accuracy
from wyrcli.model.explainer import Explainer, select_masks
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.loss import LossOptions, explainer_loss, relax
from wyrcli.model.masking import get_operator
from wyrcli.model.tokens import KmerTokenizer, TokenBatch

__all__ = ["Progress", "TrainingOptions", "finetune", "train_explainer"]


class Windows(Protocol):
    """Labelled windows, as ``dataset.LabelledWindows`` gives them."""

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """Class within each rank, (N, R)."""

    @property
    def sequences(self) -> Sequence[str]:
        """N sequences."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.  The defaults are the paper's for the Explanandum (section 3.3), which clips nothing.

    ``steps`` overrides ``epochs`` where it is not 0.  ``warmup``: share of the steps during which the
    learning rate rises linearly before its cosine falls.  ``precision``: fp32 or bf16 (autocast).
    ``reverse_complement``: each window is turned round with probability one half.
    """

    learning_rate: float = 2e-4
    batch_size: int = 128
    epochs: int = 5
    steps: int = 0
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: str = "fp32"
    reverse_complement: bool = False
    seed: int = 0

    def total_steps(self, n_windows: int) -> int:
        """Number of optimiser steps for a training set of that size."""
        return self.steps or self.epochs * max(n_windows // self.batch_size, 1)


class Progress(NamedTuple):
    """What :func:`fit` tells its caller now and then; ``values`` are means since the last report."""

    step: int
    total_steps: int
    values: dict[str, float]


Report = Callable[[Progress], None]
Step = Callable[[TokenBatch, Tensor], tuple[Tensor, dict[str, float]]]

_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def draw_batches(
    windows: Windows, tokenizer: KmerTokenizer, options: TrainingOptions
) -> Iterator[tuple[TokenBatch, Tensor]]:
    """Endless shuffled batches; every window once an epoch, the last incomplete batch left out."""
    n = len(windows)
    if n == 0:
        raise InputError("the training split is empty")
    size = min(options.batch_size, n)
    rng = np.random.default_rng(options.seed)
    while True:
        order = rng.permutation(n)
        for first in range(0, n - size + 1, size):
            chosen = order[first : first + size]
            sequences = [windows.sequences[int(i)] for i in chosen]
            if options.reverse_complement:
                turn = rng.random(size) < 0.5
                sequences = [
                    s[::-1].translate(_COMPLEMENT) if t else s for s, t in zip(sequences, turn, strict=True)
                ]
            yield tokenizer.batch(sequences), torch.from_numpy(windows.labels[chosen].astype(np.int64))


def fit(
    module: nn.Module,
    step: Step,
    batches: Iterator[tuple[TokenBatch, Tensor]],
    total_steps: int,
    options: TrainingOptions,
    device: torch.device,
    report: Report,
    report_every: int = 25,
) -> dict[str, float]:
    """Step ``total_steps`` times over ``batches``; returns the values of the last report.

    Adam (AdamW where weight decay is asked for), linear warm-up, cosine to zero, clipped gradients.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    warmup = int(options.warmup * total_steps)

    def rate(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(total_steps - warmup, 1)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    sums: dict[str, float] = {}
    since, last = 0, {}
    module.train()
    for done in range(1, total_steps + 1):
        batch, labels = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            loss, values = step(batch.to(device), labels.to(device))
        if not math.isfinite(loss.item()):
            raise InputError(f"training diverged at step {done}; try a lower learning rate")
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        optimiser.step()
        schedule.step()
        for name, value in {"loss": loss.item(), **values}.items():
            sums[name] = sums.get(name, 0.0) + value
        since += 1
        if done % report_every == 0 or done == total_steps:
            last = {name: value / since for name, value in sums.items()}
            report(Progress(done, total_steps, last))
            sums, since = {}, 0
    module.eval()
    return last


def finetune(
    explanandum: Explanandum,
    tokenizer: KmerTokenizer,
    train: Windows,
    options: TrainingOptions,
    device: torch.device,
    report: Report,
) -> dict[str, float]:
    """Train a classifier: sum over ranks of the cross-entropies (paper, section 3.2)."""
    explanandum.to(device)

    def step(batch: TokenBatch, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        per_rank = explanandum.split(explanandum(batch))
        losses = [F.cross_entropy(logits, labels[:, r]) for r, logits in enumerate(per_rank)]
        right = [(logits.argmax(-1) == labels[:, r]).float().mean() for r, logits in enumerate(per_rank)]
        return torch.stack(losses).sum(), {f"accuracy_{r}": a.item() for r, a in enumerate(right)}

    torch.manual_seed(options.seed)
    total = options.total_steps(len(train))
    return fit(explanandum, step, draw_batches(train, tokenizer, options), total, options, device, report)


def train_explainer(
    explainer: Explainer,
    explanandum: Explanandum,
    tokenizer: KmerTokenizer,
    train: Windows,
    operator: str,
    loss_options: LossOptions,
    options: TrainingOptions,
    device: torch.device,
    report: Report,
) -> dict[str, float]:
    """Train an Explainer for a frozen Explanandum (paper, section 2.2).

    Every step costs one plain forward pass of the Explanandum, and one forward and backward pass under
    m and under 1 - m.
    """
    explanandum.freeze().to(device)
    explainer.to(device)
    remove = get_operator(operator)
    n_ranks = len(explanandum.sizes)

    def step(batch: TokenBatch, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            logits, states = explanandum.classify(batch)
            if loss_options.target_labels == "predicted":
                labels = explanandum.predict(logits)[0]
        class_logits = explainer(batch, states).float()
        chosen = select_masks(class_logits, explanandum.class_numbers(labels))
        ranks = list(range(n_ranks))
        target, by_class = chosen.target, chosen.by_class
        if torch.rand(()).item() < loss_options.single_rank:
            # One rank's mask has to do alone, for that rank: or only their maximum would mean anything.
            ranks = [int(torch.randint(n_ranks, ()).item())]
            target, by_class = by_class[..., ranks[0]], by_class[..., ranks]
        mask = relax(target, loss_options.concrete_temperature)
        # One pass of twice the batch for m and 1 - m.
        answers = explanandum(_twice(batch), torch.cat([mask, 1 - mask]), remove)
        kept, removed = (explanandum.split(part) for part in answers.chunk(2))
        with torch.autocast(device.type, enabled=False):
            terms = explainer_loss(
                [kept[r] for r in ranks],
                [removed[r] for r in ranks],
                labels[:, ranks],
                target.sigmoid(),
                chosen.non_target.sigmoid(),
                by_class.sigmoid(),
                batch.valid,
                loss_options,
            )
        share = n_ranks / len(ranks)  # sums over ranks weigh the same whether there is one or all
        terms = terms._replace(classification=share * terms.classification, entropy=share * terms.entropy)
        values = {name: term.item() for name, term in zip(terms._fields, terms, strict=True)}
        return terms.total(loss_options), values

    torch.manual_seed(options.seed)
    total = options.total_steps(len(train))
    return fit(explainer, step, draw_batches(train, tokenizer, options), total, options, device, report)


def _twice(batch: TokenBatch) -> TokenBatch:
    return TokenBatch(
        torch.cat([batch.ids, batch.ids]),
        torch.cat([batch.attention, batch.attention]),
        torch.cat([batch.valid, batch.valid]),
        np.concatenate([batch.spans, batch.spans]),
        batch.padded,
    )


@torch.inference_mode()
def classify_windows(
    explanandum: Explanandum,
    tokenizer: KmerTokenizer,
    windows: Windows,
    device: torch.device,
    batch_size: int = 128,
) -> NDArray[np.int64]:
    """Predicted class within each rank, (N, R)."""
    explanandum.eval()
    predicted = []
    for first in range(0, len(windows), batch_size):
        sequences = [windows.sequences[i] for i in range(first, min(first + batch_size, len(windows)))]
        logits = explanandum(tokenizer.batch(sequences).to(device))
        predicted.append(explanandum.predict(logits)[0].cpu().numpy())
    return np.concatenate(predicted) if predicted else np.zeros((0, len(explanandum.sizes)), np.int64)


def validate(
    explanandum: Explanandum, tokenizer: KmerTokenizer, windows: Windows, device: torch.device
) -> list[float]:
    """Balanced accuracy per rank."""
    predicted = classify_windows(explanandum, tokenizer, windows, device)
    return [balanced_accuracy(windows.labels[:, r], predicted[:, r]) for r in range(len(explanandum.sizes))]
