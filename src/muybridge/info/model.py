"""A model's figures, from its recipe or its parts; a ViT-L/14 takes a second or two and no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from muybridge.backbones.text import TextConfig
from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.backbones.weights import backbone_info
from muybridge.errors import BadInput, unknown
from muybridge.info.counting import (
    TrainingMemory,
    multiply_adds,
    own_parameters,
    parameters_read,
    text_parameters,
    training_memory,
)
from muybridge.methods import build_method
from muybridge.methods.base import count, text_head
from muybridge.plain import PLAIN, plain_twin
from muybridge.recipes import published_recipe
from muybridge.structures import Recipe


@dataclass(frozen=True)
class Info:
    """What a model is and costs.

    Attributes:
        name: of the recipe; empty if it was given by its parts.
        method: a key of `METHODS`.
        backbone: its name, or `custom`.
        classes: K.
        frames: T of one view, as the method is given them.
        image_size: (height, width) in pixels.
        views: of a video, whose scores are averaged.
        own: parameters beside the backbone.
        trainable: parameters that are trained.
        backbone_read: parameters of the backbone that a forward pass reads.
        backbone_whole: all parameters of the image tower, its norm and projection too.
        text: parameters of the text tower and its scale, where class names are compared with the video; else 0. It
            runs once for a set of class names.
        merged: parameters after merging; None where nothing is merged.
        multiply_adds: of one view by the published arithmetic, without the text tower; None: there is no plain twin.
        multiply_adds_merged: likewise, after merging; None where nothing is merged.
        multiply_adds_ours: of one view as this library computes a prediction, merged where the method merges.
        memory: of a training step.
    """

    name: str
    method: str
    backbone: str
    classes: int
    frames: int
    image_size: tuple[int, int]
    views: int
    own: int
    trainable: int
    backbone_read: int
    backbone_whole: int
    text: int
    merged: int | None
    multiply_adds: int | None
    multiply_adds_merged: int | None
    multiply_adds_ours: int
    memory: TrainingMemory

    @property
    def total(self) -> int:
        """Parameters that a prediction needs: what is read of the backbone, beside it, and the text tower."""
        return self.backbone_read + self.own + self.text

    def figure(self, name: str) -> int | None:
        """A figure by the name that `recipes.library.Stated` has for it; None where this model has no such thing.

        `own`, `trainable`, `backbone` (what is read), `text`, `total`, `tower_and_own` (the whole image tower and what
        is beside it), `everything` (and the text tower), `merged`, `multiply_adds`, `multiply_adds_merged`.

        Raises:
            UnknownName: there is no such figure.
        """
        figures = {
            "own": self.own,
            "trainable": self.trainable,
            "backbone": self.backbone_read,
            "text": self.text,
            "total": self.total,
            "tower_and_own": self.backbone_whole + self.own,
            "everything": self.backbone_whole + self.own + self.text,
            "merged": self.merged,
            "multiply_adds": self.multiply_adds,
            "multiply_adds_merged": self.multiply_adds_merged,
        }
        if name not in figures:
            raise unknown("figure", name, figures)
        return figures[name]


def recipe_info(name: str, batch: int = 1) -> Info:
    """The info of a published recipe.

    Args:
        name: one of `recipes.recipe_names()`.
        batch: videos in a training step, for the memory.

    Raises:
        UnknownName: there is no such recipe.
    """
    published = published_recipe(name)
    return setting_info(published.recipe, published.classes, batch, published.name)


def setting_info(recipe: Recipe, classes: int, batch: int = 1, name: str = "") -> Info:
    """The info of any recipe for K classes; its backbone must be one of the table.

    Raises:
        UnknownName: the table has no such backbone.
        BadInput: values that do not fit together.
    """
    weights = backbone_info(recipe.backbone)
    sampling = recipe.sampling
    return model_info(
        recipe.method,
        weights.config,
        classes,
        sampling.frames,
        recipe.transform.size,
        recipe.options,
        views=sampling.views * sampling.crops,
        text=weights.text,
        batch=batch,
        backbone=weights.name,
        name=name,
    )


def model_info(
    method: str,
    config: ViTConfig,
    classes: int,
    frames: int,
    image_size: tuple[int, int],
    options: dict[str, Any] | None = None,
    *,
    views: int = 1,
    text: TextConfig | None = None,
    batch: int = 1,
    backbone: str = "custom",
    name: str = "",
) -> Info:
    """The info of a model by its parts.

    Args:
        method: a key of `METHODS`.
        config: of the image transformer.
        classes: K.
        frames: T.
        image_size: (height, width) in pixels.
        options: fields of the method's `Config`.
        views: of a video, temporal times spatial.
        text: of the text tower beside the image tower, counted where the method has a text head.
        batch: videos in a training step, for the memory.
        backbone: what to call the image transformer.
        name: what to call the whole.

    Raises:
        UnknownName: no such method or option.
        BadInput: values that do not fit together.
    """
    if batch < 1:
        raise BadInput(f"batch is {batch}; expected at least 1.")
    with torch.device("meta"):
        # As `train` does: another image size than the backbone's own resizes its positions on the way.
        model = build_method(method, ViT(config), classes, frames, image_size, options or {}).eval()
        merged = model.merged()
        plain = plain_twin(method, model) if method in PLAIN else None
        plain_merged = plain_twin(method, merged) if method in PLAIN and merged is not model else None
    video = torch.empty(1, frames, 3, *image_size, device="meta")
    has_text = text is not None and text_head(model) is not None
    return Info(
        name=name,
        method=method,
        backbone=backbone,
        classes=classes,
        frames=frames,
        image_size=image_size,
        views=views,
        own=own_parameters(model),
        trainable=count(model.parameters(), trainable_only=True),
        backbone_read=parameters_read(model, model.backbone, video),
        backbone_whole=count(model.backbone.parameters()),
        text=text_parameters(text) if has_text and text is not None else 0,
        merged=None if merged is model else own_parameters(merged) + parameters_read(merged, merged.backbone, video),
        multiply_adds=None if plain is None else multiply_adds(plain, video),
        multiply_adds_merged=None if plain_merged is None else multiply_adds(plain_merged, video),
        multiply_adds_ours=multiply_adds(merged, video),
        memory=training_memory(model, batch),
    )
