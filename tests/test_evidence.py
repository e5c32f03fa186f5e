"""An Explainer that learns which tokens speak most for a class: against the gradients themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import TOKENIZER, explainer, explanandum, labelled

from wyrcli.distribution import World
from wyrcli.engine import TrainingOptions
from wyrcli.model.evidence import mark_share
from wyrcli.model.loss import PRESETS
from wyrcli.model.masking import gate
from wyrcli.training import train_explainer


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


def test_it_learns_the_gradient() -> None:
    """For the predicted classes, on windows that it has not seen; their loss chose the weights."""
    model, learner = explanandum(1), explainer("state", seed=2)
    data, unseen = labelled(96, length=60), labelled(24, length=60, seed=5)
    options = TrainingOptions(learning_rate=2e-2, batch_size=32, steps=40, validate_every=20)
    result = train_explainer(
        learner, model, TOKENIZER, data, "gate", PRESETS["balanced"], options, World(), lambda p: None,
        evidence=0.4, validation=unseen,
    )  # fmt: skip
    assert result.scores["difference"] == pytest.approx(result.scores["loss"])
    batch = TOKENIZER.batch(list(unseen.sequences))
    mask = torch.ones(batch.ids.shape, requires_grad=True)
    logits, states = model.classify(batch, mask, gate)
    numbers = model.class_numbers(model.predict(logits)[0])[:, :1]
    logs = torch.cat([own.log_softmax(-1) for own in model.split(logits)], -1)
    evidence = torch.autograd.grad(logs.gather(1, numbers).sum(), mask)[0]
    with torch.no_grad():
        found = learner.eval()(batch, [state.detach() for state in states], numbers)[..., 0]
    of_rows = [
        np.corrcoef(own[v], other[v])[0, 1]
        for own, other, v in zip(found.numpy(), evidence.numpy(), batch.valid.numpy(), strict=True)
    ]
    assert np.median(of_rows) > 0.6
