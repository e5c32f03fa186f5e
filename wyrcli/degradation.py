"""Reads as they come from machines, made from windows: shorter, longer, and with sequencing errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wyrcli.dataset import LabelledWindows

__all__ = ["ErrorMix", "add_errors", "cut_piece", "find_neighbours", "parse_mix"]

_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
_PLACE = np.full(256, 4, dtype=np.uint8)  # of a letter in ACGT; 4 for N
_PLACE[_LETTERS] = range(4)


class ErrorMix(NamedTuple):
    """Shares of the errors that are substitutions, insertions and deletions; they sum to one."""

    substitutions: float
    insertions: float
    deletions: float

    def __str__(self) -> str:
        parts = (f"{100 * share:.0f} % {name}" for name, share in self._asdict().items() if share)
        return ", ".join(parts)


def parse_mix(text: str) -> ErrorMix:
    """Three numbers by comma, in the proportions of the errors.  Raises ValueError.

    >>> parse_mix("2,1,1")
    ErrorMix(substitutions=0.5, insertions=0.25, deletions=0.25)
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(0 <= n < float("inf") for n in numbers) or sum(numbers) == 0:
        raise ValueError(
            f"'{text}'; expected three numbers: substitutions, insertions, deletions, as 40,30,30"
        )
    return ErrorMix(*(n / sum(numbers) for n in numbers))


def cut_piece(sequence: str, length: int, seed: Sequence[int]) -> str:
    """A piece of ``length`` letters from a random place, which ``seed`` decides; all if there are no more."""
    if len(sequence) <= length:
        return sequence
    # One number from 0 to 1, so that pieces of all lengths of a window lie around the same place.
    start = int(np.random.default_rng(seed).random() * (len(sequence) - length + 1))
    return sequence[start : start + length]


def add_errors(sequence: str, rate: float, mix: ErrorMix, seed: Sequence[int]) -> str:
    """A DNA sequence with an error at each base with probability ``rate``, cut to its old length.

    A substituted base becomes one of the three others, N stays N; an inserted one is any of the four and
    follows the base of the error.  With the same seed, errors of a lower rate are among those of a higher.
    """
    letters = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
    rng = np.random.default_rng(seed)
    chance, kind = rng.random((2, len(letters)))
    shift = rng.integers(1, 4, len(letters))
    inserted = _LETTERS[rng.integers(4, size=len(letters))]
    wrong = chance < rate
    substituted = wrong & (kind < mix.substitutions) & (_PLACE[letters] < 4)
    doubled = wrong & (kind >= mix.substitutions) & (kind < mix.substitutions + mix.insertions)
    deleted = wrong & (kind >= mix.substitutions + mix.insertions)
    changed = np.where(substituted, _LETTERS[(_PLACE[letters] + shift) % 4], letters)
    copies = 1 + doubled.astype(np.int64) - deleted
    found = np.repeat(changed, copies)
    found[(np.cumsum(copies) - 1)[doubled]] = inserted[doubled]
    return found[: len(letters)].tobytes().decode("ascii")


def find_neighbours(whole: LabelledWindows, windows: LabelledWindows, most: int) -> list[list[int]]:
    """For each of ``windows``, the numbers in ``whole`` of up to ``most`` that follow it without a gap.

    They lie one behind the other on one record; where several begin at the same place, the last one counts.
    """
    own = set(windows.names)
    at = {(name, int(whole.starts[i])): i for i, name in enumerate(whole.names) if name in own}
    found = []
    for i, (name, group) in enumerate(zip(windows.names, windows.groups, strict=True)):
        run: list[int] = []
        stop = int(windows.stops[i])
        while len(run) < most and (name, stop) in at:
            following = at[name, stop]
            if whole.groups[following] != group:
                break
            run.append(following)
            stop = int(whole.stops[following])
        found.append(run)
    return found
