"""What mkdocs does to the pages of the site: links into the code, equations, and what is generated from the code.

The pages are plain Markdown that also reads well without the site. Here

* a link that leaves docs/, such as `../src/muybridge/methods/evl.py`, becomes a page of the site with that file in it;
* a ```` ```math ```` block becomes MathML, which browsers draw by themselves: no script, no font;
* `<!-- generated: commands -->` and `<!-- generated: fields -->` are replaced by what the program says of itself.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import MISSING, fields
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"(\]\()(\.\.?/[^)\s#]+)((?:#[^)\s]*)?\))")
MATH = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".slurm": "bash", ".json": "json", ".yaml": "yaml"}


def on_files(files: Any, config: Any) -> Any:
    """Add a page for every file outside docs/ that a page links to."""
    wanted = set()
    for file in files.documentation_pages():
        text = (DOCS / file.src_uri).read_text(encoding="utf-8")
        wanted |= {outside for _, link, _ in LINK.findall(text) if (outside := _outside(file.src_uri, link))}
    for path in sorted(wanted):
        files.append(File.generated(config, f"source/{path}.md", content=source_page(ROOT / path, path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The Markdown of a page as mkdocs is to read it."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown

    def led(match: re.Match[str]) -> str:
        path = _outside(here, match[2])
        if not path:
            return match[0]
        target = posixpath.relpath(f"source/{path}.md", posixpath.dirname(here) or ".")
        return f"{match[1]}{target}{match[3]}"

    markdown = LINK.sub(led, markdown)
    markdown = MATH.sub(lambda match: equations(match[1]), markdown)
    for name, make in {"commands": commands, "fields": recipe_fields}.items():
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


def _outside(page: str, link: str) -> str:
    """The path from the root of a file outside docs/ that a page links to; empty: it is none."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return path if not path.startswith(("docs/", "..")) and (ROOT / path).is_file() else ""


def source_page(file: Path, path: str) -> str:
    """A page that shows a file; a notebook as text and code."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        return f"{notebook(text)}\n\n*{path}: open it in Jupyter to run it.*\n"
    return f"# {file.name}\n\n`{path}`\n\n`````{LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n`````\n"


def notebook(text: str) -> str:
    """The cells of a notebook as Markdown, without what it printed."""
    cells = []
    for cell in json.loads(text)["cells"]:
        content = "".join(cell["source"])
        cells.append(content if cell["cell_type"] == "markdown" else f"```python\n{content}\n```")
    return "\n\n".join(cells)


def equations(text: str) -> str:
    r"""LaTeX as MathML: lines that end with `\\` stand below each other."""
    from latex2mathml.converter import convert

    drawn = (convert(" ".join(line.split()), display="block") for line in text.split("\\\\\n"))
    return f'<div class="equation">{"".join(drawn)}</div>'


def commands() -> str:
    """The help of every command, as `--help` tells it."""
    from muybridge import cli

    text = cli.app.generate_docs(output_format="markdown", usage_name="muybridge")
    text = text[text.index("## muybridge ") :]
    text = re.sub(r"(?m)^(muybridge.*?) -m mkdocs ", r"\1 ", text)  # said where mkdocs runs as `python -m mkdocs`
    # A placeholder such as <n> in a sentence is no HTML; code stands between backticks.
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)
    return "".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def recipe_fields() -> str:
    """Every field of a recipe: its default and what it means, as the dataclasses say it."""
    from muybridge.methods import METHODS
    from muybridge.recipes.describe import attributes, default_text
    from muybridge.structures import InitArgs, Sampling, SourceArgs, TrainArgs, Transform

    groups: dict[str, Any] = {"sampling": Sampling, "transform": Transform, "train": TrainArgs}
    groups |= {"source": SourceArgs, "init": InitArgs}
    groups |= {name: kind.Config for name, kind in METHODS.items()}
    text = ""
    for group, kind in groups.items():
        text += f"\n\n## {group}\n\n| field | default | meaning |\n| --- | --- | --- |\n"
        meaning = attributes(kind)
        for field in fields(kind):
            default = "" if field.default is MISSING else default_text(field.default)
            shown = f"`{default}`" if default else ""
            said = escape(meaning.get(field.name, ""), quote=False).replace("|", "\\|")
            text += f"| `--{group}.{field.name}` | {shown} | {said} |\n"
    return text
