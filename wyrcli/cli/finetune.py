"""``wyr finetune``: a classifier of your own, the Explanandum."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wyrcli.cli.console import progress, say, training_reporter
from wyrcli.cli.options import (
    Device,
    Embeddings,
    Pooling,
    Precision,
    PrecisionOption,
    Quiet,
    Seed,
    Threads,
    set_threads,
)

__all__ = ["finetune"]


def finetune(
    dataset: Annotated[Path, typer.Argument(help="Dataset directory from wyr prepare.", metavar="DATASET")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint directory to write.")],
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Checkpoint to start from: a Nucleotide Transformer's directory or wyr's own."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="config.json of a network that starts from random weights."),
    ] = None,
    embeddings: Annotated[
        Embeddings,
        typer.Option(
            "--embeddings", help="Start of random k-mer embeddings: composed of the shorter k-mers inside."
        ),
    ] = Embeddings.random,
    pooling: Annotated[
        Pooling | None,
        typer.Option("--pooling", help="What the heads read; default: as in --from, else mean."),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 5,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Optimiser steps; 0 = by --epochs.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Windows per step.")] = 128,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0)] = 2e-4,
    warmup: Annotated[float, typer.Option("--warmup", min=0, max=1, help="Share of the steps.")] = 0.0,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0)] = 0.0,
    reverse_complement: Annotated[
        bool, typer.Option("--reverse-complement", help="Turn each window round at random.")
    ] = False,
    held_out: Annotated[
        int,
        typer.Option("--held-out", min=0, help="Test windows to keep in the checkpoint for wyr evaluate."),
    ] = 0,
    name: Annotated[str, typer.Option("--name", help="Name of the model.")] = "",
    notice: Annotated[str, typer.Option("--notice", help="A line that every user of the model sees.")] = "",
    half: Annotated[bool, typer.Option("--half", help="Store weights as bf16: half the size.")] = False,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    threads: Threads = 0,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a dataset: a Nucleotide Transformer with one linear head per rank.

    The defaults are the paper's (sum of the cross-entropies, learning rate 2e-4, cosine, batch 128, 5
    epochs), but for gradients clipped at norm 1 and bf16 where the device has it.  Balanced accuracy on
    the validation and test splits is printed and stored.
    """
    from dataclasses import asdict

    import torch

    from wyrcli import training
    from wyrcli.checkpoint import check_vocabulary, load_checkpoint, parameter_count, save_checkpoint
    from wyrcli.dataset import Dataset
    from wyrcli.errors import CheckpointError
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer, compose_embeddings
    from wyrcli.model.explanandum import Explanandum
    from wyrcli.model.tokens import KmerTokenizer
    from wyrcli.outputs import check_new_directory

    if embeddings is Embeddings.composed and config is None:
        raise typer.BadParameter("--embeddings composed starts from --config, not from trained weights")
    check_new_directory(output)
    set_threads(threads)
    where = choose_device(device)
    data = Dataset.open(dataset)
    sizes = data.taxonomy.sizes
    torch.manual_seed(seed)
    if config is not None:
        if start is not None:
            raise typer.BadParameter("name either --from or --config, not both")
        tokenizer = KmerTokenizer.nucleotide_transformer_v2()
        shape = BackboneConfig.load(config)
        if shape.vocab_size != len(tokenizer.vocabulary):
            raise CheckpointError(
                f"{config}: vocab_size {shape.vocab_size}; a new network has the {len(tokenizer.vocabulary)} "
                "tokens of Nucleotide Transformer v2"
            )
        backbone = NucleotideTransformer(shape)
        if embeddings is Embeddings.composed:
            compose_embeddings(backbone.embeddings.word_embeddings, tokenizer.kmers(), seed)
        explanandum = Explanandum(backbone, sizes, pooling or Pooling.mean)
    elif start is None:
        raise typer.BadParameter("name where to start: --from or --config")
    elif (start / "checkpoint.json").is_file():
        previous = load_checkpoint(start)
        tokenizer = previous.tokenizer
        # Not the loaded Explanandum itself: that one is frozen for good.
        old = previous.explanandum
        explanandum = Explanandum(old.backbone, sizes, pooling or old.pooling).requires_grad_(True)
        if previous.taxonomy.taxa == data.taxonomy.taxa:
            explanandum.load_state_dict(old.state_dict())
    else:
        tokenizer = KmerTokenizer.from_pretrained(start)
        backbone = NucleotideTransformer.from_pretrained(start)
        check_vocabulary(tokenizer, backbone.config, start)
        explanandum = Explanandum(backbone, sizes, pooling or Pooling.mean)
    options = training.TrainingOptions(
        learning_rate=learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        warmup=warmup,
        weight_decay=weight_decay,
        precision="bf16" if choose_precision(precision, where) == torch.bfloat16 else "fp32",
        reverse_complement=reverse_complement,
        seed=seed,
    )
    train = data.split("train")
    total = options.total_steps(len(train))
    say(
        f"{parameter_count(explanandum):,} weights, {len(train):,} windows, {total:,} steps of {batch_size} "
        f"on {where} in {options.precision}",
        quiet,
    )
    ranks = data.taxonomy.ranks
    with progress("steps", total, quiet=quiet) as advance:
        last = training.finetune(
            explanandum, tokenizer, train, options, where, training_reporter(advance, total, quiet)
        )
    explanandum.freeze()
    if half:  # scored as stored
        explanandum.to(torch.bfloat16).float()
    examined = {split: data.split(split) for split in ("validation", "test")}
    scores = {
        split: dict(zip(ranks, training.validate(explanandum, tokenizer, windows, where), strict=True))
        for split, windows in examined.items()
        if len(windows)
    }
    for split, values in scores.items():
        say(f"{split} balanced accuracy: " + ", ".join(f"{r} {v:.4f}" for r, v in values.items()), quiet)
    record = {
        "command": "wyr finetune",
        "options": asdict(options),
        "start": str(start or config),
        "embeddings": str(embeddings),
        "dataset": data.info,
        "last": last,
        "balanced_accuracy": scores,
    }
    save_checkpoint(
        output,
        explanandum.cpu(),
        tokenizer,
        data.taxonomy,
        window_bp=data.window_bp,
        training=record,
        name=name,
        notice=notice,
        dtype=torch.bfloat16 if half else torch.float32,
        held_out=examined["test"].sample(held_out, seed) if held_out else None,
    )
    say(f"checkpoint in {output}", quiet)
