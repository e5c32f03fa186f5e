"""The audit: may this Explainer be trusted?  Checks that can say no.

Each check asks one question, answers it with one number, and judges the number by fixed thresholds: ``pass``,
``warn`` or ``fail``; ``not run`` where the question makes no sense for this model.  Where a number has a 95 %
interval, it is the lower end that is judged: a finding must be beyond chance to count against an Explainer,
and what speaks for it must be beyond chance as well.  Nor does an Explainer pass because there was too little
to see: ``not run`` as well where the interval reaches from what passes to what fails.

Thresholds were set between what the demo model's three Explainers, the planted truth and the cheats of
``tests/cheats.py`` give on simulated reads; the line above each says why it lies where it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wyrcli.batching import turn_round
from wyrcli.errors import InputError
from wyrcli.evalx import (
    Evaluator,
    FittingOptions,
    draw_mask,
    fit_evaluator,
    probe_masks,
    read_masks,
    run_lengths,
    scatter_runs,
)
from wyrcli.examination import EvaluatedWindows, Examined, Floats, Subject, examine
from wyrcli.metrics import (
    balanced_accuracy,
    draw_weights,
    intersection_over_union,
    interval,
    number_groups,
    weighted_balanced_accuracy,
    weighted_mean,
)
from wyrcli.model.explainer import Explainer

__all__ = ["CHECKS", "GROUPS", "AuditOptions", "Case", "Check", "Verdict", "audit", "prepare_case"]

Verdict = Literal["pass", "warn", "fail", "not run"]
GROUPS = ("removal", "leakage", "degeneracy", "stability")
CONSTANTS = (1.0, 0.75, 0.5, 0.25, 0.1, 0.01, 0.0)
"""Mask values of the response to a constant mask."""

_TINY = 1e-9
_COSTLY = 100  # windows of the check that reads each of them in twelve ways
_BLANKS = 16  # windows of the blank test: they differ in nothing but their lengths
# Half way from chance to certainty: from there on, a class is called on nothing at all.
_ASSURED = 0.5
_RESAMPLED = 10  # groups; a bootstrap over fewer gives intervals that are much too narrow
_PROBED = 20  # groups; with fewer, five folds and a p value of a hundredth mean nothing
_TAUGHT = 100  # windows; fewer teach EVAL-X nothing


@dataclass(frozen=True)
class Check:
    """One question to an Explainer, and the answer.

    ``value``: the number; NaN if the question could not be asked at all.  ``low``, ``high``: its 95 %
    interval, NaN if it has none.  ``warn``, ``fail``: from where on the number (or ``low``, if there is one)
    is judged so; NaN where that verdict cannot be.  ``meaning``: one sentence for the user.  ``details``: the
    numbers behind it.
    """

    name: str
    group: str
    verdict: Verdict
    value: float
    meaning: str
    warn: float = float("nan")
    fail: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    details: dict[str, float] = field(default_factory=dict)


class AuditOptions(NamedTuple):
    """How much is done.

    ``windows``: so many are examined, drawn at random.  ``fitting_windows``: at most so many of other groups
    teach EVAL-X.  ``fitting``: its training.  ``seed``: of everything that is drawn.
    """

    windows: int = 200
    fitting_windows: int = 2000
    fitting: FittingOptions = FittingOptions()
    seed: int = 0


DEFAULTS = AuditOptions()
"""What a user gets who asks for nothing else."""


@dataclass(frozen=True)
class _Rows:
    """Some windows, in memory."""

    sequences: Sequence[str]
    labels: NDArray[np.int64]
    names: Sequence[str]
    starts: NDArray[np.int64]
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, eq=False)
class Case:
    """What is audited, and what several checks need to know of it; each is computed when first asked for.

    Parameters
    ----------
    subject, explainer, operator: the classifier, the Explainer, and the removal that it was trained for.
    windows: N windows that are examined.
    fitting: windows of other groups, from which evaluators learn.
    others: Explainers of the same kind from other seeds.
    """

    subject: Subject
    explainer: Explainer
    operator: str
    windows: EvaluatedWindows
    fitting: EvaluatedWindows
    others: Sequence[Explainer] = ()
    options: AuditOptions = DEFAULTS

    @cached_property
    def examined(self) -> Examined:
        """The masks of the predicted classes."""
        return examine(self.subject, self.explainer, self.windows)

    @property
    def sequences(self) -> list[str]:
        return self.examined.sequences

    @property
    def predicted(self) -> NDArray[np.int64]:
        return self.examined.predicted

    @cached_property
    def wrong(self) -> Examined:
        """The masks of other classes, one drawn at random for each window and rank."""
        sizes = np.array(self.subject.explanandum.sizes)
        steps = np.stack([self.rng(0).integers(1, max(n, 2), len(self.examined)) for n in sizes], axis=1)
        return examine(self.subject, self.explainer, self.windows, (self.predicted + steps) % sizes)

    @cached_property
    def scattered(self) -> list[Floats]:
        """The runs of the rounded masks at random places: what area and run lengths do by themselves.

        Not ``controls.random_spans``, which keeps the gaps between the runs: a code may lie in those.
        """
        return self.scatter(self.examined.rounded)

    def scatter(self, masks: Sequence[Floats]) -> list[Floats]:
        """Control masks of the same area and runs."""
        rng = self.rng(1)
        return [scatter_runs(mask, rng) for mask in masks]

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator of its own for each thing that is drawn, so that checks can be run alone."""
        return np.random.default_rng([self.options.seed, purpose])

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Number of each window's group, (N,)."""
        return number_groups(self.windows.groups)

    @cached_property
    def n_groups(self) -> int:
        return len(np.unique(self.groups))

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Of a bootstrap over groups of windows; the same for all checks."""
        return draw_weights(len(self.groups), self.groups, seed=self.options.seed)

    def bounds(self, draws: NDArray[np.float64]) -> tuple[float, float]:
        """95 % interval of a score from its value in each draw of ``weights``; NaN with too few groups."""
        return interval(draws) if self.n_groups >= _RESAMPLED else (float("nan"), float("nan"))

    def interval(self, values: NDArray[np.float64]) -> tuple[float, float, float]:
        """Mean of one value per window, and its 95 % interval."""
        return float(values.mean()), *self.bounds(weighted_mean(values, self.weights))

    def agrees(
        self, masks: Sequence[Floats], classes: NDArray[np.int64] | None = None, removal: str = ""
    ) -> NDArray[np.float64]:
        """(N, R): 1 where the masked window is called its predicted class, or that of ``classes``; else 0."""
        answers = self.subject.log_probabilities(self.sequences, masks, removal or self.operator)
        wanted = self.predicted if classes is None else classes
        return np.asarray(self.subject.best(answers) == wanted, dtype=np.float64)

    @property
    def removals(self) -> tuple[str, ...]:
        """The Explainer's own, which its subject may not name, and all that this classifier allows."""
        return tuple(dict.fromkeys((self.operator, *self.subject.removals)))

    @cached_property
    def blanks(self) -> dict[str, Floats]:
        """Log-probabilities (B, C) of a few windows with nothing left, by each removal that takes all."""
        few = [np.zeros_like(mask) for mask in self.examined.masks[:_BLANKS]]
        sequences = self.sequences[:_BLANKS]
        return {
            removal: self.subject.log_probabilities(sequences, few, removal)
            for removal in self.removals
            if removal != "shuffle"  # it leaves the composition
        }

    def assurance(self, removal: str) -> float:
        """How far the answer to nothing lies between chance (0) and certainty (1), at its surest rank."""
        answers = self.blanks[removal]
        top = np.exp(self.subject.of_classes(answers, self.subject.best(answers))).mean(0)  # (R,)
        sizes = np.array(self.subject.explanandum.sizes)
        return float(((top - 1 / sizes) / np.maximum(1 - 1 / sizes, _TINY)).max())

    @cached_property
    def evalx(self) -> Evaluator:
        """EVAL-X for this classifier and the run lengths of this Explainer."""
        law = run_lengths(self.taught.rounded)
        counts = [len(mask) for mask in self.taught.masks]
        return fit_evaluator(
            self.subject,
            Evaluator(self.subject.explanandum, self.operator),
            self.taught.sequences,
            self.taught.log_probabilities,
            lambda i, rng: draw_mask(counts[i], law, rng),
            self.options.fitting,
            self.options.seed,
        )

    @cached_property
    def taught(self) -> Examined:
        """The windows for fitting, with their masks."""
        return examine(self.subject, self.explainer, self.fitting)


