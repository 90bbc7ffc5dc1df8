"""The authors' own checkpoint formats, read strictly and written back bit for bit. One file a format."""

from __future__ import annotations

from types import ModuleType

from muybridge.published import evl

# Each module has `TITLE`, `matches(keys)`, `read(state, told) -> Published`, `names(method)` and `clip_key(name)`.
FORMATS: dict[str, ModuleType] = {"evl": evl}
