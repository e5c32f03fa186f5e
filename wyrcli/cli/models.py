"""``wyr models``: what is installed."""

from __future__ import annotations

import sys

import typer

__all__ = ["models"]


def models() -> None:
    """List the models that came with wyr: what each knows, how large it is, and what must be said of it.

    Each name can be given as --model.  The one marked 'default' is used where none is named.
    """
    from wyrcli.cli.console import show_tables
    from wyrcli.installed import describe_models
    from wyrcli.result_tables import Column, Table

    columns = [
        Column("model", "model"),
        Column("default", ""),
        Column("taxa", "knows"),
        Column("megabytes", "MB", "number"),
        Column("explainers", "Explainers"),
        Column("notice", "notice"),
    ]
    rows = [
        [
            own.name,
            "default" if own.is_default else "",
            ", ".join(f"{rank} {n:,}" for rank, n in own.taxa.items()),
            own.size / 1e6,
            ", ".join(own.explainers),
            own.notice,
        ]
        for own in describe_models()
    ]
    table = Table("models", "Installed models", columns, rows)
    if sys.stdout.isatty():
        show_tables([table])
    else:
        typer.echo(table.to_tsv(), nl=False)
