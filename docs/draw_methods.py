"""The pictures of docs/methods/*.md: one SVG a method, into docs/images/methods.

    python docs/draw_methods.py

Blue is frozen, orange is trained, grey comes from the video, green is the answer. Texts are texts, so that a search
finds them; the ground is white in either colour scheme.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

OUT = Path(__file__).parent / "images" / "methods"
COLOURS = {  # kind -> (filling, edge)
    "frozen": ("#dbe8f5", "#4a78a8"),
    "trained": ("#ffe0c7", "#cf6a1f"),
    "video": ("#eeeeee", "#8a8a8a"),
    "answer": ("#dff0dc", "#4f9146"),
}
LEGEND = {"frozen": "frozen", "trained": "trained", "video": "of the video"}
LINE = 16  # px from one line of text to the next


class Picture:
    """Boxes, arrows and words on a white ground; lengths in px."""

    def __init__(self, width: int, height: int, about: str) -> None:
        self.width, self.height, self.about = width, height, about
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, text: str, kind: str) -> None:
        """A rounded box with lines of text in its middle."""
        filling, edge = COLOURS[kind]
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{filling}" stroke="{edge}"/>'
        )
        lines = text.split("\n")
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + LINE * (number - (len(lines) - 1) / 2) + 4.5, line)

    def text(self, x: float, y: float, text: str, anchor: str = "middle", colour: str = "#222") -> None:
        """One line of text; y is its base line."""
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>')

    def arrow(
        self, *points: tuple[float, float], colour: str = "#555", head: bool = True, dashed: bool = False
    ) -> None:
        """A line through these points, with a head at the last."""
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        end = f' marker-end="url(#head-{colour[1:]})"' if head else ""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}{end}/>')

    def plus(self, x: float, y: float) -> None:
        """A sum."""
        self.parts.append(f'<circle cx="{x}" cy="{y}" r="9" fill="white" stroke="#555"/>')
        self.text(x, y + 5, "+")

    def save(self, name: str) -> None:
        """Write the picture with its legend below."""
        for number, (kind, said) in enumerate(LEGEND.items()):
            filling, edge = COLOURS[kind]
            x, y = 20 + 110 * number, self.height - 24
            self.parts.append(f'<rect x="{x}" y="{y}" width="14" height="14" rx="3" fill="{filling}" stroke="{edge}"/>')
            self.text(x + 20, y + 12, said, "start", "#555")
        heads = "".join(
            f'<marker id="head-{colour}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#{colour}"/></marker>'
            for colour in ("555", "cf6a1f")
        )
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="system-ui, sans-serif" font-size="13" role="img">\n'
            f"<title>{escape(self.about)}</title>\n<defs>{heads}</defs>\n"
            f'<rect width="{self.width}" height="{self.height}" rx="8" fill="white"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n",
            encoding="utf-8",
        )


def frames_through_blocks(p: Picture, blocks: int = 3) -> list[float]:
    """Three frames at the left, each through a row of frozen blocks; returns the rows' middles."""
    rows = [60.0, 130.0, 200.0]
    for name, y in zip(("frame t - 1", "frame t", "frame t + 1"), rows, strict=True):
        p.box(20, y - 22, 90, 44, name, "video")
        p.arrow((110, y), (138, y))
        for block in range(blocks):
            x = 140 + 100 * block
            p.box(x, y - 22, 76, 44, "block", "frozen")
            p.arrow((x + 76, y), (x + 98, y))
    return rows


def probe() -> None:
    """Every frame by itself, their mean, one linear map."""
    p = Picture(720, 280, "Linear probe: frozen features of the frames, their mean, one linear map")
    rows = frames_through_blocks(p)
    for y in rows:
        p.box(440, y - 22, 76, 44, "feature", "video")
        p.arrow((516, y), (546, y), (546, 130), (566, 130), head=y == 130)
    p.box(568, 108, 60, 44, "mean", "video")
    p.arrow((628, 130), (646, 130))
    p.box(648, 108, 56, 44, "linear", "trained")
    p.save("probe")


