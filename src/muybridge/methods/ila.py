"""ILA: "Implicit Temporal Modeling with Learnable Alignment for Video Recognition", ICCV 2023,
https://arxiv.org/abs/2304.10465.

Idea. CLIP's image transformer stays frozen and reads every frame. Before each of its blocks a small convolutional
network compares neighbouring frames and says where in them the same thing is to be seen (`alignment.py`). Two linear
maps that start at zero add what it found to the tokens: the frame with its common region emphasised, and the features
seen on the way. So frames learn of each other without attention over time. After the last block a small transformer
over the T frame features makes the video's feature, which is compared with the features of the class names; those are
first adapted to the video, by attention to its patches ("prompts", from X-CLIP). Without class names: a linear head.

One layer, with x the tokens of all frames [T, L, D]:

    f = norm(W x);    aligned, inter = alignment(f)
    x = x + A aligned + S inter
    x = block(x)                                           frozen, frame by frame

The loss gets, from each layer, the mean of 1 - cos(pooled masked frame t, pooled masked frame t + 1).

Trains: W, its norm, the alignment, A and S of every layer; the transformer over frames; prompts or linear head. Frozen:
the backbone (gradients pass through it) and the features of the class names.

Differs from the published code, outputs being equal: one switch, train() and eval(), for batch norms and disturbed
points; masks are merged per frame before they meet the features; linear maps without anything between them are
multiplied first; sums and losses that nobody asked for are not computed; the last block computes no patches where only
its class token is read. By default the prompts are trained, which the released optimiser leaves out (`train_prompts`),
and batch norms evaluate with their running statistics (`batch_statistics`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.vit import MLP, Block, ViT, ViTConfig
from muybridge.errors import BadInput, unknown
from muybridge.methods.alignment import INTERACTIONS, AlignedLayer, Alignment, Interaction, Pairs, merge
from muybridge.methods.base import Method, check_dropout, fold_frames, stretch, unfold_frames
from muybridge.methods.heads import HeadKind, LinearHead, TextHead, choose_head, label_width
from muybridge.structures import Looked, Output, TrainArgs

NORM_EPS = 1e-5

# Part of the model -> its learning rate over `lr` and its weight decay over `weight_decay`. Published, with 4e-4 and
# 0.01: 5e-4 and 0.01 for message_*, 8e-5 and 0.001 for temporal_*, 4e-4 and 0.003 for mit; prompts were not optimised.
FACTORS = {
    "message": (1.25, 1.0),
    "message_norm": (1.25, 1.0),
    "alignment": (1.25, 1.0),
    "skip": (0.2, 0.1),
    "skip_aligned": (0.2, 0.1),
    "integration": (1.0, 0.3),
    "head": (1.0, 0.3),
    "prompts": (1.0, 0.3),
}


@dataclass(frozen=True)
class ILAConfig:
    """Options of ILA; the defaults are those of the published Kinetics models.

    Attributes:
        interaction: how a pair of frames is looked at: `depthwise` (published Kinetics models) or `full`
            (Something-Something).
        layers: how many of the last blocks have an alignment before them; 0: all, as published. Gradients end at the
            first of them, so fewer are much cheaper to train.
        head: `text` compares with the class names' features, `linear` is a classifier, `auto`: text if there are such
            features.
        integration_layers: blocks of the transformer over frames.
        integration_heads: of its attention; 0: E / 64, or where 64 does not divide E as wide as the backbone's, else 1.
        prompt_layers: of the cross attention from class names to patches; text head only.
        prompt_heads: of that attention; 0: as `integration_heads`.
        dropout: before the linear head, in training.
        batch_statistics: evaluate with the batch norm statistics of the current batch, as the published Kinetics
            validation does; a video's logits then depend on the other videos in its batch.
        train_prompts: False leaves the prompts as they were drawn or loaded, as the released optimiser does.
        auxiliary_weight: of the alignment losses' sum.
    """

    interaction: Interaction = "depthwise"
    layers: int = 0
    head: HeadKind = "auto"
    integration_layers: int = 1
    integration_heads: int = 0
    prompt_layers: int = 2
    prompt_heads: int = 0
    dropout: float = 0.5
    batch_statistics: bool = False
    train_prompts: bool = True
    auxiliary_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.interaction not in INTERACTIONS:
            raise unknown("ila.interaction", self.interaction, INTERACTIONS)
        for name in ("integration_layers", "prompt_layers"):
            if getattr(self, name) < 1:
                raise BadInput(f"ila.{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("integration_heads", "prompt_heads", "auxiliary_weight"):
            if getattr(self, name) < 0:
                raise BadInput(f"ila.{name} is {getattr(self, name)}; expected 0 or more.")
        check_dropout(self.dropout, "ila")


class Integration(nn.Module):
    """The transformer over frames: frame features [B, T, E] -> the video's feature [B, E]."""

    def __init__(self, width: int, heads: int, layers: int, frames: int) -> None:
        super().__init__()
        block = ViTConfig(
            width=width, heads=heads, mlp_hidden=4 * width, norm_eps=NORM_EPS, activation="quick_gelu", depth=layers
        )
        self.temporal_embedding = nn.Parameter(torch.zeros(1, frames, width))
        self.blocks = nn.ModuleList(Block(block) for _ in range(layers))
        initialise(self)
        nn.init.trunc_normal_(self.temporal_embedding, std=0.02)
        for layer in self.blocks:
            assert isinstance(layer, Block)
            nn.init.xavier_uniform_(layer.attn.qkv.weight)  # Reference: torch's own, of nn.MultiheadAttention

    def forward(self, frames: Tensor) -> Tensor:
        v = frames + self.temporal_embedding
        for block in self.blocks:
            v = block(v)
        return (v + frames).mean(dim=1)


