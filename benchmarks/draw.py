"""Bars as an SVG picture for the documentation: groups of bars, one colour a series, a line at 1."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

COLOURS = ("#2457c5", "#8fa9dd", "#c8641b")
BAR, GAP, LEFT, WIDTH, TOP = 16, 18, 90, 860, 56
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1d1f24}.muted{fill:#5d626d}line{stroke:#5d626d;stroke-dasharray:3 3}"
    "@media(prefers-color-scheme:dark){text{fill:#e9e8e4}.muted{fill:#a2a7b1}line{stroke:#a2a7b1}}"
)


def bars(title: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """A picture of ratios.

    Args:
        title: what they are.
        groups: name of a group -> name of a series -> ratio; all groups have the same series.
    """
    series = list(next(iter(groups.values())))
    largest = max(value for group in groups.values() for value in group.values())
    scale = (WIDTH - LEFT - 60) / largest
    step = len(series) * BAR + GAP
    height = TOP + len(groups) * step
    parts = [f'<text x="0" y="16" font-weight="600">{escape(title)}</text>']
    place = 0.0
    for colour, name in zip(COLOURS, series, strict=False):
        parts.append(f'<rect x="{place:.0f}" y="28" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text class="muted" x="{place + 18:.0f}" y="39">{escape(name)}</text>')
        place += 50 + 7.5 * len(name)
    for row, (group, values) in enumerate(groups.items()):
        y = TOP + row * step
        parts.append(f'<text x="0" y="{y + len(series) * BAR / 2 + 5:.0f}">{escape(group)}</text>')
        for i, (colour, value) in enumerate(zip(COLOURS, values.values(), strict=False)):
            top = y + i * BAR
            parts.append(
                f'<rect x="{LEFT}" y="{top}" width="{value * scale:.1f}" height="{BAR - 3}" rx="2" fill="{colour}"/>'
                f'<text class="muted" x="{LEFT + value * scale + 6:.1f}" y="{top + 11}">{value:.2f}</text>'
            )
    one = LEFT + scale
    parts.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{TOP - 8}" y2="{height - GAP + 4}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )
