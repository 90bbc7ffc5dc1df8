"""`muybridge compare`: runs side by side, by what their files tell."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from muybridge.engine.checkpoint import write_atomically
from muybridge.errors import BadInput
from muybridge.report.facts import RunFacts, read_run
from muybridge.report.settings import defaults_of, settings_of

MOST_PAIRS = 6  # runs that are all compared with each other; of more, each with the first


@dataclass(frozen=True)
class Pair:
    """What two runs say of the same videos.

    Attributes:
        first: place of a run in the comparison.
        second: of another.
        videos: that both have answers to.
        both: of these, right in both.
        only_first: right in the first only.
        only_second: right in the second only.
        alone: videos that only one of the two has; they are in no count.
    """

    first: int
    second: int
    videos: int
    both: int
    only_first: int
    only_second: int
    alone: int

    @property
    def neither(self) -> int:
        """Wrong in both."""
        return self.videos - self.both - self.only_first - self.only_second

    @property
    def p_value(self) -> float:
        """How likely such a difference or a larger one is by chance, see `mcnemar`."""
        return mcnemar(self.only_first, self.only_second)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: what their files tell.
        names: what to call them, each different.
        settings: field -> its value in each run, where they differ; None: the run has no such field.
        pairs: of runs with answers to the same videos.
        notes: sentences that one should read beside it.
    """

    runs: tuple[RunFacts, ...]
    names: tuple[str, ...]
    settings: dict[str, tuple[Any, ...]]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """A row a run: its results and costs by name; None where the run does not tell. Shares are in [0, 1]."""
        return [{"run": name, **figures(run)} for name, run in zip(self.names, self.runs, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        pairs = [
            {
                "first": self.names[pair.first],
                "second": self.names[pair.second],
                **{name: getattr(pair, name) for name in ("videos", "both", "only_first", "only_second", "neither")},
                "alone": pair.alone,
                "p_value": pair.p_value,
            }
            for pair in self.pairs
        ]
        differing = {name: list(values) for name, values in self.settings.items()}
        return {"runs": self.rows(), "settings": differing, "pairs": pairs, "notes": list(self.notes)}


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test (1947), in [0, 1].

    Of the videos that one of two recognisers has right and the other wrong, each side would have half by chance.

    Args:
        only_first: videos that only the first has right.
        only_second: that only the second has right.

    >>> mcnemar(0, 5)
    0.0625
    """
    count, less = only_first + only_second, min(only_first, only_second)
    if not count:
        return 1.0
    # By logarithms: 2 to the power of thousands of videos is no float.
    terms = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2)
        for k in range(less + 1)
    ]
    top = max(terms)
    return min(2 * math.exp(top) * sum(math.exp(term - top) for term in terms), 1.0)


def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Put runs side by side.

    Args:
        folders: runs, or finished evaluations, at least two.

    Raises:
        BadInput: fewer than two, or one twice.
        MuybridgeError: as `read_run`.
    """
    if len(folders) < 2:
        raise BadInput(f"{len(folders)} run is given; expected at least 2, such as `muybridge compare runs/a runs/b`.")
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise BadInput("A run is given twice; expected different ones.")
    runs = tuple(map(read_run, paths))
    names = _names(paths)
    notes = [f"{name}: {note}" for name, run in zip(names, runs, strict=True) for note in run.notes]
    return Comparison(runs, names, _differences(runs), _pairs(runs), (*notes, *_cautions(names, runs)))


def figures(run: RunFacts) -> dict[str, Any]:
    """Results and costs of one run; shares are in [0, 1], time is in seconds."""
    result, lines = run.result, run.lines
    summary: dict[str, Any] = result.summary if result else {}
    low, high = result.interval if result else (None, None)
    order = result.order if result else None
    memory = [line["memory_gb"] for line in lines if line.get("memory_gb")]
    rates = [line["videos_per_second"] for line in lines if line.get("videos_per_second")]
    return {
        "top1": summary.get("top1"),
        "top1_low": low,
        "top1_high": high,
        "top5": summary.get("top5"),
        "mean_class": summary.get("mean_class"),
        "videos": summary.get("videos"),
        "shuffled_gap": order.get("gap", {}).get("shuffled") if order else None,
        "within_twins": order.get("within_twins", {}).get("right") if order else None,
        "own_parameters": run.sizes.own if run.sizes else None,
        "model_bytes": run.sizes.bytes if run.sizes else None,
        "epochs": lines[-1]["epoch"] if lines else None,
        "epoch_seconds": run.seconds or None,
        "videos_per_second": sum(rates) / len(rates) if rates else None,
        "memory_gb": max(memory) if memory else None,
    }


def write_csv(path: Path, comparison: Comparison) -> None:
    """A row a run: its figures, and the settings that differ.

    Raises:
        BadInput: the file is there, or cannot be written.
    """
    if path.exists():
        raise BadInput(f"{path} exists already; nothing is written over. Give another --csv.")
    rows = comparison.rows()
    for place, row in enumerate(rows):
        for name, values in comparison.settings.items():
            value = values[place]
            row[name] = json.dumps(value) if isinstance(value, (list, dict)) else value

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}. Give another --csv.") from None


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The shortest ends of the paths by which they differ."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(ends):
            return tuple(ends)
    return tuple(map(str, paths))


def _differences(runs: Sequence[RunFacts]) -> dict[str, tuple[Any, ...]]:
    told = [settings_of(run.recipe) if run.recipe is not None else None for run in runs]
    fields = list(dict.fromkeys(name for one in told if one is not None for name in one))
    table = {name: tuple(None if one is None else one.get(name) for one in told) for name in fields}
    with_recipe = [place for place, one in enumerate(told) if one is not None]
    return {
        name: values
        for name, values in table.items()
        if any(values[place] != values[with_recipe[0]] for place in with_recipe)
        # What a method alone has and nobody has set is no setting that differs.
        and not (None in (values[place] for place in with_recipe) and _unset(name, values))
    }


def _unset(field: str, values: Sequence[Any]) -> bool:
    """Whether a field of a method's own has its default wherever it is."""
    default = defaults_of(field.partition(".")[0])
    return field in default and all(value is None or value == default[field] for value in values)


def _pairs(runs: Sequence[RunFacts]) -> tuple[Pair, ...]:
    answers = [{(one.name, one.label): one.right for one in run.result.answers} if run.result else {} for run in runs]
    places = range(len(runs))
    chosen = combinations(places, 2) if len(runs) <= MOST_PAIRS else ((0, place) for place in places[1:])
    pairs = []
    for a, b in chosen:
        shared = answers[a].keys() & answers[b].keys()
        if not shared:
            continue
        rights = [(answers[a][video], answers[b][video]) for video in shared]
        counts = rights.count((True, True)), rights.count((True, False)), rights.count((False, True))
        pairs.append(Pair(a, b, len(shared), *counts, len(answers[a].keys() ^ answers[b].keys())))
    return tuple(pairs)


def _cautions(names: Sequence[str], runs: Sequence[RunFacts]) -> list[str]:
    """What makes figures hard to compare."""
    said = []
    without = [name for name, run in zip(names, runs, strict=True) if run.result is None]
    if without:
        said.append(f"Without an evaluation: {', '.join(without)}; `muybridge evaluate RUN --data DATA` gives one.")
    known = [run.result for run in runs if run.result is not None]
    counts = {int(result.summary["videos"]) for result in known}
    if len(counts) > 1:
        said.append("The runs were evaluated on different numbers of videos: their top-1 are not of the same set.")
    return said
