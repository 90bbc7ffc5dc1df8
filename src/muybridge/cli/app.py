"""The command itself: parsing, nested fields, exit codes, and what several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console

from muybridge import __version__
from muybridge.errors import BadInput, MissingFile, MuybridgeError
from muybridge.structures import SourceArgs

if TYPE_CHECKING:
    from muybridge.recogniser import Recogniser

app = App(
    name="muybridge",
    help="Image transformers become video recognisers. Start with: muybridge demo",
    help_epilogue="--debug, after any command, shows the traceback of an error.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
)

Fields = Annotated[dict[str, str] | None, Parameter(parse=False)]
TRAINING_ONLY = "can be given to `muybridge train`, `sweep` and `cache` only"
WRONG, STOPPED = 2, 130


@Parameter(name="*")
@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Attributes:
        weights: file of the image transformer (or text tower), for a model saved without it.
        recipe: a published recipe's name or a recipe file that says what a published checkpoint does not tell; by
            default it is found by the file's SHA-256 or name.
        labels: class names, separated by commas, or a file with one a line. A model with a text head recognises these.
        frames: read another number of frames than the model was made for; needs --interpolate.
        size: read squares of another size in pixels; needs --interpolate.
        interpolate: allow tables over time and space to be interpolated.
    """

    weights: Path | None = None
    recipe: str | None = None
    labels: str | None = None
    frames: int | None = None
    size: int | None = None
    interpolate: bool = False

    def load(self, source: Path, device: str | None = None) -> Recogniser:
        """The recogniser at `source`, on `device` or the best one; what is to be known about it is told on stderr.

        The name of a published recipe means its file in the current folder.
        """
        from muybridge.loading import load
        from muybridge.recipes import recipe_names

        recipe = self.recipe
        if not source.exists() and str(source) in recipe_names():
            source, recipe = _published_file(str(source)), recipe or str(source)
        recogniser = load(
            source,
            device,
            weights=self.weights,
            recipe=recipe,
            labels=parse_labels(self.labels),
            frames=self.frames,
            image_size=(self.size, self.size) if self.size else None,
            interpolate=self.interpolate,
        )
        for sentence in recogniser.notes:
            complain(sentence)
        return recogniser


def _published_file(recipe: str) -> Path:
    """The file of weights of a published recipe, in the current folder.

    Raises:
        MissingFile: it is not there; its name and what to do are told.
    """
    from muybridge.recipes import published_recipe

    names = [file.name for file in published_recipe(recipe).files]
    for name in names:
        if Path(name).is_file():
            return Path(name)
    told = f"expected {' or '.join(names)} in the current folder" if names else "no file of weights is known by name"
    raise MissingFile(
        f"{recipe} is a published recipe, and its weights are not here; {told}. Fetch the file from its authors and "
        f"give it: muybridge predict FILE VIDEO --recipe {recipe}. Or train by it: muybridge train --recipe {recipe} "
        "--data DIR."
    )


