"""Attention by pieces against the formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wyrcli.model import attention
from wyrcli.model.attention import attend


def formula(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """As it is written in papers, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return (scores if bias is None else scores + bias.double()).softmax(-1) @ v


def draw(b: int, heads: int, n: int, d: int) -> list[Tensor]:
    """Queries, keys and values in bf16, laid out as the backbone's."""
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(b, n, heads, d, generator=generator).bfloat16().transpose(1, 2) for _ in range(3)]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without tiles, whatever this one has."""
    monkeypatch.setattr(attention, "_has_tiles", lambda: False)


@pytest.mark.parametrize("shape", [(3, 2, 33, 8), (2, 2, 64, 16), (1, 1, 1, 4), (5, 3, 7, 4)])
@pytest.mark.parametrize("scores", [1, 3000, 1 << 19])
def test_pieces(
    shape: tuple[int, int, int, int], scores: int, pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a piece, all is there, in its place; a removed key is as if it were not there."""
    monkeypatch.setattr(attention, "_PIECE", scores)
    q, k, v = draw(*shape)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v).double(), formula(q, k, v), atol=0.02, rtol=0.02)
        kept = shape[2] // 2 + 1
        bias = torch.zeros(shape[0], 1, 1, shape[2])
        bias[1:, ..., kept:] = -torch.inf
        found = attend(q, k, v, bias)
        torch.testing.assert_close(found.double(), formula(q, k, v, bias), atol=0.02, rtol=0.02)
        other = v.clone()
        other[1:, :, kept:] = 1e4
        assert torch.equal(attend(q, k, other, bias)[1:], found[1:])


def test_pieces_are_what_bf16_takes(pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 without gradients goes by pieces, and nothing else does; a CPU with tiles has its fused kernel."""
    taken: list[torch.dtype] = []
    usual = attention._attend_in_pieces

    def spy(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        taken.append(q.dtype)
        return usual(q, k, v, bias)

    monkeypatch.setattr(attention, "_attend_in_pieces", spy)
    q, k, v = draw(2, 2, 9, 4)
    attend(q, k, v)
    assert taken == [torch.bfloat16]
    attend(q.float(), k.float(), v.float())
    attend(q.requires_grad_(), k, v)
    monkeypatch.setattr(attention, "_has_tiles", lambda: True)
    attend(q.detach(), k, v)
    assert len(taken) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients(dtype: torch.dtype, pieces: None) -> None:
    """Of everything, the bias too, as those of the formula."""
    inputs = [x.to(dtype).requires_grad_() for x in draw(2, 2, 9, 4)]
    bias = torch.randn(2, 1, 1, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = torch.autograd.grad(attend(*inputs, bias).float().square().sum(), [*inputs, bias])
    wanted = torch.autograd.grad(formula(*inputs, bias).square().sum(), [*inputs, bias])
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for own, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, true, atol=tolerance, rtol=tolerance)
