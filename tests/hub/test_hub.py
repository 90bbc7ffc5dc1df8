"""Models on the hub: fetched, published, and every way in which that fails. The hub is a stand-in on this machine."""

import json
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard, constants
from standin import COMMIT, TOKEN, standing_in

import muybridge
from muybridge import cli
from muybridge.engine.checkpoint import MODEL, model_spec, save_model
from muybridge.engine.train import train
from muybridge.errors import BadInput, CheckpointError, MissingFile, MuybridgeError
from muybridge.hub.card import model_card
from muybridge.hub.fetch import hub_name
from muybridge.methods import build_method
from muybridge.recogniser import Recogniser
from muybridge.structures import Recipe, Sampling, SourceArgs, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A trained run of the session's videos."""
    folder = tmp_path_factory.mktemp("hub") / "run"
    recipe = Recipe(
        method="probe",
        options={"pool": "concat"},
        backbone="custom",
        data=str(videos),
        source=SourceArgs(videos=str(videos)),
        sampling=Sampling(frames=2),
        transform=Transform(size=(32, 32), crop="center"),
        train=TrainArgs(epochs=2, lr=3e-3, workers=0, fixed_views=1, cache="memory", batch_size=4),
    )
    recipe = replace(recipe, source=SourceArgs())
    train(recipe, folder, backbone=random_backbone(tiny_backbones()["dinov2"]))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in, an empty cache, and nobody logged in."""
    with standing_in() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub


def downloads(hub):
    """Names of the files that were asked for."""
    return {path.rpartition("/")[2] for method, path in hub.asked if "/resolve/" in path}


def test_pushed_and_loaded_by_name(run, hub, videos, tmp_path):
    recogniser = muybridge.load(run)
    address = recogniser.push_to_hub("org/square", private=True, token=TOKEN, licence="CC-BY-4.0")
    assert address == f"{hub.address}/org/square/commit/{COMMIT}"
    (made,) = hub.made
    assert made.get("private") or made.get("visibility") == "private"
    assert all("library_name: muybridge" in card for card in hub.cards)
    assert set(hub.files["org/square"]) == {MODEL, "README.md", "recipe.json", "evaluation.json"}
    hub.files["org/square"]["training_args.bin"] = b"a pickle"
    hub.asked.clear()

    found = muybridge.load("org/square")
    assert downloads(hub) == {MODEL}
    video = next((videos / "val").rglob("*.mp4"))
    assert torch.equal(found.scores(video), recogniser.scores(video))
    assert found.spec == recogniser.spec
    # Again, with a token: from the cache, if the hub has nothing newer.
    hub.asked.clear()
    again = Recogniser.from_pretrained("org/square", revision="main", token=TOKEN)
    assert torch.equal(again.scores(video), recogniser.scores(video))
    assert {method for method, _ in hub.asked} == {"HEAD"}


def test_nothing_of_this_machine_is_published(run, tmp_path, videos):
    folder = muybridge.load(run).save_pretrained(tmp_path / "out")
    for name in ("README.md", "recipe.json", "evaluation.json"):
        text = (folder / name).read_text()
        assert str(videos.parent) not in text
        assert str(run.parent) not in text
    assert json.loads((folder / "recipe.json").read_text())["data"] == videos.name
    # And it is whole: it loads from there, and knows where it is from.
    assert muybridge.load(folder).spec == muybridge.load(run).spec
    with pytest.raises(BadInput, match="nothing is written over"):
        muybridge.load(run).save_pretrained(folder)


def test_the_card(run, tmp_path):
    folder = muybridge.load(run).save_pretrained(tmp_path / "out", licence="MIT", repo="org/square")
    card = ModelCard.load(folder / "README.md")
    facts = card.data.to_dict()
    assert (facts["library_name"], facts["pipeline_tag"], facts["license"]) == (
        "muybridge",
        "video-classification",
        "mit",
    )
    assert "base_model" not in facts, "a backbone of one's own is nowhere on the hub"
    figures = json.loads((run / "evaluation.json").read_text())
    values = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert values["top-1"] == round(figures["top1"], 4)
    assert 'muybridge.load("org/square")' in card.text
    assert "muybridge predict org/square video.mp4" in card.text
    assert "unknown: `custom` is not in muybridge's table" in card.text


def test_a_card_of_a_known_backbone_and_wicked_names():
    vit = random_backbone(tiny_backbones()["dinov2"])
    labels = ("</ol><script>alert(1)</script>", "two\n# lines", *(f"class {i}" for i in range(40)))
    method = build_method("probe", vit, len(labels), 2, (32, 32), {})
    spec = model_spec("probe", method, "clip_vitb16", labels, Sampling(2), Transform((32, 32)))
    text = model_card(spec, None, None, "org/x")
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "timm/vit_base_patch16_clip_224.openai"
    assert data["base_model_relation"] == "adapter"
    assert data["license"] == "unknown"
    assert "model-index" not in data
    assert "<script" not in text
    assert "\n# lines" not in text
    assert "<summary>42 class names</summary>" in text
    assert "MIT ([timm/vit_base_patch16_clip_224.openai]" in text
    assert "ask before you use it" in text


def test_figures_of_another_model_are_not_told(run, tmp_path):
    recogniser = muybridge.load(run)
    recogniser.spec = replace(recogniser.spec, sampling=replace(recogniser.spec.sampling, views=3))
    text = (recogniser.save_pretrained(tmp_path / "out") / "README.md").read_text()
    assert "Not known: the model was saved without the evaluation" in text
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_a_card_by_hand_stays(run, hub):
    recogniser = muybridge.load(run)
    hub.files["org/mine"] = {"README.md": b"by hand"}
    recogniser.push_to_hub("org/mine", token=TOKEN)
    assert hub.files["org/mine"]["README.md"] == b"by hand"
    assert MODEL in hub.files["org/mine"]


def test_what_is_on_this_machine_goes_first(run, hub, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    (tmp_path / "org/square").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    assert hub_name("org/square") is None
    muybridge.load("org/square")
    with pytest.raises(MissingFile, match="There is nothing at org/sqare"):
        muybridge.load("org/sqare")
    assert not hub.asked, "a slip of the pen beside a folder of that name is not told to a server"


def test_names_of_the_hub():
    assert hub_name("org/name") == ("org/name", None)
    assert hub_name("org/name@refs/pr/1") == ("org/name", "refs/pr/1")
    for text in (
        "name",
        "a/b/c",
        "/a/b",
        "./a/b",
        "a/b.pth",
        "org/na me",
        "../x",
        "org/",
        {},
        "https://a/b",
        "a/b@c/../d",
    ):
        assert hub_name(text) is None, text


def wrong(hub, name, kind, *sentences):
    with pytest.raises(kind) as error:
        muybridge.load(name)
    for sentence in sentences:
        assert sentence in str(error.value)
    return str(error.value)


def test_every_failure_is_a_sentence(run, hub, tmp_path):
    model = (run / MODEL).read_bytes()
    wrong(hub, "org/nothing", MissingFile, "no model org/nothing on the hub", "private", "HF_TOKEN")
    hub.files["org/gated"], hub.gated = {MODEL: model}, {"org/gated"}
    wrong(hub, "org/gated", MissingFile, "is gated: accept its terms at", f"{hub.address}/org/gated")
    hub.files["org/private"], hub.private = {MODEL: model}, {"org/private"}
    wrong(hub, "org/private", MissingFile, "or it is private")
    hub.files["org/open"] = {MODEL: model}
    wrong(hub, "org/open@v7", MissingFile, "has no revision 'v7'")
    muybridge.load("org/open@v1")
    hub.files["org/text"] = {"pytorch_model.bin": b"a pickle"}
    wrong(hub, "org/text", CheckpointError, "is no model of muybridge", "it has no model.safetensors")
    hub.files["org/other"] = {MODEL: b"12345678 no safetensors"}
    wrong(hub, "org/other", CheckpointError, "is no model of muybridge")
    wrong(hub, "org/a--b", BadInput, "cannot be the name of a model")
    with pytest.raises(BadInput, match="expected org/name"):
        muybridge.load(run).push_to_hub("name")
    with pytest.raises(MuybridgeError, match="log in with"):
        muybridge.load(run).push_to_hub("org/new")


def test_an_image_model_is_refused_before_it_is_fetched(hub, tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(4)}, tmp_path / "x")
    hub.files["timm/vit"] = {MODEL: (tmp_path / "x").read_bytes()}
    wrong(hub, "timm/vit", CheckpointError, "its model.safetensors does not say so", "--backbone")
    assert not any("/tree/" in path for _, path in hub.asked)


def test_without_a_connection_the_cache_is_taken(run, hub, monkeypatch, videos):
    hub.files["org/open"] = {MODEL: (run / MODEL).read_bytes()}
    before = muybridge.load("org/open")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    assert muybridge.load("org/open").spec == before.spec
    wrong(hub, "org/never", MissingFile, "the hub cannot be asked", "no connection to http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert muybridge.load("org/open").spec == before.spec
    wrong(hub, "org/never", MissingFile, "HF_HUB_OFFLINE is set")
    assert not hub.asked


def test_a_command_takes_a_name(run, hub, videos, capsys):
    hub.files["org/open"] = {MODEL: (run / MODEL).read_bytes()}
    video = next((videos / "val").rglob("*.mp4"))
    assert cli.run(["predict", "org/open", str(video), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"]
    assert cli.run(["predict", "org/nothing", str(video)]) == 2
    assert "no model org/nothing on the hub" in capsys.readouterr().err


def test_a_slim_model_says_where_its_backbone_is(tmp_path):
    vit = random_backbone(tiny_backbones()["clip"])
    method = build_method("probe", vit, 2, 2, (32, 32), {})
    spec = model_spec("probe", method, "clip_vitb16", ("a", "b"), Sampling(2), Transform((32, 32)))
    save_model(tmp_path / "run" / MODEL, method, spec)
    recogniser = Recogniser(method, spec)
    card = (recogniser.save_pretrained(tmp_path / "out", slim=True) / "README.md").read_text()
    assert "It is not in the file; loading fetches it." in card
    assert (tmp_path / "out" / MODEL).stat().st_size < (tmp_path / "run" / MODEL).stat().st_size
