"""Both Explainers: rows on demand, padding, batch norm, and the choice of target and non-target masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy import HIDDEN, MIXED, TAXONOMY, TOKENIZER, explainer, explanandum, sequences

from wyrcli.model.explainer import EXPLAINERS, LstmExplainer, StateExplainer, build_explainer, select_masks
from wyrcli.model.tokens import TokenBatch

F64 = torch.float64
both_kinds = pytest.mark.parametrize("kind", ["state", "lstm"])
CLASSES = torch.tensor([[0, 2], [1, 4], [0, 4], [1, 3], [0, 2], [0, 3], [1, 2], [1, 4]])


def batch_and_states(
    texts: tuple[str, ...] | list[str], device: str | torch.device = "cpu"
) -> tuple[TokenBatch, list[Tensor]]:
    """A batch with the hidden states of the toy classifier."""
    batch = TOKENIZER.batch(texts).to(device)
    return batch, explanandum(dtype=F64).to(device).classify(batch).states


@both_kinds
def test_rows_on_demand_are_the_dense_ones(kind: str, device: torch.device) -> None:
    """``classes=`` gives what computing every class and choosing gives."""
    model = explainer(kind, dtype=F64).to(device)
    batch, states = batch_and_states(MIXED, device)
    classes = CLASSES.to(device)
    dense, rows = model(batch, states), model(batch, states, classes)
    assert dense.shape == (*batch.ids.shape, TAXONOMY.n_classes) and rows.shape == (*batch.ids.shape, 2)
    for i, chosen in enumerate(CLASSES.tolist()):
        torch.testing.assert_close(rows[i], dense[i][:, chosen], atol=1e-10, rtol=0)


@both_kinds
def test_padding_and_batches_change_nothing(kind: str, device: torch.device) -> None:
    """In eval mode each window of a padded batch has the mask that it has alone."""
    model = explainer(kind, dtype=F64).to(device)
    batch, states = batch_and_states(MIXED, device)
    together = model(batch, states)
    for i, text in enumerate(MIXED):
        alone = model(*batch_and_states([text], device))[0]
        n = len(TOKENIZER.encode(text))
        torch.testing.assert_close(together[i, 1:n], alone[1:n], atol=1e-10, rtol=0)


@both_kinds
def test_batch_size_changes_nothing(kind: str) -> None:
    """Eight windows of one length answer as one at a time."""
    model, texts = explainer(kind, dtype=F64), sequences(8)
    alone = torch.cat([model(*batch_and_states([text])) for text in texts])
    torch.testing.assert_close(model(*batch_and_states(texts)), alone, atol=1e-10, rtol=0)


def test_state_reads_only_its_last_states() -> None:
    """With n_states = 2 the embeddings are not read; the ids are not either."""
    model = explainer("state", dtype=F64)
    batch, states = batch_and_states(MIXED)
    other = TokenBatch(batch.ids * 0, batch.attention, batch.valid, batch.spans, batch.padded)
    changed = [states[0] + 1, *states[1:]]
    assert torch.equal(model(batch, states), model(other, changed))
    changed = [*states[:1], states[1] * 2 + torch.randn_like(states[1]), states[2]]
    assert not torch.allclose(model(batch, states), model(batch, changed))


def test_lstm_reads_only_ids() -> None:
    """The paper's Explainer does not look into the classifier."""
    model = explainer("lstm", dtype=F64)
    batch, states = batch_and_states(MIXED)
    assert torch.equal(model(batch, states), model(batch, []))


