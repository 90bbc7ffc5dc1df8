"""Every published recipe tells the reader of its format what a file of that shape needs; nothing in it contradicts."""

import pytest
import torch

from muybridge.backbones.convert import Converted, to_source
from muybridge.backbones.text import TextTower
from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import BACKBONES
from muybridge.errors import BadInput
from muybridge.loading import _fitting
from muybridge.methods import build_method
from muybridge.published import FORMATS
from muybridge.published.assemble import read_published
from muybridge.recipes import published_recipe, recipe_names


def file_of(name):
    """Keys and shapes of such a published file, filled with a single zero."""
    entry = published_recipe(name)
    recipe, weights = entry.recipe, BACKBONES[entry.recipe.backbone]
    with torch.device("meta"):
        vit = ViT(weights.config)
        size, frames = recipe.transform.size, recipe.sampling.frames
        method = build_method(recipe.method, vit, entry.classes, frames, size, recipe.options)
        text = TextTower(weights.text) if recipe.options.get("head") == "text" else None
    form = FORMATS[recipe.method]
    own = method.own_state()
    shapes = {theirs: own[ours] for ours, theirs in form.names(method).items()}
    if form.CLIP_INSIDE:
        rest = {"logit_scale": torch.zeros((), device="meta")}
        words = text.state_dict() if text else None
        tower = Converted("openclip", vit.config, vit.state_dict(), weights.text if text else None, words, rest)
        clip = {form.clip_key(key): tensor for key, tensor in to_source(tower, "openclip").items()}
        shapes |= {key: tensor for key, tensor in clip.items() if key is not None and (text or key != "logit_scale")}
    return {key: torch.zeros((), dtype=meta.dtype).expand(meta.shape) for key, meta in shapes.items()}


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in recipe_names() if "vitl14" in name]
SMALL = [name for name in recipe_names() if "vitl14" not in name]


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_the_recipe_says_what_the_tensors_do_not(name):
    entry = published_recipe(name)
    state = file_of(name)
    published = read_published(state, entry.recipe.options)
    assert published.method == entry.recipe.method
    assert published.frames in (None, entry.recipe.sampling.frames)
    assert published.classes in (None, entry.classes)
    for option, value in entry.recipe.options.items():
        if value or option in ("scale", "dropout"):  # what is 0 or empty stands for what the backbone or the file has
            assert getattr(published.config, option) == value, option


@pytest.mark.parametrize("name", ["evl_vitb16_k400_8f", "zeroi2v_vitb16_k400_8f"])
def test_without_a_recipe_it_is_asked_for(name):
    state = file_of(name)
    with pytest.raises(BadInput, match="do not tell"):
        read_published(state)
    assert name in _fitting(state, published_recipe(name).recipe.method)
