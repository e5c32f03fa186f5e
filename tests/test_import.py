"""``wyr import``, and everything that a user then does with such a checkpoint."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from encoders import KINDS, LABELS, PROTEINS, TEXTS
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from toy import Labelled, randomise

from wyrcli import documents
from wyrcli.checkpoint import load_checkpoint, load_explainer, save_explainer
from wyrcli.cli import main
from wyrcli.errors import CheckpointError, InputError
from wyrcli.evaluation import CONDITIONS, evaluate
from wyrcli.examination import Subject
from wyrcli.inputs import new_counts, open_windows
from wyrcli.model.explainer import build_explainer
from wyrcli.model.tokens import KmerTokenizer
from wyrcli.writers import BED_COLUMNS

Run = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``wyr`` in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        # The networks are too small for two threads.
        threads = ["-t", "1"] if arguments[0] == "explain" else []
        code = main([*(str(a) for a in arguments), *threads])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def imported(folder: Path, kind: str, *options: str) -> Path:
    """A checkpoint of wyr."""
    source = encoders.save(folder / "source", kind)
    assert main(["import", str(source), "-o", str(folder / "model"), "-q", *options]) == 0
    return folder / "model"


def add_explainer(model: Path, kind: str = "state") -> Path:
    """A random Explainer for the classifier."""
    shape = load_checkpoint(model).explanandum
    sizes = {"hidden_size": shape.hidden_size, "n_states": 2, "width": 6}
    if kind == "lstm":
        sizes = {"vocab_size": shape.vocab_size, "hidden": 4}
    network = build_explainer(kind, {**sizes, "n_classes": sum(shape.sizes)})
    randomise(network, size=0.6)
    save_explainer(model, network, "gate", training={})
    return model


# ---------------------------------------------------------------- import


@pytest.mark.parametrize("kind", KINDS)
def test_roundtrip(tmp_path: Path, kind: str) -> None:
    """What comes out of our checkpoint answers as what transformers reads; and transformers reads ours."""
    from transformers import AutoModelForSequenceClassification

    model = imported(tmp_path, kind)
    found = load_checkpoint(model)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "source").eval()
    ours = AutoModelForSequenceClassification.from_pretrained(model).eval()
    protein = kind.startswith("esm")
    batch = found.tokenizer.batch(PROTEINS if protein else TEXTS)
    for network in (theirs, ours):
        expected = network(input_ids=batch.ids, attention_mask=batch.attention.long()).logits
        torch.testing.assert_close(found.explanandum(batch), expected, atol=1e-5, rtol=0)
    assert found.taxonomy.ranks == ("label",) and found.taxonomy.taxa == (LABELS,)
    assert found.alphabet == ("protein" if protein else "text")
    most = found.tokenizer.max_tokens
    assert most == {"roberta": 63, "xlm-roberta": 63, "esm": 62, "esm-absolute": 62}.get(kind, 64)
    assert found.window_bp == (most - 2 if protein else 4 * (most - 2))
    info = json.loads((model / "checkpoint.json").read_text())
    assert (info["architecture"], info["alphabet"]) == ("transformers", found.alphabet)
    assert not found.explanandum.train().training


def test_options(run: Run, tmp_path: Path) -> None:
    """Name, notice, rank and window; the terminal tells what was made."""
    source = encoders.save(tmp_path / "source", "distilbert")
    options = ("--rank", "domain", "--window", "99", "--name", "toy", "--notice", "a toy")
    code, out, err = run("import", source, "-o", tmp_path / "model", *options)
    assert (code, out) == (0, "") and "3 labels, text, windows of 99" in err
    found = load_checkpoint(tmp_path / "model")
    assert (found.name, found.notice, found.window_bp) == ("toy", "a toy", 99)
    assert found.taxonomy.ranks == ("superkingdom",)
    code, _, err = run("import", source, "-o", tmp_path / "model")
    assert code == 1 and "not empty" in err


def test_pickled_weights(run: Run, tmp_path: Path) -> None:
    """pytorch_model.bin is read as tensors alone; what holds more is refused."""
    source = encoders.save(tmp_path / "source", "bert")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    assert run("import", source, "-o", tmp_path / "model", "-q") == (0, "", "")
    assert (tmp_path / "model/model.safetensors").is_file()
    torch.save({**tensors, "classifier.bias": Path("x")}, source / "pytorch_model.bin")
    code, _, err = run("import", source, "-o", tmp_path / "other")
    assert code == 1 and "holds more than tensors" in err


def test_older_names(tmp_path: Path) -> None:
    """Files that older versions of transformers wrote give the same answers."""
    for kind in ("bert", "esm"):
        (tmp_path / kind).mkdir()
        model = imported(tmp_path / kind, kind)
        file = tmp_path / kind / "source/model.safetensors"
        old = {}
        for name, tensor in load_file(file).items():
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma") if kind == "bert" else name
            name = name.replace("LayerNorm.bias", "LayerNorm.beta") if kind == "bert" else name
            if name.endswith("inv_freq"):
                name = "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"
            if not name.startswith("esm.contact_head"):
                old[name] = tensor
        old[f"{kind}.embeddings.position_ids"] = torch.arange(64)[None]
        save_file(old, file)
        args = ["import", str(tmp_path / kind / "source"), "-o", str(tmp_path / kind / "again"), "-q"]
        assert main(args) == 0
        first, second = load_checkpoint(model), load_checkpoint(tmp_path / kind / "again")
        batch = first.tokenizer.batch(["GAVM"])
        assert torch.equal(first.explanandum(batch), second.explanandum(batch))


def edit(file: Path, **changes: Any) -> None:
    """Change values of a JSON file; None removes."""
    content = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'; known: bert, roberta"),
        ({"model_type": None}, "model_type None; known"),
        ({"problem_type": "multi_label_classification"}, "multi-label classification"),
        ({"problem_type": "regression"}, "a regression"),
        ({"id2label": {"0": "score"}, "label2id": {"score": 0}}, "a regression"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "names a taxon twice"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.bias has shape (3,), expected (2,)"),
        ({"is_decoder": True}, "a decoder"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"num_attention_heads": 3}, "config.json"),
        ({"num_hidden_layers": 2}, "unexpected bert.encoder.layer.2"),
        ({"num_hidden_layers": 4}, "missing bert.encoder.layer.3"),
        ({"hidden_size": "many"}, "config.json"),
        ({"vocab_size": 12}, "the tokenizer needs 24 embeddings"),
    ],
)
def test_refused_configurations(run: Run, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """One line that says why; and no checkpoint."""
    source = encoders.save(tmp_path / "source", "bert")
    edit(source / "config.json", **changes)
    refused(run, source, message)


def refused(run: Run, source: Path, message: str) -> None:
    """The import fails with one line, and leaves nothing."""
    model = source.parent / "model"
    code, out, err = run("import", source, "-o", model)
    assert (code, out) == (1, "") and message in err, err
    lines = [line for line in err.splitlines() if line.startswith("wyr:")]
    assert len(lines) == 1 and lines[0].startswith("wyr: error: ") and not model.exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "config.json: not found"),
        ("model.safetensors", "no model.safetensors"),
        ("tokenizer.json", "no tokenizer: tokenizer.json not found"),
    ],
)
def test_missing_files(run: Run, tmp_path: Path, file: str, message: str) -> None:
    """Each is named."""
    source = encoders.save(tmp_path / "source", "bert")
    (source / file).unlink()
    refused(run, source, message)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert", "esm"])
def test_no_head(run: Run, tmp_path: Path, kind: str) -> None:
    """A pretrained encoder without a classifier is refused: its head would be random."""
    source = encoders.save(tmp_path / "source", kind)
    tensors = load_file(source / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "classifier" not in n}, source / "model.safetensors")
    refused(run, source, "no weights of a classification head")


def test_no_code_is_run(run: Run, tmp_path: Path) -> None:
    """A directory that brings code along is read as if it brought none."""
    source = encoders.save(tmp_path / "source", "bert")
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(
        source / "config.json",
        auto_map={"AutoConfig": "evil.X", "AutoModelForSequenceClassification": "evil.X"},
    )
    (source / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.X", null]}}')
    assert run("import", source, "-o", tmp_path / "model", "-q")[0] == 0
    assert not (tmp_path / "ran").exists()
    assert "evil" not in (tmp_path / "model/config.json").read_text()


def test_longer_windows_than_the_model_reads(run: Run, tmp_path: Path) -> None:
    """Of proteins, whose tokens can be counted."""
    source = encoders.save(tmp_path / "source", "esm")
    code, _, err = run("import", source, "-o", tmp_path / "model", "--window", "61")
    assert code == 1 and "the model reads at most 60" in err


def test_a_fault_of_transformers_is_found_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is repeated: the library may change under a checkpoint."""
    model = imported(tmp_path, "bert")
    monkeypatch.setattr("wyrcli.model.encoders._REMOVED", -1.0)
    with pytest.raises(CheckpointError, match="cannot be explained"):
        load_checkpoint(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt"}, "architecture 'gpt'; known: nucleotide-transformer, transformers"),
        ({"alphabet": "protein"}, "alphabet 'protein', but the tokenizer is for text"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    """What checkpoint.json says is checked."""
    model = imported(tmp_path, "distilbert")
    edit(model / "checkpoint.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model)


def test_explainers_that_do_not_fit(tmp_path: Path) -> None:
    """Both kinds come back; those for another encoder are refused."""
    model = add_explainer(add_explainer(imported(tmp_path, "distilbert")), "lstm")
    for kind in ("state", "lstm"):
        assert load_explainer(model, kind).explainer.kind == kind
    sizes = {"hidden_size": 16, "n_classes": 3, "width": 6}
    for changes, message in (
        ({"hidden_size": 12, "n_states": 2}, "hidden_size 12"),
        ({"n_states": 9}, "9 hidden"),
    ):
        network = build_explainer("state", sizes | changes)
        save_explainer(model, network, "gate", training={}, force=True)
        with pytest.raises(CheckpointError, match=message):
            load_explainer(model)


# ---------------------------------------------------------------- explain


def expected_rows(model: Path, named: list[tuple[str, str]]) -> list[tuple[str, object]]:
    """BED rows of documents that fit one window, computed one by one."""
    checkpoint, trained = load_checkpoint(model), load_explainer(model)
    rows = []
    for name, text in named:
        batch = checkpoint.tokenizer.batch([text])
        logits, states = checkpoint.explanandum.classify(batch)
        classes = checkpoint.explanandum.predict(logits)[0]
        mask = trained.explainer(batch, states, classes).sigmoid()[0, 1 : 1 + int(batch.valid.sum()), 0]
        label = LABELS[int(classes)]
        spans = batch.spans[0, 1 : 1 + len(mask)].tolist()
        run: list[int] = []
        for i in range(len(mask) + 1):
            if i < len(mask) and mask[i] > 0.5:
                run.append(i)
            elif run:
                mean = float(mask[run].mean())
                row = f"{name} {spans[run[0]][0]} {spans[run[-1]][1]} {label}"
                rows.append((row, pytest.approx(mean, abs=1e-4)))
                run = []
    return rows


def short(bed: str) -> list[tuple[str, object]]:
    """What :func:`expected_rows` gives, of a BED file."""
    header, *rows = bed.splitlines()
    assert header == "#" + "\t".join(BED_COLUMNS)
    cells = [row.split("\t") for row in rows]
    return [(" ".join(c[:4]), float(c[9])) for c in cells]


@pytest.mark.parametrize("kind", ["bert", "modernbert-mean"])
def test_explain_lines_and_tables(run: Run, tmp_path: Path, kind: str) -> None:
    """A document per line, or per row; positions in its characters."""
    model = add_explainer(imported(tmp_path, kind))
    texts = [
        "the caf\u00e9 film, poor cast",
        "",
        "  long\tdull plot not good",
        "\U0001f600 great fine short play",
    ]
    names = ["line1", "line3", "line4"]
    rows = expected_rows(model, list(zip(names, [t for t in texts if t], strict=True)))
    # The window of the third begins behind its spaces, and the place of its tokens does not.
    assert {row.split()[0] for row, _ in rows} == set(names)
    lines = tmp_path / "texts.txt"
    lines.write_bytes("\ufeff".encode() + "\r\n".join(texts).encode())
    exact = ("--model", model, "--precision", "fp32")
    tables = ("--tokens", tmp_path / "t.tsv", "--predictions", tmp_path / "p.tsv")
    code, out, err = run("explain", lines, *exact, *tables, "--json", tmp_path / "r.json")
    assert code == 0 and short(out) == rows
    assert "4 texts in: 3 explained in 3 windows, 1 skipped (1 empty)" in err and "characters" in err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["model"]["alphabet"] == "text" and report["read"]["records_skipped"] == {"empty": 1}
    predictions = [row.split("\t")[:4] for row in (tmp_path / "p.tsv").read_text().splitlines()[1:]]
    assert predictions[1] == ["line2", "0", "0", "skipped:empty"]
    assert predictions[2] == ["line3", "2", str(len(texts[2])), "ok"]
    for row in (tmp_path / "t.tsv").read_text().splitlines()[1:]:
        name, start, stop, token = row.split("\t")[:4]
        assert token == texts[int(name[4:]) - 1][int(start) : int(stop)]

    packed = tmp_path / "texts.txt.gz"
    packed.write_bytes(gzip.compress("\n".join(texts).encode()))
    assert run("explain", packed, *exact, "-q")[1] == out
    table = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": texts, "name": ["line1", "", "line3", "line4"]}), table)
    assert run("explain", table, *exact, "-q")[1] == out
    tsv = tmp_path / "texts.csv"
    tsv.write_text("id,sequence\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(texts)), encoding="utf-8")
    assert run("explain", tsv, *exact, "-q")[1] == out.replace("\nline", "\nrow")
    assert run("explain", lines, *exact, "-q", "--rank", "label", "-b", "1")[1] == out


def test_explain_proteins(run: Run, tmp_path: Path) -> None:
    """Protein FASTA, in residues of the record; bases are not looked for."""
    model = add_explainer(imported(tmp_path, "esm"))
    fasta = tmp_path / "proteins.fasta"
    fasta.write_text(">p1 first\nMKTAYIAK\nqrqisfv*\n>empty\n>p2\nGAVUUBZXJ\n")
    rows = expected_rows(model, [("p1", "MKTAYIAKQRQISFV*"), ("p2", "GAVUUBZXJ")])
    code, out, err = run(
        "explain", fasta, "--model", model, "--tokens", tmp_path / "t.tsv", "--precision", "fp32"
    )
    assert code == 0 and short(out) == rows and rows
    assert "3 proteins in: 2 explained in 2 windows, 1 skipped (1 empty)" in err and "residues" in err
    tokens = [row.split("\t") for row in (tmp_path / "t.tsv").read_text().splitlines()[1:]]
    assert "".join(t[3] for t in tokens) == "MKTAYIAKQRQISFV*GAVUUBZXJ"

    long = tmp_path / "long.fasta"
    long.write_text(">long\n" + "MKTAYIAK" * 25 + "\n")
    code, out, err = run("explain", long, "--model", model, "--predictions", tmp_path / "p.tsv")
    assert code == 0 and "1 explained in 4 windows" in err
    places = [row.split("\t")[1:3] for row in (tmp_path / "p.tsv").read_text().splitlines()[1:]]
    assert places == [["0", "50"], ["50", "100"], ["100", "150"], ["150", "200"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (">p1\nMK-A\n", "found '-' at position 3"),
        (">p1\nMK1A\n", "found '1' at position 3"),
        ("@p1\nMKA\n+\nIII\n", "found FASTQ; expected FASTA"),
        (">\nMKA\n", "has no name"),
        ("MKA\n", "expected '>' (FASTA)"),
    ],
)
def test_proteins_that_are_none(run: Run, tmp_path: Path, content: str, message: str) -> None:
    """File and record are named, and no output is left."""
    model = add_explainer(imported(tmp_path, "esm"))
    fasta = tmp_path / "proteins.fasta"
    fasta.write_text(content)
    code, _, err = run("explain", fasta, "--model", model, "-o", tmp_path / "x.bed")
    assert code == 1 and message in err and "proteins.fasta, record 1" in err
    assert not (tmp_path / "x.bed").exists()


def test_long_documents_are_cut(run: Run, tmp_path: Path) -> None:
    """By tokens, between words; every token is explained, in its own place."""
    model = add_explainer(imported(tmp_path, "roberta", "--window", "400"))
    text = " ".join(f"{w} plot," for w in encoders.WORDS * 20)
    (tmp_path / "long.txt").write_text(text + "\n" + "x" * 1000 + "\n")
    code, _, err = run("explain", tmp_path / "long.txt", "--model", model, "--tokens", tmp_path / "t.tsv")
    assert code == 0 and "2 texts in: 2 explained" in err
    tokens = [row.split("\t") for row in (tmp_path / "t.tsv").read_text().splitlines()[1:]]
    places = [(int(t[1]), int(t[2])) for t in tokens if t[0] == "line1"]
    assert "".join(text[a:b] for a, b in places) == text.replace(" ", "")
    assert "".join(t[3] for t in tokens if t[0] == "line2") == "x" * 1000


def test_k_mers_of_esm_are_dna(run: Run, tmp_path: Path) -> None:
    """The first Nucleotide Transformer is an ESM with a vocabulary of k-mers: it reads nucleotides."""
    tokens = KmerTokenizer.nucleotide_transformer_v2(k=2)
    source = encoders.save(tmp_path / "source", "esm-absolute", vocab_size=len(tokens.vocabulary))
    (source / "vocab.txt").write_text("\n".join(tokens.vocabulary))
    assert run("import", source, "-o", tmp_path / "model", "-q") == (0, "", "")
    model = add_explainer(tmp_path / "model")
    found = load_checkpoint(model)
    assert (found.alphabet, found.window_bp) == ("dna", 122)
    fasta = tmp_path / "reads.fasta"
    fasta.write_text(">r\nACGTNacguRYACGTTGCA\n")
    code, out, err = run("explain", fasta, "--model", model)
    assert code == 0 and out.count("\n") > 1 and "1 reads in: 1 explained" in err


# ---------------------------------------------------------------- windows, evaluation


@given(
    st.text(alphabet="ab \t\u3000\U0001f600", max_size=60),
    st.integers(6, 30),
    st.integers(1, 9),
    st.integers(1, 2),
)
def test_cut_document(text: str, window: int, limit: int, per_letter: int) -> None:
    """Windows are in order, as short as need be, and leave out nothing but white space."""

    def count(piece: str) -> int:
        return per_letter * sum(not c.isspace() for c in piece)

    if limit < per_letter and text.strip():
        with pytest.raises(InputError, match="a single character"):
            list(documents.cut_document(text, window, count, limit))
        return
    places = list(documents.cut_document(text, window, count, limit))
    assert all(0 < stop - start <= window for start, stop in places)
    assert all(count(text[start:stop]) <= limit for start, stop in places)
    ends = [0, *(place for pair in places for place in pair), len(text)]
    assert ends == sorted(ends)
    assert not "".join(text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)).strip()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"good\nb\xffd\n", "line 2: found byte 0xff"),
        ("x.txt", gzip.compress(b"good\n" * 99)[:-9], "cut off"),
        ("x.csv", b"a,b\n1,2\n", "expected 'text' once"),
        ("x.tsv", b"text\tname\nx\ty\tz\n", "3 cells"),
    ],
)
def test_damaged_documents(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """What is wrong, and where."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(documents.read_documents([str(path)]))


def test_counts(tmp_path: Path) -> None:
    """Every document is windowed or skipped; equal names are counted."""
    path = tmp_path / "x.csv"
    path.write_text("name,text\na,good film\na,bad\nb,\n")
    tokenizer = encoders_tokenizer()
    counts, skipped = new_counts("text"), []
    windows = list(
        open_windows(
            [str(path), str(path)], tokenizer, 20, counts, on_skip=lambda *record: skipped.append(record)
        )
    )
    assert [w[:4] for w in windows] == [(i, "a", 0, n) for i, n in ((0, 9), (1, 3), (3, 9), (4, 3))]
    assert skipped == [(2, "b", 0, "empty"), (5, "b", 0, "empty")]
    assert counts.accounted() and (counts.records, counts.duplicate_names, counts.windows) == (6, 4, 4)
    nothing = tmp_path / "nothing"
    nothing.write_bytes(b"")
    assert list(documents.read_documents([str(nothing)])) == []


def encoders_tokenizer() -> Any:
    """Words, without a model."""
    from wyrcli.model.encoder_tokens import TextTokenizer

    return TextTokenizer(encoders.word_pieces(), pad_id=0, vocab_size=encoders.N_PIECES, max_tokens=64)


@pytest.mark.parametrize("kind", ["electra", "esm"])
def test_evaluate(tmp_path: Path, kind: str) -> None:
    """Table 1 of a text model and a protein model, at two batch sizes."""
    model = add_explainer(imported(tmp_path, kind))
    checkpoint, trained = load_checkpoint(model), load_explainer(model)
    texts = [t for t in (PROTEINS if kind == "esm" else TEXTS) if t] * 3
    labels = np.arange(len(texts))[:, None] % 3
    names, starts = [f"d{i}" for i in range(len(texts))], np.zeros(len(texts), dtype=np.int64)
    results = [
        evaluate(
            Subject(checkpoint.explanandum, checkpoint.tokenizer, CPU, size),
            trained.explainer,
            "gate",
            Labelled(texts, labels, names, starts),
        )
        for size in (2, 64)
    ]
    assert tuple(results[0].accuracy) == CONDITIONS
    for name in CONDITIONS:
        assert results[0].accuracy[name] == pytest.approx(results[1].accuracy[name])
        assert results[0].tokens_kept[name] == pytest.approx(results[1].tokens_kept[name], abs=1e-5)
