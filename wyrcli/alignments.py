"""BAM and CRAM as reads: primary alignments and unaligned reads, as they were sequenced.

htslib reads from a pipe that a thread fills, whatever the file is: so files, FIFOs and standard input are the
same, nothing is opened twice, and the end of the stream, where htslib can miss that it was cut off, is seen.
"""

from __future__ import annotations

import os
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

from wyrcli.errors import InputError, printable
from wyrcli.sequences import Fault, Read

__all__ = ["Rejoined", "read_alignments", "sniff"]

_PIPE_BYTES = 128 * 1024
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_CRAM_END = b"\xff\xff\xff\xff\x0f\xe0EOF"  # after four bytes of the container that ends a CRAM file ...
_CRAM_ENDS = (38, 30)  # ... which is so long in versions 3 and 2.1


# ---------------------------------------------------------------- by content


class Rejoined:
    """A file of which the first bytes were read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head = head
        self._file = cast(Any, file)

    def read(self, size: int) -> bytes:
        """``size`` bytes, or fewer at the end."""
        head, self._head = self._head[:size], self._head[size:]
        rest: bytes = self._file.read(size - len(head)) if len(head) < size else b""
        return head + rest

    def read1(self, size: int) -> bytes:
        """The next bytes, at most ``size``; empty at the end."""
        if self._head:
            head, self._head = self._head[:size], self._head[size:]
            return head
        data: bytes = self._file.read1(size)
        return data


def sniff(file: BinaryIO) -> tuple[str, BinaryIO]:
    """``BAM``, ``CRAM`` or nothing, by the first bytes, and the file with these bytes put back."""
    head = file.read(4)
    if head == b"CRAM":
        return "CRAM", cast(BinaryIO, Rejoined(head, file))
    text = b""
    if head.startswith(b"\x1f\x8b"):
        inflater = zlib.decompressobj(wbits=31)
        data = head
        with suppress(zlib.error):  # whoever reads the stream meets the damage again, and can say where
            while data and len(text) < 4 and not inflater.eof:
                text += inflater.decompress(data, 4 - len(text)) or b""
                if len(text) < 4 and not inflater.unconsumed_tail:
                    data = cast(Any, file).read1(512)
                    head += data
    return "BAM" if text == b"BAM\x01" else "", cast(BinaryIO, Rejoined(head, file))


# ---------------------------------------------------------------- the pipe


class _Pump:
    """A thread that copies a file into a pipe, and remembers how the file ended.

    ``error``: what went wrong when it read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._source, self._sink = os.pipe()
        self._tail = b""
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="wyr-alignments")
        self._thread.start()

    @property
    def source(self) -> int:
        """The end to read from."""
        return self._source

    def _work(self) -> None:
        try:
            while data := cast(Any, self._file).read1(_PIPE_BYTES):
                self._tail = (self._tail + data)[-max(_CRAM_ENDS) :]
                view = memoryview(data)
                while view:
                    view = view[os.write(self._sink, view) :]
        except BrokenPipeError:
            pass  # nobody wants the rest
        except (OSError, ValueError) as error:  # ValueError: the file was closed meanwhile
            self.error = error if isinstance(error, OSError) else None
        finally:
            os.close(self._sink)

    def is_whole(self, kind: str) -> bool:
        """Whether the file has the end that it must have; what was not read yet is read, and dropped."""
        while os.read(self._source, _PIPE_BYTES):
            pass
        self._thread.join()
        if kind == "BAM":
            return self._tail.endswith(_BGZF_END)
        return any(self._tail[-size:][4:].startswith(_CRAM_END) for size in _CRAM_ENDS)

    def close(self) -> None:
        """End the thread, unless it waits for a writer that says nothing: it is a daemon."""
        os.close(self._source)
        self._thread.join(timeout=1.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """htslib prints what it finds wrong; here that is an error of ours."""
    import pysam

    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)


# ---------------------------------------------------------------- reads


