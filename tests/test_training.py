"""Training a classifier and an Explainer: what is learnt, what stays as it is, and what is told."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from toy import (
    MIXED,
    TAXONOMY,
    TOKENIZER,
    ConstantExplainer,
    Labelled,
    backbone,
    explainer,
    explanandum,
    labelled,
)

from wyrcli.batching import Plan, cut_pieces
from wyrcli.distribution import World
from wyrcli.engine import Progress, TrainingOptions
from wyrcli.errors import Interrupted
from wyrcli.metrics import balanced_accuracy
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.loss import PRESETS
from wyrcli.model.tokens import TokenBatch
from wyrcli.runs import RunFolder
from wyrcli.training import (
    classify_windows,
    find_degenerate,
    finetune,
    train_explainer,
    validate,
    weigh_classes,
)

ALONE = World()
DATA = labelled(64)
UNSEEN = labelled(40, seed=1)


def ignore(progress: Progress) -> None:
    """A report that nobody reads."""


def fresh(seed: int = 0) -> Explanandum:
    """An untrained classifier that is not frozen."""
    torch.manual_seed(seed)
    return Explanandum(backbone(seed), TAXONOMY.sizes)


def flat(module: nn.Module) -> Tensor:
    """All weights in one row."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def train_masks(masks: nn.Module, options: TrainingOptions, **more: object) -> object:
    """Train an Explainer of the toy classifier with the preset ``balanced``: concrete noise, single ranks."""
    report, preset = more.pop("report", ignore), PRESETS[str(more.pop("preset", "balanced"))]
    return train_explainer(
        masks, explanandum(), TOKENIZER, DATA, "gate", preset, options, ALONE, report, **more
    )  # type: ignore[arg-type]


# ---------------------------------------------------------------- the classifier


def test_finetune_lowers_the_loss(device: torch.device) -> None:
    """Fifty steps on sequences whose letters tell their classes."""
    model, seen, world = fresh(), list[Progress](), World(device=device)
    options = TrainingOptions(learning_rate=1e-2, batch_size=16, steps=50)
    result = finetune(model, TOKENIZER, DATA, options, world, seen.append)
    assert [p.step for p in seen] == [25, 50] and {p.total_steps for p in seen} == {50}
    assert result.last == seen[-1].values and result.steps == 50 and result.scores == {}
    assert set(result.last) == {"loss", "accuracy_0", "accuracy_1", "windows_per_s", "learning_rate"}
    assert result.last["loss"] < 0.8 * seen[0].values["loss"]
    assert not model.training
    assert min(validate(model, TOKENIZER, DATA, world)) > 0.7


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_same_weights(precision: str) -> None:
    """A seed makes a run repeatable; another seed makes another run."""
    weights = []
    for seed in (3, 3, 4):
        model = fresh()
        options = TrainingOptions(
            batch_size=16, steps=5, seed=seed, precision=precision, reverse_complement=True
        )
        finetune(model, TOKENIZER, DATA, options, ALONE, ignore)
        weights.append(flat(model))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].dtype == torch.float32


@pytest.mark.parametrize("weighted", [False, True])
def test_pieces_of_a_step_do_not_matter_to_a_classifier(weighted: bool) -> None:
    """Also with class weights, whose sum differs from piece to piece: float64, exact but for rounding."""
    found = []
    for accumulate in (1, 4):
        model = fresh().double()
        options = TrainingOptions(learning_rate=1e-2, batch_size=10, steps=8, accumulate=accumulate)
        weights = [w.double() for w in weigh_classes(DATA.labels, TAXONOMY.sizes)] if weighted else None
        last = finetune(model, TOKENIZER, DATA, options, ALONE, ignore, class_weights=weights).last
        found.append((flat(model), last["loss"], last["accuracy_1"]))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-8)
    assert found[0][1:] == pytest.approx(found[1][1:], rel=1e-6)


