"""What `recogniser.predict` takes and returns: one video or several, files, bytes, arrays and tensors."""

import numpy as np
import pytest
import torch

import muybridge
from asked import recogniser
from muybridge.engine.answers import read_apart
from muybridge.errors import BadInput, VideoError
from muybridge.predicting.asking import ask, question_to
from muybridge.predicting.reading import as_item
from muybridge.predicting.results import Predictions, text_bar
from muybridge.structures import Prediction
from muybridge.video.decode import read_all

TWO = (Prediction("opening <b>", 3, 0.75), Prediction("closing", 1, 0.25))


@pytest.fixture(scope="module")
def model():
    return recogniser("evl", views=2)


@pytest.fixture(scope="module")
def film(videos):
    return videos / "val/rising/0.mp4"


def test_a_sequence_of_predictions_that_is_like_a_list():
    answers = Predictions(TWO, "a.mp4")
    assert len(answers) == 2
    assert answers[0] is TWO[0]
    assert answers[:1] == [TWO[0]]
    assert answers == list(TWO)
    assert answers == Predictions(TWO, "b.mp4")
    assert answers != Predictions(TWO[:1])
    assert answers != 3
    assert [str(one) for one in answers] == ["opening <b> 75.0%", "closing 25.0%"]
    assert not Predictions((), "a.mp4", "no such file")
    assert muybridge.Predictions is Predictions


def test_it_prints_and_becomes_a_dict():
    answers, broken = Predictions(TWO, "a.mp4"), Predictions((), "b<.mp4", "no such file")
    assert str(answers).splitlines() == [
        "a.mp4",
        f"   75.0%  {'█' * 15}{' ' * 5}  opening <b>",
        f"   25.0%  {'█' * 5}{' ' * 15}  closing",
    ]
    assert str(broken) == "b<.mp4\n  cannot be read: no such file"
    assert repr(answers) == "<Predictions of a.mp4: opening <b> 75.0%, closing 25.0%>"
    assert answers.to_dict() == {
        "video": "a.mp4",
        "predictions": [
            {"label": "opening <b>", "index": 3, "score": 0.75},
            {"label": "closing", "index": 1, "score": 0.25},
        ],
    }
    assert broken.to_dict() == {"video": "b<.mp4", "error": "no such file"}
    page = answers._repr_html_()
    assert "opening &lt;b&gt;" in page
    assert "width:75.0%" in page
    assert "b&lt;.mp4" in broken._repr_html_()


@pytest.mark.parametrize(("share", "bar"), [(0, "    "), (1, "████"), (0.5, "██  "), (0.28125, "█▏  "), (1.2, "████")])
def test_bars_of_text(share, bar):
    assert text_bar(share, 4) == bar


def test_the_picture_has_bars_as_long_as_the_scores():
    picture = np.asarray(Predictions(TWO, "a.mp4").plot(500))
    assert picture.shape == (16 + 30 + 2 * 30 + 16, 500, 3)
    blue = (picture == (47, 111, 222)).all(-1)
    first, second = (int(blue[16 + 30 + row * 30 + 14].sum()) for row in range(2))
    assert second > 20
    assert first == pytest.approx(3 * second, abs=2)
    assert Predictions((), "gone.mp4", "no such file").plot().size[0] == 640
    assert Predictions((Prediction("a very long name " * 30, 0, 0.001),)).plot(300).size[0] == 300


def test_every_kind_of_input_gives_the_same(model, film):
    frames = read_all(film)
    alone = model.predict(film)
    assert alone.video == str(film)
    for same in (str(film), film.read_bytes(), frames, torch.from_numpy(frames), frames[:, ::-1, ::-1][:, ::-1, ::-1]):
        assert model.predict(same) == alone
    assert model.predict(frames).video == ""
    several = model.predict([film, frames, torch.from_numpy(frames), film.read_bytes()], batch_size=4)
    assert [answer.video for answer in several] == [str(film), "", "", ""]
    for answer in several:
        assert [one.label for one in answer] == [one.label for one in alone]
        assert [one.score for one in answer] == pytest.approx([one.score for one in alone], abs=1e-6)


