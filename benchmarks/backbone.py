"""Our image transformer beside transformers' CLIPVisionModel (sdpa) with the same weights, forward pass. Writes a CSV.

    pip install transformers
    python benchmarks/backbone.py --out benchmarks/results/backbone.csv
    python benchmarks/backbone.py --table            # the committed CSV into docs/performance.md

CLIP ViT-B/16, random weights, images of 224 px, fp32, no gradients; interleaved rounds in one process, medians. `ratio`
is our time over theirs. Both return the normed class token; that they agree is checked first.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from muybridge.backbones.convert import from_source
from muybridge.backbones.vit import ViT
from muybridge.measure.machine import machine_facts
from muybridge.measure.timing import interleaved

ROOT = Path(__file__).parents[1]
CSV, PAGE = ROOT / "benchmarks/results/backbone.csv", ROOT / "docs/performance.md"
BEGIN, END = "<!-- backbone: begin -->", "<!-- backbone: end -->"
FIELDS = ("images", "transformers_ms", "ours_ms", "ratio", "difference", "transformers")


def table() -> str:
    """The committed CSV in Markdown."""
    lines = ["| images | threads | transformers | ours | ratio |", "| ---: | ---: | ---: | ---: | ---: |"]
    with CSV.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cells = [
                row["images"],
                row["threads"],
                f"{row['transformers_ms']} ms",
                f"{row['ours_ms']} ms",
                row["ratio"],
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """One row a number of images and threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", action="store_true", help="put the committed CSV into docs/performance.md")
    asked = parser.parse_args()
    if asked.table:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(f"{page.split(BEGIN)[0]}{BEGIN}\n{table()}\n{END}{page.split(END)[1]}", encoding="utf-8")
        return
    if asked.out is None:
        parser.error("give --out FILE or --table")
    import transformers
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    shape = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    theirs = CLIPVisionModel._from_config(shape, attn_implementation="sdpa").eval()
    state = {
        f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in theirs.state_dict().items()
    }
    converted = from_source(state, "hf_clip", heads=12, activation="quick_gelu")
    ours = ViT(converted.config).eval()
    ours.load_state_dict(converted.vision)

    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*FIELDS, *machine_facts()])
        for threads in asked.threads:
            torch.set_num_threads(threads)
            for count in asked.images:
                images = torch.randn(count, 3, 224, 224)
                with torch.inference_mode():
                    wanted, found = theirs(images).pooler_output, ours(images)
                    difference = float((wanted - found).abs().max() / wanted.abs().max())
                    assert difference < 1e-4, f"the two differ by {difference:.2g}"
                    calls = {"theirs": lambda x=images: theirs(x), "ours": lambda x=images: ours(x)}
                    times = interleaved(calls, asked.rounds)
                milliseconds = [f"{1e3 * times.median(name):.1f}" for name in ("theirs", "ours")]
                ratio = f"{times.ratio('ours', 'theirs'):.3f}"
                row = [count, *milliseconds, ratio, f"{difference:.1e}", transformers.__version__]
                writer.writerow([*row, *machine_facts().values()])
                print(row, f"{threads} threads", flush=True)


if __name__ == "__main__":
    main()
