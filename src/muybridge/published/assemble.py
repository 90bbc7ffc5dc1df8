"""From a state dict in a published format to a model, and back.

published = read_published(state_dict, {"adapter_scale": 0.5, ...})
model = assemble(published)                 # method, text tower, what is kept for the way back
state_dict = to_published(model)            # bit for bit as it was
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from muybridge.backbones.convert import Converted, from_source, to_source
from muybridge.backbones.text import TextTower
from muybridge.backbones.vit import Activation, ViT, ViTConfig
from muybridge.errors import BadInput, CheckpointError, MuybridgeError, key_difference
from muybridge.methods import METHODS
from muybridge.methods.base import Method, text_head
from muybridge.published import FORMATS
from muybridge.published.base import Published, Told, own_tensors


@dataclass(frozen=True)
class Model:
    """A method with what belongs to it besides.

    Attributes:
        name: its key in `METHODS`.
        method: in evaluation mode, on the CPU.
        text: the text tower of the file; None where it has none.
        rest: tensors of CLIP that are in no tower (`logit_scale`), and entries of the file that nothing uses.
        keys: where each tensor stood in the file, see `Published.keys`; empty for a model that came from elsewhere.
        dtypes: of tensors in the file that are not fp32, by key; we compute in fp32 and write them back as they were.
        clip_inside: the file holds the image tower.
    """

    name: str
    method: Method
    text: TextTower | None = None
    rest: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    clip_inside: bool = True


def recognise(state: Mapping[str, Tensor], what: str = "This file") -> str:
    """The published format of a state dict: a key of `FORMATS`.

    Raises:
        CheckpointError: none, or several; the first keys are named.
    """
    keys = _without_prefix(state)[0].keys()
    found = [name for name, form in FORMATS.items() if form.matches(keys)]
    if len(found) == 1:
        return found[0]
    first = ", ".join(list(state)[:4]) or "no keys"
    if found:
        raise CheckpointError(f"{what} has keys of several formats ({', '.join(found)}); first keys: {first}.")
    known = ", ".join(form.TITLE.removesuffix("'s") for form in FORMATS.values())
    raise CheckpointError(
        f"{what} is not of a published format that is known here ({known}). Its first keys: {first}. "
        "Weights of an image backbone are given with --weights, at the start of a training."
    )


def read_published(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Published:
    """Take a state dict in a published format apart.

    Args:
        state: key -> tensor.
        config: what the tensors do not tell, in the authors' words or ours; values that they do tell must agree.

    Raises:
        CheckpointError: an unknown format, a missing or unknown key, or tensors that contradict `config`.
        BadInput: something that the tensors do not tell is not in `config`.
        UnknownName: a name in `config` that the format does not know.
    """
    bare, prefix = _without_prefix(state)
    form = FORMATS[recognise(bare)]
    told = Told(config or {}, form.TITLE)
    _check_numbers(bare)
    try:
        published: Published = form.read(bare, told)
    except MuybridgeError:
        raise
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, ZeroDivisionError) as error:
        # A tensor with other axes, or a value of another type: each reader would have to ask at every line.
        raise CheckpointError(
            f"This looks like {form.TITLE} format, but a tensor has another shape, or a value of config another type, "
            f"than it has there ({type(error).__name__}: {error})."
        ) from None
    told.finish()
    return replace(published, keys={name: prefix + key for name, key in published.keys.items()})


def _without_prefix(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """The state dict without what distributed training or a compiler put before all keys, and what that was."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): tensor for key, tensor in state.items()}, prefix
    return state, ""


