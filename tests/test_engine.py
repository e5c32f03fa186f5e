"""The loop: same weights however a step is divided and wherever it was stopped; which weights are kept."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy import TOKENIZER, Labelled, labelled

from wyrcli.batching import Piece, Plan, cut_pieces
from wyrcli.distribution import World
from wyrcli.engine import Progress, Result, Task, TrainingOptions, fit
from wyrcli.errors import CheckpointError, InputError, Interrupted
from wyrcli.model.tokens import TokenBatch
from wyrcli.runs import RunFolder, State

DATA = labelled(26)
OPTIONS = TrainingOptions(
    learning_rate=0.05, batch_size=4, epochs=2, warmup=0.2, weight_decay=0.01, validate_every=3, seed=7
)
STEPS = 14  # of OPTIONS on DATA; the last of an epoch has two windows
Scores = dict[str, float]


class Guessing(Task):
    """The smallest classifier: a number per token and class, weighed by the noise, and their mean.

    ``scores``: what it says of itself when it is validated, in this order.  ``trouble``: what happens as the
    windows of a step come.
    """

    def __init__(
        self,
        scores: Sequence[Scores] = (),
        metric: str = "loss",
        trouble: dict[int, Callable[[], object]] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.trained = nn.Embedding(len(TOKENIZER.vocabulary), 2, dtype=torch.float64)
        weights = torch.randn(self.trained.weight.shape, generator=torch.Generator().manual_seed(0))
        self.trained.load_state_dict({"weight": weights})
        self.scores, self.metric = list(scores), metric
        self.trouble, self.dropout = trouble or {}, dropout
        self.examined: list[Tensor] = []

    def guess(self, piece: Piece) -> Tensor:
        """Loss of each window."""
        batch = piece.batch
        votes = self.trained(batch.ids) * (batch.valid * piece.noise[..., 0])[..., None]
        votes = F.dropout(votes, self.dropout, self.training)
        logits = votes.sum(1) / batch.valid.sum(1, keepdim=True)
        return F.cross_entropy(logits, piece.labels[:, 0], reduction="none")

    def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        spoilt = self.trouble.get(piece.step, lambda: None)()
        loss = self.guess(piece).mean()
        return loss * math.nan if spoilt == "nan" else loss, {"twice": 2 * loss}

    def validate(self, world: World) -> Scores:
        """The next of the scores, or the sum of the weights where all are told."""
        assert not self.training
        weight = self.trained.weight.detach().clone()
        self.examined.append(weight)
        return self.scores.pop(0) if self.scores else {"loss": weight.abs().sum().item()}


def train(
    task: Task,
    options: TrainingOptions = OPTIONS,
    data: Labelled = DATA,
    report: Callable[[Progress], None] = lambda progress: None,
    **more: object,
) -> Result:
    """:func:`fit` with what most tests want."""
    return fit(task, data, TOKENIZER, options, World(), report, **more)  # type: ignore[arg-type]


def weights(task: Guessing) -> Tensor:
    """All there are."""
    return task.trained.weight.detach().clone()


def metrics(run: RunFolder) -> list[dict[str, float]]:
    """All that was measured, but for the speed, which is never the same."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "windows_per_s"} for line in lines]


# ---------------------------------------------------------------- steps


def test_number_of_steps() -> None:
    """Steps override epochs; a small set still makes one step an epoch."""
    assert TrainingOptions(batch_size=8, epochs=3).total_steps(17) == 9
    assert TrainingOptions(batch_size=8, epochs=3).total_steps(2) == 3
    assert TrainingOptions(batch_size=8, epochs=3, steps=5).total_steps(17) == 5
    assert OPTIONS.total_steps(len(DATA)) == STEPS


