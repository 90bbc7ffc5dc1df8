"""The formats of data sets, and which of them a place is in; `docs/data-sets.md` shows what each looks like.

A format is a row of `FORMATS`: which files are its own, and how they are read. With the format `auto` these files tell
it: the names and columns of lists first, then archives, then class folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from muybridge.errors import BadInput, MissingFile, MuybridgeError, unknown
from muybridge.structures import SourceArgs
from muybridge.video.readers import actions, epic, kinetics, plain, something, stored
from muybridge.video.readers.found import Found, Place, fold_of, half_of
from muybridge.video.readers.tables import LISTS


@dataclass(frozen=True)
class Format:
    """A way in which a data set lies on disk.

    Attributes:
        what: it in a few words.
        own: the files in a place that are lists of this format.
        read: the videos of such a place.
        folds: there are several official splits.
    """

    what: str
    own: Callable[[Place], Sequence[Path]]
    read: Callable[[Place], Found]
    folds: bool = False


FORMATS = {
    "kinetics": Format("csv files of Kinetics-400, -600 or -700", kinetics.official_files, kinetics.official),
    "kinetics710": Format("lists of Kinetics-710", kinetics.lists_of_710, kinetics.joined),
    "ssv1": Format("lists of Something-Something v1", something.v1_files, something.v1),
    "ssv2": Format("JSON files of Something-Something v2", something.v2_files, something.v2),
    "jester": Format("lists of Jester", something.jester_files, something.jester),
    "ucf101": Format("split files of UCF101", actions.ucf_files, actions.ucf101, folds=True),
    "hmdb51": Format("split files of HMDB51", actions.hmdb_files, actions.hmdb51, folds=True),
    "diving48": Format("JSON files of Diving48", actions.diving_files, actions.diving48),
    "epic": Format("segments of EPIC-KITCHENS-100", epic.segment_files, epic.epic),
    "list": Format("lists of videos or of folders of pictures", plain.are_lists, plain.lists_found, folds=True),
    "shards": Format("tar archives of WebDataset", stored.tar_files, stored.in_folder),
    "folders": Format("class folders", lambda place: (), plain.folders_found),
}


def normal(data: str | Path) -> str:
    """A data source as text; an address that has been a `Path` gets its second slash back.

    >>> normal(Path("https://host/train-{0..9}.tar"))
    'https://host/train-{0..9}.tar'
    """
    return re.sub(r"^([a-z][a-z0-9]+):/(?=[^/])", r"\1://", str(data))


def find(data: str | Path, args: SourceArgs) -> Found:
    """The videos of a data source, in whichever format it is.

    Args:
        data: a folder, a list, a tar archive, or a pattern or address of archives.
        args: how it is to be read.

    Raises:
        MissingFile: nothing is there, or no video of a half.
        BadInput: it is in no known format, or may be in several; a file cannot be read or understood.
        UnknownName: there is no such format or fold.
    """
    try:
        return _find(data, args)
    except MuybridgeError:
        raise
    except OSError as error:
        raise BadInput(f"{error.filename or data} cannot be read: {error.strerror or error}.") from error


def _find(data: str | Path, args: SourceArgs) -> Found:
    if args.format != "auto" and args.format not in FORMATS:
        names = ["auto", *FORMATS]
        raise unknown("format", args.format, names, f"The formats are {', '.join(names)}.")
    text = normal(data)
    if text.lower().startswith("pipe:"):
        raise BadInput(f"{text} would run a command, which data must not; give the archives' paths or addresses.")
    if stored.is_pattern(text):
        if args.format not in ("auto", "shards"):
            raise BadInput(f"{text} means tar archives; source.format is {args.format}.")
        _check_args("shards", args, None)
        return stored.of_pattern(text, args)
    path = Path(text)
    if not path.exists():
        raise MissingFile(f"There is no folder or list {path}.")
    if path.is_file() and path.suffix.lower() not in LISTS:
        raise BadInput(
            f"{path} is a file; expected a folder with class folders, with train and val, or with train.txt, "
            "or a list (csv, tsv, txt, json, jsonl)."
        )
    place = Place(path, args) if path.is_dir() else Place(path.parent, args, path)
    name = args.format if args.format != "auto" else _recognised(place)
    _check_args(name, args, place)
    return FORMATS[name].read(place)


def _recognised(place: Place) -> str:
    """The one format that fits the files of a place."""
    own = {name: set(format_.own(place)) for name, format_ in FORMATS.items() if name != "shards"}
    fitting = [name for name, files in own.items() if files and name != "list"]
    claimed: set[Path] = set().union(*(own[name] for name in fitting)) if fitting else set()
    if "kinetics710" in fitting:
        # It may lie beside the lists of the three Kinetics that it is made of.
        fitting = [name for name in fitting if name != "kinetics"]
    if any(half_of(file) == "train" or file == place.chosen for file in own["list"] - claimed):
        fitting += [] if "kinetics710" in fitting else ["list"]
    elif not fitting and own["list"]:
        fitting.append("list")
    shards = stored.tar_files(place) if place.chosen is None else []
    named = any(half_of(shard) or shard.parent != place.root for shard in shards)
    if named or (shards and not fitting and not plain.visible(place.root, Path.is_dir)):
        fitting.append("shards")
    if len(fitting) > 1:
        meant = "; ".join(f"{name} ({FORMATS[name].what})" for name in fitting)
        raise BadInput(f"{place} may be read as {meant}. Say which is meant: --format {fitting[0]}")
    if fitting:
        return fitting[0]
    return "folders"


def _check_args(name: str, args: SourceArgs, place: Place | None) -> None:
    """Raise BadInput for arguments that this format does not read."""
    if args.label and name != "epic":
        raise BadInput(
            f"source.label is {args.label}, which EPIC-KITCHENS alone has; this is read as {FORMATS[name].what}. "
            "Class names are given with --labels."
        )
    folds = FORMATS[name].folds and (name != "list" or (place is not None and any(map(fold_of, place.files))))
    if args.fold != 1 and not folds:
        raise BadInput(f"source.fold is {args.fold}, but {FORMATS[name].what} have one split only.")
    if args.videos and name in ("folders", "shards"):
        raise BadInput(f"source.videos is {args.videos}, but {FORMATS[name].what} hold their videos themselves.")
