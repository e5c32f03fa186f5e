"""All outputs of a run together: which format, how many times, equal and whole."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import pytest
from findings import HOSTILE, TAXONOMY, explain, random_reads

from wyrcli import results as results_module
from wyrcli.cli import main
from wyrcli.errors import WyrError
from wyrcli.explanation import Explanation, Target
from wyrcli.formats import FORMATS, Settings, UnknownFormatError, find_format, open_format
from wyrcli.results import Requests, Results, open_results

Run = Callable[..., tuple[int, str, str]]

needs_bigwig = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import pyBigWig"], capture_output=True).returncode != 0,
    reason="pyBigWig is not installed",
)

NAMES = (
    "a.bed", "b.bed.gz", "c.bedgraph.gz", "d.bw", "e.gff3.gz", "f.tsv.gz", "g.parquet", "h.jsonl",
    "i.npz", "j.bam", "k.jsonl.gz",
)  # fmt: skip
INDEXED = ("b.bed.gz", "c.bedgraph.gz", "e.gff3.gz", "f.tsv.gz")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``wyr`` in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve simulated reads, one of them long, as FASTQ with qualities, and two that are skipped."""
    folder = tmp_path_factory.mktemp("results")
    assert main(["simulate", str(folder / "sim"), "--seed", "77", "--reads", "12", "-q"]) == 0
    lines = (folder / "sim" / "reads.fasta").read_text().splitlines()
    records = list(zip([line[1:].split()[0] for line in lines[::2]], lines[1::2], strict=True))
    gap = "N" * 3000
    records[3] = ("long", records[3][1] + gap + records[4][1] + records[5][1][:700])
    records.insert(5, ("short", "ACG"))
    records.append(("nothing", "N" * 50))
    letters = random.Random(1)
    path = folder / "reads.fq"
    path.write_text(
        "".join(f"@{n}\n{s}\n+\n{''.join(letters.choices('ABCDEFGHI', k=len(s)))}\n" for n, s in records)
    )
    return path


def every_output(folder: Path, names: tuple[str, ...] = NAMES) -> list[object]:
    """Options for all of them."""
    options: list[object] = [part for name in names for part in ("-o", folder / name)]
    for option in ("tokens", "predictions", "kraken-output", "kraken-report", "json"):
        options += [f"--{option}", folder / f"{option}.txt"]
    return options


def content(path: Path) -> object:
    """What a file says, without what differs from run to run."""
    if path.suffix == ".bam":
        with pysam.AlignmentFile(str(path), "rb", check_sq=False) as file:
            return [segment.to_string() for segment in file.fetch(until_eof=True)]
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_json()
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return path.read_bytes()


# ---------------------------------------------------------------- which format


@pytest.mark.parametrize(
    ("path", "default", "name"),
    [
        ("-", None, "bed"),
        ("-", "jsonl", "jsonl"),
        ("/dev/null", None, "bed"),
        ("no_extension", None, "bed"),
        ("dataset_1.dat", "tsv", "tsv"),
        ("x.BED.GZ", "tsv", "bed"),
        ("x.bg", None, "bedgraph"),
        ("x.bigWig", None, "bigwig"),
        ("x.gff", None, "gff3"),
        ("x.parquet", None, "parquet"),
        ("some.bed/x.gff3", None, "gff3"),
    ],
)
def test_extensions_say_the_format(path, default, name):
    """In any case of letters, behind .gz; a format that was named is for names that say nothing."""
    assert find_format(path, default).name == name


@pytest.mark.parametrize(
    ("path", "default", "wanted"),
    [
        ("x.xlsx", None, "expected .bed, .bedgraph, .bw"),
        ("x.bam.gz", None, "leave off .gz"),
        ("-", "excel", "unknown format 'excel'; expected bed"),
    ],
)
def test_unknown_formats(path, default, wanted):
    """One line that names the known ones."""
    with pytest.raises(UnknownFormatError, match=wanted):
        find_format(path, default)


