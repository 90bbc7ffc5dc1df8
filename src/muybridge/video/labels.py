"""Class names: files with one name a line, and the names of the field's data sets."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from muybridge.errors import BadInput, MissingFile, unknown


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Class names from a text file, one a line; the line is the class index, counted from 0.

    Args:
        path: a file in UTF-8. Blanks around a name do not count.

    Raises:
        MissingFile: there is no such file.
        BadInput: the file is empty or not text, or a line is blank or repeats another.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"There is no label file {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not a text file in UTF-8: {error}.") from error
    names = tuple(line.strip() for line in text.splitlines())
    if not names:
        raise BadInput(f"{path} is empty; expected one class name a line.")
    _check(names, f"{path}:")
    return names


def write_labels(path: str | Path, labels: Sequence[str]) -> None:
    """Write class names so that `read_labels` gives them back.

    Raises:
        BadInput: there is no label, or one is blank, repeated, or would not survive: a line break, outer blanks.
    """
    if not labels:
        raise BadInput("There is no label to write.")
    _check(labels, "label ")
    for name in labels:
        if name != name.strip() or len(name.splitlines()) != 1:
            raise BadInput(f"The label {name!r} has blanks around it or a line break; it cannot stand in a label file.")
    Path(path).write_text("".join(f"{name}\n" for name in labels), encoding="utf-8", newline="\n")


def known_labels(name: str) -> tuple[str, ...]:
    """Class names of a data set of the field, in the order of its published class indices.

    Args:
        name: such as `kinetics400` or `something-something-v2`; `label_sets` lists them.

    Raises:
        UnknownName: there is no such list.

    >>> known_labels("kinetics400")[:2]
    ('abseiling', 'air drumming')
    """
    if name not in label_sets():
        raise unknown("label list", name, label_sets())
    text = resources.files("muybridge.video").joinpath(f"data/labels/{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def label_sets() -> list[str]:
    """The names that `known_labels` takes, sorted."""
    folder = resources.files("muybridge.video").joinpath("data/labels")
    return sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))


def _check(names: Sequence[str], place: str) -> None:
    """Raise BadInput for a blank name or one that stands twice; `place` and a number tell where."""
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise BadInput(f"{place}{number} is blank; every line is a class name.")
        if name in first:
            raise BadInput(f"{place}{number} repeats '{name}' of {place}{first[name]}; every class has its own name.")
        first[name] = number
