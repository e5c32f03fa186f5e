"""Windows of one record put together: places, blended scores, chunks across borders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wyrcli.explanation import Chunk, Explanation, Target, Window
from wyrcli.stitching import group, join_chunks, stitch
from wyrcli.windows import overlapping_windows, window_borders

SEQUENCE = "ACGTTGCATTAGC" * 40


def explain(
    start: int,
    stop: int,
    values: NDArray[np.float32],
    borders: list[int],
    *,
    record: int = 0,
    lineage: tuple[str, ...] = ("Left", "One"),
    target: Target | None = None,
    sure: tuple[bool, ...] = (),
) -> Explanation:
    """An Explanation with sites between ``borders``; ``values`` (R, T) of the ranks."""
    spans = np.array(list(pairwise(borders)), dtype=np.int64).reshape(-1, 2)
    window = Window(record, "read", start, stop, SEQUENCE[start:stop])
    mask = values.max(0) if target is None else values[0]
    return Explanation(window, lineage, (0.9, 0.8), mask, values, spans, target, sure)


def tokens(start: int, stop: int, cuts: set[int]) -> list[int]:
    """Borders of tokens of 6 bp, and wherever there is a cut; as an N makes them, out of step."""
    borders, place = [start], start
    while place < stop:
        inside = [cut for cut in cuts if place < cut < place + 6]
        place = min(inside) if inside else min(place + 6, stop)
        borders.append(place)
    return borders


def of_bases(explanation: Explanation, row: int) -> dict[int, float]:
    """The score of each base, by loops."""
    return {
        base: float(explanation.rank_masks[row, i])
        for i, (start, stop) in enumerate(explanation.spans.tolist())
        for base in range(start, stop)
    }


# ---------------------------------------------------------------- places


@given(length=st.integers(0, 5000), window=st.integers(6, 400), share=st.floats(0, 1 / 3))
def test_overlapping_windows(length: int, window: int, share: float) -> None:
    """They cover the record, overlap by just so much, fit the model and reach no further than the next."""
    overlap = int(share * window) // 6 * 6
    places = list(overlapping_windows(length, window, overlap))
    assert places[0][0] == 0 and places[-1][1] == length
    assert all(stop - start <= window for start, stop in places)
    assert all(start % 6 == 0 for start, _ in places)
    for (_, stop), (start, _) in pairwise(places):
        assert stop - start == overlap
    for (_, stop), (start, _) in zip(places, places[2:], strict=False):
        assert stop <= start
    if overlap == 0:
        borders = window_borders(length, window)
        assert places == list(pairwise(borders))
    if len(places) > 1:  # one fewer would be too few
        assert (len(places) - 1) * (window - overlap) + overlap < length + 6 * len(places)


@pytest.mark.parametrize("overlap", [1, 5, 7, -6, 36, 102])
def test_overlaps_that_cannot_be(overlap: int) -> None:
    """Multiples of 6, at most a third of the window."""
    with pytest.raises(ValueError, match="expected a multiple of 6 from 0 to 30, a third of the window"):
        overlapping_windows(500, 100, overlap)


# ---------------------------------------------------------------- overlaps


@st.composite
def contigs(draw: st.DrawFn) -> list[Explanation]:
    """Overlapping windows with random scores; tokens may be out of step."""
    length, overlap = draw(st.integers(40, 300)), draw(st.sampled_from([0, 6, 12, 18]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = []
    for start, stop in overlapping_windows(length, 60, overlap):
        cuts = set(draw(st.lists(st.integers(start, stop), max_size=3)))
        borders = tokens(start, stop, cuts)
        values = rng.random((2, len(borders) - 1)).astype(np.float32)
        found.append(explain(start, stop, values, borders))
    return found


@settings(max_examples=60)
@given(windows=contigs())
def test_stitched_windows_tile_the_record(windows: list[Explanation]) -> None:
    """Zones, and their sites, one after the other; each base has the score that the weights say."""
    zones = [zone for members in stitch([w] for w in windows) for zone in members]
    assert len(zones) == len(windows)
    place = 0
    for zone, window in zip(zones, windows, strict=True):
        assert zone.window.start == place == zone.spans[0, 0]
        assert (zone.spans[1:, 0] == zone.spans[:-1, 1]).all() and (zone.spans[:, 0] < zone.spans[:, 1]).all()
        place = zone.window.stop
        assert zone.spans[-1, 1] == place
        assert zone.window.sequence == SEQUENCE[zone.window.start : zone.window.stop]
        assert window.window.start <= zone.window.start and zone.window.stop <= window.window.stop
        assert np.array_equal(zone.mask, zone.rank_masks.max(0))
        assert zone.mask.dtype == np.float32
    assert place == windows[-1].window.stop
    for row in (0, 1):
        scores = [of_bases(window, row) for window in windows]
        expected = {}
        for base in range(place):
            owners = [i for i, own in enumerate(scores) if base in own]
            if len(owners) == 1:
                expected[base] = scores[owners[0]][base]
            else:
                left, right = owners
                start, stop = windows[right].window.start, windows[left].window.stop
                share = (base - start + 0.5) / (stop - start)
                expected[base] = scores[left][base] * (1 - share) + scores[right][base] * share
        for zone in zones:
            for i, (start, stop) in enumerate(zone.spans.tolist()):
                mean = np.mean([expected[base] for base in range(start, stop)])
                assert float(zone.rank_masks[row, i]) == pytest.approx(mean, abs=1e-6)


@settings(max_examples=30)
@given(windows=contigs(), value=st.floats(0, 1, width=32))
def test_constant_masks_stay_constant(windows: list[Explanation], value: float) -> None:
    """To the last bit."""
    flat = [
        replace(w, mask=np.full_like(w.mask, value), rank_masks=np.full_like(w.rank_masks, value))
        for w in windows
    ]
    for (zone,) in stitch([w] for w in flat):
        assert (zone.mask == np.float32(value)).all() and (zone.rank_masks == np.float32(value)).all()


def test_windows_that_do_not_overlap_pass_unchanged() -> None:
    """The very same objects, of one record or of several."""
    values = np.ones((2, 4), np.float32)
    windows = [explain(0, 24, values, [0, 6, 12, 18, 24]), explain(24, 48, values, [24, 30, 36, 42, 48])]
    windows.append(explain(12, 36, values, [12, 18, 24, 30, 36], record=1))
    found = [e for members in stitch([w] for w in windows) for e in members]
    assert all(a is b for a, b in zip(found, windows, strict=True))


def test_masks_of_different_classes_are_not_blended() -> None:
    """Of a rank at which both windows name the same taxon, they are; the owner of a zone names it."""
    left = explain(0, 24, np.full((2, 4), 0.2, np.float32), [0, 6, 12, 18, 24])
    right = explain(12, 36, np.full((2, 4), 0.6, np.float32), [12, 18, 24, 30, 36], lineage=("Left", "Two"))
    (one,), (other,) = stitch([[left], [right]])
    assert one.window[2:4] == (0, 18) and other.window[2:4] == (18, 36)
    assert one.rank_masks[1].tolist() == pytest.approx([0.2] * 3)
    assert other.rank_masks[1].tolist() == pytest.approx([0.6] * 3)
    assert one.rank_masks[0].tolist() == pytest.approx([0.2, 0.2, 0.2 + 0.4 * 0.25])
    assert other.rank_masks[0].tolist() == pytest.approx([0.2 + 0.4 * 0.75, 0.6, 0.6])
    assert (one.label(), other.label()) == ("One", "Two")


def test_targets_are_blended_with_their_like() -> None:
    """Wherever they stand among the Explanations of the next window; one without its like is only cut."""
    borders, values = [[0, 6, 12, 18, 24], [12, 18, 24, 30, 36]], np.ones((2, 4), np.float32)
    x, y, z = (Target(name, 1, 0.5) for name in "XYZ")
    left = [explain(0, 24, v * values, borders[0], target=t) for v, t in ((0.0, x), (0.4, y))]
    right = [explain(12, 36, v * values, borders[1], target=t) for v, t in ((0.8, z), (1.0, x))]
    first, second = stitch([left, right])
    assert [e.target for e in (*first, *second)] == [x, y, z, x]
    assert first[0].mask.tolist() == pytest.approx([0, 0, 0.25])
    assert first[1].mask.tolist() == pytest.approx([0.4] * 3)
    assert second[0].mask.tolist() == pytest.approx([0.8] * 3)
    assert second[1].mask.tolist() == pytest.approx([0.75, 1, 1])


def test_the_chosen_rank_stays_chosen() -> None:
    """With ``rank``, the mask is that rank's after stitching too."""
    values = np.array([[0.9] * 4, [0.1] * 4], np.float32)
    windows = [explain(0, 24, values, [0, 6, 12, 18, 24]), explain(12, 36, values, [12, 18, 24, 30, 36])]
    for (zone,) in stitch(([replace(w, mask=w.rank_masks[1])] for w in windows), rank=1):
        assert zone.mask == pytest.approx([0.1] * 3)


