"""One step of a training: the losses of its batches, their gradients, and what the optimiser makes of them."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from muybridge.engine.batches import ALONE, Batch
from muybridge.engine.checkpoint import load_strictly
from muybridge.engine.device import mixed_precision, pick_device
from muybridge.engine.ema import Average, changing
from muybridge.engine.loss import total_loss
from muybridge.engine.mix import Mix, mix_videos, soft_targets
from muybridge.engine.optim import make_optimizer, make_schedule
from muybridge.engine.processes import Processes
from muybridge.engine.sharding import leave_to_fsdp, shard_backbone
from muybridge.errors import CheckpointError
from muybridge.methods.base import Features, Method
from muybridge.structures import Output, TrainArgs


class Step(nn.Module):
    """What accelerate wraps: a method called with a video or with its cached features."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, inputs: Tensor | Features) -> Output:
        """As `Method.forward`, or `Method.readout`."""
        return self.method.readout(inputs) if isinstance(inputs, dict) else self.method(inputs)


@dataclass(frozen=True)
class Taken:
    """What came of one batch, over all processes.

    Attributes:
        loss: mean over its videos.
        right: how many videos were recognised.
        norm: of the gradients of the whole step, at its last batch.
        fault: why the step was not taken, at its last batch; empty: it was.
    """

    loss: float
    right: int
    norm: float | None = None
    fault: str = ""


