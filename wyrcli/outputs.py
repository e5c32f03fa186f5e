"""Files and directories that appear whole or not at all.

Each is written under a private name beside its target and renamed when it is complete.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import random
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wyrcli.errors import WyrError, printable

__all__ = [
    "BgzfText",
    "TextOutput",
    "check_inputs",
    "check_new_directory",
    "check_outputs",
    "check_standard_output",
    "is_regular",
    "json_text",
    "new_directory",
    "open_output",
    "open_path",
    "remove_unfinished",
    "write_json",
]

# ---------------------------------------------------------------- files


class TextOutput(Protocol):
    """Anything that text can be written to."""

    def write(self, text: str, /) -> object: ...


class BgzfText:
    """Text into a BGZF file (gzip in blocks, so that tabix can index it).  Errors name the file ``shown``."""

    def __init__(self, path: str, shown: str) -> None:
        import pysam as module

        self._pysam: Any = module
        self._shown = shown
        # pysam 0.24.1 ends the process with a segmentation fault if the file cannot be opened: let Python
        # meet the error first.  A FIFO must be opened only once, or its reader sees an end too early.
        if not _is_special(path):
            open(path, "ab").close()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # Level 4 takes a third of the time of the default, 6, for tables 7 % larger.
        self._file: Any = self._pysam.BGZFile(path, "w4")

    def write(self, text: str, /) -> int:
        return int(self._do(self._file.write, text.encode("utf-8")))

    def cut(self) -> None:
        """End the block at hand: what follows begins a new one, wherever it is written."""
        self._do(self._file.flush)

    def close(self) -> None:
        self._do(self._file.close)

    def _do(self, act: Callable[..., Any], *arguments: bytes) -> Any:
        before = self._pysam.set_verbosity(0)  # htslib itself would write to stderr
        try:
            return act(*arguments)
        except OSError:
            # It does not tell why.
            raise OSError(errno.EIO, "cannot be written (is the disk full?)", self._shown) from None
        finally:
            self._pysam.set_verbosity(before)


class _PlainText:
    """Text into a file.  Errors name the file ``shown``."""

    def __init__(self, path: str, shown: str) -> None:
        self._shown = shown
        self._file = open(path, "w", encoding="utf-8", newline="\n")

    def write(self, text: str, /) -> int:
        try:
            return self._file.write(text)
        except OSError as error:
            error.filename = self._shown
            raise

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            error.filename = self._shown
            raise


_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends a BGZF file."""


def _cut_end(path: str) -> None:
    """Take the mark of its end from a BGZF file, which another one is to continue."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(_BGZF_END), 0))
        if file.read() == _BGZF_END:
            file.truncate(size - len(_BGZF_END))


MakeIndex = Callable[[str], "str | None"]
"""Given the path of a finished file, writes an index beside it and returns that one's path, or None."""


@contextmanager
def open_output(
    path: str, make_index: MakeIndex | None = None, *, is_last: bool = True
) -> Iterator[TextOutput]:
    """A text handle on an output; a regular file appears whole at the end, or not at all.

    Parameters
    ----------
    path: ``-`` is standard output (flushed, left open).  A name that ends in ``.gz`` or ``.bgz`` is
        written as BGZF.  Devices, FIFOs and other existing non-regular files are written directly.
        Anything else is written beside the target under a temporary name, which takes the target's place
        (through symbolic links, with the old file's mode) when the block ends, and is removed if the block
        ends with an exception of any kind.
    make_index: called for a regular file once it is complete; the index appears with the file, and one of
        an older file goes.
    is_last: False for a part of a file that is continued by another one: BGZF without the mark of its end.

    Raises
    ------
    WyrError: on entry, if the directory is missing or the file cannot be written.
    """
    if path == "-":
        check_standard_output()
        yield sys.stdout
        sys.stdout.flush()
    elif _is_special(path):
        with _open_text(path, path) as handle:
            yield handle
    else:
        with _temporary(path, make_index) as temporary:
            with _open_text(temporary, path) as handle:
                yield handle
            if not is_last and isinstance(handle, BgzfText):
                _cut_end(temporary)