def read_alignments(
    path: str, kind: str, file: BinaryIO, reference: str | None, left_out: dict[str, int]
) -> Iterator[Read]:
    """Every read of a BAM or CRAM file once, as it was sequenced, in the file's order.

    Secondary and supplementary alignments repeat a read, and are left out; reads that failed a
    quality check and duplicates are kept.  Mates are named ``/1`` and ``/2``.  A read without a sequence
    (``*``) comes with an empty one.  Position 0 is the first base of SEQ in the direction of sequencing
    (``get_forward_sequence()``); hard-clipped bases are not there, and do not count.

    Parameters
    ----------
    path: what to call it in errors.
    kind, file: from :func:`sniff`.
    reference: FASTA file to decode CRAM with.
    left_out: counts by reason, updated.

    Raises InputError if the file is damaged, is cut off, or needs a reference.
    """
    if kind == "CRAM" and reference is not None:
        _check_reference(reference)
    pump = _Pump(file)
    number = 0
    alignments = None
    with _quiet():
        try:
            try:
                alignments = _open(pump.source, kind, reference)
                for segment in alignments:
                    if segment.is_secondary or segment.is_supplementary:
                        which = "secondary" if segment.is_secondary else "supplementary"
                        left_out[which] = left_out.get(which, 0) + 1
                        continue
                    number += 1
                    yield _as_read(path, number, segment)
            except (OSError, ValueError, NotImplementedError):
                raise pump.error or _damaged(path, kind, number, reference) from None
            whole = pump.is_whole(kind)
            if pump.error is not None:
                raise pump.error
            if not whole:
                message = f"the {kind} stream is cut off; expected its end marker"
                raise InputError(message, path=path, record=number + 1)
        finally:
            if alignments is not None:
                with suppress(OSError, ValueError):  # a damaged file cannot be closed in peace either
                    alignments.close()
            pump.close()


def _open(descriptor: int, kind: str, reference: str | None) -> Any:
    """A ``pysam.AlignmentFile``."""
    import pysam

    # A file whose header is cut off cannot be closed in peace, and pysam tries where nobody can catch it:
    # what Cython then prints goes through these two hooks.
    hooks = sys.excepthook, sys.unraisablehook

    def ignore_closing(unraisable: sys.UnraisableHookArgs) -> None:
        if "AlignmentFile.__dealloc__" not in str(unraisable.object):
            hooks[1](unraisable)

    sys.excepthook, sys.unraisablehook = lambda kind, value, trace: None, ignore_closing
    try:
        with open(descriptor, "rb", closefd=False) as source:
            return pysam.AlignmentFile(
                source,
                "rb" if kind == "BAM" else "rc",
                check_sq=False,
                reference_filename=reference if kind == "CRAM" else None,
            )
    finally:
        sys.excepthook, sys.unraisablehook = hooks


def _as_read(path: str, number: int, segment: Any) -> Read:
    """The read of an alignment (``pysam.AlignedSegment``)."""
    try:
        name = segment.query_name or ""
    except UnicodeDecodeError:
        error = InputError("found a name with bytes outside ASCII", path=path, record=number)
        return Read("", segment.get_forward_sequence() or "", fault=Fault("not_ascii", error))
    name = "" if name == "*" else name
    if segment.is_paired and name and (segment.is_read1 != segment.is_read2):
        mate = "/1" if segment.is_read1 else "/2"
        name = name if name.endswith(mate) else name + mate
    return Read(name, segment.get_forward_sequence() or "", source=segment)


def _damaged(path: str, kind: str, number: int, reference: str | None) -> InputError:
    """htslib does not say what is wrong, but what can be wrong differs."""
    if kind == "BAM":
        message = "the BAM stream is damaged or cut off"
    elif reference is None:
        message = "this CRAM file cannot be decoded: give its reference with --reference, or it is damaged"
    else:
        message = (
            f"this CRAM file cannot be decoded with {printable(reference, limit=300)}: it was made with "
            "another reference, or is damaged or cut off"
        )
    return InputError(message, path=path, record=number + 1)


def _check_reference(reference: str) -> None:
    """htslib needs an index of the reference, which it makes beside it where there is none."""
    import pysam

    try:
        with _quiet():
            pysam.FastaFile(reference).close()
    except (OSError, ValueError):
        message = (
            "cannot be used as a reference; expected FASTA, plain or BGZF, with an index (samtools faidx) "
            "or in a folder where one can be made"
        )
        raise InputError(message, path=reference) from None