@pytest.mark.parametrize("accumulate", [2, 3, 4, 100])
def test_pieces_of_a_step_do_not_matter(accumulate: int) -> None:
    """Gradients, clipping and what is reported are those of the step.

    Some gradients (norms of 0.09 to 0.24) are clipped.  Float64, to tell rounding (1e-16) from mistakes:
    Adam divides each by its own size, so that next to nothing may become a step; but by no less than 1e-8.
    """
    found = []
    for pieces in (1, accumulate):
        seen = list[Progress]()
        options = TrainingOptions(
            learning_rate=0.05, batch_size=5, epochs=3, clip_norm=0.13, accumulate=pieces
        )
        task = Guessing()
        train(task, options, report=seen.append, report_every=4)
        told = [(p.step, p.values["loss"], p.values["twice"]) for p in seen if not p.is_validation]
        found.append((weights(task), told))
    (whole, told), (parts, told_too) = found
    assert torch.allclose(whole, parts, rtol=0, atol=1e-9)
    assert np.allclose(told, told_too, rtol=1e-6)


def test_reports_are_means_over_windows() -> None:
    """Of all windows of the steps since the last report, a small last step counting as a step."""
    task, seen = Guessing(), list[Progress]()
    options = TrainingOptions(learning_rate=0.0, batch_size=4, epochs=1, accumulate=3)
    last = train(task, options, report=seen.append, report_every=3).last
    plan = Plan(len(DATA), 4, 0)
    losses = [
        task.guess(piece).mean().item() for (piece,) in cut_pieces(DATA, TOKENIZER, plan, steps=range(7))
    ]
    told = [p.values["loss"] for p in seen if not p.is_validation]
    assert told == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]])
    assert [(p.step, p.total_steps) for p in seen if not p.is_validation] == [(3, 7), (6, 7), (7, 7)]
    assert last == seen[-2].values and last["windows_per_s"] > 0
    assert last["twice"] == pytest.approx(2 * last["loss"])


def test_schedule() -> None:
    """The learning rate rises linearly over the warm-up and then falls to zero on a cosine."""

    class Falling(Task):
        def __init__(self) -> None:
            super().__init__()
            self.trained = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.trained.weight)
            self.values: list[float] = []

        def forward(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
            self.values.append(self.trained.weight.item())
            return -self.trained.weight.sum(), {}

    task, seen = Falling(), list[Progress]()
    options = TrainingOptions(learning_rate=1.0, warmup=0.5, batch_size=4, steps=8)
    train(task, options, report=seen.append, report_every=1)
    # Adam steps by the learning rate where the gradient never changes.
    moved = np.diff([*task.values, task.trained.weight.item()])
    expected = [0.25, 0.5, 0.75, 1, *(0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4))]
    assert moved == pytest.approx(expected, abs=1e-4)
    assert [p.values["learning_rate"] for p in seen] == pytest.approx(expected)


def test_seeds_of_any_size() -> None:
    """The same seed, the same weights; another seed makes another run; none is too large for torch."""
    found = []
    for seed in (1, 1, 10**15):
        task = Guessing(dropout=0.5)
        train(task, TrainingOptions(batch_size=4, steps=3, seed=seed))
        found.append(weights(task))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_nothing_left_to_train() -> None:
    """An error that says so, and not one of torch."""
    task = Guessing()
    task.requires_grad_(False)
    with pytest.raises(InputError, match="all weights are frozen"):
        train(task)


def test_an_error_in_the_tokenizer_arrives() -> None:
    """Batches are made in another thread; nothing hangs."""

    class Broken:
        def batch(self, sequences: Sequence[str]) -> TokenBatch:
            raise InputError("no such letter")

    with pytest.raises(InputError, match="no such letter"):
        fit(Guessing(), DATA, Broken(), OPTIONS, World(), lambda progress: None)


# ---------------------------------------------------------------- stopping and going on


