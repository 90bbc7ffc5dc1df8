"""Work over large collections in the processes of a Ray cluster, or of a Ray that is started on this machine.

`muybridge predict --engine ray` computes the blocks of a `collection` here. Ray starts the workers, gives each the
model once, hands out the blocks, and starts a worker again that died, with the block that it had.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch

from muybridge.engine.answers import Answer, Question, read_ahead, read_apart
from muybridge.engine.batches import Batch
from muybridge.engine.collected import Block
from muybridge.engine.collection import Engine, answers_to
from muybridge.engine.device import pick_device
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput, MuybridgeError
from muybridge.structures import Item
from muybridge.video.dataset import VideoDataset

CPUS_EACH = 4  # of a worker without a GPU, where nobody says how many workers there shall be
TRIES = 3  # of a block whose worker dies
REACH = 15.0  # seconds in which a cluster has to answer
WAVE = 4096  # blocks that Ray is given at a time


@dataclass(frozen=True)
class Workers:
    """The workers that fit into a cluster.

    Attributes:
        count: how many.
        cpus: of each: its threads.
        gpus: of each.
    """

    count: int
    cpus: int
    gpus: float = 0.0

    def told(self, blocks: int) -> str:
        """How many there will be for so many blocks of work, and what each has, in words."""
        count = min(self.count, blocks)
        each = f"{self.cpus} CPU{'s' * (self.cpus > 1)}"
        each += f" and {self.gpus:g} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        return f"{count} worker{'s' * (count > 1)} with {each}{' each' * (count > 1)}"


@contextmanager
def start_ray(address: str = "", workers: int = 0, gpus_per_worker: float = 0.0) -> Iterator[Workers]:
    """Within: this process is connected to Ray; a Ray that was started here ends with it.

    Args:
        address: of a cluster, or `auto`: the one that this machine belongs to; empty: one is started on this machine.
        workers: how many there shall be; 0: as many as fit, with a GPU each or `CPUS_EACH` CPUs.
        gpus_per_worker: 0: workers compute on CPUs.

    Raises:
        BadInput: Ray is not installed, there is no such cluster, or the workers do not fit into it.
    """
    if workers < 0 or gpus_per_worker < 0:
        raise BadInput(f"workers is {workers} and gpus_per_worker {gpus_per_worker:g}; expected at least 0.")
    ray = import_ray()
    if ray.is_initialized():  # by the caller, who also ends it
        yield _workers(_nodes(ray), workers, gpus_per_worker)
        return
    _check_reach(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        with _without_stderr():  # on which Ray's core tells that it was asked to be quiet
            if address:
                ray.init(address=address, **quiet)
            else:
                cpus = max(os.cpu_count() or 1, workers)
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address}" if address else "on this machine"
        token = " A cluster with tokens needs RAY_AUTH_MODE=token and its token here too." if address else ""
        raise BadInput(f"Ray cannot be reached {where}: {error}.{token}") from None
    try:
        with redirect_stdout(sys.stderr):  # Ray prints when a worker dies
            yield _workers(_nodes(ray), workers, gpus_per_worker)
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The ray module, with its usage reports and its talk switched off.

    Raises:
        BadInput: it is not installed.
    """
    # Read when ray is imported, by it and by every process that it starts. At a lower level its core complains on
    # stderr of the workers that Ray Data makes.
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(name, value)
    try:
        import_module("ray.data")
        ray = import_module("ray")
    except ImportError as error:
        raise BadInput(f"Ray Data is not installed ({error}). Install it: pip install 'muybridge[ray]'") from None
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its files under Ray's folder keep everything
            handler.setLevel(logging.CRITICAL)
    return ray


def _check_reach(address: str) -> None:
    """Raise BadInput if nothing answers at `host:port`: Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"Ray cannot be reached at {address}: {error}. Give the address that `ray start --head` printed, or 'auto' "
            "on a machine of the cluster."
        ) from None


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Within: what is written to stderr goes nowhere, also from C++."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _nodes(ray: Any) -> list[tuple[int, float]]:
    """CPUs and GPUs of every machine of the cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in alive]


