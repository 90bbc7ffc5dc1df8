"""What several rooms' tests share: small real videos, and one thread a test process."""

import os
import signal
from pathlib import Path

import pytest
import torch

from clips import CLASSES, moving_square, write_video

PLACES = ("train", "val")

# A shell that starts the tests in the background has them, and the commands that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread():
    # Tests run beside each other on few cores (pytest -n), with models too small for threads. For every test anew: sums
    # round differently with two threads, and some tests compare with processes of their own.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands that tests start


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A data set of real files: train (5 a class) and val (3 a class) of three classes."""
    folder = tmp_path_factory.mktemp("videos")
    for place, count in zip(PLACES, (5, 3), strict=True):
        for number, label in enumerate(CLASSES):
            for index in range(count):
                seed = 1000 * PLACES.index(place) + 100 * number + index
                write_video(folder / place / label / f"{index}.mp4", moving_square(label, seed))
    return folder
