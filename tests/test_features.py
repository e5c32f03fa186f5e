"""Features of a sequence on cases made by hand, and symmetric DUST against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyrcli.errors import WyrError
from wyrcli.features import (
    FEATURES,
    SITES,
    encode,
    find_dust,
    find_features,
    find_gc_thirds,
    find_homopolymers,
    find_orfs,
    find_rrna,
    find_tandem_repeats,
    paint,
)

IUPAC = {"Y": "C", "M": "A", "W": "A", "B": "C", "N": "G", "K": "G", "R": "A"}
_TURN = str.maketrans("ACGTN", "TGCAN")


def turned(sequence: str) -> str:
    """The other strand."""
    return sequence.translate(_TURN)[::-1]


def random_sequence(n: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), n))


def where(flags: Any) -> list[tuple[int, int]]:
    """Runs of True."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def dust_by_definition(sequence: str, window: int = 64, threshold: int = 20) -> list[tuple[int, int]]:
    """Every interval of every size, scored by itself."""
    triplets = [sequence[i : i + 3] for i in range(len(sequence) - 2)]
    highest: dict[tuple[int, int], float] = {}  # in the interval or inside of it
    masked = np.zeros(len(sequence), np.bool_)
    for size in range(1, window - 1):
        for i in range(len(triplets) - size + 1):
            own = triplets[i : i + size]
            pairs = sum(own.count(t) * (own.count(t) - 1) / 2 for t in set(own))
            score = pairs / (size - 1) if size > 1 else 0.0
            inner = max(highest.get((i, size - 1), 0.0), highest.get((i + 1, size - 1), 0.0))
            highest[i, size] = max(score, inner)
            if 10 * score > threshold and score >= inner:
                masked[i : i + size + 2] = True
    return where(masked)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["A", "C", "AC", "ACG", "T", "GGT", "CATG"]), min_size=4, max_size=50))
def test_dust_is_what_the_paper_defines(pieces: list[str]) -> None:
    sequence = "".join(pieces)
    assert where(find_dust(encode(sequence))) == dust_by_definition(sequence)


def test_dust_by_hand() -> None:
    """A run of n A has n - 2 equal triplets, k (k - 1) / 2 / (k - 1) = k / 2 > 2 from five triplets on."""
    assert where(find_dust(encode("AAAAAA"))) == []
    assert where(find_dust(encode("AAAAAAA"))) == [(0, 7)]
    flank = "CATGCTAGGTC"
    assert where(find_dust(encode(flank + "A" * 30 + "GCTTCGATGCA"))) == [(11, 41)]
    assert not find_dust(encode(random_sequence(30, seed=3))).any()
    # N parts the sequence: neither half has five triplets.
    assert not find_dust(encode("AAAAAANAAAAAA")).any()
    assert not find_dust(encode("AC")).any()


def test_homopolymers_and_tandem_repeats() -> None:
    assert where(find_homopolymers(encode("CAAAAAGTTTTTTCNNNNNNNN"))) == [(7, 13)]
    assert where(find_tandem_repeats(encode("GG" + "AC" * 6 + "TT"))) == [(2, 14)]
    assert not find_tandem_repeats(encode("GG" + "AC" * 5 + "TT")).any()  # 10 bp
    assert where(find_tandem_repeats(encode("T" + "ACGTAG" * 3 + "CC"))) == [(1, 19)]
    assert not find_tandem_repeats(encode("A" * 40)).any(), "that is a homopolymer"
    assert not find_tandem_repeats(encode("N" * 40)).any()


def test_gc_thirds_are_of_the_window() -> None:
    poor, middle, rich = find_gc_thirds(encode("AT" * 200 + "AG" * 200 + "GC" * 200))
    assert poor[:370].all() and not poor[430:].any()
    assert middle[430:770].all() and not middle[:370].any()
    assert rich[830:].all() and not rich[:770].any()
    assert (poor.astype(int) + middle + rich == 1).all()
    assert not np.any(find_gc_thirds(encode("N" * 60)))


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_orfs_on_both_strands(phase: int) -> None:
    """From its start to behind its stop, between stops in all frames that make it the only one."""
    gene = "ATG" + "GCC" * 98 + "TGA"  # 300 bp
    stops = "TTAATTAATTAACTAACTAACTAG"
    left, right = "A" * phase + stops * 3, stops * 3
    expected = [(len(left), len(left) + 300)]
    sequence = left + gene + right
    found = where(find_orfs(encode(sequence)))
    assert any(a <= expected[0][0] and b >= expected[0][1] for a, b in found)
    back = [(len(sequence) - b, len(sequence) - a) for a, b in found][::-1]
    assert where(find_orfs(encode(turned(sequence)))) == back


