"""The loop that trains: steps, schedule, validation, and stopping at any moment without losing anything.

:func:`fit` knows nothing of classifiers and masks.  What it trains is a :class:`Task`, a module from a
piece of a step to a loss.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wyrcli.batching import Piece, Plan, Windows, balance, cut_pieces
from wyrcli.distribution import World
from wyrcli.errors import InputError, Interrupted, WyrError
from wyrcli.model.tokens import Tokenizer
from wyrcli.prefetching import prefetch
from wyrcli.runs import RunFolder, State

__all__ = ["Progress", "Report", "Result", "Task", "TrainingOptions", "fit"]

_AHEAD = 3  # steps that are tokenised before they are asked for
_AGREE_EVERY = 10  # steps after which several processes ask each other whether to stop, or to save


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.  The defaults are the paper's for the Explanandum (section 3.3), which clips nothing.

    Parameters
    ----------
    batch_size: windows of a step, all processes and pieces together.
    steps: overrides ``epochs`` where it is not 0.
    warmup: share of the steps during which the learning rate rises linearly before its cosine falls.
    clip_norm: longest gradient; 0 for no limit.
    accumulate: pieces in which each process computes its part of a step, to need less memory.
    precision: fp32 or bf16 (autocast).
    reverse_complement: each window is turned round with probability one half.
    bucket: windows of a step are of like length.
    balanced: draw windows so that classes are seen equally often (:func:`wyrcli.batching.balance`).
    shortest: cut windows at random, down to this length (:func:`wyrcli.batching.cut_at_random`); 0 = never.
    label_smoothing: share of a classifier's label that is spread over all classes (Szegedy et al. 2016).
    validate_every: steps between validations; 0 for once an epoch.
    patience: stop after so many validations without a better score; 0 never stops.
    seed: of the order of windows and of all else that is drawn.
    """

    learning_rate: float = 2e-4
    batch_size: int = 128
    epochs: int = 5
    steps: int = 0
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    accumulate: int = 1
    precision: str = "fp32"
    reverse_complement: bool = False
    bucket: bool = True
    balanced: bool = False
    shortest: int = 0
    label_smoothing: float = 0.0
    validate_every: int = 0
    patience: int = 0
    seed: int = 0

    def weigh(self, windows: Windows) -> NDArray[np.float64] | None:
        """How often each window is to be drawn; None for all alike."""
        return balance(windows.labels) if self.balanced else None

    def total_steps(self, n_windows: int) -> int:
        """Number of optimiser steps for a training set of that size."""
        return self.steps or self.epochs * -(-n_windows // self.batch_size)


class Progress(NamedTuple):
    """What :func:`fit` tells its caller now and then.

    ``values``: means since the last report, with ``windows_per_s`` and ``learning_rate``; or, where
    ``is_validation``, scores.
    """

    step: int
    total_steps: int
    values: dict[str, float]
    is_validation: bool = False


Report = Callable[[Progress], None]


class Result(NamedTuple):
    """What came out.

    ``last``: values of the last report.  ``steps``: done.  ``best_step`` and ``scores``: of the weights that
    the module holds now; scores are empty where nothing was validated.  ``seconds``: of training, validation
    and pauses for saving included, times before a resume too.
    """

    last: dict[str, float]
    steps: int
    best_step: int
    scores: dict[str, float]
    seconds: float


class Task(nn.Module):
    """What is trained.

    ``trained``: the part whose weights change and are stored.  ``metric``: the score that chooses the best
    weights, ``loss`` (lower is better) or another of :meth:`validate` (higher is better).
    ``n_frames``: reading frames of its pieces.
    """

    trained: nn.Module
    metric = "loss"
    n_frames = 1

    def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a piece, and values to report, all 0-d tensors."""
        raise NotImplementedError

    def validate(self, world: World) -> dict[str, float]:
        """Scores on the validation windows, in each process the same; empty where there are none."""
        return {}


def fit(
    task: Task,
    windows: Windows,
    tokenizer: Tokenizer,
    options: TrainingOptions,
    world: World,
    report: Report,
    *,
    run: RunFolder | None = None,
    state: State | None = None,
    report_every: int = 25,
    save_every_s: float = 300.0,
) -> Result:
    """Train; the module ends with its best weights where there are scores, and otherwise with its last.

    AdamW (Adam where no weight decay is asked for), linear warm-up, cosine to zero, clipped gradients.

    Parameters
    ----------
    run, state: where to keep the training, and what :meth:`RunFolder.begin` found there.

    Raises
    ------
    Interrupted: SIGTERM or SIGINT came; the state is saved, if there is a ``run``.
    InputError: the loss is no number any more.
    """
    lengths = getattr(windows.sequences, "lengths", None) if options.bucket else None
    plan = Plan(len(windows), options.batch_size, options.seed, lengths, options.weigh(windows))
    total = options.total_steps(len(windows))
    every = options.validate_every or plan.steps_per_epoch
    trainer = _Trainer(task, options, world, total)
    course = _Course() if state is None else trainer.restore(state)
    _check_shared(world, course.done)
    if course.done < total and not course.stopped:
        pieces = cut_pieces(
            windows,
            tokenizer,
            plan,
            steps=range(course.done, total),
            both_strands=options.reverse_complement,
            shortest=options.shortest,
            accumulate=options.accumulate,
            n_frames=task.n_frames,
            number=world.number,
            size=world.size,
        )
        with closing(prefetch(_pinned(pieces, world.device), _AHEAD)) as ahead, _signals() as told:
            meter = _Meter(world, course.meter)
            saved = time.monotonic()
            begun = saved - course.seconds
            task.train()
            for step_pieces in ahead:
                trainer.step(step_pieces, meter, course.done)
                course.done += 1
                done = course.done
                at_end = done == total
                if done % report_every == 0 or at_end:
                    course.last = meter.read(done)
                    course.last["learning_rate"] = trainer.learning_rate
                    _tell(Progress(done, total, course.last), world, run, report)
                if done % every == 0 or at_end:
                    with meter.pause():
                        world.share_buffers(task.trained)
                        at_end = _validate(task, course, total, options, world, run, report) or at_end
                stop = save = at_end
                if world.size == 1 or done % _AGREE_EVERY == 0 or at_end:
                    stop = world.any(bool(told)) or at_end
                    save = world.any(world.leads and time.monotonic() - saved >= save_every_s) or stop
                course.seconds = time.monotonic() - begun
                if run is not None and save:
                    course.meter = meter.facts(done)
                    if world.leads:
                        run.save("last", trainer.state(course))
                    saved = time.monotonic()
                if at_end:
                    break
                if stop:
                    world.wait()
                    number = told[0] if told else signal.SIGTERM
                    kept = f"; its state is in {run.path}, --resume continues it" if run is not None else ""
                    raise Interrupted(f"stopped after step {done:,} of {total:,}{kept}", number)
    world.wait()
    if run is not None and course.best_step:
        best = run.load("best")
        _check_shared(world, 0 if best is None else best.step)
        if best is not None:
            # Killed after it was saved, and redone with other rounding, it may be another than we think.
            course.best_step, course.scores = best.step, best.facts["scores"]
            task.trained.load_state_dict(best.weights)
    elif course.best_weights is not None:
        task.trained.load_state_dict(course.best_weights)
    task.eval()
    best_step = course.best_step or course.done
    return Result(course.last, course.done, best_step, course.scores, course.seconds)


def _check_shared(world: World, step: int) -> None:
    """Raise WyrError where processes have found states of different steps."""
    if not world.agree(step):
        raise WyrError("the processes of this training do not see one folder; it must be on a shared disk")


_WORST = (-math.inf, -math.inf)


@dataclass
class _Course:
    """How far a training is; all of it but the weights is stored with a state."""

    done: int = 0
    best_step: int = 0
    best: tuple[float, float] = _WORST  # the metric, and of equal ones the loss; higher is better
    stale: int = 0  # validations without a better score
    stopped: bool = False
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    meter: dict[str, Any] = field(default_factory=dict)  # what was measured since the last report
    best_weights: dict[str, Tensor] | None = None  # only where no folder keeps them

    def facts(self) -> dict[str, Any]:
        names = ("best_step", "stale", "stopped", "seconds", "scores", "last", "meter")
        best = self.best if self.best_step else ()
        return {name: getattr(self, name) for name in names} | {"best": best}

    @classmethod
    def from_facts(cls, done: int, facts: Mapping[str, Any]) -> _Course:
        return cls(done, **(dict(facts) | {"best": tuple(facts["best"]) or _WORST}))


class _Trainer:
    """Module, optimiser and schedule."""

    def __init__(self, task: Task, options: TrainingOptions, world: World, total: int) -> None:
        self._task, self._options, self._world, self._total = task, options, world, total
        task.to(world.device)
        self._parameters = {n: p for n, p in task.trained.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise InputError("nothing is left to train: all weights are frozen")
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self._module = world.wrap(task)
        self._warmup = int(options.warmup * total)
        self.learning_rate = 0.0  # of the last step

    def _rate(self, done: int) -> float:
        if done < self._warmup:
            return (done + 1) / self._warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self._warmup) / max(self._total - self._warmup, 1)))

    def step(self, pieces: list[Piece], meter: _Meter, done: int) -> None:
        """One step of the optimiser, after so many."""
        options, world = self._options, self._world
        # What the network draws itself (dropout) follows from the place, too.
        torch.manual_seed(((options.seed * 1_000_003 + done) * 4099 + world.number) % 2**63)
        self._optimiser.zero_grad(set_to_none=True)
        autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=options.precision == "bf16")
        for i, piece in enumerate(pieces):
            # Processes exchange gradients once a step, with its last piece.
            waits = world.size > 1 and i + 1 < len(pieces)
            with self._module.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with autocast:
                    loss, values = self._module(piece.to(world.device))
                meter.add({"loss": loss, **values}, piece)
                # Gradients are averaged over processes; what is wanted is the mean over windows.
                torch.autograd.backward(loss * (piece.share * world.size))
        if options.clip_norm:
            nn.utils.clip_grad_norm_(self._parameters.values(), options.clip_norm)
        self.learning_rate = options.learning_rate * self._rate(done)
        for group in self._optimiser.param_groups:
            group["lr"] = self.learning_rate
        self._optimiser.step()

    def state(self, course: _Course) -> State:
        """All that is needed to go on."""
        optimiser = {
            f"{name}.{key}": torch.as_tensor(value)
            for name, weight in self._parameters.items()
            for key, value in self._optimiser.state[weight].items()
        }
        return State(course.done, dict(self._task.trained.state_dict()), optimiser, course.facts())

    def restore(self, state: State) -> _Course:
        """Continue from a state.  Raises InputError if it is of other weights."""
        try:
            self._task.trained.load_state_dict(state.weights)
            for name, weight in self._parameters.items():
                prefix = name + "."
                # On the device all of it, the number of steps too: a fused optimiser wants it there.
                self._optimiser.state[weight] = {
                    key.removeprefix(prefix): value.to(weight.device)
                    for key, value in state.optimiser.items()
                    if key.startswith(prefix) and "." not in key.removeprefix(prefix)
                }
            course = _Course.from_facts(state.step, state.facts)
        except (RuntimeError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(f"the state of the training does not fit: {reason}") from None
        return course


class _Meter:
    """Means of what the steps report; the device is asked only when they are read.

    ``facts``: of a meter whose course this one continues.
    """

    def __init__(self, world: World, facts: Mapping[str, Any]) -> None:
        self._world = world
        self._restart()
        if world.leads:  # what all processes had measured goes on in one of them
            for name, total in facts.get("sums", {}).items():
                self._sums[name] = torch.tensor(total, device=world.device)
        self._steps.update(facts.get("steps", ()))

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: set[int] = set()
        self._windows = 0.0
        self._begun = time.perf_counter()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What is done in this block takes no time."""
        begun = time.perf_counter()
        yield
        self._begun += time.perf_counter() - begun

    def add(self, values: Mapping[str, Tensor], piece: Piece) -> None:
        for name, value in values.items():
            weighted = value.detach().float() * piece.share
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted
        self._steps.add(piece.step)
        self._windows += len(piece.batch) if piece.share else 0

    def facts(self, done: int) -> dict[str, Any]:
        """What was measured since the last reading, in all processes; empty where that is nothing."""
        if not self._steps:
            return {}
        totals = self._total()
        del totals["windows"]
        _check_loss(totals["loss"], done)
        return {"steps": sorted(self._steps), "sums": totals}

    def read(self, done: int) -> dict[str, float]:
        """The means since the last reading, over all processes."""
        totals = self._total()
        windows = totals.pop("windows")
        values = {name: total / len(self._steps) for name, total in totals.items()}
        values["windows_per_s"] = windows / (time.perf_counter() - self._begun)
        self._restart()
        _check_loss(values["loss"], done)
        return values

    def _total(self) -> dict[str, float]:
        windows = torch.tensor(self._windows).to(self._sums["loss"])
        totals = self._world.sum(torch.stack([*self._sums.values(), windows]))
        return dict(zip([*self._sums, "windows"], totals.tolist(), strict=True))


def _check_loss(loss: float, done: int) -> None:
    """Raise InputError if it is no number any more: such weights are not worth keeping."""
    if not math.isfinite(loss):
        raise InputError(f"training diverged before step {done:,}; try a lower learning rate")


def _validate(
    task: Task,
    course: _Course,
    total: int,
    options: TrainingOptions,
    world: World,
    run: RunFolder | None,
    report: Report,
) -> bool:
    """Score the weights and keep them if they are the best; whether to stop early."""
    task.eval()
    scores = task.validate(world)
    task.train()
    if not scores:
        return False
    _check_loss(scores["loss"], course.done)
    found = (0.0 if task.metric == "loss" else scores[task.metric], -scores["loss"])
    if found > course.best or not course.best_step:
        course.best, course.best_step, course.scores, course.stale = found, course.done, scores, 0
        if world.leads and run is not None:
            run.save("best", State(course.done, dict(task.trained.state_dict()), {}, {"scores": scores}))
        elif run is None:
            course.best_weights = {n: t.detach().clone() for n, t in task.trained.state_dict().items()}
    else:
        course.stale += 1
    _tell(Progress(course.done, total, scores, is_validation=True), world, run, report)
    course.stopped = bool(options.patience) and course.stale >= options.patience
    return course.stopped


def _tell(progress: Progress, world: World, run: RunFolder | None, report: Report) -> None:
    if not world.leads:
        return
    report(progress)
    if run is not None:
        kind = "validation" if progress.is_validation else "training"
        run.note({"step": progress.step, "kind": kind, **progress.values})


def _pinned(steps: Iterator[list[Piece]], device: torch.device) -> Iterator[list[Piece]]:
    """Pieces in page-locked memory where they go to a GPU, so that the copy runs beside its work."""
    for pieces in steps:
        if device.type == "cuda":
            pieces = [piece.pin_memory() for piece in pieces]
        yield pieces


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that asked for a stop; a second Ctrl-C does not wait for the step to end."""
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if told and number == signal.SIGINT:
            raise KeyboardInterrupt
        told.append(number)

    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: whoever runs us there has signals of their own
        pass
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
