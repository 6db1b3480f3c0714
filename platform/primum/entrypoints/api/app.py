"""The ledger and evidence API: what people read and ask, and the doors of our own processes.

Nothing that people may ask spends, grants or releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse

from primum import __version__
from primum.adapters.identity import Identity
from primum.application import planning, quoting, releases, searching
from primum.application.platform import Platform
from primum.application.reports import Reports
from primum.application.searching import Detail, Search
from primum.application.verifying import Verifications
from primum.domain.budget.entries import AccountView, Entry, EntryKind
from primum.domain.errors import InvalidValue, NotFound, Refused
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Refusal
from primum.entrypoints.api import (
    audits,
    exports,
    metrics,
    problems,
    processes,
    questions,
    schemas,
    steps,
)
from primum.entrypoints.api.callers import (
    LEDGER_READERS,
    PROBLEMS,
    READERS,
    ZONE_READERS,
    Caller,
    Known,
    Ports,
    platform_of,
    require,
)
from primum.entrypoints.api.pages import routes
from primum.resources import conversion
from primum.resources.loading import load_text
from primum.resources.stored import unstored

BODY_BYTES_MAX = 262_144  # A Study is a few hundred bytes.
METRICS: dict[int | str, dict[str, Any]] = {
    405: PROBLEMS[405],
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Every count."},
    500: PROBLEMS[500],
    503: PROBLEMS[503],
}

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
    app.state.reports = Reports(platform)
    app.state.verifications = Verifications(platform)
    problems.install(app)
    app.include_router(router)
    app.include_router(questions.router)
    app.include_router(audits.router)
    app.include_router(steps.router)
    app.include_router(processes.router)
    routes.install(app)
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
    text = metrics.exposition(platform_of(request).ledger, request.app.state.figures)
    return Response(text, media_type=metrics.MEDIA_TYPE)


def _alive() -> schemas.Health:
    """Say that the process is alive."""
    return schemas.Health(status="alive")


def _ready(request: Request) -> schemas.Health:
    """Say that the ledger can be read."""
    platform_of(request).ledger.head()
    return schemas.Health(status="ready")


async def _body(request: Request) -> bytes:
    """The body, read no further than a Study can be long."""
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > BODY_BYTES_MAX:
            raise InvalidValue("body", f"must have at most {BODY_BYTES_MAX} bytes", "more")
    return found


@router.get("/accounts", tags=["ledger"])
def list_accounts(who: Caller, ports: Ports) -> list[schemas.Account]:
    """List every account with what is spent and what is left."""
    require(who, READERS)
    return [_account(view) for view in ports.ledger.accounts()]


@router.get("/accounts/{account_id}", tags=["ledger"])
def get_account(account_id: str, who: Caller, ports: Ports) -> schemas.Account:
    """Show one account."""
    require(who, READERS)
    view = ports.ledger.account(account_id)
    if view is None:
        raise NotFound(f"account {account_id[:64]} does not exist")
    return _account(view)


@router.get("/entries", tags=["ledger"])
def list_entries(
    *,
    who: Caller,
    ports: Ports,
    account: questions.AccountId = "",
    kind: Annotated[EntryKind | None, Query(description="One kind; all where absent.")] = None,
    actor: Annotated[questions.Name, Query(description="Part of who asked.")] = "",
    study: Annotated[questions.Name, Query(description="Part of the Study's name.")] = "",
    since: questions.Since = "",
    until: questions.Until = "",
    after: questions.After = 0,
    limit: questions.Limit = 100,
) -> schemas.EntryPage:
    """List entries in order of their number."""
    require(who, LEDGER_READERS)
    kinds = (kind,) if kind else ()
    search = Search(account, kinds, actor=actor, study=study, since=since, until=until)
    page = searching.find(ports.ledger, search, cursor=after, limit=limit, detail=Detail.NOTHING)
    return schemas.EntryPage(
        items=[_entry(found.entry) for found in page.items], next_after=page.cursor
    )


@router.get(
    "/entries.csv",
    tags=["ledger"],
    response_class=StreamingResponse,
    responses=exports.described(exports.CSV, "Every entry."),
)
def export_csv(who: Caller, ports: Ports) -> StreamingResponse:
    """Export every entry as CSV."""
    require(who, LEDGER_READERS)
    lines = exports.csv_lines(schemas.LedgerEntry, _all_entries(ports))
    return StreamingResponse(lines, media_type=exports.CSV)


@router.get(
    "/entries.jsonl",
    tags=["ledger"],
    response_class=StreamingResponse,
    responses=exports.described(exports.JSON_LINES, "Every entry."),
)
def export_lines(who: Caller, ports: Ports) -> StreamingResponse:
    """Export every entry as JSON lines."""
    require(who, LEDGER_READERS)
    return StreamingResponse(exports.json_lines(_all_entries(ports)), media_type=exports.JSON_LINES)


@router.get("/verification", tags=["ledger"])
def verify(who: Caller, known: Known) -> schemas.Verification:
    """Recompute the chain and every balance from the entries."""
    require(who, LEDGER_READERS)
    found = known.run()
    return schemas.Verification(
        entries=found.seq, head=found.head, contradictions=list(found.contradictions)
    )


@router.get("/studies/{namespace}/{name}/evidence", tags=["evidence"])
def list_evidence(
    namespace: str, name: str, who: Caller, ports: Ports
) -> list[schemas.EvidenceRecord]:
    """List a Study's evidence; figures that are Restricted only for stewards and auditors."""
    require(who, READERS)
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


@router.get("/releases/{namespace}/{name}/certificate", tags=["evidence"])
def get_certificate(
    namespace: str, name: str, who: Caller, ports: Ports
) -> schemas.ReleaseCertificate:
    """Give a release's certificate as it was signed, and say whether the release stands."""
    require(who, READERS)
    stored = ports.resources.get(ResourceKey("Release", namespace, name))
    envelope = releases.certificate_of(ports, stored) if stored is not None else {}
    if stored is None or not envelope:
        raise NotFound(f"Release {namespace[:64]}/{name[:64]} has no certificate")
    revocation = stored.spec.get("revocation")
    reason = revocation.get("reason", "") if isinstance(revocation, Mapping) else ""
    return schemas.ReleaseCertificate(envelope=dict(envelope), revoked=str(reason))


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
    require(who, READERS)
    found = load_text(body.decode("utf-8", errors="replace"), source="body")
    if len(found) != 1 or found[0].key.kind != "Study":
        raise InvalidValue("body", "must hold exactly one Study", len(found))
    try:
        answer = quoting.quote(
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
        fits=answer.fits,
        times=answer.times,
        refusal=answer.refusal,
        alternatives=list(answer.alternatives),
        waits=answer.waits,
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


def _all_entries(ports: Platform) -> Iterator[schemas.LedgerEntry]:
    after = 0
    while page := ports.ledger.entries(after=after, limit=searching.PAGE_MAX):
        yield from (_entry(entry) for entry in page)
        after = page[-1].seq
