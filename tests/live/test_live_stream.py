"""`recogniser.stream`: right windows, drops by rule, bounded memory, threads that end."""

import threading
import time

import numpy as np
import pytest
import torch
from streams import FakeClock, film, serving, transport_stream

from asked import CLASSES, recogniser
from clips import write_video
from muybridge.errors import BadInput, VideoError
from muybridge.live.camera import Camera, Raw
from muybridge.live.feed import Feed, Shot
from muybridge.live.pace import Sampler, choose_pace
from muybridge.live.stream import Stream
from muybridge.methods.heads import TextHead
from muybridge.structures import Sampling, SourceArgs
from muybridge.video.decode import read_all
from muybridge.video.limits import Limits
from muybridge.video.transforms import test_video as views_of


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name == "muybridge-camera"]


@torch.inference_mode()
def offline(model, frames, crops=1):
    """Probabilities of one window of frames [T, H, W, 3]."""
    video = views_of(frames, model.spec.transform, crops, crops == 1)
    return model.method(video).logits.softmax(dim=-1).mean(dim=0)


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("method", ["evl", "zeroi2v", "probe"])
def test_frames_given_one_by_one(method, crops):
    model, frames = recogniser(method), film(frames=26)[:, :, :40]
    stream = model.stream((frame for frame in frames), fps=8, crops=crops, top=2)
    moments = list(stream)
    # 4 frames in 2 s are every 4th of 8 a second.
    assert [moment.frame for moment in moments] == [12, 16, 20, 24]
    assert [moment.seconds for moment in moments] == [1.5, 2, 2.5, 3]
    for moment in moments:
        expected = offline(model, frames[moment.frame - 12 : moment.frame + 1 : 4], crops)
        torch.testing.assert_close(moment.scores, expected, rtol=0, atol=1e-5)
        best = moment.scores.argmax().item()
        assert (moment.predictions[0].label, len(moment.predictions)) == (CLASSES[best], 2)
    assert (stream.seen, stream.used, stream.dropped, stream.predictions) == (26, 7, 0, 4)
    assert stream.encodes_once == (method != "zeroi2v")
    assert ("every window is computed anew: 4 frames a prediction" in stream.notes[1]) == (method == "zeroi2v")


def test_without_a_rate_every_frame_counts_and_every_thins_predictions_only():
    model, frames = recogniser("evl"), film(frames=12)
    moments = list(model.stream(frames, every=3))
    assert [moment.frame for moment in moments] == [3, 6, 9]
    torch.testing.assert_close(moments[-1].scores, offline(model, frames[6:10]), rtol=0, atol=1e-5)


def test_a_file_gives_the_windows_of_its_frames(tmp_path):
    model, frames = recogniser("evl"), film(frames=24)
    write_video(tmp_path / "a.mp4", frames)
    decoded = read_all(tmp_path / "a.mp4")
    # A clock without waiting plays the file as fast as it can be read: whatever is dropped, windows are whole.
    with model.stream(Camera(tmp_path / "a.mp4", clock=FakeClock()), rate=12) as stream:
        moments = list(stream)
    assert stream.seen == 24
    assert stream.used + stream.dropped == 24
    assert moments[-1].frame == 23
    for moment in moments:
        expected = offline(model, decoded[moment.frame - 3 : moment.frame + 1])
        torch.testing.assert_close(moment.scores, expected, rtol=0, atol=1e-5)


class Script:
    """A camera that sends frames as it is told: a number of frames, then waits until it is let go on."""

    name, timeout, fps = "script", 10.0, 4.0

    def __init__(self, *parts, pictures=None):
        self.parts, self.pictures = parts, film(frames=60) if pictures is None else pictures
        self.limits = Limits(self.name, SourceArgs())
        self.sent, self.go, self.closed = threading.Event(), threading.Event(), 0
        self.hanging = 0.0

    def frames(self, stop):
        number = 0
        for part, count in enumerate(self.parts):
            for _ in range(count):
                yield Raw(number / 4, part, FakeFrame(self.pictures[number], number))
                number += 1
            self.sent.set()
            self.go.wait(10)
            self.go.clear()

    def picture(self, frame):
        return frame.picture

    def silent(self):
        return self.hanging

    def close(self):
        self.closed += 1


class FakeFrame:
    def __init__(self, picture, number):
        self.picture, self.number = picture, number
        self.height, self.width = picture.shape[:2]


def feed_of(camera, room=4):
    return Feed(camera, Sampler(choose_pace(Sampling(frames=4), rate=4)), room)


def stream_of(model, feed, **options):
    return Stream(model.method, model.spec.transform, model.labels, feed, **options)


def test_a_slow_recogniser_sees_the_newest_window_and_no_more_is_kept():
    model, camera = recogniser("evl"), Script(50)
    feed = feed_of(camera)
    assert camera.sent.wait(5)  # all 50 came before anybody looked
    assert len(feed._kept) == 4
    with stream_of(model, feed) as stream:
        moment = next(stream)
        assert (moment.frame, stream.used, stream.dropped) == (49, 4, 46)
        torch.testing.assert_close(moment.scores, offline(model, camera.pictures[46:50]), rtol=0, atol=1e-5)
        camera.go.set()
        assert list(stream) == []
    assert stream.summary().startswith("50 frames seen, 4 used, 46 dropped; 1 prediction, ")
    assert camera.closed


