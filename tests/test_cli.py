"""The commands as a user meets them: exit codes, streams, files, and the whole path end to end."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from toy import TAXONOMY, TOKENIZER, explanandum, labelled
from toy import explainer as toy_explainer

from wyrcli import __version__
from wyrcli.checkpoint import default_model, save_checkpoint, save_explainer
from wyrcli.cli import main
from wyrcli.dataset import LabelledWindows, _Places
from wyrcli.runs import RunFolder, State
from wyrcli.writers import BED_COLUMNS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``wyr`` in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def random_sequence(length: int, seed: int) -> str:
    """Uniform random bases."""
    return "".join(random.Random(seed).choices("ACGT", k=length))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four simulated reads of a seed that no training used."""
    folder = tmp_path_factory.mktemp("cli") / "sim"
    assert main(["simulate", str(folder), "--seed", "991", "--reads", "24", "-q"]) == 0
    return folder


def wyr(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run ``wyr`` as a process of its own."""
    command = [sys.executable, "-m", "wyrcli", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


# ---------------------------------------------------------------- help, version, usage


def test_version_is_one_line_on_stdout(run: Run) -> None:
    """Workflow managers grep it."""
    assert run("--version") == (0, f"wyr {__version__}\n", "")


def test_help_breaks_no_line_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal that is narrower than the code, every line of a paragraph but its last is full."""
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("evaluate", "--help")
    lines = [line.strip() for line in out.split("Options")[0].splitlines()]
    for line, following in pairwise(lines):
        if line and following:
            assert len(line) + 1 + len(following.split()[0]) > 76


def test_help_of_every_command_names_its_options(run: Run) -> None:
    """The options that the README speaks of exist."""
    wanted = {
        "explain": [
            "--tokens",
            "--predictions",
            "--json",
            "--rank",
            "--threshold",
            "--min-length",
            "--operator",
        ],
        "evaluate": ["--table", "--data", "--tsv"],
        "simulate": ["--seed", "--reads"],
        "prepare": ["--labels", "--taxonomy"],
        "finetune": ["--from", "--config"],
        "train-explainer": ["--explainer", "--operator", "--preset"],
    }
    for command, options in wanted.items():
        code, out, _ = run(command, "--help")
        assert code == 0
        assert [o for o in options if o not in out] == []


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["explain"], ["explain", "x.fa", "--threshold", "2"], ["evaluate"]]
)
def test_usage_errors_exit_2(run: Run, arguments: list[str]) -> None:
    """Wrong words on the command line are told apart from wrong files."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


def test_help_does_not_import_torch() -> None:
    """It must start at once."""
    code = "import sys, wyrcli.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------- explain


def test_explain_writes_bed_to_stdout(run: Run, simulated: Path) -> None:
    """Without -o the BED goes to stdout and everything else to stderr."""
    code, out, err = run("explain", simulated / "reads.fasta")
    assert code == 0
    header, *rows = out.splitlines()
    assert header == "#" + "\t".join(BED_COLUMNS)
    assert len(rows) > 24
    for row in rows:
        chrom, start, end, _, score, strand, thick_start, thick_end, _, mean, lineage = row.split("\t")
        assert chrom.startswith("read")
        assert 0 <= int(start) < int(end) <= 1500
        assert (thick_start, thick_end, strand) == (start, end, ".")
        assert int(score) == round(1000 * float(mean)) or abs(int(score) - 1000 * float(mean)) <= 0.6
        assert 0.5 <= float(mean) <= 1
        assert lineage.count(";") == 2
    assert "demo" in err and "24 reads in: 24 explained" in err


def test_explain_finds_planted_motifs_and_not_decoys(run: Run, simulated: Path, tmp_path: Path) -> None:
    """The point of it all: chunks cover most planted bases and few others."""
    bed = tmp_path / "important.bed"
    assert run("explain", simulated / "reads.fasta", "-o", bed, "-q") == (0, "", "")

    def bases(path: Path) -> set[tuple[str, int]]:
        rows = (line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#"))
        return {(row[0], i) for row in rows for i in range(int(row[1]), int(row[2]))}

    called, planted, decoys = bases(bed), bases(simulated / "truth.bed"), bases(simulated / "decoys.bed")
    n_bases = 24 * 1500
    background = (len(called) - len(called & planted) - len(called & decoys)) / (
        n_bases - len(planted) - len(decoys)
    )
    assert len(called & planted) / len(planted) > 0.7
    assert len(called) / n_bases < 0.3
    assert background < 0.15
    assert len(called & decoys) / len(decoys) < 0.3


def test_explain_writes_all_outputs(run: Run, simulated: Path, tmp_path: Path) -> None:
    """Tokens tile the reads, predictions have a row per read, and the report accounts for each."""
    bed, tokens, calls, report = (tmp_path / n for n in ("a.bed.gz", "t.tsv.gz", "p.tsv", "r.wyr.json"))
    outputs = ["-o", bed, "--tokens", tokens, "--predictions", calls, "--json", report]
    code, out, _ = run("explain", simulated / "reads.fasta", *outputs)
    assert (code, out) == (0, "")
    with gzip.open(tokens, "rt") as file:
        header, *rows = (line.rstrip("\n").split("\t") for line in file)
    ranks = ["superkingdom", "phylum", "genus"]
    assert header == ["#chrom", "start", "end", "token", "score", *(f"score_{r}" for r in ranks)]
    sequences = (simulated / "reads.fasta").read_text().split("\n")[1::2]
    assert "".join(row[3] for row in rows) == "".join(sequences)
    assert all(abs(float(row[4]) - max(map(float, row[5:]))) < 1e-9 for row in rows)
    labels = [line.split("\t") for line in (simulated / "labels.tsv").read_text().splitlines()[1:]]
    called = [line.split("\t") for line in calls.read_text().splitlines()[1:]]
    assert [row[0] for row in called] == [row[0] for row in labels]
    right = sum(row[4] == truth[2] for row, truth in zip(called, labels, strict=True))
    assert right >= 22
    content = json.loads(report.read_text())
    assert content["read"]["records"] == 24
    assert content["written"]["windows"] == 24
    with gzip.open(bed, "rt") as file:
        assert content["written"]["chunks"] == sum(1 for _ in file) - 1


def test_every_record_is_accounted_for(run: Run, tmp_path: Path) -> None:
    """Empty, short, N-only, lower-case, RNA, IUPAC, long and duplicate records: none is lost, order kept."""
    records = [
        ("empty", ""),
        ("short", "ACG"),
        ("nothing", "N" * 100),
        ("lower", random_sequence(300, 1).lower()),
        ("rna", random_sequence(300, 2).replace("T", "U")),
        ("iupac", random_sequence(100, 3) + "RYSWKM" + random_sequence(100, 4)),
        ("long", random_sequence(4000, 5)),
        ("gap", random_sequence(1500, 6) + "N" * 4500 + random_sequence(1500, 7)),
        ("twice", random_sequence(200, 8)),
        ("twice", random_sequence(210, 9)),
    ]
    reads, calls, tokens, report = (tmp_path / n for n in ("x.fa", "p.tsv", "t.tsv", "r.json"))
    reads.write_text("".join(f">{name} described\n{sequence}\n" for name, sequence in records))
    code, out, err = run("explain", reads, "--predictions", calls, "--tokens", tokens, "--json", report)
    assert code == 0
    rows = [line.split("\t") for line in calls.read_text().splitlines()[1:]]
    order = list(dict.fromkeys(row[0] for row in rows))
    assert order == list(dict.fromkeys(name for name, _ in records))
    assert [row[3] for row in rows[:3]] == ["skipped:empty", "skipped:short", "skipped:no_acgt"]
    long = [row for row in rows if row[0] == "long"]
    assert long[0][1] == "0" and int(long[-1][2]) == 4000
    assert all(a[2] == b[1] for a, b in pairwise(long))
    assert sum(row[0] == "twice" for row in rows) == 2
    read = json.loads(report.read_text())["read"]
    assert read["records"] == len(records) == read["records_windowed"] + sum(read["records_skipped"].values())
    assert read["windows_without_acgt"] > 0 and "left out" in err
    assert "name of an earlier one" in err
    token_rows = [line.split("\t") for line in tokens.read_text().splitlines()[1:]]
    assert "".join(r[3] for r in token_rows if r[0] == "lower") == records[3][1].upper()
    assert out.startswith("#chrom")


@pytest.mark.parametrize("extra", [[], ["--tokens", "t.tsv", "--predictions", "p.tsv", "--json", "r.json"]])
def test_empty_input_gives_whole_empty_outputs(run: Run, tmp_path: Path, extra: list[str]) -> None:
    """A pipeline that expects the files finds them."""
    reads = tmp_path / "none.fasta"
    reads.touch()
    extra = [str(tmp_path / e) if "." in e else e for e in extra]
    code, _, err = run("explain", reads, "-o", tmp_path / "x.bed", *extra)
    assert code == 0
    assert "no read" in err
    assert (tmp_path / "x.bed").read_text() == "#" + "\t".join(BED_COLUMNS) + "\n"
    assert all((tmp_path / name).exists() for name in extra if "." in name)


@pytest.mark.parametrize("batch_size", ["1", "7"])
def test_batch_size_does_not_matter(run: Run, simulated: Path, batch_size: str) -> None:
    """Nor does how reads are grouped: the same chunks, in the same order."""
    common = ["explain", str(simulated / "reads.fasta"), "--precision", "fp32", "-q"]
    whole = run(*common)[1].splitlines()
    assert run(*common, "--batch-size", batch_size)[1].splitlines() == whole


def test_bf16_calls_what_fp32_calls(run: Run, simulated: Path) -> None:
    """Half precision moves few tokens across the threshold."""
    common = ["explain", str(simulated / "reads.fasta"), "-q"]

    def bases(text: str) -> set[tuple[str, int]]:
        rows = (line.split("\t") for line in text.splitlines()[1:])
        return {(r[0], i) for r in rows for i in range(int(r[1]), int(r[2]))}

    exact, half = (bases(run(*common, "--precision", p)[1]) for p in ("fp32", "bf16"))
    assert len(exact ^ half) < 0.02 * len(exact)


@pytest.mark.parametrize(("name", "pack"), [("r.fq.gz", gzip.compress), ("r.fastq", bytes)])
def test_fastq_stdin_and_files_agree(
    simulated: Path, tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    """FASTQ from a file and through a pipe, compressed or not, gives what FASTA gives."""
    lines = (simulated / "reads.fasta").read_text().split("\n")
    fastq = "".join(
        f"@{n[1:]}\n{s}\n+\n{'I' * len(s)}\n" for n, s in zip(lines[:8:2], lines[1:8:2], strict=True)
    )
    fasta = tmp_path / "four.fasta"
    fasta.write_text("\n".join(lines[:8]) + "\n")
    packed = pack(fastq.encode())
    (tmp_path / name).write_bytes(packed)
    expected = wyr("explain", str(fasta), "-q")
    assert expected.returncode == 0 and expected.stdout.count(b"\n") > 4
    assert wyr("explain", str(tmp_path / name), "-q").stdout == expected.stdout
    assert wyr("explain", "-", "-q", input=packed).stdout == expected.stdout


def test_rank_threshold_and_min_length(run: Run, simulated: Path) -> None:
    """One rank is a part of all; a higher threshold and a minimum length report less."""
    reads = str(simulated / "reads.fasta")

    def bases(*more: str) -> int:
        rows = [line.split("\t") for line in run("explain", reads, "-q", *more)[1].splitlines()[1:]]
        return sum(int(r[2]) - int(r[1]) for r in rows)

    everything = bases()
    assert 0 < bases("--rank", "genus") < everything
    assert bases("--rank", "domain") == bases("--rank", "superkingdom") < everything
    assert bases("--threshold", "0.9") < everything
    rows = run("explain", reads, "-q", "--min-length", "18")[1].splitlines()[1:]
    assert rows and all(int(r.split("\t")[2]) - int(r.split("\t")[1]) >= 18 for r in rows)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b">ok\nACGTACGT\n>bad\nACGT!ACGT\n", ["record 2", "'bad'", "'!'"]),
        (b"@ok\nACGT\n+\nIIII\n@bad\nACGT\n+\nIII\n", ["line", "bad"]),
        (b"hello\n", ["expected '>'"]),
        (gzip.compress(b">a\n" + b"ACGT" * 5000)[:-20], []),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, content: bytes, wanted: list[str]
) -> None:
    """Exit 1, file and record named, and no output that looks whole."""
    reads = tmp_path / "bad.fa"
    reads.write_bytes(content)
    code, out, err = run("explain", reads, "-o", tmp_path / "x.bed", "--tokens", tmp_path / "x.tsv", "-q")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and err.startswith("wyr: error: ") and "bad.fa" in err
    assert [w for w in wanted if w not in err] == []
    assert [p.name for p in tmp_path.iterdir()] == ["bad.fa"]


def test_user_errors_name_what_was_expected(run: Run, simulated: Path, tmp_path: Path) -> None:
    """Missing files, wrong ranks, absent Explainers, no such device: one line each."""
    reads = simulated / "reads.fasta"
    for arguments, wanted in [
        (["explain", tmp_path / "missing.fa"], "missing.fa"),
        (["explain", reads, "--rank", "tribe"], "superkingdom, phylum, genus"),
        (["explain", reads, "--operator", "scale-embedding"], "state-gate"),
        (["explain", reads, "--model", tmp_path], "not a wyr checkpoint"),
        (["explain", reads, "--device", "cuda:99"], "cuda:99"),
        (["explain", reads, "-o", reads], "is an input"),
        (["explain", reads, "-o", tmp_path / "x", "--tokens", tmp_path / "x"], "two outputs"),
        (["evaluate", "--table", "--data", tmp_path], "not a dataset"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert wanted in err and "Traceback" not in err


@pytest.mark.skipif(not shutil.which("head"), reason="needs head")
def test_a_broken_pipe_ends_quietly(simulated: Path) -> None:
    """``wyr explain ... | head -1`` says nothing of pipes."""
    reads = " ".join([str(simulated / "reads.fasta")] * 3)
    command = f"{sys.executable} -m wyrcli explain {reads} -q | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=120)
    assert done.stdout.startswith(b"#chrom")
    assert done.stderr == b""


@pytest.mark.parametrize("through", ["a named pipe", "standard input"])
def test_ctrl_c_exits_130(tmp_path: Path, through: str) -> None:
    """An interrupted run leaves no output behind, also while it waits for input."""
    fifo = tmp_path / "reads.fasta"
    os.mkfifo(fifo)
    name = str(fifo) if through == "a named pipe" else "-"
    command = [sys.executable, "-m", "wyrcli", "explain", name, "-o", str(tmp_path / "x.bed")]
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # or the other end could not be opened
    writer = os.open(fifo, os.O_WRONLY)
    os.set_blocking(reader, True)
    with subprocess.Popen(command, stdin=reader, stderr=subprocess.PIPE) as process:
        try:
            os.write(writer, b">a\nACGTACGTACGT\n")
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(".x.bed.tmp.*")) and time.monotonic() < deadline:
                time.sleep(0.05)  # it works once its output is open
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            os.close(reader)
            os.close(writer)
    assert process.returncode == 130, err
    assert b"Traceback" not in err and b"Fatal" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["reads.fasta"]


def test_hostile_names_never_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    """Escape sequences in a name are defused in messages and in tables."""
    reads = tmp_path / "x.fa"
    reads.write_text(">evil\x1b[31m\nACGT?ACGT\n")
    code, _, err = run("explain", reads)
    assert code == 1 and "\x1b" not in err
    reads.write_text(
        ">evil\x1b[31m\n" + random_sequence(1500, 3) + "\n>track1\n" + random_sequence(1500, 4) + "\n"
    )
    code, out, err = run("explain", reads, "--threshold", "0.01")
    assert code == 0 and "\x1b" not in out + err
    assert "bedtools" in err


@pytest.mark.skipif(not shutil.which("bedtools"), reason="needs bedtools")
def test_bedtools_accepts_the_result(run: Run, simulated: Path, tmp_path: Path) -> None:
    """sort, merge, intersect and getfasta run, and getfasta returns the bases of the chunk."""
    bed = tmp_path / "x.bed"
    run("explain", simulated / "reads.fasta", "-o", bed, "-q")

    def bedtools(*arguments: object) -> list[str]:
        done = subprocess.run(["bedtools", *map(str, arguments)], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    n_rows = len(bed.read_text().splitlines()) - 1
    (tmp_path / "sorted.bed").write_text("\n".join(bedtools("sort", "-i", bed)) + "\n")
    assert len(bedtools("sort", "-i", bed)) == n_rows
    assert bedtools("merge", "-i", tmp_path / "sorted.bed")
    hits = bedtools("intersect", "-u", "-a", simulated / "truth.bed", "-b", bed)
    assert len(hits) > 0.7 * len((simulated / "truth.bed").read_text().splitlines())
    shutil.copy(simulated / "reads.fasta", tmp_path / "reads.fasta")
    fasta = bedtools("getfasta", "-fi", tmp_path / "reads.fasta", "-bed", bed)
    assert len(fasta) == 2 * n_rows


def test_long_output_names_do_not_meet(run: Run, simulated: Path, tmp_path: Path) -> None:
    """Two outputs whose names begin alike are two files."""
    stem = "a" * 150
    code, _, err = run(
        "explain", simulated / "reads.fasta", "-q",
        "-o", tmp_path / f"{stem}.bed", "--tokens", tmp_path / f"{stem}.tsv",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert (tmp_path / f"{stem}.bed").read_text().startswith("#chrom\tchromStart")
    assert (tmp_path / f"{stem}.tsv").read_text().startswith("#chrom\tstart\tend\ttoken")


def test_a_bad_report_path_fails_before_the_work(run: Run, simulated: Path, tmp_path: Path) -> None:
    """And not after it, taking the BED with it."""
    code, out, err = run("explain", simulated / "reads.fasta", "--json", tmp_path / "no" / "x.json", "-q")
    assert code == 1 and "there is no directory" in err
    assert len(out.splitlines()) <= 1


# ---------------------------------------------------------------- the other commands


def test_evaluate_table(run: Run, tmp_path: Path) -> None:
    """The demo's own held-out reads give the seven conditions at three ranks, and a sensible story."""
    tsv = tmp_path / "table.tsv"
    code, out, _ = run("evaluate", "--table", "--limit", "96", "--tsv", tsv, "--json", tmp_path / "e.json")
    assert code == 0
    table = pd.read_csv(tsv, sep="\t")
    groups = ["state-gate (operator gate)", "state-scale (operator scale)"]
    assert list(table["group"].unique()[:2]) == groups and len(table) == 21
    own = table[table["group"] == groups[0]].set_index("condition")
    assert own.loc["unmasked", "superkingdom"] > 0.95
    assert own.loc["rounded masks", "superkingdom"] > 0.9
    assert own.loc["inverted rounded masks", "superkingdom"] < 0.5
    assert own.loc["rounded masks", "tokens_kept"] < 0.3
    assert (own["genus_low"] <= own["genus"]).all() and (own["genus"] <= own["genus_high"]).all()
    assert all(group in out for group in groups)
    assert json.loads((tmp_path / "e.json").read_text())["evaluations"][0]["operator"] == "gate"


