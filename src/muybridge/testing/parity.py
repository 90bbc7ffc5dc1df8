"""Run reference cases: what the published codes computed against what we compute.

    python -m muybridge.testing.parity CASE.json [...]         # the fast methods, as they are used
    python -m muybridge.testing.parity --plain CASE.json       # their plain twins

Each case says how it was run. The model is built from the state dict in the published format by `muybridge.load`, the
intermediate tensors are those of `Method.trace`. One line is printed for each compared tensor: case, name, largest
difference, scale, PASS or FAIL; what is not known is FAIL. Exit code 1 on any failure, or if nothing was compared.

Tolerances (fp32). A value: 2e-5 of the tensor's largest |value|; the published codes themselves differ from their fp64
runs by up to 7e-6 of it, and a port adds in another order. A gradient: its norm and every stored element within
1e-4 x max(its stored norm, 1e-4 x the largest norm of the case). A gradient that is zero in exact arithmetic (the key
biases of a softmax, a bias in front of a batch norm) is stored as rounding noise of about 1e-7 of the largest norm: it
passes if ours and the stored one are both below 1e-6 of the largest norm.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muybridge.loading import load
from muybridge.methods.base import Method, text_head
from muybridge.plain import plain_twin
from muybridge.published import FORMATS
from muybridge.testing import backbone_cases, cases
from muybridge.testing.cases import Case
from muybridge.testing.stored import OUTPUTS
from muybridge.testing.stored.base import Run

VALUE = 2e-5
GRADIENT, FLOOR, NOISE = 1e-4, 1e-4, 1e-6
TEXTS = ("texts", "text")
STATE = "state dict"


@dataclass(frozen=True)
class Line:
    """One comparison.

    Attributes:
        case: method and case.
        name: of the tensor.
        difference: largest, absolute; infinite where nothing could be compared.
        scale: largest |stored value|, or what a gradient's allowance is a share of.
        passed: within the tolerance.
        note: why not, where it is no matter of numbers.
    """

    case: str
    name: str
    difference: float
    scale: float
    passed: bool
    note: str = ""

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        tail = f"  ({self.note})" if self.note else ""
        return f"{self.case}  {self.name}  {self.difference:.2e}  {self.scale:.3g}  {verdict}{tail}"


def run_case(path: str | Path, plain: bool = False) -> Iterator[Line]:
    """Compare everything that a case file stores.

    Args:
        path: the JSON file.
        plain: run the plain twin of the method.

    Yields:
        A line for each tensor. A case that cannot be run is one line, failed.
    """
    name = Path(path).stem
    try:
        case = cases.load(path)
        name = f"{case.method}/{case.case}"
        if case.method == "backbones":
            yield _same_keys(name, backbone_cases.there_and_back(case), case)
            for fault in backbone_cases.faults(case):
                yield Line(name, fault, math.inf, 0.0, False, "unknown or contradicted")
            outputs = backbone_cases.run(case)
            yield from (_value(name, key, outputs.get(key), stored) for key, stored in case.outputs.items())
        else:
            yield from _method_lines(name, case, plain)
    except Exception as error:
        # A damaged or foreign file makes errors of every kind; each is a case that was not reproduced.
        yield Line(name, "(the case)", float("inf"), 0.0, False, f"{type(error).__name__}: {error}")


def _method_lines(name: str, case: Case, plain: bool) -> Iterator[Line]:
    if case.method not in OUTPUTS:
        raise ValueError(f"there is no method '{case.method}'; known: {', '.join(OUTPUTS)}, backbones")
    if case.mode not in ("eval", "train"):
        raise ValueError(f"mode is '{case.mode}'; known: eval, train")
    if case.loss not in (None, "logsumexp", "logsumexp+aux"):
        raise ValueError(f"loss is '{case.loss}'; known: logsumexp, logsumexp+aux")
    state = {key: torch.from_numpy(value) for key, value in case.state_dict.items()}
    recogniser = load(state, "cpu", config=case.config)
    if recogniser.spec.method != case.method:
        raise ValueError(f"the state dict is one of {recogniser.spec.method}")
    yield _same_keys(name, recogniser.to_published(), case)
    method, features = recogniser.trained, None
    for key in case.inputs:
        if key != "video" and key not in TEXTS:
            yield Line(name, f"input {key}", float("inf"), 0.0, False, "unknown input")
    ids = next((case.inputs[key] for key in TEXTS if key in case.inputs), None)
    if ids is not None and recogniser.text is not None:
        if len(ids) != method.classes:
            raise ValueError(f"there are {len(ids)} texts for {method.classes} classes")
        with torch.no_grad():
            features = recogniser.text(torch.from_numpy(ids).long())
        if text_head(method) is not None:
            method.relabel(features)
    if plain:
        method = plain_twin(case.method, method)
    video, views = _video(case)
    method.train(case.mode == "train")
    with torch.set_grad_enabled(bool(case.grads)):
        trace = method.trace(video)
    run = Run(case, method, video, views, trace, features)
    for key, stored in case.outputs.items():
        yield _value(name, key, OUTPUTS[case.method](key, run), stored)
    if case.grads:
        yield from _gradients(name, case, method, trace)


def _video(case: Case) -> tuple[Tensor, int]:
    """[B * V, T, 3, H, W], and V."""
    layout, video = case.video_layout or "", torch.from_numpy(case.inputs["video"])
    if sorted(layout) not in (sorted("BCTHW"), sorted("BVCTHW")) or len(layout) != video.ndim:
        raise ValueError(f"video_layout is '{layout}'; known: orders of BCTHW and BVCTHW")
    order = "BVTCHW" if "V" in layout else "BTCHW"
    video = video.permute([layout.index(axis) for axis in order])
    return (video.flatten(0, 1), video.shape[1]) if "V" in layout else (video, 1)


def _value(case: str, name: str, ours: Tensor | None, stored: cases.Array) -> Line:
    scale = float(np.abs(stored).max()) if stored.size else 0.0
    if ours is None:
        return Line(case, name, float("inf"), scale, False, "unknown output")
    if tuple(ours.shape) != stored.shape:
        return Line(case, name, float("inf"), scale, False, f"shape {list(ours.shape)}, expected {list(stored.shape)}")
    difference = float(np.abs(ours.detach().double().numpy() - stored).max()) if stored.size else 0.0
    passed = math.isfinite(scale) and difference <= VALUE * scale  # a difference that is no number is not below
    return Line(case, name, difference, scale, passed)


def _gradients(case_name: str, case: Case, method: Method, trace: dict[str, Tensor]) -> Iterator[Line]:
    loss = trace["logits"].float().logsumexp(-1).sum()
    if case.loss is None:
        raise ValueError("there are gradients, but no loss")
    if case.loss == "logsumexp+aux":
        # The published codes have auxiliary losses in evaluation too; ours are then in the trace, layer by layer.
        ours = [value for name, value in trace.items() if name.startswith("loss.")]
        loss = loss + sum(ours or [value for name, value in trace.items() if name.endswith(".loss")])
    loss.backward()
    theirs = FORMATS[case.method].names(method)
    gradients = {theirs[name]: parameter.grad for name, parameter in method.named_parameters() if name in theirs}
    shortest = {key.removeprefix("module."): value for key, value in gradients.items()}
    largest = max(float(stored["norm"]) for stored in case.grads.values())
    for key, stored in case.grads.items():
        gradient = shortest.get(key.removeprefix("module."))
        name = f"gradient of {key}"
        if gradient is None:
            yield Line(case_name, name, float("inf"), stored["norm"], False, "no such gradient")
            continue
        norm, head = gradient.double().norm().item(), gradient.flatten()[: len(stored["head"])].double().numpy()
        apart = [abs(norm - stored["norm"]), float(np.abs(head - stored["head"]).max(initial=0.0))]
        difference = max(apart)
        if not all(map(math.isfinite, [norm, largest, *apart])):
            yield Line(case_name, name, math.inf, stored["norm"], False, "not a number")
            continue
        scale = max(stored["norm"], FLOOR * largest)
        noise = max(norm, stored["norm"]) <= NOISE * largest
        note = "zero in exact arithmetic" if noise and difference > GRADIENT * scale else ""
        yield Line(case_name, name, difference, scale, noise or difference <= GRADIENT * scale, note)


def _same_keys(case_name: str, back: dict[str, Tensor], case: Case) -> Line:
    """The state dict there and back: the same keys, the same bits."""
    name, scale = f"{STATE} of {len(case.state_dict)} keys, there and back", 0.0
    odd = sorted(set(back) ^ set(case.state_dict))
    if odd:
        return Line(
            case_name, name, float("inf"), scale, False, f"{len(odd)} keys differ (first: {', '.join(odd[:3])})"
        )
    wrong = [
        key
        for key, stored in case.state_dict.items()
        if not np.array_equal(back[key].numpy(), stored) or back[key].numpy().dtype != stored.dtype
    ]
    if wrong:
        return Line(case_name, name, float("inf"), scale, False, f"other values (first: {', '.join(wrong[:3])})")
    return Line(case_name, name, 0.0, scale, True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m muybridge.testing.parity",
        description="Compare what the published codes computed with what muybridge computes.",
    )
    parser.add_argument("cases", nargs="+", metavar="CASE.json", help="reference cases")
    parser.add_argument("--plain", action="store_true", help="run the plain twin of the method")
    options = parser.parse_args(arguments)
    lines = []
    for path in options.cases:
        for line in run_case(path, options.plain):
            print(line, flush=True)
            lines.append(line)
    compared = sum(line.difference < float("inf") for line in lines)
    failed = sum(not line.passed for line in lines)
    anything = any(not line.name.startswith(STATE) for line in lines)
    if failed:
        print(f"{failed} FAIL")
    print(f"compared {compared} of {len(lines)}")
    return 0 if anything and not failed and compared == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
