"""What is changed in a training video: in which order, how often, by how much, and the same in all of its frames."""

import colorsys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from plainly import noise, resize_plainly

from muybridge.errors import BadInput
from muybridge.recipes import published_recipe
from muybridge.structures import Transform
from muybridge.video import augment, randaugment
from muybridge.video.sampling import generator
from muybridge.video.transforms import train_video, train_view

UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
PLAIN = Transform(size=(24, 24), crop="center", **UNIT)
RECIPES = {
    name: published_recipe(name).recipe.transform
    for name in (
        "evl_vitb16_k400_8f",
        "ila_vitb16_k400_8f",
        "dist_vitb16_ssv2_8+16f",
        "zeroi2v_vitl14_k400_32f",
        "zeroi2v_vitb16_ssv2_16f",
    )
}


def smooth(frames=3, height=40, width=56, seed=0):
    coarse = noise(frames, 5, 7, seed)
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in coarse])


def pixels(video):
    """[T, 3, h, w] in 0..1 -> [T, h, w, 3] in 0..255."""
    return (video * 255).permute(0, 2, 3, 1).numpy()


# Order


def changed_by(policy, operations, frames):
    pictures = randaugment.apply([Image.fromarray(frame) for frame in frames], operations, policy)
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("seed", range(4))
def test_evl_changes_then_normalises_then_crops(seed):
    frames, transform = smooth(), replace(RECIPES["evl_vitb16_k400_8f"], size=(24, 24))
    rng = generator(seed)
    policy = randaugment.read_policy(transform.randaugment)
    changed = changed_by(policy, randaugment.draw(policy, rng), frames)
    changed = (changed / 255 - np.array(transform.mean)) / np.array(transform.std)
    top, left, height, width = augment.random_box(40, 56, transform, rng)
    parts = changed[:, top : top + height, left : left + width]
    expected = np.stack([resize_plainly(part, 24, 24) for part in parts]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(train_video(frames, transform, generator(seed)).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["zeroi2v_vitl14_k400_32f", "zeroi2v_vitb16_ssv2_16f"])
@pytest.mark.parametrize("seed", range(4))
def test_zeroi2v_resizes_and_changes_before_or_after_the_crop(name, seed):
    transform = replace(RECIPES[name], size=(24, 24), train_resize=32, erasing=0.0, **UNIT)
    rng, video = generator(seed), smooth()

    def resized(frames, height, width):
        return np.rint([resize_plainly(frame, height, width) for frame in frames]).astype(np.uint8)

    def changed(frames):
        policy = randaugment.read_policy(transform.randaugment)
        return changed_by(policy, randaugment.draw(policy, rng), frames)

    def cropped_and_flipped(frames):
        top, left, height, width = augment.random_box(*frames.shape[1:3], transform, rng)
        frames = resized(frames[:, top : top + height, left : left + width], 24, 24)
        return frames[:, :, ::-1] if rng.random() < 0.5 else frames

    video = resized(video, 32, 45)  # 56 * 32 / 40 = 44.8, to the nearest
    if "k400" in name:
        video = cropped_and_flipped(changed(video))
    else:
        video = changed(cropped_and_flipped(video))
    ours = pixels(train_video(smooth(), transform, generator(seed)))
    # A pixel on the border between two bytes may be rounded either way, and a change of colour doubles that.
    assert np.mean(abs(ours - video) > 0.01) < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_dist_crops_flips_and_takes_the_colours(seed):
    transform = replace(RECIPES["dist_vitb16_ssv2_8+16f"], size=(24, 24), grayscale=0.5, **UNIT)
    frames, rng = noise(), generator(seed)
    top, left, height, width = augment.random_box(40, 56, transform, rng)
    parts = frames[:, top : top + height, left : left + width] / 255
    expected = np.stack([resize_plainly(part, 24, 24) for part in parts])
    if rng.random() < 0.5:
        expected = expected[:, :, ::-1]
    if rng.random() < 0.5:
        expected = np.repeat((expected @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1)
    np.testing.assert_allclose(pixels(train_video(frames, transform, generator(seed))) / 255, expected, atol=2e-5)


@pytest.mark.parametrize("seed", range(4))
def test_ila_resizes_crops_and_colours_every_frame(seed):
    transform = replace(RECIPES["ila_vitb16_k400_8f"], size=(24, 24), train_resize=32, erasing=0.0, **UNIT)
    frames, rng = smooth(), generator(seed)
    frames = np.rint([resize_plainly(frame, 32, 45) for frame in frames])
    top, left, height, width = augment.multiscale_box(32, 45, transform, rng)
    parts = frames[:, top : top + height, left : left + width]
    video = torch.from_numpy(np.rint([resize_plainly(part, 24, 24) for part in parts]).astype(np.uint8))
    assert rng.random() >= transform.flip == 0
    video = augment.change_colors(video.permute(0, 3, 1, 2), transform, rng)
    if rng.random() < 0.2:
        video = augment.grayscale(video)
    ours = pixels(train_video(smooth(), transform, generator(seed)))
    # A pixel on the border between two bytes may be rounded either way, which moves a frame's mean colour too.
    assert np.mean(abs(ours - video.permute(0, 2, 3, 1).numpy()) > 2.5) < 0.02


def test_order_must_name_every_step():
    with pytest.raises(BadInput, match="order is crop, flip; expected each of crop, .*randaugment once"):
        train_video(noise(), replace(PLAIN, order=("crop", "flip")), generator(0))


# All frames alike


@pytest.mark.parametrize("name", RECIPES)
def test_a_still_video_stays_still(name):
    transform = replace(RECIPES[name], size=(32, 32), train_resize=RECIPES[name].train_resize and 40)
    transform = replace(transform, color_jitter_per_frame=False, erasing_fill="grey")
    frames, videos = smooth(1).repeat(4, axis=0), []
    for seed in range(10):
        video = train_video(frames, transform, generator(seed))
        assert video.shape == (4, 3, 32, 32)
        assert (video == video[:1]).all()
        videos.append(video)
    assert all(not torch.equal(videos[0], other) for other in videos[1:])


# Multiscale crop


def test_multiscale_is_ila():
    rng, boxes = generator(0), Counter()
    for _ in range(20000):
        boxes[augment.multiscale_box(256, 340, Transform(size=(224, 224)), rng)] += 1
    sides = Counter()
    for (_, _, height, width), count in boxes.items():
        sides[height, width] += count
    # int(256 * 0.66) = 168
    steps = [256, 224, 192, 168]
    assert set(sides) == {(h, w) for i, h in enumerate(steps) for j, w in enumerate(steps) if abs(i - j) <= 1}
    assert min(sides.values()) > 1800  # of 10 pairs 2000 each, standard deviation 42
    # (256 - 192) // 4 = 16 and (340 - 192) // 4 = 37: corners at 0 and 4 steps, the centre at 2.
    places = {box[:2] for box in boxes if box[2:] == (192, 192)}
    assert places == {(0, 0), (0, 148), (64, 0), (64, 148), (32, 74)}
    # (340 - 168) // 4 = 43, and 340 - 224 = 116 = 4 * 29.
    assert {box[1] for box in boxes if box[3] == 168} == {0, 86, 172}
    assert {box[1] for box in boxes if box[3] == 256} == {0, 42, 84}


def test_multiscale_sides_near_the_size_read_are_made_equal_and_fit():
    rng = generator(1)
    boxes = {augment.multiscale_box(258, 300, Transform(size=(224, 224)), rng)[2:] for _ in range(300)}
    assert {side for box in boxes for side in box} == {258, 224, 193, 170}  # int(258 * 0.875) = 225
    for height, width in [(223, 230), (5, 7), (1, 1)]:
        for _ in range(50):
            top, left, h, w = augment.multiscale_box(height, width, Transform(size=(224, 224)), rng)
            assert 0 < h <= height - top
            assert 0 < w <= width - left


# Colours


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("value", [0.6, 1.4])
def test_colours_are_pillows(kind, value, monkeypatch):
    enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[kind]
    monkeypatch.setattr(augment, "draw_colors", lambda largest, rng: [(kind, value)])
    frames = smooth()
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    theirs = np.stack([np.asarray(enhancer(Image.fromarray(frame)).enhance(value)) for frame in frames])
    for given in (video, video / 255):
        ours = augment.change_colors(given, Transform(), generator(0))
        np.testing.assert_array_equal(ours.permute(0, 2, 3, 1).numpy(), theirs)


def test_hue_is_turned(monkeypatch):
    monkeypatch.setattr(augment, "draw_colors", lambda largest, rng: [(3, 0.25)])
    frame = np.array([[[200, 40, 90], [10, 220, 130], [90, 90, 90]]], dtype=np.uint8)[None]
    video = augment.change_colors(augment.from_pictures([Image.fromarray(frame[0])]), Transform(), generator(0))
    for place in range(3):
        hue, saturation, value = colorsys.rgb_to_hsv(*frame[0, 0, place] / 255)
        expected = colorsys.hsv_to_rgb((hue + 63 / 256) % 1, saturation, value)
        np.testing.assert_allclose(video[0, :, 0, place].numpy() / 255, expected, atol=0.025)


def test_colours_are_drawn_in_their_ranges_and_in_any_order():
    rng = generator(2)
    drawn = [augment.draw_colors((0.4, 0.4, 0.2, 0.1), rng) for _ in range(2000)]
    for kind, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = np.array([dict(changes)[kind] for changes in drawn])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
    orders = Counter(tuple(kind for kind, _ in changes) for changes in drawn)
    assert len(orders) == 24
    assert min(orders.values()) > 45  # 83 expected, standard deviation 9
    assert augment.draw_colors((0.4, 0, 0, 0), rng)[0][0] == 0
    assert len(augment.draw_colors((0.4, 0, 0, 0), rng)) == 1


@pytest.mark.parametrize("per_frame", [True, False])
def test_colours_by_video_or_by_frame_as_often_as_asked(per_frame):
    transform = Transform(color_jitter=(0.4, 0.4, 0.2, 0.1), color_jitter_probability=0.8)
    transform = replace(transform, color_jitter_per_frame=per_frame)
    still = torch.from_numpy(smooth(1, 4, 4)).permute(0, 3, 1, 2).repeat(3, 1, 1, 1)
    changed = 0
    for seed in range(300):
        video = augment.change_colors(still, transform, generator(seed))
        if not torch.equal(video, still):
            changed += 1
            assert len(video.flatten(1).unique(dim=0)) == (3 if per_frame else 1)
    assert 0.72 < changed / 300 < 0.88


def test_grey_is_luma():
    frames = noise()
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    grey = augment.grayscale(video)
    theirs = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in frames])
    np.testing.assert_allclose(grey[:, 1].numpy(), theirs, atol=1)
    assert (grey == grey[:, :1]).all()
    assert grey.dtype == torch.uint8
    exact = augment.grayscale(video / 255)
    np.testing.assert_allclose(exact[:, 2].numpy(), frames @ np.array([0.299, 0.587, 0.114]) / 255, atol=1e-6)


