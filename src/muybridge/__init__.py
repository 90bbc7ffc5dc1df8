"""muybridge: image transformers become video recognisers.

    recogniser = muybridge.load("runs/x")
    recogniser.predict("video.mp4")

Names are imported when they are first used, so that the command line starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from muybridge.backbones.vit import ViT, ViTConfig
    from muybridge.backbones.weights import load_backbone
    from muybridge.engine.evaluate import EvaluateArgs, evaluate_data
    from muybridge.engine.train import resume, train
    from muybridge.errors import MuybridgeError
    from muybridge.loading import load
    from muybridge.methods import METHODS, build_method
    from muybridge.predicting.results import Predictions
    from muybridge.predicting.timeline import Segment, Timeline
    from muybridge.recogniser import Recogniser
    from muybridge.report.compare import compare_runs
    from muybridge.report.page import write_report
    from muybridge.structures import Output, Prediction, Recipe, Sampling, TrainArgs, Transform

_HOMES = {
    "ViT": "backbones.vit",
    "ViTConfig": "backbones.vit",
    "load_backbone": "backbones.weights",
    "EvaluateArgs": "engine.evaluate",
    "evaluate_data": "engine.evaluate",
    "resume": "engine.train",
    "train": "engine.train",
    "MuybridgeError": "errors",
    "METHODS": "methods",
    "build_method": "methods",
    "Predictions": "predicting.results",
    "Segment": "predicting.timeline",
    "Timeline": "predicting.timeline",
    "Recogniser": "recogniser",
    "load": "loading",
    "compare_runs": "report.compare",
    "write_report": "report.page",
    "Output": "structures",
    "Prediction": "structures",
    "Recipe": "structures",
    "Sampling": "structures",
    "TrainArgs": "structures",
    "Transform": "structures",
}
__all__ = [
    "METHODS",
    "EvaluateArgs",
    "MuybridgeError",
    "Output",
    "Prediction",
    "Predictions",
    "Recipe",
    "Recogniser",
    "Sampling",
    "Segment",
    "Timeline",
    "TrainArgs",
    "Transform",
    "ViT",
    "ViTConfig",
    "build_method",
    "compare_runs",
    "evaluate_data",
    "load",
    "load_backbone",
    "resume",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'muybridge' has no attribute '{name}'")
    return getattr(import_module(f"muybridge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
