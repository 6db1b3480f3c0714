"""Exit codes for scripts: one per way of going wrong on which a script would act differently."""

from __future__ import annotations

import enum

from primum.domain.errors import (
    Conflict,
    InvalidValue,
    NotFound,
    PrimumError,
    Refused,
    Tampered,
    Unavailable,
    UnsupportedEvent,
)


class Exit(enum.IntEnum):
    """What a process says on its way out."""

    DONE = 0
    FAULT = 1
    INVALID = 2
    REFUSED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    TAMPERED = 6
    UNAVAILABLE = 7
    TIMED_OUT = 8


_CODES: tuple[tuple[type[PrimumError], Exit], ...] = (
    (InvalidValue, Exit.INVALID),
    (UnsupportedEvent, Exit.INVALID),
    (NotFound, Exit.NOT_FOUND),
    (Conflict, Exit.CONFLICT),
    (Refused, Exit.REFUSED),
    (Tampered, Exit.TAMPERED),
    (Unavailable, Exit.UNAVAILABLE),
)


def code_of(error: PrimumError) -> Exit:
    """The exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAULT)