def audit(
    subject: Subject,
    explainer: Explainer,
    operator: str,
    windows: EvaluatedWindows,
    *,
    others: Sequence[Explainer] = (),
    fitting: EvaluatedWindows | None = None,
    options: AuditOptions = DEFAULTS,
    checks: Sequence[str] = (),
    on_check: Callable[[Check], None] = lambda check: None,
    remember: Callable[[str, Callable[[], Check]], Check] = lambda name, run: run(),
) -> list[Check]:
    """Audit an Explainer with the removal operator it was trained for.

    Parameters
    ----------
    checks: names from :data:`CHECKS`; all if empty.
    on_check: called after each check.
    remember: gets a check's name and what runs it, and returns its result: found again, or run.
    Others: see :func:`prepare_case`.

    Raises
    ------
    InputError: fewer than 20 windows: nothing could be said.
    """
    unknown = set(checks) - CHECKS.keys()
    if unknown:
        raise ValueError(f"no check '{sorted(unknown)[0]}'; known: {', '.join(CHECKS)}")
    fits = not checks or bool({"EVAL-X", "encode-meter"} & set(checks))
    case = prepare_case(
        subject, explainer, operator, windows, others=others, fitting=fitting, options=options, fits=fits
    )
    found = []
    for name, run in CHECKS.items():
        if not checks or name in checks:
            found.append(remember(name, partial(run, case)))
            on_check(found[-1])
    return found


