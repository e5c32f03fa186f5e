"""The models that come with the package, and which of all models a user means.  No torch is needed here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from wyrcli.errors import CheckpointError, TaxonomyError
from wyrcli.taxonomy import Taxonomy

__all__ = ["InstalledModel", "default_model", "describe_models", "find_model", "installed_models"]

_MODELS = Path(__file__).parent / "models"


class InstalledModel(NamedTuple):
    """A checkpoint that is installed.

    ``taxa``: number of classes per rank;  ``size``: of all its files, bytes;  ``explainers``: their names;
    ``notice``: one line that users must see.
    """

    name: str
    is_default: bool
    taxa: dict[str, int]
    size: int
    explainers: tuple[str, ...]
    notice: str


def installed_models() -> list[Path]:
    """The checkpoints that are installed with the package, by name."""
    return sorted(path.parent for path in _MODELS.glob("*/checkpoint.json"))


def default_model() -> Path:
    """The checkpoint that is used where none is named: that of WYR_MODEL, else of real taxa, else the demo.

    WYR_MODEL, a variable of the environment, is a directory or the name of an installed checkpoint.
    """
    chosen = os.environ.get("WYR_MODEL", "")
    if chosen:
        return find_model(Path(chosen))
    real = _MODELS / "genomes"
    return real if (real / "checkpoint.json").is_file() else _MODELS / "demo"


def find_model(path: Path | None) -> Path:
    """The checkpoint that a user means: a directory, the name of an installed one, or None for the default.

    A directory that holds a checkpoint comes before an installed one of the same name: what can be seen is
    what is used.  What is neither is given back as it is, and reading it says what is wrong.
    """
    if path is None:
        return default_model()
    installed = {own.name: own for own in installed_models()}
    if (path / "checkpoint.json").exists():
        return path
    return installed.get(str(path), path)


def describe_models() -> list[InstalledModel]:
    """What is installed, by name.  Raises CheckpointError for one that cannot be read."""
    found = []
    for path in installed_models():
        try:
            info = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
            taxonomy = Taxonomy.load(path / "taxonomy.json")
            notice = str(info.get("notice", ""))
        except (OSError, ValueError, AttributeError, TaxonomyError) as error:
            raise CheckpointError(f"{path}: not a wyr checkpoint: {error}") from None
        explainers = sorted(own.parent.name for own in path.glob("explainers/*/explainer.json"))
        size = sum(own.stat().st_size for own in path.rglob("*") if own.is_file())
        taxa = dict(zip(taxonomy.ranks, taxonomy.sizes, strict=True))
        found.append(
            InstalledModel(path.name, path == default_model(), taxa, size, tuple(explainers), notice)
        )
    return found