def test_grey_as_often_as_asked():
    frames, transform = noise(1, 24, 24), replace(PLAIN, grayscale=0.2)
    grey = 0
    for seed in range(400):
        video = train_video(frames, transform, generator(seed))
        grey += bool((video == video[:, :1]).all())
    assert 0.14 < grey / 400 < 0.26


# Erasing


def erased(transform, seed, frames=None):
    frames = noise(3, 24, 24) if frames is None else frames
    plain = train_video(frames, replace(transform, erasing=0.0), generator(seed))
    video = train_video(frames, transform, generator(seed))
    return video, (video != plain).any(dim=1)  # [T, h, w]


@pytest.mark.parametrize(("fill", "value"), [("zero", 0.0), ("grey", (128 / 255 - 0.25) / 0.5)])
def test_a_rectangle_is_erased_the_same_in_all_frames(fill, value):
    # Pixels of 200 are what no filling is.
    frames = np.full((3, 24, 24, 3), 200, dtype=np.uint8)
    transform = Transform((24, 24), (0.25,) * 3, (0.5,) * 3, crop="center", erasing=1.0, erasing_fill=fill)
    for seed in range(20):
        video, where = erased(transform, seed, frames)
        assert (where == where[:1]).all()
        rows, columns = where[0].any(dim=1).nonzero()[:, 0], where[0].any(dim=0).nonzero()[:, 0]
        assert int(where[0].sum()) == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert 0.01 < where[0].float().mean() < 0.36
        torch.testing.assert_close(video[:, 0][where], torch.full_like(video[:, 0][where], value))


