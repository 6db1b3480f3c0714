"""Questions people ask: burn-down, forecast, who spent what, why something was refused.

Every answer is read off the ledger. Nothing here spends, and no record-level value is known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from primum.application import refusals, searching
from primum.application.platform import Platform
from primum.application.reports import Grouping, Sought
from primum.application.searching import Found, Search
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.policies import policy_named
from primum.domain.budget.book import LIVE_STATES
from primum.domain.budget.entries import AccountView, EntryKind, ReservationView
from primum.domain.errors import NotFound
from primum.entrypoints.api import exports, schemas
from primum.entrypoints.api.callers import (
    LEDGER_READERS,
    PROBLEMS,
    READERS,
    Asked,
    Caller,
    Ports,
    require,
)

DAY = r"^(\d{4}-\d{2}-\d{2})?$"
NAME_MAX = 256  # Of a name that is searched for.

router = APIRouter(prefix="/v1", responses=PROBLEMS, tags=["ledger"])

Name = Annotated[str, Query(max_length=NAME_MAX)]
Block = Annotated[str, Query(max_length=64, description="The block; the fullest one where empty.")]
Since = Annotated[str, Query(pattern=DAY, description="First day (UTC).", examples=["2026-01-31"])]
Until = Annotated[str, Query(pattern=DAY, description="Last day (UTC).", examples=["2026-12-31"])]
After = Annotated[
    int, Query(ge=0, le=2**53, description="The cursor: nextAfter of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=searching.PAGE_MAX)]
AccountId = Annotated[str, Query(max_length=64, description="One account; all where empty.")]


def _charges(
    account: AccountId = "", study: Name = "", since: Since = "", until: Until = ""
) -> Search:
    """Which charges are asked for."""
    return Search(account, (EntryKind.CHARGED,), study=study, since=since, until=until)


Charges = Annotated[Search, Depends(_charges)]


@router.get("/accounts/{account_id}/burndown")
def burndown(account_id: str, who: Caller, asked: Asked, block: Block = "") -> schemas.Burndown:
    """Show how what is left of a block went down."""
    require(who, READERS)
    found = asked.burndown(account_id, block=block)
    return schemas.Burndown(
        account_id=found.account_id,
        block=found.block,
        blocks=list(found.blocks),
        points=[
            schemas.BurndownPoint(
                seq=point.seq,
                time=point.time,
                guarantee=str(point.guarantee),
                epsilon_charged=str(point.charged),
                epsilon_reserved=str(point.held),
                epsilon_left=str(point.left),
                running_bound=None if point.running_bound is None else str(point.running_bound),
            )
            for point in found.points
        ],
        running_bound_holds=found.running_bound_holds,
        epsilon_in_advance=None if found.in_advance is None else str(found.in_advance),
        more_like_the_last=found.more,
    )


@router.get("/accounts/{account_id}/forecast")
def forecast(
    account_id: str,
    who: Caller,
    asked: Asked,
    block: Annotated[
        str, Query(max_length=64, description="One block; the 200 fullest where empty.")
    ] = "",
) -> list[schemas.BlockForecast]:
    """Say when a block runs out at the pace of its last 90 days, or that nobody can know."""
    require(who, READERS)
    return [
        schemas.BlockForecast(
            block=item.block,
            prospect=item.forecast.prospect.value,
            since=item.forecast.since,
            days=item.forecast.days,
            charges=item.forecast.charges,
            expected=item.forecast.expected,
            earliest=item.forecast.earliest,
            latest=item.forecast.latest,
            more=item.forecast.more,
            message=item.forecast.message,
        )
        for item in asked.forecast(account_id, block=block)
    ]


@router.get("/accounts/{account_id}/spending")
def spending(
    account_id: str,
    *,
    who: Caller,
    asked: Asked,
    by: Annotated[Grouping, Query(description="What is put together.")] = Grouping.REQUESTER,
    block: Block = "",
    requester: Name = "",
    group: Name = "",
    study: Name = "",
    purpose: Annotated[str, Query(max_length=1024)] = "",
    since: Since = "",
    until: Until = "",
) -> schemas.SpendingReport:
    """Say who took how much of a block: by requester, group, Study or purpose."""
    require(who, LEDGER_READERS)
    sought = Sought(requester, group, study, purpose, since, until)
    found = asked.spending(account_id, by=by, block=block, sought=sought)
    return schemas.SpendingReport(
        account_id=found.account_id,
        block=found.block,
        by=found.by.value,
        since=found.since,
        until=found.until,
        shares=[
            schemas.Share(
                name=share.name,
                charges=share.charges,
                first=share.first,
                last=share.last,
                epsilon_alone=str(share.epsilon),
                share=str(share.share),
            )
            for share in found.shares
        ],
    )


@router.get("/accounts/{account_id}/reservations")
def reservations(account_id: str, who: Caller, ports: Ports) -> list[schemas.Holding]:
    """List what is held or waits, oldest first."""
    require(who, LEDGER_READERS)
    view = ports.ledger.account(account_id)
    if view is None:
        raise NotFound(f"account {account_id[:64]} does not exist")
    return [
        schemas.Holding(
            reservation_id=item.reservation_id,
            state=item.state.value,
            study=item.study,
            requester=item.requester,
            group=item.group,
            purpose=item.purpose,
            blocks=list(item.blocks),
            until=item.lease_until,
            epsilon_alone=str(alone(item, view)),
        )
        for item in ports.ledger.reservations(account_id=account_id)
        if item.state in LIVE_STATES
    ]


@router.get("/spending")
def list_charges(
    *,
    who: Caller,
    ports: Ports,
    search: Charges,
    after: After = 0,
    limit: Limit = 100,
) -> schemas.ChargePage:
    """List single charges in order of their entry: who spent what on what, and when."""
    require(who, LEDGER_READERS)
    page = searching.find(ports.ledger, search, cursor=after, limit=limit)
    rows = _Rows(ports)
    return schemas.ChargePage(
        items=[rows.charge(found) for found in page.items], next_after=page.cursor
    )


@router.get(
    "/spending.csv",
    response_class=StreamingResponse,
    responses=exports.described(exports.CSV, "Every charge."),
)
def export_charges_csv(
    *,
    who: Caller,
    ports: Ports,
    search: Charges,
) -> StreamingResponse:
    """Export every charge as CSV."""
    require(who, LEDGER_READERS)
    rows = _every_charge(ports, search)
    return StreamingResponse(exports.csv_lines(schemas.ChargeRow, rows), media_type=exports.CSV)


@router.get(
    "/spending.jsonl",
    response_class=StreamingResponse,
    responses=exports.described(exports.JSON_LINES, "Every charge."),
)
def export_charges_lines(
    *,
    who: Caller,
    ports: Ports,
    search: Charges,
) -> StreamingResponse:
    """Export every charge as JSON lines."""
    require(who, LEDGER_READERS)
    rows = _every_charge(ports, search)
    return StreamingResponse(exports.json_lines(rows), media_type=exports.JSON_LINES)


@router.get("/refusals")
def list_refusals(
    who: Caller, ports: Ports, account: AccountId = "", after: After = 0, limit: Limit = 100
) -> schemas.RefusalPage:
    """List what the ledger refused, with reasons, in order of the entry."""
    require(who, LEDGER_READERS)
    page = refusals.refused_claims(ports, account_id=account, cursor=after, limit=limit)
    return schemas.RefusalPage(
        items=[
            schemas.RefusalRow(
                seq=item.seq,
                time=item.time,
                account_id=item.account_id,
                dataset_uri=item.dataset,
                blocks=list(item.blocks),
                study=item.study,
                requester=item.requester,
                group=item.group,
                purpose=item.purpose,
                code=item.code,
                reason=item.reason,
                epsilon_alone=None if item.epsilon is None else str(item.epsilon),
                told=item.told,
            )
            for item in page.items
        ],
        next_after=page.cursor,
    )


@router.get("/refusals/plans")
def list_refused_plans(who: Caller, ports: Ports) -> list[schemas.PlanRefusal]:
    """List Studies that were refused before the ledger was asked; the newest 500."""
    require(who, LEDGER_READERS)
    return [
        schemas.PlanRefusal(
            study=item.study,
            generation=item.generation,
            stage=item.stage,
            reason=item.reason,
            message=item.message,
        )
        for item in refusals.refused_plans(ports)
    ]


def alone(reservation: ReservationView, view: AccountView) -> Decimal:
    """What a reservation took, or would take, alone, as its account's filter counts."""
    charge = reservation.charged or reservation.charge
    guarantee = Guarantee(view.terms.epsilon, view.terms.delta)
    return policy_named(view.terms.policy).spent_epsilon(used=charge, guarantee=guarantee)


