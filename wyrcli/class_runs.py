"""Runs of the stability test that train anew: are these the keywords of the class, or of one training?

As SACX does (TurkuNLP/class-explainer): the windows of training and validation are pooled and split again for
each run, two thirds to learn from; the Explainer, and if asked for the classifier too, is trained as it was
before, from other random weights; and what is recognised of the other third is scored.

Each run has a folder, in which its training goes on where it was stopped and what it found is kept:

    run-01-1f2e3d4c/classifier/, classifier.run/        with ``full`` only
    run-01-1f2e3d4c/explainers/state-gate/, explainers/*.run/
    scores-run-01-*.npz
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wyrcli.checkpoint import (
    Checkpoint,
    TrainedExplainer,
    load_checkpoint,
    load_explainer,
    save_checkpoint,
    save_explainer,
)
from wyrcli.class_scores import PassOptions, score_classes
from wyrcli.dataset import LabelledWindows
from wyrcli.distribution import World
from wyrcli.engine import Report, TrainingOptions
from wyrcli.errors import CheckpointError
from wyrcli.examination import Subject
from wyrcli.keeping import Shelf, digest
from wyrcli.keywords import Asked, Scores
from wyrcli.model.explainer import build_explainer
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.loss import LossOptions
from wyrcli.model.tokens import Tokenizer
from wyrcli.runs import RunFolder
from wyrcli.starting import find_start, start_from_config, start_from_weights
from wyrcli.terms import Terms
from wyrcli.training import finetune, train_explainer

__all__ = ["Retraining", "run_again", "split_again"]

LEARN = 0.67
"""Share of the windows that a run learns from, as in SACX."""


@dataclass(frozen=True)
class Retraining:
    """What is trained anew, and how.

    Parameters
    ----------
    checkpoint, explainer: what is there; their records tell how they were trained.
    windows: of training and validation together.
    folder: where runs are kept.
    device, batch_size: of training, and of scoring.
    full: whether the classifier is trained anew as well.
    start: what its training begins with: weights as for ``wyr finetune --from``, or a config.json; "" for
        what the record tells.
    steps: of every training, in place of the record's; 0 = the record's.
    seed: run i has seed + i.
    """

    checkpoint: Checkpoint
    explainer: TrainedExplainer
    windows: LabelledWindows
    folder: Path
    device: torch.device
    full: bool = False
    start: str = ""
    steps: int = 0
    batch_size: int = 64
    seed: int = 0

    def check(self) -> None:
        """Raise CheckpointError where the records do not tell how to train: worth doing before long work."""
        _stages(self.explainer)
        if self.full:
            record = self.checkpoint.training
            _options(record, 0, 0)
            ways = [way for way in ("counts", "borders", "layers", "freeze", "lora") if record.get(way)]
            if record.get("class_weights", "none") != "none":
                ways.append("class_weights")
            if ways:
                option = f"--{ways[0].replace('_', '-')}"
                raise CheckpointError(
                    f"{self.checkpoint.name}: was trained with {option}, which --retrain full cannot repeat; "
                    "--retrain explainer can be used"
                )
            _begin(self, 0)


def split_again(windows: LabelledWindows, seed: int, learn: float = LEARN) -> NDArray[np.bool_]:
    """Which windows to learn from, (N,): of each class of the last rank about this share of its groups.

    The windows of a group (a genome) stay together, unless a class has only one; a class with two windows or
    more is on both sides.
    """
    rng = np.random.default_rng([seed, 67])
    labels = np.asarray(windows.labels)[:, -1]
    groups = np.array([windows.groups[i] for i in range(len(windows))])
    chosen = np.zeros(len(windows), np.bool_)
    for number in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == number)
        names, owner = np.unique(groups[rows], return_inverse=True)
        if len(names) == 1:
            owner = np.arange(len(rows))
        order = rng.permutation(owner.max() + 1)
        n = min(max(round(learn * len(order)), 1), max(len(order) - 1, 1))
        chosen[rows] = np.isin(owner, order[:n])
    return chosen


def run_again(
    plan: Retraining,
    number: int,
    asked: Sequence[Asked],
    terms: Terms,
    options: PassOptions,
    report: Report = lambda progress: None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Scores:
    """The tally of run ``number``, from 0 on; from its folder if it is there.

    ``terms`` must know all terms of the windows.  Raises WyrError where the folder is of another run.
    """
    options = replace(options, runs=1, bootstrap=False, sample=0)
    about = digest(
        *(path for path in sorted(plan.checkpoint.path.glob("*")) if path.is_file()),
        *sorted((plan.checkpoint.path / "explainers" / plan.explainer.name).glob("*")),
        repr((options, plan.full, plan.start, plan.steps, plan.seed, asked, terms.noun, len(terms))),
        (repr(row) for row in np.asarray(plan.windows.labels).tolist()),
        (plan.windows.sequences[i] for i in range(len(plan.windows))),
    )

    def compute() -> tuple[list[NDArray[np.float64]], float]:
        learn = split_again(plan.windows, plan.seed + number)
        checkpoint, trained = _train(plan, number, plan.windows.select(np.flatnonzero(learn)), about, report)
        subject = Subject(
            checkpoint.explanandum.to(plan.device), checkpoint.tokenizer, plan.device, plan.batch_size
        )
        held = plan.windows.select(np.flatnonzero(~learn))
        explainer = trained.explainer.to(plan.device)
        found = score_classes(subject, explainer, held, asked, terms, options, on_batch=on_batch)
        return found.scores.pack(), 0.0

    arrays, _ = Shelf(plan.folder, about).arrays(f"scores-run-{number + 1:02}", "", compute)
    scores = Scores(len(asked), 1, terms, options.top)
    scores.unpack(arrays)
    return scores


def _train(
    plan: Retraining, number: int, train: LabelledWindows, about: str, report: Report
) -> tuple[Checkpoint, TrainedExplainer]:
    # By what it rests on: a run of other settings is never taken for this one.
    folder = plan.folder / f"run-{number + 1:02}-{about[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = plan.checkpoint
    if plan.full:
        path = folder / "classifier"
        if not path.is_dir():
            _train_classifier(plan, number, train, path, about, report)
        checkpoint = load_checkpoint(path)
    name, operator = plan.explainer.name, plan.explainer.operator
    kind = name.removesuffix(f"-{operator}")
    if not (folder / "explainers" / name).is_dir():
        _train_explainer(plan, number, checkpoint, train, folder, about, report)
    return checkpoint, load_explainer(folder, kind, operator)


def _train_classifier(
    plan: Retraining, number: int, train: LabelledWindows, path: Path, about: str, report: Report
) -> None:
    explanandum, tokenizer = _begin(plan, plan.seed + number)
    options = _options(plan.checkpoint.training, plan.steps, plan.seed + number)
    run = RunFolder(path.with_name("classifier.run"), {"about": about, "options": repr(options)})
    state = run.begin(resume=True)
    finetune(
        explanandum.to(plan.device), tokenizer, train, options, World(device=plan.device), report,
        ranks=plan.checkpoint.taxonomy.ranks, run=run, state=state,
    )  # fmt: skip
    record = {"command": "wyr explain-classes --retrain full", "seed": options.seed}
    save_checkpoint(
        path, explanandum.freeze().cpu(), tokenizer, plan.checkpoint.taxonomy,
        window_bp=plan.checkpoint.window_bp, training=record,
    )  # fmt: skip
    run.finish()


def _begin(plan: Retraining, seed: int) -> tuple[BaseExplanandum, Tokenizer]:
    """The classifier before its training."""
    checkpoint, record = plan.checkpoint, plan.checkpoint.training
    start = plan.start or str(record.get("start", ""))
    if Path(start).is_file():  # the config.json of a network of random weights
        embeddings = str(record.get("embeddings", "random"))
        pooling, sizes = checkpoint.explanandum.pooling, checkpoint.taxonomy.sizes
        return start_from_config(Path(start), sizes, pooling, embeddings=embeddings, seed=seed)
    try:
        source = find_start(start)
    except CheckpointError as error:
        raise CheckpointError(
            f"what the training of {checkpoint.name} began with is not there; name it with --from ({error})"
        ) from None
    return start_from_weights(source, checkpoint.taxonomy, None, seed=seed)


def _train_explainer(
    plan: Retraining,
    number: int,
    checkpoint: Checkpoint,
    train: LabelledWindows,
    folder: Path,
    about: str,
    report: Report,
) -> None:
    """Train through all the stages that the Explainer went through, such as a refinement."""
    previous = plan.explainer
    seed = plan.seed + number
    torch.manual_seed(seed)
    kind = previous.name.removesuffix(f"-{previous.operator}")
    network = build_explainer(kind, previous.explainer.config).to(plan.device)
    explanandum = checkpoint.explanandum.to(plan.device)
    (folder / "explainers").mkdir(exist_ok=True)
    runs = []
    for i, stage in enumerate(_stages(previous)):
        options = _options(stage, plan.steps, seed)
        run = RunFolder(
            folder / "explainers" / f"{previous.name}-{i}.run", {"about": about, "options": repr(options)}
        )
        state = run.begin(resume=True)
        network.requires_grad_(True)
        train_explainer(
            network, explanandum, checkpoint.tokenizer, train, previous.operator, _loss(stage), options,
            World(device=plan.device), report, refine=bool(stage.get("refine")),
            evidence=float(stage.get("evidence", 0.0)), smoothed=int(stage.get("smoothed", 1)),
            continued=i > 0, run=run, state=state,
        )  # fmt: skip
        runs.append(run)
    record = {"command": "wyr explain-classes --retrain", "seed": seed}
    save_explainer(folder, network.cpu(), previous.operator, training=record)
    for run in runs:
        run.finish()


def _stages(trained: TrainedExplainer) -> list[dict[str, Any]]:
    """How an Explainer was trained, the first training first."""
    found: list[dict[str, Any]] = []
    record = trained.training
    while record:
        found.insert(0, record)
        record = record.get("continued_from", {})
    for stage in found:
        _options(stage, 0, 0)
        _loss(stage)
    if not found:
        raise CheckpointError(f"{trained.name}: no record of its training; it cannot be trained anew")
    return found


def _options(record: dict[str, Any], steps: int, seed: int) -> TrainingOptions:
    options: TrainingOptions = _known(TrainingOptions, record.get("options"))
    return replace(options, seed=seed, steps=steps or options.steps)


def _loss(record: dict[str, Any]) -> LossOptions:
    options: LossOptions = _known(LossOptions, record.get("loss"))
    return options


def _known(kind: Any, content: Any) -> Any:
    """A dataclass from the record of a training; what an older record lacks has its default."""
    if not isinstance(content, dict):
        raise CheckpointError(f"the record of a training lacks its {kind.__name__}: {json.dumps(content)}")
    names = {field.name for field in fields(kind)}
    try:
        return kind(**{name: value for name, value in content.items() if name in names})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the record of a training: {error}") from None
