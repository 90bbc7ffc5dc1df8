"""Videos as a recogniser reads them: files and frames in memory alike, and the windows of a long video in one walk."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.engine.answers import read_ahead
from muybridge.engine.batches import Batch
from muybridge.errors import BadInput, shape_text
from muybridge.structures import Item, ModelSpec, Sampling, SourceArgs, Transform
from muybridge.video.dataset import VideoDataset
from muybridge.video.opened import Video
from muybridge.video.opening import open_item
from muybridge.video.sampling import test_indices
from muybridge.video.transforms import test_video

Given = str | Path | bytes | npt.NDArray[np.uint8] | Tensor
Thing = TypeVar("Thing")

DECODERS = 4  # threads
TOLERANCE = 1e-6  # seconds


class GivenVideos(VideoDataset):
    """Videos by path, as the bytes of a file, or as frames: what `predict` takes.

    Args:
        given: the videos; see `check_given`.
        spec: sampling and transform of the model.
        source: limits of what a file may cost.
    """

    def __init__(self, given: Sequence[Given], spec: ModelSpec, source: SourceArgs | None = None) -> None:
        self.given = [check_given(one, f"video {number}: ") for number, one in enumerate(given)]
        items = [as_item(one) if isinstance(one, str | Path) else Item("", -1, "") for one in self.given]
        super().__init__(items, spec.sampling, spec.transform, False, 0, source)

    def _read(
        self, item: Item, place: tuple[int, int, int], file: bytes | None
    ) -> tuple[np.ndarray, np.random.Generator | None]:
        given = self.given[place[1]]
        if isinstance(given, np.ndarray | Tensor):
            views = test_indices(len(given), self.sampling)
            read = given[[index for view in views for index in view]]
            # A batch is put together on the CPU, wherever its videos are.
            return read.cpu() if isinstance(read, Tensor) else read, None  # type: ignore[return-value]
        return super()._read(item, place, given if isinstance(given, bytes) else file)

    def batches(self, size: int) -> Iterator[Batch]:
        """All videos in order, `size` at a time, decoded by threads one batch ahead."""
        positions = range(len(self.given))
        with ThreadPoolExecutor(min(DECODERS, size)) as pool:
            yield from read_ahead(self, [positions[i : i + size] for i in range(0, len(positions), size)], pool)


def as_item(path: str | Path) -> Item:
    """A whole file."""
    return Item(str(path), -1, str(path))


def check_given(given: object, where: str = "") -> Given:
    """The same, if it is something to predict from.

    Args:
        given: a path, the bytes of a video file, or frames uint8 [T, H, W, 3], RGB, as an array or a tensor.
        where: what the message begins with.

    Raises:
        BadInput: it is something else.
    """
    if isinstance(given, str | Path | bytes):
        return given
    if not isinstance(given, np.ndarray | Tensor):
        raise BadInput(
            f"{where}a {type(given).__name__} came; expected a path, the bytes of a video file, or frames: a NumPy "
            "array or a tensor, uint8 [T, H, W, 3], RGB."
        )
    came = f"{where}frames are {str(given.dtype).removeprefix('torch.')} {shape_text(given.shape)}"
    wanted = "expected uint8 [T, H, W, 3], RGB"
    if given.ndim == 4 and given.shape[3] != 3 and given.shape[1] == 3:
        how = "permute" if isinstance(given, Tensor) else "transpose"
        raise BadInput(f"{came}; {wanted}: .{how}(0, 2, 3, 1) puts the colours last.")
    if given.ndim == 3 and given.shape[2] == 3:
        raise BadInput(f"{came}, which is one picture; {wanted}: np.stack(pictures) makes a video of several.")
    if given.ndim != 4 or given.shape[3] != 3 or 0 in given.shape:
        raise BadInput(f"{came}; {wanted}.")
    if given.dtype not in (np.uint8, torch.uint8):
        raise BadInput(
            f"{came}; {wanted}, values 0 to 255 as they were decoded: resizing and normalising are done here. "
            "Fractions of 1 become bytes by (255 * frames).round()."
        )
    return given


def window_indices(times: npt.NDArray[np.float64], start: float, end: float, sampling: Sampling) -> list[list[int]]:
    """The frames of a window: [V][T] indices, by the model's own rule within it, as if it were a video of its own.

    Args:
        times: of all frames, in seconds, ascending.
        start: of the window, in seconds.
        end: likewise; a frame shown then belongs to the next.
        sampling: the model's.
    """
    first = int(np.searchsorted(times, start - TOLERANCE))
    stop = int(np.searchsorted(times, end - TOLERANCE))
    if stop <= first:  # no frame begins in this time: it is the one that is seen then
        first = max(int(np.searchsorted(times, start + TOLERANCE, side="right")) - 1, 0)
        stop = first + 1
    return [[first + index for index in view] for view in test_indices(stop - first, sampling)]


def read_windows(
    video: Video, windows: Sequence[tuple[float, float]], sampling: Sampling, transform: Transform
) -> Iterator[Tensor]:
    """Every window as the model reads it: float32 [crops * V, T, 3, h, w], in order.

    The video is walked through once. Of a frame only what the model reads of it is kept, and only until the last
    window that has it is whole; so the memory does not grow with the video, nor with the size of its pictures.

    Args:
        video: open.
        windows: (start, end) in seconds, ascending.
        sampling: the model's.
        transform: likewise.

    Raises:
        VideoError: a frame cannot be decoded, or the file tells no times.
    """
    times = video.seconds()
    plans = [window_indices(times, start, end, sampling) for start, end in windows]
    uses = Counter(index for plan in plans for view in plan for index in view)
    single = sampling.views * sampling.crops == 1
    kept: dict[int, Tensor] = {}
    following = 0
    for index, picture in video.walk(sorted(uses)):
        kept[index] = test_video(picture[None], transform, sampling.crops, single)[:, 0]  # [crops, 3, h, w]
        while following < len(plans) and all(one in kept for view in plans[following] for one in view):
            plan = plans[following]
            frames = torch.stack([torch.stack([kept[one] for one in view], 1) for view in plan], 1)
            yield frames.flatten(0, 1)  # [crops, V, T, 3, h, w], all views of the first crop first
            for one in [one for view in plan for one in view]:
                uses[one] -= 1
                if not uses[one]:
                    del kept[one]
            following += 1


def in_background(things: Callable[[], Iterator[Thing]], ahead: int = 2) -> Generator[Thing, None, None]:
    """What the iterator gives, computed by a thread, at most `ahead` of them in advance.

    The thread ends with the iterator that is returned; what it raises is raised here.
    """
    done, stop = object(), threading.Event()
    waiting: queue.Queue[Thing | object | BaseException] = queue.Queue(ahead)

    def put(one: object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(one, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for one in things():
                if not put(one):
                    return
            put(done)
        except BaseException as error:
            put(_Raised(error))

    thread = threading.Thread(target=work, name="muybridge-decode", daemon=True)
    thread.start()
    try:
        while (one := waiting.get()) is not done:
            if isinstance(one, _Raised):
                raise one.error
            yield one  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def open_given(given: Item | str | Path, source: SourceArgs | None = None) -> Video:
    """The open video. Raises VideoError as `open_item`."""
    return open_item(given if isinstance(given, Item) else as_item(given), source or SourceArgs())
