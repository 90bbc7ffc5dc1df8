"""The folder of a collection: a part for every block that is done, and in the end one table.

    settings.json               what is asked: the videos' hash, the model's hash, how they are read
    parts/0000/0000012.csv      the rows of block 12 (a thousand blocks in a folder)
    predictions.csv             all rows in the order of the videos (or predictions.parquet, features.parquet)
    summary.json                how many were asked, done, unreadable; written last: where it stands, all is done

A part is written beside its place and then moved there, so it is whole or not there, and a block that is computed twice
has one part.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from muybridge.engine.alone import alone_in, is_empty
from muybridge.engine.answers import ERROR, FEATURE, Answer
from muybridge.engine.asked import keep_settings, match_settings
from muybridge.engine.checkpoint import write_atomically, write_json
from muybridge.errors import BadInput
from muybridge.structures import Item, SourceArgs
from muybridge.video.inputs import key_of

FORMAT = "muybridge-collection-1"
SETTINGS, SUMMARY, PARTS = "settings.json", "summary.json", "parts"
FOLDER_BLOCKS = 1000
GROUP_ROWS = 1 << 16  # rows of a parquet file that are read and written at a time
INDEX = "index"

Kind = Literal["csv", "parquet"]


@dataclass(frozen=True)
class CollectionArgs:
    """What is asked of a collection, and how it is written.

    Attributes:
        top: how many classes are told of a video.
        features: its feature vector is told in their place; as parquet only.
        format: of the files: `csv` or `parquet`.
        block: videos in a part: what a stopped job may lose, times the number of workers.
        batch_size: views that are computed at a time.
        source: decoder and limits.
    """

    top: int = 5
    features: bool = False
    format: Kind = "csv"
    block: int = 64
    batch_size: int = 8
    source: SourceArgs = field(default_factory=SourceArgs)

    def __post_init__(self) -> None:
        if self.block < 1:
            raise BadInput(f"block is {self.block}; expected at least 1.")
        if self.features and self.format != "parquet":
            raise BadInput("Features are written as parquet; give --format parquet.")


@dataclass(frozen=True)
class Block:
    """Some videos in a row.

    Attributes:
        number: of the block.
        first: number of its first video.
        items: the videos.
    """

    number: int
    first: int
    items: tuple[Item, ...]


class Collection:
    """The folder of a collection.

    Args:
        folder: made if it is not there.
        items: all videos.
        answers: keys of an answer, without the error.
        args: `block` and `format`.
    """

    def __init__(self, folder: str | Path, items: Sequence[Item], answers: Sequence[str], args: CollectionArgs) -> None:
        self.folder, self.items, self.size, self.kind = Path(folder), items, args.block, args.format
        name = "features" if tuple(answers) == (FEATURE,) else "predictions"
        self.result = self.folder / f"{name}.{self.kind}"
        about = [INDEX, "path"]
        about += ["key"] if any(item.stored for item in items) else []
        about += ["start", "end"] if any(item.start or item.end is not None for item in items) else []
        self.columns = (*about, *answers, ERROR)

    def __len__(self) -> int:
        """How many blocks there are."""
        return -(-len(self.items) // self.size)

    def begin(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Set the folder up, or make sure that it holds the same.

        Args:
            settings: what decides the rows, flat.
            about: what is told beside them and not compared.

        Raises:
            BadInput: it holds something else, or cannot be written to; or parquet is asked for and pyarrow is missing.
        """
        if self.kind == "parquet":
            import_arrow()
        wanted = json.loads(json.dumps({**settings, "columns": self.columns, "block": self.size}))
        file = self.folder / SETTINGS
        if not file.exists():
            keep_settings(file, FORMAT, wanted, about)
            return
        match_settings(file, FORMAT, wanted, "a collection", "answers to another question")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within: no other process writes into the folder.

        Raises:
            BadInput: one does, the folder is of something else, or it cannot be written to.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder} is a file; expected a folder for the predictions.")
        if self.folder.exists() and not (self.folder / SETTINGS).is_file() and not is_empty(self.folder):
            raise BadInput(
                f"{self.folder} is there already and holds no predictions of a collection; nothing is written over. "
                "Give another --out."
            )
        with alone_in(self.folder):
            yield

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / SUMMARY).is_file() and self.result.is_file()

    def block(self, number: int) -> Block:
        """The videos of a block."""
        first = number * self.size
        return Block(number, first, tuple(self.items[first : first + self.size]))

    def missing(self) -> list[int]:
        """Numbers of the blocks that have no part."""
        return [number for number in range(len(self)) if not self.part(number).is_file()]

    def part(self, number: int) -> Path:
        """Where the rows of a block are."""
        return self.folder / PARTS / f"{number // FOLDER_BLOCKS:04d}" / f"{number:07d}.{self.kind}"

    def write(self, number: int, answers: Sequence[Answer]) -> None:
        """Keep the answers of a block, in the order of its videos."""
        block = self.block(number)
        if len(answers) != len(block.items):
            raise ValueError(f"{len(answers)} answers for the {len(block.items)} videos of block {number}")
        rows = [
            {**_about(item), **answer, ERROR: clean(answer.get(ERROR)), INDEX: index}
            for index, item, answer in zip(range(block.first, self._end(number)), block.items, answers, strict=True)
        ]
        table = [tuple(row.get(column) for column in self.columns) for row in rows]
        write_atomically(self.part(number), lambda partial: self._write_rows(partial, [table]))

    def finish(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Put the parts together, in the order of the videos, and remove them.

        Args:
            about: what else `summary.json` tells.

        Returns:
            What `summary.json` holds: `asked`, `done` and `unreadable` numbers of videos, and `about`.
        """
        unreadable = 0

        def groups() -> Iterator[list[tuple[Any, ...]]]:
            nonlocal unreadable
            group: list[tuple[Any, ...]] = []
            for number in range(len(self)):
                rows = self._read_part(number)
                unreadable += sum(row[-1] not in (None, "") for row in rows)
                group += rows
                if len(group) >= GROUP_ROWS:
                    yield group
                    group = []
            if group:
                yield group

        write_atomically(self.result, lambda partial: self._write_rows(partial, groups()))
        asked = len(self.items)
        summary = {"asked": asked, "done": asked - unreadable, "unreadable": unreadable, "result": self.result.name}
        write_json(self.folder / SUMMARY, {**summary, **about})
        self.tidy()
        return {**summary, **about}

    def tidy(self) -> None:
        """Remove the parts of a finished collection."""
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def damaged(self) -> list[int]:
        """Numbers of the blocks whose part does not hold what it should: a disk has failed, or somebody changed it."""
        wrong = []
        for number in range(len(self)):
            try:
                indices = [int(row[0]) for row in self._read_part(number)]
            except (OSError, ValueError, csv.Error):
                indices = []
            if indices != list(range(number * self.size, self._end(number))):
                wrong.append(number)
        return wrong

    def _end(self, number: int) -> int:
        return min((number + 1) * self.size, len(self.items))

    def _read_part(self, number: int) -> list[tuple[Any, ...]]:
        """The rows of a part. Raises ValueError (pyarrow's errors are such), OSError or csv.Error: it is damaged."""
        if self.kind == "csv":
            with self.part(number).open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file, strict=True)
            if tuple(header) != self.columns or any(len(row) != len(header) for row in rows):
                raise ValueError("other columns")
            return [tuple(row) for row in rows]
        table = import_arrow()[1].read_table(self.part(number))
        if tuple(table.column_names) != self.columns:
            raise ValueError("other columns")
        features = FEATURE in self.columns
        columns = [
            _vectors(column) if features and name == FEATURE else column.to_pylist()
            for name, column in zip(self.columns, table.columns, strict=True)
        ]
        return list(zip(*columns, strict=True))

    def _write_rows(self, path: Path, groups: Iterable[Sequence[tuple[Any, ...]]]) -> None:
        if self.kind == "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(self.columns)
                for group in groups:
                    writer.writerows([[_text(value) for value in row] for row in group])
            return
        arrow, parquet = import_arrow()
        kinds = {INDEX: arrow.int64(), "start": arrow.float64(), "end": arrow.float64()}
        kinds[FEATURE] = arrow.list_(arrow.float32())
        fields = [
            arrow.field(name, kinds.get(name, arrow.float32() if name.startswith("score_") else arrow.string()))
            for name in self.columns
        ]
        schema = arrow.schema(fields)
        with parquet.ParquetWriter(path, schema) as writer:
            for group in groups:
                arrays = [
                    arrow.array(list(column), kind.type)
                    for column, kind in zip(zip(*group, strict=True), schema, strict=True)
                ]
                writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def _about(item: Item) -> dict[str, Any]:
    """The columns that tell which video it is."""
    return {"path": clean(item.path), "key": clean(key_of(item)), "start": item.start, "end": item.end}


def clean(text: str | None) -> str | None:
    """Bytes of a name that are no UTF-8, which neither csv nor parquet can hold, are written out."""
    return text and text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: Any) -> str:
    """A value in a csv file."""
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _vectors(column: Any) -> list[Any]:
    """A column of lists, without an object for every number."""
    return [scalar.values.to_numpy() if scalar.is_valid else None for scalar in column]


def import_arrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises BadInput: they are not installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadInput(
            f"Parquet files need pyarrow, which is not installed ({error}): pip install 'muybridge[parquet]', or "
            "give --format csv."
        ) from None
