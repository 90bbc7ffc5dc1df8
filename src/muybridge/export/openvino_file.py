"""OpenVINO: a traced program becomes `model.xml` and `model.bin`, with fewer bits a weight where asked."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from muybridge.export.program import METADATA, missing, quiet


def check_installed(int8: bool = False) -> None:
    """Raise BadInput, naming the extra, unless OpenVINO is installed, and with `int8` NNCF."""
    try:
        import openvino  # noqa: F401

        if int8:
            _import_nncf()
    except ImportError as error:
        raise missing(error.name or "openvino", "openvino") from None


def write(program: ExportedProgram, path: Path, told: dict[str, Any], half: bool = False, int8: bool = False) -> None:
    """Write `model.xml` and `model.bin`.

    Args:
        program: see `trace`.
        path: of the `.xml`.
        told: goes into the model's `rt_info`, as JSON under `muybridge`.
        half: weights in fp16; they are computed with in fp32.
        int8: weights of matrix products in bytes, by channel; activations stay as they are.
    """
    import openvino

    (given,) = program.graph_signature.user_inputs
    shapes = next(node for node in program.graph.nodes if node.name == given).meta["val"].shape
    shape = openvino.PartialShape([size if isinstance(size, int) else -1 for size in shapes])
    with torch.no_grad(), quiet():
        model = openvino.convert_model(program, input=[shape])
    model.inputs[0].get_tensor().set_names({"frames"})
    model.outputs[0].get_tensor().set_names({"probabilities"})
    if int8:
        nncf = _import_nncf()
        # It draws progress bars.
        with contextlib.redirect_stdout(io.StringIO()), quiet():
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    model.set_rt_info(json.dumps(told, ensure_ascii=False), [METADATA])
    openvino.save_model(model, str(path), compress_to_fp16=half)


def timed(path: Path, threads: int, arithmetic: str) -> Callable[[np.ndarray], np.ndarray]:
    """A compiled model for any one input, for measurements; `arithmetic` is `f32` or `bf16`."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": arithmetic, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda given: compiled(given)[0]


def _import_nncf() -> Any:
    import logging

    # Importing it prints which libraries it has found.
    with contextlib.redirect_stdout(io.StringIO()):
        import nncf
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
