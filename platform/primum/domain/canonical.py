"""Canonical JSON and digests: one byte string per value, so that a digest means something.

Keys sorted, no white space, UTF-8, no floats: a measured number becomes a decimal string first
(``decimal_text``), because two machines need not print the same float alike.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
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
    _refuse_floats(value, "value")
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
    ).encode()


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


def _refuse_floats(value: object, path: str) -> None:
    if isinstance(value, float):
        raise InvalidValue(path, "must not be a float (use decimal_text)", value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_floats(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_floats(item, f"{path}[{index}]")