def test_holds_one_window() -> None:
    """However long a contig is, no more than the window before is kept."""
    taken = []

    def endless() -> Iterator[list[Explanation]]:
        while True:
            start = 12 * len(taken)
            taken.append(start)
            yield [explain(start, start + 18, np.ones((2, 3), np.float32), [start + 6 * i for i in range(4)])]

    zones = join_chunks(stitch(endless()))
    for n in range(1, 30):
        next(zones)
        assert len(taken) <= n + 2


# ---------------------------------------------------------------- chunks


@st.composite
def cut_masks(draw: st.DrawFn) -> tuple[NDArray[np.float32], list[int]]:
    """A mask in runs, in [-1, 1], of bases; and where to cut it into windows."""
    runs = draw(
        st.lists(st.tuples(st.sampled_from([-0.9, 0.1, 0.9]), st.integers(1, 30)), min_size=1, max_size=12)
    )
    mask = np.concatenate([np.full(n, value) for value, n in runs])
    mask = mask + np.random.default_rng(len(mask)).uniform(-0.05, 0.05, len(mask))
    cuts = draw(st.sets(st.integers(1, len(mask)), max_size=8)) - {len(mask)}
    return mask.astype(np.float32), [0, *sorted(cuts), len(mask)]


@settings(max_examples=100)
@given(cut=cut_masks(), min_length=st.sampled_from([1, 8, 25]), signed=st.booleans())
def test_joined_chunks_are_those_of_the_whole(
    cut: tuple[NDArray[np.float32], list[int]], min_length: int, signed: bool
) -> None:
    """As if the record had never been cut; the relevant bases too."""
    mask, cuts = cut
    mask = mask if signed else np.abs(mask)
    target = Target("One", 1, 0.5, "Two" if signed else "")

    def part(start: int, stop: int) -> Explanation:
        values = np.stack([mask[start:stop]] * 2)
        return explain(start, stop, values, list(range(start, stop + 1)), target=target)

    expected = part(0, len(mask)).chunks(0.5, min_length)
    pieces = [[part(a, b)] for a, b in pairwise(cuts)]
    joined = [e for (e,) in join_chunks(pieces, 0.5)]
    found = [chunk for e in joined for chunk in e.joined_chunks(0.5, min_length)]
    assert [c[:3] for c in found] == [c[:3] for c in expected]
    assert [c.mean_mask for c in found] == pytest.approx([c.mean_mask for c in expected], abs=1e-5)
    relevant = sum(e.relevant_bp(0.5, min_length) for e in joined)
    whole = sum(c.stop - c.start for c in expected)
    assert relevant <= whole
    if all(b - a >= min_length for a, b in pairwise(cuts[1:-1])):  # no longer than a window, as in practice
        assert relevant == whole
    for e in joined:  # the plain ones never leave their window
        for chunk in e.chunks(0.5, min_length):
            assert e.window.start <= chunk.start < chunk.stop <= e.window.stop