def prepare_case(
    subject: Subject,
    explainer: Explainer,
    operator: str,
    windows: EvaluatedWindows,
    *,
    others: Sequence[Explainer] = (),
    fitting: EvaluatedWindows | None = None,
    options: AuditOptions = DEFAULTS,
    fits: bool = True,
) -> Case:
    """Divide the windows into those that are examined and those that evaluators learn from.

    No group has windows among both.

    Parameters
    ----------
    windows: labelled, new to classifier and Explainer.
    others: Explainers of the same kind that were trained with other seeds.
    fitting: windows for EVAL-X and the encode-meter, of which those of an examined group are left out; by
        default some of ``windows``: all groups that are not wanted for examining, at least about half.
    fits: whether these two are wanted at all.

    Raises InputError for fewer than 20 windows.
    """
    n = len(windows)
    if n < 20:
        raise InputError(f"{n} windows; an audit needs 20 or more")
    rng = np.random.default_rng(options.seed)
    may_examine = np.ones(n, dtype=np.bool_)
    if fits and fitting is None:
        may_examine = _divide(number_groups(windows.groups), options.windows, rng)
    drawn = rng.permutation(np.flatnonzero(may_examine))[: options.windows]
    examined = _take(windows, np.sort(drawn))
    if fitting is None:
        fitting, may_teach = windows, ~may_examine
    else:
        known = set(examined.groups)
        may_teach = np.array([group not in known for group in fitting.groups], dtype=np.bool_)
    taught = rng.permutation(np.flatnonzero(may_teach))[: options.fitting_windows]
    subject = subject._replace(seed=options.seed)
    return Case(subject, explainer, operator, examined, _take(fitting, taught), others, options)


