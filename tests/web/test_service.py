"""Answers to visitors: those of the recogniser itself, within limits, and nobody changes another's."""

import threading
from dataclasses import replace

import pytest
import torch
from visitors import film, with_texts

from asked import recogniser
from muybridge.errors import BadInput, MuybridgeError, UnknownName, VideoError
from muybridge.recogniser import Recogniser
from muybridge.structures import SourceArgs
from muybridge.web.limits import MOST_NAMES, ServeLimits, check_names
from muybridge.web.render import bars_html, error_html, explanation_html, frames_html, timeline_html
from muybridge.web.service import Busy, Service, told


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return film(tmp_path_factory.mktemp("web") / "clip.mp4", 3)


@pytest.mark.parametrize("views", [1, 3])
def test_the_answer_is_the_recognisers(clip, views):
    model = recogniser("evl", views)
    answer = Service(model).answer(clip, top=2)
    assert answer.predictions == model.predict(clip, 2)
    assert answer.frame_count == 36
    assert answer.size == (48, 48)
    assert answer.views == views
    assert answer.pictures.shape == (4, 48, 48, 3)
    seen = model.explain(clip, importance=False)  # it shows the view in the middle too
    assert answer.indices == tuple(frame.index for frame in seen.frames)
    assert (answer.pictures == seen.pictures).all()
    told = answer.to_dict()
    assert told["video"] == {"duration": 3.0, "frames": 36, "width": 48, "height": 48}
    assert told["sampled"][1]["seconds"] == pytest.approx(answer.indices[1] / 12, abs=1e-3)


def test_limits(clip, tmp_path):
    model = recogniser()
    short = Service(model, ServeLimits(duration=2.5))
    small = Service(model, ServeLimits(source=SourceArgs(megapixels=0.001)))
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    for service, path, sentence in (
        (short, clip, "This video cannot be used: it lasts 3 s; at most 2.5 s are possible here: cut it."),
        (small, clip, "pictures of 48 x 48 pixels are refused: more than 0.001 megapixels."),
        (Service(model), broken, "This video cannot be used: not a video file that FFmpeg can read."),
    ):
        for ask in (service.answer, service.explain, lambda path, s=service: s.timeline(path, 1)):
            with pytest.raises(VideoError) as caught:
                ask(path)
            assert sentence in told(caught.value)
            assert str(path.parent) not in str(caught.value)
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="above 0"):
            ServeLimits(upload=value)
    with pytest.raises(BadInput, match="expected 1 to 50"):
        Service(model).answer(clip, top=0)
    with pytest.raises(BadInput, match="positive number"):
        Service(model).timeline(clip, 0)
    with pytest.raises(BadInput, match="linear head"):
        Service(model).answer(clip, ("a", "b"))


def test_too_many_are_told_to_come_again(clip, monkeypatch):
    service = Service(recogniser(), ServeLimits(requests=1))
    inside, go = threading.Event(), threading.Event()
    real = service.named

    def slow(labels):
        inside.set()
        go.wait(20)
        return real(labels)

    monkeypatch.setattr(service, "named", slow)
    thread = threading.Thread(target=service.answer, args=(clip,))
    thread.start()
    assert inside.wait(20)
    with pytest.raises(Busy, match="try again"):
        service.answer(clip)
    go.set()
    thread.join()
    assert service.answer(clip).predictions


