"""Name tables: what each library calls the parts of an image transformer and of its text tower.

A line of a table reads `theirs  ours  change`: one key of theirs, our key for it, and what is done to the numbers on
the way (`CHANGES`; nothing if left out). One column alone: both have the same name. `{}` is the number of the block,
`.*` stands for `.weight` and `.bias`, `<q,k,v>_proj` for three keys and `a+b` for two. Ours are timm's names
(`vit.py`, `text.py`).

Names of transformers, open_clip, timm and Facebook were read from files that these libraries wrote (transformers 5
calls some parts otherwise in memory: `hf_dinov2_memory`; and its `CLIPVisionModel` and `SiglipVisionModel` leave the
prefix out that those of transformers 4 and the whole models have: `hf_clip_tower`, `hf_siglip_tower`).
`tests/backbones` converts a file of each, there and back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """`theirs` (one key or several) hold what `ours` (one key or several) hold, after `change`."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    change: str = "same"


@dataclass(frozen=True)
class Aside:
    """A key that is no weight of a tower: kept aside as it is, so that the way back is exact.

    Attributes:
        theirs: their key.
        name: what we call it, the same for all families.
        shapes: which shapes it may have; N and L are the positions of image and text, D the width.
        needed: in every file (`always`), in files with a text tower (`text`), or not in all files (`never`).
    """

    theirs: str
    name: str
    shapes: tuple[tuple[int | str, ...], ...] = ((),)
    needed: Literal["always", "text", "never"] = "text"


@dataclass(frozen=True)
class Family:
    """One library's layout.

    Attributes:
        title: what to call a file of it.
        vision: rows of the image tower.
        text: rows of the text tower.
        aside: keys that belong to no tower.
        fixed: fields of `ViTConfig` that are so in every file of the family.
        projection: whether files have an image projection.
        norm_eps: of every norm; None: it depends (`convert.py`).
        activation: None: files of this family differ, and only the model's name tells.
        heads_of_64: published models have width // 64 heads.
        antialias: how the library resizes positions; None: only where there are registers.
        position_offset: see `ViTConfig`; of models without registers.
    """

    title: str
    vision: tuple[Row, ...]
    text: tuple[Row, ...] = ()
    aside: tuple[Aside, ...] = ()
    fixed: dict[str, object] = field(default_factory=dict)
    projection: Literal["always", "maybe", "never"] = "never"
    norm_eps: float | None = 1e-6
    activation: str | None = None
    heads_of_64: bool = False
    antialias: bool | None = True
    position_offset: float = 0.0


@dataclass(frozen=True)
class Change:
    """What happens to the numbers on the way to ours, and back; both take and give as many tensors as names."""

    forth: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    back: Callable[[Sequence[Tensor]], Sequence[Tensor]]


def _query_and_rest(stack: Tensor) -> Sequence[Tensor]:
    third = stack.shape[0] // 3
    return stack.split((third, stack.shape[0] - third))


CHANGES = {
    "same": Change(lambda t: t, lambda o: o),
    "token": Change(lambda t: [t[0][None, None]], lambda o: [o[0][0, 0]]),  # [D] <-> [1, 1, D]
    "table": Change(lambda t: [t[0][None]], lambda o: [o[0][0]]),  # [N, D] <-> [1, N, D]
    "transposed": Change(lambda t: [t[0].T.contiguous()], lambda o: [o[0].T.contiguous()]),  # x @ W <-> a Linear's W
    "stacked": Change(lambda t: [torch.cat(list(t))], lambda o: o[0].chunk(3)),  # q, k, v <-> one stack
    "q|kv": Change(lambda t: _query_and_rest(t[0]), lambda o: [torch.cat(list(o))]),  # one stack <-> q and stacked k, v
}


