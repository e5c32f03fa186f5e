"""Labelled sequences to a dataset: taxids become lineages, records become windows, windows are split.

The stages, in order:

    records of any format -> labelled records, packed on disk -> windows -> without N and duplicates
        -> at most so many per taxon -> splits -> dataset

Whatever is left out on the way is counted by reason.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wyrcli.alphabets import ALPHABETS, AlphabetName
from wyrcli.dataset import FILES, SPLITS, DatasetWriter, WindowBlock
from wyrcli.errors import TaxonomyError, WyrError, counted, printable
from wyrcli.grouping import CROWDED, KINDS, UNITS, GroupBy, complete_groups, group_of
from wyrcli.labels import Label, split_in_name
from wyrcli.ncbi import NcbiTaxonomy, Taxon
from wyrcli.outputs import new_directory
from wyrcli.sequences import encode as encode_dna
from wyrcli.sequences import encode_protein, encode_text
from wyrcli.sources import SourceReader, read_sources
from wyrcli.splitting import TEST, TRAIN, VALIDATION, draw_split, key_of, mix, places_within
from wyrcli.taxonomy import Taxonomy, canonical_rank
from wyrcli.windowing import (
    Content,
    Records,
    RecordSpool,
    Windows,
    cut_texts,
    cut_windows,
    draw_windows,
    examine,
    read_blocks,
)

__all__ = ["PreparationCounts", "PreparationOptions", "prepare"]

SplitMethod = Literal["auto", "stratified", "genome", "taxon", "given"]

_UNRANKED = Taxon(0, "unknown")
_REPORT_BYTES = 1 << 20
_ENCODE: Mapping[AlphabetName, Callable[[str], bytes]] = {
    "dna": encode_dna,
    "protein": encode_protein,
    "text": encode_text,
}
_MOST_LEFT_OUT = 100  # names of files that dataset.json lists
_NUMBER_OF: Mapping[str | None, int] = {split: number for number, split in enumerate(SPLITS)}
_SPARE = 1.2  # random windows drawn for each that is wanted: some are N, some are duplicates


@dataclass(frozen=True)
class PreparationOptions:
    """What to make of the records.  Lengths are in bp, or in residues of proteins and characters of texts.

    Parameters
    ----------
    alphabet: what the sequences are: ``dna``, ``protein`` or ``text``.
    ranks: from the widest to the narrowest.
    keep_unranked: a rank that a lineage lacks is the class "unknown" (taxid 0); otherwise the record is
        left out, as in the paper (section 3.1).
    window_bp: longest window.
    stride: windows start every so many bp; 0 stands for ``window_bp``.  Texts have none: they are cut
        where there is white space.
    min_bp: shorter windows are left out; 0 stands for the alphabet's ``min_length``, or ``window_bp`` if
        that is less.
    min_acgt: windows with a smaller share of A, C, G and T are left out; 0 for other alphabets.
    random: windows at random places instead of every ``stride`` bp; needs ``per_taxon``.
    per_taxon: at most this many windows of each taxon, drawn at random; 0 for all.
    per_taxon_rank: rank of these taxa; empty for the narrowest of ``ranks``.
    split: ``stratified``: single windows are divided, each taxon of the narrowest rank evenly (the paper's
        way); ``genome``: what comes from one genome stays together; ``taxon``: whole taxa of the narrowest
        rank stay together; ``given``: the input says; ``auto``: given where every record says so and some
        train, some test; else genome, if any record is longer than a window; else stratified.
    group: what counts as one genome: ``genome`` (as the source knows best, see :mod:`wyrcli.grouping`),
        ``record``, ``file`` or ``taxid`` (all of one organism).
    validation, test: shares of what is divided (windows, genomes or taxa); for ``test``, None stands for
        0.02 if single windows are divided, as in the paper, and otherwise for 0.1.
    seed: of all that is drawn.
    """

    alphabet: AlphabetName = "dna"
    ranks: tuple[str, ...] = ("superkingdom", "phylum", "genus")
    keep_unranked: bool = False
    window_bp: int = 1500
    stride: int = 0
    min_bp: int = 0
    min_acgt: float = 0.5
    random: bool = False
    per_taxon: int = 0
    per_taxon_rank: str = ""
    split: SplitMethod = "auto"
    group: GroupBy = "genome"
    validation: float = 0.1
    test: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        ranks = tuple(canonical_rank(rank) for rank in self.ranks)
        object.__setattr__(self, "ranks", ranks)
        if not ranks or len(set(ranks)) != len(ranks):
            raise TaxonomyError(f"ranks are '{', '.join(ranks)}'; expected at least one, each once")
        object.__setattr__(self, "per_taxon_rank", canonical_rank(self.per_taxon_rank) or ranks[-1])
        if self.alphabet not in ALPHABETS:
            raise WyrError(
                f"alphabet is '{printable(self.alphabet)}'; expected one of {', '.join(ALPHABETS)}"
            )
        alphabet = ALPHABETS[self.alphabet]
        object.__setattr__(self, "stride", self.stride or self.window_bp)
        object.__setattr__(self, "min_bp", self.min_bp or min(alphabet.min_length, self.window_bp))
        if self.window_bp < 1 or self.stride < 1 or self.min_bp < 1:
            raise WyrError(f"window, stride and shortest window must be at least 1 {alphabet.unit}")
        if self.min_bp > self.window_bp:
            shortest, longest = f"{self.min_bp} {alphabet.unit}", f"{self.window_bp} {alphabet.unit}"
            raise WyrError(f"the shortest window ({shortest}) is longer than the window ({longest})")
        if self.alphabet != "dna":
            object.__setattr__(self, "min_acgt", 0.0)
        if self.alphabet == "text" and (self.random or self.stride != self.window_bp):
            raise WyrError("texts are cut where there is white space: no random windows, no stride")
        if self.random and not self.per_taxon:
            raise WyrError("random windows need a number per taxon")
        if self.per_taxon < 0:
            raise WyrError(f"{self.per_taxon} windows per taxon were asked for; at least 1 is needed")
        if not 0 <= self.min_acgt <= 1:
            raise WyrError(f"the smallest share of A, C, G and T is {self.min_acgt}; expected 0 to 1")
        # Nothing left for training is fine: a set that only examines a model that exists already.
        if not (
            0 <= self.validation and 0 <= (self.test or 0) and self.validation + (self.test or 0) <= 1 + 1e-9
        ):
            raise WyrError(
                f"shares of validation ({self.validation}) and test ({self.test}) add up to more than 1"
            )
        if self.seed < 0:
            raise WyrError(f"seed is {self.seed}; it must not be negative")


@dataclass
class PreparationCounts:
    """What became of the input.

    ``records_read == records_kept + sum(records_dropped.values())``, and a record is kept if the dataset
    has a window of it.  ``windows_cut == sum(windows.values()) + sum(windows_dropped.values())``, where
    ``windows`` is per split.  ``split``: the method of splitting; ``unit``: what it divided, ``units`` how
    many per split.  ``unit_kinds``: of genomes, how many are known as such, how many are a file, and how many
    a record, for want of anything better.  ``undivided``: classes with one unit, which trains.  ``classes``:
    per rank.  ``bases``: per split; residues or characters, if that is what ``alphabet`` consists of.
    ``untrained``: per rank, classes without a window in the training split, which nobody can learn.
    ``left_out``: files in folders that were not read, for their names.  ``unused_labels``: names and files in
    the table of labels of which nothing was found.
    ``notes`` and ``warnings``: what else the user should know, a line each.
    """

    records_read: int = 0
    records_kept: int = 0
    records_dropped: Counter[str] = field(default_factory=Counter)
    merged_taxids: int = 0
    windows_cut: int = 0
    windows_dropped: Counter[str] = field(default_factory=Counter)
    windows: dict[str, int] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)
    split: str = ""
    unit: str = ""
    units: dict[str, int] = field(default_factory=dict)
    unit_kinds: dict[str, int] = field(default_factory=dict)
    undivided: int = 0
    alphabet: AlphabetName = "dna"
    classes: dict[str, int] = field(default_factory=dict)
    untrained: dict[str, int] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    unused_labels: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For dataset.json."""
        return {
            "records": {
                "read": self.records_read,
                "kept": self.records_kept,
                "dropped": dict(sorted(self.records_dropped.items())),
                "with_merged_taxid": self.merged_taxids,
            },
            "windows": {
                "cut": self.windows_cut,
                "kept": self.windows,
                "dropped": dict(sorted(self.windows_dropped.items())),
            },
            ALPHABETS[self.alphabet].characters: self.bases,
            "split": {
                "method": self.split,
                "unit": self.unit,
                "units": self.units,
                "kinds_of_units": self.unit_kinds,
                "taxa_with_one_unit": self.undivided,
            },
            "classes": self.classes,
            "classes_without_training_window": self.untrained,
            "files_left_out": {"number": len(self.left_out), "first": list(self.left_out[:_MOST_LEFT_OUT])},
            "labels_of_nothing": self.unused_labels,
            "notes": self.notes,
            "warnings": self.warnings,
        }


