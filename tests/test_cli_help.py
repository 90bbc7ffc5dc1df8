"""The help breaks its lines where the terminal ends, and nowhere else."""

import inspect
from inspect import isfunction
from itertools import pairwise

import pytest

from muybridge import cli
from muybridge.cli.reflow import reflow

COMMANDS = [name for name in cli.app if isfunction(cli.app[name].default_command)]
TEXT = """What it is.

    One paragraph
    of two lines.

      a table   of
      two lines

    Args:
        first: goes
            on and
            on.
        second: is short.
    """


def test_paragraphs_and_arguments_are_one_line_each():
    assert reflow(TEXT).splitlines() == [
        "What it is.",
        "",
        "One paragraph of two lines.",
        "",
        "  a table   of",
        "  two lines",
        "",
        "Args:",
        "    first: goes on and on.",
        "    second: is short.",
    ]
    assert reflow(reflow(TEXT)) == reflow(TEXT)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_of_a_help_ends_before_the_next_word_fits(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run([name, "--help"]) == 0
    text, _, _ = capsys.readouterr().out.partition("╭")
    lines = text.splitlines()
    for line, following in pairwise(lines):
        if line and following and not line.startswith((" ", "Usage")):
            assert len(line.rstrip()) + 1 + len(following.split()[0]) >= 80, line


def test_a_layout_of_lines_stays():
    assert "\n  DIR/train/<class>/* and" in inspect.getdoc(cli.app["train"].default_command)