def test_names_and_suffixes_are_told_apart():
    """No two formats share one."""
    suffixes = [suffix for format in FORMATS for suffix in format.suffixes]
    assert len(set(suffixes)) == len(suffixes) and all(s == s.lower() for s in suffixes)
    assert len({format.name for format in FORMATS}) == len(FORMATS)


def test_nucleotides_are_not_proteins(tmp_path):
    """A model of proteins writes no BAM."""
    settings = Settings(TAXONOMY, alphabet="protein")
    for name in ("x.bam", "x.npz"):
        with pytest.raises(WyrError, match="holds nucleotides, and this is a model of proteins"):
            open_format(None, str(tmp_path / name), find_format(name), settings)  # type: ignore[arg-type]


# ---------------------------------------------------------------- a whole run


@needs_bigwig
def test_every_output_of_one_run(run: Run, reads: Path, tmp_path: Path) -> None:
    """Each is there and whole, they agree with each other, and no read is lost."""
    code, out, err = run("explain", reads, *every_output(tmp_path), "--scores")
    assert (code, out) == (0, ""), err
    assert "rows are shorter than 1,500 bp" in err
    for name in INDEXED:
        assert (tmp_path / f"{name}.tbi").exists()
    made = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in made if ".tmp." in name] and "i.onehot.npz" in made

    frame = pd.read_parquet(tmp_path / "g.parquet")
    tokens = pd.read_csv(tmp_path / "tokens.txt", sep="\t")
    assert content(tmp_path / "f.tsv.gz") == (tmp_path / "tokens.txt").read_bytes()
    assert content(tmp_path / "b.bed.gz") == (tmp_path / "a.bed").read_bytes()
    assert content(tmp_path / "k.jsonl.gz") == (tmp_path / "h.jsonl").read_bytes()
    exploded = frame.explode(["starts", "stops", "score"], ignore_index=True)
    assert (exploded["starts"] == tokens["start"]).all()
    assert np.allclose(exploded["score"].astype(float), tokens["score"], atol=0.51e-4)

    objects = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert [o["name"] for o in objects] == frame["name"].tolist()
    assert sum(len(o["scores"]) for o in objects) == len(tokens)
    chunks = [(o["name"], c["start"], c["stop"]) for o in objects for c in o["chunks"]]
    bed = [line.split("\t")[:3] for line in (tmp_path / "a.bed").read_text().splitlines()[1:]]
    assert chunks == [(name, int(a), int(b)) for name, a, b in bed]
    gff3 = [
        line.split("\t")
        for line in gzip.decompress((tmp_path / "e.gff3.gz").read_bytes()).decode().splitlines()[1:]
    ]
    assert chunks == [(row[0], int(row[3]) - 1, int(row[4])) for row in gff3]

    import pyBigWig

    graph = [line.split("\t") for line in content(tmp_path / "c.bedgraph.gz").decode().splitlines()[1:]]  # type: ignore[attr-defined]
    with pyBigWig.open(str(tmp_path / "d.bw")) as file:
        assert set(file.chroms()) == set(frame["name"])
        for name, start, stop, score in graph[::7]:
            assert np.allclose(file.values(name, int(start), int(stop)), float(score), atol=0.51e-4)
    lengths = {name: len(sequence) for name, sequence, _ in map(
        lambda record: (record.name, record.sequence, record.quality), pysam.FastxFile(str(reads))
    )}  # fmt: skip
    with pysam.AlignmentFile(str(tmp_path / "j.bam"), "rb", check_sq=False) as file:
        segments = {segment.query_name: segment for segment in file.fetch(until_eof=True)}
    for record in pysam.FastxFile(str(reads)):
        if record.name in segments:
            segment = segments[record.name]
            qualities = pysam.qualities_to_qualitystring(segment.query_qualities)
            known = [i for i, letter in enumerate(record.sequence) if letter != "N"]
            assert segment.query_sequence == record.sequence
            assert [qualities[i] for i in known] == [record.quality[i] for i in known]
    kraken = [line.split("\t") for line in (tmp_path / "kraken-output.txt").read_text().splitlines()]
    assert {row[1]: int(row[3]) for row in kraken} == lengths and len(kraken) == len(lengths)
    for row in kraken:
        assert sum(int(pair.split(":")[1]) for pair in row[4].split(" ")) == int(row[3])
        if row[1] in segments:
            assert (row[0], int(row[2])) == ("C", segments[row[1]].get_tag("wt"))
    assert [row[1] for row in kraken if row[0] == "U"] == ["short", "nothing"]
    report = json.loads((tmp_path / "json.txt").read_text())
    assert report["written"]["windows"] == len(frame) and report["written"]["chunks"] == len(chunks)


