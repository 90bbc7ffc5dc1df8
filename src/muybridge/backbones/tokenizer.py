"""Texts to the token ids that CLIP's and SigLIP's text towers were trained with.

    ClipTokenizer()(["a photo of a cat"])            # [1, 77]: 49406 320 1125 539 320 2368 49407 0 0 ...
    SiglipTokenizer("tokenizer.json")(["a cat"])     # [1, 64]

CLIP's ids are those of OpenAI's and OpenCLIP's code, with one exception: both mend texts with the package `ftfy`, and
in its place stand two of its steps, Unicode NFC and straight quotes for curly ones. Class names and prompts do not need
the rest: ligatures, full-width letters, wrongly decoded text ("cafÃ©"), terminal escapes and control characters, and a
third layer of HTML entities stay as they are, and give other ids than with ftfy.
"""

from __future__ import annotations

import functools
import gzip
import html
import importlib.resources
import itertools
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from muybridge.errors import BadInput, MissingFile

# Reference: ftfy's uncurl_quotes.
_QUOTES = dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
_CONTRACTION = re.compile("'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)  # so CLIP's pattern
_SPECIAL = ("<start_of_text>", "<end_of_text>")  # Reference: OpenCLIP's spelling, also inside a text
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ClipTokenizer:
    """CLIP's byte-pair encoding, 49,408 ids.

    Args:
        context: ids of a text, start and end included; longer texts lose their end and get the end id as the last.
    """

    start = 49406
    end = 49407

    def __init__(self, context: int = 77) -> None:
        self.context = context
        file = importlib.resources.files("muybridge.backbones").joinpath("data/merges.txt.gz")
        merges = [tuple(line.split(" ")) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._letters = _byte_letters()
        letters = list(self._letters.values())
        vocabulary = [
            *letters,
            *(letter + "</w>" for letter in letters),
            *("".join(pair) for pair in merges),
            *_SPECIAL,
        ]
        self._ids = {token: number for number, token in enumerate(vocabulary)}
        self._word_ids = functools.lru_cache(maxsize=1 << 16)(self._encode_word)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """K texts -> [K, context] int64, filled up with 0."""
        ids = torch.zeros(len(texts), self.context, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            encoded = [self.start, *self.encode(text), self.end]
            if len(encoded) > self.context:
                encoded = [*encoded[: self.context - 1], self.end]
            row[: len(encoded)] = torch.tensor(encoded)
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start and end, however many there are."""
        return [number for word in _words(_clean(text)) for number in self._word_ids(word)]

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in _SPECIAL:
            return (self._ids[word],)
        parts = [self._letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, len(self._ranks)) for pair in itertools.pairwise(parts)]
            best = min(ranks)
            if best == len(self._ranks):
                break
            merged, i = [], 0
            while i < len(parts):  # every place of the best pair, from the left
                step = 2 if i < len(ranks) and ranks[i] == best else 1
                merged.append("".join(parts[i : i + step]))
                i += step
            parts = merged
        return tuple(self._ids[part] for part in parts)


class SiglipTokenizer:
    """SigLIP's SentencePiece ids, from the `tokenizer.json` beside the published weights.

    Lower case and no punctuation, as it was trained (big_vision's `canonicalize_text`), then the end id, then padding
    to the full context, which the tower attends to. The rule follows transformers; it was not compared with ids that
    Google's own tokenizer gives.

    Args:
        path: the file `tokenizer.json`.
        context: ids of a text.

    Raises:
        MissingFile: there is no such file.
        BadInput: it is no tokenizer with SigLIP's end and padding tokens.
    """

    def __init__(self, path: str | Path, context: int = 64) -> None:
        from tokenizers import Tokenizer

        if not Path(path).is_file():
            raise MissingFile(f"{path}: no such tokenizer file.")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the reader raises plain Exception
            raise BadInput(f"{path} is no tokenizer.json: {error}.") from error
        names = [self._tokenizer.token_to_id(name) for name in ("</s>", "<eos>", "<pad>")]
        end = names[0] if names[0] is not None else names[1]
        if end is None:
            raise BadInput(f"{path} has neither </s> nor <eos>; expected SigLIP's tokenizer.json.")
        self.context = context
        self.end: int = end
        self.pad: int = names[2] if names[2] is not None else end  # SigLIP pads with the end id, SigLIP 2 with <pad>

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """K texts -> [K, context] int64."""
        ids = torch.full((len(texts), self.context), self.pad, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            plain = " ".join(text.replace("_", " ").translate(_PUNCTUATION).lower().split())
            encoded = [*self._tokenizer.encode(plain, add_special_tokens=False).ids[: self.context - 1], self.end]
            row[: len(encoded)] = torch.tensor(encoded)
        return ids


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFC", text.translate(_QUOTES))
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def _words(text: str) -> Iterator[str]:
    r"""What CLIP's pattern finds: special tokens, contractions, runs of letters, single digits, runs of other signs.

    It is `'s|'t|...|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`, which Python's `re` cannot say.
    """
    i = 0
    while i < len(text):
        kind = _kind(text[i])
        found = next((special for special in _SPECIAL if text.startswith(special, i)), "")
        if not found and (contraction := _CONTRACTION.match(text, i)):
            found = contraction[0]
        if not found:
            j = i + 1
            while kind != "digit" and j < len(text) and _kind(text[j]) == kind:
                j += 1
            found = text[i:j]
        if kind != "space":
            yield found
        i += len(found)


def _kind(letter: str) -> str:
    # Reference: CLIP's pattern ignores case, and so passes over the one mark that is a letter in upper case only.
    if letter.isspace() or letter == "\N{COMBINING GREEK YPOGEGRAMMENI}":
        return "space"
    return {"L": "letter", "N": "digit"}.get(unicodedata.category(letter)[0], "sign")


def _byte_letters() -> dict[int, str]:
    """A printable letter for each byte, in the order of CLIP's ids (Reference: GPT-2's bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
