"""A folder for genome browsers: other tools read it, and find each letter and score at its place."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pysam
import pytest
from chromium import Dom, load, needs_chromium, with_driver
from hypothesis import given, settings
from hypothesis import strategies as st
from test_terminal_view import explain

from wyrcli import bundles
from wyrcli.bundles import SafeNames, block_index, check_bundle, open_bundle
from wyrcli.errors import WyrError
from wyrcli.explanation import Explanation, Target

RANKS = ("superkingdom", "genus")
IGV = "window.igv = {};\nigv.createBrowser = async () => ({ search: () => {} });\n"


def at(found: Explanation, record: int, name: str = "") -> Explanation:
    """The same as the window of another record."""
    window = found.window
    return replace(found, window=window._replace(record=record, name=name or window.name))


def make(folder: Path, *found: Explanation, **options: object) -> Path:
    """The bundle of these windows."""
    with open_bundle(folder, RANKS, **options) as writer:  # type: ignore[arg-type]
        for explanation in found:
            writer.write(explanation)
    return folder


def scores_of(folder: Path, name: str, length: int) -> list[float]:
    """The score of every base, NaN where there is none."""
    values = [float("nan")] * length
    if (folder / "scores.bw").exists():
        pybigwig = pytest.importorskip("pyBigWig")
        handle = pybigwig.open(str(folder / "scores.bw"))
        values = handle.values(name, 0, length)
        handle.close()
        return list(values)
    with pysam.TabixFile(str(folder / "scores.bedgraph.gz")) as table:
        for row in table.fetch(name):
            _, start, stop, value = row.split("\t")
            for i in range(int(start), int(stop)):
                assert np.isnan(values[i])  # rows of a bedGraph do not overlap
                values[i] = float(value)
    return values


@pytest.fixture(params=["bigWig", "bedGraph"])
def scores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to keep scores."""
    if request.param == "bigWig":
        pytest.importorskip("pyBigWig")
    else:
        monkeypatch.setattr(bundles, "MOST_BIGWIG", 0)
    return str(request.param)


# ---------------------------------------------------------------- names


@given(st.lists(st.sampled_from(["a", "a_1", "a:1", "a_2", "", "track x", "Chrom", "é"]) | st.text()))
def test_safe_names(names: list[str]) -> None:
    """Letters, digits and _, none twice, none that bedtools drops; whether remembered or not."""
    for most in (250_000, 2):
        safe = SafeNames(most)
        found = [safe.new(name, i) for i, name in enumerate(names)]
        assert len(set(found)) == len(found)
        for name in found:
            assert re.fullmatch(r"[A-Za-z0-9_]{1,255}", name)
            assert not name.lower().startswith(("track", "browser", "visibility")) and name.lower() != "chrom"


def test_good_names_stay() -> None:
    """What is safe already is the same."""
    assert SafeNames().new("contig_17", 5) == "contig_17"


def test_ranks_of_any_name(tmp_path: Path) -> None:
    """The table of names has a header that fits its rows."""
    with open_bundle(tmp_path / "bundle", ("x\ty", "start")) as writer:
        writer.write(explain([0.9] * 3, name="r"))
    header, row = [line.split("\t") for line in (tmp_path / "bundle" / "names.tsv").read_text().splitlines()]
    assert len(header) == len(row) == 8 and header[4::2] == ["x_y", "rank_start"]


# ---------------------------------------------------------------- tables


