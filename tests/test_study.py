"""Tables of a study, by hand, and the whole of it on a toy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy import TAXONOMY, TOKENIZER, ConstantExplainer, explainer, explanandum, labelled

from wyrcli.attribution import Options
from wyrcli.audit import CHECKS
from wyrcli.dataset import LabelledWindows, _Places
from wyrcli.evaluation import CONDITIONS, ORACLE, Truth, count_passes, evaluate
from wyrcli.examination import Subject, examine
from wyrcli.keeping import Shelf
from wyrcli.result_tables import Cell, Table
from wyrcli.study import (
    Named,
    StudyOptions,
    _mark_best,
    class_table,
    conditions_table,
    cost_table,
    count_parts,
    draw_group_weights,
    examine_classes,
    study,
)
from wyrcli.study_page import build_sections

N = 48
RAW = labelled(N)
WINDOWS = LabelledWindows(
    RAW.sequences,
    RAW.labels.astype(np.int32),
    lambda: _Places(RAW.names, RAW.starts, RAW.starts + 24, RAW.names),
)
SUBJECT = Subject(explanandum(), TOKENIZER, torch.device("cpu"), 16)
TRUTH = Truth({name: np.array([[0, 6]]) for name in RAW.names})


def column(table: Table, key: str) -> list[Cell]:
    """One column of a table."""
    (place,) = [i for i, own in enumerate(table.columns) if own.key == key]
    return [row[place] for row in table.rows]


def test_conditions_and_intervals() -> None:
    """The rows are those of the evaluation; each value lies in its interval; progress adds up."""
    told: list[int] = []
    result = evaluate(
        SUBJECT, explainer("state"), "gate", WINDOWS, controls=True, oracle=True,
        explainer_name="state-gate", on_batch=told.append,
    )  # fmt: skip
    assert sum(told) == N * count_passes(controls=True, oracle=True)
    names = list(result.predicted)
    assert tuple(names[:7]) == CONDITIONS and set(ORACLE) < set(names)
    table = conditions_table([result], TAXONOMY.ranks, draw_group_weights(WINDOWS, 0))
    assert [cell.value for cell in column(table, "condition")] == names
    for rank, cells in enumerate(column(table, rank) for rank in TAXONOMY.ranks):
        assert [cell.value for cell in cells] == [scores[rank] for scores in result.accuracy.values()]
        assert all(cell.low <= cell.value <= cell.high for cell in cells)  # type: ignore[operator]
    kept = result.tokens_kept
    assert kept["control: random spans"] == pytest.approx(kept["rounded masks"])
    assert kept["control: everything"] == 1 and kept["control: constant"] == pytest.approx(kept["masks"])
    assert result.accuracy["control: everything"] == result.accuracy["unmasked"]


def test_oracle_masks_are_those_of_the_true_classes() -> None:
    """They differ from the others only where the classifier is wrong."""
    result = evaluate(SUBJECT, explainer("state"), "gate", WINDOWS, oracle=True)
    right = (result.examined.predicted == result.examined.labels).all(1)
    assert 0 < right.sum() < N
    for own, oracle in zip(("masks", "rounded masks"), ORACLE, strict=False):
        same = (result.predicted[own] == result.predicted[oracle]).all(1)
        assert same[right].all() and np.allclose(result.kept[own][right], result.kept[oracle][right])
    assert not np.allclose(result.kept["masks"][~right], result.kept[ORACLE[0]][~right])


def test_classes_by_loop() -> None:
    """Each cell of the matrix, window by window."""
    model = explainer("state", seed=2)
    examined = examine(SUBJECT, model, WINDOWS)
    found = examine_classes(SUBJECT, model, "gate", examined, 1)
    called = examined.predicted[:, 1]
    for c in range(TAXONOMY.sizes[1]):
        for d in range(TAXONOMY.sizes[1]):
            same = []
            for i in np.flatnonzero(called == c):
                classes = examined.predicted[i : i + 1].copy()
                classes[0, 1] = d
                other = examine(SUBJECT, model, WINDOWS.select(np.array([i])), classes)
                mask = (other.rank_masks[0][:, 1] > 0.5).astype(np.float32)
                answer = SUBJECT.log_probabilities([RAW.sequences[i]], [mask])
                same.append(SUBJECT.best(answer)[0, 1] == c)
            assert np.isnan(found[c, d]) if not same else found[c, d] == pytest.approx(np.mean(same))
    table = class_table(found, TAXONOMY.taxa[1], TAXONOMY.ranks[1])
    assert len(table.rows) == TAXONOMY.sizes[1]


def test_best_of_a_column() -> None:
    """The highest, or where lower is better the lowest; ties all; what was not measured never."""
    rows = [[Cell(1.0), Cell(1.0)], [Cell(3.0), Cell(float("nan"))], [Cell(3.0), Cell(0.5)]]
    _mark_best(rows, [False, True])
    assert [[cell.best for cell in row] for row in rows] == [[False, False], [True, False], [True, True]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of kept parts."""
    return tmp_path_factory.mktemp("parts")


