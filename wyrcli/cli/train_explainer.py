"""``wyr train-explainer``: the network that says which tokens matter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wyrcli.cli.console import progress, say, training_reporter, warn
from wyrcli.cli.options import (
    Device,
    Embeddings,
    ExplainerKind,
    ExplainerOption,
    Operator,
    Precision,
    PrecisionOption,
    Preset,
    Quiet,
    Seed,
    Threads,
    set_threads,
)

__all__ = ["train_explainer"]

Weight = Annotated[float | None, typer.Option(min=0, help="Replaces the preset's weight.")]


def train_explainer(
    model: Annotated[Path, typer.Argument(help="Checkpoint directory of the classifier.", metavar="MODEL")],
    data: Annotated[Path, typer.Option("--data", help="Dataset directory from wyr prepare.")],
    explainer: ExplainerOption = ExplainerKind.state,
    operator: Annotated[
        Operator, typer.Option("--operator", help="What a mask does to the classifier.")
    ] = Operator.gate,
    preset: Annotated[
        Preset, typer.Option("--preset", help="Weights and choices of the loss.")
    ] = Preset.balanced,
    classification: Weight = None,
    entropy: Weight = None,
    target_area: Weight = None,
    non_target_area: Weight = None,
    bounds: Weight = None,
    total_variation: Weight = None,
    min_area: Annotated[float | None, typer.Option(min=0, max=1, help="a: least share of tokens.")] = None,
    max_area: Annotated[float | None, typer.Option(min=0, max=1, help="b: largest share of tokens.")] = None,
    classification_temperature: Annotated[
        float | None, typer.Option(help="Divides the logits in the classification term; below 1, sharper.")
    ] = None,
    single_rank: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of steps in which one rank's mask must do for it alone."),
    ] = None,
    concrete_temperature: Annotated[
        float | None, typer.Option(min=0, help="Binary concrete noise on m in training; 0 = none.")
    ] = None,
    target_labels: Annotated[
        str | None, typer.Option("--target-labels", help="true or predicted classes choose the mask.")
    ] = None,
    entropy_divisor: Annotated[
        str | None, typer.Option("--entropy-divisor", help="classes (as printed), log or none.")
    ] = None,
    states: Annotated[
        int,
        typer.Option("--states", min=0, help="state: number of last hidden states; 0 = all, embeddings too."),
    ] = 0,
    width: Annotated[int, typer.Option("--width", min=1, help="state: features per token.")] = 64,
    hidden: Annotated[int, typer.Option("--hidden", min=1, help="lstm: units per direction.")] = 80,
    embeddings: Annotated[
        Embeddings,
        typer.Option(
            "--embeddings", help="lstm: start of k-mer embeddings; composed of the shorter k-mers inside."
        ),
    ] = Embeddings.random,
    resume: Annotated[
        bool,
        typer.Option("--continue", help="Go on from the Explainer of this kind that is there; replaces it."),
    ] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 1,
    steps: Annotated[
        int,
        typer.Option("--steps", min=0, help="Optimiser steps; 0 = by --epochs, at least 500 (lstm: 1,500)."),
    ] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Windows per step.")] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0)] = 2e-3,
    warmup: Annotated[float, typer.Option("--warmup", min=0, max=1, help="Share of the steps.")] = 0.05,
    half: Annotated[bool, typer.Option("--half", help="Store weights as bf16: half the size.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an Explainer of this kind.")] = False,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    threads: Threads = 0,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train an Explainer for a frozen classifier; it is stored beside the classifier, in MODEL/explainers.

    The loss has the paper's four terms.  The preset 'paper' is as printed there, 'balanced' is ours; any
    weight can be replaced.
    """
    from dataclasses import asdict, replace

    import torch

    from wyrcli import training
    from wyrcli.checkpoint import (
        explainer_name,
        list_explainers,
        load_checkpoint,
        load_explainer,
        parameter_count,
        save_explainer,
    )
    from wyrcli.dataset import Dataset
    from wyrcli.errors import CheckpointError
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.model.backbone import compose_embeddings
    from wyrcli.model.explainer import LstmExplainer, build_explainer
    from wyrcli.model.loss import PRESETS

    chosen = {
        "classification": classification,
        "entropy": entropy,
        "target_area": target_area,
        "non_target_area": non_target_area,
        "bounds": bounds,
        "total_variation": total_variation,
        "min_area": min_area,
        "max_area": max_area,
        "classification_temperature": classification_temperature,
        "single_rank": single_rank,
        "concrete_temperature": concrete_temperature,
        "target_labels": target_labels,
        "entropy_divisor": entropy_divisor,
    }
    try:
        loss = replace(PRESETS[preset], **{k: v for k, v in chosen.items() if v is not None})  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    set_threads(threads)
    where = choose_device(device)
    checkpoint = load_checkpoint(model)
    if operator is Operator.scale_embedding and checkpoint.explanandum.pooling == "mean":
        warn("scale-embedding is for <cls> heads: with mean pooling, what it masks still enters the mean")
    name = explainer_name(explainer, operator)
    earlier = load_explainer(model, explainer, operator) if resume else None
    if name in list_explainers(model) and not (force or resume):
        raise CheckpointError(
            f"{model}: has an Explainer '{name}' already; --force replaces it, --continue goes on from it"
        )
    dataset = Dataset.open(data)
    torch.manual_seed(seed)
    shape = checkpoint.explanandum.backbone.config
    n_classes = checkpoint.taxonomy.n_classes
    if explainer is ExplainerKind.state:
        sizes = {
            "hidden_size": shape.hidden_size,
            "n_states": min(states or shape.num_hidden_layers + 1, shape.num_hidden_layers + 1),
            "n_classes": n_classes,
            "width": width,
        }
    else:
        sizes = {"vocab_size": shape.vocab_size, "n_classes": n_classes, "hidden": hidden}
    train = dataset.split_for("train", checkpoint.taxonomy)
    network = build_explainer(explainer, sizes) if earlier is None else earlier.explainer
    network.requires_grad_(True)
    if embeddings is Embeddings.composed and earlier is None:
        if not isinstance(network, LstmExplainer):
            raise typer.BadParameter(
                "--embeddings is for --explainer lstm; the others read the classifier's states"
            )
        compose_embeddings(network.embedding, checkpoint.tokenizer.kmers(), seed)
    options = training.TrainingOptions(
        learning_rate=learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps or max(epochs * (len(train) // batch_size), 500 if explainer == "state" else 1500),
        warmup=warmup,
        precision="bf16" if choose_precision(precision, where) == torch.bfloat16 else "fp32",
        seed=seed,
    )
    total = options.total_steps(len(train))
    say(
        f"{name}: {parameter_count(network):,} weights, {len(train):,} windows, "
        f"{total:,} steps of {batch_size} on {where} in {options.precision}",
        quiet,
    )
    with progress("steps", total, quiet=quiet) as advance:
        last = training.train_explainer(
            network,
            checkpoint.explanandum,
            checkpoint.tokenizer,
            train,
            operator,
            loss,
            options,
            where,
            training_reporter(advance, total, quiet),
        )
    record = {
        "command": "wyr train-explainer",
        "preset": str(preset),
        "loss": asdict(loss),
        "options": asdict(options),
        "embeddings": str(embeddings),
        "dataset": dataset.info,
        "last": last,
    }
    if earlier is not None:
        record["continued_from"] = earlier.training
    dtype = torch.bfloat16 if half else torch.float32
    path = save_explainer(model, network.cpu(), operator, training=record, dtype=dtype, force=force or resume)
    say(f"Explainer in {path}", quiet)
