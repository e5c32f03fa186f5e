"""A network that reads across the borders of its tokens: the transformer answers as its counts do."""

from __future__ import annotations

import random

import pytest
import torch
from toy import TAXONOMY, Labelled, labelled

from wyrcli.distribution import World
from wyrcli.engine import TrainingOptions
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer
from wyrcli.model.borders import BorderNetwork, block_sizes, look_back
from wyrcli.model.counting import CountingNetwork, KmerCounter
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.tokens import KmerTokenizer
from wyrcli.training import count, read_borders

TOKENIZER = KmerTokenizer.nucleotide_transformer_v2(k=3)
SIZES = TAXONOMY.sizes


def fresh(hidden: int = 48) -> Explanandum:
    """One layer of random weights."""
    torch.manual_seed(0)
    config = BackboneConfig(
        vocab_size=len(TOKENIZER.vocabulary),
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
    )
    return Explanandum(NucleotideTransformer(config), SIZES)


def counted(data: Labelled) -> Explanandum:
    """Trained for some steps on the counts of all frames."""
    model = fresh()
    options = TrainingOptions(learning_rate=1e-2, batch_size=32, steps=30)
    count(model, TOKENIZER, data, options, World(), lambda progress: None, every_frame=True)
    return model


def test_kmers_across_borders() -> None:
    """Tokens and borders together hold every k-mer of the text, as often as it stands there."""
    draw = random.Random(3)
    text = "".join(draw.choices("ACGT", k=3 * 40))
    counter = KmerCounter(TOKENIZER.kmers(), len(TOKENIZER.vocabulary))
    frames = counter.frames(TOKENIZER.batch([text]).ids)[0]
    for number, token in enumerate(counter.ids.tolist()):
        kmer = TOKENIZER.kmers()[token]
        for d in range(3):
            own = sum(text[i : i + 3] == kmer for i in range(d, len(text) - 2, 3))
            assert frames[d, number] == own
    broken = counter.frames(TOKENIZER.batch(["ACGNNNACGTTT"]).ids)[0]
    assert broken[0].sum() == 3 and broken[1:].sum() == 2  # only ACG|TTT is a border of two k-mers


@pytest.mark.parametrize("size", [8, 16, 64])
def test_a_head_looks_one_back(size: int) -> None:
    """The logit is largest at a distance of one, and far ahead; as the network itself turns its vectors."""
    from wyrcli.model.backbone import _rotary_tables, _rotate

    query, key, logit = look_back(size, 600)
    cos, sin = _rotary_tables(600, size, query)
    scores = _rotate(query.expand(600, -1), cos, sin) @ _rotate(key.expand(600, -1), cos, sin).T / size**0.5
    before = scores.diagonal(-1)
    torch.testing.assert_close(before, torch.full_like(before, logit), atol=0.05, rtol=0)
    others = scores.clone()
    others.diagonal(-1).fill_(-torch.inf)
    assert (before - others[1:].amax(-1)).min() > 15.5


def test_blocks() -> None:
    """Never more features than there are words."""
    assert block_sizes(3, 48) == [4, 8] and block_sizes(6, 256) == [4, 16, 16, 16, 16]


def test_the_transformer_answers_as_the_counts_did() -> None:
    """Nearly: norms vary a little from token to token.  Shuffled tokens give other answers: borders are read."""
    data = labelled(128, length=240)
    network = BorderNetwork(counted(data), TOKENIZER.kmers())
    batch = TOKENIZER.batch(list(data.sequences))
    missed = network.imitate([batch], steps=150)
    assert missed < 0.6
    with torch.no_grad():
        network.eval()
        expected = network(batch)
        model = network.finish(batch).eval()
        found = model(batch)
        turned = model(TOKENIZER.batch([s[120:] + s[:120] for s in data.sequences]))
    assert all(p.requires_grad for p in model.parameters())
    spread = expected.std(0).mean()
    assert (expected - found).abs().mean() < 0.25 * spread
    assert (found - turned).abs().mean() < 0.3 * spread  # one border in eighty is another


def test_a_hidden_token_is_not_read_by_the_next() -> None:
    """What is copied from the token before fades with its mask, and is gone at 0."""
    data = labelled(32, length=60)
    network = BorderNetwork(counted(data), TOKENIZER.kmers())
    batch = TOKENIZER.batch(list(data.sequences)[:1])
    model = network.finish(batch).eval()
    backbone = model.backbone
    embeddings = backbone.embed(batch.ids)

    def copied(m: float) -> float:
        mask = torch.ones(batch.ids.shape)
        mask[0, 5] = m
        first = backbone.encoder.layer[0]
        seen = backbone.encode(embeddings, None, mask.log())
        x = embeddings + 0  # the first layer's attention alone
        attention = first.get_submodule("attention")
        from wyrcli.model.backbone import _rotary_tables

        rotary = _rotary_tables(x.shape[1], 24, x)
        state = attention(x, rotary, mask.log()[:, None, None, :])
        assert len(seen) == 3
        return float(state[0, 6, -12:].norm())

    with torch.no_grad():
        whole, half, tenth, none = (copied(m) for m in (1.0, 0.5, 0.1, 0.0))
    assert none < 1e-3 * whole
    assert half / whole == pytest.approx(0.5, abs=0.07) and tenth / whole == pytest.approx(0.1, abs=0.03)


def test_training_learns() -> None:
    """Classes that differ only in what stands across borders, which the tokens of one frame cannot tell."""
    draw = random.Random(5)

    def write(pairs: list[str]) -> str:
        return "".join(draw.choice(pairs) for _ in range(40))

    # Both have the tokens AAC, GTT, AAG, CTT equally often; which follows which is the class.
    texts = [write(["AACGTT", "AAGCTT"] if i % 2 else ["AACCTT", "AAGGTT"]) for i in range(96)]
    data = Labelled(texts, torch.tensor([[i % 2, i % 2] for i in range(96)]).numpy())
    options = TrainingOptions(learning_rate=1e-2, batch_size=32, steps=30)
    model, result = read_borders(counted(data), TOKENIZER, data, options, World(), lambda progress: None)
    batch = TOKENIZER.batch(texts)
    labels = torch.from_numpy(data.labels[:, 0])
    assert result.steps == 30
    with torch.no_grad():
        assert (model.eval().split(model(batch))[0].argmax(-1) == labels).float().mean() > 0.95


def test_what_cannot_be_built() -> None:
    """More layers, or too few features."""
    two = Explanandum(NucleotideTransformer(BackboneConfig(hidden_size=48, num_hidden_layers=2)), SIZES)
    with pytest.raises(ValueError, match="one layer"):
        BorderNetwork(two, TOKENIZER.kmers())
    with pytest.raises(ValueError, match="too small"):
        BorderNetwork(fresh(hidden=4), TOKENIZER.kmers())
    assert CountingNetwork(fresh(), TOKENIZER.kmers(), every_frame=True).counter is not None