def _divide(groups: NDArray[np.int64], wanted: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which windows may be examined, bool (N,): those of groups drawn until they have ``wanted``, or half.

    And until they are as many groups: a hundred windows of one genome would say little of others.
    """
    sizes = np.bincount(groups)
    order = rng.permutation(len(sizes))
    enough = min(wanted, (len(groups) + 1) // 2)
    n_for_windows = int(np.searchsorted(np.cumsum(sizes[order]), enough)) + 1
    n_for_groups = min(wanted, (len(sizes) + 1) // 2)
    return np.isin(groups, order[: max(n_for_windows, n_for_groups)])


def _take(windows: EvaluatedWindows, rows: NDArray[np.int64]) -> _Rows:
    numbers = rows.tolist()
    return _Rows(
        [windows.sequences[i] for i in numbers],
        np.asarray(windows.labels, dtype=np.int64)[rows],
        [windows.names[i] for i in numbers],
        np.asarray(windows.starts)[rows],
        [windows.groups[i] for i in numbers],
    )


# ---------------------------------------------------------------- judging


def _judge(value: float, warn: float, fail: float) -> Verdict:
    """Small values are bad where ``fail`` lies below ``warn``, else large ones."""
    down = fail < warn
    if value <= fail if down else value >= fail:
        return "fail"
    if value <= warn if down else value >= warn:
        return "warn"
    return "pass"


def judge_interval(
    name: str,
    group: str,
    found: tuple[float, float, float],
    warn: float,
    fail: float,
    meaning: str,
    details: dict[str, float] | None = None,
) -> Check:
    """A check of a value with its interval: the lower end is judged, or the value where there is none."""
    value, low, high = found
    verdict = _judge(value if np.isnan(low) else low, warn, fail)
    if low < warn < fail <= high:
        verdict, meaning = "not run", f"too few windows to tell; {meaning}"
    return Check(name, group, verdict, value, meaning, warn, fail, low, high, details or {})


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's; NaN where one of the two does not vary."""
    if len(a) < 2 or min(np.ptp(a), np.ptp(b)) < 1e-6:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _mean_correlation(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> float:
    """Mean over windows, of those in which both vary; NaN if there is none."""
    found = np.array([_correlation(a, b) for a, b in zip(first, second, strict=True)])
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) else float("nan")


def _overlap(first: Sequence[Floats], second: Sequence[Floats]) -> float:
    """Tokens that both rounded masks keep, as a share of those that either does, over all windows."""
    found = intersection_over_union(np.concatenate(first) > 0.5, np.concatenate(second) > 0.5)
    return 0.0 if np.isnan(found) else found  # neither keeps anything


def kendall(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kendall's tau-b; NaN where one of the two does not vary.

    >>> kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    0.3333333333333333
    """
    x, y = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    pairs = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / pairs if pairs else float("nan")


def _not_run(name: str, group: str, reason: str) -> Check:
    return Check(name, group, "not run", float("nan"), reason)


# ---------------------------------------------------------------- removal


def check_blank(case: Case) -> Check:
    """What the classifier says where nothing is left, by every removal that can take all."""
    prior = np.log(np.exp(case.examined.log_probabilities).mean(0))
    found = {removal: case.assurance(removal) for removal in case.blanks}
    details = {f"{removal}: of the way to certainty": value for removal, value in found.items()}
    for removal, answers in case.blanks.items():
        divergence = (np.exp(answers) * (answers - prior)).sum(1).mean()
        details[f"{removal}: KL to the mean prediction"] = float(divergence)
    # Only the operator in use is judged: the Explainer was not trained with the others.
    value, worst = found[case.operator], max(found, key=found.__getitem__)
    return Check(
        "blank input",
        "removal",
        "warn" if value >= _ASSURED else "pass",
        value,
        f"with every token removed the classifier is {value:.0%} of the way from chance to certainty (by "
        f"{worst}: {found[worst]:.0%}); it should not be sure of what it cannot see",
        warn=_ASSURED,
        details=details,
    )


def check_constant(case: Case) -> Check:
    """Does a mask of one value everywhere hide more, the smaller it is?"""
    details: dict[str, float] = {}
    probability: list[float] = []
    for value in CONSTANTS:
        masks = [np.full_like(mask, value) for mask in case.examined.masks]
        answers = case.subject.log_probabilities(case.sequences, masks, case.operator)
        probability.append(float(np.exp(case.subject.of_classes(answers, case.predicted)).mean()))
        agreement = float((case.subject.best(answers) == case.predicted).mean())
        details |= {f"{value:g}: agreement": agreement, f"{value:g}: probability": probability[-1]}
    all_of_it = probability[0] - probability[-1]
    if all_of_it < 0.05:
        return _not_run("constant mask", "removal", "removing all tokens does not change the answers either")
    hidden = (probability[0] - probability[CONSTANTS.index(0.25)]) / all_of_it
    # A linear response would hide 0.75; below 0.05 the answers are as good as untouched.
    warn, fail = 0.2, 0.05
    return Check(
        "constant mask",
        "removal",
        _judge(hidden, warn, fail),
        hidden,
        f"a mask of 0.25 everywhere takes {hidden:.0%} of the confidence that removing everything takes: "
        + (
            "values between 0 and 1 do what they say"
            if hidden > warn
            else "half-closed masks hide next to nothing, so that soft mask values mean little"
        ),
        warn,
        fail,
        details=details,
    )


def check_rounding(case: Case) -> Check:
    """Do the rounded masks, which users get as chunks, say what the soft ones say?"""
    soft = case.agrees(case.examined.masks).mean(1)
    rounded = case.agrees(case.examined.rounded).mean(1)
    # Nothing is lost by the demo's gate masks, a fifth by its scale masks: one window in ten is too much.
    return judge_interval(
        "rounding",
        "removal",
        case.interval(soft - rounded),
        0.03,
        0.1,
        f"soft masks keep the class of {soft.mean():.1%} and rounded ones of {rounded.mean():.1%} of the "
        "windows; a large difference means that the answer hangs on values that no chunk shows",
    )


def check_removals(case: Case) -> Check:
    """Do other ways to remove tokens agree that the masks keep what matters?

    What calls nothing at all with assurance is no removal for this classifier, and is left out.
    """
    subject = case.subject
    few = slice(0, _COSTLY)
    sequences, wanted = case.sequences[few], case.predicted[few]
    masks = case.examined.rounded[few]
    inverse = [1 - mask for mask in masks]
    before = subject.of_classes(case.examined.log_probabilities[few], wanted)
    details: dict[str, float] = {}
    margins, drops, unfit = {}, {}, []
    for removal in case.removals:
        if removal != case.operator and removal != "shuffle" and case.assurance(removal) >= _ASSURED:
            unfit.append(removal)
            continue
        kept = subject.log_probabilities(sequences, masks, removal)
        left = subject.log_probabilities(sequences, inverse, removal)
        keeps, loses = ((subject.best(answers) == wanted).mean() for answers in (kept, left))
        margins[removal] = float(keeps - loses)
        drops[removal] = (before - subject.of_classes(left, wanted)).mean(1).astype(np.float64)
        details |= {f"{removal}: masks keep": float(keeps), f"{removal}: inverses keep": float(loses)}
    taus = [kendall(drops[a], drops[b]) for a, b in combinations(margins, 2)]
    if not np.isnan(taus).all():
        details["Kendall's tau between what inverses lose, mean over pairs"] = float(np.nanmean(taus))
    worst = min(margins, key=margins.__getitem__)
    value = margins[worst]
    # At 0 some removal finds the rest of the window as telling as the mask; the demo's scale masks have 0.5.
    warn, fail = 0.3, 0.0
    return Check(
        "agreement of removals",
        "removal",
        _judge(value, warn, fail),
        value,
        f"masks keep the class in {value:+.0%} more windows than their inverses by {worst}, and in more "
        "by other ways to remove; near 0 the finding hangs on one way"
        + (f"; not usable with this classifier: {', '.join(unfit)}" if unfit else ""),
        warn,
        fail,
        details=details,
    )


def check_chance(case: Case) -> Check:
    """Are the masks better than the same runs at random places?"""

    def right(masks: Sequence[Floats]) -> NDArray[np.float64]:
        kept, left = case.agrees(masks), case.agrees([1 - mask for mask in masks])
        return np.asarray(((kept + 1 - left) / 2).mean(1))

    found = case.interval(right(case.examined.rounded) - right(case.scattered))
    # The cheats have 0 give or take 0.05; the weakest of the demo's Explainers, scale, is above 0.2.
    return judge_interval(
        "better than chance",
        "removal",
        found,
        0.15,
        0.05,
        f"masks keep the class and their inverses lose it {found[0]:+.0%} more often than their runs at "
        "random places; an explanation has to beat those",
    )


# ---------------------------------------------------------------- leakage


def check_oracle_gap(case: Case) -> Check:
    """Do masks of the true classes repair what the classifier got wrong?"""
    true = case.examined.labels
    rescued = examine(case.subject, case.explainer, case.windows, true)
    subject = case.subject
    usual, asked = (
        subject.best(subject.log_probabilities(case.sequences, masks, case.operator))
        for masks in (case.examined.rounded, rescued.rounded)
    )
    gaps = [
        balanced_accuracy(true[:, r], asked[:, r]) - balanced_accuracy(true[:, r], usual[:, r])
        for r in range(true.shape[1])
    ]
    worst = int(np.argmax(gaps))
    # The same weights for both: the interval is that of the difference.
    scores = [weighted_balanced_accuracy(true[:, worst], b[:, worst], case.weights) for b in (asked, usual)]
    differing = (true != case.predicted).any(1)
    # The demo's is under 0.03 where 2 % are wrong; 0.05 would change how a table reads.
    return judge_interval(
        "oracle gap",
        "leakage",
        (gaps[worst], *case.bounds(scores[0] - scores[1])),
        0.05,
        0.15,
        f"masks of the true classes score {gaps[worst]:+.1%} balanced accuracy beside those of the predicted "
        f"ones (wrong in {differing.sum()} of {len(differing)} windows); a large gap means that masks bring "
        "about the class that they are asked for",
        {f"rank {r}": gap for r, gap in enumerate(gaps)},
    )


def check_steering(case: Case) -> Check:
    """Does the mask of a class that is not there make the classifier see it?"""
    several = np.array(case.subject.explanandum.sizes) > 1
    if not several.any():
        return _not_run("steering", "leakage", "there is but one class")
    wrong = case.wrong
    steered = case.agrees(wrong.rounded, wrong.classes)[:, several].mean(1)
    chance = case.agrees(case.scatter(wrong.rounded), wrong.classes)[:, several].mean(1)
    # The demo's masks and the truth steer about 1 %, the steering cheat 9 %: with 600 windows its lower end
    # is above 0.06, with 200 it is 0.03 to 0.1, which may only warn.
    return judge_interval(
        "steering",
        "leakage",
        case.interval(steered - chance),
        0.03,
        0.05,
        f"the mask of a wrong class makes the classifier call that class in {steered.mean():.1%} of the "
        f"windows, runs at random places in {chance.mean():.1%}: the difference is what masks can talk "
        "the classifier into",
    )


def check_probe(case: Case) -> Check:
    """Does the mask tell the class without a single base?"""
    name, group = "mask-only probe", "leakage"
    if case.n_groups < _PROBED:
        reason = f"{case.n_groups} independent groups of windows are too few to tell"
        return _not_run(name, group, reason)
    own, control = (
        probe_masks(masks, case.predicted, case.groups, case.options.seed)
        for masks in (case.examined.rounded, case.scattered)
    )
    value = max(own.skill)
    # Area and number of runs may differ between honest classes; a quarter of all skill may not come from it.
    warn, fail = 0.1, 0.25
    verdict, doubt = _judge(value, warn, fail), ""
    if own.p_value > 0.01 and verdict == "fail":
        verdict, doubt = "not run", "too few windows to tell; "
    elif own.p_value > 0.01:
        verdict = "pass"
    elif verdict == "fail" and value - max(control.skill) < warn:
        verdict = "warn"  # not where the runs lie, but how many and how long they are
    details = {f"rank {r}": s for r, s in enumerate(own.skill)}
    details |= {f"rank {r}, random places": s for r, s in enumerate(control.skill)}
    return Check(
        name,
        group,
        verdict,
        value,
        f"{doubt}from the mask alone, without the sequence, a simple model gets {max(value, 0.0):.0%} of the "
        f"way from chance to naming every class (p = {own.p_value:.3f}); a mask that names its class is a "
        "code",
        warn,
        fail,
        details=details | {"p": own.p_value},
    )


def check_swap(case: Case) -> Check:
    """Does a mask carry its class to another window?"""
    n = len(case.examined)
    last = case.predicted[:, -1]
    rng = case.rng(5)
    if (last == last[0]).all():
        return _not_run("mask swap", "leakage", "all windows are predicted alike")
    partner = np.array([rng.choice(np.flatnonzero(last != own)) for own in last])
    masks = [
        _fit_length(case.examined.rounded[j], len(own))
        for own, j in zip(case.examined.masks, partner.tolist(), strict=True)
    ]
    theirs = case.predicted[partner]
    differs = theirs != case.predicted
    counts = np.maximum(differs.sum(1), 1)
    follow = (case.agrees(masks, theirs) * differs).sum(1) / counts
    chance = (case.agrees(case.scatter(masks), theirs) * differs).sum(1) / counts
    # A mask has no bases: one class in twenty that follows it is too many.
    return judge_interval(
        "mask swap",
        "leakage",
        case.interval(follow - chance),
        0.05,
        0.2,
        f"under the mask of another read, {follow.mean():.1%} of the {n} windows are called that read's "
        f"class, with its runs at random places {chance.mean():.1%}",
    )


def _fit_length(mask: Floats, n: int) -> Floats:
    """A mask stretched or shrunk to ``n`` tokens."""
    if len(mask) == 0:
        return np.zeros(n, dtype=np.float32)
    return mask[np.arange(n) * len(mask) // max(n, 1)]


def check_evalx(case: Case) -> Check:
    """Does a judge that was not there when the masks were trained see the class in them?"""
    if len(case.fitting) < _TAUGHT:
        return _not_taught("EVAL-X", case)
    sequences, predicted = case.sequences, case.predicted

    def judged(masks: Sequence[Floats]) -> NDArray[np.float64]:
        answers = case.evalx.log_probabilities(case.subject, sequences, masks)
        return np.asarray((case.subject.best(answers) == predicted).mean(1), dtype=np.float64)

    own, chance = judged(case.examined.rounded), judged(case.scattered)
    whole = judged([np.ones_like(mask) for mask in case.examined.masks])
    frozen = case.agrees(case.examined.rounded).mean(1)
    # No better than random spans to an independent judge: what convinces the classifier is not evidence.
    check = judge_interval(
        "EVAL-X",
        "leakage",
        case.interval(own - chance),
        0.1,
        0.0,
        f"an independent judge finds the class in {own.mean():.1%} of the masked windows, in "
        f"{chance.mean():.1%} with their runs at random places; the classifier itself in {frozen.mean():.1%}",
        {
            "masks": float(own.mean()),
            "random places": float(chance.mean()),
            "whole windows": float(whole.mean()),
            "classifier, masks": float(frozen.mean()),
        },
    )
    # The judge itself loses some windows; beyond a fifth, masks speak to the frozen classifier alone.
    speaks_to_one = check.verdict == "pass" and (frozen - own).mean() > 0.2
    return replace(check, verdict="warn") if speaks_to_one else check


def _not_taught(name: str, case: Case) -> Check:
    reason = f"{len(case.fitting)} windows of groups that are not examined are too few to teach a judge"
    return _not_run(name, "leakage", f"{reason}: {_TAUGHT} are needed")


def check_encoding(case: Case) -> Check:
    """Does the choice of tokens say more than the tokens themselves?"""
    if len(case.fitting) < _TAUGHT:
        return _not_taught("encode-meter", case)
    taught, examined, subject = case.taught, case.examined, case.subject
    sizes = subject.explanandum.sizes
    wanted = np.exp(examined.log_probabilities).astype(np.float64)
    gains = []
    for teach, test in (
        (taught.rounded, examined.rounded),
        (case.scatter(taught.rounded), case.scattered),
    ):
        answers = case.evalx.log_probabilities(subject, taught.sequences, teach)
        asked = case.evalx.log_probabilities(subject, examined.sequences, test)
        before, after = read_masks(sizes, (answers, teach, taught.log_probabilities), (asked, test))
        gains.append((wanted * (after - before)).sum(1))
    # Nats, as a share of what there is to know: all classes of all ranks.
    scale = max(float(np.log(sizes).sum()), _TINY)
    found = case.interval((gains[0] - gains[1]) / scale)
    # Honest masks of the demo have none; a tenth of all there is to know cannot be an accident.
    return judge_interval(
        "encode-meter",
        "leakage",
        found,
        0.03,
        0.1,
        f"a judge that also sees the mask as such gains {found[0]:+.1%} of all there is to know about the "
        "classes, beyond what it gains from random places: that much is told by the choice of tokens",
        {
            "gain, masks (nats)": float(gains[0].mean()),
            "gain, random places (nats)": float(gains[1].mean()),
        },
    )


# ---------------------------------------------------------------- degeneracy


def check_area(case: Case) -> Check:
    """How much do the rounded masks keep?"""
    area = np.array([mask.mean() if len(mask) else 0.0 for mask in case.examined.rounded])
    value = float(area.mean())
    # Training calls 0.95 degenerate too; above 0.6 a mask leaves out less than it shows.
    warn, fail = 0.6, 0.95
    return Check(
        "area",
        "degeneracy",
        _judge(value, warn, fail),
        value,
        f"the rounded masks keep {value:.1%} of the tokens; what keeps nearly all explains nothing",
        warn,
        fail,
        details={f"quantile {q:g}": float(np.quantile(area, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
    )


def check_empty_or_full(case: Case) -> Check:
    """How many windows have a mask that keeps all, or nothing?"""
    area = np.array([mask.mean() if len(mask) else 0.0 for mask in case.examined.rounded])
    value = float(((area < 0.001) | (area > 0.999)).mean())
    # A few windows without evidence are honest; half of them are none.
    warn, fail = 0.05, 0.5
    return Check(
        "empty or full masks",
        "degeneracy",
        _judge(value, warn, fail),
        value,
        f"{value:.1%} of the windows have a mask that keeps nothing or everything",
        warn,
        fail,
        details={"empty": float((area < 0.001).mean()), "full": float((area > 0.999).mean())},
    )


def check_undecided(case: Case) -> Check:
    """How many tokens are neither kept nor removed?"""
    values = np.concatenate(case.examined.masks)
    value = float(((values > 0.1) & (values < 0.9)).mean())
    # When most tokens are undecided, where to cut is arbitrary; no harm is done if rounding does none.
    warn = 0.5
    return Check(
        "undecided tokens",
        "degeneracy",
        "warn" if value >= warn else "pass",
        value,
        f"{value:.1%} of the mask values lie between 0.1 and 0.9; rounding decides about them",
        warn,
    )


def check_position(case: Case) -> Check:
    """Does the place of a token decide whether it is kept?"""
    value = _explained_by_position(case.examined.masks)
    # The facts' gate is 0.5; sequences have no such order, so that 0.2 is already odd.
    warn, fail = 0.2, 0.5
    return Check(
        "position",
        "degeneracy",
        _judge(value, warn, fail),
        value,
        f"the position in the window alone explains {value:.1%} of how the masks vary; an explanation "
        "depends on the sequence",
        warn,
        fail,
    )


def _explained_by_position(masks: Sequence[Floats]) -> float:
    """Share of the variance between the positions, less what means over so few windows explain by chance."""
    place = np.concatenate([np.arange(len(mask)) for mask in masks])
    values = np.concatenate(masks).astype(np.float64)
    n = np.bincount(place)
    several = (n > 1)[place]
    place, values = place[several], values[several]
    if len(values) == 0 or values.std() < 1e-6:
        return 0.0
    n = np.bincount(place)
    means = np.bincount(place, values) / np.maximum(n, 1)
    within = ((values - means[place]) ** 2).sum() / max(len(values) - (n > 0).sum(), 1)
    return max(0.0, 1 - float(within / values.var(ddof=1)))


def check_class_overlap(case: Case) -> Check:
    """Do masks of other classes differ?"""
    value = _overlap(case.examined.rounded, case.wrong.rounded)
    # Masks that keep the same for every class do not say why this one; by chance, two halves share a third.
    warn = 0.5
    return Check(
        "overlap between classes",
        "degeneracy",
        "warn" if value >= warn else "pass",
        value,
        f"the masks of the predicted and of other classes have {value:.0%} of their tokens in common",
        warn=warn,
    )


def check_rank_overlap(case: Case) -> Check:
    """Do the masks of the ranks differ?"""
    n_ranks = len(case.subject.explanandum.sizes)
    if n_ranks < 2:
        return _not_run("overlap between ranks", "degeneracy", "there is but one rank")
    overlaps = [
        _overlap([m[:, a] for m in case.examined.rank_masks], [m[:, b] for m in case.examined.rank_masks])
        for a, b in combinations(range(n_ranks), 2)
    ]
    value = float(np.mean(overlaps))
    # Ranks may share evidence; when nine tenths are shared, only their maximum means anything.
    warn = 0.9
    return Check(
        "overlap between ranks",
        "degeneracy",
        "warn" if value >= warn else "pass",
        value,
        f"the masks of two ranks have {value:.0%} of their tokens in common; at 90% they are one mask",
        warn=warn,
    )


def check_composition(case: Case) -> Check:
    """Do the masks follow GC content, N or low complexity?"""
    if case.subject.tokenizer.alphabet != "dna":
        return _not_run("composition", "degeneracy", "only DNA has GC content and N")
    values = np.concatenate(case.examined.masks)
    of_tokens = np.concatenate(
        [_composition(s, spans) for s, spans in zip(case.sequences, case.examined.spans, strict=True)]
    )
    found = {
        name: _correlation(values, column)
        for name, column in zip(("GC", "N", "low complexity"), of_tokens.T, strict=True)
    }
    details = {name: r for name, r in found.items() if not np.isnan(r)}
    value = max((abs(r) for r in details.values()), default=0.0)
    # r = 0.3 explains a tenth of the variance, 0.7 half of it.
    warn, fail = 0.3, 0.7
    return Check(
        "composition",
        "degeneracy",
        _judge(value, warn, fail),
        value,
        f"the mask values correlate with GC content, N or low complexity by at most {value:.2f}: "
        + ("they are no stand-in for it" if value < warn else "they may be little more than that"),
        warn,
        fail,
        details=details,
    )


def _composition(sequence: str, spans: NDArray[np.int64]) -> NDArray[np.float64]:
    """(T, 3): GC and N share of each token, and how few different 3-mers are in the 36 bases around it."""
    codes = np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)
    total = {
        letters: np.concatenate([[0], np.cumsum(np.isin(codes, np.frombuffer(letters.encode(), np.uint8)))])
        for letters in ("GC", "N")
    }
    sizes = np.maximum(spans[:, 1] - spans[:, 0], 1)
    shares = [(count[spans[:, 1]] - count[spans[:, 0]]) / sizes for count in total.values()]
    triples = [sequence[i : i + 3] for i in range(len(sequence) - 2)]
    middles = spans.mean(1).astype(int)
    simple = []
    for middle in middles.tolist():
        around = triples[max(middle - 18, 0) : middle + 18]
        simple.append(1 - len(set(around)) / max(len(around), 1))
    return np.stack([*shares, np.array(simple, dtype=np.float64)], axis=1)


# ---------------------------------------------------------------- stability


def _by_base(mask: Floats, spans: NDArray[np.int64]) -> Floats:
    """Token values as one value per base."""
    return np.repeat(mask, spans[:, 1] - spans[:, 0])


def _masks_of(case: Case, sequences: Sequence[str]) -> Examined:
    """Other readings of the windows, with masks of the classes that were predicted for the windows."""
    own = case.windows
    changed = _Rows(sequences, case.examined.labels, own.names, own.starts, own.groups)
    return examine(case.subject, case.explainer, changed, case.predicted)


def check_strands(case: Case) -> Check:
    """Are the masks of the two strands the same?"""
    name, group = "reverse complement", "stability"
    if case.subject.tokenizer.alphabet != "dna":
        return _not_run(name, group, "only DNA has two strands")
    other = _masks_of(case, [turn_round(s) for s in case.sequences])
    same = float((other.predicted == case.predicted).mean())
    if same < 0.75:
        return _not_run(
            name, group, f"the classifier itself calls only {same:.0%} of the reverse complements the same"
        )
    forward = [_by_base(m, s) for m, s in zip(case.examined.masks, case.examined.spans, strict=True)]
    backward = [_by_base(m, s)[::-1] for m, s in zip(other.masks, other.spans, strict=True)]
    value = _mean_correlation(forward, backward)
    if np.isnan(value):
        return _not_run(name, group, "the masks do not vary")
    # As for the reading frame.
    warn, fail = 0.5, 0.2
    return Check(
        name,
        group,
        _judge(value, warn, fail),
        value,
        f"masks of a read and of its reverse complement correlate by {value:.2f}, base by base",
        warn,
        fail,
        details={"same class": same},
    )


def check_frames(case: Case) -> Check:
    """Do the masks stay when the reading frame shifts?"""
    name, group = "reading frame", "stability"
    k = int(getattr(case.subject.tokenizer, "k", 1))
    if k < 2:
        return _not_run(name, group, "tokens are no k-mers")
    own = [_by_base(m, s) for m, s in zip(case.examined.masks, case.examined.spans, strict=True)]
    details = {}
    for shift in range(1, k):
        other = _masks_of(case, [s[shift:] for s in case.sequences])
        moved = [_by_base(m, s) for m, s in zip(other.masks, other.spans, strict=True)]
        details[f"{shift}"] = _mean_correlation([m[shift:] for m in own], moved)
    found = [value for value in details.values() if not np.isnan(value)]
    if not found:
        return _not_run(name, group, "the masks do not vary")
    value = float(np.mean(found))
    # Edges of chunks move with the frame; where less than a quarter of the variance stays, so do the chunks.
    warn, fail = 0.5, 0.2
    return Check(
        name,
        group,
        _judge(value, warn, fail),
        value,
        f"read 1 to {k - 1} bases further on, masks correlate with themselves by {value:.2f}, base by base",
        warn,
        fail,
        details=details,
    )


def check_randomised(case: Case) -> Check:
    """Do the masks change when the classifier is another one?"""
    name, group = "randomised classifier", "stability"
    network = deepcopy(case.subject.explanandum)
    generator = torch.Generator().manual_seed(case.options.seed)
    with torch.no_grad():
        for weight in network.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    other = examine(case.subject._replace(explanandum=network), case.explainer, case.windows, case.predicted)
    own, theirs = np.concatenate(case.examined.masks), np.concatenate(other.masks)
    if float(np.abs(own - theirs).max(initial=0.0)) < 1e-6:
        return Check(
            name,
            group,
            "warn",
            1.0,
            "the masks cannot change, because this Explainer reads the sequence only and never asks the "
            "classifier: they show what it was taught, not what the classifier does with this read",
            warn=1.0,
        )
    value = _mean_correlation(case.examined.masks, other.masks)
    value = 0.0 if np.isnan(value) else value  # one of them lost all shape
    # The masks of a classifier with shuffled weights should share nothing with its own.
    warn, fail = 0.3, 0.6
    return Check(
        name,
        group,
        _judge(value, warn, fail),
        value,
        f"with the classifier's weights shuffled, the masks correlate with those before by {value:.2f}: "
        + ("they depend on what it learned" if value < warn else "they hardly depend on what it learned"),
        warn,
        fail,
    )


def check_seeds(case: Case) -> Check:
    """Do Explainers from other seeds keep the same tokens?"""
    name, group = "seeds", "stability"
    if not case.others:
        return _not_run(name, group, "only one Explainer was given; train others with other seeds")
    masks = [case.examined, *(examine(case.subject, other, case.windows) for other in case.others)]
    pairs = list(combinations([m.rounded for m in masks], 2))
    overlaps = [_overlap(a, b) for a, b in pairs]
    chance = float(np.mean([_overlap(case.scatter(a), b) for a, b in pairs]))
    value = float(np.mean(overlaps))
    # Half in common is what remains when a third of each mask is its own.
    warn, fail = 0.5, 0.25
    return Check(
        name,
        group,
        _judge(value, warn, fail),
        value,
        f"{len(masks)} Explainers from different seeds have {value:.0%} of their kept tokens in common "
        f"({chance:.0%} if their runs lay at random)",
        warn,
        fail,
        details={"lowest pair": min(overlaps), "random places": chance},
    )


CHECKS: dict[str, Callable[[Case], Check]] = {
    "blank input": check_blank,
    "constant mask": check_constant,
    "rounding": check_rounding,
    "agreement of removals": check_removals,
    "better than chance": check_chance,
    "oracle gap": check_oracle_gap,
    "steering": check_steering,
    "mask-only probe": check_probe,
    "mask swap": check_swap,
    "EVAL-X": check_evalx,
    "encode-meter": check_encoding,
    "area": check_area,
    "empty or full masks": check_empty_or_full,
    "undecided tokens": check_undecided,
    "position": check_position,
    "overlap between classes": check_class_overlap,
    "overlap between ranks": check_rank_overlap,
    "composition": check_composition,
    "reverse complement": check_strands,
    "reading frame": check_frames,
    "randomised classifier": check_randomised,
    "seeds": check_seeds,
}
"""All checks by name, group by group."""
