"""Prints the k-mers that are most enriched in the relevant chunks of one genus, to be looked at by eye.

python scripts/class_motifs.py Escherichia --data dataset --model checkpoint > motifs.tsv

The masks are those of the genus itself, on windows that belong to it.  A k-mer counts as relevant if all of
its bases are; it is joined with its reverse complement.  Expected is its share of all k-mers of the same
windows times the number of relevant ones.  TSV: k-mer, its reverse complement, relevant, expected, fold, z,
and in how many windows and genomes it is relevant.  z orders; it is no test, as k-mers overlap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wyrcli.checkpoint import default_model, load_checkpoint, load_explainer
from wyrcli.dataset import Dataset, read_windows
from wyrcli.enrichment import spread_mask
from wyrcli.examination import Subject, examine
from wyrcli.features import encode

_TURN = str.maketrans("ACGT", "TGCA")


def number_kmers(sequence: str, k: int) -> NDArray[np.int64]:
    """Of each k-mer the smaller of its number and its reverse complement's; -1 with N: int64 (L - k + 1,)."""
    codes = encode(sequence).astype(np.int64)
    n = max(len(codes) - k + 1, 0)
    forward, backward, known = np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n, np.bool_)
    for i in range(k):
        own = codes[i : i + n]
        forward = 4 * forward + own
        backward += (3 - own) * 4**i
        known &= own < 4
    return np.where(known, np.minimum(forward, backward), -1)


def write_kmer(number: int, k: int) -> str:
    """The letters of a number."""
    return "".join("ACGT"[number >> 2 * (k - 1 - i) & 3] for i in range(k))


def count_kmers(
    sequences: Sequence[str], masks: Sequence[NDArray[np.bool_]], groups: Sequence[str], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """By number of the k-mer: how often at all, how often relevant; relevant in how many windows, genomes."""
    everywhere, relevant, windows, genomes = (np.zeros(4**k, np.int64) for _ in range(4))
    seen: dict[str, set[int]] = {}
    for sequence, mask, group in zip(sequences, masks, groups, strict=True):
        numbers = number_kmers(sequence, k)
        covered = np.convolve(mask, np.ones(k, np.int64), "valid") == k if len(numbers) else mask[:0]
        everywhere += np.bincount(numbers[numbers >= 0], minlength=4**k)
        own = numbers[(numbers >= 0) & covered]
        relevant += np.bincount(own, minlength=4**k)
        windows[np.unique(own)] += 1
        seen.setdefault(group, set()).update(np.unique(own).tolist())
    for numbers_of_group in seen.values():
        genomes[list(numbers_of_group)] += 1
    return everywhere, relevant, windows, genomes


def main() -> None:
    """Read the windows of the genus, mask them, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("genus", help="taxon of the last rank")
    parser.add_argument("--data", type=Path, help="dataset; by default what the model kept aside")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--windows", type=int, default=500, help="at most so many, drawn at random")
    parser.add_argument("-k", type=int, default=8, choices=range(3, 12))
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.model or default_model())
    taxonomy, k = checkpoint.taxonomy, options.k
    if options.data is None:
        windows = read_windows(checkpoint.path / "heldout.parquet", taxonomy)
    else:
        windows = Dataset.open(options.data).split_for(options.split, taxonomy)
    if options.genus not in taxonomy.taxa[-1]:
        sys.exit(f"the model knows no {taxonomy.ranks[-1]} '{options.genus}'")
    genus = taxonomy.taxa[-1].index(options.genus)
    windows = windows.select(np.flatnonzero(windows.labels[:, -1] == genus))
    windows = windows.sample(options.windows, options.seed)
    if len(windows) == 0:
        sys.exit(f"no window of {options.genus} in the {options.split} split")
    trained = load_explainer(checkpoint.path, "state", "gate")
    subject = Subject(checkpoint.explanandum, checkpoint.tokenizer, torch.device("cpu"), 16)
    labels = windows.labels.astype(np.int64)
    examined = examine(subject, trained.explainer, windows, labels, with_answers=False)
    masks = [
        spread_mask(soft[:, -1], spans, len(sequence))
        for soft, spans, sequence in zip(examined.rank_masks, examined.spans, examined.sequences, strict=True)
    ]
    groups = [windows.groups[i] for i in range(len(windows))]
    everywhere, relevant, in_windows, in_genomes = count_kmers(examined.sequences, masks, groups, k)
    share = relevant.sum() / max(everywhere.sum(), 1)
    right = float((examined.predicted[:, -1] == genus).mean())
    print(
        f"{options.genus}: {len(windows)} windows of {len(set(groups))} genomes, {right:.0%} recognised; "
        f"{share:.1%} of {k}-mers relevant",
        file=sys.stderr,
    )
    expected = everywhere * share
    with np.errstate(divide="ignore", invalid="ignore"):
        fold = relevant / expected
        z = (relevant - expected) / np.sqrt(expected * (1 - share))
    order = np.argsort(-np.nan_to_num(np.where(in_windows >= 2, z, -np.inf), nan=-np.inf), kind="stable")
    print("kmer\treverse_complement\trelevant\texpected\tfold\tz\twindows\tgenomes")
    for i in order[: options.top].tolist():
        if z[i] > 0 and in_windows[i] >= 2:
            kmer = write_kmer(i, k)
            numbers = f"{relevant[i]}\t{expected[i]:.1f}\t{fold[i]:.2f}\t{z[i]:.1f}"
            turned = kmer.translate(_TURN)[::-1]
            print(f"{kmer}\t{turned}\t{numbers}\t{in_windows[i]}\t{in_genomes[i]}")


if __name__ == "__main__":
    main()
