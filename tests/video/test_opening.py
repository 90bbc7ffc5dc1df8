"""Videos of data sets wherever they lie: parts, folders of pictures, archives; and the limits of what they may cost."""

import gc
import multiprocessing
import os
import struct
import sys
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from films import Film, decode_plainly, number_of, paint, write
from PIL import Image

from muybridge.errors import VideoError
from muybridge.structures import FrameFiles, Item, SourceArgs
from muybridge.video import container
from muybridge.video.decode import open_video, read_all
from muybridge.video.opening import open_item

ARGS = SourceArgs()
UNLIMITED = SourceArgs(seconds=0, megapixels=0, megabytes=0)


def item(path, **fields):
    return Item(str(path), 0, fields.pop("name", "its name"), **fields)


def reason(wanted, args=ARGS, indices=()):
    """Why it cannot be opened, or these frames not be read."""
    with pytest.raises(VideoError) as caught, open_item(wanted, args) as video:
        video.read(indices)
    return caught.value.reason


# Parts


@pytest.mark.parametrize("name", ["b_frames.mp4", "edited.mp4", "stream.ts", "gif.gif", "no_container.h264"])
@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        (0.0, None, slice(None)),
        (0.0, 0.04, slice(0, 1)),
        (0.4, 0.8, slice(10, 20)),
        (0.39, 0.81, slice(10, 21)),
        (1.0, None, slice(25, None)),
        (1.0, 77.0, slice(25, None)),
        # No frame begins within: the one that is seen.
        (0.41, 0.42, slice(10, 11)),
        (0.399, 0.4, slice(9, 10)),
    ],
)
def test_part(name, start, end, frames, film_path, film_frames):
    expected = film_frames(name)[frames]
    with open_item(item(film_path(name), start=start, end=end), ARGS) as video:
        assert video.frame_count == len(expected)
        assert video.size == (48, 64)
        assert video.duration == pytest.approx(len(expected) / 25)
        np.testing.assert_allclose(video.seconds(), np.arange(len(expected)) / 25, atol=1e-6)
        np.testing.assert_array_equal(video.read(range(len(expected))), expected)
        np.testing.assert_array_equal(video.read([-1 + len(expected), 0]), expected[[-1, 0]])


def test_parts_of_varying_rate(film_path, film_frames):
    path = film_path("varying_rate.mp4")
    with av.open(str(path)) as plain:
        times = np.array([float(frame.time) for frame in plain.decode(video=0)])
    times -= times[0]
    for start, end in [(0.1, 0.5), (0.5, 0.503), (1.0, 9.0), (float(times[7]), float(times[20]))]:
        chosen = np.flatnonzero((times > start - 1e-6) & (times < end - 1e-6))
        if not len(chosen):
            chosen = [np.flatnonzero(times <= start)[-1]]
        with open_item(item(path, start=start, end=end), ARGS) as video:
            np.testing.assert_array_equal(video.read(range(video.frame_count)), film_frames(path.name)[chosen])


@pytest.mark.parametrize(
    ("start", "end", "why"),
    [
        (2.4, None, "the part from 2.4 s to the end lies outside of the video (2.400 s)"),
        (60.0, 70.0, "the part from 60 s to 70 s lies outside of the video (2.400 s)"),
        (-1.0, 1.0, "the part from -1 s to 1 s is empty; expected 0 <= start < end"),
        (1.0, 1.0, "the part from 1 s to 1 s is empty; expected 0 <= start < end"),
        (float("nan"), 1.0, "the part from nan s to 1 s is empty; expected 0 <= start < end"),
    ],
)
def test_part_that_is_not_there(start, end, why, film_path):
    assert reason(item(film_path("b_frames.mp4"), start=start, end=end)) == why


def test_part_of_a_file_that_is_cut_off(film_path, film_frames, tmp_path):
    path = tmp_path / "cut.mp4"
    data = film_path("index_first.mp4").read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with open_item(item(path, start=0.2, end=0.4), ARGS) as video:
        np.testing.assert_array_equal(video.read(range(5)), film_frames("index_first.mp4")[5:10])
    with open_item(item(path, start=2.2, name="P01_1"), ARGS) as video:
        assert (video.path, video.frame_count) == ("P01_1", 5)
        with pytest.raises(VideoError, match="cut off"):
            video.read([0])


