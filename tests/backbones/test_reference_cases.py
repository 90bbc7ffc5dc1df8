"""The open ViT and the text tower against what timm, open_clip, OpenAI's, Facebook's code and transformers compute."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from backbone_cases import (
    NAMES,
    TOLERANCE,
    assert_close,
    build,
    build_text,
    difference,
    reference,
)

from muybridge.backbones.sizes import recognise
from muybridge.testing.backbone_cases import image_stages, text_stages
from muybridge.testing.tiny import random_backbone, tiny_backbones

WITH_TEXT = [name for name in NAMES if "text/pooled" in reference(name).outputs]


@pytest.mark.parametrize("name", NAMES)
def test_image_tower_stage_by_stage(name):
    case = reference(name)
    vit = build(case.converted())
    compared = 0
    for key, images in case.inputs.items():
        if key.startswith("image"):
            for stage, found in image_stages(vit, images).items():
                if (output := f"{key}/{stage}") in case.outputs:
                    assert_close(found, case.outputs[output], f"{name}: {output}")
                    compared += 1
    assert compared == sum(output.startswith("image") and "/" in output for output in case.outputs)


@pytest.mark.parametrize("name", WITH_TEXT)
def test_text_tower_stage_by_stage(name):
    case = reference(name)
    found = text_stages(build_text(case.converted()), case.inputs["text"])
    wanted = {key: value for key, value in case.outputs.items() if key.startswith("text/")}
    assert len(wanted) >= 5
    for key, value in wanted.items():
        assert_close(found[key.removeprefix("text/")], value, f"{name}: {key}")


@pytest.mark.parametrize("name", WITH_TEXT)
def test_images_and_texts_compare_as_published(name):
    case = reference(name)
    converted = case.converted()
    image = F.normalize(image_stages(build(converted), case.inputs["image"])["projected"], dim=-1)
    text = F.normalize(text_stages(build_text(converted), case.inputs["text"])["projected"], dim=-1)
    assert_close(image, case.outputs["image_normalised"], f"{name}: image_normalised")
    assert_close(text, case.outputs["text_normalised"], f"{name}: text_normalised")
    logits = converted.rest["logit_scale"].exp() * image @ text.T + converted.rest.get("logit_bias", torch.zeros(()))
    assert_close(logits, case.outputs["logits_per_image"], f"{name}: logits_per_image")


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_its_steps(name):
    case = reference(name)
    vit = build(case.converted())
    with torch.no_grad():
        assert torch.equal(vit(case.inputs["image"]), image_stages(vit, case.inputs["image"])["projected"])


@pytest.mark.parametrize("name", NAMES)
def test_family_is_named_by_the_keys(name):
    assert recognise(reference(name).source) == reference(name).family


# What the source library does with positions at another size (antialias, offset).
RULES = {
    "facebook_dinov2": (False, 0.1),
    "facebook_dinov2_reg4": (True, 0.0),
    "hf_clip": (False, 0.0),
    "hf_clip_vision_projection": (False, 0.0),
    "hf_dinov2": (False, 0.0),
    "hf_dinov2_registers": (True, 0.0),
    "hf_siglip": (False, 0.0),
}


@pytest.mark.parametrize("name", NAMES)
def test_position_rule_follows_the_source_and_matters(name):
    case = reference(name)
    converted = case.converted()
    config = converted.config
    assert (config.position_antialias, config.position_offset) == RULES.get(name, (True, 0.0))
    if "image_other" not in case.inputs:
        return
    wanted = case.outputs["image_other/embedded"]
    for wrong in (
        replace(config, position_antialias=not config.position_antialias),
        replace(config, position_offset=0.1 - config.position_offset),
    ):
        found = image_stages(build(converted, wrong), case.inputs["image_other"])["embedded"]
        assert difference(found, wanted) > 100 * TOLERANCE, f"{name}: {wrong} goes unnoticed"


def test_another_grid_of_as_many_patches_is_resized_too():
    vit = random_backbone(tiny_backbones()["in21k"])  # 4 x 4
    assert torch.equal(vit.positions((4, 4)), vit.pos_embed)
    assert vit.positions((2, 8)).shape == vit.pos_embed.shape
    assert difference(vit.positions((2, 8)), vit.pos_embed) > 0.1


# Mistakes that the cases must be able to show.
MISTAKES = {
    "eps": lambda c: {"norm_eps": 1e-6 if c.norm_eps == 1e-5 else 1e-5},
    "activation": lambda c: {"activation": "gelu_tanh" if c.activation == "gelu" else "gelu"},
    "heads": lambda c: {"heads": 1},
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", NAMES)
def test_mistakes_would_be_seen(name, mistake):
    case = reference(name)
    converted = case.converted()
    wrong = build(converted, replace(converted.config, **MISTAKES[mistake](converted.config)))
    moved = max(
        difference(found, case.outputs[f"{key}/{stage}"])
        for key in ("image", "image_faint")
        for stage, found in image_stages(wrong, case.inputs[key]).items()
        if f"{key}/{stage}" in case.outputs
    )
    assert moved > 5 * TOLERANCE, f"{name}: a wrong {mistake} moves outputs by {moved:.1e} only"


@pytest.mark.parametrize("name", WITH_TEXT)
def test_a_lost_or_added_causal_mask_would_be_seen(name):
    case = reference(name)
    converted = case.converted()
    config = replace(converted.text_config, causal=not converted.text_config.causal)
    found = text_stages(build_text(converted, config), case.inputs["text"])
    assert difference(found["block0"], case.outputs["text/block0"]) > 100 * TOLERANCE
