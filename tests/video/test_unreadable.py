"""Files that are no video, damaged, cut off or odd: errors one can act on, and whatever can be read is exact."""

import random
import socket
from fractions import Fraction

import av
import numpy as np
import pytest
from films import number_of, paint

from muybridge.errors import VideoError
from muybridge.video import container
from muybridge.video.decode import open_video, read_all, read_frames


@pytest.fixture
def opened(monkeypatch):
    """Every container that is opened."""
    containers, av_open = [], av.open

    def spy(*args, **options):
        containers.append(av_open(*args, **options))
        return containers[-1]

    monkeypatch.setattr(container.av, "open", spy)
    return containers


def reason(path):
    """Why the file cannot be opened; also that nothing stays open."""
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    with pytest.raises(VideoError):
        read_all(path)
    return caught.value.reason


def audio(path, cover=False):
    with av.open(str(path), "w") as target:
        stream = target.add_stream("aac", rate=16000)
        if cover:
            picture = target.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = 48, 64, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        for place in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, place * 1024
            for packet in stream.encode(frame):
                target.mux(packet)
        for packet in stream.encode():
            target.mux(packet)
        if cover:
            frame = av.VideoFrame.from_ndarray(paint(1), format="rgb24").reformat(format="yuvj420p")
            for packet in [*picture.encode(frame), *picture.encode()]:
                target.mux(packet)


def test_files_that_are_not_there_or_not_video(tmp_path):
    assert reason(tmp_path / "none.mp4") == "no such file"
    assert reason(tmp_path) == "this is a folder, not a video file"
    path = tmp_path / "some.mp4"
    path.touch()
    assert reason(path) == "the file is empty"
    path.write_bytes(random.Random(0).randbytes(5000))
    assert reason(path) == "not a video file that FFmpeg can read"
    path.write_text("<html><body>404 not found</body></html>\n" * 50)
    assert reason(path) == "not a video file that FFmpeg can read"
    path = tmp_path / "list.txt"
    path.write_text("a.mp4 1\nb.mp4 2\n" * 50)
    assert reason(path) == "not a video file that FFmpeg can read: it is taken for text"