@needs_bigwig
@pytest.mark.parametrize("options", [("--batch-size", "1"), ("--batch-size", "5", "--threads", "2")])
def test_batches_and_threads_change_nothing(run: Run, reads: Path, tmp_path: Path, options) -> None:
    """Every file says the same, in the same order."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, more in zip(folders, [(), options], strict=True):
        folder.mkdir()
        assert run("explain", reads, *every_output(folder), "--precision", "fp32", "-q", *more)[0] == 0
    assert [p.name for p in sorted(folders[0].iterdir())] == [p.name for p in sorted(folders[1].iterdir())]
    for path in sorted(folders[0].iterdir()):
        other = folders[1] / path.name
        if path.name == "json.txt" or path.suffix in (".tbi", ".bw"):
            continue
        if path.suffix == ".npz":
            with np.load(path) as one, np.load(other) as two:
                assert all(np.allclose(one[k], two[k], atol=1e-5) for k in ("arr_0",))
        elif path.suffix == ".parquet":
            one, two = pd.read_parquet(path), pd.read_parquet(other)
            assert np.allclose(np.concatenate(one["score"]), np.concatenate(two["score"]), atol=1e-5)
            assert one[["name", "start", "stop", "label"]].equals(two[["name", "start", "stop", "label"]])
        else:
            assert_alike(words(path), words(other))


def words(path: Path) -> list[str]:
    """All words of a text or a BAM file; a bedGraph base by base, for equal neighbours share a row."""
    if path.suffix == ".bam":
        return " ".join(content(path)).replace(",", " ").replace(":", " ").split()  # type: ignore[arg-type]
    data = content(path)
    assert isinstance(data, bytes)
    if "bedgraph" in path.name:
        rows = [line.split("\t") for line in data.decode().splitlines()[1:]]
        return [v for _, start, stop, value in rows for v in [value] * (int(stop) - int(start))]
    for sign in ",:;{}[]":
        data = data.replace(sign.encode(), b" ")
    return data.decode().split()


def assert_alike(one: list[str], two: list[str]) -> None:
    """Equal words; numbers that networks computed may differ in the last digit that is printed.

    A matrix product of another shape sums in another order, even in fp32.
    """
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        if a != b:
            # a colour or a score of 1000, of tag ws, or a fraction
            assert abs(float(a) - float(b)) <= (1.01 if a.isdigit() else 1.01e-4), (a, b)


@needs_bigwig
def test_empty_input_makes_valid_outputs(run: Run, tmp_path: Path) -> None:
    """Each format can say that there was nothing."""
    nothing = tmp_path / "none.fasta"
    nothing.touch()
    lift = [
        "--lift",
        tmp_path / "l.bed.gz",
        "--coverage",
        tmp_path / "c.bw",
        "--coverage-depth",
        tmp_path / "c.bg",
    ]
    code, out, err = run(
        "explain", nothing, *every_output(tmp_path), *lift, "--safe-names", tmp_path / "s.tsv"
    )
    assert (code, out) == (0, "") and "no read" in err
    assert len(pd.read_parquet(tmp_path / "g.parquet")) == 0
    assert np.load(tmp_path / "i.npz")["arr_0"].shape == (0, 4, 1500)
    assert content(tmp_path / "j.bam") == []
    for name in (*INDEXED, "l.bed.gz"):
        with pysam.TabixFile(str(tmp_path / name)) as file:
            assert file.contigs == []
    import pyBigWig

    for name in ("d.bw", "c.bw"):
        with pyBigWig.open(str(tmp_path / name)) as file:
            assert file.isBigWig() and file.header()["nBasesCovered"] == 0
    assert (tmp_path / "c.bg").read_text() == "#chrom\tstart\tend\tdepth\n"
    assert (tmp_path / "s.tsv").read_text() == "#safe_name\tname\n"
    assert (tmp_path / "kraken-report.txt").read_text().splitlines()[1].endswith("root")
    assert (tmp_path / "kraken-output.txt").read_text() == (tmp_path / "h.jsonl").read_text() == ""
    for name in ("a.bed", "b.bed.gz"):
        if shutil.which("bedtools"):
            done = subprocess.run(
                ["bedtools", "sort", "-i", tmp_path / name], capture_output=True, check=True
            )
            assert not done.stderr


def test_a_format_on_stdout(reads: Path) -> None:
    """Text and binary, and nothing else on it."""
    for name in ("jsonl", "bam"):
        command = [sys.executable, "-m", "wyrcli", "explain", str(reads), "--format", name, "-q"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        assert b"error" not in done.stderr
        start = {"jsonl": b'{"record"', "bam": b"\x1f\x8b"}[name]
        assert done.stdout.startswith(start)


def test_usage_errors(run: Run, reads: Path, tmp_path: Path) -> None:
    """Exit 2 for names that say nothing, 1 for what cannot be written."""
    code, out, err = run("explain", reads, "-o", tmp_path / "x.xlsx")
    assert (code, out) == (2, "") and "expected .bed" in err
    assert run("explain", reads, "--format", "excel")[0] == 2
    for arguments, wanted in [
        (["-o", tmp_path / "x.npz", "-o", tmp_path / "x.onehot.npz"], "two outputs"),
        (["-o", "-", "-o", "-"], "two outputs"),
        (["-o", tmp_path / "x.npz", "--tokens", tmp_path / "x.onehot.npz"], "two outputs"),
        (["--coverage", tmp_path / "x.bam"], "is to be a track"),
        (["--lift", tmp_path / "x.bed"], "--lift needs aligned reads"),
        (["--coverage", tmp_path / "x.bw"], "--coverage needs aligned reads"),
    ]:
        code, _, err = run("explain", reads, *arguments, "-q")
        assert code == 1 and wanted in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


@needs_bigwig
@pytest.mark.parametrize("options", [[], ["--show"], ["--format", "bam"], ["-o", "x.bed", "--html", "-"]])
def test_no_stdout(reads: Path, tmp_path: Path, options: list[str]) -> None:
    """A shell may close it: one line, and no traceback; who writes files does not need it."""
    for command, code in ((options, 1), (["-o", "x.bed"], 0)):
        done = subprocess.run(
            [
                "sh",
                "-c",
                'exec "$@" >&-',
                "sh",
                sys.executable,
                "-m",
                "wyrcli",
                "explain",
                reads,
                "-q",
                *command,
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        lines = [line for line in done.stderr.splitlines() if "error" in line or "Traceback" in line]
        assert done.returncode == code and len(lines) == code
        assert code == 0 or "there is no standard output" in lines[0]


def test_safe_names(run: Run, tmp_path: Path) -> None:
    """Names that come twice and names that tools choke on: all outputs have safe ones, the map has both."""
    generator = random.Random(2)
    names = ["track1", "twice", "a:1-2", "twice", "x" * 300]
    path = tmp_path / "x.fa"
    path.write_text(
        "".join(f">{n}\n{''.join(generator.choices('ACGT', k=900))}\n" for n in names) + ">short\nAC\n"
    )
    folder = tmp_path / "out"
    folder.mkdir()
    options = [*every_output(folder), "--threshold", "0.05", "-q"]
    code, _, err = run("explain", path, *options)
    assert code == 1 and "--safe-names" in err and not list(folder.iterdir())
    code, _, err = run("explain", path, *options, "--safe-names", folder / "names.tsv", "--index")
    assert code == 0 and "bedtools" not in err
    rows = [line.split("\t") for line in (folder / "names.tsv").read_text().splitlines()[1:]]
    assert rows == [[f"r{i + 1}", name] for i, name in enumerate([*names, "short"])]
    with pysam.TabixFile(str(folder / "b.bed.gz")) as file:
        assert file.contigs == ["r1", "r2", "r3", "r4", "r5"]
    assert pd.read_csv(folder / "predictions.txt", sep="\t")["#name"].tolist() == [r[0] for r in rows]
    assert [line.split("\t")[1] for line in (folder / "kraken-output.txt").read_text().splitlines()] == [
        r[0] for r in rows
    ]


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--index"], 1), (["--no-index"], 0)])
def test_names_that_come_back_have_no_index(run: Run, tmp_path: Path, options, code) -> None:
    """A warning, an error where it was asked for, nothing where it was not; an older index never stays."""
    generator = random.Random(3)
    sequences = ["".join(generator.choices("ACGT", k=600)) for _ in range(3)]
    path, tokens = tmp_path / "x.fa", tmp_path / "t.tsv.gz"
    path.write_text("".join(f">{n}\n{s}\n" for n, s in zip("aba", sequences, strict=True)))
    tokens.write_bytes(b"old")
    (tmp_path / "t.tsv.gz.csi").write_bytes(b"old")
    found, _, err = run("explain", path, "-o", tokens, "-q", *options)
    assert found == code
    assert ("has no index: its rows are not sorted" in err) == (options != ["--no-index"])
    assert "E::" not in err
    names = {p.name for p in tmp_path.iterdir()}
    if code:
        assert names == {"x.fa", "t.tsv.gz", "t.tsv.gz.csi"} and tokens.read_bytes() == b"old"
    else:
        assert names == {"x.fa", "t.tsv.gz"}


# ---------------------------------------------------------------- the object


def write(
    folder: Path, explanations: list[Explanation], names: tuple[str, ...], **options: object
) -> Results:
    """Explanations to outputs."""
    settings = Settings(TAXONOMY, window_bp=24, **options)  # type: ignore[arg-type]
    requests = Requests([str(folder / name) for name in names], predictions=str(folder / "p.tsv"))
    with open_results(requests, settings) as results:
        for explanation in explanations:
            results.write(explanation)
    return results


@pytest.mark.parametrize("name", ["été", "x" * 255])
def test_no_output_is_left_where_one_cannot_be(tmp_path, name):
    """A name that BAM cannot hold is refused before the outputs behind it are whole."""
    with pytest.raises(WyrError, match="--safe-names"):
        write(tmp_path, [explain("a", [0.9]), explain(name, [0.9], record=1)], ("x.bam", "y.bed", "z.tsv"))
    assert not list(tmp_path.iterdir())


def test_targets_of_one_window_share_its_rows(tmp_path):
    """Sorted by start, so that an index fits; predictions have a row for each."""
    first, second = Target("T4", 2, 0.25), Target("Bacillus", 2, 0.5, against="T4")
    explanations = [
        explain("r", masks, record=record, start=start, target=target)
        for record in range(2)
        for start in (0, 24)
        for target, masks in ((first, [0.9, 0.1, 0.9, 0.1]), (second, [0.1, -0.9, 0.9, 0.9]))
    ]
    results = write(
        tmp_path, explanations[:4], ("a.bed.gz", "b.gff3.gz", "c.tsv.gz", "d.jsonl"), with_target=True
    )
    assert (results.counts.windows, results.counts.chunks, results.counts.bases) == (2, 8, 2 * 24)
    for name in ("a.bed.gz", "b.gff3.gz", "c.tsv.gz"):
        assert (tmp_path / f"{name}.tbi").exists()
    rows = [line.split("\t") for line in content(tmp_path / "a.bed.gz").decode().splitlines()[1:5]]
    assert [(row[1], row[3]) for row in rows] == [("0", "T4"), ("6", "T4"), ("12", "T4"), ("12", "Bacillus")]
    tokens = pd.read_csv(tmp_path / "c.tsv.gz", sep="\t")
    assert tokens["target"].tolist() == ["T4", "Bacillus-T4"] * 8 and tokens["start"].is_monotonic_increasing
    table = pd.read_csv(tmp_path / "p.tsv", sep="\t")
    assert table["target"].tolist() == ["T4", "Bacillus"] * 2
    assert table["target_against"].tolist() == [".", "T4"] * 2
    assert table["target_probability"].tolist() == [0.25, 0.5] * 2
    objects = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [o["target"]["name"] for o in objects] == ["T4", "Bacillus"] * 2
    for name in ("x.bedgraph", "x.npz", "x.bam"):
        with pytest.raises(WyrError, match=r"one score per base, and 2 targets"):
            write(tmp_path, explanations, (name,), with_target=True)
        assert not (tmp_path / name).exists()


@needs_bigwig
@pytest.mark.parametrize("order", [1, -1])
def test_aligned_reads(tmp_path, order):
    """BAM records with tags, chunks on the reference and coverage; an index where reads are sorted."""
    findings = random_reads(80)[::order]
    warnings: list[str] = []
    coverage = order == 1  # needs sorted reads
    requests = Requests(
        [str(tmp_path / "x.bam"), str(tmp_path / "x.bed")],
        lift=str(tmp_path / "lift.bed.gz"),
        coverage=str(tmp_path / "mean.bedgraph.gz") if coverage else None,
        depth=str(tmp_path / "depth.bw") if coverage else None,
    )
    with open_results(requests, Settings(TAXONOMY, warn=warnings.append)) as results:
        for finding in findings:
            results.write(finding.explanation)
    assert results.lifted is not None and results.lifted.chunks > 100
    assert results.lifted.chunks + results.lifted.without_place == results.counts.chunks
    with pysam.AlignmentFile(str(tmp_path / "x.bam")) as file:
        segments = list(file)
    assert [s.query_name for s in segments] == [f.window.name for f in findings]
    for segment, finding in zip(segments, findings, strict=True):
        assert segment.cigarstring == finding.window.source.cigarstring
        scaled = np.minimum((finding.explanation.mask * 256).astype(int), 255)
        assert segment.get_tag("ws").tolist() == scaled.tolist()
    assert (tmp_path / "lift.bed.gz.tbi").exists() == (order == 1)
    assert len(warnings) == (order == -1) and all("lift.bed.gz has no index" in w for w in warnings)
    if coverage:
        assert (tmp_path / "mean.bedgraph.gz.tbi").exists()
        pysam.index(str(tmp_path / "x.bam"))  # still sorted


def test_unsure_windows(tmp_path):
    """No chunk has a row, and the predictions say why; what they lean to stands there."""
    explanations = [
        explain("a", [0.9, 0.1, 0.1, 0.1], sure=(False,) * 3),
        explain("b", [0.9, 0.1, 0.1, 0.1], record=1, sure=(True, False, False)),
    ]
    results = write(tmp_path, explanations, ("a.bed",))
    assert (results.counts.unsure, results.counts.chunks, results.counts.bases) == (1, 1, 6)
    (row,) = [line.split("\t") for line in (tmp_path / "a.bed").read_text().splitlines()[1:]]
    assert (row[0], row[3]) == ("b", "Viruses")
    table = pd.read_csv(tmp_path / "p.tsv", sep="\t")
    assert table["status"].tolist() == ["unsure", "ok"] and table["genus"].tolist() == ["Nyavirus"] * 2
    assert "target" not in table.columns


def test_skipped_records_keep_their_place(tmp_path):
    """Also where the reader is far ahead of the writer."""
    requests = Requests([str(tmp_path / "x.bed")], predictions=str(tmp_path / "p.tsv"))
    with open_results(requests, Settings(TAXONOMY)) as results:
        for record in (0, 2, 5):
            results.skip(record, f"r{record}", 3, "short")
        for record in (1, 3, 4):
            results.write(explain(f"r{record}", [0.9], record=record))
    names = [line.split("\t")[0] for line in (tmp_path / "p.tsv").read_text().splitlines()[1:]]
    assert names == [f"r{i}" for i in range(6)]


@pytest.mark.parametrize("name", HOSTILE)
@needs_bigwig
def test_no_output_breaks_over_a_name(tmp_path, name):
    """All formats, all names; a BAM may refuse."""
    names = tuple(n for n in NAMES if not n.endswith("bam"))
    write(tmp_path, [explain(name, [0.9, 0.1, 0.9, 0.1])], names)
    for text in ("a.bed", "c.bedgraph.gz", "e.gff3.gz", "f.tsv.gz"):
        data = content(tmp_path / text)
        assert b"\x1b" not in data and b"\r" not in data  # type: ignore[operator]
        rows = [row for row in data.decode().split("\n") if row and not row.startswith("#")]  # type: ignore[attr-defined]
        assert len({row.count("\t") for row in rows}) <= 1


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, GeneratorExit])
@needs_bigwig
def test_a_failure_leaves_no_output(tmp_path, failure):
    """Of any format, nor a temporary file."""
    requests = Requests(
        [str(tmp_path / name) for name in NAMES],
        tokens=str(tmp_path / "t.tsv.gz"),
        kraken_output=str(tmp_path / "k"),
        kraken_report=str(tmp_path / "r"),
        lift=str(tmp_path / "l.bed.gz"),
        coverage=str(tmp_path / "c.bw"),
        safe_names=str(tmp_path / "s"),
    )
    with pytest.raises(failure), open_results(requests, Settings(TAXONOMY)):
        raise failure
    assert not list(tmp_path.iterdir())


@needs_bigwig
def test_memory_does_not_grow_with_the_input(tmp_path, monkeypatch):
    """Ten times the windows need no more of it, with every output open."""
    monkeypatch.setattr("wyrcli.columnar.MAX_SITES", 1000)
    monkeypatch.setattr("wyrcli.motifs._BLOCK", 16)
    monkeypatch.setattr("wyrcli.tracks.MAX_BIGWIG_SEQUENCES", 10**9)

    def peak(n_windows: int) -> int:
        folder = tmp_path / str(n_windows)
        folder.mkdir()
        masks = np.random.default_rng(0).random(50).astype(np.float32)
        requests = Requests(
            [str(folder / name) for name in NAMES],
            predictions=str(folder / "p"),
            kraken_output=str(folder / "k"),
            kraken_report=str(folder / "r"),
        )
        tracemalloc.start()
        with open_results(requests, Settings(TAXONOMY, window_bp=300)) as results:
            for number in range(n_windows):
                # Twenty long records, so that what is kept per record (names in bigWig) stays the same.
                record, place = divmod(number, n_windows // 20)
                results.write(explain(f"r{record}", masks, record=record, start=300 * place))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    monkeypatch.setattr(results_module, "open_format", _without_bam(results_module.open_format))
    small, large = peak(100), peak(1000)
    assert large < 1.25 * small + 200_000


def _without_bam(open_one: Callable[..., object]) -> Callable[..., object]:
    """A BAM record is held whole, so long ones are no part of the bound."""

    def open_other(stack, path, format, settings):
        return (lambda findings: None) if format.name == "bam" else open_one(stack, path, format, settings)

    return open_other
