"""From data to explanations with encoders that are not ours: texts with keywords, proteins with motifs."""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path

import pytest
import torch
from encoders import ESM, build, word_pieces

FILLER = "film play cast plot fine poor".split()
KEYWORDS = {"comedy": ("great", "good"), "tragedy": ("dull", "bad"), "history": ("long", "short")}
RESIDUES = {"kinase": "W", "protease": "H", "globin": "C"}
N_NEW = 100


def wyr(*arguments: object) -> None:
    """Run the command in this process, on one thread."""
    from wyrcli.cli import main

    threads = torch.get_num_threads()
    try:
        assert main([str(a) for a in arguments]) == 0
    finally:
        torch.set_num_threads(threads)


def save_encoder(folder: Path, kind: str) -> None:
    """An encoder without a head, with random weights as training begins with."""
    shape = build(kind, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    torch.manual_seed(0)
    type(shape.base_model)(shape.config).save_pretrained(folder)


def write_table(path: Path, rows: list[tuple[str, str]], column: str) -> None:
    """A CSV with one column of labels."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column, "label"])
        writer.writerows(rows)


def train(folder: Path, alphabet: str, window: int, area: float) -> Path:
    """A dataset, a classifier that starts from the encoder alone, and its Explainer."""
    data, model = folder / "data", folder / "model"
    quick = ["-b", 64, "--threads", 1, "--precision", "fp32", "-q"]
    wyr("prepare", folder / "rows.csv", "--alphabet", alphabet, "--ranks", "label", "--window", window,
        "--min-length", 1, "-o", data, "-q")  # fmt: skip
    wyr("finetune", data, "--from", folder / "encoder", "-o", model, "--steps", 150, "--learning-rate", 3e-3,
        "--warmup", 0.1, *quick)  # fmt: skip
    wyr("train-explainer", model, "--data", data, "--steps", 120, "--validate-every", 30,
        "--target-area", area, *quick)  # fmt: skip
    return model


def share_of_hits(bed: Path, truth: dict[str, set[int]]) -> tuple[float, float]:
    """Letters of the truth that lie in chunks, and letters of chunks that are of the truth, as shares."""
    lines = [line.split("\t") for line in bed.read_text().splitlines() if not line.startswith("#")]
    found = {(name, i) for name, start, stop, *_ in lines for i in range(int(start), int(stop))}
    wanted = {(name, i) for name, places in truth.items() for i in places}
    return len(found & wanted) / len(wanted), len(found & wanted) / max(len(found), 1)


@pytest.mark.slow
def test_text_classifier(tmp_path: Path) -> None:
    """What is explained of a text is its keywords and little else."""
    rng = random.Random(0)
    rows = []
    for _ in range(1500):
        label = rng.choice(list(KEYWORDS))
        words = rng.choices(FILLER, k=rng.randint(15, 30))
        for _ in range(2):
            words.insert(rng.randrange(len(words)), rng.choice(KEYWORDS[label]))
        rows.append((" ".join(words), label))
    new, rows = rows[:N_NEW], rows[N_NEW:]
    write_table(tmp_path / "rows.csv", rows, "text")
    save_encoder(tmp_path / "encoder", "bert")
    word_pieces(tmp_path / "encoder" / "tokenizer.json")
    model = train(tmp_path, "text", 300, 1)
    (tmp_path / "new.txt").write_text("".join(text + "\n" for text, _ in new))
    wyr("explain", tmp_path / "new.txt", "--model", model, "-o", tmp_path / "new.bed", "--threads", 1, "-q")
    wyr("explain-classes", "--model", model, "--data", tmp_path / "data", "--split", "train", "-o",
        tmp_path / "classes", "--windows", 600, "--threads", 1, "-q")  # fmt: skip
    lines = (tmp_path / "classes" / "keywords.tsv").read_text().splitlines()[1:]
    words = {(line.split("\t")[0], line.split("\t")[3]) for line in lines}
    assert words <= {(label, word) for label, own in KEYWORDS.items() for word in own}
    assert len(words) >= 4
    assert not (tmp_path / "classes" / "motifs.meme").exists()
    truth = {
        f"line{i}": {
            place
            for match in re.finditer("|".join(KEYWORDS[label]), text)
            for place in range(match.start(), match.end())
        }
        for i, (text, label) in enumerate(new, 1)
    }
    covered, right = share_of_hits(tmp_path / "new.bed", truth)
    # One keyword of two is enough for an answer, and a class may be what is left without those of the others;
    # which it is differs with the rounding of the processor.
    assert covered > 0.2 and right > 0.9


@pytest.mark.slow
def test_protein_classifier(tmp_path: Path) -> None:
    """What is explained of a protein is its telling residues, by their places in the FASTA record."""
    rng = random.Random(1)
    rows = []
    for _ in range(1500):
        label = rng.choice(list(RESIDUES))
        residues = rng.choices("LAVSEITKPQNFYM", k=rng.randint(25, 40))
        for _ in range(3):
            residues.insert(rng.randrange(len(residues)), RESIDUES[label])
        rows.append(("".join(residues), label))
    new, rows = rows[:N_NEW], rows[N_NEW:]
    write_table(tmp_path / "rows.csv", rows, "sequence")
    save_encoder(tmp_path / "encoder", "esm")
    (tmp_path / "encoder" / "vocab.txt").write_text("\n".join(ESM))
    model = train(tmp_path, "protein", 60, 0.3)
    fasta = tmp_path / "new.faa"
    fasta.write_text("".join(f">p{i}\n{sequence}\n" for i, (sequence, _) in enumerate(new)))
    wyr("explain", fasta, "--model", model, "-o", tmp_path / "new.bed", "--threads", 1, "-q")
    truth = {
        f"p{i}": {place for place, letter in enumerate(sequence) if letter == RESIDUES[label]}
        for i, (sequence, label) in enumerate(new)
    }
    covered, right = share_of_hits(tmp_path / "new.bed", truth)
    assert covered > 0.5 and right > 0.7
