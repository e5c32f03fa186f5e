"""Reads whose explanation is known: signature motifs planted in backgrounds that say nothing.

The toy taxonomy and its motifs are fixed by a constant: a classifier trained on the reads of one seed
is tested on the reads of another.

Every taxon of every rank owns one motif.  A read is an i.i.d. background whose GC content is drawn
without regard to the taxon, plus copies of the motifs of its superkingdom, phylum and genus (the truth),
plus copies of decoy motifs that are equally frequent in all taxa.  What a good mask covers is therefore
known to the base, and so is what it must leave out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import WyrError
from wyrcli.outputs import new_directory

__all__ = [
    "MOTIF_BP",
    "OUTPUTS",
    "RANKS",
    "ReadBlock",
    "SimulationCounts",
    "ToyWorld",
    "minimum_length",
    "simulate",
    "simulate_blocks",
    "toy_world",
]

RANKS = ("superkingdom", "phylum", "genus")
MOTIF_BP = 24
OUTPUTS = ("decoys.bed", "labels.tsv", "reads.fasta", "taxdump", "truth.bed")
"""What ``simulate`` writes into its output directory."""

_N_DECOYS = 4
_KINDS = len(RANKS) + 1  # the decoys are planted like a fourth rank
_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)

# Never change: every number that was reported on simulated reads hangs on this taxonomy and its motifs.
_WORLD_SEED = 20240712
_SHARED_BP = 8  # no two motifs, nor their reverse complements, have this many bases in a row in common

# Reads are drawn in blocks of this size, each from its own generator: read i depends on nothing but
# (seed, i, options), so that fewer reads are always the beginning of more reads.
_BLOCK = 1024

_TREE: dict[str, dict[str, tuple[str, str]]] = {
    "Toyarchaea": {
        "Toyhalota": ("Toyhalobium", "Toysalinarchaeum"),
        "Toythermota": ("Toythermoplasma", "Toypyrococcus"),
    },
    "Toybacteria": {
        "Toybacillota": ("Toybacillus", "Toyclostridium"),
        "Toyspirota": ("Toyspirillum", "Toyvibrio"),
    },
    "Toyeukaryota": {
        "Toymycota": ("Toymyces", "Toycandida"),
        "Toyphyta": ("Toychlorella", "Toypinus"),
    },
    "Toyviruses": {
        "Toyriboviricota": ("Toynyavirus", "Toycoronavirus"),
        "Toyuroviricota": ("Toylambdavirus", "Toytequatrovirus"),
    },
}


@dataclass(frozen=True, eq=False)
class ToyWorld:
    """The toy taxonomy and the motif of each taxon.

    Parameters
    ----------
    names: per rank of ``RANKS``, the taxa (4, 8, 16).
    taxids: their taxids.
    parents: per rank, the number of each taxon's parent in the rank above (0 for superkingdoms).
    species: per genus, (taxid, name) of its species; reads are labelled with these taxids.
    motifs: per rank, uint8 (taxa, 24), bases coded 0 to 3 for A, C, G, T.
    decoys: uint8 (4, 24).
    """

    names: tuple[tuple[str, ...], ...]
    taxids: tuple[tuple[int, ...], ...]
    parents: tuple[tuple[int, ...], ...]
    species: tuple[tuple[tuple[int, str], ...], ...]
    motifs: tuple[NDArray[np.uint8], ...]
    decoys: NDArray[np.uint8]

    def lineage(self, genus: int) -> tuple[int, int, int]:
        """Number of the superkingdom, phylum and genus within their ranks."""
        phylum = self.parents[2][genus]
        return self.parents[1][phylum], phylum, genus


class ReadBlock(NamedTuple):
    """A run of consecutive reads.

    ``first``: ordinal of the first read, from 0.  ``codes``: uint8 (B, length), bases as 0 to 3.
    ``taxa``: int64 (B, 3), number of the read's taxon in each rank.  ``taxids``: int64 (B,), of the species.
    ``planted``: int64 (P, 3), one row (read within the block, start, kind) per planted motif, sorted;
    kind is the number of the rank, or 3 for a decoy.
    """

    first: int
    codes: NDArray[np.uint8]
    taxa: NDArray[np.int64]
    taxids: NDArray[np.int64]
    planted: NDArray[np.int64]


class SimulationCounts(NamedTuple):
    """How many reads, motif copies of the reads' own taxa, and decoy copies were written."""

    reads: int
    planted: int
    decoys: int