def test_parts_of_one_file_read_its_packets_once(film_path, tmp_path, monkeypatch):
    scans, scan = [], container._scan
    monkeypatch.setattr(container, "_scan", lambda *args: scans.append(1) or scan(*args))
    path = tmp_path / "film.mp4"
    path.write_bytes(film_path("b_frames.mp4").read_bytes())
    for start in (0.0, 0.4, 0.8):
        with open_item(item(path, start=start, end=start + 0.1), ARGS) as video:
            assert number_of(video.read([0])[0]) == round(start * 25)
    assert len(scans) == 1
    path.write_bytes(film_path("edited.mp4").read_bytes())
    with open_item(item(path), ARGS) as video:
        assert video.frame_count == 30
    assert len(scans) == 2
    monkeypatch.setattr(container, "KEPT_INDEX_BYTES", 0)
    other = tmp_path / "other.mp4"
    other.write_bytes(path.read_bytes())
    open_video(other).close()
    assert [version[0] for version in container._scanned] == [str(other)]


# Folders of pictures


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3, 13):
        Image.fromarray(paint(number)).save(folder / f"img_{number:05}.png")
    return folder


PICTURES = FrameFiles("img_{:05}.png", 3, 10, 5.0)


def test_folder_of_pictures(folder):
    with open_item(item(folder, frames=PICTURES), ARGS) as video:
        assert (video.frame_count, video.size, video.frame_rate, video.duration) == (10, (48, 64), 5.0, 2.0)
        frames = video.read([9, 0, 0, 4])
        np.testing.assert_array_equal(frames, np.stack([paint(number) for number in (12, 3, 3, 7)]))
    with open_item(item(folder, frames=PICTURES, start=0.4, end=1.0), ARGS) as video:
        assert [number_of(frame) for frame in video.read(range(video.frame_count))] == [5, 6, 7]
    without_rate = FrameFiles("img_{:05}.png", 3, 10)
    assert reason(item(folder, frames=without_rate, start=0.4)) == "it tells neither time stamps nor a frame rate"


def test_pictures_of_other_kinds(folder):
    kinds = {"grey": "L", "palette": "P", "opaque": "RGBA", "print": "CMYK"}
    for name, mode in kinds.items():
        picture = Image.fromarray(paint(900))
        (picture.quantize() if mode == "P" else picture.convert(mode)).save(
            folder / f"{name}_0.{'jpg' if mode == 'CMYK' else 'png'}"
        )
        suffix = "jpg" if mode == "CMYK" else "png"
        with open_item(item(folder, frames=FrameFiles(f"{name}_{{}}.{suffix}", 0, 1)), ARGS) as video:
            assert number_of(video.read([0])[0]) == 900
    Image.fromarray(paint(7)[..., 0].astype(np.uint16) * 256).save(folder / "deep_0.png")
    assert "expected 8 bits" in reason(item(folder, frames=FrameFiles("deep_{}.png", 0, 1)))
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(paint(77))))
    exif = Image.Exif()
    exif[0x112] = 6
    turned.save(folder / "turned_0.jpg", exif=exif, quality=95)
    with open_item(item(folder, frames=FrameFiles("turned_{}.jpg", 0, 1)), ARGS) as video:
        assert number_of(video.read([0])[0]) == 77


def test_pictures_that_cannot_be_read(folder):
    whole = item(folder, frames=PICTURES)
    Image.fromarray(paint(5, 40, 64)).save(folder / "img_00005.png")
    (folder / "img_00006.png").unlink()
    (folder / "img_00007.png").write_bytes((folder / "img_00008.png").read_bytes()[:200])
    (folder / "img_00009.png").write_text("no picture")
    assert reason(whole, indices=[0, 2]) == (
        "its pictures differ in size: img_00005.png has 64 x 40 pixels, img_00003.png 64 x 48"
    )
    assert reason(whole, indices=[3]) == "img_00006.png is missing; expected 10 pictures"
    assert reason(whole, indices=[4]).startswith("img_00007.png cannot be read as a picture")
    assert reason(whole, indices=[6]).startswith("img_00009.png cannot be read as a picture")
    assert reason(whole, SourceArgs(megapixels=0.001)).endswith("(--source.megapixels; 0: no limit)")
    assert reason(whole, SourceArgs(megabytes=0.05), range(10)).endswith("(--source.megabytes; 0: no limit)")
    assert reason(item(folder, frames=FrameFiles("img_{:05}.png", 0, 10))).startswith("img_00000.png is missing")
    assert reason(item(folder, frames=FrameFiles("img_{:05}.png", 3, 0))) == (
        "a folder of 0 pictures; expected at least 1"
    )
    assert "is no pattern of names" in reason(item(folder, frames=FrameFiles("img_{x}.png", 3, 1)))
    assert "there is no folder" in reason(item(folder / "none", frames=PICTURES))


# Archives


