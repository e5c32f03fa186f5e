"""Skipped records wait in order, and not in memory."""

from __future__ import annotations

import math
import tracemalloc
from collections import deque

import pytest
from findings import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.waiting import Skipped, WaitingRecords


@given(st.lists(st.integers(-5, 8), max_size=40), st.integers(1, 4))
def test_first_in_first_out(steps: list[int], most: int) -> None:
    """As a plain queue, whatever the names and however adding and taking alternate."""
    waiting, plain, number = WaitingRecords(most), deque[Skipped](), 0
    for step in steps:
        for _ in range(step):
            one = Skipped(number, HOSTILE[number % len(HOSTILE)], number * 7, "short")
            waiting.add(one)
            plain.append(one)
            number += 1
        for _ in range(-step):
            assert waiting.take(math.inf) == (plain.popleft() if plain else None)
    while plain:
        assert waiting.take(plain[0].record) is None, "not before its place"
        assert waiting.take(plain[0].record + 1) == plain.popleft()
    assert waiting.take(math.inf) is None
    waiting.close()


@pytest.mark.parametrize("n", [2_000, 20_000])
def test_memory(n: int) -> None:
    """The same for ten times as many."""
    waiting = WaitingRecords(100)
    tracemalloc.start()
    try:
        for i in range(n):
            waiting.add(Skipped(i, f"read{i}", 3, "short"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000
    assert [waiting.take(math.inf).record for _ in range(n - 1)] == list(range(n - 1))  # type: ignore[union-attr]
    waiting.close()
    assert waiting.take(math.inf) is None
