"""Labelled windows on disk: what ``wyr prepare`` writes and training and evaluation read.

A dataset is a directory:

    dataset.json       format, options, what was read and dropped and why, sizes of the splits
    taxonomy.json      the taxa behind the class numbers, with their taxids
    train.parquet/     one row per window, in numbered parts: for pandas, which reads the folder, and for
                       other tools; its columns are in ``DatasetWriter``
    train.bases.npy, train.gaps.npy       the same sequences, packed (see :mod:`wyrcli.packing`)
    train.bytes.npy    instead, if they are proteins or texts: as UTF-8
    train.offsets.npy  int64 (N,), the byte in them with which each window begins
    train.lengths.npy  int32 (N,), in bp; of proteins and texts in bytes
    train.labels.npy   int32 (N, R), class number **within the rank**

and the same for ``validation`` and ``test``.  Training reads the arrays in place, never all at once.
``alphabet`` in dataset.json is dna, protein or text; all other lengths and places are in bp, residues or
characters.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli import __version__
from wyrcli.alphabets import ALPHABETS, AlphabetName
from wyrcli.errors import InputError, TaxonomyError, WyrError
from wyrcli.packing import (
    ArrayWriter,
    ByteSequences,
    ByteWriter,
    LazyStrings,
    PackedBases,
    PackedSequences,
    PackedWriter,
    packed_size,
    unpack,
)
from wyrcli.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "FILES",
    "SPLITS",
    "Dataset",
    "DatasetWriter",
    "LabelledWindows",
    "StringColumn",
    "WindowBlock",
    "read_windows",
]

SPLITS = ("train", "validation", "test")
"""In the order of the numbers of :mod:`wyrcli.splitting`."""

_FORMAT = 2
_ARRAYS = ("bases.npy", "gaps.npy", "bytes.npy", "offsets.npy", "lengths.npy", "labels.npy")
FILES = ("dataset.json", "taxonomy.json", *(f"{s}.{end}" for s in SPLITS for end in ("parquet", *_ARRAYS)))
"""All that may lie in a dataset."""

# Columns and their Arrow types.
_PLACES = {"name": "large_string", "start": "int64", "stop": "int64", "group": "large_string"}
_OTHER_COLUMNS = ("file", "taxid", "gc", "sequence")
_PART_BP = 8_000_000  # of a Parquet file: what is compressed, and later read, at once


class StringColumn(LazyStrings):
    """Many strings in two buffers.

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

    def _at(self, i: int) -> str:
        return str(self.data[self.offsets[i] : self.offsets[i + 1]].tobytes(), "utf-8")


class _Selection(LazyStrings):
    """Some strings of a sequence, in the order of ``rows``; nothing is copied."""

    def __init__(self, whole: Sequence[str], rows: NDArray[np.int64]) -> None:
        self._whole = whole
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> NDArray[np.integer[Any]] | None:
        """(N,), length of each string, None where the whole does not know them."""
        lengths = getattr(self._whole, "lengths", None)
        return None if lengths is None else lengths[self._rows]

    def _at(self, i: int) -> str:
        return self._whole[int(self._rows[i])]


