"""Several processes: the same training as that of one, and no half result where one of them dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wyrcli.cli import main
from wyrcli.distribution import World, join_world
from wyrcli.errors import DeviceError

# 84 windows in steps of 83: an odd step, and one of a single window, of which the second process has none.
COMMON = ("-b", "83", "--epochs", "2", "--validate-every", "1", "--device", "cpu", "--precision", "fp32")
SEED = ("--seed", "3", "-t", "1")


def finetune(dataset: Path, config: Path, output: Path, *more: str) -> list[str]:
    """A command with all that draws random numbers.

    Some of its gradients (norms of 2 to 35) are clipped and some are not: Adam alone would not tell the sum
    over two processes from the mean.
    """
    command = ["finetune", str(dataset), "--config", str(config), "-o", str(output), *COMMON, *SEED]
    command += ["--learning-rate", "1e-2", "--clip-norm", "10"]
    return [*command, "--reverse-complement", "--class-weights", "balanced", *more]


def train_explainer(dataset: Path, model: Path, *more: str) -> list[str]:
    """The preset ``balanced`` has concrete noise and draws single ranks."""
    command = ["train-explainer", str(model), "--data", str(dataset), "--steps", "4", *COMMON, *SEED]
    command += ["--clip-norm", "3.2"]
    return [*command, "--preset", "balanced", "--explainer", "state", "--operator", "gate", *more]


@contextmanager
def launched(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Two processes on this machine, started as a user would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "wyrcli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen([*launcher, *command], stderr=subprocess.PIPE, text=True, env=environment) as job:
        try:
            yield job
        finally:
            job.kill()


def run_two(command: list[str]) -> str:
    """What two processes say on stderr."""
    with launched(command) as job:
        err = job.communicate(timeout=120)[1]
        assert job.returncode == 0, err
    return err


def compare(run: Path, other: Path, weights: Path, other_weights: Path) -> None:
    """Same metrics and same weights, but for speed and rounding.

    Float32 sums in another order differ by about 1e-7 of their size.  Adam divides a gradient by its own
    size, so that what is next to nothing may become part of a step: a thousandth of the learning rate here.
    """
    lines, other_lines = (
        [json.loads(line) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, other)
    )
    assert [(x["step"], x["kind"]) for x in lines] == [(x["step"], x["kind"]) for x in other_lines]
    for line, twin in zip(lines, other_lines, strict=True):
        assert line.keys() == twin.keys()
        shared = [n for n in line if n not in ("kind", "windows_per_s")]
        assert [twin[n] for n in shared] == pytest.approx([line[n] for n in shared], rel=1e-5, abs=1e-6)
    mine, theirs = (load_file(path / "model.safetensors") for path in (weights, other_weights))
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.allclose(mine[name], theirs[name], rtol=0, atol=1e-5), name


@pytest.fixture(scope="module")
def alone(dataset: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that one process has made."""
    output = tmp_path_factory.mktemp("alone") / "model"
    assert main(finetune(dataset, config, output, "-q")) == 0
    return output


# ---------------------------------------------------------------- one process


def test_alone() -> None:
    """One process leads, waits for nobody, and sums are what it has."""
    with join_world(torch.device("cpu")) as world:
        assert world == World() and world.leads
        assert world.any(True) and not world.any(False)
        assert world.sum(torch.tensor([1.0, 2.0])).tolist() == [1, 2]
        world.wait()
        module = torch.nn.Linear(1, 1)
        assert world.wrap(module) is module


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"WORLD_SIZE": "two", "RANK": "0"}, "not to numbers"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "the 2 processes of this job did not find each other"),
    ],
)
def test_an_environment_that_is_not_complete(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], wanted: str
) -> None:
    """One line says so."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=wanted) as told, join_world(torch.device("cpu")):
        pass
    assert "\n" not in str(told.value)


# ---------------------------------------------------------------- two processes


@pytest.mark.slow
def test_two_processes_finetune_like_one(dataset: Path, config: Path, alone: Path, tmp_path: Path) -> None:
    """Also where each computes its part of a step in pieces, and where one has nothing to do."""
    err = run_two(finetune(dataset, config, tmp_path / "model", "--accumulate", "3"))
    assert err.count("2 processes") == err.count("checkpoint in") == err.count("test balanced accuracy") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "model.run"]
    compare(alone.with_name("model.run"), tmp_path / "model.run", alone, tmp_path / "model")
    records = [json.loads((m / "training.json").read_text()) for m in (alone, tmp_path / "model")]
    ranks = [np.array(list(r["balanced_accuracy"]["test"].values())) for r in records]
    assert records[0]["best_step"] == records[1]["best_step"] and ranks[0] == pytest.approx(ranks[1])


@pytest.mark.slow
def test_two_processes_train_an_explainer_like_one(dataset: Path, alone: Path, tmp_path: Path) -> None:
    """The noise on each window's mask is the same, and the scores are those of all windows."""
    models = [tmp_path / "one", tmp_path / "two"]
    for model in models:
        shutil.copytree(alone, model)
    assert main(train_explainer(dataset, models[0], "-q")) == 0
    err = run_two(train_explainer(dataset, models[1], "--accumulate", "2"))
    assert err.count("Explainer in") == 1
    folders = [model / "explainers" for model in models]
    assert [sorted(p.name for p in f.iterdir()) for f in folders] == [["state-gate", "state-gate.run"]] * 2
    compare(*(f / "state-gate.run" for f in folders), *(f / "state-gate" for f in folders))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job(dataset: Path, config: Path, tmp_path: Path) -> None:
    """Soon, with an error, and without a checkpoint that looks whole."""
    output = tmp_path / "model"
    endless = finetune(dataset, config, output, "--steps", "1000000", "--validate-every", "1000000")
    with launched(endless) as job:
        deadline = time.monotonic() + 60
        while not (tmp_path / "model.run" / "metrics.jsonl").exists():
            assert job.poll() is None and time.monotonic() < deadline, job.communicate()[1]
            time.sleep(0.05)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        second = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(int(second[0]), signal.SIGKILL)
        err = job.communicate(timeout=30)[1]
    assert job.returncode not in (0, None)
    assert "SIGKILL" in err
    assert [p.name for p in tmp_path.iterdir()] == ["model.run"]
