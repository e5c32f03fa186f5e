"""How good a classifier is: scores on toy models whose answers are known, and the command."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toy import MIXED, TAXONOMY, TOKENIZER, explanandum, sequences

from wyrcli.checkpoint import load_checkpoint, save_checkpoint, store_calibration
from wyrcli.classification import (
    Answers,
    Assessment,
    Calibration,
    Degradation,
    ask,
    assess,
    calibrate,
    confusion,
    score,
)
from wyrcli.classification_tables import build_tables, confused_rank, full_tables
from wyrcli.cli import main
from wyrcli.dataset import Dataset, LabelledWindows, _Places
from wyrcli.degradation import ErrorMix
from wyrcli.errors import CheckpointError, InputError
from wyrcli.examination import Subject
from wyrcli.installed import default_model, find_model
from wyrcli.result_tables import FORMATS, Table, render
from wyrcli.taxonomy import Taxonomy

CPU = torch.device("cpu")
SUBJECT = Subject(explanandum(), TOKENIZER, CPU, 7)
AS_IT_IS = Calibration((1.0, 1.0), (0.0, 0.0), "none")


def windows_of(
    texts: Sequence[str], labels: Sequence[Sequence[int]], groups: Sequence[str] | None = None
) -> LabelledWindows:
    """Windows side by side on one record, whatever their groups."""
    ends = np.cumsum([len(text) for text in texts])
    starts = np.concatenate([[0], ends[:-1]])
    names = ["record"] * len(texts)
    places = _Places(names, starts, ends, list(groups or names))
    return LabelledWindows(list(texts), np.array(labels, dtype=np.int32).reshape(-1, 2), lambda: places)


def given(labels: Sequence[int], predicted: Sequence[int], groups: Sequence[int] | None = None) -> Answers:
    """Answers at one rank, all equally sure."""
    n = len(labels)
    column = np.array(labels, dtype=np.int64)[:, None]
    half = np.full((n, 1), 0.5, dtype=np.float32)
    loss: NDArray[np.float64] = np.where(column >= 0, math.log(2), np.nan)
    numbers = np.arange(n) if groups is None else np.array(groups)
    return Answers(column, np.array(predicted)[:, None], half, half, loss, loss, numbers)


def test_answers_are_those_of_the_network() -> None:
    """Classes, probabilities and losses, with and without a temperature, as torch has them."""
    labels = np.array([[i % 2, i % 3] for i in range(len(MIXED))])
    labels[2] = -1
    found = ask(SUBJECT, lambda i: (MIXED[i],), labels, np.arange(len(MIXED)), (1.0, 2.5))
    logits = SUBJECT.explanandum(TOKENIZER.batch(MIXED))
    for r, own in enumerate(SUBJECT.explanandum.split(logits)):
        for shown, loss, temperature in (
            (found.raw, found.raw_loss, 1.0),
            (found.confidence, found.loss, (1.0, 2.5)[r]),
        ):
            log_p = (own / temperature).log_softmax(-1)
            assert found.predicted[:, r].tolist() == own.argmax(-1).tolist()
            assert shown[:, r] == pytest.approx(log_p.amax(-1).exp().numpy(), abs=1e-6)
            expected = [-float(log_p[i, labels[i, r]]) for i in range(len(MIXED)) if i != 2]
            assert np.delete(loss[:, r], 2) == pytest.approx(expected, abs=1e-5)
            assert math.isnan(loss[2, r])
    assert found.known.sum() == 2 * (len(MIXED) - 1) and not found.right[2].any()


def test_reads_of_several_windows_are_averaged() -> None:
    """The mean of the log-probabilities of their windows; batches and parts change nothing."""
    texts = sequences(9, 24)
    reads = [texts[:1], texts[1:4], texts[4:6], texts[6:]]
    labels = np.zeros((4, 2), dtype=np.int64)
    found = ask(SUBJECT, reads.__getitem__, labels, np.arange(4), (1.0, 1.0))
    each = SUBJECT.log_probabilities(texts)
    for i, (first, last) in enumerate(((0, 1), (1, 4), (4, 6), (6, 9))):
        own = each[first:last].mean(0)
        assert found.predicted[i].tolist() == [own[:2].argmax(), own[2:].argmax()]
        expected = -own[0] + np.log(np.exp(own[:2]).sum())
        assert found.loss[i, 0] == pytest.approx(expected, abs=1e-5)


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few answers are held at once."""
    texts = sequences(9, 24)
    whole = ask(SUBJECT, lambda i: texts[i : i + 2], np.zeros((8, 2)), np.arange(8), (1.0, 1.0))
    monkeypatch.setattr("wyrcli.classification._AT_ONCE", 3)
    parts = ask(SUBJECT, lambda i: texts[i : i + 2], np.zeros((8, 2)), np.arange(8), (1.0, 1.0))
    assert (parts.predicted == whole.predicted).all()
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)


