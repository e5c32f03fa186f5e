"""``wyr evaluate --classifier``: how good is the classifier itself?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from wyrcli import __version__
from wyrcli.cli.console import progress, say, show_tables, warn
from wyrcli.cli.options import Precision, set_threads
from wyrcli.errors import CheckpointError, InputError, WyrError

if TYPE_CHECKING:
    from wyrcli.calibration import Fit, Threshold
    from wyrcli.checkpoint import Checkpoint
    from wyrcli.classification import Answers, Assessment, Calibration, Degradation
    from wyrcli.dataset import LabelledWindows
    from wyrcli.examination import Subject
    from wyrcli.outputs import TextOutput
    from wyrcli.result_tables import Table
    from wyrcli.taxonomy import Taxonomy

__all__ = [
    "Calibrate",
    "ErrorMixOption",
    "ErrorRates",
    "Lengths",
    "Machine",
    "Plan",
    "TargetPrecision",
    "Unknown",
    "evaluate_classifier",
]

_PANEL = "With --classifier"

Unknown = Annotated[
    list[Path] | None,
    typer.Option(
        "--unknown",
        metavar="DIR",
        help="Another dataset, of taxa that the model need not know; the same --split of it. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Store temperatures and thresholds, from the validation split, in the model.",
        rich_help_panel=_PANEL,
    ),
]
TargetPrecision = Annotated[
    float,
    typer.Option(
        "--target-precision",
        min=0.0,
        max=1.0,
        help="Share of answers that shall be right: decides from which probability on to answer.",
        rich_help_panel=_PANEL,
    ),
]
Lengths = Annotated[
    str,
    typer.Option(
        "--lengths",
        help="Lengths of reads to try, by comma, or none; longer than a window: windows side by side.",
        rich_help_panel=_PANEL,
    ),
]
ErrorRates = Annotated[
    str,
    typer.Option(
        "--error-rates", help="Sequencing errors to try, % of bases, or none.", rich_help_panel=_PANEL
    ),
]
ErrorMixOption = Annotated[
    str,
    typer.Option(
        "--error-mix",
        help="Proportions of substitutions, insertions and deletions among the errors.",
        rich_help_panel=_PANEL,
    ),
]


class Plan(NamedTuple):
    """The options that say what to do."""

    model: Path | None
    data: Path | None
    split: str
    reads: int
    unknown: tuple[Path, ...]
    calibrate: bool
    target_precision: float
    lengths: str
    error_rates: str
    error_mix: str


class Machine(NamedTuple):
    """The options that say how."""

    device: str
    precision: Precision
    batch_size: int
    threads: int
    seed: int
    quiet: bool


class _Data(NamedTuple):
    """``windows``: drawn from ``whole``, in the model's classes, -1 where it has none."""

    windows: LabelledWindows
    whole: LabelledWindows
    validation: LabelledWindows | None


def evaluate_classifier(plan: Plan, machine: Machine, files: Mapping[str, str | None]) -> None:
    """Everything that ``--classifier`` does.  ``files``: by form, where to write."""
    from wyrcli import outputs
    from wyrcli.alphabets import ALPHABETS
    from wyrcli.checkpoint import load_checkpoint, store_calibration
    from wyrcli.classification import Degradation, assess
    from wyrcli.classification_tables import build_tables, full_tables
    from wyrcli.examination import Subject
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.installed import find_model

    degradation = _parse_degradation(plan)
    if plan.calibrate and plan.data is None:
        raise typer.BadParameter("needs --data with a validation split", param_hint="--calibrate")
    if files["html"] is not None and find_spec("matplotlib") is None:
        raise WyrError("a page with figures needs matplotlib: pip install 'wyrcli[plots]'")
    outputs.check_outputs(list(files.values()), [])
    set_threads(machine.threads)
    where = choose_device(machine.device)
    dtype = choose_precision(machine.precision, where)
    checkpoint = load_checkpoint(find_model(plan.model))
    if checkpoint.notice:
        say(checkpoint.notice, machine.quiet)
    data = _read(checkpoint, plan, machine.seed)
    others = {
        path.name or str(path): _read_dataset(checkpoint, path, plan, machine.seed).windows
        for path in plan.unknown
    }
    if checkpoint.alphabet != "dna":
        degradation = Degradation()  # what a short or an erroneous text is, nobody knows
    model = checkpoint.explanandum.to(where, dtype)
    subject = Subject(model, checkpoint.tokenizer, where, machine.batch_size, machine.seed)
    with ExitStack() as stack:
        handles = {
            form: stack.enter_context(outputs.open_output(path))
            for form, path in files.items()
            if path is not None
        }
        with progress("windows classified", quiet=machine.quiet) as advance:
            calibration, validation = _calibrate(checkpoint, plan, subject, data.validation, advance)
            result = assess(
                subject,
                data.windows,
                calibration,
                whole=data.whole,
                others=others,
                degradation=degradation,
                window_bp=checkpoint.window_bp,
                validation=validation,
                unit=ALPHABETS[checkpoint.alphabet].unit,
                name="kept aside" if plan.data is None else plan.split,
                on_batch=advance,
            )
        tables = build_tables(result, checkpoint.taxonomy, machine.seed)
        every = tables | full_tables(result, checkpoint.taxonomy)
        execution = {"precision": str(dtype).removeprefix("torch."), "device": str(where)}
        _write(handles, tables, every, checkpoint, plan, machine, result, execution)
    if plan.calibrate:
        ranks = checkpoint.taxonomy.ranks
        store_calibration(
            checkpoint.path,
            dict(zip(ranks, calibration.temperatures, strict=True)),
            dict(zip(ranks, calibration.thresholds, strict=True)),
        )
        say(f"temperatures and thresholds stored in {checkpoint.path / 'checkpoint.json'}", machine.quiet)
    if "-" not in files.values():
        show_tables(list(tables.values()))


def _parse_degradation(plan: Plan) -> Degradation:
    from wyrcli.classification import Degradation
    from wyrcli.degradation import parse_mix

    lengths = _numbers(plan.lengths, "--lengths")
    rates = _numbers(plan.error_rates, "--error-rates")
    if any(n < 1 or n != int(n) for n in lengths):
        raise typer.BadParameter("expected whole numbers of 1 or more", param_hint="--lengths")
    if any(not 0 <= n <= 100 for n in rates):
        raise typer.BadParameter("expected percentages from 0 to 100", param_hint="--error-rates")
    try:
        mix = parse_mix(plan.error_mix)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--error-mix") from None
    return Degradation(tuple(map(int, lengths)), tuple(n / 100 for n in rates), mix)


def _numbers(text: str, option: str) -> list[float]:
    """Numbers by comma; none of 'none' and of nothing."""
    if text.strip() in ("", "none"):
        return []
    try:
        return sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise typer.BadParameter(f"'{text}'; expected numbers by comma, or none", param_hint=option) from None


# ---------------------------------------------------------------- reading


def _read(checkpoint: Checkpoint, plan: Plan, seed: int) -> _Data:
    """The windows to judge by: of --data, or those that the model kept aside."""
    from wyrcli.alphabets import ALPHABETS
    from wyrcli.dataset import read_windows

    if plan.data is not None:
        return _read_dataset(checkpoint, plan.data, plan, seed)
    heldout = checkpoint.path / "heldout.parquet"
    if not heldout.is_file():
        raise CheckpointError(f"{checkpoint.path}: the model kept no reads aside; name a dataset with --data")
    whole = read_windows(heldout, checkpoint.taxonomy, ALPHABETS[checkpoint.alphabet].name)
    return _Data(_sample(whole, plan.reads, seed), whole, None)


def _read_dataset(checkpoint: Checkpoint, path: Path, plan: Plan, seed: int) -> _Data:
    from wyrcli.dataset import Dataset
    from wyrcli.starting import check_alphabet

    dataset = Dataset.open(path)
    check_alphabet(checkpoint.tokenizer, dataset)
    maps = dataset.class_maps(checkpoint.taxonomy)
    if not any((numbers >= 0).any() for numbers in maps):
        raise InputError("the model knows none of its taxa, at no rank", path=str(path))
    whole = dataset.split(plan.split)
    if len(whole) == 0:
        raise InputError(f"its split '{plan.split}' is empty", path=str(path))
    # Drawn by the dataset's own taxa: those that the model does not know are many, not one.
    windows = _sample(whole, plan.reads, seed).relabelled(maps)
    validation = _sample(dataset.split("validation"), plan.reads, seed).relabelled(maps)
    return _Data(windows, whole, validation)


def _sample(windows: LabelledWindows, n: int, seed: int) -> LabelledWindows:
    return windows.sample_evenly(n, seed) if n and len(windows) else windows


