"""ILA's format: the whole model in one state dict, CLIP's towers under OpenAI's names, the method's own between them.

Two branches of the official code wrote two variants: Kinetics (depthwise interaction, prompts, text tower inside) and
Something-Something (full interaction, linear head, no text tower). The two choices are read independently of each
other. Depth, frames, layers and classes can be read off the tensors; heads are width / 64 in all published files.
Source: Francis-Rings/ILA.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from muybridge.errors import CheckpointError
from muybridge.methods.alignment import Interaction
from muybridge.methods.base import Method
from muybridge.methods.ila import ILAConfig
from muybridge.published.base import REQUIRED, Published, Told, expand, layer_count, rename, square

TITLE = "ILA's"
CLIP_INSIDE = True

BLOCK = "visual.transformer.resblocks."
MESSAGE = BLOCK + "{}.message_attn."
OWN_PARTS = ("message_", "temporal_skip_")  # of a block; the rest of it is CLIP's
TEXT = ("transformer.", "token_embedding.", "ln_final.")
TEXT_KEYS = ("positional_embedding", "text_projection", "logit_scale")


def matches(keys: Collection[str]) -> bool:
    """Whether these keys are of this format."""
    return any(key.startswith(BLOCK) and ".message_attn." in key for key in keys)


def read(state: Mapping[str, Tensor], told: Told) -> Published:
    """Take a state dict apart.

    Args:
        state: key -> tensor, `model` of the authors' checkpoint.
        told: what the caller says.

    Raises:
        CheckpointError: a key that the format does not have, or one of its keys is missing.
    """
    clip = {key: tensor for key, tensor in state.items() if is_clip(key)}
    own = {key: tensor for key, tensor in state.items() if key not in clip}
    interaction: Interaction = "depthwise" if any(".depthwise_conv." in key for key in own) else "full"
    head = "linear" if any(key.startswith("mit.classify_head.") for key in own) else "text"
    layers = layer_count(state, BLOCK)
    integration_layers = max(1, layer_count(own, "mit.resblocks."))
    prompt_layers = max(1, layer_count(own, "prompts_generator.decoder.")) if head == "text" else 0
    pairs = pairs_of(interaction, head, layers, integration_layers, prompt_layers)
    ours = rename(own, pairs, TITLE)
    needed = [*pairs, "visual.conv1.weight", "visual.positional_embedding", "visual.proj"]
    missing = [key for key in needed if key not in state]
    if missing:
        raise CheckpointError(f"This file of ILA's lacks {len(missing)} tensors (first: {', '.join(missing[:3])}).")
    variant = {("depthwise", "text"): "k400", ("full", "linear"): "ssv2"}.get((interaction, head), "neither of the two")
    told.value("variant", found=variant)
    _, frames, width = ours["integration.temporal_embedding"].shape
    config = ILAConfig(
        interaction=told.value("interaction", found=interaction),
        head=told.value("head", found=head, auto="auto"),
        integration_layers=told.value("integration_layers", "mit_layers", found=integration_layers),
        integration_heads=told.value("integration_heads", "mit_heads", default=0 if width % 64 == 0 else REQUIRED),
        # Without prompts the authors' configuration still has a number of their layers, which then says nothing.
        prompt_layers=told.value("prompt_layers", "prompts_layers", found=prompt_layers or None, default=2),
        prompt_heads=told.value("prompt_heads", default=0),
        dropout=told.value("dropout", default=0.5),
        batch_statistics=told.value("batch_statistics", default=False),
        train_prompts=told.value("train_prompts", default=True),
        auxiliary_weight=told.value("auxiliary_weight", default=1.0),
    )
    classifier = ours.get("head.fc.weight")
    classes = None if classifier is None else classifier.shape[0]
    told.ignore("batch")  # `layers` is the authors' word for the depth, which is compared with the tower
    return Published(
        method="ila",
        config=config,
        classes=told.value("classes", "num_classes", found=classes, default=None),
        frames=told.value("frames", "num_frames", found=frames),
        state=ours,
        clip=clip,
        heads=told.value("vision_heads", default=None),
        text_heads=told.value("text_heads", default=None),
        image_size=towers(clip, width, layers, told),
        activation=told.value("activation", default=None),
        keys={f"method.{pairs[key]}": key for key in own} | {f"clip.{key}": key for key in clip},
    )


def is_clip(key: str) -> bool:
    """Whether a key is one of CLIP's: those of the method stand between them in the blocks of the image tower."""
    if key.startswith(BLOCK):
        return not key.removeprefix(BLOCK).partition(".")[2].startswith(OWN_PARTS)
    return key.startswith(("visual.", *TEXT)) or key in TEXT_KEYS


def towers(clip: Mapping[str, Tensor], width: int, layers: int, told: Told) -> tuple[int, int] | None:
    """Compare what is told of CLIP's two towers with their tensors; the image size, where it is told."""
    conv = clip["visual.conv1.weight"]
    told.value("layers", found=layers, auto=0)
    told.value("width", found=conv.shape[0])
    patch = square(told.value("patch", "patch_size", default=None))
    if patch not in (None, tuple(conv.shape[2:])):
        raise CheckpointError(f"patch_size is given as {patch}, but the tensors say {tuple(conv.shape[2:])}.")
    told.value("embed_dim", found=width)
    for name, key, axis in (
        ("context_length", "positional_embedding", 0),
        ("text_width", "positional_embedding", 1),
        ("vocab_size", "token_embedding.weight", 0),
    ):
        told.value(name, found=clip[key].shape[axis] if key in clip else None, default=None)
    told.value("text_layers", found=layer_count(clip, "transformer.resblocks.") or None, default=None)
    return square(told.value("image_size", default=None))


