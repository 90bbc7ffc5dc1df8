"""The training loop: what must come out equal, what must be refused, and what an interruption leaves behind."""

import hashlib
import json
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from muybridge.engine import run as run_module
from muybridge.engine.batches import Batch, VideoBatches
from muybridge.engine.checkpoint import MODEL, load_model
from muybridge.engine.device import mixed_precision
from muybridge.engine.evaluate import Evaluation
from muybridge.engine.features import compute_features
from muybridge.engine.interrupt import Interrupted, StopRequest
from muybridge.engine.last import LAST, PREVIOUS, load_last
from muybridge.engine.progress import Progress
from muybridge.engine.run import Meter, Run
from muybridge.engine.step import Taken
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.methods import build_method
from muybridge.recipes import fit_to_backbone, read_recipe, validate
from muybridge.structures import CLIP_MEAN, IMAGENET_MEAN, Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video.dataset import VideoDataset, read_source


def backbone():
    return random_backbone(tiny_backbones()["dinov2"])


@pytest.fixture
def recipe(videos):
    return validate(
        Recipe(
            method="evl",
            options={"layers": 2, "heads": 3},
            backbone="custom",
            data=str(videos),
            sampling=Sampling(frames=4),
            transform=Transform(size=(32, 32), flip=0.5),
            train=TrainArgs(epochs=3, batch_size=4, accumulate=2, warmup=1, workers=0, clip_grad=1.0),
        )
    )


def digest(folder):
    return hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()


def with_train(recipe, **changes):
    return replace(recipe, train=replace(recipe.train, **changes))


def test_run_folder_holds_everything(recipe, tmp_path):
    result = train(recipe, tmp_path / "run", backbone=backbone())
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {
        "recipe.json",
        "labels.txt",
        "split.csv",
        "metrics.jsonl",
        "model.safetensors",
        "last",
        "evaluation.json",
        "predictions.csv",
    }
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert result.evaluation.top1 == max(line["val_top1"] for line in lines)
    assert read_recipe(tmp_path / "run/recipe.json") == fit_to_backbone(recipe, None)
    assert result.trainable == sum(p.numel() for p in result.method.parameters() if p.requires_grad)
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["videos"] == 9


def test_recipe_given_back_reproduces_the_run(recipe, tmp_path):
    train(recipe, tmp_path / "one", backbone=backbone())
    again = read_recipe(tmp_path / "one/recipe.json")
    train(again, tmp_path / "two", backbone=backbone())
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert (tmp_path / "one/split.csv").read_text() == (tmp_path / "two/split.csv").read_text()
    train(with_train(again, seed=1), tmp_path / "three", backbone=backbone())
    assert digest(tmp_path / "three") != digest(tmp_path / "one")


def test_workers_change_nothing(recipe, tmp_path):
    recipe = with_train(recipe, epochs=1)
    train(recipe, tmp_path / "none", backbone=backbone())
    train(with_train(recipe, workers=2), tmp_path / "two", backbone=backbone())
    assert digest(tmp_path / "none") == digest(tmp_path / "two")


def test_global_random_state_changes_nothing_and_is_left_alone(recipe, tmp_path):
    recipe = with_train(recipe, epochs=1)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    train(recipe, tmp_path / "one", backbone=backbone())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    train(recipe, tmp_path / "two", backbone=backbone())
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.parametrize("method", ["evl", "probe"])
@pytest.mark.parametrize("views", [1, 2])
def test_training_on_cached_features_equals_training_without(recipe, tmp_path, method, views):
    options = recipe.options if method == "evl" else {}
    recipe = replace(with_train(recipe, fixed_views=views, lr=4e-3), method=method, options=options)
    plain = train(recipe, tmp_path / "plain", backbone=backbone())
    cached = train(with_train(recipe, cache="memory"), tmp_path / "cached", backbone=backbone())
    ours, theirs = load_last(cached.folder)["tensors"], load_last(plain.folder)["tensors"]  # after the last epoch
    for key in theirs:
        # Frozen features are computed in other batches, so sums may round differently in the last bits of fp32; twelve
        # steps of AdamW, which divides by the gradient's size, let that grow to 1e-4.
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cached.evaluation.scores, plain.evaluation.scores, atol=1e-4, rtol=1e-4)
    fresh = train(with_train(recipe, fixed_views=0), tmp_path / "fresh", backbone=backbone())
    moved = max((load_last(fresh.folder)["tensors"][key] - theirs[key]).abs().max().item() for key in theirs)
    assert moved > 1e-3, "fresh draws every epoch must train another model, or the comparison above shows nothing"


