"""What leaves Python: uint8 frames -> probabilities, with everything between them inside one graph.

A picture is resized by two matrix products, rows @ picture @ columns: row i of a matrix holds the weights with which
line i of the result sees the lines of the picture. A crop is a choice of rows. So no operator of a runtime is asked
what it means by "bilinear with antialias"; every runtime multiplies matrices alike, and sizes stay free.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from muybridge.errors import BadInput
from muybridge.methods.base import Method
from muybridge.structures import IMAGENET_MEAN, IMAGENET_STD, Transform

CUBIC = {True: -0.5, False: -0.75}  # antialias -> the free number of bicubic weights, as torch has it
MOST_BITS = 22


class Deployed(nn.Module):
    """uint8 frames [B, T, H, W, 3] -> probabilities [B, K], fp32.

    Args:
        method: merged, in evaluation mode; its class names are in it.
        transform: how frames become its input.
        crops: with `resize`, how many crops at test time; their probabilities are averaged.
        single: only one view of a video is taken, see `test_video`.
        resize: frames may have any size, which is resized and cropped here; else they have the method's.
        half: the method is in fp16; resizing, normalisation and probabilities stay fp32.
    """

    def __init__(
        self,
        method: Method,
        transform: Transform,
        crops: int = 1,
        single: bool = True,
        resize: bool = False,
        half: bool = False,
    ) -> None:
        super().__init__()
        if crops not in (1, 3):
            raise BadInput(f"crops is {crops}; expected 1 (the centre) or 3 (along the long side).")
        self.method = method
        self.transform = transform
        self.crops = crops if resize else 1
        self.resize = resize
        self.dtype = torch.float16 if half else torch.float32
        short = transform.resize_single if single and transform.resize_single else transform.resize
        self.short = short or max(transform.size)
        self.mean: Tensor
        self.std: Tensor
        for name, numbers in (("mean", transform.mean or IMAGENET_MEAN), ("std", transform.std or IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(numbers).mul(255).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        video = frames.permute(0, 1, 4, 2, 3).float()  # [B, T, 3, H, W], levels of 255
        if self.resize:
            video = self._crops_of(video).flatten(0, 1)
        logits = self.method(video.sub(self.mean).div(self.std).to(self.dtype)).logits
        probabilities = logits.float().softmax(dim=-1)
        return probabilities.unflatten(0, (-1, self.crops)).mean(dim=1) if self.crops > 1 else probabilities

    def _crops_of(self, video: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, crops, T, 3, h, w], resized and cropped, levels of 255."""
        size = self.transform.size
        # As tensors, so that the graph computes with the size that it is given.
        height, width = (torch.ones_like(video[0, 0, 0, :, 0]).sum(), torch.ones_like(video[0, 0, 0, 0]).sum())
        height, width = height.long(), width.long()
        new_height, new_width = self._resized(height, width)
        down, across = new_height - size[0], new_width - size[1]
        views = []
        for crop in range(self.crops):
            top, left = self._start(down, across, crop)
            rows = self._weights(video.shape[3], height, new_height, top, size[0])
            columns = self._weights(video.shape[4], width, new_width, left, size[1])
            # Columns first, as torch does it: in uint8 arithmetic there are bytes in between.
            views.append(self._round(rows @ self._round(video @ columns.T, between=True), between=False))
        return torch.stack(views, dim=1)

    def _resized(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """As `transforms.scaled_size`, and again with the side of the crop where the crop would not fit."""
        size = self.transform.size
        wanted, fitting = (self._scaled(height, width, short) for short in (self.short, max(size)))
        fits = (wanted[0] >= size[0]) & (wanted[1] >= size[1])
        return torch.where(fits, wanted[0], fitting[0]), torch.where(fits, wanted[1], fitting[1])

    def _scaled(self, height: Tensor, width: Tensor, short: int) -> tuple[Tensor, Tensor]:
        low, high = torch.minimum(height, width), torch.maximum(height, width)
        if self.transform.rounding == "floor":
            long = high * short // low
        elif self.transform.rounding == "int":
            long = (high.double() / low * short).floor().long()
        else:
            long = (high.double() * (short / low.double()) + 0.5).floor().long()
        side = torch.full_like(long, short)
        return torch.where(height < width, side, long), torch.where(height < width, long, side)

    def _start(self, down: Tensor, across: Tensor, crop: int) -> tuple[Tensor, Tensor]:
        """As `sampling.crop_offsets`: (top, left) of one crop."""
        if self.crops == 1:
            return down // 2, across // 2
        margin = torch.maximum(down, across)
        even = self.transform.crop_steps == "even"
        place = (margin * 0, margin // 2, margin // 2 * 2 if even else margin)[crop]
        tall = down > across
        return torch.where(tall, place, down // 2), torch.where(tall, across // 2, place)

    def _weights(self, length: int, old: Tensor, new: Tensor, start: Tensor, count: int) -> Tensor:
        """Rows `start` to `start + count` of the matrix that resizes `old` lines to `new`: [count, length].

        `length` is the same number as `old`.
        """
        transform = self.transform
        cubic, antialias = transform.interpolation == "bicubic", transform.antialias
        margin = 2 if cubic and not antialias else 0  # lines beyond the edge, which are the edge again
        lines = torch.arange(length + 2 * margin) - margin
        # The first row of all besides: none has a larger weight, and its size decides how weights are rounded.
        places = torch.cat([torch.zeros(1, dtype=torch.long), start + torch.arange(count)])
        # Whole numbers as long as possible: a picture's far end is as exact as its near one.
        apart = (2 * lines + 1) * new - (2 * places + 1)[:, None] * old
        unit = torch.maximum(old, new) if antialias else new
        weights = _kernel(apart.float() / (2 * unit).float(), CUBIC[antialias] if cubic else None)
        if margin:
            edges = weights[:, : margin + 1].sum(1, True), weights[:, -margin - 1 :].sum(1, True)
            weights = torch.cat([edges[0], weights[:, margin + 1 : -margin - 1], edges[1]], dim=1)
        else:
            weights = weights / weights.sum(1, True)
        if transform.arithmetic == "uint8":
            weights = _fixed_point(weights)
        return weights[1:]

    def _round(self, video: Tensor, between: bool) -> Tensor:
        """To whole levels where the transform's arithmetic does so."""
        if self.transform.arithmetic == "uint8":
            return (video + 0.5).floor().clamp(0, 255)
        if self.transform.arithmetic == "rounded" and not between:
            return video.round().clamp(0, 255)
        return video


def _kernel(x: Tensor, a: float | None) -> Tensor:
    """The weight of a line that lies `x` away: a triangle, or with `a` Keys' cubic."""
    x = x.abs()
    if a is None:
        return (1 - x).clamp(min=0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _fixed_point(weights: Tensor) -> Tensor:
    """Rounded to the 16-bit whole numbers with which torch resizes bytes, over the power of two that they count."""
    # The largest power with which the largest weight stays below 2^15.
    bits = (torch.log2((2**15 - 0.5) / weights.max()).ceil() - 1).clamp(max=MOST_BITS)
    one = torch.exp(bits * math.log(2)).round()
    return weights.sign() * (weights.abs() * one + 0.5).floor() / one