def full(start: int, stop: int, **about: object) -> Explanation:
    """A window that is one chunk."""
    values = np.full((2, 1), 0.9, np.float32)
    return explain(start, stop, values, [start, stop], **about)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("second", "joined"),
    [
        (full(20, 30), True),
        (full(20, 30, lineage=("Right", "One")), True),
        (full(20, 30, lineage=("Left", "Two")), False),
        (full(20, 30, record=1), False),
        (full(26, 36), False),
        (full(20, 30, sure=(True, False)), False),
        (full(20, 30, target=Target("One", 1, 0.5)), False),
    ],
)
def test_what_is_joined(second: Explanation, joined: bool) -> None:
    """Windows of one record that touch, and that are called the same."""
    found = [e.joined_chunks() for (e,) in join_chunks([[full(10, 20)], [second]])]
    rows = [[c[:2] for c in chunks] for chunks in found]
    assert rows == ([[], [(10, 30)]] if joined else [[(10, 20)], [second.window[2:4]]])


def test_unsure_windows_join_nothing() -> None:
    """Two windows that are called nothing are not called the same."""
    none = (False, False)
    windows = [[full(0, 10, sure=none)], [full(10, 20, sure=none)]]
    assert all(e.before is None and not e.after for (e,) in join_chunks(windows))


def test_a_chunk_that_spans_many_windows() -> None:
    """Is one row of the last of them, and its mean that of all sites."""
    windows = [[full(10 * i, 10 * i + 10)] for i in range(50)]
    joined = [e for (e,) in join_chunks(windows)]
    assert [e.joined_chunks() for e in joined[:-1]] == [[]] * 49
    (chunk,) = joined[-1].joined_chunks()
    assert chunk == Chunk(0, 500, True, pytest.approx(0.9))
    assert [e.relevant_bp(0.5, 15) for e in joined] == [10] * 50


def test_group() -> None:
    """Window by window."""
    items = [full(i, i + 1) for i in range(6)]
    assert [[e.window.start for e in members] for members in group(items, 3)] == [[0, 1, 2], [3, 4, 5]]
    assert list(group([], 3)) == []


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 127, 128, 129, 1000])
def test_means_of_chunks_are_those_of_numpy(n: int) -> None:
    """To the last bit, also of a column of a table."""
    table = 0.5 + np.random.default_rng(n).random((n, 2), dtype=np.float32) / 2
    for values in table.T:
        explanation = explain(0, 6 * n, values[None], list(range(0, 6 * n + 1, 6)))
        (chunk,) = explanation.chunks(0.4)
        assert chunk.mean_mask == float(values.mean())
