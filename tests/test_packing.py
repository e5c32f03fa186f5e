"""Packed texts: what is written is read, from anywhere in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.packing import (
    REVERSE_COMPLEMENT,
    ArrayWriter,
    PackedBases,
    PackedSequences,
    PackedWriter,
    cut,
    pack,
    packed_size,
)
from wyrcli.sequences import encode

parts = st.lists(st.text("ACGTN", max_size=13), max_size=8)


def write(stem: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Where each text begins, in bases, and how long it is."""
    starts = []
    with PackedWriter(stem) as writer:
        for text in texts:
            starts.append(writer.n)
            writer.append(encode(text))
    return np.array(starts, np.int64), np.array([len(text) for text in texts], np.int32)


@given(parts, st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_any_piece_of_any_text(texts: list[str], one: int, other: int, mapped: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        starts, lengths = write(Path(folder) / "x", texts)
        assert starts.tolist() == (4 * (np.cumsum(packed_size(lengths)) - packed_size(lengths))).tolist()
        bases = PackedBases.open(Path(folder) / "x", mapped=mapped)
        assert bases.n == 4 * packed_size(lengths).sum()
        whole = "".join(text + "A" * (-len(text) % 4) for text in texts)
        start, stop = sorted((one % (len(whole) + 1), other % (len(whole) + 1)))
        assert bases.text(start, stop).decode() == whole[start:stop]
        places = np.array([start]), np.array([stop])
        assert bases.count_n(*places).tolist() == [whole[start:stop].count("N")]
        assert sum(b - a for a, b in bases.gaps(start, stop).tolist()) == whole[start:stop].count("N")
        sequences = PackedSequences(bases, starts // 4, lengths)
        assert list(sequences) == texts
        assert sequences[-3:] == texts[-3:]
        bases.close()


@given(parts)
def test_what_is_packed_is_copied(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "x", texts)
        packed, gaps = (np.load(f"{folder}/x.{name}.npy") for name in ("bases", "gaps"))
        with PackedWriter(Path(folder) / "y") as writer:
            writer.append(encode("ACGNT"))
            writer.append_packed(packed.tobytes(), gaps)
        both = ["ACGNT", *texts]
        starts, lengths = write(Path(folder) / "z", both)
        for name in ("bases", "gaps"):
            assert (np.load(f"{folder}/y.{name}.npy") == np.load(f"{folder}/z.{name}.npy")).all()
        copied = PackedSequences(PackedBases.open(Path(folder) / "y"), starts // 4, lengths)
        assert list(copied) == both


@given(st.text("ACGT", max_size=40), st.integers(0, 100), st.integers(0, 100))
def test_cut_anywhere_is_as_packed_alone(text: str, one: int, other: int) -> None:
    start, stop = sorted((one % (len(text) + 1), other % (len(text) + 1)))
    packed = pack(np.frombuffer(encode(text), np.uint8)).tobytes()
    own = pack(np.frombuffer(encode(text[start:stop]), np.uint8)).tobytes()
    assert cut(packed, start, stop - start) == own
    # The same from the other strand.
    turned = text.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    end = 4 * len(packed)
    back = cut(packed.translate(REVERSE_COMPLEMENT)[::-1], end - stop, stop - start)
    expected = turned[len(text) - stop : len(text) - start]
    assert back == pack(np.frombuffer(encode(expected), np.uint8)).tobytes()


def test_two_bits_a_base(tmp_path: Path) -> None:
    write(tmp_path / "x", ["ACGT" * 1000])
    assert np.load(tmp_path / "x.bases.npy").tolist() == [0b11100100] * 1000


def test_sequences_out_of_range(tmp_path: Path) -> None:
    starts, lengths = write(tmp_path / "x", ["A", "C"])
    sequences = PackedSequences(PackedBases.open(tmp_path / "x"), starts // 4, lengths)
    assert sequences[-2] == "A"
    for index in (2, -3):
        with pytest.raises(IndexError):
            sequences[index]


def test_what_is_no_packed_text_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.bases.npy", np.zeros(3, np.int64))
    np.save(tmp_path / "x.gaps.npy", np.zeros((0, 2), np.int64))
    with pytest.raises(ValueError, match="not packed bases"):
        PackedBases.open(tmp_path / "x")


@given(st.lists(st.integers(0, 300), max_size=4), st.sampled_from([(), (2,), (3, 2)]))
def test_arrays_that_grow(sizes: list[int], tail: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.integers(-9, 9, size=(n, *tail)) for n in sizes]
    with tempfile.TemporaryDirectory() as folder:
        with ArrayWriter(Path(folder) / "a.npy", np.int32, tail) as writer:
            for piece in pieces:
                writer.append(piece)
        read = np.load(Path(folder) / "a.npy")
    assert read.dtype == np.int32 and read.shape == (sum(sizes), *tail)
    assert (read == np.concatenate([np.zeros((0, *tail)), *pieces])).all()
