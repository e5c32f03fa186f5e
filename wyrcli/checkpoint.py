"""A checkpoint is one directory: JSON, safetensors, vocabulary, taxonomy, and how it was trained.

    model/
      checkpoint.json        format number, kind, architecture, alphabet, window length, pooling, a notice
                             for the user; optional: abstain, {rank: probability below which to name no
                             taxon}, temperature, {rank: what logits are divided by for probabilities}
      config.json            the network, in the official form
      vocab.txt or tokenizer.json, tokenizer_config.json
      taxonomy.json          ranks, taxa, taxids, and the dump they came from
      model.safetensors      the network under its official names (esm.*), our heads as heads.N.*
      training.json          options, data and scores of the training
      heldout.parquet        optional: reads the model has never seen, for ``wyr evaluate``
      explainers/
        state-gate/          one directory per Explainer and removal operator
          explainer.json, model.safetensors, training.json

There are two architectures: ``nucleotide-transformer``, which is our own code, and ``transformers``, the
encoders of that package that :mod:`wyrcli.model.encoders` names; its classes are imported only where such a
model is loaded.

Nothing is pickled and nothing is imported by a name found in a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wyrcli import __version__
from wyrcli.dataset import LabelledWindows, write_windows
from wyrcli.errors import CheckpointError, TaxonomyError
from wyrcli.installed import default_model
from wyrcli.keeping import digest
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer, load_strict, load_tensors
from wyrcli.model.explainer import EXPLAINERS, Explainer, build_explainer
from wyrcli.model.explanandum import BaseExplanandum, Explanandum
from wyrcli.model.masking import OPERATORS
from wyrcli.model.proof import prove
from wyrcli.model.tokens import KmerTokenizer, Tokenizer
from wyrcli.outputs import new_directory, write_json
from wyrcli.taxonomy import Taxonomy

__all__ = [
    "Checkpoint",
    "TrainedExplainer",
    "default_model",
    "describe_weights",
    "list_explainers",
    "load_checkpoint",
    "load_explainer",
    "save_checkpoint",
    "save_explainer",
    "store_calibration",
]

FORMAT = 1
_EXPLAINER_FILES = ("explainer.json", "model.safetensors", "training.json")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An Explanandum with all that is needed to use it.

    ``window_bp``: longest window it was trained for, in letters of its alphabet;  ``notice``: one line that
    users must see;  ``training``: the content of training.json;  ``abstain``: per rank, the probability below
    which no taxon should be named (ranks that are not there have none);  ``temperature``: per rank, that of
    the reported probabilities (ranks that are not there have 1).
    """

    path: Path
    explanandum: BaseExplanandum
    tokenizer: Tokenizer
    taxonomy: Taxonomy
    window_bp: int
    name: str = ""
    notice: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    abstain: dict[str, float] = field(default_factory=dict)
    temperature: dict[str, float] = field(default_factory=dict)

    @property
    def alphabet(self) -> str:
        """``dna``, ``protein`` or ``text``: what it classifies."""
        return self.tokenizer.alphabet


@dataclass(frozen=True, eq=False)
class TrainedExplainer:
    """An Explainer, the operator it was trained for, and how it was trained."""

    name: str
    explainer: Explainer
    operator: str
    training: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    directory: Path,
    explanandum: BaseExplanandum,
    tokenizer: Tokenizer,
    taxonomy: Taxonomy,
    *,
    window_bp: int,
    training: dict[str, Any],
    name: str = "",
    notice: str = "",
    dtype: torch.dtype = torch.float32,
    held_out: LabelledWindows | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.  Raises WyrError if ``directory`` has content.

    ``held_out``: windows that the model has never seen, kept beside it for ``wyr evaluate``.
    """
    with new_directory(directory) as new:
        _save_tensors(new / "model.safetensors", explanandum.stored_tensors(), dtype)
        (new / "config.json").write_text(explanandum.stored_config(), encoding="utf-8")
        tokenizer.save(new)
        (new / "taxonomy.json").write_text(taxonomy.to_json(), encoding="utf-8")
        if held_out is not None:
            write_windows(new / "heldout.parquet", held_out, taxonomy)
        _write_json(new / "training.json", training)
        _write_json(
            new / "checkpoint.json",
            {
                "format": FORMAT,
                "kind": "explanandum",
                "architecture": explanandum.architecture,
                "alphabet": tokenizer.alphabet,
                "name": name or directory.name,
                "notice": notice,
                "window_bp": window_bp,
                "pooling": explanandum.pooling,
                "wyr_version": __version__,
            },
        )


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read a checkpoint; the Explanandum comes frozen, in float32, on the CPU.

    Raises CheckpointError that says which part is missing or does not fit.
    """
    info = _read_json(directory / "checkpoint.json", "a wyr checkpoint", "explanandum")
    try:
        taxonomy = Taxonomy.load(directory / "taxonomy.json")
    except (OSError, ValueError, TaxonomyError) as error:
        raise CheckpointError(f"{directory}: taxonomy.json: {error}") from None
    try:
        pooling, window_bp = str(info["pooling"]), int(info["window_bp"])
        architecture = str(info.get("architecture", Explanandum.architecture))
        if window_bp < 6:
            raise ValueError(f"window_bp is {window_bp}; expected 6 or more")
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{directory}/checkpoint.json: {error!r}") from None
    explanandum: BaseExplanandum
    tokenizer: Tokenizer
    if architecture == Explanandum.architecture:
        explanandum, tokenizer = _load_nucleotide_transformer(directory, taxonomy.sizes, pooling)
    elif architecture == "transformers":
        from wyrcli.model.encoders import read_encoder

        explanandum, tokenizer, _ = read_encoder(directory, taxonomy.sizes)
        # transformers may have changed since the model was imported.
        prove(explanandum, tokenizer)
    else:
        raise CheckpointError(
            f"{directory}/checkpoint.json: architecture '{architecture}'; "
            f"known: {Explanandum.architecture}, transformers"
        )
    if info.get("alphabet", "dna") != tokenizer.alphabet:
        raise CheckpointError(
            f"{directory}: alphabet '{info.get('alphabet')}', but the tokenizer is for {tokenizer.alphabet}"
        )
    temperature = _read_by_rank(info, "temperature", taxonomy, directory)
    explanandum.temperatures = tuple(temperature.get(rank, 1.0) for rank in taxonomy.ranks)
    return Checkpoint(
        directory,
        explanandum.freeze(),
        tokenizer,
        taxonomy,
        window_bp,
        name=str(info.get("name", directory.name)),
        notice=str(info.get("notice", "")),
        training=_read_training(directory),
        abstain=_read_by_rank(info, "abstain", taxonomy, directory),
        temperature=temperature,
    )


