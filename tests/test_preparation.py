"""From labelled sequences to a dataset, every record and window accounted for."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.dataset import SPLITS, Dataset, LabelledWindows
from wyrcli.errors import InputError, TaxonomyError, WyrError
from wyrcli.preparation import _tile, prepare, read_labels, taxid_in_header
from wyrcli.simulation import simulate, toy_world

WORLD = toy_world()
SPECIES = [taxid for group in WORLD.species for taxid, _ in group]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy taxonomy and a cache for it."""
    folder = tmp_path_factory.mktemp("toy")
    simulate(folder / "sim", seed=1, n_reads=300, length=400)
    return folder


def dna(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def write_fasta(path: Path, records: list[tuple[str, str]]) -> str:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records))
    return str(path)


def run(toy: Path, inputs: list[str], output: Path, **options: Any) -> tuple[Dataset, Any]:
    options = {
        "taxdump": toy / "sim/taxdump",
        "cache_dir": toy / "cache",
        "window_bp": 100,
        "min_bp": 10,
    } | options
    counts = prepare(inputs, output=output, **options)
    assert counts.records_read == counts.records_kept + sum(counts.records_dropped.values())
    dataset = Dataset.open(output)
    assert dataset.info["splits"] == counts.windows
    return dataset, counts


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


def test_headers_tell_taxids() -> None:
    assert taxid_in_header("562 0") == 562
    assert taxid_in_header("562\t17") == 562
    assert taxid_in_header("NC_1|kraken:taxid|562|x text") == 562
    assert taxid_in_header("NC_1 kraken:taxid|562") == 562
    for header in ("562", "read1", "562 1 2", "NC_1 562", "xkraken:taxid|562", "kraken:taxid|562x", ""):
        assert taxid_in_header(header) is None


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
        "without usable window": 2,
    }
    assert counts.windows_dropped == {"duplicate": 1, "more than half N": 1}
    assert dataset.info["records"]["dropped"] == dict(counts.records_dropped)
    assert dataset.info["windows_dropped"] == dict(counts.windows_dropped)
    assert dataset.taxonomy.taxa[2] == ("Toyhalobium", "Toysalinarchaeum")
    groups = sorted(group for w in splits(dataset).values() for group in w.groups)
    assert groups == ["401", "401#2", "401#6", "499", "c1|kraken:taxid|403"]  # every 401 counts, kept or not


def test_missing_ranks_can_be_kept(toy: Path, tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "in.fa", [("201 0", dna(0, 50)), ("401 0", dna(1, 50))])
    dataset, _ = run(toy, [path], tmp_path / "d", drop_unranked=False)
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


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_tile(length: int, window: int, stride: int) -> None:
    tiles = list(_tile(length, window, stride))
    assert [start for start, _ in tiles] == [stride * i for i in range(len(tiles))]
    assert all(start < stop == min(start + window, length) for start, stop in tiles)
    assert all(stop < length for _, stop in tiles[:-1])
    if stride <= window:
        assert tiles[-1][1] == length


def test_labels_by_file(toy: Path, tmp_path: Path) -> None:
    for name, seed in (("a.fna", 0), ("b.fna", 1)):
        write_fasta(tmp_path / name, [("x", dna(seed, 50)), ("401 1", dna(seed + 10, 50))])
    (tmp_path / "b.fna.gz").write_bytes(gzip.compress((tmp_path / "b.fna").read_bytes()))
    table = tmp_path / "labels.csv"
    table.write_text(
        '\ufefffile,organism,taxid\nsome/where/a.fna,"x, y",403\nb.fna.gz,z,405\n', encoding="utf-8"
    )
    dataset, _ = run(
        toy,
        [str(tmp_path / "a.fna"), str(tmp_path / "b.fna.gz")],
        tmp_path / "d",
        labels=table,
        split_by="file",
    )
    assert dataset.taxonomy.taxa[2] == tuple(sorted(WORLD.names[2][1:3]))
    assert {group for w in splits(dataset).values() for group in w.groups} == {"a.fna", "b.fna.gz"}


