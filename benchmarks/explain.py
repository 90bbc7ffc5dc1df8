"""How much of each kind of heat lies on the toy that moves, in films of the demo. Writes a CSV.

    muybridge demo --out muybridge-demo
    python benchmarks/explain.py --demo muybridge-demo --out benchmarks/results/explain.csv    # about a minute
    python benchmarks/explain.py --table             # the committed CSV into docs/explain.md

Validation films of the four classes in which one toy goes sideways, up or down; each film's own class is explained.
Where the toy is, the renderer tells: a film is drawn again with the toy in other colours, and what differs is the toy
(its shadow is not). A share is that of the film's whole map, all frames; the mean over the films, with its standard
error.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import muybridge
from muybridge.demo.films import PAIRS, Film, FilmPlan, plan_film, render
from muybridge.demo.scenes import Take
from muybridge.errors import BadInput
from muybridge.explain import Explanation
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row, read_rows
from pages import RESULTS, ROOT, markdown, put

LABELS = (*PAIRS["across"], *PAIRS["lift"])
WAYS = ("attention", "rollout", "gradient")
MODELS = {"evl": "`evl`", "ordered": "the frames' features side by side, linear", "probe": "`probe`"}  # the demo's
TURNS = (120, 240)  # degrees of hue: two, since a colour that is clipped may stay the same in one of them


def toy_of(plan: FilmPlan) -> Tensor:
    """1 where the toy is, 0 elsewhere: float32 [T, S, S]."""
    first = render(plan)
    found = np.zeros(first.shape[:3], bool)
    for turn in TURNS:
        found |= (render(replace(plan, takes=tuple(_turned(take, turn) for take in plan.takes))) != first).any(-1)
    return torch.from_numpy(found).float()


def _turned(take: Take, turn: int) -> Take:
    skin = replace(take.thing.skin, hue=take.thing.skin.hue + turn)
    return replace(take, thing=replace(take.thing, skin=skin))


def shares(seen: Explanation, toy: Tensor) -> tuple[float, float]:
    """(share of the heat on the toy, share of the picture that the toy covers), within what the model reads."""
    top, left, height, width = (round(number) for number in seen.box)
    frames = [frame.index for frame in seen.frames]
    part = toy[frames, top : top + height, left : left + width]
    # A patch that the toy covers by half counts half of its heat.
    covered = torch.nn.functional.interpolate(part[None], seen.map.shape[1:], mode="area")[0]  # [T, rows, columns]
    return float((seen.map * covered).sum() / seen.map.sum()), float(part.mean())


def measure(folder: Path, name: str, films: list[tuple[str, Film, Tensor]]) -> list[dict[str, object]]:
    """A row for each way that the model has."""
    recogniser = muybridge.load(folder / name, "cpu")
    rows: list[dict[str, object]] = []
    for way in WAYS:
        try:
            seen = [
                shares(recogniser.explain(frames, label, way, importance=False), toy) for label, frames, toy in films
            ]
        except BadInput:
            continue  # a probe has no attention of its own
        on_toy, covers = np.array(seen).T
        error = on_toy.std(ddof=1) / len(seen) ** 0.5
        row: dict[str, object] = {"model": name, "way": way, "films": len(seen)}
        row |= {
            "on_toy": f"{on_toy.mean():.4f}",
            "standard_error": f"{error:.4f}",
            "toy_covers": f"{covers.mean():.4f}",
        }
        rows.append(row | machine_facts())
        print(*list(row.values()), sep="  ", flush=True)
    return rows


def table() -> str:
    """The committed CSV in Markdown; of rows that were measured twice, the latest."""
    rows = {(row["model"], row["way"]): row for row in read_rows(RESULTS / "explain.csv")}
    some = next(iter(rows.values()))
    covers = _percent(some["toy_covers"])
    said = f"In these {some['films']} films the toy covers {covers} of the picture. Of the heat there lies on it:"
    lines = [["model", *(f"`{way}`" for way in WAYS)]]
    for name, title in MODELS.items():
        cells = [_percent(rows[name, way]["on_toy"]) if (name, way) in rows else "-" for way in WAYS]
        lines.append([title, *cells])
    return f"{said}\n\n{markdown(lines)}"


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("muybridge-demo"), help="what `muybridge demo` wrote")
    parser.add_argument("--films", type=int, default=8, help="of each of the four classes, at most 20")
    parser.add_argument("--out", type=Path, help="CSV to append to")
    parser.add_argument("--table", action="store_true", help="put the committed CSV into docs/explain.md")
    asked = parser.parse_args()
    if asked.table:
        put(ROOT / "docs/explain.md", "explain", table())
        return
    if asked.out is None:
        parser.error("give --out FILE or --table")
    if not (asked.demo / "evl").is_dir():
        parser.error(f"there is no {asked.demo / 'evl'}; make it: muybridge demo --out {asked.demo}")
    torch.set_num_threads(1)
    films = []
    for label in LABELS:
        for index in range(asked.films):
            plan = plan_film(label, "val", index)
            films.append((label, render(plan), toy_of(plan)))
    for name in MODELS:
        for row in measure(asked.demo, name, films):
            append_row(asked.out, row)


if __name__ == "__main__":
    main()
