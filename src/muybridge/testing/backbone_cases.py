"""Reference cases of image transformers and text towers: other libraries' outputs for their own state dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.backbones.convert import Converted, from_source, to_source
from muybridge.backbones.sizes import recognise
from muybridge.backbones.text import TextConfig, TextTower
from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.published.base import square
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


# What a case's `config` says of a tower -> the field of our config that must agree.
SAYS = {
    "width": "width",
    "hidden_size": "width",
    "depth": "depth",
    "num_hidden_layers": "depth",
    "layers": "depth",
    "heads": "heads",
    "num_attention_heads": "heads",
    "mlp_hidden": "mlp_hidden",
    "intermediate_size": "mlp_hidden",
    "patch": "patch",
    "patch_size": "patch",
    "image_size": "image_size",
    "class_token": "class_token",
    "registers": "registers",
    "num_register_tokens": "registers",
    "layer_scale": "layer_scale",
    "patch_bias": "patch_bias",
    "pre_norm": "pre_norm",
    "norm_eps": "norm_eps",
    "activation": "activation",
    "hidden_act": "activation",
    "projection": "projection",
    "vocab_size": "vocabulary",
    "context_length": "context",
    "max_position_embeddings": "context",
}
FEATURES = ("projection_dim", "embed_dim", "projection_size")  # width of what images and texts are compared in
# Said in words, of the published models, or of ids that the stored inputs hold already.
IN_WORDS = frozenset(
    (
        "family",
        "published",
        "mean",
        "std",
        "position_resize",
        "positions",
        "qkv",
        "pool",
        "text_mask",
        "text_pool",
        "mask",
        "pool_type",
        "no_causal_mask",
        "proj_bias",
        "norm_kwargs",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
)
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh"}


def faults(case: Case) -> list[str]:
    """What a case says that is not so, or that nothing of such a case can mean."""
    converted = convert(case)
    found = [] if case.mode == "eval" else [f"mode {case.mode}"]
    found += [f"loss {case.loss}"] if case.loss else []
    found += [f"gradient of {name}" for name in case.grads]
    found += [f"input {name}" for name in case.inputs if not name.startswith(("image", "text"))]
    plain = {name: value for name, value in case.config.items() if name not in ("vision", "text")}
    found += _disagreeing(plain | case.config.get("vision", {}), converted.config, "config")
    if "text" in case.config:
        found += _disagreeing(case.config["text"], converted.text_config, "config.text")
    return found


def _disagreeing(said: dict[str, Any], config: ViTConfig | TextConfig | None, where: str) -> list[str]:
    wrong = []
    for name, value in said.items():
        if name in IN_WORDS:
            continue
        if config is None:
            wrong.append(f"{where}.{name}")
        elif name in FEATURES:
            wrong += [] if value == (config.projection or config.width) else [f"{where}.{name}"]
        elif name in ("mlp_ratio", "head_width"):
            is_so = config.mlp_hidden / config.width if name == "mlp_ratio" else config.width // config.heads
            wrong += [] if value == is_so else [f"{where}.{name}"]
        elif name not in SAYS or not hasattr(config, SAYS[name]):
            wrong.append(f"{where}.{name}")
        else:
            is_so = getattr(config, SAYS[name])
            value = square(value) if isinstance(is_so, tuple) else ACTIVATIONS.get(value, value)
            wrong += [] if value == is_so else [f"{where}.{name}"]
    return wrong


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