class _Chain(LazyStrings):
    """The strings of several sequences, one after the other; nothing is copied."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def lengths(self) -> NDArray[np.integer[Any]] | None:
        """(N,), length of each string, None where a part does not know them."""
        lengths: list[Any] = [getattr(part, "lengths", None) for part in self._parts]
        return None if any(own is None for own in lengths) else np.concatenate(lengths)

    def _at(self, i: int) -> str:
        number = bisect_right(self._ends, i)
        return self._parts[number][i - (self._ends[number - 1] if number else 0)]


class _Places(NamedTuple):
    """Where N windows come from."""

    names: Sequence[str]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    groups: Sequence[str]


class LabelledWindows:
    """The N windows of one split.

    ``sequences``: upper case A, C, G, T, N; or amino acids and ``*``; or any text.  ``labels``: int32 (N, R),
    class number within each rank.  ``load_places`` is called when names, starts or stops are asked for, which
    training never does.
    """

    def __init__(
        self, sequences: Sequence[str], labels: NDArray[np.int32], load_places: Callable[[], _Places]
    ) -> None:
        self.sequences = sequences
        self.labels = labels
        self._load_places = load_places

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _places(self) -> _Places:
        return self._load_places()

    @property
    def names(self) -> Sequence[str]:
        """Name of each window's record."""
        return self._places.names

    @property
    def starts(self) -> NDArray[np.int64]:
        """int64 (N,), bp (residues, characters) on the record."""
        return self._places.starts

    @property
    def stops(self) -> NDArray[np.int64]:
        """int64 (N,), bp (residues, characters) on the record."""
        return self._places.stops

    @property
    def groups(self) -> Sequence[str]:
        """Genome, or else record, that each window is of: windows of one group are not independent."""
        return self._places.groups

    def sample(self, n: int, seed: int = 0) -> LabelledWindows:
        """``n`` windows drawn at random, in their old order; all if there are not more."""
        if n >= len(self):
            return self
        return self.select(np.sort(np.random.default_rng(seed).permutation(len(self))[:n]))

    def sample_evenly(self, n: int, seed: int = 0) -> LabelledWindows:
        """Some ``n`` windows: of each class of the last rank equally many or all it has, one at least."""
        order = np.random.default_rng(seed).permutation(len(self))
        labels = self.labels[order, -1]
        by_class = np.argsort(labels, kind="stable")
        _, first, members = np.unique(labels[by_class], return_index=True, return_counts=True)
        if len(self) <= n:
            return self
        numbers = range(2, int(members.max()) + 1)
        most = 1 + bisect_right(numbers, n, key=lambda number: int(np.minimum(members, number).sum()))
        kept = [by_class[at : at + most][:size] for at, size in zip(first, members, strict=True)]
        return self.select(np.sort(order[np.concatenate(kept)]))

    def select(self, rows: NDArray[np.int64]) -> LabelledWindows:
        """The windows of these numbers, in this order."""

        def load_places() -> _Places:
            groups = _Selection(self.groups, rows)
            return _Places(_Selection(self.names, rows), self.starts[rows], self.stops[rows], groups)

        return LabelledWindows(_Selection(self.sequences, rows), self.labels[rows], load_places)

    def followed_by(self, other: LabelledWindows) -> LabelledWindows:
        """These windows, and behind them others of the same classes."""

        def load_places() -> _Places:
            return _Places(
                _Chain([self.names, other.names]),
                np.concatenate([self.starts, other.starts]),
                np.concatenate([self.stops, other.stops]),
                _Chain([self.groups, other.groups]),
            )

        labels = np.concatenate([self.labels, other.labels])
        return LabelledWindows(_Chain([self.sequences, other.sequences]), labels, load_places)

    def relabelled(self, maps: Sequence[NDArray[np.int32]]) -> LabelledWindows:
        """The same windows with other class numbers: ``maps[r][old]`` is the new one at rank r.

        See :meth:`Dataset.class_maps`; -1 stands for a taxon that has no class.
        """
        labels = np.stack([new[self.labels[:, r]] for r, new in enumerate(maps)], axis=1)
        return LabelledWindows(self.sequences, labels, self._load_places)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A directory written by :class:`DatasetWriter`; see the top of this module for what is in it.

    ``window_bp``: longest window, in residues or characters if the ``alphabet`` is protein or text.
    """

    path: Path
    taxonomy: Taxonomy
    window_bp: int
    info: dict[str, Any]
    alphabet: AlphabetName = "dna"

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Read all but the windows.  Raises InputError if ``path`` is not a dataset of this format."""
        if not (path / "dataset.json").is_file():
            raise InputError("not a dataset; expected a directory made by 'wyr prepare'", path=str(path))
        about, taxa = str(path / "dataset.json"), str(path / "taxonomy.json")
        try:
            info = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
            if info["format"] != _FORMAT:
                raise InputError(
                    f"dataset format {info['format']}; this wyr reads format {_FORMAT}", path=about
                )
            window_bp = int(info["window_bp"])
            alphabet = ALPHABETS[info.get("alphabet", "dna")].name
            info["splits"] = {split: int(info["splits"][split]) for split in SPLITS}
        except KeyError as error:
            raise InputError(f"damaged: found no {error} in it", path=about) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"damaged: {error}", path=about) from None
        try:
            taxonomy = Taxonomy.load(path / "taxonomy.json")
        except FileNotFoundError:
            raise InputError("not found; the dataset is not complete", path=taxa) from None
        except (ValueError, TaxonomyError) as error:
            raise InputError(str(error), path=taxa) from None
        return cls(path, taxonomy, window_bp, info, alphabet)

    def split_for(self, name: str, taxonomy: Taxonomy) -> LabelledWindows:
        """As :meth:`split`, with the class numbers of a model's taxonomy.

        Raises InputError if the ranks differ, or if a taxon here is unknown there.
        """
        windows = self.split(name)
        maps = self.class_maps(taxonomy)
        for rank, own, numbers in zip(self.taxonomy.ranks, self.taxonomy.taxa, maps, strict=True):
            if (numbers < 0).any():
                unknown = own[int(np.argmax(numbers < 0))]
                raise InputError(f"the model knows no {rank} '{unknown}'", path=str(self.path))
        return windows if self.taxonomy.taxa == taxonomy.taxa else windows.relabelled(maps)

    def class_maps(self, taxonomy: Taxonomy) -> list[NDArray[np.int32]]:
        """Of each rank int32 (taxa,), the class in ``taxonomy`` of each taxon here, -1 where it has none.

        Taxa are the same if their taxids are, where both have one; else if their names are, as a dump may
        have merged a taxid, unless the taxid says that the name is another taxon's.  Raises InputError if
        the ranks differ.
        """
        if self.taxonomy.ranks != taxonomy.ranks:
            raise InputError(
                f"its ranks are {', '.join(self.taxonomy.ranks)}; the model's {', '.join(taxonomy.ranks)}",
                path=str(self.path),
            )
        maps = []
        for r, (own, theirs) in enumerate(zip(self.taxonomy.taxa, taxonomy.taxa, strict=True)):
            own_ids = self.taxonomy.taxids[r] if self.taxonomy.taxids else (0,) * len(own)
            their_ids = taxonomy.taxids[r] if taxonomy.taxids else (0,) * len(theirs)
            by_id = {taxid: number for number, taxid in enumerate(their_ids) if taxid}
            by_name = {name: number for number, name in enumerate(theirs)}
            numbers = [by_id.get(taxid, -1) if taxid else -1 for taxid in own_ids]
            claimed = set(numbers)
            for i, name in enumerate(own):
                if numbers[i] < 0 and by_name.get(name, -1) not in claimed:
                    numbers[i] = by_name[name]
            maps.append(np.array(numbers, dtype=np.int32))
        return maps

    def split(self, name: str) -> LabelledWindows:
        """The windows of ``train``, ``validation`` or ``test``, read in place.  Raises InputError."""
        if name not in SPLITS:
            raise InputError(f"no split '{name}'; expected one of {', '.join(SPLITS)}", path=str(self.path))
        stem = self.path / name
        try:
            offsets = np.asarray(np.load(f"{stem}.offsets.npy", mmap_mode="r"))
            lengths = np.asarray(np.load(f"{stem}.lengths.npy", mmap_mode="r"))
            labels = np.asarray(np.load(f"{stem}.labels.npy", mmap_mode="r"))
            sequences: PackedSequences | ByteSequences
            if self.alphabet == "dna":
                sequences = PackedSequences(PackedBases.open(stem), offsets, lengths)
            else:
                sequences = ByteSequences.open(stem, offsets, lengths)
        except FileNotFoundError as error:
            raise InputError("not found; the dataset is not complete", path=str(error.filename)) from None
        except (ValueError, EOFError) as error:
            raise InputError(f"the arrays of '{name}' are damaged: {error}", path=str(self.path)) from None
        n = int(self.info["splits"][name])
        shapes = (offsets.shape, lengths.shape, labels.shape)
        fits = shapes == ((n,), (n,), (n, len(self.taxonomy.ranks)))
        if not fits or (n and not sequences.is_whole()):
            raise InputError(
                f"the arrays of '{name}' do not hold the {n:,} windows of dataset.json", path=str(self.path)
            )
        table = stem.with_suffix(".parquet")
        return LabelledWindows(sequences, labels, lambda: _read_places(table))


