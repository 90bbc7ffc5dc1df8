"""A training in one of several processes, as torchrun starts them: together.py DATA OUT [resume] [FIELD=VALUE ...].

Tests import `together`, which starts them, and what they share.
"""

import json
import os
import signal
import socket
import subprocess
import sys

import torch
from accelerate import Accelerator
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from muybridge.engine.last import load_last
from muybridge.engine.progress import Progress
from muybridge.engine.train import resume, train
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

METHODS = {
    "evl": {"layers": 2, "heads": 3, "dropout": 0.0},
    "ila": {"layers": 1, "dropout": 0.0},
    "zeroi2v": {"dropout": 0.0, "head_dropout": 0.0},
    "probe": {},
}


def recipe_of(data, method="evl", **changes):
    """A training without dropout, whose draws are each process's own."""
    settings = {"epochs": 2, "batch_size": 2, "accumulate": 2, "lr": 1e-3, "clip_grad": 1.0, "ema": 0.9, "workers": 0}
    return Recipe(
        method=method,
        options=METHODS[method],
        backbone="custom",
        data=str(data),
        sampling=Sampling(frames=4),
        transform=Transform(size=(32, 32), flip=0.5),
        train=TrainArgs(**{**settings, **changes}),
    )


def backbone():
    return random_backbone(tiny_backbones()["dinov2"])


class Loud(Progress):
    """Prints; and is stopped by SIGTERM after a number of training batches, in the process that speaks."""

    def __init__(self, stop=0):
        self.stop = stop

    def say(self, text):
        print(text)

    def start(self, title, total):
        self.training = title.startswith("epoch")

    def advance(self, amount, **figures):
        if self.training and figures:
            self.stop -= 1
            if self.stop == 0:
                signal.raise_signal(signal.SIGTERM)


def main(data, out, *arguments):
    torch.set_num_threads(1)
    exchanged = []
    prepare = Accelerator.prepare_model

    def watched(accelerator, module):
        prepared = prepare(accelerator, module)
        assert isinstance(prepared, DistributedDataParallel)

        def count(_, bucket):
            exchanged.append(bucket.buffer().numel())
            work = distributed.all_reduce(bucket.buffer().div_(distributed.get_world_size()), async_op=True)
            return work.get_future().then(lambda done: done.value()[0])

        prepared.register_comm_hook(None, count)
        return prepared

    Accelerator.prepare_model = watched
    changes = {name: json.loads(value) for name, value in (text.split("=") for text in arguments if "=" in text)}
    stop = changes.pop("stop", 0)
    if "resume" in arguments:
        result = resume(out, backbone(), Loud())
    else:
        recipe = recipe_of(data, changes.pop("method", "evl"), **changes)
        result = train(recipe, out, backbone=backbone(), progress=Loud(stop))
    print(json.dumps({"trainable": result.trainable, "exchanged": sum(exchanged), "top1": result.evaluation.top1}))


def together(videos, out, *arguments, count=2, fails=False):
    """Run `together.py` in several processes; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        named |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": ""}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, str(videos), str(out), *arguments],
                env={**os.environ, **{name: str(value) for name, value in named.items()}},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert all((process.returncode != 0) == fails for process in processes), "\n".join(said)
    return said


def distance(one, other):
    ours, theirs = load_last(one), load_last(other)
    assert ours["tensors"].keys() == theirs["tensors"].keys()
    pairs = [(ours["tensors"], theirs["tensors"])]
    if "average" in ours:
        pairs.append((ours["average"]["tensors"], theirs["average"]["tensors"]))
    return max(
        (a[key] - b[key]).abs().max().item()
        for a, b in pairs
        for key in a
        if a[key].is_floating_point() and "running" not in key
    )


def same_course(one, other):
    """That two runs tell the same figures of every epoch."""
    both = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for ours, theirs in zip(*both, strict=True):
        assert abs(ours["loss"] - theirs["loss"]) <= 1e-5
        assert (ours["accuracy"], ours["val_top1"]) == (theirs["accuracy"], theirs["val_top1"])


if __name__ == "__main__":
    main(*sys.argv[1:])
