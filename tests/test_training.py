"""Training: the loop, its batches, and that an Explainer leaves its Explanandum alone."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import MIXED, TAXONOMY, TOKENIZER, Labelled, backbone, explainer, explanandum, labelled

from wyrcli.errors import InputError
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.loss import PRESETS
from wyrcli.training import (
    Progress,
    TrainingOptions,
    classify_windows,
    draw_batches,
    finetune,
    fit,
    train_explainer,
    validate,
)

CPU = torch.device("cpu")
QUICK = TrainingOptions(learning_rate=5e-3, batch_size=16, steps=30, seed=3)
DATA = labelled(64)


def ignore(progress: Progress) -> None:
    """A report that nobody reads."""


def fresh(seed: int = 0) -> Explanandum:
    """An untrained classifier that is not frozen."""
    torch.manual_seed(seed)
    return Explanandum(backbone(seed), TAXONOMY.sizes)


def texts_of(ids: Tensor) -> list[str]:
    """Sequences back from token ids."""
    words = TOKENIZER.vocabulary
    return ["".join(words[i] for i in row if not words[i].startswith("<")) for row in ids.tolist()]


def test_finetune_lowers_the_loss(device: torch.device) -> None:
    """Thirty steps on sequences whose letters tell their classes."""
    model, seen = fresh(), list[Progress]()
    options = TrainingOptions(learning_rate=1e-2, batch_size=16, steps=50)
    last = finetune(model, TOKENIZER, DATA, options, device, seen.append)
    assert [p.step for p in seen] == [25, 50] and {p.total_steps for p in seen} == {50}
    assert last == seen[-1].values and set(last) == {"loss", "accuracy_0", "accuracy_1"}
    assert last["loss"] < 0.8 * seen[0].values["loss"]
    assert not model.training
    assert min(validate(model, TOKENIZER, DATA, device)) > 0.7


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_same_weights(precision: str) -> None:
    """A seed makes a run repeatable; another seed makes another run."""
    weights = []
    for seed in (3, 3, 4):
        model = fresh()
        options = TrainingOptions(
            batch_size=16, steps=5, seed=seed, precision=precision, reverse_complement=True
        )
        finetune(model, TOKENIZER, DATA, options, CPU, ignore)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].dtype == torch.float32


@pytest.mark.parametrize("preset", ["paper", "balanced"])
@pytest.mark.parametrize(("kind", "operator"), [("state", "gate"), ("lstm", "gate"), ("state", "scale")])
def test_explainer_leaves_the_explanandum_alone(
    kind: str, operator: str, preset: str, device: torch.device
) -> None:
    """Its weights stay bit for bit, it stays in eval mode, and every weight of the Explainer moves."""
    model, masks = fresh(), explainer(kind).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    start = {name: p.detach().clone() for name, p in masks.named_parameters()}
    options = TrainingOptions(learning_rate=1e-2, batch_size=8, steps=3)
    last = train_explainer(masks, model, TOKENIZER, DATA, operator, PRESETS[preset], options, device, ignore)
    assert all(torch.equal(t.cpu(), before[name]) for name, t in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert all(math.isfinite(value) for value in last.values()) and "total_variation" in last
    # The embeddings of tokens that never came stay; weight decay is off.
    assert all(not torch.equal(p.cpu(), start[name]) for name, p in masks.named_parameters())
    assert not masks.training


def test_explainer_learns() -> None:
    """The loss of an Explainer falls."""
    seen = list[Progress]()
    options = TrainingOptions(learning_rate=1e-2, batch_size=16, steps=75)
    train_explainer(
        explainer("state"),
        explanandum(),
        TOKENIZER,
        DATA,
        "gate",
        PRESETS["balanced"],
        options,
        CPU,
        seen.append,
    )
    assert seen[-1].values["loss"] < seen[0].values["loss"]


@pytest.mark.parametrize(("n", "size"), [(12, 4), (13, 4), (3, 8), (1, 1)])
def test_draw_batches(n: int, size: int) -> None:
    """Every window at most once an epoch, all of them where sizes divide, and in another order each time."""
    data = labelled(n, length=40)
    options = TrainingOptions(batch_size=size)
    per_epoch = n // min(size, n)
    stream = draw_batches(data, TOKENIZER, options)
    orders = []
    for _ in range(2):
        seen = []
        for batch, labels in islice(stream, per_epoch):
            assert len(batch) == min(size, n)
            for text, label in zip(texts_of(batch.ids), labels.tolist(), strict=True):
                place = list(data.sequences).index(text)
                assert data.labels[place].tolist() == label
                seen.append(place)
        assert len(seen) == len(set(seen)) == per_epoch * min(size, n)
        orders.append(seen)
    assert n < 4 or orders[0] != orders[1]


def test_reverse_complement() -> None:
    """About half of the windows are turned round, and N stays N."""
    text = "AACCGTNACGGA"
    turned = "TCCGTNACGGTT"
    data = Labelled([text] * 64, np.zeros((64, 2), dtype=np.int64))
    options = TrainingOptions(batch_size=64, reverse_complement=True)
    batch, _ = next(draw_batches(data, TOKENIZER, options))
    texts = texts_of(batch.ids)
    assert set(texts) == {text, turned} and 16 < texts.count(turned) < 48
    batch, _ = next(draw_batches(data, TOKENIZER, TrainingOptions(batch_size=64)))
    assert set(texts_of(batch.ids)) == {text}


def test_number_of_steps() -> None:
    """Steps override epochs; a small set still makes one step an epoch."""
    assert TrainingOptions(batch_size=8, epochs=3).total_steps(17) == 6
    assert TrainingOptions(batch_size=8, epochs=3).total_steps(2) == 3
    assert TrainingOptions(batch_size=8, epochs=3, steps=5).total_steps(17) == 5


def test_schedule() -> None:
    """The learning rate rises linearly over the warm-up and then falls to zero on a cosine."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(weight.weight)
    values = [0.0]

    def step(batch: object, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        values.append(weight.weight.item())
        return -weight.weight.sum(), {}

    options = TrainingOptions(learning_rate=1.0, warmup=0.5, batch_size=4)
    fit(weight, step, draw_batches(DATA, TOKENIZER, options), 8, options, CPU, ignore)
    values.append(weight.weight.item())
    moved = np.diff(values[1:])  # Adam steps by the learning rate where the gradient never changes
    expected = [0.25, 0.5, 0.75, 1, *(0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4))]
    assert moved == pytest.approx(expected, abs=1e-4)


