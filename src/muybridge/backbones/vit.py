"""The one image transformer, laid open: CLIP, OpenCLIP, SigLIP, DINOv2 and plain timm ViTs are configurations of it.

A method walks over the blocks itself:

    x = backbone.embed(images)                 # [N, 3, H, W] -> [N, L, D]
    for block in backbone.blocks:
        x = block(x)                           # x + ls1(attn(norm1(x))); x + ls2(mlp(norm2(x)))
    features = backbone.project(backbone.summary(x))

The one seam is `attn(x, edit)`: `edit` sees q, k and v, each [N, h, L, d], and returns what attention shall use.
State-dict keys are timm's (`timm/models/vision_transformer.py`) and never change, whatever a method adds beside them.

References: Dosovitskiy et al., ICLR 2021 (ViT); Radford et al., ICML 2021 (CLIP); Zhai et al., ICCV 2023 (SigLIP);
Oquab et al., TMLR 2024 (DINOv2); Darcet et al., ICLR 2024 (registers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.activation import QuickGELU, activation
from muybridge.errors import BadInput, shape_text

Edit = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


@dataclass(frozen=True)
class ViTConfig:
    """The shape of an image transformer, and what its weights do not tell.

    Attributes:
        width: D, channels of a token.
        depth: number of blocks.
        heads: attention heads of a block; they divide `width`.
        mlp_hidden: channels inside a block's MLP.
        patch: (height, width) of a patch in pixels.
        image_size: (height, width) in pixels that the position table is made for.
        class_token: a learned token before the patches.
        registers: learned tokens without position between class token and patches (DINOv2 with registers).
        position_prefix: the position table begins with a row for the class token.
        patch_bias: the patch embedding has a bias (CLIP's has none).
        qkv_bias: the attention projections have a bias.
        pre_norm: a norm before the first block (CLIP).
        norm_eps: of every norm: 1e-5 in CLIP, 1e-6 in SigLIP, DINOv2 and timm's ViTs.
        activation: of the MLPs. OpenAI's CLIP: `quick_gelu`; SigLIP: `gelu` or `gelu_tanh`, by the model.
        layer_scale: learned scales on both branches of a block (DINOv2).
        pool: `token`: the class token; `map`: one learned query attends to all tokens (SigLIP);
            `mean`: mean of the patches.
        projection: width of the output projection (CLIP) or classifier; 0: none.
        projection_bias: that projection has a bias.
        position_antialias: how the source library resizes the position table: with a low-pass (timm, open_clip)
            or without (transformers; Facebook's DINOv2).
        position_offset: added to the target grid when the scale is computed: 0.1 in Facebook's DINOv2, else 0.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_hidden: int = 3072
    patch: tuple[int, int] = (16, 16)
    image_size: tuple[int, int] = (224, 224)
    class_token: bool = True
    registers: int = 0
    position_prefix: bool = True
    patch_bias: bool = True
    qkv_bias: bool = True
    pre_norm: bool = False
    norm_eps: float = 1e-6
    activation: Activation = "gelu"
    layer_scale: bool = False
    pool: Literal["token", "map", "mean"] = "token"
    projection: int = 0
    projection_bias: bool = True
    position_antialias: bool = True
    position_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise BadInput(f"width {self.width} cannot be split into {self.heads} heads; heads must divide width.")
        if self.pool == "token" and not self.class_token:
            raise BadInput("pool='token' needs a class token; use pool='map' or pool='mean'.")
        if self.position_prefix and not self.class_token:
            raise BadInput("position_prefix=True needs a class token: it is that token's row in the table.")

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches."""
        return int(self.class_token) + self.registers

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches that the position table is made for; pixels that fill no patch are dropped."""
        return self.grid_of(self.image_size)

    def grid_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches in an image of `image_size` (height, width) pixels."""
        return image_size[0] // self.patch[0], image_size[1] // self.patch[1]


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q [N, h, Q, d] and k, v [N, h, L, d] -> [N, h, Q, d]."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and not causal:
        # Fast: forward and backward in bf16 on a CPU, torch 2.13's fused attention takes 1.1 (L = 197) to 5.5 times
        # (L = 37) as long as these products (benchmarks/attention.py).
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Attention(nn.Module):
    """Multi-head self-attention with a fused projection and one seam between projection and softmax.

    Args:
        width: D.
        heads: h; d = D / h.
        bias: the q, k, v projections have a bias.
        causal: a token sees itself and what comes before it (CLIP's text tower).
    """

    def __init__(self, width: int, heads: int, bias: bool = True, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, edit: Edit | None = None) -> Tensor:
        """x: [N, L, D] -> [N, L, D]. `edit` maps (q, k, v), each [N, h, L, d], to what attention uses."""
        # Fast: three views of the last axis, whose gradients are joined in one copy; of one permuted view it were two.
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        if edit is not None:
            q, k, v = edit(q, k, v)
        out = attend(q, k, v, self.causal)
        return self.proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps with an activation between them: [.., D] -> [.., D]."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        return self.act.into(hidden, self.fc2) if isinstance(self.act, QuickGELU) else self.fc2(self.act(hidden))


class LayerScale(nn.Module):
    """A learned factor for every channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block, two lines."""

    def __init__(self, config: ViTConfig, causal: bool = False) -> None:
        super().__init__()
        scale = LayerScale if config.layer_scale else lambda _: nn.Identity()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config.width, config.heads, config.qkv_bias, causal)
        self.ls1 = scale(config.width)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_hidden, config.activation)
        self.ls2 = scale(config.width)

    def forward(self, x: Tensor, edit: Edit | None = None) -> Tensor:
        """x: [N, L, D] -> [N, L, D]."""
        x = x + self.ls1(self.attn(self.norm1(x), edit))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches through one linear map; pixels that fill no patch are dropped."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch, bias=config.patch_bias)

    def forward(self, images: Tensor) -> Tensor:
        """images: [N, 3, H, W] -> [N, rows * columns, D], row by row."""
        return F.linear(patches_of(images, self.proj.kernel_size), self.proj.weight.flatten(1), self.proj.bias)


def patches_of(images: Tensor, patch: tuple[int, ...]) -> Tensor:
    """[N, 3, H, W] -> [N, rows * columns, 3 * height * width of a patch], row by row; what fills no patch is dropped.

    Fast: one matrix product with them is the patches' convolution, in 0.89 of its time on a CPU.
    """
    (height, width), (rows, columns) = patch, (images.shape[2] // patch[0], images.shape[3] // patch[1])
    whole = images[:, :, : rows * height, : columns * width]
    parts = whole.unflatten(3, (columns, width)).unflatten(2, (rows, height))  # [N, 3, rows, height, columns, width]
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class AttentionPool(nn.Module):
    """One learned query attends to all tokens; h = attention (no residual), then h + mlp(norm(h)) (SigLIP)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.latent = nn.Parameter(torch.zeros(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_hidden, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, L, D] -> [N, D]."""
        n, length, width = x.shape
        d = width // self.heads
        q = self.q(self.latent).reshape(1, 1, self.heads, d).transpose(1, 2).expand(n, -1, -1, -1)
        k, v = self.kv(x).reshape(n, length, 2, self.heads, d).permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v)  # [N, h, 1, d]
        h = self.proj(h.transpose(1, 2).reshape(n, width))
        return h + self.mlp(self.norm(h))


class ViT(nn.Module):
    """An image transformer whose steps are public.

    `embed`, `blocks`, `summary` and `project` in this order are `forward`. Tokens are [N, L, D], prefix tokens first
    (class, registers), then the patches row by row.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.grid
        positions = rows * columns + int(config.position_prefix)
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.width)) if config.registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, config.width))
        self.norm_pre = nn.LayerNorm(config.width, eps=config.norm_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.head = (
            nn.Linear(config.width, config.projection, bias=config.projection_bias)
            if config.projection
            else nn.Identity()
        )
        self.apply(_initialise)
        for table in (self.pos_embed, self.cls_token, self.reg_token):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def embed(self, images: Tensor, extra: Tensor | None = None) -> Tensor:
        """Pixels to the tokens that enter block 0.

        Args:
            images: [N, 3, H, W], normalised; any H, W of at least one patch: the position table is resized.
            extra: added to all tokens before `norm_pre`; broadcast to [N, L, D].

        Returns:
            [N, L, D], L = prefix + (H // patch) * (W // patch).

        Raises:
            BadInput: `images` is not [N, 3, H, W] or smaller than a patch.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise BadInput(f"images has shape {shape_text(images.shape)}; expected [N, 3, H, W].")
        grid = self.config.grid_of((images.shape[2], images.shape[3]))
        if min(grid) < 1:
            raise BadInput(
                f"images of {images.shape[2]}x{images.shape[3]} px are smaller than a patch "
                f"({self.config.patch[0]}x{self.config.patch[1]} px)."
            )
        x = self.patch_embed(images)
        positions = self.positions(grid).to(x.dtype)
        tokens = []
        if self.cls_token is not None:
            cls = self.cls_token.to(x.dtype)
            if self.config.position_prefix:
                cls = cls + positions[:, :1]
                positions = positions[:, 1:]
            tokens.append(cls.expand(x.shape[0], -1, -1))
        if self.reg_token is not None:
            tokens.append(self.reg_token.to(x.dtype).expand(x.shape[0], -1, -1))
        x = torch.cat([*tokens, x + positions], dim=1)
        if extra is not None:
            x = x + extra
        return self.norm_pre(x)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table for `grid` (rows, columns) of patches, [1, rows * columns (+ 1), D].

        Another grid than the table's own is resampled as the source library does (bicubic; see `ViTConfig`).
        """
        if grid == self.config.grid:
            return self.pos_embed
        prefix = int(self.config.position_prefix)
        head, table = self.pos_embed[:, :prefix], self.pos_embed[:, prefix:]
        return torch.cat([head, self._resize(table, grid)], dim=1)

    def _resize(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        rows, columns = self.config.grid
        image = table.float().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        if self.config.position_offset:
            # Reference: facebookresearch/dinov2, interpolate_pos_encoding: torch places the samples by these scales.
            offset = self.config.position_offset
            scale = ((grid[0] + offset) / rows, (grid[1] + offset) / columns)
            image = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=self.config.position_antialias)
        else:
            image = F.interpolate(image, size=grid, mode="bicubic", antialias=self.config.position_antialias)
        return image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1).to(table.dtype)

    def summary(self, tokens: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Tokens after the last block -> one normed vector per image: [N, L, D] -> [N, D].

        Args:
            tokens: [N, L, D].
            norm: in place of the backbone's own last norm, for methods that train one.
        """
        norm = self.norm if norm is None else norm
        if self.config.pool == "token":
            return norm(tokens[:, 0])
        tokens = norm(tokens)
        if self.attn_pool is not None:
            return self.attn_pool(tokens)
        return tokens[:, self.config.prefix :].mean(dim=1)

    def project(self, pooled: Tensor) -> Tensor:
        """[N, D] -> [N, projection]; unchanged where the family has no projection."""
        return self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """The plain image model: [N, 3, H, W] -> [N, projection or D]."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.project(self.summary(x))


def _initialise(module: nn.Module) -> None:
    # As timm and DINOv2 initialise: only for models that are trained from nothing, tests among them.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * math.prod(module.kernel_size)
        nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
