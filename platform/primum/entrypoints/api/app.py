"""The ledger and evidence API. Reads, and quotes; nothing here spends, grants or releases."""

from __future__ import annotations

import csv
import http
import io
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic.alias_generators import to_camel

from primum import __version__
from primum.adapters.identity import Identity, Role
from primum.application import planning
from primum.application.platform import Platform
from primum.domain.budget.entries import AccountView, Entry
from primum.domain.errors import InvalidValue, NotFound, Refused
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Refusal
from primum.entrypoints.api import metrics, problems, schemas
from primum.resources import conversion
from primum.resources.loading import load_text
from primum.resources.stored import unstored

READERS = (Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR, Role.ENGINEER, Role.SCIENTIST)
LEDGER_READERS = (Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR)
ZONE_READERS = (Role.STEWARD, Role.AUDITOR)
PAGE_MAX = 1000
BODY_BYTES_MAX = 262_144  # A Study is a few hundred bytes.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {
        "description": http.HTTPStatus(code).phrase,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for code in (400, 401, 403, 404, 405, 422, 500, 503)
}
METRICS: dict[int | str, dict[str, Any]] = {
    405: PROBLEMS[405],
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Every count."},
    500: PROBLEMS[500],
    503: PROBLEMS[503],
}


def _text(media_type: str) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string"}}}
    return {200: {"description": "Every entry.", "content": content}}


router = APIRouter(prefix="/v1", responses=PROBLEMS)


def create_app(
    platform: Platform,
    identify: Callable[[str], Identity],
    *,
    figures: Mapping[str, Callable[[], int]] = MappingProxyType({}),
) -> FastAPI:
    """The application over a platform's ports.

    Args:
        platform: The ports.
        identify: Whose token it is.
        figures: Counts that ``/metrics`` shows besides the ledger's.
    """
    app = FastAPI(
        title="Primum ledger and evidence",
        version=__version__,
        description=(
            "Who spent what on what, what is left, whether the record is intact, "
            "and what was found."
        ),
        # The usual pages load scripts from elsewhere; /openapi.json is the contract.
        docs_url=None,
        redoc_url=None,
    )
    app.state.platform = platform
    app.state.identify = identify
    app.state.figures = figures
    problems.install(app)
    app.include_router(router)
    app.add_api_route(
        "/healthz", _alive, response_model=schemas.Health, tags=["health"], responses=PROBLEMS
    )
    app.add_api_route(
        "/readyz", _ready, response_model=schemas.Health, tags=["health"], responses=PROBLEMS
    )
    app.add_api_route(
        "/metrics", _metrics, response_class=Response, tags=["health"], responses=METRICS
    )
    made = app.openapi
    app.openapi = lambda: _with_problems(made())  # type: ignore[method-assign]
    return app


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the shape of problems, which no route returns as its model."""
    shapes = document.setdefault("components", {}).setdefault("schemas", {})
    shapes.setdefault("Problem", schemas.Problem.model_json_schema())
    return document


def _metrics(request: Request) -> Response:
    """Counts in Prometheus' text format; they say nothing about data, so no token is asked for."""
    text = metrics.exposition(_platform(request).ledger, request.app.state.figures)
    return Response(text, media_type=metrics.MEDIA_TYPE)


def _alive() -> schemas.Health:
    """Say that the process is alive."""
    return schemas.Health(status="alive")


def _ready(request: Request) -> schemas.Health:
    """Say that the ledger can be read."""
    _platform(request).ledger.head()
    return schemas.Health(status="ready")


def _platform(request: Request) -> Platform:
    platform: Platform = request.app.state.platform
    return platform


_bearer = HTTPBearer(
    auto_error=False, description="On one machine the token lies in the home folder."
)


