"""What ``finetune`` and ``train-explainer`` share: options, the run on disk, and what is told meanwhile."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from wyrcli.cli.console import progress, say, warn
from wyrcli.errors import WyrError

if TYPE_CHECKING:
    from torch import nn

    from wyrcli.distribution import World
    from wyrcli.engine import Progress, Result, TrainingOptions
    from wyrcli.runs import RunFolder, State

__all__ = [
    "STEPS",
    "WATCHING",
    "Accumulate",
    "BatchSize",
    "ClipNorm",
    "CurveFigure",
    "LearningRate",
    "Patience",
    "Resume",
    "SaveMinutes",
    "Session",
    "ValidateEvery",
    "Warmup",
    "WeightDecay",
    "check_figure",
    "conclude",
    "describe_work",
    "open_session",
    "was_finished",
    "watch",
]

# Panels of --help.
STEPS = "Steps"
WATCHING = "Watching and stopping"

BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", "-b", rich_help_panel=STEPS, min=1, help="Windows per step, all processes together."
    ),
]
LearningRate = Annotated[
    float,
    typer.Option("--learning-rate", rich_help_panel=STEPS, min=0, help="Peak; a cosine brings it to 0."),
]
Warmup = Annotated[
    float,
    typer.Option(
        "--warmup", rich_help_panel=STEPS, min=0, max=1, help="Share of the steps in which the rate rises."
    ),
]
WeightDecay = Annotated[
    float, typer.Option("--weight-decay", rich_help_panel=STEPS, min=0, help="Of AdamW; 0 is Adam.")
]
ClipNorm = Annotated[
    float, typer.Option("--clip-norm", rich_help_panel=STEPS, min=0, help="Longest gradient; 0 = no limit.")
]
Accumulate = Annotated[
    int,
    typer.Option(
        "--accumulate",
        rich_help_panel=STEPS,
        min=1,
        help="Compute a step in so many pieces, to need less memory.",
    ),
]
ValidateEvery = Annotated[
    int,
    typer.Option(
        "--validate-every",
        rich_help_panel=WATCHING,
        min=0,
        help="Steps between validations; 0 = once an epoch.",
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        rich_help_panel=WATCHING,
        min=0,
        help="Stop after so many validations without a better score; 0 = never.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=WATCHING,
        help="Continue this training where it was stopped or killed; begin it if it never was.",
    ),
]
SaveMinutes = Annotated[
    float,
    typer.Option(
        "--save-minutes",
        rich_help_panel=WATCHING,
        min=0,
        help="Keep the state of the training every so often.",
    ),
]
CurveFigure = Annotated[
    Path | None,
    typer.Option("--figure", rich_help_panel=WATCHING, help="Draw the learning curve: .png, .pdf or .svg."),
]


def check_figure(path: Path | None) -> None:
    """A usage error for a picture that cannot be drawn, before hours of training."""
    if path is not None and path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise typer.BadParameter(
            f"'{path}'; expected a name that ends in .png, .pdf or .svg", param_hint="--figure"
        )
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"'{path}'; there is no such directory", param_hint="--figure")
    if path is not None and find_spec("matplotlib") is None:
        raise WyrError("a picture needs matplotlib: pip install 'wyrcli[plots]'")


class Session(NamedTuple):
    """A training that may begin.  ``is_done``: it was finished before, and its output is there."""

    run: RunFolder
    state: State | None
    is_done: bool


def was_finished(output: Path) -> bool:
    """Whether the training of ``output`` has ended, and its output is there."""
    return (_run_path(output) / "finished").is_file() and output.exists()


def _run_path(output: Path) -> Path:
    return output.with_name(output.name + ".run")


def open_session(
    output: Path, about: Mapping[str, Any], world: World, *, resume: bool, quiet: bool, replace: bool = False
) -> Session:
    """Make or find the run folder of ``output``; see :mod:`wyrcli.runs`.

    ``about``: what the training is; ``dataset`` in it is the path of one.  ``replace``: a finished training
    that was another one gives way.
    """
    from wyrcli.runs import RunFolder

    digest = hashlib.sha256((Path(about["dataset"]) / "dataset.json").read_bytes()).hexdigest()
    run = RunFolder(_run_path(output), {**about, "dataset": digest})
    if resume and was_finished(output):
        try:
            run.compare()
        except WyrError:
            if not replace:
                raise
            resume = False
        else:
            say(f"{output} is complete already", quiet)
            return Session(run, None, True)
    state = None
    if world.leads:
        state = run.begin(resume=resume)
    world.wait()
    if not world.leads and resume:
        state = run.load("last")
    if state is not None:
        say(f"goes on after step {state.step:,}", quiet)
    return Session(run, state, False)


def describe_work(
    network: nn.Module, n_windows: int, total: int, options: TrainingOptions, world: World
) -> str:
    """How much is trained on how much, where."""
    from wyrcli.checkpoint import parameter_count

    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return (
        f"{trained:,} of {parameter_count(network):,} weights, {n_windows:,} windows, "
        f"{total:,} steps of {options.batch_size} on {world.device} in {options.precision}"
        + (f", {world.size} processes" if world.size > 1 else "")
    )


def conclude(what: str, session: Session, result: Result, figure: Path | None, *, quiet: bool) -> None:
    """After the output is written: mark the training as finished, say so, draw the curve."""
    from wyrcli.curves import draw_curves, read_metrics

    session.run.finish()
    if result.scores:
        say(f"the weights are those after step {result.best_step:,}, the best on the validation split", quiet)
    say(f"{what}, the training in {session.run.path}", quiet)
    if figure is not None:
        draw_curves(read_metrics(session.run.metrics), figure)
        say(f"learning curve in {figure}", quiet)


@contextmanager
def watch(session: Session, total: int, *, leads: bool, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Tells how a training goes: a bar on a terminal, else some ten lines; to TensorBoard where installed."""
    from wyrcli.training import find_degenerate

    first_step = 0 if session.state is None else session.state.step + 1
    board = _open_board(session.run.path, first_step) if leads else None
    told: set[str] = set()
    done, lines = 0, 0

    with progress("steps", total, quiet=quiet) as advance:

        def report(now: Progress) -> None:
            nonlocal done, lines
            values = {name: value for name, value in now.values.items() if name != "learning_rate"}
            text = ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in values.items())
            if board is not None:
                kind = "validation" if now.is_validation else "training"
                for name, value in now.values.items():
                    board.add_scalar(f"{kind}/{name}", value, now.step)
            if now.is_validation:
                say(f"step {now.step:,}, validation: {text}", quiet)
                problem = find_degenerate(now.values)
                if problem and problem not in told:
                    told.add(problem)
                    warn(problem)
                return
            advance(now.step - done, text)
            done = now.step
            if not sys.stderr.isatty() and 10 * now.step >= (lines + 1) * total:
                lines = 10 * now.step // total
                say(f"step {now.step:,} of {total:,}: {text}", quiet)

        try:
            yield report
        finally:
            if board is not None:
                board.close()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _open_board(folder: Path, first_step: int) -> Any:
    """A writer for TensorBoard, which forgets steps that are done again; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