class Report(Protocol):
    """Told now and then how far a stage is; ``total`` is None where nobody knows."""

    def __call__(
        self, stage: Literal["reading", "examining", "writing"], done: int, total: int | None
    ) -> None: ...


def _say_nothing(stage: str, done: int, total: int | None) -> None:
    pass


def prepare(
    inputs: Sequence[str],
    output: Path,
    options: PreparationOptions,
    *,
    taxdump: Path | None = None,
    labels: Path | None = None,
    cache_dir: Path | None = None,
    replace: bool = False,
    report: Report = _say_nothing,
) -> PreparationCounts:
    """Write the dataset directory ``output`` (see :mod:`wyrcli.dataset`), whole or not at all.

    Parameters
    ----------
    inputs: files and folders for :func:`wyrcli.sources.read_sources`; ``-`` is standard input.
    taxdump: NCBI taxonomy, for :meth:`wyrcli.ncbi.NcbiTaxonomy.open`.  Without it, tables must have one
        column per rank.
    labels: table for :func:`wyrcli.labels.read_labels`.
    cache_dir: for :meth:`wyrcli.ncbi.NcbiTaxonomy.open`.
    replace: a dataset that is in ``output`` is replaced.

    Windows with too little of A, C, G and T are left out, and windows equal to an earlier one or, in DNA, to
    its reverse complement.  Sequences wait in the unfinished dataset's own folder, at a quarter of a byte per
    base, one byte per residue or four per character; memory grows by some 80 bytes per window, 100 per
    record, and with the longest record.

    Raises
    ------
    InputError: a file cannot be read as what it should be.
    WyrError: ``output`` has content, or no window is left.
    """
    counts = PreparationCounts(alphabet=options.alphabet)
    with new_directory(output, replace=FILES if replace else ()) as directory, ExitStack() as stack:
        ncbi = None if taxdump is None else stack.enter_context(NcbiTaxonomy.open(taxdump, cache_dir))
        lineages = _Lineages(ncbi, options)
        ranks = None if ncbi else lineages.ranks
        reader = read_sources(inputs, labels=labels, ranks=ranks, alphabet=options.alphabet)
        stack.callback(reader.close)
        counts.left_out = reader.left_out
        spool_folder = directory / "spool"
        spool_folder.mkdir()
        spool = stack.enter_context(RecordSpool(spool_folder / "records", ALPHABETS[options.alphabet]))
        unlisted = "without label" if labels is None else f"not in {labels.name}"
        files = _read(reader, lineages, spool, counts, options, unlisted, report)
        _count_unused(reader, labels, counts)
        records, units = complete_groups(spool.finish(), files, options.group)

        method = _choose_method(records, files, options, counts)
        windows = _cut(records, lineages, options)
        counts.windows_cut = len(windows)
        long_enough = windows.lengths >= options.min_bp
        counts.windows_dropped["too short"] += int((~long_enough).sum())
        windows = windows.take(long_enough)
        content = examine(records, windows, lambda done: report("examining", done, len(windows)))
        kept = _choose(records, windows, content, lineages, counts, options, is_given=method == "given")
        windows, content = windows.take(kept), content.take(kept)
        if not len(windows):
            reasons = counts.records_dropped or +counts.windows_dropped
            told = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
            raise WyrError(
                f"no window is left of {counts.records_read:,} records ({told or 'none was read'})"
            )

        taxonomy, class_table = lineages.build_taxonomy(np.unique(records.labels[windows.records]))
        plan = _Plan(records, units, windows, content, class_table[records.labels[windows.records]])
        counts.split = method
        split = _split(plan, taxonomy, options, counts)
        _count(plan, split, taxonomy, counts)
        with DatasetWriter.create(
            directory, taxonomy, window_bp=options.window_bp, files=files, alphabet=options.alphabet
        ) as writer:
            taxids = lineages.taxids()[records.labels]
            _write(writer, plan, split, taxids, lambda done: report("writing", done, len(windows)))
            writer.info = {
                "options": asdict(options),
                "inputs": [asdict(file) for file in reader.files],
                "labels": None if labels is None else str(labels),
                **counts.as_dict(),
            }
        shutil.rmtree(spool_folder)
    return counts


