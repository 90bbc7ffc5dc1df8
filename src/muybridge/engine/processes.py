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

from muybridge.errors import BadInput, MuybridgeError

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

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over the processes, in every process."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return sums.tolist()

    def gather(self, mine: Answer) -> list[Answer]:
        """What every process brings, by rank, in every process."""
        if self.count == 1:
            return [mine]
        everyone: list[Any] = [None] * self.count
        distributed.all_gather_object(everyone, mine)
        return everyone

    def collect(self, work: Callable[[], Answer]) -> list[Answer]:
        """What `work` returns in each process, by rank, in every process.

        A MuybridgeError of one is raised in every process: else the others would wait for it, and where it is not the
        first, nobody would tell.
        """
        mine: Any = None
        try:
            mine = work()
        except MuybridgeError as error:
            mine = error
        everyone = self.gather(mine)
        for answer in everyone:
            if isinstance(answer, MuybridgeError):
                raise answer
        return everyone


def join_processes() -> Processes:
    """Join the processes that the environment tells of (RANK, WORLD_SIZE); alone where it tells of none.

    Results that are exchanged are small and on the CPU, for which gloo does on every machine; for gradients NCCL is
    there too, if every process has a GPU of its own. A process group that is there already is used as it is.

    Raises:
        BadInput: the environment tells of several processes and not how to reach them.
    """
    if not distributed.is_available() or ("RANK" not in os.environ and not distributed.is_initialized()):
        return Processes()
    if not distributed.is_initialized():
        if _number("WORLD_SIZE", 1) == 1:
            return Processes()
        alone = torch.cuda.device_count() >= _number("LOCAL_WORLD_SIZE", 1)
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if alone else "gloo", timeout=PATIENCE)
        except ValueError as error:
            raise BadInput(
                f"RANK is set and the other processes cannot be reached: {error}. Start them with torchrun, or unset "
                "RANK."
            ) from None
        atexit.register(_leave)
    return Processes(distributed.get_rank(), distributed.get_world_size())


def is_first() -> bool:
    """Whether this is the process that prints, before it has joined the others. Raises BadInput: RANK is no number."""
    return _number("RANK", 0) == 0


def how_many() -> int:
    """How many processes the environment tells of. Raises BadInput: WORLD_SIZE is no number."""
    return _number("WORLD_SIZE", 1)


def own_gpu() -> None:
    """Make `cuda` mean this process's GPU, where several processes share a machine with several."""
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(_number("LOCAL_RANK", 0) % torch.cuda.device_count())


def _number(name: str, default: int) -> int:
    """A number that the environment tells."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise BadInput(f"{name} is '{text}' in the environment; expected a number, as torchrun sets it, or none.")
    return int(text)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
