"""What the API sends, as models: the source of its OpenAPI document.

Decimal strings, never floats.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Shown(BaseModel):
    """Base of everything sent: camelCase, closed."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str = Field(description="type is a URI naming the kind of problem.")
    title: str = Field(description="title is the HTTP status in words.")
    status: int = Field(description="status is the HTTP status.")
    detail: str = Field(description="detail is one sentence: name, rule, found, remedy.")


class Account(Shown):
    """One account of the ledger."""

    account_id: str
    dataset_uri: str
    unit: str
    neighbors: str
    policy: str
    epsilon: str = Field(description="epsilon is the guarantee's.")
    delta: str = Field(description="delta is the guarantee's.")
    epsilon_charged: str = Field(
        description=(
            "epsilonCharged is what is spent, as the accounting policy counts Studies that were "
            "chosen one after the other."
        )
    )
    epsilon_reserved: str = Field(
        description="epsilonReserved is the same with open reservations included."
    )
    epsilon_left: str
    frozen: str = Field(description="frozen is why nothing is granted, or empty.")


class LedgerEntry(Shown):
    """One line of the ledger."""

    seq: int
    prev_hash: str
    account_id: str
    kind: str
    reservation_id: str
    idempotency_key: str
    actor: str
    time: str
    payload: dict[str, Any]
    hash: str


class EntryPage(Shown):
    """A page of entries. The ledger only grows, so a page after a number never changes."""

    items: list[LedgerEntry]
    next_after: int | None = Field(
        description="nextAfter is the cursor of the next page, or null at the end."
    )


class Verification(Shown):
    """Whether the record is intact."""

    entries: int
    head: str
    contradictions: list[str]


class BurndownPoint(Shown):
    """How a block stood right after an entry."""

    seq: int = Field(description="seq is the number of the entry.")
    time: str
    guarantee: str = Field(description="guarantee is the epsilon promised at that time.")
    epsilon_charged: str = Field(
        description="epsilonCharged is what was spent, as the filter counts."
    )
    epsilon_reserved: str = Field(
        description="epsilonReserved is the same with open reservations included."
    )
    epsilon_left: str
    running_bound: str | None = Field(
        description=(
            "runningBound is an odometer: it bounds the privacy loss at every moment at once, "
            "under adaptive choices. Null where none is defined. It may exceed the guarantee, "
            "which speaks for the end and not for every moment."
        )
    )


class Burndown(Shown):
    """How what is left of one block went down; at most 241 points."""

    account_id: str
    block: str = Field(
        description="block is the one shown; the fullest unless asked.", examples=["whole"]
    )
    blocks: list[str] = Field(description="blocks are all there are, the fullest first.")
    points: list[BurndownPoint]
    running_bound_holds: str = Field(
        description="runningBoundHolds is the assumption of runningBound, or why there is none."
    )
    epsilon_in_advance: str | None = Field(
        description=(
            "epsilonInAdvance is what an accountant would say of everything charged if the plan "
            "had been fixed in advance. It was not: do not compare it with the guarantee."
        )
    )
    more_like_the_last: int | None = Field(
        description=(
            "moreLikeTheLast is how many further Studies like the last charged one fit, up to "
            "1000; null where nothing was charged yet."
        ),
        examples=[5],
    )


class BlockForecast(Shown):
    """When one block runs out, if Studies go on coming at one rate and costing alike."""

    block: str = Field(examples=["whole"])
    prospect: str = Field(
        description=(
            "prospect is RunsOut, BeyondHorizon (more than ten years), NothingSpent, "
            "NotEnoughHistory or Exhausted. Only RunsOut has dates."
        ),
        examples=["RunsOut"],
    )
    since: str = Field(description="since is when the trailing window began.")
    days: float = Field(description="days is the window's length.", examples=[90.0])
    charges: int = Field(description="charges is how many it holds.", examples=[7])
    expected: str = Field(description="expected is when it runs out, or empty.")
    earliest: str = Field(description="earliest is the same at the upper end of the pace.")
    latest: str = Field(description="latest is the same at its lower end; empty beyond ten years.")
    more: int | None = Field(
        description="more is how many further charges like the window's average fit."
    )
    message: str


class Share(Shown):
    """What one name took of a block."""

    name: str = Field(examples=["oncology/malignancy"])
    charges: int
    first: str
    last: str
    epsilon_alone: str = Field(
        description=(
            "epsilonAlone is what these charges would cost alone, as the filter counts. Does not "
            "add up over names."
        )
    )
    share: str = Field(
        description="share is their part of everything charged to the block; adds up.",
        examples=["0.4286"],
    )


