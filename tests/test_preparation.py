"""From labelled sequences to a dataset, every record and window accounted for."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.dataset import SPLITS, Dataset, LabelledWindows
from wyrcli.errors import InputError, TaxonomyError, WyrError
from wyrcli.preparation import PreparationOptions, prepare
from wyrcli.simulation import simulate, toy_world

WORLD = toy_world()
SPECIES = [taxid for group in WORLD.species for taxid, _ in group]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy taxonomy and a cache for it."""
    folder = tmp_path_factory.mktemp("toy")
    simulate(folder / "sim", seed=1, n_reads=300, length=400)
    return folder


def dna(seed: int, length: int, letters: str = "ACGT") -> str:
    return "".join(random.Random(seed).choices(letters, k=length))


def write_fasta(path: Path, records: list[tuple[str, str]]) -> str:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records))
    return str(path)


def run(toy: Path, inputs: list[str], output: Path, **options: Any) -> tuple[Dataset, Any]:
    files = {"taxdump": toy / "sim/taxdump", "labels": None, "replace": False}
    files |= {name: options.pop(name) for name in list(options) if name in files}
    choices = PreparationOptions(**({"window_bp": 100, "min_bp": 10} | options))
    counts = prepare(inputs, output, choices, cache_dir=toy / "cache", **files)
    assert counts.records_read == counts.records_kept + sum(counts.records_dropped.values())
    assert counts.windows_cut == sum(counts.windows.values()) + sum(counts.windows_dropped.values())
    dataset = Dataset.open(output)
    assert dataset.info["splits"] == counts.windows
    assert dataset.info["records"]["dropped"] == dict(counts.records_dropped)
    assert dataset.info["windows"]["dropped"] == dict(counts.windows_dropped)
    assert [file["records"] for file in dataset.info["inputs"]] and sum(
        file["records"] for file in dataset.info["inputs"]
    ) == counts.records_read
    return dataset, counts


def groups(dataset: Dataset) -> list[set[str]]:
    """Groups of train, validation and test."""
    return [set(pd.read_parquet(dataset.path / f"{split}.parquet")["group"]) for split in SPLITS]


def splits(dataset: Dataset) -> dict[str, LabelledWindows]:
    return {split: dataset.split(split) for split in SPLITS}


def rows(dataset: Dataset) -> list[tuple[str, int, int, str]]:
    return sorted(
        (w.names[i], int(w.starts[i]), int(w.stops[i]), w.sequences[i])
        for w in splits(dataset).values()
        for i in range(len(w))
    )


def test_simulated_reads_keep_their_labels(toy: Path, tmp_path: Path) -> None:
    sim = toy / "sim"
    dataset, counts = run(
        toy, [str(sim / "reads.fasta")], tmp_path / "d", labels=sim / "labels.tsv", window_bp=400
    )
    assert counts.records_kept == 300
    told = {row[0]: tuple(row[2:]) for row in map(str.split, (sim / "labels.tsv").read_text().splitlines())}
    lines = (sim / "reads.fasta").read_text().split()
    sequences = dict(zip(lines[::2], lines[1::2], strict=True))
    assert dataset.taxonomy.ranks == ("superkingdom", "phylum", "genus")
    assert dataset.taxonomy.sizes == (4, 8, 16)
    assert [list(names) for names in dataset.taxonomy.taxa] == [sorted(names) for names in WORLD.names]
    taxid = dict(zip(WORLD.names[2], WORLD.taxids[2], strict=True))
    assert dataset.taxonomy.taxids[2] == tuple(taxid[name] for name in dataset.taxonomy.taxa[2])
    assert dataset.taxonomy.source["path"] == "taxdump"
    n = 0
    for windows in splits(dataset).values():
        for i, name in enumerate(windows.names):
            assert dataset.taxonomy.decode(windows.labels[i].tolist()) == told[name]
            assert windows.sequences[i] == sequences[f">{name}"]
            n += 1
    assert n == 300


