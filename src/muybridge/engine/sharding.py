"""A frozen backbone whose blocks are shared out over the processes that train beside it.

    shard_backbone(method, device)          # before the method is moved to its device
    whole = whole_backbone(method)          # in all processes at once

Each process keeps 1/N of the weights of every block's attention and MLP. When one of them is called, in whatever way a
method walks over the blocks, torch's FSDP gathers its weights, and frees them when it is done; on the way back it does
so again. What is trained, and the few frozen weights outside of attention and MLP, are whole in every process.

As the weights are gathered by all processes at once, all must call the same modules in the same order: `join_in` is for
a process that has no video when others have one.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from muybridge.backbones.vit import ViT
from muybridge.engine.batches import Batch
from muybridge.engine.processes import Processes
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.methods.base import Method

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def check_sharding(processes: Processes, backbone_sha256: str, cached: bool, progress: Progress) -> None:
    """Raise BadInput if a run cannot shard its backbone; say so if there is nobody to share it with.

    Args:
        processes: those of the run.
        backbone_sha256: of this process's backbone.
        cached: the run trains on cached features.
        progress: is told.
    """
    if cached:
        raise BadInput("Cached features are trained on without the backbone: set train.shard_backbone to false.")
    if processes.count == 1:
        progress.say("train.shard_backbone has no effect on one process; torchrun starts several.")
    if len(set(processes.gather(backbone_sha256))) > 1:
        raise BadInput(
            "The processes have backbones of different weights, whose shares make no whole: give all of them the same "
            "file with --weights."
        )


def check_whole(method: Method) -> None:
    """Raise BadInput if a training before has left shares in place of the backbone's weights."""
    if is_sharded(method):
        raise BadInput("This backbone was sharded by a training before; load it again for another one.")


def shard_backbone(method: Method, device: torch.device) -> None:
    """Keep this process's share of the weights of the backbone's blocks, on `device`, and free the rest.

    The backbone is changed in place; a whole one is never on the device.

    Args:
        method: its backbone is frozen, and the same in all processes.
        device: where the method will be.

    Raises:
        BadInput: the backbone is trained, or processes share a GPU.
    """
    # Slow to load, with all of torch's symbolic shapes behind it, and seldom needed.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not method.freezes_backbone:
        raise BadInput("train.shard_backbone is for a frozen backbone, and this one is trained: set it to false.")
    if device.type == "cuda" and "nccl" not in distributed.get_backend_config():
        raise BadInput(
            "train.shard_backbone needs a GPU for each process: start as many processes as there are GPUs, or set it "
            "to false."
        )
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in method.backbone.blocks:
        # Not the block itself: methods walk through its parts, and every one of them calls these two.
        for part in (block.get_submodule("attn"), block.get_submodule("mlp")):
            # Each is a root of its own, as no method calls the backbone as a whole; roots would stay gathered.
            sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
            # Their room, made here, is no tensor of inference mode, wherever they are called first.
            sharded.unshard()
            sharded.reshard()
    # What a block returns is added out of place by every method.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)


def leave_to_fsdp(module: nn.Module) -> None:
    """Keep sharded weights within `module` out of what DDP shares at its start; to be called before DDP wraps it."""
    names = [name for name, parameter in module.named_parameters() if _is_share(parameter)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)


def is_sharded(method: Method) -> bool:
    """Whether `shard_backbone` has changed this method's backbone."""
    return any(_is_share(parameter) for parameter in method.backbone.parameters())


def _is_share(tensor: Tensor) -> TypeGuard[DTensor]:
    loaded = sys.modules.get("torch.distributed.tensor")  # without which there is none
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def kept_bytes(method: Method) -> int:
    """Bytes of the backbone's weights that this process keeps between two steps."""
    return sum(
        parameter.to_local().nbytes if _is_share(parameter) else parameter.nbytes
        for parameter in method.backbone.parameters()
    )


def kept_share(method: Method) -> str:
    """The same in words, beside what the whole backbone has."""
    whole = sum(parameter.numel() * parameter.element_size() for parameter in method.backbone.parameters())
    return f"{kept_bytes(method) / 1e6:,.1f} MB of the frozen backbone's {whole / 1e6:,.1f} MB"


@torch.no_grad()
def whole_backbone(method: Method) -> dict[str, Tensor]:
    """The backbone's state dict with whole weights, on the CPU; to be called in all processes at once."""
    state = {}
    for name, tensor in method.backbone.state_dict().items():
        state[name] = (tensor.full_tensor() if _is_share(tensor) else tensor).detach().cpu()
    return state


def gathered(method: Method) -> ViT:
    """The whole backbone, a new one, on the CPU; to be called in all processes at once."""
    with torch.device("meta"):
        backbone = ViT(method.backbone.config)
    backbone.load_state_dict(whole_backbone(method), assign=True)
    return backbone.requires_grad_(False).eval()


def with_own(method: Method, other: Method) -> Method:
    """`method`, sharded, with what `other` has beside the same backbone."""
    method.load_own(other.own_state())
    return method


def in_step(batches: Iterator[Batch], processes: Processes) -> Iterator[Batch | None]:
    """This process's batches, and None for as long as another process still has one."""
    while True:
        batch = next(batches, None)
        if not processes.sum(batch is not None)[0]:
            return
        yield batch


@torch.no_grad()
def join_in(method: Method, device: torch.device) -> None:
    """Take part in an evaluation's gathering of weights, without a video."""
    method(torch.zeros(1, method.frames, 3, *method.image_size, device=device))
