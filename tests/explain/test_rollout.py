"""Roll-out of attention against products of whole matrices, and that watching changes nothing."""

import pytest
import torch
from explain_cases import BACKBONES, draw_video, make, randomly

from muybridge.explain.rollout import Watched, by_offset, rollout, rollout_map, sources, watched
from muybridge.methods import METHODS

T, L = 3, 5


def attention(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)


def plain(steps, read):
    """The same by matrices [T * L, T * L] over all tokens of all frames."""
    share = read.flatten()
    for step in reversed(steps):
        whole = torch.zeros(T, L, T, L)
        if isinstance(step, torch.Tensor):
            for place in range(L):
                whole[:, place, :, place] = step[place]
        else:
            for offset, maps in step.items():
                for t in range(T):
                    other = t + offset if 0 <= t + offset < T else t
                    whole[t, :, other] += maps[t]
        share = share @ (torch.eye(T * L) + whole.reshape(T * L, T * L)) / 2
    return share.unflatten(0, (T, L))


def class_tokens():
    read = torch.zeros(T, L)
    read[:, 0] = 1 / T
    return read


def test_of_attention_to_oneself_is_what_was_read():
    itself = torch.eye(L).expand(T, L, L)
    read = randomly(T, L).softmax(-1) / T
    torch.testing.assert_close(rollout(Watched([{0: itself}] * 3), read), read)


@pytest.mark.parametrize(
    "steps",
    [
        [{0: attention(T, L, L, seed=seed)} for seed in range(3)],
        [{o: attention(T, L, L, seed=o + 5) / 3 for o in (-2, 0, 1)}, {0: attention(T, L, L)}],
        [{0: attention(T, L, L)}, attention(L, T, T, seed=1), {0: attention(T, L, L, seed=2)}],
    ],
    ids=["own-frame", "shifted-heads", "through-time"],
)
def test_is_the_product_of_the_matrices(steps):
    got = rollout(Watched(steps), class_tokens())
    torch.testing.assert_close(got, plain(steps, class_tokens()))
    torch.testing.assert_close(got.sum(), torch.tensor(1.0))


def test_last_block_may_make_the_class_token_only():
    full = [{0: attention(T, L, L)}, {0: attention(T, L, L, seed=1)}]
    short = [full[0], {0: full[1][0][:, :1]}]
    torch.testing.assert_close(rollout(Watched(short), class_tokens()), rollout(Watched(full), class_tokens()))


def test_heads_are_averaged_by_their_shares():
    q, k = randomly(2, 3, 4, 8), randomly(2, 3, 4, 8, seed=1)
    probability = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    maps = by_offset(q, k, {0: torch.tensor([1.0, 0.25, 0.0]), 1: torch.tensor([0.0, 0.75, 1.0])})
    torch.testing.assert_close(maps[0], (probability[:, 0] + probability[:, 1] / 4) / 3)
    torch.testing.assert_close(maps[0] + maps[1], probability.mean(dim=1))


def test_frames_past_the_ends_are_the_frame_itself():
    assert sources(-1, 4).tolist() == [0, 0, 1, 2]
    assert sources(2, 4).tolist() == [2, 3, 2, 3]


def test_shifted_heads_of_zeroi2v():
    shares = make("zeroi2v", "clip").head_frames()  # -1:16,+1:20,-2:5 on three heads of 16 channels
    assert {offset: (16 * share).tolist() for offset, share in shares.items()} == {
        -2: [0, 0, 5],
        -1: [16, 0, 0],
        0: [0, 0, 7],
        1: [0, 16, 4],
    }


@pytest.mark.parametrize("name", METHODS)
def test_watching_changes_nothing(name):
    method, video = make(name, "dinov2_reg4"), draw_video(1)
    with torch.no_grad():
        before = method(video).logits
        with watched(method) as seen:
            assert torch.equal(method(video).logits, before)
        steps = len(seen.steps)
        assert steps == {"aim": 2}.get(name, 1) * method.backbone.config.depth
        assert torch.equal(method(video).logits, before)
        assert len(seen.steps) == steps, "the hooks are still there"


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_every_backbone(name, family):
    method = make(name, family)
    shares = rollout_map(method, draw_video(1))
    assert shares.shape == (method.backbone_frames, 4, 4)
    assert (shares >= 0).all()
    assert 0.2 < shares.sum() < 1 + 1e-6


def test_attention_over_time_is_followed_in_aim():
    method = make("aim", "clip")
    with watched(method) as seen, torch.no_grad():
        method(draw_video(1))
    assert [tuple(step.shape) for step in seen.steps[::2]] == [(17, 4, 4)] * 2  # L, T, T


def test_in_zeroi2v_frames_differ_and_in_the_probe_they_do_not():
    shifted = rollout_map(make("zeroi2v", "siglip"), draw_video(1)).sum(dim=(1, 2))
    alone = rollout_map(make("probe", "siglip"), draw_video(1)).sum(dim=(1, 2))
    torch.testing.assert_close(alone, torch.full((4,), 0.25))  # without a class token no share leaves the frame
    assert shifted.std() > 0.01  # the first and the last frame have nobody beyond them