def test_evaluate_in_full(run: Run, tmp_path: Path) -> None:
    """Every output is written; what was kept is found again; a check that fails is an error if so wished."""
    model, parts = tmp_path / "toy", tmp_path / "parts"
    windows = labelled(40)
    save_checkpoint(
        model, explanandum(), TOKENIZER, TAXONOMY, window_bp=24, training={},
        held_out=LabelledWindows(
            windows.sequences, windows.labels.astype(np.int32),
            lambda: _Places(windows.names, windows.starts, windows.starts + 24, windows.names),
        ),
    )  # fmt: skip
    ones = toy_explainer("state")
    ones.head.bias.data.fill_(50.0)
    save_explainer(model, ones, "gate", training={"seconds": 3.0})
    files = {form: tmp_path / f"out.{form}" for form in ("tsv", "json", "markdown", "latex", "html")}
    outputs = [part for form, path in files.items() for part in (f"--{form}", path)]
    command = [
        "evaluate",
        "--full",
        "--model",
        model,
        "--peers",
        "random,occlusion",
        "--peer-reads",
        "6",
        "--keep",
        parts,
    ]
    code, out, err = run(*command, *outputs)
    assert code == 0, err
    for title in (
        "Balanced accuracy by rank",
        "Methods on the same model",
        "What explanations cost",
        "Audit",
    ):
        assert title in out
    content = json.loads(files["json"].read_text())
    verdicts = {check["name"]: check["verdict"] for check in content["audits"]["state-gate"]}
    assert verdicts["empty or full masks"] == "fail"
    assert [
        table["key"] for table in content["tables"]
    ] == "conditions masks methods shares differences cost classes audit".split()
    assert "# Audit" in files["tsv"].read_text() and "toprule" in files["latex"].read_text()
    page = files["html"].read_text()
    assert page.startswith("<!DOCTYPE html>") and "http://" not in page.replace("http://www.w3.org", "")
    kept = sorted(path.name for path in parts.iterdir())
    code, out, err = run(*command, "--strict")
    assert code == 1 and "of the audit: " in err and "empty or full masks" in err and "Audit" in out
    assert sorted(path.name for path in parts.iterdir()) == kept
    for wrong in (["--peers", "lima"], ["--removal", "delete"]):
        code, out, err = run("evaluate", "--full", "--model", model, *wrong)
        assert code == 2 and wrong[1] in err and not out


