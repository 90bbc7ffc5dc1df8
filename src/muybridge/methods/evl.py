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

from muybridge.backbones.activation import QuickGELU
from muybridge.backbones.vit import Edit, ViT
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
from muybridge.methods.fused import frame_sum, mix
from muybridge.methods.heads import LinearHead
from muybridge.methods.local_temporal import TemporalConv, TemporalMatch, affinity_maps, stretch_index
from muybridge.structures import Looked, Output

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

    def asked(self, query: Tensor) -> Tensor:
        """What each head looks for among normed tokens: [B, D] -> [B, h, D]."""
        # Fast: with one query, q . (W_k y) = (W_k^T q) . y and sum_s a_s (W_v y_s) = W_v (sum_s a_s y_s): the two
        # projections of all S tokens become two products with h vectors (7.4 G -> 0.12 G multiply-adds in ViT-B/16).
        q = self.q(query).unflatten(-1, (self.heads, -1)) / math.sqrt(self.q.out_features // self.heads)  # [B, h, d]
        asked = torch.einsum("bhd,hdw->bhw", q, self.k.weight.unflatten(0, (self.heads, -1)))
        # The key bias adds the same to all scores of a head and drops out of the softmax. Its gradient is zero: exactly
        # so here, so that AdamW does not blow rounding noise up to steps, and not missing, as data parallelism needs.
        return asked + 0.0 * self.k.bias.sum()

    def weights(self, query: Tensor, tokens: Tensor) -> Tensor:
        """How much each head looks at each normed token, summing to 1: [B, D], [B, S, D] -> [B, h, S]."""
        return (self.asked(query) @ tokens.transpose(1, 2)).softmax(dim=-1)

    def forward(self, query: Tensor, tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
        """
        Args:
            query: [B, D], normed.
            tokens: [B, S, D].
            norm: of the tokens.
        """
        # Fast: the norm's factor and shift are put on h vectors and not on S tokens, as above. What the shift adds to
        # the scores of a head is the same in all of them and drops out.
        tokens = F.layer_norm(tokens, norm.normalized_shape, eps=norm.eps)
        mixed = mix(self.asked(query) * norm.weight, tokens) * norm.weight + norm.bias  # [B, h, D]
        v_weight = self.v.weight.unflatten(0, (self.heads, -1))  # [h, d, D]
        out = torch.einsum("bhw,hdw->bhd", mixed, v_weight).flatten(1) + self.v.bias
        return self.proj(out)


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
        x = x + self.attention(self.norm_query(x), frame_features.flatten(1, 2), self.norm_frames)
        return x + self.mlp(self.norm_mlp(x))

    def attended(self, x: Tensor, frame_features: Tensor) -> Tensor:
        """How much each head looks at each token of each frame: shapes as in `forward` -> [B, h, T, L]."""
        weights = self.attention.weights(self.norm_query(x), self.norm_frames(frame_features.flatten(1, 2)))
        return weights.unflatten(-1, frame_features.shape[1:3])


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
        affinity = []

        def look(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            affinity.append(affinity_maps(q, k, self.frames, self.backbone.config.prefix).to(self.query.dtype))
            return q, k, v

        return [unfold_frames(x, self.frames) for x in self._walk(fold_frames(video), look)], affinity

    def _walk(self, images: Tensor, look: Edit) -> list[Tensor]:
        """Images [N, 3, H, W] -> tokens [N, L, D] of each tapped block; `look` sees its q, k, v if they are wanted."""
        first = self.backbone.config.depth - self.config.layers
        tokens = []
        x = self.backbone.embed(images)
        self.record("embedded", x)
        for i, block in enumerate(self.backbone.blocks):
            tapped = i >= first
            x = self.through(block, x, look if tapped and self.config.temporal_match else None)
            self.record(f"block.{i}", x)
            if tapped:
                tokens.append(x.to(self.query.dtype))
        return tokens

    def frozen_key(self) -> dict[str, Any]:
        """How many blocks are tapped, and whether their matches are."""
        return {"layers": self.config.layers, "temporal_match": self.config.temporal_match}

    def readout(self, features: Features) -> Output:
        """What `frozen` returns -> logits [B, K]."""
        affinity = features["affinity"].unbind(1) if self.config.temporal_match else ()
        return self._decode(features["tokens"].unbind(1), affinity)

    @graph_where_trained
    def encode_frame(self, images: Tensor, before: Features | None) -> Features:
        """What the decoder needs of one frame of a live stream, and of its match with the frame before it.

        Args:
            images: [B, 3, H, W], normalised.
            before: what was kept of the frame before; its queries and keys are taken out of it.

        Returns:
            `tokens` [B, M, L, D], outputs of the last M blocks. If the cross attention is on, `queries` and `keys`
            [B, M, h, L, d] of these blocks, and, where there is a frame before, `matched` [M, rows, B, 2, columns, D]:
            what the match of the two adds to the patches of that frame and of this one, wherever in a window they
            stand.
        """
        queries, keys = [], []

        def look(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            queries.append(q)
            keys.append(k)
            return q, k, v

        kept = {"tokens": torch.stack(self._walk(images, look), dim=1)}
        if not self.config.temporal_match:
            return kept
        kept |= {"queries": torch.stack(queries, dim=1), "keys": torch.stack(keys, dim=1)}
        if before is None:
            return kept
        q, k = (torch.stack([before.pop(name), kept[name]], dim=1) for name in ("queries", "keys"))
        matched = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            assert layer.temporal_match is not None
            pair = affinity_maps(fold_frames(q[:, :, i]), fold_frames(k[:, :, i]), 2, self.backbone.config.prefix)
            matched.append(layer.temporal_match.pair(pair.to(self.query.dtype), self.stretch_index))
        return {**kept, "matched": torch.stack(matched)}

    def from_frames(self, frames: Sequence[Features]) -> Output:
        """What `encode_frame` kept of T frames -> logits [B, K]; only the decoder is run."""
        by_layer = zip(*(frame["tokens"].unbind(1) for frame in frames), strict=True)
        tokens = [torch.stack(layer, dim=1) for layer in by_layer]
        if not self.config.temporal_match:
            return self._decode(tokens, ())
        matched = []
        rows, columns = self.backbone.config.grid_of(self.image_size)
        for i, y in enumerate(tokens):
            added = y.new_zeros(rows, len(y), len(frames), columns, y.shape[-1])
            for t, frame in enumerate(frames[1:]):
                added[:, :, t : t + 2] += frame["matched"][i]
            matched.append(added)
        return self._decode(tokens, (), matched)

    def _decode(
        self, tokens: Sequence[Tensor], affinity: Sequence[Tensor], matched: Sequence[Tensor] | None = None
    ) -> Output:
        """The decoder on what `_tap` returns; `matched`: what matches add to the patches, in place of `affinity`."""
        x = self.query.expand(tokens[0].shape[0], -1)
        losses = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            f = tokens[i]  # [B, T, L, D]
            y = self._enriched(i, layer, f, affinity[i] if affinity else None, matched[i] if matched else None)
            if layer.alignment is not None:
                normed, pairs = layer.alignment.look(f)
                y = layer.alignment.add(y, normed, pairs)
                if self.training:
                    losses.append(layer.alignment.alignment.loss(normed, pairs))
            self.record(f"layers.{i}.frame_features", y)
            if self._trace is not None:
                self.record(f"layers.{i}.attention", layer.attended(x, y))
            x = layer(x, y)
            self.record(f"layers.{i}.out", x)
        return Output(self.head(x), {"alignment": torch.stack(losses).sum()} if losses else {})

    def _enriched(
        self, i: int, layer: DecoderLayer, f: Tensor, affinity: Tensor | None, matched: Tensor | None
    ) -> Tensor:
        """Y = F + conv(F) + pos + match, F the tokens f [B, T, L, D] of the i-th tapped block."""
        conv, position, match = layer.temporal_conv, layer.temporal_position, layer.temporal_match
        fused = f.device.type == "cpu" and not f.requires_grad and not torch.compiler.is_compiling()
        if matched is None and match is not None and affinity is not None:
            matched = match.added(affinity, self.stretch_index)
        if fused and conv is not None and self._trace is None:
            return frame_sum(f, conv.weight, conv.bias, position, matched, self.backbone.config.prefix)
        y = f
        if conv is not None:
            y = conv(f)
            self.record_difference(f"layers.{i}.temporal_conv", y, f)
        if position is not None:
            y = y + position[:, None]
        if match is not None and matched is not None:
            before = y
            y = match.onto(y, matched)
            self.record_difference(f"layers.{i}.temporal_match", y, before)
        return y

    def looked(self, trace: dict[str, Tensor]) -> Looked:
        """How much the query looks at each patch of each frame: the mean, of each layer, of each layer's heads."""
        prefix, grid = self.backbone.config.prefix, self.backbone.config.grid_of(self.image_size)
        layers = [trace[f"layers.{i}.attention"][..., prefix:] for i in range(len(self.layers))]
        maps = {"query attention": torch.stack(layers).mean(dim=(0, 2))}  # [M, B, h, T, P] -> [B, T, P]
        for i, layer in enumerate(layers):
            maps[f"query attention, layer {i}"] = layer.mean(dim=1)
            maps |= {f"query attention, layer {i}, head {j}": head for j, head in enumerate(layer.unbind(1))}
        return Looked({name: tensor.unflatten(-1, grid) for name, tensor in maps.items()})

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
