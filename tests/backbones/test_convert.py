"""Name tables: every key used once, both directions bit for bit, errors that name the key."""

from dataclasses import replace

import pytest
import torch
from backbone_cases import NAMES, assert_same, build, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from muybridge.backbones.convert import Converted, from_source, to_source
from muybridge.backbones.names import FAMILIES
from muybridge.backbones.sizes import recognise, what_weights_tell
from muybridge.backbones.text import TextTower
from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.errors import BadInput, CheckpointError, UnknownName
from muybridge.testing.backbone_cases import image_stages
from muybridge.testing.tiny import random_backbone, tiny_backbones


def numbers(*state_dicts):
    """All numbers of state dicts, sorted."""
    return torch.cat([t.double().flatten() for state in state_dicts for t in state.values()]).sort().values


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_exact_and_uses_every_number_once(name):
    case = reference(name)
    converted = case.converted()
    assert torch.equal(numbers(converted.vision, converted.text or {}, converted.rest), numbers(case.source))
    assert_same(to_source(converted), case.source, name)


@pytest.mark.parametrize("name", NAMES)
def test_ours_to_theirs_and_back_is_exact(name):
    case = reference(name)
    like = case.converted()
    generator = torch.Generator().manual_seed(1)

    def other(state_dict):
        return {key: torch.randn(tensor.shape, generator=generator) for key, tensor in state_dict.items()}

    ours = replace(like, vision=other(like.vision), text=other(like.text) if like.text else None)
    again = from_source(to_source(ours), case.family, **case.hints)
    assert again.config == ours.config
    assert again.text_config == ours.text_config
    assert_same(again.vision, ours.vision, name)
    assert_same(again.text or {}, ours.text or {}, name)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_source(name):
    case = reference(name)
    image = case.config.get("vision", case.config)
    config = case.converted().config
    assert config.width == image.get("width", image.get("hidden_size"))
    assert config.depth == image.get("depth", image.get("layers", image.get("num_hidden_layers")))
    assert config.patch == (image.get("patch", image.get("patch_size")),) * 2
    assert config.norm_eps == case.config["norm_eps"]
    assert config.registers == image.get("registers", 0)
    assert config.projection == {"timm_vit": 10, "timm_clip": 32, "timm_clip_quickgelu": 32, "open_clip": 24}.get(
        name, {"openai_clip": 40, "hf_clip": 24, "hf_clip_vision_projection": 24}.get(name, 0)
    )
    assert set(ViT(config).state_dict()) == set(case.converted().vision)


# A whole file of another kind remains if one of these is taken away, or it is in some files only.
MAY_BE_MISSING = {
    "hf_clip": {"vision_model.embeddings.position_ids", "text_model.embeddings.position_ids"},
    "hf_clip_vision_projection": {"visual_projection.weight"},  # CLIPVisionModel
    "hf_dinov2": {"embeddings.mask_token"},
    "hf_dinov2_registers": {"embeddings.mask_token", "embeddings.register_tokens"},  # Dinov2Model
    "facebook_dinov2_reg4": {"register_tokens"},  # DINOv2 without registers
}


@pytest.mark.parametrize("name", NAMES)
def test_every_missing_key_is_named(name):
    case = reference(name)
    for key in case.source:
        less = {other: value for other, value in case.source.items() if other != key}
        if key in MAY_BE_MISSING.get(name, ()):
            from_source(less, case.family, **case.hints)
            continue
        with pytest.raises(CheckpointError) as caught:
            from_source(less, case.family, **case.hints)
        assert key in str(caught.value), f"{key} is missing, but: {caught.value}"


@pytest.mark.parametrize("name", NAMES)
def test_every_unknown_key_is_named(name):
    case = reference(name)
    for key in ["strange", *(f"{key}_too" for key in case.source), "visual.transformer.resblocks.0.ln_3.weight"]:
        with pytest.raises(CheckpointError, match=r"1 unknown") as caught:
            from_source(case.source | {key: torch.zeros(2)}, case.family, **case.hints)
        assert key in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_a_further_block_is_unknown(name):
    case = reference(name)
    key = next(key for key in case.source if ".0." in key).replace(".0.", ".999999999.")
    with pytest.raises(CheckpointError, match=r"differ: 1 unknown") as caught:
        from_source(case.source | {key: torch.zeros(2)}, case.family, **case.hints)
    assert key in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_other_dimensions_is_named(name):
    case = reference(name)
    for key, tensor in case.source.items():
        with pytest.raises(CheckpointError) as caught:
            from_source(case.source | {key: tensor[None, None]}, case.family, **case.hints)
        assert key in str(caught.value), f"{key} is misshapen, but: {caught.value}"


