"""What is in a dataset: the numbers and the picture behind ``wyr prepare --inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wyrcli.alphabets import ALPHABETS, DNA, Alphabet
from wyrcli.dataset import SPLITS, Dataset
from wyrcli.errors import WyrError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Inspection", "draw", "inspect"]


@dataclass(frozen=True, eq=False)
class Inspection:
    """Tables of a dataset.  Lengths are in the unit of its ``alphabet``; only DNA has columns about G and C.

    ``splits``: one row per split: windows, total, shortest, median and longest length, gc_low, gc and
    gc_high (5th percentile, mean and 95th percentile of the share of G and C).
    ``taxa``: per rank, one row per taxon, the most frequent first: taxon, taxid, windows per split, windows
    in all, share, length (median), gc (mean).
    ``windows``: one row per window: split, length, gc, and one categorical column per rank.
    """

    alphabet: Alphabet
    splits: pd.DataFrame
    taxa: dict[str, pd.DataFrame]
    windows: pd.DataFrame

    def effective_classes(self, rank: str) -> float:
        """How many equally frequent taxa would be as diverse: the exponential of Shannon's entropy."""
        share = self.taxa[rank]["share"].to_numpy(dtype=float)
        share = share[share > 0]
        return float(np.exp(-(share * np.log(share)).sum()))


def inspect(dataset: Dataset) -> Inspection:
    """Count what is there.  Raises InputError if a file of the dataset is missing."""
    import pandas as pd

    ranks = dataset.taxonomy.ranks
    alphabet = ALPHABETS[dataset.alphabet]
    own = ["gc"] if alphabet == DNA else []
    parts = []
    for split in SPLITS:
        labels = dataset.split(split).labels
        path = dataset.path / f"{split}.parquet"
        part = pd.read_parquet(path, columns=["start", "stop", *own])
        if len(part) != len(labels):
            raise WyrError(f"{path}: {len(part):,} rows; {len(labels):,} windows in the arrays beside it")
        columns = {"split": pd.Categorical.from_codes([SPLITS.index(split)] * len(part), list(SPLITS))}
        columns |= {
            rank: pd.Categorical.from_codes(labels[:, r], list(dataset.taxonomy.taxa[r]))
            for r, rank in enumerate(ranks)
        }
        lengths = {"length": part["stop"] - part["start"]}
        parts.append(pd.DataFrame({**lengths, **part[own], **columns}))
    windows = pd.concat(parts, ignore_index=True)

    by_split = windows.groupby("split", observed=False)
    splits = pd.DataFrame(
        {
            "windows": by_split.size(),
            "total": by_split["length"].sum(),
            "shortest": by_split["length"].min(),
            "median": by_split["length"].median(),
            "longest": by_split["length"].max(),
        }
    )
    if own:
        splits["gc_low"] = by_split["gc"].quantile(0.05)
        splits["gc"] = by_split["gc"].mean()
        splits["gc_high"] = by_split["gc"].quantile(0.95)
    taxa = {}
    for r, rank in enumerate(ranks):
        by_taxon = windows.groupby(rank, observed=False)
        table = windows.groupby([rank, "split"], observed=False).size().unstack("split")
        table.columns = list(SPLITS)  # plain, so that columns can be added
        table["windows"] = by_taxon.size()
        table["share"] = table["windows"] / max(len(windows), 1)
        table["length"] = by_taxon["length"].median()
        if own:
            table["gc"] = by_taxon["gc"].mean()
        taxids = dataset.taxonomy.taxids[r] if dataset.taxonomy.taxids else (0,) * len(table)
        table.insert(0, "taxid", taxids)
        table = table.rename_axis("taxon").reset_index()
        taxa[rank] = table.sort_values("windows", ascending=False, kind="stable", ignore_index=True)
    return Inspection(alphabet, splits, taxa, windows)


def draw(found: Inspection, path: Path) -> None:
    """Write a picture: lengths, GC and the balance of the classes.  Raises WyrError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise WyrError("a picture needs matplotlib: pip install 'wyrcli[plots]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(SPLITS, ("#0072B2", "#E69F00", "#009E73"), strict=True))  # Okabe and Ito
    names = ("lengths", "gc", "balance") if found.alphabet == DNA else ("lengths", "balance")
    figure, row = plt.subplots(1, len(names), figsize=(13 / 3 * len(names), 3.8), layout="constrained")
    axes = dict(zip(names, row, strict=True))
    lengths, balance = axes["lengths"], axes["balance"]
    present = [split for split in SPLITS if found.splits.loc[split, "windows"]]
    parts = {split: found.windows[found.windows["split"] == split] for split in present}
    style = {"histtype": "step", "density": True, "lw": 1.5}
    longest = int(found.windows["length"].max())
    for split, part in parts.items():
        label = f"{split} ({len(part):,})"
        bins = {"bins": 50, "range": (0, longest + 1)}
        lengths.hist(part["length"], color=colours[split], label=label, **bins, **style)
        if "gc" in axes:
            axes["gc"].hist(part["gc"], bins=50, range=(0, 1), color=colours[split], **style)
    unit = found.alphabet.unit
    lengths.set(xlabel=f"window length ({unit})", ylabel="density of windows", yscale="log")
    lengths.legend(loc="upper left", frameon=False)
    if "gc" in axes:
        axes["gc"].set(xlabel="share of G and C", ylabel="density of windows", xlim=(0, 1))
    for (rank, table), line in zip(
        found.taxa.items(), ("-", "--", ":", "-.") * len(found.taxa), strict=False
    ):
        sizes = table["windows"].to_numpy()
        label = f"{rank} ({len(sizes):,})"
        balance.plot(np.arange(1, len(sizes) + 1), sizes, line, color="black", marker=".", ms=3, label=label)
    balance.set(xlabel="taxon, by frequency", ylabel="windows", xscale="log", yscale="log")
    balance.legend(loc="lower left", frameon=False)
    for axis in axes.values():
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
