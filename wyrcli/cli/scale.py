"""Options of ``wyr explain`` on several processes, devices and machines, and on runs that were killed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wyrcli.cli.console import say
from wyrcli.errors import printable

if TYPE_CHECKING:
    import torch

    from wyrcli.checkpoint import Checkpoint, TrainedExplainer
    from wyrcli.inputs import InputOptions
    from wyrcli.journal import Journal
    from wyrcli.parts import Part
    from wyrcli.ray_workers import RayWorkers
    from wyrcli.results import Requests
    from wyrcli.scoring import BaseResolution
    from wyrcli.shards import Shard
    from wyrcli.targets import Question
    from wyrcli.workers import Workers

__all__ = ["EngineName", "EngineOption", "Processes", "Resume", "Scale", "ShardOption"]

SCALE = "Long runs"
"""The panel of ``--help`` with these options."""


class EngineName(StrEnum):
    """Who answers."""

    local = "local"
    ray = "ray"


Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        min=0,
        max=1024,
        metavar="N",
        help="Processes with a model each, per device; 0 = this one alone, or one for each of several GPUs.",
        rich_help_panel=SCALE,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Keep the answers in OUTPUT.resume while the run goes on, and take those that a killed run left "
        "there.",
        rich_help_panel=SCALE,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Write part I of N: parts of text outputs, put behind one another, are the whole. auto takes I "
        "and N from a Slurm array, or from RANK and WORLD_SIZE.",
        rich_help_panel=SCALE,
    ),
]
EngineOption = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="Processes of this machine, or --processes actors of a Ray cluster.",
        rich_help_panel=SCALE,
    ),
]


@dataclass(frozen=True)
class Scale:
    """The options of this panel.  ``files``: all that the run reads."""

    files: Sequence[str]
    processes: int
    resume: bool
    shard: Shard | None
    engine: EngineName

    @classmethod
    def of(
        cls,
        files: Sequence[str],
        *,
        processes: int,
        resume: bool,
        shard: str | None,
        engine: EngineName,
        requests: Requests,
    ) -> Scale:
        """The options, checked.  Raises a usage error for what does not go together."""
        from wyrcli.shards import find_shard

        found = None
        if shard is not None:
            try:
                found = find_shard(shard, os.environ)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--shard") from None
            if found.total == 1:
                found = None  # the whole
        if found is not None:
            _check_shard(files, requests)
        if resume:
            _need_files(files, "--resume")
        return cls(files, processes, resume, found, engine)

    @property
    def part(self) -> Part | None:
        """Which part of its outputs the run writes."""
        return None if self.shard is None else self.shard.part

    def choose_records(
        self,
        inputs: Sequence[str],
        checkpoint: Checkpoint,
        options: InputOptions,
        batch_tokens: int,
        quiet: bool,
    ) -> InputOptions:
        """The same input, or this shard's records of it."""
        if self.shard is None:
            return options
        from wyrcli.inputs import new_counts, open_windows
        from wyrcli.shards import find_sections, share_sections

        counts = new_counts(checkpoint.alphabet)
        windows = open_windows(inputs, checkpoint.tokenizer, checkpoint.window_bp, counts, options)
        sections, tokens = find_sections(windows, checkpoint.tokenizer, batch_tokens)
        first, stop = share_sections(sections, tokens, self.shard)
        last = counts.records if stop is None else stop
        which = f"records {first + 1:,} to {last:,}" if first < last else "no record"
        say(f"shard {self.shard} of {len(sections):,} sections: {which} of {counts.records:,}", quiet)
        return replace(options, records=(first, stop))

    def choose_devices(self, device: str, precision: str) -> tuple[list[torch.device], torch.dtype]:
        """Devices and number format; those of a cluster need not be here."""
        import torch

        from wyrcli.inference import choose_devices, choose_precision

        if self.engine is EngineName.ray and device != "auto":
            if device not in ("cpu", "cuda"):
                message = f"'{printable(device)}': Ray chooses the GPUs; expected cuda or cpu"
                raise typer.BadParameter(message, param_hint="--device")
            if device == "cuda":
                precision = "bf16" if precision == "auto" else precision
                return [torch.device(device)], choose_precision(precision, torch.device("cpu"))
        devices = choose_devices(device)
        return devices, choose_precision(precision, devices[0])

    def open_journal(
        self,
        stack: ExitStack,
        requests: Requests,
        checkpoint: Checkpoint,
        trained: TrainedExplainer,
        options: InputOptions,
        question: Question,
        per_base: BaseResolution | None,
        execution: dict[str, Any],
        quiet: bool,
    ) -> Journal | None:
        """What an earlier run has left, and where this one keeps its answers; none unless asked for.

        ``execution``: what else decides the answers.
        """
        if not self.resume:
            return None
        from wyrcli import __version__
        from wyrcli.checkpoint import describe_weights
        from wyrcli.journal import Journal
        from wyrcli.outputs import is_regular

        first = next((path for path in requests.named() if path is not None and is_regular(path)), None)
        if first is None:
            raise typer.BadParameter("needs an output that is a file", param_hint="--resume")
        asked = asdict(question)
        del asked["thresholds"]  # that is asked of the answers
        about = {
            "wyr": __version__,
            "files": {path: _identify(path) for path in self.files},
            "reading": asdict(options),
            "model": describe_weights(checkpoint.path, trained.name),
            "question": asked,
            "per_base": None if per_base is None else per_base._asdict(),
            **execution,
        }
        journal = stack.enter_context(Journal(Path(os.path.realpath(first) + ".resume"), about))
        if journal.stored:
            say(f"goes on behind {journal.stored:,} batches that were answered before", quiet)
        return journal

    def open_engine(
        self,
        stack: ExitStack,
        checkpoint: Checkpoint,
        trained: TrainedExplainer,
        question: Question,
        per_base: BaseResolution | None,
        devices: Sequence[torch.device],
        precision: torch.dtype,
        threads: int,
    ) -> Workers | RayWorkers | None:
        """Worker processes or actors; None where this process does the work."""
        on_ray = self.engine is EngineName.ray
        if not self.processes and len(devices) == 1 and not on_ray:
            return None
        from wyrcli.workers import Recipe, Workers, make_recipes

        kind, _, operator = trained.name.partition("-")
        model, device = str(checkpoint.path.absolute()), devices[0].type
        recipe = Recipe(model, kind, operator, device, str(precision), threads, question, per_base)
        if on_ray:
            from wyrcli.ray_workers import RayWorkers

            return stack.enter_context(RayWorkers(recipe, max(self.processes, 1)))
        return stack.enter_context(Workers(make_recipes(recipe, devices, max(self.processes, 1))))


def _check_shard(files: Sequence[str], requests: Requests) -> None:
    _need_files(files, "--shard")
    totals = {
        "--coverage": requests.coverage,
        "--coverage-depth": requests.depth,
        "--kraken-report": requests.kraken_report,
    }
    wrong = [name for name, path in totals.items() if path is not None]
    if wrong:
        raise typer.BadParameter(
            f"{wrong[0]} is of all reads together: no shard has it", param_hint="--shard"
        )


def _need_files(files: Sequence[str], option: str) -> None:
    for path in files:
        if path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
            shown = "standard input" if path == "-" else printable(path, limit=300)
            raise typer.BadParameter(f"reads its input twice; {shown} is no file", param_hint=option)


def _identify(path: str) -> list[Any]:
    status = os.stat(path)
    return [os.path.realpath(path), status.st_size, status.st_mtime_ns]
