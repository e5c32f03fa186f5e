"""An Explainer that learns which tokens speak most for a class: against the gradients themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import TAXONOMY, TOKENIZER, explainer, explanandum, labelled

from wyrcli.distribution import World
from wyrcli.engine import TrainingOptions
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer
from wyrcli.model.evidence import calibrate_share, find_evidence, mark_share, start_from_evidence
from wyrcli.model.explainer import StateExplainer
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.loss import PRESETS
from wyrcli.model.masking import gate
from wyrcli.training import count, train_explainer


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.floats(0.05, 0.9))
def test_the_share_is_kept(lengths: list[int], share: float) -> None:
    """Of each row the tokens above one half are the highest ones, and so many of them; padding has none."""
    scores = torch.rand(len(lengths), 13, generator=torch.Generator().manual_seed(sum(lengths)))
    valid = torch.arange(13) < torch.tensor(lengths)[:, None]
    marked = mark_share(scores, valid, share)
    assert ((marked >= 0) & (marked <= 1)).all() and (marked[~valid] == 0).all()
    for row, own, n in zip(marked, scores, lengths, strict=True):
        above = row > 0.5
        assert above.sum() <= int(share * n)
        if above.any():
            assert own[above].min() >= own[:n][~above[:n]].max()
            assert above.sum() == int(share * n)
    turned = mark_share(scores.flip(0), valid.flip(0), share).flip(0)
    torch.testing.assert_close(marked, turned)


def test_it_starts_from_what_is_linear() -> None:
    """Where attention is even, the mean gradients of a class are most of what each token's gradient says."""
    data, unseen = labelled(128, length=240), labelled(24, length=240, seed=5)
    options = TrainingOptions(learning_rate=1e-2, batch_size=32, steps=30)
    torch.manual_seed(0)
    config = BackboneConfig(
        vocab_size=len(TOKENIZER.vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    model = Explanandum(NucleotideTransformer(config), TAXONOMY.sizes)
    count(model, TOKENIZER, data, options, World(), lambda progress: None)
    model.freeze()
    learner = StateExplainer(32, 2, TAXONOMY.n_classes, width=64, kernel=1)
    start_from_evidence(learner, model, [TOKENIZER.batch(list(data.sequences))], gate)
    batch = TOKENIZER.batch(list(unseen.sequences))
    evidence, states, classes = find_evidence(model, batch, gate)
    with torch.no_grad():
        found = learner.eval()(batch, states, classes)
    valid, of_ranks = batch.valid.numpy(), []
    for r, own in enumerate(evidence):
        each = [
            np.corrcoef(a[v], b[v])[0, 1]
            for a, b, v in zip(found[..., r].numpy(), own.numpy(), valid, strict=True)
        ]
        of_ranks.append(np.median(each))
    assert np.mean(of_ranks) > 0.3
    calibrate_share(learner, model, [batch], 0.3)
    with torch.no_grad():
        marked = (learner(batch, states, classes) > 0)[batch.valid].float().mean()
    assert marked == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_it_learns(kind: str) -> None:
    """Better than by one number for all tokens, on windows that it has not seen; and it marks its share."""
    model, learner = explanandum(1), explainer(kind, seed=2)
    data, unseen = labelled(96, length=60), labelled(24, length=60, seed=5)
    options = TrainingOptions(learning_rate=2e-2, batch_size=32, steps=80, validate_every=40)
    result = train_explainer(
        learner, model, TOKENIZER, data, "gate", PRESETS["balanced"], options, World(), lambda p: None,
        evidence=0.4, validation=unseen,
    )  # fmt: skip
    batch = TOKENIZER.batch(list(unseen.sequences))
    evidence, states, classes = find_evidence(model, batch, gate)
    wanted = torch.stack([mark_share(own, batch.valid, 0.4) for own in evidence], -1)[batch.valid]
    mean = wanted.mean()
    constant = -(mean * mean.log() + (1 - mean) * (1 - mean).log())
    assert result.scores["loss"] < constant - 0.005
    with torch.no_grad():
        marked = (learner.eval()(batch, states, classes) > 0)[batch.valid].float().mean()
    assert 0.25 < marked < 0.55
