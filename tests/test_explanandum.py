"""The classifier: frozen means frozen, and what the pooling leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy import HIDDEN, MIXED, TAXONOMY, TOKENIZER, backbone, explanandum, sequences

from wyrcli.model.explanandum import Explanandum


def test_frozen_means_frozen() -> None:
    """No gradients, and eval mode kept, also when a parent module is put into training mode."""
    model = explanandum()
    parent = nn.ModuleList([model, nn.Dropout()])
    for call in (model.train, parent.train, lambda: parent.train(True)):
        call()
        assert not any(module.training for module in model.modules())
    assert parent.training and parent[1].training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.freeze() is model


def test_not_frozen_trains_as_in_torch() -> None:
    """Without freeze(), train() and eval() do what they always do."""
    model = Explanandum(backbone(), TAXONOMY.sizes)
    assert all(module.training for module in model.train().modules())
    assert not any(module.training for module in model.eval().modules())
    assert all(p.requires_grad for p in model.parameters())


def test_mean_pooling_is_the_mean_of_valid_tokens() -> None:
    """<cls> and padding are left out, and the divisor is the number of valid tokens."""
    model, batch = explanandum(dtype=torch.float64), TOKENIZER.batch(MIXED)
    states = model.classify(batch).states
    assert len(states) == 3 and all(s.shape == (*batch.ids.shape, HIDDEN) for s in states)
    for i, text in enumerate(MIXED):
        n = len(TOKENIZER.encode(text)) - 1
        pooled = states[-1][i, 1 : 1 + n].sum(0) / max(n, 1)
        expected = torch.cat([head(pooled) for head in model.heads])
        torch.testing.assert_close(model(batch)[i], expected, atol=1e-10, rtol=0)


def test_cls_pooling_reads_cls() -> None:
    """With pooling="cls" only the first state is classified."""
    model, batch = explanandum(pooling="cls", dtype=torch.float64), TOKENIZER.batch(MIXED)
    logits, states = model.classify(batch)
    torch.testing.assert_close(logits, torch.cat([head(states[-1][:, 0]) for head in model.heads], -1))


def test_empty_sequence_gives_the_biases() -> None:
    """Nothing read, nothing pooled."""
    model = explanandum()
    torch.testing.assert_close(
        model(TOKENIZER.batch([""]))[0], torch.cat([head.bias for head in model.heads])
    )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types(pooling: str, dtype: torch.dtype, device: torch.device) -> None:
    """Logits are float32 or wider for weights of any type, and about the same."""
    exact = explanandum(pooling=pooling, dtype=torch.float64).to(device)
    model, batch = explanandum(pooling=pooling, dtype=dtype).to(device), TOKENIZER.batch(MIXED).to(device)
    logits, states = model.classify(batch)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert states[-1].dtype == dtype
    both = torch.stack([logits.double().flatten(), exact(batch).flatten()])
    assert torch.corrcoef(both)[0, 1] > (0.99 if dtype == torch.bfloat16 else 0.999999)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_batch_size_changes_nothing(pooling: str, device: torch.device) -> None:
    """Eight windows at once answer as one at a time."""
    model, texts = explanandum(pooling=pooling, dtype=torch.float64).to(device), sequences(8, letters="ACGTN")
    together = model(TOKENIZER.batch(texts).to(device))
    alone = torch.cat([model(TOKENIZER.batch([text]).to(device)) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-10, rtol=0)


def test_predict() -> None:
    """The best class within each rank, and its softmax among that rank's classes only."""
    model = explanandum()
    logits = torch.tensor([[0.0, 1.0, 9.0, 8.0, 7.0], [3.0, 1.0, -2.0, -2.0, -1.0]])
    classes, probabilities = model.predict(logits)
    assert classes.tolist() == [[1, 0], [0, 2]]
    for row, values, found in zip(logits.tolist(), probabilities.tolist(), classes.tolist(), strict=True):
        for part, value, best in zip((row[:2], row[2:]), values, found, strict=True):
            weights = torch.tensor(part).exp()
            assert value == pytest.approx((weights[best] / weights.sum()).item())
    assert [part.shape[1] for part in model.split(logits)] == [2, 3]


def test_gradient_reaches_embeddings() -> None:
    """A frozen classifier still lets a gradient through to what it is given."""
    model, batch = explanandum(), TOKENIZER.batch(MIXED)
    embeddings = model.backbone.embed(batch.ids, batch.attention_mask).requires_grad_()
    model.classify_embeddings(embeddings, batch).logits.sum().backward()
    assert embeddings.grad is not None and bool(embeddings.grad[batch.valid].any())


def test_unknown_pooling() -> None:
    """An unknown pooling is answered with the known ones."""
    with pytest.raises(ValueError, match="expected mean or cls"):
        Explanandum(backbone(), TAXONOMY.sizes, pooling="max")


def test_logits_are_float32_under_autocast() -> None:
    """Eight bits of mantissa would tie classes in training."""
    with torch.autocast("cpu", torch.bfloat16):
        assert explanandum()(TOKENIZER.batch(["ACGTACGTACGT"])).dtype == torch.float32