def test_round_trip(tmp_path: Path, scores: str) -> None:
    """Sequences, chunks and scores come back by name and place, through pysam."""
    found = [
        at(explain([0.9, 0.2, 0.8], name="M0:1:2/1"), 0),
        at(explain([0.7] * 400, name="M0:1:2/1"), 1),  # more than one line, and the same name
        at(explain([0.1, -0.9], name="third", target=Target("A", 1, 0.5, "B")), 2),
    ]
    folder = make(tmp_path / "b", *found)
    rows = [row.split("\t") for row in (folder / "names.tsv").read_text().splitlines()]
    names = [row[0] for row in rows[1:]]
    assert names == ["M0_1_2_1", "M0_1_2_1_2", "third"] and [r[3] for r in rows[1:3]] == ["M0:1:2/1"] * 2
    assert rows[1][4:] == ["Viruses", "0.7500", "Nyavirus", "0.5000"]
    fasta = pysam.FastaFile(str(folder / "sequences.fa.gz"))
    chunks = pysam.TabixFile(str(folder / "important.bed.gz"))
    assert fasta.references == names
    for name, explanation in zip(names, found, strict=True):
        window = explanation.window
        assert fasta.fetch(name) == window.sequence
        assert fasta.fetch(name, 3, 9) == window.sequence[3:9]
        places = [tuple(map(int, row.split("\t")[1:3])) for row in chunks.fetch(name)]
        assert places == [(c.start, c.stop) for c in explanation.chunks()]
        expected = np.repeat(explanation.mask, 6)
        np.testing.assert_allclose(scores_of(folder, name, window.stop), expected, atol=1e-4)


def test_a_sequence_is_as_long_as_its_record(tmp_path: Path) -> None:
    """Also where its end was not read; the next one begins a line of its own."""
    first, second = explain([0.9], name="a"), at(explain([0.2], name="b"), 1)
    first = replace(first, window=first.window._replace(length=130))
    fasta = pysam.FastaFile(str(make(tmp_path / "b", first, second) / "sequences.fa.gz"))
    assert fasta.fetch("a") == first.window.sequence + "N" * 124
    assert fasta.fetch("b") == second.window.sequence


def test_windows_of_a_contig(tmp_path: Path, scores: str) -> None:
    """Overlaps are averaged, what was not read is N and has no score, chunks are in order."""
    sequence = "ACGTTGCATCCAGGTTTAACACGTACGATTACAGGG"
    parts = [(0, [0.9, 0.9, 0.9]), (12, [0.1, 0.9, 0.9]), (48, [0.8])]
    found = []
    for start, masks in parts:
        text = (sequence * 3)[start : start + 6 * len(masks)]
        found.append(explain(masks, name="contig", start=start, sequence=text))
    folder = make(tmp_path / "b", *found)
    fasta = pysam.FastaFile(str(folder / "sequences.fa.gz"))
    whole = (sequence * 3)[:54]
    assert fasta.fetch("contig") == whole[:30] + "N" * 18 + whole[48:]
    expected = [0.9] * 12 + [0.5] * 6 + [0.9] * 12 + [np.nan] * 18 + [0.8] * 6
    np.testing.assert_allclose(scores_of(folder, "contig", 54), expected, atol=1e-4)
    rows = [row.split("\t") for row in pysam.TabixFile(str(folder / "important.bed.gz")).fetch()]
    assert [int(row[1]) for row in rows] == [0, 18, 48]
    assert len((folder / "names.tsv").read_text().splitlines()) == 4


