"""``wyr evaluate``: can these masks be believed?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wyrcli import __version__
from wyrcli.cli.classifier import (
    Calibrate,
    ErrorMixOption,
    ErrorRates,
    Lengths,
    Machine,
    Plan,
    TargetPrecision,
    Unknown,
    evaluate_classifier,
)
from wyrcli.cli.console import progress, say, show_tables, warn
from wyrcli.cli.options import (
    Device,
    ExplainerKind,
    ExplainerOption,
    Model,
    Operator,
    Precision,
    PrecisionOption,
    Quiet,
    Seed,
    Threads,
    set_threads,
)
from wyrcli.errors import InputError, WyrError, counted

if TYPE_CHECKING:
    from wyrcli.checkpoint import Checkpoint, TrainedExplainer
    from wyrcli.dataset import LabelledWindows
    from wyrcli.evaluation import Evaluation
    from wyrcli.examination import Subject
    from wyrcli.study import Study

__all__ = ["evaluate", "read_evaluated"]


def evaluate(
    table: Annotated[bool, typer.Option("--table", help="Print the paper's Table 1.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Also controls, the usual other methods on the same reads, and an audit of the masks.",
        ),
    ] = False,
    classifier: Annotated[
        bool,
        typer.Option(
            "--classifier",
            help="How good the classifier itself is: accuracy, confusions, calibration, abstention, short, "
            "long and erroneous reads. No Explainer takes part.",
        ),
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
    reads: Annotated[
        int | None,
        typer.Option(
            "--reads",
            "--limit",
            min=0,
            help="Use so many windows, drawn at random, by default all; with --classifier as many of each "
            "taxon of the narrowest rank, by default some 2,000. 0 = all.",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="BED file of planted intervals, from wyr simulate.")
    ] = None,
    decoys: Annotated[
        Path | None, typer.Option("--decoys", help="BED file of decoy intervals, from wyr simulate.")
    ] = None,
    peers: Annotated[
        str,
        typer.Option(
            "--peers", help="Other methods to compare with, by comma; 'all' that can run, or 'none'."
        ),
    ] = "all",
    peer_reads: Annotated[
        int, typer.Option("--peer-reads", min=2, help="Windows for that comparison, drawn at random.")
    ] = 50,
    lime_samples: Annotated[
        int, typer.Option("--lime-samples", min=10, help="Masked copies of each window that LIME looks at.")
    ] = 1000,
    removal: Annotated[
        str,
        typer.Option(
            "--removal",
            help="How that comparison takes tokens away: gate, scale, scale-embedding, mask-token, n, "
            "shuffle or cut.",
        ),
    ] = "gate",
    audit: Annotated[bool, typer.Option("--audit/--no-audit", help="Whether --full audits.")] = True,
    unknown: Unknown = None,
    calibrate: Calibrate = False,
    target_precision: TargetPrecision = 0.95,
    lengths: Lengths = "150,300,500,1000,1500,3000,6000",
    error_rates: ErrorRates = "0,1,2,5,10,15",
    error_mix: ErrorMixOption = "40,30,30",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit with an error if the Explainer of --operator fails a check of the audit."
        ),
    ] = False,
    tsv: Annotated[str | None, typer.Option("--tsv", help="All tables as TSV.")] = None,
    json: Annotated[str | None, typer.Option("--json", help="All numbers as JSON.")] = None,
    markdown: Annotated[str | None, typer.Option("--markdown", help="All tables as markdown.")] = None,
    latex: Annotated[str | None, typer.Option("--latex", help="All tables for LaTeX (booktabs).")] = None,
    html: Annotated[
        str | None, typer.Option("--html", help="A page with tables and figures; needs the extra 'plots'.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", help="Folder for what is done, from which a stopped --full goes on."),
    ] = None,
    device: Device = "auto",
    precision: PrecisionOption = Precision.fp32,  # so that figures do not depend on the machine
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Windows per batch.")] = 64,
    threads: Threads = 0,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Say whether the masks of a model can be believed.

    --table prints the paper's Table 1: is what the masks keep enough, is what they hide needed?  Masks are
    those of the predicted classes.  Every Explainer of that kind beside the model (with --full, of any kind)
    is scored with the removal operator that it was trained for, so that gate and scale stand side by side.

    --full adds masks that know nothing (controls), other methods on the same reads (LIME, SHAP, gradients,
    attention, occlusion: extra 'compare'), and an audit: does an Explainer leak the class, is it degenerate,
    is it stable?  With --html, a report with figures.

    --classifier asks the classifier alone.  Its probabilities are calibrated, and thresholds for "not sure"
    chosen, on the validation split of --data; --calibrate stores both in the model.
    """
    from wyrcli import outputs
    from wyrcli.alphabets import ALPHABETS
    from wyrcli.checkpoint import list_explainers, load_checkpoint, load_explainer
    from wyrcli.evaluation import count_passes, read_truth
    from wyrcli.evaluation import evaluate as score
    from wyrcli.examination import REMOVALS, Subject
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.installed import find_model
    from wyrcli.keeping import Shelf
    from wyrcli.peers import Options
    from wyrcli.result_tables import render
    from wyrcli.study import (
        Named,
        StudyOptions,
        conditions_table,
        count_parts,
        draw_group_weights,
        localisation_table,
        study,
    )

    if not (table or full or classifier):
        raise typer.BadParameter("say what to evaluate: --table, --full or --classifier")
    if classifier:
        if table or full or truth or decoys or strict or keep:
            raise typer.BadParameter(
                "it is about the classifier alone and goes by itself", param_hint="--classifier"
            )
        return evaluate_classifier(
            Plan(
                model,
                data,
                split,
                2000 if reads is None else reads,
                tuple(unknown or ()),
                calibrate,
                target_precision,
                lengths,
                error_rates,
                error_mix,
            ),
            Machine(device, precision, batch_size, threads, seed, quiet),
            {"tsv": tsv, "json": json, "markdown": markdown, "latex": latex, "html": html},
        )
    if unknown or calibrate:
        raise typer.BadParameter("--unknown and --calibrate are for --classifier")
    if strict and not (full and audit):
        raise typer.BadParameter("--strict is about the audit; it needs --full, and goes without --no-audit")
    if keep is not None and not full:
        raise typer.BadParameter("--keep is for --full")
    if decoys is not None and truth is None:
        raise typer.BadParameter("--decoys needs --truth")
    if removal not in REMOVALS:
        raise typer.BadParameter(
            f"'{removal}'; expected one of {', '.join(REMOVALS)}", param_hint="--removal"
        )
    options = StudyOptions(
        _choose_peers(peers) if full else [],
        Options(seed=seed, lime_samples=lime_samples, removal=removal),
        peer_reads,
        removal,
        audit,
        seed,
    )
    if html is not None and find_spec("matplotlib") is None:
        raise WyrError("a page with figures needs matplotlib: pip install 'wyrcli[plots]'")
    inputs = [str(path) for path in (truth, decoys) if path is not None]
    outputs.check_outputs([tsv, json, markdown, latex, html], inputs)
    set_threads(threads)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    checkpoint = load_checkpoint(find_model(model))
    ranks = checkpoint.taxonomy.ranks
    windows = read_evaluated(checkpoint, data, split)
    if reads:
        windows = windows.sample(reads, seed)
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    known = read_truth(truth, decoys) if truth is not None else None
    if known is not None:
        without = sum(windows.names[i] not in known.planted for i in range(len(windows)))
        if without:
            warn(f"{without:,} of {len(windows):,} windows have no interval in {truth}; is it theirs?")
    first = load_explainer(checkpoint.path, explainer, operator)
    others = [
        load_explainer(checkpoint.path, *name.split("-", 1))
        for name in list_explainers(checkpoint.path)
        if (full or name.startswith(f"{explainer}-")) and name != first.name
    ]
    trained = [first, *others]
    if full and audit and len(windows) < 20:
        raise InputError(f"{counted(len(windows), 'window')}; an audit needs 20 or more (--no-audit)")
    subject = Subject(checkpoint.explanandum.to(where, dtype), checkpoint.tokenizer, where, batch_size, seed)
    for own in trained:
        own.explainer.to(where, dtype)
    if removal not in subject.removals:
        raise WyrError(f"this model has no removal '{removal}'; it has {', '.join(subject.removals)}")
    shelf = Shelf(keep, "" if keep is None else _digest(checkpoint, trained, windows, subject, str(dtype)))
    with ExitStack() as stack:
        files = {
            form: stack.enter_context(outputs.open_output(path))
            for form, path in {
                "tsv": tsv,
                "json": json,
                "markdown": markdown,
                "latex": latex,
                "html": html,
            }.items()
            if path is not None
        }
        total = len(windows) * count_passes(controls=full, oracle=full) * len(trained)
        with progress("windows evaluated", total, quiet=quiet) as advance:
            results = [
                score(
                    subject,
                    own.explainer,
                    own.operator,
                    windows,
                    truth=known,
                    controls=full,
                    oracle=full,
                    explainer_name=own.name,
                    on_batch=advance,
                )
                for own in trained
            ]
        tables = {"conditions": conditions_table(results, ranks, draw_group_weights(windows, seed))}
        if known is not None:
            tables["localisation"] = localisation_table(results)
        found = None
        if full:
            named = [Named(own.name, own.operator, own.explainer, _seconds(own)) for own in trained]
            with progress("parts of the study", count_parts(named, options), quiet=quiet) as advance:
                found = study(
                    subject,
                    named,
                    windows,
                    results,
                    checkpoint.taxonomy,
                    options,
                    truth=known,
                    shelf=shelf,
                    on_part=lambda part: advance(1, part),
                )
            tables |= found.tables
        if "html" in files:
            from wyrcli.figures import mask_statistics
            from wyrcli.pages import page_text
            from wyrcli.study_page import build_sections

            about = _describe(checkpoint, len(windows), data, str(dtype).removeprefix("torch."), str(where))
            statistics = {result.explainer: mask_statistics(result.examined) for result in results}
            unit = ALPHABETS[checkpoint.alphabet].unit
            sections = build_sections(about, tables, results, statistics, found, known, unit)
            files["html"].write(page_text(f"Masks of {checkpoint.name}", sections))
        for form in files.keys() - {"json", "html"}:
            files[form].write(render(list(tables.values()), form))
        if "json" in files:
            content: dict[str, Any] = {
                "tag": "wyr evaluate",
                "schema_version": 2,
                "wyr_version": __version__,
                "model": checkpoint.name,
                "data": None if data is None else str(data),
                "windows": len(windows),
                "precision": str(dtype).removeprefix("torch."),
                "device": str(where),
                "ranks": list(ranks),
                "evaluations": [_plain(result) for result in results],
                "tables": [own.as_json() for own in tables.values()],
                "audits": _audits(found),
            }
            files["json"].write(outputs.json_text(content))
    if "-" not in (tsv, json, markdown, latex, html):
        show_tables(list(tables.values()))
    checks = [] if found is None else found.audits.get(first.name, [])
    failed = [check.name for check in checks if check.verdict == "fail"]
    if strict and failed:
        raise WyrError(
            f"{first.name} fails {counted(len(failed), 'check')} of the audit: {', '.join(failed)}"
        )


