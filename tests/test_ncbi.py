"""The fence around ete3, on a dump of some 20 nodes and on one of 48,000."""

from __future__ import annotations

import csv
import io
import os
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyrcli import ncbi
from wyrcli.errors import InputError
from wyrcli.ncbi import NcbiTaxonomy, default_cache_dir

RANKS = ("superkingdom", "phylum", "genus")
REALMS = {
    2840022: "Adnaviria",
    2731341: "Duplodnaviria",
    2731342: "Monodnaviria",
    2559587: "Riboviria",
    2842242: "Ribozyviria",
    2732004: "Varidnaviria",
    3412574: "Singelaviria",
}
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
    *((taxid, 10239, "clade", name) for taxid, name in REALMS.items()),
    (2497569, 2559587, "phylum", "Negarnaviricota"),
    (11157, 2497569, "genus", 'Nya"virüs'),
    (99, 2497569, "species", "a virus without a genus"),
    (98, 561, "species", "Escherichia sp. 'it''s' (\"K-12\"); DROP TABLE species"),
    (97, 561, "species", '"Escherichia" in quotes"'),
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
    """The folder as an archive; the last part of ``path``'s name says as what."""
    kind = path.suffix.removeprefix(".")
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.writestr(
                    zipfile.ZipInfo(prefix + file.name, (2024, 12, 1, 0, 0, 0)), file.read_bytes()
                )
            archive.writestr("readme.txt", "")
        return path
    with tarfile.open(path, f"w:{'' if kind == 'tar' else kind}") as tar:  # type: ignore[call-overload]
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


def test_the_answers_right_after_the_build_are_those_of_later(dump: Path, cache: Path) -> None:
    taxids = [1, 3, 5, 469598, *(taxid for taxid, *_ in NODES)]
    answers = []
    for _ in range(2):
        with NcbiTaxonomy.open(dump, cache) as taxonomy:
            answers.append([(taxonomy.resolve(t), taxonomy.lineage(t, (*RANKS, "species"))) for t in taxids])
    assert answers[0] == answers[1]
    assert sum(lineage is None for _, lineage in answers[0]) == 2


def test_names_with_quotes(dump: Path, cache: Path) -> None:
    with NcbiTaxonomy.open(dump, cache) as taxonomy:
        assert taxonomy.lineage(98, ("species",)) == (
            (98, "Escherichia sp. 'it''s' (\"K-12\"); DROP TABLE species"),
        )
        # ete3 takes double quotes off both ends, which does no harm: nothing is looked up by name.
        assert taxonomy.lineage(97, ("genus", "species")) == (BACTERIUM[2], (97, 'Escherichia" in quotes'))
        assert taxonomy.lineage(562, RANKS) == BACTERIUM


@pytest.mark.parametrize("viruses", ["superkingdom", "no rank", "acellular root"])
@pytest.mark.parametrize("realm", ["clade", "no rank", "realm"])
def test_the_ranks_of_2025_are_those_of_before(
    tmp_path: Path, cache: Path, dump: Path, viruses: str, realm: str
) -> None:
    roots = {2: "domain", 131567: "cellular root", 10239: viruses}
    new = write_dump(tmp_path / "new", roots | dict.fromkeys(REALMS, realm))
    ranks = (*RANKS, "realm", "clade")
    with NcbiTaxonomy.open(dump, cache) as old_one, NcbiTaxonomy.open(new, cache) as new_one:
        assert old_one.source["sha256"] != new_one.source["sha256"]
        for taxid, *_ in NODES:
            assert old_one.lineage(taxid, ranks) == new_one.lineage(taxid, ranks)
        for taxonomy in (old_one, new_one):
            assert taxonomy.lineage(562, ranks) == (*BACTERIUM, None, None)
            assert taxonomy.lineage(11157, ranks) == (*VIRUS, (2559587, "Riboviria"), None)
            for taxid, name in REALMS.items():
                assert taxonomy.lineage(taxid, ("domain", "realm")) == (VIRUS[0], (taxid, name))


