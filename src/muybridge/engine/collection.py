"""What a model says of a large collection of videos, computed in blocks, each of which is kept when it is done.

The videos have numbers, and every `block` of them in a row are a block. Blocks are computed in any order, by this
process or by workers (`ray_jobs`), and kept in a folder (`collected`). What is missing there is computed when the same
is asked again, by whichever engine: nothing is lost, and nothing is there twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from muybridge.backbones.files import sha256_of_state
from muybridge.engine.answers import Answer, Question, read_apart
from muybridge.engine.batches import Batch
from muybridge.engine.collected import SUMMARY, Block, Collection, CollectionArgs, clean
from muybridge.engine.evaluate import Model
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.predictions import hash_of
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.recipes.fields import to_dict
from muybridge.structures import Item
from muybridge.video.dataset import VideoDataset
from muybridge.video.inputs import find_videos

ROUNDS = 3  # of computing parts that turn out to be damaged

# Computes blocks in any order: their numbers, and the answers in the order of their videos.
Engine = Callable[[Question, Sequence[Block], Progress], Iterator[tuple[int, list[Answer]]]]


def predict_collection(
    model: Model,
    inputs: Sequence[str | Path],
    out: str | Path,
    args: CollectionArgs | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What a model says of every video of a collection, a row each, in the folder `out`.

    A job that was stopped, by whatever, goes on where it was when the same is asked again.

    Args:
        model: from `muybridge.load`.
        inputs: files, folders, patterns, lists and archives; see `video.inputs`.
        out: the folder; see `collected`.
        args: what is asked, and how it is written.
        engine: what computes the blocks; None: this process.
        progress: told of every block.

    Returns:
        What `summary.json` holds: how many videos were `asked`, `done` and `unreadable`, and the file `result`.

    Raises:
        MissingFile, BadInput: an input cannot be used; `out` holds something else; the workers do not fit.
        Interrupted: Ctrl-C; the blocks that were done are kept.
    """
    args, progress, engine = args or CollectionArgs(), progress or Progress(), engine or in_this_process(model.device)
    question = Question(model.method, model.spec, args.top, args.features, args.batch_size, args.source)
    items = find_videos(inputs)
    collection = Collection(out, items, question.columns, args)
    about = {"inputs": [clean(str(path)) for path in inputs], "videos": len(items)}
    with collection.alone():
        collection.begin(_settings(model, items, args), about)
        if collection.finished:
            collection.tidy()
            progress.say(f"{collection.folder} is finished already.")
            return dict(json.loads((collection.folder / SUMMARY).read_text(encoding="utf-8")))
        begun, before = time.monotonic(), len(collection) - len(missing := collection.missing())
        if before:
            progress.say(f"{before} of {len(collection)} blocks were computed before; {len(missing)} are left.")
        computed = 0
        for _ in range(ROUNDS):
            if missing:
                computed += sum(len(collection.block(number).items) for number in missing)
                _compute(collection, question, missing, engine, progress)
            missing = collection.damaged()
            if not missing:
                seconds = round(time.monotonic() - begun, 1)
                return collection.finish({"last_run": {"videos": computed, "seconds": seconds}})
            for number in missing:
                progress.say(f"{collection.part(number)} is not whole; its videos are computed again.")
        raise BadInput(f"{collection.part(missing[0])} is not whole after it was written; does the disk fail?")


def _compute(
    collection: Collection, question: Question, numbers: Sequence[int], engine: Engine, progress: Progress
) -> None:
    """Compute these blocks and keep each."""
    blocks = [collection.block(number) for number in numbers]
    left = {block.number: len(block.items) for block in blocks}
    progress.start("predict", sum(left.values()))
    try:
        for number, answers in engine(question, blocks, progress):
            collection.write(number, answers)
            # A block whose worker was thought to be dead may come twice.
            progress.advance(left.pop(number, 0))
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped; {len(collection) - len(collection.missing())} of {len(collection)} blocks are kept in "
            f"{collection.folder}. The same command goes on from there."
        ) from None
    finally:
        progress.finish()
    if left:
        raise BadInput(f"{len(left)} of {len(numbers)} blocks were not computed; the same command tries them again.")


def in_this_process(device: torch.device, workers: int = 0) -> Engine:
    """The engine without any other: blocks one after the other, computed here.

    Args:
        device: where the method is.
        workers: processes that decode; 0: this one, which a file that crashes the decoder ends.

    Raises:
        BadInput: fewer workers than none.
    """
    if workers < 0:
        raise BadInput(f"workers is {workers}; expected at least 0.")

    def compute(question: Question, blocks: Sequence[Block], progress: Progress) -> Iterator[tuple[int, list[Answer]]]:
        dataset = question.dataset([item for block in blocks for item in block.items])
        owners = [block for block in blocks for _ in block.items]
        batches, first = [], 0
        for block in blocks:
            # No batch has videos of two blocks, so that they are the same in every engine.
            batches += question.batches(range(first, first + len(block.items)))
            first += len(block.items)
        done: dict[int, dict[int, Answer]] = {}
        for batch in read_apart(dataset, batches, workers):
            for position, answer in question.answer(batch, dataset.items, device).items():
                owner = owners[position]
                done.setdefault(owner.number, {})[position] = answer
                if len(done[owner.number]) == len(owner.items):
                    yield owner.number, [answer for _, answer in sorted(done.pop(owner.number).items())]

    return compute


def answers_to(
    question: Question,
    items: Sequence[Item],
    device: torch.device,
    read: Callable[[VideoDataset, Sequence[Sequence[int]]], Iterator[Batch]],
) -> list[Answer]:
    """The answers to the videos of one block, in their order.

    Args:
        question: what is asked.
        items: the videos.
        device: where the method is.
        read: `read_ahead` or `read_apart`, given all but the data set and the batches.
    """
    dataset = question.dataset(items)
    answers: dict[int, Answer] = {}
    for batch in read(dataset, question.batches(range(len(items)))):
        answers |= question.answer(batch, dataset.items, device)
    return [answers[position] for position in range(len(items))]


def _settings(model: Model, items: Sequence[Item], args: CollectionArgs) -> dict[str, Any]:
    """Everything that decides the rows, flat."""
    limits = ("decoder", "seconds", "megapixels", "megabytes")
    return {
        "model": sha256_of_state(model.trained.state_dict()),
        "method": model.spec.method,
        **{f"{model.spec.method}.{name}": value for name, value in model.spec.options.items()},
        "videos": _hash_of(items),
        "labels": hash_of(*model.spec.labels),
        **{f"sampling.{name}": value for name, value in asdict(model.spec.sampling).items()},
        **{f"transform.{name}": value for name, value in to_dict(model.spec.transform).items()},
        **{f"source.{name}": getattr(args.source, name) for name in limits},
        "features": args.features,
        "format": args.format,
    }


def _hash_of(items: Sequence[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(
            repr((item.path, item.name, item.start, item.end, item.stored)).encode("utf-8", "backslashreplace")
        )
    return digest.hexdigest()
