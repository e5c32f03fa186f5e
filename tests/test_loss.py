"""The loss against a slow transcription of the paper's sums (its section 2.2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from wyrcli.model.loss import (
    PRESETS,
    LossOptions,
    LossTerms,
    area,
    bounds,
    drop,
    explainer_loss,
    negative_entropy,
    per_token_kept,
    relax,
    total_variation,
)

SIZES = (2, 3, 4)


class Case(NamedTuple):
    """A random ragged batch; row i has ``lengths[i]`` valid tokens behind <cls>."""

    masked: list[Tensor]
    inverted: list[Tensor]
    labels: Tensor
    target: Tensor
    non_target: Tensor
    by_class: Tensor
    valid: Tensor
    lengths: list[int]


def make_case(seed: int, rows: int = 5, longest: int = 13) -> Case:
    """Random answers and masks in float64; positions that are not valid hold random values as well."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (rows,), generator=g)
    place = torch.arange(longest)
    valid = (place >= 1) & (place <= lengths[:, None])

    def values(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    return Case(
        [4 * values(rows, size) - 2 for size in SIZES],
        [4 * values(rows, size) - 2 for size in SIZES],
        torch.stack([torch.randint(0, size, (rows,), generator=g) for size in SIZES], -1),
        values(rows, longest),
        values(rows, longest),
        values(rows, longest, len(SIZES)),
        valid,
        lengths.tolist(),
    )


def softmax(logits: list[float]) -> list[float]:
    """Shares of the exponentials."""
    weights = [math.exp(v) for v in logits]
    return [w / sum(weights) for w in weights]


def slow_bounds(s: list[float], a: float, b: float) -> float:
    """B(s): the sorted mask between two step vectors with round(aZ) and round(bZ) ones."""
    z = len(s)
    q = sorted(s, reverse=True)
    q_min = [1.0] * round(a * z) + [0.0] * (z - round(a * z))
    q_max = [1.0] * round(b * z) + [0.0] * (z - round(b * z))
    below = sum(max(q_min[i] - q[i], 0.0) for i in range(z)) / z
    above = sum(max(q[i] - q_max[i], 0.0) for i in range(z)) / z
    return below + above


def slow_terms(case: Case, options: LossOptions) -> list[float]:
    """All terms of each window by plain sums, then their means."""
    totals = [0.0] * 6
    rows = len(case.lengths)
    for i, z in enumerate(case.lengths):
        m = case.target[i, 1 : 1 + z].tolist()
        n = case.non_target[i, 1 : 1 + z].tolist()
        for r in range(len(SIZES)):
            totals[0] -= math.log(softmax(case.masked[r][i].tolist())[int(case.labels[i, r])])
            p = softmax(case.inverted[r][i].tolist())
            divisor = {"classes": float(SIZES[r]), "log": math.log(SIZES[r]), "none": 1.0}
            totals[1] += sum(x * math.log(x) for x in p) / divisor[options.entropy_divisor]
            s = case.by_class[i, 1 : 1 + z, r].tolist()
            totals[4] += slow_bounds(s, options.min_area, options.max_area) / len(SIZES)
        totals[2] += sum(m) / z
        totals[3] += sum(n) / z
        totals[5] += sum(abs(m[j] - m[j + 1]) for j in range(z - 1)) / z
        totals[5] += sum(abs(n[j] - n[j + 1]) for j in range(z - 1)) / z
    return [total / rows for total in totals]


OPTIONS = [
    PRESETS["paper"],
    PRESETS["balanced"],
    LossOptions(entropy_divisor="none", min_area=0.0, max_area=1.0),
    LossOptions(min_area=0.31, max_area=0.5, entropy=0.2, non_target_area=7.0, total_variation=0.0),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["paper", "balanced", "none", "other"])
@pytest.mark.parametrize("seed", range(6))
def test_slow_transcription(options: LossOptions, seed: int) -> None:
    """Every term, and the weighted sum."""
    case = make_case(seed)
    terms = explainer_loss(*case[:-1], options)
    slow = slow_terms(case, options)
    assert [term.item() for term in terms] == pytest.approx(slow, abs=1e-9)
    names = ("classification", "entropy", "target_area", "non_target_area", "bounds", "total_variation")
    assert LossTerms._fields == names
    expected = sum(getattr(options, name) * value for name, value in zip(names, slow, strict=True))
    assert terms.total(options).item() == pytest.approx(expected, abs=1e-9)


def test_padding_counts_for_nothing() -> None:
    """What masks say of <cls> and padding changes no term."""
    case = make_case(1)
    outside = ~case.valid
    other = case._replace(
        target=case.target.masked_fill(outside, 1.0),
        non_target=case.non_target.masked_fill(outside, 0.0),
        by_class=case.by_class.masked_fill(outside[..., None], 1.0),
    )
    options = PRESETS["balanced"]
    for one, two in zip(
        explainer_loss(*case[:-1], options), explainer_loss(*other[:-1], options), strict=True
    ):
        assert one.item() == pytest.approx(two.item(), abs=1e-12)


def test_by_hand() -> None:
    """Four tokens with m = 0.9 0.1 0.8 0.4, a = 1/4 and b = 1/2."""
    mask = torch.tensor([[0.5, 0.9, 0.1, 0.8, 0.4]])
    valid = torch.tensor([[False, True, True, True, True]])
    assert area(mask, valid).item() == pytest.approx(2.2 / 4)
    assert total_variation(mask, valid).item() == pytest.approx((0.8 + 0.7 + 0.4) / 4)
    # sorted .9 .8 .4 .1; q_min 1 0 0 0: lacks .1; q_max 1 1 0 0: .4 and .1 too many
    found = bounds(mask[..., None], valid, 0.25, 0.5)
    assert found.shape == (1, 1) and found.item() == pytest.approx((0.1 + 0.4 + 0.1) / 4)
    # a uniform answer over 4 classes has the entropy ln 4
    uniform = torch.zeros(1, 4)
    assert negative_entropy(uniform, "none").item() == pytest.approx(-math.log(4))
    assert negative_entropy(uniform, "log").item() == pytest.approx(-1)
    assert negative_entropy(uniform, "classes").item() == pytest.approx(-math.log(4) / 4)


def test_bounds_are_zero_inside_the_band() -> None:
    """A 0/1 mask whose share lies between a and b costs nothing; all or nothing costs."""
    valid = torch.ones(1, 20, dtype=torch.bool)
    for ones, free in ((0, False), (1, True), (4, True), (6, True), (7, False), (20, False)):
        mask = (torch.arange(20) < ones).float()[None, :, None]
        assert (bounds(mask, valid, 0.05, 0.30).item() == 0) is free, ones


@pytest.mark.parametrize("size", [1, 2, 1878])
def test_entropy_range(size: int) -> None:
    """ln C divides to the range 0 to 1 for any C; one class has no entropy and no NaN."""
    logits = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    for row in (logits, torch.zeros(1, size), 1e4 * logits):
        value = negative_entropy(row, "log")
        assert bool((value <= 1e-6).all()) and bool((value >= -1 - 1e-5).all())


@pytest.mark.parametrize(
    "changes",
    [
        {"min_area": 0.5, "max_area": 0.5},
        {"min_area": -0.1},
        {"max_area": 1.1},
        {"entropy_divisor": "ln"},
        {"target_labels": "guessed"},
        {"concrete_temperature": -1.0},
    ],
)
def test_invalid_options(changes: dict[str, object]) -> None:
    """Options that make no sense are refused when they are made."""
    with pytest.raises(
        ValueError, match=next(iter(changes)).split("_")[1].replace("temperature", "negative")
    ):
        LossOptions(**changes)  # type: ignore[arg-type]


def test_presets() -> None:
    """``paper`` is as printed: all weights 1, entropy over C, true labels, no relaxation."""
    paper = PRESETS["paper"]
    assert {getattr(paper, name) for name in LossTerms._fields} == {1.0}
    assert (paper.entropy_divisor, paper.target_labels, paper.concrete_temperature) == ("classes", "true", 0)
    balanced = PRESETS["balanced"]
    assert (balanced.entropy_divisor, balanced.target_labels) == ("log", "predicted")


def test_relax_without_temperature() -> None:
    """Temperature 0 is the plain sigmoid."""
    logits = torch.linspace(-4, 4, 9)
    assert torch.equal(relax(logits, 0, torch.rand(9)), logits.sigmoid())


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.0])
def test_relax_samples(logit: float) -> None:
    """P(sample > 1/2) is the sigmoid of the logit at any temperature; low temperatures go to 0 and 1."""
    torch.manual_seed(0)
    n = 20_000
    middle = []
    for temperature in (0.1, 0.5, 2.0):
        sample = relax(torch.full((n,), logit), temperature, torch.rand(n))
        assert bool(((sample >= 0) & (sample <= 1)).all())
        expected = 1 / (1 + math.exp(-logit))
        assert (sample > 0.5).float().mean().item() == pytest.approx(expected, abs=0.015)
        middle.append(((sample > 0.1) & (sample < 0.9)).float().mean().item())
    assert middle[0] < middle[1] < middle[2]


