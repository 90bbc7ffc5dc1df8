"""Damaged videos never give a wrong frame, never crash, never hang; see `fuzz.py` for what is done to them."""

import ctypes
import os
import signal
import sys

import fuzz
import pytest
from fuzz import FAILURES, MUTATORS, PAIRS, report

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is limited by Linux")


def check(count, folder, pairs=None):
    outcomes = fuzz.fuzz(count, 0, folder, pairs=pairs)
    text = report(outcomes)
    print(text)
    assert len(outcomes) == count
    assert not [outcome for outcome in outcomes if outcome.kind in FAILURES], text
    return outcomes


def test_50_mutants(tmp_path):
    # The containers whose frames are found by an index, and one of those that are decoded in order.
    outcomes = check(50, tmp_path, [PAIRS[0], PAIRS[2], PAIRS[3], PAIRS[10]])
    assert {outcome.kind for outcome in outcomes} >= {"exact", "partly", "refused"}


@pytest.mark.slow
def test_2000_mutants(tmp_path):
    outcomes = check(2000, tmp_path)
    # What it proves lies in those that can still be read, and in every film and way of damage.
    assert sum(outcome.kind == "exact" for outcome in outcomes) > 1000
    groups = {outcome.mutant.split(" (")[1] for outcome in outcomes}
    assert len(groups) == len(PAIRS) * len(MUTATORS)


def test_a_mutant_that_kills_its_process_is_counted_and_the_next_is_judged(tmp_path, monkeypatch):
    """The guard itself: what would be wrong, would be seen."""
    judge = fuzz.judge

    def crash(path, seed, film):
        if seed == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 4:
            raise KeyError("a bug")
        if seed == 5:
            ctypes.PyDLL(None).sleep(100)
        return ("wrong", "") if seed == 6 else judge(path, seed, film)

    monkeypatch.setattr(fuzz, "judge", crash)
    monkeypatch.setattr(fuzz, "HANGS", 1.0)
    outcomes = fuzz.fuzz(9, 0, tmp_path, pairs=PAIRS[:1])
    kinds = {int(outcome.mutant.split(" ")[0]): outcome.kind for outcome in outcomes}
    assert [kinds[seed] for seed in (3, 4, 5, 6)] == ["crash", "bug", "hang", "wrong"]
    assert set(kinds) == set(range(9))
