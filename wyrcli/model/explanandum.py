"""The Explanandum: the frozen classifier whose answers are to be explained (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.model.backbone import NucleotideTransformer
from wyrcli.model.masking import Operator, gate
from wyrcli.model.tokens import TokenBatch

__all__ = ["Classified", "Explanandum"]


class Classified(NamedTuple):
    """``logits`` (B, C), float32 or wider, ranks side by side; ``states``: hidden states, each (B, L, H)."""

    logits: Tensor
    states: list[Tensor]


class Explanandum(nn.Module):
    """A backbone, a pooling over tokens, and one linear head per rank.

    With ``pooling="mean"`` (the paper's) the final hidden states of the valid tokens are weighted by the
    mask and summed, and the sum is divided by the **number of valid tokens**, not by the sum of the
    mask: so a mask of small values makes a small vector, and a mask of zeros leaves each head's bias.
    ``<cls>`` is left out of the mean.  It stays visible in attention whatever the mask says, and all it
    can know then is what the mask lets through.

    With ``pooling="cls"`` the state of ``<cls>`` is classified and the mask acts on its surroundings only.

    Parameters
    ----------
    backbone: token ids to hidden states of size H.
    sizes: number of classes per rank; C is their sum.
    pooling: ``mean`` or ``cls``.
    """

    def __init__(self, backbone: NucleotideTransformer, sizes: Sequence[int], pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling '{pooling}'; expected mean or cls")
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Linear(backbone.config.hidden_size, size) for size in sizes)
        self.sizes = tuple(sizes)
        self.pooling = pooling
        self._frozen = False

    def freeze(self) -> Explanandum:
        """No gradients for any weight, and eval mode for good: ``train()`` has no effect from now on."""
        self._frozen = True
        self.requires_grad_(False)
        self.eval()
        return self

    def train(self, mode: bool = True) -> Explanandum:
        """As in torch, except that a frozen Explanandum stays in eval mode.

        The code of the paper's parent method put its frozen classifier back into training mode this way.
        """
        super().train(mode and not self._frozen)
        return self

    def forward(self, batch: TokenBatch, mask: Tensor | None = None, operator: Operator = gate) -> Tensor:
        """Logits (B, C); with a mask (B, L), those of the masked windows."""
        return self.classify(batch, mask, operator).logits

    def classify(
        self, batch: TokenBatch, mask: Tensor | None = None, operator: Operator = gate
    ) -> Classified:
        """Logits, and the hidden states that the ``state`` Explainer reads."""
        embeddings = self.backbone.embed(batch.ids, batch.attention_mask)
        return self.classify_embeddings(embeddings, batch, mask, operator)

    def classify_embeddings(
        self, embeddings: Tensor, batch: TokenBatch, mask: Tensor | None = None, operator: Operator = gate
    ) -> Classified:
        """As :meth:`classify`, from embeddings (B, L, H), so that a gradient can reach them."""
        key_bias, weight = None, batch.valid
        if mask is not None:
            factor, key_bias, pool_weight = operator(mask, batch.valid)
            weight = batch.valid if pool_weight is None else pool_weight
            if factor is not None:
                embeddings = embeddings * factor[..., None].to(embeddings.dtype)
        states = self.backbone.encode(embeddings, batch.attention_mask, key_bias)
        wide = torch.promote_types(states[-1].dtype, torch.float32)
        if self.pooling == "cls":
            pooled = states[-1][:, 0]
        else:
            n_valid = batch.valid.sum(-1, keepdim=True).clamp_min(1)  # (B, 1)
            # A product with the weights as a (1, L) matrix: no copy of the states in float32.
            weights = (weight.to(wide) / n_valid).to(states[-1].dtype)[:, None, :]
            pooled = torch.bmm(weights, states[-1])[:, 0]  # (B, H)
        # The heads compute in float32 at least, under autocast and with weights stored in bf16 too: eight
        # bits of mantissa cannot rank thousands of genera.
        with torch.autocast(pooled.device.type, enabled=False):
            logits = [
                F.linear(pooled.to(wide), head.weight.to(wide), head.bias.to(wide))  # type: ignore[arg-type]
                for head in self.heads
            ]
        return Classified(torch.cat(logits, dim=-1), states)

    def bias(self) -> Tensor:
        """float32 (C,): the answer to nothing at all, which is what a mask of zeros leaves."""
        return torch.cat([p for name, p in self.heads.named_parameters() if name.endswith("bias")]).float()

    def split(self, logits: Tensor) -> list[Tensor]:
        """(B, C) to one (B, C_r) per rank."""
        return list(torch.split(logits, list(self.sizes), dim=-1))

    def class_numbers(self, classes: Tensor) -> Tensor:
        """Classes within their ranks, int64 (B, R), to numbers on the class axis of length C."""
        first = [0]
        for size in self.sizes[:-1]:
            first.append(first[-1] + size)
        return classes + torch.tensor(first, device=classes.device)

    def predict(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted class within each rank, int64 (B, R), and its probability, float32 (B, R)."""
        best = [rank.softmax(-1).max(-1) for rank in self.split(logits)]
        return torch.stack([b.indices for b in best], -1), torch.stack([b.values for b in best], -1)
