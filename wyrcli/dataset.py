"""Directories of data: written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from wyrcli.errors import WyrError

__all__ = ["new_directory"]


@contextmanager
def new_directory(path: Path, *, replace: Collection[str] = ()) -> Iterator[Path]:
    """A private directory to write into, which becomes ``path`` when the block ends without an error.

    ``path`` may be absent or an empty directory.  A directory with content is replaced only when all
    that lies in it is named in ``replace``; it stays untouched until the new one is complete.

    Raises WyrError, before anything is written, if ``path`` is a file or holds anything else.
    """
    path = Path(os.path.abspath(path))  # not resolve(): a link at path is the user's business
    if path.exists() and not path.is_dir():
        raise WyrError(f"{path}: is a file; expected a directory that is new or empty")
    if path.is_dir():
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in replace)
        if foreign:
            raise WyrError(
                f"{path}: the directory is not empty (it holds {foreign[0]}); choose a new or an empty one"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    private = path.parent / f".{path.name}.{token}.part"  # a sibling: renames stay on one file system
    private.mkdir()
    try:
        yield private
        if path.is_dir() and any(path.iterdir()):
            old = path.parent / f".{path.name}.{token}.old"
            path.rename(old)
            private.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            private.rename(path)
    finally:
        shutil.rmtree(private, ignore_errors=True)