# ---------------------------------------------------------------- records


class _Lineages:
    """Numbers for labels, and the lineage behind each number.

    ``ranks``: those of the options, and behind them the rank that ``per_taxon`` balances, if it is not
    among them.
    """

    def __init__(self, ncbi: NcbiTaxonomy | None, options: PreparationOptions) -> None:
        self._ncbi = ncbi
        self._class_ranks = options.ranks
        self._keep_unranked = options.keep_unranked
        balanced = options.per_taxon_rank
        self.ranks = options.ranks if balanced in options.ranks else (*options.ranks, balanced)
        self._balanced = self.ranks.index(balanced)
        self._known: dict[Label, tuple[int, str]] = {}  # number, or -1 and the reason
        self._lineages: list[tuple[Taxon, ...]] = []
        self._taxids: list[int] = []
        if ncbi is not None:
            ncbi.check_ranks(options.ranks)
            ncbi.check_ranks([balanced])
        self.merged: set[int] = set()  # numbers of labels that are merged taxids

    def find(self, label: Label | None) -> tuple[int, str]:
        """Number of a label; or -1 and the reason why a record with it is left out."""
        if label is None:
            return -1, "without label" if self._ncbi is None else "without taxid"
        if label not in self._known:
            self._known[label] = self._look_up(label)
        return self._known[label]

    def _look_up(self, label: Label) -> tuple[int, str]:
        found: Sequence[Taxon | None] | None
        if isinstance(label, int):
            assert self._ncbi is not None, "taxids are asked for only where there is a taxonomy"
            taxid, status = self._ncbi.resolve(label)
            found = self._ncbi.lineage(label, self.ranks)
            if found is None or taxid is None:
                return -1, f"with {status} taxid"
            if status == "merged":
                self.merged.add(len(self._lineages))
        else:
            taxid, found = 0, [Taxon(0, name) if name else None for name in label]
        for rank, taxon in zip(self._class_ranks, found, strict=False):
            if taxon is None and not self._keep_unranked:
                return -1, f"without {rank}"
        self._lineages.append(tuple(taxon or _UNRANKED for taxon in found))
        self._taxids.append(taxid)
        return len(self._lineages) - 1, ""

    def taxids(self) -> NDArray[np.int64]:
        """int64 (labels,), the taxid in use today of each label; 0 where there is none."""
        return np.array(self._taxids, dtype=np.int64)

    def keys(self) -> NDArray[np.uint64]:
        """uint64 (labels,), equal for labels of the same classes."""
        n = len(self._class_ranks)
        keys = [key_of("\n".join(f"{t.taxid} {t.name}" for t in lineage[:n])) for lineage in self._lineages]
        return np.array(keys, dtype=np.uint64)

    def number_taxa(self, *, balanced: bool) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Number of each label's taxon, int64 (labels,), and a key for each of these taxa, uint64 (taxa,).

        At the rank that ``per_taxon`` balances, or else at the narrowest rank of the classes.
        """
        rank = self._balanced if balanced else len(self._class_ranks) - 1
        numbers: dict[Taxon, int] = {}
        of_labels = [numbers.setdefault(lineage[rank], len(numbers)) for lineage in self._lineages]
        keys = [key_of(f"{taxon.taxid} {taxon.name}") for taxon in numbers]
        return np.array(of_labels, dtype=np.int64), np.array(keys, dtype=np.uint64)

    def build_taxonomy(self, used: NDArray[np.int32]) -> tuple[Taxonomy, NDArray[np.int32]]:
        """The taxonomy of the labels in use, taxa sorted by name, and the classes of each label.

        The second is int32 (labels, R), -1 in rows of labels that are not in use.
        """
        lineages = [self._lineages[number] for number in used]
        table = np.full((len(self._lineages), len(self._class_ranks)), -1, dtype=np.int32)
        names: list[tuple[str, ...]] = []
        taxids: list[tuple[int, ...]] = []
        for r in range(len(self._class_ranks)):
            taxa = {lineage[r] for lineage in lineages}
            shared = {name for name, n in Counter(taxon.name for taxon in taxa).items() if n > 1}
            # Two taxa may have one name: Bacillus is a bacterium and a stick insect.
            named = {t: f"{t.name} ({t.taxid})" if t.name in shared else t.name for t in taxa}
            ordered = sorted(named, key=named.__getitem__)
            names.append(tuple(named[taxon] for taxon in ordered))
            taxids.append(tuple(taxon.taxid for taxon in ordered))
            number = {taxon: i for i, taxon in enumerate(ordered)}
            table[used, r] = [number[lineage[r]] for lineage in lineages]
        source = {} if self._ncbi is None else dict(self._ncbi.source)
        return Taxonomy(self._class_ranks, tuple(names), tuple(taxids), source), table


def _read(
    reader: SourceReader,
    lineages: _Lineages,
    spool: RecordSpool,
    counts: PreparationCounts,
    options: PreparationOptions,
    unlisted: str,
    report: Report,
) -> list[str]:
    """Put all usable records into the spool; returns the files that the records' numbers stand for.

    ``unlisted``: why a record is left out of which the table of labels knows nothing.
    """
    files: dict[str, int] = {}
    alphabet, encode = ALPHABETS[options.alphabet], _ENCODE[options.alphabet]
    next_report = 0
    for record in reader:
        counts.records_read += 1
        if reader.bytes_read >= next_report:
            report("reading", reader.bytes_read, reader.total_bytes)
            next_report = reader.bytes_read + _REPORT_BYTES
        label, reason = lineages.find(record.label) if record.is_listed else (-1, unlisted)
        # Even where it is left out for its label, a sequence that is none is an error.
        try:
            codes = encode(record.sequence)
        except ValueError as error:
            raise reader.error(str(error), record.name) from None
        if not reason and len(codes) < options.min_bp * alphabet.width:
            reason = "too short" if codes else f"without {alphabet.noun}"
        if reason:
            counts.records_dropped[reason] += 1
            continue
        counts.merged_taxids += label in lineages.merged
        spool.add(
            record.name,
            codes,
            group=group_of(record, options.group),
            file=files.setdefault(record.file, len(files)),
            label=label,
            split=-1 if record.split is None else SPLITS.index(record.split),
            kind=KINDS.index(record.kind),
            number=reader.number,
        )
    return list(files)


def _count_unused(reader: SourceReader, labels: Path | None, counts: PreparationCounts) -> None:
    unused, n = reader.count_unused_labels()
    counts.unused_labels = unused
    if unused and labels is not None:
        counts.warnings.append(
            f"{labels.name}: nothing was found of {unused:,} of the {n:,} names and files in it"
        )


# ---------------------------------------------------------------- windows


@dataclass(frozen=True, eq=False)
class _Plan:
    """The W windows that are kept.

    ``classes``: int32 (W, R), class number within each rank.  ``units``: int8 (N,), of the records, see
    :class:`wyrcli.grouping.Groups`.
    """

    records: Records
    units: NDArray[np.int8]
    windows: Windows
    content: Content
    classes: NDArray[np.int32]


def _cut(records: Records, lineages: _Lineages, options: PreparationOptions) -> Windows:
    if options.alphabet == "text":
        return cut_texts(records, options.window_bp)
    if not options.random:
        return cut_windows(records, options.window_bp, options.stride)
    of_labels, keys = lineages.number_taxa(balanced=True)
    n = math.ceil(_SPARE * options.per_taxon)
    return draw_windows(records, of_labels[records.labels], keys, n, options.window_bp, options.seed)


def _choose(
    records: Records,
    windows: Windows,
    content: Content,
    lineages: _Lineages,
    counts: PreparationCounts,
    options: PreparationOptions,
    *,
    is_given: bool,
) -> NDArray[np.int64]:
    """Numbers of the windows to keep, ascending; the others are counted by reason."""
    dropped = counts.windows_dropped
    # In other alphabets all letters count, and so there is always enough.
    enough = (content.acgt >= options.min_acgt * windows.lengths) & (content.acgt > 0)
    dropped["with too few A, C, G, T"] += int((~enough).sum())
    kept = np.flatnonzero(enough)

    # Equal windows side by side, in the order in which one is preferred to another.  Where the splits are
    # given, what is in the test split stays there, and training does without it.  Else what comes first is
    # drawn by what the windows are, never by where they stand: the order of the input changes nothing.
    digests = content.digests[kept]
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (np.diff(digests[order], axis=0) != 0).any(axis=1)
    several = np.flatnonzero(~(is_first & np.append(is_first[1:], True)))
    among = order[several]
    of_window = windows.records[kept]
    preference = -records.splits[of_window] if is_given else np.zeros(len(kept), np.int8)
    ranking = (
        windows.starts[kept[among]] - records.starts[of_window[among]],
        records.name_keys[of_window[among]],
        mix(records.group_keys[of_window[among]] ^ digests[among, 0], 0),
        content.turned[kept[among]],
        mix(lineages.keys()[records.labels[of_window[among]]] ^ digests[among, 0], 0),
        preference[among],
        np.cumsum(is_first)[several],
    )
    order[several] = among[np.lexsort(ranking)]

    first_of = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    taxa = lineages.number_taxa(balanced=False)[0][records.labels[of_window]]
    elsewhere = preference[order] != preference[first_of]
    of_other = taxa[order] != taxa[first_of]
    dropped["duplicate in another split"] += int(elsewhere.sum())
    dropped["duplicate of another taxon (one copy kept)"] += int((of_other & ~elsewhere).sum())
    dropped["duplicate"] += int((~is_first & ~of_other & ~elsewhere).sum())
    kept = np.sort(kept[order[is_first]])

    if options.per_taxon:
        taxa = lineages.number_taxa(balanced=True)[0][records.labels[windows.records[kept]]]
        order = np.lexsort((mix(content.digests[kept, 0], options.seed), taxa))
        place = places_within(np.bincount(taxa))
        dropped["over the limit per taxon"] += int((place >= options.per_taxon).sum())
        kept = np.sort(kept[order[place < options.per_taxon]])
    return kept


# ---------------------------------------------------------------- splits


def _choose_method(
    records: Records, files: Sequence[str], options: PreparationOptions, counts: PreparationCounts
) -> SplitMethod:
    n_told = np.bincount(records.splits[records.splits >= 0], minlength=len(SPLITS))
    is_complete = n_told.sum() == len(records)
    if options.split == "given" and not is_complete:
        name = records.names[int(np.argmax(records.splits < 0))].as_py()
        raise WyrError(
            f"nothing says which split record '{printable(name)}' belongs to; expected a column 'split', or "
            "files named train, validation and test"
        )
    if options.split != "auto":
        return options.split
    if is_complete and n_told[TRAIN] and n_told[TEST]:
        return "given"
    is_long = len(records) and records.lengths.max() > options.window_bp
    method: SplitMethod = "genome" if is_long else "stratified"
    # In the names of a few files, 'test' may be a word like others.
    by_name = np.array([_NUMBER_OF.get(split_in_name(Path(file).name), -1) for file in files], np.int8)
    is_cell = (records.splits >= 0) & (records.splits != by_name[records.files])
    if n_told[TRAIN] or is_cell.any():
        told = ", ".join(f"{n:,} {split}" for split, n in zip(SPLITS, n_told.tolist(), strict=True) if n)
        counts.warnings.append(
            f"split '{method}' is used, not the input's, which tells {told} of "
            f"{counted(len(records), 'record')}; expected one for each, train and test among them"
        )
    return method


def _split(
    plan: _Plan, taxonomy: Taxonomy, options: PreparationOptions, counts: PreparationCounts
) -> NDArray[np.int8]:
    """int8 (W,), TRAIN, VALIDATION or TEST."""
    narrowest = plan.classes[:, -1].astype(np.int64)
    of_window = plan.windows.records
    test = options.test
    if test is None:
        test = min(0.02 if counts.split == "stratified" else 0.1, 1 - options.validation)
    if counts.split == "given":
        counts.unit = "window"
        split = plan.records.splits[of_window].copy()
        if not (split == VALIDATION).any() and options.validation:
            # The published sets have no validation part: it is taken from training.
            train = np.flatnonzero(split == TRAIN)
            keys = plan.content.digests[train, 0]
            split[train] = draw_split(narrowest[train], keys, options.validation, 0, options.seed)
            if (split == VALIDATION).any():
                share = f"a share of {options.validation:g}"
                counts.notes.append(f"validation is drawn from train, {share}: the input gives none")
        counts.units = _per_split(split)
        _check_shares(narrowest, {"validation": options.validation, "test": test}, counts)
        return split
    if counts.split == "stratified":
        counts.unit = "window"
        unit_of, classes, keys = np.arange(len(narrowest)), narrowest, plan.content.digests[:, 0]
    elif counts.split == "genome":
        counts.unit = options.group
        keys, first, unit_of = np.unique(
            plan.records.group_keys[of_window], return_index=True, return_inverse=True
        )
        classes = _most_frequent(unit_of, narrowest)
        if options.group == "genome":
            _count_kinds(plan.units[of_window[first]], counts)
    else:
        counts.unit = options.ranks[-1]
        present, unit_of = np.unique(narrowest, return_inverse=True)
        wider = plan.classes[:, -2] if plan.classes.shape[1] > 1 else np.zeros(len(narrowest), np.int32)
        classes = _most_frequent(unit_of, wider.astype(np.int64))
        keys = np.array([key_of(taxonomy.taxa[-1][taxon]) for taxon in present], dtype=np.uint64)
    drawn = draw_split(classes, keys, options.validation, test, options.seed)
    counts.units = _per_split(drawn)
    counts.undivided = int((np.bincount(classes) == 1).sum())
    _check_shares(classes, {"validation": options.validation, "test": test}, counts)
    return drawn[unit_of]


def _count_kinds(units: NDArray[np.int8], counts: PreparationCounts) -> None:
    """Note what stands for genomes; ``units``: int8 (genomes,), numbers of :data:`wyrcli.grouping.UNITS`."""
    n_of = np.bincount(units, minlength=len(UNITS)).tolist()
    for kind, n in zip(UNITS, n_of, strict=True):
        if n:
            counts.unit_kinds[kind] = counts.unit_kinds.get(kind, 0) + n
    if n := n_of[CROWDED]:
        counts.warnings.append(
            f"{counted(n, 'record')} taken for genomes, though their files hold several: nothing tells which "
            "belong together (a column 'genome' would), and scores may flatter"
        )


def _check_shares(classes: NDArray[np.int64], shares: dict[str, float], counts: PreparationCounts) -> None:
    """Tell of splits that are empty, though a share was asked for; ``classes``: int64 (units,)."""
    n = sum(counts.units.values()) - (counts.units["test"] if counts.split == "given" else 0)
    units = counted(n, *(("taxon", "taxa") if counts.split == "taxon" else (counts.unit, "")))
    n_classes = counted(len(np.unique(classes)), "class", "classes")
    for split, share in shares.items():
        if not share or counts.units[split]:
            continue
        if counts.split == "given" and split == "test":
            why = "the input gives none"
        elif share * n < 0.5:
            why = f"a share of {share:g} of {units} rounds to none"
        else:
            why = f"{units} in {n_classes}, each of which keeps one that trains, cannot spare {share:g}"
        counts.warnings.append(f"no window is in {split}: {why}")
    if not counts.units["train"]:
        why = "the input gives none" if counts.split == "given" else "the other shares add up to 1"
        counts.notes.append(f"no window is in train: {why}")


def _most_frequent(units: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class that most windows of each unit have, int64 (units,); of several, the first."""
    pairs, n = np.unique(np.stack([units, classes], axis=1), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -n, pairs[:, 0]))
    _, first = np.unique(pairs[order, 0], return_index=True)
    found: NDArray[np.int64] = pairs[order][first, 1]
    return found


