"""The audit audits itself: it must fail the cheats, pass the planted truth, and know what it cannot ask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from cheats import AllOnes, ClassInPlace, Noise, PlaceOnly, PlantedTruth, Steering, find_motif, simulated
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
)

from wyrcli.audit import CHECKS, GROUPS, AuditOptions, Case, Check, audit, kendall
from wyrcli.checkpoint import Checkpoint, default_model, load_checkpoint, load_explainer
from wyrcli.errors import InputError
from wyrcli.evalx import FittingOptions
from wyrcli.examination import EvaluatedWindows, Subject
from wyrcli.model.explainer import Explainer
from wyrcli.model.explanandum import Classified, Explanandum
from wyrcli.model.masking import Operator, gate
from wyrcli.model.tokens import KmerTokenizer, TokenBatch
from wyrcli.simulation import MOTIF_BP, simulate_blocks, toy_world

CPU = torch.device("cpu")
FITTED = ("EVAL-X", "encode-meter")
QUICK = tuple(name for name in CHECKS if name not in FITTED)
BRIEF = AuditOptions(fitting=FittingOptions(steps=2, batch_size=4))


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
) -> dict[str, Check]:
    """An audit with a toy classifier."""
    found = audit(
        subject or Subject(explanandum(), TOKENIZER, CPU, 16),
        model,
        "gate",
        labelled(40) if windows is None else windows,
        others=others,
        options=BRIEF,
        checks=checks,
    )
    return {check.name: check for check in found}


N_CLASSES = 28
CHEATS = {
    "class in the place": (lambda: ClassInPlace(N_CLASSES), ("mask-only probe", "better than chance")),
    "all ones": (lambda: AllOnes(N_CLASSES), ("area", "empty or full masks", "better than chance")),
    "place only": (lambda: PlaceOnly(N_CLASSES), ("position", "better than chance")),
    "noise": (lambda: Noise(N_CLASSES), ("better than chance",)),
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_fail(name: str) -> None:
    """Each cheat fails the checks that were made for it."""
    make, expected = CHEATS[name]
    found = run(make(), expected)
    assert {check: found[check].verdict for check in expected} == dict.fromkeys(expected, "fail")


def test_steering_is_seen() -> None:
    """Tokens that speak for any class that is asked for bring it about; not often, but beyond chance."""
    found = run(Steering(demo()), ["steering"], reads(250))["steering"]
    assert found.verdict != "pass" and found.low > 0


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
    """Windows of many lengths, with N, some of them empty."""
    texts = list(MIXED) * 4
    labels = np.arange(2 * len(texts)).reshape(-1, 2) % TAXONOMY.sizes
    return Labelled(texts, labels, ["r"] * len(texts), np.zeros(len(texts), dtype=np.int64))


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
    found = on_toy(explainer("state"), windows=ragged(), subject=subject)
    assert list(found) == list(CHECKS)
    groups = [check.group for check in found.values()]
    assert groups == sorted(groups, key=GROUPS.index)
    for check in found.values():
        assert check.meaning and "nan" not in check.meaning
        assert np.isnan(check.value) == (check.verdict == "not run")
        assert not np.isnan(list(check.details.values())).any(), check
        if not np.isnan(check.low):
            assert check.low <= check.value <= check.high


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
        on_toy(explainer("state"), subject=Subject(explanandum(), TOKENIZER, CPU, size), windows=ragged())
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


def test_windows_for_fitting_are_others() -> None:
    """EVAL-X learns from windows that are not examined, at least half of them if no others are given."""
    seen: list[Case] = []

    def spy(case: Case) -> Check:
        seen.append(case)
        return Check("EVAL-X", "leakage", "pass", 0.0, "")

    windows = labelled(50)
    windows.sequences = [
        s + "ACGT"[i % 4] + "ACGT"[i // 4 % 4] + "ACGT"[i // 16] for i, s in enumerate(windows.sequences)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHECKS, "EVAL-X", spy)
        on_toy(explainer("state"), ["EVAL-X"], windows)
        on_toy(explainer("state"), ["area"], windows)
    (case,) = seen
    assert len(case.windows) == len(case.fitting) == 25
    assert set(case.windows.sequences) | set(case.fitting.sequences) == set(windows.sequences)


def test_progress_and_errors() -> None:
    """Checks are reported one by one; too few windows and unknown checks are errors."""
    told: list[Check] = []
    names = ["area", "position"]
    subject = Subject(explanandum(), TOKENIZER, CPU)
    found = audit(subject, explainer("state"), "gate", labelled(30), checks=names, on_check=told.append)
    assert told == found and [check.name for check in found] == names
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
