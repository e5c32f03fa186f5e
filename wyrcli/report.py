"""The run report that ``wyr explain --json`` writes: what was read, what came out, and with what."""

from __future__ import annotations

import math
import platform
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from wyrcli import __version__
from wyrcli.checkpoint import Checkpoint, TrainedExplainer
from wyrcli.windows import RecordCounts

__all__ = ["Agreement", "Stopwatch", "peak_memory_mb", "run_report"]

SCHEMA_VERSION = 1


class Agreement:
    """How well scores of both strands agree, over any number of windows: their correlations.

    Quartiles come from counts of correlations rounded down to a hundredth, so that memory stays constant.
    """

    def __init__(self) -> None:
        self._counts = [0] * 201
        self._sum = 0.0
        self._undefined = 0

    def add(self, correlation: float) -> None:
        """One window's; NaN where it is not defined."""
        if math.isnan(correlation):
            self._undefined += 1
            return
        self._counts[min(max(math.floor(100 * correlation + 1e-9) + 100, 0), 200)] += 1
        self._sum += correlation

    def as_dict(self) -> dict[str, Any]:
        """For a JSON report; None where there was no window."""
        n = sum(self._counts)
        return {
            "windows": n,
            "mean_correlation": round(self._sum / n, 4) if n else None,
            "quartiles": [self._quantile(share) for share in (0.25, 0.5, 0.75)],
            "windows_undefined": self._undefined,
        }

    def as_text(self) -> str:
        """One line for people."""
        n = sum(self._counts)
        if not n:
            return "scores of the two strands: nothing to compare"
        lower, middle, upper = (self._quantile(share) for share in (0.25, 0.5, 0.75))
        return (
            f"scores of the two strands: correlation {middle:.2f} (median of {n:,} windows, "
            f"quartiles {lower:.2f} and {upper:.2f})"
        )

    def _quantile(self, share: float) -> float | None:
        below, wanted = 0, share * sum(self._counts)
        for place, count in enumerate(self._counts):
            below += count
            if below and below >= wanted:
                return (place - 100) / 100
        return None


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Elapsed wall time."""
        return time.perf_counter() - self._start


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    # What getrusage says on Linux is never less than what the process that began this one held then.
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def run_report(
    arguments: Sequence[str],
    inputs: Sequence[str],
    checkpoint: Checkpoint,
    trained: TrainedExplainer,
    counts: RecordCounts,
    results: dict[str, Any],
    seconds: float,
    execution: dict[str, Any],
) -> dict[str, Any]:
    """The report, ready for ``outputs.write_json``.

    ``results``: what was written (chunks, bases in chunks);  ``execution``: device, precision, threads.
    """
    return {
        "tag": "wyr explain",
        "schema_version": SCHEMA_VERSION,
        "wyr_version": __version__,
        "python_version": platform.python_version(),
        "torch_version": str(torch.__version__),
        "command_line_arguments": list(arguments[1:]),
        "inputs": list(inputs),
        "model": {
            "path": str(checkpoint.path),
            "name": checkpoint.name,
            "notice": checkpoint.notice,
            "alphabet": checkpoint.alphabet,
            "window_bp": checkpoint.window_bp,
            "ranks": list(checkpoint.taxonomy.ranks),
            "taxonomy_source": checkpoint.taxonomy.source,
            "explainer": trained.name,
            "operator": trained.operator,
        },
        "read": counts.as_dict(),
        "written": results,
        "execution": {
            **execution,
            "seconds": round(seconds, 3),
            "records_per_second": round(counts.records / seconds, 3) if seconds > 0 else None,
            "peak_memory_mb": round(peak_memory_mb(), 1),
        },
    }
