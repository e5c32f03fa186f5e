"""Encoders of ``transformers`` as Explananda: BERT and its kin, and ESM-2, with the heads that they have.

Which classes there are is written here; a file only says which of them it is for, and no code comes with
a model.  What a removal operator does to such a network:

- a key bias goes in as an additive attention mask of four dimensions, which ``transformers`` hands to every
  layer as it is, in local layers together with their window;
- a factor on embeddings multiplies what the embedding module gives out;
- a weight in the pooling acts where a head takes a mean (ModernBERT's may).  Others read the first token.

Special tokens keep m = 1.  :mod:`wyrcli.model.proof` tests all this on every model that is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wyrcli.errors import CheckpointError
from wyrcli.model.backbone import load_strict, load_tensors
from wyrcli.model.encoder_tokens import read_tokenizer
from wyrcli.model.explanandum import BaseExplanandum, Classified
from wyrcli.model.masking import Operator, gate
from wyrcli.model.tokens import TokenBatch, Tokenizer, pad_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["FAMILIES", "EncoderExplanandum", "read_encoder", "read_encoder_config", "start_encoder"]

# Instead of -inf: exp() of it is 0 in float32 and bf16 alike, but a row of nothing else gives no NaN.  Such
# rows are those of removed tokens whose local window holds removed tokens only; nobody sees them.
_REMOVED = -1e30


@dataclass(frozen=True)
class _Family:
    """One architecture: the start of its class names in ``transformers``, and its head.

    ``head`` gives the modules that follow the pooling, in order.  ``whole``: the first of them takes all
    states (B, L, H) and picks the first token itself.
    """

    classes: str
    head: Callable[[Any], list[nn.Module]]
    whole: bool = False


FAMILIES = {
    "bert": _Family("Bert", lambda net: [net.bert.pooler, net.dropout, net.classifier], whole=True),
    "roberta": _Family("Roberta", lambda net: [net.classifier], whole=True),
    "xlm-roberta": _Family("XLMRoberta", lambda net: [net.classifier], whole=True),
    "electra": _Family("Electra", lambda net: [net.classifier], whole=True),
    "esm": _Family("Esm", lambda net: [net.classifier], whole=True),
    "distilbert": _Family(
        "DistilBert", lambda net: [net.pre_classifier, nn.ReLU(), net.dropout, net.classifier]
    ),
    "modernbert": _Family("ModernBert", lambda net: [net.head, net.drop, net.classifier]),
}
"""By the ``model_type`` of ``config.json``."""


class EncoderExplanandum(BaseExplanandum):
    """A ``...ForSequenceClassification`` of ``transformers``.

    Parameters
    ----------
    network: one of :data:`FAMILIES`.
    sizes: number of classes per rank; their sum is the network's number of labels.
    empty_ids: the tokens of an empty sequence: the special ones.
    """

    architecture = "transformers"

    def __init__(self, network: PreTrainedModel, sizes: Sequence[int], empty_ids: Sequence[int]) -> None:
        config: Any = network.config
        self._family = FAMILIES[config.model_type]
        super().__init__(
            sizes,
            str(getattr(config, "classifier_pooling", "cls")),
            hidden_size=config.hidden_size,
            n_states=config.num_hidden_layers + 1,
            vocab_size=config.vocab_size,
            reach=_reach(config),
        )
        if sum(sizes) != config.num_labels:
            raise ValueError(f"{sum(sizes)} classes, but the network has {config.num_labels} labels")
        self.network = network
        self.empty_ids = tuple(empty_ids)

    @property
    def _encoder(self) -> Any:
        return self.network.base_model

    def classify(
        self, batch: TokenBatch, mask: Tensor | None = None, operator: Operator = gate
    ) -> Classified:
        """Logits and hidden states: embeddings, then each layer's, the last as the head reads it."""
        attention: Any = batch.attention_mask
        bias = factor = weight = None
        if mask is not None:
            factor, bias, weight = operator(mask, batch.valid)
            if bias is not None:
                attention = self._attention(batch, bias)
        with self._altered(batch, factor, bias):
            out = self._encoder(
                input_ids=batch.ids, attention_mask=attention, output_hidden_states=True, return_dict=True
            )
        return Classified(self._head(out.last_hidden_state, batch, weight), list(out.hidden_states))

    def _attention(self, batch: TokenBatch, key_bias: Tensor) -> Any:
        """The bias on keys and the padding, as ``transformers`` takes a mask that is already made."""
        dtype = self.network.dtype
        n = batch.ids.shape[1]
        bias = key_bias.clamp_min(_REMOVED).masked_fill(~batch.attention, _REMOVED).to(dtype)
        bias = bias[:, None, None, :].expand(-1, 1, n, -1)  # (B, 1, L, L)
        if not self.reach:
            return bias
        # A mask that is already made takes the place of the window of a local layer too.
        place = torch.arange(n, device=bias.device)
        near = (place[:, None] - place[None, :]).abs() <= self.reach
        return {"full_attention": bias, "sliding_attention": bias.masked_fill(~near, _REMOVED)}

    @contextmanager
    def _altered(self, batch: TokenBatch, factor: Tensor | None, bias: Tensor | None) -> Iterator[None]:
        """For one forward pass: embeddings times ``factor``, and what a bias needs."""
        embeddings: nn.Module = self._encoder.embeddings
        config: Any = self.network.config
        usual = config._attn_implementation

        def own_mask(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            # ESM's embeddings multiply by the padding mask, and would take the bias for one.
            return args, kwargs | {"attention_mask": batch.attention_mask}

        def multiply(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            assert factor is not None
            return output * factor[..., None].to(output.dtype)

        with ExitStack() as stack:
            if bias is not None and config.model_type == "esm":
                handle = embeddings.register_forward_pre_hook(own_mask, with_kwargs=True)
                stack.callback(handle.remove)
            if factor is not None:
                stack.callback(embeddings.register_forward_hook(multiply).remove)
            if bias is not None and bias.requires_grad and bias.device.type == "cpu":
                # No fused CPU kernel has a gradient for the bias; see backbone.py.
                config._attn_implementation = "eager"
                stack.callback(setattr, config, "_attn_implementation", usual)
            yield

    def _head(self, states: Tensor, batch: TokenBatch, weight: Tensor | None) -> Tensor:
        """Logits (B, C) from the last states, in float32 at least, as in :class:`Explanandum`."""
        wide = torch.promote_types(states.dtype, torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            if self._family.whole:
                x = states.to(wide)
            elif self.pooling == "mean":
                # transformers takes the mean over special tokens too; they keep their weight of 1.
                kept = (
                    batch.attention if weight is None else torch.where(batch.valid, weight, batch.attention)
                )
                share = kept.to(wide) / batch.attention.sum(-1, keepdim=True)
                x = torch.bmm(share[:, None, :], states.to(wide))[:, 0]  # (B, H)
            else:
                x = states[:, 0].to(wide)
            for module in self._family.head(self.network):
                x = functional_call(module, {n: p.to(wide) for n, p in module.named_parameters()}, (x,))
        return x

    def plain(self, batch: TokenBatch) -> Tensor:
        """Logits (B, C) by the forward pass of ``transformers``."""
        out = self.network(input_ids=batch.ids, attention_mask=batch.attention_mask)
        logits: Tensor = out.logits
        return logits

    def bias(self) -> Tensor:
        """float32 (C,): the answer to an empty sequence, its special tokens alone."""
        ids = torch.tensor(self.empty_ids).numpy()
        nothing = pad_tokens([ids], [ids[:0].reshape(0, 2)], len(ids) - 1, 0)
        with torch.no_grad():
            return self.forward(nothing.to(self.network.device))[0].float()

    def with_classes(self, sizes: Sequence[int]) -> EncoderExplanandum:
        """A copy of the encoder with a new head of random weights for other classes, not frozen."""
        config = type(self.network.config).from_dict(self.network.config.to_dict())
        config.num_labels = sum(sizes)
        network = _build(config, initialise=True)
        head = set(_head_names(network))
        kept = {name: t for name, t in self.network.state_dict().items() if name not in head}
        network.load_state_dict(kept, strict=False)
        renewed = EncoderExplanandum(network, sizes, self.empty_ids)
        renewed.to(self.network.device)
        return renewed

    def stored_tensors(self) -> dict[str, Tensor]:
        """The weights under their official names."""
        return self.network.state_dict()

    def stored_config(self) -> str:
        """``config.json`` as ``transformers`` writes it."""
        return str(self.network.config.to_json_string())


def _reach(config: Any) -> int:
    """Tokens to either side that a local layer sees; 0 where there is no such layer."""
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return 0
    return int(config.sliding_window)


def _build(config: PretrainedConfig, *, initialise: bool) -> PreTrainedModel:
    """A network in float32, of random weights or of none yet, which saves the time to draw them."""
    import transformers
    from transformers.initialization import no_init_weights

    family = FAMILIES[config.model_type]
    config._attn_implementation = "sdpa"  # flash attention takes no mask of four dimensions
    with nullcontext() if initialise else no_init_weights():
        network: Any = getattr(transformers, f"{family.classes}ForSequenceClassification")(config)
    if config.model_type == "esm":
        # No part of the answer: gradients that never come would stop distributed training.
        network.base_model.contact_head.requires_grad_(False)
    built: PreTrainedModel = network.float()
    return built


def _head_names(network: PreTrainedModel) -> list[str]:
    """Names of the head's weights."""
    prefix = f"{network.base_model_prefix}."
    return [name for name in network.state_dict() if not name.startswith(prefix)]


# ---------------------------------------------------------------- reading


def read_encoder_config(directory: Path) -> PretrainedConfig:
    """``config.json`` of a classifier.  Raises CheckpointError if it is for something else."""
    path = directory / "config.json"
    config = _read_shape(directory)
    refused = {
        "a regression": config.problem_type == "regression" or config.num_labels == 1,
        "multi-label classification": config.problem_type == "multi_label_classification",
    }
    for what, found in refused.items():
        if found:
            raise CheckpointError(f"{path}: is for {what}; expected a classifier with one label per text")
    return config


def _read_shape(directory: Path) -> PretrainedConfig:
    path = directory / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model_type = content.get("model_type")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; expected that of a transformers checkpoint") from None
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a config.json: {error}") from None
    if model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{path}: model_type {model_type!r}; known: {known}")
    for name in ("auto_map", "_name_or_path"):  # where code or weights would come from
        content.pop(name, None)
    config = _make_config(path, model_type, content)
    refused = {
        "a decoder": bool(getattr(config, "is_decoder", False)),
        "quantised weights": "quantization_config" in content,
    }
    for what, found in refused.items():
        if found:
            raise CheckpointError(f"{path}: is for {what}; expected an encoder")
    return config


def _make_config(path: Path, model_type: str, content: dict[str, Any]) -> PretrainedConfig:
    import transformers

    try:
        config: PretrainedConfig = getattr(transformers, f"{FAMILIES[model_type].classes}Config").from_dict(
            content
        )
    # The checks of transformers have exceptions of their own, which differ between its versions.
    except Exception as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    return config


def read_encoder(
    directory: Path, sizes: Sequence[int] | None = None
) -> tuple[EncoderExplanandum, Tokenizer, list[str]]:
    """A classifier of ``transformers`` with its tokenizer and its labels' names, in float32, not frozen.

    Parameters
    ----------
    directory: ``config.json``, weights (safetensors; else ``pytorch_model.bin``, read with ``weights_only``),
        and the tokenizer's files.
    sizes: number of classes per rank, where there are several.

    Raises CheckpointError: an unknown architecture, weights that do not fit, no weights of the head, no
    tokenizer.
    """
    config = read_encoder_config(directory)
    shape: Any = config
    tokenizer = _tokenizer_for(shape, directory)
    try:
        network = _build(config, initialise=False)
    # What does not make a network is found at many places, down to torch.
    except Exception as error:
        raise CheckpointError(f"{directory}/config.json: {' '.join(str(error).split())[:300]}") from None
    tensors = _official_names(load_tensors(directory), network)
    lost = [name for name in _head_names(network) if name not in tensors]
    if lost:
        raise CheckpointError(
            f"{directory}: no weights of a classification head ({lost[0]}); fine-tune the model first"
        )
    load_strict(network, tensors, str(directory))
    names = [str(shape.id2label[i]) for i in range(shape.num_labels)]
    empty = tokenizer.batch([""]).ids[0].tolist()
    try:
        return EncoderExplanandum(network, sizes or [shape.num_labels], empty), tokenizer, names
    except ValueError as error:
        raise CheckpointError(f"{directory}: {error}") from None


def start_encoder(directory: Path, sizes: Sequence[int]) -> tuple[EncoderExplanandum, Tokenizer]:
    """An encoder with a new head of random weights, not frozen; a head that the file has is left out.

    ``directory``: as for :func:`read_encoder`, also of an encoder alone or with a language model's head.
    ``sizes``: number of classes per rank.  Raises CheckpointError where weights of the encoder are missing.
    """
    shape: Any = _read_shape(directory)
    shape.num_labels = sum(sizes)
    tokenizer = _tokenizer_for(shape, directory)
    network = _build(shape, initialise=True)
    prefix = f"{network.base_model_prefix}."
    tensors = load_tensors(directory)
    if not any(name.startswith(prefix) for name in tensors):
        tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    # BERT's pooler is a part of its head, and language models come without.
    head = {name for name in network.state_dict() if not name.startswith(prefix) or ".pooler." in name}
    expected = network.state_dict()
    found = {
        name: tensor
        for name, tensor in _official_names(tensors, network).items()
        # ESM's encoder alone is stored with a pooler, which its classifier has not.
        if name.startswith(prefix) and (name in expected or ".pooler." not in name)
    }
    own = {name: tensor for name, tensor in expected.items() if name in head}
    load_strict(network, own | found, str(directory))
    empty = tokenizer.batch([""]).ids[0].tolist()
    return EncoderExplanandum(network, sizes, empty), tokenizer


def _tokenizer_for(config: Any, directory: Path) -> Tokenizer:
    return read_tokenizer(
        directory,
        config.model_type,
        pad_id=config.pad_token_id or 0,
        vocab_size=config.vocab_size,
        max_tokens=_max_tokens(config),
    )


def _max_tokens(config: Any) -> int:
    """The longest input: RoBERTa and ESM number positions from behind the padding token's id on."""
    positions = int(config.max_position_embeddings)
    if config.model_type in ("roberta", "xlm-roberta", "esm"):
        return positions - int(config.pad_token_id or 0) - 1
    return positions


def _official_names(tensors: dict[str, Tensor], network: PreTrainedModel) -> dict[str, Tensor]:
    """The weights as today's ``transformers`` names them; what it does not store any more is left out."""
    expected = network.state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.endswith("rotary_embeddings.inv_freq"):  # once per layer in older files
            name = "esm.rotary_embeddings.inv_freq"
        unused = name.endswith(
            ("position_ids", "token_type_ids", "esm.embeddings.position_embeddings.weight")
        )
        if name in expected or not unused:
            found[name] = tensor
    for name, tensor in expected.items():
        if name.endswith("rotary_embeddings.inv_freq"):
            found.setdefault(name, tensor)
        elif name.startswith("esm.contact_head."):  # of no use to a classifier, and not in every file
            found.setdefault(name, torch.zeros_like(tensor))
    return found
