"""Implicit alignment of neighbouring frames: the module of ILA (ICCV 2023, https://arxiv.org/abs/2304.10465) by itself.

Idea. Two neighbouring frames are looked at together by a small convolutional network, which predicts one point in each
of them: where the two frames have something in common. Around a point lies a soft square mask. Multiplying the patches
of a frame by its mask emphasises what the frames share, without any attention over time; what the network has seen on
the way comes out as temporal features. An auxiliary loss asks the two masked, pooled frames of a pair to be alike.

With f the tokens of a frame, c_i the coordinates of the patches along an axis in [-1, 1] and (x, y) a frame's point:

    mask[row i, column j] = w(c_i - y) w(c_j - x)          w(d) = max(0, 1 - 1.5 max(0, |d| - 0.25))
    weight of frame t     = mean of its masks: as the later frame of pair t - 1, as the earlier one of pair t
    aligned = weight * f                                   temporal = fc(conv over time(mean of the pairs' features))

It knows nothing of any method: tokens [B, T, L, D] in, two tensors of that shape and a loss out.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.steps import one_precision
from muybridge.errors import BadInput, unknown
from muybridge.methods.fused import add_to_tokens
from muybridge.methods.pairs import convolved, linear_over_time, normed_convolution, pair_convolution, weighted_linear

Interaction = Literal["depthwise", "full"]
INTERACTIONS = ("depthwise", "full")

PAIR_CHANNELS = 256  # what the interaction block returns: half for the earlier frame, half for the later
FRAME_CHANNELS = PAIR_CHANNELS // 2
POINT_CHANNELS = 128
POINT_HIDDEN = 64
NORM_EPS = 1e-5
REACH = 0.75  # points lie in [-REACH, REACH]
PLATEAU, SLOPE = 0.25, 1.5  # of the masks
DISTURBANCE = 0.2  # how far, in training, the points are moved to the eight sides
STEADY_SHARE = (3, 5)  # of a training; the published 30 of 50 epochs
SMALLEST_GRID = 4  # two max-pools of 2 must leave something


class Pairs(NamedTuple):
    """What the module sees in the T - 1 pairs of neighbouring frames; P patches, C = `FRAME_CHANNELS`.

    Attributes:
        points: [B, T - 1, 4]: x and y of the earlier frame's point, x and y of the later one's.
        earlier: [B, T - 1, P], the earlier frames' masks.
        later: [B, T - 1, P], the later frames' masks.
        weights: [B, T, P], one map per frame.
        temporal: [B, T, P, C], temporal features before `fc`.
    """

    points: Tensor
    earlier: Tensor
    later: Tensor
    weights: Tensor
    temporal: Tensor


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that can evaluate with the statistics of the current batch.

    Args:
        channels: C.
        batch_statistics: in evaluation normalise by the batch; the running statistics are neither read nor changed.
    """

    def __init__(self, channels: int, batch_statistics: bool) -> None:
        super().__init__(channels)
        self.batch_statistics = batch_statistics

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_statistics and not self.training:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)


class ConvNorm(nn.Module):
    """Convolution that keeps the size, batch norm, max-pool of 2 if `pool`, ReLU: [N, C, G, G'] -> [N, C', ..]."""

    def __init__(
        self, channels: int, out: int, kernel: int, groups: int, batch_statistics: bool, pool: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups)
        self.norm = BatchNorm(out, batch_statistics)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if self.training or norm.batch_statistics:
            x = norm(self.convolve(x, self.conv.weight, self.conv.bias))
        else:
            # Fast: with statistics that stay, the norm is a factor and a shift of the convolution's own.
            assert norm.running_var is not None
            assert norm.running_mean is not None
            assert self.conv.bias is not None
            factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = (self.conv.bias - norm.running_mean) * factor + norm.bias
            x = self.convolve(x, self.conv.weight * factor[:, None, None, None], shift)
        return F.relu_(F.max_pool2d(x, 2) if self.pool else x)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolved(x, weight, bias, self.conv.groups)


