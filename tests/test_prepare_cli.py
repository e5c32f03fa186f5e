"""``wyr prepare`` as a user meets it: what it says, what it refuses, what it leaves behind."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wyrcli.cli import main
from wyrcli.dataset import SPLITS
from wyrcli.simulation import simulate, toy_world

SPECIES = [taxid for group in toy_world().species for taxid, _ in group]
Wyr = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy taxonomy."""
    folder = tmp_path_factory.mktemp("toy")
    simulate(folder / "sim", seed=1, n_reads=30, length=400)
    return folder / "sim/taxdump"


@pytest.fixture
def wyr(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Wyr:
    """Runs ``wyr prepare`` with the toy taxonomy in an empty folder; exit code and stderr in one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WYR_CACHE", str(toy.parent.parent / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, taxonomy: Path | None = toy) -> tuple[int, str]:
        more = [] if taxonomy is None else ["--taxonomy", str(taxonomy)]
        code = main(["prepare", *arguments, *more])
        return code, capfd.readouterr().err

    return run


def dna(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def put(path: str, text: str | bytes) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def contigs(path: str, seed: int, taxids: list[int], n: int = 3) -> str:
    """A file of contigs whose names are in every file, the taxids in turn."""
    names = [f"contig_{i}|kraken:taxid|{taxids[i % len(taxids)]}" for i in range(n)]
    return put(path, "".join(f">{name}\n{dna(100 * seed + i, 3000)}\n" for i, name in enumerate(names)))


def read(path: str) -> pd.DataFrame:
    parts = [pd.read_parquet(f"{path}/{split}.parquet").assign(split=split) for split in SPLITS]
    return pd.concat(parts, ignore_index=True)


# ---------------------------------------------------------------- labels


def test_the_folder_of_a_file_counts(wyr: Wyr) -> None:
    for number in (1, 2, 9):
        put(f"ncbi/GCF_{number}/genomic.fna", f">c\n{dna(number, 3000)}\n")
    put("l.tsv", "file\ttaxid\nGCF_1/genomic.fna\t401\nGCF_2/genomic.fna\t403\nGCF_7/genomic.fna\t405\n")
    code, told = wyr("ncbi", "--labels", "l.tsv", "-o", "d")
    assert code == 0 and "records dropped: 1 not in l.tsv\n" in told
    assert "warning: l.tsv: nothing was found of 1 of the 3 names and files in it\n" in told
    found = read("d")
    assert {(Path(f).parent.name, t) for f, t in zip(found["file"], found["taxid"], strict=True)} == {
        ("GCF_1", 401),
        ("GCF_2", 403),
    }


def test_rows_without_a_taxid_are_told_from_what_is_not_listed(wyr: Wyr) -> None:
    put("in.fa", "".join(f">r{i}\n{dna(i, 300)}\n" for i in range(4)))
    put("l.csv", "name,taxid\nr0,401\nr1,401\nr2,\n")
    code, told = wyr("in.fa", "--labels", "l.csv", "-o", "d", "--test", "0", "--validation", "0")
    assert code == 0 and "records dropped: 1 without taxid, 1 not in l.csv\n" in told
    assert "warning" not in told


def test_files_that_are_left_out(wyr: Wyr) -> None:
    contigs("in/a.fsa", 1, [401])
    contigs("in/b.dna.gz", 2, [401])
    for name in ("md5sum.txt", "proteins.faa", "readme", "z.sam", ".hidden.txt"):
        put(f"in/{name}", ">p\nMK\n")
    code, told = wyr("in", "-o", "d")
    assert code == 0
    assert told.startswith(
        "wyr: 4 files in folders left out by name: md5sum.txt, proteins.faa, readme, ...\n"
    )
    assert json.loads(Path("d/dataset.json").read_text())["files_left_out"] == {
        "number": 4,
        "first": [f"in/{name}" for name in ("md5sum.txt", "proteins.faa", "readme", "z.sam")],
    }
    assert "left out" not in wyr("in", "-q", "-o", "e")[1] + wyr("in/a.fsa", "-o", "f")[1]
    put("in/proteins.faa", f">401 0\n{'MKVLAT' * 5}\n")
    code, told = wyr("in", "--alphabet", "protein", "-o", "p", "-q")
    assert code == 0 and set(read("p")["file"]) == {"in/proteins.faa", "in/a.fsa"}  # not the nucleotides


# ---------------------------------------------------------------- groups and splits


def test_files_of_contigs_are_genomes(wyr: Wyr) -> None:
    """Not their names, which are the same in all files."""
    for i in range(10):
        contigs(f"c/{i}.fa", i, [SPECIES[i % 2]])
    code, told = wyr("c", "-o", "d")
    assert code == 0 and "8 train, 1 validation, 1 test by genome (file);" in told and "warning" not in told
    found = read("d")
    assert set(found["group"]) == {f"{i}.fa" for i in range(10)}
    assert found.groupby("file", observed=True)["split"].nunique().max() == 1
    info = json.loads(Path("d/dataset.json").read_text())["split"]
    assert info["kinds_of_units"] == {"file": 10}
    code, told = wyr("c", "-o", "r", "--group", "record")
    assert "24 train, 3 validation, 3 test by record;" in told
    found = read("r")
    assert found["group"].nunique() == 30 and "7.fa: contig_2|kraken:taxid|402 (3)" in set(found["group"])


def test_records_are_genomes_where_a_file_is_none(wyr: Wyr) -> None:
    """One file, or several taxa in one: a warning, as contigs of one genome may then be on two sides."""
    contigs("one.fa", 50, SPECIES[:3], 30)
    told = wyr("one.fa", "-o", "a")[1]
    assert "24 train, 3 validation, 3 test by genome (record);" in told
    assert "warning: 30 records taken for genomes, though their files hold several: " in told
    contigs("two.fa", 60, [401])
    told = wyr("one.fa", "two.fa", "-o", "b")[1]
    assert "by genome (1 file, 30 records);" in told
    found = read("b")
    assert set(found["group"][found["file"] == "two.fa"]) == {"two.fa"}
    put("wgs1.fa", f">ABCD01000001.1|kraken:taxid|401\n{dna(1, 3000)}\n")
    put("wgs2.fa", f">ABCD01000002.1|kraken:taxid|401\n{dna(2, 3000)}\n")
    told = wyr("wgs1.fa", "wgs2.fa", "-o", "c")[1]
    assert "1 train, 0 validation, 0 test by genome;" in told
    assert set(read("c")["group"]) == {"ABCD01"}


def test_names_in_two_files_are_two_genomes(wyr: Wyr) -> None:
    for name in ("x/a.fa", "y/a.fa", "b.fa"):
        contigs(name, len(name) + ord(name[0]), [401, 403], 2)
    table = "name,taxid,sequence\n" + "".join(f"n,{SPECIES[i]},{dna(i, 300)}\n" for i in range(2))
    wyr("x", "y", "b.fa", put("t.csv", table), "-o", "d")
    found = set(read("d")["group"])
    contig = "contig_0|kraken:taxid|401"
    assert {f"x/a.fa: {contig}", f"y/a.fa: {contig}", f"b.fa: {contig}", "n"} < found and len(found) == 7
    wyr("t.csv", "-o", "e", "--group", "record")
    assert set(read("e")["group"]) == {"t.csv: n (1)", "t.csv: n (2)"}


def given(n_train: int, n_test: int, n_none: int) -> str:
    splits = ["train"] * n_train + ["test"] * n_test + [""] * n_none
    rows = [f"n{i},{SPECIES[i % 4]},{split},{dna(i, 300)}\n" for i, split in enumerate(splits)]
    return put("s.csv", "name,taxid,split,sequence\n" + "".join(rows))


@pytest.mark.parametrize(
    ("rows", "told"), [((30, 0, 10), "30 train of 40"), ((20, 5, 1), "20 train, 5 test of 26")]
)
def test_a_part_of_a_given_split_is_not_dropped_in_silence(
    wyr: Wyr, rows: tuple[int, int, int], told: str
) -> None:
    code, err = wyr(given(*rows), "-o", "d")
    expected = (
        f"split 'stratified' is used, not the input's, which tells {told} records; expected one for each"
    )
    assert code == 0 and expected in err
    assert any(expected in line for line in json.loads(Path("d/dataset.json").read_text())["warnings"])


def test_the_name_of_one_file_is_no_split(wyr: Wyr) -> None:
    contigs("c/a_test_b.fa", 1, [401])
    contigs("c/b.fa", 2, [401])
    assert "input's" not in wyr("c", "-o", "d")[1]


def test_validation_out_of_training_is_said(wyr: Wyr) -> None:
    told = wyr(given(30, 10, 0), "-o", "d")[1]
    assert "wyr: validation is drawn from train, a share of 0.1: the input gives none\n" in told


def test_empty_splits_have_a_reason(wyr: Wyr) -> None:
    put("few.fa", "".join(f">{SPECIES[i]} {i}\n{dna(i, 3000)}\n" for i in (0, 2, 4)))
    told = wyr("few.fa", "-o", "a")[1]
    assert "warning: no window is in validation: a share of 0.1 of 3 genomes rounds to none\n" in told
    why = "3 genomes in 3 classes, each of which keeps one that trains, cannot spare 0.4"
    told = wyr("few.fa", "-o", "c", "--test", "0.4")[1]
    assert f"warning: no window is in test: {why}\n" in told
    told = wyr("few.fa", "-o", "b", "--validation", "0.5", "--test", "0.5")[1]
    assert "wyr: no window is in train: the other shares add up to 1\n" in told and "warning" not in told


def test_held_out_taxa_are_no_reason_to_worry(wyr: Wyr) -> None:
    put("in.fa", "".join(f">{taxid} {i}\n{dna(i, 3000)}\n" for i, taxid in enumerate(SPECIES)))
    told = wyr("in.fa", "-o", "d", "--split", "taxon", "--validation", "0", "--test", "0.25")[1]
    assert "wyr: classes without a training window: genus 4\n" in told and "warning" not in told


def test_one_of_something(wyr: Wyr) -> None:
    put("in.fa", f">401 0\n{dna(0, 300)}\n")
    told = wyr("in.fa", "-o", "d", "--validation", "0", "--test", "0")[1]
    assert "wyr: 1 record read, 1 kept\n" in told and "wyr: 1 window cut, 1 kept\n" in told


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--random"], "--random"),
        (["--validation", "0.7", "--test", "0.5"], "--validation"),
        (["--min-length", "2000"], "--min-length"),
        (["--ranks", ""], "--ranks"),
        (["--ranks", "domain,superkingdom"], "--ranks"),
        (["-o", ""], "-o"),
    ],
)
def test_usage(wyr: Wyr, arguments: list[str], told: str) -> None:
    """Before the input is looked at."""
    code, err = wyr("nothing.fa", "-o", "d", *arguments)
    assert code == 2 and "Invalid value for" in err and told in err and not Path("d").exists()


@pytest.mark.parametrize("figure", ["x.txt", "x", "nowhere/x.png"])
def test_a_picture_that_cannot_be_drawn(wyr: Wyr, figure: str) -> None:
    code, err = wyr("--inspect", "d", "--figure", figure, taxonomy=None)
    assert code == 2 and "Invalid value for --figure" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--per-taxon", "3", "--per-taxon-rank", "bogus"], "the taxonomy has no rank 'bogus'; it has super"),
        (["--ranks", "phylum,bogus"], "no rank 'bogus'; it has superkingdom, phylum, genus, species\n"),
        (
            ["--ranks", "genus,phylum"],
            "the ranks are genus, phylum; expected the widest first: phylum, genus",
        ),
    ],
)
def test_ranks_of_the_taxonomy(wyr: Wyr, arguments: list[str], told: str) -> None:
    code, err = wyr(contigs("in.fa", 1, [401]), "-o", "d", *arguments)
    assert code == 1 and told in err and err.count("\n") == 1


def test_a_rank_to_balance_without_a_taxonomy(wyr: Wyr) -> None:
    rows = "".join(f"{dna(i, 300)},g{i % 2},s{i % 5}\n" for i in range(40))
    table = put("t.csv", "sequence,genus,strain\n" + rows)
    options = ["--ranks", "genus", "--per-taxon", "2", "--per-taxon-rank"]
    assert wyr(table, "-o", "d", "-q", *options, "strain", taxonomy=None)[0] == 0 and len(read("d")) == 10
    code, err = wyr(table, "-o", "e", *options, "bogus", taxonomy=None)
    assert code == 1 and "'bogus' has none" in err


def test_taxonomies_that_are_none(wyr: Wyr) -> None:
    path = contigs("in.fa", 1, [401])
    code, err = wyr(path, "-o", "d", taxonomy=Path("nowhere"))
    assert code == 1 and err.startswith("wyr: error: nowhere: not found; expected a taxdump")
    code, err = wyr(path, "-o", "d", taxonomy=Path(path))
    assert code == 1 and err.startswith("wyr: error: in.fa: not a taxdump (folder, tar, zip); expected")
    assert err.count("\n") == 1


def test_bytes_behind_a_gzip_stream(wyr: Wyr) -> None:
    data = gzip.compress(f">401 0\n{dna(0, 300)}\n".encode())
    assert wyr(put("zeros.gz", data + b"\0" * 9), "-o", "d", "-q", "--test", "0", "--validation", "0")[0] == 0
    code, err = wyr(put("more.gz", data + b"garbage"), "-o", "e")
    assert code == 1 and "bytes follow the end of the gzip stream" in err


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("taxonomy.json", None, "not found; the dataset is not complete"),
        ("taxonomy.json", "{", "not a taxonomy file"),
        ("dataset.json", "{", "damaged: Expecting property name"),
        ("dataset.json", '{"format": 2}', "damaged: found no 'window_bp' in it"),
        ("dataset.json", "short", "damaged: found no 'inputs' in it"),
    ],
)
def test_a_broken_dataset_is_one_line(wyr: Wyr, file: str, text: str | None, told: str) -> None:
    wyr(contigs("in.fa", 1, [401]), "-o", "d")
    path = Path("d", file)
    if text == "short":
        info = json.loads(path.read_text())
        path.write_text(json.dumps({key: info[key] for key in ("format", "window_bp", "splits")}))
    elif text is None:
        path.unlink()
    else:
        path.write_text(text)
    code, err = wyr("--inspect", "d", taxonomy=None)
    assert code == 1 and err.startswith(f"wyr: error: d/{file}: ") and told in err and err.count("\n") == 1


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_signals_leave_nothing_behind(toy: Path, tmp_path: Path, number: int, code: int, told: str) -> None:
    """While it waits for its input, with an unfinished dataset on disk."""
    command = [sys.executable, "-m", "wyrcli", "prepare", "-", "-o", str(tmp_path / "d/d")]
    environment = os.environ | {"WYR_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [*command, "--taxonomy", str(toy)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("d/.d.*.part/spool/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    try:
        assert process.wait(60) == code
        assert process.stderr is not None and process.stderr.read() == f"wyr: {told}\n"
    finally:
        process.kill()
        process.communicate()
    assert list((tmp_path / "d").iterdir()) == []