@pytest.mark.parametrize("name", ["t.tar.gz", "t.tar", "t.tar.xz", "t.tar.bz2", "t.zip"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_gives_what_the_folder_gives(
    tmp_path: Path, dump: Path, cache: Path, name: str, prefix: str
) -> None:
    os.utime(dump / "nodes.dmp", (1733011200, 1733011200))
    archive = pack(dump, tmp_path / name, prefix)
    archive = archive.rename(tmp_path / "no-suffix")
    sources = []
    for path in (archive, dump):
        with NcbiTaxonomy.open(path, cache) as taxonomy:  # built from the archive
            assert taxonomy.lineage(469598, RANKS) == BACTERIUM
            assert taxonomy.lineage(11157, RANKS) == VIRUS
            assert taxonomy.status(4) == "deleted"
            sources.append(taxonomy.source)
    assert [source["path"] for source in sources] == ["no-suffix", "taxdump"]
    assert len({source["sha256"] for source in sources}) == 1
    assert {source["date"] for source in sources} == {"2024-12-01"}
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["t.tar.gz", "t.tar.xz", "t.tar.bz2", "t.zip"])
def test_a_damaged_archive_is_refused(tmp_path: Path, dump: Path, cache: Path, name: str) -> None:
    # Only what must be there: nothing can tell that a file that may be missing has lost its name.
    (dump / "merged.dmp").unlink()
    (dump / "delnodes.dmp").unlink()
    with NcbiTaxonomy.open(dump, cache) as taxonomy:
        checksum = taxonomy.source["sha256"]
    whole = pack(dump, tmp_path / name).read_bytes()
    damaged = tmp_path / "damaged"
    harmless = 0
    for place in range(0, len(whole), 2):
        damaged.write_bytes(whole[:place])
        with pytest.raises(InputError, match="expected a taxdump"):
            NcbiTaxonomy.open(damaged, cache)
        for flipped in (1, 255):
            damaged.write_bytes(whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
            try:
                with NcbiTaxonomy.open(damaged, cache) as taxonomy:
                    assert taxonomy.source["sha256"] == checksum
                harmless += 1  # a time or a comment
            except InputError as error:
                assert "expected a" in str(error) and "\n" not in str(error)
    assert harmless < len(whole) / 6
    assert len(list(cache.iterdir())) == 1


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


# The second argument, where there is one, is how many processes have to have begun to build before one of
# them goes on.
OPEN = """
import os, sys, time
from pathlib import Path
from wyrcli import ncbi
from wyrcli.ncbi import NcbiTaxonomy
build = ncbi._build
def wait_and_build(*arguments):
    Path(f"building-{os.getpid()}").touch()
    give_up = time.monotonic() + 60
    while len(list(Path().glob("building-*"))) < int(sys.argv[2]):
        assert time.monotonic() < give_up, "the others never came"
        time.sleep(0.01)
    return build(*arguments)
if len(sys.argv) > 2:
    ncbi._build = wait_and_build
with NcbiTaxonomy.open(Path(sys.argv[1])) as taxonomy:
    assert taxonomy.lineage(469598, ("genus",)) == ((561, "Escherichia"),)
"""


def start(dump: Path, cwd: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    root = Path(ncbi.__file__).parents[1]
    kept = {k: v for k, v in os.environ.items() if k not in ("WYR_CACHE", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(dump), *arguments],
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


@pytest.mark.parametrize("obstacle", ["no folder", "nothing can be written"])
def test_a_home_that_cannot_be_written_is_no_hindrance(dump: Path, tmp_path: Path, obstacle: str) -> None:
    cwd, temporary, home = (tmp_path / name for name in ("cwd", "tmp", "home"))
    cwd.mkdir()
    temporary.mkdir()
    if obstacle == "no folder":
        home.write_text("")  # permissions would not stop root, but a file where a folder should be does
    else:
        (home / ".cache").mkdir(parents=True)
        (home / ".cache" / "wyr").symlink_to("/proc")  # a folder into which not even root can write
    process = start(dump, cwd, HOME=str(home), TMPDIR=str(temporary))
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert [list(folder.iterdir()) for folder in (cwd, temporary)] == [[], []]


def test_runs_that_start_at_once_do_not_disturb_each_other(dump: Path, cache: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    processes = [start(dump, cwd, "3", WYR_CACHE=str(cache)) for _ in range(3)]
    assert [process.communicate(timeout=120) for process in processes] == [("", "")] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert sorted(file.name for file in cwd.iterdir()) == sorted(f"building-{p.pid}" for p in processes)
    (kept,) = cache.iterdir()
    assert kept.suffix == ".sqlite"
    with NcbiTaxonomy.open(dump, cache) as taxonomy:
        assert taxonomy.lineage(562, RANKS) == BACTERIUM


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
    far_off = tarfile.TarInfo("nodes.dmp")
    for far_off.mtime in (10**17, 10**30):
        with tarfile.open(tmp_path / "t.tar", "w") as tar:
            tar.addfile(far_off)
        with pytest.raises(InputError, match="expected a taxdump"):
            NcbiTaxonomy.open(tmp_path / "t.tar", cache)
    incomplete = tmp_path / "t.zip"
    with zipfile.ZipFile(incomplete, "w") as archive:
        archive.write(dump / "nodes.dmp", "nodes.dmp")
    with pytest.raises(InputError, match=r"no names\.dmp"):
        NcbiTaxonomy.open(incomplete, cache)
    zipfile.ZipFile(incomplete, "w").close()
    with pytest.raises(InputError, match=r"no nodes\.dmp"):
        NcbiTaxonomy.open(incomplete, cache)
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


# ---------------------------------------------------------------- a real dump


@pytest.fixture(scope="module")
def genomes(shared: Path) -> Path:
    """Real genomes, and a part of NCBI's taxonomy with the ranks of December 2024."""
    folder = shared / "genomes"
    if not folder.is_dir():
        pytest.skip("no ../shared/genomes with a real taxonomy")
    return folder


@pytest.fixture(scope="module")
def before(genomes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NcbiTaxonomy]:
    """The real dump as it is."""
    with NcbiTaxonomy.open(genomes / "taxdump", tmp_path_factory.mktemp("cache")) as taxonomy:
        yield taxonomy


@pytest.fixture(scope="module")
def since(genomes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NcbiTaxonomy]:
    """The real dump with NCBI's ranks of March 2025."""
    new_ranks = {
        2: "domain",
        2157: "domain",
        2759: "domain",
        10239: "acellular root",
        131567: "cellular root",
    }
    new_ranks |= dict.fromkeys(REALMS, "realm")
    folder = tmp_path_factory.mktemp("taxdump")
    for name in ("names.dmp", "merged.dmp", "delnodes.dmp"):
        (folder / name).symlink_to(genomes / "taxdump" / name)
    lines = (genomes / "taxdump" / "nodes.dmp").read_text(encoding="utf-8").splitlines()
    changed = []
    with open(folder / "nodes.dmp", "w", encoding="utf-8") as file:
        for line in lines:
            fields = line.split("\t|\t")
            if int(fields[0]) in new_ranks:
                changed.append(fields[2])
                fields[2] = new_ranks[int(fields[0])]
            file.write("\t|\t".join(fields) + "\n")
    # The subset is older than the seventh realm, Singelaviria.
    assert sorted(changed) == ["clade"] * 6 + ["no rank"] + ["superkingdom"] * 4
    with NcbiTaxonomy.open(folder, tmp_path_factory.mktemp("cache")) as taxonomy:
        yield taxonomy


def test_a_real_dump(before: NcbiTaxonomy) -> None:
    assert before.lineage(562, RANKS) == BACTERIUM
    assert before.resolve(12) == (74109, "merged")
    assert before.lineage(12, RANKS) == before.lineage(74109, RANKS)


def test_real_genomes_get_their_labels_before_and_since_the_change_of_ranks(
    genomes: Path, before: NcbiTaxonomy, since: NcbiTaxonomy
) -> None:
    assert before.source["sha256"] != since.source["sha256"]
    ranks = ("superkingdom", "realm", "phylum", "class", "order", "family", "genus", "species")
    realms = set()
    with open(genomes / "genomes.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 400
    for row in rows:
        lineage = before.lineage(int(row["taxid"]), ranks)
        assert lineage is not None
        assert lineage == since.lineage(int(row["taxid"]), ranks)
        # An empty cell is a rank that a genome does not have: a phage without a genus.
        named = {rank: taxon.name if taxon else "" for rank, taxon in zip(ranks, lineage, strict=True)}
        assert {rank: row[rank] for rank in RANKS} == {rank: named[rank] for rank in RANKS}
        assert named["realm"] == "" or row["superkingdom"] == "Viruses"
        realms.add(named["realm"])
    assert realms == {"", "Duplodnaviria", "Monodnaviria", "Riboviria", "Varidnaviria"}
