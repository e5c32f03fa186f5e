"""TF-MoDISco on the masks of a class, where the extra ``modisco`` is installed: a second opinion on motifs.

Shrikumar et al. (2018), in the implementation of tfmodisco-lite.  It knows no keywords and no backgrounds: it
clusters the stretches with the highest scores.  Its motifs are not tested, and come without a p-value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wyrcli.class_motifs import ClassRead, Motif, MotifOptions, encode, trim
from wyrcli.errors import WyrError

__all__ = ["run_modisco"]


def run_modisco(reads: Sequence[ClassRead], *, most_seqlets: int = 2000, leiden_runs: int = 2) -> list[Motif]:
    """Motifs of one class, those of the most seqlets first; none if there are too few seqlets.

    Parameters
    ----------
    reads: of the class; the mean of its scores is taken off each, because TF-MoDISco's null model wants
        contributions of both signs.  Hypothetical contributions of other letters, which a mask does not
        have, are 0.
    most_seqlets, leiden_runs: of TF-MoDISco, whose own (20,000 and 50) take hours.

    Raises WyrError where it is not installed.
    """
    try:
        from modiscolite.tfmodisco import TFMoDISco
    except ImportError:
        raise WyrError("TF-MoDISco is not installed: pip install 'wyrcli[modisco]'") from None
    codes = encode([read.sequence for read in reads])
    if codes.shape[1] < _SHORTEST:
        return []
    one_hot = (codes[..., None] == np.arange(4)).astype(np.float32)  # (N, L, 4); N has no letter
    scores = np.zeros(codes.shape, dtype=np.float32)
    for row, read in zip(scores, reads, strict=True):
        row[: len(read.sequence)] = read.scores - np.mean(read.scores) if len(read.sequence) else 0
    patterns, _ = TFMoDISco(
        one_hot=one_hot,
        hypothetical_contribs=one_hot * scores[..., None],
        max_seqlets_per_metacluster=most_seqlets,
        n_leiden_runs=leiden_runs,
        flank_size=5,
    )
    motifs = []
    for number, pattern in enumerate(patterns or [], 1):
        n_sites = len(pattern.seqlets)
        counts = np.asarray(pattern.sequence, dtype=np.float64) * n_sites
        first, end = trim(counts, np.full(4, 0.25), MotifOptions())
        motif = Motif(f"modisco_{number}", counts[first:end], n_sites=n_sites, n_reads=len(reads))
        motifs.append(motif)
    return motifs


_SHORTEST = 60  # bp; its seqlets and their flanks have 50