def pairs_of(interaction: str, head: str, layers: int, integration_layers: int, prompt_layers: int) -> dict[str, str]:
    """Published key -> our name, for every tensor of such a model but CLIP's."""
    return (
        expand(LAYER | INTERACTION[interaction], layers)
        | expand(INTEGRATION, integration_layers)
        | (expand(PROMPTS, prompt_layers) if head == "text" else LINEAR)
    )


def names(method: Method) -> dict[str, str]:
    """Our name of each of the method's own tensors -> the published key."""
    config = method.config
    depth = method.backbone.config.depth
    if config.layers not in (0, depth):
        raise CheckpointError(
            f"{TITLE} format has no place for a model with {config.layers} alignments in {depth} blocks."
        )
    pairs = pairs_of(config.interaction, config.head, depth, config.integration_layers, config.prompt_layers)
    return {ours: theirs for theirs, ours in pairs.items()}


def clip_key(name: str) -> str:
    """OpenAI's name of a tensor of CLIP -> its key in such a file."""
    return name


def _both(table: Mapping[str, str]) -> dict[str, str]:
    """Weight and bias of each."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in table.items() for kind in ("weight", "bias")}


def _norms(table: Mapping[str, str]) -> dict[str, str]:
    """The five tensors of each batch norm."""
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in table.items() for kind in kinds}


def _message(table: Mapping[str, str]) -> dict[str, str]:
    """Parts of a block's alignment, with their places."""
    return {MESSAGE + theirs: f"layers.{{}}.alignment.{ours}" for theirs, ours in table.items()}


# Published name -> ours; `{}` is the block.
LAYER = {
    **_both(
        {
            BLOCK + "{}.message_fc": "layers.{}.message",
            BLOCK + "{}.message_ln": "layers.{}.message_norm",
            BLOCK + "{}.temporal_skip_fc": "layers.{}.skip",
            BLOCK + "{}.temporal_skip_align_fc": "layers.{}.skip_aligned",
            **_message(
                {
                    "fc": "fc",
                    "conv": "temporal_conv",
                    "prediction_block.0": "prediction.convs.0.conv",
                    "prediction_block.4": "prediction.convs.1.conv",
                    "prediction_block.10": "prediction.hidden",
                    "prediction_block.12": "prediction.out",
                }
            ),
        }
    ),
    **_norms(
        _message({"prediction_block.1": "prediction.convs.0.norm", "prediction_block.5": "prediction.convs.1.norm"})
    ),
}
INTERACTION = {
    "depthwise": {
        **_both(
            _message(
                {
                    "interactive_block.0.depthwise_conv.0": "interaction.0.conv",
                    "interactive_block.0.pointwise_conv.0": "interaction.1.conv",
                    "interactive_block.1": "interaction.2.conv",
                }
            )
        ),
        **_norms(
            _message(
                {
                    "interactive_block.0.depthwise_conv.1": "interaction.0.norm",
                    "interactive_block.0.pointwise_conv.1": "interaction.1.norm",
                    "interactive_block.2": "interaction.2.norm",
                }
            )
        ),
    },
    "full": {
        **_both(_message({"interactive_block.0": "interaction.0.conv", "interactive_block.3": "interaction.1.conv"})),
        **_norms(_message({"interactive_block.1": "interaction.0.norm", "interactive_block.4": "interaction.1.norm"})),
    },
}
INTEGRATION = {
    "mit.positional_embedding": "integration.temporal_embedding",
    "mit.resblocks.{}.attn.in_proj_weight": "integration.blocks.{}.attn.qkv.weight",
    "mit.resblocks.{}.attn.in_proj_bias": "integration.blocks.{}.attn.qkv.bias",
    **_both(
        {
            f"mit.resblocks.{{}}.{theirs}": f"integration.blocks.{{}}.{ours}"
            for theirs, ours in {
                "attn.out_proj": "attn.proj",
                "ln_1": "norm1",
                "ln_2": "norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }.items()
        }
    ),
}
LINEAR = _both({"mit.classify_head.0": "head.norm", "mit.classify_head.2": "head.fc"})
PROMPTS = {
    "prompts_visual_proj": "prompts.visual_proj",
    "prompts_generator.alpha": "prompts.alpha",
    **{
        f"prompts_generator.decoder.{{}}.cross_attn.{part}_proj.weight": f"prompts.layers.{{}}.attention.{part}.weight"
        for part in "qkv"
    },
    **_both(
        {
            "prompts_visual_ln": "prompts.visual_norm",
            "prompts_generator.norm": "prompts.norm",
            "prompts_generator.decoder.{}.cross_attn.proj": "prompts.layers.{}.attention.proj",
            "prompts_generator.decoder.{}.norm1": "prompts.layers.{}.norm_query",
            "prompts_generator.decoder.{}.norm3": "prompts.layers.{}.norm_mlp",
            "prompts_generator.decoder.{}.mlp.0": "prompts.layers.{}.mlp.fc1",
            "prompts_generator.decoder.{}.mlp.3": "prompts.layers.{}.mlp.fc2",
        }
    ),
}
