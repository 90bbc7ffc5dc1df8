"""A run that was killed, whose file is torn or whose disk is full ends like one to which nothing happened."""

import errno
import hashlib
import json
import multiprocessing
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_run import RECIPE, backbone, go_on, run_and_die

from muybridge.engine import last, run
from muybridge.engine.checkpoint import MODEL, NotSaved, save_model, write_atomically
from muybridge.engine.interrupt import Interrupted, Paused
from muybridge.engine.last import LAST, PREVIOUS, can_resume, check_new, digest_of, load_last, save_last
from muybridge.engine.progress import Progress
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.structures import Recipe
from trainings import StopAfter

TIMES = ("seconds", "meter", "videos_per_second", "data_wait", "memory_gb")


class Heard(Progress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def ends(folder):
    """SHA-256 of the model's file and of the last state, without what a clock says."""
    state = load_last(folder)
    state["log"] = [{key: value for key, value in line.items() if key not in TIMES} for line in state["log"]]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, state["epoch"] + 1))
    assert (folder / "evaluation.json").is_file()
    model = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    return model, digest_of({key: value for key, value in state.items() if key not in TIMES})


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    go_on(videos, folder, save_every=0.0, workers=0)
    return ends(folder)


@pytest.fixture(scope="module")
def processes():
    # Forked from a process that has imported everything and computed nothing: quick, and safe for autograd.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["muybridge.engine.train", "muybridge.testing.tiny", "torch._dynamo"])
    return context


def kill(processes, videos, folder, kind, number, seconds=120.0):
    """Whether the run was killed; if not it has ended."""
    process = processes.Process(target=run_and_die, args=(str(videos), str(folder), kind, number, {}))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def kill_and_compare(processes, videos, tmp_path, plan, whole):
    folders, plan = [tmp_path / "0"], list(plan)
    while plan:
        if not kill(processes, videos, folders[-1], *plan.pop(0)):
            assert ends(folders[-1]) == whole
            folders.append(tmp_path / str(len(folders)))
    kill(processes, videos, folders[-1], "never", 0)
    assert ends(folders[-1]) == whole


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_three_kills(processes, videos, tmp_path, whole):
    # In the midst of an accumulated step of the second epoch; within the second checkpoint; and at some time.
    plan = [("batch", 7), ("write", 9), ("never", 0, 1.0)]
    kill_and_compare(processes, videos, tmp_path, plan, whole)


@pytest.mark.slow
def test_forty_kills(processes, videos, tmp_path, whole):
    rng = random.Random(0)
    plan = [("write", rng.randint(1, 40)) for _ in range(5)]
    plan += [("batch", rng.randint(1, 9)) for _ in range(5)]
    plan += [("never", 0, rng.uniform(0.1, 2.5)) for _ in range(30)]
    rng.shuffle(plan)
    kill_and_compare(processes, videos, tmp_path, plan, whole)


@pytest.fixture
def stopped(videos, tmp_path):
    """A run that was stopped in its second epoch, with two different checkpoints."""
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        go_on(videos, folder, StopAfter(6), workers=0)
    assert load_last(folder)["batch"] == 2
    return folder


