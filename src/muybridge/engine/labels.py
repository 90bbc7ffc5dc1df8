"""Class names as features: what a method with a text head compares videos with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from muybridge.backbones.text import encode_labels
from muybridge.backbones.weights import Weights, load_text
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.methods import method_class
from muybridge.structures import Recipe


def label_features(recipe: Recipe, texts: Sequence[str], info: Weights | None, progress: Progress) -> Tensor | None:
    """Features of the classes from the text tower beside the backbone; None: a linear head it is.

    What happens is said: a method that could compare with texts tells which head it gets and why.

    Args:
        recipe: `method` and its option `head` (auto, text, linear), `backbone` and `weights` are read.
        texts: of the classes, in their order.
        info: of the backbone that was loaded; None: one that the table does not have.
        progress: told what happens.

    Returns:
        [K, E], not of unit length.

    Raises:
        BadInput: the head must be `text`, and there is no text tower.
    """
    kind = recipe.options.get("head", "auto")
    if not method_class(recipe.method).takes_labels or kind == "linear":
        return None
    if info is None or info.text is None:
        name = info.name if info is not None else recipe.backbone
        if kind == "text":
            raise BadInput(
                f"{recipe.method}.head is 'text', but {name} has no text tower. Take a CLIP or SigLIP backbone, or "
                f"--{recipe.method}.head linear."
            )
        progress.say(f"{name} has no text tower: {recipe.method} gets a linear head for {len(texts)} classes.")
        return None
    try:
        tower, tokenizer = load_text(info.name, recipe.weights or None)
    except BadInput as error:
        if kind == "text":
            raise
        progress.say(f"{error} So {recipe.method} gets a linear head for {len(texts)} classes.")
        return None
    progress.say(f"{recipe.method} compares videos with the texts of {len(texts)} classes, such as '{texts[0]}'.")
    return encode_labels(tower, tokenizer, texts, normalised=False)
