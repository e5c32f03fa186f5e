"""Explainers: networks that give every token a mask value per class.

Both kinds produce features per token once, and turn them into mask logits of as many classes as asked
for: all C in training, where the non-target mask needs them, and only the predicted class of each rank
at inference.  The sigmoid comes after any maximum over classes, which gives the same values for fewer
operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.model.tokens import TokenBatch

__all__ = ["EXPLAINERS", "Explainer", "LstmExplainer", "MaskLogits", "StateExplainer", "select_masks"]


class Explainer(nn.Module):
    """What both kinds share: features (B, L, F), then one linear row per class.

    Mask logits at ``<cls>`` and padding are meaningless; everything that reads them goes by ``valid``.
    """

    kind: ClassVar[str]
    head: nn.Linear

    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        """The constructor's arguments, as the checkpoint stores them."""

    def features(self, batch: TokenBatch, states: Sequence[Tensor]) -> Tensor:
        """(B, L, F) features of each token, from the ids or from the Explanandum's hidden states."""
        raise NotImplementedError

    def forward(self, batch: TokenBatch, states: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        """Mask logits: (B, L, C), or with ``classes`` (B, K), class numbers on the C axis, (B, L, K)."""
        features = self.features(batch, states)
        if classes is None:
            return F.linear(features, self.head.weight, self.head.bias)
        rows = self.head.weight[classes]  # (B, K, F)
        return torch.baddbmm(self.head.bias[classes][:, None, :], features, rows.transpose(1, 2))


class StateExplainer(Explainer):
    """A small head over the hidden states that the Explanandum computes anyway (the default).

    LayerNorm of each state, concatenated, to ``width`` features, GELU, and a residual convolution over
    neighbouring tokens.  One explanation costs little more than the classification.

    Parameters
    ----------
    hidden_size: H of the Explanandum.
    n_states: how many of its last hidden states are read.
    n_classes: C.
    width, kernel: features per token, and tokens per convolution window.
    """

    kind = "state"

    def __init__(
        self, hidden_size: int, n_states: int, n_classes: int, width: int = 64, kernel: int = 5
    ) -> None:
        super().__init__(
            {
                "hidden_size": hidden_size,
                "n_states": n_states,
                "n_classes": n_classes,
                "width": width,
                "kernel": kernel,
            }
        )
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel}; expected an odd number of tokens, centred on one")
        self.n_states = n_states
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(n_states))
        self.reduce = nn.Linear(n_states * hidden_size, width)
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.head = nn.Linear(width, n_classes)

    def features(self, batch: TokenBatch, states: Sequence[Tensor]) -> Tensor:
        x = F.gelu(self._reduce(states[-self.n_states :]))  # (B, L, width)
        # Padding must look like the zeros beyond the end, or it would change its neighbours' features.
        x = x * batch.valid[..., None].to(x.dtype)
        # A picture of height 1: torch knows the layout of channels last for those only, and copies lines.
        picture = x.transpose(1, 2)[:, :, None]
        beside = (0, self.mix.kernel_size[0] // 2)
        mixed = F.conv2d(picture, self.mix.weight[:, :, None], self.mix.bias, padding=beside)
        return x + mixed[:, :, 0].transpose(1, 2)

    def _reduce(self, states: Sequence[Tensor]) -> Tensor:
        """The linear layer over the normalised states side by side, without putting them there."""
        weights = self.reduce.weight.chunk(self.n_states, dim=1)
        x: Tensor | None = None
        for norm, state, weight in zip(self.norms, states, weights, strict=True):
            normed = norm(state.to(weight.dtype)).flatten(0, 1)  # (B L, H)
            x = torch.addmm(self.reduce.bias if x is None else x, normed, weight.t())
        assert x is not None
        return x.view(*states[0].shape[:2], -1)


class LstmExplainer(Explainer):
    """The paper's Explainer (figure 4): embedding, two-layer bidirectional LSTM, ReLU, batch norm, linear.

    The paper says "40 nodes" and "160 features"; two directions of 80 give 160, so 80 is the default.
    Batch normalisation sees valid tokens only.
    """

    kind = "lstm"

    def __init__(
        self, vocab_size: int, n_classes: int, embedding: int = 100, hidden: int = 80, layers: int = 2
    ) -> None:
        super().__init__(
            {
                "vocab_size": vocab_size,
                "n_classes": n_classes,
                "embedding": embedding,
                "hidden": hidden,
                "layers": layers,
            }
        )
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, bidirectional=True)
        self.norm = nn.BatchNorm1d(2 * hidden)
        self.head = nn.Linear(2 * hidden, n_classes)

    def features(self, batch: TokenBatch, states: Sequence[Tensor]) -> Tensor:
        x = self.embedding(batch.ids)
        if batch.padded:
            # Packed, so that the backward direction starts at each window's own end.
            lengths = batch.attention.sum(-1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            x, _ = nn.utils.rnn.pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=x.shape[1]
            )
        else:
            x, _ = self.lstm(x)
        x = F.relu(x)
        if not self.training:
            out: Tensor = self.norm(x.transpose(1, 2)).transpose(1, 2)
            return out
        normed = torch.zeros_like(x)
        normed[batch.valid] = self.norm(x[batch.valid]).to(x.dtype)
        return normed


EXPLAINERS: dict[str, type[Explainer]] = {"state": StateExplainer, "lstm": LstmExplainer}


def build_explainer(kind: str, config: dict[str, Any]) -> Explainer:
    """The Explainer of a kind from its stored configuration: a fixed registry, never an import path."""
    if kind not in EXPLAINERS:
        raise ValueError(f"unknown Explainer '{kind}'; known: {', '.join(EXPLAINERS)}")
    return EXPLAINERS[kind](**config)


class MaskLogits(NamedTuple):
    """Mask logits before the sigmoid.

    ``target`` (B, L): maximum over the target classes, m in the paper; ``non_target`` (B, L): maximum
    over all other classes, n; ``by_class`` (B, L, R): those of the target classes themselves, s_c.
    """

    target: Tensor
    non_target: Tensor
    by_class: Tensor


def select_masks(class_logits: Tensor, classes: Tensor) -> MaskLogits:
    """Target and non-target mask logits (paper, section 2.1) from those of all classes.

    ``class_logits`` (B, L, C); ``classes`` int64 (B, R), the target classes on the C axis.
    """
    index = classes[:, None, :].expand(-1, class_logits.shape[1], -1)  # (B, L, R)
    by_class = class_logits.gather(2, index)
    others = class_logits.scatter(2, index, -torch.inf).amax(-1)
    return MaskLogits(by_class.amax(-1), others, by_class)
