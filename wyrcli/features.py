"""Features that a sequence has by itself: what needs no annotation to be found.

Each is found on one window, as bool (L,) over its bases.  Of what is only a sign of biology:

open reading frame    A proxy of coding sequence: start to stop codon, on either strand, 300 bp or more.  A
                      window cuts genes, so a frame may begin or end where the window does.  Sequence that is
                      rich in G and C has long frames by chance as well, often on the strand across a gene.
SSU rRNA (primers)    From the first to the last of at least two sites of universal primers (16S and 18S)
                      which lie in the right order, on one strand, about as far from each other as in
                      *E. coli*.  One site does not count, so a window with less than some 300 bp of a gene
                      shows nothing.
low complexity        Symmetric DUST (Morgulis et al. 2006, doi:10.1089/cmb.2006.13.1028), window 64,
                      score 20.
GC-poor third, ...    Local GC (51 bp around each base) against the thirds **of the same window**.
window ends           The outer tenths of the window: not biology, but tells a mask that prefers them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import WyrError

__all__ = ["FEATURES", "SITES", "Site", "find_dust", "find_features", "find_orfs", "find_rrna"]

Bools = NDArray[np.bool_]
_Codes = NDArray[np.uint8]

MIN_ORF_BP = 300
MIN_HOMOPOLYMER = 6
MIN_REPEAT_BP, MIN_COPIES, _PERIODS = 12, 3, range(2, 7)
_GC_BOX = 51

_CODE = np.full(256, 4, np.uint8)
_CODE[np.frombuffer(b"ACGT", np.uint8)] = range(4)


def encode(sequence: str) -> _Codes:
    """Bases as numbers: A 0, C 1, G 2, T 3, all else 4."""
    return _CODE[np.frombuffer(sequence.encode("ascii"), np.uint8)]


def paint(length: int, intervals: Sequence[tuple[int, int]]) -> Bools:
    """Which of ``length`` bases lie in any of these intervals.

    >>> paint(4, [(1, 3)]).tolist()
    [False, True, True, False]
    """
    inside = np.zeros(length, np.bool_)
    for start, stop in intervals:
        inside[max(start, 0) : max(stop, 0)] = True
    return inside


def _runs(flags: Bools) -> list[tuple[int, int]]:
    """Runs of True, half-open."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


# ---------------------------------------------------------------- repeats


def find_homopolymers(codes: _Codes) -> Bools:
    """Runs of one base, :data:`MIN_HOMOPOLYMER` or more."""
    same = (codes[1:] == codes[:-1]) & (codes[1:] < 4)
    return paint(len(codes), [(a, b + 1) for a, b in _runs(same) if b + 1 - a >= MIN_HOMOPOLYMER])


def find_tandem_repeats(codes: _Codes) -> Bools:
    """Exact repeats of a unit of 2 to 6 bases that are not all the same: 3 copies or more, 12 bp or more."""
    found = []
    for period in _PERIODS:
        same = (codes[period:] == codes[:-period]) & (codes[period:] < 4)
        for start, end in _runs(same):
            stop = end + period
            is_long = stop - start >= max(MIN_REPEAT_BP, MIN_COPIES * period)
            if is_long and (codes[start : start + period] != codes[start]).any():
                found.append((start, stop))
    return paint(len(codes), found)


def find_dust(codes: _Codes, window: int = 64, threshold: int = 20) -> Bools:
    """Symmetric DUST: all *perfect intervals*.

    Of an interval with k triplets, c of each kind, the score is the sum of c (c - 1) / 2 over (k - 1).  It is
    perfect if it is at most ``window`` long, scores more than ``threshold`` / 10, and no interval inside of
    it scores higher.  The algorithm is that of sdust (H. Li), which finds what Morgulis et al. define.
    """
    masked = []
    for start, stop in _runs(codes < 4):
        masked += [(start + a, start + b) for a, b in _dust(codes[start:stop], window, threshold)]
    return paint(len(codes), masked)