def _seconds(trained: TrainedExplainer) -> float:
    """What its training took, that of the Explainer it began with included; NaN where it is not told."""
    total, record = 0.0, trained.training or {"seconds": math.nan}
    while record:
        total += record.get("seconds", math.nan)
        record = record.get("continued_from", {})
    return total


def _digest(
    checkpoint: Checkpoint,
    trained: Sequence[TrainedExplainer],
    windows: LabelledWindows,
    subject: Subject,
    dtype: str,
) -> str:
    """Of all that the parts of a study rest on, the machine's part in their seconds included."""
    import torch

    from wyrcli.keeping import digest

    folders = [checkpoint.path, *(checkpoint.path / "explainers" / own.name for own in trained)]
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    settings = (subject.device, dtype, subject.batch_size, subject.seed, torch.get_num_threads())
    n = range(len(windows))
    return digest(
        __version__,
        repr(settings),
        [str(path.relative_to(checkpoint.path)) for path in files],
        *files,
        (windows.sequences[i] for i in n),
        (windows.groups[i] for i in n),
        (repr(row) for row in windows.labels.tolist()),
    )


def _describe(
    checkpoint: Checkpoint, n_windows: int, data: Path | None, precision: str, device: str
) -> list[str]:
    """What was evaluated, for the head of the page."""
    source = f"the dataset {data}" if data is not None else "the reads that the model kept aside"
    settings = f"wyr {__version__}, {precision} on {device}"
    lines = [f"Model {checkpoint.name}, {n_windows:,} windows of {source}; {settings}."]
    if checkpoint.notice:
        lines.append(checkpoint.notice)
    return lines


