"""The reference cases of image backbones and text towers, and what their weights do not tell."""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from muybridge.backbones.convert import Converted, from_source
from muybridge.backbones.text import TextTower
from muybridge.backbones.vit import ViT
from muybridge.testing import cases

FOLDER = Path(__file__).parents[1] / "parity" / "backbones"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "clip_tokenizer")

# Of a value's largest size. Measured differences are at most 8e-7 (other order of additions); of the mistakes one can
# make, the smallest (norm eps 1e-5 for 1e-6) moves `image_faint` by 2e-4 and `image` by 2e-5.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Reference:
    """One case: the source's state dict, inputs and outputs, as tensors."""

    name: str
    config: dict
    source: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    family: str
    hints: dict

    def converted(self, **changes) -> Converted:
        return from_source(self.source, self.family, **(self.hints | changes))


FAMILIES = {
    "facebook_dinov2": "facebook_dinov2",
    "facebook_dinov2_reg4": "facebook_dinov2",
    "hf_clip": "hf_clip",
    "hf_clip_vision_projection": "hf_clip",
    "hf_dinov2": "hf_dinov2",
    "hf_dinov2_registers": "hf_dinov2",
    "hf_siglip": "hf_siglip",
    "open_clip": "openclip",
    "open_clip_siglip": "openclip_timm",
    "openai_clip": "openai",
    "timm_clip": "timm",
    "timm_clip_quickgelu": "timm",
    "timm_dinov2": "timm",
    "timm_dinov2_reg4": "timm",
    "timm_siglip": "timm",
    "timm_vit": "timm",
}


@functools.cache
def reference(name: str) -> Reference:
    case = cases.load(FOLDER / f"{name}.json")
    image, text = case.config.get("vision", case.config), case.config.get("text", {})
    hints = {"image_size": (image["image_size"], image["image_size"])}
    if name != "openai_clip":  # of OpenAI's all is certain
        hints["heads"] = image.get("heads") or image["num_attention_heads"]
        hints["activation"] = case.config["activation"]
        if text:
            hints["text_heads"] = text.get("heads") or text["num_attention_heads"]
    return Reference(
        name=name,
        config=case.config,
        source={key: torch.from_numpy(value) for key, value in case.state_dict.items()},
        inputs={key: torch.from_numpy(value) for key, value in case.inputs.items()},
        outputs={key: torch.from_numpy(value) for key, value in case.outputs.items()},
        family=FAMILIES[name],
        hints=hints,
    )


def build(converted: Converted, config=None) -> ViT:
    vit = ViT(config or converted.config)
    vit.load_state_dict(converted.vision)
    return vit.eval()


def build_text(converted: Converted, config=None) -> TextTower:
    tower = TextTower(config or converted.text_config)
    tower.load_state_dict(converted.text)
    return tower.eval()


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return ((found[: len(wanted)] - wanted).abs().max() / wanted.abs().max()).item()


def assert_close(found: Tensor, wanted: Tensor, what: str) -> None:
    assert found.shape[1:] == wanted.shape[1:], f"{what}: {list(found.shape)}, expected {list(wanted.shape)}"
    apart, scale = difference(found, wanted), wanted.abs().max().item()
    assert apart <= TOLERANCE, (
        f"{what}: largest difference {apart * scale:.2e}, scale {scale:.3g}, allowed {TOLERANCE} of it"
    )


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    """Equal keys, dtypes and bits."""
    assert set(found) == set(wanted), f"{what}: {sorted(set(found) ^ set(wanted))}"
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, f"{what}: {key} is {found[key].dtype}, expected {tensor.dtype}"
        assert torch.equal(found[key], tensor), f"{what}: {key} differs"
