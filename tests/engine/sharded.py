"""What `test_shard_backbone.py` has done in each of two processes: sharded.py DATA OUT."""

import json
import sys
from dataclasses import replace

import torch
from together import Loud, backbone, recipe_of

from muybridge import load
from muybridge.engine.init import starting_recipe
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.processes import join_processes
from muybridge.engine.sharding import gathered, kept_bytes, shard_backbone
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput
from muybridge.methods import METHODS, build_method
from muybridge.testing.tiny import random_backbone, tiny_backbones

OPTIONS = {"evl": {"layers": 2, "heads": 3}, "dist": {"layers": (0, 1)}}


def walk(name, again):
    """Outputs and gradients of a method with a whole and with a sharded backbone, in training and evaluation."""
    methods = []
    for _ in range(2):
        torch.manual_seed(0)
        method = build_method(name, backbone(), 4, 4, (32, 32), OPTIONS.get(name, {}))
        method.checkpoint_activations = again
        methods.append(method.train())
    rank = join_processes().rank
    shard_backbone(methods[1], torch.device("cpu"))
    kept = kept_bytes(methods[1])
    same = freed = True
    for step in range(2):
        torch.manual_seed(10 * rank + step)
        video = torch.randn(2, 4, 3, 32, 32)
        answers = []
        for method in methods:
            method.zero_grad()
            with torch.inference_mode():
                scores = method.eval()(video).logits.clone()
            freed &= kept_bytes(methods[1]) == kept
            torch.manual_seed(step)
            output = method.train()(video)
            (output.logits.square().sum() + sum(output.losses.values())).backward()
            gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
            answers.append([scores, output.logits, *gradients])
        same &= len(answers[0]) == len(answers[1])
        same &= all(torch.equal(one, other) for one, other in zip(*answers, strict=True))
    whole = gathered(methods[1]).state_dict()
    same &= all(torch.equal(tensor, whole[key]) for key, tensor in methods[0].backbone.state_dict().items())
    return {"same": same, "freed": freed and kept_bytes(methods[1]) == kept}


def memory():
    """Bytes of a larger backbone, and of a process's share."""
    config = replace(tiny_backbones()["dinov2"], width=192, mlp_hidden=768, depth=6)
    method = build_method("probe", random_backbone(config), 4, 4, config.image_size, {})
    whole = kept_bytes(method)
    in_blocks = sum(p.nbytes for block in method.backbone.blocks for p in block.parameters())
    shard_backbone(method, torch.device("cpu"))
    return {"whole": whole, "in_blocks": in_blocks, "kept": kept_bytes(method)}


def stopped(data, out, stop, **changes):
    """A training that is stopped and goes on; what it says at the stop, and its best model's accuracy."""
    recipe = recipe_of(data, "zeroi2v", shard_backbone=True, **changes)
    said = ""
    try:
        train(recipe, out, backbone=backbone(), progress=Loud(stop))
    except Interrupted as error:
        said = str(error)
    return [said, resume(out, backbone()).evaluation.top1 if said else None]


def other_weights(data, out):
    """Each process has other weights; each is told."""
    own = random_backbone(tiny_backbones()["dinov2"], seed=join_processes().rank)
    try:
        train(recipe_of(data, shard_backbone=True), out, backbone=own)
    except BadInput as error:
        return str(error)
    return "trained"


def from_model(data, out):
    """A training that starts from a model, and then a second one with the backbone of the first."""
    start = load(f"{out}/one", device="cpu")
    recipe = replace(starting_recipe(start.spec), data=str(data))
    recipe = replace(recipe, train=replace(recipe_of(data).train, epochs=1, shard_backbone=True))
    train(recipe, f"{out}/started", start=start)
    try:
        train(recipe, f"{out}/again", start=start)
    except BadInput as error:
        return str(error)
    return "trained"


def main(data, out):
    torch.set_num_threads(1)
    join_processes()
    told = {
        "walk": {f"{name}, {again}": walk(name, again) for name in METHODS for again in (False, True)},
        "memory": memory(),
        "whole": stopped(data, f"{out}/whole", 0),
        "cut": stopped(data, f"{out}/cut", 6),
        # At a rate of 0 no later evaluation is better, so the best model is read back and evaluated again.
        "read_back": stopped(data, f"{out}/read_back", 6, lr=0.0, slim=True),
        "other_weights": other_weights(data, f"{out}/other"),
        "from_model": from_model(data, out),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
