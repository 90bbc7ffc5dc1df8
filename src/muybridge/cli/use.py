"""`muybridge predict`."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from muybridge.cli.app import WRONG, Fields, Loading, app, complain
from muybridge.cli.predicting import Collecting, predict_to_folder, refuse_without_out
from muybridge.errors import BadInput

DEFAULT = Loading()
HERE = Collecting()


@app.command
def predict(
    run: Path,
    /,
    *videos: Path,
    top: int = 5,
    loading: Loading = DEFAULT,
    collecting: Collecting = HERE,
    json: bool = False,
    fields: Fields = None,
) -> int:
    """What a trained recogniser sees in video files, in words.

    With --out, videos may be folders, quoted patterns of files, lists of paths (.txt, .csv) and tar archives too, as
    many as there are; every video gives a row in that folder (docs/large-collections.md).

    Args:
        run: a run folder, its model.safetensors, or a published checkpoint.
        videos: video files.
        top: how many classes to print.
        json: one JSON object a line and video; with --out one at the end.
    """
    from muybridge.errors import VideoError

    if not videos:
        raise BadInput("Name at least one video file after the run folder.")
    if collecting.out is not None:
        return predict_to_folder(run, videos, top, loading, collecting, fields, json)
    refuse_without_out(collecting, fields)
    recogniser = loading.load(run)
    failed = 0
    for path in videos:
        try:
            answers = recogniser.predict(path, top)
        except VideoError as error:
            failed += 1
            complain(str(error))
            continue
        if json:
            rows = [{"label": answer.label, "index": answer.index, "score": answer.score} for answer in answers]
            print(json_module.dumps({"video": str(path), "predictions": rows}, ensure_ascii=False))
        else:
            print(path)
            for answer in answers:
                print(f"  {answer.score:6.1%}  {answer.label}")
    return WRONG if failed else 0
