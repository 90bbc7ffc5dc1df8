"""`muybridge list`, `muybridge info` and `muybridge convert`: what there is, what it costs, and other formats."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from muybridge.cli.app import Loading, app
from muybridge.errors import BadInput

DEFAULT = Loading()


@app.command(name="list")
def list_names(what: str = "all", /, *, json: bool = False) -> None:
    """The methods, backbones and published recipes that there are.

    Args:
        what: 'methods', 'backbones', 'recipes' or 'all'.
        json: print as JSON.
    """
    from dataclasses import asdict

    from muybridge.backbones.weights import BACKBONES
    from muybridge.errors import unknown
    from muybridge.methods import METHODS
    from muybridge.recipes import published_recipe, recipe_names, to_dict

    choices = ("methods", "backbones", "recipes", "all")
    if what not in choices:
        raise unknown("list", what, choices)
    if json:
        names: dict[str, Any] = {}
        if what in ("methods", "all"):
            names["methods"] = {name: asdict(kind.Config()) for name, kind in METHODS.items()}
        if what in ("backbones", "all"):
            names["backbones"] = {name: asdict(entry.config) for name, entry in BACKBONES.items()}
        if what in ("recipes", "all"):
            names["recipes"] = {name: to_dict(published_recipe(name)) for name in recipe_names()}
        print(json_module.dumps(names, indent=2))
        return
    console = Console()
    if what in ("methods", "all"):
        console.print(_methods())
    if what in ("backbones", "all"):
        console.print(_backbones())
    if what in ("recipes", "all"):
        console.print(_recipes())


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "name")  # names are to be copied whole
    return table


def _methods() -> Table:
    from dataclasses import asdict

    from muybridge.methods import METHODS

    table = _table("methods", "name", "what it is", "options (--<method>.<option>)")
    for name, kind in METHODS.items():
        options = ", ".join(f"{option}={value}" for option, value in asdict(kind.Config()).items())
        table.add_row(name, kind.title, options)
    return table


def _backbones() -> Table:
    from muybridge.backbones.weights import BACKBONES

    table = _table("backbones", "name", "width x depth", "patch", "px", "licence", "source")
    for name, entry in BACKBONES.items():
        config = entry.config
        size = f"{config.width} x {config.depth}"
        table.add_row(name, size, str(config.patch[0]), str(config.image_size[0]), entry.licence, entry.repo)
    return table


def _recipes() -> Table:
    from muybridge.recipes import published_recipe, recipe_names

    title = "published recipes (top-1 and top-5 as their authors published them; none is reproduced here yet)"
    table = _table(title, "name", "data set", "frames", "views", "top-1", "top-5")
    for name in recipe_names():
        entry = published_recipe(name)
        sampling = entry.recipe.sampling
        top1, top5 = (f"{value:.1f}" if value else "-" for value in (entry.top1, entry.top5))
        table.add_row(name, entry.dataset, str(sampling.frames), f"{sampling.views}x{sampling.crops}", top1, top5)
    return table


@app.command
def info(
    what: str,
    /,
    *,
    classes: int = 400,
    batch: int = 1,
    loading: Loading = DEFAULT,
    json: bool = False,
) -> None:
    """Parameters, multiply-adds and training memory of a recipe, a run or a checkpoint.

    Args:
        what: name of a published recipe (`muybridge list recipes`), recipe file, run folder, or published checkpoint.
        classes: how many, for a recipe file.
        batch: videos in a training step, for the memory.
        json: print as JSON.
    """
    from muybridge.engine.checkpoint import is_model, read_spec
    from muybridge.info import describe, model_info, recipe_info, setting_info, to_dict
    from muybridge.recipes import find_recipe, recipe_names

    path = Path(what)
    if what in recipe_names():
        found = recipe_info(what, batch)
    elif path.suffix in (".json", ".yaml", ".yml") or not path.exists():
        found = setting_info(find_recipe(what), classes, batch)
    else:
        from muybridge.backbones.text import TextConfig
        from muybridge.backbones.vit import ViTConfig
        from muybridge.recipes import from_dict

        if path.is_dir() or is_model(path):
            spec = read_spec(path)
        else:
            spec = loading.load(path).spec
        found = model_info(
            spec.method,
            from_dict(ViTConfig, spec.backbone_config),
            len(spec.labels),
            spec.sampling.frames,
            spec.transform.size,
            spec.options,
            views=spec.sampling.views * spec.sampling.crops,
            text=from_dict(TextConfig, spec.text_config) if spec.text_config else None,
            batch=batch,
            backbone=spec.backbone,
        )
    if json:
        print(json_module.dumps(to_dict(found), indent=2))
    else:
        Console().print(describe(found))


@app.command
def convert(
    file: Path,
    /,
    *,
    out: Path,
    loading: Loading = DEFAULT,
    text: bool = True,
    to: str = "muybridge",
) -> None:
    """Read a published checkpoint strictly and write it as a run folder, or the other way round.

    Args:
        file: a published checkpoint (EVL, ILA, DiST, ZeroI2V) or a run folder.
        out: the run folder to write, or with --to published the file.
        text: keep the text tower, where the checkpoint has one, so that other class names can be given later.
        to: 'muybridge' for a run folder, 'published' for a .pth file in the format of the paper's authors.
    """
    from muybridge.errors import unknown

    if to not in ("muybridge", "published"):
        raise unknown("format", to, ("muybridge", "published"))
    if out.exists() and (to == "published" or not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists already; nothing is written over. Give another --out.")
    recogniser = loading.load(file)
    spec = recogniser.spec
    if to == "published":
        import torch

        from muybridge.engine.checkpoint import write_atomically
        from muybridge.published import WRAPPERS

        state = {key: value.detach().cpu() for key, value in recogniser.to_published().items()}
        write_atomically(out, lambda partial: torch.save({WRAPPERS[spec.method]: state}, partial))
        print(f"{len(state)} tensors in the authors' format of {spec.method}: {out}")
        return
    from muybridge.recipes import write_recipe
    from muybridge.structures import Recipe
    from muybridge.video.labels import write_labels

    recogniser.save(out, text=text)
    write_labels(out / "labels.txt", spec.labels)
    write_recipe(
        out / "recipe.json",
        Recipe(
            method=spec.method,
            options=spec.options,
            backbone=spec.backbone,
            sampling=spec.sampling,
            transform=spec.transform,
        ),
    )
    print(
        f"{spec.method}, {len(spec.labels)} classes, {spec.sampling.frames} frames of {spec.transform.size[0]}x"
        f"{spec.transform.size[1]} px: {out}. Try: muybridge predict {out} VIDEO"
    )