def test_scores_by_hand() -> None:
    """Balanced over the classes of the truth; what the classifier has no class for is counted apart."""
    (found,) = score(given([0, 0, 0, 1, -1, -1], [0, 0, 1, 1, 1, 0], groups=[0, 0, 1, 2, 3, 3]))
    assert found.balanced == pytest.approx((2 / 3 + 1) / 2) and found.accuracy == 0.75
    assert (found.windows, found.groups, found.classes, found.unknown) == (4, 3, 2, 2)
    assert found.low <= found.balanced <= found.high and found.accuracy_low < 0.75 < found.accuracy_high
    (nothing,) = score(given([-1, -1], [0, 1]))
    assert math.isnan(nothing.balanced) and nothing.windows == 0 and nothing.unknown == 2


def test_scores_agree_with_scikit_learn() -> None:
    """Balanced accuracy and the matrix of confusions."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 300)
    predicted = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 6, 300))
    answers = given(labels.tolist(), predicted.tolist())
    assert score(answers)[0].balanced == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    expected = metrics.confusion_matrix(labels, predicted, labels=range(7))
    assert (confusion(answers, 0, 7) == expected).all()


def test_intervals_are_over_genomes() -> None:
    """A hundred windows of two genomes are two witnesses, one of them wrong."""
    labels, predicted = [0] * 100, [0] * 50 + [1] * 50
    (together,) = score(given(labels, predicted, groups=[0] * 50 + [1] * 50))
    (alone,) = score(given(labels, predicted))
    assert (together.accuracy_low, together.accuracy_high) == (0.0, 1.0)
    assert alone.accuracy_high - alone.accuracy_low < 0.25


def test_calibration_on_toy_windows() -> None:
    """Temperatures and thresholds come from the windows of known taxa; without any there is an error."""
    texts = sequences(40, 24)
    true = SUBJECT.predict(texts)
    true[::4] = (true[::4] + 1) % 2
    windows = windows_of(texts, true.tolist(), [str(i) for i in range(40)])
    found, answers = calibrate(SUBJECT, windows, 0.7)
    assert found.windows == found.groups == 40 and len(found.chosen) == len(found.fits) == 2
    assert found.temperatures == tuple(fit.used for fit in found.fits)
    assert all(own.reached and own.precision >= 0.7 for own in found.chosen)
    assert (answers.loss.mean(0) <= answers.raw_loss.mean(0) + 1e-9).all()
    with pytest.raises(InputError, match="no window of a taxon"):
        calibrate(SUBJECT, windows_of(texts[:2], [[-1, -1]] * 2), 0.9)


def full_assessment() -> Assessment:
    """Of 24 windows of 24 bp side by side, at lengths 10, 24 and 48, with errors, and of unknown taxa."""
    texts = sequences(24, 24)
    true = SUBJECT.predict(texts)
    true[::3] = (true[::3] + 1) % 2
    windows = windows_of(texts, true.tolist())
    unknown = windows_of(sequences(6, 24, seed=5), [[0, -1]] * 6)
    changes = Degradation((10, 24, 48), (0.0, 0.5), ErrorMix(1, 0, 0))
    calibration, validation = calibrate(SUBJECT, windows, 0.8)
    return assess(
        SUBJECT,
        windows,
        calibration,
        others={"elsewhere": unknown},
        degradation=changes,
        window_bp=24,
        validation=validation,
    )


def test_assessment() -> None:
    """Each length and rate is there; what is as it was is not asked again, and agrees."""
    found = full_assessment()
    names = [condition.name for condition in found.lengths]
    assert names == ["10 bp", "24 bp", "24 bp, of the next", "48 bp (2 windows)"]
    assert [len(condition.answers) for condition in found.lengths] == [24, 24, 23, 23]
    assert (found.lengths[1].answers.predicted == found.tested.predicted).all()
    assert (found.lengths[2].answers.predicted == found.tested.predicted[:23]).all()
    assert [condition.value for condition in found.errors] == [0.0, 0.5]
    assert found.errors[0].answers is found.tested
    assert (found.errors[1].answers.confidence != found.tested.confidence).any()
    assert found.others["elsewhere"].known.sum(0).tolist() == [6, 0]


def table_row(table: Table, **wanted: object) -> dict[str, object]:
    """The only row with these values, by key of its columns; ``group`` counts as one."""
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, (cell.value for cell in row), strict=True)) for row in table.rows]
    rows = [row | {"group": g} for row, g in zip(rows, table.groups or [""] * len(rows), strict=True)]
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_tables() -> None:
    """They say what the assessment says, in all formats."""
    found = full_assessment()
    tables = build_tables(found, TAXONOMY)
    assert list(tables) == [
        *("accuracy", "parts", "taxa", "confusions", "calibration", "answers"),
        *("lengths", "lengths_answers", "errors", "errors_answers"),
    ]
    own = score(found.tested)[1]
    row = table_row(tables["accuracy"], group="test", rank="phylum")
    assert (row["balanced_accuracy"], row["windows"], row["unknown"]) == (own.balanced, 24, 0)
    assert table_row(tables["accuracy"], group="elsewhere", rank="phylum")["balanced_accuracy"] is None
    row = table_row(tables["answers"], group="elsewhere", rank="phylum")
    assert row["answered"] is None and row["unknown"] == 6
    assert row["answered_unknown"] == found.answered(found.others["elsewhere"])[:, 1].mean()
    row = table_row(tables["answers"], group="validation, where the thresholds were chosen", rank="phylum")
    assert row["precision"] == pytest.approx(found.calibration.chosen[1].precision)
    matrix = confusion(found.tested, confused_rank(TAXONOMY), 3)
    every = full_tables(found, TAXONOMY)
    assert sum(row[2].value for row in every["confusion_matrix"].rows) == matrix.sum() == 24  # type: ignore[misc]
    assert len(every["reliability"].rows) == 2 * 2 * 15
    for form in FORMATS:
        text = render(list((tables | every).values()), form)
        assert "nan" not in text.lower().replace("nanohalo", "")
    json.dumps([table.as_json() for table in tables.values()], allow_nan=False)


def test_unreached_targets_and_chance_are_said() -> None:
    """Notes name the ranks where no threshold does, and temperatures that are not told from 1."""
    found = full_assessment()
    low = tuple(own._replace(reached=False) for own in found.calibration.chosen)
    fits = tuple(fit._replace(best=1.5, low=0.5, high=2.0) for fit in found.calibration.fits)
    changed = replace(found, calibration=replace(found.calibration, chosen=low, fits=fits))
    tables = build_tables(changed, TAXONOMY)
    assert sum("No threshold" in note for note in tables["answers"].notes) == 2
    assert sum("not told from 1" in note for note in tables["calibration"].notes) == 2


def test_page_with_hostile_names() -> None:
    """Pictures are drawn from any names, and nothing of them becomes markup."""
    pytest.importorskip("matplotlib")
    from wyrcli.classification_page import build_sections
    from wyrcli.pages import page_text

    taxa = (("<b>Left", "Ri$\\alpha$ght"), ("</table>", "\x1b[31m", "Three"))
    taxonomy = Taxonomy(TAXONOMY.ranks, taxa)
    found = full_assessment()
    sections = build_sections(["About."], build_tables(found, taxonomy), found, taxonomy, "bp")
    page = page_text("A <classifier>", sections)
    assert page.count("<img ") == 4
    assert "<b>Left" not in page and "</table></" not in page.replace("</table>\n", "") and "\x1b" not in page


def test_no_window() -> None:
    """Nothing to evaluate is an error of the input."""
    with pytest.raises(InputError, match="no window"):
        assess(SUBJECT, windows_of([], []), AS_IT_IS)


# ---------------------------------------------------------------- checkpoints


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The toy classifier as a checkpoint."""
    save_checkpoint(
        tmp_path / "toy", explanandum(), TOKENIZER, TAXONOMY, window_bp=24, training={}, notice="n"
    )
    return tmp_path / "toy"