class SpendingReport(Shown):
    """Who took how much of a block, the most first."""

    account_id: str
    block: str
    by: str
    since: str
    until: str
    shares: list[Share]


class ChargeRow(Shown):
    """One charge: who spent what on what, and when."""

    seq: int
    time: str
    account_id: str
    dataset_uri: str
    blocks: list[str]
    study: str
    requester: str
    group: str
    purpose: str
    reservation_id: str
    epsilon_alone: str = Field(
        description="epsilonAlone is what it would cost alone, as the account's filter counts."
    )
    reason: str


class ChargePage(Shown):
    """A page of charges. The ledger only grows, so a page after a number never changes."""

    items: list[ChargeRow]
    next_after: int | None = Field(
        description=(
            "nextAfter is the cursor of the next page, or null at the end. A page may be shorter "
            "than asked for, or empty, and still have a next one."
        )
    )


class RefusalRow(Shown):
    """One claim that the ledger refused, or that waited too long."""

    seq: int
    time: str
    account_id: str
    dataset_uri: str
    blocks: list[str]
    study: str
    requester: str
    group: str
    purpose: str
    code: str = Field(examples=["OverBudget"])
    reason: str = Field(
        description=(
            "reason says how much was missing under which accountant, and when it would unlock."
        )
    )
    epsilon_alone: str | None = Field(
        description="epsilonAlone is what was asked for, alone, as the account's filter counts."
    )
    told: str = Field(description="told is what the Study was told, with what would fit.")


class RefusalPage(Shown):
    """A page of refusals. The ledger only grows, so a page after a number never changes."""

    items: list[RefusalRow]
    next_after: int | None = Field(
        description="nextAfter is the cursor of the next page, or null at the end."
    )


class PlanRefusal(Shown):
    """A Study that was refused before the ledger was asked."""

    study: str
    generation: int
    stage: str
    reason: str
    message: str


class Holding(Shown):
    """A reservation that is open, or a claim that waits."""

    reservation_id: str
    state: str = Field(examples=["Exposed"])
    study: str
    requester: str
    group: str
    purpose: str
    blocks: list[str]
    until: str = Field(description="until is when its lease, or its wait, ends.")
    epsilon_alone: str


class EvidenceRecord(Shown):
    """One evidence record, as far as the caller's role reaches."""

    kind: str
    name: str
    verdict: str | None
    digest: str
    public: dict[str, Any]
    restricted: dict[str, Any] | None = Field(
        description="restricted is null unless the role may read it."
    )


class PastAudit(Shown):
    """How one audit of a release ended."""

    audit_run: str
    attack: str
    causes: list[str] = Field(description="causes is why it ran; empty where somebody asked.")
    verdict: str
    reason: str
    comparison: str = Field(description="comparison is with the run of the same settings before.")
    at: str
    figure: str | None = Field(
        description="figure is what was compared, with its interval; null unless the role may."
    )


class MissedAudits(Shown):
    """Due times of audits that were given up."""

    count: int
    until: str = Field(description="until is the last of them.")


class AuditHistory(Shown):
    """Every audit of a release, oldest first."""

    audits: list[PastAudit]
    missed: list[MissedAudits]


class ReleaseCertificate(Shown):
    """What is promised about a release, as it was signed."""

    envelope: dict[str, Any] = Field(description="envelope is the DSSE envelope.")
    revoked: str = Field(description="revoked is why the release was taken back, or empty.")


class QuoteAnswer(Shown):
    """What a Study would cost."""

    study: str
    plan: str
    epsilon: str
    delta: str
    epsilon_left: str
    fits: bool = Field(description="fits is whether one would be granted now.")
    times: int = Field(
        description="times is how many such Studies fit into what is left, unlocked or not.",
        examples=[5],
    )
    refusal: str = Field(description="refusal is what is missing, or empty.")
    alternatives: list[str] = Field(
        description="alternatives are changes of the Study, each of which would be granted now.",
        examples=[["noise multiplier 2.1311 (epsilon 1.61)", "7 epochs (epsilon 1.62)"]],
    )
    waits: str = Field(
        description="waits is until when to wait instead, or empty where waiting does not help.",
        examples=["budget wisconsin: wait until 2026-12-01 00:00 UTC, if nobody else takes it"],
    )


class Health(Shown):
    """Whether the process is alive, or ready."""

    status: str
