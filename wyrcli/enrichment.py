"""Are the relevant chunks of windows enriched in features of the genome?

For each feature and each taxon of a rank, and for all windows together:

*fold*     the share of relevant bases that lie in the feature, over the share of all bases that do;
*shifted*  the relevant bases in the feature, over how many they are on average after each window's rounded
           mask was rotated within its window by every possible offset.  A rotation keeps the mask's area and
           its runs, and windows stay what they are: only what is enriched **within** windows is left.  In
           *fold* there is besides, that some windows have both more of the feature and a larger mask.

``z`` and ``p`` compare the overlap with that of rotated masks: mean and variance over all rotations are known
exactly; ``p`` is two-sided from ``shifts`` random ones, so that 1 / (shifts + 1) is the least; ``q`` is
adjusted over all tests (Benjamini and Hochberg 1995).  They speak of these windows.  The 95 % intervals speak
of other genomes: a bootstrap of genomes, and of windows within each (Field and Welsh 2007).

A rotation does not keep the distance to the window's ends.  Where a mask prefers the ends or the middle,
features that do so as well seem enriched: open reading frames of 300 bp are cut there.  So ``placed`` says
what *shifted* would be from that alone, for a mask that knows its place in the window and nothing else.  It
comes from the masks of the other windows, bin by bin; only a *shifted* well beyond it is about the feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.annotations import Annotations
from wyrcli.errors import counted
from wyrcli.examination import EvaluatedWindows, Examined
from wyrcli.features import FEATURES, find_features
from wyrcli.metrics import adjust_p, number_groups
from wyrcli.result_tables import Cell, Column, Table

__all__ = [
    "Enrichment",
    "Tally",
    "Track",
    "adjust",
    "as_json",
    "by_taxon",
    "enrichment_table",
    "list_tracks",
    "spread_mask",
    "tally_windows",
]

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]

_DRAWS = 1000  # of the bootstrap
_BINS = 50  # of a window, along its length
_BLOCK = 2_000_000  # numbers of windows by draws that are held at once
_FEW_GENOMES = 5
_TOGETHER = "all"


class Track(NamedTuple):
    """A feature, and whether an annotation tells of it or the sequence itself."""

    name: str
    source: Literal["annotation", "sequence"]


@dataclass(frozen=True)
class Enrichment:
    """One feature in the windows of one taxon, or of all (``taxon`` is '').

    ``genomes``, ``windows``: that were tested, i.e. whose record the annotation knows; ``present``: windows
    that have the feature.  ``of_bases``, ``of_relevant``: shares of bases that are in the feature.  ``fold``,
    ``shifted`` (with 95 % intervals), ``placed``, ``z``, ``p``, ``q``: see the top of this module.  NaN where
    there is nothing to measure, as if no window has the feature.
    """

    taxon: str
    track: Track
    genomes: int
    windows: int
    present: int
    of_bases: float
    of_relevant: float
    fold: float
    fold_interval: tuple[float, float]
    shifted: float
    shifted_interval: tuple[float, float]
    placed: float
    z: float
    p: float
    q: float = math.nan

    @property
    def log2(self) -> float:
        """Of ``shifted``; -inf where the relevant chunks have none of the feature."""
        return math.log2(self.shifted) if self.shifted > 0 else -math.inf if self.shifted == 0 else math.nan


class Tally:
    """Counts window by window: in memory are some bytes for each window and feature, and no sequence.

    Parameters
    ----------
    tracks: F features.
    shifts: random rotations of each window's mask.
    seed: of rotations and bootstrap; a window's rotations depend on it and the window's number alone.
    """

    def __init__(self, tracks: Sequence[Track], shifts: int = 1000, seed: int = 0) -> None:
        self.tracks = tuple(tracks)
        self._shifts = shifts
        self._seed = seed
        self._taxa: list[str] = []
        self._groups: list[str] = []
        self._sizes: list[tuple[int, int]] = []  # bases, relevant ones
        self._known: list[Bools] = []
        self._inside: list[NDArray[np.int32]] = []  # bases in each feature
        self._both: list[NDArray[np.int32]] = []  # relevant ones
        self._variance: list[NDArray[np.float32]] = []  # of the latter, over rotations
        self._rotated: dict[str, Doubles] = {}  # by taxon, (F, shifts): sums over windows
        self._places: dict[str, _Places] = {}

    def __len__(self) -> int:
        return len(self._taxa)

    def add(self, taxon: str, group: str, mask: Bools, features: Bools, known: Bools | None = None) -> None:
        """One window: its mask (L,) and features (F, L).

        ``group``: its genome.  ``known`` (F,): of which features it can tell; where not, it does not count.
        """
        n = len(mask)
        if features.shape != (len(self.tracks), n) or n == 0:
            raise ValueError(f"features {features.shape} for {len(self.tracks)} tracks and {n} bases")
        known = np.ones(len(features), np.bool_) if known is None else known
        features = features & known[:, None]
        # Overlap after a rotation by s: sum over i of feature[i] * mask[i - s], for all s at once.
        spectra = np.fft.rfft(features, axis=1) * np.conj(np.fft.rfft(mask))
        overlaps = np.rint(np.fft.irfft(spectra, n, axis=1))
        offsets = np.random.default_rng([self._seed, len(self)]).integers(n, size=self._shifts)
        if taxon not in self._rotated:
            self._rotated[taxon] = np.zeros((len(self.tracks), self._shifts))
            self._places[taxon] = _Places.empty(len(self.tracks))
        self._rotated[taxon] += overlaps[:, offsets]
        self._places[taxon] += _Places.of(mask, features)
        self._taxa.append(taxon)
        self._groups.append(group)
        self._sizes.append((n, int(mask.sum())))
        self._known.append(known)
        self._inside.append(features.sum(1, dtype=np.int32))
        self._both.append((features & mask).sum(1, dtype=np.int32))
        self._variance.append(overlaps.var(1).astype(np.float32))

    def results(self) -> list[Enrichment]:
        """For each taxon by name, and for all together if there are several: each feature."""
        if not len(self):
            return []
        taxa = np.array(self._taxa, object)
        sizes = np.array(self._sizes, np.float64)
        known: Bools = np.array(self._known)
        inside: NDArray[np.int32] = np.array(self._inside)
        both: NDArray[np.int32] = np.array(self._both)
        variance = np.array(self._variance, np.float64)
        names = sorted(set(self._taxa))
        found: list[Enrichment] = []
        for name in [*names, ""] if len(names) > 1 else names:
            rows = np.flatnonzero(taxa == name) if name in self._rotated else np.arange(len(taxa))
            rotated = self._rotated[name] if name in self._rotated else sum(self._rotated.values())
            groups = number_groups([f"{self._taxa[i]}\t{self._groups[i]}" for i in rows])
            stats = _Counts.of(sizes[rows], known[rows], inside[rows], both[rows])
            places = [self._places[name]] if name in self._places else list(self._places.values())
            placed = sum(places, _Places.empty(len(self.tracks))).folds()
            found += self._test(name, stats, groups, variance[rows], known[rows], np.asarray(rotated), placed)
        return adjust(found)

    def _test(
        self,
        taxon: str,
        stats: _Counts,
        groups: NDArray[np.int64],
        variance: Doubles,
        known: Bools,
        rotated: Doubles,
        placed: Doubles,
    ) -> list[Enrichment]:
        total = stats.sum()
        fold, shifted = total.folds()
        rng = np.random.default_rng([self._seed, len(groups)])
        bounds = _intervals(stats, groups, rng)
        results = []
        for f, track in enumerate(self.tracks):
            overlap, expected = total.both[f], total.expected[f]
            off = abs(overlap - expected)
            spread = math.sqrt(variance[:, f].sum())
            as_far = int((np.abs(rotated[f] - expected) >= off - 1e-6).sum())
            measured = not math.isnan(shifted[f])
            results.append(
                Enrichment(
                    taxon,
                    track,
                    len(np.unique(groups[known[:, f]])),
                    int(known[:, f].sum()),
                    int((stats.inside[:, f] > 0).sum()),
                    _ratio(total.inside[f], total.bases[f]),
                    _ratio(overlap, total.relevant[f]),
                    float(fold[f]),
                    (float(bounds[0, 0, f]), float(bounds[1, 0, f])),
                    float(shifted[f]),
                    (float(bounds[0, 1, f]), float(bounds[1, 1, f])),
                    float(placed[f]) if measured else math.nan,
                    (overlap - expected) / spread if measured and spread > 0 else math.nan,
                    (1 + as_far) / (1 + self._shifts) if measured else math.nan,
                )
            )
        return results


@lru_cache(maxsize=16)
def _bins(length: int) -> NDArray[np.float32]:
    """Which bin each base of a window is in: (L, bins), 0 or 1."""
    return np.eye(_BINS, dtype=np.float32)[np.arange(length) * _BINS // length]


@dataclass(frozen=True)
class _Places:
    """Sums over ``n`` windows, by bin along their length.

    ``found`` (bins,): relevant bases; ``uniform`` (bins,): how many there would be if they were anywhere;
    ``inside`` (F, bins): of the latter, those in each feature; ``own`` (F, bins): that times the window's
    relevant bases.
    """

    found: Doubles
    uniform: Doubles
    inside: Doubles
    own: Doubles
    n: int

    @classmethod
    def empty(cls, n_features: int) -> _Places:
        zeros = np.zeros((n_features, _BINS))
        return cls(zeros[0], zeros[0], zeros, zeros, 0)

    @classmethod
    def of(cls, mask: Bools, features: Bools) -> _Places:
        bins = _bins(len(mask))
        area = float(mask.mean())
        found = np.asarray(mask @ bins, np.float64)
        inside = area * np.asarray(features @ bins, np.float64)
        return cls(found, area * np.asarray(bins.sum(0), np.float64), inside, inside * found, 1)

    def __add__(self, other: _Places) -> _Places:
        return _Places(
            self.found + other.found,
            self.uniform + other.uniform,
            self.inside + other.inside,
            self.own + other.own,
            self.n + other.n,
        )

    def folds(self) -> Doubles:
        """``placed`` of each feature (F,): every window is told where the others' masks are, not its own."""
        if self.n < 2:
            return np.full(len(self.inside), np.nan)
        others = self.uniform * (self.n - 1) / self.n
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.where(others > 0, (self.inside * self.found - self.own) / others, 0.0)
            return np.asarray(expected.sum(1) / self.inside.sum(1), np.float64)