# Whose first axis is free: another vocabulary, context or number of classes is another model, not a damaged one.
MAY_BE_LONGER = ("token_embed", "text_model.embeddings.position_embedding.weight", "visual_projection.weight")


@pytest.mark.parametrize("name", NAMES)
def test_every_key_with_a_row_too_much_is_named(name):
    case = reference(name)
    for key, tensor in case.source.items():
        if not tensor.ndim or any(part in key for part in MAY_BE_LONGER):
            continue
        if key in ("positional_embedding", "text.positional_embedding"):
            continue
        longer = case.source | {key: torch.cat([tensor, tensor[:1]])}
        with pytest.raises(CheckpointError) as caught:
            from_source(longer, case.family, **case.hints)
        # Of a classifier's weight and bias either may be the odd one.
        assert (key if not key.startswith("head.") else "head.") in str(caught.value), f"{key}: {caught.value}"


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_query_key_and_value_lie_where_attention_reads_them(part):
    # No output can tell that a key bias is lost or misplaced: it adds the same to all scores of a query. So look.
    case = reference("hf_dinov2")
    ours = case.converted().vision
    at = slice(48 * ("query", "key", "value").index(part), 48 * (("query", "key", "value").index(part) + 1))
    for number in range(2):
        theirs = f"encoder.layer.{number}.attention.attention.{part}"
        assert torch.equal(ours[f"blocks.{number}.attn.qkv.bias"][at], case.source[f"{theirs}.bias"])
        assert torch.equal(ours[f"blocks.{number}.attn.qkv.weight"][at], case.source[f"{theirs}.weight"])
    case = reference("hf_siglip")
    converted = case.converted()
    for tower, state_dict in (("vision_model", converted.vision), ("text_model", converted.text)):
        theirs = f"{tower}.encoder.layers.1.self_attn.{part[0]}_proj.bias"
        assert torch.equal(state_dict["blocks.1.attn.qkv.bias"][at], case.source[theirs])


def test_query_key_and_value_of_the_pooling_head():
    case = reference("hf_siglip")
    ours, stack = case.converted().vision, case.source["vision_model.head.attention.in_proj_bias"]
    assert torch.equal(ours["attn_pool.q.bias"], stack[:48])
    assert torch.equal(ours["attn_pool.kv.bias"], stack[48:])


def test_zeroing_the_key_bias_changes_no_output():
    # Why the two tests above exist.
    case = reference("timm_vit")
    converted = case.converted()
    wrong = {key: tensor.clone() for key, tensor in converted.vision.items()}
    for number in range(2):
        wrong[f"blocks.{number}.attn.qkv.bias"][48:96] = 0
    before = image_stages(build(converted), case.inputs["image"])["pooled"]
    after = image_stages(build(replace(converted, vision=wrong)), case.inputs["image"])["pooled"]
    assert (before - after).abs().max() < 1e-5


# --- from one library to another ----------------------------------------------------------------------------

ACROSS = [
    ("openai_clip", "openclip"),
    ("openai_clip", "hf_clip"),
    ("open_clip", "hf_clip"),
    ("open_clip", "openai"),
    ("hf_clip", "openclip"),
    ("open_clip_siglip", "hf_siglip"),
    ("hf_siglip", "openclip_timm"),
    ("timm_siglip", "hf_siglip"),
    ("hf_siglip", "hf_siglip_tower"),
    ("hf_dinov2", "hf_dinov2_memory"),
    ("hf_dinov2", "facebook_dinov2"),
    ("hf_dinov2", "timm"),
    ("hf_dinov2_registers", "facebook_dinov2"),
    ("facebook_dinov2", "timm"),
    ("facebook_dinov2_reg4", "hf_dinov2"),
    ("timm_dinov2", "hf_dinov2"),
]


