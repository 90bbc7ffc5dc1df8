"""EVL: "Frozen CLIP Models are Efficient Video Learners", ECCV 2022, https://arxiv.org/abs/2208.03550.

Idea. The image transformer stays frozen and reads every frame by itself. Beside it a light decoder with ONE learned
query token asks the patch tokens of all frames, layer by layer, what the video shows; decoder layer i reads block
N - M + i of the N blocks. Before it is asked, a frame map is enriched with motion by three branches added to it: a
depthwise convolution over time, a position vector per frame, and a temporal cross attention that re-uses the backbone's
own queries and keys to match the patches of neighbouring frames and turns the match into a feature by a learned table
over relative displacements.

One layer, with F the tokens of all frames after a tapped block [T, L, D] and a_ts[p, r] the probability, averaged over
heads, that patch p of frame t matches patch r of frame s:

    Y[t, p] = F[t, p] + conv(F)[t, p] + pos[t] + sum_r a_t,t-1[p, r] w_prev[p - r] + sum_r a_t,t+1[p, r] w_next[p - r]
    x = x + attention(query = norm(x), keys and values = norm(Y))
    x = x + mlp(norm(x))

The logits are a linear map of the last x. Prefix tokens (class, registers) are read by the decoder and take part in the
convolution, but not in the matching. With `alignment` a fourth branch is added, the learnable alignment of ILA
(`alignment.py`), whose generality its authors show by putting it into EVL.

Trains: the decoder and the head. Frozen: the backbone, of which no gradient is asked.

Differs from the published code, outputs being equal: additions are not in place, so a tapped feature can be read twice;
only the last M blocks are kept, and of those the match instead of q, k, v; a single query lets the key and value
projections over all tokens be absorbed into it; displacement indices come from one buffer; any device; T = 1 trains;
backbones with registers or without a class token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.vit import QuickGELU, ViT
from muybridge.errors import BadInput
from muybridge.methods.alignment import AlignedLayer
from muybridge.methods.base import (
    Features,
    Method,
    check_dropout,
    fold_frames,
    graph_where_trained,
    stretch,
    unfold_frames,
)
from muybridge.methods.heads import LinearHead
from muybridge.structures import Output

NORM_EPS = 1e-5


@dataclass(frozen=True)
class EVLConfig:
    """Options of EVL; the defaults are those of all six published models.

    Attributes:
        layers: M, decoder layers; layer i reads backbone block N - M + i.
        width: Q, channels of the decoder's attention; 0: the backbone's width.
        heads: of the decoder's attention; 0: Q / 64, as published.
        mlp_factor: hidden channels of the decoder's MLP over the backbone's width.
        temporal_conv: the branch of the depthwise convolution over time.
        temporal_position: the branch of the position vector per frame.
        temporal_match: the branch of the temporal cross attention on neighbouring frames.
        alignment: a fourth branch, ILA's alignment of neighbouring frames (ICCV 2023, its table "inside other models").
        dropout: inside the decoder's MLPs and before the classifier, in training.
    """

    layers: int = 4
    width: int = 0
    heads: int = 0
    mlp_factor: float = 4.0
    temporal_conv: bool = True
    temporal_position: bool = True
    temporal_match: bool = True
    alignment: bool = False
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_dropout(self.dropout, "evl")


class QueryAttention(nn.Module):
    """Cross attention of one query token to many tokens: [B, D], [B, S, D] -> [B, D].

    Args:
        width: D.
        inner: Q, channels of queries, keys and values.
        heads: h.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, inner)
        self.k = nn.Linear(width, inner)
        self.v = nn.Linear(width, inner)
        self.proj = nn.Linear(inner, width)
        for linear in (self.q, self.k, self.v, self.proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        # Fast: with one query, q . (W_k y) = (W_k^T q) . y and sum_s a_s (W_v y_s) = W_v (sum_s a_s y_s): the two
        # projections of all S tokens become two products with h vectors (7.4 G -> 0.12 G multiply-adds in ViT-B/16).
        q = self.q(query).unflatten(-1, (self.heads, -1))  # [B, h, d]
        k_weight = self.k.weight.unflatten(0, (self.heads, -1))  # [h, d, D]
        v_weight = self.v.weight.unflatten(0, (self.heads, -1))
        q = q / math.sqrt(q.shape[-1])
        asked = torch.einsum("bhd,hdw->bhw", q, k_weight)  # [B, h, D]
        scores = asked @ tokens.transpose(1, 2)  # [B, h, S]
        # The key bias adds the same to all scores of a head and drops out of the softmax. Its gradient is zero: exactly
        # so here, so that AdamW does not blow rounding noise up to steps, and not missing, as data parallelism needs.
        scores = scores + 0.0 * self.k.bias.sum()
        mixed = scores.softmax(dim=-1) @ tokens  # [B, h, D]
        out = torch.einsum("bhw,hdw->bhd", mixed, v_weight).flatten(1) + self.v.bias
        return self.proj(out)


class TemporalConv(nn.Module):
    """x + depthwise convolution of x over time with kernel 3, zeros outside.

    `weight` [D, 1, 3] and `bias` [D] are those of an `nn.Conv1d` and are drawn as it draws them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(3)
        self.weight = nn.Parameter(torch.empty(width, 1, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, L, D] -> the same; x stays as it is."""
        before, here, after = self.weight[:, 0].unbind(-1)  # each [D]
        # Fast: three passes, the second and third into what the first has made: no copy to [B * L, D, T] and back.
        y = torch.addcmul(self.bias, x, 1 + here)
        y[:, 1:].addcmul_(x[:, :-1], before)
        y[:, :-1].addcmul_(x[:, 1:], after)
        return y


class TemporalMatch(nn.Module):
    """What the temporal cross attention adds: sum_r a[p, r] w[p - r] over the frames before and after.

    Args:
        width: D.
        grid: (rows, columns) of patches.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        displacements = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.previous = nn.Parameter(torch.zeros(displacements, width))
        self.next = nn.Parameter(torch.zeros(displacements, width))

    def forward(self, y: Tensor, affinity: Tensor, index: Tensor) -> Tensor:
        """
        Args:
            y: [B, T, L, D], what is there already; L - P prefix tokens are left as they are.
            affinity: [B, 2, T - 1, P, P], see `affinity_maps`.
            index: [columns, P], see `stretch_index`.

        Returns:
            y + match; the first frame has no previous one and the last no next.
        """
        # Fast: probabilities are added up by displacement first, so the tables are never gathered to a dense [P, P, D]
        # (118 MB for 14 x 14 patches, D = 768). A row of patches can be displaced by as many rows as there are, so it
        # reads a stretch of the table: one product a row, half as large as with the whole table (5 % -> 2.6 % of
        # ViT-B/16's multiply-adds). A patch's displacements all differ, so nothing collides.
        b, t, length, width = y.shape
        rows, columns = self.grid
        shifts = rows * (2 * columns - 1)  # displacements that the patches of one row have
        index = index.expand(rows, b, t - 1, -1, -1)
        pairs = affinity.unflatten(3, self.grid).permute(1, 3, 0, 2, 4, 5)  # [2, rows, B, T - 1, columns, P]
        bins = affinity.new_zeros(2, rows, b, t, columns, shifts)
        bins[0, :, :, 1:].scatter_(-1, index, pairs[0])
        bins[1, :, :, : t - 1].scatter_(-1, index, pairs[1])
        before, after = bins.flatten(2, 4)  # [rows, B * T * columns, shifts]
        added = torch.baddbmm(before @ self.stretches(self.previous), after, self.stretches(self.next))
        added = added.view(rows, b, t, columns, width).permute(1, 2, 0, 3, 4).flatten(2, 3)  # [B, T, P, D]
        prefix = length - rows * columns
        return torch.cat([y[:, :, :prefix], y[:, :, prefix:] + added], dim=2)

    def stretches(self, table: Tensor) -> Tensor:
        """What each row of patches reads of a table: [displacements, D] -> [rows, `shifts`, D], a view."""
        rows, columns = self.grid
        by_row = table.unflatten(0, (2 * rows - 1, 2 * columns - 1))
        return by_row.unfold(0, rows, 1).movedim(-1, 1).flatten(1, 2)


class DecoderMLP(nn.Module):
    """Two linear maps with QuickGELU and dropout between them: [B, D] -> [B, D]."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = QuickGELU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, width)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.act(self.fc1(x))))


class DecoderLayer(nn.Module):
    """One layer of the equation in the module's docstring."""

    def __init__(self, config: EVLConfig, width: int, frames: int, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        inner = config.width or width
        self.temporal_conv = TemporalConv(width) if config.temporal_conv else None
        self.temporal_position = nn.Parameter(torch.zeros(frames, width)) if config.temporal_position else None
        self.temporal_match = TemporalMatch(width, grid) if config.temporal_match else None
        self.alignment = AlignedLayer(width, grid, prefix) if config.alignment else None
        self.norm_frames = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm_query = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = QueryAttention(width, inner, config.heads or inner // 64)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = DecoderMLP(width, round(config.mlp_factor * width), config.dropout)

    def forward(self, x: Tensor, frame_features: Tensor) -> Tensor:
        """x [B, D], frame_features Y [B, T, L, D] -> [B, D]."""
        x = x + self.attention(self.norm_query(x), self.norm_frames(frame_features.flatten(1, 2)))
        return x + self.mlp(self.norm_mlp(x))


class EVL(Method):
    """Frozen image transformer, one query token, local temporal modules."""

    Config = EVLConfig
    title = "EVL: Frozen CLIP Models are Efficient Video Learners (ECCV 2022), https://arxiv.org/abs/2208.03550"

    def __init__(
        self, backbone: ViT, config: EVLConfig, classes: int, frames: int, image_size: tuple[int, int]
    ) -> None:
        """As `Method`; raises BadInput where the decoder does not fit the backbone."""
        super().__init__(backbone, config, classes, frames, image_size)
        width, depth = backbone.config.width, backbone.config.depth
        if not 1 <= config.layers <= depth:
            raise BadInput(f"evl.layers is {config.layers}; the backbone has {depth} blocks: give 1 to {depth}.")
        inner = config.width or width
        if not config.heads and inner % 64:
            raise BadInput(f"evl.heads is needed: the decoder's width {inner} is no multiple of 64.")
        if config.heads and inner % config.heads:
            raise BadInput(f"evl.heads is {config.heads}; it must divide the decoder's width {inner}.")
        grid = backbone.config.grid_of(image_size)
        self.query = nn.Parameter(torch.zeros(width))  # Reference: the published code never draws it
        prefix = backbone.config.prefix
        self.layers = nn.ModuleList(DecoderLayer(config, width, frames, grid, prefix) for _ in range(config.layers))
        self.head = LinearHead(width, classes, config.dropout, NORM_EPS)
        self.stretch_index: Tensor
        self.register_buffer("stretch_index", stretch_index(grid), persistent=False)

    def forward(self, video: Tensor) -> Output:
        """video: [B, T, 3, H, W], normalised -> logits [B, K].

        Raises:
            BadInput: another shape, another number of frames or another image size than the method was built for.
        """
        # Fast: as readout(frozen(video)), but what was tapped is not copied into one tensor.
        return self._decode(*self._tap(video))

    def frozen(self, video: Tensor) -> Features:
        """What the decoder needs of the frozen backbone.

        Args:
            video: [B, T, 3, H, W], normalised.

        Returns:
            `tokens` [B, M, T, L, D], outputs of the last M blocks, and, if the cross attention is on, `affinity`
            [B, M, 2, T - 1, P, P] (to the previous frame, to the next); both in the precision of the decoder. ViT-B/16,
            8 frames: 9.7 + 4.3 MB a video in fp16. The queries and keys, from which matches follow, would be 19.3 MB;
            one more block's output in place of the matches would do, at 2.4 MB, but then every step would project and
            match anew, 9 G multiply-adds where the decoder's own are 7.
        """
        tokens, affinity = self._tap(video)
        features = {"tokens": torch.stack(tokens, dim=1)}
        if affinity:
            features["affinity"] = torch.stack(affinity, dim=1)
        return features

    @graph_where_trained
    def _tap(self, video: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Of each tapped block: its tokens [B, T, L, D], and the matches [B, 2, T - 1, P, P] if they are wanted."""
        self.check_video(video)
        first = self.backbone.config.depth - self.config.layers
        tokens, affinity = [], []

        def look(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            affinity.append(affinity_maps(q, k, self.frames, self.backbone.config.prefix).to(self.query.dtype))
            return q, k, v

        x = self.backbone.embed(fold_frames(video))
        self.record("embedded", x)
        for i, block in enumerate(self.backbone.blocks):
            tapped = i >= first
            x = self.through(block, x, look if tapped and self.config.temporal_match else None)
            self.record(f"block.{i}", x)
            if tapped:
                tokens.append(unfold_frames(x, self.frames).to(self.query.dtype))
        return tokens, affinity

    def frozen_key(self) -> dict[str, Any]:
        """How many blocks are tapped, and whether their matches are."""
        return {"layers": self.config.layers, "temporal_match": self.config.temporal_match}

    def readout(self, features: Features) -> Output:
        """What `frozen` returns -> logits [B, K]."""
        affinity = features["affinity"].unbind(1) if self.config.temporal_match else ()
        return self._decode(features["tokens"].unbind(1), affinity)

    def _decode(self, tokens: Sequence[Tensor], affinity: Sequence[Tensor]) -> Output:
        """The decoder on what `_tap` returns."""
        x = self.query.expand(tokens[0].shape[0], -1)
        losses = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            f = y = tokens[i]  # [B, T, L, D]
            if layer.temporal_conv is not None:
                y = layer.temporal_conv(f)
                self.record_difference(f"layers.{i}.temporal_conv", y, f)
            if layer.temporal_position is not None:
                y = y + layer.temporal_position[:, None]
            if layer.temporal_match is not None:
                before, y = y, layer.temporal_match(y, affinity[i], self.stretch_index)
                self.record_difference(f"layers.{i}.temporal_match", y, before)
            if layer.alignment is not None:
                normed, pairs = layer.alignment.look(f)
                y = layer.alignment.add(y, normed, pairs)
                if self.training:
                    losses.append(layer.alignment.alignment.loss(normed, pairs))
            self.record(f"layers.{i}.frame_features", y)
            x = layer(x, y)
            self.record(f"layers.{i}.out", x)
        return Output(self.head(x), {"alignment": torch.stack(losses).sum()} if losses else {})

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """The disturbance of the alignment's points shrinks towards the end of a training."""
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            if layer.alignment is not None:
                layer.alignment.alignment.on_epoch(epoch, epochs)

    def interpolate(self, name: str, tensor: Tensor, other: Method) -> Tensor:
        """Frame positions linearly over time, displacement tables as images, bicubically."""
        if name.endswith("temporal_position"):
            return stretch(tensor, 0, other.frames)
        if ".temporal_match." in name:
            rows, columns = self.backbone.config.grid_of(self.image_size)
            image = tensor.T.reshape(1, -1, 2 * rows - 1, 2 * columns - 1)
            rows, columns = other.backbone.config.grid_of(other.image_size)
            image = F.interpolate(image, size=(2 * rows - 1, 2 * columns - 1), mode="bicubic", align_corners=False)
            return image.flatten(2)[0].T.contiguous()
        return super().interpolate(name, tensor, other)


def affinity_maps(q: Tensor, k: Tensor, frames: int, prefix: int) -> Tensor:
    """Probability, averaged over heads, that patch p of a frame matches patch r of its neighbour.

    Args:
        q: [B * T, h, L, d], the backbone's queries.
        k: [B * T, h, L, d], its keys.
        frames: T.
        prefix: tokens before the patches; left out on both sides and of the softmax.

    Returns:
        [B, 2, T - 1, P, P], fp32 (fp64 of fp64): [:, 0, i] matches frame i + 1 with
        frame i, [:, 1, i] frame i with frame i + 1.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    q = unfold_frames(q[:, :, prefix:].to(exact) / math.sqrt(q.shape[-1]), frames)  # [B, T, h, P, d]
    k = unfold_frames(k[:, :, prefix:].to(exact), frames).transpose(-1, -2)

    def match(here: int, there: int) -> Tensor:
        return (q[:, here] @ k[:, there]).softmax(dim=-1).mean(dim=1)  # [B, P, P]

    # Fast: a pair of frames at a time, whose scores of all heads fit into a cache: half the time of all at once.
    previous = [match(t, t - 1) for t in range(1, frames)]
    following = [match(t, t + 1) for t in range(frames - 1)]
    if not previous:
        return q.new_zeros(q.shape[0], 2, 0, q.shape[-2], q.shape[-2])
    return torch.stack([torch.stack(previous, dim=1), torch.stack(following, dim=1)], dim=1)


def stretch_index(grid: tuple[int, int]) -> Tensor:
    """Where, among the displacements that a row of patches can have, the one from patch r to that row's patch p is.

    Returns:
        [columns, P], int64: by the column of p and by r; the same for every row.
    """
    rows, columns = grid
    down = (rows - 1 - torch.arange(rows)) * (2 * columns - 1)
    across = torch.arange(columns)[:, None] - torch.arange(columns)[None] + columns - 1
    return (down[None, :, None] + across[:, None]).flatten(1)  # [columns, rows, columns] -> [columns, P]
