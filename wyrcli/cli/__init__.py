"""The command line: the only floor that prints, exits and reads the environment.

Each command lives in a module of its own and imports its library inside its body, so that
``wyr --help`` does not wait for torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import cleandoc
from typing import Annotated

import typer

from wyrcli import __version__
from wyrcli.cli import (
    enrichment,
    evaluate,
    explain,
    explain_classes,
    finetune,
    import_model,
    models,
    prepare,
    simulate,
    train_explainer,
)
from wyrcli.cli.console import complain, say
from wyrcli.errors import Interrupted, WyrError

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="wyr",
    help="Tell which stretches of a DNA read, a protein or a text made a neural classifier call it what it "
    "called it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback through tensors helps nobody; see --debug
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "explain": explain.explain,
    "explain-classes": explain_classes.explain_classes,
    "evaluate": evaluate.evaluate,
    "enrichment": enrichment.enrichment,
    "simulate": simulate.simulate,
    "prepare": prepare.prepare,
    "finetune": finetune.finetune,
    "train-explainer": train_explainer.train_explainer,
    "import": import_model.import_model,
    "models": models.models,
}
for _name, _command in _COMMANDS.items():
    # The lines of a docstring are as long as the code's: --help would break them a second time.
    _paragraphs = cleandoc(_command.__doc__ or "").split("\n\n")
    app.command(_name, help="\n\n".join(" ".join(p.split()) for p in _paragraphs))(_command)


_debugging = False


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"wyr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debugging
    _debugging = debug


def main(argv: list[str] | None = None) -> int:
    """Run ``wyr`` and return its exit code: 0, 1 for a user's error, 2 for usage, 130 and 143 for signals."""
    terminated: list[int] = []
    try:
        with _terminable(terminated):
            app(args=argv, prog_name="wyr")
    except SystemExit as stop:
        if stop.code != 130:  # what typer makes of Ctrl-C
            return stop.code if isinstance(stop.code, int) else 1
        say("terminated" if terminated else "interrupted")
        return 128 + terminated[0] if terminated else 130
    except BrokenPipeError:
        # Whoever read our output has gone; nothing may be printed at shutdown either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Interrupted as stop:
        complain(str(stop))
        return 128 + stop.signal
    except (WyrError, OSError) as error:
        if _debugging:
            raise
        complain(_message(error))
        return 1
    except Exception as error:
        if _debugging or "out of memory" not in str(error).lower():
            raise
        complain("the device is out of memory; try a smaller --batch-size")
        return 1
    return 0


@contextmanager
def _terminable(told: list[int]) -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, with all its cleaning up; ``told`` then holds its number."""

    def stop(number: int, _frame: object) -> None:
        told.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: whoever runs us there has signals of their own
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def run() -> None:
    """The console script."""
    sys.exit(main())
