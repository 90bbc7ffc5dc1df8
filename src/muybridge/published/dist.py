"""DiST's format: `model_state` of the authors' checkpoint, the complete CLIP inside.

All keys have the prefix `backbone.base_encoder.`, with `module.` before it or neither; the method is `dist_net.*`, in
older files `ladder_net.*` with other names of its parts; what remains are OpenAI's names. Every option can be read off
the tensors but which blocks are tapped (all, where there are as many as the tower has) and the pooling's heads
(width / 64 in all published files). Source: alibaba-mmai-research/DiST.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.errors import BadInput, CheckpointError, shape_text
from muybridge.methods.base import Method
from muybridge.methods.dist import DiST, DiSTConfig, hidden_width
from muybridge.published.base import Published, Told, expand, layer_count, rename, square

TITLE = "DiST's"
CLIP_INSIDE = True
PREFIX = "backbone.base_encoder."
PREFIXES = ("module." + PREFIX, PREFIX, "module.", "")
OWN, FORMER = "dist_net.", "ladder_net."
# What a file may hold of CLIP; the towers' blocks are checked key by key where they are built.
CLIP = (
    "visual.",
    "transformer.",
    "token_embedding.weight",
    "positional_embedding",
    "ln_final.weight",
    "ln_final.bias",
    "text_projection",
    "logit_scale",
)
# Label features of an earlier revision, and the weight of a fusion that was given up.
EXTRA = ("text_features", "prediction_fusion_gating")


def matches(keys: Collection[str]) -> bool:
    """Whether these keys are of this format."""
    return _prefix(keys) is not None


def read(state: Mapping[str, Tensor], told: Told) -> Published:
    """Take a state dict apart.

    Args:
        state: of a published file, with CLIP or without.
        told: what the caller says; our options, or the names of the authors' configuration in lower case.

    Raises:
        CheckpointError: a key that the format does not have, one that tells a size is missing, or sizes disagree.
        BadInput: what the tensors do not tell was not told.
    """
    prefix = _prefix(state)
    if prefix is None:
        raise CheckpointError(f"This is no file of {TITLE}: no key begins with '{OWN}' after {' or '.join(PREFIXES)}.")
    strange = [key for key in state if not key.startswith(prefix)]
    if strange:
        raise CheckpointError(f"{len(strange)} keys do not begin with '{prefix}' (first: {', '.join(strange[:3])}).")
    theirs = {key.removeprefix(prefix): key for key in state}
    own = OWN if any(key.startswith(OWN) for key in theirs) else FORMER
    clip = {short: key for short, key in theirs.items() if short.startswith(CLIP) and short not in EXTRA}
    extra = {short: key for short, key in theirs.items() if short in EXTRA}
    rest = {short: state[key] for short, key in theirs.items() if short not in clip and short not in extra}
    layers = layer_count(rest, f"{own}input_linears." if own == OWN else f"{own}input_map_feat_nets.")
    pooling = layer_count(rest, f"{own}adapooling_nets." if own == OWN else f"{own}final_temporal_nets.")
    pairs = {_spelt(name, own): ours for name, ours in _pairs(layers, pooling).items()}
    ours = rename(rest, pairs, TITLE)
    clip_state = {short: state[key] for short, key in clip.items()}
    config, frames = _config(ours, clip_state, layers, pooling, told)
    size = told.value("image_size", default=None)
    return Published(
        method="dist",
        config=config,
        classes=told.value("classes", "num_classes", default=None),
        frames=frames,
        state=ours,
        clip=clip_state,
        heads=told.value("vision_heads", default=None),
        text_heads=told.value("text_heads", default=None),
        image_size=square(size),
        activation=told.value("activation", default=None),
        extra={short: state[key] for short, key in extra.items()},
        keys={f"method.{pairs[short]}": theirs[short] for short in rest}
        | {f"clip.{short}": key for short, key in clip.items()}
        | {f"extra.{short}": key for short, key in extra.items()},
    )


def names(method: Method) -> dict[str, str]:
    """Our name of each of the method's own tensors but the head's -> the key in today's format.

    Raises:
        CheckpointError: the model has a linear head.
    """
    assert isinstance(method, DiST)
    if method.config.head != "text":
        raise CheckpointError(f"{TITLE} format has no place for a linear head; only models with a text head fit.")
    pairs = _pairs(len(method.tapped), method.config.pooling_layers)
    present = method.own_state()
    return {ours: PREFIX + OWN + theirs for theirs, ours in pairs.items() if ours in present}


def clip_key(name: str) -> str:
    """OpenAI's name of a tensor of CLIP -> its key in such a file."""
    return PREFIX + name


