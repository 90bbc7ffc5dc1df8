"""Docstrings as the help shows them: a paragraph is one line, which a terminal breaks where it ends."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

HEADING = re.compile(r"(Args|Attributes|Raises|Returns):")
CONTINUED = 8  # spaces before the second line of what is said of an argument


def reflow(docstring: str) -> str:
    """The lines of a paragraph joined, and those about one argument; what is indented otherwise stays as it is.

    >>> reflow("One\\ntwo.\\n\\n  a  b\\n\\nArgs:\\n    x: this\\n        and that.\\n    y: more.")
    'One two.\\n\\n  a  b\\n\\nArgs:\\n    x: this and that.\\n    y: more.'
    """
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        indent, before = len(line) - len(line.lstrip()), lines[-1] if lines else ""
        paragraph = indent == 0 and before[:1].strip() and not HEADING.fullmatch(before)
        if line and before and (paragraph or indent == CONTINUED):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


def reflow_command(command: Callable[..., Any]) -> None:
    """Reflow the docstrings of a command and of the groups of options that it takes."""
    options = [type(parameter.default) for parameter in inspect.signature(command).parameters.values()]
    for described in (command, *filter(is_dataclass, options)):
        if described.__doc__:
            described.__doc__ = reflow(described.__doc__)
