"""examples/train.slurm, run with stand-ins for Slurm's commands and for torchrun."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from muybridge import cli

SCRIPT = Path(__file__).parents[1] / "examples/train.slurm"
STANDS_IN = {
    # Starts the step in a session of its own, as Slurm does.
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        exec setsid --wait bash -c 'echo $$ > "$PLACE/step"; exec "$@"' step "$@"
    """,
    # Slurm may tell all processes of a step.
    "scancel": """
        echo "scancel $*" >> "$PLACE/calls"
        kill "${1/--signal=/-}" -- "-$(cat "$PLACE/step")"
    """,
    "scontrol": """
        if [[ $1 == show ]]; then printf 'm1\\nm2\\n'; else echo "scontrol $*" >> "$PLACE/calls"; fi
    """,
    # Stops when it is told to, as torchrun does, but takes its time to save.
    "torchrun": """
        finish() { [[ $HOW == finish ]] && touch "$RUN/evaluation.json"; }
        trap 'sleep 0.3; echo saved >> "$PLACE/calls"; finish; exit 1' TERM
        printf '%s\\n' "$@" > "$PLACE/partial" && mv "$PLACE/partial" "$PLACE/arguments"
        [[ $HOW == fail ]] && exit 3
        while [[ $HOW != at_once ]]; do sleep 0.02; done
    """,
}

pytestmark = pytest.mark.skipif(not (shutil.which("bash") and shutil.which("setsid")), reason="needs bash and setsid")


@pytest.fixture
def start(tmp_path):
    """Start the script as Slurm does; how its torchrun behaves is to be told."""
    (tmp_path / "bin").mkdir()
    for name, text in STANDS_IN.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "calls").touch()
    (tmp_path / "run").mkdir()

    def begin(how, *arguments, wait=True):
        named = {
            "PLACE": tmp_path,
            "HOW": how,
            "RUN": tmp_path / "run",
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        }
        named |= {"SLURM_JOB_ID": 71234, "SLURM_JOB_NODELIST": "m[1-2]", "SLURM_JOB_NUM_NODES": 2}
        named |= {"SLURM_GPUS_ON_NODE": 8, "SLURM_CPUS_PER_TASK": 64}
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *map(str, arguments)],
            env={**os.environ, **{name: str(value) for name, value in named.items()}},
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 20
        while arguments and not (tmp_path / "arguments").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        return process

    return begin


def end_of(process, tmp_path):
    """Exit status, and what was called in order."""
    process.communicate(timeout=20)
    return process.returncode, (tmp_path / "calls").read_text().splitlines()


def arguments_of(tmp_path):
    """What torchrun was given: its own, and muybridge's."""
    given = (tmp_path / "arguments").read_text().splitlines()
    mine = given.index("-m")
    assert given[mine + 1] == "muybridge"
    return get_args_parser().parse_args(given), given[mine + 2 :]


def check_command(words):
    rest, fields = cli.split_fields(words)
    _, bound, _ = cli.app.parse_args(rest, exit_on_error=False, print_error=False)
    return bound.arguments, fields


def test_first_start(start, tmp_path):
    usage = re.search(r"^#   sbatch .*train.slurm RUN (.*)$", SCRIPT.read_text(), re.MULTILINE)[1].split()
    assert end_of(start("at_once", tmp_path / "run", *usage), tmp_path) == (0, [])
    torchrun, words = arguments_of(tmp_path)
    assert (torchrun.nnodes, torchrun.nproc_per_node, torchrun.rdzv_id) == ("2", "8", "71234")
    assert torchrun.rdzv_endpoint == "m1:21234"
    assert words == ["train", "--out", str(tmp_path / "run"), *usage]
    arguments, fields = check_command(words)
    assert (arguments["setup"].recipe, arguments["setup"].data) == ("evl_vitb16_k400_8f", "DIR")
    assert fields


def test_a_run_that_was_stopped_goes_on(start, tmp_path):
    (tmp_path / "run/last").mkdir()
    assert end_of(start("at_once", tmp_path / "run", "--data", "DIR"), tmp_path) == (0, [])
    _, words = arguments_of(tmp_path)
    assert words == ["train", "--resume", str(tmp_path / "run")]
    assert str(check_command(words)[0]["resume"]) == words[2]


@pytest.mark.parametrize(("how", "queued"), [("save", True), ("finish", False)])
def test_out_of_time(start, tmp_path, how, queued):
    process = start(how, tmp_path / "run", "--data", "DIR")
    process.send_signal(signal.SIGUSR1)
    _, calls = end_of(process, tmp_path)
    # torchrun has not heard USR1, of which it would have died, and was told to stop once.
    assert calls == ["scancel --signal=USR1 71234", "saved", *["scontrol requeue 71234"] * queued]


def test_cancelled(start, tmp_path):
    process = start("save", tmp_path / "run", "--data", "DIR")
    os.killpg(int((tmp_path / "step").read_text()), signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert end_of(process, tmp_path) == (1, ["saved"])


def test_failed(start, tmp_path):
    assert end_of(start("fail", tmp_path / "run", "--data", "DIR"), tmp_path) == (3, [])


def test_without_a_run(start, tmp_path):
    process = start("save")
    assert "the run folder is missing" in process.communicate(timeout=20)[1]
    assert process.returncode


def test_time_to_save():
    text = SCRIPT.read_text()
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    before, limit = (int(re.search(rf"{word}(\d+)", text)[1]) for word in ("USR1@", "SHUTDOWN_TIMEOUT="))
    assert before > limit
