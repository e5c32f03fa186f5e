"""The HTML page of ``wyr explain --html``: every read coloured by its scores, with filters and a summary.

The page is one file that asks no network for anything.  All that comes from files reaches it as JSON in a
data block, and its script makes text of it, never markup; a Content-Security-Policy lets nothing else run.
The script, style and skeleton are files of their own in ``assets/``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import counted, printable
from wyrcli.explanation import Explanation
from wyrcli.pages import STYLE, content_policy
from wyrcli.result_tables import clean
from wyrcli.terminal_view import PALETTES

__all__ = ["MOST_LETTERS", "ReadsPage", "data_block", "encode_scores", "encode_spans"]

MOST_LETTERS = 3_000_000
"""Letters of all sequences on a page: what a browser still opens at once, whatever the windows' lengths."""

_NAME_LETTERS = 200  # of a name that are kept
_TAXON_LETTERS = 80
_MOST_TAXA = 10_000  # per rank that are counted apart
_BINS = 40  # of the histogram, from -1 to 1
_WORDS = {"dna": ("read", "bp"), "protein": ("protein", "residues"), "text": ("text", "characters")}


# ---------------------------------------------------------------- encoding


def encode_scores(scores: NDArray[np.float32]) -> str:
    """Scores in [-1, 1] as base64 of a byte each: 127 is 0, 254 is 1, 0 is -1; 255 stands for NaN.

    >>> encode_scores(np.array([0, 1], dtype=np.float32))
    'f/4='
    """
    steps = np.rint(127 + 127 * np.clip(np.nan_to_num(scores), -1, 1)).astype(np.uint8)
    steps[np.isnan(scores)] = 255
    return base64.b64encode(steps.tobytes()).decode("ascii")


def encode_spans(spans: NDArray[np.int64], start: int) -> list[int]:
    """Spans of sites, in order and apart, as runs: letters left out before each, its length, how many of it.

    >>> encode_spans(np.array([[0, 6], [6, 12], [13, 14]]), 0)
    [0, 6, 2, 1, 1, 1]
    """
    if len(spans) == 0:
        return []
    gaps = spans[:, 0] - np.concatenate([[start], spans[:-1, 1]])
    if (gaps < 0).any():
        raise ValueError("sites overlap or are not in order")
    pairs = zip(gaps.tolist(), (spans[:, 1] - spans[:, 0]).tolist(), strict=True)
    return [
        number for (gap, length), same in groupby(pairs) for number in (gap, length, sum(1 for _ in same))
    ]


