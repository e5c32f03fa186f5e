"""Logos, tables and the page of motifs, and TF-MoDISco's side of it."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import PathPatch

from wyrcli.class_motifs import ClassRead, Motif, compare
from wyrcli.class_page import ClassResult, Example, build_sections, show_read
from wyrcli.errors import WyrError
from wyrcli.figures import figure_bytes
from wyrcli.logos import draw_logos
from wyrcli.motif_effects import Effect, MotifEffects
from wyrcli.motif_tables import ClassMotifs, motif_json, motif_table
from wyrcli.pages import page_text
from wyrcli.result_tables import Cell, Column, Table
from wyrcli.tfmodisco import run_modisco

HOSTILE = "x<script>alert(1)</script>\x1b[31m$\\alpha$"


def make_motif(seed: int, length: int = 9, **more: Any) -> Motif:
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.multinomial(60, rng.dirichlet([0.2] * 4)) for _ in range(length)])
    known: dict[str, Any] = {
        "n_sites": 60,
        "share": 0.9,
        "background_shares": {"others": 0.1},
        "p": 1e-9,
        "q": 1e-8,
    }
    return Motif(f"motif_{seed}", counts.astype(np.float64), **(known | {"threshold": 5.0} | more))


EFFECTS = MotifEffects(
    Effect(50, 0.1, 0.9, 0.1, 4.2, 3.9, 4.5, 1e-4),
    Effect(0, *[float("nan")] * 7),
    2,  # type: ignore[arg-type]
)
CLASS = ClassMotifs(
    "genus",
    HOSTILE,
    [make_motif(1), make_motif(2, q=0.5), make_motif(3, q=float("nan"))],
    [EFFECTS, None, None],
)


def test_letters_are_as_high_as_they_say() -> None:
    """In each column the letters stack up to its information, the most frequent on top."""
    motifs = {"a": make_motif(1), HOSTILE: make_motif(2, 40)}
    figure = draw_logos(motifs)
    assert len(figure.axes) == 2
    for axes, motif in zip(figure.axes, motifs.values(), strict=True):
        boxes = [p.get_path().get_extents() for p in axes.patches if isinstance(p, PathPatch)]
        heights = motif.probabilities * motif.information[:, None]
        for column, own in enumerate(heights, 1):
            mine = [box for box in boxes if abs((box.x0 + box.x1) / 2 - column) < 0.4]
            assert [box.height for box in mine] == pytest.approx(sorted(own[own >= 0.01]))
            assert sum(box.height for box in mine) == pytest.approx(motif.information[column - 1], abs=0.04)
            assert all(0.9 < box.width < 1 for box in mine)
            for below, above in pairwise(mine):
                assert above.y0 == pytest.approx(below.y1)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert figure_bytes(figure) == figure_bytes(draw_logos(motifs))
    with pytest.raises(ValueError, match="no motif"):
        draw_logos({})


def test_a_motif_that_says_nothing_can_be_drawn() -> None:
    figure = draw_logos({"flat": Motif("m", np.full((3, 4), 5.0))})
    assert len(figure.axes[0].patches) == 0


def test_the_table_has_the_kept_ones_first_and_says_why_not() -> None:
    other = ClassMotifs("genus", "B", [make_motif(4, q=0.9), make_motif(5)], [None, None])
    table = motif_table("motifs", "Motifs", [CLASS, other])
    rows = [dict(zip([c.key for c in table.columns], row, strict=True)) for row in table.rows]
    assert [row["motif"].value for row in rows] == [f"motif_{i}" for i in (1, 2, 3, 5, 4)]
    assert [row["kept"].value for row in rows] == ["yes", "no", "no", "yes", "no"]
    assert [row["reason"].value for row in rows] == ["", "q above 0.05", "not tested", "", "q above 0.05"]
    assert rows[0]["planted"] == Cell(4.2, 3.9, 4.5) and rows[0]["ablated"].value is None
    assert rows[0]["effect"].value == "raises, not needed" and rows[0]["in_others"].value == 0.1
    small = motif_table("motifs", "Motifs", [other], compact=True)
    assert len(small.columns) < len(table.columns) and len(small.rows) == 2
    assert motif_table("motifs", "Motifs", []).rows == []


def test_reasons() -> None:
    assert (
        make_motif(1, background_shares={"others": 0.1, "siblings": 0.5}).why_not()
        == "frequent in siblings too"
    )
    assert make_motif(1, members={"a": 0.9, "b": 0.0}).why_not() == "of few members: a most"
    assert make_motif(1, members={"a": 0.9, "b": 0.7}).is_kept()
    assert make_motif(1, q=0.04).why_not(fdr=0.01) == "q above 0.01"


def test_json_is_plain() -> None:
    for motif, effects in zip(CLASS.motifs, CLASS.effects, strict=True):
        found = json.loads(json.dumps(motif_json(motif, effects), allow_nan=False))
        assert np.allclose(found["counts"], motif.counts) and found["kept"] == motif.is_kept()
    assert motif_json(CLASS.motifs[0], EFFECTS)["effects"]["ablated"] == {
        name: 0 if name == "n" else None for name in Effect._fields
    }
    assert motif_json(make_motif(1, threshold=float("inf")), None)["threshold_bits"] is None


def test_a_read_is_drawn_in_pieces_of_equal_score() -> None:
    rng = np.random.default_rng(0)
    motif = make_motif(1)
    text = "".join("ACGT"[i] for i in rng.integers(4, size=40))
    text = text[:10] + motif.consensus + text[19:]
    scores = np.repeat(rng.uniform(size=10), 4).astype(np.float32)
    example = show_read(ClassRead(text, scores, name="r"), [motif])
    assert example.spans.tolist() == [[4 * i, 4 * i + 4] for i in range(10)]
    assert np.allclose(example.scores, scores[::4], atol=1e-3)
    assert (10, 19) in example.sites
    assert len(show_read(ClassRead("", np.empty(0)), [motif]).spans) == 0


def test_the_page() -> None:
    """Nothing of a name becomes markup; logos, tables and reads are there; not too many classes."""
    keywords = Table("keywords", "Keywords", [Column("term", HOSTILE)], [[HOSTILE]])
    example = Example(HOSTILE, np.array([[0, 6], [6, 12]]), np.array([0.1, 0.9]), [(6, 12)])
    first = ClassResult(CLASS, keywords, [example])
    plain = ClassResult(ClassMotifs("genus", "none", [make_motif(2, q=0.5)], [None]))
    words = ClassResult(
        ClassMotifs("label", "bad", [], []), words={HOSTILE: Cell(0.9, 0.8, 1.0), "dull": Cell(0.5)}
    )
    sections = build_sections([HOSTILE], [keywords], [first, plain, words], most=3)
    page = page_text(HOSTILE, sections)
    assert "<script>alert" not in page and "\x1b" not in page
    assert [section.heading for section in sections] == [
        "What this is", "All classes", f"genus: {HOSTILE}", "genus: none", "label: bad",
    ]  # fmt: skip
    assert page.count("<img ") == 3  # a logo, a read, words
    assert "No motif was kept." in page
    assert re.search(r"planted into 50 neutral reads \(2 copies each\).*from 10.0% to 90.0%", page)
    assert page == page_text(HOSTILE, build_sections([HOSTILE], [keywords], [first, plain, words], most=3))
    few = build_sections([], [], [first, plain, words], most=1)
    assert few[-1].heading == "Not drawn" and few[-1].parts == [
        "2 more classes: see the tables beside this page."
    ]


def test_modisco_is_asked_for_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays (N, L, 4), scores whose mean is 0, none where no letter is; patterns become motifs, trimmed."""
    asked: dict[str, Any] = {}
    motif = make_motif(1, 12)
    wide = np.concatenate([np.full((5, 4), 0.25), motif.probabilities, np.full((4, 4), 0.25)])

    def fake(**options: Any) -> tuple[list[Any], None]:
        asked.update(options)
        return [SimpleNamespace(sequence=wide, seqlets=range(60))], None

    monkeypatch.setitem(sys.modules, "modiscolite", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "modiscolite.tfmodisco", SimpleNamespace(TFMoDISco=fake))
    rng = np.random.default_rng(0)
    reads = [ClassRead("ACGTN" * 20, rng.uniform(size=100)), ClassRead("GGCA" * 20, rng.uniform(size=80))]
    (found,) = run_modisco(reads)
    assert compare(motif.probabilities, found.probabilities, len(found)).correlation > 0.99
    assert found.name == "modisco_1" and abs(len(found) - 12) <= 1 and found.n_sites == 60
    one_hot, scores = asked["one_hot"], asked["hypothetical_contribs"]
    assert one_hot.shape == scores.shape == (2, 100, 4)
    assert one_hot[0].sum(1).tolist() == [1, 1, 1, 1, 0] * 20 and one_hot[1, 80:].sum() == 0
    assert np.allclose(scores.sum(2)[1, :80], reads[1].scores - reads[1].scores.mean(), atol=1e-6)
    assert run_modisco([ClassRead("ACGT", np.ones(4))]) == []
    assert not found.is_kept()


def test_without_modisco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modiscolite.tfmodisco", None)
    with pytest.raises(WyrError, match=r"pip install 'wyrcli\[modisco\]'"):
        run_modisco([ClassRead("ACGT" * 30, np.ones(120))])
