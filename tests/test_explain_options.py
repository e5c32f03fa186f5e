"""``wyr explain`` asked for other things than the predicted classes, token by token."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from toy import TAXONOMY, TOKENIZER, explanandum
from toy import explainer as toy_explainer
from typer.models import OptionInfo

from wyrcli.checkpoint import default_model, load_checkpoint, save_checkpoint, save_explainer
from wyrcli.cli import main
from wyrcli.cli.explain import explain
from wyrcli.errors import CheckpointError
from wyrcli.report import Agreement

Run = Callable[..., tuple[int, str, str]]

FAST = ("--device", "cpu", "--precision", "fp32", "--threads", "1", "-q")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``wyr explain`` in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["explain", *(str(a) for a in arguments)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five simulated reads, one after the other as a contig too, one of a few bases, and a duplicate name."""
    folder = tmp_path_factory.mktemp("reads")
    assert main(["simulate", str(folder / "sim"), "--seed", "771", "--reads", "5", "-q"]) == 0
    text = (folder / "sim" / "reads.fasta").read_text()
    sequences = [line for line in text.splitlines() if not line.startswith(">")]
    contig = "".join(sequences)
    more = f">contig\n{contig[:3000]}NN{contig[3000:]}\n>read1\nACGTACGTA\n"
    (folder / "reads.fasta").write_text(text + more)
    return folder / "reads.fasta"


def rows(text: str) -> list[list[str]]:
    """Fields of the rows of a table with a header line."""
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


# ---------------------------------------------------------------- what to explain


def test_targets_contrast_and_top_k(run: Run, reads: Path, tmp_path: Path) -> None:
    """Each has its rows in every output, in one order."""
    one, other = list(dict.fromkeys(row[3] for row in rows(run(reads, "--rank", "genus", *FAST)[1])))[:2]
    outputs = ["-o", tmp_path / "x.bed", "--tokens", tmp_path / "x.tsv", "--predictions", tmp_path / "x.pred"]
    ask = ["--target", one.upper(), "--contrast", one, other, "--top-k", "2"]
    assert run(reads, *outputs, *ask, *FAST)[:2] == (0, "")
    calls = rows((tmp_path / "x.pred").read_text())
    header = (tmp_path / "x.pred").read_text().splitlines()[0].split("\t")
    assert len(calls) % 4 == 0
    for i in range(0, len(calls), 4):
        window = [dict(zip(header, row, strict=True)) for row in calls[i : i + 4]]
        assert [w["target"] for w in window[:3]] == [one, one, window[0]["genus"]]
        assert [w["target_against"] for w in window] == [".", other, ".", "."]
        assert window[2]["target_probability"] == window[0]["genus_probability"]
    names = {row[3] for row in rows((tmp_path / "x.bed").read_text())}
    assert one in names and other in names
    scores = rows((tmp_path / "x.tsv").read_text())
    assert {row[-1] for row in scores[:2]} == {one, f"{one}-{other}"}


