"""``wyr prepare``: labelled sequences to a dataset, and a look into one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wyrcli.cli.console import say, stages, warn
from wyrcli.cli.options import Quiet
from wyrcli.cli.session import check_figure
from wyrcli.errors import InputError, counted, printable
from wyrcli.taxonomy import canonical_rank

if TYPE_CHECKING:
    import pandas as pd

    from wyrcli.dataset import Dataset
    from wyrcli.preparation import PreparationCounts

__all__ = ["prepare"]

_MOST_NAMES = 3  # of files left out
_MOST_TAXA = 25  # rows of a table before it is shortened


class Alphabet(StrEnum):
    """What sequences are made of; ``alphabets.AlphabetName``."""

    dna = "dna"
    protein = "protein"
    text = "text"


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


def _directory(name: str) -> Path:
    if not name:
        raise typer.BadParameter("found an empty name; expected a directory")
    return Path(name)


_INPUT = "Input"
_WINDOWS = "Windows"
_SPLITS = "Splits"


def prepare(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="FASTA, FASTQ, GenBank, tables with a column 'sequence' (or 'text'; CSV, TSV, Parquet), "
            "BERTax JSON, a manifest with a column 'file', zip archives and folders of these; - is stdin.",
            metavar="INPUTS...",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", parser=_directory, metavar="PATH", help="Dataset directory; new or empty."
        ),
    ] = None,
    alphabet: Annotated[
        Alphabet,
        typer.Option(
            help="What the sequences are. protein: amino-acid letters and '*', not turned round. text: any "
            "text, as a column 'text' or 'sequence'; mostly with --ranks and the name of one column.",
            rich_help_panel=_INPUT,
        ),
    ] = Alphabet.dna,
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
            help="Table with 'taxid' (or one column per rank), and 'name' or 'file' (with its folders, where "
            "base names repeat); accession2taxid and assembly_summary.txt will do. Default: headers ('>TAXID "
            "INDEX', kraken:taxid|TAXID), GenBank's db_xref, or the table's own columns.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    ranks: Annotated[
        str,
        typer.Option(
            help="From the widest to the narrowest, with commas: of the taxonomy, or without it any.",
            rich_help_panel=_INPUT,
        ),
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
        int,
        typer.Option(
            min=1,
            help="Longest window, in bases, residues or characters. Texts are cut at the last white space.",
            rich_help_panel=_WINDOWS,
        ),
    ] = 1500,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="From window to window, in bases or residues; by default --window. Not for texts.",
            rich_help_panel=_WINDOWS,
        ),
    ] = None,
    min_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Shortest window, in bases, residues or characters; by default 200, 10 or 1, but at most "
            "--window.",
            rich_help_panel=_WINDOWS,
        ),
    ] = None,
    min_acgt: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Least share of A, C, G and T in DNA; by default 0.5.",
            rich_help_panel=_WINDOWS,
        ),
    ] = None,
    random: Annotated[
        bool,
        typer.Option(
            "--random",
            help="Windows at random places; needs --per-taxon. Not for texts.",
            rich_help_panel=_WINDOWS,
        ),
    ] = False,
    per_taxon: Annotated[
        int | None,
        typer.Option(min=1, help="Most windows of one taxon, drawn at random.", rich_help_panel=_WINDOWS),
    ] = None,
    per_taxon_rank: Annotated[
        str,
        typer.Option(
            help="Rank that --per-taxon balances: of the taxonomy, or a column. Default: last of --ranks.",
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
            "GenBank's assembly; a column 'genome' or 'group'; the project of a WGS contig; else a file of "
            "several records with one label, if it is not the only file; else the record.",
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
    without a usable taxid or lineage; windows that are short, mostly N, or equal to another one or, in DNA,
    to its reverse complement.
    """
    if inspect is not None:
        if inputs or output is not None:
            raise typer.BadParameter("--inspect takes no inputs and no --output")
        check_figure(figure)
        _inspect(inspect, figure)
        return
    if figure is not None:
        raise typer.BadParameter("--figure belongs to --inspect")
    if not inputs or output is None:
        raise typer.BadParameter("name inputs and --output, or --inspect")
    if alphabet is not Alphabet.dna and min_acgt is not None:
        raise typer.BadParameter(f"--min-acgt is for DNA, not for --alphabet {alphabet}")
    if alphabet is Alphabet.text and (random or stride is not None):
        raise typer.BadParameter("texts are cut where there is white space: no --random, no --stride")
    rank_names = tuple(rank.strip() for rank in ranks.split(",") if rank.strip())
    _check_usage(rank_names, window, min_length, validation, test, is_unlimited=random and not per_taxon)

    import pyarrow as pa

    from wyrcli import preparation
    from wyrcli.dataset import FILES
    from wyrcli.outputs import check_new_directory, remove_unfinished

    options = preparation.PreparationOptions(
        alphabet=alphabet.value,
        ranks=rank_names,
        keep_unranked=keep_unranked,
        window_bp=window,
        stride=stride or 0,
        min_bp=min_length or 0,
        min_acgt=0.5 if min_acgt is None else min_acgt,
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


def _check_usage(
    ranks: tuple[str, ...],
    window: int,
    min_length: int | None,
    validation: float,
    test: float | None,
    *,
    is_unlimited: bool,
) -> None:
    """Usage errors for what no input can make right."""
    if len(set(map(canonical_rank, ranks))) != len(ranks) or not ranks:
        raise typer.BadParameter(
            f"'{', '.join(ranks)}'; expected at least one rank, each once", param_hint="--ranks"
        )
    if (min_length or 0) > window:
        raise typer.BadParameter(f"{min_length:,} is above --window {window:,}", param_hint="--min-length")
    if is_unlimited:
        raise typer.BadParameter("needs --per-taxon", param_hint="--random")
    if validation + (test or 0) > 1 + 1e-9:
        raise typer.BadParameter(
            f"{validation:g} and --test {test:g} add up to more than 1", param_hint="--validation"
        )


def _tell(counts: PreparationCounts, quiet: bool) -> None:
    """What became of the input, in a few lines."""

    def told(numbers: dict[str, int]) -> str:
        return ", ".join(f"{n:,} {what}" for what, n in numbers.items())

    if counts.left_out:
        first = ", ".join(Path(name).name for name in counts.left_out[:_MOST_NAMES])
        more = ", ..." if len(counts.left_out) > _MOST_NAMES else ""
        say(f"{counted(len(counts.left_out), 'file')} in folders left out by name: {first}{more}", quiet)
    say(f"{counted(counts.records_read, 'record')} read, {counts.records_kept:,} kept", quiet)
    if counts.records_dropped:
        say(f"records dropped: {told(dict(counts.records_dropped.most_common()))}", quiet)
    if n := counts.merged_taxids:
        say(f"{counted(n, 'record')} had a taxid that NCBI has merged into another", quiet)
    say(f"{counted(counts.windows_cut, 'window')} cut, {sum(counts.windows.values()):,} kept", quiet)
    if counts.windows_dropped:
        say(f"windows dropped: {told(dict(counts.windows_dropped.most_common()))}", quiet)
    say("classes: " + ", ".join(f"{rank} {n:,}" for rank, n in counts.classes.items()), quiet)
    divided = "" if counts.unit == "window" else f", {told(counts.units)} by {_unit(counts)}"
    say(f"split '{counts.split}'{divided}; windows: {told(counts.windows)}", quiet)
    if counts.undivided and (counts.windows["validation"] or counts.windows["test"]):
        say(f"taxa with a single {counts.unit}, which trains: {counts.undivided:,}", quiet)
    for note in counts.notes:
        say(note, quiet)
    for warning in counts.warnings:
        warn(warning)
    if counts.split == "stratified" and sum(counts.windows.values()) > counts.records_kept:
        warn("windows of one record are in several splits: scores will flatter; see --split genome")
    untrained = ", ".join(f"{rank} {n:,}" for rank, n in counts.untrained.items() if n)
    if untrained and counts.windows["train"]:
        told_untrained = f"classes without a training window: {untrained}"
        # Whole taxa are held out for just that.
        if counts.split == "taxon":
            say(told_untrained, quiet)
        else:
            warn(told_untrained)


def _unit(counts: PreparationCounts) -> str:
    """What was divided: ``genome``, ``genome (file)``, ``genome (3 genomes, 1 file)``."""
    kinds = counts.unit_kinds
    if set(kinds) <= {"genome"}:
        return counts.unit
    listed = ", ".join(counted(n, kind) for kind, n in kinds.items())
    return f"{counts.unit} ({next(iter(kinds)) if len(kinds) == 1 else listed})"


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
    try:
        console.print(_describe(dataset))
    except (KeyError, TypeError, AttributeError) as error:
        path = str(directory / "dataset.json")
        raise InputError(f"damaged: found no {error} in it", path=path) from None
    unit, is_dna = found.alphabet.unit, dataset.alphabet == "dna"
    splits = []
    for name, row in zip(found.splits.index, found.splits.itertuples(), strict=True):
        cells = [_number(row.shortest), _number(row.median), _number(row.longest)]
        cells += [f"{row.gc:.1%} ({row.gc_low:.1%} to {row.gc_high:.1%})"] if is_dna else []
        splits.append(
            [name, f"{row.windows:,}", f"{row.total:,}", *(cells if row.windows else [""] * len(cells))]
        )
    columns = ["", "windows", found.alphabet.characters, "shortest", "median", "longest"]
    console.print(_table("Splits", [*columns, *(["GC (5 to 95 %)"] if is_dna else [])], splits))
    for rank, taxa in found.taxa.items():
        console.print(_rank_table(rank, taxa, found.effective_classes(rank), unit))
    if figure is not None:
        inspection.draw(found, figure)
        say(f"picture: {figure}")


def _describe(dataset: Dataset) -> str:
    """Where the dataset comes from and what was left out."""
    from wyrcli.alphabets import ALPHABETS

    info = dataset.info
    unit = ALPHABETS[dataset.alphabet].unit
    inputs, records, windows, split = (info[key] for key in ("inputs", "records", "windows", "split"))
    size = sum(file["bytes"] for file in inputs)
    lines = [
        f"{dataset.path}: windows of at most {dataset.window_bp:,} {unit}, made by wyr {info['wyr']}",
        f"from {counted(len(inputs), 'file')} ({size / 1e6:,.1f} MB), {counted(records['read'], 'record')}, "
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


def _number(value: float) -> str:
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


def _rank_table(rank: str, taxa: pd.DataFrame, effective: float, unit: str) -> Any:
    columns = ["taxon", "taxid", "train", "validation", "test", "share", f"median {unit}"]
    columns += ["GC"] if "gc" in taxa else []
    rows = [
        [
            *(row.taxon, str(row.taxid or ""), f"{row.train:,}", f"{row.validation:,}", f"{row.test:,}"),
            *(f"{row.share:.2%}", _number(row.length), *([f"{row.gc:.1%}"] if "gc" in taxa else [])),
        ]
        for row in taxa.itertuples()
    ]
    if len(rows) > _MOST_TAXA:
        rest = len(rows) - _MOST_TAXA
        rows = [*rows[: _MOST_TAXA - 5], [f"... {rest:,} more ..."] + [""] * (len(columns) - 1), *rows[-5:]]
    balance = f"as diverse as {effective:,.1f} equally frequent taxa"
    return _table(f"{rank}: {len(taxa):,} taxa, {balance}", columns, rows)
