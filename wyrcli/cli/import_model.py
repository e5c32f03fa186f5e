"""``wyr import``: a classifier of ``transformers`` as a checkpoint of wyr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wyrcli.cli.console import say
from wyrcli.cli.options import Quiet

__all__ = ["import_model"]


def import_model(
    source: Annotated[
        Path,
        typer.Argument(
            help="Directory of a ...ForSequenceClassification, as save_pretrained writes it.", metavar="DIR"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint directory to write.")],
    rank: Annotated[str, typer.Option("--rank", help="What the labels are, as 'genus' would be.")] = "label",
    window: Annotated[
        int,
        typer.Option(
            "--window",
            min=0,
            help="Longest window in characters, residues or bp; 0 = about what the model can read.",
        ),
    ] = 0,
    name: Annotated[str, typer.Option("--name", help="Name of the model.")] = "",
    notice: Annotated[str, typer.Option("--notice", help="A line that every user of the model sees.")] = "",
    quiet: Quiet = False,
) -> None:
    """Make a checkpoint of a classifier that was fine-tuned with transformers.

    Known: bert, roberta, xlm-roberta, distilbert, electra and modernbert for texts; esm (ESM-2) for proteins.
    No code of a model is run.  A test proves that masks do to this model what they should; then train an
    Explainer for it with wyr train-explainer.

    Example:  wyr import distilbert-sst2/ -o model
    """
    from wyrcli.checkpoint import parameter_count, save_checkpoint
    from wyrcli.errors import CheckpointError, TaxonomyError
    from wyrcli.model.encoders import read_encoder
    from wyrcli.model.proof import prove
    from wyrcli.model.tokens import KmerTokenizer
    from wyrcli.outputs import check_new_directory
    from wyrcli.taxonomy import Taxonomy, canonical_rank

    check_new_directory(output)
    explanandum, tokenizer, labels = read_encoder(source)
    try:
        taxonomy = Taxonomy((canonical_rank(rank),), (tuple(labels),), source={"from": "wyr import"})
    except TaxonomyError as error:
        raise CheckpointError(f"{source}/config.json: id2label: {error}") from None
    n_tokens = tokenizer.max_tokens - tokenizer.count_tokens("")
    # Four characters a token: English, in word pieces.
    size = (
        tokenizer.k if isinstance(tokenizer, KmerTokenizer) else {"protein": 1, "text": 4}[tokenizer.alphabet]
    )
    most = n_tokens * size
    if window > most and tokenizer.alphabet != "text":  # texts are cut by their tokens as well
        raise CheckpointError(f"{source}: --window {window}; the model reads at most {most}")
    window = window or most
    prove(explanandum, tokenizer)
    save_checkpoint(
        output,
        explanandum.freeze(),
        tokenizer,
        taxonomy,
        window_bp=window,
        training={"command": "wyr import", "source": str(source), "rank": rank},
        name=name,
        notice=notice,
    )
    say(
        f"{parameter_count(explanandum):,} weights, {len(labels)} labels, {tokenizer.alphabet}, windows of "
        f"{window:,}; masks do what they should",
        quiet,
    )
    say(f"checkpoint in {output}", quiet)
