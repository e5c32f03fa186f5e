"""The peers on games and models whose right answers are known, and against captum and shap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations, product
from math import comb
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from toy import MIXED, TAXONOMY, TOKENIZER, backbone, explanandum, randomise, sequences

from wyrcli import attribution, peers
from wyrcli.attribution import (
    Game,
    fit_lime,
    fit_shapley,
    kernel_shap,
    lime,
    neighbour_tree,
    partition_shap,
)
from wyrcli.errors import WyrError
from wyrcli.examination import Subject
from wyrcli.model.backbone import _rotary_tables, _rotate
from wyrcli.model.encoders import read_encoder
from wyrcli.model.explanandum import BaseExplanandum, Explanandum
from wyrcli.model.masking import gate
from wyrcli.peers import PEERS, Options

CPU = torch.device("cpu")
FEW = Options(seed=3, lime_samples=40, shap_samples=60, steps=6, evaluations=30)
PLAIN = [name for name, peer in PEERS.items() if not peer.needs]
READ = "ACGTTGCAACGNNTTGACCATTACGG"


def subject(
    model: BaseExplanandum | None = None, batch_size: int = 64, device: torch.device = CPU
) -> Subject:
    """The toy classifier, ready to be asked."""
    return Subject((model or explanandum()).to(device), TOKENIZER, device, batch_size)


def explain(
    name: str, own: Subject, texts: Sequence[str] = MIXED, options: Options = FEW
) -> list[NDArray[np.float64]]:
    """Scores of the predicted classes."""
    return PEERS[name].explain(own, texts, own.best(own.log_probabilities(texts)), options)


def value(own: Subject, text: str, mask: Sequence[float] | None = None) -> float:
    """Sum over ranks of the log-probability of the predicted class, asked one window at a time."""
    classes = own.best(own.log_probabilities([text]))
    masks = None if mask is None else [np.array(mask, np.float32)]
    return float(own.of_classes(own.log_probabilities([text], masks), classes).sum())


class Played:
    """A game of one window with any value function: what the sampling methods ask of a ``Game``."""

    def __init__(self, n: int, worth: Callable[[NDArray[np.bool_]], float]) -> None:
        self.counts = [n]
        self.worth = worth
        self.asked = 0

    def draws(self, seed: int) -> list[np.random.Generator]:
        return [np.random.default_rng(seed)]

    def values(self, coalitions: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.float64]]:
        self.asked += sum(map(len, coalitions))
        return [np.array([self.worth(row) for row in own]) for own in coalitions]


def play(method: Any, game: Played, options: Options) -> NDArray[np.float64]:
    """Scores of the only window."""
    (scores,) = method(game, options)
    return np.asarray(scores)


def random_game(n: int, seed: int = 0) -> Played:
    """Any number for any coalition."""
    table = np.random.default_rng(seed).normal(size=2**n)
    return Played(n, lambda row: float(table[int(row @ (1 << np.arange(n)))]))


def linear_game(n: int, seed: int = 0) -> tuple[Played, NDArray[np.float64]]:
    """Each token earns its weight; beside them a value of nothing."""
    weights = np.random.default_rng(seed).normal(size=n)
    return Played(n, lambda row: 0.7 + float(row @ weights)), weights


def shapley_values(game: Played) -> NDArray[np.float64]:
    """By the definition: the mean rise at a token's entry over all orders."""
    (n,) = game.counts
    found = np.zeros(n)
    orders = list(permutations(range(n)))
    for order in orders:
        inside = np.zeros(n, np.bool_)
        for token in order:
            before = game.worth(inside)
            inside[token] = True
            found[token] += (game.worth(inside) - before) / len(orders)
    return found


# ---------------------------------------------------------------- all of them


