"""Errors as problem documents (RFC 9457). The sentence of one of our errors is safe to show.

A foreign one is not.
"""

from __future__ import annotations

import http
from collections.abc import Awaitable, Callable, Mapping

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_BASE = "https://primum.dev/problems/"
FOUND_LENGTH_MAX = 200  # Of what an error found; its sentence shows less of it.

STATUS_OF: Mapping[type[PrimumError], http.HTTPStatus] = {
    InvalidValue: http.HTTPStatus.UNPROCESSABLE_ENTITY,
    UnsupportedEvent: http.HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: http.HTTPStatus.NOT_FOUND,
    Conflict: http.HTTPStatus.CONFLICT,
    Refused: http.HTTPStatus.FORBIDDEN,
    Tampered: http.HTTPStatus.INTERNAL_SERVER_ERROR,
    Unavailable: http.HTTPStatus.SERVICE_UNAVAILABLE,
}


class Unauthenticated(PrimumError):
    """No token, or nobody's."""


def install(app: FastAPI) -> None:
    """Answer every error with a problem document."""
    app.add_exception_handler(PrimumError, _ours)
    app.add_exception_handler(RequestValidationError, _request)
    app.add_exception_handler(HTTPException, _http)
    app.middleware("http")(_without_faults)


def problem(status: int, name: str, detail: str) -> JSONResponse:
    """One problem document."""
    body = {
        "type": TYPE_BASE + name,
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == http.HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def status_of(error: Exception) -> http.HTTPStatus:
    """The status that one of our errors is answered with."""
    return next(
        (found for kind, found in STATUS_OF.items() if isinstance(error, kind)),
        http.HTTPStatus.INTERNAL_SERVER_ERROR,
    )


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Unauthenticated):
        return problem(http.HTTPStatus.UNAUTHORIZED, "unauthenticated", str(error))
    return problem(status_of(error), type(error).__name__.lower(), str(error))


async def _request(_request: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    # The input itself is left out: a request may carry anything.
    named = "; ".join(f"{'.'.join(str(p) for p in item['loc'])}: {item['msg']}" for item in found)
    unreadable = any(item["type"] == "json_invalid" for item in found)
    status = http.HTTPStatus.BAD_REQUEST if unreadable else http.HTTPStatus.UNPROCESSABLE_ENTITY
    return problem(status, "request", named)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    answer = problem(status, "http", http.HTTPStatus(status).description or "no such thing")
    for name, value in (getattr(error, "headers", None) or {}).items():
        answer.headers[name] = value  # Such as Allow, which a 405 owes its caller.
    return answer


async def _without_faults(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Answer a fault of ours by its type alone: its text, and a traceback, may hold a value."""
    try:
        return await call_next(request)
    except Exception as error:  # noqa: BLE001 - the last door
        log.warning("a request failed", fault=type(error).__name__)
        return problem(http.HTTPStatus.INTERNAL_SERVER_ERROR, "fault", type(error).__name__)
