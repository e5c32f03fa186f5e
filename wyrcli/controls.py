"""Masks that know nothing of what they mask: a mask is worth what it does better than these.

Each control makes of the masks of N windows as many others, by one signature: the masks (T_i,), soft or
rounded; the classes that were predicted, (N, R); and a seed.  A mask *keeps* the tokens whose value is above
one half.  All controls but ``constant`` and ``everything`` keep as many tokens of each window as its own mask
(equal area), and their values are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wyrcli.examination import Floats
from wyrcli.explanation import find_runs
from wyrcli.faithfulness import top_tokens

__all__ = [
    "CONTROLS",
    "Control",
    "constant",
    "everything",
    "position_mean",
    "random_spans",
    "shifted",
    "swapped",
]

Control = Callable[[Sequence[Floats], NDArray[np.int64], int], list[Floats]]
"""Masks of N windows, their predicted classes (N, R) and a seed, to other masks of the same windows."""


def random_spans(masks: Sequence[Floats], predicted: NDArray[np.int64], seed: int) -> list[Floats]:
    """The runs of each mask and the gaps between them, in random order at a random place.

    What lies outside of the first and the last run is split between both ends anew; otherwise a mask of one
    run would have no more than two places to be.
    """
    return [_respan(mask > 0.5, np.random.default_rng([seed, i])) for i, mask in enumerate(masks)]


def _respan(kept: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    tiles = find_runs(kept)
    runs = rng.permutation([end - first for first, end in tiles if kept[first]])
    gaps = rng.permutation([end - first for first, end in tiles if not kept[first]]).astype(np.int64)
    found = np.zeros(len(kept), dtype=np.float32)
    n_inner = max(len(runs) - 1, 0)
    start = int(rng.integers(gaps[n_inner:].sum() + 1))
    for run, gap in zip(runs.astype(np.int64).tolist(), [*gaps[:n_inner].tolist(), 0], strict=False):
        found[start : start + run] = 1
        start += run + gap
    return found


def shifted(masks: Sequence[Floats], predicted: NDArray[np.int64], seed: int) -> list[Floats]:
    """Each mask rolled round by a random number of tokens, at least a quarter of its length either way.

    A run may be broken in two at the window's end, or two be joined.
    """
    found = []
    for i, kept in enumerate(_rounded(masks)):
        least = -(-len(kept) // 4)
        most = max(len(kept) - least, least)
        found.append(np.roll(kept, np.random.default_rng([seed, i]).integers(least, most + 1)))
    return found


def swapped(masks: Sequence[Floats], predicted: NDArray[np.int64], seed: int) -> list[Floats]:
    """The mask of another window, one predicted otherwise at the last rank if there is any.

    It is cut off, or repeated, to the window's length, and its highest tokens are kept, as many as the
    window's own mask keeps: so its runs grow or shrink by what a soft mask says of their borders.
    """
    donors = []
    last = predicted[:, -1]
    for i, mask in enumerate(masks):
        others = np.flatnonzero(last != last[i])
        if len(others) == 0:
            others = np.delete(np.arange(len(masks)), i)
        donor = masks[np.random.default_rng([seed, i]).choice(others)] if len(others) else mask
        donors.append(np.resize(donor, len(mask)))
    return top_tokens(donors, _areas(masks), seed)


def position_mean(masks: Sequence[Floats], predicted: NDArray[np.int64], seed: int) -> list[Floats]:
    """The highest tokens of the mean mask by position, that of all other windows, at the own area."""
    longest = max(map(len, masks), default=0)
    total, members = np.zeros(longest), np.zeros(longest)
    for mask in masks:
        total[: len(mask)] += mask
        members[: len(mask)] += 1
    means = [(total[: len(m)] - m) / np.maximum(members[: len(m)] - 1, 1) for m in masks]
    return top_tokens(means, _areas(masks), seed)


def constant(masks: Sequence[Floats], predicted: NDArray[np.int64], seed: int) -> list[Floats]:
    """The mean of each mask at each of its tokens."""
    return [np.full_like(mask, mask.mean()) if len(mask) else mask for mask in masks]


def everything(masks: Sequence[Floats], predicted: NDArray[np.int64], seed: int) -> list[Floats]:
    """All tokens."""
    return [np.ones_like(mask) for mask in masks]


CONTROLS: dict[str, Control] = {
    "random spans": random_spans,
    "shifted": shifted,
    "swapped": swapped,
    "position mean": position_mean,
    "constant": constant,
    "everything": everything,
}
"""All of them by name."""


def _rounded(masks: Sequence[Floats]) -> list[Floats]:
    return [(mask > 0.5).astype(np.float32) for mask in masks]


def _areas(masks: Sequence[Floats]) -> NDArray[np.int64]:
    return np.array([int((mask > 0.5).sum()) for mask in masks], dtype=np.int64)
