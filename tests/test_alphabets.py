"""Datasets of proteins and of texts."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wyrcli.dataset
import wyrcli.windowing
from wyrcli.alphabets import ALPHABETS
from wyrcli.cli import main
from wyrcli.dataset import FILES, SPLITS, Dataset, read_windows, write_windows
from wyrcli.errors import InputError, WyrError
from wyrcli.inspection import inspect
from wyrcli.preparation import PreparationOptions, prepare
from wyrcli.sequences import encode_protein, encode_text
from wyrcli.simulation import simulate

WORDS = "the cat sat on a mat naïve Übung 猫が好き 🧬🧬 नमस्ते e\u0301te\u0301".split()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy taxonomy and a cache for it."""
    folder = tmp_path_factory.mktemp("toy")
    simulate(folder / "sim", seed=1, n_reads=300, length=400)
    return folder


def protein(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices("ACDEFGHIKLMNPQRSTVWYXBZUO*", k=length))


def text(seed: int, n_words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n_words))


def run(
    inputs: list[Path], output: Path, alphabet: str, toy: Path | None = None, **options: Any
) -> tuple[Dataset, Any]:
    files: dict[str, Any] = {}
    if toy is not None:
        files = {"taxdump": toy / "sim/taxdump", "cache_dir": toy / "cache"}
    files |= {name: options.pop(name) for name in ("labels", "replace") if name in options}
    choices = PreparationOptions(alphabet=alphabet, **options)  # type: ignore[arg-type]
    counts = prepare([str(path) for path in inputs], output, choices, **files)
    assert counts.records_read == counts.records_kept + sum(counts.records_dropped.values())
    assert counts.windows_cut == sum(counts.windows.values()) + sum(counts.windows_dropped.values())
    dataset = Dataset.open(output)
    assert dataset.alphabet == alphabet == dataset.info["alphabet"] == dataset.info["options"]["alphabet"]
    assert dataset.info["splits"] == counts.windows
    assert dataset.info[ALPHABETS[alphabet].characters] == counts.bases
    assert {file.name for file in output.iterdir()} <= set(FILES)
    for split in SPLITS:
        # The arrays for training and the table for pandas hold the same.
        windows = dataset.split(split)
        table = pd.read_parquet(output / f"{split}.parquet")
        assert "gc" not in table
        assert list(windows.sequences) == table["sequence"].tolist()
        assert (windows.stops - windows.starts).tolist() == list(map(len, table["sequence"]))
        assert counts.bases[split] == sum(map(len, table["sequence"]))
        ranks, taxa = dataset.taxonomy.ranks, dataset.taxonomy.taxa
        for r, rank in enumerate(ranks):
            assert [taxa[r][i] for i in windows.labels[:, r]] == table[rank].tolist()
    return dataset, counts


def rows(dataset: Dataset) -> list[tuple[str, int, int, str]]:
    """Name, place and sequence of all windows, sorted."""
    splits = [dataset.split(split) for split in SPLITS]
    return sorted(
        (w.names[i], int(w.starts[i]), int(w.stops[i]), w.sequences[i]) for w in splits for i in range(len(w))
    )


def write_texts(path: Path, texts: list[str], labels: list[str], **columns: list[str]) -> Path:
    pd.DataFrame({"text": texts, "label": labels, **columns}).to_csv(path, index=False)
    return path


# ---------------------------------------------------------------- proteins


