"""The picture of a training, and the file that it is drawn from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from wyrcli.curves import draw_curves, read_metrics
from wyrcli.errors import InputError, WyrError

LINES = [
    {"step": step, "kind": kind, "loss": 1 / step, "learning_rate": 0.1, **more}
    for step in (5, 10, 15)
    for kind, more in (
        ("training", {"accuracy_genus": step / 20, "windows_per_s": 9.0}),
        ("validation", {"balanced_accuracy_genus": step / 30}),
    )
]


@pytest.mark.parametrize("lines", [LINES, LINES[:1], LINES[::2]], ids=["all", "one", "no validation"])
@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_picture_is_drawn(
    tmp_path: Path, lines: list[dict[str, object]], ending: str, start: bytes
) -> None:
    """From what was written, also where the training was short."""
    pytest.importorskip("matplotlib")
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_metrics(metrics) == lines
    draw_curves(read_metrics(metrics), tmp_path / f"x.{ending}")
    assert (tmp_path / f"x.{ending}").read_bytes().startswith(start)


def test_curves_hold_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss above, all other scores below, speed and learning rate nowhere."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    draw_curves(LINES, tmp_path / "x.svg")
    monkeypatch.undo()
    (figure,) = kept
    drawn = {line.get_label(): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines}
    assert drawn == {
        "loss, training": [[s, 1 / s] for s in (5, 10, 15)],
        "loss, validation": [[s, 1 / s] for s in (5, 10, 15)],
        "accuracy genus, training": [[s, s / 20] for s in (5, 10, 15)],
        "balanced accuracy genus, validation": [[s, s / 30] for s in (5, 10, 15)],
    }
    pyplot.close(figure)


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": 3}', "", "7"])
def test_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    """File and line are named."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kind": "training"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: expected a JSON object") as told:
        read_metrics(path)
    assert told.value.line == 2


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; the message says how to get it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(WyrError, match=r"a picture needs matplotlib: pip install 'wyrcli\[plots\]'"):
        draw_curves(LINES, tmp_path / "x.png")