class PairConvNorm(ConvNorm):
    """The same of the patches of neighbouring frames, the earlier frame's channels first: it reads tokens [B, T, L, D].

    Args:
        grid: (rows, columns) of patches.
        prefix: tokens before the patches.
    """

    def __init__(
        self, width: int, out: int, groups: int, batch_statistics: bool, grid: tuple[int, int], prefix: int
    ) -> None:
        super().__init__(2 * width, out, 3, groups, batch_statistics)
        self.grid, self.prefix = grid, prefix

    def convolve(self, f: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[B, T, L, D] -> [B * (T - 1), C', rows, columns]."""
        return pair_convolution(f, weight, bias, self.grid, self.prefix, self.conv.groups)


class PointPrediction(nn.Module):
    """One point in each frame of a pair: [N, `PAIR_CHANNELS`, rows, columns] -> [N, 4]; see `Pairs.points`."""

    def __init__(self, batch_statistics: bool) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNorm(PAIR_CHANNELS, POINT_CHANNELS, 3, 1, batch_statistics, pool=True),
            ConvNorm(POINT_CHANNELS, POINT_CHANNELS, 3, 1, batch_statistics, pool=True),
        )
        # Reference: in two groups, so that each frame's point is made from its own half of the channels.
        self.hidden = nn.Conv1d(POINT_CHANNELS, POINT_HIDDEN, 1, groups=2)
        self.out = nn.Conv1d(POINT_HIDDEN, 4, 1, groups=2)
        nn.init.zeros_(self.out.weight)  # every point starts in the middle
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor) -> Tensor:
        strongest = self.convs(z).flatten(2).amax(dim=2, keepdim=True)  # [N, 128, 1]
        return REACH * torch.tanh(self.out(F.relu(self.hidden(strongest))))[..., 0]


