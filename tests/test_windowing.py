"""Windows as columns of numbers, against a slow version with plain strings."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wyrcli.windowing
from wyrcli.packing import PackedBases, PackedSequences, PackedWriter
from wyrcli.sequences import encode
from wyrcli.splitting import key_of
from wyrcli.windowing import (
    Records,
    RecordSpool,
    Windows,
    cut_windows,
    draw_windows,
    examine,
    read_blocks,
)

TURN = str.maketrans("ACGT", "TGCA")


def dna(seed: int, length: int, letters: str = "ACGT") -> str:
    return "".join(random.Random(seed).choices(letters, k=length))


@pytest.fixture
def spool(tmp_path: Path) -> RecordSpool:
    return RecordSpool(tmp_path / "records")


def fill(spool: RecordSpool, sequences: list[str]) -> Records:
    for i, sequence in enumerate(sequences):
        spool.add(f"r{i}", encode(sequence), group=f"g{i // 2}", file=i % 3, label=i, split=-1)
    return spool.finish()


def texts(records: Records, windows: Windows) -> list[str]:
    return [
        block.text(i).decode() for block in read_blocks(records, windows) for i in range(len(block.places))
    ]


def test_records_keep_their_columns(spool: RecordSpool) -> None:
    with spool:
        records = fill(spool, ["ACGTN", "", "T"])
        assert len(records) == 3
        assert records.lengths.tolist() == [5, 0, 1]
        assert records.names.to_pylist() == ["r0", "r1", "r2"]
        assert records.groups.to_pylist() == ["g0", "g0", "g1"]
        assert records.group_keys.tolist() == [key_of("g0"), key_of("g0"), key_of("g1")]
        assert records.files.tolist() == [0, 1, 2] and records.labels.tolist() == [0, 1, 2]
        assert records.splits.tolist() == [-1, -1, -1]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 20), st.integers(1, 20))
def test_windows_every_stride(lengths: list[int], window: int, stride: int) -> None:
    starts = np.cumsum([0, *lengths])[:-1]
    nothing = np.zeros(len(lengths))
    records = Records(
        None,
        starts,
        np.array(lengths),
        None,
        None,
        *(nothing.astype(t) for t in ("u8", "i4", "i4", "i1", "u8", "i1", "i8")),
    )  # type: ignore[arg-type]
    windows = cut_windows(records, window, stride)
    for i, length in enumerate(lengths):
        own = windows.records == i
        tiles = [
            (a, a + n) for a, n in zip(windows.starts[own] - starts[i], windows.lengths[own], strict=True)
        ]
        assert [start for start, _ in tiles] == [stride * k for k in range(len(tiles))]
        assert all(start < stop == min(start + window, length) for start, stop in tiles)
        assert all(stop < length for _, stop in tiles[:-1])
        if stride <= window:
            assert tiles[-1][1] == length


@pytest.mark.parametrize("block_bp", [7, 100, 10**6])
def test_what_windows_are_made_of(
    spool: RecordSpool, tmp_path: Path, block_bp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wyrcli.windowing, "_BLOCK_BP", block_bp)
    sequences = [dna(i, n, "ACGTN") for i, n in enumerate((5, 100, 37, 64, 3, 20))]
    # Equal to windows above: as they are, and turned round.
    sequences += [
        sequences[1][10:20],
        sequences[1][10:20].translate(TURN)[::-1],
        "A" * 10,
        "T" * 10,
        "AAAAATTTTT",
    ]
    sequences += ["A" * 9, "T" * 11]  # packed like longer ones
    told: list[int] = []
    with spool:
        records = fill(spool, sequences)
        windows = cut_windows(records, 10, 5)
        content = examine(records, windows, told.append)
        found = texts(records, windows)
        with PackedWriter(tmp_path / "windows") as writer:
            for block in read_blocks(records, windows):
                some = np.arange(len(block.places))[:: 2 if block_bp == 100 else 1]
                with_gaps = (content.acgt < windows.lengths)[block.first + some]
                writer.append_packed(*block.pack(some, with_gaps)[:2])
    if block_bp != 100:
        sizes = (windows.lengths + 3) // 4
        bases = PackedBases.open(tmp_path / "windows")
        assert list(PackedSequences(bases, np.cumsum(sizes) - sizes, windows.lengths)) == found
    expected = [s[i : i + 10] for s in sequences for i in range(0, max(len(s) - 10, 0) + 5, 5) if i < len(s)]
    assert found == expected
    assert content.acgt.tolist() == [len(text) - text.count("N") for text in found]
    assert content.gc.tolist() == [text.count("G") + text.count("C") for text in found]
    assert told[-1] == len(windows)
    keys = [min(text, text.translate(TURN)[::-1]) for text in found]
    digests = [tuple(pair) for pair in content.digests.tolist()]
    assert len(set(keys)) < len(keys)
    for i in range(len(keys)):
        assert [digest == digests[i] for digest in digests] == [key == keys[i] for key in keys]


def test_random_windows(spool: RecordSpool) -> None:
    """Inside one record each, no place twice, evenly over the places of a taxon."""
    lengths = [1000, 10, 3000, 50, 200]
    taxa = np.array([0, 0, 1, 1, 2])
    keys = np.array([key_of(str(i)) for i in range(3)], dtype=np.uint64)
    with spool:
        records = fill(spool, [dna(i, n) for i, n in enumerate(lengths)])
        windows = draw_windows(records, taxa, keys, 400, 100, seed=3)
        own = windows.starts - records.starts[windows.records]
        assert (own >= 0).all() and (own + windows.lengths <= np.array(lengths)[windows.records]).all()
        assert (windows.lengths == np.minimum(100, np.array(lengths)[windows.records])).all()
        assert (np.diff(windows.starts) > 0).all()
        per_record = np.bincount(windows.records, minlength=5)
        assert per_record[0] + per_record[1] == pytest.approx(400, abs=45)  # of 902 places
        assert per_record[2] + per_record[3] == pytest.approx(400, abs=45)  # of 2,902
        assert per_record[4] == 101  # all there are
        halves = np.histogram(own[windows.records == 2], bins=2, range=(0, 2900))[0]
        assert halves[0] == pytest.approx(halves[1], abs=80)
        # A taxon's draw depends on its key, not on its number or on what else is there.
        order = np.array([1, 2, 0])
        again = draw_windows(records, np.argsort(order)[taxa], keys[order], 400, 100, seed=3)
        assert again.starts.tolist() == windows.starts.tolist()
        other = draw_windows(records, taxa, keys, 400, 100, seed=4)
        assert other.starts.tolist() != windows.starts.tolist()


def test_no_windows(spool: RecordSpool) -> None:
    with spool:
        records = fill(spool, [])
        for windows in (
            cut_windows(records, 10, 10),
            draw_windows(records, np.zeros(0, np.int64), np.zeros(0, np.uint64), 5, 10, 0),
        ):
            assert len(windows) == 0 and list(read_blocks(records, windows)) == []
            assert examine(records, windows, lambda done: None).digests.shape == (0, 2)