def test_batch_norm_sees_valid_tokens_only() -> None:
    """In training the statistics are those of the valid tokens, so more padding changes nothing."""
    texts = list(MIXED)
    results = []
    for more in ([], ["A" * 60]):
        model = explainer("lstm", dtype=F64).train()
        batch = TOKENIZER.batch(texts + more)
        n = len(texts)
        batch = TokenBatch(batch.ids[:n], batch.attention[:n], batch.valid[:n], batch.spans[:n], padded=True)
        features = model.features(batch, [])
        assert isinstance(model, LstmExplainer)
        seen = features[batch.valid]
        results.append((seen.detach(), model.norm.running_mean, model.norm.running_var))
        scaled = (seen - model.norm.bias) / model.norm.weight
        assert scaled.mean(0).abs().max() < 1e-10
        assert not features[~batch.valid].any()
    for short, long in zip(*results, strict=True):
        assert short is not None and long is not None
        torch.testing.assert_close(short, long, atol=1e-10, rtol=0)


def test_dimensions_of_the_paper() -> None:
    """Figure 4: embedding 100, two layers in two directions, 160 features, C outputs per token."""
    model = LstmExplainer(4107, 1937)
    assert model.embedding.weight.shape == (4107, 100)
    assert model.lstm.num_layers == 2 and model.lstm.bidirectional and model.lstm.input_size == 100
    assert model.norm.num_features == 160 and model.head.weight.shape == (1937, 160)


def slow_select(values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Target and non-target masks by loops (paper, section 2.1)."""
    b, n, c = values.shape
    target, others = torch.zeros(b, n), torch.zeros(b, n)
    for i in range(b):
        wanted = set(classes[i].tolist())
        for j in range(n):
            row = values[i, j].tolist()
            target[i, j] = max(row[k] for k in wanted)
            others[i, j] = max(row[k] for k in range(c) if k not in wanted)
    return target, others


def test_select_masks() -> None:
    """Against loops, and with the sigmoid before the maximum as in the paper."""
    logits = torch.randn(8, 7, 5, generator=torch.Generator().manual_seed(0)) * 3
    chosen = select_masks(logits, CLASSES)
    target, others = slow_select(logits, CLASSES)
    assert torch.equal(chosen.target, target) and torch.equal(chosen.non_target, others)
    target, others = slow_select(logits.sigmoid(), CLASSES)
    torch.testing.assert_close(chosen.target.sigmoid(), target)
    torch.testing.assert_close(chosen.non_target.sigmoid(), others)
    for i, classes in enumerate(CLASSES.tolist()):
        assert torch.equal(chosen.by_class[i], logits[i][:, classes])


def test_no_other_class() -> None:
    """Where every class is a target the non-target mask is zero, and gradients stay finite."""
    logits = torch.randn(2, 3, 2, requires_grad=True)
    chosen = select_masks(logits, torch.tensor([[0, 1], [0, 1]]))
    assert not chosen.non_target.sigmoid().any()
    (chosen.non_target.sigmoid().sum() + chosen.target.sigmoid().sum()).backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


@both_kinds
def test_build_from_stored_config(kind: str) -> None:
    """The stored configuration makes the same network again."""
    model = explainer(kind)
    again = build_explainer(kind, model.config)
    assert type(again) is EXPLAINERS[kind] and again.kind == kind
    again.load_state_dict(model.state_dict())


def test_unknown_kind() -> None:
    """An unknown kind is answered with the known ones, never imported."""
    with pytest.raises(ValueError, match=r"unknown Explainer 'os\.system'; known: state, lstm"):
        build_explainer("os.system", {})


@both_kinds
def test_bf16_runs(kind: str, device: torch.device) -> None:
    """bf16 weights and states give finite logits, dense and on demand."""
    batch, states = batch_and_states(MIXED, device)
    model = explainer(kind, dtype=torch.bfloat16).to(device)
    half = [state.to(torch.bfloat16) for state in states]
    for logits in (model(batch, half), model(batch, half, CLASSES.to(device))):
        assert logits.dtype == torch.bfloat16 and bool(logits[batch.valid].isfinite().all())


def test_state_gradients() -> None:
    """Every weight of the state Explainer learns."""
    model = StateExplainer(HIDDEN, 2, TAXONOMY.n_classes, width=6, kernel=3)
    batch = TOKENIZER.batch(MIXED)
    states = [s.detach() for s in explanandum().classify(batch).states]
    model(batch, states)[batch.valid].square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
