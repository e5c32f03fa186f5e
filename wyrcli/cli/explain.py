"""``wyr explain``: which stretches of each sequence made the classifier call it what it called it."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated

import typer

from wyrcli.cli.asking import (
    BothStrands,
    Contrast,
    MinLength,
    MinProbability,
    Overlap,
    RankOption,
    Resolution,
    ResolutionOption,
    Sharpen,
    TargetOption,
    Threshold,
    TopK,
    check_windows,
    pose_question,
)
from wyrcli.cli.console import progress, say, warn
from wyrcli.cli.inputs import (
    MaskLower,
    MaskLowerOption,
    OnError,
    OnErrorOption,
    PairedOption,
    ReferenceOption,
    RegionsOption,
    RenameOption,
    input_options,
    warn_of_reads,
)
from wyrcli.cli.options import (
    MACHINE,
    Devices,
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
from wyrcli.cli.results import (
    Coverage,
    CoverageDepth,
    FormatOption,
    Index,
    Json,
    KrakenOutput,
    KrakenReport,
    Lift,
    Output,
    Predictions,
    SafeNames,
    ScoresOption,
    Tokens,
)
from wyrcli.cli.scale import EngineName, EngineOption, Processes, Resume, Scale, ShardOption
from wyrcli.cli.views import Bundle, Html, HtmlLimit, IgvJs, Show, ShowLimit, ViewOptions, Views

if TYPE_CHECKING:
    from wyrcli.results import ResultCounts
    from wyrcli.windows import RecordCounts

__all__ = ["explain"]


def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="FASTA or FASTQ files, plain or gz, bz2, xz, zst; BAM; CRAM; - is stdin.  For a model of "
            "proteins FASTA; for one of texts a text per line, or tables (.csv, .tsv, .parquet) with a "
            "column text.",
            metavar="READS",
        ),
    ],
    paired: PairedOption = False,
    regions: RegionsOption = None,
    mask_lower: MaskLowerOption = MaskLower.keep,
    reference: ReferenceOption = None,
    on_error: OnErrorOption = OnError.fail,
    rename_duplicates: RenameOption = False,
    rank: RankOption = None,
    target: TargetOption = None,
    contrast: Contrast = None,
    top_k: TopK = 0,
    min_probability: MinProbability = None,
    threshold: Threshold = 0.5,
    min_length: MinLength = 1,
    resolution: ResolutionOption = Resolution.token,
    both_strands: BothStrands = False,
    sharpen: Sharpen = False,
    overlap: Overlap = 0,
    output: Output = None,
    format: FormatOption = None,
    tokens: Tokens = None,
    predictions: Predictions = None,
    json: Json = None,
    kraken_output: KrakenOutput = None,
    kraken_report: KrakenReport = None,
    lift: Lift = None,
    coverage: Coverage = None,
    coverage_depth: CoverageDepth = None,
    safe_names: SafeNames = None,
    scores: ScoresOption = False,
    index: Index = None,
    show: Show = False,
    show_limit: ShowLimit = 20,
    html: Html = None,
    html_limit: HtmlLimit = 500,
    browser_bundle: Bundle = None,
    igv_js: IgvJs = None,
    model: Model = None,
    explainer: ExplainerOption = ExplainerKind.state,
    operator: OperatorOption = Operator.gate,
    device: Devices = "auto",
    precision: PrecisionOption = Precision.auto,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            "-b",
            min=1,
            metavar="N",
            help="Full-length windows per batch.",
            rich_help_panel=MACHINE,
        ),
    ] = 64,
    threads: Threads = 0,
    processes: Processes = 0,
    resume: Resume = False,
    shard: ShardOption = None,
    engine: EngineOption = EngineName.local,
    quiet: Quiet = False,
) -> None:
    """Write the important chunks of each sequence: what made the classifier call it what it called it.

    The mask is that of the predicted classes, unless others are asked for.  Columns of BED: chrom, start,
    end, the taxon, score (1000 times the mean mask), strand, thickStart, thickEnd, itemRgb, mean mask,
    predicted lineage.

    Example:  wyr explain reads.fasta -o important.bed -o scores.bw --kraken-report report.txt
    """
    from wyrcli import __version__, outputs
    from wyrcli.bam_writer import Program
    from wyrcli.checkpoint import load_checkpoint, load_explainer
    from wyrcli.formats import Settings, UnknownFormatError
    from wyrcli.inference import explain as run
    from wyrcli.inputs import new_counts, open_windows
    from wyrcli.installed import find_model
    from wyrcli.parts import Rows
    from wyrcli.report import Agreement, Stopwatch, run_report
    from wyrcli.results import Requests, open_results
    from wyrcli.stitching import group

    view_options = ViewOptions(show, show_limit, html, html_limit, browser_bundle, igv_js)
    options = input_options(
        inputs,
        paired=paired,
        on_error=on_error,
        reference=reference,
        regions=regions,
        mask_lower=mask_lower,
        rename_duplicates=rename_duplicates,
        overlap=overlap,
    )
    files = [*inputs, *options.files()]
    requests = Requests(
        outputs=output or ([] if show else ["-"]),  # whoever only wants to look needs no file
        format=format,
        tokens=tokens,
        predictions=predictions,
        kraken_output=kraken_output,
        kraken_report=kraken_report,
        lift=lift,
        coverage=coverage,
        depth=coverage_depth,
        safe_names=safe_names,
    )
    outputs.check_inputs(files)
    view_options.check([*requests.named(), json])
    outputs.check_outputs([*requests.named(), json, html], files)
    try:
        requests.track_formats()
        outputs.check_outputs([*requests.paths(), json, html], files)
    except UnknownFormatError as error:
        raise typer.BadParameter(str(error)) from None
    scale = Scale.of(files, processes=processes, resume=resume, shard=shard, engine=engine, requests=requests)
    if scale.shard is not None and index:
        raise typer.BadParameter("a part has no index; index the whole", param_hint="--index")
    used_threads = set_threads(threads)
    devices, dtype = scale.choose_devices(device, precision)
    where = devices[0]
    checkpoint = load_checkpoint(find_model(model))
    trained = load_explainer(checkpoint.path, explainer, operator)
    ranks = checkpoint.taxonomy.ranks
    if rank is not None:
        rank = ranks[checkpoint.taxonomy.rank_index(rank)]
    question = pose_question(
        checkpoint,
        rank=rank,
        targets=target,
        contrast=contrast,
        top_k=top_k,
        min_probability=min_probability,
    )
    per_base = check_windows(checkpoint, resolution, overlap, both_strands=both_strands, sharpen=sharpen)
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    if min_probability is None and any(question.thresholds):
        least = ", ".join(f"{own} {p:.2f}" for own, p in zip(ranks, question.thresholds, strict=True) if p)
        say(f"taxa are named down to the narrowest rank that is as probable as this: {least}", quiet)
    batch_tokens = batch_size * checkpoint.tokenizer.usual_tokens(checkpoint.window_bp)
    execution = {"device": where.type, "precision": str(dtype), "batch_size": batch_size}
    options = scale.choose_records(inputs, checkpoint, options, batch_tokens, quiet)
    counts = new_counts(checkpoint.alphabet)
    stopwatch = Stopwatch()
    settings = Settings(
        taxonomy=checkpoint.taxonomy,
        window_bp=checkpoint.window_bp,
        alphabet=checkpoint.alphabet,
        rank=rank,
        threshold=threshold,
        min_length=min_length,
        with_target=bool(question.goals or question.top_k),
        with_scores=scores,
        index=index,
        rows=Rows(scale.part),
        program=Program(__version__, " ".join(["wyr", *sys.argv[1:]]), f"model {checkpoint.name}"),
        warn=warn,
    )
    with ExitStack() as stack:
        # The first that is opened is the last to go: when all outputs are there.
        journal = scale.open_journal(
            stack, requests, checkpoint, trained, options, question, per_base, execution, quiet
        )
        results = stack.enter_context(open_results(requests, settings))
        report = stack.enter_context(outputs.open_output(json)) if json is not None else None
        views = Views(
            view_options,
            stack,
            checkpoint,
            trained,
            rank=rank,
            threshold=threshold,
            min_length=min_length,
            n_targets=question.size,
        )
        workers = scale.open_engine(
            stack, checkpoint, trained, question, per_base, devices, dtype, used_threads
        )
        if workers is None:
            checkpoint.explanandum.to(where, dtype)
            trained.explainer.to(where, dtype)
        explanations = run(
            open_windows(
                inputs,
                checkpoint.tokenizer,
                checkpoint.window_bp,
                counts,
                options,
                on_skip=results.skip,
            ),
            checkpoint.explanandum,
            trained.explainer,
            checkpoint.tokenizer,
            checkpoint.taxonomy,
            batch_tokens=batch_tokens,
            device=where,
            question=question,
            per_base=per_base,
            threshold=threshold,
            engine=workers,
            journal=journal,
            on_section=results.begin_section,
        )
        stack.enter_context(closing(explanations))  # its reading thread ends before the outputs do
        advance = None
        done = 0
        agreement = Agreement()
        for members in group(explanations, question.size):
            for explanation in members:
                results.write(explanation)
                views.write(explanation)
                if explanation.agreement is not None:
                    agreement.add(explanation.agreement)
            done += 1
            if advance is not None:
                advance()
            elif not views.is_drawing:
                advance = stack.enter_context(progress("windows explained", quiet=quiet))
                advance(done)
        results.finish()
        written = results.counts
        if written.windows != counts.windows or not counts.accounted():
            raise RuntimeError(f"{counts.as_dict()} went in, but {written.windows} windows came out")
        views.finish(inputs, counts)
        if report is not None:
            content = run_report(
                sys.argv,
                inputs,
                checkpoint,
                trained,
                counts,
                {
                    "windows": written.windows,
                    "chunks": written.chunks,
                    "bases_in_chunks": written.bases,
                    "windows_unsure": written.unsure,
                    **({"strand_agreement": agreement.as_dict()} if both_strands else {}),
                },
                stopwatch.seconds(),
                {
                    "device": ",".join(map(str, devices)),
                    "precision": str(dtype),
                    "threads": used_threads,
                    **({"engine": engine, "processes": workers.count} if workers is not None else {}),
                    **({"batches_from_before": journal.stored} if journal is not None else {}),
                    **({"shard": str(scale.shard)} if scale.shard is not None else {}),
                },
            )
            report.write(outputs.json_text(content))
    _summarise(counts, written, checkpoint.alphabet, quiet, is_shard=scale.shard is not None)
    if written.unsure:
        say(f"{written.unsure:,} windows are called nothing: no rank is probable enough", quiet)
    if both_strands:
        say(agreement.as_text(), quiet)
    lifted = results.lifted
    if lifted is not None:
        say(
            f"{lifted.chunks:,} chunks lifted to the reference, {lifted.without_place:,} clipped or "
            f"inserted, {lifted.unaligned:,} of unaligned reads",
            quiet,
        )


_WORDS = {"dna": ("reads", "bases"), "protein": ("proteins", "residues"), "text": ("texts", "characters")}


def _summarise(
    counts: RecordCounts, written: ResultCounts, alphabet: str, quiet: bool, *, is_shard: bool
) -> None:
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
    if counts.records == 0 and not is_shard:
        warn(f"there was no {nouns[:-1]} in the input")
    warn_of_reads(counts, nouns)
    if counts.left_out:
        left_out = ", ".join(f"{n:,} {which}" for which, n in counts.left_out.items())
        say(f"alignments that repeat a read were left out: {left_out}", quiet)
    if counts.renamed:
        say(f"{counts.renamed:,} {nouns} of a repeated name were renamed", quiet)
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