@contextmanager
def open_path(path: str) -> Iterator[str]:
    """A path for a library that opens its files by itself; what is there in the end is the output.

    It appears as :func:`open_output` says.  For standard output, devices and FIFOs the file is a temporary
    one, copied there when the block ends.

    Raises WyrError on entry, if the directory is missing or the file cannot be written.
    """
    if path == "-":
        check_standard_output()
    if path == "-" or _is_special(path):
        with tempfile.TemporaryDirectory(prefix="wyr-") as folder:
            temporary = os.path.join(folder, "output")
            yield temporary
            with open(temporary, "rb") as source:
                if path == "-":
                    sys.stdout.flush()
                    shutil.copyfileobj(source, sys.stdout.buffer)
                    sys.stdout.buffer.flush()
                else:
                    with open(path, "wb") as sink:
                        shutil.copyfileobj(source, sink)
    else:
        with _temporary(path) as temporary:
            yield temporary


@contextmanager
def _temporary(path: str, make_index: MakeIndex | None = None) -> Iterator[str]:
    """A private path beside a regular file, which takes its place when the block ends without an error."""
    target = os.path.realpath(path)
    _check_target(path, target)
    temporary, descriptor = _claim(path, target)
    index = None
    try:
        yield temporary
        if make_index is not None:
            index = make_index(temporary)
            for suffix in (".tbi", ".csi"):
                _remove(target + suffix)  # of an older file: it would lead readers astray
        _publish(temporary, target)
        if index is not None:
            _publish(index, target + os.path.splitext(index)[1])
    except BaseException:  # KeyboardInterrupt and GeneratorExit too
        for unfinished in (temporary, temporary + ".tbi", temporary + ".csi"):
            _remove(unfinished)
        raise
    finally:
        os.close(descriptor)


def _claim(path: str, target: str) -> tuple[str, int]:
    """A new private file beside ``target``, and the descriptor that holds its lock.

    What killed runs have left beside the target is removed.  Raises WyrError where another run, whose lock
    lives as long as its process, is writing the same file.
    """
    directory, name = os.path.split(target)
    # The name is cut so that with what is added it stays within the usual 255 bytes.
    stem = name if len(name) <= 100 else f"{name[:83]}.{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    left = re.compile(rf"\.{re.escape(stem)}\.tmp\.\d+\.[0-9a-f]{{8}}(\.tbi|\.csi)?")
    shown = printable(path, limit=300)
    for attempt in range(3):
        token = secrets.token_hex(4)
        temporary = os.path.join(directory, f".{stem}.tmp.{os.getpid()}.{token}")
        new = os.path.join(directory, f".{stem}.new.{token}")
        try:
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(new, temporary)  # nobody has seen it without its lock
        except OSError as error:
            raise WyrError(f"cannot write {shown}: {error.strerror or error}") from None
        others = []
        with suppress(OSError):  # a folder that may not be read
            others = [e.path for e in os.scandir(directory) if left.fullmatch(e.name)]
        others = [other for other in others if other != temporary]
        if not any(_has_lock(other) for other in others):
            for other in others:
                if _has_lock(other) is False:
                    _remove(other)
            return temporary, descriptor
        _remove(temporary)
        os.close(descriptor)
        if attempt < 2:  # two that begin at the same moment must not both give way
            time.sleep(random.uniform(0.02, 0.2))
    raise WyrError(f"cannot write {shown}: another run is writing it now")


def _has_lock(path: str) -> bool | None:
    """Whether a running process holds the lock of a file; None where nobody can tell."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def check_standard_output() -> None:
    """Raise WyrError where a shell closed it (``>&-``)."""
    if sys.stdout is None:
        raise WyrError("there is no standard output; expected a file (-o), or one that is open")


def _is_special(path: str) -> bool:
    """Whether the path exists and is neither a regular file nor a directory (both are checked later)."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_regular(path: str) -> bool:
    """Whether a path is, or would be, that of a regular file: no standard output, device or FIFO."""
    return path != "-" and not _is_special(path)


def _check_target(path: str, target: str) -> None:
    shown = printable(path, limit=300)
    directory = os.path.dirname(target)
    if not path:
        raise WyrError("cannot write an output without a name")
    if os.path.isdir(target):
        raise WyrError(f"cannot write {shown}: it is a directory")
    if not os.path.isdir(directory):
        raise WyrError(f"cannot write {shown}: there is no directory {printable(directory, limit=300)}")
    # A rename would replace a write-protected file; a shell's '>' would not.
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise WyrError(f"cannot write {shown}: the file is write-protected")


@contextmanager
def _open_text(path: str, shown: str) -> Iterator[TextOutput]:
    """Open ``path`` for writing; errors name ``shown``, the output as the user named it."""
    handle: BgzfText | _PlainText
    try:
        if shown.endswith((".gz", ".bgz")):
            handle = BgzfText(path, shown)
        else:
            handle = _PlainText(path, shown)
    except OSError as error:
        raise WyrError(f"cannot write {printable(shown, limit=300)}: {error.strerror or error}") from None
    try:
        yield handle
    except BaseException:
        try:
            handle.close()
        except OSError:
            pass  # what went wrong first matters more (a full disk fails here again)
        raise
    handle.close()


