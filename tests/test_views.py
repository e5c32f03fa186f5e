"""``wyr explain --show``, ``--html`` and ``--browser-bundle`` as a user meets them."""

from __future__ import annotations

import base64
import json
import os
import pty
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_reads_page import data_of

from wyrcli.cli import main

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


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty random reads of 120 to 410 bp."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("views") / "reads.fasta"
    sequences = ["".join(rng.choices("ACGT", k=120 + 10 * i)) for i in range(30)]
    path.write_text("".join(f">read{i}\n{s}\n" for i, s in enumerate(sequences)))
    return path


def sequences(path: Path) -> dict[str, str]:
    """Of a FASTA file with a line per sequence."""
    lines = path.read_text().splitlines()
    return {name[1:]: text for name, text in zip(lines[::2], lines[1::2], strict=True)}


def test_show_alone_prints_reads_and_no_bed(run: Run, reads: Path) -> None:
    """Not a terminal: no codes; twenty reads whose letters are those of the file; how many more."""
    code, out, err = run("explain", reads, "--show")
    assert code == 0 and "#chrom" not in out and "\x1b" not in out
    shown = {}
    for block in out.split("\n\n")[1:-1]:
        name = block.split()[0]
        shown[name] = "".join(re.findall(r"^ +[\d,]+ ([ACGT]+) [\d,]+$", block, flags=re.MULTILINE))
    assert shown == dict(list(sequences(reads).items())[:20])
    assert out.splitlines()[-1].startswith("... and 10 more windows")
    assert "demo" in err and "30 reads in" in err


def test_show_beside_a_file(run: Run, reads: Path, tmp_path: Path) -> None:
    """The BED file is that of a run without the view."""
    code, out, _ = run("explain", reads, "-o", tmp_path / "a.bed", "--show", "--show-limit", "1", "-q")
    assert code == 0 and "read0" in out and "read1 " not in out
    assert run("explain", reads, "-q")[1] == (tmp_path / "a.bed").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "-", "--show"],
        ["-o", "x.bed", "--show", "--html", "-"],
        ["-o", "x.bed", "--show", "--predictions", "-"],
        ["-o", "x.bed", "--igv-js", "igv.min.js"],
        ["--show", "--show-limit", "0"],
        ["-o", "x.bed", "--html", "x.html", "--html-limit", "-1"],
    ],
)
def test_usage_errors(
    run: Run, reads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """Exit 2 before any work, and no output."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("explain", reads, *arguments)
    assert code == 2 and out == "" and "Usage" in err and "demo" not in err
    assert list(tmp_path.iterdir()) == []


def test_errors(run: Run, reads: Path, tmp_path: Path) -> None:
    """Exit 1 with one line: a folder that is in use, a page that is another output or an input."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, words in [
        (["--browser-bundle", tmp_path / "full"], "not empty"),
        (["--browser-bundle", tmp_path / "new", "--igv-js", tmp_path / "no.js"], "no.js"),
        (["--browser-bundle", tmp_path / "new", "--top-k", 2], "and 2 targets were asked for"),
        (["--html", tmp_path / "a.bed"], "two outputs"),
        (["--html", reads], "is an input"),
        (["--html", tmp_path / "no" / "x.html"], "there is no directory"),
    ]:
        code, out, err = run("explain", reads, "-o", tmp_path / "a.bed", *arguments, "-q")
        assert (code, out) == (1, "") and words in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_all_views_at_once(run: Run, reads: Path, tmp_path: Path) -> None:
    """Page and folder tell of the same reads as the tables; the same run gives the same bytes."""
    outputs = []
    for name, batch in (("a", "7"), ("b", "7"), ("c", "1")):
        where = tmp_path / name
        where.mkdir()
        files = ["-o", where / "x.bed", "--html", where / "x.html", "--browser-bundle", where / "bundle"]
        more = ["--predictions", where / "calls.tsv", "--precision", "fp32", "--html-limit", "7", "-b", batch]
        assert run("explain", reads, *files, *more, "-q") == (0, "", "")
        outputs.append(where)
    content = data_of((outputs[0] / "x.html").read_text())
    assert content["counts"] == {"windows": 30, "shown": 7}
    assert "demo" in content["notice"] and ["threshold", "0.5"] in content["about"]
    rows = [row.split("\t") for row in (outputs[0] / "calls.tsv").read_text().splitlines()[1:]]
    for window, row in zip(content["windows"], rows, strict=False):
        assert [window["name"], window["sequence"]] == [row[0], sequences(reads)[row[0]]]
        assert window["share"] == pytest.approx(float(row[-1]), abs=1e-4)
        assert [content["taxa"][r][i] for r, i in enumerate(window["taxa"])] == row[4:-1:2]
    files = sorted(p.relative_to(outputs[0]) for p in outputs[0].rglob("*") if p.is_file())
    assert len(files) >= 15
    for file in files:
        first, second, other = ((where / file).read_bytes() for where in outputs)
        assert first == second, file
        # Another batch size moves the last digits of sums, which probabilities and scores show.
        assert file.name in ("x.html", "names.tsv", "calls.tsv", "scores.bw") or first == other, file
    others = data_of((outputs[2] / "x.html").read_text())
    for window, other in zip(content["windows"], others["windows"], strict=True):
        assert window["chunks"] == other["chunks"] and window["taxa"] == other["taxa"]
        for mask, again in zip(window["masks"], other["masks"], strict=True):
            steps = [np.frombuffer(base64.b64decode(m), dtype=np.uint8).astype(int) for m in (mask, again)]
            assert np.abs(steps[0] - steps[1]).max() <= 1
    chunks = (outputs[0] / "x.bed").read_text()
    import pysam

    assert pysam.BGZFile(str(outputs[0] / "bundle" / "important.bed.gz")).read().decode() == chunks


