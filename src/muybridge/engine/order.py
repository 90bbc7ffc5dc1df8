"""Does a recogniser look at the order of the frames? The same videos in the right order and in wrong ones.

A recogniser that sees a heap of pictures is as good with the frames shuffled, reversed, or (if one picture tells it
all) with the middle frame in every place. The gap to the right order is what it takes from the order; in data sets such
as Something-Something much of it lies in twins: classes that turn into each other when a video is played backwards.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muybridge.engine.checkpoint import write_atomically, write_json
from muybridge.engine.evaluate import EvaluateArgs, Model, Reorder, score_orders
from muybridge.engine.metrics import Evaluation
from muybridge.engine.predictions import RIGHT, read_evaluation
from muybridge.engine.processes import join_processes
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput, CheckpointError, unknown
from muybridge.video.draws import generator

Pair = tuple[int, int]
REVERSED, SHUFFLED, FROZEN = "reversed", "shuffled", "frozen"
WRONG = (REVERSED, SHUFFLED, FROZEN)
SUMMARY = "order.json"
FOUND_SHARE = 0.25  # of the videos of a class that must turn into its twin when they are reversed
FOUND_VIDEOS = 2


@dataclass(frozen=True, eq=False)
class OrderDiagnostics:
    """The same videos with their frames in four orders; what the order is worth.

    Attributes:
        right: the frames as they are.
        reversed: last frame first.
        shuffled: in random order, another one for every view.
        frozen: the middle frame of the view in every place.
        twins: pairs of classes (indices, the smaller first) that turn into each other when a video is reversed.
        given: whether the twins were given; else they were found, see `find_twins`.
    """

    right: Evaluation
    reversed: Evaluation
    shuffled: Evaluation
    frozen: Evaluation
    twins: tuple[Pair, ...] = ()
    given: bool = False

    @property
    def orders(self) -> dict[str, Evaluation]:
        """Name of the order -> evaluation, the right one first."""
        return {RIGHT: self.right, REVERSED: self.reversed, SHUFFLED: self.shuffled, FROZEN: self.frozen}

    def gap(self, order: str) -> float:
        """Top-1 with the frames in the right order less top-1 in this one."""
        return self.right.top1 - self.orders[order].top1

    def within_twins(self, order: str = RIGHT) -> float | None:
        """Share of videos of twin classes for which the right class scores higher than its twin; None: no twins."""
        return within_twins(self.orders[order], self.twins)

    @property
    def turned(self) -> float | None:
        """Share of reversed videos of twin classes that are taken for the twin, rather than for any other class."""
        twin = _twin_of(self.twins)
        if not twin:
            return None
        pairs = zip(self.reversed.labels.tolist(), self.reversed.predicted.tolist(), strict=True)
        answers = [answer == twin[label] for label, answer in pairs if label in twin]
        return sum(answers) / len(answers) if answers else None

    def per_class(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A row a class with readable videos: its name, videos, top-1 in each order, and its twin or an empty text."""
        figures = {order: one.per_class(names) for order, one in self.orders.items()}
        classes = names or self.right.classes
        twin = {a: classes[b] for a, b in _twin_of(self.twins).items()} if classes else {}
        rows = []
        for place, label in enumerate(self.right.labels.unique().tolist()):
            shares = {order: figures[order][place].top1 for order in figures}
            first = figures[RIGHT][place]
            rows.append({"class": first.name, "videos": first.videos, **shares, "twin": twin.get(label, "")})
        return rows

    def summary(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """What `order.json` holds; shares are in [0, 1].

        Args:
            names: class names by index; None: those of the evaluations.
        """
        classes = names or self.right.classes or [f"class {index}" for index in range(self.right.scores.shape[1])]
        return {
            "videos": len(self.right.labels),
            "top1": {order: one.top1 for order, one in self.orders.items()},
            "gap": {order: self.gap(order) for order in WRONG},
            "twins": [[classes[a], classes[b]] for a, b in self.twins],
            "twins_given": self.given,
            "within_twins": {order: self.within_twins(order) for order in self.orders},
            "reversed_taken_for_twin": self.turned,
            "classes": self.per_class(names),
        }

    def __repr__(self) -> str:
        tops = ", ".join(f"{order} {one.top1:.1%}" for order, one in self.orders.items())
        within = self.within_twins()
        more = (
            f"; within twins {within:.1%} ({len(self.twins)} {'given' if self.given else 'found'})"
            if within is not None
            else ""
        )
        return f"OrderDiagnostics({len(self.right.labels)} videos, top-1: {tops}{more})"


def order_diagnostics(
    model: Model,
    data: str | Path,
    args: EvaluateArgs | None = None,
    twins: str | Sequence[Pair] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> OrderDiagnostics:
    """Evaluate with the frames in the right order, reversed, shuffled and frozen; every video is decoded once.

    Args:
        model, data, args, progress: as `evaluate_data`.
        twins: pairs of class indices (may be none), or a text as `parse_twins` reads it; None: they are found.
        seed: of the shuffles. A video's shuffle depends on the seed, its place in the data and the view only.
        out: folder as in `evaluate_data`; besides its files it gets `order.json` and `order.csv` (a row a class).

    Raises:
        MuybridgeError: as `evaluate_data`; twins that are no classes of the model.
    """
    classes = model.spec.labels
    pairs = parse_twins(twins, classes) if isinstance(twins, str) else twins
    for pair in pairs or ():
        if len(set(pair)) != 2 or not all(0 <= index < len(classes) for index in pair):
            raise BadInput(
                f"twins has the pair {tuple(pair)}; expected two different indices of {len(classes)} classes."
            )
    _one_pair_each(pairs or (), classes)
    found = score_orders(model, data, reorders(seed), args, out, progress, settings={"shuffle_seed": seed})
    if pairs is None:
        chosen = find_twins(found[RIGHT], found[REVERSED])
    else:
        chosen = sorted((min(a, b), max(a, b)) for a, b in pairs)
    result = OrderDiagnostics(
        found[RIGHT], found[REVERSED], found[SHUFFLED], found[FROZEN], tuple(chosen), pairs is not None
    )
    if out is not None and join_processes().first:
        _write(Path(out), result)
    return result


def read_order(folder: str | Path) -> OrderDiagnostics:
    """The order diagnostics that a folder holds.

    Args:
        folder: what `out` was.

    Raises:
        MissingFile: there is no finished evaluation with its scores.
        CheckpointError: a file of it is damaged.
        BadInput: it is the evaluation of one order only.
    """
    right, backwards, shuffled, frozen = (read_evaluation(folder, order) for order in (RIGHT, *WRONG))
    places = {name: place for place, name in enumerate(right.classes)}
    try:
        told = json.loads((Path(folder) / SUMMARY).read_text(encoding="utf-8"))
        twins = tuple((places[a], places[b]) for a, b in told["twins"])
        return OrderDiagnostics(right, backwards, shuffled, frozen, twins, bool(told["twins_given"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{Path(folder) / SUMMARY} is damaged ({type(error).__name__}: {error}); evaluate again with --order and "
            "the same --out: the scores are there."
        ) from None


def reorders(seed: int) -> dict[str, Reorder]:
    """The four orders by name, each video [B, V, T, 3, H, W], indices [B] -> video."""

    def shuffled(video: Tensor, indices: Tensor) -> Tensor:
        out = torch.empty_like(video)
        for row, index in enumerate(indices.tolist()):
            for view in range(video.shape[1]):
                order = generator(seed, 0, index, view).permutation(video.shape[2])
                out[row, view] = video[row, view, torch.from_numpy(order)]
        return out

    return {
        RIGHT: lambda video, _: video,
        REVERSED: lambda video, _: video.flip(2),
        SHUFFLED: shuffled,
        FROZEN: lambda video, _: video[:, :, [video.shape[2] // 2] * video.shape[2]],
    }


def find_twins(right: Evaluation, backwards: Evaluation) -> list[Pair]:
    """Pairs of classes whose videos are taken for each other when they are reversed, and were not before.

    Of each class at least a quarter of the videos (and two) must turn into the other because they are reversed, and
    into no third class more do. A recogniser that does not see the order turns nothing, and no pair is found.

    Args:
        right: with the frames in the right order.
        backwards: the same videos reversed.

    Returns:
        Class indices, the smaller first, in ascending order.
    """
    videos = right.confusion.sum(dim=1)
    moved = (backwards.confusion - right.confusion).fill_diagonal_(0)
    partner = moved.argmax(dim=1).tolist()
    pairs = []
    for a, b in enumerate(partner):
        if a < b and partner[b] == a:
            counts = [(int(moved[a, b]), int(videos[a])), (int(moved[b, a]), int(videos[b]))]
            if all(count >= max(FOUND_SHARE * total, FOUND_VIDEOS) for count, total in counts):
                pairs.append((a, b))
    return pairs


def within_twins(evaluation: Evaluation, twins: Sequence[Pair]) -> float | None:
    """Share of videos of twin classes for which the right class scores higher than its twin; None: there are none.

    Half is what a coin gives, and what a recogniser that does not see the order gives.

    Args:
        evaluation: any.
        twins: pairs of class indices.
    """
    twin = _twin_of(twins)
    labels = evaluation.labels.tolist()
    rows = torch.tensor([row for row, label in enumerate(labels) if label in twin], dtype=torch.long)
    if not len(rows):
        return None
    true = evaluation.labels[rows]
    other = torch.tensor([twin[label] for label in true.tolist()])
    scores = evaluation.scores
    return (scores[rows, true] > scores[rows, other]).double().mean().item()


def parse_twins(text: str, names: Sequence[str]) -> list[Pair]:
    """Pairs of class indices from `opening,closing;rising,falling`, or from a file with a pair a line.

    Args:
        text: class names, or class indices. Names may hold commas: where several readings are possible, the one whose
            two halves are class names is meant.
        names: class names by index.

    Raises:
        BadInput: a pair is not two classes; a class is in two pairs.
        UnknownName: there is no such class.
    """
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines() if Path(text).is_file() else text.split(";")
    except OSError:  # longer than a file's name can be
        lines = text.split(";")
    index = {name: place for place, name in enumerate(names)}
    index |= {str(place): place for place in range(len(names)) if str(place) not in index}
    pairs: list[Pair] = []
    for line in filter(None, map(str.strip, lines)):
        words = line.split("\t") if "\t" in line else line.split(",")
        joint = "\t" if "\t" in line else ","
        splits = [(joint.join(words[:n]).strip(), joint.join(words[n:]).strip()) for n in range(1, len(words))]
        if not splits:
            raise BadInput(f"twins has '{line}'; expected two class names with a comma between them.")
        found = [split for split in splits if split[0] in index and split[1] in index]
        if not found:
            wrong = next((name for name in splits[0] if name not in index), splits[0][0])
            raise unknown("class", wrong, names, f"It stands in the twins '{line}'.")
        a, b = sorted((index[found[0][0]], index[found[0][1]]))
        if a == b:
            raise BadInput(f"twins has '{line}', twice the same class; expected two.")
        pairs.append((a, b))
    if not pairs:
        raise BadInput(f"twins is '{text}'; expected pairs such as 'opening,closing;rising,falling'.")
    _one_pair_each(pairs, names)
    return pairs


def _one_pair_each(pairs: Sequence[Pair], names: Sequence[str]) -> None:
    """Raise BadInput if a class is in two pairs."""
    counts = Counter(label for pair in pairs for label in pair)
    several = sorted(label for label, count in counts.items() if count > 1)
    if several:
        raise BadInput(f"twins names the class '{names[several[0]]}' in two pairs; expected one.")


def _twin_of(twins: Sequence[Pair]) -> dict[int, int]:
    return dict(twins) | {b: a for a, b in twins}


def _write(folder: Path, result: OrderDiagnostics) -> None:
    rows = result.per_class()

    def table(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(folder / "order.csv", table)
    write_json(folder / SUMMARY, result.summary())
