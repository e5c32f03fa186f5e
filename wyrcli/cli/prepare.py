"""``wyr prepare``: labelled sequences to a dataset."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wyrcli.cli.console import say, warn
from wyrcli.cli.options import Quiet

__all__ = ["prepare"]


class SplitBy(StrEnum):
    """What is never divided between the splits."""

    record = "record"
    file = "file"


def prepare(
    inputs: Annotated[
        list[str], typer.Argument(help="FASTA or FASTQ files; - is stdin.", metavar="INPUTS...")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Dataset directory; new or empty.")],
    taxonomy: Annotated[Path, typer.Option(help="NCBI taxonomy: taxdump.tar.gz, or a folder with *.dmp.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="TSV or CSV with the columns 'taxid', and 'name' (of a record) or 'file'. "
            "Default: the headers, as '>TAXID INDEX' or with kraken:taxid|TAXID."
        ),
    ] = None,
    ranks: Annotated[
        str, typer.Option(help="From the widest to the narrowest, with commas.")
    ] = "superkingdom,phylum,genus",
    window: Annotated[int, typer.Option(min=1, help="Longest window, in bp.")] = 1500,
    stride: Annotated[
        int | None, typer.Option(min=1, help="From window to window, in bp; by default --window.")
    ] = None,
    min_length: Annotated[
        int | None,
        typer.Option(min=1, help="Shortest window, in bp; by default 200, at most --window."),
    ] = None,
    max_per_taxon: Annotated[
        int | None, typer.Option(min=1, help="Most windows per taxon of the narrowest rank, drawn at random.")
    ] = None,
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share for validation.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share for testing.")] = 0.1,
    split_by: Annotated[SplitBy, typer.Option(help="What is never divided between splits.")] = SplitBy.record,
    keep_unranked: Annotated[
        bool,
        typer.Option("--keep-unranked", help="A missing rank is 'unknown' instead of a reason to drop."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits and of --max-per-taxon.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Make a dataset of labelled windows, split into train, validation and test.

    Records without a usable taxid or lineage are left out and counted; so are windows that repeat an
    earlier one or are mostly N.
    """
    from wyrcli import preparation

    counts = preparation.prepare(
        inputs,
        taxdump=taxonomy,
        output=output,
        labels=labels,
        ranks=tuple(rank.strip() for rank in ranks.split(",") if rank.strip()),
        window_bp=window,
        stride=stride,
        min_bp=min(200, window) if min_length is None else min_length,
        max_per_taxon=max_per_taxon,
        validation=validation,
        test=test,
        split_by="file" if split_by is SplitBy.file else "record",
        seed=seed,
        drop_unranked=not keep_unranked,
    )

    def told(numbers: dict[str, int]) -> str:
        return ", ".join(f"{n:,} {what}" for what, n in numbers.items())

    say(f"{counts.records_read:,} records read, {counts.records_kept:,} kept", quiet)
    if counts.records_dropped:
        say(f"records dropped: {told(dict(counts.records_dropped.most_common()))}", quiet)
    if counts.windows_dropped:
        say(f"windows dropped: {told(dict(counts.windows_dropped.most_common()))}", quiet)
    say(f"windows: {told(counts.windows)}", quiet)
    say("classes: " + ", ".join(f"{rank} {n:,}" for rank, n in counts.classes.items()), quiet)
    if any(counts.untrained.values()) and counts.windows.get("train"):
        without = ", ".join(f"{rank} {n:,}" for rank, n in counts.untrained.items())
        warn(f"classes without a training window: {without}")
    say(f"dataset: {output}", quiet)