def test_label_tables(tmp_path: Path) -> None:
    table = tmp_path / "labels.tsv"
    table.write_text('#name\ttaxid\tfile\nr"1\t 5 \tf\nr2\t\t\n\t7\tdir/g\nr"1\t5\n')
    labels = read_labels(table)
    assert (labels.by_name, labels.by_file) == ({'r"1': 5}, {"g": 7})
    assert labels.find('r"1', "g") == 5
    assert labels.find("r9", "g") == 7
    assert labels.find("r9", "f") is None
    for text, message in (
        ("", "line 1: found the columns"),
        ("name\tgenus\n", "line 1: found the columns name, genus; expected 'taxid'"),
        ("name\ttaxid\nr1\tfive\n", "line 2: taxid is 'five'"),
        ("name\ttaxid\nr1\t5\nr1\t6\n", "line 3: name 'r1' has taxid 6 here and 5 above"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            read_labels(table)
    table.write_bytes(b"name\ttaxid\n\xff\t5\n")
    with pytest.raises(InputError, match="not a table"):
        read_labels(table)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """2,000 windows of 400 records of 32 species."""
    path = tmp_path_factory.mktemp("many") / "in.fa"
    return write_fasta(path, [(f"{SPECIES[i % 32]} {i}", dna(i, 500)) for i in range(400)])


def test_no_group_is_on_two_sides(toy: Path, many: str, tmp_path: Path) -> None:
    dataset, counts = run(toy, [many], tmp_path / "d", validation=0.2, test=0.3)
    assert sum(counts.windows.values()) == 2000
    assert counts.windows["test"] == pytest.approx(600, abs=150)
    assert counts.windows["validation"] == pytest.approx(400, abs=120)
    groups = [set(windows.groups) for windows in splits(dataset).values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 400


def test_seeds(toy: Path, many: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_per_taxon": 20}
    one, _ = run(toy, [many], tmp_path / "a", seed=1, **options)
    again, _ = run(toy, [many], tmp_path / "b", seed=1, **options)
    other, _ = run(toy, [many], tmp_path / "c", seed=2, **options)
    for file in one.path.iterdir():
        assert file.read_bytes() == (again.path / file.name).read_bytes()
    assert rows(one) != rows(other)


def test_at_most_so_many_per_taxon(toy: Path, many: str, tmp_path: Path) -> None:
    dataset, counts = run(toy, [many], tmp_path / "d", max_per_taxon=40)
    per_genus = [0] * 16
    places: list[int] = []
    for windows in splits(dataset).values():
        for genus in windows.labels[:, 2]:
            per_genus[genus] += 1
        places += windows.starts.tolist()
    assert per_genus == [40] * 16
    assert counts.windows_dropped == {"over the limit per taxon": 2000 - 640}
    assert counts.windows["train"] == pytest.approx(512, abs=60)
    assert [places.count(start) for start in range(0, 500, 100)] == pytest.approx([128] * 5, abs=45)


def test_classes_that_cannot_be_learnt_are_counted(toy: Path, tmp_path: Path) -> None:
    path = write_fasta(
        tmp_path / "in.fa", [("401 0", dna(0, 50)), ("403 0", dna(1, 50)), ("405 0", dna(2, 50))]
    )
    dataset, counts = run(toy, [path], tmp_path / "d", validation=0.0, test=0.99)
    assert counts.windows["train"] == 0
    assert counts.untrained == {"superkingdom": 1, "phylum": 2, "genus": 3}
    assert dataset.info["classes_without_training_window"] == counts.untrained


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
    prepare(
        [path],
        taxdump=dump,
        output=tmp_path / "d",
        ranks=("phylum", "genus"),
        min_bp=10,
        cache_dir=tmp_path / "c",
    )
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
        ({"stride": 0}, "at least 1"),
        ({"max_per_taxon": 0}, "at least 1"),
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
    with pytest.raises(WyrError, match="2 times"):
        run(toy, [many, many], tmp_path / "d")
    with pytest.raises(WyrError, match="no input"):
        run(toy, [], tmp_path / "d")


def test_a_full_output_directory_is_refused_at_once(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(WyrError, match="not empty"):
        run(toy, [str(tmp_path / "not even there.fa")], toy / "sim")
