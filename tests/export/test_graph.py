"""The exported graph and the program beside it do with frames what `muybridge` does: choose, resize, crop, classify."""

import itertools
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import recogniser
from muybridge.errors import BadInput
from muybridge.export import standalone
from muybridge.export.graph import Deployed
from muybridge.export.program import frames_like, trace
from muybridge.structures import Sampling, Transform
from muybridge.video import sampling, transforms

LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SETTINGS = list(itertools.product(("bilinear", "bicubic"), (True, False), ("uint8", "float", "rounded")))
PICTURES = ((48, 64), (64, 48), (31, 97), (32, 32), (150, 190))


def noise(height, width, frames=2):
    return np.random.default_rng(height * width).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@given(
    st.sampled_from(sorted(sampling.TEST_RULES)),
    st.integers(1, 400),
    st.integers(1, 33),
    st.integers(1, 9),
    st.integers(1, 6),
)
@settings(max_examples=300, deadline=None)
def test_frames_are_chosen_as_in_the_library(rule, count, frames, stride, views):
    wanted = sampling.test_indices(count, Sampling(frames, rule, stride, views))
    assert standalone.test_indices(count, frames, rule, stride, views) == wanted


def assert_levels(found, wanted, arithmetic):
    """Equal, but for single levels where a sum lies on the edge of rounding."""
    apart = np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64)) * 255
    if arithmetic == "float":
        assert apart.max() < 0.05
    else:
        assert apart.max() < 1.01
        assert (apart > 0.01).mean() < (0.05 if arithmetic == "rounded" else 0.002)


@pytest.mark.parametrize(("interpolation", "antialias", "arithmetic"), SETTINGS)
def test_the_graph_resizes_and_crops_as_the_library(interpolation, antialias, arithmetic):
    for (height, width), crops in itertools.product(PICTURES, (1, 3)):
        for rounding, steps, size, short in (("floor", "ends", (32, 32), 40), ("half_up", "even", (24, 36), 0)):
            transform = Transform(
                size=size,
                resize=short,
                rounding=rounding,
                crop_steps=steps,
                interpolation=interpolation,
                antialias=antialias,
                arithmetic=arithmetic,
                **LEVELS,
            )
            frames = noise(height, width)
            graph = Deployed(torch.nn.Identity(), transform, crops, single=False, resize=True)
            video = torch.from_numpy(frames)[None].permute(0, 1, 4, 2, 3).float()
            assert_levels(graph._crops_of(video)[0] / 255, transforms.test_video(frames, transform, crops), arithmetic)


@pytest.mark.parametrize(("interpolation", "antialias", "arithmetic"), [one for one in SETTINGS if one[2] != "float"])
def test_the_program_resizes_and_crops_as_the_library(interpolation, antialias, arithmetic):
    for (height, width), crops in itertools.product(PICTURES, (1, 3)):
        for rounding, steps in (("floor", "ends"), ("int", "even")):
            transform = Transform(
                size=(32, 32),
                resize_single=36,
                rounding=rounding,
                crop_steps=steps,
                interpolation=interpolation,
                antialias=antialias,
                arithmetic=arithmetic,
                **LEVELS,
            )
            frames = noise(height, width)
            single = crops == 1
            cut = standalone.cut_crops(frames, asdict(transform), crops, single)
            wanted = transforms.test_video(frames, transform, crops, single).permute(0, 1, 3, 4, 2)
            assert_levels(np.stack(cut) / 255, wanted, arithmetic)


def test_bytes_are_resized_to_the_bit():
    transform = Transform(size=(32, 32), **LEVELS)
    for height, width in PICTURES:
        frames = noise(height, width)
        wanted = (transforms.test_video(frames, transform, 1) * 255).round().permute(0, 1, 3, 4, 2)
        np.testing.assert_array_equal(standalone.cut_crops(frames, asdict(transform), 1, True)[0], wanted[0])


@pytest.mark.parametrize("resize", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_traced_graph_takes_any_batch_and_any_size(resize):
    model = recogniser("probe")
    transform = model.spec.transform
    graph = Deployed(model.method, transform, 3 if resize else 1, resize=resize).eval()
    program = trace(graph, frames_like(4, (32, 32), resize), resize).module()
    for batch, size in ((1, (32, 32)), (4, (32, 32)), *(((2, (50, 41)), (2, (41, 70))) if resize else ())):
        frames = noise(*size, frames=batch * 4).reshape(batch, 4, *size, 3)
        found = program(torch.from_numpy(frames))
        crops = [transforms.test_video(video, transform, graph.crops, single=False) for video in frames]
        with torch.no_grad():
            logits = model.method(torch.cat(crops)).logits
        wanted = logits.softmax(-1).unflatten(0, (batch, -1)).mean(1)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_crops_that_do_not_exist():
    with pytest.raises(BadInput, match="crops is 2; expected 1"):
        Deployed(torch.nn.Identity(), Transform(), crops=2)


def test_a_rule_that_the_program_does_not_know():
    with pytest.raises(ValueError, match="'sideways'"):
        standalone.test_indices(10, 4, "sideways", 1, 1)