def test_empty_input(run: Run, tmp_path: Path) -> None:
    """Valid views of nothing, and a warning."""
    empty = tmp_path / "empty.fa"
    empty.touch()
    files = ["--show", "--html", tmp_path / "x.html", "--browser-bundle", tmp_path / "b"]
    code, out, err = run("explain", empty, *files)
    assert code == 0 and out == "" and "no read" in err
    assert data_of((tmp_path / "x.html").read_text())["windows"] == []
    assert json.loads((tmp_path / "b" / "config.json").read_text())["tracks"]


def test_a_damaged_file_leaves_no_view(run: Run, reads: Path, tmp_path: Path) -> None:
    """Neither page nor folder."""
    bad = tmp_path / "bad.fastq"
    bad.write_text("@a\n" + "ACGT" * 50 + "\n+\n" + "I" * 200 + "\n@b\nACGT\n")
    files = ["-o", tmp_path / "x.bed", "--html", tmp_path / "x.html", "--browser-bundle", tmp_path / "b"]
    code, _, err = run("explain", bad, *files, "-q")
    assert code == 1 and "record 2" in err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.fastq"]


def test_closed_pipe_ends_the_view_alone(reads: Path, tmp_path: Path) -> None:
    """``--show | head`` is quiet, and the file that was asked for is complete."""
    bed = tmp_path / "x.bed"
    command = f"{sys.executable} -m wyrcli explain {reads} -o {bed} --show -q | head -n 2"
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stderr == "" and len(found.stdout.splitlines()) == 2
    assert bed.read_text().count("\n") > 1


def test_in_a_terminal(reads: Path) -> None:
    """Colours in a real one, wrapped to its width."""
    code = (
        "import sys, fcntl, termios, struct;"
        "fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 60, 0, 0));"
        "from wyrcli.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "COLORFGBG")}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    command = [sys.executable, "-c", code, "explain", str(reads), "--show", "--show-limit", "2", "-q"]
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.close(follower)
        data = b""
        try:
            while piece := os.read(leader, 65536):
                data += piece
        except OSError:  # how Linux says that the other side is closed
            pass
        assert process.wait(60) == 0
    os.close(leader)
    text = data.decode().replace("\r\n", "\n")
    assert "\x1b[38;2;" in text or ";48;2;" in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= 60 and "... and 28 more windows" in lines[-1]
    letters = re.findall(r"^ +[\d,]+ ([ACGT]+) [\d,]+$", "\n".join(lines), flags=re.MULTILINE)
    assert "".join(letters) == "".join(list(sequences(reads).values())[:2])
    assert {len(row) for row in letters[:2]} == {50}
