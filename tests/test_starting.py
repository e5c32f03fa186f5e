"""Where a classifier starts from; no test asks the network."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toy import TAXONOMY, TOKENIZER, backbone, explanandum

from wyrcli.checkpoint import save_checkpoint
from wyrcli.dataset import Dataset
from wyrcli.errors import CheckpointError, InputError
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.tokens import KmerTokenizer
from wyrcli.starting import (
    PUBLISHED,
    check_alphabet,
    check_length,
    find_start,
    start_from_config,
    start_from_weights,
)
from wyrcli.taxonomy import Taxonomy


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache of the hub, and no way to a network."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_directory_is_itself(tmp_path: Path) -> None:
    """Also where its name is that of a published model."""
    folder = tmp_path / "50m"
    folder.mkdir()
    assert find_start(str(folder)) == folder


@pytest.mark.parametrize("name", ["60m", "no/such/thing", "./gone", "/gone/too", "~/x"])
def test_an_unknown_name(offline: None, name: str) -> None:
    """The message lists what could have been meant."""
    with pytest.raises(CheckpointError, match="50m, 100m, 250m, 500m, or OWNER/NAME of the hub") as told:
        find_start(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["50m", "100M", "Someone/some-model"])
def test_weights_that_are_not_here(offline: None, name: str) -> None:
    """Nothing is fetched without being asked for; the message says how."""
    with pytest.raises(CheckpointError, match="not on this machine; --download fetches it") as told:
        find_start(name)
    assert PUBLISHED.get(name.lower(), name) in str(told.value) and "\n" not in str(told.value)


def test_weights_in_the_cache(offline: None, tmp_path: Path) -> None:
    """They are found without the network."""
    folder = tmp_path / "hub" / "models--Someone--some-model"
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    (snapshot / "config.json").write_text("{}")
    assert find_start("Someone/some-model") == snapshot


# ---------------------------------------------------------------- networks


CONFIG = {
    "vocab_size": 4107,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def test_a_network_of_random_weights(tmp_path: Path) -> None:
    """The seed decides; its heads fit the taxa."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))

    def make(seed: int, embeddings: str = "random") -> dict[str, torch.Tensor]:
        model, tokenizer = start_from_config(path, (2, 5), "cls", embeddings=embeddings, seed=seed)
        assert tokenizer.k == 6 and model.sizes == (2, 5) and model.pooling == "cls"
        assert all(p.requires_grad for p in model.parameters())
        return model.state_dict()

    first, again, other, composed = make(1), make(1), make(2), make(1, "composed")
    assert all(torch.equal(first[n], again[n]) for n in first)
    differing = {n for n in first if not torch.equal(first[n], composed[n])}
    assert differing == {"backbone.embeddings.word_embeddings.weight"}
    assert not torch.equal(first["heads.0.weight"], other["heads.0.weight"])


def test_a_config_for_other_tokens(tmp_path: Path) -> None:
    """The message says how many tokens there are."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"vocab_size": 77}))
    with pytest.raises(CheckpointError, match=r"vocab_size 77; a new network has the 4107 tokens"):
        start_from_config(path, (2,), "mean", embeddings="random", seed=0)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Explanandum]:
    """A checkpoint, and what is in it."""
    model = explanandum(pooling="cls")
    save_checkpoint(tmp_path / "old", model, TOKENIZER, TAXONOMY, window_bp=24, training={})
    return tmp_path / "old", model


def test_a_checkpoint_for_the_same_taxa(saved: tuple[Path, Explanandum]) -> None:
    """Heads, pooling and tokens are taken over; all of it trains."""
    path, old = saved
    model, tokenizer = start_from_weights(path, TAXONOMY, None, seed=0)
    assert all(torch.equal(t, old.state_dict()[n]) for n, t in model.state_dict().items())
    assert model.pooling == "cls" and isinstance(tokenizer, KmerTokenizer)
    assert tokenizer.vocabulary == TOKENIZER.vocabulary
    assert all(p.requires_grad for p in model.parameters())
    assert model.train().training
    assert start_from_weights(path, TAXONOMY, "mean", seed=0)[0].pooling == "mean"


def test_a_checkpoint_for_other_taxa(saved: tuple[Path, Explanandum]) -> None:
    """The network is taken over, the heads are new and follow from the seed."""
    path, old = saved
    other = Taxonomy(TAXONOMY.ranks, (("Left", "Right"), ("One", "Two", "Four")))
    first, again = (start_from_weights(path, other, None, seed=3)[0].state_dict() for _ in range(2))
    kept = {n for n, t in first.items() if torch.equal(t, old.state_dict()[n])}
    assert kept == {n for n in first if n.startswith("backbone.")}
    assert all(torch.equal(first[n], again[n]) for n in first)


def test_published_weights(tmp_path: Path) -> None:
    """A directory of the official form has no heads: new ones, and pooling by the mean."""
    model = explanandum()
    TOKENIZER.save(tmp_path)
    (tmp_path / "config.json").write_text(model.backbone.config.to_json())
    tensors = {f"esm.{n}": t for n, t in model.backbone.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    new, _ = start_from_weights(tmp_path, TAXONOMY, None, seed=0)
    assert new.pooling == "mean" and new.sizes == TAXONOMY.sizes
    assert all(
        torch.equal(t, model.state_dict()[n]) == n.startswith("backbone.")
        for n, t in new.state_dict().items()
    )


def test_windows_longer_than_the_positions() -> None:
    """A network that numbers its positions cannot read more; a rotary one can."""
    limit = 20 - 2  # positions begin behind the padding token, number 1
    model = Explanandum(
        backbone(position_embedding_type="absolute", max_position_embeddings=20), TAXONOMY.sizes
    )
    longest = (limit - 1) * 2  # of 2-mers, beside <cls>
    check_length(model, TOKENIZER, longest)
    model(TOKENIZER.batch(["A" * longest]))
    with pytest.raises(InputError, match=f"prepare windows of at most {longest} bp"):
        check_length(model, TOKENIZER, longest + 1)
    with pytest.raises(IndexError):
        model(TOKENIZER.batch(["A" * (longest + 1)]))
    check_length(Explanandum(backbone(), TAXONOMY.sizes), TOKENIZER, 10**6)


def test_windows_of_other_letters() -> None:
    """A network that reads DNA is not trained on proteins; the dataset is named."""
    dna = Dataset(Path("genes"), TAXONOMY, 600, {})
    check_alphabet(TOKENIZER, dna)
    with pytest.raises(InputError, match="genes: its windows are protein; the model reads dna"):
        check_alphabet(TOKENIZER, replace(dna, alphabet="protein"))
