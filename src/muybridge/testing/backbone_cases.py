"""Reference cases of image transformers and text towers: other libraries' outputs for their own state dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.backbones.convert import Converted, from_source, to_source
from muybridge.backbones.sizes import recognise
from muybridge.backbones.text import TextTower
from muybridge.backbones.vit import ViT
from muybridge.testing.cases import Case


def convert(case: Case) -> Converted:
    """The case's state dict in our names; what weights do not tell comes from its `config`."""
    image, text = case.config.get("vision", case.config), case.config.get("text", {})
    state = {key: torch.from_numpy(value) for key, value in case.state_dict.items()}
    size = image["image_size"]
    return from_source(
        state,
        recognise(state),
        heads=_heads(image),
        activation=case.config["activation"],
        norm_eps=case.config["norm_eps"],
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        text_heads=_heads(text),
    )


def _heads(tower: dict[str, Any]) -> int | None:
    return tower.get("heads") or tower.get("num_attention_heads")


def there_and_back(case: Case) -> dict[str, Tensor]:
    """The case's state dict, converted to our names and back."""
    return to_source(convert(case))


@torch.no_grad()
def run(case: Case) -> dict[str, Tensor]:
    """Everything that such a case can store: `<input>/<stage>`, and the comparison of images with texts."""
    converted = convert(case)
    vit = ViT(converted.config)
    vit.load_state_dict(converted.vision)
    vit.eval()
    found: dict[str, Tensor] = {}
    for name, value in case.inputs.items():
        if name == "text":
            continue
        stages = image_stages(vit, torch.from_numpy(value))
        found |= {
            f"{name}/{stage}": tensor[: _kept(case, f"{name}/{stage}", tensor)] for stage, tensor in stages.items()
        }
    if converted.text_config is None or converted.text is None or "text" not in case.inputs:
        return found
    tower = TextTower(converted.text_config)
    tower.load_state_dict(converted.text)
    texts = text_stages(tower.eval(), torch.from_numpy(case.inputs["text"]))
    found |= {f"text/{stage}": tensor[: _kept(case, f"text/{stage}", tensor)] for stage, tensor in texts.items()}
    image = F.normalize(image_stages(vit, torch.from_numpy(case.inputs["image"]))["projected"], dim=-1)
    text = F.normalize(texts["projected"], dim=-1)
    scale = converted.rest["logit_scale"].exp()
    logits = scale * image @ text.T + converted.rest.get("logit_bias", torch.zeros(()))
    return found | {"image_normalised": image, "text_normalised": text, "logits_per_image": logits}


def _kept(case: Case, name: str, tensor: Tensor) -> int:
    # Cases store the first images or texts of a batch of some stages.
    return len(case.outputs[name]) if name in case.outputs else len(tensor)


def image_stages(vit: ViT, images: Tensor) -> dict[str, Tensor]:
    """All that cases store of an image tower: images [N, 3, H, W] -> stage -> tensor."""
    return _stages(vit, images, vit.summary)


def text_stages(tower: TextTower, ids: Tensor) -> dict[str, Tensor]:
    """All that cases store of a text tower: ids [K, L] -> stage -> tensor."""
    return _stages(tower, ids, lambda x: tower.summary(x, ids))


@torch.no_grad()
def _stages(tower: ViT | TextTower, given: Tensor, summary: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    found = {"embedded": tower.embed(given)}
    x = found["embedded"]
    for number, block in enumerate(tower.blocks):
        found[f"block{number}"] = x = block(x)
    found["norm"] = tower.norm(x)
    found["pooled"] = summary(x)
    found["projected"] = tower.project(found["pooled"])
    return found
