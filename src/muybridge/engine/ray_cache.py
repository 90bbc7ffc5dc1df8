"""Frozen features computed by the workers of a Ray cluster (`muybridge cache --engine ray`).

Each worker writes shards beside the others' into the store, whose folder all machines see; in the end the driver enters
them in the index. A worker that dies is started again, with the block of rows that it had.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muybridge.engine.batches import VideoBatches
from muybridge.engine.device import pick_device
from muybridge.engine.progress import Progress
from muybridge.engine.ray_jobs import Workers, import_ray, start_ray
from muybridge.engine.store import SETTING, FeatureStore
from muybridge.engine.writing import Spread, Writer, new_share, see
from muybridge.errors import BadInput, MuybridgeError
from muybridge.methods.base import Method
from muybridge.video.dataset import VideoDataset

BLOCK_ROWS = 256  # that a worker is given at a time, at most: what is lost when it dies
TRIES = 3  # workers that a block may end


@contextmanager
def through_ray(address: str = "", workers: int = 0, gpus_per_worker: float = 0.0) -> Iterator[Spread]:
    """Within: what `store_features` takes to have rows computed by workers of Ray.

    Args:
        address, workers, gpus_per_worker: as `start_ray`.

    Raises:
        BadInput: as `start_ray`.
    """
    with start_ray(address, workers, gpus_per_worker) as team:
        yield lambda writer, plan, title: _spread(team, writer, plan, title)


@dataclass(frozen=True)
class Work:
    """What every worker is given: all that a `Writer` is made of, and is not its own."""

    method: Method
    dataset: VideoDataset
    batch_size: int
    folder: Path
    setting: dict[str, Any]
    count: int
    views: int
    precision: str
    total: int
    title: str


def _spread(team: Workers, writer: Writer, plan: Sequence[list[int]], title: str) -> list[dict[str, int]]:
    """Have the rows of these batches computed; how many numbers fp16 could not hold, for each block."""
    ray = import_ray()
    from ray.util import ActorPool  # type: ignore[import-not-found, unused-ignore]

    store, batches, progress = writer.store, writer.batches, writer.progress
    total, root = sum(map(len, plan)), store.folder.parent
    device = next(writer.method.parameters()).device
    work = Work(
        writer.method.cpu(),  # workers have it where Ray lets them
        batches.dataset,
        batches.batch_size,
        root,
        dict(store.setting),
        store.count,
        writer.views,
        writer.precision,
        total,
        title,
    )
    packed = ray.put(pickle.dumps(work))
    writer.method.to(device)
    blocks = _blocks(plan, team.count)
    progress.say(f"{title}: computed by Ray, {team.told(len(blocks))}.")
    kind = ray.remote(num_cpus=team.cpus, num_gpus=team.gpus or None, max_restarts=-1, max_task_retries=TRIES - 1)(
        Computing
    )
    # In a list, so that it stays a reference.
    workers = [kind.remote([packed], team.cpus) for _ in range(min(team.count, len(blocks)))]
    pool, clipped, told = ActorPool(workers), [], set[str]()
    progress.start(title, total)
    try:
        for rows, beyond, lines in pool.map_unordered(lambda worker, block: worker.compute.remote(block), blocks):
            for line in lines:
                # The free space changes from block to block.
                if (what := line.partition(", where ")[0]) not in told:
                    told.add(what)
                    progress.say(line)
            clipped.append(beyond)
            progress.advance(rows)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MuybridgeError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise BadInput(
            f"A block of videos has ended {TRIES} workers of Ray: a file crashes the decoder (`muybridge data check` "
            "finds it), memory ran out, or machines went away. What is whole is kept, and the same command goes on."
        ) from error
    finally:
        progress.finish()
        for worker in workers:
            ray.kill(worker)
    return clipped


def _blocks(plan: Sequence[list[int]], workers: int) -> list[list[list[int]]]:
    """The batches in blocks of about `BLOCK_ROWS` rows, smaller where there would be fewer than four for a worker."""
    rows = sum(map(len, plan))
    most = max(min(BLOCK_ROWS, rows // (4 * workers)), 1)
    blocks: list[list[list[int]]] = []
    for batch in plan:
        if not blocks or sum(map(len, blocks[-1])) >= most:
            blocks.append([])
        blocks[-1].append(batch)
    return blocks


class Computing:
    """A worker: it has the method, and computes blocks of rows into a share of its own.

    Args:
        packed: in a list, the reference to the pickled `Work`.
        threads: of the method.
    """

    def __init__(self, packed: list[Any], threads: int) -> None:
        ray = import_ray()
        torch.set_num_threads(threads)
        work: Work = pickle.loads(ray.get(packed[0]))
        store = FeatureStore(work.folder, work.setting, work.count)
        # Ray's processes have threads that do not live on in forked ones, so videos are decoded by this one.
        batches = VideoBatches(work.dataset, work.batch_size)
        device = pick_device("cuda" if ray.get_gpu_ids() else "cpu")
        # Started again, it is another one: what the dead one has written stays as it is.
        self.work, self.said, share = work, _Said(), new_share(store)
        method = work.method.to(device)
        self.writer = Writer(method, batches, device, share, work.views, work.precision, self.said)

    def compute(self, plan: list[list[int]]) -> tuple[int, dict[str, int], list[str]]:
        """Rows that were computed and written, numbers beyond fp16 by feature, and what is to be said."""
        store, before = self.writer.store, dict(self.writer.clipped)
        see(store, store.folder / SETTING)
        with torch.no_grad():
            after = self.writer.compute(plan, self.work.total, self.work.title)
        lines, self.said.lines = self.said.lines, []
        beyond = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
        return sum(map(len, plan)), beyond, lines


class _Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
