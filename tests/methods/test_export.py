"""Every method leaves Python: as a torch.export program, as ONNX and compiled, for any number of videos at a time."""

import onnxruntime
import pytest
import torch
from method_cases import CLOSE, FRAMES, SIZE, WITH_LABELS, draw_labels, draw_video, make
from torch import nn

from muybridge.export import onnx_file, program, standalone
from muybridge.export.graph import Deployed
from muybridge.methods import METHODS
from muybridge.structures import Transform

FREE_BATCH = ({0: torch.export.Dim.DYNAMIC},)
# Of the largest logit. Measured differences are at most 8e-7 with ONNX Runtime and 5e-7 with inductor.
TOLERANCE = 1e-4


class Logits(nn.Module):
    """A method for prediction, with a plain tensor for its answer: [B, T, 3, H, W] -> [B, K]."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, video):
        return self.method(video).logits


@pytest.fixture(params=METHODS)
def model(request):
    labels = draw_labels("clip") if request.param in WITH_LABELS else None
    with torch.no_grad():
        yield Logits(make(request.param, "clip", labels).merged()).eval()


def assert_near(found, wanted, what):
    assert found.shape == wanted.shape
    apart = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert apart <= TOLERANCE, f"{what}: {apart:.1e} of the largest logit"


def test_exported_program_takes_any_batch(model):
    program = torch.export.export(model, (draw_video(3),), dynamic_shapes=FREE_BATCH).module()
    for batch in (1, 3, 5):
        video = draw_video(batch, seed=batch)
        torch.testing.assert_close(program(video), model(video), **CLOSE)


@pytest.mark.slow
def test_onnx_runtime_takes_any_batch(model, tmp_path):
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (draw_video(3),), file, dynamo=True, dynamic_shapes=FREE_BATCH)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert isinstance(given.shape[0], str)  # the name of a free axis
    for batch in (1, 4):
        video = draw_video(batch, seed=batch)
        (logits,) = session.run(None, {given.name: video.numpy()})
        assert_near(torch.from_numpy(logits), model(video), f"batch of {batch}")


@pytest.mark.slow
def test_onnx_runtime_takes_bytes_of_any_size(model, tmp_path):
    """What `muybridge export --with-resize` writes, of every method."""
    graph = Deployed(model.method, Transform(SIZE), resize=True).eval()
    traced = program.trace(graph, program.frames_like(FRAMES, SIZE, True), free_size=True)
    onnx_file.write(traced, tmp_path / "model.onnx", {})
    run, _ = standalone.open_model(tmp_path / "model.onnx")
    for shape in ((1, FRAMES, 32, 71, 3), (2, FRAMES, 90, 61, 3)):
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(torch.from_numpy(run(frames.numpy())), graph(frames), atol=1e-4, rtol=0)


@pytest.mark.slow
@torch._dynamo.config.patch(error_on_recompile=True)  # one compilation serves all
def test_inductor_takes_any_batch(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    for batch in (6, 8):  # for few images (of ILA 3 pairs a video) torch compiles convolutions in another way
        video = draw_video(batch, seed=batch)
        torch._dynamo.mark_dynamic(video, 0)
        assert_near(compiled(video), model(video), f"batch of {batch}")