def test_class_names_of_one_visitor_do_not_change_anothers_answer(clip):
    model = with_texts()
    service = Service(model)
    assert service.can_name
    before, weights = model.scores(clip), {name: value.clone() for name, value in model.method.state_dict().items()}
    first = service.answer(clip).predictions
    names = ("eating", "rising", "a long walk", "falling")
    own = service.answer(clip, names, top=4).predictions
    assert {one.label for one in own} == set(names)
    assert service.answer(clip).predictions == first
    assert torch.equal(model.scores(clip), before)
    assert model.labels == ("closing", "falling", "rising")
    for name, value in model.method.state_dict().items():
        assert torch.equal(value, weights[name]), name
    # The same as asking a recogniser of one's own.
    alone = with_texts()
    alone.relabel(names)
    assert own == alone.predict(clip, 4)
    # Nothing but the names' features is there twice.
    other = service.named(names).method
    shared = {tensor.data_ptr() for tensor in model.method.parameters()}
    assert {tensor.data_ptr() for tensor in other.parameters()} == shared
    assert service.explain(clip, names, "eating").label == "eating"
    assert service.timeline(clip, 1, names)[0].label in names
    for number in range(20):
        service.named((f"name {number}", "another"))
    assert len(service._named) <= 16


def test_looking_inside_leaves_the_model_alone(clip, monkeypatch):
    """Several at a time, mixed with answers: all as if each were alone."""
    model = recogniser("evl")
    service = Service(model)
    expected, line = model.predict(clip, 3), model.timeline(clip, 1, 0.5)
    seen = model.explain(clip)
    looked_into, real = [], Recogniser.explain
    monkeypatch.setattr(
        Recogniser,
        "explain",
        lambda self, *given, **more: looked_into.append(self.method) or real(self, *given, **more),
    )
    results, errors = {}, []

    def run(name, ask):
        try:
            results[name] = ask()
        except Exception as error:
            errors.append(error)

    asked = {f"answer {i}": lambda: service.answer(clip, top=3).predictions for i in range(4)}
    asked |= {"explain": lambda: service.explain(clip), "again": lambda: service.explain(clip)}
    asked |= {"line": lambda: service.timeline(clip, 1)}
    threads = [threading.Thread(target=run, args=one) for one in asked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(results[f"answer {i}"] == expected for i in range(4))
    assert results["line"].segments == line.segments
    for name in ("explain", "again"):
        torch.testing.assert_close(results[name].map, seen.map)
        assert results[name].frames == seen.frames
    assert len({id(method) for method in (*looked_into, model.method)}) == 3  # what is hung on one is on no other
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.method.modules())
    with pytest.raises(UnknownName, match="rising"):
        service.explain(clip, label="risin")


def test_a_text_head_without_its_tower(clip):
    model = with_texts()
    model.text = None
    service = Service(model)
    assert not service.can_name
    assert "cannot give class names" in service.notes[0]
    assert service.answer(clip).predictions


def test_names():
    assert check_names(" a, b\nc ,,") == ("a", "b", "c")
    assert check_names("") == check_names(None) == ()
    for text, sentence in (
        ("one", "at least 2"),
        ("a, b, a", "twice"),
        (", ".join(str(i) for i in range(MOST_NAMES + 1)), "at most 200"),
        ("a," + "x" * 101, "101 characters"),
    ):
        with pytest.raises(BadInput, match=sentence):
            check_names(text)


def test_pieces_of_the_page(clip):
    model = recogniser()
    model.spec = replace(model.spec, labels=("<script>alert(1)</script>", 'fall"ing', "rising"))
    service = Service(model)
    answer = service.answer(clip)
    html = bars_html(answer.predictions) + frames_html(answer) + timeline_html(service.timeline(clip, 1))
    html += explanation_html(service.explain(clip))
    assert "<script" not in html
    assert html.count("<figure>") == 4
    assert html.count("data:image/jpeg;base64,") == 4
    assert "data:video/mp4;base64," in html
    assert "3.0 s, 36 frames of 48 x 48 pixels." in html
    assert "Windows of 1 s, one every 0.5 s" in html
    assert "<b>" not in error_html("<b>")
    assert "nothing with a score" in timeline_html(replace(service.timeline(clip, 1), segments=()))


def test_many_windows_lie_further_apart(clip):
    line = Service(recogniser()).timeline(clip, 0.02)
    assert len(line.windows) <= 122
    assert line.step == pytest.approx(3 / 120)
    assert isinstance(Busy("x"), MuybridgeError)