def _per_split(split: NDArray[np.int8]) -> dict[str, int]:
    return dict(zip(SPLITS, np.bincount(split, minlength=len(SPLITS)).tolist(), strict=True))


def _count(plan: _Plan, split: NDArray[np.int8], taxonomy: Taxonomy, counts: PreparationCounts) -> None:
    kept = np.unique(plan.windows.records)
    counts.records_kept = len(kept)
    if lost := len(plan.records) - len(kept):
        counts.records_dropped["without a window that was kept"] += lost
    counts.windows_dropped = +counts.windows_dropped  # without the zeros
    counts.windows = _per_split(split)
    sums = np.bincount(split, weights=plan.windows.lengths, minlength=len(SPLITS)).astype(int)
    counts.bases = dict(zip(SPLITS, sums.tolist(), strict=True))
    counts.classes = dict(zip(taxonomy.ranks, taxonomy.sizes, strict=True))
    trained = plan.classes[split == TRAIN]
    counts.untrained = {
        rank: taxonomy.sizes[r] - len(np.unique(trained[:, r])) for r, rank in enumerate(taxonomy.ranks)
    }


# ---------------------------------------------------------------- dataset


def _write(
    writer: DatasetWriter,
    plan: _Plan,
    split: NDArray[np.int8],
    taxids: NDArray[np.int64],
    report: Callable[[int], None],
) -> None:
    """Give the windows to the writer, in the order of the input; ``taxids`` are the records'."""
    records, windows, content = plan.records, plan.windows, plan.content
    with_gaps = content.acgt < windows.lengths
    for block in read_blocks(records, windows):
        of_split = split[block.first : block.last]
        for number, name in enumerate(SPLITS):
            in_block = np.flatnonzero(of_split == number)
            rows = block.first + in_block
            of = windows.records[rows]
            packed, gaps, sizes = block.pack(in_block, with_gaps[rows])
            gc = None if content.gc is None else (content.gc[rows] / content.acgt[rows]).astype(np.float32)
            writer.write(
                name,
                WindowBlock(
                    names=records.names.take(of),
                    starts=windows.starts[rows] - records.starts[of],
                    files=records.files[of],
                    groups=records.groups.take(of),
                    taxids=taxids[of],
                    classes=plan.classes[rows],
                    gc=gc,
                    lengths=windows.lengths[rows],
                    packed=packed,
                    gaps=gaps,
                    sizes=sizes,
                ),
            )
        report(block.last)
