"""The Nucleotide Transformer, written from its published configuration: v2, and v1 by configuration.

Parameter names are the official ones (``esm.encoder.layer.0.attention.self.query.weight``), so that a
published checkpoint loads by name, strictly.  Two things are added for masking: the embedding step and
the encoder can be called apart, and the encoder takes an additive bias on the attention keys.

The block is pre-LayerNorm: every sub-layer normalises its input first.  So multiplying an embedding by
m > 0 changes nothing in what the first layer attends to, which is why the default removal operator is
a bias on keys and not a product on embeddings (see ``masking.py``).

Reference: Dalla-Torre et al., *Nucleotide Transformer*, Nature Methods 2024; the ESM architecture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.errors import CheckpointError
from wyrcli.model.attention import attend

__all__ = [
    "BackboneConfig",
    "NucleotideTransformer",
    "compose_embeddings",
    "load_strict",
    "load_tensors",
    "silence",
    "strandless_key",
]


@dataclass(frozen=True)
class BackboneConfig:
    """The part of an official ``config.json`` that shapes the network; names are the official ones."""

    vocab_size: int = 4107
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 2048
    max_position_embeddings: int = 2050
    position_embedding_type: str = "rotary"  # v2; "absolute" in v1
    layer_norm_eps: float = 1e-12  # as the published file says; the JAX original had 1e-5
    token_dropout: bool = False
    add_bias_fnn: bool = False
    pad_token_id: int = 1
    mask_token_id: int = 2
    initializer_range: float = 0.02

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers are gated (SiLU, v2) or plain (GELU, v1)."""
        return self.position_embedding_type == "rotary"

    @classmethod
    def load(cls, path: Path) -> BackboneConfig:
        """Read ``config.json``.  Raises CheckpointError if it describes another kind of model."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name for f in fields(cls)}
            values = {k: v for k, v in content.items() if k in known}
            # v1 files have no add_bias_fnn: their feed-forward layers always carry biases.
            if content.get("position_embedding_type") == "absolute":
                values.setdefault("add_bias_fnn", True)
            config = cls(**values)
            config.check(str(path))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: not found; expected a Nucleotide Transformer config.json"
            ) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a Nucleotide Transformer config.json: {error}") from None
        return config

    def check(self, where: str) -> None:
        """Raise CheckpointError where the numbers do not make a network."""
        if self.position_embedding_type not in ("rotary", "absolute"):
            raise CheckpointError(
                f"{where}: position_embedding_type '{self.position_embedding_type}'; "
                "expected rotary (NT v2) or absolute (NT v1)"
            )
        sizes = (self.vocab_size, self.hidden_size, self.num_hidden_layers, self.intermediate_size)
        if min(*sizes, self.num_attention_heads, self.max_position_embeddings) < 1:
            raise CheckpointError(f"{where}: sizes must be positive")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"{where}: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.position_embedding_type == "rotary" and self.hidden_size // self.num_attention_heads % 2:
            raise CheckpointError(f"{where}: rotary positions need an even size per attention head")

    def to_json(self) -> str:
        """``config.json`` in the official form (no model_type, as published)."""
        content = asdict(self) | {
            "emb_layer_norm_before": False,
            "attention_probs_dropout_prob": 0.0,
            "hidden_dropout_prob": 0.0,
            "tie_word_embeddings": False,
        }
        return json.dumps(content, indent=2) + "\n"


class _Embeddings(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        if config.position_embedding_type == "absolute":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor, attention: Tensor | None) -> Tensor:
        x: Tensor = self.word_embeddings(ids)  # (B, L, H)
        if self.config.token_dropout:
            # As in ESM: <mask> embeddings are zeroed and the rest scaled as if 12 % had been dropped in
            # training (15 % of tokens chosen, 80 % of those masked).
            masked = ids == self.config.mask_token_id
            x = x.masked_fill(masked[..., None], 0.0)
            lengths = attention.sum(-1) if attention is not None else torch.full_like(ids[:, 0], ids.shape[1])
            observed = masked.sum(-1).to(x.dtype) / lengths
            x = x * ((1 - 0.15 * 0.8) / (1 - observed))[:, None, None].to(x.dtype)
        if self.config.position_embedding_type == "absolute":
            real = ids != self.config.pad_token_id
            positions = torch.cumsum(real, dim=1) * real + self.config.pad_token_id
            x = x + self.position_embeddings(positions)
        if attention is not None:
            x = x * attention[..., None].to(x.dtype)
        return x


class _SelfAttention(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, key_bias: Tensor | None) -> Tensor:
        b, n, h = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(b, n, self.heads, h // self.heads).transpose(1, 2)  # (B, heads, L, d)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        if rotary is not None:
            q, k = _rotate(q, *rotary), _rotate(k, *rotary)
        out = attend(q, k, v, key_bias)
        return out.transpose(1, 2).reshape(b, n, h)


class _Dense(nn.Module):
    """One linear layer under the official attribute name ``dense``."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        super().__init__()
        self.dense = nn.Linear(n_in, n_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dense(x)
        return out


def _narrow(x: Tensor) -> Tensor:
    """To autocast's number format once, before each of several products does it for itself."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class _Attention(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Dense(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, key_bias: Tensor | None) -> Tensor:
        out: Tensor = x + self.output(self.self(_narrow(self.LayerNorm(x)), rotary, key_bias))
        return out


class _Layer(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gated = config.gated
        inner, biased = config.intermediate_size, config.add_bias_fnn
        self.attention = _Attention(config)
        # Gate and value are stacked in one matrix in v2.
        self.intermediate = _Dense(config.hidden_size, 2 * inner if self.gated else inner, biased)
        self.output = _Dense(inner, config.hidden_size, biased)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, key_bias: Tensor | None) -> Tensor:
        x = self.attention(x, rotary, key_bias)
        normed = _narrow(self.LayerNorm(x))
        if self.gated:
            gate, value = self._gate_and_value(normed)
            inner = F.silu(gate) * value
        else:
            inner = F.gelu(self.intermediate(normed))
        out: Tensor = x + self.output(inner)
        return out

    def _gate_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Two products, because halves of one would have their gradients copied together again.
        dense = self.intermediate.dense
        biases = (None, None) if dense.bias is None else dense.bias.chunk(2)
        gate, value = (F.linear(x, w, bias) for w, bias in zip(dense.weight.chunk(2), biases, strict=True))
        return gate, value


class _Encoder(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class NucleotideTransformer(nn.Module):
    """Token ids to hidden states.

    ``model(input_ids, attention_mask)`` gives the last hidden state (B, L, H), after the final
    LayerNorm.  An omitted attention mask means all ones, as in the original: padding is then attended.

    >>> config = BackboneConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> NucleotideTransformer(config)(torch.tensor([[3, 728, 4105]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The embedding step alone: (B, L) ids to (B, L, H); padding is zero."""
        out: Tensor = self.embeddings(input_ids, attention_mask)
        return out

    def encode(
        self, embeddings: Tensor, attention_mask: Tensor | None = None, key_bias: Tensor | None = None
    ) -> list[Tensor]:
        """All hidden states: [embeddings, after each layer ...], the last one after the final LayerNorm.

        ``key_bias`` (B, L) is added to the attention logits of each key in every layer; -inf removes it.
        At least one key per row must stay finite.
        """
        rotary = None
        if self.config.position_embedding_type == "rotary":
            size = self.config.hidden_size // self.config.num_attention_heads
            rotary = _rotary_tables(embeddings.shape[1], size, embeddings)
        bias = _combine_bias(attention_mask, key_bias, embeddings.dtype)
        x, states = embeddings, [embeddings]
        for layer in self.encoder.layer:
            x = layer(x, rotary, bias)
            states.append(x)
        states[-1] = self.encoder.emb_layer_norm_after(x)
        return states

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden state (B, L, H)."""
        return self.encode(self.embed(input_ids, attention_mask), attention_mask)[-1]

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> NucleotideTransformer:
        """Load an official checkpoint directory: ``config.json`` and safetensors or ``pytorch_model.bin``.

        Raises CheckpointError that names every missing or unexpected tensor.  The language-model and
        contact heads, which a classifier has no use for, and rotary models' unused tables are passed over.
        """
        directory = Path(directory)
        model = cls(BackboneConfig.load(directory / "config.json"))
        tensors = load_tensors(directory)
        prefix = "esm." if any(name.startswith("esm.") for name in tensors) else ""
        model.load_named({name.removeprefix(prefix): t for name, t in tensors.items()}, str(directory))
        return model

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Have torch fuse what lies between the matrix products of a layer, from the next call on.

        All layers share one compiled program, made in half a minute or so; one more for lengths that vary.
        Names of weights stay.  CUDA graphs are not asked for: at the batch sizes for which the half minute
        pays, launching kernels is hidden behind running them.
        """
        for layer in self.encoder.layer:
            layer.compile(backend=backend)

    def deepen(self, n_layers: int) -> None:
        """Add layers at the end that at first do nothing: the hidden states after the old ones stay.

        Each is a copy of the last layer whose two output matrices are zero.  A shallow network learns in a
        fraction of the time, and what it has learned is kept (progressive stacking: Gong et al. 2019).
        """
        layers = self.encoder.layer
        while len(layers) < n_layers:
            added = deepcopy(layers[-1])
            silence(added)
            layers.append(added)
        self.config = replace(self.config, num_hidden_layers=len(layers))

    def load_named(self, tensors: dict[str, Tensor], where: str) -> None:
        """Copy tensors in by name, strictly; ``where`` is named in errors."""

        def optional(name: str) -> bool:
            unused_table = name == "embeddings.position_embeddings.weight" and (
                self.config.position_embedding_type == "rotary"
            )
            heads = name.startswith(("lm_head.", "contact_head.", "esm.contact_head."))
            return unused_table or heads or name.endswith(("rotary_embeddings.inv_freq", "position_ids"))

        load_strict(
            self, {n: t for n, t in tensors.items() if n in self.state_dict() or not optional(n)}, where
        )


def silence(layer: nn.Module) -> None:
    """Make a layer do nothing, until it learns otherwise: its two output matrices become zero."""
    for name, parameter in layer.named_parameters():
        if name.startswith(("attention.output.", "output.")):
            nn.init.zeros_(parameter)


def load_strict(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a module by name.  Raises CheckpointError that lists what does not fit."""
    expected = module.state_dict()
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{where}: weights do not fit: {'; '.join(problems[:10])}{more}")
    module.load_state_dict(tensors)


def load_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of an official checkpoint directory, on the CPU.

    Safetensors (also sharded) are preferred; a ``pytorch_model.bin`` is read with ``weights_only=True``,
    which executes nothing from the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(directory.glob("model*.safetensors"))
    try:
        if files:
            tensors: dict[str, Tensor] = {}
            for file in files:
                tensors.update(load_file(file))
            return tensors
        pickled = sorted(directory.glob("pytorch_model*.bin"))
        if pickled:
            tensors = {}
            for file in pickled:
                loaded = torch.load(file, map_location="cpu", weights_only=True)
                if not isinstance(loaded, dict):
                    raise ValueError(f"{file.name} holds no tensors by name")
                tensors.update({str(name): t for name, t in loaded.items() if isinstance(t, Tensor)})
            return tensors
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{directory}: weights cannot be read: {reason}") from None
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":
            raise CheckpointError(
                f"{directory}: pytorch_model.bin holds more than tensors, so it is not read; "
                "convert it to safetensors"
            ) from None
        raise
    raise CheckpointError(f"{directory}: no model.safetensors and no pytorch_model.bin")


def _rotary_tables(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos, and sin with its signs (:func:`_rotate`), (L, d), in the dtype and on the device of ``like``.

    The frequencies are float32 as in the checkpoints, and the angles float32 at least: bf16 cannot
    tell position 1,000 from 1,003.  Nothing is cached: tables made under inference_mode would break a
    later backward pass, and they cost next to nothing.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    frequencies = 1.0 / 10000 ** (torch.arange(0, size, 2, device=like.device).float() / size)
    angles = torch.outer(torch.arange(length, device=like.device, dtype=wide), frequencies.to(wide))
    cos, sin = angles.cos(), angles.sin()
    tables = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return tables[0].to(like.dtype), tables[1].to(like.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + (-second half, first half) sin; the sign is in ``sin``, so that nothing is cut and joined."""
    return torch.addcmul(x * cos.to(x.dtype), x.roll(x.shape[-1] // 2, -1), sin.to(x.dtype))


def _combine_bias(attention: Tensor | None, key_bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One additive bias (B, 1, 1, L) from padding and the operator's key bias."""
    bias = None
    if attention is not None:
        lowest = torch.finfo(dtype).min  # as the original; finite, so that a padded row gives no NaN
        bias = torch.zeros(attention.shape, dtype=dtype, device=attention.device)
        bias = bias.masked_fill(~attention.bool(), lowest)
    if key_bias is not None:
        bias = key_bias.to(dtype) if bias is None else bias + key_bias.to(dtype)
    return None if bias is None else bias[:, None, None, :]


_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def strandless_key(letters: str) -> str:
    """One name for a k-mer and its reverse complement.

    >>> strandless_key("GT"), strandless_key("AC")
    ('AC', 'AC')
    """
    return min(letters, letters[::-1].translate(_COMPLEMENT))


def compose_embeddings(
    embedding: nn.Embedding, kmers: Mapping[int, str], seed: int = 0, *, strandless: bool = False
) -> None:
    """Start k-mer embeddings from the shorter k-mers inside them.

    The vector of a k-mer becomes the sum, over j = 1 to 4 and over the positions inside it, of a random
    vector per (position-free) j-mer divided by the square root of the number of positions, plus a random
    vector of its own, rescaled to unit variance.  Neighbouring k-mers then start near
    each other; in our trial on real genomes the model learned about three times as fast from scratch.

    ``kmers`` maps token ids to their letters; other tokens keep their initial vectors.  ``strandless``: a
    j-mer and its reverse complement have one vector, so that what a network counts at first is the same on
    both strands.
    """

    def key(letters: str) -> str:
        return strandless_key(letters) if strandless else letters

    generator = torch.Generator().manual_seed(seed)
    weight, size = embedding.weight, embedding.embedding_dim
    parts: dict[str, Tensor] = {}
    with torch.no_grad():
        for token, letters in kmers.items():
            whole = "own " + key(letters)
            if whole not in parts:
                parts[whole] = torch.randn(size, generator=generator)
            vector = parts[whole].clone()
            for j in range(1, min(4, len(letters)) + 1):
                places = len(letters) - j + 1
                for i in range(places):
                    part = key(letters[i : i + j])
                    if part not in parts:
                        parts[part] = torch.randn(size, generator=generator)
                    vector += parts[part] / math.sqrt(places)
            weight[token] = vector / vector.std()
