"""Explanations as tags of BAM records: the input's own ones, or unaligned ones made of FASTA and FASTQ.

Local tags, in the orientation **as sequenced** like MM and ML, so that tools that turn reads need not touch
them:

    wl:Z    what the read, or the target that was asked for, is called; wr:Z its rank, wt:i its taxid
    wp:f    its probability
    ws:B:C  a score per base: N stands for [N/256, (N+1)/256); ws:B:c for a contrast: N/127
    wn:i    number of bases when ws was written: where SEQ has another number, ws is out of date
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wyrcli.calls import Ballot, known_taxids
from wyrcli.errors import WyrError, printable
from wyrcli.explanation import Target, Window
from wyrcli.finding import Finding
from wyrcli.outputs import open_path
from wyrcli.taxonomy import Taxonomy
from wyrcli.writers import safe_text

__all__ = ["BamWriter", "Program", "add_program", "open_bam"]

MAX_NAME = 254  # letters of QNAME
_QUALITIES = bytes(range(33, 127))


@dataclass(frozen=True)
class Program:
    """What an @PG line says: version, command line, and a description (here: the model)."""

    version: str = ""
    command: str = ""
    description: str = ""


def add_program(header: str, program: Program) -> str:
    """The header's text with one more @PG line, which comes after the last one of the chain.

    ``ID`` is ``wyr``, or ``wyr.1`` and so on where there is one.

    >>> add_program("@PG\\tID:bwa\\n", Program("1.0")).splitlines()[1].split("\\t")
    ['@PG', 'ID:wyr', 'PN:wyr', 'PP:bwa', 'VN:1.0']
    """
    lines = [
        dict(field.split(":", 1) for field in line.split("\t")[1:] if ":" in field)
        for line in header.splitlines()
        if line.startswith("@PG\t")
    ]
    taken = {line.get("ID") for line in lines}
    name, number = "wyr", 0
    while name in taken:
        number += 1
        name = f"wyr.{number}"
    fields = {"ID": name, "PN": "wyr"}
    followed = {other.get("PP") for other in lines}
    ends = [other["ID"] for other in lines if "ID" in other and other["ID"] not in followed]
    if ends:
        fields["PP"] = ends[-1]
    more = {"VN": program.version, "CL": program.command, "DS": program.description}
    fields |= {key: _field(value) for key, value in more.items() if value}
    if header and not header.endswith("\n"):
        header += "\n"
    return header + "\t".join(["@PG", *(f"{key}:{value}" for key, value in fields.items())]) + "\n"


def _field(text: str) -> str:
    return safe_text(text).encode("ascii", "replace").decode()


class BamWriter:
    """A record per read, written once the windows of the next one come.

    Parameters
    ----------
    path: a file of its own.
    taxonomy: of the model.
    program: for the header.

    Records of BAM input keep what they have; of FASTA and FASTQ, SEQ is the sequence as the model read it
    (upper case, N for ambiguity codes) and windows that were left out are N with quality 0.  Memory holds one
    read.  Reads without a window are not written.
    """

    def __init__(self, path: str, taxonomy: Taxonomy, program: Program, shown: str = "") -> None:
        import pysam

        self._pysam: Any = pysam
        self._path = path
        self._shown = printable(shown or path, limit=300)
        self._ranks = taxonomy.ranks
        self._taxids = known_taxids(taxonomy)
        self._program = program
        self._file: Any = None
        self._template: Any = None  # header of the input, None where it has none
        self._alike: Any = None  # of a later input, found to say the same
        self._findings: list[Finding] = []
        self._record = -1

    def write(self, finding: Finding) -> None:
        """Take one window."""
        if finding.window.record != self._record:
            self._end_read()
            self._record = finding.window.record
            # What cannot be written is told now: at the end, other outputs of the run would be there already.
            self._open(finding.window.source)
            if finding.window.source is None:
                self._check_name(safe_text(finding.window.name))
        self._findings.append(finding)

    def _open(self, source: Any) -> Any:
        """The output, begun with the header of the first read's file.

        Raises WyrError if a later read comes from a file with other reference sequences or read groups.
        """
        header = None if source is None else source.header
        if self._file is None:
            # As text: what the input's header says is kept to the letter.
            start = "@HD\tVN:1.6\tSO:unsorted\tGO:query\n" if header is None else str(header)
            self._template = header
            content = self._pysam.AlignmentHeader.from_text(add_program(start, self._program))
            self._file = self._pysam.AlignmentFile(self._path, "wb", header=content)
        elif header is not self._template and (header is None or header is not self._alike):
            if _essence(header) != _essence(self._template):
                raise WyrError(
                    f"{self._shown}: the inputs differ in reference sequences or read groups, and one BAM "
                    "file has one header; explain them one by one"
                )
            self._alike = header
        return self._file

    def _end_read(self) -> None:
        if not self._findings:
            return
        findings, self._findings = self._findings, []
        window = findings[0].window
        file = self._open(window.source)
        if window.source is None:
            segment = self._new_segment([finding.window for finding in findings], file.header)
        else:
            segment = window.source
        n_bases = segment.query_length
        target = findings[0].explanation.target
        scores = np.zeros(n_bases, dtype=np.float32)
        for finding in findings:
            own = finding.window
            scores[own.start : own.stop] = finding.filled_scores
        self._tag(segment, findings, target)
        segment.set_tag("ws", scale_scores(scores, signed=target is not None and bool(target.against)))
        segment.set_tag("wn", n_bases, "i")
        file.write(segment)

    def _tag(self, segment: Any, findings: list[Finding], target: Target | None) -> None:
        for tag in ("wl", "wr", "wt", "wp"):
            segment.set_tag(tag, None)  # of an earlier run
        if target is not None:
            rank, name = target.rank, target.name
            bases = np.array([f.window.stop - f.window.start for f in findings], dtype=np.float64)
            chances = [t.probability for f in findings if (t := f.explanation.target) is not None]
            probability = float(np.average(chances, weights=bases))
        else:
            ballot = Ballot(len(self._ranks))
            for finding in findings:
                ballot.add(finding.explanation)
            call = ballot.call()
            if call.rank is None:
                return
            rank, name = call.rank, call.taxa[call.rank] or ""
            probability = call.probabilities[rank]
        segment.set_tag("wl", _field(name), "Z")
        segment.set_tag("wr", _field(self._ranks[rank]), "Z")
        if taxid := self._taxids[rank].get(name, 0):
            segment.set_tag("wt", taxid, "i")
        segment.set_tag("wp", probability, "f")

    def _new_segment(self, windows: Sequence[Window], header: Any) -> Any:
        name = safe_text(windows[0].name)
        length = max(windows[0].length, windows[-1].stop)
        sequence, qualities = bytearray(b"N" * length), bytearray(b"!" * length)
        for window in windows:
            sequence[window.start : window.stop] = window.sequence.encode("ascii", "replace")
            qualities[window.start : window.stop] = window.qualities.encode("ascii") or bytes(
                b"!" * len(window.sequence)
            )
        segment = self._pysam.AlignedSegment(header)
        segment.query_name = name
        segment.flag = 4
        segment.query_sequence = sequence.decode("ascii")
        if windows[0].qualities:
            # dnaio reads qualities of any letter; BAM holds those of ! to ~.
            wrong = qualities.translate(None, _QUALITIES)
            if wrong:
                raise WyrError(
                    f"{self._shown}: record {windows[0].record + 1} ('{printable(name)}') has the quality "
                    f"{printable(ascii(chr(wrong[0])))}; expected letters from '!' to '~'"
                )
            segment.query_qualities = self._pysam.qualitystring_to_array(qualities.decode("ascii"))
        return segment

    def _check_name(self, name: str) -> None:
        if len(name) > MAX_NAME or not name.isascii():
            raise WyrError(
                f"{self._shown}: '{printable(name)}' cannot be the name of a BAM record (at most {MAX_NAME} "
                "ASCII letters); use --safe-names"
            )

    def close(self, *, whole: bool = True) -> None:
        """Write the last read and end the file; without ``whole``, only let it go."""
        try:
            if whole:
                self._end_read()
                self._open(None) if self._file is None else None
        finally:
            if self._file is not None:
                self._file.close()


def scale_scores(scores: NDArray[np.float32], *, signed: bool = False) -> array[int]:
    """Scores as the numbers of tag ws.

    >>> scale_scores(np.array([0, 0.5, 1], dtype=np.float32)).tolist()
    [0, 128, 255]
    """
    if signed:
        return array("b", np.rint(np.clip(scores, -1, 1) * 127).astype(np.int8).tobytes())
    return array("B", np.clip(scores * 256, 0, 255).astype(np.uint8).tobytes())


def _essence(header: Any) -> Any:
    """What records refer to: reference sequences and read groups."""
    if header is None:
        return [], []
    content = header.to_dict()
    return content.get("SQ", []), content.get("RG", [])


@contextmanager
def open_bam(path: str, taxonomy: Taxonomy, program: Program) -> Iterator[BamWriter]:
    """A writer of a BAM file that appears whole or not at all; without a read it has its header."""
    with open_path(path) as temporary:
        writer = BamWriter(temporary, taxonomy, program, path)
        try:
            yield writer
        except BaseException:
            writer.close(whole=False)
            raise
        writer.close()
