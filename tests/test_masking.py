"""Removal operators: what a mask of ones, of zeros and of anything between must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy import MIXED, TOKENIZER, explanandum, sequences

from wyrcli.model.explanandum import Explanandum
from wyrcli.model.masking import OPERATORS, gate, get_operator, scale
from wyrcli.model.tokens import TokenBatch

POOLINGS = ("mean", "cls")
F64 = torch.float64
every_operator = pytest.mark.parametrize("operator", OPERATORS)
both_poolings = pytest.mark.parametrize("pooling", POOLINGS)


def biases(model: Explanandum, rows: int) -> Tensor:
    """What the heads answer to the zero vector."""
    return torch.cat([head.bias for head in model.heads]).expand(rows, -1)


def soft_mask(batch: TokenBatch, seed: int = 0) -> Tensor:
    """Random values in (0.1, 0.9), float64."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + 0.8 * torch.rand(batch.ids.shape, generator=generator, dtype=F64)


def near(actual: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    """Equal within an absolute limit."""
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@every_operator
@both_poolings
def test_ones_are_no_mask(operator: str, pooling: str, device: torch.device) -> None:
    """A mask of ones is the plain forward pass."""
    model, batch = explanandum(pooling=pooling, dtype=F64).to(device), TOKENIZER.batch(MIXED).to(device)
    ones = torch.ones(batch.ids.shape, dtype=F64, device=device)
    near(model(batch, ones, get_operator(operator)), model(batch))
    near(model(batch, ones.float(), get_operator(operator)), model(batch), 1e-6)


@pytest.mark.parametrize("operator", ["gate", "scale"])
def test_zeros_leave_the_biases(operator: str) -> None:
    """With mean pooling, nothing kept means the answer of the biases, whatever the sequence."""
    model, batch = explanandum(dtype=F64), TOKENIZER.batch(MIXED)
    near(model(batch, torch.zeros(batch.ids.shape), get_operator(operator)), biases(model, len(batch)))


def test_zeros_leave_cls_alone() -> None:
    """With cls pooling and the gate, nothing kept means the answer to an empty sequence."""
    model, batch = explanandum(pooling="cls", dtype=F64), TOKENIZER.batch(MIXED)
    nothing = model(TOKENIZER.batch([""])).expand(len(batch), -1)
    near(model(batch, torch.zeros(batch.ids.shape), gate), nothing)


def keep_only(batch: TokenBatch, kept: Tensor) -> TokenBatch:
    """The batch with the other tokens as padding, wherever they are."""
    return TokenBatch(
        batch.ids, batch.attention & (kept | ~batch.valid), batch.valid & kept, batch.spans, padded=True
    )


@both_poolings
def test_gate_removes_as_padding_does(pooling: str) -> None:
    """A token at m = 0 is a token that was never attended; the divisor stays that of the whole window."""
    model, batch = explanandum(pooling=pooling, dtype=F64), TOKENIZER.batch(MIXED)
    kept = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    answer = model(batch, kept.to(F64), gate)
    expected = model(keep_only(batch, kept))
    if pooling == "mean":
        bias = biases(model, len(batch))
        share = (batch.valid & kept).sum(-1, keepdim=True) / batch.valid.sum(-1, keepdim=True).clamp_min(
            1
        ).to(F64)
        expected = (expected - bias) * share + bias
    near(answer, expected)


@both_poolings
@pytest.mark.parametrize("n_kept", [1, 4, 9])
def test_gate_on_the_last_tokens_is_the_shorter_sequence(pooling: str, n_kept: int) -> None:
    """Removing the end of a sequence equals never having read it."""
    model, text = explanandum(pooling=pooling, dtype=F64), sequences(1, 20)[0]
    batch = TOKENIZER.batch([text])
    mask = torch.zeros(batch.ids.shape, dtype=F64)
    mask[:, 1 : 1 + n_kept] = 1
    shorter = model(TOKENIZER.batch([text[: 2 * n_kept]]))
    if pooling == "mean":
        bias = biases(model, 1)
        shorter = (shorter - bias) * n_kept / 10 + bias
    near(model(batch, mask, gate), shorter)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-6, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@every_operator
@both_poolings
def test_gradients_are_finite(value: float, dtype: torch.dtype, operator: str, pooling: str) -> None:
    """The gradient of every output with respect to the mask is finite everywhere in [0, 1]."""
    model, batch = explanandum(pooling=pooling, dtype=dtype), TOKENIZER.batch(MIXED)
    width = torch.float32 if dtype == torch.bfloat16 else dtype
    mask = torch.full(batch.ids.shape, value, dtype=width, requires_grad=True)
    logits = model(batch, mask, get_operator(operator))
    assert bool(logits.isfinite().all())
    logits.square().sum().backward()
    assert mask.grad is not None and bool(mask.grad.isfinite().all())
    assert not mask.grad[~batch.valid].any(), "<cls> and padding are never masked"
    if value > 1e-6 and (operator != "scale-embedding" or pooling == "mean"):
        assert mask.grad[batch.valid].any()


@every_operator
@both_poolings
def test_gradcheck(operator: str, pooling: str) -> None:
    """Gradients equal finite differences in the interior."""
    model, batch = explanandum(pooling=pooling, dtype=F64), TOKENIZER.batch(["ACGTAC", "NT"])
    mask = soft_mask(batch).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: model(batch, m, get_operator(operator)), (mask,), atol=1e-6)


