"""Mixup and cutmix: what is drawn, what becomes of pixels and labels, and that a training with them can be repeated."""

import hashlib
import json
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from muybridge.engine import run, step
from muybridge.engine.batches import FeatureBatches
from muybridge.engine.checkpoint import MODEL
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.loss import total_loss
from muybridge.engine.mix import Mix, draw_mix, mix_videos, mixes, soft_targets
from muybridge.engine.progress import Progress
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput
from muybridge.recipes import validate
from muybridge.structures import Output, TrainArgs
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video.dataset import Source
from trainings import probe_recipe

BOTH = TrainArgs(mixup=0.8, cutmix=1.0)
SIZE = (20, 30)


def mixed(args, batches=2000, size=SIZE):
    return [draw_mix(args, size, 0, number) for number in range(batches)]


def numbered(videos, frames=2):
    """A batch [B, T, 3, *SIZE] whose pixels tell video, frame and place."""
    return torch.arange(videos * frames * 3 * SIZE[0] * SIZE[1], dtype=torch.float32).view(videos, frames, 3, *SIZE)


# What is drawn


def test_nothing_is_mixed_unless_asked():
    assert not mixes(TrainArgs())
    assert draw_mix(TrainArgs(), SIZE, 0, 0) is None
    assert draw_mix(replace(BOTH, mix_probability=0.0), SIZE, 0, 0) is None


def test_shares_of_mixed_and_of_cut_batches():
    drawn = mixed(replace(BOTH, mix_probability=0.6, cutmix_share=0.25))
    some = [mix for mix in drawn if mix is not None]
    assert abs(len(some) / len(drawn) - 0.6) < 0.04  # standard deviation 0.011
    assert abs(np.mean([mix.box is not None for mix in some]) - 0.25) < 0.05
    assert all(mix.box is None for mix in mixed(TrainArgs(mixup=0.8), 50))
    assert all(mix.box is not None for mix in mixed(TrainArgs(cutmix=1.0), 50))


@pytest.mark.parametrize("alpha", [0.2, 0.8, 4.0])
def test_weights_of_mixup_are_beta(alpha):
    weights = np.array([mix.weight for mix in mixed(TrainArgs(mixup=alpha))])
    assert weights.mean() == pytest.approx(0.5, abs=0.04)
    assert weights.var() == pytest.approx(1 / (8 * alpha + 4), rel=0.12)  # of beta(a, a)


def test_boxes_of_cutmix():
    drawn = mixed(TrainArgs(cutmix=1.0), size=(224, 224))
    boxes = np.array([mix.box for mix in drawn])
    top, left, height, width = boxes.T
    assert top.min() == left.min() == 0
    assert (top + height).max() == (left + width).max() == 224
    assert (height >= 0).all()
    inside = (top > 0) & (top + height < 224) & (left > 0) & (left + width < 224)
    assert abs(height - width)[inside].max() == 0  # of the picture's aspect where nothing is clipped
    for mix in drawn:
        assert mix.weight == pytest.approx(1 - mix.box[2] * mix.box[3] / 224**2)


def test_draws_depend_on_seed_epoch_and_number_alone():
    keys = [(seed, epoch, number) for seed in (0, 1) for epoch in (0, 1) for number in (0, 1)]

    def draw(seed, epoch, number):
        return draw_mix(replace(BOTH, seed=seed), SIZE, epoch, number)

    torch.manual_seed(1)
    np.random.seed(1)
    first = [draw(*key) for key in keys]
    torch.manual_seed(2)
    np.random.seed(2)
    assert [draw(*key) for key in reversed(keys)] == first[::-1]
    assert len({mix.weight for mix in first}) == len(keys)


# What becomes of pixels and labels


@pytest.mark.parametrize("videos", [1, 2, 5])
def test_mixup_blends_with_the_partner(videos):
    batch = numbered(videos)
    kept = batch.clone()
    out = mix_videos(batch, Mix(0.3))
    for place in range(videos):
        expected = 0.3 * batch[place] + 0.7 * batch[videos - 1 - place]
        torch.testing.assert_close(out[place], expected)
    assert torch.equal(batch, kept)


@pytest.mark.parametrize("videos", [1, 2, 5])
def test_cutmix_puts_the_same_box_into_all_frames(videos):
    batch = numbered(videos)
    kept = batch.clone()
    out = mix_videos(batch, Mix(0.8, (3, 5, 10, 12)))
    for place in range(videos):
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                source = videos - 1 - place if 3 <= row < 13 and 5 <= column < 17 else place
                assert torch.equal(out[place, ..., row, column], batch[source, ..., row, column])
    assert torch.equal(batch, kept)


def test_the_weight_of_cutmix_is_the_share_of_pixels_that_stay():
    batch = numbered(2)
    for number in range(40):
        mix = draw_mix(TrainArgs(cutmix=1.0), SIZE, 0, number)
        stays = (mix_videos(batch, mix) == batch).float().mean().item()
        assert mix.weight == pytest.approx(stays, abs=1e-6)