def evl() -> None:
    """Frozen blocks to the left, a decoder with one query to the right."""
    p = Picture(
        760, 446, "EVL: a decoder with one query token asks the tokens of the last blocks of a frozen transformer"
    )
    p.box(20, 30, 230, 34, "8 frames, each by itself", "video")
    for number, name in enumerate(("block N - 3", "block N - 2", "block N - 1", "block N")):
        y = 92 + 78 * number
        p.arrow((135, y - (28 if number == 0 else 34)), (135, y - 2))
        p.box(20, y, 230, 44, f"{name}: tokens, queries, keys", "frozen")
        p.arrow((250, y + 22), (282, y + 22))
        p.box(284, y, 216, 44, "+ convolution + position\nin time + match of neighbours", "trained")
        p.arrow((500, y + 22), (538, y + 22))
        p.text(519, y + 15, "k, v")
        p.box(540, y, 130, 44, "attention, MLP", "trained")
        p.arrow((605, y + 44), (605, y + 76))
    p.box(540, 30, 130, 34, "one query token", "trained")
    p.arrow((605, 64), (605, 90))
    p.box(540, 402, 130, 30, "linear", "trained")
    p.arrow((670, 417), (694, 417))
    p.text(700, 422, "logits", "start")
    p.save("evl")


def ila() -> None:
    """Alignment between neighbouring frames before every block."""
    p = Picture(784, 350, "ILA: neighbouring frames are aligned before every frozen block")
    rows = [50.0, 150.0, 250.0]
    for name, y in zip(("frame t - 1", "frame t", "frame t + 1"), rows, strict=True):
        p.box(20, y - 22, 90, 44, name, "video")
        p.arrow((110, y), (200, y))
        p.plus(210, y)
        p.arrow((219, y), (248, y))
        p.box(250, y - 22, 76, 44, "block", "frozen")
        p.arrow((326, y), (416, y))
        p.plus(426, y)
        p.arrow((435, y), (464, y))
        p.box(466, y - 22, 76, 44, "block", "frozen")
        p.arrow((542, y), (574, y))
    for y in (100.0, 200.0):
        for x in (120.0, 336.0):
            p.box(x, y - 19, 66, 38, "align", "trained")
            for end in (y - 50, y + 50):
                p.arrow((x + 66, y), (x + 90, y), (x + 90, end + (10 if end < y else -10)), colour="#cf6a1f")
            p.arrow((x + 33, y - 50), (x + 33, y - 21))
            p.arrow((x + 33, y + 50), (x + 33, y + 21))
    p.box(576, 28, 84, 244, "transformer\nover the\nframes", "trained")
    p.arrow((660, 150), (678, 150))
    p.box(680, 116, 90, 68, "class names\n+ prompts", "trained")
    p.arrow((725, 184), (725, 226))
    p.text(725, 244, "logits")
    p.text(153, 300, "points in both frames, a mask around each; what lies there is emphasised", "start", "#555")
    p.save("ila")


def dist() -> None:
    """Spatial encoder, integration branch and temporal encoder."""
    p = Picture(
        760, 330, "DiST: sparse frames in a frozen transformer, dense frames in a light one, a branch between them"
    )
    for y, name, kind in ((30, "sparse frames", "video"), (230, "dense frames", "video")):
        p.box(16, y, 104, 50, name, kind)
        p.arrow((120, y + 25), (158, y + 25))
    for number in range(3):
        x = 160 + 140 * number
        p.box(x, 30, 100, 50, "block", "frozen")
        p.arrow((x + 50, 80), (x + 50, 126))
        p.box(x, 128, 100, 54, "integration\n384 channels", "trained")
        p.box(x, 230, 100, 50, "convolutions\n96 channels", "trained")
        p.arrow((x + 35, 182), (x + 35, 228), colour="#cf6a1f")
        p.arrow((x + 65, 230), (x + 65, 184), colour="#cf6a1f")
        if number < 2:
            for y in (55, 155, 255):
                p.arrow((x + 100, y), (x + 138, y))
    p.arrow((540, 155), (578, 155))
    p.box(580, 122, 76, 66, "attention\npooling", "trained")
    p.arrow((540, 55), (618, 55), (618, 120))
    p.text(626, 100, "class token", "start", "#555")
    p.arrow((656, 155), (676, 155))
    p.box(678, 122, 74, 66, "class\nnames", "frozen")
    p.arrow((715, 188), (715, 222))
    p.text(715, 240, "logits")
    p.save("dist")


