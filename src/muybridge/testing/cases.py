"""Reference cases: what a published implementation computes for known weights and inputs.

A case is one JSON file, ``<method>/<case>.json``. It holds no weights: every tensor is drawn
from its own name, so a full-size checkpoint of hundreds of megabytes costs a few kilobytes.

    case = load("tests/parity/evl/k400_vitb16_8f.json")
    case.state_dict      # {key: np.ndarray}, keys and shapes as in the published checkpoint
    case.inputs          # {name: np.ndarray}, e.g. "video"
    case.outputs         # {name: np.ndarray}, what the published code returned for them
    case.grads           # {key: {"norm": float, "head": np.ndarray}}, may be empty
    case.config          # what the model is: widths, depths, frames, classes, ...
    case.mode            # "eval" or "train": how the published code was run
    case.loss            # what the gradients are of: "logsumexp" is logits.float().logsumexp(-1).sum(),
                         # "logsumexp+aux" adds the sum of the auxiliary losses; None without gradients
    case.video_layout    # axes of inputs["video"]: "BCTHW", "BTCHW" or "BVCTHW" (V views)

Fields of the JSON file:
    method, case, source, config, mode, loss, video_layout, notes
    state_dict  {key: spec}; spec is {"shape", "mean", "std"} (uniform, float32), or
                {"value": nested list, "dtype"} for a buffer that is not random
    inputs      {name: spec}, likewise
    outputs     {name: {"shape": [...], "data": [flat list]}}
    grads       {key: {"norm": float, "head": [first <= 8 elements, flattened]}}; a gradient that is
                zero in exact arithmetic is stored as its rounding noise (norms around 1e-7)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FIELDS = frozenset(
    (
        "method",
        "case",
        "source",
        "config",
        "mode",
        "loss",
        "video_layout",
        "notes",
        "state_dict",
        "inputs",
        "outputs",
        "grads",
    )
)


def draw(name: str, shape: list[int], mean: float = 0.0, std: float = 1.0) -> Array:
    """A float32 array of ``shape``, uniform with this mean and standard deviation.

    The bits come from Philox, seeded by SHA-256 of ``name``: the same array on every machine
    and NumPy release.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    count = int(np.prod(shape)) if len(shape) else 1
    raw = np.random.Philox(key=seed).random_raw(count)
    unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)
    scaled = unit * np.float32(std * 12.0**0.5) + np.float32(mean)
    return scaled.reshape(shape).astype(np.float32)


def build(name: str, spec: dict[str, Any]) -> Array:
    """The array that ``spec`` describes, for the tensor called ``name``."""
    if "value" in spec:
        return np.asarray(spec["value"], dtype=spec.get("dtype", "float32"))
    return draw(name, spec["shape"], spec.get("mean", 0.0), spec.get("std", 1.0))


@dataclass(frozen=True)
class Case:
    """One reference case; the fields are those of the file, tensors built. See the module's docstring."""

    method: str
    case: str
    source: str
    config: dict[str, Any]
    mode: str
    loss: str | None
    video_layout: str | None
    notes: str
    state_dict: dict[str, Array]
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    grads: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(path: str | Path) -> Case:
    """Read a case from its JSON file.

    Raises:
        OSError: the file cannot be read.
        KeyError: a required field is missing.
    """
    raw = json.loads(Path(path).read_text(encoding="utf-8"))
    strange = sorted(set(raw) - FIELDS)
    if strange:
        raise ValueError(f"unknown fields: {', '.join(strange)}; known: {', '.join(sorted(FIELDS))}")
    return Case(
        method=raw["method"],
        case=raw["case"],
        source=raw["source"],
        config=raw["config"],
        mode=raw.get("mode", "eval"),
        loss=raw.get("loss"),
        video_layout=raw.get("video_layout"),
        notes=raw.get("notes", ""),
        state_dict={k: build(k, s) for k, s in raw["state_dict"].items()},
        inputs={k: build(f"input/{k}", s) for k, s in raw["inputs"].items()},
        outputs={k: np.asarray(o["data"], dtype=np.float32).reshape(o["shape"]) for k, o in raw["outputs"].items()},
        grads={
            k: {"norm": g["norm"], "head": np.asarray(g["head"], dtype=np.float32)}
            for k, g in raw.get("grads", {}).items()
        },
    )