@pytest.mark.parametrize(("name", "family"), ACROSS)
def test_into_another_library_and_back(name, family):
    case = reference(name)
    converted = case.converted()
    if not FAMILIES[family].text:
        converted = replace(converted, text=None, text_config=None)
    theirs = to_source(converted, family)
    # timm and Facebook, OpenAI and OpenCLIP differ in keys that are no weights only.
    assert recognise(theirs) == family
    hints = {"heads": converted.config.heads, "activation": converted.config.activation}
    if converted.text_config:
        hints["text_heads"] = converted.text_config.heads
    again = from_source(theirs, family, image_size=converted.config.image_size, **hints)
    assert_same(again.vision, converted.vision, f"{name} by way of {family}")
    assert_same(again.text or {}, converted.text or {}, f"{name} by way of {family}")
    assert replace(again.config, position_antialias=True, position_offset=0.0) == replace(
        converted.config, position_antialias=True, position_offset=0.0
    )


def test_registers_of_timm_get_a_class_row_of_zeros():
    # timm has added the row into the class token; zeros give the same tokens.
    case = reference("timm_dinov2_reg4")
    converted = case.converted()
    for family in ("hf_dinov2", "facebook_dinov2"):
        theirs = to_source(converted, family)
        key = "embeddings.position_embeddings" if family == "hf_dinov2" else "pos_embed"
        assert theirs[key].shape == (1, 10, 48)
        assert not theirs[key][:, 0].any()
        again = from_source(theirs, heads=3)
        for stage, tensor in image_stages(build(again), case.inputs["image"]).items():
            assert torch.equal(tensor, image_stages(build(converted), case.inputs["image"])[stage])
        assert_same(from_source(to_source(again, "timm"), heads=3).vision, converted.vision, family)


def test_a_class_row_beside_registers_goes_into_timms_class_token():
    case = reference("facebook_dinov2_reg4")
    converted = case.converted()
    again = from_source(to_source(converted, "timm"), heads=3)
    assert again.vision["pos_embed"].shape == (1, 9, 48)
    found, wanted = (image_stages(build(c), case.inputs["image"])["pooled"] for c in (again, converted))
    assert torch.equal(found, wanted)


def test_clip_in_timm_has_a_bias_of_zeros():
    case = reference("open_clip")
    converted = replace(case.converted(), text=None, text_config=None)
    theirs = to_source(converted, "timm")
    assert not theirs["head.bias"].any()
    timm = from_source(theirs, heads=3, activation="gelu")
    assert timm.config.projection_bias
    assert_same(to_source(timm, "openclip"), to_source(replace(converted, rest={})), "by way of timm")


@pytest.mark.parametrize(
    ("name", "family", "says"),
    [
        ("timm_clip", "openclip", "not zero"),  # its bias was drawn
        ("timm_vit", "hf_clip", "pre_norm"),
        ("timm_vit", "hf_dinov2", "layer_scale"),
        ("timm_dinov2", "openclip", "pre_norm"),
        ("hf_siglip", "hf_clip", "class_token"),
        ("timm_siglip", "facebook_dinov2", "pool"),
        ("open_clip", "timm", "text tower has no place"),
        ("facebook_dinov2", "nonsense", "Unknown family"),
    ],
)
def test_what_a_library_cannot_hold_is_said(name, family, says):
    with pytest.raises((CheckpointError, UnknownName), match=says):
        to_source(reference(name).converted(), family)