def _table(text: str, prefix: str = "") -> tuple[Row, ...]:
    """The rows that `text` describes (see the module's docstring), `prefix` before each of their keys."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        columns = line.split()
        theirs, ours = _several(prefix + columns[0]), _several(columns[min(1, len(columns) - 1)])
        change = columns[2] if len(columns) > 2 else "same"
        for ending in (".weight", ".bias") if ours[0].endswith(".*") else ("",):
            rows.append(Row(_ended(theirs, ending), _ended(ours, ending), change))
    return tuple(rows)


def _ended(names: tuple[str, ...], ending: str) -> tuple[str, ...]:
    return tuple(name.removesuffix(".*") + ending for name in names)


def _several(name: str) -> tuple[str, ...]:
    """`a.<q,k,v>_proj` -> `a.q_proj`, `a.k_proj`, `a.v_proj`; `a+b` -> `a`, `b`."""
    start, *group = re.split("[<>]", name)
    return tuple(start + part + group[1] for part in group[0].split(",")) if group else tuple(name.split("+"))


_TIMM = """
    cls_token
    pos_embed
    patch_embed.proj.*
    blocks.{}.norm1.*
    blocks.{}.attn.qkv.*
    blocks.{}.attn.proj.*
    blocks.{}.ls1.gamma
    blocks.{}.norm2.*
    blocks.{}.mlp.fc1.*
    blocks.{}.mlp.fc2.*
    blocks.{}.ls2.gamma
    norm.*
"""

_TIMM_POOL = """
    attn_pool.latent
    attn_pool.q.*
    attn_pool.kv.*
    attn_pool.proj.*
    attn_pool.norm.*
    attn_pool.mlp.fc1.*
    attn_pool.mlp.fc2.*
"""

# OpenAI's CLIP and open_clip; both towers have these blocks.
_RESBLOCKS = """
    transformer.resblocks.{}.ln_1.*              blocks.{}.norm1.*
    transformer.resblocks.{}.attn.in_proj_weight blocks.{}.attn.qkv.weight
    transformer.resblocks.{}.attn.in_proj_bias   blocks.{}.attn.qkv.bias
    transformer.resblocks.{}.attn.out_proj.*     blocks.{}.attn.proj.*
    transformer.resblocks.{}.ln_2.*              blocks.{}.norm2.*
    transformer.resblocks.{}.mlp.c_fc.*          blocks.{}.mlp.fc1.*
    transformer.resblocks.{}.mlp.c_proj.*        blocks.{}.mlp.fc2.*
"""

_OPENAI_VISION = """
    class_embedding       cls_token                token
    positional_embedding  pos_embed                table
    conv1.weight          patch_embed.proj.weight
    ln_pre.*              norm_pre.*
    ln_post.*             norm.*
    proj                  head.weight              transposed
"""

_OPENAI_TEXT = """
    token_embedding.weight  token_embed.weight
    positional_embedding    pos_embed           table
    ln_final.*              norm.*
"""

# CLIP and SigLIP in transformers; all four towers have these blocks.
_HF_LAYERS = """
    encoder.layers.{}.layer_norm1.*              blocks.{}.norm1.*
    encoder.layers.{}.self_attn.<q,k,v>_proj.*   blocks.{}.attn.qkv.*   stacked
    encoder.layers.{}.self_attn.out_proj.*       blocks.{}.attn.proj.*
    encoder.layers.{}.layer_norm2.*              blocks.{}.norm2.*
    encoder.layers.{}.mlp.fc1.*                  blocks.{}.mlp.fc1.*
    encoder.layers.{}.mlp.fc2.*                  blocks.{}.mlp.fc2.*
    embeddings.position_embedding.weight         pos_embed              table
"""

_HF_CLIP_VISION = """
    embeddings.class_embedding         cls_token                token
    embeddings.patch_embedding.weight  patch_embed.proj.weight
    pre_layrnorm.*                     norm_pre.*
    post_layernorm.*                   norm.*
