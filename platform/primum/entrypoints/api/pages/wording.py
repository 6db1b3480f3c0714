"""How numbers, times and names look on a page. Spends are rounded up, what is left down."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

_PLACES = Decimal("0.01")
_HASH_SHOWN = 12


def spent(value: Decimal | None) -> str:
    """A spend with two decimals, rounded up."""
    if value is None:
        return "none defined"
    if not value.is_finite():
        return "unbounded"
    return f"{value.quantize(_PLACES, ROUND_CEILING):f}"


def left(value: Decimal) -> str:
    """What is left with two decimals, rounded down."""
    return f"{value.quantize(_PLACES, ROUND_FLOOR):f}"


def plain(value: Decimal) -> str:
    """A guarantee as it was declared: ``8``, ``1E-5``."""
    return f"{value.normalize():f}" if value >= Decimal("0.001") else f"{value.normalize():E}"


def moment(time: str) -> str:
    """A time of the ledger for people, to the second, in UTC."""
    return f"{time[:10]} {time[11:19]}" if time else ""


def day(time: str) -> str:
    """Its day."""
    return time[:10]


def percent(value: Decimal) -> str:
    """A part of one as percent."""
    return f"{(value * 100).quantize(Decimal('0.1')):f} %"


def short(value: str) -> str:
    """The beginning of a digest or an id."""
    return value[:_HASH_SHOWN]


def count(value: int) -> str:
    """A number with thin groups: ``12 345``."""
    return f"{value:,}".replace(",", "\u202f")


def capitalized(text: str) -> str:
    """The same with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def pretty(value: Any) -> str:
    """A payload as indented JSON."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=_as_plain)


def _as_plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "spent": spent,
    "left": left,
    "plain": plain,
    "moment": moment,
    "day": day,
    "percent": percent,
    "short": short,
    "count": count,
    "capitalized": capitalized,
    "pretty": pretty,
}
