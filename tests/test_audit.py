"""The audit audits itself: it must fail the cheats, pass the planted truth, and know what it cannot ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations

import encoders
import numpy as np
import pytest
import torch
from cheats import (
    AllOnes,
    ClassInPlace,
    Noise,
    PlaceOnly,
    PlantedTruth,
    Rule,
    Steering,
    find_motif,
    simulated,
)
from hypothesis import given
from hypothesis import strategies as st
from toy import (
    MIXED,
    TAXONOMY,
    TOKENIZER,
    ConstantExplainer,
    Labelled,
    RuleExplainer,
    explainer,
    explanandum,
    labelled,
    randomise,
)

from wyrcli.audit import CHECKS, GROUPS, AuditOptions, Check, audit, judge_interval, kendall, prepare_case
from wyrcli.checkpoint import Checkpoint, default_model, load_checkpoint, load_explainer
from wyrcli.errors import InputError
from wyrcli.evalx import FittingOptions
from wyrcli.examination import EvaluatedWindows, Subject, examine
from wyrcli.metrics import balanced_accuracy
from wyrcli.model.encoder_tokens import TextTokenizer
from wyrcli.model.encoders import EncoderExplanandum
from wyrcli.model.explainer import Explainer, StateExplainer
from wyrcli.model.explanandum import Classified, Explanandum
from wyrcli.model.masking import OPERATORS, Operator, gate
from wyrcli.model.tokens import KmerTokenizer, TokenBatch
from wyrcli.simulation import MOTIF_BP, simulate_blocks, toy_world

CPU = torch.device("cpu")
FITTED = ("EVAL-X", "encode-meter")
QUICK = tuple(name for name in CHECKS if name not in FITTED)
BRIEF = AuditOptions(fitting=FittingOptions(steps=2, batch_size=4))
TAUGHT = BRIEF._replace(windows=30, fitting_windows=100)


@cache
def demo() -> Checkpoint:
    """The model that is installed with the package."""
    return load_checkpoint(default_model())


@cache
def reads(n: int = 64) -> Labelled:
    """New reads of the demo's world."""
    return simulated(demo().taxonomy, n, seed=99)


def run(
    model: Explainer,
    checks: Sequence[str] = QUICK,
    windows: EvaluatedWindows | None = None,
    options: AuditOptions = BRIEF,
    operator: str = "gate",
) -> dict[str, Check]:
    """An audit with the demo's classifier."""
    subject = Subject(demo().explanandum, demo().tokenizer, CPU)
    found = audit(
        subject, model, operator, reads() if windows is None else windows, checks=checks, options=options
    )
    return {check.name: check for check in found}


def on_toy(
    model: Explainer,
    checks: Sequence[str] = (),
    windows: EvaluatedWindows | None = None,
    subject: Subject | None = None,
    others: Sequence[Explainer] = (),
    options: AuditOptions = BRIEF,
    operator: str = "gate",
) -> dict[str, Check]:
    """An audit with a toy classifier."""
    found = audit(
        subject or Subject(explanandum(), TOKENIZER, CPU, 16),
        model,
        operator,
        labelled(40) if windows is None else windows,
        others=others,
        options=options,
        checks=checks,
    )
    return {check.name: check for check in found}


N_CLASSES = 28
CHEATS = {
    "class in the place": (lambda: ClassInPlace(N_CLASSES), 64, ("mask-only probe", "better than chance")),
    "all ones": (lambda: AllOnes(N_CLASSES), 64, ("area", "empty or full masks", "better than chance")),
    "place only": (lambda: PlaceOnly(N_CLASSES), 64, ("position", "better than chance")),
    "noise": (lambda: Noise(N_CLASSES), 64, ("better than chance",)),
    "another class's mask": (lambda: Steering(demo()), 600, ("steering",)),
}
"""How each is made, how many reads show it, and what must fail."""


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_fail(name: str) -> None:
    """Each cheat fails the checks that were made for it."""
    make, n, expected = CHEATS[name]
    found = run(make(), expected, reads(n), BRIEF._replace(windows=n))
    assert {check: found[check].verdict for check in expected} == dict.fromkeys(expected, "fail")