# ---------------------------------------------------------------- Parquet


def read_windows(path: Path, taxonomy: Taxonomy, alphabet: AlphabetName = "dna") -> LabelledWindows:
    """Read one Parquet file of labelled windows into memory.

    Raises InputError if it is absent, is not such a file, lacks a column, or does not fit ``taxonomy``.
    """
    table = _read_columns(
        path, {**_PLACES, "sequence": "large_string", **dict.fromkeys(taxonomy.ranks, "string")}
    )
    labels = np.empty((len(table), len(taxonomy.ranks)), dtype=np.int32)
    for r, (rank, taxa) in enumerate(zip(taxonomy.ranks, taxonomy.taxa, strict=True)):
        number = {taxon: i for i, taxon in enumerate(taxa)}
        column = table[rank].dictionary_encode().combine_chunks()
        for taxon in column.dictionary.to_pylist():
            if taxon not in number:
                raise InputError(f"column '{rank}' has '{taxon}', which the taxonomy lacks", path=str(path))
        numbers = np.array([number[taxon] for taxon in column.dictionary.to_pylist()], dtype=np.int32)
        labels[:, r] = numbers[column.indices.to_numpy()]
    sequences = _string_column(table["sequence"])
    # Sequences go to the model as they are, so that this is the last place to find other letters.
    used = np.bincount(sequences.data, minlength=256)
    used[list(b"ACGTN")] = 0
    if alphabet == "dna" and used.any():
        raise InputError(
            f"column 'sequence' has the character {chr(int(used.argmax()))!r}; expected A, C, G, T, N",
            path=str(path),
        )
    places = _places(table)
    return LabelledWindows(sequences, labels, lambda: places)