def zeroi2v() -> None:
    """One block, and which frame each head looks at."""
    p = Picture(
        850, 380, "ZeroI2V: linear adapters around frozen layers; some heads take keys and values of other frames"
    )
    y = 60
    chain = (
        ("norm", "frozen", 56), ("adapter", "trained", 70), ("attention,\nheads shifted", "frozen", 104),
        ("adapter", "trained", 70), ("+", "", 0), ("norm", "frozen", 56), ("adapter", "trained", 70),
        ("MLP", "frozen", 56), ("adapter", "trained", 70), ("+", "", 0),
    )  # fmt: skip
    x, start = 52.0, 32.0
    p.text(20, y + 5, "x")
    for name, kind, width in chain:
        p.arrow((x - 22, y), (x - 2, y))
        if name == "+":
            p.plus(x + 8, y)
            p.arrow((start, y), (start, y + 48), (x + 8, y + 48), (x + 8, y + 11))
            x += 16
            start = x + 8
        else:
            p.box(x, y - 24, width, 48, name, kind)
            x += width
        x += 20
    p.text(20, 172, "Whose keys and values a head sees:", "start", "#555")
    for head in range(12):
        p.text(134 + 50 * head, 196, str(head + 1), colour="#555")
        for row in range(3):
            seen = row - 1 + {0: -1, 1: 1}.get(head, 0)
            name = f"t {'+' if seen > 0 else '-'} {abs(seen)}" if seen else "t"
            p.box(112 + 50 * head, 206 + 40 * row, 44, 32, name, "answer" if head < 2 else "video")
    p.text(96, 196, "head", "end", "#555")
    for row, name in enumerate(("frame t - 1", "frame t", "frame t + 1")):
        p.text(96, 226 + 40 * row, name, "end")
    p.text(20, 142, "An adapter is linear: after training it is multiplied into its neighbour.", "start", "#555")
    p.save("zeroi2v")


def st_adapter() -> None:
    """The bottleneck before a block."""
    p = Picture(720, 210, "ST-Adapter: a bottleneck with a depthwise convolution over time before every frozen block")
    p.box(20, 40, 100, 50, "patches of\nall frames", "video")
    p.arrow((120, 65), (158, 65))
    for x, width, name in (
        (160, 70, "down"),
        (250, 130, "3-D convolution\n3 x 1 x 1"),
        (400, 60, "GELU"),
        (480, 60, "up"),
    ):
        p.box(x, 40, width, 50, name, "trained")
        p.arrow((x + width, 65), (x + width + 18, 65))
    p.plus(568, 65)
    p.arrow((140, 65), (140, 130), (568, 130), (568, 76))
    p.arrow((577, 65), (608, 65))
    p.box(610, 40, 90, 50, "block", "frozen")
    p.text(315, 152, "a place sees itself one frame before and after", "middle", "#555")
    p.save("st_adapter")


def aim() -> None:
    """One block: attention over time, over space, MLP."""
    p = Picture(760, 260, "AIM: the frozen attention of a block is used twice, over time and over space")
    y = 70
    p.text(18, y + 5, "x")
    p.arrow((28, y), (52, y))
    p.box(54, y - 26, 106, 52, "attention\nover time", "frozen")
    p.arrow((160, y), (178, y))
    p.box(180, y - 26, 70, 52, "adapter", "trained")
    p.arrow((250, y), (270, y))
    p.plus(280, y)
    p.arrow((38, y), (38, y + 60), (280, y + 60), (280, y + 11))
    p.arrow((289, y), (318, y))
    p.box(320, y - 26, 106, 52, "attention\nover space", "frozen")
    p.arrow((426, y), (444, y))
    p.box(446, y - 26, 84, 52, "adapter\nand skip", "trained")
    p.arrow((530, y), (550, y))
    p.plus(560, y)
    p.arrow((304, y), (304, y + 60), (560, y + 60), (560, y + 11))
    p.arrow((569, y), (608, y))
    p.box(610, y - 26, 70, 52, "MLP", "frozen")
    p.arrow((680, y), (706, y))
    p.plus(716, y)
    p.box(610, y + 46, 70, 44, "adapter", "trained")
    p.arrow((588, y), (588, y + 68), (608, y + 68))
    p.arrow((680, y + 68), (716, y + 68), (716, y + 11))
    p.arrow((588, y), (588, y - 46), (716, y - 46), (716, y - 11))
    p.arrow((107, y + 28), (107, 176), (373, 176), (373, y + 28), colour="#555", head=False, dashed=True)
    p.text(240, 194, "the same frozen weights", colour="#555")
    p.save("aim")


if __name__ == "__main__":
    for draw in (probe, evl, ila, dist, zeroi2v, st_adapter, aim):
        draw()
