"""Training an Explanandum otherwise than whole: its last layers, low-rank updates, or with more layers."""

from __future__ import annotations

from torch import nn

from wyrcli.errors import WyrError
from wyrcli.model.explanandum import Explanandum

__all__ = ["add_lora", "deepen", "freeze_layers", "merge_lora"]

# What attention's matrices are called: the Nucleotide Transformer and BERT, DistilBERT, ModernBERT.
_ATTENTION = ("query", "key", "value", "q_lin", "k_lin", "v_lin", "Wqkv")


def _layers(explanandum: nn.Module) -> nn.ModuleList:
    """The transformer's layers: the longest list of modules that are no single matrices."""
    lists = [m for m in explanandum.modules() if isinstance(m, nn.ModuleList)]
    lists = [m for m in lists if len(m) and not isinstance(m[0], nn.Linear)]
    if not lists:
        raise WyrError("this network has no layers that could be frozen one by one")
    return max(lists, key=lambda m: (len(m), sum(p.numel() for p in m.parameters())))


def deepen(explanandum: nn.Module, n_layers: int) -> None:
    """Give a Nucleotide Transformer more layers; see :meth:`NucleotideTransformer.deepen`.

    Raises WyrError for another encoder, or if it has more layers already.
    """
    if not isinstance(explanandum, Explanandum):
        raise WyrError("--layers is for the Nucleotide Transformer")
    now = explanandum.backbone.config.num_hidden_layers
    if n_layers < now:
        raise WyrError(f"the network has {now} layers; it can be deepened, not cut to {n_layers}")
    explanandum.backbone.deepen(n_layers)
    explanandum.n_states = n_layers + 1


def freeze_layers(explanandum: nn.Module, n: int) -> None:
    """Freeze the embeddings and the first ``n`` layers; the last ones and the heads train.

    Raises WyrError if there are not as many.
    """
    layers = _layers(explanandum)
    if n > len(layers):
        raise WyrError(f"{n} layers were to be frozen; the network has {len(layers)}")
    for name, module in explanandum.named_modules():
        if name.rsplit(".", 1)[-1] in ("embeddings", "embeddings_project"):
            module.requires_grad_(False)
    for layer in layers[:n]:
        layer.requires_grad_(False)


def add_lora(explanandum: nn.Module, rank: int) -> None:
    """Freeze the layers and embeddings, and train an update of ``rank`` for each matrix of the attention.

    Hu et al. 2022 (LoRA), by the package peft, with a scale of 2 (alpha = 2 rank).  The heads train as
    they are.  Raises WyrError without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise WyrError("--lora needs peft: pip install 'wyrcli[lora]'") from None
    layers = _layers(explanandum)
    freeze_layers(explanandum, len(layers))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_ATTENTION))
    inject_adapter_in_model(config, layers)


def merge_lora(explanandum: nn.Module) -> None:
    """Add the updates to their matrices: the network has its old shape and no trace of LoRA again."""
    from peft.tuners.lora import LoraLayer

    for parent in list(explanandum.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
