"""Fixtures that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

# A busy machine is slow now and then; that is no fault of the code.
hypothesis.settings.register_profile("wyr", deadline=None)
hypothesis.settings.load_profile("wyr")


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
def shared() -> Path:
    """The folder ``../shared`` with golden vectors, which lies beside the repository of the developers."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared with golden vectors: user clones have none")
    return folder
