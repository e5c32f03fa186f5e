"""Options on what ``wyr explain`` reads, and what there is to say of it afterwards."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from wyrcli.cli.console import warn
from wyrcli.errors import counted

if TYPE_CHECKING:
    from wyrcli.inputs import InputOptions
    from wyrcli.windows import RecordCounts

__all__ = [
    "MaskLower",
    "MaskLowerOption",
    "OnError",
    "OnErrorOption",
    "PairedOption",
    "ReferenceOption",
    "RegionsOption",
    "RenameOption",
    "input_options",
    "warn_of_reads",
]


class OnError(StrEnum):
    """What a malformed record does."""

    fail = "fail"
    skip = "skip"


class MaskLower(StrEnum):
    """What lower-case letters are."""

    keep = "keep"
    n = "n"


_INPUTS = "Inputs"

PairedOption = Annotated[
    bool,
    typer.Option(
        "--paired",
        help="Files come in twos: first mates, second mates; names are checked.",
        rich_help_panel=_INPUTS,
    ),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error",
        help="A malformed record ends the run, or is skipped and counted.  A file that is damaged or cut off "
        "always ends it.",
        rich_help_panel=_INPUTS,
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        help="FASTA file that CRAM is decoded with.",
        metavar="FASTA",
        rich_help_panel=_INPUTS,
    ),
]
RegionsOption = Annotated[
    str | None,
    typer.Option(
        "--regions",
        help="Explain only these stretches of the records.",
        metavar="BED",
        rich_help_panel=_INPUTS,
    ),
]
MaskLowerOption = Annotated[
    MaskLower,
    typer.Option(
        "--mask-lower", help="Lower-case (soft-masked) bases are bases, or N.", rich_help_panel=_INPUTS
    ),
]
RenameOption = Annotated[
    bool,
    typer.Option(
        "--rename-duplicates",
        help="A second read of a name gets _2, ...; remembers all names, 100 bytes each.",
        rich_help_panel=_INPUTS,
    ),
]


def input_options(
    inputs: list[str],
    *,
    paired: bool,
    on_error: OnError,
    reference: str | None,
    regions: str | None,
    mask_lower: MaskLower,
    rename_duplicates: bool,
    overlap: int,
) -> InputOptions:
    """The options as the library wants them."""
    from wyrcli.inputs import InputOptions

    if paired and len(inputs) % 2:
        raise typer.BadParameter(
            f"files come in twos, first and second mates; found {len(inputs)}", param_hint="--paired"
        )
    return InputOptions(
        paired=paired,
        lenient=on_error is OnError.skip,
        reference=reference,
        regions=regions,
        mask_lower=mask_lower is MaskLower.n,
        rename_duplicates=rename_duplicates,
        overlap=overlap,
    )


def warn_of_reads(counts: RecordCounts, nouns: str) -> None:
    """Say what was left out because it is malformed, in one warning, and what became of regions."""
    n = counts.malformed()
    if n:
        what = counted(n, f"malformed {nouns[:-1]}", f"malformed {nouns}")
        warn(f"{what} left out; the first: {counts.first_fault}")
    for message in counts.warnings:
        warn(message)
