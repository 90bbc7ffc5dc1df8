"""A training that is killed at a wanted moment; to be run in a process of its own."""

import io
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import torch

from muybridge.engine import last
from muybridge.engine.last import can_resume
from muybridge.engine.progress import Progress
from muybridge.engine.train import resume, train
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

# Everything that has a state: dropout, batch norms, a disturbance by epochs (ila), and what the brief of a test adds.
RECIPE = Recipe(
    method="ila",
    options={"layers": 1},
    backbone="custom",
    sampling=Sampling(frames=4),
    transform=Transform(size=(32, 32), flip=0.5),
    train=TrainArgs(
        epochs=2, batch_size=4, accumulate=2, lr=1e-3, mixup=0.8, ema=0.9, clip_grad=1.0, save_every=1e-9, workers=2
    ),
)


def backbone():
    return random_backbone(tiny_backbones()["dinov2"])


def go_on(data, out, progress=None, **changes):
    """Begin or resume, as a person would."""
    if can_resume(Path(out)):
        return resume(out, backbone(), progress)
    recipe = replace(RECIPE, data=str(data), train=replace(RECIPE.train, **changes))
    return train(recipe, out, backbone=backbone(), progress=progress)


def run_and_die(data, out, kind, number, changes):
    """`go_on`, and SIGKILL.

    Args:
        data, out: folders.
        kind: `batch`: after the batch with this number; `write`: at this point of the writing of files; `never`.
        number: counted from 1 in this process.
        changes: fields of `train`.
    """
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as on any Linux
    left = [number]

    def point():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Dying(Progress):
        def start(self, title, total):
            self.training = title.startswith("epoch")

        def advance(self, amount, **figures):
            if kind == "batch" and self.training and figures:
                point()

    if kind == "write":
        _die_while_writing(point)
    go_on(data, out, Dying(), **changes)


def _die_while_writing(point):
    save = torch.save

    def half_and_half(state, path):
        buffer = io.BytesIO()
        save(state, buffer)
        content = buffer.getvalue()
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            point()
            file.write(content[len(content) // 2 :])
        point()

    def with_points(move):
        def moved(*args):
            point()
            move(*args)
            point()

        return moved

    last.torch.save = half_and_half
    os.link, os.replace, os.rename = with_points(os.link), with_points(os.replace), with_points(os.rename)
