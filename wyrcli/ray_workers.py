"""Batches answered by actors of a Ray cluster; order is kept.

Actors, not Ray Data: the input is one stream whose batches are cut by number of tokens, in a fixed order;
Ray Data would first turn it into blocks of a data set of its own.  An actor is what a worker process is in
:mod:`wyrcli.workers`, and gets and gives the same bytes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from wyrcli.errors import WyrError
from wyrcli.inference import Batch, Output
from wyrcli.workers import DEPTH, SILENCE, Recipe, Respondent, pack_texts, read_reply

__all__ = ["RayWorkers"]

_RESTARTS = 3  # of an actor, and trials of a batch


def import_ray() -> Any:
    """Ray.  Raises WyrError, naming the extra, where it is not installed."""
    try:
        import ray
    except ImportError:
        raise WyrError("--engine ray needs Ray, which is not installed: pip install 'wyrcli[ray]'") from None
    return ray


class RayWorkers:
    """An engine for :func:`wyrcli.inference.explain`; use it as a context manager.

    It joins the cluster that runs on this machine or that ``RAY_ADDRESS`` names, or else begins one here,
    which ends with the block.

    Parameters
    ----------
    recipe: of each actor; its model must lie at the same place on every node.
    count: how many actors.

    Raises WyrError where Ray is not installed, where there is no room for an actor within SILENCE seconds,
    or where actors die again and again.
    """

    def __init__(self, recipe: Recipe, count: int) -> None:
        self._ray = import_ray()
        self._recipe = replace(recipe, threads=max(1, recipe.threads // count))
        self._actors: list[Any] = []
        self.count = count

    def __enter__(self) -> RayWorkers:
        ray = self._ray
        self._is_guest = ray.is_initialized()
        try:
            if not self._is_guest:
                ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            gpus = int(self._recipe.device != "cpu")
            # Ray shows each actor its own GPU alone, so that it is the first one there.
            actor = ray.remote(
                num_cpus=self._recipe.threads,
                num_gpus=gpus,
                max_restarts=_RESTARTS,
                max_task_retries=_RESTARTS,
            )(Respondent)
            self._actors = [actor.remote(self._recipe) for _ in range(self.count)]
        except (ConnectionError, RuntimeError, ValueError) as error:
            self.__exit__()
            raise WyrError(f"Ray cannot be used: {str(error).splitlines()[0]}") from None
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if not self._is_guest:
            self._ray.shutdown()

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Output]:
        """Outputs in the order of the batches."""
        flying: deque[tuple[Batch, int, Any]] = deque()  # batch, actor, what it will say
        for batch in batches:
            message = pack_texts(batch[0])
            load = self._load(flying)
            chosen = min(range(self.count), key=load.__getitem__)
            flying.append((batch, chosen, self._actors[chosen].reply.remote(message)))
            if len(flying) >= (DEPTH + 1) * self.count:
                yield self._land(*flying.popleft())
        while flying:
            yield self._land(*flying.popleft())

    def _load(self, flying: deque[tuple[Batch, int, Any]]) -> list[int]:
        """How many batches each actor still has to answer."""
        load = [0] * self.count
        references = [reference for _, _, reference in flying]
        if references:
            _, open_ones = self._ray.wait(references, num_returns=len(references), timeout=0)
            waiting = set(open_ones)
            for _, actor, reference in flying:
                load[actor] += reference in waiting
        return load

    def _land(self, batch: Batch, actor: int, reference: Any) -> Output:
        errors = self._ray.exceptions
        windows, readings = batch
        try:
            reply = self._ray.get(reference, timeout=SILENCE)
        except errors.GetTimeoutError:
            raise WyrError(
                f"no actor of Ray has answered for {SILENCE:.0f} seconds; has the cluster room for "
                f"{self.count} with {self._recipe.threads} CPUs each?"
            ) from None
        except errors.RayActorError as error:
            first = windows[0].window.record + 1
            message = str(error).splitlines()[0]
            raise WyrError(f"an actor of Ray ended at the batch with record {first}: {message}") from None
        return Output(windows, readings.batches[0], read_reply(reply, windows))
