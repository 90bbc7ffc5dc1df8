"""ZeroI2V's format: the image tower in CLIP's names without `visual.` (`backbone.*`), the adapters beside its layers.

Two forms: as trained, and merged (what the authors' weight_reparam.py writes: no adapters, other weights). Keys with or
without `module.`. The tensors do not tell the adapters' `scale`, the shifts, and the number of heads (width / 64 in all
published files); the authors' words for them (`stdha_cfg` of `official_class`, `adapter_scale`) are understood.

`backbone.ln_post` is trained. It is read twice: as the last norm of the image tower, and as the method's own norm,
which takes its place in `forward`. On the way back both stand for the same key; the method's own is written last and
wins.
Source: MCG-NJU/ZeroI2V.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from muybridge.errors import BadInput, CheckpointError, unknown
from muybridge.methods.base import Method
from muybridge.methods.zeroi2v import ZeroI2VConfig, parse_shifts, shifts_text
from muybridge.published.base import REQUIRED, Published, Told, expand, layer_count, rename, square

TITLE = "ZeroI2V's"
CLIP_INSIDE = True
PREFIX = "module."
BLOCK = "backbone.transformer.resblocks."


def matches(keys: Collection[str]) -> bool:
    """Whether these keys are of this format."""
    short = {key.removeprefix(PREFIX) for key in keys}
    return "backbone.temporal_embedding" in short and "cls_head.fc_cls.weight" in short


def read(state: Mapping[str, Tensor], told: Told) -> Published:
    """Take a state dict apart.

    Args:
        state: `backbone.*` and `cls_head.fc_cls.*`.
        told: what the caller says; `shifts` (or `stdha_cfg` and `official_class`) is needed, and `scale` (or
            `adapter_scale`) where the adapters are apart.

    Raises:
        CheckpointError: a key that the format does not have, or one that tells a size is missing.
        BadInput: what the tensors do not tell was not told.
    """
    theirs = {key.removeprefix(PREFIX): key for key in state}
    if len(theirs) < len(state):
        raise CheckpointError(f"This file of {TITLE} has the same key with and without '{PREFIX}'; one is too many.")
    layers = layer_count(theirs, BLOCK)
    own, clip = expand(PUBLISHED, layers), expand(CLIP, layers)
    tensors = {short: state[key] for short, key in theirs.items()}
    rename(tensors, own | clip, TITLE)  # every key is of one of the two
    ours = {own[short]: tensor for short, tensor in tensors.items() if short in own}
    tower = {clip[short]: tensor for short, tensor in tensors.items() if short in clip}
    merged = not any(name.startswith("adapters.") for name in ours)
    output = any(".after_mlp." in name for name in ours)
    optional = ["backbone.proj", *(["Adapter"] if merged else []), *([] if output else ["MLP_Adapter_out"])]
    missing = [key for key in own | clip if key not in tensors and not any(part in key for part in optional)]
    if missing:
        raise CheckpointError(f"{len(missing)} keys of {TITLE} are missing (first: {', '.join(missing[:3])}).")
    frames, width = ours["temporal_embedding"].shape[1:]
    classes = ours["head.weight"].shape[0]
    hidden = 0 if merged else ours["adapters.0.before_attention.fc1.weight"].shape[0]
    patch = tuple(tower["visual.conv1.weight"].shape[2:])
    ratio = told.value("mlp_ratio", default=None)
    if ratio is not None and hidden and int(width * ratio) != hidden:
        raise CheckpointError(f"mlp_ratio is given as {ratio}, but the tensors have {hidden} channels in an adapter.")
    adapters = told.value("num_tadapter", found=None if merged else 1 + output, default=2)
    stated = told.value("hidden", default=0) or (width // 4 if "hidden" in told else hidden)
    if hidden and stated != hidden:
        raise CheckpointError(f"hidden is given as {stated}, but the tensors have {hidden} channels in an adapter.")
    if told.value("merged", default=False) and not merged:  # the merged file of an unmerged recipe is no contradiction
        raise CheckpointError("merged is given, but the tensors have adapters.")
    config = ZeroI2VConfig(
        shifts=_shifts(told, width, merged),
        hidden=stated,
        scale=told.value(
            "scale",
            "adapter_scale",
            default=0.5 if merged else REQUIRED,
            hint="Published: 0.5 for Kinetics-400, UCF101 and HMDB51; 1 for Something-Something.",
        ),
        dropout=told.value("dropout", "dropout_rate", default=0.1),
        output_adapter=told.value("output_adapter", found=None if merged else output, default=adapters == 2),
        head_dropout=told.value("head_dropout", "dropout_ratio", default=0.5),
        backbone_lr=told.value("backbone_lr", default=1.0),
        merged=merged,
    )
    told.value("frames", "num_frames", found=frames)
    told.value("classes", "num_classes", found=classes)
    told.value("width", found=width)
    told.value("layers", found=layers)
    stated_patch = square(told.value("patch", "patch_size", default=None))
    if stated_patch not in (None, patch):
        raise CheckpointError(f"patch_size is given as {stated_patch}, but the tensors say {patch}.")
    told.ignore("published", "health", "pretrained")
    return Published(
        method="zeroi2v",
        config=config,
        classes=classes,
        frames=frames,
        state=ours,
        clip=tower,
        heads=told.value("heads", default=None),
        image_size=square(told.value("image_size", "input_resolution", default=None)),
        activation=told.value("activation", default=None),
        keys={f"method.{own[short]}": key for short, key in theirs.items() if short in own}
        | {f"clip.{clip[short]}": key for short, key in theirs.items() if short in clip},
    )


def names(method: Method) -> dict[str, str]:
    """Our name of each of the method's own tensors -> the key in today's format."""
    present = method.own_state()
    pairs = expand(PUBLISHED, method.backbone.config.depth)
    return {ours: theirs for theirs, ours in pairs.items() if ours in present}


def clip_key(name: str) -> str | None:
    """OpenAI's name of a tensor of CLIP -> its key in such a file; None: the file has neither projection nor text."""
    if name == "visual.proj" or not name.startswith("visual."):
        return None
    return name.replace("visual.", "backbone.", 1)


