"""Rows of several targets: sorted, though a chunk is known only where it ends."""

from __future__ import annotations

import io
import random

import numpy as np
from findings import TAXONOMY, explain
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.explanation import Explanation, Target
from wyrcli.finding import Finding
from wyrcli.ordering import RowQueue
from wyrcli.stitching import join_chunks
from wyrcli.tracks import Gff3Writer
from wyrcli.writers import BedWriter

TARGETS = (Target("T4", 2, 0.25), Target("Bacillus", 2, 0.5))


def joined(masks: list[list[float]], *, sites: int, records: int = 1) -> list[list[Explanation]]:
    """Windows of ``sites`` sites, tiling each record; ``masks``: of the whole record, for each target."""
    groups = [
        [
            explain("r", mask[at : at + sites], record=record, start=6 * at, target=target)
            for target, mask in zip(TARGETS, masks, strict=True)
        ]
        for record in range(records)
        for at in range(0, len(masks[0]), sites)
    ]
    return [list(group) for group in join_chunks(groups)]


def bed(groups: list[list[Explanation]]) -> tuple[list[tuple[int, int, str]], list[int]]:
    """Start, end and name of each row, and how many had been written after each window."""
    handle = io.StringIO()
    writer = BedWriter(handle, TAXONOMY.ranks)
    written = []
    for group in groups:
        writer.write_group([Finding(member) for member in group])
        written.append(handle.getvalue().count("\n") - 1)
    writer.finish()
    rows = [line.split("\t") for line in handle.getvalue().splitlines()[1:]]
    return [(int(row[1]), int(row[2]), row[3]) for row in rows], written


def test_a_row_waits_for_a_chunk_that_began_before_it() -> None:
    """One target's chunk goes on over three windows; the rows of the other come behind it."""
    long, short = [0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1], [0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.1, 0.9]
    rows, written = bed(joined([long, short], sites=3))
    assert rows == [
        (0, 6, "Bacillus"),
        (6, 42, "T4"),
        (12, 18, "Bacillus"),
        (30, 36, "Bacillus"),
        (42, 48, "Bacillus"),
    ]
    assert written == [1, 1, 5], "what lies before the open chunk is written at once, the rest once it ended"


def test_a_record_ends_what_waits() -> None:
    """Rows of the next record come behind all of this one."""
    groups = joined([[0.9, 0.9, 0.9, 0.9], [0.1, 0.9, 0.9, 0.1]], sites=2, records=2)
    rows, _ = bed(groups)
    assert rows == [(0, 24, "T4"), (6, 18, "Bacillus")] * 2


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 20))
def test_rows_are_sorted_and_none_is_lost(seed: int, sites: int, total: int) -> None:
    """The same rows as of each target by itself, by start."""
    letters = random.Random(seed)
    masks = [[letters.choice([0.1, 0.9]) for _ in range(total)] for _ in TARGETS]
    rows, _ = bed(joined(masks, sites=sites))
    alone = [
        (6 * int(first), 6 * int(end), target.name)
        for mask, target in zip(masks, TARGETS, strict=True)
        for first, end in np.flatnonzero(
            np.diff(np.concatenate([[False], np.array(mask) > 0.5, [False]]).astype(np.int8))
        ).reshape(-1, 2)
    ]
    assert sorted(rows) == sorted(alone)
    assert [row[:2] for row in rows] == sorted(row[:2] for row in rows)


def test_gff3_waits_too() -> None:
    """By the same queue."""
    handle = io.StringIO()
    writer = Gff3Writer(handle)
    for group in joined([[0.9, 0.9, 0.9, 0.1], [0.1, 0.9, 0.1, 0.9]], sites=2):
        writer.write_group([Finding(member) for member in group])
    writer.finish()
    starts = [int(line.split("\t")[3]) for line in handle.getvalue().splitlines()[1:]]
    assert starts == [1, 7, 19]


def test_one_target_is_written_at_once() -> None:
    """Nothing waits where nothing can come before."""
    handle = io.StringIO()
    queue = RowQueue(handle)
    (first, _), _ = joined([[0.9, 0.9], [0.1, 0.1]], sites=1)
    queue.add([Finding(first)], [(0, 6, "a\n")])
    assert handle.getvalue() == "a\n"
