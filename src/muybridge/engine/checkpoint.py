"""`model.safetensors`, a run's best model, and how files are written so that an interruption leaves the old one whole.

`model.safetensors` is what people load: keys `backbone.*` in timm's names and `method.*`; its metadata tell everything
that is needed to build the model again. Files are written beside their place and then moved there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from muybridge.backbones.text import TextConfig, TextTower
from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.backbones.weights import backbone_sha256, load_backbone
from muybridge.errors import CheckpointError, MissingFile, MuybridgeError, key_difference
from muybridge.methods import build_method
from muybridge.methods.base import Method
from muybridge.recipes.fields import from_dict, to_dict
from muybridge.structures import ModelSpec, Sampling, Transform

FORMAT = "muybridge-1"
MODEL = "model.safetensors"
DISK_TROUBLE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS") if hasattr(errno, name)}


class NotSaved(MuybridgeError, OSError):
    """A file could not be written: the disk is full, or fails. What was there before is still there."""


def write_atomically(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Call `write` with a path beside `path`, then move the file there in one step.

    Args:
        path: of the file.
        write: is given where to write it.
        keep: what the file that was there is called from then on; None: it goes.

    Raises:
        NotSaved: the disk is full or fails; nothing has changed.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            _keep(path, keep)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _disk_trouble(error)
        if reason is None:
            raise
        raise NotSaved(f"{path} could not be written ({reason}).{_free(path)}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Replace a file of readable JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _keep(path: Path, other: Path) -> None:
    """`path` gets a second name, so that there is no moment without it."""
    beside = other.with_name(other.name + ".partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except OSError:  # no hard links on this file system
        os.replace(path, other)
    else:
        os.replace(beside, other)


def _sync_folder(folder: Path) -> None:
    # Else a power failure may take back that the file was moved. Not every file system can do it.
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _disk_trouble(error: Exception) -> str | None:
    """What is the matter with the disk; None: something else is wrong."""
    if isinstance(error, MuybridgeError):
        return None
    if isinstance(error, OSError):
        return error.strerror if error.errno in DISK_TROUBLE else None
    # safetensors and torch write by themselves and tell in words.
    text = (str(error).strip() or " ").splitlines()[0]
    theirs = (
        "os error" in text or "I/O" in text if isinstance(error, SafetensorError) else "PytorchStreamWriter" in text
    )
    return text if theirs or "inline_container" in text else None


def _free(path: Path) -> str:
    with suppress(OSError):
        return f" {shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free there."
    return ""


def model_spec(
    name: str, method: Method, backbone: str, labels: tuple[str, ...], sampling: Sampling, transform: Transform
) -> ModelSpec:
    """What `method`, called `name` in the table, is besides its tensors."""
    return ModelSpec(
        method=name,
        options=to_dict(method.config),
        backbone=backbone,
        backbone_config=to_dict(method.backbone.config),
        backbone_sha256=backbone_sha256(method.backbone),
        labels=labels,
        sampling=sampling,
        transform=transform,
    )


def save_model(
    path: Path,
    method: Method,
    spec: ModelSpec,
    slim: bool = False,
    text: TextTower | None = None,
    backbone: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model.

    Args:
        path: of the file.
        method: whose tensors are written.
        spec: what it is.
        slim: leave a frozen backbone out; loading then fetches it and verifies its SHA-256. One that was trained with
            the model, or came with the one it started from, is kept: it may be nowhere else.
        text: a text tower to keep beside it, so that other class names can be given without a download.
        backbone: its state dict, where the method has a share of it only; None: the method's.
    """
    tensors = {f"method.{key}": value for key, value in method.own_state().items()}
    if not method.freezes_backbone:
        spec = replace(spec, backbone_sha256=backbone_sha256(method.backbone), own_backbone=True)
    if not slim or spec.own_backbone:
        image = method.backbone.state_dict() if backbone is None else backbone
        tensors |= {f"backbone.{key}": value for key, value in image.items()}
    if text is not None:
        tensors |= {f"text.{key}": value for key, value in text.state_dict().items()}
    spec = replace(spec, text_config=to_dict(text.config) if text is not None else {})
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # One entry only: safetensors writes several in an order that changes from process to process.
    metadata = {FORMAT: json.dumps(to_dict(spec), ensure_ascii=False)}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