def test_evaluate_other_data_with_a_truth(run: Run, simulated: Path, tmp_path: Path) -> None:
    """A dataset with some of the model's taxa only, in another order; a truth without decoys; JSON."""
    data = tmp_path / "exam"
    assert run(
        "prepare", simulated / "reads.fasta", "--labels", simulated / "labels.tsv", "--taxonomy",
        simulated / "taxdump", "--validation", "0", "--test", "1", "-o", data,
    )[0] == 0  # fmt: skip
    assert len(json.loads((data / "taxonomy.json").read_text())["ranks"][2]["taxa"]) < 16
    report = tmp_path / "e.json"
    code, out, err = run(
        "evaluate", "--table", "--data", data, "--truth", simulated / "truth.bed", "--json", report
    )
    assert code == 0, err
    assert "AUPRC" in out and "nan" not in out
    first = json.loads(report.read_text())["evaluations"][0]
    assert first["accuracy"]["unmasked"][0] > 0.9
    assert first["localisation"]["auprc"] > 0.7 and first["localisation"]["decoys_called"] is None


def test_the_whole_path_on_a_tiny_model(run: Run, tmp_path: Path) -> None:
    """simulate, prepare, finetune, train-explainer, evaluate, explain: each takes what the last one made."""
    sim, data, model = tmp_path / "sim", tmp_path / "data", tmp_path / "model"
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "vocab_size": 4107,
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
            }
        )
    )
    assert run("simulate", sim, "--reads", "80", "--length", "600", "--max-copies", "2")[0] == 0
    assert run(
        "prepare", sim / "reads.fasta", "--labels", sim / "labels.tsv", "--taxonomy", sim / "taxdump",
        "--window", "600", "--test", "0.2", "-o", data,
    )[0] == 0  # fmt: skip
    code, out, err = run(
        "finetune", data, "--config", config, "--embeddings", "composed", "--steps", "3", "-b", "16",
        "--held-out", "8", "-o", model,
    )  # fmt: skip
    assert (code, out) == (0, "") and "test balanced accuracy" in err
    for explainer, operator in [("state", "gate"), ("lstm", "gate"), ("state", "scale")]:
        code, _, err = run(
            "train-explainer", model, "--data", data, "--steps", "2", "-b", "8",
            "--explainer", explainer, "--operator", operator,
        )  # fmt: skip
        assert code == 0, err
    assert run("train-explainer", model, "--data", data, "--steps", "2")[0] == 1  # never replaced unasked
    assert run("train-explainer", model, "--data", data, "--steps", "2", "-b", "8", "--continue")[0] == 0
    record = json.loads((model / "explainers" / "state-gate" / "training.json").read_text())
    assert record["continued_from"]["options"]["steps"] == 2
    assert run("finetune", data, "--from", model, "--steps", "1", "-b", "8", "-o", tmp_path / "more")[0] == 0
    code, out, _ = run("evaluate", "--table", "--model", model, "--data", data)
    assert code == 0 and "state-gate" in out and "state-scale" in out
    assert run("evaluate", "--table", "--model", model)[0] == 0
    for arguments in ([], ["--explainer", "lstm"], ["--operator", "scale"]):
        code, out, _ = run("explain", sim / "reads.fasta", "--model", model, *arguments)
        assert code == 0 and out.startswith("#chrom")


