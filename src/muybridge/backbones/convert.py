"""State dicts of other libraries -> ours, and back, bit for bit.

    converted = from_source(read_state_dict("ViT-B-16.pt"))          # family, config, vision, text, rest
    state_dict = to_source(converted)                                # as it was
    state_dict = to_source(converted, "hf_clip")                     # for transformers

Sizes are read off the shapes. What weights do not tell (heads, activation) is given by the caller or certain for the
family; otherwise it is an error, never a guess. Every key must be named by a table (`names.py`) and have the shape that
the model has; missing, unknown and misshapen keys are errors that name them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from muybridge.backbones.names import CHANGES, FAMILIES, Aside, Family, Row
from muybridge.backbones.sizes import (
    Shape,
    Sizes,
    has_text,
    number_of,
    pattern,
    reason,
    recognise,
    stripped,
    what_weights_tell,
)
from muybridge.backbones.text import TextConfig, TextTower
from muybridge.backbones.vit import Activation, ViT, ViTConfig
from muybridge.errors import BadInput, CheckpointError, key_difference, unknown


@dataclass(frozen=True)
class Converted:
    """A model in our names.

    Attributes:
        family: the layout it came in, a key of `FAMILIES`.
        config: of the image tower.
        vision: its state dict, for `ViT(config)`; dtypes as in the source.
        text_config: of the text tower; None where there is none.
        text: its state dict, for `TextTower(text_config)`.
        rest: tensors that are no weights of a tower (`mask_token`, `logit_scale`, ...), kept for the way back.
    """

    family: str
    config: ViTConfig
    vision: dict[str, Tensor]
    text_config: TextConfig | None
    text: dict[str, Tensor] | None
    rest: dict[str, Tensor]


def from_source(
    state_dict: Mapping[str, Tensor],
    family: str | None = None,
    *,
    heads: int | None = None,
    activation: Activation | None = None,
    norm_eps: float | None = None,
    image_size: tuple[int, int] | None = None,
    text_heads: int | None = None,
    text_activation: Activation | None = None,
) -> Converted:
    """Convert a library's state dict.

    Args:
        state_dict: their keys; a prefix that all have (`module.`, `backbone.`, ...) is ignored.
        family: a key of `FAMILIES`; by default `recognise` tells.
        heads: of the image tower. Certain for OpenAI and DINOv2 (width // 64), to be given for others.
        activation: of the image tower. To be given for CLIP and SigLIP but for OpenAI's archives and SigLIP in
            transformers.
        norm_eps: of every norm, if it is not the family's.
        image_size: (height, width) in pixels of the position table, if it is no square of whole patches.
        text_heads: of the text tower, if there is one; certain for OpenAI.
        text_activation: of the text tower, if it is not that of the image tower.

    Raises:
        CheckpointError: keys are missing, unknown or misshapen, or the family is not recognised.
        BadInput: what the weights do not tell was not given; the message names it.
        UnknownName: there is no such family.
    """
    family = family or recognise(state_dict)
    told = what_weights_tell(state_dict, family, image_size)
    layout = FAMILIES[family]
    source = stripped(state_dict)
    given = {"heads": heads, "activation": activation, "norm_eps": norm_eps}
    told |= {name: value for name, value in given.items() if value is not None}
    for name in ("heads", "activation"):
        if name not in told:
            raise BadInput(f"The weights do not tell {name} ({layout.title}, width {told['width']}); give {name}=...")
    config = ViTConfig(**told)
    text_config = None
    if has_text(family, source):
        sizes = Sizes(layout.title, layout.text, source)
        text_config = _text_config(layout, sizes, config, text_heads, text_activation)
    _check(layout, source, config, text_config)
    return Converted(
        family=family,
        config=config,
        vision=_forth(layout.vision, source, _shapes_of(config)),
        text_config=text_config,
        text=_forth(layout.text, source, _shapes_of(text_config)) if text_config else None,
        rest={aside.name: source[aside.theirs] for aside in layout.aside if aside.theirs in source},
    )


def to_source(converted: Converted, family: str | None = None) -> dict[str, Tensor]:
    """The state dict in a library's names: of the family it came from, bit for bit as it was, or of another one.

    On the way to another family: registers without a class row get a row of zeros (transformers, Facebook), a class row
    beside registers is added into the class token (timm), a projection gets a bias of zeros (timm) or loses one (CLIP),
    and entries that are no weights (`mask_token`, OpenAI's sizes) are made.

    Raises:
        CheckpointError: the family has no such model; the message says what it lacks.
        UnknownName: there is no such family.
    """
    family = family or converted.family
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    layout = FAMILIES[family]
    if family != converted.family:
        converted = _fitted(converted, layout)
    if converted.text is not None and not layout.text:
        raise CheckpointError(
            f"This model cannot be written as {layout.title}: its text tower has no place there. "
            "Leave it out with replace(converted, text=None)."
        )
    state_dict = _back(layout, layout.vision, converted.vision)
    if converted.text is not None:
        state_dict |= _back(layout, layout.text, converted.text)
    for aside in layout.aside:
        if aside.name in converted.rest:
            state_dict[aside.theirs] = converted.rest[aside.name]
        elif aside.needed == "always" or (aside.needed == "text" and converted.text is not None):
            state_dict[aside.theirs] = _made(aside, converted)
    return state_dict


def _text_config(
    layout: Family, sizes: Sizes, config: ViTConfig, heads: int | None, activation: Activation | None
) -> TextConfig:
    width = sizes.vote(("blocks.{}.norm1.weight", 0), ("blocks.{}.norm2.weight", 0))
    if heads is None and layout.heads_of_64 and width % 64 == 0:
        heads = width // 64
    if heads is None:
        raise BadInput(f"The weights do not tell text_heads ({layout.title}, text width {width}); give text_heads=...")
    features = sizes.features()
    projection = next((row.theirs[0] for row in layout.vision if row.ours == ("head.weight",)), "")
    if features != (config.projection or config.width):
        raise CheckpointError(
            f"Text features have {features} channels ({sizes.name('head.weight')}), image features "
            f"{config.projection or config.width}{f' ({projection})' if projection else ''}; they must agree."
        )
    return TextConfig(
        width=width,
        depth=sizes.depth,
        heads=heads,
        mlp_hidden=sizes.vote(("blocks.{}.mlp.fc1.bias", 0), ("blocks.{}.mlp.fc1.weight", 0)),
        vocabulary=sizes.shape("token_embed.weight", 2)[0],
        context=sizes.positions(),
        projection=features,
        projection_bias=any(row.ours == ("head.bias",) for row in layout.text),
        causal=config.pool == "token",
        norm_eps=config.norm_eps,
        activation=activation or config.activation,
    )


def _check(layout: Family, source: Mapping[str, Tensor], config: ViTConfig, text_config: TextConfig | None) -> None:
    """Compare keys and shapes with what a model of this shape has in this layout."""
    expected = _theirs(layout.vision, _shapes_of(config))
    letters: dict[int | str, int] = {"N": config.grid[0] * config.grid[1] + int(config.position_prefix)}
    letters["D"] = config.width
    if text_config:
        expected |= _theirs(layout.text, _shapes_of(text_config))
        letters["L"] = text_config.context
    for aside in layout.aside:
        shapes = [tuple(letters.get(size, size) for size in shape) for shape in aside.shapes]
        given = tuple(source[aside.theirs].shape) if aside.theirs in source else None
        if given is not None or aside.needed == "always" or (aside.needed == "text" and text_config):
            expected[aside.theirs] = cast(Shape, given if given in shapes else shapes[0])
    difference = key_difference(expected, {key: tuple(tensor.shape) for key, tensor in source.items()})
    if difference:
        raise CheckpointError(
            f"This looks like {layout.title}, but its keys differ: {difference}."
            f"{reason(source.keys() - expected.keys())}"
        )


@functools.cache
def _shapes_of(config: ViTConfig | TextConfig) -> Mapping[str, Shape]:
    """Our keys and shapes of such a tower."""
    with torch.device("meta"):
        tower = ViT(config) if isinstance(config, ViTConfig) else TextTower(config)
    return {key: tuple(tensor.shape) for key, tensor in tower.state_dict().items()}


def _bound(rows: Iterable[Row], ours: Iterable[str]) -> Iterator[Row]:
    """The rows whose parts are among our keys, with the numbers of the blocks filled in."""
    keys = set(ours)
    depth = 1 + max((int(number_of(key)) for key in keys if "{}" in pattern(key)), default=-1)
    for row in rows:
        for number in map(str, range(depth if "{}" in row.ours[0] else 1)):
            theirs, mine = (tuple(name.replace("{}", number) for name in names) for names in (row.theirs, row.ours))
            if keys.issuperset(mine):
                yield Row(theirs, mine, row.change)


def _theirs(rows: Iterable[Row], ours: Mapping[str, Shape]) -> dict[str, Shape]:
    """Their keys and shapes of a tower that has these of ours."""
    expected = {}
    for row in _bound(rows, ours):
        tensors = CHANGES[row.change].back([torch.empty(ours[key], device="meta") for key in row.ours])
        expected.update({key: tuple(tensor.shape) for key, tensor in zip(row.theirs, tensors, strict=True)})
    return expected


def _forth(rows: Iterable[Row], source: Mapping[str, Tensor], ours: Mapping[str, Shape]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for row in _bound(rows, ours):
        tensors = [source[key] for key in row.theirs]
        dtypes = {tensor.dtype for tensor in tensors}
        if len(dtypes) > 1 or not tensors[0].is_floating_point():
            names = ", ".join(sorted(str(dtype) for dtype in dtypes))
            raise CheckpointError(f"{', '.join(row.theirs)}: expected numbers of one floating type, not {names}.")
        converted.update(zip(row.ours, CHANGES[row.change].forth(tensors), strict=True))
    return converted


def _back(layout: Family, rows: Iterable[Row], tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    left = set(tower)
    state_dict: dict[str, Tensor] = {}
    for row in _bound(rows, tower):
        left.difference_update(row.ours)
        tensors = CHANGES[row.change].back([tower[key] for key in row.ours])
        state_dict.update({key: tensor.contiguous() for key, tensor in zip(row.theirs, tensors, strict=True)})
    if left:
        raise CheckpointError(
            f"This model cannot be written as {layout.title}: no place for {', '.join(sorted(left)[:3])}."
        )
    return state_dict


def _fitted(converted: Converted, layout: Family) -> Converted:
    """The same model as the other family writes it; see `to_source`."""
    config, vision = converted.config, dict(converted.vision)
    fixed: dict[str, Any] = dict(layout.fixed) or {
        "patch_bias": not config.pre_norm,
        "projection_bias": True,
        "position_prefix": config.class_token and not config.registers,
    }
    adapted = ("position_prefix", "projection_bias")
    wrong = [name for name, value in fixed.items() if name not in adapted and getattr(config, name) != value]
    if layout.projection != "maybe" and bool(config.projection) != (layout.projection == "always"):
        wrong.append("projection")
    if wrong:
        raise CheckpointError(f"This model cannot be written as {layout.title}: {', '.join(wrong)} differ.")
    if config.class_token and config.position_prefix != fixed["position_prefix"]:
        table = vision["pos_embed"]
        if config.position_prefix:
            vision["cls_token"] = vision["cls_token"] + table[:, :1]
            vision["pos_embed"] = table[:, 1:]
        else:
            vision["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
        config = replace(config, position_prefix=not config.position_prefix)
    if config.projection and config.projection_bias != fixed["projection_bias"]:
        if not config.projection_bias:
            vision["head.bias"] = torch.zeros_like(vision["head.weight"][:, 0])
        elif vision.pop("head.bias").any():
            raise CheckpointError(
                f"This model cannot be written as {layout.title}: the bias of its projection is not zero."
            )
        config = replace(config, projection_bias=not config.projection_bias)
    return replace(converted, config=config, vision=vision)


def _made(aside: Aside, converted: Converted) -> Tensor:
    """An entry that is no weight, for a model that came from a family without it."""
    config, text = converted.config, converted.text_config
    if aside.name == "mask_token":
        return torch.zeros(1, config.width)
    if aside.name == "input_resolution":
        return torch.tensor(config.image_size[0])
    if text and aside.name in ("context_length", "vocab_size"):
        return torch.tensor(text.context if aside.name == "context_length" else text.vocabulary)
    raise CheckpointError(f"{aside.theirs} is needed and not among the rest of this model.")