def _check_numbers(state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for what fp32 cannot hold, and for numbers that are none."""
    for key, tensor in state.items():
        if tensor.is_complex():
            raise CheckpointError(f"{key} has complex numbers; expected real ones.")
        if not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{key} has numbers that are not finite; the file is damaged.")
        if tensor.dtype == torch.float64 and not torch.equal(tensor.float().double(), tensor):
            raise CheckpointError(f"{key} is in fp64, of which fp32 would lose digits; convert the file to fp32 first.")


def assemble(
    published: Published,
    classes: int | None = None,
    frames: int | None = None,
    backbone: ViT | None = None,
    tower: ViTConfig | None = None,
) -> Model:
    """The model of a file that was taken apart.

    Args:
        published: what `read_published` returned.
        classes: K, where no tensor tells; label features are then zeros, to be filled by `Method.relabel`.
        frames: T, where no tensor tells.
        backbone: the image transformer, where the file does not hold it (EVL).
        tower: what the image transformer is to be, by the table of backbones: it tells heads and activation, and its
            sizes must be those of the file.

    Raises:
        CheckpointError: missing, unknown or misshapen keys, the first of them named.
        BadInput: the backbone, the number of classes or of frames is needed and not given.
    """
    classes = _agreed("classes", published.classes, classes)
    frames = _agreed("frames", published.frames, frames)
    text, rest = None, dict(published.extra)
    if published.clip:
        converted = _clip(published, tower)
        backbone = _filled(ViT(converted.config), converted.vision)
        rest |= converted.rest
        if converted.text_config is not None and converted.text is not None:
            text = _filled(TextTower(converted.text_config), converted.text)
    if backbone is None:
        raise BadInput(
            f"This file of {published.method} does not hold the image transformer. Give its file with --weights "
            "(weights=...), put it beside, or name a recipe with --recipe so that it can be fetched."
        )
    _compare_tower(backbone.config, published, tower)
    size = published.image_size or backbone.config.image_size
    kind = METHODS[published.method]
    method = kind(backbone, published.config, classes, frames, size)
    state = dict(published.state)
    if text_head(method) is not None:
        state["head.features"] = method.own_state()["head.features"]
        state["head.logit_scale"] = rest.get("logit_scale", method.own_state()["head.logit_scale"]).reshape(())
    _check_own(method, state, published)
    method.load_own({name: x.float() if x.is_floating_point() else x for name, x in state.items()})
    everything = {f"method.{name}": x for name, x in published.state.items()}
    everything |= {f"clip.{name}": x for name, x in published.clip.items()}
    dtypes = {
        published.keys[name]: x.dtype
        for name, x in everything.items()
        if x.is_floating_point() and x.dtype != torch.float32 and name in published.keys
    }
    return Model(published.method, method.eval(), text, rest, dict(published.keys), dtypes, bool(published.clip))


def _check_own(method: Method, state: Mapping[str, Tensor], published: Published) -> None:
    """Keys, shapes and kinds of number of the method's own tensors, told in the file's words."""
    form = FORMATS[published.method]
    today = form.names(method)

    def said(name: str) -> str:
        return published.keys.get(f"method.{name}") or today.get(name, name)

    wanted = method.own_state()
    difference = key_difference(
        {said(name): tuple(x.shape) for name, x in wanted.items()},
        {said(name): tuple(x.shape) for name, x in state.items()},
    )
    fraction = Tensor.is_floating_point
    kinds = [said(name) for name, x in state.items() if name in wanted and fraction(x) != fraction(wanted[name])]
    if kinds and not difference:
        difference = f"{len(kinds)} have whole numbers in place of fractions or the other way round (first: {kinds[0]})"
    if difference:
        raise CheckpointError(f"This looks like {form.TITLE} format, but: {difference}.")


def _compare_tower(config: ViTConfig, published: Published, tower: ViTConfig | None) -> None:
    """Raise CheckpointError where the image transformer is not the one that is told."""
    told = {name: value for name, value in published.tower.items() if value is not None}
    if tower is not None:
        fields = ("width", "depth", "heads", "mlp_hidden", "patch", "activation", "class_token", "registers")
        told = {name: getattr(tower, name) for name in fields} | told
    for name, value in told.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"The image transformer's {name} is {getattr(config, name)}, but the recipe or config says {value}."
            )


def to_published(model: Model) -> dict[str, Tensor]:
    """The state dict in the authors' format, bit for bit as it was read.

    A model that was trained here is written in the format of today's official code. Label features are in no
    published format: they are made from class names.

    Raises:
        CheckpointError: the method has no published format, or the backbone is not CLIP's and has no place in it.
    """
    if model.name not in FORMATS:
        raise CheckpointError(f"There is no published format of {model.name}; there is one of: {', '.join(FORMATS)}.")
    form = FORMATS[model.name]
    state: dict[str, Tensor] = {}
    vit = model.method.backbone
    if model.clip_inside and (model.keys or form.CLIP_INSIDE):
        family = "openclip" if vit.config.projection else "openclip_tower"
        text_config, text = (model.text.config, model.text.state_dict()) if model.text else (None, None)
        if not model.keys:
            _check_writable(vit.config, form.TITLE)
        scale = {name: tensor for name, tensor in model.rest.items() if name in ("logit_scale", "logit_bias")}
        head = text_head(model.method)
        if head is not None and "logit_scale" not in scale:
            scale["logit_scale"] = head.logit_scale
        clip = to_source(Converted(family, vit.config, vit.state_dict(), text_config, text, scale), family)
        keys = {name: model.keys.get(f"clip.{name}") or form.clip_key(name) for name in clip}
        state = {key: clip[name] for name, key in keys.items() if key is not None}
    names = form.names(model.method)
    for name, tensor in own_tensors(model.method).items():
        if f"method.{name}" not in model.keys and name not in names:
            raise CheckpointError(f"{form.TITLE} format has no place for '{name}' of this model.")
        state[model.keys.get(f"method.{name}") or names[name]] = tensor
    for name, tensor in model.rest.items():
        if f"extra.{name}" in model.keys:
            state[model.keys[f"extra.{name}"]] = tensor
    return {key: tensor.to(model.dtypes.get(key, tensor.dtype)) for key, tensor in state.items()}


def _check_writable(config: ViTConfig, title: str) -> None:
    """Raise CheckpointError unless the authors' code, which builds OpenAI's CLIP, would compute the same."""
    wanted = {"pre_norm": True, "patch_bias": False, "norm_eps": 1e-5, "activation": "quick_gelu", "pool": "token"}
    wanted |= {"registers": 0, "layer_scale": False, "class_token": True, "position_prefix": True, "qkv_bias": True}
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"{title} code builds OpenAI's CLIP, with {name}={value}; this backbone has {getattr(config, name)}, "
                "so the file would compute something else there. Keep it as a run folder."
            )


def _clip(published: Published, tower: ViTConfig | None) -> Converted:
    clip = published.clip
    has_projection = "visual.proj" in clip
    try:
        width = clip["visual.class_embedding"].shape[0]
    except KeyError:
        raise CheckpointError(
            "The image tower in this file is incomplete: it has no class embedding (visual.class_embedding)."
        ) from None
    text_width = clip["ln_final.weight"].shape[0] if "ln_final.weight" in clip else 64
    activation = cast(Activation, published.activation or (tower.activation if tower is not None else "quick_gelu"))
    return from_source(
        clip,
        "openclip" if has_projection else "openclip_tower",
        heads=published.heads or (tower.heads if tower is not None else _heads(width, "heads", published)),
        activation=activation,
        image_size=published.image_size or _size_of(tower, clip),
        text_heads=published.text_heads or _heads(text_width, "text_heads", published),
    )


def _size_of(tower: ViTConfig | None, clip: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The table's image size, where the position table is of its grid (336 px with patches of 14: 24 x 24)."""
    rows = clip["visual.positional_embedding"].shape[0] if "visual.positional_embedding" in clip else 0
    return tower.image_size if tower is not None and rows == tower.grid[0] * tower.grid[1] + 1 else None


def _heads(width: int, name: str, published: Published) -> int:
    if width % 64:
        raise BadInput(
            f"The tensors of {FORMATS[published.method].TITLE} file do not tell {name}: {width} channels are not a "
            f"multiple of 64, as they are in OpenAI's CLIP. Give it with config={{'{name}': ...}}."
        )
    return width // 64


def _agreed(name: str, told: int | None, given: int | None) -> int:
    agreed = told if told is not None else given
    if agreed is None:
        hint = " or the class names with --labels (labels=[...])" if name == "classes" else ""
        raise BadInput(
            f"The tensors of this file do not tell {name}; give the recipe with --recipe{hint}, or "
            f"config={{'{name}': ...}}."
        )
    if told is not None and given is not None and told != given:
        raise CheckpointError(f"{name} is given as {given}, but the file says {told}.")
    return int(agreed)


def _filled(tower: Any, tensors: Mapping[str, Tensor]) -> Any:
    tower.load_state_dict({key: tensor.detach().float().clone() for key, tensor in tensors.items()})
    return tower.eval()