def _dust(codes: _Codes, window: int, threshold: int) -> list[tuple[int, int]]:
    if len(codes) < 4:
        return []
    wide = codes.astype(np.int64)
    triplets: list[int] = (16 * wide[:-2] + 4 * wide[1:-1] + wide[2:]).tolist()
    most = window - 2  # triplets in a window
    held: deque[int] = deque()
    in_window, in_suffix = [0] * 64, [0] * 64
    window_score = suffix = suffix_score = 0  # the suffix has no triplet more than 2 * threshold / 10 times
    perfect: list[tuple[int, int, int, int]] = []  # start, stop, score, triplets - 1; from right to left
    found: list[tuple[int, int]] = []
    for at, triplet in enumerate(triplets):
        if len(held) >= most:
            gone = held.popleft()
            in_window[gone] -= 1
            window_score -= in_window[gone]
            if suffix > len(held):
                suffix -= 1
                in_suffix[gone] -= 1
                suffix_score -= in_suffix[gone]
        held.append(triplet)
        suffix += 1
        window_score += in_window[triplet]
        in_window[triplet] += 1
        suffix_score += in_suffix[triplet]
        in_suffix[triplet] += 1
        if in_suffix[triplet] * 10 > 2 * threshold:
            while True:
                gone = held[len(held) - suffix]
                in_suffix[gone] -= 1
                suffix_score -= in_suffix[gone]
                suffix -= 1
                if gone == triplet:
                    break
        origin = at + 1 - len(held)
        while perfect and perfect[-1][0] < origin:
            found.append(perfect.pop()[:2])
        if window_score * 10 > suffix * threshold:
            counts, score = in_suffix.copy(), suffix_score
            best, best_size, place = 0, 1, 0
            for i in range(len(held) - suffix - 1, -1, -1):
                kind = held[i]
                score += counts[kind]
                counts[kind] += 1
                size = len(held) - i - 1
                if score * 10 <= threshold * size:
                    continue
                while place < len(perfect) and perfect[place][0] >= i + origin:
                    _, _, other, other_size = perfect[place]
                    if other * best_size > best * other_size:
                        best, best_size = other, other_size
                    place += 1
                if score * best_size >= best * size:
                    best, best_size = score, size
                    perfect.insert(place, (i + origin, at + 3, score, size))
    return found + [interval[:2] for interval in perfect]


# ---------------------------------------------------------------- composition