def test_registry() -> None:
    """Each has its name, a sentence that says what it is, and a price."""
    for name, peer in PEERS.items():
        assert peer.name == name and peer.description.endswith(".")
    prices = {name: peer.passes(250, Options(lime_samples=500)) for name, peer in PEERS.items()}
    assert prices["occlusion"] == 251 and prices["lime"] == 500
    assert prices["integrated-gradients"] == prices["gate-integrated-gradients"] == 150
    assert (
        prices["kernel-shap"] == 2 * 250 + 2048 + 2
        and prices["random"] == 0
        and prices["attention"] == 1
        and prices["gradient-norm"] == prices["gate-gradient"] == 3
    )


@pytest.mark.parametrize("name", PLAIN)
def test_passes_are_what_is_spent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of rows that the network is asked for, window by window."""
    own, rows = subject(batch_size=7), 0
    classify = own.explanandum.classify
    classes = own.best(own.log_probabilities([READ] * 2))

    def counted(batch: Any, *args: Any, **options: Any) -> Any:
        nonlocal rows
        rows += len(batch)
        return classify(batch, *args, **options)

    monkeypatch.setattr(own.explanandum, "classify", counted)
    PEERS[name].explain(own, [READ] * 2, classes, FEW)
    n = len(TOKENIZER.encode(READ)) - 1
    times = 3 if PEERS[name].differentiates else 1
    assert rows * times == 2 * PEERS[name].passes(n, FEW)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("name", PLAIN)
def test_batches_and_neighbours_change_nothing(name: str, pooling: str, device: torch.device) -> None:
    """Windows of many lengths, in any order, alone or together: one score per valid token, the same."""
    together = explain(name, subject(explanandum(pooling=pooling), 64, device))
    assert [len(own) for own in together] == [len(TOKENIZER.encode(text)) - 1 for text in MIXED]
    assert all(own.dtype == np.float64 and np.isfinite(own).all() for own in together)
    assert len({float(x) for own in together for x in own}) > 3
    for size in (1, 5):
        backwards = explain(name, subject(explanandum(pooling=pooling), size, device), MIXED[::-1])
        for own, other in zip(together, backwards[::-1], strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_the_model_is_left_as_it_was(name: str) -> None:
    """No gradient stays behind, no hook, no mode; and a caller without gradients gets the same."""
    own = subject()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in own.explanandum.modules()]
    first = explain(name, own)
    with torch.inference_mode():
        second = explain(name, own)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(p.grad is None and not p.requires_grad for p in own.explanandum.parameters())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in own.explanandum.modules()]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["random", "lime", "kernel-shap"])
def test_seeds(name: str) -> None:
    """Another seed draws otherwise; equal windows draw alike."""
    one, same, other = (explain(name, subject(), [READ, READ], FEW._replace(seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[0], one[1])
    assert not np.allclose(one[0], other[0])


def test_progress() -> None:
    """Every window is reported once."""
    own, done = subject(batch_size=3), 0

    def count(n: int) -> None:
        nonlocal done
        done += n

    classes = own.best(own.log_probabilities(MIXED))
    PEERS["occlusion"].explain(own, MIXED, classes, FEW, count)
    assert done == len(MIXED)
    assert PEERS["occlusion"].explain(own, [], classes[:0]) == []


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is named with the command that brings it."""
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(WyrError, match=r"needs shap: pip install 'wyrcli\[compare\]'"):
        explain("partition-shap", subject())


