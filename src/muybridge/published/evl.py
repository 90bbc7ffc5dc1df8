"""EVL's format: `model` of the authors' checkpoint, keys with or without `module.`, CLIP in a file of its own.

Every option can be read off the tensors but the number of the decoder's heads (width / 64 in all published files).
Source: OpenGVLab/efficient-video-recognition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.errors import CheckpointError
from muybridge.methods.base import Method
from muybridge.methods.evl import EVLConfig
from muybridge.published.base import Published, Told, expand, layer_count, rename, square

TITLE = "EVL's"
PREFIX = "module."
CLIP_INSIDE = False  # the authors read CLIP from its own file


def matches(keys: Collection[str]) -> bool:
    """Whether these keys are of this format."""
    return any(key.removeprefix(PREFIX) == "decoder.cls_token" for key in keys)


def read(state: Mapping[str, Tensor], told: Told) -> Published:
    """Take a state dict apart.

    Args:
        state: `decoder.*` and `proj.*`, and `visual.*` where CLIP's image tower is given beside them.
        told: what the caller says.

    Raises:
        CheckpointError: a key that the format does not have, or one that tells a size is missing.
        BadInput: what the tensors do not tell was not told.
    """
    clip = {key: tensor for key, tensor in state.items() if key.startswith("visual.")}
    theirs = {key.removeprefix(PREFIX): key for key in state if key not in clip}
    layers = layer_count(theirs, "decoder.decoder_layers.")
    pairs = expand(PUBLISHED, layers)
    if len(theirs) + len(clip) < len(state):
        raise CheckpointError(
            "This file of EVL's has the same key with and without 'module.'; one of them is too many."
        )
    ours = rename({short: state[key] for short, key in theirs.items()}, pairs, TITLE)
    try:
        inner, width = ours["layers.0.attention.q.weight"].shape
        hidden = ours["layers.0.mlp.fc1.weight"].shape[0]
        classes = ours["head.fc.weight"].shape[0]
    except KeyError as missing:
        raise CheckpointError(f"This file of EVL's lacks the tensor {missing}.") from None
    decoder = told.group("decoder") if "decoder" in told else told
    backbone = told.group("backbone")
    position = ours.get("layers.0.temporal_position")
    factor = decoder.value("mlp_factor", default=hidden / width)
    if round(factor * width) != hidden:
        raise CheckpointError(f"mlp_factor is given as {factor}, but the tensors have {hidden} channels for {width}.")
    config = EVLConfig(
        layers=decoder.value("layers", "num_layers", found=layers),
        width=decoder.value("width", "qkv_dim", found=inner, auto=0),
        heads=decoder.value("heads", "num_heads", hint="Published files have width / 64."),
        mlp_factor=hidden / width,
        temporal_conv=decoder.value("temporal_conv", found="layers.0.temporal_conv.weight" in ours),
        temporal_position=decoder.value("temporal_position", "temporal_pos_embed", found=position is not None),
        temporal_match=decoder.value(
            "temporal_match", "temporal_cross_attention", found="layers.0.temporal_match.next" in ours
        ),
        alignment=decoder.value("alignment", found=False),
        dropout=decoder.value("dropout", default=0.5),
    )
    size = backbone.value("image_size", "input_size", default=None)
    if backbone.value("kind", default="clip-vit") != "clip-vit":
        raise CheckpointError("backbone.kind is given as another than 'clip-vit', the only one of EVL's files.")
    fields = {"width": "width", "depth": "layers", "patch": "patch", "heads": "heads", "activation": "activation"}
    tower = {ours: backbone.value(theirs, default=None) for ours, theirs in fields.items()}
    tower["patch"] = square(tower["patch"])
    factor = backbone.value("mlp_factor", default=None)
    tower["mlp_hidden"] = round(factor * width) if factor else None
    frames = told.value("frames", "num_frames", found=None if position is None else position.shape[0], default=None)
    told.value("classes", "num_classes", found=classes)
    keys = {f"method.{pairs[short]}": key for short, key in theirs.items()}
    return Published(
        method="evl",
        config=config,
        classes=classes,
        frames=frames,
        state=ours,
        clip=clip,
        heads=tower["heads"],
        image_size=square(size),
        activation=tower["activation"],
        tower=tower,
        keys=keys | {f"clip.{key}": key for key in clip},
    )


def names(method: Method) -> dict[str, str]:
    """Our name of each of the method's own tensors -> the key in today's format."""
    pairs = expand(PUBLISHED, method.config.layers)
    present = method.own_state()
    return {ours: PREFIX + theirs for theirs, ours in pairs.items() if ours in present}


def clip_key(name: str) -> str:
    """OpenAI's name of a tensor of CLIP -> its key in such a file."""
    return name


# Published name -> ours; `{}` is the decoder layer.
PUBLISHED = {
    "decoder.cls_token": "query",
    **{
        f"decoder.decoder_layers.{{}}.{theirs}.{kind}": f"layers.{{}}.{ours}.{kind}"
        for theirs, ours in {
            "attn.q_proj": "attention.q",
            "attn.k_proj": "attention.k",
            "attn.v_proj": "attention.v",
            "attn.out_proj": "attention.proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
            "norm1": "norm_query",
            "norm2": "norm_mlp",
            "norm3": "norm_frames",
        }.items()
        for kind in ("weight", "bias")
    },
    "decoder.temporal_conv.{}.weight": "layers.{}.temporal_conv.weight",
    "decoder.temporal_conv.{}.bias": "layers.{}.temporal_conv.bias",
    "decoder.temporal_pos_embed.{}": "layers.{}.temporal_position",
    "decoder.cross_attention.{}.w1": "layers.{}.temporal_match.previous",
    "decoder.cross_attention.{}.w2": "layers.{}.temporal_match.next",
    "proj.0.weight": "head.norm.weight",
    "proj.0.bias": "head.norm.bias",
    "proj.2.weight": "head.fc.weight",
    "proj.2.bias": "head.fc.bias",
}
