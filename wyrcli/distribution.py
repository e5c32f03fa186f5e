"""The processes of one training: alone, or started together by torchrun or accelerate.

Their launcher tells each process its number by the environment (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
``MASTER_ADDR``, ``MASTER_PORT``).  A process that dies ends the job: the launcher stops the others.

Not to be confused with a taxonomic rank: a process has a ``number`` here.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wyrcli.errors import DeviceError

__all__ = ["World", "join_world"]


@dataclass(frozen=True)
class World:
    """Who takes part.  ``number``: of this process, from 0;  ``size``: how many there are."""

    number: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.number == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, with its gradients averaged over all processes."""
        if self.size == 1:
            return module
        # Buffers are shared where it matters: see share_buffers.
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the buffers of the first: the running means of batch normalisation differ."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def agree(self, value: int) -> bool:
        """Whether a number is the same in all processes."""
        if self.size == 1:
            return True
        low_high = torch.tensor([value, -value], dtype=torch.int64, device=self.device)
        dist.all_reduce(low_high, dist.ReduceOp.MAX)
        return bool(low_high[0] == -low_high[1])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place, for each of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is true in one of the processes; all must ask at the same moment."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """The processes that were started together with this one, each on a device of its own.

    With CUDA, process number N of a machine takes its GPU number N (NCCL); processors talk by gloo.

    Raises DeviceError for more processes than GPUs on a machine, or an environment that is not complete.
    """
    try:
        size, number = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        local = int(os.environ.get("LOCAL_RANK", 0))
    except ValueError as error:
        raise DeviceError(f"WORLD_SIZE, RANK and LOCAL_RANK are set, but not to numbers: {error}") from None
    if size <= 1:
        yield World(device=device)
        return
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"the {size} processes of this job did not find each other: {reason}") from None
    world = World(number, size, device)
    try:
        yield world
        # The first process writes at the end, and the others' connections go through it.
        world.wait()
    finally:
        # Models that were wrapped hold on to the group, in circles: its threads would live until the
        # interpreter ends, and now and then abort it.
        gc.collect()
        dist.destroy_process_group()
