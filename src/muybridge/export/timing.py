"""A model in other runtimes, for `muybridge benchmark`: normalised video in, logits out, as torch is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from muybridge.errors import BadInput, MuybridgeError
from muybridge.export import onnx_file, openvino_file, program
from muybridge.methods.base import Method

RUNTIMES = {
    "torch-export": "a program of torch.export, run by torch",
    "onnx": "ONNX Runtime, fp32",
    "onnx-int8": "ONNX Runtime, matrix products of bytes, scales found anew in each call",
    "openvino": "OpenVINO, fp32",
    "openvino-bf16": "OpenVINO, computing in bfloat16",
    "openvino-int8": "OpenVINO, weights in bytes, computing in fp32",
}


class Logits(nn.Module):
    """A method with a plain tensor for its answer: [B, T, 3, H, W] -> [B, K]."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, video: Tensor) -> Tensor:
        return self.method(video).logits


def is_installed(way: str) -> bool:
    """Whether a way of `RUNTIMES` can be measured here."""
    try:
        _check(way)
    except MuybridgeError:
        return False
    return True


def runtime_call(way: str, method: Method, video: Tensor) -> Callable[[], Tensor]:
    """The logits of `method` in another runtime, with as many threads as torch has.

    Args:
        way: a key of `RUNTIMES`.
        method: merged, in evaluation mode, on the CPU.
        video: [B, T, 3, H, W], fp32.

    Raises:
        BadInput: the runtime is not installed, or the model is on a GPU.
    """
    _check(way)
    if video.device.type != "cpu":
        raise BadInput(f"'{way}' is measured on the CPU; give --device cpu.")
    example = torch.zeros(program.TRACED, *video.shape[1:])
    traced = program.trace(Logits(method).eval(), example)
    frames, threads = video.numpy(), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        if way == "torch-export":
            module = traced.module()
            return lambda: _without_graph(module, video)
        run: Callable[[np.ndarray], np.ndarray]
        if way.startswith("onnx"):
            path = Path(folder) / "model.onnx"
            onnx_file.write(traced, path, {}, int8=way == "onnx-int8")
            run = onnx_file.timed(path, threads)
        else:
            path = Path(folder) / "model.xml"
            openvino_file.write(traced, path, {}, int8=way == "openvino-int8")
            run = openvino_file.timed(path, threads, "bf16" if way == "openvino-bf16" else "f32")
    return lambda: torch.from_numpy(run(frames))


def _without_graph(module: Any, video: Tensor) -> Tensor:
    with torch.inference_mode():
        return module(video)


def _check(way: str) -> None:
    if way.startswith("onnx"):
        onnx_file.check_installed(way.endswith("int8"))
    elif way.startswith("openvino"):
        openvino_file.check_installed(way.endswith("int8"))