# ---------------------------------------------------------------- training


TINY = ("-b", "16", "--device", "cpu", "--precision", "fp32", "-t", "1", "--seed", "3")


@pytest.fixture(scope="session")
def trained(dataset: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a training that nothing disturbed."""
    output = tmp_path_factory.mktemp("trained") / "model"
    assert main([str(a) for a in finetune_command(dataset, config, output)]) == 0
    return output


def finetune_command(dataset: Path, config: Path, output: Path, *more: str | Path) -> list[str | Path]:
    """Eighteen steps, validated after every fourth."""
    command = ["finetune", dataset, "--config", config, "-o", output, "--epochs", "3", "--reverse-complement"]
    return [*command, "--validate-every", "4", "--learning-rate", "1e-2", *TINY, *more]


def explainer_command(dataset: Path, model: Path, *more: str | Path) -> list[str | Path]:
    """Nine steps with concrete noise, validated after every fourth."""
    command = ["train-explainer", model, "--data", dataset, "--steps", "9", "--validate-every", "4"]
    return [*command, *TINY, *more]


def measured(run: Path) -> list[dict[str, float]]:
    """The metrics of a training, but for its speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "windows_per_s"} for line in lines]


def assert_same_training(output: Path, other: Path) -> None:
    """Bit for bit the same weights, and the same metrics."""
    assert (output / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    runs = [path.with_name(path.name + ".run") for path in (output, other)]
    assert measured(runs[0]) == measured(runs[1])


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """As the state of a step is saved, a signal comes."""
    save = RunFolder.save

    def save_and_stop(self: RunFolder, kind: str, state: State) -> None:
        save(self, kind, state)
        if (kind, state.step) == ("last", step):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunFolder, "save", save_and_stop)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (["--figure", "curve.gif"], ".png, .pdf or .svg"),
        (["--figure", "no/such/place/x.png"], "no such directory"),
        (["--metric", "f1"], "balanced_accuracy_genus"),
        (["--from", "50m"], "either --from or --config"),
        (["--freeze", "1", "--lora", "2"], "--lora"),
        (["--accumulate", "0"], "--accumulate"),
    ],
)
def test_a_finetune_that_cannot_be_asked_for(
    run: Run, dataset: Path, config: Path, tmp_path: Path, more: list[str], wanted: str
) -> None:
    """Usage errors come before any training and leave nothing."""
    code, out, err = run(*finetune_command(dataset, config, tmp_path / "model", *more))
    assert (code, out) == (2, "")
    assert wanted in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_finetune_that_starts_from_nothing(run: Run, dataset: Path, config: Path, tmp_path: Path) -> None:
    """Neither --from nor --config; embeddings composed for weights that are there already."""
    assert run("finetune", dataset, "-o", tmp_path / "x", *TINY)[0] == 2
    composed = ["--from", tmp_path, "--embeddings", "composed"]
    assert run("finetune", dataset, "-o", tmp_path / "x", *composed, *TINY)[0] == 2
    code, _, err = run("train-explainer", tmp_path, "--data", dataset, "--figure", "x.jpg", *TINY)
    assert code == 2 and ".png" in err


