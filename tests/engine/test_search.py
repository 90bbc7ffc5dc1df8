"""A search over settings: computed once, stopped and gone on with, failed, and compared."""

import csv
import hashlib
import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
import yaml

from muybridge.backbones import weights as weights_module
from muybridge.backbones.vit import ViT
from muybridge.engine import protocols, sweeps
from muybridge.engine import search as search_module
from muybridge.engine.alone import LOCK, alone_in
from muybridge.engine.batches import VideoBatches
from muybridge.engine.caching import cache_features
from muybridge.engine.checkpoint import MODEL, NotSaved
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.outcomes import FAILED, read_training
from muybridge.engine.progress import Progress
from muybridge.engine.search import search
from muybridge.engine.setting import draws_seed
from muybridge.engine.sharing import feature_sets, with_shared_features
from muybridge.engine.small_data import fit_to_data
from muybridge.engine.store import kept_features
from muybridge.engine.train import train
from muybridge.errors import BadInput, MuybridgeError
from muybridge.recipes import read_recipe, validate
from muybridge.structures import Sampling
from muybridge.video.sources import read_source
from trainings import backbone, probe_recipe

GRID = ["train.lr=1e-3,3e-3", "probe.pool=mean,concat"]


@pytest.fixture
def recipe(videos, tmp_path):
    return probe_recipe(videos, 2, 28, epochs=2, batch_size=5, cache_folder=str(tmp_path / "features"))


class Said(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


class Stopping(Said):
    """Ctrl-C when the training with this number begins the epoch with this number."""

    def __init__(self, training, epoch):
        super().__init__()
        self.left, self.epoch = training, epoch

    def start(self, title, total):
        if f"epoch {self.epoch}/" in title:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def ends(folder):
    """What is the same whenever and however often a search was stopped: SHA-256 of every model, and the figures."""
    models = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(MODEL))
    }
    with (folder / "sweep.csv").open() as file:
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    return models, rows, yaml.safe_load((folder / "best.yaml").read_text())


@pytest.mark.parametrize(
    ("tried", "sentence"),
    [
        (["train.lr=1e-3,-1"], "With train.lr -1: train.lr is -1; expected 0 to 1e+06"),
        (["probe.pool=mean,middle"], "pool"),
        (["transform.scale=0.9,0.5;0.5,1"], "With transform.scale 0.9,0.5: transform.scale"),
        (["transform.size=28;7"], "With transform.size 7,7: image_size"),
    ],
)
def test_all_settings_are_checked_before_anything_happens(recipe, tmp_path, monkeypatch, tried, sentence):
    monkeypatch.setattr(VideoBatches, "read", lambda *_: pytest.fail("a video was decoded"))
    with pytest.raises(MuybridgeError) as caught:
        search(recipe, tried, tmp_path / "sweep", backbone=backbone())
    assert sentence in str(caught.value)
    assert not (tmp_path / "sweep").exists()


