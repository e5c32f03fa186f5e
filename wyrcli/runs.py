"""A training on disk, so that it can go on after it was stopped, or killed at any moment.

    model.run/              beside the checkpoint ``model`` that is to be
      run.json              what is trained, on what, with which options
      metrics.jsonl         one line per report: step, loss, speed, scores
      last-00001200/        weights and optimiser after that step, and where the training is
      best-00000900/        weights with the best score so far
      finished              there when the checkpoint was written

A state is written under another name and renamed when it is complete; the one before it goes then.
Nothing is pickled: tensors are safetensors, all else is JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from wyrcli.errors import CheckpointError, WyrError, printable

__all__ = ["RunFolder", "State", "find_differences"]

_FORMAT = 1

_HELD: dict[str, int] = {}
"""Folders in which this process trains, and the descriptors that hold their locks."""


class State(NamedTuple):
    """A training after ``step`` steps.

    ``weights``: by name.  ``optimiser``: ``NAME.exp_avg`` and so on.  ``facts``: JSON.
    """

    step: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    facts: dict[str, Any]


class RunFolder:
    """The folder of one training; see the top of this module.

    Parameters
    ----------
    path: of the folder; made when something is written.
    about: what decides which weights come out: compared on resuming.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self._about = json.loads(json.dumps({"format": _FORMAT, **about}, default=str))

    # ------------------------------------------------ begin

    def begin(self, *, resume: bool) -> State | None:
        """Make the folder, or with ``resume`` find the last state of the same training in it.

        A folder in which nothing was done yet is made anew: a wrong option may have ended that training.

        Raises WyrError if another training's folder is there, or this one's without ``resume``.
        """
        self._take()
        exists = self.exists
        if exists and (self._is_idle or (self.is_finished and not resume)):
            for content in self.path.iterdir():
                shutil.rmtree(content) if content.is_dir() else content.unlink()
            exists = False
        if exists and not resume:
            raise WyrError(
                f"{self.path}: an unfinished training is here; --resume continues it, or remove the folder"
            )
        if not exists:
            if self.path.exists() and any(p.name != "run.json.part" for p in self.path.iterdir()):
                raise WyrError(f"{self.path}: exists and holds no training; remove it or name another output")
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.path / "run.json", json.dumps(self._about, indent=1) + "\n")
            return None
        self.compare()
        state = self.load("last")
        self._cut_metrics(0 if state is None else state.step)
        return state

    def _take(self) -> None:
        """Hold the folder for as long as this process lives.  Raises WyrError where another one does."""
        self.path.mkdir(parents=True, exist_ok=True)
        key = os.path.realpath(self.path)
        if key in _HELD:
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise WyrError(f"{self.path}: another process trains here now") from None
        except OSError:
            pass  # a file system without locks
        _HELD[key] = descriptor

    @property
    def exists(self) -> bool:
        """Whether a training was begun here."""
        return (self.path / "run.json").is_file()

    @property
    def is_finished(self) -> bool:
        """Whether what was trained here has been written."""
        return (self.path / "finished").is_file()

    @property
    def _is_idle(self) -> bool:
        return not self.metrics.exists() and not any(self.path.glob("*-*"))

    def finish(self) -> None:
        """Say that what was trained here has been written; the folder may go."""
        _write(self.path / "finished", "")

    def compare(self) -> None:
        """Raise WyrError if the training that was begun here is another."""
        try:
            differing = find_differences(
                json.loads((self.path / "run.json").read_text(encoding="utf-8")), self._about
            )
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{self.path}: run.json cannot be read: {error}") from None
        if differing:
            raise WyrError(f"{self.path}: this training was begun differently, with {differing}")

    # ------------------------------------------------ states

    def save(self, kind: str, state: State) -> None:
        """Write a state of a kind (``last`` or ``best``), whole or not at all; earlier ones go."""
        from safetensors.torch import save_file

        target = self.path / f"{kind}-{state.step:08}"
        if target.exists():
            return
        unfinished = target.with_name(target.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        save_file(_whole(state.weights), unfinished / "weights.safetensors")
        if state.optimiser:
            save_file(_whole(state.optimiser), unfinished / "optimiser.safetensors")
        _write(unfinished / "state.json", json.dumps({"step": state.step, **state.facts}, indent=1) + "\n")
        for file in unfinished.iterdir():  # on disk before the name says that it is there
            _sync(file)
        _sync(unfinished)
        unfinished.rename(target)
        _sync(self.path)
        for old in self.path.glob(f"{kind}-*"):
            if old.name != target.name:
                shutil.rmtree(old, ignore_errors=True)

    def load(self, kind: str) -> State | None:
        """The newest state of a kind.  Raises CheckpointError where it is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        found = sorted(p for p in self.path.glob(f"{kind}-*") if p.name.removeprefix(f"{kind}-").isdigit())
        if not found:
            return None
        try:
            facts = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
            optimiser = found[-1] / "optimiser.safetensors"
            return State(
                int(facts.pop("step")),
                load_file(found[-1] / "weights.safetensors"),
                load_file(optimiser) if optimiser.exists() else {},
                facts,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise CheckpointError(f"{found[-1]}: the state cannot be read: {error}") from None

    # ------------------------------------------------ metrics

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def note(self, values: Mapping[str, Any]) -> None:
        """Add a line to the metrics."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _cut_metrics(self, step: int) -> None:
        """Take away the lines of steps that will be done again."""
        if not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the line at which the run was killed
        _write(self.metrics, "".join(kept))


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two contents of JSON differ in, for a message: the first five things; empty if they are equal.

    >>> find_differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    'a.b 1 (now 3)'
    """
    before, after = _flat(then), _flat(now)
    differing = [
        f"{name} {printable(repr(before.get(name)), 60)} (now {printable(repr(after.get(name)), 60)})"
        for name in dict.fromkeys([*before, *after])
        if (name in before, before.get(name)) != (name in after, after.get(name))
    ]
    return ", ".join(differing[:5])


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
