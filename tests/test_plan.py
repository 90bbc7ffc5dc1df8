"""benchmarks/plan.py: what it counts, what it computes of it, and that the pages show its tables."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from muybridge.backbones.vit import ViT
from muybridge.info import recipe_info
from muybridge.methods import build_method
from muybridge.testing.tiny import tiny_backbones

ROOT = Path(__file__).parents[1]
KINDS = {"training": "planning", "cache": "planning", "labelling": "planning", "volume": "planning"}
KINDS["exchange"] = "many-machines"


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("plan_of_benchmarks", ROOT / "benchmarks/plan.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        patch.syspath_prepend(ROOT / "benchmarks")  # scripts import what stands beside them
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolution_costs_as_much_for_each_gradient_as_forwards(plan, groups):
    convolution = nn.Conv2d(8, 16, 3, groups=groups, device="meta")
    video = torch.empty(2, 8, 6, 5, device="meta", requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=sys.modules["counted"].OWN) as counter:
        out = convolution(video)
        forwards = counter.get_total_flops()
        out.sum().backward()
    assert forwards == 2 * 2 * 4 * 3 * 16 * (8 // groups) * 9
    assert counter.get_total_flops() == 3 * forwards


def test_a_step_passes_a_frozen_backbone_once_or_twice(plan):
    config = replace(tiny_backbones()["dinov2"], width=96, mlp_hidden=384, depth=4)
    with torch.device("meta"):
        methods = {name: build_method(name, ViT(config), 4, 4, (32, 32), {}) for name in ("probe", "aim")}
    video = torch.empty(1, 4, 3, 32, 32, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        methods["probe"](video)
    forwards = counter.get_total_flops() // 2
    assert forwards < plan.method_step_multiply_adds(methods["probe"]) < 1.01 * forwards
    assert plan.method_step_multiply_adds(methods["aim"]) > 2 * forwards
    assert [plan.passes(method) for method in methods.values()] == [1, 2]


def test_times_follow_from_the_rates(plan):
    assumed = plan.Assumed(gpus=2, cores=4, peak=1.0, utilisation=0.5, videos=1e6, days=1.0)
    assert assumed.multiply_adds == 0.25e12
    found = {
        "evl": plan.Cost(
            plan.recipe_of("evl_vitb16_k400_8f"), recipe_info("evl_vitb16_k400_8f"), 10**12, 1, 8.0, 2.0, 1.0
        )
    }
    head, row = plan.training_table(found, assumed)
    line = dict(zip(head, row, strict=True))
    seen = plan.KINETICS * 53
    assert float(line["GPU-hours"].replace(",", "")) == round(seen * 4 / 3600)
    assert line["cores a GPU to keep up"] == "2"
    # A second of a GPU trains a quarter of a video, of which a core decodes an eighth: 2 GPUs are slower than 8 cores.
    assert line["h with 4 cores a GPU"] == line["h on 2 GPUs"]
    slow = {"evl": replace(found["evl"], train_cpu=80.0)}
    line = dict(zip(*plan.training_table(slow, assumed), strict=True))
    assert float(line["h with 4 cores a GPU"].replace(",", "")) == pytest.approx(seen * 10 / 3600, rel=1e-3)


def test_tables_have_their_place(plan, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n")
    plan.put(page, "x", plan.markdown(iter([["h", "i"], ["1", "2"]])))
    assert page.read_text() == "a\n<!-- x: begin -->\n| h | i |\n| --- | ---: |\n| 1 | 2 |\n<!-- x: end -->\nb\n"
    with pytest.raises(SystemExit, match="no place for the table 'y'"):
        plan.put(page, "y", "")
    for name, page in KINDS.items():
        assert (ROOT / f"docs/{page}.md").read_text().count(f"<!-- {name}: begin -->\n| ") == 1


@pytest.mark.slow
def test_the_pages_show_what_is_computed(plan):
    for name, rows in plan.tables(plan.costs(["evl", "zeroi2v"]), plan.Assumed()).items():
        text = (ROOT / f"docs/{KINDS[name]}.md").read_text(encoding="utf-8")
        shown = text.split(f"<!-- {name}: begin -->\n")[1].split(f"<!-- {name}: end -->")[0].splitlines()
        missing = [line for line in plan.markdown(rows).splitlines() if line not in shown]
        assert missing == [], "python benchmarks/plan.py --write"
