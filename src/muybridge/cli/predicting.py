"""`muybridge predict --out`: every video of a collection, in blocks that are kept as they are done."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from muybridge.cli.app import Fields, Loading, Reading
from muybridge.errors import BadInput
from muybridge.structures import SourceArgs

SOURCE = "--source.decoder, seconds, megapixels and megabytes"
READ = ("source.decoder", "source.seconds", "source.megapixels", "source.megabytes")


@Parameter(name="*")
@dataclass(frozen=True)
class Collecting:
    """How a collection is computed and written; with --out only, but for workers and batch-size.

    Attributes:
        out: folder for a row a video; the same command goes on where one was stopped.
        engine: 'local', this process, or 'ray', workers on this machine or on a cluster.
        workers: of ray: each holds the model (default: as many as fit); of local: processes that decode (default: 1).
        gpus_per_worker: GPUs of each worker of ray (default: 0).
        address: of a Ray cluster, or 'auto'; by default Ray is started on this machine.
        with_features: with --out, write the vector from which the head tells the classes, in place of these.
        format: 'csv' or 'parquet' (default: csv; features: parquet).
        block: videos in a part (default: 64).
        batch_size: views that are computed at a time (default: 8).
    """

    out: Path | None = None
    engine: Literal["local", "ray"] | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None
    with_features: bool = False
    format: Literal["csv", "parquet"] | None = None
    block: int | None = None
    batch_size: int | None = None

    def given(self) -> list[str]:
        """Names of the options that were given and are for collections only, besides `out`."""
        return [
            f"--{name.replace('_', '-')}"
            for name, value in vars(self).items()
            if name not in ("out", "workers", "batch_size") and value not in (None, False)
        ]


def refuse_without_out(collecting: Collecting) -> None:
    """Raise BadInput if something was given that is for collections only."""
    for name in collecting.given():
        more = ", or --features FILE" if name == "--with-features" else ""
        raise BadInput(f"{name} is for collections, which are written to a folder; give --out DIR{more}.")


def read_source(fields: Fields, what: str) -> SourceArgs:
    """What a file may cost, and the decoder. Raises BadInput: a field is not for `what` reads videos."""
    for name in fields or {}:
        if name not in READ:
            raise BadInput(f"--{name} is not for {what} {SOURCE}.")
    return Reading().args(fields)


def read_fields(collecting: Collecting, fields: Fields) -> SourceArgs:
    """`read_source` of predictions. Raises BadInput as well where a number is 0."""
    source = read_source(fields, "predictions, which read")
    for name in ("block", "batch_size"):
        if getattr(collecting, name) == 0:
            raise BadInput(f"--{name.replace('_', '-')} is 0; expected at least 1.")
    return source


def predict_to_folder(
    run: Path,
    inputs: tuple[Path, ...],
    top: int,
    loading: Loading,
    collecting: Collecting,
    fields: Fields,
    json: bool,
) -> int:
    """Write a row for every video; 0 also where some could not be read, which their rows tell."""
    from muybridge.engine.collected import CollectionArgs
    from muybridge.engine.collection import Engine, in_this_process, predict_collection
    from muybridge.engine.progress import ProgressBar

    assert collecting.out is not None
    source = read_fields(collecting, fields)
    options: dict[str, Any] = {"block": collecting.block, "batch_size": collecting.batch_size}
    args = CollectionArgs(
        top=top,
        features=collecting.with_features,
        format=collecting.format or ("parquet" if collecting.with_features else "csv"),
        source=source,
        **{name: value for name, value in options.items() if value is not None},
    )
    progress, engine = ProgressBar(), collecting.engine or "local"
    if engine == "local" and (collecting.address or collecting.gpus_per_worker):
        raise BadInput("--address and --gpus-per-worker are for --engine ray.")
    if engine == "ray":
        from muybridge.engine.ray_jobs import import_ray

        import_ray()  # where it is not installed, this is told before anything is loaded
    recogniser = loading.load(run, "cpu" if engine == "ray" else None)
    compute: Engine
    if engine == "ray":
        from muybridge.engine.ray_jobs import through_ray

        compute = through_ray(collecting.address or "", collecting.workers or 0, collecting.gpus_per_worker or 0.0)
    else:
        compute = in_this_process(recogniser.device, 1 if collecting.workers is None else collecting.workers)
    summary = predict_collection(recogniser, inputs, collecting.out, args, compute, progress)
    if json:
        print(json_module.dumps({"out": str(collecting.out), **summary}, ensure_ascii=False))
    else:
        unreadable = summary["unreadable"]
        more = f"; {unreadable} cannot be read, which the column error explains" if unreadable else ""
        print(f"{summary['asked']} videos, a row each in {collecting.out / summary['result']}{more}.")
    return 0