class Loaded(NamedTuple):
    """A model from its file: the method in evaluation mode, on the CPU, what it is, and its text tower if kept."""

    method: Method
    spec: ModelSpec
    text: TextTower | None


def is_model(path: str | Path) -> bool:
    """Whether this is a file (or folder with a file) that `save_model` wrote, by its metadata."""
    path = Path(path)
    file = path / MODEL if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            return FORMAT in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_spec(path: str | Path) -> ModelSpec:
    """What the model of a run folder or file is, without its tensors; raises as `load_model`."""
    return _read(Path(path), with_tensors=False)[1]


def _read(path: Path, with_tensors: bool) -> tuple[Path, ModelSpec, dict[str, torch.Tensor]]:
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        hint = "Is the training finished, or is it a data set?" if path.is_dir() else "Give a run folder."
        raise MissingFile(f"There is no {file}. {hint}")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            keys = opened.keys()
            tensors = {key: opened.get_tensor(key) for key in keys} if with_tensors else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file ({error}).") from None
    if FORMAT not in metadata:
        first = ", ".join(sorted(keys)[:3])
        raise CheckpointError(
            f"{file} is not a model of muybridge: its metadata do not say so (first keys: {first}). "
            "Weights of a backbone are given with --weights, at the start of a training."
        )
    return file, from_dict(ModelSpec, json.loads(metadata[FORMAT])), tensors


def load_model(path: str | Path, weights: str | Path | None = None, backbone: ViT | None = None) -> Loaded:
    """Build and fill the model of a run folder or of its `model.safetensors`.

    Args:
        path: the folder or the file.
        weights: file of the backbone's weights, for a model saved without them.
        backbone: the backbone itself, for the same case.

    Raises:
        MissingFile: there is no such file.
        CheckpointError: damaged, not of muybridge, or keys that differ from what the file says it is.
    """
    file, spec, tensors = _read(Path(path), with_tensors=True)
    own = {key.removeprefix("method."): value for key, value in tensors.items() if key.startswith("method.")}
    image = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    words = {key.removeprefix("text."): value for key, value in tensors.items() if key.startswith("text.")}
    strange = [key for key in tensors if not key.startswith(("method.", "backbone.", "text."))]
    if strange:
        raise CheckpointError(f"{file} has {len(strange)} unknown keys (first: {', '.join(strange[:3])}).")
    if image:
        # Fast: the file's pages are the weights, read when they are needed; a ViT-L/14 was drawn at random and then
        # written over in 3.9 s before.
        with torch.device("meta"):
            backbone = ViT(from_dict(ViTConfig, spec.backbone_config))
        load_strictly(backbone, image, f"{file}, backbone", assign=True)
    else:
        backbone = backbone or load_backbone(spec.backbone if spec.backbone != "custom" else None, weights)[0]
        if backbone_sha256(backbone) != spec.backbone_sha256:
            raise CheckpointError(
                f"{file} was saved without its backbone '{spec.backbone}' (SHA-256 {spec.backbone_sha256[:12]}...), "
                "and these weights are others. Give the file it was trained with by --weights."
            )
    method = build_method(
        spec.method, backbone, len(spec.labels), spec.sampling.frames, spec.transform.size, spec.options
    )
    method.load_own(own)
    text = None
    if words or spec.text_config:
        with torch.device("meta"):
            text = TextTower(from_dict(TextConfig, spec.text_config))
        load_strictly(text, words, f"{file}, text tower", assign=True)
        text.eval()
    return Loaded(method.eval(), spec, text)


def load_strictly(module: torch.nn.Module, tensors: dict[str, torch.Tensor], what: str, assign: bool = False) -> None:
    """Load tensors into a module, every key and shape agreeing.

    Args:
        module: is changed in place.
        tensors: by key.
        what: begins the sentence of an error.
        assign: take these tensors themselves in place of copies, for a module on the meta device.

    Raises:
        CheckpointError: missing, unknown or misshapen keys, the first of them named.
    """
    state = module.state_dict()
    expected = {key: tuple(value.shape) for key, value in state.items()}
    difference = key_difference(expected, {key: tuple(value.shape) for key, value in tensors.items()})
    if difference:
        raise CheckpointError(f"{what}: {difference}.")
    if assign:
        tensors = {key: value.to(state[key].dtype) for key, value in tensors.items()}
    module.load_state_dict(tensors, assign=assign)