def caller(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Identity:
    """Who asks."""
    if credentials is None:
        raise problems.Unauthenticated(
            "a bearer token must be given; found none. On one machine it lies in the home folder."
        )
    who: Identity = request.app.state.identify(credentials.credentials)
    if not who.roles:
        raise problems.Unauthenticated("the token must be somebody's; found one of nobody.")
    return who


Caller = Annotated[Identity, Depends(caller)]
Ports = Annotated[Platform, Depends(_platform)]


async def _body(request: Request) -> bytes:
    """The body, read no further than a Study can be long."""
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > BODY_BYTES_MAX:
            raise InvalidValue("body", f"must have at most {BODY_BYTES_MAX} bytes", "more")
    return found


def _require(who: Identity, roles: tuple[Role, ...]) -> None:
    if not who.holds(*roles):
        raise Refused(f"this needs one of the roles {', '.join(role.value for role in roles)}")


@router.get("/accounts", tags=["ledger"])
def list_accounts(who: Caller, ports: Ports) -> list[schemas.Account]:
    """List every account with what is spent and what is left."""
    _require(who, READERS)
    return [_account(view) for view in ports.ledger.accounts()]


@router.get("/accounts/{account_id}", tags=["ledger"])
def get_account(account_id: str, who: Caller, ports: Ports) -> schemas.Account:
    """Show one account."""
    _require(who, READERS)
    view = ports.ledger.account(account_id)
    if view is None:
        raise NotFound(f"account {account_id[:64]} does not exist")
    return _account(view)


@router.get("/entries", tags=["ledger"])
def list_entries(
    who: Caller,
    ports: Ports,
    account: Annotated[str, Query(max_length=64)] = "",
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> schemas.EntryPage:
    """List entries in order of their number."""
    _require(who, LEDGER_READERS)
    found = ports.ledger.entries(account_id=account, after=after, limit=limit)
    full = len(found) == limit
    return schemas.EntryPage(
        items=[_entry(e) for e in found], next_after=found[-1].seq if full else None
    )


@router.get(
    "/entries.csv", tags=["ledger"], response_class=StreamingResponse, responses=_text("text/csv")
)
def export_csv(who: Caller, ports: Ports) -> StreamingResponse:
    """Export every entry as CSV."""
    _require(who, LEDGER_READERS)
    return StreamingResponse(_csv(ports), media_type="text/csv")


@router.get(
    "/entries.jsonl",
    tags=["ledger"],
    response_class=StreamingResponse,
    responses=_text("application/x-ndjson"),
)
def export_lines(who: Caller, ports: Ports) -> StreamingResponse:
    """Export every entry as JSON lines."""
    _require(who, LEDGER_READERS)
    lines = (_entry(e).model_dump_json(by_alias=True) + "\n" for e in _all_entries(ports))
    return StreamingResponse(lines, media_type="application/x-ndjson")


@router.get("/verification", tags=["ledger"])
def verify(who: Caller, ports: Ports) -> schemas.Verification:
    """Recompute the chain and every balance from the entries."""
    _require(who, LEDGER_READERS)
    seq, head = ports.ledger.head()
    found = list(ports.ledger.verify(public_key=ports.signer.public_key()))
    return schemas.Verification(entries=seq, head=head, contradictions=found)


@router.get("/studies/{namespace}/{name}/evidence", tags=["evidence"])
def list_evidence(
    namespace: str, name: str, who: Caller, ports: Ports
) -> list[schemas.EvidenceRecord]:
    """List a Study's evidence; figures that are Restricted only for stewards and auditors."""
    _require(who, READERS)
    stored = ports.resources.get(ResourceKey("Study", namespace, name))
    if stored is None:
        raise NotFound(f"Study {namespace[:64]}/{name[:64]} does not exist")
    inside = who.holds(*ZONE_READERS)
    return [
        schemas.EvidenceRecord(
            kind=item.kind.value,
            name=item.name,
            verdict=item.verdict.value if item.verdict else None,
            digest=item.digest,
            public=dict(item.public),
            restricted=dict(item.restricted) if inside else None,
        )
        for item in ports.evidence.evidence(stored.uid, stored.generation)
    ]


@router.post(
    "/quotes",
    tags=["ledger"],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/yaml": {"schema": {"type": "string"}}},
        }
    },
)
def quote(who: Caller, ports: Ports, body: Annotated[bytes, Depends(_body)]) -> schemas.QuoteAnswer:
    """Say what one Study would cost and whether it fits. Spends nothing."""
    _require(who, READERS)
    found = load_text(body.decode("utf-8", errors="replace"), source="body")
    if len(found) != 1 or found[0].key.kind != "Study":
        raise InvalidValue("body", "must hold exactly one Study", len(found))
    try:
        answer = planning.quote(
            ports, conversion.study_spec(unstored(found[0].key, found[0].spec_mapping()))
        )
    except planning.Blocked as blocked:
        raise NotFound(blocked.refusal.message) from None
    if isinstance(answer, Refusal):
        raise Refused(f"{answer.reason.value}: {answer.message}")
    return schemas.QuoteAnswer(
        study=str(found[0].key),
        plan=answer.headline,
        epsilon=str(answer.plan.epsilon),
        delta=str(answer.plan.delta),
        epsilon_left=str(answer.epsilon_left),
        times=answer.times,
        refusal=answer.refusal,
        alternatives=list(answer.alternatives),
    )


def _account(view: AccountView) -> schemas.Account:
    return schemas.Account(
        account_id=view.account_id,
        dataset_uri=view.terms.dataset_uri,
        unit=view.terms.unit.value,
        neighbors=view.terms.neighbors.value,
        policy=view.terms.policy,
        epsilon=str(view.terms.epsilon),
        delta=str(view.terms.delta),
        epsilon_charged=str(view.epsilon_spent),
        epsilon_reserved=str(view.epsilon_reserved),
        epsilon_left=str(view.epsilon_left),
        frozen=view.frozen,
    )


def _entry(entry: Entry) -> schemas.LedgerEntry:
    return schemas.LedgerEntry(
        seq=entry.seq,
        prev_hash=entry.prev_hash,
        account_id=entry.account_id,
        kind=entry.kind.value,
        reservation_id=entry.reservation_id,
        idempotency_key=entry.idempotency_key,
        actor=entry.actor,
        time=entry.time,
        payload=dict(entry.payload),
        hash=entry.hash,
    )


def _all_entries(ports: Platform) -> Iterator[Entry]:
    after = 0
    while page := ports.ledger.entries(after=after, limit=PAGE_MAX):
        yield from page
        after = page[-1].seq


def _csv(ports: Platform) -> Iterator[str]:
    columns = list(schemas.LedgerEntry.model_fields)
    yield _line([to_camel(name) for name in columns])
    for entry in _all_entries(ports):
        shown = _entry(entry)
        cells = [getattr(shown, name) for name in columns]
        yield _line(
            [
                json.dumps(cell, sort_keys=True) if isinstance(cell, dict) else str(cell)
                for cell in cells
            ]
        )


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([_harmless(cell) for cell in cells])
    return buffer.getvalue()


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet will not run as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell
