"""``wyr explain-classes``: what the classifier reads as a class, from single reads to keywords and motifs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from wyrcli import __version__
from wyrcli.cli.console import Advance, progress, say, show_tables, warn
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
from wyrcli.errors import CheckpointError, WyrError, counted

if TYPE_CHECKING:
    from wyrcli.class_explanation import Findings
    from wyrcli.class_quality import Quality
    from wyrcli.class_runs import Retraining
    from wyrcli.class_scores import PassOptions
    from wyrcli.dataset import LabelledWindows
    from wyrcli.engine import Progress
    from wyrcli.examination import Subject
    from wyrcli.keywords import Asked, Criteria, Scores
    from wyrcli.model.explainer import Explainer
    from wyrcli.taxonomy import Taxonomy
    from wyrcli.terms import Terms

__all__ = ["explain_classes"]

_OTHERS = ("gradients", "svm")
_LEAST_CHECKED = 8  # reads: with fewer, no p of the causal check can be small
_WHAT, _KEYWORDS, _STABILITY, _MOTIFS = "What is explained", "Keywords", "Stability", "Motifs"


class Retrain(StrEnum):
    """What each run of the stability test trains anew."""

    none = "none"
    explainer = "explainer"
    full = "full"


class ScoreSource(StrEnum):
    """Where the scores of terms come from."""

    mask = "mask"
    gradients = "gradients"


def explain_classes(
    rank: Annotated[
        str | None,
        typer.Option("--rank", rich_help_panel=_WHAT, help="Classes of this rank; by default of every rank."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            rich_help_panel=_WHAT,
            metavar="NAME",
            help="This class, or RANK:NAME; may be given again.  By default all with enough reads.",
        ),
    ] = None,
    contrast: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--contrast",
            rich_help_panel=_WHAT,
            metavar="A B",
            help="What speaks for A against B, and for B against A, two classes of one rank.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            rich_help_panel=_WHAT,
            help="Dataset directory; default: what the model kept aside (the demo did).",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", rich_help_panel=_WHAT, help="Split of the dataset.")
    ] = "test",
    windows: Annotated[
        int,
        typer.Option(
            "--windows",
            rich_help_panel=_WHAT,
            min=0,
            help="Use so many, of each class of the last rank equally many; 0 = all.",
        ),
    ] = 0,
    scores: Annotated[
        ScoreSource,
        typer.Option(
            "--scores",
            rich_help_panel=_KEYWORDS,
            help="The Explainer's masks, or integrated gradients (many times slower).",
        ),
    ] = ScoreSource.mask,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            rich_help_panel=_KEYWORDS,
            min=1,
            help="Letters of a k-mer; default 6, of proteins 3.  Of texts there are words instead.",
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            "--top", rich_help_panel=_KEYWORDS, min=1, help="Terms of a read that count: the highest scored."
        ),
    ] = 20,
    fdr: Annotated[
        float,
        typer.Option(
            "--fdr", rich_help_panel=_KEYWORDS, min=0, max=1, help="Largest adjusted p of a keyword."
        ),
    ] = 0.05,
    min_reads: Annotated[
        int,
        typer.Option(
            "--min-reads", rich_help_panel=_KEYWORDS, min=2, help="Classes with fewer reads are left out."
        ),
    ] = 10,
    compare: Annotated[
        str,
        typer.Option(
            "--compare",
            rich_help_panel=_KEYWORDS,
            help="Other ways to find keywords, in the table of quality, by comma: gradients, svm (TF-IDF and "
            "a linear SVM; needs the extra 'classes').",
        ),
    ] = "",
    runs: Annotated[
        int, typer.Option("--runs", rich_help_panel=_STABILITY, min=1, help="Runs of the stability test.")
    ] = 20,
    selection: Annotated[
        float,
        typer.Option(
            "--selection",
            rich_help_panel=_STABILITY,
            min=0,
            max=1,
            help="A keyword is selected by this share of the runs, or it is listed as unstable.",
        ),
    ] = 0.6,
    motifs: Annotated[
        bool,
        typer.Option(
            "--motifs/--no-motifs",
            rich_help_panel=_MOTIFS,
            help="Of DNA: grow the keywords of each class to motifs.",
        ),
    ] = True,
    checked: Annotated[
        int,
        typer.Option(
            "--check",
            rich_help_panel=_MOTIFS,
            min=0,
            metavar="READS",
            help="Plant each motif into so many neutral reads, and take it out of as many of its class, and "
            "ask the classifier; 0 = do not.",
        ),
    ] = 25,
    modisco: Annotated[
        bool,
        typer.Option(
            "--modisco",
            rich_help_panel=_MOTIFS,
            help="What TF-MoDISco makes of the same masks, as modisco.meme; minutes per class.  Needs the "
            "extra 'modisco'.",
        ),
    ] = False,
    retrain: Annotated[
        Retrain,
        typer.Option(
            "--retrain",
            rich_help_panel=_STABILITY,
            help="none: runs draw reads again (bootstrap), which is cheap.  explainer: each run splits "
            "training and validation windows anew and trains an Explainer; full: the classifier too, as "
            "SACX does.",
        ),
    ] = Retrain.none,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            "--also",
            rich_help_panel=_STABILITY,
            metavar="MODEL",
            help="Runs with the Explainer of this checkpoint as well (another seed); may be given again.",
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            rich_help_panel=_STABILITY,
            help="Folder of retrained runs, which are not done again; default: OUTPUT.runs.",
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            rich_help_panel=_STABILITY,
            help="What retrained classifiers begin with: weights, as of wyr finetune, or a config.json; "
            "default: as the model did.",
        ),
    ] = "",
    retrain_steps: Annotated[
        int,
        typer.Option(
            "--retrain-steps",
            rich_help_panel=_STABILITY,
            min=0,
            help="Steps of each retraining; 0 = as many as the model had.",
        ),
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory for tables and JSON; new or empty.")
    ] = None,
    page: Annotated[
        bool,
        typer.Option(
            "--page/--no-page", help="Draw index.html: logos, keywords, reads; some seconds per class."
        ),
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a directory that holds nothing but such outputs.")
    ] = False,
    model: Model = None,
    explainer: ExplainerOption = ExplainerKind.state,
    operator: OperatorOption = Operator.gate,
    device: Device = "auto",
    precision: PrecisionOption = Precision.fp32,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Windows per batch.")] = 64,
    threads: Threads = 0,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """List the k-mers and motifs (of texts: words) that make the classifier call a read a class.

    Of every labelled read whose class is recognised, the terms with the highest scores count.  A term is a
    keyword of the class if that happens more often than by chance, if reads of the class have it more often
    than those of other classes and than their composition explains, and if most runs select it.  Keywords of
    DNA are grown to motifs, and the classifier is asked about each.

    Example:  wyr explain-classes --data dataset --rank genus -o classes
    """
    from wyrcli import outputs
    from wyrcli.checkpoint import load_checkpoint, load_explainer
    from wyrcli.class_explanation import (
        ask_modisco,
        check_motifs,
        choose_classes,
        explain_classes,
        find_class_motifs,
    )
    from wyrcli.class_files import OUTPUTS, shown_motifs, write_findings
    from wyrcli.class_runs import Retraining
    from wyrcli.class_scores import PassOptions
    from wyrcli.class_tables import classes_table, quality_table
    from wyrcli.examination import Subject
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.installed import find_model
    from wyrcli.keywords import Criteria
    from wyrcli.terms import choose_terms

    others = [name.strip() for name in compare.split(",") if name.strip()]
    for name in others:
        if name not in _OTHERS:
            raise typer.BadParameter(f"'{name}'; expected {', '.join(_OTHERS)}", param_hint="--compare")
    if contrast is not None and (classes or rank):
        raise typer.BadParameter("--contrast names its classes; it goes without --class and --rank")
    if 0 < checked < _LEAST_CHECKED:
        raise typer.BadParameter(f"0, or {_LEAST_CHECKED} or more", param_hint="--check")
    if force and output is None:
        raise typer.BadParameter("--force is about --output")
    anew = retrain is not Retrain.none
    if not anew and (start or retrain_steps or keep):
        raise typer.BadParameter("--from, --retrain-steps and --keep are about --retrain")
    if start and retrain is not Retrain.full:
        raise typer.BadParameter("--from is about --retrain full")
    if anew and (data is None or (output is None and keep is None)):
        raise typer.BadParameter("--retrain needs --data, and --output or --keep to keep its runs")
    if anew and (also or scores is ScoreSource.gradients):
        raise typer.BadParameter("--retrain goes without --also, and with --scores mask")
    if "svm" in others and find_spec("sklearn") is None:
        raise WyrError("the SVM needs scikit-learn: pip install 'wyrcli[classes]'")
    if modisco and (output is None or not motifs):
        raise typer.BadParameter("--modisco needs --output and --motifs")
    if modisco and find_spec("modiscolite") is None:
        raise WyrError("TF-MoDISco is not installed: pip install 'wyrcli[modisco]'")
    if output is not None and page and find_spec("matplotlib") is None:
        page = False
        say("no page without matplotlib: pip install 'wyrcli[plots]'", quiet)
    if output is not None:
        outputs.check_new_directory(output, replace=OUTPUTS if force else ())
    set_threads(threads)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    checkpoint = load_checkpoint(find_model(model))
    trained = load_explainer(checkpoint.path, explainer, operator)
    taxonomy = checkpoint.taxonomy
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    terms = choose_terms(checkpoint.alphabet, k)
    labelled = read_evaluated(checkpoint, data, split)
    labelled = labelled.sample_evenly(windows, seed) if windows else labelled
    asked, n_few = choose_classes(
        taxonomy, labelled.labels, rank=rank, names=classes or (), contrast=contrast, min_reads=min_reads
    )
    if n_few:
        warn(f"{counted(n_few, 'class', 'classes')} with fewer than {min_reads} reads left out")
    options = PassOptions(scores.value, top=top, runs=runs, seed=seed)
    criteria = Criteria(fdr, selection)
    plan = None
    if anew and data is not None:
        folder = keep or Path(os.path.realpath(output or "classes") + ".runs")
        pooled = _read_pooled(data, taxonomy)
        plan = Retraining(
            checkpoint, trained, pooled, folder, where, retrain is Retrain.full, start, retrain_steps,
            batch_size, seed,
        )  # fmt: skip
        plan.check()
    subject = Subject(checkpoint.explanandum.to(where, dtype), checkpoint.tokenizer, where, batch_size, seed)
    trained.explainer.to(where, dtype)
    work = _Work(labelled, taxonomy, asked, terms, options, criteria, quiet)

    further: Callable[[Scores], list[Scores]] | None = None
    if plan is not None:
        further = partial(_retrain, work, plan)
    elif also:
        further = partial(_ask_others, work, subject, [(path, explainer, operator) for path in also])
    with progress("reads", len(labelled), quiet=quiet) as advance:
        found = explain_classes(
            subject, trained.explainer, labelled, taxonomy, asked, terms, options, criteria, further, advance
        )
    for name in others:
        found.quality += _compare(name, found, work, subject, trained.explainer)
    motifs = motifs and checkpoint.alphabet == "dna"
    if motifs:
        with progress("motifs of classes", len(asked), quiet=quiet) as advance:
            find_class_motifs(found, seed=seed, on_class=advance)
        with progress("causal check of classes", len(asked), quiet=quiet) as advance:
            if checked:
                check_motifs(found, subject, checked, fdr, seed, advance)
    if motifs and modisco:
        with progress("TF-MoDISco on classes", len(asked), quiet=quiet) as advance:
            ask_modisco(found, advance)
    stability = _describe_runs(runs, retrain, len(also or []))
    notes = [
        f"keywords: adjusted p at most {fdr:g}, selected by {selection:.0%} of the runs; unstable: by fewer.",
        f"Runs: {stability}.",
    ]
    if checkpoint.notice:
        notes.append(checkpoint.notice)
    tables = [classes_table(found, notes), quality_table(found.quality, taxonomy)]
    if motifs:
        tables.append(shown_motifs(found, fdr))
    if output is not None:
        about: dict[str, Any] = {
            "tag": "wyr explain-classes",
            "schema_version": 1,
            "wyr_version": __version__,
            "model": checkpoint.name,
            "explainer": trained.name,
            "data": None if data is None else str(data),
            "split": split,
            "reads": len(labelled),
            "settings": {
                "scores": scores.value,
                "terms": terms.noun,
                "k": getattr(terms, "k", None),
                "top": top,
                "fdr": fdr,
                "selection": selection,
                "runs": runs,
                "retrain": retrain.value,
                "stability": stability,
                "min_reads": min_reads,
                "motifs": motifs,
                "check": checked,
                "seed": seed,
            },
        }
        with outputs.new_directory(output, replace=OUTPUTS if force else ()) as folder:
            write_findings(folder, found, about, notes, fdr, with_page=page)
    show_tables(tables, width=150)
    n_kept = sum(len(found.kept(i)) for i in range(len(asked)))
    say(
        f"{counted(len(labelled), 'read')}, {counted(len(asked), 'class', 'classes')}, "
        f"{counted(n_kept, 'keyword')}" + (f": {output}" if output is not None else ""),
        quiet,
    )


class _Work(NamedTuple):
    """What all passes share."""

    windows: LabelledWindows
    taxonomy: Taxonomy
    asked: list[Asked]
    terms: Terms
    options: PassOptions
    criteria: Criteria
    quiet: bool


def _ask_others(
    work: _Work,
    subject: Subject,
    models: Sequence[tuple[Path, ExplainerKind, Operator]],
    first: Scores,
) -> list[Scores]:
    """The tallies of the same reads by other checkpoints, behind the first one."""
    from wyrcli.checkpoint import load_checkpoint, load_explainer
    from wyrcli.class_scores import score_classes
    from wyrcli.installed import find_model

    passes = [first]
    for path, kind, operator in models:
        other = load_checkpoint(find_model(path))
        if (other.taxonomy.ranks, other.taxonomy.taxa) != (work.taxonomy.ranks, work.taxonomy.taxa):
            raise CheckpointError(f"{path}: its classes are not those of the model")
        like = next(subject.explanandum.parameters())
        trained = load_explainer(path, kind, operator).explainer.to(like)
        theirs = subject._replace(explanandum=other.explanandum.to(like), tokenizer=other.tokenizer)
        with progress(other.name, len(work.windows), quiet=work.quiet) as advance:
            found = score_classes(
                theirs, trained, work.windows, work.asked, work.terms, work.options, on_batch=advance
            )
        passes.append(found.scores)
    return passes


def _retrain(work: _Work, plan: Retraining, first: Scores) -> list[Scores]:
    """The tallies of runs that train anew; ``first``, of the model itself, is none of them."""
    from wyrcli.class_runs import run_again

    for i in range(len(plan.windows)):
        work.terms.find(plan.windows.sequences[i])  # so that all runs know the same terms
    passes = []
    for run in range(work.options.runs):
        say(f"run {run + 1} of {work.options.runs}", work.quiet)
        with progress("steps", quiet=work.quiet) as advance:

            def report(now: Progress, advance: Advance = advance) -> None:
                advance(0, f"step {now.step:,} of {now.total_steps:,}")

            passes.append(run_again(plan, run, work.asked, work.terms, work.options, report))
    return passes


def _compare(
    name: str, found: Findings, work: _Work, subject: Subject, explainer: Explainer
) -> list[Quality]:
    """The quality of the keywords of another method on the same reads."""
    from wyrcli.class_quality import measure_quality, rank_by_svm
    from wyrcli.class_scores import score_classes
    from wyrcli.keywords import select_keywords

    if name == "svm":
        ranked = rank_by_svm(work.windows, work.asked, work.terms, work.options.seed)
        chosen = {i: own[: len(found.kept(i))].tolist() for i, own in enumerate(ranked)}
    else:
        options = replace(work.options, source="gradients")
        with progress(name, len(work.windows), quiet=work.quiet) as advance:
            scored = score_classes(
                subject, explainer, work.windows, work.asked, work.terms, options, on_batch=advance
            )
        keywords = select_keywords(
            work.asked, work.taxonomy, work.terms, found.frequencies, [scored.scores], work.criteria
        )
        chosen = {i: [own.number for own in words if own.kept] for i, words in enumerate(keywords)}
    return measure_quality(name, work.asked, chosen, found.scored.scores, found.frequencies)


def _describe_runs(runs: int, retrain: Retrain, n_also: int) -> str:
    if retrain is Retrain.none:
        which = f"the Explainers of {n_also + 1} checkpoints" if n_also else "one Explainer"
        return f"{runs} draws of the reads (bootstrap; of genomes where a class has five or more), {which}"
    what = "the Explainer" if retrain is Retrain.explainer else "classifier and Explainer"
    return f"{runs} new splits of training and validation windows, {what} trained anew in each"


def _read_pooled(data: Path, taxonomy: Taxonomy) -> LabelledWindows:
    """The windows of training and validation together."""
    from wyrcli.dataset import Dataset

    dataset = Dataset.open(data)
    return dataset.split_for("train", taxonomy).followed_by(dataset.split_for("validation", taxonomy))
