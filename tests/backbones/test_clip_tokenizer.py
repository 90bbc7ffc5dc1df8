"""CLIP's ids, string by string, against those of open_clip's tokenizer."""

import json

import pytest
import torch
from backbone_cases import FOLDER

from muybridge.backbones.tokenizer import ClipTokenizer, SiglipTokenizer
from muybridge.errors import BadInput, MissingFile

FILE = json.loads((FOLDER / "clip_tokenizer.json").read_text(encoding="utf-8"))
STRINGS = FILE["strings"]

# Texts that ftfy mends further than NFC and straight quotes do, and the ids without that: None for the file's
# `ids_nfc_instead_of_ftfy`, else what open_clip's tokenizer gives with our two steps in the place of ftfy.
NOT_MENDED = {
    "\ufb01ne \ufb02ow o\ufb03ce ligatures": None,
    "\uff46\uff55\uff4c\uff4c \uff57\uff49\uff44\uff54\uff48 \uff11\uff12\uff13\uff01": None,
    "twice &amp;amp; thrice &amp;amp;amp;": None,
    "caf\xc3\xa9 \xe2\u20ac\u0153quoted\xe2\u20ac\x9d": None,
    "bell\x07 esc\x1b[31mred\x1b[0m null\x00": None,
    "The Mona Lisa doesn\xc3\xa2\xe2\u201a\xac\xe2\u201e\xa2t have eyebrows.": [
        *(49406, 518, 19143, 7424, 2397, 77, 127, 352, 41359, 127, 351, 6, 126, 361, 127, 351, 1, 41359, 339, 720),
        *(19923, 269, 49407),
    ],
    "l\u2019humanit\xc3\xa9": [49406, 331, 262, 3175, 529, 127, 352, 5811, 49407],
}


@pytest.fixture(scope="module")
def tokenizer():
    return ClipTokenizer()


def padded(ids):
    return torch.tensor(ids + [0] * (77 - len(ids)))


def test_the_file_has_what_the_test_expects():
    assert len(STRINGS) == 70
    assert {s["text"] for s in STRINGS if "ids_nfc_instead_of_ftfy" in s} >= set(NOT_MENDED)


@pytest.mark.parametrize("string", STRINGS, ids=lambda s: f"{s['kind']}-{s['text'][:24]!a}")
def test_ids_are_those_of_clip(string, tokenizer):
    found = tokenizer([string["text"]])[0]
    if string["text"] not in NOT_MENDED:
        assert torch.equal(found, padded(string["ids"]))
        assert len(tokenizer.encode(string["text"])) + 2 == string["untruncated"]
    else:
        wanted = NOT_MENDED[string["text"]] or string["ids_nfc_instead_of_ftfy"]
        assert torch.equal(found, padded(wanted))
        assert wanted != string["ids"]


@pytest.mark.parametrize(
    ("curly", "straight"),
    [("it\u2019s", "it's"), ("\u2018a\u2019", "'a'"), ("\u201ca\u201d", '"a"'), ("\u02bcn", "'n")],
)
def test_curly_quotes_are_straightened(curly, straight, tokenizer):
    assert tokenizer.encode(curly) == tokenizer.encode(straight)


def test_a_mark_that_clips_pattern_passes_over(tokenizer):
    assert tokenizer.encode("a\u0345b") == tokenizer.encode("a b")


def test_a_batch_is_its_texts(tokenizer):
    texts = [string["text"] for string in STRINGS[:12]]
    assert torch.equal(tokenizer(texts), torch.cat([tokenizer([text]) for text in texts]))
    assert tokenizer(texts).dtype == torch.int64
    assert tokenizer([]).shape == (0, 77)


def test_a_shorter_context(tokenizer):
    short = ClipTokenizer(context=5)
    assert short(["a photo of a cat", "a"]).tolist() == [[49406, 320, 1125, 539, 49407], [49406, 320, 49407, 0, 0]]


def test_vocabulary(tokenizer):
    assert len(tokenizer._ids) == FILE["vocab_size"]
    assert tokenizer._ids["<start_of_text>"] == tokenizer.start == FILE["start"]
    assert tokenizer._ids["<end_of_text>"] == tokenizer.end == FILE["end"]


def test_the_licence_lies_beside_the_merges():
    import importlib.resources

    text = importlib.resources.files("muybridge.backbones").joinpath("data/LICENSE-CLIP").read_text()
    assert "Copyright (c) 2021 OpenAI" in text


# --- SigLIP ----------------------------------------------------------------------------------------------------------


def tokenizer_json(path, special):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {name: number for number, name in enumerate([*special, "<unk>", "a", "cat", "dog", "its"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return path


def test_siglip_is_canonical_ended_and_filled_up(tmp_path):
    tokenizer = SiglipTokenizer(tokenizer_json(tmp_path / "tokenizer.json", ["<a>", "</s>"]), context=6)
    a, cat, dog, its = 3, 4, 5, 6
    assert tokenizer(["A Cat,  a_dog!", "it's"]).tolist() == [[a, cat, a, dog, 1, 1], [its, 1, 1, 1, 1, 1]]
    assert tokenizer(["a cat " * 9]).tolist() == [[a, cat, a, cat, a, 1]]


def test_siglip_2_has_a_padding_token(tmp_path):
    tokenizer = SiglipTokenizer(tokenizer_json(tmp_path / "tokenizer.json", ["<pad>", "<eos>"]), context=4)
    assert tokenizer(["cat"]).tolist() == [[4, 1, 0, 0]]


def test_what_is_no_siglip_tokenizer(tmp_path):
    with pytest.raises(MissingFile, match="no such tokenizer file"):
        SiglipTokenizer(tmp_path / "none.json")
    with pytest.raises(BadInput, match=r"neither </s> nor <eos>"):
        SiglipTokenizer(tokenizer_json(tmp_path / "tokenizer.json", ["<a>"]))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BadInput, match=r"is no tokenizer\.json"):
        SiglipTokenizer(tmp_path / "other.json")
