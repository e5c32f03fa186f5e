"""Where a classifier starts from: published weights, one of our checkpoints, or random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from wyrcli.checkpoint import check_vocabulary, load_checkpoint
from wyrcli.dataset import Dataset
from wyrcli.errors import CheckpointError, InputError
from wyrcli.installed import find_model
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer, compose_embeddings
from wyrcli.model.explanandum import BaseExplanandum, Explanandum
from wyrcli.model.tokens import KmerTokenizer, Tokenizer
from wyrcli.taxonomy import Taxonomy

__all__ = [
    "PUBLISHED",
    "check_alphabet",
    "check_length",
    "find_start",
    "start_from_config",
    "start_from_weights",
]

PUBLISHED = {
    size: f"InstaDeepAI/nucleotide-transformer-v2-{size}-multi-species"
    for size in ("50m", "100m", "250m", "500m")
}
"""Short names of the Nucleotide Transformers v2 on the Hugging Face hub."""

_FILES = [
    "config.json",
    "vocab.*",
    "merges.txt",
    "tokenizer*.json",
    "special_tokens_map.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
]


def find_start(name: str, *, download: bool = False) -> Path:
    """The directory of weights: ``name`` itself, or what the hub's cache on this machine has under that name.

    ``name``: a directory, a short name of :data:`PUBLISHED`, or an id of the hub.  The network is asked only
    with ``download``.

    Raises CheckpointError where the weights are not here.
    """
    path = Path(name)
    if path.is_dir():
        return path
    hub_id = PUBLISHED.get(name.lower(), name)
    if hub_id.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join(PUBLISHED)
        raise CheckpointError(f"{name}: not found; expected a directory, {known}, or OWNER/NAME of the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_FILES, local_files_only=not download))
    except LocalEntryNotFoundError:
        if download:
            raise CheckpointError(f"{hub_id}: cannot be reached; is there a network?") from None
        raise CheckpointError(
            f"{hub_id}: not on this machine; --download fetches it (mind its licence), or name a directory"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"{hub_id}: {str(error).splitlines()[0]}") from None


def start_from_config(
    path: Path, sizes: Sequence[int], pooling: str, *, embeddings: str, seed: int
) -> tuple[Explanandum, KmerTokenizer]:
    """A network with random weights.

    ``path``: a config.json of the official form, for the tokens of Nucleotide Transformer v2.
    ``embeddings``: ``random``; ``composed`` of the shorter k-mers inside them; or ``strandless``, the same
    with equal vectors for reverse complements.
    """
    tokenizer = KmerTokenizer.nucleotide_transformer_v2()
    shape = BackboneConfig.load(path)
    if shape.vocab_size != len(tokenizer.vocabulary):
        raise CheckpointError(
            f"{path}: vocab_size {shape.vocab_size}; a new network has the {len(tokenizer.vocabulary)} "
            "tokens of Nucleotide Transformer v2"
        )
    torch.manual_seed(seed)
    backbone = NucleotideTransformer(shape)
    if embeddings != "random":
        table = backbone.embeddings.word_embeddings
        compose_embeddings(table, tokenizer.kmers(), seed, strandless=embeddings == "strandless")
    return Explanandum(backbone, sizes, pooling), tokenizer


def start_from_weights(
    path: Path, taxonomy: Taxonomy, pooling: str | None, *, seed: int
) -> tuple[BaseExplanandum, Tokenizer]:
    """Trained weights with new heads, or with the old ones where they are for the same taxa.

    ``path``: a checkpoint of ours, a Nucleotide Transformer as published, or another encoder that
    :mod:`wyrcli.model.encoders` knows.  ``pooling``: None for the checkpoint's, else mean; encoders have a
    head of their own.
    """
    torch.manual_seed(seed)
    path = find_model(path)
    if (path / "checkpoint.json").is_file():
        previous = load_checkpoint(path)
        old = previous.explanandum
        if isinstance(old, Explanandum):
            # Not the loaded one itself: that is frozen for good.
            explanandum: BaseExplanandum = Explanandum(old.backbone, taxonomy.sizes, pooling or old.pooling)
            explanandum.requires_grad_(True)
        else:
            _refuse_pooling(pooling)
            explanandum = old.with_classes(taxonomy.sizes)
        if previous.taxonomy.taxa == taxonomy.taxa:
            explanandum.load_state_dict(old.state_dict())
        return explanandum, previous.tokenizer
    if _is_nucleotide_transformer(path):
        tokenizer = KmerTokenizer.from_pretrained(path)
        backbone = NucleotideTransformer.from_pretrained(path)
        check_vocabulary(tokenizer, backbone.config, path)
        return Explanandum(backbone, taxonomy.sizes, pooling or "mean"), tokenizer
    from wyrcli.model.encoders import start_encoder

    _refuse_pooling(pooling)
    return start_encoder(path, taxonomy.sizes)


def _refuse_pooling(pooling: str | None) -> None:
    if pooling is not None:
        raise CheckpointError("--pooling is for the Nucleotide Transformer; this encoder has its own head")


def _is_nucleotide_transformer(path: Path) -> bool:
    """Whether a directory's vocabulary is of k-mers; ESM-2 has the same architecture by name."""
    try:
        words = (path / "vocab.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return not (path / "config.json").is_file()  # whose error says what is expected
    return any(len(word) > 1 and set(word) <= set("ACGT") for word in words) and "[CLS]" not in words


def check_alphabet(tokenizer: Tokenizer, dataset: Dataset) -> None:
    """Raise InputError where the windows are made of other letters than the network reads."""
    if dataset.alphabet != tokenizer.alphabet:
        raise InputError(
            f"its windows are {dataset.alphabet}; the model reads {tokenizer.alphabet}",
            path=str(dataset.path),
        )


def check_length(explanandum: BaseExplanandum, tokenizer: Tokenizer, window_bp: int) -> None:
    """Raise InputError where windows may have more tokens than a network of absolute positions knows.

    Only of DNA is known how many tokens a window has; other tokenizers refuse a window that is too long.
    """
    if not isinstance(explanandum, Explanandum) or not isinstance(tokenizer, KmerTokenizer):
        return
    k, config = tokenizer.k, explanandum.backbone.config
    # One <cls>, and positions begin behind the number of the padding token.
    limit = config.max_position_embeddings - config.pad_token_id - 2
    # A window without N; each N makes more tokens, and how many there are nobody knows before.
    needed = window_bp // k + window_bp % k
    if config.position_embedding_type == "absolute" and needed > limit:
        raise InputError(
            f"windows of {window_bp} bp are {needed} tokens; this network has positions for {limit}: "
            f"prepare windows of at most {limit * k} bp"
        )
