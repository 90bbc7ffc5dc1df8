"""Windows over a long video: where they lie, each answered like a video of its own, what becomes one segment."""

import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from asked import recogniser
from clips import moving_square, write_video
from muybridge.engine.evaluate import view_scores
from muybridge.errors import BadInput, VideoError
from muybridge.predicting import reading
from muybridge.predicting.reading import in_background, read_windows
from muybridge.predicting.timeline import Segment, Timeline, Window, clock, merge, plan_windows, spans
from muybridge.structures import Item, Prediction, SourceArgs
from muybridge.video.dataset import VideoDataset
from muybridge.video.decode import open_video


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """8.5 seconds: 102 frames at 12 a second."""
    path = tmp_path_factory.mktemp("long") / "film.mp4"
    write_video(
        path, np.concatenate([moving_square(("rising", "falling", "closing")[i % 3], i) for i in range(9)])[:102]
    )
    return path


@pytest.mark.parametrize(
    ("duration", "window", "step", "expected"),
    [
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (10, 4, None, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (11, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10), (7, 11)]),
        (3, 4, 2, [(0, 3)]),
        (4, 4, 4, [(0, 4)]),
        (9, 4, 4, [(0, 4), (4, 8), (5, 9)]),
        (20, 2, 8, [(0, 2), (8, 10), (16, 18)]),
        (25, 2, 8, [(0, 2), (8, 10), (16, 18), (23, 25)]),
        (0.3, 0.1, 0.1, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),
    ],
)
def test_where_windows_lie(duration, window, step, expected):
    assert np.allclose(plan_windows(duration, window, step), expected)


def test_windows_that_make_no_sense():
    for window, step in ((0, 1), (-1, 1), (1, 0), (float("nan"), 1), (1, float("inf"))):
        with pytest.raises(BadInput, match="expected a positive number of seconds"):
            plan_windows(10, window, step)
    with pytest.raises(BadInput, match="more than 1000000 windows"):
        plan_windows(10, 1, 1e-6)


def test_each_moment_belongs_to_one_window():
    assert spans([(0, 4), (2, 6), (4, 8)]) == [(0, 3), (3, 5), (5, 8)]
    assert spans([(0, 2), (8, 10)]) == [(0, 2), (8, 10)]
    assert spans([(0, 4), (4, 8), (5, 9)]) == [(0, 4), (4, 6.5), (6.5, 9)]
    assert spans([]) == []


def windows(*best, length=4, step=2):
    """Windows whose best class and its score are given."""
    return tuple(
        Window(step * i, step * i + length, (Prediction("abc"[index], index, score),))
        for i, (index, score) in enumerate(best)
    )


def test_neighbours_of_the_same_class_become_one():
    found = merge(windows((0, 0.9), (0, 0.7), (1, 0.6), (0, 0.8)))
    assert found == (
        Segment(0, 5, "a", 0, pytest.approx(0.8)),
        Segment(5, 7, "b", 1, 0.6),
        Segment(7, 10, "a", 0, 0.8),
    )
    # What is not likely enough parts segments and is no part of any.
    found = merge(windows((0, 0.9), (0, 0.3), (0, 0.8), (1, 0.2)), min_score=0.5)
    assert found == (Segment(0, 3, "a", 0, 0.9), Segment(5, 7, "a", 0, 0.8))
    assert merge(windows((0, 0.9), (0, 0.7), step=8)) == (Segment(0, 4, "a", 0, 0.9), Segment(8, 12, "a", 0, 0.7))
    assert merge(()) == ()


def test_a_timeline_prints_and_tells_what_is_at_a_moment():
    some = windows((0, 0.9), (0, 0.3), (1, 0.75))
    line = Timeline("a.mp4", 8, 4, 2, 0.5, some, merge(some, 0.5))
    assert [line.at(second) for second in (0, 2.9, 4, 5.1, 8, 9)] == [some[0], some[0], None, some[2], some[2], None]
    assert str(line).splitlines() == [
        "a.mp4",
        f"  0:00.0 - 0:03.0   90.0%  {'█' * 9}   a",
        f"  0:05.0 - 0:08.0   75.0%  {'█' * 7}▌    b",
    ]
    assert line.to_dicts() == [
        {"start": 0, "end": 3, "label": "a", "index": 0, "score": 0.9},
        {"start": 5, "end": 8, "label": "b", "index": 1, "score": 0.75},
    ]
    assert len(line.to_dict()["windows"]) == 3
    assert (len(line), line[0].label, line[1:]) == (2, "a", [line[1]])
    assert "0:05.0 - 0:08.0" in line._repr_html_()
    picture = np.asarray(line.plot(600))
    assert picture.shape[1] == 600
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    nothing = Timeline("a.mp4", 8, 4, 2, 0.95, some, ())
    assert str(nothing).endswith("nothing with a score of at least 95% in 0:08.0")
    for other in (nothing, Timeline("b.mp4", 0, 4, 2, error="no such file")):
        assert other.plot(300).size[0] == 300
        assert other._repr_html_()
    assert [clock(s) for s in (0, 59.96, 61.25, 3600)] == ["0:00.0", "1:00.0", "1:01.2", "1:00:00.0"]


