"""Pieces of the page as HTML with everything in it: no file is written for them, and what is text is escaped."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from muybridge.explain import Explanation
from muybridge.predicting.draw import colour_of
from muybridge.predicting.timeline import Timeline, clock
from muybridge.report.markup import Markup, join, tag
from muybridge.structures import Prediction
from muybridge.web.service import Answer

FRAME = 224  # pixels, the long side of a picture of a frame
MOST_ROWS = 12

STYLE = """
.mb-note { color: var(--body-text-color-subdued); font-size: 14px; margin: 4px 0; overflow-wrap: anywhere; }
.mb-error { border-left: 4px solid #c8372d; padding: 10px 14px; background: color-mix(in srgb, #c8372d 9%, transparent);
  overflow-wrap: anywhere; }
.mb-frames { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
@media (min-width: 1200px) { .mb-frames { grid-template-columns: repeat(8, 1fr); } }
.mb-frames figure { margin: 0; }
.mb-frames img { width: 100%; display: block; border-radius: 4px; }
.mb-frames figcaption { font-size: 12px; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.mb-line { display: grid; grid-template-columns: minmax(90px, 34%) 1fr; column-gap: 10px; align-items: center;
  margin: 4px 0; font-size: 14px; }
.mb-line > :first-child { overflow-wrap: anywhere; line-height: 1.25; }
.mb-track { position: relative; height: 18px; border-radius: 3px; background: var(--border-color-primary); }
.mb-track i { position: absolute; top: 0; bottom: 0; min-width: 2px; border-radius: 2px; }
.mb-score { grid-template-columns: minmax(90px, 42%) 1fr 52px; }
.mb-score b { text-align: right; font-weight: 500; font-variant-numeric: tabular-nums; }
.mb-score i { left: 0; background: #2f6fde; min-width: 0; }
.mb-best { font-size: 22px; margin: 0 0 10px; overflow-wrap: anywhere; }
#video video { max-height: 360px; }
.mb-ends { display: flex; justify-content: space-between; font-size: 12px; color: var(--body-text-color-subdued); }
.mb-scroll { overflow-x: auto; }
.mb-scroll table { font-size: 14px; border-collapse: collapse; }
.mb-scroll td { padding: 2px 14px 2px 0; font-variant-numeric: tabular-nums; }
.mb-sheet { width: 100%; min-width: 760px; border-radius: 4px; display: block; }
.mb-film { width: 100%; max-width: 560px; border-radius: 4px; margin-top: 10px; }
.mb-head h1 { font-size: 26px; margin: 0 0 4px; font-weight: 650; overflow-wrap: anywhere; }
.mb-head p { margin: 2px 0; }
"""


def note_html(*text: object) -> Markup:
    """A sentence in grey."""
    return tag("p", *text, class_="mb-note")


def error_html(text: str) -> Markup:
    """Why there is no answer; screen readers say it."""
    return tag("div", text, class_="mb-error", role="alert")


def bars_html(answers: Sequence[Prediction]) -> Markup:
    """The best class in large letters, then a row a class: label, bar, score."""
    rows = [
        tag(
            "div",
            tag("span", one.label),
            tag("div", tag("i", style=f"width:{one.score:.2%}"), class_="mb-track"),
            tag("b", f"{one.score:.1%}"),
            class_="mb-line mb-score",
        )
        for one in answers
    ]
    return join(tag("h2", answers[0].label, class_="mb-best"), *rows)


def frames_html(answer: Answer) -> Markup:
    """The frames that the answer comes from, each with its time."""
    figures = []
    for t, index in enumerate(answer.indices):
        when = f"frame {index}" if answer.seconds is None else f"{answer.seconds[t]:.2f} s"
        picture = Image.fromarray(answer.pictures[t])
        picture.thumbnail((FRAME, FRAME))
        source = data_uri(picture, "JPEG", quality=82)
        figures.append(tag("figure", tag("img", src=source, alt=f"frame {index}"), tag("figcaption", when)))
    height, width = answer.size
    lasts = f"{answer.duration:.1f} s" if answer.duration < 60 else f"{clock(answer.duration)} min"
    said = f"{lasts}, {answer.frame_count} frames of {width} x {height} pixels."
    if answer.views > 1:
        said += f" The answer is the mean of {answer.views} views; these are the frames of the one in the middle."
    return join(tag("div", *figures, class_="mb-frames"), note_html(said))


def timeline_html(line: Timeline) -> Markup:
    """A row a class, its segments along the time, strong where they are likely; below them a table."""
    if not line.segments:
        return note_html(line.lines()[0].strip())
    seen: dict[str, float] = {}
    for segment in line:
        seen[segment.label] = seen.get(segment.label, 0.0) + segment.end - segment.start
    shown = sorted(seen, key=lambda label: -seen[label])[:MOST_ROWS]
    rows = []
    for number, label in enumerate(shown):
        red, green, blue = colour_of(number)
        bars = [
            tag(
                "i",
                style=f"left:{100 * segment.start / line.duration:.2f}%;"
                f"width:{100 * (segment.end - segment.start) / line.duration:.2f}%;"
                f"background:rgba({red},{green},{blue},{0.25 + 0.75 * segment.score:.2f})",
                title=f"{clock(segment.start)} - {clock(segment.end)}: {segment.score:.0%}",
            )
            for segment in line
            if segment.label == label
        ]
        rows.append(tag("div", tag("span", label), tag("div", *bars, class_="mb-track"), class_="mb-line"))
    ends = tag("div", tag("span", clock(0)), tag("span", clock(line.duration)), class_="mb-ends")
    rows.append(tag("div", tag("span"), ends, class_="mb-line"))
    if len(seen) > len(shown):
        rows.append(note_html(f"and {len(seen) - len(shown)} more classes"))
    cells = [
        tag(
            "tr",
            tag("td", f"{clock(one.start)} - {clock(one.end)}"),
            tag("td", f"{one.score:.0%}"),
            tag("td", one.label),
        )
        for one in line
    ]
    said = f"Windows of {line.window:g} s, one every {line.step:.3g} s; each is answered as a video of its own."
    table = tag(
        "details", tag("summary", f"{len(line)} segments"), tag("div", tag("table", *cells), class_="mb-scroll")
    )
    return join(*rows, note_html(said), table)


def explanation_html(seen: Explanation) -> Markup:
    """The still, and the film if the video can still be read."""
    still = tag("img", src=data_uri(seen.sheet, "PNG", optimize=True), alt=str(seen), class_="mb-sheet")
    film = tag(
        "video",
        src=f"data:video/mp4;base64,{base64.b64encode(_film(seen)).decode()}",
        class_="mb-film",
        controls="",
        autoplay="",
        loop="",
        muted="",
        playsinline="",
    )
    return join(tag("div", still, class_="mb-scroll"), film, *(note_html(one) for one in seen.notes))


def data_uri(picture: Image.Image, kind: str, **options: object) -> str:
    """A picture that stands in the page itself."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _film(seen: Explanation) -> bytes:
    from muybridge.explain.film import write_film

    with tempfile.TemporaryDirectory(prefix="muybridge-serve-") as folder:
        write_film(seen, Path(folder) / "film.mp4")
        return (Path(folder) / "film.mp4").read_bytes()