def test_windows_do_not_reach_over_what_was_dropped():
    model, camera = recogniser("evl"), Script(2)
    feed = feed_of(camera, room=2)
    assert camera.sent.wait(5)
    taken = feed.take()
    camera.go.set()
    feed.close()
    assert [shot.order for shot in taken] == [1, 2]

    class Gap:
        seen = dropped = 0

        def __init__(self, *shots):
            self.shots = [*shots, []]

        def take(self):
            return self.shots.pop(0)

        def stop(self):
            pass

        def close(self):
            pass

    later = [Shot(9.0 + n, 36 + n, order, film()[n]) for n, order in enumerate((5, 6, 7, 8, 9))]
    moments = list(stream_of(model, Gap(taken, later[:2], later[2:3], later[3:4], later[4:])))
    # Two frames before the gap and two after it are no window.
    assert [moment.frame for moment in moments] == [39, 40]


def test_after_a_loss_the_window_begins_anew():
    model, camera = recogniser("evl"), Script(3, 3, 4)
    feed = feed_of(camera, room=20)
    for _ in range(3):
        assert camera.sent.wait(5)
        camera.sent.clear()
        camera.go.set()
    feed._thread.join(5)
    assert [shot.order for shot in feed._kept] == [1, 2, 3, 5, 6, 7, 9, 10, 11, 12]
    with stream_of(model, feed) as stream:
        (moment,) = list(stream)
    torch.testing.assert_close(moment.scores, offline(model, camera.pictures[6:10]), rtol=0, atol=1e-5)


def test_stopping_from_another_thread_ends_the_waiting():
    camera = Script(1)
    feed = feed_of(camera)
    with stream_of(recogniser(), feed) as stream:
        timer = threading.Timer(0.1, lambda: (stream.stop(), camera.go.set()))
        timer.start()
        assert list(stream) == []
    timer.join()


def test_a_stream_that_nobody_has_any_more_lets_its_source_go():
    class Endless(Script):
        def frames(self, stop):
            number = 0
            while not stop.wait(0.01):
                yield Raw(number / 4, 0, FakeFrame(self.pictures[number % 60], number))
                number += 1

    camera = Endless()
    for _ in stream_of(recogniser(), feed_of(camera)):
        break
    deadline = time.monotonic() + 5
    while not camera.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert camera.closed


def test_answers_that_are_no_numbers_are_told():
    model = recogniser()
    torch.nn.init.constant_(model.method.head.fc.bias, torch.nan)
    with pytest.raises(BadInput, match="answer to the window up to frame 3 is no number"):
        next(model.stream(film(frames=4)))


def test_a_driver_that_hangs_is_told():
    camera = Script(1)
    feed = feed_of(camera)
    camera.hanging = 21.0
    assert len(feed.take()) == 1
    with pytest.raises(VideoError, match="script: it hangs: nothing came for 21 s"):
        feed.take()
    camera.go.set()
    feed.close()


def test_a_stream_over_the_network_breaks_off_and_comes_back():
    data, clock = transport_stream(film(frames=24)), FakeClock()
    model = recogniser("evl")
    with serving(data[: len(data) // 2], data) as url:
        camera = Camera(url, reconnects=1, clock=clock)
        with model.stream(camera, rate=12) as stream:
            assert next(stream).frame >= 3
            with pytest.raises(VideoError, match="given up after 1 attempt"):
                list(stream)
    assert stream.predictions > 1
    assert stream.seen > 24
    assert stream.used + stream.dropped == stream.seen


def test_a_frame_that_takes_too_much_memory_is_refused(tmp_path):
    write_video(tmp_path / "a.mp4", film(frames=3))
    camera = Camera(tmp_path / "a.mp4", SourceArgs(megabytes=0.02), clock=FakeClock())
    with recogniser().stream(camera) as stream, pytest.raises(VideoError, match="megabytes"):
        next(stream)


def test_mistakes(tmp_path):
    model = recogniser("evl")
    for options, sentence in (
        ({"every": 0}, "every is 0"),
        ({"top": 0}, "top is 0"),
        ({"crops": 2}, "crops is 2"),
        ({"fps": 0}, "fps is 0"),
        ({"rate": 3}, "rate counts in seconds"),
    ):
        with pytest.raises(BadInput, match=sentence):
            model.stream(film(frames=4), **options)
    write_video(tmp_path / "a.mp4", film(frames=3))
    with pytest.raises(BadInput, match="a source tells its own"):
        model.stream(tmp_path / "a.mp4", fps=3)
    with pytest.raises(BadInput, match=r"a frame is float32 \[4, 4, 3\]; expected uint8"):
        next(model.stream([np.zeros((4, 4, 3), np.float32)]))
    model.method.head = TextHead(4, 3, None)
    with pytest.raises(BadInput, match="has none yet"):
        model.stream([])


def test_a_moment_as_words_and_as_a_dictionary():
    (moment,) = recogniser("evl").stream(film(frames=4), top=2)
    first, second = moment.predictions
    assert str(moment) == f"3.00 s: {first}, {second}"
    told = moment.to_dict()
    assert (told["frame"], told["seconds"]) == (3, 3.0)
    assert told["predictions"][0] == {"label": first.label, "index": first.index, "score": first.score}
