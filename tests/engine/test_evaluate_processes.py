"""Two processes evaluate like one, to the bit; every video counts once."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import distributed

from muybridge.engine import evaluate as evaluate_module
from muybridge.engine.evaluate import EvaluateArgs, evaluate_data
from muybridge.engine.order import order_diagnostics
from muybridge.engine.predictions import read_evaluation
from muybridge.engine.processes import Processes, join_processes
from muybridge.errors import BadInput
from muybridge.loading import load
from trainings import trained


@pytest.mark.parametrize("count", [2, 3, 8])
def test_batches_are_dealt_without_a_remainder_or_a_double(run, videos, monkeypatch, count):
    dealt = []

    class Pretended(Processes):
        def agree(self, work):
            return work()

        def gather(self, mine):
            dealt.append(mine)
            return dealt

    for rank in range(count):
        monkeypatch.setattr(evaluate_module, "join_processes", lambda rank=rank: Pretended(rank, count))
        result = evaluate_data(load(run), videos, EvaluateArgs(batch_size=2))
    assert sorted(i for rows in dealt for i in rows.indices.tolist()) == list(range(9))
    monkeypatch.undo()
    assert torch.equal(result.scores, evaluate_data(load(run), videos, EvaluateArgs(batch_size=2)).scores)


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "run"
    return trained(videos, folder, frames=2).folder


def together(count, *arguments):
    """(exit code, stdout, stderr) of each of several processes of one command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "muybridge", *map(str, arguments)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    answers = []
    for process in started:
        out, err = process.communicate(timeout=120)
        answers.append((process.returncode, out, err))
    return answers


@pytest.mark.slow
def test_two_processes_are_one(run, videos, tmp_path):
    alone = order_diagnostics(load(run), videos, EvaluateArgs(batch_size=2), out=tmp_path / "one")
    arguments = ["evaluate", run, "--data", videos, "--order", "--batch-size", 2, "--workers", 0, "--json"]
    first, second = together(2, *arguments, "--out", tmp_path / "two")
    assert first[0] == 0, first[2]
    assert (second[0], second[1]) == (0, ""), "only the first process prints"
    # 9 videos in batches of 2: five batches for two processes, nothing is padded.
    assert json.loads(first[1]) == alone.summary()
    both = read_evaluation(tmp_path / "two")
    assert both.indices.tolist() == list(range(9))
    assert torch.equal(both.scores, alone.right.scores)
    for name in ("predictions.csv", "order.csv", "confusion.csv", "scores.safetensors"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()

    # A mistake that only the first process can see ends all of them, and is told once.
    first, second = together(2, *arguments, "--out", tmp_path / "two", "--seed", 1)
    assert (first[0], second[0]) == (2, 2)
    assert "shuffle_seed was 0, now 1" in first[2]
    assert "shuffle_seed" not in second[2]


def fail_in_the_second(rank, file, answers):
    """What a process does: the second fails, and both tell what they saw."""
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)

    def work():
        if rank == 1:
            raise BadInput("no number")
        return rank

    processes = join_processes()
    try:
        processes.collect(work)
    except BadInput as error:
        answers.put((rank, str(error), processes.gather(rank)))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_an_error_of_one_process_is_told_by_all(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    started = [context.Process(target=fail_in_the_second, args=(rank, tmp_path / "meet", answers)) for rank in range(2)]
    for process in started:
        process.start()
    told = sorted(answers.get(timeout=60) for _ in started)
    for process in started:
        process.join(60)
    assert told == [(0, "no number", [0, 1]), (1, "no number", [0, 1])]
