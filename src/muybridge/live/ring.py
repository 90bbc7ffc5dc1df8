"""The newest T frames of a stream, and what a method keeps of them."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from muybridge.errors import BadInput
from muybridge.methods.base import Features, Method
from muybridge.predicting.walk import encodes_once


class Ring:
    """A window of T frames that moves on.

    A frame is encoded once if the method can (`Method.encode_frame`); what was kept of it goes when T newer ones have
    come. Else the frames themselves are kept, and every window is computed from the beginning.

    Args:
        method: in evaluation mode.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.once = encodes_once(method)
        self._frames: deque[Features] = deque(maxlen=method.frames)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def full(self) -> bool:
        """Whether there are T frames."""
        return len(self._frames) == self.method.frames

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return sum(tensor.nbytes for kept in self._frames for tensor in kept.values())

    def clear(self) -> None:
        """Forget all frames: the next one does not follow them."""
        self._frames.clear()

    @torch.inference_mode()
    def push(self, images: Tensor) -> None:
        """The next frame: [B, 3, H, W], normalised, on the method's device; of B streams, or B crops of one."""
        before = self._frames[-1] if self._frames else None
        kept = self.method.encode_frame(images, before) if self.once else None
        self._frames.append({"image": images} if kept is None else kept)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """[B, K] of the window: those of `method(video)` on the same frames.

        Raises:
            BadInput: there are not yet T frames.
        """
        if not self.full:
            raise BadInput(f"The window has {len(self)} of its {self.method.frames} frames; push more.")
        frames = list(self._frames)
        if self.once:
            return self.method.from_frames(frames).logits
        return self.method(torch.stack([frame["image"] for frame in frames], dim=1)).logits
