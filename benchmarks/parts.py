"""Every quicker step beside its formula: what the `# Fast:` lines in the sources gain. Writes a CSV.

    python benchmarks/parts.py --out benchmarks/results/parts.csv           # all, about 5 minutes on one thread
    python benchmarks/parts.py --only evl dist --rounds 3 --out /tmp/parts.csv
    python benchmarks/parts.py --table                                      # the committed CSV into docs/performance.md

Sizes are those of CLIP ViT-B/16 with 2 videos of 8 frames of 224 px (DiST: 16, of which the backbone reads 8), fp32,
one thread. Both ways are called in turn in one process; `ratio` is ours over the formula's, the median within a round.
`saved` is what a forward pass or a training step of the method saves by all its steps of this kind, in times of the
bare backbone's forward pass. That both ways agree is checked first. `step`: forward and backward, with freed memory
kept as a training keeps it.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.activation import SLOPE, QuickGELU
from muybridge.backbones.vit import Attention, PatchEmbed, ViT
from muybridge.backbones.weights import backbone_info
from muybridge.engine.freed import freed_memory
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row
from muybridge.measure.timing import interleaved
from muybridge.methods import build_method
from muybridge.methods.alignment import AlignedLayer, ConvNorm
from muybridge.methods.evl import QueryAttention
from muybridge.methods.fused import add_to_tokens, frame_sum, mix, stretched_products
from muybridge.methods.integration import (
    Integration,
    PoolAttention,
    TemporalBlock,
    convolve_time,
    embed_dense,
    shifted_sum,
)
from muybridge.methods.local_temporal import TemporalConv, TemporalMatch, affinity_maps, stretch_index
from muybridge.methods.zeroi2v import LinearAdapter, ZeroI2V, fold_before
from muybridge.plain.dist import integration, pool_attention, temporal_block
from muybridge.plain.evl import displacement_index, query_attention, temporal_conv
from muybridge.plain.zeroi2v import adapt, shifted
from pages import ROOT, latest, markdown, parse, put

PAGE = "docs/performance.md"

B, T, ROWS, L, D, HEADS = 2, 8, 14, 197, 768, 12
GRID, P, N = (ROWS, ROWS), ROWS * ROWS, B * T
NARROW, MAPS = 384, 96  # DiST's channels of its integration branch and of its temporal encoder
NEAR = 1e-3  # of the largest value: what two orders of adding up may differ by in fp32
Call = Callable[[], Any]


@dataclass(frozen=True)
class Part:
    """A step in two ways.

    Attributes:
        what: the step.
        plain: its formula, in words.
        pass_: `forward`, `step` (forward and backward) or `merge`.
        times: how often a method does it in a forward pass or step, or when it is merged.
        ours: our way.
        formula: the other one; it is called first.
        seen: what makes our result comparable, where its axes are others.
    """

    what: str
    plain: str
    pass_: str
    times: int
    ours: Call
    formula: Call
    seen: Callable[[Any], Any] = lambda result: result


def step(function: Call, leaves: Sequence[Tensor]) -> Call:
    """A call that computes the result and the gradients of `leaves`, the result's being noise."""
    grad: list[Tensor] = []

    def run() -> tuple[Tensor, ...]:
        out = function()
        if not grad:
            grad.append(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
        return torch.autograd.grad(out, leaves, grad[0])

    return run


def frozen(call: Call) -> Call:
    """The call without gradients."""

    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def both(what: str, plain: str, times: int, ours: Call, formula: Call, leaves: Sequence[Tensor]) -> Iterator[Part]:
    """A forward pass without gradients, and a step."""
    yield Part(what, plain, "forward", times, frozen(ours), frozen(formula))
    yield Part(what, plain, "step", times, step(ours, leaves), step(formula, leaves))


def leaf(*shape: int, scale: float = 1.0) -> Tensor:
    """Noise that asks for a gradient."""
    return (scale * torch.randn(*shape)).requires_grad_()


def backbone_parts() -> Iterator[Part]:
    """Those of the image transformer, which all methods run."""
    act = QuickGELU()
    # So large that being changed in place again and again leaves it nearly as it is.
    large = 4 + 20 * torch.rand(N, L, 4 * D)
    yield Part(
        "QuickGELU in place, a stretch in the cache at a time",
        "one new tensor, three passes over all of it",
        "forward",
        12,
        lambda: act(large),
        lambda: F.silu(SLOPE * large, inplace=True).mul_(1 / SLOPE),
    )
    x = leaf(N, L, 4 * D)
    formula = step(lambda: F.silu(SLOPE * x) * (1 / SLOPE), [x])
    yield Part(
        "QuickGELU, forward and backward by stretches", "by autograd", "step", 12, step(lambda: act(x), [x]), formula
    )
    embed, images = PatchEmbed(backbone_info("clip_vitb16").config).requires_grad_(False), torch.randn(N, 3, 224, 224)
    yield Part(
        "patches by one matrix product",
        "a convolution",
        "forward",
        1,
        lambda: embed(images),
        lambda: embed.proj(images).flatten(2).transpose(1, 2),
    )
    attn, x = Attention(D, HEADS).requires_grad_(False), leaf(N, L, D)

    def permuted() -> Tensor:
        q, k, v = attn.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    yield Part(
        "attention: gradients of q, k and v in one copy",
        "one permuted view of q, k and v",
        "step",
        12,
        step(lambda: attn(x), [x]),
        step(permuted, [x]),
    )


def evl_parts() -> Iterator[Part]:
    """Those of EVL's four decoder layers."""
    q, k = torch.randn(2, N, HEADS, L, D // HEADS)
    scale = (D // HEADS) ** -0.5

    def at_once() -> Tensor:
        here, there = (x[:, :, 1:].unflatten(0, (B, T)) for x in (q, k))
        scores = [here[:, 1:] @ there[:, :-1].mT, here[:, :-1] @ there[:, 1:].mT]
        return torch.stack([(both * scale).softmax(dim=-1).mean(dim=2) for both in scores], dim=1)

    matches = frozen(lambda: affinity_maps(q, k, T, 1))
    yield Part("matches, a pair of frames at a time, in place", "all pairs at once", "forward", 4, matches, at_once)

    match, index = TemporalMatch(D, GRID), stretch_index(GRID)
    nn.init.normal_(match.previous)
    nn.init.normal_(match.next)
    affinity, displacement = torch.randn(B, 2, T - 1, P, P).softmax(dim=-1), displacement_index(GRID)
    tables = match.previous, match.next

    def gathered() -> Tensor:
        found = (torch.einsum("btpr,prd->btpd", affinity[:, i], table[displacement]) for i, table in enumerate(tables))
        return F.pad(next(found), (0, 0, 0, 0, 1, 0)) + F.pad(next(found), (0, 0, 0, 0, 0, 1))

    def whole() -> Tensor:
        bins = affinity.new_zeros(2, B, T, P, len(match.previous))
        bins[0, :, 1:].scatter_(-1, displacement.expand(B, T - 1, -1, -1), affinity[:, 0])
        bins[1, :, :-1].scatter_(-1, displacement.expand(B, T - 1, -1, -1), affinity[:, 1])
        return bins[0] @ match.previous + bins[1] @ match.next

    added = frozen(lambda: match.added(affinity, index))

    def in_frames(added: Tensor) -> Tensor:
        return added.permute(1, 2, 0, 3, 4).flatten(2, 3)

    what = "probabilities meet a stretch of a table"
    yield Part(what, "tables gathered for all pairs of patches", "forward", 4, added, frozen(gathered), in_frames)
    yield Part(what, "the whole of a table", "forward", 4, added, frozen(whole), in_frames)

    before, after = torch.rand(2, ROWS, N * ROWS, ROWS * (2 * ROWS - 1))
    stride = 2 * ROWS - 1

    def unfolded() -> Tensor:
        first, second = (table.unfold(0, before.shape[-1], stride).mT for table in tables)
        return torch.baddbmm(before @ first, after, second)

    ours = step(lambda: stretched_products(before, after, *tables, stride), tables)
    yield Part("the tables' gradients, summed where they lie", "by autograd", "step", 4, ours, step(unfolded, tables))

    x, conv, position = torch.randn(B, T, L, D), TemporalConv(D), leaf(T, D)
    extra = leaf(ROWS, B, T, ROWS, D)
    yield from both(
        "sum of branches, a frame at a time",
        "branch by branch",
        4,
        lambda: frame_sum(x, conv.weight, conv.bias, position, extra, 1),
        lambda: x + temporal_conv(conv, x) + position[:, None] + F.pad(in_frames(extra), (0, 0, 1, 0)),
        [conv.weight, conv.bias, position, extra],
    )
    asked, tokens = leaf(B, HEADS, D, scale=D**-0.5), leaf(B, T * L, D)
    yield Part(
        "what the query gathers: one product for the tokens' gradient",
        "by autograd",
        "step",
        4,
        step(lambda: mix(asked, tokens), [asked, tokens]),
        step(lambda: (asked @ tokens.mT).softmax(dim=-1) @ tokens, [asked, tokens]),
    )
    attention, norm, query = QueryAttention(D, D, HEADS), nn.LayerNorm(D), leaf(B, D)
    yield from both(
        "keys and values absorbed into one query",
        "all keys and values projected",
        4,
        lambda: attention(query, tokens, norm),
        lambda: query_attention(attention, query, norm(tokens))[0],
        [query, tokens, attention.v.weight, norm.weight],
    )


def ila_parts() -> Iterator[Part]:
    """Those of the alignments before ILA's twelve blocks."""
    layer = AlignedLayer(D, GRID, 1)
    for linear in (layer.skip, layer.skip_aligned):
        nn.init.normal_(linear.weight, std=0.02)
    module, f, x = layer.alignment, leaf(B, T, L, D), leaf(B, T, L, D)

    first = module.interaction[0].conv

    def side_by_side() -> Tensor:
        pairs = torch.cat([f[:, :-1, 1:], f[:, 1:, 1:]], dim=-1).flatten(0, 1)  # [B * (T - 1), P, 2 D]
        return first(pairs.unflatten(1, GRID).permute(0, 3, 1, 2))

    def read_as_pairs() -> Tensor:
        return module.interaction[0].convolve(f, first.weight, first.bias)

    leaves = [f, first.weight, first.bias]
    ours, formula = step(read_as_pairs, leaves), step(side_by_side, leaves)
    yield Part("convolution of neighbours, gradients in one map", "by autograd", "step", 12, ours, formula)

    conv = ConvNorm(2 * D, 256, 1, 1, False).eval()
    maps = torch.randn(B * (T - 1), 2 * D, *GRID).contiguous(memory_format=torch.channels_last).requires_grad_()
    yield from both(
        "1 x 1 convolution as a matrix product",
        "a convolution",
        12,
        lambda: conv.convolve(maps, conv.conv.weight, conv.conv.bias),
        lambda: conv.conv(maps),
        [maps, conv.conv.weight],
    )
    with torch.no_grad():
        pairs = module.look(f)
    yield from both(
        "what is added to the tokens: `fc` and the skip multiplied first, one sum",
        "term by term",
        12,
        lambda: layer.add(x, f, pairs),
        lambda: x + layer.skip_aligned(module.aligned(f, pairs)) + layer.skip(module.inter(f, pairs)),
        [x, f, layer.skip.weight, layer.skip_aligned.weight, module.fc.weight],
    )
    y, patches, prefix = leaf(B, T, L, D), leaf(B, T, P, D), leaf(B, T, 1, D)
    yield Part(
        "that sum alone, whose gradients are views",
        "by autograd",
        "step",
        12,
        step(lambda: add_to_tokens(x, y, patches, prefix), [x, y, patches, prefix]),
        step(lambda: x + y + torch.cat([prefix, patches], dim=2), [x, y, patches, prefix]),
    )

    def pooled() -> Tensor:
        earlier = (f[:, :-1, 1:] * pairs.earlier[..., None]).sum(dim=2)
        later = (f[:, 1:, 1:] * pairs.later[..., None]).sum(dim=2)
        return (1 - F.cosine_similarity(earlier, later, dim=-1)).mean()

    ours = step(lambda: module.loss(f, pairs), [f])
    yield Part("masked sums of the loss in one product", "masked, then summed", "step", 12, ours, step(pooled, [f]))


def dist_parts() -> Iterator[Part]:
    """Those of DiST's twelve layers and four layers of pooling."""
    video, stem = torch.randn(B, 2 * T, 3, 224, 224), nn.Conv3d(3, MAPS, (5, 16, 16), (1, 16, 16), (2, 0, 0))
    yield from both(
        "dense frames embedded by one product, shifted",
        "a convolution over space and time",
        1,
        lambda: embed_dense(video, stem),
        lambda: stem(video.transpose(1, 2)).permute(0, 2, 3, 4, 1),
        [stem.weight, stem.bias],
    )
    x, conv = leaf(B, 2 * T, *GRID, MAPS), nn.Conv3d(MAPS, MAPS, (3, 1, 1), padding=(1, 0, 0))
    yield from both(
        "convolution over time by one product, shifted",
        "a convolution",
        24,
        lambda: convolve_time(x, conv),
        lambda: conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1),
        [x, conv.weight, conv.bias],
    )
    taps, bias = leaf(B, 2 * T, *GRID, 3, MAPS), leaf(MAPS)

    def slices() -> Tensor:
        out = taps[..., 1, :] + bias
        out[:, 1:] += taps[:, :-1, ..., 0, :]
        out[:, :-1] += taps[:, 1:, ..., 2, :]
        return out

    ours = step(lambda: shifted_sum(taps, bias), [taps, bias])
    yield Part("the shifts' gradient, written once", "by autograd", "step", 24, ours, step(slices, [taps, bias]))

    block = TemporalBlock(MAPS, MAPS, 3)
    first = x.detach().permute(0, 4, 1, 2, 3).contiguous().requires_grad_()
    parameters = [block.conv_time.weight, block.conv_space.weight, block.norm.weight]
    yield Part(
        "temporal block, channels last",
        "convolutions over space and time",
        "step",
        12,
        step(lambda: block(x), parameters),
        step(lambda: temporal_block(block, first).permute(0, 2, 3, 4, 1), parameters),
    )
    part, u = Integration(NARROW, NARROW, NARROW // 4, 3), leaf(B, T, L, NARROW)
    yield from both(
        "integration: one normalised input, one first product",
        "norm by norm",
        12,
        lambda: part(u),
        lambda: integration(part, u),
        [u, part.mlp.fc1.weight, part.temporal_mlp.fc1.weight, part.norm.weight],
    )
    attention, query, tokens = PoolAttention(NARROW, 6), leaf(N, NARROW), leaf(N, L, NARROW)
    with torch.no_grad():
        z = F.layer_norm(tokens, (NARROW,))
    yield from both(
        "pooling: keys and values absorbed into one query",
        "all keys and values projected",
        4,
        lambda: attention(query, z),
        lambda: pool_attention(attention, query, tokens),
        [query, attention.qkv.weight, attention.norm.weight],
    )


def zeroi2v_parts() -> Iterator[Part]:
    """Those of ZeroI2V's twelve blocks."""
    adapter, z, residual = LinearAdapter(D, D // 4, 0.5, 0.0), leaf(N, L, D), leaf(N, L, D)
    nn.init.normal_(adapter.fc2.weight, std=0.02)
    leaves = [z, *adapter.parameters()]
    ours = step(lambda: adapter(z, residual), [residual, *leaves])
    formula = step(lambda: residual + adapt(adapter, z), [residual, *leaves])
    yield Part("adapter, added to the residual where it is made", "product, scale and sums", "step", 24, ours, formula)
    ours, formula = step(lambda: adapter(z), leaves), step(lambda: adapt(adapter, z), leaves)
    yield Part("adapter, added where it is made", "product, scale and sum", "step", 24, ours, formula)

    config = replace(backbone_info("clip_vitb16").config, depth=1, width=D, heads=HEADS, mlp_hidden=4 * D)
    model = build_method("zeroi2v", ViT(config), 2, T, (224, 224), {})
    assert isinstance(model, ZeroI2V)
    attn, x = model.backbone.blocks[0].get_submodule("attn"), torch.randn(N, L, D)

    def attend(shift: Callable[[Tensor], Tensor]) -> Call:
        return frozen(lambda: attn(x, lambda q, k, v: (q, shift(k), shift(v))))

    def joined(k: Tensor) -> Tensor:
        with torch.enable_grad():  # as in training, where nothing is written over
            return model.shift(k)

    what = "attention with shifts in place"
    yield Part(what, "slices joined anew", "forward", 12, attend(model.shift), attend(joined))
    by_frame = partial(shifted, shifts=model.shifts, frames=T)
    yield Part(what, "frame by frame", "forward", 12, attend(model.shift), attend(by_frame))

    y = leaf(N, L, D)

    def attend_and_back(shift: Callable[[Tensor], Tensor]) -> Call:
        return step(lambda: attn(y, lambda q, k, v: (q, shift(k), shift(v))), [y])

    yield Part(what, "frame by frame", "step", 12, attend_and_back(model.shift), attend_and_back(by_frame))

    linear = nn.Linear(D, 4 * D)
    weight = linear.weight.detach()

    def fold() -> Tensor:
        linear.weight = nn.Parameter(weight, requires_grad=False)
        fold_before(linear, adapter)
        return linear.weight

    def product() -> Tensor:
        u, v, _ = adapter.factors()
        return (weight.double() @ (torch.eye(D, dtype=torch.float64) + u @ v)).float()

    yield Part("merging by low rank", "the adapter as a square matrix", "merge", 12, frozen(fold), frozen(product))


PARTS = {
    "backbone": backbone_parts,
    "evl": evl_parts,
    "ila": ila_parts,
    "dist": dist_parts,
    "zeroi2v": zeroi2v_parts,
}


def difference(part: Part) -> float:
    """The largest difference of the two results, of the largest value of its tensor."""
    wanted = part.formula()
    found = part.seen(part.ours())
    pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
    return max(float((mine - theirs).abs().max() / theirs.abs().max()) for mine, theirs in pairs)


def measure(method: str, part: Part, rounds: int, backbone: float) -> dict[str, Any]:
    """A row of the CSV; `backbone` in seconds."""
    away = difference(part)
    assert away < NEAR, f"{part.what}: the two ways differ by {away:.2g}"
    with freed_memory(saving=False) if part.pass_ == "step" else nullcontext():
        times = interleaved({"ours": part.ours, "formula": part.formula}, rounds)
    ours, formula = times.median("ours"), times.median("formula")
    return {
        "method": method,
        "part": part.what,
        "formula": part.plain,
        "pass": part.pass_,
        "ours_ms": f"{1e3 * ours:.2f}",
        "formula_ms": f"{1e3 * formula:.2f}",
        "ratio": f"{times.ratio('ours', 'formula'):.2f}",
        "times": part.times,
        "saved": f"{part.times * (formula - ours) / backbone:.3f}" if part.pass_ != "merge" else None,
        "difference": f"{away:.0e}",
        "backbone_ms": f"{1e3 * backbone:.0f}",
        "rounds": rounds,
    }


def table() -> str:
    """The committed CSV in Markdown."""
    lines = [["", "ours", "in place of", "pass", "ours, ms", "formula, ms", "ratio", "saved"]]
    for row in latest("parts", "method", "part", "formula", "pass"):
        words = [row["method"], row["part"], row["formula"], row["pass"]]
        times = [f"{float(row[name]):.3g}" for name in ("ours_ms", "formula_ms")]
        saved = f"{float(row['saved']):.2f}".replace("-0.00", "0.00") if row["saved"] else ""
        lines.append([*words, *times, f"**{row['ratio']}**", saved])
    return markdown(lines, words=4)


def bare_seconds() -> float:
    """The bare backbone's forward pass."""
    vit, images = ViT(backbone_info("clip_vitb16").config), torch.randn(N, 3, 224, 224)
    return interleaved({"backbone": frozen(lambda: vit(images))}, 3).median("backbone")


def main() -> None:
    """One row a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=list(PARTS), choices=PARTS, metavar="METHOD", help=", ".join(PARTS)
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    asked = parse(parser, PAGE, lambda: put(ROOT / PAGE, "parts", table()))
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    for method in asked.only:
        backbone = bare_seconds()  # anew: the machine may have become slower
        for part in PARTS[method]():
            row = measure(method, part, asked.rounds, backbone) | machine_facts()
            print(*list(row.values())[:9], sep="  ", flush=True)
            append_row(asked.out, row)
            gc.collect()


if __name__ == "__main__":
    main()
