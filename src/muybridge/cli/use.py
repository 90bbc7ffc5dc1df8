"""`muybridge predict`."""

from __future__ import annotations

from pathlib import Path

from muybridge.cli.answering import Answering, predict_and_tell
from muybridge.cli.app import Fields, Loading, app
from muybridge.cli.live import Living, predict_live, refuse_others
from muybridge.cli.predicting import Collecting, predict_to_folder, read_fields, refuse_without_out
from muybridge.errors import BadInput

DEFAULT = Loading()
HERE = Collecting()
TOLD = Answering()
LIVING = Living()


@app.command
def predict(
    run: Path,
    /,
    *videos: Path,
    top: int = 5,
    loading: Loading = DEFAULT,
    answering: Answering = TOLD,
    collecting: Collecting = HERE,
    living: Living = LIVING,
    json: bool = False,
    fields: Fields = None,
) -> int:
    """What a trained recogniser sees in videos, in words (docs/predict.md).

    With --out every video gives a row in that folder, as many as there are (docs/large-collections.md). With --live it
    is what a camera or a stream shows now (docs/live.md).

    Args:
        run: a run folder, its model.safetensors, a published checkpoint, or a published recipe whose file is here.
        videos: video files, folders, quoted patterns of files, lists of paths (.txt, .csv) and tar archives.
        top: how many classes to tell.
        json: one JSON object a line and video; with --out one at the end.
    """
    refuse_others(living, videos, answering, collecting)
    if living.live is not None:
        return predict_live(run, top, loading, living, fields, json)
    if not videos:
        raise BadInput("Name at least one video file after the run folder.")
    if collecting.out is not None:
        if given := answering.given():
            more = " A collection's are written with --with-features." if given[0] == "--features" else ""
            raise BadInput(f"{given[0]} is for answers that are printed; leave it or --out out.{more}")
        return predict_to_folder(run, videos, top, loading, collecting, fields, json)
    refuse_without_out(collecting)
    source, batch_size = read_fields(collecting, fields), collecting.batch_size
    return predict_and_tell(
        lambda: loading.load(run),
        videos,
        top,
        answering,
        source,
        8 if batch_size is None else batch_size,
        collecting.workers,
        json,
    )