def test_gradients_are_finite() -> None:
    """Also at masks of exactly 0 and 1, and through the relaxation."""
    case = make_case(2)
    logits = torch.tensor([-200.0, -5.0, 0.0, 5.0, 200.0]).repeat(5, 3)[:, :13].clone().requires_grad_()
    mask = relax(logits, 0.5, torch.rand(logits.shape))
    answers = [mask.sum(-1, keepdim=True) * torch.ones(size) for size in SIZES]
    terms = explainer_loss(
        answers,
        answers,
        case.labels,
        mask,
        logits.sigmoid(),
        logits.sigmoid()[..., None].expand(-1, -1, 3),
        case.valid,
        PRESETS["balanced"],
    )
    terms.total(PRESETS["balanced"]).backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all()) and bool(logits.grad.any())


def test_dropping() -> None:
    """Of each window another share is dropped, at most so much of it, and half of that on average."""
    uniform = torch.rand(2000, 400, generator=torch.Generator().manual_seed(0))
    mask = torch.linspace(0.1, 1, 400).expand(2000, -1)
    dropped = drop(mask, 0.6, uniform)
    gone = dropped == 0
    assert torch.equal(dropped[~gone], mask[~gone])
    share = gone.float().mean(1)
    assert share.max() < 0.75 and share.min() < 0.02
    assert share.mean().item() == pytest.approx(0.3, abs=0.01)
    assert share.std().item() == pytest.approx(0.6 / math.sqrt(12), abs=0.02)
    assert torch.equal(drop(mask, 0.0, uniform), mask)
    for share_ in (-0.1, 1.0):
        with pytest.raises(ValueError, match="dropping"):
            LossOptions(dropping=share_)


