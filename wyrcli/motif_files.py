"""Motifs and chunks of classes as files for other tools: MEME's minimal format, and FASTA.

FIMO, Tomtom, STREME, Biopython and tangermeme read the minimal MEME format (version 5).  One file may hold
the motifs of many classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.class_motifs import LETTERS, ClassRead, Motif, cut_chunks
from wyrcli.errors import InputError, printable
from wyrcli.writers import safe_text

__all__ = ["chunk_fasta", "motif_ids", "parse_meme", "read_meme", "render_meme", "safe_id"]


def safe_id(text: str) -> str:
    """A name that any tool takes for one word, and any file system for a name.

    ASCII letters, digits, ``.``, ``-`` and ``_``.

    >>> safe_id("Escherichia coli (K-12)|x")
    'Escherichia_coli_K-12_x'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_.-") or "unnamed"


def motif_ids(motifs: Mapping[str, Sequence[Motif]]) -> dict[str, list[str]]:
    """What each class's motifs are called in files: class and motif as one word, no two the same.

    >>> motif_ids({"Bacillus": [Motif("motif_1", np.eye(4))]})
    {'Bacillus': ['Bacillus.motif_1']}
    """
    taken: set[str] = set()

    def new(wanted: str) -> str:
        names = (wanted if i == 1 else f"{wanted}-{i}" for i in count(1))
        taken.add(name := next(name for name in names if name not in taken))
        return name

    return {of: [new(f"{safe_id(of)}.{safe_id(motif.name)}") for motif in own] for of, own in motifs.items()}


# ---------------------------------------------------------------- MEME


def render_meme(motifs: Mapping[str, Sequence[Motif]]) -> str:
    """The text of a file of the motifs of all classes; see :func:`motif_ids`.

    The class as it is written and the motif's consensus stand behind the identifier.  ``E=`` holds the
    adjusted p-value, and is left out where none is known.  The background is the mean over the motifs.
    """
    every = [motif for own in motifs.values() for motif in own]
    background = np.mean([motif.background for motif in every], axis=0) if every else np.full(4, 0.25)
    lines = [
        "MEME version 5",
        "",
        f"ALPHABET= {LETTERS}",
        "",
        "strands: + -",
        "",
        "Background letter frequencies",
        " ".join(f"{letter} {share:.6f}" for letter, share in zip(LETTERS, background, strict=True)),
        "",
    ]
    names = motif_ids(motifs)
    for of, own in motifs.items():
        for name, motif in zip(names[of], own, strict=True):
            sites = round(float(motif.counts.sum(1).max(initial=0.0)))
            value = "" if np.isnan(motif.q) else f" E= {motif.q:.3g}"
            lines.append(f"MOTIF {name} {motif.consensus} {safe_text(of)}")
            lines.append(f"letter-probability matrix: alength= 4 w= {len(motif)} nsites= {sites}{value}")
            shares = motif.counts / np.maximum(motif.counts.sum(1, keepdims=True), 1e-9)
            lines.extend(" ".join(f"{share:.6f}" for share in row) for row in shares)
            lines.append("")
    return "\n".join(lines) + "\n"


