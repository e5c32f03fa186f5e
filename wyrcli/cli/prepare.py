"""``wyr prepare``: labelled sequences to a dataset, and a look into one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wyrcli.cli.console import say, stages, warn
from wyrcli.cli.options import Quiet
from wyrcli.errors import printable

if TYPE_CHECKING:
    import pandas as pd

    from wyrcli.dataset import Dataset
    from wyrcli.preparation import PreparationCounts

__all__ = ["prepare"]

_MOST_TAXA = 25  # rows of a table before it is shortened


class SplitMethod(StrEnum):
    """How windows are divided; ``preparation.SplitMethod``."""

    auto = "auto"
    stratified = "stratified"
    genome = "genome"
    taxon = "taxon"
    given = "given"


class GroupBy(StrEnum):
    """What ``--split genome`` keeps together; ``preparation.GroupBy``."""

    genome = "genome"
    record = "record"
    file = "file"
    taxid = "taxid"


_INPUT = "Input"
_WINDOWS = "Windows"
_SPLITS = "Splits"


def prepare(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="FASTA, FASTQ, GenBank, tables with a sequence column (CSV, TSV, Parquet), BERTax JSON, "
            "a manifest with a column 'file', zip archives and folders of these; - is stdin.",
            metavar="INPUTS...",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Dataset directory; new or empty.")
    ] = None,
    taxonomy: Annotated[
        Path | None,
        typer.Option(
            help="NCBI taxonomy: taxdump.tar.gz, taxdmp.zip, or a folder with *.dmp. Without it, tables "
            "must have one column per rank.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table with 'taxid' (or one column per rank), and 'name' or 'file'; accession2taxid and "
            "assembly_summary.txt will do. Default: headers ('>TAXID INDEX', kraken:taxid|TAXID), GenBank's "
            "db_xref, or the table's own columns.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    ranks: Annotated[
        str, typer.Option(help="From the widest to the narrowest, with commas.", rich_help_panel=_INPUT)
    ] = "superkingdom,phylum,genus",
    keep_unranked: Annotated[
        bool,
        typer.Option(
            "--keep-unranked",
            help="A missing rank is the class 'unknown' instead of a reason to drop the record.",
            rich_help_panel=_INPUT,
        ),
    ] = False,
    window: Annotated[
        int, typer.Option(min=1, help="Longest window, in bp.", rich_help_panel=_WINDOWS)
    ] = 1500,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1, help="From window to window, in bp; by default --window.", rich_help_panel=_WINDOWS
        ),
    ] = None,
    min_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Shortest window, in bp; by default 200, at most --window.", rich_help_panel=_WINDOWS
        ),
    ] = None,
    min_acgt: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of A, C, G and T.", rich_help_panel=_WINDOWS)
    ] = 0.5,
    random: Annotated[
        bool,
        typer.Option(
            "--random", help="Windows at random places; needs --per-taxon.", rich_help_panel=_WINDOWS
        ),
    ] = False,
    per_taxon: Annotated[
        int | None,
        typer.Option(min=1, help="Most windows of one taxon, drawn at random.", rich_help_panel=_WINDOWS),
    ] = None,
    per_taxon_rank: Annotated[
        str,
        typer.Option(
            help="Rank that --per-taxon balances: any of the taxonomy. Default: the narrowest of --ranks.",
            rich_help_panel=_WINDOWS,
        ),
    ] = "",
    split: Annotated[
        SplitMethod,
        typer.Option(
            help="stratified: window by window (the paper). genome: no genome on two sides. taxon: whole "
            "taxa of the narrowest rank are held out. given: by a column 'split' or files named train and "
            "test. auto: given, if the input says; genome, if it has records longer than a window; else "
            "stratified.",
            rich_help_panel=_SPLITS,
        ),
    ] = SplitMethod.auto,
    group: Annotated[
        GroupBy,
        typer.Option(
            help="What --split genome keeps together. genome: the file, if it is labelled as a whole; "
            "GenBank's assembly; a column 'genome' or 'group'; the project of a WGS contig; else the record.",
            rich_help_panel=_SPLITS,
        ),
    ] = GroupBy.genome,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Share for validation.", rich_help_panel=_SPLITS)
    ] = 0.1,
    test: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share for testing; by default 0.02 (the paper) if stratified, else 0.1.",
            rich_help_panel=_SPLITS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.", rich_help_panel=_SPLITS)] = 0,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an old dataset in --output.")] = False,
    inspect: Annotated[
        Path | None, typer.Option(help="Show what is in this dataset instead.", metavar="DIR")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With --inspect: write a picture (png, pdf, svg) too.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a dataset of labelled windows, split into train, validation and test.

    Formats and compression are recognised by content. Whatever is left out is counted by reason: records
    without a usable taxid or lineage; windows that are short, mostly N, or equal to another one or to its
    reverse complement.
    """
    if inspect is not None:
        if inputs or output is not None:
            raise typer.BadParameter("--inspect takes no inputs and no --output")
        _inspect(inspect, figure)
        return
    if figure is not None:
        raise typer.BadParameter("--figure belongs to --inspect")
    if not inputs or output is None:
        raise typer.BadParameter("name inputs and --output, or --inspect")

    import pyarrow as pa

    from wyrcli import preparation
    from wyrcli.dataset import FILES
    from wyrcli.outputs import check_new_directory, remove_unfinished

    options = preparation.PreparationOptions(
        ranks=tuple(rank.strip() for rank in ranks.split(",") if rank.strip()),
        keep_unranked=keep_unranked,
        window_bp=window,
        stride=stride or window,
        min_bp=min(200, window) if min_length is None else min_length,
        min_acgt=min_acgt,
        random=random,
        per_taxon=per_taxon or 0,
        per_taxon_rank=per_taxon_rank,
        split=split.value,
        group=group.value,
        validation=validation,
        test=test,
        seed=seed,
    )
    check_new_directory(output, replace=FILES if force else ())
    if remove_unfinished(output):
        say(f"an earlier run for {output} was interrupted; this one starts over", quiet)
    # Arrow's own allocator holds on to what was once needed: a fifth more memory for nothing.
    pa.set_memory_pool(pa.system_memory_pool())
    with stages(quiet=quiet) as report:
        counts = preparation.prepare(
            inputs, output, options, taxdump=taxonomy, labels=labels, replace=force, report=report
        )
    _tell(counts, quiet)
    say(f"dataset: {output}", quiet)


