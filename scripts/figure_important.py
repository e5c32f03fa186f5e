"""Draws docs/important.png from real output of ``wyr explain`` on the example reads.

wyr explain data/example.fasta -o important.bed --tokens tokens.tsv
python scripts/figure_important.py important.bed tokens.tsv docs/important.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

DATA = Path(__file__).parent.parent / "data"
READS = 4
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"  # colour-blind safe (Okabe and Ito)


def main(bed: str, tokens: str, target: str) -> None:
    """Mask curve, chunks, truth and decoys of the first reads."""
    chunks = pd.read_csv(bed, sep="\t").rename(columns={"#chrom": "chrom"})
    scores = pd.read_csv(tokens, sep="\t").rename(columns={"#chrom": "chrom"})
    columns = ["chrom", "start", "end", "kind"]
    truth = pd.read_csv(DATA / "example.truth.bed", sep="\t", header=None, usecols=range(4), names=columns)
    decoys = pd.read_csv(DATA / "example.decoys.bed", sep="\t", header=None, usecols=range(4), names=columns)
    names = scores["chrom"].drop_duplicates().head(READS)
    figure, axes = plt.subplots(READS, 1, figsize=(10, 1.7 * READS), sharex=True, layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        own = scores[scores["chrom"] == name]
        axis.step(own["start"], own["score"], where="post", color="black", lw=0.8)
        axis.axhline(0.5, color=GREY, lw=0.5, ls=":")
        for table, level, color in ((chunks, -0.14, BLUE), (truth, -0.30, ORANGE), (decoys, -0.46, GREY)):
            rows = table[table["chrom"] == name]
            start, end = ("chromStart", "chromEnd") if "chromStart" in rows else ("start", "end")
            bars = list(zip(rows[start], rows[end] - rows[start], strict=True))
            axis.broken_barh(bars, (level, 0.11), color=color)
        lineage = chunks.loc[chunks["chrom"] == name, "lineage"].iloc[0]
        axis.set_title(f"{name}: {lineage}", loc="left", fontsize=9)
        axis.set_ylim(-0.5, 1.03)
        axis.set_yticks([0, 0.5, 1])
        axis.set_ylabel("mask", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("position on the read, bp", fontsize=9)
    axes[-1].set_xlim(0, scores["end"].max())
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
