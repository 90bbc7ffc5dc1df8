"""`muybridge export`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from muybridge.cli.app import Loading, app, complain
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.export import Export

DEFAULT = Loading()


@app.command
def export(
    run: Path,
    /,
    *,
    to: Literal["onnx", "torch", "openvino"] = "onnx",
    half: bool = False,
    int8: bool = False,
    with_resize: bool = False,
    out: Path | None = None,
    loading: Loading = DEFAULT,
    json: bool = False,
) -> None:
    """Write a trained recogniser for another runtime: frames in, probabilities out, normalisation inside.

    What was written is run and compared with the model, on the run's validation videos where they are at hand, before
    success is said. Beside it lies predict.py, which needs neither muybridge nor torch (docs/deploy.md).

    Args:
        run: a run folder, its model.safetensors, a published checkpoint, or a published recipe whose file is here.
        to: 'onnx' (muybridge[onnx]), 'openvino' (muybridge[openvino]) or 'torch', a program of torch.export.
        half: weights in fp16: half the size.
        int8: weights of matrix products in bytes: a quarter of the size; onnx and openvino.
        with_resize: the model takes frames of any size, and resizes and crops them itself.
        out: a new folder (default: export/onnx and the like in the run folder).
        json: print as JSON.
    """
    if half and int8:
        raise BadInput("--half and --int8 are both given; give one.")
    from muybridge.export import export_model, footage
    from muybridge.export.write import check_possible

    precision: Literal["full", "half", "int8"] = "half" if half else "int8" if int8 else "full"
    check_possible(to, precision)
    name = "-".join([to, *([precision] if precision != "full" else []), *(["resize"] if with_resize else [])])
    folder = out if out is not None else _beside(run) / name
    if folder.exists():
        raise BadInput(f"{folder} exists already; nothing is written over. Give another folder with --out.")
    recogniser = loading.load(run, "cpu")
    where = run if run.is_dir() else run.parent
    with Console(stderr=True).status("Writing, running and comparing ..."):
        made = export_model(
            recogniser,
            folder,
            to,
            precision,
            with_resize,
            footage(where, recogniser.sampling, recogniser.spec.transform.size),
        )
    for sentence in made.notes:
        complain(sentence)
    if json:
        print(json_module.dumps(_row(made), ensure_ascii=False))
        return
    _print(made)


def _beside(run: Path) -> Path:
    if run.is_dir():
        return run / "export"
    # A name on the hub is no path: a folder of its owner's name here would stand in the way of the next load.
    return (run.parent if run.exists() else Path()) / (run.stem + "-export")


def _row(made: Export) -> dict[str, object]:
    return {"out": str(made.folder), "files": made.files, "check": made.check.to_dict(), "notes": list(made.notes)}


def _print(made: Export) -> None:
    console = Console()
    table = Table(
        title=escape(str(made.folder)), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for name, size in made.files.items():
        table.add_row(name, _size(size), WHAT.get(name, ""))
    console.print(table)
    print(f"Compared on {made.check}.")
    if "predict.py" in made.files:
        print(f"Try it: python {made.folder / 'predict.py'} VIDEO")


WHAT = {
    "model.onnx": "the model",
    "model.onnx.data": "its weights",
    "model.pt2": "the model",
    "model.xml": "the model",
    "model.bin": "its weights",
    "predict.py": "a program that uses it, to run or to read",
    "export.json": "class names, sampling and sizes, and how it compares",
}


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
