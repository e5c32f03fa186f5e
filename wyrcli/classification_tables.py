"""What :mod:`wyrcli.classification` found, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wyrcli.calibration import BINS, reliability
from wyrcli.classification import Answers, Assessment, Condition, Score, confusion, score
from wyrcli.metrics import draw_weights, interval, weighted_mean
from wyrcli.result_tables import Cell, Column, Table
from wyrcli.taxonomy import Taxonomy

__all__ = ["PUBLISHED", "build_tables", "confused_rank", "full_tables"]

Row = list[Cell | str | float | int | None]

PUBLISHED = {
    "paper: published weights, fine-tuned": (0.9905, 0.9739, 0.7167),
    "paper: the same network from random weights": (0.9532, 0.8745, 0.4993),
}
"""Balanced accuracy at superkingdom, phylum and genus in the paper's tables, on its own, far larger data."""

_OF_LENGTHS = (
    "Lengths up to a window are pieces of the same windows, from a random place. Longer reads are windows "
    "side by side, whose log-probabilities are averaged; above each stand the first of these windows alone."
)
_OF_ERRORS = "Errors at random places: {}. Reads are cut to their old length, and the same at all rates."
_MOST_CONFUSED = 15  # rows of that table
_FEW_CLASSES = 60  # a matrix of more classes than these is no picture


def confused_rank(taxonomy: Taxonomy) -> int:
    """Number of the rank whose confusions are shown: phylum, or else the narrowest with few classes."""
    if "phylum" in taxonomy.ranks:
        return taxonomy.rank_index("phylum")
    few = [r for r, size in enumerate(taxonomy.sizes) if size <= _FEW_CLASSES]
    return few[-1] if few else 0


def build_tables(found: Assessment, taxonomy: Taxonomy, seed: int = 0) -> dict[str, Table]:
    """The tables that people read, by key."""
    tables = [_accuracy_table(found, taxonomy, seed)]
    if len(taxonomy.ranks) > 1:
        tables.append(_parts_table(found.tested, taxonomy, seed))
    tables += [
        _taxa_table(found.tested, taxonomy, seed),
        _confusion_table(found.tested, taxonomy),
        _calibration_table(found, taxonomy),
        _answers_table(found, taxonomy, seed),
    ]
    for key, title, conditions, note in (
        ("lengths", "read length", found.lengths, _OF_LENGTHS),
        ("errors", "sequencing error rate", found.errors, _OF_ERRORS.format(found.degradation.mix)),
    ):
        if conditions:
            tables += _conditions_tables(key, title, conditions, found, taxonomy, seed, note)
    return {table.key: table for table in tables}


def full_tables(found: Assessment, taxonomy: Taxonomy) -> dict[str, Table]:
    """The tables that only programs read: the matrix of confusions and the reliability curves."""
    rank = confused_rank(taxonomy)
    names = taxonomy.taxa[rank]
    matrix = confusion(found.tested, rank, len(names))
    pairs: list[Row] = [
        [names[t], names[p], int(matrix[t, p]), matrix[t, p] / matrix[t].sum()]
        for t, p in zip(*np.nonzero(matrix), strict=True)
    ]
    columns = [
        Column("truth", taxonomy.ranks[rank]),
        Column("answer", "called"),
        Column("windows", "windows", "count"),
        Column("share", "of that taxon", "percent"),
    ]
    matrix_table = Table("confusion_matrix", f"All confusions at {taxonomy.ranks[rank]}", columns, pairs)
    rows: list[Row] = []
    for r, when, curve in _curves(found.tested):
        for b in range(BINS):
            confidence, accuracy = curve.confidence[b], curve.accuracy[b]
            rows.append([taxonomy.ranks[r], when, b / BINS, (b + 1) / BINS, int(curve.counts[b]), confidence,
                         accuracy])  # fmt: skip
    columns = [
        Column("rank", "rank"),
        Column("probabilities", "probabilities"),
        Column("above", "above", "number"),
        Column("up_to", "up to", "number"),
        Column("windows", "windows", "count"),
        Column("confidence", "mean probability", "percent"),
        Column("accuracy", "right", "percent"),
    ]
    curves = Table("reliability", "Reliability of probabilities", columns, rows)
    return {own.key: own for own in (matrix_table, curves)}


