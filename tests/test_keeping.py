"""Parts of a study that are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wyrcli.errors import WyrError
from wyrcli.keeping import Shelf, digest


def test_digest(tmp_path: Path) -> None:
    """It tells apart contents, their order, and where one text ends and the next begins."""
    file = tmp_path / "f"
    file.write_bytes(b"ab")
    found = [
        digest("ab"),
        digest("a", "b"),
        digest(["a", "b"]),
        digest(["ab"]),
        digest(["b", "a"]),
        digest(file),
        digest(file, "ab"),
        digest(),
    ]
    # One text stands for a sequence of one.
    assert found[0] == found[3]
    assert len(set(found)) == len(found) - 1


def test_a_part_is_computed_once(tmp_path: Path) -> None:
    """And again if what it rests on is another, or if its name is."""
    asked: list[str] = []

    def compute(name: str) -> tuple[list[np.ndarray], float]:
        asked.append(name)
        return [np.array([1.5, np.nan]), np.empty(0), np.arange(3.0)], 2.5

    for shelf in (Shelf(tmp_path / "new", "a"), Shelf(tmp_path / "new", "a")):
        arrays, number = shelf.arrays("x/../y", "1", lambda: compute("x"))
        assert number == 2.5 and [len(own) for own in arrays] == [2, 0, 3]
        assert arrays[0][0] == 1.5 and np.isnan(arrays[0][1]) and arrays[2].tolist() == [0, 1, 2]
    assert asked == ["x"]
    Shelf(tmp_path / "new", "b").arrays("x/../y", "1", lambda: compute("other model"))
    Shelf(tmp_path / "new", "a").arrays("x/../y", "2", lambda: compute("other options"))
    Shelf(tmp_path / "new", "a").arrays("x y", "1", lambda: compute("other name"))
    assert asked == ["x", "other model", "other options", "other name"]
    assert all(path.parent == tmp_path / "new" for path in tmp_path.rglob("*.*"))


def test_json_parts(tmp_path: Path) -> None:
    """Also numbers that JSON does not know; nothing is left of what failed."""
    shelf = Shelf(tmp_path, "a")

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shelf.content("c", "", fail)
    assert not list(tmp_path.iterdir())
    first = shelf.content("c", "", lambda: {"value": float("nan"), "text": "é"})
    again = shelf.content("c", "", fail)
    assert np.isnan(first["value"]) and np.isnan(again["value"]) and again["text"] == "é"
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_parts_are_computed_again(tmp_path: Path) -> None:
    """A file that is cut short is as good as none."""
    shelf = Shelf(tmp_path / "x", "a")
    shelf.arrays("n", "", lambda: ([np.arange(5.0)], 1.0))
    shelf.content("c", "", lambda: list(range(9)))
    for path in (tmp_path / "x").iterdir():
        path.write_bytes(path.read_bytes()[:7])
    arrays, number = shelf.arrays("n", "", lambda: ([np.arange(2.0)], 2.0))
    assert number == 2 and arrays[0].tolist() == [0, 1] and shelf.content("c", "", lambda: [3]) == [3]
    assert shelf.arrays("n", "", lambda: ([], 0.0))[1] == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(WyrError, match="cannot keep parts"):
        Shelf(tmp_path / "file", "a")


def test_no_folder_keeps_nothing() -> None:
    """Each time is the first."""
    numbers = iter(range(9))
    shelf = Shelf(None, "a")
    assert [shelf.content("c", "", lambda: next(numbers)) for _ in range(3)] == [0, 1, 2]
