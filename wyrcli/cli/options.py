"""Options that several commands share, and what they mean for torch."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "MACHINE",
    "Device",
    "Devices",
    "Embeddings",
    "ExplainerKind",
    "ExplainerOption",
    "Model",
    "Operator",
    "OperatorOption",
    "Pooling",
    "Precision",
    "PrecisionOption",
    "Preset",
    "Quiet",
    "Seed",
    "Threads",
    "set_threads",
]


class ExplainerKind(StrEnum):
    """Kinds of Explainers; the library's registry is ``model.explainer.EXPLAINERS``."""

    state = "state"
    lstm = "lstm"


class Operator(StrEnum):
    """Removal operators; the library's registry is ``model.masking.OPERATORS``."""

    gate = "gate"
    scale = "scale"
    scale_embedding = "scale-embedding"


class Preset(StrEnum):
    """Weights of the Explainer's loss; ``model.loss.PRESETS``."""

    balanced = "balanced"
    compact = "compact"
    paper = "paper"


class Embeddings(StrEnum):
    """How k-mer embeddings start."""

    random = "random"
    composed = "composed"
    strandless = "strandless"


class Pooling(StrEnum):
    """What the heads of an Explanandum read."""

    mean = "mean"
    cls = "cls"


class Precision(StrEnum):
    """Number formats of the models."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


MACHINE = "Model and machine"
"""The panel of ``--help`` with these options."""

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Checkpoint directory, or a name that 'wyr models' lists; by default the one marked there.",
        rich_help_panel=MACHINE,
    ),
]
Devices = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda or cuda:N; several GPUs: cuda:0,cuda:1 or cuda:all.",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE)]
Threads = Annotated[
    int,
    typer.Option(
        "--threads",
        "-t",
        min=0,
        metavar="N",
        help="CPU threads; 0 = all that this process may use.",
        rich_help_panel=MACHINE,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision", help="Number format; auto = bf16 where the device has it.", rich_help_panel=MACHINE
    ),
]
ExplainerOption = Annotated[
    ExplainerKind, typer.Option("--explainer", help="Which kind of Explainer.", rich_help_panel=MACHINE)
]
OperatorOption = Annotated[
    Operator,
    typer.Option(
        "--operator", help="Removal operator that the Explainer was trained for.", rich_help_panel=MACHINE
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")]


def set_threads(threads: int) -> int:
    """Bound torch's CPU threads; 0 takes what the scheduler allows.  Returns the number.

    That is the CPUs that the process may run on (cpusets), and of these as many as Slurm has given the
    task: it does not bind tasks everywhere.  OMP_NUM_THREADS, which torch heeds by itself, stands where it
    is set.  Tells the C library to keep the memory of tensors too.
    """
    import torch

    from wyrcli.memory import keep_freed

    keep_freed()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdecimal() and int(given):
        allowed = min(allowed, int(given))
    if os.environ.get("OMP_NUM_THREADS"):
        allowed = torch.get_num_threads()
    number = threads or allowed
    torch.set_num_threads(number)
    return number