def test_divergence_is_an_error() -> None:
    """A loss that is not a number ends the training with a word of advice."""
    weight = nn.Linear(1, 1)
    with pytest.raises(InputError, match="diverged at step 1; try a lower learning rate"):
        fit(
            weight,
            lambda batch, labels: (weight.weight.sum() * math.nan, {}),
            draw_batches(DATA, TOKENIZER, QUICK),
            3,
            QUICK,
            CPU,
            ignore,
        )


def test_empty_training_split() -> None:
    """Nothing to learn from is an error of the input."""
    with pytest.raises(InputError, match="empty"):
        next(draw_batches(Labelled([], np.zeros((0, 2), dtype=np.int64)), TOKENIZER, QUICK))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_classify_windows(size: int) -> None:
    """Predictions of all windows, of many lengths, whatever the batch size."""
    model = explanandum()
    data = Labelled(MIXED, np.zeros((len(MIXED), 2), dtype=np.int64))
    expected = model.predict(model(TOKENIZER.batch(MIXED)))[0]
    assert classify_windows(model, TOKENIZER, data, CPU, size).tolist() == expected.tolist()
    empty = Labelled([], np.zeros((0, 2), dtype=np.int64))
    assert classify_windows(model, TOKENIZER, empty, CPU, size).shape == (0, 2)
