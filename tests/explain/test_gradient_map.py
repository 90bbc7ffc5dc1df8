"""Gradient maps of models whose answer is known, and of every method."""

import pytest
import torch
from explain_cases import BACKBONES, Brightness, draw_video, make, randomly

from muybridge.errors import BadInput
from muybridge.explain.gradient import gradient_map, log_odds
from muybridge.methods import METHODS
from muybridge.structures import Output


def test_points_at_the_one_patch_that_decides():
    weight = torch.zeros(4, 16)
    weight[2, 5] = 3.0
    video = draw_video(1)
    video[0, 2, :, 8:16, 8:16] += 2.0  # patch 5 of frame 2 is brighter than the others
    heat = gradient_map(Brightness(weight), video, 1).flatten(1)
    assert heat[2, 5] > 0
    heat[2, 5] = 0
    assert not heat.any()


def test_is_what_the_class_loses_with_the_mean_patch():
    weight = randomly(4, 16)
    method, video = Brightness(weight), draw_video(1)
    heat = gradient_map(method, video, 1).flatten(1)
    patches = video.unfold(3, 8, 8).unfold(4, 8, 8).mean(dim=(2, 5, 6)).flatten(2)[0]  # [T, P], mean values
    lost = weight * (patches - patches.mean(dim=1, keepdim=True))
    torch.testing.assert_close(heat, lost.clamp_min(0), atol=1e-5, rtol=1e-4)
    # What speaks for one of two classes speaks against the other.
    torch.testing.assert_close(gradient_map(method, video, 0).flatten(1), (-lost).clamp_min(0), atol=1e-5, rtol=1e-4)


def test_log_odds():
    logits = randomly(2, 5)
    p = logits.softmax(-1)[:, 3]
    torch.testing.assert_close(log_odds(logits, 3), (p / (1 - p)).log())


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_every_backbone(name, family):
    method = make(name, family)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    heat = gradient_map(method, draw_video(1), 2)
    assert heat.shape == (method.backbone_frames, 4, 4)
    assert torch.isfinite(heat).all()
    assert (heat >= 0).all()
    assert heat.any()
    assert not heat.requires_grad
    # Nothing stays behind.
    assert "freezes_backbone" not in vars(method)
    assert all(parameter.grad is None for parameter in method.parameters())
    assert not any(parameter.requires_grad for parameter in method.backbone.parameters())
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_a_model_without_gradient_says_so():
    class Deaf(Brightness):
        def forward(self, video):
            return Output(super().forward(video).logits.detach())

    with pytest.raises(BadInput, match="choose the method 'rollout'"):
        gradient_map(Deaf(torch.ones(4, 16)), draw_video(1), 1)
