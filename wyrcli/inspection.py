"""What is in a dataset: the numbers and the picture behind ``wyr prepare --inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wyrcli.dataset import SPLITS, Dataset
from wyrcli.errors import WyrError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Inspection", "draw", "inspect"]


@dataclass(frozen=True, eq=False)
class Inspection:
    """Tables of a dataset.

    ``splits``: one row per split: windows, bases, shortest, median and longest window (bp), gc_low, gc and
    gc_high (5th percentile, mean and 95th percentile of the share of G and C).
    ``taxa``: per rank, one row per taxon, the most frequent first: taxon, taxid, windows per split, windows
    in all, share, bp (median length), gc (mean).
    ``windows``: one row per window: split, bp, gc, and one categorical column per rank.
    """

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
    parts = []
    for split in SPLITS:
        labels = dataset.split(split).labels
        path = dataset.path / f"{split}.parquet"
        part = pd.read_parquet(path, columns=["start", "stop", "gc"])
        if len(part) != len(labels):
            raise WyrError(f"{path}: {len(part):,} rows; {len(labels):,} windows in the arrays beside it")
        columns = {"split": pd.Categorical.from_codes([SPLITS.index(split)] * len(part), list(SPLITS))}
        columns |= {
            rank: pd.Categorical.from_codes(labels[:, r], list(dataset.taxonomy.taxa[r]))
            for r, rank in enumerate(ranks)
        }
        parts.append(pd.DataFrame({"bp": part["stop"] - part["start"], "gc": part["gc"], **columns}))
    windows = pd.concat(parts, ignore_index=True)

    by_split = windows.groupby("split", observed=False)
    splits = pd.DataFrame(
        {
            "windows": by_split.size(),
            "bases": by_split["bp"].sum(),
            "shortest": by_split["bp"].min(),
            "median": by_split["bp"].median(),
            "longest": by_split["bp"].max(),
            "gc_low": by_split["gc"].quantile(0.05),
            "gc": by_split["gc"].mean(),
            "gc_high": by_split["gc"].quantile(0.95),
        }
    )
    taxa = {}
    for r, rank in enumerate(ranks):
        by_taxon = windows.groupby(rank, observed=False)
        table = windows.groupby([rank, "split"], observed=False).size().unstack("split")
        table.columns = list(SPLITS)  # plain, so that columns can be added
        table["windows"] = by_taxon.size()
        table["share"] = table["windows"] / max(len(windows), 1)
        table["bp"] = by_taxon["bp"].median()
        table["gc"] = by_taxon["gc"].mean()
        taxids = dataset.taxonomy.taxids[r] if dataset.taxonomy.taxids else (0,) * len(table)
        table.insert(0, "taxid", taxids)
        table = table.rename_axis("taxon").reset_index()
        taxa[rank] = table.sort_values("windows", ascending=False, kind="stable", ignore_index=True)
    return Inspection(splits, taxa, windows)


def draw(found: Inspection, path: Path) -> None:
    """Write a picture: lengths, GC and the balance of the classes.  Raises WyrError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise WyrError("a picture needs matplotlib: pip install 'wyrcli[plots]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(SPLITS, ("#0072B2", "#E69F00", "#009E73"), strict=True))  # Okabe and Ito
    figure, (lengths, gc, balance) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    present = [split for split in SPLITS if found.splits.loc[split, "windows"]]
    parts = {split: found.windows[found.windows["split"] == split] for split in present}
    style = {"histtype": "step", "density": True, "lw": 1.5}
    longest = int(found.windows["bp"].max())
    for split, part in parts.items():
        label = f"{split} ({len(part):,})"
        lengths.hist(part["bp"], bins=50, range=(0, longest + 1), color=colours[split], label=label, **style)
        gc.hist(part["gc"], bins=50, range=(0, 1), color=colours[split], **style)
    lengths.set(xlabel="window length (bp)", ylabel="density of windows", yscale="log")
    lengths.legend(loc="upper left", frameon=False)
    gc.set(xlabel="share of G and C", ylabel="density of windows", xlim=(0, 1))
    for (rank, table), line in zip(
        found.taxa.items(), ("-", "--", ":", "-.") * len(found.taxa), strict=False
    ):
        sizes = table["windows"].to_numpy()
        label = f"{rank} ({len(sizes):,})"
        balance.plot(np.arange(1, len(sizes) + 1), sizes, line, color="black", marker=".", ms=3, label=label)
    balance.set(xlabel="taxon, by frequency", ylabel="windows", xscale="log", yscale="log")
    balance.legend(loc="lower left", frameon=False)
    for axis in (lengths, gc, balance):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