"""

_HF_SIGLIP_VISION = """
    embeddings.patch_embedding.*   patch_embed.proj.*
    post_layernorm.*               norm.*
    head.probe                     attn_pool.latent
    head.attention.in_proj_weight  attn_pool.q.weight+attn_pool.kv.weight  q|kv
    head.attention.in_proj_bias    attn_pool.q.bias+attn_pool.kv.bias      q|kv
    head.attention.out_proj.*      attn_pool.proj.*
    head.layernorm.*               attn_pool.norm.*
    head.mlp.fc1.*                 attn_pool.mlp.fc1.*
    head.mlp.fc2.*                 attn_pool.mlp.fc2.*
"""

_HF_TEXT = """
    embeddings.token_embedding.weight  token_embed.weight
    final_layer_norm.*                 norm.*
"""

_HF_DINOV2 = """
    embeddings.cls_token                         cls_token
    embeddings.register_tokens                   reg_token
    embeddings.position_embeddings               pos_embed
    embeddings.patch_embeddings.projection.*     patch_embed.proj.*
    encoder.layer.{}.norm1.*                     blocks.{}.norm1.*
    encoder.layer.{}.layer_scale1.lambda1        blocks.{}.ls1.gamma
    encoder.layer.{}.norm2.*                     blocks.{}.norm2.*
    encoder.layer.{}.mlp.fc1.*                   blocks.{}.mlp.fc1.*
    encoder.layer.{}.mlp.fc2.*                   blocks.{}.mlp.fc2.*
    encoder.layer.{}.layer_scale2.lambda1        blocks.{}.ls2.gamma
    layernorm.*                                  norm.*
"""

_HF_DINOV2_FILE = """
    encoder.layer.{}.attention.attention.<query,key,value>.*  blocks.{}.attn.qkv.*   stacked
    encoder.layer.{}.attention.output.dense.*                 blocks.{}.attn.proj.*
"""

_HF_DINOV2_MEMORY = """
    encoder.layer.{}.attention.<q,k,v>_proj.*  blocks.{}.attn.qkv.*   stacked
    encoder.layer.{}.attention.o_proj.*        blocks.{}.attn.proj.*