def test_planted_truth_is_found() -> None:
    """Reading finds the very bases where the reads' own motifs were planted, and no others."""
    (block,) = simulate_blocks(seed=99, n_reads=64, length=600, max_copies=2)
    world = toy_world()
    for i, sequence in enumerate(reads().sequences):
        for kind in range(3):
            planted = np.zeros(len(sequence), dtype=bool)
            for _, start, _ in block.planted[(block.planted[:, 0] == i) & (block.planted[:, 2] == kind)]:
                planted[start : start + MOTIF_BP] = True
            assert (find_motif(sequence, world.motifs[kind][block.taxa[i, kind]]) == planted).all()


def test_planted_truth_passes() -> None:
    """The oracle passes all that can be asked of it; it has no classifier to ask."""
    found = run(PlantedTruth(demo().tokenizer, demo().taxonomy))
    verdicts = {name: check.verdict for name, check in found.items()}
    assert verdicts.pop("seeds") == "not run"
    assert verdicts.pop("reverse complement") == "not run"  # the demo knows one strand only
    assert verdicts.pop("randomised classifier") == "warn"
    assert set(verdicts.values()) == {"pass"}, verdicts


@pytest.mark.slow
def test_evalx_on_the_demo() -> None:
    """A judge of its own believes the truth and the demo's Explainer, and no mask that codes the class."""
    options = AuditOptions(windows=100, fitting=FittingOptions(steps=60, batch_size=16))
    windows = simulated(demo().taxonomy, 250, seed=7)
    trained = load_explainer(default_model(), "state", "gate").explainer
    for model in (PlantedTruth(demo().tokenizer, demo().taxonomy), trained):
        found = run(model, FITTED, windows, options)
        assert {check.verdict for check in found.values()} == {"pass"}, found
    found = run(ClassInPlace(N_CLASSES), FITTED, windows, options)
    assert {check.verdict for check in found.values()} == {"fail"}, found


@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_demo_explainers_do_not_fail(kind: str) -> None:
    """Only the one that reads the classifier's states can notice that the classifier is another one."""
    found = run(
        load_explainer(default_model(), kind, "gate").explainer, [n for n in QUICK if n != "reading frame"]
    )
    assert "fail" not in {check.verdict for check in found.values()}, found
    assert found["randomised classifier"].verdict == ("pass" if kind == "state" else "warn")
    assert ("never asks" in found["randomised classifier"].meaning) == (kind == "lstm")


class Blunt(Explanandum):
    """A classifier that half-closed masks do not touch: any value above 0 lets all of a token through."""

    def classify(
        self, batch: TokenBatch, mask: torch.Tensor | None = None, operator: Operator = gate
    ) -> Classified:
        return super().classify(batch, None if mask is None else (mask > 0).float(), operator)


def test_constant_mask_that_hides_nothing() -> None:
    """The fault of masks in front of a LayerNorm: at 0.25 all is as without a mask, at 0 it is not."""
    usual = explanandum()
    blunt = Blunt(usual.backbone, usual.sizes, usual.pooling).freeze()
    blunt.heads = usual.heads
    found = {
        name: on_toy(explainer("state"), ["constant mask"], subject=Subject(model, TOKENIZER, CPU))
        for name, model in (("blunt", blunt), ("usual", usual))
    }
    check = found["blunt"]["constant mask"]
    assert check.verdict == "fail" and check.value == 0
    assert check.details["0.25: probability"] == check.details["1: probability"]
    assert found["usual"]["constant mask"].verdict == "pass"


def test_assured_of_nothing() -> None:
    """A classifier whose biases name a class calls blank input with assurance."""
    model = explanandum()
    assert on_toy(explainer("state"), ["blank input"])["blank input"].verdict == "pass"
    with torch.no_grad():
        model.heads[1].bias[2] += 9
    found = on_toy(explainer("state"), ["blank input"], subject=Subject(model, TOKENIZER, CPU))["blank input"]
    assert found.verdict == "warn" and found.value > 0.9


def test_masks_that_do_not_depend_on_the_classifier() -> None:
    """All ones in every way: known answers of the checks of degeneracy."""
    found = on_toy(ConstantExplainer(9.0))
    assert found["area"].value == 1 and found["area"].verdict == "fail"
    assert found["overlap between classes"].value == found["overlap between ranks"].value == 1
    assert found["undecided tokens"].value == found["position"].value == found["rounding"].value == 0
    assert found["better than chance"].value == found["steering"].value == found["oracle gap"].value == 0
    assert found["reading frame"].verdict == "not run"  # nothing varies
    undecided = on_toy(ConstantExplainer(0.1), ["undecided tokens"])["undecided tokens"]
    assert undecided.value == 1 and undecided.verdict == "warn"