def _curves(answers: Answers) -> Iterator[tuple[int, str, Any]]:
    """Number of the rank, which probabilities, and their reliability."""
    for r in range(answers.labels.shape[1]):
        rows = answers.known[:, r]
        for when, confidence in (("raw", answers.raw), ("calibrated", answers.confidence)):
            yield r, when, reliability(confidence[rows, r], answers.right[rows, r])


# ---------------------------------------------------------------- how often it is right


def _accuracy_table(found: Assessment, taxonomy: Taxonomy, seed: int) -> Table:
    columns = [
        Column("rank", "rank"),
        Column("balanced_accuracy", "balanced accuracy", "percent"),
        Column("accuracy", "accuracy", "percent"),
        Column("windows", "windows", "count"),
        Column("genomes", "genomes", "count"),
        Column("classes", "classes", "count"),
        Column("unknown", "of unknown taxa", "count"),
    ]
    rows: list[Row] = []
    groups = []
    for name, answers in ((found.name, found.tested), *found.others.items()):
        for rank, own in zip(taxonomy.ranks, score(answers, seed), strict=True):
            rows.append(
                [rank, _balanced(own), _plain(own), own.windows, own.groups, own.classes, own.unknown]
            )
            groups.append(name)
    if taxonomy.ranks == ("superkingdom", "phylum", "genus"):
        for name, published in PUBLISHED.items():
            for rank, value in zip(taxonomy.ranks, published, strict=True):
                rows.append([rank, value, *[None] * 5])
                groups.append(name)
    notes = [
        "Balanced: mean over the classes that the truth has. Intervals: 95 %, 1,000 bootstrap draws of whole "
        "genomes (records where the data knows no genomes). A window whose taxon the classifier has no class "
        "for is not scored at that rank."
    ]
    if taxonomy.ranks == ("superkingdom", "phylum", "genus"):
        notes.append("The paper's numbers are of other data with 1,878 genera: no comparison, only a scale.")
    return Table("accuracy", "Accuracy of the classifier", columns, rows, groups, notes)


def _balanced(own: Score) -> Cell:
    return Cell(own.balanced, own.low, own.high)


def _plain(own: Score) -> Cell:
    return Cell(own.accuracy, own.accuracy_low, own.accuracy_high)


def _parts_table(answers: Answers, taxonomy: Taxonomy, seed: int) -> Table:
    """Balanced accuracy within each taxon of the widest rank."""
    columns = [
        Column("taxon", taxonomy.ranks[0]),
        *(Column(rank, rank, "percent") for rank in taxonomy.ranks),
        *(Column(f"{rank}_classes", f"classes of {rank}", "count") for rank in taxonomy.ranks[1:]),
        Column("windows", "windows", "count"),
        Column("genomes", "genomes", "count"),
    ]
    rows: list[Row] = []
    for number in np.unique(answers.labels[answers.known[:, 0], 0]):
        own = answers.select(answers.labels[:, 0] == number)
        scores = score(own, seed)
        rows.append(
            [
                taxonomy.taxa[0][number],
                *(_balanced(s) for s in scores),
                *(s.classes for s in scores[1:]),
                len(own),
                len(np.unique(own.groups)),
            ]
        )
    return Table("parts", f"Balanced accuracy within each {taxonomy.ranks[0]}", columns, rows)


