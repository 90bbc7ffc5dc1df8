"""The screenshots of the docs, from nothing but the library: terminal, web page, report, explanations, timeline.

    muybridge demo --out muybridge-demo              # made here if it is not there: about three minutes
    python docs/pictures.py --demo muybridge-demo    # all of them, into docs/images
    python docs/pictures.py --only serve report      # some

What is shown is real: the models are the demo's, the films are drawn by its rules and were not trained on, the
commands are run. The page and the report need Chromium and Playwright (pip install playwright), the page muybridge[web]
too.
The pictures of the methods are `draw_methods.py`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

OUT = Path(__file__).parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDEST = 1200  # px
NUMBER = 900  # of the first film that is shown; the demo's own are 0 to 39
SCENES = (  # a long film: each for about four seconds
    "opening something",
    "lifting something up",
    "lowering something down",
    "moving something from left to right",
    "closing something",
)
SHELF = ("moving something from left to right", 0)  # the film of docs/explain.md

COLOURS = (  # black, red, green, yellow, blue, magenta, cyan, white; then the same, brighter
    "3c4048 e06c75 98c379 e5c07b 61afef c678dd 56b6c2 dcdfe4 808691 f0828a aad78c f0d091 7dc0fa d691ec 6ecad6 ffffff"
)
DARK = TerminalTheme((30, 33, 39), (220, 223, 228), [tuple(bytes.fromhex(colour)) for colour in COLOURS.split()])
# Rich's own frame without what it fetches from elsewhere and without the buttons of a window. The letters are a little
# larger than Rich's, whose lines of boxes do not meet.
FRAME = """<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
font-size: 20.9px; line-height: {line_height}px;
}}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#1e2127"/>
<g transform="translate(14, 12)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


@dataclass(frozen=True)
class Kit:
    """What pictures are made of.

    Attributes:
        demo: what `muybridge demo` wrote.
        work: a folder that goes away, with `runs` and `films`.
    """

    demo: Path
    work: Path


# ---- a terminal -----------------------------------------------------------------------------------------------------


def output_of(words: list[str], folder: Path, columns: int) -> str:
    """What a command of ours writes to a terminal of so many columns, with its colours."""
    import pty

    ours, theirs = pty.openpty()
    settings = {"COLUMNS": str(columns), "LINES": "60", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | settings
    source = str(Path(__file__).parents[1] / "src")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "muybridge", *words]
    with tempfile.TemporaryFile() as complaints:
        # Bars of progress go to stderr and are gone when a command ends.
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs, stderr=complaints)
        os.close(theirs)
        pieces = []
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        os.close(ours)
        if process.wait() != 0:
            complaints.seek(0)
            sys.exit(f"muybridge {shlex.join(words)} failed: {complaints.read().decode(errors='replace')}")
    return b"".join(pieces).decode().replace("\r\n", "\n")


def terminal_svg(commands: list[tuple[str, str]], columns: int, name: str) -> str:
    """A terminal as an SVG picture, texts as texts.

    Args:
        commands: what is typed, and what is written then, with ANSI escapes.
        columns: of the terminal.
        name: for the classes of the styles; letters, digits and hyphens.
    """
    console = Console(
        record=True,
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    for number, (typed, written) in enumerate(commands):
        prompt = Text.assemble(("$ ", "bold green"), (typed, "bold"))
        console.print(prompt if number == 0 else Text("\n") + prompt)
        console.print(Text.from_ansi("\n".join(line.rstrip() for line in written.rstrip().split("\n"))))
    return console.export_svg(title="", theme=DARK, code_format=FRAME, unique_id=name)


def terminal(*commands: str, columns: int = 88) -> Callable[[Kit, str], str]:
    """A picture of commands and what they write."""

    def draw(kit: Kit, name: str) -> str:
        done = []
        for command in commands:
            words = shlex.split(command)
            done.append((command, output_of(words[1:], kit.work, columns)))
        return terminal_svg(done, columns, f"t-{name}")

    return draw


# ---- pages ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def browser(width: int) -> Iterator[Any]:
    """An empty page of a headless Chromium."""
    path = next((found for one in BROWSERS if (found := shutil.which(one))), None)
    if path is None:
        sys.exit(f"There is no Chromium ({', '.join(BROWSERS)}): apt install chromium.")
    if find_spec("playwright") is None:
        sys.exit("Playwright, which drives Chromium, is not installed: pip install playwright.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--hide-scrollbars"])
        yield chromium.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
        chromium.close()


