"""A classifier of k-mer counts: what it has learned, the transformer that it becomes knows too."""

from __future__ import annotations

import pytest
import torch
from toy import TAXONOMY, TOKENIZER, Labelled, backbone, labelled

from wyrcli.batching import turn_round
from wyrcli.distribution import World
from wyrcli.engine import TrainingOptions
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer
from wyrcli.model.counting import CountingNetwork, find_parts
from wyrcli.model.explanandum import Explanandum
from wyrcli.training import count, finetune

SIZES = TAXONOMY.sizes
OPTIONS = TrainingOptions(learning_rate=2e-2, batch_size=16, steps=40)


def fresh() -> Explanandum:
    """Random weights as training begins with: attention is nearly uniform."""
    torch.manual_seed(0)
    config = BackboneConfig(
        vocab_size=len(TOKENIZER.vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    return Explanandum(NucleotideTransformer(config), SIZES)


def learn(data: Labelled) -> Explanandum:
    """A classifier after some steps of counting."""
    model = fresh()
    count(model, TOKENIZER, data, OPTIONS, World(), lambda progress: None)
    return model


def test_parts_of_a_kmer() -> None:
    """Every shorter k-mer inside, on either strand; the squares of the weights of a length sum to 1."""
    parts, weights, n = find_parts(["AAC", "GTT", "CAA"])
    assert parts.shape == weights.shape == (3, 6) and n == 7  # A, C, AA, AC, CA, AAC, CAA
    assert sorted(parts[0].tolist()) == sorted(parts[1].tolist())  # reverse complements
    assert parts[0].tolist() != parts[2].tolist()
    torch.testing.assert_close(weights.square().sum(-1), torch.full((3,), 3.0))


def test_the_order_of_kmers_means_nothing() -> None:
    """Nor the strand, where the reading frame is the same; but the letters do."""
    torch.manual_seed(1)
    network = CountingNetwork(fresh(), TOKENIZER.kmers()).eval()
    k = TOKENIZER.k
    text = "ACGTTGCAAC" * k
    kmers = [text[i : i + k] for i in range(0, len(text), k)]
    others = ["".join(reversed(kmers)), turn_round(text), text[: -2 * k] + 2 * k * "A"]
    whole, shuffled, turned, changed = network(TOKENIZER.batch([text, *others]))
    torch.testing.assert_close(whole, shuffled)
    torch.testing.assert_close(whole, turned)
    assert (whole - changed).abs().max() > 1e-3


def test_padding_means_nothing() -> None:
    """A window's logits are its own, whatever it shares a batch with."""
    network = CountingNetwork(fresh(), TOKENIZER.kmers()).eval()
    texts = ["ACGTAC" * 9, "TTGACA", "NNACGT" * 3]
    together = network(TOKENIZER.batch(texts))
    for text, logits in zip(texts, together, strict=True):
        torch.testing.assert_close(network(TOKENIZER.batch([text]))[0], logits)


def test_the_transformer_answers_as_the_counts_did() -> None:
    """Within the share that a token's own embedding has; all weights are free."""
    data = labelled(64, length=240)
    model = fresh()
    network = CountingNetwork(model, TOKENIZER.kmers())
    with torch.no_grad():
        network.train()
        batch = TOKENIZER.batch(list(data.sequences))
        for _ in range(200):
            network(batch)  # measures what attention brings
        network.eval()
        counted = network(batch).softmax(-1)
        network.finish()
        found = model.eval()(batch).softmax(-1)
    assert all(p.requires_grad for p in model.parameters())
    near, apart = (counted - found).abs().mean(), counted.std(0).mean()
    assert near < 0.15 * apart


def test_whitened() -> None:
    """What attention brings has no mean, and the same variance wherever windows differ at all."""
    network = CountingNetwork(fresh(), TOKENIZER.kmers())
    batch = TOKENIZER.batch(list(labelled(400, length=300).sequences))
    network.whiten([batch])
    attention = network.explanandum.backbone.encoder.layer[0].get_submodule("attention")
    with torch.no_grad():
        mean = network._mean(batch, network.table())
        brought = attention.get_submodule("output")(attention.get_submodule("self.value")(mean))
    torch.testing.assert_close(brought.mean(0), torch.zeros(32), atol=0.1, rtol=0)  # rounding
    before, after = (torch.linalg.eigvalsh(torch.cov(x.T.double())).flip(0) for x in (mean, brought))
    assert before[0] > 20 * before[7]
    assert after[0] < 2.5 * after[7]


def test_counting_learns_and_finetuning_goes_on() -> None:
    """Classes that differ in their letters are told apart, and still are after a step of finetuning."""
    texts = ["AT" * 40 + "ACGT" * 5, "GC" * 40 + "ACGT" * 5] * 16
    data = Labelled(texts, torch.tensor([[0, 0], [1, 1]] * 16).numpy())
    model = learn(data)
    batch, labels = TOKENIZER.batch(texts), torch.from_numpy(data.labels[:, 0])
    assert (model.eval().split(model(batch))[0].argmax(-1) == labels).all()
    finetune(model.train(), TOKENIZER, data, TrainingOptions(batch_size=16, steps=2), World(), lambda p: None)
    assert (model.eval().split(model(batch))[0].argmax(-1) == labels).all()


def test_a_head_that_reads_cls_cannot_count() -> None:
    """Its state is one of many, and no mean."""
    with pytest.raises(ValueError, match="mean"):
        CountingNetwork(Explanandum(backbone(), SIZES, "cls"), TOKENIZER.kmers())
