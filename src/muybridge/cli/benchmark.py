"""`muybridge benchmark`: what a method costs beside its bare backbone, on this machine."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from muybridge.cli.app import Reading, app
from muybridge.errors import BadInput

READING = Reading()
VIEWS = (25, 100, 400)  # videos a second that a device may train
STAGE = ("what", "value", "unit")  # columns of a figure of --data


@dataclass(frozen=True)
class _Asked:
    """Options of the measurement itself."""

    batch: int
    rounds: int
    workers: tuple[int, ...]
    json: bool


@app.command
def benchmark(
    model: str,
    /,
    *,
    backbone: str = "clip_vitb16",
    frames: int = 0,
    size: int = 0,
    classes: int = 400,
    batch: int = 2,
    train: bool = False,
    ways: str | None = None,
    rounds: int = 7,
    threads: int = 0,
    device: str | None = None,
    data: str | None = None,
    workers: str = "0,1,2",
    reading: Reading = READING,
    csv: Path | None = None,
    json: bool = False,
) -> None:
    """Time a method or a trained model against its bare backbone on the same frames.

    All ways are called in turn in one process, and ratios are taken within a round, so that they can be trusted on a
    machine that does other things too. Noise is read in place of videos; decoding is not part of it. With --data it is
    all of a training on these videos: where its time goes, and how many cores keep the device busy.

    Args:
        model: a name of `muybridge list methods` (with random weights), or a run folder or file.
        backbone: of a method: a name of `muybridge list backbones`; nothing is downloaded.
        frames: of a method: how many it reads (default: 8; dist 16, of which the backbone reads 8).
        size: of a method: side of the squares it reads, in pixels (default: the backbone's).
        classes: of a method.
        batch: videos at a time.
        train: training steps too.
        ways: of running it, separated by commas, or 'all'. Forward: eager, unmerged, bf16, compiled, compiled-bf16,
            int8, cached, stream, torch-export, onnx, onnx-int8, openvino, openvino-bf16, openvino-int8; with --train:
            train, train-bf16, train-checkpoint, train-cached.
        rounds: measurements of each.
        threads: of the processor (default: as torch has it).
        device: such as cpu or cuda (default: the GPU, if there is one).
        data: videos, as for `train`: time decoding, transforms, forward and backward pass, and the loader; not with
            --train and --ways.
        workers: with --data: numbers of processes that decode, separated by commas.
        csv: file to append the table to.
        json: print as JSON.
    """
    import torch

    from muybridge.engine.device import pick_device
    from muybridge.measure.machine import machine_facts
    from muybridge.measure.speed import STEPS, WAYS, Figure, inference, pick_ways, training
    from muybridge.measure.table import append_row, check_columns

    for name, value in (("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise BadInput(f"--{name} is {value}; expected at least 1.")
    if threads:
        torch.set_num_threads(threads)
    where = pick_device(device)
    if data is not None and (train or ways):
        raise BadInput("--data times a whole training by its stages; leave --train and --ways out.")
    if csv is not None:  # asked now, not when all has been measured
        own = STAGE if data is not None else [field.name for field in fields(Figure)]
        check_columns(csv, ["model", "batch", *own, *machine_facts(where)])
    if data is not None:
        rows = _pipeline(
            model, backbone, frames, size, where, data, reading, _Asked(batch, rounds, _numbers(workers), json)
        )
    else:
        method, described = _subject(model, backbone, frames, size, classes, where)
        both = {**WAYS, **STEPS} if train else WAYS
        chosen = pick_ways(ways, both) if ways else ("eager", *(("train",) if train else ()))
        if ways == "all":
            chosen = tuple(way for way in chosen if _fits(way, method, where))
        forward, steps = ([way for way in chosen if way in names] for names in (WAYS, STEPS))
        figures = inference(method, forward, batch, rounds) if forward else []
        if steps:
            figures += training(method, steps, batch, rounds)[1 if figures else 0 :]
        rows = [{"model": described, "batch": batch, **figure.row(), **machine_facts(where)} for figure in figures]
        if not json:
            _say(rows)
    if json:
        print(json_module.dumps(rows))
    if csv is not None:
        for row in rows:
            append_row(csv, row)


def _subject(model: str, backbone: str, frames: int, size: int, classes: int, device: Any) -> tuple[Any, str]:
    """The model to be timed, and what to call it."""
    from muybridge.loading import load
    from muybridge.measure.workload import Workload
    from muybridge.methods import METHODS

    if model not in METHODS:
        if not Path(model).exists():
            raise BadInput(f"'{model}' is neither a method ({', '.join(METHODS)}) nor a run folder or file.")
        recogniser = load(model, device=device)
        trained = recogniser.trained.to(recogniser.device)
        return trained, f"{model} ({recogniser.spec.method}, {recogniser.spec.backbone})"
    frames = frames or (16 if model == "dist" else 8)
    workload = Workload(
        model, backbone=backbone, frames=frames, image_size=(size, size) if size else None, classes=classes
    )
    method = workload.build(device)
    return method, f"{model}, {backbone}, {frames} frames of {method.image_size[0]} px, {classes} classes"


def _pipeline(
    model: str, backbone: str, frames: int, size: int, device: Any, data: str, reading: Reading, asked: _Asked
) -> list[dict[str, Any]]:
    """Where the time of a training on a data set goes, as lines of a table; said as well, unless JSON is asked for."""
    from muybridge.measure.machine import machine_facts
    from muybridge.measure.pipeline import STAGES, WORD, cores_needed, loader_rate, stages, stepper_for, training_rate
    from muybridge.structures import Sampling, Transform
    from muybridge.video.dataset import VideoDataset
    from muybridge.video.sources import read_source

    source = read_source(data, reading.args())
    method, described = _subject(model, backbone, frames, size, len(source.labels), device)
    stepper = stepper_for(method)
    if stepper.device.type != device.type:
        raise BadInput(f"A training runs on {stepper.device.type} here; leave --device {device.type} out.")
    setting = Sampling(method.frames), Transform(method.image_size)
    halves = {on: VideoDataset(source.train, *setting, True, 0, reading.args(), on == "device") for on in WORD}
    batch, facts = asked.batch, machine_facts(stepper.device)
    rows: list[dict[str, Any]] = []

    def add(what: str, value: float, unit: str, note: str = "") -> None:
        figure = dict(zip(STAGE, (what, round(value, 4), unit), strict=True))
        rows.append({"model": described, "batch": batch, **figure, **facts})
        if not asked.json:
            digits = {"cores": 0, "%": 1}.get(unit, 3 if value < 1 else 1)
            print(f"{what:50} {value:8.{digits}f} {unit}{'  ' + note if note else ''}", flush=True)

    if not asked.json:
        print(f"{described}, batches of {batch}; {_machine(facts)}")
        print(f"{len(source.train)} training videos: {source.how}")
    costs = stages(halves["workers"], stepper, batch, asked.rounds)
    for name, value in costs.milliseconds().items():
        note = STAGES.get(name, "the same as transform and collate, where the device transforms")
        add(name.replace("_", " "), value, "ms a video", note)
    for workers in asked.workers:
        for on, dataset in halves.items():
            rate = loader_rate(dataset, batch, workers)
            add(f"loader, {workers} workers, transforms {WORD[on]}", rate, "videos/s")
    for workers in asked.workers:
        rate, share = training_rate(halves["workers"], stepper, batch, workers)
        add(f"training, {workers} workers", rate, "videos/s")
        add(f"training, {workers} workers: waits for videos", 100 * share, "%", "of the time")
    for views in (1 / costs.step, *VIEWS):
        for on, seconds in (("workers", costs.worker), ("device", costs.decode)):
            what = f"cores for {views:.3g} videos/s, transforms {WORD[on]}"
            add(
                what,
                cores_needed(views, seconds),
                "cores",
                "what this device trains" if views == 1 / costs.step else "",
            )
    return rows


def _numbers(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise BadInput(f"--workers is {text}; expected numbers of processes separated by commas, such as 0,1,2.")
    return tuple(int(word) for word in words)


def _fits(way: str, method: Any, device: Any) -> bool:
    """Whether `all` means this way too."""
    from muybridge.export.timing import RUNTIMES, is_installed
    from muybridge.methods.base import Method

    if way.endswith("cached"):
        return type(method).frozen is not Method.frozen
    if way == "stream":
        return type(method).encode_frame is not Method.encode_frame
    if way in RUNTIMES:
        return device.type == "cpu" and is_installed(way)
    if way == "unmerged":
        return method.merged() is not method
    return way != "int8" or device.type == "cpu"


def _say(rows: list[dict[str, Any]]) -> None:
    """The figures of all ways as a table."""
    first = rows[0]
    print(f"{first['model']}, batches of {first['batch']}; {_machine(first)}")
    Console().print(_table(rows))
    print(
        "x bare: times of the backbone's own forward pass on the same frames. of peak: of what a large matrix product\n"
        "reaches here. difference: of the logits, of the largest one; *: the five best classes are not the same."
    )


def _machine(facts: Mapping[str, Any]) -> str:
    return f"{facts['machine']}, {facts['threads']} threads, torch {facts['torch']}"


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("", no_wrap=True)
    for column in ("ms", "x bare", "videos/s", "GMACs", "of peak", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        same = {True: "", False: " *", None: ""}[row["same_top5"]]
        table.add_row(
            row["way"],
            f"{row['milliseconds']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['views_per_second']:.2f}",
            f"{row['multiply_adds'] / 1e9:.1f}" if row["multiply_adds"] else "",
            f"{row['share']:.0%}" if row["share"] else "",
            f"{row['difference']:.1e}{same}" if row["difference"] is not None else "",
        )
    return table