def _shifts(told: Told, width: int, merged: bool) -> str:
    """The text of the config's `shifts`, from `shifts` or from the authors' words."""
    given = told.value("shifts", default=None) or None  # an empty text stands for the layout of another backbone
    if given is not None:
        given = shifts_text(parse_shifts(str(given)))
    kind = told.value("official_class", "type", default=None)
    stated = "stdha_cfg" in told
    theirs = official_shifts(kind, told.group("stdha_cfg"), width) if stated else None
    if kind == "ViT_Zero_CLIP_eval" and not merged:
        raise CheckpointError("official_class is given as ViT_Zero_CLIP_eval, but the tensors have adapters.")
    if given is not None and theirs is not None and given != theirs:
        raise CheckpointError(f"shifts is given as '{given}', but stdha_cfg says '{theirs}'.")
    if given is None and theirs is None:
        told.value(
            "shifts",
            hint="Published: '-1:64,+1:64' (ViT-B/16, 8 frames), '-1:128,+1:128' (ViT-L/14, 8 frames), "
            "'-1:128,+1:128,-2:128' (ViT-L/14, 32 frames, Kinetics-400), '-1:128,+1:128,-2:64,+2:64,-3:64' (ViT-L/14, "
            "32 frames, Something-Something); or give the authors' stdha_cfg and official_class.",
        )
    return str(given if given is not None else theirs)


