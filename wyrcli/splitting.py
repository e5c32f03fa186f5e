"""Which windows train, which validate, which test.

A split is drawn over *units* that are never divided (windows, genomes or whole taxa), within *classes*
among which the shares are spread evenly.  What a unit draws depends on the seed and on the unit's own
key, through integer arithmetic alone: the same on any machine, with any version of any library.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["TEST", "TRAIN", "VALIDATION", "apportion", "draw_split", "key_of", "mix", "places_within"]

TRAIN = 0
VALIDATION = 1
TEST = 2


def mix(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A random-looking 64-bit number for each key, another one for another seed.

    Finaliser of SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195).
    """
    stream = np.uint64(int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big"))
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        z = keys + stream
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def key_of(text: str) -> int:
    """A 64-bit key of a text, for :func:`mix`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def apportion(seats: int, sizes: NDArray[np.int64], limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Share out seats among classes in proportion to their sizes, by largest remainder.

    Parameters
    ----------
    seats: how many there are.
    sizes: int64 (K,), of the classes.
    limits: int64 (K,), the most seats a class can take; what one cannot take goes to the others.

    Returns
    -------
    int64 (K,), seats of each class; their sum is ``seats``, or that of ``limits`` if it is smaller.
    Of equal remainders, the class that comes first wins.
    """
    total = max(int(sizes.sum()), 1)
    quotas = seats * sizes  # in units of 1 / total seats, so that nothing is rounded
    taken = np.minimum(quotas // total, limits)
    left = min(seats, int(limits.sum())) - int(taken.sum())
    while left > 0:
        remainder = np.where(taken < limits, quotas - taken * total, -np.iinfo(np.int64).max)
        order = np.argsort(-remainder, kind="stable")
        winners = order[: min(left, int((taken < limits).sum()))]
        taken[winners] += 1
        left -= len(winners)
    return taken


def places_within(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For things that lie class by class: the place of each within its class, from 0.

    >>> places_within(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def draw_split(
    classes: NDArray[np.int64], keys: NDArray[np.uint64], validation: float, test: float, seed: int
) -> NDArray[np.int8]:
    """A split for each of U units.

    Parameters
    ----------
    classes: int64 (U,), class of each unit.
    keys: uint64 (U,), what the unit is known by; the order of the units has no influence if no two are
        equal.
    validation, test: shares of the units.  They hold over all units to the nearest unit, and within a
        class to about one; but every class keeps a unit for training, unless the two shares add up to 1.

    Returns
    -------
    int8 (U,): TRAIN, VALIDATION or TEST.
    """
    split = np.full(len(classes), TRAIN, dtype=np.int8)
    if not len(classes):
        return split
    sizes = np.bincount(classes).astype(np.int64)
    # Half a millionth: 0.1 + 0.9 is not quite 1 in floating point.
    for_training = np.minimum(sizes, 0 if validation + test > 1 - 5e-7 else 1)
    n_test = apportion(int(test * len(classes) + 0.5), sizes, sizes - for_training)
    n_validation = apportion(int(validation * len(classes) + 0.5), sizes, sizes - for_training - n_test)
    order = np.lexsort((mix(keys, seed), classes))
    place = places_within(sizes)
    held = classes[order]
    split[order[place < n_test[held]]] = TEST
    split[order[(place >= n_test[held]) & (place < (n_test + n_validation)[held])]] = VALIDATION
    return split
