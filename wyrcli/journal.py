"""Answers of the models, kept while a run goes on, so that one that was killed need not ask again.

    important.bed.resume/            beside the output
      run.json                       what decides the answers: input, model, options
      answers-00000000-00000012.safetensors   those of the first 12 batches
      answers-00000012-00000005.safetensors   of the next 5

Batches are answered in the order of the input, so that what is kept is always its beginning.  A file is
written under another name and renamed when it is on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wyrcli.answers import Answer, from_bytes, pack_answer, to_bytes, unpack_answer
from wyrcli.errors import WyrError, printable
from wyrcli.keeping import write_whole
from wyrcli.runs import find_differences

__all__ = ["Journal"]

FORMAT = 1
SECONDS = 5.0  # most work, about, that is lost; less would make many small files
_MOST_BYTES = 32 * 1024**2  # of answers that wait for their file
_NAME = re.compile(r"answers-(\d{8,})-(\d{8,})\.safetensors")
_UNFINISHED = re.compile(r"\.(run\.json|answers-\d+-\d+\.safetensors)\.[0-9a-f]{8}")  # of keeping.write_whole


class Journal:
    """The answers of one run on disk.  Use as a context manager: the folder goes if the block ends well.

    Parameters
    ----------
    path: of the folder; it is made.
    about: what decides the answers, as JSON can hold it.

    ``stored``: of how many batches, from the first on, the answers are there.

    Raises WyrError if the folder is of a run that differs, or that is at work now.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self._about = json.loads(json.dumps({"format": FORMAT, **about}, default=str))
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise self._cannot(error) from None
        self._lock = self._take()
        try:
            self._begin()
            self._files = self._find()
        except BaseException:
            os.close(self._lock)
            raise
        self.stored = sum(n for _, n in self._files)
        self._next = self.stored
        self._waiting: dict[str, NDArray[np.generic]] = {}
        self._first = self.stored  # of those that wait
        self._bytes = 0
        self._written = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            with suppress(WyrError):  # a full disk, perhaps: what went wrong first matters more
                self._write()
            if not self._first:
                shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def _cannot(self, error: OSError) -> WyrError:
        shown = printable(str(self.path), limit=300)
        return WyrError(f"cannot keep answers in {shown}: {error.strerror or error}")

    # ------------------------------------------------ the folder

    def _take(self) -> int:
        """Hold the folder for as long as this process lives."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise self._cannot(error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            shown = printable(str(self.path), limit=300)
            raise WyrError(f"{shown}: another run is at work on this output now") from None
        except OSError:
            pass  # a file system without locks
        return descriptor

    def _begin(self) -> None:
        """Compare with the run that was begun here, or begin."""
        manifest = self.path / "run.json"
        shown = printable(str(self.path), limit=300)
        unfinished = [path for path in self.path.iterdir() if _UNFINISHED.fullmatch(path.name)]
        if manifest.is_file():
            try:
                then = json.loads(manifest.read_text(encoding="utf-8"))
                differing = find_differences(then, self._about)
            except (OSError, ValueError, AttributeError) as error:
                raise WyrError(f"{shown}: run.json cannot be read: {error}; remove the folder") from None
            if differing:
                raise WyrError(
                    f"{shown}: the run that was begun here differs: {differing}; run it as it was, or remove "
                    "this folder to begin anew"
                )
            for path in unfinished:
                with suppress(OSError):
                    path.unlink()
            return
        if len(list(self.path.iterdir())) > len(unfinished):
            raise WyrError(f"{shown}: holds no answers of a run; remove it, or name another output")
        text = json.dumps(self._about, indent=1) + "\n"
        try:
            write_whole(manifest, lambda target: target.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise self._cannot(error) from None

    def _find(self) -> list[tuple[Path, int]]:
        """The files that follow one another without a gap, and the batches of each; others are removed."""
        named = ((_NAME.fullmatch(path.name), path) for path in self.path.iterdir())
        found = sorted((int(m[1]), int(m[2]), path) for m, path in named if m is not None)
        files: list[tuple[Path, int]] = []
        end = 0
        for first, n, path in found:
            if first == end:
                files.append((path, n))
                end += n
            else:
                path.unlink()
        return files

    # ------------------------------------------------ answers

    def read(self) -> Iterator[tuple[int, Answer]]:
        """What was kept: checksum and answer of each batch.

        Raises WyrError where a file is damaged.
        """
        number = 0
        for path, n in self._files:
            try:
                arrays = from_bytes(path.read_bytes())
                for _ in range(n):
                    own = f"{number}/"
                    answer = {k.removeprefix(own): v for k, v in arrays.items() if k.startswith(own)}
                    yield int(answer["checksum"][0]), unpack_answer(answer)
                    number += 1
            except (ValueError, KeyError) as error:
                shown = printable(str(path), limit=300)
                raise WyrError(
                    f"{shown}: damaged: {error}; remove it to have its batches done again"
                ) from None

    def add(self, checksum: int, answer: Answer) -> None:
        """Keep the answer on the next batch."""
        own = {"checksum": np.array([checksum], dtype=np.uint32), **pack_answer(answer)}
        self._waiting |= {f"{self._next}/{name}": array for name, array in own.items()}
        self._next += 1
        self._bytes += sum(array.nbytes for array in own.values())
        if self._bytes >= _MOST_BYTES or time.monotonic() - self._written >= SECONDS:
            self._write()

    def _write(self) -> None:
        n = self._next - self._first
        if n:
            path = self.path / f"answers-{self._first:08}-{n:08}.safetensors"
            content = to_bytes(self._waiting)
            try:
                write_whole(path, lambda target: target.write_bytes(content))
            except OSError as error:
                raise self._cannot(error) from None
        self._waiting, self._bytes, self._first = {}, 0, self._next
        self._written = time.monotonic()
