"""Statistics of hand-made masks, and what is drawn of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from toy import Labelled

from wyrcli.errors import WyrError
from wyrcli.examination import Examined
from wyrcli.figures import (
    QUANTILES,
    draw_bars,
    draw_chunks,
    draw_constant_masks,
    draw_mask_values,
    draw_masks_by_position,
    draw_perturbation,
    draw_read,
    figure_bytes,
    mask_statistics,
    save_figure,
    thresholded,
)
from wyrcli.result_tables import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def examined(masks: list[list[float]], letters: int = 6) -> Examined:
    """Windows with these masks at the second of two ranks and zeros at the first; equally long tokens."""
    n = len(masks)
    windows = Labelled([""] * n, np.zeros((n, 2), dtype=np.int64))
    numbers = np.zeros((n, 2), dtype=np.int64)
    rank_masks = [np.array([[0.0, m] for m in own], dtype=np.float32).reshape(-1, 2) for own in masks]
    spans = [
        np.array([[letters * i, letters * (i + 1)] for i in range(len(own))], dtype=np.int64).reshape(-1, 2)
        for own in masks
    ]
    return Examined(windows, np.zeros((n, 2), np.float32), numbers, numbers, rank_masks, spans)


HAND_MADE = [[1.0, 0.75, 0.25, 1.0], [0.0, 0.5], [], [0.0, 1.0, 1.0, 1.0]]


# ---------------------------------------------------------------- numbers


def test_statistics_of_a_hand_made_case() -> None:
    """Shares, chunks and positions as counted by hand; a half is not relevant."""
    found = mask_statistics(examined(HAND_MADE))
    assert found.mean == pytest.approx(6.5 / 10)
    assert found.share_relevant == pytest.approx(6 / 10)
    assert found.share_undecided == pytest.approx(3 / 10)
    assert_allclose(found.shares, [0.75, 0, np.nan, 0.75])
    assert found.chunks_per_window.tolist() == [2, 0, 0, 1] and found.mean_chunks == 0.75
    assert found.chunk_tokens.tolist() == [2, 1, 3]
    assert found.chunk_letters.tolist() == [12, 6, 18]
    assert found.position_windows.tolist() == [3, 3, 2, 2]
    assert_allclose(found.position_mean, [1 / 3, 0.75, 0.625, 1])
    assert found.position_quantiles.shape == (4, len(QUANTILES))
    assert found.position_quantiles[0, [0, 3, 6]].tolist() == [0, 0, 1]
    assert found.position_quantiles[1, [0, 2, 3, 4, 6]].tolist() == [0.5, 0.625, 0.75, 0.875, 1]
    assert found.chunk_token_quantiles[[0, 3, 6]].tolist() == [1, 2, 3]
    assert found.chunk_letter_quantiles[[0, 3, 6]].tolist() == [6, 12, 18]


def test_chunks_are_as_long_as_their_tokens() -> None:
    """Letters come from the spans, also where tokens differ."""
    own = examined([[1.0, 1.0, 0.0, 1.0]])
    own.spans[0][:] = [[0, 6], [6, 7], [7, 8], [8, 14]]
    assert mask_statistics(own).chunk_letters.tolist() == [7, 6]


MASKS = st.lists(st.lists(st.sampled_from([0, 0.125, 0.5, 0.75, 1.0]), max_size=6), max_size=6)


@given(masks=MASKS)
def test_statistics_by_loop(masks: list[list[float]]) -> None:
    """Against one value after another."""
    found = mask_statistics(examined(masks))
    values = [m for own in masks for m in own]
    assert sorted(found.values) == sorted(values)
    runs = ["".join("x" if m > 0.5 else " " for m in own).split() for own in masks]
    assert found.chunks_per_window.tolist() == [len(own) for own in runs]
    assert found.chunk_tokens.tolist() == [len(run) for own in runs for run in own]
    assert found.chunk_letters.tolist() == [6 * len(run) for own in runs for run in own]
    assert len(found.position_windows) == max(map(len, masks), default=0)
    for p, (n, mean, quantiles) in enumerate(
        zip(found.position_windows, found.position_mean, found.position_quantiles, strict=True)
    ):
        own_values = [own[p] for own in masks if len(own) > p]
        assert n == len(own_values) and mean == pytest.approx(np.mean(own_values))
        assert_allclose(quantiles, np.quantile(own_values, QUANTILES))
    if values:
        assert found.mean == pytest.approx(np.mean(values))
    else:
        assert np.isnan([found.mean, found.share_relevant, found.share_undecided]).all()
    assert found.chunk_tokens.size or np.isnan(found.chunk_letter_quantiles).all()


@given(scores=st.lists(st.floats(-1e6, 1e6), min_size=1))
@example(scores=[5e-324, 0.0])
def test_thresholded(scores: list[float]) -> None:
    """At most 1 in size, in the same order; what is below a bound is 0."""
    raw, above_0, above_half = thresholded("x", scores).values()
    assert np.abs(raw).max() == (1 if any(scores) else 0)
    assert (np.diff(raw[np.argsort(scores)]) >= 0).all()
    assert (above_0 == np.maximum(raw, 0)).all()
    assert (above_half[raw >= 0.5] == raw[raw >= 0.5]).all() and not above_half[raw < 0.5].any()


# ---------------------------------------------------------------- pictures

STATISTICS = {"state": mask_statistics(examined(HAND_MADE)), "lstm": mask_statistics(examined([[1.0] * 9]))}
SPANS = np.array([[6 * i, 6 * i + 6] for i in range(4)])
CURVES: dict[str, Any] = {f"m{i}": ([0, 0.1, 1], [1, 0.9 - i / 20, 0]) for i in range(9)}
PICTURES: dict[str, Callable[[], Figure]] = {
    "values": lambda: draw_mask_values(STATISTICS),
    "positions": lambda: draw_masks_by_position(STATISTICS),
    "chunks": lambda: draw_chunks(STATISTICS),
    "perturbation": lambda: draw_perturbation(CURVES, CURVES),
    "constant": lambda: draw_constant_masks([1, 0.5, 0], {"gate": [1, 0.5, 0.1], "scale": [1, 1, 0.1]}),
    "bars": lambda: draw_bars({"AUPRC": {"ours": Cell(0.8, 0.7, 0.9, best=True), "lime": Cell(None)}}),
    "read": lambda: draw_read({"a": [0, 0.5, 1, 0], "b": [-3, 1, 0, 2]}, SPANS, [(3, 9)], [(12, 20)]),
}


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_the_same_each_time(name: str) -> None:
    """Drawn anew or written twice; without a date or a version; 9 inches wide."""
    figure = PICTURES[name]()
    first = figure_bytes(figure)
    assert first == figure_bytes(figure) == figure_bytes(PICTURES[name]())
    assert first.startswith(b"<?xml") and b"<dc:date>" not in first and b"Matplotlib v" not in first
    assert b'width="648' in first  # points


def test_png_is_the_same_each_time() -> None:
    """Without the version of matplotlib; 1,800 pixels wide."""
    figure = PICTURES["constant"]()
    png = figure_bytes(figure, "png")
    assert png.startswith(b"\x89PNG") and b"Software" not in png and png == figure_bytes(figure, "png")
    assert int.from_bytes(png[16:20], "big") == 1800


@pytest.mark.parametrize("name", PICTURES)
def test_axes_are_named(name: str) -> None:
    """The lowest panel of each column says what it shows, except where a title does; no text is cut off."""
    figure = PICTURES[name]()
    axes = figure.axes
    assert axes[-1].get_xlabel() or axes[-1].get_title("left")
    figure.canvas.draw()
    page = figure.bbox
    for one in axes:
        for text in (one.xaxis.label, one.yaxis.label, one.title, *one.texts):
            if text.get_text():
                box = text.get_window_extent()
                assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1


def test_histograms_hold_all_values() -> None:
    """Percents sum to 100 in every panel, and no bar is cut off."""
    figures = [draw_mask_values(STATISTICS), draw_chunks(STATISTICS)]
    for axes in (one for figure in figures for one in figure.axes):
        (bars,) = axes.patches
        heights, edges, _ = bars.get_data()  # type: ignore[attr-defined]
        assert heights.sum() == pytest.approx(100)
        assert heights.max() <= axes.get_ylim()[1]
        assert edges[-1] <= axes.get_xlim()[1] and axes.get_xlim()[0] <= edges[0]


def test_long_chunks_go_into_the_last_bar() -> None:
    """One that is ten times as long as all others does not flatten them."""
    masks = [[1.0, 0.0] * 150, [1.0] * 300]
    figure = draw_chunks({"x": mask_statistics(examined(masks))})
    (bars,) = figure.axes[1].patches
    heights, edges, _ = bars.get_data()  # type: ignore[attr-defined]
    assert edges.max() < 100 and heights.sum() == pytest.approx(100)


def test_rare_positions_are_left_out() -> None:
    """A window that is longer than all others tells nothing of masks by position."""
    masks = [[0.5] * 10] * 19 + [[0.5] * 90]
    figure = draw_masks_by_position({"x": mask_statistics(examined(masks))})
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == list(range(1, 11))  # type: ignore[arg-type]


def test_curves_hold_what_was_measured() -> None:
    """Every method in both panels, told apart by colour or dashes."""
    figure = draw_perturbation(CURVES, CURVES)
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == list(CURVES)
        assert np.asarray(axes.lines[2].get_xydata()).tolist() == [[0, 1], [10, 0.8], [100, 0]]
        assert len({(line.get_color(), str(line.get_linestyle())) for line in axes.lines}) == len(CURVES)


def test_bars() -> None:
    """As long as the values; intervals as lines; what was not measured says so; the first is coloured."""
    scores = {
        "AUPRC": {"ours": Cell(0.75, 0.5, 1.0, best=True), "lime": Cell(None), "ig": Cell(-0.25)},
        "speed": {"ig": Cell(3)},
    }
    figure = draw_bars(scores)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [0.75, -0.25]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in right.patches] == [3]  # type: ignore[attr-defined]
    assert [1.0, 0.5] not in [list(line.get_xdata()) for line in left.lines]  # type: ignore[arg-type]
    assert [0.5, 1.0] in [list(line.get_xdata()) for line in left.lines]  # type: ignore[arg-type]
    assert [text.get_text() for text in left.texts] == ["0.750", " not measured", "\N{MINUS SIGN}0.250"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["ours", "lime", "ig"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first on top
    with pytest.raises(ValueError, match="text for a score"):
        draw_bars({"a": {"x": Cell("much")}})


def test_tracks_step_over_bases() -> None:
    """Each token's score over all its letters; truth and decoys where they are; one legend entry each."""
    figure = draw_read({"x": [0.5, 1, 0, 0.25]}, SPANS, [(3, 9), (15, 18)], [(12, 20)])
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [0, 6, 6, 12, 12, 18, 18, 24]  # type: ignore[arg-type]
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.5, 1, 1, 0, 0, 0.25, 0.25]  # type: ignore[arg-type]
    spans = [(p.get_label(), p.get_extents().transformed(axes.transData.inverted())) for p in axes.patches]
    assert [(label, round(box.x0), round(box.x1)) for label, box in spans] == [
        ("planted motif", 3, 9),
        ("planted motif", 15, 18),
        ("decoy", 12, 20),
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["planted motif", "decoy"]
    assert not draw_read({"x": [0.5, 1, 0, 0.25]}, SPANS).legends


@pytest.mark.parametrize(
    ("scores", "limits"),
    [
        ([0, 0.5, 1, 0.2], (0, 1)),
        ([-1, 0, 0.5, 0], (-1, 1)),
        ([0, 40, 2, 1], (0, 40)),
        ([0, 0, 0, 0], (0, 0)),
    ],
)
def test_scale_of_a_track(scores: list[float], limits: tuple[float, float]) -> None:
    """Masks from 0 to 1, scaled scores from -1 to 1, others as far as they go."""
    (axes,) = draw_read({"x": scores}, SPANS).axes
    assert (min(axes.get_yticks()), max(axes.get_yticks())) == limits


def test_nothing_to_draw() -> None:
    """No window, no chunk, no token: the axes stand empty."""
    nothing = {"none": mask_statistics(examined([])), "empty": mask_statistics(examined([[], [0.25]]))}
    for draw in (draw_mask_values, draw_masks_by_position, draw_chunks):
        assert figure_bytes(draw(nothing)).startswith(b"<?xml")
    assert figure_bytes(draw_read({"x": []}, np.empty((0, 2), dtype=np.int64)))


def test_names_are_text() -> None:
    """Dollars are no formula, control characters are gone, and letters that the font lacks are no warning."""
    name = "$\\frac{1}$ \x1b[31m\u202e 病毒"
    figure = draw_masks_by_position({name: STATISTICS["state"]})
    assert figure.axes[0].get_title("left") == "$\\frac{1}$ _[31m_ 病毒"
    assert b"\x1b" not in figure_bytes(figure)


def test_save(tmp_path: Path) -> None:
    """By its ending."""
    figure = PICTURES["constant"]()
    for ending, start in (("svg", b"<?xml"), ("PNG", b"\x89PNG")):
        save_figure(figure, tmp_path / f"x.{ending}")
        assert (tmp_path / f"x.{ending}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"\.svg or \.png, not as '\.jpg'"):
        save_figure(figure, tmp_path / "x.jpg")


def test_the_look_is_ours_and_stays_here() -> None:
    """The user's settings change no picture, and are the same afterwards."""
    matplotlib = pytest.importorskip("matplotlib")
    expected = figure_bytes(PICTURES["constant"]())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        assert figure_bytes(PICTURES["constant"]()) == expected
        assert dict(matplotlib.rcParams) == before


def test_no_pyplot_and_nothing_at_import() -> None:
    """matplotlib is loaded when the first picture is drawn; pyplot, which keeps windows, never."""
    code = (
        "import sys, wyrcli.figures as f\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.figure_bytes(f.draw_constant_masks([1, 0], {'x': [1, 0]}))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; the message says how to get it.  The numbers need none."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(WyrError, match=r"a picture needs matplotlib: pip install 'wyrcli\[plots\]'"):
        PICTURES["values"]()
    assert mask_statistics(examined(HAND_MADE)).mean == pytest.approx(0.65)
