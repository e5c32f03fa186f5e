"""Parquet, JSON lines and arrays for motif tools: what comes back is what was explained."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from findings import HOSTILE, RANKS, explain, find
from hypothesis import given
from hypothesis import strategies as st

from wyrcli import columnar
from wyrcli.columnar import open_parquet
from wyrcli.errors import WyrError
from wyrcli.explanation import Target
from wyrcli.finding import Finding
from wyrcli.jsonlines import JsonLinesWriter
from wyrcli.motifs import onehot_path, open_motifs
from wyrcli.writers import TokensWriter

TARGET = Target("Nyavirus", 2, 0.25, against="T4")


def some_findings() -> list[Finding]:
    """Three windows: one of a target, one unsure, one without a chunk."""
    return [
        find("r1", [0.9, 0.1, -0.8], target=TARGET),
        find("r 2", [0.9, 0.9], record=1, sure=(False, False, False), start=6, length=18),
        find("r3", [0.25], record=2, width=1),
    ]


# ---------------------------------------------------------------- Parquet


def test_parquet_by_hand(tmp_path):
    """Typed columns, nulls where there is nothing, lists of one length."""
    path = tmp_path / "x.parquet"
    with open_parquet(str(path), RANKS) as writer:
        for finding in some_findings():
            writer.write(finding)
        assert not path.exists()
    rows = pq.read_table(path).to_pylist()
    first, second, third = rows
    assert (first["record"], first["name"], first["start"], first["stop"]) == (0, "r1", 0, 18)
    assert (first["label"], first["target"], first["target_against"], first["target_probability"]) == (
        "Nyavirus", "Nyavirus", "T4", 0.25,
    )  # fmt: skip
    assert [(c["start"], c["stop"]) for c in first["chunks"]] == [(0, 6), (12, 18)]
    assert first["chunks"][1]["mean_mask"] == pytest.approx(-0.8)
    assert (second["label"], second["target"], second["genus"]) == (None, None, "Nyavirus")
    assert second["starts"] == [6, 12] and second["stops"] == [12, 18] and third["starts"] == [0]
    assert [third[f"{r}_probability"] for r in RANKS] == [0.875, 0.75, 0.5]
    schema = pq.read_schema(path)
    assert {str(schema.field(n).type) for n in ("record", "start", "stop")} == {"int64"}
    assert str(schema.field("score").type).startswith("list<") and "float" in str(schema.field("score").type)


def test_pandas_explodes_parquet_to_the_token_table(tmp_path):
    """One table is the other."""
    path, handle = tmp_path / "x.parquet", io.StringIO()
    tokens = TokensWriter(handle, RANKS)
    generator = np.random.default_rng(1)
    with open_parquet(str(path), RANKS) as writer:
        for record in range(5):
            finding = find(f"r{record}", generator.random(7), record=record)
            writer.write(finding)
            tokens.write(finding.explanation)
    scores = ["score", *(f"score_{rank}" for rank in RANKS)]
    frame = pd.read_parquet(path).explode(["starts", "stops", *scores], ignore_index=True)
    handle.seek(0)
    table = pd.read_csv(handle, sep="\t")
    assert (frame["name"] == table["#chrom"]).all()
    assert (frame["starts"] == table["start"]).all() and (frame["stops"] == table["end"]).all()
    assert np.allclose(frame[scores].astype(float), table[scores], atol=0.51e-4)


@pytest.mark.parametrize("ranks", [("label", "name", "target"), ("score", "chunks", "rank_score")])
def test_ranks_that_are_called_as_other_columns(tmp_path, ranks):
    """Datasets name them as they like: no two columns of one name, and every taxon at its place."""
    path = tmp_path / "x.parquet"
    with open_parquet(str(path), ranks) as writer:
        writer.write(find("r1", [0.9, 0.1], lineage=("A", "B", "C"), target=TARGET))
    (row,) = pq.read_table(path).to_pylist()
    assert (row["name"], row["label"], row["target"], len(row["chunks"])) == ("r1", "Nyavirus", "Nyavirus", 1)
    assert row["score"] == pytest.approx([0.9, 0.1])
    columns = [name for name in row if row[name] in ("A", "B", "C")]
    assert [row[name] for name in columns] == ["A", "B", "C"] and len(pd.read_parquet(path).columns) == len(
        row
    )
    expected = ["rank_label", "rank_name", "rank_target"]
    assert columns == (expected if "label" in ranks else ["rank_score", "rank_chunks", "rank_rank_score"])


@pytest.mark.parametrize("limit", ["MAX_ROWS", "MAX_SITES"])
def test_parquet_is_written_by_row_groups(tmp_path, monkeypatch, limit):
    """No more than a group is held."""
    monkeypatch.setattr(columnar, limit, 10 if limit == "MAX_ROWS" else 30)
    path = tmp_path / "x.parquet"
    with open_parquet(str(path), RANKS) as writer:
        for record in range(95):
            writer.write(find("r", [0.5] * 3, record=record))
            assert len(writer._rows) < 10
    file = pq.ParquetFile(path)
    assert file.metadata.num_rows == 95 and file.metadata.num_row_groups == 10
    assert file.read().column("record").to_pylist() == list(range(95))


def test_empty_parquet_has_its_schema(tmp_path):
    """And an interrupted one leaves nothing."""
    path = tmp_path / "x.parquet"
    with open_parquet(str(path), RANKS):
        pass
    assert len(pd.read_parquet(path)) == 0 and "score_genus" in pd.read_parquet(path).columns
    path.unlink()
    with pytest.raises(KeyboardInterrupt), open_parquet(str(path), RANKS) as writer:
        writer.write(find("r", [0.5]))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- JSON lines


def test_json_lines_by_hand():
    """An object per window and target."""
    handle = io.StringIO()
    writer = JsonLinesWriter(handle, with_scores=True)
    for finding in some_findings():
        writer.write(finding)
    first, second, third = map(json.loads, handle.getvalue().splitlines())
    assert first["target"] == {"name": "Nyavirus", "rank": 2, "probability": 0.25, "against": "T4"}
    assert first["chunks"] == [
        {"start": 0, "stop": 6, "mean_mask": 0.9, "label": "Nyavirus"},
        {"start": 12, "stop": 18, "mean_mask": -0.8, "label": "T4"},
    ]
    assert (first["spans"], first["scores"]) == ([[0, 6], [6, 12], [12, 18]], [0.9, 0.1, -0.8])
    assert (second["label"], second["sure"], second["target"]) == (None, [False] * 3, None)
    assert second["chunks"] == [{"start": 6, "stop": 18, "mean_mask": 0.9, "label": None}]
    assert third["lineage"] == ["Viruses", "Riboviria x", "Nyavirus"]
    assert third["probabilities"] == [0.875, 0.75, 0.5] and third["chunks"] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_json_lines_hold_any_name(name):
    """In one line each, in ASCII, and back as it was."""
    handle = io.StringIO()
    JsonLinesWriter(handle).write(find(name, [0.9]))
    (line,) = handle.getvalue().splitlines()
    assert json.loads(line)["name"] == name and line.isascii() and "scores" not in line


# ---------------------------------------------------------------- arrays


@given(st.lists(st.tuples(st.text("ACGTN", min_size=1, max_size=25), st.integers(0, 50)), max_size=7))
def test_arrays_are_one_hot_sequences_and_their_scores(tmp_path_factory, windows):
    """Against a loop: A, C, G, T; zeros for N and behind short windows; long ones are cut."""
    path, length = str(tmp_path_factory.mktemp("npz") / "x.npz"), 10
    generator = np.random.default_rng(len(windows))
    rows = []
    with open_motifs(path, length) as spool:
        for record, (sequence, start) in enumerate(windows):
            mask = generator.uniform(-1, 1, len(sequence)).astype(np.float32)
            finding = find(f"r{record}", mask, width=1, sequence=sequence, record=record, start=start)
            spool.write(finding)
            for first in range(0, len(sequence), length):
                part = slice(first, min(first + length, len(sequence)))
                rows.append((f"r{record}", start + part.start, start + part.stop, sequence[part], mask[part]))
    with np.load(path) as scores, np.load(onehot_path(path)) as onehot:
        assert scores["arr_0"].shape == onehot["arr_0"].shape == (len(rows), 4, length)
        assert (scores["arr_0"].dtype, onehot["arr_0"].dtype) == (np.float32, np.int8)
        assert [name.decode() for name in scores["names"]] == [row[0] for row in rows]
        assert scores["places"].tolist() == [[row[1], row[2]] for row in rows]
        for i, (_, _, _, sequence, mask) in enumerate(rows):
            for j in range(length):
                letter = "ACGT".find(sequence[j]) if j < len(sequence) else -1
                assert onehot["arr_0"][i, :, j].tolist() == [int(k == letter) for k in range(4)]
                expected = [mask[j] if k == letter else 0 for k in range(4)]
                assert scores["arr_0"][i, :, j].tolist() == expected
    assert spool.counts.rows == len(rows)
    assert spool.counts.padded == sum(len(row[3]) < length for row in rows)


def test_tfmodisco_crops_the_middle(tmp_path):
    """As its command does with -w; more rows than one block; the same run makes the same bytes."""
    contents = []
    for name in ("a", "b"):
        path = str(tmp_path / f"{name}.npz")
        with open_motifs(path, 60) as spool:
            for record in range(600):
                spool.write(find("r", [record / 600] * 10, record=record))
        contents.append([zipfile.Path(p, "arr_0.npy").read_bytes() for p in (path, onehot_path(path))])
    assert contents[0] == contents[1]
    sequences, attributions = (np.load(p)["arr_0"] for p in (onehot_path(path), path))
    middle, window = sequences.shape[2] // 2, 40
    part = slice(middle - window // 2, middle + window // 2)
    sequences = sequences[:, :, part].transpose(0, 2, 1).astype("float32")
    attributions = attributions[:, :, part].transpose(0, 2, 1).astype("float32")
    assert sequences.shape == attributions.shape == (600, window, 4)
    contributions = (sequences * attributions).sum(-1)
    is_n = sequences.sum(-1) == 0
    assert np.allclose(contributions[~is_n], np.repeat(np.arange(600) / 600, 40).reshape(600, 40)[~is_n])


def test_arrays_that_cannot_be(tmp_path):
    """Standard output has no second file; an interrupted run leaves neither; no window is no row."""
    with pytest.raises(WyrError, match="two files"), open_motifs("-", 10):
        pytest.fail("the block was entered")
    path = str(tmp_path / "x.npz")
    with pytest.raises(KeyboardInterrupt), open_motifs(path, 10) as spool:
        spool.write(find("r", [0.5]))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with open_motifs(path, 10):
        pass
    assert np.load(path)["arr_0"].shape == (0, 4, 10) == np.load(onehot_path(path))["arr_0"].shape


def test_uncovered_bases_have_no_score(tmp_path):
    """A base that no site covers is 0 in arrays, and is left out of tracks."""
    explanation = explain("r", [0.5, 0.75], width=2)
    spans = np.array([[0, 2], [3, 5]])
    window = explanation.window._replace(stop=6, sequence="ACGTAC")
    gap = Finding(
        type(explanation)(
            window, explanation.lineage, explanation.probabilities, explanation.mask,
            explanation.rank_masks, spans,
        )
    )  # fmt: skip
    assert [(start, scores.tolist()) for start, scores in gap.scored_stretches()] == [
        (0, [0.5, 0.5]),
        (3, [0.75, 0.75]),
    ]
    path = str(tmp_path / "x.npz")
    with open_motifs(path, 6) as spool:
        spool.write(gap)
    assert np.load(path)["arr_0"].sum(1).tolist() == [[0.5, 0.5, 0, 0.75, 0.75, 0]]
