"""README and docs: every command that they show is one that the program takes, and every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from muybridge import cli
from muybridge.recipes import check, find_recipe, override, recipe_names, validate
from muybridge.structures import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCES = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def words_of(text):
    """The words of each `muybridge` command in a piece of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        command = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                command.append(word)
                continue
            if command[:1] == ["muybridge"]:
                yield command[1:]
            command = []


def commands(page):
    """The commands of a page: in its bash blocks, and quoted in its sentences and tables."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCES.findall(text):
        if language == "bash":
            yield from words_of(block)
    for quoted in re.findall(r"`(muybridge [^`]+)`", FENCES.sub("", text)):
        yield from words_of(quoted.replace("\n", " "))


COMMANDS = [(page.name, command) for page in PAGES for command in commands(page)]


def test_there_are_commands():
    assert {name for name, _ in COMMANDS} >= {
        "README.md",
        "from-dist.md",
        "from-evl.md",
        "from-ila.md",
        "from-zeroi2v.md",
    }
    shown = {command[0] for _, command in COMMANDS if command}
    assert shown == {
        "demo",
        "data",
        "train",
        "evaluate",
        "predict",
        "list",
        "info",
        "convert",
        "sweep",
        "cache",
        "benchmark",
    }


def test_commands_are_found():
    text = "x=1 && muybridge demo  # muybridge nothing\nmuybridge list \\\n  recipes\necho muybridge train\n"
    assert list(words_of(text)) == [["demo"], ["list", "recipes"]]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{name}: {' '.join(c)}" for name, c in COMMANDS])
def test_the_program_takes_it(page, command):
    words, fields = cli.split_fields(command)
    _, bound, ignored = cli.app.parse_args(words, exit_on_error=False, print_error=False)
    assert not fields or "fields" in ignored
    given = bound.arguments
    recipe = given["loading"].recipe if "loading" in given else given.get("recipe")
    if "fields" not in ignored or "--help" in words or "--resume" in words:
        assert recipe is None or recipe in recipe_names()
        return
    # A training: its fields exist, and if it is that of a published recipe, nothing of it is refused.
    start = find_recipe(recipe) if recipe in recipe_names() else Recipe()
    setting = validate(override(start, fields))
    if recipe in recipe_names():
        check(setting)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = FENCES.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if not link.startswith(("http://", "https://", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link
