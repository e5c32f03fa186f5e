"""Results of long parts of a study, kept in a folder, so that a study that was stopped need not begin anew.

A part is found again only if all that it rests on is the same: its file bears a digest of that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import WyrError

__all__ = ["Shelf", "digest", "write_whole"]


def digest(*parts: str | Path | Iterable[str]) -> str:
    """SHA-256 in hexadecimal of texts, the contents of files, and sequences of texts, in this order."""
    found = hashlib.sha256()
    for part in parts:
        own = hashlib.sha256()
        if isinstance(part, Path):
            with part.open("rb") as handle:
                own = hashlib.file_digest(handle, "sha256")
        else:
            for text in [part] if isinstance(part, str) else part:
                own.update(f"{len(text)}:{text}".encode())
        found.update(own.digest())
    return found.hexdigest()


class Shelf:
    """Keeps arrays and JSON by name.

    Parameters
    ----------
    folder: where; it is made.  None keeps nothing.
    about: digest of all that every part rests on.

    A file that cannot be read counts as not there.  Raises WyrError if the folder cannot be made.
    """

    def __init__(self, folder: Path | None, about: str) -> None:
        self._folder = folder
        self._about = about
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WyrError(f"cannot keep parts in {folder}: {error.strerror or error}") from None

    def arrays(
        self, name: str, about: str, compute: Callable[[], tuple[Sequence[NDArray[np.float64]], float]]
    ) -> tuple[list[NDArray[np.float64]], float]:
        """Arrays of one dimension and a number, from the folder or computed.

        ``about``: what this part alone rests on.
        """
        path = self._path(name, about, "npz")
        if path is not None and path.is_file():
            damaged = (OSError, ValueError, KeyError, EOFError, BadZipFile)
            with suppress(*damaged), path.open("rb") as handle, np.load(handle) as content:
                ends = np.cumsum(content["lengths"])[:-1]
                return np.split(content["values"], ends), float(content["number"])
        arrays, number = compute()
        if path is not None:
            lengths = np.array([len(own) for own in arrays])
            values = np.concatenate([np.empty(0), *arrays])

            def write(target: Path) -> None:
                with target.open("wb") as handle:
                    np.savez_compressed(handle, lengths=lengths, values=values, number=np.array(number))

            write_whole(path, write)
        return list(arrays), number

    def content(self, name: str, about: str, compute: Callable[[], Any]) -> Any:
        """What JSON can hold, from the folder or computed."""
        path = self._path(name, about, "json")
        if path is not None and path.is_file():
            with suppress(OSError, ValueError):
                return json.loads(path.read_text(encoding="utf-8"))
        found = compute()
        if path is not None:
            write_whole(path, lambda target: target.write_text(json.dumps(found), encoding="utf-8"))
        return found

    def _path(self, name: str, about: str, ending: str) -> Path | None:
        if self._folder is None:
            return None
        safe = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
        return self._folder / f"{safe}-{digest(self._about, name, about)[:16]}.{ending}"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file at the path it is given, which is there whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(part)
        with part.open("rb") as handle:  # before the name is there, so that a crash leaves no empty file
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