def test_features_are_computed_once_for_all_settings_and_seeds(recipe, tmp_path, monkeypatch):
    seen, embed = [], ViT.embed

    def counted(self, images, *rest):
        if images.device.type != "meta":
            seen.append(len(images))
        return embed(self, images, *rest)

    monkeypatch.setattr(ViT, "embed", counted)
    said = Said()
    result = search(recipe, GRID, tmp_path / "sweep", seeds=2, backbone=backbone(), progress=said)
    assert sum(seen) == (15 + 9) * 2, "every frame of every video was seen by the backbone once"
    assert len(kept_features(tmp_path / "features")) == 2, "one set for training, one for validation"
    assert len(result.outcomes) == 4
    assert all(len(outcome.trainings) == 2 and outcome.state == "finished" for outcome in result.outcomes)
    means = [outcome.spread().mean for outcome in result.outcomes]
    assert means == sorted(means, reverse=True)
    assert [outcome.spread().count for outcome in result.outcomes] == [2] * 4
    (line,) = [line for line in said.lines if "same frozen features" in line]
    kept = sum(one.bytes for one in kept_features(tmp_path / "features"))
    assert f"about {24 * 2 * 2 * backbone().config.width / 1e6:,.1f} MB" in line, kept
    rows = [line for line in said.lines if line.strip().endswith(("left", "%"))]
    assert len(rows) == 8

    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {(row["train.lr"], row["probe.pool"]) for row in rows} == {
        (lr, pool) for lr in ("0.001", "0.003") for pool in ("mean", "concat")
    }
    summary = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert summary["best"] == result.best.number
    assert summary["results"][0]["tried"] == result.best.tried
    one = json.loads((tmp_path / "sweep" / result.best.trainings[1].folder / "recipe.json").read_text())
    assert (one["train"]["seed"], one["train"]["draws_seed"], one["train"]["cache"]) == (1, 0, "disk")

    # The same again costs nothing, also without its features.
    monkeypatch.setattr(sweeps, "train", None)
    monkeypatch.setattr(search_module, "compute_sets", None)
    again = search(recipe, GRID, tmp_path / "sweep", seeds=2, backbone=backbone())
    assert again.outcomes == result.outcomes


def test_the_best_recipe_repeats_the_best_training(recipe, tmp_path):
    result = search(recipe, GRID[:1], tmp_path / "sweep", backbone=backbone())
    best = read_recipe(tmp_path / "sweep/best.yaml")
    assert not best.train.slim
    train(best, tmp_path / "again", backbone=backbone())
    first = json.loads((tmp_path / "sweep" / result.best.trainings[0].folder / "evaluation.json").read_text())
    assert json.loads((tmp_path / "again/evaluation.json").read_text()) == first


def test_seeds_differ_in_all_but_the_draws(recipe, videos):
    source = read_source(recipe.data)
    balanced = replace(recipe, train=replace(recipe.train, balanced_sampling=True))
    unequal = replace(source, train=tuple(item for i, item in enumerate(source.train) if i % 5 or item.label))
    (shared,), why = with_shared_features([balanced])
    assert why == ""
    assert draws_seed(shared.train) == 0
    halves = [fit_to_data(replace(shared, train=replace(shared.train, seed=seed)), unequal)[1].train for seed in (0, 1)]
    assert halves[0] == halves[1], "the same videos are repeated"
    own = [
        fit_to_data(replace(balanced, train=replace(balanced.train, seed=seed)), unequal)[1].train for seed in range(5)
    ]
    assert any(half != own[0] for half in own)


def test_fields_that_decide_features_are_told_with_the_size(recipe, tmp_path):
    said = Said()
    search(
        recipe, ["transform.flip=0,0.5", "train.lr=1e-3,1e-2"], tmp_path / "sweep", backbone=backbone(), progress=said
    )
    (line,) = [line for line in said.lines if "sets of frozen features" in line]
    assert line.startswith("transform.flip decide what is computed of a video: 2 sets")
    training = [kept for kept in kept_features(tmp_path / "features") if kept.setting["seed"] is not None]
    assert len(training) == 2


def test_sizes_are_those_on_disk(recipe, tmp_path):
    evl = validate(replace(recipe, method="evl", options={"layers": 2, "heads": 4}, sampling=Sampling(frames=4)))
    (shared,), _ = with_shared_features([evl])
    (one,) = feature_sets([shared], read_source(recipe.data), backbone())
    search(evl, ["train.lr=1e-3"], tmp_path / "sweep", backbone=backbone())
    kept = sum(path.stat().st_size for path in (tmp_path / "features").rglob("*.safetensors"))
    assert one.bytes == pytest.approx(kept, rel=0.02), "safetensors adds a few hundred bytes a shard"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"method": "st_adapter"}, "st_adapter trains within or between the backbone's blocks"),
        ({"train": {"mixup": 0.8}}, "videos cannot be mixed"),
        ({"train": {"unfreeze": "last:1"}}, "what a frozen backbone says"),
    ],
)
def test_without_a_cache_the_reason_is_told(recipe, tmp_path, change, why):
    args = replace(recipe.train, **change.get("train", {}), epochs=1)
    recipe, said, vit = replace(recipe, method=change.get("method", "probe"), train=args), Said(), backbone()
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    result = search(recipe, ["train.lr=1e-3,1e-2"], tmp_path / "sweep", backbone=vit, progress=said)
    (line,) = [line for line in said.lines if line.startswith("Every setting is trained from the videos")]
    assert why in line
    assert not (tmp_path / "features").exists()
    assert result.best is not None
    assert read_recipe(tmp_path / "sweep/best.yaml").train.draws_seed is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items()), "the next begins alike"