@pytest.mark.parametrize("name", list(PEERS))
def test_warm_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the method once on a short piece of the window, with few rows, whatever was asked for."""
    if PEERS[name].needs:
        quiet_shap()
    own, asked = subject(), []
    text = READ * 4  # 52 tokens
    classes = own.best(own.log_probabilities([text]))
    classify = own.explanandum.classify

    def noted(batch: Any, *args: Any, **options: Any) -> Any:
        asked.append(batch.ids.shape)
        return classify(batch, *args, **options)

    monkeypatch.setattr(own.explanandum, "classify", noted)
    PEERS[name].warm_up(own, text, classes)
    assert (name == "random") == (not asked)
    assert sum(rows for rows, _ in asked) <= 100 and all(length < 40 for _, length in asked)
    PEERS[name].warm_up(own, "", classes)


@pytest.mark.parametrize("removal", ["gate", "scale", "scale-embedding", "shuffle"])
@pytest.mark.parametrize("name", ["occlusion", "lime", "kernel-shap", "partition-shap"])
def test_removal(name: str, removal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coalitions are worth what the subject says of them under that operator; of no operator: the gate."""
    if PEERS[name].needs:
        quiet_shap()
    own = subject()
    classes = own.best(own.log_probabilities([READ]))
    asked: list[NDArray[np.bool_]] = []
    answers: list[NDArray[np.float64]] = []
    usual = Game.values

    def noted(game: Game, coalitions: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.float64]]:
        found = usual(game, coalitions)
        asked.extend(coalitions)
        answers.extend(found)
        return found

    monkeypatch.setattr(Game, "values", noted)
    PEERS[name].explain(own, [READ], classes, FEW._replace(removal=removal))
    masks = np.concatenate(asked)
    operator = "gate" if removal == "shuffle" else removal
    expected = own.of_classes(
        own.log_probabilities([READ] * len(masks), list(masks.astype(np.float32)), operator),
        np.repeat(classes, len(masks), 0),
    ).sum(1)
    assert not masks.all()
    np.testing.assert_allclose(np.concatenate(answers), expected, atol=1e-5)


def test_classes_are_those_asked_for() -> None:
    """Scores of other classes than the predicted ones."""
    own = subject()
    texts = sequences(1)
    for classes in product(range(2), range(3)):
        wanted = np.array([classes])
        (found,) = PEERS["occlusion"].explain(own, texts, wanted)

        def worth(mask: NDArray[np.float32], wanted: NDArray[np.int64] = wanted) -> float:
            return float(own.of_classes(own.log_probabilities(texts, [mask]), wanted).sum())

        full = np.ones(len(found), np.float32)
        np.testing.assert_allclose(
            found,
            [worth(full) - worth(full - np.eye(len(full), dtype=np.float32)[i]) for i in range(len(full))],
            atol=1e-5,
        )


# ---------------------------------------------------------------- one by one


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_attention_is_its_formula(pooling: str) -> None:
    """softmax(q k / sqrt d) of the last layer, written out for one window, beside others that pad it."""
    own = subject(explanandum(pooling=pooling))
    model: Any = own.explanandum
    found = explain("attention", own)
    for text, scores in zip(MIXED, found, strict=True):
        batch = TOKENIZER.batch([text])
        states = model.classify(batch).states[-2]
        layer = model.backbone.encoder.layer[-1].attention
        inner = layer.LayerNorm(states)
        n, heads = inner.shape[1], layer.self.heads
        q, k = (
            _rotate(
                part(inner).view(1, n, heads, -1).transpose(1, 2),
                *_rotary_tables(n, inner.shape[2] // heads, inner),
            )
            for part in (layer.self.query, layer.self.key)
        )
        shares = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)[0].mean(0)  # (L, L)
        expected = shares[1:].mean(0)[1:] if pooling == "mean" else shares[0, 1:]
        np.testing.assert_allclose(scores, expected.detach(), rtol=1e-4, atol=1e-6)


