"""README and docs: every command that they show is one that the program takes, and every link leads somewhere."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from muybridge import cli
from muybridge.backbones.weights import BACKBONES
from muybridge.methods import METHODS
from muybridge.recipes import check, find_recipe, override, recipe_names, validate
from muybridge.structures import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
                yield command[1 : command.index(">") if ">" in command else None]
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
        "explain",
        "report",
        "compare",
        "env",
        "export",
        "serve",
        "completion",
    }


def test_commands_are_found():
    text = "x=1 && muybridge demo  # muybridge nothing\nmuybridge list \\\n  recipes\necho muybridge train\n"
    assert list(words_of(text + "muybridge env > file")) == [["demo"], ["list", "recipes"], ["env"]]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{name}: {' '.join(c)}" for name, c in COMMANDS])
def test_the_program_takes_it(page, command):
    words, fields = cli.split_fields(command)
    _, bound, ignored = cli.app.parse_args(words, exit_on_error=False, print_error=False)
    assert not fields or "fields" in ignored
    given = bound.arguments
    holder = given.get("loading") or given.get("setup")
    recipe = holder.recipe if holder else given.get("recipe")
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


def rows(page, name):
    """First cell of each row of a page's table between `<!-- name: begin -->` and `<!-- name: end -->`, and the row."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = re.search(rf"<!-- {name}: begin -->\n(.*?)\n<!-- {name}: end -->", text, re.DOTALL)[1]
    return {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}


def test_every_backbone_has_its_licence():
    told = rows("licences.md", "backbones")
    assert list(told) == [f"`{name}`" for name in BACKBONES]
    for name, weights in BACKBONES.items():
        cells = [cell.strip() for cell in told[f"`{name}`"].split("|")]
        assert weights.repo.startswith(cells[2])
        assert cells[3] == weights.licence


def test_every_extra_is_told():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    told = {extra for names in rows("install.md", "extras") for extra in re.findall(r"`(\w+)`", names)}
    assert told == set(extras)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_page(method):
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    assert f"`--method {method}`" in text
    assert "```math\n" in text
    assert f"../images/methods/{method}.svg" in text
    assert f"methods/{method}.md" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
