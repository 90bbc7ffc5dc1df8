"""Frozen features on disk: the same training as without, and never those of another setting."""

import itertools
import os
import shutil
from dataclasses import fields, replace
from multiprocessing import get_context

import pytest
import torch

from muybridge.engine import features as features_module
from muybridge.engine import store as store_module
from muybridge.engine.batches import VideoBatches
from muybridge.engine.features import compute_features, store_features
from muybridge.engine.last import load_last
from muybridge.engine.progress import Progress
from muybridge.engine.setting import frozen_setting, hash_of_videos, to_bytes, was_bytes
from muybridge.engine.store import feature_key
from muybridge.engine.train import train
from muybridge.errors import BadInput
from muybridge.methods import build_method
from muybridge.recipes import check, validate
from muybridge.structures import FrameFiles, Item, Recipe, Sampling, SourceArgs, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video.dataset import VideoDataset, read_source
from muybridge.video.transforms import normalise

FRAMES, SIZE = 4, (32, 32)
OPTIONS = {"evl": {"layers": 2, "heads": 3}, "dist": {"width": 48, "temporal_width": 12, "pooling_layers": 1}}
CPU = torch.device("cpu")


class Said(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def backbone(family="dinov2", seed=0):
    return random_backbone(tiny_backbones()[family], seed)


def make(name, options=None, frames=FRAMES, size=SIZE, vit=None):
    torch.manual_seed(0)
    options = {**OPTIONS.get(name, {}), **(options or {})}
    return build_method(name, vit or backbone(), 3, frames, size, options).eval()


def halves(videos, transform=None, views=1, sampling=None, batch_size=4, seed=0):
    source = read_source(videos)
    transform, sampling = transform or Transform(size=SIZE, flip=0.5), sampling or Sampling(frames=FRAMES)
    training = VideoDataset(source.train, sampling, transform, True, seed)
    validation = VideoDataset(source.val, sampling, transform, False, seed)
    return VideoBatches(training, batch_size, seed, views), VideoBatches(validation, batch_size)


@pytest.fixture
def recipe(videos, tmp_path):
    return validate(
        Recipe(
            method="evl",
            options=OPTIONS["evl"],
            backbone="custom",
            data=str(videos),
            sampling=Sampling(frames=FRAMES),
            transform=Transform(size=SIZE, flip=0.5),
            train=TrainArgs(
                epochs=1, batch_size=5, lr=4e-3, workers=0, warmup=0, fixed_views=1, cache_folder=str(tmp_path / "kept")
            ),
        )
    )


def with_train(recipe, **changes):
    return replace(recipe, train=replace(recipe.train, **changes))


def differences(one, other):
    """Of every trained weight of two runs after their last epoch."""
    ours, theirs = (load_last(run.folder)["tensors"] for run in (one, other))
    return torch.cat([(ours[key] - theirs[key]).abs().flatten() for key in theirs])


def largest_difference(one, other):
    return differences(one, other).max().item()


@pytest.mark.parametrize("method", ["evl", "probe", "dist"])
def test_training_on_features_from_disk_equals_training_without(recipe, tmp_path, method):
    recipe = replace(recipe, method=method, options=OPTIONS.get(method, {}))
    plain = train(recipe, tmp_path / "plain", backbone=backbone())
    full = train(with_train(recipe, cache="disk", cache_precision="full"), tmp_path / "full", backbone=backbone())
    half = train(with_train(recipe, cache="disk"), tmp_path / "half", backbone=backbone())
    again = train(with_train(recipe, cache="disk"), tmp_path / "again", backbone=backbone())
    # Three steps. Features are computed in other batches, so sums round differently in the last bits of fp32, and
    # AdamW divides by the gradient's size.
    assert largest_difference(full, plain) < 2e-6
    torch.testing.assert_close(full.evaluation.scores, plain.evaluation.scores, atol=2e-6, rtol=0)
    assert largest_difference(half, plain) > 0
    torch.testing.assert_close(half.evaluation.scores, plain.evaluation.scores, atol=2e-3, rtol=0)
    assert largest_difference(again, half) == 0, "features that are read are those that were written"
    start = train(with_train(recipe, lr=0.0), tmp_path / "start", backbone=backbone())
    assert largest_difference(plain, start) > 8e-3, "or the comparisons above show nothing"
    # The first steps of AdamW are as large whether a gradient is large or nearly zero, so single weights may go apart.
    assert differences(half, plain).mean() < 0.02 * differences(plain, start).mean()


@pytest.mark.parametrize("views", [1, 3])
def test_batches_from_disk_are_those_from_files(videos, tmp_path, views):
    # A mirrored video has the label of its twin: one of each view.
    transform = Transform(size=SIZE, flip=0.5, swap_labels=((1, 2),))
    training, validation = halves(videos, transform, views)
    method = make("probe")
    stored = store_features(method, training, CPU, tmp_path, views, "full")
    assert len(stored) == len(training)
    for epoch in range(4):
        pairs = list(zip(stored.epoch(epoch, 1), training.epoch(epoch, 1), strict=True))
        assert len(pairs) == 3
        for ours, theirs in pairs:
            assert torch.equal(ours.indices, theirs.indices)
            assert torch.equal(ours.labels, theirs.labels)
            torch.testing.assert_close(ours.inputs, method.frozen(theirs.inputs), atol=1e-5, rtol=1e-5)
    drawn = torch.cat([batch.labels for epoch in range(views) for batch in stored.epoch(epoch)])
    plain = torch.cat([training.dataset.swapped and batch.labels for batch in halves(videos)[0].epoch(0)])
    assert not torch.equal(drawn[: len(plain)], plain), "no label was swapped"
    stored = store_features(method, validation, CPU, tmp_path)
    assert [batch.indices.tolist() for batch in stored.epoch(0)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_test_views_of_a_video_stay_together(videos, tmp_path):
    _, validation = halves(videos, sampling=Sampling(frames=FRAMES, views=2, crops=3))
    method = make("dist")
    memory = compute_features(method, validation, CPU)
    disk = store_features(method, validation, CPU, tmp_path, 1, "full")
    for ours, theirs in zip(disk.epoch(0), memory.epoch(0), strict=True):
        assert ours.inputs["video"].shape[:3] == (len(ours.labels), 6, FRAMES)
        torch.testing.assert_close(ours.inputs, theirs.inputs, atol=0, rtol=0)


def test_half_precision_is_off_by_what_fp16_is_off(videos, tmp_path):
    training, _ = halves(videos)
    method = make("evl")
    memory = compute_features(method, training, CPU)
    disk = store_features(method, training, CPU, tmp_path)
    assert {about["kept"] for about in disk.store.about.values()} == {"half"}
    for ours, theirs in zip(disk.epoch(0), memory.epoch(0), strict=True):
        for name, exact in theirs.inputs.items():
            assert ours.inputs[name].dtype == torch.float32
            torch.testing.assert_close(ours.inputs[name], exact.half().float(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("transform", "kept"),
    [
        (Transform(size=SIZE), "bytes"),
        (Transform(size=SIZE, arithmetic="rounded", color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.5), "bytes"),
        (Transform(size=SIZE, erasing=1.0, erasing_fill="noise", randaugment="rand-m7-n4-mstd0.5-inc1"), "bytes"),
        (Transform(size=SIZE, erasing=1.0, erasing_fill="grey"), "bytes"),
        (Transform(size=SIZE, erasing=1.0), "half"),
        (Transform(size=SIZE, arithmetic="float"), "half"),
    ],
)
def test_the_video_is_kept_as_bytes_where_it_was_bytes(videos, tmp_path, transform, kept):
    training, _ = halves(videos, transform)
    stored = store_features(make("dist"), training, CPU, tmp_path)
    assert stored.store.about["video"]["kept"] == kept
    assert stored.store.about["taps"]["kept"] == "half"
    for ours, theirs in zip(stored.epoch(0), training.epoch(0), strict=True):
        video = theirs.inputs if kept == "bytes" else theirs.inputs.half().float()
        torch.testing.assert_close(ours.inputs["video"], video, atol=0, rtol=0)


def test_every_byte_is_found_again_with_any_normalisation():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for mean, std in itertools.product([(0.48145466, 0.4578275, 0.40821073), (0.5, 0.5, 0.5)], [(0.2, 0.3, 1.0)]):
        transform = Transform(mean=mean, std=std)
        assert was_bytes(transform)
        assert torch.equal(to_bytes(normalise(levels, transform), transform), levels)
    with pytest.raises(ValueError, match="made of bytes"):
        to_bytes(torch.full((1, 3, 2, 2), 0.1234567), Transform())


def test_numbers_beyond_fp16_are_cut_and_told(videos, tmp_path):
    vit = backbone()
    with torch.no_grad():
        vit.norm.weight[:] *= 1e6
    training, _ = halves(videos)
    said = Said()
    stored = store_features(make("probe", vit=vit), training, CPU, tmp_path, progress=said)
    largest = max(batch.inputs["summary"].abs().max().item() for batch in stored.epoch(0))
    assert largest == 65504
    assert any("summary has numbers that fp16 cannot hold" in line for line in said.lines)
    assert "--train.cache_precision full" in said.lines[-1]
    exact = store_features(make("probe", vit=vit), training, CPU, tmp_path, 1, "full")
    assert max(batch.inputs["summary"].abs().max().item() for batch in exact.epoch(0)) > 65504


@pytest.mark.parametrize("method", ["ila", "zeroi2v", "aim", "st_adapter"])
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_methods_inside_the_backbone_are_refused_before_anything_is_written(recipe, tmp_path, method, cache):
    recipe = replace(with_train(recipe, cache=cache), method=method, options={})
    with pytest.raises(BadInput, match="depends on frozen weights only.*gradients pass through.*--train.cache none"):
        train(recipe, tmp_path / "run", backbone=backbone())
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="nothing to cache"):
        check(recipe)


# Method -> an option that `frozen` does not depend on may be any of these.
OTHERS = {
    "evl": {
        "width": 96, "heads": 4, "mlp_factor": 2.0, "temporal_conv": False, "temporal_position": False,
        "alignment": True, "dropout": 0.1,
    },
    "dist": {
        "width": 96, "temporal_width": 24, "pooling_layers": 2, "kernel": 5, "stem_kernel": 3,
        "temporal_mlp_ratio": 2.0, "mlp_ratio": 2.0, "integration_temporal_ratio": 0.5, "dropout": 0.1,
        "pooling_heads": 2, "temporal_embedding_std": 1.0,
    },
    "probe": {"pool": "concat", "dropout": 0.1},
}  # fmt: skip
COUNTED = {
    "evl": {"layers": 1, "temporal_match": False},
    "dist": {"ratio": 4, "layers": (1,)},
    "probe": {},
}
APART = {"head", "zero_shot"}  # of a head that compares with texts


@pytest.mark.parametrize("method", sorted(OTHERS))
def test_options_count_if_the_features_depend_on_them(method):
    torch.manual_seed(1)
    video = torch.randn(2, FRAMES, 3, *SIZE)
    plain = make(method)
    names = {field.name for field in fields(plain.Config)}
    assert names - APART == set(OTHERS[method]) | set(COUNTED[method]), "a new option belongs in one of the tables"
    for name, value in OTHERS[method].items():
        other = make(method, {name: value})
        assert other.frozen_key() == plain.frozen_key(), name
        torch.testing.assert_close(other.frozen(video), plain.frozen(video), atol=0, rtol=0)
    for name, value in COUNTED[method].items():
        assert make(method, {name: value}).frozen_key() != plain.frozen_key(), name


def test_a_method_counts_all_its_options_unless_it_knows_better():
    for name in ("ila", "zeroi2v"):
        method = make(name, {"dropout": 0.25} if name == "ila" else {"shifts": "-1:16"})
        assert set(method.frozen_key()) == {field.name for field in fields(method.Config)}


def test_no_setting_reads_the_features_of_another(videos, tmp_path):
    """Each ingredient of the key, changed alone; all keys differ."""
    method = make("evl")

    def key(method=method, views=2, precision="half", training=True, source=None, items=None, **changes):
        kinds = {"sampling": Sampling(frames=FRAMES), "transform": Transform(size=SIZE), "seed": 0, **changes}
        items = read_source(videos).train if items is None else items
        dataset = VideoDataset(items, kinds["sampling"], kinds["transform"], training, kinds["seed"], source)
        return feature_key(frozen_setting(method, VideoBatches(dataset, 4, 0, views), views, precision))

    keys = {
        "none": key(),
        "weights": key(make("evl", vit=backbone(seed=1))),
        "eps": key(make("evl", vit=random_backbone(replace(tiny_backbones()["dinov2"], norm_eps=1e-3)))),
        "method": key(make("probe")),
        "layers": key(make("evl", {"layers": 1})),
        "match": key(make("evl", {"temporal_match": False})),
        "frames of the method": key(make("evl", frames=8)),
        "size of the method": key(make("evl", size=(32, 40))),
        "views": key(views=3),
        "precision": key(precision="full"),
        "seed": key(seed=1),
        "validation": key(training=False),
        "decoder": key(source=SourceArgs(decoder="torchcodec")),
        "seconds": key(source=SourceArgs(seconds=1.0)),
        "megapixels": key(source=SourceArgs(megapixels=1.0)),
        "megabytes": key(source=SourceArgs(megabytes=1.0)),
        "fewer videos": key(items=read_source(videos).train[:-1]),
    }
    changed = {"frames": 5, "rule": "stride", "stride": 5, "views": 2, "crops": 3}
    assert set(changed) == {field.name for field in fields(Sampling)}
    for name, value in changed.items():
        keys[f"sampling.{name}"] = key(sampling=replace(Sampling(frames=FRAMES), **{name: value}))
    for field in fields(Transform):
        old = getattr(Transform(size=SIZE), field.name)
        new = {
            "size": (32, 40), "mean": (0.1, 0.2, 0.3), "std": (0.1, 0.2, 0.3), "order": Transform().order[::-1],
            "swap_labels": ((0, 1),), "color_jitter": (0.1, 0.0, 0.0, 0.0),
        }.get(field.name)  # fmt: skip
        if new is None:
            new = {bool: not old, int: 9, float: 0.123, str: "other", tuple: (0.6, 0.9)}[type(old)]
        keys[f"transform.{field.name}"] = key(transform=replace(Transform(size=SIZE), **{field.name: new}))
    alike = [pair for pair in itertools.combinations(keys, 2) if keys[pair[0]] == keys[pair[1]]]
    assert not alike
    assert key() == keys["none"]
    assert key(training=False, seed=3, views=3) == keys["validation"], "nothing is drawn there"
    assert key(make("evl", {"dropout": 0.2, "temporal_conv": False})) == keys["none"]


def test_the_hash_of_videos_follows_the_files(videos, tmp_path):
    shutil.copytree(videos / "train", tmp_path / "one")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(1, 4):
        (pictures / f"{number}.jpg").write_bytes(bytes(number))
    film = str(tmp_path / "one/rising/0.mp4")
    first, other = Item(film, 0, "a"), Item(str(tmp_path / "one/falling/0.mp4"), 1, "b")
    folder = Item(str(pictures), 0, "c", frames=FrameFiles("{}.jpg", 1, 3))
    hashes = [
        hash_of_videos(items)
        for items in [
            [first, other], [other, first], [first], [replace(first, label=1)], [replace(first, name="d")],
            [replace(first, start=0.5)], [replace(first, end=0.5)], [replace(first, stored=(0, 10))],
            [replace(first, stored=(10, 0))], [folder], [replace(folder, frames=FrameFiles("{}.jpg", 1, 2))],
            [Item("https://host/a.tar", 0, "a")], [Item("https://host/b.tar", 0, "a")], [Item("/gone.mp4", 0, "a")],
        ]
    ]  # fmt: skip
    assert len(set(hashes)) == len(hashes)

    def moves(path, item):
        before = hash_of_videos([item])
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        touched = hash_of_videos([item])
        path.write_bytes(path.read_bytes() + b"x")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        return len({before, touched, hash_of_videos([item])}) == 3

    assert moves(tmp_path / "one/rising/0.mp4", first)
    assert moves(pictures / "2.jpg", folder)
    (tmp_path / "one").rename(tmp_path / "two")
    moved = replace(first, path=film.replace("/one/", "/two/"))
    assert hash_of_videos([moved]) != hash_of_videos([first]), "the first is not there any more"
    (tmp_path / "two").rename(tmp_path / "one")
    assert hash_of_videos([first]) == hash_of_videos([first])


def test_a_data_set_may_be_moved(videos, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(videos, tmp_path / name)  # keeps times of modification
    one, two = (halves(tmp_path / name)[0] for name in ("one", "two"))
    assert hash_of_videos(one.dataset.items) == hash_of_videos(two.dataset.items)


@pytest.fixture
def damaged(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    (tmp_path / "videos/train/rising/2.mp4").write_bytes(b"no video")
    return tmp_path / "videos"


def counted(batches):
    """What is read of a data set, from now on."""
    read, plain = [], batches.read

    def count(keys):
        read.extend(key for part in keys for key in part)
        return plain(keys)

    batches.read = count
    return read


def test_unreadable_videos_are_remembered_with_their_sentence(damaged, tmp_path):
    training, _ = halves(damaged, views=2)
    bad = next(i for i, item in enumerate(training.dataset.items) if item.name.endswith("rising/2.mp4"))
    first = store_features(make("probe"), training, CPU, tmp_path / "kept", 2)
    read = counted(training)
    again = store_features(make("probe"), training, CPU, tmp_path / "kept", 2)
    assert read == []
    for stored in (first, again):
        for epoch in range(2):
            found = list(zip(stored.epoch(epoch), training.epoch(epoch), strict=True))
            assert {i: text for ours, _ in found for i, text in ours.errors.items()}.keys() == {bad}
            assert all(ours.errors == theirs.errors for ours, theirs in found)


def test_a_video_behind_an_address_is_tried_again(damaged, tmp_path, monkeypatch):
    training, _ = halves(damaged)
    store_features(make("probe"), training, CPU, tmp_path / "kept")
    monkeypatch.setattr(features_module, "is_remote", lambda path: True)
    read = counted(training)
    store_features(make("probe"), training, CPU, tmp_path / "kept")
    assert [training.dataset.items[index].name for _, index, _ in read] == ["train/rising/2.mp4"]


def test_nothing_readable_is_an_error(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    for path in (tmp_path / "videos/train").rglob("*.mp4"):
        path.write_bytes(b"no video")
    training, _ = halves(tmp_path / "videos")
    for _ in range(2):
        with pytest.raises(BadInput, match="None of the 15 videos can be decoded; the first: .*0.mp4"):
            store_features(make("probe"), training, CPU, tmp_path / "kept")


def test_the_size_is_told_and_must_fit(videos, tmp_path, monkeypatch):
    training, _ = halves(videos, views=2)
    said = Said()
    stored = store_features(make("evl"), training, CPU, tmp_path / "kept", 2, "half", said, "training features")
    # Tokens [2, 4, 17, 48] and matches [2, 2, 3, 16, 16] of the 16 patches, two bytes each.
    each = 2 * (2 * 4 * 17 * 48 + 2 * 2 * 3 * 16 * 16)
    assert said.lines[0].startswith(
        f"training features: 30 x {each / 1e6:.2f} MB = {each * 30 / 1e6:.0f} MB (half precision)"
    )
    assert 30 * each < stored.store.bytes < 30 * each + 2000
    disk = shutil.disk_usage(tmp_path)._replace(free=30 * each - 1)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(BadInput, match="--train.cache_folder"):
        store_features(make("evl"), training, CPU, tmp_path / "small", 2)
    assert not list((tmp_path / "small").rglob("*.safetensors"))


class Stop(Progress):
    """Stops the work after so many videos: Ctrl-C, or the process is killed."""

    def __init__(self, videos, kill=False):
        self.left, self.kill = videos, kill

    def advance(self, amount, **figures):
        self.left -= amount
        if self.left <= 0 and self.kill:
            os.kill(os.getpid(), 9)
        if self.left <= 0:
            raise KeyboardInterrupt


def test_an_interrupted_computation_is_gone_on_with(videos, tmp_path):
    training, _ = halves(videos, views=2)
    method = make("evl")
    whole = store_features(method, training, CPU, tmp_path / "whole", 2)
    with pytest.raises(KeyboardInterrupt):
        store_features(method, training, CPU, tmp_path / "kept", 2, progress=Stop(9))
    read, said = counted(training), Said()
    stored = store_features(method, training, CPU, tmp_path / "kept", 2, progress=said, title="training features")
    assert len(read) == 30 - 12
    assert said.lines[0] == "training features: 12 of 30 were computed before."
    for epoch in range(2):
        for ours, theirs in zip(stored.epoch(epoch), whole.epoch(epoch), strict=True):
            torch.testing.assert_close(ours.inputs, theirs.inputs, atol=1e-3, rtol=1e-3)


def test_a_killed_computation_is_gone_on_with(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_ROWS", 4)
    training, _ = halves(videos, views=2)
    method = make("probe")
    process = get_context("fork").Process(
        target=store_features, args=(method, training, CPU, tmp_path, 2), kwargs={"progress": Stop(14, kill=True)}
    )
    process.start()
    process.join()
    assert process.exitcode == -9
    read = counted(training)
    stored = store_features(method, training, CPU, tmp_path, 2)
    assert 30 - 15 <= len(read) < 30
    assert sorted(i for batch in stored.epoch(1) for i in batch.indices.tolist()) == list(range(15))


def test_a_run_stopped_while_it_computes_features_can_be_resumed(recipe, tmp_path, monkeypatch):
    from muybridge.engine.interrupt import Interrupted
    from muybridge.engine.train import resume

    recipe = with_train(recipe, cache="disk")
    plain = train(recipe, tmp_path / "plain", backbone=backbone())
    shutil.rmtree(tmp_path / "kept")
    with pytest.raises(Interrupted, match="--resume"):
        train(recipe, tmp_path / "run", backbone=backbone(), progress=Stop(7))
    result = resume(tmp_path / "run", backbone=backbone())
    assert largest_difference(result, plain) < 1e-3
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_trainings_that_differ_elsewhere_share_features(recipe, tmp_path, monkeypatch):
    recipe = with_train(recipe, cache="disk")
    train(recipe, tmp_path / "one", backbone=backbone())
    monkeypatch.setattr(VideoBatches, "read", lambda *_: pytest.fail("a video was decoded"))
    other = replace(recipe, options={**recipe.options, "dropout": 0.1, "mlp_factor": 2.0})
    train(with_train(other, lr=1e-3, batch_size=3, epochs=2), tmp_path / "two", backbone=backbone())
