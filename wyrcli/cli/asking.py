"""Options of ``wyr explain`` that say what is to be explained, and how finely."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wyrcli.checkpoint import Checkpoint
    from wyrcli.scoring import BaseResolution
    from wyrcli.targets import Question

__all__ = [
    "BothStrands",
    "Contrast",
    "MinLength",
    "MinProbability",
    "Overlap",
    "RankOption",
    "Resolution",
    "ResolutionOption",
    "Sharpen",
    "TargetOption",
    "Threshold",
    "TopK",
    "check_windows",
    "pose_question",
]

_WHAT = "What to explain, and how finely"


class Resolution(StrEnum):
    """What has a score of its own."""

    token = "token"
    base = "base"


RankOption = Annotated[
    str | None,
    typer.Option(
        "--rank",
        metavar="RANK",
        help="Explain this rank alone; by default all together.",
        rich_help_panel=_WHAT,
    ),
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="TAXON",
        help="Explain this taxon, predicted or not; RANK:TAXON where ranks share the name. Repeatable.",
        rich_help_panel=_WHAT,
    ),
]
Contrast = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--contrast",
        metavar="TAXON TAXON",
        help="Explain the first against the second: its mask minus the other's, from -1 to 1.",
        rich_help_panel=_WHAT,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k",
        min=0,
        metavar="K",
        help="Explain the K most probable taxa of --rank (by default of the narrowest), each by itself.",
        rich_help_panel=_WHAT,
    ),
]
MinProbability = Annotated[
    str | None,
    typer.Option(
        "--min-probability",
        metavar="P",
        help="Name no taxon below this probability: 0.8, or per rank genus=0.8,phylum=0.5; 0 names all. "
        "By default what the model says.",
        rich_help_panel=_WHAT,
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        min=0,
        max=1,
        metavar="SCORE",
        help="A token is important above this mask value.",
        rich_help_panel=_WHAT,
    ),
]
MinLength = Annotated[
    int,
    typer.Option(
        "--min-length",
        min=1,
        metavar="N",
        help="Shortest chunk to report, in letters.",
        rich_help_panel=_WHAT,
    ),
]
ResolutionOption = Annotated[
    Resolution,
    typer.Option(
        "--resolution",
        help="base: a score for each base, the mean over all reading frames, at six times the cost.",
        rich_help_panel=_WHAT,
    ),
]
BothStrands = Annotated[
    bool,
    typer.Option(
        "--both-strands",
        help="With --resolution base: read the reverse complement too. For models trained on both strands.",
        rich_help_panel=_WHAT,
    ),
]
Sharpen = Annotated[
    bool,
    typer.Option(
        "--sharpen",
        help="With --resolution base: take off the halo around relevant stretches (30 bp to either side).",
        rich_help_panel=_WHAT,
    ),
]
Overlap = Annotated[
    int,
    typer.Option(
        "--overlap",
        min=0,
        metavar="BP",
        help="Windows of longer records overlap by so many bp (a multiple of 6), and scores are blended.",
        rich_help_panel=_WHAT,
    ),
]


def pose_question(
    checkpoint: Checkpoint,
    *,
    rank: str | None,
    targets: list[str] | None,
    contrast: tuple[str, str] | None,
    top_k: int,
    min_probability: str | None,
) -> Question:
    """What the options ask of every window.  Raises BadParameter, and TaxonomyError for unknown names."""
    from wyrcli.targets import ask, parse_thresholds

    if rank is not None and (targets or contrast) and not top_k:
        raise typer.BadParameter(
            "it chooses among the predicted taxa, or those of --top-k; a named taxon has a rank of its own",
            param_hint="--rank",
        )
    try:
        thresholds = parse_thresholds(min_probability, checkpoint.taxonomy.ranks, checkpoint.abstain)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--min-probability") from None
    return ask(
        checkpoint.taxonomy,
        rank=rank,
        targets=targets or (),
        contrast=contrast,
        top_k=top_k,
        thresholds=thresholds,
    )


def check_windows(
    checkpoint: Checkpoint, resolution: Resolution, overlap: int, *, both_strands: bool, sharpen: bool
) -> BaseResolution | None:
    """The resolution that is asked for, None for tokens.  Raises BadParameter where the model has no such."""
    from wyrcli.model.tokens import KmerTokenizer
    from wyrcli.scoring import BaseResolution
    from wyrcli.windows import check_overlap

    if overlap and checkpoint.alphabet != "dna":
        raise typer.BadParameter(
            f"windows overlap for models of DNA alone; this one reads {checkpoint.alphabet}",
            param_hint="--overlap",
        )
    try:
        check_overlap(checkpoint.window_bp, overlap)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--overlap") from None
    if resolution is Resolution.token:
        for name, given in (("--both-strands", both_strands), ("--sharpen", sharpen)):
            if given:
                raise typer.BadParameter("needs --resolution base", param_hint=name)
        return None
    if not isinstance(checkpoint.tokenizer, KmerTokenizer):
        raise typer.BadParameter(
            f"only models that read DNA in k-mers have reading frames; this one reads {checkpoint.alphabet}",
            param_hint="--resolution",
        )
    return BaseResolution(both_strands, sharpen)