def write_windows(path: Path, windows: LabelledWindows, taxonomy: Taxonomy) -> None:
    """Write one Parquet file of labelled windows; :func:`read_windows` reads it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "name": pa.array(list(windows.names), pa.large_string()),
        "start": pa.array(windows.starts),
        "stop": pa.array(windows.stops),
        "group": pa.array(list(windows.groups), pa.large_string()),
        "sequence": pa.array(list(windows.sequences), pa.large_string()),
    }
    for r, (rank, taxa) in enumerate(zip(taxonomy.ranks, taxonomy.taxa, strict=True)):
        columns[rank] = pa.DictionaryArray.from_arrays(windows.labels[:, r], pa.array(taxa, pa.string()))
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19)


def _read_places(path: Path) -> _Places:
    return _places(_read_columns(path, _PLACES))


def _places(table: pa.Table) -> _Places:
    names, groups = _string_column(table["name"]), _string_column(table["group"])
    return _Places(names, table["start"].to_numpy(), table["stop"].to_numpy(), groups)


def _read_columns(path: Path, types: Mapping[str, str]) -> pa.Table:
    """Some columns of a Parquet file, or of a folder with parts of one, in the order of their names.

    Raises InputError unless they are there, of these types, and full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(alias)) for name, alias in types.items()])
    tables = [schema.empty_table()]
    try:
        for part in sorted(path.iterdir()) if path.is_dir() else [path]:
            with pq.ParquetFile(part) as file:
                missing = [name for name in schema.names if name not in file.schema_arrow.names]
                if missing:
                    raise InputError(f"no column '{missing[0]}'; not labelled windows", path=str(part))
                tables.append(file.read(columns=schema.names).select(schema.names).cast(schema))
        table = pa.concat_tables(tables)
    except FileNotFoundError:
        raise InputError("not found; expected a Parquet file of labelled windows", path=str(path)) from None
    except (pa.ArrowException, ValueError) as error:
        message = str(error).splitlines()[0]
        raise InputError(f"not a Parquet file of labelled windows: {message}", path=str(path)) from None
    for name in schema.names:
        if table[name].null_count:
            raise InputError(f"column '{name}' has empty cells", path=str(path))
    return table


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


# ---------------------------------------------------------------- writing


