"""What can go wrong because of a user's input, as one tree of exceptions.

    WyrError
    ├── InputError        a sequence or table cannot be read as what it should be
    ├── TaxonomyError     an unknown taxon, rank or taxid
    ├── CheckpointError   a model directory of the wrong kind, format or shape
    ├── DeviceError       a device was asked for that this machine lacks
    └── Interrupted       a signal ended the work, which can go on later

Each message is one line that says what is wrong, where, and what was expected.
The command line turns any of them into ``wyr: error: ...`` and exit code 1.
"""

from __future__ import annotations

__all__ = ["CheckpointError", "DeviceError", "InputError", "Interrupted", "TaxonomyError", "WyrError"]


class WyrError(Exception):
    """Anything a user can cause and a user can mend."""


class InputError(WyrError):
    """A file does not hold what it should.

    Parameters
    ----------
    message: what was found and what was expected.
    path: the file as the user named it.
    record: ordinal of the record in the file, **counted from 1**.
    name: the record's name, if it was read.
    line: line in the decompressed text, **counted from 1**.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        record: int | None = None,
        name: str | None = None,
        line: int | None = None,
    ) -> None:
        self.path = path
        self.record = record
        self.name = name
        self.line = line
        where = []
        if path is not None:
            where.append(printable(path, limit=300))
        if record is not None:
            where.append(f"record {record}" + (f" ('{printable(name)}')" if name else ""))
        if line is not None:
            where.append(f"line {line}")
        super().__init__(f"{', '.join(where)}: {message}" if where else message)


class TaxonomyError(WyrError):
    """A taxon, rank or taxid is not known to the taxonomy in use."""


class CheckpointError(WyrError):
    """A checkpoint directory is missing parts, or holds parts that do not fit."""


class DeviceError(WyrError):
    """The requested device is not available on this machine."""


class Interrupted(WyrError):
    """Work was told to stop and can go on later.  ``signal``: the number of SIGTERM or SIGINT."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


def printable(text: str, limit: int = 80) -> str:
    """Text from a file made safe for a terminal: no control characters, at most ``limit`` long.

    >>> printable("read\\x1b[31m1")
    'read?[31m1'
    """
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def counted(n: int, noun: str, plural: str = "") -> str:
    """
    >>> counted(1, "record"), counted(2000, "record"), counted(0, "class", "classes")
    ('1 record', '2,000 records', '0 classes')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
