"""The HTTP API: the bytes of a video in one request, JSON out; described by `/api/openapi.json`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from pydantic import Field

from muybridge import __version__
from muybridge.errors import MuybridgeError
from muybridge.web.files import Uploads
from muybridge.web.limits import MOST_TOP, check_names
from muybridge.web.service import NAME, Busy, Service, told

WAIT = 60.0  # seconds that nothing may come of a file
BODY = {
    "requestBody": {
        "required": True,
        "description": "The video file itself, as it is.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
Top = Annotated[int, Query(ge=1, le=MOST_TOP, description="How many classes.")]
Names = Annotated[
    str,
    Query(description="Other class names, separated by commas; for models with a text head, see /api/model."),
]


@dataclass(frozen=True)
class OneClass:
    """A class and how likely it is."""

    label: str
    index: Annotated[int, Field(description="Line in the list of classes, from 0.")]
    score: Annotated[float, Field(description="Probability, 0 to 1.")]


@dataclass(frozen=True)
class Facts:
    """What the file is."""

    duration: Annotated[float, Field(description="In seconds.")]
    frames: int
    width: Annotated[int, Field(description="In pixels, upright.")]
    height: int


@dataclass(frozen=True)
class Sampled:
    """A frame that the model was given."""

    frame: Annotated[int, Field(description="Its place in the video, from 0.")]
    seconds: Annotated[float | None, Field(description="When it is shown; null: the file does not tell.")]


@dataclass(frozen=True)
class AnswerOut:
    """The answer to a video."""

    predictions: Annotated[list[OneClass], Field(description="Best first.")]
    video: Facts
    sampled: Annotated[list[Sampled], Field(description="The frames of the view in the middle.")]
    views: Annotated[int, Field(description="The scores are the mean of so many views.")]


@dataclass(frozen=True)
class SegmentOut(OneClass):
    """A stretch of a video in which one class is the best."""

    start: Annotated[float, Field(description="In seconds.")]
    end: float


@dataclass(frozen=True)
class WindowOut:
    """A part of a video that was answered by itself."""

    start: float
    end: float
    predictions: list[OneClass]


@dataclass(frozen=True)
class TimelineOut:
    """What happens when."""

    duration: float
    window: float
    step: float
    min_score: float
    segments: list[SegmentOut]
    windows: list[WindowOut]


@dataclass(frozen=True)
class FrameOut:
    """What is said of a frame that the model was given."""

    frame: int
    seconds: float | None
    importance: Annotated[float | None, Field(description="What the class's probability loses without the frame.")]
    score_without: float | None
    share: Annotated[float | None, Field(description="Its part of the map's sum.")]


@dataclass(frozen=True)
class ExplanationOut:
    """Which frames matter."""

    label: str
    index: int
    score: float
    predictions: list[OneClass]
    method: Annotated[str, Field(description="attention, rollout or gradient.")]
    map: str
    frames: list[FrameOut]
    notes: list[str]


@dataclass(frozen=True)
class ModelOut:
    """What is served, and what it takes."""

    method: str
    backbone: str
    labels: list[str]
    frames: int
    size: Annotated[list[int], Field(description="Height and width in pixels of what the model reads.")]
    own_labels: Annotated[bool, Field(description="Whether `labels` can be given.")]
    upload_megabytes: float
    duration_seconds: float


@dataclass(frozen=True)
class ErrorOut:
    """Why there is no answer."""

    detail: str


ERRORS: dict[int | str, dict[str, Any]] = {
    413: {"model": ErrorOut, "description": "The file is too large."},
    422: {"model": ErrorOut, "description": "The video cannot be read, is beyond a limit, or an argument is wrong."},
    503: {"model": ErrorOut, "description": "Too many requests; come again in a minute."},
}


def make_api(service: Service, uploads: Uploads) -> FastAPI:
    """The application with `/api/predict`, `/api/timeline`, `/api/explain` and `/api/model`."""
    app = FastAPI(
        title="muybridge serve",
        version=__version__,
        description="POST the bytes of a video, get JSON. Files are removed after the answer.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )

    async def asked(request: Request, ask: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        path = uploads.folder / f"request-{time.monotonic_ns()}"
        with uploads.reading(path, last=True):
            await _receive(request, str(path), service.limits.bytes)
            try:
                return await asyncio.to_thread(ask, str(path))
            except Busy as error:
                raise HTTPException(503, told(error)) from None
            except MuybridgeError as error:
                raise HTTPException(422, told(error)) from None

    async def predict(request: Request, top: Top = 5, labels: Names = "") -> dict[str, Any]:
        """The best classes of a video."""
        return await asked(request, lambda path: service.answer(path, check_names(labels), top, NAME).to_dict())

    async def timeline(
        request: Request,
        window: Annotated[float, Query(gt=0, le=3600, description="Length of a window in seconds.")] = 4.0,
        min_score: Annotated[float, Query(ge=0, le=1, description="Windows below count as nothing.")] = 0.0,
        top: Top = 5,
        labels: Names = "",
    ) -> dict[str, Any]:
        """What happens when in a long video."""
        return await asked(
            request,
            lambda path: service.timeline(path, window, check_names(labels), top, min_score, NAME).to_dict(),
        )

    async def explain(
        request: Request,
        label: Annotated[str, Query(description="The class to explain; by default the one recognised.")] = "",
        labels: Names = "",
    ) -> dict[str, Any]:
        """How much each frame of a video matters."""
        return await asked(
            request,
            lambda path: service.explain(path, check_names(labels), label or None, NAME).to_dict(),
        )

    def model() -> dict[str, Any]:
        """What is served."""
        spec, limits = service.recogniser.spec, service.limits
        return {
            "method": spec.method,
            "backbone": spec.backbone,
            "labels": list(spec.labels),
            "frames": spec.sampling.frames,
            "size": list(spec.transform.size),
            "own_labels": service.can_name,
            "upload_megabytes": limits.upload,
            "duration_seconds": limits.duration,
        }

    for function, shape in ((predict, AnswerOut), (timeline, TimelineOut), (explain, ExplanationOut)):
        app.add_api_route(
            f"/api/{function.__name__}",
            function,
            methods=["POST"],
            response_model=shape,
            responses=ERRORS,
            openapi_extra=BODY,
        )
    app.add_api_route("/api/model", model, methods=["GET"], response_model=ModelOut)
    return app


async def _receive(request: Request, path: str, most: int) -> None:
    """Write the body to a file as it comes; it is never in memory as a whole."""
    size = 0
    with open(path, "xb") as file:
        parts = request.stream().__aiter__()
        while True:
            try:
                part = await asyncio.wait_for(parts.__anext__(), WAIT)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise HTTPException(408, f"Nothing more of the file came for {WAIT:g} s.") from None
            size += len(part)
            if size > most:
                raise HTTPException(413, f"The file has more than {most / 1e6:g} MB, which is all that is possible.")
            file.write(part)
    if not size:
        raise HTTPException(422, "Nothing came; expected the bytes of a video file as the body.")
