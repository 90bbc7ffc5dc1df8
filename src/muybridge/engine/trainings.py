"""The trainings of a search: which are left, one after the other, and what is told of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from muybridge.backbones.vit import ViT
from muybridge.engine.checkpoint import NotSaved, write_json
from muybridge.engine.interrupt import Paused
from muybridge.engine.outcomes import FAILED, Outcome, SearchResult, Training, read_training, write_tables
from muybridge.engine.progress import Progress, duration
from muybridge.engine.small_data import fit_to_data
from muybridge.engine.space import value_text
from muybridge.engine.sweeps import train_or_resume
from muybridge.errors import MissingFile, MuybridgeError
from muybridge.structures import Recipe
from muybridge.video.sources import Source


@dataclass(frozen=True)
class Setting:
    """One of the settings.

    Attributes:
        number: from 1, in the order in which they were first asked for.
        tried: fields with their plain values.
        recipe: how it is trained with the first seed.
    """

    number: int
    tried: dict[str, Any]
    recipe: Recipe

    def with_seed(self, seed: int) -> Recipe:
        """How it is trained with another."""
        return replace(self.recipe, train=replace(self.recipe.train, seed=seed))

    def folder(self, seed: int) -> Path:
        """Its run folder, relative to that of the search."""
        return Path(f"setting-{self.number:03}") / f"seed-{seed}"


class Todo:
    """The trainings of a search: what has become of each, and the next one."""

    def __init__(
        self,
        settings: Sequence[Setting],
        seeds: range,
        out: Path,
        about: Mapping[str, Any],
        source: Source,
        progress: Progress,
    ) -> None:
        self.settings, self.seeds, self.out, self.about = settings, seeds, out, about
        self.source, self.progress = source, progress
        # Every setting once before any a second time: a search that is stopped has seen all of them.
        self.all = [(setting, seed) for seed in seeds for setting in settings]
        self.alive = {setting.number for setting in settings}
        self.ended: dict[tuple[int, int], Training] = {}  # what cannot change any more
        self.spent: list[float] = []
        self.titled = False

    def training(self, setting: Setting, seed: int) -> Training:
        """What has become of it so far."""
        place = setting.number, seed
        if place not in self.ended:
            videos = fit_to_data(setting.recipe, self.source)[1].train
            one = read_training(self.out, setting.folder(seed), seed, len(videos))
            if one.state not in ("finished", "failed"):
                return one
            self.ended[place] = one
        return self.ended[place]

    def epochs(self, setting: Setting, share: float | None) -> int:
        """After how many epochs a setting has had this share of them."""
        epochs = fit_to_data(setting.recipe, self.source)[0].train.epochs
        return epochs if share is None else max(round(epochs * share), 1)

    def left(self, share: float | None) -> list[tuple[Setting, int]]:
        """Those of the settings still alive that have not come so far."""
        left = []
        for setting, seed in self.all:
            one = self.training(setting, seed)
            ended = one.state in ("finished", "failed")
            short = share is None or one.epochs < self.epochs(setting, share)
            if setting.number in self.alive and not ended and short:
                left.append((setting, seed))
        return left

    def run(self, backbone: ViT, texts: Sequence[str] | None, share: float | None) -> None:
        """Train all that are left, to the end or for a share of their epochs."""
        waiting = self.left(share)
        if waiting and not self.titled:
            self.titled = True
            self.progress.say(_title(self.settings[0].tried, self.settings))
        quiet = Quiet(self.progress)
        for number, (setting, seed) in enumerate(waiting, 1):
            begun = time.monotonic()
            until = None if share is None else self.epochs(setting, share)
            quiet.prefix = f"setting {setting.number}, {number} of {len(waiting)}, "
            self.train(setting, seed, backbone, texts, quiet, until)
            self.spent.append(time.monotonic() - begun)
            more = duration(sum(self.spent) / len(self.spent) * (len(waiting) - number))
            one = self.training(setting, seed)
            self.progress.say(_row(setting, one, self.settings) + (f"  {more} left" if number < len(waiting) else ""))
            self.write()

    def train(
        self,
        setting: Setting,
        seed: int,
        backbone: ViT,
        texts: Sequence[str] | None,
        progress: Progress,
        until: int | None,
    ) -> None:
        """One training, to the end or for `until` epochs; what fails of it is written down."""
        folder = self.out / setting.folder(seed)
        try:
            train_or_resume(setting.with_seed(seed), folder, self.source, backbone, progress, texts, until)
        except Paused:
            pass
        except (NotSaved, MissingFile):
            raise  # the next one would fare no better
        except (MuybridgeError, RuntimeError, MemoryError) as error:
            if not isinstance(error, MuybridgeError) and not _is_memory(error):
                raise
            reason = str(error) if isinstance(error, MuybridgeError) else f"Not enough memory ({_first_line(error)})."
            write_json(folder / FAILED, {"reason": reason})
        finally:
            progress.finish()
        # Fast: 0.16 s less a training where what it leaves is small. Elsewhere its model stays in memory, in a cycle
        # with its optimiser, until somebody looks.
        if torch.cuda.is_available() or setting.recipe.train.unfreeze != "none":
            gc.collect()
            torch.cuda.empty_cache()

    def halve(self, share: float | None, keep: int) -> None:
        """Give up all but the `keep` best after this share of the epochs."""
        ranks = []
        for setting in self.settings:
            if setting.number in self.alive:
                epochs = self.epochs(setting, share)
                tops = [self.training(setting, seed).top1_after(self.out, epochs) for seed in self.seeds]
                if None not in tops:
                    ranks.append((-sum(top for top in tops if top is not None), setting.number))
        ranks.sort()
        before = len(self.alive)
        self.alive = {number for _, number in ranks[:keep]}
        if len(self.alive) < before:
            kept = ", ".join(str(number) for number in sorted(self.alive))
            self.progress.say(f"Of {before} settings {len(self.alive)} go{'es' * (len(self.alive) == 1)} on: {kept}.")

    def write(self) -> SearchResult:
        """Both tables and the best recipe, of what is known so far."""
        outcomes = [
            Outcome(
                setting.number,
                setting.tried,
                setting.recipe,
                tuple(one for seed in self.seeds if (one := self.training(setting, seed)).state != "waiting"),
            )
            for setting in self.settings
        ]
        result = SearchResult(tuple(sorted(outcomes, key=Outcome.rank)), self.out)
        write_tables(result, self.about, [setting.tried for setting in self.settings])
        return result


class Quiet(Progress):
    """Bars and what is said, each sentence once; without the lines of every epoch."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.said: set[str] = set()
        self.prefix = ""  # of the titles of bars

    def start(self, title: str, total: float) -> None:
        self.inner.start(self.prefix + title, total)

    def advance(self, amount: float, **figures: float | str) -> None:
        self.inner.advance(amount, **figures)

    def finish(self) -> None:
        self.inner.finish()

    def say(self, text: str) -> None:
        of_each = text.startswith(("epoch ", "By the first steps ")) or " features: read from " in text
        if text not in self.said and not of_each:
            self.said.add(text)
            self.inner.say(text)


def _is_memory(error: Exception) -> bool:
    out_of: Callable[[str], bool] = str(error).lower().__contains__
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or out_of("can't allocate memory")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def words(tried: Mapping[str, Any]) -> str:
    """What is tried, as one says it."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in tried.items())


def _widths(settings: Sequence[Setting]) -> dict[str, int]:
    return {
        name: max(len(name), *(len(value_text(setting.tried[name])) for setting in settings))
        for name in settings[0].tried
    }


def _title(tried: Mapping[str, Any], settings: Sequence[Setting]) -> str:
    widths = _widths(settings)
    return "  ".join(("setting", *(f"{name:>{widths[name]}}" for name in tried), "seed", "epochs", "  top-1"))


def _row(setting: Setting, one: Training, settings: Sequence[Setting]) -> str:
    widths = _widths(settings)
    cells = [f"{setting.number:>7}", *(f"{value_text(v):>{widths[name]}}" for name, v in setting.tried.items())]
    cells += [f"{one.seed:>4}", f"{one.epochs:>6}"]
    if one.state == "failed":
        return "  ".join((*cells, f"failed: {one.why}"))
    return "  ".join((*cells, f"{one.top1 or 0:>7.1%}"))
