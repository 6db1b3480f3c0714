"""Answers of the pages: templates, security headers, and errors as pages.

The only door to jinja2. Everything is escaped unless a template file itself says so, and none does.
"""

from __future__ import annotations

import functools
import http
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute

from primum.domain.errors import PrimumError, Tampered
from primum.entrypoints.api import problems
from primum.entrypoints.api.pages import wording

FOLDER = Path(__file__).parent
# No script, no frame, nothing from elsewhere; styles and the icon are files of ours.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class NotSignedIn(PrimumError):
    """Nobody is signed in."""


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(wording.FILTERS)
    return environment


def page(name: str, values: Mapping[str, Any], *, status: int = http.HTTPStatus.OK) -> HTMLResponse:
    """A page from a template."""
    text = _templates().get_template(name).render(values)
    return HTMLResponse(text, status_code=status, headers=dict(HEADERS))


def elsewhere(path: str) -> RedirectResponse:
    """See another page."""
    return RedirectResponse(path, status_code=http.HTTPStatus.SEE_OTHER, headers=dict(HEADERS))


def came_from_here(request: Request) -> bool:
    """Whether a form was sent from a page of this server, as far as the browser says.

    Browsers name the origin of every POST; a program without one has no cookie to abuse.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with its errors answered."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except NotSignedIn:
                return elsewhere("/login")
            except RequestValidationError:
                return _error("What was asked for cannot be read.", http.HTTPStatus.BAD_REQUEST)
            except Tampered as error:
                return _error(str(error), http.HTTPStatus.INTERNAL_SERVER_ERROR, shout="yes")
            except PrimumError as error:
                return _error(str(error), problems.status_of(error))

        return answered


def _error(detail: str, status: http.HTTPStatus, *, shout: str = "") -> HTMLResponse:
    values = {"detail": detail, "phrase": status.phrase, "shout": shout}
    return page("error.html", values, status=status)
