"""Our image transformer beside transformers' CLIPVisionModel (sdpa) with the same weights, forward pass. Writes a CSV.

    pip install transformers
    python benchmarks/backbone.py --out benchmarks/results/backbone.csv
    python benchmarks/backbone.py --table            # the committed CSV into docs/performance.md

CLIP ViT-B/16, random weights, images of 224 px, fp32, no gradients; interleaved rounds in one process, medians. `ratio`
is our time over theirs. Both return the normed class token; that they agree is checked first.
"""

from __future__ import annotations

import argparse

import torch

from muybridge.backbones.convert import from_source
from muybridge.backbones.vit import ViT
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row
from muybridge.measure.timing import interleaved
from pages import ROOT, latest, markdown, parse, put

PAGE = "docs/performance.md"


def table() -> str:
    """The committed CSV in Markdown."""
    lines = [["images", "threads", "transformers", "ours", "ratio"]]
    for row in latest("backbone", "images", "threads"):
        times = [f"{row[name]} ms" for name in ("transformers_ms", "ours_ms")]
        lines.append([row["images"], row["threads"], *times, row["ratio"]])
    return markdown(lines, words=0)


def main() -> None:
    """One row a number of images and threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    asked = parse(parser, PAGE, lambda: put(ROOT / PAGE, "backbone", table()))
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
            row = {
                "images": count,
                "transformers_ms": f"{1e3 * times.median('theirs'):.1f}",
                "ours_ms": f"{1e3 * times.median('ours'):.1f}",
                "ratio": f"{times.ratio('ours', 'theirs'):.3f}",
                "difference": f"{difference:.1e}",
                "transformers": transformers.__version__,
                **machine_facts(),
            }
            print(row, flush=True)
            append_row(asked.out, row)


if __name__ == "__main__":
    main()
