"""The formats of ``wyr explain -o``, by the extension of a file's name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from wyrcli.bam_writer import Program, open_bam
from wyrcli.calls import known_taxids
from wyrcli.columnar import open_parquet
from wyrcli.errors import WyrError, printable
from wyrcli.finding import Finding
from wyrcli.indexing import choose_index
from wyrcli.jsonlines import JsonLinesWriter
from wyrcli.motifs import open_motifs
from wyrcli.outputs import TextOutput
from wyrcli.parts import Rows
from wyrcli.taxonomy import Taxonomy, find_rank
from wyrcli.tracks import BedGraphWriter, Gff3Writer, import_bigwig, open_bigwig
from wyrcli.writers import BedWriter, TokensWriter

__all__ = ["FORMATS", "Format", "Settings", "Sink", "UnknownFormatError", "find_format", "open_format"]

Sink = Callable[[Sequence[Finding]], object]
"""Takes what was found in one window: one Finding, or one for each target that was asked for."""


class UnknownFormatError(WyrError):
    """An output's name says no format that is known."""


@dataclass(frozen=True)
class Settings:
    """What writers must know before the first window.

    Parameters
    ----------
    taxonomy, window_bp, alphabet: of the model.
    rank: whose taxon names rows; None for the narrowest that the Explanandum is sure of.
    threshold, min_length: what a relevant chunk is, see :meth:`Explanation.chunks`.
    with_target: whether Explanations are of targets; several of one window come in a row.
    with_scores: whether JSON lines hold the scores of tokens.
    index: whether BGZF tables get an index, see :func:`wyrcli.indexing.choose_index`.
    rows: the text outputs of the run.
    program: what a BAM header says of this run.
    warn: told what the user should know though it is no error.
    """

    taxonomy: Taxonomy
    window_bp: int = 1500
    alphabet: str = "dna"
    rank: str | None = None
    threshold: float = 0.5
    min_length: int = 1
    with_target: bool = False
    with_scores: bool = False
    index: bool | None = None
    rows: Rows = field(default_factory=Rows)
    program: Program = field(default_factory=Program)
    warn: Callable[[str], None] = lambda message: None

    @property
    def rank_index(self) -> int | None:
        """Position of ``rank``."""
        return None if self.rank is None else find_rank(self.taxonomy.ranks, self.rank)


@dataclass(frozen=True)
class Format:
    """One format.

    Parameters
    ----------
    name: what ``--format`` calls it.
    suffixes: of file names, in lower case, the usual one first.
    open: makes a sink that writes to a path and lasts as long as the stack.
    preset: of tabix, for text whose rows have places; empty for what no index fits.
    is_text: whether ``.gz`` may follow the suffix.
    one_score: whether it has one score per base, so that one target at a time fits.
    dna_only: whether it holds nucleotides, so that models of proteins and texts cannot write it.
    check: raises WyrError if something is missing that is not part of every installation.
    """

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[ExitStack, str, Settings], Sink]
    preset: str = ""
    is_text: bool = True
    one_score: bool = False
    dna_only: bool = False
    check: Callable[[], object] = lambda: None


def _open_text(stack: ExitStack, path: str, settings: Settings, preset: str) -> TextOutput:
    make_index = choose_index(path, preset, settings.index, settings.warn) if preset else None
    return settings.rows.open(stack, path, make_index)


def _first(write: Callable[[Finding], object]) -> Sink:
    return lambda findings: write(findings[0])


def _each(write: Callable[[Finding], object]) -> Sink:
    def write_all(findings: Sequence[Finding]) -> None:
        for finding in findings:
            write(finding)

    return write_all


def _at_end(stack: ExitStack, act: Callable[[], object]) -> None:
    """Have something done before what is open now is closed, unless the block ends with an exception."""

    def end(kind: object, error: object, trace: object) -> None:
        if kind is None:
            act()

    stack.push(end)


def _open_bed(stack: ExitStack, path: str, settings: Settings) -> Sink:
    writer = BedWriter(_open_text(stack, path, settings, "bed"), settings.taxonomy.ranks)
    settings.rows.at_border(writer.finish)
    _at_end(stack, writer.finish)
    return writer.write_group


def _open_bedgraph(stack: ExitStack, path: str, settings: Settings) -> Sink:
    return _first(BedGraphWriter(_open_text(stack, path, settings, "bed")).write)


def _open_bigwig(stack: ExitStack, path: str, settings: Settings) -> Sink:
    return _first(stack.enter_context(open_bigwig(path)).write)


