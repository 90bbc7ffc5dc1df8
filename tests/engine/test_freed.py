"""Memory that is freed within a training: kept or given back, as asked, and as usual afterwards."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from muybridge.engine.freed import may_set_allocator

# In new processes, whose heap has no holes yet.
BEGIN = """
import json, resource, torch
from pathlib import Path
from muybridge.engine.freed import freed_memory

def touched():
    "How many pages the system brought while 48 MB were filled and freed: of 15 times the middle one."
    pages = []
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(12 << 20)
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sorted(pages)[7]

def resident():
    "Megabytes of this process in memory."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
"""
KEPT = """
begun = resident()
with freed_memory(saving=False):
    within, held = touched(), resident() - begun
print(json.dumps({"within": within, "held": held, "left": resident() - begun}))
"""
FORKED = """
import os
from muybridge.engine.freed import usual_in_fork

torch.set_num_threads(1)
with freed_memory(saving=False):
    usual_in_fork()  # which this is not
    if not os.fork():
        TREATED
        begun = resident()
        torch.ones(40 << 20)
        print(json.dumps({"left": resident() - begun}), flush=True)
        os._exit(0)
    os.wait()
"""
AS_USUAL = """
print(json.dumps({"pages": touched()}))
"""
GIVEN_BACK = """
with freed_memory(saving=SAVING):
    begun = resident()
    blocks = [torch.ones(2 << 18) for _ in range(24)]  # 2 MB each
    last = torch.ones(2 << 18)  # above the others: a heap could not shrink below it
    held = resident() - begun
    del blocks
    print(json.dumps({"held": held, "left": resident() - begun}))
"""


def own_settings() -> list[str]:
    return [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]


def run(code: str) -> dict[str, float]:
    """What a new process prints, without the settings of whoever tests."""
    environment = {name: value for name, value in os.environ.items() if name not in own_settings()}
    done = subprocess.run([sys.executable, "-c", BEGIN + code], env=environment, capture_output=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is set where torch computes on a GPU")


@glibc
@on_cpu
def test_it_is_kept_for_what_is_needed_next_until_the_training_is_over() -> None:
    pages = run(KEPT)
    assert pages["held"] > 45
    assert pages["within"] < 5
    assert pages["left"] < 10
    assert run(AS_USUAL)["pages"] >= 20  # 24 pages of 2 MB, or 12,288 of 4 kB


@glibc
@on_cpu
def test_a_process_that_decodes_keeps_nothing() -> None:
    assert run(FORKED.replace("TREATED", "usual_in_fork()"))["left"] < 70
    assert run(FORKED.replace("TREATED", "pass"))["left"] > 150


@glibc
@on_cpu
def test_blocks_of_a_few_megabytes_go_back_at_once_where_memory_is_to_be_saved() -> None:
    saving, keeping = (run(GIVEN_BACK.replace("SAVING", str(way))) for way in (True, False))
    assert saving["held"] > 45
    assert saving["left"] < 10
    assert keeping["left"] > 45


def test_settings_of_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in own_settings():
        monkeypatch.delenv(name)
    assert may_set_allocator() == (platform.libc_ver()[0] == "glibc" and not torch.cuda.is_available())
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not may_set_allocator()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_max=4")
    assert not may_set_allocator()
