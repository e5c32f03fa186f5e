"""Labelled windows on disk: what ``wyr prepare`` writes and training and evaluation read.

A dataset is a directory:

    dataset.json       format, window length, ranks, seed, sizes of the splits, what was read and dropped
    taxonomy.json      the taxa behind the class numbers
    train.parquet, validation.parquet, test.parquet

Each Parquet file has one row per window: name, start, stop, group, sequence, and one int32 column per
rank, called like the rank, with the class number **within the rank**.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from wyrcli import __version__
from wyrcli.errors import InputError, TaxonomyError, WyrError
from wyrcli.outputs import new_directory
from wyrcli.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "SPLITS",
    "Dataset",
    "DatasetWriter",
    "LabelledWindow",
    "LabelledWindows",
    "StringColumn",
    "read_windows",
]

SPLITS = ("train", "validation", "test")
_FORMAT = 1
_FIXED_COLUMNS = ("name", "start", "stop", "group", "sequence")
_ROWS_PER_GROUP = 4096


class LabelledWindow(NamedTuple):
    """One row of a dataset.

    ``start`` and ``stop`` are 0-based half-open bp on the record ``name``.  Windows of one ``group`` are
    never on two sides of a split.  ``sequence`` is upper case A, C, G, T, N.  ``classes``: class number
    within its rank, per rank.
    """

    name: str
    start: int
    stop: int
    group: str
    sequence: str
    classes: tuple[int, ...]


class StringColumn(Sequence[str]):
    """Many strings in two buffers; a str is made only when it is asked for.

    ``data``: uint8, the UTF-8 bytes of all strings; string i is ``data[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.data = data
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (N,), number of bytes of each string."""
        return np.diff(self.offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        return str(self.data[self.offsets[i] : self.offsets[i + 1]].tobytes(), "utf-8")

    def take(self, rows: NDArray[np.int64]) -> StringColumn:
        """Some of the strings, copied."""
        pieces = [self.data[self.offsets[i] : self.offsets[i + 1]] for i in rows]
        ends = np.cumsum([0, *(len(piece) for piece in pieces)], dtype=np.int64)
        return StringColumn(np.concatenate([np.empty(0, np.uint8), *pieces]), ends)


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """The N windows of one split, in memory, one after the other.

    ``labels``: int64 (N, R), class number within each rank.  ``starts``, ``stops``: int64 (N,), bp on
    the record.
    """

    names: StringColumn
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    groups: StringColumn
    sequences: StringColumn
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, n: int, seed: int = 0) -> LabelledWindows:
        """``n`` windows drawn at random, in their old order; all if there are not more."""
        if n >= len(self):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:n])
        return LabelledWindows(
            self.names.take(rows),
            self.starts[rows],
            self.stops[rows],
            self.groups.take(rows),
            self.sequences.take(rows),
            self.labels[rows],
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A directory written by :class:`DatasetWriter`; see the top of this module for what is in it."""

    path: Path
    taxonomy: Taxonomy
    window_bp: int
    info: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Read all but the windows.  Raises InputError if ``path`` is not a dataset of this format."""
        if not (path / "dataset.json").is_file():
            raise InputError("not a dataset; expected a directory made by 'wyr prepare'", path=str(path))
        try:
            info = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
            if info["format"] != _FORMAT:
                raise InputError(
                    f"dataset format {info['format']}; this wyr reads format {_FORMAT}", path=str(path)
                )
            window_bp = int(info["window_bp"])
            taxonomy = Taxonomy.load(path / "taxonomy.json")
        except (ValueError, KeyError, TypeError, FileNotFoundError, TaxonomyError) as error:
            raise InputError(f"not a dataset: {error!r}", path=str(path)) from None
        return cls(path, taxonomy, window_bp, info)

    def split_for(self, name: str, taxonomy: Taxonomy) -> LabelledWindows:
        """As :meth:`split`, with the class numbers of a model's taxonomy.

        Raises InputError if the ranks differ, or if a taxon here is unknown there.
        """
        windows = self.split(name)
        if self.taxonomy.ranks != taxonomy.ranks:
            raise InputError(
                f"its ranks are {', '.join(self.taxonomy.ranks)}; the model's {', '.join(taxonomy.ranks)}",
                path=str(self.path),
            )
        labels = windows.labels.copy()
        for r, (rank, names) in enumerate(zip(self.taxonomy.ranks, self.taxonomy.taxa, strict=True)):
            known = {taxon: number for number, taxon in enumerate(taxonomy.taxa[r])}
            unknown = [taxon for taxon in names if taxon not in known]
            if unknown:
                raise InputError(f"the model knows no {rank} '{unknown[0]}'", path=str(self.path))
            labels[:, r] = np.array([known[taxon] for taxon in names])[windows.labels[:, r]]
        return replace(windows, labels=labels)

    def split(self, name: str) -> LabelledWindows:
        """The windows of ``train``, ``validation`` or ``test``.  Raises InputError."""
        if name not in SPLITS:
            raise InputError(f"no split '{name}'; expected one of {', '.join(SPLITS)}", path=str(self.path))
        return read_windows(self.path / f"{name}.parquet", self.taxonomy)


def read_windows(path: Path, taxonomy: Taxonomy) -> LabelledWindows:
    """Read one Parquet file of labelled windows.

    Raises InputError if it is absent, is not such a file, lacks a column, or does not fit ``taxonomy``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(taxonomy.ranks)
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in schema.names if name not in file.schema_arrow.names]
            if missing:
                raise InputError(f"no column '{missing[0]}'; not labelled windows", path=str(path))
            table = file.read(columns=schema.names).select(schema.names).cast(schema)
    except FileNotFoundError:
        raise InputError("not found; expected a Parquet file of labelled windows", path=str(path)) from None
    except (pa.ArrowException, ValueError) as error:
        message = str(error).splitlines()[0]
        raise InputError(f"not a Parquet file of labelled windows: {message}", path=str(path)) from None
    for name in schema.names:
        if table[name].null_count:
            raise InputError(f"column '{name}' has empty cells", path=str(path))
    labels = np.empty((len(table), len(taxonomy.ranks)), dtype=np.int64)
    for r, (rank, size) in enumerate(zip(taxonomy.ranks, taxonomy.sizes, strict=True)):
        labels[:, r] = table[rank].to_numpy()
        if len(table) and not (0 <= labels[:, r].min() and labels[:, r].max() < size):
            raise InputError(f"column '{rank}' has a class beyond the {size} of the taxonomy", path=str(path))
    windows = LabelledWindows(
        names=_string_column(table["name"]),
        starts=table["start"].to_numpy(),
        stops=table["stop"].to_numpy(),
        groups=_string_column(table["group"]),
        sequences=_string_column(table["sequence"]),
        labels=labels,
    )
    # Sequences go to the model as they are, so that this is the last place to find other letters.
    used = np.bincount(windows.sequences.data, minlength=256)
    used[list(b"ACGTN")] = 0
    if used.any():
        raise InputError(
            f"column 'sequence' has the character {chr(int(used.argmax()))!r}; expected A, C, G, T, N",
            path=str(path),
        )
    return windows


