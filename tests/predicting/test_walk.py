"""Windows that share frames: the same answers as one by one, with each frame encoded once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from asked import recogniser
from clips import moving_square, write_video
from muybridge.engine.answers import Question
from muybridge.methods import build_method
from muybridge.predicting import asking
from muybridge.predicting.asking import ask_windows
from muybridge.predicting.reading import as_item
from muybridge.predicting.walk import Walk, encodes_once, shared, sharing_pays
from muybridge.recogniser import Recogniser

OPTIONS = {"evl": {"layers": 2, "heads": 2}, "dist": {"width": 48, "temporal_width": 12, "head": "linear"}}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """8.5 seconds: 102 frames at 12 a second."""
    path = tmp_path_factory.mktemp("walk") / "film.mp4"
    write_video(path, np.concatenate([moving_square("rising", i) for i in range(9)])[:102])
    return path


def model_of(name, crops=1):
    """With parameters drawn that begin as zeros, so that every branch tells something."""
    plain = recogniser("evl")
    torch.manual_seed(1)
    method = build_method(name, plain.method.backbone, 3, 4, (32, 32), OPTIONS.get(name, {}))
    for parameter in method.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    spec = replace(plain.spec, method=name, sampling=replace(plain.sampling, crops=crops))
    return Recogniser(method.eval(), spec)


def asked(model, film, window, step, features=True):
    question = Question(model.method, model.spec, 3, batch_size=5)
    line, vectors = ask_windows(model, question, as_item(film), window, step, features=features)
    scores = [sorted((one.index, one.score) for one in window.predictions) for window in line.windows]
    return torch.tensor([[score for _, score in row] for row in scores]), vectors


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("step", [1.0, 0.5])
@pytest.mark.parametrize("name", ["evl", "dist", "probe"])
def test_the_answers_are_those_of_whole_windows(name, step, crops, film, monkeypatch):
    model, read = model_of(name, crops), []
    embed = model.method.backbone.embed
    monkeypatch.setattr(model.method.backbone, "embed", lambda x, *more: read.append(len(x)) or embed(x, *more))
    scores, vectors = asked(model, film, 2.0, step)
    walked = sum(read)
    read.clear()
    monkeypatch.setattr(asking, "sharing_pays", lambda *given: False)
    whole, whole_vectors = asked(model, film, 2.0, step)
    torch.testing.assert_close(scores, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(vectors, whole_vectors, rtol=1e-4, atol=1e-5)
    assert (whole[0] - whole[-1]).abs().max() > 1e-4
    assert walked < 0.7 * sum(read)


def test_which_frames_two_windows_share():
    assert shared([1, 2, 3, 4], [3, 4, 5, 6]) == 2
    assert shared([1, 2, 3, 4], [1, 2, 3, 4]) == 4
    assert shared([1, 2, 3, 4], [2, 4, 6, 8]) == 0  # in other places: another neighbour
    assert shared([5, 5, 5, 5], [5, 5, 6, 6]) == 2
    assert shared([], [1, 2]) == 0


def test_where_sharing_pays():
    cpu, model = torch.device("cpu"), recogniser("evl").method
    half = [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert sharing_pays(model, cpu, half)
    assert not sharing_pays(model, torch.device("cuda"), half)
    assert not sharing_pays(model, cpu, half[:1])
    assert not sharing_pays(model, cpu, [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert not sharing_pays(recogniser("st_adapter").method, cpu, half)


def test_where_sharing_pays_if_the_backbone_reads_every_second_frame():
    cpu, method = torch.device("cpu"), model_of("dist").method
    assert (method.frames, method.backbone_frames) == (4, 2)
    assert sharing_pays(method, cpu, [[k, k + 1, k + 2, k + 3] for k in range(8)])  # each frame once, in place of twice
    assert sharing_pays(method, cpu, [[k, k + 1, k + 2, k + 3] for k in range(0, 16, 2)])
    # One frame in four is shared, and read in the second window only.
    assert not sharing_pays(method, cpu, [[k, k + 1, k + 2, k + 3] for k in range(0, 24, 3)])


def test_features_can_be_trained_on(film):
    _, vectors = asked(model_of("evl"), film, 2.0, 1.0)
    assert not vectors.is_inference()


def test_windows_that_stay_or_leap():
    method = model_of("evl").method
    film = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plan = [[0, 1, 2, 3], [0, 1, 2, 3], [3, 4, 5, 5], [5, 5, 6, 7], [0, 2, 4, 6], [6, 7, 8, 9]]
    walk = Walk(method, plan)
    assert encodes_once(method)
    with torch.inference_mode():
        for indices in plan:
            video = film[indices][None]
            torch.testing.assert_close(walk.forward(video).logits, method(video).logits, rtol=0, atol=1e-5)