def _prefix(keys: Collection[str]) -> str | None:
    """What stands before `dist_net.` or its former name; None: nothing known does."""
    for key in keys:
        for prefix in PREFIXES:
            if key.startswith((prefix + OWN, prefix + FORMER)):
                return prefix
    return None


def _config(
    ours: Mapping[str, Tensor], clip: Mapping[str, Tensor], layers: int, pooling: int, told: Told
) -> tuple[DiSTConfig, int]:
    """The options and the number of dense frames, from shapes and what is told."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in ours:
            raise CheckpointError(f"This file of {TITLE} lacks the tensor of '{name}'.")
        if ours[name].ndim != axes:
            raise CheckpointError(f"'{name}' has shape {shape_text(ours[name].shape)}; expected {axes} axes.")
        return tuple(ours[name].shape)

    inner, _, stem_kernel, *patch = shape("temporal_stem.weight", 5)
    width, _, ratio, _, _ = shape("layers.0.to_integration.weight", 5)
    frames = ratio * shape("layers.0.class_token", 4)[2]
    temporal_hidden, _, kernel, _, _ = shape("layers.0.temporal.conv_time.weight", 5)
    images = clip.get("visual.conv1.weight")
    if images is not None and list(images.shape[2:]) != patch:
        raise CheckpointError(
            f"temporal_stem.weight has patches of {shape_text(patch)} px, visual.conv1.weight of "
            f"{shape_text(images.shape[2:])}; they must agree."
        )
    told.value("s_patch_size", "vision_patch_size", found=patch[0] if patch[0] == patch[1] else patch)
    told.value("vision_width", found=shape("layers.0.input.weight", 2)[1])
    told.value("embed_dim", found=shape("proj", 2)[1])
    _agree_with_text(clip, told)
    told.ignore("official_yaml", "arch")

    def factor(name: str, theirs: str, hidden: int, of: int) -> float:
        given = told.value(name, theirs, default=None)
        if given is None:
            return hidden / of
        # Reference: the published code rounds down: for a share such as 0.29 of 100 one channel less than ours.
        if hidden not in (hidden_width(of, given), int(of * given)):
            raise CheckpointError(f"{name} is given as {given}, but the tensors have {hidden} channels for {of}.")
        return hidden / of if hidden_width(of, given) != hidden else float(given)

    config = DiSTConfig(
        ratio=told.value("ratio", "sparse_sample_alpha", found=ratio),
        width=told.value("width", "integration_dim", found=width),
        temporal_width=told.value("temporal_width", "temporal_dim", found=inner),
        layers=_tapped(clip, layers, told),
        pooling_layers=told.value("pooling_layers", "ada_pooling_layers", found=pooling),
        kernel=told.value("kernel", "temporal_kernel_size", found=kernel),
        stem_kernel=told.value("stem_kernel", "t_patch_size", found=stem_kernel),
        temporal_mlp_ratio=factor("temporal_mlp_ratio", "temporal_conv_mlp_ratio", temporal_hidden, inner),
        mlp_ratio=factor(
            "mlp_ratio", "integration_mlp_ratio", shape("layers.0.integration.mlp.fc1.weight", 2)[0], width
        ),
        integration_temporal_ratio=factor(
            "integration_temporal_ratio",
            "integration_temporal_mlp_ratio",
            shape("layers.0.integration.temporal_mlp.fc1.weight", 5)[0],
            width,
        ),
        head=told.value("head", found="text", auto="auto"),
        zero_shot=told.value("zero_shot", "zero_shot_fusion", default=False),
        dropout=told.value("dropout", default=0.0),
        temporal_embedding_std=told.value("temporal_embedding_std", default=0.02),
        pooling_heads=told.value("pooling_heads", default=0),
    )
    return config, told.value("frames", "num_input_frames", found=frames)


def _agree_with_text(clip: Mapping[str, Tensor], told: Told) -> None:
    """What is told of the text tower must be what its tensors say, where they are in the file."""
    tokens, positions = clip.get("token_embedding.weight"), clip.get("positional_embedding")
    depth = layer_count(clip, "transformer.resblocks.") or None
    told.value("vocab_size", found=None if tokens is None else tokens.shape[0], default=None)
    told.value("text_width", found=None if tokens is None else tokens.shape[1], default=None)
    told.value("context_length", found=None if positions is None else positions.shape[0], default=None)
    told.value("text_layers", found=depth, default=None)


def _tapped(clip: Mapping[str, Tensor], layers: int, told: Told) -> tuple[int, ...]:
    """The tapped blocks; empty: all."""
    depth = layer_count(clip, "visual.transformer.resblocks.") or None
    depth = told.value("vision_layers", found=depth, default=None)
    chosen = tuple(int(block) for block in told.value("layers", "selected_layers", default=()))
    if not chosen and depth not in (None, layers):
        raise BadInput(
            f"The tensors of {TITLE} file do not tell which {layers} of the tower's {depth} blocks are tapped; give "
            "them with config={'layers': [...]}."
        )
    if chosen and len(chosen) != layers:
        raise CheckpointError(f"layers is given as {list(chosen)}, but the tensors are of {layers} tapped blocks.")
    return () if depth == layers and chosen == tuple(range(layers)) else chosen


def _pairs(layers: int, pooling: int) -> dict[str, str]:
    """Published name after `dist_net.` -> ours, every layer written out."""
    return expand(SINGLE, 1) | expand(LAYERS, layers) | expand(POOLING, pooling)


def _spelt(name: str, own: str) -> str:
    """A name after `dist_net.` as a file with this prefix has it."""
    head, dot, tail = name.partition(".")
    return own + (FORMER_NAMES.get(head, head) if own == FORMER else head) + dot + tail


FORMER_NAMES = {
    "input_linears": "input_map_feat_nets",
    "integration2temporal_nets": "s2t_fuse_nets",
    "temporal2integration_nets": "t2s_fuse_nets",
    "integration_nets": "spatial_nets",
    "adapooling_nets": "final_temporal_nets",
}


def _both(table: Mapping[str, str]) -> dict[str, str]:
    """The weights and biases of these layers."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in table.items() for kind in ("weight", "bias")}


