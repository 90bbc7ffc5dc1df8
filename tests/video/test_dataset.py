"""Samples that depend on seed and key only, views in order, and videos that cannot be decoded."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from muybridge.structures import Item, Sampling, Transform
from muybridge.video import transforms
from muybridge.video.dataset import VideoDataset, collate
from muybridge.video.decode import read_frames
from muybridge.video.sampling import generator

TRANSFORM = Transform(size=(16, 24), flip=0.5)
EVERYTHING = replace(
    TRANSFORM,
    train_resize=40,
    randaugment="rand-m7-n4-mstd0.5-inc1",
    color_jitter=(0.4, 0.4, 0.2, 0.1),
    color_jitter_per_frame=True,
    grayscale=0.2,
    erasing=0.5,
    erasing_fill="noise",
    swap_labels=((0, 1),),
)


@pytest.fixture
def items(film_path, tmp_path):
    """Four videos; the third is no video."""
    (tmp_path / "broken.mp4").write_text("broken")
    films = ["b_frames.mp4", "vp9.webm", None, "mpeg4.avi"]
    paths = [str(film_path(name)) if name else str(tmp_path / "broken.mp4") for name in films]
    return [Item(path, place % 3, f"{place}.mp4") for place, path in enumerate(paths)]


def training(items, sampling=None, seed=7):
    return VideoDataset(items, sampling or Sampling(6, "stride", 4), TRANSFORM, True, seed)


def test_training_sample(items):
    sample = training(items)[1]
    assert sample["video"].shape == (6, 3, 16, 24)
    assert sample["video"].dtype == torch.float32
    assert (sample["label"], sample["index"]) == (1, 1)


def test_sample_depends_on_seed_epoch_index_and_view(items):
    dataset = training([items[0]] * 2)
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    videos = [dataset[key]["video"] for key in keys] + [training([items[0]], seed=8)[0]["video"]]
    for place, video in enumerate(videos):
        assert all(not torch.equal(video, other) for other in videos[:place])
    # Not on what was drawn before, nor on global state.
    torch.manual_seed(3)
    for key, video in reversed(list(zip(keys, videos, strict=False))):
        assert torch.equal(dataset[key]["video"], video)


def test_parts_of_a_key_may_be_left_out(items):
    dataset = training(items)
    assert torch.equal(dataset[1]["video"], dataset[(0, 1, 0)]["video"])
    assert torch.equal(dataset[(3, 1)]["video"], dataset[(3, 1, 0)]["video"])


def test_views_at_test_time_are_spatial_major(items):
    sampling = Sampling(4, "segments", views=2, crops=3)
    video = VideoDataset(items, sampling, TRANSFORM, False, 0)[0]["video"]
    assert video.shape == (6, 4, 3, 16, 24)
    # 60 frames in four parts of 15: 2 views at a quarter and three quarters of each.
    for view, indices in enumerate([[3, 18, 33, 48], [11, 26, 41, 56]]):
        frames = read_frames(items[0].path, indices)
        crops = transforms.test_video(frames, TRANSFORM, 3)
        for crop in range(3):
            assert torch.equal(video[crop * 2 + view], crops[crop])


def test_training_draws_frames_then_crop_from_one_generator(items):
    rng = generator(7, 2, 0, 1)
    start = int(rng.integers(60 - 20))
    frames = read_frames(items[0].path, range(start, start + 24, 4))
    expected = transforms.train_video(frames, TRANSFORM, rng)
    assert torch.equal(training(items)[(2, 0, 1)]["video"], expected)


def test_a_mirrored_video_has_the_label_that_it_is_swapped_with(items):
    transform = replace(TRANSFORM, swap_labels=((0, 2),), crop="center")
    films = [replace(items[0], label=label) for label in range(3)]
    dataset = VideoDataset(films, Sampling(2, "segments"), transform, True, 0)
    plain = VideoDataset(films, Sampling(2, "segments"), replace(transform, flip=0.0), True, 0)
    swapped, seen = {0: 2, 1: 1, 2: 0}, set()
    for epoch in range(8):
        for index in range(3):
            sample, upright = dataset[(epoch, index)], plain[(epoch, index)]
            mirrored = not torch.equal(sample["video"], upright["video"])
            assert torch.equal(sample["video"], upright["video"].flip(-1) if mirrored else upright["video"])
            assert sample["label"] == (swapped[index] if mirrored else index)
            seen.add((index, mirrored))
    assert len(seen) == 6
    testing = VideoDataset(films, Sampling(2, "segments"), replace(transform, flip=1.0), False, 0)
    assert [testing[index]["label"] for index in range(3)] == [0, 1, 2]


def test_a_single_view_is_told_to_the_transform(items):
    transform = replace(TRANSFORM, resize=24, resize_single=32)
    frames = read_frames(items[0].path, [15, 45])
    for views, crops, single in [(1, 1, True), (1, 3, False), (2, 1, False)]:
        video = VideoDataset(items, Sampling(2, "segments", 1, views, crops), transform, False, 0)[0]["video"]
        if views == 1:
            assert torch.equal(video, transforms.test_video(frames, transform, crops, single))
        else:
            other = VideoDataset(
                items, Sampling(2, "segments", 1, views), replace(transform, resize_single=0), False, 0
            )
            assert torch.equal(video, other[0]["video"])


def test_broken_video_is_told(items):
    sample = training(items)[(0, 2)]
    assert sample["index"] == 2
    assert sample["error"].endswith("broken.mp4: not a video file that FFmpeg can read")
    assert "video" not in sample


def test_collate(items):
    dataset = training(items)
    batch = collate([dataset[place] for place in (3, 2, 0)])
    assert batch["video"].shape == (2, 6, 3, 16, 24)
    assert torch.equal(batch["video"][0], dataset[3]["video"])
    assert batch["label"].tolist() == [0, 0]
    assert batch["label"].dtype == torch.long
    assert batch["index"].tolist() == [3, 0]
    assert list(batch["errors"]) == [2]
    assert "broken.mp4" in batch["errors"][2]


def test_collate_of_nothing_good(items):
    batch = collate([training(items)[2]])
    assert batch["video"] is None
    assert batch["label"].tolist() == batch["index"].tolist() == []
    assert list(batch["errors"]) == [2]


@pytest.mark.parametrize("transform", [TRANSFORM, EVERYTHING], ids=["plain", "everything"])
def test_workers_change_nothing(items, transform):
    dataset = VideoDataset(items, Sampling(6, "stride", 4), transform, True, 7)

    def batches(workers):
        sampler = [(2, index) for index in reversed(range(len(dataset)))]
        return list(DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=collate))

    for alone, together in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone["video"], together["video"])
        assert torch.equal(alone["label"], together["label"])
        assert alone["index"].tolist() == together["index"].tolist()
        assert alone["errors"] == together["errors"]
