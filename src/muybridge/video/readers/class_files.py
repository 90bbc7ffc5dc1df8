"""Files of class names, in the kinds that data sets come with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from muybridge.errors import BadInput
from muybridge.video.labels import read_labels
from muybridge.video.readers.tables import csv_rows, lines_of, read_columns, read_json


def names_in(file: Path) -> tuple[str, ...]:
    """Class names in the order of their indices, from a file of any of the known kinds.

    A text file with one name a line, or with `1 name` lines (UCF101's classInd.txt); a csv file with the columns id and
    name (or key), or one name a line; a JSON list of names, or an object name -> index.

    Raises:
        BadInput: it is none of these, a name stands twice, or its indices are not 0 to one less than their number.
    """
    names = _names_of_kind(file)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInput(f"{file} has the class name '{twice[0]}' more than once; every class has its own name.")
    return names


def _names_of_kind(file: Path) -> tuple[str, ...]:
    suffix = file.suffix.lower()
    if file.name.lower() == "classind.txt":
        pairs = [line.split(None, 1) for _, line in lines_of(file)]
        if any(len(pair) != 2 for pair in pairs):
            raise BadInput(f"{file} is not a list of class indices and names, such as '1 ApplyEyeMakeup'.")
        return _in_order(file, [(name, index) for index, name in pairs], first=1)
    if suffix == ".json":
        content = read_json(file)
        if isinstance(content, list):
            # Diving48's vocabulary names a class by a list of its four parts.
            return tuple("+".join(map(str, name)) if isinstance(name, list) else str(name) for name in content)
        if isinstance(content, dict):
            return _in_order(file, [(str(name).strip('"'), index) for name, index in content.items()])
        raise BadInput(f"{file} is not a list of class names, nor an object of names and indices.")
    if suffix in (".csv", ".tsv"):
        header = [name.strip().lower() for name in next(csv_rows(file), (0, [""]))[1]]
        index = next((name for name in ("id", "index", "label") if name in header), None)
        name = next((name for name in ("name", "key", "class", "label") if name in header and name != index), None)
        if index and name:
            return _in_order(file, [(row[name], row[index]) for _, row in read_columns(file, index, name)])
        return tuple(line for _, line in lines_of(file))
    return read_labels(file)


def _in_order(file: Path, pairs: Sequence[tuple[str, object]], first: int = 0) -> tuple[str, ...]:
    """Names by their indices, which must be `first` to the last without a gap."""
    by_index = {str(index).strip(): name.strip() for name, index in pairs}
    wanted = [str(index) for index in range(first, first + len(pairs))]
    if set(by_index) != set(wanted):
        raise BadInput(
            f"{file} has {len(pairs)} class names; expected each index from {first} to {first + len(pairs) - 1} once."
        )
    return tuple(by_index[index] for index in wanted)
