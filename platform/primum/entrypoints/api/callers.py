"""Who asks, and what their role lets them see. Shared by every route; decides nothing else."""

from __future__ import annotations

import http
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from primum.adapters.identity import Identity, Role
from primum.application.platform import Platform
from primum.application.reports import Reports
from primum.application.verifying import Verifications
from primum.domain.errors import Refused
from primum.entrypoints.api import problems
from primum.entrypoints.api_headers import FORWARDED

READERS = (Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR, Role.ENGINEER, Role.SCIENTIST)
LEDGER_READERS = (Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR)
ZONE_READERS = (Role.STEWARD, Role.AUDITOR)
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {
        "description": http.HTTPStatus(code).phrase,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for code in (400, 401, 403, 404, 405, 409, 422, 500, 503)
}

_bearer = HTTPBearer(
    auto_error=False, description="On one machine the token lies in the home folder."
)


def platform_of(request: Request) -> Platform:
    """The ports."""
    platform: Platform = request.app.state.platform
    return platform


def reports_of(request: Request) -> Reports:
    """What answers questions about the ledger."""
    reports: Reports = request.app.state.reports
    return reports


def verifications_of(request: Request) -> Verifications:
    """What knows of the last verification."""
    verifications: Verifications = request.app.state.verifications
    return verifications


def caller(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Identity:
    """Who asks.

    Raises:
        Unauthenticated: If there is no token, or it is nobody's.
    """
    told = request.headers.get(FORWARDED, "")
    scheme, _, token = told.partition(" ")
    if credentials is None and scheme.lower() == "bearer":
        # Through the API server's proxy, which keeps what is in Authorization to itself.
        credentials = HTTPAuthorizationCredentials(scheme=scheme, credentials=token.strip())
    if credentials is None:
        raise problems.Unauthenticated(
            "a bearer token must be given; found none. On one machine it lies in the home folder."
        )
    who: Identity = request.app.state.identify(credentials.credentials)
    if not who.roles:
        raise problems.Unauthenticated("the token must be somebody's; found one of nobody.")
    return who


def require(who: Identity, roles: tuple[Role, ...]) -> None:
    """Refuse a caller who holds none of the roles.

    Raises:
        Refused: If so.
    """
    if not who.holds(*roles):
        raise Refused(f"this needs one of the roles {', '.join(role.value for role in roles)}")


Caller = Annotated[Identity, Depends(caller)]
Ports = Annotated[Platform, Depends(platform_of)]
Asked = Annotated[Reports, Depends(reports_of)]
Known = Annotated[Verifications, Depends(verifications_of)]
