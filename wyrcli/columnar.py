"""Explanations as a Parquet file: a row per window and target, scores as lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from wyrcli.finding import Finding
from wyrcli.outputs import open_path
from wyrcli.writers import rank_columns

__all__ = ["ParquetWriter", "open_parquet"]

_OWN_COLUMNS = (
    *("record", "name", "start", "stop", "label", "target", "target_against", "target_probability"),
    *("chunks", "starts", "stops", "score"),
)
MAX_ROWS = 4096  # of a row group
MAX_SITES = 1 << 20  # of a row group: some 4 MB for each column of scores


class ParquetWriter:
    """Windows gathered to row groups, so that memory does not grow with the input.

    Columns: record (int64, from 0), name, start, stop (int64), label (string, null where the Explanandum is
    not sure), per rank ``<rank>`` (dictionary) and ``<rank>_probability`` (float32), target, target_against
    (string, null without one), target_probability (float32), chunks (list of start, stop, mean_mask), and
    per site lists of one length: starts, stops (int64), score and ``score_<rank>`` (float32).  So in pandas
    ``frame.explode(["starts", "stops", "score"])`` has a row per token, or base.

    Parameters
    ----------
    path: a file of its own; :meth:`close` ends it.
    ranks: of the lineages to come, from the widest to the narrowest; one that is called as another column
        is ``rank_<rank>`` here.
    """

    def __init__(self, path: str, ranks: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa = pa
        self._ranks = ranks = tuple(rank_columns(ranks, _OWN_COLUMNS))
        floats, wide = pa.list_(pa.float32()), pa.list_(pa.int64())
        chunk = pa.struct([("start", pa.int64()), ("stop", pa.int64()), ("mean_mask", pa.float32())])
        taxon = pa.dictionary(pa.int32(), pa.string())
        self.schema = pa.schema(
            [
                *(("record", pa.int64()), ("name", pa.string()), ("start", pa.int64()), ("stop", pa.int64())),
                ("label", pa.string()),
                *(field for r in ranks for field in ((r, taxon), (f"{r}_probability", pa.float32()))),
                *(("target", pa.string()), ("target_against", pa.string())),
                ("target_probability", pa.float32()),
                ("chunks", pa.list_(chunk)),
                *(("starts", wide), ("stops", wide), ("score", floats)),
                *((f"score_{r}", floats) for r in ranks),
            ]
        )
        names = [field.name for field in self.schema if pa.types.is_dictionary(field.type)]
        self._file: Any = pq.ParquetWriter(
            path,
            self.schema,
            compression="zstd",
            compression_level=1,
            # Scores hardly repeat, and positions grow: dictionaries of them cost time and space.
            use_dictionary=[*names, "label", "target", "target_against"],
            column_encoding={f"{n}.list.element": "DELTA_BINARY_PACKED" for n in ("starts", "stops")}
            | {f"{n}.list.element": "BYTE_STREAM_SPLIT" for n in ("score", *(f"score_{r}" for r in ranks))},
        )
        self._rows: list[Finding] = []
        self._sites = 0

    def write(self, finding: Finding) -> None:
        """Take one Explanation."""
        self._rows.append(finding)
        self._sites += len(finding.explanation.mask)
        if len(self._rows) >= MAX_ROWS or self._sites >= MAX_SITES:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        self._file.write_table(self._table(self._rows))
        self._rows, self._sites = [], 0

    def _table(self, rows: list[Finding]) -> Any:
        pa = self._pa
        explanations = [row.explanation for row in rows]
        windows = [e.window for e in explanations]
        offsets = np.cumsum([0, *(len(e.mask) for e in explanations)]).astype(np.int32)
        spans = np.concatenate([e.spans for e in explanations])

        def lists(values: Any) -> Any:
            return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

        targets = [e.target for e in explanations]
        columns: dict[str, Any] = {
            "record": [w.record for w in windows],
            "name": [w.name for w in windows],
            "start": [w.start for w in windows],
            "stop": [w.stop for w in windows],
            "label": [row.label for row in rows],
            "target": [None if t is None else t.name for t in targets],
            "target_against": [None if t is None or not t.against else t.against for t in targets],
            "target_probability": [None if t is None else t.probability for t in targets],
            "chunks": self._chunks(rows),
            "starts": lists(np.ascontiguousarray(spans[:, 0])),
            "stops": lists(np.ascontiguousarray(spans[:, 1])),
            "score": lists(np.concatenate([e.mask for e in explanations]).astype(np.float32, copy=False)),
        }
        for number, rank in enumerate(self._ranks):
            columns[rank] = [e.lineage[number] for e in explanations]
            columns[f"{rank}_probability"] = [e.probabilities[number] for e in explanations]
            columns[f"score_{rank}"] = lists(np.concatenate([e.rank_masks[number] for e in explanations]))
        arrays = []
        for field in self.schema:
            column = columns[field.name]
            if not isinstance(column, list):
                arrays.append(column)
            elif pa.types.is_dictionary(field.type):
                arrays.append(pa.array(column, pa.string()).dictionary_encode())
            else:
                arrays.append(pa.array(column, field.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _chunks(self, rows: list[Finding]) -> Any:
        pa = self._pa
        chunks = [chunk for row in rows for chunk in row.chunks]
        offsets = np.cumsum([0, *(len(row.chunks) for row in rows)]).astype(np.int32)
        fields = self.schema.field("chunks").type.value_type
        values = pa.StructArray.from_arrays(
            [
                pa.array([c.start for c in chunks], pa.int64()),
                pa.array([c.stop for c in chunks], pa.int64()),
                pa.array([c.mean_mask for c in chunks], pa.float32()),
            ],
            fields=list(fields),
        )
        return pa.ListArray.from_arrays(pa.array(offsets), values)

    def close(self, *, whole: bool = True) -> None:
        """Write what is held and end the file; without ``whole``, only let it go."""
        try:
            if whole:
                self._flush()
        finally:
            self._file.close()


@contextmanager
def open_parquet(path: str, ranks: Sequence[str]) -> Iterator[ParquetWriter]:
    """A writer of a file that appears whole or not at all; without a row it has its schema."""
    with open_path(path) as temporary:
        writer = ParquetWriter(temporary, ranks)
        try:
            yield writer
        except BaseException:
            writer.close(whole=False)
            raise
        writer.close()