def test_the_predicted_taxon_as_a_target(run: Run, reads: Path) -> None:
    """Is ``--rank`` for the reads that are called so."""
    by_rank = rows(run(reads, "--rank", "genus", *FAST)[1])
    genus = by_rank[0][3]
    named = rows(run(reads, "--target", f"genus:{genus}", *FAST)[1])
    own = [row for row in by_rank if row[3] == genus]
    assert own and own == [row for row in named if row[:2] in [r[:2] for r in own]]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--target", "Nyavirus"], 1, "wyr: error: this model knows no taxon 'Nyavirus'"),
        (["--contrast", "Nyavirus", "x"], 1, "wyr: error: this model knows no taxon 'Nyavirus'"),
        (["--top-k", "17"], 1, "this model has 16"),
        (["--min-probability", "2"], 2, "expected a probability"),
        (["--min-probability", "order=0.5"], 1, "unknown rank 'order'"),
        (["--both-strands"], 2, "needs --resolution base"),
        (["--sharpen"], 2, "needs --resolution base"),
        (["--overlap", "7"], 2, "expected a multiple of 6 from 0 to 498"),
        (["--overlap", "600"], 2, "expected a multiple of 6 from 0 to 498"),
    ],
)
def test_what_cannot_be_asked(
    run: Run, reads: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    """One clear message, and no output."""
    found, out, err = run(reads, "-o", tmp_path / "x.bed", *options, *FAST)
    assert (found, out) == (code, "") and message in " ".join(err.replace("│", " ").split())
    assert code == 2 or err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_rank_and_a_target(run: Run, reads: Path) -> None:
    """Do not go together, but for the top k."""
    genus = load_checkpoint(default_model()).taxonomy.taxa[2][0]
    assert run(reads, "--rank", "genus", "--target", genus, *FAST)[0] == 2
    assert run(reads, "--rank", "phylum", "--target", genus, "--top-k", "1", *FAST)[0] == 0


def test_near_matches(run: Run, reads: Path) -> None:
    """A slip of the pen is told what may have been meant."""
    genus = load_checkpoint(default_model()).taxonomy.taxa[2][0]
    code, _, err = run(reads, "--target", genus[:-1], *FAST)
    assert code == 1 and f"did you mean {genus}" in err


# ---------------------------------------------------------------- abstaining


def test_min_probability(run: Run, reads: Path, tmp_path: Path) -> None:
    """Below it at all ranks: no chunks, ``unsure``, and counted; between: the wider rank's name."""
    calls, report = tmp_path / "calls.tsv", tmp_path / "run.json"
    plain = rows(run(reads, "--predictions", calls, *FAST)[1])
    before = rows(calls.read_text())
    assert {row[3] for row in before} == {"ok"}
    code, out, err = run(
        reads, "--predictions", calls, "--json", report, "--min-probability", "1", *FAST[:-1]
    )
    assert code == 0
    after = rows(calls.read_text())
    unsure = [row for row in after if row[3] == "unsure"]
    assert unsure and all(float(row[5]) < 1 for row in unsure)
    assert [row[:3] + row[4:] for row in after] == [row[:3] + row[4:] for row in before]
    assert len(rows(out)) < len(plain)
    assert json.loads(report.read_text())["written"]["windows_unsure"] == len(unsure)
    assert f"{len(unsure)} windows are called nothing" in err
    run(
        reads, "--rank", "genus", "--predictions", calls, "--min-probability", "superkingdom=0,genus=1", *FAST
    )
    assert "unsure" in {row[3] for row in rows(calls.read_text())}, "of the rank that is explained"
    wider = rows(run(reads, "--min-probability", "superkingdom=0,phylum=0,genus=1", *FAST)[1])
    phyla = set(load_checkpoint(default_model()).taxonomy.taxa[1])
    assert [row[:3] for row in wider] and any(row[3] in phyla for row in wider)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A checkpoint of the toy models."""
    folder = tmp_path / "model"
    save_checkpoint(folder, explanandum(), TOKENIZER, TAXONOMY, window_bp=36, training={})
    save_explainer(folder, toy_explainer("state"), "gate", training={})
    return folder


def set_thresholds(folder: Path, content: object) -> None:
    """Write ``abstain`` into checkpoint.json."""
    info = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**info, "abstain": content}))


def test_thresholds_of_the_checkpoint(run: Run, toy: Path, tmp_path: Path) -> None:
    """Hold unless ``--min-probability`` says otherwise; 0 switches them off."""
    (tmp_path / "r.fa").write_text(">a\nACGTTGCAACGGTTGACCAT\n")
    assert load_checkpoint(toy).abstain == {}
    set_thresholds(toy, {"superkingdom": 1, "phylum": 0.5})
    assert load_checkpoint(toy).abstain == {"superkingdom": 1.0, "phylum": 0.5}
    calls = tmp_path / "calls.tsv"

    def status(*options: str) -> str:
        common = [tmp_path / "r.fa", "-m", toy, "--predictions", calls, "-o", "/dev/null"]
        assert run(*common, *options, *FAST)[0] == 0
        return rows(calls.read_text())[0][3]

    assert status() == "unsure"
    assert status("--min-probability", "0") == "ok"
    assert status("--min-probability", "superkingdom=0") == "ok"
    assert status("--min-probability", "phylum=0") == "unsure"


@pytest.mark.parametrize(
    "content", [[0.5], {"genus": 0.5}, {"phylum": "high"}, {"phylum": 1.5}, {"phylum": True}]
)
def test_broken_thresholds(toy: Path, content: object) -> None:
    """A checkpoint that says nonsense is refused."""
    set_thresholds(toy, content)
    with pytest.raises(CheckpointError, match="abstain"):
        load_checkpoint(toy)


# ---------------------------------------------------------------- bases, strands, long records


def test_scores_of_bases(run: Run, reads: Path, tmp_path: Path) -> None:
    """A row for each base of each read; the calls are those of token resolution."""
    calls, scores = tmp_path / "calls.tsv", tmp_path / "scores.tsv"
    run(reads, "--predictions", calls, *FAST)
    plain = [row[:-1] for row in rows(calls.read_text())]
    options = ["--resolution", "base", "--tokens", scores, "--predictions", calls]
    whole = run(reads, *options, *FAST)
    assert [row[:-1] for row in rows(calls.read_text())] == plain
    table = rows(scores.read_text())
    assert len(table) == 5 * 1500 + 7502 + 9
    assert all(int(row[2]) == int(row[1]) + 1 and len(row[3]) == 1 for row in table)
    sequence = "".join(row[3] for row in table[:1500])
    assert sequence in reads.read_text()
    for other in (["--batch-size", "1"], ["--batch-size", "8"], ["--threads", "2"]):
        again = [o for o in FAST if other[0] != "--threads" or o not in ("--threads", "1")]
        assert run(reads, *options, *other, *again) == whole
        same = rows(scores.read_text())
        assert [row[:4] for row in same] == [row[:4] for row in table]
        # To the last digit of the table, which is where rounding may fall to either side.
        numbers = [np.array([[float(x) for x in row[4:]] for row in each]) for each in (same, table)]
        np.testing.assert_allclose(*numbers, atol=1.01e-4, rtol=0)


def test_both_strands(run: Run, reads: Path, tmp_path: Path) -> None:
    """Their agreement is reported, in JSON and in one line."""
    report = tmp_path / "run.json"
    options = ["--resolution", "base", "--both-strands", "--sharpen", "--json", report]
    code, _, err = run(reads, *options, *FAST[:-1])
    agreement = json.loads(report.read_text())["written"]["strand_agreement"]
    assert code == 0 and agreement["windows"] + agreement["windows_undefined"] == 12
    assert -1 <= agreement["quartiles"][0] <= agreement["quartiles"][1] <= agreement["quartiles"][2] <= 1
    assert sum("scores of the two strands" in line for line in err.splitlines()) == 1


@pytest.mark.parametrize("resolution", ["token", "base"])
def test_overlap(run: Run, reads: Path, tmp_path: Path, resolution: str) -> None:
    """Zones tile the contig; reads of one window have the same rows as without."""
    calls, scores = tmp_path / "calls.tsv", tmp_path / "scores.tsv"
    options = ["--resolution", resolution, "--tokens", scores, "--predictions", calls]
    plain = rows(run(reads, *options, *FAST)[1])
    plain_scores = rows(scores.read_text())
    code, out, _ = run(reads, *options, "--overlap", "300", *FAST)
    assert code == 0
    found = rows(out)
    assert [row for row in found if row[0] != "contig"] == [row for row in plain if row[0] != "contig"]
    assert [row for row in found if row[0] == "contig"] != [row for row in plain if row[0] == "contig"]
    zones = [(int(r[1]), int(r[2])) for r in rows(calls.read_text()) if r[0] == "contig"]
    assert zones[0][0] == 0 and zones[-1][1] == 7502
    assert all(a[1] == b[0] for a, b in pairwise(zones))
    table = rows(scores.read_text())
    assert [r for r in table if r[0] != "contig"] == [r for r in plain_scores if r[0] != "contig"]
    sites = [(int(r[1]), int(r[2])) for r in table if r[0] == "contig"]
    assert sites[0][0] == 0 and sites[-1][1] == 7502
    assert all(a[1] == b[0] for a, b in pairwise(sites))
    assert "".join(r[3] for r in table if r[0] == "contig") in reads.read_text()
    assert run(reads, *options, "--overlap", "300", "--batch-size", "1", *FAST)[1] == out


def test_chunks_are_joined_across_windows(run: Run, toy: Path, tmp_path: Path) -> None:
    """A mask that is everywhere above the threshold makes one row of a record; windows know their part."""
    texts = ["".join(random.Random(i).choices("ACGT", k=200)) for i in range(3)]
    (tmp_path / "r.fa").write_text("".join(f">r\n{text}\n" for text in texts))
    calls = tmp_path / "calls.tsv"
    options = ["-m", toy, "--threshold", "0", "--target", "One", "--predictions", calls, "--min-length", "50"]
    code, out, _ = run(tmp_path / "r.fa", *options, *FAST)
    assert code == 0 and [row[:4] for row in rows(out)] == [["r", "0", "200", "One"]] * 3
    header = calls.read_text().splitlines()[0].split("\t")
    assert {row[header.index("relevant_share")] for row in rows(calls.read_text())} == {"1.0000"}


def test_models_of_other_things(run: Run, tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames and overlaps make no sense for proteins and texts: usage errors in one line."""
    from wyrcli import checkpoint as module

    class Residues:
        alphabet = "protein"

        def usual_tokens(self, length: int) -> int:
            return length

    loaded = load_checkpoint(toy)
    monkeypatch.setattr(module, "load_checkpoint", lambda _: replace(loaded, tokenizer=Residues()))
    (tmp_path / "r.fa").write_text(">a\nMKV\n")
    for options, message in (
        (["--resolution", "base"], "have reading frames; this one reads protein"),
        (["--overlap", "6"], "this one reads protein"),
    ):
        code, out, err = run(tmp_path / "r.fa", "-m", toy, *options, *FAST)
        assert (code, out) == (2, "") and message in " ".join(err.replace("│", " ").split())


def test_empty_input(run: Run, tmp_path: Path) -> None:
    """Whatever is asked for, empty outputs with headers."""
    (tmp_path / "empty.fa").write_text("")
    report = tmp_path / "run.json"
    options = ["--resolution", "base", "--both-strands", "--top-k", "2", "--json", report]
    code, out, err = run(tmp_path / "empty.fa", *options, *FAST[:-1])
    assert code == 0 and out.startswith("#chrom") and out.count("\n") == 1
    assert "nothing to compare" in err
    assert json.loads(report.read_text())["written"]["strand_agreement"]["quartiles"] == [None] * 3


# ---------------------------------------------------------------- the report


def test_agreement() -> None:
    """Mean and quartiles as numpy finds them, but for a hundredth; what is undefined is counted apart."""
    values = np.random.default_rng(0).uniform(-1, 1, 999)
    agreement = Agreement()
    for value in [*values, math.nan, 1.0, -1.0]:
        agreement.add(value)
    found, kept = agreement.as_dict(), np.array([*values, 1.0, -1.0])
    assert (found["windows"], found["windows_undefined"]) == (1001, 1)
    assert found["mean_correlation"] == pytest.approx(kept.mean(), abs=1e-4)
    assert found["quartiles"] == pytest.approx(np.quantile(kept, [0.25, 0.5, 0.75]).tolist(), abs=0.0101)
    assert "median of 1,001 windows" in agreement.as_text()


def test_the_demo_stays_as_it_is() -> None:
    """It names no thresholds."""
    assert "abstain" not in json.loads((default_model() / "checkpoint.json").read_text())
    assert load_checkpoint(default_model()).abstain == {}


def test_several_targets_over_several_windows(run: Run, reads: Path, tmp_path: Path) -> None:
    """Rows can be indexed, and no base counts twice."""
    bed, report = tmp_path / "a.bed.gz", tmp_path / "run.json"
    lines = reads.read_text().splitlines()
    long = tmp_path / "long.fa"
    long.write_text(">long\n" + "".join(line for line in lines if not line.startswith(">")) + "\n")
    code, _, err = run(long, "--top-k", "2", "--threshold", "0.0001", "-o", bed, "--json", report, *FAST)
    assert code == 0 and "not sorted" not in err
    assert (tmp_path / "a.bed.gz.tbi").exists()
    written = json.loads(report.read_text())["written"]
    assert written["chunks"] > 2
    found = rows(gzip.decompress(bed.read_bytes()).decode())
    covered = set().union(*(range(int(row[1]), int(row[2])) for row in found))
    assert written["bases_in_chunks"] == len(covered)


def test_help_is_in_panels() -> None:
    """Every option stands in one of six, in this order; what all commands have stands apart."""
    panels = [
        next((one.rich_help_panel for one in get_args(option) if isinstance(one, OptionInfo)), None)
        for name, option in get_type_hints(explain, include_extras=True).items()
        if name not in ("inputs", "quiet", "return")
    ]
    assert list(dict.fromkeys(panels)) == [
        "Inputs",
        "What to explain, and how finely",
        "Outputs",
        "To look at",
        "Model and machine",
        "Long runs",
    ]
    assert [panel for panel, _ in groupby(panels)] == list(dict.fromkeys(panels)), "each in one piece"
