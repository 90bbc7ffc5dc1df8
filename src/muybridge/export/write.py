"""A recogniser becomes a folder that needs no muybridge: a model of one runtime, and a program that uses it."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from muybridge import __version__
from muybridge.engine.checkpoint import write_json
from muybridge.errors import BadInput, unknown
from muybridge.export import onnx_file, openvino_file, program, standalone
from muybridge.export.check import Check, Footage, NotTheSame, compare, fault, footage
from muybridge.export.graph import Deployed
from muybridge.export.standalone import Frames, Run
from muybridge.methods.base import check_named
from muybridge.recogniser import Recogniser

# Runtime -> the file that it reads.
TARGETS = {"onnx": "model.onnx", "torch": "model.pt2", "openvino": "model.xml"}
PROGRAM, FACTS = "predict.py", "export.json"
TOLD_OF_TRANSFORM = (
    "size",
    "resize",
    "resize_single",
    "rounding",
    "crop_steps",
    "interpolation",
    "antialias",
    "arithmetic",
)


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: where.
        files: names in it and their sizes in bytes.
        told: what the model's metadata say.
        check: how it compares with the recogniser.
        notes: what one should know, sentences.
    """

    folder: Path
    files: dict[str, int]
    told: dict[str, Any]
    check: Check
    notes: tuple[str, ...] = ()


def export_model(
    recogniser: Recogniser,
    folder: str | Path,
    to: str = "onnx",
    precision: Literal["full", "half", "int8"] = "full",
    with_resize: bool = False,
    videos: Footage | None = None,
) -> Export:
    """Write a recogniser for a runtime, run what was written, and compare.

    Args:
        recogniser: on the CPU.
        folder: is made; holds `model.onnx` (`.pt2`, `.xml` and `.bin`), `export.json` and, but for torch, `predict.py`.
        to: a key of `TARGETS`.
        precision: `full`: fp32; `half`: weights in fp16; `int8`: weights of matrix products in bytes.
        with_resize: the model takes frames of any size and resizes and crops them itself.
        videos: to compare on; synthetic films by default.

    Raises:
        BadInput: the folder exists, the runtime is not installed or has no such precision, or a text head has no names.
        UnknownName: no such runtime.
        NotTheSame: what was written does not answer as the recogniser does; nothing is kept.
    """
    if to not in TARGETS:
        raise unknown("runtime", to, TARGETS)
    check_possible(to, precision)
    check_named(recogniser.method)
    folder = Path(folder)
    if folder.exists():
        raise BadInput(f"{folder} exists already; nothing is written over. Give another folder with --out.")
    if recogniser.device.type != "cpu":
        raise BadInput(f"A model is exported from the CPU; this one is on {recogniser.device}.")
    sampling, transform = recogniser.sampling, recogniser.spec.transform
    if videos is None:
        videos = footage(None, sampling, transform.size)
    told = facts(recogniser, precision, with_resize)
    single = sampling.views * sampling.crops == 1
    plain = Deployed(recogniser.method, transform, sampling.crops, single, with_resize).eval()
    graph = plain
    if precision == "half" and to != "openvino":
        lighter = copy.deepcopy(recogniser.method).half()
        graph = Deployed(lighter, transform, sampling.crops, single, with_resize, half=True).eval()
    traced = program.trace(graph, program.frames_like(sampling.frames, transform.size, with_resize), with_resize)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place and moved there when it is known to work.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
        made = Path(work) / "export"
        made.mkdir()
        path = made / TARGETS[to]
        run, read = _write_and_open(traced, path, told, to, precision)
        if read != told:
            raise NotTheSame(f"{path.name} does not tell what was written into it: its metadata differ.")
        check = compare(recogniser, run, _in_torch(plain), told, videos)
        wrong = fault(check, precision, rounds(told))
        if wrong:
            raise NotTheSame(
                f"The export to {to} was run on {check.videos} {check.source} and does not answer as the model "
                f"does: {wrong}. Nothing was written. Export without --half and --int8, or to another runtime."
            )
        if to != "torch":
            shutil.copyfile(standalone.__file__, made / PROGRAM)
        write_json(made / FACTS, {**told, "file": path.name, "check": check.to_dict()})
        del run  # some systems do not move files that are open
        os.replace(made, folder)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    return Export(folder, files, told, check, _notes(told, check))


def check_possible(to: str, precision: str) -> None:
    """Raise BadInput unless what the export needs is installed and the runtime has the precision."""
    if to == "torch" and precision == "int8":
        raise BadInput("torch.export has no int8 here; give --to onnx or --to openvino with --int8.")
    if to != "torch":
        (onnx_file if to == "onnx" else openvino_file).check_installed(precision == "int8")


def facts(recogniser: Recogniser, precision: str, with_resize: bool) -> dict[str, Any]:
    """What whoever feeds the model must know, for its metadata."""
    spec = recogniser.spec
    size = "[B, T, H, W, 3], any H and W" if with_resize else "[B, T, h, w, 3], cropped to transform.size"
    return {
        "format": 1,
        "made_by": f"muybridge {__version__}",
        "method": spec.method,
        "backbone": spec.backbone,
        "precision": precision,
        "input": f"frames: uint8 {size}, RGB, T = sampling.frames",
        "output": "probabilities: float32 [B, K], after the softmax; a video's answer is the mean over its views",
        "resize_inside": with_resize,
        "labels": list(spec.labels),
        "sampling": {field.name: getattr(spec.sampling, field.name) for field in fields(spec.sampling)},
        "transform": {
            **{name: getattr(spec.transform, name) for name in TOLD_OF_TRANSFORM},
            "size": list(spec.transform.size),
        },
    }


def rounds(told: dict[str, Any]) -> bool:
    """Whether frames lose fractions of levels that the model was trained with."""
    return told["transform"]["arithmetic"] == "float" and not told["resize_inside"]


def _write_and_open(
    traced: Any, path: Path, told: dict[str, Any], to: str, precision: str
) -> tuple[Run, dict[str, Any]]:
    if to == "torch":
        program.write(traced, path, told)
        return program.open_program(path)
    if to == "onnx":
        onnx_file.write(traced, path, told, precision == "int8")
    else:
        openvino_file.write(traced, path, told, precision == "half", precision == "int8")
    return standalone.open_model(path, torch.get_num_threads())


def _in_torch(graph: Deployed) -> Run:
    def run(frames: Frames) -> Any:
        with torch.inference_mode():
            return graph(torch.from_numpy(frames)).numpy()

    return run


def _notes(told: dict[str, Any], check: Check) -> tuple[str, ...]:
    notes = []
    if rounds(told):
        notes.append(
            "This model resizes frames to fractions of levels, and the export takes bytes: that alone changes "
            f"probabilities by up to {check.difference:.1e} here. --with-resize keeps the fractions."
        )
    if told["precision"] == "int8" and check.agreement < 0.95:
        notes.append("int8 changes what this model answers; evaluate it on your videos before you rely on it.")
    if told["resize_inside"] and told["sampling"]["crops"] > 1:
        notes.append(f"The mean over {told['sampling']['crops']} crops is inside the model.")
    return tuple(notes)
