"""Training a part of a network: the rest stays bit for bit, and LoRA leaves no trace but its effect."""

from __future__ import annotations

import sys

import pytest
import torch
from toy import LAYERS, TAXONOMY, TOKENIZER, backbone, labelled, randomise

from wyrcli.adapting import add_lora, deepen, freeze_layers, merge_lora
from wyrcli.distribution import World
from wyrcli.engine import TrainingOptions
from wyrcli.errors import WyrError
from wyrcli.model.explanandum import Explanandum
from wyrcli.training import finetune

DATA = labelled(32)
OPTIONS = TrainingOptions(learning_rate=1e-2, batch_size=8, steps=4)


def fresh(pooling: str = "mean") -> Explanandum:
    """A classifier that is not frozen."""
    model = Explanandum(backbone(), TAXONOMY.sizes, pooling)
    randomise(model.heads, 1)
    return model


def train(model: Explanandum) -> set[str]:
    """Names of the weights that some steps of training moved."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    finetune(model, TOKENIZER, DATA, OPTIONS, World(), lambda progress: None)
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("n", range(LAYERS + 1))
def test_frozen_layers_do_not_move(n: int) -> None:
    """The embeddings and the first n layers stay bit for bit; all else trains."""
    model = fresh()
    freeze_layers(model, n)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    frozen = ("backbone.embeddings.", *(f"backbone.encoder.layer.{i}." for i in range(n)))
    assert fixed == {name for name, _ in model.named_parameters() if name.startswith(frozen)}
    moved = train(model)
    assert moved == {name for name, _ in model.named_parameters()} - fixed
    assert {"heads.0.weight", "heads.1.bias"} <= moved


def test_more_layers_than_there_are() -> None:
    """The message says how many there are; nothing is frozen."""
    model = fresh()
    with pytest.raises(WyrError, match=f"3 layers were to be frozen; the network has {LAYERS}"):
        freeze_layers(model, 3)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(WyrError, match="no layers"):
        freeze_layers(torch.nn.Linear(2, 2), 1)


def test_new_layers_do_nothing_at_first() -> None:
    """The answers are those of the shallow network; then the new layers learn."""
    model = fresh()
    batch = TOKENIZER.batch(list(DATA.sequences))
    before = model.eval()(batch)
    deepen(model, LAYERS + 2)
    torch.testing.assert_close(model.eval()(batch), before)
    assert model.n_states == len(model.classify(batch).states) == LAYERS + 3
    assert model.backbone.config.num_hidden_layers == LAYERS + 2
    moved = train(model)
    assert f"backbone.encoder.layer.{LAYERS + 1}.output.dense.weight" in moved
    with pytest.raises(WyrError, match=f"has {LAYERS + 2} layers"):
        deepen(model, LAYERS)
    with pytest.raises(WyrError, match="Nucleotide Transformer"):
        deepen(torch.nn.Linear(2, 2), 3)


def test_lora_trains_little_and_merges_without_a_trace() -> None:
    """What was there before moves only when the updates are added, and the answers stay as they were then."""
    pytest.importorskip("peft")
    model, plain = fresh(), fresh()
    torch.manual_seed(0)
    add_lora(model, 2)
    batch = TOKENIZER.batch(DATA.sequences)
    model.eval()
    assert torch.equal(model(batch), plain.eval()(batch))  # an update begins with nothing
    moved = train(model)
    adapters = {name for name in moved if ".lora_" in name}
    # Three matrices in each layer with two factors each.
    assert len(adapters) == 6 * LAYERS
    assert all(
        name.startswith(("heads.", "backbone.encoder.emb_layer_norm_after.")) for name in moved - adapters
    )
    before = model(batch)
    assert not torch.allclose(before, plain(batch), atol=1e-3)
    merge_lora(model)
    assert torch.allclose(model(batch), before, rtol=0, atol=1e-5)
    assert list(model.state_dict()) == list(plain.state_dict())
    copy = fresh().eval()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(batch), model(batch))
    changed = {n for n, t in copy.state_dict().items() if not torch.equal(t, plain.state_dict()[n])}
    matrices = {f"attention.self.{m}.weight" for m in ("query", "key", "value")}
    assert {n for n in changed if ".layer." in n} == {
        f"backbone.encoder.layer.{i}.{m}" for i in range(LAYERS) for m in matrices
    }


def test_lora_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; the message says how to get it."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(WyrError, match=r"--lora needs peft: pip install 'wyrcli\[lora\]'"):
        add_lora(fresh(), 2)
