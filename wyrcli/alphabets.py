"""What sequences are made of: bases, amino acids, or the characters of any text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ALPHABETS", "DNA", "Alphabet", "AlphabetName"]

AlphabetName = Literal["dna", "protein", "text"]


@dataclass(frozen=True)
class Alphabet:
    """One kind of sequences.

    Parameters
    ----------
    unit: what a length is in.
    characters: what a sequence consists of, for counts.
    noun: what one sequence is called.
    min_length: windows shorter than this are left out, unless somebody says otherwise.
    codec: of characters that wait in a file, all of ``width`` bytes; empty for bases, which take two bits.
    """

    name: AlphabetName
    unit: str
    characters: str
    noun: str
    min_length: int
    codec: str
    width: int = 1


DNA = Alphabet("dna", "bp", "bases", "sequence", 200, "")

ALPHABETS: Mapping[str, Alphabet] = {
    "dna": DNA,
    "protein": Alphabet("protein", "residues", "residues", "sequence", 10, "ascii"),
    # At four bytes each, place i of a text is found without reading what stands before it.
    "text": Alphabet("text", "characters", "characters", "text", 1, "utf-32-le", 4),
}