def write_windows(path: Path, windows: LabelledWindows, taxonomy: Taxonomy) -> None:
    """Write one Parquet file of labelled windows; :func:`read_windows` reads it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [windows.names, windows.starts, windows.stops, windows.groups, windows.sequences]
    columns += list(windows.labels.T)
    schema = _schema(taxonomy.ranks)
    arrays = [pa.array(list(column), type) for column, type in zip(columns, schema.types, strict=True)]
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd", compression_level=19
    )


def _string_column(column: pa.ChunkedArray) -> StringColumn:
    """One large string array's buffers, without a copy of the text where it is in one chunk."""
    import pyarrow as pa

    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.large_string())
    _, offsets, data = array.buffers()
    if offsets is None or len(array) == 0:
        return StringColumn(np.empty(0, np.uint8), np.zeros(1, np.int64))
    bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, np.uint8)
    return StringColumn(text[bounds[0] : bounds[-1]], bounds - bounds[0])


def _schema(ranks: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    clash = [rank for rank in ranks if rank in _FIXED_COLUMNS]
    if clash:
        raise WyrError(f"a rank cannot be called '{clash[0]}'; a column of the dataset has that name")
    types = (pa.large_string(), pa.int64(), pa.int64(), pa.large_string(), pa.large_string())
    return pa.schema([*zip(_FIXED_COLUMNS, types, strict=True), *((rank, pa.int32()) for rank in ranks)])


class DatasetWriter:
    """Takes the windows of a new dataset; made by :meth:`create`.

    ``info`` goes into dataset.json beside what the writer itself knows, and may be added to until the
    block of :meth:`create` ends.  ``sizes``: windows written so far, per split.
    """

    def __init__(self, directory: Path, taxonomy: Taxonomy, files: dict[str, Any]) -> None:
        self.taxonomy = taxonomy
        self.info: dict[str, Any] = {}
        self.sizes = dict.fromkeys(SPLITS, 0)
        self._directory = directory
        self._files = files
        self._schema = _schema(taxonomy.ranks)
        self._rows: dict[str, list[LabelledWindow]] = {split: [] for split in SPLITS}

    @classmethod
    @contextmanager
    def create(cls, path: Path, taxonomy: Taxonomy, *, window_bp: int) -> Iterator[DatasetWriter]:
        """A writer of ``path``, which appears, whole, when the block ends without an error.

        Raises WyrError, before anything is written, if ``path`` has content.
        """
        import pyarrow.parquet as pq

        with new_directory(path) as directory, ExitStack() as stack:
            files = {}
            for split in SPLITS:
                file = pq.ParquetWriter(
                    directory / f"{split}.parquet", _schema(taxonomy.ranks), compression="zstd"
                )
                files[split] = stack.enter_context(file)
            writer = cls(directory, taxonomy, files)
            yield writer
            writer._finish(window_bp)

    def write(self, split: str, window: LabelledWindow) -> None:
        """Add a window to ``train``, ``validation`` or ``test``."""
        rows = self._rows[split]
        rows.append(window)
        self.sizes[split] += 1
        if len(rows) == _ROWS_PER_GROUP:
            self._flush(split)

    def _flush(self, split: str) -> None:
        import pyarrow as pa

        rows = self._rows[split]
        columns: list[list[Any]] = [[row[i] for row in rows] for i in range(len(_FIXED_COLUMNS))]
        columns += [[row.classes[r] for row in rows] for r in range(len(self.taxonomy.ranks))]
        arrays = [pa.array(column, type) for column, type in zip(columns, self._schema.types, strict=True)]
        self._files[split].write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows[split] = []

    def _finish(self, window_bp: int) -> None:
        for split in SPLITS:
            self._flush(split)
        content = {
            "format": _FORMAT,
            "wyr": __version__,
            "window_bp": window_bp,
            "ranks": list(self.taxonomy.ranks),
            "splits": self.sizes,
            "taxonomy": self.taxonomy.source,
            **self.info,
        }
        text = json.dumps(content, indent=1) + "\n"
        (self._directory / "dataset.json").write_text(text, encoding="utf-8")
        (self._directory / "taxonomy.json").write_text(self.taxonomy.to_json(), encoding="utf-8")
