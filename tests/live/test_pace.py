"""Which frames of a stream make a window."""

import pytest

from muybridge.errors import BadInput
from muybridge.live.pace import Sampler, choose_pace, count_pace, ordinal
from muybridge.structures import Sampling


def chosen(pace, times):
    sampler = Sampler(pace)
    return [number for number, seconds in enumerate(times) if sampler.wants(seconds)]


def test_spread_frames_become_two_seconds():
    pace = choose_pace(Sampling(frames=8, rule="segments"), fps=24)
    assert pace.period == 0.25
    assert pace.note == "A window is 8 frames, 0.25 s apart: 2 s."
    assert chosen(pace, [n / 24 for n in range(31)]) == [0, 6, 12, 18, 24, 30]


def test_counted_frames_stay_counted():
    pace = choose_pace(Sampling(frames=8, rule="stride", stride=5), fps=25)
    assert pace.period == 0.2
    assert "every 5th as in training: 1.6 s" in pace.note
    # Stamps of 90 kHz clocks are rounded, and cameras are not on time to the tick.
    assert chosen(pace, [n / 25 + 0.003 * (-1) ** n for n in range(21)]) == [0, 5, 10, 15, 20]
    assert choose_pace(Sampling(rule="dense", stride=6)).period == 0.2  # 30 a second where nothing tells


def test_a_rate_that_is_asked_for_and_one_that_cannot_be():
    assert choose_pace(Sampling(frames=8, rule="stride", stride=5), 25, rate=10).period == 0.1
    pace = choose_pace(Sampling(frames=16), fps=5)
    assert pace.period == 0.2
    assert "all that come: 3.2 s" in pace.note
    assert chosen(pace, [n / 5 for n in range(4)]) == [0, 1, 2, 3]


def test_after_a_hole_the_period_begins_anew():
    pace = choose_pace(Sampling(), rate=4)
    assert chosen(pace, [0, 0.1, 0.25, 3.1, 3.2, 3.3, 3.36, 3.5]) == [0, 2, 3, 6]
    sampler = Sampler(pace)
    assert sampler.wants(5.0)
    sampler.restart()
    assert sampler.wants(5.01)


def test_frames_without_a_time():
    assert chosen(count_pace(Sampling(rule="stride", stride=3)), range(8)) == [0, 3, 6]
    assert chosen(count_pace(Sampling(rule="tsn")), range(3)) == [0, 1, 2]
    assert "say with fps=" in count_pace(Sampling(rule="tsn")).note


def test_mistakes():
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="expected frames a second, above 0"):
            choose_pace(Sampling(), rate=rate)
    with pytest.raises(BadInput, match="fps is -1"):
        choose_pace(Sampling(), fps=-1)


def test_ordinals():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]
    )
