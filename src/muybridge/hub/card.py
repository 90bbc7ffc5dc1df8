"""The model card: what a model is, how it was trained, what it reaches, and which licences are known."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import muybridge
from muybridge.backbones.weights import BACKBONES
from muybridge.engine.metrics import wilson_interval
from muybridge.methods import METHODS
from muybridge.structures import ModelSpec, Recipe

FEW = 20  # class names that are not folded away
UNKNOWN = "unknown"


def model_card(
    spec: ModelSpec,
    recipe: Recipe | None,
    figures: Mapping[str, Any] | None,
    repo: str,
    licence: str = "",
    without_backbone: bool = False,
) -> str:
    """The text of a model's README.md, with its metadata for the hub at the top.

    Args:
        spec: what the model is.
        recipe: how it was trained; None: not known.
        figures: its evaluation, as `evaluation.json`; None: not known, or not of this model.
        repo: what it is called.
        licence: of the trained weights; empty: unknown.
        without_backbone: the backbone is left out of the file.
    """
    parts = [
        f"---\n{_metadata(spec, recipe, figures, repo, licence)}\n---",
        f"# {_plain(repo.rpartition('/')[2])}",
        _what(spec),
        "## Use\n\n```bash\npip install muybridge\n"
        f"muybridge predict {repo} video.mp4\n```\n\n```python\nimport muybridge\n\n"
        f'recogniser = muybridge.load("{repo}")\nprint(recogniser.predict("video.mp4"))\n```',
        f"## Results\n\n{_results(spec, recipe, figures)}",
        f"## Training\n\n{_training(recipe)}",
        f"## Classes\n\n{_classes(spec.labels)}",
        f"## Licences\n\n{_licences(spec, licence, without_backbone)}",
        f"This card was written by muybridge {muybridge.__version__} from the files of the run.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(
    spec: ModelSpec, recipe: Recipe | None, figures: Mapping[str, Any] | None, repo: str, licence: str
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    more: dict[str, Any] = {}
    weights = BACKBONES.get(spec.backbone)
    if weights is not None and weights.files:
        more["base_model"] = weights.repo
        more["base_model_relation"] = "finetune" if spec.own_backbone else "adapter"
    if figures is not None:
        data = recipe.data if recipe is not None and recipe.data else UNKNOWN
        more["eval_results"] = [
            EvalResult(
                task_type="video-classification",
                dataset_type=data,
                dataset_name=data,
                dataset_split=str(figures.get("split", "val")),
                metric_type="accuracy",
                metric_name=name,
                metric_value=round(float(figures[key]), 4),
            )
            for key, name in (("top1", "top-1"), ("top5", "top-5"), ("mean_class", "mean over classes"))
        ]
        more["model_name"] = repo.rpartition("/")[2]
    return str(
        ModelCardData(
            library_name="muybridge",
            pipeline_tag="video-classification",
            license=licence.lower() or UNKNOWN,
            tags=["muybridge", "video-classification", "action-recognition", spec.method],
            metrics=["accuracy"],
            **more,
        ).to_yaml()
    )


def _what(spec: ModelSpec) -> str:
    title = METHODS[spec.method].title if spec.method in METHODS else spec.method
    height, width = spec.transform.size
    tower = "trained with it" if spec.own_backbone else "frozen"
    views = spec.sampling.views * spec.sampling.crops
    looks = f"{spec.sampling.frames} frames of {width}x{height} pixels" + (f", {views} views" if views > 1 else "")
    return (
        f"A video recogniser for {len(spec.labels)} classes.\n\n"
        f"* Method: `{spec.method}`. {_plain(title)}\n"
        f"* Image transformer: `{_code(spec.backbone)}`, {tower}.\n"
        f"* It looks at {looks} (rule `{spec.sampling.rule}`)."
    )


def _results(spec: ModelSpec, recipe: Recipe | None, figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "Not known: the model was saved without the evaluation of a run."
    videos, top1 = int(figures["videos"]), float(figures["top1"])
    low, high = wilson_interval(round(top1 * videos), videos)
    data = f" of `{_code(recipe.data)}`" if recipe is not None and recipe.data else ""
    rows = [
        ("top-1", f"{top1:.1%}", f"95 % interval {low:.1%} to {high:.1%}"),
        ("top-5", f"{figures['top5']:.1%}", ""),
        ("mean over classes", f"{figures['mean_class']:.1%}", ""),
    ]
    table = "\n".join(f"| {name} | {value} | {note} |" for name, value, note in rows)
    views = f", {figures['views']} views" if "views" in figures else ""
    return (
        f"On {videos:,} videos{data} (split {figures.get('split', 'val')}{views}).\n\n| | | |\n|---|---|---|\n{table}"
    )


def _training(recipe: Recipe | None) -> str:
    if recipe is None:
        return "Not known: the model was saved without the recipe of a run."
    from muybridge.report.settings import changed

    rows = "\n".join(f"| `{name}` | {_cell(value)} |" for name, (value, _) in changed(recipe).items())
    told = "Every field is in `recipe.json`; these differ from the defaults."
    return f"{told}\n\n| field | value |\n|---|---|\n{rows}"


def _classes(labels: tuple[str, ...]) -> str:
    items = "\n".join(f"<li>{escape(' '.join(name.split()))}</li>" for name in labels)
    listed = f'<ol start="0">\n{items}\n</ol>'
    if len(labels) <= FEW:
        return listed
    return f"<details><summary>{len(labels)} class names</summary>\n{listed}\n</details>"


def _licences(spec: ModelSpec, licence: str, without_backbone: bool) -> str:
    weights = BACKBONES.get(spec.backbone)
    if weights is None:
        theirs = f"unknown: `{_code(spec.backbone)}` is not in muybridge's table of published weights"
    else:
        source = f"[{weights.repo}](https://huggingface.co/{weights.repo})" if weights.files else weights.repo
        theirs = f"{weights.licence} ({source})"
    ours = _plain(licence) or "unknown: whoever saved the model did not state one; ask before you use it"
    inside = "It is not in the file; loading fetches it." if without_backbone else "It is in the file."
    return (
        f"* The trained weights: {ours}.\n* The weights of the image transformer `{_code(spec.backbone)}`: {theirs}. "
        f"{inside}\n* The videos that it was trained on have licences of their own, which muybridge does not know."
    )


def _cell(value: Any) -> str:
    text = (
        ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "-" if value in ("", None) else str(value)
    )
    return f"`{_code(text).replace('|', '/')}`"


def _code(text: str) -> str:
    """A text that cannot end the code it stands in."""
    return " ".join(text.replace("`", "'").split())


def _plain(text: str) -> str:
    """A text in a line of Markdown: no tag, no new line, no emphasis."""
    return escape(" ".join(text.split()), quote=False).replace("*", "\\*").replace("`", "\\`")