_WANTED: dict[str, tuple[str, Callable[[float], bool]]] = {
    "abstain": ("a probability", lambda value: 0 <= value <= 1),
    "temperature": ("a number above 0", lambda value: 0 < value < math.inf),
}


def _read_by_rank(info: dict[str, Any], key: str, taxonomy: Taxonomy, directory: Path) -> dict[str, float]:
    """``abstain`` or ``temperature`` of checkpoint.json: {rank: number}."""
    content = info.get(key, {})
    where = f"{directory}/checkpoint.json: {key}"
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: expected an object of ranks")
    wanted, fits = _WANTED[key]
    for rank, value in content.items():
        if rank not in taxonomy.ranks:
            known = ", ".join(taxonomy.ranks)
            raise CheckpointError(f"{where}: unknown rank '{rank}'; known: {known}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            raise CheckpointError(f"{where}: {rank} is {value!r}; expected {wanted}")
    return {rank: float(value) for rank, value in content.items()}


def store_calibration(directory: Path, temperature: dict[str, float], abstain: dict[str, float]) -> None:
    """Write temperatures and thresholds per rank into ``checkpoint.json``, whole or not at all.

    Raises CheckpointError if there is no checkpoint, OSError or WyrError if it cannot be written.
    """
    path = directory / "checkpoint.json"
    info = _read_json(path, "a wyr checkpoint", "explanandum")
    write_json(str(path), info | {"temperature": temperature, "abstain": abstain})


def _load_nucleotide_transformer(
    directory: Path, sizes: Sequence[int], pooling: str
) -> tuple[Explanandum, KmerTokenizer]:
    backbone = NucleotideTransformer(BackboneConfig.load(directory / "config.json"))
    try:
        explanandum = Explanandum(backbone, sizes, pooling=pooling)
    except ValueError as error:
        raise CheckpointError(f"{directory}/checkpoint.json: {error!r}") from None
    tensors = load_tensors(directory)
    heads = {name: t for name, t in tensors.items() if name.startswith("heads.")}
    backbone.load_named(
        {name.removeprefix("esm."): t for name, t in tensors.items() if name not in heads}, str(directory)
    )
    load_strict(explanandum.heads, {n.removeprefix("heads."): t for n, t in heads.items()}, str(directory))
    tokenizer = KmerTokenizer.from_pretrained(directory)
    check_vocabulary(tokenizer, backbone.config, directory)
    tokenizer.vocab_size = backbone.config.vocab_size  # there may be embeddings that no token has
    return explanandum, tokenizer


def check_vocabulary(tokenizer: KmerTokenizer, config: BackboneConfig, directory: Path) -> None:
    """Raise CheckpointError if a token in use has no embedding."""
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: vocab.txt needs {tokenizer.vocab_size} embeddings, "
            f"but vocab_size is {config.vocab_size}"
        )


def explainer_name(kind: str, operator: str) -> str:
    """Directory of an Explainer inside its checkpoint."""
    return f"{kind}-{operator}"


def list_explainers(directory: Path) -> list[str]:
    """Names of the Explainers beside an Explanandum, e.g. ``state-gate``."""
    return sorted(p.parent.name for p in (directory / "explainers").glob("*/explainer.json"))