@pytest.mark.parametrize("damage", ["torn", "changed", "gone", "empty"])
def test_where_the_newest_checkpoint_is_not_whole_the_one_before_it_is_taken(videos, stopped, whole, damage):
    content = (stopped / LAST).read_bytes()
    if damage == "torn":
        (stopped / LAST).write_bytes(content[: len(content) // 2])
    elif damage == "changed":  # one bit of a tensor, which torch.load does not see
        largest = max(load_last(stopped)["tensors"].values(), key=torch.numel)
        place = content.index(largest.numpy().tobytes()[:64])
        (stopped / LAST).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert torch.load(stopped / LAST, weights_only=True)["batch"] == 2
    elif damage == "empty":
        (stopped / LAST).write_bytes(b"")
    else:
        (stopped / LAST).unlink()
    heard = Heard()
    resume(stopped, backbone(), heard)
    (told,) = [line for line in heard.said if "Going on from the checkpoint before it" in line]
    assert str(stopped / LAST) in told
    assert ("there is no" if damage == "gone" else "is damaged") in told
    assert ends(stopped) == whole


def full_disk(monkeypatch, fails):
    """torch.save fails when `fails(number of the call)`, after half of the file."""
    save, calls = torch.save, []

    def on_a_full_disk(state, path):
        calls.append(path)
        if fails(len(calls)):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path)

    monkeypatch.setattr(last.torch, "save", on_a_full_disk)
    return calls


def test_a_full_disk_loses_the_newest_checkpoint_and_nothing_else(videos, tmp_path, monkeypatch, whole):
    full_disk(monkeypatch, lambda call: call == 3)
    heard = Heard()
    go_on(videos, tmp_path / "run", heard, workers=0)
    (told,) = [line for line in heard.said if "could not be written" in line]
    assert "No space left on device" in told
    assert "MB are free there. The last checkpoint (epoch 1, after 2 batches) is still there" in told
    assert told.endswith("The training goes on.")
    assert ends(tmp_path / "run") == whole


def test_stopped_on_a_full_disk_it_tells_where_it_will_go_on(videos, tmp_path, monkeypatch, whole):
    folder = tmp_path / "run"
    calls = full_disk(monkeypatch, lambda call: call > 2)
    with pytest.raises(
        Interrupted, match=r"No space left.*epoch 1, after 2 batches\) is still there. Make room and go"
    ):
        go_on(videos, folder, StopAfter(6), workers=0)
    assert len(calls) > 2
    monkeypatch.undo()
    assert (load_last(folder)["epoch"], load_last(folder)["batch"]) == (0, 2)
    assert not list(folder.rglob("*.partial"))
    resume(folder, backbone())
    assert ends(folder) == whole


def test_a_best_model_that_cannot_be_written_stops_the_run(videos, tmp_path, monkeypatch, whole):
    folder = tmp_path / "run"

    def no_room(path, *rest, **options):
        raise NotSaved(f"{path} could not be written (No space left on device).")

    monkeypatch.setattr(run, "save_model", no_room)
    with pytest.raises(NotSaved, match="model.safetensors could not be written .*Make room and go on: muybridge train"):
        go_on(videos, folder, workers=0)
    monkeypatch.undo()
    resume(folder, backbone())
    assert ends(folder) == whole


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on the size of files on this system")
@pytest.mark.parametrize("kind", ["checkpoint", "model", "text"])
def test_disks_that_fail_are_told_by_whoever_writes(tmp_path, kind):
    # A limit on files stands for a full disk: the system refuses a write in the midst of a file.
    import resource

    from muybridge.engine.checkpoint import model_spec
    from muybridge.methods import build_method
    from muybridge.structures import Sampling, Transform

    method = build_method("probe", backbone(), 3, 4, (32, 32), {})
    spec = model_spec("probe", method, "custom", ("a", "b", "c"), Sampling(4), Transform(size=(32, 32)))
    writes = {
        "checkpoint": lambda: save_last(tmp_path, {"x": torch.randn(100_000)}),
        "model": lambda: save_model(tmp_path / MODEL, method, spec),
        "text": lambda: write_atomically(tmp_path / "x", lambda partial: partial.write_text("x" * 100_000)),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(NotSaved, match="could not be written"):
            writes[kind]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    writes[kind]()


def test_the_same_command_again_tells_how_to_go_on(videos, stopped):
    with pytest.raises(
        BadInput, match=r"is a run that was interrupted.*Go on with it: muybridge train --resume .*run; or give"
    ):
        train(Recipe(), stopped)
    (stopped / "evaluation.json").write_text("{}")
    with pytest.raises(BadInput, match="is a finished run already; nothing is written over. Give another --out"):
        check_new(stopped)
    (stopped / PREVIOUS).unlink()
    assert can_resume(stopped)
    (stopped / LAST).unlink()
    with pytest.raises(BadInput, match="exists already; nothing is written over. Give another --out.$"):
        check_new(stopped)
    with pytest.raises(MissingFile, match="nothing to resume"):
        resume(stopped)


def test_a_checkpoint_of_another_version_is_told(stopped):
    state = load_last(stopped)
    torch.save({**state, "layout": 99, "sha256": digest_of({**state, "layout": 99})}, stopped / LAST)
    with pytest.raises(CheckpointError, match="another version of muybridge"):
        load_last(stopped)


class Dead(Exception):
    """The machine goes down."""


class DeadBefore(Heard):
    """Ends without a word when this epoch begins."""

    def __init__(self, title):
        super().__init__()
        self.title = title

    def start(self, title, total):
        if title == self.title:
            raise Dead


def test_large_checkpoints_after_short_epochs_are_left_out_and_nothing_changes(videos, tmp_path, monkeypatch):
    settings = {"workers": 0, "save_every": 0.0, "epochs": 4}
    go_on(videos, tmp_path / "whole", **settings)
    monkeypatch.setattr(last, "SMALL", 0)
    monkeypatch.setattr(last, "LARGE_SHARE", 1e-9)
    written = []
    monkeypatch.setattr(
        last, "save_last", lambda folder, state: written.append(state["epoch"]) or save_last(folder, state)
    )
    with pytest.raises(Dead):
        go_on(videos, tmp_path / "run", DeadBefore("epoch 4/4"), **settings)
    assert written == [1], "how long one takes is not known before"
    assert load_last(tmp_path / "run")["epoch"] == 1
    with pytest.raises(Interrupted, match="Stopped in epoch 4 after 2 batches and saved"):
        go_on(videos, tmp_path / "run", StopAfter(10))
    assert written == [1, 2, 3], "after an epoch, and as somebody asked to stop"
    monkeypatch.setattr(last, "LARGE_SHARE", 1.0)
    go_on(videos, tmp_path / "run")
    assert written[3:] == [4]
    assert ends(tmp_path / "run") == ends(tmp_path / "whole")


def test_a_paused_run_has_saved(videos, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(last.Checkpoints, "due_after_epoch", lambda _: False)
    recipe = replace(RECIPE, data=str(videos), train=replace(RECIPE.train, workers=0, save_every=0.0))
    with pytest.raises(Paused):
        train(recipe, tmp_path / "run", backbone=backbone(), until=1)
    assert load_last(tmp_path / "run")["epoch"] == 1
    with pytest.raises(Paused):
        resume(tmp_path / "run", backbone(), until=1)
    resume(tmp_path / "run", backbone(), until=2)
    assert ends(tmp_path / "run") == whole


def test_an_empty_folder_may_be_given(videos, tmp_path, whole):
    (tmp_path / "run").mkdir()
    go_on(videos, tmp_path / "run", workers=0)
    assert ends(tmp_path / "run") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_digests_tell_every_bit_and_every_shape_apart():
    values = [
        {"a": torch.zeros(4)},
        {"a": -torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"b": torch.zeros(4)},
        {"a": [torch.zeros(4)]},
        {"a": torch.zeros(4), "b": 1},
        {"a": torch.zeros(4), "b": 1.0},
        {"a": torch.zeros(4), "b": True},
        {"a": torch.zeros(4), "b": "1"},
    ]
    assert len({digest_of(value) for value in values}) == len(values)
    assert digest_of({"a": torch.arange(6).reshape(2, 3).T}) == digest_of(
        {"a": torch.arange(6).reshape(2, 3).T.clone()}
    )
