"""A model's figures for people and for programs, and beside them what others state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from muybridge.info.model import Info
from muybridge.methods import METHODS
from muybridge.recipes import PublishedRecipe, published_recipe, recipe_names
from muybridge.recipes.library import OURS, Stated

TOLERANCE = 0.005  # of multiply-adds: papers round, and count a product here and there otherwise


@dataclass(frozen=True)
class Comparison:
    """A stated figure beside ours.

    Attributes:
        stated: what others state.
        ours: the same count of our model.
        agrees: parameters at the printed precision, multiply-adds within 0.5 %.
    """

    stated: Stated
    ours: int | None
    agrees: bool


def compare(info: Info, published: PublishedRecipe) -> list[Comparison]:
    """Every figure that is stated of a published model beside ours."""
    rows = []
    for stated in published.stated:
        ours = info.figure(stated.figure)
        multiplied = stated.figure.startswith("multiply_adds")
        margin = max(TOLERANCE * stated.number, stated.precision) if multiplied else stated.precision
        agrees = ours is not None and abs(ours + stated.extra - stated.number) <= margin
        rows.append(Comparison(stated, ours, agrees))
    return rows


def to_dict(info: Info) -> dict[str, Any]:
    """Every figure as JSON can hold it, sums included, and of a published recipe what others state."""
    plain = asdict(info)
    plain["image_size"] = list(info.image_size)
    plain["total"] = info.total
    plain["memory"]["total"] = info.memory.total
    plain["multiply_adds_all_views"] = None if info.multiply_adds is None else info.multiply_adds * info.views
    plain["multiply_adds_ours_all_views"] = info.multiply_adds_ours * info.views
    if info.name in recipe_names():
        published = published_recipe(info.name)
        plain["published"] = {name: getattr(published, name) for name in ("top1", "top5", "gflops", "gflops_means")}
        plain["published"] |= {"source": published.source, "reproduced": published.reproduced}
        plain["stated"] = [
            {**asdict(row.stated), "number": row.stated.number, "ours": row.ours, "agrees": row.agrees}
            for row in compare(info, published)
        ]
    return plain


def describe(info: Info) -> RenderableType:
    """Tables for the terminal: the model's figures and, of a published recipe, those that others state beside them."""
    published = published_recipe(info.name) if info.name in recipe_names() else None
    title = Text.assemble((info.name or info.method, "bold cyan"), "  ", (METHODS[info.method].title, "dim"))
    parts: list[RenderableType] = [title, _figures(info, published)]
    if published is not None and published.stated:
        parts.append(_comparison(compare(info, published)))
    if published is not None and published.notes:
        notes = Table(box=None, show_header=False, padding=(0, 1), title="Notes", title_justify="left")
        for note in published.notes:
            notes.add_row("·", Text(note))
        parts.append(notes)
    return Group(*parts)


def _figures(info: Info, published: PublishedRecipe | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    height, width = info.image_size
    table.add_row("reads", f"{info.frames} x {height} x {width}", f"frames x pixels; {info.views} views of a video")
    table.add_row("backbone", info.backbone, f"{info.classes} classes")
    if published is not None and published.top1 is not None:
        top5 = "" if published.top5 is None else f" / {published.top5:.1f}"
        table.add_row("top-1 / top-5" if top5 else "top-1", f"{published.top1:.1f}{top5} %", _provenance(published))
    table.add_section()
    table.add_row("parameters", _millions(info.total), "read in a prediction, all parts")
    table.add_row("  trainable", _millions(info.trainable), f"{info.trainable / info.total:.1%} of them")
    table.add_row("  backbone", _millions(info.backbone_read), "what the method reads of it")
    table.add_row("  beside it", _millions(info.own), "")
    if info.text:
        table.add_row("  text tower", _millions(info.text), "runs once for a set of class names")
    if info.merged is not None:
        table.add_row("  merged", _millions(info.merged), "adapters multiplied into the backbone")
    table.add_section()
    for name, number, meaning in (
        ("multiply-adds", info.multiply_adds, "a view, the paper's arithmetic"),
        ("  merged", info.multiply_adds_merged, "likewise, merged"),
        ("  here", info.multiply_adds_ours, "a view, as this library computes it"),
        ("  all views", info.multiply_adds_ours * info.views if info.views > 1 else None, f"{info.views} views, here"),
    ):
        if number is not None:
            table.add_row(name, _billions(number), meaning)
    if published is not None and published.gflops is not None:
        table.add_row("  as printed", f"{published.gflops:,g} G", published.gflops_means)
    table.add_section()
    memory = info.memory
    videos = "1 video" if memory.batch == 1 else f"{memory.batch} videos"
    table.add_row("training memory", _gigabytes(memory.total), f"a step of {videos} in fp32, estimated")
    table.add_row("  activations", _gigabytes(memory.activations), "grow with the batch; halved by bf16, nearly")
    return table


def _comparison(rows: list[Comparison]) -> Table:
    table = Table(title="Stated by others", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("figure")
    table.add_column("stated", justify="right", no_wrap=True)
    table.add_column("ours", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("where", style="dim")
    for row in rows:
        stated = row.stated
        ours = "-" if row.ours is None else _like(row.ours, stated)
        mark = Text("agrees", "green") if row.agrees else Text("differs", "bold red")
        where = "nowhere; our count" if stated.place == OURS else stated.place
        table.add_row(
            stated.figure.replace("_", " "), stated.value, ours, mark, "; ".join(filter(None, (where, stated.note)))
        )
    return table


def _provenance(published: PublishedRecipe) -> str:
    return published.source if published.reproduced else f"published, not reproduced here: {published.source}"


def _like(ours: int, stated: Stated) -> str:
    """Our figure in the unit and with the digits of the stated one."""
    text, _, unit = stated.value.partition(" ")
    digits = len(text.partition(".")[2])
    return f"{ours / {'': 1, 'M': 1e6, 'G': 1e9}[unit]:,.{digits}f} {unit}".strip()


def _millions(number: int) -> str:
    return f"{number / 1e6:,.2f} M"


def _billions(number: int) -> str:
    return f"{number / 1e9:,.1f} G"


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.2f} GB"
