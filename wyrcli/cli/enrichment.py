"""``wyr enrichment``: do the important chunks lie in known features of the genome?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wyrcli import __version__
from wyrcli.cli.console import progress, say, show_tables, warn
from wyrcli.cli.evaluate import read_evaluated
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
    Seed,
    Threads,
    set_threads,
)
from wyrcli.errors import InputError, WyrError, counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wyrcli.checkpoint import Checkpoint
    from wyrcli.examination import EvaluatedWindows
    from wyrcli.result_tables import Cell
    from wyrcli.windows import RecordCounts

__all__ = ["enrichment"]

_BLOCK = 512  # windows that are held at once


def enrichment(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="FASTA, FASTQ, BAM or CRAM; each record is a genome of its own, under the taxon that was "
            "predicted.  Without any: labelled windows, of --data or those that the model kept aside.",
            metavar="READS...",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            "-f",
            help="GenBank, GFF3 or BED (type in column 4), by names of records; may be given again.",
            metavar="FILE",
        ),
    ] = None,
    types: Annotated[
        str, typer.Option("--types", help="Types of features to look at, by comma; by default all.")
    ] = "",
    computed: Annotated[
        bool,
        typer.Option(
            "--computed/--no-computed",
            help="Whether to look at what a sequence shows by itself: open reading frames, rRNA primer "
            "sites, low complexity, repeats, GC.",
        ),
    ] = True,
    genetic_code: Annotated[
        int, typer.Option("--genetic-code", help="NCBI's number of the code of open reading frames.")
    ] = 11,
    data: Annotated[Path | None, typer.Option("--data", help="Dataset directory.")] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the dataset.")] = "test",
    windows: Annotated[
        int,
        typer.Option(
            "--windows",
            min=0,
            help="Of labelled windows use so many, of each class of the last rank equally many; 0 = all.",
        ),
    ] = 2000,
    by: Annotated[
        str | None, typer.Option("--by", help="Rank whose taxa are told apart; by default the first.")
    ] = None,
    rank: Annotated[
        str | None, typer.Option("--rank", help="Masks of this rank alone; by default all together.")
    ] = None,
    shifts: Annotated[
        int, typer.Option("--shifts", min=1, help="Random rotations of each window's mask.")
    ] = 1000,
    model: Model = None,
    explainer: ExplainerOption = ExplainerKind.state,
    operator: OperatorOption = Operator.gate,
    tsv: Annotated[str | None, typer.Option("--tsv", help="The table as TSV.")] = None,
    json: Annotated[str | None, typer.Option("--json", help="All numbers as JSON.")] = None,
    markdown: Annotated[str | None, typer.Option("--markdown", help="The table as markdown.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Folds with intervals as .svg or .png; needs the extra 'plots'."),
    ] = None,
    device: Device = "auto",
    precision: PrecisionOption = Precision.fp32,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Windows per batch.")] = 64,
    threads: Threads = 0,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Test whether the important chunks lie in known features of the genome more often than by chance.

    The rounded masks of the predicted classes are compared with themselves after rotation within each window,
    feature by feature, for each taxon of a rank and for all windows: fold, 95 % interval, z, p and q.

    Example:  wyr enrichment --data dataset -f genomes.gbff --types CDS,rRNA,tRNA
    """
    import numpy as np

    from wyrcli import outputs
    from wyrcli.annotations import describe_unknown, read_annotations
    from wyrcli.checkpoint import default_model, load_checkpoint, load_explainer
    from wyrcli.enrichment import Tally, as_json, by_taxon, enrichment_table, list_tracks, tally_windows
    from wyrcli.examination import Subject, examine
    from wyrcli.features import find_features
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.result_tables import Cell, render

    files = [*(inputs or []), *(features or [])]
    if inputs and data is not None:
        raise typer.BadParameter("either sequences or --data")
    if not computed and not features:
        raise typer.BadParameter("--no-computed leaves nothing to look at without --features")
    if types and not features:
        raise typer.BadParameter("--types is about --features")
    if files.count("-") > 1:
        raise InputError("standard input can be read only once", path="-")
    outputs.check_inputs(files)
    outputs.check_outputs([tsv, json, markdown, None if plot is None else str(plot)], files)
    save_figure = None if plot is None else _prepare_plot(plot)
    if computed:
        find_features("A", genetic_code)  # an unknown code ends here
    chosen = [kind.strip() for kind in types.split(",") if kind.strip()]
    annotations = read_annotations(features, chosen) if features else None
    set_threads(threads)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    checkpoint = load_checkpoint(model or default_model())
    if checkpoint.alphabet != "dna":
        raise WyrError(f"this model reads {checkpoint.alphabet}s; features are those of DNA")
    trained = load_explainer(checkpoint.path, explainer, operator)
    taxonomy = checkpoint.taxonomy
    by_rank = 0 if by is None else taxonomy.rank_index(by)
    mask_rank = None if rank is None else taxonomy.rank_index(rank)
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    subject = Subject(checkpoint.explanandum.to(where, dtype), checkpoint.tokenizer, where, batch_size, seed)
    trained.explainer.to(where, dtype)

    def warn_of_unknown(records: Sequence[str]) -> None:
        if annotations is not None and (problem := describe_unknown(records, annotations)):
            warn(problem)

    tally = Tally(list_tracks(annotations, computed=computed), shifts, seed)
    names: dict[str, None] = {}
    with ExitStack() as stack:
        handles = {
            form: stack.enter_context(outputs.open_output(path))
            for form, path in {"tsv": tsv, "json": json, "markdown": markdown}.items()
            if path is not None
        }
        blocks: Iterator[EvaluatedWindows]
        total = None
        if inputs:
            blocks = _read_sequences(inputs, checkpoint)
        else:
            labelled = read_evaluated(checkpoint, data, split)
            labelled = labelled.sample_evenly(windows, seed) if windows else labelled
            total = len(labelled)
            rows = range(0, total, _BLOCK)
            blocks = (labelled.select(np.arange(at, min(at + _BLOCK, total))) for at in rows)
            warn_of_unknown(list(labelled.names) if annotations is not None else [])
        advance = stack.enter_context(progress("windows", total, quiet=quiet))
        for block in blocks:
            examined = examine(subject, trained.explainer, block, with_answers=False, on_batch=advance)
            classes = examined.predicted if inputs else examined.labels
            taxa = [taxonomy.taxa[by_rank][number] for number in classes[:, by_rank].tolist()]
            tally_windows(tally, examined, taxa, annotations, mask_rank, genetic_code)
            if inputs and annotations is not None:
                names |= dict.fromkeys(block.names)
        if len(tally) == 0:
            raise InputError("there is no window to look at")
        if names:
            warn_of_unknown(list(names))
        if annotations is not None and annotations.unplaced:
            warn(f"{counted(annotations.unplaced, 'feature')} without a usable location left out")
        results = tally.results()
        table = enrichment_table(results, taxonomy.ranks[by_rank], shifts)
        for form in handles.keys() - {"json"}:
            handles[form].write(render([table], form))
        if "json" in handles:
            content = {
                "tag": "wyr enrichment",
                "schema_version": 1,
                "wyr_version": __version__,
                "model": checkpoint.name,
                "explainer": trained.name,
                "data": inputs or (None if data is None else str(data)),
                "features": features or [],
                "windows": len(tally),
                "shifts": shifts,
                "seed": seed,
                "genetic_code": genetic_code,
                "results": as_json(results),
            }
            handles["json"].write(outputs.json_text(content))
    if save_figure is not None:
        found = {own.track for own in results if own.present}
        folds = {
            title: {own.track.name: Cell(own.shifted, *own.shifted_interval) for own in part}
            for title, part in by_taxon([own for own in results if own.track in found])
        }
        save_figure(folds)
    if "-" not in (tsv, json, markdown):
        show_tables([table], width=150)
    say(f"{counted(len(tally), 'window')}, {counted(len(tally.tracks), 'feature')}", quiet)