def test_slim_runs_leave_the_backbone_out(recipe, tmp_path):
    result = train(with_train(recipe, epochs=1, slim=True), tmp_path / "slim", backbone=backbone())
    whole = train(with_train(recipe, epochs=1), tmp_path / "whole", backbone=backbone())
    assert torch.equal(result.evaluation.scores, whole.evaluation.scores)
    assert (tmp_path / "slim" / MODEL).stat().st_size < 0.8 * (tmp_path / "whole" / MODEL).stat().st_size
    loaded = load_model(tmp_path / "slim", backbone=backbone()).method
    assert torch.equal(loaded.query, result.method.query)


def test_bf16_trains_fp32_weights(recipe, tmp_path):
    result = train(with_train(recipe, epochs=1, precision="bf16"), tmp_path / "bf16", backbone=backbone())
    plain = train(with_train(recipe, epochs=1), tmp_path / "fp32", backbone=backbone())
    ours, theirs = (load_last(run.folder)["tensors"] for run in (result, plain))
    assert {value.dtype for value in ours.values()} == {torch.float32}
    moved = max((ours[key] - theirs[key]).abs().max().item() for key in ours)
    assert 0 < moved < 0.01, "bf16 must round, and no more than that"


class StopAt(Progress):
    """Sends this process a signal after a number of training batches."""

    def __init__(self, batches, kind=signal.SIGINT):
        self.left, self.kind, self.training, self.said = batches, kind, False, []

    def start(self, title, total):
        self.training = title.startswith("epoch")

    def say(self, text):
        self.said.append(text)

    def advance(self, amount, **figures):
        if self.training and figures:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.kind)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.parametrize("batches", [1, 2, 3, 4, 7, 9])