def test_targets_are_smoothed_inside():
    targets = soft_targets(torch.tensor([0, 2]), 4, 0.1, Mix(0.75))
    off, on = 0.1 / 4, 0.9 + 0.1 / 4
    mine, other = 0.75 * on + 0.25 * off, 0.25 * on + 0.75 * off
    torch.testing.assert_close(targets, torch.tensor([[mine, off, other, off], [other, off, mine, off]]))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))
    same = soft_targets(torch.tensor([1, 1]), 4, 0.0, Mix(0.4))
    torch.testing.assert_close(same, functional.one_hot(torch.tensor([1, 1]), 4).float())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_soft_targets_is_that_of_labels_where_nothing_is_mixed(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    output = Output(logits, {"own": torch.tensor(0.5)})
    plain = total_loss(output, labels, smoothing)
    torch.testing.assert_close(total_loss(output, soft_targets(labels, 5, smoothing), smoothing), plain)
    mix = Mix(0.3)
    soft = total_loss(output, soft_targets(labels, 5, smoothing, mix), smoothing)
    parts = [total_loss(output, given, smoothing) for given in (labels, labels.flip(0))]
    torch.testing.assert_close(soft, 0.3 * parts[0] + 0.7 * parts[1])


# Training


@pytest.fixture
def recipe(videos):
    args = {"epochs": 2, "batch_size": 4, "accumulate": 2, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
    return validate(probe_recipe(videos, frames=2, **args))


def backbone():
    return random_backbone(tiny_backbones()["dinov2"])


def digest(folder):
    return hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()


def with_train(recipe, **changes):
    return replace(recipe, train=replace(recipe.train, **changes))


def test_mixed_training_can_be_repeated_with_workers_and_is_another_one(recipe, tmp_path):
    train(recipe, tmp_path / "one", backbone=backbone())
    torch.manual_seed(5)
    train(with_train(recipe, workers=1), tmp_path / "two", backbone=backbone())
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    train(with_train(recipe, mixup=0.0, cutmix=0.0), tmp_path / "plain", backbone=backbone())
    assert digest(tmp_path / "plain") != digest(tmp_path / "one")


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.parametrize("batches", [1, 3, 6])
def test_interrupted_mixed_training_ends_like_one_that_was_not(recipe, tmp_path, batches):
    class StopAt(Progress):
        left = batches

        def advance(self, amount, **figures):
            if figures:
                self.left -= 1
                if self.left == 0:
                    signal.raise_signal(signal.SIGINT)

    train(recipe, tmp_path / "whole", backbone=backbone())
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", backbone=backbone(), progress=StopAt())
    resume(tmp_path / "cut", backbone=backbone())
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_accuracy_is_that_of_the_larger_share(recipe, tmp_path, monkeypatch):
    seen = []

    def right(output, targets, smoothing, *weights):
        output.logits.data.copy_(targets)
        seen.append(targets)
        return total_loss(output, targets, smoothing, *weights)

    monkeypatch.setattr(step, "total_loss", right)
    train(with_train(recipe, epochs=3), tmp_path / "run", backbone=backbone())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["accuracy"] for line in lines] == [1.0] * 3
    assert torch.cat(seen).shape == (3 * 15, 3)


def test_every_batch_of_every_epoch_has_a_draw_of_its_own(recipe, tmp_path, monkeypatch):
    asked = []

    def draw(args, size, epoch, number):
        asked.append((size, epoch, number))
        return draw_mix(args, size, epoch, number)

    monkeypatch.setattr(run, "draw_mix", draw)
    train(recipe, tmp_path / "run", backbone=backbone())
    assert asked == [((32, 32), epoch, number) for epoch in range(2) for number in range(4)]


def test_the_model_sees_what_was_mixed(recipe, tmp_path, monkeypatch):
    mixed_videos, seen = [], []
    forward = step.Step.forward

    def mix(video, how):
        mixed_videos.append(mix_videos(video, how))
        return mixed_videos[-1]

    monkeypatch.setattr(step, "mix_videos", mix)
    monkeypatch.setattr(step.Step, "forward", lambda self, video: (seen.append(video), forward(self, video))[1])
    train(with_train(recipe, epochs=1), tmp_path / "run", backbone=backbone())
    assert len(seen) == 4
    assert all(torch.equal(*pair) for pair in zip(seen, mixed_videos, strict=True))


def test_features_cannot_be_mixed(recipe, tmp_path):
    with pytest.raises(BadInput, match="keeps features and no pixels, so videos cannot be mixed"):
        train(with_train(recipe, cache="memory", fixed_views=1), tmp_path / "run", backbone=backbone())
    features = FeatureBatches({"x": torch.zeros(2, 1)}, torch.zeros(2), {}, 2, 0)
    source = Source((), (), ("a", "b"), "")
    with pytest.raises(BadInput, match="Cached features cannot be mixed"):
        train(recipe, tmp_path / "run", source, backbone(), batches=(features, features))


def test_pairs_of_another_data_set_are_refused(recipe, tmp_path):
    recipe = replace(recipe, transform=replace(recipe.transform, flip=0.5, swap_labels=((86, 87),)))
    with pytest.raises(BadInput, match="swap_labels names class 87, and the data set has 3 classes, 0 to 2"):
        train(recipe, tmp_path / "run", backbone=backbone())