def test_composition() -> None:
    """A mask that is the GC content correlates with it fully, on windows with N as well."""
    by_id = torch.zeros(len(TOKENIZER.vocabulary))
    for i, letters in enumerate(TOKENIZER.vocabulary):
        if not letters.startswith("<"):
            by_id[i] = (sum(c in "GC" for c in letters) / len(letters) - 0.5) * 20
    found = on_toy(RuleExplainer(lambda ids: by_id[ids]), ["composition"], ragged())["composition"]
    assert found.details["GC"] > 0.95 and found.verdict == "fail"


class Forward(RuleExplainer):
    """Keeps what comes early, whatever it is."""

    def __init__(self) -> None:
        super().__init__(lambda ids: 4.0 - torch.arange(ids.shape[1], device=ids.device).expand_as(ids))


def test_position() -> None:
    """All of the variance of such masks is that of their position; noise has none beyond chance."""
    assert on_toy(Forward(), ["position"], labelled(60))["position"].value == pytest.approx(1, abs=1e-6)
    noise = RuleExplainer(lambda ids: torch.sin(ids * 12.9898 * 43758.5453) * 4)
    assert on_toy(noise, ["position"], labelled(60))["position"].value < 0.05


def test_seeds() -> None:
    """Twins agree in everything, and one that keeps nothing agrees with none."""
    found = on_toy(Forward(), ["seeds"], others=[Forward(), Forward()])["seeds"]
    assert found.value == 1 and found.verdict == "pass"
    found = on_toy(Forward(), ["seeds"], others=[ConstantExplainer(-9.0)])["seeds"]
    assert found.value == 0 and found.verdict == "fail"
    assert on_toy(Forward(), ["seeds"])["seeds"].verdict == "not run"


def ragged() -> Labelled:
    """Windows of many lengths, with N, some of them empty; enough to teach EVAL-X."""
    texts = list(MIXED) * 17
    labels = np.arange(2 * len(texts)).reshape(-1, 2) % TAXONOMY.sizes
    return Labelled(texts, labels, [f"r{i}" for i in range(len(texts))], np.zeros(len(texts), dtype=np.int64))


class PlainText(KmerTokenizer):
    """The same tokens, for an alphabet that has no strands, no N and no frames."""

    alphabet = "text"
    k = 1

    def __init__(self) -> None:
        super().__init__(TOKENIZER.vocabulary)
        self.k = 2


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_any_windows(pooling: str) -> None:
    """Ragged windows and both poolings: every check answers, with a sentence, in its group, in order."""
    subject = Subject(explanandum(pooling=pooling), TOKENIZER, CPU, 5)
    found = on_toy(explainer("state"), windows=ragged(), subject=subject, options=TAUGHT)
    assert list(found) == list(CHECKS)
    assert all(found[name].verdict != "not run" for name in FITTED)
    groups = [check.group for check in found.values()]
    assert groups == sorted(groups, key=GROUPS.index)
    are_answers(found)


def are_answers(found: dict[str, Check]) -> None:
    """Each has a sentence, a number unless it could not be run, and an interval that holds the number."""
    for check in found.values():
        assert check.meaning and "nan" not in check.meaning
        assert not np.isnan(check.value) or check.verdict == "not run"
        assert np.isnan(check.value) or check.verdict != "not run" or "too few" in check.meaning
        assert not np.isnan(list(check.details.values())).any(), check
        if not np.isnan(check.low):
            assert check.low <= check.value <= check.high


