"""Explanations as JSON lines: an object per window and target."""

from __future__ import annotations

import json
from typing import Any

from wyrcli.finding import Finding
from wyrcli.outputs import TextOutput

__all__ = ["JsonLinesWriter"]


class JsonLinesWriter:
    """One object per line.

    ``record`` (ordinal, from 0), ``name``, ``start``, ``stop``, ``label``, ``lineage`` and ``probabilities``
    (lists by rank), ``sure`` (a list by rank, or null), ``target`` (null, or its name, rank, probability and
    the class it is set against) and ``chunks`` (start, stop, mean_mask, label).

    Parameters
    ----------
    handle: where to write; an empty input is an empty file.
    with_scores: whether ``spans`` (start and stop of each token, or base) and ``scores`` follow.

    Names stand as they are, escaped as JSON asks for.
    """

    def __init__(self, handle: TextOutput, *, with_scores: bool = False) -> None:
        self._handle = handle
        self._with_scores = with_scores
        # Made once: json.dumps makes an encoder per call for anything but its defaults.
        self._encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

    def write(self, finding: Finding) -> None:
        """Write the object of one Explanation."""
        explanation, window, target = finding.explanation, finding.window, finding.explanation.target
        content: dict[str, Any] = {
            "record": window.record,
            "name": window.name,
            "start": window.start,
            "stop": window.stop,
            "label": finding.label,
            "lineage": explanation.lineage,
            "probabilities": [round(p, 6) for p in explanation.probabilities],
            "sure": [bool(s) for s in explanation.sure] or None,
            "target": None
            if target is None
            else {
                "name": target.name,
                "rank": target.rank,
                "probability": round(target.probability, 6),
                "against": target.against or None,
            },
            # Those that no row is written of have no label.
            "chunks": [
                {
                    "start": chunk.start,
                    "stop": chunk.stop,
                    "mean_mask": round(chunk.mean_mask, 4),
                    "label": finding.name_chunk(chunk),
                }
                for chunk in finding.chunks
            ],
        }
        if self._with_scores:
            content["spans"] = explanation.spans.tolist()
            content["scores"] = [round(score, 4) for score in explanation.mask.tolist()]
        self._handle.write(self._encode(content) + "\n")
