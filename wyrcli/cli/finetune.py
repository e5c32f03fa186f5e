"""``wyr finetune``: a classifier of your own, the Explanandum."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from wyrcli.cli.console import say
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
from wyrcli.cli.session import (
    STEPS,
    WATCHING,
    Accumulate,
    BatchSize,
    ClipNorm,
    CurveFigure,
    LearningRate,
    Patience,
    Resume,
    SaveMinutes,
    ValidateEvery,
    Warmup,
    WeightDecay,
    check_figure,
    conclude,
    describe_work,
    open_session,
    was_finished,
    watch,
)

__all__ = ["ClassWeights", "finetune"]


_START, _DATA, _STORED = "Where it starts", "Windows and weights", "What is stored"


class ClassWeights(StrEnum):
    """How much each class counts in the loss."""

    none = "none"
    balanced = "balanced"


def finetune(
    dataset: Annotated[Path, typer.Argument(help="Dataset directory from wyr prepare.", metavar="DATASET")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint directory to write.")],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            rich_help_panel=_START,
            help="Weights to start from: a Nucleotide Transformer's directory, a checkpoint of wyr, or 50m, "
            "100m, 250m, 500m or OWNER/NAME of the Hugging Face hub, where that is on this machine.",
        ),
    ] = "",
    download: Annotated[
        bool, typer.Option("--download", rich_help_panel=_START, help="Fetch --from from the hub.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            rich_help_panel=_START,
            help="config.json of a network that starts from random weights.",
        ),
    ] = None,
    embeddings: Annotated[
        Embeddings,
        typer.Option(
            "--embeddings",
            rich_help_panel=_START,
            help="Start of random k-mer embeddings: composed of the shorter k-mers inside; strandless: "
            "the same, equal for reverse complements.",
        ),
    ] = Embeddings.random,
    pooling: Annotated[
        Pooling | None,
        typer.Option(
            "--pooling", rich_help_panel=_START, help="What the heads read; default: as in --from, else mean."
        ),
    ] = None,
    counts: Annotated[
        bool,
        typer.Option(
            "--counts",
            rich_help_panel=_START,
            help="Train a network of --config on k-mer counts alone, much faster; go on with --from.",
        ),
    ] = False,
    every_frame: Annotated[
        bool,
        typer.Option(
            "--every-frame",
            rich_help_panel=_START,
            help="With --counts: count the k-mers across the borders of tokens too; go on with --borders.",
        ),
    ] = False,
    borders: Annotated[
        bool,
        typer.Option(
            "--borders",
            rich_help_panel=_START,
            help="Put a layer below the network of --from that reads the k-mers across the borders of "
            "tokens, as --counts --every-frame has counted them.",
        ),
    ] = False,
    dropout: Annotated[
        float,
        typer.Option(
            "--dropout",
            rich_help_panel=_START,
            min=0,
            max=0.95,
            help="With --counts or --borders: share of features dropped in training.",
        ),
    ] = 0.1,
    layers: Annotated[
        int,
        typer.Option(
            "--layers",
            rich_help_panel=_START,
            min=0,
            help="Deepen the network of --from to so many; new layers at first do nothing.",
        ),
    ] = 0,
    freeze: Annotated[
        int,
        typer.Option(
            "--freeze",
            rich_help_panel=_DATA,
            min=0,
            help="Leave the embeddings and the first N layers as they are.",
        ),
    ] = 0,
    lora: Annotated[
        int,
        typer.Option(
            "--lora",
            rich_help_panel=_DATA,
            min=0,
            help="Train low-rank updates of this rank instead of the layers; 0 = no.",
        ),
    ] = 0,
    epochs: Annotated[int, typer.Option("--epochs", rich_help_panel=STEPS, min=1)] = 5,
    steps: Annotated[
        int, typer.Option("--steps", rich_help_panel=STEPS, min=0, help="Optimiser steps; 0 = by --epochs.")
    ] = 0,
    batch_size: BatchSize = 128,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 2e-4,
    warmup: Warmup = 0.0,
    weight_decay: WeightDecay = 0.0,
    clip_norm: ClipNorm = 1.0,
    class_weights: Annotated[
        ClassWeights,
        typer.Option(
            "--class-weights",
            rich_help_panel=_DATA,
            help="balanced: all classes of a rank count the same in the loss.",
        ),
    ] = ClassWeights.none,
    reverse_complement: Annotated[
        bool,
        typer.Option("--reverse-complement", rich_help_panel=_DATA, help="Turn each window round at random."),
    ] = False,
    label_smoothing: Annotated[
        float,
        typer.Option(
            "--label-smoothing",
            rich_help_panel=_DATA,
            min=0,
            max=0.9,
            help="Share of each label that is spread over all classes.",
        ),
    ] = 0.0,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced",
            rich_help_panel=_DATA,
            help="Draw windows so that the classes of the narrowest rank come equally often within each of "
            "the widest, and these by the square root of how many they hold.",
        ),
    ] = False,
    shortest: Annotated[
        int,
        typer.Option(
            "--shortest",
            rich_help_panel=_DATA,
            min=0,
            help="Cut windows at random, down to so many letters, to know short reads too; 0 = never.",
        ),
    ] = 0,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            rich_help_panel=WATCHING,
            help="Score on the validation split that chooses the weights to keep: loss, or "
            "balanced_accuracy_RANK; by default that of the narrowest rank.",
        ),
    ] = "",
    validate_every: ValidateEvery = 0,
    patience: Patience = 0,
    examined: Annotated[
        int,
        typer.Option(
            "--examined",
            rich_help_panel=WATCHING,
            min=0,
            help="Score at most so many windows of the validation and of the test split, of all classes "
            "equally many where there are; 0 = all.",
        ),
    ] = 0,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out",
            rich_help_panel=_STORED,
            min=0,
            help="Test windows to keep in the checkpoint for wyr evaluate.",
        ),
    ] = 0,
    name: Annotated[str, typer.Option("--name", rich_help_panel=_STORED, help="Name of the model.")] = "",
    notice: Annotated[
        str,
        typer.Option("--notice", rich_help_panel=_STORED, help="A line that every user of the model sees."),
    ] = "",
    half: Annotated[
        bool, typer.Option("--half", rich_help_panel=_STORED, help="Store weights as bf16: half the size.")
    ] = False,
    resume: Resume = False,
    save_minutes: SaveMinutes = 5.0,
    figure: CurveFigure = None,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    threads: Threads = 0,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a dataset: a Nucleotide Transformer with one linear head per rank.

    The defaults are the paper's (sum of the cross-entropies, learning rate 2e-4, cosine, batch 128, 5
    epochs), but for gradients clipped at norm 1 and bf16 where the device has it.  The weights with the
    best score on the validation split are kept; balanced accuracy on the validation and test splits is
    printed and stored.

    Beside the checkpoint, OUTPUT.run holds the state of the training, its metrics (metrics.jsonl) and, where
    TensorBoard is installed, its logs.  SIGTERM and Ctrl-C save the state before they end; --resume goes on
    from the last state, also after the process was killed.  Several GPUs: torchrun --nproc-per-node=8 -m
    wyrcli finetune ...
    """
    from dataclasses import asdict

    import torch

    from wyrcli import training
    from wyrcli.adapting import add_lora, deepen, freeze_layers, merge_lora
    from wyrcli.checkpoint import save_checkpoint
    from wyrcli.dataset import Dataset
    from wyrcli.distribution import join_world
    from wyrcli.engine import TrainingOptions
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.model.explanandum import BaseExplanandum, Explanandum
    from wyrcli.model.proof import prove
    from wyrcli.model.tokens import KmerTokenizer, Tokenizer
    from wyrcli.outputs import check_new_directory
    from wyrcli.starting import (
        check_alphabet,
        check_length,
        find_start,
        start_from_config,
        start_from_weights,
    )

    if (config is None) == (not start):
        raise typer.BadParameter("name either --from or --config")
    if embeddings is not Embeddings.random and config is None:
        raise typer.BadParameter(f"--embeddings {embeddings} starts from --config, not from trained weights")
    if counts and (config is None or pooling is Pooling.cls or freeze or lora):
        raise typer.BadParameter("--counts goes with --config and --pooling mean, and trains all of it")
    if every_frame and not counts:
        raise typer.BadParameter("--every-frame goes with --counts")
    if borders and (not start or layers or freeze or lora or pooling is Pooling.cls):
        raise typer.BadParameter("--borders goes with --from and --pooling mean, and trains all of it")
    if layers and config is not None:
        raise typer.BadParameter("--layers deepens the network of --from; a config has its own number")
    if freeze and lora:
        raise typer.BadParameter("--lora leaves all layers as they are; it goes without --freeze")
    check_figure(figure)
    data = Dataset.open(dataset)
    ranks = data.taxonomy.ranks
    metrics = ["loss", *(f"balanced_accuracy_{rank}" for rank in ranks)]
    if metric and metric not in metrics:
        raise typer.BadParameter(f"'{metric}'; expected one of {', '.join(metrics)}", param_hint="--metric")
    set_threads(threads)
    with join_world(choose_device(device)) as world:
        quiet = quiet or not world.leads
        where = world.device
        options = TrainingOptions(
            learning_rate=learning_rate,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            warmup=warmup,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            accumulate=accumulate,
            precision="bf16" if choose_precision(precision, where) == torch.bfloat16 else "fp32",
            reverse_complement=reverse_complement,
            balanced=balanced,
            shortest=shortest,
            label_smoothing=label_smoothing,
            validate_every=validate_every,
            patience=patience,
            seed=seed,
        )
        about = {
            "command": "wyr finetune",
            "options": asdict(options),
            "start": start or (config and config.read_text(encoding="utf-8")),
            "embeddings": str(embeddings),
            "pooling": pooling,
            "counts": counts,
            "every_frame": every_frame,
            "borders": borders,
            "dropout": dropout if counts or borders else None,
            "layers": layers,
            "freeze": freeze,
            "lora": lora,
            "class_weights": str(class_weights),
            "metric": metric,
            "dataset": str(dataset),
        }
        if not (resume and was_finished(output)):
            check_new_directory(output)
        session = open_session(output, about, world, resume=resume, quiet=quiet)
        if session.is_done:
            return
        explanandum: BaseExplanandum
        tokenizer: Tokenizer
        if config is not None:
            explanandum, tokenizer = start_from_config(
                config,
                data.taxonomy.sizes,
                pooling or Pooling.mean,
                embeddings=embeddings,
                seed=seed,
            )
        else:
            source = find_start(start, download=download)
            explanandum, tokenizer = start_from_weights(source, data.taxonomy, pooling, seed=seed)
        if layers:
            deepen(explanandum, layers)
        check_length(explanandum, tokenizer, data.window_bp)
        check_alphabet(tokenizer, data)
        if reverse_complement and tokenizer.alphabet != "dna":
            raise typer.BadParameter("--reverse-complement is for DNA")
        if not isinstance(tokenizer, KmerTokenizer):
            prove(explanandum.to(where), tokenizer)
        if freeze:
            freeze_layers(explanandum, freeze)
        if lora:
            add_lora(explanandum, lora)
        train = data.split("train")
        validation, test = data.split("validation"), data.split("test")
        if examined:
            validation, test = validation.sample_evenly(examined), test.sample_evenly(examined)
        total = options.total_steps(len(train))
        say(describe_work(explanandum, len(train), total, options, world), quiet)
        weights = None
        if class_weights is ClassWeights.balanced:
            weights = training.weigh_classes(train.labels, data.taxonomy.sizes)
        with watch(session, total, leads=world.leads, quiet=quiet) as report:
            common: dict[str, Any] = {
                "validation": validation,
                "ranks": ranks,
                "metric": metric,
                "run": session.run,
                "state": session.state,
                "save_every_s": 60 * save_minutes,
            }
            work = (train, options, world, report)
            if counts and isinstance(explanandum, Explanandum) and isinstance(tokenizer, KmerTokenizer):
                result = training.count(
                    explanandum, tokenizer, *work, dropout=dropout, every_frame=every_frame, **common
                )
            elif borders:
                if not isinstance(explanandum, Explanandum) or not isinstance(tokenizer, KmerTokenizer):
                    raise typer.BadParameter("--borders is for the Nucleotide Transformer")
                try:
                    explanandum, result = training.read_borders(
                        explanandum, tokenizer, *work, dropout=dropout, **common
                    )
                except ValueError as error:
                    raise typer.BadParameter(f"--borders: {error}") from None
            else:
                result = training.finetune(explanandum, tokenizer, *work, class_weights=weights, **common)
        if lora:
            merge_lora(explanandum)
        explanandum.freeze()
        if half:  # scored as stored
            explanandum.to(torch.bfloat16).float()
        splits = {"validation": validation, "test": test}
        scores = {
            split: dict(zip(ranks, training.validate(explanandum, tokenizer, windows, world), strict=True))
            for split, windows in splits.items()
            if len(windows)
        }
        if not world.leads:
            return
        for split, values in scores.items():
            say(f"{split} balanced accuracy: " + ", ".join(f"{r} {v:.4f}" for r, v in values.items()), quiet)
        record = about | {
            "start": start or str(config),
            "dataset": data.info,
            "last": result.last,
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "best_step": result.best_step,
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
            held_out=test.sample(held_out, seed) if held_out else None,
        )
        conclude(f"checkpoint in {output}", session, result, figure, quiet=quiet)
