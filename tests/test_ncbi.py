"""The fence around ete3, on a dump of 12 nodes."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from wyrcli import ncbi
from wyrcli.errors import InputError
from wyrcli.ncbi import NcbiTaxonomy, default_cache_dir

RANKS = ("superkingdom", "phylum", "genus")
NODES = [
    (1, 1, "no rank", "root"),
    (131567, 1, "no rank", "cellular organisms"),
    (2, 131567, "superkingdom", "Bacteria"),
    (10239, 1, "superkingdom", "Viruses"),
    (1224, 2, "phylum", "Pseudomonadota"),
    (561, 1224, "genus", "Escherichia"),
    (562, 561, "species", "Escherichia coli"),
    (1239, 2, "phylum", "Bacillota"),
    (1386, 1239, "genus", "Bacillus"),
    (2497569, 10239, "phylum", "Negarnaviricota"),
    (11157, 2497569, "genus", 'Nya"virüs'),
    (99, 2497569, "species", "a virus without a genus"),
]
BACTERIUM = ((2, "Bacteria"), (1224, "Pseudomonadota"), (561, "Escherichia"))
VIRUS = ((10239, "Viruses"), (2497569, "Negarnaviricota"), (11157, 'Nya"virüs'))


def write_dump(folder: Path, ranks: dict[int, str] | None = None) -> Path:
    """NCBI's four files; ``ranks`` replaces the ranks of some nodes."""
    folder.mkdir()

    def write(name: str, rows: list[tuple[object, ...]]) -> None:
        text = "".join("\t|\t".join(map(str, row)) + "\t|\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")

    write("nodes.dmp", [(t, p, (ranks or {}).get(t, rank), "", 0, 1) for t, p, rank, _ in NODES])
    names: list[tuple[object, ...]] = [(t, name, "", "scientific name") for t, _, _, name in NODES]
    write(
        "names.dmp",
        [*names, (1224, "Proteobacteria", "", "synonym"), (562, "colibacillus", "", "common name")],
    )
    write("merged.dmp", [(469598, 562), (662101, 562)])
    write("delnodes.dmp", [(3,), (4,)])
    return folder


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return write_dump(tmp_path / "taxdump")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def pack(folder: Path, path: Path, prefix: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=prefix + file.name)
        tar.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())
    return path


def test_lineages(dump: Path, cache: Path) -> None:
    with NcbiTaxonomy.open(dump, cache) as taxonomy:
        assert taxonomy.lineage(562, RANKS) == BACTERIUM
        assert taxonomy.lineage(561, RANKS) == BACTERIUM
        assert taxonomy.lineage(11157, list(RANKS)) == VIRUS
        assert taxonomy.lineage(99, RANKS) == (*VIRUS[:2], None)
        assert taxonomy.lineage(1, RANKS) == (None, None, None)
        assert taxonomy.lineage(562, ("genus", "superkingdom")) == (BACTERIUM[2], BACTERIUM[0])
        assert taxonomy.lineage(562, ("domain",)) == (BACTERIUM[0],)


def test_merged_deleted_and_unknown_taxids(dump: Path, cache: Path) -> None:
    with NcbiTaxonomy.open(dump, cache) as taxonomy:
        assert taxonomy.resolve(562) == (562, "current")
        assert taxonomy.resolve(469598) == (562, "merged")
        assert taxonomy.lineage(469598, RANKS) == BACTERIUM
        assert taxonomy.status(3) == "deleted"
        assert taxonomy.lineage(3, RANKS) is None
        for taxid in (0, -1, 5, 10**30):
            assert taxonomy.status(taxid) == "unknown"
            assert taxonomy.lineage(taxid, RANKS) is None


@pytest.mark.parametrize(
    "new_ranks",
    [
        {2: "domain", 10239: "acellular root", 131567: "cellular root"},
        {2: "domain", 10239: "no rank"},
    ],
)
def test_domains_and_superkingdoms_are_the_same(
    tmp_path: Path, cache: Path, dump: Path, new_ranks: dict[int, str]
) -> None:
    new = write_dump(tmp_path / "new", new_ranks)
    with NcbiTaxonomy.open(dump, cache) as old_one, NcbiTaxonomy.open(new, cache) as new_one:
        for taxid in (562, 11157, 99, 1, 1386):
            assert old_one.lineage(taxid, RANKS) == new_one.lineage(taxid, RANKS)
        assert old_one.source["sha256"] != new_one.source["sha256"]


def test_a_tar_file_gives_what_the_folder_gives(tmp_path: Path, dump: Path, cache: Path) -> None:
    os.utime(dump / "nodes.dmp", (1733011200, 1733011200))
    plain = pack(dump, tmp_path / "taxdump.tar.gz")
    dotted = pack(dump, tmp_path / "dotted.tar.gz", prefix="./")
    sources = []
    for path in (dump, plain, dotted):
        with NcbiTaxonomy.open(path, cache) as taxonomy:
            assert taxonomy.lineage(469598, RANKS) == BACTERIUM
            assert taxonomy.status(4) == "deleted"
            sources.append(taxonomy.source)
    assert [source["path"] for source in sources] == ["taxdump", "taxdump.tar.gz", "dotted.tar.gz"]
    assert {source["sha256"] for source in sources} == {sources[0]["sha256"]}
    assert {source["date"] for source in sources} == {"2024-12-01"}
    assert len(list(cache.iterdir())) == 1


