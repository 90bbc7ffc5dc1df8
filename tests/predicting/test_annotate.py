"""Labels burnt into a video: where they are to be seen, and what of the video stays as it was."""

from fractions import Fraction

import av
import numpy as np
import pytest

from muybridge.errors import BadInput, MissingFile, VideoError
from muybridge.predicting.annotate import annotate, burn
from muybridge.structures import Item, Prediction
from muybridge.video.decode import open_video, read_all

SOME = [Prediction("opening something", 0, 0.93), Prediction("closing something", 1, 0.05)]


def write(path, width=160, height=120, count=24, gaps=False, aspect=None, turn=None, colours=None):
    """A colourful still, 30000/1001 frames a second; with `gaps` every third frame stays twice as long."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    picture[..., 2] = 90
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, 30000)
        if aspect:
            context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(turn)
        if colours:
            context.colorspace = context.color_primaries = context.color_trc = colours
        time = 0
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1 if colours == 1 else 5)
            frame.pts, frame.time_base = time, Fraction(1, 30000)
            time += 1001 * (2 if gaps and number % 3 == 0 else 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"gaps": True},
        {"aspect": Fraction(12, 11)},
        {"turn": 90, "aspect": Fraction(4, 3)},
        {"colours": 1},
    ],
    ids=["plain", "other times", "oblong pixels", "turned", "BT.709"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_shape_and_colours_stay(tmp_path, kind, suffix):
    write(tmp_path / "in.mp4", **kind)
    out = annotate(tmp_path / "in.mp4", tmp_path / f"out{suffix}", lambda second: SOME if second < 0.3 else [])
    with open_video(tmp_path / "in.mp4") as before, open_video(out) as after:
        assert after.size == before.size
        assert after.frame_count == before.frame_count
        np.testing.assert_allclose(after.seconds(), before.seconds(), atol=1e-3)
        assert after.frame_rate == pytest.approx(before.frame_rate, rel=1e-2)
        aspect, again = (one._stream.sample_aspect_ratio for one in (before, after))
        assert again == (1 / aspect if kind.get("turn") else aspect)
        late = int(np.searchsorted(before.seconds(), 0.5))
        pictures, written = before.read([0, late]).astype(int), after.read([0, late]).astype(int)
    # Without labels the picture is the same but for compression; with them, only the lower left corner is another.
    assert np.abs(pictures[1] - written[1]).mean() < 3
    changed = np.abs(pictures[0] - written[0]).max(-1) > 40
    rows, columns = np.nonzero(changed)
    assert changed.mean() > 0.05
    assert rows.min() > pictures.shape[1] // 2
    assert columns.min() < 10


def test_odd_sides_get_a_pixel_more(tmp_path):
    with av.open(str(tmp_path / "in.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 61, 45, "rgb8"
        for value in (40, 200, 90):
            frame = av.VideoFrame.from_ndarray(np.full((45, 61, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode())
    out = annotate(tmp_path / "in.gif", tmp_path / "out.mp4", lambda _: SOME)
    assert read_all(out).shape == (3, 46, 62, 3)


def test_a_part_of_a_video(tmp_path):
    write(tmp_path / "in.mp4")
    seen = []
    item = Item(str(tmp_path / "in.mp4"), -1, "part", 0.2, 0.5)
    out = annotate(item, tmp_path / "out.mp4", lambda second: seen.append(second) or [])
    assert read_all(out).shape[0] == len(seen) == 9
    assert seen[0] == 0


@pytest.mark.parametrize("shape", [(1080, 1920), (120, 160), (480, 270), (40, 300)])
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_labels_are_readable_on_anything(shape, ground):
    picture = np.full((*shape, 3), ground, np.uint8)
    before = picture.copy()
    burnt = burn(picture, [Prediction("a very long name of a class " * 3, 0, 0.9), *SOME])
    assert np.array_equal(picture, before)
    assert burnt.shape == picture.shape
    panel = (
        burnt[: shape[0]].reshape(-1, 3)[(burnt != ground).any(-1).ravel()] if ground != 255 else burnt.reshape(-1, 3)
    )
    dark, bright = panel.min(), panel.max()
    assert int(bright) - int(dark) > 100
    assert np.array_equal(burnt[: shape[0] // 3], picture[: shape[0] // 3])


def test_a_picture_that_is_hardly_there_is_no_error():
    for side in (1, 2, 8, 16):
        assert burn(np.zeros((side, side, 3), np.uint8), SOME).shape == (side, side, 3)


def test_nothing_is_written_over_and_nothing_half_written_stays(tmp_path):
    write(tmp_path / "in.mp4")
    (tmp_path / "there.mp4").write_text("mine")
    for out, kind in (("there.mp4", BadInput), ("x.avi", BadInput), ("x", BadInput), ("gone/x.mp4", MissingFile)):
        with pytest.raises(kind):
            annotate(tmp_path / "in.mp4", tmp_path / out, lambda _: SOME)
    assert (tmp_path / "there.mp4").read_text() == "mine"
    before = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(VideoError):
        annotate(tmp_path / "broken.mp4", tmp_path / "x.mp4", lambda _: SOME)

    def fails(second):
        if second > 0.3:
            raise KeyboardInterrupt
        return SOME

    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path / "in.mp4", tmp_path / "x.mp4", fails)
    assert {path.name for path in tmp_path.iterdir()} == before | {"broken.mp4"}
