"""``wyr explain-classes``: what the classifier reads as a class, from single reads to keywords and motifs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from wyrcli.dataset import LabelledWindows
    from wyrcli.keywords import Asked, Keyword
    from wyrcli.taxonomy import Taxonomy

__all__ = ["explain_classes"]

_WHAT, _KEYWORDS, _STABILITY = "What is explained", "Keywords", "Stability"


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
            "--data", rich_help_panel=_WHAT, help="Dataset directory; default: what the model kept aside."
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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory for tables and JSON; new or empty.")
    ] = None,
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
    """List the k-mers (of texts: words) that make the classifier call a read a class, and how sure each is.

    Of every labelled read whose class is recognised, the terms with the highest scores count.  A term is a
    keyword of the class if that happens more often than by chance, if reads of the class have it more often
    than those of other classes and than their composition explains, and if most runs select it.

    Example:  wyr explain-classes --data dataset --rank genus -o classes
    """
    from wyrcli import outputs
    from wyrcli.checkpoint import default_model, load_checkpoint, load_explainer
    from wyrcli.class_quality import measure_quality, rank_by_svm
    from wyrcli.class_scores import PassOptions, score_classes
    from wyrcli.class_tables import (
        classes_table,
        keyword_json,
        keyword_table,
        name_class,
        quality_json,
        quality_table,
    )
    from wyrcli.examination import Subject
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.keywords import Criteria, Frequencies, select_keywords
    from wyrcli.terms import choose_terms

    others = [name.strip() for name in compare.split(",") if name.strip()]
    for name in others:
        if name not in ("gradients", "svm"):
            raise typer.BadParameter(f"'{name}'; expected gradients, svm", param_hint="--compare")
    if contrast is not None and (classes or rank):
        raise typer.BadParameter("--contrast names its classes; it goes without --class and --rank")
    if force and output is None:
        raise typer.BadParameter("--force is about --output")
    if "svm" in others:
        _check_svm()
    if output is not None:
        outputs.check_new_directory(output, replace=_OUTPUTS if force else ())
    set_threads(threads)
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    checkpoint = load_checkpoint(model or default_model())
    trained = load_explainer(checkpoint.path, explainer, operator)
    taxonomy = checkpoint.taxonomy
    if checkpoint.notice:
        say(checkpoint.notice, quiet)
    terms = choose_terms(checkpoint.alphabet, k)
    labelled = read_evaluated(checkpoint, data, split)
    labelled = labelled.sample_evenly(windows, seed) if windows else labelled
    asked = _choose_classes(taxonomy, labelled, rank, classes or [], contrast, min_reads, quiet)
    subject = Subject(checkpoint.explanandum.to(where, dtype), checkpoint.tokenizer, where, batch_size, seed)
    trained.explainer.to(where, dtype)
    frequencies = Frequencies(terms)
    options = PassOptions(scores.value, top=top, runs=runs, seed=seed)
    with progress("reads", len(labelled), quiet=quiet) as advance:
        found = score_classes(
            subject, trained.explainer, labelled, asked, terms, options, frequencies, advance
        )
    criteria = Criteria(fdr, selection)
    keywords = select_keywords(asked, taxonomy, terms, frequencies, [found.scores], criteria)
    by_class = _by_class(asked, taxonomy, keywords)
    chosen = {i: [own.number for own in words if own.kept] for i, words in enumerate(by_class)}
    quality = measure_quality(scores.value, asked, chosen, found.scores, frequencies)
    if "gradients" in others and scores is not ScoreSource.gradients:
        with progress("gradients", len(labelled), quiet=quiet) as advance:
            again = score_classes(
                subject,
                trained.explainer,
                labelled,
                asked,
                terms,
                PassOptions("gradients", top=top, runs=runs, seed=seed),
                on_batch=advance,
            )
        theirs = _by_class(
            asked, taxonomy, select_keywords(asked, taxonomy, terms, frequencies, [again.scores], criteria)
        )
        picked = {i: [own.number for own in words if own.kept] for i, words in enumerate(theirs)}
        quality += measure_quality("gradients", asked, picked, found.scores, frequencies)
    if "svm" in others:
        ranked = rank_by_svm(labelled, asked, terms, seed)
        picked = {i: ranked[i][: len(chosen[i])].tolist() for i in range(len(asked))}
        quality += measure_quality("svm", asked, picked, found.scores, frequencies)
    stability = (
        f"{runs} draws of the reads (bootstrap; of genomes where a class has five or more), one Explainer"
    )
    notes = [
        f"keywords: adjusted p at most {fdr:g}, selected by {selection:.0%} of the runs; unstable: by fewer.  "
        f"Runs: {stability}."
    ]
    summary = classes_table(asked, taxonomy, found, by_class, notes)
    table = quality_table(quality, taxonomy)
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
                "stability": stability,
                "min_reads": min_reads,
                "seed": seed,
            },
        }
        with outputs.new_directory(output, replace=_OUTPUTS if force else ()) as folder:
            parts = {
                "keywords": [own for own in keywords if own.kept],
                "unstable": [own for own in keywords if own.is_unstable],
                "rejected": [own for own in keywords if not own.kept and not own.is_unstable],
            }
            for name, part in parts.items():
                text = keyword_table(name, name, part).to_tsv()
                _write(folder / f"{name}.tsv", text)
            (folder / "classes").mkdir()
            content = []
            for i, own in enumerate(asked):
                title = name_class(taxonomy, own)
                file = f"classes/{_file_name(taxonomy, own)}.tsv"
                _write(folder / file, keyword_table("class", title, by_class[i]).to_tsv())
                content.append(
                    {
                        "rank": taxonomy.ranks[own.rank],
                        "class": taxonomy.taxa[own.rank][own.number],
                        "against": None if own.against is None else taxonomy.taxa[own.rank][own.against],
                        "reads": int(found.labelled[i]),
                        "recognised": int(found.recognised[i]),
                        "table": file,
                        "keywords": [keyword_json(word) for word in by_class[i]],
                    }
                )
            _write(folder / "quality.tsv", table.to_tsv())
            about |= {"quality": quality_json(quality, taxonomy), "classes": content}
            _write(folder / "classes.json", outputs.json_text(about))
    show_tables([summary, table], width=150)
    n_kept = sum(own.kept for own in keywords)
    say(
        f"{counted(len(labelled), 'read')}, {counted(len(asked), 'class', 'classes')}, "
        f"{counted(n_kept, 'keyword')}" + (f": {output}" if output is not None else ""),
        quiet,
    )


_OUTPUTS = ("keywords.tsv", "unstable.tsv", "rejected.tsv", "quality.tsv", "classes.json", "classes")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _check_svm() -> None:
    from importlib.util import find_spec

    if find_spec("sklearn") is None:
        raise WyrError("the SVM needs scikit-learn: pip install 'wyrcli[classes]'")


def _choose_classes(
    taxonomy: Taxonomy,
    windows: LabelledWindows,
    rank: str | None,
    names: Sequence[str],
    contrast: tuple[str, str] | None,
    min_reads: int,
    quiet: bool,
) -> list[Asked]:
    """The classes asked about, rank by rank.  Raises InputError where there is none with enough reads."""
    import numpy as np

    from wyrcli.keywords import Asked
    from wyrcli.targets import find_taxon

    reads = [
        np.bincount(np.asarray(windows.labels)[:, r], minlength=size) for r, size in enumerate(taxonomy.sizes)
    ]
    wanted_rank = None if rank is None else taxonomy.rank_index(rank)
    if contrast is not None:
        first, second = (find_taxon(taxonomy, name) for name in contrast)
        if first == second or first.rank != second.rank:
            raise typer.BadParameter("two classes of one rank", param_hint="--contrast")
        asked = [
            Asked(first.rank, first.within, second.within),
            Asked(first.rank, second.within, first.within),
        ]
    elif names:
        places = sorted(dict.fromkeys(find_taxon(taxonomy, name) for name in names))
        for place in places:
            if wanted_rank is not None and place.rank != wanted_rank:
                taxon = taxonomy.taxa[place.rank][place.within]
                raise typer.BadParameter(f"'{taxon}' is a {taxonomy.ranks[place.rank]}", param_hint="--class")
        asked = [Asked(place.rank, place.within) for place in places]
    else:
        asked = [
            Asked(r, number)
            for r, counts in enumerate(reads)
            if wanted_rank in (None, r)
            for number in np.flatnonzero(counts).tolist()
        ]
    few = [own for own in asked if reads[own.rank][own.number] < min_reads]
    if few and (names or contrast is not None):
        own = few[0]
        n = int(reads[own.rank][own.number])
        raise InputError(
            f"{taxonomy.taxa[own.rank][own.number]} has {counted(n, 'read')}; "
            f"expected {min_reads} or more (--min-reads)"
        )
    kept = [own for own in asked if own not in few]
    if not kept:
        raise InputError(f"no class has {min_reads} reads or more (--min-reads)")
    if few:
        warn(f"{counted(len(few), 'class', 'classes')} with fewer than {min_reads} reads left out")
    return kept


def _by_class(asked: Sequence[Asked], taxonomy: Taxonomy, keywords: Sequence[Keyword]) -> list[list[Keyword]]:
    """Keywords of each class asked about, in their order."""
    groups: dict[tuple[str, str], list[Keyword]] = defaultdict(list)
    for own in keywords:
        groups[own.rank, own.name].append(own)
    return [groups[taxonomy.ranks[own.rank], taxonomy.taxa[own.rank][own.number]] for own in asked]


def _file_name(taxonomy: Taxonomy, own: Asked) -> str:
    """A name that any file system takes, and no two classes share."""
    from wyrcli.result_tables import slug

    return (
        f"{slug(taxonomy.ranks[own.rank])}-{own.number:04d}-{slug(taxonomy.taxa[own.rank][own.number])[:60]}"
    )
