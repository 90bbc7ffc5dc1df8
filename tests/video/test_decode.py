"""Frames by index: exact in every container and codec, without decoding the whole file."""

import random
import struct

import av
import numpy as np
import pytest
from films import FILMS, Film, decode_plainly, number_of, paint, write

from muybridge.errors import BadInput
from muybridge.video import decode
from muybridge.video.decode import open_video, read_all, read_frames

INDEXED = [film for film in FILMS if film.indexed]


def by_name(films):
    return pytest.mark.parametrize("film", films, ids=lambda film: film.name)


@by_name(FILMS)
def test_all_frames_show_their_numbers(film, film_path, film_frames):
    with open_video(film_path(film.name)) as video:
        frames = video.read(range(video.frame_count))
        assert video.frame_count == len(film.shown)
        assert video.size == film.size
    assert [number_of(frame) for frame in frames] == list(film.shown)
    np.testing.assert_array_equal(frames, film_frames(film.name))


@by_name(FILMS)
def test_any_frames_are_those_of_decoding_in_order(film, film_path, film_frames):
    plain, draws = film_frames(film.name), random.Random(film.name)
    with open_video(film_path(film.name)) as video:
        # In one open video, so that each reading begins where the one before has left the decoder.
        for _ in range(12 if len(plain) > 3 else 2):
            indices = draws.choices(range(len(plain)), k=draws.choice([1, 2, 5, 8]))
            np.testing.assert_array_equal(video.read(indices), plain[indices], err_msg=str(indices))


@by_name(FILMS)
def test_every_frame_alone(film, film_path, film_frames):
    plain = film_frames(film.name)
    with open_video(film_path(film.name)) as video:
        for index in range(0, len(plain), 1 if len(plain) <= 60 else 7):
            np.testing.assert_array_equal(video.read([index])[0], plain[index], err_msg=str(index))


@by_name(FILMS)
def test_read_all_is_the_plain_twin(film, film_path, film_frames):
    np.testing.assert_array_equal(read_all(film_path(film.name)), film_frames(film.name))


@by_name(FILMS)
def test_opening_decodes_one_frame_or_all(film, film_path):
    with open_video(film_path(film.name)) as video:
        if film.indexed:
            assert video.decoded == 1
        else:
            assert video.decoded >= len(film.shown)


@by_name([film for film in INDEXED if film.name != "gradual_refresh.mp4"])
def test_the_way_by_the_index_does_not_fail(film, film_path, monkeypatch):
    """If it did, the tests above would see frames decoded in order, right and slow."""

    def refuse(path):
        raise AssertionError("decoded in order")

    monkeypatch.setattr(decode, "decode_in_order", refuse)
    with open_video(film_path(film.name)) as video:
        for index in range(video.frame_count - 1, -1, -1 if video.frame_count <= 60 else -7):
            video.read([index])


@by_name([film for film in FILMS if not film.varying_rate])
def test_frame_rate(film, film_path):
    with open_video(film_path(film.name)) as video:
        assert video.frame_rate == pytest.approx(film.rate, rel=0.01)
        assert video.duration == pytest.approx(len(film.shown) / film.rate, rel=0.01)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("long.mp4", "libx264", {"parameters": "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0"}),
        ("long.mkv", "libx264", {"parameters": "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:open-gop=1"}),
        ("long.webm", "libvpx-vp9", {"group": 30, "options": {"deadline": "realtime", "cpu-used": "8"}}),
    ],
)
def test_eight_of_300_frames_need_few_decoded(name, codec, options, tmp_path):
    path = write(tmp_path, Film(name, codec, shown=range(300), **options))
    indices = [18, 56, 93, 131, 168, 206, 243, 281]
    with open_video(path) as video:
        frames = video.read(indices)
        # From each keyframe to the frame: 1 to 27 pictures, 117 in all, and a few that the decoder holds back.
        assert video.decoded < 150
    assert [number_of(frame) for frame in frames] == indices


def test_unneeded_pictures_are_not_decoded(film_path):
    with open_video(film_path("one_group.mkv")) as video:
        video.read([249])
        # 250 pictures from the keyframe; of nine, eight are B pictures, and some of these are built upon.
        assert video.decoded < 150


def test_reading_everything_decodes_each_frame_once(film_path):
    with open_video(film_path("open_group.mp4")) as video:
        video.read(range(60))
        assert video.decoded <= 62


def test_gradual_refresh_is_decoded_from_the_start(film_path, monkeypatch):
    with open_video(film_path("gradual_refresh.mp4")) as video:
        assert video._index is not None
        video.read([50])
        # By winding to the last of its keyframes 12 would do, but those pictures are not quite the same.
        assert video.decoded > 50


def test_frames_of_files_without_index_are_decoded_once_if_they_fit(film_path, film_frames, monkeypatch):
    indices = [50, 3, 3]
    with open_video(film_path("stream.ts")) as video:
        np.testing.assert_array_equal(video.read(indices), film_frames("stream.ts")[indices])
        assert video.decoded == 60
    monkeypatch.setattr(decode, "KEPT_BYTES", 100_000)
    with open_video(film_path("stream.ts")) as video:
        np.testing.assert_array_equal(video.read(indices), film_frames("stream.ts")[indices])
        assert 110 < video.decoded < 120  # All once to count, and again as far as frame 50.


