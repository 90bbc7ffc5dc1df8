"""Files that the installed transformers writes load, and give what transformers computes (pip install transformers)."""

import pytest
import torch
from backbone_cases import assert_close, build

from muybridge.backbones.convert import from_source, to_source
from muybridge.backbones.files import read_state_dict
from muybridge.backbones.sizes import recognise

SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}


def models(transformers):
    """Name -> a model of transformers with random weights, its activation."""
    clip = {"vision_config": IMAGE, "text_config": TEXT, "projection_dim": 24}
    siglip = {"vision_config": IMAGE, "text_config": {**TEXT, "projection_size": 48}}
    vision = transformers.CLIPVisionConfig(**IMAGE, projection_dim=24)
    return {
        "CLIPModel": (transformers.CLIPModel(transformers.CLIPConfig(**clip)), "quick_gelu"),
        "CLIPVisionModel": (transformers.CLIPVisionModel(vision), "quick_gelu"),
        "CLIPVisionModelWithProjection": (transformers.CLIPVisionModelWithProjection(vision), "quick_gelu"),
        "SiglipModel": (transformers.SiglipModel(transformers.SiglipConfig(**siglip)), "gelu_tanh"),
        "SiglipVisionModel": (transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**IMAGE)), "gelu_tanh"),
        "Dinov2Model": (transformers.Dinov2Model(transformers.Dinov2Config(**IMAGE)), "gelu"),
        "Dinov2WithRegistersModel": (
            transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**IMAGE)),
            "gelu",
        ),
    }


@pytest.mark.slow
def test_what_it_writes_loads_and_computes_the_same(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    families = {}
    for name, (model, activation) in models(transformers).items():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.eval().save_pretrained(tmp_path / name)
        source = read_state_dict(tmp_path / name / "model.safetensors")
        families[name] = recognise(source)
        text = {"text_heads": 3} if name in ("CLIPModel", "SiglipModel") else {}
        converted = from_source(source, heads=3, activation=activation, **text)
        assert {key: tuple(tensor.shape) for key, tensor in to_source(converted).items()} == {
            key: tuple(tensor.shape) for key, tensor in source.items()
        }
        vit = build(converted)
        with torch.no_grad():
            wanted = getattr(model, "vision_model", model)(pixel_values=images)
            x = vit.embed(images)
            for block in vit.blocks:
                x = block(x)
            # SigLIP's and DINOv2's last state is behind the norm, CLIP's before it.
            last = x if "CLIP" in name else vit.norm(x)
            assert_close(last, wanted.last_hidden_state, f"{name}, tokens")
            assert_close(vit.summary(x), wanted.pooler_output, f"{name}, pooled")
    # How transformers names them has changed once; where this fails, names.py needs another table.
    whole = {"CLIPModel": "hf_clip", "CLIPVisionModelWithProjection": "hf_clip", "SiglipModel": "hf_siglip"}
    assert {name: families[name] for name in whole} == whole
    assert families["Dinov2Model"] == families["Dinov2WithRegistersModel"] == "hf_dinov2"
    if int(transformers.__version__.partition(".")[0]) >= 5:
        assert families["CLIPVisionModel"] == "hf_clip_tower"
        assert families["SiglipVisionModel"] == "hf_siglip_tower"