class Stepper:
    """A method with all that changes it: precision, optimiser, schedule, moving average.

    Args:
        method: to be trained; moved to the device.
        args: how.
        classes: K.
        per_epoch: batches in an epoch.
        processes: those that train it together.
    """

    def __init__(
        self, method: Method, args: TrainArgs, classes: int, per_epoch: int, processes: Processes = ALONE
    ) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        self.method, self.args, self.classes, self.processes = method, args, classes, processes
        # accelerate keeps its precision in a process-wide state; one process may train several times.
        AcceleratorState._reset_state()
        # Buffers, such as the statistics of batch norms, are each process's own until `share_buffers`.
        together = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        self.accelerator = Accelerator(
            cpu=processes.count > 1 and not torch.cuda.is_available(),
            mixed_precision=mixed_precision(args.precision),
            kwargs_handlers=[together],
        )
        self.device = pick_device(self.accelerator.device)
        if args.shard_backbone and processes.count > 1:
            shard_backbone(method, self.device)
        method.to(self.device)
        method.checkpoint_activations = args.checkpoint_activations
        with warnings.catch_warnings():
            # Torch 2.13 wants another word for `broadcast_buffers`, which accelerate 1.15 does not know yet.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            step = Step(method)
            leave_to_fsdp(step)
            self.step = self.accelerator.prepare_model(step)
        self.trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(method, args))
        self.schedule = make_schedule(self.optimizer.optimizer, args, -(-per_epoch // args.accumulate))
        self.average = Average(method, args.ema) if args.ema else None
        if processes.rank:
            torch.manual_seed(args.seed + processes.rank)  # or dropout would leave out the same in every process
        self.class_weights: Tensor | None = None
        self._videos = 0  # of the step so far
        self._fault = ""
        self._buffers: dict[str, Tensor] = {}

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Weights of the classes in the loss, [K]; None: all alike."""
        self.class_weights = None if weights is None else weights.to(self.device)

    def take(
        self, batch: Batch, boundary: bool, group: int, mix: Mix | None = None, videos: int | None = None
    ) -> Taken:
        """One of `group` batches of a step, forward and backward; the step at the boundary.

        Of a mixed video the answer that is right is the label with the larger share.

        Args:
            batch: this process's share of it.
            boundary: whether it is the last of the step.
            group: how many batches the step has.
            mix: how it is mixed.
            videos: how many videos all shares have together; None: there is one process.
        """
        videos = len(batch.labels) if videos is None else videos
        if not self._videos and self.args.skip_bad_steps:
            self._buffers = {name: buffer.clone() for name, buffer in self._own_buffers()}
        with nullcontext() if boundary else self.accelerator.no_sync(self.step):
            loss, right = self.processes.sum(*self._backward(batch, group, mix, videos))
        loss /= max(videos, 1)
        self._videos += videos
        if not math.isfinite(loss):
            self._fault = f"the loss is {loss}"
        if not boundary:
            return Taken(loss, int(right))
        norm = self._step() if self._videos else None
        taken = Taken(loss, int(right), norm, self._fault)
        self.optimizer.zero_grad()
        with warnings.catch_warnings():
            # Torch takes a first step that was left out for a wrong order of calls.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.schedule.step()
        self._videos, self._fault = 0, ""
        return taken

    def _backward(self, batch: Batch, group: int, mix: Mix | None, videos: int) -> tuple[float, int]:
        """Sum of the losses, number right."""
        inputs: Any = batch.inputs
        if inputs is None:
            if self.processes.count > 1:
                self._join_in()
            return 0.0, 0
        if isinstance(inputs, dict):
            inputs = {name: x.to(self.device, non_blocking=True) for name, x in inputs.items()}
        else:
            inputs = inputs.to(self.device, non_blocking=True)
        labels = targets = batch.labels.to(self.device, non_blocking=True)
        if mix is not None:
            inputs = mix_videos(inputs, mix)
            targets = soft_targets(labels, self.classes, self.args.label_smoothing, mix)
            labels = targets.argmax(dim=1)
        with self.accelerator.autocast():
            output = self.step(inputs)
        loss = total_loss(output, targets, self.args.label_smoothing, self.class_weights)
        # Gradients are averaged over the processes, whose shares may differ; wanted is the mean over all videos.
        weight = len(labels) * self.processes.count / videos
        self.accelerator.backward(loss * (weight / group))
        return loss.item() * len(labels), int((output.logits.argmax(dim=1) == labels).sum())

    def _join_in(self) -> None:
        """Take part in the exchange of gradients without a video, and without leaving a trace in the batch norms."""
        norms = [part for part in self.method.modules() if isinstance(part, _BatchNorm) and part.training]
        for norm in norms:
            norm.eval()
        with self.accelerator.autocast():
            output = self.step(torch.zeros(1, self.method.frames, 3, *self.method.image_size, device=self.device))
        self.accelerator.backward((output.logits.sum() + sum(output.losses.values())) * 0.0)
        for norm in norms:
            norm.train()

    def _step(self) -> float:
        """The optimiser's step, unless something is wrong with it; the norm of the gradients."""
        norm = float(self.accelerator.clip_grad_norm_(self.trained, self.args.clip_grad or math.inf))
        scaler = self.accelerator.scaler
        # In fp16 the scaler leaves out steps by itself until its scale fits; if none does, the gradients are at fault.
        if not math.isfinite(norm) and (scaler is None or scaler.get_scale() < 1):
            self._fault = self._fault or "the gradients are not finite"
        if self._fault and scaler is None:
            self._put_back()
            return norm
        self.optimizer.step()
        if self.average is not None and not self.accelerator.optimizer_step_was_skipped:
            self.average.update()
        if self._fault:
            self._put_back()
        return norm

    def _own_buffers(self) -> list[tuple[str, Tensor]]:
        parameters = {name for name, _ in self.method.named_parameters()}
        return [(name, tensor) for name, tensor in changing(self.method).items() if name not in parameters]

    def _put_back(self) -> None:
        # A video that is not finite has spoilt the statistics of batch norms too.
        for name, buffer in self._own_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])

    def share_buffers(self) -> None:
        """Give every process the first one's buffers, such as the statistics of batch norms."""
        if self.processes.count > 1:
            for _, buffer in self._own_buffers():
                distributed.broadcast(buffer, 0)

    def averaged(self) -> AbstractContextManager[None]:
        """Within: the method has the moving average's weights, if there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    def finite(self) -> bool:
        """Whether all weights and averages are."""
        tensors = [*changing(self.method).values(), *(self.average.tensors.values() if self.average else ())]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, but the frozen weights; to be called in all processes at once."""
        cuda = torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        state = {
            "tensors": changing(self.method),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generators": self.processes.gather((torch.get_rng_state(), cuda)),
        }
        if self.average is not None:
            state["average"] = self.average.state()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def load_state(self, state: dict[str, Any], what: str) -> None:
        """Take up a state; `what` begins the sentence of an error.

        Raises:
            CheckpointError: keys or shapes that differ, or another number of processes.
        """
        generators = state["generators"]
        if len(generators) != self.processes.count:
            raise CheckpointError(
                f"{what}: it was trained by {len(generators)} processes, and {self.processes.count} are running. Start "
                f"{len(generators)} (torchrun --nproc-per-node {len(generators)}), or train again."
            )
        load_strictly(self.method, {**self.method.state_dict(), **state["tensors"]}, what)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state(state["average"])
        if "scaler" in state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        here, cuda = generators[self.processes.rank]
        torch.set_rng_state(here)
        if cuda is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(cuda)
