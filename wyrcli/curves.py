"""A picture of how a training went, from its metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wyrcli.errors import InputError, WyrError

__all__ = ["draw_curves", "read_metrics"]

_NOT_SCORES = ("step", "kind", "windows_per_s", "learning_rate")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl.  Raises InputError for a line that is none."""
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            content = json.loads(line)
            content["step"], content["kind"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                "expected a JSON object with step and kind", path=str(path), line=number
            ) from None
        lines.append(content)
    return lines


def draw_curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Loss, and below it everything else that was measured, by step; dots are validations.

    Raises WyrError without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise WyrError("a picture needs matplotlib: pip install 'wyrcli[plots]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    names = [n for line in metrics for n in line if n not in _NOT_SCORES]
    others = [n for n in dict.fromkeys(names) if n != "loss"]
    for kind, style in (("training", {"lw": 1.2}), ("validation", {"marker": "o", "ms": 4, "ls": "--"})):
        own = [line for line in metrics if line["kind"] == kind]
        for axis, wanted in ((above, ["loss"]), (below, others)):
            for i, name in enumerate(wanted):
                points = [(line["step"], line[name]) for line in own if name in line]
                if points:
                    label = f"{name.replace('_', ' ')}, {kind}"
                    colour = colours[i % len(colours)]
                    axis.plot(*zip(*points, strict=True), label=label, color=colour, **style)
    above.set(ylabel="loss")
    below.set(xlabel="step")
    for axis in (above, below):
        if axis.lines:
            axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)