def test_bertax_and_kraken_headers_and_the_reasons_to_drop(toy: Path, tmp_path: Path) -> None:
    records = [
        ("401 0", dna(0, 50)),
        ("401 1", dna(1, 50)),
        ("c1|kraken:taxid|403", dna(2, 50)),
        ("499 0", dna(3, 50)),  # merged into 401
        ("498 0", dna(4, 50)),  # deleted
        ("12345 0", dna(5, 50)),
        ("plain", dna(6, 50)),
        ("201 0", dna(7, 50)),  # a phylum
        ("401 2", dna(8, 9)),
        ("401 3", dna(0, 50).lower()),  # a duplicate
        ("401 4", "N" * 26 + dna(9, 24)),
        ("401 5", "N" * 25 + dna(9, 25)),
    ]
    dataset, counts = run(toy, [write_fasta(tmp_path / "in.fa", records)], tmp_path / "d")
    assert counts.records_read == 12
    assert counts.records_kept == 5
    assert counts.merged_taxids == 1
    assert counts.records_dropped == {
        "with deleted taxid": 1,
        "with unknown taxid": 1,
        "without taxid": 1,
        "without genus": 1,
        "too short": 1,
        "without a window that was kept": 2,
    }
    assert counts.windows_dropped == {"duplicate": 1, "with too few A, C, G, T": 1}
    assert dataset.taxonomy.taxa[2] == ("Toyhalobium", "Toysalinarchaeum")
    assert set.union(*groups(dataset)) == {"401", "499", "c1|kraken:taxid|403"}
    table = pd.concat(pd.read_parquet(dataset.path / f"{split}.parquet") for split in SPLITS)
    assert sorted(table["taxid"]) == [401, 401, 401, 401, 403]  # as they are called today


def test_missing_ranks_can_be_kept(toy: Path, tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "in.fa", [("201 0", dna(0, 50)), ("401 0", dna(1, 50))])
    dataset, _ = run(toy, [path], tmp_path / "d", keep_unranked=True)
    assert dataset.taxonomy.taxa[2] == ("Toyhalobium", "unknown")
    assert dataset.taxonomy.taxids[2] == (301, 0)


def test_windows_tile_the_record(toy: Path, tmp_path: Path) -> None:
    sequence = dna(0, 250)
    path = write_fasta(tmp_path / "in.fa", [("401 0", sequence), ("403 0", dna(1, 205).replace("A", "R"))])
    dataset, counts = run(toy, [path], tmp_path / "d")
    assert [row[1:3] for row in rows(dataset)] == [(0, 100), (100, 200), (200, 250), (0, 100), (100, 200)]
    assert "".join(row[3] for row in rows(dataset)[:3]) == sequence
    assert rows(dataset)[3][3] == dna(1, 205)[:100].replace("A", "N")
    assert counts.windows_dropped == {"too short": 1}
    overlapping, _ = run(toy, [path], tmp_path / "o", stride=50)
    assert [row[1] for row in rows(overlapping)][:4] == [0, 50, 100, 150]


