"""Several processes that answer batches, each with the models on a device of its own; order is kept.

    this process:  windows -> batches -> letters ->                 -> answers, in order -> explanations
    workers:                                        tokens -> models

A message is the bytes of a safetensors file, nothing is pickled.  Every wait has an end: a worker that dies,
or that is silent for longer than any batch can take, is replaced, and its batches are given out again, a
bounded number of times.  Workers end when this process does, however it ends: they read the end of a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wyrcli.answers import Answer, Answerer, ShortOfMemory, from_bytes, pack_answer, to_bytes, unpack_answer
from wyrcli.checkpoint import load_checkpoint, load_explainer
from wyrcli.errors import WyrError, counted
from wyrcli.inference import Batch, Numbered, Output, read_texts, too_large
from wyrcli.memory import keep_freed
from wyrcli.model.tokens import Tokenizer
from wyrcli.scoring import BaseResolution
from wyrcli.targets import Question

__all__ = ["Recipe", "Respondent", "Workers", "make_recipes", "pack_texts", "read_reply"]

Arrays = dict[str, NDArray[Any]]

DEPTH = 2  # batches at a worker: one at which it works, and the next one
MOST_DEATHS = 3  # of workers, over the same batch
SILENCE = 1800.0  # seconds that a worker may take for a batch, and before it for its start
_TRANSFER = 60.0  # seconds in which a running process takes or gives a message that is begun


@dataclass(frozen=True)
class Recipe:
    """How a worker gets its models.

    ``device`` and ``precision``: as in ``cuda:1`` and ``torch.bfloat16``.  ``threads``: of its CPU.
    """

    model: str
    explainer: str
    operator: str
    device: str
    precision: str
    threads: int
    question: Question
    per_base: BaseResolution | None = None


class Respondent:
    """The models of a recipe, and what they say of messages; the part of a worker that any engine can use."""

    def __init__(self, recipe: Recipe) -> None:
        keep_freed()
        torch.set_num_threads(recipe.threads)
        device = torch.device(recipe.device)
        dtype = getattr(torch, recipe.precision.removeprefix("torch."))
        checkpoint = load_checkpoint(Path(recipe.model))
        trained = load_explainer(checkpoint.path, recipe.explainer, recipe.operator)
        self._tokenizer: Tokenizer = checkpoint.tokenizer
        self._device, self._per_base = device, recipe.per_base
        self._answerer = Answerer(
            checkpoint.explanandum.to(device, dtype),
            trained.explainer.to(device, dtype),
            device,
            recipe.question,
            recipe.per_base,
        )

    def reply(self, message: bytes) -> bytes:
        """The reply to :func:`pack_texts`, for :func:`read_reply`: an answer, or what went wrong."""
        try:
            texts = _unpack_texts(from_bytes(message))
            readings = read_texts(self._tokenizer, texts, self._device, self._per_base)
            return to_bytes(pack_answer(self._answerer.answer(readings)))
        except ShortOfMemory as error:
            return to_bytes({"short_of_memory": np.array([error.row])})
        except WyrError as error:
            return _complaint("mistake", str(error))
        except Exception:
            return _complaint("failure", traceback.format_exc())


def _complaint(kind: str, text: str) -> bytes:
    return to_bytes({kind: np.frombuffer(text.encode(), np.uint8)})


def pack_texts(windows: Sequence[Numbered]) -> bytes:
    """The letters of a batch as a message."""
    texts = [numbered.window.sequence.encode() for numbered in windows]
    lengths = np.array([len(text) for text in texts], np.int64)
    return to_bytes({"lengths": lengths, "letters": np.frombuffer(b"".join(texts), np.uint8)})


def _unpack_texts(arrays: Arrays) -> list[str]:
    letters, ends = arrays["letters"].tobytes(), np.cumsum(arrays["lengths"]).tolist()
    return [letters[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def read_reply(reply: bytes, windows: Sequence[Numbered]) -> Answer:
    """The answer in a reply.  Raises what the worker could not do: WyrError, or RuntimeError for a defect."""
    arrays = from_bytes(reply)
    if "short_of_memory" in arrays:
        raise too_large(windows[int(arrays["short_of_memory"][0])].window)
    if "mistake" in arrays:
        raise WyrError(arrays["mistake"].tobytes().decode())
    if "failure" in arrays:
        raise RuntimeError(f"in a worker:\n{arrays['failure'].tobytes().decode()}")
    answer = unpack_answer(arrays)
    if len(answer) != len(windows):
        raise RuntimeError(f"{len(windows)} windows were sent to a worker, and {len(answer)} came back")
    return answer


# ---------------------------------------------------------------- in the worker


def _work(connection: Connection, recipe: Recipe) -> None:
    """What a worker does: reply to messages in their order, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has us
    messages: queue.Queue[bytes | None] = queue.Queue()

    def receive() -> None:
        # Also while the models work: whoever sends must never wait for them.
        with suppress(EOFError, OSError):
            while True:
                messages.put(connection.recv_bytes())
        messages.put(None)

    threading.Thread(target=receive, daemon=True, name="wyr-receive").start()
    with suppress(BrokenPipeError, ConnectionResetError):
        respondent: Respondent | None = None
        complaint = b""
        try:
            respondent = Respondent(recipe)
        except WyrError as error:
            complaint = _complaint("mistake", str(error))
        except Exception:
            complaint = _complaint("failure", traceback.format_exc())
        while (message := messages.get()) is not None:
            connection.send_bytes(complaint if respondent is None else respondent.reply(message))


