"""What ``wyr explain`` reads, as windows: one function for nucleotides, proteins and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from wyrcli import documents
from wyrcli.errors import InputError, WyrError
from wyrcli.explanation import Window
from wyrcli.model.tokens import Tokenizer
from wyrcli.reads import open_reads
from wyrcli.regions import read_regions
from wyrcli.windows import RecordCounts, split_windows

__all__ = ["InputOptions", "new_counts", "open_windows"]

OnSkip = Callable[[int, str, int, str], None]
"""Called with the ordinal of a record from 0, its name, its length, and why it has no window."""


@dataclass(frozen=True)
class InputOptions:
    """How inputs are to be read.

    paired: files come in twos, first and second mates (:class:`wyrcli.reads.PairedReads`).
    lenient: leave out malformed records, and count them, instead of raising at the first.
    reference: FASTA file to decode CRAM with.
    regions: BED file; only these stretches are explained (:mod:`wyrcli.regions`).
    mask_lower: lower-case (soft-masked) letters are N.
    rename_duplicates: no two records of one name (:class:`wyrcli.reads.RenamedReads`).
    overlap: bp that windows of a long record have in common; of nucleotides only.
    records: only these, half-open, by their ordinals in the whole input; None is its end.
    """

    paired: bool = False
    lenient: bool = False
    reference: str | None = None
    regions: str | None = None
    mask_lower: bool = False
    rename_duplicates: bool = False
    overlap: int = 0
    records: tuple[int, int | None] | None = None

    @property
    def first(self) -> int:
        """Ordinal of the first record."""
        return 0 if self.records is None else self.records[0]

    def files(self) -> list[str]:
        """Files that are read beside the inputs."""
        return [path for path in (self.reference, self.regions) if path is not None]


def new_counts(alphabet: str) -> RecordCounts:
    """Counts to hand to :func:`open_windows`, with the reasons to skip a record of that alphabet."""
    return RecordCounts() if alphabet == "dna" else documents.new_counts()


def open_windows(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    window: int,
    counts: RecordCounts,
    options: InputOptions | None = None,
    on_skip: OnSkip | None = None,
) -> Iterator[Window]:
    """Windows of what the tokenizer's model reads: nucleotides, proteins or texts.

    Parameters
    ----------
    paths: FASTA, FASTQ, BAM or CRAM; for proteins FASTA; for texts see
        :func:`wyrcli.documents.read_documents`.
    window: most bp, residues or characters of a window; texts are cut further where the model reads less.
    counts: updated while the windows are taken.
    on_skip: see :func:`wyrcli.windows.split_windows`.

    Raises InputError at once for options that cannot be met and regions that cannot be read, and for
    malformed input while the windows are taken.
    """
    options = options or InputOptions()
    _check(paths, tokenizer.alphabet, options)
    if tokenizer.alphabet == "dna":
        return _open_dna(paths, window, counts, options, on_skip)
    if tokenizer.alphabet == "protein":
        window = min(window, tokenizer.max_tokens - tokenizer.count_tokens(""))
        reads = open_reads(
            paths,
            counts,
            lenient=options.lenient,
            rename=options.rename_duplicates,
            aligned=False,
            records=options.records,
        )
        return documents.split_proteins(
            reads, window, counts, on_skip=on_skip, lenient=options.lenient, first=options.first
        )
    return documents.split_documents(
        islice(documents.read_documents(paths), *(options.records or (0, None))),
        window,
        counts,
        count_tokens=tokenizer.count_tokens,
        max_tokens=tokenizer.max_tokens,
        on_skip=on_skip,
        first=options.first,
    )


def _open_dna(
    paths: Sequence[str], window: int, counts: RecordCounts, options: InputOptions, on_skip: OnSkip | None
) -> Iterator[Window]:
    regions = None
    if options.regions is not None:
        regions = read_regions(options.regions, lenient=options.lenient)
        counts.regions = regions.counts
    reads = open_reads(
        paths,
        counts,
        paired=options.paired,
        lenient=options.lenient,
        reference=options.reference,
        rename=options.rename_duplicates,
        records=options.records,
    )

    def windows() -> Iterator[Window]:
        with closing(reads):
            yield from split_windows(
                reads,
                window,
                counts,
                on_skip=on_skip,
                lenient=options.lenient,
                mask_lower=options.mask_lower,
                stretches=regions,
                overlap=options.overlap,
                first=options.first,
            )
        # Of a part of the records nobody knows which regions have none.
        if regions is not None and options.records is None and (warning := regions.finish(counts.records)):
            counts.warnings.append(warning)

    return windows()


def _check(paths: Sequence[str], alphabet: str, options: InputOptions) -> None:
    """Raise WyrError for options that mean nothing to a model of proteins or texts, and for stdin twice."""
    if [*paths, *options.files()].count("-") > 1:
        raise InputError("standard input can be read only once", path="-")
    asked = {
        "--paired": options.paired,
        "--reference": options.reference is not None,
        "--regions": options.regions is not None,
        "--mask-lower": options.mask_lower,
    }
    if alphabet == "text":
        asked |= {"--on-error": options.lenient, "--rename-duplicates": options.rename_duplicates}
    wrong = [name for name, value in asked.items() if value and alphabet != "dna"]
    if wrong:
        raise WyrError(f"{wrong[0]} means nothing to a model of {alphabet}s")