class CrossAttention(nn.Module):
    """From class names to patches: text [B or 1, K, E], visual [B, P, E] -> [B, K, E]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """[B, L, E] -> [B, h, L, d]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, text: Tensor, visual: Tensor) -> Tensor:
        q = self.split(self.q(text)).expand(visual.shape[0], -1, -1, -1)
        out = F.scaled_dot_product_attention(q, self.split(self.k(visual)), self.split(self.v(visual)))
        return self.proj(out.transpose(1, 2).flatten(2))


class PromptLayer(nn.Module):
    """One pre-norm decoder layer: text [B or 1, K, E], visual [B, P, E] -> [B, K, E]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = CrossAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, 4 * width, "quick_gelu")

    def forward(self, text: Tensor, visual: Tensor) -> Tensor:
        text = text + self.attention(self.norm_query(text), visual)
        return text + self.mlp(self.norm_mlp(text))


class Prompts(nn.Module):
    """Features of the class names as they are to be read beside one video (from X-CLIP, ECCV 2022).

    Args:
        vision_width: D.
        width: E.
        heads: of the cross attention.
        layers: of it.
    """

    def __init__(self, vision_width: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.visual_norm = nn.LayerNorm(vision_width, eps=NORM_EPS)
        self.visual_proj = nn.Parameter(torch.randn(vision_width, width))  # Reference: not scaled
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.layers = nn.ModuleList(PromptLayer(width, heads) for _ in range(layers))
        self.alpha = nn.Parameter(torch.full((width,), 0.1))
        initialise(self)

    def forward(self, text: Tensor, patches: Tensor) -> Tensor:
        """text [K, E], patches [B, T, P, D] -> [B, K, E]."""
        # Fast: the mean over frames goes before the projection: T times less to project.
        visual = self.norm(self.visual_norm(patches).mean(dim=1) @ self.visual_proj)  # [B, P, E]
        adapted = text[None]  # Fast: still without videos, so the first queries are projected once
        for layer in self.layers:
            adapted = layer(adapted, visual)
        return text + self.alpha * adapted


class ILA(Method):
    """Frozen image transformer, learnable alignment of neighbouring frames before every block."""

    Config = ILAConfig
    title = (
        "ILA: Implicit Temporal Modeling with Learnable Alignment for Video Recognition (ICCV 2023), "
        "https://arxiv.org/abs/2304.10465"
    )
    takes_labels = True

    def __init__(
        self,
        backbone: ViT,
        config: ILAConfig,
        classes: int,
        frames: int,
        image_size: tuple[int, int],
        label_features: Tensor | None = None,
    ) -> None:
        """As `Method`.

        Args:
            label_features: [K, E] of the class names, as the text tower returns them, not normalised.

        Raises:
            BadInput: heads that do not divide E, or a grid with a side below 4.
        """
        config = replace(config, head=choose_head(config.head, label_features, "ila"))
        super().__init__(backbone, config, classes, frames, image_size)
        shape = backbone.config
        if not 0 <= config.layers <= shape.depth:
            raise BadInput(
                f"ila.layers is {config.layers}; the backbone has {shape.depth} blocks: give 1 to that, or 0."
            )
        grid, width = shape.grid_of(image_size), label_width(shape)
        self.layers = nn.ModuleList(
            AlignedLayer(shape.width, grid, shape.prefix, config.interaction, config.batch_statistics)
            for _ in range(config.layers or shape.depth)
        )
        heads = choose_heads("integration_heads", config.integration_heads, width, shape)
        self.integration = Integration(width, heads, config.integration_layers, frames)
        self.head: TextHead | LinearHead
        self.prompts: Prompts | None = None
        if config.head == "text":
            heads = choose_heads("prompt_heads", config.prompt_heads, width, shape)
            self.prompts = Prompts(shape.width, width, heads, config.prompt_layers)
            self.prompts.requires_grad_(config.train_prompts)
            self.head = TextHead(width, classes, label_features)
        else:
            self.head = LinearHead(width, classes, config.dropout, NORM_EPS)
            initialise(self.head)

    def forward(self, video: Tensor) -> Output:
        """video [B, T, 3, H, W] -> logits [B, K]; in training `alignment`: weighted sum of the layers' losses."""
        tokens, losses = self.encode(video)
        frames = self.backbone.project(self.backbone.summary(tokens))
        frames = unfold_frames(frames, self.frames)  # [B, T, E]
        self.record("frame_features", frames)
        feature = self.integration(frames)
        self.record("video_feature", feature)
        logits = self.classify(feature, unfold_frames(tokens, self.frames))
        if not self.training:
            return Output(logits)
        return Output(logits, {"alignment": self.config.auxiliary_weight * torch.stack(losses).sum()})

    def encode(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The image transformer with an aligned layer before each block.

        Args:
            video: [B, T, 3, H, W].

        Returns:
            tokens after the last block, [B * T, L, D], or [B * T, 1, D] where only the class token is read on; the
            layers' losses, in training or while traced.
        """
        self.check_video(video)
        x = self.backbone.embed(fold_frames(video))
        self.record("embedded", x)
        losses = []
        depth = self.backbone.config.depth
        for i, block in enumerate(self.backbone.blocks):
            if i < depth - len(self.layers):
                x = self.through(block, x)
                continue
            x, loss = self.through(self._aligned_block, i, x, i == depth - 1 and self.reads_class_token)
            if loss is not None:
                losses.append(loss)
        return x, losses

    def _aligned_block(self, i: int, x: Tensor, class_only: bool) -> tuple[Tensor, Tensor | None]:
        """The aligned layer before block i and the block: x [B * T, L, D] -> the same or [B * T, 1, D]; the loss."""
        layer, block = self.layers[i - self.backbone.config.depth], self.backbone.blocks[i]
        assert isinstance(layer, AlignedLayer)
        assert isinstance(block, Block)
        x = unfold_frames(x, self.frames)
        f, pairs = layer.look(x)
        loss = layer.alignment.loss(f, pairs) if self.training or self._trace is not None else None
        x = fold_frames(layer.add(x, f, pairs))
        if self._trace is not None:
            assert loss is not None
            self.record_layer(i, layer.alignment, f, pairs, loss, block(x))
        return class_token_only(block, x) if class_only else block(x), loss

    @property
    def reads_class_token(self) -> bool:
        """Of the last block's tokens only the class token is used."""
        return self.prompts is None and self.backbone.config.pool == "token"

    def classify(self, feature: Tensor, tokens: Tensor) -> Tensor:
        """The video's feature [B, E] and the tokens of its frames [B, T, L, D] -> logits [B, K]."""
        if self.prompts is None:
            return self.head(F.normalize(feature, dim=-1))
        assert isinstance(self.head, TextHead)
        prompted = self.prompts(self.head.features, tokens[:, :, self.backbone.config.prefix :])
        self.record("prompted", prompted)
        return self.head(feature, prompted)

    def record_layer(self, i: int, alignment: Alignment, f: Tensor, pairs: Pairs, loss: Tensor, out: Tensor) -> None:
        """Keep what layer i made of f [B, T, L, D], and its block's tokens `out` [B * T, L, D]."""
        self.record(f"layers.{i}.points", pairs.points)
        self.record(f"layers.{i}.mask_earlier", pairs.earlier.unflatten(-1, alignment.grid))
        self.record(f"layers.{i}.mask_later", pairs.later.unflatten(-1, alignment.grid))
        self.record(f"layers.{i}.aligned", alignment.aligned(f, pairs))
        self.record(f"layers.{i}.inter", alignment.inter(f, pairs))
        pooled = alignment.pooled(f, pairs)
        self.record(f"layers.{i}.pooled_earlier", pooled[0])
        self.record(f"layers.{i}.pooled_later", pooled[1])
        self.record(f"layers.{i}.loss", loss)
        self.record(f"block.{i}", out)

    def looked(self, trace: dict[str, Tensor]) -> Looked:
        """Masks of each frame and points of each pair: means over the layers, and of each layer."""
        blocks = [i for i in range(self.backbone.config.depth) if f"layers.{i}.points" in trace]
        masks = {i: merge(trace[f"layers.{i}.mask_earlier"], trace[f"layers.{i}.mask_later"]) for i in blocks}
        points = {i: trace[f"layers.{i}.points"].unflatten(-1, (2, 2)) for i in blocks}
        if self.frames == 1:  # there is no pair
            return Looked()
        return Looked(
            {"alignment": torch.stack(list(masks.values())).mean(dim=0)}
            | {f"alignment, block {i}": mask for i, mask in masks.items()},
            {"alignment": torch.stack(list(points.values())).mean(dim=0)}
            | {f"alignment, block {i}": pair for i, pair in points.items()},
        )

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """The disturbance of the points, which is halved in every epoch from 60 % of the training on."""
        for layer in self.layers:
            assert isinstance(layer, AlignedLayer)
            layer.alignment.on_epoch(epoch, epochs)

    def parameter_groups(self, args: TrainArgs) -> list[dict[str, Any]]:
        """Groups by `FACTORS`; vectors and the temporal embedding are decayed only with `decay_all`."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.trained_parameters():
            parts = name.split(".")
            rate, decay = FACTORS[parts[2] if parts[0] == "layers" else parts[0]]
            if not args.decay_all and (parameter.ndim <= 1 or name.endswith("temporal_embedding")):
                decay = 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "lr": rate * args.lr, "weight_decay": decay * args.weight_decay}
            for (rate, decay), parameters in groups.items()
        ]

    def interpolate(self, name: str, tensor: Tensor, other: Method) -> Tensor:
        """The temporal embedding, linearly; nothing else depends on frames or size."""
        if name == "integration.temporal_embedding":
            return stretch(tensor, 1, other.frames)
        return super().interpolate(name, tensor, other)


def class_token_only(block: Block, x: Tensor) -> Tensor:
    """The first token of what `block` returns: [N, L, D] -> [N, 1, D]."""
    # Fast: one query in place of L, and an MLP over one token: 9 of 250 G multiply-adds in ViT-B/16, T = 8.
    first = x[:, :1]
    first = first + block.ls1(block.attn(block.norm1(x), lambda q, k, v: (q[:, :, :1], k, v)))
    return first + block.ls2(block.mlp(block.norm2(first)))


def choose_heads(name: str, given: int, width: int, backbone: ViTConfig) -> int:
    """Heads of an attention of `width` channels: `given`, or by the rule of `ILAConfig.integration_heads`.

    Raises:
        BadInput: `given` does not divide `width`.
    """
    if given:
        if width % given:
            raise BadInput(f"ila.{name} is {given}; it must divide the features' width {width}.")
        return given
    per_head = backbone.width // backbone.heads
    return next((width // d for d in (64, per_head) if width % d == 0), 1)


def initialise(module: nn.Module) -> None:
    """Linear maps of `module`: a truncated normal of std 0.02, biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
