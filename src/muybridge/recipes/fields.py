"""Dataclasses to plain dicts and back, and values from text: nothing is converted silently, nothing is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from muybridge.errors import BadInput, unknown
from muybridge.structures import Recipe

T = TypeVar("T")
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def to_dict(value: Any) -> Any:
    """Dataclasses become dicts of plain values (tuples become lists), so that JSON and YAML can hold them.

    A recipe's `options` stand under its method's name.
    """
    if isinstance(value, Recipe):
        plain = to_dict(asdict(value))
        plain[value.method] = plain.pop("options")
        return plain
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]
    return value


def from_dict(kind: type[T], plain: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from a dict; fields that are left out keep their defaults.

    Args:
        kind: the dataclass.
        plain: field name -> plain value.
        where: what stands before the field's name in an error, such as `train.`.

    Raises:
        UnknownName: a field that `kind` does not have, with the closest names.
        BadInput: a value of another type, or a required field that is missing.
    """
    hints = get_type_hints(kind)
    values = {}
    for name, value in plain.items():
        if name not in hints:
            raise unknown("field", where + name, [where + hint for hint in hints])
        values[name] = coerce(value, hints[name], where + name)
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"{kind.__name__}: {error}.") from None


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value`, from a file or the command line, as the type that `hint` names.

    Raises:
        BadInput: it cannot be read as that type; UnknownName: it is not among a Literal's choices.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise BadInput(
                f"{where} is {value!r}; expected its fields by name, such as {where}.{fields(hint)[0].name}."
            )
        return from_dict(hint, value, where + ".")
    if origin is Literal:
        if value not in arguments:
            raise unknown(f"value of {where}", str(value), [str(choice) for choice in arguments])
        return value
    if origin in (Union, UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        (inner,) = [argument for argument in arguments if argument is not NoneType]
        return coerce(value, inner, where)
    if origin is tuple:
        return _coerce_tuple(value, arguments, where)
    if origin is dict or hint is Any:
        return value
    if value is None:
        raise BadInput(f"{where} is empty; give it a value or remove it.")
    text = str(value).strip()
    try:
        if hint is bool:
            if text.lower() not in YES + NO:
                raise ValueError
            return text.lower() in YES
        if hint is int:
            if where == "train.epochs" and text.lower() == "auto":
                return 0
            if isinstance(value, float) and not value.is_integer():
                raise ValueError
            return int(value)
        if hint is float:
            return float(value)
    except (TypeError, ValueError):
        names = {bool: "true or false", int: "a whole number", float: "a number"}
        raise BadInput(f"{where} is '{text}'; expected {names[hint]}.") from None
    return str(value)


def _coerce_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part for part in value.strip("()[] ").replace("x", ",").split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        value = [value]
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        if get_origin(arguments[0]) is tuple:
            value = [_pair(item, where) for item in value]
        return tuple(coerce(item, arguments[0], where) for item in value)
    if len(value) == 1 and set(arguments) == {int}:
        value = list(value) * len(arguments)  # one number for a square
    if len(value) != len(arguments):
        raise BadInput(f"{where} has {len(value)} values; expected {len(arguments)}, separated by commas.")
    return tuple(coerce(item, hint, where) for item, hint in zip(value, arguments, strict=True))


def _pair(item: Any, where: str) -> Any:
    # One of several pairs in a line: 86-87,93-94.
    if not isinstance(item, str):
        return item
    parts = item.split("-")
    if len(parts) != 2 or not all(parts):
        raise BadInput(f"{where} has '{item}'; expected pairs, such as 86-87,93-94.")
    return parts


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with single fields changed by their dotted names.

    Args:
        recipe: where to start.
        changes: such as `{"train.lr": "3e-4", "evl.layers": 2, "method": "evl"}`. Options of a method stand under its
            name; another method's options are an error. Another method starts with its own options, another backbone
            with its own weights and pixel statistics.

    Raises:
        UnknownName, BadInput: a field that does not exist, or a value of another type.
    """
    hints = get_type_hints(Recipe)
    if "method" in changes and changes["method"] != recipe.method:
        recipe = replace(recipe, method=str(changes["method"]), options={})
    if "backbone" in changes and changes["backbone"] != recipe.backbone:
        # Another backbone has weights and pixel statistics of its own.
        recipe = replace(recipe, weights="", transform=replace(recipe.transform, mean=None, std=None))
    for name, value in changes.items():
        owner, _, inner = name.partition(".")
        if inner and owner == recipe.method:
            recipe = replace(recipe, options={**recipe.options, inner: value})
        elif inner and owner in hints and is_dataclass(hints[owner]):
            group = getattr(recipe, owner)
            types = get_type_hints(type(group))
            if inner not in types:
                raise unknown("field", name, [f"{owner}.{field}" for field in types])
            recipe = replace(recipe, **{owner: replace(group, **{inner: coerce(value, types[inner], name)})})
        elif not inner and owner in hints and not is_dataclass(hints[owner]) and owner != "options":
            recipe = replace(recipe, **{owner: coerce(value, hints[owner], name)})
        else:
            raise unknown("field", name, [*_names(), f"{recipe.method}.<option>"])
    return recipe


def _names() -> list[str]:
    names = []
    for name, hint in get_type_hints(Recipe).items():
        if is_dataclass(hint):
            names += [f"{name}.{field.name}" for field in fields(hint)]
        elif name != "options":
            names.append(name)
    return names
