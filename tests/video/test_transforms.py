"""From frames to tensors: the published EVL's arithmetic, one draw a video, and sizes that fit."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from plainly import noise, resize_plainly

from muybridge.errors import BadInput
from muybridge.recipes import published_recipe
from muybridge.structures import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Transform
from muybridge.video import transforms
from muybridge.video.augment import random_box
from muybridge.video.sampling import generator

EVL = Transform(size=(24, 24), mean=CLIP_MEAN, std=CLIP_STD, scale=(0.08, 1.0), arithmetic="float", antialias=False)

IMAGENET = Transform(mean=IMAGENET_MEAN, std=IMAGENET_STD)


def normalise_plainly(picture, transform):
    return ((picture / 255 - np.array(transform.mean)) / np.array(transform.std)).transpose(2, 0, 1)


def assert_close(tensor, expected, tolerance=2e-5):
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    np.testing.assert_allclose(tensor.numpy(), expected, atol=tolerance, rtol=0)


# The published EVL


@pytest.mark.parametrize(("height", "width", "short", "long"), [(40, 56, 24, 33), (31, 30, 24, 24), (20, 50, 24, 60)])
@pytest.mark.parametrize("crops", [1, 3])
def test_test_video_is_evl(height, width, short, long, crops):
    frames = noise(2, height, width)
    size = (short, long) if height < width else (long, short)
    margin = max(size) - 24
    lefts = [margin // 2] if crops == 1 else [0, margin // 2, margin]
    expected = []
    for left in lefts:
        pictures = [resize_plainly(frame, *size) for frame in frames]
        cut = [picture[:, left : left + 24] if height < width else picture[left : left + 24] for picture in pictures]
        expected.append([normalise_plainly(picture, EVL) for picture in cut])
    assert_close(transforms.test_video(frames, EVL, crops), np.array(expected))


@pytest.mark.parametrize("seed", range(5))
def test_train_video_is_evl(seed):
    frames = noise()
    top, left, height, width = random_box(40, 56, EVL, generator(seed))
    expected = [
        normalise_plainly(resize_plainly(frame[top : top + height, left : left + width], 24, 24), EVL)
        for frame in frames
    ]
    assert_close(transforms.train_video(frames, EVL, generator(seed)), np.array(expected))


def test_random_box_has_the_area_and_aspect_asked_for():
    rng = generator(0)
    boxes = np.array([random_box(400, 600, replace(EVL, scale=(0.1, 0.5)), rng) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert top.min() == left.min() == 0 or (top.min() < 5 and left.min() < 5)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 400).all()
    assert (left + width <= 600).all()
    share, aspect = height * width / 240_000, width / height
    assert share.min() == pytest.approx(0.1, abs=0.005)
    assert share.max() == pytest.approx(0.5, abs=0.005)
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    assert aspect.min() == pytest.approx(0.75, abs=0.01)
    assert aspect.max() == pytest.approx(4 / 3, abs=0.01)
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(100, 400, (0, 133, 100, 133)), (400, 100, (133, 0, 133, 100)), (90, 100, (0, 0, 90, 100))],
)
def test_random_box_that_never_fits_is_central(height, width, box):
    # More area than there is: no try can fit.
    assert random_box(height, width, replace(EVL, scale=(1.5, 2.0)), generator(0)) == box


# The other published codes


@pytest.mark.parametrize(
    ("height", "width", "floor", "half_up", "whole"),
    [
        (256, 340, (224, 297), (224, 298), (224, 297)),  # 297.5
        (340, 256, (297, 224), (298, 224), (297, 224)),
        (240, 320, (224, 298), (224, 299), (224, 298)),  # 298.67
        (224, 230, (224, 230), (224, 230), (224, 229)),  # 230 / 224 * 224 falls short of 230
        (300, 300, (224, 224), (224, 224), (224, 224)),
        (360, 482, (224, 299), (224, 300), (224, 299)),  # 299.91
        (720, 1280, (224, 398), (224, 398), (224, 398)),  # 398.22
    ],
)
def test_rounding_of_the_long_side(height, width, floor, half_up, whole):
    assert transforms.scaled_size(height, width, 224, "floor") == floor
    assert transforms.scaled_size(height, width, 224, "half_up") == half_up
    assert transforms.scaled_size(height, width, 224, "int") == whole


@pytest.mark.parametrize(
    ("name", "crops", "single", "size", "lefts"),
    [
        ("evl_vitb16_k400_16f", 3, False, (224, 297), [0, 36, 73]),
        ("ila_vitb16_k400_8f", 3, False, (224, 298), [0, 37, 74]),
        ("ila_vitb16_k400_8f", 1, True, (256, 340), [58]),
        ("dist_vitb16_k400_8+16f", 1, False, (224, 297), [36]),
        ("zeroi2v_vitb16_k400_8f", 1, False, (224, 298), [37]),
        ("zeroi2v_vitb16_k400_8f", 1, True, (256, 340), [58]),
        ("zeroi2v_vitl14_ssv2_32f", 3, False, (224, 298), [0, 37, 74]),
    ],
)
def test_published_views(name, crops, single, size, lefts):
    transform = published_recipe(name).recipe.transform
    frames = noise(1, 256, 340)
    picture = resize_plainly(frames[0], *size)
    if transform.arithmetic == "rounded":
        picture = np.rint(picture)
    top = (size[0] - 224) // 2
    views = [normalise_plainly(picture[top : top + 224, left : left + 224], transform)[None] for left in lefts]
    ours = transforms.test_video(frames, transform, crops, single)
    # Halves are rounded to the even byte, in fp32 sometimes to the other.
    assert (abs(ours.numpy() - np.array(views)) > 1e-4).mean() < 2e-3


def test_views_of_an_odd_margin():
    # 240 x 322 becomes 224 x 301: a margin of 77.
    transform = published_recipe("zeroi2v_vitl14_ssv2_32f").recipe.transform
    frames = noise(1, 240, 322)
    picture = np.rint(resize_plainly(frames[0], 224, 301))
    ours = transforms.test_video(frames, transform, 3)
    ends = transforms.test_video(frames, replace(transform, crop_steps="ends"), 3)
    for views, lefts in ((ours, [0, 38, 76]), (ends, [0, 38, 77])):
        expected = [normalise_plainly(picture[:, left : left + 224], transform)[None] for left in lefts]
        assert (abs(views.numpy() - np.array(expected)) > 1e-4).mean() < 2e-3


def test_a_single_view_may_have_a_size_of_its_own():
    frames, transform = noise(1), Transform(size=(16, 16), resize=20, resize_single=30)
    plain = replace(transform, resize_single=0)
    assert torch.equal(transforms.test_video(frames, transform, 1), transforms.test_video(frames, plain, 1))
    other = transforms.test_video(frames, replace(plain, resize=30), 1)
    assert torch.equal(transforms.test_video(frames, transform, 1, single=True), other)
    assert torch.equal(transforms.test_video(frames, plain, 1, single=True), transforms.test_video(frames, plain, 1))


def test_train_resize_comes_first():
    frames = noise()
    transform = Transform(size=(16, 16), crop="center", train_resize=32, arithmetic="rounded", antialias=False)
    picture = np.rint([resize_plainly(frame, 32, 44) for frame in frames])[:, 8:24, 14:30]
    expected = np.array([normalise_plainly(frame, IMAGENET) for frame in picture])
    assert (abs(transforms.train_video(frames, transform, generator(0)).numpy() - expected) > 1e-4).mean() < 2e-3
    # Too small for the crop: as at test time.
    small = transforms.train_video(frames, replace(transform, train_resize=8), generator(0))
    assert small.shape == (3, 3, 16, 16)


# One draw for a video


@pytest.mark.parametrize("arithmetic", ["uint8", "float"])
@pytest.mark.parametrize("crop", ["random_resized", "random", "center"])
def test_still_video_stays_still(arithmetic, crop):
    frames = noise(1).repeat(6, axis=0)
    transform = Transform(size=(16, 20), arithmetic=arithmetic, crop=crop, flip=0.5)
    for seed in range(6):
        video = transforms.train_video(frames, transform, generator(seed))
        assert video.shape == (6, 3, 16, 20)
        assert (video == video[:1]).all()


@pytest.mark.parametrize("crop", ["random_resized", "random"])
def test_draws_differ_from_video_to_video_and_are_repeatable(crop):
    frames, transform = noise(1), Transform(size=(16, 16), crop=crop)
    videos = [transforms.train_video(frames, transform, generator(seed)) for seed in range(4)]
    assert all(not torch.equal(videos[0], other) for other in videos[1:])
    assert torch.equal(videos[0], transforms.train_video(frames, transform, generator(0)))


def test_flip_mirrors_the_share_asked_for():
    frames = noise(2)
    plain = Transform(size=(16, 16), crop="center")
    still = transforms.train_video(frames, plain, generator(0))
    assert torch.equal(transforms.train_video(frames, replace(plain, flip=1.0), generator(0)), still.flip(-1))
    half = [transforms.train_video(frames, replace(plain, flip=0.5), generator(seed)) for seed in range(200)]
    mirrored = sum(torch.equal(video, still.flip(-1)) for video in half)
    assert 70 < mirrored < 130
    assert sum(torch.equal(video, still) for video in half) == 200 - mirrored


def test_no_flip_unless_asked():
    frames, transform = noise(1), Transform(size=(16, 16), crop="center")
    videos = [transforms.train_video(frames, transform, generator(seed)) for seed in range(50)]
    assert all(torch.equal(video, videos[0]) for video in videos)


def test_center_in_training_is_the_view_at_test_time():
    frames, transform = noise(), Transform(size=(16, 16), crop="center")
    assert torch.equal(
        transforms.train_video(frames, transform, generator(0)), transforms.test_video(frames, transform, 1)[0]
    )


@pytest.mark.parametrize("upright", [True, False])
def test_random_crop_is_a_part_of_the_resized_picture_and_reaches_its_edges(upright):
    # A ramp along the long side tells where a crop was taken.
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, None, :, None], (1, 60, 120, 3))
    frames = ramp.swapaxes(1, 2) if upright else ramp
    transform = Transform(size=(60, 60), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop="random")
    starts = set()
    for seed in range(400):
        picture = transforms.train_video(frames, transform, generator(seed))[0, 0] * 255
        line = picture[:, 0] if upright else picture[0]
        assert torch.allclose(line - line[0], torch.arange(0.0, 120, 2))
        starts.add(round(line[0].item() / 2))
    assert min(starts) == 0
    assert max(starts) == 60


# Arithmetic and sizes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_uint8_differs_from_float_by_rounding_only(interpolation, antialias):
    # Away from black and white, where bytes are cut off between the two directions of a bicubic resizing.
    frames = noise() // 2 + 64
    quick = Transform(size=(16, 20), interpolation=interpolation, antialias=antialias, mean=(0, 0, 0), std=(1, 1, 1))
    video = transforms.test_video(frames, quick, 3)
    exact = transforms.test_video(frames, replace(quick, arithmetic="float"), 3)
    # Bytes are rounded after each direction, and weights are fixed-point numbers.
    assert (video - exact).abs().max() * 255 < 1.6
    assert torch.equal((video * 255).round() / 255, video)


def test_antialias_and_interpolation_are_used():
    frames = noise()
    videos = [
        transforms.test_video(frames, Transform((16, 16), interpolation=interpolation, antialias=antialias), 1)
        for interpolation in ("bilinear", "bicubic")
        for antialias in (True, False)
    ]
    for place, video in enumerate(videos):
        assert all(not torch.allclose(video, other, atol=0.1) for other in videos[:place])


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (40, 16), (64, 64)])
@pytest.mark.parametrize("resize", [0, 20, 30, 100])
@pytest.mark.parametrize(("height", "width"), [(30, 60), (60, 30), (33, 33), (5, 200)])
def test_crop_always_fits(size, resize, height, width):
    video = transforms.test_video(noise(1, height, width), Transform(size=size, resize=resize), 3)
    assert video.shape == (3, 1, 3, *size)


def test_resize_chooses_the_short_side():
    def test_size(height, width, **options):
        transform = Transform(**options)
        return transforms._test_size(height, width, transform, transform.resize)

    assert test_size(256, 340) == (224, 297)
    assert test_size(340, 256) == (297, 224)
    assert test_size(256, 340, resize=256) == (256, 340)
    assert test_size(256, 340, size=(224, 320)) == (320, 425)
    assert test_size(340, 256, size=(224, 320), resize=224) == (425, 320)
    assert test_size(256, 340, size=(224, 290), resize=224) == (224, 297)


def test_picture_of_the_right_size_is_left_alone():
    frames = noise(2, 16, 16)
    transform = Transform(size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_allclose(
        transforms.test_video(frames, transform, 1)[0].permute(0, 2, 3, 1) * 255, frames, atol=1e-4
    )


def test_frames_to_tensor_shares_the_bytes():
    frames = noise()
    tensor = transforms.frames_to_tensor(frames)
    assert (tensor.dtype, tensor.shape) == (torch.uint8, (3, 3, 40, 56))
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1), frames)
    frames[0, 0, 0, 0] ^= 255
    assert tensor[0, 0, 0, 0] == frames[0, 0, 0, 0]


def test_frames_of_any_layout():
    frames = noise()[:, ::-1]
    frames.flags.writeable = False
    warnings.simplefilter("error")  # torch warns of memory that must not be written to.
    np.testing.assert_array_equal(transforms.frames_to_tensor(frames).permute(0, 2, 3, 1), frames)


def test_normalise_leaves_its_input():
    transform = Transform(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    as_bytes = transforms.frames_to_tensor(noise())
    as_floats = as_bytes.contiguous().float() / 255
    kept = as_bytes.clone(), as_floats.clone()
    expected = np.stack([normalise_plainly(frame, transform) for frame in noise()])
    assert_close(transforms.normalise(as_bytes, transform), expected)
    assert_close(transforms.normalise(as_floats, transform), expected)
    assert torch.equal(as_bytes, kept[0])
    assert torch.equal(as_floats, kept[1])


# What cannot be done


@pytest.mark.parametrize(
    "frames",
    [noise()[0], noise().astype(np.float32), noise()[..., :1], noise()[:0]],
    ids=["picture", "float", "grey", "none"],
)
def test_frames_of_another_kind(frames):
    with pytest.raises(BadInput, match=r"frames are .*; expected uint8 \[T, H, W, 3\]"):
        transforms.test_video(frames, EVL, 1)


@pytest.mark.parametrize("field", ["arithmetic", "interpolation", "crop", "rounding", "crop_steps"])
def test_unknown_choices(field):
    transform = replace(EVL, **{field: "best"})
    with pytest.raises(BadInput, match=f"{field} is 'best'; expected "):
        (transforms.train_video(noise(), transform, generator(0)), transforms.test_video(noise(), transform, 3))
