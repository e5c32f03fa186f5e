"""The run report that ``wyr explain --json`` writes: what was read, what came out, and with what."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from wyrcli import __version__
from wyrcli.checkpoint import Checkpoint, TrainedExplainer
from wyrcli.sequences import RecordCounts

__all__ = ["Stopwatch", "peak_memory_mb", "run_report"]

SCHEMA_VERSION = 1


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Elapsed wall time."""
        return time.perf_counter() - self._start


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
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
