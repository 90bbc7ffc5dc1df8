"""Live sources: files at their own pace, streams that break off and come back, what is refused."""

import threading
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from streams import FakeClock, film, serving, serving_rtsp, transport_stream

from clips import write_video
from muybridge.errors import BadInput, VideoError
from muybridge.live import camera as camera_module
from muybridge.live.camera import Camera
from muybridge.structures import SourceArgs
from muybridge.video.decode import read_all


def everything(camera, stop=None):
    """All raw frames, and the error at the end if there is one."""
    got = []
    try:
        for raw in camera.frames(stop or threading.Event()):
            got.append(raw)
    except VideoError as error:
        return got, error
    finally:
        camera.close()
    return got, None


def test_a_file_is_played_at_its_own_pace(tmp_path):
    write_video(tmp_path / "a.mp4", film(frames=25))
    clock = FakeClock()
    camera = Camera(tmp_path / "a.mp4", clock=clock)
    assert (camera.fps, camera.paced) == (12, True)
    got, error = everything(camera)
    assert error is None
    assert [raw.seconds for raw in got] == pytest.approx([n / 12 for n in range(25)])
    assert sum(clock.waits) == pytest.approx(2.0)


def test_pictures_are_those_of_the_file(tmp_path):
    write_video(tmp_path / "a.mp4", film(frames=3))
    camera = Camera(tmp_path / "a.mp4", clock=FakeClock())
    got, _ = everything(camera)
    shown = np.stack([camera.picture(raw.frame) for raw in got])
    np.testing.assert_array_equal(shown, read_all(tmp_path / "a.mp4"))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_or_mirrored_picture_is_set_upright(tmp_path, degrees, mirrored):
    stored = np.zeros((2, 48, 32, 3), np.uint8)
    stored[:, :24, :16], stored[:, 24:, :16] = 250, 120  # no turn and no mirror leaves it as it is
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = *stored.shape[1:3], "yuv420p"
        stream.set_display_rotation(degrees, mirrored, False)
        for picture in stored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    camera = Camera(tmp_path / "a.mp4", clock=FakeClock())
    got, _ = everything(camera)
    shown = np.stack([camera.picture(raw.frame) for raw in got])
    wanted = np.rot90(stored, degrees // 90, axes=(1, 2))
    wanted = wanted[:, :, ::-1] if mirrored else wanted
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 4  # but for the codec's loss
    np.testing.assert_array_equal(shown, read_all(tmp_path / "a.mp4"))


def test_a_lost_stream_is_opened_again_after_growing_pauses():
    data, said, clock = transport_stream(film()), [], FakeClock()
    with serving(data[: len(data) // 2], data) as url:
        got, error = everything(Camera(url, reconnects=3, say=said.append, clock=clock))
    parts = [raw.part for raw in got]
    assert 6 < parts.count(0) < 30  # what came of the first half
    assert parts.count(1) >= 35  # the decoder may hold the last one
    assert parts == sorted(parts)
    seconds = [raw.seconds for raw in got]
    assert seconds == sorted(seconds)
    assert clock.waits == [1, 1, 2, 4]  # the stream came back, so the count and the pauses began anew
    assert "given up after 3 attempts to open it again" in str(error)
    assert [sentence.split(": ", 1)[1] for sentence in said[:2]] == [
        "lost (the connection broke off); attempt 1 of 3 in 1 s.",
        "back.",
    ]
    assert not any(word in sentence for sentence in [*said, str(error)] for word in ("secret", "hidden"))


def test_without_reconnecting_a_lost_stream_ends_with_a_reason():
    clock = FakeClock()
    with serving(transport_stream(film(frames=12))) as url:
        got, error = everything(Camera(url, reconnects=0, clock=clock))
    assert len(got) >= 11
    assert str(error).endswith("lost (the connection broke off); given up")
    assert clock.waits == []


def test_pauses_have_a_limit():
    clock = FakeClock()
    with serving(transport_stream(film(frames=12))) as url:
        _, error = everything(Camera(url, reconnects=7, clock=clock))
    assert clock.waits == [1, 2, 4, 8, 16, 30, 30]
    assert "given up after 7 attempts" in str(error)


def test_an_rtsp_camera():
    with serving_rtsp(transport_stream(film())) as url:
        camera = Camera(url, reconnects=0, clock=FakeClock())
        assert not camera.paced
        got, error = everything(camera)
    assert len(got) >= 30
    assert [raw.seconds for raw in got][:3] == pytest.approx([0, 1 / 12, 2 / 12], abs=1e-3)
    assert camera.picture(got[0].frame).shape == (48, 48, 3)
    assert "given up" in str(error)


def test_times_go_on_where_stamps_are_missing_or_jump():
    clock = FakeClock()
    times, got = camera_module._Times(clock), []
    for stamp in (7.0, 7.5, None, 500.0, 500.5, 0.0, 0.5, 0.25):
        frame = SimpleNamespace(pts=None if stamp is None else int(1000 * stamp), time_base=Fraction(1, 1000))
        got.append(times.of(frame))
        clock.time += 0.6
    # By its stamps after the first frame, anew from when a frame came after a jump, and never back.
    assert got == pytest.approx([0, 0.5, 1.2, 1.8, 2.3, 3.0, 3.5, 4.2])


def test_a_source_that_sends_nothing_is_given_up():
    over = threading.Event()
    with serving(None, pause=over) as url:
        begun = time.monotonic()
        with pytest.raises(VideoError, match="cannot be opened"):
            Camera(url, timeout=0.3)
        assert time.monotonic() - begun < 5
        over.set()


def test_pictures_that_are_too_large_are_refused(tmp_path, monkeypatch):
    small = SourceArgs(megapixels=0.001)
    with serving(transport_stream(film(frames=330))) as url, pytest.raises(VideoError, match="megapixels"):
        Camera(url, small)
    monkeypatch.setattr(camera_module, "VAIN", 6)
    with serving(transport_stream(film(frames=12))) as url:  # the decoder refuses them without a word
        got, error = everything(Camera(url, small, clock=FakeClock()))
    assert got == []
    assert "nothing of its last 6 packets can be decoded; pictures of more than 0.001 megapixels" in str(error)
    write_video(tmp_path / "a.mp4", film(frames=2))
    with pytest.raises(VideoError, match="megapixels"):
        Camera(tmp_path / "a.mp4", small)


def test_a_playlist_cannot_name_files_of_this_machine(tmp_path):
    write_video(tmp_path / "private.ts", film(frames=12))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-VERSION:3\n#EXTINF:1,\n"
    playlist = f"{head}file://{tmp_path}/private.ts\n#EXT-X-ENDLIST\n".encode()
    with serving(playlist, playlist) as url, pytest.raises(VideoError):
        Camera(url.replace("/camera?key=hidden", "/list.m3u8"), timeout=2)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("ftp://host/film.mp4", "live sources behind an address are http, https, rtsp, rtsps"),
        ("file:///etc/passwd", "live sources behind an address"),
        ("gone.mp4", "There is no gone.mp4; a live source is a camera"),
    ],
)
def test_what_is_no_source(source, sentence):
    with pytest.raises(BadInput, match=sentence):
        Camera(source)


def test_a_camera_that_is_not_there():
    with pytest.raises((VideoError, BadInput), match=r"/dev/video77|cameras|camera 77"):
        Camera("77")


def test_numbers_that_cannot_be():
    with pytest.raises(BadInput, match="timeout is 0"):
        Camera("a.mp4", timeout=0)
    with pytest.raises(BadInput, match="reconnects is -1"):
        Camera("a.mp4", reconnects=-1)