@cache
def toy_world() -> ToyWorld:
    """The taxonomy and motifs of every simulation; always the same."""
    phyla = [(p, s) for s, children in enumerate(_TREE.values()) for p in children]
    genera = [
        (g, p)
        for p, pair in enumerate(pair for children in _TREE.values() for pair in children.values())
        for g in pair
    ]
    n_species = 2
    sizes = (len(_TREE), len(phyla), len(genera))
    motifs = _draw_motifs(sum(sizes) + _N_DECOYS)
    return ToyWorld(
        names=(tuple(_TREE), tuple(p for p, _ in phyla), tuple(g for g, _ in genera)),
        taxids=tuple(tuple(range(100 * (r + 1) + 1, 100 * (r + 1) + 1 + n)) for r, n in enumerate(sizes)),
        parents=((0,) * sizes[0], tuple(s for _, s in phyla), tuple(p for _, p in genera)),
        species=tuple(
            tuple(
                (401 + n_species * g + i, f"{name} {'primus secundus'.split()[i]}") for i in range(n_species)
            )
            for g, (name, _) in enumerate(genera)
        ),
        motifs=(
            motifs[: sizes[0]],
            motifs[sizes[0] : sizes[0] + sizes[1]],
            motifs[sizes[0] + sizes[1] : sum(sizes)],
        ),
        decoys=motifs[sum(sizes) :],
    )