def run(folder: Path, told: list[str] | None = None) -> tuple[list[Named], object]:
    """A whole study of two Explainers of the toy."""
    explainers = [
        Named("state-gate", "gate", explainer("state"), 100.0),
        Named("ones", "gate", ConstantExplainer(3.0)),
    ]
    options = StudyOptions(["random", "occlusion", "lime"], Options(lime_samples=50), 12)
    results = [
        evaluate(SUBJECT, own.explainer, own.operator, WINDOWS, truth=TRUTH, explainer_name=own.name)
        for own in explainers
    ]
    found = study(
        SUBJECT, explainers, WINDOWS, results, TAXONOMY, options,
        truth=TRUTH, shelf=Shelf(folder, "toy"), on_part=(told if told is not None else []).append,
    )  # fmt: skip
    if told is not None:
        assert len(told) == count_parts(explainers, options)
    return explainers, (results, found)


@pytest.mark.timeout(300)
def test_a_study(parts: Path) -> None:
    """All methods and checks are there, a second run finds them again, and the page holds it all."""
    told: list[str] = []
    _, (results, found) = run(parts, told)  # type: ignore[misc]
    names = ["state-gate", "ones", "random", "occlusion", "lime"]
    assert [method.name for method in found.methods] == names
    for key in ("truth", "methods", "shares", "cost"):
        assert [cell.value for cell in column(found.tables[key], "method")] == names
    assert set(found.audits) == {"state-gate", "ones"}
    assert all([c.name for c in checks] == list(CHECKS) for checks in found.audits.values())
    verdicts = {c.name: c.verdict for c in found.audits["ones"]}
    assert verdicts["empty or full masks"] == "fail" and verdicts["area"] == "fail"
    occlusion = found.methods[3].scores
    _, (_, again) = run(parts)  # type: ignore[misc]
    assert all(np.array_equal(a, b) for a, b in zip(occlusion, again.methods[3].scores, strict=True))
    assert again.methods[3].seconds == found.methods[3].seconds  # not measured anew
    assert str(again.audits) == str(found.audits)  # NaN is like NaN there
    tables = {"conditions": conditions_table(results, TAXONOMY.ranks, draw_group_weights(WINDOWS, 0))}
    tables |= found.tables
    sections = build_sections(["About."], tables, results, found.statistics, found, TRUTH, "bp")
    headings = [section.heading for section in sections]
    assert headings[1].startswith("Audit") and "One read, all methods" in headings


def test_cost(parts: Path) -> None:
    """Break-even is where training and explaining have taken as long as the peer."""
    _, (_, found) = run(parts)  # type: ignore[misc]
    table = cost_table(found.methods)
    own, *_, lime = found.methods
    even = column(table, "break_even")[-1].value
    each, ours = lime.seconds / 12, own.seconds / 12
    assert isinstance(even, int)
    assert (even - 1) * each < own.training + (even - 1) * ours and even * each >= own.training + even * ours
    assert column(table, "break_even")[0].value is None
