"""What a command comes to, and the refusals and limits that all commands share.

Pure values and checks; nothing here looks at a balance.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from primum.domain.accounting.events import Event
from primum.domain.budget import book as books
from primum.domain.budget.book import OPEN_STATES, Account, Book, Draft
from primum.domain.budget.entries import Entry, ReservationView, Result, ResultCode
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue

NAME_LENGTH_MAX = 200  # Ids, keys, accesses and actors: what people and programs look things up by.
URI_LENGTH_MAX = 2048  # The usual limit of what tools accept as an address.
# Reasons and purposes; longer ones are shortened, because a refusal must not depend on prose.
TEXT_LENGTH_MAX = 1024
REQUESTS_MAX = 256  # Accounts of one reservation: sites of a federation, blocks of a budget.
LEASE_SECONDS_MAX = 90 * 86400.0  # A reservation that nobody minds for a season is a mistake.
_EVENTS_CACHED = 1024  # Most plans are repeats.
EVENT_BYTES_MAX = 262144  # Canonical JSON of one event; a thousand parts fit.


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command comes to.

    Args:
        result: For the caller; ``seq`` is filled in for new entries when they are written.
        drafts: Entries to write, in order.
        lease: A reservation's new lease, where one moves: (reservation id, time).
        account_id: The account that was opened or found.
    """

    result: Result
    drafts: tuple[Draft, ...] = ()
    lease: tuple[str, str] | None = None
    account_id: str = ""


def later(time: str, seconds: float) -> str:
    """The RFC 3339 time that many seconds later, with microseconds: such times sort as text."""
    moment = datetime.datetime.fromisoformat(time) + datetime.timedelta(seconds=seconds)
    # Says what strftime would, in a quarter of its time.
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def before(book: Book, account_id: str, key: str, asked: Mapping[str, JSON]) -> Result | None:
    """The earlier result under a key, a refusal where the content differs, or nothing."""
    earlier = book.earlier(account_id, key)
    if earlier is None:
        return None
    field = differing(earlier, asked)
    return key_reused(key, field) if field else repeated(earlier.seq)


def differing(earlier: Entry, asked: Mapping[str, JSON]) -> str:
    """The first field in which a command differs from the earlier one under its key, or nothing."""
    before = books.mapping(earlier.payload["asked"])
    for field in sorted({*before, *asked}):
        if field not in before or field not in asked:
            return field
        if canonical_json(before[field]) != canonical_json(asked[field]):
            return field
    return ""


def not_running(reservation: ReservationView, *, fence: int, now: str) -> Result | None:
    """Why a reservation may not be used now, or nothing."""
    name = f"reservation {reservation.reservation_id}"
    if fence != reservation.fence:
        message = f"fence of {name} must be {reservation.fence}; found {fence}."
        return Result(ResultCode.FENCE_STALE, message)
    if reservation.state not in OPEN_STATES:
        return resolved(reservation)
    if reservation.lease_until <= now:
        message = f"lease of {name} must still run; found it ended at {reservation.lease_until}."
        return Result(ResultCode.LEASE_EXPIRED, message)
    return None


def accepted(message: str) -> Result:
    """Done, with a remark for people."""
    return Result(ResultCode.ACCEPTED, message)


def repeated(seq: int) -> Result:
    """Done earlier."""
    return Result(ResultCode.REPEATED, f"The same command stands since entry {seq}.", seq)


def key_reused(key: str, field: str) -> Result:
    """Refused: the key is taken by another command."""
    message = (
        f"{field} must be what it was when {key} came first; found another. Nothing was changed."
    )
    return Result(ResultCode.KEY_REUSED, message)


def no_account(account_id: str) -> Result:
    """Refused: there is no such account."""
    return Result(
        ResultCode.ACCOUNT_UNKNOWN,
        f"account must be open; found none of id {account_id[:NAME_LENGTH_MAX]}.",
    )


def no_reservation(reservation_id: str) -> Result:
    """Refused: there is no such reservation."""
    message = f"reservation must exist; found none of id {reservation_id[:NAME_LENGTH_MAX]}."
    return Result(ResultCode.RESERVATION_UNKNOWN, message)


def frozen(account: Account) -> Result:
    """Refused: the account is frozen."""
    message = f"account {account.account_id} must not be frozen; found: {account.frozen}"
    return Result(ResultCode.FROZEN, message)


def resolved(reservation: ReservationView) -> Result:
    """Refused: the reservation has ended."""
    message = (
        f"reservation {reservation.reservation_id} must be open; found {reservation.state.value}."
    )
    return Result(ResultCode.ALREADY_RESOLVED, message)


def check_name(field: str, value: str, *, length_max: int = NAME_LENGTH_MAX) -> str:
    """An id, a key or an address: printable and not too long.

    Raises:
        InvalidValue: If it is not.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= length_max or not value.isprintable():
        raise InvalidValue(field, f"must be 1 to {length_max} printable characters", value)
    return value


def prose(text: str) -> str:
    """Text for people, shortened and without what a database or a terminal would choke on."""
    if len(text) <= TEXT_LENGTH_MAX and text.isprintable():  # Nearly always.
        return text
    shown = "".join(letter if letter.isprintable() else " " for letter in text[:TEXT_LENGTH_MAX])
    return shown.encode("utf-8", "replace").decode()


def check_event(event: Event) -> None:
    """Refuse an event that is too large to be read by people.

    Raises:
        InvalidValue: If so.
    """
    size = _size_of(event)
    if size > EVENT_BYTES_MAX:
        raise InvalidValue("event", f"must have at most {EVENT_BYTES_MAX} bytes as JSON", size)


@functools.lru_cache(maxsize=_EVENTS_CACHED)
def _size_of(event: Event) -> int:
    return len(canonical_json(event.to_json()))


def check_lease(seconds: float) -> float:
    """A lease in seconds: above 0 and at most a season.

    Raises:
        InvalidValue: If it is not.
    """
    if not math.isfinite(seconds) or not 0 < seconds <= LEASE_SECONDS_MAX:
        raise InvalidValue(
            "lease_seconds", f"must be above 0 and at most {LEASE_SECONDS_MAX:.0f}", seconds
        )
    return seconds