def _tell(counts: PreparationCounts, quiet: bool) -> None:
    """What became of the input, in a few lines."""

    def told(numbers: dict[str, int]) -> str:
        return ", ".join(f"{n:,} {what}" for what, n in numbers.items())

    say(f"{counts.records_read:,} records read, {counts.records_kept:,} kept", quiet)
    if counts.records_dropped:
        say(f"records dropped: {told(dict(counts.records_dropped.most_common()))}", quiet)
    if counts.merged_taxids:
        say(f"{counts.merged_taxids:,} records had a taxid that NCBI has merged into another", quiet)
    say(f"{counts.windows_cut:,} windows cut, {sum(counts.windows.values()):,} kept", quiet)
    if counts.windows_dropped:
        say(f"windows dropped: {told(dict(counts.windows_dropped.most_common()))}", quiet)
    say("classes: " + ", ".join(f"{rank} {n:,}" for rank, n in counts.classes.items()), quiet)
    divided = "" if counts.unit == "window" else f", {told(counts.units)} by {counts.unit}"
    say(f"split '{counts.split}'{divided}; windows: {told(counts.windows)}", quiet)
    if counts.undivided and (counts.windows["validation"] or counts.windows["test"]):
        say(f"taxa with a single {counts.unit}, which trains: {counts.undivided:,}", quiet)
    if counts.split == "stratified" and sum(counts.windows.values()) > counts.records_kept:
        warn("windows of one record are in several splits: scores will flatter; see --split genome")
    if any(counts.untrained.values()) and counts.windows["train"]:
        without = ", ".join(f"{rank} {n:,}" for rank, n in counts.untrained.items())
        warn(f"classes without a training window: {without}")


