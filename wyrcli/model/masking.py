"""Removal operators: what a mask value does to the Explanandum.

An Explainer says of each token how much of it may stay, m in [0, 1].  A removal operator turns that
into up to three changes of the classifier's computation:

=================  ===================  ==============================  =====================
operator           embeddings           attention logits of that key    weight in the pooling
=================  ===================  ==============================  =====================
``gate`` (ours)    unchanged            + log m, in every layer         m
``scale``          times m              unchanged                       m
``scale-embedding``  times m            unchanged                       1
=================  ===================  ==============================  =====================

``scale`` is the paper's Hadamard product at its two sites (section 3, figure 3) and
``scale-embedding`` the single site that it uses with a ``<cls>`` head.  In a pre-LayerNorm network
LayerNorm(m e) = LayerNorm(e) for every m > 0: the first site hides nothing until m is exactly zero.
``gate`` weighs each key's share of the attention by m, so that a token fades out continuously and at
m = 0 is gone exactly, as if it had been padding.

``<cls>`` is never masked: it keeps m = 1 as a key, so that a softmax always has something to attend
to, and it has no part in the mean pooling.  Nor is any other special token of an encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["OPERATORS", "Removal", "gate", "get_operator", "scale", "scale_embedding"]


class Removal(NamedTuple):
    """What to do to the Explanandum; None where an operator leaves a place alone.

    ``embedding_factor`` (B, L), ``key_bias`` (B, L) additive and possibly -inf, ``pool_weight`` (B, L).
    """

    embedding_factor: Tensor | None
    key_bias: Tensor | None
    pool_weight: Tensor | None


Operator = Callable[[Tensor, Tensor], Removal]
"""(mask (B, L) in [0, 1], valid (B, L) bool) to a Removal.  Mask values where not valid are ignored."""


def gate(mask: Tensor, valid: Tensor) -> Removal:
    """log m on the attention logits of each key in every layer; m as the weight in the pooling.

    The softmax gives the key a share proportional to m exp(s), whose slope in m is finite down to zero:
    the 1/m of the logarithm cancels against the share itself.  The floor only keeps that product out of
    0 * inf; at m = 0 the bias is -inf, which removes the key exactly.
    """
    kept = torch.where(valid, mask, torch.ones_like(mask))
    floor = torch.finfo(torch.float32).tiny
    bias = torch.where(kept > 0, kept.clamp_min(floor).log(), torch.full_like(kept, -torch.inf))
    return Removal(None, bias, mask * valid)


def scale(mask: Tensor, valid: Tensor) -> Removal:
    """The paper's two sites: embeddings times m, and final hidden states times m before the mean."""
    return Removal(torch.where(valid, mask, torch.ones_like(mask)), None, mask * valid)


def scale_embedding(mask: Tensor, valid: Tensor) -> Removal:
    """The paper's single site for ``<cls>`` heads: embeddings times m, nothing at the pooling."""
    return Removal(torch.where(valid, mask, torch.ones_like(mask)), None, None)


OPERATORS: dict[str, Operator] = {"gate": gate, "scale": scale, "scale-embedding": scale_embedding}


def get_operator(name: str) -> Operator:
    """The operator of that name.  Raises ValueError that lists the known ones."""
    if name not in OPERATORS:
        raise ValueError(f"unknown removal operator '{name}'; known: {', '.join(OPERATORS)}")
    return OPERATORS[name]
