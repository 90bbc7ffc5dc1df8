"""What an evaluation tells, as parts of a page: figures, order of the frames, classes, confusion, videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muybridge.report.charts import FEW_CLASSES, confusion_matrix, legend, plain_bar, share_bar
from muybridge.report.environment import without_home
from muybridge.report.facts import Result, RunFacts
from muybridge.report.markup import Markup, join, table, tag
from muybridge.report.thumbnails import Shown, best_and_worst, find_items, show

ALL_BARS, WORST, BEST, PAIRS = 40, 20, 10, 15  # classes that all get a bar; else the worst and the best; confused pairs


def how_evaluated(facts: RunFacts, result: Result) -> str:
    """Split and views."""
    views = result.settings.get("sampling.views"), result.settings.get("sampling.crops")
    if views[0] is None and facts.recipe is not None:
        views = facts.recipe.sampling.views, facts.recipe.sampling.crops
    split = str(result.about.get("split", "val"))
    return f"split {split}, {views[0]}x{views[1]} views" if views[0] else f"split {split}"


def result_parts(facts: RunFacts, result: Result) -> list[Markup]:
    """Everything but the videos."""
    parts = [tag("h2", "Results"), _table_of_results(facts, result)]
    if result.order is not None:
        parts.append(_order(result.order))
    classes = result.summary["classes"]
    parts += [tag("h2", "Classes"), _class_bars(classes)]
    names = list(facts.labels) or list(classes)
    counts = confusion_counts(result, names)
    if counts is not None:
        parts += [tag("h2", "Confusion"), _confusion(counts, names)]
    for title, sentences in (("Videos that cannot be read", result.summary.get("unreadable", [])),):
        if sentences:
            rows = [tag("li", without_home(sentence)) for sentence in sentences[:50]]
            more = tag("p", f"and {len(sentences) - 50} more") if len(sentences) > 50 else None
            parts.append(tag("details", tag("summary", f"{title}: {len(sentences)}"), tag("ul", *rows), more))
    return parts


def _table_of_results(facts: RunFacts, result: Result) -> Markup:
    summary, (low, high) = result.summary, result.interval
    rows: list[list[object]] = [
        [
            "top-1",
            f"{summary['top1']:.2%}",
            f"95 % interval {low:.1%} to {high:.1%} (Wilson), which videos are in the set",
        ],
        ["top-5", f"{summary['top5']:.2%}", "the class is among the five best"],
        ["mean over classes", f"{summary['mean_class']:.2%}", "top-1 of each class, averaged"],
    ]
    if result.answers:
        sure = [one.score for one in result.answers]
        gap = float(np.mean(sure)) - summary["top1"]
        rows.append(["mean score", f"{np.mean(sure):.2%}", f"of the best class; {_confidence(gap)}"])
    where = "at the end of the training" if not result.settings else f"in {without_home(result.folder)}"
    said = f"{summary['videos']:,} videos, {how_evaluated(facts, result)}, evaluated {where}."
    return join(tag("p", said), table([], rows))


def _confidence(gap: float) -> str:
    if abs(gap) < 0.02:
        return "about as often right as it says"
    return f"{abs(gap) * 100:.1f} points {'more sure than right' if gap > 0 else 'more often right than sure'}"


def _order(order: Mapping[str, Any]) -> Markup:
    top1, gap, within = order["top1"], order.get("gap", {}), order.get("within_twins", {})
    rows: list[list[object]] = []
    for name, share in top1.items():
        twins = within.get(name)
        rows.append(
            [
                name,
                plain_bar(share),
                f"{share:.1%}",
                f"{gap[name] * 100:+.1f}" if name in gap else "",
                "-" if twins is None else f"{twins:.1%}",
            ]
        )
    parts = [
        tag("h2", "Order of the frames"),
        tag(
            "p",
            "The same videos with their frames as they are, reversed, shuffled, and all replaced by the middle one. "
            "The gap (points of top-1) is what the recogniser takes from the order.",
        ),
        table(["frames", "", "top-1", "gap", "within twins"], rows, numbers=3, class_="bars"),
    ]
    twins = order.get("twins") or []
    if twins:
        pairs = "; ".join(f"{a} / {b}" for a, b in twins[:8]) + (
            f" and {len(twins) - 8} more" if len(twins) > 8 else ""
        )
        turned = order.get("reversed_taken_for_twin")
        told = f" Reversed, their videos are taken for the twin: {turned:.1%}." if turned is not None else ""
        how = "given" if order.get("twins_given") else "found"
        parts.append(tag("p", f"Twins, classes that turn into each other when reversed ({how}): {pairs}.{told}"))
    needing = sorted(
        (row for row in order.get("classes", []) if row["right"] > row["shuffled"]),
        key=lambda row: row["shuffled"] - row["right"],
    )[:12]
    if needing:
        kinds = list(top1)
        cells = [[row["class"], row.get("twin", ""), *(f"{row[kind]:.0%}" for kind in kinds)] for row in needing]
        parts += [
            tag("h3", "Classes that need the order most, top-1"),
            table(["class", "twin", *kinds], [list(row) for row in cells], numbers=len(kinds)),
        ]
    return join(*parts)


def _class_bars(classes: Mapping[str, Mapping[str, Any]]) -> Markup:
    ranked = sorted(classes.items(), key=lambda entry: (entry[1]["top1"], entry[0]))

    def rows(chosen: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
        cells = [
            [
                name,
                share_bar(round(one["top1"] * one["videos"]), int(one["videos"])),
                f"{one['top1']:.1%}",
                f"{one['top5']:.1%}",
                f"{one['videos']}",
            ]
            for name, one in chosen
        ]
        return table(["class", "", "top-1", "top-5", "videos"], [list(row) for row in cells], numbers=3, class_="bars")

    key = legend(("interval", "95 % interval"))
    if len(ranked) <= ALL_BARS:
        return join(tag("p", "The worst first.", class_="legend"), rows(ranked), key)
    middle = tag("details", tag("summary", f"All {len(ranked)} classes"), rows(ranked))
    return join(
        tag("h3", f"The {WORST} worst of {len(ranked)}"), rows(ranked[:WORST]), key,
        tag("h3", f"The {BEST} best"), rows(ranked[-BEST:][::-1]), middle,
    )  # fmt: skip


def confusion_counts(result: Result, names: Sequence[str]) -> np.ndarray | None:
    """[K, K], true by predicted; None where the answers are not there or have other classes."""
    place = {name: index for index, name in enumerate(names)}
    pairs = [(place.get(one.label), place.get(one.predicted)) for one in result.answers]
    if not pairs or any(None in pair for pair in pairs):
        return None
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    return counts


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Markup:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows: list[list[object]] = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if count := int(wrong[row, column]):
            total = int(counts[row].sum())
            rows.append([names[row], names[column], f"{count} of {total}", f"{count / total:.0%}"])
    how = "rows true, columns predicted" + ("" if len(names) <= FEW_CLASSES else ", in the order of the class list")
    matrix = tag(
        "div",
        tag("p", f"{how[0].upper()}{how[1:]}; the stronger, the larger the share of the row.", class_="legend"),
        confusion_matrix(counts, names),
        legend(("right", "right"), ("wrong", "wrong")),
    )
    if not rows:
        return tag("div", matrix, tag("p", "No video was taken for another class."))
    title = tag("h3", "Most confused")
    pairs = tag("div", title, table(["class", "taken for", "videos", "share"], rows, numbers=2))
    return tag("div", matrix, pairs, class_="two")


def video_parts(facts: RunFacts, result: Result, page: Path, data: str | None, count: int) -> list[Markup]:
    """The most certain mistakes and right answers.

    Args:
        facts: of the run.
        result: its evaluation.
        page: the file that links to the videos.
        data: where they are now; None: where they were.
        count: how many of each.
    """
    if not result.answers:
        return []
    right, wrong = best_and_worst(result.answers, count)
    items, source, why = find_items(facts, result, data)
    parts: list[Markup] = []
    for title, said, chosen in (
        (
            "Most certain mistakes",
            "Wrong, and with the highest scores: look here for labels that are wrong too.",
            wrong,
        ),
        ("Most certain right answers", "Right, with the highest scores.", right),
    ):
        if chosen:
            cards = [_card(one, bool(items), len(facts.labels) > 5) for one in show(chosen, items, source, page)]
            parts += [tag("h2", title), tag("p", said), tag("div", *cards, class_="cards")]
    if why and parts:
        parts.insert(0, tag("p", without_home(why), class_="note"))
    return parts


def _card(shown: Shown, pictures: bool, top5: bool) -> Markup:
    one = shown.answer
    said = tag("span", one.predicted, class_="right-text" if one.right else "wrong-text")
    alt = f"Frames of {one.name}"
    picture = tag("img", src=shown.picture, alt=alt) if shown.picture else None
    none = tag("div", "no picture", class_="none") if pictures and picture is None else None
    file: object = tag("a", one.name, href=shown.link) if shown.link else one.name
    lines = [tag("p", said, f" {one.score:.1%}")]
    if not one.right:
        lines.append(tag("p", f"is: {one.label}{' (among the best five)' if top5 and one.top5 else ''}"))
    return tag("div", picture or none, tag("div", *lines, tag("p", file, class_="file"), class_="text"), class_="card")
