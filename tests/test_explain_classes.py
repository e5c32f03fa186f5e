"""``wyr explain-classes`` from reads to files: with the demo model on reads whose motifs are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wyrcli import class_files, class_runs
from wyrcli.cli import main
from wyrcli.motif_files import read_meme
from wyrcli.simulation import toy_world
from wyrcli.terms import turn_kmer

FAST = ["--threads", "1", "-q"]


def run(*arguments: object) -> int:
    """The command in this process."""
    return main(["explain-classes", *map(str, arguments), *FAST])


def make_dataset(folder: Path, shuffled: bool = False) -> Path:
    """320 simulated reads, all in the test split; with the labels of others if ``shuffled``."""
    reads = folder / "reads"
    assert main(["simulate", str(reads), "--reads", "320", "--length", "900", "--max-copies", "2",
                 "--seed", "99", "-q"]) == 0  # fmt: skip
    if shuffled:
        header, *rows = [line.split("\t") for line in (reads / "labels.tsv").read_text().splitlines()]
        order = np.random.default_rng(1).permutation(len(rows)).tolist()
        mixed = [[own[0], *rows[other][1:]] for own, other in zip(rows, order, strict=True)]
        (reads / "labels.tsv").write_text("".join("\t".join(row) + "\n" for row in [header, *mixed]))
    assert main(["prepare", str(reads / "reads.fasta"), "--labels", str(reads / "labels.tsv"), "--taxonomy",
                 str(reads / "taxdump"), "--window", "900", "--validation", "0", "--test", "1", "-o",
                 str(folder / "data"), "-q"]) == 0  # fmt: skip
    return folder / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of simulated reads."""
    return make_dataset(tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module")
def found(data: Path) -> Path:
    """What the command writes of the superkingdoms and two phyla."""
    output = data.parent / "found"
    names = [*toy_world().names[0], *toy_world().names[1][:2]]
    asked = [part for name in names for part in ("--class", name)]
    assert run("--data", data, *asked, "-o", output, "--check", 8, "--compare", "svm", "--no-page") == 0
    return output


def read_json(folder: Path) -> dict[str, Any]:
    """The report."""
    content: dict[str, Any] = json.loads((folder / "classes.json").read_text())
    return content


def motif_of(rank: str, name: str) -> str:
    """The letters that were planted for a taxon."""
    world = toy_world()
    r = ("superkingdom", "phylum", "genus").index(rank)
    return "".join("ACGT"[code] for code in world.motifs[r][world.names[r].index(name)])


def touches(term: str, planted: str, least: int = 5) -> bool:
    """Whether so many bases in a row of a term are of what was planted, on either strand."""
    pieces = [term[i : i + least] for i in range(len(term) - least + 1)]
    return any(piece in both for piece in pieces for both in (planted, turn_kmer(planted)))


def test_planted_motifs_are_found_and_decoys_are_not(found: Path) -> None:
    """Keywords are of the class's own motif, and nearly all classes have some."""
    classes = read_json(found)["classes"]
    assert len(classes) == 6
    right, wrong = 0, 0
    decoys = ["".join("ACGT"[code] for code in decoy) for decoy in toy_world().decoys]
    for own in classes:
        kept = [word["term"] for word in own["keywords"] if word["kept"]]
        planted = motif_of(own["rank"], own["class"])
        right += sum(touches(term, planted) for term in kept)
        wrong += sum(not touches(term, planted) for term in kept)
        for term in kept:
            assert touches(term, planted, 4) or not any(touches(term, decoy, 6) for decoy in decoys)
    assert sum(any(word["kept"] for word in own["keywords"]) for own in classes) >= 5
    assert wrong <= 0.08 * (right + wrong)


def test_motifs_are_those_planted(found: Path) -> None:
    """As matrices in the MEME file, whose effect on the classifier was measured."""
    motifs = read_meme(str(found / "motifs.meme"))
    planted = [motif_of(own["rank"], own["class"]) for own in read_json(found)["classes"]]
    assert len(motifs) >= 5
    hits = [
        any(touches(motif.consensus[i : i + 10], one, 8) for one in planted for i in range(len(motif) - 9))
        for motif in motifs
    ]
    assert sum(not hit for hit in hits) <= 1
    effects = [
        motif["effects"]
        for own in read_json(found)["classes"]
        for motif in own["motifs"]
        if motif["kept"] and motif["effects"]
    ]
    assert sum(own["planted"]["mean"] <= 0 for own in effects) <= 1
    assert sum(own["ablated"]["mean"] >= 0 for own in effects) <= 1


def test_files_agree(found: Path) -> None:
    """Every row of the joint tables is in the JSON and in its class's table; nothing else is written."""
    assert {path.name for path in found.iterdir()} == set(class_files.OUTPUTS) - {
        "index.html",
        "modisco.meme",
    }
    content = read_json(found)
    wanted = {(own["class"], word["term"]): word for own in content["classes"] for word in own["keywords"]}
    seen = {}
    for name in ("keywords", "unstable", "rejected"):
        with open(found / f"{name}.tsv", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                word = wanted[row["class"], row["term"]]
                seen[row["class"], row["term"]] = row
                assert (row["kept"] == "yes") == word["kept"] == (name == "keywords")
                assert int(row["reads"]) == word["reads"] and float(row["q"]) == pytest.approx(
                    word["q"], 1e-4
                )
                assert row["reverse_complement"] == turn_kmer(row["term"]) == word["reverse_complement"]
                assert row["term"] <= row["reverse_complement"]
    assert seen.keys() == wanted.keys()
    for own in content["classes"]:
        with open(found / own["table"], newline="") as file:
            assert [row["term"] for row in csv.DictReader(file, delimiter="\t")] == [
                word["term"] for word in own["keywords"]
            ]
    assert content["settings"]["stability"].startswith("20 draws of the reads (bootstrap")


def test_quality_beside_the_svm(found: Path) -> None:
    """Both methods, at both ranks, with shares; an SVM's keywords are as many as ours."""
    quality = read_json(found)["quality"]
    assert [(own["rank"], own["method"]) for own in quality] == [
        (rank, method) for method in ("mask", "svm") for rank in ("superkingdom", "phylum")
    ]
    for own in quality:
        assert 0 <= own["cross_coverage"] < own["coverage"] <= 1
        assert own["delta"] == pytest.approx(own["coverage"] - own["cross_coverage"])
    assert quality[0]["keywords"] == quality[2]["keywords"]


def test_shuffled_labels_have_no_keywords(tmp_path: Path) -> None:
    """The masks point at motifs as before; the labels know nothing of them."""
    data = make_dataset(tmp_path, shuffled=True)
    assert (
        run("--data", data, "-o", tmp_path / "found", "--rank", "superkingdom", "--no-motifs", "--no-page")
        == 0
    )
    (header,) = (tmp_path / "found" / "keywords.tsv").read_text().splitlines()
    assert header.startswith("class\t")
    assert len((tmp_path / "found" / "rejected.tsv").read_text().splitlines()) > 20


def test_batches_do_not_matter_and_contrast(data: Path, tmp_path: Path) -> None:
    """Two classes held against each other, with batches of 5 and of 64."""
    assert run("--data", data, "--contrast", "Toyarchaea", "toyviruses", "--windows", 120, "-b", 5,
               "-o", tmp_path / "a", "--no-motifs") == 0  # fmt: skip
    assert run("--data", data, "--contrast", "Toyarchaea", "toyviruses", "--windows", 120, "-b", 64,
               "-o", tmp_path / "b", "--no-motifs", "--no-page") == 0  # fmt: skip
    first, second = (read_json(tmp_path / name)["classes"] for name in "ab")
    for ours, theirs in zip(first, second, strict=True):
        kept = [{word["term"] for word in own["keywords"] if word["kept"]} for own in (ours, theirs)]
        assert kept[0] == kept[1] != set()
        planted = motif_of("superkingdom", ours["class"])
        assert np.mean([touches(term, planted) for term in kept[0]]) > 0.8
    assert [own["against"] for own in first] == ["Toyviruses", "Toyarchaea"]
    page = (tmp_path / "a" / "index.html").read_text()
    assert "20 draws of the reads (bootstrap" in page and "Toyarchaea against Toyviruses" in page


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--compare", "magic"], 2, "gradients, svm"),
        (["--contrast", "Toyviruses", "Toybacteria", "--rank", "genus"], 2, "--contrast"),
        (["--force"], 2, "--output"),
        (["--retrain", "full"], 2, "--data"),
        (["--retrain-steps", "3"], 2, "--retrain"),
        (["--check", "3"], 2, "8 or more"),
        (["--modisco", "--no-motifs"], 2, "--motifs"),
        (["--fdr", "2"], 2, "--fdr"),
        (["-k", "9"], 1, "expected 2 to 8"),
        (["--rank", "order"], 1, "unknown rank 'order'"),
        (["--class", "Toyvirus"], 1, "did you mean"),
        (["--model", "demo", "--class", "Toyvirus"], 1, "did you mean"),
        (["--class", "Toyvibrio", "--rank", "phylum"], 1, "'Toyvibrio' is a genus"),
        (["--contrast", "Toyvibrio", "Toyviruses"], 1, "of one rank"),
        (["--class", "Toyvibrio", "--min-reads", "1000"], 1, "--min-reads"),
        (["--data", "nowhere"], 1, "nowhere"),
    ],
)
def test_errors(
    arguments: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clear line, before anything is computed; and no directory."""
    output = [] if arguments == ["--force"] else ["-o", tmp_path / "out"]
    assert run(*arguments, *output) == code
    text = "".join(letter for letter in capsys.readouterr().err if letter not in "│\n")
    assert said in " ".join(text.split())
    assert not list(tmp_path.iterdir())


def test_a_directory_with_content_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also with --force, if what lies there is not ours."""
    (tmp_path / "mine.txt").write_text("precious")
    assert run("-o", tmp_path, "--force") == 1
    assert "mine.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_outputs_appear_whole_or_not_at_all(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What fails at the last file leaves no directory."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(class_files, "json_text", fail)
    asked = [
        "--data",
        data,
        "--class",
        "Toyviruses",
        "--windows",
        32,
        "--min-reads",
        2,
        "--no-motifs",
        "--no-page",
    ]
    assert run(*asked, "-o", tmp_path / "out") == 1
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_checkpoint_gives_further_runs(data: Path, tmp_path: Path) -> None:
    """The same one gives the same draws, so that shares stay and their number doubles."""
    from wyrcli.checkpoint import default_model

    asked = ["--data", data, "--class", "Toyviruses", "--windows", 64, "--no-motifs", "--no-page"]
    assert run(*asked, "-o", tmp_path / "one") == 0
    assert run(*asked, "-o", tmp_path / "two", "--also", default_model()) == 0
    first, second = (read_json(tmp_path / name)["classes"][0]["keywords"] for name in ("one", "two"))
    shares = [{word["term"]: (word["run_share"], word["kept"]) for word in own} for own in (first, second)]
    assert shares[0] == shares[1] and first
    assert {word["runs"] for word in first} == {20} and {word["runs"] for word in second} == {40}


def test_retraining_is_kept_and_taken_up(
    dataset: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classifier and Explainer are trained anew in each run; a second call trains only what is missing."""
    model = tmp_path / "model"
    quick = ["--threads", "1", "-q", "--precision", "fp32"]
    steps = ["--steps", "3", "-b", "8"]
    assert main(["finetune", str(dataset), "--config", str(config), "-o", str(model), *steps, *quick]) == 0
    assert main(["train-explainer", str(model), "--data", str(dataset), *steps, *quick]) == 0
    asked = ["--model", model, "--data", dataset, "--split", "validation", "--rank", "superkingdom"]
    asked += [
        "--no-page",
        "--min-reads",
        2,
        "--retrain",
        "full",
        "--retrain-steps",
        2,
        "--keep",
        tmp_path / "kept",
    ]
    trained: list[str] = []
    for name in ("finetune", "train_explainer"):
        usual = getattr(class_runs, name)

        def noted(*values: Any, name: str = name, usual: Any = usual, **options: Any) -> Any:
            trained.append(name)
            return usual(*values, **options)

        monkeypatch.setattr(class_runs, name, noted)
    assert run(*asked, "--runs", 1, "-o", tmp_path / "one") == 0
    assert trained == ["finetune", "train_explainer"]
    assert run(*asked, "--runs", 2, "-o", tmp_path / "two") == 0
    assert trained == ["finetune", "train_explainer"] * 2
    assert run(*asked, "--runs", 2, "-o", tmp_path / "again") == 0
    assert len(trained) == 4
    first, second = (read_json(tmp_path / name) for name in ("two", "again"))
    assert first == second
    assert first["settings"]["stability"] == (
        "2 new splits of training and validation windows, classifier and Explainer trained anew in each"
    )
    assert len(list((tmp_path / "kept").glob("scores-run-*.npz"))) == 2
    # Other settings are another run, never this one's files.
    assert run(*asked, "--runs", 1, "--seed", 5, "-o", tmp_path / "other") == 0
    assert len(trained) == 6
