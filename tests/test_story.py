"""From video files to the right word, through the API and through the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest

import muybridge
from clips import CLASSES, moving_square, write_video
from muybridge.errors import BadInput
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video.decode import open_video


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """EVL trained on 16 small videos a class."""
    folder = tmp_path_factory.mktemp("story") / "evl"
    videos = folder.parent / "videos"
    for place, seeds in (("train", range(16)), ("val", range(100, 104))):
        for number, label in enumerate(CLASSES):
            for seed in seeds:
                write_video(videos / place / label / f"{seed}.mp4", moving_square(label, 1000 * number + seed))
    recipe = Recipe(
        method="evl",
        options={"layers": 2, "heads": 3, "dropout": 0.1},
        backbone="custom",
        data=str(videos),
        sampling=Sampling(frames=4),
        transform=Transform(size=(32, 32), crop="center"),
        train=TrainArgs(epochs=30, batch_size=8, lr=3e-3, workers=0, fixed_views=4, cache="memory"),
    )
    muybridge.train(recipe, folder, backbone=random_backbone(tiny_backbones()["dinov2"]))
    return folder


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Two new films of every class."""
    folder = tmp_path_factory.mktemp("unseen")
    films = [(label, folder / f"{label}-{seed}.mp4", seed) for label in CLASSES for seed in (7001, 7002)]
    for label, path, seed in films:
        write_video(path, moving_square(label, seed))
    return [(label, path) for label, path, _ in films]


def test_the_right_word_through_the_api(run, unseen):
    recogniser = muybridge.load(run)
    answers = [(recogniser.predict(path)[0].label, label) for label, path in unseen]
    assert sum(answer == label for answer, label in answers) >= 5, answers
    best = recogniser.predict(unseen[0][1])
    assert [answer.score for answer in best] == sorted((answer.score for answer in best), reverse=True)
    assert sum(answer.score for answer in best) == pytest.approx(1, abs=1e-5)


def test_the_same_words_through_the_command_line(run, unseen):
    command = [sys.executable, "-m", "muybridge", "predict", str(run), *(str(path) for _, path in unseen), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    recogniser = muybridge.load(run)
    for line, (_, path) in zip(result.stdout.splitlines(), unseen, strict=True):
        answer = json.loads(line)
        ours = recogniser.predict(path)[0]
        assert answer["video"] == str(path)
        assert answer["predictions"][0]["label"] == ours.label
        assert answer["predictions"][0]["score"] == pytest.approx(ours.score, abs=1e-5)


def test_frames_in_memory_are_answered_like_the_file(run, unseen):
    recogniser = muybridge.load(run)
    path = unseen[0][1]
    with open_video(path) as video:
        frames = video.read(range(video.frame_count))
    assert recogniser.predict(frames) == recogniser.predict(path)
    with pytest.raises(BadInput, match="expected uint8"):
        recogniser.predict(frames.astype(np.float32))


def test_a_video_shorter_than_the_frames_asked_for_is_answered(run, tmp_path):
    write_video(tmp_path / "short.mp4", moving_square("rising", 3)[:2])
    assert len(muybridge.load(run).predict(tmp_path / "short.mp4")) == 3


def test_saved_again_it_is_the_same(run, unseen, tmp_path):
    recogniser = muybridge.load(run)
    recogniser.save(tmp_path / "copy")
    assert muybridge.load(tmp_path / "copy").predict(unseen[0][1]) == recogniser.predict(unseen[0][1])
    with pytest.raises(BadInput, match="nothing is written over"):
        recogniser.save(tmp_path / "copy")
