"""What a folder of results was asked for: kept beside them, so that only the same question goes on in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muybridge.engine.checkpoint import write_json
from muybridge.errors import BadInput


def keep_settings(file: Path, kind: str, wanted: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write what is asked into a new folder.

    Args:
        file: in the folder.
        kind: of its content, with a version, such as `muybridge-evaluation-1`.
        wanted: what must be the same when it goes on.
        about: what may differ.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        write_json(file, {"format": kind, "settings": dict(wanted), "about": dict(about)})
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror}. Give another --out.") from None


def match_settings(file: Path, kind: str, wanted: Mapping[str, Any], what: str, other: str) -> None:
    """Compare what was asked before with what is asked now.

    Args:
        file: as `keep_settings` wrote it.
        kind: as there.
        wanted: as there, as JSON gives it back.
        what: the folder holds, such as "an evaluation".
        other: what it holds if they differ, such as "an evaluation of another setting".

    Raises:
        BadInput: it is no such file, or they differ; the first differences are named.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        there = dict(content["settings"]) if content["format"] == kind else None
    except (OSError, ValueError, KeyError, TypeError):
        there = None
    if there is None:
        raise BadInput(f"{file} is not the settings of {what}; nothing is written over. Give another --out.")
    differ = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
    if differ:
        told = "; ".join(f"{key} was {_short(there.get(key))}, now {_short(wanted.get(key))}" for key in differ[:4])
        more = f" (and {len(differ) - 4} more)" if len(differ) > 4 else ""
        raise BadInput(f"{file.parent} has {other}: {told}{more}. Nothing is written over: give another --out.")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:28] + "..." + text[-28:]
