"""The one training loop.

    for each epoch:
        for each batch:  loss = cross entropy + the method's own losses;  step
        evaluate;  keep the best model;  save what is needed to go on

A run folder holds `recipe.json`, `labels.txt`, `split.csv`, `metrics.jsonl`, `model.safetensors` (best), `last/`,
`evaluation.json` and `predictions.csv`.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import BACKBONES, backbone_sha256, load_backbone
from muybridge.engine.batches import Batch, Batches, VideoBatches
from muybridge.engine.checkpoint import (
    MODEL,
    load_last,
    load_model,
    load_strictly,
    model_spec,
    save_last,
    save_model,
    write_atomically,
)
from muybridge.engine.device import mixed_precision, pick_device
from muybridge.engine.evaluate import Evaluation, evaluate, write_evaluation
from muybridge.engine.features import compute_features, megabytes
from muybridge.engine.interrupt import Interrupted, StopRequest, stop_on_signal
from muybridge.engine.labels import label_features
from muybridge.engine.loss import total_loss
from muybridge.engine.optim import make_optimizer, make_schedule
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.methods import build_method
from muybridge.methods.base import Features, Method, count
from muybridge.recipes import check, fit_to_backbone, read_recipe, write_recipe
from muybridge.recipes.fields import to_dict
from muybridge.recipes.files import validate
from muybridge.structures import Output, Recipe
from muybridge.video.dataset import Source, VideoDataset, read_source, read_split, write_split
from muybridge.video.labels import write_labels


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        folder: the run folder.
        method: the best model, in evaluation mode, on the CPU.
        evaluation: of the best model on the validation videos.
        seconds: in the training epochs, decoding and backbone included unless features were cached before.
        trainable: number of trainable parameters.
    """

    folder: Path
    method: Method
    evaluation: Evaluation
    seconds: float
    trainable: int


class Step(nn.Module):
    """What accelerate wraps: a method called with a video or with its cached features."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, inputs: Tensor | Features) -> Output:
        """As `Method.forward`, or `Method.readout`."""
        return self.method.readout(inputs) if isinstance(inputs, dict) else self.method(inputs)


@dataclass
class Meter:
    """Running sums of an epoch."""

    loss: float = 0.0
    right: int = 0
    videos: int = 0
    seconds: float = 0.0

    def figures(self) -> dict[str, float]:
        """Mean loss, accuracy and videos per second so far."""
        videos = max(self.videos, 1)
        return {
            "loss": self.loss / videos,
            "accuracy": self.right / videos,
            "videos_per_second": self.videos / max(self.seconds, 1e-9),
        }


def train(
    recipe: Recipe,
    out: str | Path,
    source: Source | None = None,
    backbone: ViT | None = None,
    progress: Progress | None = None,
    batches: tuple[Batches, Batches] | None = None,
    texts: Sequence[str] | None = None,
) -> TrainResult:
    """Train a recogniser.

    Args:
        recipe: the setting; its `data`, `backbone` and `weights` are used unless the next two are given.
        out: the run folder; it must not exist or be empty.
        source: the videos.
        backbone: the image transformer, instead of loading one.
        progress: told of every step.
        batches: of training and validation, instead of reading files: features that several trainings share.
        texts: what to call the classes for a method with a text head, in their order; None: their names.

    Raises:
        BadInput: a setting, data set or folder that cannot be used; too many videos that cannot be decoded.
        Interrupted: Ctrl-C or SIGTERM; the run has saved and can be resumed.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists already; nothing is written over. Give another --out, or --resume {out}.")
    recipe = validate(recipe)
    check(recipe)
    _one_process()
    if source is None:
        source = read_source(recipe.data, recipe.source)
    info = None
    if backbone is None:
        backbone, info = load_backbone(recipe.backbone, recipe.weights or None)
    recipe, progress = fit_to_backbone(recipe, info), progress or Progress()
    texts = source.labels if texts is None else texts
    if len(texts) != len(source.labels):
        raise BadInput(f"{len(texts)} labels are given for {len(source.labels)} classes: {', '.join(source.labels)}.")
    features = label_features(recipe, texts, info or BACKBONES.get(recipe.backbone), progress)
    with _own_generators():
        torch.manual_seed(recipe.train.seed)
        classes, frames, size = len(source.labels), recipe.sampling.frames, recipe.transform.size
        method = build_method(recipe.method, backbone, classes, frames, size, recipe.options, features)
        recipe = replace(recipe, options=to_dict(method.config))  # what was `auto` is settled for a resumed run
        return _Run(recipe, out, source, method, progress, batches).go()


