"""What is wrong with a resource, as one sentence: name, rule, found, remedy.

From pydantic's errors to ours.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from primum.domain.errors import InvalidValue
from primum.resources.fields import BROKEN_RULE

_NAMES_SHOWN_MAX = 16  # More field names than this help nobody; the rest is counted.
_QUOTED = re.compile(r"'([^']*)'")

_TYPES = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def first_problem(
    error: ValidationError, model: type[BaseModel], *, about: str, within: str = ""
) -> InvalidValue:
    """The most telling of a model's errors.

    A misspelt field is both unknown and missing; the unknown one is said, because it shows the
    cause.

    Args:
        error: What pydantic raised.
        model: The model that was checked.
        about: What to open the sentence with, e.g. ``study.yaml: Study oncology/x``; may be empty.
        within: Where the model stands in the resource, e.g. ``spec``; may be empty.
    """
    details = error.errors(include_url=False)
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    detail = (unknown or details)[0]
    location = [*within.split("."), *detail["loc"]] if within else list(detail["loc"])
    path = path_text(location)
    rule, found, remedy = _said(detail, model)
    remedy = remedy.replace("{field}", str(location[-1]) if location else "value")
    return InvalidValue(f"{about}: {path}" if about else path, rule, found, remedy)


def path_text(location: Sequence[int | str]) -> str:
    """A path as people write it, such as ``spec.data[0].role``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "resource"


def nearest(word: str, words: Sequence[str]) -> str:
    """A remedy naming the nearest of the known words, or nothing."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not close:
        lowered = {known.lower(): known for known in words}
        close = [lowered[word.lower()]] if word.lower() in lowered else []
    return f"Did you mean {close[0]}?" if close else ""


def _said(detail: Any, model: type[BaseModel]) -> tuple[str, object, str]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == BROKEN_RULE:
        return context["rule"], shown(context["found"]), context["remedy"]
    if kind == "extra_forbidden":
        return _unknown_field(detail, model)
    if kind == "missing":
        return "must be given", "nothing", ""
    if kind in ("enum", "literal_error"):
        words = _QUOTED.findall(str(context.get("expected", "")))
        return f"must be one of {', '.join(words)}", shown(value), nearest(str(value), words)
    if kind in _TYPES:
        quote = "Quote it." if kind == "string_type" and isinstance(value, int | float) else ""
        return _TYPES[kind], shown(value), quote
    return (
        _bounds(kind, context) or f"must be valid ({detail['msg']})",
        _length_or_value(kind, value),
        "",
    )


def _bounds(kind: str, context: Mapping[str, Any]) -> str:
    rules = {
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "too_short": "must have at least {min_length} items",
        "too_long": "must have at most {max_length} items",
        "string_too_short": "must have at least {min_length} characters",
        "string_too_long": "must have at most {max_length} characters",
        "string_pattern_mismatch": "must match {pattern}",
    }
    return (
        rules[kind].format(**context).replace("least 1 items", "least 1 item")
        if kind in rules
        else ""
    )


def _length_or_value(kind: str, value: object) -> object:
    if isinstance(value, str | list | dict) and kind.endswith(("_short", "_long")):
        return len(value)
    return shown(value)


def _unknown_field(detail: Any, model: type[BaseModel]) -> tuple[str, object, str]:
    *parents, name = detail["loc"]
    known = _fields_at(model, parents)
    listed, more = ", ".join(known[:_NAMES_SHOWN_MAX]), len(known) - _NAMES_SHOWN_MAX
    if more > 0:
        listed += f", or one of {more} more"
    rule = f"must be one of the fields {listed}" if known else "must be a known field"
    return rule, str(name), nearest(str(name), known)


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields that the part at a location has."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        by_alias = {field.alias or name: field for name, field in current.model_fields.items()}
        current = _part_in(by_alias[part].annotation) if part in by_alias else None
    if current is None:
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _part_in(annotation: object) -> type[BaseModel] | None:
    """The model inside ``X | None``, ``list[X]`` or ``Annotated[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        found = _part_in(inner)
        if found is not None:
            return found
    return None


def shown(value: object) -> object:
    """A value as a message may show it: scalars as they are, anything larger by its shape."""
    if value is None:
        return "nothing"
    if value == "":
        return "an empty text"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return value
