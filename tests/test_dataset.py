"""Dataset directories: what is written is read, and what is no dataset is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.dataset import Dataset, DatasetWriter, LabelledWindow, StringColumn, read_windows
from wyrcli.errors import InputError, WyrError
from wyrcli.outputs import new_directory
from wyrcli.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    ("phylum", "genus"), (("P1", "P2"), ("G1", "G2", "G3")), ((1, 2), (3, 4, 5)), {"path": "toy"}
)
ROWS = [
    LabelledWindow("read1", 0, 4, "read1", "ACGT", (0, 0)),
    LabelledWindow("read1", 4, 7, "read1", "NNA", (0, 1)),
    LabelledWindow("réad", 0, 1, "réad#2", "T", (1, 2)),
]


def write(path: Path, rows: list[LabelledWindow] = ROWS) -> Path:
    with DatasetWriter.create(path, TAXONOMY, window_bp=7) as writer:
        for row in rows:
            writer.write("train", row)
        writer.write("test", ROWS[0])
        writer.info["seed"] = 11
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write(tmp_path / "dataset")


def test_round_trip(dataset: Path) -> None:
    read = Dataset.open(dataset)
    assert read.taxonomy == TAXONOMY
    assert read.window_bp == 7
    assert read.info["seed"] == 11
    assert read.info["splits"] == {"train": 3, "validation": 0, "test": 1}
    assert read.info["ranks"] == ["phylum", "genus"]
    train = read.split("train")
    assert len(train) == 3
    got = [
        LabelledWindow(*row[:5], tuple(row[5].tolist()))
        for row in zip(
            train.names,
            train.starts.tolist(),
            train.stops.tolist(),
            train.groups,
            train.sequences,
            train.labels,
            strict=True,
        )
    ]
    assert got == ROWS
    assert train.labels.dtype == train.starts.dtype == train.stops.dtype == np.int64
    assert train.labels.shape == (3, 2)
    assert train.sequences.lengths.tolist() == [4, 3, 1]


def test_an_empty_split(dataset: Path) -> None:
    empty = Dataset.open(dataset).split("validation")
    assert len(empty) == len(empty.sequences) == len(empty.names) == 0
    assert empty.labels.shape == (0, 2)


def test_more_rows_than_one_row_group(tmp_path: Path) -> None:
    rows = [
        LabelledWindow(f"r{i}", i, i + 1, f"g{i}", "ACGT"[i % 4] * (i % 7 + 1), (i % 2, i % 3))
        for i in range(9000)
    ]
    train = Dataset.open(write(tmp_path / "many", rows)).split("train")
    assert train.sequences[:] == [row.sequence for row in rows]
    assert train.names[4095:4098] == ["r4095", "r4096", "r4097"]
    assert train.labels.tolist() == [list(row.classes) for row in rows]
    assert pq.ParquetFile(tmp_path / "many/train.parquet").metadata.num_row_groups == 3


def test_the_same_input_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again")
    for file in sorted(dataset.iterdir()):
        assert file.read_bytes() == (again / file.name).read_bytes()


@given(st.lists(st.text(max_size=5), max_size=8))
def test_string_column_is_a_sequence(strings: list[str]) -> None:
    strings = [s.encode("utf-8", "replace").decode() for s in strings]
    parts = [s.encode() for s in strings]
    data = np.frombuffer(b"".join(parts), dtype=np.uint8)
    column = StringColumn(data, np.cumsum([0, *map(len, parts)]))
    assert list(column) == strings
    assert [column[i] for i in range(-len(strings), 0)] == strings
    assert column[1:3] == strings[1:3]
    for index in (len(strings), -len(strings) - 1):
        with pytest.raises(IndexError):
            column[index]


def test_one_parquet_file_is_enough(dataset: Path) -> None:
    windows = read_windows(dataset / "test.parquet", TAXONOMY)
    assert windows.sequences[:] == ["ACGT"]


def test_what_is_no_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wyr prepare"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no split 'dev'"):
        Dataset.open(dataset).split("dev")
    (dataset / "train.parquet").unlink()
    with pytest.raises(InputError, match="not found; expected a Parquet"):
        Dataset.open(dataset).split("train")
    (dataset / "train.parquet").write_text("hello")
    with pytest.raises(InputError, match="not a Parquet file"):
        Dataset.open(dataset).split("train")
    info = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(info | {"format": 2}))
    with pytest.raises(InputError, match="dataset format 2; this wyr reads format 1"):
        Dataset.open(dataset)
    for text in ("{", "[]", "{}", '{"format": 1}'):
        (dataset / "dataset.json").write_text(text)
        with pytest.raises(InputError, match="not a dataset"):
            Dataset.open(dataset)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("genus", pa.array([3], pa.int32()), "column 'genus' has a class beyond the 3"),
        ("genus", pa.array([-1], pa.int32()), "column 'genus' has a class beyond the 3"),
        ("genus", pa.array([None], pa.int32()), "column 'genus' has empty cells"),
        ("genus", pa.array(["x"]), "not a Parquet file of labelled windows"),
        ("sequence", pa.array(["ACGu"]), "column 'sequence' has the character 'u'"),
        ("sequence", None, "no column 'sequence'"),
    ],
)
def test_wrong_columns_are_refused(dataset: Path, column: str, values: pa.Array | None, message: str) -> None:
    path = dataset / "test.parquet"
    table = pq.read_table(path)
    i = table.column_names.index(column)
    table = table.remove_column(i) if values is None else table.set_column(i, column, values)
    pq.write_table(table, path)
    with pytest.raises(InputError, match=message):
        Dataset.open(dataset).split("test")


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(KeyError), DatasetWriter.create(tmp_path / "d", TAXONOMY, window_bp=7) as writer:
        writer.write("train", ROWS[0])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_content_is_never_overwritten(dataset: Path) -> None:
    before = {file.name: file.read_bytes() for file in dataset.iterdir()}
    with pytest.raises(WyrError, match="not empty"), DatasetWriter.create(dataset, TAXONOMY, window_bp=7):
        pass
    assert {file.name: file.read_bytes() for file in dataset.iterdir()} == before


def test_a_rank_may_not_be_called_like_a_column(tmp_path: Path) -> None:
    taxonomy = Taxonomy(("group",), (("a",),))
    with (
        pytest.raises(WyrError, match="'group'"),
        DatasetWriter.create(tmp_path / "d", taxonomy, window_bp=7),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_new_directory_in_a_new_folder(tmp_path: Path) -> None:
    with new_directory(tmp_path / "a/b") as directory:
        (directory / "file").write_text("x")
    assert (tmp_path / "a/b/file").read_text() == "x"
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["b"]


def test_new_directory_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_directory(tmp_path / "link") as directory:
        (directory / "file").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/file").read_text() == "x"


def test_a_sample_keeps_rows_together_and_in_order(dataset: Path) -> None:
    train = Dataset.open(dataset).split("train")
    texts = list(train.sequences)
    for n in (0, 1, 2):
        drawn = train.sample(n, seed=5)
        assert len(drawn) == len(drawn.sequences) == len(drawn.names) == n
        places = [texts.index(text) for text in drawn.sequences]
        assert places == sorted(set(places))
        assert (drawn.labels == train.labels[places]).all() and (drawn.starts == train.starts[places]).all()
    assert train.sample(99) is train


def test_labels_in_the_numbers_of_a_model(dataset: Path) -> None:
    """Taxa are matched by name: a model may know more of them, in another order."""
    model = Taxonomy(("phylum", "genus"), (("P2", "P1", "P0"), ("G3", "G0", "G2", "G1")))
    opened = Dataset.open(dataset)
    own, theirs = opened.split("train").labels, opened.split_for("train", model).labels
    assert [model.decode(row) for row in theirs] == [TAXONOMY.decode(row) for row in own]
    with pytest.raises(InputError, match="knows no genus 'G3'"):
        opened.split_for("train", Taxonomy(("phylum", "genus"), (("P1", "P2"), ("G1", "G2"))))
    with pytest.raises(InputError, match="ranks"):
        opened.split_for("train", Taxonomy(("genus",), (("G1", "G2", "G3"),)))
