"""The methods, one paper a file. Adding one is a file here and a line in `METHODS`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from muybridge.backbones.vit import ViT
from muybridge.errors import BadInput, unknown
from muybridge.methods.aim import AIM
from muybridge.methods.base import Method, build_config
from muybridge.methods.dist import DiST
from muybridge.methods.evl import EVL
from muybridge.methods.ila import ILA
from muybridge.methods.probe import Probe
from muybridge.methods.st_adapter import STAdapter
from muybridge.methods.zeroi2v import ZeroI2V

METHODS: dict[str, type[Method]] = {
    "aim": AIM,
    "dist": DiST,
    "evl": EVL,
    "ila": ILA,
    "probe": Probe,
    "st_adapter": STAdapter,
    "zeroi2v": ZeroI2V,
}


def method_class(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        UnknownName: there is none; the choices are listed.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def build_method(
    name: str,
    backbone: ViT,
    classes: int,
    frames: int,
    image_size: tuple[int, int],
    options: dict[str, Any],
    label_features: Tensor | None = None,
) -> Method:
    """A method around `backbone`, with fresh parameters of its own.

    Args:
        name: a key of `METHODS`.
        backbone: the image transformer.
        classes: K.
        frames: T.
        image_size: (height, width) in pixels.
        options: fields of the method's `Config`.
        label_features: [K, E] of the class names, for methods that compare videos with them.

    Raises:
        UnknownName: no such method or option.
        BadInput: values that do not fit together.
    """
    kind = method_class(name)
    config = build_config(kind.Config, options, name)
    if kind.takes_labels:
        return kind(backbone, config, classes, frames, image_size, label_features)  # type: ignore[call-arg]
    if label_features is not None:
        raise BadInput(f"{name} has no text head; leave the label features out.")
    return kind(backbone, config, classes, frames, image_size)