# ---------------------------------------------------------------- here


@dataclass
class _Task:
    """A batch that is out, or waits for a worker."""

    number: int
    windows: list[Numbered]
    batch: Any
    message: bytes
    deaths: int = 0


class _Worker:
    """A process, the batches it has, and since when it owes an answer."""

    def __init__(self, context: Any, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tasks: deque[_Task] = deque()
        self.since = time.monotonic()
        ours, theirs = context.Pipe()
        self._connection: Connection = ours
        self.process = context.Process(target=_work, args=(theirs, recipe), daemon=True, name="wyr-worker")
        with _sigint_held():
            self.process.start()
        theirs.close()  # so that we read an end when the worker has gone
        limit = struct.pack("ll", int(_TRANSFER), 0)
        with socket.socket(fileno=os.dup(ours.fileno())) as handle:
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                handle.setsockopt(socket.SOL_SOCKET, option, limit)

    @property
    def connection(self) -> Connection:
        """This process's end of the pipe."""
        return self._connection

    @property
    def is_silent(self) -> bool:
        """Whether an answer is overdue."""
        return bool(self.tasks) and time.monotonic() - self.since > SILENCE

    def send(self, task: _Task) -> None:
        """Give out a batch.  Raises OSError where the worker does not take it; it has it nevertheless."""
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self._connection.send_bytes(task.message)

    def receive(self) -> tuple[_Task, bytes]:
        """The next answer.  Raises EOFError or OSError where none comes."""
        reply = self._connection.recv_bytes()
        self.since = time.monotonic()
        return self.tasks.popleft(), reply

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        self.process.kill()
        self.process.join(10)

    def cause(self) -> str:
        """Why it has ended, in words."""
        code = self.process.exitcode
        if code is None:
            return "it does not answer"
        if code < 0:
            with suppress(ValueError):
                name = signal.Signals(-code).name
                return f"signal {name}" + (", memory may be short" if name == "SIGKILL" else "")
        return f"exit code {code}"


class Workers:
    """An engine for :func:`wyrcli.inference.explain`; use it as a context manager.

    Parameters
    ----------
    recipes: one for each process.

    Raises WyrError where a batch brings down MOST_DEATHS workers, or workers end before they have
    answered anything.
    """

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self._context = multiprocessing.get_context("spawn")  # a process that has used CUDA cannot be forked
        self._recipes = recipes
        self._workers: list[_Worker] = []

    @property
    def count(self) -> int:
        """How many processes."""
        return len(self._recipes)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Output]:
        """Outputs in the order of the batches."""
        if not self._workers:
            self._workers = [_Worker(self._context, recipe) for recipe in self._recipes]
        room = (DEPTH + 1) * len(self._workers)  # batches that are out, or answered too early
        waiting: deque[_Task] = deque()  # were at a worker that has died
        done: dict[int, Output] = {}
        taken = given = 0
        ended = False
        while not ended or given < taken:
            while (worker := self._free_worker()) is not None:
                if waiting:
                    task = waiting.popleft()
                elif ended or taken - given >= room or (taken > given and not _is_ready(batches)):
                    break
                else:
                    pair = next(batches, None)
                    if pair is None:
                        ended = True
                        break
                    windows, readings = pair
                    task = _Task(taken, windows, readings.batches[0], pack_texts(windows))
                    taken += 1
                try:
                    worker.send(task)
                except OSError:
                    waiting.extend(self._replace(worker))
            for task, reply in self._receive(waiting):
                answer = read_reply(reply, task.windows)
                done[task.number] = Output(task.windows, task.batch, answer)
            while given in done:
                output = done.pop(given)
                given += 1
                yield output

    def _free_worker(self) -> _Worker | None:
        worker = min(self._workers, key=lambda own: len(own.tasks))
        return worker if len(worker.tasks) < DEPTH else None

    def _receive(self, waiting: deque[_Task]) -> list[tuple[_Task, bytes]]:
        """Answers that have come, if any come within a moment; what dead workers had, into ``waiting``."""
        busy = {worker.connection: worker for worker in self._workers if worker.tasks}
        replies = []
        # A pipe can be read also when its other end has gone: no need to watch the processes themselves.
        for connection in wait(list(busy), timeout=0.1) if busy else ():
            worker = busy[connection]  # type: ignore[index]
            try:
                replies.append(worker.receive())
            except (EOFError, OSError):
                waiting.extend(self._replace(worker))
        for worker in busy.values():
            if worker.is_silent and worker in self._workers:
                waiting.extend(self._replace(worker))
        return replies

    def _replace(self, worker: _Worker) -> list[_Task]:
        """Have a new worker in place of a dead one; returns the batches that the old one had."""
        worker.process.join(1)  # its pipe has ended: so will it
        cause = worker.cause()
        worker.stop()
        tasks = list(worker.tasks)
        if tasks:
            tasks[0].deaths += 1  # it was at work on the first
            if tasks[0].deaths >= MOST_DEATHS:
                first = tasks[0].windows[0].window
                raise WyrError(
                    f"{counted(tasks[0].deaths, 'worker')} ended at the batch of {len(tasks[0].windows):,} "
                    f"windows that begins with record {first.record + 1} ({cause})"
                )
        self._workers[self._workers.index(worker)] = _Worker(self._context, worker.recipe)
        return tasks


def _is_ready(batches: Iterator[Batch]) -> bool:
    """Whether the next batch is there already, so that nobody has to wait for it; True if nobody knows."""
    return bool(getattr(batches, "is_ready", True))


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Processes that begin here never see Ctrl-C; this one sees it when the block has ended."""
    resource_tracker.ensure_running()  # or the first process to begin would, and lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make_recipes(recipe: Recipe, devices: Sequence[torch.device], processes: int) -> list[Recipe]:
    """One recipe for each of ``processes`` per device; they share the CPU's threads.

    ``recipe.threads``: of all together.
    """
    places = [str(device) for device in devices for _ in range(processes)]
    threads = max(1, recipe.threads // len(places))
    return [replace(recipe, device=place, threads=threads) for place in places]