@pytest.mark.parametrize("metric", ["", "loss", "balanced_accuracy_superkingdom"])
def test_scores_on_the_validation_split(metric: str) -> None:
    """They are those of the weights that are kept, and the metric is at its best there."""
    model, seen = fresh(), list[Progress]()
    options = TrainingOptions(learning_rate=2e-2, batch_size=16, steps=20, validate_every=4)
    result = finetune(
        model, TOKENIZER, DATA, options, ALONE, seen.append,
        validation=UNSEEN, ranks=TAXONOMY.ranks, metric=metric,
    )  # fmt: skip
    told = [p.values for p in seen if p.is_validation]
    assert len(told) == 5 and result.scores in told
    name = metric or "balanced_accuracy_phylum"
    best = min if metric == "loss" else max
    assert result.scores[name] == best(scores[name] for scores in told)
    now = validate(model, TOKENIZER, UNSEEN, ALONE)
    assert now == [result.scores[f"balanced_accuracy_{rank}"] for rank in TAXONOMY.ranks]
    labels = torch.from_numpy(UNSEEN.labels)
    with torch.no_grad():
        logits = model.split(model(TOKENIZER.batch(UNSEEN.sequences)))
    loss = sum(F.cross_entropy(own, labels[:, r]).item() for r, own in enumerate(logits))
    assert result.scores["loss"] == pytest.approx(loss, rel=1e-5)


# ---------------------------------------------------------------- the Explainer


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
    last = train_explainer(
        masks, model, TOKENIZER, DATA, operator, PRESETS[preset], options, World(device=device), ignore
    ).last
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
    train_masks(explainer("state"), options, report=seen.append)
    assert seen[-1].values["loss"] < seen[0].values["loss"]


@pytest.mark.parametrize("preset", ["balanced", "compact"])
def test_pieces_of_a_step_do_not_matter_to_a_state_explainer(preset: str) -> None:
    """Nor with concrete noise, dropping and single ranks.  (``lstm`` has batch normalisation: there they do.)

    Masks are float32 whatever the weights are: rounding is 1e-7 of them, and Adam may make more of it where a
    gradient is next to nothing.
    """
    found = []
    for accumulate in (1, 4):
        masks = explainer("state")
        options = TrainingOptions(learning_rate=1e-3, batch_size=10, steps=6, accumulate=accumulate)
        train_masks(masks, options, preset=preset)
        found.append(flat(masks))
    assert torch.allclose(*found, rtol=0, atol=1e-5)
    assert not torch.allclose(found[0], flat(explainer("state")), rtol=0, atol=1e-4)


def test_an_explainer_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Bit for bit, batch normalisation and concrete noise included."""
    options = TrainingOptions(learning_rate=1e-2, batch_size=10, steps=8, validate_every=3)
    for kind in ("state", "lstm"):
        whole = explainer(kind)
        train_masks(whole, options, validation=UNSEEN)
        run = RunFolder(tmp_path / kind, {})
        state = run.begin(resume=False)
        stopped = explainer(kind)

        def stop(progress: Progress) -> None:
            if progress.is_validation and progress.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted):
            train_masks(stopped, options, validation=UNSEEN, run=run, state=state, report=stop)
        again = explainer(kind, seed=5)
        train_masks(again, options, validation=UNSEEN, run=run, state=run.begin(resume=True))
        assert all(torch.equal(t, whole.state_dict()[name]) for name, t in again.state_dict().items())


class ByPlace(ConstantExplainer):
    """Mask logits that depend on the place of a token only, in a cycle."""

    def __init__(self, *cycle: float) -> None:
        super().__init__(0.0)
        self.cycle = nn.Parameter(torch.tensor(cycle, dtype=torch.float32))

    def forward(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        place = torch.arange(batch.ids.shape[1]) % len(self.cycle)
        return super().forward(batch, states, classes) + self.cycle[place][None, :, None]


def score_masks(masks: ByPlace) -> dict[str, float]:
    """What the validation says of them."""
    seen = list[Progress]()
    options = TrainingOptions(learning_rate=0, batch_size=9, steps=1)
    train_masks(masks, options, validation=UNSEEN, report=seen.append)
    return seen[-1].values


@pytest.mark.parametrize(("logit", "kept"), [(3.0, 1.0), (-3.0, 0.0)])
def test_scores_of_masks_that_say_nothing(logit: float, kept: float) -> None:
    """A mask of ones leaves every window in its class, and one of zeros in that of the heads' biases."""
    scores, model = score_masks(ByPlace(logit)), explanandum()
    classes = classify_windows(model, TOKENIZER, UNSEEN, ALONE)
    by_chance = float((classes == model.predict(model.bias()[None])[0].numpy()).mean())
    assert scores["kept"] == kept
    assert scores["same_class"] == pytest.approx(1 if kept else by_chance)
    assert scores["inverse_same_class"] == pytest.approx(by_chance if kept else 1)
    assert scores["by_position"] == 0
    assert scores["target_area"] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-5)
    assert find_degenerate(scores) is not None


