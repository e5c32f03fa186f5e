"""The network against golden vectors of the original, and against a slow one that is written out in numpy."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from toy import HIDDEN, MIXED, TOKENIZER, backbone

from wyrcli.errors import CheckpointError
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer, compose_embeddings, load_strict

F64 = NDArray[np.float64]
LIMIT = {"f32": 1e-5, "f64": 1e-10}


def golden(shared: Path, model: str, file: str = "golden.npz") -> dict[str, Tensor]:
    """Arrays of a golden file as tensors."""
    with np.load(shared / "goldens" / model / file) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def load(shared: Path, model: str, precision: str) -> NucleotideTransformer:
    """A golden checkpoint in eval mode."""
    network = NucleotideTransformer.from_pretrained(shared / "goldens" / model).eval()
    return network.double() if precision == "f64" else network


def assert_near(actual: Tensor, expected: Tensor, precision: str) -> None:
    """Equal within the limit of a precision."""
    torch.testing.assert_close(actual, expected, atol=LIMIT[precision], rtol=0)


# The original computes the share of <mask> in float32 whatever the weights are; ours follows the weights.
DROPOUT_LIMIT = {"f32": 1e-5, "f64": 1e-6}


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_golden_v2(shared: Path, precision: str) -> None:
    """Every hidden state, the omitted attention mask, and a long input."""
    model, arrays = load(shared, "nt_v2_tiny", precision), golden(shared, "nt_v2_tiny")
    ids, attention = arrays["input_ids"], arrays["attention_mask"]
    with torch.no_grad():
        states = model.encode(model.embed(ids, attention), attention)
        assert_near(torch.stack(states), arrays[f"hidden_states_{precision}"], precision)
        assert_near(model(ids, attention), arrays[f"last_hidden_state_{precision}"], precision)
        assert_near(model(ids, attention.bool()), arrays[f"last_hidden_state_{precision}"], precision)
        assert_near(model(ids), arrays[f"last_hidden_state_nomask_{precision}"], precision)
        assert_near(model(arrays["long_input_ids"]), arrays[f"long_last_hidden_state_{precision}"], precision)


def test_golden_gradient(shared: Path) -> None:
    """The gradient of a score with respect to the embeddings."""
    model, arrays = load(shared, "nt_v2_tiny", "f64"), golden(shared, "nt_v2_tiny")
    attention = arrays["attention_mask"]
    embeddings = model.embed(arrays["input_ids"], attention).detach().requires_grad_()
    scores = model.encode(embeddings, attention)[-1] @ arrays["ie_v"]
    score = (scores * attention).sum(-1) / attention.sum(-1)
    assert_near(score, arrays["ie_scalar_f64"], "f64")
    score.sum().backward()
    assert embeddings.grad is not None
    # The original masks what it is given once more, so padding has no gradient there.
    assert_near(embeddings.grad * attention[..., None], arrays["ie_grad_f64"], "f64")


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_golden_token_dropout(shared: Path, tmp_path: Path, precision: str) -> None:
    """The same weights with token_dropout: <mask> is zeroed and the rest scaled."""
    source = shared / "goldens/nt_v2_tiny"
    config = json.loads((source / "config.json").read_text("utf-8")) | {"token_dropout": True}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(source / "model.safetensors", tmp_path)
    model = NucleotideTransformer.from_pretrained(tmp_path).eval()
    model = model.double() if precision == "f64" else model
    arrays = golden(shared, "nt_v2_tiny", "golden_token_dropout.npz")
    ids, attention = arrays["input_ids"], arrays["attention_mask"]
    limit = DROPOUT_LIMIT[precision]
    with torch.no_grad():
        torch.testing.assert_close(
            model.embed(ids, attention), arrays[f"embedding_output_{precision}"], atol=limit, rtol=0
        )
        torch.testing.assert_close(
            model(ids, attention), arrays[f"last_hidden_state_{precision}"], atol=limit, rtol=0
        )


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_golden_v1(shared: Path, precision: str) -> None:
    """Absolute positions, plain GELU, biases, and token dropout."""
    model, arrays = load(shared, "nt_v1_tiny", precision), golden(shared, "nt_v1_tiny")
    ids, attention = arrays["input_ids"], arrays["attention_mask"]
    limit = DROPOUT_LIMIT[precision]
    with torch.no_grad():
        torch.testing.assert_close(
            model.embed(ids, attention), arrays[f"embedding_output_{precision}"], atol=limit, rtol=0
        )
        torch.testing.assert_close(
            model(ids, attention), arrays[f"last_hidden_state_{precision}"], atol=limit, rtol=0
        )


def test_official_names(shared: Path) -> None:
    """Ours are the official tensor names, apart from heads and tables that are not used."""
    shapes = json.loads((shared / "goldens/nt_v2_tiny/state_dict_shapes.json").read_text("utf-8"))
    model = load(shared, "nt_v2_tiny", "f32")
    ours = {f"esm.{name}": list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours.items() <= {name: list(shape) for name, shape in shapes.items()}.items()
    for name in shapes.keys() - ours.keys():
        assert any(part in name for part in ("lm_head", "contact_head", "inv_freq", "position")), name


# A second network, in numpy and loops, so that a clone without the golden vectors tests the maths too.


def slow_norm(x: F64, weight: F64, bias: F64, eps: float) -> F64:
    """LayerNorm of one vector."""
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


def slow_rotate(x: F64, position: int) -> F64:
    """Rotary position of one head's vector: pairs (i, i + d/2) turned by position / 10000^(2i/d)."""
    d = len(x)
    out = np.empty(d)
    for i in range(d // 2):
        angle = position * float(np.float32(1.0) / np.float32(10000 ** (2 * i / d)))
        cos, sin = math.cos(angle), math.sin(angle)
        out[i] = x[i] * cos - x[i + d // 2] * sin
        out[i + d // 2] = x[i + d // 2] * cos + x[i] * sin
    return out


def slow_encode(model: NucleotideTransformer, ids: list[int]) -> F64:
    """Last hidden state (L, H) of one sequence without padding."""
    config = model.config
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    rotary = config.position_embedding_type == "rotary"
    size = config.hidden_size // config.num_attention_heads
    x = w["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    if config.token_dropout:
        masked = [i == config.mask_token_id for i in ids]
        x[masked] = 0
        x = x * 0.88 / (1 - sum(masked) / len(ids))
    if not rotary:
        x = x + w["embeddings.position_embeddings.weight"][2 : 2 + len(ids)]
    for n in range(config.num_hidden_layers):
        at = f"encoder.layer.{n}."

        def linear(x: F64, name: str, at: str = at) -> F64:
            return x @ w[at + name + ".weight"].T + w.get(at + name + ".bias", 0.0)

        def norm(x: F64, name: str, at: str = at) -> F64:
            weight, bias = w[at + name + ".weight"], w[at + name + ".bias"]
            return np.array([slow_norm(row, weight, bias, config.layer_norm_eps) for row in x])

        normed = norm(x, "attention.LayerNorm")
        q, k, v = (linear(normed, f"attention.self.{part}") for part in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for head in range(config.num_attention_heads):
            own = slice(head * size, (head + 1) * size)
            for i in range(len(ids)):
                scores = []
                for j in range(len(ids)):
                    a, b = q[i, own], k[j, own]
                    if rotary:
                        a, b = slow_rotate(a, i), slow_rotate(b, j)
                    scores.append(float(a @ b) / math.sqrt(size))
                shares = np.exp(np.array(scores) - max(scores))
                mixed[i, own] = (shares / shares.sum()) @ v[:, own]
        x = x + linear(mixed, "attention.output.dense")
        inner = linear(norm(x, "LayerNorm"), "intermediate.dense")
        if rotary:
            half = inner.shape[1] // 2
            gate, value = inner[:, :half], inner[:, half:]
            inner = gate / (1 + np.exp(-gate)) * value
        else:
            inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = x + linear(inner, "output.dense")
    after = "encoder.emb_layer_norm_after"
    return np.array(
        [slow_norm(row, w[f"{after}.weight"], w[f"{after}.bias"], config.layer_norm_eps) for row in x]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_bias_fnn": True, "token_dropout": True},
        {"position_embedding_type": "absolute", "add_bias_fnn": True, "token_dropout": True},
    ],
    ids=["v2", "v2 with biases", "v1"],
)
def test_slow_reference(changes: dict[str, object]) -> None:
    """Every step of the network, written out a second time."""
    model = backbone(**changes).double().eval()
    ids = [3, 9, 2, 26, 7, 14, 22, 9]
    with torch.no_grad():
        fast = model(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(fast, slow_encode(model, ids), atol=1e-9)


def test_padding_changes_nothing(device: torch.device) -> None:
    """Each row of a padded batch equals that sequence alone."""
    model = backbone().double().to(device).eval()
    batch = TOKENIZER.batch(MIXED).to(device)
    with torch.no_grad():
        together = model(batch.ids, batch.attention)
        for i, text in enumerate(MIXED):
            alone = TOKENIZER.batch([text]).to(device)
            torch.testing.assert_close(
                together[i, : alone.ids.shape[1]], model(alone.ids)[0], atol=1e-10, rtol=0
            )


def test_bf16_runs_close(device: torch.device) -> None:
    """bf16 gives bf16, finite, and about the float32 answer."""
    model = backbone().to(device).eval()
    batch = TOKENIZER.batch(MIXED).to(device)
    with torch.no_grad():
        exact = model(batch.ids, batch.attention)[batch.valid]
        half = model.to(torch.bfloat16)(batch.ids, batch.attention)[batch.valid]
    assert half.dtype == torch.bfloat16 and bool(half.isfinite().all())
    assert torch.corrcoef(torch.stack([exact.flatten(), half.float().flatten()]))[0, 1] > 0.99


def test_rotary_tables_survive_inference_mode() -> None:
    """A first pass under inference_mode does not spoil a later backward pass."""
    model = backbone()
    ids = torch.tensor([[3, 9, 22]])
    with torch.inference_mode():
        model(ids)
    model(ids).sum().backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad is not None


# Loading


def write_checkpoint(
    directory: Path, model: NucleotideTransformer, tensors: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """An official-looking directory; returns its tensors under their official names."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    named = {f"esm.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(named if tensors is None else tensors, directory / "model.safetensors")
    return named


def test_roundtrip_with_official_extras(tmp_path: Path) -> None:
    """Heads and unused tables of published files are passed over; config and weights come back."""
    model = backbone()
    named = write_checkpoint(tmp_path, model)
    named |= {
        "lm_head.bias": torch.zeros(27),
        "esm.contact_head.regression.bias": torch.zeros(1),
        "esm.embeddings.position_embeddings.weight": torch.ones(64, HIDDEN),
        "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq": torch.ones(2),
    }
    write_checkpoint(tmp_path, model, named)
    again = NucleotideTransformer.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["esm.", ""])
def test_pytorch_model_bin(tmp_path: Path, prefix: str) -> None:
    """A pytorch_model.bin gives the same weights, with and without the prefix."""
    model = backbone()
    write_checkpoint(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()
    torch.save({prefix + name: t for name, t in model.state_dict().items()}, tmp_path / "pytorch_model.bin")
    again = NucleotideTransformer.from_pretrained(tmp_path)
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())


def test_sharded_safetensors(tmp_path: Path) -> None:
    """Weights in several files are put together."""
    model = backbone()
    named = list(write_checkpoint(tmp_path, model).items())
    (tmp_path / "model.safetensors").unlink()
    save_file(dict(named[:7]), tmp_path / "model-00001-of-00002.safetensors")
    save_file(dict(named[7:]), tmp_path / "model-00002-of-00002.safetensors")
    assert NucleotideTransformer.from_pretrained(tmp_path).config == model.config


class Malicious:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    """What a pickle wants to call is never called."""
    write_checkpoint(tmp_path / "model", backbone())
    (tmp_path / "model/model.safetensors").unlink()
    trap = tmp_path / "trap"
    for protocol, save in (("zip", True), ("raw", False)):
        file = tmp_path / "model/pytorch_model.bin"
        if save:
            torch.save({"esm.x": Malicious(trap)}, file)
        else:
            file.write_bytes(pickle.dumps({"esm.x": Malicious(trap)}, protocol=2))
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin holds more than tensors"):
            NucleotideTransformer.from_pretrained(tmp_path / "model")
        assert not trap.exists(), protocol
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists(), "the trap works where it is unpickled plainly"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut off"])
def test_broken_weights(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that holds no tensors gives a CheckpointError that names the directory."""
    write_checkpoint(tmp_path, backbone())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=tmp_path.name):
        NucleotideTransformer.from_pretrained(tmp_path)


def test_tensors_without_names(tmp_path: Path) -> None:
    """A pytorch_model.bin that is a list is refused."""
    write_checkpoint(tmp_path, backbone())
    (tmp_path / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no tensors by name"):
        NucleotideTransformer.from_pretrained(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    """A directory without weights says which files are looked for."""
    write_checkpoint(tmp_path, backbone())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        NucleotideTransformer.from_pretrained(tmp_path)


def test_strict_loading_names_what_does_not_fit(tmp_path: Path) -> None:
    """Missing, unexpected and misshapen tensors are all named in one error."""
    model = backbone()
    named = write_checkpoint(tmp_path, model)
    del named["esm.encoder.layer.1.LayerNorm.bias"]
    named["esm.encoder.layer.9.LayerNorm.bias"] = torch.zeros(2)
    named["esm.encoder.emb_layer_norm_after.weight"] = torch.zeros(3)
    write_checkpoint(tmp_path, model, named)
    with pytest.raises(CheckpointError) as caught:
        NucleotideTransformer.from_pretrained(tmp_path)
    text = str(caught.value)
    assert "missing encoder.layer.1.LayerNorm.bias" in text
    assert "unexpected encoder.layer.9.LayerNorm.bias" in text
    assert "encoder.emb_layer_norm_after.weight has shape (3,), expected (8,)" in text
    assert str(tmp_path) in text and "\n" not in text


def test_absolute_positions_are_not_optional(tmp_path: Path) -> None:
    """A v1 network needs its position table."""
    model = backbone(position_embedding_type="absolute")
    named = write_checkpoint(tmp_path, model)
    del named["esm.embeddings.position_embeddings.weight"]
    write_checkpoint(tmp_path, model, named)
    with pytest.raises(CheckpointError, match=r"missing embeddings\.position_embeddings\.weight"):
        NucleotideTransformer.from_pretrained(tmp_path)


def test_long_lists_are_cut() -> None:
    """A model of another kind does not fill the screen."""
    with pytest.raises(CheckpointError, match=r"and \d+ more$"):
        load_strict(backbone(), {"other": torch.zeros(1)}, "here")


def test_weights_of_another_dtype_become_ours(tmp_path: Path) -> None:
    """bf16 files are read into float32."""
    model = backbone()
    named = write_checkpoint(tmp_path, model)
    write_checkpoint(tmp_path, model, {name: t.to(torch.bfloat16) for name, t in named.items()})
    again = NucleotideTransformer.from_pretrained(tmp_path)
    assert {t.dtype for t in again.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "content",
    [
        "not JSON",
        "[]",
        '{"hidden_size": "many"}',
        '{"hidden_size": null}',
        '{"hidden_size": 10, "num_attention_heads": 4}',
        '{"hidden_size": 6, "num_attention_heads": 2}',
        '{"num_hidden_layers": 0}',
        '{"position_embedding_type": "relative_key"}',
    ],
)
def test_broken_config(tmp_path: Path, content: str) -> None:
    """A config.json that makes no network is refused and named."""
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        BackboneConfig.load(tmp_path / "config.json")


def test_missing_config(tmp_path: Path) -> None:
    """A directory without config.json says so."""
    with pytest.raises(CheckpointError, match="not found"):
        NucleotideTransformer.from_pretrained(tmp_path)


def test_compose_embeddings() -> None:
    """Same seed, same vectors; overlapping k-mers start nearer than foreign ones; others are left alone."""
    kmers = TOKENIZER.kmers()
    weights = []
    for seed in (3, 3, 4):
        model = backbone(hidden_size=64, num_attention_heads=2)
        before = model.embeddings.word_embeddings.weight.detach().clone()
        compose_embeddings(model.embeddings.word_embeddings, kmers, seed)
        weights.append(model.embeddings.word_embeddings.weight.detach().clone())
        others = [i for i in range(len(before)) if i not in kmers]
        assert torch.equal(weights[-1][others], before[others])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    torch.testing.assert_close(weights[0][list(kmers)].std(-1), torch.ones(len(kmers)))
    place = {letters: i for i, letters in kmers.items()}
    turned = torch.cosine_similarity(weights[0][place["AC"]], weights[0][place["CA"]], dim=0)
    foreign = torch.cosine_similarity(weights[0][place["AC"]], weights[0][place["GT"]], dim=0)
    assert turned > foreign


def test_compiled_layers() -> None:
    """One program for all layers and another for lengths that vary, the same answers, the same names."""
    from torch import _dynamo as dynamo
    from torch._dynamo.testing import CompileCounter

    model = NucleotideTransformer(BackboneConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2))
    batches = [
        torch.randint(6, 4000, (2, n), generator=torch.Generator().manual_seed(n)) for n in (5, 9, 7, 12)
    ]
    names = list(model.state_dict())
    with torch.inference_mode():
        plain = [model(ids) for ids in batches]
        dynamo.reset()
        counter = CompileCounter()
        model.compile_layers(counter)
        for ids, expected in zip(batches, plain, strict=True):
            assert torch.equal(model(ids), expected)
    assert 1 <= counter.frame_count <= 2
    assert list(model.state_dict()) == names
    dynamo.reset()
