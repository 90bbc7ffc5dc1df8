"""ZeroI2V: "Zero-Cost Adaptation of Pre-trained Transformers from Image to Video", ECCV 2024,
https://arxiv.org/abs/2310.01324.

Idea. The image transformer reads every frame, with two changes that cost nothing once training is over. First, in every
block a few attention heads take their keys and values from ANOTHER frame, the one before or after, while their queries
and all other heads stay where they are: some heads look at space, some at time, and nothing is computed twice. Second,
what is trained are low-rank linear maps without non-linearity around the frozen layers. A linear map before or after a
linear layer can be multiplied into it, so the trained model ends as a plain image transformer with other weights.

One block, with x [T, L, D] the tokens of all frames; K and V are the keys and values before attention:

    A(z) = z + scale * W2 (W1 z + b1) + b2'                       four of them, b2' = scale * b2
    K'[t, :, c] = K[t + o(c), :, c],  V' likewise                 o(c): offset of channel c; own frame past the ends
    x = x + A_2( attention(A_1(norm1(x)), keys K', values V') )
    x = x + A_4( mlp(A_3(norm2(x))) )

A vector per frame is added to all its tokens at the start. The logits are a linear map of the mean over the frames of
the normed class tokens (of the backbone's own summary where it pools otherwise).

Trains: the adapters, the vectors per frame, a copy of the last norm, the head. Frozen: the backbone; gradients pass
through it down to the vectors per frame.

Differs from the published code, outputs being equal: attention is fused; the shift moves the shifted channels alone,
where they lie; an adapter, its dropout and the residual are one step; in the last block only the class token is
carried on, if that is all that is read; the last norm is a copy, so the backbone stays as it is; merging is done in
fp64 and gives a new model. Beyond it: any backbone (layer scale acts after the adapters and merging stays exact;
register tokens shift like all others), any list of shifts.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from muybridge.backbones.steps import apply_step, one_precision
from muybridge.backbones.vit import Block, Edit, ViT
from muybridge.errors import BadInput
from muybridge.methods.base import Method, check_dropout, fold_frames, stretch, unfold_frames
from muybridge.methods.fused import adapted
from muybridge.structures import Output, TrainArgs

Shifts = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ZeroI2VConfig:
    """Options of ZeroI2V; the defaults are those of the published ViT-B/16 for Kinetics-400.

    Attributes:
        shifts: which channels look at which frame, `offset:channels` from channel 0 on: "-1:64,+1:64" lets 64 channels
            look one frame back and the next 64 one ahead; "none": no shift; empty: a twelfth of the heads (at least
            one) each, back and ahead, as published for ViT-B/16.
        hidden: r, channels inside an adapter; 0: a quarter of the backbone's width.
        scale: factor of an adapter's branch (published: 0.5 for Kinetics-400, 1 for Something-Something).
        dropout: inside the adapters, in training.
        output_adapter: the fourth adapter of a block, behind the MLP.
        head_dropout: before the classifier, in training.
        backbone_lr: factor of the learning rate for all but the head (published: 0.1 for ViT-L/14).
        merged: the adapters are multiplied into the backbone: there are none, and training goes on without.
    """

    shifts: str = ""
    hidden: int = 0
    scale: float = 0.5
    dropout: float = 0.1
    output_adapter: bool = True
    head_dropout: float = 0.5
    backbone_lr: float = 1.0
    merged: bool = False

    def __post_init__(self) -> None:
        parse_shifts(self.shifts)
        if self.hidden < 0:
            raise BadInput(f"zeroi2v.hidden is {self.hidden}; expected channels, or 0 for a quarter of the width.")
        if not math.isfinite(self.scale):
            raise BadInput(f"zeroi2v.scale is {self.scale}; expected a number, as published 0.5 or 1.")
        if not self.backbone_lr > 0:
            raise BadInput(f"zeroi2v.backbone_lr is {self.backbone_lr:g}; expected a factor above 0.")
        check_dropout(self.dropout, "zeroi2v")
        if not 0 <= self.head_dropout < 1:
            raise BadInput(f"zeroi2v.head_dropout is {self.head_dropout:g}; expected 0 to below 1.")


def parse_shifts(text: str) -> Shifts:
    """ "-1:64,+1:64" -> ((-1, 64), (1, 64)): (offset in frames, channels), in this order from channel 0 on.

    Raises:
        BadInput: anything else than `offset:channels`, separated by commas; "none" and "" are no slices.
    """
    if text in ("", "none"):
        return ()
    slices = []
    for part in text.split(","):
        offset, colon, channels = part.strip().partition(":")
        try:
            slices.append((int(offset), int(channels)))
        except ValueError:
            colon = ""
        if not colon or slices[-1][0] == 0 or slices[-1][1] < 1:
            raise BadInput(
                f"zeroi2v.shifts is '{text}'; '{part.strip()}' is not offset:channels, such as +1:64 "
                "(the offset in frames is not 0). Separate several by commas; 'none' stands for no shift."
            )
    return tuple(slices)


def shifts_text(shifts: Shifts) -> str:
    """The text that `parse_shifts` reads as these slices."""
    return ",".join(f"{offset:+d}:{channels}" for offset, channels in shifts) or "none"


class LinearAdapter(nn.Module):
    """z + scale * W2 (W1 z), no non-linearity between: [.., D] -> [.., D]. Starts as the identity."""

    def __init__(self, width: int, hidden: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.fc1 = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, width)
        nn.init.trunc_normal_(self.fc1.weight, std=0.02)
        for zero in (self.fc1.bias, self.fc2.weight, self.fc2.bias):
            nn.init.zeros_(zero)

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """The adapted z; plus x of the same shape, where one is given."""
        if one_precision(z):
            return adapted(z, x, self._mask(z), self.fc1, self.fc2, self.scale)
        out = torch.add(z, self.fc2(self.dropout(self.fc1(z))), alpha=self.scale)
        return out if x is None else x + out

    def _mask(self, z: Tensor) -> Tensor | None:
        """What the dropout multiplies by, the same draws as its own: [.., r]."""
        keep = 1 - self.dropout.p
        if not self.dropout.training or keep == 1:
            return None
        return z.new_empty(*z.shape[:-1], self.fc1.out_features).bernoulli_(keep).div_(keep)

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """(U [D, r], V [r, D], c [D]) in fp64: without dropout this computes z + U V z + c."""
        w1, b1, w2, b2 = (p.detach().double() for p in (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias))
        return self.scale * w2, w1, self.scale * (w2 @ b1 + b2)


class BlockAdapters(nn.Module):
    """The four adapters of a block; those that a config leaves out pass on what they get."""

    def __init__(self, config: ZeroI2VConfig, width: int) -> None:
        super().__init__()

        def adapter(present: bool = True) -> nn.Module:
            if config.merged or not present:
                return nn.Identity()
            return LinearAdapter(width, config.hidden, config.scale, config.dropout)

        self.before_attention = adapter()
        self.after_attention = adapter()
        self.before_mlp = adapter()
        self.after_mlp = adapter(config.output_adapter)


def added(x: Tensor, scale: nn.Module, adapter: nn.Module, z: Tensor) -> Tensor:
    """x + scale(adapter(z))."""
    if isinstance(adapter, LinearAdapter) and isinstance(scale, nn.Identity):
        return adapter(z, x)  # Fast: one pass over the tokens less, see `fused.adapted`
    return x + scale(adapter(z))


class ZeroI2V(Method):
    """Heads that look at other frames, linear adapters that vanish after training."""

    Config = ZeroI2VConfig
    title = "ZeroI2V: Zero-Cost Adaptation from Image to Video (ECCV 2024), https://arxiv.org/abs/2310.01324"

    def __init__(
        self, backbone: ViT, config: ZeroI2VConfig, classes: int, frames: int, image_size: tuple[int, int]
    ) -> None:
        """As `Method`; raises BadInput where the shifts take more channels than the backbone has."""
        width, heads = backbone.config.width, backbone.config.heads
        share = max(1, heads // 12) * (width // heads)
        shifts = parse_shifts(config.shifts) if config.shifts else ((-1, share), (1, share))
        if sum(channels for _, channels in shifts) > width:
            raise BadInput(f"zeroi2v.shifts '{shifts_text(shifts)}' takes more channels than the backbone's {width}.")
        config = replace(config, shifts=shifts_text(shifts), hidden=config.hidden or width // 4)
        super().__init__(backbone, config, classes, frames, image_size)
        self.shifts = shifts
        self.temporal_embedding = nn.Parameter(torch.zeros(1, frames, width))
        self.adapters = nn.ModuleList(BlockAdapters(config, width) for _ in backbone.blocks)
        self.norm = copy.deepcopy(backbone.norm).requires_grad_(True)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, video: Tensor) -> Output:
        """video: [B, T, 3, H, W], normalised -> logits [B, K]."""
        self.check_video(video)
        x = self.backbone.embed(fold_frames(video), self._frame_vectors(video.shape[0]))
        self.record("embedded", x)
        last = self.backbone.config.depth - 1
        for i in range(last):
            x = self.through(self._block, i, x)
            self.record(f"block.{i}", x)
        # Fast: where the class token alone is read, the last block's MLP, three of its adapters and most of its
        # attention are for that token only: 1/16 of ViT-B/16.
        short = self.backbone.config.pool == "token"
        if self._trace is not None:
            self.record(f"block.{last}", self._block(last, x))
        x = self.through(self._block, last, x, short)
        features = unfold_frames(self.backbone.summary(x, self.norm), self.frames)  # [B, T, D]
        self.record("frame_features", features)
        return Output(self.head(self.dropout(features.mean(dim=1))))

    def _frame_vectors(self, batch: int) -> Tensor:
        """The vector of every image's frame, [B * T, 1, D]."""
        return self.temporal_embedding.expand(batch, -1, -1).reshape(batch * self.frames, 1, -1)

    def _block(self, i: int, x: Tensor, class_only: bool = False) -> Tensor:
        """Block i with its adapters and shifts: x [N, L, D] -> the same, or [N, 1, D] of the class token only."""
        block, adapters = self.backbone.blocks[i], self.adapters[i]
        assert isinstance(block, Block)
        assert isinstance(adapters, BlockAdapters)
        attended = block.attn(adapters.before_attention(block.norm1(x)), self._edit(i, class_only))
        if not class_only:
            self.record(f"block.{i}.attention", attended)
        x = added(x[:, :1] if class_only else x, block.ls1, adapters.after_attention, attended)
        return added(x, block.ls2, adapters.after_mlp, block.mlp(adapters.before_mlp(block.norm2(x))))

    def _edit(self, i: int, class_only: bool) -> Edit:
        def edit(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if class_only:
                return q[:, :, :1], self.shift(k), self.shift(v)
            if self._trace is not None:
                self.record(f"block.{i}.k", k.clone())  # `shift` may write into it
            k, v = self.shift(k), self.shift(v)
            self.record(f"block.{i}.k_shifted", k)
            self.record(f"block.{i}.v_shifted", v)
            return q, k, v

        return edit

    def shift(self, x: Tensor) -> Tensor:
        """Every slice of channels from the frame that it looks at: x [B * T, h, L, d] -> the same.

        x may be written into.
        """
        n, heads, length, d = x.shape
        # Writing in place would bind a compiled program to one size of batch.
        compiled = torch.compiler.is_compiling() or x.is_meta
        if torch.is_grad_enabled() and x.requires_grad and not compiled:
            return apply_step(_Shifted, x, self.shifts, self.frames)
        if not torch.is_grad_enabled() and not compiled:
            return _shift_in_place(x, self.shifts, self.frames)
        channels = x.transpose(1, 2).reshape(-1, self.frames, length, heads * d)  # [B, T, L, D]
        widths = [width for _, width in self.shifts]
        slices = channels.split([*widths, heads * d - sum(widths)], dim=-1)
        moved = [look(part, offset) for part, (offset, _) in zip(slices, self.shifts, strict=False)]
        return torch.cat([*moved, slices[-1]], dim=-1).reshape(n, length, heads, d).transpose(1, 2)

    def head_frames(self) -> dict[int, Tensor]:
        """The shifts: offset -> share of each head's channels."""
        heads = self.backbone.config.heads
        channels = torch.zeros(self.backbone.config.width, dtype=torch.long)
        start = 0
        for offset, width in self.shifts:
            channels[start : start + width] = offset
            start += width
        by_head = channels.unflatten(0, (heads, -1))  # [h, d]
        offsets = sorted({0, *(offset for offset, _ in self.shifts)})
        return {offset: (by_head == offset).float().mean(dim=1) for offset in offsets}

    def parameter_groups(self, args: TrainArgs) -> list[dict[str, Any]]:
        """All is decayed, biases too, but the vectors per frame and the norm; the head learns at the full rate."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.trained_parameters():
            decayed = args.decay_all or not name.startswith(("temporal_embedding", "norm."))
            groups.setdefault((name.startswith("head."), decayed), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": args.lr * (1.0 if head else self.config.backbone_lr),
                "weight_decay": args.weight_decay if decayed else 0.0,
            }
            for (head, decayed), parameters in groups.items()
        ]

    @torch.no_grad()
    def merged(self) -> ZeroI2V:
        """A plain image transformer with shifts: the adapters multiplied into a copy of the backbone."""
        if self.config.merged:
            return self
        backbone = copy.deepcopy(self.backbone)
        for block, adapters in zip(backbone.blocks, self.adapters, strict=True):
            assert isinstance(block, Block)
            assert isinstance(adapters, BlockAdapters)
            fold_before(block.attn.qkv, adapters.before_attention)
            fold_after(block.attn.proj, adapters.after_attention)
            fold_before(block.mlp.fc1, adapters.before_mlp)
            fold_after(block.mlp.fc2, adapters.after_mlp)
        backbone.config = replace(backbone.config, qkv_bias=True)
        config = replace(self.config, merged=True)
        other = type(self)(backbone, config, self.classes, self.frames, self.image_size)
        other.to(self.head.weight)  # device and precision
        other.load_own({name: tensor for name, tensor in self.own_state().items() if not name.startswith("adapters.")})
        return other.train(self.training)

    def interpolate(self, name: str, tensor: Tensor, other: Method) -> Tensor:
        """The vectors per frame linearly over time."""
        if name == "temporal_embedding":
            return stretch(tensor, 1, other.frames)
        return super().interpolate(name, tensor, other)


def look(x: Tensor, offset: int) -> Tensor:
    """What frame t + offset has, at t; a frame that has none there keeps its own: [B, T, ..] -> the same."""
    frames, distance = x.shape[1], abs(offset)
    if distance >= frames:
        return x
    if offset > 0:
        return torch.cat([x[:, distance:], x[:, frames - distance :]], dim=1)
    return torch.cat([x[:, :distance], x[:, : frames - distance]], dim=1)


class _Shifted(torch.autograd.Function):
    """`ZeroI2V.shift` in place.

    Fast: queries, keys and values stay in one tensor, which is all that attention keeps: 19 MB less a block (ViT-B/16,
    16 images), and no slice is copied that stays: a step of attention in 0.76 of the time of shifting frame by frame.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shifts: Shifts, frames: int) -> Tensor:
        ctx.shifts, ctx.frames = shifts, frames
        # As data: for autograd a write into one of three views spoils the others, but nothing keeps what was there.
        return _shift_in_place(x.data, shifts, frames)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n, heads, length, d = grads[0].shape
        grad = grads[0].transpose(1, 2).reshape(-1, ctx.frames, length, heads * d)
        out, start = grad.clone(), 0
        for offset, width in ctx.shifts:
            place = (..., slice(start, start + width))
            look_back(grad[place], offset, out[place])
            start += width
        return out.view(n, length, heads, d).transpose(1, 2), None, None