def _taxa_table(answers: Answers, taxonomy: Taxonomy, seed: int) -> Table:
    """How often each taxon is recognised, and what it is called most often instead."""
    rank = confused_rank(taxonomy)
    names = taxonomy.taxa[rank]
    matrix = confusion(answers, rank, len(names))
    rows: list[Row] = []
    for number in np.argsort(-matrix.sum(1), kind="stable"):
        members = int(matrix[number].sum())
        if members == 0:
            continue
        own = answers.select(answers.labels[:, rank] == number)
        right = own.right[:, rank].astype(np.float64)
        low, high = interval(weighted_mean(right, draw_weights(len(own), own.groups, seed=seed)))
        called = int(matrix[:, number].sum())
        others = matrix[number].copy()
        others[number] = 0
        worst = int(others.argmax())
        rows.append(
            [
                names[number],
                Cell(float(right.mean()), low, high),
                matrix[number, number] / called if called else None,
                names[worst] if others[worst] else None,
                others[worst] / members if others[worst] else None,
                members,
                len(np.unique(own.groups)),
            ]
        )
    columns = [
        Column("taxon", taxonomy.ranks[rank]),
        Column("recognised", "recognised", "percent"),
        Column("precision", "right when named", "percent"),
        Column("instead", "most often called instead"),
        Column("instead_share", "how often", "percent"),
        Column("windows", "windows", "count"),
        Column("genomes", "genomes", "count"),
    ]
    notes = ["An interval over a single genome has no width: how another genome would do is not known."]
    return Table("taxa", f"Each {taxonomy.ranks[rank]}", columns, rows, notes=notes)


def _confusion_table(answers: Answers, taxonomy: Taxonomy) -> Table:
    """The largest confusions."""
    rank = confused_rank(taxonomy)
    names = taxonomy.taxa[rank]
    matrix = confusion(answers, rank, len(names))
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    members = np.maximum(matrix.sum(1, keepdims=True), 1)
    order = np.argsort(-(wrong / members), axis=None, kind="stable")[:_MOST_CONFUSED]
    rows: list[Row] = []
    for truth, answer in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[truth, answer]:
            share = wrong[truth, answer] / members[truth, 0]
            rows.append([names[truth], names[answer], share, int(wrong[truth, answer])])
    columns = [
        Column("truth", taxonomy.ranks[rank]),
        Column("answer", "called"),
        Column("share", "of that taxon", "percent"),
        Column("windows", "windows", "count"),
    ]
    return Table("confusions", f"The largest confusions at {taxonomy.ranks[rank]}", columns, rows)


# ---------------------------------------------------------------- how sure it is


def _calibration_table(found: Assessment, taxonomy: Taxonomy) -> Table:
    """What temperature does to the probabilities of the test windows."""
    answers = found.tested
    rows: list[Row] = []
    errors = {(r, when): curve.error for r, when, curve in _curves(answers)}
    for r, rank in enumerate(taxonomy.ranks):
        known = answers.known[:, r]
        rows.append(
            [
                rank,
                _temperature(found, r),
                _mean(answers.right[known, r]),
                _mean(answers.raw[known, r]),
                _mean(answers.confidence[known, r]),
                errors[r, "raw"],
                errors[r, "calibrated"],
                _mean(answers.raw_loss[known, r]),
                _mean(answers.loss[known, r]),
            ]
        )
    columns = [
        Column("rank", "rank"),
        Column("temperature", "temperature", "number"),
        Column("accuracy", "right", "percent"),
        Column("confidence_before", "mean probability before", "percent"),
        Column("confidence_after", "after", "percent"),
        Column("ece_before", "calibration error before", "number"),
        Column("ece_after", "after", "number"),
        Column("nll_before", "log-loss before", "number"),
        Column("nll_after", "after", "number"),
    ]
    notes = [
        f"Temperatures: {found.calibration.source}. Before and after them, on the windows of "
        f"{found.name}. Calibration error: mean distance between probability and share of right answers "
        f"over {BINS} bins."
    ]
    for rank, fit in zip(taxonomy.ranks, found.calibration.fits, strict=False):
        if fit.used != fit.best:
            notes.append(
                f"The best temperature at {rank}, {fit.best:.2f}, is not told from 1 by the "
                f"{found.calibration.groups:,} genomes of the validation split "
                f"({fit.low:.2f} to {fit.high:.2f}), so 1 it is."
            )
    return Table("calibration", "Do its probabilities mean what they say?", columns, rows, notes=notes)