def test_noise_is_new_in_every_frame_and_even():
    video, where = erased(replace(PLAIN, erasing=1.0, erasing_fill="noise"), 0, np.zeros((3, 24, 24, 3), np.uint8))
    area = where.any(dim=0)
    inside = pixels(video)[:, area.numpy()]
    assert not np.array_equal(inside[0], inside[1])
    rounded = np.rint(inside)
    np.testing.assert_allclose(inside, rounded, atol=1e-3)
    assert 100 < inside.mean() < 155


def test_erasing_as_often_as_asked():
    transform = replace(PLAIN, erasing=0.25)
    share = np.mean([bool(erased(transform, seed)[1].any()) for seed in range(400)])
    assert 0.19 < share < 0.31


def test_erased_areas_and_aspects():
    rng = generator(5)
    boxes = np.array([augment.erased_box(224, 224, rng) for _ in range(4000)])
    top, left, height, width = boxes.T
    share, aspect = height * width / 224**2, height / width
    assert share.min() == pytest.approx(0.02, abs=0.002)
    assert share.max() == pytest.approx(1 / 3, abs=0.005)
    assert share.mean() == pytest.approx(0.1767, abs=0.01)  # the largest do not fit where they are slim
    assert aspect.min() == pytest.approx(0.3, abs=0.01)
    assert aspect.max() == pytest.approx(10 / 3, abs=0.1)
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.03)
    assert ((top + height <= 224) & (left + width <= 224)).all()
    assert top.min() == left.min() == 0
    assert augment.erased_box(1, 1, rng) is None