def test_temperatures_change_probabilities_and_nothing_else(model: Path) -> None:
    """Classes, logits and everything in checkpoint.json but two keys stay; probabilities are divided."""
    before = load_checkpoint(model)
    store_calibration(model, {"superkingdom": 2.0, "phylum": 0.5}, {"superkingdom": 0.25, "phylum": 0.75})
    after = load_checkpoint(model)
    assert after.temperature == {"superkingdom": 2.0, "phylum": 0.5} and before.temperature == {}
    assert after.abstain == {"superkingdom": 0.25, "phylum": 0.75}
    assert (after.notice, after.window_bp, after.taxonomy) == ("n", 24, TAXONOMY)
    batch = TOKENIZER.batch(MIXED)
    logits = before.explanandum(batch)
    assert torch.equal(logits, after.explanandum(batch))
    classes, probabilities = after.explanandum.predict(logits)
    plain_classes, plain = before.explanandum.predict(logits)
    assert torch.equal(classes, plain_classes)
    for r, (own, temperature) in enumerate(zip(after.explanandum.split(logits), (2.0, 0.5), strict=True)):
        assert torch.equal(probabilities[:, r], (own / temperature).softmax(-1).amax(-1))
    assert (probabilities[:, 0] <= plain[:, 0]).all() and (probabilities[:, 1] >= plain[:, 1]).all()
    assert not [path.name for path in model.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("value", [0, -1, "1", True, None, 1e999])
def test_temperatures_that_are_none(model: Path, value: object) -> None:
    """A number above 0 is expected, for a rank that there is."""
    file = model / "checkpoint.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps(info | {"temperature": {"phylum": value}}))
    with pytest.raises(CheckpointError, match=r"temperature: phylum is .* expected a number above 0"):
        load_checkpoint(model)
    file.write_text(json.dumps(info | {"temperature": {"order": 1}}))
    with pytest.raises(CheckpointError, match="unknown rank 'order'"):
        load_checkpoint(model)


def test_models_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed name is found; a directory with a checkpoint comes first; anything else stays a path."""
    monkeypatch.chdir(tmp_path)
    demo = default_model()
    assert find_model(None) == demo == find_model(Path("demo")) and demo.name == "demo"
    (tmp_path / "demo").mkdir()
    assert find_model(Path("demo")) == demo
    (tmp_path / "demo" / "checkpoint.json").write_text("{}")
    assert find_model(Path("demo")) == Path("demo")
    assert find_model(Path("..")) == Path("..") and find_model(Path("x/demo")) == Path("x/demo")


def test_the_default_is_real_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is chosen by the environment; the demo keeps its name."""
    for name in ("demo", "genomes"):
        shutil.copytree(default_model(), tmp_path / name, ignore=shutil.ignore_patterns("heldout*"))
    monkeypatch.setattr("wyrcli.installed._MODELS", tmp_path)
    assert find_model(None) == tmp_path / "demo"
    monkeypatch.setenv("WYR_MODEL", str(tmp_path / "elsewhere"))
    assert find_model(None) == tmp_path / "elsewhere"
    monkeypatch.delenv("WYR_MODEL")
    assert find_model(None) == tmp_path / "genomes" and find_model(Path("demo")) == tmp_path / "demo"


# ---------------------------------------------------------------- the command


def test_models_command(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per model: name, what it knows, size, notice."""
    assert main(["models"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("\t")[:3] == ["model", "default", "taxa"]
    demo = next(line for line in lines if line.startswith("demo\t")).split("\t")
    assert demo[2] == "superkingdom 4, phylum 8, genus 16" and 1 < float(demo[3]) < 20
    assert "invented genera" in demo[5]
    assert sum("default" in line.split("\t") for line in lines) == 1


def run(*arguments: str | Path) -> int:
    """The command with few reads of few kinds."""
    few = ["--lengths", "150,600,3000", "--error-rates", "0,10", "-q", "-t", "1"]
    return main(["evaluate", "--classifier", *map(str, arguments), *few])


def test_classifier_command(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All outputs agree; --calibrate changes the model, and a later run uses what it stored."""
    model = tmp_path / "model"
    shutil.copytree(default_model(), model, ignore=shutil.ignore_patterns("explainers"))
    files = {form: tmp_path / f"x.{form}" for form in ("tsv", "json", "markdown", "latex")}
    written = [part for form, path in files.items() for part in (f"--{form}", path)]
    assert run("--model", model, "--data", dataset, "--calibrate", "--target-precision", "0.9", *written) == 0
    text = capsys.readouterr().out
    assert "Accuracy of the classifier" in text and "10 %" in text and "150 bp" in text
    content = json.loads(files["json"].read_text())
    tables = {table["key"]: table for table in content["tables"]}
    row = tables["accuracy"]["rows"][0]
    n = len(Dataset.open(dataset).split("test"))
    assert row["group"] == "test" and row["cells"]["windows"]["value"] == n == content["windows"]
    assert len(content["confusion"]["matrix"]) == 8
    stored = json.loads((model / "checkpoint.json").read_text())
    assert stored["temperature"] == content["calibration"]["temperature"]
    assert stored["abstain"] == content["calibration"]["abstain"]
    assert "# Balanced accuracy by read length" in files["tsv"].read_text()
    again = tmp_path / "again.json"
    assert run("--model", model, "--data", dataset, "--json", again) == 0
    later = json.loads(again.read_text())
    assert later["calibration"]["source"] == "stored in the model"
    assert later["calibration"]["abstain"] == stored["abstain"]
    rows = [{t["key"]: t for t in c["tables"]}["calibration"]["rows"] for c in (content, later)]
    assert [r["cells"]["ece_after"] for r in rows[0]] == [r["cells"]["ece_after"] for r in rows[1]]


def test_classifier_of_unknown_taxa(dataset: Path, tmp_path: Path) -> None:
    """Genera without a class are counted, and scored at the ranks that are known."""
    model = tmp_path / "model"
    shutil.copytree(default_model(), model, ignore=shutil.ignore_patterns("explainers", "heldout*"))
    file = model / "taxonomy.json"
    content = json.loads(file.read_text())
    content["ranks"][2]["taxa"] = [f"X{name}" for name in content["ranks"][2]["taxa"]]
    content["ranks"][2]["taxids"] = [9000 + i for i in range(16)]
    file.write_text(json.dumps(content))
    out = tmp_path / "x.json"
    assert run("--model", model, "--data", dataset, "--unknown", dataset, "--json", out) == 0
    tables = {table["key"]: table for table in json.loads(out.read_text())["tables"]}
    cells = [row["cells"] for row in tables["accuracy"]["rows"]]
    n = len(Dataset.open(dataset).split("test"))
    assert (
        [c["windows"]["value"] for c in cells[:3]] == [n, n, 0] == [c["windows"]["value"] for c in cells[3:6]]
    )
    assert cells[2]["unknown"]["value"] == n and cells[2]["balanced_accuracy"]["value"] is None
    assert cells[1]["balanced_accuracy"]["value"] > 0.5


def test_classifier_on_kept_reads(tmp_path: Path) -> None:
    """Without --data, on the reads that the model kept aside, a few of each genus."""
    out = tmp_path / "x.json"
    assert run("--model", "demo", "--reads", "48", "--json", out) == 0
    content = json.loads(out.read_text())
    assert content["windows"] == 48 and content["calibration"]["source"] == "none"
    tables = {table["key"]: table for table in content["tables"]}
    assert tables["accuracy"]["rows"][2]["cells"]["classes"]["value"] == 16
    assert tables["accuracy"]["rows"][0]["cells"]["balanced_accuracy"]["value"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--table"], 2, "goes by itself"),
        (["--calibrate"], 2, "needs --data"),
        (["--lengths", "x"], 2, "expected numbers by comma"),
        (["--lengths", "1.5"], 2, "whole numbers"),
        (["--error-rates", "101"], 2, "percentages"),
        (["--error-mix", "1,2"], 2, "three numbers"),
        (["--data", "/nowhere"], 1, "not a dataset"),
        (["--model", "nothing-of-that-name"], 1, "not a wyr checkpoint"),
    ],
)
def test_what_cannot_be_asked_for(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage errors are 2, a user's files 1, each in one line or box."""
    assert main(["evaluate", "--classifier", *arguments]) == code
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_options_of_the_classifier_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """--unknown and --calibrate say nothing about masks."""
    assert main(["evaluate", "--table", "--calibrate"]) == 2
    assert "--classifier" in capsys.readouterr().err


def test_a_dataset_that_has_nothing_to_do_with_it(
    dataset: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other ranks, no taxon in common, or nothing to calibrate on, is an error that names the dataset."""
    assert run("--model", model, "--data", dataset) == 1
    assert f"{dataset}: its ranks are superkingdom, phylum, genus" in capsys.readouterr().err
    strange = tmp_path / "strange"
    shutil.copytree(dataset, strange)
    taxonomy = Taxonomy.load(strange / "taxonomy.json")
    others = tuple(tuple(f"X{name}" for name in names) for names in taxonomy.taxa)
    (strange / "taxonomy.json").write_text(Taxonomy(taxonomy.ranks, others).to_json())
    assert run("--model", "demo", "--data", strange) == 1
    assert f"{strange}: the model knows none of its taxa" in capsys.readouterr().err
    before = (default_model() / "checkpoint.json").read_bytes()
    empty = tmp_path / "empty"
    shutil.copytree(dataset, empty)
    info = json.loads((empty / "dataset.json").read_text())
    info["splits"]["validation"] = 0
    (empty / "dataset.json").write_text(json.dumps(info))
    for end in ("offsets", "lengths", "labels"):
        array = np.load(empty / f"validation.{end}.npy")
        np.save(empty / f"validation.{end}.npy", array[:0])
    assert run("--model", "demo", "--data", empty, "--calibrate") == 1
    assert "--calibrate needs some" in capsys.readouterr().err
    assert (default_model() / "checkpoint.json").read_bytes() == before


def test_a_run_that_fails_leaves_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a file nor a changed model."""
    model = tmp_path / "model"
    shutil.copytree(default_model(), model, ignore=shutil.ignore_patterns("explainers"))
    before = (model / "checkpoint.json").read_bytes()

    def stop(*_: object, **__: object) -> None:
        raise InputError("stopped")

    monkeypatch.setattr("wyrcli.classification_tables.build_tables", stop)
    out = tmp_path / "x.json"
    assert run("--model", model, "--data", dataset, "--calibrate", "--json", out) == 1
    assert not out.exists() and (model / "checkpoint.json").read_bytes() == before