class Alignment(nn.Module):
    """Tokens of T frames -> aligned tokens, temporal features and the auxiliary loss.

    With one frame there is no pair: every weight is 1, the features that go into the convolution over time are zero
    (so `inter` holds what its biases make of them), and the loss is 0.

    Args:
        width: D.
        grid: (rows, columns) of patches.
        prefix: tokens before the patches (class, registers). They have no place in a map: both results carry them as
            they come.
        interaction: how a pair is looked at: `depthwise` (3x3 per channel, 1x1, 3x3; the published Kinetics models) or
            `full` (3x3, 3x3; Something-Something).
        batch_statistics: batch norms evaluate with the statistics of the current batch.

    Raises:
        BadInput: a side of the grid is below 4.
        UnknownName: no such interaction.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        prefix: int,
        interaction: Interaction = "depthwise",
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        if interaction not in INTERACTIONS:
            raise unknown("interaction", interaction, INTERACTIONS)
        if min(grid) < SMALLEST_GRID:
            raise BadInput(
                f"The alignment module needs a grid of at least {SMALLEST_GRID}x{SMALLEST_GRID} patches; it is "
                f"{grid[0]}x{grid[1]}. Give a larger image or a backbone with smaller patches."
            )
        self.grid = grid
        self.prefix = prefix
        pair, norm = 2 * width, batch_statistics
        first: list[ConvNorm] = [PairConvNorm(width, PAIR_CHANNELS, 1, norm, grid, prefix)]
        if interaction == "depthwise":
            first = [PairConvNorm(width, pair, pair, norm, grid, prefix), ConvNorm(pair, PAIR_CHANNELS, 1, 1, norm)]
        self.interaction = nn.Sequential(*first, ConvNorm(PAIR_CHANNELS, PAIR_CHANNELS, 3, 1, norm))
        self.prediction = PointPrediction(norm)
        self.temporal_conv = nn.Conv3d(FRAME_CHANNELS, FRAME_CHANNELS, (3, 1, 1), padding=(1, 0, 0))
        self.fc = nn.Linear(FRAME_CHANNELS, width)
        self.rows: Tensor
        self.columns: Tensor
        self.disturbance: Tensor
        self.register_buffer("rows", torch.linspace(-1, 1, grid[0]), persistent=False)
        self.register_buffer("columns", torch.linspace(-1, 1, grid[1]), persistent=False)
        self.register_buffer("disturbance", torch.tensor(DISTURBANCE), persistent=False)

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """How far the points are disturbed in this epoch: halved in every one from 60 % of the training on.

        It follows from the two numbers alone, so a resumed training goes on as it would have.
        """
        numerator, denominator = STEADY_SHARE
        steady = -(-epochs * numerator // denominator)
        self.disturbance.fill_(DISTURBANCE * 0.5 ** max(0, epoch - steady + 1))

    def forward(self, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f: [B, T, L, D] -> aligned [B, T, L, D], temporal features [B, T, L, D], loss (a scalar)."""
        pairs = self.look(f)
        return self.aligned(f, pairs), self.inter(f, pairs), self.loss(f, pairs)

    def look(self, f: Tensor) -> Pairs:
        """f: [B, T, L, D], normed tokens -> what is seen in the pairs."""
        patches = f[:, :, self.prefix :]
        b, t, count, _ = patches.shape
        if t == 1:
            none = f.new_zeros(b, 0, count)
            zeros = f.new_zeros(b, 1, count, FRAME_CHANNELS)
            return Pairs(f.new_zeros(b, 0, 4), none, none, f.new_ones(b, 1, count), self.over_time(zeros))
        z = self.interact(f)  # [B * (T - 1), 256, rows, columns]
        points = self.prediction(z).unflatten(0, (b, t - 1))
        earlier, later = self.mask(points[..., :2]), self.mask(points[..., 2:])
        seen = z.flatten(2).transpose(1, 2).unflatten(0, (b, t - 1))  # [B, T - 1, P, 256]
        temporal = self.over_time(merge(seen[..., :FRAME_CHANNELS], seen[..., FRAME_CHANNELS:]))
        # Fast: masks are merged to one map per frame before they meet the features: one product in place of two, and
        # no features of pairs to be cut up, joined and averaged.
        return Pairs(points, earlier, later, merge(earlier, later), temporal)

    def interact(self, f: Tensor) -> Tensor:
        """`interaction`, of which a training keeps what comes before the norms, and not what comes behind them."""
        parts = [part for part in self.interaction if isinstance(part, ConvNorm)]
        trained = torch.is_grad_enabled() and all(part.norm.training for part in parts)
        if not trained or not one_precision(f) or any(type(part.norm) is not BatchNorm for part in parts):
            z: Tensor = self.interaction(f)
            return z
        x = parts[0].convolve(f, parts[0].conv.weight, parts[0].conv.bias)
        for before, part in pairwise(parts):
            x = normed_convolution(x, before.norm, part.conv)
        return F.relu_(parts[-1].norm(x))

    def mask(self, points: Tensor) -> Tensor:
        """Points [B, T - 1, 2], (x, y) -> masks [B, T - 1, P]; in training the mean over nine disturbed points."""
        across, down = self.ramp(self.columns, points[..., 0]), self.ramp(self.rows, points[..., 1])
        return (down[..., :, None] * across[..., None, :]).flatten(-2)

    def ramp(self, coordinates: Tensor, point: Tensor) -> Tensor:
        """Weights along one axis: coordinates [G], point [B, T - 1] -> [B, T - 1, G]."""
        distance = coordinates - point[..., None]
        if not self.training:
            return weight_at(distance)
        # Fast: the nine points are three shifts of x times three of y, so the mean of their masks is the product of two
        # means of three ramps.
        shifts = self.disturbance * coordinates.new_tensor([-1.0, 0.0, 1.0])
        return weight_at(distance[..., None, :] - shifts[:, None]).mean(dim=-2)

    def over_time(self, x: Tensor) -> Tensor:
        """The convolution over time, zeros outside: [B, T, P, C] -> [B, T, P, C]."""
        # Fast: one product over the three neighbours' channels; no copy to [B, C, T, rows, columns] and back.
        weight = self.temporal_conv.weight.flatten(2).transpose(1, 2).flatten(1)  # [C, C, 3, 1, 1] -> [C, 3 C]
        assert self.temporal_conv.bias is not None
        return linear_over_time(x, weight, self.temporal_conv.bias)

    def aligned(self, f: Tensor, pairs: Pairs) -> Tensor:
        """f with each patch times its weight, prefix tokens as they are: [B, T, L, D]."""
        patches = f[:, :, self.prefix :] * pairs.weights[..., None]
        return torch.cat([f[:, :, : self.prefix], patches], dim=2)

    def inter(self, f: Tensor, pairs: Pairs) -> Tensor:
        """Temporal features of the patches beside f's prefix tokens: [B, T, L, D]."""
        return torch.cat([f[:, :, : self.prefix], self.fc(pairs.temporal)], dim=2)

    def pooled(self, f: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Sums over the masked patches of each pair's earlier and later frame: two of [B, T - 1, D]."""
        # Fast: both masks of every frame in one product with f as it lies; slices of f would be copied, and kept.
        masks = [
            F.pad(pairs.earlier, (self.prefix, 0, 0, 1)),
            F.pad(pairs.later, (self.prefix, 0, 1, 0)),
        ]
        sums = torch.stack(masks, dim=2) @ f  # [B, T, 2, L] [B, T, L, D]
        return sums[:, :-1, 0], sums[:, 1:, 1]

    def loss(self, f: Tensor, pairs: Pairs) -> Tensor:
        """Mean over the pairs of 1 - cosine of the two pooled frames; a scalar, 0 without a pair."""
        if f.shape[1] == 1:
            return f.new_zeros(())
        earlier, later = self.pooled(f, pairs)
        # In fp32, whatever the precision: squares of sums over a frame do not fit into fp16.
        return (1 - F.cosine_similarity(earlier.float(), later.float(), dim=-1)).mean()


class AlignedLayer(nn.Module):
    """The alignment as a residual of tokens x [B, T, L, D]: x + A aligned + S inter, with f = norm(W x).

    A and S start at zero, so a model starts as what it was without. In ILA it stands before every block of the image
    transformer; in EVL (`evl.alignment`) it enriches the frame features that the decoder asks.

    Args:
        width: D.
        grid: (rows, columns) of patches.
        prefix: tokens before the patches.
        interaction: see `Alignment`.
        batch_statistics: see `Alignment`.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        prefix: int,
        interaction: Interaction = "depthwise",
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.message = nn.Linear(width, width)
        self.message_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.alignment = Alignment(width, grid, prefix, interaction, batch_statistics)
        self.skip = nn.Linear(width, width)
        self.skip_aligned = nn.Linear(width, width)
        for linear in (self.skip, self.skip_aligned):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def look(self, x: Tensor) -> tuple[Tensor, Pairs]:
        """x [B, T, L, D] -> f of the same shape, and what the alignment sees in its pairs."""
        f = self.message_norm(self.message(x))
        return f, self.alignment.look(f)

    def add(self, x: Tensor, f: Tensor, pairs: Pairs) -> Tensor:
        """x + A aligned + S inter; x and f [B, T, L, D]."""
        prefix, fc = self.alignment.prefix, self.alignment.fc
        # Fast: `inter` is fc(temporal) with 128 channels inside, so S fc is multiplied out first (D x 128) and read by
        # the patches in place of S (D x D): 10 of 202 G multiply-adds in ViT-B/16, T = 8.
        skip_fc = self.skip.weight @ fc.weight  # [D, 128]
        bias = self.skip.bias + self.skip.weight @ fc.bias
        # Fast: prefix tokens have the weight 1 in `aligned` and stand in `inter` as they are; nothing is cut up.
        weights = F.pad(pairs.weights, (prefix, 0), value=1.0)[..., None]  # [B, T, L, 1]
        inter = F.linear(pairs.temporal, skip_fc, bias)  # [B, T, P, D]
        beside = self.skip(f[:, :, :prefix]) if prefix else None
        aligned = weighted_linear(f, weights, self.skip_aligned.weight, self.skip_aligned.bias)
        return add_to_tokens(x, aligned, inter, beside)


def weight_at(distance: Tensor) -> Tensor:
    """w of the module's docstring: 1 up to `PLATEAU`, then a ramp down to 0; any shape."""
    return F.relu(1 - SLOPE * F.relu(distance.abs() - PLATEAU))


def merge(earlier: Tensor, later: Tensor) -> Tensor:
    """What T - 1 pairs say of their two frames -> what is said of each of the T frames.

    Args:
        earlier: [B, T - 1, ..], of frame t in pair t.
        later: [B, T - 1, ..], of frame t + 1 in pair t.

    Returns:
        [B, T, ..]; frames between the first and the last are in two pairs and get the mean.
    """
    between = (earlier[:, 1:] + later[:, :-1]) / 2
    return torch.cat([earlier[:, :1], between, later[:, -1:]], dim=1)
