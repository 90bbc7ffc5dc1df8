"""Small real videos of three motions, for the tests of several rooms."""

import av
import numpy as np

CLASSES = ("closing", "falling", "rising")


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