def test_labels_by_file(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for name, seed in (("some/a.fna", 0), ("b.fna", 1)):
        write_fasta(tmp_path / name, [("x", dna(seed, 50)), ("401 1", dna(seed + 10, 50))])
    (tmp_path / "b.fna.gz").write_bytes(gzip.compress((tmp_path / "b.fna").read_bytes()))
    table = tmp_path / "labels.csv"
    table.write_text(
        '\ufefffile,organism,taxid\n../some/a.fna,"x, y",403\nb.fna.gz,z,405\n', encoding="utf-8"
    )
    dataset, _ = run(
        toy,
        [str(tmp_path / "some/a.fna"), str(tmp_path / "b.fna.gz")],
        tmp_path / "d",
        labels=table,
    )
    assert dataset.taxonomy.taxa[2] == tuple(sorted(WORLD.names[2][1:3]))
    assert set.union(*groups(dataset)) == {"a.fna", "b.fna.gz"}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """2,000 windows of 400 records of 32 species."""
    path = tmp_path_factory.mktemp("many") / "in.fa"
    return write_fasta(path, [(f"{SPECIES[i % 32]} {i}", dna(i, 500)) for i in range(400)])


@pytest.mark.parametrize("group", ["record", "taxid", "file", "genome"])
def test_no_genome_is_on_two_sides(toy: Path, many: str, tmp_path: Path, group: str) -> None:
    text = Path(many).read_text().replace(">", ">g").splitlines(keepends=True)
    files, names = [], []
    for i in range(40):  # ten records each; their names say nothing
        part = text[20 * i : 20 * i + 20]
        (tmp_path / f"{i}.fa").write_text("".join(part))
        files.append(str(tmp_path / f"{i}.fa"))
        names += [line[1:].split()[0] for line in part[::2]]
    table = tmp_path / "labels.tsv"
    table.write_text(
        "name\ttaxid\tgenome\n" + "".join(f"{n}\t{n[1:]}\tG{n[-1]}\n" for n in sorted(set(names)))
    )
    dataset, counts = run(toy, files, tmp_path / "d", labels=table, group=group, validation=0.2, test=0.3)
    assert (counts.split, counts.unit) == ("genome", group)
    assert sum(counts.windows.values()) == 2000
    found = groups(dataset)
    n = {"record": 400, "taxid": 32, "file": 40, "genome": 10}[group]
    assert sum(map(len, found)) == len(set.union(*found)) == n == sum(counts.units.values())
    assert list(counts.units.values()) == list(map(len, found))
    wanted = int(0.3 * n + 0.5)
    assert counts.units["test"] == min(wanted, n - counts.classes["genus"]) or group in ("file", "genome")


def test_stratified_by_the_narrowest_rank(toy: Path, many: str, tmp_path: Path) -> None:
    """The paper's way: 2 % test and 10 % validation of the windows of every genus."""
    dataset, counts = run(toy, [many], tmp_path / "d", split="stratified")
    assert counts.windows == {"train": 1760, "validation": 200, "test": 40}
    for split, n in (("validation", 12.5), ("test", 2.5)):
        per_genus = np.bincount(dataset.split(split).labels[:, 2], minlength=16)
        assert abs(per_genus - n).max() <= 0.5


def test_whole_taxa_are_held_out(toy: Path, many: str, tmp_path: Path) -> None:
    dataset, counts = run(toy, [many], tmp_path / "d", split="taxon", validation=0.0, test=0.25)
    assert counts.units == {"train": 12, "validation": 0, "test": 4} and counts.unit == "genus"
    train, _, test = (dataset.split(split).labels for split in SPLITS)
    assert set(train[:, 2]) & set(test[:, 2]) == set()
    assert len(set(test[:, 2])) == 4
    assert set(train[:, 1]) == set(range(8))  # every phylum keeps a genus to learn from
    assert counts.untrained == {"superkingdom": 0, "phylum": 0, "genus": 4}


def test_given_splits(toy: Path, tmp_path: Path) -> None:
    """The test set stays as it was published; training does without what is in it."""
    table = ["name,taxid,split,sequence\n"]
    table += [f"a{i},{SPECIES[i % 32]},train,{dna(i, 50)}\n" for i in range(100)]
    table += [f"b{i},{SPECIES[i % 32]},test,{dna(i + 90, 50)}\n" for i in range(20)]
    path = tmp_path / "in.csv"
    path.write_text("".join(table))
    dataset, counts = run(toy, [str(path)], tmp_path / "d")
    assert counts.split == "given"
    assert counts.windows_dropped == {"duplicate in another split": 10}
    assert counts.windows == {"train": 81, "validation": 9, "test": 20}  # validation out of training
    assert set(dataset.split("test").names) == {f"b{i}" for i in range(20)}
    dataset, counts = run(toy, [str(path)], tmp_path / "e", validation=0.0)
    assert counts.windows == {"train": 90, "validation": 0, "test": 20}
    _, counts = run(toy, [str(path)], tmp_path / "f", split="stratified")
    assert counts.split == "stratified"
    assert counts.windows_dropped == {"duplicate of another taxon (one copy kept)": 10}
    path.write_text("".join([*table, f"c,401,,{dna(500, 50)}\n"]))
    with pytest.raises(WyrError, match="nothing says which split record 'c' belongs to"):
        run(toy, [str(path)], tmp_path / "g", split="given")
    assert not (tmp_path / "g").exists()


def test_a_table_with_its_own_ranks_needs_no_taxonomy(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    rows = [f"{dna(i, 50)}\t{'AB'[i % 2]}lactam\tfamily{i % 4}\n" for i in range(40)]
    rows += [f"{dna(91, 50)}\tAlactam\t\n", f"{dna(92, 50)}\t\tunknown\n"]
    path.write_text("sequence\tdrug class\tProtein Family\n" + "".join(rows))
    ranks = ("drug class", "protein family")
    dataset, counts = run(toy, [str(path)], tmp_path / "d", taxdump=None, ranks=ranks)
    assert dataset.taxonomy.ranks == ranks
    assert dataset.taxonomy.taxa == (("Alactam", "Blactam"), ("family0", "family1", "family2", "family3"))
    assert dataset.taxonomy.taxids == ((0, 0), (0, 0, 0, 0)) and dataset.taxonomy.source == {}
    assert counts.records_dropped == {"without protein family": 1, "without label": 1}
    assert set(dataset.split("train").names) <= {f"row{i}" for i in range(1, 41)}
    assert sum(map(len, groups(dataset))) == 40  # each row is on its own
    kept, _ = run(toy, [str(path)], tmp_path / "k", taxdump=None, ranks=ranks, keep_unranked=True)
    assert kept.taxonomy.taxa[1][-1] == "unknown"


def test_reverse_complements_and_other_taxa_are_duplicates(toy: Path, tmp_path: Path) -> None:
    one = dna(0, 50)
    turned = one.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    records = [("401 0", one), ("401 1", turned), ("403 0", one.lower()), ("403 1", dna(1, 50))]
    dataset, counts = run(toy, [write_fasta(tmp_path / "in.fa", records)], tmp_path / "d")
    assert counts.windows_dropped == {"duplicate": 1, "duplicate of another taxon (one copy kept)": 1}
    assert sorted(row[3] for row in rows(dataset)) == sorted([one, dna(1, 50)])


def test_the_order_of_the_input_does_not_change_which_copy_is_kept(toy: Path, tmp_path: Path) -> None:
    """Of windows that several taxa, genomes and strands have; sequences and labels stay the same."""
    turn = str.maketrans("ACGT", "TGCA")
    table = []
    for i in range(60):
        sequence = dna(i % 20, 50)
        table.append((f"n{i}", SPECIES[i % 7], sequence.translate(turn)[::-1] if i % 3 else sequence))
    found = []
    for seed in range(3):
        random.Random(seed).shuffle(table)
        for named in (True, False):
            header = ["name\t", ""][not named] + "taxid\tsequence\n"
            lines = ["\t".join(map(str, row if named else row[1:])) + "\n" for row in table]
            files = [tmp_path / f"{seed}{named}{part}.tsv" for part in range(2)]
            for part, path in enumerate(files):
                path.write_text(header + "".join(lines[part::2]))
            inputs = [str(path) for path in files]
            dataset, counts = run(toy, inputs, tmp_path / f"d{seed}{named}", split="stratified")
            assert counts.windows_dropped["duplicate of another taxon (one copy kept)"] > 20
            kept = {
                (windows.sequences[i], tuple(windows.labels[i].tolist()))
                for windows in splits(dataset).values()
                for i in range(len(windows))
            }
            assert len(kept) == 20
            found.append(kept)
    assert all(kept == found[0] for kept in found)


def test_seeds(toy: Path, many: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"per_taxon": 20}
    one, _ = run(toy, [many], tmp_path / "a", seed=1, **options)
    again, _ = run(toy, [many], tmp_path / "b", seed=1, **options)
    other, _ = run(toy, [many], tmp_path / "c", seed=2, **options)
    for file in one.path.rglob("*.*"):
        if file.is_file():
            assert file.read_bytes() == (again.path / file.relative_to(one.path)).read_bytes()
    assert rows(one) != rows(other)


def test_the_order_of_the_input_does_not_change_a_split(toy: Path, many: str, tmp_path: Path) -> None:
    lines = Path(many).read_text().splitlines(keepends=True)
    turned = [line for i in reversed(range(0, len(lines), 2)) for line in lines[i : i + 2]]
    (tmp_path / "turned.fa").write_text("".join(turned))
    for options in ({"split": "stratified"}, {"split": "genome"}, {"per_taxon": 30}, {"split": "taxon"}):
        one, _ = run(toy, [many], tmp_path / f"a{options}", **options)
        other, _ = run(toy, [str(tmp_path / "turned.fa")], tmp_path / f"b{options}", **options)
        for split in SPLITS:
            assert sorted(one.split(split).sequences) == sorted(other.split(split).sequences)


def test_at_most_so_many_per_taxon(toy: Path, many: str, tmp_path: Path) -> None:
    dataset, counts = run(toy, [many], tmp_path / "d", per_taxon=40)
    labels = np.concatenate([windows.labels for windows in splits(dataset).values()])
    starts = np.concatenate([windows.starts for windows in splits(dataset).values()])
    assert np.bincount(labels[:, 2]).tolist() == [40] * 16
    assert counts.windows_dropped == {"over the limit per taxon": 2000 - 640}
    assert np.bincount(starts // 100).tolist() == pytest.approx([128] * 5, abs=45)
    by_phylum, _ = run(toy, [many], tmp_path / "p", per_taxon=40, per_taxon_rank="phylum")
    labels = np.concatenate([windows.labels for windows in splits(by_phylum).values()])
    assert np.bincount(labels[:, 1]).tolist() == [40] * 8
    by_species, _ = run(toy, [many], tmp_path / "s", per_taxon=9, per_taxon_rank="species")
    assert sum(by_species.info["splits"].values()) == 9 * 32
    assert by_species.taxonomy.ranks == ("superkingdom", "phylum", "genus")


def test_random_windows(toy: Path, many: str, tmp_path: Path) -> None:
    dataset, _ = run(toy, [many], tmp_path / "d", random=True, per_taxon=100)
    labels = np.concatenate([windows.labels for windows in splits(dataset).values()])
    assert np.bincount(labels[:, 2]).tolist() == [100] * 16
    starts = np.concatenate([windows.starts for windows in splits(dataset).values()])
    assert len(set(starts.tolist())) > 300
    whole = dict(zip(*[iter(Path(many).read_text().split("\n")[:-1])] * 2, strict=True))
    texts = list(whole.values())
    for _, start, stop, sequence in rows(dataset)[:50]:
        assert stop - start == 100 and any(text[start:stop] == sequence for text in texts)


def test_classes_that_cannot_be_learnt_are_counted(toy: Path, tmp_path: Path) -> None:
    records = [("401 0", dna(0, 50)), ("403 0", dna(1, 50)), ("405 0", dna(2, 50))]
    path = write_fasta(tmp_path / "in.fa", records)
    dataset, counts = run(toy, [path], tmp_path / "d", validation=0.0, test=1.0)
    assert counts.windows == {"train": 0, "validation": 0, "test": 3}
    assert counts.untrained == {"superkingdom": 1, "phylum": 2, "genus": 3}
    assert dataset.info["classes_without_training_window"] == counts.untrained
    _, counts = run(toy, [path], tmp_path / "e", validation=0.0, test=0.99)
    assert counts.windows == {"train": 3, "validation": 0, "test": 0}  # single ones train
    assert counts.undivided == 3


def test_homonyms_are_told_apart(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    nodes = [(1, 1, "no rank", "root"), (2, 1, "phylum", "A"), (3, 1, "phylum", "B")]
    nodes += [(4, 2, "genus", "Bacillus"), (5, 3, "genus", "Bacillus")]
    (dump / "nodes.dmp").write_text("".join(f"{t}\t|\t{p}\t|\t{r}\t|\n" for t, p, r, _ in nodes))
    (dump / "names.dmp").write_text(
        "".join(f"{t}\t|\t{n}\t|\t\t|\tscientific name\t|\n" for t, _, _, n in nodes)
    )
    path = write_fasta(tmp_path / "in.fa", [("4 0", dna(0, 50)), ("5 0", dna(1, 50))])
    options = PreparationOptions(ranks=("phylum", "genus"), min_bp=10)
    prepare([path], tmp_path / "d", options, taxdump=dump, cache_dir=tmp_path / "c")
    taxonomy = Dataset.open(tmp_path / "d").taxonomy
    assert taxonomy.taxa == (("A", "B"), ("Bacillus (4)", "Bacillus (5)"))


def test_faults_in_the_input_are_located(toy: Path, tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "in.fa", [("401 0", dna(0, 50)), ("402 1", "ACGTXACGTACGT")])
    with pytest.raises(InputError, match=r"record 2 \('402'\): found 'X' at position 5"):
        run(toy, [path], tmp_path / "d")
    path = write_fasta(tmp_path / "none.fa", [("r1", dna(0, 50)), ("r2", dna(1, 50))])
    with pytest.raises(WyrError, match=r"no window is left of 2 records \(2 without taxid\)"):
        run(toy, [path], tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": ()}, "ranks"),
        ({"ranks": ("domain", "superkingdom")}, "each once"),
        ({"window_bp": 5}, "longer than the window"),
        ({"stride": -1}, "at least 1"),
        ({"per_taxon": -1}, "at least 1"),
        ({"random": True}, "number per taxon"),
        ({"min_acgt": 1.5}, "expected 0 to 1"),
        ({"validation": 0.5, "test": 0.6}, "add up to more than 1"),
        ({"seed": -1}, "negative"),
    ],
)
def test_impossible_options_are_refused(
    toy: Path, many: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    error = TaxonomyError if "ranks" in options else WyrError
    with pytest.raises(error, match=message):
        run(toy, [many], tmp_path / "d", **options)


def test_a_file_may_be_named_only_once(toy: Path, many: str, tmp_path: Path) -> None:
    with pytest.raises(WyrError, match="named twice"):
        run(toy, [many, many], tmp_path / "d")
    with pytest.raises(WyrError, match=r"no window is left of 0 records \(none was read\)"):
        run(toy, [], tmp_path / "d")


def test_a_full_output_directory_is_refused_at_once(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(WyrError, match="not empty"):
        run(toy, [str(tmp_path / "not even there.fa")], toy / "sim")


def test_an_old_dataset_is_replaced_only_if_asked(toy: Path, many: str, tmp_path: Path) -> None:
    run(toy, [many], tmp_path / "d", seed=1)
    with pytest.raises(WyrError, match="not empty"):
        run(toy, [many], tmp_path / "d", seed=2)
    dataset, _ = run(toy, [many], tmp_path / "d", seed=2, replace=True)
    assert dataset.info["options"]["seed"] == 2
    bad = write_fasta(tmp_path / "bad.fa", [("401 0", "ACXT")])
    with pytest.raises(InputError):
        run(toy, [bad], tmp_path / "d", replace=True)
    assert Dataset.open(tmp_path / "d").info["options"]["seed"] == 2
    assert {entry.name for entry in tmp_path.iterdir()} == {"d", "bad.fa"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["401 0", "403 1", "499 2", "498 3", "12345 4", "201 5", "none"]),
            st.integers(0, 4),
            st.sampled_from([0, 5, 40, 260]),
            st.sampled_from(["ACGT", "ACGTNNNNNNN", "acgtRYSWKMBDHVNu"]),
        ),
        max_size=12,
    ),
    st.sampled_from(["stratified", "genome", "taxon"]),
    st.sampled_from([0, 2]),
    st.booleans(),
)
def test_everything_is_accounted_for(
    toy: Path, records: list[tuple[str, int, int, str]], split: str, per_taxon: int, random: bool
) -> None:
    """Records and windows in = kept + dropped by reason, and what is kept is there once (see run())."""
    with TemporaryDirectory() as folder:
        texts = [(name, dna(seed, length, letters)) for name, seed, length, letters in records]
        path = write_fasta(Path(folder) / "in.fa", texts)
        options = {"split": split, "per_taxon": per_taxon, "random": random and bool(per_taxon)}
        try:
            dataset, _ = run(toy, [path], Path(folder) / "d", **options)
        except WyrError as error:
            assert "no window is left" in str(error)
            assert not (Path(folder) / "d").exists()
            return
        found = [row[3] for row in rows(dataset)]
        turned = [text.translate(str.maketrans("ACGT", "TGCA"))[::-1] for text in found]
        assert len({min(pair) for pair in zip(found, turned, strict=True)}) == len(found)


def test_killed_at_any_moment(toy: Path, many: str, tmp_path: Path) -> None:
    """The output is whole or absent, and the next run starts over without what is left of this one."""
    command = [sys.executable, "-m", "wyrcli", "prepare", many, "--taxonomy", str(toy / "sim/taxdump")]
    command += ["--window", "100", "-o", str(tmp_path / "d")]
    environment = os.environ | {"WYR_CACHE": str(toy / "cache")}
    whole = 0
    for wait in (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        time.sleep(wait)
        process.kill()
        process.wait()
        if (tmp_path / "d").exists():
            assert sum(len(Dataset.open(tmp_path / "d").split(split)) for split in SPLITS) == 2000
            shutil.rmtree(tmp_path / "d")
            whole += 1
    (tmp_path / ".d.0123abcd.part").mkdir()  # in case that none was killed in time
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "an earlier run for" in done.stderr and "starts over" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


def test_the_genomes_of_the_project(shared: Path, tmp_path: Path) -> None:
    """All 400 files in one go; labels as in their table, and no genome on two sides."""
    genomes = shared / "genomes"
    options = PreparationOptions(per_taxon=200)
    counts = prepare(
        [str(genomes / "sequences")],
        tmp_path / "d",
        options,
        taxdump=genomes / "taxdump",
        labels=genomes / "genomes.tsv",
    )
    told = pd.read_csv(genomes / "genomes.tsv", sep="\t").set_index("file")
    assert counts.records_read == told["n_seqs"].sum() == 1926
    assert counts.split == "genome"
    parts = [pd.read_parquet(tmp_path / f"d/{split}.parquet") for split in SPLITS]
    table = pd.concat(parts)
    files = table["file"].map(lambda path: Path(path).name)
    for rank in options.ranks:
        assert (table[rank].astype(str) == told.loc[files, rank].to_numpy()).all()
    assert counts.classes == {rank: told[rank].nunique() for rank in options.ranks}
    assert counts.untrained == dict.fromkeys(options.ranks, 0)
    groups = [set(part["group"]) for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups)) <= 400
    assert set.union(*groups) == set(files)
