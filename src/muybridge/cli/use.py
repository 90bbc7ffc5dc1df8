"""`muybridge predict`."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from muybridge.cli.app import WRONG, Loading, app, complain
from muybridge.errors import BadInput

DEFAULT = Loading()


@app.command
def predict(
    run: Path,
    /,
    *videos: Path,
    top: int = 5,
    loading: Loading = DEFAULT,
    json: bool = False,
) -> int:
    """What a trained recogniser sees in video files, in words.

    Args:
        run: a run folder, its model.safetensors, or a published checkpoint.
        videos: video files.
        top: how many classes to print.
        json: one JSON object a line and video.
    """
    from muybridge.errors import VideoError

    if not videos:
        raise BadInput("Name at least one video file after the run folder.")
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
