"""Enrichment of masks in features: planted cases, and chance where there is nothing but chance."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wyrcli.cli import main
from wyrcli.enrichment import Enrichment, Tally, Track, adjust, as_json, enrichment_table, spread_mask
from wyrcli.figures import draw_folds, figure_bytes
from wyrcli.result_tables import Cell, render

Bools = NDArray[np.bool_]
ONE = [Track("x", "annotation")]


def draw_runs(rng: np.random.Generator, n: int, n_runs: int = 4, size: int = 30) -> Bools:
    """Some runs anywhere."""
    flags = np.zeros(n, np.bool_)
    for start in rng.integers(n - size, size=n_runs):
        flags[start : start + size] = True
    return flags


def independent(seed: int, n_windows: int = 25, n: int = 240, *, anywhere: bool = True) -> Enrichment:
    """Masks and features that know nothing of each other, and prefer no place unless not ``anywhere``."""
    rng = np.random.default_rng(seed)
    tally = Tally(ONE, 199, seed)
    for i in range(n_windows):
        feature = np.roll(draw_runs(rng, n), int(rng.integers(n)) if anywhere else 0)
        tally.add("T", f"g{i % 6}", draw_runs(rng, n), feature[None])
    (found,) = tally.results()
    return found


def test_a_mask_that_is_the_feature() -> None:
    rng = np.random.default_rng(0)
    tally = Tally(ONE, 200)
    inside, total = 0, 0
    for i in range(30):
        feature = draw_runs(rng, 300, 2)
        inside, total = inside + int(feature.sum()), total + 300
        tally.add("T", f"g{i % 5}", feature, feature[None])
    (found,) = tally.results()
    assert found.of_relevant == 1 and found.of_bases == pytest.approx(inside / total)
    assert found.fold == pytest.approx(total / inside) and found.fold > 4
    assert found.p == 1 / 201 and found.q == found.p and found.z > 10
    assert found.shifted > 4 and 4 < found.shifted_interval[0] < found.shifted < found.shifted_interval[1]
    assert (found.genomes, found.windows, found.present) == (5, 30, 30)
    assert found.log2 == pytest.approx(math.log2(found.shifted))


def test_a_mask_beside_the_feature() -> None:
    tally = Tally(ONE, 200)
    feature = np.arange(200) < 60
    for i in range(10):
        tally.add("T", str(i), ~feature, feature[None])
    (found,) = tally.results()
    assert found.fold == found.shifted == 0 and found.z < -5 and found.p == 1 / 201
    assert found.log2 == -math.inf and all(map(math.isnan, found.fold_interval))
    assert as_json([found])[0]["fold_interval"] == [None, None]


def test_chance_looks_like_chance() -> None:
    """Over 200 trials p is uniform (5 % below .05), folds are about 1, and z has variance 1."""
    found = [independent(seed) for seed in range(200)]
    p = np.array([own.p for own in found])
    assert 0.01 <= (p <= 0.05).mean() <= 0.10
    assert abs(np.mean(p) - 0.5) < 0.08 and abs(np.quantile(p, 0.25) - 0.25) < 0.1
    z = np.array([own.z for own in found])
    assert abs(z.mean()) < 0.25 and 0.8 < z.std() < 1.2
    assert abs(np.mean([own.shifted for own in found]) - 1) < 0.03
    held = [own.shifted_interval[0] <= 1 <= own.shifted_interval[1] for own in found]
    assert 0.85 <= np.mean(held) <= 1


def test_place_in_the_window_is_told_apart() -> None:
    """Masks and features that both avoid the ends seem enriched, and as much so as their place explains."""
    found = [independent(seed, 200, anywhere=False) for seed in range(20)]
    shifted = np.array([own.shifted for own in found])
    placed = np.array([own.placed for own in found])
    assert shifted.mean() > 1.05 and abs(placed.mean() - shifted.mean()) < 0.03
    assert abs(np.mean([independent(seed, 200).placed for seed in range(20)]) - 1) < 0.02
    # A mask that is the feature, anywhere: its own place explains nothing.
    rng = np.random.default_rng(0)
    tally = Tally(ONE, 9)
    for i in range(8):
        feature = np.roll(np.arange(200) < 20, int(rng.integers(200)))
        tally.add("T", str(i), feature, feature[None])
    (own,) = tally.results()
    assert own.shifted > 8 and own.placed < 2


def test_rotation_forgives_what_is_between_windows() -> None:
    """Windows that are rich in the feature have large masks, but the places in them are by chance."""
    rng = np.random.default_rng(4)
    tally = Tally(ONE, 500)
    for i in range(60):
        n_runs = 8 if i % 2 else 1
        tally.add("T", str(i), draw_runs(rng, 400, n_runs), draw_runs(rng, 400, n_runs)[None])
    (found,) = tally.results()
    assert found.fold > 1.3 and found.fold_interval[0] > 1.1
    assert found.p > 0.02 and abs(found.shifted - 1) < 0.12


@given(st.integers(1, 60), st.integers(0, 10**6))
def test_expectation_is_that_of_all_rotations(n: int, seed: int) -> None:
    """The area is kept by every rotation; mean and variance of the overlap are those of np.roll."""
    rng = np.random.default_rng(seed)
    mask, feature = rng.random(n) < 0.4, rng.random(n) < 0.5
    overlaps = np.array([(np.roll(mask, s) & feature).sum() for s in range(n)])
    tally = Tally(ONE, 50)
    tally.add("T", "g", mask, feature[None])
    (found,) = tally.results()
    overlap = (mask & feature).sum()
    if overlaps.sum():
        assert found.shifted == pytest.approx(overlap / overlaps.mean())
        assert 1 / 51 <= found.p <= 1
        if overlaps.std():
            assert found.z == pytest.approx((overlap - overlaps.mean()) / overlaps.std(), abs=1e-4)
    else:
        assert math.isnan(found.p) and math.isnan(found.z) and math.isnan(found.q)


def test_random_rotations_are_rotations() -> None:
    """A mask of all or nothing, or a feature of all bases, is the same after every rotation."""
    for mask, feature in [(np.ones(50, bool), np.arange(50) < 9), (np.arange(50) < 9, np.ones(50, bool))]:
        tally = Tally(ONE, 100)
        tally.add("T", "g", mask, feature[None])
        (found,) = tally.results()
        assert (found.p, found.fold, found.shifted) == (1, 1, 1) and math.isnan(found.z)


def test_taxa_and_all_windows() -> None:
    """Each taxon by itself, then all; windows whose record no file knows count for no annotation."""
    rng = np.random.default_rng(2)
    tracks = [Track("CDS", "annotation"), Track("N", "sequence")]
    tally = Tally(tracks, 100)
    for i in range(40):
        mask = draw_runs(rng, 200)
        features = np.stack([mask, draw_runs(rng, 200)])
        known = np.array([i % 4 > 0, True])
        tally.add("AB"[i % 2], "g" + str(i % 8), mask, features, known)
    found = {(own.taxon, own.track.name): own for own in tally.results()}
    assert list(found) == [(t, name) for t in ("A", "B", "") for name in ("CDS", "N")]
    assert [found[t, "CDS"].windows for t in ("A", "B", "")] == [10, 20, 30]
    assert [found[t, "N"].windows for t in ("A", "B", "")] == [20, 20, 40]
    assert found["", "CDS"].genomes == 6 and found["", "N"].genomes == 8
    assert all(found[t, "CDS"].of_relevant == 1 for t in "AB")


def test_seed_decides() -> None:
    assert independent(3) == independent(3)
    assert independent(3).p != replace(independent(4)).p


def test_a_single_genome_has_no_interval() -> None:
    tally = Tally(ONE, 20)
    for i in range(5):
        tally.add("T", "only", np.arange(30) < 9, (np.arange(30) < 5 + i)[None])
    (found,) = tally.results()
    assert found.genomes == 1 and all(map(math.isnan, (*found.fold_interval, *found.shifted_interval)))
    assert Tally(ONE).results() == []
    with pytest.raises(ValueError, match="1 tracks and 3 bases"):
        tally.add("T", "g", np.ones(3, bool), np.ones((2, 3), bool))


def test_benjamini_hochberg() -> None:
    """The worked example: p (i) m / i, made monotone from the largest down; NaN is no test."""
    base = independent(0)
    p = [0.01, 0.04, math.nan, 0.03, 0.005]
    q = [own.q for own in adjust([replace(base, p=value) for value in p])]
    assert np.allclose(q, [0.02, 0.04, math.nan, 0.04, 0.02], equal_nan=True)


def test_masks_of_tokens_become_masks_of_bases() -> None:
    """Tokens of any size, also such as share a base."""
    spans = np.array([[0, 6], [6, 12], [12, 13], [12, 15]])
    mask = spread_mask(np.array([0.4, 0.6, 0.9, 1.0], np.float32), spans, 16)
    assert np.flatnonzero(mask).tolist() == list(range(6, 15))


def test_table_and_picture(tmp_path: Path) -> None:
    """Features that no window has are named below; names from files are harmless."""
    evil = Track("<b>|$x$\x1b[31m", "annotation")
    tally = Tally([evil, Track("N", "sequence")], 20)
    for i in range(4):
        half = np.arange(40) < 20
        tally.add("AB"[i % 2], str(i), half, np.stack([half, np.zeros(40, bool)]))
    results = tally.results()
    table = enrichment_table(results, "superkingdom", 20)
    text = render([table], "text")
    assert "superkingdom A (2 genomes, 2 windows):" in text and "all windows (4 genomes" in text
    assert "In no window: N." in text and "\x1b" not in text
    assert len(table.rows) == 3 and "<b>" not in render([table], "html")
    folds = {own.taxon: {evil.name: Cell(own.shifted, 0.0, 4.0), "none": Cell(None)} for own in results[::2]}
    assert figure_bytes(draw_folds(folds)).startswith(b"<?xml")
    with pytest.raises(ValueError, match="a text for a ratio"):
        draw_folds({"A": {"x": Cell("much")}})


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enrichment") / "reads"
    assert main(["simulate", str(folder), "--reads", "48", "--seed", "8", "-q"]) == 0
    return folder


def results_of(path: Path) -> dict[tuple[str | None, str], dict[str, float]]:
    content = json.loads(path.read_text())
    assert content["tag"] == "wyr enrichment"
    return {(own["taxon"], own["feature"]): own for own in content["results"]}


def test_demo_looks_at_motifs_and_not_at_decoys(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted motifs of all ranks are enriched, decoys are not; equal for every batch size."""
    files = ["-f", str(simulated / "truth.bed"), "-f", str(simulated / "decoys.bed")]
    found = []
    for size in ("3", "64"):
        target = tmp_path / f"{size}.json"
        command = ["enrichment", str(simulated / "reads.fasta"), *files, "--json", str(target), "-b", size]
        assert main([*command, "--shifts", "99", "--plot", str(tmp_path / "x.png")]) == 0
        found.append(results_of(target))
    assert found[0] == found[1]
    for rank in ("superkingdom", "phylum", "genus"):
        own = found[0][None, rank]
        assert own["shifted"] > 3 and own["shifted_interval"][0] > 2.5 and own["p"] == 0.01  # type: ignore[index]
    assert found[0][None, "decoy"]["shifted"] < 0.5
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert "Features in important chunks" in out and "48 windows" in err


