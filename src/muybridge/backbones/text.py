"""Text towers: class names to features beside which image features can be compared (CLIP, OpenCLIP, SigLIP).

    tower, tokenizer = load_text("clip_vitb16")
    labels = encode_labels(tower, tokenizer, ["archery", "abseiling"], ["a video of {}."])   # [K, E], unit length

The blocks are those of the image tower (`vit.Block`). CLIP's attend to what comes before, and its feature stands at the
end token; SigLIP's attend to everything, padding included, and its feature stands at the last position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.vit import Activation, Block, ViTConfig
from muybridge.errors import BadInput, shape_text


@dataclass(frozen=True)
class TextConfig:
    """The shape of a text tower, and what its weights do not tell.

    Attributes:
        width: D, channels of a token.
        depth: number of blocks.
        heads: attention heads of a block; they divide `width`.
        mlp_hidden: channels inside a block's MLP.
        vocabulary: how many ids there are; CLIP's end token is the highest.
        context: L, how many positions the table has.
        projection: E, width of the output, that of the image features.
        projection_bias: the output projection has a bias (SigLIP).
        causal: a token sees what comes before it, and the feature stands at the end token (CLIP); else a token sees
            all, and the feature stands at the last position (SigLIP).
        norm_eps: of every norm.
        activation: of the MLPs.
    """

    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_hidden: int = 2048
    vocabulary: int = 49408
    context: int = 77
    projection: int = 512
    projection_bias: bool = False
    causal: bool = True
    norm_eps: float = 1e-5
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise BadInput(f"width {self.width} cannot be split into {self.heads} heads; heads must divide width.")


class TextTower(nn.Module):
    """Token ids to features; `embed`, `blocks`, `summary` and `project` in this order are `forward`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        block = ViTConfig(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            mlp_hidden=config.mlp_hidden,
            norm_eps=config.norm_eps,
            activation=config.activation,
        )
        self.token_embed = nn.Embedding(config.vocabulary, config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.context, config.width))
        self.blocks = nn.ModuleList(Block(block, causal=config.causal) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.projection, bias=config.projection_bias)
        for table in (self.token_embed.weight, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)

    def embed(self, ids: Tensor) -> Tensor:
        """Ids to the tokens that enter block 0.

        Args:
            ids: [K, L], int64; of a SigLIP tower always the full context.

        Returns:
            [K, L, D].

        Raises:
            BadInput: `ids` is not [K, L], or L is not what this tower reads.
        """
        length, context = ids.shape[-1], self.config.context
        if ids.ndim != 2 or length > context or (length < context and not self.config.causal):
            reads = f"at most {context}" if self.config.causal else f"exactly {context}"
            raise BadInput(f"ids has shape {shape_text(ids.shape)}; expected [K, L], L {reads}.")
        return self.token_embed(ids) + self.pos_embed[:, :length]

    def summary(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """Tokens after the last block [K, L, D] and their ids [K, L] -> one normed vector per text, [K, D]."""
        if not self.config.causal:
            return self.norm(tokens[:, -1])
        # The end token has the highest id. transformers looks for the first end token instead: the same, as padding
        # with end tokens comes after it and argmax takes the first of equals.
        end = ids.argmax(dim=-1)
        return self.norm(tokens[torch.arange(ids.shape[0], device=ids.device), end])

    def project(self, pooled: Tensor) -> Tensor:
        """[K, D] -> [K, E]."""
        return self.head(pooled)

    def forward(self, ids: Tensor) -> Tensor:
        """[K, L] ids -> [K, E], not yet of unit length."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.project(self.summary(x, ids))


class Tokenizer(Protocol):
    """Texts to ids: what `encode_labels` needs of a tokenizer."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """K texts -> [K, L] int64."""
        ...


@torch.no_grad()
def encode_labels(
    tower: TextTower,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    templates: Sequence[str] = ("{}",),
    batch: int = 256,
    normalised: bool = True,
) -> Tensor:
    """One feature per class: the mean over `templates` of unit-length features, again of unit length.

    Args:
        tower: the text tower.
        tokenizer: the one the tower was trained with.
        labels: K class names.
        templates: sentences with `{}` where the name goes.
        batch: texts that the tower reads at once.
        normalised: False: as the tower returns them, of any length; for one template.

    Returns:
        [K, E], on the tower's device.

    Raises:
        BadInput: there are no labels or no templates, a template has no `{}`, or there are several for features that
            are not normalised.
    """
    if not labels or not templates:
        raise BadInput("encode_labels needs at least one label and one template.")
    for template in templates:
        if "{}" not in template:
            raise BadInput(f"The template {template!r} has no {{}} where the class name goes.")
    if not normalised and len(templates) > 1:
        raise BadInput("Features that are not normalised have no mean over templates; give one template.")
    texts = [template.replace("{}", label) for label in labels for template in templates]
    device = tower.pos_embed.device
    parts = [tower(_cut(tower, tokenizer(texts[i : i + batch])).to(device)) for i in range(0, len(texts), batch)]
    if not normalised:
        return torch.cat(parts)
    features = F.normalize(torch.cat(parts), dim=-1).reshape(len(labels), len(templates), -1)
    return F.normalize(features.mean(dim=1), dim=-1)


def _cut(tower: TextTower, ids: Tensor) -> Tensor:
    # Fast: what comes after the last end token is seen by nobody in a causal tower: 10 of 77 positions are left for the
    # class names of Kinetics-400.
    return ids[:, : int(ids.argmax(dim=-1).max()) + 1] if tower.config.causal else ids
