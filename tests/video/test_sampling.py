"""Frame and crop arithmetic: the published EVL's own numbers, and what must hold for any video."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muybridge.errors import BadInput, UnknownName
from muybridge.structures import Sampling
from muybridge.video import sampling

counts = st.integers(1, 2000)
few = st.integers(1, 40)
strides = st.integers(1, 40)
seeds = st.integers(0, 2**32)


def starts(count, frames, stride, views):
    return [view[0] for view in sampling.stride_test(count, frames, stride, views)]


# The published EVL, measured on its code


def test_stride_test_is_evl():
    assert starts(300, 8, 16, 3) == [0, 94, 187]
    assert starts(300, 8, 16, 1) == [93]
    assert starts(150, 8, 16, 3) == [0, 18, 37]
    assert starts(114, 8, 16, 3) == [0, 0, 1]
    assert sampling.stride_test(100, 8, 16, 3) == [[0, 16, 32, 48, 64, 80, 96, 99]] * 3
    assert starts(250, 16, 16, 1) == [4]
    assert starts(300, 32, 8, 1) == [25]
    assert sampling.stride_test(300, 8, 16, 1) == [[93, 109, 125, 141, 157, 173, 189, 205]]
    assert sampling.stride_test(300, 8, 16, 3)[2] == [187, 203, 219, 235, 251, 267, 283, 299]


def test_stride_train_is_evl():
    rng = sampling.generator(0)
    assert sampling.stride_train(50, 8, 16, rng) == [0, 16, 32, 48, 48, 48, 48, 48]
    assert sampling.stride_train(10, 8, 16, rng) == [0] * 8
    # As many frames as a view spans: nothing to draw.
    assert sampling.stride_train(113, 8, 16, rng) == list(range(0, 113, 16))
    # One more: two places, both drawn.
    drawn = {tuple(sampling.stride_train(114, 8, 16, rng)) for _ in range(50)}
    assert drawn == {tuple(range(0, 113, 16)), tuple(range(1, 114, 16))}


def test_crop_offsets_are_evl():
    assert sampling.crop_offsets(224, 398, (224, 224), 1) == [(0, 87)]
    assert sampling.crop_offsets(224, 299, (224, 224), 1) == [(0, 37)]
    assert sampling.crop_offsets(224, 299, (224, 224), 3) == [(0, 0), (0, 37), (0, 75)]
    assert sampling.crop_offsets(299, 224, (224, 224), 3) == [(0, 0), (37, 0), (75, 0)]
    assert sampling.crop_offsets(224, 224, (224, 224), 3) == [(0, 0)] * 3
    assert sampling.crop_offsets(256, 340, (224, 224), 3) == [(16, 0), (16, 58), (16, 116)]
    assert sampling.crop_offsets(40, 100, (24, 60), 3) == [(8, 0), (8, 20), (8, 40)]
    # Where the crop is not square, the side on which more is left over.
    assert sampling.crop_offsets(50, 60, (24, 48), 3) == [(0, 6), (13, 6), (26, 6)]


def test_crop_offsets_are_zeroi2v():
    # Steps of half the margin, rounded down: 75 // 2 = 37.
    assert sampling.crop_offsets(224, 299, (224, 224), 3, "even") == [(0, 0), (0, 37), (0, 74)]
    assert sampling.crop_offsets(299, 224, (224, 224), 3, "even") == [(0, 0), (37, 0), (74, 0)]
    assert sampling.crop_offsets(224, 298, (224, 224), 3, "even") == [(0, 0), (0, 37), (0, 74)]
    assert sampling.crop_offsets(224, 299, (224, 224), 1, "even") == [(0, 37)]


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 64), st.integers(1, 64))
def test_crops_lie_within_the_picture(height, width, down, across):
    size = (min(down, height), min(across, width))
    for crops in (1, 3):
        for steps in ("ends", "even"):
            places = sampling.crop_offsets(height, width, size, crops, steps)
            assert len(places) == crops
            assert places == sorted(places)
            assert all(0 <= top <= height - size[0] and 0 <= left <= width - size[1] for top, left in places)


# Segments


def test_segments_test_takes_centres():
    assert sampling.segments_test(8, 8, 1) == [list(range(8))]
    assert sampling.segments_test(80, 8, 1) == [[5, 15, 25, 35, 45, 55, 65, 75]]
    assert sampling.segments_test(90, 3, 3) == [[5, 35, 65], [15, 45, 75], [25, 55, 85]]
    assert sampling.segments_test(3, 6, 1) == [[0, 0, 1, 1, 2, 2]]


def test_segments_train_draws_all_frames_of_each_part_alike():
    rng = sampling.generator(1)
    drawn = [sampling.segments_train(30, 3, rng) for _ in range(3000)]
    for part in range(3):
        seen = Counter(indices[part] for indices in drawn)
        assert set(seen) == set(range(part * 10, part * 10 + 10))
        # 300 expected, standard deviation 16.
        assert 220 < min(seen.values()) <= max(seen.values()) < 380


@given(counts, few, seeds)
def test_segments_train_stays_in_its_parts(count, frames, seed):
    indices = sampling.segments_train(count, frames, sampling.generator(seed))
    assert len(indices) == frames
    for part, index in enumerate(indices):
        assert math.floor(count * part / frames) <= index < max(math.ceil(count * (part + 1) / frames), 1)


@given(counts, few, few)
def test_segments_test_moves_with_the_view(count, frames, views):
    table = np.array(sampling.segments_test(count, frames, views))
    assert table.shape == (views, frames)
    # In the order of time: first all views of the first part, then those of the second.
    assert (np.diff(table.T.reshape(-1)) >= 0).all()
    # As much is left before the first as after the last, but for rounding.
    assert abs(table.min() - (count - 1 - table.max())) <= 1


# Any rule


@given(counts, few, strides, few, st.sampled_from(["segments", "stride"]), seeds)
def test_indices_are_frames_of_the_video_in_order(count, frames, stride, views, rule, seed):
    wanted = Sampling(frames, rule, stride, views)
    train = sampling.train_indices(count, wanted, sampling.generator(seed))
    assert sampling.train_indices(count, wanted, sampling.generator(seed)) == train
    for view in [train, *sampling.test_indices(count, wanted)]:
        assert len(view) == frames
        assert all(type(index) is int for index in view)
        assert min(view) >= 0
        assert max(view) < count
        assert view == sorted(view)


@given(counts, few, strides, seeds)
def test_stride_is_kept_where_the_video_is_long_enough(count, frames, stride, seed):
    span = stride * (frames - 1) + 1
    views = [sampling.stride_train(count, frames, stride, sampling.generator(seed))]
    views += sampling.stride_test(count, frames, stride, 3)
    for view in views:
        if count >= span:
            assert np.diff(view).tolist() == [stride] * (frames - 1)
        else:
            assert view[0] == 0
    if count >= span:
        assert views[1][0] == 0
        assert views[-1][-1] == count - 1


def test_rules_are_dispatched():
    rng = sampling.generator
    assert sampling.test_indices(300, Sampling(8, "stride", 16, 3)) == sampling.stride_test(300, 8, 16, 3)
    assert sampling.test_indices(300, Sampling(8, "segments", 16, 3)) == sampling.segments_test(300, 8, 3)
    stride, segments = Sampling(8, "stride", 16), Sampling(8, "segments")
    assert sampling.train_indices(300, stride, rng(3)) == sampling.stride_train(300, 8, 16, rng(3))
    assert sampling.train_indices(300, segments, rng(3)) == sampling.segments_train(300, 8, rng(3))


# Randomness


def test_generator_depends_on_every_argument_and_nothing_else():
    def draw(*key):
        return sampling.generator(*key).integers(0, 2**60)

    np.random.seed(0)
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 11, 1, 0), (0, 1, 11, 0), (0, 0)]
    first = [draw(*key) for key in keys]
    np.random.seed(1)
    assert [draw(*key) for key in reversed(keys)] == first[::-1]
    assert len(set(first)) == len(keys)


def test_generator_is_the_same_everywhere():
    """Kept numbers: a change here changes every training run."""
    assert sampling.generator(1, 2, 3, 4).integers(0, 1000, 5).tolist() == [51, 308, 302, 94, 263]


# Wrong numbers


@pytest.mark.parametrize("rule", ["segments", "stride"])
@pytest.mark.parametrize("count", [0, -3])
def test_video_without_frames(rule, count):
    wanted = Sampling(8, rule)
    with pytest.raises(BadInput, match=f"count is {count}; expected 1 or more"):
        sampling.train_indices(count, wanted, sampling.generator(0))
    with pytest.raises(BadInput, match="count is"):
        sampling.test_indices(count, wanted)


def test_numbers_below_one():
    with pytest.raises(BadInput, match="frames is 0"):
        sampling.test_indices(9, Sampling(0))
    with pytest.raises(BadInput, match="views is 0"):
        sampling.test_indices(9, Sampling(8, views=0))
    with pytest.raises(BadInput, match="stride is 0"):
        sampling.train_indices(9, Sampling(8, "stride", 0), sampling.generator(0))


def test_unknown_rule():
    wanted = Sampling(8, "segment")
    with pytest.raises(UnknownName, match="Unknown sampling rule 'segment'. Did you mean segments"):
        sampling.test_indices(9, wanted)
    with pytest.raises(UnknownName, match="segments"):
        sampling.train_indices(9, wanted, sampling.generator(0))


def test_crops_that_do_not_fit_or_do_not_exist():
    with pytest.raises(BadInput, match="crop of 224 x 224 pixels does not fit into 200 x 300"):
        sampling.crop_offsets(200, 300, (224, 224), 1)
    with pytest.raises(BadInput, match=r"crops is 2; expected 1 .* or 3"):
        sampling.crop_offsets(300, 300, (224, 224), 2)
