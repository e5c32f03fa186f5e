"""The folder of a training: what is found in it after a stop, a kill, or a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wyrcli.errors import CheckpointError, WyrError
from wyrcli.runs import RunFolder, State

ABOUT = {"command": "wyr finetune", "options": {"learning_rate": 0.1, "seed": 3}, "pooling": None}


def state(step: int) -> State:
    """A state of two weights, of which one is tied, and their optimiser."""
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
    optimiser = {"a.step": torch.tensor(float(step)), "a.exp_avg": weight**2}
    return State(step, {"a": weight, "tied": weight, "n": torch.tensor(step)}, optimiser, {"stale": 2})


def same(found: State | None, wanted: State) -> bool:
    """Bit for bit, types included."""
    assert found is not None
    return (found.step, found.facts) == (wanted.step, wanted.facts) and all(
        mine.keys() == theirs.keys()
        and all(torch.equal(mine[n], theirs[n]) and mine[n].dtype == theirs[n].dtype for n in mine)
        for mine, theirs in ((found.weights, wanted.weights), (found.optimiser, wanted.optimiser))
    )


def names(run: RunFolder) -> list[str]:
    """What lies in the folder."""
    return sorted(p.name for p in run.path.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A folder in which a training has begun."""
    run = RunFolder(tmp_path / "model.run", ABOUT)
    assert run.begin(resume=False) is None
    run.note({"step": 1, "kind": "training"})
    return run


def test_states_come_back_bit_for_bit(run: RunFolder) -> None:
    """And only the newest of each kind is kept."""
    assert run.load("last") is None
    for step in (1, 20, 300):
        run.save("last", state(step))
    run.save("best", state(20))
    assert same(run.load("last"), state(300)) and same(run.load("best"), state(20))
    assert names(run) == ["best-00000020", "last-00000300", "metrics.jsonl", "run.json"]
    assert same(RunFolder(run.path, ABOUT).begin(resume=True), state(300))


def test_a_kill_while_saving_loses_one_state_only(run: RunFolder) -> None:
    """What was half written is not read, and the next save sweeps it away."""
    run.save("last", state(5))
    half = run.path / "last-00000006.part"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    assert same(run.begin(resume=True), state(5))
    run.save("last", state(6))
    assert same(run.load("last"), state(6)) and names(run) == ["last-00000006", "metrics.jsonl", "run.json"]


def test_a_kill_before_the_old_state_was_removed(run: RunFolder) -> None:
    """The newer of two is the state."""
    run.save("last", state(5))
    (run.path / "last-00000005").rename(run.path / "aside")
    run.save("last", state(40))
    (run.path / "aside").rename(run.path / "last-00000005")
    assert same(run.load("last"), state(40))


def test_a_second_start_is_refused(run: RunFolder) -> None:
    """Nobody loses a training by forgetting an option."""
    with pytest.raises(WyrError, match="an unfinished training is here; --resume continues it"):
        RunFolder(run.path, ABOUT).begin(resume=False)


def test_resume_where_nothing_was_begun(tmp_path: Path) -> None:
    """A script may say --resume from the first time on; also after a kill while the folder was made."""
    run = RunFolder(tmp_path / "a" / "b.run", ABOUT)
    assert run.begin(resume=True) is None and run.exists
    half = RunFolder(tmp_path / "c.run", ABOUT)
    half.path.mkdir()
    (half.path / "run.json.part").write_text("{")
    assert half.begin(resume=True) is None and half.exists


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"options": {"learning_rate": 0.2, "seed": 3}}, "options.learning_rate 0.1 (now 0.2)"),
        ({"pooling": "cls"}, "pooling None (now 'cls')"),
        ({"lora": None}, "lora None (now None)"),
        ({"options": {"seed": 3}}, "options.learning_rate 0.1 (now None)"),
    ],
)
def test_another_training_is_refused(run: RunFolder, changed: dict[str, object], wanted: str) -> None:
    """The message names what differs, also where one of the two does not know it."""
    with pytest.raises(WyrError, match="begun differently, with") as caught:
        RunFolder(run.path, ABOUT | changed).begin(resume=True)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_what_never_began_is_in_nobodys_way(tmp_path: Path, resume: bool) -> None:
    """An option was wrong, and the command ended before its first step: the next may be another."""
    RunFolder(tmp_path / "x.run", ABOUT | {"freeze": 99}).begin(resume=False)
    run = RunFolder(tmp_path / "x.run", ABOUT)
    assert run.begin(resume=resume) is None
    run.note({"step": 1, "kind": "training"})
    run.compare()
    assert run.begin(resume=True) is None


def test_a_finished_training_makes_room(run: RunFolder) -> None:
    """Its folder may be replaced."""
    run.save("last", state(5))
    run.note({"step": 5, "kind": "training"})
    run.finish()
    assert run.is_finished
    again = RunFolder(run.path, ABOUT)
    assert again.begin(resume=False) is None
    assert names(again) == ["run.json"] and not again.is_finished


def test_a_folder_of_something_else_stays(tmp_path: Path) -> None:
    """Nothing in it is touched."""
    (tmp_path / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(WyrError, match="exists and holds no training"):
            RunFolder(tmp_path, ABOUT).begin(resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("file", ["state.json", "weights.safetensors", "optimiser.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "foreign"])
def test_a_damaged_state_is_one_clear_line(run: RunFolder, file: str, damage: str) -> None:
    """It names the state, so that one can remove it."""
    run.save("last", state(5))
    path = run.path / "last-00000005" / file
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "foreign": b"[1, 2]"}[damage])
    with pytest.raises(CheckpointError, match="last-00000005: the state cannot be read") as caught:
        run.begin(resume=True)
    assert "\n" not in str(caught.value)


def test_a_state_without_its_weights(run: RunFolder) -> None:
    """A missing file is damage too."""
    run.save("last", state(5))
    (run.path / "last-00000005" / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the state cannot be read"):
        run.load("last")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_description(run: RunFolder, text: str) -> None:
    """Without knowing what was trained nothing is continued."""
    (run.path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read"):
        run.begin(resume=True)


def test_metrics_of_steps_that_will_be_redone_go(run: RunFolder) -> None:
    """And so does the line at which the process was killed."""
    for step in (5, 10, 10, 15):
        run.note({"step": step, "kind": "training", "loss": step / 3})
    with open(run.metrics, "a", encoding="utf-8") as file:
        file.write('{"step": 20, "ki')
    run.save("last", state(12))
    run.begin(resume=True)
    kept = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["step"] for line in kept] == [1, 5, 10, 10]
    assert kept[1]["loss"] == 5 / 3
