"""What a piece of work does, counted and not timed: the same on every machine.

Operations of matrix products, convolutions, attention and LSTMs (multiply and add count two), bytes that are
copied without being computed with, and tensors for which memory is taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

__all__ = ["Tally"]

aten = torch.ops.aten
COPIES = {aten.copy_, aten._to_copy, aten.clone, aten.cat, aten.stack, aten.roll}


def _lstm_operations(x: Tensor, weight: Tensor, recurrent: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of one direction of one layer: two products for each token."""
    return 2 * x.shape[0] * x.shape[1] * (weight.numel() + recurrent.numel())


def _attention_operations(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))


def _attention_slope(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    """Five products beside the two that the way forward has."""
    return int(sdpa_flop_count(q.shape, k.shape, v.shape)) * 5 // 2


# On top of torch's own, by what a CPU runs.
_FORMULAS: dict[Any, Any] = {
    aten.mkldnn_rnn_layer: _lstm_operations,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_slope,
}


class Tally(TorchDispatchMode):
    """Counts while it is entered: ``operations``, ``copied`` (bytes), ``allocations`` (tensors)."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.copied = self.allocations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry and packet not in _FORMULAS:
            with self:  # what inference mode left whole is counted by its parts
                parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
        out = func(*args, **kwargs)
        if packet in flop_registry:
            self.operations += int(flop_registry[packet](*args, **kwargs, out_val=out))
        elif packet in _FORMULAS:
            self.operations += _FORMULAS[packet](*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if packet in COPIES:
            self.copied += sum(tensor.nbytes for tensor in made)
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        self.allocations += sum(tensor.untyped_storage()._cdata not in given for tensor in made)
        return out
