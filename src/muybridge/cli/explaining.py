"""`muybridge explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from muybridge.cli.app import Fields, Loading, app
from muybridge.cli.predicting import read_source
from muybridge.errors import MissingFile

DEFAULT = Loading()


@app.command
def explain(
    run: Path,
    video: Path,
    /,
    *,
    out: Path | None = None,
    label: Annotated[str | None, Parameter(name="--class")] = None,
    method: Literal["auto", "attention", "rollout", "gradient"] = "auto",
    map: str | None = None,
    importance: bool = True,
    film: bool = True,
    loading: Loading = DEFAULT,
    json: bool = False,
    fields: Fields = None,
) -> int:
    """Where a recogniser looks in a video, and how much each frame matters: a picture, a film and numbers.

    --source.decoder, --source.seconds, --source.megapixels and --source.megabytes are those of `muybridge predict`.

    Args:
        run: a run folder, its model.safetensors, a published checkpoint, or a published recipe whose file is here.
        video: a video file.
        out: folder for sheet.png, overlay.mp4, explanation.json and maps.npz; by default the name of the video and
            "-explained", in the current folder.
        label: the class to explain; by default the one that is recognised.
        method: 'attention': what the method's own parts looked at (evl, ila); 'rollout': the backbone's attention
            followed back to the patches; 'gradient': what speaks for the class; 'auto': the first where there is one,
            else the last.
        map: which map to show where there are several, such as 'query attention, layer 3'; by default their mean.
        importance: leave out each frame in turn to see how much it matters.
        film: write overlay.mp4.
        json: print explanation.json in place of lines.
    """
    from muybridge.explain import check_free

    if not video.is_file():
        raise MissingFile(f"There is no file {video}; expected one video file.")
    folder = out if out is not None else Path(f"{video.stem}-explained")
    check_free(folder)
    source = read_source(fields, "explanations, which read")
    recogniser = loading.load(run)
    from muybridge.engine.progress import ProgressBar

    explanation = recogniser.explain(
        video, label, method, shown=map, importance=importance, source=source, progress=ProgressBar()
    )
    written = explanation.save(folder, film)
    if json:
        import json as json_module

        print(json_module.dumps({"out": str(folder), **explanation.to_dict()}, ensure_ascii=False))
        return 0
    print(f"{explanation.label} {explanation.score:.1%}; heat: {explanation.name}")
    for line in explanation.frame_lines():
        print(f"  {line}")
    for note in explanation.notes:
        print(note)
    print(f"Written to {folder}: {', '.join(path.name for path in written)}")
    return 0