def read_meme(path: str) -> list[Motif]:
    """The motifs of a file in the minimal MEME format, version 4 or later; see :func:`parse_meme`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_meme(file, path)
    except IsADirectoryError:
        raise InputError("is a directory; expected a file in MEME format", path=path) from None


class _Line(NamedTuple):
    number: int
    text: str


Wrong = Callable[[_Line, str], InputError]
"""The error for a line, from what was expected there."""


def parse_meme(lines: Iterable[str], path: str | None = None) -> list[Motif]:
    """Motifs from lines of MEME's minimal format; of DNA.

    A motif's ``counts`` are its shares times its number of sites (20 where that is not said).

    Raises InputError, with ``path`` and the line, for another format or alphabet, and for rows that are no
    shares of four letters.
    """
    rows = iter([_Line(number, line.strip()) for number, line in enumerate(lines, 1)])

    def wrong(line: _Line, expected: str) -> InputError:
        found = printable(line.text, limit=40)
        return InputError(f"found '{found}'; expected {expected}", path=path, line=line.number)

    first = next((line for line in rows if line.text), _Line(1, ""))
    if not re.match(r"MEME version [4-9]", first.text):
        raise wrong(first, "'MEME version 4' or later")
    background = np.full(4, 0.25)
    motifs: list[Motif] = []
    for line in rows:
        words = line.text.split()
        if line.text.startswith("ALPHABET") and line.text.replace(" ", "") not in (
            "ALPHABET=ACGT",
            "ALPHABETDNA",
        ):
            raise wrong(line, "'ALPHABET= ACGT'; only motifs of DNA can be read")
        if line.text.startswith("Background letter frequencies"):
            background = _read_background(next(rows, line), wrong)
        if words[:1] == ["MOTIF"]:
            if len(words) < 2:
                raise wrong(line, "a motif's name")
            motifs.append(_read_motif(words[1], rows, background, line, wrong))
    return motifs


def _read_background(line: _Line, wrong: Wrong) -> NDArray[np.float64]:
    words = line.text.split()
    try:
        shares = np.array([float(word) for word in words[1::2]])
    except ValueError:
        raise wrong(line, "letters and their frequencies") from None
    if "".join(words[::2]) != LETTERS or len(shares) != 4 or not _are_shares(shares) or (shares <= 0).any():
        raise wrong(line, "frequencies of A, C, G and T that sum to 1")
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _read_motif(
    name: str, rows: Iterator[_Line], background: NDArray[np.float64], line: _Line, wrong: Wrong
) -> Motif:
    """One motif, up to the last row of its matrix."""
    for line in rows:
        if line.text.startswith("letter-probability matrix:"):
            break
        if line.text.startswith("MOTIF"):
            raise wrong(line, f"'letter-probability matrix:' of {printable(name)}")
    else:
        raise wrong(line, "'letter-probability matrix:' below it")
    said = dict(re.findall(r"(\w+)=\s*(\S+)", line.text))
    try:
        width, n_sites = int(said.get("w", 0)), float(said.get("nsites", 20))
        value = float(said.get("E", "nan"))
    except ValueError:
        raise wrong(line, "numbers behind w=, nsites= and E=") from None
    matrix: list[list[float]] = []
    for line in rows:
        if not line.text:
            if matrix:
                break
            continue
        try:
            matrix.append(shares := [float(word) for word in line.text.split()])
        except ValueError:
            raise wrong(line, "four shares") from None
        if len(shares) != 4 or not _are_shares(np.array(shares)):
            raise wrong(line, "four shares that sum to 1")
        if len(matrix) == width:
            break
    if not matrix or (width and len(matrix) != width):
        raise wrong(line, f"{width or 'some'} rows of the matrix of {printable(name)}; found {len(matrix)}")
    counts = np.array(matrix) * max(n_sites, 1.0)
    return Motif(name, counts, background, n_sites=round(n_sites), q=value)


def _are_shares(values: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all() and abs(values.sum() - 1) < 0.02)


# ---------------------------------------------------------------- FASTA


def chunk_fasta(of: str, reads: Sequence[ClassRead], threshold: float = 0.5) -> str:
    """The relevant chunks of a class's reads as FASTA, one line of letters each.

    ``>NAME:START-STOP CLASS mean_mask=0.93``: 0-based half-open places on the record, as
    ``bedtools getfasta`` names them; what tools would stumble over in names is ``_``.
    """
    lines = []
    for number, read in enumerate(reads, 1):
        name = safe_id(read.name or f"read{number}")
        for start, stop in cut_chunks(read, threshold):
            mean = float(np.mean(read.scores[start:stop]))
            place = f"{read.start + start}-{read.start + stop}"
            lines.append(
                f">{name}:{place} {safe_text(of)} mean_mask={mean:.2f}\n{read.sequence[start:stop]}\n"
            )
    return "".join(lines)
