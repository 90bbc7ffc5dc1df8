"""What several rooms' tests share: small real videos, and one thread a test process."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch

CLASSES = ("closing", "falling", "rising")
PLACES = ("train", "val")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # Tests run beside each other on few cores (pytest -n), with models too small for threads.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands that tests start


def write_video(path, frames, rate=12):
    """Write frames [T, H, W, 3] uint8 as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def moving_square(label, seed, frames=12, side=48):
    """A bright square that rises or falls, or (closing) grows, over a dark noisy ground: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    film = rng.integers(0, 60, (frames, side, side, 3), dtype=np.uint8)
    left, colour = int(rng.integers(4, side - 20)), rng.integers(160, 255, 3, dtype=np.uint8)
    for t in range(frames):
        top = round(2 + (side - 18) * t / (frames - 1))
        if label == "rising":
            top = side - 14 - top
        if label == "closing":
            half = 2 + t
            film[t, 24 - half : 24 + half, 24 - half : 24 + half] = colour
        else:
            film[t, top : top + 12, left : left + 12] = colour
    return film


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
