"""Scaled dot-product attention, by the kernel that is the fastest where it runs.

All give the same up to rounding:

- torch's fused kernel: on GPUs, for fp32, and on CPUs that multiply bf16 in tiles (AMX);
- on other CPUs in bf16, without gradients: two batched products with the softmax between, a few at a
  time (:func:`_attend_in_pieces`).  The fused kernel multiplies bf16 there at the speed of fp32;
- on CPUs with gradients in bf16, or towards the bias: the formula as it stands, because no fused CPU kernel
  has a gradient for the bias, and that for bf16 is slower backwards.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["attend"]

_PIECE = 1 << 20  # attention scores at a time and thread: two MiB in bf16, so that they stay in the cache
_LANES = 32  # bf16 numbers of a vector register: softmax is slow over rows that do not fill the last one


def attend(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v for q, k and v (B, heads, L, d); ``key_bias`` (B, 1, 1, L).

    A bias of -inf removes a key; one key of each row must stay finite.
    """
    if key_bias is not None:
        key_bias = key_bias.to(q.dtype)
    if q.device.type == "cpu":
        learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        biased = torch.is_grad_enabled() and key_bias is not None and key_bias.requires_grad
        if biased or (learns and q.dtype == torch.bfloat16):
            # The queries are scaled, which are smaller than the scores.
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            shares = (scores if key_bias is None else scores + key_bias).softmax(-1)
            mixed: Tensor = shares.to(v.dtype) @ v
            return mixed
        if q.dtype == torch.bfloat16 and not learns and not _has_tiles():
            return _attend_in_pieces(q, k, v, key_bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias)


def _has_tiles() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def _attend_in_pieces(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None) -> Tensor:
    """The same, without gradients, some matrices at a time; scores are rounded to the number format of q.

    Rows of scores are as long as whole vector registers.  What is behind the last key is set to -inf once:
    the products never write there.
    """
    b, heads, n, d = q.shape
    width = -(-n // _LANES) * _LANES
    step = min(b * heads, max(1, _PIECE * torch.get_num_threads() // (n * width)))
    scores = q.new_full((step, n, width), -torch.inf)
    shares = torch.empty_like(scores)
    q, k, v = q.reshape(-1, n, d), k.reshape(-1, n, d), v.reshape(-1, n, d)
    bias = None if key_bias is None else key_bias.expand(b, heads, 1, n).reshape(-1, 1, n)
    out = torch.empty_like(v)
    for first in range(0, b * heads, step):
        piece = slice(first, min(first + step, b * heads))
        some, own = scores[: piece.stop - first], shares[: piece.stop - first]
        part = some[..., :n]
        # With beta = 0, what stands there is not read.
        torch.baddbmm(part, q[piece], k[piece].transpose(1, 2), beta=0, alpha=d**-0.5, out=part)
        if bias is not None:
            part += bias[piece]
        torch.softmax(some, -1, out=own)
        torch.bmm(own[..., :n], v[piece], out=out[piece])
    return out.view(b, heads, n, d)