def test_it_is_built_from_the_tar_file_too(tmp_path: Path, dump: Path, cache: Path) -> None:
    with NcbiTaxonomy.open(pack(dump, tmp_path / "taxdump.tar.gz", prefix="./"), cache) as taxonomy:
        assert taxonomy.lineage(11157, RANKS) == VIRUS


def test_merged_and_delnodes_may_be_missing(dump: Path, cache: Path) -> None:
    (dump / "merged.dmp").unlink()
    (dump / "delnodes.dmp").unlink()
    with NcbiTaxonomy.open(dump, cache) as taxonomy:
        assert taxonomy.lineage(562, RANKS) == BACTERIUM
        assert taxonomy.status(469598) == "unknown"
        assert taxonomy.status(3) == "unknown"


def test_the_second_time_nothing_is_built(dump: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NcbiTaxonomy.open(dump, cache).close()

    def build(*_: object) -> Path:
        raise AssertionError("built again")

    monkeypatch.setattr(ncbi, "_build", build)
    NcbiTaxonomy.open(dump, cache).close()


def test_a_damaged_cache_is_replaced(dump: Path, cache: Path) -> None:
    NcbiTaxonomy.open(dump, cache).close()
    (kept,) = cache.iterdir()
    for damage in (b"", b"not a database", kept.read_bytes()[:20_000]):
        kept.write_bytes(damage)
        with NcbiTaxonomy.open(dump, cache) as taxonomy:
            assert taxonomy.lineage(562, RANKS) == BACTERIUM
    with sqlite3.connect(kept) as db:
        db.execute("UPDATE wyr SET format = 0")
    db.close()
    NcbiTaxonomy.open(dump, cache).close()
    assert list(cache.iterdir()) == [kept]


OPEN = """
import sys
from pathlib import Path
from wyrcli.ncbi import NcbiTaxonomy
with NcbiTaxonomy.open(Path(sys.argv[1])) as taxonomy:
    assert taxonomy.lineage(469598, ("genus",)) == ((561, "Escherichia"),)
"""


def start(dump: Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    root = Path(ncbi.__file__).parents[1]
    kept = {k: v for k, v in os.environ.items() if k not in ("WYR_CACHE", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(dump)],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(root)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_nothing_is_printed_nor_left_behind(dump: Path, cache: Path, tmp_path: Path) -> None:
    cwd, home, temporary = (tmp_path / name for name in ("cwd", "home", "tmp"))
    for folder in (cwd, home, temporary):
        folder.mkdir()
    process = start(dump, cwd, WYR_CACHE=str(cache), HOME=str(home), TMPDIR=str(temporary))
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert [list(folder.iterdir()) for folder in (cwd, home, temporary)] == [[], [], []]
    assert [file.suffix for file in cache.iterdir()] == [".sqlite"]


def test_a_home_that_cannot_be_written_is_no_hindrance(dump: Path, tmp_path: Path) -> None:
    cwd, temporary, home = (tmp_path / name for name in ("cwd", "tmp", "home"))
    cwd.mkdir()
    temporary.mkdir()
    home.write_text("")  # a file where a folder should be: root, too, cannot write below it
    process = start(dump, cwd, HOME=str(home), TMPDIR=str(temporary))
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert [list(folder.iterdir()) for folder in (cwd, temporary)] == [[], []]


def test_runs_that_start_at_once_do_not_disturb_each_other(dump: Path, cache: Path, tmp_path: Path) -> None:
    processes = [start(dump, tmp_path, WYR_CACHE=str(cache)) for _ in range(3)]
    assert [process.communicate() for process in processes] == [("", "")] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert len(list(cache.iterdir())) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("WYR_CACHE", raising=False)
    assert default_cache_dir() == Path("/home/someone/.cache/wyr")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/wyr")
    monkeypatch.setenv("WYR_CACHE", "/own")
    assert default_cache_dir() == Path("/own")


def test_what_is_no_dump_is_refused(dump: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        NcbiTaxonomy.open(tmp_path / "nowhere", cache)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match=r"expected a taxdump\.tar\.gz"):
        NcbiTaxonomy.open(tmp_path / "text", cache)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(pack(dump, tmp_path / "whole.tar.gz").read_bytes()[:300])
    with pytest.raises(InputError, match="expected a taxdump"):
        NcbiTaxonomy.open(cut, cache)
    (dump / "delnodes.dmp").write_text("3\t|\nfour\t|\n")
    with pytest.raises(InputError, match="line 2: expected a taxid"):
        NcbiTaxonomy.open(dump, cache)
    (dump / "delnodes.dmp").unlink()
    with open(dump / "nodes.dmp", "a") as file:
        file.write("77\t|\t1\t|\tgenus\t|\n")
    with pytest.raises(InputError, match=r"not an NCBI taxonomy dump: .*77"):
        NcbiTaxonomy.open(dump, cache)
    (dump / "names.dmp").unlink()
    with pytest.raises(InputError, match=r"no names\.dmp"):
        NcbiTaxonomy.open(dump, cache)
    assert not cache.exists() or list(cache.iterdir()) == []


REAL = Path(__file__).resolve().parents[2] / "shared" / "genomes" / "taxdump"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/genomes/taxdump beside the repository")
def test_a_real_dump(cache: Path) -> None:
    with NcbiTaxonomy.open(REAL, cache) as taxonomy:
        assert taxonomy.lineage(562, RANKS) == BACTERIUM
        assert taxonomy.resolve(12) == (74109, "merged")
        assert taxonomy.lineage(12, RANKS) == taxonomy.lineage(74109, RANKS)
