"""What a class loses without a frame."""

import pytest
import torch
from explain_cases import Brightness, draw_video, make

from muybridge.explain.importance import passes, without_each
from muybridge.methods import METHODS


def score(method, video, index=1):
    with torch.no_grad():
        return method(video).logits.softmax(-1)[0, index]


def only(frame):
    weight = torch.zeros(4, 16)
    weight[frame] = 1.0
    return Brightness(weight)


def test_a_frame_that_is_ignored_has_exactly_none():
    method, video = only(2), draw_video(1)
    lost = score(method, video) - without_each(method, video, 1)
    assert lost[[0, 1, 3]].tolist() == [0, 0, 0]
    assert lost[2] != 0


@pytest.mark.parametrize("name", METHODS)
def test_a_still_film_loses_nothing(name):
    method = make(name, "clip")
    video = draw_video(1)[:, :1].expand(-1, 4, -1, -1, -1).contiguous()
    torch.testing.assert_close(without_each(method, video, 1), score(method, video).expand(4), atol=1e-6, rtol=1e-5)


def test_is_the_mean_over_both_neighbours():
    method, video, told = make("evl", "clip"), draw_video(1), []
    without = without_each(method, video, 1, told.append)
    assert sum(told) == passes(4) == 6
    for t in range(4):
        scores = []
        for other in (t - 1, t + 1):
            if 0 <= other < 4:
                changed = video.clone()
                changed[0, t] = video[0, other]
                scores.append(score(method, changed))
        torch.testing.assert_close(without[t], torch.stack(scores).mean(), atol=1e-6, rtol=1e-5)


def test_the_only_frame_is_replaced_by_its_mean_colour():
    method = Brightness(torch.linspace(0, 1, 16)[None])
    video = draw_video(1)[:, :1]
    grey = video.mean(dim=(3, 4), keepdim=True).expand_as(video).contiguous()
    torch.testing.assert_close(without_each(method, video, 1)[0], score(method, grey))
    assert passes(1) == 1
