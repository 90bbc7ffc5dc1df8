"""Every published recipe trains as it stands, on videos of ours and a tiny backbone."""

import json
from dataclasses import replace

import pytest

from muybridge.engine.progress import Progress
from muybridge.engine.train import train
from muybridge.recipes import check, published_recipe, recipe_names
from muybridge.testing.tiny import random_backbone, tiny_backbones

# What a backbone of 48 channels and 3 heads asks for, and no text tower.
OPTIONS = {
    "evl": {"width": 48, "heads": 3, "layers": 2},
    "ila": {"head": "linear"},
    "dist": {"head": "linear", "width": 48, "temporal_width": 12, "pooling_layers": 2},
    "zeroi2v": {"shifts": "-1:16,+1:16"},
}


class Said(Progress):
    """Keeps the lines."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def small(name, videos):
    """The recipe with everything but sizes as published."""
    recipe = published_recipe(name).recipe
    transform = replace(recipe.transform, size=(32, 32), resize=32)
    for field in ("resize_single", "train_resize"):
        if getattr(transform, field):
            transform = replace(transform, **{field: 40})
    if transform.swap_labels:
        transform = replace(transform, swap_labels=((0, 1),))
    return replace(
        recipe,
        backbone="custom",
        data=str(videos),
        options={**recipe.options, **OPTIONS[recipe.method]},
        sampling=replace(recipe.sampling, frames=4, stride=2),
        transform=transform,
        train=replace(recipe.train, epochs=1, batch_size=8, accumulate=1, workers=0, precision="fp32", warmup=0),
    )


def kinds():
    """One recipe of each combination of method, transform, and mixing."""
    chosen = {}
    for name in recipe_names():
        recipe = published_recipe(name).recipe
        check(recipe)
        transform = replace(recipe.transform, size=(0, 0), resize=0, resize_single=0, train_resize=0)
        chosen.setdefault((recipe.method, transform, recipe.options.get("head")), name)
    return list(chosen.values())


@pytest.mark.parametrize("name", kinds())
def test_published_recipe_trains_two_steps(name, videos, tmp_path):
    recipe, said = small(name, videos), Said()
    result = train(recipe, tmp_path / "run", backbone=random_backbone(tiny_backbones()["clip"]), progress=said)
    mirrored = "A mirrored video has the other label of its pair: closing <-> falling."
    assert (mirrored in said.lines) == bool(recipe.transform.swap_labels)
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert 0 < line["loss"] < 100
    assert line["unreadable"] == 0
    assert len(result.evaluation.labels) == 9
