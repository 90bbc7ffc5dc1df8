"""A module traced by torch, as all runtimes take it; and torch's own files of it."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from muybridge.errors import BadInput, CheckpointError
from muybridge.export.standalone import Run

METADATA = "muybridge"
TRACED = 3  # videos in the batch that is traced: 0 and 1 would be taken for constants


def trace(module: nn.Module, example: Tensor, free_size: bool = False) -> ExportedProgram:
    """The module as a program for any number of videos.

    Args:
        module: in evaluation mode, with one tensor as its input and one as its output.
        example: an input, batch first, of at least two videos; with `free_size` [B, T, H, W, 3].
        free_size: height and width may change too.
    """
    free = {0: Dim("batch")} | ({2: Dim("height"), 3: Dim("width")} if free_size else {})
    with torch.no_grad(), quiet():
        return torch.export.export(module, (example,), dynamic_shapes=(free,))


def frames_like(frames: int, size: tuple[int, int], free_size: bool) -> Tensor:
    """Black frames to trace with, uint8 [B, T, H, W, 3]; of an odd size, so that no side is taken for another."""
    height, width = (size[0] + 25, size[1] + 58) if free_size else size
    return torch.zeros(TRACED, frames, height, width, 3, dtype=torch.uint8)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say about torchvision and about their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write(program: ExportedProgram, path: Path, told: dict[str, Any]) -> None:
    """Write `model.pt2`, with what is told in `extra_files`."""
    with quiet():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(told, ensure_ascii=False)})


def open_program(path: Path, threads: int = 0) -> tuple[Run, dict[str, Any]]:
    """What runs a `model.pt2`, and its metadata.

    Args:
        path: the file.
        threads: 0: as torch has it; others are set for the whole process.

    Raises:
        CheckpointError: a file that `write` did not write.
    """
    extra = {METADATA: ""}
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is not a program of torch.export.")
    try:
        with quiet():
            module = torch.export.load(path, extra_files=extra).module()
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a program of torch.export ({error}).") from None
    if not extra[METADATA]:
        raise CheckpointError(f"{path} does not say how it is fed; expected a file of `muybridge export`.")
    if threads:
        torch.set_num_threads(threads)

    def run(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(np.ascontiguousarray(frames))).numpy()

    return run, json.loads(extra[METADATA])


def missing(library: str, extra: str) -> BadInput:
    """The error where an optional library is not installed."""
    return BadInput(f"{library} is not installed. Install it with: pip install 'muybridge[{extra}]'")