def describe_weights(directory: Path, explainer: str) -> str:
    """A digest of all that decides what a checkpoint and one of its Explainers say."""
    explainers = directory / "explainers"
    files = [path for path in directory.iterdir() if path.suffix in (".json", ".safetensors", ".txt")]
    files += [explainers / explainer / name for name in _EXPLAINER_FILES[:2]]
    files = sorted(path for path in files if path.name != "training.json")
    return digest(*(part for path in files for part in (path.name, path)))


def save_explainer(
    directory: Path,
    explainer: Explainer,
    operator: str,
    *,
    training: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    force: bool = False,
) -> Path:
    """Write an Explainer beside its Explanandum in ``directory``; returns where.  Whole or not at all."""
    target = directory / "explainers" / explainer_name(explainer.kind, operator)
    target.parent.mkdir(exist_ok=True)
    with new_directory(target, replace=_EXPLAINER_FILES if force else ()) as new:
        _save_tensors(new / "model.safetensors", explainer.state_dict(), dtype)
        _write_json(new / "training.json", training)
        _write_json(
            new / "explainer.json",
            {
                "format": FORMAT,
                "kind": "explainer",
                "explainer": explainer.kind,
                "operator": operator,
                "config": explainer.config,
                "wyr_version": __version__,
            },
        )
    return target


def load_explainer(directory: Path, kind: str = "state", operator: str = "gate") -> TrainedExplainer:
    """Read the Explainer of a kind and operator beside an Explanandum, in eval mode, on the CPU.

    Raises CheckpointError that names those there are.
    """
    name = explainer_name(kind, operator)
    path = directory / "explainers" / name
    if not path.is_dir():
        known = ", ".join(list_explainers(directory)) or "none; train one with 'wyr train-explainer'"
        raise CheckpointError(f"{directory}: no Explainer '{name}'; there: {known}")
    info = _read_json(path / "explainer.json", "an Explainer", "explainer")
    if str(info.get("explainer")) not in EXPLAINERS or str(info.get("operator")) not in OPERATORS:
        raise CheckpointError(
            f"{path}: Explainer '{info.get('explainer')}' with operator '{info.get('operator')}'; "
            f"known: {', '.join(EXPLAINERS)} with {', '.join(OPERATORS)}"
        )
    try:
        explainer = build_explainer(info["explainer"], {str(k): int(v) for k, v in info["config"].items()})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}/explainer.json: {error!r}") from None
    load_strict(explainer, load_tensors(path), str(path))
    _check_explainer(explainer, directory)
    explainer.requires_grad_(False)
    return TrainedExplainer(name, explainer.eval(), info["operator"], _read_training(path))


def _check_explainer(explainer: Explainer, directory: Path) -> None:
    """Raise CheckpointError if an Explainer was made for another classifier than that of ``directory``."""
    if not (directory / "taxonomy.json").is_file():
        return
    n_classes = Taxonomy.load(directory / "taxonomy.json").n_classes
    shape = _read_shape(directory)
    wanted = {"n_classes": n_classes, "hidden_size": shape.hidden_size, "vocab_size": shape.vocab_size}
    for name, number in wanted.items():
        if explainer.config.get(name, number) != number:
            raise CheckpointError(
                f"{directory}: an Explainer for {name} {explainer.config[name]}; the classifier has {number}"
            )
    if explainer.config.get("n_states", 0) > shape.num_hidden_layers + 1:
        raise CheckpointError(
            f"{directory}: an Explainer of {explainer.config['n_states']} hidden states; "
            f"the classifier has {shape.num_hidden_layers + 1}"
        )


def _read_shape(directory: Path) -> Any:
    """The configuration of the classifier in ``directory``, whatever its architecture."""
    info = _read_json(directory / "checkpoint.json", "a wyr checkpoint", "explanandum")
    if info.get("architecture", Explanandum.architecture) == Explanandum.architecture:
        return BackboneConfig.load(directory / "config.json")
    from wyrcli.model.encoders import read_encoder_config

    return read_encoder_config(directory)


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    from safetensors.torch import save

    stored = {
        name: t.detach().to(dtype if t.is_floating_point() else t.dtype).cpu().contiguous()
        for name, t in tensors.items()
    }
    # Not save_file(), which makes a file that only its owner can read, whatever the umask says.
    path.write_bytes(save(stored))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path, what: str, kind: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        lacks = f"it has no {path.name}" if path.parent.is_dir() else "there is no such folder"
        hint = "; 'wyr models' lists those that are installed" if kind == "explanandum" else ""
        raise CheckpointError(f"{path.parent}: not {what} ({lacks}{hint})") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("kind") != kind:
        raise CheckpointError(f"{path}: expected kind '{kind}' in format {FORMAT}")
    return content


def _read_training(directory: Path) -> dict[str, Any]:
    try:
        content = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def parameter_count(module: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in module.parameters())
