"""The page, in Gradio's blocks: a video on the left, what is seen in it on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from muybridge.errors import MuybridgeError
from muybridge.report.markup import Markup, join, tag
from muybridge.web import render
from muybridge.web.files import Uploads
from muybridge.web.limits import check_names
from muybridge.web.service import NAME, Service, told

GONE = "The video is no longer here: files are removed after a while. Give it again."
NO_CLASS = "the one that is recognised"
CAMERA = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}}  # models read less
LOCAL = ["system-ui", "sans-serif"]  # no fonts are fetched


def _preprocess(self: Any, payload: Any) -> str | None:
    return None if payload is None else str(payload.path)


def _postprocess(self: Any, value: str | Path | None) -> Any:
    return None if value is None else gr.FileData(path=str(value), orig_name=Path(value).name)


# A video component that leaves files as they are. Gradio's own encodes them again, by a program that may not be there:
# to leave the sound out, or for the browser's sake; but what is recognised shall be what was given. It must be a class,
# for Gradio makes components anew for every visitor; and made this way, because Gradio's own way of making one writes a
# file beside this one. `is_template` says that the browser knows it as a video.
PlainVideo = type.__new__(
    type(gr.Video),
    "PlainVideo",
    (gr.Video,),
    {"preprocess": _preprocess, "postprocess": _postprocess, "is_template": True, "__module__": __name__},
)


def make_page(
    service: Service,
    uploads: Uploads,
    examples: Sequence[tuple[Path, str]],
    *,
    title: str,
    licence: str,
    top: int = 5,
    window: float = 4.0,
) -> gr.Blocks:
    """The blocks of the page.

    Args:
        service: answers.
        uploads: the private folder.
        examples: files in that folder, with a name for each.
        title: of the page.
        licence: a line about the weights.
        top: how many classes are shown.
        window: of the timeline, in seconds; a video of more than two windows gets one.
    """

    def hidden() -> Any:
        return gr.update(value="", visible=False)

    def failed(sentence: str) -> tuple[Any, ...]:
        return (
            gr.update(value=render.error_html(sentence), visible=True),
            hidden(),
            hidden(),
            hidden(),
            gr.update(visible=False),
            hidden(),
        )

    def recognise(video: str | None, names: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        uploads.hold(str(request.session_hash), video)
        if video is None:
            yield failed("There is no video yet: drop one, use the camera, or click an example.")
            return
        if not uploads.has(video):
            yield failed(GONE)
            return
        try:
            with uploads.reading(video) as path:
                labels = check_names(names)
                answer = service.answer(path, labels, top, NAME)
                long = answer.duration > 2 * window
                yield (
                    hidden(),
                    gr.update(value=render.bars_html(answer.predictions), visible=True),
                    gr.update(value=titled("Frames used", render.frames_html(answer)), visible=True),
                    gr.update(value=titled("Timeline", render.note_html("Working on it ...")), visible=True)
                    if long
                    else hidden(),
                    gr.update(visible=True),
                    hidden(),
                )
                if not long:
                    return
                line = service.timeline(path, window, labels, 1, name=NAME)
            unchanged = gr.skip()
            shown = gr.update(value=titled("Timeline", render.timeline_html(line)), visible=True)
            yield unchanged, unchanged, unchanged, shown, unchanged, unchanged
        except MuybridgeError as error:
            yield failed(told(error))

    def choices(names: str | None) -> Any:
        try:
            labels = check_names(names) or service.recogniser.labels
        except MuybridgeError:
            labels = service.recogniser.labels
        return gr.update(choices=[NO_CLASS, *labels], value=NO_CLASS)

    def explain(video: str | None, names: str | None, label: str) -> Iterator[Any]:
        if video is None or not uploads.has(video):
            yield gr.update(value=render.error_html(GONE), visible=True)
            return
        yield gr.update(value=render.note_html("Looking inside ... the model runs once for each frame."), visible=True)
        try:
            with uploads.reading(video) as path:
                seen = service.explain(path, check_names(names), None if label == NO_CLASS else label, NAME)
                html = render.explanation_html(seen)
        except MuybridgeError as error:
            html = render.error_html(told(error))
        yield gr.update(value=html, visible=True)

    def forget(request: gr.Request) -> None:
        uploads.hold(str(request.session_hash), None)

    def cleared(request: gr.Request) -> tuple[Any, ...]:
        uploads.hold(str(request.session_hash), None)
        return (hidden(), hidden(), hidden(), hidden(), gr.update(visible=False), hidden())

    def predict(video: gr.FileData, top: int = 5, labels: str = "") -> dict[str, Any]:
        """The best classes of a video that was uploaded before; the file is removed after the answer.

        Args:
            video: what POST /gradio_api/upload gave, as {"path": ..., "meta": {"_type": "gradio.FileData"}}.
            top: how many classes, 1 to 50.
            labels: other class names, separated by commas; for models with a text head.

        Returns:
            predictions (label, index, score), video (duration, frames, width, height), sampled (frame, seconds), views.
        """
        path = video["path"] if isinstance(video, dict) else video.path
        if not uploads.has(path):
            raise gr.Error("This file was not uploaded here; upload it first.", print_exception=False)
        try:
            with uploads.reading(path, last=True) as real:
                return service.answer(real, check_names(labels), int(top), NAME).to_dict()
        except MuybridgeError as error:
            raise gr.Error(told(error), print_exception=False) from None

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.HTML(head_html(service, title, licence))
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                video = PlainVideo(
                    label="Video",
                    sources=["upload", "webcam"],
                    include_audio=False,  # the microphone is not asked for
                    elem_id="video",
                    webcam_options=gr.WebcamOptions(mirror=False, constraints=CAMERA),
                    buttons=[],
                )
                names = gr.Textbox(
                    label="Class names of your own",
                    placeholder="opening a box, closing a box, ...",
                    info="Separated by commas; empty: the model's.",
                    lines=1,
                    max_lines=4,
                    visible=service.can_name,
                )
                go = gr.Button("Recognise", variant="primary")
                if examples:
                    clicked = gr.Examples(
                        [[str(path)] for path, _ in examples],
                        [video],
                        label="Examples",
                        example_labels=[name for _, name in examples],
                        api_name=False,
                        api_visibility="private",
                    )
                gr.HTML(limits_html(service))
            with gr.Column(scale=6, min_width=300):
                status = gr.HTML(render.note_html("What the model sees will stand here."), elem_id="status")
                labels = gr.HTML(visible=False, elem_id="answer")
                frames = gr.HTML(visible=False, elem_id="frames")
                timeline = gr.HTML(visible=False, elem_id="timeline")
                with gr.Group(visible=False) as inside:
                    chosen = gr.Dropdown(
                        [NO_CLASS, *service.recogniser.labels],
                        value=NO_CLASS,
                        label="Explain this class",
                        filterable=len(service.recogniser.labels) > 12,
                    )
                    look = gr.Button("Where did it look, and which frames decided?")
        overlay = gr.HTML(visible=False, elem_id="explanation")
        outputs = [status, labels, frames, timeline, inside, overlay]
        calls: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "page", "concurrency_limit": 8}
        gr.on(
            [go.click, video.upload, video.stop_recording, names.submit],
            recognise,
            [video, names],
            outputs,
            show_progress="minimal",
            trigger_mode="always_last",
            **calls,
        ).then(choices, [names], [chosen], show_progress="hidden", api_visibility="private")
        if examples:
            clicked.load_input_event.then(recognise, [video, names], outputs, show_progress="minimal", **calls)
        look.click(explain, [video, names, chosen], [overlay], show_progress="minimal", **calls)
        video.clear(cleared, None, outputs, show_progress="hidden", queue=False, api_visibility="private")
        page.unload(forget)
        gr.api(predict, api_name="predict", concurrency_limit=8, concurrency_id="api")
    page.queue(max_size=2 * service.limits.requests, api_open=False)
    return page


def titled(title: str, body: Markup) -> Markup:
    """A piece of the page under a heading."""
    return join(tag("h3", title), body)


def head_html(service: Service, title: str, licence: str) -> Markup:
    """Title, what the model is, and whose weights these are."""
    spec = service.recogniser.spec
    height, width = spec.transform.size
    what = (
        f"{spec.method} on {spec.backbone}; {len(spec.labels)} classes; looks at {spec.sampling.frames} frames of "
        f"{width} x {height} pixels."
    )
    return tag(
        "div",
        tag("h1", title),
        tag("p", what),
        tag("p", licence, class_="mb-note"),
        class_="mb-head",
    )


def limits_html(service: Service) -> Markup:
    """What may be uploaded, and what becomes of it."""
    limits = service.limits
    return render.note_html(
        f"Files of up to {limits.upload:g} MB and {limits.duration:g} s. A file is removed from the server when "
        f"another takes its place, when the page is closed, and after {limits.keep:g} minutes at the latest. ",
        tag("a", "HTTP API", href="api/openapi.json"),
    )


def theme() -> gr.themes.Base:
    """Plain, in the fonts of the visitor's machine."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_sm,
        font=LOCAL,
        font_mono=["ui-monospace", "monospace"],
    )
