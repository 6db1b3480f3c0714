"""Tickets and data tokens: what they say, and how that is written. Signing is somebody else's work.

A ticket is the one-time right to ask for a data token; the token is the right to open one dataset
for one access until it expires. Both carry the same grant and differ by the payload type they are
signed under. Reading is strict: an unknown, missing or mistyped field is a fault, because a token
that is half understood opens data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue, Tampered

_TEXTS = (
    "id",
    "access",
    "budget",
    "accountId",
    "uri",
    "unit",
    "studyUid",
    "reservationId",
    "expires",
)
_INTEGERS = ("generation", "fence", "withdrawn")
_FIELDS = {*_TEXTS, *_INTEGERS, "options", "layout", "blocks"}


@dataclass(frozen=True, slots=True)
class AccessGrant:
    """What a ticket or a data token grants.

    Args:
        id: The grant's own id; a receipt names it.
        access: Name of the plan's access that it covers.
        budget: The budget's name.
        account_id: The account that pays.
        uri: The dataset it opens.
        unit: The privacy unit.
        study_uid: The Study.
        generation: The Study's generation.
        reservation_id: The reservation that pays, or empty for an Inspected access.
        fence: The reservation's fence when it was minted.
        expires: RFC 3339 time in UTC after which it opens nothing.
        options: The dataset's driver options.
        layout: How the dataset is divided (``BlockLayout.to_json``); empty where it is not.
        blocks: The blocks that it opens, sorted; empty only without a layout.
        withdrawn: How many withdrawn consents the loader must know of at the least.
    """

    id: str
    access: str
    budget: str
    account_id: str
    uri: str
    unit: str
    study_uid: str
    generation: int
    reservation_id: str
    fence: int
    expires: str
    options: Mapping[str, JSON] = field(default_factory=dict)
    layout: Mapping[str, JSON] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    withdrawn: int = 0

    def __post_init__(self) -> None:
        if bool(self.layout) != bool(self.blocks):
            found = "blocks without a layout" if self.blocks else "a layout without blocks"
            raise InvalidValue("grant.blocks", "must be given exactly with a layout", found)

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "id": self.id,
            "access": self.access,
            "budget": self.budget,
            "accountId": self.account_id,
            "uri": self.uri,
            "unit": self.unit,
            "options": dict(self.options),
            "layout": dict(self.layout),
            "blocks": list(self.blocks),
            "withdrawn": self.withdrawn,
            "studyUid": self.study_uid,
            "generation": self.generation,
            "reservationId": self.reservation_id,
            "fence": self.fence,
            "expires": self.expires,
        }

    @property
    def payload(self) -> bytes:
        """The bytes to sign."""
        return canonical_json(self.to_json())


def grant_from_json(value: object) -> AccessGrant:
    """Read a grant back from its canonical form.

    Raises:
        Tampered: If a field is missing, unknown or mistyped; names it.
    """
    if not isinstance(value, Mapping):
        raise Tampered("grant must be a JSON object; found something else.")
    for name in value:
        if name not in _FIELDS:
            raise Tampered(f"grant.{str(name)[:40]} must not be present.")
    for name in _TEXTS:
        if not isinstance(value.get(name), str):
            raise Tampered(f"grant.{name} must be text; found {_kind(value.get(name))}.")
    for name in _INTEGERS:
        if type(value.get(name)) is not int or value[name] < 0:
            raise Tampered(f"grant.{name} must be a whole number; found {_kind(value.get(name))}.")
    for name in ("options", "layout"):
        if not isinstance(value.get(name), Mapping):
            raise Tampered(f"grant.{name} must be an object; found {_kind(value.get(name))}.")
    blocks = value.get("blocks")
    if not isinstance(blocks, list) or not all(isinstance(item, str) for item in blocks):
        raise Tampered(f"grant.blocks must be a list of names; found {_kind(blocks)}.")
    if bool(blocks) != bool(value["layout"]):
        raise Tampered("grant.blocks must be given exactly with a layout; found one alone.")
    return AccessGrant(
        id=value["id"],
        access=value["access"],
        budget=value["budget"],
        account_id=value["accountId"],
        uri=value["uri"],
        unit=value["unit"],
        study_uid=value["studyUid"],
        generation=value["generation"],
        reservation_id=value["reservationId"],
        fence=value["fence"],
        expires=value["expires"],
        options=dict(value["options"]),
        layout=dict(value["layout"]),
        blocks=tuple(blocks),
        withdrawn=value["withdrawn"],
    )


class Signed(Protocol):
    """What is signed in one spelling."""

    @property
    def payload(self) -> bytes:
        """The canonical bytes.

        Raises:
            InvalidValue: If it has none.
        """


Read = TypeVar("Read", bound=Signed)


def from_canonical(payload: bytes, read: Callable[[Any], Read], *, name: str) -> Read:
    """Read something from bytes whose signature has been verified.

    Args:
        payload: The bytes.
        read: Checks every field.
        name: What it is called in messages.

    Raises:
        Tampered: If they are not JSON, do not read, or are not the canonical form of what was read.
    """
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        raise Tampered(f"{name} must be JSON; found something else.") from None
    found = read(value)
    try:
        canonical = found.payload == payload
    except InvalidValue:
        canonical = False
    if not canonical:
        raise Tampered(f"{name} must be canonical JSON; found another spelling.")
    return found


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