def _shift_in_place(x: Tensor, shifts: Shifts, frames: int) -> Tensor:
    # Fast: the slices that stay are not copied: an attention of ViT-B/16 takes 0.94 to 0.96 of the time.
    n, heads, length, d = x.shape
    channels, start = x.transpose(1, 2).reshape(-1, frames, length, heads * d), 0  # [B, T, L, D], a view of qkv
    for offset, width in shifts:
        part = channels[..., start : start + width]
        part.copy_(look(part, offset))
        start += width
    return channels.reshape(n, length, heads, d).transpose(1, 2)


def look_back(grad: Tensor, offset: int, out: Tensor) -> None:
    """The gradient of what `look` was given, written into `out`, which holds `grad`: [B, T, ..]."""
    frames, distance = grad.shape[1], abs(offset)
    if distance >= frames:
        return
    inner = frames - distance
    if offset > 0:
        out[:, :distance] = 0
        out[:, distance:] = grad[:, :inner]
        out[:, inner:] += grad[:, inner:]
    else:
        out[:, inner:] = 0
        out[:, :inner] = grad[:, distance:]
        out[:, :distance] += grad[:, :distance]


# Fast: the adapters' product U V [D, D] is never formed: a ViT-B/16 is merged in 1.5 in place of 2.4 s.
def fold_before(linear: nn.Linear, adapter: nn.Module) -> None:
    """`linear` becomes linear(adapter(x))."""
    if isinstance(adapter, LinearAdapter):
        u, v, shift = adapter.factors()
        weight = linear.weight.double()
        bias = weight @ shift if linear.bias is None else linear.bias.double() + weight @ shift
        _assign(linear, torch.addmm(weight, weight @ u, v), bias)


def fold_after(linear: nn.Linear, adapter: nn.Module) -> None:
    """`linear` becomes adapter(linear(x))."""
    if isinstance(adapter, LinearAdapter):
        u, v, shift = adapter.factors()
        weight, bias = linear.weight.double(), linear.bias.double()
        _assign(linear, torch.addmm(weight, u, v @ weight), bias + u @ (v @ bias) + shift)


def _assign(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.bias = nn.Parameter(bias.to(linear.weight.dtype), requires_grad=False)
    linear.weight = nn.Parameter(weight.to(linear.weight.dtype), requires_grad=False)
