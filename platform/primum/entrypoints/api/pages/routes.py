"""The pages' routes: sign in, look, ask for a verification, sign out."""

from __future__ import annotations

import http
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import FileResponse, Response

from primum.application.reports import Sought
from primum.application.searching import Order, Search
from primum.domain.budget.entries import EntryKind
from primum.domain.errors import InvalidValue, Refused
from primum.entrypoints.api.callers import (
    LEDGER_READERS,
    Asked,
    Known,
    Ports,
    require,
)
from primum.entrypoints.api.pages import views
from primum.entrypoints.api.pages.answers import (
    FOLDER,
    HEADERS,
    NotSignedIn,
    PageRoute,
    came_from_here,
    elsewhere,
    page,
)
from primum.entrypoints.api.pages.sessions import COOKIE, WHOLE_SECONDS, Session, Sessions
from primum.entrypoints.api.questions import NAME_MAX, Since, Until

FORM_BYTES_MAX = 16_384  # A token of an identity provider and a form's mark.
_STATIC = {"page.css": "text/css", "icon.svg": "image/svg+xml"}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


def install(app: FastAPI) -> None:
    """Serve the pages."""
    app.state.sessions = Sessions(app.state.identify)
    app.include_router(router)


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


def _session(request: Request) -> Session:
    """Who is signed in, with a role that reads the ledger.

    Raises:
        NotSignedIn: If nobody is.
        Refused: If the role is gone.
    """
    session = _sessions(request).of(request.cookies.get(COOKIE, ""))
    if session is None:
        raise NotSignedIn("somebody must be signed in; found nobody.")
    require(session.who, LEDGER_READERS)
    return session


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that a page of ours sent.

    Raises:
        Refused: If it came from elsewhere.
        InvalidValue: If it is too long.
    """
    if not came_from_here(request):
        raise Refused("a form must be sent from this page; found one from elsewhere")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES_MAX:
            raise InvalidValue("form", f"must have at most {FORM_BYTES_MAX} bytes", "more")
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
    return {name: values[0] for name, values in fields.items()}


Signed = Annotated[Session, Depends(_session)]
Form = Annotated[dict[str, str], Depends(_form)]


def _show(
    request: Request,
    name: str,
    *,
    session: Session,
    ports: Ports,
    known: Known,
    values: dict[str, Any],
) -> Response:
    shared = {
        "who": session.who,
        "form_token": session.form_token,
        "record": views.verification(ports, known),
        "here": request.url.path,
        "printed": ports.clock.now(),
    }
    return page(name, {**shared, **values})


@router.get("/login")
def ask_who(request: Request) -> Response:
    """Ask for a token."""
    if _sessions(request).of(request.cookies.get(COOKIE, "")) is not None:
        return elsewhere("/")
    return page("login.html", {"refused": ""})


@router.post("/login")
def sign_in(request: Request, form: Form) -> Response:
    """Begin a session for a token whose holder may read the ledger."""
    opened = _sessions(request).open(form.get("token", "").strip())
    if opened is None:
        text = "The token must be somebody's; found one of nobody."
        return page("login.html", {"refused": text}, status=http.HTTPStatus.UNAUTHORIZED)
    handle, who = opened
    if not who.holds(*LEDGER_READERS):
        _sessions(request).close(handle)
        needed = ", ".join(role.value for role in LEDGER_READERS)
        text = f"The token must carry one of the roles {needed}; found none of them."
        return page("login.html", {"refused": text}, status=http.HTTPStatus.FORBIDDEN)
    answer = elsewhere("/")
    answer.set_cookie(
        COOKIE,
        handle,
        max_age=int(WHOLE_SECONDS),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return answer


@router.post("/logout")
def sign_out(request: Request, form: Form) -> Response:
    """End the session."""
    handle = request.cookies.get(COOKIE, "")
    session = _sessions(request).of(handle)
    if session is not None:
        _require_ours(session, form)
        _sessions(request).close(handle)
    answer = elsewhere("/login")
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
    return answer


@router.post("/verify")
def verify(session: Signed, form: Form, known: Known) -> Response:
    """Verify the whole record, and say what came of it on every page."""
    _require_ours(session, form)
    known.run()
    return elsewhere("/verification")


def _require_ours(session: Session, form: dict[str, str]) -> None:
    if not session.sent_by_us(form.get("form_token", "")):
        raise Refused("a form must carry its session's mark; found another. Load the page again")


@router.get("/")
def overview(
    request: Request, session: Signed, ports: Ports, asked: Asked, known: Known
) -> Response:
    """Every budget."""
    return _show(
        request,
        "overview.html",
        session=session,
        ports=ports,
        known=known,
        values=views.overview(ports, asked),
    )


@router.get("/budgets/{account_id}")
def one_budget(
    request: Request,
    account_id: str,
    *,
    session: Signed,
    ports: Ports,
    asked: Asked,
    known: Known,
    block: Annotated[str, Query(max_length=64)] = "",
    since: Since = "",
    until: Until = "",
) -> Response:
    """One budget in full; its spending between two days."""
    sought = Sought(since=since, until=until)
    values = views.budget(ports, asked, account_id, block=block, sought=sought)
    return _show(request, "budget.html", session=session, ports=ports, known=known, values=values)


@router.get("/ledger")
def ledger(
    request: Request,
    *,
    session: Signed,
    ports: Ports,
    known: Known,
    account: Annotated[str, Query(max_length=64)] = "",
    kind: Annotated[str, Query(max_length=64)] = "",
    actor: Annotated[str, Query(max_length=NAME_MAX)] = "",
    study: Annotated[str, Query(max_length=NAME_MAX)] = "",
    since: Since = "",
    until: Until = "",
    order: Order = Order.NEWEST,
    cursor: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> Response:
    """Entries, searched."""
    kinds = tuple(item for item in EntryKind if item.value == kind)
    if kind and not kinds:
        raise InvalidValue("kind", "must be one of the ledger's", "another", "Choose one")
    search = Search(account, kinds, actor.strip(), study.strip(), since, until)
    values = views.ledger(ports, search, order=order, cursor=cursor)
    asked = {
        "account": account,
        "kind": kind,
        "actor": actor,
        "study": study,
        "since": since,
        "until": until,
        "order": order.value,
    }
    kept = {name: value for name, value in asked.items() if value}
    links = {
        "first_link": f"/ledger?{urlencode(kept)}" if cursor is not None else "",
        "next_link": (
            f"/ledger?{urlencode(kept | {'cursor': values['next']})}" if values["next"] else ""
        ),
    }
    return _show(
        request,
        "ledger.html",
        session=session,
        ports=ports,
        known=known,
        values={**values, **links, "asked": asked, "searched": _searched(asked, values["titles"])},
    )


def _searched(asked: dict[str, str], titles: dict[str, str]) -> list[str]:
    """What was searched for, in words: paper shows no form."""
    words = {
        "account": f"budget {titles.get(asked['account'], asked['account'])}",
        "kind": f"kind {asked['kind']}",
        "study": f"studies like {asked['study']}",
        "actor": f"actors like {asked['actor']}",
        "since": f"from {asked['since']}",
        "until": f"to {asked['until']}",
    }
    return [text for name, text in words.items() if asked[name]]


@router.get("/refusals")
def refused(
    request: Request,
    *,
    session: Signed,
    ports: Ports,
    known: Known,
    account: Annotated[str, Query(max_length=64)] = "",
    cursor: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> Response:
    """Refusals with their reasons."""
    values = views.refused(ports, account_id=account, cursor=cursor)
    more = {"account": account, "cursor": values["next"]}
    link = f"/refusals?{urlencode(more)}" if values["next"] else ""
    return _show(
        request,
        "refusals.html",
        session=session,
        ports=ports,
        known=known,
        values={**values, "next_link": link},
    )


@router.get("/releases")
def releases(request: Request, session: Signed, ports: Ports, known: Known) -> Response:
    """What was released, with its certificates."""
    return _show(
        request,
        "releases.html",
        session=session,
        ports=ports,
        known=known,
        values=views.releases(ports),
    )


@router.get("/verification")
def verification(request: Request, session: Signed, ports: Ports, known: Known) -> Response:
    """What is known about the record."""
    values = {"signed": views.signed(known)}
    return _show(
        request, "verification.html", session=session, ports=ports, known=known, values=values
    )


@router.get("/static/{name}")
def static(name: str) -> Response:
    """The style sheet and the icon."""
    if name not in _STATIC:
        return Response(status_code=http.HTTPStatus.NOT_FOUND, headers=dict(HEADERS))
    headers = {**HEADERS, "Cache-Control": "no-cache"}
    return FileResponse(FOLDER / "static" / name, media_type=_STATIC[name], headers=headers)