def test_answers_per_token_kept() -> None:
    """Of a classifier that adds up its tokens: the mean over the kept ones.  All kept: nothing changes."""
    generator = torch.Generator().manual_seed(0)
    values, bias = torch.randn(3, 40, 5, generator=generator), torch.randn(5, generator=generator)
    valid = torch.arange(40) < torch.tensor([[40], [25], [30]])
    mask = (torch.rand(3, 40, generator=generator) < 0.4).float()

    def answer(kept: Tensor) -> Tensor:
        return bias + (values * (kept * valid)[..., None]).sum(1) / valid.sum(1, keepdim=True)

    expected = torch.stack([bias + values[i][valid[i] & (mask[i] > 0)].mean(0) for i in range(3)])
    torch.testing.assert_close(per_token_kept(answer(mask), bias, mask, valid), expected)
    ones = torch.ones_like(mask)
    torch.testing.assert_close(per_token_kept(answer(ones), bias, ones, valid), answer(ones))
    nothing = per_token_kept(answer(0 * ones), bias, 0 * ones, valid)
    torch.testing.assert_close(nothing, bias.expand(3, -1))


def test_no_valid_token() -> None:
    """A window without tokens (empty sequence) gives finite terms."""
    mask, valid = torch.rand(1, 3), torch.zeros(1, 3, dtype=torch.bool)
    for value in (area(mask, valid), total_variation(mask, valid), bounds(mask[..., None], valid, 0.1, 0.3)):
        assert value.tolist() in ([0.0], [[0.0]])


def test_a_classification_temperature_sharpens_the_answers() -> None:
    """L_c at temperature T is L_c of logits that are 1/T as large; nothing else changes."""
    case = make_case(7)
    sharp = explainer_loss(*case[:-1], LossOptions(classification_temperature=0.25))
    larger = case._replace(masked=[4 * logits for logits in case.masked])
    expected = explainer_loss(*larger[:-1], LossOptions())
    for found, wanted in zip(sharp, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="positive"):
        LossOptions(classification_temperature=0)
