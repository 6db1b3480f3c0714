"""What each page shows, gathered from the ports. Every value is one that the API would show too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from primum.application import quoting, refusals, searching
from primum.application.platform import Platform
from primum.application.reports import (
    AS_FILTERED,
    IN_ADVANCE,
    BlockForecast,
    Burndown,
    Grouping,
    Reports,
    Sought,
)
from primum.application.searching import Order, Search
from primum.application.verifying import SignedPlace, Verifications, altered
from primum.domain.budget.book import LIVE_STATES
from primum.domain.budget.entries import (
    AccountView,
    EntryKind,
    ReservationState,
    ReservationView,
)
from primum.domain.errors import NotFound
from primum.entrypoints.api import questions
from primum.entrypoints.api.pages import charts, wording
from primum.entrypoints.api.pages.charts import Chart, Meter

ROWS = 50  # Per page: what people scroll through.
BUDGETS_MAX = 200  # On the overview; more are in the API.
BLOCKS_MAX = 200  # On one page.
LIVE_MAX = 200  # Reservations and claims on one page.
RELEASES_MAX = 500


@dataclass(frozen=True, slots=True)
class Verification:
    """What is known about the record, for the banner of every page.

    Args:
        level: ``intact``, ``behind``, ``never`` or ``broken``.
        head: Number of the last entry.
        seq: Up to which entry the last verification went; 0 for none.
        time: When it ended.
        since: Since when this process knows.
        contradictions: What it found; the first few.
        found: How many.
    """

    level: str
    head: int
    seq: int
    time: str
    since: str
    contradictions: tuple[str, ...]
    found: int


@dataclass(frozen=True, slots=True)
class Budget:
    """One account on a page."""

    view: AccountView
    names: tuple[str, ...]
    burndown: Burndown | None
    forecast: BlockForecast | None
    meter: Meter
    chart: Chart | None
    still_locked: str = ""  # How much of the block shown is not available yet.


@dataclass(frozen=True, slots=True)
class Held:
    """What is held or waits; ``waits_for`` is empty for what is held."""

    reservation: ReservationView
    epsilon: Decimal
    waits_for: str


def verification(platform: Platform, known: Verifications) -> Verification:
    """What is known about the record."""
    head, _ = platform.ledger.head()
    last = known.last
    if last is None:
        return Verification("never", head, 0, "", known.since, (), 0)
    if not last.intact:
        level = "broken"
    elif head < last.seq:
        level = "broken"  # Entries that were there have gone.
    else:
        level = "intact" if head == last.seq else "behind"
    gone = (
        f"The ledger must reach entry {last.seq}, which was verified; found its end at {head}.",
    )
    wrong = last.contradictions[:ROWS] or (gone if level == "broken" else ())
    found = max(last.found, len(wrong))
    return Verification(level, head, last.seq, last.time, known.since, wrong, found)


def overview(platform: Platform, reports: Reports) -> dict[str, Any]:
    """Every budget."""
    names = _names(platform)
    views = platform.ledger.accounts()
    shown = [_budget(platform, reports, view, names) for view in views[:BUDGETS_MAX]]
    return {"budgets": shown, "more": len(views) - len(shown)}


def budget(
    platform: Platform, reports: Reports, account_id: str, *, block: str, sought: Sought
) -> dict[str, Any]:
    """One budget in full.

    Raises:
        NotFound: If there is no such account or block.
    """
    view = platform.ledger.account(account_id)
    if view is None:
        raise NotFound(f"account {account_id[:64]} does not exist")
    shown = _budget(platform, reports, view, _names(platform), block=block)
    live = [
        item
        for item in platform.ledger.reservations(account_id=account_id)
        if item.state in LIVE_STATES
    ]
    chosen = shown.burndown.block if shown.burndown is not None else ""
    spending = {
        by.value: reports.spending(account_id, by=by, block=chosen, sought=sought).shares
        for by in (Grouping.REQUESTER, Grouping.GROUP, Grouping.STUDY, Grouping.PURPOSE)
        if chosen
    }
    refused = refusals.refused_claims(platform, account_id=account_id, order=Order.NEWEST, limit=5)
    forecasts = {item.block: item.forecast for item in reports.forecast(account_id)}
    return {
        "budget": shown,
        "forecasts": forecasts,
        "blocks": view.blocks[:BLOCKS_MAX],
        "more_blocks": max(0, len(view.blocks) - BLOCKS_MAX),
        "live": [_held(platform, item, view) for item in live[:LIVE_MAX]],
        "more_live": max(0, len(live) - LIVE_MAX),
        "spending": spending,
        "sought": sought,
        "refused": refused.items,
        "in_advance": IN_ADVANCE,
        "as_filtered": AS_FILTERED,
    }


def _held(platform: Platform, item: ReservationView, view: AccountView) -> Held:
    """A reservation, or a claim with what it waits for."""
    epsilon = questions.alone(item, view)
    if item.state is not ReservationState.QUEUED:
        return Held(item, epsilon, "")
    look = platform.ledger.outlook(item.account_id, item.event, blocks=item.blocks, asker=item)
    until = wording.capitalized(quoting.until(look.unlocks)) if look.unlocks else ""
    return Held(item, epsilon, "its turn" if look.now else f"{look.reason} {until}".strip())


def ledger(
    platform: Platform, search: Search, *, order: Order, cursor: int | None
) -> dict[str, Any]:
    """A page of entries."""
    page = searching.find(platform.ledger, search, order=order, cursor=cursor, limit=ROWS)
    wrong = altered([found.entry for found in page.items])
    names = _names(platform)
    views = platform.ledger.accounts()
    return {
        "found": page.items,
        "next": page.cursor,
        "wrong": wrong,
        "search": search,
        "order": order.value,
        "kinds": [kind.value for kind in EntryKind],
        "accounts": [(view.account_id, _title(view, names)) for view in views],
        "titles": {view.account_id: _title(view, names) for view in views},
    }


def refused(platform: Platform, *, account_id: str, cursor: int | None) -> dict[str, Any]:
    """A page of refusals, the newest first."""
    page = refusals.refused_claims(
        platform, account_id=account_id, order=Order.NEWEST, cursor=cursor, limit=ROWS
    )
    names = _names(platform)
    return {
        "claims": page.items,
        "next": page.cursor,
        "account": account_id,
        "plans": refusals.refused_plans(platform)[:ROWS] if cursor is None else (),
        "titles": {view.account_id: _title(view, names) for view in platform.ledger.accounts()},
    }


def releases(platform: Platform) -> dict[str, Any]:
    """Releases with their certificates."""
    stored = platform.resources.list("Release")[:RELEASES_MAX]
    return {
        "releases": [
            {
                "name": f"{item.key.namespace}/{item.key.name}",
                "kind": str(item.spec.get("kind", "")),
                "created": item.created,
                "claim": _claim(_part(item.spec.get("claim"))),
                "edges": [str(edge) for edge in _list(_part(item.spec.get("claim")), "voidEdges")],
                "study": str(_part(item.spec.get("study")).get("name", "")),
                "certificate": str(_part(item.spec.get("certificate")).get("digest", "")),
                "revoked": str(_part(item.spec.get("revocation")).get("reason", "")),
                "audit": str(item.status.get("lastAudit", "") or ""),
            }
            for item in stored
        ]
    }


def signed(known: Verifications) -> SignedPlace | None:
    """The newest signed checkpoint in the ledger."""
    return known.signed()


def _budget(
    platform: Platform,
    reports: Reports,
    view: AccountView,
    names: Mapping[str, Sequence[str]],
    *,
    block: str = "",
) -> Budget:
    mine = tuple(names.get(view.account_id, ()))
    meter = charts.meter(view.epsilon_spent, view.epsilon_reserved, view.terms.epsilon)
    if not view.blocks:
        return Budget(view, mine, None, None, meter, None)
    burndown = reports.burndown(view.account_id, block=block)
    (found,) = reports.forecast(view.account_id, block=burndown.block)
    chart = charts.burndown(burndown.points, now=platform.clock.now(), found=found.forecast)
    share = {item.name: item.unlocked_share for item in view.blocks}[burndown.block]
    locked = wording.percent(1 - share) if share < 1 else ""
    return Budget(view, mine, burndown, found, meter, chart, locked)


def _names(platform: Platform) -> dict[str, list[str]]:
    """The PrivacyBudgets of each account; one that was deleted has none, and its account stays."""
    found: dict[str, list[str]] = {}
    for stored in platform.resources.list("PrivacyBudget"):
        account = str(stored.status.get("accountId", ""))
        found.setdefault(account, []).append(f"{stored.key.namespace}/{stored.key.name}")
    return found


def _title(view: AccountView, names: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(names.get(view.account_id, ())) or view.terms.dataset_uri


def _claim(claim: Mapping[str, Any]) -> str:
    if claim.get("standing") != "Valid":
        return str(claim.get("standing", ""))
    return f"epsilon {claim.get('epsilon')}, delta {claim.get('delta')}, {claim.get('unit')}"


def _part(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = value.get(name, ())
    return found if isinstance(found, list | tuple) else ()
