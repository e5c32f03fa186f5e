"""Dataset directories: what is written is read, and what is no dataset is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.dataset import (
    FILES,
    SPLITS,
    Dataset,
    DatasetWriter,
    LabelledWindows,
    StringColumn,
    WindowBlock,
    read_windows,
    write_windows,
)
from wyrcli.errors import InputError, WyrError
from wyrcli.outputs import new_directory, remove_unfinished
from wyrcli.packing import PackedWriter
from wyrcli.sequences import encode
from wyrcli.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    ("phylum", "genus"), (("P1", "P2"), ("G1", "G2", "G3")), ((1, 2), (3, 4, 5)), {"path": "toy"}
)


class Row(NamedTuple):
    """One window of the tests."""

    name: str
    start: int
    stop: int
    group: str
    sequence: str
    classes: tuple[int, ...]


ROWS = [
    Row("read1", 0, 4, "read1", "ACGT", (0, 0)),
    Row("read1", 4, 7, "read1", "NNA", (0, 1)),
    Row("réad", 0, 1, "réad#2", "T", (1, 2)),
]


def block(rows: list[Row], n_ranks: int = 2) -> WindowBlock:
    with TemporaryDirectory() as folder:
        with PackedWriter(Path(folder) / "x") as writer:
            for row in rows:
                writer.append(encode(row.sequence))
        packed, gaps = (np.load(f"{folder}/x.{name}.npy") for name in ("bases", "gaps"))
    return WindowBlock(
        names=pa.array([row.name for row in rows], pa.large_string()),
        starts=np.array([row.start for row in rows], np.int64),
        files=np.array([len(row.name) % 2 for row in rows], np.int32),
        groups=pa.array([row.group for row in rows], pa.large_string()),
        taxids=np.array([100 + row.classes[-1] for row in rows], np.int64),
        classes=np.array([row.classes for row in rows], np.int32).reshape(-1, n_ranks),
        gc=np.array([0.25] * len(rows), np.float32),
        lengths=np.array([len(row.sequence) for row in rows], np.int32),
        packed=packed.tobytes(),
        gaps=gaps,
    )


def write(path: Path, rows: list[Row] = ROWS, step: int = 100) -> Path:
    with (
        new_directory(path) as directory,
        DatasetWriter.create(directory, TAXONOMY, window_bp=7, files=["a.fa", "b.fa"]) as writer,
    ):
        for i in range(0, len(rows), step):
            writer.write("train", block(rows[i : i + step]))
        writer.write("test", block(ROWS[:1]))
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
    places = zip(train.names, train.starts.tolist(), train.stops.tolist(), strict=True)
    assert list(places) == [row[:3] for row in ROWS]
    assert train.sequences[:] == [row.sequence for row in ROWS]
    assert train.labels.tolist() == [list(row.classes) for row in ROWS]
    assert train.starts.dtype == train.stops.dtype == np.int64
    bytes_of_others = {f"{split}.bytes.npy" for split in SPLITS}
    assert {file.name for file in dataset.iterdir()} == set(FILES) - bytes_of_others
    assert read.alphabet == "dna"


def test_pandas_opens_it(dataset: Path) -> None:
    table = pd.read_parquet(dataset / "train.parquet")
    columns = "name start stop group file taxid gc sequence phylum genus".split()
    assert table.columns.tolist() == columns
    assert table["genus"].tolist() == ["G1", "G2", "G3"]
    assert table["file"].tolist() == ["b.fa", "b.fa", "a.fa"]
    assert table["group"].tolist() == [row.group for row in ROWS]
    assert table["taxid"].tolist() == [100, 101, 102]
    assert table["sequence"].tolist() == [row.sequence for row in ROWS]


def test_the_arrays_are_read_in_place(dataset: Path) -> None:
    """No more than a map: what training reads is never loaded as a whole."""
    train = Dataset.open(dataset).split("train")
    for array in (train.labels, train.sequences.offsets, train.sequences.lengths):
        assert isinstance(array.base, np.memmap) and not array.flags.owndata
    assert (np.load(dataset / "train.labels.npy") == train.labels).all()


def test_an_empty_split(dataset: Path) -> None:
    empty = Dataset.open(dataset).split("validation")
    assert len(empty) == len(empty.sequences) == len(empty.names) == 0
    assert empty.labels.shape == (0, 2)


def test_more_rows_than_one_row_group(tmp_path: Path) -> None:
    rows = [
        Row(f"r{i}", i, i + 1000 * (i % 7), f"g{i}", "ACGT"[i % 4] * 1000 * (i % 7), (i % 2, i % 3))
        for i in range(9000)
    ]
    train = Dataset.open(write(tmp_path / "many", rows)).split("train")
    assert train.sequences[:] == [row.sequence for row in rows]
    assert train.names[4095:4098] == ["r4095", "r4096", "r4097"]
    assert train.labels.tolist() == [list(row.classes) for row in rows]
    parts = sorted((tmp_path / "many/train.parquet").iterdir())
    assert [part.name for part in parts] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
        "part-00003.parquet",
    ]
    assert pd.read_parquet(tmp_path / "many/train.parquet")["name"].tolist() == [row.name for row in rows]


def test_the_same_input_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again")
    for file in dataset.rglob("*.*"):
        if file.is_file():
            assert file.read_bytes() == (again / file.relative_to(dataset)).read_bytes()


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


def test_one_parquet_file_is_enough(dataset: Path, tmp_path: Path) -> None:
    train = read_windows(dataset / "train.parquet", TAXONOMY)
    write_windows(tmp_path / "kept.parquet", train, TAXONOMY)
    for windows in (train, read_windows(tmp_path / "kept.parquet", TAXONOMY)):
        assert list(windows.sequences) == [row.sequence for row in ROWS]
        assert list(windows.names) == [row.name for row in ROWS]
        assert windows.starts.tolist() == [0, 4, 0] and windows.stops.tolist() == [4, 7, 1]
        assert windows.labels.tolist() == [list(row.classes) for row in ROWS]
        assert list(windows.groups) == [row.group for row in ROWS]
        few = windows.select(np.array([2, 0]))
        assert list(few.sequences) == [ROWS[2].sequence, ROWS[0].sequence]
        assert list(few.groups) == [ROWS[2].group, ROWS[0].group] and few.stops.tolist() == [1, 4]


def test_what_is_no_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wyr prepare"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no split 'dev'"):
        Dataset.open(dataset).split("dev")
    (dataset / "train.parquet/part-00000.parquet").write_text("hello")
    with pytest.raises(InputError, match="not a Parquet file"):
        _ = Dataset.open(dataset).split("train").names
    shutil.rmtree(dataset / "train.parquet")
    with pytest.raises(InputError, match="not found; expected a Parquet"):
        _ = Dataset.open(dataset).split("train").names
    (dataset / "train.parquet").write_text("hello")
    with pytest.raises(InputError, match="not a Parquet file"):
        _ = Dataset.open(dataset).split("train").starts
    (dataset / "train.bases.npy").unlink()
    with pytest.raises(InputError, match=r"train\.bases\.npy: not found; the dataset is not complete"):
        Dataset.open(dataset).split("train")
    (dataset / "train.bases.npy").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        Dataset.open(dataset).split("train")
    info = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(info | {"format": 1}))
    with pytest.raises(InputError, match="dataset format 1; this wyr reads format 2"):
        Dataset.open(dataset)
    for text in ("{", "[]", "{}", '{"format": 2}'):
        (dataset / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=r"dataset\.json: "):
            Dataset.open(dataset)


@pytest.mark.parametrize("name", ["offsets", "lengths", "labels", "bases"])
def test_arrays_that_are_too_short_are_refused(dataset: Path, name: str) -> None:
    path = dataset / f"train.{name}.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(InputError, match="do not hold the 3 windows"):
        Dataset.open(dataset).split("train")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("genus", pa.array(["G4"]), "column 'genus' has 'G4', which the taxonomy lacks"),
        ("genus", pa.array([None], pa.string()), "column 'genus' has empty cells"),
        ("start", pa.array(["x"]), "not a Parquet file of labelled windows"),
        ("sequence", pa.array(["ACGu"]), "column 'sequence' has the character 'u'"),
        ("sequence", None, "no column 'sequence'"),
    ],
)
def test_wrong_columns_are_refused(dataset: Path, column: str, values: pa.Array | None, message: str) -> None:
    path = dataset / "test.parquet/part-00000.parquet"
    table = pq.read_table(path)
    i = table.column_names.index(column)
    table = table.remove_column(i) if values is None else table.set_column(i, column, values)
    pq.write_table(table, path)
    with pytest.raises(InputError, match=message):
        read_windows(path, TAXONOMY)


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError),
        new_directory(tmp_path / "d") as directory,
        DatasetWriter.create(directory, TAXONOMY, window_bp=7, files=["a", "b"]) as writer,
    ):
        writer.write("train", block(ROWS))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_writing_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_rank_may_not_be_called_like_a_column(tmp_path: Path) -> None:
    taxonomy = Taxonomy(("group",), (("a",),))
    with (
        pytest.raises(WyrError, match="'group'"),
        DatasetWriter.create(tmp_path, taxonomy, window_bp=7, files=[]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_content_is_never_overwritten(dataset: Path) -> None:
    before = {file: file.read_bytes() for file in dataset.rglob("*.*") if file.is_file()}
    with pytest.raises(WyrError, match="not empty"), new_directory(dataset):
        pass
    # Not even if it has appeared in the meantime.
    with pytest.raises(WyrError, match="not empty"), new_directory(dataset.parent / "late") as directory:
        (directory / "file").write_text("mine")
        (dataset.parent / "late").mkdir()
        (dataset.parent / "late" / "file").write_text("theirs")
    assert (dataset.parent / "late" / "file").read_text() == "theirs"
    assert {file: file.read_bytes() for file in dataset.rglob("*.*") if file.is_file()} == before


def test_only_a_dataset_is_replaced(dataset: Path) -> None:
    with new_directory(dataset, replace=FILES) as directory:
        (directory / "dataset.json").write_text("new")
    assert [file.name for file in dataset.iterdir()] == ["dataset.json"]
    (dataset / "thesis.tex").write_text("years of work")
    with pytest.raises(WyrError, match=r"thesis\.tex"), new_directory(dataset, replace=FILES):
        pass


def test_what_a_killed_run_left_is_removed_but_not_what_another_writes(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from wyrcli.outputs import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as d:\n"
        "    (d / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], check=False)
    assert run.returncode == -9 and not (tmp_path / "d").exists()
    assert len(list(tmp_path.iterdir())) == 1
    with new_directory(tmp_path / "d") as first:  # removes it
        assert list(tmp_path.iterdir()) == [first]
        assert remove_unfinished(tmp_path / "d") == 0
        (first / "file").write_text("x")
    assert (tmp_path / "d/file").read_text() == "x"


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


def test_classes_of_taxa_that_a_model_may_not_know(dataset: Path) -> None:
    """By taxid where both have one, else by name; a name whose taxid is another taxon's does not count."""
    opened = Dataset.open(dataset)
    genera = opened.taxonomy.taxa[1]
    own = replace(opened, taxonomy=Taxonomy(("phylum", "genus"), opened.taxonomy.taxa, ((1, 2), (11, 12, 0))))
    assert len(genera) == 3 and len(opened.taxonomy.taxa[0]) == 2
    renamed = Taxonomy(("phylum", "genus"), (("new",), (genera[1], genera[2])), ((2,), (11, 99)))
    phyla, found = own.class_maps(renamed)
    assert phyla.tolist() == [-1, 0]
    assert found.tolist() == [0, -1, 1]  # taxid; its name is taken by that; name, as one has no taxid
    windows, before = opened.split("train").relabelled([phyla, found]), opened.split("train").labels
    assert (windows.labels[:, 1] == found[before[:, 1]]).all() and (windows.labels[:, 0] < 1).all()


@pytest.mark.parametrize(
    ("n", "members"),
    [
        (3, [1, 1, 1]),
        (6, [2, 2, 2]),
        (24, [11, 10, 3]),
        (50, [37, 10, 3]),
        (113, [100, 10, 3]),
        (999, [100, 10, 3]),
    ],
)
def test_an_even_sample(n: int, members: list[int]) -> None:
    """Of each class equally many, or all; in their old order, the same for a seed."""
    labels = np.array([[0, 0]] * 100 + [[0, 1]] * 10 + [[1, 2]] * 3, dtype=np.int32)
    windows = LabelledWindows([str(i) for i in range(113)], labels, lambda: pytest.fail("no places needed"))
    sample = windows.sample_evenly(n, seed=1)
    assert np.bincount(sample.labels[:, 1]).tolist() == members
    numbers = [int(text) for text in sample.sequences]
    assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)
    assert list(windows.sample_evenly(n, seed=1).sequences) == list(sample.sequences)