# Published name after `dist_net.` -> ours; `{}` is the tapped block or the pooling layer.
SINGLE = {
    "proj": "proj",
    "aggregated_cls_token": "video_token",
    "aggregated_spatial_cls_token": "frame_token",
    **_both({"temporal_stem": "temporal_stem", "proj_spatial_cls_token": "class_linear", "ln_post": "norm"}),
}
LAYERS = {
    "temporal2integration_nets.{}.cls_token": "layers.{}.class_token",
    **_both(
        {
            "input_linears.{}": "layers.{}.input",
            "integration2temporal_nets.{}.linear_fuse": "layers.{}.to_temporal",
            "temporal2integration_nets.{}.linear_fuse": "layers.{}.to_integration",
            "temporal_nets.{}.temporal_net.c_fc1": "layers.{}.temporal.conv_time",
            "temporal_nets.{}.temporal_net.c_fc2": "layers.{}.temporal.conv_space",
            "temporal_nets.{}.ln": "layers.{}.temporal.norm",
            "integration_nets.{}.ffn.c_fc": "layers.{}.integration.mlp.fc1",
            "integration_nets.{}.ffn.c_proj": "layers.{}.integration.mlp.fc2",
            "integration_nets.{}.temporal_ffn.c_fc1": "layers.{}.integration.temporal_mlp.fc1",
            "integration_nets.{}.temporal_ffn.c_fc2": "layers.{}.integration.temporal_mlp.conv",
            "integration_nets.{}.temporal_ffn.c_proj": "layers.{}.integration.temporal_mlp.fc2",
            "integration_nets.{}.ln": "layers.{}.integration.norm",
            "integration_nets.{}.ln_temporal": "layers.{}.integration.temporal_norm",
        }
    ),
}
POOLING = {
    "adapooling_nets.{}.positional_embedding": "pooling.{}.temporal_embedding",
    **{
        f"adapooling_nets.{{}}.{kind}_transformer.attn.in_proj_{tensor}": f"pooling.{{}}.{kind}.qkv.{tensor}"
        for kind in ("spatial", "temporal")
        for tensor in ("weight", "bias")
    },
    **_both(
        {
            "adapooling_nets.{}.spatial_transformer.attn.out_proj": "pooling.{}.spatial.proj",
            "adapooling_nets.{}.temporal_transformer.attn.out_proj": "pooling.{}.temporal.proj",
            "adapooling_nets.{}.spatial_transformer.ln_1": "pooling.{}.spatial.norm",
            "adapooling_nets.{}.temporal_transformer.ln_1": "pooling.{}.temporal.norm",
            "adapooling_nets.{}.ln_out_spat_cls_token": "pooling.{}.spatial_norm",
            "adapooling_nets.{}.ln_out_temp_cls_token": "pooling.{}.temporal_norm",
            "adapooling_nets.{}.output_map_spatial_cls_token.c_fc": "pooling.{}.spatial_mlp.fc1",
            "adapooling_nets.{}.output_map_spatial_cls_token.c_proj": "pooling.{}.spatial_mlp.fc2",
            "adapooling_nets.{}.output_map_cls_token.c_fc": "pooling.{}.temporal_mlp.fc1",
            "adapooling_nets.{}.output_map_cls_token.c_proj": "pooling.{}.temporal_mlp.fc2",
        }
    ),
}
