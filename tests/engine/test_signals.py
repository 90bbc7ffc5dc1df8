"""Signals that reach all processes of a training, or come twice: as schedulers and torchrun send them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from together import Loud, backbone, recipe_of

from muybridge.engine import interrupt
from muybridge.engine.interrupt import Interrupted, stop_on_signal
from muybridge.engine.last import load_last
from muybridge.engine.train import train

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread"
)


class AllAtOnce(Loud):
    """SIGTERM to the training and the processes that read for it, after the first batch."""

    def advance(self, amount, **figures):
        if self.training and figures and not self.stop:
            self.stop = 1
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGTERM)


def test_a_signal_to_the_readers_too_leaves_a_step_to_be_finished(videos, tmp_path):
    # A step of all eight batches, of which the readers have two or three ahead.
    recipe = recipe_of(videos, "probe", accumulate=8, workers=1)
    with pytest.raises(Interrupted, match="Stopped in epoch 1 after 8 batches and saved"):
        train(recipe, tmp_path / "run", backbone=backbone(), progress=AllAtOnce())
    assert load_last(tmp_path / "run")["batch"] == 8


READ = """
import sys
from muybridge.engine.batches import VideoBatches
from muybridge.structures import Sampling, Transform
from muybridge.video.dataset import VideoDataset, read_source
dataset = VideoDataset(read_source(sys.argv[1]).train, Sampling(frames=4), Transform(size=(32, 32)), True, 0)
batches = VideoBatches(dataset, 2, seed=0, workers=1).epoch(0)
print(len(next(batches).labels))
"""


def test_a_process_can_end_though_its_readers_do_not_hear_sigterm(videos):
    done = subprocess.run([sys.executable, "-c", READ, str(videos)], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "2\n")


def stop_and_again():
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)


def test_the_same_signal_twice_is_one(monkeypatch):
    stop_and_again()
    monkeypatch.setattr(interrupt, "TWICE", 0.0)
    with pytest.raises(KeyboardInterrupt):
        stop_and_again()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
