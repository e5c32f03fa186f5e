"""``wyr explain``: which stretches of each sequence made the classifier call it what it called it."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated

import typer

from wyrcli.cli.console import progress, say, warn
from wyrcli.cli.options import (
    Device,
    ExplainerKind,
    ExplainerOption,
    Model,
    Operator,
    OperatorOption,
    Precision,
    PrecisionOption,
    Quiet,
    Threads,
    set_threads,
)
from wyrcli.cli.views import Bundle, Html, HtmlLimit, IgvJs, Show, ShowLimit, ViewOptions, Views

if TYPE_CHECKING:
    from wyrcli.outputs import TextOutput
    from wyrcli.sequences import RecordCounts
    from wyrcli.writers import BedCounts

__all__ = ["explain"]


def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="FASTA or FASTQ files, plain or gz, bz2, xz, zst; - is stdin.  For a model of proteins "
            "FASTA; for one of texts a text per line, or tables (.csv, .tsv, .parquet) with a column text.",
            metavar="READS...",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="BED file of important chunks (.gz = BGZF); - is stdout, the default without --show.",
        ),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="TSV file of a score for every token.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option("--predictions", help="TSV file of what each sequence was called.")
    ] = None,
    json: Annotated[str | None, typer.Option("--json", help="Report of the run.")] = None,
    show: Show = False,
    show_limit: ShowLimit = 20,
    html: Html = None,
    html_limit: HtmlLimit = 500,
    browser_bundle: Bundle = None,
    igv_js: IgvJs = None,
    model: Model = None,
    explainer: ExplainerOption = ExplainerKind.state,
    operator: OperatorOption = Operator.gate,
    rank: Annotated[
        str | None, typer.Option("--rank", help="Explain this rank alone; by default all together.")
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="A token is important above this mask value.")
    ] = 0.5,
    min_length: Annotated[
        int,
        typer.Option("--min-length", min=1, help="Shortest chunk to report, in letters."),
    ] = 1,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Full-length windows per batch.")
    ] = 64,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Write the important chunks of each sequence as BED: what made the classifier call it what it called it.

    The mask is that of the predicted classes.  Columns: chrom, start, end, the taxon, score (1000 times
    the mean mask), strand, thickStart, thickEnd, itemRgb, mean mask, predicted lineage.

    Example:  wyr explain reads.fasta -o important.bed
    """
    from wyrcli import outputs, writers
    from wyrcli.checkpoint import default_model, load_checkpoint, load_explainer
    from wyrcli.inference import choose_device, choose_precision, new_counts, read_windows
    from wyrcli.inference import explain as run
    from wyrcli.report import Stopwatch, run_report

    view_options = ViewOptions(show, show_limit, html, html_limit, browser_bundle, igv_js)
    if output is None:
        output = os.devnull if show else "-"  # whoever only wants to look needs no file
    outputs.check_inputs(inputs)
    view_options.check([output, tokens, predictions, json])
    outputs.check_outputs([output, tokens, predictions, json, html], inputs)
    used_threads = set_threads(threads)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    checkpoint = load_checkpoint(model or default_model())
    trained = load_explainer(checkpoint.path, explainer, operator)
    ranks = checkpoint.taxonomy.ranks
    if rank is not None:
        rank = ranks[checkpoint.taxonomy.rank_index(rank)]
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    checkpoint.explanandum.to(where, dtype)
    trained.explainer.to(where, dtype)

    counts = new_counts(checkpoint.alphabet)
    skipped: deque[tuple[int, str, int, str]] = deque()  # filled by the reading thread, emptied by this one
    stopwatch = Stopwatch()
    with ExitStack() as stack:

        def open_output(path: str) -> TextOutput:
            return stack.enter_context(outputs.open_output(path))

        bed = writers.BedWriter(
            open_output(output), ranks, rank=rank, threshold=threshold, min_length=min_length
        )
        per_token = writers.TokensWriter(open_output(tokens), ranks) if tokens is not None else None
        table = None
        if predictions is not None:
            table = writers.PredictionsWriter(
                open_output(predictions), ranks, threshold=threshold, min_length=min_length
            )

        report = open_output(json) if json is not None else None
        views = Views(
            view_options, stack, checkpoint, trained, rank=rank, threshold=threshold, min_length=min_length
        )

        def write_skipped(before: float) -> None:
            while skipped and skipped[0][0] < before:
                _, name, length, reason = skipped.popleft()
                if table is not None:
                    table.write_skipped(name, length, reason)

        explanations = run(
            read_windows(
                inputs,
                checkpoint.tokenizer,
                checkpoint.window_bp,
                counts,
                on_skip=None if table is None else lambda *record: skipped.append(record),
            ),
            checkpoint.explanandum,
            trained.explainer,
            checkpoint.tokenizer,
            checkpoint.taxonomy,
            batch_tokens=batch_size * checkpoint.tokenizer.usual_tokens(checkpoint.window_bp),
            device=where,
            rank=rank,
        )
        stack.enter_context(closing(explanations))  # its reading thread ends before the outputs do
        advance = None
        written = 0
        for explanation in explanations:
            write_skipped(before=explanation.window.record)
            bed.write(explanation)
            if per_token is not None:
                per_token.write(explanation)
            if table is not None:
                table.write(explanation)
            views.write(explanation)
            written += 1
            if advance is not None:
                advance()
            elif not views.is_drawing:
                advance = stack.enter_context(progress("windows explained", quiet=quiet))
                advance(written)
        write_skipped(before=math.inf)
        if written != counts.windows or not counts.accounted():
            raise RuntimeError(f"{counts.as_dict()} went in, but {written} windows came out")
        views.finish(inputs, counts)
        if report is not None:
            results = {"windows": written, "chunks": bed.counts.chunks, "bases_in_chunks": bed.counts.bases}
            execution = {"device": str(where), "precision": str(dtype), "threads": used_threads}
            content = run_report(
                sys.argv, inputs, checkpoint, trained, counts, results, stopwatch.seconds(), execution
            )
            report.write(outputs.json_text(content))
    _summarise(counts, bed.counts, checkpoint.alphabet, quiet)


_WORDS = {"dna": ("reads", "bases"), "protein": ("proteins", "residues"), "text": ("texts", "characters")}


def _summarise(counts: RecordCounts, written: BedCounts, alphabet: str, quiet: bool) -> None:
    nouns, letters = _WORDS[alphabet]
    lost = sum(counts.skipped.values())
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in counts.skipped.items() if n)
    say(
        f"{counts.records:,} {nouns} in: {counts.windowed:,} explained in {counts.windows:,} windows, "
        f"{lost:,} skipped" + (f" ({reasons})" if reasons else ""),
        quiet,
    )
    share = written.bases / counts.bases if counts.bases else 0.0
    say(f"{written.chunks:,} important chunks hold {share:.1%} of {counts.bases:,} {letters}", quiet)
    if counts.records == 0:
        warn(f"there was no {nouns[:-1]} in the input")
    if counts.windows_without_acgt:
        warn(f"{counts.windows_without_acgt:,} windows of long reads were left out: they are N throughout")
    if counts.duplicate_names:
        warn(
            f"{counts.duplicate_names:,} {nouns} have the name of an earlier one; joining by name mixes them"
        )
    if written.unsafe_windows:
        warn(
            f"{written.unsafe_windows:,} windows have a name that bedtools takes for a header and drops; "
            f"rename those {nouns} (names must not start with track, browser, #, > or !)"
        )