def _temperature(found: Assessment, rank: int) -> Cell:
    fits = found.calibration.fits
    between = (fits[rank].low, fits[rank].high) if fits and fits[rank].used == fits[rank].best else ()
    return Cell(found.calibration.temperatures[rank], *between)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _answers_table(found: Assessment, taxonomy: Taxonomy, seed: int) -> Table:
    """How often the classifier is sure, and right then."""
    columns = [Column("rank", "rank"), Column("threshold", "threshold", "number")]
    columns += [
        Column("answered", "answered", "percent"),
        Column("precision", "right of these", "percent"),
        Column("answered_unknown", "answered of unknown taxa", "percent"),
        Column("windows", "windows", "count"),
        Column("unknown", "of unknown taxa", "count"),
    ]
    rows: list[Row] = []
    groups = []
    sets = [(found.name, found.tested), *found.others.items()]
    if found.validation is not None:
        sets.insert(0, ("validation, where the thresholds were chosen", found.validation))
    for name, answers in sets:
        sure = found.answered(answers)
        weights = draw_weights(len(answers), answers.groups, seed=seed)
        for r, rank in enumerate(taxonomy.ranks):
            known = answers.known[:, r]
            rows.append(
                [
                    rank,
                    found.calibration.thresholds[r],
                    _share(np.where(known, sure[:, r], np.nan), weights),
                    _share(np.where(known & sure[:, r], answers.right[:, r], np.nan), weights),
                    _share(np.where(known, np.nan, sure[:, r]), weights),
                    int(known.sum()),
                    int((~known).sum()),
                ]
            )
            groups.append(name)
    notes = [
        f"Thresholds: {found.calibration.source}. Below one, at this rank or a wider one, no taxon is named. "
        "Whatever is named for an unknown taxon is wrong."
    ]
    for rank, chosen in zip(taxonomy.ranks, found.calibration.chosen, strict=False):
        if not chosen.reached:
            notes.append(
                f"No threshold at {rank} reaches the precision that was asked for; the nearest has "
                f"{100 * chosen.precision:.1f} % on the validation split."
            )
    return Table("answers", "When it is sure enough to answer", columns, rows, groups, notes)


def _share(values: NDArray[np.float64], weights: NDArray[np.float32]) -> Cell:
    """Mean of what is not NaN."""
    counted = values[~np.isnan(values)]
    if len(counted) == 0:
        return Cell(None)
    return Cell(float(counted.mean()), *interval(weighted_mean(values, weights)))


# ---------------------------------------------------------------- other reads


def _conditions_tables(
    key: str,
    title: str,
    conditions: Sequence[Condition],
    found: Assessment,
    taxonomy: Taxonomy,
    seed: int,
    note: str,
) -> list[Table]:
    """Balanced accuracy by length or error rate; and how often the classifier is sure, and right then."""
    ranks = taxonomy.ranks
    columns = [
        Column("reads", "reads"),
        *(Column(rank, rank, "percent") for rank in ranks),
        Column("windows", "number", "count"),
        Column("classes", f"classes of {ranks[-1]}", "count"),
    ]
    answer_columns = [
        Column("reads", "reads"),
        *(
            Column(f"{rank}_{name}", f"{rank} {heading}", "percent")
            for rank in ranks
            for name, heading in (("answered", "answered"), ("precision", "right then"))
        ),
    ]
    rows: list[Row] = []
    answer_rows: list[Row] = []
    for condition in conditions:
        answers = condition.answers
        scores = score(answers, seed)
        rows.append([condition.name, *map(_balanced, scores), len(answers), scores[-1].classes])
        sure = found.answered(answers)
        cells: Row = []
        for r in range(len(ranks)):
            known = answers.known[:, r]
            cells += [_mean(sure[known, r]), _mean(answers.right[known & sure[:, r], r])]
        answer_rows.append([condition.name, *cells])
    return [
        Table(key, f"Balanced accuracy by {title}", columns, rows, notes=[note]),
        Table(f"{key}_answers", f"Answers above the thresholds by {title}", answer_columns, answer_rows),
    ]
