"""The fuzzers of ``scripts``: a few cases of each, and that they find what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wyrcli import windows, writers

pytest.importorskip("pyBigWig")
SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))
fuzz = pytest.importorskip("fuzz")


def causes(folder: Path, part: str, cases: int) -> list[str]:
    """What is found in the first cases."""
    found = [fuzz.run_case(part, 7, number, folder)[1] for number in range(cases)]
    assert not list(folder.iterdir())
    return [finding.text for finding in found if finding is not None]


@pytest.mark.parametrize(("part", "cases"), [("readers", 40), ("writers", 5)])
def test_nothing_is_found(tmp_path: Path, part: str, cases: int) -> None:
    """About a second of each."""
    assert causes(tmp_path, part, cases) == []


def test_a_broken_reader_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that lose a letter."""
    monkeypatch.setattr(windows, "translate", lambda sequence, mask_lower=False: sequence.upper()[:-1] + "A")
    assert any("check_letters" in text or "check_windows" in text for text in causes(tmp_path, "readers", 15))


def test_a_broken_writer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that leave their column."""
    monkeypatch.setattr(writers, "safe_text", lambda name: name or ".")
    assert causes(tmp_path, "writers", 6)


def test_one_case_again() -> None:
    """A case is the same one wherever it is run, and the report is JSON."""
    command = [sys.executable, str(SCRIPTS / "fuzz.py"), "--seed", "7"]
    one, two = (
        subprocess.run(
            [*command, "--only", "readers", "--case", "3"], capture_output=True, text=True, check=True
        )
        for _ in range(2)
    )
    assert one.stdout == two.stdout and one.stdout.endswith(": nothing found\n")
    options = ["--only", "readers", "--minutes", "0.01"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["readers"]["cases"] > 0 and report["readers"]["findings"] == 0
