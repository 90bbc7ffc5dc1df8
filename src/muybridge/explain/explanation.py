"""What an explanation holds, and how it is kept: pictures, a film, numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.errors import BadInput
from muybridge.structures import Prediction, SourceArgs

if TYPE_CHECKING:
    from PIL.Image import Image

Frames = npt.NDArray[np.uint8]
SHEET, FILM, NUMBERS, MAPS = "sheet.png", "overlay.mp4", "explanation.json", "maps.npz"


@dataclass(frozen=True)
class Frame:
    """What is said of one frame that the model was given.

    Attributes:
        index: in the video, from 0.
        seconds: when it is shown; None: the video does not tell.
        importance: what the class's probability loses without it, see `importance.py`; None: not asked for.
        score_without: that probability; likewise.
        share: of the map's sum over all frames, in [0, 1]; None: the map knows nothing of this frame.
    """

    index: int
    seconds: float | None
    importance: float | None
    score_without: float | None
    share: float | None


@dataclass(frozen=True)
class Explanation:
    """Where a recogniser looked in one video, and how much each frame mattered.

    Attributes:
        source: the file, or all frames [N, H, W, 3] that were given in its place.
        model: the method's name.
        label: the class that is explained.
        index: its index.
        score: its probability in the view that is explained.
        predictions: the best classes of that view.
        how: `attention`, `rollout` or `gradient`.
        name: the map that is shown, a key of `maps`.
        maps: name -> [T, rows, columns], fp32 on the CPU, 0 or more; NaN: nothing is known of that frame.
        points: name -> [T - 1, 2, 2], see `structures.Looked`; empty but for methods that have such points.
        frames: one for each of the T frames that the model was given.
        pictures: uint8 [T, H, W, 3], these frames as they are in the video.
        box: (top, left, height, width) of what the patches cover, in pixels of the video.
        notes: what one should know, sentences.
        reading: how the file is read, for its film too.
    """

    source: str | Frames
    model: str
    label: str
    index: int
    score: float
    predictions: tuple[Prediction, ...]
    how: str
    name: str
    maps: dict[str, Tensor]
    points: dict[str, Tensor]
    frames: tuple[Frame, ...]
    pictures: Frames
    box: tuple[float, float, float, float]
    notes: tuple[str, ...] = field(default=())
    reading: SourceArgs = field(default=SourceArgs())

    def __repr__(self) -> str:
        return f"Explanation({str(self)!r})"

    def __str__(self) -> str:
        lines = [f"{self.label} {self.score:.1%} of {self.title}: {self.name}"]
        return "\n".join([*lines, *(f"  {line}" for line in self.frame_lines())])

    @property
    def title(self) -> str:
        """What the video is called."""
        return Path(self.source).name if isinstance(self.source, str) else f"{len(self.source)} frames"

    @property
    def map(self) -> Tensor:
        """The map that is shown: [T, rows, columns]."""
        return self.maps[self.name]

    @property
    def heat(self) -> Tensor:
        """That map between 0 and 1, one scale for all frames: [T, rows, columns]; NaN where nothing is known."""
        low, high = self.heat_range
        return ((self.map - low) / max(high - low, 1e-12)).clamp(0, 1)

    @property
    def heat_range(self) -> tuple[float, float]:
        """The map's values at the two ends of the scale: its least, and what 99 in 100 patches stay below."""
        known = self.map[torch.isfinite(self.map)]
        # One patch that stands out would leave all others dark.
        return float(known.min()), float(known.quantile(0.99))

    @cached_property
    def sheet(self) -> Image:
        """The still: frames, heat over them, a bar for how much each mattered."""
        from muybridge.explain.picture import draw_sheet

        return draw_sheet(self)

    def frame_lines(self) -> list[str]:
        """A line of text for each frame."""
        lines = []
        for frame in self.frames:
            words = [f"frame {frame.index:>5}"]
            if frame.seconds is not None:
                words.append(f"{frame.seconds:7.2f} s")
            if frame.importance is not None:
                words.append(f"{round(100 * frame.importance, 1) + 0.0:+6.1f} points")
            if frame.share is not None:
                words.append(f"{frame.share:6.1%} of the map")
            lines.append("  ".join(words))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All but pixels and maps, as `explanation.json` has it."""
        return {
            "video": self.source if isinstance(self.source, str) else None,
            "model": self.model,
            "label": self.label,
            "index": self.index,
            "score": self.score,
            "predictions": [{"label": one.label, "index": one.index, "score": one.score} for one in self.predictions],
            "method": self.how,
            "map": self.name,
            "maps": list(self.maps),
            "grid": list(self.map.shape[1:]),
            "box": list(self.box),
            "frames": [
                {
                    "frame": frame.index,
                    "seconds": frame.seconds,
                    "importance": frame.importance,
                    "score_without": frame.score_without,
                    "share": frame.share,
                }
                for frame in self.frames
            ],
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path, film: bool = True) -> list[Path]:
        """Write `sheet.png`, `overlay.mp4`, `explanation.json` and `maps.npz` into a folder.

        Args:
            folder: made if it is not there.
            film: write the film too.

        Returns:
            What was written, in this order.

        Raises:
            BadInput: the folder has one of these files.
            VideoError: the video can no longer be read.
        """
        folder = Path(folder)
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if film:
            from muybridge.explain.film import write_film

            # It takes longest: who stops it finds nothing there that is in the way of another try.
            partial = folder / f"{FILM}.partial"
            try:
                write_film(self, partial)
                partial.replace(folder / FILM)
            finally:
                partial.unlink(missing_ok=True)
        self.sheet.save(folder / SHEET, optimize=True)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1)
        (folder / NUMBERS).write_text(text + "\n", encoding="utf-8")
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in self.maps.items()}
        arrays |= {f"points: {name}": tensor.numpy() for name, tensor in self.points.items()}
        np.savez_compressed(folder / MAPS, allow_pickle=False, **arrays)
        return [folder / name for name in (SHEET, FILM, NUMBERS, MAPS) if film or name != FILM]


def check_free(folder: Path) -> None:
    """Raise BadInput if an explanation is there already."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; expected a folder to write to.")
    for name in (SHEET, FILM, NUMBERS, MAPS):
        if (folder / name).exists():
            raise BadInput(f"{folder / name} exists already; nothing is written over. Give another folder.")