@pytest.mark.parametrize(("views", "crops"), [(1, 1), (2, 3)])
@pytest.mark.parametrize(("window", "step"), [(2.0, 1.0), (1.5, 0.4), (1.0, 3.0), (20.0, 1.0)])
def test_every_window_is_answered_like_a_video_of_its_own(film, views, crops, window, step):
    """The plain twin: each window is opened and decoded by itself, as a part of the file."""
    model = recogniser("evl", views=views)
    model.spec = replace(model.spec, sampling=replace(model.spec.sampling, crops=crops))
    line = model.timeline(film, window, step, top=3, batch_size=5)
    assert line.duration == pytest.approx(8.5)
    plan = plan_windows(8.5, window, step)
    assert [(w.start, w.end) for w in line.windows] == plan
    items = [Item(str(film), -1, f"{start}", start, end if end < 8.5 else None) for start, end in plan]
    dataset = VideoDataset(items, model.spec.sampling, model.spec.transform, False, 0)
    for number, found in enumerate(line.windows):
        scores = view_scores(model.method, dataset[number]["video"][None], model.device)[0]
        mine = {answer.index: answer.score for answer in found.predictions}
        torch.testing.assert_close(torch.tensor([mine[i] for i in range(3)]), scores, atol=2e-6, rtol=0)


def watched(tensor, alive):
    """The same tensor; its memory is a member of `alive` until it is given back."""
    memory = tensor.numpy().copy()
    alive.add(id(memory))
    weakref.finalize(memory, alive.discard, id(memory))
    return torch.from_numpy(memory)


def test_the_film_is_decoded_once_and_not_held(film, monkeypatch):
    model, opened = recogniser(), []
    kept_most = 0

    def open_and_watch(*arguments):
        opened.append(open_video(film))
        return opened[-1]

    monkeypatch.setattr("muybridge.predicting.asking.open_given", open_and_watch)
    model.timeline(film, 1.0, 0.5)
    # One for the index, and each frame at most once; pictures that nothing needs are left out.
    assert len(opened) == 1
    assert opened[0].decoded <= 103
    alive, whole = set(), reading.test_video
    monkeypatch.setattr(reading, "test_video", lambda *given: watched(whole(*given), alive))
    with open_video(film) as video:
        plan = plan_windows(8.5, 1.0, 0.5)
        for _ in read_windows(video, plan, model.spec.sampling, model.spec.transform):
            kept_most = max(kept_most, len(alive))
    assert 4 <= kept_most <= 12  # of 64
    made = []
    monkeypatch.setattr(
        reading, "test_video", lambda frames, *more: made.append(len(frames)) or torch.zeros(1, 1, 3, 2, 2)
    )
    with open_video(film) as video:
        plan = plan_windows(8.5, 1.0, 0.5)
        for _ in read_windows(video, plan, model.spec.sampling, model.spec.transform):
            # Windows come as soon as their last frame is there.
            assert sum(made) <= 4 * (len(opened) + 2)
            opened.append(None)
    assert set(made) == {1}


def test_a_broken_file_and_numbers_that_make_no_sense(film, tmp_path):
    model = recogniser()
    (tmp_path / "cut.mkv").write_bytes(b"no video")
    with pytest.raises(VideoError, match="not a video"):
        model.timeline(tmp_path / "cut.mkv", 1.0)
    with pytest.raises(BadInput, match="a bytes came; expected a path"):
        model.timeline(b"no video", 1.0)
    before = threading.active_count()
    for keep in range(3):
        with pytest.raises(BadInput, match="min_score is 1.5"):
            model.timeline(film, 1.0, min_score=1.5)
        with pytest.raises(BadInput, match=f"top is -{keep}" if keep else "top is 0"):
            model.timeline(film, 1.0, top=-keep)
    torch.nn.init.constant_(model.method.head.fc.bias, float("nan"))
    with pytest.raises(BadInput, match="film.mp4 from 0 s on is no number") as caught:
        model.timeline(film, 0.3, 0.1, batch_size=1)
    # The thread that decodes is gone, also while somebody still holds the error and with it the frames of the stack.
    assert threading.active_count() == before
    assert caught.tb
    with pytest.raises(VideoError, match="megapixels"):
        model.timeline(film, 1.0, source=SourceArgs(megapixels=0.001))
    assert threading.active_count() == before


def test_a_thread_ahead_gives_the_same_ends_and_hands_errors_on():
    before = threading.active_count()
    assert list(in_background(lambda: iter(range(20)))) == list(range(20))
    made = []

    def endless():
        while True:
            made.append(1)
            yield len(made)

    some = in_background(endless, ahead=2)
    assert [next(some) for _ in range(3)] == [1, 2, 3]
    some.close()
    assert len(made) <= 7

    def broken():
        yield 1
        raise VideoError("a.mp4", "damaged")

    with pytest.raises(VideoError, match="damaged"):
        list(in_background(broken))
    assert threading.active_count() == before


def test_a_walk_gives_what_reading_gives(film):
    with open_video(film) as video:
        wanted = [0, 5, 6, 50, 101]
        walked = dict(video.walk(wanted))
        assert list(walked) == wanted
        assert np.array_equal(np.stack(list(walked.values())), video.read(wanted))
        for wrong in ([5, 5], [5, 4]):
            with pytest.raises(BadInput, match="not ascending"):
                list(video.walk(wrong))
        with pytest.raises(BadInput, match="102 frames"):
            list(video.walk([102]))