def data_block(content: Mapping[str, object]) -> str:
    """JSON for the inside of ``<script type="application/json">``: it holds no ``<``, ``>`` or ``&``."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _short(taxon: str) -> str:
    return printable(clean(taxon), _TAXON_LETTERS)


# ---------------------------------------------------------------- the page


@dataclass
class _Tally:
    """Of windows with one answer: how many, the sums of their probabilities and of their important shares."""

    windows: int = 0
    probability: float = 0.0
    share: float = 0.0

    def add(self, probability: float, share: float) -> None:
        self.windows += 1
        self.probability += probability
        self.share += share


@dataclass
class _Taxa:
    """The taxa of one rank: numbers for those on the page, tallies of those in the whole input."""

    numbers: dict[str, int] = field(default_factory=dict)
    tallies: dict[str, _Tally] = field(default_factory=dict)
    unsure: _Tally = field(default_factory=_Tally)
    others: _Tally = field(default_factory=_Tally)

    def tally(self, taxon: str, is_sure: bool) -> _Tally:
        if not is_sure:
            return self.unsure
        if taxon not in self.tallies and len(self.tallies) >= _MOST_TAXA:
            return self.others
        return self.tallies.setdefault(taxon, _Tally())

    def rows(self) -> list[list[object]]:
        """Name, windows, mean probability and share, number or -1 if not on the page; most windows first."""
        taxa = [(name, tally, self.numbers.get(name, -1)) for name, tally in self.tallies.items()]
        taxa.sort(key=lambda row: (-row[1].windows, row[0]))
        rest = [("other taxa", self.others, -1), ("not sure", self.unsure, -1)]
        return [
            [
                _short(name),
                t.windows,
                round(t.probability / t.windows, 5),
                round(t.share / t.windows, 5),
                number,
            ]
            for name, t, number in [*taxa, *rest]
            if t.windows
        ]


class ReadsPage:
    """Gathers explanations for a page: all of them for its summary, the first for its reads.

    Memory is bounded by the limits and not by the input.

    Parameters
    ----------
    ranks: of the lineages to come, from the widest to the narrowest.
    limit: most windows with their sequences; the first ones of the input.
    rank: whose masks are explained; None is all ranks together.
    threshold, min_length: what a relevant chunk is, see :meth:`Explanation.chunks`.
    most_letters: of all sequences together, beyond which later windows are left out too.
    """

    def __init__(
        self,
        ranks: Sequence[str],
        *,
        limit: int,
        rank: str | None = None,
        threshold: float = 0.5,
        min_length: int = 1,
        alphabet: str = "dna",
        most_letters: int = MOST_LETTERS,
    ) -> None:
        self._ranks = ranks
        self._limit = limit
        self._rank = rank
        self._rank_number = None if rank is None else list(ranks).index(rank)
        self._threshold = threshold
        self._min_length = min_length
        self._alphabet = alphabet
        self._most_letters = most_letters
        self._taxa = [_Taxa() for _ in ranks]
        self._windows: list[dict[str, object]] = []
        self._shown_letters = 0
        self._is_full = limit == 0
        self._seen = 0
        self._letters = 0
        self._chunks = 0
        self._important = 0
        self._signed = False
        self._bins = np.zeros(_BINS, dtype=np.int64)

    def add(self, explanation: Explanation) -> None:
        """Count one window, and keep it if there is room."""
        window = explanation.window
        # Where the model is not sure there are no relevant chunks, as there are no rows in tables.
        answered = explanation.label(self._rank_number) is not None
        chunks = explanation.chunks(self._threshold, self._min_length) if answered else []
        length = window.stop - window.start
        important = sum(chunk.stop - chunk.start for chunk in chunks)
        share = important / length if length else 0.0
        self._seen += 1
        self._letters += length
        self._chunks += len(chunks)
        self._important += important
        self._signed |= explanation.target is not None and bool(explanation.target.against)
        scores = explanation.mask[~np.isnan(explanation.mask)].astype(np.float64)
        # In steps of 1/20 from below: a score of exactly 0.5 belongs to the bar that begins there.
        places = np.clip(np.floor((scores + 1) * (_BINS / 2) + 1e-6), 0, _BINS - 1).astype(np.int64)
        self._bins += np.bincount(places, minlength=_BINS)
        for i, (taxon, probability) in enumerate(
            zip(explanation.lineage, explanation.probabilities, strict=True)
        ):
            self._taxa[i].tally(taxon, explanation.answers(i)).add(probability, share)
        if not self._is_full:
            self._keep(explanation, [[c.start, c.stop, round(c.mean_mask, 3)] for c in chunks], share)

    def _keep(self, explanation: Explanation, chunks: list[list[float]], share: float) -> None:
        window = explanation.window
        self._shown_letters += window.stop - window.start
        if self._windows and self._shown_letters > self._most_letters:
            self._is_full = True
            return
        kept: dict[str, object] = {
            "name": printable(clean(window.name), _NAME_LETTERS),
            "start": window.start,
            "stop": window.stop,
            "sequence": clean(window.sequence),
            "taxa": [
                taxa.numbers.setdefault(taxon, len(taxa.numbers))
                for taxa, taxon in zip(self._taxa, explanation.lineage, strict=True)
            ],
            "probabilities": [round(probability, 5) for probability in explanation.probabilities],
            "share": round(share, 5),
            "chunks": chunks,
            "spans": encode_spans(explanation.spans, window.start),
            "masks": [encode_scores(mask) for mask in self._views(explanation)],
        }
        if explanation.sure:
            kept["sure"] = list(explanation.sure)
        if explanation.target is not None:
            target = explanation.target
            kept["target"] = [_short(target.name), _short(target.against), round(target.probability, 5)]
        self._windows.append(kept)
        self._is_full = len(self._windows) >= self._limit

    def _views(self, explanation: Explanation) -> list[NDArray[np.float32]]:
        """What the letters can be coloured by: what was asked for, and each rank where it says more."""
        if len(self._ranks) == 1 and explanation.target is None:
            return [explanation.mask]
        return [explanation.mask, *explanation.rank_masks]

    def text(
        self,
        *,
        model: str,
        notice: str = "",
        about: Sequence[tuple[str, str]] = (),
        records: int,
        skipped: Mapping[str, int],
    ) -> str:
        """The page.  The same content gives the same text.

        Parameters
        ----------
        model, notice: the model's name, and the line that its users must see.
        about: terms and values: options, versions, inputs.
        records: how many were read; ``skipped``: how many were left out, by reason.
        """
        noun, unit = _WORDS[self._alphabet]
        lost = sum(skipped.values())
        reasons = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in skipped.items() if n)
        share = self._important / self._letters if self._letters else 0.0
        cut = "" if self._min_length == 1 else f", from {self._min_length:,} {unit}"
        is_masked = any("target" in window for window in self._windows)
        first_view = "target" if is_masked else self._rank or "all ranks together"
        content: dict[str, Any] = {
            "title": f"What made the model call {counted(records, noun)} what it called them",
            "model": clean(f"wyr explain · {model}"),
            "notice": clean(notice),
            "alphabet": self._alphabet,
            "unit": unit,
            "sites": "sites",
            "ranks": [clean(rank) for rank in self._ranks],
            "threshold": self._threshold,
            "signed": self._signed,
            "counts": {"windows": self._seen, "shown": len(self._windows)},
            "tiles": [
                [f"{noun}s in", f"{records:,}", f"{lost:,} skipped" + (f": {reasons}" if reasons else "")],
                ["windows explained", f"{self._seen:,}", f"{self._letters:,} {unit}"],
                ["important chunks", f"{self._chunks:,}", f"scores above {self._threshold:g}{cut}"],
                ["important share", f"{share:.1%}".replace("%", " %"), f"{self._important:,} {unit}"],
            ],
            "about": [[clean(term), clean(value)] for term, value in about],
            "views": [first_view, *([] if len(self._ranks) == 1 and not is_masked else self._ranks)],
            "taxa": [[_short(taxon) for taxon in taxa.numbers] for taxa in self._taxa],
            "summary": [taxa.rows() for taxa in self._taxa],
            "histogram": (self._bins if self._signed else self._bins[_BINS // 2 :]).tolist(),
            "palettes": {name: palette._asdict() for name, palette in PALETTES.items()},
            "windows": self._windows,
        }
        return _document(data_block(content))


def _asset(name: str) -> str:
    return (files("wyrcli") / "assets" / name).read_text("utf-8")


def _document(data: str) -> str:
    style, script = STYLE + _asset("reads_page.css"), _asset("reads_page.js")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{content_policy(script, style)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>wyr explain</title>
<style>{style}</style>
</head>
<body>
{_asset("reads_page.html")}<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
