"""A recogniser as a folder that others can load, and that folder on the hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from muybridge.engine.checkpoint import MODEL, read_spec
from muybridge.errors import BadInput, MuybridgeError
from muybridge.hub.card import model_card
from muybridge.hub.fetch import NAME, told
from muybridge.recipes import read_recipe, write_recipe
from muybridge.structures import ModelSpec, Recipe
from muybridge.video.sources import short_name

CARD, RECIPE, EVALUATION = "README.md", "recipe.json", "evaluation.json"


class Trained(Protocol):
    """What is published: a `Recogniser`."""

    spec: ModelSpec
    source: Path | None

    def save(self, folder: str | Path, slim: bool = False, text: bool = False) -> Path:
        """Write `model.safetensors`."""
        ...


def save_pretrained(
    model: Trained,
    folder: str | Path,
    repo: str = "",
    licence: str = "",
    slim: bool = False,
    text: bool = False,
) -> Path:
    """Write a folder for others: the model, how it was trained, its figures and a card.

    Recipe and figures are those of the run that the model was loaded from, if it is still as it was there. Paths of
    this machine are left out.

    Args:
        model: a recogniser.
        folder: made if it is not there.
        repo: what it will be called on the hub, for the card's examples.
        licence: of the trained weights, by the hub's names such as `apache-2.0`; empty: unknown, and the card says so.
        slim, text: as `Recogniser.save`.

    Returns:
        The folder.

    Raises:
        BadInput: the folder has one of these files already.
    """
    folder = Path(folder)
    for name in (MODEL, CARD, RECIPE, EVALUATION):
        if (folder / name).exists():
            raise BadInput(f"{folder / name} exists already; nothing is written over. Give another folder.")
    recipe, figures = _known(model)
    model.save(folder, slim, text)
    spec = read_spec(folder)
    if recipe is not None:
        write_recipe(folder / RECIPE, recipe)
    if figures is not None:
        (folder / EVALUATION).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    card = model_card(spec, recipe, figures, repo or folder.absolute().name, licence, slim and not spec.own_backbone)
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder


def push_to_hub(
    model: Trained,
    repo: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    licence: str = "",
    slim: bool = False,
    text: bool = False,
    message: str = "Model from muybridge",
) -> str:
    """Write a model to the hub; see `Recogniser.push_to_hub`."""
    found = NAME.fullmatch(repo)
    if found is None or found["revision"]:
        raise BadInput(f"repo is '{repo}'; expected org/name, and a branch by revision=.")
    from huggingface_hub import HfApi

    import muybridge

    api = HfApi(library_name="muybridge", library_version=muybridge.__version__, token=token)
    with TemporaryDirectory() as place, told(repo, revision, writing=True):
        folder = save_pretrained(model, Path(place) / repo.partition("/")[2], repo, licence, slim, text)
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        # A card that is there may have been written by a person.
        kept = [CARD] if api.file_exists(repo, CARD, revision=revision) else None
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, revision=revision, commit_message=message, ignore_patterns=kept
        )
    return str(done.commit_url)


def _known(model: Trained) -> tuple[Recipe | None, dict[str, Any] | None]:
    """The recipe and the figures of the run that a model comes from, if it is the model of that run."""
    if model.source is None:
        return None, None
    from muybridge.report.facts import RECIPE as RUN_RECIPE
    from muybridge.report.facts import read_run

    folder = model.source if model.source.is_dir() else model.source.parent
    try:
        if read_spec(model.source) != model.spec or not (folder / RUN_RECIPE).is_file():
            return None, None
        recipe = _without_places(read_recipe(folder / RUN_RECIPE))
        result = read_run(folder).result
    except MuybridgeError:
        return None, None
    if result is None:
        return recipe, None
    # Its sentences name files of this machine.
    figures = {**result.summary, "unreadable": len(result.summary.get("unreadable", ()))}
    about = {"split": str(result.about.get("split", "val"))}
    views = [result.settings.get(f"sampling.{name}") for name in ("views", "crops")]
    sampling = recipe.sampling
    about["views"] = f"{views[0] or sampling.views}x{views[1] or sampling.crops}"
    return recipe, {**about, **figures}


def _without_places(recipe: Recipe) -> Recipe:
    """A recipe without the folders of this machine; names stay, as they say what was meant."""

    def name(path: str) -> str:
        return Path(path).name

    return replace(
        recipe,
        data=short_name(recipe.data) if recipe.data else "",
        weights=name(recipe.weights),
        source=replace(recipe.source, videos=name(recipe.source.videos)),
        init=replace(recipe.init, model=name(recipe.init.model)),
        train=replace(recipe.train, cache_folder=""),
    )