@settings(max_examples=25)
@given(st.data())
def test_any_windows(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Against a plain loop: sums and counts by base, over windows that start where they like, in order."""
    n = data.draw(st.integers(1, 5))
    starts = sorted(data.draw(st.lists(st.integers(0, 60), min_size=n, max_size=n)))
    genome = "".join(data.draw(st.lists(st.sampled_from("ACGT"), min_size=150, max_size=150)))
    found = []
    for start in starts:
        masks = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.75, 1.0]), min_size=1, max_size=9))
        found.append(explain(masks, start=start, sequence=genome[start : start + 6 * len(masks)]))
    total, count = np.zeros(150), np.zeros(150)
    for explanation in found:
        for (start, stop), value in zip(explanation.spans, explanation.mask, strict=True):
            total[start:stop] += value
            count[start:stop] += 1
    with np.errstate(invalid="ignore"):
        expected = total / count
    end = max(e.window.stop for e in found)
    folder = make(tmp_path_factory.mktemp("any") / "b", *found)
    text = pysam.FastaFile(str(folder / "sequences.fa.gz")).fetch("read")
    assert text == "".join(c if n else "N" for c, n in zip(genome[:end], count, strict=False))
    np.testing.assert_allclose(scores_of(folder, "read", end), expected[:end], atol=1e-4)
    shutil.rmtree(folder)


def test_block_index(tmp_path: Path) -> None:
    """samtools finds sequences in every block, and the last block that is named has no letters."""
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ACGT"), 300_000))
    found = explain([0.1] * 50_000, sequence=text)
    folder = make(tmp_path / "b", found)
    index = np.frombuffer((folder / "sequences.fa.gz.gzi").read_bytes(), dtype="<u8")
    size = (folder / "sequences.fa.gz").stat().st_size
    assert index[0] == (len(index) - 1) // 2 > 4
    assert index[-2] == size - 28 and index[-1] == len(">read\n") + 300_000 + 5_000
    assert (np.diff(index[1::2].astype(np.int64)) > 0).all()
    fasta = pysam.FastaFile(str(folder / "sequences.fa.gz"))
    for start in (0, 65_000, 131_000, 299_000):
        assert fasta.fetch("read", start, start + 999) == text[start : start + 999]
    with open(tmp_path / "plain", "wb") as file:
        file.write(b"")
    assert block_index(tmp_path / "plain") == bytes(8)


@pytest.mark.skipif(shutil.which("bedtools") is None, reason="bedtools is not installed")
def test_bedtools_reads_it(tmp_path: Path) -> None:
    """Chunks cut out of the FASTA are those of the reads."""
    found = [at(explain([0.9, 0.1, 0.9], name=f"track {i}"), i) for i in range(3)]
    folder = make(tmp_path / "b", *found)
    shutil.copy(folder / "sequences.fa.gz", tmp_path / "x.fa.gz")
    subprocess.run(["bgzip", "-d", str(tmp_path / "x.fa.gz")], check=True)
    command = ["bedtools", "getfasta", "-fi", tmp_path / "x.fa", "-bed", folder / "important.bed.gz", "-tab"]
    cut = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    sequence = found[0].window.sequence
    assert [row.split("\t")[1] for row in cut if row] == [sequence[:6], sequence[12:18]] * 3


# ---------------------------------------------------------------- whole or not at all


def test_nothing_was_read(tmp_path: Path) -> None:
    """Every file is there, and valid where a format knows the empty."""
    folder = make(tmp_path / "b")
    assert list(pysam.TabixFile(str(folder / "important.bed.gz")).fetch()) == []
    assert pysam.BGZFile(str(folder / "sequences.fa.gz")).read() == b""
    assert (folder / "sequences.fa.gz.fai").read_bytes() == b""
    assert json.loads((folder / "config.json").read_text())["defaultSession"]["views"] == []


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    """An error leaves nothing; a folder with content is never touched."""
    with pytest.raises(KeyboardInterrupt), open_bundle(tmp_path / "b", RANKS) as writer:
        writer.write(explain([0.9]))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(WyrError, match="not empty"):
        make(tmp_path / "full", explain([0.9]))


def test_igv_js_is_checked(tmp_path: Path) -> None:
    """The module build, another file and no file are refused before any work."""
    good, module, other = (tmp_path / name for name in ("igv.min.js", "igv.esm.min.js", "other.js"))
    good.write_text(IGV)
    module.write_text(f"{IGV}export {{igv as default}};")
    other.write_bytes(b"\xff\xfe")
    check_bundle(tmp_path / "b", good)
    for path in (module, other, tmp_path / "none.js"):
        with pytest.raises(WyrError, match=path.name):
            check_bundle(tmp_path / "b", path)
    assert (make(tmp_path / "b", explain([0.9]), igv_js=good) / "igv.min.js").read_text() == IGV


# ---------------------------------------------------------------- what browsers are told


def files_named(value: object) -> Iterator[str]:
    """Addresses in a configuration."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("uri", "url") or key.endswith("URL"):
                yield inner
            else:
                yield from files_named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from files_named(inner)


def test_descriptions_name_what_is_there(tmp_path: Path, scores: str) -> None:
    """All three browsers are led to files of the folder, to the first read and to the range of the scores."""
    found = explain([0.9, -0.9], name="a:b", start=6, target=Target("A", 1, 0.5, "B"))
    folder = make(tmp_path / "b", found, model="<m>", notice="</script><b>")
    there = set(os.listdir(folder))
    session = ElementTree.parse(folder / "session.xml").getroot()
    assert session.get("locus") == "a_b:7-18" and session.get("genome") in there
    resources = [element.get("path") for element in session.iter("Resource")]
    assert set(resources) <= there and len(resources) == 2
    config = json.loads((folder / "config.json").read_text())
    assert len(found_files := set(files_named(config))) >= 6 and found_files <= there
    (view,) = config["defaultSession"]["views"]
    assert view["displayedRegions"] == [{"refName": "a_b", "start": 6, "end": 18, "assemblyName": "wyr"}]
    tracks = {track["trackId"] for track in config["tracks"]} | {"wyr-sequences"}
    assert {track["configuration"] for track in view["tracks"]} == tracks
    page = (folder / "index.html").read_text()
    (block,) = re.findall(r'id="data">(.*?)</script>', page)
    content = json.loads(block)
    assert set(files_named(content["igv"])) <= there
    assert content["igv"]["locus"] == "a_b:7-18" and content["igv"]["tracks"][0]["min"] == -1
    assert content["title"] == "wyr explain: <m>" and content["notice"] == "</script><b>"
    for name in re.findall(r"^\| `([^`]+)`", (folder / "README.md").read_text(), flags=re.MULTILINE):
        assert name in there
    assert not re.search(r"\{\w+\}", (folder / "README.md").read_text())


# ---------------------------------------------------------------- the server, and the page in a browser


@contextmanager
def serve(folder: Path) -> Iterator[int]:
    """The folder's own server on a free port."""
    command = [sys.executable, str(folder / "serve.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            yield int(port)
        finally:
            process.terminate()


def test_server_answers_ranges(tmp_path: Path) -> None:
    """Pieces from the start, the middle, the end and beyond; whole files; nothing outside of the folder."""
    folder = make(tmp_path / "b", explain([0.9] * 50))
    (tmp_path / "secret").write_text("x")
    data = (folder / "sequences.fa.gz").read_bytes()
    with serve(folder) as port, ExitStack() as stack:
        connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)))

        def get(path: str, asked: str | None = None, method: str = "GET") -> tuple[int, bytes, str | None]:
            connection.request(method, path, headers={"Range": asked} if asked else {})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Range")

        n = len(data)
        assert get("/sequences.fa.gz") == (200, data, None)
        assert get("/sequences.fa.gz", "bytes=0-3") == (206, data[:4], f"bytes 0-3/{n}")
        assert get("/sequences.fa.gz", "bytes=10-") == (206, data[10:], f"bytes 10-{n - 1}/{n}")
        assert get("/sequences.fa.gz", "bytes=-5") == (206, data[-5:], f"bytes {n - 5}-{n - 1}/{n}")
        assert get("/sequences.fa.gz", f"bytes=5-{10 * n}") == (206, data[5:], f"bytes 5-{n - 1}/{n}")
        assert get("/sequences.fa.gz", f"bytes={n}-")[0] == 416
        assert get("/sequences.fa.gz", "bytes=3-1")[0] == 416
        assert get("/sequences.fa.gz", "bytes=0-3", "HEAD") == (206, b"", f"bytes 0-3/{n}")
        assert get("/sequences.fa.gz", "lines=1-2")[0] == 200
        assert get("/none", "bytes=0-3")[0] == 404
        assert get("/../secret")[0] == 404 and get("/%2e%2e/secret", "bytes=0-3")[0] == 404
        assert get("/")[1].startswith(b"<!DOCTYPE html>")