def _workers(nodes: list[tuple[int, float]], count: int, gpus: float) -> Workers:
    """How many workers there are and how many CPUs each has: the most that lets all of them fit.

    >>> _workers([(16, 2.0), (8, 2.0)], 0, 1.0)
    Workers(count=4, cpus=4, gpus=1.0)
    """

    def fitting(cpus: int) -> int:
        return sum(min(c // cpus, int(g / gpus + 1e-6) if gpus else c) for c, g in nodes)

    most = max((c for c, _ in nodes), default=0)
    if not count:
        count = fitting(1) if gpus else max(fitting(CPUS_EACH), 1)
    fit = [cpus for cpus in range(most, 0, -1) if fitting(cpus) >= count]
    if not fit or not count:
        what = f"{gpus:g} GPUs and 1 CPU" if gpus else "1 CPU"
        raise BadInput(
            f"The Ray cluster has {sum(c for c, _ in nodes)} CPUs and {sum(g for _, g in nodes):g} GPUs on "
            f"{len(nodes)} machines; {count or 'its'} workers with {what} each do not fit. Give fewer --workers, or "
            "add machines."
        )
    return Workers(count, fit[0], gpus)


def through_ray(address: str = "", workers: int = 0, gpus_per_worker: float = 0.0) -> Engine:
    """The engine of workers of Ray; each holds the model, decodes and computes whole blocks.

    Ray gives a block whose worker died to another one. A block that has ended `TRIES` workers is put aside, and in the
    end its videos are decoded in processes of their own, which tells the file that does so.

    Args:
        address, workers, gpus_per_worker: as `start_ray`.
    """

    def compute(question: Question, blocks: Sequence[Block], progress: Progress) -> Iterator[tuple[int, list[Answer]]]:
        # Workers have the model where Ray lets them, not where it is here.
        place = next(question.method.parameters()).device
        sent = pickle.dumps(replace(question, method=question.method.cpu()))
        question.method.to(place)
        with start_ray(address, workers, gpus_per_worker) as team:
            progress.say(f"Ray: {team.told(len(blocks))}.")
            model = import_ray().put(sent)
            for apart in (False, True):
                aside: list[Block] = []
                for begin in range(0, len(blocks), WAVE):
                    wave = {block.number: block for block in blocks[begin : begin + WAVE]}
                    for number, answers in _wave(model, list(wave.values()), team, apart):
                        if answers is None:
                            aside.append(wave[number])
                        else:
                            yield number, answers
                if not aside:
                    return
                blocks = aside
                if not apart:
                    progress.say(
                        f"{len(blocks)} block{'s' * (len(blocks) > 1)} ended {TRIES} workers each; the videos are now "
                        "read in processes of their own."
                    )
            raise BadInput(
                f"The block of {blocks[0].items[0].name} and {len(blocks) - 1} more ended {TRIES} workers each: memory "
                "ran out, or machines went away. What was done is kept; the same command goes on, perhaps with a "
                "smaller --batch-size."
            )

    return compute


def _wave(model: Any, blocks: Sequence[Block], team: Workers, apart: bool) -> Iterator[tuple[int, list[Answer] | None]]:
    """These blocks through Ray Data, in the order in which they are done; None: put aside.

    Args:
        model: reference to the pickled `Question`.
        blocks: what is to be done.
        team: the workers.
        apart: decode in processes that a file may end.
    """
    ray = import_ray()
    # On the machine of this process, without which there is no job either.
    here = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote([model])
    rows = [{"number": block.number, "items": pickle.dumps(block.items)} for block in blocks]
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        # Ray Data starts workers that died again, with the block that they had; see `Desk` for how often.
        answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Answering,
            fn_constructor_kwargs={"desk": desk, "threads": team.cpus, "apart": apart},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(team.count, len(rows))),
            num_cpus=team.cpus,
            num_gpus=team.gpus or None,
        )
        for batch in answered.iter_batches(batch_size=None, batch_format="numpy"):
            for number, answers in zip(batch["number"], batch["answers"], strict=True):
                told = pickle.loads(answers)
                if isinstance(told, MuybridgeError):
                    raise told
                yield int(number), told
    finally:
        context.enable_progress_bars = bars
        ray.kill(desk)


class Desk:
    """Where workers get their model, also those that are started again, and where they say what they begin with.

    Args:
        model: in a list, so that it stays a reference: to the pickled `Question`.
    """

    def __init__(self, model: list[Any]) -> None:
        self.kept = model
        self.begun: Counter[int] = Counter()

    def model(self) -> list[Any]:
        """The reference."""
        return self.kept

    def begin(self, number: int) -> int:
        """How often this block was begun, with this time."""
        self.begun[number] += 1
        return self.begun[number]


class Answering:
    """A worker: its model, and what it does with a block.

    Args:
        desk: handle of the `Desk`.
        threads: of the model and of the decoder.
        apart: decode in processes that a file may end.
    """

    def __init__(self, desk: Any, threads: int, apart: bool) -> None:
        self.ray, self.desk = import_ray(), desk
        torch.set_num_threads(threads)
        (model,) = self.ray.get(desk.model.remote())
        self.question: Question = pickle.loads(self.ray.get(model))
        self.device = pick_device("cuda" if self.ray.get_gpu_ids() else "cpu")
        self.question.method.to(self.device)
        self.apart, self.pool = apart, ThreadPoolExecutor(threads)
        # Opening and reading may each take as long as is allowed; the rest is for what is done with the frames.
        seconds = self.question.source.seconds
        self.patience = 2 * seconds + 60 if seconds else 0.0

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Blocks, of which Ray gives one at a time: numbers and videos -> numbers and answers."""
        answers = [
            pickle.dumps(self._answers(int(number), pickle.loads(items)))
            for number, items in zip(batch["number"], batch["items"], strict=True)
        ]
        return {"number": batch["number"], "answers": np.array(answers, dtype=object)}

    def _answers(self, number: int, items: tuple[Item, ...]) -> list[Answer] | MuybridgeError | None:
        if self.ray.get(self.desk.begin.remote(number)) > TRIES:
            return None
        try:
            return answers_to(self.question, items, self.device, self._read)
        except MuybridgeError as error:  # of an exception Ray would keep no more than its text
            return error

    def _read(self, dataset: VideoDataset, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        if self.apart:
            return read_apart(dataset, batches, 1)
        return read_ahead(dataset, batches, self.pool, self.patience)
