"""All outputs of a run behind one object, which takes each Explanation once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from wyrcli.coverage import open_coverage
from wyrcli.errors import WyrError, printable
from wyrcli.explanation import Explanation
from wyrcli.finding import Finding
from wyrcli.formats import Format, Settings, Sink, find_format, open_format
from wyrcli.indexing import choose_index
from wyrcli.kraken import KrakenWriter, open_kraken
from wyrcli.lifting import LiftCounts, LiftWriter
from wyrcli.motifs import onehot_path
from wyrcli.outputs import MakeIndex, TextOutput, open_output
from wyrcli.waiting import Skipped, WaitingRecords
from wyrcli.writers import PredictionsWriter, TokensWriter, bed_unsafe, safe_text

__all__ = ["Requests", "ResultCounts", "Results", "open_results"]


@dataclass(frozen=True)
class Requests:
    """The outputs that were asked for; paths, ``-`` is standard output.

    Parameters
    ----------
    outputs: their extensions say in which format, see :func:`wyrcli.formats.find_format`.
    format: name of the format of outputs without a known extension.
    tokens, predictions: the tables of these names.
    kraken_output, kraken_report: see :class:`wyrcli.kraken.KrakenWriter`.
    lift: chunks on the reference; see :class:`wyrcli.lifting.LiftWriter`.
    coverage, depth: tracks over the reference, bedGraph or bigWig; see :class:`wyrcli.coverage.Coverage`.
    safe_names: table of names; records are then called r1, r2, ... in all outputs.
    """

    outputs: Sequence[str] = ("-",)
    format: str | None = None
    tokens: str | None = None
    predictions: str | None = None
    kraken_output: str | None = None
    kraken_report: str | None = None
    lift: str | None = None
    coverage: str | None = None
    depth: str | None = None
    safe_names: str | None = None

    def named(self) -> list[str | None]:
        """Every file that was named, for :func:`wyrcli.outputs.check_outputs`."""
        names = (self.tokens, self.predictions, self.kraken_output, self.kraken_report)
        return [*self.outputs, *names, self.lift, self.coverage, self.depth, self.safe_names]

    def paths(self) -> list[str | None]:
        """Every file that will be written.  Raises as :meth:`formats`."""
        beside = [
            onehot_path(p) for p, f in zip(self.outputs, self.formats(), strict=True) if f.name == "npz"
        ]
        return [*self.named(), *beside]

    def formats(self) -> list[Format]:
        """The format of each of ``outputs``.  Raises WyrError where it is unknown or cannot be written."""
        return [find_format(path, self.format) for path in self.outputs]

    def track_formats(self) -> tuple[Format, Format]:
        """Those of ``coverage`` and ``depth``.  Raises WyrError if they are no tracks."""
        found = [find_format(path or "-", "bedgraph") for path in (self.coverage, self.depth)]
        for path, format in zip((self.coverage, self.depth), found, strict=True):
            if format.name not in ("bedgraph", "bigwig"):
                raise WyrError(
                    f"{printable(path or '', limit=300)} is to be a track; expected a name that ends in "
                    ".bedgraph, .bedgraph.gz or .bw"
                )
        return found[0], found[1]


@dataclass
class ResultCounts:
    """What was written.

    ``chunks`` that rows are about and the ``bases`` in them (each once, whatever the number of targets);
    ``unsure``: windows that no row is about; ``unsafe_windows``: with rows, and a name that is
    :func:`wyrcli.writers.bed_unsafe`.
    """

    windows: int = 0
    chunks: int = 0
    bases: int = 0
    unsure: int = 0
    unsafe_windows: int = 0


class _SafeNames:
    """Names r1, r2, ... for the records, in input order, and a table of what they stand for."""

    def __init__(self, handle: TextOutput) -> None:
        self._handle = handle
        self._last = -1
        handle.write("#safe_name\tname\n")

    def name(self, record: int, name: str) -> str:
        """The safe name of a record; its row is written the first time."""
        safe = f"r{record + 1}"
        if record != self._last:
            self._last = record
            self._handle.write(f"{safe}\t{safe_text(name)}\n")
        return safe


class Results:
    """Takes Explanations in input order, and records that were skipped; :func:`open_results` makes it.

    Several Explanations of one window, for several targets, come in a row where ``settings.with_target``.
    """

    def __init__(
        self,
        settings: Settings,
        sinks: Sequence[Sink],
        *,
        one_score: Sequence[str] = (),
        predictions: PredictionsWriter | None = None,
        kraken: KrakenWriter | None = None,
        safe_names: _SafeNames | None = None,
        lifted: LiftCounts | None = None,
    ) -> None:
        self.counts = ResultCounts()
        self.lifted = lifted
        self._settings = settings
        self._rank = settings.rank_index
        self._sinks = sinks
        self._one_score = one_score
        self._predictions, self._kraken, self._safe_names = predictions, kraken, safe_names
        self._group: list[Finding] = []
        self._skipped = WaitingRecords()
        self._wants_skipped = any(part is not None for part in (predictions, kraken, safe_names))

    def skip(self, record: int, name: str, length: int, reason: str) -> None:
        """A record without a window; another thread than that of :meth:`write` may call this.

        Parameters as ``on_skip`` of :func:`wyrcli.windows.split_windows` has them.
        """
        if self._wants_skipped:
            self._skipped.add(Skipped(record, name, length, reason))

    def begin_section(self, record: int) -> None:
        """A section begins with this record; another thread than that of :meth:`write` may say so."""
        self._settings.rows.add_border(record)

    def write(self, explanation: Explanation) -> None:
        """The next Explanation.  Raises WyrError where an output cannot hold it."""
        settings = self._settings
        finding = Finding(explanation, settings.threshold, settings.min_length, self._rank)
        if not settings.with_target:
            self._write_group([finding])
            return
        if self._group and _place(self._group[0]) != _place(finding):
            self._write_group(self._group)
            self._group = []
        self._group.append(finding)

    def _write_group(self, findings: list[Finding]) -> None:
        self._end_sections(findings[0].window.record)
        self._write_skipped(findings[0].window.record)
        if self._safe_names is not None:
            window = findings[0].window
            window = window._replace(name=self._safe_names.name(window.record, window.name))
            settings = self._settings
            findings = [
                Finding(
                    replace(finding.explanation, window=window),
                    settings.threshold,
                    settings.min_length,
                    self._rank,
                )
                for finding in findings
            ]
        if len(findings) > 1 and self._one_score:
            raise WyrError(
                f"{printable(self._one_score[0], limit=300)} has room for one score per base, and "
                f"{len(findings)} targets were asked for; write one file for each"
            )
        self._count(findings)
        for sink in self._sinks:
            sink(findings)

    def _count(self, findings: list[Finding]) -> None:
        counts = self.counts
        counts.windows += 1
        rows = [(chunk.start, chunk.stop) for finding in findings for chunk, _ in finding.named_chunks]
        counts.chunks += len(rows)
        if len(findings) == 1:
            counts.bases += sum(stop - start for start, stop in rows)
        else:
            reached = 0  # chunks that go on beyond a window would count twice
            parts = [part for finding in findings if finding.label for part in finding.relevant_parts]
            for start, stop in sorted(parts):
                counts.bases += max(stop - max(start, reached), 0)
                reached = max(reached, stop)
        counts.unsure += all(finding.label is None for finding in findings)
        counts.unsafe_windows += bool(rows) and bed_unsafe(findings[0].window.name)

    def _end_sections(self, record: int) -> None:
        rows = self._settings.rows
        while (border := rows.next_border(record)) is not None:
            self._write_skipped(border)
            rows.cut()

    def _write_skipped(self, before: float) -> None:
        while (skipped := self._skipped.take(before)) is not None:
            record, name, length, reason = skipped
            if self._safe_names is not None:
                name = self._safe_names.name(record, name)
            if self._predictions is not None:
                self._predictions.write_skipped(name, length, reason)
            if self._kraken is not None:
                self._kraken.skip(name, length)

    def finish(self) -> None:
        """Write what is held back; no Explanation may follow."""
        if self._group:
            self._write_group(self._group)
            self._group = []
        self._write_skipped(math.inf)

    def close(self) -> None:
        """Forget what is held back."""
        self._skipped.close()


def _place(finding: Finding) -> tuple[int, int, int]:
    window = finding.window
    return window.record, window.start, window.stop


class _Opening:
    """Opens the outputs one after the other; what they have in common."""

    def __init__(self, stack: ExitStack, settings: Settings) -> None:
        self.stack, self.settings = stack, settings
        self.ranks = settings.taxonomy.ranks
        self.sinks: list[Sink] = []
        self.one_score: list[str] = []
        self.endings: list[Callable[[], object]] = []

    def make_index(self, path: str | None, preset: str = "bed") -> MakeIndex | None:
        """Of an output of whose name the index is to be an addition."""
        if path is None:
            return None
        return choose_index(path, preset, self.settings.index, self.settings.warn)

    def open_rows(self, path: str, *, indexed: bool = False) -> TextOutput:
        """An output that may be one of several parts."""
        return self.settings.rows.open(self.stack, path, self.make_index(path) if indexed else None)

    def open_file(self, path: str, format: Format) -> None:
        self.sinks.append(open_format(self.stack, path, format, self.settings))
        if format.one_score:
            self.one_score.append(path)

    def open_tokens(self, path: str) -> None:
        handle = self.open_rows(path, indexed=True)
        writer = TokensWriter(handle, self.ranks, with_target=self.settings.with_target)
        self.sinks.append(writer.write_group)

    def open_predictions(self, path: str) -> PredictionsWriter:
        writer = PredictionsWriter(self.open_rows(path), self.ranks, with_target=self.settings.with_target)
        self.sinks.append(writer.write_group)
        return writer

    def open_kraken(self, output: str | None, report: str | None) -> KrakenWriter:
        handle = None if output is None else self.open_rows(output)
        writer = self.stack.enter_context(open_kraken(self.settings.taxonomy, handle, report))
        self.settings.rows.at_border(writer.end_read)
        self.sinks.append(lambda findings: writer.write(findings[0]))
        return writer

    def open_lift(self, path: str) -> LiftCounts:
        writer = LiftWriter(self.stack.enter_context(open_output(path, self.make_index(path))))
        self.sinks.append(writer.write_group)
        self.endings.append(writer.finish)
        return writer.counts

    def open_coverage(self, requests: Requests) -> None:
        paths = (requests.coverage, requests.depth)
        is_bigwig = [format.name == "bigwig" for format in requests.track_formats()]
        coverage = self.stack.enter_context(
            open_coverage(
                *paths,
                bigwig=(is_bigwig[0], is_bigwig[1]),
                make_index=(self.make_index(paths[0]), self.make_index(paths[1])),
            )
        )
        self.sinks.append(lambda findings: coverage.write(findings[0]))
        self.one_score += [path for path in paths if path is not None]


@contextmanager
def open_results(requests: Requests, settings: Settings) -> Iterator[Results]:
    """All outputs, each of which appears whole or not at all when the block ends.

    Raises WyrError on entry where one cannot be written.
    """
    with ExitStack() as stack:
        opening = _Opening(stack, settings)
        predictions = kraken = lifted = safe_names = None
        for path, format in zip(requests.outputs, requests.formats(), strict=True):
            opening.open_file(path, format)
        if requests.tokens is not None:
            opening.open_tokens(requests.tokens)
        if requests.predictions is not None:
            predictions = opening.open_predictions(requests.predictions)
        if requests.kraken_output is not None or requests.kraken_report is not None:
            kraken = opening.open_kraken(requests.kraken_output, requests.kraken_report)
        if requests.lift is not None:
            lifted = opening.open_lift(requests.lift)
        if requests.coverage is not None or requests.depth is not None:
            opening.open_coverage(requests)
        if requests.safe_names is not None:
            safe_names = _SafeNames(opening.open_rows(requests.safe_names))
        results = Results(
            settings,
            opening.sinks,
            one_score=opening.one_score,
            predictions=predictions,
            kraken=kraken,
            safe_names=safe_names,
            lifted=lifted,
        )
        stack.callback(results.close)
        settings.rows.begin()
        yield results
        results.finish()
        for end in opening.endings:
            end()