def test_orf_by_hand() -> None:
    """One frame is open; the other five have a stop in every twelve bases."""
    body = ("CTAATTAGTCAA" * 25)[:297]
    found = where(find_orfs(encode("TAG" + "ATG" + body + "TAA" + "TAGTTAACTAG")))
    assert found == [(3, 3 + 3 + len(body) + 3)]
    assert not find_orfs(encode("TAG" + "ATG" + body[:291] + "TAA" + "TAGTTAACTAG")).any(), "too short"
    # Without a start there is none; code 11 knows others than ATG.  TTG is no start of code 2.
    assert not find_orfs(encode("TAG" + "GGG" + body + "TAA" + "TAGTTAACTAG")).any()
    other = encode("TAG" + "TTG" + body + "TAA" + "TAGTTAACTAG")
    assert where(find_orfs(other, 11)) == found and not find_orfs(other, 2).any()
    # In code 4 TGA is an amino acid: the frame goes on over it.
    broken = encode("TAG" + "ATG" + body[:144] + "TGA" + body[144:] + "TAA" + "TAGTTAACTAG")
    assert not find_orfs(broken).any() and find_orfs(broken, 4).any()
    # The window cuts both ends; N in the middle ends it.
    assert where(find_orfs(encode(body + "CAA"))) == [(0, 300)]
    assert not find_orfs(encode(body[:150] + "NNN" + body[:147])).any()
    with pytest.raises(WyrError, match="no genetic code 77"):
        find_orfs(encode(body), 77)


def rrna_gene(first: int, last: int, seed: int = 1) -> str:
    """Random bases with the sites of the E. coli positions from ``first`` to ``last``."""
    letters = list(random_sequence(1542, seed))
    for site in SITES:
        if first <= site.at <= last and site.name not in ("EukA", "21F"):
            motif = "".join(IUPAC.get(base, base) for base in site.motif)
            letters[site.at - 1 : site.at - 1 + len(motif)] = motif
    return "".join(letters)


def test_rrna_by_its_primer_sites() -> None:
    """First to last site, on both strands; not one site alone, a wrong order or a wrong distance."""
    gene = rrna_gene(1, 1542)
    sequence = random_sequence(100, 5) + gene + random_sequence(80, 6)
    assert where(find_rrna(encode(sequence))) == [(107, 100 + 1510)]
    n = len(sequence)
    assert where(find_rrna(encode(turned(sequence)))) == [(n - 1610, n - 107)]
    assert where(find_rrna(encode(rrna_gene(500, 800)))) == [(514, 806)]
    assert not find_rrna(encode(rrna_gene(500, 600))).any()
    cut = rrna_gene(500, 800)
    assert not find_rrna(encode(cut[700:] + cut[:700])).any(), "806R before 515F"
    assert not find_rrna(encode(cut[:600] + random_sequence(400, 9) + cut[600:])).any(), "too far"
    one_off = sequence.replace("GTGCCAGCAGCCGCGGTAA", "GTGCCAGCAGCCGTGGTAA")
    assert one_off != sequence and where(find_rrna(encode(one_off))) == [(107, 1610)]
    assert not find_rrna(encode("ACGT")).any()


def test_primer_sites_are_those_of_the_primers() -> None:
    """The published reverse primers, turned round."""
    primers = {"806R": "GGACTACNVGGGTWTCTAAT", "926R": "CCGYCAATTYMTTTRAGTTT", "1391R": "GACGGGCGGTGTGTRCA"}
    turn = str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")
    motifs = {site.name: site.motif for site in SITES}
    assert {name: motif.translate(turn)[::-1] for name, motif in primers.items()} == {
        name: motifs[name] for name in primers
    }


def test_all_features() -> None:
    sequence = random_sequence(500) + "N" * 7 + "A" * 20
    found = dict(zip(FEATURES, find_features(sequence), strict=True))
    assert where(found["N"]) == [(500, 507)]
    assert found["homopolymer"][507:].all() and found["low complexity"][507:].all()
    assert where(found["window ends"]) == [(0, 52), (475, 527)]
    assert find_features("A").shape == (len(FEATURES), 1)
    assert paint(3, [(-2, 1)]).tolist() == [True, False, False]