@both_poolings
def test_gate_is_continuous_at_zero(pooling: str) -> None:
    """Answers and slopes go to those of removal as m goes to zero; halving m halves the distance."""
    model, batch = explanandum(pooling=pooling, dtype=F64), TOKENIZER.batch([sequences(1, 20)[0]])

    def answer(value: float) -> tuple[Tensor, Tensor]:
        mask = torch.ones(batch.ids.shape, dtype=F64)
        mask[0, 3:6] = value
        mask.requires_grad_()
        logits = model(batch, mask, gate)
        (slope,) = torch.autograd.grad(logits[0, 1], mask)
        return logits.detach(), slope[0, 3:6]

    removed, _ = answer(0.0)
    far, near_by = (answer(m)[0] - removed for m in (1e-6, 5e-7))
    assert 0 < far.abs().max() < 1e-2
    near(near_by * 2, far, 1e-3 * far.abs().max().item())
    near(answer(1e-9)[1], answer(1e-6)[1], 1e-3)


def first_layer_output(model: Explanandum, batch: TokenBatch, mask: Tensor | None, operator: str) -> Tensor:
    """What the first layer's attention adds, with a mask."""
    seen: list[Tensor] = []
    module = model.backbone.encoder.layer[0].attention.output
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(batch, mask, get_operator(operator))
    hook.remove()
    return seen[0]


def test_scale_hides_nothing_from_the_first_attention() -> None:
    """LayerNorm(m e) = LayerNorm(e) for m > 0: hence ``gate`` is the default.

    With m = 0.25 the first layer attends to the very same content under ``scale``, and to other content
    under ``gate``.
    """
    model, batch = explanandum(dtype=F64), TOKENIZER.batch([sequences(1, 20)[0]])
    mask = torch.ones(batch.ids.shape, dtype=F64)
    mask[0, 3:6] = 0.25
    plain = first_layer_output(model, batch, None, "gate")
    near(first_layer_output(model, batch, mask, "scale"), plain, 1e-8)
    assert (first_layer_output(model, batch, mask, "gate") - plain).abs().max() > 1e-3
    mask[0, 3:6] = 0
    assert (first_layer_output(model, batch, mask, "scale") - plain).abs().max() > 1e-3, "a jump at zero"


@both_poolings
def test_scale_is_the_product_at_both_sites(pooling: str) -> None:
    """The paper's Hadamard product, written out: on the embeddings, and on what is pooled."""
    model, batch = explanandum(pooling=pooling, dtype=F64), TOKENIZER.batch(MIXED)
    mask = soft_mask(batch)
    kept = torch.where(batch.valid, mask, 1.0)
    x = model.backbone.embed(batch.ids, batch.attention) * kept[..., None]
    last = model.backbone.encode(x, batch.attention)[-1]
    for operator, weight in (("scale", mask), ("scale-embedding", torch.ones_like(mask))):
        if pooling == "cls":
            pooled = last[:, 0]
        else:
            pooled = torch.stack(
                [
                    (h[v] * w[v, None]).sum(0) / max(int(v.sum()), 1)
                    for h, w, v in zip(last, weight, batch.valid, strict=True)
                ]
            )
        expected = torch.cat([head(pooled) for head in model.heads], -1)
        near(model(batch, mask, get_operator(operator)), expected)


@every_operator
@both_poolings
def test_padding_and_batches_change_nothing(operator: str, pooling: str, device: torch.device) -> None:
    """Masked windows in one padded batch answer as each does alone."""
    model, batch = explanandum(pooling=pooling, dtype=F64).to(device), TOKENIZER.batch(MIXED)
    mask = soft_mask(batch).to(device)
    together = model(batch.to(device), mask, get_operator(operator))
    for i, text in enumerate(MIXED):
        alone = TOKENIZER.batch([text]).to(device)
        own = mask[i : i + 1, : alone.ids.shape[1]]
        near(together[i : i + 1], model(alone, own, get_operator(operator)))


@every_operator
@both_poolings
def test_mask_of_cls_and_padding_is_ignored(operator: str, pooling: str) -> None:
    """Only values at valid tokens count."""
    model, batch = explanandum(pooling=pooling, dtype=F64), TOKENIZER.batch(MIXED)
    mask = soft_mask(batch)
    other = torch.where(batch.valid, mask, 0.0)
    near(model(batch, mask, get_operator(operator)), model(batch, other, get_operator(operator)), 0)


def test_uniform_mask_response() -> None:
    """A uniform mask m near zero leaves nothing for the heads, under both operators."""
    model, batch = explanandum(dtype=F64), TOKENIZER.batch([sequences(1, 20)[0]])
    bias = biases(model, 1)
    whole = model(batch, torch.ones(batch.ids.shape, dtype=F64) * 0.999, scale) - bias
    half = model(batch, torch.full(batch.ids.shape, 1e-6, dtype=F64), scale) - bias
    assert half.norm() < 1e-4 * whole.norm()
    assert (model(batch, torch.full(batch.ids.shape, 1e-6, dtype=F64), gate) - bias).norm() < 1e-4


def test_unknown_operator() -> None:
    """An unknown name is answered with the known ones."""
    with pytest.raises(ValueError, match="operator 'drop'; known: gate, scale, scale-embedding"):
        get_operator("drop")