def resume(
    folder: str | Path,
    backbone: ViT | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Go on with an interrupted training, from where it saved last; otherwise as `train`.

    Raises:
        MissingFile: there is nothing to resume.
        CheckpointError: the files do not belong together.
    """
    folder = Path(folder)
    recipe = read_recipe(folder / "recipe.json")
    state = load_last(folder)
    _one_process()
    if not Path(recipe.data).exists():
        raise MissingFile(f"The videos of this run are not at {recipe.data} any more; put them back there.")
    source = read_split(folder / "split.csv", recipe.data)
    if backbone is None:
        backbone = load_backbone(recipe.backbone, recipe.weights or None)[0]
    if backbone_sha256(backbone) != state["backbone_sha256"]:
        raise CheckpointError(f"{folder} was trained with other backbone weights than '{recipe.backbone}' has now.")
    with _own_generators():
        torch.manual_seed(recipe.train.seed)
        method = build_method(
            recipe.method, backbone, len(source.labels), recipe.sampling.frames, recipe.transform.size, recipe.options
        )
        return _Run(recipe, folder, source, method, progress or Progress()).go(state)


def _one_process() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput("Training runs in one process for now; start it without torchrun or accelerate launch.")


def _own_generators() -> AbstractContextManager[None]:
    """Within: torch's generators may be seeded and drawn from; afterwards they are as they were."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


class _Run:
    """One training: what it has and what it has reached."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        source: Source,
        method: Method,
        progress: Progress,
        batches: tuple[Batches, Batches] | None = None,
    ) -> None:
        self.recipe, self.args, self.out, self.source = recipe, recipe.train, out, source
        self.method, self.progress = method, progress
        # accelerate keeps its precision in a process-wide state; one process may train several times.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=mixed_precision(self.args.precision))
        self.device = pick_device(self.accelerator.device)
        self.spec = model_spec(recipe.method, method, recipe.backbone, source.labels, recipe.sampling, recipe.transform)
        method.to(self.device)
        self.step = self.accelerator.prepare_model(Step(method))
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(method, self.args))
        self.given = batches
        per_epoch = len(batches[0]) if batches else -(-len(source.train) // self.args.batch_size)
        self.schedule = make_schedule(self.optimizer.optimizer, self.args, -(-per_epoch // self.args.accumulate))
        self.bad: dict[int, str] = {}
        self.left_out: set[str] = set()
        self.best = -1.0
        self.best_evaluation: Evaluation | None = None
        self.seconds = 0.0

    def go(self, state: dict[str, Any] | None = None) -> TrainResult:
        if state is None:
            self._begin()
        try:
            return self._go(state)
        finally:
            self.progress.finish()

    def _begin(self) -> None:
        """What a run folder has from its first moment, so that any interruption leaves one that can be resumed."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_recipe(self.out / "recipe.json", self.recipe)
        write_labels(self.out / "labels.txt", self.source.labels)
        write_split(self.out / "split.csv", self.source)
        self._save(0, 0, Meter())

    def _go(self, state: dict[str, Any] | None) -> TrainResult:
        try:
            training, validation = self.given or self._batches()
        except KeyboardInterrupt:
            raise self._interrupted(*(state["epoch"], state["batch"]) if state else (0, 0)) from None
        epoch, batch, meter = 0, 0, Meter()
        if state is not None:
            epoch, batch, meter = self._restore(state)
        with stop_on_signal() as stop:
            while epoch < self.args.epochs:
                self._train_epoch(training, epoch, batch, meter, stop)
                line = {"epoch": epoch + 1, "lr": self.schedule.get_last_lr()[0], **meter.figures()}
                line["unreadable"] = len(self.bad)
                epoch, batch, meter = epoch + 1, 0, Meter()
                if epoch % self.args.evaluate_every == 0 or epoch == self.args.epochs:
                    line |= self._evaluate(validation)
                self._log(line)
                self._save(epoch, batch, meter)
                if stop.asked and epoch < self.args.epochs:
                    raise self._interrupted(epoch, batch)
        backbone = copy.deepcopy(self.method.backbone).cpu() if self.args.slim else None
        method = load_model(self.out, backbone=backbone).method
        evaluation = self.best_evaluation
        if evaluation is None:  # the best epoch was before an interruption
            evaluation = evaluate(method.to(self.device).merged(), validation, self.device, self.progress)
        write_evaluation(self.out, evaluation, self.source.val, self.source.labels)
        trainable = count(self.method.parameters(), trainable_only=True)
        return TrainResult(self.out, method.cpu(), evaluation, self.seconds, trainable)

    def _batches(self) -> tuple[Batches, Batches]:
        recipe, args = self.recipe, self.args
        train_set = VideoDataset(self.source.train, recipe.sampling, recipe.transform, True, args.seed, recipe.source)
        val_set = VideoDataset(self.source.val, recipe.sampling, recipe.transform, False, args.seed, recipe.source)
        views = recipe.sampling.views * recipe.sampling.crops
        training = VideoBatches(train_set, args.batch_size, args.seed, args.fixed_views, args.workers)
        validation = VideoBatches(val_set, max(args.batch_size // views, 1), workers=args.workers)
        if args.cache == "none":
            return training, validation
        cached = compute_features(
            self.method, training, self.device, args.fixed_views, self.progress, "features of the training videos"
        )
        cached_val = compute_features(
            self.method, validation, self.device, 1, self.progress, "features of the validation videos"
        )
        size = megabytes(cached.features) + megabytes(cached_val.features)
        self.progress.say(f"Frozen features are computed once and kept in memory: {size:.0f} MB.")
        return cached, cached_val

    def _train_epoch(self, training: Batches, epoch: int, start: int, meter: Meter, stop: StopRequest) -> None:
        self.method.on_epoch(epoch, self.args.epochs)
        self.step.train()
        title = f"epoch {epoch + 1}/{self.args.epochs}"
        self.progress.start(title, len(self.source.train))
        self.progress.advance(start * self.args.batch_size)
        clock = time.perf_counter()
        for number, batch in enumerate(training.epoch(epoch, start), start + 1):
            self._count_bad(batch)
            boundary = number % self.args.accumulate == 0 or number == len(training)
            # The last group of batches may be smaller than `accumulate`.
            group = min(
                self.args.accumulate, len(training) - (number - 1) // self.args.accumulate * self.args.accumulate
            )
            loss, right = self._optimise(batch, boundary, group)
            if not math.isfinite(loss):
                raise BadInput(
                    f"The loss is {loss} in epoch {epoch + 1}, batch {number}. Lower --train.lr, or set "
                    f"--train.clip_grad 1. The best model so far and the last checkpoint are in {self.out}."
                )
            now = time.perf_counter()
            meter.seconds += now - clock
            self.seconds += now - clock
            clock = now
            meter.loss += loss * len(batch.labels)
            meter.right += right
            meter.videos += len(batch.labels)
            self.progress.advance(len(batch.labels) + len(batch.errors), **meter.figures())
            if stop.asked and boundary and number < len(training):
                self._save(epoch, number, meter)
                raise self._interrupted(epoch, number)
        self.progress.finish()

    def _optimise(self, batch: Batch, boundary: bool, group: int) -> tuple[float, int]:
        """One of `group` batches of a step, forward and backward; the step at the boundary. Mean loss, number right."""
        loss_value, right = 0.0, 0
        if batch.inputs is not None:
            inputs: Any = batch.inputs
            if isinstance(inputs, dict):
                inputs = {name: x.to(self.device, non_blocking=True) for name, x in inputs.items()}
            else:
                inputs = inputs.to(self.device, non_blocking=True)
            labels = batch.labels.to(self.device, non_blocking=True)
            with self.accelerator.autocast():
                output = self.step(inputs)
            loss = total_loss(output, labels, self.args.label_smoothing)
            self.accelerator.backward(loss / group)
            loss_value = loss.item()
            right = int((output.logits.argmax(dim=1) == labels).sum())
        if boundary and any(p.grad is not None for p in self.step.parameters()):
            if self.args.clip_grad:
                self.accelerator.clip_grad_norm_(self.step.parameters(), self.args.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if boundary:
            self.schedule.step()
        return loss_value, right

    def _count_bad(self, batch: Batch) -> None:
        for index, sentence in batch.errors.items():
            if index not in self.bad:
                self.bad[index] = sentence
                self.progress.say(f"Skipped: {sentence}")
        allowed = self.args.bad_share * len(self.source.train)
        if len(self.bad) > allowed:
            raise BadInput(
                f"{len(self.bad)} of {len(self.source.train)} training videos cannot be decoded, more than the share "
                f"train.bad_share={self.args.bad_share:g} allows. The last: {list(self.bad.values())[-1]}. "
                "Repair or remove them, or raise --train.bad_share."
            )

    def _evaluate(self, validation: Batches) -> dict[str, float]:
        evaluation = evaluate(self.method.merged(), validation, self.device, self.progress)
        for sentence in evaluation.unreadable:
            if sentence not in self.left_out:
                self.left_out.add(sentence)
                self.progress.say(f"Left out of the validation: {sentence}")
        if evaluation.top1 > self.best:
            self.best, self.best_evaluation = evaluation.top1, evaluation
            save_model(self.out / MODEL, self.method, self.spec, self.args.slim)
        left_out = len(evaluation.unreadable)
        return {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "val_unreadable": left_out}

    def _log(self, line: dict[str, Any]) -> None:
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        text = f"epoch {line['epoch']}/{self.args.epochs}: loss {line['loss']:.3f}, accuracy {line['accuracy']:.1%}"
        if "val_top1" in line:
            text += f", validation top-1 {line['val_top1']:.1%}"
        self.progress.say(f"{text}, {line['videos_per_second']:.0f} videos/s")

    def _save(self, epoch: int, batch: int, meter: Meter) -> None:
        trained = {name for name, p in self.method.named_parameters() if p.requires_grad}
        own = set(self.method.own_state())
        state = {
            "epoch": epoch,
            "batch": batch,
            "meter": asdict(meter),
            "best": self.best,
            "seconds": self.seconds,
            "bad": self.bad,
            "tensors": {k: v for k, v in self.method.state_dict().items() if k in trained | own},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": torch.get_rng_state(),
            "backbone_sha256": self.spec.backbone_sha256,
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state()
        save_last(self.out, state)

    def _restore(self, state: dict[str, Any]) -> tuple[int, int, Meter]:
        load_strictly(self.method, {**self.method.state_dict(), **state["tensors"]}, f"{self.out} cannot be resumed")
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["generator"])
        if "scaler" in state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if "cuda_generator" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generator"])
        self.best, self.seconds, self.bad = state["best"], state["seconds"], state["bad"]
        _keep_lines(self.out / "metrics.jsonl", state["epoch"])
        return state["epoch"], state["batch"], Meter(**state["meter"])

    def _interrupted(self, epoch: int, batch: int) -> Interrupted:
        self.progress.finish()
        return Interrupted(
            f"Stopped in epoch {epoch + 1} after {batch} batches and saved. Go on with: "
            f"muybridge train --resume {self.out}"
        )


def _keep_lines(path: Path, lines: int) -> None:
    # What was logged after the checkpoint happens again.
    if path.is_file():
        kept = path.read_text(encoding="utf-8").splitlines()[:lines]
        text = "".join(line + "\n" for line in kept)
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
