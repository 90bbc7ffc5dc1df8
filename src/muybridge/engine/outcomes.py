"""What came of the trainings of a search: read from their run folders, ranked, written as tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from muybridge.engine.checkpoint import write_atomically, write_json
from muybridge.engine.last import can_resume
from muybridge.engine.predictions import SUMMARY
from muybridge.engine.space import value_text
from muybridge.engine.sweeps import SWEEP, Spread, as_dict, read_json
from muybridge.recipes.fields import to_dict
from muybridge.structures import Recipe

FAILED, TABLE, BEST = "failed.json", "sweep.csv", "best.yaml"
SHORT = 60  # letters of a reason in a table
State = Literal["finished", "stopped", "failed", "waiting"]


@dataclass(frozen=True)
class Training:
    """One training of a search; shares are in [0, 1].

    Attributes:
        seed: of the training.
        folder: the run folder, relative to that of the search.
        state: `finished`; `stopped` on its way, by halving or by an interruption; `failed`; `waiting` to begin.
        top1, top5: of its best epoch on the validation half; None: not evaluated yet.
        mean_class: likewise; of finished ones.
        epochs: it was trained for.
        seconds: in the training epochs.
        reason: why it failed.
    """

    seed: int
    folder: str
    state: State
    top1: float | None = None
    top5: float | None = None
    mean_class: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def why(self) -> str:
        """The reason in a few words."""
        text = self.reason.split(" (")[0].split(". ")[0]
        return text if len(text) <= SHORT else text[: SHORT - 3] + "..."

    def top1_after(self, out: Path, epochs: int) -> float | None:
        """The best top-1 of its first epochs; None: it failed, or was not evaluated by then.

        Args:
            out: folder of the search.
            epochs: how many.
        """
        if self.state == "failed":
            return None
        return max((line["val_top1"] for line in _log(out / self.folder)[:epochs] if "val_top1" in line), default=None)


@dataclass(frozen=True)
class Outcome:
    """A setting and its trainings.

    Attributes:
        number: of the setting.
        tried: fields with their plain values.
        recipe: how it is trained with the first seed.
        trainings: by seed, those that have begun.
    """

    number: int
    tried: dict[str, Any]
    recipe: Recipe
    trainings: tuple[Training, ...]

    def spread(self, figure: str = "top1") -> Spread | None:
        """Mean and deviation over the seeds of `top1`, `top5` or `mean_class`; None: no figure yet."""
        found = [getattr(one, figure) for one in self.trainings if one.state != "failed"]
        values = [value for value in found if value is not None]
        return Spread.of(values) if values else None

    @property
    def state(self) -> State:
        """The worst of its trainings'."""
        states = {one.state for one in self.trainings}
        return next((state for state in ("failed", "stopped", "finished") if state in states), "waiting")

    @property
    def epochs(self) -> int:
        """The fewest that one of its trainings had."""
        return min((one.epochs for one in self.trainings), default=0)

    def rank(self) -> tuple[float, ...]:
        """For sorting, best first: finished ones by top-1, then top-5; then those given up, the last first."""
        top1, top5 = self.spread("top1"), self.spread("top5")
        order = ("finished", "stopped", "failed", "waiting").index(self.state)
        late = -self.epochs if self.state == "stopped" else 0
        return order, late, -(top1.mean if top1 else -1), -(top5.mean if top5 else -1), self.number


@dataclass(frozen=True)
class SearchResult:
    """A search.

    Attributes:
        outcomes: best first.
        folder: where everything is.
    """

    outcomes: tuple[Outcome, ...]
    folder: Path

    @property
    def best(self) -> Outcome | None:
        """The best setting whose trainings are all finished; None: there is none."""
        return self.outcomes[0] if self.outcomes and self.outcomes[0].state == "finished" else None

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        best = self.best
        return {
            "folder": str(self.folder),
            "best": None if best is None else best.number,
            "recipe": None if best is None else str(self.folder / BEST),
            "settings": [_plain(outcome) for outcome in self.outcomes],
        }

    def __repr__(self) -> str:
        best = self.best
        told = f"best top-1 {best.spread()} with {best.tried}" if best else "none finished"
        return f"SearchResult({len(self.outcomes)} settings, {told})"