def test_a_stopped_search_goes_on(recipe, tmp_path):
    whole = search(recipe, GRID, tmp_path / "whole", backbone=backbone())
    for stop in (Stopping(2, 2), Stopping(1, 2), Stopping(1, 1), Stopping(2, 1)):
        with pytest.raises(Interrupted, match=r"of 4 trainings are finished. Go on with the same command"):
            search(recipe, GRID, tmp_path / "cut", backbone=backbone(), progress=stop)
    said = Said()
    result = search(recipe, GRID, tmp_path / "cut", backbone=backbone(), progress=said)
    assert ends(tmp_path / "cut") == ends(tmp_path / "whole")
    assert [one.tried for one in result.outcomes] == [one.tried for one in whole.outcomes]
    assert len([line for line in said.lines if line.strip().endswith("%")]) == 1, "a row for what was left"


def go_and_die(recipe, out, number):
    """A search that is killed at its move of a file with this number."""
    torch.set_num_threads(1)
    left, move = [number], os.replace

    def moved(*args):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        move(*args)

    os.replace = moved
    search(recipe, GRID, out, backbone=backbone())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_search_goes_on(recipe, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["muybridge.engine.search", "muybridge.testing.tiny", "torch._dynamo"])
    search(recipe, GRID, tmp_path / "whole", backbone=backbone())
    own = replace(recipe, train=replace(recipe.train, cache_folder=str(tmp_path / "others")))
    # While features are written; within the first training; and in the tables of a later one.
    for number in (4, 9, 31):
        process = context.Process(target=go_and_die, args=(own, tmp_path / "cut", number))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    search(own, GRID, tmp_path / "cut", backbone=backbone())
    models, rows, best = ends(tmp_path / "cut")
    best["train"]["cache_folder"] = recipe.train.cache_folder
    assert (models, rows, best) == ends(tmp_path / "whole")


def test_a_search_may_grow_and_not_change(recipe, tmp_path):
    out, vit = tmp_path / "sweep", backbone()
    first = search(recipe, ["train.lr=1e-3,3e-3"], out, backbone=vit)
    said = Said()
    more = search(recipe, ["train.lr=1e-4,1e-3,3e-3"], out, seeds=2, backbone=vit, progress=said)
    assert len([line for line in said.lines if line.strip().endswith(("%", "left"))]) == 4
    assert {one.number: one.trainings[0] for one in more.outcomes if one.number < 3} == {
        one.number: one.trainings[0] for one in first.outcomes
    }
    for changed, keywords, sentence in [
        ((recipe, ["train.lr=1e-3,1e-4"]), {"seeds": 2}, "tried.train.lr was"),
        ((recipe, ["train.lr=1e-4,1e-3,3e-3"]), {}, "seeds was 2, now 1"),
        ((recipe, ["probe.pool=mean"]), {"seeds": 2}, "tried.train.lr was"),
        ((replace(recipe, train=replace(recipe.train, epochs=3)), ["train.lr=1e-4,1e-3,3e-3"]), {"seeds": 2}, "epochs"),
    ]:
        with pytest.raises(BadInput, match="sweep of another setting") as caught:
            search(*changed, out, backbone=vit, **keywords)
        assert sentence in str(caught.value)
    with pytest.raises(BadInput, match="a sweep of settings"):
        protocols.few_shot(recipe, out, (1,), 1, backbone=vit)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="is no sweep; nothing is written over"):
        search(recipe, ["train.lr=1e-3"], tmp_path / "mine", backbone=vit)