def test_proteins_by_header(toy: Path, tmp_path: Path) -> None:
    long = protein(0, 250)
    records = {
        "401 0": long.lower(),
        "P1|kraken:taxid|403 a protein": protein(1, 100),
        "405 1": protein(1, 100),  # the same of another taxon
        "403 2": protein(1, 100)[::-1],  # turned round, a protein is another one
        "401 3": "MKV",
        "401 4": "",
        "plain": protein(4, 50),
        "403 5": "TTTTTTTTTTTTTTTTTTTT",
        "403 6": "AAAAAAAAAAAAAAAAAAAA",  # in DNA, its reverse complement
        "405 7": "NNNNNNNNNNNNNNNNNNNN",  # asparagine
    }
    path = tmp_path / "in.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))
    dataset, counts = run([path], tmp_path / "d", "protein", toy, window_bp=100)
    assert counts.records_dropped == {
        "too short": 1,
        "without sequence": 1,
        "without taxid": 1,
        "without a window that was kept": 1,
    }
    assert counts.windows_dropped == {"duplicate of another taxon (one copy kept)": 1}
    found = rows(dataset)
    assert [row[1:3] for row in found if row[3] in long] == [(0, 100), (100, 200), (200, 250)]
    assert "".join(row[3] for row in found if row[3] in long) == long
    assert {"T" * 20, "A" * 20, "N" * 20, protein(1, 100), protein(1, 100)[::-1]} <= {row[3] for row in found}
    assert dataset.taxonomy.ranks == ("superkingdom", "phylum", "genus")
    assert dataset.info["options"]["min_bp"] == 10 and dataset.info["options"]["min_acgt"] == 0
    assert not list(dataset.path.glob("*.bases.npy")) and (dataset.path / "train.bytes.npy").is_file()


