"""Masks of the same bases in all reading frames, and the Explainer that learns their mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import MIXED, TOKENIZER, explainer, explanandum, labelled

from wyrcli.distribution import World
from wyrcli.engine import Progress, TrainingOptions
from wyrcli.model.frames import average_frames, match_area, token_of_base
from wyrcli.model.loss import PRESETS
from wyrcli.training import train_explainer

TEXTS = [text for text in MIXED if text]
K = TOKENIZER.k


def test_token_of_base() -> None:
    """Each base has the token whose span holds it."""
    for offset in range(K):
        batch = TOKENIZER.batch([text[offset:] for text in TEXTS])
        found = token_of_base(batch, offset, 25)
        for i, text in enumerate(TEXTS):
            for base in range(25):
                token = int(found[i, base])
                if offset <= base < len(text):
                    start, stop = batch.spans[i, token] + offset
                    assert token > 0 and start <= base < stop
                else:
                    assert token == 0


def test_one_frame_changes_nothing() -> None:
    """The mean of one mask is that mask."""
    batch = TOKENIZER.batch(TEXTS)
    mask = torch.rand(*batch.ids.shape, 2)
    _, tokens = average_frames([mask], [batch])
    assert torch.allclose(tokens[batch.valid], mask[batch.valid], atol=1e-5)
    assert not tokens[~batch.valid].any()


def test_average_base_by_base() -> None:
    """As a loop over bases finds it."""
    batches = [TOKENIZER.batch([text[f:] for text in TEXTS]) for f in range(K)]
    masks = [torch.rand(*batch.ids.shape, 1) for batch in batches]
    bases, tokens = average_frames(masks, batches)
    for i, text in enumerate(TEXTS):
        values = []
        for base in range(len(text)):
            seen = []
            for f, (mask, batch) in enumerate(zip(masks, batches, strict=True)):
                for token, (start, stop) in enumerate(batch.spans[i].tolist()):
                    if start + f <= base < stop + f:
                        seen.append(float(mask[i, token, 0]))
            values.append(np.mean(seen))
        assert np.allclose(bases[i, : len(text), 0], values, atol=1e-5)
        for token, (start, stop) in enumerate(batches[0].spans[i].tolist()):
            if stop > start:
                assert float(tokens[i, token, 0]) == pytest.approx(np.mean(values[start:stop]), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_match_area(share: float) -> None:
    """As many tokens of each window and rank as asked for are above one half, and they are the highest."""
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(4, 30, 2, generator=generator)
    valid = torch.arange(30) < torch.tensor([[30], [17], [1], [0]])
    moved = match_area(masks, torch.full((4, 2), share), valid)
    for i, n in enumerate(valid.sum(-1).tolist()):
        for r in range(2):
            own, before = moved[i, :n, r], masks[i, :n, r]
            assert int((own > 0.5).sum()) == round(share * n)
            assert torch.equal(own.argsort(), before.argsort())
            if 0 < round(share * n) < n:
                assert before[own > 0.5].min() > before[own <= 0.5].max()


def test_refining_comes_closer_to_the_mean(device: torch.device) -> None:
    """The pupil's difference from its teacher's mean falls; the Explanandum stays as it is."""
    model, masks = explanandum(), explainer("state").train().requires_grad_(True)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    seen = list[Progress]()
    options = TrainingOptions(learning_rate=5e-3, batch_size=16, steps=100)
    result = train_explainer(
        masks,
        model,
        TOKENIZER,
        labelled(64),
        "gate",
        PRESETS["balanced"],
        options,
        World(device=device),
        seen.append,
        refine=True,
        validation=labelled(64),
    )
    assert all(torch.equal(t.cpu(), before[name]) for name, t in model.state_dict().items())
    reports = [p.values["difference"] for p in seen if not p.is_validation]
    assert reports[-1] < reports[0]
    assert 0 < result.scores["difference"] and result.best_step == 100