def test_a_mistake_is_mended_by_the_next_start(run: Run, dataset: Path, config: Path, tmp_path: Path) -> None:
    """What ended before its first step leaves nothing that has to be removed by hand."""
    command = finetune_command(dataset, config, tmp_path / "model", "--steps", "1", "-q")
    code, _, err = run(*command, "--freeze", "5")
    assert code == 1 and "the network has 1" in err
    assert run(*command) == (0, "", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_finetune_goes_on(
    run: Run,
    dataset: Path,
    config: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    """The exit code tells the signal, the message where the state is; --resume ends in the same weights."""
    output = tmp_path / "model"
    command = finetune_command(dataset, config, output, "--save-minutes", "0")
    with monkeypatch.context() as patch:
        stop_after(patch, 5, number)
        found, _, err = run(*command)
    assert found == code
    (last,) = [line for line in err.splitlines() if line.startswith("wyr: error: ")]
    assert last.endswith(f"stopped after step 6 of 18; its state is in {output}.run, --resume continues it")
    assert [p.name for p in tmp_path.iterdir()] == ["model.run"]
    code, _, err = run(*command)
    assert code == 1 and "an unfinished training is here; --resume continues it" in err
    for more, name in (
        (["--learning-rate", "0.5"], "options.learning_rate 0.01 (now 0.5)"),
        (["--freeze", "1"], "freeze 0 (now 1)"),
        (["--metric", "loss"], "metric '' (now 'loss')"),
    ):
        code, _, err = run(*command, *more, "--resume")
        assert code == 1 and f"begun differently, with {name}\n" in err
    code, _, err = run(*command, "--resume")
    assert code == 0 and "goes on after step 6" in err
    assert_same_training(output, trained)
    before = (output / "model.safetensors").stat()
    code, _, err = run(*command, "--resume")
    assert (code, err) == (0, f"wyr: {output} is complete already\n")
    assert (output / "model.safetensors").stat() == before
    assert run(*command, "--resume", "--lora", "2")[0] == 1
    assert run(*command)[0] == 1  # never replaced


def test_a_killed_finetune_goes_on(
    run: Run, dataset: Path, config: Path, trained: Path, tmp_path: Path
) -> None:
    """SIGKILL at any moment: the last state is whole, and the weights come out the same."""
    output, folder = tmp_path / "model", tmp_path / "model.run"
    command = [str(a) for a in finetune_command(dataset, config, output, "--save-minutes", "0")]
    with subprocess.Popen([sys.executable, "-m", "wyrcli", *command], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while not list(folder.glob("last-0000000[3-9]")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    code, _, err = run(*command, "--resume")
    assert code == 0 and "goes on after step" in err
    assert_same_training(output, trained)


def test_a_damaged_state_is_one_line(
    run: Run, dataset: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the state; nothing begins from the beginning in silence."""
    command = finetune_command(dataset, config, tmp_path / "model", "--save-minutes", "0")
    with monkeypatch.context() as patch:
        stop_after(patch, 2, signal.SIGTERM)
        assert run(*command)[0] == 143
    (state,) = (tmp_path / "model.run").glob("last-*")
    (state / "optimiser.safetensors").write_bytes(b"no")
    code, _, err = run(*command, "--resume", "-q")
    assert code == 1 and err.count("\n") == 1
    assert err.startswith(f"wyr: error: {state}: the state cannot be read: ")


def test_resume_from_the_first_time_on(run: Run, dataset: Path, config: Path, tmp_path: Path) -> None:
    """A job script need not know whether it runs for the first time; another's directory is safe from it."""
    command = finetune_command(dataset, config, tmp_path / "model", "--resume", "--steps", "1", "-q")
    assert run(*command) == (0, "", "")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "x.tex").touch()
    command[command.index("-o") + 1] = tmp_path / "thesis"
    code, _, err = run(*command)
    assert code == 1 and "not empty" in err and not (tmp_path / "thesis.run").exists()


def test_a_stopped_train_explainer_goes_on(
    run: Run, dataset: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise on the masks; the run lies beside the Explainer."""
    models = [tmp_path / "whole", tmp_path / "stopped"]
    whole, output = (model / "explainers" / "state-gate" for model in models)
    for model in models:
        shutil.copytree(trained, model)
    code, _, err = run(*explainer_command(dataset, models[0]))
    assert code == 0 and f"Explainer in {whole}" in err
    command = explainer_command(dataset, models[1], "--save-minutes", "0")
    with monkeypatch.context() as patch:
        stop_after(patch, 5, signal.SIGTERM)
        code, _, err = run(*command)
    assert code == 143 and f"its state is in {output}.run" in err and not output.exists()
    assert run(*command)[0] == 1
    code, _, err = run(*command, "--resume", "--total-variation", "2")
    assert code == 1 and "loss.total_variation 1.0 (now 2.0)" in err
    assert run(*command, "--resume")[0] == 0
    assert_same_training(output, whole)
    code, _, err = run(*command, "--resume")
    assert (code, err) == (0, f"wyr: {output} is complete already\n")


def test_a_part_of_a_network_is_trained(run: Run, dataset: Path, trained: Path, tmp_path: Path) -> None:
    """LoRA and frozen layers: what was frozen is in the new checkpoint bit for bit; a curve is drawn."""
    pytest.importorskip("peft")
    pytest.importorskip("matplotlib")
    before = load_file(trained / "model.safetensors")
    common = ["finetune", dataset, "--from", trained, "--steps", "4", "--learning-rate", "1e-2", *TINY]
    for name, more, kept in (
        ("lora", ["--lora", "2", "--metric", "loss"], ("esm.embeddings.", "esm.encoder.layer.0.output.")),
        (
            "frozen",
            ["--freeze", "1", "--class-weights", "balanced"],
            ("esm.embeddings.", "esm.encoder.layer."),
        ),
    ):
        figure = tmp_path / f"{name}.svg"
        code, _, err = run(*common, *more, "-o", tmp_path / name, "--figure", figure)
        assert code == 0, err
        assert f"learning curve in {figure}" in err and figure.read_text().startswith("<?xml")
        after = load_file(tmp_path / name / "model.safetensors")
        assert after.keys() == before.keys()
        assert all(torch.equal(after[n], before[n]) for n in after if n.startswith(kept))
        assert not all(torch.equal(after[n], before[n]) for n in after)


def test_best_weights_and_patience(run: Run, dataset: Path, config: Path, tmp_path: Path) -> None:
    """The stored weights have the best score on the validation split; training ends when it stays."""
    output = tmp_path / "model"
    command = finetune_command(dataset, config, output, "--metric", "loss", "--epochs", "60")
    code, _, err = run(*command, "--learning-rate", "0.3", "--patience", "2")
    assert code == 0, err
    record = json.loads((output / "training.json").read_text())
    losses = {x["step"]: x["loss"] for x in measured(tmp_path / "model.run") if x["kind"] == "validation"}
    assert record["best_step"] == min(losses, key=losses.__getitem__)
    assert record["steps"] == max(losses) == record["best_step"] + 8 < 360
    assert f"those after step {record['best_step']}, the best on the validation split" in err


def test_tensorboard_shows_the_metrics(run: Run, dataset: Path, config: Path, tmp_path: Path) -> None:
    """The same numbers at the same steps as in metrics.jsonl."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "model"
    code, _, err = run(*finetune_command(dataset, config, output, "--validate-every", "4"))
    assert code == 0, err
    events = EventAccumulator(str(tmp_path / "model.run" / "tensorboard"))
    events.Reload()
    for kind in ("training", "validation"):
        lines = [line for line in measured(tmp_path / "model.run") if line["kind"] == kind]
        assert lines
        for name in lines[0].keys() - {"step", "kind", "windows_per_s"}:
            shown = {event.step: event.value for event in events.Scalars(f"{kind}/{name}")}
            assert shown == pytest.approx({line["step"]: line[name] for line in lines}, rel=1e-6)


def test_the_demo_says_what_it_is() -> None:
    """Nobody may take the toy for a classifier of real taxa."""
    info = json.loads((default_model() / "checkpoint.json").read_text())
    assert "demo" in info["name"] and "simulated" in info["notice"]
