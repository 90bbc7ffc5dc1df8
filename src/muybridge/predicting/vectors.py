"""Features of videos, or of the windows of a video, in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from muybridge.engine.answers import FEATURE
from muybridge.engine.checkpoint import write_atomically
from muybridge.engine.collected import import_arrow


class Vector(NamedTuple):
    """The feature of a video, or of a window.

    Attributes:
        path: of the video.
        feature: [D], fp32.
        start: of the window in seconds; None: the whole video.
        end: likewise.
    """

    path: str
    feature: Tensor
    start: float | None = None
    end: float | None = None


def write_features(path: Path, vectors: Sequence[Vector]) -> None:
    """Write vectors, all of whole videos or all of windows.

    As safetensors: `features` [N, D], for windows `start` and `end` [N] in seconds, and the paths as a JSON list in the
    metadata (`paths`). As parquet: a row each, with the columns `path`, `start`, `end` and `feature`, as a collection
    has them.

    Raises:
        BadInput: pyarrow is not installed.
        NotSaved: the disk is full or fails.
    """
    windows = vectors[0].start is not None
    paths = [vector.path for vector in vectors]
    if path.suffix == ".parquet":
        arrow, parquet = import_arrow()
        columns: dict[str, Any] = {"path": arrow.array(paths, arrow.string())}
        for name in ("start", "end") if windows else ():
            columns[name] = arrow.array([getattr(vector, name) for vector in vectors], arrow.float64())
        rows = [vector.feature.numpy() for vector in vectors]
        columns[FEATURE] = arrow.array(rows, arrow.list_(arrow.float32()))
        write_atomically(path, lambda partial: parquet.write_table(arrow.table(columns), partial))
        return
    tensors = {"features": torch.stack([vector.feature for vector in vectors])}
    for name in ("start", "end") if windows else ():
        tensors[name] = torch.tensor([getattr(vector, name) for vector in vectors], dtype=torch.float64)
    told = {"paths": json.dumps(paths, ensure_ascii=False)}
    write_atomically(path, lambda partial: save_file(tensors, partial, told))
