"""A training run: epochs, evaluations, and the files in its folder."""

from __future__ import annotations

import copy
import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import unchanging
from muybridge.engine.batches import ALONE, Batch, Batches, FeatureBatches, batches_in_epoch
from muybridge.engine.checkpoint import MODEL, NotSaved, load_model, model_spec, save_model, write_atomically
from muybridge.engine.evaluate import evaluate, write_evaluation
from muybridge.engine.features import StoredBatches, compute_features, megabytes, stored_halves, video_halves
from muybridge.engine.init import START
from muybridge.engine.interrupt import Interrupted, Paused, StopRequest, stop_on_signal
from muybridge.engine.last import Checkpoints, new_folder, save_last
from muybridge.engine.metrics import Evaluation
from muybridge.engine.mix import draw_mix, mixes
from muybridge.engine.processes import Processes
from muybridge.engine.progress import Meter, Progress, duration, peak_memory
from muybridge.engine.sharding import (
    check_sharding,
    check_whole,
    gathered,
    is_sharded,
    kept_share,
    whole_backbone,
    with_own,
)
from muybridge.engine.small_data import class_weights
from muybridge.engine.step import Stepper, Taken
from muybridge.engine.trackers import Tracker
from muybridge.errors import BadInput
from muybridge.methods.base import Method, count
from muybridge.recipes import write_recipe
from muybridge.structures import Recipe
from muybridge.video.dataset import Source, write_split
from muybridge.video.labels import write_labels

TIMED = 5  # steps after which the time is estimated


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


