"""Text towers and label features."""

from dataclasses import replace

import pytest
import torch
from backbone_cases import build_text, reference

from muybridge.backbones.text import TextConfig, TextTower, encode_labels
from muybridge.backbones.tokenizer import ClipTokenizer
from muybridge.errors import BadInput

CONFIG = TextConfig(width=16, depth=2, heads=2, mlp_hidden=32, projection=8)


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return TextTower(CONFIG).eval()


def test_label_features_are_means_of_unit_length(tower):
    tokenizer = ClipTokenizer()
    labels, templates = ["archery", "high jump", "yoga"], ["a video of {}.", "{}", "{} and {}"]
    found = encode_labels(tower, tokenizer, labels, templates)
    assert found.shape == (3, 8)
    for label, feature in zip(labels, found, strict=True):
        texts = [template.replace("{}", label) for template in templates]
        with torch.no_grad():
            each = tower(tokenizer(texts))
        mean = (each / each.norm(dim=-1, keepdim=True)).mean(0)
        torch.testing.assert_close(feature, mean / mean.norm())


def test_label_features_do_not_depend_on_the_batch(tower):
    labels = [f"action {number}" for number in range(7)]
    whole = encode_labels(tower, ClipTokenizer(), labels, ["{}", "a {}"])
    torch.testing.assert_close(encode_labels(tower, ClipTokenizer(), labels, ["{}", "a {}"], batch=3), whole)


@pytest.mark.parametrize(
    ("labels", "templates", "says"),
    [([], ["{}"], "at least one label"), (["a"], [], "at least one"), (["a"], ["a video"], "has no {}")],
)
def test_labels_and_templates_that_cannot_be(labels, templates, says, tower):
    with pytest.raises(BadInput, match=says):
        encode_labels(tower, ClipTokenizer(), labels, templates)


def test_clip_reads_shorter_texts_and_siglip_does_not():
    clip = build_text(reference("hf_clip").converted())
    ids = reference("hf_clip").inputs["text"][1:2]  # start, 7, end, zeros
    with torch.no_grad():
        torch.testing.assert_close(clip(ids[:, :3]), clip(ids))
    siglip = build_text(reference("hf_siglip").converted())
    with pytest.raises(BadInput, match="L exactly 10"):
        siglip(ids[:, :3])


@pytest.mark.parametrize("shape", [(3,), (1, 78), (1, 2, 3)])
def test_ids_of_another_shape(shape, tower):
    with pytest.raises(BadInput, match=r"expected \[K, L\], L at most 77"):
        tower(torch.zeros(shape, dtype=torch.int64))


def test_heads_must_divide_the_width():
    with pytest.raises(BadInput, match="heads must divide width"):
        replace(CONFIG, heads=3)