# Per class: which slices in which order. A slice is (offset, its divisor, the flag that it needs); the offset "s" is
# the option shift_stride. A slice has width // divisor channels.
_SHORT = (("-s", "shift_div", None), ("+s", "shift_div", None))
_LONG = (
    *_SHORT,
    (-2, "long_shift_div", None),
)
_CLASSES: dict[str, tuple[tuple[Any, str, str | None], ...]] = {
    "ViT_Zero_CLIP": _LONG,
    "ViT_Zero_CLIP_ablation": (*_LONG, (2, "long_shift_div", "long_shift_right")),
    "ViT_Zero_CLIP_long": (
        *((offset, "shift1_div", None) for offset in (-1, 1)),
        *((offset, "shift2_div", None) for offset in (-2, 2)),
        *((-3, "shift3_div", None), (3, "shift3_div", "shift3_right")),
        *((-4, "shift4_div", None), (4, "shift4_div", "shift4_right")),
    ),
    "ViT_Zero_CLIP_eval": _SHORT,
}
_DEFAULTS: dict[str, dict[str, int]] = {
    "ViT_Zero_CLIP": {"shift_div": 12},
    "ViT_Zero_CLIP_ablation": {"shift_div": 12},
    "ViT_Zero_CLIP_long": {"shift1_div": 12},
    "ViT_Zero_CLIP_eval": {"shift_div": 4},  # Reference: the published class differs from its siblings here
}


def official_shifts(kind: str | None, cfg: Told, width: int) -> str:
    """The shifts of a published configuration.

    Args:
        kind: the authors' class; its defaults and its order of slices differ from class to class.
        cfg: its `stdha_cfg`.
        width: D.

    Returns:
        Text for the option `shifts`.

    Raises:
        BadInput: the class is not told, or the options are of a form that is not supported.
        UnknownName: there is no such class.
    """
    if kind is None:
        raise BadInput(f"stdha_cfg means something else in each class; give official_class: {', '.join(_CLASSES)}.")
    if kind not in _CLASSES:
        raise unknown("official_class of ZeroI2V's", kind, list(_CLASSES))
    if cfg.value("divide_head", default=False):
        raise BadInput("stdha_cfg.divide_head=True is not supported, by the published code either; heads stay whole.")
    if kind == "ViT_Zero_CLIP_ablation" and cfg.value("ops_type", default="stdha") != "stdha":
        raise BadInput("stdha_cfg.ops_type other than 'stdha' is not supported: it is an ablation without weights.")
    stride = 1 if kind == "ViT_Zero_CLIP_long" else cfg.value("shift_stride", default=1)
    offsets = {"-s": -stride, "+s": stride}
    slices, left = [], width
    for offset, divisor, flag in _CLASSES[kind]:
        parts = cfg.value(divisor, default=_DEFAULTS[kind].get(divisor, -1))
        wanted = flag is None or cfg.value(flag, default=False)
        channels = min(width // parts, left) if parts > 0 else 0  # a slice ends where the channels do
        if wanted and channels:
            slices.append((offsets.get(offset, offset), channels))
            left -= channels
    return shifts_text(tuple(slices))


_KINDS = ("weight", "bias")

# Published name -> ours; `{}` is the block.
PUBLISHED = {
    "backbone.temporal_embedding": "temporal_embedding",
    **{f"backbone.ln_post.{kind}": f"norm.{kind}" for kind in _KINDS},
    **{
        f"{BLOCK}{{}}.{theirs}.D_{linear}.{kind}": f"adapters.{{}}.{ours}.{linear}.{kind}"
        for theirs, ours in {
            "T_Adapter_in": "before_attention",
            "S_Adapter": "after_attention",
            "MLP_Adapter": "before_mlp",
            "MLP_Adapter_out": "after_mlp",
        }.items()
        for linear in ("fc1", "fc2")
        for kind in _KINDS
    },
    **{f"cls_head.fc_cls.{kind}": f"head.{kind}" for kind in _KINDS},
}

# Published name -> OpenAI's. The published files have no `proj`; a model that was trained here keeps it.
CLIP = {
    theirs: theirs.replace("backbone.", "visual.", 1)
    for theirs in (
        *(f"backbone.{name}" for name in ("conv1.weight", "class_embedding", "positional_embedding", "proj")),
        *(f"backbone.{norm}.{kind}" for norm in ("ln_pre", "ln_post") for kind in _KINDS),
        *(f"{BLOCK}{{}}.attn.in_proj_{kind}" for kind in _KINDS),
        *(
            f"{BLOCK}{{}}.{layer}.{kind}"
            for layer in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
            for kind in _KINDS
        ),
    )
}