def test_more_trials_later_are_those_of_a_longer_search(recipe, tmp_path):
    recipe, tried = replace(recipe, train=replace(recipe.train, epochs=1)), ["train.lr=1e-4..1e-1"]
    search(recipe, tried, tmp_path / "grown", 2, backbone=backbone())
    search(recipe, tried, tmp_path / "grown", 4, backbone=backbone())
    search(recipe, tried, tmp_path / "whole", 4, backbone=backbone())
    assert ends(tmp_path / "grown") == ends(tmp_path / "whole")
    said = Said()
    search(recipe, ["probe.pool=mean,concat"], tmp_path / "few", 9, backbone=backbone(), progress=said)
    assert any("only 2 different settings" in line for line in said.lines)


def test_what_fails_is_told_and_the_others_are_trained(recipe, tmp_path, monkeypatch):
    torch_train, tries = sweeps.train, []

    def failing(recipe, *rest, **keywords):
        tries.append(recipe.train.weight_decay)
        if recipe.train.weight_decay == 0.5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if recipe.train.weight_decay == 0.25:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes"
            )
        return torch_train(recipe, *rest, **keywords)

    monkeypatch.setattr(sweeps, "train", failing)
    tried = ["train.weight_decay=1e6,0.5,0.25,0"]
    hot = replace(recipe, train=replace(recipe.train, lr=1e6, warmup=0.0))
    result = search(hot, tried, tmp_path / "sweep", backbone=backbone())
    assert tries == [1e6, 0.5, 0.25, 0]
    states = {outcome.tried["train.weight_decay"]: outcome.state for outcome in result.outcomes}
    assert states == {1e6: "failed", 0.5: "failed", 0.25: "failed", 0: "finished"}
    assert result.best.tried == {"train.weight_decay": 0}
    reasons = {outcome.tried["train.weight_decay"]: outcome.trainings[0].why for outcome in result.outcomes}
    assert reasons[0.5] == "Not enough memory"
    assert reasons[0.25] == "Not enough memory"
    assert "finite" in reasons[1e6] or "nan" in reasons[1e6] or "inf" in reasons[1e6]
    search(hot, tried, tmp_path / "sweep", backbone=backbone())
    assert len(tries) == 4, "what failed is not tried again"
    (tmp_path / "sweep/setting-002/seed-0" / FAILED).unlink()
    search(hot, tried, tmp_path / "sweep", backbone=backbone())
    assert tries[4:] == [0.5], "unless it is asked for"
    with pytest.raises(BadInput, match=r"All 1 trainings failed, as .*sweep.csv says; the first: Not enough memory"):
        search(recipe, ["train.weight_decay=0.5"], tmp_path / "none", backbone=backbone())


def test_a_short_training_hashes_its_backbone_once_a_sweep(recipe, tmp_path, monkeypatch):
    calls, sha256_of_state = [], weights_module.sha256_of_state
    monkeypatch.setattr(weights_module, "sha256_of_state", lambda state: calls.append(1) or sha256_of_state(state))
    search(recipe, ["train.lr=1e-3,3e-3"], tmp_path / "sweep", backbone=backbone())
    assert len(calls) == 1
    train(
        replace(recipe, train=replace(recipe.train, cache="disk", fixed_views=1)), tmp_path / "run", backbone=backbone()
    )
    assert len(calls) == 2
    (shared,), _ = with_shared_features([recipe])
    cache_features(shared, read_source(recipe.data), backbone())
    assert len(calls) == 3