@pytest.mark.parametrize("name", ["open_group.mkv", "hevc.mp4"])
def test_stream_that_begins_with_pictures_that_need_the_group_before(name, film_path, tmp_path):
    path = tmp_path / "cut.mkv"
    with av.open(str(film_path(name))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if packet.size and keys > 1:
                packet.stream = stream
                target.mux(packet)
    plain = decode_plainly(path)
    with open_video(path) as video:
        assert video.frame_count == len(plain)
        np.testing.assert_array_equal(video.read(range(len(plain))), plain)
        np.testing.assert_array_equal(video.read([30, 1]), plain[[30, 1]])


def test_picture_size_that_changes_midway(tmp_path):
    parts = [
        write(tmp_path, Film(f"{i}.h264", size=size, shown=range(8))) for i, size in enumerate([(48, 64), (96, 128)])
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(path) as video:
        frames = video.read(range(video.frame_count))
    assert frames.shape == (16, 48, 64, 3)
    assert [number_of(frame) for frame in frames] == [*range(8), *range(8)]
    np.testing.assert_array_equal(read_all(path), frames)


def test_varying_frame_rate(film_path):
    path = film_path("varying_rate.mp4")
    with open_video(path) as video, av.open(str(path)) as plain:
        times = [float(frame.time) for frame in plain.decode(video=0)]
        assert video.frame_rate == pytest.approx(59 / (times[-1] - times[0]))
        assert video.duration == pytest.approx((times[-1] - times[0]) * 60 / 59)


def test_picture_turned_by_exif(tmp_path):
    """PyAV 18 cannot list the side data of such a frame."""
    path = tmp_path / "turned.jpg"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as target:
        stream = target.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 48, "yuvj420p"
        # A turn by 90 degrees clockwise sets it upright.
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(paint(1234))), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode()]:
            target.mux(packet)
    entry = struct.pack("<HHII", 0x112, 3, 1, 6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + b"\0\0\0\0"
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    frames = read_frames(path, [0])
    assert frames.shape == (1, 48, 64, 3)
    assert number_of(frames[0]) == 1234


def test_index_out_of_range(film_path):
    with open_video(film_path("b_frames.mp4")) as video:
        for index in (-1, 60):
            with pytest.raises(BadInput, match=f"has 60 frames, from 0; there is no frame {index}"):
                video.read([3, index])


def test_no_index(film_path):
    assert read_frames(film_path("b_frames.mp4"), []).shape == (0, 48, 64, 3)


def test_numpy_indices(film_path, film_frames):
    indices = np.array([7, 2])
    np.testing.assert_array_equal(read_frames(film_path("b_frames.mp4"), indices), film_frames("b_frames.mp4")[indices])


@pytest.mark.parametrize("seed", range(12))
def test_h264_of_any_settings(seed, tmp_path):
    """Pictures that are not wanted are left out of decoding; whatever the encoder did, the others stay the same."""
    draws = random.Random(seed)
    choices = {
        "keyint": [10, 30, 250],
        "bframes": [0, 1, 3, 8, 16],
        "ref": [1, 2, 4, 16],
        "b-pyramid": ["none", "strict", "normal"],
        "open-gop": [0, 1],
        "weightp": [0, 1, 2],
        "b-adapt": [0, 1, 2],
        "slices": [1, 3],
        "direct": ["spatial", "temporal", "auto"],
        "cabac": [0, 1],
        "constrained-intra": [0, 1],
        "intra-refresh": [0, 0, 0, 1],
    }
    parameters = ":".join(f"{name}={draws.choice(values)}" for name, values in choices.items())
    name = f"any.{draws.choice(['mp4', 'mkv'])}"
    path = write(tmp_path, Film(name, parameters=parameters + ":scenecut=0", options={"preset": "veryfast"}))
    plain = decode_plainly(path)
    with open_video(path) as video:
        assert video._index is not None
        for _ in range(15):
            indices = draws.choices(range(60), k=draws.choice([1, 3, 8]))
            np.testing.assert_array_equal(video.read(indices), plain[indices], err_msg=f"{parameters} {indices}")


@pytest.mark.parametrize("seed", range(6))
def test_hevc_of_any_settings(seed, tmp_path):
    """As above."""
    draws = random.Random(seed)
    choices = {
        "keyint": [20, 30, 250],
        "bframes": [1, 3, 4],
        "ref": [2, 4],
        "b-pyramid": [0, 1],
        "open-gop": [0, 1],
        "b-adapt": [0, 2],
        "weightb": [0, 1],
    }
    parameters = ":".join(["log-level=none", *(f"{name}={draws.choice(values)}" for name, values in choices.items())])
    name = f"any.{draws.choice(['mp4', 'mkv'])}"
    path = write(tmp_path, Film(name, "libx265", parameters=parameters, options={"preset": "ultrafast"}))
    plain = decode_plainly(path)
    with open_video(path) as video:
        assert video._index is not None
        for _ in range(15):
            indices = draws.choices(range(60), k=draws.choice([1, 3, 8]))
            np.testing.assert_array_equal(video.read(indices), plain[indices], err_msg=f"{parameters} {indices}")


def test_films_are_what_they_say(film_path):
    """Otherwise the tests above would prove little."""

    def packets(name):
        with av.open(str(film_path(name))) as source:
            return [packet for packet in source.demux(video=0) if packet.size]

    def leading(name):
        """Packets that are shown before the keyframe that precedes them in the file."""
        found, key = 0, None
        for packet in packets(name):
            key = packet.pts if packet.is_keyframe else key
            found += packet.pts < key
        return found

    times = [packet.pts for packet in packets("b_frames.mp4")]
    assert times != sorted(times)
    assert leading("b_frames.mp4") == 0
    assert leading("open_group.mp4") > 4
    assert leading("open_group.mkv") > 4
    assert leading("hevc.mp4") > 4
    assert sum(packet.is_keyframe for packet in packets("one_group.mp4")) == 2
    assert packets("edited.mp4")[0].is_discard
    assert any(packet.size < 8 for packet in packets("mpeg4_packed.avi"))
    with av.open(str(film_path("interlaced.mp4"))) as source:
        assert next(source.decode(video=0)).interlaced_frame