def stop_by(number: int) -> Callable[[], None]:
    """What sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def begin(path: Path, *, resume: bool = False) -> tuple[RunFolder, State | None]:
    """A run folder and the state in it."""
    run = RunFolder(path / "x.run", {"what": "test"})
    return run, run.begin(resume=resume)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, list[dict[str, float]], Result]:
    """Weights, metrics and result of a training that nothing stopped."""
    run, _ = begin(tmp_path_factory.mktemp("undisturbed"))
    task = Guessing(dropout=0.3)
    result = train(task, run=run, report_every=4)
    assert result.steps == STEPS and len(metrics(run)) == 4 + 5
    return weights(task), metrics(run), result


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 4, 6, STEPS - 1])
def test_a_signal_stops_after_the_step_and_loses_nothing(
    tmp_path: Path, undisturbed: tuple[Tensor, list[dict[str, float]], Result], step: int, number: int
) -> None:
    """Bit for bit the weights, and the metrics but for the speed, of a training that was never stopped."""
    run, _ = begin(tmp_path)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stopped = Guessing(trouble={step - 1: stop_by(number)}, dropout=0.3)
    with pytest.raises(Interrupted, match=f"stopped after step {step} of {STEPS}; its state is in ") as told:
        train(stopped, run=run, report_every=4)
    assert told.value.signal == number and str(run.path) in str(told.value)
    assert "--resume" in str(told.value)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    run, state = begin(tmp_path, resume=True)
    assert state is not None and state.step == step
    task = Guessing(dropout=0.3)
    result = train(task, run=run, state=state, report_every=4)
    whole, lines, wanted = undisturbed
    assert torch.equal(weights(task), whole)
    assert metrics(run) == lines
    assert result[1:4] == wanted[1:4]


def test_stopped_after_every_step(
    tmp_path: Path, undisturbed: tuple[Tensor, list[dict[str, float]], Result]
) -> None:
    """A training that never gets further than one step at a time arrives at the same weights."""
    _, state = begin(tmp_path)
    for _ in range(STEPS):
        run, state = begin(tmp_path, resume=True)
        done = 0 if state is None else state.step
        task = Guessing(trouble={done: stop_by(signal.SIGTERM)}, dropout=0.3)
        if done < STEPS - 1:
            with pytest.raises(Interrupted):
                train(task, run=run, state=state, report_every=4)
        else:  # the signal comes too late
            train(task, run=run, state=state, report_every=4)
    assert torch.equal(weights(task), undisturbed[0])
    assert metrics(run) == undisturbed[1]


def test_killed_between_two_states(
    tmp_path: Path, undisturbed: tuple[Tensor, list[dict[str, float]], Result]
) -> None:
    """What was done since the last state is done again; its lines are not there twice."""

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    def stop_at_4(progress: Progress) -> None:
        if progress.step == 4:
            stop_by(signal.SIGTERM)()

    run, _ = begin(tmp_path)
    with pytest.raises(Interrupted):
        train(Guessing(dropout=0.3), run=run, report=stop_at_4, report_every=4)
    run, state = begin(tmp_path, resume=True)
    with pytest.raises(Killed):
        train(Guessing(trouble={9: kill}, dropout=0.3), run=run, state=state, report_every=4)
    assert [line["step"] for line in metrics(run)] == [3, 4, 6, 8, 9]
    run, state = begin(tmp_path, resume=True)
    assert state is not None and state.step == 4
    task = Guessing(dropout=0.3)
    train(task, run=run, state=state, report_every=4)
    assert torch.equal(weights(task), undisturbed[0])
    assert metrics(run) == undisturbed[1]


def test_a_finished_loop_is_not_done_again(
    tmp_path: Path, undisturbed: tuple[Tensor, list[dict[str, float]], Result]
) -> None:
    """Killed after its last step, before the checkpoint: no step, and the weights and scores that it had."""
    run, _ = begin(tmp_path)
    train(Guessing(dropout=0.3), run=run, report_every=4)
    run, state = begin(tmp_path, resume=True)
    task = Guessing(trouble=dict.fromkeys(range(STEPS), lambda: pytest.fail("a step was done again")))
    result = train(task, run=run, state=state, report_every=4)
    assert torch.equal(weights(task), undisturbed[0])
    assert result[1:4] == undisturbed[2][1:4] and result.last["loss"] == undisturbed[2].last["loss"]


def test_states_are_saved_meanwhile(tmp_path: Path) -> None:
    """Every so often; the loop does not wait for the signal that never comes."""
    run, _ = begin(tmp_path)
    found = list[str]()

    def look() -> None:
        found.extend(p.name for p in run.path.glob("last-*"))

    train(Guessing(trouble=dict.fromkeys(range(STEPS), look)), run=run, save_every_s=0)
    assert found == [f"last-{step:08}" for step in range(1, STEPS)]


def test_a_second_ctrl_c_does_not_wait() -> None:
    """Who is in a hurry is not asked to wait for the step."""

    def twice() -> None:
        stop_by(signal.SIGINT)()
        stop_by(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt):
        train(Guessing(trouble={2: twice}))


def test_without_a_folder_a_signal_only_stops() -> None:
    """And the message promises nothing."""
    with pytest.raises(Interrupted, match=r"^stopped after step 3 of 14$"):
        train(Guessing(trouble={2: stop_by(signal.SIGTERM)}))


def test_outside_the_main_thread() -> None:
    """Where no signals can be caught, training works as well."""
    result = list[Result]()
    thread = threading.Thread(target=lambda: result.append(train(Guessing())))
    thread.start()
    thread.join(60)
    assert result[0].steps == STEPS


def stopped_state(path: Path) -> tuple[RunFolder, State]:
    """A run that was stopped after its fourth step."""
    run, _ = begin(path)
    with pytest.raises(Interrupted):
        train(Guessing(trouble={3: stop_by(signal.SIGTERM)}), run=run)
    run, state = begin(path, resume=True)
    assert state is not None
    return run, state


def test_a_state_of_another_network_does_not_fit(tmp_path: Path) -> None:
    """Names, shapes and what is noted are all compared; one line says so."""
    run, state = stopped_state(tmp_path)
    other = {"weight": torch.zeros(3, 2)}
    for broken in (
        state._replace(weights=other),
        state._replace(weights={}),
        state._replace(facts={"stale": 0}),
        state._replace(facts={**state.facts, "mood": "good"}),
    ):
        with pytest.raises(InputError, match="the state of the training does not fit") as told:
            train(Guessing(), run=run, state=broken)
        assert "\n" not in str(told.value)


def test_a_damaged_state_is_an_error(tmp_path: Path) -> None:
    """Not a start from the beginning."""
    run, _ = stopped_state(tmp_path)
    with open(run.path / "last-00000004" / "weights.safetensors", "r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match="last-00000004: the state cannot be read"):
        begin(tmp_path, resume=True)


# ---------------------------------------------------------------- divergence


def test_divergence_is_an_error_and_leaves_no_state_of_it(tmp_path: Path) -> None:
    """A loss that is not a number ends the training with a word of advice; older states stay."""
    run, _ = begin(tmp_path)
    task = Guessing(trouble={5: lambda: "nan"})
    with pytest.raises(InputError, match="diverged before step 6; try a lower learning rate"):
        train(task, run=run, save_every_s=0)
    last, best = run.load("last"), run.load("best")
    assert last is not None and last.step == 5 and best is not None and best.step == 3
    assert all(t.isfinite().all() for t in (*last.weights.values(), *last.optimiser.values()))
    assert [line["step"] for line in metrics(run)] == [3]


def test_divergence_without_a_folder() -> None:
    """It is seen with the next report at the latest."""
    unseen = TrainingOptions(batch_size=4, epochs=2, validate_every=100)
    with pytest.raises(InputError, match="diverged before step 8"):
        train(Guessing(trouble={5: lambda: "nan"}), unseen, report_every=4)


def test_a_validation_that_is_no_number_is_divergence(tmp_path: Path) -> None:
    """Such weights are never the best, whatever the other scores are."""
    run, _ = begin(tmp_path)
    scores = [{"loss": 1.0, "right": 0.1}, {"loss": math.nan, "right": 0.9}]
    with pytest.raises(InputError, match="diverged before step 6"):
        train(Guessing(scores, metric="right"), run=run)
    best = run.load("best")
    assert best is not None and best.step == 3


# ---------------------------------------------------------------- which weights are kept


def say(metric: str, *values: float | tuple[float, float]) -> list[Scores]:
    """Scores of validations: losses, or pairs of a metric and a loss."""
    pairs = [(value, value) if isinstance(value, int | float) else value for value in values]
    return [{metric: value, "loss": loss} for value, loss in pairs]


KEPT = {
    "the lowest loss": ("loss", say("loss", 5, 3, 4, 9, 8), 1),
    "the highest of anything else": ("right", say("right", (0.1, 1), (0.9, 8), (0.5, 0), (0, 0), (0, 0)), 1),
    "of equal ones the lower loss": ("right", say("right", (1, 3), (1, 2), (1, 2.5), (0, 0), (0, 0)), 1),
    "of all alike the first": ("right", say("right", (0, 2), (0, 2), (0, 2), (0, 2), (0, 2)), 0),
    "the last": ("loss", say("loss", 5, 4, 3, 2, 1), 4),
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("with_folder", [True, False])
def test_the_best_weights_are_kept(tmp_path: Path, kept: str, with_folder: bool) -> None:
    """Those of the best validation, in memory or in the folder; validations come every three steps."""
    metric, scores, best = KEPT[kept]
    task, seen = Guessing(scores, metric), list[Progress]()
    run = begin(tmp_path)[0] if with_folder else None
    result = train(task, run=run, report=seen.append)
    assert [p.step for p in seen if p.is_validation] == [3, 6, 9, 12, 14]
    assert [p.values for p in seen if p.is_validation] == scores
    assert (result.best_step, result.scores) == ([3, 6, 9, 12, 14][best], scores[best])
    assert torch.equal(weights(task), task.examined[best])
    assert result.steps == STEPS and not task.training


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    """Where there is nothing to choose by."""

    class Blind(Guessing):
        def validate(self, world: World) -> Scores:
            return {}

    task = Blind()
    run, _ = begin(tmp_path)
    result = train(task, run=run)
    last = run.load("last")
    assert result.scores == {} and result.best_step == result.steps == STEPS
    assert last is not None and torch.equal(last.weights["weight"], weights(task))
    assert run.load("best") is None


@pytest.mark.parametrize(
    ("patience", "stop", "best"), [(1, 9, 6), (2, 14, 14), (3, 14, 14), (0, 14, 14)], ids=str
)
def test_patience(tmp_path: Path, patience: int, stop: int, best: int) -> None:
    """Training ends after so many validations without a better score, and stays ended."""
    scores = say("loss", 5, 4, 4.5, 4, 3)
    scores[3]["loss"] = 3.5
    task = Guessing(scores)
    options = TrainingOptions(batch_size=4, epochs=2, validate_every=3, patience=patience)
    run, _ = begin(tmp_path)
    result = train(task, options, run=run)
    assert (result.steps, result.best_step) == (stop, best)
    run, state = begin(tmp_path, resume=True)
    again = Guessing(trouble=dict.fromkeys(range(STEPS), lambda: pytest.fail("it had ended")))
    assert train(again, options, run=run, state=state)[1:4] == result[1:4]
    assert torch.equal(weights(again), weights(task))


def test_patience_survives_a_stop(tmp_path: Path) -> None:
    """Validations without a better score are counted across it."""
    options = TrainingOptions(batch_size=4, epochs=2, validate_every=2, patience=3)
    run, _ = begin(tmp_path)
    with pytest.raises(Interrupted):
        train(Guessing(say("loss", 1, 2, 3), trouble={5: stop_by(signal.SIGINT)}), options, run=run)
    run, state = begin(tmp_path, resume=True)
    result = train(Guessing(say("loss", 4, 5)), options, run=run, state=state)
    assert (result.steps, result.best_step) == (8, 2)


def test_validation_once_an_epoch() -> None:
    """Unless another interval is asked for; and always at the end."""
    seen = list[Progress]()
    options = TrainingOptions(batch_size=4, steps=17)
    train(Guessing(), options, report=seen.append)
    assert [p.step for p in seen if p.is_validation] == [7, 14, 17]
