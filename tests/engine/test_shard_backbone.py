"""A frozen backbone in shares trains what a whole one trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from together import Loud, backbone, distance, recipe_of, same_course, together

from muybridge.backbones.weights import backbone_sha256
from muybridge.engine.checkpoint import load_model, read_spec
from muybridge.engine.features import compute_features, video_halves
from muybridge.engine.sharding import gathered, is_sharded, kept_bytes, kept_share
from muybridge.engine.train import train
from muybridge.errors import BadInput
from muybridge.methods import build_method
from muybridge.recipes import check
from muybridge.video.dataset import read_source

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(videos, tmp_path_factory):
    """Where `sharded.py` has written to, and a run of one process, `one`."""
    folder = tmp_path_factory.mktemp("sharded")
    train(recipe_of(videos, epochs=1), folder / "one", backbone=backbone())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        named = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": free.getsockname()[1]}
    named |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "sharded.py"), str(videos), str(folder)],
            env={**os.environ, **{name: str(value) for name, value in (named | {"RANK": r, "LOCAL_RANK": r}).items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(error[-3000:] for _, error in said)
    assert not any("Warning" in error for _, error in said), said[0][1]
    (folder / "told.json").write_text(json.dumps([json.loads(out.splitlines()[-1]) for out, _ in said]))
    return folder


@pytest.fixture(scope="module")
def told(folder):
    """What `sharded.py` tells in each of two processes."""
    return json.loads((folder / "told.json").read_text())


def tiny_probe():
    return build_method("probe", backbone(), 3, 4, (32, 32), {})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"unfreeze": "last:1"}, "frozen backbone, and train.unfreeze=last:1 trains it"),
        ({"cache": "memory", "fixed_views": 1}, "nothing to shard: set --train.shard_backbone false"),
    ],
)
def test_what_cannot_be_sharded_is_refused(tmp_path, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        check(recipe_of(tmp_path, shard_backbone=True, **changes))


def test_one_process_trains_with_the_whole_backbone(videos, tmp_path, capsys):
    image = backbone()
    recipe = recipe_of(videos, "probe", epochs=1, shard_backbone=True)
    train(recipe, tmp_path / "run", backbone=image, progress=Loud())
    assert capsys.readouterr().out.count("shard_backbone has no effect on one process") == 1
    assert backbone_sha256(image) == backbone_sha256(backbone())


def test_cached_features_have_no_backbone_to_shard(videos, tmp_path):
    recipe = recipe_of(videos, "probe", fixed_views=1)
    source = read_source(videos)
    method = tiny_probe()
    batches = tuple(compute_features(method, half, torch.device("cpu")) for half in video_halves(recipe, source))
    with pytest.raises(BadInput, match="Cached features are trained on without the backbone"):
        train(recipe_of(videos, "probe", shard_backbone=True), tmp_path / "run", source, backbone(), batches=batches)
    assert not (tmp_path / "run").exists()


def test_a_whole_backbone_is_told_as_such():
    method = tiny_probe()
    size = sum(parameter.nbytes for parameter in backbone().parameters())
    assert not is_sharded(method)
    assert kept_bytes(method) == size
    assert kept_share(method) == f"{size / 1e6:.1f} MB of the frozen backbone's {size / 1e6:.1f} MB"
    assert backbone_sha256(gathered(method)) == backbone_sha256(backbone())


@pytest.mark.slow
def test_every_method_walks_over_shares(told):
    for one in told:
        names = {f"{name}, {again}" for name in ("evl", "ila", "dist", "zeroi2v", "probe") for again in (True, False)}
        assert set(one["walk"]) >= names
        assert {n: answer for n, answer in one["walk"].items() if not all(answer.values())} == {}


@pytest.mark.slow
def test_each_of_two_keeps_half_of_the_blocks(told):
    for one in told:
        memory = one["memory"]
        # All but the norms and scales, which stay whole.
        assert 0.495 * memory["in_blocks"] < memory["whole"] - memory["kept"] < 0.5 * memory["in_blocks"]
        assert memory["kept"] < 0.56 * memory["whole"]


@pytest.mark.slow
def test_a_sharded_training_equals_one_that_is_not(videos, tmp_path):
    # ZeroI2V is merged for evaluations where the backbone is whole.
    first, second = together(videos, tmp_path / "two", 'method="zeroi2v"', "shard_backbone=true", "workers=1")
    result = train(recipe_of(videos, "zeroi2v", batch_size=4), tmp_path / "one", backbone=backbone())
    assert distance(tmp_path / "two", tmp_path / "one") < 1e-5
    figures = json.loads(first.splitlines()[-1])
    assert figures == json.loads(second.splitlines()[-1])
    assert figures["top1"] == result.evaluation.top1
    assert figures["exchanged"] == 4 * result.trainable, "gradients of what is trained, and nothing else"
    assert "Each of 2 processes keeps 0.1 MB of the frozen backbone's 0.2 MB" in first
    model, spec, _ = load_model(tmp_path / "two")
    assert spec.backbone_sha256 == backbone_sha256(backbone()) == backbone_sha256(model.backbone)
    assert (tmp_path / "two/model.safetensors").stat().st_size == (tmp_path / "one/model.safetensors").stat().st_size
    same_course(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_sharded_training_resumes(told, folder):
    for one in told:
        assert one["whole"] == ["", None]
        assert "Go on with: muybridge train --resume" in one["cut"][0]
    assert distance(folder / "cut", folder / "whole") == 0.0
    summaries = [json.loads((folder / name / "evaluation.json").read_text()) for name in ("cut", "whole")]
    assert summaries[0] == summaries[1]


@pytest.mark.slow
def test_the_best_model_is_read_back(told, folder):
    best = json.loads((folder / "read_back/metrics.jsonl").read_text().splitlines()[0])["val_top1"]
    for one in told:
        assert one["read_back"][1] == best
    size = (folder / "read_back/model.safetensors").stat().st_size
    assert size < (folder / "whole/model.safetensors").stat().st_size - kept_bytes(tiny_probe()) / 2
    image = load_model(folder / "read_back", backbone=backbone()).method.backbone
    assert backbone_sha256(image) == read_spec(folder / "read_back").backbone_sha256


@pytest.mark.slow
def test_a_sharded_training_starts_from_a_model(told, folder):
    for one in told:
        assert "sharded by a training before; load it again" in one["from_model"]
    for name in ("start.safetensors", "model.safetensors"):
        assert backbone_sha256(load_model(folder / "started" / name).method.backbone) == backbone_sha256(backbone())
    assert not (folder / "again").exists()


@pytest.mark.slow
def test_processes_with_other_weights_are_told(told, folder):
    for one in told:
        assert "backbones of different weights" in one["other_weights"]
    assert not (folder / "other").exists()