def shot(page: Any, begin: str = "", end: str = "") -> Image.Image:
    """The whole page, or what lies between two of its second headings."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    edges = [
        round(page.locator(f"h2:text-is('{heading}')").bounding_box()["y"]) if heading else edge
        for heading, edge in ((begin, 0), (end, picture.height))
    ]
    return picture.crop((0, edges[0], picture.width, edges[1]))


def serve(kit: Kit, name: str) -> Image.Image:
    """The web page with an answer, its frames and a timeline."""
    if find_spec("gradio") is None:
        sys.exit("Gradio is not installed: pip install 'muybridge[web]'.")
    import muybridge
    from muybridge.web.serve import serving

    recogniser = muybridge.load(kit.demo / "evl", "cpu")
    with serving(recogniser, window=2.0, licence="CC0, the demo's films") as server, browser(1200) as page:
        page.goto(server.address)
        page.wait_for_selector("text=Drop Video Here")
        page.wait_for_timeout(500)
        page.set_input_files("#video input[type=file]", str(kit.work / "long.mp4"))
        page.wait_for_selector("#timeline .mb-track i", timeout=120_000)
        page.wait_for_timeout(1500)  # the film's first picture, and bars that grow
        return shot(page)


def report(begin: str, end: str) -> Callable[[Kit, str], Image.Image]:
    """A part of a run's page, from one heading to another."""

    def draw(kit: Kit, name: str) -> Image.Image:
        from muybridge.report.page import write_report

        path = write_report(kit.work / "runs" / "evl", kit.work / "report.html")
        with browser(1000) as page:
            page.goto(path.absolute().as_uri())
            return shot(page, begin, end)

    return draw


# ---- by Pillow ------------------------------------------------------------------------------------------------------


def explained(model: str) -> Callable[[Kit, str], Image.Image]:
    """The still of `muybridge explain`."""

    def draw(kit: Kit, name: str) -> Image.Image:
        import muybridge

        recogniser = muybridge.load(kit.demo / model, "cpu")
        seen = recogniser.explain(kit.work / "left-to-right.mp4", label=SHELF[0], how="gradient")
        print(f"  {model}: {seen.score:.1%}, {', '.join(f'{frame.importance:+.3f}' for frame in seen.frames)}")
        return seen.sheet

    return draw


def timeline(kit: Kit, name: str) -> Image.Image:
    """`timeline.plot()` of the long film."""
    import muybridge

    recogniser = muybridge.load(kit.demo / "evl", "cpu")
    return recogniser.timeline("long.mp4", window=2, step=1, min_score=0.5).plot(900)


def answers(kit: Kit, name: str) -> Image.Image:
    """The demo's own picture."""
    return Image.open(kit.demo / "answers.png")


PICTURES: dict[str, Callable[[Kit, str], Image.Image | str]] = {
    "demo.png": answers,
    "timeline.png": timeline,
    "explain-evl.webp": explained("evl"),
    "explain-probe.webp": explained("probe"),
    "serve.webp": serve,
    "report.webp": report("", "Results"),
    "report-classes.webp": report("Classes", "Most certain right answers"),
    "terminal-predict.svg": terminal(
        "muybridge predict runs/evl films --top 3", "muybridge predict runs/evl long.mp4 --windows 2 --min-score 0.5"
    ),
    "terminal-explain.svg": terminal("muybridge explain runs/evl left-to-right.mp4"),
    "terminal-compare.svg": terminal("muybridge compare runs/evl runs/probe", columns=92),
    "terminal-help.svg": terminal("muybridge --help", columns=100),
}


def prepare(kit: Kit) -> None:
    """The demo's runs under short names, and films that were in neither of its sets."""
    from muybridge.demo.films import encode, film, write_film

    (kit.work / "films").mkdir()
    (kit.work / "runs").mkdir()
    for run in ("evl", "probe"):
        shutil.copytree(kit.demo / run, kit.work / "runs" / run, ignore=shutil.ignore_patterns("last"))
    for label in SCENES[:2]:
        write_film(kit.work / "films" / f"{label.split()[0]}.mp4", label, "val", NUMBER)
    write_film(kit.work / "left-to-right.mp4", SHELF[0], "val", SHELF[1])
    parts = [film(label, "val", NUMBER + number) for label in SCENES for number in (1, 2)]
    encode(np.concatenate(parts), kit.work / "long.mp4")


def write(picture: Image.Image | str, path: Path) -> None:
    """A picture as its name says, small."""
    if isinstance(picture, str):
        path.write_text(picture, encoding="utf-8")
        return
    if picture.width > WIDEST and path.name != "demo.png":
        height = round(picture.height * WIDEST / picture.width)
        picture = picture.resize((WIDEST, height), Image.Resampling.LANCZOS)
    if path.suffix == ".webp":
        picture.save(path, quality=82, method=6)
    else:
        picture.quantize(256).save(path, optimize=True)  # a third of the size, and nobody can tell


def main() -> None:
    names = {name.partition(".")[0]: name for name in PICTURES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--demo", type=Path, default=Path("muybridge-demo"), help="what `muybridge demo` wrote, or will"
    )
    parser.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME", help=", ".join(names))
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if not asked.demo.exists():
        subprocess.run([sys.executable, "-m", "muybridge", "demo", "--out", str(asked.demo)], check=True)
    if not (asked.demo / "evl").is_dir():
        parser.error(
            f"{asked.demo} has no run 'evl'; give a folder that `muybridge demo` wrote, or one that is not there"
        )
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        kit = Kit(asked.demo.absolute(), Path(work))
        prepare(kit)
        # Pictures tell no folder of this machine: what is shown lies here, and here is at home.
        os.chdir(work)
        os.environ["HOME"] = work
        for name in asked.only:
            path = out / names[name]
            write(PICTURES[path.name](kit, name), path)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
