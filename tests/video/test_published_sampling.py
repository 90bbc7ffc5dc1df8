"""The frame rules of ILA, ZeroI2V and DiST: the published codes' own numbers, and what must hold for any video."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muybridge.errors import BadInput
from muybridge.structures import Sampling
from muybridge.video import published_sampling as published
from muybridge.video import sampling
from muybridge.video.sampling import generator, train_indices

counts = st.integers(1, 2000)
few = st.integers(1, 40)
strides = st.integers(1, 40)
seeds = st.integers(0, 2**32)
RULES = ["tsn", "uniform", "dense", "linspace"]


def ints(text):
    return [int(number) for number in text.split()]


# Measured on the published codes


@pytest.mark.parametrize(
    ("count", "views", "expected"),
    [
        (300, 3, ["0 16 32 48 64 80 96 112", "94 110 126 142 158 174 190 206", "187 203 219 235 251 267 283 299"]),
        (300, 1, ["93 109 125 141 157 173 189 205"]),
        (60, 3, ["0 16 32 48 4 20 36 52"] * 3),
    ],
)
def test_dense_is_zeroi2v(count, views, expected):
    assert published.dense_test(count, 8, 16, views) == [ints(view) for view in expected]


def test_dense_offsets_are_zeroi2v():
    assert [view[0] for view in published.dense_test(250, 8, 16, 3)] == [0, 68, 137]
    assert [view[0] for view in published.dense_test(300, 32, 4, 3)] == [0, 88, 175]


@pytest.mark.parametrize(
    ("frames", "count", "expected"),
    [
        (16, 50, ["1 4 7 10 13 16 19 22 25 29 32 35 38 41 44 47"]),
        (8, 30, ["1 5 8 12 15 19 23 26"]),
        (8, 5, ["0 0 1 2 2 2 3 4"]),
        (8, 100, ["4 16 29 41 54 66 78 91", "8 20 33 45 58 70 82 95"]),
    ],
)
def test_uniform_is_zeroi2v(frames, count, expected):
    assert published.uniform_test(count, frames, len(expected)) == [ints(view) for view in expected]


@pytest.mark.parametrize(
    ("count", "views", "view", "expected"),
    [
        (100, 1, 0, "3 9 16 22 28 34 41 47 53 59 66 72 78 84 91 97"),
        (100, 3, 0, "2 8 15 21 27 33 40 46 52 58 65 71 77 83 90 96"),
        (100, 3, 1, "4 10 17 23 29 35 42 48 54 60 67 73 79 85 92 98"),
        (100, 3, 2, "6 12 19 25 31 38 44 50 56 62 69 75 81 88 94 99"),
        (10, 1, 0, "0 1 2 2 3 3 4 5 5 6 7 7 8 8 9 9"),
        (10, 3, 0, "0 1 1 2 3 3 4 5 5 6 6 7 8 8 9 9"),
        (10, 3, 2, "1 1 2 2 3 4 4 5 6 6 7 8 8 9 9 9"),
        (37, 1, 0, "1 3 6 8 10 13 15 17 20 22 24 27 29 31 34 36"),
        (37, 3, 1, "2 4 6 8 11 13 15 18 20 22 25 27 29 32 34 36"),
        (37, 3, 2, "2 5 7 9 12 14 16 18 21 23 25 28 30 32 35 36"),
    ],
)
def test_linspace_is_dist(count, views, view, expected):
    assert published.linspace_test(count, 16, views)[view] == ints(expected)


@given(counts, st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
def test_linspace_edges_are_torchs(count, frames):
    assert published._linspace(count, frames).tolist() == torch.linspace(0, count, frames + 1).tolist()


def test_tsn_is_ila():
    # By hand from seg = (n - 1) / T: 99 / 8 = 12.375, edges rounded 0 12 25 37 50 62 74 87 99, middles rounded down.
    assert published.tsn_test(100, 8, 1) == [ints("6 18 31 43 56 68 80 93")]
    # 3 / 2 = 1.5: 1.5 is rounded up to 2, to the even neighbour; 0.5 down to 0.
    assert published.tsn_test(4, 2, 1) == [[1, 2]]
    assert published.tsn_test(5, 8, 1) == [ints("0 0 1 2 2 2 3 4")]
    # A video of fewer frames than asked for: i * n / T rounded, from the beginning again where that is its end.
    assert published.tsn_test(5, 8, 4) == [ints("0 1 1 2 2 3 4 4")] * 4
    assert published.tsn_test(2, 8, 2) == [ints("0 0 0 1 1 1 0 0")] * 2


def test_tsn_views_draw_all_frames_of_each_part_and_are_kept():
    views = published.tsn_test(35, 3, 2000)  # parts of 11; the last two frames belong to none
    for part in range(3):
        seen = Counter(view[part] for view in views)
        assert set(seen) == set(range(part * 11, part * 11 + 11))
        assert 120 < min(seen.values()) <= max(seen.values()) < 250  # 182 expected, standard deviation 13
    np.random.seed(1)
    assert published.tsn_test(35, 3, 2000) == views
    assert published.tsn_test(300, 8, 2)[0] == published.tsn_test(300, 8, 4)[0]
    assert published.tsn_test(300, 8, 2)[0] != published.tsn_test(300, 8, 2)[1]


def test_spread_train_draws_both_ends():
    rng = generator(3)
    drawn = [published.spread_train(21, 2, rng) for _ in range(2000)]  # edges 0 10 20
    for part, low in enumerate((0, 10)):
        seen = Counter(indices[part] for indices in drawn)
        assert set(seen) == set(range(low, low + 11))
        assert min(seen.values()) > 120  # 182 expected


def test_dense_train_reaches_the_places_of_the_published_code():
    rng = generator(4)
    # A view counts as 4 * 5 = 20 long: of 22 frames 3 places, though the view would still fit at 6.
    assert {published.dense_train(22, 4, 5, rng)[0] for _ in range(200)} == {0, 1, 2}
    assert published.dense_train(20, 4, 5, rng) == [0, 5, 10, 15]
    assert published.dense_train(7, 4, 5, rng) == [0, 5, 3, 1]


def test_linspace_train_is_spread_over_the_parts():
    rng = generator(5)
    drawn = [published.linspace_train(20, 2, rng) for _ in range(4000)]  # parts [0, 10] and [10, 20]
    first, second = (Counter(indices[part] for indices in drawn) for part in range(2))
    assert set(first) == set(range(11))
    assert set(second) == set(range(10, 20))
    # The ends are half a frame wide each; 20 is cut off to 19, which is 1.5 wide.
    assert 130 < first[0] < 270
    assert 330 < first[5] < 470
    assert 500 < second[19] < 700


# Any rule


@given(counts, few, strides, few, st.sampled_from(RULES), seeds)
def test_indices_are_frames_of_the_video(count, frames, stride, views, rule, seed):
    wanted = Sampling(frames, rule, stride, views)
    train = train_indices(count, wanted, generator(seed))
    test = sampling.test_indices(count, wanted)
    assert len(test) == views
    loops = (rule == "dense" and count < (frames - 1) * stride + 1) or (rule == "tsn" and views > 1 and count < frames)
    for view in [train, *test]:
        assert len(view) == frames
        assert all(type(index) is int for index in view)
        assert min(view) >= 0
        assert max(view) < count
    for view in [train] * (rule != "dense" or not loops) + test * (not loops):
        assert view == sorted(view)
    assert train_indices(count, wanted, generator(seed)) == train
    assert sampling.test_indices(count, wanted) == test


@given(counts, few, seeds)
def test_training_stays_in_its_parts(count, frames, seed):
    for part, index in enumerate(published.spread_train(count, frames, generator(seed))):
        gap = (count - 1) / frames
        assert math.floor(gap * part) <= index <= math.ceil(gap * (part + 1))
    for part, index in enumerate(published.linspace_train(count, frames, generator(seed))):
        gap = count / frames
        assert math.floor(gap * part) - 1 <= index <= math.ceil(gap * (part + 1))


@given(counts, few, strides, seeds)
def test_dense_keeps_its_stride_around_the_loop(count, frames, stride, seed):
    train = published.dense_train(count, frames, stride, generator(seed))
    for view in [train, *published.dense_test(count, frames, stride, 2)]:
        assert all((after - before - stride) % count == 0 for before, after in pairwise(view))


@given(counts, few, few)
def test_uniform_and_linspace_move_with_the_view(count, frames, views):
    for rule in (published.uniform_test, published.linspace_test):
        table = np.array(rule(count, frames, views))
        assert (np.diff(table, axis=0) >= 0).all()


# Wrong numbers


@pytest.mark.parametrize("rule", RULES)
def test_numbers_below_one(rule):
    for wanted, sentence in [
        (Sampling(8, rule, 4), "count is 0"),
        (Sampling(0, rule, 4), "frames is 0"),
        (Sampling(8, rule, 4, views=0), "views is 0"),
    ]:
        count = 0 if "count" in sentence else 9
        with pytest.raises(BadInput, match=sentence):
            sampling.test_indices(count, wanted)
        if "views" not in sentence:
            with pytest.raises(BadInput, match=sentence):
                train_indices(count, wanted, generator(0))


def test_dense_needs_a_stride():
    with pytest.raises(BadInput, match="stride is 0"):
        train_indices(9, Sampling(8, "dense", 0), generator(0))
    with pytest.raises(BadInput, match="stride is 0"):
        sampling.test_indices(9, Sampling(8, "dense", 0))
