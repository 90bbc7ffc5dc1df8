"""A recogniser becomes an ONNX file, which is run without muybridge.

    pip install 'muybridge[onnx]'
    python examples/export_and_run.py

On the command line: `muybridge export runs/mine --to onnx`. With a run of yours only the lines from `recogniser =` to
`made =` are needed, and `given.out` is a folder that does not exist yet.
"""

import subprocess
import sys

import muybridge
from ingredients import material
from muybridge.export import export_model

given = material(__doc__)
muybridge.train(given.recipe("evl", layers=2, epochs=2), given.out / "run", backbone=given.backbone)

recogniser = muybridge.load(given.out / "run", "cpu")
made = export_model(recogniser, given.out / "onnx", to="onnx")
# What was written has been run and compared with the model before this line is reached.
print(f"{made.folder}: probabilities differ by {made.check.difference:.1e} at most")

# The folder needs onnxruntime, av and numpy only. It can be copied to another machine.
video = next(given.data.rglob("*.mp4"))
program = made.folder / "predict.py"
answer = subprocess.run([sys.executable, program, "--top", "2", video], capture_output=True, text=True, check=True)
print("without muybridge:\n" + answer.stdout)
print("with muybridge:\n" + str(recogniser.predict(video, top=2)))
