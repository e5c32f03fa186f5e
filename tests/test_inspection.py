"""What ``wyr prepare --inspect`` tells of a dataset."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from wyrcli.cli import main
from wyrcli.dataset import Dataset
from wyrcli.inspection import draw, inspect

LENGTHS = (40, 80, 60)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two taxa in training, GC of 0 and 1; one window of the second is the test split."""
    table = tmp_path / "in.tsv"
    rows = [("A" * 39 + "T", "one", "train"), ("C" * 79 + "G", "two[red]\u202e", "train")]
    rows.append(("C" * 30 + "G" * 30, "two[red]\u202e", "test"))
    table.write_text(
        "sequence\tkind\tsplit\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8"
    )
    options = ["--ranks", "kind", "--validation", "0", "--min-length", "10", "-q"]
    assert main(["prepare", str(table), "-o", str(tmp_path / "d"), *options]) == 0
    return tmp_path / "d"


def test_numbers(dataset: Path) -> None:
    found = inspect(Dataset.open(dataset))
    assert found.splits["windows"].tolist() == [2, 0, 1]
    assert found.splits["total"].tolist() == [120, 0, 60]
    assert found.splits.loc["train", ["shortest", "median", "longest"]].tolist() == [40, 60, 80]
    assert found.splits.loc["train", "gc"] == pytest.approx(0.5)
    kinds = found.taxa["kind"]
    assert kinds["train"].tolist() == [1, 1] and kinds["test"].tolist() == [1, 0]
    assert kinds["share"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert kinds["gc"].tolist() == [1, 0] and kinds["length"].tolist() == [70, 40]
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert found.effective_classes("kind") == pytest.approx(np.exp(entropy))


def test_tables_go_to_stdout(dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--inspect", str(dataset)]) == 0
    told = capfd.readouterr()
    assert told.err == ""
    for text in ("3 records", "split 'given'", "train", "two[red]?", "as diverse as 1.9"):
        assert text in told.out
    assert (
        "\u202e" not in told.out and "\x1b" not in told.out
    )  # names from files never reach a terminal as they are


def test_picture(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["prepare", "--inspect", str(dataset), "--figure", str(tmp_path / "d.png")]) == 0
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


def test_picture_of_one_length_and_one_taxon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every split has its bar beside the others', every rank its marker, no legend lies on them."""
    plt = pytest.importorskip("matplotlib.pyplot")
    rows = [(f"{i:08b}".replace("0", "A").replace("1", "C") * 5, "all", f"k{i % 2}") for i in range(40)]
    (tmp_path / "in.csv").write_text("sequence,top,kind\n" + "".join(",".join(row) + "\n" for row in rows))
    options = ["--ranks", "top,kind", "--test", "0.2", "--min-length", "10", "-q"]
    assert main(["prepare", str(tmp_path / "in.csv"), "-o", str(tmp_path / "d"), *options]) == 0
    monkeypatch.setattr(plt, "close", lambda figure: None)
    draw(inspect(Dataset.open(tmp_path / "d")), tmp_path / "d.png")
    lengths, _, balance = plt.gcf().axes
    bars = [bar for bar in lengths.patches if bar.get_height()]
    places = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)
    assert len(bars) == 3 and all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(places))
    assert [len(line.get_xdata()) for line in balance.lines] == [1, 2]
    assert all(line.get_marker() in "os" for line in balance.lines)
    for axis in (lengths, balance):
        assert axis.get_legend().get_window_extent().y0 >= axis.get_window_extent().y1
    monkeypatch.undo()
    plt.close("all")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--inspect", "d", "in.fa"],
        ["--inspect", "d", "-o", "x"],
        ["--figure", "x.png"],
        ["in.fa"],
        ["-o", "x"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    assert main(["prepare", *arguments]) == 2


def test_no_dataset(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--inspect", str(tmp_path)]) == 1
    assert "expected a directory made by 'wyr prepare'" in capfd.readouterr().err
