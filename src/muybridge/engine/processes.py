"""Several processes that share one piece of work, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from muybridge.errors import MuybridgeError

Answer = TypeVar("Answer")
PATIENCE = timedelta(hours=12)  # processes that are done wait for the slowest


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, counted from 0."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def agree(self, work: Callable[[], Answer]) -> Answer:
        """What `work` returns in the first process, in every process; its MuybridgeError is raised in every process."""
        if self.count == 1:
            return work()
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = work()
            except MuybridgeError as error:
                told[1] = error
        distributed.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def gather(self, mine: Answer) -> list[Answer]:
        """What every process brings, by rank, in every process."""
        if self.count == 1:
            return [mine]
        everyone: list[Any] = [None] * self.count
        distributed.all_gather_object(everyone, mine)
        return everyone


def join_processes() -> Processes:
    """Join the processes that the environment tells of (RANK, WORLD_SIZE); alone where it tells of none.

    The results that are exchanged are small and on the CPU, so gloo does on every machine. A process group that is
    there already is used as it is.
    """
    if not distributed.is_available() or ("RANK" not in os.environ and not distributed.is_initialized()):
        return Processes()
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        distributed.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(_leave)
    return Processes(distributed.get_rank(), distributed.get_world_size())


def own_gpu() -> None:
    """Make `cuda` mean this process's GPU, where several processes share a machine with several."""
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