@Parameter(name="*")
@dataclass(frozen=True)
class Setup:
    """What is trained, and on which videos.

    Attributes:
        data: the videos; a folder, one list, or a pattern of archives (docs/data-sets.md).
        method: a name of `muybridge list methods` (default: evl).
        backbone: a name of `muybridge list backbones` (default: clip_vitb16).
        weights: a file with the backbone's weights, for example downloaded by hand.
        recipe: where to start: a published recipe's name (`muybridge list recipes`) or a JSON or YAML file, such as the
            recipe.json of a run.
        labels: for a method that compares videos with texts (ila, dist): what to call the classes, in the order of
            their names, separated by commas or one a line in a file. (--label, without s, chooses between the verbs
            and the nouns of EPIC-KITCHENS.)
    """

    data: str | None = None
    method: str | None = None
    backbone: str | None = None
    weights: Path | None = None
    recipe: str | None = None
    labels: str | None = None

    def fields(self) -> dict[str, object]:
        """Those that are fields of a recipe by their own names; None: not given."""
        return {"data": self.data, "method": self.method, "backbone": self.backbone, "weights": self.weights}

    def texts(self) -> tuple[str, ...] | None:
        """What to call the classes; None: by their names.

        Raises:
            BadInput: `verb` or `noun`, which is --label's.
        """
        if self.labels in ("verb", "noun"):
            raise BadInput(
                f"--labels names the classes; for the {self.labels}s of EPIC-KITCHENS give --label {self.labels}."
            )
        return parse_labels(self.labels)


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How the videos of a data set are found and read: short forms of --source.*; what is not given is the default.

    Attributes:
        format: what the files of the data set look like (docs/data-sets.md); found out by default.
        videos: folder of the videos, where they do not lie beside the lists.
        label: 'verb' or 'noun', where a data set has both (EPIC-KITCHENS).
        fold: which of several official splits, from 1.
        decoder: 'pyav', or 'torchcodec' where that is installed.
    """

    format: str | None = None
    videos: Path | None = None
    label: Literal["verb", "noun"] | None = None
    fold: int | None = None
    decoder: Literal["pyav", "torchcodec"] | None = None

    def fields(self) -> dict[str, str]:
        """What was given, as fields of a recipe: `{"source.fold": "2"}`."""
        return {f"source.{name}": str(value) for name, value in self._given().items()}

    def args(self, fields: dict[str, str] | None = None) -> SourceArgs:
        """What was given, here or as nested fields `{"source.seconds": "300"}`; the rest are the defaults.

        Raises:
            BadInput, UnknownName: a field that is no part of `source`, is given twice, or has no such value.
        """
        if not fields:
            return replace(SourceArgs(), **self._given())
        from muybridge.recipes import override
        from muybridge.recipes.check import check_ranges
        from muybridge.structures import Recipe

        short = self.fields()
        for name in fields:
            if not name.startswith("source."):
                raise BadInput(f"--{name} {TRAINING_ONLY}; this command has the fields of --source.")
            if name in short:
                raise BadInput(
                    f"--{name} and its short form --{name.removeprefix('source.')} are both given; give one."
                )
        recipe = override(Recipe(), {**short, **fields})
        check_ranges(recipe)
        return recipe.source

    def _given(self) -> dict[str, Any]:
        given = {"format": self.format, "label": self.label, "fold": self.fold, "decoder": self.decoder}
        # Absolute, so that a recipe in a run folder works from any folder.
        given["videos"] = str(self.videos.absolute()) if self.videos is not None else None
        return {name: value for name, value in given.items() if value is not None}


def parse_labels(text: str | None) -> tuple[str, ...] | None:
    """Class names from the command line: a file with one a line, or names separated by commas."""
    if text is None:
        return None
    try:
        is_file = Path(text).is_file()
    except OSError:  # longer than a file's name can be
        is_file = False
    if is_file:
        from muybridge.video.labels import read_labels

        return read_labels(text)
    return tuple(name.strip() for name in text.split(",") if name.strip())


def split_fields(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take nested fields, `--train.lr 3e-4` or `--train.lr=3e-4`, out of the arguments.

    Returns:
        The other arguments, and field -> text.

    Raises:
        BadInput: a field without a value, or given twice.
    """
    rest: list[str] = []
    fields: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if not (name.startswith("--") and "." in name and "/" not in name):
            rest.append(word)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise BadInput(f"{name} needs a value, such as {name} 1.")
            value = waiting.pop(0)
        field = name[2:].replace("-", "_")
        if field in fields:
            raise BadInput(f"{name} is given twice.")
        fields[field] = value
    return rest, fields


def complain(sentence: str) -> None:
    """One sentence on stderr."""
    Console(stderr=True).print(f"muybridge: {sentence}", markup=False, highlight=False, soft_wrap=True)


def _print_fields() -> None:
    from muybridge.recipes.describe import field_table

    Console().print(field_table())


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. A user's mistake is one sentence on stderr and code 2."""
    words = [word for word in arguments if word != "--debug"]
    debug = len(words) != len(arguments)
    try:
        words, fields = split_fields(words)
        command, bound, ignored = app.parse_args(words)
        if "fields" in ignored:
            result = command(*bound.args, **{**bound.kwargs, "fields": fields})
        elif fields:
            raise BadInput(f"--{next(iter(fields))} {TRAINING_ONLY}.")
        else:
            result = command(*bound.args, **bound.kwargs)
        if words[:1] in (["train"], ["sweep"], ["cache"]) and {"--help", "-h"} & set(words):
            _print_fields()
        return result or 0
    except MuybridgeError as error:
        if debug:
            raise
        complain(str(error))
        return WRONG
    except KeyboardInterrupt as stop:
        if debug:
            raise
        complain(str(stop) or "Stopped.")
        return STOPPED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def main() -> None:
    """The `muybridge` command."""
    sys.exit(run(sys.argv[1:]))