@pytest.mark.parametrize("operator", OPERATORS)
def test_encoders(operator: str) -> None:
    """A small BERT of one rank, with <cls> pooling, tokens of words and no alphabet to speak of."""
    model = EncoderExplanandum(encoders.build("bert"), [3], [2, 3]).freeze()
    tokenizer = TextTokenizer(encoders.word_pieces(), pad_id=0, vocab_size=encoders.N_PIECES, max_tokens=64)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(encoders.WORDS, rng.integers(1, 12))) for _ in range(135)] + ["", "good"]
    labels = rng.integers(0, 3, (len(texts), 1))
    names = [f"text {i}" for i in range(len(texts))]
    windows = Labelled(texts, labels, names, np.zeros(len(texts), dtype=np.int64))
    masks = StateExplainer(16, 3, 3, width=6, kernel=3)
    randomise(masks)
    subject = Subject(model, tokenizer, CPU, 16)
    found = on_toy(masks.eval(), windows=windows, subject=subject, options=TAUGHT, operator=operator)
    assert list(found) == list(CHECKS)
    are_answers(found)
    for name in ("reverse complement", "reading frame", "composition", "overlap between ranks", "seeds"):
        assert found[name].verdict == "not run"
    assert f"{operator}: of the way to certainty" in found["blank input"].details


def test_bf16() -> None:
    """A classifier and an Explainer in bf16 are audited too, about as they are in float32."""
    results = [
        on_toy(
            explainer("state", dtype=dtype),
            QUICK,
            ragged(),
            Subject(explanandum(dtype=dtype), TOKENIZER, CPU, 16),
            [explainer("state", 1, dtype)],
        )
        for dtype in (torch.bfloat16, torch.float32)
    ]
    are_answers(results[0])
    for name in ("area", "undecided tokens", "overlap between classes", "overlap between ranks", "seeds"):
        assert results[0][name].value == pytest.approx(results[1][name].value, abs=0.05), name


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_own_operator_is_always_among_the_removals(pooling: str) -> None:
    """Also where it is none that the classifier would be asked about otherwise."""
    subject = Subject(explanandum(pooling=pooling), TOKENIZER, CPU)
    names = ["blank input", "agreement of removals"]
    found = on_toy(explainer("state"), names, subject=subject, operator="scale-embedding")
    assert "scale-embedding: of the way to certainty" in found["blank input"].details
    assert "scale-embedding: masks keep" in found["agreement of removals"].details


