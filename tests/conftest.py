"""Fixtures that several tests share."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

# A busy machine is slow now and then; that is no fault of the code.
hypothesis.settings.register_profile("wyr", deadline=None)
hypothesis.settings.load_profile("wyr")

# Of simulated reads the truth is known, and the demo knows them: it is the default model of the tests.
os.environ["WYR_MODEL"] = "demo"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The toy networks are too small for more than one thread, and commands under test set their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a CUDA GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU on this machine")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of simulated reads: 84 windows of 600 and of 300 bp to learn from, 24 and 12 beside them."""
    from wyrcli.cli import main

    folder = tmp_path_factory.mktemp("dataset")
    reads = folder / "reads"
    simulate = ["simulate", str(reads), "--reads", "60", "--length", "900", "--max-copies", "2", "-q"]
    assert main(simulate) == 0
    prepare = ["prepare", str(reads / "reads.fasta"), "--labels", str(reads / "labels.tsv"), "--taxonomy"]
    prepare += [str(reads / "taxdump"), "--window", "600", "--validation", "0.2", "--test", "0.1"]
    assert main([*prepare, "-o", str(folder / "data"), "-q"]) == 0
    return folder / "data"


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of a network that is trained in no time."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    path.write_text(json.dumps({"vocab_size": 4107, **sizes}))
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared`` with golden vectors, which lies beside the repository of the developers."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared with golden vectors: user clones have none")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """Shells start what runs in the background with SIGINT ignored, and the tests' children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