class WindowBlock(NamedTuple):
    """n windows, column by column.

    ``names``, ``groups``: Arrow arrays of strings.  ``files``: int32 (n,), number of the input file.
    ``starts``: int64 (n,), bp on the record.  ``taxids``: int64 (n,), 0 where there is none.
    ``classes``: int32 (n, R), class number within each rank.  ``gc``: float32 (n,), share of G and C among
    A, C, G, T; None for proteins and texts.  ``lengths``: int32 (n,), in bp (residues, characters).
    ``packed``, ``gaps``: the sequences, one after the other, as
    :meth:`wyrcli.packing.PackedWriter.append_packed` takes them.  ``sizes``: for proteins and texts, whose
    ``packed`` is UTF-8: int64 (n,), the bytes of each.
    """

    names: pa.Array
    starts: NDArray[np.int64]
    files: NDArray[np.int32]
    groups: pa.Array
    taxids: NDArray[np.int64]
    classes: NDArray[np.int32]
    gc: NDArray[np.float32] | None
    lengths: NDArray[np.int32]
    packed: bytes
    gaps: NDArray[np.int64]
    sizes: NDArray[np.int64] | None = None

    def letters(self) -> pa.Array:
        """The sequences as an Arrow array of strings."""
        import pyarrow as pa

        if self.sizes is not None:
            offsets = np.append(0, np.cumsum(self.sizes))
            buffers = pa.py_buffer(offsets), pa.py_buffer(self.packed)
            return pa.LargeStringArray.from_buffers(len(self.sizes), *buffers)
        letters = unpack(np.frombuffer(self.packed, dtype=np.uint8))
        for start, stop in self.gaps.tolist():
            letters[start:stop] = ord("N")
        # What lies between two sequences is no part of them: left out, run by run, as it is rare.
        padded = np.flatnonzero(self.lengths % 4)
        following = 4 * np.cumsum(packed_size(self.lengths.astype(np.int64)))[padded]
        runs, start = [], 0
        for stop, after in zip(
            (following + (self.lengths[padded] % 4) - 4).tolist(), following.tolist(), strict=True
        ):
            runs.append(letters[start:stop])
            start = after
        text = letters if not runs else np.concatenate([*runs, letters[start:]])
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        return pa.LargeStringArray.from_buffers(len(self.lengths), pa.py_buffer(offsets), pa.py_buffer(text))


