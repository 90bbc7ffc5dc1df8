"""Fused attention against its products in bf16 on the CPU, forward and backward: the reason for `vit.attend`.

python benchmarks/attention.py --out benchmarks/results/attention.csv
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.measure.table import append_row

SIZES = ((160, 37), (16, 197), (8, 257), (8, 577))  # images, tokens


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1) @ v


def seconds(attend: object, images: int, tokens: int) -> float:
    """Forward and backward, once, of 6 heads of 64 channels."""
    qkv = torch.randn(images, tokens, 3, 6, 64, dtype=torch.bfloat16, requires_grad=True)
    begun = time.perf_counter()
    attend(*qkv.permute(2, 0, 3, 1, 4).unbind(0)).sum().backward()  # type: ignore[operator]
    return time.perf_counter() - begun


def main() -> None:
    """Interleaved repetitions, medians, ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    out = parser.parse_args().out
    for images, tokens in SIZES:
        pairs = [
            (seconds(F.scaled_dot_product_attention, images, tokens), seconds(products, images, tokens))
            for _ in range(6)
        ][1:]
        fused, ours = (median(times) for times in zip(*pairs, strict=True))
        row = {"images": images, "tokens": tokens, "fused_s": f"{fused:.4f}", "products_s": f"{ours:.4f}"}
        row |= {"ratio": f"{fused / ours:.2f}", "threads": torch.get_num_threads()}
        row |= {"cores": os.cpu_count(), "torch": torch.__version__}
        print(row, flush=True)
        append_row(out, row)


if __name__ == "__main__":
    main()