@pytest.mark.parametrize("name", ["hf_clip", "hf_siglip"])
def test_an_image_model_of_transformers_5_has_no_prefix(name):
    case = reference(name)
    vision = {key: tensor for key, tensor in case.source.items() if key.startswith("vision_model.")}
    vision.pop("vision_model.embeddings.position_ids", None)  # transformers 4
    alone = {key.removeprefix("vision_model."): tensor for key, tensor in vision.items()}
    assert recognise(vision) == name
    assert recognise(alone) == f"{name}_tower"
    hints = {key: value for key, value in case.hints.items() if key != "text_heads"}
    converted = from_source(alone, **hints)
    assert converted.config == from_source(vision, **hints).config
    assert converted.config.projection == 0
    assert_same(converted.vision, from_source(vision, **hints).vision, name)
    assert_same(to_source(converted), alone, name)
    for key in alone:
        less = {other: tensor for other, tensor in alone.items() if other != key}
        with pytest.raises(CheckpointError) as caught:
            from_source(less, **hints)
        assert key in str(caught.value)
        with pytest.raises(CheckpointError, match="1 unknown") as caught:
            from_source(alone | {f"{key}_too": torch.zeros(2)}, **hints)
        assert f"{key}_too" in str(caught.value)


def test_a_text_model_of_transformers_5_is_no_image_tower():
    words = {
        key.removeprefix("text_model."): tensor
        for key, tensor in reference("hf_clip").source.items()
        if key.startswith("text_model.")
    }
    with pytest.raises(CheckpointError, match=r"patch_embedding"):
        from_source(words, heads=3, activation="gelu")


def test_names_in_the_memory_of_transformers_5():
    memory = to_source(reference("hf_dinov2").converted(), "hf_dinov2_memory")
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert f"encoder.layer.1.attention.{part}.bias" in memory
    assert not any("attention.attention" in key or "output.dense" in key for key in memory)


FITTING = {
    "clip": ("openclip", "hf_clip"),
    "dinov2": ("timm", "facebook_dinov2", "hf_dinov2", "hf_dinov2_memory"),
    "dinov2_reg4": ("facebook_dinov2", "hf_dinov2", "hf_dinov2_memory"),
    "siglip": ("timm", "openclip_timm", "hf_siglip", "hf_siglip_tower"),
    "in21k": ("timm",),
}


@given(
    kind=st.sampled_from(sorted(FITTING)),
    depth=st.integers(1, 4),
    heads=st.sampled_from([1, 2, 4]),
    patch=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    grid=st.integers(1, 4),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_size_survives_any_library(kind, depth, heads, patch, grid, data):
    config = replace(
        tiny_backbones()[kind],
        width=8,
        mlp_hidden=12,
        depth=depth,
        heads=heads,
        patch=patch,
        image_size=(patch[0] * grid, patch[1] * grid),
    )
    vision = random_backbone(config).state_dict()
    converted = Converted("ours", config, vision, None, None, {})
    family = data.draw(st.sampled_from(FITTING[kind]))
    again = from_source(to_source(converted, family), family, heads=heads, activation=config.activation)
    assert_same(again.vision, vision, f"{kind} as {family}")


# --- what weights do not tell -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("open_clip", "activation"),
        ("open_clip", "heads"),
        ("open_clip", "text_heads"),
        ("hf_clip", "activation"),
        ("hf_siglip", "heads"),
        ("timm_clip", "activation"),
        ("timm_siglip", "activation"),
        ("timm_vit", "heads"),
        ("timm_dinov2", "heads"),
    ],
)
def test_nothing_is_guessed(name, left_out):
    case = reference(name)
    hints = {key: value for key, value in case.hints.items() if key != left_out}
    with pytest.raises(BadInput, match=f"do not tell {left_out}"):
        from_source(case.source, **hints)


def test_what_is_certain_need_not_be_given():
    converted = from_source(reference("openai_clip").source)
    assert (converted.config.heads, converted.config.activation) == (2, "quick_gelu")
    assert (converted.text_config.heads, converted.text_config.activation) == (2, "quick_gelu")
    told = what_weights_tell(reference("facebook_dinov2").source)
    assert told["activation"] == "gelu"
    assert "heads" not in told  # 48 channels are no multiple of 64


def test_heads_of_64_hold_for_openai_and_dinov2_only():
    wide = replace(tiny_backbones()["dinov2"], width=128, heads=2)
    source = to_source(Converted("ours", wide, random_backbone(wide).state_dict(), None, None, {}), "facebook_dinov2")
    assert from_source(source).config.heads == 2
    with pytest.raises(BadInput, match="heads"):
        from_source({key: tensor for key, tensor in source.items() if key != "mask_token"})  # timm's layout