def _open_gff3(stack: ExitStack, path: str, settings: Settings) -> Sink:
    handle = _open_text(stack, path, settings, "gff")
    writer = Gff3Writer(handle, known_taxids(settings.taxonomy))
    settings.rows.at_border(writer.finish)
    _at_end(stack, writer.finish)
    return writer.write_group


def _open_tsv(stack: ExitStack, path: str, settings: Settings) -> Sink:
    handle = _open_text(stack, path, settings, "bed")
    return TokensWriter(handle, settings.taxonomy.ranks, with_target=settings.with_target).write_group


def _open_parquet(stack: ExitStack, path: str, settings: Settings) -> Sink:
    return _each(stack.enter_context(open_parquet(path, settings.taxonomy.ranks)).write)


def _open_jsonl(stack: ExitStack, path: str, settings: Settings) -> Sink:
    handle = _open_text(stack, path, settings, "")
    return _each(JsonLinesWriter(handle, with_scores=settings.with_scores).write)


def _open_npz(stack: ExitStack, path: str, settings: Settings) -> Sink:
    spool = stack.enter_context(open_motifs(path, settings.window_bp))

    def tell() -> None:
        if spool.counts.padded:
            settings.warn(
                f"{printable(path, limit=300)}: {spool.counts.padded:,} of {spool.counts.rows:,} rows are "
                f"shorter than {settings.window_bp:,} bp and end in zeros"
            )

    _at_end(stack, tell)
    return _first(spool.write)


def _open_bam(stack: ExitStack, path: str, settings: Settings) -> Sink:
    return _first(stack.enter_context(open_bam(path, settings.taxonomy, settings.program)).write)


FORMATS = (
    Format("bed", (".bed",), _open_bed, preset="bed"),
    Format("bedgraph", (".bedgraph", ".bg", ".bdg"), _open_bedgraph, preset="bed", one_score=True),
    Format("bigwig", (".bw", ".bigwig"), _open_bigwig, is_text=False, one_score=True, check=import_bigwig),
    Format("gff3", (".gff3", ".gff"), _open_gff3, preset="gff"),
    Format("tsv", (".tsv",), _open_tsv, preset="bed"),
    Format("parquet", (".parquet",), _open_parquet, is_text=False),
    Format("jsonl", (".jsonl", ".ndjson"), _open_jsonl),
    Format("npz", (".npz",), _open_npz, is_text=False, one_score=True, dna_only=True),
    Format("bam", (".bam",), _open_bam, is_text=False, one_score=True, dna_only=True),
)
"""All formats; the first is that of standard output and of names without an extension."""


def open_format(stack: ExitStack, path: str, format: Format, settings: Settings) -> Sink:
    """A sink for a path.  Raises WyrError where the model's letters do not fit the format."""
    if format.dna_only and settings.alphabet != "dna":
        raise WyrError(
            f"cannot write {printable(path, limit=300)}: {format.name} holds nucleotides, and this is a "
            f"model of {settings.alphabet}s"
        )
    return format.open(stack, path, settings)


def find_format(path: str, default: str | None = None) -> Format:
    """The format of an output.

    Parameters
    ----------
    path: its extension decides, in any case of letters; ``.gz`` and ``.bgz`` are looked behind.
    default: name of the format where the extension says nothing (none at all, or an unknown one).  Without
        it that is BED for standard output, devices, FIFOs and names without an extension.

    Raises
    ------
    UnknownFormatError: the extension is unknown, or ``default`` is.
    WyrError: the format needs something that is not installed.

    >>> find_format("a.BedGraph.gz").name, find_format("-").name, find_format("x.dat", "gff3").name
    ('bedgraph', 'bed', 'gff3')
    """
    stem, suffix = os.path.splitext(os.path.basename(path).lower())
    packed = suffix in (".gz", ".bgz")
    if packed:
        stem, suffix = os.path.splitext(stem)
    found = next((f for f in FORMATS if suffix in f.suffixes), None)
    if found is not None and packed and not found.is_text:
        raise UnknownFormatError(
            f"cannot write {printable(path, limit=300)}: {found.name} is compressed by itself, leave off .gz"
        )
    if found is None:
        found = _by_name(default) if default is not None else FORMATS[0]
        is_file = path != "-" and (os.path.isfile(path) or not os.path.exists(path))
        if default is None and suffix and is_file:
            known = ", ".join(f.suffixes[0] for f in FORMATS)
            raise UnknownFormatError(
                f"cannot tell the format of {printable(path, limit=300)}; expected {known}, or --format"
            )
    found.check()
    return found


def _by_name(name: str) -> Format:
    found = next((f for f in FORMATS if f.name == name), None)
    if found is None:
        known = ", ".join(f.name for f in FORMATS)
        raise UnknownFormatError(f"unknown format '{printable(name)}'; expected {known}")
    return found
