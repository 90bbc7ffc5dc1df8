"""Plans of large jobs on paper, from costs that were counted or measured; the tables of docs/planning.md.

    python benchmarks/plan.py                                  # prints the tables
    python benchmarks/plan.py --cores-per-gpu 32 --peak 989 --utilisation 0.4 --gpus 64
    python benchmarks/plan.py --write                          # and puts them into the pages
    python benchmarks/plan.py --measure                        # CPU seconds a sample anew: results/samples.csv

Multiply-adds and parameters are counted as `muybridge info` counts; those of a training step with its way back, in
which a frozen weight has no gradient. Seconds a sample are of a video of 10 s, 340 x 256 px, as benchmarks/decode.py
makes it. Sizes of cached features are those of results/cache.csv. What is assumed is an option.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch

from counted import step_multiply_adds
from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import backbone_info
from muybridge.info import Info, setting_info
from muybridge.measure.table import append_row, read_rows
from muybridge.methods import build_method
from muybridge.methods.base import Method
from muybridge.recipes import published_recipe
from muybridge.structures import Item, Recipe, Sampling
from muybridge.video.dataset import VideoDataset
from pages import RESULTS, ROOT, latest, markdown, put

SAMPLES, CACHE = (RESULTS / f"{name}.csv" for name in ("samples", "cache"))
# Each method with ViT-B/16 and ViT-L/14 as its authors trained them on Kinetics-400; of the probe there is no recipe.
TRAININGS = {
    "probe": "",
    "evl": "evl_vitb16_k400_8f",
    "ila": "ila_vitb16_k400_8f",
    "dist": "dist_vitb16_k400_8+16f",
    "zeroi2v": "zeroi2v_vitb16_k400_8f",
    "evl L/14": "evl_vitl14_k400_8f",
    "ila L/14": "ila_vitl14_k400_8f",
    "dist L/14": "dist_vitl14_k400_32+64f",
    "zeroi2v L/14": "zeroi2v_vitl14_k400_8f",
}
PROBE = Recipe(method="probe", sampling=Sampling(views=3))
CLASSES = 400
KINETICS = 240_000  # training videos
DAY = 86_400.0


@dataclass(frozen=True)
class Assumed:
    """What nobody measured here.

    Attributes:
        gpus: how many.
        cores: of the CPU, for each GPU.
        peak: 10^12 operations a second of a GPU, dense, in bf16; a multiply-add is two.
        utilisation: the share of it that is reached.
        epochs: of a method without a recipe.
        videos: to be labelled.
        megabytes: of one of them.
        days: in which they are to be labelled.
        disk: GB a second that the disk with cached features gives all processes together.
    """

    gpus: int = 8
    cores: int = 16
    peak: float = 312.0
    utilisation: float = 0.35
    epochs: int = 30
    videos: float = 1e9
    megabytes: float = 1.0
    days: float = 30.0
    disk: float = 5.0

    @property
    def multiply_adds(self) -> float:
        """Of a GPU in a second."""
        return self.peak * 1e12 / 2 * self.utilisation


def recipe_of(name: str) -> Recipe:
    """A recipe of TRAININGS."""
    return published_recipe(name).recipe if name else PROBE


def build(recipe: Recipe) -> Method:
    """The method without content, K = 400; one with a text head has it."""
    weights = backbone_info(recipe.backbone)
    with torch.device("meta"):
        return build_method(
            recipe.method, ViT(weights.config), CLASSES, recipe.sampling.frames, recipe.transform.size, recipe.options
        )


def method_step_multiply_adds(method: Method) -> int:
    """Multiply-adds of a training step of one video, with the way back."""
    video = torch.empty(1, method.frames, 3, *method.image_size, device="meta")
    method.train()

    def step() -> None:
        output = method(video)
        (output.logits.sum() + sum(output.losses.values())).backward()

    return step_multiply_adds(step)


def passes(method: Method) -> int:
    """How often a training step gathers the weights of a sharded backbone: on the way back too, if it goes through."""
    return 1 if type(method).frozen is not Method.frozen else 2


@dataclass(frozen=True)
class Cost:
    """What one method costs, a video.

    Attributes:
        recipe: how it is trained.
        info: what `muybridge info` says.
        step: multiply-adds of a training step.
        gathered: how often a step gathers a sharded backbone.
        train_cpu: CPU seconds of a training sample.
        test_cpu: CPU seconds of all test views; of one view in `view_cpu`.
    """

    recipe: Recipe
    info: Info
    step: int
    gathered: int
    train_cpu: float
    test_cpu: float
    view_cpu: float


def costs(names: Collection[str] = TRAININGS) -> dict[str, Cost]:
    """By the names of TRAININGS."""
    seconds = {(row["training"], row["part"]): float(row["cpu_s"]) for row in read_rows(SAMPLES)}
    found = {}
    for name in names:
        recipe = recipe_of(TRAININGS[name])
        method = build(recipe)
        cpu = [seconds[name, part] for part in ("train", "test", "one view")]
        found[name] = Cost(
            recipe, setting_info(recipe, CLASSES), method_step_multiply_adds(method), passes(method), *cpu
        )
    return found


def training_table(found: dict[str, Cost], assumed: Assumed) -> Iterator[list[str]]:
    """A training on Kinetics-400: by multiply-adds, and as far as CPUs can feed it."""
    head = ["method", "epochs", "G a video, step", "GPU-hours", f"h on {assumed.gpus} GPUs", "CPU s a video"]
    yield [*head, "cores a GPU to keep up", f"h with {assumed.cores} cores a GPU"]
    for name, cost in found.items():
        epochs = cost.recipe.train.epochs if TRAININGS[name] else assumed.epochs
        seen = KINETICS * epochs
        gpu = seen * cost.step / assumed.multiply_adds / assumed.gpus / 3600
        cpu = seen * cost.train_cpu / (assumed.cores * assumed.gpus) / 3600
        needed = assumed.multiply_adds / cost.step * cost.train_cpu
        figures = [f"{cost.step / 1e9:,.0f}", f"{gpu * assumed.gpus:,.0f}", f"{gpu:,.1f}", f"{cost.train_cpu:.3f}"]
        yield [name, str(epochs), *figures, f"{needed:,.0f}", f"{max(gpu, cpu):,.1f}"]


def cache_table(found: dict[str, Cost], assumed: Assumed) -> Iterator[list[str]]:
    """The same on cached features: computed once, read in every epoch."""
    sizes = {row["part"]: float(row["megabytes"]) for row in read_rows(CACHE) if row["part"] == row["method"]}
    head = ["method", "MB a video", "TB for one view", "min to compute", f"min an epoch at {assumed.disk:g} GB/s"]
    yield [*head, f"from videos, {assumed.gpus} GPUs", "from videos, 1 GPU"]
    for name in (name for name in found if name in sizes):
        cost = found[name]
        gpu = KINETICS * cost.info.multiply_adds_ours / assumed.multiply_adds / assumed.gpus / 60
        step = KINETICS * cost.step / assumed.multiply_adds / 60  # of one GPU
        cpu = KINETICS * cost.train_cpu / assumed.cores / 60
        size = sizes[name] * KINETICS
        figures = [f"{sizes[name]:,.3g}", f"{size / 1e6:,.3g}", f"{max(gpu, cpu / assumed.gpus):.1f}"]
        figures += [f"{size / 1e3 / assumed.disk / 60:,.2g}", f"{max(step, cpu) / assumed.gpus:.1f}"]
        yield [name, *figures, f"{max(step, cpu):.1f}"]


def exchange_table(found: dict[str, Cost]) -> Iterator[list[str]]:
    """What a process exchanges in a step."""
    yield ["method", "trained, M", "gradients, MB a step", "frozen blocks, MB", "gathered when sharded, MB a batch"]
    for name, cost in found.items():
        method = build(cost.recipe)
        blocks = sum(
            4 * parameter.numel()
            for block in method.backbone.blocks
            for part in (block.get_submodule("attn"), block.get_submodule("mlp"))
            for parameter in part.parameters()
        )
        trained = cost.info.trainable
        figures = [f"{trained / 1e6:.2f}", f"{4 * trained / 1e6:,.0f}" if trained > 1e6 else f"{4 * trained / 1e6:.1f}"]
        yield [name, *figures, f"{blocks / 1e6:,.0f}", f"{cost.gathered * blocks / 1e6:,.0f}"]


def labelling_table(found: dict[str, Cost], assumed: Assumed) -> Iterator[list[str]]:
    """A great many videos, each looked at once."""
    head = ["method", "views", "G a video", "CPU s a video", "GPU-years", "core-years"]
    yield [*head, f"GPUs for {assumed.days:g} days", "cores beside them", "cores a GPU"]
    for name, cost in found.items():
        for views, cpu in ((1, cost.view_cpu), (cost.info.views, cost.test_cpu)):
            work = views * cost.info.multiply_adds_ours
            gpu, core = assumed.videos * work / assumed.multiply_adds, assumed.videos * cpu
            gpus, cores = gpu / (assumed.days * DAY), core / (assumed.days * DAY)
            years = [f"{seconds / DAY / 365.25:,.1f}" for seconds in (gpu, core)]
            figures = [str(views), f"{work / 1e9:,.0f}", f"{cpu:.3f}", *years, f"{gpus:,.1f}", f"{cores:,.0f}"]
            yield [name, *figures, f"{cores / gpus:,.0f}"]


def volume_table(assumed: Assumed) -> Iterator[list[str]]:
    """What the videos themselves ask for, whichever method reads them."""
    yield ["videos", "CPU s to decode 8 frames", "core-years", f"cores for {assumed.days:g} days", "TB", "Gbit/s"]
    rows = latest("decode", "video", "rule", "decoder")
    rows = [row for row in rows if (row["rule"], row["decoder"]) == ("segments", "pyav")]
    for row in rows:
        core = assumed.videos * float(row["cpu_s"])
        # 1080p at 5 Mbit/s in place of the size that is assumed of a short clip.
        size = assumed.megabytes if row["video"].startswith("10 s") else 60 * 5 / 8
        volume = assumed.videos * size * 1e6
        years, cores = core / DAY / 365.25, core / (assumed.days * DAY)
        rate = volume * 8 / (assumed.days * DAY) / 1e9
        title = f"{row['video']}, {size:g} MB"
        yield [title, row["cpu_s"], f"{years:,.0f}", f"{cores:,.0f}", f"{volume / 1e12:,.0f}", f"{rate:,.1f}"]


def tables(found: dict[str, Cost], assumed: Assumed) -> dict[str, Iterator[list[str]]]:
    """All tables by the names of their places in the pages."""
    return {
        "training": training_table(found, assumed),
        "cache": cache_table(found, assumed),
        "labelling": labelling_table(found, assumed),
        "volume": volume_table(assumed),
        "exchange": exchange_table(found),
    }


def measure(repeats: int, videos: Path) -> None:
    """Write SAMPLES: CPU seconds to decode and transform a sample, one thread, mean of `repeats` draws."""
    from decode import VIDEOS, cpu, machine, make

    torch.set_num_threads(1)
    videos.mkdir(parents=True, exist_ok=True)
    path = videos / "10_s_340x256.mp4"
    if not path.exists():
        make(path, *VIDEOS["10 s 340x256"])
    rows = []
    for name, told in TRAININGS.items():
        recipe = recipe_of(told)
        sampling = recipe.sampling
        single = replace(sampling, views=1, crops=1)
        for part, used in (("train", sampling), ("test", sampling), ("one view", single)):
            sample = VideoDataset([Item(str(path), 0, path.name)], used, recipe.transform, part == "train", 0)
            sample[0, 0, 0]  # the file's index is known from then on
            # Other work on the machine only adds; draws differ.
            seconds = mean(min(cpu(lambda k=k, s=sample: s[k, 0, 0]) for _ in range(4)) for k in range(repeats))
            views = 1 if part == "train" else used.views * used.crops
            row = {"training": name, "part": part, "frames": used.frames, "views": views, "cpu_s": f"{seconds:.4f}"}
            print(*row.values(), sep="\t", flush=True)
            rows.append({**row, "repeats": repeats, "machine": machine()})
    SAMPLES.unlink(missing_ok=True)  # anew, and only now that all is measured
    for row in rows:
        append_row(SAMPLES, row)


def main() -> None:
    """Print the tables, write them into the pages, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = Assumed()
    parser.add_argument("--gpus", type=int, default=usual.gpus)
    parser.add_argument("--cores-per-gpu", type=int, default=usual.cores)
    parser.add_argument("--peak", type=float, default=usual.peak, help="10^12 operations a second of a GPU")
    parser.add_argument("--utilisation", type=float, default=usual.utilisation, help="share of the peak")
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="of the probe")
    parser.add_argument("--videos", type=float, default=usual.videos, help="to be labelled")
    parser.add_argument("--megabytes", type=float, default=usual.megabytes, help="of a video of 10 s")
    parser.add_argument("--days", type=float, default=usual.days, help="for the labelling")
    parser.add_argument("--disk", type=float, default=usual.disk, help="GB a second, for cached features")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("runs/decode"), help="where --measure keeps its video")
    given = parser.parse_args()
    if given.measure:
        measure(given.repeats, given.folder)
        return
    assumed = Assumed(
        given.gpus,
        given.cores_per_gpu,
        given.peak,
        given.utilisation,
        given.epochs,
        given.videos,
        given.megabytes,
        given.days,
        given.disk,
    )
    for name, rows in tables(costs(), assumed).items():
        text = markdown(rows)
        print(f"\n{name}\n{text}")
        if given.write:
            put(ROOT / "docs" / ("many-machines.md" if name == "exchange" else "planning.md"), name, text)


if __name__ == "__main__":
    main()
