"""Work that is done in another thread, a little before its results are asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

__all__ = ["Prefetch", "prefetch"]

T = TypeVar("T")


def prefetch(items: Iterator[T], depth: int = 2) -> Prefetch[T]:
    """The same items, made by a thread that runs up to ``depth`` ahead.

    An exception in the thread is raised in the caller; closing early ends the thread.
    """
    return Prefetch(items, depth)


class Prefetch(Iterator[T]):
    """What :func:`prefetch` returns."""

    _END = object()

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._work, args=(items,), daemon=True, name="wyr-prefetch")
        self._thread.start()

    def _work(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as error:
            self._error = error
        self._put(self._END)

    def _put(self, item: object) -> bool:
        # Never a put without an end: the caller may have gone.
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _get(self) -> object:
        # Whoever waits here may be another thread than the one that closes.
        while True:
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                if self._stopped.is_set():
                    return self._END

    @property
    def is_ready(self) -> bool:
        """Whether the next item, or the end, can be had without waiting."""
        return self._ended or not self._queue.empty()

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        item = self._get()
        if item is self._END:
            self._ended = True
            if not self._stopped.is_set():
                self._thread.join()
            if self._error is not None:
                raise self._error
            raise StopIteration
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread; no item comes after this."""
        self._stopped.set()
        self._ended = True
        # The thread may sit in a blocking read of a pipe: it is a daemon, so it must not be waited for.
        self._thread.join(timeout=1.0)
