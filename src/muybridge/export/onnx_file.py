"""ONNX: a traced program becomes `model.onnx`, whole or with its weights beside it, in int8 where asked."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from muybridge.export.program import METADATA, missing, quiet

OPSET = 20  # the newest that OpenVINO, ONNX Runtime and torch's exporter all know without a conversion
LARGEST = 1_900_000_000  # bytes of weights in one file: protobuf ends at 2 GiB


def check_installed(int8: bool = False) -> None:
    """Raise BadInput, naming the extra, unless what writes and runs ONNX is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401

        if int8:
            import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise missing(error.name or "onnx", "onnx") from None


def write(
    program: ExportedProgram, path: Path, told: dict[str, Any], int8: bool = False, largest: int = LARGEST
) -> None:
    """Write `model.onnx`; where its weights are too many for one file also `model.onnx.data`.

    Args:
        program: see `trace`.
        path: of the file.
        told: goes into its metadata, as JSON under `muybridge`.
        int8: weights of matrix products in bytes, by channel; activations are rounded to bytes anew in each call.
        largest: bytes of weights that still go into the file itself.
    """
    (given,) = program.graph_signature.user_inputs
    shapes = next(node for node in program.graph.nodes if node.name == given).meta["val"].shape
    names = {0: "batch", 2: "height", 3: "width"}
    free = {place: names[place] for place, size in enumerate(shapes) if not isinstance(size, int)}
    with torch.no_grad(), quiet():
        made = torch.onnx.export(
            program,
            input_names=["frames"],
            output_names=["probabilities"],
            dynamic_shapes=({place: torch.export.Dim(name) for place, name in free.items()},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        made.model.metadata_props[METADATA] = json.dumps(told, ensure_ascii=False)
        made.model.producer_name = "muybridge"
        size = sum(value.const_value.nbytes for value in made.model.graph.initializers.values() if value.const_value)
        if not int8:
            made.save(path, external_data=size > largest)
            return
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            made.save(whole, external_data=size > largest)
            del made
            _to_bytes(whole, path, size / 4 > largest)


def _to_bytes(source: Path, path: Path, external: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # It transposes weights, after which the shapes that are noted for them are wrong; it infers them anew.
    del model.graph.value_info[:]

    # A weight by channel is one of two axes: the few products with a stack of matrices stay as they are.
    flat = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    # It advises steps that were taken by torch's exporter.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            nodes_to_exclude=[node.name for node in products if node.input[1] not in flat],
            weight_type=QuantType.QInt8,
            use_external_data_format=external,
        )
    finally:
        root.setLevel(level)


def timed(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A session for any one input, for measurements."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda given: session.run(None, {name: given})[0]
