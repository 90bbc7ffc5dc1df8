"""Features of the names of Kinetics-400 by CLIP's text tower: all 77 positions or those that are seen. Writes a CSV.

    python benchmarks/labels.py --out benchmarks/results/labels.csv

The tower of CLIP ViT-B/16 with random weights, 400 names, one template, fp32; interleaved rounds, medians.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from muybridge.backbones.text import TextTower, encode_labels
from muybridge.backbones.tokenizer import ClipTokenizer
from muybridge.backbones.weights import backbone_info
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row
from muybridge.measure.timing import interleaved
from muybridge.video.labels import known_labels


def main() -> None:
    """One row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    asked = parser.parse_args()
    torch.manual_seed(0)
    config = backbone_info("clip_vitb16").text
    assert config is not None
    tower, tokenizer, names = TextTower(config).eval(), ClipTokenizer(), known_labels("kinetics400")
    ids = tokenizer(names)

    def whole() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([tower(part) for part in ids.split(256)])

    def cut() -> torch.Tensor:
        return encode_labels(tower, tokenizer, names, normalised=False)

    difference = float((whole() - cut()).abs().max() / whole().abs().max())
    times = interleaved({"whole": whole, "cut": cut}, asked.rounds)
    row = {
        "names": len(names),
        "positions": ids.shape[1],
        "positions_seen": int(ids.argmax(dim=-1).max()) + 1,
        "whole_s": f"{times.median('whole'):.2f}",
        "cut_s": f"{times.median('cut'):.2f}",
        "ratio": f"{times.ratio('cut', 'whole'):.3f}",
        "difference": f"{difference:.1e}",
        **machine_facts(),
    }
    print(row)
    append_row(asked.out, row)


if __name__ == "__main__":
    main()