def _audits(found: Study | None) -> dict[str, list[dict[str, Any]]]:
    """For JSON, which has no NaN."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(own) for key, own in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    audits = {} if found is None else found.audits
    return {name: [plain(asdict(check)) for check in checks] for name, checks in audits.items()}


def _choose_peers(names: str) -> list[str]:
    """Peers by name; of all, those whose packages are there."""
    from wyrcli.peers import PEERS

    if names in ("", "none"):
        return []
    if names == "all":
        return [name for name, peer in PEERS.items() if not peer.needs or find_spec(peer.needs)]
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in PEERS:
            raise typer.BadParameter(f"'{name}'; expected some of {', '.join(PEERS)}", param_hint="--peers")
        needed = PEERS[name].needs
        if needed and find_spec(needed) is None:
            raise WyrError(f"{name} needs {needed}: pip install 'wyrcli[compare]'")
    return chosen


def read_evaluated(checkpoint: Checkpoint, data: Path | None, split: str) -> LabelledWindows:
    """The windows to evaluate on."""
    from wyrcli.alphabets import ALPHABETS
    from wyrcli.dataset import Dataset, read_windows
    from wyrcli.errors import CheckpointError
    from wyrcli.starting import check_alphabet

    if data is not None:
        dataset = Dataset.open(data)
        check_alphabet(checkpoint.tokenizer, dataset)
        return dataset.split_for(split, checkpoint.taxonomy)
    heldout = checkpoint.path / "heldout.parquet"
    if not heldout.is_file():
        raise CheckpointError(f"{checkpoint.path}: the model kept no reads aside; name a dataset with --data")
    return read_windows(heldout, checkpoint.taxonomy, ALPHABETS[checkpoint.alphabet].name)


def _plain(result: Evaluation) -> dict[str, Any]:
    """The numbers for JSON, which has no NaN: a share of nothing is null."""
    found = result.localisation
    localisation = None
    if found is not None:
        localisation = {k: None if math.isnan(v) else v for k, v in found._asdict().items()}
    return {
        "explainer": result.explainer,
        "operator": result.operator,
        "n_windows": result.n_windows,
        "accuracy": result.accuracy,
        "tokens_kept": result.tokens_kept,
        "localisation": localisation,
    }