def read_training(out: Path, folder: Path, seed: int, videos: int) -> Training:
    """What a run folder says of its training.

    Args:
        out: folder of the search.
        folder: of the run, relative to it.
        seed: of the training.
        videos: of the training half.

    Raises:
        CheckpointError: a file is damaged.
    """
    place, lines = out / folder, _log(out / folder)
    one = Training(seed, folder.as_posix(), "stopped" if can_resume(place) else "waiting", epochs=len(lines))
    if lines:
        best = max((line for line in lines if "val_top1" in line), key=lambda line: line["val_top1"], default={})
        # An epoch's rate is of the videos that could be decoded.
        seen = [(videos - line["unreadable"], line["videos_per_second"]) for line in lines]
        seconds = sum(count / rate for count, rate in seen if rate > 0)
        one = replace(one, top1=best.get("val_top1"), top5=best.get("val_top5"), seconds=round(seconds, 3))
    if (place / FAILED).is_file():
        return replace(one, state="failed", reason=str(read_json(place / FAILED).get("reason", "")))
    if (place / SUMMARY).is_file():
        figures = read_json(place / SUMMARY)
        top1, top5, mean_class = (float(figures[name]) for name in ("top1", "top5", "mean_class"))
        return replace(one, state="finished", top1=top1, top5=top5, mean_class=mean_class)
    return one


def write_tables(result: SearchResult, about: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> None:
    """Write `sweep.csv`, `best.yaml` and `sweep.json`, each in one step.

    Args:
        result: so far.
        about: what decides what the search does.
        settings: what is tried, by number.
    """
    out, best = result.folder, result.best

    def table(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            fields = tuple(settings[0])
            figures = ("top1", "top1_deviation", "top5", "mean_class", "epochs", "seconds", "state", "reason")
            writer.writerow(("rank", "setting", *fields, "seeds", *figures))
            for rank, outcome in enumerate(result.outcomes, 1):
                writer.writerow((rank, outcome.number, *map(value_text, outcome.tried.values()), *_cells(outcome)))

    write_atomically(out / TABLE, table)
    if best is not None:
        text = yaml.safe_dump(to_dict(best_recipe(best, about)), sort_keys=False, allow_unicode=True)
        told = (
            f"# The best of {len(settings)} settings: top-1 {best.spread()} on the validation half that chose it, so "
            "an optimistic figure.\n# muybridge train --recipe FILE --out RUN\n"
        )
        write_atomically(out / BEST, lambda partial: partial.write_text(told + text, encoding="utf-8"))
    results = [_plain(outcome) for outcome in result.outcomes]
    number = None if best is None else best.number
    write_json(out / SWEEP, {"setting": about, "settings": list(settings), "best": number, "results": results})


def best_recipe(outcome: Outcome, about: Mapping[str, Any]) -> Recipe:
    """The recipe of a setting, which saves a whole model again if it was asked to."""
    slim = bool(about["recipe"]["train"]["slim"])
    return replace(outcome.recipe, train=replace(outcome.recipe.train, slim=slim))


def _cells(outcome: Outcome) -> tuple[Any, ...]:
    def mean(figure: str) -> str:
        spread = outcome.spread(figure)
        return "" if spread is None else f"{spread.mean:.6f}"

    top1 = outcome.spread("top1")
    reason = next((one.reason for one in outcome.trainings if one.reason), "")
    return (
        len(outcome.trainings),
        mean("top1"),
        "" if top1 is None or top1.deviation is None else f"{top1.deviation:.6f}",
        mean("top5"),
        mean("mean_class"),
        outcome.epochs,
        f"{sum(one.seconds for one in outcome.trainings):.1f}",
        outcome.state,
        reason,
    )


def _plain(outcome: Outcome) -> dict[str, Any]:
    spreads = {name: outcome.spread(name) for name in ("top1", "top5", "mean_class")}
    return {
        "setting": outcome.number,
        "tried": outcome.tried,
        "state": outcome.state,
        **{name: None if spread is None else as_dict(spread) for name, spread in spreads.items()},
        "trainings": [to_dict(one) for one in outcome.trainings],
    }


def _log(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; empty if there is none."""
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]