# The rest


def test_mirrored_is_told():
    frames, transform = noise(), replace(PLAIN, flip=0.5)
    plain = train_video(frames, PLAIN, generator(0))
    told = []
    for seed in range(60):
        video, mirrored = train_view(frames, transform, generator(seed))
        assert torch.equal(video, plain.flip(-1) if mirrored else plain)
        told.append(mirrored)
    assert 15 < sum(told) < 45


def test_steps_that_are_off_draw_nothing():
    # A recipe with more fields than there were when it was run gives the same videos.
    frames, transform = noise(), Transform(size=(16, 16))
    rng = generator(3)
    train_video(frames, transform, rng)
    plain = generator(3)
    augment.random_box(40, 56, transform, plain)
    plain.random()  # the flip, which always draws
    assert rng.random() == plain.random()


def test_unknown_filling():
    with pytest.raises(BadInput, match="erasing_fill is 'black'; expected zero, grey or noise"):
        train_video(noise(), replace(PLAIN, erasing=1.0, erasing_fill="black"), generator(0))


@pytest.mark.parametrize(("size", "ratio"), [((1, 1000), (0.01, 0.4)), ((1000, 1), (3.0, 10.0))])
def test_a_crop_of_a_line_is_not_empty(size, ratio):
    top, left, height, width = augment.random_box(*size, Transform(ratio=ratio), generator(0))
    assert (height, width) == (1, 1)
    assert 0 <= top < size[0]
    assert 0 <= left < size[1]
