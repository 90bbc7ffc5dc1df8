"""Ratios from interleaved rounds; peak memory of a process of its own."""

import time
from functools import partial

import pytest
import torch

from muybridge.measure.memory import peak_of
from muybridge.measure.timing import Times, interleaved


def test_every_candidate_is_called_once_a_round_and_turns_go_both_ways():
    called = []
    calls = {name: partial(called.append, name) for name in "abc"}
    slow = {name: lambda call=call: (call(), time.sleep(0.021)) for name, call in calls.items()}
    times = interleaved(slow, rounds=2, warmups=1)
    assert "".join(called) == "abc" + "abc" + "cba"
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 2, "b": 2, "c": 2}
    assert all(0.02 < second < 1 for seconds in times.seconds.values() for second in seconds)


def test_short_calls_are_repeated_and_divided():
    called = []
    times = interleaved({"a": lambda: called.append(time.sleep(0.002))}, rounds=3)
    assert len(called) > 10
    assert 0.002 <= times.median("a") < 0.02


def test_ratio_is_taken_within_a_round():
    # The machine is ten times slower in the second round; the mean of the times would say something else.
    times = Times({"ours": [2.0, 20.0, 2.0], "bare": [1.0, 10.0, 1.0]})
    assert times.ratio("ours", "bare") == 2
    assert times.median("ours") == 2


def hold(megabytes):
    freed = torch.ones(200 * 2**18)  # 200 MB while preparing
    del freed

    def step():
        return torch.ones(megabytes * 2**18).sum()

    return step


@pytest.mark.slow  # two new processes import torch
def test_peak_is_that_of_the_steps_and_not_of_what_came_before():
    little, much = peak_of(hold, 1), peak_of(hold, 300)
    assert 290e6 < much - little < 340e6
