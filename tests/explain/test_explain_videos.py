"""From a video file to maps, a picture and a film; the command; and what is refused."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from explain_cases import Brightness, randomly
from PIL import Image

from asked import CLASSES, recogniser
from clips import moving_square, write_video
from muybridge import cli
from muybridge.errors import BadInput, UnknownName, VideoError
from muybridge.explain import explain
from muybridge.explain.film import plan
from muybridge.explain.picture import cropped
from muybridge.predicting import reading
from muybridge.structures import Sampling, SourceArgs, Transform
from muybridge.video.opening import open_item
from muybridge.video.transforms import test_boxes as boxes_of
from muybridge.video.transforms import test_video as video_of

NAMES = ["sheet.png", "overlay.mp4", "explanation.json", "maps.npz"]


@pytest.fixture(scope="module")
def evl():
    return recogniser("evl")


@pytest.fixture
def clip(videos):
    return videos / "val" / "rising" / "0.mp4"


def decoded(path):
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_points_at_the_bright_square_in_every_frame():
    film = moving_square("falling", 3)
    spec = replace(recogniser().spec, labels=("dark", "bright"))
    seen = explain(Brightness(torch.ones(4, 16)), spec, film, how="gradient", label="bright")
    assert [frame.index for frame in seen.frames] == [1, 4, 7, 10]
    for t, frame in enumerate(seen.frames):
        place = torch.from_numpy(film[frame.index].astype(np.float32)).mean(-1)
        by_patch = torch.nn.functional.adaptive_avg_pool2d(place[None], 4)[0]
        assert seen.map[t].argmax() == by_patch.argmax()
    assert torch.equal(seen.heat.amax(), torch.tensor(1.0))


def test_scores_are_those_of_predict(evl, clip):
    seen = evl.explain(clip)
    assert (seen.how, seen.name) == ("attention", "query attention")
    scores = evl.scores(clip)
    assert seen.score == pytest.approx(scores.max().item(), abs=1e-6)
    assert seen.label == CLASSES[scores.argmax()]
    assert [one.index for one in seen.predictions] == scores.topk(3).indices.tolist()
    assert sum(frame.share for frame in seen.frames) == pytest.approx(1)
    for frame in seen.frames:
        assert frame.seconds == pytest.approx(frame.index / 12)
        assert frame.importance == pytest.approx(seen.score - frame.score_without, abs=1e-6)
    other = next(name for name in CLASSES if name != seen.label)
    assert evl.explain(clip, other, importance=False).score == pytest.approx(scores[CLASSES.index(other)].item())


def test_frames_in_place_of_a_file(evl, tmp_path):
    film = moving_square("closing", 1)
    write_video(tmp_path / "a.mp4", film)
    seen = evl.explain(film, importance=False, how="rollout")
    assert torch.equal(evl.explain(torch.from_numpy(film), importance=False, how="rollout").map, seen.map)
    assert seen.frames[0].seconds is None
    assert seen.frames[0].importance is None
    assert seen.title == "12 frames"
    seen.save(tmp_path / "out")
    # The film halts at 4 of 12 frames, for 7 frames (0.6 s at 12 a second) each.
    assert len(decoded(tmp_path / "out" / "overlay.mp4")) == 12 + 4 * 7


def test_a_film_that_is_stopped_leaves_nothing_in_the_way(evl, clip, tmp_path, monkeypatch):
    def stopped(explanation, path):
        path.write_bytes(b"half a film")
        raise KeyboardInterrupt

    monkeypatch.setattr("muybridge.explain.film.write_film", stopped)
    with pytest.raises(KeyboardInterrupt):
        evl.explain(clip, importance=False).save(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_film_shows_heat_where_the_model_read_and_nowhere_else(tmp_path):
    film = np.full((30, 40, 60, 3), 200, np.uint8)
    spec = replace(recogniser().spec, labels=("dark", "bright"))
    spec = replace(spec, sampling=Sampling(frames=2))  # frames 7 and 22
    seen = explain(Brightness(randomly(2, 16).abs()), spec, film, how="rollout", importance=False)
    seen.save(tmp_path)
    pages = decoded(tmp_path / "overlay.mp4")
    assert len(pages) == 30 + 2 * 7
    middle = pages[:, 250, pages.shape[2] // 2].astype(int)  # the picture fills it, and its crop
    assert abs(middle[0] - 200).max() < 8
    assert abs(middle[7] - 200).max() > 40
    assert abs(middle[14] - 200).max() > 40  # it halts
    assert abs(middle[22] - 200).max() < 8  # frame 15
    # What lies beside the crop is the picture itself all the time.
    assert abs(pages[7, 250, pages.shape[2] // 2 - 300].astype(int) - 200).max() < 8


@pytest.mark.parametrize(
    ("count", "rate", "most", "plays", "speed"),
    [
        (24, 12, 24, 12, 1),  # every frame
        (300, 60, 152, 30, 1),  # no more than 30 a second
        (100_000, 25, 302, 25, 334),  # an hour runs quicker
        (1, 12, 1, 12, 1),
    ],
)
def test_which_frames_a_film_shows(count, rate, most, plays, speed):
    read = [count // 3, count - 1]
    shown, at, times = plan(count, rate, read)
    assert set(read) <= set(shown)
    assert shown == sorted(set(shown))
    assert most - 3 <= len(shown) <= most
    assert (at, times) == (plays, speed)


@pytest.mark.parametrize(
    ("height", "width", "transform", "crops"),
    [
        (48, 80, Transform(size=(32, 32)), 3),
        (90, 50, Transform(size=(32, 32), resize=40), 1),
        (37, 61, Transform(size=(32, 48), resize=36, crop_steps="even"), 3),
    ],
)
def test_boxes_are_where_the_crops_were(height, width, transform, crops):
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([rows * 255 / height, columns * 255 / width, 0 * rows], axis=-1).astype(np.uint8)
    transform = replace(transform, mean=(0, 0, 0), std=(1, 1, 1))
    read = video_of(ramp[None], transform, crops)[:, 0] * 255  # [crops, 3, h, w]
    boxes = boxes_of(height, width, transform, crops, False)
    assert len(boxes) == crops
    for one, box in zip(read, boxes, strict=True):
        shown = torch.from_numpy(cropped(ramp, box, transform.size).copy()).permute(2, 0, 1).float()
        assert (one - shown).abs().max() < 6


def test_three_crops_and_views_are_said_and_the_middle_one_is_explained(clip):
    several = recogniser("probe", views=3)
    several.spec = replace(several.spec, sampling=replace(several.spec.sampling, crops=3))
    seen = several.explain(clip, importance=False)
    assert seen.how == "gradient"  # the probe adds nothing that looks at patches
    assert "mean of 9 views" in seen.notes[0]
    assert [frame.index for frame in seen.frames] == [1, 4, 7, 10]


def test_dense_frames_that_the_backbone_does_not_read(tmp_path, clip):
    from explain_cases import make

    method = make("dist", "clip")  # every second frame is dense only
    spec = replace(recogniser().spec, labels=tuple("abcde"))
    assert method.backbone_frames < method.frames
    seen = explain(method, spec, clip)
    assert [frame.share is None for frame in seen.frames] == [t % (4 // method.backbone_frames) > 0 for t in range(4)]
    assert seen.notes
    seen.save(tmp_path)
    text = json.loads((tmp_path / "explanation.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert text["frames"][1]["share"] is None


def test_alignment_is_drawn(clip):
    from explain_cases import make

    method = make("ila", "clip")
    spec = replace(recogniser().spec, labels=tuple("abcde"))
    seen = explain(method, spec, clip, importance=False)
    assert seen.points["alignment"].shape == (3, 2, 2)
    plain = replace(seen, points={})
    assert np.any(np.asarray(seen.sheet) != np.asarray(plain.sheet))


def test_the_command(evl, clip, tmp_path, capsys):
    evl.save(tmp_path / "run")
    out = tmp_path / "out"
    command = ["explain", str(tmp_path / "run"), str(clip), "--out", str(out)]
    assert cli.run(command) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"Written to {out}: {', '.join(NAMES)}"
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    told = json.loads((out / "explanation.json").read_text())
    assert [frame["frame"] for frame in told["frames"]] == [1, 4, 7, 10]
    assert told["map"] == "query attention"
    with np.load(out / "maps.npz") as maps:
        assert list(maps) == told["maps"]
        assert maps["query attention"].shape == (4, 4, 4)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 600
    before = (out / "sheet.png").read_bytes()
    assert cli.run(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert (out / "sheet.png").read_bytes() == before
    rest = ["--out", str(tmp_path / "two"), "--class", CLASSES[1], "--method", "gradient", "--json", "--no-film"]
    assert cli.run([*command[:3], *rest]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == CLASSES[1]
    assert not (tmp_path / "two" / "overlay.mp4").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"label": "risin"}, "Did you mean rising?"),
        ({"how": "magic"}, "Unknown way to explain 'magic'"),
        ({"shown": "query attention, layer 9"}, "Unknown map"),
    ],
)
def test_unknown_names(evl, clip, options, sentence):
    with pytest.raises(UnknownName, match=sentence):
        evl.explain(clip, **options)


def test_limits_and_the_decoder_are_those_given(evl, clip, tmp_path, capsys, monkeypatch):
    with pytest.raises(VideoError, match="megapixels"):
        evl.explain(clip, source=SourceArgs(megapixels=0.001))
    opened = []
    monkeypatch.setattr(reading, "open_item", lambda item, source: opened.append(source) or open_item(item, source))
    given = SourceArgs(seconds=77)
    evl.explain(clip, importance=False, source=given).save(tmp_path / "out")
    assert opened == [given] * 3  # the frames that are explained, the length of the film and its frames
    evl.save(tmp_path / "run")
    command = ["explain", str(tmp_path / "run"), str(clip), "--out", str(tmp_path / "two")]
    assert cli.run([*command, "--source.megapixels", "0.001"]) == 2
    assert "megapixels" in capsys.readouterr().err
    assert cli.run([*command, "--source.fold", "2"]) == 2
    assert "--source.fold is not for explanations, which read --source.decoder" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_the_film_is_read_in_parts_within_the_limit(evl, clip, tmp_path):
    height, width, _ = evl.explain(clip, importance=False).pictures[0].shape
    given = SourceArgs(megabytes=(evl.method.frames + 0.5) * height * width * 3 / 1e6)
    whole, parts = (evl.explain(clip, importance=False, source=source) for source in (None, given))
    assert len(decoded(clip)) > evl.method.frames
    for seen, name in ((whole, "whole"), (parts, "parts")):
        seen.save(tmp_path / name)
    assert np.array_equal(*(decoded(tmp_path / name / "overlay.mp4") for name in ("whole", "parts")))


def test_what_cannot_be_explained(evl, clip, tmp_path, capsys):
    with pytest.raises(BadInput, match="choose 'rollout'"):
        recogniser("probe").explain(clip, how="attention")
    for wrong in (np.zeros((3, 8, 8), np.uint8), clip.read_bytes(), [clip]):
        with pytest.raises(BadInput, match="expected .*uint8"):
            evl.explain(wrong)
    evl.save(tmp_path / "run")
    assert cli.run(["explain", str(tmp_path / "run"), str(tmp_path / "gone.mp4")]) == 2
    assert "There is no file" in capsys.readouterr().err
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    out = tmp_path / "out"
    assert cli.run(["explain", str(tmp_path / "run"), str(tmp_path / "broken.mp4"), "--out", str(out)]) == 2
    assert "broken.mp4" in capsys.readouterr().err
    assert not out.exists()
