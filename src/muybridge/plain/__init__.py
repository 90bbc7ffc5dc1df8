"""The methods as their papers write them: slower twins of the fast ones, with the same parameters.

A twin proves a fast path equal (values and gradients), runs a reference case with `--plain`, and is what
`muybridge info` counts, as the published figures count the published arithmetic.
"""

from __future__ import annotations

from muybridge.methods.base import Method, text_head
from muybridge.plain.dist import PlainDiST
from muybridge.plain.evl import PlainEVL
from muybridge.plain.ila import PlainILA
from muybridge.plain.zeroi2v import PlainZeroI2V

PLAIN: dict[str, type[Method]] = {"dist": PlainDiST, "evl": PlainEVL, "ila": PlainILA, "zeroi2v": PlainZeroI2V}


def plain_twin(name: str, method: Method) -> Method:
    """A plain twin of `method`, called `name` in `METHODS`: parameters copied, backbone shared, the same mode."""
    kind = PLAIN[name]
    head = text_head(method)
    labels = {"label_features": head.features} if head is not None else {}
    twin = kind(method.backbone, method.config, method.classes, method.frames, method.image_size, **labels)
    twin.load_own(method.own_state())
    return twin.train(method.training)