# ---------------------------------------------------------------- --inspect


def _inspect(directory: Path, figure: Path | None) -> None:
    """Print tables of a dataset to stdout, and draw a picture of it."""
    import sys

    from rich.console import Console

    from wyrcli import inspection
    from wyrcli.dataset import Dataset

    dataset = Dataset.open(directory)
    found = inspection.inspect(dataset)
    # Off a terminal rich would cut the tables to 80 characters.
    console = Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else 140, markup=False, highlight=False
    )
    console.print(_describe(dataset))
    splits = [
        [name, f"{row.windows:,}", f"{row.bases:,}"]
        + ([_bp(row.shortest), _bp(row.median), _bp(row.longest)] if row.windows else ["", "", ""])
        + ([f"{row.gc:.1%} ({row.gc_low:.1%} to {row.gc_high:.1%})"] if row.windows else [""])
        for name, row in zip(found.splits.index, found.splits.itertuples(), strict=True)
    ]
    console.print(
        _table("Splits", ["", "windows", "bases", "shortest", "median", "longest", "GC (5 to 95 %)"], splits)
    )
    for rank, taxa in found.taxa.items():
        console.print(_rank_table(rank, taxa, found.effective_classes(rank)))
    if figure is not None:
        inspection.draw(found, figure)
        say(f"picture: {figure}")


def _describe(dataset: Dataset) -> str:
    """Where the dataset comes from and what was left out."""
    info = dataset.info
    inputs, records, windows, split = (info[key] for key in ("inputs", "records", "windows", "split"))
    size = sum(file["bytes"] for file in inputs)
    lines = [
        f"{dataset.path}: windows of at most {dataset.window_bp:,} bp, made by wyr {info['wyr']}",
        f"from {len(inputs):,} files ({size / 1e6:,.1f} MB), {records['read']:,} records, "
        f"{records['kept']:,} of them kept",
    ]
    if source := dataset.taxonomy.source:
        lines.append(
            f"taxonomy {source.get('path')} of {source.get('date')}, sha256 {str(source.get('sha256'))[:12]}"
        )
    lines.append(f"split '{split['method']}', seed {info['options']['seed']}")
    for what, numbers in (("records", records["dropped"]), ("windows", windows["dropped"])):
        if numbers:
            told = ", ".join(f"{n:,} {reason}" for reason, n in numbers.items())
            lines.append(f"{what} left out: {told}")
    return "\n".join(printable(line, limit=2000) for line in lines)


def _bp(value: float) -> str:
    return f"{value:,.0f}"


def _table(title: str, columns: list[str], rows: list[list[str]]) -> Any:
    """A rich table: the first column to the left, numbers to the right; names from files stay text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=bool(i))
    for row in rows:
        table.add_row(*(Text(printable(cell, limit=60)) for cell in row))
    return table


def _rank_table(rank: str, taxa: pd.DataFrame, effective: float) -> Any:
    columns = ["taxon", "taxid", "train", "validation", "test", "share", "median bp", "GC"]
    rows = [
        [
            *(row.taxon, str(row.taxid or ""), f"{row.train:,}", f"{row.validation:,}", f"{row.test:,}"),
            *(f"{row.share:.2%}", _bp(row.bp), f"{row.gc:.1%}"),
        ]
        for row in taxa.itertuples()
    ]
    if len(rows) > _MOST_TAXA:
        rest = len(rows) - _MOST_TAXA
        rows = [*rows[: _MOST_TAXA - 5], [f"... {rest:,} more ..."] + [""] * 7, *rows[-5:]]
    balance = f"as diverse as {effective:,.1f} equally frequent taxa"
    return _table(f"{rank}: {len(taxa):,} taxa, {balance}", columns, rows)
