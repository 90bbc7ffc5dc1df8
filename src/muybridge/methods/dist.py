"""DiST: "Disentangling Spatial and Temporal Learning for Efficient Image-to-Video Transfer Learning", ICCV 2023,
https://arxiv.org/abs/2309.07911.

Idea. What a frame shows and what moves are learned apart. A frozen image transformer (the spatial encoder) reads few,
sparse frames. A light convolutional network of 96 channels (the temporal encoder) reads all, dense frames of the same
clip. Between them runs an integration branch of 384 channels, one token for every token of every sparse frame: it is
fed by each block of the image transformer and swaps information with the temporal encoder there. Attention pooling
turns its tokens into one vector, which is compared with CLIP's features of the class names. No gradient ever enters
the image transformer, so what it says can be computed once.

One layer, with S the tokens of the tapped block [T, L, W], X the temporal encoder's map [F, rows, columns, C] of the
F = A T dense frames, R the integration branch's map [T, L, D] (zero at first):

    X = act(X + conv_space(act(conv_time(norm(X)))))
    M = input(S) + R
    U = M + [class_token; to_integration(X)]          groups of A dense frames to one sparse frame
    X = X + to_temporal(M without row 0)              each sparse frame to its A dense frames
    R = mlp(norm(U)) + temporal_mlp(norm'(U))         no residual here

After the last layer Z = R + U. A pooling layer asks Z frame by frame with a token per frame, then asks the frame tokens
(plus a temporal embedding) with one token of the video; each attention and each MLP has a residual. The embedding is
e = norm(video token + linear(mean over t of S's row 0)) proj, and the logits are scaled cosines of e and the labels.

Trains: everything here. Frozen: the backbone and the features of the class names.

Differs from the published code, outputs being equal: sparse frames are chosen before they are embedded, and blocks
after the last tapped one are not run; convolutions are matrix products on channels-last tokens; norms whose inputs are
the same share their statistics; the pooling's key and value projections are absorbed; what a sparse frame sends to its
dense ones is broadcast. The last `to_temporal` has no effect (its result is thrown away): its tensors are kept for the
way back to the published format, neither computed nor trained. Beyond it: a linear head, rectangular frames and
patches, backbones without a class token (row 0 is then the mean of the patches) and with registers (dropped).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.vit import ViT
from muybridge.errors import BadInput
from muybridge.methods.base import (
    Features,
    Method,
    check_dropout,
    fold_frames,
    graph_where_trained,
    stretch,
    unfold_frames,
)
from muybridge.methods.fused import add_to_tokens
from muybridge.methods.heads import HeadKind, LinearHead, TextHead, choose_head, label_width
from muybridge.methods.integration import (
    NORM_EPS,
    Integration,
    PoolAttention,
    PoolingLayer,
    TemporalBlock,
    embed_dense,
)
from muybridge.structures import Output, TrainArgs

NOT_DECAYED = ("class_token", "temporal_embedding", "video_token", "frame_token")  # learned tokens and positions


@dataclass(frozen=True)
class DiSTConfig:
    """Options of DiST; the defaults are those of the published Kinetics-400 models (SSv2: 2 pooling layers).

    Attributes:
        ratio: A, dense frames per sparse frame; the backbone reads every A-th of the video's frames.
        width: D, channels of the integration branch.
        temporal_width: C, channels of the temporal encoder.
        layers: backbone blocks that are tapped, counted from 0, ascending; empty: all.
        pooling_layers: P, layers of the attention pooling.
        kernel: frames that a temporal convolution sees; odd.
        stem_kernel: frames that the temporal encoder's first convolution sees; odd.
        temporal_mlp_ratio: hidden channels of a temporal block over C.
        mlp_ratio: hidden channels of the integration branch's MLP over D.
        integration_temporal_ratio: hidden channels of the integration branch's temporal MLP over D.
        head: `text`: cosine with the features of the class names; `linear`: norm and linear map; `auto`: `text` where
            there are such features.
        zero_shot: half of the logits come from the backbone's own image features, in evaluation; text head only.
        dropout: before a linear head's map, in training.
        pooling_heads: attention heads of the pooling; they divide D; 0: D / 64, as published.
        temporal_embedding_std: standard deviation of the pooling's temporal embeddings before training; 0.02 as
            published. With 1, about as large as what it is added to, heads of the pooling look at different times from
            the start, and little data suffice to learn the order of the frames (`benchmarks/train_methods.py`).
    """

    ratio: int = 2
    width: int = 384
    temporal_width: int = 96
    layers: tuple[int, ...] = ()
    pooling_layers: int = 4
    kernel: int = 3
    stem_kernel: int = 5
    temporal_mlp_ratio: float = 1.0
    mlp_ratio: float = 1.0
    integration_temporal_ratio: float = 0.25
    head: HeadKind = "auto"
    zero_shot: bool = False
    dropout: float = 0.0
    pooling_heads: int = 0
    temporal_embedding_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("ratio", "width", "temporal_width", "pooling_layers"):
            if getattr(self, name) < 1:
                raise BadInput(f"dist.{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("kernel", "stem_kernel"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise BadInput(f"dist.{name} is {getattr(self, name)}; expected an odd number, such as 3.")
        for name, width in (
            ("temporal_mlp_ratio", self.temporal_width),
            ("mlp_ratio", self.width),
            ("integration_temporal_ratio", self.width),
        ):
            ratio = getattr(self, name)
            if not (0 < ratio < math.inf) or hidden_width(width, ratio) < 1:
                raise BadInput(
                    f"dist.{name} is {ratio:g}; expected a factor that leaves at least 1 of {width} channels."
                )
        if self.pooling_heads < 0 or self.width % self.heads:
            raise BadInput(
                f"dist.pooling_heads is {self.pooling_heads}, so {self.heads} heads; they must divide dist.width "
                f"{self.width}."
            )
        if any(block < 0 for block in self.layers) or list(self.layers) != sorted(set(self.layers)):
            raise BadInput(f"dist.layers is {list(self.layers)}; expected block numbers from 0, ascending.")
        check_dropout(self.dropout, "dist")
        if not (0 <= self.temporal_embedding_std < math.inf):
            raise BadInput(
                f"dist.temporal_embedding_std is {self.temporal_embedding_std:g}; expected 0 or more, such as 0.02."
            )

    @property
    def heads(self) -> int:
        """Attention heads of the pooling."""
        return self.pooling_heads or max(1, self.width // 64)


def hidden_width(width: int, ratio: float) -> int:
    """int(width * ratio), and n again where the ratio is n / width, whatever the rounding."""
    return int(width * ratio + 1e-6)


class Layer(nn.Module):
    """What belongs to one tapped block: the equation in the module's docstring."""

    def __init__(self, config: DiSTConfig, width: int, frames: int) -> None:
        super().__init__()
        inner = config.temporal_width
        self.input = nn.Linear(width, config.width)
        self.to_temporal = nn.Linear(config.width, inner)
        self.class_token = nn.Parameter(torch.zeros(1, 1, frames, config.width))
        self.to_integration = nn.Conv3d(inner, config.width, (config.ratio, 1, 1), stride=(config.ratio, 1, 1))
        self.temporal = TemporalBlock(inner, hidden_width(inner, config.temporal_mlp_ratio), config.kernel)
        self.integration = Integration(
            config.width,
            hidden_width(config.width, config.mlp_ratio),
            hidden_width(config.width, config.integration_temporal_ratio),
            config.kernel,
        )

    def fuse(self, m: Tensor, x: Tensor) -> Tensor:
        """U: integration tokens m [B, T, L, D] and what the temporal map x [B, F, rows, columns, C] adds to them."""
        ratio = x.shape[1] // m.shape[1]
        groups = x.flatten(2, 3).unflatten(1, (-1, ratio)).transpose(2, 3).flatten(3)  # [B, T, P, A * C]
        weight = self.to_integration.weight[..., 0, 0].transpose(1, 2).flatten(1)  # [D, A * C]
        sent = F.linear(groups, weight, self.to_integration.bias)
        return add_to_tokens(m, None, sent, self.class_token.transpose(1, 2))

    def spread(self, x: Tensor, m: Tensor) -> Tensor:
        """x and what the integration tokens m send to the temporal encoder; shapes as in `fuse`."""
        # Fast: one addition that broadcasts over a group's A frames; the map is never repeated.
        # Row 0 is dropped after the product, where it has the fewest channels.
        sent = self.to_temporal(m)[:, :, 1:].unflatten(2, x.shape[2:4])  # [B, T, rows, columns, C]
        return (x.unflatten(1, (m.shape[1], -1)) + sent[:, :, None]).flatten(1, 2)