def overlapping(whole: Labelled, size: int, length: int) -> Labelled:
    """Windows of ``length``, ``size`` of each genome, each beginning one base after the other."""
    rows = range(len(whole) * size)
    return Labelled(
        [whole.sequences[i // size][i % size :][:length] for i in rows],
        whole.labels.repeat(size, 0),
        [whole.names[i // size] for i in rows],
        np.array([i % size for i in rows], dtype=np.int64),
    )


def grouped(n_groups: int, size: int) -> Labelled:
    """Overlapping windows for the toy classifier."""
    return overlapping(labelled(n_groups, 24 + size), size, 24)


class ByGenome(Rule):
    """One run per genome, at a place that has nothing to do with its class; the same in all its windows."""

    def __init__(self, windows: Labelled) -> None:
        super().__init__(N_CLASSES)
        rng = np.random.default_rng(3)
        places = {name: int(rng.integers(1, 90)) for name in dict.fromkeys(windows.groups)}
        self.places = {
            tuple(demo().tokenizer.encode(s)): places[name]
            for s, name in zip(windows.sequences, windows.groups, strict=True)
        }

    def keeps(self, batch: TokenBatch, states: Sequence[torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
        first = torch.tensor([self.places[tuple(row)] for row in batch.ids.tolist()])[:, None]
        place = torch.arange(batch.ids.shape[1])
        return ((place >= first) & (place < first + 5))[..., None]


def test_duplicates_are_no_code() -> None:
    """Fifty genomes of four windows: what the probe learns of one window would hold for its neighbours."""
    whole = simulated(demo().taxonomy, 50, seed=5, length=603)
    windows = overlapping(whole, 4, 600)
    found = run(ByGenome(windows), ["mask-only probe"], windows)["mask-only probe"]
    assert found.verdict == "pass"
    windows.names = [f"{name}, {start}" for name, start in zip(windows.names, windows.starts, strict=True)]
    model = ByGenome(overlapping(whole, 4, 600))
    assert run(model, ["mask-only probe"], windows)["mask-only probe"].verdict == "fail"


def test_few_groups() -> None:
    """Nine genomes give numbers without intervals, which are judged by themselves, and no probe."""
    names = ["steering", "oracle gap", "better than chance", "mask-only probe"]
    for n_groups, known in ((9, False), (10, True)):
        found = on_toy(explainer("state"), names, grouped(n_groups, 12))
        for name in names[:-1]:
            assert np.isnan([found[name].low, found[name].high]).all() == (not known)
            assert not np.isnan(found[name].value)
        assert found["mask-only probe"].verdict == "not run" and "few" in found["mask-only probe"].meaning
    check = on_toy(ConstantExplainer(9.0), ["better than chance"], grouped(5, 12))["better than chance"]
    assert check.verdict == "fail" and np.isnan(check.low)


def with_interval(value: float, low: float, high: float, warn: float, fail: float) -> str:
    """The verdict."""
    return judge_interval("a", "leakage", (value, low, high), warn, fail, "").verdict


def test_verdicts_of_intervals() -> None:
    """The lower end is judged, but none passes that may as well fail; without an interval, the value is."""
    nan = float("nan")
    assert with_interval(0.1, 0.0, 0.15, 0.1, 0.2) == "pass"
    assert with_interval(0.15, 0.0, 0.2, 0.1, 0.2) == "not run"
    assert with_interval(0.3, 0.1, 0.5, 0.1, 0.2) == "warn"
    assert with_interval(0.3, 0.2, 0.4, 0.1, 0.2) == "fail"
    assert with_interval(0.3, nan, nan, 0.1, 0.2) == "fail"
    # Where little is bad, the lower end is the doubtful one already.
    assert with_interval(0.3, 0.05, 0.5, 0.1, 0.0) == "warn"
    assert with_interval(0.3, nan, nan, 0.1, 0.0) == "pass"


def test_oracle_gap_is_paired() -> None:
    """Its interval is that of the difference, draw by draw; the same masks for all classes have none."""
    windows = labelled(60)
    same = RuleExplainer(lambda ids: torch.sin(ids * 12.9898) * 4)
    check = on_toy(same, ["oracle gap"], windows)["oracle gap"]
    assert (check.value, check.low, check.high) == (0, 0, 0)

    model = ClassInPlace(TAXONOMY.n_classes)
    check = on_toy(model, ["oracle gap"], windows)["oracle gap"]
    subject = Subject(explanandum(), TOKENIZER, CPU)
    case = prepare_case(subject, model, "gate", windows, options=BRIEF, fits=False)
    usual, asked = (
        subject.predict(case.sequences, examine(subject, model, case.windows, classes).rounded)
        for classes in (None, case.windows.labels)
    )
    scores = []
    for times in [np.ones(60, dtype=int), *case.weights.astype(int)]:
        true, before, after = (part.repeat(times, 0) for part in (case.windows.labels, usual, asked))
        scores.append([balanced_accuracy(true[:, r], b[:, r]) for b in (after, before) for r in (0, 1)])
    differences = np.array(scores)[:, :2] - np.array(scores)[:, 2:]
    worst = int(np.argmax(differences[0]))
    assert check.value == pytest.approx(differences[0, worst], abs=1e-9)
    expected = np.quantile(differences[1:, worst], [0.025, 0.975])
    assert [check.low, check.high] == pytest.approx(expected, abs=1e-6) and check.low < check.high


def test_other_alphabets() -> None:
    """What only DNA has is not asked of texts."""
    tokenizer = PlainText()
    found = on_toy(explainer("state"), QUICK, subject=Subject(explanandum(), tokenizer, CPU))
    for name in ("composition", "reverse complement"):
        assert found[name].verdict == "not run" and "DNA" in found[name].meaning
    assert not any(key.startswith(("n:", "shuffle:")) for key in found["agreement of removals"].details)


def test_batch_size_changes_nothing() -> None:
    """One window at a time is audited as all together."""
    results = [
        on_toy(
            explainer("state"),
            subject=Subject(explanandum(), TOKENIZER, CPU, size),
            windows=ragged(),
            options=TAUGHT,
        )
        for size in (1, 64)
    ]
    for name, check in results[0].items():
        other = results[1][name]
        assert check.value == pytest.approx(other.value, abs=1e-4, nan_ok=True), name
        assert check.verdict == other.verdict


def test_single_checks_give_the_same() -> None:
    """A check that is run alone says what it says among the others."""
    whole = on_toy(explainer("state"), QUICK)
    for name in ("steering", "mask swap", "better than chance", "mask-only probe"):
        alone = on_toy(explainer("state"), [name])
        assert list(alone) == [name]
        assert alone[name].value == pytest.approx(whole[name].value, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("n_groups", "size"), [(50, 1), (30, 2), (6, 10), (2, 30), (1, 40)])
def test_windows_for_fitting_are_others(n_groups: int, size: int) -> None:
    """EVAL-X learns from genomes that are not examined; about half of them if no others are given."""
    windows = grouped(n_groups, size)
    subject = Subject(explanandum(), TOKENIZER, CPU)
    case = prepare_case(subject, explainer("state"), "gate", windows, options=BRIEF)
    assert not set(case.windows.groups) & set(case.fitting.groups)
    assert set(case.windows.groups) | set(case.fitting.groups) == set(windows.groups)
    assert len(case.windows) == (n_groups + 1) // 2 * size
    assert len(case.windows) + len(case.fitting) == n_groups * size
    few = prepare_case(subject, explainer("state"), "gate", windows, options=BRIEF._replace(windows=10))
    assert len(few.windows) == 10 and not set(few.windows.groups) & set(few.fitting.groups)
    alone = prepare_case(subject, explainer("state"), "gate", windows, options=BRIEF, fits=False)
    assert len(alone.windows) == n_groups * size


def test_given_windows_for_fitting() -> None:
    """Of these too, none of an examined genome is learned from."""
    windows, others = labelled(40), grouped(60, 2)  # by the same names
    options = BRIEF._replace(windows=30)
    subject = Subject(explanandum(), TOKENIZER, CPU)
    case = prepare_case(subject, explainer("state"), "gate", windows, fitting=others, options=options)
    assert len(case.windows) == 30
    assert set(case.fitting.groups) == set(others.groups) - set(case.windows.groups)


def test_too_few_windows_to_teach() -> None:
    """EVAL-X and the encode-meter say so."""
    found = on_toy(explainer("state"), FITTED, labelled(199))
    assert {check.verdict for check in found.values()} == {"not run"}
    assert all("99 windows" in check.meaning for check in found.values())


def test_seed_is_that_of_all_that_is_drawn() -> None:
    """The same seed gives the same judge, another one another; shuffled letters follow it too."""
    subject = Subject(explanandum(), TOKENIZER, CPU)
    options = [TAUGHT._replace(seed=seed) for seed in (1, 1, 2)]
    cases = [prepare_case(subject, explainer("state"), "gate", ragged(), options=own) for own in options]
    assert [case.subject.seed for case in cases] == [1, 1, 2]
    judges = [torch.cat([p.flatten() for p in case.evalx.parameters()]) for case in cases]
    assert torch.equal(judges[0], judges[1]) and not torch.equal(judges[0], judges[2])


def test_progress_and_errors() -> None:
    """Checks are reported one by one; too few windows and unknown checks are errors."""
    told: list[Check] = []
    names = ["area", "position"]
    subject = Subject(explanandum(), TOKENIZER, CPU)
    found = audit(subject, explainer("state"), "gate", labelled(30), checks=names, on_check=told.append)
    assert told == found and [check.name for check in found] == names
    asked: list[str] = []

    def remember(name: str, run: Callable[[], Check]) -> Check:
        asked.append(name)
        return run() if name == "area" else Check(name, "degeneracy", "pass", 0.5, "found again")

    again = audit(subject, explainer("state"), "gate", labelled(30), checks=names, remember=remember)
    assert asked == names and again[0] == found[0] and again[1].meaning == "found again"
    with pytest.raises(InputError, match="20 or more"):
        audit(subject, explainer("state"), "gate", labelled(19))
    with pytest.raises(ValueError, match="no check 'aera'; known: blank input"):
        audit(subject, explainer("state"), "gate", labelled(30), checks=["aera"])


@given(values=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendall_by_pairs(values: list[tuple[int, int]]) -> None:
    """Concordant minus discordant pairs over the geometric mean of the pairs untied in each."""
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in combinations(values, 2)]
    untied = [sum(s[i] != 0 for s in signs) for i in (0, 1)]
    x, y = np.array(values, dtype=float).T
    if min(untied) == 0:
        assert np.isnan(kendall(x, y))
    else:
        assert kendall(x, y) == pytest.approx(sum(a * b for a, b in signs) / np.sqrt(untied[0] * untied[1]))
