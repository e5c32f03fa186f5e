"""``wyr train-explainer``: the network that says which tokens matter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wyrcli.cli.console import say, warn
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
from wyrcli.cli.session import (
    STEPS,
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
    check_figure,
    conclude,
    describe_work,
    open_session,
    was_finished,
    watch,
)

__all__ = ["train_explainer"]

_LOSS, _NETWORK, _DATA, _STORED = "The loss", "The network", "Windows", "What is stored"

Weight = Annotated[
    float | None, typer.Option(min=0, rich_help_panel=_LOSS, help="Replaces the preset's weight.")
]


def train_explainer(
    model: Annotated[Path, typer.Argument(help="Checkpoint directory of the classifier.", metavar="MODEL")],
    data: Annotated[Path, typer.Option("--data", help="Dataset directory from wyr prepare.")],
    explainer: ExplainerOption = ExplainerKind.state,
    operator: Annotated[
        Operator, typer.Option("--operator", help="What a mask does to the classifier.")
    ] = Operator.gate,
    preset: Annotated[
        Preset, typer.Option("--preset", rich_help_panel=_LOSS, help="Weights and choices of the loss.")
    ] = Preset.balanced,
    classification: Weight = None,
    entropy: Weight = None,
    target_area: Weight = None,
    non_target_area: Weight = None,
    bounds: Weight = None,
    total_variation: Weight = None,
    min_area: Annotated[
        float | None, typer.Option(rich_help_panel=_LOSS, min=0, max=1, help="a: least share of tokens.")
    ] = None,
    max_area: Annotated[
        float | None, typer.Option(rich_help_panel=_LOSS, min=0, max=1, help="b: largest share of tokens.")
    ] = None,
    classification_temperature: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_LOSS, help="Divides the logits in the classification term; below 1, sharper."
        ),
    ] = None,
    single_rank: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_LOSS,
            min=0,
            max=1,
            help="Share of steps in which one rank's mask must do for it alone.",
        ),
    ] = None,
    concrete_temperature: Annotated[
        float | None,
        typer.Option(rich_help_panel=_LOSS, min=0, help="Binary concrete noise on m in training; 0 = none."),
    ] = None,
    normalised: Annotated[
        bool | None,
        typer.Option(
            "--normalised/--not-normalised",
            rich_help_panel=_LOSS,
            help="Read the masked answer as if the mean were over the kept tokens alone.",
        ),
    ] = None,
    dropping: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_LOSS,
            min=0,
            max=0.99,
            help="Hide up to this share of the kept tokens as well, at random.",
        ),
    ] = None,
    target_labels: Annotated[
        str | None,
        typer.Option(
            "--target-labels", rich_help_panel=_LOSS, help="true or predicted classes choose the mask."
        ),
    ] = None,
    entropy_divisor: Annotated[
        str | None,
        typer.Option("--entropy-divisor", rich_help_panel=_LOSS, help="classes (as printed), log or none."),
    ] = None,
    states: Annotated[
        int,
        typer.Option(
            "--states",
            rich_help_panel=_NETWORK,
            min=0,
            help="state: number of last hidden states; 0 = all, embeddings too.",
        ),
    ] = 0,
    width: Annotated[
        int, typer.Option("--width", rich_help_panel=_NETWORK, min=1, help="state: features per token.")
    ] = 64,
    hidden: Annotated[
        int, typer.Option("--hidden", rich_help_panel=_NETWORK, min=1, help="lstm: units per direction.")
    ] = 80,
    embeddings: Annotated[
        Embeddings,
        typer.Option(
            "--embeddings",
            rich_help_panel=_NETWORK,
            help="lstm: start of k-mer embeddings, as in wyr finetune.",
        ),
    ] = Embeddings.random,
    evidence: Annotated[
        float,
        typer.Option(
            "--evidence",
            rich_help_panel=_LOSS,
            min=0,
            max=0.9,
            help="Learn which share of the tokens speaks most for each class, by the gradient of its "
            "probability with respect to the mask, instead of the loss; go on with --continue.",
        ),
    ] = 0.0,
    smoothed: Annotated[
        int,
        typer.Option(
            "--smoothed",
            rich_help_panel=_LOSS,
            min=1,
            max=101,
            metavar="TOKENS",
            help="With --evidence: its mean over so many neighbouring tokens, an odd number.",
        ),
    ] = 1,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced", rich_help_panel=_DATA, help="Draw rare classes more often, as wyr finetune."
        ),
    ] = False,
    reverse_complement: Annotated[
        bool,
        typer.Option(
            "--reverse-complement", rich_help_panel=_DATA, help="Turn each window of DNA round at random."
        ),
    ] = False,
    extend: Annotated[
        bool,
        typer.Option(
            "--continue",
            rich_help_panel=_NETWORK,
            help="Start from the Explainer of this kind that is there; replaces it.",
        ),
    ] = False,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine",
            rich_help_panel=_NETWORK,
            help="Teach the Explainer that is there the mean of its masks over all reading frames; "
            "replaces it.",
        ),
    ] = False,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            rich_help_panel=_DATA,
            min=0,
            help="Train on so many windows, drawn at random; 0 = all. [paper: 239391]",
        ),
    ] = 0,
    epochs: Annotated[int, typer.Option("--epochs", rich_help_panel=STEPS, min=1)] = 1,
    steps: Annotated[
        int,
        typer.Option(
            "--steps",
            rich_help_panel=STEPS,
            min=0,
            help="Optimiser steps; 0 = by --epochs, at least 500 (lstm: 1,500).",
        ),
    ] = 0,
    batch_size: BatchSize = 64,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 2e-3,
    warmup: Warmup = 0.05,
    clip_norm: ClipNorm = 1.0,
    validate_every: ValidateEvery = 0,
    patience: Patience = 0,
    half: Annotated[
        bool, typer.Option("--half", rich_help_panel=_STORED, help="Store weights as bf16: half the size.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=_STORED, help="Replace an Explainer of this kind.")
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
    """Train an Explainer for a frozen classifier; it is stored beside the classifier, in MODEL/explainers.

    The loss has the paper's four terms.  The preset 'paper' is as printed there; 'balanced' is ours, and
    'compact', for classifiers with mean pooling, keeps less than half as much; any
    weight can be replaced.  The weights with the lowest loss on the validation split are kept.

    Beside the Explainer, a folder that ends in .run holds the state of the training and its metrics; --resume
    goes on from there.  Several GPUs: torchrun --nproc-per-node=8 -m wyrcli train-explainer ...
    """
    from dataclasses import asdict, replace

    import torch

    from wyrcli import training
    from wyrcli.checkpoint import (
        explainer_name,
        list_explainers,
        load_checkpoint,
        load_explainer,
        save_explainer,
    )
    from wyrcli.dataset import Dataset
    from wyrcli.distribution import join_world
    from wyrcli.engine import TrainingOptions
    from wyrcli.errors import CheckpointError
    from wyrcli.inference import choose_device, choose_precision
    from wyrcli.model.backbone import compose_embeddings
    from wyrcli.model.explainer import LstmExplainer, build_explainer
    from wyrcli.model.loss import PRESETS, SHARP
    from wyrcli.model.tokens import KmerTokenizer
    from wyrcli.starting import check_alphabet

    check_figure(figure)
    checkpoint = load_checkpoint(model)
    explanandum, tokenizer = checkpoint.explanandum, checkpoint.tokenizer
    if refine and not isinstance(tokenizer, KmerTokenizer):
        raise typer.BadParameter("--refine is for k-mers, which have reading frames")
    extend = extend or refine
    if explanandum.architecture == "transformers" and preset is not Preset.paper:
        concrete_temperature = SHARP if concrete_temperature is None else concrete_temperature
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
        "normalised": normalised,
        "dropping": dropping,
        "target_labels": target_labels,
        "entropy_divisor": entropy_divisor,
    }
    if refine and any(value is not None for name, value in chosen.items() if name != "concrete_temperature"):
        raise typer.BadParameter(
            "--refine follows the Explainer that is there; weights of the loss are not used"
        )
    if evidence and (refine or any(value is not None for value in chosen.values())):
        raise typer.BadParameter("--evidence goes without --refine and without weights of the loss")
    if smoothed % 2 == 0 or (smoothed > 1 and not evidence):
        raise typer.BadParameter("an odd number, and with --evidence", param_hint="--smoothed")
    try:
        loss = replace(PRESETS[preset], **{k: v for k, v in chosen.items() if v is not None})  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if loss.normalised and (explanandum.architecture == "transformers" or explanandum.pooling != "mean"):
        raise typer.BadParameter(
            "a normalised loss is for mean pooling; this classifier reads other tokens: --not-normalised"
        )
    set_threads(threads)
    name = explainer_name(explainer, operator)
    output = model / "explainers" / name
    with join_world(choose_device(device)) as world:
        quiet = quiet or not world.leads
        where = world.device
        if operator is Operator.scale_embedding and explanandum.pooling == "mean" and world.leads:
            warn("scale-embedding is for <cls> heads: with mean pooling, what it masks still enters the mean")
        replaces = force or extend or (resume and was_finished(output))
        if name in list_explainers(model) and not replaces:
            raise CheckpointError(
                f"{model}: has an Explainer '{name}' already; --force replaces it, --continue goes on from it"
            )
        dataset = Dataset.open(data)
        check_alphabet(tokenizer, dataset)
        if reverse_complement and tokenizer.alphabet != "dna":
            raise typer.BadParameter("--reverse-complement is for DNA")
        train = dataset.split_for("train", checkpoint.taxonomy)
        if sample:
            train = train.sample(sample, seed)
        options = TrainingOptions(
            learning_rate=learning_rate,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps or max(epochs * -(-len(train) // batch_size), 500 if explainer == "state" else 1500),
            warmup=warmup,
            clip_norm=clip_norm,
            accumulate=accumulate,
            precision="bf16" if choose_precision(precision, where) == torch.bfloat16 else "fp32",
            validate_every=validate_every,
            patience=patience,
            balanced=balanced,
            reverse_complement=reverse_complement,
            seed=seed,
        )
        about = {
            "command": "wyr train-explainer",
            "explainer": name,
            "preset": str(preset),
            "loss": asdict(loss),
            "options": asdict(options),
            "embeddings": str(embeddings),
            "states": states,
            "width": width,
            "hidden": hidden,
            "sample": sample,
            "continue": extend,
            "refine": refine,
            "evidence": evidence,
            "smoothed": smoothed,
            "dataset": str(data),
        }
        session = open_session(output, about, world, resume=resume, quiet=quiet, replace=force or extend)
        if session.is_done:
            return
        earlier = load_explainer(model, explainer, operator) if extend else None
        torch.manual_seed(seed)
        n_classes = checkpoint.taxonomy.n_classes
        if explainer is ExplainerKind.state:
            sizes = {
                "hidden_size": explanandum.hidden_size,
                "n_states": min(states or explanandum.n_states, explanandum.n_states),
                "n_classes": n_classes,
                "width": width,
                **({"kernel": smoothed} if evidence else {}),
            }
        else:
            sizes = {"vocab_size": tokenizer.vocab_size, "n_classes": n_classes, "hidden": hidden}
        network = build_explainer(explainer, sizes) if earlier is None else earlier.explainer
        network.requires_grad_(True)
        if embeddings is not Embeddings.random and earlier is None:
            if not isinstance(network, LstmExplainer) or not isinstance(tokenizer, KmerTokenizer):
                raise typer.BadParameter(
                    "--embeddings is for --explainer lstm on k-mers; the others read the classifier's states"
                )
            strandless = embeddings is Embeddings.strandless
            compose_embeddings(network.embedding, tokenizer.kmers(), seed, strandless=strandless)
        total = options.total_steps(len(train))
        say(f"{name}: {describe_work(network, len(train), total, options, world)}", quiet)
        with watch(session, total, leads=world.leads, quiet=quiet) as report:
            result = training.train_explainer(
                network,
                explanandum,
                tokenizer,
                train,
                operator,
                loss,
                options,
                world,
                report,
                refine=refine,
                evidence=evidence,
                smoothed=smoothed,
                continued=extend,
                validation=dataset.split_for("validation", checkpoint.taxonomy),
                run=session.run,
                state=session.state,
                save_every_s=60 * save_minutes,
            )
        if not world.leads:
            return
        record = about | {
            "dataset": dataset.info,
            "last": result.last,
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "best_step": result.best_step,
            "validation": result.scores,
        }
        if earlier is not None:
            record["continued_from"] = earlier.training
        path = save_explainer(
            model,
            network.cpu(),
            operator,
            training=record,
            dtype=torch.bfloat16 if half else torch.float32,
            force=force or extend,
        )
        conclude(f"Explainer in {path}", session, result, figure, quiet=quiet)
