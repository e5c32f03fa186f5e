"""``wyr evaluate``: can these masks be believed?"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wyrcli import __version__
from wyrcli.cli.console import progress, say, warn
from wyrcli.cli.options import (
    Device,
    ExplainerKind,
    ExplainerOption,
    Model,
    Operator,
    Precision,
    PrecisionOption,
    Quiet,
    Threads,
    set_threads,
)

if TYPE_CHECKING:
    from wyrcli.evaluation import Evaluation

__all__ = ["evaluate"]


def evaluate(
    table: Annotated[
        bool, typer.Option("--table", help="Print the paper's Table 1 (the only evaluation so far).")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Dataset directory; by default the reads that the model kept aside."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the dataset.")] = "test",
    model: Model = None,
    explainer: ExplainerOption = ExplainerKind.state,
    operator: Annotated[
        Operator,
        typer.Option("--operator", help="Removal operator to report first; the others stand beside it."),
    ] = Operator.gate,
    tsv: Annotated[
        str | None,
        typer.Option(
            "--tsv", help="TSV file: condition, rank, balanced_accuracy, tokens_kept of --operator."
        ),
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", help="JSON file with all numbers of all operators.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="BED file of planted intervals, from wyr simulate.")
    ] = None,
    decoys: Annotated[
        Path | None, typer.Option("--decoys", help="BED file of decoy intervals, from wyr simulate.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Use so many windows, drawn at random; 0 = all.")
    ] = 0,
    device: Device = "auto",
    precision: PrecisionOption = Precision.fp32,  # so that figures do not depend on the machine
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Windows per batch.")] = 64,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Print the paper's Table 1 for a model: is what the masks keep enough, is what they hide needed?

    Masks are those of the predicted classes.  Every Explainer of that kind beside the model is scored with
    the removal operator that it was trained for, so that gate and scale stand side by side.
    """
    from wyrcli import evaluation, outputs
    from wyrcli.alphabets import ALPHABETS
    from wyrcli.checkpoint import default_model, list_explainers, load_checkpoint, load_explainer
    from wyrcli.dataset import Dataset, read_windows
    from wyrcli.errors import CheckpointError
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.starting import check_alphabet

    if not table:
        raise typer.BadParameter("say what to evaluate: --table")
    if decoys is not None and truth is None:
        raise typer.BadParameter("--decoys needs --truth")
    inputs = [str(path) for path in (truth, decoys) if path is not None]
    outputs.check_outputs([tsv, json], inputs)
    set_threads(threads)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    checkpoint = load_checkpoint(model or default_model())
    ranks = checkpoint.taxonomy.ranks
    if data is not None:
        dataset = Dataset.open(data)
        check_alphabet(checkpoint.tokenizer, dataset)
        windows = dataset.split_for(split, checkpoint.taxonomy)
    else:
        heldout = checkpoint.path / "heldout.parquet"
        if not heldout.is_file():
            raise CheckpointError(
                f"{checkpoint.path}: the model kept no reads aside; name a dataset with --data"
            )
        windows = read_windows(heldout, checkpoint.taxonomy, ALPHABETS[checkpoint.alphabet].name)
    if limit:
        windows = windows.sample(limit)
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    known = evaluation.read_truth(truth, decoys) if truth is not None else None
    if known is not None:
        without = sum(windows.names[i] not in known.planted for i in range(len(windows)))
        if without:
            warn(f"{without:,} of {len(windows):,} windows have no interval in {truth}; is it theirs?")
    first = load_explainer(checkpoint.path, explainer, operator)
    others = [
        load_explainer(checkpoint.path, explainer, name.removeprefix(f"{explainer}-"))
        for name in list_explainers(checkpoint.path)
        if name.startswith(f"{explainer}-") and name != first.name
    ]
    checkpoint.explanandum.to(where, dtype)
    results: list[Evaluation] = []
    with ExitStack() as stack:
        table_file = stack.enter_context(outputs.open_output(tsv)) if tsv is not None else None
        json_file = stack.enter_context(outputs.open_output(json)) if json is not None else None
        advance = stack.enter_context(
            progress("windows evaluated", len(windows) * (1 + len(others)), quiet=quiet)
        )
        for trained in [first, *others]:
            results.append(
                evaluation.evaluate(
                    checkpoint.explanandum,
                    trained.explainer.to(where, dtype),
                    trained.operator,
                    checkpoint.tokenizer,
                    windows,
                    device=where,
                    batch_size=batch_size,
                    truth=known,
                    explainer_name=trained.name,
                    on_batch=advance,
                )
            )
        if table_file is not None:
            table_file.write(_tsv(results[0], ranks))
        if json_file is not None:
            content: dict[str, Any] = {
                "tag": "wyr evaluate",
                "schema_version": 1,
                "wyr_version": __version__,
                "model": checkpoint.name,
                "data": None if data is None else str(data),
                "windows": len(windows),
                "precision": str(dtype).removeprefix("torch."),
                "device": str(where),
                "ranks": list(ranks),
                "evaluations": [_plain(result) for result in results],
            }
            json_file.write(outputs.json_text(content))
    typer.echo(_table(results, ranks))


def _plain(result: Evaluation) -> dict[str, Any]:
    """The numbers for JSON, which has no NaN: a share of nothing is null."""
    found = result.localisation
    localisation = None
    if found is not None:
        localisation = {k: None if math.isnan(v) else v for k, v in found._asdict().items()}
    return asdict(result) | {"localisation": localisation}


def _tsv(result: Evaluation, ranks: tuple[str, ...]) -> str:
    rows = ["condition\trank\tbalanced_accuracy\ttokens_kept\n"]
    for condition, scores in result.accuracy.items():
        kept = result.tokens_kept[condition]
        rows += [f"{condition}\t{rank}\t{s:.4f}\t{kept:.4f}\n" for rank, s in zip(ranks, scores, strict=True)]
    return "".join(rows)


def _table(results: list[Evaluation], ranks: tuple[str, ...]) -> str:
    """Text with one row per condition and, for each operator, one column per rank and the share kept."""
    width = max(map(len, results[0].accuracy))
    blocks = [f"{rank:>13}" for rank in ranks] + [f"{'kept':>7}"]
    header = " " * width + " |".join("".join(blocks) for _ in results)
    block = len("".join(blocks))
    titles = " " * width + " |".join(f"{r.explainer} (operator {r.operator})".center(block) for r in results)
    lines = [
        f"Balanced accuracy by rank, and tokens kept ({results[0].n_windows:,} windows)",
        "",
        titles,
        header,
    ]
    for condition in results[0].accuracy:
        cells = []
        for result in results:
            scores = "".join(f"{score:>13.1%}" for score in result.accuracy[condition])
            cells.append(scores + f"{result.tokens_kept[condition]:>7.1%}")
        lines.append(f"{condition:<{width}}" + " |".join(cells))
    for result in results:
        if (found := result.localisation) is not None:
            lines += [
                "",
                f"{result.explainer}: token AUPRC {found.auprc:.3f} against the planted truth "
                f"(random: {found.prevalence:.3f})",
                f"  called important: {found.planted_called:.1%} of planted tokens, "
                + ("" if math.isnan(found.decoys_called) else f"{found.decoys_called:.1%} of decoys, ")
                + f"{found.background_called:.1%} of background",
            ]
    return "\n".join(lines)