def test_file_within_an_archive(film_path, film_frames, tmp_path):
    path = tmp_path / "shard.tar"
    for name in ("b_frames.mp4", "open_group.mkv", "stream.ts", "mpeg4_packed.avi", "gif.gif"):
        data = film_path(name).read_bytes()
        path.write_bytes(b"x" * 512 + data + b"y" * 512)
        with open_item(item(path, stored=(512, len(data)), name="shard.tar/a.mp4"), ARGS) as video:
            np.testing.assert_array_equal(video.read([50, 3, 3]), film_frames(name)[[50, 3, 3]])
            assert video.path == "shard.tar/a.mp4"
        with open_item(item(path, stored=(512, len(data)), start=0.4, end=0.6), ARGS) as video:
            np.testing.assert_array_equal(video.read(range(5)), film_frames(name)[10:15])


def test_file_within_an_archive_that_cannot_be_read(film_path, tmp_path):
    path = tmp_path / "shard.tar"
    data = film_path("one_group.mp4").read_bytes()
    path.write_bytes(data)
    assert "cut off: the index (moov)" in reason(item(path, stored=(0, len(data) // 2)))
    assert reason(item(path, stored=(100, 0))) == "the file is empty"
    assert reason(item(path, stored=(9, 500))) == "not a video file that FFmpeg can read"
    assert reason(item(path, stored=(0, len(data))), SourceArgs(megabytes=0.001)).endswith(
        "(--source.megabytes; 0: no limit)"
    )
    for wanted in (item(tmp_path / "none.tar", stored=(0, 5), name="x/1"), item(path, stored=(0, 10**7), name="x/1")):
        with pytest.raises(VideoError) as caught:
            open_item(wanted, ARGS)
        assert caught.value.path == "x/1"


# Limits


def memory_of(read):
    """How much memory a process asks for at most while it reads, in MB, and the error's reason."""

    def peak():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmPeak"))

    def measure(pipe):
        try:
            before = peak()
            found = "no error"
            try:
                read()
            except VideoError as error:
                found = error.reason
            pipe.send((peak() - before, found))
        finally:
            os._exit(0)

    mine, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=measure, args=(other,))
    process.start()
    answer = mine.recv() if mine.poll(60) else None
    process.kill()
    process.join()
    return answer


def huge_gif(path, film):
    data = bytearray(film.read_bytes())
    data[6:10] = struct.pack("<HH", 16384, 16384)
    path.write_bytes(data)


def huge_mjpeg(path, film):
    data = film.read_bytes()
    start = data.index(b"\xff\xc0\x00\x11\x08") + 5
    path.write_bytes(
        data.replace(data[start - 5 : start + 4], data[start - 5 : start] + struct.pack(">HH", 16384, 16384))
    )


def huge_vp8(path, film):
    """The container says 64 x 48, every keyframe 16383 x 16383."""
    data = film.read_bytes()
    mark = b"\x9d\x01\x2a"
    path.write_bytes(data.replace(mark + struct.pack("<HH", 64, 48), mark + struct.pack("<HH", 16383, 16383)))


def huge_png(path, film):
    """Truly 16384 x 16384, in 260 kB."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(2049)) for _ in range(16384)) + packer.flush()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16384, 16384, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize(
    ("make", "name"),
    [(huge_gif, "gif.gif"), (huge_mjpeg, "mjpeg.avi"), (huge_vp8, "vp8.webm"), (huge_png, "huge.png")],
)
def test_pictures_of_16384_pixels_are_refused_before_memory_is_taken(make, name, film_path, tmp_path):
    path = tmp_path / name
    make(path, None if name == "huge.png" else film_path(name))
    for read in (lambda: open_video(path).close(), lambda: read_all(path)):
        taken, why = memory_of(read)
        assert "--source.megapixels" in why or why == "none of its frames can be decoded"
        assert taken < 100


def test_pictures_that_turn_out_to_be_too_large_midway(tmp_path):
    """Nothing tells before they are decoded: those are for FFmpeg to refuse."""
    sizes = [(48, 64), (240, 320)]
    parts = [write(tmp_path, Film(f"{i}.h264", size=size, shown=range(8))) for i, size in enumerate(sizes)]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for megapixels, count in ((40, 16), (0.01, 8)):
        with open_video(path, SourceArgs(megapixels=megapixels)) as video:
            assert video.frame_count == count
            assert [number_of(frame) for frame in video.read(range(8))] == list(range(8))


def test_limits_are_named_with_their_field(film_path):
    path = film_path("b_frames.mp4")
    assert reason(item(path), SourceArgs(megapixels=0.001)) == (
        "pictures of 64 x 48 pixels are refused: more than 0.001 megapixels (--source.megapixels; 0: no limit)"
    )
    assert reason(item(path), SourceArgs(megabytes=0.09), range(10)) == (
        "10 frames of 64 x 48 pixels take 0 MB of memory: more than 0.09 MB (--source.megabytes; 0: no limit)"
    )
    for name in ("b_frames.mp4", "stream.ts", "gif.gif"):
        assert reason(item(film_path(name)), SourceArgs(seconds=1e-9)) == (
            "given up: reading it takes longer than 1e-09 s (--source.seconds; 0: no limit)"
        )
    with open_item(item(path), UNLIMITED) as video:
        assert video.read(range(60)).shape == (60, 48, 64, 3)
    with pytest.raises(VideoError, match="--source.megabytes"):
        read_all(path, SourceArgs(megabytes=0.9))


@pytest.mark.parametrize(
    ("name", "wanted"), [("b_frames.mp4", [59]), ("one_group.mkv", [249]), ("stream.ts", list(range(60)))]
)
def test_the_clock_is_looked_at_while_reading(name, wanted, film_path, monkeypatch):
    with open_video(film_path(name), SourceArgs(seconds=1000)) as video:
        times = iter(range(0, 100000, 200))
        monkeypatch.setattr("muybridge.video.limits.time.monotonic", lambda: next(times))
        with pytest.raises(VideoError, match="takes longer than 1000 s"):
            video.read(wanted)
        assert next(times) < 2000
        monkeypatch.undo()
        # Another reading has time of its own.
        assert number_of(video.read([5])[0]) == 5


def long_film(path, seconds):
    """A picture a second, all keyframes, of 16 x 16 pixels."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=1)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        stream.options = {"x264-params": "keyint=1"}
        shades = []
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 30 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 1)
            shades += stream.encode(frame)
        shades = [bytes(packet) for packet in shades + stream.encode()]
        for second in range(seconds):
            packet = av.Packet(shades[second % 8])
            packet.stream, packet.pts, packet.dts, packet.duration = stream, second, second, 1
            packet.time_base, packet.is_keyframe = Fraction(1, 1), True
            target.mux(packet)


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_ten_hours(name, tmp_path):
    path = tmp_path / name
    long_film(path, 36000)
    with open_video(path) as video:
        assert (video.frame_count, round(video.duration)) == (36000, 36000)
        assert [round(frame.mean() / 30) for frame in video.read([35999, 0, 20003])] == [7, 0, 3]
        assert video.decoded < 10
    with open_item(item(path, start=35990.5, end=35994.0), ARGS) as video:
        assert [round(frame.mean() / 30) for frame in video.read(range(video.frame_count))] == [7, 0, 1]


def test_a_time_stamp_that_says_ten_hours(tmp_path):
    path = tmp_path / "jump.mkv"
    write(tmp_path, Film("few.mkv", shown=range(6), parameters="keyint=1"))
    with av.open(str(tmp_path / "few.mkv")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream = stream
            packet.pts = packet.dts = place if place < 5 else 36000 * 1000
            packet.time_base = Fraction(1, 1000)
            target.mux(packet)
    with open_video(path) as video:
        assert video.duration == pytest.approx(36000 * 6 / 5, rel=0.01)
        np.testing.assert_array_equal(video.read([5, 0]), decode_plainly(path)[[5, 0]])


@pytest.mark.parametrize("name", ["b_frames.mp4", "stream.ts", "turned_90.mp4", "open_group.mkv"])
def test_no_frame_outlives_its_video(name, film_path):
    """Frames are large: none may wait for the sweep for cycles, which comes when there are many small objects."""

    def frames():
        return sum(type(each).__name__ == "VideoFrame" for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = frames()
        for _ in range(3):
            with open_video(film_path(name)) as video:
                video.read([30, 2])
            read_all(film_path(name))
        del video
        assert frames() == before
    finally:
        gc.enable()


def test_nothing_leaks(film_path, tmp_path):
    data = film_path("b_frames.mp4").read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data[: len(data) // 2])

    def use():
        for path in (broken, film_path("stream.ts"), film_path("b_frames.mp4"), tmp_path / "none.mp4"):
            for args in (ARGS, SourceArgs(megapixels=0.001), SourceArgs(seconds=1e-9)):
                try:
                    with open_item(item(path, start=1.0, end=1.5), args) as video:
                        video.read([0])
                    open_item(item(path, start=100.0), args)
                except VideoError:
                    pass

    use()
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        use()
    assert len(os.listdir("/dev/fd")) == before