class DiST(Method):
    """Frozen image transformer on sparse frames, temporal encoder on dense ones, integration branch between them."""

    Config = DiSTConfig
    title = (
        "DiST: Disentangling Spatial and Temporal Learning for Efficient Image-to-Video Transfer Learning (ICCV 2023), "
        "https://arxiv.org/abs/2309.07911"
    )
    takes_labels = True

    def __init__(
        self,
        backbone: ViT,
        config: DiSTConfig,
        classes: int,
        frames: int,
        image_size: tuple[int, int],
        label_features: Tensor | None = None,
    ) -> None:
        """As `Method`; `frames` is F, the number of dense frames.

        Args:
            label_features: [K, E] of the class names, of any length.

        Raises:
            BadInput: F is no multiple of the ratio, a tapped block does not exist, or `zero_shot` without a text head.
        """
        config = replace(config, head=choose_head(config.head, label_features, "dist"))
        super().__init__(backbone, config, classes, frames, image_size)
        if frames % config.ratio:
            near = frames // config.ratio * config.ratio
            fits = " or ".join(str(n) for n in (near, near + config.ratio) if n)
            raise BadInput(
                f"frames is {frames}; dist has one sparse frame for dist.ratio={config.ratio} dense ones and needs a "
                f"multiple of it, such as {fits}."
            )
        depth = backbone.config.depth
        if config.layers and config.layers[-1] >= depth:
            raise BadInput(f"dist.layers has {config.layers[-1]}; the backbone's blocks are 0 to {depth - 1}.")
        if config.zero_shot and config.head != "text":
            raise BadInput("dist.zero_shot compares image features with class names; it needs dist.head 'text'.")
        self.tapped = config.layers or tuple(range(depth))
        self.sparse = frames // config.ratio
        width, patch = config.width, backbone.config.patch
        self.temporal_stem = nn.Conv3d(
            3,
            config.temporal_width,
            (config.stem_kernel, *patch),
            stride=(1, *patch),
            padding=(config.stem_kernel // 2, 0, 0),
        )
        self.layers = nn.ModuleList(Layer(config, backbone.config.width, self.sparse) for _ in self.tapped)
        self.video_token = nn.Parameter(torch.zeros(1, 1, width))
        self.frame_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pooling = nn.ModuleList(
            PoolingLayer(width, config.heads, self.sparse) for _ in range(config.pooling_layers)
        )
        self.class_linear = nn.Linear(backbone.config.width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self._initialise()
        self.layers[-1].get_submodule("to_temporal").requires_grad_(False)  # without effect
        self.proj: nn.Parameter | None = None
        self.head: TextHead | LinearHead
        if config.head == "text":
            labels = label_width(backbone.config)
            self.proj = nn.Parameter(torch.randn(width, labels) * width**-0.5)
            self.head = TextHead(labels, classes, label_features)
        else:
            self.head = LinearHead(width, classes, config.dropout, NORM_EPS)

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)) and not name.startswith("backbone."):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.pooling.modules():
            if isinstance(module, PoolAttention):
                nn.init.xavier_uniform_(module.qkv.weight)
        for name, parameter in self.named_parameters():
            if name.rpartition(".")[2] in NOT_DECAYED and not name.startswith("backbone."):
                std = self.config.temporal_embedding_std if name.endswith("temporal_embedding") else 0.02
                nn.init.trunc_normal_(parameter, std=std, a=-max(2.0, 2 * std), b=max(2.0, 2 * std))

    def forward(self, video: Tensor) -> Output:
        """video: [B, F, 3, H, W], normalised -> logits [B, K].

        Raises:
            BadInput: another shape, another number of frames or another image size than the method was built for.
        """
        # Fast: as readout(frozen(video)), but the tapped blocks' tokens are not copied into one tensor.
        taps, image_features = self._tap(video)
        return self._classify(self._embed(video, taps), image_features)

    def frozen(self, video: Tensor) -> Features:
        """What the frozen backbone says of the sparse frames, and the dense frames as they came.

        Args:
            video: [B, F, 3, H, W], normalised.

        Returns:
            `video`; `taps` [B, n, T, 1 + P, W], outputs of the tapped blocks, row 0 the class token or the mean of the
            patches; with `zero_shot`, `image_features` [B, T, E].
        """
        taps, image_features = self._tap(video)
        features = {"video": video.detach(), "taps": torch.stack(list(taps), dim=1)}
        if image_features is not None:
            features["image_features"] = image_features
        return features

    @property
    def backbone_frames(self) -> int:
        """The sparse frames."""
        return self.sparse

    def frozen_key(self) -> dict[str, Any]:
        """Which frames are sparse, which blocks are tapped, and whether image features are wanted."""
        return {"ratio": self.config.ratio, "layers": self.tapped, "zero_shot": self.config.zero_shot}

    def readout(self, features: Features) -> Output:
        """What `frozen` returns -> logits [B, K]."""
        hidden = self._embed(features["video"], features["taps"].unbind(1))
        return self._classify(hidden, features.get("image_features"))

    def encode_video(self, video: Tensor) -> Tensor:
        """The embedding of a video, before it is compared with anything.

        Args:
            video: [B, F, 3, H, W], normalised.

        Returns:
            [B, E] with a text head, not yet of unit length; [B, D], what the linear head reads, with that.

        Raises:
            BadInput: as `forward`.
        """
        taps, _ = self._tap(video)
        return self._project(self._embed(video, taps))

    @graph_where_trained
    def _tap(self, video: Tensor) -> tuple[Sequence[Tensor], Tensor | None]:
        """Tokens [B, T, 1 + P, W] of each tapped block; with `zero_shot` the image features [B, T, E]."""
        self.check_video(video)
        # Fast: the sparse frames alone are embedded (0.9 of 164 G multiply-adds, ViT-B/16 at 8 + 16 frames).
        return self._walk(fold_frames(video[:, :: self.config.ratio]), self.sparse)

    def _walk(self, images: Tensor, frames: int) -> tuple[list[Tensor], Tensor | None]:
        """Images [B * T, 3, H, W] of T frames -> what `_tap` returns."""
        x = self.backbone.embed(images)
        last = self.backbone.config.depth - 1 if self.config.zero_shot else self.tapped[-1]
        taps = []
        for i, block in enumerate(self.backbone.blocks[: last + 1]):
            x = self.through(block, x)
            self.record(f"block.{i}", x)
            if i in self.tapped:
                taps.append(unfold_frames(self._rows(x), frames).to(self.video_token.dtype))
        return taps, self._image_features(x, frames)

    @graph_where_trained
    def encode_frame(self, images: Tensor, before: Features | None) -> Features:
        """images [B, 3, H, W] -> {"image": images}: whether a frame is sparse depends on its place in the window."""
        return {"image": images}

    def from_frames(self, frames: Sequence[Features]) -> Output:
        """F dense frames, of which those that are sparse here, and were in no window before, are encoded.

        A window that moves on by one frame makes others sparse: in the end each is encoded, and each once.
        """
        sparse = frames[:: self.config.ratio]
        for frame in sparse:
            if "taps" not in frame:
                frame.update(self._encode(frame["image"]))
        taps = [torch.cat(layer, dim=1) for layer in zip(*(frame["taps"].unbind(1) for frame in sparse), strict=True)]
        hidden = self._embed(torch.stack([frame["image"] for frame in frames], dim=1), taps)
        if not self.config.zero_shot:
            return self._classify(hidden, None)
        return self._classify(hidden, torch.cat([frame["image_features"] for frame in sparse], dim=1))

    @graph_where_trained
    def _encode(self, images: Tensor) -> Features:
        """[B, 3, H, W] -> what `frozen` says of one sparse frame, T = 1, but for `video`."""
        taps, image_features = self._walk(images, 1)
        kept = {"taps": torch.stack(taps, dim=1)}
        return kept if image_features is None else {**kept, "image_features": image_features}

    def _rows(self, x: Tensor) -> Tensor:
        """A block's tokens [N, L, W] -> [N, 1 + P, W]: one for the image, then the patches."""
        prefix = self.backbone.config.prefix
        if self.backbone.config.class_token:
            return x if prefix == 1 else torch.cat([x[:, :1], x[:, prefix:]], dim=1)
        return torch.cat([x[:, prefix:].mean(dim=1, keepdim=True), x[:, prefix:]], dim=1)

    def _image_features(self, x: Tensor, frames: int = 0) -> Tensor | None:
        if not self.config.zero_shot:
            return None
        features = self.backbone.project(self.backbone.summary(x))
        return unfold_frames(features, frames or self.sparse).to(self.video_token.dtype)

    def _embed(self, video: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Dense frames [B, F, 3, H, W] and tapped tokens, each [B, T, 1 + P, W] -> h [B, D]."""
        x = embed_dense(video, self.temporal_stem)
        self.record("temporal_stem", x)
        r = u = taps[0].new_zeros(())
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            x = layer.temporal(x)
            self.record(f"layers.{i}.temporal", x)
            m = layer.input(taps[i]) + r
            u = layer.fuse(m, x)
            if i + 1 < len(self.layers):
                x = layer.spread(x, m)
            r = layer.integration(u)
            self.record(f"layers.{i}.integration", r)
        z = F.layer_norm(r + u, r.shape[-1:], eps=NORM_EPS)  # factor and shift are each pooling layer's own
        pooled, frames = self.video_token[0].expand(z.shape[0], -1), self.frame_token.expand(*z.shape[:2], -1)
        for i, pool in enumerate(self.pooling):
            pooled, frames = pool(pooled, frames, z)
            self.record(f"pooling.{i}.video_token", pooled)
            self.record(f"pooling.{i}.frame_tokens", frames)
        return self.norm(pooled + self.class_linear(taps[-1][:, :, 0].mean(dim=1)))

    def _project(self, hidden: Tensor) -> Tensor:
        return hidden if self.proj is None else hidden @ self.proj

    def _classify(self, hidden: Tensor, image_features: Tensor | None) -> Output:
        """h [B, D] and, with `zero_shot`, image features [B, T, E] -> logits [B, K]."""
        embedding = self._project(hidden)
        self.record("video_features", embedding)
        logits = self.head(embedding)
        if image_features is not None and not self.training:
            plain = unfold_frames(self.head(fold_frames(image_features)), self.sparse).mean(dim=1)
            logits = 0.5 * logits + 0.5 * plain
        return Output(logits)

    def parameter_groups(self, args: TrainArgs) -> list[dict[str, Any]]:
        """As `Method`; the learned tokens and temporal embeddings are not decayed either, as the authors intended."""
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.trained_parameters():
            plain = parameter.ndim <= 1 or name.rpartition(".")[2] in NOT_DECAYED
            (others if plain and not args.decay_all else decayed).append(parameter)
        groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [{**group, "lr": args.lr} for group in groups if group["params"]]

    def interpolate(self, name: str, tensor: Tensor, other: Method) -> Tensor:
        """Class tokens and temporal embeddings, one for each sparse frame, linearly over time."""
        assert isinstance(other, DiST)
        if name.endswith("class_token"):
            return stretch(tensor, 2, other.sparse)
        if name.endswith("temporal_embedding"):
            return stretch(tensor, 1, other.sparse)
        return super().interpolate(name, tensor, other)
