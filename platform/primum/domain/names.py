"""Distinct types for things that look alike, and how derived ids are made.

Every id of an effect is decided before the effect, from what it is about, so that a retry meets its
earlier self.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import NewType

from primum.domain.errors import InvalidValue

Digest = NewType("Digest", str)
AccountId = NewType("AccountId", str)
ReservationId = NewType("ReservationId", str)
OutcomeId = NewType("OutcomeId", str)
RunId = NewType("RunId", str)
StudyUid = NewType("StudyUid", str)

_NAMESPACE_UUID = uuid.UUID(
    "6f0dcb4e-6a51-5b0c-9a57-70726d756d00"
)  # Ours, fixed for ever: ids derive from it.
_DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


@dataclass(frozen=True, slots=True, order=True)
class ResourceKey:
    """Which resource: its kind, namespace and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def check_name(field: str, value: str) -> str:
    """A DNS-1123 label, as Kubernetes wants names.

    Raises:
        InvalidValue: If it is not.
    """
    if not _DNS_LABEL.fullmatch(value):
        raise InvalidValue(
            field, "must be a DNS label (a-z, 0-9, '-', at most 63 characters)", value
        )
    return value


def derived_uuid(*parts: str) -> str:
    """A UUID that is the same for the same parts everywhere and always (RFC 9562, version 5)."""
    return str(uuid.uuid5(_NAMESPACE_UUID, "\x1f".join(parts)))


def reservation_id(study_uid: str, generation: int, account_id: str) -> ReservationId:
    """The reservation of one Study generation on one account; retries derive the same id."""
    return ReservationId(derived_uuid("reservation", study_uid, str(generation), account_id))


def outcome_id(study_uid: str, generation: int, step: str) -> OutcomeId:
    """The outcome of one step of one Study generation."""
    return OutcomeId(derived_uuid("outcome", study_uid, str(generation), step))


def ticket_id(study_uid: str, generation: int, access: str) -> str:
    """The ticket of one access, and the data token that it is redeemed for."""
    return derived_uuid("ticket", study_uid, str(generation), access)


def run_id(study_uid: str, generation: int) -> RunId:
    """The one pipeline run of a Study generation; launching it twice is a no-op."""
    return RunId(derived_uuid("run", study_uid, str(generation)))


def registration_run_id(budget_uid: str, generation: int, *, newest: str, attempt: int) -> RunId:
    """The run that registers a budget's dataset where it lies; one for each attempt."""
    return RunId(derived_uuid("registration", budget_uid, str(generation), newest, str(attempt)))
