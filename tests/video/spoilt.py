"""Films that are made to be spoilt: small, of any kind, and ways to spoil them."""

from fractions import Fraction

import av
import numpy as np
from films import paint


def film(path, pictures, rate=12, container=None, times=None, **options):
    """Write pictures [T, H, W, 3] uint8; `times` in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream("libx264", rate=rate, options={"g": "5"} | options)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for place, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[place], stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def song(path):
    """Write a file with sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def pictures(first, count=24, height=48, width=64):
    return [paint(first + place, height, width) for place in range(count)]


def overwrite(path, share, count=600):
    data = bytearray(path.read_bytes())
    place = int(len(data) * share)
    data[place : place + count] = bytes(len(data[place : place + count]))
    path.write_bytes(data)