def test_interrupted_run_ends_like_one_that_was_not(recipe, tmp_path, batches):
    train(recipe, tmp_path / "whole", backbone=backbone())
    kind = signal.SIGTERM if batches == 2 else signal.SIGINT
    with pytest.raises(Interrupted, match="Go on with: muybridge train --resume"):
        train(recipe, tmp_path / "cut", backbone=backbone(), progress=StopAt(batches, kind))
    assert not (tmp_path / "cut/evaluation.json").exists()
    resume(tmp_path / "cut", backbone=backbone())
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    drop = ("seconds", "videos_per_second", "data_wait", "memory_gb")
    logs = []
    for name in ("cut", "whole"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logs.append([{key: value for key, value in line.items() if key not in drop} for line in lines])
    assert logs[0] == logs[1]


def test_interrupted_while_features_are_computed(recipe, tmp_path):
    class StopEarly(StopAt):
        def advance(self, amount, **figures):
            if not self.training:
                raise KeyboardInterrupt

    recipe = with_train(recipe, fixed_views=1, cache="memory")
    with pytest.raises(Interrupted, match="Go on with"):
        train(recipe, tmp_path / "cut", backbone=backbone(), progress=StopEarly(0))
    resume(tmp_path / "cut", backbone=backbone())
    train(recipe, tmp_path / "whole", backbone=backbone())
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_resume_refuses_other_backbones_and_torn_files(recipe, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(recipe, run, backbone=backbone(), progress=StopAt(1))
    other = random_backbone(tiny_backbones()["dinov2"], seed=5)
    with pytest.raises(CheckpointError, match="other backbone weights"):
        resume(run, backbone=other)
    for name in (LAST, PREVIOUS):
        (run / name).write_bytes((run / name).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot be resumed: .*checkpoint.pt is damaged.*previous.pt is damaged"):
        resume(run, backbone=backbone())
    with pytest.raises(MissingFile):
        resume(tmp_path / "nowhere", backbone=backbone())


def test_nothing_is_written_over(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="nothing is written over"):
        train(recipe, tmp_path / "run", backbone=backbone())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.fixture
def broken(videos, tmp_path):
    """The data set with one of 15 training videos cut short before its index."""
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(videos, folder)
    (folder / "train/rising/0.mp4").write_bytes(b"this is no video")
    return folder


def test_unreadable_videos_are_named_and_skipped(recipe, broken, tmp_path):
    progress = StopAt(-1)
    recipe = replace(with_train(recipe, bad_share=0.1), data=str(broken))
    train(recipe, tmp_path / "run", backbone=backbone(), progress=progress)
    skipped = [line for line in progress.said if line.startswith("Skipped")]
    assert len(skipped) == 1, "named once, not once an epoch"
    assert "rising/0.mp4" in skipped[0]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {line["unreadable"] for line in lines} == {1}


def test_too_many_unreadable_videos_stop_the_run(recipe, broken, tmp_path):
    recipe = replace(recipe, data=str(broken))
    with pytest.raises(BadInput, match="1 of 15 training videos cannot be decoded, more than the share"):
        train(recipe, tmp_path / "run", backbone=backbone())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": -1}, "train.epochs is -1"),
        ({"batch_size": 0}, "train.batch_size is 0"),
        ({"cache": "memory"}, "give --train.fixed_views 1"),
        ({"lr": -1.0}, "train.lr is -1; expected 0 to"),
        ({"betas": (0.9, 2.0)}, "train.betas is 2"),
        ({"clip_grad": -1.0}, "train.clip_grad is -1; expected at least 0"),
        ({"label_smoothing": 2.0}, "train.label_smoothing is 2"),
        ({"workers": -1}, "train.workers is -1"),
    ],
)
def test_settings_that_cannot_work_are_told_before_anything_is_written(recipe, tmp_path, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        train(with_train(recipe, **changes), tmp_path / "run", backbone=backbone())
    assert not (tmp_path / "run").exists()


def test_it_learns(recipe, videos, tmp_path):
    recipe = with_train(recipe, epochs=25, lr=3e-3, accumulate=1)
    recipe = replace(recipe, transform=replace(recipe.transform, flip=0.0, crop="center"))
    result = train(recipe, tmp_path / "run", backbone=backbone())
    assert result.evaluation.top1 >= 7 / 9
    loaded, spec, _ = load_model(tmp_path / "run")
    assert spec.labels == read_source(videos).labels
    assert loaded.config == result.method.config


def test_precision_auto_is_fp32_on_the_cpu():
    assert mixed_precision("auto") == ("no" if not torch.cuda.is_available() else "bf16")


def test_fp16_without_cuda_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="needs a CUDA device"):
            mixed_precision("fp16")


def test_a_loss_that_explodes_stops_the_run(recipe, tmp_path):
    with pytest.raises(BadInput, match=r"epoch \d+, batch \d+, (the loss is (nan|inf)|weights have become|the grad)"):
        train(
            with_train(recipe, lr=1e6, epochs=20, clip_grad=0.0, weight_decay=1e5),
            tmp_path / "run",
            backbone=backbone(),
        )


@pytest.mark.parametrize(("name", "mean"), [("clip_vitb16", CLIP_MEAN), ("custom", IMAGENET_MEAN)])
def test_pixels_are_normalised_as_the_backbone_wants(recipe, tmp_path, name, mean):
    recipe = replace(with_train(recipe, epochs=1), backbone=name)
    assert recipe.transform.mean is None
    train(recipe, tmp_path / "run", backbone=backbone())
    spec = load_model(tmp_path / "run").spec
    assert spec.transform.mean == mean
    assert read_recipe(tmp_path / "run/recipe.json").transform.mean == mean


def test_last_smaller_group_of_batches_is_averaged_over_itself(recipe, tmp_path):
    # 15 videos, batches of 5, 2 a step: the second step has one batch, and must weigh like a step of one batch.
    steps = {}
    for accumulate in (2, 3):
        run = Run(
            fit_to_backbone(with_train(recipe, batch_size=5, accumulate=accumulate), None),
            tmp_path / str(accumulate),
            read_source(recipe.data),
            build_method("probe", backbone(), 3, 4, (32, 32), {}),
            Progress(),
        )
        groups = []
        run.stepper.take = lambda batch, boundary, group, *_, seen=groups: (
            seen.append((boundary, group)) or Taken(0.0, 0)
        )
        run._train_epoch(run._batches()[0], 0, 0, Meter(), StopRequest())
        steps[accumulate] = groups
    assert steps[2] == [(False, 2), (True, 2), (True, 1)]
    assert steps[3] == [(False, 3), (False, 3), (True, 3)]


def test_a_video_of_which_one_view_cannot_be_decoded_is_left_out(recipe, videos, tmp_path, monkeypatch):
    source = read_source(videos)
    original = VideoDataset.__getitem__

    def sometimes(self, key):
        if self.training and key == (0, 2, 1):
            return {"error": "cut off", "index": 2}
        return original(self, key)

    monkeypatch.setattr(VideoDataset, "__getitem__", sometimes)
    method = build_method("probe", backbone(), 3, 4, (32, 32), {})
    dataset = VideoDataset(source.train, recipe.sampling, recipe.transform, True, 0)
    cached = compute_features(method, VideoBatches(dataset, 4, 0, 2), torch.device("cpu"), 2)
    assert cached.errors == {2: "cut off"}
    (batch,) = VideoBatches(dataset, 4, 0, 2).read([[(0, 5, 1)]])
    torch.testing.assert_close(cached.features["summary"][11], method.frozen(batch.inputs)["summary"][0])


def test_accumulated_gradients_are_those_of_one_large_batch(recipe, tmp_path):
    # AdamW hides a wrong factor, as it divides by the gradient's size: so the gradients themselves.
    video, labels = torch.randn(4, 4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    gradients = []
    for size in (4, 2):
        torch.manual_seed(0)
        method = build_method("probe", backbone(), 3, 4, (32, 32), {})
        setting = fit_to_backbone(recipe, None)
        run = Run(setting, tmp_path / str(size), read_source(recipe.data), method, Progress())
        for start in range(0, 4, size):
            part = slice(start, start + size)
            run.stepper.take(Batch(video[part], labels[part], torch.arange(4)[part], {}), False, 4 // size)
        gradients.append([p.grad.clone() for p in method.parameters() if p.requires_grad])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole)


def test_the_best_epoch_is_kept_not_the_last(recipe, tmp_path, monkeypatch):
    accuracies, seen = [1, 3, 2], []

    def pretend(method, batches, device, progress, processes):
        seen.append({key: value.clone() for key, value in method.own_state().items()})
        right = accuracies[len(seen) - 1]
        scores = torch.eye(3)[torch.tensor([0] * right + [1] * (4 - right))]
        return Evaluation(scores, torch.zeros(4, dtype=torch.long), torch.arange(4))

    monkeypatch.setattr(run_module, "evaluate", pretend)
    result = train(recipe, tmp_path / "run", backbone=backbone())
    assert result.evaluation.top1 == 0.75
    saved = load_model(tmp_path / "run").method.own_state()
    assert all(torch.equal(saved[key], seen[1][key]) for key in saved)
    assert not all(torch.equal(saved[key], seen[2][key]) for key in saved)