def _publish(temporary: str, target: str) -> None:
    """Give a finished file its name, once its content is on the disk."""
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if os.path.exists(target):
        os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
    os.replace(temporary, target)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def check_outputs(outputs: Sequence[str | None], inputs: Sequence[str]) -> None:
    """Raise WyrError if two outputs are the same file, or an output is an input.

    None stands for an output that was not asked for.  Devices and FIFOs may be named twice; standard
    output may not.  ``-`` among inputs is standard input, and never clashes.
    """
    seen: list[str] = []
    for output in outputs:
        if output is None:
            continue
        shown = "standard output" if output == "-" else printable(output, limit=300)
        if any(_same_file(output, other) for other in seen):
            raise WyrError(f"two outputs would be written to {shown}; name a file for each")
        if output != "-" and any(_same_file(output, path) for path in inputs if path != "-"):
            raise WyrError(f"{shown} is an input; name another file for the output")
        seen.append(output)


def check_inputs(paths: Sequence[str]) -> None:
    """Raise OSError for a file that is not there or may not be read: worth doing before models are loaded."""
    for path in paths:
        if path == "-":
            continue
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _same_file(first: str, second: str) -> bool:
    if "-" in (first, second):
        return first == second
    if _is_special(first) or _is_special(second):
        return False
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:  # hard links, and file systems that do not tell upper from lower case
        return os.path.samefile(first, second)
    except OSError:
        return False


def write_json(path: str, content: Mapping[str, object]) -> None:
    """Write a report, whole or not at all; see :func:`open_output`.

    numpy's numbers and arrays are written as JSON's.  Raises ValueError for NaN and infinities, which JSON
    lacks, and TypeError for anything else that is no JSON, both before a file is touched.
    """
    with open_output(path) as handle:
        handle.write(json_text(content))


def json_text(content: Mapping[str, object]) -> str:
    """The text that :func:`write_json` writes, for a handle that is open already."""
    return json.dumps(content, indent=1, allow_nan=False, default=_plain) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a report cannot hold {type(value).__name__}")


# ---------------------------------------------------------------- directories


def check_new_directory(path: Path, *, replace: Collection[str] = ()) -> None:
    """Raise WyrError where :func:`new_directory` would: worth doing before long work."""
    if path.exists() and not path.is_dir():
        raise WyrError(f"{path}: is a file; expected a directory that is new or empty")
    if path.is_dir():
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in replace)
        if foreign:
            raise WyrError(
                f"{path}: the directory is not empty (it holds {foreign[0]}); choose a new or an empty one"
            )


@contextmanager
def new_directory(path: Path, *, replace: Collection[str] = ()) -> Iterator[Path]:
    """A private directory to write into, which becomes ``path`` when the block ends without an error.

    ``path`` may be absent or an empty directory.  A directory with content is replaced only when all
    that lies in it is named in ``replace``; it stays untouched until the new one is complete.  What a run
    that was killed has left beside ``path`` is removed first.

    Raises WyrError if ``path`` is a file or holds anything else: before anything is written, and again at
    the end, in case that another run was faster.
    """
    path = Path(os.path.realpath(path))  # what a link points at is replaced, never the link
    check_new_directory(path, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    token = secrets.token_hex(4)
    private = path.parent / f".{path.name}.{token}.part"  # a sibling: renames stay on one file system
    private.mkdir()
    try:
        with _locked(private):
            yield private
            check_new_directory(path, replace=replace)
            if path.is_dir() and any(path.iterdir()):
                old = path.parent / f".{path.name}.{token}.old"
                path.rename(old)
                private.rename(path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                private.rename(path)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def remove_unfinished(path: Path) -> int:
    """Remove what killed runs have left of the directory ``path``; returns of how many.

    What a run that is still at work is writing stays: it holds a lock, which ends with its process.
    """
    path = Path(os.path.realpath(path))
    removed = 0
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError), _locked(left, wait=False):
            shutil.rmtree(left)
            removed += 1
    return removed


@contextmanager
def _locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a directory.  Raises OSError if it is another's and we are not to wait."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:
                raise  # where a file system knows no locks, nobody removes anything either
        yield
    finally:
        os.close(descriptor)