def test_masks_by_position_are_seen() -> None:
    """Where a mask depends on nothing but the place of a token, all of its variance is by position."""
    scores = score_masks(ByPlace(-1, 0, 1))
    assert scores["by_position"] == pytest.approx(1, abs=1e-6)
    assert "position" in (find_degenerate(scores) or "")


def test_what_is_degenerate() -> None:
    """Masks of everything, of nothing, and of places; anything else is not."""
    fine = {"loss": 1.0, "kept": 0.2, "by_position": 0.05}
    assert find_degenerate(fine) is None and find_degenerate({}) is None
    assert find_degenerate({"loss": 1.0, "balanced_accuracy_genus": 0.1}) is None
    assert "nearly everything" in (find_degenerate(fine | {"kept": 0.99}) or "")
    assert "less weight on the area" in (find_degenerate(fine | {"kept": 0.001}) or "")
    assert "position" in (find_degenerate(fine | {"by_position": 0.9}) or "")


# ---------------------------------------------------------------- predictions


def test_classify_windows() -> None:
    """Predictions of all windows, of many lengths and more than fit a batch, as of each alone."""
    model = explanandum()
    texts = [MIXED[i % len(MIXED)] for i in range(300)]
    data = Labelled(texts, np.zeros((len(texts), 2), dtype=np.int64))
    expected = np.concatenate([model.predict(model(TOKENIZER.batch([text])))[0].numpy() for text in texts])
    assert classify_windows(model, TOKENIZER, data, ALONE).tolist() == expected.tolist()
    empty = Labelled([], np.zeros((0, 2), dtype=np.int64))
    assert classify_windows(model, TOKENIZER, empty, ALONE).shape == (0, 2)


def test_validate_is_balanced_accuracy() -> None:
    """Of each rank; the mean over its classes, not over windows."""
    model = explanandum()
    predicted = classify_windows(model, TOKENIZER, DATA, ALONE)
    expected = [balanced_accuracy(DATA.labels[:, r], predicted[:, r]) for r in range(2)]
    assert validate(model, TOKENIZER, DATA, ALONE) == expected


# ---------------------------------------------------------------- class weights


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=50))
def test_class_weights(labels: list[tuple[int, int]]) -> None:
    """Their mean over the windows is 1, and every class that is there has the same sum."""
    sizes = (4, 7)
    for r, weights in enumerate(weigh_classes(np.array(labels), sizes)):
        own = np.array(labels)[:, r]
        assert weights.shape == (sizes[r],) and weights.dtype == torch.float32
        of_windows = weights.numpy()[own]
        assert of_windows.mean() == pytest.approx(1, rel=1e-5)
        present = np.unique(own)
        sums = [of_windows[own == c].sum() for c in present]
        assert sums == pytest.approx([len(labels) / len(present)] * len(present), rel=1e-5)
        assert set(np.flatnonzero(weights.numpy())) == set(present)


def test_balanced_classes_weigh_one() -> None:
    """Where all classes are alike, nothing changes."""
    labels = np.array([[i % 2, i % 3] for i in range(12)])
    assert all(torch.equal(w, torch.ones(len(w))) for w in weigh_classes(labels, (2, 3)))


def test_class_weights_are_used() -> None:
    """A class that counts for nothing is not learnt; the loss is the weighted mean over windows."""
    data = labelled(40)
    model, seen = fresh(), list[Progress]()
    options = TrainingOptions(learning_rate=0.0, batch_size=40, steps=1)
    weights = [torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.5, 3.0])]
    finetune(model, TOKENIZER, data, options, ALONE, seen.append, class_weights=weights)
    ((piece,),) = cut_pieces(data, TOKENIZER, Plan(40, 40, 0), steps=range(1))
    with torch.no_grad():
        logits = model.split(model(piece.batch))
    expected = sum(
        (weights[r][piece.labels[:, r]] * F.cross_entropy(own, piece.labels[:, r], reduction="none")).mean()
        for r, own in enumerate(logits)
    )
    assert seen[-1].values["loss"] == pytest.approx(float(expected), rel=1e-5)