class DatasetWriter:
    """Takes the windows of a new dataset; made by :meth:`create`.

    The columns of the Parquet files: name (of the record), start, stop (0-based, half-open, bp on the
    record), group (windows of one group are on one side of the split, where the method of splitting says
    so), file (input), taxid, gc (share; not of proteins and texts), sequence, and one per rank, called like
    the rank, with the name of the taxon.

    ``info`` goes into dataset.json beside what the writer itself knows, and may be added to until the
    block of :meth:`create` ends.  ``sizes``: windows written so far, per split.
    """

    def __init__(
        self,
        directory: Path,
        taxonomy: Taxonomy,
        files: Sequence[str],
        alphabet: AlphabetName,
        stack: ExitStack,
    ) -> None:
        import pyarrow as pa

        clash = [rank for rank in taxonomy.ranks if rank in (*_PLACES, *_OTHER_COLUMNS)]
        if clash:
            raise WyrError(f"a rank cannot be called '{clash[0]}'; a column of the dataset has that name")
        self.taxonomy = taxonomy
        self.alphabet = alphabet
        self.info: dict[str, Any] = {}
        self.sizes = dict.fromkeys(SPLITS, 0)
        self._directory = directory
        self._files = pa.array(files, pa.string())
        self._taxa = [pa.array(taxa, pa.string()) for taxa in taxonomy.taxa]
        repeating = pa.dictionary(pa.int32(), pa.string())
        self._schema = pa.schema(
            [(name, pa.type_for_alias(alias)) for name, alias in _PLACES.items()]
            + [("file", repeating), ("taxid", pa.int64())]
            + ([("gc", pa.float32())] if alphabet == "dna" else [])
            + [("sequence", pa.large_string()), *((rank, repeating) for rank in taxonomy.ranks)]
        )
        # Compression takes longer than all the rest, and lets other threads run meanwhile.
        n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = stack.enter_context(ThreadPoolExecutor(n_threads))
        self._writing: deque[Future[None]] = deque()
        self._most_writing = n_threads
        self._splits = {
            split: _SplitWriter(directory / split, len(taxonomy.ranks), alphabet, stack) for split in SPLITS
        }

    @classmethod
    @contextmanager
    def create(
        cls,
        directory: Path,
        taxonomy: Taxonomy,
        *,
        window_bp: int,
        files: Sequence[str],
        alphabet: AlphabetName = "dna",
    ) -> Iterator[DatasetWriter]:
        """A writer into an empty directory, which is a dataset when the block has ended without an error.

        That nobody sees it before is up to the caller: :func:`wyrcli.outputs.new_directory`.
        ``files``: names of the input files.
        """
        with ExitStack() as stack:
            writer = cls(directory, taxonomy, files, alphabet, stack)
            yield writer
            for split in SPLITS:
                writer._start_part(split)
            while writer._writing:
                writer._writing.popleft().result()
        writer._describe(window_bp)

    def write(self, split: str, block: WindowBlock) -> None:
        """Add windows to ``train``, ``validation`` or ``test``."""
        if len(block.lengths):
            self.sizes[split] += len(block.lengths)
            self._splits[split].write(block)
            if self._splits[split].held_bp >= _PART_BP:
                self._start_part(split)

    def _start_part(self, split: str) -> None:
        """Have other threads write what a split holds; wait where they have too much to do."""
        path, blocks = self._splits[split].take_part()
        if len(self._writing) == self._most_writing:
            self._writing.popleft().result()
        self._writing.append(self._pool.submit(self._write_part, path, blocks))

    def _write_part(self, path: Path, blocks: Sequence[WindowBlock]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Dictionaries are for what repeats; of sequences one would be built in vain.
        repeating = [field.name for field in self._schema if pa.types.is_dictionary(field.type)]
        table = pa.concat_tables([self._schema.empty_table(), *map(self._to_table, blocks)])
        pq.write_table(table, path, compression="zstd", use_dictionary=[*repeating, "group", "taxid"])

    def _to_table(self, block: WindowBlock) -> pa.Table:
        import pyarrow as pa

        columns = {
            "name": block.names,
            "start": pa.array(block.starts),
            "stop": pa.array(block.starts + block.lengths),
            "file": pa.DictionaryArray.from_arrays(block.files, self._files),
            "group": block.groups,
            "taxid": pa.array(block.taxids),
            "sequence": block.letters(),
        }
        if block.gc is not None:
            columns["gc"] = pa.array(block.gc)
        for r, rank in enumerate(self.taxonomy.ranks):
            numbers = np.ascontiguousarray(block.classes[:, r])
            columns[rank] = pa.DictionaryArray.from_arrays(numbers, self._taxa[r])
        return pa.table(columns, schema=self._schema)

    def _describe(self, window_bp: int) -> None:
        content = {
            "format": _FORMAT,
            "wyr": __version__,
            "alphabet": self.alphabet,
            "window_bp": window_bp,
            "ranks": list(self.taxonomy.ranks),
            "splits": self.sizes,
            "taxonomy": self.taxonomy.source,
            **self.info,
        }
        text = json.dumps(content, indent=1) + "\n"
        (self._directory / "dataset.json").write_text(text, encoding="utf-8")
        (self._directory / "taxonomy.json").write_text(self.taxonomy.to_json(), encoding="utf-8")


class _SplitWriter:
    """The arrays of one split, and what is to go into the next part of its Parquet file."""

    def __init__(self, stem: Path, n_ranks: int, alphabet: AlphabetName, stack: ExitStack) -> None:
        enter = stack.enter_context
        self._sequences = enter(PackedWriter(stem)) if alphabet == "dna" else enter(ByteWriter(stem))
        self._offsets = enter(ArrayWriter(Path(f"{stem}.offsets.npy"), np.int64))
        self._lengths = enter(ArrayWriter(Path(f"{stem}.lengths.npy"), np.int32))
        self._labels = enter(ArrayWriter(Path(f"{stem}.labels.npy"), np.int32, (n_ranks,)))
        self._folder = stem.with_suffix(".parquet")
        self._folder.mkdir()
        self._n_parts = 0
        self._blocks: list[WindowBlock] = []
        self.held_bp = 0

    def write(self, block: WindowBlock) -> None:
        if isinstance(self._sequences, PackedWriter):
            sizes = packed_size(block.lengths.astype(np.int64))
            self._lengths.append(block.lengths)
            before, held = self._sequences.n // 4, 4 * len(block.packed)
            self._sequences.append_packed(block.packed, block.gaps)
        else:
            assert block.sizes is not None, "what is not packed tells its sizes"
            sizes = block.sizes
            self._lengths.append(sizes)
            before, held = self._sequences.n, len(block.packed)
            self._sequences.append(block.packed)
        self._offsets.append(before + np.cumsum(sizes) - sizes)
        self._labels.append(block.classes)
        self._blocks.append(block)
        self.held_bp += held

    def take_part(self) -> tuple[Path, list[WindowBlock]]:
        """Where the next part belongs, and what is in it."""
        path = self._folder / f"part-{self._n_parts:05}.parquet"
        blocks, self._blocks = self._blocks, []
        self._n_parts += 1
        self.held_bp = 0
        return path, blocks
