"""A run that is one of several on the same input: which records are its own.

Every shard first reads the whole input to know its sections (:mod:`wyrcli.sections`) and takes a run of
them, of about the same number of tokens as the others'.  So each record is in exactly one shard, batches are
those of a single run, and a malformed record fails all shards as it fails the single run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from wyrcli.errors import printable
from wyrcli.explanation import Window
from wyrcli.inference import pool_tokens
from wyrcli.model.tokens import Tokenizer
from wyrcli.parts import Part
from wyrcli.sections import Border, Sectioner

__all__ = ["Section", "Shard", "find_sections", "find_shard", "share_sections"]


class Shard(NamedTuple):
    """Number ``number`` (from 0) of ``total``."""

    number: int
    total: int

    @property
    def part(self) -> Part:
        """Which part of the outputs it writes."""
        return Part(self.number == 0, self.number == self.total - 1)

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.total}"


def find_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """The shard that is asked for.

    Parameters
    ----------
    text: ``2/8`` is the second of eight; ``auto`` is told by ``environment``: a Slurm array
        (``SLURM_ARRAY_TASK_ID``), or else ``RANK`` and ``WORLD_SIZE``, as torchrun sets them.

    Raises ValueError.

    >>> find_shard("2/8", {})
    Shard(number=1, total=8)
    >>> find_shard("auto", {"RANK": "0", "WORLD_SIZE": "3"})
    Shard(number=0, total=3)
    """
    if text != "auto":
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"'{printable(text)}'; expected i/n, from 1/n to n/n, or auto")
        return Shard(int(found[1]) - 1, int(found[2]))
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _of_array(environment)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        number, count = (_read(environment, name) for name in ("RANK", "WORLD_SIZE"))
        if number >= count:
            raise ValueError(f"auto: RANK is {number} and WORLD_SIZE {count}")
        return Shard(number, count)
    raise ValueError("auto: neither SLURM_ARRAY_TASK_ID nor RANK and WORLD_SIZE are set")


def _of_array(environment: Mapping[str, str]) -> Shard:
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    defaults = {"SLURM_ARRAY_TASK_STEP": "1", **environment}
    task, count, least, most, step = (_read(defaults, f"SLURM_ARRAY_TASK_{name}") for name in names)
    number, odd = divmod(task - least, max(step, 1))
    if odd or (most - least) // max(step, 1) + 1 != count or not 0 <= number < count:
        raise ValueError("auto: the tasks of the Slurm array are no row of numbers; expected --array=1-N")
    return Shard(number, count)


def _read(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError):
        raise ValueError(f"auto: {name} is {environment.get(name, 'not set')}; expected a number") from None


class Section(NamedTuple):
    """``first``: its first record that has a window, from 0.  ``tokens``: before it in the input."""

    first: int
    tokens: int


def find_sections(
    windows: Iterable[Window], tokenizer: Tokenizer, batch_tokens: int
) -> tuple[list[Section], int]:
    """The sections of an input, and how many tokens it has."""
    sectioner = Sectioner(pool_tokens(batch_tokens))
    sections: list[Section] = []
    total = 0
    for window in windows:
        size = tokenizer.count_tokens(window.sequence)
        if sectioner.place(window.record, size) is Border.SECTION or not sections:
            sections.append(Section(window.record, total))
        total += size
    return sections, total


def share_sections(sections: Sequence[Section], tokens: int, shard: Shard) -> tuple[int, int | None]:
    """The records of a shard, half-open; None is the end of the input.

    Those without a window before a shard's first one belong to the shard before it.

    >>> sections = [Section(0, 0), Section(7, 100), Section(9, 200)]
    >>> [share_sections(sections, 300, Shard(i, 2)) for i in range(2)]
    [(0, 9), (9, None)]
    """
    owners = [section.tokens * shard.total // tokens for section in sections]
    borders = {0: 0}  # shard: its first record
    for owner, section in zip(owners, sections, strict=True):
        borders.setdefault(owner, section.first)
    if shard.number not in borders:
        return 0, 0
    following = [first for owner, first in borders.items() if owner > shard.number]
    return borders[shard.number], min(following, default=None)