@pytest.mark.gpu
def test_frames_on_a_gpu_beside_a_file(model, film):
    first, second = model.predict([film, torch.from_numpy(read_all(film)).cuda()])
    assert [one.score for one in first] == pytest.approx([one.score for one in second], abs=1e-6)


def test_a_list_is_answered_in_its_order_with_errors_in_their_places(model, videos, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    paths = sorted((videos / "val").rglob("*.mp4"))
    given = [paths[0], tmp_path / "broken.mp4", *paths[1:], "gone.mp4", paths[0], b"no video"]
    answers = model.predict(given, top=1, batch_size=6)
    assert [answer.video for answer in answers] == [*map(str, given[:-1]), ""]
    assert [number for number, answer in enumerate(answers) if answer.error] == [1, len(given) - 3, len(given) - 1]
    assert answers[1].error == "not a video file that FFmpeg can read"
    assert answers[-3].error == "no such file"
    assert answers[-1].error == "not a video file that FFmpeg can read"
    assert answers[0] == answers[-2]
    for answer, path in zip(answers[2:-3], paths[1:], strict=True):
        alone = model.predict(path, top=1)
        assert (answer[0].label, answer[0].score) == (alone[0].label, pytest.approx(alone[0].score, abs=1e-6))
    assert model.predict([]) == []
    with pytest.raises(VideoError, match="no such file"):
        model.predict("gone.mp4")


def test_batches_that_come_in_another_order_are_put_in_order(model, videos):
    items = [as_item(path) for path in sorted((videos / "val").rglob("*.mp4"))[:5]]
    question = question_to(model)
    batches = list(read_apart(question.dataset(items), [[0], [1, 2], [3, 4]], 0))
    names = [item.path for item in items]
    asked = list(ask(model, question, batches[::-1], items, names, features=True))
    assert not any(one.feature.is_inference() for one in asked)  # they can be trained on
    assert [one.position for one in asked] == list(range(5))
    assert [one.answer.video for one in asked] == names
    first = ask(model, question, iter([batches[0], *batches[:0:-1]]), items, names)
    assert next(first).position == 0  # as soon as it is known


FRAMES = np.zeros((6, 40, 50, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (FRAMES.astype(np.float32), "float32.*expected uint8.*255"),
        (torch.zeros(6, 40, 50, 3), "frames are float32 .6, 40, 50, 3.; expected uint8"),
        (FRAMES.transpose(0, 3, 1, 2), "transpose.0, 2, 3, 1. puts the colours last"),
        (torch.zeros(6, 3, 40, 50, dtype=torch.uint8), "permute"),
        (FRAMES[0], "one picture"),
        (FRAMES[..., :2], "expected uint8 .T, H, W, 3."),
        (FRAMES[:0], "expected uint8"),
        (3, "a int came"),
        (None, "a NoneType came"),
        ([FRAMES, FRAMES[0]], "video 1: .*one picture"),
        ([[FRAMES]], "video 0: a list came"),
    ],
)
def test_other_inputs_are_refused(model, given, sentence):
    with pytest.raises(BadInput, match=sentence):
        model.predict(given)
    with pytest.raises(BadInput, match="top is 0"):
        model.predict(FRAMES, top=0)


def test_features_are_what_the_head_reads(model, film):
    feature = model.features(film)
    scores = model.method.head(feature[None]).softmax(-1)[0]
    assert feature.shape == (48,)
    assert feature.dtype == torch.float32
    assert not torch.allclose(scores, torch.full((3,), 1 / 3))
    single = recogniser("evl", views=1)
    torch.testing.assert_close(
        single.method.head(single.features(film)[None]).softmax(-1)[0], single.scores(film), atol=1e-6, rtol=0
    )


def test_scores_that_are_no_numbers_are_told(film):
    broken = recogniser()
    torch.nn.init.constant_(broken.method.head.fc.weight, float("nan"))
    for given in (film, [film]):
        with pytest.raises(BadInput, match="is no number"):
            broken.predict(given)
