"""``wyr explain``: which stretches of each read made the classifier call it what it called it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

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

__all__ = ["explain"]


def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="FASTA or FASTQ files, plain or gz, bz2, xz, zst; - is stdin.", metavar="READS..."
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="BED file of important chunks (.gz = BGZF); - is stdout.")
    ] = "-",
    tokens: Annotated[str | None, typer.Option("--tokens", help="TSV file of a score for every token.")] = None,
    predictions: Annotated[
        str | None, typer.Option("--predictions", help="TSV file of what each read was called.")
    ] = None,
    json: Annotated[str | None, typer.Option("--json", help="Report of the run.")] = None,
    model: Model = None,
    explainer: ExplainerOption = ExplainerKind.state,
    operator: OperatorOption = Operator.gate,
    rank: Annotated[
        str | None, typer.Option("--rank", help="Explain this rank alone; by default all together.")
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="A token is important above this mask value.")
    ] = 0.5,
    min_length: Annotated[int, typer.Option("--min-length", min=1, help="Shortest chunk to report, in bp.")] = 1,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Full-length windows per batch.")
    ] = 64,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Write the important chunks of each read as BED: those that made the classifier call it what it called it.

    The mask is that of the predicted classes.  Columns: chrom, start, end, the taxon, score (1000 times
    the mean mask), strand, thickStart, thickEnd, itemRgb, mean mask, predicted lineage.

    Example:  wyr explain reads.fasta -o important.bed
    """
    from wyrcli import report, sequences, writers
    from wyrcli.checkpoint import default_model, load_checkpoint, load_explainer
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.inference import explain as run

    outputs = [path for path in (output, tokens, predictions, json) if path is not None]
    writers.check_outputs(outputs, inputs)
    used_threads = set_threads(threads)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    checkpoint = load_checkpoint(model or default_model())
    taxonomy = checkpoint.taxonomy
    trained = load_explainer(checkpoint.path, explainer, operator)
    if rank is not None:
        rank = taxonomy.ranks[taxonomy.rank_index(rank)]
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    checkpoint.explanandum.to(where, dtype)
    trained.explainer.to(where, dtype)

    counts = sequences.RecordCounts()
    stopwatch = report.Stopwatch()
    with ExitStack() as stack:
        bed = writers.BedWriter(
            stack.enter_context(writers.open_output(output)), rank=rank, threshold=threshold, min_length=min_length
        )
        sinks = [bed.write]
        skipped = []
        if tokens is not None:
            handle = stack.enter_context(writers.open_output(tokens))
            sinks.append(writers.TokensWriter(handle, taxonomy.ranks).write)
        if predictions is not None:
            handle = stack.enter_context(writers.open_output(predictions))
            table = writers.PredictionsWriter(handle, taxonomy.ranks, threshold=threshold, min_length=min_length)
            sinks.append(table.write)
            skipped.append(table.write_skipped)

        def on_skip(record: int, name: str, length: int, reason: str) -> None:
            for write in skipped:
                write(name, length, reason)

        windows = sequences.split_windows(
            sequences.read_records(inputs), checkpoint.window_bp, counts, on_skip=on_skip
        )
        advance = stack.enter_context(progress("reads explained", quiet=quiet))
        done = 0
        for explanation in run(
            windows,
            checkpoint.explanandum,
            trained.explainer,
            checkpoint.tokenizer,
            taxonomy,
            batch_tokens=batch_size * (checkpoint.window_bp // checkpoint.tokenizer.k + 1),
            device=where,
            rank=rank,
        ):
            for write in sinks:
                write(explanation)
            done += 1
            advance()
        if done != counts.windows:
            raise RuntimeError(f"{counts.windows} windows went in and {done} came out")
        counts.accounted()
        if json is not None:
            content = report.run_report(
                sys.argv, inputs, checkpoint, trained, counts, bed, stopwatch, str(where), str(dtype), used_threads
            )
            with writers.open_output(json) as handle:
                handle.write(content)
