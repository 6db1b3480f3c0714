"""Canonical JSON and digests: one byte string per value, so that a digest means something.

Keys sorted, no white space, UTF-8, no floats: a measured number becomes a decimal string first
(``decimal_text``), because two machines need not print the same float alike.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from json import encoder as json_encoder
from typing import TypeAlias

from primum.domain.errors import InvalidValue

JSON: TypeAlias = "bool | int | str | Sequence[JSON] | Mapping[str, JSON] | None"

_SIGNIFICANT_DIGITS = (
    9  # Enough for every measured figure we show; hides float noise between machines.
)


def decimal_text(value: float | Decimal | int) -> str:
    """A number as the decimal string that is stored, compared and sent.

    Args:
        value: Any finite or infinite number. Floats are rounded to 9 significant digits.

    Returns:
        Plain decimal text such as ``"0.95"`` or ``"1E-5"``; ``"inf"``, ``"-inf"`` or ``"nan"``
        where the value is so.
    """
    if isinstance(value, bool):
        raise InvalidValue("number", "must not be a boolean", value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"inf": "inf", "-inf": "-inf"}.get(str(value), "nan")
        value = Decimal(f"{value:.{_SIGNIFICANT_DIGITS}g}")
    if not value.is_finite():
        return str(float(value))
    text = str(value.normalize())
    return f"{value.normalize():f}" if "E+" in text else text


def canonical_json(value: JSON) -> bytes:
    """The one byte string of a JSON value.

    Args:
        value: Nested mappings, sequences, strings, integers, booleans and ``None``.

    Returns:
        UTF-8 bytes.

    Raises:
        InvalidValue: If a float is found; floats have no canonical form.
    """
    if _may_hold_floats(value):
        _refuse_floats(value, "value")
    return "".join(_ENCODED(value, 0)).encode()


def parsed_json(value: JSON) -> str:
    """The canonical JSON of a value that was parsed so that it holds no float, as text."""
    return "".join(_ENCODED(value, 0))


def digest_of(value: JSON) -> str:
    """The SHA-256 of the canonical JSON, as ``sha256:<64 hex digits>``."""
    return digest_of_bytes(canonical_json(value))


def digest_of_bytes(data: bytes) -> str:
    """The SHA-256 of bytes, as ``sha256:<64 hex digits>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise InvalidValue("value", "must be JSON", type(value).__name__)


_PLAIN = (str, int, bool, type(None))
# Built once, and without looking for circles, which are no JSON and end in a RecursionError.
_ENCODER = json.JSONEncoder(
    sort_keys=True,
    separators=(",", ":"),
    ensure_ascii=False,
    default=_plain,
    check_circular=False,
)


def _encoded() -> Callable[[object, int], Iterable[str]]:
    """The encoder's own inner function: it makes one per value, which takes as long as the rest."""
    make = getattr(json_encoder, "c_make_encoder", None)
    if make is None:  # A Python without it.
        return lambda value, _: (_ENCODER.encode(value),)
    made: Callable[[object, int], Iterable[str]] = make(
        markers=None,
        default=_plain,
        encoder=json_encoder.encode_basestring,
        indent=None,
        key_separator=":",
        item_separator=",",
        sort_keys=True,
        skipkeys=False,
        allow_nan=False,
    )
    return made


_ENCODED = _encoded()


def _may_hold_floats(value: object) -> bool:
    """False where only plain strings, integers, dicts and lists are found: nearly always."""
    items: Iterable[object]
    if type(value) is dict:
        items = value.values()
    elif type(value) is list or type(value) is tuple:
        items = value
    else:
        return type(value) not in _PLAIN
    for item in items:
        # Texts and numbers are most of what there is: no call for them.
        if type(item) is not str and type(item) is not int and _may_hold_floats(item):
            return True
    return False


def _refuse_floats(value: object, path: str) -> None:
    if isinstance(value, float):
        raise InvalidValue(path, "must not be a float (use decimal_text)", value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_floats(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_floats(item, f"{path}[{index}]")