def test_two_sweeps_do_not_share_a_folder(recipe, tmp_path):
    out, vit = tmp_path / "sweep", backbone()
    for sweep in (
        lambda: search(recipe, ["train.lr=1e-3"], out, backbone=vit),
        lambda: protocols.few_shot(recipe, out, (1,), 1, backbone=vit),
    ):
        with alone_in(out), pytest.raises(BadInput, match="Another process writes into"):
            sweep()
        assert [path.name for path in out.iterdir()] == [LOCK]
    search(recipe, ["train.lr=1e-3"], out, backbone=vit)


def test_a_full_disk_and_a_bug_end_the_search(recipe, tmp_path, monkeypatch):
    for error in (NotSaved("the disk is full"), RuntimeError("a bug"), TypeError("another")):
        monkeypatch.setattr(sweeps, "train", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(type(error), match=str(error)):
            search(recipe, GRID, tmp_path / "sweep", backbone=backbone())


def test_halving_gives_up_the_worst_and_goes_on_with_the_rest(recipe, tmp_path):
    recipe = replace(recipe, train=replace(recipe.train, epochs=4))
    tried = ["train.lr=1e-6,1e-3,3e-3,1e-2"]
    said = Said()
    result = search(recipe, tried, tmp_path / "halved", halving=2, backbone=backbone(), progress=said)
    epochs = sorted(outcome.epochs for outcome in result.outcomes)
    assert epochs == [1, 1, 2, 4]
    assert [outcome.state for outcome in result.outcomes] == ["finished", "stopped", "stopped", "stopped"]
    assert [outcome.epochs for outcome in result.outcomes] == [4, 2, 1, 1]
    assert next(line for line in said.lines if " go on: " in line).startswith("Of 4 settings 2 go on")
    # The best after one epoch went on: as whole trainings say.
    whole = search(recipe, tried, tmp_path / "whole", backbone=backbone())
    first = {outcome.number: outcome.trainings[0].top1_after(tmp_path / "whole", 1) for outcome in whole.outcomes}
    kept = {outcome.number for outcome in result.outcomes if outcome.epochs > 1}
    assert min(first[number] for number in kept) >= max(top for number, top in first.items() if number not in kept)
    models = [
        (tmp_path / place / result.best.trainings[0].folder / MODEL).read_bytes() for place in ("halved", "whole")
    ]
    assert models[0] == models[1], "a survivor ends as if it had never paused"

    for stop in (Stopping(2, 1), Stopping(1, 2), Stopping(1, 4)):
        with pytest.raises(Interrupted):
            search(recipe, tried, tmp_path / "cut", halving=2, backbone=backbone(), progress=stop)
    search(recipe, tried, tmp_path / "cut", halving=2, backbone=backbone())
    assert ends(tmp_path / "cut") == ends(tmp_path / "halved")
    with pytest.raises(BadInput, match="nothing to halve by 5"):
        search(recipe, tried, tmp_path / "x", halving=5, backbone=backbone())
    rare = replace(recipe, train=replace(recipe.train, evaluate_every=2))
    with pytest.raises(BadInput, match="evaluate_every is 2"):
        search(rare, tried, tmp_path / "x", halving=2, backbone=backbone())


def test_a_training_is_read_from_its_folder(tmp_path):
    assert read_training(tmp_path, tmp_path / "none", 0, 10).state == "waiting"


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [({"seeds": 0}, "seeds is 0"), ({"halving": 1}, "halving is 1"), ({"trials": 0}, "trials is 0")],
)
def test_numbers_out_of_range(recipe, tmp_path, keywords, sentence):
    with pytest.raises(BadInput, match=sentence):
        search(recipe, GRID, tmp_path / "sweep", backbone=backbone(), **keywords)


def test_one_process_and_no_memory_cache(recipe, tmp_path, monkeypatch):
    cached = replace(recipe, train=replace(recipe.train, cache="memory", fixed_views=1))
    with pytest.raises(BadInput, match="shares them on disk"):
        search(cached, GRID, tmp_path / "sweep", backbone=backbone())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="in one process"):
        search(recipe, GRID, tmp_path / "sweep", backbone=backbone())
