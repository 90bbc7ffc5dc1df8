"""HTML and SVG from nested calls: whatever is a plain text is escaped, so that a class name cannot become a tag."""

from __future__ import annotations

from html import escape
from typing import Any

VOID = {"meta", "img", "br", "hr", "link", "col"}


class Markup(str):
    """A text that is HTML already and is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: Any) -> Markup:
    """One element.

    Args:
        name: such as `p`.
        children: `Markup` as it is, anything else as escaped text; None is left out.
        attributes: by name, with `_` for `-` and one behind a word of Python (`class_`); None is left out.

    >>> tag("b", "1 < 2", class_="x")
    '<b class="x">1 &lt; 2</b>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Several pieces after one another."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(str(child), quote=False)
            for child in children
            if child is not None
        )
    )


def table(head: list[str], rows: list[list[object]], *, numbers: int = 0, class_: str | None = None) -> Markup:
    """A table in a box that scrolls where the page is narrow.

    Args:
        head: the columns' names; empty: none are shown.
        rows: cells, text or `Markup`.
        numbers: how many columns, counted from the right, hold numbers.
        class_: of the table.
    """
    width = len(head) or max(map(len, rows), default=0)

    def cells(kind: str, row: list[object]) -> list[Markup]:
        return [tag(kind, cell, class_="n" if place >= width - numbers else None) for place, cell in enumerate(row)]

    top = tag("thead", tag("tr", *cells("th", list(head)))) if head else None
    body = tag("tbody", *(tag("tr", *cells("td", row)) for row in rows))
    return tag("div", tag("table", top, body, class_=class_), class_="scroll")
