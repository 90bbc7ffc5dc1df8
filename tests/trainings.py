"""A small training that the tests of several rooms start from, and what stops one."""

import signal

from muybridge.engine.progress import Progress
from muybridge.engine.train import train
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones


def backbone(kind="dinov2"):
    """A tiny image transformer with random weights, always the same."""
    return random_backbone(tiny_backbones()[kind])


def probe_recipe(data, frames=4, size=32, **args):
    """The probe on these videos; `args` are those of the training, and no worker reads ahead."""
    return Recipe(
        method="probe",
        backbone="custom",
        data=str(data),
        sampling=Sampling(frames=frames),
        transform=Transform(size=(size, size)),
        train=TrainArgs(**{"workers": 0, **args}),
    )


def trained(data, folder, frames=4, kind="dinov2"):
    """What comes of an epoch of it."""
    return train(probe_recipe(data, frames, epochs=1), folder, backbone=backbone(kind))


class StopAfter(Progress):
    """A signal after a number of training batches: Ctrl-C, if it is not another."""

    def __init__(self, batches, sent=signal.SIGINT):
        self.left, self.sent = batches, sent

    def start(self, title, total):
        self.training = title.startswith("epoch")

    def advance(self, amount, **figures):
        if self.training and figures:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(self.sent)