@dataclass(frozen=True)
class _Counts:
    """Of windows, or of sums over them (..., F): bases, relevant ones, those in each feature, those that are
    both, and how many would be both on average over all rotations."""

    bases: Doubles
    relevant: Doubles
    inside: Doubles
    both: Doubles
    expected: Doubles

    @classmethod
    def of(cls, sizes: Doubles, known: Bools, inside: NDArray[np.int32], both: NDArray[np.int32]) -> _Counts:
        bases, relevant = sizes[:, :1] * known, sizes[:, 1:] * known
        return cls(
            bases, relevant, inside.astype(float), both.astype(float), inside * sizes[:, 1:] / sizes[:, :1]
        )

    def stacked(self) -> Doubles:
        """(..., 5, F)."""
        return np.stack([self.bases, self.relevant, self.inside, self.both, self.expected], axis=-2)

    def sum(self) -> _Counts:
        """Over windows: (F,)."""
        return _Counts(*self.stacked().sum(0))

    def folds(self) -> tuple[Doubles, Doubles]:
        """``fold`` and ``shifted``, NaN where nothing can be measured."""
        with np.errstate(divide="ignore", invalid="ignore"):
            fold = (self.both / self.relevant) / (self.inside / self.bases)
            return fold, np.where(self.expected > 0, self.both / self.expected, np.nan)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _intervals(stats: _Counts, groups: NDArray[np.int64], rng: np.random.Generator) -> Doubles:
    """95 % bounds (2, 2, F): low and high, of ``fold`` and ``shifted``; NaN for a single genome."""
    values = stats.stacked()
    n_features = values.shape[-1]
    by_group = [np.flatnonzero(groups == g) for g in range(int(groups.max()) + 1)]
    if len(by_group) < 2:
        return np.full((2, 2, n_features), np.nan)
    times = rng.multinomial(len(by_group), np.full(len(by_group), 1 / len(by_group)), size=_DRAWS)
    sums = np.zeros((_DRAWS, 5 * n_features))
    single = np.array([len(rows) == 1 for rows in by_group])
    if single.any():
        rows = np.concatenate([own for own in by_group if len(own) == 1])
        sums += times[:, single].astype(float) @ values[rows].reshape(len(rows), -1)
    for g in np.flatnonzero(~single).tolist():
        rows, size = by_group[g], len(by_group[g])
        own = values[rows].reshape(size, -1)
        step = max(1, _BLOCK // size)
        for first in range(0, _DRAWS, step):
            drawn = times[first : first + step, g] * size  # windows, as many as all copies of the genome have
            sums[first : first + step] += rng.multinomial(drawn, np.full(size, 1 / size)) @ own
    drawn_counts = _Counts(*np.moveaxis(sums.reshape(_DRAWS, 5, n_features), 1, 0))
    bounds = np.full((2, 2, n_features), np.nan)
    for kind, folds in enumerate(drawn_counts.folds()):
        for f in range(n_features):
            finite = folds[np.isfinite(folds[:, f]), f]
            # No interval worth its name: a feature that many draws lack, or that was never relevant.
            if len(finite) >= 0.9 * _DRAWS and finite.any():
                bounds[:, kind, f] = np.quantile(finite, [0.025, 0.975])
    return bounds


def adjust(results: Sequence[Enrichment]) -> list[Enrichment]:
    """The same with ``q``: p adjusted over all of them (Benjamini and Hochberg 1995)."""
    q = adjust_p(np.array([own.p for own in results], np.float64))
    return [replace(own, q=float(value)) for own, value in zip(results, q, strict=True)]


# ---------------------------------------------------------------- from windows


def spread_mask(mask: NDArray[np.floating], spans: NDArray[np.int64], length: int) -> Bools:
    """A rounded mask (T,) of tokens as one of bases (L,); ``spans`` (T, 2) are bp on the window.

    >>> spread_mask(np.array([0., 1.]), np.array([[0, 2], [2, 3]]), 3).tolist()
    [False, False, True]
    """
    edges = np.zeros(length + 1, np.int64)
    relevant = spans[mask > 0.5]
    np.add.at(edges, relevant[:, 0], 1)
    np.add.at(edges, relevant[:, 1], -1)
    return np.asarray(np.cumsum(edges)[:-1] > 0)


def list_tracks(annotations: Annotations | None, *, computed: bool = True) -> list[Track]:
    """The features of annotations, and those that are found in the sequence."""
    known = [Track(kind, "annotation") for kind in (annotations.types if annotations else ())]
    return known + ([Track(name, "sequence") for name in FEATURES] if computed else [])


def tally_windows(
    tally: Tally,
    examined: Examined,
    taxa: Sequence[str],
    annotations: Annotations | None = None,
    rank: int | None = None,
    genetic_code: int = 11,
) -> None:
    """Add examined windows to a tally whose tracks are those of :func:`list_tracks`.

    ``taxa`` (N,): under which each is counted.  ``rank``: whose masks are looked at; their maximum if None.
    """
    windows: EvaluatedWindows = examined.windows
    n_known = sum(track.source == "annotation" for track in tally.tracks)
    computed = n_known < len(tally.tracks)
    for i, sequence in enumerate(examined.sequences):
        soft = examined.masks[i] if rank is None else examined.rank_masks[i][:, rank]
        name, start = windows.names[i], int(windows.starts[i])
        parts = []
        if annotations is not None:
            parts.append(annotations.cover(name, start, start + len(sequence)))
        if computed:
            parts.append(find_features(sequence, genetic_code))
        known = np.ones(len(tally.tracks), np.bool_)
        known[:n_known] = annotations is not None and name in annotations.records
        mask = spread_mask(soft, examined.spans[i], len(sequence))
        tally.add(taxa[i], windows.groups[i], mask, np.concatenate(parts), known)


# ---------------------------------------------------------------- what comes out


def enrichment_table(results: Sequence[Enrichment], rank: str, shifts: int) -> Table:
    """A row per feature that some window has, under the taxon; the others are named in a note."""
    columns = (
        Column("feature", "feature"),
        Column("source", "from"),
        Column("windows", "windows", "count"),
        Column("of_bases", "of all bases", "percent"),
        Column("of_relevant", "of important", "percent"),
        Column("fold", "fold", "number"),
        Column("shifted", "fold over shifted", "number"),
        Column("placed", "by place", "number"),
        Column("log2", "log2", "number"),
        Column("z", "z", "number"),
        Column("p", "p", "number"),
        Column("q", "q", "number"),
    )
    shown = [own for own in results if own.present]
    rows: list[list[Cell | str | float | int | None]] = [
        [
            own.track.name,
            "file" if own.track.source == "annotation" else "bases",
            own.present,
            own.of_bases,
            own.of_relevant,
            Cell(own.fold, *own.fold_interval),
            Cell(own.shifted, *own.shifted_interval),
            own.placed,
            own.log2,
            own.z,
            own.p,
            own.q,
        ]
        for own in shown
    ]
    notes = [
        "windows: that have the feature.  fold: share of important bases in it over share of all bases; over "
        "shifted: over the mean of all rotations of each window's mask, of which log2, z, p and q are.",
        "by place: what the fold over shifted would be from the masks' place in the window alone.",
        f"p: {shifts:,} random rotations, least {1 / (shifts + 1):.2g}; q: Benjamini-Hochberg over all rows. "
        "Intervals (95 %): bootstrap of genomes and of windows within each.",
    ]
    if any(own.genomes < _FEW_GENOMES for own in shown):
        notes.append(f"Intervals from fewer than {_FEW_GENOMES} genomes say little of other genomes.")
    if any(own.track == Track(FEATURES[0], "sequence") for own in shown):
        notes.append("Open reading frames (300 bp or more) are a proxy of coding sequence.")
    present = {own.track for own in shown}
    absent = dict.fromkeys(own.track.name for own in results if own.track not in present)
    if absent:
        notes.append(f"In no window: {', '.join(absent)}.")
    most = {own.taxon: (0, 0) for own in results}
    for own in results:
        most[own.taxon] = max(most[own.taxon], (own.windows, own.genomes))
    counts = {
        taxon: f"{counted(genomes, 'genome')}, {counted(windows, 'window')}"
        for taxon, (windows, genomes) in most.items()
    }
    headings = [
        f"{f'{rank} {own.taxon}' if own.taxon else 'all windows'} ({counts[own.taxon]})" for own in shown
    ]
    return Table("enrichment", "Features in important chunks", columns, rows, headings, notes)


def as_json(results: Sequence[Enrichment]) -> list[dict[str, Any]]:
    """All numbers; null where nothing is measured."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(own) for own in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [
        {key: plain(value) for key, value in asdict(own).items() if key != "track"}
        | {"taxon": own.taxon or None, "feature": own.track.name, "source": own.track.source}
        for own in results
    ]


def by_taxon(results: Sequence[Enrichment]) -> Iterator[tuple[str, list[Enrichment]]]:
    """The results of each taxon; those of all windows are called 'all'."""
    for name in dict.fromkeys(own.taxon for own in results):
        yield name or _TOGETHER, [own for own in results if own.taxon == name]