def test_dataset_with_unknown_records(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labelled windows under their true taxon; one warning for records that the file does not know."""
    bed = tmp_path / "some.bed"
    rows = [f"read{i}\t0\t50\thead\n" for i in range(200, 4000)]
    bed.write_text("".join(rows))
    target = tmp_path / "x.tsv"
    command = ["enrichment", "-f", str(bed), "--no-computed", "--windows", "32", "--tsv", str(target)]
    assert main([*command, "--shifts", "9", "--by", "phylum"]) == 0
    err = capsys.readouterr().err
    assert err.count("warning") == 1 and "not in the files of features" in err
    assert "phylum Toy" in target.read_text() and "head" in target.read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--no-computed"], 2, "nothing to look at"),
        (["--types", "CDS"], 2, "--types is about --features"),
        (["-f", "nowhere.gff"], 1, "nowhere.gff: No such file"),
        (["--genetic-code", "99"], 1, "no genetic code 99"),
        (["--by", "clan"], 1, "clan"),
        (["--plot", "x.pdf"], 2, ".svg or .png"),
    ],
)
def test_errors(options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enrichment", "--windows", "4", *options]) == code
    assert message in capsys.readouterr().err


def test_features_of_other_records(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bed = tmp_path / "other.bed"
    bed.write_text("chr1\t0\t9\tCDS\n")
    target = tmp_path / "x.tsv"
    for source in ([str(simulated / "reads.fasta")], ["--windows", "4"]):
        assert main(["enrichment", *source, "-f", str(bed), "--tsv", str(target)]) == 1
        assert "of none of the" in capsys.readouterr().err and not target.exists()
