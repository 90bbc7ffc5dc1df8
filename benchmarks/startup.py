"""How long it takes until something happens: imports, --help, a model. Writes a CSV.

    python benchmarks/startup.py --out benchmarks/results/startup.csv

Every figure is the median of new processes, the ways in turn. `import muybridge` is to stay below 0.3 s and everything
that a model needs below 0.3 s beyond torch's own import; `muybridge --help` below 0.5 s. The last case reads an EVL on
ViT-L/14 from a model file of 1.5 GB (with --large, which writes one first).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row

CASES = {
    "python": "pass",
    "import torch": "import torch",
    "import muybridge": "import muybridge",
    "import muybridge and its public names": "import muybridge as m; [getattr(m, name) for name in m.__all__]",
    "muybridge --help": "from muybridge.cli import run; run(['--help'])",
    "muybridge train --help": "from muybridge.cli import run; run(['train', '--help'])",
    "muybridge list": "from muybridge.cli import run; run(['list'])",
    "EVL on ViT-B/16, random weights": (
        "from muybridge import ViT, build_method; from muybridge.backbones.weights import BACKBONES\n"
        "build_method('evl', ViT(BACKBONES['clip_vitb16'].config), 400, 8, (224, 224), {})"
    ),
}

LARGE = "EVL on ViT-L/14 from a model file"
SAVE = """
import torch
from pathlib import Path
from muybridge.engine.checkpoint import model_spec, save_model
from muybridge.measure.workload import Workload
from muybridge.structures import Sampling, Transform
model = Workload("evl", backbone="clip_vitl14").build()
labels = tuple(map(str, range(400)))
spec = model_spec("evl", model, "clip_vitl14", labels, Sampling(8), Transform())
save_model(Path({path!r}), model, spec)
"""
READ = "from muybridge.engine.checkpoint import load_model; load_model({path!r})"


def seconds(code: str) -> float:
    """A new process, from its start to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """A line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    parser.add_argument("--large", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = dict(CASES)
        if asked.large:
            path = str(Path(folder) / "model.safetensors")
            seconds(SAVE.format(path=path))
            cases[LARGE] = READ.format(path=path)
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(asked.rounds):
            for name, code in cases.items():
                times[name].append(seconds(code))
    for name, measured in times.items():
        beyond = median(mine - torch for mine, torch in zip(measured, times["import torch"], strict=True))
        row = {"case": name, "seconds": round(median(measured), 3), "beyond_torch": round(beyond, 3)}
        print(*row.values(), sep="\t")
        append_row(asked.out, {**row, **machine_facts()})


if __name__ == "__main__":
    main()
