"""Models that leave: ONNX, torch.export and OpenVINO files with everything between frames and words inside.

    from muybridge.export import export_model
    export_model(muybridge.load("runs/x", "cpu"), "x-onnx", to="onnx")

`graph.py` is the graph, `program.py`, `onnx_file.py` and `openvino_file.py` write it, `check.py` compares what was
written, `standalone.py` is the program that is put beside it.
"""

from muybridge.export.check import Check, Footage, NotTheSame, footage
from muybridge.export.write import TARGETS, Export, export_model

__all__ = ["TARGETS", "Check", "Export", "Footage", "NotTheSame", "export_model", "footage"]