def test_attention_of_an_unknown_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so instead of guessing."""
    own = subject()
    classes = own.best(own.log_probabilities(MIXED))
    monkeypatch.setattr(attribution, "Explanandum", nn.Identity)
    with pytest.raises(WyrError, match="not available for this architecture"):
        PEERS["attention"].explain(own, MIXED, classes)


def test_gradient_x_input_is_a_slope() -> None:
    """How the value changes, in float64, when one embedding grows a little."""
    own = subject(explanandum(dtype=torch.float64))
    model: Any = own.explanandum
    batch = TOKENIZER.batch([READ])
    embeddings = model.backbone.embed(batch.ids)
    columns = model.class_numbers(model.predict(model(batch))[0])

    def worth(token: int, factor: float) -> float:
        grown = embeddings.clone()
        grown[0, 1 + token] *= factor
        logits = model.classify_embeddings(grown, batch).logits
        return float(own.normalise(logits).gather(1, columns).sum())

    (found,) = explain("gradient-x-input", own, [READ])
    h = 1e-5
    slopes = [(worth(i, 1 + h) - worth(i, 1 - h)) / (2 * h) for i in range(len(found))]
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_gate_gradient_is_a_slope(pooling: str) -> None:
    """How the value changes, in float64, when one gate closes a little or opens even wider."""
    own = subject(explanandum(pooling=pooling, dtype=torch.float64))
    model = own.explanandum
    batch = TOKENIZER.batch([READ])
    columns = model.class_numbers(model.predict(model(batch))[0])

    def worth(token: int, level: float) -> float:
        mask = torch.ones(batch.ids.shape, dtype=torch.float64)
        mask[0, 1 + token] = level
        return float(own.normalise(model(batch, mask, gate)).gather(1, columns).sum())

    (found,) = explain("gate-gradient", own, [READ])
    h = 1e-5
    slopes = [(worth(i, 1 + h) - worth(i, 1 - h)) / (2 * h) for i in range(len(found))]
    np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_gate_integrated_gradients_are_complete(pooling: str) -> None:
    """Scores sum to the value of the window less that of nothing, which is the end of the gates' path."""
    own = subject(explanandum(pooling=pooling))
    options = FEW._replace(steps=200)
    rises = []
    for text, scores in zip(MIXED, explain("gate-integrated-gradients", own, MIXED, options), strict=True):
        rises.append(value(own, text) - value(own, text, [0] * len(scores)))
        assert scores.sum() == pytest.approx(rises[-1], abs=1e-4)
    assert max(map(abs, rises)) > 0.1


def test_integrated_gradients_are_complete() -> None:
    """Scores sum to the value less that of zero embeddings; an eps as wide as here makes the path smooth."""
    model = Explanandum(backbone(layer_norm_eps=1.0), TAXONOMY.sizes)
    randomise(model.heads, 1)
    own = subject(model.freeze())
    options = FEW._replace(steps=50)
    for text, scores in zip(MIXED, explain("integrated-gradients", own, MIXED, options), strict=True):
        batch = TOKENIZER.batch([text])
        embeddings = model.backbone.embed(batch.ids)
        columns = model.class_numbers(model.predict(model(batch))[0])
        blank = embeddings * ~batch.valid[..., None]
        start = own.normalise(model.classify_embeddings(blank, batch).logits).gather(1, columns).sum()
        assert scores.sum() == pytest.approx(value(own, text) - float(start), abs=1e-4)


class Captured(nn.Module):
    """The toy classifier of embeddings, or of last states with channels first, as captum wants them."""

    def __init__(self, own: Subject, text: str) -> None:
        super().__init__()
        self.model: Any = own.explanandum
        self.own = own
        self.batch = TOKENIZER.batch([text])
        self.columns = self.model.class_numbers(self.model.predict(self.model(self.batch))[0])
        self.channels = nn.Identity()

    def forward(self, embeddings: Tensor) -> Tensor:
        own, n = self.batch, len(embeddings)
        batch = replace(
            own,
            ids=own.ids.expand(n, -1),
            attention=own.attention.expand(n, -1),
            valid=own.valid.expand(n, -1),
        )
        return self.worth(self.model.classify_embeddings(embeddings, batch).logits)

    def gated(self, mask: Tensor) -> Tensor:
        """The value with the gates (n, L), one row after the other."""
        return torch.cat([self.worth(self.model(self.batch, row[None], gate)) for row in mask])

    def worth(self, logits: Tensor) -> Tensor:
        return self.own.normalise(logits).gather(1, self.columns.expand(len(logits), -1)).sum(1)


