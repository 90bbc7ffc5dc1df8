"""Frames that are transformed where the training is: the same draws, the same bits on a CPU, the same training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from muybridge.engine.batches import VideoBatches
from muybridge.engine.features import video_halves
from muybridge.engine.train import train
from muybridge.errors import BadInput
from muybridge.structures import Item, Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video import transforms
from muybridge.video.dataset import read_source
from muybridge.video.draws import generator

CHANGES = Transform((32, 32), flip=0.5, swap_labels=((1, 2),), grayscale=0.5, erasing=0.5)
KINDS = {
    "bytes": CHANGES,
    "fractions": replace(CHANGES, arithmetic="float", antialias=False, interpolation="bicubic"),
    "rounded": replace(CHANGES, arithmetic="rounded", train_resize=40, crop="multiscale", erasing_fill="grey"),
    "placed": replace(CHANGES, crop="random", resize=40, erasing_fill="noise"),
}


def vit():
    return random_backbone(tiny_backbones()["dinov2"])


def halves(videos, transform, on, workers=0, device=None, **sampling):
    args = TrainArgs(batch_size=4, workers=workers, transform_on=on)
    recipe = Recipe("probe", sampling=Sampling(4, **sampling), transform=transform, train=args)
    return video_halves(recipe, read_source(videos), device)


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.inputs, other.inputs)
        assert batch.labels.tolist() == other.labels.tolist()
        assert batch.indices.tolist() == other.indices.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_on_a_cpu(videos, kind):
    at_worker, at_device = (halves(videos, KINDS[kind], on)[0] for on in ("workers", "device"))
    assert_same(list(at_worker.epoch(1)), list(at_device.epoch(1)))


@pytest.mark.parametrize(("views", "crops"), [(1, 1), (2, 3)])
def test_the_same_bits_in_evaluation(videos, views, crops):
    transform = replace(CHANGES, resize=40, resize_single=36)
    at_worker, at_device = (halves(videos, transform, on, views=views, crops=crops)[1] for on in ("workers", "device"))
    assert_same(list(at_worker.epoch(0)), list(at_device.epoch(0)))
    assert next(at_device.epoch(0)).inputs.shape[1:4] == (views * crops, 4, 3)


def test_workers_send_bytes_and_the_state_of_their_draws(videos):
    plain = halves(videos, CHANGES, "workers")[0]
    raw = halves(videos, CHANGES, "device", workers=2, device=torch.device("cpu"))[0]
    sample = raw.dataset[0, 3, 0]
    assert sample["frames"].dtype == torch.uint8
    assert sample["frames"].shape == (4, 48, 48, 3)
    assert "video" not in sample
    assert_same(list(plain.epoch(2)), list(raw.epoch(2)))


def test_videos_that_cannot_be_read_are_left_out(videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    batches = halves(videos, CHANGES, "device")[0]
    for items in ([Item(str(broken), 0, "broken.mp4"), *batches.dataset.items[:1]], [Item(str(broken), 0, "b")]):
        batches.dataset.items = tuple(items)
        (batch,) = VideoBatches(batches.dataset, 2).epoch(0)
        assert list(batch.errors) == [0]
        assert batch.indices.tolist() == list(range(1, len(items)))
        assert (batch.inputs is None) == (len(items) == 1)


def test_the_same_training(videos, tmp_path):
    recipe = Recipe(
        "probe",
        data=str(videos),
        sampling=Sampling(4, views=2),
        transform=Transform((32, 32), flip=0.5),
        train=TrainArgs(epochs=2, batch_size=4, workers=0, evaluate_every=2),
    )
    results = [
        train(replace(recipe, train=replace(recipe.train, transform_on=on)), tmp_path / on, backbone=vit())
        for on in ("workers", "device")
    ]
    tensors = [result.method.state_dict() for result in results]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    assert torch.equal(results[0].evaluation.scores, results[1].evaluation.scores)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"randaugment": "rand-m7-n4-mstd0.5-inc1"}, "randaugment"), ({"color_jitter": (0.4, 0, 0, 0)}, "color_jitter")],
)
def test_what_pillow_does_is_for_workers(videos, tmp_path, change, word):
    recipe = Recipe(
        "probe",
        data=str(videos),
        transform=Transform((32, 32), **change),
        train=TrainArgs(epochs=1, workers=0, transform_on="device"),
    )
    with pytest.raises(BadInput, match=f"transform.{word}, which Pillow does.*transform_on workers"):
        train(recipe, tmp_path / "run", backbone=vit())
    assert not Path(tmp_path / "run").exists()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_bytes_by_fractions_are_within_a_level(interpolation, antialias):
    # What a GPU does in place of resizing bytes.
    video = transforms.frames_to_tensor(np.random.default_rng(0).integers(0, 256, (2, 61, 83, 3), dtype=np.uint8))
    options = {"mode": interpolation, "antialias": antialias}
    for size in ((40, 31), (70, 90)):
        bytewise = transforms._resize(video, size, Transform(interpolation=interpolation, antialias=antialias))
        difference = (transforms._resize_fractions(video, size, options).int() - bytewise.int()).abs()
        assert difference.max() <= (1 if interpolation == "bilinear" else 2)
        assert (difference > 0).float().mean() < 0.03


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_is_within_one_level(videos, kind):
    device = torch.device("cuda")
    plain = halves(videos, KINDS[kind], "workers")[0]
    for workers in (0, 2):
        raw = halves(videos, KINDS[kind], "device", workers, device)[0]
        batches = list(raw.epoch(1))
        # One level of 255, divided by ImageNet's smallest deviation.
        limit = 1e-5 if kind == "fractions" else 1.01 / 255 / 0.224
        for batch, other in zip(batches, plain.epoch(1), strict=True):
            assert batch.inputs.device.type == "cuda"
            assert (batch.inputs.cpu() - other.inputs).abs().max() <= limit
            assert batch.labels.tolist() == other.labels.tolist()


@pytest.mark.gpu
def test_a_batch_ahead_has_the_same_bits(videos):
    there = halves(videos, CHANGES, "workers", 1, torch.device("cuda"))[0]
    here = halves(videos, CHANGES, "workers")[0]
    for batch, other in zip(there.epoch(0), here.epoch(0), strict=True):
        assert batch.inputs.device.type == "cuda"
        assert torch.equal(batch.inputs.cpu(), other.inputs)


def test_frames_may_be_tensors():
    frames = np.random.default_rng(1).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    for transform in KINDS.values():
        from_array, from_tensor = (
            transforms.train_view(source, transform, generator(3)) for source in (frames, torch.from_numpy(frames))
        )
        assert torch.equal(from_array[0], from_tensor[0])
        assert from_array[1] == from_tensor[1]
    with pytest.raises(BadInput, match="expected uint8"):
        transforms.test_video(torch.zeros(3, 40, 50, 3), CHANGES, 1)
