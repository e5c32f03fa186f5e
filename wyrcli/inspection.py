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
    from matplotlib.axes import Axes

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
    figure, row = plt.subplots(1, len(names), figsize=(13 / 3 * len(names), 4.4), layout="constrained")
    axes = dict(zip(names, row, strict=True))
    present = [split for split in SPLITS if found.splits.loc[split, "windows"]]
    parts = {split: found.windows[found.windows["split"] == split] for split in present}
    _draw_lengths(axes["lengths"], parts, colours)
    if "gc" in axes:
        for split, part in parts.items():
            style = {"histtype": "step", "density": True, "lw": 1.5, "color": colours[split]}
            axes["gc"].hist(part["gc"], bins=50, range=(0, 1), **style)
        axes["gc"].set(xlabel="share of G and C", ylabel="density of windows", xlim=(0, 1))
    _draw_balance(axes["balance"], found.taxa)
    axes["lengths"].set_xlabel(f"window length ({found.alphabet.unit})")
    for axis in axes.values():
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:  # above, where it covers nothing
            axis.legend(
                loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=1 + len(found.taxa) // 4
            )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_lengths(axis: Axes, parts: dict[str, pd.DataFrame], colours: dict[str, str]) -> None:
    """Bars side by side: of one length, which is common, outlines would lie on each other."""
    longest = max(int(part["length"].max()) for part in parts.values())
    axis.hist(
        [part["length"] for part in parts.values()],
        bins=20,
        range=(0, longest + 1),
        weights=[np.full(len(part), 1 / len(part)) for part in parts.values()],
        color=[colours[split] for split in parts],
        label=[f"{split} ({len(part):,})" for split, part in parts.items()],
    )
    # One window alone is still to be seen.
    fewest = 1 / max(map(len, parts.values()))
    axis.set(ylabel="share of windows", yscale="log", ylim=(fewest / 2, 2))


def _draw_balance(axis: Axes, taxa: dict[str, pd.DataFrame]) -> None:
    """Windows of each taxon, a line per rank; markers at its ends show a rank of one taxon, too."""
    from matplotlib.ticker import NullFormatter

    sizes = [table["windows"].to_numpy() for table in taxa.values()]
    for i, (rank, counts) in enumerate(zip(taxa, sizes, strict=True)):
        axis.plot(
            np.arange(1, len(counts) + 1),
            counts,
            ("-", "--", ":", "-.")[i % 4],
            color="black",
            marker="os^Dv<>"[i % 7],
            markevery=[0, len(counts) - 1],
            markersize=11 - 7 * i / len(sizes),  # one inside of the other, where they meet
            fillstyle="none",
            label=f"{rank} ({len(counts):,})",
        )
    widest = max(map(len, sizes))
    # Whole powers of ten, as only these have a number at the axis.
    lowest, highest = np.floor(np.log10([min(map(min, sizes)), max(map(max, sizes))]))
    limits = 10**lowest / 1.5, 10 ** (highest + 1) * 1.5
    axis.set(xlabel="taxon, by frequency", ylabel="windows", xscale="log", yscale="log", ylim=limits)
    axis.set_xlim(0.8, 10.0 ** max(1, np.ceil(np.log10(widest))) * 1.25)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter("{x:,.0f}")
        one.set_minor_formatter(NullFormatter())
