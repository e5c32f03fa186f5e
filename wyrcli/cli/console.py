"""What people read while a command works: everything here goes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

from wyrcli.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from wyrcli.result_tables import Table

__all__ = ["Advance", "ReportStage", "complain", "progress", "say", "show_tables", "stages", "warn"]


def say(message: str, quiet: bool = False) -> None:
    """A line of information."""
    if not quiet:
        typer.echo(f"wyr: {printable(message, limit=2000)}", err=True)


def warn(message: str) -> None:
    """A line about something the user should know even with --quiet."""
    typer.echo(f"wyr: warning: {printable(message, limit=2000)}", err=True)


def complain(message: str) -> None:
    """The one line of an error; control characters from files never reach the terminal."""
    typer.echo(f"wyr: error: {printable(message, limit=2000)}", err=True)


class Advance(Protocol):
    """Tells a progress bar how much was done, and what to show beside it."""

    def __call__(self, amount: int = 1, note: str = "") -> None: ...


def _bar(*, counted: bool) -> Progress:
    """rich's bar, with how many are done and a note, or with the share that is done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("wyr: {task.description}"),
        BarColumn(),
        MofNCompleteColumn() if counted else TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *([TextColumn("{task.fields[note]}")] if counted else []),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def progress(label: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar, only where stderr is a terminal (rich would also draw it for FORCE_COLOR in a pipe)."""
    if quiet or not sys.stderr.isatty():
        yield lambda amount=1, note="": None
        return
    with _bar(counted=True) as bar:
        task = bar.add_task(label, total=total, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            bar.update(task, advance=amount, note=note)

        yield advance


class ReportStage(Protocol):
    """Tells how far a stage of the work is; ``total`` is None where nobody knows."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[ReportStage]:
    """A progress bar for each stage of a piece of work, only where stderr is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    with _bar(counted=False) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report


def show_tables(tables: Sequence[Table], width: int = 120) -> None:
    """To standard output, for once: with colours on a terminal, plain elsewhere, ``width`` letters wide."""
    from wyrcli.result_tables import render

    if not sys.stdout.isatty():
        typer.echo(render(tables, "text", width=width), nl=False)
        return
    from rich.console import Console

    from wyrcli.cli.tables import to_rich

    console = Console()
    for own in tables:
        console.print(to_rich(own, console.width))
        console.print()
