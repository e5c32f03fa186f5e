"""All that ``wyr evaluate`` finds out about Explainers, as tables and figures.

Here nothing is measured that :mod:`wyrcli.evaluation`, :mod:`wyrcli.faithfulness`, :mod:`wyrcli.peers` and
:mod:`wyrcli.audit` do not measure: this module asks them in turn and puts their answers side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.audit import CHECKS, AuditOptions, Check, audit
from wyrcli.dataset import LabelledWindows
from wyrcli.evaluation import ORACLE, PUBLISHED, Evaluation, Truth, locate
from wyrcli.examination import EvaluatedWindows, Examined, Subject, examine
from wyrcli.faithfulness import Faithfulness, Localised, localise, lower_is_better, measure
from wyrcli.figures import MaskStatistics, mask_statistics
from wyrcli.keeping import Shelf
from wyrcli.metrics import draw_weights, interval, number_groups, weighted_average_precision, weighted_mean
from wyrcli.model.explainer import Explainer
from wyrcli.peers import PEERS, Options
from wyrcli.result_tables import Cell, Column, Style, Table
from wyrcli.taxonomy import Taxonomy

__all__ = [
    "Method",
    "Named",
    "Study",
    "StudyOptions",
    "audit_table",
    "class_table",
    "compare",
    "conditions_table",
    "cost_table",
    "count_parts",
    "difference_table",
    "draw_group_weights",
    "examine_classes",
    "faithfulness_table",
    "localisation_table",
    "methods_table",
    "share_table",
    "statistics_table",
    "study",
]

Row = list[Cell | str | float | int | None]
_FEWEST_GROUPS = 10
_MATRIX_WINDOWS = 200  # of the table of classes
_FEW_CLASSES = 20  # a table of more classes than these cannot be read


class Named(NamedTuple):
    """An Explainer, its name, and the operator that it was trained for.

    ``seconds``: what its training took; NaN if that is not known.
    """

    name: str
    operator: str
    explainer: Explainer
    seconds: float = float("nan")


# ---------------------------------------------------------------- Table 1


def conditions_table(
    results: Sequence[Evaluation], ranks: Sequence[str], weights: NDArray[np.float32]
) -> Table:
    """Balanced accuracy by condition, a group of rows per Explainer; the paper's numbers where ranks agree.

    ``weights``: (draws, N) of the bootstrap.
    """
    rows: list[Row] = []
    groups: list[str] = []
    for result in results:
        intervals = result.intervals(weights)
        for condition, scores in result.accuracy.items():
            cells = [Cell(s, *bounds) for s, bounds in zip(scores, intervals[condition], strict=True)]
            rows.append([condition, *cells, Cell(result.tokens_kept[condition])])
            groups.append(f"{result.explainer} (operator {result.operator})")
    if tuple(ranks) == ("superkingdom", "phylum", "genus"):
        for condition, published in PUBLISHED.items():
            rows.append([condition, *map(Cell, published), Cell(None)])
            groups.append(
                "published in the paper: another classifier, other reads, masks of the true classes"
            )
    notes = [
        "Masks are those of the predicted classes. Rounded: 1 above 0.5. Chunks are cut out and classified "
        "one by one; a window without any gets the answer to nothing at all."
    ]
    if any(name in results[0].predicted for name in ORACLE):
        notes.append("Oracle: masks of the true classes, which nobody has where a tool like this is used.")
    if any(name.startswith("control") for name in results[0].predicted):
        notes.append(
            "Controls know nothing of the sequence. All but the last two keep as many tokens as the rounded "
            "masks."
        )
    columns = [
        Column("condition", "Condition"),
        *(Column(rank, rank, "percent") for rank in ranks),
        Column("tokens_kept", "kept", "percent"),
    ]
    n = results[0].n_windows
    return Table(
        "conditions",
        f"Balanced accuracy by rank, and tokens kept ({n:,} windows)",
        columns,
        rows,
        groups,
        notes,
    )


def localisation_table(results: Sequence[Evaluation]) -> Table:
    """How the masks agree with the planted truth."""
    columns = [
        Column("explainer", "Explainer"),
        Column("auprc", "token AUPRC", "number"),
        Column("prevalence", "random", "number"),
        Column("planted_called", "of planted", "percent"),
        Column("decoys_called", "of decoys", "percent"),
        Column("background_called", "of background", "percent"),
    ]
    rows: list[Row] = [
        [result.explainer, *result.localisation] for result in results if result.localisation is not None
    ]
    notes = ["The last three: share of such tokens that are called important (mask above 0.5)."]
    return Table("localisation", "Agreement with the planted truth", columns, rows, notes=notes)


def statistics_table(statistics: Mapping[str, MaskStatistics]) -> Table:
    """What the masks look like (paper, figures 5 to 7)."""
    columns = [
        Column("explainer", "Explainer"),
        Column("mean", "mean mask", "number"),
        Column("relevant", "above 0.5", "percent"),
        Column("undecided", "from 0.1 to 0.9", "percent"),
        Column("chunks", "chunks per window", "number"),
        Column("length", "median length", "number"),
        Column("longest", "95 % are shorter than", "number"),
    ]
    rows: list[Row] = []
    for name, own in statistics.items():
        lengths = own.chunk_letter_quantiles
        rows.append(
            [
                *(name, own.mean, own.share_relevant, own.share_undecided, own.mean_chunks),
                *(float(lengths[3]), float(lengths[5])),
            ]
        )
    return Table("masks", "What the masks are like", columns, rows, notes=["Lengths of chunks in letters."])


# ---------------------------------------------------------------- classes


def examine_classes(
    subject: Subject, explainer: Explainer, operator: str, examined: Examined, rank: int
) -> NDArray[np.float64]:
    """Whether the mask of one class lets another one be seen: (C, C) for the classes of a rank.

    Row c, column d: of the windows called c, the share that is still called c when only what the mask of
    d keeps is left (rounded, of that rank alone).  NaN for a class that no window is called.
    """
    size = subject.explanandum.sizes[rank]
    called = examined.predicted[:, rank]
    same = np.empty((len(examined), size))
    for d in range(size):
        classes = examined.predicted.copy()
        classes[:, rank] = d
        other = examine(subject, explainer, examined.windows, classes)
        masks = [(mask[:, rank] > 0.5).astype(np.float32) for mask in other.rank_masks]
        answers = subject.log_probabilities(examined.sequences, masks, operator)
        same[:, d] = subject.best(answers)[:, rank] == called
    found = np.full((size, size), np.nan)
    for c in np.unique(called):
        found[c] = same[called == c].mean(0)
    return found


def class_table(found: NDArray[np.float64], taxa: Sequence[str], rank: str) -> Table:
    """The matrix of :func:`examine_classes`; ``taxa`` are the names of its classes."""
    columns = [Column("called", f"{rank} called"), *(Column(taxon, taxon, "percent") for taxon in taxa)]
    rows: list[Row] = [
        [taxon, *(Cell(float(value), best=c == d) for d, value in enumerate(row))]
        for c, (taxon, row) in enumerate(zip(taxa, found, strict=True))
    ]
    notes = [
        f"Share of the windows that keep their {rank} under the rounded mask of the column's. High on the "
        "diagonal and low elsewhere: a mask shows its own class and no other."
    ]
    return Table("classes", f"Class against class ({rank})", columns, rows, notes=notes)


def has_few_classes(size: int) -> bool:
    """Whether a table of so many classes can be read."""
    return size <= _FEW_CLASSES


# ---------------------------------------------------------------- peers


@dataclass(frozen=True, eq=False)
class Method:
    """An Explainer or a peer, and what its scores are worth.

    ``scores``: of each of M windows (T_i,).  ``seconds``: for all of them.  ``passes``: forward passes of the
    classifier per window.  ``training``: seconds before the first explanation.  ``drawn_auprc``: token AUPRC
    of each draw of the bootstrap, where there is a truth.
    """

    name: str
    scores: Sequence[NDArray[np.floating[Any]]]
    seconds: float
    passes: float
    faithfulness: Faithfulness
    localised: Localised | None
    drawn_auprc: NDArray[np.float64]
    training: float = 0.0
    is_ours: bool = False

    @property
    def per_second(self) -> float:
        """Windows per second."""
        return len(self.scores) / max(self.seconds, 1e-9)


Remember = Callable[[str, Callable[[], tuple[list[NDArray[np.float64]], float]]], Any]
"""Name of a peer and how to compute its scores and seconds, to these; it may have kept them from before."""


def compare(
    subject: Subject,
    ours: Sequence[Named],
    windows: EvaluatedWindows,
    weights: NDArray[np.float32],
    *,
    peers: Sequence[str],
    options: Options,
    removal: str,
    truth: Truth | None = None,
    remember: Remember = lambda name, compute: compute(),
    on_method: Callable[[str], None] = lambda name: None,
) -> list[Method]:
    """Score Explainers and peers on the same M windows, at the area of the first Explainer's rounded masks.

    Parameters
    ----------
    weights: (draws, M) of the bootstrap.
    peers: names of :data:`wyrcli.peers.PEERS`.
    removal: how tokens are taken away where methods are judged.
    remember: keeps what a peer has found, so that a study can go on after it was stopped.
    """
    examined: Examined | None = None
    methods: list[Method] = []
    planted: list[NDArray[np.bool_]] = []
    decoys: list[NDArray[np.bool_]] = []
    n_kept = np.zeros(0, dtype=np.int64)

    def judge(
        name: str, scores: Sequence[NDArray[np.floating[Any]]], seconds: float, passes: float, **more: Any
    ) -> None:
        assert examined is not None
        faith = measure(
            subject,
            examined.sequences,
            examined.predicted,
            examined.log_probabilities,
            scores,
            n_kept,
            removal,
        )
        where, drawn = None, np.zeros(0)
        if truth is not None:
            where = localise(scores, planted, decoys, n_kept)
            if not truth.decoys:
                where = replace(where, decoys=np.full(len(scores), np.nan))
            owner = np.repeat(np.arange(len(scores)), [len(own) for own in scores])
            drawn = weighted_average_precision(
                np.concatenate(planted), np.concatenate(scores), owner, weights
            )
        methods.append(Method(name, scores, seconds, passes, faith, where, drawn, **more))
        on_method(name)

    for own in ours:
        examine(subject, own.explainer, windows)  # the first time is slower
        begun = time.perf_counter()
        found = examine(subject, own.explainer, windows)
        seconds = time.perf_counter() - begun
        if examined is None:
            examined = found
            n_kept = np.array([int(mask.sum()) for mask in found.rounded], dtype=np.int64)
            if truth is not None:
                planted, decoys = locate(found, truth)
        judge(own.name, found.masks, seconds, 1.0, training=own.seconds, is_ours=True)
    assert examined is not None, "there is an Explainer to compare with"
    tokens = int(np.median([len(mask) for mask in examined.masks]))
    for name in peers:
        peer = PEERS[name]

        def compute(peer: Any = peer) -> tuple[list[NDArray[np.float64]], float]:
            # Imports and first calls are not what a method costs.
            peer.warm_up(subject, examined.sequences[0], examined.predicted[:1], options)
            begun = time.perf_counter()
            scores = peer.explain(subject, examined.sequences, examined.predicted, options)
            return scores, time.perf_counter() - begun

        scores, seconds = remember(name, compute)
        judge(name, scores, seconds, peer.passes(tokens, options))
    return methods


def methods_table(methods: Sequence[Method], weights: NDArray[np.float32]) -> Table:
    """How the scores of all methods agree with the planted truth; ``weights`` (draws, M) of the bootstrap."""
    columns = [
        Column("method", "Method"),
        Column("auprc", "token AUPRC", "number"),
        Column("auprc_per_window", "per window", "number"),
        Column("overlap", "IoU", "number"),
        Column("precision", "planted", "percent"),
        Column("decoys", "decoys", "percent"),
    ]
    values = []
    for method in methods:
        where = method.localised
        assert where is not None, "there is a truth"
        each = (where.window_auprc, where.overlap, where.precision, where.decoys)
        values.append(
            [Cell(where.auprc, *interval(method.drawn_auprc)), *(_mean_cell(own, weights) for own in each)]
        )
    _mark_best(values, [False, False, False, False, True])
    first = methods[0].localised
    chance = f" Of a random score: {first.prevalence:.3f}." if first is not None else ""
    notes = [
        "AUPRC over the tokens of all windows together asks for one scale of the scores; per window it "
        "does not." + chance,
        "IoU, planted and decoys are of the highest tokens, as many as the first method's rounded mask "
        "keeps: intersection over union with the planted tokens, share that is planted, share in decoys.",
    ]
    rows: list[Row] = [[method.name, *own] for method, own in zip(methods, values, strict=True)]
    return Table("truth", "Methods against the planted truth", columns, rows, _kinds(methods), notes)


def faithfulness_table(methods: Sequence[Method], weights: NDArray[np.float32], removal: str) -> Table:
    """Whether the classifier needs what the methods call important; ``weights`` (draws, M)."""
    names: dict[str, tuple[str, Style]] = {
        "comprehensiveness": ("comprehensiveness", "number"),
        "sufficiency": ("sufficiency", "number"),
        "deletion_area": ("deletion", "number"),
        "insertion_area": ("insertion", "number"),
        "log_odds": ("log-odds", "number"),
        "saliency": ("SSR", "number"),
        "kept_agreement": ("kept", "percent"),
        "dropped_agreement": ("dropped", "percent"),
    }
    columns = [Column("method", "Method")]
    columns += [Column(key, heading, style) for key, (heading, style) in names.items()]
    values = [
        [_mean_cell(found[key], weights) for key in names]
        for found in (method.faithfulness.by_window() for method in methods)
    ]
    _mark_best(values, [lower_is_better(key) for key in names])
    notes = [
        f"Removal: {removal}. Probabilities are of the predicted classes, mean over ranks. Comprehensiveness "
        "(higher is better) and sufficiency (lower) are means over 1, 5, 10, 20 and 50 % of the tokens; "
        "deletion (lower) and insertion (higher) are areas under the curve; log-odds at 20 % (lower).",
        "SSR (lower), kept (higher) and dropped (lower) are at equal area: the highest tokens, as many as "
        "the first method's rounded mask keeps. Kept and dropped: share of predictions that stay.",
    ]
    rows: list[Row] = [[method.name, *own] for method, own in zip(methods, values, strict=True)]
    title = f"Methods on the same model and the same {len(methods[0].scores):,} windows"
    return Table("methods", title, columns, rows, _kinds(methods), notes)


def difference_table(methods: Sequence[Method], weights: NDArray[np.float32]) -> Table:
    """The first method minus each other one, on the same windows; ``weights`` (draws, M)."""
    shares = [f"{100 * share:g}" for share in methods[0].faithfulness.shares if 0.05 <= share <= 0.2]
    keys = [f"{measure}_at_{share}" for measure in ("comprehensiveness", "sufficiency") for share in shares]
    columns = [Column("method", "Minus")]
    known = methods[0].localised is not None
    if known:
        columns.append(Column("auprc", "token AUPRC", "number"))
    columns += [Column(key, _heading(key), "number") for key in keys]
    first = methods[0].faithfulness.by_window()
    rows: list[Row] = []
    for method in methods[1:]:
        row: Row = [method.name]
        if methods[0].localised is not None and method.localised is not None:
            drawn = methods[0].drawn_auprc - method.drawn_auprc
            row.append(Cell(methods[0].localised.auprc - method.localised.auprc, *interval(drawn)))
        own = method.faithfulness.by_window()
        rows.append([*row, *(_mean_cell(first[key] - own[key], weights) for key in keys)])
    notes = [
        f"{methods[0].name} is better where AUPRC and comprehensiveness are above zero, and sufficiency is "
        "below. An interval that holds zero leaves it open."
    ]
    title = f"{methods[0].name} minus the others, window by window"
    return Table("differences", title, columns, rows, _kinds(methods[1:]), notes)


def _heading(key: str) -> str:
    """
    >>> _heading("sufficiency_at_20")
    'suff. 20 %'
    """
    return f"{key[:4]}. {key.rpartition('_')[2]} %"


def share_table(methods: Sequence[Method], weights: NDArray[np.float32]) -> Table:
    """Sufficiency and comprehensiveness by share of tokens."""
    shares = [f"{100 * share:g}" for share in methods[0].faithfulness.shares]
    keys = [f"{measure}_at_{share}" for measure in ("sufficiency", "comprehensiveness") for share in shares]
    columns = [Column("method", "Method")]
    columns += [Column(key, _heading(key), "number") for key in keys]
    values = [
        [_mean_cell(found[key], weights) for key in keys]
        for found in (method.faithfulness.by_window() for method in methods)
    ]
    _mark_best(values, [lower_is_better(key) for key in keys])
    rows: list[Row] = [[method.name, *own] for method, own in zip(methods, values, strict=True)]
    notes = ["Sufficiency: lower is better; comprehensiveness: higher is better (DeYoung et al. 2020)."]
    title = "Sufficiency and comprehensiveness by share of tokens"
    return Table("shares", title, columns, rows, _kinds(methods), notes)


def cost_table(methods: Sequence[Method]) -> Table:
    """Speed, and after how many windows training the first method has paid off."""
    first = methods[0]
    own = first.seconds / len(first.scores)
    columns = [
        Column("method", "Method"),
        Column("passes", "passes per window", "number"),
        Column("per_second", "windows/s", "number"),
        Column("slower", "times slower", "number"),
        Column("break_even", "break-even", "count"),
    ]
    rows: list[Row] = []
    for method in methods:
        each = method.seconds / len(method.scores)
        pays = not method.is_ours and each > own and np.isfinite(first.training)
        even = int(np.ceil(first.training / (each - own))) if pays else None
        rows.append([method.name, method.passes, method.per_second, each / own, even])
    notes = [
        "A pass is a forward pass of the classifier, a backward pass counts as two more. Windows per second "
        "were measured in one run on one machine; training took its time where it was done.",
        f"Break-even: windows after which training {first.name} has taken less time than the peer"
        + (
            f" ({first.training:,.0f} s)."
            if np.isfinite(first.training)
            else "; not known for this Explainer."
        ),
    ]
    return Table("cost", "What explanations cost", columns, rows, _kinds(methods), notes)


def _kinds(methods: Sequence[Method]) -> list[str]:
    return ["trained Explainers" if method.is_ours else "peers" for method in methods]


def _mean_cell(values: NDArray[np.float64], weights: NDArray[np.float32]) -> Cell:
    counted = values[~np.isnan(values)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return Cell(mean, *interval(weighted_mean(values, weights)))


def _mark_best(rows: list[list[Cell]], lower: Sequence[bool]) -> None:
    for c, is_lower in enumerate(lower):
        values = [row[c].value for row in rows]
        numbers = [v for v in values if isinstance(v, (int, float))]
        if not numbers:
            continue
        best = min(numbers) if is_lower else max(numbers)
        for row in rows:
            if row[c].value == best:
                row[c] = replace(row[c], best=True)


# ---------------------------------------------------------------- audit


def audit_table(audits: Mapping[str, Sequence[Check]]) -> Table:
    """All checks, a group of rows per Explainer."""
    columns = [
        Column("check", "Check"),
        Column("verdict", "verdict", "verdict"),
        Column("value", "number", "number"),
        Column("warn", "warn at", "number"),
        Column("fail", "fail at", "number"),
        Column("meaning", "meaning"),
    ]
    rows: list[Row] = []
    groups = []
    for name, checks in audits.items():
        for check in checks:
            rows.append(
                [
                    *(check.name, check.verdict, Cell(check.value, check.low, check.high)),
                    *(Cell(check.warn), Cell(check.fail), check.meaning),
                ]
            )
            groups.append(name)
    return Table("audit", "Audit", columns, rows, groups)


# ---------------------------------------------------------------- all together


def draw_group_weights(windows: EvaluatedWindows, seed: int) -> NDArray[np.float32]:
    """Weights (draws, N) of a bootstrap over the groups of windows: genomes where they are known.

    No draws where there are fewer than ten groups: intervals of so few would be far too narrow.
    """
    numbers = number_groups([windows.groups[i] for i in range(len(windows))])
    draws = 1000 if len(windows) and numbers.max() + 1 >= _FEWEST_GROUPS else 0
    return draw_weights(len(windows), numbers, draws, seed)


class StudyOptions(NamedTuple):
    """What a full study does.

    ``peers``: names of other methods, which explain ``peer_windows`` windows; ``removal``: how tokens are
    taken away there.  ``audit``: whether to.  ``seed``: of all that is drawn.
    """

    peers: Sequence[str]
    options: Options
    peer_windows: int = 50
    removal: str = "gate"
    audit: bool = True
    seed: int = 0


class Study(NamedTuple):
    """What came out; ``compared``: numbers of the windows that all methods explained."""

    tables: dict[str, Table]
    statistics: dict[str, MaskStatistics]
    methods: list[Method]
    compared: list[int]
    audits: dict[str, list[Check]]


def study(
    subject: Subject,
    explainers: Sequence[Named],
    windows: LabelledWindows,
    results: Sequence[Evaluation],
    taxonomy: Taxonomy,
    options: StudyOptions,
    *,
    truth: Truth | None = None,
    shelf: Shelf,
    on_part: Callable[[str], None] = lambda part: None,
) -> Study:
    """All that goes beyond Table 1.

    Parameters
    ----------
    explainers, results: in the same order; the first sets the area at which methods are compared.
    shelf: keeps what takes long.
    on_part: told what has been done, :func:`count_parts` times.
    """
    tables: dict[str, Table] = {}
    statistics = {result.explainer: mask_statistics(result.examined) for result in results}
    tables["masks"] = statistics_table(statistics)
    order = np.random.default_rng(options.seed).permutation(len(windows))
    compared = np.sort(order[: options.peer_windows])
    some = windows.select(compared)
    weights = draw_group_weights(some, options.seed)
    methods = compare(
        subject,
        explainers,
        some,
        weights,
        peers=options.peers,
        options=options.options,
        removal=options.removal,
        truth=truth,
        remember=lambda name, compute: shelf.arrays(
            name, repr((options.options, options.peer_windows, options.seed)), compute
        ),
        on_method=on_part,
    )
    if truth is not None:
        tables["truth"] = methods_table(methods, weights)
    tables["methods"] = faithfulness_table(methods, weights, options.removal)
    tables["shares"] = share_table(methods, weights)
    if len(methods) > 1:
        tables["differences"] = difference_table(methods, weights)
    tables["cost"] = cost_table(methods)
    if has_few_classes(subject.explanandum.sizes[0]):
        first, few = explainers[0], windows.select(np.sort(order[:_MATRIX_WINDOWS]))
        examined = examine(subject, first.explainer, few)
        matrix = examine_classes(subject, first.explainer, first.operator, examined, 0)
        tables["classes"] = class_table(matrix, taxonomy.taxa[0], taxonomy.ranks[0])
    audits: dict[str, list[Check]] = {}
    if options.audit:
        for own in explainers:
            audits[own.name] = _audit(subject, own, windows, AuditOptions(seed=options.seed), shelf, on_part)
        tables["audit"] = audit_table(audits)
    return Study(tables, statistics, methods, compared.tolist(), audits)


def count_parts(explainers: Sequence[Named], options: StudyOptions) -> int:
    """How often :func:`study` tells that a part is done."""
    return len(explainers) + len(options.peers) + len(CHECKS) * len(explainers) * options.audit


def _audit(
    subject: Subject,
    own: Named,
    windows: LabelledWindows,
    options: AuditOptions,
    shelf: Shelf,
    on_part: Callable[[str], None],
) -> list[Check]:
    """Check by check, each found again by itself."""

    def remember(name: str, run: Callable[[], Check]) -> Check:
        return Check(**shelf.content(f"{own.name} {name}", repr(options), lambda: asdict(run())))

    return audit(
        subject,
        own.explainer,
        own.operator,
        windows,
        options=options,
        remember=remember,
        on_check=lambda check: on_part(f"{own.name}: {check.name}"),
    )
