"""RandAugment: what is drawn how often, what each operation does to a picture, and that both notations are read."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from muybridge.errors import BadInput
from muybridge.video import randaugment
from muybridge.video.randaugment import OPERATIONS, argument, read_policy
from muybridge.video.sampling import generator

TIMM = read_policy("rand-m7-n4-mstd0.5-inc1")
PYTORCHVIDEO = read_policy("pytorchvideo-n4-m7")
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def picture(height=20, width=30, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), BILINEAR)


def change(name, value, source=None, resample=BICUBIC):
    return np.asarray(OPERATIONS[name](source or picture(), value, resample)).astype(int)


PIXELS = np.asarray(picture()).astype(int)


# Notations


def test_both_notations():
    assert (TIMM.count, TIMM.magnitude, TIMM.deviation, TIMM.repeat, TIMM.resample) == (4, 7, 0.5, True, BICUBIC)
    assert len(TIMM.operations) == 15
    assert (PYTORCHVIDEO.count, PYTORCHVIDEO.magnitude, PYTORCHVIDEO.deviation) == (4, 7, 0.5)
    assert (PYTORCHVIDEO.repeat, PYTORCHVIDEO.resample) == (False, BILINEAR)
    assert set(TIMM.operations) - set(PYTORCHVIDEO.operations) == {"solarize_add"}
    other = read_policy("rand-m9.5-n2-inc1")
    assert (other.count, other.magnitude, other.deviation) == (2, 9.5, 0)


@pytest.mark.parametrize(
    "text",
    ["", "rand", "rand-m7-n4-mstd0.5", "rand-m11-n2-inc1", "rand-m7-n0-inc1", "pytorchvideo-n15-m7", "pytorchvideo-n4"],
)
def test_what_is_neither(text):
    with pytest.raises(BadInput, match=r"randaugment is '.*'; expected rand-m<.* or pytorchvideo-n<"):
        read_policy(text)


# Draws


def drawn(policy, videos, seed=0):
    rng = generator(seed)
    return [randaugment.draw(policy, rng) for _ in range(videos)]


@pytest.mark.parametrize("policy", [TIMM, PYTORCHVIDEO])
def test_every_operation_is_drawn_alike_in_half_of_its_turns(policy):
    videos = drawn(policy, 3000)
    counts = Counter(name for video in videos for name, _ in video)
    expected = 3000 * 4 * 0.5 / len(policy.operations)  # 400 or 429, standard deviation 20
    assert set(counts) == set(policy.operations)
    assert all(abs(count - expected) < 80 for count in counts.values()), counts
    lengths = Counter(len(video) for video in videos)
    assert abs(lengths[4] / 3000 - 0.5**4) < 0.02
    assert abs(lengths[0] / 3000 - 0.5**4) < 0.02


def test_only_timm_repeats_an_operation():
    def repeats(policy):
        return sum(len(video) > len({name for name, _ in video}) for video in drawn(policy, 500))

    assert repeats(TIMM) > 30
    assert repeats(PYTORCHVIDEO) == 0


@pytest.mark.parametrize("policy", [TIMM, PYTORCHVIDEO])
def test_magnitudes_are_normal_and_signs_even(policy):
    degrees = np.array([value for video in drawn(policy, 6000) for name, value in video if name == "rotate"])
    magnitudes = abs(degrees) / 3
    assert len(degrees) > 600
    assert abs(magnitudes.mean() - 7) < 0.08  # of 800 of them: standard deviation 0.018
    assert abs(magnitudes.std() - 0.5) < 0.06
    assert abs((degrees > 0).mean() - 0.5) < 0.08


def test_magnitudes_end_at_ten():
    values = [value for video in drawn(read_policy("rand-m10-n9-mstd2-inc1"), 500) for _, value in video]
    shears = [abs(v) for video in drawn(read_policy("rand-m10-n9-mstd2-inc1"), 500) for n, v in video if n == "shear_x"]
    assert max(shears) == pytest.approx(0.3)
    assert all(np.isfinite(values))


def test_draws_depend_on_the_generator_alone():
    """Kept numbers: a change here changes every training run with RandAugment."""
    random.seed(1)
    np.random.seed(1)
    first = drawn(TIMM, 5, seed=3)
    random.seed(2)
    np.random.seed(2)
    assert drawn(TIMM, 5, seed=3) == first
    assert [(name, round(value, 4)) for name, value in first[0]] == [("contrast", 1.6688), ("shear_y", 0.1919)]


# Arguments, as the two libraries document them


@pytest.mark.parametrize(
    ("name", "plus", "minus"),
    [
        ("rotate", 21, -21),
        ("color", 1.63, 0.37),
        ("contrast", 1.63, 0.37),
        ("brightness", 1.63, 0.37),
        ("sharpness", 1.63, 0.37),
        ("shear_x", 0.21, -0.21),
        ("shear_y", 0.21, -0.21),
        ("translate_x", 0.315, -0.315),
        ("translate_y", 0.315, -0.315),
        ("posterize", 2, 2),
        ("solarize", 77, 77),
        ("solarize_add", 77, 77),
        ("invert", 0, 0),
    ],
)
def test_arguments_at_magnitude_seven(name, plus, minus):
    assert argument(name, 0.7, 1) == pytest.approx(plus)
    assert argument(name, 0.7, -1) == pytest.approx(minus)


def test_the_threshold_of_pytorchvideo_is_a_share_of_white():
    assert argument("solarize", 0.7, 1, 255) == pytest.approx(76.5)


# Pictures


def test_operations_on_levels():
    np.testing.assert_array_equal(change("invert", 0), 255 - PIXELS)
    np.testing.assert_array_equal(change("posterize", 2), PIXELS // 64 * 64)
    np.testing.assert_array_equal(change("posterize", 0), 0 * PIXELS)
    np.testing.assert_array_equal(change("solarize", 77), np.where(PIXELS < 77, PIXELS, 255 - PIXELS))
    np.testing.assert_array_equal(
        change("solarize_add", 77), np.where(PIXELS < 128, (PIXELS + 77).clip(0, 255), PIXELS)
    )
    assert (PIXELS < 77).any()
    assert (PIXELS >= 128).any()


@pytest.mark.parametrize("factor", [0.37, 1.63])
def test_operations_on_colours(factor):
    luma = PIXELS @ [0.299, 0.587, 0.114]

    def blend(ground):
        return (ground + factor * (PIXELS - ground)).clip(0, 255)

    for name, ground in [("brightness", 0), ("color", luma[..., None]), ("contrast", luma.mean())]:
        np.testing.assert_allclose(change(name, factor), blend(ground), atol=1.6, err_msg=name)
    smooth = PIXELS.copy().astype(float)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    for row in range(1, 19):
        for column in range(1, 29):
            part = PIXELS[row - 1 : row + 2, column - 1 : column + 2]
            smooth[row, column] = (part * kernel[..., None]).sum(axis=(0, 1))
    np.testing.assert_allclose(change("sharpness", factor), blend(smooth), atol=1.6)


def test_auto_contrast_and_equalize_spread_each_channel():
    dull = Image.fromarray((PIXELS // 3 + 60).astype(np.uint8))
    spread = change("auto_contrast", 0, dull)
    assert spread.min(axis=(0, 1)).tolist() == [0, 0, 0]
    assert spread.max(axis=(0, 1)).min() >= 254
    even = change("equalize", 0, dull)
    counts = np.histogram(even[..., 0], 4, (0, 256))[0]
    assert counts.min() > 0.15 * counts.sum()


def test_operations_that_move():
    # A positive share looks to the right or further down, as both libraries have it.
    moved = change("translate_x", 0.2)  # 6 of 30 pixels
    np.testing.assert_array_equal(moved[:, :24], PIXELS[:, 6:])
    np.testing.assert_array_equal(moved[:, 24:], 128)
    moved = change("translate_y", -0.25)  # 5 of 20
    np.testing.assert_array_equal(moved[5:], PIXELS[:15])
    np.testing.assert_array_equal(moved[:5], 128)
    square = picture(24, 24)
    np.testing.assert_array_equal(change("rotate", 90, square), np.rot90(np.asarray(square)))
    # A row in the middle of row y is moved by shear * (y + 0.5); by half pixels where that is 10.5 * shear = 2.1, ...
    rows = change("shear_x", 0.2, resample=BILINEAR)
    for row in (2, 12):  # 0.2 * 2.5 = 0.5 and 0.2 * 12.5 = 2.5 pixels
        whole = int(0.2 * (row + 0.5))
        expected = (PIXELS[row, whole:-1] + PIXELS[row, whole + 1 :]) / 2
        np.testing.assert_allclose(rows[row, : len(expected)], expected, atol=1)
    columns = change("shear_y", 0.2, resample=BILINEAR)
    expected = (PIXELS[2:-1, 12] + PIXELS[3:, 12]) / 2
    np.testing.assert_allclose(columns[: len(expected), 12], expected, atol=1)


def test_all_frames_get_the_same():
    policy = read_policy("rand-m8-n6-mstd0.5-inc1")
    for seed in range(8):
        operations = randaugment.draw(policy, generator(seed))
        frames = randaugment.apply([picture()] * 3, operations, policy)
        assert len({frame.tobytes() for frame in frames}) == 1
        one = picture()
        for name, value in operations:
            one = OPERATIONS[name](one, value, BICUBIC)
        assert frames[0].tobytes() == one.tobytes()