def find_gc_thirds(codes: _Codes) -> tuple[Bools, Bools, Bools]:
    """Where local GC is in the lower, middle and upper third of this window's; N is neither."""
    known = np.convolve(codes < 4, np.ones(_GC_BOX), "full")[_GC_BOX // 2 :][: len(codes)]
    strong = np.convolve((codes == 1) | (codes == 2), np.ones(_GC_BOX), "full")[_GC_BOX // 2 :][: len(codes)]
    gc = np.rint(strong) / np.maximum(np.rint(known), 1)
    is_base = codes < 4
    if not is_base.any():
        return is_base, is_base, is_base
    low, high = np.quantile(gc[is_base], [1 / 3, 2 / 3])
    poor, rich = is_base & (gc < low), is_base & (gc > high)
    return poor, is_base & ~poor & ~rich, rich


# ---------------------------------------------------------------- open reading frames


@cache
def _codons(table: int) -> tuple[Bools, Bools]:
    """Which of 125 codons (digits of base 5, 4 = N) are starts, and which stops or unknown."""
    from Bio.Data import CodonTable

    try:
        code = CodonTable.unambiguous_dna_by_id[table]
    except KeyError:
        known = ", ".join(map(str, sorted(CodonTable.unambiguous_dna_by_id)))
        raise WyrError(f"no genetic code {table}; NCBI numbers {known}") from None
    starts, stops = np.zeros(125, np.bool_), np.zeros(125, np.bool_)
    for number, letters in enumerate(product("ACGTN", repeat=3)):
        codon = "".join(letters)
        starts[number] = codon in code.start_codons and codon not in code.stop_codons
        stops[number] = codon in code.stop_codons or "N" in codon
    return starts, stops


def find_orfs(codes: _Codes, table: int = 11) -> Bools:
    """Open reading frames of :data:`MIN_ORF_BP` or more, on either strand, their stop codons included.

    ``table``: NCBI's number of the genetic code; its alternative start codons count.  At the ends of the
    window a frame needs no start and no stop.  N ends a frame.  Raises WyrError for an unknown code.
    """
    n = len(codes)
    reverse = np.where(codes < 4, 3 - codes, 4)[::-1].astype(np.uint8)
    forward = [place for frame in range(3) for place in _open_frames(codes, frame, table)]
    backward = [(n - b, n - a) for frame in range(3) for a, b in _open_frames(reverse, frame, table)]
    return paint(n, forward + backward)


def _open_frames(codes: _Codes, frame: int, table: int) -> list[tuple[int, int]]:
    starts, stops = _codons(table)
    n_codons = (len(codes) - frame) // 3
    if 3 * n_codons < MIN_ORF_BP:
        return []
    letters = codes[frame : frame + 3 * n_codons].reshape(-1, 3).astype(np.int64)
    numbers = letters @ np.array([25, 5, 1])
    is_start = np.flatnonzero(starts[numbers])
    has_n = (letters == 4).any(1)
    ends = [-1, *np.flatnonzero(stops[numbers]).tolist(), n_codons]
    found = []
    for before, end in pairwise(ends):
        first = before + 1
        if before >= 0:  # not open at the window's start
            at = int(np.searchsorted(is_start, first))
            if at == len(is_start) or is_start[at] >= end:
                continue
            first = int(is_start[at])
        # A frame that the window cuts goes to its last base, one that N ends has no stop.
        cut = end == n_codons
        stop = len(codes) if cut else frame + 3 * (end if has_n[end] else end + 1)
        start = 0 if before < 0 else frame + 3 * first
        if stop - start >= MIN_ORF_BP:
            found.append((start, stop))
    return found


# ---------------------------------------------------------------- ribosomal RNA


class Site(NamedTuple):
    """A conserved site of the small-subunit rRNA gene, on the gene's strand (IUPAC codes).

    ``at``: its first base in *E. coli* (from 1).
    """

    name: str
    at: int
    motif: str


SITES = (
    Site("EukA", 1, "AACCTGGTTGATCCTGCCAGT"),
    Site("21F", 2, "TTCCGGTTGATCCYGCCGGA"),
    Site("27F", 8, "AGAGTTTGATCMTGGCTCAG"),
    Site("515F", 515, "GTGYCAGCMGCCGCGGTAA"),
    Site("806R", 787, "ATTAGAWACCCBNGTAGTCC"),
    Site("926R", 907, "AAACTYAAAKRAATTGRCGG"),
    Site("1391R", 1391, "TGYACACACCGCCCGTC"),
    Site("1492R", 1492, "AAGTCGTAACAAGGTARCC"),
)
"""Sites of primers, called like them: universal (Lane 1991; Parada et al. 2016; Apprill et al. 2015) and, at
the gene's start, of bacteria (27F), archaea (21F, DeLong 1992) and eukaryotes (EukA, Medlin et al. 1988)."""

_IUPAC = dict(
    zip("ACGTRYSWKMBDHVN", (1, 2, 4, 8, 5, 10, 6, 9, 12, 3, 14, 13, 11, 7, 15), strict=True)  # bits A C G T
)
_MOST_MISMATCHES = 1
_SHORTEST, _LONGEST = 0.8, 1.6  # distance between sites over that in E. coli; 18S has longer loops


def find_rrna(codes: _Codes, sites: Sequence[Site] = SITES) -> Bools:
    """Small-subunit rRNA, from the first to the last site of a chain; see the top of this module."""
    n = len(codes)
    bits = np.where(codes < 4, 1 << codes.astype(np.int64), 0).astype(np.uint8)
    # The other strand: bits in the other order, A against T.
    turned = np.array([int(f"{b:04b}"[::-1], 2) for b in range(16)], np.uint8)[bits][::-1]
    forward = _chain(bits, sites)
    return paint(n, forward + [(n - b, n - a) for a, b in _chain(turned, sites)])


def _chain(bits: _Codes, sites: Sequence[Site]) -> list[tuple[int, int]]:
    """Spans of neighbouring sites on one strand, in order and at the right distance."""
    hits = sorted((at, site) for site in sites for at in _matches(bits, site.motif))
    spans = []
    for i, (first, site) in enumerate(hits):
        for at, other in hits[i + 1 :]:
            distance = other.at - site.at
            if distance > 0 and _SHORTEST * distance <= at - first <= _LONGEST * distance:
                spans.append((first, at + len(other.motif)))
    return spans


def _matches(bits: _Codes, motif: str) -> list[int]:
    n = len(bits) - len(motif) + 1
    if n <= 0:
        return []
    misses = np.zeros(n, np.uint8)
    for i, letter in enumerate(motif):
        misses += (bits[i : i + n] & _IUPAC[letter]) == 0
    at: list[int] = np.flatnonzero(misses <= _MOST_MISMATCHES).tolist()
    return at


# ---------------------------------------------------------------- all of them


def _ends(codes: _Codes) -> Bools:
    n, tenth = len(codes), len(codes) // 10
    return paint(n, [(0, tenth), (n - tenth, n)])


FEATURES = (
    "open reading frame",
    "SSU rRNA (primers)",
    "low complexity",
    "tandem repeat",
    "homopolymer",
    "GC-poor third",
    "GC-middle third",
    "GC-rich third",
    "N",
    "window ends",
)
"""In the order of the rows of :func:`find_features`."""


def find_features(sequence: str, table: int = 11) -> Bools:
    """All :data:`FEATURES` of a window: bool (features, L).  ``table``: genetic code of the frames."""
    codes = encode(sequence)
    return np.stack(
        [
            find_orfs(codes, table),
            find_rrna(codes),
            find_dust(codes),
            find_tandem_repeats(codes),
            find_homopolymers(codes),
            *find_gc_thirds(codes),
            codes == 4,
            _ends(codes),
        ]
    )