class Run:
    """One training: what it has and what it has reached."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        source: Source,
        method: Method,
        progress: Progress,
        batches: tuple[Batches, Batches] | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.recipe, self.args, self.out, self.source = recipe, recipe.train, out, source
        self.method, self.progress, self.given, self.processes = method, progress, batches, processes
        if mixes(self.args) and isinstance(batches and batches[0], (FeatureBatches, StoredBatches)):
            raise BadInput(
                "Cached features cannot be mixed: their pixels are gone. Set train.mixup and train.cutmix to 0."
            )
        check_whole(method)
        spec = model_spec(recipe.method, method, recipe.backbone, source.labels, recipe.sampling, recipe.transform)
        self.spec = replace(spec, own_backbone=bool(recipe.init.model))
        for half in batches or ():
            half.processes = processes
        per_epoch = (
            len(batches[0])
            if batches
            else batches_in_epoch(len(source.train), self.args.batch_size, self.args.seed, processes)
        )
        names = source.labels
        if self.args.shard_backbone:
            cached = isinstance(batches and batches[0], (FeatureBatches, StoredBatches))
            check_sharding(processes, spec.backbone_sha256, cached, progress)
        self.stepper = Stepper(method, self.args, len(names), per_epoch, processes)
        self.device = self.stepper.device
        self.sharded = is_sharded(method)
        if self.sharded:
            progress.say(f"Each of {processes.count} processes keeps {kept_share(method)}.")
        self.stepper.weigh_classes(class_weights([i.label for i in source.train], len(names), self.args.class_weights))
        self.tracker: Tracker | None = None
        self.bad: dict[int, str] = {}
        self.left_out: set[str] = set()
        self.best = -1.0
        self.best_evaluation: Evaluation | None = None
        self.seconds = 0.0
        self.told_time = False
        self.skipped = 0  # steps that were left out
        self.log: list[dict[str, Any]] = []  # what metrics.jsonl says
        self.checkpoints = Checkpoints(out, processes, self.args.save_every)

    def go(self, state: dict[str, Any] | None = None, until: int | None = None) -> TrainResult:
        """Train from the beginning, or from a state; raises Paused after `until` epochs."""
        if state is None:
            self._begin()
        try:
            self.tracker = Tracker(self.stepper.accelerator, self.recipe, self.out)
            with self._frozen(self.method.backbone):
                return self._go(state, until)
        finally:
            self.progress.finish()
            if self.tracker is not None:
                self.tracker.finish()

    def _begin(self) -> None:
        """The run folder, which is there with all that a resumed run needs, or not at all."""
        state = self._state(0, 0, Meter())
        backbone = whole_backbone(self.method) if self.sharded and self.recipe.init.model else None
        self.processes.agree(lambda: self._create(state, backbone))
        self.checkpoints.there_is(0, 0)

    def _create(self, state: dict[str, Any], backbone: dict[str, Tensor] | None) -> None:
        with new_folder(self.out) as folder:
            write_recipe(folder / "recipe.json", self.recipe)
            write_labels(folder / "labels.txt", self.source.labels)
            write_split(folder / "split.csv", self.source)
            if self.recipe.init.model:
                save_model(folder / START, self.method, self.spec, backbone=backbone)
            save_last(folder, state)

    def _go(self, state: dict[str, Any] | None, until: int | None) -> TrainResult:
        try:
            training, validation = self.given or self._batches()
            training.processes = validation.processes = self.processes
        except KeyboardInterrupt:
            raise self._interrupted(*(state["epoch"], state["batch"]) if state else (0, 0)) from None
        epoch, batch, meter = 0, 0, Meter()
        if state is not None:
            epoch, batch, meter = self._restore(state)
        with stop_on_signal() as stop:
            while epoch < self.args.epochs and not self._stale():
                if until is not None and epoch >= until:
                    raise Paused
                self._train_epoch(training, epoch, batch, meter, stop)
                line = {"epoch": epoch + 1, "lr": self.stepper.schedule.get_last_lr()[0], **meter.figures()}
                line |= {"unreadable": len(self.bad), "memory_gb": peak_memory(self.device)}
                epoch, batch, meter = epoch + 1, 0, Meter()
                if epoch % self.args.evaluate_every == 0 or epoch == self.args.epochs:
                    line |= self._evaluate(validation)
                self._log(line)
                asked, due = self.processes.sum(stop.asked, self.checkpoints.due_after_epoch())
                if asked or due or epoch in (self.args.epochs, until) or self._stale():
                    self._save(epoch, batch, meter)
                if asked and epoch < self.args.epochs:
                    raise self._interrupted(epoch, batch)
        if epoch < self.args.epochs:
            self.progress.say(f"Stopped early: {self._stale()} evaluations without a better one (train.patience).")
        method = self._best()
        evaluation = self.best_evaluation
        if evaluation is None:  # the best epoch was before an interruption
            best = with_own(self.method, method) if self.sharded else method.to(self.device).merged()
            evaluation = evaluate(best, validation, self.device, self.progress, processes=self.processes)
        names = self.source.labels
        self.processes.agree(lambda: write_evaluation(self.out, evaluation, self.source.val, names))
        trainable = count(self.method.parameters(), trainable_only=True)
        return TrainResult(self.out, method.cpu(), evaluation, self.seconds, trainable)

    def _best(self) -> Method:
        """The best model, from its file."""
        if not self.args.slim:
            return load_model(self.out).method
        backbone = gathered(self.method) if self.sharded else copy.deepcopy(self.method.backbone).cpu()
        with self._frozen(backbone):
            return load_model(self.out, backbone=backbone).method

    def _frozen(self, backbone: ViT) -> AbstractContextManager[None]:
        """Within: the SHA-256 of this backbone, or copy of it, is not computed again, if it is not trained."""
        return unchanging(backbone, self.spec.backbone_sha256) if self.method.freezes_backbone else nullcontext()

    def _stale(self) -> int:
        """How many evaluations have passed without a better one, if these are `patience` or more; else 0."""
        seen = [line["val_top1"] for line in self.log if "val_top1" in line]
        since = len(seen) - 1 - seen.index(max(seen)) if seen else 0
        return since if self.args.patience and since >= self.args.patience else 0

    def _batches(self) -> tuple[Batches, Batches]:
        args = self.args
        training, validation = video_halves(self.recipe, self.source, self.device)
        if args.cache == "none":
            return training, validation
        if args.cache == "disk":
            halves = training, validation
            return stored_halves(self.method, halves, self.device, args, self.progress, self.processes)
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
        self.stepper.step.train()
        title = f"epoch {epoch + 1}/{self.args.epochs}"
        self.progress.start(title, len(self.source.train))
        self.progress.advance(start * self.args.batch_size * self.processes.count)
        files: list[str] = []  # of the step
        clock = time.perf_counter()
        for number, batch in enumerate(training.epoch(epoch, start), start + 1):
            meter.waited += time.perf_counter() - clock
            videos, broken = (int(x) for x in self.processes.sum(len(batch.labels), len(batch.errors)))
            if broken:
                self._count_bad(batch)
            files += [self.source.train[index].name for index in batch.indices.tolist()]
            boundary = number % self.args.accumulate == 0 or number == len(training)
            # The last group of batches may be smaller than `accumulate`.
            group = min(
                self.args.accumulate, len(training) - (number - 1) // self.args.accumulate * self.args.accumulate
            )
            mix = draw_mix(self.args, self.recipe.transform.size, epoch, number - 1)
            rate = float(self.stepper.schedule.get_last_lr()[0])
            taken = self.stepper.take(batch, boundary, group, mix, videos)
            if taken.fault:
                self._left_out(taken, f"epoch {epoch + 1}, batch {number}", rate, files)
            if boundary:
                files = []
            now = time.perf_counter()
            meter.seconds += now - clock
            self.seconds += now - clock
            clock = now
            if math.isfinite(taken.loss):
                meter.loss += taken.loss * videos
                meter.right += taken.right
                meter.videos += videos
            self.progress.advance(videos + broken, **meter.figures(), memory_gb=peak_memory(self.device))
            if number - start == min(TIMED, len(training)):
                self._tell_time(meter, epoch)
            if boundary:
                asked, due = self.processes.sum(stop.asked, self.checkpoints.due())
                if asked or (due and number < len(training)):
                    self._save(epoch, number, meter)
                if asked:
                    raise self._interrupted(epoch, number)
        self.progress.finish()

    def _tell_time(self, meter: Meter, epoch: int) -> None:
        """How long it will take, once in a process."""
        if not self.told_time and meter.videos:
            self.told_time = True
            seconds = meter.seconds / meter.videos * len(self.source.train)
            left = self.args.epochs - epoch
            self.progress.say(
                f"By the first steps an epoch takes about {duration(seconds)}, and the {left} to come "
                f"{duration(seconds * left)}, without evaluations."
            )

    def _left_out(self, taken: Taken, where: str, rate: float, files: list[str]) -> None:
        """A step was not taken: tell, and stop if it is one too many."""
        names = [name for part in self.processes.gather(files) for name in part]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        what = (
            f"In {where}, {taken.fault} (learning rate {rate:g}, norm of the gradients {taken.norm:g}; videos: "
            f"{', '.join(names[:8])}{more})"
        )
        self.skipped += 1
        if self.skipped <= self.args.skip_bad_steps:
            self.progress.say(f"{what}: this step is left out, {self.skipped} of at most {self.args.skip_bad_steps}.")
            return
        before = f" Left out before: {self.args.skip_bad_steps}." if self.args.skip_bad_steps else ""
        raise BadInput(
            f"{what}. The step was not taken.{before} Lower --train.lr, set --train.clip_grad 1, look at these videos, "
            f"or leave such steps out with --train.skip_bad_steps {max(10, 2 * self.args.skip_bad_steps)}. The last "
            f"checkpoint ({self.checkpoints.where}) and the best model so far are in {self.out}."
        )

    def _count_bad(self, batch: Batch) -> None:
        errors = {index: text for part in self.processes.gather(batch.errors) for index, text in part.items()}
        for index, sentence in errors.items():
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
        self.stepper.share_buffers()
        with self.stepper.averaged():
            # What is merged is merged into a whole backbone; without it the scores are the same.
            method = self.method if self.sharded else self.method.merged()
            evaluation = evaluate(method, validation, self.device, self.progress, processes=self.processes)
            if evaluation.top1 > self.best:
                written = self.sharded and (self.spec.own_backbone or not self.args.slim)
                backbone = whole_backbone(self.method) if written else None
                self.processes.agree(lambda: self._save_best(backbone))
                self.best, self.best_evaluation = evaluation.top1, evaluation
        for sentence in evaluation.unreadable:
            if sentence not in self.left_out:
                self.left_out.add(sentence)
                self.progress.say(f"Left out of the validation: {sentence}")
        left_out = len(evaluation.unreadable)
        return {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "val_unreadable": left_out}

    def _save_best(self, backbone: dict[str, Tensor] | None) -> None:
        try:
            save_model(self.out / MODEL, self.method, self.spec, self.args.slim, backbone=backbone)
        except NotSaved as error:
            # Going on would end with another model than a run on a larger disk.
            raise NotSaved(f"{error} The run stops here. Make room and go on: {self._command()}") from None

    def _log(self, line: dict[str, Any]) -> None:
        self.log.append(line)
        self._write_log()
        if self.tracker is not None:
            self.tracker.log(line)
        text = f"epoch {line['epoch']}/{self.args.epochs}: loss {line['loss']:.3f}, accuracy {line['accuracy']:.1%}"
        if "val_top1" in line:
            text += f", validation top-1 {line['val_top1']:.1%}"
        self.progress.say(f"{text}, {line['videos_per_second']:.0f} videos/s")

    def _write_log(self) -> None:
        # The whole file, as the log is part of the checkpoint: what was logged after it happens again.
        text = "".join(json.dumps(line) + "\n" for line in self.log)
        if self.processes.first:
            try:
                path = self.out / "metrics.jsonl"
                write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
            except NotSaved as error:
                self.progress.say(f"{error} Its lines are kept for the next time.")

    def _state(self, epoch: int, batch: int, meter: Meter) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "batch": batch,
            "meter": asdict(meter),
            "best": self.best,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "bad": self.bad,
            "log": self.log,
            "backbone_sha256": self.spec.backbone_sha256,
            **self.stepper.state(),
        }

    def _save(self, epoch: int, batch: int, meter: Meter) -> None:
        """Write a checkpoint; where the disk is full, say so and go on with the one before it."""
        if not self.stepper.finite():
            raise BadInput(
                f"In epoch {epoch + 1}, batch {batch}, weights have become infinite. Lower --train.lr, or set "
                f"--train.clip_grad 1. The last checkpoint ({self.checkpoints.where}) and the best model so far are in "
                f"{self.out}."
            )
        try:
            self.checkpoints.save(self._state(epoch, batch, meter))
        except NotSaved:
            self.progress.say(f"{self.checkpoints.trouble} The training goes on.")

    def _restore(self, state: dict[str, Any]) -> tuple[int, int, Meter]:
        self.stepper.load_state(state, f"{self.out} cannot be resumed")
        self.best, self.seconds, self.bad = state["best"], state["seconds"], state["bad"]
        self.skipped, self.log = state["skipped"], state["log"]
        self._write_log()
        self.checkpoints.there_is(state["epoch"], state["batch"])
        return state["epoch"], state["batch"], Meter(**state["meter"])

    def _interrupted(self, epoch: int, batch: int) -> Interrupted:
        self.progress.finish()
        where = f"Stopped in epoch {epoch + 1} after {batch} batches"
        if self.checkpoints.trouble:
            return Interrupted(f"{where}. {self.checkpoints.trouble} Make room and go on from there: {self._command()}")
        return Interrupted(f"{where} and saved. Go on with: {self._command()}")

    def _command(self) -> str:
        return f"muybridge train --resume {self.out}"