@needs_chromium
def test_page_says_what_is_missing(tmp_path: Path) -> None:
    """Opened as a file, and served without igv.js; hostile names are text."""
    name = "</script><img src=x onerror=\"document.title='OWNED'\">"
    folder = make(tmp_path / "b", at(explain([0.9], name=name), 0), at(explain([0.9], name="b"), 1))
    dom = Dom(load((folder / "index.html").as_uri(), tmp_path / "p1"))
    assert "python3 serve.py" in dom.by_id("help")
    assert dom.tags("strong") == [name, "b"] and dom.tags("title") == ["wyr explain"]
    assert not dom.tags("img")
    with serve(folder) as port:
        dom = Dom(load(f"http://127.0.0.1:{port}/", tmp_path / "p2"))
    assert "igv.min.js" in dom.by_id("help")


@needs_chromium
def test_page_starts_igv(tmp_path: Path) -> None:
    """With a stand-in for igv.js, the page hands over its configuration."""
    stand_in = tmp_path / "igv.min.js"
    stand_in.write_text(
        "window.igv = { createBrowser: async (place, config) => {"
        "place.textContent = config.locus + ' ' + config.tracks.length; return { search: () => {} }; } };"
    )
    folder = make(tmp_path / "b", explain([0.9, 0.9]), igv_js=stand_in)
    with serve(folder) as port:
        dom = Dom(load(f"http://127.0.0.1:{port}/", tmp_path / "p"))
    assert dom.by_id("browser") == "read:1-12 2" and dom.by_id("help") == ""