def _calibrate(
    checkpoint: Checkpoint,
    plan: Plan,
    subject: Subject,
    validation: LabelledWindows | None,
    on_batch: Callable[[int], None],
) -> tuple[Calibration, Answers | None]:
    """From the validation split, unless the checkpoint has one and no new one is asked for."""
    from wyrcli.classification import Calibration, calibrate

    if plan.calibrate or not (checkpoint.temperature or checkpoint.abstain):
        if validation is not None and len(validation) and (validation.labels >= 0).any():
            if plan.split == "validation":
                warn("temperatures and thresholds are judged on the windows that they were chosen on")
            return calibrate(subject, validation, plan.target_precision, on_batch)
        if plan.calibrate:
            raise InputError(
                "its validation split has no window of a known taxon; --calibrate needs some",
                path=str(plan.data),
            )
    ranks = checkpoint.taxonomy.ranks
    stored = Calibration(
        tuple(checkpoint.temperature.get(rank, 1.0) for rank in ranks),
        tuple(checkpoint.abstain.get(rank, 0.0) for rank in ranks),
        "stored in the model" if checkpoint.temperature or checkpoint.abstain else "none",
    )
    return stored, None


# ---------------------------------------------------------------- writing


def _write(
    handles: Mapping[str, TextOutput],
    tables: Mapping[str, Table],
    every: Mapping[str, Table],
    checkpoint: Checkpoint,
    plan: Plan,
    machine: Machine,
    result: Assessment,
    execution: Mapping[str, str],
) -> None:
    """All outputs; ``every`` table goes to programs, ``tables`` to people."""
    from wyrcli.alphabets import ALPHABETS
    from wyrcli.outputs import json_text
    from wyrcli.result_tables import render

    for form in handles.keys() - {"html", "json"}:
        chosen = every if form == "tsv" else tables
        handles[form].write(render(list(chosen.values()), form))
    if "html" in handles:
        from wyrcli.classification_page import build_sections
        from wyrcli.pages import page_text

        source = (
            f"the dataset {plan.data}" if plan.data is not None else "the reads that the model kept aside"
        )
        about = [
            f"The classifier of model {checkpoint.name} on {len(result.tested):,} windows of {source}; "
            f"wyr {__version__}, {execution['precision']} on {execution['device']}."
        ]
        about += [checkpoint.notice] if checkpoint.notice else []
        unit = ALPHABETS[checkpoint.alphabet].unit
        sections = build_sections(about, tables, result, checkpoint.taxonomy, unit, machine.seed)
        handles["html"].write(page_text(f"The classifier of {checkpoint.name}", sections))
    if "json" in handles:
        handles["json"].write(json_text(_as_json(every, checkpoint, plan, machine, result) | dict(execution)))


def _as_json(
    tables: Mapping[str, Table],
    checkpoint: Checkpoint,
    plan: Plan,
    machine: Machine,
    result: Assessment,
) -> dict[str, Any]:
    from wyrcli.classification import confusion
    from wyrcli.classification_tables import confused_rank

    taxonomy = checkpoint.taxonomy
    rank = confused_rank(taxonomy)
    calibration = result.calibration
    return {
        "tag": "wyr evaluate --classifier",
        "schema_version": 1,
        "wyr_version": __version__,
        "model": checkpoint.name,
        "data": None if plan.data is None else str(plan.data),
        "unknown": [str(path) for path in plan.unknown],
        "split": plan.split,
        "windows": len(result.tested),
        "seed": machine.seed,
        "ranks": list(taxonomy.ranks),
        "calibration": {
            "source": calibration.source,
            "target_precision": plan.target_precision if calibration.chosen else None,
            "temperature": dict(zip(taxonomy.ranks, calibration.temperatures, strict=True)),
            "abstain": dict(zip(taxonomy.ranks, calibration.thresholds, strict=True)),
            "fits": _by_rank(taxonomy, calibration.fits),
            "chosen": _by_rank(taxonomy, calibration.chosen),
            "windows": calibration.windows,
            "genomes": calibration.groups,
        },
        "error_mix": plan.error_mix,
        "tables": [own.as_json() for own in tables.values()],
        "confusion": {
            "rank": taxonomy.ranks[rank],
            "taxa": list(taxonomy.taxa[rank]),
            "matrix": confusion(result.tested, rank, taxonomy.sizes[rank]).tolist(),
        },
    }


def _by_rank(taxonomy: Taxonomy, found: Sequence[Fit | Threshold]) -> dict[str, dict[str, Any]]:
    """For JSON, which has no NaN."""
    return {
        rank: {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in own._asdict().items()
        }
        for rank, own in zip(taxonomy.ranks, found, strict=False)
    }