def test_a_table_that_is_not_square_needs_its_image_size():
    config = replace(tiny_backbones()["in21k"], image_size=(16, 24))
    source = random_backbone(config).state_dict()
    with pytest.raises(CheckpointError, match=r"pos_embed has 7 rows; expected a class row and a square"):
        from_source(source, heads=3)
    assert from_source(source, heads=3, image_size=(16, 24)).config == config
    with pytest.raises(CheckpointError, match=r"expected a class row and those of 24x24 px"):
        from_source(source, heads=3, image_size=(24, 24))


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "_orig_mod.model."])
def test_a_prefix_of_all_keys_is_ignored(prefix):
    case = reference("timm_vit")
    wrapped = {prefix + key: tensor for key, tensor in case.source.items()}
    assert recognise(wrapped) == "timm"
    assert_same(from_source(wrapped, **case.hints).vision, case.converted().vision, prefix)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding"], "convolutional CLIP"),
        (["layer1.0.conv1.weight", "bn1.weight"], r"first: layer1.0.conv1.weight, bn1.weight"),
        ([], "These 0 keys are of no known layout"),
    ],
)
def test_files_of_no_known_layout(keys, says):
    with pytest.raises(CheckpointError, match=says):
        recognise(dict.fromkeys(keys, torch.zeros(1)))


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("blocks.0.mlp.fc1_g.weight", "EVA"),
        ("blocks.0.attn.q_norm.weight", "normed queries"),
        ("fc_norm.weight", "average pooling"),
        ("dist_token", "distillation"),
    ],
)
def test_variants_that_are_not_supported_are_called_by_name(extra, says):
    case = reference("timm_vit")
    with pytest.raises(CheckpointError, match=says):
        from_source(case.source | {extra: torch.zeros(2)}, **case.hints)


def test_a_class_token_without_positions_is_no_plain_vit():
    case = reference("timm_dinov2_reg4")
    less = {key: tensor for key, tensor in case.source.items() if key != "reg_token"}
    with pytest.raises(CheckpointError, match="reg_token is missing"):
        from_source(less, heads=3)


def test_dtypes_stay_as_stored():
    case = reference("openai_clip")
    mixed = {key: t.half() if t.ndim > 1 else t for key, t in case.source.items()}
    converted = from_source(mixed)
    assert converted.vision["patch_embed.proj.weight"].dtype == torch.float16
    assert_same(to_source(converted), mixed, "mixed dtypes")


def test_numbers_that_cannot_be_stacked_or_are_not_floating_are_refused():
    case = reference("hf_dinov2")
    key = "encoder.layer.0.attention.attention.key.bias"
    with pytest.raises(CheckpointError, match="one floating type"):
        from_source(case.source | {key: case.source[key].half()}, heads=3)
    with pytest.raises(CheckpointError, match="one floating type"):
        from_source(case.source | {"layernorm.weight": torch.ones(48, dtype=torch.int8)}, heads=3)


def test_towers_must_share_their_feature_width():
    case = reference("hf_clip")
    longer = case.source | {"visual_projection.weight": torch.zeros(25, 48)}
    with pytest.raises(CheckpointError, match=r"24 channels \(text_projection.weight\), image features 25 \(visual"):
        from_source(longer, **case.hints)


def test_vision_alone_is_enough():
    case = reference("open_clip")
    vision = {key: tensor for key, tensor in case.source.items() if key.startswith("visual.")}
    converted = from_source(vision, heads=3, activation="gelu")
    assert converted.text is None
    assert_same(converted.vision, case.converted().vision, "visual.*")
    assert_same(to_source(converted), vision, "visual.*")


def test_text_tower_has_exactly_these_keys():
    converted = reference("hf_siglip").converted()
    assert set(TextTower(converted.text_config).state_dict()) == set(converted.text)


def test_config_of_a_plain_file_is_the_default_vits():
    source = random_backbone(replace(tiny_backbones()["in21k"], width=192, mlp_hidden=768)).state_dict()
    assert from_source(source, heads=3).config == ViTConfig(
        width=192, depth=2, heads=3, mlp_hidden=768, patch=(8, 8), image_size=(32, 32)
    )