def _draw_motifs(n: int) -> NDArray[np.uint8]:
    """``n`` motifs, uint8 (n, 24), with no 8-mer in common on either strand."""
    rng = np.random.default_rng(_WORLD_SEED)
    # Each base six times: a motif is told by its order, never by its composition.
    balanced = np.repeat(np.arange(4, dtype=np.uint8), MOTIF_BP // 4)
    seen: set[bytes] = set()
    motifs: list[NDArray[np.uint8]] = []
    while len(motifs) < n:
        motif = rng.permutation(balanced)
        words = [
            strand[i : i + _SHARED_BP].tobytes()
            for strand in (motif, 3 - motif[::-1])
            for i in range(MOTIF_BP - _SHARED_BP + 1)
        ]
        if len(set(words)) == len(words) and seen.isdisjoint(words):
            seen.update(words)
            motifs.append(motif)
    return np.stack(motifs)


def minimum_length(max_copies: int) -> int:
    """Shortest read, in bp, that holds all the copies it may be given.

    >>> minimum_length(4)
    384
    """
    return MOTIF_BP * _KINDS * max_copies


def simulate(
    outdir: Path,
    *,
    seed: int = 0,
    n_reads: int = 1000,
    length: int = 1500,
    mutation_rate: float = 0.05,
    max_copies: int = 4,
    force: bool = False,
) -> SimulationCounts:
    """Write simulated reads with their labels and the truth about them.

    ``outdir`` gets ``reads.fasta`` (read1, read2, ...), ``labels.tsv`` (name, taxid, superkingdom, phylum,
    genus), ``truth.bed`` and ``decoys.bed`` (BED6, in the order of the reads; column 4 is the rank whose
    motif was planted, or "decoy") and ``taxdump/`` (NCBI format).  It appears whole or not at all.

    Parameters
    ----------
    seed: of the reads; the taxonomy and the motifs never change.
    length: of every read, in bp.
    mutation_rate: chance of each planted base to be replaced by another one.
    max_copies: each of the read's three taxa, and the decoys together, get 1 to ``max_copies`` copies.
    force: replace an ``outdir`` that holds nothing but an earlier simulation.

    Raises
    ------
    WyrError: ``outdir`` has content, or an option is out of range.
    """
    _check_options(seed, n_reads, length, mutation_rate, max_copies)
    world = toy_world()
    n_planted = n_decoys = 0
    with new_directory(outdir, replace=OUTPUTS if force else ()) as directory:
        _write_taxdump(world, directory / "taxdump")
        with (
            open(directory / "reads.fasta", "wb") as reads,
            open(directory / "labels.tsv", "w", encoding="ascii", newline="\n") as labels,
            open(directory / "truth.bed", "w", encoding="ascii", newline="\n") as truth,
            open(directory / "decoys.bed", "w", encoding="ascii", newline="\n") as decoys,
        ):
            labels.write("name\ttaxid\t" + "\t".join(RANKS) + "\n")
            for block in simulate_blocks(
                seed=seed, n_reads=n_reads, length=length, mutation_rate=mutation_rate, max_copies=max_copies
            ):
                letters = _LETTERS[block.codes]
                reads.writelines(
                    b">read%d\n%b\n" % (i, row.tobytes()) for i, row in enumerate(letters, block.first + 1)
                )
                labels.writelines(
                    "\t".join([f"read{i}", str(taxid), *(world.names[r][t] for r, t in enumerate(taxa))])
                    + "\n"
                    for i, (taxid, taxa) in enumerate(
                        zip(block.taxids.tolist(), block.taxa.tolist(), strict=True), block.first + 1
                    )
                )
                own = block.planted[:, 2] < len(RANKS)
                n_planted += _write_bed(truth, block.planted[own], block.first)
                n_decoys += _write_bed(decoys, block.planted[~own], block.first)
    return SimulationCounts(n_reads, n_planted, n_decoys)


def simulate_blocks(
    *,
    seed: int = 0,
    n_reads: int = 1000,
    length: int = 1500,
    mutation_rate: float = 0.05,
    max_copies: int = 4,
) -> Iterator[ReadBlock]:
    """The reads of :func:`simulate`, in memory, a block of at most 1,024 at a time."""
    _check_options(seed, n_reads, length, mutation_rate, max_copies)
    world = toy_world()
    for number, first in enumerate(range(0, n_reads, _BLOCK)):
        block = _draw_block(world, (seed, number), length, mutation_rate, max_copies)
        n = min(_BLOCK, n_reads - first)
        yield ReadBlock(
            first,
            block.codes[:n],
            block.taxa[:n],
            block.taxids[:n],
            block.planted[block.planted[:, 0] < n],
        )


def _check_options(seed: int, n_reads: int, length: int, mutation_rate: float, max_copies: int) -> None:
    if seed < 0:
        raise WyrError(f"seed is {seed}; it must not be negative")
    if n_reads < 1:
        raise WyrError(f"{n_reads} reads were asked for; at least 1 is needed")
    if not 0 <= mutation_rate <= 1:
        raise WyrError(f"mutation rate is {mutation_rate}; it must lie between 0 and 1")
    if max_copies < 1:
        raise WyrError(f"{max_copies} copies at most were asked for; at least 1 is needed")
    if length < minimum_length(max_copies):
        raise WyrError(
            f"reads of {length} bp cannot hold {max_copies} copies of each motif; "
            f"at least {minimum_length(max_copies)} bp are needed"
        )


def _draw_block(
    world: ToyWorld, seed: tuple[int, int], length: int, mutation_rate: float, max_copies: int
) -> ReadBlock:
    """One full block; ``seed`` is that of the simulation and the number of the block."""
    rng = np.random.default_rng(seed)
    genus = rng.integers(len(world.names[2]), size=_BLOCK)
    taxa = np.array([world.lineage(g) for g in range(len(world.names[2]))], dtype=np.int64)[genus]
    species = np.array([[taxid for taxid, _ in group] for group in world.species], dtype=np.int64)
    taxids = species[genus, rng.integers(species.shape[1], size=_BLOCK)]

    # Background: C or G with the read's own probability, then which of the two.
    gc = rng.uniform(0.35, 0.65, size=(_BLOCK, 1))
    is_gc = rng.random((_BLOCK, length), dtype=np.float32) < gc
    second = rng.integers(2, size=(_BLOCK, length), dtype=np.uint8)
    codes = np.where(is_gc, 1 + second, 3 * second).astype(np.uint8)

    # Slots: max_copies for each rank and for the decoys, of which the first k are used.
    n_slots = _KINDS * max_copies
    copies = rng.integers(1, max_copies, size=(_BLOCK, _KINDS), endpoint=True)
    used = (np.arange(max_copies) < copies[:, :, None]).reshape(_BLOCK, n_slots)

    # Places: sorted gaps in what the motifs leave free, in a random order of the motifs.  Unused slots
    # come last, so that the j-th motif from the left has j motifs before it.
    order = np.argsort(np.where(used, rng.random((_BLOCK, n_slots)), 2.0), axis=1)
    n_used = used.sum(axis=1, keepdims=True)
    in_use = np.arange(n_slots) < n_used
    free = length - MOTIF_BP * n_used
    gaps = np.sort(np.where(in_use, rng.random((_BLOCK, n_slots)), 2.0), axis=1)
    starts = (gaps * (free + 1)).astype(np.int64) + MOTIF_BP * np.arange(n_slots)

    read, place = np.nonzero(in_use)
    kind = order[read, place] // max_copies
    start = starts[read, place]
    pool = np.concatenate([*world.motifs, world.decoys])
    first_of_kind = np.cumsum([0, *(len(m) for m in world.motifs)])
    decoy = rng.integers(_N_DECOYS, size=len(read))
    choice = np.where(kind == len(RANKS), decoy, taxa[read, np.minimum(kind, len(RANKS) - 1)])
    motif = pool[first_of_kind[kind] + choice]
    mutated = rng.random(motif.shape) < mutation_rate
    motif = np.where(mutated, (motif + rng.integers(1, 4, size=motif.shape, dtype=np.uint8)) % 4, motif)
    codes[read[:, None], start[:, None] + np.arange(MOTIF_BP)] = motif
    return ReadBlock(0, codes, taxa, taxids, np.stack([read, start, kind], axis=1))


def _write_bed(file: TextIO, planted: NDArray[np.int64], first: int) -> int:
    names = (*RANKS, "decoy")
    file.writelines(
        f"read{first + read + 1}\t{start}\t{start + MOTIF_BP}\t{names[kind]}\t1000\t.\n"
        for read, start, kind in planted.tolist()
    )
    return len(planted)


def _write_taxdump(world: ToyWorld, directory: Path) -> None:
    """The toy taxonomy as NCBI's four files, with one merged and one deleted taxid as examples."""
    nodes = [(1, 1, "no rank", "root")]
    for r, rank in enumerate(RANKS):
        for name, taxid, parent in zip(world.names[r], world.taxids[r], world.parents[r], strict=True):
            nodes.append((taxid, world.taxids[r - 1][parent] if r else 1, rank, name))
    for genus, group in zip(world.taxids[2], world.species, strict=True):
        nodes.extend((taxid, genus, "species", name) for taxid, name in group)

    def write(name: str, rows: list[tuple[int | str, ...]]) -> None:
        with open(directory / name, "w", encoding="ascii", newline="\n") as file:
            file.writelines("\t|\t".join(map(str, row)) + "\t|\n" for row in rows)

    directory.mkdir()
    # After the rank: embl code, division, genetic codes and flags, of which nothing here makes use.
    write("nodes.dmp", [(t, p, rank, "", 11, 1, 1, 1, 0, 1, 0, 0, "toy") for t, p, rank, _ in nodes])
    write("names.dmp", [(t, name, "", "scientific name") for t, _, _, name in nodes])
    write("merged.dmp", [(499, world.species[0][0][0])])
    write("delnodes.dmp", [(498,)])
