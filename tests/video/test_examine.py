"""What one file is said to be, and that reading it in a process of its own costs nobody else."""

import os
import signal
import time

from films import paint
from spoilt import film, pictures

from muybridge.structures import Item, SourceArgs
from muybridge.video.check_report import notes_on
from muybridge.video.examine import examine, varies
from muybridge.video.supervise import Lost, supervised


def test_frames_that_the_decoder_painted_over_are_counted(tmp_path):
    data = film(tmp_path / "film.mp4", pictures(0, 60), g="60").read_bytes()
    found = []
    for place in range(len(data) // 2, len(data) * 9 // 10, len(data) // 40):
        (tmp_path / "spoilt.mp4").write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        found.append(examine(Item(str(tmp_path / "spoilt.mp4"), 0, ""), SourceArgs(), False, lambda: None))
    spoilt = [facts for facts in found if facts.damaged and not facts.broken]
    assert spoilt
    assert f"{spoilt[0].damaged} of 60 frames are damaged" in notes_on(spoilt[0], 0.0)


def test_a_moving_film_with_a_black_beginning_is_neither_black_nor_still(tmp_path):
    path = film(tmp_path / "fade.mp4", [paint(0) * 0] * 10 + pictures(3, 4))
    assert examine(Item(str(path), 0, "fade"), SourceArgs(), False, lambda: None).picture == ""


def test_times_that_vary():
    assert not varies([])
    assert not varies([None, 1.0, None])
    assert not varies([n / 25 for n in range(100)])
    # Milliseconds, as Matroska has them.
    assert not varies([round(n / 29.97, 3) for n in range(100)])
    assert varies([0, 0.04, 0.08, 0.2, 0.24, 0.4])


def task(word, beat):
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        time.sleep(60)
    if word == "raise":
        raise RuntimeError("oh")
    if word == "slow":
        for _ in range(8):
            time.sleep(0.2)
            beat()
    return word.upper()


def test_processes_that_die_or_hang_cost_their_task_only():
    words = ["a", "die", "b", "hang", "c", "raise", "slow", "d", "die"]
    begun = time.monotonic()
    results = dict(supervised(task, words, workers=2, limit=1.0))
    assert time.monotonic() - begun < 30
    assert sorted(results) == list(range(len(words)))
    for place, word in enumerate(words):
        if word not in ("die", "hang", "raise"):
            assert results[place] == word.upper()
    assert "SIGKILL" in results[1].reason
    assert "SIGKILL" in results[8].reason
    assert "nothing for 1 s" in results[3].reason
    assert results[5] == Lost("RuntimeError: oh")