def test_no_permission(film_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(container.av, "open", refuse)
    assert reason(film_path("b_frames.mp4")) == "permission denied"


def test_audio_only(tmp_path, opened):
    path = tmp_path / "talk.mp4"
    audio(path)
    assert reason(path) == "has no video stream (container: mp4, streams: audio)"
    audio(tmp_path / "song.mp4", cover=True)
    assert reason(tmp_path / "song.mp4") == "has no video stream (container: mp4, streams: audio, video)"
    assert opened
    assert not any(len(each.streams) for each in opened)


def test_file_without_its_index(film_path, tmp_path):
    path = tmp_path / "half.mp4"
    data = film_path("one_group.mp4").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert reason(path) == "the file is cut off: the index (moov) of this MP4 is missing or damaged"


@pytest.mark.parametrize("name", ["index_first.mp4", "mjpeg.avi", "h264.avi"])
def test_file_that_is_cut_off(name, film_path, film_frames, tmp_path):
    path, plain = tmp_path / name, film_frames(name)
    data = film_path(name).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with open_video(path) as video:
        assert video.frame_count == 60
        assert video.duration == pytest.approx(2.4, abs=0.1)
        np.testing.assert_array_equal(video.read([8, 5]), plain[[8, 5]])
        with pytest.raises(
            VideoError, match=r"frame 59 cannot be decoded: .* cut off \(\d+ of 60 frames can be"
        ) as caught:
            video.read([8, 59])
        count = int(caught.value.reason.split("(")[1].split()[0])
        assert 8 < count < 59
        # The frames before are whole, and the half of a picture at the end is not one.
        np.testing.assert_array_equal(video.read(range(count)), plain[:count])
        with pytest.raises(VideoError, match=f"frame {count} cannot"):
            video.read([count])
    assert len(read_all(path)) == count


def test_file_that_is_cut_off_between_two_pictures(film_path, film_frames, tmp_path):
    path = tmp_path / "cut.mp4"
    with av.open(str(film_path("index_first.mp4"))) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        end = packets[30].pos
    path.write_bytes(film_path("index_first.mp4").read_bytes()[:end])
    with open_video(path) as video:
        assert video.frame_count == 60
        np.testing.assert_array_equal(video.read(range(26)), film_frames("index_first.mp4")[:26])
        with pytest.raises(VideoError, match="cut off"):
            video.read([31])


def test_noise_in_a_stream_is_not_its_end(film_path, film_frames, tmp_path):
    path = tmp_path / "noise.ts"
    data = film_path("stream.ts").read_bytes()
    # The packets of the transport are 188 bytes long. In the first half one is lost of a picture that takes several.
    places = range(0, len(data) // 2, 188)
    place = [place for place in places if data[place + 1] & 0x5F == 1 and data[place + 2] == 0][-1]
    path.write_bytes(data[:place] + data[place + 188 :])
    with av.open(str(path)) as source:
        assert any(packet.is_corrupt for packet in source.demux(video=0))
    with open_video(path) as video:
        assert video.frame_count > 55
        frames = video.read([2, video.frame_count - 1])
    np.testing.assert_array_equal(frames, film_frames("stream.ts")[[2, 59]])


@pytest.mark.parametrize("name", ["b_frames.mkv", "vp9.webm", "stream.ts", "flash.flv"])
def test_file_that_is_cut_off_and_does_not_tell(name, film_path, film_frames, tmp_path):
    path, plain = tmp_path / name, film_frames(name)
    data = film_path(name).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with open_video(path) as video:
        count = video.frame_count
        assert 8 < count < 59
        np.testing.assert_array_equal(video.read(range(count - 2)), plain[: count - 2])


def test_frames_that_are_damaged(film_path, film_frames, tmp_path):
    """Keyframes without content: nothing that depends on them is returned, what does not is exact."""
    path, plain = tmp_path / "holes.mov", film_frames("mjpeg.mov")
    data = bytearray(film_path("mjpeg.mov").read_bytes())
    with av.open(str(film_path("mjpeg.mov"))) as source:
        packets = [(packet.pos, packet.size) for packet in source.demux(video=0) if packet.size]
    for place in (20, 40):
        start, size = packets[place]
        data[start : start + size] = bytes(size)
    path.write_bytes(data)
    with open_video(path) as video:
        np.testing.assert_array_equal(video.read([19, 59]), plain[[19, 59]])
        with pytest.raises(VideoError, match=r"frame 20 cannot be decoded: .*\(58 of 60 frames"):
            video.read([20, 59])


def test_nothing_can_be_decoded(film_path, tmp_path, opened):
    path = tmp_path / "hollow.mov"
    data = bytearray(film_path("mjpeg.mov").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
    path.write_bytes(data)
    assert reason(path) == "none of its frames can be decoded"
    assert not any(len(each.streams) for each in opened)


def test_everything_is_closed(film_path, opened):
    for name in ("b_frames.mp4", "stream.ts", "gradual_refresh.mp4"):
        with open_video(film_path(name)) as video:
            video.read([0, 40])
            video.close()
        read_all(film_path(name))
        # Also when nobody looks at all frames.
        next(container.decode_in_order(str(film_path(name))))
    assert len(opened) > 6
    assert not any(len(each.streams) for each in opened)


def test_nothing_is_printed(film_path, tmp_path, capfd):
    path = tmp_path / "half.mp4"
    data = film_path("index_first.mp4").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    capfd.readouterr()
    with open_video(path) as video, pytest.raises(VideoError):
        video.read([59])
    read_all(path)
    read_all(film_path("mpeg4_packed.avi"))
    assert capfd.readouterr() == ("", "")


def test_title_that_is_not_unicode(film_path, tmp_path):
    path = tmp_path / "old.avi"
    with av.open(str(path), "w") as target:
        target.metadata["title"] = "cafe"
        stream = target.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(paint(77), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        for packet in [*stream.encode(frame), *stream.encode()]:
            target.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"cafe", b"caf\xe9"))
    assert number_of(read_frames(path, [0])[0]) == 77


def test_playlist_does_not_reach_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", "http://127.0.0.1:{}/x.ts", "#EXT-X-ENDLIST", ""]
        path = tmp_path / "film.m3u8"
        path.write_text("\n".join(lines).format(server.getsockname()[1]))
        assert reason(path) == "not a video file that FFmpeg can read"
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_file_name_that_looks_like_an_address(film_path, film_frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "concat:x.mp4").write_bytes(film_path("b_frames.mp4").read_bytes())
    np.testing.assert_array_equal(read_frames("concat:x.mp4", [9]), film_frames("b_frames.mp4")[[9]])
