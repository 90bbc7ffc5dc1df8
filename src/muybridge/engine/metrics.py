"""What an evaluation says: the scores of every video, and the figures that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from muybridge.errors import BadInput

NORMAL_95 = 1.959964  # 95 % of a normal distribution lie within this many deviations


@dataclass(frozen=True)
class ClassFigures:
    """One class: its name, how many readable videos it has, and the share of them that is right and in the best 5."""

    name: str
    videos: int
    top1: float
    top5: float


@dataclass(frozen=True)
class Confusion:
    """`count` videos of the class `label`, `share` of all it has, were taken for `predicted`."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of every readable video and what follows from them.

    Attributes:
        scores: [N, K], probabilities, mean over the views.
        labels: [N], true class indices.
        indices: [N], positions in the data set.
        unreadable: a sentence for every video that could not be decoded; they are in no figure below.
        names: of the N videos; empty: not known.
        classes: names of the K classes; empty: not known.
    """

    scores: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @cached_property
    def predicted(self) -> Tensor:
        """[N], the class index with the best score."""
        return self.scores.argmax(dim=1)

    @cached_property
    def _places(self) -> Tensor:
        """[N], the place of the true class when the scores are ranked, from 0; of equal scores the first class leads.

        So the best class is `predicted`, and the same on every machine; which of equal scores `topk` takes is not told.
        """
        true = self.scores.gather(1, self.labels[:, None])
        before = torch.arange(self.scores.shape[1]) < self.labels[:, None]
        return ((self.scores > true) | ((self.scores == true) & before)).sum(dim=1)

    def hits(self, k: int) -> Tensor:
        """[N] bool: whether the true class is among the k best scores, or all of them if there are fewer."""
        return self._places < k

    def topk(self, k: int) -> float:
        """Share of videos whose class is among the k best scores, or all of them if there are fewer."""
        return self.hits(k).double().mean().item()

    @property
    def top1(self) -> float:
        """Share of videos whose class has the best score."""
        return self.topk(1)

    @property
    def top5(self) -> float:
        """Share of videos whose class is among the five best (1 if there are five classes or fewer)."""
        return self.topk(5)

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Where the top-1 of endlessly many such videos lies with a probability of 95 %, see `wilson_interval`."""
        return wilson_interval(int(self.hits(1).sum()), len(self.labels))

    @property
    def mean_class(self) -> float:
        """Mean over the classes of the share of their videos that is right; classes without a video are left out."""
        right = self.hits(1)
        shares = [right[self.labels == label].double().mean() for label in self.labels.unique()]
        return torch.stack(shares).mean().item()

    @cached_property
    def confusion(self) -> Tensor:
        """[K, K] counts: row i, column j is the number of videos of class i that were taken for class j."""
        classes = self.scores.shape[1]
        return torch.bincount(self.labels * classes + self.predicted, minlength=classes**2).view(classes, classes)

    def confused_pairs(self, count: int = 10, names: Sequence[str] | None = None) -> list[Confusion]:
        """The `count` largest entries of `confusion` off its diagonal, largest first.

        Args:
            count: how many at most; entries of 0 are not among them.
            names: class names by index; None: `classes`.
        """
        names = self._class_names(names)
        videos = self.confusion.sum(dim=1)
        wrong = self.confusion.clone().fill_diagonal_(0).flatten()
        # Stable, so that equal counts come in the order of the classes.
        order = wrong.argsort(descending=True, stable=True)[:count].tolist()
        found = []
        for place in order:
            label, predicted = divmod(place, len(videos))
            if number := int(wrong[place]):
                found.append(Confusion(names[label], names[predicted], number, number / int(videos[label])))
        return found

    def per_class(self, names: Sequence[str] | None = None) -> list[ClassFigures]:
        """Figures of every class that has a readable video, in the order of the class indices."""
        names = self._class_names(names)
        right, right5 = self.hits(1).double(), self.hits(5).double()
        figures = []
        for index in self.labels.unique().tolist():
            mine = self.labels == index
            shares = right[mine].mean().item(), right5[mine].mean().item()
            figures.append(ClassFigures(names[index], int(mine.sum()), *shares))
        return figures

    def summary(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """What `evaluation.json` holds; shares are in [0, 1].

        Args:
            names: class names by index; None: `classes`.
        """
        return {
            "videos": len(self.labels),
            "unreadable": list(self.unreadable),
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "top5": self.top5,
            "mean_class": self.mean_class,
            "classes": {
                one.name: {"videos": one.videos, "top1": one.top1, "top5": one.top5} for one in self.per_class(names)
            },
        }

    def __repr__(self) -> str:
        low, high = self.top1_interval
        text = (
            f"Evaluation({len(self.labels)} videos, {self.scores.shape[1]} classes: top-1 {self.top1:.1%} "
            f"[{low:.1%}, {high:.1%}], top-5 {self.top5:.1%}, mean over classes {self.mean_class:.1%}"
        )
        return text + (f"; {len(self.unreadable)} unreadable)" if self.unreadable else ")")

    def _class_names(self, names: Sequence[str] | None) -> Sequence[str]:
        names = names or self.classes or [f"class {index}" for index in range(self.scores.shape[1])]
        if len(names) != self.scores.shape[1]:
            raise BadInput(f"{len(names)} class names for {self.scores.shape[1]} classes; expected as many.")
        return names


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Where a share lies with a probability of 95 %, if `right` of `count` independent draws were hits.

    Wilson's score interval (1927): it stays within [0, 1] and holds for few draws and for shares near 0 and 1. It tells
    of the chance in which videos are in the set, and of nothing else: not of the seeds of the training.
    """
    if count == 0:
        return 0.0, 1.0
    share, squared = right / count, NORMAL_95**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = NORMAL_95 / (1 + squared / count) * math.sqrt(share * (1 - share) / count + squared / (4 * count**2))
    # At the ends the formula gives exactly 0 and 1, but for rounding.
    return max(middle - half, 0.0) if right else 0.0, min(middle + half, 1.0) if right < count else 1.0


@dataclass(frozen=True, eq=False)
class ActionEvaluation:
    """Verbs and nouns of the same videos, and the actions that are made of them (EPIC-KITCHENS).

    The score of an action is the product of the probabilities of its verb and its noun, over all pairs; an action is
    right if both are.

    Attributes:
        verb: of the videos that both evaluations have, in the same order as `noun`.
        noun: likewise.
        alone: names of videos that only one of the two has; they are in no figure.
    """

    verb: Evaluation
    noun: Evaluation
    alone: tuple[str, ...] = ()

    def hits(self, k: int) -> Tensor:
        """[N] bool: whether the true pair is among the k pairs with the largest products."""
        best, right = [], []
        for one in (self.verb, self.noun):
            # Stable, as in `Evaluation`: of equal scores the first class leads.
            values, indices = one.scores.sort(dim=1, descending=True, stable=True)
            best.append(values[:, :k].double())
            right.append(indices[:, :k] == one.labels[:, None])
        # Fast: a pair among the k best is made of one of the k best verbs and one of the k best nouns, so k * k
        # products do instead of 97 * 300: 0.2 s instead of 2.1 s for the 9,668 segments of EPIC-KITCHENS-100.
        products = (best[0][:, :, None] * best[1][:, None, :]).flatten(1)
        true = (right[0][:, :, None] & right[1][:, None, :]).flatten(1)
        order = products.argsort(dim=1, descending=True, stable=True)
        return true.gather(1, order[:, :k]).any(dim=1)

    def topk(self, k: int) -> float:
        """Share of videos whose verb and noun are, as a pair, among the k best."""
        return self.hits(k).double().mean().item()

    @property
    def top1(self) -> float:
        """Share of videos of which both the verb and the noun are right."""
        return self.topk(1)

    @property
    def top5(self) -> float:
        """Share of videos whose action is among the five best."""
        return self.topk(5)

    @property
    def _kinds(self) -> tuple[tuple[str, Evaluation | ActionEvaluation], ...]:
        return ("verb", self.verb), ("noun", self.noun), ("action", self)

    def summary(self) -> dict[str, Any]:
        """Top-1 and top-5 of verb, noun and action, in [0, 1]."""
        shares = {name: {"top1": one.top1, "top5": one.top5} for name, one in self._kinds}
        return {"videos": len(self.verb.labels), "alone": list(self.alone), **shares}

    def __repr__(self) -> str:
        text = ", ".join(f"{name} {one.top1:.1%} / {one.top5:.1%}" for name, one in self._kinds)
        more = f"; {len(self.alone)} in one only" if self.alone else ""
        return f"ActionEvaluation({len(self.verb.labels)} videos, top-1 / top-5: {text}{more})"


def join_actions(verb: Evaluation, noun: Evaluation) -> ActionEvaluation:
    """The action score of two evaluations of the same videos, which are matched by name.

    Args:
        verb: scores of verbs.
        noun: scores of nouns.

    Raises:
        BadInput: an evaluation does not know the names of its videos or has one twice, or they share none.
    """
    rows = []
    for what, one in (("verb", verb), ("noun", noun)):
        places = {name: row for row, name in enumerate(one.names)}
        if len(places) != len(one.labels):
            raise BadInput(
                f"The {what} evaluation has {len(places)} different names for {len(one.labels)} videos; "
                "expected one a video, to match it with the other."
            )
        rows.append(places)
    shared = [name for name in verb.names if name in rows[1]]
    if not shared:
        raise BadInput(
            f"The two evaluations share no video (the first: {verb.names[0]} and {noun.names[0]}); expected verbs and "
            "nouns of the same data."
        )
    alone = tuple(name for name in (*verb.names, *noun.names) if (name in rows[0]) != (name in rows[1]))
    return ActionEvaluation(
        _chosen(verb, [rows[0][name] for name in shared]), _chosen(noun, [rows[1][name] for name in shared]), alone
    )


def _chosen(evaluation: Evaluation, rows: list[int]) -> Evaluation:
    which = torch.tensor(rows)
    return Evaluation(
        evaluation.scores[which],
        evaluation.labels[which],
        evaluation.indices[which],
        evaluation.unreadable,
        tuple(evaluation.names[row] for row in rows),
        evaluation.classes,
    )
