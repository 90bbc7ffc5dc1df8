"""torchcodec, where it is installed: the same frames as PyAV, or a refusal that names PyAV."""

import random
import sys

import numpy as np
import pytest
from films import FILMS

from muybridge.errors import BadInput, UnknownName, VideoError
from muybridge.structures import Item, SourceArgs
from muybridge.video import torchcodec as torchcodec_module
from muybridge.video.opening import open_item

TORCHCODEC = SourceArgs(decoder="torchcodec")
# What torchcodec reads; everything else is refused.
READ = {
    *("b_frames.mp4", "b_frames.mov", "b_frames.mkv", "one_group.mp4", "one_group.mkv", "keyframes_only.mp4"),
    *("short_groups.mp4", "varying_rate.mp4", "varying_rate.mkv", "index_first.mp4", "fragments.mp4", "lossless.mp4"),
    *("one_frame.mp4", "odd_size.mp4", "grey.mp4", "hevc.mp4", "vp9.webm", "vp9_live.webm", "av1.mp4", "av1.webm"),
    *("turned_90.mp4", "turned_180.mp4", "turned_270.mp4", "large.mp4"),
}


@pytest.fixture
def torchcodec():
    try:
        import torchcodec.decoders as decoders
    except ImportError:
        pytest.skip("torchcodec is not installed")
    except (RuntimeError, OSError) as error:
        pytest.skip(f"torchcodec finds no FFmpeg: {str(error).splitlines()[0]}")
    return decoders


@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.name)
def test_same_frames_or_a_refusal(film, film_path, film_frames, torchcodec):
    item = Item(str(film_path(film.name)), 0, film.name)
    if film.name not in READ:
        with pytest.raises(VideoError, match="--source.decoder pyav"):
            open_item(item, TORCHCODEC)
        return
    plain, draws = film_frames(film.name), random.Random(film.name)
    with open_item(item, TORCHCODEC) as video, open_item(item, SourceArgs()) as other:
        assert (video.frame_count, video.size, video.frame_rate) == (other.frame_count, other.size, other.frame_rate)
        np.testing.assert_array_equal(video.seconds(), other.seconds())
        for _ in range(1 if film.name == "large.mp4" else 8):
            indices = draws.choices(range(len(plain)), k=draws.choice([1, 2, 8]))
            np.testing.assert_array_equal(video.read(indices), plain[indices], err_msg=str(indices))


def test_bytes_parts_and_limits(film_path, film_frames, torchcodec, tmp_path):
    data = film_path("b_frames.mp4").read_bytes()
    path = tmp_path / "archive"
    path.write_bytes(b"x" * 100 + data + b"y" * 100)
    item = Item(str(path), 0, "inside.mp4", start=1.0, end=1.2, stored=(100, len(data)))
    with open_item(item, TORCHCODEC) as video:
        np.testing.assert_array_equal(video.read(range(video.frame_count)), film_frames("b_frames.mp4")[25:30])
    with (
        open_item(
            Item(str(film_path("b_frames.mp4")), 0, "b"), SourceArgs(decoder="torchcodec", megabytes=0.05)
        ) as video,
        pytest.raises(VideoError, match="--source.megabytes"),
    ):
        video.read(range(20))


def test_broken_files(film_path, torchcodec, tmp_path):
    data = film_path("index_first.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    for size in (0, 100, 900, 3000, len(data) * 2 // 3):
        path.write_bytes(data[:size])
        with pytest.raises(VideoError), open_item(Item(str(path), 0, "cut.mp4"), TORCHCODEC) as video:
            video.read(range(video.frame_count))


def test_not_installed(film_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    with pytest.raises(BadInput, match=r"pip install 'muybridge\[torchcodec\]'"):
        open_item(Item(str(film_path("b_frames.mp4")), 0, "b"), TORCHCODEC)


def test_a_build_for_cuda_without_cuda(film_path, monkeypatch):
    def broken(name):
        try:
            raise OSError("libnvrtc.so.13: cannot open shared object file: No such file or directory")
        except OSError as error:
            raise OSError("Could not load this library: libtorchcodec_image.so") from error

    monkeypatch.setattr(torchcodec_module, "import_module", broken)
    with pytest.raises(BadInput, match=r"for CUDA, .* \(libnvrtc.so.13\)\. .* pip install torchcodec==0\.13\.0"):
        open_item(Item(str(film_path("b_frames.mp4")), 0, "b"), TORCHCODEC)


def test_no_such_decoder(film_path):
    with pytest.raises(UnknownName, match="Choose one of: pyav, torchcodec"):
        open_item(Item(str(film_path("b_frames.mp4")), 0, "b"), SourceArgs(decoder="decord"))