"""

_PLAIN = {"pre_norm": False, "layer_scale": False, "class_token": True, "position_prefix": True, "pool": "token"}
_CLIP = _PLAIN | {"pre_norm": True, "patch_bias": False, "projection_bias": False}
_SIGLIP = _PLAIN | {"class_token": False, "position_prefix": False, "pool": "map"}
_DINOV2 = _PLAIN | {"layer_scale": True}

_SCALE = Aside("logit_scale", "logit_scale", ((), (1,)))
_BIAS = Aside("logit_bias", "logit_bias", ((), (1,)))

_OPENCLIP = Family(
    title="an OpenCLIP file",
    vision=_table(_OPENAI_VISION + _RESBLOCKS, "visual."),
    text=_table(_OPENAI_TEXT + _RESBLOCKS + "text_projection head.weight transposed"),
    aside=(_SCALE, Aside("logit_bias", "logit_bias", ((), (1,)), "never")),
    fixed=_CLIP,
    projection="always",
    norm_eps=1e-5,
)

_HF_CLIP_FAMILY = Family(
    title="a CLIP file of transformers",
    vision=_table(_HF_LAYERS + _HF_CLIP_VISION, "vision_model.") + _table("visual_projection.weight head.weight"),
    text=_table(_HF_LAYERS + _HF_TEXT, "text_model.") + _table("text_projection.weight head.weight"),
    aside=(
        _SCALE,
        Aside("vision_model.embeddings.position_ids", "vision_position_ids", ((1, "N"),), "never"),
        Aside("text_model.embeddings.position_ids", "text_position_ids", ((1, "L"),), "never"),
    ),
    fixed=_CLIP,
    projection="maybe",
    norm_eps=1e-5,
    antialias=False,
)

_HF_SIGLIP_FAMILY = Family(
    title="a SigLIP file of transformers",
    vision=_table(_HF_LAYERS + _HF_SIGLIP_VISION, "vision_model."),
    text=_table(_HF_LAYERS + _HF_TEXT + "head.* head.*", "text_model."),
    aside=(_SCALE, _BIAS),
    fixed=_SIGLIP,
    activation="gelu_tanh",
    antialias=False,
)

_HF_DINOV2_FAMILY = Family(
    title="a Dinov2 file of transformers",
    vision=_table(_HF_DINOV2 + _HF_DINOV2_FILE),
    aside=(Aside("embeddings.mask_token", "mask_token", ((1, "D"),), "never"),),
    fixed=_DINOV2,
    activation="gelu",
    heads_of_64=True,
    antialias=None,
)

# Where two families know all keys of a file, it is of the first.
FAMILIES: dict[str, Family] = {
    "timm": Family(
        title="a file of timm's VisionTransformer",
        vision=_table(_TIMM + "reg_token \n norm_pre.* \n head.*" + _TIMM_POOL),
        projection="maybe",
        norm_eps=None,
    ),
    "facebook_dinov2": Family(
        title="a DINOv2 file of Facebook's",
        vision=_table(_TIMM + "register_tokens reg_token"),
        aside=(Aside("mask_token", "mask_token", ((1, "D"),), "always"),),
        fixed=_DINOV2,
        activation="gelu",
        heads_of_64=True,
        antialias=None,
        position_offset=0.1,
    ),
    "openclip": _OPENCLIP,
    # What a video model keeps of CLIP's image tower when it does not use the projection; others are recognised first.
    "openclip_tower": replace(
        _OPENCLIP,
        title="CLIP's image tower without its projection",
        text=(),
        aside=(),
        projection="never",
    ),
    "openai": replace(
        _OPENCLIP,
        title="an archive of OpenAI's CLIP",
        aside=(
            _SCALE,
            Aside("input_resolution", "input_resolution", needed="always"),
            Aside("context_length", "context_length", needed="always"),
            Aside("vocab_size", "vocab_size", needed="always"),
        ),
        activation="quick_gelu",
        heads_of_64=True,
    ),
    "openclip_timm": Family(
        title="an OpenCLIP file with timm's image tower",
        vision=_table(_TIMM + _TIMM_POOL, "visual.trunk."),
        text=_table(_OPENAI_TEXT + _RESBLOCKS + "text_projection.* head.*", "text."),
        aside=(_SCALE, _BIAS),
        fixed=_SIGLIP,
    ),
    "hf_clip": _HF_CLIP_FAMILY,
    "hf_clip_tower": replace(
        _HF_CLIP_FAMILY,
        title="a CLIPVisionModel of transformers 5",
        vision=_table(_HF_LAYERS + _HF_CLIP_VISION),
        text=(),
        aside=(),
        projection="never",
    ),
    "hf_siglip": _HF_SIGLIP_FAMILY,
    "hf_siglip_tower": replace(
        _HF_SIGLIP_FAMILY,
        title="a SiglipVisionModel of transformers 5",
        vision=_table(_HF_LAYERS + _HF_SIGLIP_VISION),
        text=(),
        aside=(),
    ),
    "hf_dinov2": _HF_DINOV2_FAMILY,
    "hf_dinov2_memory": replace(
        _HF_DINOV2_FAMILY,
        title="a Dinov2 model of transformers 5, by the names it has in memory",
        vision=_table(_HF_DINOV2 + _HF_DINOV2_MEMORY),
    ),
}

# Parts of keys that tell of models which the open ViT is not.
UNSUPPORTED = {
    "mlp.w12": "a gated MLP (SwiGLU, as in DINOv2 giant)",
    "mlp.weights_in": "a gated MLP (SwiGLU, as in DINOv2 giant)",
    "mlp.gate_proj": "a gated MLP (SwiGLU)",
    "mlp.fc1_g": "a gated MLP (EVA)",
    "attn.q_norm": "normed queries and keys",
    "attn.rope": "rotary positions",
    "rope_embed": "rotary positions (DINOv3)",
    "fc_norm": "average pooling with a norm behind it",
    "dist_token": "a distillation token (DeiT)",
    "attnpool": "a convolutional CLIP (ResNet)",
    "decoder_blocks": "a masked autoencoder with its decoder",
}