class Tail(Captured):
    """From the last states on."""

    def forward(self, states: Tensor) -> Tensor:
        states = self.channels(states.transpose(1, 2)).transpose(1, 2)
        pooled = states[:, 0] if self.model.pooling == "cls" else states[:, 1:].mean(1)
        return self.worth(torch.cat([head(pooled) for head in self.model.heads], -1))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_gradients_are_those_of_captum(pooling: str) -> None:
    """Saliency, input x gradient, integrated gradients, both of gates too, and Grad-CAM, one by one."""
    attr = pytest.importorskip("captum.attr")
    own = subject(explanandum(pooling=pooling))
    for text, scores in zip(MIXED, zip(*(explain(n, own) for n in PLAIN), strict=True), strict=True):
        found = dict(zip(PLAIN, scores, strict=True))
        model = Captured(own, text)
        embeddings = model.model.backbone.embed(model.batch.ids)
        blank = embeddings * ~model.batch.valid[..., None]
        saliency = attr.Saliency(model).attribute(embeddings.clone().requires_grad_(), abs=False)
        product_ = attr.InputXGradient(model).attribute(embeddings.clone().requires_grad_())
        path = attr.IntegratedGradients(model).attribute(
            embeddings, baselines=blank, n_steps=FEW.steps, method="gausslegendre"
        )
        gates = torch.ones(model.batch.ids.shape, requires_grad=True)
        gate_product = attr.InputXGradient(model.gated).attribute(gates)
        gate_path = attr.IntegratedGradients(model.gated).attribute(
            torch.ones_like(gates), n_steps=FEW.steps, method="gausslegendre"
        )
        tail = Tail(own, text)
        states = model.model.classify(model.batch).states[-1]
        cam = attr.LayerGradCam(tail, tail.channels).attribute(
            states.clone().requires_grad_(), relu_attributions=True
        )
        for name, expected in {
            "gradient-norm": saliency.norm(dim=-1),
            "gradient-x-input": product_.sum(-1),
            "integrated-gradients": path.sum(-1),
            "gate-gradient": gate_product,
            "gate-integrated-gradients": gate_path,
            "grad-cam": cam[:, 0],
        }.items():
            np.testing.assert_allclose(
                found[name], expected[0, 1:].detach(), rtol=1e-3, atol=1e-5, err_msg=name
            )


# ---------------------------------------------------------------- fits


def test_lime_is_the_weighted_ridge_regression() -> None:
    """The minimum of its loss, by least squares with the penalty as rows of their own."""
    rng = np.random.default_rng(0)
    masks, values = rng.random((30, 7)) < 0.6, rng.normal(size=30)
    masks[3] = False
    whole = np.ones(7) / 7**0.5
    cosine = np.array([row @ whole / max(np.linalg.norm(row), 1) for row in masks.astype(float)])
    weights = np.sqrt(np.exp(-(((1 - cosine) * 100) ** 2) / 25**2))
    root = np.sqrt(weights)[:, None]
    penalty = np.concatenate([np.eye(7), np.zeros((7, 1))], 1)
    rows = np.concatenate([root * np.concatenate([masks, np.ones((30, 1))], 1), penalty])
    expected = np.linalg.lstsq(rows, np.concatenate([root[:, 0] * values, np.zeros(7)]), rcond=None)[0][:7]
    np.testing.assert_allclose(fit_lime(masks, values), expected, atol=1e-10)


def test_lime_is_that_of_captum() -> None:
    """Captum's Lime with lime_text's kernel and a ridge, fed with the very same masks."""
    attr = pytest.importorskip("captum.attr")
    pytest.importorskip("sklearn")
    models = pytest.importorskip("captum._utils.models.linear_model")
    game = random_game(6)
    masks = np.random.default_rng(0).random((25, 6)) < 0.5
    masks[0] = True

    class Ridge(models.SkLearnLinearModel):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(sklearn_module="linear_model.Ridge", alpha=1.0)

    def kernel(original: Tensor, perturbed: Tensor, interpretable: Tensor, **kwargs: Any) -> float:
        distance = 1 - float(interpretable.double().sum() / 6) ** 0.5
        return float(np.sqrt(np.exp(-((100 * distance) ** 2) / 25**2)))

    rows = iter(masks)
    explainer = attr.LimeBase(
        lambda x: torch.tensor([game.worth(row.numpy() > 0.5) for row in x], dtype=torch.float64),
        Ridge(),
        similarity_func=kernel,
        perturb_func=lambda original, **kwargs: torch.from_numpy(next(rows)[None].astype(np.float32)),
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda sample, original, **kwargs: sample,
        to_interp_rep_transform=None,
    )
    found = explainer.attribute(torch.ones(1, 6), n_samples=25)
    values = np.array([game.worth(row) for row in masks])
    np.testing.assert_allclose(fit_lime(masks, values), found[0], atol=1e-4)


