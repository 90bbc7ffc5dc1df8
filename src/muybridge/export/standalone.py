"""Says what videos show, with the exported model beside this file. Needs onnxruntime (or openvino), av and numpy.

    python predict.py video.mp4 other.mp4           the five best classes of each
    python predict.py --top 1 --json video.mp4      a JSON object a line
    python predict.py --model elsewhere/model.onnx video.mp4

How frames are chosen, resized and cropped stands in the model's metadata; all that is here is arithmetic. Use it as it
is, or take it apart for a program of your own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]  # [T, H, W, 3], RGB
Floats = npt.NDArray[np.float32]
Run = Callable[[Frames], Floats]  # frames [B, T, H, W, 3] -> probabilities [B, K]
MODELS = ("model.onnx", "model.xml")
MOST_BITS = 22


# ---- which frames ---------------------------------------------------------------------------------------------------


def test_indices(count: int, frames: int, rule: str, stride: int, views: int) -> list[list[int]]:
    """Indices [views][frames] of a video of `count` frames; `rule` and `stride` as the model's metadata say."""
    if rule == "segments":
        parts = 2 * views * frames
        return [[count * (2 * views * i + 2 * view + 1) // parts for i in range(frames)] for view in range(views)]
    if rule in ("stride", "dense"):
        slide = max(count - (stride * (frames - 1) + 1), 0)
        if views == 1:
            starts = [slide // 2]
        elif rule == "stride":
            starts = [round(slide / (views - 1) * view) for view in range(views)]
        else:
            starts = [round(view * slide / (views - 1)) for view in range(views)]
        if rule == "stride":
            return [[min(start + stride * i, count - 1) for i in range(frames)] for start in starts]
        return [[(start + stride * i) % count for i in range(frames)] for start in starts]
    if rule in ("tsn", "uniform"):
        gap = (count - 1) / frames
        edges = [round(gap * i) for i in range(frames + 1)]
        if rule == "uniform":
            return [[edge + int(gap / (views + 1) * (view + 1)) for edge in edges[:-1]] for view in range(views)]
        return _tsn(count, frames, views, edges)
    if rule == "linspace":
        places = np.linspace(0, count, frames + 1, dtype=np.float32)
        low, high = places[:-1], places[1:]
        if views == 1:
            chosen = [(low + high) / np.float32(2)]
        else:
            chosen = [low + (high - low) * np.float32(view + 1) / np.float32(views) for view in range(views)]
        return [[int(place) for place in np.rint(np.clip(one, 0, count - 1))] for one in chosen]
    raise ValueError(f"the model wants frames by the rule '{rule}', which this file does not know")


def _tsn(count: int, frames: int, views: int, edges: list[int]) -> list[list[int]]:
    if views == 1:
        return [[(low + high) // 2 for low, high in pairwise(edges)]]
    part = count // frames
    if part == 0:
        return [[round(i * (count / frames)) % count for i in range(frames)] for _ in range(views)]
    chosen = []
    for view in range(views):
        # Drawn at random, but from the number of frames and the view alone.
        seed = int.from_bytes(hashlib.sha256(f"0,{count},{view}".encode()).digest(), "big")
        draws = np.random.default_rng(seed).integers(0, part, frames)
        chosen.append([i * part + int(draw) for i, draw in enumerate(draws)])
    return chosen


# ---- decoding -------------------------------------------------------------------------------------------------------


def read_views(path: str, sampling: dict[str, Any]) -> list[Frames]:
    """The frames of each temporal view, uint8 [T, H, W, 3]. The file is decoded twice: to count, and to pick."""
    count = sum(1 for _ in _decoded(path))
    if not count:
        raise ValueError("it shows no frame")
    views = test_indices(count, sampling["frames"], sampling["rule"], sampling["stride"], sampling["views"])
    wanted = {index for view in views for index in view}
    last, pictures, size = max(wanted), {}, None
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    for index, frame in enumerate(_decoded(path)):
        if size is None:
            size, turn = (frame.height, frame.width), _turn(frame)
        if index in wanted:
            picture = reformatter.reformat(frame, width=size[1], height=size[0], format="rgb24", threads=1)
            pictures[index] = _upright(np.asarray(picture.to_ndarray(), np.uint8), turn)
        if index == last:
            break
    return [np.stack([pictures[index] for index in view]) for view in views]


def _decoded(path: str) -> Iterator[Any]:
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def _turn(frame: Any) -> tuple[bool, bool, bool]:
    """How a stored picture is set upright: rows and columns exchanged, then mirrored in each direction."""
    from av.sidedata.sidedata import Type

    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # side data that PyAV does not know
        quarters = round(frame.rotation / 90) % 4
        return quarters % 2 == 1, quarters >= 2, quarters in (1, 2)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _upright(picture: Frames, turn: tuple[bool, bool, bool]) -> Frames:
    exchange, mirror, upend = turn
    if exchange:
        picture = picture.swapaxes(0, 1)
    return picture[:: -1 if upend else 1, :: -1 if mirror else 1]


# ---- resizing and cropping ------------------------------------------------------------------------------------------


def cut_crops(frames: Frames, transform: dict[str, Any], crops: int, single: bool) -> list[Frames]:
    """Frames [T, H, W, 3] of any size -> the crops that the model reads, uint8 [T, h, w, 3] each."""
    height, width = frames.shape[1:3]
    size = transform["size"]
    short = (transform["resize_single"] if single else 0) or transform["resize"] or max(size)
    new = _scaled(height, width, short, transform["rounding"])
    if new[0] < size[0] or new[1] < size[1]:
        new = _scaled(height, width, max(size), transform["rounding"])
    if new != (height, width):
        frames = resize(frames, new, transform)
    return [
        frames[:, top : top + size[0], left : left + size[1]]
        for top, left in _offsets(new[0] - size[0], new[1] - size[1], crops, transform["crop_steps"])
    ]


def _scaled(height: int, width: int, short: int, rounding: str) -> tuple[int, int]:
    low, high = min(height, width), max(height, width)
    if rounding == "floor":
        long = high * short // low
    elif rounding == "int":
        long = int(high / low * short)
    else:
        long = int(high * (short / low) + 0.5)
    return (short, long) if height < width else (long, short)


def _offsets(down: int, across: int, crops: int, steps: str) -> list[tuple[int, int]]:
    if crops == 1:
        return [(down // 2, across // 2)]
    margin = max(down, across)
    places = (0, margin // 2, margin // 2 * 2 if steps == "even" else margin)
    return [(place, across // 2) if down > across else (down // 2, place) for place in places]


def resize(frames: Frames, new: tuple[int, int], transform: dict[str, Any]) -> Frames:
    """Frames [T, H, W, 3] -> [T, *new, 3] by two matrix products, columns first, rounded to bytes.

    Where the arithmetic is `uint8` it is PyTorch's on bytes, to the bit but for rare ties.
    """
    rows, columns = (_weights(old, wanted, transform) for old, wanted in zip(frames.shape[1:3], new, strict=True))
    video = frames.transpose(0, 3, 1, 2).astype(np.float32) @ columns.T
    if transform["arithmetic"] == "uint8":
        video = np.clip(np.floor(video + 0.5), 0, 255)
        video = np.floor(rows @ video + 0.5)
    else:
        video = np.rint(rows @ video)
    return np.clip(video, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _weights(old: int, new: int, transform: dict[str, Any]) -> Floats:
    """[new, old]: with which weights each new line sees the old ones."""
    cubic, antialias = transform["interpolation"] == "bicubic", transform["antialias"]
    margin = 2 if cubic and not antialias else 0  # lines beyond the edge, which are the edge again
    lines, places = np.arange(-margin, old + margin), np.arange(new)[:, None]
    unit = max(old, new) if antialias else new
    x = np.abs(((2 * lines + 1) * new - (2 * places + 1) * old) / (2 * unit))
    if cubic:
        a = -0.5 if antialias else -0.75
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    else:
        weights = np.clip(1 - x, 0, None)
    if margin:
        edges = weights[:, : margin + 1].sum(1), weights[:, -margin - 1 :].sum(1)
        weights = weights[:, margin:-margin]
        weights[:, 0], weights[:, -1] = edges
    else:
        weights = weights / weights.sum(1, keepdims=True)
    if transform["arithmetic"] == "uint8":
        # PyTorch's weights for bytes: 16-bit whole numbers, over the largest power of two that leaves them so.
        one = 2.0 ** min(np.ceil(np.log2((2**15 - 0.5) / weights.max())) - 1, MOST_BITS)
        weights = np.sign(weights) * np.floor(np.abs(weights) * one + 0.5) / one
    return weights.astype(np.float32)


# ---- the model ------------------------------------------------------------------------------------------------------


def open_model(path: Path, threads: int = 0) -> tuple[Run, dict[str, Any]]:
    """What runs the model, and its metadata."""
    if path.suffix == ".xml":
        return _open_openvino(path, threads)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    if "muybridge" not in told:
        raise ValueError("its metadata do not say how it is fed; expected a file of `muybridge export`")
    name = session.get_inputs()[0].name
    return lambda frames: session.run(None, {name: frames})[0], json.loads(told["muybridge"])


def _open_openvino(path: Path, threads: int) -> tuple[Run, dict[str, Any]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    told = json.loads(model.get_rt_info(["muybridge"]).astype(str))
    # Some processors compute in bf16 unless told: quicker, and other probabilities than the model was compared with.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)
    return lambda frames: compiled(frames)[0], told


def scores(run: Run, told: dict[str, Any], views: Sequence[Frames]) -> Floats:
    """Probabilities [K] of one video: the mean over its temporal views [T, H, W, 3] and their crops."""
    sampling = told["sampling"]
    if not told["resize_inside"]:
        single = sampling["views"] * sampling["crops"] == 1
        views = [crop for view in views for crop in cut_crops(view, told["transform"], sampling["crops"], single)]
    return run(np.stack(views)).mean(axis=0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Says what videos show, with the exported model beside this file.")
    parser.add_argument("videos", nargs="+", help="video files")
    parser.add_argument("--model", type=Path, help="the model (default: the one beside this file)")
    parser.add_argument("--top", type=int, default=5, help="how many classes of each video (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line and video")
    parser.add_argument("--threads", type=int, default=0, help="of the processor (default: as the runtime has it)")
    asked = parser.parse_args(arguments)
    if asked.top < 1:
        parser.error(f"--top is {asked.top}; expected at least 1")
    path = asked.model or next(
        (file for file in (Path(__file__).with_name(name) for name in MODELS) if file.exists()), None
    )
    if path is None or not path.exists():
        parser.error(f"there is no {path or ' or '.join(MODELS) + ' beside this file'}")
    run, told = open_model(path, asked.threads)
    failed = 0
    for video in asked.videos:
        try:
            answers = scores(run, told, read_views(video, told["sampling"]))
        except (OSError, ValueError) as error:  # PyAV's errors are both or one of them
            print(f"{video}: cannot be read ({error})", file=sys.stderr)
            failed += 1
            continue
        best = np.argsort(-answers, kind="stable")[: asked.top]
        rows = [{"label": told["labels"][i], "index": int(i), "score": float(answers[i])} for i in best]
        if asked.json:
            print(json.dumps({"video": video, "predictions": rows}, ensure_ascii=False))
        else:
            print(video)
            for row in rows:
                print(f"  {row['score']:6.1%}  {row['label']}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
