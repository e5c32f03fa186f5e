"""Bytes on their way to a parser: counted, hashed, looked into, given out as a file."""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO, cast

from wyrcli.sequences import DamagedError

__all__ = [
    "BUFFER_BYTES",
    "COMPRESSED",
    "COMPRESSED_ENDINGS",
    "Stream",
    "Watched",
    "ZipMember",
    "buffered",
    "peek",
    "zip_errors",
]

BUFFER_BYTES = 128 * 1024
COMPRESSED_ENDINGS = ("", ".gz", ".bgz", ".bz2", ".xz", ".zst")
"""Of the names of what :func:`wyrcli.sequences.decompress` reads."""
COMPRESSED = f"(?:{'|'.join(map(re.escape, COMPRESSED_ENDINGS))})"
"""Any of them, as a regular expression."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_MAGIC = 6


class Watched:
    """A file on disk or a pipe that counts and hashes what is read of it.

    ``start``: its first bytes, once they were read.  ``size``: bytes so far.
    """

    def __init__(self, raw: BinaryIO, on_read: Callable[[int], None] = lambda n: None) -> None:
        self._raw = cast(io.BufferedReader, raw)
        self._on_read = on_read
        self._digest = hashlib.sha256()
        self.size = 0
        self.start = b""

    def read(self, size: int) -> bytes:
        return self._note(self._raw.read(size))

    def read1(self, size: int) -> bytes:
        return self._note(self._raw.read1(size))

    def _note(self, data: bytes) -> bytes:
        self.start = self.start or data
        self._digest.update(data)
        self.size += len(data)
        self._on_read(len(data))
        return data

    def sha256(self) -> str:
        """Of what was read so far."""
        return self._digest.hexdigest()


class ZipMember:
    """A member of a zip archive whose failures are DamagedErrors."""

    def __init__(self, raw: BinaryIO, on_read: Callable[[], None] = lambda: None) -> None:
        self._raw = cast(io.BufferedReader, raw)
        self._on_read = on_read

    def read(self, size: int) -> bytes:
        with zip_errors():
            data = self._raw.read(size)
        self._on_read()
        return data

    def read1(self, size: int) -> bytes:
        with zip_errors():
            data = self._raw.read1(size)
        self._on_read()
        return data


@contextmanager
def zip_errors() -> Iterator[None]:
    """zipfile lets through what its decompressors raise; all of it becomes DamagedError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise DamagedError(f"the zip archive is damaged or cut off: {error}") from None
    except (NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"the zip archive cannot be unpacked here: {error}") from None
    except OSError as error:
        if error.errno is not None:  # of the disk, not of bz2
            raise
        raise DamagedError(f"the zip archive is damaged: {error}") from None


class Stream(io.RawIOBase):
    """Pieces as a file; ``damaged``: it ended in a DamagedError."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._ready = memoryview(b"")
        self.damaged = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            try:
                piece = next(self._pieces, None)
            except DamagedError:
                self.damaged = True
                raise
            if piece is None:
                return 0
            self._ready = memoryview(piece)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def buffered(pieces: Iterator[bytes]) -> io.BufferedReader:
    """Pieces as a file for parsers that read a little at a time."""
    return io.BufferedReader(Stream(pieces), BUFFER_BYTES)


def peek(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, enough to tell a format by, and all pieces; without a byte order mark."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head.removeprefix(_BYTE_ORDER_MARK).lstrip()) >= _LONGEST_MAGIC:
            break
    head = head.removeprefix(_BYTE_ORDER_MARK)
    return head, chain([head], pieces)
