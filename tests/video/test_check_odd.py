"""`check_source`: segments of folders of pictures, lengths that are not known, places and processes that fail."""

import os
import subprocess
import sys

import pytest
from films import paint
from PIL import Image
from spoilt import film, pictures

from muybridge.errors import BadInput
from muybridge.structures import FrameFiles, Item, SourceArgs
from muybridge.video.check import check_source, write_list
from muybridge.video.sources import read_part

EPIC = "narration_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class\n"


@pytest.fixture
def kitchen(tmp_path):
    """A film of EPIC-KITCHENS as 24 pictures, with four segments to train with and two to validate with."""
    folder = tmp_path / "data/P01/rgb_frames/P01_01"
    folder.mkdir(parents=True)
    for number in range(1, 25):
        Image.fromarray(paint(number)).save(folder / f"frame_{number:010}.jpg")

    def row(number, first, last, verb):
        return f"P01_01_{number},P01_01,00:00:0{number},00:00:09,{first},{last},{verb}\n"

    train = row(0, 1, 8, 0) + row(1, 5, 8, 1) + row(2, 1, 8, 0) + row(3, 20, 30, 1)
    (tmp_path / "data/EPIC_100_train.csv").write_text(EPIC + train)
    (tmp_path / "data/EPIC_100_validation.csv").write_text(EPIC + row(4, 9, 16, 1) + row(5, 17, 24, 0))
    return tmp_path / "data"


def test_segments_of_a_folder_of_pictures_are_videos_of_their_own(kitchen, tmp_path):
    args = SourceArgs(label="verb")
    report = check_source(kitchen, args, out=tmp_path / "out", workers=0)
    assert [(file.name, file.facts.decoded) for file in report.files] == [
        ("P01_01_0", 8),
        ("P01_01_1", 4),
        ("P01_01_3", 5),
        ("P01_01_4", 8),
        ("P01_01_5", 8),
    ]
    assert [(problem.name, problem.kind) for problem in report.problems] == [("P01_01_3", "broken")]
    assert "frame_0000000025.jpg" in report.problems[0].what
    assert [[item.name for _, item in group.items] for group in report.duplicates] == [["P01_01_0", "P01_01_2"]]
    assert check_source(kitchen, args, out=tmp_path / "out", workers=0) == report
    assert write_list(report, tmp_path / "good") == (2, 2)
    kept = read_part(tmp_path / "good", report.labels, "all").items
    assert [item.name for item in kept] == ["P01_01_0", "P01_01_1", "P01_01_4", "P01_01_5"]
    path = str(kitchen / "P01/rgb_frames/P01_01")
    assert kept[1] == Item(path, 1, "P01_01_1", frames=FrameFiles("frame_{:010}.jpg", 5, 4))


def test_lengths_and_rates_that_are_not_known_are_no_zeros(kitchen):
    report = check_source(kitchen, SourceArgs(label="verb"), workers=0)
    summary = report.summary()
    assert (summary["seconds"], summary["rate"], summary["rates"]) == (None, None, {})
    assert summary["frames"] == {"min": 4, "median": 8, "max": 8}


def test_a_table_that_cannot_be_written(tmp_path):
    for label in ("up", "down"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "a.mp4").touch()
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        with pytest.raises(BadInput, match=r"cannot be written.*--out"):
            check_source(tmp_path / "data", out=out, workers=0)
    assert file.read_text() == "mine"


def test_a_script_without_a_guard_does_not_make_every_file_a_broken_one(tmp_path):
    for label in ("up", "down"):
        film(tmp_path / f"data/{label}/a.mp4", pictures(0, 2))
    script = tmp_path / "script.py"
    script.write_text(
        "from muybridge.video.check import check_source\n"
        f"print(check_source({str(tmp_path / 'data')!r}, out={str(tmp_path / 'out')!r}, workers=1).problems)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert len((tmp_path / "out/check.csv").read_text().splitlines()) == 1