IGV_DRIVER = """
const wait = setInterval(async () => {
  if (document.documentElement.dataset.ready !== "yes") return;
  clearInterval(wait);
  const say = document.body.dataset;
  say.letters = await browser.genome.getSequence("r2", 3, 20);
  const wanted = ["score", "important"];
  const tracks = browser.trackViews.map((view) => view.track).filter((t) => wanted.includes(t.name));
  say.tracks = JSON.stringify(tracks.map((t) => t.name).sort());
  const score = tracks.find((t) => t.name === "score");
  const found = await score.getFeatures("r0", 0, 180, 0.1);
  say.scores = JSON.stringify(found.map((f) => [f.start, f.end, Number(f.value.toFixed(3))]));
  say.canvases = document.getElementById("browser").shadowRoot.querySelectorAll("canvas").length;
}, 100);
"""


@needs_chromium
@pytest.mark.skipif("WYR_IGV_JS" not in os.environ, reason="WYR_IGV_JS does not name an igv.min.js")
def test_igv_shows_letters_and_asks_nobody_else(tmp_path: Path, scores: str) -> None:
    """The real igv.js, with no network: it draws the tracks and complains of nothing."""
    found = [at(explain([0.9, 0.1, 0.8] * 10, name=f"r{i}"), i) for i in range(3)]
    folder = make(tmp_path / "b", *found, igv_js=Path(os.environ["WYR_IGV_JS"]))
    (folder / "index.html").write_text(with_driver((folder / "index.html").read_text(), IGV_DRIVER))
    with serve(folder) as port:
        dom = Dom(load(f"http://127.0.0.1:{port}/", tmp_path / "p", wait_ms=20_000))
    assert dom.by_id("help") == ""
    (body,) = [attributes for tag, attributes, _ in dom.elements if tag == "body"]
    assert body["data-letters"] == found[2].window.sequence[3:20]
    assert json.loads(body["data-tracks"]) == ["important", "score"]
    values = [v for first, last, v in json.loads(body["data-scores"]) for _ in range(int(first), int(last))]
    assert values == [round(float(v), 3) for v in np.repeat(found[0].mask, 6)]
    assert int(body["data-canvases"]) >= 3
