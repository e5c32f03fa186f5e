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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shelf", "digest"]


def digest(*parts: bytes | str | Path | Iterable[str]) -> str:
    """SHA-256 in hexadecimal of bytes, texts, contents of files and sequences of texts, in this order."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            content = hashlib.sha256(part.read_bytes()).digest()
        elif isinstance(part, bytes):
            content = hashlib.sha256(part).digest()
        else:
            content = hashlib.sha256(
                json.dumps([part] if isinstance(part, str) else list(part)).encode()
            ).digest()
        found.update(content)
    return found.hexdigest()


class Shelf:
    """Keeps arrays and JSON by name.

    Parameters
    ----------
    folder: where; it is made.  None keeps nothing.
    about: digest of all that every part rests on.
    """

    def __init__(self, folder: Path | None, about: str) -> None:
        self._folder = folder
        self._about = about
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def arrays(
        self, name: str, about: str, compute: Callable[[], tuple[Sequence[NDArray[np.float64]], float]]
    ) -> tuple[list[NDArray[np.float64]], float]:
        """Arrays of one dimension and a number, from the folder or computed.

        ``about``: what this part alone rests on.
        """
        path = self._path(name, about, "npz")
        if path is not None and path.is_file():
            with np.load(path) as content:
                ends = np.cumsum(content["lengths"])[:-1]
                return np.split(content["values"], ends), float(content["number"])
        arrays, number = compute()
        if path is not None:
            lengths = np.array([len(own) for own in arrays])
            values = np.concatenate([np.empty(0), *arrays])

            def write(target: Path) -> None:
                with target.open("wb") as handle:
                    np.savez_compressed(handle, lengths=lengths, values=values, number=np.array(number))

            _replace(path, write)
        return list(arrays), number

    def content(self, name: str, about: str, compute: Callable[[], Any]) -> Any:
        """What JSON can hold, from the folder or computed."""
        path = self._path(name, about, "json")
        if path is not None and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        found = compute()
        if path is not None:
            _replace(path, lambda target: target.write_text(json.dumps(found), encoding="utf-8"))
        return found

    def _path(self, name: str, about: str, ending: str) -> Path | None:
        if self._folder is None:
            return None
        safe = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
        return self._folder / f"{safe}-{digest(self._about, name, about)[:16]}.{ending}"


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
