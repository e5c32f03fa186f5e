"""Checkpoints: what is saved comes back, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from toy import MIXED, TAXONOMY, TOKENIZER, explainer, explanandum

from wyrcli.checkpoint import (
    list_explainers,
    load_checkpoint,
    load_explainer,
    parameter_count,
    save_checkpoint,
    save_explainer,
)
from wyrcli.errors import CheckpointError, WyrError
from wyrcli.model.backbone import NucleotideTransformer
from wyrcli.model.masking import OPERATORS
from wyrcli.taxonomy import Taxonomy


def save(directory: Path, pooling: str = "mean", dtype: torch.dtype = torch.float32) -> Path:
    """The toy classifier as a checkpoint, with both Explainers."""
    model = explanandum(pooling=pooling)
    save_checkpoint(
        directory,
        model,
        TOKENIZER,
        TAXONOMY,
        window_bp=120,
        training={"steps": 7},
        name="toy",
        notice="a toy",
        dtype=dtype,
    )
    for kind in ("state", "lstm"):
        save_explainer(directory, explainer(kind), "gate", training={"kind": kind}, dtype=dtype)
    return directory


def edit(file: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_roundtrip(tmp_path: Path, pooling: str) -> None:
    """In float32 every weight and every answer comes back exactly; the model is frozen."""
    found = load_checkpoint(save(tmp_path / "model", pooling))
    model, again = explanandum(pooling=pooling), found.explanandum
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())
    batch = TOKENIZER.batch(MIXED)
    assert torch.equal(again(batch), model(batch))
    assert not again.train().training and not any(p.requires_grad for p in again.parameters())
    assert found.tokenizer.vocabulary == TOKENIZER.vocabulary
    assert found.taxonomy == TAXONOMY and again.pooling == pooling
    assert (found.window_bp, found.name, found.notice) == (120, "toy", "a toy")
    assert found.training == {"steps": 7} and found.path == tmp_path / "model"


def test_bf16(tmp_path: Path) -> None:
    """Half the bytes; loaded as float32 with the values rounded to bf16."""
    found = load_checkpoint(save(tmp_path / "model", dtype=torch.bfloat16))
    stored = load_file(tmp_path / "model/model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    for name, tensor in explanandum().state_dict().items():
        again = found.explanandum.state_dict()[name]
        assert again.dtype == torch.float32 and torch.equal(again, tensor.to(torch.bfloat16).float())
    for kind in ("state", "lstm"):
        for name, tensor in load_explainer(tmp_path / "model", kind).explainer.state_dict().items():
            expected = explainer(kind).state_dict()[name]
            assert torch.equal(
                tensor,
                expected.to(torch.bfloat16).to(expected.dtype) if expected.is_floating_point() else expected,
            )


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["state", "lstm"])
def test_explainer_roundtrip(tmp_path: Path, kind: str, operator: str) -> None:
    """Saved under kind-operator, with its configuration and statistics, and loaded in eval mode."""
    model = explainer(kind)
    path = save_explainer(tmp_path, model, operator, training={"steps": 3})
    assert path == tmp_path / "explainers" / f"{kind}-{operator}"
    found = load_explainer(tmp_path, kind, operator)
    assert (found.name, found.operator, found.training) == (f"{kind}-{operator}", operator, {"steps": 3})
    assert found.explainer.config == model.config and not found.explainer.training
    assert not any(p.requires_grad for p in found.explainer.parameters())
    assert all(torch.equal(t, found.explainer.state_dict()[n]) for n, t in model.state_dict().items())
    batch = TOKENIZER.batch(MIXED)
    states = explanandum().classify(batch).states
    # Not to the bit: on some processors the place of a matrix in memory decides the order of sums.
    torch.testing.assert_close(found.explainer(batch, states), model(batch, states), rtol=0, atol=1e-6)


def test_list_of_explainers(tmp_path: Path) -> None:
    """Names are sorted; an absent one is answered with those there are."""
    assert list_explainers(tmp_path) == []
    with pytest.raises(CheckpointError, match="none; train one"):
        load_explainer(tmp_path)
    save(tmp_path / "model")
    assert list_explainers(tmp_path / "model") == ["lstm-gate", "state-gate"]
    with pytest.raises(CheckpointError, match="no Explainer 'state-scale'; there: lstm-gate, state-gate"):
        load_explainer(tmp_path / "model", "state", "scale")


def test_files(tmp_path: Path) -> None:
    """The documented files and no others; JSON, text and safetensors, nothing pickled."""
    save(tmp_path / "model")
    files = {str(p.relative_to(tmp_path / "model")) for p in (tmp_path / "model").rglob("*") if p.is_file()}
    own = {"checkpoint.json", "config.json", "model.safetensors", "taxonomy.json", "training.json"}
    parts = ("explainer.json", "model.safetensors", "training.json")
    assert files == own | {"vocab.txt", "tokenizer_config.json"} | {
        f"explainers/{kind}-gate/{part}" for kind in ("state", "lstm") for part in parts
    }
    for name in files - {"vocab.txt"}:
        file = tmp_path / "model" / name
        if file.suffix == ".json":
            json.loads(file.read_text("utf-8"))
        else:
            load_file(file)


def test_backbone_is_official(tmp_path: Path) -> None:
    """The backbone alone can be read as an official checkpoint, once the heads are taken out."""
    save(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    assert all(name.startswith(("esm.", "heads.")) for name in tensors)
    esm = {name: t for name, t in tensors.items() if name.startswith("esm.")}
    save_file(esm, tmp_path / "model/model.safetensors")
    found = NucleotideTransformer.from_pretrained(tmp_path / "model")
    expected = explanandum().backbone.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in found.state_dict().items())


@pytest.mark.parametrize(
    "part", ["checkpoint.json", "config.json", "vocab.txt", "taxonomy.json", "model.safetensors"]
)
def test_missing_part(tmp_path: Path, part: str) -> None:
    """Each missing part is named."""
    model = save(tmp_path / "model")
    (model / part).unlink()
    with pytest.raises(CheckpointError, match=part.replace(".", r"\.")):
        load_checkpoint(model)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("checkpoint.json", {"format": 2}),
        ("checkpoint.json", {"kind": "explainer"}),
        ("checkpoint.json", {"pooling": "max"}),
        ("checkpoint.json", {"window_bp": None}),
        ("config.json", {"num_hidden_layers": 3}),
        ("config.json", {"hidden_size": "8"}),
        ("config.json", {"position_embedding_type": "none"}),
        ("taxonomy.json", {"format": 9}),
        ("taxonomy.json", {"ranks": []}),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, file: str, changes: dict[str, Any]) -> None:
    """A part of another format, kind or shape is a CheckpointError of one line."""
    model = save(tmp_path / "model")
    edit(model / file, **changes)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model)
    assert "model" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["checkpoint.json", "config.json", "taxonomy.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe\x00"])
def test_not_json(tmp_path: Path, file: str, content: bytes) -> None:
    """A JSON file that holds something else is a CheckpointError."""
    model = save(tmp_path / "model")
    (model / file).write_bytes(content)
    with pytest.raises(CheckpointError):
        load_checkpoint(model)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    """Missing, unexpected and misshapen heads are named, as for the backbone."""
    model = save(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    for change, message in (
        ({"heads.1.bias": None}, r"missing 1\.bias"),
        ({"heads.2.bias": torch.zeros(1)}, r"unexpected 2\.bias"),
        ({"heads.0.bias": torch.zeros(9)}, r"0\.bias has shape \(9,\)"),
        ({"esm.encoder.layer.0.LayerNorm.bias": None}, r"missing encoder\.layer\.0\.LayerNorm\.bias"),
    ):
        changed = {n: t for n, t in (tensors | change).items() if t is not None}
        save_file(changed, model / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(model)


def test_more_taxa_than_heads(tmp_path: Path) -> None:
    """A taxonomy of another model is found out by the shapes of the heads."""
    model = save(tmp_path / "model")
    other = Taxonomy(TAXONOMY.ranks, (("a", "b"), ("c",)))
    (model / "taxonomy.json").write_text(other.to_json(), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has shape"):
        load_checkpoint(model)


def test_vocabulary_of_another_model(tmp_path: Path) -> None:
    """Tokens without an embedding are found at once; special tokens at the end, as in v1, are never used."""
    model = save(tmp_path / "model")
    words = list(TOKENIZER.vocabulary)
    (model / "vocab.txt").write_text("\n".join([*words, "<eos2>", "<bos2>"]), encoding="utf-8")
    load_checkpoint(model)
    (model / "vocab.txt").write_text("\n".join(["<first>", *words]), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.txt needs 28 embeddings, but vocab_size is 27"):
        load_checkpoint(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"kind": "explanandum"},
        {"explainer": "os.system"},
        {"explainer": ["state"]},
        {"operator": "drop"},
        {"config": {"hidden": 3}},
        {"config": [1, 2]},
        {"config": {"hidden_size": "many", "n_states": 2, "n_classes": 5}},
        {"config": {"hidden_size": 8, "n_states": 2, "n_classes": 6}},
    ],
)
def test_broken_explainer(tmp_path: Path, changes: dict[str, Any]) -> None:
    """An Explainer of unknown kind, operator or shape is a CheckpointError."""
    model = save(tmp_path / "model")
    edit(model / "explainers/state-gate/explainer.json", **changes)
    with pytest.raises(CheckpointError, match="state-gate"):
        load_explainer(model)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    """An empty directory, an absent one and a file are not checkpoints."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for name in ("", "absent", "file"):
        with pytest.raises(CheckpointError, match="not a wyr checkpoint"):
            load_checkpoint(tmp_path / name)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A directory with content is left alone; an Explainer is replaced only when that is asked for."""
    model = save(tmp_path / "model")
    before = {p: p.read_bytes() for p in model.rglob("*") if p.is_file()}
    with pytest.raises(WyrError, match="not empty"):
        save(model)
    with pytest.raises(WyrError, match="not empty"):
        save_explainer(model, explainer("state", seed=9), "gate", training={})
    assert before == {p: p.read_bytes() for p in model.rglob("*") if p.is_file()}
    save_explainer(model, explainer("state", seed=9), "gate", training={}, force=True)
    again = load_explainer(model).explainer.state_dict()
    assert torch.equal(again["head.bias"], explainer("state", seed=9).state_dict()["head.bias"])
    assert not [p for p in model.rglob(".*")]


def test_interrupted_save_leaves_nothing(tmp_path: Path) -> None:
    """Whole or not at all: what cannot be written as JSON leaves no half checkpoint."""
    with pytest.raises(TypeError):
        save_checkpoint(
            tmp_path / "model", explanandum(), TOKENIZER, TAXONOMY, window_bp=1, training={"x": object()}
        )
    assert list(tmp_path.iterdir()) == []


def test_training_record_may_lack(tmp_path: Path) -> None:
    """How a model was trained is not needed to use it."""
    model = save(tmp_path / "model")
    (model / "training.json").unlink()
    (model / "explainers/state-gate/training.json").write_text("[", encoding="utf-8")
    assert load_checkpoint(model).training == {} == load_explainer(model).training


NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True)


@settings(max_examples=30)
@given(
    ranks=st.lists(NAMES, min_size=1, max_size=3), source=st.dictionaries(st.text(), st.text(), max_size=2)
)
def test_taxonomy_roundtrip(ranks: list[list[str]], source: dict[str, str]) -> None:
    """Any names survive JSON; every lineage is decoded to what was encoded."""
    names = tuple(f"rank{i}" for i in range(len(ranks)))
    taxonomy = Taxonomy(
        names,
        tuple(tuple(taxa) for taxa in ranks),
        tuple(tuple(range(len(taxa))) for taxa in ranks),
        source,
    )
    assert Taxonomy.from_json(taxonomy.to_json()) == taxonomy
    lineage = tuple(taxa[-1] for taxa in ranks)
    assert taxonomy.decode(taxonomy.encode(lineage)) == lineage
    assert taxonomy.slices[-1].stop == taxonomy.n_classes


def test_parameter_count() -> None:
    """The number of weights."""
    assert parameter_count(torch.nn.Linear(3, 4)) == 16
