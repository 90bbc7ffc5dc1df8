"""The authors' own checkpoint formats, read strictly and written back bit for bit. One file a format."""

from __future__ import annotations

from types import ModuleType

from muybridge.published import dist, evl, ila, zeroi2v

# Each module has `TITLE`, `CLIP_INSIDE`, `matches(keys)`, `read(state, told) -> Published`, `names(method)`,
# `clip_key(name)`.
FORMATS: dict[str, ModuleType] = {"dist": dist, "evl": evl, "ila": ila, "zeroi2v": zeroi2v}

# Under which name the authors' training codes put the state dict into their files.
WRAPPERS = {"evl": "model", "ila": "model", "dist": "model_state", "zeroi2v": "state_dict"}