def _every_charge(ports: Platform, search: Search) -> Iterator[schemas.ChargeRow]:
    rows, after = _Rows(ports), 0
    while True:
        page = searching.find(ports.ledger, search, cursor=after, limit=searching.PAGE_MAX)
        yield from (rows.charge(found) for found in page.items)
        if page.cursor is None:
            return
        after = page.cursor


class _Rows:
    """Makes rows; reads each account once."""

    def __init__(self, ports: Platform) -> None:
        self._ports = ports
        self._views: dict[str, AccountView | None] = {}

    def charge(self, found: Found) -> schemas.ChargeRow:
        entry, reservation = found.entry, found.reservation
        if entry.account_id not in self._views:
            self._views[entry.account_id] = self._ports.ledger.account(entry.account_id)
        view = self._views[entry.account_id]
        if reservation is None or view is None:
            raise NotFound(f"entry {entry.seq} must name a reservation; found none")
        return schemas.ChargeRow(
            seq=entry.seq,
            time=entry.time,
            account_id=entry.account_id,
            dataset_uri=view.terms.dataset_uri,
            blocks=list(reservation.blocks),
            study=reservation.study,
            requester=reservation.requester,
            group=reservation.group,
            purpose=reservation.purpose,
            reservation_id=entry.reservation_id,
            epsilon_alone=str(alone(reservation, view)),
            reason=reservation.reason,
        )