@pytest.mark.parametrize("letter", ["-", ".", " ", "é", "1"])
def test_what_is_no_amino_acid_is_refused(tmp_path: Path, letter: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text(f"name,sequence,family\np1,MKV*,a\np2,MK{letter}V,a\n", encoding="utf-8")
    message = f"record 2 ('p2'): found '{letter}' at position 3 of the sequence; expected amino-acid letters"
    with pytest.raises(InputError, match=re.escape(message)):
        run([path], tmp_path / "d", "protein", ranks=("family",))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("split", ["stratified", "genome", "taxon"])
def test_protein_families_need_no_taxonomy(
    tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several blocks and parts, with windows that overlap."""
    monkeypatch.setattr(wyrcli.windowing, "_BLOCK_BP", 500)
    monkeypatch.setattr(wyrcli.dataset, "_PART_BP", 1000)
    sequences = [protein(i, 60 + i) for i in range(60)]
    path = tmp_path / "in.tsv"
    lines = [f"{s}\tfamily{i % 6}\tg{i // 2}\n" for i, s in enumerate(sequences)]
    path.write_text("sequence\tfamily\tgenome\n" + "".join(lines))
    options = {"ranks": ("family",), "window_bp": 50, "stride": 30, "split": split, "test": 0.2}
    dataset, counts = run([path], tmp_path / "d", "protein", **options)
    assert counts.split == split and all(counts.windows.values())
    expected = [(f"row{i + 1}", a) for i, s in enumerate(sequences) for a in range(0, len(s) - 20, 30)]
    assert sorted(row[:2] for row in rows(dataset)) == sorted(expected)
    assert all(row[3] == sequences[int(row[0][3:]) - 1][row[1] : row[2]] for row in rows(dataset))
    table = [pd.read_parquet(dataset.path / f"{split}.parquet") for split in SPLITS]
    column = {"genome": "group", "taxon": "family"}.get(split)
    if column:
        sides = [set(part[column]) for part in table]
        assert sum(map(len, sides)) == len(set.union(*sides))
    assert len(list((dataset.path / "train.parquet").iterdir())) > 1


def test_random_proteins_and_limits(tmp_path: Path) -> None:
    sequences = [protein(i, 400) for i in range(8)]
    path = tmp_path / "in.csv"
    path.write_text("sequence,kind\n" + "".join(f"{s},{'ab'[i % 2]}\n" for i, s in enumerate(sequences)))
    options = {"ranks": ("kind",), "window_bp": 50, "per_taxon": 20}
    dataset, counts = run([path], tmp_path / "d", "protein", random=True, **options)
    assert sum(counts.windows.values()) == 40
    assert all(row[3] in sequences[int(row[0][3:]) - 1] and len(row[3]) == 50 for row in rows(dataset))
    assert len({row[1] for row in rows(dataset)}) > 20
    _, counts = run([path], tmp_path / "e", "protein", **options)
    assert sum(counts.windows.values()) == 40
    assert counts.windows_dropped == {"over the limit per taxon": 24}


# ---------------------------------------------------------------- texts


def test_texts_with_one_label(tmp_path: Path) -> None:
    texts = ["  Hello, wörld!\n", 'a\nb\t"c"  d', "🧬", "", " \u3000\n", "Hello, wörld!", "🧬", "A\nB"]
    labels = ["good", "bad", "bad", "good", "bad", "good", "good", ""]
    path = write_texts(tmp_path / "in.csv", texts, labels)
    dataset, counts = run([path], tmp_path / "d", "text", ranks=("label",))
    assert counts.records_dropped == {
        "without text": 2,
        "without label": 1,
        "without a window that was kept": 2,
    }
    assert counts.windows_dropped == {"duplicate": 1, "duplicate of another taxon (one copy kept)": 1}
    # Which of two equal texts is kept does not hang on their order.
    assert sorted(row[3] for row in rows(dataset)) == sorted(["Hello, wörld!", 'a\nb\t"c"  d', "🧬"])
    assert dataset.taxonomy.taxa == (("bad", "good"),)
    assert dataset.info["options"]["min_bp"] == 1


@pytest.mark.parametrize("kind", ["csv", "parquet", "sequence", "labels"])
def test_columns_of_texts(tmp_path: Path, kind: str) -> None:
    """A column ``text`` or ``sequence``; labels as numbers, or in a table of their own."""
    table = pd.DataFrame({"id": ["x", "y"], "text": ["one two", "trois"], "label": [0, 1]})
    table = table.rename(columns={"text": "sequence"} if kind == "sequence" else {})
    path = tmp_path / "in"
    options: dict[str, Any] = {"ranks": ("label",)}
    if kind == "parquet":
        table.astype({"label": float}).to_parquet(path)
    elif kind == "labels":
        table[["id", "text"]].to_csv(path, index=False)
        table[["id", "label"]].to_csv(tmp_path / "labels.csv", index=False)
        options["labels"] = tmp_path / "labels.csv"
    else:
        table.to_csv(path, index=False)
    dataset, _ = run([path], tmp_path / "d", "text", **options)
    assert rows(dataset) == [("x", 0, 7, "one two"), ("y", 0, 5, "trois")]
    assert dataset.taxonomy.taxa == (("0", "1"),)


def test_long_texts_are_cut_at_white_space(tmp_path: Path) -> None:
    texts = ["aaa bbb ccc", "aaa  bbb\n\nddd", "aaaaaaaaaaaaaaaaab c", "aa bbbbbbbbbbb c", "ccccccc ddddddd"]
    path = write_texts(tmp_path / "in.csv", texts, ["x"] * len(texts))
    dataset, _ = run([path], tmp_path / "d", "text", ranks=("label",), window_bp=7)
    found = {name: [row[3] for row in rows(dataset) if row[0] == name] for name in ("row1", "row3", "row4")}
    assert found == {
        "row1": ["aaa bbb", "ccc"],
        "row3": ["aaaaaaa", "aaab c"],
        "row4": ["aa", "bbbbbbb", "bbbb c"],
    }
    assert ("row2", 0, 3, "aaa") in rows(dataset) and ("row5", 8, 15, "ddddddd") in rows(dataset)


characters = st.sampled_from('ab é猫🧬\n\u3000\x1c,"') | st.characters(codec="utf-8")


@given(st.lists(st.text(characters, max_size=40), max_size=6), st.integers(1, 12))
def test_no_word_is_lost(texts: list[str], window: int) -> None:
    """Windows side by side give a text back, but for white space between them."""
    texts = [text.replace("\0", "") for text in texts]
    with TemporaryDirectory() as name:
        folder = Path(name)
        frame = pd.DataFrame({"text": texts, "label": [f"row{i}" for i in range(len(texts))]}, dtype=str)
        frame.to_parquet(folder / "in.parquet")
        try:
            dataset, counts = run(
                [folder / "in.parquet"], folder / "d", "text", ranks=("label",), window_bp=window
            )
        except WyrError as error:
            assert "no window is left" in str(error) and not any(map(str.strip, texts))
            return
        n_dropped = sum(counts.windows_dropped.values())
        found = rows(dataset)
        for i, text in enumerate(map(str.strip, texts)):
            own = [row for row in found if row[0] == f"row{i + 1}"]
            assert all(row[3] == text[row[1] : row[2]] for row in own)
            assert all(0 < len(row[3]) <= window and row[3] == row[3].strip() for row in own)
            if not n_dropped:
                places = [place for row in own for place in row[1:3]]
                gaps = zip([0, *places[1::2]], [*places[::2], len(text)], strict=True)
                assert all(not text[a:b].strip() for a, b in gaps)


def test_texts_in_given_and_stratified_splits(tmp_path: Path) -> None:
    texts = [text(i, 8) + f" {i}" for i in range(100)] + [text(i, 8) + f" {i}" for i in range(95, 110)]
    labels = ["ab"[i % 2] for i in range(115)]
    path = write_texts(tmp_path / "in.csv", texts, labels, split=["train"] * 100 + ["test"] * 15)
    dataset, counts = run([path], tmp_path / "d", "text", ranks=("label",))
    assert counts.split == "given"
    assert counts.windows_dropped == {"duplicate in another split": 5}
    assert set(dataset.split("test").sequences) == set(texts[100:])
    _, counts = run([path], tmp_path / "e", "text", ranks=("label",), split="stratified", test=0.2)
    assert counts.windows == {"train": 77, "validation": 11, "test": 22}
    # A text longer than a window is on one side.
    dataset, counts = run([path], tmp_path / "f", "text", ranks=("label",), window_bp=20, split="genome")
    names = [set(dataset.split(split).names) for split in SPLITS]
    assert counts.unit == "genome" and sum(map(len, names)) == len(set.union(*names))


def test_texts_come_in_tables(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nsome\nwords\n")
    with pytest.raises(InputError, match="hold no texts; expected a table with a column 'text'"):
        run([tmp_path / "in.fa"], tmp_path / "d", "text", ranks=("label",))
    (tmp_path / "in.csv").write_text("body,label\na,b\n")
    with pytest.raises(InputError, match="expected a column 'text' or 'sequence'"):
        run([tmp_path / "in.csv"], tmp_path / "d", "text", ranks=("label",))
    path = write_texts(tmp_path / "t.csv", ["a"], ["b"])
    with pytest.raises(InputError, match=r"columns text, label; expected a column 'sequence'"):
        run([path], tmp_path / "d", "protein", ranks=("label",))
    with pytest.raises(WyrError, match="no random windows, no stride"):
        run([path], tmp_path / "d", "text", ranks=("label",), stride=7)
    with pytest.raises(WyrError, match="alphabet is 'rna'; expected one of dna, protein, text"):
        PreparationOptions(alphabet="rna")  # type: ignore[arg-type]


# ---------------------------------------------------------------- reading datasets


@pytest.fixture
def texts(tmp_path: Path) -> Dataset:
    path = write_texts(tmp_path / "in.csv", [text(i, 9) + f" {i}" for i in range(30)], ["x", "y", "z"] * 10)
    return run([path], tmp_path / "texts", "text", ranks=("label",))[0]


def test_texts_are_read_in_place(texts: Dataset) -> None:
    train = texts.split("train")
    for array in (train.labels, train.sequences.offsets, train.sequences.lengths):  # type: ignore[attr-defined]
        assert isinstance(array.base, np.memmap) and not array.flags.owndata
    lengths = np.load(texts.path / "train.lengths.npy")
    assert lengths.tolist() == [len(text.encode()) for text in train.sequences]
    assert (
        train.sequences[-1] == list(train.sequences)[-1] and train.sequences[2:4] == train.sequences[:][2:4]
    )
    with pytest.raises(IndexError):
        train.sequences[len(train)]
    drawn = train.sample(5, seed=1)
    assert set(drawn.sequences) <= set(train.sequences) and len(drawn) == 5


def test_windows_kept_beside_a_model(texts: Dataset, tmp_path: Path) -> None:
    train = texts.split("train")
    write_windows(tmp_path / "heldout.parquet", train, texts.taxonomy)
    again = read_windows(tmp_path / "heldout.parquet", texts.taxonomy, "text")
    assert list(again.sequences) == list(train.sequences)
    assert (again.labels == train.labels).all() and list(again.names) == list(train.names)
    with pytest.raises(InputError, match="expected A, C, G, T, N"):
        read_windows(tmp_path / "heldout.parquet", texts.taxonomy)


@pytest.mark.parametrize("change", ["cut", "numbers", "absent"])
def test_damaged_bytes_are_refused(texts: Dataset, change: str) -> None:
    path = texts.path / "train.bytes.npy"
    if change == "absent":
        path.unlink()
    else:
        np.save(path, np.load(path)[:-1] if change == "cut" else np.zeros(9999))
    message = {"cut": "do not hold the 26 windows", "numbers": "damaged", "absent": "bytes.npy: not found"}
    with pytest.raises(InputError, match=message[change]):
        texts.split("train")


def test_alphabet_of_older_and_newer_datasets(texts: Dataset) -> None:
    info = json.loads((texts.path / "dataset.json").read_text())
    (texts.path / "dataset.json").write_text(json.dumps(info | {"alphabet": "runes"}))
    with pytest.raises(InputError, match="runes"):
        Dataset.open(texts.path)
    del info["alphabet"]
    (texts.path / "dataset.json").write_text(json.dumps(info))
    assert Dataset.open(texts.path).alphabet == "dna"


@pytest.mark.parametrize("alphabet", ["protein", "text"])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, alphabet: str) -> None:
    sequences = [protein(i, 40) for i in range(20)]
    path = tmp_path / "in.csv"
    path.write_text("sequence,kind\n" + "".join(f"{s},{'ab'[i % 2]}\n" for i, s in enumerate(sequences)))
    for name in "ab":
        run([path], tmp_path / name, alphabet, ranks=("kind",))
    for file in (tmp_path / "a").rglob("*.*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


# ---------------------------------------------------------------- letters


@given(st.text(max_size=30))
def test_letters(sequence: str) -> None:
    try:
        assert encode_protein(sequence) == sequence.upper().encode()
        allowed = True
    except ValueError as error:
        allowed = False
        assert "found" in str(error)
    assert allowed == all(c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz*" for c in sequence)
    assert encode_text(sequence).decode("utf-32-le") == sequence.strip()


def test_half_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found U\+D800 in the text"):
        encode_text("a\ud800")


# ---------------------------------------------------------------- the command


def test_command(texts: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_texts(tmp_path / "c.csv", ["a b", "c d", "猫 猫"], ["x", "y", "y"])
    command = ["prepare", str(path), "-o", str(tmp_path / "d"), "--alphabet", "text", "--ranks", "label"]
    assert main(command) == 0
    assert "3 windows cut, 3 kept" in capfd.readouterr().err
    assert main([*command, "--window", "2"]) == 1
    assert "not empty" in capfd.readouterr().err
    assert main([*command, "--window", "2", "--force", "-q"]) == 0
    assert {row[3] for row in rows(Dataset.open(tmp_path / "d"))} == {"a", "b", "c", "d", "猫"}
    # Another alphabet replaces it, too.
    (tmp_path / "p.csv").write_text("sequence,label\nMKVLLAAAAAAAA,x\n")
    command[1] = str(tmp_path / "p.csv")
    command[command.index("text")] = "protein"
    assert main([*command, "--force", "-q"]) == 0
    capfd.readouterr()
    assert main(["prepare", "--inspect", str(tmp_path / "d")]) == 0
    told = capfd.readouterr().out
    assert "windows of at most 1,500 residues" in told and "median residues" in told and "GC" not in told


@pytest.mark.parametrize(
    "options",
    [
        ["--alphabet", "text", "--random", "--per-taxon", "5"],
        ["--alphabet", "text", "--stride", "5"],
        ["--alphabet", "protein", "--min-acgt", "0.5"],
        ["--alphabet", "rna"],
    ],
)
def test_usage(tmp_path: Path, options: list[str]) -> None:
    assert main(["prepare", "in.csv", "-o", str(tmp_path / "d"), *options]) == 2


def test_inspection(texts: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = inspect(texts)
    lengths = [len(text) for split in SPLITS for text in texts.split(split).sequences]
    assert found.splits["total"].sum() == sum(lengths)
    assert found.splits["longest"].max() == max(lengths)
    assert "gc" not in found.splits and "gc" not in found.windows and "gc" not in found.taxa["label"]
    assert main(["prepare", "--inspect", str(texts.path)]) == 0
    told = capfd.readouterr().out
    for part in ("1,500 characters", "characters", "median characters", "label: 3 taxa"):
        assert part in told
    pytest.importorskip("matplotlib")
    assert main(["prepare", "--inspect", str(texts.path), "--figure", str(tmp_path / "d.png")]) == 0
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
