"""The Explanandum: the frozen classifier whose answers are to be explained (paper, section 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.model.backbone import NucleotideTransformer
from wyrcli.model.masking import Operator, gate
from wyrcli.model.tokens import TokenBatch

__all__ = ["BaseExplanandum", "Classified", "Explanandum"]


class Classified(NamedTuple):
    """``logits`` (B, C), float32 or wider, ranks side by side; ``states``: hidden states, each (B, L, H)."""

    logits: Tensor
    states: list[Tensor]


class BaseExplanandum(nn.Module, ABC):
    """What all Explananda share: one class axis of length C that holds the classes of all ranks.

    ``sizes``: number of classes per rank;  ``pooling``: ``mean`` or ``cls``, what the heads read;
    ``hidden_size``: H;  ``n_states``: number of hidden states that :meth:`classify` returns;
    ``vocab_size``: token ids are below this;  ``reach``: tokens to either side that a local attention layer
    sees, 0 where every layer sees all;  ``architecture``: what a checkpoint calls its kind;
    ``temperatures``: per rank, what logits are divided by before they are reported as probabilities.
    """

    architecture: ClassVar[str]

    def __init__(
        self,
        sizes: Sequence[int],
        pooling: str,
        *,
        hidden_size: int,
        n_states: int,
        vocab_size: int,
        reach: int = 0,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling '{pooling}'; expected mean or cls")
        self.sizes = tuple(sizes)
        self.pooling = pooling
        self.hidden_size = hidden_size
        self.n_states = n_states
        self.vocab_size = vocab_size
        self.reach = reach
        self.temperatures = (1.0,) * len(self.sizes)
        self._frozen = False

    @abstractmethod
    def classify(
        self, batch: TokenBatch, mask: Tensor | None = None, operator: Operator = gate
    ) -> Classified:
        """Logits, and the hidden states that the ``state`` Explainer reads.

        With a mask (B, L) in [0, 1], those of the masked windows; its values where not ``batch.valid`` mean
        nothing.
        """

    @abstractmethod
    def bias(self) -> Tensor:
        """float32 (C,): the answer to nothing at all, which is what a mask of zeros leaves."""

    @abstractmethod
    def with_classes(self, sizes: Sequence[int]) -> BaseExplanandum:
        """The same network with new heads of random weights for other classes, not frozen."""

    @abstractmethod
    def stored_tensors(self) -> dict[str, Tensor]:
        """The weights under the names that they have in a checkpoint."""

    @abstractmethod
    def stored_config(self) -> str:
        """``config.json`` of a checkpoint, in the official form."""

    def plain(self, batch: TokenBatch) -> Tensor:
        """Logits (B, C) by the network's own forward pass, as if there were no masks in the world."""
        return self.forward(batch)

    def freeze(self) -> Self:
        """No gradients for any weight, and eval mode for good: ``train()`` has no effect from now on."""
        self._frozen = True
        self.requires_grad_(False)
        self.eval()
        return self

    def train(self, mode: bool = True) -> Self:
        """As in torch, except that a frozen Explanandum stays in eval mode.

        The code of the paper's parent method put its frozen classifier back into training mode this way.
        """
        super().train(mode and not self._frozen)
        return self

    def forward(self, batch: TokenBatch, mask: Tensor | None = None, operator: Operator = gate) -> Tensor:
        """Logits (B, C); with a mask (B, L), those of the masked windows."""
        return self.classify(batch, mask, operator).logits

    def split(self, logits: Tensor) -> list[Tensor]:
        """(B, C) to one (B, C_r) per rank."""
        return list(torch.split(logits, list(self.sizes), dim=-1))

    def class_numbers(self, classes: Tensor) -> Tensor:
        """Classes within their ranks, int64 (B, R), to numbers on the class axis of length C."""
        first = [0]
        for size in self.sizes[:-1]:
            first.append(first[-1] + size)
        return classes + torch.tensor(first, device=classes.device)

    def probabilities(self, logits: Tensor) -> list[Tensor]:
        """Per rank (B, C_r), as they are reported: calibrated by temperature (Guo et al. 2017).

        Training, masks and the order of the classes know no temperature.
        """
        return [
            (own / temperature).softmax(-1)
            for own, temperature in zip(self.split(logits), self.temperatures, strict=True)
        ]

    def predict(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted class within each rank, int64 (B, R), and its :meth:`probabilities`, float32 (B, R)."""
        classes = torch.stack([own.argmax(-1) for own in self.split(logits)], -1)
        probabilities = torch.stack([own.amax(-1) for own in self.probabilities(logits)], -1)
        return classes, probabilities


class Explanandum(BaseExplanandum):
    """A Nucleotide Transformer, a pooling over tokens, and one linear head per rank.

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

    architecture = "nucleotide-transformer"

    def __init__(self, backbone: NucleotideTransformer, sizes: Sequence[int], pooling: str = "mean") -> None:
        shape = backbone.config
        super().__init__(
            sizes,
            pooling,
            hidden_size=shape.hidden_size,
            n_states=shape.num_hidden_layers + 1,
            vocab_size=shape.vocab_size,
        )
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Linear(shape.hidden_size, size) for size in sizes)

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

    def with_classes(self, sizes: Sequence[int]) -> Explanandum:
        """The same backbone, which is shared, with new heads for other classes, not frozen."""
        return Explanandum(self.backbone, sizes, self.pooling).requires_grad_(True)

    def stored_tensors(self) -> dict[str, Tensor]:
        """The backbone under its official names (``esm.*``), heads as ``heads.N.*``."""
        return {
            ("esm." + name.removeprefix("backbone.")) if name.startswith("backbone.") else name: tensor
            for name, tensor in self.state_dict().items()
        }

    def stored_config(self) -> str:
        """The backbone's ``config.json``."""
        return self.backbone.config.to_json()
