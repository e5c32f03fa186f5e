"""Options on the files that ``wyr explain`` writes."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "Coverage",
    "CoverageDepth",
    "FormatOption",
    "Index",
    "Json",
    "KrakenOutput",
    "KrakenReport",
    "Lift",
    "Output",
    "Predictions",
    "SafeNames",
    "ScoresOption",
    "Tokens",
]

_OUTPUTS = "Outputs"

Output = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Its extension says what: .bed and .gff3 (important chunks), .bedgraph and .bw (scores), "
        ".tsv (a row per token), .parquet, .jsonl, .npz (for motif tools), .bam (tags). Text with .gz is "
        "BGZF. - is stdout. Repeatable.",
        show_default="-; nothing with --show",
        rich_help_panel=_OUTPUTS,
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Format where the extension says none: bed, bedgraph, bigwig, gff3, tsv, parquet, jsonl, "
        "npz, bam.",
        show_default="bed",
        rich_help_panel=_OUTPUTS,
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option("--tokens", metavar="FILE", help="TSV: a score for every token.", rich_help_panel=_OUTPUTS),
]
Predictions = Annotated[
    str | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        help="TSV: what each window was called; and what was skipped, and why.",
        rich_help_panel=_OUTPUTS,
    ),
]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Report of the run.", rich_help_panel=_OUTPUTS),
]
KrakenOutput = Annotated[
    str | None,
    typer.Option(
        "--kraken-output",
        metavar="FILE",
        help="Calls of reads, and what their bases speak for, as in Kraken 2.",
        rich_help_panel=_OUTPUTS,
    ),
]
KrakenReport = Annotated[
    str | None,
    typer.Option(
        "--kraken-report",
        metavar="FILE",
        help="Reads per taxon, as Kraken 2 reports them.",
        rich_help_panel=_OUTPUTS,
    ),
]
Lift = Annotated[
    str | None,
    typer.Option(
        "--lift",
        metavar="FILE",
        help="Of aligned reads: important chunks on the reference, as BED12.",
        rich_help_panel=_OUTPUTS,
    ),
]
Coverage = Annotated[
    str | None,
    typer.Option(
        "--coverage",
        metavar="FILE",
        help="Of aligned, sorted reads: mean score along the reference, .bedgraph or .bw.",
        rich_help_panel=_OUTPUTS,
    ),
]
CoverageDepth = Annotated[
    str | None,
    typer.Option(
        "--coverage-depth",
        metavar="FILE",
        help="Number of reads in that mean, .bedgraph or .bw.",
        rich_help_panel=_OUTPUTS,
    ),
]
SafeNames = Annotated[
    str | None,
    typer.Option(
        "--safe-names",
        metavar="FILE",
        help="Call records r1, r2, ... and write here what they stand for.",
        rich_help_panel=_OUTPUTS,
    ),
]
ScoresOption = Annotated[
    bool,
    typer.Option("--scores", help="Put the score of every token into .jsonl, too.", rich_help_panel=_OUTPUTS),
]
Index = Annotated[
    bool | None,
    typer.Option(
        "--index/--no-index",
        help="Whether .gz tables get an index for tabix; by default if their rows are sorted.",
        show_default=False,
        rich_help_panel=_OUTPUTS,
    ),
]
