"""What the steps of runs ask over HTTP, each with the credential of its run.

The routes of ``application.step_door``, for processes of the same version: they are in no OpenAPI
document. No answer and no log line holds what a body said.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from primum.application.step_door import StepDoor, step_door
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, Tampered
from primum.domain.governance.evidence import evidence_from_json
from primum.domain.study.steps import outcome_from_json
from primum.entrypoints.api import problems
from primum.entrypoints.api.callers import platform_of

QUESTION_BYTES_MAX = 262_144  # A ticket and its attempt are a few thousand bytes.
RECORD_BYTES_MAX = 16 * 2**20  # Evidence holds figures and curves, never samples.
EVENT_BYTES_MAX = 2 * 2**20  # The outbox takes a million bytes.

router = APIRouter(prefix="/v1/steps/{outcome_id}", include_in_schema=False)

_bearer = HTTPBearer(auto_error=False)


def _door(
    outcome_id: str,
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> StepDoor:
    """The step that asks.

    Raises:
        Unauthenticated: If no run credential of this platform is shown.
        Refused: If it has expired, or is of another step.
    """
    if credentials is None:
        raise problems.Unauthenticated("the credential of a run must be given; found none.")
    try:
        return step_door(platform_of(request), credentials.credentials, outcome_id=outcome_id)
    except Tampered:
        raise problems.Unauthenticated(
            "the credential of a run must be one of this platform; found something else."
        ) from None


Door = Annotated[StepDoor, Depends(_door)]


def told(most: int) -> Callable[[Request], Awaitable[Mapping[str, Any]]]:
    """Reads the JSON object of a body, and no further than a number of bytes."""

    async def read(request: Request) -> Mapping[str, Any]:
        found = bytearray()
        async for part in request.stream():
            found += part
            if len(found) > most:
                raise InvalidValue("body", f"must have at most {most} bytes", "more")
        try:
            value = json.loads(bytes(found))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InvalidValue("body", "must be a JSON object", "something else")
        return value

    return read


# The door first: nobody sends a body who may not ask.
Question = Annotated[Mapping[str, Any], Depends(told(QUESTION_BYTES_MAX))]
Record = Annotated[Mapping[str, Any], Depends(told(RECORD_BYTES_MAX))]
Event = Annotated[Mapping[str, Any], Depends(told(EVENT_BYTES_MAX))]


@router.get("/outcomes/{other}")
def outcome(door: Door, other: str) -> dict[str, Any]:
    """An outcome that the step may read, or null."""
    found = door.outcome(other)
    return {"outcome": None if found is None else found.to_json()}


@router.post("/begin")
def begin(door: Door) -> dict[str, Any]:
    """Note that the step begins."""
    return {"state": door.begun()}


@router.post("/redeem")
def redeem(door: Door, body: Question) -> dict[str, Any]:
    """Redeem a ticket for a data token."""
    token = door.redeem(_text(body, "ticket"), attempt=_text(body, "attempt"))
    return {
        "text": token.text,
        "access": token.access,
        "budget": token.budget,
        "uri": token.uri,
    }


@router.put("/outcome")
def record(door: Door, body: Record) -> dict[str, Any]:
    """Record evidence and outcome."""
    try:
        told = outcome_from_json(_object(body, "outcome"))
        evidence = [evidence_from_json(item) for item in _objects(body, "evidence")]
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise InvalidValue("outcome", "must be a record of a step", type(error).__name__) from None
    door.record(told, evidence)
    return {}


@router.post("/lineage")
def lineage(door: Door, body: Event) -> dict[str, Any]:
    """Queue a lineage event of the step."""
    door.lineage(_object(body, "event"))
    return {}


@router.get("/public-key")
def public_key(door: Door) -> dict[str, Any]:
    """The platform's public key."""
    return {"publicKey": door.public_key()}


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"body.{name}", "must be text", "something else")
    return value


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, JSON]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise InvalidValue(f"body.{name}", "must be a JSON object", "something else")
    return value


def _objects(body: Mapping[str, Any], name: str) -> Sequence[Mapping[str, JSON]]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidValue(f"body.{name}", "must be a list of JSON objects", "something else")
    return value
