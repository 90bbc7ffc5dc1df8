"""What all published formats share: what a file tells, what its reader is told, and renaming by table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from muybridge.errors import BadInput, CheckpointError, unknown
from muybridge.methods.base import Method, text_head

REQUIRED = object()


@dataclass(frozen=True)
class Published:
    """A published file, taken apart.

    Attributes:
        method: a key of `METHODS`.
        config: of the method.
        classes: K; None: no tensor tells, the class names decide (text heads).
        frames: T that the method is given; None: no tensor tells.
        state: the method's own tensors under our names. Label features are not among them.
        clip: tensors of CLIP in the file under OpenAI's names (`visual.conv1.weight`, `transformer.resblocks.0...`,
            `logit_scale`); empty where the authors read CLIP from its own file.
        heads: attention heads of the image tower; None: not told (width / 64 in OpenAI's code).
        text_heads: of the text tower, likewise.
        image_size: (height, width) in pixels; None: square, from the position table.
        activation: of both towers; None: not told (quick GELU in OpenAI's code).
        tower: what else is told of the image tower, fields of `ViTConfig`, to be compared with it.
        extra: tensors that are kept for the way back and not used.
        keys: where each tensor stood: `method.<our name>`, `clip.<OpenAI's name>` or `extra.<name>` -> key in the file.
    """

    method: str
    config: Any
    classes: int | None
    frames: int | None
    state: dict[str, Tensor]
    clip: dict[str, Tensor] = field(default_factory=dict)
    heads: int | None = None
    text_heads: int | None = None
    image_size: tuple[int, int] | None = None
    activation: str | None = None
    tower: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


class Told:
    """What a caller says about a file (`config=`), read name by name.

    Every name must be asked for, else it is unknown; what the tensors tell too must agree with them.

    Args:
        config: names of the authors' configuration or of our options -> values; groups are mappings.
        owner: what to call the format in an error.
        where: the group's name with a dot, for errors.
    """

    def __init__(self, config: Mapping[str, Any], owner: str, where: str = "") -> None:
        self._config = dict(config)
        self._owner = owner
        self._where = where
        self._asked: list[str] = []
        self._groups: list[Told] = []

    def __contains__(self, name: str) -> bool:
        return name in self._config

    def value(self, *names: str, found: Any = None, default: Any = REQUIRED, auto: Any = None, hint: str = "") -> Any:
        """The value given under one of these names (ours first, then the authors').

        Args:
            names: alternatives.
            found: what the tensors say, if they do; the value must equal it.
            default: where neither says; without it that is an error.
            auto: a value that means: as the tensors say.
            hint: added to that error, such as the choices.

        Raises:
            BadInput: it is needed and nobody says it.
            CheckpointError: the caller and the tensors disagree.
        """
        self._asked += names
        given = [(name, self._config[name]) for name in names if self._config.get(name) is not None]
        for name, value in given[1:]:
            if _plain(value) != _plain(given[0][1]):
                first = f"{self._where}{given[0][0]} is given as {given[0][1]}"
                raise CheckpointError(f"{first}, but {self._where}{name} as {value}; they mean the same.")
        for name, value in given:
            if found is not None and _plain(value) not in (_plain(found), auto):
                raise CheckpointError(f"{self._where}{name} is given as {value}, but the tensors say {_plain(found)}.")
        if found is not None:
            return found
        if given:
            return given[0][1]
        if default is REQUIRED:
            raise BadInput(
                f"The tensors of {self._owner} file do not tell {self._where}{names[0]}; give it with "
                f"config={{'{names[0]}': ...}}, or the recipe with --recipe.{' ' + hint if hint else ''}"
            )
        return default

    def ignore(self, *names: str) -> None:
        """Names that say nothing about the model, such as where a file comes from."""
        self._asked += names

    def group(self, name: str) -> Told:
        """A mapping inside; empty where it is not given."""
        self._asked.append(name)
        config = self._config.get(name) or {}
        if not isinstance(config, Mapping):
            raise BadInput(f"{self._where}{name} is {config!r}; expected its fields by name.")
        inner = Told(config, self._owner, f"{self._where}{name}.")
        self._groups.append(inner)
        return inner

    def finish(self) -> None:
        """Raise UnknownName for a name that nobody asked for."""
        for name in self._config:
            if name not in self._asked:
                choices = [self._where + asked for asked in dict.fromkeys(self._asked)]
                raise unknown(f"config of {self._owner} file", self._where + name, choices)
        for group in self._groups:
            group.finish()


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def expand(table: Mapping[str, str], layers: int) -> dict[str, str]:
    """A name table with `{}` written out for every layer: theirs -> ours."""
    pairs = {}
    for theirs, ours in table.items():
        for i in range(layers) if "{}" in theirs else (0,):
            pairs[theirs.replace("{}", str(i))] = ours.replace("{}", str(i))
    return pairs


def layer_count(keys: Iterable[str], prefix: str) -> int:
    """How many different names follow `prefix` up to the next dot: layers of a list."""
    return len({key.removeprefix(prefix).split(".")[0] for key in keys if key.startswith(prefix)})


def rename(state: Mapping[str, Tensor], pairs: Mapping[str, str], owner: str) -> dict[str, Tensor]:
    """The same tensors under other names.

    Raises:
        CheckpointError: a key that `pairs` does not have; the first are named.
    """
    strange = [key for key in state if key not in pairs]
    if strange:
        raise CheckpointError(f"{len(strange)} keys are not of {owner} (first: {', '.join(strange[:3])}).")
    return {pairs[key]: tensor for key, tensor in state.items()}


def square(size: Any) -> tuple[int, int] | None:
    """One number or (height, width) -> (height, width); None stays."""
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, (int, float)) else (int(size[0]), int(size[1]))


def own_tensors(method: Method) -> dict[str, Tensor]:
    """A method's own tensors but those of a text head: label features are made from names, the scale is CLIP's."""
    buffers = ("head.features", "head.logit_scale") if text_head(method) is not None else ()
    return {key: value for key, value in method.own_state().items() if key not in buffers}