@dataclass(frozen=True)
class _Sequences:
    """Windows of records that nobody labelled: ``labels`` (N, R) are all 0, each record is its own group."""

    labels: NDArray[np.int64]
    sequences: Sequence[str]
    names: Sequence[str]
    starts: NDArray[np.int64]
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.sequences)


def _read_sequences(inputs: Sequence[str], checkpoint: Checkpoint) -> Iterator[EvaluatedWindows]:
    """Windows block by block, and a word on records that have none."""
    import numpy as np

    from wyrcli.inputs import new_counts, open_windows

    counts: RecordCounts = new_counts(checkpoint.alphabet)
    windows = open_windows(inputs, checkpoint.tokenizer, checkpoint.window_bp, counts)
    while block := list(islice(windows, _BLOCK)):
        yield _Sequences(
            np.zeros((len(block), len(checkpoint.taxonomy.ranks)), np.int64),
            [window.sequence for window in block],
            [window.name for window in block],
            np.array([window.start for window in block], np.int64),
            [window.name for window in block],
        )
    lost = sum(counts.skipped.values())
    if lost:
        warn(f"{lost:,} of {counted(counts.records, 'record')} have no window to explain")


def _prepare_plot(path: Path) -> Callable[[Mapping[str, Mapping[str, Cell]]], None]:
    """What draws into ``path`` later; all that can be wrong with it is said now."""
    from importlib.util import find_spec

    if path.suffix.lower() not in (".svg", ".png"):
        raise typer.BadParameter(f"'{path}'; expected a name that ends in .svg or .png", param_hint="--plot")
    if find_spec("matplotlib") is None:
        raise WyrError("a picture needs matplotlib: pip install 'wyrcli[plots]'")
    if not path.absolute().parent.is_dir():
        raise WyrError(f"{path}: there is no such directory")

    def draw(folds: Mapping[str, Mapping[str, Cell]]) -> None:
        from wyrcli.figures import draw_folds, save_figure

        save_figure(draw_folds(folds), path)

    return draw