def test_linear_games() -> None:
    """Every token earns its weight: the Shapley values are the weights, LIME's but for its penalty."""
    game, weights = linear_game(20)
    np.testing.assert_allclose(play(kernel_shap, game, Options(shap_samples=20)), weights, atol=1e-9)
    found = play(lime, game, Options(lime_samples=20000))
    np.testing.assert_allclose(found, weights, rtol=0.01, atol=0.001)


def test_masks_of_lime() -> None:
    """The whole window first; then a binomial number of tokens that stay, each alike."""
    n, kept = 9, []

    def worth(row: NDArray[np.bool_]) -> float:
        kept.append(row.copy())
        return 0.0

    play(lime, Played(n, worth), Options(lime_samples=20001))
    masks = np.array(kept)
    assert masks[0].all() and len(masks) == 20001
    shares = np.bincount(masks[1:].sum(1), minlength=n + 1) / 20000
    expected = [comb(n, k) / 2**n for k in range(n + 1)]
    np.testing.assert_allclose(shares, expected, atol=0.015)
    np.testing.assert_allclose(masks[1:].mean(0), shares @ np.arange(n + 1) / n, atol=0.015)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_kernel_shap_of_a_small_game_is_exact(n: int) -> None:
    """Every coalition is affordable: the definition's values, and no coalition is asked for twice."""
    game = random_game(n)
    np.testing.assert_allclose(
        play(kernel_shap, game, Options(shap_samples=62)), shapley_values(game), atol=1e-9
    )
    assert game.asked <= 2**n


def test_kernel_shap_by_samples() -> None:
    """It comes near the definition's values, the nearer the more samples; and always shares out the whole."""
    game = random_game(7)
    exact = shapley_values(game)
    errors = []
    for samples in (4, 104):
        runs = [play(kernel_shap, game, Options(seed, shap_samples=samples)) for seed in range(60)]
        errors.append(float(np.mean([(np.square(run - exact)).mean() for run in runs])))
        assert all(run.sum() == pytest.approx(exact.sum()) for run in runs)
        bias = np.abs(np.mean(runs, axis=0) - exact).max()
    assert errors[1] < errors[0] / 4 and bias < 0.1


def test_shapley_of_a_model_shares_out_its_value() -> None:
    """Scores sum to the value of the window less that of nothing."""
    own = subject()
    for text, scores in zip(MIXED, explain("kernel-shap", own), strict=True):
        n = len(scores)
        assert scores.sum() == pytest.approx(value(own, text) - value(own, text, [0] * n), abs=1e-4)


