"""A video that lies on disk as a folder of picture files, one a frame."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from muybridge.errors import VideoError
from muybridge.structures import FrameFiles, SourceArgs
from muybridge.video.limits import Limits
from muybridge.video.opened import Frames, Video

# Of other modes, such as 16 bits, Pillow's conversion cuts the values off.
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})


class FrameFolder(Video):
    """The pictures of a folder as a video.

    Args:
        folder: where they are.
        frames: how they are called, and how many they are.
        source: limits of time, picture size and memory.
        name: what messages call the video.

    Raises:
        VideoError: there is no such folder, it should hold no picture, or the first cannot be read.
    """

    def __init__(self, folder: str | Path, frames: FrameFiles, source: SourceArgs, name: str = "") -> None:
        self.path = name or str(folder)
        self.frame_count = frames.count
        self.frame_rate = frames.rate
        self.duration = frames.count / frames.rate if frames.rate else 0.0
        self.decoded = 0
        self._folder = str(folder)
        self._frames = frames
        self._limits = Limits(self.path, source)
        if frames.count < 1:
            raise VideoError(self.path, f"a folder of {frames.count} pictures; expected at least 1")
        if not os.path.isdir(folder):
            raise VideoError(self.path, f"there is no folder {folder} with its pictures")
        self.size = self._picture(0).shape[:2]

    def _pictures(self, wanted: list[int]) -> Generator[tuple[int, Frames], None, None]:
        for index in wanted:
            picture = self._picture(index)
            if picture.shape[:2] != self.size:
                raise VideoError(
                    self.path,
                    f"its pictures differ in size: {self._name(index)} has {picture.shape[1]} x {picture.shape[0]} "
                    f"pixels, {self._name(0)} {self.size[1]} x {self.size[0]}",
                )
            yield index, picture

    def _name(self, index: int) -> str:
        number = self._frames.first + index
        try:
            return self._frames.pattern.format(number)
        except (LookupError, ValueError) as error:
            raise VideoError(
                self.path, f"'{self._frames.pattern}' is no pattern of names; expected such as img_{{:05}}.jpg"
            ) from error

    def _picture(self, index: int) -> Frames:
        """uint8 [H, W, 3], upright."""
        name = self._name(index)
        try:
            with Image.open(os.path.join(self._folder, name)) as image:
                self._limits.size(image.height, image.width)
                if image.mode not in MODES:
                    raise VideoError(self.path, f"{name} is a picture of mode {image.mode}; expected 8 bits a colour")
                picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
        except FileNotFoundError as error:
            raise VideoError(self.path, f"{name} is missing; expected {self.frame_count} pictures") from error
        except PermissionError as error:
            raise VideoError(self.path, f"{name} cannot be read: permission denied") from error
        except VideoError:
            raise
        except Exception as error:
            # Pillow's readers of damaged files raise errors of many kinds.
            raise VideoError(self.path, f"{name} cannot be read as a picture ({error})") from error
        self.decoded += 1
        return picture
