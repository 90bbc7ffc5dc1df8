"""What the keys and shapes of a state dict tell: its library, and the sizes of the model.

    recognise(state_dict)                            # 'hf_clip'
    what_weights_tell(state_dict)["depth"]           # 12; fields of `ViTConfig`

The number of heads and the activation cannot be read off weights. They are told here only where all published models
of a library agree (OpenAI, DINOv2).
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from muybridge.backbones.names import FAMILIES, UNSUPPORTED, Row
from muybridge.errors import CheckpointError, shape_text, unknown

# What training codes and compilers put before all keys.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "teacher.", "student.")

Shape = tuple[int, ...]


def recognise(state_dict: Mapping[str, object]) -> str:
    """The family whose tables know most of the keys, at least half of them.

    Raises:
        CheckpointError: no family does; the message names the first keys.
    """
    keys = stripped(state_dict)
    known = {name: sum(pattern(key) in _keys_of(name) for key in keys) for name in FAMILIES}
    best = max(known, key=known.__getitem__)
    if not keys or known[best] * 2 < len(keys):
        first = ", ".join(list(state_dict)[:4]) or "none"
        layouts = ", ".join(layout.title for layout in FAMILIES.values())
        raise CheckpointError(
            f"These {len(keys)} keys are of no known layout (first: {first}).{reason(keys)} Known: {layouts}."
        )
    return best


def what_weights_tell(
    state_dict: Mapping[str, Tensor], family: str | None = None, image_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The fields of `ViTConfig` that a state dict tells; `heads` and `activation` only where the family is sure.

    Args:
        state_dict: their keys.
        family: a key of `FAMILIES`; by default `recognise` tells.
        image_size: (height, width) in pixels of the position table; by default a square of whole patches.

    Raises:
        CheckpointError: a key that tells a size is missing or misshapen, or the table is not square.
        UnknownName: there is no such family.
    """
    family = family or recognise(state_dict)
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    layout = FAMILIES[family]
    source = stripped(state_dict)
    sizes = Sizes(layout.title, layout.vision, source)
    told: dict[str, Any] = dict(layout.fixed) or _timm_shape(sizes)
    told["width"] = sizes.vote(("blocks.{}.norm1.weight", 0), ("blocks.{}.norm2.weight", 0))
    told["depth"] = sizes.depth
    told["mlp_hidden"] = sizes.vote(("blocks.{}.mlp.fc1.bias", 0), ("blocks.{}.mlp.fc1.weight", 0))
    told["patch"] = patch = sizes.shape("patch_embed.proj.weight", 4)[2:]
    told["registers"] = registers = sizes.shape("reg_token", 3)[1] if sizes.has("reg_token") else 0
    has_projection = layout.projection == "always" or (
        layout.projection == "maybe" and (sizes.has("head.weight", "head.bias") or has_text(family, source))
    )
    told["projection"] = sizes.features() if has_projection else 0
    told["norm_eps"] = layout.norm_eps or (1e-5 if told["pre_norm"] else 1e-6)
    told["position_antialias"] = registers > 0 if layout.antialias is None else layout.antialias
    told["position_offset"] = 0.0 if registers else layout.position_offset
    rows = sizes.positions() - int(told["position_prefix"])
    side = math.isqrt(rows)
    told["image_size"] = image_size or (side * patch[0], side * patch[1])
    if rows != (told["image_size"][0] // patch[0]) * (told["image_size"][1] // patch[1]):
        prefix = "a class row and " if told["position_prefix"] else ""
        expected = f"those of {image_size[0]}x{image_size[1]} px" if image_size else "a square (or give image_size)"
        hint = " Or reg_token is missing." if family == "timm" and told["class_token"] and not registers else ""
        raise CheckpointError(
            f"{sizes.name('pos_embed')} has {sizes.positions()} rows; expected {prefix}{expected}.{hint}"
        )
    if layout.heads_of_64 and told["width"] % 64 == 0:
        told["heads"] = told["width"] // 64
    plain_timm = family == "timm" and not told["pre_norm"] and told["pool"] == "token"
    if layout.activation or plain_timm:
        told["activation"] = layout.activation or "gelu"
    return told


class Sizes:
    """Sizes of one tower, read off the shapes of their keys and asked for by our names."""

    def __init__(self, title: str, rows: Sequence[Row], source: Mapping[str, Tensor]) -> None:
        self._title = title
        self._rows = {row.ours[0]: row for row in rows}
        self._shapes = {key: tuple(tensor.shape) for key, tensor in source.items()}
        patterns = {key for row in rows for key in row.theirs}
        numbers = Counter(number_of(key) for key in source if "{}" in pattern(key) and pattern(key) in patterns)
        # A block counts if it has half the keys of the fullest: a stray key is then named as unknown, and a number
        # like 999999999 makes no model of that depth.
        self.depth = sum(count * 2 >= max(numbers.values()) for count in numbers.values())
        if not self.depth:
            raise CheckpointError(f"This looks like {title}, but it has no {self.name('blocks.{}.norm1.weight')}.")

    def name(self, ours: str) -> str:
        """Their name of a part."""
        return self._rows[ours].theirs[0]

    def has(self, *ours: str) -> bool:
        """Whether the file has any of these parts, in any block."""
        names = [self.name(part) for part in ours if part in self._rows]
        return any(pattern(key) in names for key in self._shapes)

    def shape(self, ours: str, dimensions: int) -> Shape:
        """The shape of a part that must be there and have so many dimensions."""
        shape = self._shapes.get(self.name(ours))
        if shape is None:
            raise CheckpointError(f"This looks like {self._title}, but {self.name(ours)} is missing.")
        if len(shape) != dimensions or 0 in shape:
            raise CheckpointError(
                f"This looks like {self._title}, but {self.name(ours)} is {shape_text(shape)}; "
                f"expected {dimensions} dimensions."
            )
        return shape

    def vote(self, *parts: tuple[str, int]) -> int:
        """The size along an axis that most blocks agree on, so that one misshapen key is the odd one out."""
        found = []
        for ours, axis in parts:
            for number in range(self.depth):
                shape = self._shapes.get(self.name(ours).replace("{}", str(number)), ())
                found += [shape[axis]] if len(shape) > axis else []
        if not found or min(found) < 1:
            raise CheckpointError(f"This looks like {self._title}, but {self.name(parts[0][0])} tells no size.")
        return Counter(found).most_common(1)[0][0]

    def positions(self) -> int:
        """Rows of the position table."""
        return self.shape("pos_embed", 2 if self._rows["pos_embed"].change == "table" else 3)[-2]

    def features(self) -> int:
        """Channels of the output projection."""
        return self.shape("head.weight", 2)[1 if self._rows["head.weight"].change == "transposed" else 0]


def _timm_shape(sizes: Sizes) -> dict[str, Any]:
    """What the parts of a timm file tell: timm builds all these models of one class."""
    pool = "map" if sizes.has("attn_pool.latent", "attn_pool.q.weight", "attn_pool.kv.weight") else "token"
    pre_norm = sizes.has("norm_pre.weight", "norm_pre.bias")
    return {
        "pre_norm": pre_norm,
        "patch_bias": not pre_norm,  # Reference: timm, VisionTransformer.__init__
        "layer_scale": sizes.has("blocks.{}.ls1.gamma", "blocks.{}.ls2.gamma"),
        "pool": pool,
        "class_token": pool == "token",
        # timm adds the class token's row into the token where there are registers, and drops it.
        "position_prefix": pool == "token" and not sizes.has("reg_token"),
    }


def vocabulary(state_dict: Mapping[str, Tensor], family: str) -> int | None:
    """How many token ids the text tower knows; None where the file has no text tower."""
    layout, source = FAMILIES[family], stripped(state_dict)
    if not has_text(family, source):
        return None
    return Sizes(layout.title, layout.text, source).shape("token_embed.weight", 2)[0]


def has_text(family: str, keys: Iterable[str]) -> bool:
    """Whether any of these keys is of the family's text tower."""
    patterns = {key for row in FAMILIES[family].text for key in row.theirs}
    return any(pattern(key) in patterns for key in keys)


def stripped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Without the prefixes that all keys have."""
    keys = list(state_dict)
    cut = 0
    while keys and (found := [p for p in PREFIXES if all(key.startswith(p, cut) for key in keys)]):
        cut += len(found[0])
    return {key[cut:]: value for key, value in state_dict.items()}


def pattern(key: str) -> str:
    """The key with `{}` for the number of its block."""
    return re.sub(r"\.\d+\.", ".{}.", key, count=1)


def number_of(key: str) -> str:
    """The number of the key's block; empty where there is none."""
    found = re.search(r"\.(\d+)\.", key)
    return found[1] if found else ""


def reason(keys: Iterable[str]) -> str:
    """What kind of model foreign keys tell of, as a sentence; empty if nothing is known of them."""
    keys = list(keys)
    for part, meaning in UNSUPPORTED.items():
        if any(part in key for key in keys):
            return f" This model has {meaning}, which is not supported."
    return ""


@functools.cache
def _keys_of(family: str) -> frozenset[str]:
    layout = FAMILIES[family]
    keys = {key for row in (*layout.vision, *layout.text) for key in row.theirs}
    return frozenset(keys | {aside.theirs for aside in layout.aside})
