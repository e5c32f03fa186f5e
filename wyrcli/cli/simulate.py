"""``wyr simulate``: reads whose explanation is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wyrcli.cli.console import say
from wyrcli.cli.options import Quiet

__all__ = ["simulate"]


def simulate(
    outdir: Annotated[Path, typer.Argument(help="Directory to write; new or empty.", metavar="OUTDIR")],
    seed: Annotated[int, typer.Option(min=0, help="Changes the reads, never the taxonomy or motifs.")] = 0,
    reads: Annotated[int, typer.Option(min=1, help="How many reads.")] = 1000,
    length: Annotated[int, typer.Option(min=1, help="Length of every read, in bp.")] = 1500,
    mutation_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Chance of each planted base to be replaced.")
    ] = 0.05,
    max_copies: Annotated[int, typer.Option(min=1, help="Copies of each motif: 1 to this many.")] = 4,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier simulation in OUTDIR.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write simulated reads, their labels, the truth about them and a toy taxonomy.

    Each read carries mutated copies of the signature motifs of its superkingdom, phylum and genus
    (truth.bed) and of decoy motifs that say nothing (decoys.bed).
    """
    from wyrcli import simulation

    counts = simulation.simulate(
        outdir,
        seed=seed,
        n_reads=reads,
        length=length,
        mutation_rate=mutation_rate,
        max_copies=max_copies,
        force=force,
    )
    say(
        f"{counts.reads:,} reads of {length:,} bp with {counts.planted:,} planted motifs "
        f"and {counts.decoys:,} decoys in {outdir}",
        quiet,
    )