def test_shapley_is_that_of_shap() -> None:
    """shap's KernelExplainer, which also asks for every coalition of a small game."""
    shap = quiet_shap()
    game = random_game(6)

    def worth(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([game.worth(row > 0.5) for row in rows])

    explainer = shap.KernelExplainer(worth, np.zeros((1, 6)))
    expected = explainer.shap_values(np.ones((1, 6)), nsamples=1000, l1_reg=False, silent=True)[0]
    np.testing.assert_allclose(play(kernel_shap, game, Options()), expected, atol=1e-6)


def test_too_few_pairs() -> None:
    """Fewer pairs than tokens: the solution of least norm, which still sums to the whole."""
    masks = np.array([[True, False, False, False], [True, True, False, False]])
    found = fit_shapley(masks, np.array([3.0, 4.0]), np.array([1.0, 0.0]), np.ones(2), 4.0)
    assert found.sum() == pytest.approx(4)
    assert found[2] == pytest.approx(found[3])


def quiet_shap() -> Any:
    """shap, whose import warns of matplotlib's plans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("shap")


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13, 250])
def test_neighbour_tree(n: int) -> None:
    """Every node is a run of neighbours, the last one of all; low enough; no token is missing."""
    tree = neighbour_tree(n)
    runs = [[token] for token in range(n)]
    for left, right, _, size in tree:
        runs.append(runs[int(left)] + runs[int(right)])
        assert len(runs[-1]) == size and runs[-1] == list(range(runs[-1][0], runs[-1][-1] + 1))
    assert runs[-1] == list(range(n)) and sorted(tree[:, :2].ravel()) == list(range(2 * n - 2))
    assert tree[-1, 2] == np.ceil(np.log2(n))


def owen_values(game: Played, tokens: Sequence[int], context: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What the tokens add to a context: of each half the mean over its sibling's being there or not."""
    (n,) = game.counts
    found = np.zeros(n)
    if len(tokens) == 1:
        with_it = context.copy()
        with_it[tokens[0]] = True
        found[tokens[0]] = game.worth(with_it) - game.worth(context)
        return found
    halves = tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]
    for own, sibling in (halves, halves[::-1]):
        beside = context.copy()
        beside[list(sibling)] = True
        found += (owen_values(game, own, context) + owen_values(game, own, beside)) / 2
    return found


def test_partition_shap() -> None:
    """Owen values by their definition; the weights of a linear game; a budget that is kept."""
    quiet_shap()
    game = random_game(8)
    expected = owen_values(game, range(8), np.zeros(8, np.bool_))
    np.testing.assert_allclose(play(partition_shap, game, Options(evaluations=10**4)), expected, atol=1e-9)
    game, weights = linear_game(11)
    np.testing.assert_allclose(play(partition_shap, game, Options(evaluations=10**4)), weights, atol=1e-9)
    game, weights = linear_game(32)
    found = play(partition_shap, game, Options(evaluations=40))
    assert game.asked <= 40 and found.sum() == pytest.approx(weights.sum())
    assert play(partition_shap, random_game(1), Options()) == pytest.approx(shapley_values(random_game(1)))


def test_partition_shap_of_a_model() -> None:
    """The same for any batch size and whatever numpy's global generator is at, which stays there."""
    quiet_shap()
    found = []
    for size, seed in ((1, 5), (64, 6)):
        np.random.seed(seed)
        state = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
        found.append(explain("partition-shap", subject(batch_size=size)))
        assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr]
    own = subject()
    for text, one, other in zip(MIXED, *found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert one.sum() == pytest.approx(value(own, text) - value(own, text, [0] * len(one)), abs=1e-4)


# ---------------------------------------------------------------- encoders of transformers


@pytest.mark.parametrize("kind", encoders.KINDS)
def test_encoders(kind: str, tmp_path: Path) -> None:
    """Every architecture takes every peer; the two ways to reach an embedding's gradient agree."""
    model, tokenizer, _ = read_encoder(encoders.save(tmp_path, kind))
    texts = encoders.PROTEINS if kind.startswith("esm") else encoders.TEXTS
    usual = model.network.config._attn_implementation
    owns = [Subject(model.freeze(), tokenizer, CPU, size) for size in (1, 64)]
    counts = [int(n) for n in tokenizer.batch(texts).valid.sum(-1)]
    for name in PLAIN:
        one, other = (explain(name, own, texts) for own in owns)
        assert [len(scores) for scores in one] == counts
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=name)
        if name == "attention":
            assert all(0 < scores.sum() < 1 for scores in one if len(scores))
    assert model.network.config._attn_implementation == usual
    if kind != "electra":  # its first states are a projection of the embeddings
        game = Game(owns[1], texts, owns[1].best(owns[1].log_probabilities(texts)), 64)
        ((_, states, gradient),) = game.slopes(np.ones(1), lambda mask, states: states[0])
        rows = (states * gradient).sum(-1)
        for row, n, expected in zip(rows, counts, explain("gradient-x-input", owns[1], texts), strict=True):
            np.testing.assert_allclose(row[1 : 1 + n], expected, rtol=1e-3, atol=1e-5)
