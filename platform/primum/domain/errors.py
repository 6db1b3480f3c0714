"""The exception tree. A class exists only if a caller acts differently on it.

In brackets the exit code and the HTTP status.

::

    PrimumError           base of everything this project raises on purpose
    +-- InvalidValue      a value breaks a rule; the caller must change it (2, 422)
    +-- UnsupportedEvent  a privacy event no accountant in charge can vouch for (2, 422)
    +-- NotFound          a named thing does not exist (4, 404)
    +-- Conflict          the same id with other content, or a stale fence (5, 409)
    +-- Refused           policy or ledger said no; the reason is final (3, 403)
    +-- Tampered          stored bytes contradict their digests or signatures (6, 500)
    +-- Unavailable       an outside system did not answer; retry after a delay (7, 503)

Expected refusals of the ledger and of gates are *values*, not exceptions; ``Refused`` is for the
edge, where a refusal has to end a request or a process. No message ever carries a record-level
value.
"""

from __future__ import annotations

from decimal import Decimal

_FOUND_LENGTH_MAX = 120  # A message is for people; a pasted file must not flood status or logs.


class PrimumError(Exception):
    """Base of everything this project raises on purpose."""


class InvalidValue(PrimumError):
    """A value breaks a rule.

    Args:
        field: The name a person would search for, e.g. ``spec.privacy.epsilon``.
        rule: What must hold, starting with ``must``.
        found: What was found instead; shown shortened.
        remedy: How to put it right, if there is a way to say it.
    """

    def __init__(self, field: str, rule: str, found: object, remedy: str = "") -> None:
        self.field = field
        self.rule = rule
        self.found = found
        self.remedy = remedy
        shown = str(found) if isinstance(found, str | Decimal) else repr(found)
        if len(shown) > _FOUND_LENGTH_MAX:
            shown = shown[: _FOUND_LENGTH_MAX - 3] + "..."
        message = f"{field} {rule}; found {shown}."
        super().__init__(f"{message} {remedy}".strip())


class UnsupportedEvent(PrimumError):
    """A privacy event that the accountant in charge cannot vouch for; names the part."""


class NotFound(PrimumError):
    """A named thing does not exist."""


class Conflict(PrimumError):
    """The same id with other content, or an outdated fence. Nothing was changed."""


class Refused(PrimumError):
    """Policy or ledger said no. Trying the same again gives the same answer."""


class Tampered(PrimumError):
    """Stored bytes contradict their digests, their signature or their chain."""


class Unavailable(PrimumError):
    """An outside system did not answer.

    Args:
        message: What was tried and what happened.
        retry_seconds: When it makes sense to try again.
    """

    def __init__(self, message: str, *, retry_seconds: float = 5.0) -> None:
        self.retry_seconds = retry_seconds
        super().__init__(message)
